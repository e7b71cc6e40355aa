#include "block/formats/qcow2/table_cache.h"

#include <algorithm>
#include <cstring>

#include "block/formats/qcow2/geometry.h"

namespace blockbed::qcow2 {

namespace {

constexpr std::size_t kFirstSlots = 16;
// Side by side dirty pieces go out in one request of at most this many.
constexpr std::size_t kMaxPiecesPerWrite = 256;
// What the allocator adds is little beside it, and so is what a few pieces in it leave unused.
constexpr std::size_t kSlabBytes = std::size_t{256} << 10;

// No file system gives room in smaller parts than a sector, and one with anything in it has room.
bool may_have_holes(const std::byte* data, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kSectorSize) {
    if (all_zero(data + at, kSectorSize)) return true;
  }
  return false;
}

}  // namespace

TableCache::TableCache(Executor& executor, Storage& file, uint32_t piece_bytes,
                       std::size_t capacity, DebugEvent load_event, DebugEvent update_event)
    : file_(file),
      load_event_(load_event),
      update_event_(update_event),
      piece_bytes_(piece_bytes),
      piece_shift_(static_cast<uint32_t>(__builtin_ctz(piece_bytes))),
      capacity_(std::max(capacity, kMinPieces)),
      pieces_per_slab_(std::clamp<std::size_t>(kSlabBytes / piece_bytes, 1, capacity_)),
      slots_(kFirstSlots, kFree),
      changed_(executor) {}

std::size_t TableCache::slot_of(uint64_t offset) const {
  // Fibonacci hashing of the piece number: neighbours spread, and no division.
  return static_cast<std::size_t>(((offset >> piece_shift_) * 0x9e3779b97f4a7c15u) >> 32) &
         (slots_.size() - 1);
}

TableCache::Piece* TableCache::lookup(uint64_t offset) {
  for (std::size_t slot = slot_of(offset); slots_[slot] != kFree;
       slot = (slot + 1) & (slots_.size() - 1)) {
    Piece& piece = pieces_[slots_[slot]];
    if (piece.offset == offset) return &piece;
  }
  return nullptr;
}

void TableCache::rehash(std::size_t slots) {
  slots_.assign(slots, kFree);
  indexed_ = 0;
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    if (pieces_[i].offset != kNone) index_insert(static_cast<uint32_t>(i));
  }
}

void TableCache::index_insert(uint32_t number) {
  std::size_t slot = slot_of(pieces_[number].offset);
  while (slots_[slot] != kFree) slot = (slot + 1) & (slots_.size() - 1);
  slots_[slot] = number;
  ++indexed_;
}

void TableCache::index_erase(uint64_t offset) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = slot_of(offset);
  while (pieces_[slots_[slot]].offset != offset) slot = (slot + 1) & mask;
  // Close the gap: whoever was pushed past it moves back.
  std::size_t gap = slot;
  for (std::size_t next = (slot + 1) & mask; slots_[next] != kFree; next = (next + 1) & mask) {
    const std::size_t home = slot_of(pieces_[slots_[next]].offset);
    if (((next - home) & mask) >= ((next - gap) & mask)) {
      slots_[gap] = slots_[next];
      gap = next;
    }
  }
  slots_[gap] = kFree;
  --indexed_;
}

uint32_t TableCache::add_piece() {
  const std::size_t number = pieces_.size();
  const std::size_t in_slab = number % pieces_per_slab_;
  if (in_slab == 0) slabs_.emplace_back(pieces_per_slab_ * piece_bytes_);
  pieces_.emplace_back().memory = slabs_.back().data() + in_slab * piece_bytes_;
  return static_cast<uint32_t>(number);
}

TableCache::Piece* TableCache::take(uint64_t offset) {
  uint32_t number = kFree;
  if (!unused_.empty()) {
    number = unused_.back();
    unused_.pop_back();
  } else if (pieces_.size() < capacity_) {
    number = add_piece();
  } else {
    // Twice around: the first round may only take away second chances.
    for (std::size_t step = 0; step < 2 * pieces_.size() && number == kFree; ++step) {
      Piece& piece = pieces_[hand_];
      if (!piece.dirty && !piece.loading) {
        if (piece.used) {
          piece.used = false;
        } else {
          number = static_cast<uint32_t>(hand_);
        }
      }
      hand_ = (hand_ + 1) % pieces_.size();
    }
    if (number == kFree) return nullptr;
    index_erase(pieces_[number].offset);
  }
  Piece& piece = pieces_[number];
  piece.offset = offset;
  piece.dirty = false;
  piece.used = true;
  piece.loading = false;
  piece.placed = false;
  if ((indexed_ + 1) * 2 > slots_.size()) {
    rehash(slots_.size() * 2);
  } else {
    index_insert(number);
  }
  return &piece;
}

