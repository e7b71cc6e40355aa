#include "block/filters/copy_on_read.h"

#include <fmt/format.h>

#include "block/graph/chain.h"
#include "block/graph/medium.h"
#include "block/graph/node.h"
#include "schema/block_core.h"

namespace blockbed {

Task<Expected<std::unique_ptr<Driver>>> CopyOnRead::open(OpenContext& context,
                                                         const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsCor>(options.u);
  auto file = co_await context.open_child("file", kFilteredRoles);
  if (!file) co_return fail(std::move(file).error());
  NodeRef bottom;
  FrozenChain frozen;
  if (own.bottom) {
    Node* found = context.graph().find_node(*own.bottom);
    if (found == nullptr) co_return fail(fmt::format("Bottom node '{}' not found", *own.bottom));
    // This node, or one around it: they have names before they are open.
    const bool being_opened = !found->is_open();
    if (!being_opened && lost_its_medium(*found)) {
      co_return fail(fmt::format("Bottom node '{}' not opened", *own.bottom));
    }
    if (found == &context.node() || (!being_opened && found->driver().is_filter())) {
      co_return fail(fmt::format("Bottom node '{}' is a filter", *own.bottom));
    }
    if (being_opened || !chain_contains(*(*file)->node(), *found)) {
      co_return fail(fmt::format("Bottom node '{}' is not in the chain of '{}'", *own.bottom,
                                 (*file)->node()->name()));
    }
    auto links = FrozenChain::freeze(**file, *found);
    if (!links) co_return fail(std::move(links).error());
    frozen = std::move(*links);
    bottom = NodeRef(*found);
  }
  co_return std::make_unique<CopyOnRead>(context.node(), **file, std::move(bottom),
                                         std::move(frozen));
}

Task<Result<void>> CopyOnRead::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  flags.copy_on_read = true;
  if (!bottom_) co_return co_await file_.read(offset, std::move(buffers), flags);

  const uint64_t length = buffers.size();
  for (uint64_t done = 0; done < length;) {
    auto above = co_await chain_content(*file_.node(), bottom_.get(), offset + done, length - done);
    if (!above) co_return io_error(above.error());
    // Nothing is said of what lies beyond the end.
    const uint64_t run = above->length > 0 ? above->length : length - done;
    flags.copy_on_read = above->allocated;
    if (above->allocated || !flags.prefetch) {
      BB_CO_TRY(co_await file_.read(offset + done, buffers.slice(done, run), flags));
    }
    done += run;
  }
  co_return Result<void>();
}

Task<Result<void>> CopyOnRead::write_compressed(uint64_t offset, IoVector buffers) {
  return file_.write(offset, std::move(buffers), RequestFlags().with_compressed());
}

bool CopyOnRead::can_write_compressed() const {
  return file_.node()->driver().can_write_compressed();
}

PermissionPair CopyOnRead::child_permissions(const Edge*, ChildRoles roles, PermissionPair parent,
                                             bool writable) const {
  PermissionPair result = default_child_permissions(node(), roles, parent, writable);
  if (!node().flags().inactive) result.needs |= Permission::kWriteUnchanged;
  result.shares |= Permission::kWriteUnchanged;
  return result;
}

Task<void> CopyOnRead::close() {
  frozen_.release();
  bottom_ = NodeRef();
  co_return;
}

}  // namespace blockbed
