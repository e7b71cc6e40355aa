// Fleecing under every fault that the simulator knows: guests write, readers read the instant
// through snapshot-access, and a golden model judges both.
#include <gtest/gtest.h>

#include "block/filters/copy_before_write.h"
#include "block/graph/dirty_bitmap_list.h"
#include "tests/filters/filters_fixture.h"
#include "tests/filters/fleecing_plan.h"
#include "tests/jobs/golden_disk.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/coverage.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::FilterWorld;
using test::FleecingPlan;
using test::GoldenDisk;

constexpr uint64_t kSector = GoldenDisk::kSector;
constexpr int64_t kSecond = 1'000'000'000;

class Scenario {
 public:
  Scenario(uint64_t seed, Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        coverage_(coverage),
        plan_(chance_),
        cluster_(plan_.cluster()),
        golden_(plan_.size),
        clusters_((plan_.size + cluster_ - 1) / cluster_),
        gate_(world_.env.executor()) {}

  void go() {
    make_disks();
    world_.env.run(scenario());
    coverage_.hit_if(filter_->snapshot_error().has_value(), "the snapshot broke");
    if (plan_.crash) return check_crash();
    for (const sim::SimStorage::RuleId fault : faults_) world_.env.storage().remove_fault(fault);
    check_guest(world_, /*crashed=*/false);
    check_instant();
    check_freed();
    check_images();
  }

 private:
  struct Cluster {
    bool selected = true;
    bool discard_began = false;
    bool discard_ended = false;
  };

  void make_disks() {
    world_.env.run(make_image(world_.env, "s", plan_.disk, plan_.size));
    const auto next = [this] { return golden_.next_number(); };
    const auto note = [this](uint64_t offset, uint64_t length, uint64_t number) {
      golden_.preset(offset, length, number);
    };
    const json::Object disk = definition_of("s", plan_.disk);
    world_.env.run(give_past(*world_.graph, chance_, disk, plan_.disk, plan_.size, next, note));
    Node& source = world_.open(disk);
    instant_ = golden_;
    world_.env.run(make_image(world_.env, "t", plan_.scratch, plan_.size));
    scratch_ = &world_.open(definition_of("t", plan_.scratch));
    coverage_.hit(plan_.disk.qcow2 ? "a qcow2 disk" : "a raw disk");
    coverage_.hit(plan_.scratch.qcow2 ? "qcow2 scratch space" : "raw scratch space");

    json::Object options = FilterWorld::options("copy-before-write", "c");
    options.set("file", "s");
    options.set("target", "t");
    if (plan_.breaks_snapshot) options.set("on-cbw-error", "break-snapshot");
    if (plan_.timeout > 0) options.set("cbw-timeout", plan_.timeout);
    if (plan_.bitmap) {
      auto bitmap = source.dirty_bitmaps().create("b", cluster_, plan_.size);
      ASSERT_TRUE(bitmap.has_value());
      for (uint64_t c = 0; c < clusters_.size(); ++c) {
        clusters_[c].selected = chance_.percent(60);
        if (clusters_[c].selected) (*bitmap)->set(c * cluster_, 1);
      }
      options.set("bitmap", json::Object{{"node", "s"}, {"name", "b"}});
    }
    Node& filter = world_.open(std::move(options));
    filter_ = &CopyBeforeWrite::of(filter);
    guest_ = &world_.guest(filter);
    json::Object access = FilterWorld::options("snapshot-access", "a");
    access.set("file", "c");
    access.set("discard", "unmap");
    reader_ = &world_.guest(world_.open(std::move(access)));
    add_faults();
  }

  void add_fault(const std::string& path, unsigned requests, int error, int64_t delay) {
    sim::FaultRule rule;
    rule.path = path;
    rule.requests = requests;
    rule.skip = chance_.below(6);
    rule.times = static_cast<uint64_t>(chance_.between(1, 4));
    rule.error = error;
    rule.delay = delay;
    faults_.push_back(world_.env.storage().add_fault(rule));
  }
  void add_faults() {
    if (plan_.source_errors) add_fault("s", sim::kSimRead, EIO, 0);
    if (plan_.target_errors) {
      add_fault("t", sim::kSimWrite | sim::kSimZero, chance_.percent(50) ? EIO : ENOSPC, 0);
    }
    if (plan_.slow_target) {
      add_fault("t", sim::kSimWrite | sim::kSimZero, 0, chance_.between(1, 5) * kSecond);
    }
    if (plan_.small_scratch) {
      const uint64_t used = world_.env.storage().content("t").allocated();
      world_.env.storage().set_capacity("t", used + chance_.below(clusters_.size() + 1) * cluster_);
    }
    if (plan_.crash) {
      // An image takes more requests than a file.
      const uint64_t most = plan_.disk.qcow2 || plan_.scratch.qcow2 ? 300 : 120;
      world_.env.storage().power_off_at(world_.env.storage().operations() + chance_.below(most));
    }
  }

  Task<void> scenario() {
    for (int64_t i = chance_.between(1, 3); i > 0; --i) gate_.spawn(write_for_a_while());
    for (int64_t i = chance_.between(1, 2); i > 0; --i) gate_.spawn(read_for_a_while());
    co_await gate_.close();
  }

  struct Range {
    uint64_t offset;
    uint64_t length;
  };
  Range some_range() {
    const uint64_t sectors = plan_.size / kSector;
    const uint64_t first = chance_.below(sectors);
    const uint64_t most = std::min<uint64_t>(chance_.percent(70) ? 24 : 400, sectors - first);
    return {first * kSector, (1 + chance_.below(most)) * kSector};
  }

  Task<void> write_for_a_while() {
    for (int64_t turns = chance_.between(5, 40); turns > 0; --turns) {
      co_await world_.env.delay(chance_.between(0, 300'000));
      co_await guest_request();
    }
  }

  Task<void> guest_request() {
    const uint64_t what = chance_.below(10);
    if (what == 9) {
      const uint64_t since = golden_.flush_begins();
      if (co_await guest_->flush()) golden_.flushed(since);
      co_return;
    }
    const Range at = some_range();
    if (golden_.busy(at.offset, at.length)) co_return;
    const uint64_t number = what < 7 ? golden_.next_number() : 0;
    golden_.begin(at.offset, at.length, number);
    const int64_t began = world_.env.now();
    Result<void> done;
    if (what < 7) {
      Buffer buffer(at.length);
      GoldenDisk::fill(buffer.span(), number);
      done = co_await guest_->write(at.offset, buffer.io());
    } else {
      done = co_await guest_->zero(at.offset, at.length);
    }
    golden_.end(at.offset, at.length, number, done.has_value());
    if (plan_.timeout > 0) {
      EXPECT_LE(world_.env.now() - began, plan_.timeout * kSecond + kSecond / 10)
          << "a guest waited for longer than cbw-timeout";
    }
    if (done || plan_.crash) co_return;
    if (plan_.guest_may_fail()) co_return;
    coverage_.hit(done.error().number() == ENOSPC      ? "a guest met the full scratch space"
                  : done.error().number() == ETIMEDOUT ? "a guest met the timeout"
                                                       : "a guest met an error");
    EXPECT_FALSE(plan_.breaks_snapshot) << "the guest is not to be harmed";
    EXPECT_TRUE(plan_.copies_may_fail());
  }

  Task<void> read_for_a_while() {
    for (int64_t turns = chance_.between(5, 60); turns > 0; --turns) {
      co_await world_.env.delay(chance_.between(0, 300'000));
      const uint64_t what = chance_.below(10);
      if (what == 0 && plan_.discards) {
        co_await discard_some();
      } else if (what < 3) {
        co_await ask_status();
      } else {
        co_await read_some();
      }
    }
  }

  template <class Test>
  bool any_cluster(Range at, const Test& test) const {
    for (uint64_t c = at.offset / cluster_; c <= (at.offset + at.length - 1) / cluster_; ++c) {
      if (test(clusters_[c])) return true;
    }
    return false;
  }
  bool must_refuse(Range at) const {
    return filter_->snapshot_error().has_value() || any_cluster(at, [](const Cluster& cluster) {
             return !cluster.selected || cluster.discard_ended;
           });
  }
  // Judged when it has ended; what was refused for no reason harms the reader.
  void check_refusal(Range at, Errno error) {
    if (error.number() != EACCES) {
      EXPECT_TRUE(plan_.reader_may_fail() || plan_.crash) << strerror_text(error);
      return;
    }
    coverage_.hit("a reader was refused");
    EXPECT_TRUE(must_refuse(at) ||
                any_cluster(at, [](const Cluster& cluster) { return cluster.discard_began; }))
        << "sectors " << at.offset / kSector << " were refused";
  }

  Task<void> read_some() {
    const Range at = some_range();
    const bool refuse = must_refuse(at);
    std::vector<std::byte> bytes(at.length);
    auto done = co_await reader_->read(at.offset, IoVector(bytes.data(), bytes.size()));
    if (!done) {
      check_refusal(at, done.error());
      co_return;
    }
    EXPECT_FALSE(refuse) << "nobody keeps this any more";
    coverage_.hit_if(filter_->snapshot_error().has_value(), "a read outlived the snapshot");
    // Who reads what it discards meanwhile gets anything.
    if (any_cluster(at, [](const Cluster& cluster) { return cluster.discard_began; })) co_return;
    check_bytes(at.offset, bytes);
  }

  void check_bytes(uint64_t offset, const std::vector<std::byte>& bytes) {
    for (uint64_t at = 0; at < bytes.size(); at += kSector) {
      const uint64_t sector = (offset + at) / kSector;
      ASSERT_TRUE(instant_->may_show(sector, bytes.data() + at))
          << "sector " << sector << " shows "
          << GoldenDisk::shown(bytes.data() + at).value_or(~0ull)
          << ", which was not there at the instant";
      coverage_.hit_if(!golden_.may_show(sector, bytes.data() + at), "the past was read");
    }
  }

  Task<void> ask_status() {
    const Range at = some_range();
    const bool refuse = must_refuse(at);
    auto status = co_await reader_->node()->block_status(at.offset, at.length);
    if (!status) {
      check_refusal(at, status.error());
      co_return;
    }
    EXPECT_FALSE(refuse);
    if (!status->zero) co_return;
    const std::vector<std::byte> zeroes(kSector);
    for (uint64_t done = 0; done < status->length; done += kSector) {
      if (clusters_[(at.offset + done) / cluster_].discard_began) continue;
      EXPECT_TRUE(instant_->may_show((at.offset + done) / kSector, zeroes.data()))
          << "data is called zeroes";
    }
  }

  Task<void> discard_some() {
    const Range at = some_range();
    const uint64_t first = (at.offset + cluster_ - 1) / cluster_;
    const uint64_t end = at.offset + at.length;
    const uint64_t last = end == plan_.size ? clusters_.size() : end / cluster_;
    for (uint64_t c = first; c < last; ++c) clusters_[c].discard_began = true;
    const auto done = co_await reader_->discard(at.offset, at.length);
    if (!done) {
      EXPECT_TRUE(filter_->snapshot_error() || plan_.reader_may_fail() || plan_.crash)
          << strerror_text(done.error());
      co_return;
    }
    coverage_.hit_if(first < last, "a reader gave space up");
    for (uint64_t c = first; c < last; ++c) clusters_[c].discard_ended = true;
  }

  void check_guest(FilterWorld& world, bool crashed) {
    std::vector<std::byte> bytes(plan_.size);
    Node& disk = *world.graph->find_node("s");
    ASSERT_EQ(disk.length(), plan_.size);
    ASSERT_TRUE(world.env.run(disk.read(0, IoVector(bytes.data(), bytes.size()))));
    const auto wrong = golden_.first_wrong(bytes, crashed);
    EXPECT_FALSE(wrong.has_value()) << "the guest's disk is wrong from sector " << *wrong;
  }

  // Never both harmed: all that a reader may ask for is there, unless the snapshot is known to be
  // broken, and that only where it may break.
  void check_instant() {
    EXPECT_TRUE(!filter_->snapshot_error() || plan_.breaks_snapshot);
    EXPECT_TRUE(!filter_->snapshot_error() || plan_.copies_may_fail());
    for (uint64_t c = 0; c < clusters_.size(); ++c) {
      const Range at{c * cluster_, std::min(cluster_, plan_.size - c * cluster_)};
      auto bytes = world_.read(*reader_, at.offset, at.length);
      ASSERT_EQ(bytes.has_value(), !must_refuse(at)) << "cluster " << c;
      if (bytes) check_bytes(at.offset, *bytes);
    }
  }

  void check_freed() {
    for (uint64_t c = 0; c < clusters_.size(); ++c) {
      if (!clusters_[c].discard_ended && clusters_[c].selected) continue;
      const uint64_t end = std::min(plan_.size, (c + 1) * cluster_);
      for (uint64_t at = c * cluster_; at < end;) {
        const auto status = world_.env.run(scratch_->block_status(at, end - at));
        ASSERT_TRUE(status.has_value());
        ASSERT_FALSE(status->data) << "cluster " << c << " takes scratch space for nobody";
        at += status->length;
      }
    }
  }

  // Nothing is left behind in them but what a failure has cost.
  void check_images() {
    world_.env.storage().set_capacity("t", std::nullopt);
    world_.drop_guests();
    for (const char* name : {"a", "c", "s", "t"}) world_.drop(*world_.graph->find_node(name));
    expect_sound(world_, plan_.disk, "s", !plan_.source_errors);
    expect_sound(world_, plan_.scratch, "t", !plan_.target_fails());
  }
  static void expect_sound(FilterWorld& world, const test::ImagePlan& plan, const char* path,
                           bool clean) {
    if (plan.qcow2) world.env.run(qcow2::test::expect_sound(world.env, path, clean));
  }

  void check_crash() {
    world_.env.storage().power_off();
    coverage_.hit(plan_.disk.qcow2 ? "the power went off, qcow2 disk"
                                   : "the power went off, raw disk");
    coverage_.hit_if(plan_.scratch.qcow2, "the power went off, qcow2 scratch space");
    FilterWorld later(world_.env.seed());
    for (const auto& [path, content] :
         world_.env.storage().crash_image(sim::CrashSubset::seeded(world_.env.seed()))) {
      later.env.storage().put(path, content);
    }
    expect_sound(later, plan_.disk, "s", false);
    expect_sound(later, plan_.scratch, "t", false);
    if (testing::Test::HasFailure()) return;
    later.open(definition_of("s", plan_.disk));
    check_guest(later, /*crashed=*/true);
  }

  FilterWorld world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  FleecingPlan plan_;
  const uint64_t cluster_;
  GoldenDisk golden_;
  std::optional<GoldenDisk> instant_;
  std::vector<Cluster> clusters_;
  std::vector<sim::SimStorage::RuleId> faults_;
  CopyBeforeWrite* filter_ = nullptr;
  Node* scratch_ = nullptr;
  Backend* guest_ = nullptr;
  Backend* reader_ = nullptr;
  Gate gate_;
};

TEST(FleecingSimulation, GuestAndReaderAreNeverBothHarmed) {
  Coverage coverage({"the past was read", "a reader was refused", "a reader gave space up",
                     "the snapshot broke", "a read outlived the snapshot", "a guest met an error",
                     "a guest met the full scratch space", "a guest met the timeout", "a raw disk",
                     "a qcow2 disk", "raw scratch space", "qcow2 scratch space",
                     "the power went off, raw disk", "the power went off, qcow2 disk",
                     "the power went off, qcow2 scratch space"});
  test::for_each_seed_covering(coverage, 600,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
