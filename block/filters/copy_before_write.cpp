#include "block/filters/copy_before_write.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/chain.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/graph.h"
#include "block/graph/node.h"
#include "block/runtime/env.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

constexpr int64_t kSecond = 1'000'000'000;

// What is copied at once must fill whole clusters of the target: it would have to read the rest
// from somewhere else.
uint64_t copy_cluster_of(const Node& target) {
  return std::max(BlockCopy::kDefaultCluster, target.driver().info().cluster_size);
}

}  // namespace

struct CopyBeforeWrite::TimedCopy {
  explicit TimedCopy(Env& env) : timer(env.make_timer()) {}

  std::unique_ptr<Timer> timer;
  bool ended = false;
  Result<void> result;
};

class CopyBeforeWrite::DiskRead {
 public:
  DiskRead(CopyBeforeWrite& filter, uint64_t offset, uint64_t length)
      : begin(offset), end(offset + length), next(filter.disk_reads_), filter_(filter) {
    if (next != nullptr) next->previous_ = this;
    filter.disk_reads_ = this;
  }
  ~DiskRead() {
    (previous_ != nullptr ? previous_->next : filter_.disk_reads_) = next;
    if (next != nullptr) next->previous_ = previous_;
    filter_.disk_read_ended_.wake_all();
  }
  DiskRead(const DiskRead&) = delete;
  DiskRead& operator=(const DiskRead&) = delete;

  const uint64_t begin;
  const uint64_t end;
  DiskRead* next;

 private:
  CopyBeforeWrite& filter_;
  DiskRead* previous_ = nullptr;
};

Task<Expected<std::unique_ptr<Driver>>> CopyBeforeWrite::open(
    OpenContext& context, const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsCbw>(options.u);
  auto source = co_await context.open_child("file", kFilteredRoles);
  if (!source) co_return fail(std::move(source).error());
  auto target = co_await context.open_child("target", ChildRole::kData);
  if (!target) co_return fail(std::move(target).error());
  const DirtyBitmap* bitmap = nullptr;
  if (own.bitmap) {
    auto node = context.graph().find_device_or_node(own.bitmap->node, own.bitmap->node);
    if (!node) co_return fail(fmt::format("Node '{}' not found", own.bitmap->node));
    auto found = find_dirty_bitmap(**node, own.bitmap->name);
    if (!found) co_return fail(std::move(found).error());
    bitmap = *found;
  }

  Node& source_node = *(*source)->node();
  const uint64_t cluster = copy_cluster_of(*(*target)->node());
  if (!Bitmap::fits(source_node.length(), cluster)) {
    co_return fail(
        fmt::format("'{}' is too large for copy-before-write: at most {} clusters can be "
                    "remembered",
                    source_node.name(), Bitmap::kMaxBits));
  }
  auto driver = std::make_unique<CopyBeforeWrite>(context.node(), **source, **target, cluster);
  if (own.on_cbw_error == schema::OnCbwError::kBreakSnapshot) {
    driver->on_copy_error_ = OnCopyError::kBreakSnapshot;
  }
  driver->timeout_ns_ = static_cast<int64_t>(own.cbw_timeout.value_or(0)) * kSecond;
  BB_CO_TRY(driver->make_bitmaps(bitmap));
  driver->engine_.set_serialising(reaches(*(*target)->node(), source_node));
  co_return driver;
}

CopyBeforeWrite::CopyBeforeWrite(Node& node, Edge& source, Edge& target, uint64_t cluster_size)
    : Driver(node),
      source_(source),
      target_(target),
      engine_(node.env(), source, target, source.node()->length(), cluster_size),
      disk_read_ended_(node.graph().executor()),
      timed_copies_(node.graph().executor()) {}

Expected<void> CopyBeforeWrite::make_bitmaps(const DirtyBitmap* wanted) {
  const uint64_t length = source_.node()->length();
  if (wanted != nullptr) {
    const auto unusable = [&](std::string reason) {
      return fail(
          fmt::format("Cannot create block-copy-state: Failed to merge bitmap '{}' to "
                      "internal copy-bitmap: {}",
                      wanted->name(), reason));
    };
    if (auto usable = wanted->check(DirtyBitmap::Accept::kReadOnly); !usable) {
      return unusable(usable.error().description);
    }
    if (auto same = wanted->check_same_disk(length); !same) {
      return unusable(same.error().description);
    }
    engine_.select_only(*wanted);
  }
  for (DirtyBitmap** bitmap : {&done_, &access_}) {
    auto made = node().dirty_bitmaps().create_without_name(engine_.cluster_size(), length);
    if (!made) return fail(std::move(made).error());
    *bitmap = *made;
    (*bitmap)->set_enabled(false);
  }
  (void)access_->replace(engine_.bitmap());
  return {};
}

