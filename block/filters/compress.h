// compress: a filter that writes everything compressed.
//
// Problem: a copy into an image should be compressed whoever writes it, a job or a guest that knows
// nothing of compression.
//
// Contract
//  - Writes become compressed writes of whole clusters of the child; what fills a cluster in part
//    is read and written again as a whole. Zeroes and discards go on as they are.
//  - The child's format must be able to compress.
// Errors: texts of QEMU 7.2. Threading: engine thread only.
#pragma once

#include <memory>

#include "block/filters/pass_through.h"
#include "block/graph/graph.h"

namespace blockbed {

class Compress final : public PassThroughFilter {
 public:
  static constexpr const char* kName = "compress";
  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  using PassThroughFilter::PassThroughFilter;

  std::string_view name() const override { return kName; }
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  // Compressed writes are not durable by themselves.
  bool honours_fua_write() const override { return false; }
  void refresh_limits(BlockLimits& limits) const override;
};

}  // namespace blockbed
