// The process: the background, the pidfile, its rights.
//
// Contract
//  - daemonize() forks before anything else of the process exists (threads, loops). The parent
//    waits and exits: with 0 when the child says ready(), else with 1; so whoever started the
//    program may connect at once. ready() moves the child to `/` and gives up standard input,
//    output and error.
//  - A PidFile is written and locked when made, and removed when it dies.
// Errors: texts of QEMU 7.2. Threading: engine thread, before others exist.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "qmp/schema/error.h"

namespace blockbed::server {

class Daemon {
 public:
  // Returns in the child only.
  static Expected<std::unique_ptr<Daemon>> daemonize();
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Standard error goes there from ready() on. The descriptor stays its owner's.
  void set_log(int descriptor) { log_ = descriptor; }
  void ready();

 private:
  Daemon(int parent, int null) : parent_(parent), null_(null) {}
  int parent_;
  // /dev/null: after a chroot it cannot be reached.
  int null_;
  int log_ = -1;
};

// Who the process becomes and where its root is, when all is open (-runas, -chroot).
class Rights {
 public:
  // USER, or UID:GID.
  static Expected<Rights> of_user(const std::string& text);
  void set_root(std::string directory) { root_ = std::move(directory); }

  // "chroot failed"
  Expected<void> apply() const;

 private:
  std::string root_;
  // Empty with a number: the groups of the process are kept to one.
  std::string user_;
  std::optional<std::pair<uid_t, gid_t>> ids_;
};

class PidFile {
 public:
  static Expected<std::unique_ptr<PidFile>> create(std::string path);
  ~PidFile();
  PidFile(const PidFile&) = delete;
  PidFile& operator=(const PidFile&) = delete;

 private:
  PidFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  std::string path_;
  int descriptor_;
};

}  // namespace blockbed::server
