// Reads the bitmap directory of the input and marks its bitmaps in use, as the first write does.
#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/open.h"
#include "fuzz/memory_image.h"
#include "fuzz/qcow2_mutator.h"

namespace {

using namespace blockbed;
using namespace blockbed::fuzz;

Task<void> mark(FuzzStorage& file) {
  auto header = co_await qcow2::read_header(file, false);
  if (!header || !header->bitmaps) co_return;
  const auto bitmaps = co_await qcow2::load_directory(file, *header);
  if (!bitmaps) co_return;
  const std::size_t before = file.bytes().size();
  if (!co_await qcow2::mark_in_use(file, *bitmaps)) co_return;
  // Only flags changed: the directory is what it was, with all of its bitmaps in use.
  const auto marked = co_await qcow2::load_directory(file, *header);
  BB_ASSERT(file.bytes().size() == before);
  BB_ASSERT(marked && marked->size() == bitmaps->size());
  for (std::size_t i = 0; i < marked->size(); ++i) {
    const qcow2::StoredBitmap& now = (*marked)[i];
    const qcow2::StoredBitmap& then = (*bitmaps)[i];
    BB_ASSERT(now.name == then.name && now.table_offset == then.table_offset);
    BB_ASSERT(now.flags == (then.flags | qcow2::bitmap_flag::kInUse));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static FuzzEnv env;
  FuzzStorage file(std::span(data, size));
  env.run(mark(file));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  return mutate_image(data, size, most, seed);
}
