// A file of an image in memory: no latency, and turns given to others as often as the test says.
//
// Contract: see Storage. A request takes effect before or after the turn it gives away, so requests
// that run in parallel end in any order. What would read more than `may_read` in all fails with
// ETIME. Without `tells_holes` nobody is told where they are. Units: bytes. Threading: one thread.
#pragma once

#include <utility>

#include "block/formats/qcow2/storage.h"
#include "block/runtime/executor.h"
#include "block/sim/sim_random.h"
#include "block/sim/sparse_bytes.h"

namespace blockbed::qcow2::test {

class MemoryStorage final : public Storage {
 public:
  MemoryStorage(Executor& executor, uint64_t seed, unsigned yields)
      : executor_(executor), chance_(seed, 301), yields_(yields) {}

  sim::SparseBytes bytes;
  uint64_t may_read = UINT64_MAX;
  bool tells_holes = true;
  // How often somebody asked where they are.
  uint64_t asked = 0;

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    const bool late = co_await wait_first();
    if (buffers.size() > may_read) co_return io_error(ETIME);
    may_read -= buffers.size();
    bytes.read(offset, buffers);
    if (!late) co_await wait_last();
    co_return Result<void>();
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override {
    const bool late = co_await wait_first();
    if (bytes.size() < offset + buffers.size()) bytes.resize(offset + buffers.size());
    bytes.write(offset, buffers);
    if (!late) co_await wait_last();
    co_return Result<void>();
  }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override {
    const bool late = co_await wait_first();
    if (bytes.size() < offset + length) bytes.resize(offset + length);
    using Zeroes = sim::SparseBytes::Zeroes;
    bytes.zero(offset, length, flags.may_unmap ? Zeroes::kGiveSpaceBack : Zeroes::kKeepSpace);
    if (!late) co_await wait_last();
    co_return Result<void>();
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override {
    const bool late = co_await wait_first();
    if (offset < bytes.size()) {
      bytes.zero(offset, std::min(length, bytes.size() - offset),
                 sim::SparseBytes::Zeroes::kGiveSpaceBack);
    }
    if (!late) co_await wait_last();
    co_return Result<void>();
  }
  Task<Result<void>> flush() override {
    (void)co_await wait_first();
    co_return Result<void>();
  }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions) override {
    bytes.resize(length);
    co_return Expected<void>();
  }
  Task<Result<uint64_t>> length() override { co_return bytes.size(); }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length) override {
    ++asked;
    if (!tells_holes) co_return io_error(ENOTSUP);
    const sim::SparseBytes::Run run = bytes.run_at(offset, length);
    BlockStatus status;
    status.length = run.length;
    status.zero = !run.data;
    co_return status;
  }
  bool new_space_reads_zero() const override { return true; }

 private:
  // True: the request has had its turn away.
  Task<bool> wait_first() {
    if (!chance_.percent(yields_)) co_return true;
    if (chance_.percent(50)) co_return false;
    co_await executor_.yield();
    co_return true;
  }
  Task<void> wait_last() { co_await executor_.yield(); }

  Executor& executor_;
  sim::SimRandom chance_;
  unsigned yields_;
};

}  // namespace blockbed::qcow2::test
