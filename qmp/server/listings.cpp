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
    "Options of QEMU that concern a CPU, memory or a screen are taken and ignored.\n";

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

void print_object_types() {
  std::string text = "List of user creatable objects:\n";
  std::vector<std::string_view> names;
  for (const std::string_view name : schema::names(schema::ObjectType{})) names.push_back(name);
  std::ranges::sort(names);
  for (const std::string_view name : names) text += fmt::format("  {}\n", name);
  write_stdout(text);
}

void print_chardev_types() {
  write_stdout(
      "Available chardev backend types: \n  pty\n  file\n  socket\n  stdio\n  null\n  pipe\n  "
      "serial\n  vc\n");
}

int answer_system_question(const OptionUse& question) {
  if (question.name == "version") {
    print_version("QEMU emulator");
  } else if (question.name == "h" || question.name == "help") {
    print_version("QEMU emulator");
    write_stdout(fmt::format(fmt::runtime(kSystemUsage), program_name()));
  } else if (question.name == "machine" || question.name == "M") {
    write_stdout(machine_help());
  } else if (question.name == "device") {
    write_stdout(device_help());
  } else if (question.name == "drive") {
    print_formats();
  } else if (question.name == "accel") {
    write_stdout("Accelerators supported in QEMU binary:\ntcg\nqtest\n");
  } else if (question.name == "object") {
    print_object_types();
  } else if (question.name == "chardev") {
    print_chardev_types();
  } else if (question.name == "display") {
    write_stdout("Available display backend types:\nnone\n");
  } else if (question.name == "cpu") {
    write_stdout(
        "Available CPUs:\nx86 qemu64                (there is no CPU: the name is accepted)\n");
  } else {
    write_stdout(fmt::format("There is nothing to choose for -{} here.\n", question.name));
  }
  return 0;
}

}  // namespace blockbed::server
