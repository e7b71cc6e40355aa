// quorum over copies that fail and lie.
#include "block/filters/quorum.h"

#include <fmt/format.h>

#include "tests/filters/filters_fixture.h"
#include "tests/jobs/golden_disk.h"
#include "tests/support/coverage.h"

namespace blockbed {
namespace {

using test::kKiB;

constexpr uint64_t kSize = 64 * kKiB;

class QuorumTest : public testing::Test {
 public:
  QuorumTest() : world(1) {
    for (int i = 0; i < 3; ++i) world.file(name(i), test::FilterWorld::filled(kSize, 5));
  }

  static std::string name(int copy) { return fmt::format("c{}", copy); }

  static json::Object options(int64_t threshold, int copies = 3) {
    json::Object result = test::FilterWorld::options("quorum", "q");
    json::Array children;
    for (int i = 0; i < copies; ++i) children.push_back(json::Value(name(i)));
    result.set("children", std::move(children));
    result.set("vote-threshold", threshold);
    return result;
  }
  Backend& make(int64_t threshold, json::Object more = {}) {
    json::Object all = options(threshold);
    for (const auto& [key, value] : more) all.set(key, value);
    return world.guest(world.open(std::move(all)));
  }
  static json::Object with(const char* key, json::Value value) {
    json::Object result;
    result.set(key, std::move(value));
    return result;
  }
  // Behind the quorum's back.
  void corrupt(int copy, uint64_t offset, uint64_t length, unsigned char byte) {
    const std::vector<std::byte> bytes(length, std::byte{byte});
    std::vector<std::byte> content = world.content(name(copy));
    std::copy(bytes.begin(), bytes.end(), content.begin() + static_cast<std::ptrdiff_t>(offset));
    auto file = world.env.run(world.env.open_file(name(copy), writing()));
    ASSERT_TRUE(file);
    ASSERT_TRUE(world.env.run((*file)->write(0, IoVector(content.data(), content.size()))));
    ASSERT_TRUE(world.env.run((*file)->close()));
  }
  static FileOpenOptions writing() {
    FileOpenOptions options;
    options.write = true;
    return options;
  }
  void fail_next(int copy, unsigned requests, int error, uint64_t times = 1) {
    sim::FaultRule rule;
    rule.path = name(copy);
    rule.requests = requests;
    rule.error = error;
    rule.times = times;
    world.env.storage().add_fault(rule);
  }
  // "c1 read 0+1", "c1 write 0+1: No space left on device", "failure q 0+1"; emptied by reading.
  std::vector<std::string> events() {
    std::vector<std::string> lines;
    for (const auto& [event, data] : std::exchange(world.events, {})) {
      const json::Object& o = data.as_object();
      std::string line = event == "QUORUM_FAILURE"
                             ? "failure " + o.find("reference")->as_string()
                             : o.find("node-name")->as_string() + " " + o.find("type")->as_string();
      line += fmt::format(" {}+{}", o.find("sector-num")->as_uint64(),
                          o.find("sectors-count")->as_uint64());
      if (o.contains("error")) line += ": " + o.find("error")->as_string();
      lines.push_back(std::move(line));
    }
    return lines;
  }

