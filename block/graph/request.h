// What requests to a node carry, and what they answer.
//
// Units: bytes. Threading: plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace blockbed {

class Node;

// Modifiers of a request; each driver says which of them it honours itself (Driver::write_flags,
// zero_flags), the node does the rest (a flush after a write that asks for FUA).
struct RequestFlags {
  bool fua = false;              // durable when it completes
  bool may_unmap = false;        // zeroing may give space back
  bool no_fallback = false;      // zero fast or fail with ENOTSUP
  bool compressed = false;       // write as compressed clusters
  bool write_unchanged = false;  // the bytes are those that are read there now
  bool serialising = false;      // overlaps with no other request
  bool copy_on_read = false;     // what comes from layers below is written here as well
  bool prefetch = false;         // nobody wants the bytes, only what is kept on the way

  RequestFlags() = default;
  RequestFlags& with_fua(bool on = true) { return fua = on, *this; }
  RequestFlags& with_may_unmap(bool on = true) { return may_unmap = on, *this; }
  RequestFlags& with_no_fallback(bool on = true) { return no_fallback = on, *this; }
  RequestFlags& with_compressed(bool on = true) { return compressed = on, *this; }
  RequestFlags& with_write_unchanged(bool on = true) { return write_unchanged = on, *this; }
  RequestFlags& with_serialising(bool on = true) { return serialising = on, *this; }
};

// One run of bytes with one answer, as `block_status` of a node gives it.
struct BlockStatus {
  uint64_t length = 0;
  // Reads come from this layer or its storage: not from the backing file.
  bool allocated = false;
  // There are bytes to read, not just a rule.
  bool data = false;
  // The bytes read as zeroes.
  bool zero = false;
  // The run is stored compressed.
  bool compressed = false;
  // The run ends at the end of the image.
  bool eof = false;
  // Where the bytes are in `file`, when they are there as they are read.
  std::optional<uint64_t> offset;
  Node* file = nullptr;
  // Only between a driver and the node: the answer is the `file` child's at `offset` (raw,
  // filters).
  bool passes_through = false;
  // Only between a driver and the node: `file` may know more (a preallocated cluster that reads as
  // a hole).
  bool ask_file = false;
};

// How a truncate treats what it adds.
enum class Preallocation { kOff, kMetadata, kFalloc, kFull };
constexpr std::string_view preallocation_name(Preallocation mode) {
  switch (mode) {
    case Preallocation::kOff:
      return "off";
    case Preallocation::kMetadata:
      return "metadata";
    case Preallocation::kFalloc:
      return "falloc";
    case Preallocation::kFull:
      return "full";
  }
  return "";
}
struct TruncateOptions {
  // Fail rather than round: the length must be exactly as asked.
  bool exact = true;
  Preallocation preallocation = Preallocation::kOff;
  // The added part must read as zeroes (a backing file that is longer would show).
  bool zero_new = false;

  TruncateOptions() = default;
};

// What a node wants from requests; 0 means "no limit" or "no wish".
struct BlockLimits {
  uint32_t request_alignment = 1;
  uint32_t memory_alignment = 1;
  uint64_t max_transfer = 0;
  uint64_t optimal_transfer = 0;
  uint64_t zero_alignment = 0;
  uint64_t max_zero = 0;
  uint64_t discard_alignment = 0;
  uint64_t max_discard = 0;
};

// The largest request that any layer accepts; longer ones are refused with EIO, as QEMU does.
inline constexpr uint64_t kMaxRequestBytes = 0x7ffffe00;
// The largest image: offsets are signed 64-bit in every client, and a little room is kept for
// alignment.
inline constexpr uint64_t kMaxLength = (uint64_t{1} << 63) - (uint64_t{1} << 32) - 1;

}  // namespace blockbed
