// The name by which messages call a node.
//
// Problem: clients that work with drives may never have heard of the nodes below them.
//
// Contract: the name of the drive whose root the node is, else its own.
#pragma once

#include <string>

namespace blockbed {

class Node;

std::string shown_name(const Node& node);

}  // namespace blockbed
