#include "tests/qcow2/crash_workload_fixture.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <deque>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/repair.h"
#include "block/runtime/gate.h"
#include "tests/qcow2/crash_walk_fixture.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kUnit = 512;
constexpr uint64_t kFilled = 1'000'000;
// Of the backing file.
constexpr uint64_t kBacked = 2'000'000;

// What each sector of the disk may hold after a crash: every write is one number that fills its
// sectors.
class History {
 public:
  History(uint64_t sectors, uint64_t backed) : backed_(backed), sectors_(sectors) {}

  // Two clocks: the storage's operations say what a crash cuts off; ticks order what the test saw,
  // also between two operations.
  struct Write {
    uint64_t begin_operation;
    uint64_t begin;
    uint64_t end = UINT64_MAX;
    uint64_t value;
  };

  uint64_t tick() { return ++ticks_; }
  std::vector<Write*> begin(uint64_t offset, uint64_t length, uint64_t value, uint64_t operation) {
    std::vector<Write*> made;
    const uint64_t now = tick();
    for (uint64_t s = offset / kUnit; s < (offset + length) / kUnit; ++s) {
      sectors_[s].push_back(Write{operation, now, UINT64_MAX, value});
      made.push_back(&sectors_[s].back());
    }
    return made;
  }
  void flushed(uint64_t begin, uint64_t end_operation) {
    flushes_.push_back({begin, end_operation});
  }

  bool allowed(uint64_t sector, uint64_t value, uint64_t crash) const {
    uint64_t durable = 0;
    for (const Flush& flush : flushes_) {
      if (flush.end_operation <= crash) durable = std::max(durable, flush.begin);
    }
    // Newer than it, and covered by the flush.
    auto superseded = [&](uint64_t end) {
      for (const Write& other : sectors_[sector]) {
        if (other.begin > end && other.end < durable) return true;
      }
      return false;
    };
    if (value == (sector < backed_ ? kBacked : 0) && !superseded(0)) return true;
    for (const Write& write : sectors_[sector]) {
      if (write.value == value && write.begin_operation <= crash && !superseded(write.end)) {
        return true;
      }
    }
    return false;
  }

 private:
  struct Flush {
    uint64_t begin;
    uint64_t end_operation;
  };
  uint64_t ticks_ = 0;
  // The first sectors show the backing file.
  uint64_t backed_;
  std::vector<std::deque<Write>> sectors_;
  std::vector<Flush> flushes_;
};

void fill(std::vector<std::byte>& data, uint64_t value) {
  for (std::size_t at = 0; at + 8 <= data.size(); at += 8) {
    std::memcpy(data.data() + at, &value, 8);
  }
}

class Run {
 public:
  Run(sim::SimEnv& env, const Workload& workload)
      : env_(env),
        workload_(workload),
        history_(workload.create.size * 2 / kUnit, workload.backed / kUnit) {
    backing_.resize(workload.backed);
    fill(backing_, kBacked);
  }

  Task<void> prepare() {
    auto made = co_await create_image(env_, "disk", workload_.create, data_path());
    EXPECT_TRUE(made) << made.error().description;
    if (workload_.filled == 0) co_return;
    auto opened = co_await open_image(env_, "disk", writable_options(), backing_, data_path());
    EXPECT_TRUE(opened);
    if (!opened) co_return;
    std::vector<std::byte> data(workload_.filled);
    fill(data, kFilled);
    EXPECT_TRUE(co_await (*opened)->image->write(0, IoVector(data.data(), data.size())));
    EXPECT_TRUE(co_await (*opened)->close());
    for (History::Write* write : history_.begin(0, workload_.filled, kFilled, 0)) {
      write->end = history_.tick();
    }
    history_.flushed(history_.tick(), 0);
  }

  Task<void> work() {
    MetadataOptions options = writable_options();
    options.lazy_refcounts = workload_.lazy;
    options.l2_pieces = workload_.pieces;
    options.refcount_pieces = workload_.pieces;
    options.discard_request = true;
    options.discard_no_unref = workload_.keeps_clusters;
    options.reuse_bytes = workload_.reuse_clusters * workload_.create.cluster_size;
    auto opened = co_await open_image(env_, "disk", options, backing_, data_path());
    EXPECT_TRUE(opened);
    if (!opened) co_return;
    {
      Gate gate(env_.executor());
      Semaphore slots(env_.executor(), static_cast<std::size_t>(workload_.parallel));
      for (int i = 0; i < workload_.operations; ++i) {
        co_await slots.acquire();
        if (workload_.grow && i == workload_.operations / 2) {
          co_await slots.acquire(static_cast<std::size_t>(workload_.parallel) - 1);
          auto grown =
              co_await (*opened)->image->truncate(workload_.create.size * 2, TruncateOptions());
          EXPECT_TRUE(grown) << grown.error().description;
          slots.release(static_cast<std::size_t>(workload_.parallel) - 1);
        }
        if (workload_.shrink && i == workload_.operations * 3 / 4) {
          co_await slots.acquire(static_cast<std::size_t>(workload_.parallel) - 1);
          co_await shrink_and_grow(*(*opened)->image);
          slots.release(static_cast<std::size_t>(workload_.parallel) - 1);
        }
        gate.spawn(operation(**opened, slots, static_cast<uint64_t>(i) + 1));
      }
      co_await gate.close();
    }
    EXPECT_TRUE(co_await (*opened)->close());
    final_ = env_.storage().operations();
    history_.flushed(history_.tick(), final_);
  }

