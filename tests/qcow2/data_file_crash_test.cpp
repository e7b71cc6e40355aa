// Power cuts while guest data lies in a file of its own: both files lose what was not flushed,
// independently of each other. There is no count for what is in the data file, and each cluster has
// one place, so the order of writes is all that keeps old bytes from showing.
#include <gtest/gtest.h>

#include "tests/qcow2/crash_workload_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::qcow2::test {
namespace {

Workload with_data_file(uint64_t cluster, bool raw) {
  Workload w = small_workload(cluster);
  w.create.data_file = true;
  w.create.data_file_name = "data";
  w.create.data_file_raw = raw;
  return w;
}

TEST(Qcow2DataFileCrash, SmallClusters) {
  sim::for_each_seed(3, [](uint64_t seed) { visit_crashes(seed, with_data_file(512, false), 2); });
}

TEST(Qcow2DataFileCrash, ClustersOfParts) {
  sim::for_each_seed(3, [](uint64_t seed) { visit_crashes(seed, with_data_file(4096, false), 2); });
}

TEST(Qcow2DataFileCrash, Raw) {
  sim::for_each_seed(3, [](uint64_t seed) { visit_crashes(seed, with_data_file(4096, true), 2); });
}

// Nothing overlaps in time: at the end both show the same.
TEST(Qcow2DataFileCrash, RawIsTheDisk) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = with_data_file(2048, true);
    w.parallel = 1;
    visit_crashes(seed, w, 1);
  });
}

// Few places, so that each is discarded, zeroed and written again and again.
TEST(Qcow2DataFileCrash, PlacesAreWrittenAgain) {
  sim::for_each_seed(8, [](uint64_t seed) {
    Workload w = with_data_file(seed % 2 == 0 ? 1024 : 4096, seed % 4 < 2);
    w.create.size = 8 * w.create.cluster_size;
    w.operations = 40;
    visit_crashes(seed, w, 2);
  });
}

TEST(Qcow2DataFileCrash, DiscardedClustersStay) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = with_data_file(2048, seed % 2 == 0);
    w.create.size = 12 * w.create.cluster_size;
    w.operations = 40;
    w.keeps_clusters = true;
    visit_crashes(seed, w, 1);
  });
}

TEST(Qcow2DataFileCrash, LazyCounts) {
  sim::for_each_seed(4, [](uint64_t seed) {
    Workload w = with_data_file(1024, false);
    w.create.lazy_refcounts = true;
    w.lazy = true;
    visit_crashes(seed, w, 1);
  });
}

TEST(Qcow2DataFileCrash, GrowingDisk) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = with_data_file(1024, seed % 2 == 0);
    w.grow = true;
    visit_crashes(seed, w, 1);
  });
}

TEST(Qcow2DataFileCrash, ShrinkingDisk) {
  sim::for_each_seed(6, [](uint64_t seed) {
    Workload w = with_data_file(1024, seed % 2 == 0);
    w.create.size = 60 * 1024;
    w.filled = 50 * 1024;
    w.shrink = true;
    visit_crashes(seed, w, 1);
  });
}

TEST(Qcow2DataFileCrash, Subclusters) {
  sim::for_each_seed(4, [](uint64_t seed) {
    Workload w = with_data_file(16384, seed % 2 == 0);
    w.create.extended_l2 = true;
    w.create.size = 8 * 16384;
    w.operations = 16;
    visit_crashes(seed, w, 1);
  });
}

}  // namespace
}  // namespace blockbed::qcow2::test
