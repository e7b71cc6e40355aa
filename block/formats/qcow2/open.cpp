#include "block/formats/qcow2/open.h"

#include <fmt/format.h>

namespace blockbed::qcow2 {

Task<Expected<Header>> read_header(Storage& file, HeaderUse use) {
  uint64_t bytes = kHeaderProbeBytes;
  for (;;) {
    Buffer start(bytes);
    if (auto read = co_await file.read(0, start.io()); !read) {
      co_return fail(fmt::format("Could not read qcow2 header: {}", strerror_text(read.error())));
    }
    auto parsed = parse_header(start.span(), use);
    if (!parsed) co_return fail(std::move(parsed).error());
    if (!parsed->needs_more) co_return std::move(parsed->header);
    // The first cluster holds all there is.
    const uint64_t cluster = parsed->header.cluster_size();
    if (bytes >= cluster) co_return fail("Header extension too large");
    bytes = cluster;
  }
}

}  // namespace blockbed::qcow2
