// The command line in the manner of qemu-storage-daemon.
//
// Contract: options in their order, each with its location; `--name=value` and `--name value` and
// unambiguous beginnings of names, as getopt_long takes them. Nothing is opened here. Threading:
// pure function.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "qmp/server/system_options.h"

namespace blockbed::server {

struct DaemonOptions {
  // --blockdev, --chardev, --export, --monitor, --nbd-server, --object: acted upon in this order.
  std::vector<OptionUse> actions;
  std::string pidfile;
  bool daemonize = false;
  // Files that images name are not opened.
  bool deny_image_references = false;
  bool help = false;
  bool version = false;
};

std::expected<DaemonOptions, OptionFailure> parse_daemon_options(
    const std::vector<std::string>& arguments);

}  // namespace blockbed::server
