#include "block/formats/qcow2/amend.h"

#include <fmt/format.h>

#include <bit>

namespace blockbed::qcow2 {

namespace {

Expected<void> check_backing(const Header& header, const AmendOptions& o) {
  if (!o.backing_file && !o.backing_format) return {};
  // Who gives one of them, and not the other, says that there is none: so QEMU has it.
  std::optional<std::string> file;
  if (!header.backing_name.empty()) file = header.backing_name;
  if (o.backing_file == file && o.backing_format == header.backing_format) return {};
  Error error("Cannot amend the backing file");
  error.hint = "You can use 'qemu-img rebase' instead.";
  return fail(std::move(error));
}

Expected<void> check_data_file(const Header& header, const AmendOptions& o) {
  if (o.data_file && !header.external_data()) {
    return fail("data-file can only be set for images that use an external data file");
  }
  if (o.data_file_raw.value_or(false) && !header.raw_external_data()) {
    return fail("data-file-raw cannot be set on existing images");
  }
  return {};
}

Expected<void> check_downgrade(const Image& image, uint64_t size, uint64_t refcount_bits) {
  const Header& header = image.header();
  if (header.external_data()) return fail("Cannot downgrade an image with a data file");
  if (refcount_bits != 16) return fail("compat=0.10 requires refcount_bits=16");
  // There is room for more in the table of snapshots, but other readers of the older version look
  // at no more than it knows.
  for (const Snapshot& snapshot : image.snapshots()) {
    if (snapshot.vm_state_size > UINT32_MAX || snapshot.disk_size.value_or(header.size) != size) {
      return fail("Internal snapshots prevent downgrade of image");
    }
  }
  const uint64_t features =
      header.incompatible_features & ~(incompatible::kDirty | incompatible::kCompression);
  if (features != 0) {
    return fail(
        fmt::format("Cannot downgrade an image with incompatible features {:#x} set", features));
  }
  if (header.bitmaps) return fail("Cannot downgrade an image with persistent bitmaps");
  return {};
}

// In the order in which QEMU comes to them.
Expected<void> check(const Image& image, const AmendOptions& o) {
  const Header& header = image.header();
  const uint32_t version = o.version.value_or(header.version);
  BB_TRY(check_data_file(header, o));
  const uint64_t bits = o.refcount_bits.value_or(uint64_t{1} << header.refcount_order);
  if (o.refcount_bits) {
    if (bits > 64 || !std::has_single_bit(bits)) {
      return fail("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (bits != 16 && version < 3) {
      return fail(
          "Refcount widths other than 16 bits require compatibility level 1.1 or above (use "
          "compat=1.1 or greater)");
    }
  }
  BB_TRY(check_backing(header, o));
  if (o.lazy_refcounts.value_or(false) && version < 3) {
    return fail(
        "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or "
        "greater)");
  }
  if (version < header.version) {
    // 0 means nothing, as with QEMU.
    const uint64_t size = o.size.value_or(0) != 0 ? *o.size : header.size;
    BB_TRY(check_downgrade(image, size, bits));
  }
  return {};
}

// The older version knows no other compression than zlib.
Task<Expected<void>> check_compressed(Image& image) {
  if (image.header().compression == CompressionType::kZlib) co_return Expected<void>();
  auto compressed = co_await image.has_compressed();
  if (!compressed) co_return fail(strerror_text(compressed.error()));
  if (*compressed) {
    co_return fail(
        "Cannot downgrade an image with zstd compression type and existing compressed clusters");
  }
  co_return Expected<void>();
}

Task<Expected<void>> rewrite(Image& image, Header header) {
  Metadata& metadata = image.metadata();
  MutexGuard lock = co_await metadata.lock();
  auto done = co_await metadata.sync();
  if (done) {
    const Header before = metadata.header();
    done = co_await metadata.rewrite_header(std::move(header));
    // What failed may have changed it all the same, and fields of it are written by what is known.
    if (!done && !co_await metadata.rewrite_header(before)) metadata.write_no_more();
  }
  if (!done) {
    co_return fail(
        fmt::format("Failed to update the image header: {}", strerror_text(done.error())));
  }
  co_return Expected<void>();
}

}  // namespace

Task<Expected<void>> amend(Image& image, AmendOptions options) {
  BB_CO_TRY(check(image, options));
  if (auto begun = co_await image.begin_writing(); !begun) {
    co_return fail(strerror_text(begun.error()));
  }
  Header header = image.header();
  const bool downgrade = options.version && *options.version < header.version;
  if (downgrade) BB_CO_TRY(co_await check_compressed(image));
  bool changed = false;
  if (options.version && *options.version > header.version) {
    header.version = *options.version;
    changed = true;
  }
  if (options.data_file) {
    header.data_file_name.reset();
    if (!options.data_file->empty()) header.data_file_name = *options.data_file;
    changed = true;
  }
  if (options.data_file_raw && !*options.data_file_raw && header.raw_external_data()) {
    header.autoclear_features &= ~autoclear::kRawData;
    changed = true;
  }
  if (options.lazy_refcounts && !downgrade) {
    const uint64_t before = header.compatible_features;
    header.compatible_features = *options.lazy_refcounts ? before | compatible::kLazyRefcounts
                                                         : before & ~compatible::kLazyRefcounts;
    changed |= header.compatible_features != before;
  }
  if (changed) {
    BB_CO_TRY(co_await rewrite(image, std::move(header)));
    BB_CO_TRY(co_await image.reload());
  }
  if (options.refcount_bits && *options.refcount_bits != uint64_t{1}
                                                             << image.header().refcount_order) {
    BB_CO_TRY(co_await image.change_refcount_width(
        static_cast<uint32_t>(std::countr_zero(*options.refcount_bits))));
  }
  if (options.size.value_or(0) != 0) {
    BB_CO_TRY(co_await image.truncate(*options.size, TruncateOptions()));
  }
  if (!downgrade) co_return Expected<void>();

  if (auto expanded = co_await image.expand_zeroes(); !expanded) {
    co_return fail(
        fmt::format("Failed to turn zero into data clusters: {}", strerror_text(expanded.error())));
  }
  header = image.header();
  header.version = *options.version;
  header.compression = CompressionType::kZlib;
  header.incompatible_features = header.compatible_features = header.autoclear_features = 0;
  header.unknown_fields.clear();
  BB_CO_TRY(co_await rewrite(image, std::move(header)));
  co_return co_await image.reload();
}

}  // namespace blockbed::qcow2
