#include "tests/jobs/image_chain_fixture.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/qcow2/image_fixture.h"

namespace blockbed::test {

namespace {

constexpr uint64_t kSector = GoldenDisk::kSector;

// By the name in the image, as somebody would who knows only the file.
json::Object options_of(const std::string& node, const std::string& path) {
  return {{"driver", "qcow2"},
          {"node-name", node},
          {"file", json::Object{{"driver", "file"}, {"filename", path}}}};
}

}  // namespace

ImageChain::ImageChain(World& world, std::vector<qcow2::CreateOptions> layers)
    : world_(world), chance_(world.env.chance()), layers_(std::move(layers)) {
  for (std::size_t i = 1; i < layers_.size(); ++i) {
    layers_[i].backing_file = name(i - 1);
    layers_[i].backing_format = "qcow2";
  }
}

std::string ImageChain::name(std::size_t layer) { return fmt::format("l{}", layer); }

void ImageChain::make(GoldenDisk& golden) {
  for (std::size_t i = 0; i < layers_.size() && !testing::Test::HasFailure(); ++i) {
    make_layer(i, golden);
  }
}

void ImageChain::make_layer(std::size_t layer, GoldenDisk& golden) {
  const qcow2::CreateOptions& create = layers_[layer];
  auto made = world_.run(qcow2::test::create_image(world_.env, name(layer), create));
  ASSERT_TRUE(made.has_value()) << made.error().description;
  // What a shorter layer hides reads as zeroes from then on.
  if (create.size < golden.size()) golden.preset(create.size, golden.size() - create.size, 0);
  Node& node = world_.open(options_of("made", name(layer)));
  std::unique_ptr<Backend> disk = world_.guest(node);
  world_.run(fill(*disk, create, golden));
  world_.run(disk->remove());
  disk.reset();
  world_.run(world_.drop(node));
}

Task<void> ImageChain::fill(Backend& disk, const qcow2::CreateOptions& create, GoldenDisk& golden) {
  for (uint64_t at = 0; at < create.size;) {
    uint64_t length =
        std::min(static_cast<uint64_t>(chance_.between(1, 512)) * kSector, create.size - at);
    const uint64_t kind = chance_.below(100);
    Result<void> done;
    if (kind < 12) {
      done = co_await disk.zero(at, length);
      golden.preset(at, length, 0);
    } else if (kind < 45) {
      RequestFlags flags;
      if (kind < 17 && !create.extended_l2) {
        at -= at % create.cluster_size;
        length = std::min(create.cluster_size, create.size - at);
        flags.compressed = true;
      }
      const uint64_t number = golden.next_number();
      Buffer buffer(length);
      GoldenDisk::fill(buffer.span(), number);
      done = co_await disk.write(at, buffer.io(), flags);
      golden.preset(at, length, number);
    }
    EXPECT_TRUE(done.has_value()) << strerror_text(done.error());
    at += length;
  }
}

json::Object ImageChain::definition(std::size_t layer) const {
  json::Object options = options_of(name(layer), name(layer));
  options.set("backing", layer == 0 ? json::Value() : json::Value(definition(layer - 1)));
  return options;
}

void ImageChain::judge(const sim::StorageImage& left, std::size_t top, const GoldenDisk& golden,
                       Verdict verdict) {
  World world(1);
  for (const auto& [path, content] : left) world.env.storage().put(path, content);
  world.run(qcow2::test::expect_sound(world.env, name(top), verdict.clean));
  if (testing::Test::HasFailure()) return;
  Node& disk = world.open(options_of("disk", name(top)));
  std::vector<std::byte> bytes(golden.size());
  ASSERT_EQ(disk.length(), golden.size());
  const Result<void> read = world.run(disk.read(0, IoVector(bytes.data(), bytes.size())));
  ASSERT_TRUE(read.has_value()) << strerror_text(read.error());
  const auto wrong = golden.first_wrong(bytes, verdict.crashed);
  EXPECT_FALSE(wrong.has_value())
      << "sector " << *wrong << " of " << name(top) << " shows "
      << GoldenDisk::shown(bytes.data() + *wrong * kSector).value_or(~0ull);
}

}  // namespace blockbed::test
