// Power cuts at every change of the files that one operation makes: preallocating growth, emptying,
// copies inside the host, other options, another backing file's name. What is left may leak, never
// more; each sector is as it was before or as it is to become, snapshots are whole, and the image
// can be written to.
#include <gtest/gtest.h>

#include <functional>

#include "block/formats/qcow2/amend.h"
#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/repair.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/references_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;
using Operation = std::function<Task<Expected<void>>(sim::SimEnv&, OpenedImage&)>;

constexpr uint64_t kSectors = 512;

struct Case {
  CreateOptions create;
  // What shows through where the image has nothing.
  Bytes backing = {};
  bool snapshot = false;
  Operation operation;
  // What the header says is judged apart: here before and after are both right.
  std::function<bool(const Header&)> header = [](const Header&) { return true; };
};

CreateOptions small(uint64_t cluster, uint64_t clusters) {
  CreateOptions create;
  create.cluster_size = cluster;
  create.size = clusters * cluster;
  return create;
}

CreateOptions with_data_file(CreateOptions create, bool raw = false) {
  create.data_file = true;
  create.data_file_name = "data";
  create.data_file_raw = raw;
  return create;
}

Expected<void> told(const Result<void>& done) {
  if (!done) return fail(strerror_text(done.error()));
  return {};
}

// An image with a past, before and after one operation.
class OneOperation {
 public:
  OneOperation(sim::SimEnv& env, const Case& what) : env_(env), case_(what) {}

  // Data, zeroes and holes; a compressed cluster where there can be one; perhaps a snapshot.
  Task<void> prepare() {
    auto made = co_await create_image(env_, "disk", case_.create, data_path());
    EXPECT_TRUE(made) << made.error().description;
    env_.storage().put("source", sim::SparseBytes(case_.create.size));
    FileOpenOptions how;
    how.write = true;
    auto source = co_await env_.open_file("source", how);
    Bytes other(case_.create.size, std::byte{0x77});
    EXPECT_TRUE(co_await (*source)->write(0, IoVector(other.data(), other.size())));
    EXPECT_TRUE(co_await (*source)->flush());
    (void)co_await (*source)->close();

    auto opened = co_await open();
    if (!opened) co_return;
    Image& image = *opened->image;
    const uint64_t cluster = case_.create.cluster_size;
    Bytes data(case_.create.size / 2);
    for (std::size_t at = 0; at < data.size(); ++at) data[at] = std::byte(1 + at / kSectors % 200);
    EXPECT_TRUE(co_await image.write(cluster, IoVector(data.data(), data.size())));
    if (image.geometry().version >= 3) {
      EXPECT_TRUE(co_await image.zero(3 * cluster, 2 * cluster, RequestFlags()));
    }
    if (!image.geometry().external_data) {
      EXPECT_TRUE(co_await image.write_compressed(5 * cluster, IoVector(data.data(), cluster)));
    }
    if (case_.snapshot) {
      snapshot_ = co_await disk_of(image);
      Snapshot snapshot;
      snapshot.name = "before";
      EXPECT_TRUE(co_await image.create_snapshot(snapshot));
      EXPECT_TRUE(co_await image.write(2 * cluster, IoVector(data.data(), 3 * cluster)));
    }
    before_ = co_await disk_of(image);
    EXPECT_TRUE(co_await opened->close());
  }

  Task<void> work() {
    auto opened = co_await open();
    if (!opened) co_return;
    auto done = co_await case_.operation(env_, *opened);
    EXPECT_TRUE(done) << done.error().description;
    after_ = co_await disk_of(*opened->image);
    EXPECT_TRUE(co_await opened->close());
    end_ = env_.storage().operations();
  }

