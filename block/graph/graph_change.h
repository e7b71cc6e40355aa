// GraphChange: a change of the graph that happens whole or not at all.
//
// Problem: replacing, attaching and detaching edges must leave every permission satisfied; a
// failure at any step leaves the graph as it was, in every detail that a client can see.
//
// Contract
//  - Steps are applied as they are called; check() then computes the permissions of all nodes
//    touched and asks the drivers (image locks); commit() makes it final, and a GraphChange that
//    dies without commit() undoes its steps in reverse.
//  - The caller holds the graph lock and has drained the nodes whose edges change (DrainedSection).
//  - Between the first step and commit/undo there is no suspension: nobody sees the graph half
//    changed.
// Errors: QEMU's texts for permission conflicts, cycles and frozen links.
// Threading: engine thread only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "qmp/schema/error.h"

namespace blockbed {

class GraphChange {
 public:
  explicit GraphChange(Graph& graph);
  GraphChange(const GraphChange&) = delete;
  GraphChange& operator=(const GraphChange&) = delete;
  ~GraphChange();

  // A new child edge of `parent`; it is owned by the parent node.
  Edge* attach_child(Node& parent, std::string name, ChildRoles roles, Node& child);
  // The edge of a root: who owns it keeps the pointer; `permissions` are what the root wants.
  void attach_root(Edge& edge, Node& node, PermissionPair permissions);
  void detach_root(Edge& edge);
  Expected<void> detach_child(Edge& edge);
  // The edge points to another node.
  Expected<void> replace_node(Edge& edge, Node& node);
  // All parents of `from` that may follow now use `to`; edges from `to` itself to `from` stay (a
  // filter put in between).
  Expected<void> replace_in_parents(Node& from, Node& to);
  void set_permissions(Edge& edge, PermissionPair permissions);
  // The child `name` of `parent` is `child`, null for none, whatever it was before.
  Expected<void> set_child(Node& parent, std::string name, ChildRoles roles, Node* child);
  void set_read_only(Node& node, bool read_only);
  void set_flags(Node& node, NodeFlags flags);
  void set_given_options(Node& node, json::Object options, bool as_text);

  // Anything else that must be undone or made final together with this change; undo runs in reverse
  // order.
  void on_undo(std::function<void()> undo);
  void on_commit(std::function<void()> commit);
  // The node, with all that hangs together with it, moves to another context (io_context.h).
  Expected<void> move_to_context(Node& node, IoContext to);
  // The node has lost a user and, when the change is final, goes back to the main loop, unless
  // others bind it elsewhere. A root that is detached does so by itself.
  void release_context(Node& node);
  // The permissions of this node are to be checked again although no edge of it was changed.
  void recheck(Node& node);

  Expected<void> check();
  void commit();

 private:
  struct Step;
  void link(Edge& edge, Node* node);
  // What a guest's device takes follows from its node (Backend::permissions_on).
  void renew_permissions(Edge& edge);
  // Both ends of the edge in one context (io_context.h).
  Expected<void> bring_together(Edge& edge);
  std::unexpected<Error> not_writable(const Node& node) const;
  // The child was the parent's own, and goes its own way now.
  void disinherit(const Node& parent, Node& child);

  Graph& graph_;
  std::vector<Step> steps_;
  std::vector<Node*> touched_;
  std::vector<Node*> prepared_;
  std::vector<Edge*> linked_;
  // They were writable until now.
  std::vector<const Node*> made_read_only_;
  bool done_ = false;
};

// What all parents of a node together need, and what all of them share.
PermissionPair cumulative_permissions(const Node& node);

}  // namespace blockbed
