// A node's place in the graph: children, parents, drain, limits.
#include "block/graph/node.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/backend.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/graph.h"

namespace blockbed {

Node::Node(Graph& graph, std::string name)
    : graph_(graph),
      name_(std::move(name)),
      request_ended_(graph.executor()),
      flush_lock_(graph.executor()),
      dirty_bitmaps_(std::make_unique<DirtyBitmapList>(*this)) {}

std::string Node::device_name() const {
  for (const Backend* backend : graph_.backends()) {
    if (backend->node() == this && !backend->name().empty()) return backend->name();
  }
  return {};
}

Node::~Node() {
  BB_ASSERT(in_flight_ == 0 && references_ == 0 && parents_.empty() && children_.empty());
}

Env& Node::env() const { return graph_.env(); }

Edge* Node::child(std::string_view name) const {
  for (const auto& edge : children_) {
    if (edge->name() == name) return edge.get();
  }
  return nullptr;
}

Edge* Node::storage_edge() const {
  // raw takes its file as a filter would, and is none.
  if (driver_ != nullptr && driver_->is_filter()) return nullptr;
  for (const auto& edge : children_) {
    if (edge->roles().has(ChildRole::kPrimary)) return edge.get();
  }
  return nullptr;
}

Edge* Node::filtered_edge() const {
  if (driver_ == nullptr || !driver_->is_filter()) return nullptr;
  for (const auto& edge : children_) {
    if (edge->roles().has(ChildRole::kFiltered)) return edge.get();
  }
  return nullptr;
}

Edge* Node::cow_edge() const {
  for (const auto& edge : children_) {
    if (edge->roles().has(ChildRole::kCow)) return edge.get();
  }
  return nullptr;
}

Edge* Node::filter_or_cow_edge() const {
  Edge* filtered = filtered_edge();
  return filtered != nullptr ? filtered : cow_edge();
}

Node* Node::filter_or_cow_node() const {
  Edge* edge = filter_or_cow_edge();
  return edge == nullptr ? nullptr : edge->node();
}

Node* Node::backing_node() const {
  Edge* edge = cow_edge();
  return edge == nullptr ? nullptr : edge->node();
}

Node* Node::skip_hidden() {
  Node* node = this;
  while (node->hidden_) node = node->filtered_edge()->node();
  return node;
}

Node* Node::skip_filters() {
  Node* node = this;
  while (Edge* edge = node->filtered_edge()) node = edge->node();
  return node;
}

Node* Node::primary_node() const {
  for (const auto& edge : children_) {
    if (edge->roles().has(ChildRole::kPrimary)) return edge->node();
  }
  return nullptr;
}

std::string Node::describe_user() const { return fmt::format("node '{}'", name_); }

void Node::refresh_limits() {
  BlockLimits limits;
  // A format needs of its requests what its storage needs, unless the driver says otherwise.
  for (const auto& edge : children_) {
    if (edge->node() == nullptr) continue;
    if (!edge->roles().has(ChildRole::kData) && !edge->roles().has(ChildRole::kFiltered) &&
        !edge->roles().has(ChildRole::kCow)) {
      continue;
    }
    const BlockLimits& below = edge->node()->limits();
    limits.memory_alignment = std::max(limits.memory_alignment, below.memory_alignment);
    limits.optimal_transfer = std::max(limits.optimal_transfer, below.optimal_transfer);
    if (below.max_transfer != 0) {
      limits.max_transfer = limits.max_transfer == 0
                                ? below.max_transfer
                                : std::min(limits.max_transfer, below.max_transfer);
    }
    // Zeroes go through a filter as they came: for who waits in it, they are one request.
    if (driver_->is_filter() && edge->roles().has(ChildRole::kFiltered)) {
      limits.request_alignment = std::max(limits.request_alignment, below.request_alignment);
      limits.discard_alignment = below.discard_alignment;
    }
  }
  driver_->refresh_limits(limits);
  BB_ASSERT(limits.request_alignment > 0);
  limits_ = limits;
}

bool Node::busy() const {
  if (in_flight_ > 0) return true;
  if (driver_ != nullptr && driver_->drained_poll()) return true;
  return std::ranges::any_of(parents_,
                             [](Edge* edge) { return edge->parent().drained_poll(*edge); });
}

void Node::add_parent(Edge& edge) {
  parents_.push_back(&edge);
  if (quiesce_count_ > 0) {
    ++edge.quiesced_;
    edge.parent().drained_begin(edge);
  }
}

void Node::remove_parent(Edge& edge) {
  std::erase(parents_, &edge);
  graph_.note_unreferenced(*this);
  if (quiesce_count_ > 0) {
    --edge.quiesced_;
    edge.parent().drained_end(edge);
  }
}

void Node::quiesce_begin() {
  if (quiesce_count_++ > 0) return;
  for (Edge* edge : parents_) {
    ++edge->quiesced_;
    edge->parent().drained_begin(*edge);
  }
  if (driver_ != nullptr) driver_->drained_begin();
}

void Node::quiesce_end() {
  BB_ASSERT(quiesce_count_ > 0);
  if (--quiesce_count_ > 0) return;
  if (driver_ != nullptr) driver_->drained_end();
  // Ending the quiet of a parent may let it send requests, which may not change the list of
  // parents; still, walk a copy.
  const std::vector<Edge*> parents = parents_;
  for (Edge* edge : parents) {
    --edge->quiesced_;
    edge->parent().drained_end(*edge);
  }
}

void Node::drained_begin(Edge&) { quiesce_begin(); }
void Node::drained_end(Edge&) { quiesce_end(); }
bool Node::drained_poll(Edge&) { return busy(); }

void Node::node_resized(Edge& edge) {
  if (driver_ != nullptr) driver_->child_resized(edge);
}

}  // namespace blockbed
