// Requests to a node that are not aligned.
#include "block/graph/padding.h"

#include <algorithm>

#include "block/graph/node.h"

namespace blockbed {

Task<Result<void>> Node::read_around(Padding& padding) {
  const auto point = [this](DebugEvent event) { return DebugPoint(debug_listener_, event); };
  const bool at_once = padding.all_in_memory();
  if (padding.head != 0 || at_once) {
    if (padding.head != 0) co_await point(DebugEvent::kPwritevRmwHead);
    if (at_once && padding.tail != 0) co_await point(DebugEvent::kPwritevRmwTail);
    const uint64_t length = at_once ? padding.length : padding.unit;
    BB_CO_TRY(co_await read_aligned(padding.offset, padding.memory.io(0, length), {}));
    if (padding.head != 0) co_await point(DebugEvent::kPwritevRmwAfterHead);
    if (at_once && padding.tail != 0) co_await point(DebugEvent::kPwritevRmwAfterTail);
  }
  if (padding.tail != 0 && !at_once) {
    co_await point(DebugEvent::kPwritevRmwTail);
    BB_CO_TRY(co_await read_aligned(padding.tail_offset(),
                                    IoVector(padding.tail_block(), padding.unit), {}));
    co_await point(DebugEvent::kPwritevRmwAfterTail);
  }
  co_return Result<void>();
}

Task<Result<void>> Node::zero_widened(uint64_t offset, uint64_t length, RequestFlags flags) {
  const uint64_t unit = limits_.request_alignment;
  Padding padding(offset, length, unit);
  BB_CO_TRY(co_await read_around(padding));
  RequestFlags write_flags;
  write_flags.fua = flags.fua;
  std::byte* const memory = padding.memory.data();
  if (padding.all_in_memory()) {
    std::fill_n(memory + padding.head, length, std::byte{0});
    co_return co_await write_aligned(padding.offset, padding.memory.io(), write_flags);
  }
  uint64_t begin = padding.offset;
  uint64_t end = padding.offset + padding.length;
  if (padding.head != 0) {
    std::fill(memory + padding.head, memory + unit, std::byte{0});
    BB_CO_TRY(co_await write_aligned(begin, padding.memory.io(0, unit), write_flags));
    begin += unit;
  }
  if (padding.tail != 0) end -= unit;
  if (begin < end) BB_CO_TRY(co_await zero_aligned(begin, end - begin, flags));
  if (padding.tail == 0) co_return Result<void>();
  std::fill_n(padding.tail_block(), unit - padding.tail, std::byte{0});
  co_return co_await write_aligned(end, IoVector(padding.tail_block(), unit), write_flags);
}

}  // namespace blockbed
