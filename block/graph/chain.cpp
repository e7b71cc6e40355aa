#include "block/graph/chain.h"

#include <algorithm>

namespace blockbed {

bool chain_contains(Node& top, const Node& below) {
  for (Node* node = &top; node != nullptr; node = node->filter_or_cow_node()) {
    if (node == &below) return true;
  }
  return false;
}

Node* overlay_in_chain(Node& top, const Node& below) {
  for (Node* node = &top; node != nullptr; node = node->filter_or_cow_node()) {
    if (node->filter_or_cow_node() == &below) return node;
  }
  return nullptr;
}

bool reaches(Node& node, const Node& target) {
  if (&node == &target) return true;
  return std::ranges::any_of(node.children(), [&](const auto& edge) {
    return edge->node() != nullptr && reaches(*edge->node(), target);
  });
}

Task<Result<ChainStatus>> chain_status(Node& top, Node* base, bool include_base, uint64_t offset,
                                       uint64_t length, bool want_zero) {
  ChainStatus result;
  result.status.length = length;
  if (&top == base && !include_base) co_return result;

  uint64_t end_of_top = UINT64_MAX;
  for (Node* node = &top; node != nullptr && (include_base || node != base);
       node = node->filter_or_cow_node()) {
    // An answer of a lower layer holds for no more than what the layers above let through.
    const uint64_t asked = result.status.length;
    auto answer = co_await node->block_status(offset, asked, want_zero);
    if (!answer) co_return io_error(answer.error());
    ++result.depth;
    result.status = *answer;
    if (node == &top) {
      if (answer->eof) end_of_top = offset + answer->length;
      if (answer->length == 0) co_return result;
    } else if (answer->length == 0) {
      // This layer ends before: there are zeroes, and what lies below is hidden.
      result.status.length = asked;
      result.status.zero = result.status.allocated = true;
    }
    if (result.status.allocated || node == base) break;
  }
  result.status.eof = offset + result.status.length == end_of_top;
  co_return result;
}

Task<Result<ChainAllocation>> chain_allocated(Node& top, Node* base, bool include_base,
                                              uint64_t offset, uint64_t length) {
  auto answer = co_await chain_status(top, base, include_base, offset, length, /*want_zero=*/false);
  if (!answer) co_return io_error(answer.error());
  co_return ChainAllocation{answer->status.length, answer->status.allocated};
}

}  // namespace blockbed
