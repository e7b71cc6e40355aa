// Streams of real qcow2 chains under guests that go on writing, with every fault that the simulator
// knows, judged by a golden model: what the guest sees, what is on disk after the end or after the
// power was cut, and that the files that are no longer needed are not needed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/repair.h"
#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/jobs/stream.h"
#include "tests/jobs/golden_disk.h"
#include "tests/jobs/jobs_fixture.h"
#include "tests/jobs/reopenings_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/coverage.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::GoldenDisk;
using test::kKiB;
using test::kMiB;

constexpr uint64_t kSector = GoldenDisk::kSector;

std::string layer_name(std::size_t layer) { return fmt::format("l{}", layer); }

// What this seed does.
struct Plan {
  struct Layer {
    qcow2::CreateOptions create;
  };

  explicit Plan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(1, 40)) * 64 * kKiB;
    if (chance.percent(30)) size += static_cast<uint64_t>(chance.between(1, 127)) * kSector;
    if (chance.percent(10)) size += 2 * kMiB;
    const auto count = static_cast<std::size_t>(chance.between(2, 5));
    for (std::size_t i = 0; i < count; ++i) {
      Layer layer;
      layer.create.size = size;
      if (i + 1 < count && chance.percent(15)) {
        layer.create.size = std::max<uint64_t>(kSector, chance.below(size / kSector) * kSector);
      }
      constexpr uint64_t kClusters[] = {65536, 65536, 4096, 512};
      layer.create.cluster_size = kClusters[chance.below(4)];
      layer.create.lazy_refcounts = chance.percent(15);
      layer.create.extended_l2 = layer.create.cluster_size == 65536 && chance.percent(20);
      if (i > 0) {
        layer.create.backing_file = layer_name(i - 1);
        layer.create.backing_format = "qcow2";
      }
      layers.push_back(layer);
    }
    base = static_cast<int>(chance.below(count)) - 1;
    faults = chance.percent(40);
    crash = chance.percent(25);
    cancels = chance.percent(15);
    writers = static_cast<int>(chance.between(1, 3));
  }

  std::size_t top() const { return layers.size() - 1; }

  uint64_t size;
  std::vector<Layer> layers;
  // The layer that stays as backing file, -1 for none.
  int base;
  bool faults;
  bool crash;
  bool cancels;
  int writers;
};

