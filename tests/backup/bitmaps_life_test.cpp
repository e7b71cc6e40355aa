// The life of an image with dirty bitmaps, cut off at every operation of the storage.
//
// A guest writes, a client adds, removes, clears, merges and copies bitmaps, transactions are
// aborted, the image is resized, closed and opened again. At each point what the next one to open
// the image may believe of a bitmap is what it was at one moment, and then the disk holds what it
// held at that moment: a bitmap is complete, or in use, or not there.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "block/formats/qcow2/check.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/drain.h"
#include "block/sim/crash_points.h"
#include "qmp/commands/bitmap_commands.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "tests/jobs/jobs_fixture.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::World;

constexpr uint64_t kSector = 512;
constexpr uint64_t kGranularity = 4096;
constexpr uint64_t kSizes[] = {192 * 1024, 256 * 1024, 256 * 1024 + 1536};

using Data = std::vector<uint64_t>;
using Bits = std::vector<uint8_t>;

// What was there between two steps, in memory.
struct Moment {
  uint64_t operation = 0;
  std::string step;
  // Every image is closed: all that is there must be found, and believed.
  bool closed = false;
  // The number that each sector holds.
  Data data;
  // Those that are to be kept.
  std::map<std::string, Bits> bitmaps;
};

class AbortAction final : public Action {
 public:
  Task<Expected<void>> prepare(TransactionContext&) override { co_return fail("aborted"); }
};

class Life {
 public:
  Life(uint64_t seed, qcow2::CreateOptions create)
      : world_(seed),
        chance_(world_.env.chance()),
        create_(std::move(create)),
        commands_(Manner::kSystem),
        monitor_(world_.env, commands_, human_, MonitorOptions()) {
    sim::SimLatency latency;
    latency.min = latency.max = 1;
    world_.env.storage().set_latency(latency);
    create_.size = kSizes[1];
    auto made = world_.run(qcow2::test::create_image(world_.env, "disk", create_));
    EXPECT_TRUE(made) << made.error().description;
    data_.resize(create_.size / kSector);
    for (const uint64_t size : kSizes) world_.file(target_of(size), sim::SparseBytes(size));
  }

  void go(int sessions, int steps) {
    world_.env.storage().record();
    base_ = world_.env.storage().operations();
    note("created", true);
    for (int session = 0; session < sessions; ++session) {
      open();
      for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
      close();
    }
  }

  const std::vector<Moment>& moments() const { return moments_; }
  sim::SimStorage& storage() { return world_.env.storage(); }
  // Operations before it all began.
  uint64_t base() const { return base_; }

 private:
  void note(std::string step, bool closed = false) {
    Moment moment;
    moment.operation = storage().operations();
    moment.step = std::move(step);
    moment.closed = closed;
    moment.data = data_;
    moment.bitmaps = closed && !moments_.empty() ? moments_.back().bitmaps : kept();
    moments_.push_back(std::move(moment));
  }

  std::map<std::string, Bits> kept() const {
    std::map<std::string, Bits> found;
    if (node_ == nullptr) return found;
    for (const auto& bitmap : node_->dirty_bitmaps()) {
      if (!bitmap->persistent()) continue;
      EXPECT_FALSE(bitmap->inconsistent());
      Bits& bits = found[bitmap->name()];
      for (uint64_t i = 0; i < bitmap->bits().size(); ++i) {
        bits.push_back(bitmap->bits().test(i) ? 1 : 0);
      }
    }
    return found;
  }

  void open() {
    json::Object options{{"driver", "qcow2"},
                         {"node-name", "disk"},
                         {"file", json::Object{{"driver", "file"}, {"filename", "disk"}}}};
    node_ = &world_.open(std::move(options));
    EXPECT_EQ(kept(), moments_.back().bitmaps) << "what was stored is not what is loaded";
    guest_ = std::make_unique<Backend>(
        *world_.graph, "",
        PermissionPair{test::kGuest.needs | Permissions(Permission::kResize), Permissions::all()});
    EXPECT_TRUE(guest_->insert(*node_));
    note("open");
  }

  void close() {
    note("work");
    world_.run(guest_->remove());
    guest_.reset();
    world_.run(world_.drop(*std::exchange(node_, nullptr)));
    note("close", true);
  }

  static std::string target_of(uint64_t size) { return fmt::format("target{}", size); }
  std::string name() { return fmt::format("b{}", chance_.below(3)); }

  void step() {
    switch (chance_.below(9)) {
      case 0:
      case 1:
      case 2:
        world_.run(write());
        return note("write");
      case 3:
        EXPECT_TRUE(world_.run(guest_->flush()));
        return note("flush");
      case 4:
        world_.run(backup());
        return note("backup and write");
      case 5:
        world_.run(resize());
        return note("resize");
      default: {
        const bool alone = chance_.percent(60);
        world_.run(transaction(alone));
        return note(alone ? fmt::format("{}", last_action_) : "transaction");
      }
    }
  }

