// Power cuts at every operation of the storage while snapshots are made, applied and deleted:
// afterwards a snapshot is there as a whole or not at all, what was flushed is there, and nothing
// but leaks is left.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/formats/qcow2/amend.h"
#include "block/formats/qcow2/repair.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/references_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kUnit = 512;

using Bytes = std::vector<std::byte>;
// One number a sector.
using Sectors = std::vector<uint64_t>;

struct SnapshotModel {
  std::string id;
  Sectors disk;
  Bytes vm_state;
  bool operator==(const SnapshotModel&) const = default;
};

// What the image is when a step has ended.
struct Moment {
  uint64_t operation = 0;
  Sectors disk;
  // Older values that a crash may still bring back.
  std::vector<Sectors> maybe;
  std::vector<SnapshotModel> snapshots;
  // The step changed the disk as a whole or not at all.
  bool whole = false;

  void durable() { maybe.assign(disk.size(), {}); }
  bool allows(std::size_t sector, uint64_t value) const {
    return disk[sector] == value || std::ranges::count(maybe[sector], value) > 0;
  }
};

struct Workload {
  CreateOptions create;
  int steps = 14;
  bool resize = false;
  // Counts are put off, and made good before anything else is judged.
  bool lazy = false;
  std::size_t pieces = 4;
  // What shows through where the image has nothing.
  Bytes backing;
  // The step behind which the image becomes one of version 2; none when it is negative.
  int downgrade_after = -1;
};

void fill(Bytes& data, uint64_t value) {
  for (std::size_t at = 0; at + 8 <= data.size(); at += 8) {
    std::memcpy(data.data() + at, &value, 8);
  }
}

Task<Sectors> read_disk(Image& image, std::string where) {
  Bytes bytes(image.length());
  auto read = co_await image.read(0, IoVector(bytes.data(), bytes.size()));
  EXPECT_TRUE(read) << where;
  Sectors sectors(bytes.size() / kUnit);
  for (std::size_t s = 0; s < sectors.size(); ++s) {
    std::memcpy(&sectors[s], bytes.data() + s * kUnit, 8);
    for (uint64_t at = 8; at < kUnit; at += 8) {
      if (std::memcmp(bytes.data() + s * kUnit + at, &sectors[s], 8) != 0) {
        ADD_FAILURE() << where << ": torn sector " << s;
        co_return sectors;
      }
    }
  }
  co_return sectors;
}

class SnapshotRun {
 public:
  SnapshotRun(sim::SimEnv& env, const Workload& workload) : env_(env), workload_(workload) {}

  Task<void> prepare() {
    auto made = co_await create_image(env_, "disk", workload_.create);
    EXPECT_TRUE(made) << made.error().description;
    Moment start;
    start.disk.assign(workload_.create.size / kUnit, 0);
    for (std::size_t s = 0; s < workload_.backing.size() / kUnit; ++s) {
      std::memcpy(&start.disk[s], workload_.backing.data() + s * kUnit, 8);
    }
    start.durable();
    moments_.push_back(std::move(start));
  }

  Task<void> work() {
    MetadataOptions options = writable_options();
    options.l2_pieces = workload_.pieces;
    options.refcount_pieces = workload_.pieces;
    options.lazy_refcounts = workload_.lazy;
    auto opened = co_await open_image(env_, "disk", options, workload_.backing);
    EXPECT_TRUE(opened);
    if (!opened) co_return;
    Image& image = *(*opened)->image;
    for (int i = 0; i < workload_.steps; ++i) {
      Moment next = moments_.back();
      next.whole = false;
      co_await step(image, *(*opened)->storage, next, static_cast<uint64_t>(i) + 1);
      next.operation = env_.storage().operations();
      moments_.push_back(std::move(next));
      if (i == workload_.downgrade_after) co_await downgrade(image);
      if (::testing::Test::HasFailure()) break;
    }
    EXPECT_TRUE(co_await (*opened)->close());
    moments_.back().durable();
    moments_.back().operation = env_.storage().operations();
  }

