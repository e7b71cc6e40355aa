// The header of a qcow2 image: parsing, validating, writing.
//
// Problem: everything else trusts the numbers of the header, and they come from a file that anybody
// may have made. What is wrong is refused here, in QEMU's words, before anything is allocated.
//
// Contract
//  - parse_header looks at the bytes it is given, which start at offset 0 of the file; bytes beyond
//    the end of the file are given as zeroes. It answers `needs_more` when the extensions or the
//    backing name lie behind them; the caller then gives the whole first cluster.
//  - serialise_header gives one whole cluster, and fails when the contents do not fit into it.
//  - Extensions that are not known are kept, in their order, and written behind the known ones;
//    header fields that are not known are kept too.
// Units: bytes. Threading: pure functions.
// Source: qcow2 specification, sections Header, Header extensions, Feature name table; the texts
// and their order were compared with qemu-io 7.2 on mutated images.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "block/formats/qcow2/geometry.h"
#include "qmp/schema/error.h"

namespace blockbed::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;
inline constexpr uint32_t kHeaderBytesV2 = 72;
inline constexpr uint32_t kHeaderBytesV3 = 104;
// With the compression type and its padding: what we write.
inline constexpr uint32_t kHeaderBytesWritten = 112;

// Enough of a header for most images: one read.
inline constexpr uint32_t kHeaderProbeBytes = 4096;

namespace incompatible {
inline constexpr uint64_t kDirty = 1u << 0;
inline constexpr uint64_t kCorrupt = 1u << 1;
inline constexpr uint64_t kDataFile = 1u << 2;
inline constexpr uint64_t kCompression = 1u << 3;
inline constexpr uint64_t kExtendedL2 = 1u << 4;
inline constexpr uint64_t kKnown = 0x1f;
}  // namespace incompatible
namespace compatible {
inline constexpr uint64_t kLazyRefcounts = 1u << 0;
}
namespace autoclear {
inline constexpr uint64_t kBitmaps = 1u << 0;
inline constexpr uint64_t kRawData = 1u << 1;
inline constexpr uint64_t kKnown = 3;
}  // namespace autoclear

enum class CompressionType : uint8_t { kZlib = 0, kZstd = 1 };

struct BitmapsExtension {
  uint32_t count = 0;
  uint64_t directory_size = 0;
  uint64_t directory_offset = 0;
};

struct CryptoExtension {
  uint64_t offset = 0;
  uint64_t length = 0;
};

struct UnknownExtension {
  uint32_t type = 0;
  std::vector<std::byte> data;
};

// Positions of the fields that are changed in place.
namespace field {
inline constexpr uint64_t kSize = 24;
inline constexpr uint64_t kL1Size = 36;         // and the offset behind it
inline constexpr uint64_t kRefcountTable = 48;  // offset, clusters
inline constexpr uint64_t kSnapshots = 60;      // count, offset
inline constexpr uint64_t kIncompatible = 72;
inline constexpr uint64_t kAutoclear = 88;
}  // namespace field

// Methods of encryption.
inline constexpr uint32_t kCryptAes = 1;
inline constexpr uint32_t kCryptLuks = 2;

struct Header {
  uint32_t version = 3;
  uint64_t backing_offset = 0;
  uint32_t cluster_bits = 16;
  uint64_t size = 0;
  uint32_t crypt_method = 0;
  uint32_t l1_size = 0;
  uint64_t l1_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t snapshot_count = 0;
  uint64_t snapshots_offset = 0;
  uint64_t incompatible_features = 0;
  uint64_t compatible_features = 0;
  uint64_t autoclear_features = 0;
  uint32_t refcount_order = 4;
  uint32_t header_length = kHeaderBytesWritten;
  CompressionType compression = CompressionType::kZlib;
  // Behind the fields known to us, up to header_length.
  std::vector<std::byte> unknown_fields;

  std::string backing_name;
  std::optional<std::string> backing_format;
  std::optional<std::string> data_file_name;
  std::optional<BitmapsExtension> bitmaps;
  std::optional<CryptoExtension> crypto;
  std::vector<UnknownExtension> unknown_extensions;
  // The bitmaps extension was there without its feature bit: its data is not to be relied on.
  bool bitmaps_inconsistent = false;

  // "": none. What is longer than readers take is cut, as by QEMU.
  void set_backing_format(std::string_view format);

  uint64_t cluster_size() const { return uint64_t{1} << cluster_bits; }
  bool has(uint64_t incompatible_bit) const {
    return (incompatible_features & incompatible_bit) != 0;
  }
  bool extended_l2() const { return has(incompatible::kExtendedL2); }
  bool external_data() const { return has(incompatible::kDataFile); }
  bool raw_external_data() const { return (autoclear_features & autoclear::kRawData) != 0; }

  Geometry geometry(uint32_t l2_piece_bytes = kDefaultL2PieceBytes) const;
};

struct ParsedHeader {
  // True: of `header` only the size of a cluster is told; call again with the whole first one.
  bool needs_more = false;
  Header header;
};

// kWriting: a corrupt image is refused only then. kChecking: what a check can repair, or says in
// its own words, is let pass (the corrupt bit, no refcount table, the place and length of the
// snapshot table).
enum class HeaderUse : uint8_t { kReading, kWriting, kChecking };
Expected<ParsedHeader> parse_header(std::span<const std::byte> start, HeaderUse use);
inline Expected<ParsedHeader> parse_header(std::span<const std::byte> start, bool writable) {
  return parse_header(start, writable ? HeaderUse::kWriting : HeaderUse::kReading);
}

// ENOSPC as nullopt: the backing name and extensions do not fit.
std::optional<std::vector<std::byte>> serialise_header(Header& header);

// The smallest L1 table for a disk of `size` bytes: an error when the format cannot hold it.
Expected<uint64_t> l1_entries_needed(const Geometry& geometry, uint64_t size);

}  // namespace blockbed::qcow2
