// ProductionFile: File on a descriptor of this system.
//
// Problem: the engine's thread must not wait for a disk, yet handing a request to another thread
// costs several times what the kernel needs to copy a page that it holds.
//
// Contract (beyond file.h)
//  - Reads of a buffered file first ask for what the page cache holds (preadv2 with RWF_NOWAIT);
//    only the rest leaves this thread. Writes of a buffered file up to kInlineWriteLimit are made
//    on this thread as long as they return quickly (InlineGuard); Linux has no RWF_NOWAIT for them
//    on ext4.
//  - What leaves the thread goes to the worker pool with aio=threads, and to the ring with
//    aio=native and aio=io_uring, or to the pool where the kernel refuses io_uring.
//  - open() opens what the kernel opens: who wants no directory or character device asks kind().
//    That is QEMU's order too: EISDIR is for writing to a directory, the rest are its drivers'
//    texts.
// Errors: as the kernel gives them; EINVAL for a range that no file can have; ENOTSUP as file.h
// says. Threading: engine thread only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "block/runtime/file.h"
#include "block/runtime/io_services.h"
#include "block/runtime/sync.h"
#include "block/runtime/write_out.h"

namespace blockbed {

// Whether a write that usually takes microseconds may be made on the engine's thread.
//
// A write into the page cache waits when too much memory is dirty, when the journal commits, or
// when it changes half of a page that must be read first. The kernel does not say so beforehand, so
// the last ones speak for the next: after a slow one the following are watched, and when a watched
// one is slow and the thread was put to sleep in it (and did not just lose its processor to
// somebody else), all writes leave the thread for a while, longer each time that it happens again.
//
// Why not always leave the thread, measured on a quiet ext4 with two processors (tests/bench): a
// 4 KiB write takes 1.6 us here, 4.6 us through the ring and 6.1 us through the pool at depth 1,
// and 1.6, 4.4 and 5.0 us at depth 16, since the kernel lets one writer at a time into a file. At
// 64 KiB it is 9, 12 and 17 us or more; from 256 KiB on (33, 38, 40) the crossing is lost in the
// copying, and the engine has better things to do meanwhile. So the limit is 64 KiB.
class InlineGuard {
 public:
  static constexpr int64_t kSlow = 500'000;
  static constexpr int64_t kWatch = 1'000'000'000;
  static constexpr int64_t kFirstPause = 50'000'000;
  static constexpr int64_t kLongestPause = 2'000'000'000;
  // Without trouble for so long, the next pause is a first one.
  static constexpr int64_t kForget = 10'000'000'000;

  bool allows(int64_t now) const { return now >= closed_until_; }
  bool watches(int64_t now) const { return now < watched_until_; }
  // After a write that took longer than kSlow. `slept`: it was watched, and the thread slept in it.
  void was_slow(int64_t end, bool slept) {
    watched_until_ = end + kWatch;
    if (!slept) return;
    const bool soon = closed_until_ > 0 && end < closed_until_ + kForget;
    pause_ = soon ? std::min(pause_ * 2, kLongestPause) : kFirstPause;
    closed_until_ = end + pause_;
    watched_until_ = closed_until_ + kWatch;
  }

 private:
  int64_t closed_until_ = 0;
  int64_t watched_until_ = 0;
  int64_t pause_ = kFirstPause;
};

class ProductionFile final : public File {
 public:
  static constexpr std::size_t kInlineWriteLimit = std::size_t{64} << 10;
  // The kernel lets one buffered writer at a time into a file. One more is ready to follow; the
  // others would spin for their turn, on processors and threads that somebody else could use.
  static constexpr std::size_t kBufferedWriters = 2;

  static Task<Result<std::unique_ptr<File>>> open(IoServices& services, std::string path,
                                                  FileOpenOptions options);
  ~ProductionFile() override;

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override;
  Task<Result<void>> flush() override;
  Task<void> expect_flush() override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<void>> copy_from(File& source, uint64_t source_offset, uint64_t offset,
                               uint64_t length) override;
  Task<Result<void>> truncate(uint64_t size, FilePreallocation preallocation) override;
  Task<Result<FileInfo>> info() override;
  Task<Result<FileExtent>> extent(uint64_t offset, uint64_t length) override;
  uint32_t alignment() const override { return alignment_; }
  FileKind kind() const override { return kind_; }
  Result<bool> try_lock_shared(uint64_t start, uint64_t length) override;
  Result<void> unlock(uint64_t start, uint64_t length) override;
  Result<bool> is_locked_by_others(uint64_t start, uint64_t length) override;
  Task<Result<void>> reopen(FileOpenOptions options) override;
  Task<Result<void>> close() override;

 private:
  struct Lock {
    uint64_t start, length;
  };
  // What this file refused once is not asked again.
  struct Refused {
    bool nowait_read = false;
    bool punch_hole = false;
    bool zero_range = false;
    bool allocate = false;
    bool device_discard = false;
    bool device_zero = false;
    bool copy = false;
  };
  // Counts requests that have left the engine's thread: none may be under way at reopen and close.
  struct Away {
    ProductionFile& file;
    explicit Away(ProductionFile& f) : file(f) { ++file.away_; }
    ~Away() { --file.away_; }
    Away(const Away&) = delete;
    Away& operator=(const Away&) = delete;
  };

  // While some of the file may become a hole, and at its end: extent() may look in between.
  struct Emptying {
    ProductionFile& file;
    const uint64_t begin, end;
    Emptying(ProductionFile& f, uint64_t first, uint64_t last) : file(f), begin(first), end(last) {
      file.forget_data(begin, end);
    }
    ~Emptying() { file.forget_data(begin, end); }
    Emptying(const Emptying&) = delete;
    Emptying& operator=(const Emptying&) = delete;
  };
  void forget_data(uint64_t begin, uint64_t end);

  ProductionFile(IoServices& services, std::string path, FileOpenOptions options, int descriptor);

  Ring* ring() const { return options_.aio == FileAio::kThreads ? nullptr : services_.ring(); }
  void check_range(uint64_t offset, const IoVector& buffers) const;
  Task<Result<void>> read_away(uint64_t offset, IoVector buffers, std::size_t done);
  Task<Result<void>> write_away(uint64_t offset, IoVector buffers, std::size_t done);

  IoServices& services_;
  const std::string path_;
  FileOpenOptions options_;
  int descriptor_;
  FileKind kind_ = FileKind::kOther;
  uint32_t alignment_ = 1;
  InlineGuard guard_;
  Semaphore buffered_writers_;
  WriteOut write_out_;
  Refused refused_;
  // The run of data that extent() found last. Where the file system has no list of extents (tmpfs)
  // the kernel walks over every page of a run to find its end: 5 ms for 1 GiB, for each question.
  uint64_t data_begin_ = 0;
  uint64_t data_end_ = 0;
  std::vector<Lock> locks_;
  int away_ = 0;
};

}  // namespace blockbed
