#include "qmp/server/listings.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "block/filters/register.h"
#include "block/formats/register.h"
#include "block/graph/graph.h"
#include "block/protocols/register.h"
#include "qmp/machine/device_models.h"
#include "qmp/machine/machine.h"
#include "qmp/server/messages.h"
#include "qmp/server/version.h"
#include "schema/qom.h"

namespace blockbed::server {

namespace {

constexpr std::string_view kSystemUsage =
    "usage: {} [options] [disk_image]\n"
    "\n"
    "Blockbed in the manner of qemu-system: a block layer without a machine around it.\n"
    "Options that act:\n"
    "  -blockdev [driver=]NAME,node-name=N,...   open a node (also as JSON)\n"
    "  -drive file=F,format=X,if=I,id=D,...      open an image as a drive\n"
    "  -device MODEL,drive=D,...                 attach a device to a drive or node\n"
    "  -object TYPE,id=I,...                     make an object\n"
    "  -chardev BACKEND,id=C,...  -mon chardev=C,mode=control|readline\n"
    "  -qmp DEV  -qmp-pretty DEV  -monitor DEV   a monitor on unix:PATH, tcp:HOST:PORT, stdio\n"
    "  -qtest DEV                                the test socket\n"
    "  -machine TYPE  -accel NAME  -name N  -uuid U  -S  -nodefaults  -no-shutdown\n"
    "  -daemonize  -pidfile FILE  -version\n"
    "  -deny-image-references                    open no file because an image names it\n"
    "  -machine help  -device help  -object help  -chardev help  -drive format=help\n"
    "  -runas U  -chroot D  -D FILE  -msg timestamp=on  -readconfig FILE  -set G.I.A=V\n"
    "Options of QEMU that concern a CPU, memory, a screen or a network are taken and ignored.\n";

// Of every machine; nothing comes of them here.
constexpr std::string_view kMachineOptions =
    "  append=<string>\n  boot=<BootConfiguration>\n"
    "  confidential-guest-support=<link<confidential-guest-support>>\n"
    "  dt-compatible=<string>\n  dtb=<string>\n  dump-guest-core=<bool>\n  dumpdtb=<string>\n"
    "  firmware=<string>\n  graphics=<bool>\n  initrd=<string>\n  kernel=<string>\n"
    "  mem-merge=<bool>\n  memory-backend=<link<memory-backend>>\n"
    "  memory-encryption=<string>\n  memory=<MemorySizeConfiguration>\n"
    "  phandle-start=<int>\n  smp=<SMPConfiguration>\n  suppress-vmdesc=<bool>\n  usb=<bool>\n";

struct ObjectMembers {
  std::string_view type;
  std::string_view members;
};
constexpr ObjectMembers kObjectMembers[] = {
    {"iothread",
     "  aio-max-batch=<int>\n  poll-grow=<int>\n  poll-max-ns=<int>\n  poll-shrink=<int>\n"
     "  thread-pool-max=<int>\n  thread-pool-min=<int>\n"},
    {"secret",
     "  data=<string>\n  file=<string>\n  format=<QCryptoSecretFormat>\n  iv=<string>\n"
     "  keyid=<string>\n"},
};

std::string members_of_throttle_group() {
  std::string text = "  limits=<ThrottleLimits>\n";
  for (const std::string_view kind : {"bps-read", "bps-total", "bps-write", "iops-read",
                                      "iops-size", "iops-total", "iops-write"}) {
    if (kind != "iops-size")
      text += fmt::format("  x-{0}-max-length=<int>\n  x-{0}-max=<int>\n", kind);
    text += fmt::format("  x-{}=<int>\n", kind);
  }
  return text;
}

std::string_view first_item(std::string_view text, std::string_view implied) {
  std::string_view item = text.substr(0, text.find(','));
  if (item.starts_with(implied) && item.substr(implied.size()).starts_with('='))
    item.remove_prefix(implied.size() + 1);
  return item;
}

int print_device_members(const OptionUse& question) {
  const std::string_view name = first_item(question.value, "driver");
  const DeviceModel* model = find_device_model(name);
  if (model == nullptr) {
    report_error(question.location, fmt::format("Device '{}' not found", name));
    return 0;
  }
  auto members = list_device_properties(*model);
  std::ranges::sort(members);
  if (members.empty()) {
    write_stdout(fmt::format("There are no options for {}.\n", model->name));
    return 0;
  }
  std::string text = fmt::format("{} options:\n", model->name);
  for (const auto& [member, type] : members) text += fmt::format("  {}=<{}>\n", member, type);
  write_stdout(text);
  return 0;
}

void print_formats() {
  DriverRegistry registry;
  register_protocols(registry);
  register_formats(registry);
  register_filters(registry);
  std::vector<std::string> names;
  for (const DriverEntry& entry : registry.entries()) {
    if (entry.listed) names.push_back(entry.name);
  }
  std::ranges::sort(names);
  std::string list;
  for (const std::string& name : names) list += " " + name;
  write_stdout(fmt::format("Supported formats:{0}\nSupported formats (read-only):{0}\n", list));
}

}  // namespace

void print_version(std::string_view what) {
  write_stdout(
      fmt::format("{} version {} ({})\nBlockbed: a QMP-compatible block layer without a machine\n",
                  what, kQemuVersion, kPackage));
}

bool print_object_help(std::string_view text, std::span<const std::string_view> types) {
  const std::size_t comma = text.rfind(',');
  const std::string_view last = text.substr(comma == std::string_view::npos ? 0 : comma + 1);
  if (last != "help" && last != "?") return false;
  if (comma == std::string_view::npos) {
    std::vector<std::string_view> sorted(types.begin(), types.end());
    std::ranges::sort(sorted);
    std::string list = "List of user creatable objects:\n";
    for (const std::string_view name : sorted) list += fmt::format("  {}\n", name);
    write_stdout(list);
    return true;
  }
  const std::string_view type = first_item(text, "qom-type");
  if (std::ranges::find(types, type) == types.end()) return false;
  if (type == "throttle-group") {
    write_stdout(fmt::format("{} options:\n{}", type, members_of_throttle_group()));
    return true;
  }
  const auto known = std::ranges::find(kObjectMembers, type, &ObjectMembers::type);
  write_stdout(known == std::end(kObjectMembers)
                   ? fmt::format("There are no options for {}.\n", type)
                   : fmt::format("{} options:\n{}", type, known->members));
  return true;
}

void print_chardev_types() {
  write_stdout(
      "Available chardev backend types: \n  pty\n  file\n  socket\n  stdio\n  null\n  pipe\n  "
      "serial\n  vc\n");
}

int answer_system_question(const SystemOptions& options) {
  const OptionUse& question = *options.question;
  if (question.name == "version") {
    print_version("QEMU emulator");
  } else if (question.name == "h" || question.name == "help") {
    print_version("QEMU emulator");
    write_stdout(fmt::format(fmt::runtime(kSystemUsage), program_name()));
  } else if (question.name == "machine" || question.name == "M") {
    if (options.machine) {
      write_stdout(fmt::format("{}-machine options:\n{}",
                               first_item(options.machine->value, "type"), kMachineOptions));
    } else {
      write_stdout(machine_help());
    }
  } else if (question.name == "device" && question.value.contains(',')) {
    return print_device_members(question);
  } else if (question.name == "device") {
    write_stdout(device_help());
  } else if (question.name == "drive") {
    print_formats();
  } else if (question.name == "accel") {
    write_stdout("Accelerators supported in QEMU binary:\ntcg\nqtest\n");
  } else if (question.name == "object") {
    if (!print_object_help(question.value)) {
      report_error(question.location, fmt::format("Parameter 'qom-type' does not accept value '{}'",
                                                  first_item(question.value, "qom-type")));
      return 1;
    }
  } else if (question.name == "chardev") {
    print_chardev_types();
  } else if (question.name == "display") {
    write_stdout("Available display backend types:\nnone\n");
  } else if (question.name == "cpu") {
    write_stdout(
        "Available CPUs:\nx86 qemu64                (there is no CPU: the name is accepted)\n");
  } else if (question.name == "d") {
    // Asked for or not known: QEMU ends with 1 either way.
    write_stdout("Log items (comma separated):\n");
    return 1;
  } else if (question.name == "netdev") {
    write_stdout("Available netdev backend types:\n");
  } else if (question.name == "trace") {
    // There are no events to trace.
  } else {
    write_stdout(fmt::format("There is nothing to choose for -{} here.\n", question.name));
  }
  return 0;
}

}  // namespace blockbed::server
