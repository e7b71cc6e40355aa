#include "block/graph/backend.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/graph_change.h"
#include "block/graph/medium.h"
#include "block/runtime/env.h"

namespace blockbed {

// One request of a backend: waits while drained, is counted while it runs.
class Backend::RequestScope {
 public:
  explicit RequestScope(Backend& backend) : backend_(backend) { ++backend_.in_flight_; }
  ~RequestScope() {
    if (--backend_.in_flight_ == 0) backend_.graph_.drain_progress();
  }
  RequestScope(const RequestScope&) = delete;
  RequestScope& operator=(const RequestScope&) = delete;

 private:
  Backend& backend_;
};

Backend::Backend(Graph& graph, std::string name, PermissionPair permissions)
    : graph_(graph),
      name_(std::move(name)),
      edge_(*this, "root", ChildRole::kPrimary),
      wanted_(permissions),
      accounting_(graph.guest_clock()),
      queued_(graph.executor()) {
  graph_.backends_.push_back(this);
}

Backend::~Backend() {
  BB_ASSERT(in_flight_ == 0 && edge_.node() == nullptr);
  std::erase(graph_.backends_, this);
}

Expected<void> Backend::insert(Node& node) {
  BB_ASSERT(edge_.node() == nullptr);
  GraphChange change(graph_);
  change.attach_root(edge_, node, permissions_on(node));
  BB_TRY(change.check());
  change.commit();
  return {};
}

Task<void> Backend::remove() {
  Node* old = node();
  if (old == nullptr) co_return;
  DrainedSection drained = co_await drain(*old);
  GraphChange change(graph_);
  change.detach_root(edge_);
  // Fewer needs cannot conflict with anything.
  const Expected<void> checked = change.check();
  BB_ASSERT(checked.has_value());
  change.commit();
}

Task<void> Backend::release() {
  if (node() == nullptr) co_return;
  (co_await drain(*node())).end();
  co_await remove();
}

Expected<void> Backend::set_permissions(PermissionPair permissions) {
  const PermissionPair before = std::exchange(wanted_, permissions);
  if (node() == nullptr) return {};
  GraphChange change(graph_);
  change.set_permissions(edge_, permissions_on(*node()));
  if (auto possible = change.check(); !possible) {
    wanted_ = before;
    return possible;
  }
  change.commit();
  return {};
}

PermissionPair Backend::permissions_on(const Node& node) const {
  if (!for_guest_ || !graph_.awaits_guest()) return wanted_;
  return {node.flags().inactive ? Permissions::none() : wanted_.needs, Permissions::all()};
}

Expected<void> Backend::bind(IoContext context) {
  const std::optional<IoContext> before = std::exchange(bound_, context);
  if (node() == nullptr) return {};
  Expected<void> moved = move_to_context(*node(), std::move(context));
  if (!moved) bound_ = before;
  return moved;
}

Expected<void> Backend::join(ContextMove& move) {
  if (bound_ && *bound_ != move.to()) return fail("Cannot change iothread of active block backend");
  return {};
}

uint64_t Backend::length() const { return node() == nullptr ? 0 : node()->length(); }

Result<void> Backend::check(uint64_t offset, uint64_t length) const {
  if (node() == nullptr) return io_error(ENOMEDIUM);
  if (length > kMaxLength) return io_error(EIO);
  if (!allow_write_beyond_end_ &&
      (offset > node()->length() || length > node()->length() - offset)) {
    return io_error(EIO);
  }
  return {};
}

Result<void> Backend::check_change(uint64_t offset, uint64_t length) const {
  BB_TRY(check(offset, length));
  // Whoever stands here has not got the permission to write, and need not have been refused.
  if (node()->flags().inactive) return io_error(EPERM);
  return {};
}

Task<void> Backend::wait_while_drained() {
  while (quiesce_count_ > 0 && !disable_request_queuing_) co_await queued_.wait();
}

Task<Result<void>> Backend::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (must_wait()) co_await wait_while_drained();
  RequestScope request(*this);
  BB_CO_TRY(check(offset, buffers.size()));
  if (throttle_) co_await throttle_->admit(ThrottleDirection::kRead, buffers.size());
  co_return co_await node()->read(offset, std::move(buffers), flags);
}

Task<Result<void>> Backend::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (must_wait()) co_await wait_while_drained();
  RequestScope request(*this);
  BB_CO_TRY(check_change(offset, buffers.size()));
  if (throttle_) co_await throttle_->admit(ThrottleDirection::kWrite, buffers.size());
  if (!write_cache_) flags.fua = true;
  co_return co_await edge_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> Backend::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  if (must_wait()) co_await wait_while_drained();
  RequestScope request(*this);
  BB_CO_TRY(check_change(offset, length));
  if (throttle_) co_await throttle_->admit(ThrottleDirection::kWrite, length);
  if (!write_cache_) flags.fua = true;
  co_return co_await edge_.zero(offset, length, flags);
}

Task<Result<void>> Backend::discard(uint64_t offset, uint64_t length) {
  if (must_wait()) co_await wait_while_drained();
  RequestScope request(*this);
  BB_CO_TRY(check_change(offset, length));
  co_return co_await edge_.discard(offset, length);
}

Task<Result<void>> Backend::flush() {
  if (must_wait()) co_await wait_while_drained();
  RequestScope request(*this);
  if (node() == nullptr) co_return io_error(ENOMEDIUM);
  co_return co_await node()->flush();
}

Task<Expected<void>> Backend::truncate(uint64_t length, TruncateOptions options) {
  if (must_wait()) co_await wait_while_drained();
  RequestScope request(*this);
  if (node() == nullptr || !has_medium(*node())) co_return fail("No medium inserted");
  if (node()->flags().inactive) co_return fail("Block node is read-only");
  co_return co_await edge_.truncate(length, options);
}

void Backend::set_throttle_group(std::shared_ptr<ThrottleGroup> group) {
  if (group != nullptr && throttle_group() == group.get()) return;
  throttle_.reset();
  if (group == nullptr) return;
  throttle_ = std::make_unique<ThrottleMember>(std::move(group));
  if (quiesced()) throttle_->lift();
}

bool Backend::keeps_io_status() const {
  const auto stops = [](OnError policy) {
    return policy == OnError::kStop || policy == OnError::kEnospc;
  };
  // Nothing said means: stop when space runs out.
  return io_status_enabled && (on_write_error == OnError::kAuto || stops(on_write_error) ||
                               on_read_error == OnError::kStop);
}

std::string Backend::describe_user() const {
  if (!description_.empty()) return description_;
  if (!name_.empty()) return fmt::format("block device '{}'", name_);
  return "an unnamed block device";
}

void Backend::drained_begin(Edge&) {
  if (quiesce_count_++ > 0) return;
  if (user_ != nullptr) user_->drained_begin();
  if (throttle_) throttle_->lift();
}

void Backend::drained_end(Edge&) {
  BB_ASSERT(quiesce_count_ > 0);
  if (--quiesce_count_ > 0) return;
  if (throttle_) throttle_->restore();
  if (user_ != nullptr) user_->drained_end();
  queued_.wake_all();
}

bool Backend::drained_poll(Edge&) {
  return in_flight_ > 0 || (user_ != nullptr && user_->drained_poll());
}

void Backend::node_resized(Edge&) {
  if (user_ != nullptr) user_->node_resized();
}
void Backend::node_replaced(Edge&) {
  if (user_ != nullptr) user_->node_replaced();
}
bool Backend::stays_with_node(const Edge&) const { return stays_with_node_; }

}  // namespace blockbed
