#include "tests/jobs/source_disk_fixture.h"

#include <algorithm>

namespace blockbed::test {

namespace {

constexpr uint64_t kSector = GoldenDisk::kSector;

}  // namespace

uint64_t SourceDisk::draw_size(sim::SimRandom& chance) {
  uint64_t size = static_cast<uint64_t>(chance.between(1, 40)) * kCluster;
  if (chance.percent(50)) size += static_cast<uint64_t>(chance.between(1, 127)) * kSector;
  return size;
}

SourceDisk::SourceDisk(World& world, uint64_t size, bool layered)
    : world_(world),
      chance_(world.env.chance()),
      size_(size),
      layered_(layered),
      image_(size),
      base_content_(size / kSector) {}

void SourceDisk::make(GoldenDisk& golden) {
  std::vector<std::byte> cluster(kCluster);
  sim::SparseBytes content;
  content.resize(size_);
  for (uint64_t at = 0; at < size_; at += kCluster) {
    const uint64_t length = std::min(kCluster, size_ - at);
    if (chance_.percent(30)) continue;
    const uint64_t number = golden.next_number();
    GoldenDisk::fill(cluster, number);
    content.write(at, std::span(cluster).first(length));
    golden.preset(at, length, number);
    std::fill_n(base_content_.begin() + static_cast<std::ptrdiff_t>(at / kSector), length / kSector,
                number);
  }
  if (!layered_) {
    node_ = &world_.file("s", std::move(content), draw_options());
    return;
  }
  base_ = &world_.file("base", std::move(content));
  make_layer(golden);
}

// A guest that discards may get its space back, if it likes.
json::Object SourceDisk::draw_options() const {
  json::Object options;
  if (chance_.percent(50)) options.set("discard", "unmap");
  return options;
}

void SourceDisk::make_layer(GoldenDisk& golden) {
  world_.drivers.add(layer_entry(world_.env, image_));
  for (uint64_t c = 0; c < image_.allocated.size(); ++c) {
    if (!chance_.percent(40)) continue;
    image_.allocated[c] = true;
    image_.zero[c] = chance_.percent(30);
    const uint64_t at = c * kCluster, length = std::min(kCluster, size_ - at);
    const uint64_t number = image_.zero[c] ? 0 : golden.next_number();
    GoldenDisk::fill({image_.bytes.data() + at, length}, number);
    golden.preset(at, length, number);
  }
  json::Object options = draw_options();
  options.set("driver", "qed");
  options.set("node-name", "s");
  options.set("file", json::Object{{"driver", "null-co"}});
  options.set("backing", "base");
  node_ = &world_.open(std::move(options));
}

Node& SourceDisk::make_target(bool like_the_base) {
  std::vector<std::byte> bytes(size_);
  for (uint64_t at = 0; at < size_; at += kSector) {
    GoldenDisk::fill({bytes.data() + at, kSector},
                     like_the_base ? base_content_[at / kSector] : kJunk);
  }
  sim::SparseBytes content;
  content.resize(size_);
  content.write(0, bytes);
  return world_.file("t", std::move(content), draw_options());
}

void SourceDisk::judge(const sim::StorageImage& left, const GoldenDisk& golden,
                       bool crashed) const {
  if (layered_) return;
  const std::vector<std::byte> bytes = left.at("s").bytes();
  ASSERT_EQ(bytes.size(), size_);
  const auto wrong = golden.first_wrong(bytes, crashed);
  EXPECT_FALSE(wrong.has_value())
      << "sector " << *wrong << " of the disk's file shows "
      << GoldenDisk::shown(bytes.data() + *wrong * kSector).value_or(~0ull);
}

}  // namespace blockbed::test
