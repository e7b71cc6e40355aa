#include "block/formats/qcow2/options.h"

#include <fmt/format.h>

#include <bit>
#include <optional>

#include "block/formats/encryption.h"
#include "block/formats/qcow2/cache_cleaner.h"
#include "block/graph/option_text.h"
#include "qmp/schema/scalar_text.h"
#include "schema/blockdev_options.h"

namespace blockbed::qcow2 {

namespace {

// Enough for 256 GiB with clusters of 64 KiB.
constexpr uint64_t kDefaultL2CacheMax = uint64_t{32} << 20;
constexpr uint64_t kMinRefcountClusters = 4;
constexpr uint64_t kMinL2Pieces = 2;
constexpr uint64_t kMinEntryBytes = 512;

struct CacheBytes {
  uint64_t l2 = 0;
  uint64_t refcount = 0;
  uint64_t entry = 0;
};

Expected<CacheBytes> cache_bytes(const schema::BlockdevOptionsQcow2& o, const Header& header) {
  const uint64_t cluster = header.cluster_size();
  auto combined = size_option("cache-size", o.cache_size);
  if (!combined) return std::unexpected(combined.error());
  auto l2 = size_option("l2-cache-size", o.l2_cache_size);
  if (!l2) return std::unexpected(l2.error());
  auto refcount = size_option("refcount-cache-size", o.refcount_cache_size);
  if (!refcount) return std::unexpected(refcount.error());
  auto entry = size_option("l2-cache-entry-size", o.l2_cache_entry_size);
  if (!entry) return std::unexpected(entry.error());

  const uint64_t entry_width = header.extended_l2() ? 16 : 8;
  // What covers the whole disk, in tables of one cluster.
  const uint64_t covering = align_up(divide_up(header.size, cluster) * entry_width, cluster);
  const uint64_t l2_max = l2->value_or(kDefaultL2CacheMax);
  CacheBytes result;
  result.refcount = refcount->value_or(0);
  if (*combined) {
    const uint64_t total = **combined;
    if (*l2 && *refcount) {
      return fail(
          "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    }
    if (*l2 && l2_max > total) return fail("l2-cache-size may not exceed cache-size");
    if (result.refcount > total) return fail("refcount-cache-size may not exceed cache-size");
    if (*l2) {
      result.l2 = l2_max;
      result.refcount = total - result.l2;
    } else if (*refcount) {
      result.l2 = total - result.refcount;
    } else {
      const uint64_t min_refcount = kMinRefcountClusters * cluster;
      // The L2 cache gets what it can use; the refcount cache the rest, or its least when that is
      // not there.
      if (total >= covering + min_refcount) {
        result.l2 = covering;
        result.refcount = total - covering;
      } else {
        result.refcount = std::min(total, min_refcount);
        result.l2 = total - result.refcount;
      }
    }
  } else {
    result.l2 = std::min(covering, l2_max);
  }
  // Small pieces are best for random access; nothing speaks for larger ones in this cache.
  result.entry = entry->value_or(std::min<uint64_t>(kDefaultL2PieceBytes, cluster));
  if (result.entry < kMinEntryBytes || result.entry > cluster ||
      !std::has_single_bit(result.entry)) {
    return fail(fmt::format(
        "L2 cache entry size must be a power of two between {} and the cluster size ({})",
        kMinEntryBytes, cluster));
  }
  return result;
}

Expected<uint32_t> overlap_mask(const std::optional<schema::Qcow2OverlapChecks>& option) {
  if (!option) return overlap::kCached;
  auto of_mode = [](schema::Qcow2OverlapCheckMode mode) {
    switch (mode) {
      case schema::Qcow2OverlapCheckMode::kNone:
        return overlap::kNone;
      case schema::Qcow2OverlapCheckMode::kConstant:
        return overlap::kConstant;
      case schema::Qcow2OverlapCheckMode::kCached:
        return overlap::kCached;
      case schema::Qcow2OverlapCheckMode::kAll:
        return overlap::kAll;
    }
    return overlap::kCached;
  };
  if (const auto* mode = std::get_if<schema::Qcow2OverlapCheckMode>(&option->u)) {
    return of_mode(*mode);
  }
  const auto& flags = std::get<schema::Qcow2OverlapCheckFlags>(option->u);
  uint32_t mask = of_mode(flags.template_.value_or(schema::Qcow2OverlapCheckMode::kCached));
  auto apply = [&mask](const std::optional<bool>& flag, uint32_t bit) {
    if (flag) mask = *flag ? mask | bit : mask & ~bit;
  };
  apply(flags.main_header, overlap::kMainHeader);
  apply(flags.active_l1, overlap::kActiveL1);
  apply(flags.active_l2, overlap::kActiveL2);
  apply(flags.refcount_table, overlap::kRefcountTable);
  apply(flags.refcount_block, overlap::kRefcountBlock);
  apply(flags.snapshot_table, overlap::kSnapshotTable);
  apply(flags.inactive_l1, overlap::kInactiveL1);
  apply(flags.inactive_l2, overlap::kInactiveL2);
  apply(flags.bitmap_directory, overlap::kBitmapDirectory);
  return mask;
}

}  // namespace

Expected<MetadataOptions> parse_options(const schema::BlockdevOptionsQcow2& options,
                                        const Header& header, bool writable, bool unmap) {
  MetadataOptions result;
  result.writable = writable;
  auto bytes = cache_bytes(options, header);
  if (!bytes) return std::unexpected(std::move(bytes).error());
  const uint64_t cluster = header.cluster_size();
  result.l2_piece_bytes = static_cast<uint32_t>(bytes->entry);
  const uint64_t l2_pieces = std::max(bytes->l2 / bytes->entry, kMinL2Pieces);
  if (l2_pieces > INT32_MAX) return fail("L2 cache size too big");
  const uint64_t refcount_clusters = std::max(bytes->refcount / cluster, kMinRefcountClusters);
  if (refcount_clusters > INT32_MAX) return fail("Refcount cache size too big");
  // A cache that covers the disk has room for all of it changed, and for what must stay clean.
  result.l2_pieces = l2_pieces + 2 * TableCache::kAlwaysClean;
  const uint64_t refcount_piece = std::min<uint64_t>(kRefcountPieceBytes, cluster);
  result.refcount_pieces = refcount_clusters * (cluster / refcount_piece);

  if (options.cache_clean_interval &&
      (*options.cache_clean_interval < 0 || *options.cache_clean_interval > UINT32_MAX)) {
    return fail("Cache clean interval too big");
  }
  result.cache_clean_seconds =
      static_cast<uint32_t>(options.cache_clean_interval.value_or(kDefaultCacheCleanSeconds));
  result.lazy_refcounts = options.lazy_refcounts.value_or(
      (header.compatible_features & compatible::kLazyRefcounts) != 0);
  if (result.lazy_refcounts && header.version < 3) {
    return fail("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
  }
  result.discard_no_unref = options.discard_no_unref.value_or(false);
  if (result.discard_no_unref && header.version < 3) {
    return fail("discard-no-unref is only supported since qcow2 version 3");
  }
  auto mask = overlap_mask(options.overlap_check);
  if (!mask) return std::unexpected(std::move(mask).error());
  result.overlap_checks = *mask;
  result.discard_request = options.pass_discard_request.value_or(unmap);
  result.discard_snapshot = options.pass_discard_snapshot.value_or(true);
  result.discard_other = options.pass_discard_other.value_or(false);
  return result;
}

namespace {

Expected<void> check_mode(const json::Value* value) {
  if (value == nullptr || !value->is_string()) return {};
  const std::string& mode = value->as_string();
  for (const char* known : {"none", "constant", "cached", "all"}) {
    if (mode == known) return {};
  }
  return fail(
      fmt::format("Unsupported value '{}' for qcow2 option 'overlap-check'. Allowed are any of the "
                  "following: none, constant, cached, all",
                  mode));
}

}  // namespace

Expected<void> check_encryption(const schema::BlockdevOptionsQcow2& options, const Header& header) {
  if (header.crypt_method == 0) {
    if (!options.encrypt) return {};
    return fail(fmt::format("No encryption in image header, but options specified format '{}'",
                            schema::name(options.encrypt->format)));
  }
  using Format = schema::BlockdevQcow2EncryptionFormat;
  const bool luks = header.crypt_method == kCryptLuks;
  const Format format = luks ? Format::kLuks : Format::kAes;
  if (options.encrypt && options.encrypt->format != format) {
    return fail(fmt::format("Header reported '{}' encryption format but options specify '{}'",
                            schema::name(format), schema::name(options.encrypt->format)));
  }
  if (luks && !header.crypto) return fail("Missing CRYPTO header for crypt method 2");
  const auto has_key = [](const auto& own) { return own.key_secret.has_value(); };
  if (!options.encrypt || !std::visit(has_key, options.encrypt->u)) {
    return fail("Parameter 'encrypt.key-secret' is required for cipher");
  }
  return encryption_unsupported();
}

Expected<void> read_option_text(json::Object& options) {
  BB_TRY(read_size_text(
      options, {"cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size"}));
  if (const json::Value* interval = options.find("cache-clean-interval");
      interval != nullptr && interval->is_string() &&
      !schema::parse_uint64(interval->as_string())) {
    return fail("Parameter 'cache-clean-interval' expects a number");
  }
  const json::Value* overlap = options.find("overlap-check");
  BB_TRY(check_mode(overlap));
  if (overlap == nullptr || !overlap->is_object()) return {};
  for (const auto& [name, value] : overlap->as_object()) {
    if (name == "template") {
      BB_TRY(check_mode(&value));
    } else if (value.is_string() && !schema::parse_switch(value.as_string())) {
      return fail(fmt::format("Parameter 'overlap-check.{}' expects 'on' or 'off'", name));
    }
  }
  return {};
}

}  // namespace blockbed::qcow2
