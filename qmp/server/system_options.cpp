#include "qmp/server/system_options.h"

#include <algorithm>
#include <array>
#include <functional>

namespace blockbed::server {

namespace {

enum class Act {
  kIgnore,  // concerns what is not here
  kDrive,
  kBlockdev,
  kDevice,
  kObject,
  kChardev,
  kMonitor,
  kGlobal,
  kAccelerator,
  kMachine,
  kProcessors,
  kQtest,
  kDenyImageReferences,
  kIncoming,
  kLoadvm,
  kPidfile,
  kUuid,
  kName,
  kPaused,
  kNoDefaults,
  kNoShutdown,
  kDaemonize,
  kNographic,
  kSnapshot,
  kPreconfig,
  kEnableKvm,
  kQuestion,
};

struct Known {
  std::string_view name;
  bool has_argument;
  Act act = Act::kIgnore;
};

constexpr Known kKnown[] = {
    {"D", true},
    {"L", true},
    {"M", true, Act::kMachine},
    {"S", false, Act::kPaused},
    {"accel", true, Act::kAccelerator},
    {"acpitable", true},
    {"action", true},
    {"add-fd", true},
    {"append", true},
    {"async-teardown", false},
    {"audio", true},
    {"audio-help", false},
    {"audiodev", true},
    {"bios", true},
    {"blockdev", true, Act::kBlockdev},
    {"boot", true},
    {"cdrom", true, Act::kDrive},
    {"chardev", true, Act::kChardev},
    {"chroot", true},
    {"compat", true},
    {"cpu", true},
    {"d", true},
    {"daemonize", false, Act::kDaemonize},
    {"debugcon", true},
    {"deny-image-references", false, Act::kDenyImageReferences},
    {"device", true, Act::kDevice},
    {"dfilter", true},
    {"display", true},
    {"drive", true, Act::kDrive},
    {"dtb", true},
    {"dump-vmstate", true},
    {"echr", true},
    {"enable-kvm", false, Act::kEnableKvm},
    {"enable-sync-profile", false},
    {"fda", true, Act::kDrive},
    {"fdb", true, Act::kDrive},
    {"fsdev", true},
    {"full-screen", false},
    {"fw_cfg", true},
    {"gdb", true},
    {"global", true, Act::kGlobal},
    {"h", false, Act::kQuestion},
    {"hda", true, Act::kDrive},
    {"hdb", true, Act::kDrive},
    {"hdc", true, Act::kDrive},
    {"hdd", true, Act::kDrive},
    {"help", false, Act::kQuestion},
    {"icount", true},
    {"incoming", true, Act::kIncoming},
    {"initrd", true},
    {"iscsi", true},
    {"k", true},
    {"kernel", true},
    {"loadvm", true, Act::kLoadvm},
    {"m", true},
    {"machine", true, Act::kMachine},
    {"mem-path", true},
    {"mem-prealloc", false},
    {"mon", true, Act::kMonitor},
    {"monitor", true, Act::kMonitor},
    {"msg", true},
    {"mtdblock", true, Act::kDrive},
    {"name", true, Act::kName},
    {"net", true},
    {"netdev", true},
    {"nic", true},
    {"no-acpi", false},
    {"no-fd-bootchk", false},
    {"no-hpet", false},
    {"no-reboot", false},
    {"no-shutdown", false, Act::kNoShutdown},
    {"no-user-config", false},
    {"nodefaults", false, Act::kNoDefaults},
    {"nographic", false, Act::kNographic},
    {"numa", true},
    {"object", true, Act::kObject},
    {"only-migratable", false},
    {"option-rom", true},
    {"overcommit", true},
    {"parallel", true},
    {"perfmap", false},
    {"pflash", true, Act::kDrive},
    {"pidfile", true, Act::kPidfile},
    {"plugin", true},
    {"portrait", false},
    {"preconfig", false, Act::kPreconfig},
    {"qmp", true, Act::kMonitor},
    {"qmp-pretty", true, Act::kMonitor},
    {"qtest", true, Act::kQtest},
    {"qtest-log", true},
    {"readconfig", true},
    {"rotate", true},
    {"rtc", true},
    {"run-with", true},
    {"runas", true},
    {"s", false},
    {"sandbox", true},
    {"sd", true, Act::kDrive},
    {"seed", true},
    {"serial", true},
    {"set", true},
    {"singlestep", false},
    {"smbios", true},
    {"smp", true, Act::kProcessors},
    {"snapshot", false, Act::kSnapshot},
    {"spice", true},
    {"tpmdev", true},
    {"trace", true},
    {"usb", false},
    {"usbdevice", true},
    {"uuid", true, Act::kUuid},
    {"version", false, Act::kQuestion},
    {"vga", true},
    {"virtfs", true},
    {"vnc", true},
    {"watchdog", true},
    {"watchdog-action", true},
    {"win2k-hack", false},
    {"xen-attach", false},
    {"xen-domid", true},
    {"xen-domid-restrict", false},
};

const Known* find(std::string_view name) {
  const auto found = std::ranges::find(kKnown, name, &Known::name);
  return found == std::end(kKnown) ? nullptr : &*found;
}

// Options that can be asked for their values: "-device help", "-machine help".
bool is_question(std::string_view name, std::string_view value) {
  static constexpr std::string_view kAskable[] = {
      "machine", "M", "device", "cpu", "accel", "object", "chardev", "display", "audiodev"};
  const bool help = value == "help" || value == "?";
  return help && std::ranges::find(kAskable, name) != std::end(kAskable);
}

void apply(SystemOptions& options, Act act, OptionUse use) {
  switch (act) {
    case Act::kIgnore:
      break;
    case Act::kDrive:
      options.drives.push_back(std::move(use));
      break;
    case Act::kBlockdev:
      options.blockdevs.push_back(std::move(use));
      break;
    case Act::kDevice:
      options.devices.push_back(std::move(use));
      break;
    case Act::kObject:
      options.objects.push_back(std::move(use));
      break;
    case Act::kChardev:
      options.chardevs.push_back(std::move(use));
      break;
    case Act::kMonitor:
      options.monitor_given = true;
      options.monitors.push_back(std::move(use));
      break;
    case Act::kGlobal:
      options.globals.push_back(std::move(use));
      break;
    case Act::kAccelerator:
      options.accelerators.push_back(std::move(use));
      break;
    case Act::kEnableKvm:
      use.value = "kvm";
      options.accelerators.push_back(std::move(use));
      break;
    case Act::kMachine:
      options.machine = std::move(use);
      break;
    case Act::kProcessors:
      options.processors = std::move(use);
      break;
    case Act::kQtest:
      options.qtest = std::move(use);
      break;
    case Act::kIncoming:
      options.incoming = std::move(use);
      break;
    case Act::kLoadvm:
      options.loadvm = std::move(use);
      break;
    case Act::kPidfile:
      options.pidfile = std::move(use);
      break;
    case Act::kUuid:
      options.uuid = std::move(use);
      break;
    case Act::kName: {
      // "guest=NAME,process=...", or the name alone.
      std::string_view text = use.value;
      text = text.substr(0, text.find(','));
      if (text.starts_with("guest=")) text.remove_prefix(6);
      options.name = text.contains('=') ? std::string() : std::string(text);
      break;
    }
    case Act::kPaused:
      options.start_paused = true;
      break;
    case Act::kNoDefaults:
      options.no_defaults = true;
      break;
    case Act::kDenyImageReferences:
      options.deny_image_references = true;
      break;
    case Act::kNoShutdown:
      options.no_shutdown = true;
      break;
    case Act::kDaemonize:
      options.daemonize = true;
      break;
    case Act::kNographic:
      options.nographic = true;
      break;
    case Act::kSnapshot:
      options.snapshot = true;
      break;
    case Act::kPreconfig:
      options.preconfig = true;
      break;
    case Act::kQuestion:
      if (!options.question) options.question = std::move(use);
      break;
  }
}

}  // namespace

std::expected<SystemOptions, OptionFailure> parse_system_options(
    const std::vector<std::string>& arguments) {
  SystemOptions options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& typed = arguments[i];
    if (typed.size() < 2 || typed[0] != '-') {
      options.drives.push_back({"hda", typed, typed});
      continue;
    }
    const std::string_view name = std::string_view(typed).substr(typed[1] == '-' ? 2 : 1);
    const Known* known = find(name);
    if (known == nullptr) return std::unexpected(OptionFailure{typed, "invalid option"});
    OptionUse use{std::string(name), "", typed};
    if (known->has_argument) {
      if (i + 1 >= arguments.size())
        return std::unexpected(OptionFailure{typed, "requires an argument"});
      use.value = arguments[++i];
      use.location += " " + use.value;
    }
    const bool asks =
        is_question(name, use.value) ||
        (name == "drive" && (use.value == "format=help" || use.value.contains(",format=help")));
    apply(options, asks ? Act::kQuestion : known->act, std::move(use));
  }
  return options;
}

}  // namespace blockbed::server
