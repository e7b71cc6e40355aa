#include "block/filters/preallocate.h"

#include <fmt/format.h>

#include "block/graph/graph_change.h"
#include "block/graph/node.h"
#include "block/graph/option_text.h"
#include "block/graph/reopen.h"
#include "block/runtime/event_sink.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

constexpr uint64_t kSector = 512;
constexpr std::string_view kAlign = "prealloc-align";
constexpr std::string_view kSize = "prealloc-size";

bool can_grow(Permissions needs) {
  return needs.has(Permission::kWrite) && needs.has(Permission::kResize);
}

Expected<Preallocate::Options> read_options(const schema::BlockdevOptionsPreallocate& own) {
  Preallocate::Options options;
  auto align = size_option(kAlign, own.prealloc_align);
  if (!align) return fail(std::move(align).error());
  auto size = size_option(kSize, own.prealloc_size);
  if (!size) return fail(std::move(size).error());
  if (align->value_or(0) % kSector != 0) {
    return fail("prealloc-align parameter of preallocate filter is not aligned to 512");
  }
  options.align = align->value_or(options.align);
  options.size = size->value_or(options.size);
  return options;
}

}  // namespace

Task<Expected<std::unique_ptr<Driver>>> Preallocate::open(OpenContext& context,
                                                          const schema::BlockdevOptions& options) {
  auto own = read_options(std::get<schema::BlockdevOptionsPreallocate>(options.u));
  if (!own) co_return fail(std::move(own).error());
  auto file = co_await context.open_child("file", kFilteredRoles);
  if (!file) co_return fail(std::move(file).error());
  co_return std::make_unique<Preallocate>(context.node(), **file, *own);
}

Preallocate::Preallocate(Node& node, Edge& file, Options options)
    : PassThroughFilter(node, file),
      options_(options),
      growing_(node.graph().executor()),
      giving_back_(node.graph().executor()) {}

// --- requests

Task<Result<void>> Preallocate::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  co_await reach(offset + buffers.size());
  co_return co_await file_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> Preallocate::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  co_await reach(offset + length);
  co_return co_await file_.zero(offset, length, flags);
}

// Before a request that ends there.
Task<void> Preallocate::reach(uint64_t end) {
  if (!may_grow_ || end <= file_.node()->length()) co_return;
  const MutexGuard guard = co_await growing_.lock();
  const uint64_t begin = file_.node()->length();
  if (end <= begin || options_.size > kMaxLength - end) co_return;
  const uint64_t unit = std::max<uint64_t>(options_.align, 1);
  const uint64_t wanted = end + options_.size + unit - 1;
  const uint64_t target = wanted - wanted % unit;
  if (target > kMaxLength) co_return;
  // The child's growth must not be taken for our own.
  const bool was_ahead = std::exchange(ahead_, true);
  const Result<void> done =
      co_await file_.zero(begin, target - begin, RequestFlags().with_no_fallback());
  if (!done) ahead_ = was_ahead;
}

// --- size

Task<Result<uint64_t>> Preallocate::length() {
  if (ahead_) co_return node().length();
  co_return co_await PassThroughFilter::length();
}

void Preallocate::child_resized(Edge& edge) {
  if (!ahead_) PassThroughFilter::child_resized(edge);
}

Task<Expected<void>> Preallocate::truncate(uint64_t length, TruncateOptions options) {
  BB_CO_TRY(co_await give_back());
  co_return co_await file_.truncate(length, options);
}

Task<Expected<void>> Preallocate::give_back() {
  const MutexGuard guard = co_await growing_.lock();
  if (!ahead_) co_return Expected<void>();
  const uint64_t length = node().length();
  // Written beyond what was preallocated: then there is nothing to give back.
  if (file_.node()->length() > length) BB_CO_TRY(co_await file_.truncate(length, {}));
  ahead_ = false;
  co_return Expected<void>();
}

// --- permissions

PermissionPair Preallocate::child_permissions(const Edge*, ChildRoles roles, PermissionPair parent,
                                              bool writable) const {
  PermissionPair result = default_child_permissions(node(), roles, parent, writable);
  if (ahead_) result.needs |= Permission::kWrite | Permission::kResize;
  if (can_grow(result.needs)) {
    result.shares = result.shares - (Permission::kWrite | Permission::kResize);
  }
  return result;
}

void Preallocate::commit_permissions(Permissions needs, Permissions) {
  may_grow_ = can_grow(needs);
  if (!may_grow_ && ahead_ && !closing_ && giving_back_.inside() == 0) {
    giving_back_.spawn(give_back_unused());
  }
}

// Nobody who may write is left, but the node stays.
Task<void> Preallocate::give_back_unused() {
  // Out of the graph change that took the last one away.
  co_await node().graph().executor().yield();
  if (!may_grow_ && !closing_ && co_await give_back()) {
    // What was held for it is free again; less can be in nobody's way.
    GraphChange change(node().graph());
    change.recheck(node());
    const Expected<void> checked = change.check();
    BB_ASSERT(checked.has_value());
    change.commit();
  }
  node().graph().drain_progress();
}

// --- life

std::span<const std::string_view> Preallocate::changeable_options() const {
  static constexpr std::string_view kChangeable[] = {kAlign, kSize};
  return kChangeable;
}

Expected<void> Preallocate::check_options(const ReopenState& state) const {
  const auto& own = std::get<schema::BlockdevOptionsPreallocate>(state.options.u);
  // What was said once must be said again.
  for (const auto& [name, value] :
       {std::pair(kAlign, own.prealloc_align), std::pair(kSize, own.prealloc_size)}) {
    if (value || !node().given_options().contains(name)) continue;
    return fail(fmt::format("Option '{}' cannot be reset to its default value", name));
  }
  auto options = read_options(own);
  if (!options) return fail(std::move(options).error());
  return {};
}

Task<Expected<void>> Preallocate::reopen_prepare(const ReopenState& state) {
  auto options = read_options(std::get<schema::BlockdevOptionsPreallocate>(state.options.u));
  if (!options) co_return fail(std::move(options).error());
  if (!state.writable()) BB_CO_TRY(co_await give_back());
  reopened_ = *options;
  co_return Expected<void>();
}

Task<void> Preallocate::reopen_finish() {
  reopened_.reset();
  co_return;
}

Task<void> Preallocate::close() {
  closing_ = true;
  co_await giving_back_.close();
  if (auto done = co_await give_back(); !done) {
    node().graph().events().tell(fmt::format("preallocate: {}", done.error().description));
  }
}

}  // namespace blockbed
