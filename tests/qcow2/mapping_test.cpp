// The mapping without I/O: runs compared with what each byte says alone, and counts of every width.
#include "block/formats/qcow2/mapping.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2::test {
namespace {

L2Entry random_entry(const Geometry& g, uint64_t guest, std::mt19937_64& r, L2Entry previous) {
  L2Entry entry;
  switch (r() % 6) {
    case 0:
      break;
    case 1:
      entry.value = make_compressed(g, r() % (1 << 30), g.cluster_size / 2);
      break;
    case 2:  // goes on where the last one ended
      entry.value = ((previous.value & kOffsetMask) + g.cluster_size) | kEntryCopied;
      break;
    case 3:
      entry.value = ((r() % 1000 + 1) << g.cluster_bits) | (r() % 2 != 0 ? kEntryCopied : 0);
      break;
    case 4:
      entry.value = g.extended_l2 ? 0 : kEntryZero;
      entry.bitmap = g.extended_l2 ? kAllSubclustersZero : 0;
      break;
    default:
      entry.value = r();  // whatever a file may hold
      entry.bitmap = r();
  }
  (void)guest;
  if (g.extended_l2 && (entry.value & kOffsetMask) != 0 && (entry.value & kEntryCompressed) == 0 &&
      r() % 4 != 0) {
    const uint64_t allocated = r() & 0xffffffff;
    entry.bitmap = allocated | ((r() & 0xffffffff & ~allocated) << 32);
  }
  if (!g.extended_l2) entry.bitmap = 0;
  return entry;
}

void compare(const Geometry& g, uint64_t seed) {
  std::mt19937_64 r(seed);
  std::vector<std::byte> piece(g.l2_piece_bytes);
  const uint32_t entries = 1u << g.l2_piece_bits;
  L2Entry previous;
  for (uint32_t i = 0; i < entries; ++i) {
    previous = random_entry(g, uint64_t{i} << g.cluster_bits, r, previous);
    store_entry(g, piece.data(), i, previous);
  }
  const uint64_t base = g.piece_coverage() * 3;
  for (int i = 0; i < 200; ++i) {
    const uint64_t guest = base + r() % g.piece_coverage();
    const uint64_t length = r() % (4 * g.cluster_size) + 1;
    const ReadRun run = map_read(g, piece.data(), guest, length);
    ASSERT_GT(run.length, 0u);
    ASSERT_LE(run.length, length);
    for (uint64_t at = 0; at < run.length; at += 512 - at % 512) {
      const ReadRun one = map_read(g, piece.data(), guest + at, 1);
      ASSERT_EQ(one.kind, run.kind) << at;
      ASSERT_EQ(one.length, 1u);
      if (run.kind == Kind::kData) ASSERT_EQ(one.host, run.host + at);
    }
    if (run.length < length && guest + run.length < base + g.piece_coverage() &&
        run.kind != Kind::kCompressed && run.kind != Kind::kInvalid) {
      const ReadRun next = map_read(g, piece.data(), guest + run.length, 1);
      EXPECT_TRUE(next.kind != run.kind || next.has_host != run.has_host ||
                  next.host != run.host + run.length);
    }
    const WriteRun write = map_write(g, piece.data(), guest, length);
    ASSERT_GT(write.length, 0u);
    ASSERT_LE(write.length, length);
    const L2Entry entry = load_entry(g, piece.data(), g.index_in_piece(guest));
    const ReadRun here = map_read(g, piece.data(), guest, 1);
    if (here.kind == Kind::kInvalid) {
      EXPECT_EQ(write.kind, WriteKind::kInvalid);
    } else if (write.kind == WriteKind::kInPlace) {
      EXPECT_EQ(here.kind, Kind::kData);
      EXPECT_NE(entry.value & kEntryCopied, 0u);
      EXPECT_EQ(write.host, here.host);
    } else if (here.kind == Kind::kData && (entry.value & kEntryCopied) == 0 &&
               write.kind != WriteKind::kInvalid) {
      EXPECT_EQ(write.kind, WriteKind::kAllocate);
    }
  }
}

TEST(Qcow2Mapping, RunsSayWhatEachByteSays) {
  for (uint32_t bits = kMinClusterBits; bits <= kMaxClusterBits; ++bits) {
    for (bool extended : {false, true}) {
      if (extended && bits < kMinExtendedClusterBits) continue;
      for (uint64_t seed = 1; seed <= 3; ++seed) {
        compare(Geometry(3, bits, 4, extended, kDefaultL2PieceBytes), seed);
        if (HasFatalFailure())
          FAIL() << "cluster bits " << bits << " extended " << extended << " seed " << seed;
      }
    }
  }
}

TEST(Qcow2Mapping, CompressedDescriptors) {
  for (uint32_t bits = kMinClusterBits; bits <= kMaxClusterBits; ++bits) {
    const Geometry g(3, bits, 4, false, kDefaultL2PieceBytes);
    for (uint64_t offset : {uint64_t{512}, uint64_t{1000}, uint64_t{0x12345}, uint64_t{1} << 40}) {
      for (uint64_t bytes : {uint64_t{1}, g.cluster_size / 2, g.cluster_size - 1}) {
        const CompressedExtent extent = parse_compressed(g, make_compressed(g, offset, bytes));
        EXPECT_EQ(extent.offset, offset);
        EXPECT_GE(extent.bytes, bytes);
        EXPECT_LT(extent.bytes, bytes + kSectorSize);
      }
    }
  }
}

TEST(Qcow2Mapping, CountsOfEveryWidth) {
  std::mt19937_64 r(1);
  for (uint32_t order = 0; order <= kMaxRefcountOrder; ++order) {
    const uint64_t max = order == 6 ? UINT64_MAX : (uint64_t{1} << (1u << order)) - 1;
    std::vector<std::byte> block(512);
    const uint64_t count = 512 * 8 >> order;
    std::vector<uint64_t> model(count);
    for (int i = 0; i < 5000; ++i) {
      const uint64_t index = r() % count;
      model[index] = r() & max;
      set_refcount(block.data(), index, order, model[index]);
    }
    for (uint64_t i = 0; i < count; ++i) ASSERT_EQ(get_refcount(block.data(), i, order), model[i]);
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
