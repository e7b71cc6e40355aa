#include "qmp/server/daemon_main.h"

#include <fmt/format.h>

#include "block/runtime/production_env.h"
#include "qmp/schema/reader.h"
#include "qmp/server/daemon_options.h"
#include "qmp/server/engine.h"
#include "qmp/server/listings.h"
#include "qmp/server/messages.h"
#include "qmp/server/process.h"
#include "qmp/server/startup.h"
#include "qmp/server/version.h"
#include "schema/block_export.h"

namespace blockbed::server {

namespace {

constexpr std::string_view kUsage =
    "Usage: {} [options]\n"
    "Blockbed in the manner of qemu-storage-daemon: a block layer without a machine around it.\n"
    "\n"
    "  -h, --help       this text\n"
    "  -V, --version    the version\n"
    "  --blockdev [driver=]NAME,node-name=N[,...]         open a node\n"
    "  --chardev BACKEND,id=C[,...]                       a character device\n"
    "  --monitor [chardev=]C[,mode=control][,pretty=on]   a QMP monitor on it\n"
    "  --object TYPE,id=I[,...]                           make an object; 'help' lists the types\n"
    "  --nbd-server addr.type=unix,addr.path=P | addr.type=inet,addr.host=H,addr.port=N\n"
    "  --export [type=]nbd,id=E,node-name=N[,name=X][,writable=on|off]\n"
    "  --daemonize      go to the background when all is set up\n"
    "  --pidfile FILE   write the process id there\n"
    "  --deny-image-references                            open no file because an image names it\n"
    "\n"
    "Options are acted upon in their order.\n";

// The options of --monitor and --nbd-server are no arguments of commands: they are read here.
struct MonitorOption {
  std::string chardev;
  std::optional<std::string> id;
  std::string mode = "control";
  bool pretty = false;
};

Expected<MonitorOption> read_monitor_option(ParsedOption parsed) {
  schema::Reader reader(parsed.is_json ? schema::Mode::kStrict : schema::Mode::kKeyval);
  const json::Value value(std::move(parsed.tree));
  schema::ObjectReader object(reader, value);
  MonitorOption option;
  const bool good = object && object.optional("id", option.id) &&
                    object.defaulted("mode", option.mode) &&
                    object.defaulted("pretty", option.pretty) &&
                    object.required("chardev", option.chardev) && object.finish();
  if (!good) return std::unexpected(reader.take_error());
  if (option.mode == "readline") return fail("Only QMP is supported");
  if (option.mode != "control")
    return fail(fmt::format("Parameter 'mode' does not accept value '{}'", option.mode));
  return option;
}

Expected<NbdServerRequest> read_nbd_server_option(ParsedOption parsed) {
  schema::Reader reader(parsed.is_json ? schema::Mode::kStrict : schema::Mode::kKeyval);
  const json::Value value(std::move(parsed.tree));
  schema::ObjectReader object(reader, value);
  NbdServerRequest request;
  std::optional<std::string> authorization;
  const bool good = object && object.required("addr", request.address) &&
                    object.optional("tls-creds", request.tls_creds) &&
                    object.optional("tls-authz", authorization) &&
                    object.optional("max-connections", request.max_connections) && object.finish();
  if (!good) return std::unexpected(reader.take_error());
  return request;
}

Task<Expected<void>> add_monitor(Engine& engine, const std::string& text) {
  auto parsed = parse_tree_option(text, "chardev");
  if (!parsed) co_return fail(std::move(parsed).error());
  auto option = read_monitor_option(std::move(*parsed));
  if (!option) co_return fail(std::move(option).error());
  if (auto claimed = engine.chardevs().claim(option->chardev); !claimed)
    co_return fail(std::move(claimed).error());
  if (auto endpoint = engine.chardevs().take(option->chardev)) {
    engine.monitor().serve(std::move(endpoint),
                           option->pretty ? MonitorMode::kControlPretty : MonitorMode::kControl);
  }
  co_return Expected<void>();
}

Task<Expected<void>> add_export(Engine& engine, const std::string& text) {
  auto parsed = parse_tree_option(text, "type");
  if (!parsed) co_return fail(std::move(parsed).error());
  auto options = typed_option<schema::BlockExportOptions>(std::move(*parsed));
  if (!options) co_return fail(std::move(options).error());
  co_return co_await engine.exports().add(*options);
}

Task<Expected<void>> add_nbd_server(Engine& engine, const std::string& text) {
  auto parsed = parse_tree_option(text, "");
  if (!parsed) co_return fail(std::move(parsed).error());
  auto request = read_nbd_server_option(std::move(*parsed));
  if (!request) co_return fail(std::move(request).error());
  co_return co_await start_nbd_server(engine.export_services(), std::move(*request), nullptr);
}

Task<Expected<void>> act_on(Engine& engine, const OptionUse& use) {
  if (use.name == "blockdev") {
    if (use.value == "help") co_return fail("Help is not available for this option");
    co_return co_await add_blockdev_option(engine, use.value);
  }
  if (use.name == "chardev") co_return co_await add_chardev_option(engine, use.value, use.location);
  if (use.name == "monitor") co_return co_await add_monitor(engine, use.value);
  if (use.name == "export") {
    if (use.value == "help") co_return fail("Help is not available for this option");
    co_return co_await add_export(engine, use.value);
  }
  co_return co_await add_nbd_server(engine, use.value);
}

Task<StartResult> act(Engine& engine, const OptionUse& use) {
  if (use.name == "object") co_return co_await add_object_option(engine, use);
  auto done = co_await act_on(engine, use);
  if (done) co_return StartResult();
  StartFailure failed{use.location, full_text(done.error())};
  co_return std::unexpected(std::move(failed));
}

Task<int> serve(ProductionEnv& env, Engine& engine, const DaemonOptions& options,
                std::unique_ptr<Daemon> daemon, std::unique_ptr<PidFile>& pidfile) {
  int status = 0;
  for (const OptionUse& use : options.actions) {
    const StartResult done = co_await act(engine, use);
    if (done) continue;
    report_error(done.error().location, done.error().text);
    status = 1;
    break;
  }
  if (status == 0 && !options.pidfile.empty()) {
    auto made = PidFile::create(options.pidfile);
    if (made) {
      pidfile = std::move(*made);
    } else {
      report_error("", full_text(made.error()));
      status = 1;
    }
  }
  if (status == 0) {
    engine.handle_signals(env, false);
    if (daemon) daemon->ready();
    engine.monitor().start();
    co_await engine.wait_for_end();
  } else {
    co_await engine.wind_down();
  }
  co_await engine.shut_down();
  co_return status;
}

}  // namespace

int run_daemon(const std::vector<std::string>& arguments) {
  auto options = parse_daemon_options(arguments);
  if (!options) {
    const auto& [location, text] = options.error();
    if (location.empty()) {
      // The C library's complaint, which has the whole of argv[0] in front.
      write_stderr(fmt::format("{}: {}\n", invocation_name(), text));
    } else {
      report_error(location, text);
    }
    return 1;
  }
  if (options->help) {
    write_stdout(fmt::format(fmt::runtime(kUsage), program_name()));
    return 0;
  }
  if (options->version) {
    print_version("qemu-storage-daemon");
    return 0;
  }
  for (const OptionUse& use : options->actions) {
    if (use.name == "object" && print_object_help(use.value)) return 0;
    if (use.name == "chardev" && use.value == "help") {
      print_chardev_types();
      return 0;
    }
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
  ProductionEnv env;
  Engine engine(env, Manner::kDaemon, nullptr, {});
  engine.graph().deny_files_named_by_images(options->deny_image_references);
  if (options->daemonize) engine.chardevs().forbid_stdio();
  return env.run_until_complete(serve(env, engine, *options, std::move(daemon), pidfile));
}

}  // namespace blockbed::server
