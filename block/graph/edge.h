// Edge: one use of a node.
//
// Problem: every user of a node - a parent node, a device, a job, an export - must state what it
// needs and shares, must be stopped while the node is drained, and must follow when the node is
// replaced by another. An edge is where that is said and done.
//
// Contract
//  - An edge belongs to an EdgeParent and points to a node, which it keeps alive. It is made and
//    removed by graph changes only (graph_change.h).
//  - Data path: a parent reads and writes through its edge; the node behind may change between two
//    requests, never within one.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/graph/debug_event.h"
#include "block/graph/io_context.h"
#include "block/graph/permissions.h"
#include "block/graph/request.h"
#include "block/runtime/buffers.h"
#include "block/runtime/result.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Edge;
class File;
class Node;

// Who uses nodes: a node (as parent), or a Backend (the root of a device, job, export or monitor).
class EdgeParent {
 public:
  // In the words of permission errors: "node 'x'", "block device 'x'", "stream job 'x'", "an
  // unnamed block device".
  virtual std::string describe_user() const = 0;
  // The parent as a node, or null for a root.
  virtual Node* as_node() { return nullptr; }

  // The node behind `edge` is being drained: send no new request until drained_end. Calls nest.
  virtual void drained_begin(Edge& edge) = 0;
  virtual void drained_end(Edge& edge) = 0;
  // True while something that this parent started is still to end.
  virtual bool drained_poll(Edge& edge) = 0;

  // The node behind the edge was replaced, or its length changed.
  virtual void node_replaced(Edge& edge) { (void)edge; }
  virtual void node_resized(Edge& edge) { (void)edge; }
  // Frozen links refuse replacement: "Cannot change frozen 'backing' link from 'a' to 'b'".
  // A root that must stay with its node refuses replacement (a job's own edges).
  virtual bool stays_with_node(const Edge& edge) const { return (void)edge, false; }

  // Where nodes must run that it uses; nothing: it goes where they go.
  virtual std::optional<IoContext> child_context() const { return std::nullopt; }
  // The node behind an edge is to move: adds to the move what has to come along, or refuses.
  virtual Expected<void> join(ContextMove& move) { return (void)move, Expected<void>(); }

 protected:
  ~EdgeParent() = default;
};

class Edge {
 public:
  Edge(EdgeParent& parent, std::string name, ChildRoles roles)
      : parent_(parent), name_(std::move(name)), roles_(roles) {}
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;
  ~Edge();

  EdgeParent& parent() const { return parent_; }
  // Null only inside a graph change.
  Node* node() const { return node_; }
  // "file", "backing", "root", ...
  const std::string& name() const { return name_; }
  ChildRoles roles() const { return roles_; }
  const PermissionPair& permissions() const { return permissions_; }
  // See FrozenChain.
  bool frozen() const { return holders_ != 0; }

  // --- data path of the parent. Beyond the end reads give zeroes; a write extends a growable node
  // when the parent needs Permission::kResize, and is EIO when it does not.
  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags = {});
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags = {});
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags = {});
  Task<Result<void>> discard(uint64_t offset, uint64_t length);
  Task<Result<void>> flush();
  // Says what the next request is for (debug_event.h); node.h has the body.
  inline DebugPoint debug_event(DebugEvent event) const;
  // Driver::copy_range_to and its other half.
  Task<Result<void>> copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                   uint64_t target_offset, RequestFlags flags = {});
  Task<Result<void>> copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                     uint64_t length, RequestFlags flags = {});
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options);

  // Convenience for tables in host byte order buffers.
  Task<Result<void>> read(uint64_t offset, void* data, std::size_t length);
  Task<Result<void>> write(uint64_t offset, const void* data, std::size_t length,
                           RequestFlags flags = {});

 private:
  friend class FrozenChain;
  friend class GraphChange;
  friend class Graph;
  friend class Node;

  // False for a change behind the end by a parent node that may not make this one longer.
  bool ends_in_time(uint64_t offset, uint64_t length) const;

  EdgeParent& parent_;
  std::string name_;
  ChildRoles roles_;
  Node* node_ = nullptr;
  PermissionPair permissions_;
  // How many FrozenChains keep the link as it is; kOneAlone: one that does not share it.
  static constexpr int kOneAlone = -1;
  int holders_ = 0;
  // How many drained sections of the node this parent was told of.
  int quiesced_ = 0;
};

}  // namespace blockbed
