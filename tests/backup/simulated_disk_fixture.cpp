#include "tests/backup/simulated_disk_fixture.h"

#include <algorithm>

#include "tests/qcow2/image_fixture.h"

namespace blockbed::test {

namespace {

constexpr uint64_t kSector = GoldenDisk::kSector;
// In targets and in what lies below them: no guest ever wrote it.
constexpr uint64_t kJunk = 0xEEEEEEEEEEEEEEEE;
constexpr int kMostRequests = 250;

}  // namespace

SimulatedDisk::SimulatedDisk(World& world, int number, Coverage& coverage)
    : world_(world),
      chance_(world.env.chance()),
      coverage_(coverage),
      number_(number),
      plan_(chance_),
      golden_(plan_.size),
      base_content_(plan_.size / kSector),
      target_content_(plan_.size / kSector) {
  cluster_ = plan_.target.qcow2 ? std::max(kUnit, plan_.target.create.cluster_size) : kUnit;
  touched_.resize((plan_.size + cluster_ - 1) / cluster_);
  tried_.resize(touched_.size());
}

// --- images

void SimulatedDisk::populate(const std::string& path, const ImagePlan& plan, uint64_t size,
                             const std::string& backing, std::optional<uint64_t> number,
                             Note note) {
  const auto next = [this, number] { return number.value_or(golden_.next_number()); };
  world_.run(give_past(*world_.graph, chance_, definition_of(path, plan, backing), plan, size, next,
                       std::move(note)));
}

void SimulatedDisk::make() {
  world_.env.storage().set_latency(sim::SimLatency::none());
  make_base();
  make_source();
  make_target();
  world_.env.storage().set_latency(sim::SimLatency());
  coverage_.hit_if(plan_.source.qcow2, "qcow2 source");
  coverage_.hit_if(!plan_.source.qcow2, "raw source");
}

void SimulatedDisk::make_base() {
  if (!plan_.base) return;
  world_.run(make_image(world_.env, name('b'), *plan_.base, plan_.base_size));
  populate(name('b'), *plan_.base, plan_.base_size, "", std::nullopt,
           [this](uint64_t offset, uint64_t length, uint64_t number) {
             golden_.preset(offset, length, number);
             std::fill_n(base_content_.begin() + static_cast<std::ptrdiff_t>(offset / kSector),
                         length / kSector, number);
           });
  json::Object options = definition_of(name('b'), *plan_.base);
  options.set("read-only", true);
  world_.open(std::move(options));
  coverage_.hit_if(plan_.base_size < plan_.size, "backing file shorter than the disk");
}

void SimulatedDisk::make_source() {
  const std::string backing = plan_.base ? name('b') : "";
  world_.run(make_image(world_.env, name('s'), plan_.source, plan_.size));
  populate(name('s'), plan_.source, plan_.size, backing, std::nullopt,
           [this](uint64_t offset, uint64_t length, uint64_t number) {
             golden_.preset(offset, length, number);
           });
  source_ = &world_.open(definition_of(name('s'), plan_.source, backing));
  guest_ = world_.guest(*source_);
}

void SimulatedDisk::make_target() {
  std::string backing;
  switch (plan_.target_backing) {
    case TargetBacking::kNone:
      break;
    case TargetBacking::kSame:
      backing = name('b');
      target_content_ = base_content_;
      break;
    case TargetBacking::kOther: {
      std::vector<std::byte> junk(plan_.size);
      GoldenDisk::fill(junk, kJunk);
      world_.env.storage().put(name('o'), std::span<const std::byte>(junk));
      world_.open({{"driver", "file"},
                   {"node-name", name('o')},
                   {"filename", name('o')},
                   {"read-only", true}});
      backing = name('o');
      std::ranges::fill(target_content_, kJunk);
      break;
    }
    case TargetBacking::kSource:
      backing = name('s');
      break;
  }
  world_.run(make_image(world_.env, name('t'), plan_.target, plan_.size));
  if (plan_.junk) {
    populate(name('t'), plan_.target, plan_.size, backing, kJunk,
             [this](uint64_t offset, uint64_t length, uint64_t number) {
               std::fill_n(target_content_.begin() + static_cast<std::ptrdiff_t>(offset / kSector),
                           length / kSector, number);
             });
  }
  target_ = &world_.open(definition_of(name('t'), plan_.target, backing));
  if (plan_.target_backing == TargetBacking::kSource) {
    reader_ = std::make_unique<Backend>(
        *world_.graph, "", PermissionPair{Permission::kConsistentRead, Permissions::all()});
    EXPECT_TRUE(reader_->insert(*target_).has_value());
  }
}

// --- the guest

Task<void> SimulatedDisk::be_guest() {
  while (!stop_ && powered() && ++requests_ < kMostRequests) {
    co_await one_request();
    co_await world_.env.delay(chance_.between(0, 150'000));
  }
}

Task<void> SimulatedDisk::one_request() {
  const uint64_t sectors = plan_.size / kSector;
  const uint64_t first = chance_.below(sectors);
  const uint64_t most = chance_.percent(80) ? 24 : 600;
  const uint64_t count = 1 + chance_.below(std::min(most, sectors - first));
  const uint64_t offset = first * kSector, length = count * kSector;
  const uint64_t what = chance_.below(10);
  if (what == 0) {
    const uint64_t since = golden_.flush_begins();
    const Result<void> done = co_await guest_->flush();
    if (done) golden_.flushed(since);
    // The target's flushes are not the guest's.
    EXPECT_TRUE(done || !powered() || source_may_fail_);
  } else if (!golden_.busy(offset, length)) {
    if (what < 3) {
      co_await read_and_check(offset, length);
    } else {
      co_await change(offset, length);
    }
  }
}

Task<void> SimulatedDisk::read_and_check(uint64_t offset, uint64_t length) {
  golden_.reading(offset, length, true);
  Buffer buffer(length);
  const Result<void> done = co_await guest_->read(offset, buffer.io());
  golden_.reading(offset, length, false);
  EXPECT_TRUE(done || !powered() || source_may_fail_);
  if (!done || !powered()) co_return;
  for (uint64_t at = 0; at < length; at += kSector) {
    if (golden_.may_show((offset + at) / kSector, buffer.data() + at)) continue;
    ADD_FAILURE() << "the guest of disk " << number_ << " reads what it did not write at "
                  << offset + at;
    co_return;
  }
}

Task<void> SimulatedDisk::change(uint64_t offset, uint64_t length) {
  const uint64_t what = chance_.below(10);
  const bool discard = what == 9;
  if (discard && !plan_.discards()) co_return;
  const bool fua = !discard && chance_.percent(8);
  const uint64_t number = what < 7 ? golden_.next_number() : 0;
  golden_.begin(offset, length, number);
  Result<void> done;
  if (what < 7) {
    Buffer buffer(length);
    GoldenDisk::fill(buffer.span(), number);
    done = co_await guest_->write(offset, buffer.io(), RequestFlags().with_fua(fua));
  } else if (!discard) {
    done = co_await guest_->zero(offset, length,
                                 RequestFlags().with_may_unmap(chance_.percent(50)).with_fua(fua));
  } else {
    done = co_await guest_->discard(offset, length);
  }
  // Nothing but copy-before-write reads a raw disk that is being written.
  const bool carried_out_may_fail =
      plan_.source.qcow2 ? source_may_fail_ : source_changes_may_fail_;
  const bool refused = !done && powered() && !carried_out_may_fail;
  // Only what copy-before-write could not save.
  if (refused) EXPECT_TRUE((target_may_fail_ || source_may_fail_) && instant_);
  if (refused && what < 7) {
    // The disk is as it was; zeroing and discarding are done piece by piece.
    golden_.refused(offset, length);
    coverage_.hit(source_may_fail_ && !target_may_fail_
                      ? "guest write refused because the source could not be read"
                      : "guest write refused because its copy failed");
  } else {
    golden_.end(offset, length, number, done.has_value(), /*optional=*/discard);
    if (done && fua) golden_.durable(offset, length);
  }
  if (!instant_) co_return;
  for (uint64_t c = offset / cluster_; c <= (offset + length - 1) / cluster_; ++c) {
    tried_[c] = true;
    // A discard may have done nothing, and so need not have copied anything; and when the filter
    // is gone, the job is over.
    if (done && !discard && filtered()) touched_[c] = true;
  }
}

Task<void> SimulatedDisk::be_reader() {
  while (reader_ && !stop_ && powered() && ++requests_ < kMostRequests) {
    const uint64_t sectors = plan_.size / kSector;
    const uint64_t first = chance_.below(sectors);
    const uint64_t count = 1 + chance_.below(std::min<uint64_t>(200, sectors - first));
    Buffer buffer(count * kSector);
    const bool before = instant_ && filtered();
    const Result<void> done = co_await reader_->read(first * kSector, buffer.io());
    // The job held its hand over the disk all the time.
    if (before && filtered() && done) {
      coverage_.hit("the past was read while the job went on");
      for (uint64_t s = 0; s < count; ++s) {
        if (instant_->may_show(first + s, buffer.data() + s * kSector)) continue;
        ADD_FAILURE() << "a reader of the past of disk " << number_ << " sees "
                      << GoldenDisk::shown(buffer.data() + s * kSector).value_or(~0ull)
                      << " in sector " << first + s;
        co_return;
      }
    }
    EXPECT_TRUE(done || !powered() || source_may_fail_ || target_may_fail_);
    co_await world_.env.delay(chance_.between(0, 200'000));
  }
}

// --- the backup

void SimulatedDisk::take_instant(std::shared_ptr<BackupJob> job) {
  instant_.emplace(golden_);
  job_ = std::move(job);
}

void SimulatedDisk::add_faults() {
  const bool source_reads_only = chance_.percent(20);
  for (int64_t i = chance_.between(1, 3); i > 0; --i) {
    sim::FaultRule rule;
    const uint64_t where = source_reads_only ? 9 : chance_.below(10);
    const char kind = where < 6 ? 't' : where < 8 || !plan_.base ? 's' : 'b';
    rule.path = name(kind);
    constexpr unsigned kKinds[] = {sim::kSimRead | sim::kSimWrite | sim::kSimZero, sim::kSimRead,
                                   sim::kSimWrite, sim::kSimChanges | sim::kSimExtent,
                                   sim::kSimFlush};
    rule.requests =
        source_reads_only ? unsigned{sim::kSimRead} : kKinds[chance_.below(std::size(kKinds))];
    rule.error = chance_.percent(50) ? EIO : ENOSPC;
    // Flushes are rare.
    const uint64_t early = rule.requests == sim::kSimFlush ? 2 : 12;
    rule.skip = chance_.below(chance_.percent(70) ? early : 10 * early);
    rule.times = static_cast<uint64_t>(chance_.between(1, 4));
    faults_.push_back(world_.env.storage().add_fault(rule));
    if (rule.requests == sim::kSimFlush) flush_faults_.emplace_back(kind, faults_.back());
    (kind == 't' ? target_may_fail_ : source_may_fail_) = true;
    if (kind != 't' && rule.requests != sim::kSimRead) source_changes_may_fail_ = true;
  }
}

void SimulatedDisk::fill_up() {
  const uint64_t used = world_.env.storage().content(name('t')).allocated();
  world_.env.storage().set_capacity(name('t'), used + chance_.below(plan_.size));
  target_may_fail_ = full_ = true;
}

void SimulatedDisk::make_room() {
  if (full_) world_.env.storage().set_capacity(name('t'), std::nullopt);
  full_ = false;
}

void SimulatedDisk::end_faults() {
  for (const sim::SimStorage::RuleId fault : faults_) world_.env.storage().remove_fault(fault);
  make_room();
}

bool SimulatedDisk::met_faults() const {
  return std::ranges::any_of(faults_,
                             [this](auto fault) { return world_.env.storage().hits(fault) > 0; });
}

Task<bool> SimulatedDisk::flush_target() {
  Backend client(*world_.graph, "", kGuest);
  Result<void> flushed = io_error(EIO);
  {
    MutexGuard lock = co_await world_.graph->lock();
    const Expected<void> inserted = client.insert(*target_);
    EXPECT_TRUE(inserted.has_value()) << inserted.error().description;
    if (inserted) flushed = co_await client.flush();
    co_await client.remove();
  }
  co_return flushed.has_value();
}

bool SimulatedDisk::flush_failed(char kind) const {
  return std::ranges::any_of(flush_faults_, [&](const auto& fault) {
    return fault.first == kind && world_.env.storage().hits(fault.second) > 0;
  });
}

void SimulatedDisk::end_guest() {
  for (std::unique_ptr<Backend>* user : {&guest_, &reader_}) {
    if (*user) world_.run((*user)->remove());
    user->reset();
  }
}

void SimulatedDisk::close_target() {
  if (reader_) world_.run(reader_->remove());
  reader_.reset();
  world_.run(world_.drop(*std::exchange(target_, nullptr)));
}

void SimulatedDisk::close() {
  for (const char kind : {'t', 's', 'b', 'o'}) {
    if (Node* node = world_.graph->find_node(name(kind))) world_.run(world_.drop(*node));
  }
}

// --- the judgement

void SimulatedDisk::judge(World& world, Verdict verdict) const {
  world.env.storage().set_latency(sim::SimLatency::none());
  for (const char kind : {'b', 's', 't'}) {
    if (kind == 'b' && !plan_.base) continue;
    const ImagePlan& plan = kind == 's' ? plan_.source : kind == 't' ? plan_.target : *plan_.base;
    if (plan.qcow2) world.run(qcow2::test::expect_sound(world.env, name(kind), verdict.clean));
  }
  if (testing::Test::HasFailure()) return;
  std::string backing;
  if (plan_.base) {
    json::Object options = definition_of(name('b'), *plan_.base);
    options.set("read-only", true);
    world.open(std::move(options));
    backing = name('b');
  }
  Node& source = world.open(definition_of(name('s'), plan_.source, backing));
  const std::vector<std::byte> disk = content(world, source);
  const auto wrong = golden_.first_wrong(disk, verdict.crashed);
  EXPECT_FALSE(wrong.has_value())
      << "sector " << *wrong << " of disk " << number_ << " shows "
      << GoldenDisk::shown(disk.data() + *wrong * kSector).value_or(~0ull);
  if (plan_.target_backing == TargetBacking::kOther) {
    world.open({{"driver", "file"},
                {"node-name", name('o')},
                {"filename", name('o')},
                {"read-only", true}});
  }
  constexpr char kBelow[] = {0, 'b', 'o', 's'};
  const char below = kBelow[static_cast<int>(plan_.target_backing)];
  Node& target = world.open(definition_of(name('t'), plan_.target, below ? name(below) : ""));
  const std::vector<std::byte> copy = content(world, target);
  if (verdict.copied) judge_target(copy, verdict.crashed);
}

std::vector<std::byte> SimulatedDisk::content(World& world, Node& node) const {
  std::vector<std::byte> bytes(plan_.size);
  EXPECT_EQ(node.length(), plan_.size);
  const Result<void> read = world.run(node.read(0, IoVector(bytes.data(), bytes.size())));
  EXPECT_TRUE(read.has_value()) << node.name() << ": " << strerror_text(read.error());
  return bytes;
}

void SimulatedDisk::judge_target(const std::vector<std::byte>& copy, bool crashed) const {
  for (uint64_t sector = 0; sector < plan_.size / kSector; ++sector) {
    const std::byte* bytes = copy.data() + sector * kSector;
    ASSERT_TRUE(copied_right(sector, bytes, crashed))
        << "sector " << sector << " of the copy of disk " << number_ << " shows "
        << GoldenDisk::shown(bytes).value_or(~0ull) << ", which was not there at the instant";
  }
}

bool SimulatedDisk::copied_right(uint64_t sector, const std::byte* bytes, bool crashed) const {
  const bool as_then = instant_->may_show(sector, bytes);
  const bool untouched = GoldenDisk::shown(bytes) == target_content_[sector];
  switch (plan_.sync) {
    case BackupSync::kFull:
      return as_then;
    case BackupSync::kTop: {
      if (as_then) return true;
      // What shows something else than the base has it from the top layer.
      std::byte base[kSector];
      GoldenDisk::fill(base, base_content_[sector]);
      return untouched && instant_->may_show(sector, base);
    }
    case BackupSync::kNone: {
      const uint64_t cluster = sector * kSector / cluster_;
      if (touched_[cluster]) return as_then;
      if (plan_.target_backing == TargetBacking::kSource) {
        return as_then || golden_.may_show(sector, bytes, crashed);
      }
      return untouched || (tried_[cluster] && as_then);
    }
    case BackupSync::kBitmap:
      break;
  }
  return false;
}

}  // namespace blockbed::test
