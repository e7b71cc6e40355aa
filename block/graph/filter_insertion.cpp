#include "block/graph/filter_insertion.h"

#include <fmt/format.h>

#include "block/graph/graph_change.h"

namespace blockbed {

namespace {

std::unexpected<Error> refuse(std::string_view prefix, const Error& error) {
  return fail(Error(error.error_class, fmt::format("{}: {}", prefix, error.description)));
}

Task<Expected<NodeRef>> put_over(Graph& graph, Node& below, NodeRef filter) {
  Expected<void> replaced;
  {
    GraphChange change(graph);
    replaced = change.replace_in_parents(below, *filter);
    if (replaced) replaced = change.check();
    if (replaced) change.commit();
  }
  if (replaced) co_return filter;
  filter = NodeRef();
  co_await graph.close_unreferenced();
  co_return fail(std::move(replaced).error());
}

}  // namespace

Task<Expected<NodeRef>> insert_filter(Graph& graph, Node& below, Graph::OpenRequest request) {
  request.temporary = true;
  auto opened = co_await graph.open(std::move(request));
  if (!opened) co_return refuse("Could not create node", opened.error());
  auto filter = co_await put_over(graph, below, std::move(*opened));
  if (!filter) co_return refuse("Could not replace node", filter.error());
  co_return filter;
}

Task<Expected<NodeRef>> insert_filter(Graph& graph, Node& below, JobFilter filter) {
  auto opened = co_await graph.open_job_filter(std::move(filter.node_name), filter.read_only, below,
                                               std::move(filter.make));
  if (!opened) co_return opened;
  co_return co_await put_over(graph, below, std::move(*opened));
}

Task<void> remove_filter(Graph& graph, NodeRef filter) {
  {
    GraphChange change(graph);
    // What it stands on now: another filter may have come in between.
    Expected<void> removed = change.replace_in_parents(*filter, *filter->filtered_edge()->node());
    if (removed) removed = change.check();
    BB_ASSERT(removed.has_value());
    change.commit();
  }
  filter = NodeRef();
  co_await graph.close_unreferenced();
}

}  // namespace blockbed
