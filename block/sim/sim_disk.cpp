#include "block/sim/sim_disk.h"

#include <algorithm>
#include <utility>

#include "block/runtime/assert.h"

namespace blockbed::sim {

namespace {

void put(SparseBytes& target, const Change& change, uint64_t from, uint64_t to) {
  if (from >= to) return;
  switch (change.kind) {
    case Change::Kind::kWrite:
      target.write(from, std::span(*change.data).subspan(from - change.offset, to - from));
      break;
    case Change::Kind::kZero:
      target.zero(from, to - from, SparseBytes::Zeroes::kKeepSpace);
      break;
    case Change::Kind::kDiscard:
      target.zero(from, to - from, SparseBytes::Zeroes::kGiveSpaceBack);
      break;
    case Change::Kind::kResize:
      BB_ASSERT(false);
  }
}

void put_whole(SparseBytes& target, const Change& change) {
  if (change.kind == Change::Kind::kResize) {
    target.resize(change.offset);
    return;
  }
  // A discard never extends the file; it says so by its range.
  if (change.end() > target.size()) target.resize(change.end());
  put(target, change, change.offset, change.end());
}

void put_subset(SparseBytes& target, const std::vector<Change>& changes, CrashSubset& subset) {
  // Which of them change the size is known only by looking at all of them in order.
  std::vector<bool> changes_size;
  uint64_t size = target.size();
  for (const Change& change : changes) {
    const uint64_t after =
        change.kind == Change::Kind::kResize ? change.offset : std::max(size, change.end());
    changes_size.push_back(after != size);
    size = after;
  }
  uint64_t sizes_left = subset.sizes(
      static_cast<uint64_t>(std::count(changes_size.begin(), changes_size.end(), true)));
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const Change& change = changes[i];
    bool keep_size = false;
    if (changes_size[i] && sizes_left > 0) {
      --sizes_left;
      keep_size = true;
    }
    if (change.kind == Change::Kind::kResize) {
      if (keep_size) target.resize(change.offset);
      continue;
    }
    if (keep_size && change.end() > target.size()) target.resize(change.end());
    subset.begin_change();
    for (uint64_t at = change.offset; at < change.end();) {
      const uint64_t next = std::min((at / kSector + 1) * kSector, change.end());
      if (subset.sector()) put(target, change, at, std::min(next, target.size()));
      at = next;
    }
  }
}

}  // namespace

CrashSubset::CrashSubset(Mode mode, uint64_t seed) : mode_(mode), random_(seed) {
  // Crashes that lose nearly all or nearly nothing find other faults than those in the middle.
  constexpr unsigned kDensities[] = {8, 50, 92};
  if (mode_ == Mode::kSeeded) density_ = kDensities[random_.below(std::size(kDensities))];
}

uint64_t CrashSubset::sizes(uint64_t count) {
  if (mode_ == Mode::kSeeded) return random_.below(count + 1);
  return mode_ == Mode::kAll ? count : 0;
}

void CrashSubset::begin_change() {
  if (mode_ != Mode::kSeeded) {
    fate_ = mode_ == Mode::kAll ? Fate::kKept : Fate::kLost;
    return;
  }
  // Half of the changes stay whole: orders of whole writes are the commonest fault.
  if (random_.percent(50)) {
    fate_ = random_.percent(density_) ? Fate::kKept : Fate::kLost;
  } else {
    fate_ = Fate::kTorn;
  }
}

bool CrashSubset::sector() {
  switch (fate_) {
    case Fate::kKept:
      return true;
    case Fate::kLost:
      return false;
    case Fate::kTorn:
      return random_.percent(density_);
  }
  return false;
}

void SimDisk::apply(const Change& change) {
  put_whole(live_, change);
  pending_.push_back(change);
}

std::vector<Change> SimDisk::take_pending(uint64_t mark) {
  // A flush that began later may have ended earlier and taken more.
  const uint64_t count = mark > first_pending_ ? mark - first_pending_ : 0;
  BB_ASSERT(count <= pending_.size());
  const auto end = pending_.begin() + static_cast<std::ptrdiff_t>(count);
  std::vector<Change> taken(std::make_move_iterator(pending_.begin()),
                            std::make_move_iterator(end));
  pending_.erase(pending_.begin(), end);
  first_pending_ += count;
  return taken;
}

void SimDisk::make_durable(uint64_t mark) {
  for (const Change& change : take_pending(mark)) put_whole(durable_, change);
}

void SimDisk::flush_failed(uint64_t mark, CrashSubset subset) {
  put_subset(durable_, take_pending(mark), subset);
}

SparseBytes SimDisk::after_crash(CrashSubset subset, std::span<const Change> in_flight) const {
  SparseBytes result = durable_;
  std::vector<Change> changes = pending_;
  changes.insert(changes.end(), in_flight.begin(), in_flight.end());
  put_subset(result, changes, subset);
  return result;
}

}  // namespace blockbed::sim
