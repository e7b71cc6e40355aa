#include "qmp/commands/bitmap_commands.h"

#include <fmt/format.h>
#include <nettle/sha2.h>

#include <bit>

#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/medium.h"
#include "block/graph/persistent_bitmaps.h"
#include "block/graph/shown_name.h"
#include "block/jobs/bitmap_populate.h"
#include "qmp/commands/job_arguments.h"
#include "qmp/monitor/command_context.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

Expected<NodeRef> find_node(const Graph& graph, const std::string& name) {
  auto found = graph.find_device_or_node(name, name);
  if (!found) return fail(fmt::format("Node '{}' not found", name));
  return NodeRef(**found);
}

Task<Expected<void>> check_can_store(const Node& node, const std::string& name,
                                     uint64_t granularity) {
  const auto impossible = [&node](int error) {
    return fail(fmt::format("Can't store persistent bitmaps to {}: {}", shown_name(node),
                            strerror_text(error)));
  };
  if (lost_its_medium(node)) co_return impossible(ENOMEDIUM);
  PersistentBitmaps* const store = node.driver().persistent_bitmaps();
  if (store == nullptr) co_return impossible(ENOTSUP);
  auto possible = co_await store->can_store(name, granularity);
  if (possible) co_return Expected<void>();
  co_return fail(fmt::format("Can't make bitmap '{}' persistent in '{}': {}", name,
                             shown_name(node), possible.error().description));
}

// An action on a bitmap that is there.
class BitmapAction : public Action {
 public:
  explicit BitmapAction(schema::BlockDirtyBitmap arguments) : arguments_(std::move(arguments)) {}

  void release() override { node_ = NodeRef(); }
  bool needs_rest() const override { return true; }

 protected:
  Expected<void> find(const Graph& graph) {
    auto node = find_node(graph, arguments_.node);
    if (!node) return fail(std::move(node).error());
    node_ = std::move(*node);
    auto bitmap = find_dirty_bitmap(*node_, arguments_.name);
    if (!bitmap) return fail(std::move(bitmap).error());
    bitmap_ = *bitmap;
    return {};
  }

  // Before the marks change: what an image says of them must not be believed any more.
  Task<Expected<void>> begin_change() {
    if (!bitmap_->persistent()) co_return Expected<void>();
    co_return co_await node_->driver().persistent_bitmaps()->begin_change();
  }

  schema::BlockDirtyBitmap arguments_;
  NodeRef node_;
  DirtyBitmap* bitmap_ = nullptr;
};

class AddAction final : public Action {
 public:
  explicit AddAction(schema::BlockDirtyBitmapAdd arguments) : arguments_(std::move(arguments)) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    if (arguments_.name.empty()) co_return fail("Bitmap name cannot be empty");
    auto found = context.graph.find_device_or_node(arguments_.node, arguments_.node);
    if (!found) co_return fail(std::move(found).error());
    node_ = NodeRef(**found);
    const uint64_t granularity = arguments_.granularity.value_or(default_granularity(*node_));
    if (!std::has_single_bit(granularity) || granularity < DirtyBitmap::kMinGranularity) {
      co_return fail("Granularity must be power of 2 and at least 512");
    }
    const bool persistent = arguments_.persistent.value_or(false);
    if (persistent) BB_CO_TRY(co_await check_can_store(*node_, arguments_.name, granularity));
    if (lost_its_medium(*node_)) {
      co_return fail(fmt::format("could not get length of device: {}", strerror_text(ENOMEDIUM)));
    }
    auto created = node_->dirty_bitmaps().create(arguments_.name, granularity, node_->length());
    if (!created) co_return fail(std::move(created).error());
    bitmap_ = *created;
    bitmap_->set_enabled(!arguments_.disabled.value_or(false));
    bitmap_->set_persistent(persistent);
    co_return Expected<void>();
  }

  Task<void> abort(TransactionContext&) override {
    node_->dirty_bitmaps().remove(*bitmap_);
    co_return;
  }
  void release() override { node_ = NodeRef(); }
  bool needs_rest() const override { return true; }

 private:
  schema::BlockDirtyBitmapAdd arguments_;
  NodeRef node_;
  DirtyBitmap* bitmap_ = nullptr;
};

class RemoveAction final : public BitmapAction {
 public:
  using BitmapAction::BitmapAction;

