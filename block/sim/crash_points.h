// CrashPoints: every instant at which a recorded workload can be cut off, and what it leaves.
//
// Problem: a format's order of writes is right only if a crash between any two of them is
// survivable. Running the workload again for each of ten thousand instants is slow; what the
// storage went through can be replayed instead.
//
// Contract: made from a storage that was told to record() before the workload ran. point() is the
// number of operations that have happened (the number that power_off_at() takes); next() goes on to
// the following one, from 0 (before anything) to the last. image() is what is on the disks when the
// power goes off there, for any subset of the unflushed changes (sim_disk.h).
//
//   for (CrashPoints crash(env.storage()); !crash.at_end(); crash.next()) {
//     check(crash.image(CrashSubset::none()));
//     check(crash.image(CrashSubset::all()));
//     for (uint64_t s = 0; s < 4; ++s) check(crash.image(CrashSubset::seeded(s)));
//     // or, where there are few:
//     if (auto every = crash.every_image(32)) std::ranges::for_each(*every, check);
//   }
//
// Threading: plain data; the storage must not change meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "block/sim/sim_disk.h"
#include "block/sim/sim_storage.h"

namespace blockbed::sim {

class CrashPoints {
 public:
  explicit CrashPoints(const SimStorage& storage);

  std::size_t count() const { return events_.size() + 1; }
  std::size_t point() const { return point_; }
  bool at_end() const { return at_end_; }
  void next();
  // The last thing that happened, for messages: "write of 65536 bytes at 131072 ended".
  std::string describe() const;

  StorageImage image(CrashSubset subset) const;
  // All that may be on the disks, for every subset: nothing when that is more than `limit`.
  std::optional<std::vector<StorageImage>> every_image(std::size_t limit) const;
  // What reads saw at this point.
  StorageImage live() const;

 private:
  struct Disk {
    std::string path;
    SimDisk disk;
    std::map<uint64_t, Change> in_flight;
    std::map<uint64_t, uint64_t> marks;
    bool removed = false;
  };

  void replay(const StorageEvent& event);
  static std::vector<Change> in_flight(const Disk& disk);

  const std::vector<StorageEvent>& events_;
  std::map<uint64_t, Disk> disks_;
  std::size_t point_ = 0;
  bool at_end_ = false;
};

}  // namespace blockbed::sim