  // In an Env of its own.
  Task<void> look(sim::SimEnv& env, uint64_t crash, std::string where) {
    co_await walk(env, where);
    if (::testing::Test::HasFailure()) co_return;
    auto left = co_await open_image(env, "disk", writable_options(), case_.backing, data_path());
    EXPECT_TRUE(left) << where << (left ? "" : left.error().description);
    if (!left) co_return;
    Image& image = *(*left)->image;
    EXPECT_TRUE(case_.header(image.header())) << where;
    Bytes disk = co_await disk_of(image);
    judge(disk, crash >= end_, where);
    EXPECT_EQ(image.snapshots().size(), case_.snapshot ? 1U : 0U) << where;
    if (::testing::Test::HasFailure()) {
      co_await (*left)->abandon();
      co_return;
    }

    // Who writes here and there finds all else as it was.
    for (uint64_t at = 512; at + 512 <= disk.size(); at += case_.create.cluster_size) {
      std::memset(disk.data() + at, 0x5a, 512);
      EXPECT_TRUE(co_await image.write(at, IoVector(disk.data() + at, 512))) << where;
    }
    EXPECT_TRUE(co_await disk_of(image) == disk) << where << ", written to";
    if (case_.snapshot) {
      EXPECT_TRUE(co_await image.apply_snapshot(0)) << where;
      EXPECT_TRUE(co_await disk_of(image) == snapshot_) << where << ", the snapshot";
    }
    EXPECT_TRUE(co_await (*left)->close()) << where;
    co_await expect_sound(env, "disk", false);
  }

 private:
  std::string data_path() const { return case_.create.data_file ? "data" : ""; }

  Task<std::unique_ptr<OpenedImage>> open() {
    MetadataOptions options = writable_options();
    options.lazy_refcounts = case_.create.lazy_refcounts;
    options.discard_request = true;
    // Each table is written again and again.
    options.l2_pieces = options.refcount_pieces = 4;
    auto opened = co_await open_image(env_, "disk", options, case_.backing, data_path());
    EXPECT_TRUE(opened) << opened.error().description;
    if (!opened) co_return nullptr;
    co_return std::move(*opened);
  }

  Task<Bytes> disk_of(Image& image) {
    Bytes disk(image.length());
    EXPECT_TRUE(co_await image.read(0, IoVector(disk.data(), disk.size())));
    co_return disk;
  }

  // Nothing but leaks, by two opinions; counts that were put off are made good first.
  Task<void> walk(Env& env, std::string where) {
    FileOpenOptions how;
    how.write = true;
    auto file = co_await env.open_file("disk", how);
    if (!file) co_return;
    FileStorage storage(**file);
    auto header = co_await read_header(storage, true);
    EXPECT_TRUE(header) << where << (header ? "" : header.error().description);
    if (header) {
      if (header->has(incompatible::kDirty)) {
        EXPECT_TRUE(co_await repair_counts(storage, *header)) << where;
      }
      auto report = co_await check_image(storage, *header);
      EXPECT_TRUE(report && report->corruptions == 0 && report->check_errors == 0)
          << where << (report ? report->describe() : "");
      // The second looks at one file.
      if (!case_.create.data_file) {
        const References found = co_await walk_references(storage, *header, true);
        EXPECT_EQ(found.fault, "") << where;
      }
    }
    (void)co_await (*file)->close();
  }

  void judge(const Bytes& disk, bool ended, const std::string& where) {
    if (ended || disk.size() != before_.size()) {
      EXPECT_EQ(disk.size(), after_.size()) << where;
    }
    if (::testing::Test::HasFailure()) return;
    for (std::size_t at = 0; at < disk.size(); at += kSectors) {
      auto same = [&](const Bytes& other) {
        return at < other.size() && std::equal(disk.begin() + static_cast<std::ptrdiff_t>(at),
                                               disk.begin() + static_cast<std::ptrdiff_t>(at + 512),
                                               other.begin() + static_cast<std::ptrdiff_t>(at));
      };
      if (same(after_) || (!ended && same(before_))) continue;
      ADD_FAILURE() << where << ": sector " << at / kSectors;
      return;
    }
  }

  sim::SimEnv& env_;
  Case case_;
  Bytes before_;
  Bytes after_;
  Bytes snapshot_;
  uint64_t end_ = 0;
};

void visit(const Case& what) {
  sim::SimEnv env(5);
  OneOperation run(env, what);
  env.run(run.prepare());
  env.storage().record();
  const uint64_t base = env.storage().operations();
  env.run(run.work());
  if (::testing::Test::HasFailure()) return;
  const uint64_t states = judge_crashes(
      env.storage(), base, 1, 8,
      [&](const sim::StorageImage& left, uint64_t operation, const std::string& where) {
        run_after_crash(left,
                        [&](sim::SimEnv& after) { return run.look(after, operation, where); });
      });
  EXPECT_GT(states, 8U);
}

