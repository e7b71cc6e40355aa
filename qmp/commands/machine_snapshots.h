// Snapshots of the whole machine: all its disks and, beside one of them, what the machine itself
// is.
//
// Problem: savevm, loadvm and delvm, and the jobs of the same purpose, treat all writable disks as
// one; one of them keeps the state of the machine, which here has no guest and so says no more than
// what machine it was.
//
// Contract
//  - The disks are those of the list, or all that are written to: roots of devices and nodes of the
//    user's own that nothing stands on. All of them must be able to keep snapshots.
//  - save() and load() stop the machine and let it go on as it did; when load() fails it stays
//    stopped. All disks are drained meanwhile.
//  - A state that another program, or another machine, has left is refused after the disks were
//    reset, as QEMU does.
// Errors: QEMU's texts. Threading: engine thread; they take the graph lock.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "block/graph/graph.h"
#include "qmp/commands/run_state.h"

namespace blockbed {

class MachineSnapshots {
 public:
  // Which disks; none: all. `vmstate` is the one of them that keeps the machine's state; none: the
  // first that can.
  struct Place {
    std::optional<std::vector<std::string>> disks;
    std::optional<std::string> vmstate;

    Place() = default;
  };

  MachineSnapshots(Graph& graph, RunStatus& status, const MachineIdentity& identity)
      : graph_(graph), status_(status), identity_(identity) {}

  enum class Existing { kRefuse, kReplace };
  // Without a name one is made of the time.
  Task<Expected<void>> save(std::optional<std::string> name, Existing existing, Place place);
  Task<Expected<void>> load(std::string name, Place place);
  Task<Expected<void>> remove(std::string name, Place place);
  // As the human monitor shows it.
  std::string list() const;

 private:
  using Disks = std::vector<NodeRef>;
  Expected<Disks> disks_of(const Place& place) const;
  Expected<Node*> state_keeper(const Disks& disks, const Place& place) const;
  Task<Expected<void>> save_stopped(std::optional<std::string> name, Existing existing,
                                    const Place& place);
  Task<Expected<void>> load_stopped(std::string name, const Place& place);
  Task<Expected<void>> remove_from(const Disks& disks, std::string name);
  Task<Expected<uint64_t>> write_state(Node& keeper);
  Task<Expected<void>> read_state(Node& keeper, uint64_t size);

  Graph& graph_;
  RunStatus& status_;
  const MachineIdentity& identity_;
};

}  // namespace blockbed
