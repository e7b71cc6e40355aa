#include "block/filters/quorum.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/filters/compare_buffers.h"
#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "block/graph/node.h"
#include "block/graph/shown_name.h"
#include "block/runtime/event_sink.h"
#include "block/runtime/gate.h"
#include "schema/block_core.h"
#include "schema/block_event.h"

namespace blockbed {

namespace {

// Who else wrote to a copy would make it differ from the others.
constexpr Permissions kSharedByCopies = Permission::kConsistentRead | Permission::kWriteUnchanged;

constexpr uint64_t kSector = 512;
// A vote needs a buffer for each copy.
constexpr uint64_t kMaxTransfer = uint64_t{64} << 20;
constexpr std::string_view kOptionsThatMatter[] = {"vote-threshold", "blkverify",
                                                   "rewrite-corrupted", "read-pattern"};

constexpr int kRead = static_cast<int>(schema::QuorumOpType::kRead);
constexpr int kWrite = static_cast<int>(schema::QuorumOpType::kWrite);
constexpr int kFlush = static_cast<int>(schema::QuorumOpType::kFlush);

int64_t first_sector(uint64_t offset) { return static_cast<int64_t>(offset / kSector); }
int64_t sectors(uint64_t offset, uint64_t length) {
  return static_cast<int64_t>((offset + length + kSector - 1) / kSector) - first_sector(offset);
}

Expected<Quorum::Options> read_options(const schema::BlockdevOptionsQuorum& own) {
  const std::size_t children = own.children.size();
  if (children == 0) return fail("Number of provided children must be 1 or more");
  if (own.vote_threshold < 1) {
    return fail("Parameter 'vote-threshold' expects a value >= 1");
  }
  if (static_cast<uint64_t>(own.vote_threshold) > children) {
    return fail("threshold may not exceed children count");
  }
  Quorum::Options options;
  options.vote_threshold = static_cast<std::size_t>(own.vote_threshold);
  options.fifo = own.read_pattern == schema::QuorumReadPattern::kFifo;
  // Without votes there is nothing to verify or to rewrite.
  if (options.fifo) return options;
  options.blkverify = own.blkverify.value_or(false);
  options.rewrite_corrupted = own.rewrite_corrupted.value_or(false);
  if (options.blkverify && (children != 2 || options.vote_threshold != 2)) {
    return fail(
        "blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
  }
  if (options.blkverify && options.rewrite_corrupted) {
    return fail("rewrite-corrupted=on cannot be used with blkverify=on");
  }
  return options;
}

std::size_t successes(const std::vector<Result<void>>& results) {
  return static_cast<std::size_t>(
      std::ranges::count_if(results, [](const Result<void>& r) { return r.has_value(); }));
}

std::string child_name(std::size_t index) { return fmt::format("children.{}", index); }

Task<void> keep_result(Task<Result<void>> request, Result<void>& into) {
  into = co_await std::move(request);
}

}  // namespace

Task<Expected<std::unique_ptr<Driver>>> Quorum::open(OpenContext& context,
                                                     const schema::BlockdevOptions& options) {
  const auto& given = std::get<schema::BlockdevOptionsQuorum>(options.u);
  auto own = read_options(given);
  if (!own) co_return fail(std::move(own).error());
  // From the first child on, as it will be with all of them.
  PermissionPair meanwhile{Permissions::none(), kSharedByCopies};
  if (own->rewrite_corrupted) meanwhile.needs |= Permission::kWrite;
  for (std::size_t i = 0; i < given.children.size(); ++i) {
    auto child = co_await context.open_child(child_name(i), ChildRole::kData, meanwhile);
    if (!child) co_return fail(std::move(child).error());
  }
  co_return std::make_unique<Quorum>(context.node(), *own, given.children.size());
}

// --- requests

Task<std::vector<Result<void>>> Quorum::send(const Request& request) {
  std::vector<Result<void>> results(copies().size());
  Gate all(node().graph().executor());
  for (std::size_t i = 0; i < results.size(); ++i) {
    all.spawn(keep_result(request(*copies()[i], i), results[i]));
  }
  co_await all.close();
  co_return results;
}

Result<void> Quorum::judge(int type, uint64_t offset, uint64_t length,
                           const std::vector<Result<void>>& results) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!results[i]) report_bad(type, *copies()[i], offset, length, results[i].error());
  }
  if (successes(results) >= options_.vote_threshold) return {};
  if (type != kFlush) report_failure(offset, length);
  return io_error(vote_on_errors(results));
}