  Task<void> write() {
    const uint64_t sectors = data_.size();
    const uint64_t first = chance_.below(sectors);
    const uint64_t count = std::min(1 + chance_.below(24), sectors - first);
    const bool zero = chance_.percent(25);
    const uint64_t number = zero ? 0 : ++number_;
    if (zero) {
      EXPECT_TRUE(co_await guest_->zero(first * kSector, count * kSector));
    } else {
      Buffer buffer(count * kSector);
      auto* const words = reinterpret_cast<uint64_t*>(buffer.data());
      std::fill_n(words, buffer.size() / sizeof(uint64_t), number);
      EXPECT_TRUE(co_await guest_->write(first * kSector, buffer.io()));
    }
    std::fill_n(data_.begin() + static_cast<std::ptrdiff_t>(first), count, number);
  }

  Task<void> resize() {
    const uint64_t size = kSizes[chance_.below(std::size(kSizes))];
    auto done = co_await guest_->truncate(size, TruncateOptions());
    EXPECT_TRUE(done) << done.error().description;
    data_.resize(size / kSector);
  }

  std::unique_ptr<Action> random_action() {
    const schema::BlockDirtyBitmap named{.node = "disk", .name = name()};
    switch (chance_.below(6)) {
      case 0:
        last_action_ = "remove";
        return bitmap_remove_action(named);
      case 1:
        last_action_ = "clear";
        return bitmap_clear_action(named);
      case 2: {
        last_action_ = "merge";
        schema::BlockDirtyBitmapMerge merge;
        merge.node = "disk";
        merge.target = named.name;
        merge.bitmaps.emplace_back().u = name();
        return bitmap_merge_action(std::move(merge));
      }
      case 3:
        last_action_ = "enable or disable";
        return bitmap_enable_action(named, chance_.percent(60));
      default: {
        last_action_ = "add";
        schema::BlockDirtyBitmapAdd add;
        add.node = "disk";
        add.name = named.name;
        add.granularity = kGranularity;
        add.persistent = true;
        add.disabled = chance_.percent(20);
        return bitmap_add_action(std::move(add));
      }
    }
  }

  // Many of them are refused: there is no bitmap of that name, or there is one.
  Task<void> transaction(bool alone) {
    const auto before = kept();
    Actions actions;
    const uint64_t count = alone ? 1 : 2 + chance_.below(3);
    for (uint64_t i = 0; i < count; ++i) actions.push_back(random_action());
    if (!alone && chance_.percent(40)) actions.push_back(std::make_unique<AbortAction>());
    CommandContext context(monitor_, nullptr, nullptr);
    auto done = co_await run_transaction(context, *world_.graph, *world_.jobs, std::move(actions));
    if (!done) EXPECT_EQ(kept(), before);
  }

  Task<void> backup() {
    std::vector<DirtyBitmap*> bitmaps;
    for (const auto& bitmap : node_->dirty_bitmaps()) bitmaps.push_back(bitmap.get());
    if (bitmaps.empty()) co_return;
    Node* const target = world_.graph->find_node(target_of(node_->length()));
    BackupOptions options = world_.options("job", *node_, *target, BackupSync::kBitmap);
    constexpr BitmapMode kModes[] = {BitmapMode::kNever, BitmapMode::kOnSuccess,
                                     BitmapMode::kAlways};
    options.bitmap = bitmaps[chance_.below(bitmaps.size())];
    options.bitmap_mode = kModes[chance_.below(3)];
    options.job.auto_dismiss = true;
    auto job = co_await world_.backup(std::move(options));
    EXPECT_TRUE(job) << job.error().description;
    if (!job) co_return;
    if (chance_.percent(50)) co_await write();
    if (chance_.percent(40)) (void)co_await world_.jobs->cancel(*job, true);
    co_await world_.wait_for_end(*job);
  }

  World world_;
  sim::SimRandom& chance_;
  qcow2::CreateOptions create_;
  CommandTable commands_;
  HumanTable human_;
  Monitor monitor_;
  Node* node_ = nullptr;
  std::unique_ptr<Backend> guest_;
  Data data_;
  uint64_t number_ = 0;
  uint64_t base_ = 0;
  std::string last_action_;
  std::vector<Moment> moments_;
};

// --- the next one to open the image

struct Look {
  Data data;
  // The bits of those that are believed.
  std::map<std::string, std::optional<Bits>> bitmaps;
};

