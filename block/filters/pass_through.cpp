#include "block/filters/pass_through.h"

#include "block/graph/node.h"

namespace blockbed {

Task<Result<void>> PassThroughFilter::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  return file_.read(offset, std::move(buffers), flags);
}

Task<Result<void>> PassThroughFilter::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  return file_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> PassThroughFilter::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  return file_.zero(offset, length, flags);
}

Task<Result<void>> PassThroughFilter::discard(uint64_t offset, uint64_t length) {
  return file_.discard(offset, length);
}

Task<Result<BlockStatus>> PassThroughFilter::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = file_.node();
  status.passes_through = true;
  co_return status;
}

Task<Result<uint64_t>> PassThroughFilter::length() { return file_.node()->refresh_length(); }

bool PassThroughFilter::length_varies() const { return file_.node()->driver().length_varies(); }

Task<Expected<void>> PassThroughFilter::truncate(uint64_t length, TruncateOptions options) {
  return file_.truncate(length, options);
}

DriverInfo PassThroughFilter::info() const { return file_.node()->driver().info(); }

bool PassThroughFilter::has_zero_init() const { return file_.node()->driver().has_zero_init(); }

bool PassThroughFilter::has_zero_init_truncate() const {
  return file_.node()->driver().has_zero_init_truncate();
}

Task<void> PassThroughFilter::close() { co_return; }

}  // namespace blockbed