  Task<void> shrink_and_grow(Image& image) {
    const uint64_t size = image.length();
    const std::vector<History::Write*> gone =
        history_.begin(size / 2, size / 2, 0, env_.storage().operations());
    auto done = co_await image.truncate(size / 2, TruncateOptions());
    EXPECT_TRUE(done) << done.error().description;
    done = co_await image.truncate(size, TruncateOptions());
    EXPECT_TRUE(done) << done.error().description;
    const uint64_t end = history_.tick();
    for (History::Write* write : gone) write->end = end;
  }

  Task<void> operation(OpenedImage& opened, Semaphore& slots, uint64_t number) {
    Image& image = *opened.image;
    sim::SimRandom& r = env_.chance();
    const uint64_t cluster = image.geometry().cluster_size;
    const uint64_t size = image.length();
    uint64_t offset = r.next() % (size / kUnit) * kUnit;
    uint64_t length =
        std::min(size - offset, (r.next() % (workload_.longest * cluster / kUnit) + 1) * kUnit);
    const uint64_t now = env_.storage().operations();
    std::vector<History::Write*> writes;
    Result<void> done;
    switch (r.next() % 8) {
      case 0: {
        const uint64_t begin = history_.tick();
        done = co_await image.flush();
        if (done) done = co_await opened.storage->flush();
        if (done && opened.data_storage) done = co_await opened.data_storage->flush();
        if (done) history_.flushed(begin, env_.storage().operations());
        break;
      }
      case 1: {
        RequestFlags flags;
        flags.may_unmap = r.next() % 2 == 0;
        if (image.geometry().version < 3) break;
        writes = history_.begin(offset, length, 0, now);
        done = co_await image.zero(offset, length, flags);
        break;
      }
      case 2: {
        const uint64_t from = align_up(offset, cluster);
        const uint64_t to = offset + length == size ? size : align_down(offset + length, cluster);
        if (from < to) writes = history_.begin(from, to - from, 0, now);
        done = co_await image.discard(offset, length);
        if (!done && done.error().number() == ENOTSUP) {
          // Nothing has changed.
          writes.clear();
          done = Result<void>();
        }
        break;
      }
      case 3: {
        offset = align_down(offset, cluster);
        length = std::min(cluster, size - offset);
        std::vector<std::byte> data(length);
        fill(data, number);
        writes = history_.begin(offset, length, number, now);
        // There is no compressed data in a data file.
        IoVector whole(data.data(), length);
        done = image.geometry().external_data
                   ? co_await image.write(offset, std::move(whole))
                   : co_await image.write_compressed(offset, std::move(whole));
        break;
      }
      default: {
        std::vector<std::byte> data(length);
        fill(data, number);
        writes = history_.begin(offset, length, number, now);
        done = co_await image.write(offset, IoVector(data.data(), length));
      }
    }
    EXPECT_TRUE(done) << done.error().number();
    const uint64_t end = history_.tick();
    for (History::Write* write : writes) write->end = end;
    slots.release();
  }

  // The disk after a crash, in an Env of its own.
  void judge(const sim::StorageImage& left, uint64_t crash, const std::string& where, bool final) {
    run_after_crash(left, [&](sim::SimEnv& env) { return look(env, crash, where, final); });
  }

  uint64_t final_operation() const { return final_; }

