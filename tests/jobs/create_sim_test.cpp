// Images that a job makes while a guest writes to another disk: under errors, pauses, drains and
// cancels, and with the power cut at any request. What says that it is an image is an empty disk,
// or what its data file held.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "block/formats/image_create.h"
#include "block/graph/drain.h"
#include "block/jobs/one_step.h"
#include "qmp/schema/json_write.h"
#include "schema/blockdev_create.h"
#include "tests/jobs/sim_guest_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/coverage.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using schema::PreallocMode;
using test::Coverage;
using test::kKiB;
using test::World;

constexpr uint64_t kSeeds = 400;
constexpr uint64_t kSector = test::GoldenDisk::kSector;
constexpr uint64_t kGuestDisk = 512 * kKiB;

struct Plan {
  explicit Plan(sim::SimRandom& chance) {
    options.file.u = "image";
    options.size = chance.below(8192) * kSector;
    constexpr uint64_t kClusters[] = {512, 4096, 65536, 65536, 2 << 20};
    options.cluster_size = kClusters[chance.below(5)];
    constexpr PreallocMode kModes[] = {PreallocMode::kOff, PreallocMode::kOff,
                                       PreallocMode::kMetadata, PreallocMode::kFalloc,
                                       PreallocMode::kFull};
    options.preallocation = kModes[chance.below(5)];
    if (chance.percent(20)) {
      options.version = schema::BlockdevQcow2Version::kV2;
    } else {
      options.refcount_bits = int64_t{1} << chance.below(7);
      options.extended_l2 = *options.cluster_size >= 65536 && chance.percent(30);
      options.lazy_refcounts = chance.percent(30);
      if (chance.percent(30)) options.data_file.emplace().u = "data";
      if (options.data_file) options.data_file_raw = chance.percent(50);
    }
    faults = chance.percent(40);
    crash = chance.percent(40);
    cancels = chance.percent(15);
    over_image = chance.percent(30);
  }

  schema::BlockdevCreateOptionsQcow2 options;
  bool faults;
  bool crash;
  bool cancels;
  // In the place of another empty disk.
  bool over_image;
};

// Nobody made it, and no driver takes it for an image.
sim::SparseBytes junk(sim::SimRandom& chance) {
  std::vector<std::byte> bytes(chance.below(256) * kSector, std::byte{0xEE});
  sim::SparseBytes result(bytes.size());
  if (!bytes.empty()) result.write(0, bytes);
  return result;
}

class Scenario {
 public:
  Scenario(World& world, const Plan& plan, Coverage& coverage)
      : world_(world),
        chance_(world.env.chance()),
        plan_(plan),
        coverage_(coverage),
        guest_(world, kGuestDisk),
        gate_(world.env.executor()) {
    if (plan.crash) guest_.may_fail();
  }

  void go() {
    make_file();
    if (plan_.options.data_file) world_.file("data", junk(chance_));
    guest_.insert(world_.file("disk", sim::SparseBytes(kGuestDisk)));
    world_.run(run());
    judge();
    if (!testing::Test::HasFailure()) return;
    fmt::print("{}\n", json::to_string(to_json(plan_.options)));
    for (const std::string& line : world_.events.lines) fmt::print("  {}\n", line);
  }

 private:
  sim::SimStorage& storage() { return world_.env.storage(); }
  bool over() const { return job_->status() == JobStatus::kConcluded; }

  void make_file() {
    if (plan_.over_image) {
      qcow2::CreateOptions old;
      old.size = chance_.below(4096) * kSector;
      old.cluster_size = uint64_t{512} << chance_.below(8);
      old.preallocation = chance_.percent(50) ? Preallocation::kMetadata : Preallocation::kOff;
      auto made = world_.run(qcow2::test::create_image(world_.env, "image", old));
      ASSERT_TRUE(made.has_value()) << made.error().description;
    } else {
      world_.env.storage().put("image", junk(chance_));
    }
    image_ = &world_.open({{"driver", "file"}, {"node-name", "image"}, {"filename", "image"}});
  }

  Task<void> run() {
    gate_.spawn(guest_.run());
    co_await world_.env.delay(chance_.between(0, 1'000'000));
    if (plan_.faults) add_faults();
    const bool cuts_later = plan_.crash && chance_.percent(30);
    if (plan_.crash && !cuts_later) cut_within(chance_.percent(50) ? 12 : 60);
    const Expected<void> begun =
        co_await OneStepJob::start(*world_.jobs, "create", "job", [this](OneStepJob& job) {
          job.begin();
          return create_qcow2_image(*world_.graph, plan_.options);
        });
    EXPECT_TRUE(begun.has_value());
    job_ = world_.jobs->find("job");
    co_await steer();
    co_await world_.wait_for_end(job_);
    well_ = !job_->failure();
    cut_ = !storage().powered();
    if (cuts_later) cut_within(20);
    EXPECT_TRUE((co_await world_.jobs->dismiss(job_)).has_value());
    guest_.stop();
    co_await gate_.close();
  }

  void cut_within(uint64_t operations) {
    storage().power_off_at(storage().operations() + 1 + chance_.below(operations));
  }

