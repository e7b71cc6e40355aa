#include "block/graph/graph_change.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "block/graph/backend.h"
#include "block/graph/chain.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/graph.h"

namespace blockbed {

struct GraphChange::Step {
  std::function<void()> undo;
  std::function<void()> commit;
};

GraphChange::GraphChange(Graph& graph) : graph_(graph) {}

GraphChange::~GraphChange() {
  if (done_) return;
  for (Node* node : prepared_) node->driver_->abort_permissions();
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    if (step->undo) step->undo();
  }
  for (Node* node : touched_) graph_.drop_reference(*node);
}

void GraphChange::on_undo(std::function<void()> undo) { steps_.push_back({std::move(undo), {}}); }
void GraphChange::on_commit(std::function<void()> commit) {
  steps_.push_back({{}, std::move(commit)});
}

void GraphChange::recheck(Node& node) {
  if (std::ranges::find(touched_, &node) != touched_.end()) return;
  // Nothing dies inside a change, even when its last edge goes.
  graph_.add_reference(node);
  touched_.push_back(&node);
}

void GraphChange::link(Edge& edge, Node* node) {
  Node* old = edge.node_;
  if (old == node) return;
  if (node != nullptr) recheck(*node);
  if (old != nullptr) recheck(*old);
  // First the new one: a parent that moves between two drained nodes does not wake in between.
  const auto move = [&edge](Node* to) {
    Node* from = std::exchange(edge.node_, to);
    if (to != nullptr) to->add_parent(edge);
    if (from != nullptr) from->remove_parent(edge);
  };
  move(node);
  on_undo([move, old] { move(old); });
  if (node != nullptr) linked_.push_back(&edge);
}

Expected<void> GraphChange::move_to_context(Node& node, IoContext to) {
  ContextMove move(std::move(to));
  BB_TRY(move.add(node));
  on_undo(move.carry_out());
  return {};
}

void GraphChange::release_context(Node& node) {
  on_commit([&node] { (void)blockbed::move_to_context(node, nullptr); });
}

Expected<void> GraphChange::bring_together(Edge& edge) {
  if (edge.node_ == nullptr) return {};
  Node& node = *edge.node_;
  const std::optional<IoContext> wanted = edge.parent().child_context();
  if (!wanted || *wanted == node.context_) return {};
  const Expected<void> follows = move_to_context(node, *wanted);
  if (follows) return {};
  // Until a node is open, what it has as "file" is held where it is, by who looked at the image.
  const Node* parent = edge.parent().as_node();
  if (parent != nullptr && !parent->is_open()) {
    const Edge* file = parent->child("file");
    if (file != nullptr && file != &edge) return follows;
  }
  ContextMove up(node.context_);
  if (!edge.parent().join(up)) return follows;
  on_undo(up.carry_out());
  return {};
}

Edge* GraphChange::attach_child(Node& parent, std::string name, ChildRoles roles, Node& child) {
  auto owned = std::make_unique<Edge>(parent, std::move(name), roles);
  Edge* edge = owned.get();
  parent.children_.push_back(std::move(owned));
  on_undo([&parent, edge] {
    std::erase_if(parent.children_, [edge](const auto& e) { return e.get() == edge; });
  });
  link(*edge, &child);
  recheck(parent);
  return edge;
}

void GraphChange::attach_root(Edge& edge, Node& node, PermissionPair permissions) {
  set_permissions(edge, permissions);
  link(edge, &node);
}

void GraphChange::detach_root(Edge& edge) {
  if (edge.node_ != nullptr) release_context(*edge.node_);
  link(edge, nullptr);
  set_permissions(edge, {Permissions::none(), Permissions::all()});
}

