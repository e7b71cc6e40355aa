#include "block/formats/qcow2/header.h"

#include <fmt/format.h>

#include <array>

#include "block/formats/qcow2/endian.h"
#include "block/runtime/result.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint32_t kExtensionEnd = 0;
constexpr uint32_t kExtensionBackingFormat = 0xe2792aca;
constexpr uint32_t kExtensionFeatureTable = 0x6803f857;
constexpr uint32_t kExtensionBitmaps = 0x23852875;
constexpr uint32_t kExtensionCrypto = 0x0537be77;
constexpr uint32_t kExtensionDataFile = 0x44415441;

// One name of a driver; QEMU's bound.
constexpr uint32_t kMaxBackingFormatBytes = 16;
constexpr uint32_t kMaxBitmaps = 65535;
// What QEMU accepts as the size of all entries together: the largest entry times the largest count.
constexpr uint64_t kMaxBitmapDirectoryBytes = uint64_t{1024} * kMaxBitmaps;

constexpr size_t kFeatureEntryBytes = 48;
// Smaller first clusters are left to the backing name, as QEMU does.
constexpr uint64_t kMaxClusterWithoutFeatureNames = 4096;

struct FeatureName {
  uint8_t type;
  uint8_t bit;
  const char* name;
};

constexpr std::array<FeatureName, 8> kFeatureNames = {{
    {0, 0, "dirty bit"},
    {0, 1, "corrupt bit"},
    {0, 2, "external data file"},
    {0, 3, "compression type"},
    {0, 4, "extended L2 entries"},
    {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},
    {2, 1, "raw external data"},
}};

struct FoundFeature {
  uint8_t type;
  uint8_t bit;
  std::string name;
};

std::string unsupported_features(uint64_t bits, const std::vector<FoundFeature>& table) {
  std::string text;
  for (const FoundFeature& feature : table) {
    if (feature.type != 0 || feature.bit > 63) continue;
    const uint64_t mask = uint64_t{1} << feature.bit;
    if ((bits & mask) == 0) continue;
    if (!text.empty()) text += ", ";
    text += feature.name;
    bits &= ~mask;
  }
  if (bits != 0) {
    if (!text.empty()) text += ", ";
    text += fmt::format("Unknown incompatible feature: {:x}", bits);
  }
  return text;
}

