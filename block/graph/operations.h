// Operations: what may be done to a node as a whole, and who forbids it.
//
// Problem: permissions speak of bytes. That a target must not be deleted under the job that writes
// it, or that a backing file must not become a backup's target, is forbidden by name, with a reason
// that the client is told.
//
// Contract: whoever forbids keeps the OperationBan alive as long as it holds; of several reasons
// the newest is told. Source of the rule: "Node 'x' is busy: block device is in use by block job:
// mirror" and its like in QEMU 7.2. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "qmp/schema/error.h"

namespace blockbed {

class Node;

enum class Operation : uint32_t {
  kBackupSource,
  kBackupTarget,
  kChangeMedium,
  kCommitSource,
  kCommitTarget,
  // To be a disk whose requests an iothread may carry out: any behind virtio-scsi.
  kDataplane,
  kDriveDel,
  kEject,
  kExternalSnapshot,
  kInternalSnapshot,
  kInternalSnapshotDelete,
  kMirrorSource,
  kMirrorTarget,
  kResize,
  kStream,
  kReplace,
};

// A set of operations.
class OperationSet {
 public:
  constexpr OperationSet() = default;
  constexpr OperationSet(std::initializer_list<Operation> operations) {
    for (Operation o : operations) bits_ |= 1u << static_cast<uint32_t>(o);
  }
  static constexpr OperationSet all() {
    OperationSet set;
    set.bits_ = ~0u;
    return set;
  }
  static constexpr OperationSet all_but(OperationSet other) {
    OperationSet set;
    set.bits_ = ~other.bits_;
    return set;
  }
  constexpr void take(Operation o) { bits_ &= ~(1u << static_cast<uint32_t>(o)); }
  constexpr bool has(Operation o) const { return (bits_ >> static_cast<uint32_t>(o) & 1) != 0; }

 private:
  uint32_t bits_ = 0;
};

class OperationBan;

// The bans of one node.
class NodeOperations {
 public:
  explicit NodeOperations(Node& node) : node_(node) {}
  NodeOperations(const NodeOperations&) = delete;
  NodeOperations& operator=(const NodeOperations&) = delete;

  // "Node 'x' is busy: REASON", with the name of the device when the node is the root of one. Being
  // a backing file is a reason of its own.
  Expected<void> check(Operation operation) const;

 private:
  friend class OperationBan;
  Node& node_;
  std::vector<const OperationBan*> bans_;
};

// Forbids operations on a node while it lives. Who holds it keeps the node alive.
class [[nodiscard]] OperationBan {
 public:
  OperationBan(NodeOperations& node, OperationSet operations, std::string reason);
  ~OperationBan();
  OperationBan(const OperationBan&) = delete;
  OperationBan& operator=(const OperationBan&) = delete;

 private:
  friend class NodeOperations;
  NodeOperations& node_;
  OperationSet operations_;
  std::string reason_;
};

}  // namespace blockbed
