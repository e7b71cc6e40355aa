#include "tests/jobs/job_scenario_fixture.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/drain.h"

namespace blockbed::test {

void JobScenario::demand_marks(Coverage& coverage) {
  coverage.demand(kMarks);
  coverage.demand(Reopenings::kMarks);
}

JobScenario::JobScenario(World& world, const JobPlan& plan, Coverage& coverage)
    : world_(world),
      chance_(world.env.chance()),
      coverage_(coverage),
      guest_(world, plan.size),
      plan_(plan),
      reopenings_(world, coverage, {plan.faults, plan.crash}),
      gate_(world.env.executor()) {
  if (plan.faults || plan.crash) guest_.may_fail();
}

JobScenario::~JobScenario() = default;

void JobScenario::go() {
  make_disks();
  if (!testing::Test::HasFatalFailure()) {
    world_.run(run());
    if (job_) judge();
  }
  if (!testing::Test::HasFailure()) return;
  fmt::print("{} bytes, {}{}{}{}\n", plan_.size, describe(), plan_.faults ? ", faults" : "",
             plan_.crash ? ", crash" : "", plan_.cancels ? ", cancel" : "");
  for (const std::string& line : world_.events.lines) fmt::print("  {}\n", line);
}

// --- the run

Task<void> JobScenario::run() {
  for (int i = 0; i < plan_.writers; ++i) gate_.spawn(guest_.run());
  co_await world_.env.delay(chance_.between(0, 2'000'000));
  co_await start();
  if (job_) {
    gate_.spawn(steer());
    gate_.spawn(watch());
    co_await world_.wait_for_end(job_);
    cut_ = !powered();
    if (!cut_) co_await after_the_job();
    if (cuts_later_ && !cut_) co_await cut_the_power();
  }
  guest_.stop();
  co_await gate_.close();
}

Task<void> JobScenario::start() {
  MutexGuard lock = co_await world_.graph->lock();
  auto created = co_await create();
  EXPECT_TRUE(created.has_value()) << created.error().description;
  if (!created) co_return;
  job_ = std::move(*created);
  world_.jobs->start(*job_);
  if (plan_.faults) add_faults();
  cuts_later_ = plan_.crash && chance_.percent(40);
  if (plan_.crash && !cuts_later_) {
    constexpr uint64_t kScales[] = {20, 60, 200, 400};
    storage().power_off_at(storage().operations() + 1 + chance_.below(kScales[chance_.below(4)]));
  }
}

// The job is over, guests go on for a while.
Task<void> JobScenario::cut_the_power() {
  storage().power_off_at(storage().operations() + 1 + chance_.below(60));
  for (int i = 0; i < 10 && powered(); ++i) co_await world_.env.delay(100'000);
  if (powered()) storage().power_off();
}

OnError JobScenario::draw_policy(sim::SimRandom& chance, bool may_be_auto) {
  constexpr OnError kPolicies[] = {OnError::kReport, OnError::kIgnore, OnError::kEnospc,
                                   OnError::kStop, OnError::kAuto};
  return kPolicies[chance.below(may_be_auto ? 5 : 4)];
}

void JobScenario::add_faults() {
  for (int64_t i = chance_.between(1, 3); i > 0; --i) {
    sim::FaultRule rule;
    rule.requests = sim::kSimRead | sim::kSimWrite | sim::kSimZero;
    rule.error = chance_.percent(50) ? EIO : ENOSPC;
    rule.skip = chance_.below(chance_.percent(80) ? 12 : 40);
    rule.times = static_cast<uint64_t>(chance_.between(1, 4));
    aim(rule);
    faults_.push_back(storage().add_fault(rule));
  }
}

bool JobScenario::end_faults() {
  bool met = false;
  for (const sim::SimStorage::RuleId fault : faults_) {
    met = met || storage().hits(fault) > 0;
    storage().remove_fault(fault);
  }
  return met;
}

// --- the client

Task<void> JobScenario::steer() {
  for (int64_t turns = chance_.between(0, 14); turns > 0 && !over(); --turns) {
    co_await world_.env.delay(chance_.between(0, 500'000));
    co_await one_verb();
  }
  if (plan_.cancels && !over()) (void)co_await world_.jobs->cancel(job_, chance_.percent(50));
  // From now on nothing holds the job back but its own errors; those end, save after a crash.
  for (int i = 0; !over(); ++i) {
    (void)job_->user_set_speed(0);
    resume();
    if (i > 2) co_await bring_to_end();
    if (job_->status() == JobStatus::kPending) (void)co_await world_.jobs->finalize(job_);
    if (!over() && !powered()) (void)co_await world_.jobs->cancel(job_, true);
    co_await world_.env.delay(200'000);
  }
}

Task<void> JobScenario::one_verb() {
  switch (chance_.below(8)) {
    case 0:
      if (job_->user_pause()) coverage_.hit("paused");
      break;
    case 1:
      resume();
      break;
    case 2:
      (void)job_->user_set_speed(chance_.between(0, 300) * 1'000'000);
      break;
    case 3:
    case 4:
      co_await drain_something();
      break;
    case 5:
      co_await world_.jobs->settle(job_);
      break;
    default:
      co_await reopenings_.one(job_);
  }
}

void JobScenario::resume() {
  const bool after_error = job_->io_status() != IoStatus::kOk;
  if (!job_->user_resume()) return;
  coverage_.hit("resumed");
  coverage_.hit_if(after_error, "resumed after an error");
}

Task<void> JobScenario::drain_something() {
  MutexGuard lock = co_await world_.graph->lock();
  if (over()) co_return;
  std::vector<Node*> nodes = world_.graph->nodes();
  std::erase_if(nodes, [](const Node* node) { return !node->is_open(); });
  Node& node = *nodes[chance_.below(nodes.size())];
  const bool stops_the_job = std::ranges::any_of(
      job_->edges(), [&node](const auto& edge) { return edge->node() == &node; });
  {
    DrainedSection drained = co_await drain(node);
    if (stops_the_job) EXPECT_FALSE(job_->busy());
    // Who holds the lock keeps the job from ending; a drained section alone does not. Nobody stops
    // the job's own filter that way.
    if (node.named_by_user() && chance_.percent(50)) lock.unlock();
    co_await world_.env.delay(chance_.between(0, 300'000));
  }
  // The node may be out of the graph, and its section the last to have kept it.
  if (!lock.owns()) lock = co_await world_.graph->lock();
  co_await world_.graph->close_unreferenced();
  coverage_.hit("drained");
}

// --- the end

void JobScenario::judge() {
  EXPECT_TRUE(world_.jobs->jobs().empty());
  const bool met = end_faults();
  const bool well = !job_->failure();
  const bool cut = cut_;
  if (!met && !cut && !plan_.cancels) EXPECT_TRUE(well) << job_->failure()->text;
  coverage_.hit_if(cut, "power cut while the job ran");
  coverage_.hit_if(well && !cut, "ended well");
  coverage_.hit_if(well && !cut && met, "ended well in spite of faults");
  coverage_.hit_if(!well && !cut && !job_->cancelled(), "failed");
  coverage_.hit_if(!well && !cut && job_->cancelled(), "cancelled");
  if (powered()) guest_.expect_its_disk();
  judge_graph(well);
  // What could not be written, or need not be, is not there when it was closed.
  const bool unsafe =
      plan_.faults || std::ranges::any_of(world_.graph->nodes(), [](const Node* node) {
        return node->flags().cache_no_flush;
      });
  // The power may go off while files are closed.
  if (plan_.crash && powered() && chance_.percent(50)) {
    storage().power_off_at(storage().operations() + 1 + chance_.below(4));
  }
  come_to_rest();
  if (!powered()) {
    coverage_.hit_if(!cut, "power cut after the job");
    judge_files(storage().crash_image(sim::CrashSubset::seeded(world_.env.seed())), well, true);
  } else if (unsafe) {
    judge_files(storage().image(), well, false);
  } else {
    // What was closed is safe.
    storage().power_off();
    judge_files(storage().crash_image(sim::CrashSubset::none()), well, false);
    coverage_.hit("power cut when all was closed");
  }
}

void JobScenario::come_to_rest() {
  guest_.remove();
  while (!world_.graph->monitor_nodes().empty()) {
    world_.run(world_.drop(*world_.graph->monitor_nodes().front()));
  }
  EXPECT_TRUE(world_.graph->nodes().empty());
}

}  // namespace blockbed::test