std::string string_at(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// The texts for a table's place and size: name, offset and entries as QEMU has them.
Expected<void> check_table(uint64_t offset, uint64_t entries, uint64_t entry_bytes,
                           uint64_t max_bytes, uint64_t cluster_size, const char* table) {
  if (entries > max_bytes / entry_bytes) return fail(fmt::format("{} too large", table));
  const uint64_t bytes = entries * entry_bytes;
  if (static_cast<uint64_t>(INT64_MAX) - bytes < offset || offset % cluster_size != 0) {
    return fail(fmt::format("{} offset invalid", table));
  }
  return {};
}

class Extensions {
 public:
  Extensions(std::span<const std::byte> start, Header& header) : start_(start), h_(header) {}

  // False: more bytes are needed.
  Expected<bool> read(uint64_t position, uint64_t end);
  const std::vector<FoundFeature>& features() const { return features_; }

 private:
  Expected<void> one(uint32_t type, std::span<const std::byte> data);
  Expected<void> bitmaps(std::span<const std::byte> data);

  std::span<const std::byte> start_;
  Header& h_;
  std::vector<FoundFeature> features_;
};

Expected<bool> Extensions::read(uint64_t position, uint64_t end) {
  while (position < end) {
    if (end - position < 8) return true;
    if (position + 8 > start_.size()) return false;
    const uint32_t type = load_be<uint32_t>(start_.data() + position);
    const uint32_t length = load_be<uint32_t>(start_.data() + position + 4);
    position += 8;
    if (length > end - position) return fail("Header extension too large");
    if (type == kExtensionEnd) return true;
    if (position + length > start_.size()) return false;
    BB_TRY(one(type, start_.subspan(position, length)));
    position += align_up(length, 8);
  }
  return true;
}

Expected<void> Extensions::one(uint32_t type, std::span<const std::byte> data) {
  switch (type) {
    case kExtensionBackingFormat:
      if (data.size() >= kMaxBackingFormatBytes) {
        return fail(fmt::format("ERROR: ext_backing_format: len={} too large (>={})", data.size(),
                                kMaxBackingFormatBytes));
      }
      h_.backing_format = string_at(data);
      return {};
    case kExtensionFeatureTable:
      for (size_t at = 0; at + kFeatureEntryBytes <= data.size(); at += kFeatureEntryBytes) {
        std::string name = string_at(data.subspan(at + 2, kFeatureEntryBytes - 2));
        name.resize(std::min(name.find('\0'), name.size()));
        features_.push_back(
            {static_cast<uint8_t>(data[at]), static_cast<uint8_t>(data[at + 1]), std::move(name)});
      }
      return {};
    case kExtensionBitmaps:
      return bitmaps(data);
    case kExtensionCrypto:
      if (h_.crypt_method != kCryptLuks) {
        return fail("CRYPTO header extension only expected with LUKS encryption method");
      }
      if (data.size() != 16) {
        return fail(
            fmt::format("CRYPTO header extension size {}, but expected size 16", data.size()));
      }
      h_.crypto = CryptoExtension{load_be64(data.data()), load_be64(data.data() + 8)};
      if (h_.crypto->offset % h_.cluster_size() != 0) {
        return fail(
            fmt::format("Encryption header offset '{}' is not a multiple of cluster size '{}'",
                        h_.crypto->offset, h_.cluster_size()));
      }
      return {};
    case kExtensionDataFile:
      // Some writers have padding in it.
      h_.data_file_name = string_at(data).c_str();
      return {};
    default:
      h_.unknown_extensions.push_back(
          UnknownExtension{type, std::vector<std::byte>(data.begin(), data.end())});
      return {};
  }
}

Expected<void> Extensions::bitmaps(std::span<const std::byte> data) {
  if (data.size() != 24) return fail("bitmaps_ext: Invalid extension length");
  if ((h_.autoclear_features & autoclear::kBitmaps) == 0) {
    h_.bitmaps_inconsistent = true;
    return {};
  }
  BitmapsExtension b;
  b.count = load_be<uint32_t>(data.data());
  b.directory_size = load_be64(data.data() + 8);
  b.directory_offset = load_be64(data.data() + 16);
  if (load_be<uint32_t>(data.data() + 4) != 0) {
    return fail("bitmaps_ext: Reserved field is not zero");
  }
  if (b.count > kMaxBitmaps) {
    return fail(
        fmt::format("bitmaps_ext: Image has {} bitmaps, exceeding the QEMU supported maximum of {}",
                    b.count, kMaxBitmaps));
  }
  if (b.count == 0) return fail("found bitmaps extension with zero bitmaps");
  if (b.directory_offset % h_.cluster_size() != 0) {
    return fail("bitmaps_ext: invalid bitmap directory offset");
  }
  if (b.directory_size > kMaxBitmapDirectoryBytes) {
    return fail(fmt::format(
        "bitmaps_ext: bitmap directory size ({}) exceeds the maximum supported size ({})",
        b.directory_size, kMaxBitmapDirectoryBytes));
  }
  h_.bitmaps = b;
  return {};
}

Expected<void> check_fixed_fields(Header& h, std::span<const std::byte> start) {
  if (load_be<uint32_t>(start.data()) != kMagic) return fail("Image is not in qcow2 format");
  h.version = load_be<uint32_t>(start.data() + 4);
  if (h.version < 2 || h.version > 3) {
    return fail(fmt::format("Unsupported qcow2 version {}", h.version));
  }
  h.backing_offset = load_be64(start.data() + 8);
  h.cluster_bits = load_be<uint32_t>(start.data() + 20);
  if (h.cluster_bits < kMinClusterBits || h.cluster_bits > kMaxClusterBits) {
    return fail(fmt::format("Unsupported cluster size: 2^{}", h.cluster_bits));
  }
  h.size = load_be64(start.data() + 24);
  h.crypt_method = load_be<uint32_t>(start.data() + 32);
  h.l1_size = load_be<uint32_t>(start.data() + 36);
  h.l1_offset = load_be64(start.data() + 40);
  h.refcount_table_offset = load_be64(start.data() + 48);
  h.refcount_table_clusters = load_be<uint32_t>(start.data() + 56);
  h.snapshot_count = load_be<uint32_t>(start.data() + 60);
  h.snapshots_offset = load_be64(start.data() + 64);
  if (h.version == 2) {
    h.header_length = kHeaderBytesV2;
    h.refcount_order = 4;
    return {};
  }
  h.incompatible_features = load_be64(start.data() + field::kIncompatible);
  h.compatible_features = load_be64(start.data() + 80);
  h.autoclear_features = load_be64(start.data() + field::kAutoclear);
  h.refcount_order = load_be<uint32_t>(start.data() + 96);
  h.header_length = load_be<uint32_t>(start.data() + 100);
  if (h.header_length < kHeaderBytesV3) return fail("qcow2 header too short");
  if (h.header_length > h.cluster_size()) return fail("qcow2 header exceeds cluster size");
  return {};
}

Expected<void> check_compression(Header& h, uint8_t type) {
  const bool bit = h.has(incompatible::kCompression);
  if (type > static_cast<uint8_t>(CompressionType::kZstd)) {
    return fail(fmt::format("qcow2: unknown compression type: {}", type));
  }
  h.compression = static_cast<CompressionType>(type);
  if (type == 0 && bit) {
    return fail("qcow2: Compression type incompatible feature bit must not be set");
  }
  if (type != 0 && !bit) {
    return fail("qcow2: Compression type incompatible feature bit must be set");
  }
  return {};
}

Expected<void> check_tables(const Header& h, HeaderUse use) {
  const uint64_t cluster = h.cluster_size();
  if (h.refcount_table_clusters > kMaxRefcountTableBytes / cluster) {
    return fail("Reference count table too large");
  }
  const bool checking = use == HeaderUse::kChecking;
  if (h.refcount_table_clusters == 0 && !checking)
    return fail("Image does not contain a reference count table");
  BB_TRY(check_table(h.refcount_table_offset, h.refcount_table_clusters * (cluster / 8), 8,
                     kMaxRefcountTableBytes, cluster, "Reference count table"));
  // Each entry of the snapshot table is at least 40 bytes; 1024 is what QEMU multiplies with.
  if (!checking) {
    BB_TRY(check_table(h.snapshots_offset, h.snapshot_count, 1024, kMaxSnapshotTableBytes, cluster,
                       "Snapshot table"));
  }
  BB_TRY(check_table(h.l1_offset, h.l1_size, 8, kMaxL1Bytes, cluster, "Active L1 table"));
  return {};
}

}  // namespace

