#include "qmp/commands/qom.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "schema/qom.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

void find_by_name(QomNode& node, std::string_view name, std::vector<QomNode*>& found) {
  for (auto& [child_name, child] : node.children) {
    if (child_name == name) found.push_back(&child);
    find_by_name(child, name, found);
  }
}

QomNode* walk(QomNode& from, std::string_view path) {
  QomNode* node = &from;
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (part.empty()) continue;
    const auto next =
        std::ranges::find(node->children, part, [](const auto& child) { return child.first; });
    if (next == node->children.end()) return nullptr;
    node = &next->second;
  }
  return node;
}

// Who only looks is told that a name means several things; who wants a property is told of none.
enum class Ambiguous { kTold, kNotFound };

Expected<QomNode*> resolve(QomNode& root, const std::string& path, Ambiguous ambiguous) {
  QomNode* found = nullptr;
  if (path.starts_with('/')) {
    found = walk(root, path);
  } else {
    std::vector<QomNode*> candidates;
    const std::size_t slash = path.find('/');
    find_by_name(root, std::string_view(path).substr(0, slash), candidates);
    if (slash != std::string::npos) {
      for (QomNode*& candidate : candidates)
        candidate = walk(*candidate, std::string_view(path).substr(slash + 1));
      std::erase(candidates, nullptr);
    }
    if (candidates.size() > 1 && ambiguous == Ambiguous::kTold)
      return fail(fmt::format("Path '{}' is ambiguous", path));
    if (candidates.size() == 1) found = candidates.front();
  }
  if (found == nullptr)
    return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", path));
  return found;
}

const QomProperty* find_property(const QomNode& node, std::string_view name) {
  const auto found = std::ranges::find(node.properties, name, &QomProperty::name);
  return found == node.properties.end() ? nullptr : &*found;
}

bool has_child(const QomNode& node, std::string_view name) {
  return std::ranges::find(node.children, name, &QomChild::first) != node.children.end();
}

// Where the node stands below another; empty for that one itself.
std::optional<std::string> path_below(const QomNode& from, const QomNode& node) {
  if (&from == &node) return "";
  for (const auto& [name, child] : from.children) {
    if (auto path = path_below(child, node)) return fmt::format("/{}{}", name, *path);
  }
  return std::nullopt;
}

Error no_property(const QomNode& node, std::string_view name) {
  return Error(fmt::format("Property '{}.{}' not found", node.type, name));
}

}  // namespace

QomNode& QomNode::child(std::string_view name, std::string_view type_when_new) {
  for (auto& [child_name, node] : children) {
    if (child_name == name) return node;
  }
  children.push_back(QomChild{std::string(name), QomNode{std::string(type_when_new), {}, {}}});
  return children.back().second;
}

void QomTree::add_types(std::vector<QomType> types) {
  types_.insert(types_.end(), std::make_move_iterator(types.begin()),
                std::make_move_iterator(types.end()));
}

QomNode QomTree::build() const {
  QomNode root{"container", {}, {}};
  root.child("objects");
  for (const Provider& provider : providers_) provider(root);
  return root;
}

void register_qom_commands(CommandTable& commands, const QomTree& tree) {
  commands.implement<c::QomList>(
      [&tree](CommandContext&,
              c::QomList::Args arguments) -> Expected<std::vector<schema::ObjectPropertyInfo>> {
        QomNode root = tree.build();
        auto node = resolve(root, arguments.path, Ambiguous::kTold);
        if (!node) return std::unexpected(node.error());
        std::vector<schema::ObjectPropertyInfo> infos;
        const auto add = [&](std::string name, std::string type) {
          schema::ObjectPropertyInfo info;
          info.name = std::move(name);
          info.type = std::move(type);
          infos.push_back(std::move(info));
        };
        add("type", "string");
        for (const QomProperty& property : (*node)->properties) add(property.name, property.type);
        for (const auto& [name, child] : (*node)->children)
          add(name, fmt::format("child<{}>", child.type));
        return infos;
      });
  commands.implement<c::QomGet>(
      [&tree](CommandContext&, c::QomGet::Args arguments) -> Expected<json::Value> {
        QomNode root = tree.build();
        auto node = resolve(root, arguments.path, Ambiguous::kNotFound);
        if (!node) return std::unexpected(node.error());
        if (arguments.property == "type") return json::Value((*node)->type);
        if (has_child(**node, arguments.property))
          return json::Value(path_below(root, **node).value() + "/" + arguments.property);
        const QomProperty* property = find_property(**node, arguments.property);
        if (property == nullptr) return std::unexpected(no_property(**node, arguments.property));
        return property->get();
      });
  commands.implement<c::QomSet>(
      [&tree](CommandContext&, c::QomSet::Args arguments) -> Task<Expected<void>> {
        QomNode root = tree.build();
        auto node = resolve(root, arguments.path, Ambiguous::kNotFound);
        if (!node) co_return std::unexpected(node.error());
        const QomProperty* property = find_property(**node, arguments.property);
        const bool is_fixed = arguments.property == "type" || has_child(**node, arguments.property);
        if (property == nullptr && !is_fixed)
          co_return std::unexpected(no_property(**node, arguments.property));
        if (is_fixed || !property->set) {
          co_return fail(
              fmt::format("Property '{}.{}' is not writable", (*node)->type, arguments.property));
        }
        co_return co_await property->set(std::move(arguments.value));
      });
  commands.implement<c::QomListTypes>(
      [&tree](CommandContext&,
              c::QomListTypes::Args arguments) -> Expected<std::vector<schema::ObjectTypeInfo>> {
        std::vector<schema::ObjectTypeInfo> infos;
        for (const QomType& type : tree.types()) {
          if (arguments.implements && !type.implements(*arguments.implements)) continue;
          schema::ObjectTypeInfo info;
          info.name = type.name;
          infos.push_back(std::move(info));
        }
        return infos;
      });
  commands.implement<c::QomListProperties>(
      [&tree](CommandContext&, c::QomListProperties::Args arguments)
          -> Expected<std::vector<schema::ObjectPropertyInfo>> {
        if (std::ranges::find(tree.types(), arguments.typename_, &QomType::name) ==
            tree.types().end()) {
          return fail(ErrorClass::kDeviceNotFound,
                      fmt::format("Class '{}' not found", arguments.typename_));
        }
        return std::vector<schema::ObjectPropertyInfo>();
      });
}

}  // namespace blockbed