 private:
  Task<void> look(sim::SimEnv& env, uint64_t crash, std::string where, bool final) {
    FileOpenOptions how;
    how.write = true;
    auto file = co_await env.open_file("disk", how);
    if (!file) co_return;
    {
      FileStorage storage(**file);
      auto header = co_await read_header(storage, true);
      EXPECT_TRUE(header) << where << ": " << (header ? "" : header.error().description);
      if (header) {
        const bool dirty = header->has(incompatible::kDirty);
        EXPECT_TRUE(workload_.lazy || !dirty) << where;
        if (dirty) {
          auto repaired = co_await repair_counts(storage, *header);
          EXPECT_TRUE(repaired) << where;
        }
        auto report = co_await check_image(storage, *header);
        EXPECT_TRUE(report) << where;
        if (report) {
          EXPECT_EQ(report->corruptions, 0u) << where << ": " << report->describe();
          if (final || dirty) EXPECT_TRUE(report->clean()) << where << ": " << report->describe();
        }
      }
    }
    (void)co_await (*file)->close();
    if (::testing::Test::HasFailure()) co_return;
    auto opened = co_await open_image(env, "disk", MetadataOptions(), backing_, data_path());
    EXPECT_TRUE(opened) << where;
    if (!opened) co_return;
    std::vector<std::byte> disk((*opened)->image->length());
    auto read = co_await (*opened)->image->read(0, IoVector(disk.data(), disk.size()));
    EXPECT_TRUE(read) << where;
    judge_sectors(disk, crash, where);
    if (workload_.create.data_file_raw) {
      // Who reads that file alone sees a disk as good.
      std::vector<std::byte> raw(disk.size());
      read = co_await (*opened)->data_storage->read(0, IoVector(raw.data(), raw.size()));
      EXPECT_TRUE(read) << where;
      judge_sectors(raw, crash, where + " in the data file");
      if (final && workload_.parallel == 1) EXPECT_TRUE(raw == disk) << where;
    }
    (void)co_await (*opened)->close();
    if ((workload_.create.data_file || !backing_.empty()) && !::testing::Test::HasFailure()) {
      co_await go_on(env, std::move(disk), where);
    }
  }

  void judge_sectors(const std::vector<std::byte>& disk, uint64_t crash, const std::string& where) {
    for (uint64_t s = 0; s < disk.size() / kUnit; ++s) {
      uint64_t value = 0;
      std::memcpy(&value, disk.data() + s * kUnit, 8);
      bool whole = true;
      for (uint64_t at = 0; at < kUnit; at += 8) {
        whole &= std::memcmp(disk.data() + s * kUnit + at, &value, 8) == 0;
      }
      EXPECT_TRUE(whole) << where << ": torn sector " << s;
      EXPECT_TRUE(history_.allowed(s, value, crash))
          << where << ": sector " << s << " holds " << value;
      if (::testing::Test::HasFailure()) break;
    }
  }

  // A cluster keeps its place in a data file, and the place may hold what is no part of the disk:
  // who writes to a part of it must not bring that back. Nor may what the backing file has be lost
  // beside what is written.
  Task<void> go_on(sim::SimEnv& env, std::vector<std::byte> disk, std::string where) {
    where += ", going on";
    auto opened = co_await open_image(env, "disk", writable_options(), backing_, data_path());
    EXPECT_TRUE(opened) << where;
    if (!opened) co_return;
    Image& image = *(*opened)->image;
    const uint64_t cluster = image.geometry().cluster_size;
    for (uint64_t at = 0; at < disk.size(); at += cluster) {
      // In the middle, where there is one.
      const uint64_t sector = at + cluster / kUnit / 2 * kUnit;
      if (sector + kUnit > disk.size()) break;
      std::memset(disk.data() + sector, 0x5a, kUnit);
      EXPECT_TRUE(co_await image.write(sector, IoVector(disk.data() + sector, kUnit))) << where;
    }
    std::vector<std::byte> now(disk.size());
    EXPECT_TRUE(co_await image.read(0, IoVector(now.data(), now.size()))) << where;
    EXPECT_TRUE(now == disk) << where;
    EXPECT_TRUE(co_await (*opened)->close()) << where;
    co_await expect_sound(env, "disk", false);
  }

  std::string data_path() const { return workload_.create.data_file ? "data" : ""; }

  sim::SimEnv& env_;
  Workload workload_;
  History history_;
  std::vector<std::byte> backing_;
  uint64_t final_ = 0;
};

}  // namespace

void visit_crashes(uint64_t seed, const Workload& workload, int subsets) {
  sim::SimEnv env(seed);
  Run run(env, workload);
  env.run(run.prepare());
  env.storage().record();
  const uint64_t base = env.storage().operations();
  env.run(run.work());
  judge_crashes(env.storage(), base, seed, subsets,
                [&](const sim::StorageImage& left, uint64_t operation, const std::string& where) {
                  run.judge(left, operation, where, false);
                });
  if (::testing::Test::HasFailure()) return;
  run.judge(env.storage().image(), UINT64_MAX - 1, fmt::format("seed {} at the end", seed), true);
}

Workload small_workload(uint64_t cluster) {
  Workload workload;
  workload.create.cluster_size = cluster;
  workload.create.size = 48 * cluster;
  return workload;
}

}  // namespace blockbed::qcow2::test
