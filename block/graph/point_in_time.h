// PointInTime: the bytes that a node had at some instant, while the node goes on.
//
// Problem: a copy-before-write filter and a format with internal snapshots both know how a disk
// was; who reads that (snapshot-access) need not know how it is kept.
//
// Contract
//  - Whatever is written to the node, a read gives the bytes of the instant, or fails: EACCES where
//    they are not kept any more, or never were.
//  - Requests lie inside length(). Whoever sends them is a parent of the node, directly or not, and
//    sends none while the node is drained.
//  - block_status() tells of the instant as a whole, not of one layer: an answer is allocated.
//  - discard() says that nobody will read this range again; ENOTSUP: it changes nothing.
// Units: bytes. Errors: errno. Threading: engine thread only.
#pragma once

#include <cerrno>
#include <cstdint>

#include "block/graph/request.h"
#include "block/runtime/buffers.h"
#include "block/runtime/result.h"
#include "block/runtime/task.h"

namespace blockbed {

class PointInTime {
 public:
  virtual ~PointInTime() = default;

  virtual uint64_t instant_length() const = 0;
  virtual Task<Result<void>> read_instant(uint64_t offset, IoVector buffers) = 0;
  virtual Task<Result<BlockStatus>> instant_status(uint64_t offset, uint64_t length,
                                                   bool want_zero) = 0;
  virtual Task<Result<void>> discard_instant(uint64_t offset, uint64_t length) {
    (void)offset, (void)length;
    co_return io_error(ENOTSUP);
  }
};

}  // namespace blockbed