  // The state after a crash, in an Env of its own.
  void judge(const sim::StorageImage& left, uint64_t crash, const std::string& where) {
    run_after_crash(left, [&](sim::SimEnv& env) { return look(env, crash, where); });
  }

 private:
  Task<void> step(Image& image, FileStorage& storage, Moment& next, uint64_t number) {
    sim::SimRandom& r = env_.chance();
    const uint64_t cluster = image.geometry().cluster_size;
    const uint64_t size = image.length();
    const uint64_t offset = r.next() % (size / kUnit) * kUnit;
    const uint64_t length = std::min(size - offset, (r.next() % (3 * cluster / kUnit) + 1) * kUnit);
    auto put = [&next](uint64_t from, uint64_t bytes, uint64_t value) {
      for (uint64_t s = from / kUnit; s < (from + bytes) / kUnit; ++s) {
        next.maybe[s].push_back(next.disk[s]);
        next.disk[s] = value;
      }
    };
    switch (r.next() % (workload_.resize ? 11 : 10)) {
      case 0:
      case 1: {
        co_await make(image, next, number, r);
        break;
      }
      case 2:
      case 3: {
        if (next.snapshots.empty()) break;
        const std::size_t which = r.next() % next.snapshots.size();
        auto done = co_await image.apply_snapshot(which);
        EXPECT_TRUE(done) << done.error().description;
        next.disk = next.snapshots[which].disk;
        next.durable();
        next.whole = true;
        break;
      }
      case 4: {
        if (next.snapshots.empty()) break;
        const std::size_t which = r.next() % next.snapshots.size();
        auto done = co_await image.delete_snapshot(which);
        EXPECT_TRUE(done) << done.error().description;
        next.snapshots.erase(next.snapshots.begin() + static_cast<std::ptrdiff_t>(which));
        next.durable();
        break;
      }
      case 5: {
        EXPECT_TRUE(co_await image.flush());
        EXPECT_TRUE(co_await storage.flush());
        next.durable();
        break;
      }
      case 6: {
        const uint64_t from = align_down(offset, cluster);
        const uint64_t bytes = std::min(cluster, size - from);
        Bytes data(bytes);
        fill(data, number);
        EXPECT_TRUE(co_await image.write_compressed(from, IoVector(data.data(), bytes)));
        put(from, bytes, number);
        break;
      }
      case 7: {
        if (image.geometry().version < 3) break;
        RequestFlags flags;
        flags.may_unmap = r.next() % 2 == 0;
        EXPECT_TRUE(co_await image.zero(offset, length, flags));
        put(offset, length, 0);
        break;
      }
      case 10: {
        auto done = co_await image.truncate(size + 5 * cluster, TruncateOptions());
        EXPECT_TRUE(done) << done.error().description;
        next.disk.resize(image.length() / kUnit, 0);
        next.durable();
        next.whole = true;
        break;
      }
      default: {
        Bytes data(length);
        fill(data, number);
        EXPECT_TRUE(co_await image.write(offset, IoVector(data.data(), length)));
        put(offset, length, number);
      }
    }
  }

  Task<void> downgrade(Image& image) {
    AmendOptions options;
    options.version = 2;
    auto done = co_await amend(image, std::move(options));
    EXPECT_TRUE(done) << done.error().description;
    Moment next = moments_.back();
    next.durable();
    next.operation = env_.storage().operations();
    moments_.push_back(std::move(next));
  }

