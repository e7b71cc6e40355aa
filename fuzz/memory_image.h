// What the fuzz targets of image formats stand on: an Env with nothing in it, and a file in memory.
//
// Problem: a target that sets up a simulator, a graph or threads for each input spends its time
// there. A small image is opened and read in less time than a timer of the simulator takes to make.
//
// Contract
//  - FuzzEnv runs tasks on one queue, in order; work for workers is done at once. It has no files,
//    sockets, timers: asking for them is a mistake of the target.
//  - FuzzStorage reads the input where it lies and copies it on the first change, into memory that
//    the one before it had. A file that would grow beyond kMostBytes gets ENOSPC. Blocks of
//    nothing but zeroes are told as holes.
// Units: bytes. Threading: one thread.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "block/formats/qcow2/storage.h"
#include "block/runtime/assert.h"
#include "block/runtime/env.h"
#include "block/runtime/root.h"

namespace blockbed::fuzz {

class FuzzEnv final : public Env {
 public:
  Executor& executor() override { return executor_; }
  int64_t now() const override { return 1; }
  WallTime wall_time() const override { return {}; }
  std::unique_ptr<Timer> make_timer() override { return absent<std::unique_ptr<Timer>>(); }
  uint64_t random() override { return random_ = random_ * 6364136223846793005u + 1; }
  Task<void> run_on_worker(std::function<void()> work) override {
    work();
    co_return;
  }
  Task<Result<std::unique_ptr<File>>> open_file(std::string, FileOpenOptions) override {
    co_return io_error(ENOENT);
  }
  Task<Result<void>> unlink(std::string) override { co_return io_error(ENOENT); }
  Task<Result<std::unique_ptr<Listener>>> listen(SocketAddress) override {
    co_return io_error(EACCES);
  }
  Task<Result<std::unique_ptr<Stream>>> connect(SocketAddress) override {
    co_return io_error(EACCES);
  }
  Result<std::unique_ptr<Listener>> adopt_listener(int) override { return io_error(EACCES); }
  Result<std::unique_ptr<Stream>> adopt_stream(int, int) override { return io_error(EACCES); }

  void run(Task<void> task) {
    bool done = false;
    drive(std::move(task), done);
    while (!done) {
      BB_ASSERT(executor_.next < executor_.ready.size());
      executor_.ready[executor_.next++].resume();
      if (executor_.next == executor_.ready.size()) {
        executor_.ready.clear();
        executor_.next = 0;
      }
    }
    BB_ASSERT(executor_.next == executor_.ready.size());
  }

 private:
  struct Queue final : Executor {
    std::vector<std::coroutine_handle<>> ready;
    std::size_t next = 0;
    void post(std::coroutine_handle<> coroutine) override { ready.push_back(coroutine); }
  };
  template <class T>
  [[noreturn]] static T absent() {
    BB_ASSERT(false);
    std::abort();
  }

  Queue executor_;
  uint64_t random_ = 1;
};

class FuzzStorage final : public qcow2::Storage {
 public:
  static constexpr uint64_t kMostBytes = uint64_t{1} << 20;

  explicit FuzzStorage(std::span<const uint8_t> input)
      : input_(std::as_bytes(input)), own_(std::move(spare())), now_(input_) {}
  FuzzStorage(const FuzzStorage&) = delete;
  FuzzStorage& operator=(const FuzzStorage&) = delete;
  ~FuzzStorage() override { std::swap(own_, spare()); }

  bool changed() const { return changed_; }
  bool was_full() const { return full_; }
  std::span<const std::byte> bytes() const { return now_; }

  // length() says this when the file is shorter: for a look behind its end.
  void pretend_length(uint64_t length) { least_length_ = length; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    uint64_t at = offset;
    for (const iovec& range : buffers.ranges()) {
      const uint64_t there =
          at < now_.size() ? std::min<uint64_t>(range.iov_len, now_.size() - at) : 0;
      auto* into = static_cast<std::byte*>(range.iov_base);
      if (there > 0) std::memcpy(into, now_.data() + at, there);
      std::memset(into + there, 0, range.iov_len - there);
      at += range.iov_len;
    }
    co_return Result<void>();
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override {
    if (!reach(offset, buffers.size())) co_return io_error(ENOSPC);
    buffers.copy_to(own_.data() + offset);
    co_return Result<void>();
  }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags) override {
    if (!reach(offset, length)) co_return io_error(ENOSPC);
    std::fill_n(own_.data() + offset, length, std::byte{0});
    co_return Result<void>();
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override {
    if (offset >= now_.size()) co_return Result<void>();
    co_return co_await zero(offset, std::min<uint64_t>(length, now_.size() - offset), {});
  }
  Task<Result<void>> flush() override { co_return Result<void>(); }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions) override {
    if (length > kMostBytes) co_return fail("File too large");
    make_own();
    own_.resize(length);
    now_ = own_;
    co_return Expected<void>();
  }
  Task<Result<uint64_t>> length() override {
    co_return std::max<uint64_t>(now_.size(), least_length_);
  }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length) override {
    length = std::min(length, kLongestRun);
    BlockStatus status;
    status.zero = is_hole(offset);
    status.length = kBlock - offset % kBlock;
    while (status.zero && status.length < length && is_hole(offset + status.length)) {
      status.length += kBlock;
    }
    status.length = std::min(status.length, length);
    co_return status;
  }
  bool new_space_reads_zero() const override { return true; }

 private:
  static constexpr uint64_t kBlock = 512;
  // Told at once: an input can have a run looked at as often as it names tables.
  static constexpr uint64_t kLongestRun = 128 * kBlock;

  // From here to the end of its block.
  bool is_hole(uint64_t offset) const {
    if (offset >= now_.size()) return true;
    return all_zero(now_.data() + offset,
                    std::min<uint64_t>(kBlock - offset % kBlock, now_.size() - offset));
  }
  static std::vector<std::byte>& spare() {
    static std::vector<std::byte> memory;
    return memory;
  }
  void make_own() {
    if (!changed_) own_.assign(input_.begin(), input_.end());
    changed_ = true;
    now_ = own_;
  }
  bool reach(uint64_t offset, uint64_t length) {
    if (offset > kMostBytes || length > kMostBytes - offset) {
      full_ = true;
      return false;
    }
    make_own();
    if (own_.size() < offset + length) own_.resize(offset + length);
    now_ = own_;
    return true;
  }

  const std::span<const std::byte> input_;
  std::vector<std::byte> own_;
  std::span<const std::byte> now_;
  uint64_t least_length_ = 0;
  bool changed_ = false;
  bool full_ = false;
};

// Bytes that are easy to tell from zeroes, and no file.
class FuzzBacking final : public qcow2::Backing {
 public:
  explicit FuzzBacking(uint64_t length) : length_(length) {}
  Task<Result<void>> read(uint64_t, IoVector buffers) override {
    buffers.fill(0xba);
    co_return Result<void>();
  }
  uint64_t length() const override { return length_; }
  Task<bool> reads_zero(uint64_t offset, uint64_t length) override {
    co_return length == 0 || offset >= length_;
  }

 private:
  const uint64_t length_;
};

}  // namespace blockbed::fuzz
