#include "block/graph/reopen_repair.h"

#include <algorithm>

#include "block/graph/graph_change.h"
#include "block/graph/reopen.h"

namespace blockbed {

namespace {

// What is below the node and not a backing file, of `among`.
void gather_storage(const Node& node, const std::vector<Node*>& among, std::vector<Node*>& found) {
  for (const auto& edge : node.children()) {
    Node* child = edge->node();
    if (child == nullptr || edge->roles().has(ChildRole::kCow)) continue;
    if (std::ranges::find(among, child) == among.end()) continue;
    if (std::ranges::find(found, child) != found.end()) continue;
    found.push_back(child);
    gather_storage(*child, among, found);
  }
}

class Repair {
 public:
  Repair(Graph& graph, Node& image, const std::vector<Node*>& nodes)
      : graph_(graph), image_(image) {
    gather_storage(image, nodes, storage_);
  }

  Task<Expected<void>> run() {
    Expected<void> done = co_await set_read_only(false);
    if (done) done = co_await image_.driver().repair();
    if (!image_.flags().read_only) {
      const Expected<void> undone = co_await set_read_only(true);
      BB_ASSERT(undone.has_value());  // it needs less
      for (Node* node : storage_) (void)co_await node->refresh_length();
    }
    co_return done;
  }

 private:
  // The image's own driver is told nothing: it goes on reading.
  Task<Expected<void>> set_read_only(bool read_only) {
    Expected<void> done;
    std::size_t prepared = 0;
    while (done && prepared < storage_.size()) {
      done = co_await prepare(*storage_[prepared++], read_only);
      // Storage that cannot be opened once more stays open as it is.
      if (read_only) done = Expected<void>();
    }
    if (done) done = change(read_only);
    for (std::size_t i = prepared; i-- > 0;) co_await storage_[i]->driver().reopen_finish();
    co_return done;
  }

  Task<Expected<void>> prepare(Node& node, bool read_only) {
    auto options = options_in_force(node);
    if (!options) co_return fail(std::move(options).error());
    ReopenState state;
    state.flags = node.flags();
    state.flags.read_only = read_only;
    state.options = std::move(*options);
    co_return co_await node.driver().reopen_prepare(state);
  }

  Expected<void> change(bool read_only) {
    GraphChange change(graph_);
    change.set_read_only(image_, read_only);
    for (Node* node : storage_) {
      change.set_read_only(*node, read_only);
      change.on_commit([node] { node->driver().reopen_commit(); });
    }
    BB_TRY(change.check());
    change.commit();
    return {};
  }

  Graph& graph_;
  Node& image_;
  std::vector<Node*> storage_;
};

}  // namespace

Task<Expected<void>> repair_for_writing(Graph& graph, std::vector<Node*> nodes) {
  for (Node* node : nodes) {
    if (!node->driver().needs_repair()) continue;
    Repair repair(graph, *node, nodes);
    BB_CO_TRY(co_await repair.run());
  }
  co_return Expected<void>();
}

}  // namespace blockbed
