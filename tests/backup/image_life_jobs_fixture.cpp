// ImageLife: what clients do with its bitmaps, and jobs that go on over several steps.
#include "block/graph/dirty_bitmap_list.h"
#include "block/jobs/bitmap_populate.h"
#include "qmp/commands/bitmap_commands.h"
#include "tests/backup/image_life_fixture.h"

namespace blockbed::test {

// --- bitmaps

Node& ImageLife::some_node() {
  return overlay_ == nullptr || chance_.percent(40) ? *node_ : *overlay_;
}

std::unique_ptr<Action> ImageLife::random_action(Node& node) {
  const schema::BlockDirtyBitmap named{.node = node.name(), .name = some_name()};
  switch (chance_.below(6)) {
    case 0:
      last_action_ = "remove";
      return bitmap_remove_action(named);
    case 1:
      last_action_ = "clear";
      return bitmap_clear_action(named);
    case 2: {
      last_action_ = "merge";
      schema::BlockDirtyBitmapMerge merge;
      merge.node = node.name();
      merge.target = named.name;
      merge.bitmaps.emplace_back().u = some_name();
      return bitmap_merge_action(std::move(merge));
    }
    case 3:
      last_action_ = "enable or disable";
      return bitmap_enable_action(named, chance_.percent(60));
    default: {
      last_action_ = "add";
      schema::BlockDirtyBitmapAdd add;
      add.node = node.name();
      add.name = named.name;
      add.granularity = kMarkBytes;
      add.persistent = true;
      add.disabled = chance_.percent(20);
      return bitmap_add_action(std::move(add));
    }
  }
}

// Many of them are refused: there is no bitmap of that name, or there is one.
void ImageLife::commands(bool alone) {
  Actions actions;
  Node& node = some_node();
  const uint64_t count = alone ? 1 : 2 + chance_.below(3);
  for (uint64_t i = 0; i < count; ++i) actions.push_back(random_action(node));
  if (!alone && chance_.percent(40)) actions.push_back(std::make_unique<AbortAction>());
  const KeptBitmaps before = kept(node);
  if (world_.run(transaction(std::move(actions)))) {
    adopt(node, before);
  } else {
    EXPECT_TRUE(equal(before, kept(node)));
  }
  note(alone ? last_action_ : "transaction");
}

Task<bool> ImageLife::transaction(Actions actions) {
  CommandContext context(monitor_, nullptr, nullptr);
  auto done = co_await run_transaction(context, *world_.graph, *world_.jobs, std::move(actions));
  co_return done.has_value();
}

// --- jobs that go on

Task<std::shared_ptr<Job>> ImageLife::start_backup(Node& node, DirtyBitmap& bitmap) {
  Node* const target = world_.graph->find_node(target_of(node.length()));
  BackupOptions options = world_.options("job", node, *target, BackupSync::kBitmap);
  constexpr BitmapMode kModes[] = {BitmapMode::kNever, BitmapMode::kOnSuccess, BitmapMode::kAlways};
  options.bitmap = &bitmap;
  options.bitmap_mode = kModes[chance_.below(3)];
  options.job.auto_dismiss = true;
  options.job.auto_finalize = false;
  const BitmapMode mode = options.bitmap_mode;
  auto job = co_await world_.backup(std::move(options));
  if (!job) co_return nullptr;
  job_mode_ = mode;
  co_return *job;
}

Task<std::shared_ptr<Job>> ImageLife::start_populate(Node& node, DirtyBitmap& bitmap) {
  BitmapPopulateOptions options;
  options.job.id = "job";
  options.job.auto_dismiss = true;
  options.job.auto_finalize = false;
  options.node = NodeRef(node);
  options.bitmap = &bitmap;
  MutexGuard lock = co_await world_.graph->lock();
  auto job = co_await BitmapPopulateJob::create(*world_.jobs, std::move(options));
  if (!job) co_return nullptr;
  world_.jobs->start(**job);
  job_mode_ = BitmapMode::kNever;
  co_return *job;
}

void ImageLife::start_job() {
  Node& node = some_node();
  std::vector<DirtyBitmap*> bitmaps;
  for (const auto& bitmap : node.dirty_bitmaps()) {
    if (!bitmap->name().empty()) bitmaps.push_back(bitmap.get());
  }
  if (bitmaps.empty()) return;
  DirtyBitmap& bitmap = *bitmaps[chance_.below(bitmaps.size())];
  const bool backup = chance_.percent(60);
  job_ = world_.run(backup ? start_backup(node, bitmap) : start_populate(node, bitmap));
  if (job_) {
    job_node_ = &node;
    job_bitmap_ = bitmap.name();
    since_job_.clear();
  }
  note(backup ? "backup begins" : "populate begins");
}

void ImageLife::end_job(bool well) {
  const bool backup = job_->type() == "backup";
  Node& node = *std::exchange(job_node_, nullptr);
  const std::pair<std::string, std::string> key{node.name(), job_bitmap_};
  const KeptBitmaps before = kept(node);
  const std::shared_ptr<Job> ended = std::exchange(job_, nullptr);
  world_.run([](ImageLife& life, std::shared_ptr<Job> job, bool finalize) -> Task<void> {
    while (job->status() != JobStatus::kPending && job->status() != JobStatus::kNull) {
      co_await life.world_.env.sleep(1000);
    }
    if (finalize) {
      (void)co_await life.world_.jobs->finalize(job);
    } else {
      (void)co_await life.world_.jobs->cancel(job, true);
    }
    co_await life.world_.wait_for_status(job, JobStatus::kNull);
  }(*this, ended, well));
  // All was copied: what is left to mark was written since it began.
  const bool drops = well ? job_mode_ != BitmapMode::kNever : job_mode_ == BitmapMode::kAlways;
  if (drops && must_.contains(key)) must_[key] = since_job_;
  expect_marked();
  if (!backup && !ended->failure()) {
    EXPECT_FALSE(node.dirty_bitmaps().find(key.second)->read_only()) << "its marks are not kept";
    adopt(node, before);
  }
  note(backup ? "backup ends" : "populate ends");
}

}  // namespace blockbed::test
