// Backend: a root of the graph: what a device, a job, an export or a monitor drive uses to reach
// its node.
//
// Problem: users at the top need the same things: an edge with permissions, requests that wait
// while the node is drained, limits, error policies, accounting, a write cache that can be turned
// off.
//
// Contract
//  - A Backend has at most one node (a drive without medium has none; requests then fail with
//    ENOMEDIUM).
//  - Requests check bounds against the node's length (EIO beyond it unless allow_write_beyond_end),
//    wait while drained unless the backend serves a drain itself (disable_request_queuing), and are
//    counted so that drain waits for them.
//  - In a throttle group, reads, writes and zeroes wait for their turn, but not while drained. A
//    backend keeps its group when its node goes.
//  - A named backend is a "device" to clients (-drive id=, drive_add). Others are anonymous.
//  - A backend that is bound to a context (io_context.h) takes its nodes there and keeps them
//    there; others go where their nodes go.
//  - While a guest is awaited, those for_guest take no permission before their node is active.
//  - It dies without node and with no request in flight.
// Source of the rule: what QEMU calls BlockBackend, as visible in query-block and query-blockstats.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "block/graph/accounting.h"
#include "block/graph/edge.h"
#include "block/graph/error_policy.h"
#include "block/graph/graph.h"
#include "block/graph/permissions.h"
#include "block/graph/request.h"

namespace blockbed {

// Who stands behind a backend; all optional.
class BackendUser {
 public:
  virtual ~BackendUser() = default;
  virtual void drained_begin() {}
  virtual void drained_end() {}
  virtual bool drained_poll() { return false; }
  virtual void node_resized() {}
  virtual void node_replaced() {}
};

class Backend final : public EdgeParent {
 public:
  // name "" is an anonymous backend.
  Backend(Graph& graph, std::string name, PermissionPair permissions);
  ~Backend();
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  Graph& graph() const { return graph_; }
  const std::string& name() const { return name_; }
  // Its user goes on without it: the name is free again.
  void forget_name() { name_.clear(); }
  Node* node() const { return edge_.node(); }
  Edge& edge() { return edge_; }

  // Text for permission errors of an unnamed one: "block device 'virtio0'"; default by name.
  void set_description(std::string description) { description_ = std::move(description); }
  void set_user(BackendUser* user) { user_ = user; }

  // The node moves there, now and whenever there is another one. Fails when it cannot; then the
  // backend is bound as it was before.
  Expected<void> bind(IoContext context);
  void unbind() { bound_.reset(); }

  // The caller holds the graph lock; the node is drained inside.
  Expected<void> insert(Node& node);
  Task<void> remove();
  // The same when the backend itself is about to go. As in QEMU its node is drained once more,
  // which clients see: jobs on it pause each time.
  Task<void> release();
  Expected<void> set_permissions(PermissionPair permissions);
  // What it wants of its node (kept while it has none).
  const PermissionPair& wanted_permissions() const { return wanted_; }
  // What it takes of this one: a guest's device nothing before the node is active, and it keeps
  // others from nothing while the guest may still be written to by who moves it (activation.h).
  PermissionPair permissions_on(const Node& node) const;
  bool for_guest() const { return for_guest_; }
  void set_for_guest(bool for_guest) { for_guest_ = for_guest; }

  // --- requests
  uint64_t length() const;
  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags = {});
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags = {});
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags = {});
  Task<Result<void>> discard(uint64_t offset, uint64_t length);
  Task<Result<void>> flush();
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options);

  bool write_cache() const { return write_cache_; }
  void set_write_cache(bool on) { write_cache_ = on; }
  void set_allow_write_beyond_end(bool allow) { allow_write_beyond_end_ = allow; }
  // Requests go through while drained: for users that stop by themselves (jobs).
  void set_disable_request_queuing(bool disable) { disable_request_queuing_ = disable; }

  // `rerror` and `werror`: for guests' requests.
  OnError on_read_error = OnError::kAuto;
  OnError on_write_error = OnError::kAuto;
  bool io_status_enabled = false;
  IoStatus io_status = IoStatus::kOk;
  // A guest with such policies may have to stop.
  bool keeps_io_status() const;

  Accounting& accounting() { return accounting_; }

  // Null: no limits. What waits in another group goes on at once.
  void set_throttle_group(std::shared_ptr<ThrottleGroup> group);
  const ThrottleGroup* throttle_group() const { return throttle_ ? &throttle_->group() : nullptr; }

  bool quiesced() const { return quiesce_count_ > 0; }
  uint64_t in_flight() const { return in_flight_; }

  // --- EdgeParent
  std::string describe_user() const override;
  void drained_begin(Edge& edge) override;
  void drained_end(Edge& edge) override;
  bool drained_poll(Edge& edge) override;
  void node_resized(Edge& edge) override;
  void node_replaced(Edge& edge) override;
  bool stays_with_node(const Edge& edge) const override;
  std::optional<IoContext> child_context() const override { return bound_; }
  Expected<void> join(ContextMove& move) override;
  void set_stays_with_node(bool stays) { stays_with_node_ = stays; }

 private:
  class RequestScope;
  bool must_wait() const { return quiesce_count_ > 0 && !disable_request_queuing_; }
  Task<void> wait_while_drained();
  Result<void> check(uint64_t offset, uint64_t length) const;
  Result<void> check_change(uint64_t offset, uint64_t length) const;

  Graph& graph_;
  std::string name_;
  std::string description_;
  Edge edge_;
  PermissionPair wanted_;
  BackendUser* user_ = nullptr;
  Accounting accounting_;
  std::unique_ptr<ThrottleMember> throttle_;
  std::optional<IoContext> bound_;
  WaitQueue queued_;
  uint64_t in_flight_ = 0;
  int quiesce_count_ = 0;
  bool write_cache_ = true;
  bool allow_write_beyond_end_ = false;
  bool disable_request_queuing_ = false;
  bool stays_with_node_ = false;
  bool for_guest_ = false;
};

}  // namespace blockbed
