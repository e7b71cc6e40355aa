// The program: which manner of starting is meant, by its name or its first word.
#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "qmp/server/daemon_main.h"
#include "qmp/server/image_tool.h"
#include "qmp/server/messages.h"
#include "qmp/server/system_main.h"
#include "qmp/server/version.h"

namespace {

using namespace blockbed::server;

constexpr std::string_view kUsage =
    "Usage: blockbed system OPTIONS...     start as qemu-system-x86_64 is started\n"
    "       blockbed daemon OPTIONS...     start as qemu-storage-daemon is started\n"
    "       blockbed check OPTIONS...      look for faults in an image, as qemu-img check does\n"
    "       blockbed amend OPTIONS...      other options for an image there is\n"
    "       blockbed map OPTIONS...        which file holds which part of a disk\n"
    "       blockbed measure OPTIONS...    how large a new image will be\n"
    "       blockbed --help | --version\n"
    "\n"
    "Under a name that begins with qemu-system- or qemu-storage-daemon (a link to this\n"
    "program) the first word is not needed.\n"
    "\n"
    "  blockbed system -nodefaults -display none -qmp unix:/run/bb.sock,server=on,wait=off\n"
    "  blockbed daemon --chardev socket,id=m,path=/run/bb.sock,server=on,wait=off --monitor m\n";

}  // namespace

int main(int argc, char** argv) {
  set_program_name(argc > 0 ? argv[0] : "blockbed");
  std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  const std::string& name = program_name();
  if (name.starts_with("qemu-system-")) return run_system(arguments);
  if (name.starts_with("qemu-storage-daemon")) return run_daemon(arguments);

  const std::string first = arguments.empty() ? "" : arguments.front();
  if (first == "system" || first == "daemon") {
    arguments.erase(arguments.begin());
    return first == "system" ? run_system(arguments) : run_daemon(arguments);
  }
  if (const auto status = run_image_tool(arguments)) return *status;
  if (first == "--version" || first == "-V") {
    write_stdout(fmt::format("blockbed {} (speaks the monitor protocol of QEMU {})\n", kVersion,
                             kQemuVersion));
    return 0;
  }
  if (first == "--help" || first == "-h" || first == "help") {
    write_stdout(kUsage);
    return 0;
  }
  if (!first.empty()) report_error(first, "no command of this program");
  write_stderr(kUsage);
  return 1;
}
