// The human monitor's block commands: qemu-io, info block, info block-jobs, info blockstats,
// block_resize; commit is in human_commit.h.
//
// Contract: what is printed is what QEMU 7.2 prints, to the blanks. qemu-io's reports go to the
// server's standard output (Monitor::print), not into the answer. Threading: engine thread.
#pragma once

#include <list>
#include <memory>

#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"
#include "qmp/commands/device_directory.h"
#include "qmp/commands/qemu_io.h"
#include "qmp/monitor/human_command.h"

namespace blockbed {

class Monitor;

// Keeps what `qemu-io` began and has not ended: asynchronous requests, and the roots that they go
// through.
class QemuIoRequests {
 public:
  QemuIoRequests(Graph& graph, const DeviceDirectory& devices, Monitor& monitor,
                 qemu_io::Runner::Print warn);
  ~QemuIoRequests();

  // One command line for a device, a node, or (by_qdev) a device of the machine.
  Task<Expected<void>> run(std::string target, std::string line, bool by_qdev,
                           std::string& complaints);
  void silence_breakpoints();
  // At the end of the program.
  Task<void> finish();

 private:
  Graph& graph_;
  const DeviceDirectory& devices_;
  qemu_io::Runner::Print print_;
  qemu_io::Runner::Print warn_;
  bool silent_breakpoints_ = false;
  // Of drives and devices, whose asynchronous requests go on after the command.
  qemu_io::Runner runner_;
};

// Everything outlives the table.
void register_human_block_commands(HumanTable& human, Graph& graph, JobRegistry& jobs,
                                   const DeviceDirectory& devices, QemuIoRequests& requests);

// "1.5 GiB": three digits, as qemu-img and `info block -v` write sizes.
std::string human_size(uint64_t bytes);

}  // namespace blockbed
