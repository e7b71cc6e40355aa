#include "block/graph/reopen.h"

#include <fmt/format.h>

#include <algorithm>
#include <ranges>
#include <set>

#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/graph/flat_options.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/graph_change.h"
#include "block/graph/node_options.h"
#include "block/graph/option_text.h"
#include "block/graph/reopen_repair.h"
#include "qmp/schema/json_write.h"

namespace blockbed {

namespace {

constexpr std::string_view kFile = "file";
constexpr std::string_view kBacking = "backing";

std::unexpected<Error> unsupported(const Node& node) {
  return fail(fmt::format("Block format '{}' used by node '{}' does not support reopening files",
                          node.driver().name(), node.name()));
}

std::unexpected<Error> cannot_change(std::string_view option) {
  return fail(fmt::format("Cannot change the option '{}'", option));
}

json::Object flatten(const json::Object& options) {
  json::Object flat;
  for (const auto& [name, value] : options) flatten_option(flat, name, value);
  return flat;
}

// The children as options: by their names.
json::Object name_children(const Node& node) {
  json::Object children;
  for (const auto& edge : node.children()) {
    // A member of a list is part of one option (quorum's).
    if (edge->node() == nullptr || edge->name().contains('.')) continue;
    children.set(edge->name(), edge->node()->name());
  }
  return children;
}

// Member by member, also of groups: who says `cache.direct` says nothing of `cache.no-flush`.
void join(json::Object& options, const json::Object& others) {
  for (const auto& [name, value] : others) {
    json::Value* own = options.find(name);
    if (own == nullptr) {
      options.set(name, value);
    } else if (own->is_object() && value.is_object()) {
      join(own->as_object(), value.as_object());
    }
  }
}

Expected<schema::BlockdevOptions> read_options(const Node& node, json::Object options, bool text) {
  if (!text) return schema::from_json<schema::BlockdevOptions>(json::Value(std::move(options)));
  options_to_text(options);
  BB_TRY(read_option_text(node.graph().drivers(), options));
  return schema::from_keyval<schema::BlockdevOptions>(json::Value(std::move(options)));
}

// What the node was opened with, whole.
Expected<json::Object> present_options(const Node& node) {
  // The children that there are: others may have come since.
  json::Object options = name_children(node);
  options.set("driver", node.driver().name());
  join(options, node.given_options());
  auto typed = read_options(node, std::move(options), node.given_as_text());
  if (!typed) return fail(std::move(typed).error());
  return std::move(to_json(*typed).as_object());
}

// Options of a command line, together with those that there are, as options with types.
Expected<json::Object> typed_options(const Node& node, json::Object text,
                                     const json::Object& present) {
  if (const json::Value* driver = text.find("driver");
      driver != nullptr && *driver != json::Value(node.driver().name())) {
    return cannot_change("driver");
  }
  json::Object others;
  for (const auto& [name, value] : present) {
    // No text means null; an option that is absent says the same of a child that is.
    if (!value.is_null()) others.set(name, as_option_text(value));
  }
  join(text, others);
  auto typed = read_options(node, std::move(text), /*text=*/true);
  if (!typed) return fail(std::move(typed).error());
  return std::move(to_json(*typed).as_object());
}

// The definitions of children that are the node's own: from then on the options mean the children
// that there are.
json::Object take_definitions(const Node& node, json::Object& options) {
  json::Object definitions;
  for (const auto& edge : node.children()) {
    const Node* child = edge->node();
    if (child == nullptr || child->inherits_from() != &node) continue;
    json::Value* option = options.find(edge->name());
    if (option == nullptr || !option->is_object()) continue;
    definitions.set(edge->name(), std::move(*option));
    *option = json::Value(child->name());
  }
  return definitions;
}

// `name` or something below it.
bool covers(std::string_view option, std::string_view name) {
  return name.starts_with(option) && (name.size() == option.size() || name[option.size()] == '.');
}

bool is_changeable(const Driver& driver, std::string_view name) {
  return is_changeable_generic_option(name) ||
         std::ranges::any_of(driver.changeable_options(),
                             [name](std::string_view option) { return covers(option, name); });
}

// How options are to be read.
struct Manner {
  bool keep = false;
  bool text = false;
};

// The generic options that a node says itself, or has from a parent that does. A child that is
// only named decides the others for itself.
struct Said {
  bool read_only = false;
  bool auto_read_only = false;
  bool cache_direct = false;
  bool cache_no_flush = false;
  bool force_share = false;

  static constexpr Said everything() { return {true, true, true, true, true}; }

