// Opens the input as a qcow2 image and reads it: the whole of a small disk, or the beginning, the
// end and some places of a large one, with its map. No graph and no files: this target is for
// speed; what a server does around it is in qcow2_open.cpp.
#include <algorithm>

#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/open.h"
#include "fuzz/memory_image.h"
#include "fuzz/qcow2_mutator.h"

namespace {

using namespace blockbed;
using namespace blockbed::fuzz;

constexpr uint64_t kPiece = 32 << 10;
constexpr uint64_t kMostRead = 128 << 10;
constexpr uint64_t kBackingBytes = 40 << 10;
// A map of many short runs is walked this far.
constexpr int kMostRuns = 16;

// Where pieces of a disk begin that are read: all of them, or the first four and eight of the rest.
const std::vector<uint64_t>& places(uint64_t length) {
  static std::vector<uint64_t> found;
  found.clear();
  for (uint64_t offset = 0; offset < std::min(length, kMostRead); offset += kPiece) {
    found.push_back(offset);
  }
  for (uint64_t eighth = 1; length > kMostRead && eighth <= 8; ++eighth) {
    found.push_back((length - kPiece) / 8 * eighth);
  }
  return found;
}

Task<void> open_and_read(FuzzEnv& env, FuzzStorage& file, std::span<std::byte> buffer) {
  auto header = co_await qcow2::read_header(file, false);
  // No node is longer than that: it refuses the driver's answer.
  if (!header || header->size > kMaxLength) co_return;
  FuzzBacking backing(header->backing_name.empty() ? 0 : kBackingBytes);
  FuzzStorage* const data = header->external_data() ? &file : nullptr;
  qcow2::MetadataOptions options;
  qcow2::Image image(env, file, data, backing, std::move(*header), options);
  if (!co_await image.open()) co_return;
  const uint64_t length = image.length();
  for (const uint64_t offset : places(length)) {
    const uint64_t size = std::min(kPiece, length - offset);
    uint64_t at = offset;
    for (int i = 0; i < kMostRuns && at < offset + size; ++i) {
      auto found = co_await image.status(at, offset + size - at);
      if (!found) break;
      BB_ASSERT(found->length > 0 && found->length <= offset + size - at);
      at += found->length;
    }
    (void)co_await image.read(offset, IoVector(buffer.first(size)));
  }
  (void)co_await image.close();
  BB_ASSERT(!file.changed());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static std::vector<std::byte> buffer(kPiece);
  static FuzzEnv env;
  FuzzStorage file(std::span(data, size));
  env.run(open_and_read(env, file, buffer));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  return mutate_image(data, size, most, seed);
}