CopyBeforeWrite& CopyBeforeWrite::of(Node& node) {
  BB_ASSERT(node.driver().name() == kName);
  return static_cast<CopyBeforeWrite&>(node.driver());
}

// --- requests

Task<Result<void>> CopyBeforeWrite::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  return source_.read(offset, std::move(buffers), flags);
}

Task<Result<void>> CopyBeforeWrite::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  BB_CO_TRY(co_await before(offset, buffers.size(), flags.write_unchanged));
  co_return co_await source_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> CopyBeforeWrite::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  BB_CO_TRY(co_await before(offset, length, flags.write_unchanged));
  co_return co_await source_.zero(offset, length, flags);
}

Task<Result<void>> CopyBeforeWrite::discard(uint64_t offset, uint64_t length) {
  BB_CO_TRY(co_await before(offset, length, false));
  co_return co_await source_.discard(offset, length);
}

Task<Result<BlockStatus>> CopyBeforeWrite::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = source_.node();
  status.passes_through = true;
  co_return status;
}

Task<Result<void>> CopyBeforeWrite::before(uint64_t offset, uint64_t length, bool unchanged) {
  if (unchanged) co_return Result<void>();
  Result<void> copied;
  if (snapshot_error_ || !engine_.concerns(offset, length)) {
    // Nobody can read it any more; or somebody saved it, or nobody wants it.
  } else if (timeout_ns_ > 0) {
    copied = co_await copy_within_timeout(offset, length);
  } else {
    copied = co_await engine_.copy_before(offset, length);
  }
  if (copied) {
    // A disk that has become longer than a bitmap can be has no readers.
    if (!done_->inconsistent()) done_->set(offset, length);
  } else if (on_copy_error_ == OnCopyError::kBreakSnapshot) {
    if (!snapshot_error_) snapshot_error_ = copied.error();
  } else {
    co_return copied;
  }
  // Readers that came later go to the target, or are refused.
  while (read_from_disk_in(offset, offset + length)) co_await disk_read_ended_.wait();
  co_return Result<void>();
}

Task<Result<void>> CopyBeforeWrite::copy_within_timeout(uint64_t offset, uint64_t length) {
  auto copy = std::make_shared<TimedCopy>(node().env());
  timed_copies_.spawn(copy_in_background(offset, length, copy));
  if (!copy->ended) co_await copy->timer->wait_until(node().env().now() + timeout_ns_);
  if (!copy->ended) co_return io_error(ETIMEDOUT);
  co_return copy->result;
}

Task<void> CopyBeforeWrite::copy_in_background(uint64_t offset, uint64_t length,
                                               std::shared_ptr<TimedCopy> copy) {
  copy->result = co_await engine_.copy_before(offset, length);
  copy->ended = true;
  copy->timer->cancel();
  // The gate counts this task until it has ended; a drain looks again when it runs.
  node().graph().drain_progress();
}

// --- the instant

bool CopyBeforeWrite::read_from_disk_in(uint64_t begin, uint64_t end) const {
  for (const DiskRead* read = disk_reads_; read != nullptr; read = read->next) {
    if (read->begin < end && begin < read->end) return true;
  }
  return false;
}

bool CopyBeforeWrite::can_be_read(uint64_t offset, uint64_t length) const {
  return !snapshot_error_ && !refuses_readers_ && !access_->inconsistent() &&
         offset + length <= access_->length() && access_->next_clean(offset) >= offset + length;
}

CopyBeforeWrite::InstantPart CopyBeforeWrite::instant_part(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  const uint64_t saved = done_->next_dirty(offset);
  if (saved > offset) return {&source_, std::min(saved, end) - offset};
  return {&target_, std::min(done_->next_clean(offset), end) - offset};
}

