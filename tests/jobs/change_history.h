// ChangeHistory: which parts of a disk changed between two instants, told from nothing but the
// requests that guests sent; the judge of what an increment copied.
//
// Problem: a copy that restores well may still have copied too much, and one that copied too
// little restores well when what was lost happened to be the same. What must be copied is known
// without looking at data: every request that changes the disk has an epoch, and so has every
// instant.
//
// Contract
//  - A request lies in the epoch in which it was sent, or in a later one up to that in which it
//    ended: it may have waited at an instant. One that failed may have changed the disk, or not.
//  - An increment is judged by granules. Of each it is known since when its changes are owed. A
//    granule must be copied whole when a request that succeeded lies after that and before the
//    instant; a part of it may be copied when any request can lie there.
//  - succeeded() says that all is paid for up to that instant. failed() says what a copy holds that
//    was not ended: that is paid for too, if the bitmap says so, but it may be copied once more.
// Units: bytes; epochs count from 0. Threading: plain data.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace blockbed::test {

class ChangeHistory {
 public:
  // By granule: a part of it was copied, all of it was.
  struct Copied {
    std::vector<bool> part, whole;
  };

  // A line a granule.
  struct Verdict {
    std::string lost;
    std::string for_nothing;
  };

  ChangeHistory(uint64_t size, uint64_t granule)
      : size_(size), granule_(granule), owed_((size + granule - 1) / granule) {}

  uint64_t granule() const { return granule_; }
  uint64_t granules() const { return owed_.size(); }

  // Gives the request's place among all.
  std::size_t begin(uint64_t offset, uint64_t length) {
    changes_.push_back({offset, length, epoch_, UINT64_MAX, false});
    return changes_.size() - 1;
  }
  void end(std::size_t change, bool succeeded) {
    changes_[change].last_epoch = epoch_;
    changes_[change].certain = succeeded;
  }

  // The last epoch before it.
  uint64_t instant() { return epoch_++; }

  void succeeded(uint64_t instant) {
    for (Owed& owed : owed_) owed.must = owed.may = instant + 1;
  }
  void failed(uint64_t instant, const Copied& copied) {
    for (uint64_t g = 0; g < granules(); ++g) {
      if (copied.whole[g]) owed_[g].must = instant + 1;
    }
  }

  // Both are empty when it is exact.
  Verdict judge(uint64_t instant, const Copied& copied) const {
    std::vector<const Change*> must(granules()), may(granules());
    for (const Change& change : changes_) {
      for (uint64_t g = change.offset / granule_;
           g * granule_ < std::min(size_, change.offset + change.length); ++g) {
        if (change.epoch > instant) continue;
        if (change.last_epoch >= owed_[g].may) may[g] = &change;
        const bool within = change.epoch >= owed_[g].must && change.last_epoch <= instant;
        if (change.certain && within) must[g] = &change;
      }
    }
    Verdict verdict;
    for (uint64_t g = 0; g < granules(); ++g) {
      if (must[g] != nullptr && !copied.whole[g]) {
        verdict.lost +=
            fmt::format("[{}, {}) was changed by the request at {} of {} bytes, {}\n", g * granule_,
                        (g + 1) * granule_, must[g]->offset, must[g]->length, describe(*must[g]));
      }
      if (may[g] == nullptr && copied.part[g]) {
        verdict.for_nothing += fmt::format("[{}, {}) did not change in the epochs {} to {}\n",
                                           g * granule_, (g + 1) * granule_, owed_[g].may, instant);
      }
    }
    return verdict;
  }

 private:
  struct Change {
    uint64_t offset;
    uint64_t length;
    uint64_t epoch;
    uint64_t last_epoch;
    bool certain;
  };
  static std::string describe(const Change& change) {
    return change.epoch == change.last_epoch
               ? fmt::format("in epoch {}", change.epoch)
               : fmt::format("in epoch {} to {}", change.epoch, change.last_epoch);
  }

  uint64_t size_;
  uint64_t granule_;
  uint64_t epoch_ = 0;
  std::vector<Change> changes_;
  // The first epochs whose changes the next copy must have, and may have.
  struct Owed {
    uint64_t must = 0;
    uint64_t may = 0;
  };
  std::vector<Owed> owed_;
};

}  // namespace blockbed::test
