// Chain: questions about a node and what lies below it on the way to its data (filters and backing
// files).
//
// Contract: `base` must be in the chain of `top`, or be null for "down to the end". Filters are
// looked through: they have no allocation of their own. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <string_view>

#include "block/graph/node.h"

namespace blockbed {

// True when `below` is `top` or is reached from it through filters and backing files.
bool chain_contains(Node& top, const Node& below);
// The node of the chain of `top` whose next is `below`; null when `below` is not in it. Filters
// count as nodes.
Node* overlay_in_chain(Node& top, const Node& below);
// The backing file of the chain of `top` that clients mean by `name`: as the image above it names
// it, or the file that was opened. Filters have no such names. Null when there is none.
Node* find_backing_image(Node& top, std::string_view name);
// The last node above `base` that is no filter (the last of the chain when `base` is null); null
// when `base` is not in the chain of `top`, or nothing but filters is above it.
Node* overlay_of(Node& top, const Node* base);
// True when following any edges from `node` reaches `target`.
bool reaches(Node& node, const Node& target);
// Whether somebody keeps account of what changes in the node, or in one that shows its bytes (a
// filter, raw): dirty bitmaps, jobs, filters that keep an instant. What changes all of it at once,
// and is no write, would be missed.
bool is_followed(const Node& node);
// What is told when `child` reaches `parent`, and so cannot be its child.
std::unexpected<Error> would_be_cycle(const Node& child, std::string_view name, const Node& parent);

struct ChainStatus {
  BlockStatus status;
  // How many nodes were asked, filters too: 1 when the top answered.
  int depth = 0;
};

// What `top` reads there, looking down to `base` (excluded unless include_base). allocated is false
// when no layer above base has the bytes.
Task<Result<ChainStatus>> chain_status(Node& top, Node* base, bool include_base, uint64_t offset,
                                       uint64_t length, bool want_zero = true);

struct ChainAllocation {
  uint64_t length = 0;
  bool allocated = false;
};
// Whether a layer above `base` has its own bytes there, and for how far that answer holds.
Task<Result<ChainAllocation>> chain_allocated(Node& top, Node* base, bool include_base,
                                              uint64_t offset, uint64_t length);
// chain_allocated() for who is to hold what the chain from `top` down to `bottom` shows (included;
// null: down to its end). A raw node is the end of a chain, and yet shows an image that may have
// backing files: what they have is brought by nobody else.
Task<Result<ChainAllocation>> chain_content(Node& top, Node* bottom, uint64_t offset,
                                            uint64_t length);

}  // namespace blockbed
