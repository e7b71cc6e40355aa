#include "block/graph/chain.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <ranges>
#include <string>
#include <vector>

#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/filename.h"

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

namespace {

// The node below an image, past filters; null at the end of the chain.
Node* next_image(const Node& image) {
  Node* below = image.backing_node();
  return below == nullptr ? nullptr : below->skip_filters();
}

bool is_path(std::string_view name) { return !protocol_of(name); }

// Names of one file may be spelled in many ways: without "." and what ".." takes back. Links of the
// file system are not followed.
std::string without_detours(std::string_view path) {
  std::vector<std::string_view> steps;
  for (const auto& part : std::views::split(path, '/')) {
    const std::string_view step(part.begin(), part.end());
    if (step.empty() || step == ".") continue;
    if (step == ".." && !steps.empty() && steps.back() != "..") {
      steps.pop_back();
    } else {
      steps.push_back(step);
    }
  }
  std::string result;
  for (const std::string_view step : steps) result.append(1, '/').append(step);
  return is_absolute_path(path) || result.empty() ? result : result.substr(1);
}

std::optional<std::string> full_path(const Node& image, std::string_view name) {
  auto full = resolve_backing_name(image, name);
  if (!full) return std::nullopt;
  return without_detours(*full);
}

// Whether the backing file of `image` is called `name`, seen from the image.
bool backing_is_called(const Node& image, const Node& below, std::string_view name) {
  const std::string stored = image.driver().backing_file_name();
  // Not the file that the image names: only its own name counts.
  if (stored.empty() || image.backing_overridden()) return below.filename() == name;
  if (!is_path(name) || !is_path(stored)) return stored == name;
  const std::optional<std::string> wanted = full_path(image, name);
  return wanted && wanted == full_path(image, stored);
}

}  // namespace

Node* find_backing_image(Node& top, std::string_view name) {
  for (Node* image = top.skip_filters(); Node* below = next_image(*image); image = below) {
    if (backing_is_called(*image, *below, name)) return below;
  }
  return nullptr;
}

Node* overlay_of(Node& top, const Node* base) {
  const Node* wanted = base == nullptr ? nullptr : const_cast<Node*>(base)->skip_filters();
  Node* image = top.skip_filters();
  if (image == wanted) return nullptr;
  while (Node* below = next_image(*image)) {
    if (below == wanted) return image;
    image = below;
  }
  return wanted == nullptr ? image : nullptr;
}

bool reaches(Node& node, const Node& target) {
  if (&node == &target) return true;
  return std::ranges::any_of(node.children(), [&](const auto& edge) {
    return edge->node() != nullptr && reaches(*edge->node(), target);
  });
}

bool is_followed(const Node& node) {
  if (!node.dirty_bitmaps().empty()) return true;
  return std::ranges::any_of(node.parents(), [](const Edge* edge) {
    const Node* const above = edge->parent().as_node();
    if (above == nullptr || !above->is_open()) return false;
    if (edge != above->filtered_edge() && edge != above->storage_edge()) return false;
    return above->driver().follows_changes() || is_followed(*above);
  });
}

std::unexpected<Error> would_be_cycle(const Node& child, std::string_view name,
                                      const Node& parent) {
  return fail(fmt::format("Making '{}' a {} child of '{}' would create a cycle", child.name(), name,
                          parent.name()));
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

Task<Result<ChainAllocation>> chain_content(Node& top, Node* bottom, uint64_t offset,
                                            uint64_t length) {
  auto answer = co_await chain_allocated(top, bottom, /*include_base=*/true, offset, length);
  if (!answer || answer->allocated || answer->length == 0) co_return answer;
  Node* last = &top;
  while (last != bottom && last->filter_or_cow_node() != nullptr) last = last->filter_or_cow_node();
  if (last->filter_or_cow_node() != nullptr) co_return answer;
  const auto shown = co_await last->driver().block_status(offset, answer->length, false);
  if (!shown) co_return io_error(shown.error());
  if (!shown->passes_through) co_return answer;
  co_return co_await chain_content(*shown->file, nullptr, *shown->offset, shown->length);
}

}  // namespace blockbed
