// The process: the background, the pidfile.
//
// Contract
//  - daemonize() forks before anything else of the process exists (threads, loops). The parent
//  waits and exits: with 0
//    when the child says ready(), else with 1; so whoever started the program may connect at once.
//    ready() moves the child to `/` and gives up standard input, output and error.
//  - A PidFile is written and locked when made, and removed when it dies.
// Errors: texts of QEMU 7.2. Threading: engine thread, before others exist.
#pragma once

#include <memory>
#include <string>

#include "qmp/schema/error.h"

namespace blockbed::server {

class Daemon {
 public:
  // Returns in the child only.
  static Expected<std::unique_ptr<Daemon>> daemonize();
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  void ready();

 private:
  explicit Daemon(int parent) : parent_(parent) {}
  int parent_;
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
