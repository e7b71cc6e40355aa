#include "qmp/commands/mirror_commands.h"

#include <fmt/format.h>

#include <bit>
#include <optional>

#include "block/filters/target_size.h"
#include "block/formats/image_create.h"
#include "block/graph/drain.h"
#include "block/graph/kept_places.h"
#include "block/jobs/mirror.h"
#include "block/jobs/replacement.h"
#include "block/protocols/file_create.h"
#include "qmp/commands/job_arguments.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "schema/block_graph.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

constexpr uint64_t kMinGranularity = 512;
constexpr uint64_t kMaxGranularity = uint64_t{64} << 20;

Expected<void> check_replaced(Graph& graph, Node& source, const std::string& name) {
  Node* node = graph.find_node(name);
  if (node == nullptr) return fail(fmt::format("Failed to find node with node-name='{}'", name));
  BB_TRY(node->operations().check(Operation::kReplace));
  if (!may_be_replaced(source, *node)) {
    return fail(
        fmt::format("Cannot replace '{}' by a node mirrored from '{}', because it cannot be "
                    "guaranteed that doing so would not lead to an abrupt change of visible data",
                    name, source.name()));
  }
  if (!same_sectors(source, *node) && !same_sectors(*node, source)) {
    return fail("cannot replace image with a mirror image of different size");
  }
  return {};
}

// What drive-mirror and blockdev-mirror have in common has the same names in both.
template <class Arguments>
MirrorOptions options_of(const Arguments& arguments) {
  MirrorOptions options;
  options.job = job_parameters(arguments);
  options.named = arguments.job_id.has_value();
  options.sync = arguments.sync == schema::MirrorSyncMode::kTop    ? MirrorSync::kTop
                 : arguments.sync == schema::MirrorSyncMode::kNone ? MirrorSync::kNone
                                                                   : MirrorSync::kFull;
  options.write_blocking = arguments.copy_mode == schema::MirrorCopyMode::kWriteBlocking;
  options.speed = arguments.speed.value_or(0);
  options.granularity = arguments.granularity.value_or(0);
  options.buffer_size = arguments.buf_size.value_or(0);
  options.on_source_error = error_policy(arguments.on_source_error);
  options.on_target_error = error_policy(arguments.on_target_error);
  options.replaces = arguments.replaces;
  return options;
}

// The end of both commands: the checks that they share, and the start. The caller holds the lock.
Task<Expected<std::shared_ptr<Job>>> start(Graph& graph, JobRegistry& jobs,
                                           schema::MirrorSyncMode sync, MirrorOptions options) {
  Node& source = *options.source;
  KeptPlaces places;
  places.add(source);
  places.add(*options.target);
  BB_CO_TRY(move_to_context(*options.target, source.context()));
  if (options.granularity != 0) {
    if (options.granularity < kMinGranularity || options.granularity > kMaxGranularity) {
      co_return fail("Parameter 'granularity' expects a value in range [512B, 64MB]");
    }
    if (!std::has_single_bit(options.granularity)) {
      co_return fail("Parameter 'granularity' expects a power of 2");
    }
  }
  BB_CO_TRY(source.operations().check(Operation::kMirrorSource));
  BB_CO_TRY(options.target->operations().check(Operation::kMirrorTarget));
  if (options.sync == MirrorSync::kTop && source.skip_filters()->backing_node() == nullptr) {
    options.sync = MirrorSync::kFull;
  }
  if (options.replaces) BB_CO_TRY(check_replaced(graph, source, *options.replaces));
  if (sync == schema::MirrorSyncMode::kIncremental || sync == schema::MirrorSyncMode::kBitmap) {
    co_return fail(fmt::format("Sync mode '{}' not supported", name(sync)));
  }
  DrainedSection drained = co_await drain(source);
  auto job = co_await MirrorJob::create(jobs, std::move(options));
  drained.end();
  if (!job) co_return fail(std::move(job).error());
  places.keep();
  jobs.start(**job);
  co_return std::shared_ptr<Job>(*job);
}

Task<Expected<void>> settle(JobRegistry& jobs, MutexGuard lock,
                            Expected<std::shared_ptr<Job>> started) {
  lock.unlock();
  if (!started) co_return fail(std::move(started).error());
  co_await jobs.settle(std::move(*started));
  co_return Expected<void>();
}

