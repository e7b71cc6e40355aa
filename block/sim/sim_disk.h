// SimDisk: what a crash may leave of one file.
//
// The fault policy, in prose, since tests are only as good as it is:
//
//  1. A request that has completed is seen by every later read, and by nobody after a crash unless
//     a flush that began after its completion has completed. This holds for bytes and for the
//     file's size alike.
//  2. After a crash, of all that is not flushed (completed or still under way), any subset may be
//     there, in any mixture of old and new. The unit is a sector of kSector bytes at a multiple of
//     kSector: a sector is never torn, whatever the unit of the request was.
//  3. Of several unflushed versions of a sector any may remain, not only the first or the last.
//  4. The file's size is metadata that is written in order: a crash keeps the changes of size up to
//     some point. Bytes beyond the size that was kept are gone; bytes inside it whose write was not
//     kept are zeroes if the file had never reached there.
//  5. Zeroing and discarding are writes of zeroes in all of this.
//  6. A flush that failed may have made any subset of its bytes durable. What it did not make
//     durable will not be by a later flush either, as on Linux, where a failed fsync() marks pages
//     clean: only writing it again helps. Reads still see it until the crash.
//  7. A write that failed may have changed any subset of its sectors (sim_storage.h).
//  8. Flushed sectors do not change: no bit rots by itself, and no write goes to a wrong place. Who
//     wants that changes the image by hand.
//  9. Names of files are durable as soon as they are made or removed.
//
// Contract: apply() in the order of completion. Units: bytes. Threading: plain data.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "block/sim/sim_random.h"
#include "block/sim/sparse_bytes.h"

namespace blockbed::sim {

inline constexpr uint64_t kSector = 512;

// One change of a file.
struct Change {
  enum class Kind : uint8_t { kWrite, kZero, kDiscard, kResize };

  Kind kind = Kind::kWrite;
  // kResize: the new size.
  uint64_t offset = 0;
  uint64_t length = 0;
  std::shared_ptr<const std::vector<std::byte>> data = {};

  uint64_t end() const { return offset + length; }
};

// Decides what of the unflushed changes a crash keeps.
class CrashSubset {
 public:
  static CrashSubset none() { return CrashSubset(Mode::kNone, 0); }
  static CrashSubset all() { return CrashSubset(Mode::kAll, 0); }
  static CrashSubset seeded(uint64_t seed) { return CrashSubset(Mode::kSeeded, seed); }

  // How many of `count` changes of size are kept: the first ones.
  uint64_t sizes(uint64_t count);
  // A new change begins; sector() then speaks about it.
  void begin_change();
  bool sector();

 private:
  enum class Mode { kNone, kAll, kSeeded };

  CrashSubset(Mode mode, uint64_t seed);

  Mode mode_;
  SimRandom random_;
  unsigned density_ = 50;
  enum class Fate { kKept, kLost, kTorn } fate_ = Fate::kTorn;
};

class SimDisk {
 public:
  SimDisk() = default;
  // Everything is durable.
  explicit SimDisk(SparseBytes content) : live_(content), durable_(std::move(content)) {}

  // What reads see.
  const SparseBytes& live() const { return live_; }
  bool clean() const { return pending_.empty(); }

  void apply(const Change& change);

  // A flush takes a mark when it begins and gives it back when it ends.
  uint64_t mark() const { return first_pending_ + pending_.size(); }
  void make_durable(uint64_t mark);
  void flush_failed(uint64_t mark, CrashSubset subset);

  // The file after a crash now; `in_flight` are changes that have begun and not completed.
  SparseBytes after_crash(CrashSubset subset, std::span<const Change> in_flight) const;
  // Everything that a crash now may leave: each of the sizes with each of the versions of every
  // sector, versions of equal bytes taken as one. Nothing when these are more than `limit`.
  std::optional<std::vector<SparseBytes>> every_crash(std::size_t limit,
                                                      std::span<const Change> in_flight) const;

 private:
  std::vector<Change> take_pending(uint64_t mark);

  SparseBytes live_;
  SparseBytes durable_;
  std::vector<Change> pending_;
  // How many changes have left pending_.
  uint64_t first_pending_ = 0;
};

}  // namespace blockbed::sim