  Task<void> make(Image& image, Moment& next, uint64_t number, sim::SimRandom& r) {
    SnapshotModel model;
    model.disk = next.disk;
    Snapshot snapshot;
    snapshot.name = fmt::format("s{}", number);
    if (r.next() % 2 == 0) {
      model.vm_state.resize(r.next() % (3 * image.geometry().cluster_size) + 1);
      for (std::size_t i = 0; i < model.vm_state.size(); ++i) {
        model.vm_state[i] = static_cast<std::byte>(number + i / 100);
      }
      auto written =
          co_await image.write_vm_state(0, IoVector(model.vm_state.data(), model.vm_state.size()));
      EXPECT_TRUE(written);
      snapshot.vm_state_size = model.vm_state.size();
    }
    auto made = co_await image.create_snapshot(snapshot);
    EXPECT_TRUE(made);
    if (!made) co_return;
    model.id = *made;
    next.snapshots.push_back(std::move(model));
    next.durable();
  }

  Task<void> walk(Env& env, std::string where, bool on_leaks) {
    auto file = co_await env.open_file("disk", FileOpenOptions());
    if (!file) co_return;
    FileStorage storage(**file);
    auto header = co_await read_header(storage, false);
    EXPECT_TRUE(header) << where;
    if (header) {
      const References found = co_await walk_references(storage, *header, on_leaks);
      EXPECT_EQ(found.fault, "") << where;
    }
    (void)co_await (*file)->close();
  }

  // What opening it for writing does first.
  Task<void> make_good(Env& env, std::string where) {
    FileOpenOptions how;
    how.write = true;
    auto file = co_await env.open_file("disk", how);
    if (!file) co_return;
    FileStorage storage(**file);
    auto header = co_await read_header(storage, true);
    EXPECT_TRUE(header) << where;
    if (header && header->has(incompatible::kDirty)) {
      EXPECT_TRUE(co_await repair_counts(storage, *header)) << where;
    }
    (void)co_await (*file)->close();
  }

  // The first moment that has not ended at the crash, and the one before.
  Task<void> look(sim::SimEnv& env, uint64_t crash, std::string where) {
    if (workload_.lazy) co_await make_good(env, where);
    co_await walk(env, where, false);
    if (::testing::Test::HasFailure()) co_return;
    std::size_t after = 1;
    while (after + 1 < moments_.size() && moments_[after].operation <= crash) ++after;
    const Moment& old_state = moments_[after - 1];
    const Moment& new_state = moments_[after];

    auto opened = co_await open_image(env, "disk", writable_options(), workload_.backing);
    EXPECT_TRUE(opened) << where;
    if (!opened) co_return;
    Image& image = *(*opened)->image;
    const Sectors disk = co_await read_disk(image, where);
    if (!(new_state.whole && disk == new_state.disk)) {
      EXPECT_EQ(disk.size(), old_state.disk.size()) << where;
      if (disk.size() != old_state.disk.size()) co_return;
      for (std::size_t s = 0; s < disk.size(); ++s) {
        const bool allowed =
            old_state.allows(s, disk[s]) || (!new_state.whole && new_state.allows(s, disk[s]));
        EXPECT_TRUE(allowed) << where << ": sector " << s << " holds " << disk[s];
        if (!allowed) co_return;
      }
    }
    const Moment* listed =
        image.snapshots().size() == new_state.snapshots.size() ? &new_state : &old_state;
    EXPECT_EQ(image.snapshots().size(), listed->snapshots.size()) << where;
    if (::testing::Test::HasFailure()) co_return;
    co_await try_snapshots(image, *listed, where);
    EXPECT_TRUE(co_await (*opened)->close()) << where;
    co_await walk(env, where + ", after its snapshots were tried", true);
  }

