#include "block/filters/throttle.h"

#include <fmt/format.h>

#include "block/graph/graph.h"
#include "block/graph/node.h"
#include "block/graph/reopen.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

Expected<std::shared_ptr<ThrottleGroup>> group_of(Graph& graph,
                                                  const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsThrottle>(options.u);
  auto group = graph.throttle_groups().find(own.throttle_group);
  if (group == nullptr) {
    return fail(fmt::format("Throttle group '{}' does not exist", own.throttle_group));
  }
  return group;
}

}  // namespace

Task<Expected<std::unique_ptr<Driver>>> Throttle::open(OpenContext& context,
                                                       const schema::BlockdevOptions& options) {
  auto disk = co_await context.open_child("file", kFilteredRoles);
  if (!disk) co_return fail(std::move(disk).error());
  auto group = group_of(context.graph(), options);
  if (!group) co_return fail(std::move(group).error());
  co_return std::make_unique<Throttle>(context.node(), **disk, std::move(*group));
}

Throttle::Throttle(Node& node, Edge& disk, std::shared_ptr<ThrottleGroup> group)
    : Driver(node), disk_(disk), member_(std::make_unique<ThrottleMember>(std::move(group))) {}

// --- requests

Task<Result<void>> Throttle::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  co_await member_->admit(ThrottleDirection::kRead, buffers.size());
  co_return co_await disk_.read(offset, std::move(buffers), flags);
}

Task<Result<void>> Throttle::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  co_await member_->admit(ThrottleDirection::kWrite, buffers.size());
  co_return co_await disk_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> Throttle::write_compressed(uint64_t offset, IoVector buffers) {
  co_await member_->admit(ThrottleDirection::kWrite, buffers.size());
  RequestFlags flags;
  flags.compressed = true;
  co_return co_await disk_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> Throttle::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  co_await member_->admit(ThrottleDirection::kWrite, length);
  co_return co_await disk_.zero(offset, length, flags);
}

Task<Result<void>> Throttle::discard(uint64_t offset, uint64_t length) {
  co_await member_->admit(ThrottleDirection::kWrite, length);
  co_return co_await disk_.discard(offset, length);
}

Task<Result<BlockStatus>> Throttle::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = disk_.node();
  status.passes_through = true;
  co_return status;
}

// --- size and facts

Task<Result<uint64_t>> Throttle::length() { return disk_.node()->refresh_length(); }

bool Throttle::length_varies() const { return disk_.node()->driver().length_varies(); }

Task<Expected<void>> Throttle::truncate(uint64_t length, TruncateOptions options) {
  return disk_.truncate(length, options);
}

void Throttle::child_resized(Edge&) { node().set_length(disk_.node()->length()); }

DriverInfo Throttle::info() const { return disk_.node()->driver().info(); }
bool Throttle::has_zero_init() const { return disk_.node()->driver().has_zero_init(); }
bool Throttle::has_zero_init_truncate() const {
  return disk_.node()->driver().has_zero_init_truncate();
}
bool Throttle::can_write_compressed() const {
  return disk_.node()->driver().can_write_compressed();
}

void Throttle::gather_filename_options(json::Object& options) const {
  options.set("throttle-group", member_->group().name());
}

// --- life

std::span<const std::string_view> Throttle::changeable_options() const {
  static constexpr std::string_view kChangeable[] = {"throttle-group"};
  return kChangeable;
}

Task<Expected<void>> Throttle::reopen_prepare(const ReopenState& state) {
  auto group = group_of(node().graph(), state.options);
  if (!group) co_return fail(std::move(group).error());
  if (group->get() != &member_->group()) {
    other_ = std::make_unique<ThrottleMember>(std::move(*group));
  }
  co_return Expected<void>();
}

void Throttle::reopen_commit() {
  if (other_ == nullptr) return;
  // The node is drained: whose limits do not hold now is the new one.
  other_->lift();
  member_->restore();
  std::swap(member_, other_);
}

Task<void> Throttle::reopen_finish() {
  other_.reset();
  co_return;
}

Task<void> Throttle::close() {
  member_.reset();
  co_return;
}

}  // namespace blockbed