Task<Expected<void>> blockdev_mirror(Graph& graph, JobRegistry& jobs,
                                     c::BlockdevMirror::Args arguments) {
  MutexGuard lock = co_await graph.lock();
  auto source = find_root_node(graph, arguments.device);
  if (!source) co_return fail(std::move(source).error());
  auto target = graph.find_device_or_node(arguments.target, arguments.target);
  if (!target) co_return fail(std::move(target).error());
  MirrorOptions options = options_of(arguments);
  // A disk without a backing file has no other layers: `top` is then as `full`, but for the target,
  // which keeps what it has where nothing is copied.
  options.zero_target = arguments.sync == schema::MirrorSyncMode::kFull;
  options.source = NodeRef(**source);
  options.target = NodeRef(**target);
  options.filter_node_name = arguments.filter_node_name;
  auto job = co_await start(graph, jobs, arguments.sync, std::move(options));
  co_return co_await settle(jobs, std::move(lock), std::move(job));
}

// --- drive-mirror

class DriveMirror {
 public:
  DriveMirror(CommandContext& command, Graph& graph, JobRegistry& jobs,
              schema::DriveMirror arguments)
      : command_(command), graph_(graph), jobs_(jobs), arguments_(std::move(arguments)) {}

  Task<Expected<void>> run() {
    MutexGuard lock = co_await graph_.lock();
    auto job = co_await start_job();
    co_await graph_.close_unreferenced();
    co_return co_await settle(jobs_, std::move(lock), std::move(job));
  }

 private:
  bool existing() const { return arguments_.mode == schema::NewImageMode::kExisting; }

  Task<Expected<std::shared_ptr<Job>>> start_job() {
    auto source = find_root_node(graph_, arguments_.device);
    if (!source) co_return fail(std::move(source).error());
    source_ = NodeRef(**source);
    // Before a file is made that nobody would use.
    BB_CO_TRY(source_->operations().check(Operation::kMirrorSource));
    Node* backing = source_->skip_filters()->backing_node();
    if (arguments_.sync == schema::MirrorSyncMode::kTop && backing == nullptr) {
      arguments_.sync = schema::MirrorSyncMode::kFull;
    }
    if (arguments_.sync == schema::MirrorSyncMode::kNone) backing = source_.get();
    if (arguments_.sync == schema::MirrorSyncMode::kFull) backing = nullptr;
    // Which node that is is looked at when the target is there.
    if (arguments_.replaces && !arguments_.node_name) {
      co_return fail("a node-name must be provided when replacing a named node of the graph");
    }
    if (!existing()) {
      if (!arguments_.format) arguments_.format = source_->driver().name();
      BB_CO_TRY(co_await make_image(backing));
    }
    auto target = co_await open_target();
    if (!target) co_return fail(std::move(target).error());

    MirrorOptions options = options_of(arguments_);
    options.unmap = arguments_.unmap.value_or(true);
    options.zero_target = existing() || !(*target)->driver().has_zero_init();
    options.backing = existing() ? MirrorBacking::kOpen : MirrorBacking::kSource;
    options.source = source_;
    options.target = std::move(*target);
    co_return co_await start(graph_, jobs_, arguments_.sync, std::move(options));
  }

  Task<Expected<void>> make_image(Node* backing) {
    ImageFileRequest request;
    request.filename = arguments_.target;
    request.format = *arguments_.format;
    request.size = source_->length();
    if (backing != nullptr) {
      Node& shown = *backing->skip_hidden();
      request.backing_file = shown.filename();
      request.backing_format = shown.driver().name();
    }
    return create_image_file(
        graph_, create_file, std::move(request),
        [this](std::string_view line) { command_.monitor().print(std::string(line) + "\n"); });
  }

  // What the target stands on is decided when it takes the place of the source.
  Task<Expected<NodeRef>> open_target() {
    Graph::OpenRequest request;
    request.filename = arguments_.target;
    if (arguments_.format) request.options.set("driver", *arguments_.format);
    if (arguments_.node_name) request.options.set("node-name", *arguments_.node_name);
    InheritedOptions inherited;
    inherited.flags = source_->flags();
    inherited.flags.read_only = false;
    inherited.flags.detect_zeroes = DetectZeroes::kOff;
    request.inherited = inherited;
    request.no_backing = true;
    return graph_.open(std::move(request));
  }

  CommandContext& command_;
  Graph& graph_;
  JobRegistry& jobs_;
  schema::DriveMirror arguments_;
  NodeRef source_;
};

Task<Expected<void>> drive_mirror(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                  schema::DriveMirror arguments) {
  DriveMirror mirror(command, graph, jobs, std::move(arguments));
  co_return co_await mirror.run();
}

}  // namespace

void register_mirror_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::DriveMirror>(
      [&graph, &jobs](CommandContext& command, c::DriveMirror::Args arguments) {
        return drive_mirror(command, graph, jobs, std::move(arguments));
      });
  commands.implement<c::BlockdevMirror>(
      [&graph, &jobs](CommandContext&, c::BlockdevMirror::Args arguments) {
        return blockdev_mirror(graph, jobs, std::move(arguments));
      });
}

}  // namespace blockbed