Task<std::optional<Look>> look_at(Env& env, std::string where) {
  auto opened = co_await qcow2::test::open_image(env, "disk", qcow2::MetadataOptions());
  EXPECT_TRUE(opened) << where << (opened ? "" : opened.error().description);
  if (!opened) co_return std::nullopt;
  qcow2::Image& image = *(*opened)->image;
  auto report = co_await qcow2::check_image(*(*opened)->storage, image.header());
  EXPECT_TRUE(report && report->corruptions == 0) << where << report->describe();
  Look look;
  Buffer content(image.length());
  EXPECT_TRUE(co_await image.read(0, content.io())) << where;
  const auto* const words = reinterpret_cast<const uint64_t*>(content.data());
  for (uint64_t s = 0; s < image.length() / kSector; ++s) look.data.push_back(words[s * 64]);
  auto directory = co_await load_directory(*(*opened)->storage, image.header());
  EXPECT_TRUE(directory) << where << (directory ? "" : directory.error().description);
  for (const qcow2::StoredBitmap& b : *directory) {
    look.bitmaps[b.name] = std::nullopt;
    if (b.in_use()) continue;
    qcow2::test::PlainBits bits(qcow2::test::bits_needed(image.length(), b.granularity_bits));
    auto loaded = co_await load_bits(*(*opened)->storage, image.header(), b, bits);
    EXPECT_TRUE(loaded) << where << (loaded ? "" : loaded.error().description);
    EXPECT_FALSE(bits.beyond) << where;
    look.bitmaps[b.name] = bits.bits();
  }
  co_await (*opened)->abandon();
  co_return look;
}

struct Count {
  uint64_t believed = 0;
  uint64_t in_use = 0;
  uint64_t absent = 0;
};
// By what was being done.
std::map<std::string, Count> counts;

// `now`: what was being done ended with moments[now].
void judge(const Look& look, const std::vector<Moment>& moments, std::size_t now, bool at_its_end,
           const std::string& where) {
  Count& count = counts[moments[now].step];
  for (const auto& [name, bits] : look.bitmaps) {
    if (!bits) {
      ++count.in_use;
      continue;
    }
    ++count.believed;
    const bool true_once = std::ranges::any_of(moments, [&](const Moment& moment) {
      const auto then = moment.bitmaps.find(name);
      return then != moment.bitmaps.end() && then->second == *bits && moment.data == look.data;
    });
    EXPECT_TRUE(true_once) << where << ": " << name << " is believed, and never was so";
  }
  for (const auto& [name, bits] : moments[now].bitmaps) {
    if (!look.bitmaps.contains(name)) ++count.absent;
  }
  if (!at_its_end || !moments[now].closed) return;
  for (const auto& [name, bits] : moments[now].bitmaps) {
    EXPECT_TRUE(look.bitmaps.contains(name) && look.bitmaps.at(name) == bits)
        << where << ": " << name << " was stored, and is not there";
  }
}

void visit(uint64_t seed, const qcow2::CreateOptions& create) {
  Life life(seed, create);
  life.go(3, 9);
  if (testing::Test::HasFailure()) {
    for (const Moment& m : life.moments()) fmt::print("{}: {}\n", m.operation, m.step);
    return;
  }
  for (sim::CrashPoints crash(life.storage()); !crash.at_end(); crash.next()) {
    const uint64_t point = life.base() + crash.point();
    std::size_t now = 0;
    while (now + 1 < life.moments().size() && life.moments()[now].operation < point) ++now;
    const bool at_its_end = life.moments()[now].operation == point;
    std::vector<sim::CrashSubset> subsets{sim::CrashSubset::none(), sim::CrashSubset::all()};
    subsets.push_back(sim::CrashSubset::seeded(seed * 1000 + crash.point()));
    for (const sim::CrashSubset& subset : subsets) {
      const std::string where = fmt::format("seed {} point {} ({}), {} ", seed, crash.point(),
                                            crash.describe(), life.moments()[now].step);
      sim::SimEnv env(1);
      for (const auto& [path, content] : crash.image(subset)) env.storage().put(path, content);
      const auto look = env.run(look_at(env, where));
      if (look) judge(*look, life.moments(), now, at_its_end, where);
    }
    if (testing::Test::HasFailure()) {
      for (const Moment& m : life.moments()) fmt::print("{}: {}\n", m.operation, m.step);
      return;
    }
  }
}

TEST(BitmapsLife, IsCompleteOrInUseOrAbsentAtEveryCrash) {
  const bool all = sim::for_each_seed(24, [](uint64_t seed) {
    qcow2::CreateOptions create;
    create.cluster_size = seed % 3 == 0 ? 4096 : 512;
    create.extended_l2 = seed % 6 == 5;
    if (create.extended_l2) create.cluster_size = 16384;
    visit(seed, create);
  });
  fmt::print("{:20} {:>9} {:>9} {:>9}\n", "crash during", "believed", "in use", "absent");
  for (const auto& [step, count] : counts) {
    fmt::print("{:20} {:9} {:9} {:9}\n", step, count.believed, count.in_use, count.absent);
  }
  if (!all) return;
  // Other steps do nothing to the storage.
  for (const char* step :
       {"backup and write", "close", "flush", "open", "remove", "resize", "transaction", "write"}) {
    EXPECT_TRUE(counts.contains(step)) << step << " was never cut off";
  }
  EXPECT_GT(counts["close"].believed, 0u);
  EXPECT_GT(counts["open"].believed, 0u);
}

}  // namespace
}  // namespace blockbed