// --- growth

Operation grow_to(uint64_t length, Preallocation how) {
  return [=](sim::SimEnv&, OpenedImage& opened) {
    TruncateOptions options;
    options.preallocation = how;
    return opened.image->truncate(length, options);
  };
}

class Qcow2GrowthCrash : public ::testing::TestWithParam<Preallocation> {};

// Refcount blocks, L2 tables and the L1 table are made on the way.
TEST_P(Qcow2GrowthCrash, Plain) {
  CreateOptions create = small(512, 60);
  create.refcount_bits = 64;
  visit({.create = create, .operation = grow_to(150 * 512, GetParam())});
}

// The disk ended within a cluster, and a snapshot shares that.
TEST_P(Qcow2GrowthCrash, BehindPartOfACluster) {
  CreateOptions create = small(2048, 20);
  create.size -= 1024;
  visit({.create = create, .snapshot = true, .operation = grow_to(40 * 2048, GetParam())});
}

TEST_P(Qcow2GrowthCrash, LazyCounts) {
  CreateOptions create = small(512, 60);
  create.lazy_refcounts = true;
  visit({.create = create, .operation = grow_to(150 * 512, GetParam())});
}

TEST_P(Qcow2GrowthCrash, Subclusters) {
  CreateOptions create = small(16384, 12);
  create.extended_l2 = true;
  visit({.create = create, .operation = grow_to(20 * 16384, GetParam())});
}

TEST_P(Qcow2GrowthCrash, DataFile) {
  visit({.create = with_data_file(small(1024, 30)), .operation = grow_to(80 * 1024, GetParam())});
}

TEST_P(Qcow2GrowthCrash, RawDataFile) {
  visit({.create = with_data_file(small(1024, 30), true),
         .operation = grow_to(80 * 1024, GetParam())});
}

INSTANTIATE_TEST_SUITE_P(Each, Qcow2GrowthCrash,
                         ::testing::Values(Preallocation::kMetadata, Preallocation::kFalloc,
                                           Preallocation::kFull),
                         [](const auto& info) {
                           return info.param == Preallocation::kMetadata ? "Metadata"
                                  : info.param == Preallocation::kFalloc ? "Falloc"
                                                                         : "Full";
                         });

// --- emptying

const Operation kMakeEmpty = [](sim::SimEnv&, OpenedImage& opened) -> Task<Expected<void>> {
  co_return told(co_await opened.image->make_empty());
};

CreateOptions backed(CreateOptions create) {
  create.backing_file = "base";
  create.backing_format = "raw";
  return create;
}

TEST(Qcow2EmptyCrash, Plain) {
  visit({.create = backed(small(512, 200)),
         .backing = Bytes(150 * 512, std::byte{0xbb}),
         .operation = kMakeEmpty});
}

TEST(Qcow2EmptyCrash, BesideASnapshot) {
  visit({.create = small(512, 200), .snapshot = true, .operation = kMakeEmpty});
}

TEST(Qcow2EmptyCrash, LazyCounts) {
  CreateOptions create = small(1024, 60);
  create.lazy_refcounts = true;
  visit({.create = create, .operation = kMakeEmpty});
}

TEST(Qcow2EmptyCrash, Subclusters) {
  CreateOptions create = backed(small(16384, 12));
  create.extended_l2 = true;
  visit({.create = create, .backing = Bytes(9 * 16384, std::byte{0xbb}), .operation = kMakeEmpty});
}

TEST(Qcow2EmptyCrash, DataFile) {
  visit({.create = with_data_file(small(1024, 60)), .operation = kMakeEmpty});
}

// --- copies inside the host

// To the middle of clusters that are there, that are not, and that others share.
Operation copy_in(uint64_t offset, uint64_t length) {
  return [=](sim::SimEnv& env, OpenedImage& opened) -> Task<Expected<void>> {
    auto source = co_await env.open_file("source", FileOpenOptions());
    EXPECT_TRUE(source);
    auto done = co_await opened.image->copy_from(**source, 512, offset, length);
    (void)co_await (*source)->close();
    co_return told(done);
  };
}

