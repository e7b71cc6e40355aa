#include "block/runtime/event_loop.h"

#include <gtest/gtest.h>

namespace blockbed {
namespace {

TEST(PollWindow, StaysClosedForALoopThatSleepsLong) {
  PollWindow window;
  for (int i = 0; i < 10; ++i) window.waited(PollWindow::kLongest + 1);
  EXPECT_EQ(window.length(), 0);
}

TEST(PollWindow, OpensStepByStepUntilTheWaitsEndInsideIt) {
  PollWindow window;
  window.waited(30'000);
  EXPECT_EQ(window.length(), PollWindow::kShortest);
  for (int i = 0; i < 20; ++i) window.waited(30'000);
  EXPECT_EQ(window.length(), 8 * PollWindow::kShortest);
  for (int i = 0; i < 20; ++i) window.waited(PollWindow::kLongest);
  EXPECT_EQ(window.length(), PollWindow::kLongest);
}

TEST(PollWindow, OneLongWaitClosesIt) {
  PollWindow window;
  for (int i = 0; i < 20; ++i) window.waited(PollWindow::kLongest);
  window.waited(PollWindow::kLongest + 1);
  EXPECT_EQ(window.length(), 0);
}

}  // namespace
}  // namespace blockbed
