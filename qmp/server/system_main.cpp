#include "qmp/server/system_main.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <map>

#include "block/runtime/production_env.h"
#include "block/runtime/result.h"
#include "qmp/monitor/descriptors.h"
#include "qmp/server/engine.h"
#include "qmp/server/listings.h"
#include "qmp/server/messages.h"
#include "qmp/server/process.h"
#include "qmp/server/qtest.h"
#include "qmp/server/startup.h"
#include "qmp/server/system_options.h"
#include "qmp/server/version.h"

namespace blockbed::server {

namespace {

std::unexpected<StartFailure> failure(std::string location, std::string text) {
  return std::unexpected(StartFailure{std::move(location), std::move(text)});
}

struct MonitorPlan {
  std::string chardev;
  MonitorMode mode = MonitorMode::kHuman;
};

// The machine and what is said about it, from -machine, -accel, -uuid, -name.
struct MachinePlan {
  const MachineType* type = nullptr;
  Processors processors;
  MachineIdentity identity;
};

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !std::isxdigit(static_cast<unsigned char>(text[i]))) return false;
  }
  return true;
}

std::expected<MachinePlan, StartFailure> plan_machine(const SystemOptions& options) {
  MachinePlan plan;
  plan.type = find_machine_type("pc");
  std::string accelerators;
  if (options.machine) {
    auto parsed = OptionText::parse(options.machine->value, "type");
    if (!parsed) return failure(options.machine->location, full_text(parsed.error()));
    print_warnings(options.machine->location, parsed->warnings());
    if (const auto name = parsed->take("type")) {
      plan.type = find_machine_type(*name);
      if (plan.type == nullptr) {
        return failure("",
                       "unsupported machine type\nUse -machine help to list supported machines");
      }
    }
    accelerators = parsed->text("accel");
  }
  if (options.processors) {
    auto parsed = OptionText::parse(options.processors->value, "cpus");
    if (!parsed) return failure(options.processors->location, full_text(parsed.error()));
    auto processors = Processors::parse(*parsed, *plan.type);
    if (!processors) return failure("", full_text(processors.error()));
    plan.processors = *processors;
  }
  static constexpr std::string_view kAccelerators[] = {"tcg", "kvm", "qtest", "xen",
                                                       "hax", "hvf", "nvmm",  "whpx"};
  for (const OptionUse& use : options.accelerators) {
    const std::string name = use.value.substr(0, use.value.find(','));
    const std::string bare = name.starts_with("accel=") ? name.substr(6) : name;
    if (std::ranges::find(kAccelerators, bare) == std::end(kAccelerators)) {
      return failure(use.location, fmt::format("invalid accelerator {}", bare));
    }
    accelerators += (accelerators.empty() ? "" : ":") + bare;
  }
  // Nothing is run, but management software asks whether it could be.
  plan.identity.kvm_present = ::access("/dev/kvm", R_OK | W_OK) == 0;
  plan.identity.kvm_enabled = plan.identity.kvm_present && accelerators.starts_with("kvm");
  plan.identity.qtest = accelerators.starts_with("qtest");
  plan.identity.machine_type = plan.type->name;
  plan.identity.name = options.name;
  if (options.uuid) {
    if (!is_uuid(options.uuid->value)) {
      return failure(options.uuid->location, "failed to parse UUID string: wrong format");
    }
    plan.identity.uuid = options.uuid->value;
    for (char& c : plan.identity.uuid)
      c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return plan;
}

std::pair<OptionText, DriveInterface> drive_text(const OptionUse& use,
                                                 DriveInterface machine_default) {
  OptionText text;
  const auto short_form = [&](std::string_view interface, int index, bool cdrom = false) {
    text.set("file", use.value);
    if (!interface.empty()) text.set("if", std::string(interface));
    if (index >= 0) text.set("index", fmt::format("{}", index));
    if (cdrom) {
      text.set("media", "cdrom");
    } else if (use.name.starts_with("hd")) {
      text.set("media", "disk");
    }
  };
  if (use.name.starts_with("hd")) {
    short_form("", use.name[2] - 'a');
  } else if (use.name == "cdrom") {
    short_form("", 2, true);
  } else if (use.name == "fda" || use.name == "fdb") {
    short_form("floppy", use.name[2] - 'a');
  } else if (use.name == "pflash") {
    short_form("pflash", -1);
  } else if (use.name == "mtdblock") {
    short_form("mtd", -1);
  } else if (use.name == "sd") {
    short_form("sd", -1);
  }
  return {std::move(text), machine_default};
}

Task<StartResult> add_drives(Engine& engine, const SystemOptions& options) {
  for (const OptionUse& use : options.drives) {
    auto [text, default_interface] = drive_text(use, engine.machine().type().default_interface);
    if (use.name == "drive") {
      auto parsed = OptionText::parse(use.value);
      if (!parsed) co_return failure(use.location, full_text(parsed.error()));
      print_warnings(use.location, parsed->warnings());
      text = std::move(*parsed);
    }
    if (options.snapshot && !text.has("snapshot")) text.set("snapshot", "on");
    std::vector<std::string> warnings;
    auto drive =
        co_await engine.drives().add(std::move(text), default_interface, use.location, warnings);
    print_warnings(use.location, warnings);
    if (!drive) co_return failure(use.location, full_text(drive.error()));
  }
  co_return StartResult();
}

Task<StartResult> add_devices(Engine& engine, const SystemOptions& options) {
  if (auto made = co_await engine.machine().add_board_devices(!options.no_defaults); !made) {
    co_return failure("", full_text(made.error()));
  }
  for (const OptionUse& use : options.devices) {
    Expected<OptionText> properties;
    if (use.value.starts_with('{')) {
      auto parsed = parse_tree_option(use.value, "");
      if (!parsed) co_return failure(use.location, full_text(parsed.error()));
      properties = device_properties(parsed->tree);
    } else {
      properties = OptionText::parse(use.value, "driver");
      if (properties) print_warnings(use.location, properties->warnings());
    }
    if (!properties) co_return failure(use.location, full_text(properties.error()));
    auto added =
        co_await engine.machine().add_device(std::move(*properties), Machine::Plugged::kAtStart);
    if (!added) co_return failure(use.location, full_text(added.error()));
  }
  std::string location;
  if (auto made = co_await engine.machine().add_virtio_drives(location); !made) {
    co_return failure(location, full_text(made.error()));
  }
  co_return StartResult();
}

// A character device in the older form. Text that is none is told, and then what it means for the
// option.
Task<StartResult> add_short_form(Engine& engine, const OptionUse& use, std::string id,
                                 std::string if_no_device) {
  auto spec = parse_chardev_short_form(use.value);
  if (!spec) {
    if (!spec.error().empty()) report_error(use.location, spec.error());
    co_return failure(use.location, std::move(if_no_device));
  }
  if (!*spec) co_return failure(use.location, full_text(spec->error()));
  (*spec)->id = std::move(id);
  auto added = co_await engine.chardevs().add(std::move(**spec), use.location);
  if (!added) co_return failure(use.location, full_text(added.error()));
  co_return StartResult();
}

// -serial, -parallel, -debugcon: nobody speaks on them.
Task<StartResult> add_ports(Engine& engine, const SystemOptions& options) {
  std::map<std::string, int, std::less<>> count;
  for (const OptionUse& use : options.ports) {
    if (use.value == "none") continue;
    std::string id;
    if (use.value.starts_with("chardev:")) {
      id = use.value.substr(8);
    } else {
      id = use.name == "debugcon" ? use.name : fmt::format("{}{}", use.name, count[use.name]++);
      const std::string consequence =
          use.name == "debugcon"
              ? fmt::format("invalid character backend '{}'", use.value)
              : fmt::format("could not connect {} device to character backend '{}'", use.name,
                            use.value);
      if (auto added = co_await add_short_form(engine, use, id, consequence); !added) {
        if (added.error().text != consequence) {
          report_error(added.error().location, added.error().text);
        }
        co_return failure(use.location, consequence);
      }
    }
    if (auto claimed = engine.chardevs().claim(id); !claimed)
      co_return failure(use.location, full_text(claimed.error()));
  }
  co_return StartResult();
}

// -qmp, -qmp-pretty, -monitor and -mon: a monitor each, in order.
Task<std::expected<std::vector<MonitorPlan>, StartFailure>> plan_monitors(
    Engine& engine, const SystemOptions& options) {
  std::vector<MonitorPlan> plans;
  int compatible = 0;
  for (const OptionUse& use : options.monitors) {
    MonitorPlan plan;
    if (use.name == "mon") {
      auto parsed = OptionText::parse(use.value, "chardev");
      if (!parsed) co_return failure(use.location, full_text(parsed.error()));
      print_warnings(use.location, parsed->warnings());
      static constexpr std::string_view kMonitorOptions[] = {"mode", "chardev", "pretty", "id"};
      for (const auto& [key, value] : parsed->items()) {
        if (std::ranges::find(kMonitorOptions, key) == std::end(kMonitorOptions))
          co_return failure(use.location, fmt::format("Invalid parameter '{}'", key));
      }
      if (!parsed->has("chardev"))
        co_return failure(use.location, "Parameter 'chardev' is missing");
      const std::string mode = parsed->text("mode", "readline");
      auto pretty = parsed->take_switch("pretty", false);
      if (!pretty) co_return failure(use.location, full_text(pretty.error()));
      if (mode == "control") {
        plan.mode = *pretty ? MonitorMode::kControlPretty : MonitorMode::kControl;
      } else if (mode != "readline") {
        co_return failure(use.location,
                          fmt::format("Parameter 'mode' does not accept value '{}'", mode));
      } else if (*pretty) {
        co_return failure(use.location, "'pretty' is not compatible with HMP monitors");
      }
      plan.chardev = parsed->text("chardev");
    } else {
      if (use.name == "monitor" && use.value == "none") continue;
      plan.mode = use.name == "qmp"          ? MonitorMode::kControl
                  : use.name == "qmp-pretty" ? MonitorMode::kControlPretty
                                             : MonitorMode::kHuman;
      if (use.value.starts_with("chardev:")) {
        plan.chardev = use.value.substr(8);
      } else {
        plan.chardev = fmt::format("compat_monitor{}", compatible++);
        auto added = co_await add_short_form(engine, use, plan.chardev,
                                             fmt::format("parse error: {}", use.value));
        if (!added) co_return std::unexpected(std::move(added).error());
      }
    }
    if (auto claimed = engine.chardevs().claim(plan.chardev); !claimed)
      co_return failure(use.location, full_text(claimed.error()));
    plans.push_back(std::move(plan));
  }
  co_return plans;
}

Task<std::expected<std::unique_ptr<QtestServer>, StartFailure>> open_qtest(
    Engine& engine, const SystemOptions& options) {
  if (!options.qtest) co_return nullptr;
  const std::string& text = options.qtest->value;
  std::string id = "qtest";
  if (text.starts_with("chardev:")) {
    id = text.substr(8);
  } else {
    auto spec = parse_chardev_short_form(text);
    if (!spec) {
      if (!spec.error().empty()) report_error("", spec.error());
      co_return failure("", fmt::format("Failed to initialize device for qtest: \"{}\"", text));
    }
    if (!*spec) co_return failure(options.qtest->location, full_text(spec->error()));
    (*spec)->id = id;
    auto added = co_await engine.chardevs().add(std::move(**spec), options.qtest->location);
    if (!added) co_return failure(options.qtest->location, full_text(added.error()));
  }
  if (auto claimed = engine.chardevs().claim(id); !claimed)
    co_return failure(options.qtest->location, full_text(claimed.error()));
  co_return std::make_unique<QtestServer>(engine.env().executor(), engine.graph().guest_clock(),
                                          engine.chardevs().take(id));
}

Task<StartResult> open_incoming(Engine& engine, const SystemOptions& options) {
  // A command says later where the guest comes from.
  if (!options.incoming || options.incoming->value == "defer") co_return StartResult();
  auto begun = co_await engine.incoming().begin(options.incoming->value, nullptr);
  if (!begun) co_return failure(options.incoming->location, full_text(begun.error()));
  co_return StartResult();
}

Task<StartResult> open_backends(Engine& engine, const SystemOptions& options) {
  for (const OptionUse& use : options.objects) {
    if (auto added = co_await add_object_option(engine, use); !added) co_return added;
  }
  for (const OptionUse& use : options.chardevs) {
    if (auto added = co_await add_chardev_option(engine, use.value, use.location); !added) {
      co_return failure(use.location, full_text(added.error()));
    }
  }
  for (const OptionUse& use : options.blockdevs) {
    if (auto added = co_await add_blockdev_option(engine, use.value); !added) {
      co_return failure(use.location, full_text(added.error()));
    }
  }
  co_return co_await add_drives(engine, options);
}

Task<int> serve(ProductionEnv& env, Engine& engine, const SystemOptions& options,
                const Rights& rights, Daemon* daemon) {
  std::unique_ptr<QtestServer> qtest;
  bool human_on_stdio = false;
  StartResult started = co_await open_backends(engine, options);
  std::vector<MonitorPlan> monitors;
  if (started) {
    auto opened = co_await open_qtest(engine, options);
    if (opened) {
      qtest = std::move(*opened);
    } else {
      started = std::unexpected(std::move(opened).error());
    }
  }
  if (started) {
    auto planned = co_await plan_monitors(engine, options);
    if (planned) {
      monitors = std::move(*planned);
    } else {
      started = std::unexpected(std::move(planned).error());
    }
  }
  const auto serve_monitors = [&](bool human) {
    for (const MonitorPlan& plan : monitors) {
      if ((plan.mode == MonitorMode::kHuman) != human) continue;
      if (auto endpoint = engine.chardevs().take(plan.chardev))
        engine.monitor().serve(std::move(endpoint), plan.mode);
    }
  };
  if (started) started = co_await add_ports(engine, options);
  if (started) {
    // Clients are greeted before devices are made; nothing is executed until all is there.
    serve_monitors(false);
    started = co_await add_devices(engine, options);
  }
  if (started) started = co_await open_incoming(engine, options);
  if (!started) {
    for (const MonitorPlan& plan : monitors) {
      if (plan.mode != MonitorMode::kHuman) continue;
      const auto endpoint = engine.chardevs().take(plan.chardev);
      human_on_stdio = human_on_stdio || (endpoint && endpoint->is_stdio());
      if (endpoint) endpoint->close();
    }
  } else if (auto applied = rights.apply(); !applied) {
    started = failure("", full_text(applied.error()));
  }

  int status = 0;
  if (started) {
    if (!options.start_paused) engine.status().start();
    engine.handle_signals(env, true);
    if (daemon != nullptr) daemon->ready();
    if (qtest) qtest->start();
    serve_monitors(true);
    engine.monitor().start();
    co_await engine.wait_for_end();
  }
  if (!started || engine.incoming().refused()) {
    status = 1;
    co_await engine.wind_down();
  }
  if (qtest) co_await qtest->stop();
  co_await engine.shut_down();
  if (!started) {
    // QEMU's human monitor has said its first words when devices are made.
    if (human_on_stdio) {
      write_stdout(
          fmt::format("QEMU {} monitor - type 'help' for more information\n(qemu) ", kQemuVersion));
    }
    report_error(started.error().location, started.error().text);
  }
  co_return status;
}

// Nothing is booted; a kernel that cannot be is a mistake all the same.
StartResult check_kernel(const SystemOptions& options, const MachineType& type) {
  if (!options.kernel) {
    if (options.initrd) return failure("", "-initrd only allowed with -kernel option");
    if (options.append) return failure("", "-append only allowed with -kernel option");
    return {};
  }
  if (type.name == "none") {
    return failure("",
                   "The -kernel parameter is not supported (use the generic 'loader' device "
                   "instead).");
  }
  if (::access(options.kernel->value.c_str(), R_OK) == 0) return {};
  return failure("", fmt::format("could not open kernel file '{}': {}", options.kernel->value,
                                 strerror_text(errno)));
}

std::expected<Rights, StartFailure> plan_rights(const SystemOptions& options) {
  Rights rights;
  if (options.user) {
    auto user = Rights::of_user(options.user->value);
    if (!user) return failure(options.user->location, full_text(user.error()));
    rights = std::move(*user);
  }
  if (options.root) rights.set_root(options.root->value);
  return rights;
}

void apply_message_options(const SystemOptions& options) {
  MessageStyle style;
  if (options.messages) {
    if (auto parsed = OptionText::parse(options.messages->value)) {
      style.timestamp = parsed->take_switch("timestamp", false).value_or(false);
      if (parsed->take_switch("guest-name", false).value_or(false)) style.guest = options.name;
    }
  }
  set_message_style(std::move(style));
}

// Everything that has to be right before the process goes to the background.
struct StartPlan {
  MachinePlan machine;
  Rights rights;
};

std::expected<StartPlan, StartFailure> plan_start(const SystemOptions& options) {
  auto machine = plan_machine(options);
  if (!machine) return std::unexpected(std::move(machine).error());
  for (const auto& [use, what] : options.refused) {
    return failure(use.location, fmt::format("{} is not implemented by Blockbed", what));
  }
  if (options.preconfig && options.incoming && options.incoming->value != "defer")
    return failure("", "'preconfig' supports '-incoming defer' only");
  auto rights = plan_rights(options);
  if (!rights) return std::unexpected(std::move(rights).error());
  if (auto kernel = check_kernel(options, *machine->type); !kernel)
    return std::unexpected(std::move(kernel).error());
  return StartPlan{std::move(*machine), std::move(*rights)};
}

}  // namespace

