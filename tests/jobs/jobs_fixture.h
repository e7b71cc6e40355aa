// A graph, a job registry and their events over a simulated world.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/graph/backend.h"
#include "block/graph/graph.h"
#include "block/jobs/backup.h"
#include "block/jobs/job_registry.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"

namespace blockbed::test {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;

inline constexpr PermissionPair kGuest{Permission::kConsistentRead | Permission::kWrite,
                                       Permissions::all()};

// Events in the short form in which tests state them: "j running", "BLOCK_JOB_COMPLETED j 10/10".
struct EventLog final : EventSink {
  using EventSink::emit;
  void emit(std::string_view event, json::Value data) override;
  // What was logged since the last call.
  std::vector<std::string> take() { return std::exchange(lines, {}); }
  std::vector<std::string> lines;
};

class World {
 public:
  explicit World(uint64_t seed);
  // Everything is ended and closed.
  ~World();

  template <class T>
  T run(Task<T> task) {
    return env.run(std::move(task));
  }

  // A `file` node called `name` over a file of that name.
  Node& file(const std::string& name, sim::SparseBytes content, json::Object options = {});
  Node& open(json::Object options);
  std::unique_ptr<Backend> guest(Node& node);
  std::unique_ptr<Backend> device(const std::string& name, Node& node);

  // What the command does: the source is drained, the job is made and started, and told before the
  // reply.
  Task<Expected<std::shared_ptr<BackupJob>>> backup(BackupOptions options);
  BackupOptions options(const std::string& id, Node& source, Node& target,
                        BackupSync sync = BackupSync::kFull);
  // Until the job has this status, or is gone.
  Task<void> wait_for_status(std::shared_ptr<Job> job, JobStatus status);
  // Until it is concluded, or gone.
  Task<void> wait_for_end(std::shared_ptr<Job> job);
  Task<void> drop(Node& node);

  sim::SimEnv env;
  EventLog events;
  DriverRegistry drivers;
  std::optional<Graph> graph;
  std::optional<JobRegistry> jobs;

 private:
  Task<void> finish();
};

}  // namespace blockbed::test
