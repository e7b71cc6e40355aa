// BlockJob: a job that works on nodes of the graph.
//
// Problem: such a job must stand still while one of its nodes is drained, keep its nodes alive,
// forbid what would pull them away under it, follow a speed and an error policy, and tell all that
// in the events that clients know.
//
// Contract
//  - add_node() and detach_nodes() happen under the graph lock; the edges take what permissions
//    say, and stay with their nodes when a filter is put in. What a kind has not detached at its
//    end it keeps, with what it forbids, until the job is dismissed.
//  - error_action() emits BLOCK_JOB_ERROR and, when the policy says stop, pauses the job as the
//    client would; the caller then goes to its next pause point and tries again.
// Source of the rule: query-block-jobs, the BLOCK_JOB_* events and error texts of QEMU 7.2.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "block/filters/copy_failure.h"
#include "block/filters/rate_limit.h"
#include "block/graph/backend.h"
#include "block/graph/edge.h"
#include "block/graph/operations.h"
#include "block/graph/permissions.h"
#include "block/jobs/job.h"

namespace blockbed {

class GraphChange;

class BlockJob : public Job, public EdgeParent {
 public:
  BlockJob(JobRegistry& registry, JobParameters parameters);
  ~BlockJob() override;

  bool is_block_job() const override { return true; }
  uint64_t speed() const { return speed_; }
  IoStatus io_status() const { return io_status_; }
  // The next error is shown again.
  void forget_error() { io_status_ = IoStatus::kOk; }

  // Its uses of nodes, in the order in which they began.
  const std::vector<std::unique_ptr<Edge>>& edges() const { return edges_; }

  // `busy` of query-block-jobs. Who waits for a pause waits until this is false; otherwise a walk
  // of workers is a wait, and none of the job's own code.
  bool shows_busy() const { return pause_requested() && busy(); }

  // The client's verb. The number is as it came: negative ones are refused.
  Expected<void> user_set_speed(int64_t bytes_per_second);
  // The same at creation, before there are verbs.
  Expected<void> set_speed(int64_t bytes_per_second);

  // --- EdgeParent
  std::string describe_user() const override;
  void drained_begin(Edge& edge) override;
  void drained_end(Edge& edge) override;
  bool drained_poll(Edge& edge) override;
  bool stays_with_node(const Edge&) const override { return true; }
  std::optional<IoContext> child_context() const override;
  Expected<void> join(ContextMove& move) override;

 protected:
  // `forbids`: what nobody may do to the node as a whole until detach_nodes(). The first one is the
  // disk of the job: that may go on being one.
  Expected<void> add_node(std::string edge_name, Node& node, PermissionPair permissions,
                          OperationSet forbids = OperationSet::all());
  void detach_nodes(GraphChange& change);
  void detach_node(GraphChange& change, const Node& node);

  ErrorAction error_action(OnError policy, bool is_read, Errno error);
  // What failed side by side, each by its policy. One that is reported is the job's failure; else
  // the caller goes to its next pause point and tries again.
  Task<JobResult> meet(std::vector<CopyFailure> failures, OnError on_read, OnError on_write);

  virtual void speed_changed() = 0;
  // A pause point that lasts until what was done is paid for: a speed holds for the last piece too.
  Task<void> pay_off(const RateLimit& limit);

  void user_resumed() override;
  void came_to_rest() override;
  void tell_ready() override;
  void tell_pending() override;
  void tell_finished() override;
  Task<void> leave() override;

 private:
  json::Object event_data() const;

  // With each edge the ban of its node, null when it was lifted.
  std::vector<std::unique_ptr<Edge>> edges_;
  std::vector<std::unique_ptr<OperationBan>> bans_;
  uint64_t speed_ = 0;
  IoStatus io_status_ = IoStatus::kOk;
  uint64_t done_at_error_ = UINT64_MAX;
};

}  // namespace blockbed
