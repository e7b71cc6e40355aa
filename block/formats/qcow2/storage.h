// Storage: a file as an image sees it.
//
// Problem: an image lives on an edge of the graph, in tests in memory, and while it is being
// created on a node that nobody else uses. The engine of the format needs the same few things of
// each.
//
// Contract: reads beyond the end give zeroes, writes beyond it extend. A write is durable after a
// flush() that began after it ended. zero() and discard() answer ENOTSUP when the file cannot.
// block_status() tells of a run of bytes inside the file that begins at `offset` and is at most
// `length` long: of the answer only `length` counts, and `zero`, that reading it gives zeroes. Who
// cannot tell says so by an error, or by answers that are not `zero`.
// Requests may run in parallel. Units: bytes. Errors: errno; truncate speaks to clients. Threading:
// engine thread only.
#pragma once

#include <cstdint>

#include "block/graph/debug_event.h"
#include "block/graph/request.h"
#include "block/runtime/buffers.h"
#include "block/runtime/result.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {
class File;
}  // namespace blockbed

namespace blockbed::qcow2 {

class Storage {
 public:
  virtual ~Storage() = default;

  virtual Task<Result<void>> read(uint64_t offset, IoVector buffers) = 0;
  virtual Task<Result<void>> write(uint64_t offset, IoVector buffers) = 0;
  virtual Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) = 0;
  virtual Task<Result<void>> discard(uint64_t offset, uint64_t length) = 0;
  virtual Task<Result<void>> flush() = 0;
  virtual Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) = 0;
  virtual Task<Result<uint64_t>> length() = 0;
  virtual Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length) = 0;
  // A range of `source`, copied inside the host. ENOTSUP: it cannot, and nothing happened.
  virtual Task<Result<void>> copy_from(File& source, uint64_t source_offset, uint64_t offset,
                                       uint64_t length) {
    (void)source, (void)source_offset, (void)offset, (void)length;
    co_return io_error(ENOTSUP);
  }
  // What lies beyond the end reads as zeroes once the file has grown over it.
  virtual bool new_space_reads_zero() const = 0;

  // Awaited before a request, says what it is for (debug_event.h). Events of an image go to the
  // file of its tables, whatever file the request goes to.
  DebugPoint debug_event(DebugEvent event) const { return DebugPoint(debug_listener(), event); }
  virtual DebugListener* debug_listener() const { return nullptr; }
};

// What shows through where an image has nothing.
class Backing {
 public:
  virtual ~Backing() = default;
  virtual Task<Result<void>> read(uint64_t offset, IoVector buffers) = 0;
  virtual uint64_t length() const = 0;
  // As far as its tables and holes tell: nothing is read. Behind its end it does.
  virtual Task<bool> reads_zero(uint64_t offset, uint64_t length) = 0;
  // There is one, however short: a discarded cluster must not let it show.
  virtual bool attached() const { return length() > 0; }
};

class NoBacking final : public Backing {
 public:
  Task<Result<void>> read(uint64_t, IoVector buffers) override {
    buffers.fill(0);
    co_return Result<void>();
  }
  uint64_t length() const override { return 0; }
  Task<bool> reads_zero(uint64_t, uint64_t) override { co_return true; }
};

}  // namespace blockbed::qcow2
