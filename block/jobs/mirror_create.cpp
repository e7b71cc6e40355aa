// How a mirror is made.
#include <fmt/format.h>

#include <algorithm>

#include "block/filters/mirror_top.h"
#include "block/graph/chain.h"
#include "block/graph/filter_insertion.h"
#include "block/graph/graph_change.h"
#include "block/jobs/job_registry.h"
#include "block/jobs/mirror.h"

namespace blockbed {

namespace {

constexpr uint64_t kLargestDefaultGranularity = 65536;
constexpr uint64_t kSmallestDefaultGranularity = 4096;

// Others may look at the nodes of the job, and even write to them: what they write is seen.
constexpr Permissions kSharedWithOthers =
    Permission::kConsistentRead | Permission::kWrite | Permissions(Permission::kWriteUnchanged);

uint64_t default_granularity(const Node& target) {
  const uint64_t cluster = target.driver().info().cluster_size;
  if (cluster == 0) return kLargestDefaultGranularity;
  return std::clamp(cluster, kSmallestDefaultGranularity, kLargestDefaultGranularity);
}

MirrorCopy::Settings settings_of(const MirrorOptions& options) {
  Node& target = *options.target;
  MirrorCopy::Settings settings;
  settings.granularity =
      options.granularity != 0 ? options.granularity : default_granularity(target);
  if (options.buffer_size != 0) {
    settings.buffer_size = static_cast<uint64_t>(options.buffer_size);
    if (const uint64_t over = settings.buffer_size % settings.granularity; over != 0) {
      settings.buffer_size += settings.granularity - over;
    }
  }
  // A backing file that is named, and is not there yet: the rest of a cluster cannot come from it.
  Node& image = *target.skip_filters();
  if (image.backing_node() == nullptr && !image.driver().backing_file_name().empty()) {
    settings.unit = std::max<uint64_t>(image.driver().info().cluster_size, 1);
  }
  settings.unmap = options.unmap;
  settings.zeroes_cost = !target.flags().unmap || !target.driver().honours_unmap();
  return settings;
}

}  // namespace

Expected<void> MirrorJob::check(const MirrorOptions& options) {
  if (options.buffer_size < 0) return fail("Invalid parameter 'buf-size'");
  if (options.source->skip_filters() == options.target->skip_filters()) {
    return fail("Can't mirror node into itself");
  }
  const uint64_t granularity =
      options.granularity != 0 ? options.granularity : default_granularity(*options.target);
  if (!Bitmap::fits(options.source->length(), granularity)) {
    return fail(fmt::format("'{}' is too large for a mirror: at most {} pieces can be remembered",
                            options.source->name(), Bitmap::kMaxBits));
  }
  return {};
}

Task<Expected<std::shared_ptr<MirrorJob>>> MirrorJob::create(JobRegistry& registry,
                                                             MirrorOptions options) {
  Graph& graph = registry.graph();
  BB_ASSERT(options.source->quiesced());
  BB_CO_TRY(check(options));
  const bool over_target = chain_contains(*options.source, *options.target);
  JobFilter description;
  description.node_name = options.filter_node_name;
  description.make = [over_target](Node& node, Edge& below) -> std::unique_ptr<Driver> {
    return std::make_unique<MirrorTop>(node, below, over_target);
  };
  auto filter = co_await insert_filter(graph, *options.source, std::move(description));
  if (!filter) co_return fail(std::move(filter).error());

  if (!options.named && options.job.id.empty()) options.job.id = (*filter)->device_name();
  if (auto possible = registry.check_id(options.job.id); !possible) {
    co_await remove_filter(graph, std::move(*filter));
    co_return fail(std::move(possible).error());
  }
  const MirrorCopy::Settings settings = settings_of(options);
  auto job =
      std::make_shared<MirrorJob>(registry, std::move(options), std::move(*filter), settings);
  registry.add(job);
  if (Expected<void> attached = job->attach(); !attached) {
    registry.give_up(*job);
    co_await job->clean();
    co_return fail(std::move(attached).error());
  }
  // From the first request on: one that goes to the source alone may end when the job is ready, and
  // the target would lack it.
  job->copy_->set_writes_to_both(job->options_.write_blocking && job->target_fits());
  MirrorTop::of(*job->filter_).set_copy(&*job->copy_);
  job->copy_->set_progress(&job->counted());
  co_return job;
}

Expected<void> MirrorJob::attach() {
  BB_TRY(set_speed(options_.speed));
  BB_TRY(add_node("main node", *filter_, {Permission::kConsistentRead, kSharedWithOthers}));
  // Writes to a backing file do not change what the layers above it show, once they are done.
  const bool below = chain_contains(source(), target());
  PermissionPair wanted{Permission::kWrite, Permission::kWriteUnchanged};
  if (below) {
    wanted.shares = kSharedWithOthers;
    if (target().length() < source().length()) wanted.needs |= Permission::kResize;
  }
  BB_TRY(target_->set_permissions(wanted));
  BB_TRY(target_->insert(target()));
  BB_TRY(add_node("source", source(), {Permissions::none(), kSharedWithOthers}));
  BB_TRY(add_node("target", target(), {Permissions::none(), Permissions::all()}));
  if (!below) return {};
  PermissionPair between{Permissions::none(),
                         Permission::kWrite | Permissions(Permission::kWriteUnchanged)};
  const Node* const over_target = overlay_of(source(), &target())->backing_node();
  for (Node* node = source().filter_or_cow_node(); node != &target();
       node = node->filter_or_cow_node()) {
    // Filters over the target show what it holds.
    if (node == over_target) between.shares |= Permission::kConsistentRead;
    BB_TRY(add_node("intermediate node", *node, between));
  }
  auto frozen = FrozenChain::freeze(*filter_, target());
  if (!frozen) return fail(std::move(frozen).error());
  frozen_ = std::move(*frozen);
  return {};
}

}  // namespace blockbed
