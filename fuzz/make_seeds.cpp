// Writes small images with every feature of the format, for the qcow2 targets to begin with:
// DIR/images/, and DIR/requests/ with some requests behind each (image_and_requests.h).
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "block/formats/qcow2/create.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/geometry.h"
#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/open.h"
#include "fuzz/memory_image.h"
#include "fuzz/qcow2_requests.h"

namespace {

using namespace blockbed;
using namespace blockbed::fuzz;
using namespace blockbed::qcow2;

struct Seed {
  std::string name;
  CreateOptions create;
  bool compressed = false;
  int snapshots = 0;
  int bitmaps = 0;
};

// Two bitmaps as their directory says: one consistent and automatic, with a table of two entries.
Task<Result<void>> add_bitmaps(Image& image, int count) {
  Metadata& metadata = image.metadata();
  MutexGuard lock = co_await metadata.lock();
  const uint64_t cluster = image.geometry().cluster_size;
  std::vector<std::byte> directory;
  for (int i = 0; i < count; ++i) {
    auto data = co_await metadata.allocate(1, "bitmap");
    if (!data) co_return io_error(data.error());
    auto table = co_await metadata.allocate(1, "bitmap table");
    if (!table) co_return io_error(table.error());
    Buffer content = Buffer::zeroed(cluster);
    content.data()[0] = std::byte{0x55};
    BB_CO_TRY(co_await metadata.file().write(data->host, content.io()));
    content = Buffer::zeroed(cluster);
    store_be64(content.data(), data->host);
    content.data()[15] = std::byte{1};
    BB_CO_TRY(co_await metadata.file().write(table->host, content.io()));
    const std::string name = fmt::format("bitmap{}", i);
    std::vector<std::byte> entry(align_up(24 + name.size(), 8));
    store_be64(entry.data(), table->host);
    store_be<uint32_t>(entry.data() + 8, 2);
    store_be<uint32_t>(entry.data() + 12, static_cast<uint32_t>(i + 1));
    entry[16] = std::byte{1};
    entry[17] = std::byte{9};
    store_be<uint16_t>(entry.data() + 18, static_cast<uint16_t>(name.size()));
    std::memcpy(entry.data() + 24, name.data(), name.size());
    directory.insert(directory.end(), entry.begin(), entry.end());
  }
  auto place = co_await metadata.allocate(1, "bitmap directory");
  if (!place) co_return io_error(place.error());
  BB_CO_TRY(
      co_await metadata.file().write(place->host, IoVector(directory.data(), directory.size())));
  Header header = metadata.header();
  header.autoclear_features |= autoclear::kBitmaps;
  header.bitmaps = BitmapsExtension{static_cast<uint32_t>(count), directory.size(), place->host};
  co_return co_await metadata.rewrite_header(std::move(header));
}

Task<void> fill(FuzzEnv& env, FuzzStorage& file, FuzzStorage& data, Seed seed) {
  auto made = co_await create(env, file, seed.create.data_file ? &data : nullptr, seed.create);
  BB_ASSERT(made);
  auto header = co_await read_header(file, true);
  BB_ASSERT(header);
  FuzzBacking backing(0);
  MetadataOptions options;
  options.writable = true;
  Image image(env, file, seed.create.data_file ? &data : nullptr, backing, std::move(*header),
              options);
  BB_ASSERT(co_await image.open());
  const uint64_t cluster = seed.create.cluster_size;
  std::vector<std::byte> bytes(2 * cluster, std::byte{0x5a});
  auto write = [&](uint64_t offset, uint64_t length) {
    return image.write(offset, IoVector(bytes.data(), length));
  };
  BB_ASSERT(co_await write(0, cluster));
  BB_ASSERT(co_await write(3 * cluster + 512, 512));
  (void)co_await image.zero(cluster, cluster, RequestFlags());
  if (seed.compressed) {
    BB_ASSERT(co_await image.write_compressed(4 * cluster, IoVector(bytes.data(), 2 * cluster)));
  }
  for (int i = 0; i < seed.snapshots; ++i) {
    Snapshot snapshot;
    snapshot.name = fmt::format("s{}", i);
    if (i == 0) {
      BB_ASSERT(co_await image.write_vm_state(0, IoVector(bytes.data(), 100)));
      snapshot.vm_state_size = 100;
    }
    BB_ASSERT(co_await image.create_snapshot(std::move(snapshot)));
    BB_ASSERT(co_await write(0, 512));
  }
  if (seed.bitmaps > 0) BB_ASSERT(co_await add_bitmaps(image, seed.bitmaps));
  BB_ASSERT(co_await image.close());
}

CreateOptions small(uint32_t version = 3, uint32_t refcount_bits = 16) {
  CreateOptions options;
  options.size = 40 << 10;
  options.version = version;
  options.cluster_size = 512;
  options.refcount_bits = refcount_bits;
  return options;
}

std::vector<Seed> all_seeds() {
  std::vector<Seed> seeds;
  for (uint32_t bits = 1; bits <= 64; bits *= 2) {
    seeds.push_back({fmt::format("refcount{}", bits), small(3, bits), bits >= 4, bits >= 4, 0});
  }
  seeds.push_back({"version2", small(2), true, 2, 0});
  seeds.push_back({"snapshots", small(), true, 3, 0});
  seeds.push_back({"bitmaps", small(), false, 0, 2});
  seeds.push_back({"bitmaps_and_snapshots", small(), true, 1, 3});
  Seed zstd{"zstd", small(), true, 0, 0};
  zstd.create.compression = CompressionType::kZstd;
  zstd.create.cluster_size = 2048;
  seeds.push_back(zstd);
  Seed lazy{"lazy", small(), true, 0, 0};
  lazy.create.lazy_refcounts = true;
  seeds.push_back(lazy);
  Seed backing{"backing", small(), false, 0, 0};
  backing.create.backing_file = "base";
  backing.create.backing_format = "raw";
  seeds.push_back(backing);
  Seed external{"data_file", small(), false, 0, 0};
  external.create.data_file = true;
  external.create.data_file_name = "data";
  seeds.push_back(external);
  external.name = "data_file_raw";
  external.create.data_file_raw = true;
  seeds.push_back(external);
  Seed preallocated{"preallocated", small(), false, 0, 0};
  preallocated.create.preallocation = Preallocation::kMetadata;
  seeds.push_back(preallocated);
  Seed large{"large_disk", small(), false, 0, 0};
  large.create.size = 8 << 20;
  seeds.push_back(large);
  // Its clusters are large: no more of them than there must be.
  Seed extended{"extended", small(), true, 0, 0};
  extended.create.extended_l2 = true;
  extended.create.cluster_size = 16 << 10;
  extended.create.size = 128 << 10;
  seeds.push_back(extended);
  return seeds;
}

// A cluster and a bit, where an image with subclusters has at least seven clusters, for targets
// with short inputs: its tables are moved to the second cluster, onto each other and its data. The
// first entry of the L2 table is then the one of the L1 table.
std::vector<std::byte> packed(std::span<const std::byte> image) {
  constexpr std::size_t kCluster = 16 << 10;
  constexpr std::size_t kL1Field = 40;
  constexpr std::size_t kEntries = 8 * 16;
  const uint64_t l1_entry = load_be64(image.data() + load_be64(image.data() + kL1Field));
  const std::byte* const l2 = image.data() + (l1_entry & kOffsetMask);
  std::vector<std::byte> result(image.begin(), image.begin() + kCluster);
  store_be64(result.data() + kL1Field, kCluster);
  result.insert(result.end(), l2, l2 + kEntries);
  store_be64(result.data() + kCluster, (l1_entry & ~kOffsetMask) | kCluster);
  return result;
}

// Without the zeroes at its end: short inputs are fast, and behind the end there are zeroes too.
std::span<const std::byte> shortened(std::span<const std::byte> bytes) {
  while (!bytes.empty() && bytes.back() == std::byte{0}) bytes = bytes.first(bytes.size() - 1);
  return bytes;
}

void save(const std::filesystem::path& path, std::span<const std::byte> bytes,
          std::span<const uint8_t> tail) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.write(reinterpret_cast<const char*>(tail.data()), static_cast<std::streamsize>(tail.size()));
  BB_ASSERT(out.good());
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s DIR\n", arguments[0]);
    return 1;
  }
  const std::filesystem::path directory = arguments[1];
  std::filesystem::create_directories(directory / "images");
  std::filesystem::create_directories(directory / "requests");
  // A request of each kind: its number, place and amount.
  std::vector<uint8_t> tail;
  for (uint8_t what = 0; what < 16; ++what) {
    const uint8_t request[kRequestBytes] = {what, 0, static_cast<uint8_t>(what * 3), 5};
    tail.insert(tail.end(), request, request + kRequestBytes);
  }
  tail.push_back(16);
  for (const Seed& seed : all_seeds()) {
    FuzzEnv env;
    FuzzStorage file({});
    FuzzStorage data({});
    env.run(fill(env, file, data, seed));
    save(directory / "images" / seed.name, shortened(file.bytes()), {});
    save(directory / "requests" / seed.name, shortened(file.bytes()), tail);
    if (seed.create.extended_l2) {
      save(directory / "images" / (seed.name + "_packed"), packed(file.bytes()), {});
    }
  }
  return 0;
}
