// A command that runs beside the server, its standard input and output in the server's hands.
//
// Contract: `/bin/sh -c COMMAND`, with default signals and the server's standard error. take_*()
// hand the ends of its pipes out once; the caller closes them. The destructor asks the process to
// end (SIGTERM) and does not wait. Errors: errno in words. Threading: engine thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>

#include "qmp/monitor/descriptors.h"
#include "qmp/schema/error.h"

namespace blockbed::server {

class ChildProcess {
 public:
  static Expected<std::unique_ptr<ChildProcess>> start(const std::string& command);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  UniqueDescriptor take_output() { return std::move(output_); }
  UniqueDescriptor take_input() { return std::move(input_); }

 private:
  ChildProcess(pid_t process, UniqueDescriptor input, UniqueDescriptor output)
      : process_(process), input_(std::move(input)), output_(std::move(output)) {}

  const pid_t process_;
  // What is written to one is read by the process; what it writes comes out of the other.
  UniqueDescriptor input_;
  UniqueDescriptor output_;
};

}  // namespace blockbed::server
