#include "block/sim/sim_disk.h"

#include <algorithm>
#include <array>
#include <map>
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

// Which of them change the size is known only by looking at all of them in order.
std::vector<bool> which_change_size(uint64_t size, const std::vector<Change>& changes) {
  std::vector<bool> changes_size;
  for (const Change& change : changes) {
    const uint64_t after =
        change.kind == Change::Kind::kResize ? change.offset : std::max(size, change.end());
    changes_size.push_back(after != size);
    size = after;
  }
  return changes_size;
}

// The versions of each sector that a crash may leave when it keeps the first `sizes` changes of
// size.
class SectorVersions {
 public:
  SectorVersions(const SparseBytes& start, const std::vector<Change>& changes,
                 const std::vector<bool>& changes_size, uint64_t sizes, std::size_t limit)
      : none_(start), limit_(limit) {
    for (std::size_t i = 0; i < changes.size() && count_ <= limit_; ++i) {
      const Change& change = changes[i];
      if (changes_size[i] && sizes > 0) {
        --sizes;
        resize(change.kind == Change::Kind::kResize ? change.offset : change.end());
      }
      if (change.kind != Change::Kind::kResize) add(change);
    }
  }

  std::size_t count() const { return count_; }
  // Each choice of one version for every sector.
  void put_all(std::vector<SparseBytes>& into) const {
    std::vector<SparseBytes> images = {none_};
    for (const auto& [sector, versions] : sectors_) {
      const std::size_t others = images.size();
      for (std::size_t v = 1; v < versions.size(); ++v) {
        for (std::size_t i = 0; i < others; ++i) {
          images.push_back(images[i]);
          images.back().write(sector * kSector, std::span(versions[v]).first(part_of(sector)));
        }
      }
    }
    into.insert(into.end(), std::make_move_iterator(images.begin()),
                std::make_move_iterator(images.end()));
  }

 private:
  using Sector = std::array<std::byte, kSector>;

  // How much of the sector is inside the file.
  uint64_t part_of(uint64_t sector) const {
    return std::min(kSector, none_.size() - sector * kSector);
  }

  void resize(uint64_t size) {
    const bool shorter = size < none_.size();
    none_.resize(size);
    if (!shorter) return;
    // What is cut off stays away when the file grows again.
    sectors_.erase(sectors_.lower_bound((size + kSector - 1) / kSector), sectors_.end());
    const auto cut = sectors_.find(size / kSector);
    if (cut != sectors_.end()) {
      std::vector<Sector> versions;
      for (Sector version : cut->second) {
        std::fill(version.begin() + static_cast<std::ptrdiff_t>(size % kSector), version.end(),
                  std::byte{0});
        if (std::ranges::find(versions, version) == versions.end()) versions.push_back(version);
      }
      cut->second = std::move(versions);
    }
    count_ = 1;
    for (const auto& [sector, versions] : sectors_) count_ *= versions.size();
  }

  void add(const Change& change) {
    const uint64_t end = std::min(change.end(), none_.size());
    for (uint64_t at = change.offset; at < end && count_ <= limit_;) {
      const uint64_t sector = at / kSector;
      const uint64_t next = std::min((sector + 1) * kSector, end);
      add(sector, change, at, next);
      at = next;
    }
  }

  void add(uint64_t sector, const Change& change, uint64_t from, uint64_t to) {
    std::vector<Sector>& versions = sectors_[sector];
    if (versions.empty()) none_.read(sector * kSector, versions.emplace_back());
    const std::size_t before = versions.size();
    for (std::size_t v = 0; v < before; ++v) {
      Sector changed = versions[v];
      const auto part = std::span(changed).subspan(from % kSector, to - from);
      if (change.kind == Change::Kind::kWrite) {
        std::ranges::copy(std::span(*change.data).subspan(from - change.offset, to - from),
                          part.begin());
      } else {
        std::ranges::fill(part, std::byte{0});
      }
      if (std::ranges::find(versions, changed) == versions.end()) versions.push_back(changed);
    }
    count_ = count_ / before * versions.size();
  }

  SparseBytes none_;
  std::size_t limit_;
  std::map<uint64_t, std::vector<Sector>> sectors_;
  std::size_t count_ = 1;
};

void put_subset(SparseBytes& target, const std::vector<Change>& changes, CrashSubset& subset) {
  const std::vector<bool> changes_size = which_change_size(target.size(), changes);
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

std::optional<std::vector<SparseBytes>> SimDisk::every_crash(
    std::size_t limit, std::span<const Change> in_flight) const {
  std::vector<Change> changes = pending_;
  changes.insert(changes.end(), in_flight.begin(), in_flight.end());
  const std::vector<bool> changes_size = which_change_size(durable_.size(), changes);
  const auto sizes = std::count(changes_size.begin(), changes_size.end(), true);
  std::vector<SparseBytes> every;
  for (std::ptrdiff_t kept = 0; kept <= sizes; ++kept) {
    const SectorVersions versions(durable_, changes, changes_size, static_cast<uint64_t>(kept),
                                  limit);
    if (versions.count() > limit - std::min(limit, every.size())) return std::nullopt;
    versions.put_all(every);
  }
  return every;
}

}  // namespace blockbed::sim
