// Power cuts at every change of the file: what is left may leak, never more, and holds what was
// flushed.
#include <gtest/gtest.h>

#include "tests/qcow2/crash_workload_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::qcow2::test {
namespace {

TEST(Qcow2Crash, Clusters512) {
  sim::for_each_seed(12, [](uint64_t seed) { visit_crashes(seed, small_workload(512), 2); });
}

TEST(Qcow2Crash, Clusters4096) {
  sim::for_each_seed(8, [](uint64_t seed) { visit_crashes(seed, small_workload(4096), 2); });
}

TEST(Qcow2Crash, OneBitCounts) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small_workload(512);
    w.create.refcount_bits = 1;
    visit_crashes(seed, w, 2);
  });
}

// 64 counts a block: blocks are added all the time.
TEST(Qcow2Crash, BlocksAreAdded) {
  sim::for_each_seed(10, [](uint64_t seed) {
    Workload w = small_workload(512);
    w.create.refcount_bits = 64;
    w.create.size = 400 * 512;
    w.operations = 40;
    w.longest = 16;
    w.pieces = 32;
    visit_crashes(seed, w, 2);
  });
}

// And 64 blocks a table: the table is full within the workload.
TEST(Qcow2Crash, RefcountTableGrows) {
  sim::for_each_seed(4, [](uint64_t seed) {
    Workload w = small_workload(512);
    w.create.refcount_bits = 64;
    w.create.size = 5000 * 512;
    w.filled = 3930 * 512;
    w.operations = 30;
    w.longest = 40;
    w.pieces = 16;
    visit_crashes(seed, w, 1);
  });
}

// Freed clusters are all that there is, and each allocation may have to fetch them.
TEST(Qcow2Crash, FreedClustersAreUsedAgain) {
  sim::for_each_seed(12, [](uint64_t seed) {
    Workload w = small_workload(512);
    w.create.size = 12 * 512;
    w.operations = 40;
    w.reuse_clusters = 1;
    w.pieces = 16;
    visit_crashes(seed, w, 2);
  });
}

// discard-no-unref: written again in place, before and after the discard reached the file.
TEST(Qcow2Crash, DiscardedClustersStay) {
  sim::for_each_seed(10, [](uint64_t seed) {
    Workload w = small_workload(seed % 2 == 0 ? 512 : 2048);
    w.create.size = 12 * w.create.cluster_size;
    w.operations = 40;
    w.keeps_clusters = true;
    visit_crashes(seed, w, 2);
  });
}

TEST(Qcow2Crash, Version2) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small_workload(1024);
    w.create.version = 2;
    visit_crashes(seed, w, 2);
  });
}

TEST(Qcow2Crash, LazyCounts) {
  sim::for_each_seed(8, [](uint64_t seed) {
    Workload w = small_workload(512);
    w.create.lazy_refcounts = true;
    w.lazy = true;
    visit_crashes(seed, w, 2);
  });
}

TEST(Qcow2Crash, GrowingDisk) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small_workload(512);
    w.create.size = 96 * 512;
    w.grow = true;
    visit_crashes(seed, w, 2);
  });
}

TEST(Qcow2Crash, ShrinkingDisk) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = small_workload(512);
    w.create.size = 240 * 512;
    w.create.refcount_bits = 64;
    w.filled = 200 * 512;
    w.longest = 20;
    w.shrink = true;
    visit_crashes(seed, w, 1);
  });
}

TEST(Qcow2Crash, Subclusters) {
  sim::for_each_seed(4, [](uint64_t seed) {
    Workload w = small_workload(16384);
    w.create.extended_l2 = true;
    w.create.size = 12 * 16384;
    w.operations = 16;
    visit_crashes(seed, w, 1);
  });
}

// What a write does not cover of a cluster is copied from the backing file, which ends before the
// disk does.
Workload backed(uint64_t cluster) {
  Workload w = small_workload(cluster);
  w.create.size = 20 * cluster;
  w.create.backing_file = "base";
  w.create.backing_format = "raw";
  w.backed = 17 * cluster - 512;
  return w;
}

TEST(Qcow2Crash, CopyOnWrite) {
  sim::for_each_seed(4, [](uint64_t seed) {
    Workload w = backed(seed % 2 == 0 ? 1024 : 2048);
    // Discarded is not unallocated, also where there is no flag for it.
    if (seed % 4 == 3) w.create.version = 2;
    visit_crashes(seed, w, 1);
  });
}

TEST(Qcow2Crash, CopyOnWriteOfSubclusters) {
  sim::for_each_seed(2, [](uint64_t seed) {
    Workload w = backed(16384);
    w.create.extended_l2 = true;
    w.create.size = 8 * 16384;
    w.backed = 7 * 16384 + 512;
    w.operations = 12;
    visit_crashes(seed, w, 1);
  });
}

TEST(Qcow2Crash, CopyOnWriteBesideADataFile) {
  sim::for_each_seed(2, [](uint64_t seed) {
    Workload w = backed(2048);
    w.create.data_file = true;
    w.create.data_file_name = "data";
    visit_crashes(seed, w, 1);
  });
}

}  // namespace
}  // namespace blockbed::qcow2::test
