// Names, ownership and life of nodes.
#include "block/graph/graph.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/backend.h"
#include "block/graph/chain.h"
#include "block/graph/graph_change.h"
#include "block/runtime/env.h"

namespace blockbed {

NodeRef::NodeRef(Node& node) : node_(&node) { node.graph().add_reference(node); }
NodeRef::NodeRef(const NodeRef& other) : node_(other.node_) {
  if (node_ != nullptr) node_->graph().add_reference(*node_);
}
NodeRef::~NodeRef() {
  if (node_ != nullptr) node_->graph().drop_reference(*node_);
}

void DriverRegistry::add(DriverEntry entry) {
  BB_ASSERT(find(entry.name) == nullptr);
  entries_.push_back(std::move(entry));
}

const DriverEntry* DriverRegistry::find(std::string_view name) const {
  for (const DriverEntry& entry : entries_) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

Graph::Graph(Env& env, EventSink& events, DriverRegistry& drivers)
    : env_(env),
      guest_clock_(env),
      throttle_groups_(guest_clock_, env.executor()),
      events_(events),
      drivers_(drivers),
      lock_(env.executor()),
      drain_waiters_(env.executor()) {}

Graph::~Graph() { BB_ASSERT(nodes_.empty() && backends_.empty()); }

Executor& Graph::executor() const { return env_.executor(); }

Node* Graph::find_node(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

Backend* Graph::find_backend(std::string_view name) const {
  if (name.empty()) return nullptr;
  for (Backend* backend : backends_) {
    if (backend->name() == name) return backend;
  }
  return nullptr;
}

Expected<Node*> Graph::find_device_or_node(std::optional<std::string_view> device,
                                           std::optional<std::string_view> node_name) const {
  if (device) {
    if (Backend* backend = find_backend(*device)) {
      if (backend->node() == nullptr)
        return fail(fmt::format("Device '{}' has no medium", *device));
      return backend->node();
    }
  }
  if (node_name) {
    if (Node* node = find_node(*node_name)) return node;
  }
  return fail(fmt::format("Cannot find device='{}' nor node-name='{}'", device.value_or(""),
                          node_name.value_or("")));
}

std::vector<Node*> Graph::nodes() const {
  std::vector<Node*> result;
  for (const auto& node : nodes_) {
    if (node->is_open()) result.push_back(node.get());
  }
  std::ranges::reverse(result);
  return result;
}

void Graph::end_breakpoints() {
  ++waiting_drains_;
  for (const auto& node : nodes_) {
    if (node->debug_listener_ != nullptr) node->debug_listener_->resume_all();
  }
}

void Graph::resume_suspended_below(const std::vector<Node*>& tops) {
  for (const auto& node : nodes_) {
    if (node->debug_listener_ == nullptr) continue;
    if (std::ranges::any_of(tops, [&](Node* top) { return reaches(*top, *node); })) {
      node->debug_listener_->resume_all();
    }
  }
}

std::string Graph::next_auto_name() { return fmt::format("#block{:03}", auto_names_++); }

void Graph::add_reference(Node& node) {
  if (node.references_++ == 0) std::erase(unreferenced_, &node);
}

void Graph::drop_reference(Node& node) {
  BB_ASSERT(node.references_ > 0);
  if (--node.references_ == 0) note_unreferenced(node);
}

void Graph::note_unreferenced(Node& node) {
  if (node.references_ == 0 && node.parents_.empty() && !node.monitor_owned_ &&
      std::ranges::find(unreferenced_, &node) == unreferenced_.end()) {
    unreferenced_.push_back(&node);
  }
}

void Graph::give_to_monitor(Node& node) {
  BB_ASSERT(!node.monitor_owned_);
  node.monitor_owned_ = true;
  std::erase(unreferenced_, &node);
  monitor_nodes_.push_back(&node);
}

void Graph::take_from_monitor(Node& node) {
  BB_ASSERT(node.monitor_owned_);
  node.monitor_owned_ = false;
  std::erase(monitor_nodes_, &node);
  note_unreferenced(node);
}

Task<void> Graph::close_unreferenced() {
  while (!unreferenced_.empty()) {
    Node* node = unreferenced_.back();
    unreferenced_.pop_back();
    // A node may have found a user again since.
    if (node->references_ > 0 || !node->parents_.empty() || node->monitor_owned_) continue;
    co_await close(*node);
  }
}

Task<void> Graph::close(Node& node) {
  // What it passed on, others get from where it had it.
  for (const auto& other : nodes_) {
    if (other->inherits_from_ == &node) other->inherits_from_ = node.inherits_from_;
  }
  {
    // A node whose driver failed to open has no driver, but may have children already.
    DrainedSection drained;
    std::unique_ptr<Driver> closed;
    if (node.is_open()) {
      drained = co_await drain(node);
      // A failed flush cannot be told to anybody here; who needs to know flushes before it lets go.
      (void)co_await node.flush();
      co_await node.driver_->close();
      // From here on the node counts as not open: nothing asks the driver any more.
      closed = std::move(node.driver_);
      node.debug_listener_ = nullptr;
    }
    GraphChange change(*this);
    while (!node.children_.empty()) {
      Edge& edge = *node.children_.back();
      change.release_context(*edge.node());
      const Expected<void> detached = change.detach_child(edge);
      BB_ASSERT(detached.has_value());
    }
    const Expected<void> checked = change.check();
    BB_ASSERT(checked.has_value());
    change.commit();
  }
  // The section above counted as a reference and may have listed the node again.
  std::erase(unreferenced_, &node);
  if (const auto named = by_name_.find(node.name_);
      named != by_name_.end() && named->second == &node) {
    by_name_.erase(named);
  }
  node.driver_.reset();
  const auto place = std::ranges::find_if(nodes_, [&](const auto& n) { return n.get() == &node; });
  BB_ASSERT(place != nodes_.end());
  nodes_.erase(place);
}

Task<void> Graph::close_all() {
  while (!monitor_nodes_.empty()) take_from_monitor(*monitor_nodes_.back());
  co_await close_unreferenced();
}

Task<void> Graph::shutdown() {
  co_await close_all();
  co_await guest_clock_.close();
}

Expected<void> Graph::may_open_named_by_image(const Node& image, std::string_view filename) const {
  if (!deny_named_by_images_) return {};
  return fail(fmt::format(
      "Image of node '{}' names the file '{}', and opening files that images name is denied",
      image.name(), filename));
}

}  // namespace blockbed
