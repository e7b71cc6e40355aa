// Frames that are recycled under AddressSanitizer: what it sees of their misuse.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "block/runtime/frame_pool.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);

namespace blockbed {
namespace {

constexpr std::size_t kFrame = 200;

// As a program that is started with that word.
void start(std::string word) {
  std::string name = "fuzz";
  char* words[] = {name.data(), word.data(), nullptr};
  int count = 2;
  char** argv = words;
  LLVMFuzzerInitialize(&count, &argv);
}

class RecycledFrames : public testing::Test {
 protected:
  RecycledFrames() { start("-runs=1"); }
  ~RecycledFrames() override { start("crash-file"); }
};

TEST_F(RecycledFrames, AreRecycledButNotAtOnce) {
  std::vector<void*> order;
  std::set<void*> seen;
  for (int i = 0; i < 100; ++i) {
    void* const frame = frame_pool::allocate(kFrame);
    std::memset(frame, i, kFrame);
    order.push_back(frame);
    seen.insert(frame);
    frame_pool::release(frame, kFrame);
  }
  EXPECT_LT(seen.size(), 40u);
  for (std::size_t i = 1; i < order.size(); ++i) {
    for (std::size_t before = i < 16 ? 0 : i - 16; before < i; ++before) {
      EXPECT_NE(order[before], order[i]);
    }
  }
}

TEST_F(RecycledFrames, MoreAtOnceThanAreKept) {
  std::vector<void*> frames;
  for (int i = 0; i < 500; ++i) frames.push_back(frame_pool::allocate(kFrame));
  EXPECT_EQ(std::set<void*>(frames.begin(), frames.end()).size(), frames.size());
  for (void* frame : frames) std::memset(frame, 1, kFrame);
  for (void* frame : frames) frame_pool::release(frame, kFrame);
}

TEST_F(RecycledFrames, AUseAfterReleaseIsSeen) {
  auto* const frame = static_cast<volatile char*>(frame_pool::allocate(kFrame));
  frame_pool::release(const_cast<char*>(frame), kFrame);
  EXPECT_DEATH(frame[0] = 1, "use-after-poison");
  EXPECT_DEATH(frame[kFrame - 1] = 1, "use-after-poison");
}

TEST_F(RecycledFrames, AWriteBehindTheEndIsSeen) {
  auto* const frame = static_cast<volatile char*>(frame_pool::allocate(kFrame));
  EXPECT_DEATH(frame[kFrame] = 1, "use-after-poison");
  frame_pool::release(const_cast<char*>(frame), kFrame);
}

// One who looks at a finding learns who had the memory.
TEST(FramesOfOneInput, AreNotRecycled) {
  start("crash-file");
  auto* const frame = static_cast<volatile char*>(frame_pool::allocate(kFrame));
  frame_pool::release(const_cast<char*>(frame), kFrame);
  EXPECT_DEATH(frame[0] = 1, "heap-use-after-free");
}

}  // namespace
}  // namespace blockbed