  void add(const json::Object& options) {
    const json::Value* cache = options.find("cache");
    const auto in_cache = [cache](std::string_view name) {
      return cache != nullptr && cache->is_object() && cache->as_object().contains(name);
    };
    read_only = read_only || options.contains("read-only");
    auto_read_only = auto_read_only || options.contains("auto-read-only");
    cache_direct = cache_direct || in_cache("direct");
    cache_no_flush = cache_no_flush || in_cache("no-flush");
    force_share = force_share || options.contains("force-share");
  }
};

// What a node gets from its parent in the call.
struct FromParent {
  InheritedOptions options;
  Said said;

  void keep_unsaid(const NodeFlags& own) {
    NodeFlags& flags = options.flags;
    if (!said.read_only) flags.read_only = own.read_only;
    if (!said.auto_read_only) flags.auto_read_only = own.auto_read_only;
    if (!said.cache_direct) flags.cache_direct = own.cache_direct;
    if (!said.cache_no_flush) flags.cache_no_flush = own.cache_no_flush;
    if (!said.force_share) flags.force_share = own.force_share;
    said = Said::everything();
  }
};

FromParent from_parent(const NodeFlags& above, Said said, ChildRoles roles) {
  if (roles.has(ChildRole::kCow)) said.read_only = said.auto_read_only = true;
  return {inherited_from(above, roles), said};
}

// One node of a reopen.
struct Part {
  struct Link {
    std::string_view name;
    // Null: none any more.
    Node* child;
  };

  NodeRef node;
  // Whole, with the names of those that were asked for.
  json::Object options;
  std::vector<std::string> asked;
  bool keep = false;

  ReopenState state{};
  std::vector<Link> links;
  bool prepared = false;
};

class Reopening {
 public:
  explicit Reopening(Graph& graph) : graph_(graph) {}

  Expected<void> add(Node& node, json::Object options, Manner manner,
                     std::optional<FromParent> parent);
  Task<Expected<void>> run();

 private:
  Expected<void> check(Part& part);
  Expected<void> check_resets(const Part& part, const json::Object& before) const;
  Expected<void> check_unchanged(const Part& part, const json::Object& before) const;
  Expected<void> find_link(Part& part, std::string_view name);
  // When all links that were found so far lead to where they are to lead.
  bool will_reach(const Node& node, const Node& target, std::set<const Node*>& seen) const;
  Task<Expected<void>> prepare(Part& part);
  Expected<void> change();
  std::vector<Node*> nodes() const;

