#include "qmp/server/daemon_options.h"

#include <fmt/format.h>

#include <algorithm>

namespace blockbed::server {

namespace {

struct Known {
  std::string_view name;
  bool has_argument;
};
constexpr std::string_view kDenyImageReferences = "deny-image-references";

constexpr Known kKnown[] = {
    {"blockdev", true},   {"chardev", true}, {"daemonize", false},
    {"export", true},     {"help", false},   {"monitor", true},
    {"nbd-server", true}, {"object", true},  {kDenyImageReferences, false},
    {"pidfile", true},    {"trace", true},   {"version", false},
};

}  // namespace

std::expected<DaemonOptions, OptionFailure> parse_daemon_options(
    const std::vector<std::string>& arguments) {
  DaemonOptions options;
  const auto wrong = [](std::string location, std::string text) {
    return std::unexpected(OptionFailure{std::move(location), std::move(text)});
  };
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& typed = arguments[i];
    if (typed == "-h" || typed == "-V") {
      (typed == "-h" ? options.help : options.version) = true;
      continue;
    }
    if (typed == "-T") {
      if (++i >= arguments.size()) return wrong("", "option requires an argument -- 'T'");
      continue;
    }
    if (!typed.starts_with("--") || typed == "--") {
      if (typed.size() > 1 && typed[0] == '-')
        return wrong("", fmt::format("invalid option -- '{}'", typed[1]));
      return wrong(typed, "Unexpected argument");
    }
    const std::size_t equals = typed.find('=');
    const std::string_view word =
        std::string_view(typed).substr(2, equals == std::string::npos ? equals : equals - 2);
    const Known* found = nullptr;
    int candidates = 0;
    for (const Known& known : kKnown) {
      if (known.name == word) {
        found = &known;
        candidates = 1;
        break;
      }
      // Ours takes no shorter name from QEMU's.
      if (known.name.starts_with(word) && known.name != kDenyImageReferences) {
        found = &known;
        ++candidates;
      }
    }
    if (candidates == 0) return wrong("", fmt::format("unrecognized option '--{}'", word));
    if (candidates > 1) return wrong("", fmt::format("option '--{}' is ambiguous", word));
    OptionUse use{std::string(found->name), "", typed};
    if (found->has_argument) {
      if (equals != std::string::npos) {
        use.value = typed.substr(equals + 1);
      } else if (i + 1 < arguments.size()) {
        use.value = arguments[++i];
        use.location += " " + use.value;
      } else {
        return wrong("", fmt::format("option '--{}' requires an argument", found->name));
      }
    } else if (equals != std::string::npos) {
      return wrong("", fmt::format("option '--{}' doesn't allow an argument", found->name));
    }
    if (use.name == "help") {
      options.help = true;
    } else if (use.name == "version") {
      options.version = true;
    } else if (use.name == "daemonize") {
      options.daemonize = true;
    } else if (use.name == kDenyImageReferences) {
      options.deny_image_references = true;
    } else if (use.name == "pidfile") {
      options.pidfile = use.value;
    } else if (use.name != "trace") {
      options.actions.push_back(std::move(use));
    }
  }
  return options;
}

}  // namespace blockbed::server
