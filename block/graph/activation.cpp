#include "block/graph/activation.h"

#include <fmt/format.h>

#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "block/graph/reopen.h"

namespace blockbed {

namespace {

// With the permissions that go with it.
Expected<void> set_inactive(Node& node, bool inactive) {
  GraphChange change(node.graph());
  NodeFlags flags = node.flags();
  flags.inactive = inactive;
  change.set_flags(node, flags);
  BB_TRY(change.check());
  change.commit();
  return {};
}

// Filters and protocols keep nothing of what others may have written.
Task<Expected<void>> read_anew(Node& node) {
  if (!node.driver().is_format()) co_return Expected<void>();
  auto options = options_in_force(node);
  if (!options) co_return fail(std::move(options).error());
  ReopenState state;
  state.flags = node.flags();
  state.options = std::move(*options);
  state.others_wrote = true;
  Expected<void> read = co_await node.driver().reopen_prepare(state);
  if (read) node.driver().reopen_commit();
  co_await node.driver().reopen_finish();
  if (read) co_return read;
  co_return fail(
      fmt::format("Could not reopen {} layer: {}", node.driver().name(), read.error().description));
}

Task<Expected<void>> activate_one(Node& node) {
  DrainedSection drained = co_await drain(node);
  BB_CO_TRY(set_inactive(node, false));
  // A file may have grown, and its format looks there.
  auto length = co_await node.refresh_length();
  Expected<void> done = length ? co_await read_anew(node)
                               : fail(fmt::format("Could not refresh total sector count: {}",
                                                  strerror_text(length.error())));
  if (done) {
    (void)co_await node.refresh_length();
  } else {
    const Expected<void> undone = set_inactive(node, true);
    BB_ASSERT(undone.has_value());  // it needs less
  }
  co_return done;
}

}  // namespace

Task<Expected<void>> activate(Node& node) {
  for (std::size_t i = 0; i < node.children().size(); ++i) {
    if (Node* child = node.children()[i]->node()) BB_CO_TRY(co_await activate(*child));
  }
  if (!node.flags().inactive) co_return Expected<void>();
  co_return co_await activate_one(node);
}

Task<Expected<void>> activate_all(Graph& graph) {
  for (Node* node : graph.nodes()) BB_CO_TRY(co_await activate(*node));
  co_return Expected<void>();
}

std::optional<InheritedOptions> inherited_by_roots(const Graph& graph) {
  if (!graph.awaits_guest()) return std::nullopt;
  InheritedOptions inherited;
  inherited.flags.inactive = true;
  return inherited;
}

}  // namespace blockbed