  Graph& graph_;
  // Parents before their children.
  std::vector<Part> parts_;
};

// --- which nodes, and with which options

Expected<void> Reopening::add(Node& node, json::Object options, Manner manner,
                              std::optional<FromParent> parent) {
  const auto place = std::ranges::find(parts_, &node, [](const Part& p) { return p.node.get(); });
  const std::size_t index = static_cast<std::size_t>(place - parts_.begin());
  json::Object definitions = take_definitions(node, options);
  std::vector<std::string> asked;
  for (const auto& member : options) asked.push_back(member.first);
  // A node that has spoken for itself does so for good, whatever its parent in the call says later.
  bool keep = manner.keep;
  if (place != parts_.end()) {
    join(options, place->options);
    std::ranges::copy(place->asked, std::back_inserter(asked));
    keep = keep && place->keep;
  } else {
    parts_.emplace_back().node = NodeRef(node);
    if (manner.keep) {
      auto present = present_options(node);
      // Who cannot say what it was opened with cannot be opened in another way.
      if (!present) return unsupported(node);
      if (manner.text) {
        auto typed = typed_options(node, std::move(options), *present);
        if (!typed) return fail(std::move(typed).error());
        options = std::move(*typed);
      } else {
        join(options, *present);
      }
    }
  }
  FromParent inherited;
  if (parent) {
    inherited = *parent;
    if (manner.keep) inherited.keep_unsaid(node.flags());
  } else if (manner.keep) {
    inherited = FromParent{{node.flags()}, Said::everything()};
  } else {
    // The one generic option that stays when nobody says it.
    inherited.options.flags.unmap = node.flags().unmap;
  }
  inherited.said.add(options);
  NodeFlags flags = flags_from(options, inherited.options);
  flags.inactive = node.flags().inactive;
  {
    Part& part = parts_[index];
    part.keep = keep;
    part.asked = std::move(asked);
    part.options = options;
    part.state.flags = flags;
  }
  for (const auto& edge : node.children()) {
    Node* child = edge->node();
    if (child == nullptr || child->inherits_from() != &node) continue;
    Manner of_child = manner;
    json::Object its_options;
    if (json::Value* definition = definitions.find(edge->name())) {
      its_options = std::move(definition->as_object());
    } else if (const json::Value* option = options.find(edge->name())) {
      if (!option->is_string() || option->as_string() != child->name()) continue;
      of_child = Manner{true, false};
    }
    BB_TRY(add(*child, std::move(its_options), of_child,
               from_parent(flags, inherited.said, edge->roles())));
  }
  return {};
}

// --- may it be so?

Expected<void> Reopening::check_resets(const Part& part, const json::Object& before) const {
  if (part.keep) return {};
  const json::Object after = flatten(part.options);
  for (const json::Object::Member* option : json::in_print_order(before)) {
    const std::string& name = option->first;
    if (after.contains(name) || name == kBacking || part.node->child(name) != nullptr) continue;
    if (is_changeable(part.node->driver(), name)) continue;
    return fail(fmt::format("Option '{}' cannot be reset to its default value", name));
  }
  return {};
}

Expected<void> Reopening::check_unchanged(const Part& part, const json::Object& before) const {
  const json::Object after = flatten(part.options);
  for (const json::Object::Member* option : json::in_print_order(after)) {
    const auto& [name, value] = *option;
    if (name == "node-name" || name == "driver") {
      const std::string_view is =
          name == "driver" ? part.node->driver().name() : std::string_view(part.node->name());
      if (value.as_string() == is) continue;
    } else {
      if (is_changeable(part.node->driver(), name)) continue;
      if (std::ranges::any_of(part.links, [&](const auto& link) { return link.name == name; })) {
        continue;
      }
      const json::Value* old = before.find(name);
      if (old != nullptr && *old == value) continue;
    }
    return cannot_change(name);
  }
  return {};
}

bool Reopening::will_reach(const Node& node, const Node& target,
                           std::set<const Node*>& seen) const {
  if (&node == &target) return true;
  if (!seen.insert(&node).second) return false;
  const auto below = [&](const Node* child) {
    return child != nullptr && will_reach(*child, target, seen);
  };
  const auto part = std::ranges::find(parts_, &node, [](const Part& p) { return p.node.get(); });
  const auto new_link = [&](std::string_view name) -> const Part::Link* {
    if (part == parts_.end()) return nullptr;
    const auto found = std::ranges::find(part->links, name, &Part::Link::name);
    return found == part->links.end() ? nullptr : &*found;
  };
  for (const auto& edge : node.children()) {
    if (new_link(edge->name()) == nullptr && below(edge->node())) return true;
  }
  return part != parts_.end() && std::ranges::any_of(part->links, [&](const Part::Link& link) {
           return below(link.child);
         });
}

Expected<void> Reopening::find_link(Part& part, std::string_view name) {
  Node& node = *part.node;
  const json::Value* option = part.options.find(name);
  if (option == nullptr || option->is_object()) return {};
  Edge* edge = node.child(name);
  Node* old = edge == nullptr ? nullptr : edge->node();
  Node* child = nullptr;
  if (option->is_string()) {
    if (old != nullptr && option->as_string() == old->name()) return {};
    auto found = graph_.find_device_or_node(std::nullopt, option->as_string());
    if (!found) return fail(std::move(found).error());
    child = *found;
    // Before all else that may be wrong; a file is read before it is attached, too.
    std::set<const Node*> seen;
    if (will_reach(*child, node, seen)) return would_be_cycle(*child, name, node);
    // A hidden filter in between is not for clients to name; it stays.
    if (old != nullptr && old->skip_hidden() == child) child = old;
  }
  part.links.push_back({name, child});
  if (child == old) return {};
  if (old != nullptr && old->hidden()) {
    return fail(fmt::format("Cannot replace implicit {} child of {}", name, node.name()));
  }
  if (old == nullptr && node.driver().is_filter()) {
    return fail(fmt::format("'{}' is a {} filter node that does not support a {} child",
                            node.name(), node.driver().name(), name));
  }
  if (edge != nullptr && edge->frozen()) return cannot_change_frozen(*edge);
  if (name == kFile) part.state.other_file = child;
  return {};
}

Expected<void> Reopening::check(Part& part) {
  Node& node = *part.node;
  BB_TRY(check_detect_zeroes(part.state.flags, part.options));
  if (!node.driver().can_reopen()) return unsupported(node);
  auto present = present_options(node);
  if (!present) return fail(std::move(present).error());
  const json::Object before = flatten(*present);
  BB_TRY(check_resets(part, before));
  json::Object whole = part.options;
  if (!whole.contains("driver")) whole.set("driver", node.driver().name());
  join(whole, name_children(node));
  const bool own = whole.find("driver")->as_string() == node.driver().name();
  auto typed = read_options(node, std::move(whole), /*text=*/false);
  if (!typed) return fail(std::move(typed).error());
  part.state.options = std::move(*typed);
  // Those of another driver are refused below.
  if (own) BB_TRY(node.driver().check_options(part.state));
  if (node.driver().supports_backing() && !part.options.contains(kBacking) &&
      (node.backing_node() != nullptr || !node.driver().backing_file_name().empty())) {
    if (!part.keep) return fail(fmt::format("backing is missing for '{}'", node.name()));
  }
  if (node.driver().supports_backing()) BB_TRY(find_link(part, kBacking));
  BB_TRY(find_link(part, kFile));
  BB_TRY(check_unchanged(part, before));
  return check_force_share(part.state.flags);
}

// --- the change

std::vector<Node*> Reopening::nodes() const {
  std::vector<Node*> nodes;
  for (const Part& part : parts_) {
    nodes.push_back(part.node.get());
    for (const Part::Link& link : part.links) {
      if (link.child != nullptr) nodes.push_back(link.child);
    }
  }
  return nodes;
}

Task<Expected<void>> Reopening::prepare(Part& part) {
  part.prepared = true;
  co_return co_await part.node->driver().reopen_prepare(part.state);
}

namespace {

// What the node is known to have been opened with afterwards.
json::Object given_options(const Part& part) {
  const Node& node = *part.node;
  json::Object given;
  if (part.keep) {
    for (const std::string& name : part.asked) {
      const json::Value& value = *part.options.find(name);
      given.set(name, node.given_as_text() ? as_option_text(value) : value);
    }
    given = without_children(node, given);
    join(given, node.given_options());
  } else {
    given = without_children(node, part.options);
    if (const json::Value* name = node.given_options().find("node-name")) {
      given.set("node-name", *name);
    }
  }
  return given;
}

}  // namespace

Expected<void> Reopening::change() {
  GraphChange change(graph_);
  for (Part& part : parts_) {
    Node& node = *part.node;
    change.set_flags(node, part.state.flags);
    change.set_given_options(node, given_options(part), part.keep && node.given_as_text());
    for (const Part::Link& link : part.links) {
      const ChildRoles roles = link.name == kBacking ? kCowRole : kImageRoles;
      BB_TRY(change.set_child(node, std::string(link.name), roles, link.child));
    }
    change.on_commit([&node] { node.driver().reopen_commit(); });
  }
  BB_TRY(change.check());
  change.commit();
  return {};
}

Task<Expected<void>> Reopening::run() {
  for (Part& part : parts_) BB_CO_TRY(check(part));
  DrainedSection drained = co_await drain(nodes());
  // First all of them: one may be about to read what another has written.
  for (Part& part : parts_) {
    if (!part.node->writable()) continue;
    if (auto flushed = co_await part.node->flush(); !flushed) {
      co_return fail(fmt::format("Error flushing drive: {}", strerror_text(flushed.error())));
    }
  }
  std::vector<Node*> made_writable;
  for (const Part& part : parts_) {
    const bool same_file = part.state.other_file == nullptr;
    if (part.state.writable() && !part.node->writable() && same_file) {
      made_writable.push_back(part.node.get());
    }
  }
  BB_CO_TRY(co_await repair_for_writing(graph_, std::move(made_writable)));
  Expected<void> done;
  for (Part& part : parts_) {
    done = co_await prepare(part);
    if (!done) break;
  }
  if (done) done = change();
  for (Part& part : std::views::reverse(parts_)) {
    if (part.prepared) co_await part.node->driver().reopen_finish();
  }
  if (!done) co_return done;
  // From the storage up.
  for (Part& part : std::views::reverse(parts_)) (void)co_await part.node->refresh_length();
  co_return done;
}

}  // namespace

Expected<schema::BlockdevOptions> options_in_force(const Node& node) {
  auto present = present_options(node);
  if (!present) return fail(std::move(present).error());
  return schema::from_json<schema::BlockdevOptions>(json::Value(std::move(*present)));
}

Task<Expected<void>> reopen(Graph& graph, std::vector<ReopenRequest> requests) {
  Reopening reopening(graph);
  for (ReopenRequest& request : requests) {
    BB_CO_TRY(reopening.add(*request.node, std::move(request.options),
                            Manner{request.keep, request.text}, std::nullopt));
  }
  co_return co_await reopening.run();
}

Task<Expected<void>> reopen_read_only(Graph& graph, Node& node, bool read_only) {
  json::Object options;
  options.set("read-only", read_only);
  std::vector<ReopenRequest> requests;
  requests.emplace_back(NodeRef(node), std::move(options), /*keep_others=*/true);
  co_return co_await reopen(graph, std::move(requests));
}

}  // namespace blockbed