Expected<void> GraphChange::detach_child(Edge& edge) {
  Node* parent = edge.parent().as_node();
  BB_ASSERT(parent != nullptr);
  if (edge.frozen()) return cannot_change_frozen(edge);
  disinherit(*parent, *edge.node());
  set_permissions(edge, {Permissions::none(), Permissions::all()});
  link(edge, nullptr);
  recheck(*parent);
  auto& children = parent->children_;
  const auto place =
      std::ranges::find_if(children, [&](const auto& e) { return e.get() == &edge; });
  const std::size_t index = static_cast<std::size_t>(place - children.begin());
  // The edge itself lives until it is sure that it is not needed again.
  auto kept = std::make_shared<std::unique_ptr<Edge>>(std::move(*place));
  children.erase(place);
  steps_.push_back({[&children, index, kept] {
                      children.insert(children.begin() + static_cast<std::ptrdiff_t>(index),
                                      std::move(*kept));
                    },
                    [kept] { kept->reset(); }});
  return {};
}

Expected<void> GraphChange::replace_node(Edge& edge, Node& node) {
  Node* parent = edge.parent().as_node();
  if (edge.frozen()) return cannot_change_frozen(edge);
  if (parent != nullptr && reaches(node, *parent)) {
    return would_be_cycle(node, edge.name(), *parent);
  }
  link(edge, &node);
  if (parent != nullptr) recheck(*parent);
  renew_permissions(edge);
  return {};
}

void GraphChange::renew_permissions(Edge& edge) {
  const auto* root = dynamic_cast<const Backend*>(&edge.parent());
  if (root != nullptr && root->for_guest())
    set_permissions(edge, root->permissions_on(*edge.node_));
}

void GraphChange::disinherit(const Node& parent, Node& child) {
  if (child.inherits_from_ != &parent) return;
  Node* old = std::exchange(child.inherits_from_, nullptr);
  on_undo([&child, old] { child.inherits_from_ = old; });
}

Expected<void> GraphChange::set_child(Node& parent, std::string name, ChildRoles roles,
                                      Node* child) {
  Edge* edge = parent.child(name);
  Node* old = edge == nullptr ? nullptr : edge->node();
  if (old == child) return {};
  if (child == nullptr) return detach_child(*edge);
  if (old != nullptr) {
    BB_TRY(replace_node(*edge, *child));
    disinherit(parent, *old);
    return {};
  }
  if (reaches(*child, parent)) return would_be_cycle(*child, name, parent);
  attach_child(parent, std::move(name), roles, *child);
  return {};
}

Expected<void> GraphChange::replace_in_parents(Node& from, Node& to) {
  const std::vector<Edge*> edges = from.parents_;
  for (Edge* edge : edges) {
    if (edge->parent().stays_with_node(*edge)) continue;
    Node* parent = edge->parent().as_node();
    // The edges on the way from `to` to `from` stay: `to` was put in between.
    if (parent != nullptr && (parent == &to || reaches(to, *parent))) continue;
    if (edge->frozen()) {
      return fail(fmt::format("Cannot change '{}' link to '{}'", edge->name(), from.name()));
    }
    BB_TRY(replace_node(*edge, to));
  }
  return {};
}

void GraphChange::set_permissions(Edge& edge, PermissionPair permissions) {
  const PermissionPair old = edge.permissions_;
  if (old == permissions) return;
  edge.permissions_ = permissions;
  on_undo([&edge, old] { edge.permissions_ = old; });
  if (edge.node_ != nullptr) recheck(*edge.node_);
}

void GraphChange::set_read_only(Node& node, bool read_only) {
  NodeFlags flags = node.flags_;
  flags.read_only = read_only;
  set_flags(node, flags);
}

void GraphChange::set_flags(Node& node, NodeFlags flags) {
  const NodeFlags old = std::exchange(node.flags_, flags);
  on_undo([&node, old] { node.flags_ = old; });
  if (!old.read_only && flags.read_only) made_read_only_.push_back(&node);
  if (old.inactive != flags.inactive) {
    for (Edge* edge : node.parents_) renew_permissions(*edge);
  }
  recheck(node);
}

void GraphChange::set_given_options(Node& node, json::Object options, bool as_text) {
  on_undo([&node, old = std::move(node.given_options_), text = node.given_as_text_]() mutable {
    node.given_options_ = std::move(old);
    node.given_as_text_ = text;
  });
  node.given_options_ = std::move(options);
  node.given_as_text_ = as_text;
}

