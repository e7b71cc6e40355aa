#include "block/graph/node_names.h"

#include "block/graph/driver.h"
#include "qmp/schema/json_write.h"

namespace blockbed {

namespace {

constexpr std::string_view kMadeOfOptions = "json:";

const Node& skip_hidden(const Node& node) {
  const Node* shown = &node;
  while (shown->hidden()) shown = shown->filtered_edge()->node();
  return *shown;
}

}  // namespace

const NodeNames::Names& NodeNames::names_of(const Node& node) {
  const Node& shown = skip_hidden(node);
  const auto found = known_.find(&shown);
  if (found != known_.end()) return found->second;
  return known_.emplace(&shown, find_names(shown)).first->second;
}

NodeNames::Names NodeNames::find_names(const Node& node) {
  Names names;
  if (node.driver().supports_backing()) {
    const Node* below = node.backing_node();
    const std::string& header = node.header_backing_file();
    names.backing_overridden = below == nullptr ? !header.empty() : !is_called(*below, header);
  }
  names.exact = find_exact(node, names.backing_overridden);
  return names;
}

bool NodeNames::is_called(const Node& node, const std::string& name) {
  const std::string& exact = names_of(node).exact;
  // Names made of options are long: they are made only when one is asked for.
  return exact.empty() ? name.starts_with(kMadeOfOptions) && filename(node) == name : exact == name;
}

std::string NodeNames::filename(const Node& node) {
  if (const std::string& exact = names_of(node).exact; !exact.empty()) return exact;
  std::string name(kMadeOfOptions);
  json::write(name, full_options(node));
  return name;
}

std::string NodeNames::find_exact(const Node& node, bool overridden) {
  const Driver& driver = node.driver();
  if (std::string own = driver.exact_filename(); !own.empty() || driver.is_protocol()) return own;
  if (driver.is_filter() || overridden) return {};
  json::Object strong;
  driver.gather_filename_options(strong);
  const Edge* storage = node.storage_edge();
  if (!strong.empty() || storage == nullptr || storage->node() == nullptr ||
      !storage->node()->driver().is_protocol()) {
    return {};
  }
  return exact_filename(*storage->node());
}

json::Object NodeNames::full_options(const Node& any) {
  const Node& node = skip_hidden(any);
  const bool overridden = names_of(node).backing_overridden;
  json::Object options;
  options.set("driver", node.driver().name());
  node.driver().gather_filename_options(options);
  for (const auto& edge : node.children()) {
    if (edge->node() == nullptr) continue;
    if (edge->roles().has(ChildRole::kCow) && !overridden) continue;
    // "children.1" is a member of a list.
    if (const std::size_t dot = edge->name().find('.'); dot != std::string::npos) {
      const std::string list = edge->name().substr(0, dot);
      if (!options.contains(list)) options.set(list, json::Array());
      options.find(list)->as_array().push_back(full_options(*edge->node()));
      continue;
    }
    options.set(edge->name(), full_options(*edge->node()));
  }
  if (overridden && node.backing_node() == nullptr) options.set("backing", json::Null{});
  return options;
}

bool Node::backing_overridden() const { return NodeNames().backing_overridden(*this); }
json::Object Node::full_options() const { return NodeNames().full_options(*this); }
std::string Node::exact_filename() const { return NodeNames().exact_filename(*this); }
std::string Node::filename() const { return NodeNames().filename(*this); }

}  // namespace blockbed