  Task<Expected<void>> prepare(TransactionContext& context) override {
    BB_CO_TRY(find(context.graph));
    BB_CO_TRY(bitmap_->check(DirtyBitmap::Accept::kInconsistent));
    was_persistent_ = bitmap_->persistent();
    if (was_persistent_) {
      BB_CO_TRY(co_await node_->driver().persistent_bitmaps()->remove_stored(bitmap_->name()));
      // An image that is left for reading until the end does not get it again.
      bitmap_->set_persistent(false);
      bitmap_->set_removed();
    }
    use_ = DirtyBitmap::Use(*bitmap_);
    co_return Expected<void>();
  }
  Task<void> commit(TransactionContext&) override {
    use_ = DirtyBitmap::Use();
    node_->dirty_bitmaps().remove(*bitmap_);
    co_return;
  }
  Task<void> abort(TransactionContext&) override {
    use_ = DirtyBitmap::Use();
    bitmap_->set_persistent(was_persistent_);
    co_return;
  }

 private:
  bool was_persistent_ = false;
  // Later actions find it still, and may not touch it.
  DirtyBitmap::Use use_;
};

class ClearAction final : public BitmapAction {
 public:
  using BitmapAction::BitmapAction;

  Task<Expected<void>> prepare(TransactionContext& context) override {
    BB_CO_TRY(find(context.graph));
    BB_CO_TRY(bitmap_->check());
    BB_CO_TRY(co_await begin_change());
    before_ = bitmap_->clear();
    co_return Expected<void>();
  }
  // What was written since then stays marked.
  Task<void> abort(TransactionContext&) override {
    bitmap_->merge(before_);
    co_return;
  }

 private:
  Bitmap before_;
};

class EnableAction final : public BitmapAction {
 public:
  EnableAction(schema::BlockDirtyBitmap arguments, bool enabled)
      : BitmapAction(std::move(arguments)), enabled_(enabled) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    BB_CO_TRY(find(context.graph));
    BB_CO_TRY(bitmap_->check(DirtyBitmap::Accept::kReadOnly));
    before_ = bitmap_->enabled();
    bitmap_->set_enabled(enabled_);
    co_return Expected<void>();
  }
  Task<void> abort(TransactionContext&) override {
    bitmap_->set_enabled(before_);
    co_return;
  }

 private:
  const bool enabled_;
  bool before_ = false;
};

class MergeAction final : public BitmapAction {
 public:
  explicit MergeAction(schema::BlockDirtyBitmapMerge arguments)
      : BitmapAction({.node = arguments.node, .name = arguments.target}),
        sources_(std::move(arguments.bitmaps)) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    BB_CO_TRY(find(context.graph));
    std::vector<const DirtyBitmap*> sources;
    for (const schema::BlockDirtyBitmapOrStr& source : sources_) {
      auto found = find_source(context.graph, source);
      if (!found) co_return fail(std::move(found).error());
      // Of several reasons clients are told the first that they meet going from source to source.
      BB_CO_TRY(bitmap_->check());
      BB_CO_TRY((*found)->check(DirtyBitmap::Accept::kReadOnly));
      BB_CO_TRY((*found)->check_same_disk(bitmap_->length()));
      sources.push_back(*found);
    }
    BB_CO_TRY(bitmap_->check());
    BB_CO_TRY(co_await begin_change());
    before_ = bitmap_->bits();
    for (const DirtyBitmap* source : sources) bitmap_->merge(*source);
    co_return Expected<void>();
  }
  Task<void> abort(TransactionContext&) override {
    (void)bitmap_->replace(std::move(before_));
    co_return;
  }

 private:
  Expected<DirtyBitmap*> find_source(const Graph& graph,
                                     const schema::BlockDirtyBitmapOrStr& source) {
    if (const auto* local = std::get_if<std::string>(&source.u)) {
      return find_dirty_bitmap(*node_, *local);
    }
    const auto& external = std::get<schema::BlockDirtyBitmap>(source.u);
    auto node = find_node(graph, external.node);
    if (!node) return fail(std::move(node).error());
    return find_dirty_bitmap(**node, external.name);
  }

  std::vector<schema::BlockDirtyBitmapOrStr> sources_;
  Bitmap before_;
};

Expected<schema::BlockDirtyBitmapSha256> digest(const Graph& graph,
                                                const schema::BlockDirtyBitmap& arguments) {
  auto node = find_node(graph, arguments.node);
  if (!node) return fail(std::move(node).error());
  auto bitmap = find_dirty_bitmap(**node, arguments.name);
  if (!bitmap) return fail(std::move(bitmap).error());
  const std::span<const uint64_t> words = (*bitmap)->bits().words();
  sha256_ctx context;
  sha256_init(&context);
  sha256_update(&context, words.size_bytes(), reinterpret_cast<const uint8_t*>(words.data()));
  uint8_t bytes[SHA256_DIGEST_SIZE];
  sha256_digest(&context, sizeof(bytes), bytes);
  schema::BlockDirtyBitmapSha256 result;
  for (const uint8_t byte : bytes) result.sha256 += fmt::format("{:02x}", byte);
  return result;
}

