#include "qmp/commands/run_state.h"

#include <fmt/format.h>

#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/human_command.h"
#include "qmp/monitor/monitor.h"
#include "schema/control.h"
#include "schema/machine.h"
#include "schema/misc.h"

namespace blockbed {

namespace {

using schema::RunState;
using schema::ShutdownCause;

// States out of which a guest cannot go on without a reset.
bool needs_reset(RunState state) {
  return state == RunState::kInternalError || state == RunState::kShutdown;
}

json::Object cause_data(ShutdownCause cause) {
  const bool by_guest = cause == ShutdownCause::kGuestShutdown ||
                        cause == ShutdownCause::kGuestReset || cause == ShutdownCause::kGuestPanic;
  return json::Object{{"guest", by_guest}, {"reason", name(cause)}};
}

}  // namespace

void RunStatus::start() {
  if (state_ != RunState::kPrelaunch) return;
  state_ = RunState::kRunning;
  resumed_.wake_all();
}

void RunStatus::stop(RunState why) {
  if (!running()) return;
  state_ = why;
  events_.emit("STOP", json::Object());
}

Expected<void> RunStatus::resume() {
  if (needs_reset(state_)) return fail("Resetting the Virtual Machine is required");
  if (on_resume_) on_resume_();
  if (running() || state_ == RunState::kInmigrate) return {};
  state_ = RunState::kRunning;
  events_.emit("RESUME", json::Object());
  resumed_.wake_all();
  return {};
}

Task<void> RunStatus::stop_and_settle() {
  stop();
  co_await hooks_.settle_storage();
}

Task<Expected<void>> RunStatus::take_over_and_resume() {
  if (hooks_.activate_storage) BB_CO_TRY(co_await hooks_.activate_storage());
  co_return resume();
}

Task<void> RunStatus::reset(ShutdownCause cause) {
  co_await hooks_.reset_devices();
  events_.emit("RESET", cause_data(cause));
  if (!running() && state_ != RunState::kInmigrate && state_ != RunState::kFinishMigrate) {
    state_ = RunState::kPrelaunch;
  }
}

void RunStatus::power_down() { events_.emit("POWERDOWN", json::Object()); }

Task<void> RunStatus::quit(ShutdownCause cause) {
  if (quitting_) co_return;
  quitting_ = true;
  if (hooks_.tell_shutdown) events_.emit("SHUTDOWN", cause_data(cause));
  if (hooks_.wind_down) co_await hooks_.wind_down();
  hooks_.end();
}

void register_run_state_commands(CommandTable& commands, HumanTable& human, RunStatus& status,
                                 const MachineIdentity& identity) {
  namespace c = schema::commands;
  const bool system = commands.manner() == Manner::kSystem;
  commands.implement<c::Quit>([&status](CommandContext&, c::Quit::Args) -> Task<Expected<void>> {
    co_await status.quit(ShutdownCause::kHostQmpQuit);
    co_return Expected<void>();
  });
  if (!system) return;

  commands.implement<c::QueryStatus>(
      [&status](CommandContext&, c::QueryStatus::Args) -> Expected<schema::StatusInfo> {
        schema::StatusInfo info;
        info.running = status.running();
        info.singlestep = false;
        info.status = status.state();
        return info;
      });
  commands.implement<c::Stop>([&status](CommandContext&, c::Stop::Args) -> Task<Expected<void>> {
    co_await status.stop_and_settle();
    co_return Expected<void>();
  });
  commands.implement<c::Cont>(
      [&status](CommandContext&, c::Cont::Args) { return status.take_over_and_resume(); });
  commands.implement<c::SystemReset>(
      [&status](CommandContext&, c::SystemReset::Args) -> Task<Expected<void>> {
        co_await status.reset(ShutdownCause::kHostQmpSystemReset);
        co_return Expected<void>();
      });
  commands.implement<c::SystemPowerdown>(
      [&status](CommandContext&, c::SystemPowerdown::Args) -> Expected<void> {
        status.power_down();
        return {};
      });
  commands.implement<c::QueryName>(
      [&identity](CommandContext&, c::QueryName::Args) -> Expected<schema::NameInfo> {
        schema::NameInfo info;
        if (!identity.name.empty()) info.name = identity.name;
        return info;
      });
  commands.implement<c::QueryUuid>(
      [&identity](CommandContext&, c::QueryUuid::Args) -> Expected<schema::UuidInfo> {
        schema::UuidInfo info;
        info.uuid = identity.uuid;
        return info;
      });
  commands.implement<c::QueryKvm>(
      [&identity](CommandContext&, c::QueryKvm::Args) -> Expected<schema::KvmInfo> {
        schema::KvmInfo info;
        info.enabled = identity.kvm_enabled;
        info.present = identity.kvm_present;
        return info;
      });
  commands.implement<c::QueryTarget>(
      [](CommandContext&, c::QueryTarget::Args) -> Expected<schema::TargetInfo> {
        schema::TargetInfo info;
        info.arch = schema::SysEmuTarget::kX86_64;
        return info;
      });

  using Human = Task<Expected<void>>;
  human.add({.name = "quit|q",
             .arguments = {},
             .parameters = "",
             .help = "quit the emulator",
             .run = [&status](HumanContext& context, HumanArguments) -> Human {
               context.end_session();
               co_await status.quit(ShutdownCause::kHostQmpQuit);
               co_return Expected<void>();
             }});
  human.add({.name = "stop|s",
             .arguments = {},
             .parameters = "",
             .help = "stop the guest",
             .run = [&status](HumanContext&, HumanArguments) -> Human {
               co_await status.stop_and_settle();
               co_return Expected<void>();
             }});
  human.add({.name = "cont|c",
             .arguments = {},
             .parameters = "",
             .help = "let the guest go on",
             .run = [&status](HumanContext&, HumanArguments) -> Human {
               return status.take_over_and_resume();
             }});
  human.add({.name = "system_reset",
             .arguments = {},
             .parameters = "",
             .help = "reset the machine",
             .run = [&status](HumanContext&, HumanArguments) -> Human {
               co_await status.reset(ShutdownCause::kHostQmpSystemReset);
               co_return Expected<void>();
             }});
  human.add({.name = "system_powerdown",
             .arguments = {},
             .parameters = "",
             .help = "ask the guest to power down",
             .run = [&status](HumanContext&, HumanArguments) -> Human {
               status.power_down();
               co_return Expected<void>();
             }});
  human.add_info({.name = "status",
                  .arguments = {},
                  .parameters = "",
                  .help = "whether the guest runs",
                  .run = [&status](HumanContext& context, HumanArguments) -> Human {
                    std::string text =
                        status.running() ? "VM status: running" : "VM status: paused";
                    if (!status.running() && status.state() != RunState::kPaused) {
                      text += fmt::format(" ({})", name(status.state()));
                    }
                    context.print(text + "\n");
                    co_return Expected<void>();
                  }});
  human.add_info({.name = "name",
                  .arguments = {},
                  .parameters = "",
                  .help = "the name given at the start",
                  .run = [&identity](HumanContext& context, HumanArguments) -> Human {
                    if (!identity.name.empty()) context.print(identity.name + "\n");
                    co_return Expected<void>();
                  }});
  human.add_info({.name = "uuid",
                  .arguments = {},
                  .parameters = "",
                  .help = "the UUID given at the start",
                  .run = [&identity](HumanContext& context, HumanArguments) -> Human {
                    context.print(identity.uuid + "\n");
                    co_return Expected<void>();
                  }});
  human.add_info({.name = "kvm",
                  .arguments = {},
                  .parameters = "",
                  .help = "whether KVM is used",
                  .run = [&identity](HumanContext& context, HumanArguments) -> Human {
                    context.print(fmt::format("kvm support: {}\n", identity.kvm_enabled ? "enabled"
                                                                   : identity.kvm_present
                                                                       ? "disabled"
                                                                       : "not compiled"));
                    co_return Expected<void>();
                  }});
  human.add_info({.name = "version",
                  .arguments = {},
                  .parameters = "",
                  .help = "the version of QEMU that is spoken",
                  .run = [](HumanContext& context, HumanArguments) -> Human {
                    const MonitorOptions& o = context.monitor().options();
                    context.print(
                        fmt::format("{}.{}.{}{}\n", o.major, o.minor, o.micro, o.package));
                    co_return Expected<void>();
                  }});
}

}  // namespace blockbed
