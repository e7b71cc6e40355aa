#include "qmp/commands/backup_commands.h"

#include <fmt/format.h>

#include <optional>

#include "block/formats/image_create.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "block/graph/kept_places.h"
#include "block/jobs/backup.h"
#include "block/protocols/file_create.h"
#include "qmp/commands/block_report.h"
#include "qmp/commands/job_arguments.h"
#include "qmp/monitor/command_context.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

constexpr std::string_view kUnknownCluster =
    "warning: The target block device doesn't provide information about the block size and it "
    "doesn't have a backing file. The default block size of 65536 bytes is used. If the actual "
    "block size of the target exceeds this default, the backup may be unusable\n";

BitmapMode mode_of(schema::BitmapSyncMode mode) {
  if (mode == schema::BitmapSyncMode::kNever) return BitmapMode::kNever;
  if (mode == schema::BitmapSyncMode::kAlways) return BitmapMode::kAlways;
  return BitmapMode::kOnSuccess;
}

// Its bitmap, and what becomes of it. What drive-backup and blockdev-backup have in common has the
// same names in both; `sync` may be another than was asked for.
template <class Arguments>
Expected<void> choose_bitmap(const Arguments& arguments, schema::MirrorSyncMode sync,
                             BackupOptions& options) {
  const bool incremental = sync == schema::MirrorSyncMode::kIncremental;
  const bool needs_bitmap = incremental || sync == schema::MirrorSyncMode::kBitmap;
  std::optional<schema::BitmapSyncMode> mode = arguments.bitmap_mode;
  if (needs_bitmap && !arguments.bitmap) {
    return fail(fmt::format("must provide a valid bitmap name for '{}' sync mode", name(sync)));
  }
  if (incremental) {
    if (mode && *mode != schema::BitmapSyncMode::kOnSuccess) {
      return fail(fmt::format("Bitmap sync mode must be '{}' when using sync mode '{}'",
                              name(schema::BitmapSyncMode::kOnSuccess), name(sync)));
    }
    mode = schema::BitmapSyncMode::kOnSuccess;
  }
  if (!arguments.bitmap) {
    if (mode) return fail("Cannot specify bitmap sync mode without a bitmap");
    return {};
  }
  DirtyBitmap* bitmap = options.source->dirty_bitmaps().find(*arguments.bitmap);
  if (bitmap == nullptr) {
    return fail(fmt::format("Bitmap '{}' could not be found", *arguments.bitmap));
  }
  if (!mode) return fail("Bitmap sync mode must be given when providing a bitmap");
  BB_TRY(bitmap->check(DirtyBitmap::Accept::kReadOnly));
  if (sync == schema::MirrorSyncMode::kNone) {
    return fail(
        fmt::format("sync mode '{}' does not produce meaningful bitmap outputs", name(sync)));
  }
  if (*mode == schema::BitmapSyncMode::kNever && !needs_bitmap) {
    return fail(
        fmt::format("Bitmap sync mode '{}' has no meaningful effect when combined with sync mode "
                    "'{}'",
                    name(*mode), name(sync)));
  }
  options.bitmap = bitmap;
  options.bitmap_mode = mode_of(*mode);
  return {};
}

BackupSync sync_of(schema::MirrorSyncMode mode) {
  switch (mode) {
    case schema::MirrorSyncMode::kTop:
      return BackupSync::kTop;
    case schema::MirrorSyncMode::kFull:
      return BackupSync::kFull;
    case schema::MirrorSyncMode::kNone:
      return BackupSync::kNone;
    case schema::MirrorSyncMode::kIncremental:
    case schema::MirrorSyncMode::kBitmap:
      return BackupSync::kBitmap;
  }
  return BackupSync::kFull;
}

template <class Arguments>
BackupOptions options_of(const Arguments& arguments) {
  BackupOptions options;
  options.job.id = arguments.job_id.value_or("");
  options.job.auto_finalize = arguments.auto_finalize.value_or(true);
  options.job.auto_dismiss = arguments.auto_dismiss.value_or(true);
  options.named = arguments.job_id.has_value();
  options.speed = arguments.speed.value_or(0);
  options.compress = arguments.compress.value_or(false);
  options.on_source_error = error_policy(arguments.on_source_error);
  options.on_target_error = error_policy(arguments.on_target_error);
  options.filter_node_name = arguments.filter_node_name;
  if (arguments.x_perf) {
    options.use_copy_range = arguments.x_perf->use_copy_range.value_or(false);
    options.max_workers = arguments.x_perf->max_workers.value_or(options.max_workers);
    options.max_chunk = arguments.x_perf->max_chunk.value_or(options.max_chunk);
  }
  return options;
}

class BackupAction : public Action {
 public:
  Task<void> commit(TransactionContext& context) override {
    places_.keep();
    context.started.push_back(job_);
    context.jobs.start(*job_);
    co_return;
  }
  Task<void> abort(TransactionContext& context) override {
    co_await context.jobs.abandon(job_);
    places_.put_back();
  }
  void release() override { drained_.end(); }

 protected:
  // The source is drained from here on.
  Task<Expected<void>> find_source(TransactionContext& context, const std::string& device) {
    auto found = context.graph.find_device_or_node(device, device);
    if (!found) co_return fail(std::move(found).error());
    source_ = NodeRef(**found);
    drained_ = co_await drain(*source_);
    co_return Expected<void>();
  }

