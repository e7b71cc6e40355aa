#include "qmp/server/system_main.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "block/runtime/production_env.h"
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
    auto added = co_await engine.machine().add_device(std::move(*properties));
    if (!added) co_return failure(use.location, full_text(added.error()));
  }
  std::string location;
  if (auto made = co_await engine.machine().add_virtio_drives(location); !made) {
    co_return failure(location, full_text(made.error()));
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
        auto spec = parse_chardev_short_form(use.value);
        if (!spec) {
          report_error(use.location, fmt::format("'{}' is not a valid char driver", use.value));
          co_return failure(use.location, fmt::format("parse error: {}", use.value));
        }
        if (!*spec) co_return failure(use.location, full_text(spec->error()));
        (*spec)->id = plan.chardev;
        auto added = co_await engine.chardevs().add(std::move(**spec), use.location);
        if (!added) co_return failure(use.location, full_text(added.error()));
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
      report_error("", fmt::format("'{}' is not a valid char driver", text));
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

Task<StartResult> open_backends(Engine& engine, const SystemOptions& options) {
  for (const OptionUse& use : options.objects) {
    if (auto added = co_await add_object_option(engine, use.value); !added) {
      co_return failure(use.location, full_text(added.error()));
    }
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

Task<int> serve(ProductionEnv& env, Engine& engine, const SystemOptions& options, Daemon* daemon) {
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
  if (started) {
    // Clients are greeted before devices are made; nothing is executed until all is there.
    serve_monitors(false);
    started = co_await add_devices(engine, options);
    if (!started) {
      for (const MonitorPlan& plan : monitors) {
        if (plan.mode != MonitorMode::kHuman) continue;
        const auto endpoint = engine.chardevs().take(plan.chardev);
        human_on_stdio = human_on_stdio || (endpoint && endpoint->is_stdio());
        if (endpoint) endpoint->close();
      }
    }
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
  } else {
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

}  // namespace

int run_system(const std::vector<std::string>& arguments) {
  auto options = parse_system_options(arguments);
  if (!options) {
    report_error(options.error().location, options.error().text);
    return 1;
  }
  if (options->question) return answer_system_question(*options->question);
  auto plan = plan_machine(*options);
  if (!plan) {
    report_error(plan.error().location, plan.error().text);
    return 1;
  }
  for (const auto& [use, what] : {std::pair{&options->incoming, "Migration"},
                                  std::pair{&options->loadvm, "Loading a snapshot"}}) {
    if (!*use) continue;
    report_error((*use)->location, fmt::format("{} is not implemented by Blockbed", what));
    return 1;
  }
  std::unique_ptr<Daemon> daemon;
  if (options->daemonize) {
    auto forked = Daemon::daemonize();
    if (!forked) {
      report_error("", full_text(forked.error()));
      return 1;
    }
    daemon = std::move(*forked);
  }
  std::unique_ptr<PidFile> pidfile;
  if (options->pidfile) {
    auto made = PidFile::create(options->pidfile->value);
    if (!made) {
      report_error("", full_text(made.error()));
      return 1;
    }
    pidfile = std::move(*made);
  }
  ProductionEnv env;
  Engine engine(env, Manner::kSystem, plan->type, std::move(plan->identity));
  engine.graph().deny_files_named_by_images(options->deny_image_references);
  engine.machine().set_processors(plan->processors);
  return env.run_until_complete(serve(env, engine, *options, daemon.get()));
}

}  // namespace blockbed::server
