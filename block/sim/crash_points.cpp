#include "block/sim/crash_points.h"

#include "block/runtime/assert.h"

namespace blockbed::sim {

CrashPoints::CrashPoints(const SimStorage& storage) : events_(storage.recording()) {
  for (const auto& [number, path] : storage.recorded_names()) {
    disks_[number] = Disk{path, SimDisk(storage.recorded_start().at(path)), {}, {}};
  }
}

void CrashPoints::next() {
  BB_ASSERT(!at_end_);
  if (point_ == events_.size()) {
    at_end_ = true;
    return;
  }
  replay(events_[point_]);
  ++point_;
}

void CrashPoints::replay(const StorageEvent& event) {
  Disk& disk = disks_[event.file];
  switch (event.kind) {
    case StorageEvent::Kind::kChangeBegins:
      disk.in_flight[event.request] = event.change;
      break;
    case StorageEvent::Kind::kChangeTakesEffect:
      disk.in_flight.erase(event.request);
      disk.disk.apply(event.change);
      break;
    case StorageEvent::Kind::kChangeEnds:
      disk.in_flight.erase(event.request);
      break;
    case StorageEvent::Kind::kFlushBegins:
      disk.marks[event.request] = disk.disk.mark();
      break;
    case StorageEvent::Kind::kFlushEnds:
      disk.disk.make_durable(disk.marks.at(event.request));
      disk.marks.erase(event.request);
      break;
    case StorageEvent::Kind::kFlushFails:
      disk.disk.flush_failed(disk.marks.at(event.request), CrashSubset::seeded(event.seed));
      disk.marks.erase(event.request);
      break;
    case StorageEvent::Kind::kCreated:
      disk.path = event.path;
      break;
    case StorageEvent::Kind::kRemoved:
      disk.removed = true;
      break;
  }
}

std::string CrashPoints::describe() const {
  if (point_ == 0) return "the beginning";
  const StorageEvent& event = events_[point_ - 1];
  const Change& change = event.change;
  std::string what;
  switch (change.kind) {
    case Change::Kind::kWrite:
      what = "write";
      break;
    case Change::Kind::kZero:
      what = "zero";
      break;
    case Change::Kind::kDiscard:
      what = "discard";
      break;
    case Change::Kind::kResize:
      what = "resize";
      break;
  }
  what += " of " + std::to_string(change.length) + " bytes at " + std::to_string(change.offset);
  const std::string path = " in " + disks_.at(event.file).path;
  switch (event.kind) {
    case StorageEvent::Kind::kChangeBegins:
      return what + path + " began";
    case StorageEvent::Kind::kChangeTakesEffect:
      return what + path + " took effect";
    case StorageEvent::Kind::kChangeEnds:
      return "a change" + path + " failed";
    case StorageEvent::Kind::kFlushBegins:
      return "a flush" + path + " began";
    case StorageEvent::Kind::kFlushEnds:
      return "a flush" + path + " ended";
    case StorageEvent::Kind::kFlushFails:
      return "a flush" + path + " failed";
    case StorageEvent::Kind::kCreated:
      return "the file was created" + path;
    case StorageEvent::Kind::kRemoved:
      return "the file was removed" + path;
  }
  return {};
}

StorageImage CrashPoints::image(CrashSubset subset) const {
  StorageImage result;
  for (const auto& [number, disk] : disks_) {
    if (disk.removed) continue;
    result[disk.path] = disk.disk.after_crash(subset, in_flight(disk));
  }
  return result;
}

std::vector<Change> CrashPoints::in_flight(const Disk& disk) {
  std::vector<Change> changes;
  for (const auto& [request, change] : disk.in_flight) changes.push_back(change);
  return changes;
}

std::optional<std::vector<StorageImage>> CrashPoints::every_image(std::size_t limit) const {
  std::vector<StorageImage> images(1);
  for (const auto& [number, disk] : disks_) {
    if (disk.removed) continue;
    const auto every = disk.disk.every_crash(limit / images.size(), in_flight(disk));
    if (!every) return std::nullopt;
    std::vector<StorageImage> with_disk;
    for (const StorageImage& image : images) {
      for (const SparseBytes& left : *every) {
        with_disk.push_back(image);
        with_disk.back()[disk.path] = left;
      }
    }
    images = std::move(with_disk);
  }
  return images;
}

StorageImage CrashPoints::live() const {
  StorageImage result;
  for (const auto& [number, disk] : disks_) {
    if (!disk.removed) result[disk.path] = disk.disk.live();
  }
  return result;
}

}  // namespace blockbed::sim
