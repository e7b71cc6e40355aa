// Objects made by users: secrets, iothreads, throttle groups, credentials, memory.
//
// Problem: disks and exports refer to such objects by id, before the objects do anything
// themselves.
//
// Contract
//  - add() checks what QEMU checks when the object is made (a secret reads its file) and keeps the
//    properties.
//  - A throttle group in use cannot be deleted: "object 'x' is in use, can not be deleted".
//  - Ids are unique among objects.
// Errors: texts of QEMU 7.2. Threading: engine thread.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/io_context.h"
#include "block/graph/throttle_group.h"
#include "block/runtime/env.h"
#include "block/runtime/task.h"
#include "qmp/commands/qom.h"
#include "qmp/schema/error.h"
#include "schema/qom.h"

namespace blockbed {

class HumanTable;

class UserObject {
 public:
  UserObject(std::string id, std::string type, json::Object properties)
      : id_(std::move(id)), type_(std::move(type)), properties_(std::move(properties)) {}

  const std::string& id() const { return id_; }
  const std::string& type() const { return type_; }
  const json::Object& properties() const { return properties_; }
  json::Object& properties() { return properties_; }

  // Of a secret: the bytes, after decoding.
  const std::string& secret() const { return secret_; }
  void set_secret(std::string bytes) { secret_ = std::move(bytes); }
  // Of a throttle-group: known to the graph by the same name.
  std::shared_ptr<ThrottleGroup> throttle_group;
  // Of an iothread: what nodes and devices know of it. They keep it when the object is deleted.
  IoContext iothread;

  bool held() const { return throttle_group && throttle_group->has_members(); }

 private:
  std::string id_;
  std::string type_;
  json::Object properties_;
  std::string secret_;
};

class ObjectStore {
 public:
  ObjectStore(Env& env, ThrottleGroups& groups) : env_(env), groups_(groups) {}

  Task<Expected<void>> add(schema::ObjectOptions options);
  Expected<void> remove(std::string_view id);
  UserObject* find(std::string_view id);
  // Null when there is none of that name.
  IoContext iothread(std::string_view id) const;
  std::optional<std::string> type_of(std::string_view id) const;
  const std::list<UserObject>& all() const { return objects_; }

  // Its part of the object tree.
  void describe(QomNode& root);

 private:
  Task<Expected<void>> load_secret(UserObject& object, const schema::SecretProperties& properties);

  Env& env_;
  ThrottleGroups& groups_;
  std::list<UserObject> objects_;
};

// object-add, object-del, query-iothreads, object_add, object_del, info iothreads.
void register_object_commands(class CommandTable& commands, HumanTable& human,
                              ObjectStore& objects);

}  // namespace blockbed
