// The judge of the order of writes can fail: each rule is broken by a few writes made by hand, and
// it alone is named; with one more flush, or one step more, the same writes keep it.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "tests/qcow2/order_hand_fixture.h"

namespace blockbed::qcow2::test {
namespace {

// What is done to break a rule. `kept`: with what the rule demands.
using Writes = std::function<void(Hand&, bool kept)>;

struct Breaks {
  OrderRule rule;
  const char* name;
  Writes writes;
  bool data_file = false;
  uint32_t cluster_bits = 9;
};

// A new cluster for guest cluster 5.
void refer(Hand& h, uint64_t cluster) { h.entry(kL2, 5, h.at(cluster) | kEntryCopied); }

void first_then_second(Hand& h, bool kept, const std::function<void()>& first,
                       const std::function<void()>& second) {
  first();
  if (kept) h.flush();
  second();
}

const Breaks kBreaks[] = {
    {OrderRule::kNobodys, "BitsInPlace", [](Hand& h, bool kept) { h.fill(kept ? kFree : kBits); }},
    {OrderRule::kNobodys, "WordOfTheDirectory",
     [](Hand& h, bool kept) { h.write(h.at(kDirectory) + (kept ? 12 : 8), Hand::Bytes(4)); }},
    {OrderRule::kUnshared, "SharedData",
     [](Hand& h, bool kept) { h.fill(kept ? kData : kShared); }},
    {OrderRule::kUnshared, "TableOfASnapshot",
     [](Hand& h, bool kept) { h.entry(kept ? kL2 : kSnapshotL2, 1, 0); }},
    {OrderRule::kBlockWritten, "Block",
     [](Hand& h, bool kept) {
       h.count(kFree, 1);
       h.flush();
       first_then_second(
           h, kept, [&] { h.write(h.at(kFree), h.block_counting(3)); },
           [&] { h.entry(kRefcountTable, 1, h.at(kFree)); });
     }},
    {OrderRule::kBlockCounted, "Block",
     [](Hand& h, bool kept) {
       h.write(h.at(kFree), h.block_counting(3));
       h.flush();
       first_then_second(
           h, kept, [&] { h.count(kFree, 1); }, [&] { h.entry(kRefcountTable, 1, h.at(kFree)); });
     }},
    {OrderRule::kCountsLinked, "Data",
     [](Hand& h, bool kept) {
       h.write(h.at(kFree), h.block_counting(3));
       h.count(kFree, 1);
       h.fill(256 + 3);
       h.flush();
       first_then_second(
           h, kept, [&] { h.entry(kRefcountTable, 1, h.at(kFree)); }, [&] { refer(h, 256 + 3); });
     }},
    {OrderRule::kDataWritten, "NotYet",
     [](Hand& h, bool kept) {
       h.count(kFree, 1);
       h.flush();
       first_then_second(h, kept, [&] { h.fill(kFree); }, [&] { refer(h, kFree); });
     }},
    {OrderRule::kDataWritten, "Never",
     [](Hand& h, bool kept) {
       if (kept) h.fill(kOld);
       h.flush();
       refer(h, kOld);
     }},
    {OrderRule::kDataWritten, "BeforeItWasFreed",
     [](Hand& h, bool kept) {
       h.fill(kData);
       h.flush();
       h.entry(kL2, 0, 0);
       h.flush();
       first_then_second(h, kept, [&] { h.fill(kData); }, [&] { refer(h, kData); });
     }},
    {OrderRule::kDataWritten, "InItsPlace",
     [](Hand& h, bool kept) {
       first_then_second(
           h, kept, [&] { h.fill(kPlace); }, [&] { h.entry(kL2, 3, h.at(kPlace) | kEntryCopied); });
     }},
    {OrderRule::kDataWritten, "Compressed",
     [](Hand& h, bool kept) {
       h.count(kFree, 1);
       h.flush();
       first_then_second(
           h, kept, [&] { h.write(h.at(kFree) + 100, Hand::Bytes(50, std::byte{9})); },
           [&] { h.entry(kL2, 5, kEntryCompressed | (h.at(kFree) + 100)); });
     }},
    {OrderRule::kDataWritten, "DataFile",
     [](Hand& h, bool kept) {
       h.fill(kFree, 2);
       h.flush(kept ? 2 : 1);
       refer(h, kFree);
     },
     true},
    {OrderRule::kDataCounted, "Data",
     [](Hand& h, bool kept) {
       h.fill(kFree);
       h.flush();
       first_then_second(h, kept, [&] { h.count(kFree, 1); }, [&] { refer(h, kFree); });
     }},
    {OrderRule::kTableWritten, "Table",
     [](Hand& h, bool kept) {
       h.count(kFree, 1);
       h.flush();
       first_then_second(
           h, kept, [&] { h.write(h.at(kFree), h.table_with(0, 0)); },
           [&] { h.entry(kL1, 1, h.at(kFree) | kEntryCopied); });
     }},
    {OrderRule::kTableCounted, "Table",
     [](Hand& h, bool kept) {
       h.write(h.at(kFree), h.table_with(0, 0));
       h.flush();
       first_then_second(
           h, kept, [&] { h.count(kFree, 1); },
           [&] { h.entry(kL1, 1, h.at(kFree) | kEntryCopied); });
     }},
    {OrderRule::kRemovedBeforeUncounted, "Data",
     [](Hand& h, bool kept) {
       first_then_second(h, kept, [&] { h.entry(kL2, 0, 0); }, [&] { h.count(kData, 0); });
     }},
    {OrderRule::kRemovedBeforeUncounted, "NeverRemoved",
     [](Hand& h, bool kept) { h.count(kept ? kOld : kShared, kept ? 0 : 1); }},
    {OrderRule::kRemovedBeforeReuse, "Data",
     [](Hand& h, bool kept) {
       first_then_second(h, kept, [&] { h.entry(kL2, 0, 0); }, [&] { h.fill(kData); });
     }},
    {OrderRule::kRemovedBeforeReuse, "Table",
     [](Hand& h, bool kept) {
       first_then_second(h, kept, [&] { h.entry(kL1, 0, 0); }, [&] { h.fill(kL2); });
     }},
    {OrderRule::kRemovedBeforeReuse, "AnotherRefersToIt",
     [](Hand& h, bool kept) {
       const uint64_t place = h.at(kPlace) | kEntryZero;
       h.entry(kL2, 3, place);
       h.flush();
       first_then_second(h, kept, [&] { h.entry(kL2, 3, 0); }, [&] { h.entry(kL2, 6, place); });
     }},
    {OrderRule::kRemovedBeforeReuse, "Compressed",
     [](Hand& h, bool kept) {
       h.count(kFree, 1);
       h.write(h.at(kFree) + 100, Hand::Bytes(50, std::byte{9}));
       h.flush();
       h.entry(kL2, 5, kEntryCompressed | (h.at(kFree) + 100));
       h.flush();
       // Behind it there is room for more.
       h.write(h.at(kFree) + (kept ? 150 : 90), Hand::Bytes(50, std::byte{9}));
     }},
    {OrderRule::kRemovedBeforeReuse, "CutOff",
     [](Hand& h, bool kept) {
       first_then_second(h, kept, [&] { h.entry(kL2, 3, 0); }, [&] { h.cut(kPlace); });
     }},
    {OrderRule::kRemovedBeforeDiscard, "Data",
     [](Hand& h, bool kept) {
       first_then_second(h, kept, [&] { h.entry(kL2, 0, 0); }, [&] { h.discard(kData); });
     }},
    {OrderRule::kRemovedBeforeDiscard, "PlaceThatStays",
     [](Hand& h, bool kept) {
       first_then_second(
           h, kept, [&] { h.entry(kL2, 0, h.at(kData) | kEntryCopied | kEntryZero); },
           [&] { h.discard(kData); });
     }},
    {OrderRule::kRemovedBeforeDiscard, "DataFile",
     [](Hand& h, bool kept) {
       first_then_second(
           h, kept, [&] { h.entry(kL2, 0, kEntryZero); }, [&] { h.discard(kData, 2); });
     },
     true},
    {OrderRule::kCopied, "Shared",
     [](Hand& h, bool kept) {
       const uint64_t cluster = kept ? kPlace : kShared;
       h.entry(kL2, 3, 0);
       h.flush();
       h.entry(kL2, kept ? 3 : 1, h.at(cluster) | kEntryCopied | (kept ? kEntryZero : 0));
     }},
    {OrderRule::kSwitchWritten, "L1",
     [](Hand& h, bool kept) {
       h.count(kFree, 1);
       h.flush();
       h.fields().l1 = kFree;
       first_then_second(
           h, kept, [&] { h.write(h.at(kFree), h.table_with(0, h.at(kL2) | kEntryCopied)); },
           [&] { h.write_header(); });
     }},
    {OrderRule::kSwitchCounted, "L1",
     [](Hand& h, bool kept) {
       h.write(h.at(kFree), h.table_with(0, h.at(kL2) | kEntryCopied));
       h.flush();
       h.fields().l1 = kFree;
       first_then_second(h, kept, [&] { h.count(kFree, 1); }, [&] { h.write_header(); });
     }},
    {OrderRule::kSwitchCounted, "AlsoWhenDirty",
     [](Hand& h, bool kept) {
       h.fields().dirty = true;
       h.write_header();
       h.write(h.at(kFree), h.table_with(0, h.at(kL2) | kEntryCopied));
       h.flush();
       h.fields().l1 = kFree;
       first_then_second(h, kept, [&] { h.count(kFree, 1); }, [&] { h.write_header(); });
     }},
    {OrderRule::kLength, "Grows",
     [](Hand& h, bool kept) {
       h.fields().guest_clusters += kept ? 1 : 100;
       h.write_header();
     }},
    {OrderRule::kLength, "Falls",
     [](Hand& h, bool kept) {
       h.fields().guest_clusters = 2;
       first_then_second(h, kept, [&] { h.entry(kL2, 3, 0); }, [&] { h.write_header(); });
     }},
    {OrderRule::kNoZeroFlags, "Place",
     [](Hand& h, bool kept) {
       h.fields().version = 2;
       first_then_second(h, kept, [&] { h.entry(kL2, 3, 0); }, [&] { h.write_header(); });
     }},
    {OrderRule::kDirtyBeforeUncounted, "Data",
     [](Hand& h, bool kept) {
       h.fill(kFree);
       h.flush();
       h.fields().dirty = true;
       first_then_second(h, kept, [&] { h.write_header(); }, [&] { refer(h, kFree); });
     }},
    {OrderRule::kCountedBeforeClean, "Data",
     [](Hand& h, bool kept) {
       h.fields().dirty = true;
       h.write_header();
       h.fill(kFree);
       h.flush();
       refer(h, kFree);
       h.flush();
       h.fields().dirty = false;
       first_then_second(h, kept, [&] { h.count(kFree, 1); }, [&] { h.write_header(); });
     }},
    {OrderRule::kInUseBeforeChange, "Data",
     [](Hand& h, bool kept) {
       h.flags(0);
       h.flush();
       first_then_second(h, kept, [&] { h.flags(1); }, [&] { h.fill(kData); });
     }},
    {OrderRule::kInUseBeforeChange, "Entry",
     [](Hand& h, bool kept) {
       h.flags(0);
       h.flush();
       first_then_second(h, kept, [&] { h.flags(1); }, [&] { h.entry(kL2, 2, kEntryZero); });
     }},
    {OrderRule::kInUseBeforeChange, "Table",
     [](Hand& h, bool kept) {
       h.flags(0);
       h.count(kFree, 1);
       h.write(h.at(kFree), h.table_with(0, 0));
       h.flush();
       first_then_second(
           h, kept, [&] { h.flags(1); }, [&] { h.entry(kL1, 1, h.at(kFree) | kEntryCopied); });
     }},
    {OrderRule::kInUseBeforeChange, "DataFile",
     [](Hand& h, bool kept) {
       h.flags(0);
       h.flush();
       first_then_second(h, kept, [&] { h.flags(1); }, [&] { h.fill(kData, 2); });
     },
     true},
    {OrderRule::kDirectoryWritten, "TableOfBits",
     [](Hand& h, bool kept) {
       h.count(kFree, 1);
       h.count(kFree + 1, 1);
       h.write(h.at(kFree), h.directory(1, 1, kFree + 1));
       h.flush();
       h.fields().directory = kFree;
       first_then_second(
           h, kept, [&] { h.write(h.at(kFree + 1), h.table_with(0, 0)); },
           [&] { h.write_header(); });
     }},
    {OrderRule::kDirectoryCounted, "Directory",
     [](Hand& h, bool kept) {
       h.write(h.at(kFree), h.directory(1, 1));
       h.flush();
       h.fields().directory = kFree;
       first_then_second(h, kept, [&] { h.count(kFree, 1); }, [&] { h.write_header(); });
     }},
    {OrderRule::kDirectoryInUse, "Directory",
     [](Hand& h, bool kept) {
       h.write(h.at(kFree), h.directory(kept ? 1 : 0, 1));
       h.count(kFree, 1);
       h.flush();
       h.fields().directory = kFree;
       h.write_header();
     }},
    {OrderRule::kNoMixture, "AcrossSectors",
     [](Hand& h, bool kept) {
       h.write(h.at(kFree), h.directory(1, 2));
       h.count(kFree, 1);
       h.flush();
       h.fields().directory = kFree;
       h.fields().bitmap_count = 2;
       if (kept) {
         h.fields().bitmaps = false;
         Hand before(10);
         before.fields().bitmaps = false;
         h.write(0, before.header());
         h.flush();
         h.write_header();
         h.flush();
         h.fields().bitmaps = true;
       }
       h.write_header();
     },
     false, 10},
    {OrderRule::kAllBeforeConsistent, "Data",
     [](Hand& h, bool kept) {
       first_then_second(h, kept, [&] { h.fill(kData); }, [&] { h.flags(0); });
     }},
    {OrderRule::kAllBeforeConsistent, "DataFile",
     [](Hand& h, bool kept) {
       h.fill(kData, 2);
       h.flush(kept ? 2 : 1);
       h.flags(0);
     },
     true},
};

void PrintTo(const Breaks& breaks, std::ostream* out) { *out << breaks.name; }

class Qcow2OrderRule : public ::testing::TestWithParam<Breaks> {};

TEST_P(Qcow2OrderRule, AloneIsNamed) {
  const Breaks& breaks = GetParam();
  Hand hand(breaks.cluster_bits, breaks.data_file);
  breaks.writes(hand, false);
  ASSERT_FALSE(hand.judge().faults().empty());
  for (const OrderFault& fault : hand.judge().faults()) {
    EXPECT_EQ(fault.rule, breaks.rule) << describe(fault);
  }
}

TEST_P(Qcow2OrderRule, IsKept) {
  const Breaks& breaks = GetParam();
  Hand hand(breaks.cluster_bits, breaks.data_file);
  breaks.writes(hand, true);
  for (const OrderFault& fault : hand.judge().faults()) ADD_FAILURE() << describe(fault);
  EXPECT_GT(hand.judge().asked()[static_cast<std::size_t>(breaks.rule)], 0U);
}

INSTANTIATE_TEST_SUITE_P(Each, Qcow2OrderRule, ::testing::ValuesIn(kBreaks), [](const auto& info) {
  std::string name(order_rows()[static_cast<std::size_t>(info.param.rule)].name);
  std::ranges::replace_if(name, [](char c) { return c < 'a' || c > 'z'; }, '_');
  return name + "_" + info.param.name;
});

TEST(Qcow2Order, EachRuleIsBroken) {
  std::set<OrderRule> broken;
  for (const Breaks& breaks : kBreaks) broken.insert(breaks.rule);
  EXPECT_EQ(broken.size(), order_rows().size());
}

}  // namespace
}  // namespace blockbed::qcow2::test