int run_system(const std::vector<std::string>& arguments) {
  const auto give_up = [](std::string_view location, std::string_view text) {
    report_error(location, text);
    return 1;
  };
  SystemOptions options;
  const auto parsed = parse_system_options(arguments, options);
  apply_message_options(options);
  for (const auto& [location, warning] : options.warnings) report_warning(location, warning);
  if (!parsed) return give_up(parsed.error().location, parsed.error().text);
  if (options.question) return answer_system_question(options);
  auto plan = plan_start(options);
  if (!plan) return give_up(plan.error().location, plan.error().text);

  UniqueDescriptor log;
  if (options.log_file) {
    const std::string& path = options.log_file->value;
    log = UniqueDescriptor(::open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666));
    if (log.get() < 0)
      return give_up("", fmt::format("Error opening logfile {}: {}", path, strerror_text(errno)));
  }
  std::unique_ptr<Daemon> daemon;
  if (options.daemonize) {
    auto forked = Daemon::daemonize();
    if (!forked) return give_up("", full_text(forked.error()));
    daemon = std::move(*forked);
    daemon->set_log(log.get());
  }
  std::unique_ptr<PidFile> pidfile;
  if (options.pidfile) {
    auto made = PidFile::create(options.pidfile->value);
    if (!made) return give_up("", full_text(made.error()));
    pidfile = std::move(*made);
  }
  ProductionEnv env;
  MachinePlan& machine = plan->machine;
  Engine engine(env, Manner::kSystem, machine.type, std::move(machine.identity));
  engine.graph().deny_files_named_by_images(options.deny_image_references);
  engine.machine().set_processors(machine.processors);
  if (options.incoming) engine.await_guest();
  if (options.daemonize) engine.chardevs().forbid_stdio();
  return env.run_until_complete(serve(env, engine, options, plan->rights, daemon.get()));
}

}  // namespace blockbed::server
