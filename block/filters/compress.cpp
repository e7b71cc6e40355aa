#include "block/filters/compress.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/node.h"

namespace blockbed {

Task<Expected<std::unique_ptr<Driver>>> Compress::open(OpenContext& context,
                                                       const schema::BlockdevOptions&) {
  auto file = co_await context.open_child("file", kFilteredRoles);
  if (!file) co_return fail(std::move(file).error());
  const Driver& below = (*file)->node()->driver();
  if (!below.can_write_compressed()) {
    co_return fail(
        fmt::format("Compression is not supported for underlying format: {}", below.name()));
  }
  co_return std::make_unique<Compress>(context.node(), **file);
}

Task<Result<void>> Compress::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  return file_.write(offset, std::move(buffers), flags.with_compressed());
}

void Compress::refresh_limits(BlockLimits& limits) const {
  limits.request_alignment =
      std::max(limits.request_alignment, static_cast<uint32_t>(info().cluster_size));
}

}  // namespace blockbed