Task<Result<void>> Quorum::read(uint64_t offset, IoVector buffers, RequestFlags) {
  if (options_.fifo) return read_first(offset, std::move(buffers));
  return read_voting(offset, std::move(buffers));
}

Task<Result<void>> Quorum::read_first(uint64_t offset, IoVector buffers) {
  Result<void> done;
  for (std::size_t i = 0; i < copies().size(); ++i) {
    done = co_await copies()[i]->read(offset, buffers);
    if (done) break;
    report_bad(kRead, *copies()[i], offset, buffers.size(), done.error());
  }
  co_return done;
}

Task<Result<void>> Quorum::read_voting(uint64_t offset, IoVector buffers) {
  const uint64_t length = buffers.size();
  // The first copy is read to where the bytes are wanted: mostly it wins.
  std::vector<Buffer> memory(copies().size());
  const auto read = [&](Edge& copy, std::size_t i) -> Task<Result<void>> {
    if (i == 0) return copy.read(offset, buffers);
    memory[i] = Buffer(length);
    return copy.read(offset, memory[i].io());
  };
  const std::vector<Result<void>> results = co_await send(read);
  if (successes(results) < options_.vote_threshold) {
    co_return judge(kRead, offset, length, results);
  }

  std::vector<Edge*> voters;
  std::vector<IoVector> votes;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!results[i]) {
      report_bad(kRead, *copies()[i], offset, length, results[i].error());
      continue;
    }
    voters.push_back(copies()[i].get());
    votes.push_back(i == 0 ? buffers : memory[i].io());
  }
  const QuorumVersions versions = count_versions(votes);
  if (options_.blkverify && !versions.unanimous()) {
    stop_on_mismatch(node().graph().events(),
                     fmt::format("quorum: offset={} bytes={} contents mismatch at offset {}",
                                 offset, length, offset + *first_difference(votes[0], votes[1])));
  }
  const std::size_t winner = versions.winner();
  if (versions.votes[winner] < options_.vote_threshold) {
    report_failure(offset, length);
    co_return io_error(EIO);
  }
  std::vector<Edge*> losers;
  for (std::size_t i = 0; i < voters.size(); ++i) {
    if (versions.of[i] == winner) continue;
    report_bad(kRead, *voters[i], offset, length, std::nullopt);
    losers.push_back(voters[i]);
  }
  const auto first =
      static_cast<std::size_t>(std::ranges::find(versions.of, winner) - versions.of.begin());
  if (options_.rewrite_corrupted && !losers.empty()) {
    co_await rewrite(offset, votes[first], std::move(losers));
  }
  // All copies but the first were read into one range each.
  if (voters[first] != copies()[0].get()) buffers.copy_from(votes[first].ranges()[0].iov_base);
  co_return Result<void>();
}

// Whether that succeeds changes nothing for who reads.
Task<void> Quorum::rewrite(uint64_t offset, IoVector right, std::vector<Edge*> losers) {
  std::vector<Result<void>> ignored(losers.size());
  Gate all(node().graph().executor());
  for (std::size_t i = 0; i < losers.size(); ++i) {
    all.spawn(keep_result(losers[i]->write(offset, right), ignored[i]));
  }
  co_await all.close();
}

Task<Result<void>> Quorum::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  const auto results =
      co_await send([&](Edge& copy, std::size_t) { return copy.write(offset, buffers, flags); });
  co_return judge(kWrite, offset, buffers.size(), results);
}

Task<Result<void>> Quorum::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  const auto results =
      co_await send([&](Edge& copy, std::size_t) { return copy.zero(offset, length, flags); });
  co_return judge(kWrite, offset, length, results);
}

Task<Result<void>> Quorum::flush_to_children() {
  const auto results = co_await send([](Edge& copy, std::size_t) { return copy.flush(); });
  co_return judge(kFlush, 0, 0, results);
}

