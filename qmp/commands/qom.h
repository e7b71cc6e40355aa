// The object tree as clients walk it: qom-list, qom-get, qom-set, qom-list-types.
//
// Problem: management software finds devices under /machine/peripheral and objects under /objects.
// What is there lives in other rooms (objects.h, the machine), which say how their part looks when
// somebody asks.
//
// Contract: the tree is built for each question and thrown away, so it is always true. A path may
// be absolute or a name that is unique in the tree. A child is a property too: its path. Texts are
// QEMU 7.2's. Threading: engine thread.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "block/runtime/task.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

class CommandTable;

struct QomProperty {
  std::string name;
  std::string type;
  std::function<Expected<json::Value>()> get;
  // Absent: read only. What it captures is alive until the task has ended.
  std::function<Task<Expected<void>>(json::Value)> set;
};

struct QomChild;

struct QomNode {
  std::string type;
  std::vector<QomProperty> properties;
  std::vector<QomChild> children;

  // Finds or makes a container.
  QomNode& child(std::string_view name, std::string_view type_when_new = "container");
};

// A name and what it leads to.
struct QomChild {
  std::string first;
  QomNode second;
};

struct QomType {
  std::string name;
  // What it is a kind of, above all else an object.
  std::string kind;

  bool implements(std::string_view what) const {
    return what == name || what == kind || what == "object";
  }
};

class QomTree {
 public:
  // Adds its part below the root.
  using Provider = std::function<void(QomNode& root)>;

  void add_provider(Provider provider) { providers_.push_back(std::move(provider)); }
  void add_types(std::vector<QomType> types);
  const std::vector<QomType>& types() const { return types_; }

  QomNode build() const;

 private:
  std::vector<Provider> providers_;
  std::vector<QomType> types_;
};

// The tree outlives the table.
void register_qom_commands(CommandTable& commands, const QomTree& tree);

}  // namespace blockbed
