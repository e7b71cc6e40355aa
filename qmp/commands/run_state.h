// The run state: whether a guest would run now, and the events that clients see when that changes.
//
// Problem: management software follows a machine by STOP, RESUME, RESET, POWERDOWN and SHUTDOWN and
// by query-status, also when no guest is there to run.
//
// Contract
//  - Every change goes through here; the events come out synchronously, so they precede the reply
//    of the command that caused them.
//  - quit() emits SHUTDOWN once (the storage daemon emits none), waits until exports are closed,
//    jobs are cancelled and images are closed, then lets the main loop end; so all their events
//    precede the reply to `quit`. Later calls do nothing.
// Source of the rule: QEMU 7.2's query-status and events. Threading: engine thread.
#pragma once

#include <functional>
#include <string>

#include "block/exports/guest_disk.h"
#include "block/runtime/event_sink.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"
#include "schema/run_state.h"

namespace blockbed {

class CommandTable;
class HumanTable;

class RunStatus final : public GuestState {
 public:
  struct Hooks {
    // Closes exports, cancels jobs, closes all images.
    std::function<Task<void>()> wind_down;
    // The main loop may end.
    std::function<void()> end;
    // All requests have ended, and what caches hold is in the images.
    std::function<Task<void>()> settle_storage;
    // The requests of devices have ended.
    std::function<Task<void>()> reset_devices;
    // Images that were left to another machine are this one's.
    std::function<Task<Expected<void>>()> activate_storage;
    // The storage daemon has no machine to shut down.
    bool tell_shutdown = true;
  };
  RunStatus(Executor& executor, EventSink& events, Hooks hooks)
      : events_(events), hooks_(std::move(hooks)), resumed_(executor) {}
  RunStatus(const RunStatus&) = delete;
  RunStatus& operator=(const RunStatus&) = delete;

  schema::RunState state() const { return state_; }
  // --- GuestState
  bool running() const override { return state_ == schema::RunState::kRunning; }
  WaitQueue& resumed() override { return resumed_; }
  void stop_on_error() override { stop(schema::RunState::kIoError); }

  // At start-up: prelaunch becomes running unless the guest is to wait.
  void start();
  // At start-up: the guest runs elsewhere still. Nothing here ends that state.
  void await_guest() { state_ = schema::RunState::kInmigrate; }
  // A running guest stops, with STOP; any other state stays.
  void stop(schema::RunState why = schema::RunState::kPaused);
  // What the user asks for: stops, and settles the storage, also when it had stopped before.
  Task<void> stop_and_settle();
  // RESUME; fails when the machine must be reset first. A guest that is awaited will run when it is
  // there, without an event now.
  Expected<void> resume();
  // What the user asks for: takes the images into use first.
  Task<Expected<void>> take_over_and_resume();
  Task<void> reset(schema::ShutdownCause cause);
  void power_down();
  Task<void> quit(schema::ShutdownCause cause);
  bool quitting() const { return quitting_; }

  // What `cont` does besides: error states of devices and jobs are cleared. Set by who owns them.
  void on_resume(std::function<void()> hook) { on_resume_ = std::move(hook); }

 private:
  EventSink& events_;
  Hooks hooks_;
  std::function<void()> on_resume_;
  schema::RunState state_ = schema::RunState::kPrelaunch;
  WaitQueue resumed_;
  bool quitting_ = false;
};

struct MachineIdentity {
  std::string name;
  std::string uuid = "00000000-0000-0000-0000-000000000000";
  // Whether /dev/kvm was asked for and can be used.
  // No guest runs, and a test drives the machine.
  bool qtest = false;
  bool kvm_enabled = false;
  bool kvm_present = false;
  std::string machine_type;
};

// query-status, stop, cont, system_reset, system_powerdown, quit, query-name, query-uuid,
// query-kvm, query-target, and their human forms. All references outlive the tables.
void register_run_state_commands(CommandTable& commands, HumanTable& human, RunStatus& status,
                                 const MachineIdentity& identity);

}  // namespace blockbed
