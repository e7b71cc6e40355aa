// Internal snapshots read through snapshot-access while the disk is written, and gets, loses and
// goes back to others, and another backing file when nobody reads: any order of all that, judged by
// what the disk held when each was made.
#include <gtest/gtest.h>

#include "block/graph/internal_snapshots.h"
#include "block/graph/reopen.h"
#include "tests/filters/filters_fixture.h"
#include "tests/jobs/golden_disk.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/coverage.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::FilterWorld;
using test::GoldenDisk;
using test::kKiB;

constexpr uint64_t kSector = GoldenDisk::kSector;
constexpr uint64_t kSize = 512 * kKiB;

class Scenario {
 public:
  Scenario(uint64_t seed, Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        coverage_(coverage),
        now_(kSize / kSector),
        gate_(world_.env.executor()) {}

  void go() {
    make_disk();
    world_.env.run(scenario());
    world_.drop_guests();
    for (const Instant& instant : instants_) {
      if (instant.access != nullptr) world_.drop(*instant.access);
    }
    world_.drop(*disk_);
    check_image();
  }

 private:
  struct Instant {
    std::string id;
    std::vector<uint64_t> sectors;
    Node* access = nullptr;
    Backend* reader = nullptr;
    bool gone = false;
  };

  // Two backing files that are alike, of which the disk has one or the other. They may be shorter.
  void make_backing_files() {
    sim::SparseBytes content(chance_.percent(70) ? kSize : kSize / 2 + kSector);
    for (uint64_t at = 0; at + 8 * kSector <= content.size(); at += 8 * kSector) {
      if (chance_.percent(30)) continue;
      Buffer buffer(8 * kSector);
      GoldenDisk::fill(buffer.span(), ++numbers_);
      content.write(at, buffer.span());
      std::fill_n(now_.begin() + static_cast<std::ptrdiff_t>(at / kSector), 8, numbers_);
    }
    for (const char* name : {"b0", "b1"}) world_.file(name, content);
  }

  void make_disk() {
    make_backing_files();
    qcow2::CreateOptions create;
    create.size = kSize;
    create.cluster_size = uint32_t{512} << chance_.below(8);
    create.extended_l2 = create.cluster_size >= 16 * kKiB && chance_.percent(40);
    const auto made = world_.env.run(qcow2::test::create_image(world_.env, "d", create));
    ASSERT_TRUE(made.has_value()) << made.error().description;
    disk_ = &world_.open(definition("disk"));
    guest_ = &world_.guest(*disk_);
  }

  json::Object definition(const char* node) const {
    json::Object options = FilterWorld::options("qcow2", node);
    options.set("discard", "unmap");
    options.set("file", json::Object{{"driver", "file"}, {"filename", "d"}});
    options.set("backing", backing_);
    // Few enough that pieces of tables come and go.
    options.set("l2-cache-size", 16384);
    options.set("l2-cache-entry-size", 512);
    return options;
  }

  Task<void> scenario() {
    for (int i = 0; i < 2; ++i) gate_.spawn(write_for_a_while());
    for (int i = 0; i < 2; ++i) gate_.spawn(read_for_a_while());
    gate_.spawn(manage());
    co_await gate_.close();
  }

  Task<void> write_for_a_while() {
    for (int64_t turns = chance_.between(20, 60); turns > 0; --turns) {
      co_await world_.env.delay(chance_.between(0, 200'000));
      const uint64_t first = chance_.below(now_.size());
      const uint64_t count = 1 + chance_.below(std::min<uint64_t>(200, now_.size() - first));
      if (paused_ || busy(first, count)) continue;
      ++writing_;
      const uint64_t number = chance_.percent(75) ? ++numbers_ : 0;
      std::fill_n(now_.begin() + static_cast<std::ptrdiff_t>(first), count, kBusy);
      Result<void> done;
      if (number != 0) {
        Buffer buffer(count * kSector);
        GoldenDisk::fill(buffer.span(), number);
        done = co_await guest_->write(first * kSector, buffer.io());
      } else {
        done = co_await guest_->zero(first * kSector, count * kSector,
                                     RequestFlags().with_may_unmap(chance_.percent(50)));
      }
      EXPECT_TRUE(done.has_value());
      std::fill_n(now_.begin() + static_cast<std::ptrdiff_t>(first), count, number);
      --writing_;
    }
  }
  bool busy(uint64_t first, uint64_t count) const {
    const auto begin = now_.begin() + static_cast<std::ptrdiff_t>(first);
    return std::find(begin, begin + static_cast<std::ptrdiff_t>(count), kBusy) !=
           begin + static_cast<std::ptrdiff_t>(count);
  }

  Task<void> read_for_a_while() {
    for (int64_t turns = chance_.between(30, 100); turns > 0; --turns) {
      co_await world_.env.delay(chance_.between(0, 150'000));
      if (instants_.empty()) continue;
      const std::size_t which = chance_.below(instants_.size());
      if (instants_[which].reader == nullptr) continue;
      const uint64_t first = chance_.below(now_.size());
      const uint64_t count = 1 + chance_.below(std::min<uint64_t>(300, now_.size() - first));
      co_await read(which, first, count);
    }
  }

  Task<void> read(std::size_t which, uint64_t first, uint64_t count) {
    Backend& reader = *instants_[which].reader;
    std::vector<std::byte> bytes(count * kSector);
    const auto done = co_await reader.read(first * kSector, IoVector(bytes.data(), bytes.size()));
    EXPECT_TRUE(done.has_value());
    const auto status = co_await reader.node()->block_status(first * kSector, count * kSector);
    EXPECT_TRUE(status.has_value());
    if (!done || !status) co_return;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t was = instants_[which].sectors[first + i];
      EXPECT_EQ(GoldenDisk::shown(bytes.data() + i * kSector), was) << "sector " << first + i;
      if (status->zero && i * kSector < status->length)
        EXPECT_EQ(was, 0u) << "data is called zeroes";
      coverage_.hit_if(now_[first + i] != was, "the past was read");
    }
    coverage_.hit_if(writing_ > 0, "a read beside a write");
  }

  // Everybody who changes the graph, one after the other.
  Task<void> manage() {
    for (int64_t turns = chance_.between(4, 14); turns > 0; --turns) {
      co_await world_.env.delay(chance_.between(0, 600'000));
      MutexGuard lock = co_await world_.graph->lock();
      switch (chance_.below(8)) {
        case 0:
        case 1:
          co_await make();
          break;
        case 2:
        case 3:
          co_await open_one();
          break;
        case 4:
          co_await remove_one();
          break;
        case 5:
          co_await go_back();
          break;
        case 6:
          co_await change_backing();
          break;
        case 7:
          co_await write_below();
          break;
      }
    }
  }

  // The model is exact when no write is under way; readers go on.
  Task<void> pause_writers() {
    paused_ = true;
    while (writing_ > 0) co_await world_.env.delay(10'000);
  }

  Task<void> make() {
    if (instants_.size() > 6) co_return;
    co_await pause_writers();
    InternalSnapshot snapshot;
    snapshot.name = "s";
    const auto made = co_await snapshots().create(snapshot);
    EXPECT_TRUE(made.has_value());
    instants_.push_back({snapshot.id, now_});
    paused_ = false;
  }

  Task<void> open_one() {
    for (Instant& instant : instants_) {
      if (instant.gone || instant.access != nullptr) continue;
      json::Object options = FilterWorld::options("snapshot-access", "a" + instant.id);
      options.set("file", "disk");
      json::Object choice;
      choice.set("id", instant.id);
      options.set("internal-snapshot", std::move(choice));
      Graph::OpenRequest request;
      request.options = std::move(options);
      auto opened = co_await world_.graph->open(std::move(request));
      EXPECT_TRUE(opened.has_value());
      if (!opened) co_return;
      world_.graph->give_to_monitor(**opened);
      instant.access = opened->get();
      instant.reader = &world_.guest(*instant.access);
      co_return;
    }
  }

  Task<void> remove_one() {
    if (instants_.empty()) co_return;
    Instant& instant = instants_[chance_.below(instants_.size())];
    if (instant.gone) co_return;
    const auto removed = co_await snapshots().remove(instant.id);
    if (instant.access == nullptr) {
      EXPECT_TRUE(removed.has_value());
      instant.gone = true;
      coverage_.hit("a snapshot was deleted");
      co_return;
    }
    EXPECT_FALSE(removed.has_value());
    if (!removed) {
      EXPECT_EQ(removed.error().description,
                "Snapshot 's' is being read by node 'a" + instant.id + "'");
      coverage_.hit("a snapshot that is read was not deleted");
    }
  }

  Task<void> go_back() {
    if (instants_.empty()) co_return;
    const std::size_t which = chance_.below(instants_.size());
    if (instants_[which].gone) co_return;
    co_await pause_writers();
    const auto applied = co_await snapshots().apply(instants_[which].id);
    EXPECT_TRUE(applied.has_value());
    now_ = instants_[which].sectors;
    paused_ = false;
    coverage_.hit("the disk went back");
  }

  bool is_read() const {
    return std::ranges::any_of(instants_, [](const Instant& i) { return i.access != nullptr; });
  }

  Task<void> change_backing() {
    const char* const before = std::exchange(backing_, backing_[1] == '0' ? "b1" : "b0");
    std::vector<ReopenRequest> requests;
    requests.emplace_back(NodeRef(*disk_), definition("disk"), /*keep_others=*/false);
    const auto done = co_await reopen(*world_.graph, std::move(requests));
    EXPECT_EQ(done.has_value(), !is_read());
    if (done) {
      coverage_.hit("the disk got another backing file");
      co_return;
    }
    backing_ = before;
    EXPECT_EQ(done.error().description,
              std::string("Cannot change frozen 'backing' link from 'disk' to '") + before + "'");
    coverage_.hit("the backing file stayed");
  }

  Task<void> write_below() {
    Backend writer(*world_.graph, "", {Permission::kWrite, Permissions::all()});
    EXPECT_EQ(writer.insert(*disk_->backing_node()).has_value(), !is_read());
    co_await writer.remove();
  }

  InternalSnapshots& snapshots() { return *disk_->driver().internal_snapshots(); }

  // What the guest made of the disk is in its image.
  void check_image() {
    Backend& judge = world_.guest(world_.open(definition("again")));
    const auto bytes = world_.read(judge, 0, kSize);
    ASSERT_TRUE(bytes.has_value());
    for (uint64_t i = 0; i < now_.size(); ++i) {
      ASSERT_EQ(GoldenDisk::shown(bytes->data() + i * kSector), now_[i]) << "sector " << i;
    }
  }

  static constexpr uint64_t kBusy = UINT64_MAX;

  FilterWorld world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  Node* disk_ = nullptr;
  const char* backing_ = "b0";
  Backend* guest_ = nullptr;
  std::vector<uint64_t> now_;
  std::vector<Instant> instants_;
  uint64_t numbers_ = 0;
  int writing_ = 0;
  bool paused_ = false;
  Gate gate_;
};

TEST(InternalSnapshotAccess, EachShowsTheDiskOfItsInstant) {
  Coverage coverage({"the past was read", "a read beside a write", "a snapshot was deleted",
                     "a snapshot that is read was not deleted", "the disk went back",
                     "the disk got another backing file", "the backing file stayed"});
  test::for_each_seed_covering(coverage, 200,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
