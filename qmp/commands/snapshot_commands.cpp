#include "qmp/commands/snapshot_commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/formats/image_create.h"
#include "block/graph/backend.h"
#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "block/graph/kept_places.h"
#include "block/graph/medium.h"
#include "block/graph/reopen.h"
#include "block/protocols/file_create.h"
#include "qmp/monitor/command_context.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

class OverlayAction : public Action {
 public:
  Task<void> commit(TransactionContext& context) override {
    places_.keep();
    // Nobody writes to it any more. Who still insists on writing keeps it writable.
    if (old_->flags().read_only || cumulative_permissions(*old_).needs.has(Permission::kWrite)) {
      co_return;
    }
    (void)co_await reopen_read_only(context.graph, *old_, true);
  }

  Task<void> abort(TransactionContext& context) override {
    {
      GraphChange change(context.graph);
      Expected<void> undone;
      for (Edge* user : users_of_disk_) {
        if (undone && user->node() == overlay_.get()) undone = change.replace_node(*user, *old_);
      }
      if (undone) undone = change.detach_child(*overlay_->cow_edge());
      if (undone) undone = change.check();
      BB_ASSERT(undone.has_value());  // it was so before
      change.commit();
    }
    places_.put_back();
    overlay_ = NodeRef();
    co_return;
  }

  void release() override {
    drained_.end();
    overlay_ = NodeRef();
    old_ = NodeRef();
  }

 protected:
  // `name` is what the client calls it.
  Task<Expected<void>> stop(Node& node, std::string name) {
    old_ = NodeRef(node);
    drained_ = co_await drain(node);
    if (!has_medium(node)) co_return fail(fmt::format("Device '{}' has no medium", name));
    BB_CO_TRY(node.operations().check(Operation::kExternalSnapshot));
    if (node.writable()) {
      if (!co_await node.flush()) co_return fail("An IO error has occurred");
    }
    co_return Expected<void>();
  }

  Expected<void> put_over(Graph& graph, NodeRef overlay) {
    if (cumulative_permissions(*overlay).needs.has(Permission::kConsistentRead)) {
      return fail("The overlay is already in use");
    }
    if (overlay->driver().is_filter()) return fail("Filters cannot be used as overlays");
    if (overlay->cow_edge() != nullptr) return fail("The overlay already has a backing image");
    if (!overlay->driver().supports_backing()) {
      return fail("The overlay does not support backing images");
    }
    if (reaches(*old_, *overlay)) return would_be_cycle(*old_, "backing", *overlay);
    KeptPlaces places;
    places.add(*old_);
    places.add(*overlay);
    std::vector<Edge*> users = old_->parents();
    GraphChange change(graph);
    change.attach_child(*overlay, "backing", kCowRole, *old_);
    BB_TRY(change.replace_in_parents(*old_, *overlay));
    BB_TRY(change.check());
    change.commit();
    places_ = std::move(places);
    users_of_disk_ = std::move(users);
    overlay_ = std::move(overlay);
    return {};
  }

  NodeRef old_;
  NodeRef overlay_;
  // Before the overlay was put over it: others that use the overlay have not come with it. All of
  // them are there in abort().
  std::vector<Edge*> users_of_disk_;
  KeptPlaces places_;
  DrainedSection drained_;
};

class SnapshotAction final : public OverlayAction {
 public:
  explicit SnapshotAction(schema::BlockdevSnapshot arguments) : arguments_(std::move(arguments)) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    auto found = context.graph.find_device_or_node(arguments_.node, arguments_.node);
    if (!found) co_return fail(std::move(found).error());
    BB_CO_TRY(co_await stop(**found, arguments_.node));
    auto overlay = context.graph.find_device_or_node(arguments_.overlay, arguments_.overlay);
    if (!overlay) co_return fail(std::move(overlay).error());
    co_return put_over(context.graph, NodeRef(**overlay));
  }

 private:
  schema::BlockdevSnapshot arguments_;
};

class SnapshotSyncAction final : public OverlayAction {
 public:
  explicit SnapshotSyncAction(schema::BlockdevSnapshotSync arguments)
      : arguments_(std::move(arguments)) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    auto found = context.graph.find_device_or_node(arguments_.device, arguments_.node_name);
    if (!found) co_return fail(std::move(found).error());
    BB_CO_TRY(
        co_await stop(**found, arguments_.device.value_or(arguments_.node_name.value_or(""))));
    if (arguments_.node_name && !arguments_.snapshot_node_name) {
      co_return fail("New overlay node-name missing");
    }
    if (arguments_.snapshot_node_name &&
        context.graph.find_device_or_node(*arguments_.snapshot_node_name,
                                          *arguments_.snapshot_node_name)) {
      co_return fail("New overlay node-name already in use");
    }
    const std::string format = arguments_.format.value_or("qcow2");
    if (arguments_.mode != schema::NewImageMode::kExisting) {
      BB_CO_TRY(co_await make_image(context, format));
    }

    Graph::OpenRequest request;
    request.filename = arguments_.snapshot_file;
    request.options.set("driver", format);
    if (arguments_.snapshot_node_name) {
      request.options.set("node-name", *arguments_.snapshot_node_name);
    }
    InheritedOptions inherited;
    inherited.flags.read_only = old_->flags().read_only;
    inherited.flags.auto_read_only = old_->flags().auto_read_only;
    inherited.flags.unmap = old_->flags().unmap;
    inherited.flags.cache_direct = old_->flags().cache_direct;
    inherited.flags.cache_no_flush = old_->flags().cache_no_flush;
    inherited.flags.inactive = old_->flags().inactive;
    request.inherited = inherited;
    request.no_backing = true;
    auto overlay = co_await context.graph.open(std::move(request));
    if (!overlay) co_return fail(std::move(overlay).error());
    Expected<void> put = put_over(context.graph, std::move(*overlay));
    if (!put) {
      *overlay = NodeRef();
      co_await context.graph.close_unreferenced();
    }
    co_return put;
  }

 private:
  Task<Expected<void>> make_image(TransactionContext& context, const std::string& format) {
    ImageFileRequest request;
    request.filename = arguments_.snapshot_file;
    request.format = format;
    request.size = old_->length();
    request.backing_file = old_->filename();
    request.backing_format = old_->driver().name();
    return create_image_file(
        context.graph, create_file, std::move(request),
        [&context](std::string_view line) { context.print(std::string(line) + "\n"); });
  }

  schema::BlockdevSnapshotSync arguments_;
};

}  // namespace

std::unique_ptr<Action> snapshot_action(schema::BlockdevSnapshot arguments) {
  return std::make_unique<SnapshotAction>(std::move(arguments));
}

std::unique_ptr<Action> snapshot_sync_action(schema::BlockdevSnapshotSync arguments) {
  return std::make_unique<SnapshotSyncAction>(std::move(arguments));
}

void register_snapshot_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::BlockdevSnapshot>(
      [&graph, &jobs](CommandContext& command, c::BlockdevSnapshot::Args arguments) {
        return run_action(command, graph, jobs, snapshot_action(std::move(arguments)));
      });
  commands.implement<c::BlockdevSnapshotSync>(
      [&graph, &jobs](CommandContext& command, c::BlockdevSnapshotSync::Args arguments) {
        return run_action(command, graph, jobs, snapshot_sync_action(std::move(arguments)));
      });
}

}  // namespace blockbed
