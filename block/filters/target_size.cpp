#include "block/filters/target_size.h"

#include "block/graph/edge.h"
#include "block/graph/node.h"

namespace blockbed {

namespace {

constexpr uint64_t kSector = 512;

uint64_t sectors(uint64_t length) { return length / kSector + (length % kSector != 0 ? 1 : 0); }

}  // namespace

bool same_sectors(const Node& source, const Node& target) {
  return target.length() >= source.length() && sectors(target.length()) == sectors(source.length());
}

Task<Result<void>> zero_rest_of_sector(Edge& target, uint64_t source_length) {
  const uint64_t length = target.node()->length();
  for (uint64_t at = source_length; at < length;) {
    const auto status = co_await target.node()->block_status(at, length - at);
    if (!status) co_return io_error(status.error());
    if (!status->zero) BB_CO_TRY(co_await target.zero(at, status->length, RequestFlags()));
    at += status->length;
  }
  co_return Result<void>();
}

}  // namespace blockbed
