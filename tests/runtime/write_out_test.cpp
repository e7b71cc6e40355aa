// What is to be written out ahead of a flush, and that it is.
#include "block/runtime/write_out.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace blockbed {
namespace {

constexpr uint64_t kPiece = WriteOut::kPiece;
using Pieces = std::vector<uint64_t>;
// Younger (Linux 6.5) than the headers may be; the same number on every architecture.
constexpr long kCachestat = 451;

class WriteOutOfAFile : public testing::Test {
 protected:
  WriteOutOfAFile() {
    std::string path = testing::TempDir() + "write-out-XXXXXX";
    file_ = ::mkstemp(path.data());
    EXPECT_GE(file_, 0);
    ::unlink(path.c_str());
  }
  ~WriteOutOfAFile() override { ::close(file_); }

  int file_ = -1;
  WriteOut out_;
};

TEST_F(WriteOutOfAFile, RemembersFromTheFirstTimeOn) {
  out_.wrote(0, kPiece);
  EXPECT_EQ(out_.take(file_), Pieces());
  out_.wrote(0, kPiece);
  EXPECT_EQ(out_.take(file_), Pieces{0});
  EXPECT_EQ(out_.take(file_), Pieces());
  out_.wrote(0, kPiece);
  out_.stop();
  EXPECT_EQ(out_.take(file_), Pieces());
}

TEST_F(WriteOutOfAFile, EachPieceOnceAndInOrder) {
  (void)out_.take(file_);
  out_.wrote(7 * kPiece + 5, 10);
  out_.wrote(2 * kPiece - 1, 2);
  out_.wrote(7 * kPiece, kPiece);
  out_.wrote(3 * kPiece, 0);
  EXPECT_EQ(out_.take(file_), (Pieces{1, 2, 7}));
}

TEST_F(WriteOutOfAFile, NoMoreThanItMay) {
  (void)out_.take(file_);
  for (uint64_t i = 0; i < 3 * WriteOut::kMost; ++i) out_.wrote(i * kPiece, kPiece);
  std::size_t pieces = 0;
  for (Pieces some = out_.take(file_); !some.empty(); some = out_.take(file_)) {
    EXPECT_EQ(some.size(), WriteOut::kAtOnce);
    EXPECT_EQ(some.front(), pieces);
    pieces += some.size();
  }
  EXPECT_EQ(pieces, WriteOut::kMost);
}

TEST_F(WriteOutOfAFile, LeavesNothingDirtyInAPiece) {
  struct statfs place;
  ASSERT_EQ(::fstatfs(file_, &place), 0);
  if (place.f_type == TMPFS_MAGIC) GTEST_SKIP() << "memory has no disk";
  const std::string bytes(2 * kPiece, 'x');
  ASSERT_EQ(::pwrite(file_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  (void)out_.take(file_);
  out_.wrote(kPiece, kPiece);
  out_.send(out_.take(file_));
  struct {
    uint64_t offset, length;
  } range{kPiece, kPiece};
  struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } found{};
  if (::syscall(kCachestat, file_, &range, &found, 0) != 0) {
    GTEST_SKIP() << "this kernel does not say what is dirty";
  }
  EXPECT_EQ(found.dirty, 0U);
  EXPECT_EQ(found.writeback, 0U);
}
}  // namespace
}  // namespace blockbed