void Header::set_backing_format(std::string_view format) {
  backing_format.reset();
  if (!format.empty()) backing_format = format.substr(0, kMaxBackingFormatBytes - 1);
}

Geometry Header::geometry(uint32_t l2_piece_bytes) const {
  Geometry g(version, cluster_bits, refcount_order, extended_l2(), l2_piece_bytes);
  g.external_data = external_data();
  g.raw_external_data = raw_external_data();
  return g;
}

Expected<uint64_t> l1_entries_needed(const Geometry& geometry, uint64_t size) {
  if (size > static_cast<uint64_t>(INT64_MAX)) return fail("Image is too big");
  const uint64_t entries = geometry.l1_entries(size);
  if (entries > INT32_MAX) return fail("Image is too big");
  return entries;
}

Expected<ParsedHeader> parse_header(std::span<const std::byte> start, HeaderUse use) {
  ParsedHeader parsed;
  Header& h = parsed.header;
  if (start.size() < kHeaderBytesWritten) return fail("Image is not in qcow2 format");
  BB_TRY(check_fixed_fields(h, start));
  const uint64_t cluster = h.cluster_size();
  if (h.backing_offset > cluster) return fail("Invalid backing file offset");
  const uint64_t extensions_end = h.backing_offset != 0 ? h.backing_offset : cluster;

  if (h.header_length > start.size()) {
    parsed.needs_more = true;
    return parsed;
  }
  if (h.header_length > kHeaderBytesWritten) {
    h.unknown_fields.assign(start.begin() + kHeaderBytesWritten, start.begin() + h.header_length);
  }
  const uint8_t compression =
      h.version >= 3 && h.header_length > 104 ? static_cast<uint8_t>(start[104]) : 0;

  Extensions extensions(start, h);
  if ((h.incompatible_features & ~incompatible::kKnown) != 0) {
    // The names only: what else is wrong does not matter then.
    auto complete = extensions.read(h.header_length, extensions_end);
    if (complete && !*complete) {
      parsed.needs_more = true;
      return parsed;
    }
    return fail(fmt::format("Unsupported qcow2 feature(s): {}",
                            unsupported_features(h.incompatible_features & ~incompatible::kKnown,
                                                 extensions.features())));
  }
  if (h.has(incompatible::kCorrupt) && use == HeaderUse::kWriting) {
    return fail("qcow2: Image is corrupt; cannot be opened read/write");
  }
  if (h.extended_l2() && h.cluster_bits < kMinExtendedClusterBits) {
    return fail(fmt::format("Unsupported subcluster size: {}", cluster / 32));
  }
  BB_TRY(check_compression(h, compression));
  if (h.refcount_order > kMaxRefcountOrder) {
    return fail("Reference count entry width too large; may not exceed 64 bits");
  }
  if (h.crypt_method > kCryptLuks) {
    return fail(fmt::format("Unsupported encryption method {}", h.crypt_method));
  }
  BB_TRY(check_tables(h, use));
  const Geometry g = h.geometry();
  // A size that overflows when it is rounded up to whole tables has always got past this check of
  // QEMU's; such a length is refused when the node asks for it.
  const bool overflows = h.size > UINT64_MAX - g.l2_coverage();
  auto needed = l1_entries_needed(g, overflows ? 0 : h.size);
  if (!needed) return std::unexpected(std::move(needed).error());
  if (h.l1_size < *needed) return fail("L1 table is too small");

  auto complete = extensions.read(h.header_length, extensions_end);
  if (!complete) return std::unexpected(std::move(complete).error());
  if (!*complete) {
    parsed.needs_more = true;
    return parsed;
  }
  if (h.raw_external_data() && !h.external_data()) {
    return fail("data-file-raw requires a data file");
  }

  if (h.backing_offset != 0) {
    const uint32_t length = load_be<uint32_t>(start.data() + 16);
    if (length > std::min<uint64_t>(kMaxBackingNameBytes, cluster - h.backing_offset)) {
      return fail("Backing file name too long");
    }
    if (h.backing_offset + length > start.size()) {
      parsed.needs_more = true;
      return parsed;
    }
    h.backing_name = string_at(start.subspan(h.backing_offset, length));
    h.backing_name.resize(std::min(h.backing_name.find('\0'), h.backing_name.size()));
  }
  return parsed;
}

