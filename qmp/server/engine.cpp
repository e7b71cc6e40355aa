#include "qmp/server/engine.h"

#include <fmt/format.h>

#include <csignal>
#include <fstream>

#include "block/filters/register.h"
#include "block/formats/register.h"
#include "block/graph/activation.h"
#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/jobs/block_job.h"
#include "block/protocols/register.h"
#include "block/runtime/production_env.h"
#include "block/runtime/signals.h"
#include "qmp/commands/block_nodes.h"
#include "qmp/commands/block_query.h"
#include "qmp/commands/human_exports.h"
#include "qmp/commands/introspection.h"
#include "qmp/commands/iothread_commands.h"
#include "qmp/commands/machine_snapshot_commands.h"
#include "qmp/commands/reopen_commands.h"
#include "qmp/commands/throttle_commands.h"
#include "qmp/monitor/monitor_commands.h"
#include "qmp/server/messages.h"
#include "qmp/server/register_jobs.h"
#include "qmp/server/version.h"
#include "schema/char.h"

namespace blockbed::server {

namespace {

MonitorOptions monitor_options() {
  MonitorOptions options;
  options.package = std::string(kPackage);
  options.standard_output = [](std::string_view text) { write_stdout(text); };
  options.standard_error = [](std::string_view text) { write_stderr(text); };
  options.report_error = [](std::string_view text) { report_error("", text); };
  return options;
}

// "terminating on signal 15 from pid 7 (kill)"
std::string termination_text(int signal) {
  std::string text = fmt::format("terminating on signal {}", signal);
  const pid_t sender = sender_of_signal(signal);
  if (sender == 0) return text;
  std::string command;
  std::ifstream file(fmt::format("/proc/{}/cmdline", sender));
  std::getline(file, command, '\0');
  return text +
         fmt::format(" from pid {} ({})", sender, command.empty() ? "<unknown process>" : command);
}

RunStatus::Hooks hooks_of(Engine& engine, Event& ended, bool tell_shutdown) {
  RunStatus::Hooks hooks;
  hooks.wind_down = [&engine]() -> Task<void> {
    co_await engine.wind_down();
    co_await engine.close_storage();
  };
  hooks.end = [&ended] { ended.set(); };
  hooks.settle_storage = [&engine] { return engine.settle_storage(); };
  hooks.reset_devices = [&engine] { return engine.reset_devices(); };
  hooks.activate_storage = [&engine] { return engine.activate_storage(); };
  hooks.tell_shutdown = tell_shutdown;
  return hooks;
}

}  // namespace

Engine::Engine(Env& env, Manner manner, const MachineType* machine_type, MachineIdentity identity)
    : env_(env),
      manner_(manner),
      identity_(std::move(identity)),
      commands_(manner),
      monitor_(env, commands_, human_, monitor_options()),
      graph_(env, monitor_, drivers_),
      jobs_(graph_),
      exports_(graph_),
      nbd_(exports_),
      objects_(env, graph_.throttle_groups()),
      status_(env.executor(), monitor_, hooks_of(*this, ended_, manner == Manner::kSystem)),
      snapshots_(graph_, status_, identity_),
      chardevs_(env),
      ended_(env.executor()),
      incoming_(env, monitor_, [this] { ended_.set(); }),
      signals_(env.executor()) {
  register_protocols(drivers_);
  register_formats(drivers_);
  register_filters(drivers_);
  graph_.refuse_aes_cbc(manner == Manner::kSystem);
  if (machine_type != nullptr) {
    drives_ = std::make_unique<Drives>(graph_, [](std::string_view text) { write_stderr(text); });
    machine_ = std::make_unique<Machine>(graph_, *drives_, objects_, *machine_type);
    media_ = std::make_unique<RemovableMedia>(graph_, *machine_, exports_);
  }
  // Nobody but a test's hand moves the clock of a guest that a test drives.
  if (identity_.qtest) graph_.guest_clock().hold(0);
  register_commands();
}

Engine::~Engine() = default;

void Engine::forget_errors() {
  for (Backend* backend : graph_.backends()) {
    // One without a name keeps what it has, as in QEMU.
    if (!backend->name().empty()) backend->io_status = IoStatus::kOk;
  }
  for (const auto& job : jobs_.jobs()) {
    if (job->is_block_job()) static_cast<BlockJob&>(*job).forget_error();
  }
}

ExportServices Engine::export_services() {
  return ExportServices{exports_, nbd_,
                        [this](std::string_view id) { return objects_.type_of(id); }};
}

void Engine::register_commands() {
  const DeviceDirectory& devices =
      machine_ ? static_cast<const DeviceDirectory&>(*machine_) : no_devices_;
  exports_.set_iothread_lookup([this](std::string_view id) { return objects_.iothread(id); });
  exports_.set_guests(status_, [&devices](std::string_view id) { return devices.backend_of(id); });
  status_.on_resume([this] { forget_errors(); });
  if (machine_) {
    machine_->before_detaching(
        [this](const Backend& backend) { return exports_.medium_removed(backend); });
  }
  qemu_io_ = std::make_unique<QemuIoRequests>(graph_, devices, monitor_,
                                              [](std::string_view text) { write_stderr(text); });
  if (identity_.qtest) qemu_io_->silence_breakpoints();

  register_monitor_commands(commands_);
  register_introspection_command(commands_);
  register_run_state_commands(commands_, human_, status_, identity_);
  register_block_query_commands(commands_, graph_, jobs_, devices);
  register_block_node_commands(commands_, graph_);
  register_reopen_commands(commands_, graph_);
  register_iothread_commands(commands_, graph_, objects_);
  register_object_commands(commands_, human_, objects_);
  register_qom_commands(commands_, qom_);
  register_export_commands(commands_, export_services());
  register_throttle_commands(commands_, human_, graph_, devices);
  register_human_block_commands(human_, graph_, jobs_, devices, *qemu_io_);
  register_human_export_commands(human_);
  register_job_families(commands_, graph_, jobs_);
  if (machine_) {
    register_machine_snapshot_commands(commands_, human_, jobs_, snapshots_);
    register_machine_commands(commands_, human_, *machine_, graph_, exports_);
    register_media_commands(commands_, human_, *media_);
    register_machine_queries(commands_, *machine_);
    register_incoming_commands(commands_, incoming_, status_);
  }

  namespace c = schema::commands;
  commands_.implement<c::QueryChardev>(
      [this](CommandContext&, c::QueryChardev::Args) -> Expected<std::vector<schema::ChardevInfo>> {
        std::vector<schema::ChardevInfo> infos;
        for (const Chardevs::Description& device : chardevs_.descriptions()) {
          schema::ChardevInfo info;
          info.label = device.label;
          info.filename = device.filename;
          info.frontend_open = device.open;
          infos.push_back(std::move(info));
        }
        return infos;
      });

  qom_.add_provider([this](QomNode& root) { objects_.describe(root); });
  std::vector<QomType> types;
  for (const std::string_view name : schema::names(schema::ObjectType{}))
    types.push_back({std::string(name), "user-creatable"});
  if (machine_) {
    for (const MachineType& type : machine_types())
      types.push_back({fmt::format("{}-machine", type.name), "machine"});
    types.push_back({std::string(kProcessorType), "cpu"});
    types.push_back({"tcg-accel", "accel"});
    for (const DeviceModel& model : device_models())
      types.push_back({std::string(model.name), "device"});
    qom_.add_provider([this](QomNode& root) { machine_->describe(root); });
  }
  qom_.add_types(std::move(types));
}

void Engine::await_guest() {
  graph_.await_guest();
  status_.await_guest();
}

Task<void> Engine::wait_for_end() { co_await ended_.wait(); }

void Engine::handle_signals(ProductionEnv& env, bool tell) {
  // QEMU's own uses of them are not ours, but who sends them means no end.
  for (const int signal : {SIGUSR1, SIGALRM}) std::signal(signal, SIG_IGN);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    env.on_signal(signal, [this, signal, tell] {
      if (status_.quitting() || signals_.closed()) return;
      if (tell) report_error("", termination_text(signal));
      signals_.spawn(status_.quit(schema::ShutdownCause::kHostSignal));
    });
  }
}

