// Commits within chains of real images whose disk guests go on writing to, under faults and power
// cuts at any point, judged by a golden model.
//
// Each seed draws a chain, which of its layers go where, what the client does and what fails. Then
// another world opens what is left of the files, as the images name each other: that is the disk.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/jobs/commit.h"
#include "block/jobs/mirror.h"
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
using test::World;

constexpr uint64_t kSector = GoldenDisk::kSector;
constexpr uint64_t kSeeds = 300;
constexpr int kLayers = 4;
constexpr int kDisk = kLayers - 1;

std::string layer_name(int layer) { return fmt::format("l{}", layer); }

struct Plan {
  explicit Plan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(2, 24)) * 64 * kKiB;
    base_size = chance.percent(70) ? size : size / 2;
    for (uint64_t& cluster : cluster_size) cluster = uint64_t{4096} << chance.below(6);
    base = static_cast<int>(chance.below(kDisk));
    top = static_cast<int>(chance.between(base + 1, kDisk));
    faults = chance.percent(35);
    crash = chance.percent(40);
    cancels = chance.percent(15);
    writers = static_cast<int>(chance.between(1, 2));
  }
  bool active() const { return top == kDisk; }
  std::string describe() const {
    return fmt::format("{} bytes over {}, layers {} to {}{}{}{}", size, base_size, base, top,
                       faults ? ", faults" : "", crash ? ", crash" : "", cancels ? ", cancel" : "");
  }

  uint64_t size;
  // Of the lowest layer.
  uint64_t base_size;
  uint64_t cluster_size[kLayers];
  int base;
  int top;
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
    make_chain();
    if (!testing::Test::HasFatalFailure()) {
      world_.run(scenario());
      judge();
    }
    if (!testing::Test::HasFailure()) return;
    fmt::print("{}\n", plan_.describe());
    for (const std::string& line : world_.events.lines) fmt::print("  {}\n", line);
  }

 private:
  sim::SimStorage& storage() { return world_.env.storage(); }
  bool over() const {
    return job_->status() == JobStatus::kConcluded || job_->status() == JobStatus::kNull;
  }
  Node& layer(int number) const { return *world_.graph->find_node(layer_name(number)); }

  // --- images

  void make_chain() {
    for (int number = 0; number < kLayers; ++number) {
      qcow2::CreateOptions options;
      options.size = number == 0 ? plan_.base_size : plan_.size;
      options.cluster_size = plan_.cluster_size[number];
      if (number > 0) {
        options.backing_file = layer_name(number - 1);
        options.backing_format = "qcow2";
      }
      const std::string path = layer_name(number);
      auto made = world_.run(qcow2::test::create_image(world_.env, path, options));
      ASSERT_TRUE(made.has_value()) << made.error().description;
      fill(number);
    }
    // As -blockdev opens them: the layers below belong to the disk and are for reading.
    world_.open(definition(kDisk));
    guest_ = world_.guest(layer(kDisk));
  }

  json::Object definition(int number) {
    json::Object options{
        {"driver", "qcow2"},
        {"node-name", layer_name(number)},
        {"file", json::Object{{"driver", "file"}, {"filename", layer_name(number)}}}};
    options.set("backing", number == 0 ? json::Value() : json::Value(definition(number - 1)));
    return options;
  }

  void fill(int number) {
    Node& node = world_.open(definition(number));
    std::unique_ptr<Backend> writer = world_.guest(node);
    const uint64_t sectors = (number == 0 ? plan_.base_size : plan_.size) / kSector;
    for (int64_t i = chance_.between(0, 6); i > 0; --i) {
      const uint64_t first = chance_.below(sectors);
      const uint64_t count = 1 + chance_.below(std::min<uint64_t>(200, sectors - first));
      const uint64_t offset = first * kSector, length = count * kSector;
      const uint64_t value = chance_.percent(80) ? golden_.next_number() : 0;
      Result<void> done;
      if (value == 0) {
        done = world_.run(writer->zero(offset, length));
      } else {
        Buffer buffer(length);
        GoldenDisk::fill(buffer.span(), value);
        done = world_.run(writer->write(offset, buffer.io()));
      }
      ASSERT_TRUE(done.has_value());
      golden_.preset(offset, length, value);
    }
    world_.run(writer->remove());
    writer.reset();
    world_.run(world_.drop(node));
  }

  // --- the run

  Task<void> scenario() {
    for (int i = 0; i < plan_.writers; ++i) gate_.spawn(write_for_a_while());
    co_await world_.env.delay(chance_.between(0, 500'000));
    const Expected<void> begun = co_await start();
    EXPECT_TRUE(begun.has_value()) << begun.error().description;
    if (begun) {
      gate_.spawn(steer());
      co_await world_.wait_for_end(job_);
    }
    stop_ = true;
    co_await gate_.close();
  }

  Task<Expected<void>> start() {
    constexpr OnError kPolicies[] = {OnError::kReport, OnError::kIgnore, OnError::kEnospc,
                                     OnError::kStop};
    const OnError policy = kPolicies[chance_.below(4)];
    const int64_t speed = chance_.percent(25) ? chance_.between(1, 100) * 1'000'000 : 0;
    MutexGuard lock = co_await world_.graph->lock();
    if (plan_.active()) {
      MirrorOptions options;
      options.job.id = "j";
      options.named = options.commit = true;
      options.source = NodeRef(layer(plan_.top));
      options.target = NodeRef(layer(plan_.base));
      options.on_source_error = options.on_target_error = policy;
      options.speed = speed;
      auto opened = co_await make_writable(*world_.graph, layer(plan_.base));
      if (!opened) co_return fail(std::move(opened).error());
      options.opened = std::move(*opened);
      DrainedSection drained = co_await drain(layer(plan_.top));
      auto job = co_await MirrorJob::create(*world_.jobs, std::move(options));
      if (!job) co_return fail(std::move(job).error());
      job_ = *job;
    } else {
      CommitOptions options;
      options.job.id = "j";
      options.named = true;
      options.job.auto_finalize = chance_.percent(70);
      options.disk = NodeRef(layer(kDisk));
      options.overlay = NodeRef(layer(plan_.top + 1));
      options.top = NodeRef(layer(plan_.top));
      options.base = NodeRef(layer(plan_.base));
      options.on_error = policy;
      options.speed = speed;
      auto job = co_await CommitJob::create(*world_.jobs, std::move(options));
      if (!job) co_return fail(std::move(job).error());
      job_ = *job;
    }
    world_.jobs->start(*job_);
    if (plan_.faults) add_faults();
    if (plan_.crash) {
      constexpr uint64_t kScales[] = {20, 100, 400};
      storage().power_off_at(storage().operations() + 1 + chance_.below(kScales[chance_.below(3)]));
    }
    co_return Expected<void>();
  }

  // Of the layers that the job reads and writes; what fails under the guest is another matter.
  void add_faults() {
    for (int64_t i = chance_.between(1, 3); i > 0; --i) {
      sim::FaultRule rule;
      rule.path = layer_name(chance_.percent(50) ? plan_.base : plan_.top);
      rule.requests = sim::kSimRead | sim::kSimWrite | sim::kSimZero;
      rule.error = chance_.percent(50) ? EIO : ENOSPC;
      rule.skip = chance_.below(12);
      rule.times = static_cast<uint64_t>(chance_.between(1, 4));
      faults_.push_back(storage().add_fault(rule));
    }
  }

  Task<void> write_for_a_while() {
    for (int i = 0; i < 150 && !stop_; ++i) {
      co_await one_request();
      co_await world_.env.delay(chance_.between(0, 100'000));
    }
  }

  Task<void> one_request() {
    const uint64_t sectors = plan_.size / kSector;
    const uint64_t first = chance_.below(sectors);
    const uint64_t count =
        1 + chance_.below(std::min<uint64_t>(chance_.percent(80) ? 24 : 300, sectors - first));
    const uint64_t offset = first * kSector, length = count * kSector;
    const uint64_t what = chance_.below(10);
    if (what == 9) {
      const uint64_t since = golden_.flush_begins();
      if (co_await guest_->flush()) golden_.flushed(since);
      co_return;
    }
    if (golden_.busy(offset, length)) co_return;
    const uint64_t number = what < 7 ? golden_.next_number() : 0;
    golden_.begin(offset, length, number);
    Result<void> done;
    if (what < 7) {
      Buffer buffer(length);
      GoldenDisk::fill(buffer.span(), number);
      done = co_await guest_->write(offset, buffer.io());
    } else {
      done = co_await guest_->zero(offset, length);
    }
    golden_.end(offset, length, number, done.has_value());
  }

  Task<void> steer() {
    for (int64_t turns = chance_.between(0, 8); turns > 0 && !over(); --turns) {
      co_await world_.env.delay(chance_.between(0, 500'000));
      switch (chance_.below(6)) {
        case 0:
          (void)job_->user_pause();
          break;
        case 1:
          (void)job_->user_resume();
          break;
        case 2:
          (void)static_cast<BlockJob&>(*job_).user_set_speed(chance_.between(0, 300) * 1'000'000);
          break;
        case 3: {
          // Whatever still has a name: the job may be taking layers out.
          Node* node =
              world_.graph->find_node(layer_name(static_cast<int>(chance_.below(kLayers))));
          if (node == nullptr || !node->is_open()) break;
          DrainedSection drained = co_await drain(*node);
          co_await world_.env.delay(chance_.between(0, 300'000));
          break;
        }
        default:
          co_await reopenings_.one(job_);
      }
    }
    if (plan_.cancels && !over()) {
      if ((co_await world_.jobs->cancel(job_, true)).has_value()) coverage_.hit("cancel");
    }
    // From now on nothing holds the job back but its own errors; those end, save after a crash.
    for (int i = 0; !over(); ++i) {
      (void)static_cast<BlockJob&>(*job_).user_set_speed(0);
      (void)job_->user_resume();
      if (job_->status() == JobStatus::kReady && i > 2) (void)co_await job_->user_complete();
      if (job_->status() == JobStatus::kPending) (void)co_await world_.jobs->finalize(job_);
      if (!over() && !storage().powered()) (void)co_await world_.jobs->cancel(job_, true);
      co_await world_.env.delay(200'000);
    }
  }

  // --- the judgement

  void judge() {
    EXPECT_TRUE(world_.jobs->jobs().empty());
    bool met = false;
    for (const sim::SimStorage::RuleId fault : faults_) {
      met = met || storage().hits(fault) > 0;
      storage().remove_fault(fault);
    }
    bool crashed = !storage().powered();
    const bool well = !job_->failure();
    if (!crashed && !met && !plan_.cancels) EXPECT_TRUE(well) << job_->failure()->text;
    coverage_.hit(plan_.active() ? "active" : "intermediate");
    coverage_.hit_if(well && met, "ended well in spite of faults");
    coverage_.hit_if(!well && met && !crashed, "failed");
    coverage_.hit_if(crashed, "power cut while the job ran");
    coverage_.hit_if(well && plan_.base_size < plan_.size && plan_.base == 0, "the base grew");

    // The disk is what the guest stands on; whoever opens it finds the rest by the names.
    const std::string disk = guest_->node()->name();
    EXPECT_EQ(disk, layer_name(plan_.active() && well ? plan_.base : kDisk));
    if (well && !plan_.active()) {
      EXPECT_EQ(layer(plan_.top + 1).backing_node(), &layer(plan_.base));
      // An image that cannot put its tables back goes on trying, and stays writable for that.
      EXPECT_TRUE(met || !layer(plan_.base).writable());
    }
    world_.run(guest_->remove());
    guest_.reset();
    world_.run(world_.drop(layer(kDisk)));
    // The power may have gone off while images were closed.
    crashed = !storage().powered();
    coverage_.hit_if(crashed && well, "power cut after the job");
    const sim::StorageImage left =
        crashed ? storage().crash_image(sim::CrashSubset::seeded(world_.env.seed()))
                : storage().image();
    World judge(1);
    for (auto& [path, content] : left) judge.env.storage().put(path, content);
    look_at(judge, disk, crashed);
  }

  void look_at(World& judge, const std::string& disk, bool crashed) {
    Graph::OpenRequest request;
    request.filename = disk;
    request.options.set("driver", "qcow2");
    auto opened = judge.run(judge.graph->open(std::move(request)));
    ASSERT_TRUE(opened.has_value()) << opened.error().description;
    std::vector<std::byte> bytes(plan_.size);
    ASSERT_EQ((*opened)->length(), plan_.size);
    const auto read = judge.run((*opened)->read(0, IoVector(bytes.data(), bytes.size())));
    EXPECT_TRUE(read.has_value()) << strerror_text(read.error());
    const auto wrong = golden_.first_wrong(bytes, crashed);
    EXPECT_FALSE(wrong.has_value())
        << "sector " << *wrong << " of " << disk << " shows "
        << GoldenDisk::shown(bytes.data() + *wrong * kSector).value_or(~0ull);
    *opened = NodeRef();
    judge.run(judge.graph->close_unreferenced());
  }

  World world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  const Plan plan_;
  GoldenDisk golden_;
  std::vector<sim::SimStorage::RuleId> faults_;
  std::unique_ptr<Backend> guest_;
  std::shared_ptr<Job> job_;
  test::Reopenings reopenings_;
  Gate gate_;
  bool stop_ = false;
};

TEST(CommitSimulation, TheChainShowsTheDisk) {
  Coverage coverage({
      "active",
      "intermediate",
      "cancel",
      "failed",
      "ended well in spite of faults",
      "power cut while the job ran",
      "power cut after the job",
      "the base grew",
  });
  coverage.demand(test::Reopenings::kMarks);
  coverage.demand(test::Reopenings::kChainMarks);
  coverage.demand(test::Reopenings::kImageMarks);
  test::for_each_seed_covering(coverage, kSeeds,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
