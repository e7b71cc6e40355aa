#include "block/protocols/null.h"

#include "block/runtime/env.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

constexpr uint64_t kDefaultSize = uint64_t{1} << 30;
// The options that change what is read; latency is not part of the name.
constexpr const char* kOptionsThatMatter[] = {"size", "read-zeroes"};

}  // namespace

Task<Expected<std::unique_ptr<Driver>>> NullDriver::open(OpenContext& context,
                                                         const schema::BlockdevOptions& options,
                                                         std::string name) {
  const auto& null_options = std::get<schema::BlockdevOptionsNull>(options.u);
  const int64_t size = null_options.size.value_or(static_cast<int64_t>(kDefaultSize));
  if (size < 0) co_return fail("Invalid parameter 'size'");
  const uint64_t latency = null_options.latency_ns.value_or(0);
  if (latency > INT64_MAX) co_return fail("latency-ns is invalid");
  co_return std::make_unique<NullDriver>(context.node(), std::move(name),
                                         static_cast<uint64_t>(size), static_cast<int64_t>(latency),
                                         null_options.read_zeroes.value_or(false));
}

NullDriver::NullDriver(Node& node, std::string name, uint64_t size, int64_t latency_ns,
                       bool read_zeroes)
    : Driver(node),
      name_(std::move(name)),
      size_(size),
      latency_ns_(latency_ns),
      read_zeroes_(read_zeroes) {}

Task<void> NullDriver::delay() {
  if (latency_ns_ > 0) co_await node().env().sleep(latency_ns_);
}

Task<Result<void>> NullDriver::read(uint64_t, IoVector buffers, RequestFlags) {
  if (read_zeroes_) buffers.fill(0);
  co_await delay();
  co_return Result<void>();
}

Task<Result<void>> NullDriver::write(uint64_t, IoVector, RequestFlags) {
  co_await delay();
  co_return Result<void>();
}

Task<Result<void>> NullDriver::flush_to_disk() {
  co_await delay();
  co_return Result<void>();
}

Task<Result<BlockStatus>> NullDriver::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = &node();
  status.zero = read_zeroes_;
  co_return status;
}

Task<Result<uint64_t>> NullDriver::length() { co_return size_; }
Task<Result<std::optional<uint64_t>>> NullDriver::allocated_size() {
  co_return std::optional<uint64_t>(0);
}
Task<void> NullDriver::close() { co_return; }

void NullDriver::gather_filename_options(json::Object& options) const {
  for (const char* key : kOptionsThatMatter) {
    if (const json::Value* value = node().given_options().find(key)) options.set(key, *value);
  }
}

std::string NullDriver::exact_filename() const {
  for (const char* key : kOptionsThatMatter) {
    if (node().given_options().contains(key)) return {};
  }
  return name_ + "://";
}

}  // namespace blockbed
