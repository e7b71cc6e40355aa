// NodeNames: what nodes are called, as names of files.
//
// Problem: the name of a node follows from those of the nodes below it: whether an image stands on
// the file that it names is seen by that file's name, and a name made of options holds the options
// of all that the image does not find by itself. Asked anew at each step, a chain of n images would
// take 2^n steps.
//
// Contract: answers are found once and kept, so the graph must not change while one of these lives.
// A filter that a job put in without a name is not seen: what it stands on is in its place.
// Source of the rules: QEMU 7.2's names, tried out. Threading: engine thread only.
#pragma once

#include <string>
#include <unordered_map>

#include "block/graph/node.h"
#include "qmp/schema/json.h"

namespace blockbed {

class NodeNames {
 public:
  // See the functions of these names in Node.
  const std::string& exact_filename(const Node& node) { return names_of(node).exact; }
  std::string filename(const Node& node);
  json::Object full_options(const Node& node);
  bool backing_overridden(const Node& node) { return names_of(node).backing_overridden; }

 private:
  struct Names {
    bool backing_overridden = false;
    std::string exact;
  };

  const Names& names_of(const Node& node);
  Names find_names(const Node& node);
  std::string find_exact(const Node& node, bool overridden);
  bool is_called(const Node& node, const std::string& name);

  std::unordered_map<const Node*, Names> known_;
};

}  // namespace blockbed
