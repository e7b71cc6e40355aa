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
    : PassThroughFilter(node, disk), member_(std::make_unique<ThrottleMember>(std::move(group))) {}

// --- requests

Task<Result<void>> Throttle::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  co_await member_->admit(ThrottleDirection::kRead, buffers.size());
  co_return co_await file_.read(offset, std::move(buffers), flags);
}

Task<Result<void>> Throttle::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  co_await member_->admit(ThrottleDirection::kWrite, buffers.size());
  co_return co_await file_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> Throttle::write_compressed(uint64_t offset, IoVector buffers) {
  co_await member_->admit(ThrottleDirection::kWrite, buffers.size());
  co_return co_await file_.write(offset, std::move(buffers), RequestFlags().with_compressed());
}

bool Throttle::can_write_compressed() const {
  return file_.node()->driver().can_write_compressed();
}

Task<Result<void>> Throttle::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  co_await member_->admit(ThrottleDirection::kWrite, length);
  co_return co_await file_.zero(offset, length, flags);
}

Task<Result<void>> Throttle::discard(uint64_t offset, uint64_t length) {
  co_await member_->admit(ThrottleDirection::kWrite, length);
  co_return co_await file_.discard(offset, length);
}

// --- facts and life

void Throttle::gather_filename_options(json::Object& options) const {
  options.set("throttle-group", member_->group().name());
}

std::span<const std::string_view> Throttle::changeable_options() const {
  static constexpr std::string_view kChangeable[] = {"throttle-group"};
  return kChangeable;
}

Expected<void> Throttle::check_options(const ReopenState& state) const {
  auto group = group_of(node().graph(), state.options);
  if (!group) return fail(std::move(group).error());
  return {};
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
