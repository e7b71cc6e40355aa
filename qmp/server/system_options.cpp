#include "qmp/server/system_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "qmp/commands/option_text.h"
#include "qmp/server/config_file.h"
#include "qmp/server/option_groups.h"

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
  kSandbox,
  kVmstate,
  kReadConfig,
  kSet,
  kDescriptor,
  kLogFile,
  kMessages,
  kUser,
  kRoot,
  kKernel,
  kInitrd,
  kAppend,
  kPort,
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
    {"D", true, Act::kLogFile},
    {"L", true},
    {"M", true, Act::kMachine},
    {"S", false, Act::kPaused},
    {"accel", true, Act::kAccelerator},
    {"acpitable", true},
    {"action", true},
    {"add-fd", true, Act::kDescriptor},
    {"append", true, Act::kAppend},
    {"async-teardown", false},
    {"audio", true},
    {"audio-help", false},
    {"audiodev", true},
    {"bios", true},
    {"blockdev", true, Act::kBlockdev},
    {"boot", true},
    {"cdrom", true, Act::kDrive},
    {"chardev", true, Act::kChardev},
    {"chroot", true, Act::kRoot},
    {"compat", true},
    {"cpu", true},
    {"d", true},
    {"daemonize", false, Act::kDaemonize},
    {"debugcon", true, Act::kPort},
    {"deny-image-references", false, Act::kDenyImageReferences},
    {"device", true, Act::kDevice},
    {"dfilter", true},
    {"display", true},
    {"drive", true, Act::kDrive},
    {"dtb", true},
    {"dump-vmstate", true, Act::kVmstate},
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
    {"initrd", true, Act::kInitrd},
    {"iscsi", true},
    {"k", true},
    {"kernel", true, Act::kKernel},
    {"loadvm", true, Act::kLoadvm},
    {"m", true},
    {"machine", true, Act::kMachine},
    {"mem-path", true},
    {"mem-prealloc", false},
    {"mon", true, Act::kMonitor},
    {"monitor", true, Act::kMonitor},
    {"msg", true, Act::kMessages},
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
    {"parallel", true, Act::kPort},
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
    {"readconfig", true, Act::kReadConfig},
    {"rotate", true},
    {"rtc", true},
    {"runas", true, Act::kUser},
    {"s", false},
    {"sandbox", true, Act::kSandbox},
    {"sd", true, Act::kDrive},
    {"seed", true},
    {"serial", true, Act::kPort},
    {"set", true, Act::kSet},
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
// Options that can be asked for their values: "-device help", "-machine help"; of what has members
// of its own, "-device MODEL,help" asks for those.
bool is_question(std::string_view name, std::string_view value) {
  static constexpr std::string_view kAskable[] = {"machine", "M",      "device",   "cpu",
                                                  "accel",   "object", "chardev",  "display",
                                                  "netdev",  "trace",  "audiodev", "d"};
  static constexpr std::string_view kOfMembers[] = {"device", "object"};
  const auto asks = [](std::string_view word) { return word == "help" || word == "?"; };
  const std::size_t comma = value.rfind(',');
  const std::string_view last = value.substr(comma == std::string_view::npos ? 0 : comma + 1);
  if (name == "drive") return last.starts_with("format=") && asks(last.substr(7));
  const auto has = [name](const auto& names) {
    return std::ranges::find(names, name) != std::end(names);
  };
  if (comma != std::string_view::npos && has(kOfMembers)) return asks(last);
  return asks(value) && has(kAskable);
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
      options.refused.emplace_back(std::move(use), "Loading a snapshot");
      break;
    case Act::kVmstate:
      options.refused.emplace_back(std::move(use), "A dump of the state of devices");
      break;
    case Act::kSandbox: {
      // Its members are checked; "enable" is the first of them, or implied.
      const std::string_view text = use.value;
      if (!text.starts_with("off") && !text.contains("enable=off"))
        options.refused.emplace_back(std::move(use), "A filter of system calls");
      break;
    }
    case Act::kDescriptor:
      options.refused.emplace_back(std::move(use), "A set of descriptors");
      break;
    case Act::kLogFile:
      options.log_file = std::move(use);
      break;
    case Act::kMessages:
      options.messages = std::move(use);
      break;
    case Act::kUser:
      options.user = std::move(use);
      break;
    case Act::kRoot:
      options.root = std::move(use);
      break;
    case Act::kKernel:
      options.kernel = std::move(use);
      break;
    case Act::kInitrd:
      options.initrd = std::move(use);
      break;
    case Act::kAppend:
      options.append = std::move(use);
      break;
    case Act::kPort:
      options.ports.push_back(std::move(use));
      break;
    case Act::kReadConfig:
    case Act::kSet:
      // Made of other options: see take().
      break;
    case Act::kPidfile:
      options.pidfile = std::move(use);
      break;
    case Act::kUuid:
      options.uuid = std::move(use);
      break;
    case Act::kName: {
      // "guest=NAME,process=...", or the name alone.
      const auto parsed = OptionText::parse(use.value, "guest");
      if (parsed) options.name = parsed->text("guest");
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

// -set GROUP.ID.ARGUMENT=VALUE: one more item of an option that was given before.
std::expected<void, OptionFailure> set_item(SystemOptions& options, const OptionUse& use) {
  const auto wrong = [&](std::string text) {
    return std::unexpected(OptionFailure{use.location, std::move(text)});
  };
  const std::string_view text = use.value;
  const std::size_t first = text.find('.');
  const std::size_t second = text.find('.', first == std::string_view::npos ? first : first + 1);
  const std::size_t equals = text.find('=');
  if (second == std::string_view::npos || equals == std::string_view::npos || equals < second) {
    return wrong(fmt::format("can't parse: \"{}\"", text));
  }
  const std::string_view group = text.substr(0, first);
  const std::string_view id = text.substr(first + 1, second - first - 1);
  const std::pair<std::string_view, std::vector<OptionUse>*> groups[] = {
      {"chardev", &options.chardevs},
      {"device", &options.devices},
      {"drive", &options.drives},
      {"mon", &options.monitors}};
  const auto found =
      std::ranges::find(groups, group, [](const auto& entry) { return entry.first; });
  if (found == std::end(groups)) return wrong(fmt::format("There is no option group '{}'", group));
  for (OptionUse& given : *found->second) {
    if (given.name != group) continue;
    const auto parsed = OptionText::parse(given.value, "");
    if (!parsed || parsed->text("id") != id) continue;
    given.value.append(",").append(text.substr(second + 1, equals - second));
    for (const char c : text.substr(equals + 1)) given.value.append(c == ',' ? 2 : 1, c);
    return {};
  }
  return wrong(fmt::format("there is no {} \"{}\" defined", group, id));
}

std::expected<void, OptionFailure> take(SystemOptions& options, Act act, OptionUse use) {
  if (act == Act::kSet) return set_item(options, use);
  if (act == Act::kReadConfig) {
    auto uses = read_config(use);
    if (!uses) return std::unexpected(std::move(uses).error());
    for (OptionUse& each : *uses) {
      const Act what = find(each.name)->act;
      if (auto taken = take(options, what, std::move(each)); !taken) return taken;
    }
    return {};
  }
  std::vector<std::string> warnings;
  auto checked = check_option_group(use, warnings);
  for (std::string& warning : warnings)
    options.warnings.emplace_back(use.location, std::move(warning));
  if (!checked) return checked;
  apply(options, is_question(use.name, use.value) ? Act::kQuestion : act, std::move(use));
  return {};
}

}  // namespace

std::expected<void, OptionFailure> parse_system_options(const std::vector<std::string>& arguments,
                                                        SystemOptions& options) {
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
    if (auto taken = take(options, known->act, std::move(use)); !taken) return taken;
  }
  return {};
}

}  // namespace blockbed::server