Task<Expected<void>> populate(Graph& graph, JobRegistry& jobs,
                              schema::BlockDirtyBitmapPopulate arguments) {
  BitmapPopulateOptions options;
  options.job.id = arguments.job_id;
  options.job.auto_finalize = arguments.auto_finalize.value_or(true);
  options.job.auto_dismiss = arguments.auto_dismiss.value_or(true);
  options.on_error = error_policy(arguments.on_error);
  std::shared_ptr<BitmapPopulateJob> job;
  {
    MutexGuard lock = co_await graph.lock();
    auto node = find_node(graph, arguments.node);
    if (!node) co_return fail(std::move(node).error());
    auto bitmap = find_dirty_bitmap(**node, arguments.name);
    if (!bitmap) co_return fail(std::move(bitmap).error());
    options.node = std::move(*node);
    options.bitmap = *bitmap;
    auto created = co_await BitmapPopulateJob::create(jobs, std::move(options));
    if (!created) co_return fail(std::move(created).error());
    job = std::move(*created);
    jobs.start(*job);
  }
  co_await jobs.settle(std::move(job));
  co_return Expected<void>();
}

}  // namespace

std::unique_ptr<Action> bitmap_add_action(schema::BlockDirtyBitmapAdd arguments) {
  return std::make_unique<AddAction>(std::move(arguments));
}
std::unique_ptr<Action> bitmap_remove_action(schema::BlockDirtyBitmap arguments) {
  return std::make_unique<RemoveAction>(std::move(arguments));
}
std::unique_ptr<Action> bitmap_clear_action(schema::BlockDirtyBitmap arguments) {
  return std::make_unique<ClearAction>(std::move(arguments));
}
std::unique_ptr<Action> bitmap_enable_action(schema::BlockDirtyBitmap arguments, bool enabled) {
  return std::make_unique<EnableAction>(std::move(arguments), enabled);
}
std::unique_ptr<Action> bitmap_merge_action(schema::BlockDirtyBitmapMerge arguments) {
  return std::make_unique<MergeAction>(std::move(arguments));
}

void register_bitmap_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::BlockDirtyBitmapAdd>(
      [&graph, &jobs](CommandContext& command, c::BlockDirtyBitmapAdd::Args arguments) {
        return run_undrained(command, graph, jobs, bitmap_add_action(std::move(arguments)));
      });
  commands.implement<c::BlockDirtyBitmapRemove>(
      [&graph, &jobs](CommandContext& command, c::BlockDirtyBitmapRemove::Args arguments) {
        return run_undrained(command, graph, jobs, bitmap_remove_action(std::move(arguments)));
      });
  commands.implement<c::BlockDirtyBitmapClear>(
      [&graph, &jobs](CommandContext& command, c::BlockDirtyBitmapClear::Args arguments) {
        return run_undrained(command, graph, jobs, bitmap_clear_action(std::move(arguments)));
      });
  commands.implement<c::BlockDirtyBitmapEnable>(
      [&graph, &jobs](CommandContext& command, c::BlockDirtyBitmapEnable::Args arguments) {
        return run_undrained(command, graph, jobs,
                             bitmap_enable_action(std::move(arguments), true));
      });
  commands.implement<c::BlockDirtyBitmapDisable>(
      [&graph, &jobs](CommandContext& command, c::BlockDirtyBitmapDisable::Args arguments) {
        return run_undrained(command, graph, jobs,
                             bitmap_enable_action(std::move(arguments), false));
      });
  commands.implement<c::BlockDirtyBitmapMerge>(
      [&graph, &jobs](CommandContext& command, c::BlockDirtyBitmapMerge::Args arguments) {
        return run_undrained(command, graph, jobs, bitmap_merge_action(std::move(arguments)));
      });
  commands.implement<c::BlockDirtyBitmapPopulate>(
      [&graph, &jobs](CommandContext&, c::BlockDirtyBitmapPopulate::Args arguments) {
        return populate(graph, jobs, std::move(arguments));
      });
  commands.implement<c::XDebugBlockDirtyBitmapSha256>(
      [&graph](CommandContext&, c::XDebugBlockDirtyBitmapSha256::Args arguments) {
        return digest(graph, arguments);
      });
}

}  // namespace blockbed
