// PassThroughFilter: what a filter over one child is when it adds nothing.
//
// Problem: filters differ in one or two requests; all others go on to the child as they came.
// Contract: everything is the child's: bytes, size, limits, facts. A filter overrides what it is
// there for.
// Threading: engine thread only.
#pragma once

#include "block/graph/driver.h"
#include "block/graph/edge.h"

namespace blockbed {

class PassThroughFilter : public Driver {
 public:
  PassThroughFilter(Node& node, Edge& file) : Driver(node), file_(file) {}

  bool is_filter() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;

  bool honours_fua_write() const override { return true; }
  bool honours_fua_zero() const override { return true; }
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }

  Task<Result<uint64_t>> length() override;
  bool length_varies() const override;
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override;

  DriverInfo info() const override;
  bool has_zero_init() const override;
  bool has_zero_init_truncate() const override;

  Task<void> close() override;

 protected:
  Edge& file_;
};

}  // namespace blockbed
