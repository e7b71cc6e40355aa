// The engine: everything that a running server is made of, put together and taken apart in order.
//
// Problem: both manners of starting need the same parts - graph, jobs, exports, objects, monitors -
// with different commands and a different command line.
//
// Contract
//  - Construction opens nothing and starts no thread. The commands of a manner are registered by
//    it.
//  - `quit` runs wind_down(), which closes exports and cancels jobs, then close_storage(): devices,
//    drives, nodes. So who has its reply knows that everything is on the disk. shut_down() ends
//    all the rest; after it the engine may die.
// Threading: engine thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/exports/export_registry.h"
#include "block/exports/nbd/server.h"
#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"
#include "block/runtime/sync.h"
#include "qmp/commands/export_commands.h"
#include "qmp/commands/human_block.h"
#include "qmp/commands/machine_snapshots.h"
#include "qmp/commands/objects.h"
#include "qmp/commands/qom.h"
#include "qmp/commands/run_state.h"
#include "qmp/machine/machine.h"
#include "qmp/machine/removable_media.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/human_command.h"
#include "qmp/monitor/monitor.h"
#include "qmp/server/chardevs.h"
#include "qmp/server/incoming.h"

namespace blockbed {
class ProductionEnv;
}

namespace blockbed::server {

class Engine {
 public:
  // `machine_type` is null for the storage daemon.
  Engine(Env& env, Manner manner, const MachineType* machine_type, MachineIdentity identity);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Env& env() { return env_; }
  Manner manner() const { return manner_; }
  Graph& graph() { return graph_; }
  ObjectStore& objects() { return objects_; }
  Monitor& monitor() { return monitor_; }
  RunStatus& status() { return status_; }
  Chardevs& chardevs() { return chardevs_; }
  ExportRegistry& exports() { return exports_; }
  ExportServices export_services();
  Drives& drives() { return *drives_; }
  Machine& machine() { return *machine_; }
  Incoming& incoming() { return incoming_; }

  // Before anything is opened: a guest is to come from elsewhere.
  void await_guest();

  // Waits until `quit` or a signal has ended the program's work.
  Task<void> wait_for_end();
  // SIGINT, SIGTERM and SIGHUP quit in order.
  void handle_signals(ProductionEnv& env, bool tell);

  Task<void> settle_storage();
  Task<void> reset_devices();
  Task<Expected<void>> activate_storage();
  Task<void> wind_down();
  Task<void> close_storage();
  Task<void> shut_down();

 private:
  void register_commands();
  // What `cont` does besides.
  void forget_errors();

  Env& env_;
  const Manner manner_;
  MachineIdentity identity_;
  CommandTable commands_;
  HumanTable human_;
  Monitor monitor_;
  DriverRegistry drivers_;
  Graph graph_;
  JobRegistry jobs_;
  ExportRegistry exports_;
  nbd::NbdServer nbd_;
  ObjectStore objects_;
  QomTree qom_;
  RunStatus status_;
  MachineSnapshots snapshots_;
  NoDevices no_devices_;
  std::unique_ptr<Drives> drives_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<RemovableMedia> media_;
  std::unique_ptr<QemuIoRequests> qemu_io_;
  Chardevs chardevs_;
  Event ended_;
  Incoming incoming_;
  // A quit that a signal asked for.
  Gate signals_;
};

}  // namespace blockbed::server