Task<Result<TableCache::Piece*>> TableCache::load(uint64_t offset) {
  for (;;) {
    if (Piece* piece = lookup(offset)) {
      if (!piece->loading) {
        piece->used = true;
        co_return piece;
      }
      co_await changed_.wait();
      continue;
    }
    Piece* piece = take(offset);
    if (piece == nullptr) {
      co_await changed_.wait();
      continue;
    }
    piece->loading = true;
    std::byte* const memory = piece->data();
    co_await file_.debug_event(load_event_);
    auto done = co_await file_.read(offset, IoVector(memory, piece_bytes_));
    // The vector of pieces may have grown meanwhile.
    piece = lookup(offset);
    BB_ASSERT(piece != nullptr && piece->loading && piece->data() == memory);
    piece->loading = false;
    changed_.wake_all();
    if (!done) {
      index_erase(offset);
      piece->offset = kNone;
      unused_.push_back(static_cast<uint32_t>(piece - pieces_.data()));
      co_return io_error(done.error());
    }
    co_return piece;
  }
}

Task<Result<TableCache::Piece*>> TableCache::load_for_change(uint64_t offset) {
  auto piece = co_await load(offset);
  if (!piece || (*piece)->placed) co_return piece;
  if ((*piece)->dirty || !may_have_holes((*piece)->data(), piece_bytes_)) {
    (*piece)->placed = true;
    co_return piece;
  }
  // A copy: only dirty pieces stay where they are.
  Buffer same(piece_bytes_);
  std::memcpy(same.data(), (*piece)->data(), piece_bytes_);
  co_await file_.debug_event(update_event_);
  BB_CO_TRY(co_await file_.write(offset, same.io()));
  // Others may have taken its memory meanwhile.
  piece = co_await load(offset);
  if (piece) (*piece)->placed = true;
  co_return piece;
}

Task<TableCache::Piece*> TableCache::add_empty(uint64_t offset) {
  for (;;) {
    Piece* piece = lookup(offset);
    if (piece == nullptr) piece = take(offset);
    if (piece != nullptr && !piece->loading) co_return piece;
    co_await changed_.wait();
  }
}

Task<Result<void>> TableCache::write_dirty() {
  if (dirty_ == 0) co_return Result<void>();
  std::vector<uint32_t> order;
  order.reserve(dirty_);
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    if (pieces_[i].dirty) order.push_back(static_cast<uint32_t>(i));
  }
  std::ranges::sort(order, {}, [this](uint32_t i) { return pieces_[i].offset; });
  for (std::size_t first = 0; first < order.size();) {
    const uint64_t offset = pieces_[order[first]].offset;
    IoVector buffers;
    std::size_t end = first;
    while (end < order.size() && end - first < kMaxPiecesPerWrite &&
           pieces_[order[end]].offset == offset + (end - first) * piece_bytes_) {
      buffers.append(pieces_[order[end]].data(), piece_bytes_);
      ++end;
    }
    co_await file_.debug_event(update_event_);
    BB_CO_TRY(co_await file_.write(offset, std::move(buffers)));
    for (std::size_t i = first; i < end; ++i) {
      pieces_[order[i]].dirty = false;
      pieces_[order[i]].placed = true;
      --dirty_;
    }
    changed_.wake_all();
    first = end;
  }
  co_return Result<void>();
}

void TableCache::drop(uint64_t offset, uint64_t length) {
  for (uint64_t at = offset; at < offset + length; at += piece_bytes_) {
    Piece* piece = lookup(at);
    if (piece == nullptr || piece->loading) continue;
    if (piece->dirty) --dirty_;
    piece->dirty = false;
    index_erase(at);
    piece->offset = kNone;
    unused_.push_back(static_cast<uint32_t>(piece - pieces_.data()));
  }
  changed_.wake_all();
}

void TableCache::drop_all() {
  BB_ASSERT(dirty_ == 0);
  for (const Piece& piece : pieces_) BB_ASSERT(!piece.loading);
  pieces_.clear();
  slabs_.clear();
  unused_.clear();
  hand_ = 0;
  slots_.assign(kFirstSlots, kFree);
  indexed_ = 0;
}

void TableCache::trim() {
  for (Piece& piece : pieces_) {
    if (piece.dirty || piece.loading || piece.offset == kNone) continue;
    if (piece.used) {
      piece.used = false;
    } else {
      index_erase(piece.offset);
      piece.offset = kNone;
    }
  }
  move_together();
}

void TableCache::move_together() {
  std::size_t hole = 0;
  for (std::size_t last = pieces_.size(); last-- > 0;) {
    Piece& from = pieces_[last];
    // Somebody reads into it or writes out of it, or is about to.
    if (from.offset == kNone || from.dirty || from.loading) continue;
    while (hole < last && pieces_[hole].offset != kNone) ++hole;
    if (hole == last) break;
    Piece& to = pieces_[hole];
    index_erase(from.offset);
    std::memcpy(to.memory, from.memory, piece_bytes_);
    to.offset = from.offset;
    to.dirty = to.loading = false;
    to.used = from.used;
    to.placed = from.placed;
    from.offset = kNone;
    index_insert(static_cast<uint32_t>(hole));
  }
  while (!pieces_.empty() && pieces_.back().offset == kNone) pieces_.pop_back();
  slabs_.resize((pieces_.size() + pieces_per_slab_ - 1) / pieces_per_slab_);
  unused_.clear();
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    if (pieces_[i].offset == kNone) unused_.push_back(static_cast<uint32_t>(i));
  }
  hand_ = 0;
}

}  // namespace blockbed::qcow2