  // Each is applied, and deleted.
  Task<void> try_snapshots(Image& image, const Moment& moment, std::string where) {
    for (std::size_t i = 0; i < moment.snapshots.size(); ++i) {
      const SnapshotModel& model = moment.snapshots[i];
      EXPECT_EQ(image.snapshots()[i].id, model.id) << where;
      auto applied = co_await image.apply_snapshot(i);
      EXPECT_TRUE(applied) << where;
      if (!applied) co_return;
      const Sectors disk = co_await read_disk(image, where);
      EXPECT_TRUE(disk == model.disk) << where << ": snapshot " << model.id;
      Bytes vm_state(model.vm_state.size());
      if (!vm_state.empty()) {
        EXPECT_TRUE(co_await image.read_vm_state(0, IoVector(vm_state.data(), vm_state.size())));
        EXPECT_TRUE(vm_state == model.vm_state) << where << ": VM state of " << model.id;
      }
      EXPECT_EQ(image.snapshots()[i].vm_state_size, model.vm_state.size()) << where;
    }
    while (!image.snapshots().empty()) {
      auto gone = co_await image.delete_snapshot(image.snapshots().size() / 2);
      EXPECT_TRUE(gone) << where;
      if (!gone) co_return;
    }
    if (!moment.snapshots.empty()) {
      const Sectors disk = co_await read_disk(image, where);
      EXPECT_TRUE(disk == moment.snapshots.back().disk) << where;
    }
    Bytes data(kUnit);
    EXPECT_TRUE(co_await image.write(0, IoVector(data.data(), data.size())));
  }

  sim::SimEnv& env_;
  Workload workload_;
  std::vector<Moment> moments_;
};

void visit(uint64_t seed, const Workload& workload, int subsets) {
  sim::SimEnv env(seed);
  SnapshotRun run(env, workload);
  env.run(run.prepare());
  env.storage().record();
  const uint64_t base = env.storage().operations();
  env.run(run.work());
  if (::testing::Test::HasFailure()) return;
  judge_crashes(env.storage(), base, seed, subsets,
                [&](const sim::StorageImage& left, uint64_t operation, const std::string& where) {
                  run.judge(left, operation, where);
                });
}

Workload small(uint64_t cluster) {
  Workload workload;
  workload.create.cluster_size = cluster;
  workload.create.size = 40 * cluster;
  return workload;
}

TEST(Qcow2SnapshotCrash, Clusters512) {
  sim::for_each_seed(16, [](uint64_t seed) {
    Workload w = small(512);
    // Two L2 tables and more.
    w.create.size = 150 * 512;
    visit(seed, w, 2);
  });
}

TEST(Qcow2SnapshotCrash, Clusters4096) {
  sim::for_each_seed(8, [](uint64_t seed) { visit(seed, small(4096), 1); });
}

TEST(Qcow2SnapshotCrash, DisksOfAnotherSize) {
  sim::for_each_seed(12, [](uint64_t seed) {
    Workload w = small(512);
    w.create.size = 60 * 512;
    w.resize = true;
    w.steps = 18;
    visit(seed, w, 1);
  });
}

TEST(Qcow2SnapshotCrash, NarrowCounts) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small(512);
    w.create.refcount_bits = 4;
    w.steps = 10;
    visit(seed, w, 1);
  });
}

TEST(Qcow2SnapshotCrash, WideCounts) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small(512);
    w.create.refcount_bits = 64;
    visit(seed, w, 1);
  });
}

TEST(Qcow2SnapshotCrash, Version2) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small(1024);
    w.create.version = 2;
    visit(seed, w, 1);
  });
}

TEST(Qcow2SnapshotCrash, BecomesVersion2) {
  sim::for_each_seed(12, [](uint64_t seed) {
    Workload w = small(512);
    w.create.size = 150 * 512;
    w.backing.resize(100 * 512);
    fill(w.backing, 1000);
    w.downgrade_after = 10;
    visit(seed, w, 1);
  });
}

TEST(Qcow2SnapshotCrash, LazyCounts) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small(512);
    w.create.lazy_refcounts = true;
    w.lazy = true;
    visit(seed, w, 1);
  });
}

TEST(Qcow2SnapshotCrash, Subclusters) {
  sim::for_each_seed(4, [](uint64_t seed) {
    Workload w = small(16384);
    w.create.extended_l2 = true;
    w.create.size = 12 * 16384;
    w.steps = 10;
    visit(seed, w, 1);
  });
}

}  // namespace
}  // namespace blockbed::qcow2::test