namespace {

class Writer {
 public:
  explicit Writer(size_t size) : bytes_(size) {}
  bool overflow() const { return overflow_; }
  uint64_t position() const { return position_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

  template <class T>
  void put(T value) {
    if (room(sizeof(T))) store_be<T>(bytes_.data() + position_, value);
    position_ += sizeof(T);
  }
  void put_bytes(const void* data, size_t length) {
    if (length > 0 && room(length)) std::memcpy(bytes_.data() + position_, data, length);
    position_ += length;
  }
  void extension(uint32_t type, const void* data, size_t length) {
    put<uint32_t>(type);
    put<uint32_t>(static_cast<uint32_t>(length));
    put_bytes(data, length);
    position_ = align_up(position_, 8);
    if (position_ > bytes_.size()) overflow_ = true;
  }

 private:
  bool room(size_t length) {
    if (position_ + length <= bytes_.size()) return true;
    overflow_ = true;
    return false;
  }
  std::vector<std::byte> bytes_;
  uint64_t position_ = 0;
  bool overflow_ = false;
};

std::vector<std::byte> feature_table() {
  std::vector<std::byte> table(kFeatureNames.size() * kFeatureEntryBytes);
  std::byte* at = table.data();
  for (const FeatureName& feature : kFeatureNames) {
    at[0] = std::byte{feature.type};
    at[1] = std::byte{feature.bit};
    std::memcpy(at + 2, feature.name, std::strlen(feature.name));
    at += kFeatureEntryBytes;
  }
  return table;
}

}  // namespace

std::optional<std::vector<std::byte>> serialise_header(Header& h) {
  Writer w(h.cluster_size());
  const bool v3 = h.version >= 3;
  h.header_length =
      v3 ? kHeaderBytesWritten + static_cast<uint32_t>(h.unknown_fields.size()) : kHeaderBytesV2;
  w.put<uint32_t>(kMagic);
  w.put<uint32_t>(h.version);
  w.put<uint64_t>(0);
  w.put<uint32_t>(0);
  w.put<uint32_t>(h.cluster_bits);
  w.put<uint64_t>(h.size);
  w.put<uint32_t>(h.crypt_method);
  w.put<uint32_t>(h.l1_size);
  w.put<uint64_t>(h.l1_offset);
  w.put<uint64_t>(h.refcount_table_offset);
  w.put<uint32_t>(h.refcount_table_clusters);
  w.put<uint32_t>(h.snapshot_count);
  w.put<uint64_t>(h.snapshots_offset);
  if (v3) {
    w.put<uint64_t>(h.incompatible_features);
    w.put<uint64_t>(h.compatible_features);
    w.put<uint64_t>(h.autoclear_features);
    w.put<uint32_t>(h.refcount_order);
    w.put<uint32_t>(h.header_length);
    w.put<uint8_t>(static_cast<uint8_t>(h.compression));
    const std::array<std::byte, 7> padding{};
    w.put_bytes(padding.data(), padding.size());
    w.put_bytes(h.unknown_fields.data(), h.unknown_fields.size());
  }

  if (h.backing_format) {
    w.extension(kExtensionBackingFormat, h.backing_format->data(), h.backing_format->size());
  }
  if (h.external_data() && h.data_file_name) {
    w.extension(kExtensionDataFile, h.data_file_name->data(), h.data_file_name->size());
  }
  if (h.crypto) {
    std::array<std::byte, 16> data;
    store_be64(data.data(), h.crypto->offset);
    store_be64(data.data() + 8, h.crypto->length);
    w.extension(kExtensionCrypto, data.data(), data.size());
  }
  if (v3 && h.cluster_size() > kMaxClusterWithoutFeatureNames) {
    const std::vector<std::byte> table = feature_table();
    w.extension(kExtensionFeatureTable, table.data(), table.size());
  }
  if (h.bitmaps) {
    std::array<std::byte, 24> data{};
    store_be<uint32_t>(data.data(), h.bitmaps->count);
    store_be64(data.data() + 8, h.bitmaps->directory_size);
    store_be64(data.data() + 16, h.bitmaps->directory_offset);
    w.extension(kExtensionBitmaps, data.data(), data.size());
  }
  for (const UnknownExtension& extension : h.unknown_extensions) {
    w.extension(extension.type, extension.data.data(), extension.data.size());
  }
  w.extension(kExtensionEnd, nullptr, 0);

  h.backing_offset = 0;
  if (!h.backing_name.empty()) {
    h.backing_offset = w.position();
    w.put_bytes(h.backing_name.data(), h.backing_name.size());
  }
  if (w.overflow()) return std::nullopt;
  std::vector<std::byte> bytes = w.take();
  store_be64(bytes.data() + 8, h.backing_offset);
  store_be<uint32_t>(bytes.data() + 16, static_cast<uint32_t>(h.backing_name.size()));
  return bytes;
}

}  // namespace blockbed::qcow2
