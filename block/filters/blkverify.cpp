#include "block/filters/blkverify.h"

#include <fmt/format.h>

#include "block/filters/compare_buffers.h"
#include "block/graph/node.h"
#include "block/runtime/gate.h"

namespace blockbed {

namespace {

constexpr std::string_view kPrefix = "blkverify:";

Task<void> keep_result(Task<Result<void>> request, Result<void>& into) {
  into = co_await std::move(request);
}

int number_of(const Result<void>& result) { return result ? 0 : -result.error().number(); }

}  // namespace

Expected<json::Object> Blkverify::parse_filename(std::string_view filename) {
  BB_ASSERT(filename.starts_with(kPrefix));
  const std::string_view rest = filename.substr(kPrefix.size());
  const std::size_t colon = rest.find(':');
  if (colon == std::string_view::npos) {
    return fail("blkverify requires raw copy and original image path");
  }
  json::Object raw;
  raw.set("driver", "file");
  raw.set("filename", rest.substr(0, colon));
  json::Object storage;
  storage.set("filename", rest.substr(colon + 1));
  json::Object test;
  test.set("file", std::move(storage));
  json::Object options;
  options.set("raw", std::move(raw));
  options.set("test", std::move(test));
  return options;
}

Task<Expected<std::unique_ptr<Driver>>> Blkverify::open(OpenContext& context,
                                                        const schema::BlockdevOptions&) {
  auto raw = co_await context.open_child("raw", kFilteredRoles);
  if (!raw) co_return fail(std::move(raw).error());
  auto test = co_await context.open_child("test", ChildRole::kData);
  if (!test) co_return fail(std::move(test).error());
  co_return std::make_unique<Blkverify>(context.node(), **test, **raw);
}

void Blkverify::agree(const char* what, uint64_t offset, uint64_t length, const Result<void>& test,
                      const Result<void>& raw) {
  if (number_of(test) == number_of(raw)) return;
  stop_on_mismatch(node().graph().events(),
                   fmt::format("blkverify: {} offset={} bytes={} return value mismatch {} != {}",
                               what, offset, length, number_of(test), number_of(raw)));
}

Task<Result<void>> Blkverify::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  Buffer expected(buffers.size());
  Result<void> test, raw;
  Gate both(node().graph().executor());
  both.spawn(keep_result(test_.read(offset, buffers, flags), test));
  both.spawn(keep_result(raw_.read(offset, expected.io(), flags), raw));
  co_await both.close();
  agree("read", offset, buffers.size(), test, raw);
  if (!test) co_return test;
  if (const auto at = first_difference(buffers, expected.io())) {
    stop_on_mismatch(
        node().graph().events(),
        fmt::format("blkverify: read offset={} bytes={} contents mismatch at offset {}", offset,
                    buffers.size(), offset + *at));
  }
  co_return test;
}

Task<Result<void>> Blkverify::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  Result<void> test, raw;
  Gate both(node().graph().executor());
  both.spawn(keep_result(test_.write(offset, buffers, flags), test));
  both.spawn(keep_result(raw_.write(offset, buffers, flags), raw));
  co_await both.close();
  agree("write", offset, buffers.size(), test, raw);
  co_return test;
}

Task<Result<BlockStatus>> Blkverify::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = raw_.node();
  status.passes_through = true;
  co_return status;
}

void Blkverify::child_resized(Edge& edge) {
  if (&edge == &test_) node().set_length(test_.node()->length());
}

Task<Result<std::optional<uint64_t>>> Blkverify::allocated_size() {
  // As with QEMU, which counts it among the protocols that cannot tell.
  co_return io_error(ENOTSUP);
}

std::string Blkverify::exact_filename() const {
  const std::string raw = raw_.node()->exact_filename();
  const std::string test = test_.node()->exact_filename();
  if (raw.empty() || test.empty()) return {};
  return fmt::format("{}{}:{}", kPrefix, raw, test);
}

}  // namespace blockbed
