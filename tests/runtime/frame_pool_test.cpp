#include "block/runtime/frame_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace blockbed {
namespace {

struct Block {
  void* memory;
  std::size_t size;
  unsigned char mark;
};

// Blocks that live at the same time do not overlap, whatever is recycled between.
TEST(FramePool, BlocksAreApart) {
  std::vector<Block> live;
  uint64_t random = 12345;
  for (int i = 0; i < 20000; ++i) {
    random = random * 6364136223846793005 + 1442695040888963407;
    if (live.size() < 100 || (random >> 40) % 2 == 0) {
      // Up to and beyond the largest size that is recycled.
      const std::size_t size = 1 + (random >> 33) % 5000;
      Block block{frame_pool::allocate(size), size, static_cast<unsigned char>(random >> 50)};
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.memory) % alignof(std::max_align_t), 0U);
      std::memset(block.memory, block.mark, size);
      live.push_back(block);
    } else {
      std::swap(live[(random >> 20) % live.size()], live.back());
      const Block block = live.back();
      live.pop_back();
      const auto* bytes = static_cast<const unsigned char*>(block.memory);
      for (std::size_t k = 0; k < block.size; ++k) ASSERT_EQ(bytes[k], block.mark);
      frame_pool::release(block.memory, block.size);
    }
  }
  for (const Block& block : live) frame_pool::release(block.memory, block.size);
}

TEST(FramePool, ABlockMayEndOnAnotherThread) {
  for (int i = 0; i < 10; ++i) {
    void* const block = frame_pool::allocate(300);
    std::thread([block] { frame_pool::release(block, 300); }).join();
  }
}

}  // namespace
}  // namespace blockbed