TEST(Qcow2CopyCrash, OverThePast) {
  visit({.create = small(2048, 30), .snapshot = true, .operation = copy_in(3 * 1024, 20 * 1024)});
}

TEST(Qcow2CopyCrash, OverABackingFile) {
  visit({.create = backed(small(2048, 30)),
         .backing = Bytes(27 * 2048, std::byte{0xbb}),
         .operation = copy_in(33 * 1024, 22 * 1024)});
}

TEST(Qcow2CopyCrash, Subclusters) {
  CreateOptions create = small(16384, 12);
  create.extended_l2 = true;
  visit({.create = create, .operation = copy_in(5 * 16384 - 1024, 40 * 1024)});
}

TEST(Qcow2CopyCrash, DataFile) {
  visit({.create = with_data_file(small(2048, 30)), .operation = copy_in(3 * 1024, 45 * 1024)});
}

// --- other options

Operation amended(AmendOptions options) {
  return [=](sim::SimEnv&, OpenedImage& opened) { return amend(*opened.image, options); };
}

AmendOptions width(uint64_t bits) {
  AmendOptions options;
  options.refcount_bits = bits;
  return options;
}

TEST(Qcow2AmendCrash, CountsOfASnapshot) {
  visit({.create = small(512, 100), .snapshot = true, .operation = amended(width(64))});
  visit({.create = small(512, 100), .snapshot = true, .operation = amended(width(2))});
}

TEST(Qcow2AmendCrash, CountsBesideADataFile) {
  visit({.create = with_data_file(small(512, 600)), .operation = amended(width(64))});
  visit({.create = with_data_file(small(512, 600)), .operation = amended(width(1))});
}

TEST(Qcow2AmendCrash, CountsPutOff) {
  CreateOptions create = small(512, 100);
  create.lazy_refcounts = true;
  visit({.create = create, .operation = amended(width(8))});
}

TEST(Qcow2AmendCrash, NewerVersion) {
  CreateOptions create = small(1024, 60);
  create.version = 2;
  AmendOptions options = width(32);
  options.version = 3;
  options.lazy_refcounts = true;
  visit({.create = create, .snapshot = true, .operation = amended(options)});
}

TEST(Qcow2AmendCrash, LazyCounts) {
  for (const bool lazy : {false, true}) {
    for (const bool data_file : {false, true}) {
      CreateOptions create = small(1024, 60);
      if (data_file) create = with_data_file(create);
      create.lazy_refcounts = !lazy;
      AmendOptions options;
      options.lazy_refcounts = lazy;
      visit({.create = create, .operation = amended(options)});
    }
  }
}

// Another name for the data file, and one that is no longer raw.
TEST(Qcow2AmendCrash, DataFile) {
  AmendOptions options;
  options.data_file = "elsewhere";
  options.data_file_raw = false;
  options.size = 90 * 1024;
  visit({.create = with_data_file(small(1024, 60), true),
         .operation = amended(options),
         .header = [](const Header& header) {
           return header.data_file_name == "data" || header.data_file_name == "elsewhere";
         }});
}

// --- the name of the backing file

// As long as it lies in the first sector there is one name or the other, with its format.
TEST(Qcow2BackingNameCrash, IsOneOrTheOther) {
  const Operation rename = [](sim::SimEnv&, OpenedImage& opened) -> Task<Expected<void>> {
    if (auto begun = co_await opened.image->begin_writing(); !begun) co_return told(begun);
    Metadata& metadata = opened.image->metadata();
    MutexGuard lock = co_await metadata.lock();
    Header header = metadata.header();
    header.backing_name = "another base of a longer name";
    header.backing_format = "qcow2";
    co_return told(co_await metadata.rewrite_header(std::move(header)));
  };
  for (const uint64_t cluster : {512, 4096}) {
    visit({.create = backed(small(cluster, 20)),
           .backing = Bytes(15 * cluster, std::byte{0xbb}),
           .operation = rename,
           .header = [](const Header& header) {
             return (header.backing_name == "base" && header.backing_format == "raw") ||
                    (header.backing_name == "another base of a longer name" &&
                     header.backing_format == "qcow2");
           }});
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