Task<void> Engine::settle_storage() {
  MutexGuard lock = co_await graph_.lock();
  {
    const DrainedSection drained = co_await drain_all(graph_);
  }
  // A failure is told by whoever flushes next.
  for (Node* node : graph_.nodes()) (void)co_await node->flush();
}

Task<void> Engine::reset_devices() {
  if (!machine_) co_return;
  MutexGuard lock = co_await graph_.lock();
  std::vector<Node*> nodes;
  for (const Backend* backend : graph_.backends()) {
    if (backend->node() != nullptr && machine_->owns(*backend)) nodes.push_back(backend->node());
  }
  const DrainedSection drained = co_await drain(std::move(nodes));
}

Task<Expected<void>> Engine::activate_storage() {
  if (!graph_.awaits_guest()) co_return Expected<void>();
  MutexGuard lock = co_await graph_.lock();
  co_return co_await activate_all(graph_);
}

Task<void> Engine::wind_down() {
  graph_.end_breakpoints();
  graph_.throttle_groups().end_limits();
  co_await nbd_.stop();
  co_await exports_.remove_all();
  co_await jobs_.shutdown();
}

Task<void> Engine::close_storage() {
  co_await qemu_io_->finish();
  if (machine_) {
    co_await machine_->remove_all();
    co_await drives_->remove_all();
  }
  MutexGuard lock = co_await graph_.lock();
  co_await graph_.close_all();
}

Task<void> Engine::shut_down() {
  co_await signals_.close();
  co_await incoming_.stop();
  co_await monitor_.stop();
  chardevs_.close();
  // What other monitors' commands made since the `quit`.
  co_await close_storage();
  co_await graph_.shutdown();
}

}  // namespace blockbed::server