  test::FilterWorld world;
};

using Lines = std::vector<std::string>;
using Bytes = std::vector<std::byte>;

TEST_F(QuorumTest, WritesReachAllCopies) {
  Backend& guest = make(2);
  ASSERT_TRUE(world.write(guest, 1000, 3000, 9));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(world.content(name(i))[999], std::byte{5});
    EXPECT_EQ(world.content(name(i))[1000], std::byte{9});
    EXPECT_EQ(world.content(name(i))[3999], std::byte{9});
  }
  EXPECT_EQ(events(), Lines{});
}

TEST_F(QuorumTest, AMinorityIsOutvotedWhereverItIs) {
  Backend& guest = make(2);
  for (int liar = 0; liar < 3; ++liar) {
    corrupt(liar, 4096, 100, 6);
    auto bytes = world.read(guest, 2048, 4096);
    ASSERT_TRUE(bytes);
    EXPECT_EQ(*bytes, Bytes(4096, std::byte{5})) << liar;
    EXPECT_EQ(events(), Lines{fmt::format("c{} read 4+8", liar)});
    corrupt(liar, 4096, 100, 5);
  }
}

TEST_F(QuorumTest, WithoutAMajorityAReadFails) {
  Backend& guest = make(2);
  corrupt(0, 0, 1, 6);
  corrupt(1, 0, 1, 7);
  EXPECT_EQ(world.read(guest, 0, 512).error().number(), EIO);
  EXPECT_EQ(events(), Lines{"failure q 0+1"});
}

TEST_F(QuorumTest, CopiesThatFailAreReported) {
  Backend& guest = make(2);
  fail_next(0, sim::kSimRead, EIO);
  auto bytes = world.read(guest, 0, 512);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(*bytes, Bytes(512, std::byte{5}));
  EXPECT_EQ(events(), Lines{"c0 read 0+1: Input/output error"});

  fail_next(1, sim::kSimWrite, ENOSPC);
  EXPECT_TRUE(world.write(guest, 512, 512, 1));
  EXPECT_EQ(events(), Lines{"c1 write 1+1: No space left on device"});
}

TEST_F(QuorumTest, TooManyFailuresFailTheRequest) {
  Backend& guest = make(2);
  fail_next(0, sim::kSimWrite, ENOSPC);
  fail_next(2, sim::kSimWrite, ENOSPC);
  EXPECT_EQ(world.write(guest, 0, 512, 1).error().number(), ENOSPC);
  EXPECT_EQ(events(), (Lines{"c0 write 0+1: No space left on device",
                             "c2 write 0+1: No space left on device", "failure q 0+1"}));
}

TEST_F(QuorumTest, FlushesAreVotedOn) {
  Backend& guest = make(2);
  ASSERT_TRUE(world.write(guest, 0, 512, 1));
  fail_next(1, sim::kSimFlush, EIO);
  EXPECT_TRUE(world.env.run(guest.flush()));
  EXPECT_EQ(events(), Lines{"c1 flush 0+0: Input/output error"});
  ASSERT_TRUE(world.write(guest, 0, 512, 2));
  fail_next(1, sim::kSimFlush, EIO);
  fail_next(2, sim::kSimFlush, EIO);
  EXPECT_EQ(world.env.run(guest.flush()).error().number(), EIO);
}

TEST_F(QuorumTest, LosersAreRewritten) {
  Backend& guest = make(2, with("rewrite-corrupted", true));
  corrupt(2, 0, kSize, 6);
  ASSERT_TRUE(world.read(guest, 512, 1024));
  EXPECT_EQ(world.content("c2")[511], std::byte{6});
  EXPECT_EQ(world.content("c2")[512], std::byte{5});
  EXPECT_EQ(world.content("c2")[1535], std::byte{5});
  EXPECT_EQ(world.content("c2")[1536], std::byte{6});
}

TEST_F(QuorumTest, FifoTakesTheFirstThatCan) {
  Backend& guest = make(2, with("read-pattern", "fifo"));
  corrupt(0, 0, 512, 6);
  EXPECT_EQ(*world.read(guest, 0, 512), Bytes(512, std::byte{6})) << "no vote";
  EXPECT_EQ(events(), Lines{});
  fail_next(0, sim::kSimRead, EIO);
  EXPECT_EQ(*world.read(guest, 0, 512), Bytes(512, std::byte{5}));
  EXPECT_EQ(events(), Lines{"c0 read 0+1: Input/output error"});
  for (int i = 0; i < 3; ++i) fail_next(i, sim::kSimRead, EIO);
  EXPECT_EQ(world.read(guest, 0, 512).error().number(), EIO);
}

TEST_F(QuorumTest, VerifyEndsTheProgram) {
  json::Object two = options(2, 2);
  two.set("blkverify", true);
  Backend& guest = world.guest(world.open(std::move(two)));
  EXPECT_TRUE(world.read(guest, 0, 4096));
  corrupt(1, 700, 1, 6);
  EXPECT_EXIT((void)world.read(guest, 512, 512), testing::ExitedWithCode(1), "");
}

TEST_F(QuorumTest, Refusals) {
  const auto refused = [&](int64_t threshold, int copies, json::Object more = {}) {
    json::Object all = options(threshold, copies);
    for (const auto& [key, value] : more) all.set(key, value);
    return world.refusal(std::move(all));
  };
  EXPECT_EQ(refused(1, 0), "Number of provided children must be 1 or more");
  EXPECT_EQ(refused(0, 3), "Parameter 'vote-threshold' expects a value >= 1");
  EXPECT_EQ(refused(-1, 3), "Parameter 'vote-threshold' expects a value >= 1");
  EXPECT_EQ(refused(4, 3), "threshold may not exceed children count");
  EXPECT_EQ(refused(2, 3, with("blkverify", true)),
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
  json::Object both = with("blkverify", true);
  both.set("rewrite-corrupted", true);
  EXPECT_EQ(refused(2, 2, both), "rewrite-corrupted=on cannot be used with blkverify=on");
  world.file("short", sim::SparseBytes(kKiB));
  json::Object uneven = options(1, 1);
  uneven.find("children")->as_array().push_back("short");
  EXPECT_EQ(world.refusal(std::move(uneven)),
            "Could not refresh total sector count: Input/output error");
}

TEST_F(QuorumTest, ChildrenComeAndGo) {
  Node& node = world.open(options(2));
  Driver& quorum = node.driver();
  Node& fourth = world.file("c3", test::FilterWorld::filled(kSize, 5));
  ASSERT_TRUE(world.env.run(quorum.add_child(fourth)));
  ASSERT_NE(node.child("children.3"), nullptr);
  Backend& guest = world.guest(node);
  ASSERT_TRUE(world.write(guest, 0, 512, 7));
  EXPECT_EQ(world.content("c3")[0], std::byte{7});

  ASSERT_TRUE(world.env.run(quorum.remove_child(*node.child("children.0"))));
  ASSERT_TRUE(world.write(guest, 0, 512, 8));
  EXPECT_EQ(world.content("c0")[0], std::byte{7});
  ASSERT_TRUE(world.env.run(quorum.remove_child(*node.child("children.3"))));
  EXPECT_EQ(world.env.run(quorum.remove_child(*node.child("children.1"))).error().description,
            "The number of children cannot be lower than the vote threshold 2");
  // The number of the last one was free again.
  ASSERT_TRUE(world.env.run(quorum.add_child(fourth)));
  EXPECT_NE(node.child("children.3"), nullptr);
}

TEST_F(QuorumTest, AShorterCopyIsNotMadeLonger) {
  Node& node = world.open(options(2));
  Backend& guest = world.guest(node);
  Node& added = world.file("short", test::FilterWorld::filled(kSize / 2, 5));
  ASSERT_TRUE(world.env.run(node.driver().add_child(added)));
  EXPECT_EQ(world.env.run(node.refresh_length()).value(), kSize);
  ASSERT_TRUE(world.write(guest, kSize - 4096, 4096, 9));
  EXPECT_EQ(events(), Lines{"short write 120+8: Input/output error"});
  ASSERT_TRUE(world.env.run(guest.zero(kSize - 4096, 4096)));
  EXPECT_EQ(world.content("short").size(), kSize / 2);
  EXPECT_EQ(added.length(), kSize / 2);
}

TEST_F(QuorumTest, ItGoesByItsOptions) {
  Node& node = world.open(options(2, 2));
  EXPECT_EQ(node.filename(),
            "json:{\"children\": [{\"driver\": \"file\", \"filename\": \"c0\"}, {\"driver\": "
            "\"file\", \"filename\": \"c1\"}], \"driver\": \"quorum\", \"vote-threshold\": 2}");
}

// --- a bad copy is mended while a guest writes

class RepairScenario {
 public:
  RepairScenario(uint64_t seed, test::Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        coverage_(coverage),
        golden_(kSize),
        gate_(world_.env.executor()) {}

  void go() {
    json::Object options = test::FilterWorld::options("quorum", "q");
    json::Array children;
    for (int i = 0; i < 3; ++i) {
      world_.file(QuorumTest::name(i), test::FilterWorld::filled(kSize, i == bad_ ? 7 : 0));
      children.push_back(json::Value(QuorumTest::name(i)));
    }
    options.set("children", std::move(children));
    options.set("vote-threshold", 2);
    options.set("rewrite-corrupted", true);
    guest_ = &world_.guest(world_.open(std::move(options)));
    world_.env.run(scenario());
    // What the guest wrote is on all copies, and what it read as well.
    const std::vector<std::byte> right = world_.content(QuorumTest::name((bad_ + 1) % 3));
    const auto wrong = golden_.first_wrong(right);
    EXPECT_FALSE(wrong.has_value()) << "sector " << *wrong;
    const std::vector<std::byte> mended = world_.content(QuorumTest::name(bad_));
    for (uint64_t sector = 0; sector < touched_.size(); ++sector) {
      if (!touched_[sector]) continue;
      EXPECT_TRUE(golden_.may_show(sector, mended.data() + sector * kSector))
          << "sector " << sector << " of the copy that was mended shows "
          << test::GoldenDisk::shown(mended.data() + sector * kSector).value_or(~0ull);
    }
  }

 private:
  static constexpr uint64_t kSector = test::GoldenDisk::kSector;

  Task<void> scenario() {
    for (int i = 0; i < 3; ++i) gate_.spawn(write_for_a_while());
    for (int i = 0; i < 3; ++i) gate_.spawn(read_for_a_while());
    co_await gate_.close();
  }
  std::pair<uint64_t, uint64_t> some_range() {
    const uint64_t first = chance_.below(kSize / kSector);
    return {first * kSector,
            (1 + chance_.below(std::min<uint64_t>(16, kSize / kSector - first))) * kSector};
  }
  void touch(uint64_t offset, uint64_t length) {
    for (uint64_t at = offset; at < offset + length; at += kSector) touched_[at / kSector] = true;
  }

  Task<void> write_for_a_while() {
    for (int turns = 0; turns < 20; ++turns) {
      co_await world_.env.delay(chance_.between(0, 300'000));
      const auto [offset, length] = some_range();
      if (golden_.busy(offset, length)) continue;
      const uint64_t number = golden_.next_number();
      golden_.begin(offset, length, number);
      Buffer buffer(length);
      test::GoldenDisk::fill(buffer.span(), number);
      coverage_.hit_if(reading_ > 0, "a write beside a read");
      EXPECT_TRUE((co_await guest_->write(offset, buffer.io())).has_value());
      golden_.end(offset, length, number, true);
      touch(offset, length);
    }
  }
  // Guests may read what they are writing.
  Task<void> read_for_a_while() {
    for (int turns = 0; turns < 20; ++turns) {
      co_await world_.env.delay(chance_.between(0, 300'000));
      const auto [offset, length] = some_range();
      Buffer buffer(length);
      coverage_.hit_if(golden_.busy(offset, length), "a read of what is being written");
      ++reading_;
      const std::size_t events = world_.events.size();
      EXPECT_TRUE((co_await guest_->read(offset, buffer.io())).has_value());
      --reading_;
      coverage_.hit_if(world_.events.size() > events, "a copy was mended");
      for (const auto& [event, data] : world_.events) {
        EXPECT_EQ(event, "QUORUM_REPORT_BAD") << "there was no majority";
        if (event != "QUORUM_REPORT_BAD") continue;
        EXPECT_EQ(data.as_object().find("node-name")->as_string(), QuorumTest::name(bad_))
            << "a good copy was outvoted";
      }
      touch(offset, length);
    }
  }

  test::FilterWorld world_;
  sim::SimRandom& chance_;
  test::Coverage& coverage_;
  test::GoldenDisk golden_;
  const int bad_ = static_cast<int>(chance_.below(3));
  std::vector<bool> touched_ = std::vector<bool>(kSize / kSector);
  Backend* guest_ = nullptr;
  int reading_ = 0;
  Gate gate_;
};

TEST(QuorumSimulation, AMendedCopyLosesNoWrite) {
  test::Coverage coverage(
      {"a write beside a read", "a read of what is being written", "a copy was mended"});
  test::for_each_seed_covering(coverage, 200,
                               [&](uint64_t seed) { RepairScenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
