// An image format in memory for tests of jobs: clusters that are allocated or show the backing
// file, zero clusters, and requests that take a time of the seed. It goes by the name of a real
// format with a backing file ("qed").
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "block/graph/driver.h"
#include "block/graph/graph.h"
#include "block/graph/reopen.h"
#include "block/sim/sim_env.h"
#include "schema/blockdev_options.h"

namespace blockbed::test {

struct LayerImage {
  static constexpr uint64_t kCluster = 65536;

  explicit LayerImage(uint64_t size)
      : bytes(size), allocated((size + kCluster - 1) / kCluster), zero(allocated.size()) {}

  std::vector<std::byte> bytes;
  std::vector<bool> allocated;
  std::vector<bool> zero;
};

class LayerDriver final : public Driver {
 public:
  LayerDriver(Node& node, sim::SimEnv& env, LayerImage& image)
      : Driver(node), env_(env), image_(image) {}

  std::string_view name() const override { return "qed"; }
  bool supports_backing() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags) override {
    co_await delay();
    for (uint64_t done = 0; done < buffers.size();) {
      const uint64_t at = offset + done;
      const uint64_t piece = in_cluster(at, buffers.size() - done);
      IoVector part = buffers.slice(done, piece);
      const uint64_t cluster = at / LayerImage::kCluster;
      Edge* backing = node().cow_edge();
      if (image_.allocated[cluster] && !image_.zero[cluster]) {
        part.copy_from(image_.bytes.data() + at);
      } else if (image_.allocated[cluster] || backing == nullptr) {
        part.fill(0);
      } else {
        BB_CO_TRY(co_await backing->read(at, part));
      }
      done += piece;
    }
    co_return Result<void>();
  }

  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags) override {
    co_await delay();
    for (uint64_t done = 0; done < buffers.size();) {
      const uint64_t at = offset + done;
      const uint64_t piece = in_cluster(at, buffers.size() - done);
      BB_CO_TRY(co_await allocate(at / LayerImage::kCluster));
      buffers.slice(done, piece).copy_to(image_.bytes.data() + at);
      done += piece;
    }
    co_return Result<void>();
  }

  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags) override {
    co_await delay();
    for (uint64_t at = offset; at < offset + length;) {
      const uint64_t piece = in_cluster(at, offset + length - at);
      const uint64_t cluster = at / LayerImage::kCluster;
      if (piece == LayerImage::kCluster) {
        image_.allocated[cluster] = image_.zero[cluster] = true;
      } else {
        BB_CO_TRY(co_await allocate(cluster));
        std::memset(image_.bytes.data() + at, 0, piece);
      }
      at += piece;
    }
    co_return Result<void>();
  }

  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool) override {
    co_await delay();
    const uint64_t cluster = offset / LayerImage::kCluster;
    uint64_t end = offset;
    for (uint64_t c = cluster; c < image_.allocated.size() && end < offset + length; ++c) {
      if (image_.allocated[c] != image_.allocated[cluster] ||
          image_.zero[c] != image_.zero[cluster])
        break;
      end = std::min<uint64_t>((c + 1) * LayerImage::kCluster, image_.bytes.size());
    }
    BlockStatus status;
    status.length = std::min(end, offset + length) - offset;
    status.allocated = image_.allocated[cluster];
    status.zero = image_.zero[cluster] || (!status.allocated && node().cow_edge() == nullptr);
    status.data = status.allocated && !status.zero;
    co_return status;
  }

  DriverInfo info() const override {
    DriverInfo info;
    info.cluster_size = LayerImage::kCluster;
    return info;
  }
  Task<Result<uint64_t>> length() override { co_return image_.bytes.size(); }
  bool can_reopen() const override { return true; }
  Task<void> close() override { co_return; }

 private:
  static uint64_t in_cluster(uint64_t at, uint64_t length) {
    return std::min(length, LayerImage::kCluster - at % LayerImage::kCluster);
  }

  // One allocation at a time, as a format's metadata lock has it.
  Task<Result<void>> allocate(uint64_t cluster) {
    MutexGuard guard = co_await lock_.lock();
    if (image_.allocated[cluster] && !image_.zero[cluster]) co_return Result<void>();
    const uint64_t begin = cluster * LayerImage::kCluster;
    const uint64_t length = std::min<uint64_t>(LayerImage::kCluster, image_.bytes.size() - begin);
    Edge* backing = node().cow_edge();
    if (!image_.allocated[cluster] && backing != nullptr) {
      Buffer old(length);
      BB_CO_TRY(co_await backing->read(begin, old.io()));
      std::memcpy(image_.bytes.data() + begin, old.data(), length);
    } else {
      std::memset(image_.bytes.data() + begin, 0, length);
    }
    image_.allocated[cluster] = true;
    image_.zero[cluster] = false;
    co_return Result<void>();
  }

  Task<void> delay() {
    if (env_.chance().percent(60)) co_await env_.delay(env_.chance().between(1'000, 150'000));
  }

  sim::SimEnv& env_;
  LayerImage& image_;
  Mutex lock_{env_.executor()};
};

inline DriverEntry layer_entry(sim::SimEnv& env, LayerImage& image) {
  DriverEntry entry;
  entry.name = "qed";
  entry.open = [&env, &image](
                   OpenContext& context,
                   const schema::BlockdevOptions&) -> Task<Expected<std::unique_ptr<Driver>>> {
    auto file = co_await context.open_child("file", kImageRoles);
    if (!file) co_return fail(std::move(file).error());
    co_return std::make_unique<LayerDriver>(context.node(), env, image);
  };
  return entry;
}

}  // namespace blockbed::test
