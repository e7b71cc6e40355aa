#include "block/sim/sim_storage.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "block/runtime/assert.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_file.h"

namespace blockbed::sim {

namespace {

bool touches(const FaultRule& rule, uint64_t offset, uint64_t length) {
  if (length == 0) return true;
  const uint64_t rule_end =
      rule.length > UINT64_MAX - rule.offset ? UINT64_MAX : rule.offset + rule.length;
  return offset < rule_end && rule.offset < offset + length;
}

}  // namespace

SimStorage::SimStorage(SimEnv& env, uint64_t seed)
    : env_(env), latency_random_(seed, 1), fault_random_(seed, 2) {}

SimStorage::~SimStorage() { BB_ASSERT(open_files_ == 0); }

std::shared_ptr<SimStorage::Inode> SimStorage::make_inode(const std::string& path, SimDisk disk) {
  auto inode = std::make_shared<Inode>();
  inode->number = next_inode_++;
  inode->path = path;
  inode->disk = std::move(disk);
  if (const auto before = names_.find(path); before != names_.end()) {
    before->second->removed = true;
  }
  names_[path] = inode;
  return inode;
}

std::shared_ptr<SimStorage::Inode> SimStorage::find(const std::string& path) const {
  const auto found = names_.find(path);
  return found == names_.end() ? nullptr : found->second;
}

void SimStorage::put(const std::string& path, SparseBytes content) {
  BB_ASSERT(!recording_on_);
  make_inode(path, SimDisk(std::move(content)));
}

void SimStorage::put(const std::string& path, std::span<const std::byte> content) {
  SparseBytes bytes(content.size());
  bytes.write(0, content);
  put(path, std::move(bytes));
}

void SimStorage::put_device(const std::string& path, SparseBytes content) {
  put(path, std::move(content));
  names_[path]->kind = FileKind::kBlockDevice;
}

bool SimStorage::exists(const std::string& path) const { return names_.contains(path); }

const SparseBytes& SimStorage::content(const std::string& path) const {
  const auto inode = find(path);
  BB_ASSERT(inode != nullptr);
  return inode->disk.live();
}

void SimStorage::set_read_only(const std::string& path, bool read_only) {
  const auto inode = find(path);
  BB_ASSERT(inode != nullptr);
  inode->read_only = read_only;
}

void SimStorage::set_capacity(const std::string& path, std::optional<uint64_t> bytes) {
  const auto inode = find(path);
  BB_ASSERT(inode != nullptr);
  inode->capacity = bytes;
}

uint64_t SimStorage::refused_for_space(const std::string& path) const {
  const auto inode = find(path);
  BB_ASSERT(inode != nullptr);
  return inode->refused_for_space;
}

SimStorage::RuleId SimStorage::add_fault(FaultRule rule) {
  auto made = std::make_unique<Rule>();
  made->id = next_rule_++;
  made->rule = std::move(rule);
  made->held = std::make_unique<WaitQueue>(env_.executor());
  made->watchers = std::make_unique<WaitQueue>(env_.executor());
  rules_.push_back(std::move(made));
  return rules_.back()->id;
}

// The Rule itself stays: requests that it holds come back to it.
void SimStorage::remove_fault(RuleId id) {
  for (const auto& rule : rules_) {
    if (rule->id == id) rule->removed = true;
  }
}

void SimStorage::release(RuleId id) {
  remove_fault(id);
  for (const auto& rule : rules_) {
    if (rule->id == id) rule->held->wake_all();
  }
}

uint64_t SimStorage::hits(RuleId id) const {
  const auto found = std::ranges::find(rules_, id, [](const auto& rule) { return rule->id; });
  BB_ASSERT(found != rules_.end());
  return (*found)->hits;
}

Task<void> SimStorage::wait_for_hits(RuleId id, uint64_t count) {
  const auto found = std::ranges::find(rules_, id, [](const auto& rule) { return rule->id; });
  BB_ASSERT(found != rules_.end());
  Rule& rule = **found;
  while (rule.hits < count) co_await rule.watchers->wait();
}

uint64_t SimStorage::requests(SimRequest kind) const {
  const auto found = request_counts_.find(kind);
  return found == request_counts_.end() ? 0 : found->second;
}

SimStorage::Verdict SimStorage::judge(const std::string& path, SimRequest kind, uint64_t offset,
                                      uint64_t length) {
  for (const auto& candidate : rules_) {
    Rule& rule = *candidate;
    const FaultRule& fault = rule.rule;
    if (rule.removed || (fault.requests & kind) == 0 || rule.hits >= fault.times) continue;
    if (!fault.path.empty() && fault.path != path) continue;
    if (!touches(fault, offset, length)) continue;
    if (rule.seen++ < fault.skip) continue;
    if (fault.percent < 100 && !fault_random_.percent(fault.percent)) continue;
    ++rule.hits;
    rule.watchers->wake_all();
    env_.note("fault", rule.id, kind, static_cast<uint64_t>(fault.error));
    return {fault.error, fault.delay, fault.hold ? &rule : nullptr};
  }
  return {};
}

Task<int> SimStorage::pass(const std::string& path, SimRequest kind, uint64_t offset,
                           uint64_t length) {
  ++request_counts_[kind];
  env_.note("request", kind, offset, length);
  if (!powered_) co_return EIO;
  const Verdict verdict = judge(path, kind, offset, length);
  const bool at_once = latency_random_.percent(latency_.at_once);
  const int64_t time = latency_random_.between(latency_.min, latency_.max);
  if (verdict.holder != nullptr) co_await verdict.holder->held->wait();
  if (verdict.delay > 0 || !at_once) co_await env_.delay(verdict.delay + (at_once ? 0 : time));
  co_return powered_ ? verdict.error : EIO;
}

void SimStorage::count_operation() {
  ++operations_;
  if (operations_ == power_off_at_) power_off();
}

void SimStorage::happened(StorageEvent event) {
  if (!powered_) return;
  env_.note("storage", static_cast<uint64_t>(event.kind), event.file, event.change.offset);
  if (recording_on_) recording_.push_back(std::move(event));
  count_operation();
}

bool SimStorage::has_room(const Inode& inode, const Change& what) const {
  if (what.kind != Change::Kind::kWrite || inode.kind != FileKind::kRegular) return true;
  if (!capacity_ && !inode.capacity) return true;
  const SparseBytes& live = inode.disk.live();
  const uint64_t more = live.space_for(what.offset, what.length);
  if (inode.capacity && more > 0 && live.allocated() + more > *inode.capacity) return false;
  if (!capacity_ || more == 0) return true;
  uint64_t used = 0;
  for (const auto& [path, other] : names_) used += other->disk.live().allocated();
  return used + more <= *capacity_;
}

void SimStorage::take_effect(Inode& inode, const Change& what) { inode.disk.apply(what); }

void SimStorage::fail_partly(Inode& inode, const Change& what, uint64_t request) {
  if (what.kind != Change::Kind::kWrite) return;
  // One kept sector after the other, as changes of their own, inside the size that the file has.
  CrashSubset subset = CrashSubset::seeded(fault_random_.next());
  subset.begin_change();
  const uint64_t end = std::min(what.end(), inode.disk.live().size());
  for (uint64_t at = what.offset; at < end;) {
    const uint64_t next = std::min((at / kSector + 1) * kSector, end);
    if (subset.sector()) {
      const auto piece = std::span(*what.data).subspan(at - what.offset, next - at);
      Change part;
      part.offset = at;
      part.length = next - at;
      part.data = std::make_shared<const std::vector<std::byte>>(piece.begin(), piece.end());
      take_effect(inode, part);
      happened({StorageEvent::Kind::kChangeTakesEffect, inode.number, request, part});
      if (!powered_) return;
    }
    at = next;
  }
}

Task<int> SimStorage::change(std::shared_ptr<Inode> inode, SimRequest kind, Change what) {
  if (!powered_) co_return EIO;
  const uint64_t request = next_request_++;
  inode->in_flight.push_back({request, what});
  happened({StorageEvent::Kind::kChangeBegins, inode->number, request, what});
  int error = co_await pass(inode->path, kind, what.offset,
                            what.kind == Change::Kind::kResize ? 0 : what.length);
  std::erase_if(inode->in_flight, [request](const InFlight& f) { return f.request == request; });
  if (!powered_) co_return EIO;
  if (error == 0 && !has_room(*inode, what)) {
    error = ENOSPC;
    ++inode->refused_for_space;
  }
  if (error == 0) {
    take_effect(*inode, what);
    happened({StorageEvent::Kind::kChangeTakesEffect, inode->number, request, what});
  } else {
    fail_partly(*inode, what, request);
  }
  if (error != 0 && powered_) {
    happened({StorageEvent::Kind::kChangeEnds, inode->number, request});
  }
  // A crash at the very moment of completion: the caller does not hear of it any more.
  co_return powered_ ? error : EIO;
}

Task<int> SimStorage::flush(std::shared_ptr<Inode> inode) {
  if (!powered_) co_return EIO;
  const uint64_t request = next_request_++;
  const uint64_t mark = inode->disk.mark();
  happened({StorageEvent::Kind::kFlushBegins, inode->number, request});
  const int error = co_await pass(inode->path, kSimFlush, 0, 0);
  if (!powered_) co_return EIO;
  if (error == 0) {
    inode->disk.make_durable(mark);
    happened({StorageEvent::Kind::kFlushEnds, inode->number, request});
  } else {
    const uint64_t seed = fault_random_.next();
    inode->disk.flush_failed(mark, CrashSubset::seeded(seed));
    happened({StorageEvent::Kind::kFlushFails, inode->number, request, {}, {}, seed});
  }
  co_return powered_ ? error : EIO;
}

Task<int> SimStorage::read(std::shared_ptr<Inode> inode, uint64_t offset, IoVector buffers) {
  const uint64_t length = buffers.size();
  const int error = co_await pass(inode->path, kSimRead, offset, length);
  if (error != 0) co_return error;
  inode->disk.live().read(offset, buffers);
  for (const InFlight& other : inode->in_flight) {
    const Change& what = other.change;
    if (what.kind != Change::Kind::kWrite) continue;
    const uint64_t begin = std::max(offset, what.offset);
    const uint64_t end = std::min({offset + length, what.end(), inode->disk.live().size()});
    for (uint64_t at = begin; at < end;) {
      const uint64_t next = std::min((at / kSector + 1) * kSector, end);
      if (fault_random_.percent(50)) {
        buffers.slice(at - offset, next - at).copy_from(what.data->data() + (at - what.offset));
      }
      at = next;
    }
  }
  co_return 0;
}

void SimStorage::power_off() {
  if (!powered_) return;
  powered_ = false;
  env_.note("power off", operations_);
  for (const auto& [path, inode] : names_) {
    Frozen frozen{path, inode->disk, {}};
    for (const InFlight& f : inode->in_flight) frozen.in_flight.push_back(f.change);
    frozen_.push_back(std::move(frozen));
  }
  for (const auto& rule : rules_) rule->held->wake_all();
}

StorageImage SimStorage::crash_image(CrashSubset subset) const {
  BB_ASSERT(!powered_);
  StorageImage result;
  for (const Frozen& frozen : frozen_) {
    result[frozen.path] = frozen.disk.after_crash(subset, frozen.in_flight);
  }
  return result;
}

void SimStorage::power_on(StorageImage image) {
  BB_ASSERT(!powered_ && open_files_ == 0);
  const auto before = std::exchange(names_, {});
  frozen_.clear();
  recording_on_ = false;
  power_off_at_ = UINT64_MAX;
  powered_ = true;
  for (auto& [path, content] : image) {
    const auto inode = make_inode(path, SimDisk(std::move(content)));
    if (const auto old = before.find(path); old != before.end()) {
      inode->kind = old->second->kind;
      inode->read_only = old->second->read_only;
    }
  }
  for (const auto& rule : rules_) rule->removed = true;
}

StorageImage SimStorage::image() const {
  StorageImage result;
  for (const auto& [path, inode] : names_) result[path] = inode->disk.live();
  return result;
}

void SimStorage::record() {
  BB_ASSERT(powered_ && !recording_on_);
  recording_on_ = true;
  recording_.clear();
  recorded_names_.clear();
  recorded_start_ = image();
  for (const auto& [path, inode] : names_) {
    BB_ASSERT(inode->disk.clean() && inode->in_flight.empty());
    recorded_names_[inode->number] = path;
  }
}

Task<Result<std::unique_ptr<File>>> SimStorage::open(std::string path, FileOpenOptions options) {
  const int error = co_await pass(path, kSimOpen, 0, 0);
  if (error != 0) co_return io_error(error);
  std::shared_ptr<Inode> inode = find(path);
  if (inode == nullptr) {
    if (!options.create) co_return io_error(ENOENT);
    inode = make_inode(path, SimDisk());
    happened({StorageEvent::Kind::kCreated, inode->number, 0, {}, path});
  } else if (options.write && inode->read_only) {
    co_return io_error(EACCES);
  }
  auto file = std::make_unique<SimFile>(*this, inode, options);
  if (options.truncate && inode->kind == FileKind::kRegular) {
    const auto emptied = co_await file->truncate(0, FilePreallocation::kOff);
    if (!emptied) {
      co_await file->close();
      co_return io_error(emptied.error());
    }
  }
  co_return file;
}

Task<Result<void>> SimStorage::unlink(std::string path) {
  const int error = co_await pass(path, kSimUnlink, 0, 0);
  if (error != 0) co_return io_error(error);
  const auto inode = find(path);
  if (inode == nullptr) co_return io_error(ENOENT);
  inode->removed = true;
  names_.erase(path);
  happened({StorageEvent::Kind::kRemoved, inode->number, 0, {}, path});
  co_return {};
}

}  // namespace blockbed::sim