class Scenario {
 public:
  Scenario(uint64_t seed, Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        coverage_(coverage),
        plan_(chance_),
        golden_(plan_.size),
        reopenings_(world_, coverage, {plan_.faults, plan_.crash}),
        gate_(world_.env.executor()) {}

  void go() {
    for (std::size_t i = 0; i < plan_.layers.size(); ++i) make_layer(i);
    if (testing::Test::HasFailure()) return;
    top_ = &open_chain(world_, "top");
    guest_ = world_.guest(*top_);
    world_.run(scenario());
    end();
  }

 private:
  // --- images

  Node& open_chain(test::World& world, const std::string& name) {
    return world.open(
        {{"driver", "qcow2"},
         {"node-name", name},
         {"discard", "unmap"},
         {"file", json::Object{{"driver", "file"}, {"filename", layer_name(plan_.top())}}}});
  }

  void make_layer(std::size_t layer) {
    const std::string path = layer_name(layer);
    const qcow2::CreateOptions& create = plan_.layers[layer].create;
    auto made = world_.run(qcow2::test::create_image(world_.env, path, create));
    ASSERT_TRUE(made.has_value()) << made.error().description;
    // What a shorter layer hides reads as zeroes from then on.
    for (uint64_t at = create.size; at < plan_.size; at += kSector) golden_.preset(at, kSector, 0);
    Node& node = world_.open({{"driver", "qcow2"},
                              {"node-name", "made"},
                              {"file", json::Object{{"driver", "file"}, {"filename", path}}}});
    {
      Backend disk(*world_.graph, "", test::kGuest);
      ASSERT_TRUE(disk.insert(node).has_value());
      world_.run(fill(disk, create));
      world_.run(disk.remove());
    }
    world_.run(world_.drop(node));
  }

  Task<void> fill(Backend& disk, const qcow2::CreateOptions& create) {
    for (uint64_t at = 0; at < create.size;) {
      uint64_t length =
          std::min(static_cast<uint64_t>(chance_.between(1, 512)) * kSector, create.size - at);
      const uint64_t kind = chance_.below(100);
      Result<void> done;
      if (kind < 12) {
        done = co_await disk.zero(at, length);
        golden_.preset(at, length, 0);
      } else if (kind < 45) {
        RequestFlags flags;
        if (kind < 17 && !create.extended_l2) {
          at -= at % create.cluster_size;
          length = std::min(create.cluster_size, create.size - at);
          flags.compressed = true;
        }
        const uint64_t number = golden_.next_number();
        Buffer buffer(length);
        GoldenDisk::fill(buffer.span(), number);
        done = co_await disk.write(at, buffer.io(), flags);
        golden_.preset(at, length, number);
      }
      EXPECT_TRUE(done.has_value()) << strerror_text(done.error());
      at += length;
    }
  }

  // --- the run

  Task<void> scenario() {
    for (int i = 0; i < plan_.writers; ++i) gate_.spawn(be_guest());
    co_await world_.env.delay(chance_.between(0, 1'000'000));
    co_await start();
    gate_.spawn(steer());
    co_await world_.wait_for_end(job_);
    stop_ = true;
    co_await gate_.close();
  }

  Node* layer(int index) {
    Node* node = top_;
    for (auto i = static_cast<int>(plan_.top()); i > index; --i) node = node->backing_node();
    return node;
  }

  Task<void> start() {
    StreamOptions options;
    options.job.id = "j";
    options.named = true;
    options.job.auto_finalize = chance_.percent(70);
    options.top = NodeRef(*top_);
    const auto top = static_cast<int>(plan_.top());
    if (plan_.base >= 0 && plan_.base < top && chance_.percent(40)) {
      options.bottom = NodeRef(*layer(plan_.base + 1));
    } else if (plan_.base >= 0) {
      options.base = NodeRef(*layer(plan_.base));
    }
    constexpr OnError kPolicies[] = {OnError::kReport, OnError::kIgnore, OnError::kEnospc,
                                     OnError::kStop, OnError::kAuto};
    options.on_error = kPolicies[chance_.below(5)];
    if (chance_.percent(30)) options.speed = chance_.between(1, 200) * 1'000'000;
    MutexGuard lock = co_await world_.graph->lock();
    {
      DrainedSection drained = co_await drain(*top_);
      auto created = co_await StreamJob::create(*world_.jobs, std::move(options));
      BB_ASSERT(created.has_value());
      job_ = *created;
      world_.jobs->start(*job_);
    }
    if (plan_.faults) add_faults();
    if (plan_.crash) {
      world_.env.storage().power_off_at(world_.env.storage().operations() + chance_.below(200));
    }
  }

  void add_faults() {
    for (int64_t i = chance_.between(1, 3); i > 0; --i) {
      sim::FaultRule rule;
      const std::size_t where = chance_.below(plan_.layers.size());
      rule.path = layer_name(where);
      // The files below are only read.
      rule.requests = where < plan_.top() ? unsigned{sim::kSimRead}
                                          : sim::kSimRead | sim::kSimWrite | sim::kSimZero;
      rule.error = chance_.percent(50) ? EIO : ENOSPC;
      rule.skip = chance_.below(20);
      rule.times = static_cast<uint64_t>(chance_.between(1, 4));
      faults_.push_back(world_.env.storage().add_fault(rule));
    }
  }

  Task<void> be_guest() {
    while (!stop_ && ++requests_ < 300) {
      co_await one_request();
      co_await world_.env.delay(chance_.between(0, 100'000));
    }
  }

  Task<void> one_request() {
    const uint64_t sectors = plan_.size / kSector;
    const uint64_t first = chance_.below(sectors);
    const uint64_t most = chance_.percent(80) ? 24 : 600;
    const uint64_t count = 1 + chance_.below(std::min(most, sectors - first));
    const uint64_t offset = first * kSector, length = count * kSector;
    const uint64_t what = chance_.below(10);
    if (what == 0) {
      const uint64_t since = golden_.flush_begins();
      if (co_await guest_->flush()) golden_.flushed(since);
      co_return;
    }
    if (golden_.busy(offset, length)) co_return;
    if (what < 4) {
      co_await read_and_check(offset, length);
      co_return;
    }
    const uint64_t number = what < 8 ? golden_.next_number() : 0;
    golden_.begin(offset, length, number);
    Result<void> done;
    if (what < 8) {
      Buffer buffer(length);
      GoldenDisk::fill(buffer.span(), number);
      done = co_await guest_->write(offset, buffer.io());
    } else if (what == 8) {
      done =
          co_await guest_->zero(offset, length, RequestFlags().with_may_unmap(chance_.percent(50)));
    } else {
      done = co_await guest_->discard(offset, length);
    }
    golden_.end(offset, length, number, done.has_value(), /*optional=*/what == 9);
    EXPECT_TRUE(done || plan_.faults || plan_.crash);
  }

  Task<void> read_and_check(uint64_t offset, uint64_t length) {
    golden_.reading(offset, length, true);
    Buffer buffer(length);
    const Result<void> done = co_await guest_->read(offset, buffer.io());
    golden_.reading(offset, length, false);
    EXPECT_TRUE(done || plan_.faults || plan_.crash);
    if (!done || !world_.env.storage().powered()) co_return;
    for (uint64_t at = 0; at < length; at += kSector) {
      if (golden_.may_show((offset + at) / kSector, buffer.data() + at)) continue;
      ADD_FAILURE() << "the guest reads what it did not write at " << offset + at;
      co_return;
    }
  }

  // The client: pauses, resumes, speeds, drained sections, at last an end.
  Task<void> steer() {
    const int64_t turns = chance_.between(0, 12);
    for (int64_t i = 0; i < turns && !over(); ++i) {
      co_await world_.env.delay(chance_.between(0, 500'000));
      switch (chance_.below(8)) {
        case 0:
          (void)job_->user_pause();
          break;
        case 1:
          (void)job_->user_resume();
          break;
        case 2:
          (void)job_->user_set_speed(chance_.between(0, 300) * 1'000'000);
          break;
        case 3:
        case 4: {
          MutexGuard lock = co_await world_.graph->lock();
          if (over()) break;
          // Any node of the chain as it is now.
          Node* node = top_;
          for (uint64_t down = chance_.below(plan_.layers.size()); down > 0; --down) {
            if (Node* below = node->backing_node()) node = below;
          }
          DrainedSection drained = co_await drain(*node);
          EXPECT_FALSE(job_->busy());
          co_await world_.env.delay(chance_.between(0, 300'000));
          break;
        }
        case 5:
          co_await world_.jobs->settle(job_);
          break;
        default:
          co_await reopenings_.one(job_);
      }
    }
    if (plan_.cancels && !over()) {
      (void)co_await world_.jobs->cancel(job_, chance_.percent(50));
    }
    // From now on nothing holds the job back but its own errors; those end, save after a crash.
    while (!over()) {
      (void)job_->user_set_speed(0);
      if (job_->user_resume()) coverage_.hit_if(plan_.faults, "stopped and resumed");
      if (job_->status() == JobStatus::kPending) (void)co_await world_.jobs->finalize(job_);
      if (!over() && !world_.env.storage().powered())
        (void)co_await world_.jobs->cancel(job_, true);
      co_await world_.env.delay(200'000);
    }
  }

  bool over() const {
    return job_->status() == JobStatus::kConcluded || job_->status() == JobStatus::kNull;
  }

  // --- the judgement

  void end() {
    EXPECT_TRUE(world_.jobs->jobs().empty());
    EXPECT_EQ(top_->parents().size(), 1u);
    for (const sim::SimStorage::RuleId fault : faults_) world_.env.storage().remove_fault(fault);
    const bool streamed = !job_->failure() && !job_->cancelled();
    // Wherever the cut was to be: now it is too late for another moment.
    const bool crashed = plan_.crash;
    if (crashed) world_.env.storage().power_off();
    EXPECT_TRUE(streamed || plan_.faults || plan_.cancels || crashed) << job_->failure()->text;
    coverage_.hit_if(streamed && !crashed, "streamed");
    coverage_.hit_if(streamed && plan_.base < 0, "everything streamed");
    coverage_.hit_if(job_->failure() && plan_.faults && !crashed, "failed");
    coverage_.hit_if(job_->cancelled() && !crashed, "cancelled");
    coverage_.hit_if(crashed, "crashed");
    // A chain of that many images is what is left.
    std::size_t depth = 0;
    for (Node* node = top_; node != nullptr; node = node->backing_node()) ++depth;
    const std::size_t below = static_cast<std::size_t>(plan_.base + 1);
    EXPECT_EQ(depth, streamed ? below + 1 : plan_.layers.size());

    world_.run(guest_->remove());
    guest_.reset();
    test::World after(world_.env.seed() + 1'000'000);
    if (crashed) {
      const auto image =
          world_.env.storage().crash_image(sim::CrashSubset::seeded(world_.env.seed()));
      for (const auto& [path, content] : image) after.env.storage().put(path, content);
    } else {
      world_.run(world_.drop(*top_));
      // The files that were brought up are not there any more.
      for (std::size_t i = 0; i < plan_.layers.size(); ++i) {
        if (streamed && i >= below && i < plan_.top()) continue;
        after.env.storage().put(layer_name(i), world_.env.storage().content(layer_name(i)));
      }
    }
    judge(after, crashed);
  }

  void judge(test::World& after, bool crashed) {
    const bool clean = !crashed && !plan_.faults;
    after.run(check_image(after.env, clean));
    if (testing::Test::HasFailure()) return;
    Node& disk = open_chain(after, "disk");
    std::vector<std::byte> bytes(plan_.size);
    const Result<void> read = after.run(disk.read(0, IoVector(bytes.data(), bytes.size())));
    ASSERT_TRUE(read.has_value()) << strerror_text(read.error());
    const auto wrong = golden_.first_wrong(bytes, crashed);
    ASSERT_FALSE(wrong.has_value())
        << "sector " << *wrong << " shows "
        << GoldenDisk::shown(bytes.data() + *wrong * kSector).value_or(~0ull);
  }

  Task<void> check_image(sim::SimEnv& env, bool clean) {
    FileOpenOptions how;
    how.write = true;
    auto file = co_await env.open_file(layer_name(plan_.top()), how);
    EXPECT_TRUE(file.has_value());
    if (!file) co_return;
    {
      qcow2::test::FileStorage storage(**file);
      auto header = co_await qcow2::read_header(storage, true);
      EXPECT_TRUE(header.has_value()) << header.error().description;
      if (header) {
        if (header->has(qcow2::incompatible::kDirty)) {
          EXPECT_TRUE((co_await qcow2::repair_counts(storage, *header)).has_value());
        }
        auto report = co_await qcow2::check_image(storage, *header);
        EXPECT_TRUE(report.has_value());
        if (report) {
          EXPECT_EQ(report->corruptions, 0u) << report->describe();
          if (clean) EXPECT_TRUE(report->clean()) << report->describe();
        }
      }
    }
    (void)co_await (*file)->close();
  }

  test::World world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  Plan plan_;
  GoldenDisk golden_;
  std::vector<sim::SimStorage::RuleId> faults_;
  Node* top_ = nullptr;
  std::unique_ptr<Backend> guest_;
  std::shared_ptr<StreamJob> job_;
  test::Reopenings reopenings_;
  Gate gate_;
  bool stop_ = false;
  int requests_ = 0;
};

TEST(StreamSimulation, TheDiskStaysAsTheGuestLeftIt) {
  Coverage coverage(
      {"streamed", "everything streamed", "failed", "cancelled", "crashed", "stopped and resumed"});
  coverage.demand(test::Reopenings::kMarks);
  coverage.demand(test::Reopenings::kChainMarks);
  coverage.demand(test::Reopenings::kImageMarks);
  test::for_each_seed_covering(coverage, 600,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