  void add_faults() {
    sim::FaultRule rule;
    rule.path = plan_.options.data_file && chance_.percent(30) ? "data" : "image";
    rule.requests = sim::kSimChanges | sim::kSimFlush | sim::kSimRead;
    rule.error = chance_.percent(50) ? EIO : ENOSPC;
    rule.skip = chance_.below(12);
    fault_ = storage().add_fault(rule);
  }

  Task<void> steer() {
    for (int64_t turns = chance_.between(0, 4); turns > 0 && !over(); --turns) {
      co_await world_.env.delay(chance_.between(0, 100'000));
      if (chance_.percent(50)) {
        coverage_.hit_if(job_->user_pause().has_value(), "paused");
      } else {
        MutexGuard lock = co_await world_.graph->lock();
        DrainedSection drained = co_await drain(*image_);
        lock.unlock();
        co_await world_.env.delay(chance_.between(0, 100'000));
        coverage_.hit("drained");
      }
    }
    if (plan_.cancels) (void)co_await world_.jobs->cancel(job_, chance_.percent(50));
    (void)job_->user_resume();
  }

  void judge() {
    const bool met = fault_ && storage().hits(*fault_) > 0;
    EXPECT_TRUE(well_ || met || cut_ || plan_.cancels) << job_->failure()->text;
    EXPECT_TRUE(world_.jobs->jobs().empty());
    coverage_.hit_if(well_ && plan_.options.data_file, "made over a data file");
    coverage_.hit_if(well_ && plan_.options.preallocation != PreallocMode::kOff, "preallocated");
    coverage_.hit_if(!well_ && job_->cancelled(), "cancelled");
    coverage_.hit_if(!well_ && met && !cut_, "failed");
    coverage_.hit_if(cut_, "power cut while the job ran");
    if (fault_) storage().remove_fault(*fault_);
    if (storage().powered()) guest_.expect_its_disk();
    guest_.remove();
    while (!world_.graph->monitor_nodes().empty()) {
      world_.run(world_.drop(*world_.graph->monitor_nodes().front()));
    }
    EXPECT_TRUE(world_.graph->nodes().empty());

    // What was closed is safe, but for what a flush may have failed to write.
    const bool crashed = !storage().powered();
    coverage_.hit_if(crashed && !cut_, "power cut after the job");
    if (!crashed && !plan_.faults) storage().power_off();
    judge_files(storage().powered()
                    ? storage().image()
                    : storage().crash_image(crashed ? sim::CrashSubset::seeded(world_.env.seed())
                                                    : sim::CrashSubset::none()),
                crashed);
  }

  void judge_files(const sim::StorageImage& left, bool crashed) {
    std::vector<std::byte> disk(kGuestDisk);
    left.at("disk").read(0, disk);
    EXPECT_FALSE(guest_.golden().first_wrong(disk, crashed).has_value());

    World world(1);
    for (const auto& [path, content] : left) world.env.storage().put(path, content);
    Graph::OpenRequest request;
    request.options = {{"driver", "qcow2"},
                       {"file", json::Object{{"driver", "file"}, {"filename", "image"}}}};
    auto opened = world.run(world.graph->open(std::move(request)));
    if (!opened) {
      EXPECT_FALSE(well_) << opened.error().description;
      coverage_.hit("no image is left");
      return;
    }
    coverage_.hit(well_ ? "made" : "an image is left");
    Node& node = **opened;
    if (well_) EXPECT_EQ(node.length(), plan_.options.size);
    std::vector<std::byte> bytes(node.length());
    EXPECT_TRUE(world.run(node.read(0, IoVector(bytes.data(), bytes.size()))).has_value());
    std::vector<std::byte> expected(bytes.size());
    if (node.child("data-file") != nullptr && takes_over_data()) left.at("data").read(0, expected);
    EXPECT_TRUE(qcow2::test::same_bytes(bytes, expected));
    *opened = NodeRef();
    world.run(world.graph->close_unreferenced());
    world.run(qcow2::test::expect_sound(world.env, "image", well_));
  }

  // What a data file holds becomes the disk where its clusters are allocated at once, as with QEMU:
  // a disk may be older than its image. Subclusters are not.
  bool takes_over_data() const {
    const schema::BlockdevCreateOptionsQcow2& o = plan_.options;
    return o.extended_l2 != true &&
           (o.data_file_raw == true || o.preallocation != PreallocMode::kOff);
  }

  World& world_;
  sim::SimRandom& chance_;
  const Plan& plan_;
  Coverage& coverage_;
  test::SimGuest guest_;
  Gate gate_;
  Node* image_ = nullptr;
  std::shared_ptr<Job> job_;
  std::optional<sim::SimStorage::RuleId> fault_;
  bool well_ = false;
  // While the job ran.
  bool cut_ = false;
};

TEST(CreateSim, WhatSaysThatItIsAnImageIsAnEmptyDisk) {
  Coverage coverage({"made", "made over a data file", "preallocated", "paused", "drained",
                     "cancelled", "failed", "power cut while the job ran",
                     "power cut after the job", "no image is left", "an image is left"});
  test::for_each_seed_covering(coverage, kSeeds, [&](uint64_t seed) {
    World world(seed);
    const Plan plan(world.env.chance());
    Scenario(world, plan, coverage).go();
  });
}

}  // namespace
}  // namespace blockbed
