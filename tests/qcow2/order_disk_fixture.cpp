#include "tests/qcow2/order_disk_fixture.h"

#include <algorithm>
#include <cstring>

namespace blockbed::qcow2::test {
namespace {

using sim::Change;
using sim::kSector;

const std::shared_ptr<const OrderDisk::Sector>& zeroes() {
  static const auto sector = std::make_shared<const OrderDisk::Sector>();
  return sector;
}

}  // namespace

void OrderDisk::Version::put_into(std::byte* sector) const {
  std::memcpy(sector + from, bytes->data() + from, to - from);
}

void OrderDisk::add(uint64_t sector, uint64_t request, uint64_t operation,
                    std::shared_ptr<const Sector> bytes, uint32_t from, uint32_t to) {
  Version version;
  version.request = request;
  version.begun = operation;
  version.bytes = std::move(bytes);
  version.from = from;
  version.to = to;
  pending_[sector].push_back(std::move(version));
}

void OrderDisk::begin(uint64_t request, uint64_t operation, const Change& change) {
  uint64_t offset = change.offset;
  uint64_t end = change.end();
  if (change.kind == Change::Kind::kResize) {
    // What is cut off is zeroes, should the file ever reach there again.
    end = size_;
    size_ = change.offset;
    if (offset >= end) return;
    cut_from_[request] = end;
  } else {
    size_ = std::max(size_, end);
  }
  if (offset == end) return;
  under_way_[request] = {offset / kSector, (end - 1) / kSector};
  for (uint64_t s = offset / kSector; s * kSector < end; ++s) {
    const uint64_t from = std::max(offset, s * kSector);
    const uint64_t to = std::min(end, (s + 1) * kSector);
    if (change.kind != Change::Kind::kWrite && pending(s) == nullptr && durable_zero(s)) continue;
    if (change.kind != Change::Kind::kWrite && to - from == kSector) {
      add(s, request, operation, zeroes(), 0, kSector);
      continue;
    }
    auto bytes = std::make_shared<Sector>();
    if (to - from < kSector) read_newest(s * kSector, *bytes);
    if (change.kind == Change::Kind::kWrite) {
      std::memcpy(bytes->data() + (from - s * kSector), change.data->data() + (from - offset),
                  to - from);
    } else {
      std::memset(bytes->data() + (from - s * kSector), 0, to - from);
    }
    add(s, request, operation, std::move(bytes), static_cast<uint32_t>(from - s * kSector),
        static_cast<uint32_t>(to - s * kSector));
  }
}

void OrderDisk::effect(uint64_t request, uint64_t operation, const Change& change) {
  const auto range = under_way_.find(request);
  if (range == under_way_.end()) return;
  auto [first, last] = range->second;
  if (change.kind != Change::Kind::kResize) {
    first = std::max(first, change.offset / kSector);
    last = std::min(last, (change.end() - 1) / kSector);
  }
  for (auto at = pending_.lower_bound(first); at != pending_.end() && at->first <= last; ++at) {
    for (Version& version : at->second) {
      if (version.request == request) version.effect = operation;
    }
  }
  if (std::pair(first, last) == range->second) under_way_.erase(range);
}

void OrderDisk::fail(uint64_t request) {
  const auto range = under_way_.find(request);
  if (range == under_way_.end()) return;
  if (const auto cut = cut_from_.find(request); cut != cut_from_.end()) size_ = cut->second;
  for (auto at = pending_.lower_bound(range->second.first);
       at != pending_.end() && at->first <= range->second.second;) {
    std::erase_if(at->second,
                  [&](const Version& v) { return v.request == request && v.effect == UINT64_MAX; });
    at = at->second.empty() ? pending_.erase(at) : std::next(at);
  }
  under_way_.erase(range);
}

std::vector<uint64_t> OrderDisk::make_durable(uint64_t flush_begun) {
  std::vector<uint64_t> sectors;
  for (auto at = pending_.begin(); at != pending_.end();) {
    std::vector<Version> covered;
    std::vector<Version> others;
    for (Version& version : at->second) {
      (version.effect < flush_begun ? covered : others).push_back(std::move(version));
    }
    at->second = std::move(others);
    if (covered.empty()) {
      ++at;
      continue;
    }
    std::ranges::sort(covered, {}, &Version::effect);
    const uint64_t start = at->first * kSector;
    Sector bytes;
    read_durable(start, bytes);
    for (const Version& version : covered) version.put_into(bytes.data());
    if (durable_.size() < start + kSector) durable_.resize(start + kSector);
    durable_.write(start, bytes);
    for (const Version& version : covered) {
      written_[at->first].push_back(Written{version.begun, version.effect});
    }
    sectors.push_back(at->first);
    at = at->second.empty() ? pending_.erase(at) : std::next(at);
  }
  return sectors;
}

void OrderDisk::read_durable(uint64_t offset, std::span<std::byte> into) const {
  const uint64_t inside =
      offset < durable_.size() ? std::min<uint64_t>(into.size(), durable_.size() - offset) : 0;
  if (inside > 0) durable_.read(offset, into.first(inside));
  std::ranges::fill(into.subspan(inside), std::byte{0});
}

void OrderDisk::read_newest(uint64_t offset, std::span<std::byte> into) const {
  read_durable(offset, into);
  if (into.empty()) return;
  const uint64_t end = offset + into.size();
  for (auto at = pending_.lower_bound(offset / kSector);
       at != pending_.end() && at->first * kSector < end; ++at) {
    const uint64_t start = at->first * kSector;
    for (const Version& version : at->second) {
      const uint64_t from = std::max(offset, start + version.from);
      const uint64_t to = std::min(end, start + version.to);
      if (from >= to) continue;
      std::memcpy(into.data() + (from - offset), version.bytes->data() + (from - start), to - from);
    }
  }
}

bool OrderDisk::pending_in(uint64_t offset, uint64_t bytes) const {
  const auto at = pending_.lower_bound(offset / kSector);
  return at != pending_.end() && at->first * kSector < offset + bytes;
}

bool OrderDisk::durable_zero(uint64_t sector) const {
  Sector bytes;
  read_durable(sector * kSector, bytes);
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace blockbed::qcow2::test
