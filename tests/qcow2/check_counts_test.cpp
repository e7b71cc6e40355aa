// What a check counts with: each answer beside that of a plain loop, for many random places.
#include <gtest/gtest.h>

#include <vector>

#include "block/formats/qcow2/count_table.h"
#include "block/formats/qcow2/refcount_array.h"
#include "block/formats/qcow2/region_set.h"
#include "block/sim/sim_random.h"

namespace blockbed::qcow2::test {
namespace {

TEST(RegionSet, AnswersAsAListDoes) {
  constexpr uint64_t kPlaces = 200;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    sim::SimRandom chance(seed, 1);
    RegionSet set;
    std::vector<bool> taken(kPlaces + 1);
    for (int i = 0; i < 20; ++i) {
      const uint64_t begin = chance.below(kPlaces);
      const uint64_t end = std::min(kPlaces, begin + chance.below(12));
      set.add(begin, end);
      for (uint64_t at = begin; at < end; ++at) taken[at] = true;
    }
    std::size_t regions = 0;
    for (uint64_t at = 0; at < kPlaces; ++at) {
      if (taken[at] && (at == 0 || !taken[at - 1])) ++regions;
      uint64_t behind = at;
      while (taken[behind]) ++behind;
      ASSERT_EQ(set.behind(at), behind) << "seed " << seed;
      bool any = false;
      for (uint64_t end = at + 1; end <= kPlaces; ++end) {
        any |= taken[end - 1];
        ASSERT_EQ(set.overlaps(at, end), any) << "seed " << seed;
      }
    }
    EXPECT_EQ(set.size(), regions);
  }
}

TEST(RegionSet, ReachesToTheLastPlace) {
  RegionSet set;
  set.add(UINT64_MAX - 1, UINT64_MAX);
  set.add(5, 5);
  EXPECT_EQ(set.size(), 1u);
  EXPECT_TRUE(set.overlaps(0, UINT64_MAX));
  EXPECT_FALSE(set.overlaps(0, UINT64_MAX - 1));
  EXPECT_EQ(set.behind(UINT64_MAX), UINT64_MAX);
}

TEST(CountTable, FindsTheNextAndTheLastCountedCluster) {
  for (uint32_t order = 0; order <= 6; ++order) {
    CountTable counts(order);
    EXPECT_EQ(counts.next_counted(0), UINT64_MAX);
    const std::vector<uint64_t> counted = {
        0, 1, 1023, 1024, 4095, 4096, 9000, 20000, uint64_t{1} << 40, (uint64_t{1} << 40) + 1};
    for (uint64_t cluster : counted) ASSERT_TRUE(counts.add(cluster));
    // A page of nothing but zeroes.
    ASSERT_TRUE(counts.add(500000));
    counts.remove(500000);
    uint64_t from = 0;
    for (uint64_t cluster : counted) {
      EXPECT_EQ(counts.next_counted(from), cluster);
      from = cluster + 1;
    }
    EXPECT_EQ(counts.next_counted(from), UINT64_MAX);
    EXPECT_EQ(counts.next_counted(1025), 4095u);
    EXPECT_EQ(counts.next_counted(20001), uint64_t{1} << 40);
    EXPECT_EQ(counts.next_counted(2), 1023u);
  }
}

TEST(RefcountArray, FindsTheNextAndTheLastCount) {
  constexpr uint64_t kBytes = 32;
  for (uint32_t order = 0; order <= 6; ++order) {
    const uint64_t counts = kBytes * 8 >> order;
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      sim::SimRandom chance(seed, order);
      std::vector<std::byte> block(kBytes);
      for (uint64_t i = chance.below(4); i > 0; --i) {
        set_refcount(block.data(), chance.below(counts), order, 1);
      }
      for (uint64_t end = 0; end <= counts; ++end) {
        uint64_t next = end;
        for (uint64_t at = end; at-- > 0;) {
          if (get_refcount(block.data(), at, order) != 0) next = at;
          ASSERT_EQ(next_refcount(block.data(), at, end, order), next) << "order " << order;
        }
        uint64_t last = 0;
        for (uint64_t at = 0; at < end; ++at) {
          if (get_refcount(block.data(), at, order) != 0) last = at + 1;
        }
        ASSERT_EQ(last_refcount(block.data(), end, order), last) << "order " << order;
      }
    }
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
