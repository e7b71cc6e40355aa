#include "qmp/schema/introspect.h"

#include <algorithm>
#include <string>
#include <vector>

#include "qmp/schema/introspection_tables.h"

namespace blockbed::schema {

namespace {

using introspection::EntityRow;
using introspection::Kind;
using introspection::kTables;
using introspection::MemberRow;
using introspection::Range;
using introspection::TypeRow;
using introspection::VariantRow;

template <class Row>
std::span<const Row> slice(std::span<const Row> table, Range range) {
  return table.subspan(range.first, range.count);
}

class Walk {
 public:
  Walk(Program program, std::span<const std::string_view> commands)
      : program_(program),
        commands_(commands.begin(), commands.end()),
        numbers_(kTables.types.size(), -1) {
    std::ranges::sort(commands_);
  }

  json::Array run() {
    for (const EntityRow& entity : kTables.entities) {
      if (has(entity)) add_entity(entity);
    }
    // Describing a type uses more types, which append to the list.
    for (size_t i = 0; i < used_.size(); ++i) add_type(used_[i]);
    return std::move(out_);
  }

 private:
  bool has(const EntityRow& entity) const {
    bool in_program = program_ == Program::kSystem ? entity.in_system : entity.in_daemon;
    return in_program && (entity.is_event || std::ranges::binary_search(commands_, entity.name));
  }

  // The name by which a client knows a type; the first use puts it on the list of what to describe.
  std::string use(uint16_t index) {
    const TypeRow& type = kTables.types[index];
    bool is_new = numbers_[index] < 0;
    if (is_new) {
      bool is_numbered = type.kind != Kind::kBuiltin && type.kind != Kind::kArray;
      numbers_[index] = is_numbered ? next_number_++ : 0;
      used_.push_back(index);
    }
    if (type.kind == Kind::kBuiltin) return std::string(type.name);
    if (type.kind == Kind::kArray) return "[" + use(type.element) + "]";
    return std::to_string(numbers_[index]);
  }

  static void add_features(json::Object& object, Range features) {
    if (features.count == 0) return;
    json::Array names;
    for (std::string_view feature : slice(kTables.features, features)) names.emplace_back(feature);
    object.set("features", std::move(names));
  }

  void add_entity(const EntityRow& entity) {
    json::Object object;
    object.set("name", entity.name);
    object.set("meta-type", entity.is_event ? "event" : "command");
    object.set("arg-type", use(entity.argument));
    if (!entity.is_event) object.set("ret-type", use(entity.result));
    if (entity.oob) object.set("allow-oob", true);
    add_features(object, entity.features);
    out_.emplace_back(std::move(object));
  }

  void add_type(uint16_t index) {
    const TypeRow& type = kTables.types[index];
    json::Object object;
    object.set("name", use(index));
    switch (type.kind) {
      case Kind::kBuiltin:
        object.set("meta-type", "builtin");
        object.set("json-type", type.json_type);
        break;
      case Kind::kArray:
        object.set("meta-type", "array");
        object.set("element-type", use(type.element));
        break;
      case Kind::kEnum:
        object.set("meta-type", "enum");
        add_values(object, type);
        break;
      case Kind::kAlternate:
        object.set("meta-type", "alternate");
        add_branches(object, type);
        break;
      case Kind::kObject:
        object.set("meta-type", "object");
        add_members(object, type);
        break;
    }
    add_features(object, type.features);
    out_.emplace_back(std::move(object));
  }

  void add_values(json::Object& object, const TypeRow& type) {
    json::Array members;
    json::Array values;
    for (const MemberRow& row : slice(kTables.members, type.members)) {
      json::Object member;
      member.set("name", row.name);
      add_features(member, row.features);
      members.emplace_back(std::move(member));
      values.emplace_back(row.name);
    }
    object.set("members", std::move(members));
    object.set("values", std::move(values));
  }

  void add_branches(json::Object& object, const TypeRow& type) {
    json::Array members;
    for (const MemberRow& row : slice(kTables.members, type.members)) {
      json::Object member;
      member.set("type", use(row.type));
      members.emplace_back(std::move(member));
    }
    object.set("members", std::move(members));
  }

  void add_members(json::Object& object, const TypeRow& type) {
    json::Array members;
    for (const MemberRow& row : slice(kTables.members, type.members)) {
      json::Object member;
      member.set("name", row.name);
      member.set("type", use(row.type));
      // Null says that there is no default to tell; its presence says that the member is optional.
      if (row.optional) member.set("default", json::Null());
      add_features(member, row.features);
      members.emplace_back(std::move(member));
    }
    object.set("members", std::move(members));
    if (type.tag.empty()) return;
    json::Array variants;
    for (const VariantRow& row : slice(kTables.variants, type.variants)) {
      json::Object variant;
      variant.set("case", row.name);
      variant.set("type", use(row.type));
      variants.emplace_back(std::move(variant));
    }
    object.set("tag", type.tag);
    object.set("variants", std::move(variants));
  }

  const Program program_;
  std::vector<std::string_view> commands_;
  // By type: its number; 0 for a type in use that goes by its name, -1 for one not in use.
  std::vector<int> numbers_;
  int next_number_ = 0;
  std::vector<uint16_t> used_;
  json::Array out_;
};

}  // namespace

json::Array introspect(Program program, std::span<const std::string_view> implemented_commands) {
  return Walk(program, implemented_commands).run();
}

}  // namespace blockbed::schema