Task<Result<void>> CopyBeforeWrite::read_instant(uint64_t offset, IoVector buffers) {
  for (uint64_t done = 0; done < buffers.size();) {
    const uint64_t at = offset + done;
    // Again each time: the snapshot may break meanwhile.
    if (!can_be_read(at, buffers.size() - done)) co_return io_error(EACCES);
    const InstantPart part = instant_part(at, buffers.size() - done);
    std::optional<DiskRead> read;
    if (part.place == &source_) read.emplace(*this, at, part.length);
    BB_CO_TRY(co_await part.place->read(at, buffers.slice(done, part.length)));
    done += part.length;
  }
  co_return Result<void>();
}

Task<Result<BlockStatus>> CopyBeforeWrite::instant_status(uint64_t offset, uint64_t length,
                                                          bool want_zero) {
  if (!can_be_read(offset, length)) co_return io_error(EACCES);
  const InstantPart part = instant_part(offset, length);
  std::optional<DiskRead> read;
  if (part.place == &source_) read.emplace(*this, offset, part.length);
  auto answer = co_await chain_status(*part.place->node(), /*base=*/nullptr, /*include_base=*/true,
                                      offset, part.length, want_zero);
  if (!answer) co_return io_error(answer.error());
  BlockStatus status = answer->status;
  status.eof = false;
  // Nothing lies below an instant: what no layer has reads as zeroes.
  if (!status.data) status.zero = true;
  co_return status;
}

Task<Result<void>> CopyBeforeWrite::discard_instant(uint64_t offset, uint64_t length) {
  // Of a broken snapshot too: what was saved takes up room still.
  if (access_->inconsistent() || offset + length > access_->length()) co_return io_error(EACCES);
  const uint64_t cluster = engine_.cluster_size();
  const uint64_t begin = (offset + cluster - 1) / cluster * cluster;
  uint64_t end = offset + length;
  if (end != engine_.length()) end -= end % cluster;
  if (begin >= end) co_return Result<void>();
  access_->unset(begin, end - begin);
  co_await engine_.deselect(begin, end);
  co_return co_await target_.discard(begin, end - begin);
}

// --- size, permissions, facts

Task<Result<uint64_t>> CopyBeforeWrite::length() { co_return source_.node()->length(); }

Task<Expected<void>> CopyBeforeWrite::truncate(uint64_t length, TruncateOptions options) {
  if (length < engine_.length()) {
    // The cluster that becomes shorter is saved as long as there is all of it.
    if (const uint64_t tail = length % engine_.cluster_size();
        tail > 0 && length < source_.node()->length()) {
      if (auto saved = co_await before(length - tail, tail, false); !saved) {
        co_return fail(fmt::format("Could not copy what the disk has at its new end: {}",
                                   strerror_text(saved.error())));
      }
    }
    co_await engine_.deselect(length, engine_.length());
  }
  co_return co_await source_.truncate(length, options);
}

void CopyBeforeWrite::child_resized(Edge& edge) {
  if (&edge != &source_) return;
  const uint64_t length = source_.node()->length();
  node().set_length(length);
  if (length >= engine_.length()) return;
  const uint64_t cluster = length - length % engine_.cluster_size();
  if (cluster < length && engine_.next_selected(cluster) == cluster) {
    // Resized below the filter: not saved, and it can be no more.
    if (!access_->inconsistent()) access_->unset(cluster, length - cluster);
  }
  engine_.bitmap().clear(cluster / engine_.cluster_size(), engine_.bitmap().size());
}

PermissionPair CopyBeforeWrite::child_permissions(const Edge* edge, ChildRoles roles,
                                                  PermissionPair parent, bool writable) const {
  (void)edge;
  if (!roles.has(ChildRole::kFiltered)) {
    // The target may be read by others, and written: when it stands on the disk, the guest's writes
    // go through below it.
    return {Permission::kWrite, Permissions::all() - Permission::kResize};
  }
  PermissionPair result = default_child_permissions(node(), roles, parent, writable);
  if (!node().parents().empty()) {
    if (parent.needs.has(Permission::kWrite)) result.needs |= Permission::kConsistentRead;
    result.shares = result.shares - (Permission::kWrite | Permission::kResize);
  }
  return result;
}

std::string CopyBeforeWrite::exact_filename() const { return source_.node()->filename(); }
DriverInfo CopyBeforeWrite::info() const { return source_.node()->driver().info(); }
bool CopyBeforeWrite::has_zero_init() const { return source_.node()->driver().has_zero_init(); }

Task<void> CopyBeforeWrite::close() { co_await timed_copies_.close(); }

}  // namespace blockbed