  template <class Arguments>
  Task<Expected<void>> create(TransactionContext& context, const Arguments& arguments,
                              schema::MirrorSyncMode sync, NodeRef target) {
    BackupOptions options = options_of(arguments);
    KeptPlaces places;
    places.add(*source_);
    places.add(*target);
    BB_CO_TRY(move_to_context(*target, source_->context()));
    options.source = source_;
    options.sync = sync_of(sync);
    BB_CO_TRY(choose_bitmap(arguments, sync, options));
    const bool guessed =
        !driver_facts(*target) && target->skip_filters()->backing_node() == nullptr;
    options.target = std::move(target);
    options.job.transaction = context.group;
    if (guessed) options.warn = [&context] { context.warn(kUnknownCluster); };
    auto created = co_await BackupJob::create(context.jobs, std::move(options));
    if (!created) co_return fail(std::move(created).error());
    job_ = *created;
    places_ = std::move(places);
    co_return Expected<void>();
  }

  NodeRef source_;
  KeptPlaces places_;
  DrainedSection drained_;
  std::shared_ptr<BackupJob> job_;
};

class BlockdevBackupAction final : public BackupAction {
 public:
  explicit BlockdevBackupAction(schema::BlockdevBackup arguments)
      : arguments_(std::move(arguments)) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    BB_CO_TRY(co_await find_source(context, arguments_.device));
    auto target = context.graph.find_device_or_node(arguments_.target, arguments_.target);
    if (!target) co_return fail(std::move(target).error());
    co_return co_await create(context, arguments_, arguments_.sync, NodeRef(**target));
  }

 private:
  schema::BlockdevBackup arguments_;
};

class DriveBackupAction final : public BackupAction {
 public:
  explicit DriveBackupAction(schema::DriveBackup arguments) : arguments_(std::move(arguments)) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    BB_CO_TRY(co_await find_source(context, arguments_.device));
    // Before a file is made that nobody would use.
    BB_CO_TRY(source_->operations().check(Operation::kBackupSource));

    const bool existing = arguments_.mode == schema::NewImageMode::kExisting;
    schema::MirrorSyncMode sync = arguments_.sync;
    // What the new image stands on: for top what the source stands on, for none the source.
    Node* backing = nullptr;
    if (arguments_.sync == schema::MirrorSyncMode::kTop) {
      backing = source_->skip_filters()->backing_node();
      if (backing == nullptr) sync = schema::MirrorSyncMode::kFull;
    }
    const bool on_source = arguments_.sync == schema::MirrorSyncMode::kNone;
    if (on_source) backing = source_.get();

    std::string format =
        arguments_.format.value_or(existing ? "" : std::string(source_->driver().name()));
    if (!existing) BB_CO_TRY(co_await make_image(context, format, backing));
    auto target = co_await open_target(context, format, on_source);
    if (!target) co_return fail(std::move(target).error());
    Expected<void> result = co_await create(context, arguments_, sync, std::move(*target));
    *target = NodeRef();
    if (!result) co_await context.graph.close_unreferenced();
    co_return result;
  }

 private:
  Task<Expected<void>> make_image(TransactionContext& context, std::string format, Node* backing) {
    ImageFileRequest request;
    request.filename = arguments_.target;
    request.format = std::move(format);
    request.size = source_->length();
    if (backing != nullptr) {
      Node& shown = *backing->skip_hidden();
      request.backing_file = shown.filename();
      request.backing_format = shown.driver().name();
    }
    return create_image_file(
        context.graph, create_file, std::move(request),
        [&context](std::string_view line) { context.print(std::string(line) + "\n"); });
  }

  Task<Expected<NodeRef>> open_target(TransactionContext& context, const std::string& format,
                                      bool on_source) {
    Graph::OpenRequest request;
    request.filename = arguments_.target;
    if (!format.empty()) request.options.set("driver", format);
    request.options.set("discard", "unmap");
    request.options.set("detect-zeroes", "unmap");
    request.no_backing = on_source;
    auto target = co_await context.graph.open(std::move(request));
    if (!target || !on_source || !(*target)->driver().supports_backing()) co_return target;
    // The new image shows the source itself, not another opening of its file.
    Expected<void> attached;
    {
      GraphChange change(context.graph);
      attached = change.move_to_context(**target, source_->context());
      change.attach_child(**target, "backing", kCowRole, *source_);
      if (attached) attached = change.check();
      if (attached) change.commit();
    }
    if (attached) co_return target;
    *target = NodeRef();
    co_await context.graph.close_unreferenced();
    co_return fail(std::move(attached).error());
  }

  schema::DriveBackup arguments_;
};

}  // namespace

std::unique_ptr<Action> drive_backup_action(schema::DriveBackup arguments) {
  return std::make_unique<DriveBackupAction>(std::move(arguments));
}

std::unique_ptr<Action> blockdev_backup_action(schema::BlockdevBackup arguments) {
  return std::make_unique<BlockdevBackupAction>(std::move(arguments));
}

void register_backup_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::DriveBackup>(
      [&graph, &jobs](CommandContext& command, c::DriveBackup::Args arguments) {
        return run_action(command, graph, jobs, drive_backup_action(std::move(arguments)));
      });
  commands.implement<c::BlockdevBackup>(
      [&graph, &jobs](CommandContext& command, c::BlockdevBackup::Args arguments) {
        return run_action(command, graph, jobs, blockdev_backup_action(std::move(arguments)));
      });
}

}  // namespace blockbed
