// TableCache: pieces of L2 tables or refcount blocks in memory.
//
// Problem: a look-up must cost no I/O and no allocation when its piece is here; several look-ups
// may wait for different pieces at once; and changed pieces reach the file only when the order of
// writes (order_of_writes.md) allows it.
//
// Contract
//  - A piece is `piece_bytes` bytes of the file at a multiple of that, in the byte order of the
//    file.
//  - A Piece pointer is valid until the next suspension of whoever holds it.
//  - Anybody may find() and load(). Only the holder of the metadata lock changes pieces, and it
//    keeps dirty_count() below max_dirty() before it marks one more (Metadata::make_room): so a
//    load always finds a clean piece to replace, or one being loaded to wait for.
//  - load_for_change() is load() for who is about to change a piece: sectors of nothing but zeroes
//    may be holes of the file, so a piece with such is written as it is before it counts as a place
//    where a change can be kept. A full disk is told then (ENOSPC), and not when the change is due.
//  - write_dirty() writes every dirty piece, those that lie side by side in one request; a piece
//    stays dirty when its write fails. No piece is changed meanwhile (metadata lock).
// Bounds: `capacity` pieces; their memory is taken when it is first used, in slabs of many pieces:
// one aligned allocation for each would take twice its size. Replacement: second chance. Units:
// bytes. Errors: errno of the file. Threading: engine thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "block/formats/qcow2/storage.h"
#include "block/runtime/sync.h"

namespace blockbed::qcow2 {

class TableCache {
 public:
  struct Piece {
    uint64_t offset = kNone;
    std::byte* memory = nullptr;
    bool dirty = false;
    bool used = false;
    bool loading = false;
    // The file has room for it.
    bool placed = false;

    std::byte* data() { return memory; }
    const std::byte* data() const { return memory; }
  };

  // At least two pieces: one may be dirty, one is for everybody else.
  static constexpr std::size_t kMinPieces = 2;
  static constexpr std::size_t kAlwaysClean = 8;

  // The events are those of reading a piece and of writing one.
  TableCache(Executor& executor, Storage& file, uint32_t piece_bytes, std::size_t capacity,
             DebugEvent load_event, DebugEvent update_event);

  uint32_t piece_bytes() const { return piece_bytes_; }
  std::size_t capacity() const { return capacity_; }
  std::size_t dirty_count() const { return dirty_; }
  // The rest is for those who only read.
  std::size_t max_dirty() const { return capacity_ - std::min(capacity_ / 2, kAlwaysClean); }
  // What the pieces' contents take, used or not.
  std::size_t memory_bytes() const { return slabs_.size() * pieces_per_slab_ * piece_bytes_; }

  // Null when it is not here, or still being loaded.
  Piece* find(uint64_t offset) {
    Piece* piece = lookup(offset);
    if (piece == nullptr || piece->loading) return nullptr;
    piece->used = true;
    return piece;
  }
  Task<Result<Piece*>> load(uint64_t offset);
  Task<Result<Piece*>> load_for_change(uint64_t offset);
  // A piece whose contents the caller fills at once; nothing is read. It is clean.
  Task<Piece*> add_empty(uint64_t offset);

  void mark_dirty(Piece& piece) {
    if (!piece.dirty) {
      piece.dirty = true;
      ++dirty_;
    }
  }
  Task<Result<void>> write_dirty();

  // Forgets pieces in [offset, offset + length), dirty or not: the cluster is a table no more. None
  // of them is being loaded by anyone who still may.
  void drop(uint64_t offset, uint64_t length);
  // Forgets everything; nothing may be dirty or loading.
  void drop_all();
  // Forgets pieces not used since the last call (cache-clean-interval). Others move together, and
  // the slabs behind them are given back.
  void trim();

 private:
  static constexpr uint64_t kNone = UINT64_MAX;
  static constexpr uint32_t kFree = UINT32_MAX;

  Piece* lookup(uint64_t offset);
  void index_insert(uint32_t number);
  void index_erase(uint64_t offset);
  std::size_t slot_of(uint64_t offset) const;
  void rehash(std::size_t slots);
  uint32_t add_piece();
  void move_together();
  // An unused piece entered under `offset`; null when all are dirty or loading.
  Piece* take(uint64_t offset);

  Storage& file_;
  DebugEvent load_event_;
  DebugEvent update_event_;
  uint32_t piece_bytes_;
  uint32_t piece_shift_;
  std::size_t capacity_;
  std::size_t dirty_ = 0;
  std::size_t hand_ = 0;
  std::size_t pieces_per_slab_;
  std::vector<Piece> pieces_;
  // Slab k has the memory of the pieces from k * pieces_per_slab_ on.
  std::vector<Buffer> slabs_;
  std::vector<uint32_t> unused_;
  // Open addressing: numbers of pieces, at most half full.
  std::vector<uint32_t> slots_;
  std::size_t indexed_ = 0;
  WaitQueue changed_;
};

}  // namespace blockbed::qcow2