namespace {

// Children after parents, so that a node is looked at when all its parents have said what they
// need.
void add_below(Node& node, std::set<Node*>& seen, std::vector<Node*>& order) {
  if (!seen.insert(&node).second) return;
  for (const auto& edge : node.children()) {
    if (edge->node() != nullptr) add_below(*edge->node(), seen, order);
  }
  order.push_back(&node);
}

Expected<void> check_conflicts(const Node& node) {
  // Newest edges first: which of several conflicts is reported is visible to clients.
  const auto& parents = node.parents();
  for (auto a = parents.rbegin(); a != parents.rend(); ++a) {
    for (auto b = parents.rbegin(); b != parents.rend(); ++b) {
      if (a == b) continue;
      const Permissions refused = (*b)->permissions().needs - (*a)->permissions().shares;
      if (refused.empty()) continue;
      return fail(fmt::format(
          "Permission conflict on node '{}': permissions '{}' are both required by {} (uses node "
          "'{}' as '{}' child) "
          "and unshared by {} (uses node '{}' as '{}' child).",
          node.name(), permission_words(refused), (*b)->parent().describe_user(), node.name(),
          (*b)->name(), (*a)->parent().describe_user(), node.name(), (*a)->name()));
    }
  }
  return {};
}

}  // namespace

std::unexpected<Error> GraphChange::not_writable(const Node& node) const {
  if (std::ranges::find(made_read_only_, &node) == made_read_only_.end()) {
    return fail("Block node is read-only");
  }
  return fail(
      fmt::format("Read-only block node '{}' cannot support read-write users", node.name()));
}

PermissionPair cumulative_permissions(const Node& node) {
  PermissionPair result;
  for (const Edge* edge : node.parents()) {
    result.needs |= edge->permissions().needs;
    result.shares &= edge->permissions().shares;
  }
  return result;
}

Expected<void> GraphChange::check() {
  for (Edge* edge : linked_) BB_TRY(bring_together(*edge));

  std::vector<Node*> order;
  std::set<Node*> seen;
  for (Node* node : touched_) add_below(*node, seen, order);
  std::ranges::reverse(order);

  for (Node* node : order) {
    if (!node->is_open()) continue;
    BB_TRY(check_conflicts(*node));
    const PermissionPair cumulative = cumulative_permissions(*node);
    const bool needs_write = cumulative.needs.has(Permission::kWrite) ||
                             cumulative.needs.has(Permission::kWriteUnchanged);
    if (needs_write && !node->writable()) return not_writable(*node);
    if (needs_write && !cumulative.needs.has(Permission::kResize) &&
        node->length() % node->limits().request_alignment != 0) {
      return fail(
          "Cannot get 'write' permission without 'resize': Image size is not a multiple of request "
          "alignment");
    }
    prepared_.push_back(node);
    BB_TRY(node->driver_->prepare_permissions(cumulative.needs, cumulative.shares));
    for (const auto& edge : node->children_) {
      if (edge->node() == nullptr) continue;
      PermissionPair wanted =
          node->driver_->child_permissions(edge.get(), edge->roles(), cumulative, node->writable());
      // Who opens an image that others may write has agreed to that, and nobody above can undo it.
      if (edge->node()->flags().force_share) wanted.shares = Permissions::all();
      set_permissions(*edge, wanted);
    }
  }
  return {};
}

void GraphChange::commit() {
  BB_ASSERT(!done_);
  done_ = true;
  for (Node* node : prepared_) {
    const PermissionPair cumulative = cumulative_permissions(*node);
    node->driver_->commit_permissions(cumulative.needs, cumulative.shares);
  }
  for (Step& step : steps_) {
    if (step.commit) step.commit();
  }
  // From the bottom up: what a node needs of requests follows from its children.
  std::vector<Node*> order;
  std::set<Node*> seen;
  for (Node* node : touched_) add_below(*node, seen, order);
  for (Node* node : order) {
    if (node->is_open()) node->refresh_limits();
  }
  for (Node* node : touched_) {
    const std::vector<Edge*> parents = node->parents_;
    for (Edge* edge : parents) edge->parent().node_replaced(*edge);
  }
  for (Node* node : touched_) graph_.drop_reference(*node);
}

}  // namespace blockbed