// Bytes that one copy holds as data are data: only where all say so there are zeroes.
Task<Result<BlockStatus>> Quorum::block_status(uint64_t offset, uint64_t length, bool want_zero) {
  BlockStatus result;
  result.allocated = true;
  result.zero = true;
  result.length = length;
  uint64_t data = 0;
  for (std::size_t i = 0; i < copies().size(); ++i) {
    auto answer = co_await chain_status(*copies()[i]->node(), nullptr, /*include_base=*/false,
                                        offset, length, want_zero);
    if (!answer || answer->status.length == 0) {
      // Who cannot tell may hold anything.
      data = length;
      break;
    }
    const BlockStatus& status = answer->status;
    if (status.zero || !status.allocated) {
      result.length = std::min(result.length, status.length);
    } else {
      data = std::max(data, status.length);
    }
  }
  if (data > 0) {
    result.zero = false;
    result.data = true;
    result.length = data;
  }
  co_return result;
}

// --- events

void Quorum::report_bad(int type, const Edge& copy, uint64_t offset, uint64_t length,
                        std::optional<Errno> error) {
  schema::events::QuorumReportBad event;
  event.type = static_cast<schema::QuorumOpType>(type);
  if (error) event.error = strerror_text(*error);
  event.node_name = copy.node()->name();
  event.sector_num = first_sector(offset);
  event.sectors_count = sectors(offset, length);
  node().graph().events().emit(event);
}

void Quorum::report_failure(uint64_t offset, uint64_t length) {
  schema::events::QuorumFailure event;
  event.reference = shown_name(node());
  event.sector_num = first_sector(offset);
  event.sectors_count = sectors(offset, length);
  node().graph().events().emit(event);
}

// --- size, permissions, facts

Task<Result<uint64_t>> Quorum::length() {
  std::optional<uint64_t> common;
  for (std::size_t i = 0; i < copies().size(); ++i) {
    auto length = co_await copies()[i]->node()->refresh_length();
    if (!length) co_return io_error(length.error());
    if (common && *common != *length) {
      // A copy that came later may be of any size: the disk stays as long as it was.
      if (agreed_length_) co_return *agreed_length_;
      co_return io_error(EIO);
    }
    common = *length;
  }
  agreed_length_ = common.value_or(0);
  co_return *agreed_length_;
}

bool Quorum::length_varies() const {
  return std::ranges::any_of(
      copies(), [](const auto& copy) { return copy->node()->driver().length_varies(); });
}

PermissionPair Quorum::child_permissions(const Edge*, ChildRoles, PermissionPair parent,
                                         bool) const {
  PermissionPair result;
  result.needs = parent.needs & kPassedThrough;
  if (options_.rewrite_corrupted) result.needs |= Permission::kWrite;
  result.shares = (parent.shares & kSharedByCopies) | Permission::kWriteUnchanged;
  return result;
}

void Quorum::refresh_limits(BlockLimits& limits) const {
  for (const auto& copy : copies()) {
    if (copy->node() == nullptr) continue;
    limits.request_alignment =
        std::max(limits.request_alignment, copy->node()->limits().request_alignment);
  }
  limits.max_transfer =
      limits.max_transfer == 0 ? kMaxTransfer : std::min(limits.max_transfer, kMaxTransfer);
}

void Quorum::gather_filename_options(json::Object& options) const {
  for (const std::string_view key : kOptionsThatMatter) {
    if (const json::Value* value = node().given_options().find(key)) {
      options.set(key, *value);
    }
  }
}

// --- children that come and go

Task<Expected<void>> Quorum::add_child(Node& child) {
  if (options_.blkverify) co_return fail("Cannot add a child to a quorum in blkverify mode");
  std::string name = child_name(next_child_);
  if (reaches(child, node())) co_return would_be_cycle(child, name, node());
  const DrainedSection drained = co_await drain({&node(), &child});
  GraphChange change(node().graph());
  change.attach_child(node(), std::move(name), ChildRole::kData, child);
  change.recheck(node());
  BB_CO_TRY(change.check());
  change.commit();
  ++next_child_;
  node().refresh_limits();
  co_return Expected<void>();
}

Task<Expected<void>> Quorum::remove_child(Edge& edge) {
  if (copies().size() <= options_.vote_threshold) {
    co_return fail(fmt::format("The number of children cannot be lower than the vote threshold {}",
                               options_.vote_threshold));
  }
  // The number of the last one is free again.
  const bool is_last = edge.name() == child_name(next_child_ - 1);
  const DrainedSection drained = co_await drain({&node(), edge.node()});
  GraphChange change(node().graph());
  change.release_context(*edge.node());
  BB_CO_TRY(change.detach_child(edge));
  BB_CO_TRY(change.check());
  change.commit();
  if (is_last) --next_child_;
  node().refresh_limits();
  co_return Expected<void>();
}

}  // namespace blockbed
