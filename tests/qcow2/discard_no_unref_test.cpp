// discard-no-unref: what is discarded or zeroed keeps its clusters for later writes.
#include <gtest/gtest.h>

#include <algorithm>

#include "block/formats/qcow2/check.h"
#include "block/sim/sim_env.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kCluster = 65536;
constexpr uint64_t kClusters = 8;

enum class Way { kDiscard, kZeroUnmap };
struct Case {
  Way way = Way::kDiscard;
  bool pass_discard = false;
  bool extended = false;
  bool external = false;
};

class DiscardNoUnref : public ::testing::TestWithParam<Case> {
 public:
  Task<void> open(bool keeps = true) {
    CreateOptions create;
    create.size = kClusters * kCluster;
    create.extended_l2 = GetParam().extended;
    create.data_file = GetParam().external;
    const std::string data = GetParam().external ? "data" : "";
    create.data_file_name = data;
    EXPECT_TRUE(co_await create_image(env_, "disk", create, data));
    MetadataOptions options = writable_options();
    options.discard_no_unref = keeps;
    options.discard_request = GetParam().pass_discard;
    auto opened = co_await open_image(env_, "disk", options, {}, data);
    EXPECT_TRUE(opened);
    opened_ = std::move(*opened);
  }
  Image& image() { return *opened_->image; }
  Storage& data_storage() {
    return GetParam().external ? *opened_->data_storage : *opened_->storage;
  }

  Task<void> write(uint64_t cluster, uint64_t count, int value) {
    std::vector<std::byte> bytes(count * kCluster, static_cast<std::byte>(value));
    EXPECT_TRUE(co_await image().write(cluster * kCluster, IoVector(bytes.data(), bytes.size())));
  }
  Task<void> drop(uint64_t cluster, uint64_t count) {
    if (GetParam().way == Way::kDiscard) {
      EXPECT_TRUE(co_await image().discard(cluster * kCluster, count * kCluster));
    } else {
      EXPECT_TRUE(co_await image().zero(cluster * kCluster, count * kCluster,
                                        RequestFlags().with_may_unmap()));
    }
  }
  Task<ImageStatus> status(uint64_t cluster) {
    auto status = co_await image().status(cluster * kCluster, kCluster);
    EXPECT_TRUE(status);
    co_return *status;
  }
  Task<bool> reads_as(uint64_t cluster, int value) {
    std::vector<std::byte> bytes(kCluster);
    EXPECT_TRUE(co_await image().read(cluster * kCluster, IoVector(bytes.data(), bytes.size())));
    co_return std::ranges::all_of(
        bytes, [value](std::byte b) { return b == static_cast<std::byte>(value); });
  }
  Task<bool> holds(uint64_t host, int value) {
    std::vector<std::byte> bytes(kCluster);
    EXPECT_TRUE(co_await data_storage().read(host, IoVector(bytes.data(), bytes.size())));
    co_return std::ranges::all_of(
        bytes, [value](std::byte b) { return b == static_cast<std::byte>(value); });
  }
  Task<void> close() {
    EXPECT_TRUE(co_await image().flush());
    auto header = co_await read_header(*opened_->storage, HeaderUse::kChecking);
    EXPECT_TRUE(header);
    auto report = co_await check_image(*opened_->storage, *header);
    EXPECT_TRUE(report && report->clean()) << report->describe();
    EXPECT_TRUE(co_await opened_->close());
  }

  Task<void> stays_in_place() {
    co_await open();
    co_await write(0, 4, 1);
    EXPECT_TRUE(co_await image().flush());
    const uint64_t first = *(co_await status(1)).host;
    const auto length = co_await data_storage().length();
    co_await drop(1, 2);
    EXPECT_TRUE(co_await reads_as(1, 0));
    EXPECT_TRUE(co_await reads_as(3, 1));
    const ImageStatus dropped = co_await status(1);
    EXPECT_EQ(dropped.kind, Kind::kZero);
    EXPECT_EQ(dropped.host, first);
    EXPECT_TRUE(co_await image().flush());
    EXPECT_TRUE(co_await holds(first, GetParam().pass_discard ? 0 : 1));

    // Only a part: what is around it must not show what was there.
    std::vector<std::byte> part(4096, std::byte{2});
    EXPECT_TRUE(co_await image().write(kCluster + 8192, IoVector(part.data(), part.size())));
    EXPECT_EQ((co_await status(1)).host, first);
    std::vector<std::byte> bytes(kCluster);
    EXPECT_TRUE(co_await image().read(kCluster, IoVector(bytes.data(), bytes.size())));
    for (uint64_t at = 0; at < kCluster; at += 512) {
      EXPECT_EQ(bytes[at], at >= 8192 && at < 12288 ? std::byte{2} : std::byte{0}) << at;
    }
    co_await write(5, 1, 3);
    EXPECT_TRUE(co_await image().flush());
    if (!GetParam().external) {
      EXPECT_EQ(*co_await data_storage().length(), *length + kCluster) << "only what is new is new";
    }
    co_await close();
  }

  // What was written again before the discard was due is data.
  Task<void> written_before_the_discard() {
    co_await open();
    co_await write(0, 4, 1);
    EXPECT_TRUE(co_await image().flush());
    const uint64_t first = *(co_await status(0)).host;
    co_await drop(0, 4);
    co_await write(1, 2, 2);
    EXPECT_TRUE(co_await image().flush());
    EXPECT_TRUE(co_await reads_as(0, 0));
    EXPECT_TRUE(co_await reads_as(1, 2));
    EXPECT_TRUE(co_await reads_as(2, 2));
    EXPECT_TRUE(co_await reads_as(3, 0));
    EXPECT_EQ((co_await status(1)).host, first + kCluster);
    EXPECT_TRUE(co_await holds(first + kCluster, 2));
    EXPECT_TRUE(co_await holds(first, GetParam().pass_discard ? 0 : 1));
    // Twice is not more than once.
    co_await drop(0, 4);
    co_await drop(0, 4);
    EXPECT_TRUE(co_await reads_as(1, 0));
    co_await close();
  }

  Task<void> snapshots_keep_theirs() {
    co_await open();
    co_await write(0, 4, 1);
    Snapshot snapshot;
    snapshot.name = "s";
    EXPECT_TRUE(co_await image().create_snapshot(snapshot));
    const uint64_t shared = *(co_await status(1)).host;
    co_await drop(1, 1);
    EXPECT_EQ((co_await status(1)).host, std::nullopt);
    EXPECT_TRUE(co_await image().flush());
    EXPECT_TRUE(co_await holds(shared, 1));
    co_await write(1, 1, 2);
    EXPECT_TRUE(co_await image().apply_snapshot(0));
    EXPECT_TRUE(co_await reads_as(1, 1));
    co_await close();
  }

  Task<void> compressed_data_goes() {
    co_await open();
    std::vector<std::byte> bytes(kCluster, std::byte{1});
    EXPECT_TRUE(co_await image().write_compressed(0, IoVector(bytes.data(), bytes.size())));
    co_await drop(0, 1);
    EXPECT_EQ((co_await status(0)).host, std::nullopt);
    EXPECT_TRUE(co_await reads_as(0, 0));
    co_await close();
  }

  Task<void> without_the_option() {
    co_await open(false);
    co_await write(0, 4, 1);
    co_await drop(1, 2);
    EXPECT_EQ((co_await status(1)).host, std::nullopt);
    co_await close();
  }

  sim::SimEnv env_{1};
  std::unique_ptr<OpenedImage> opened_;
};

TEST_P(DiscardNoUnref, ClustersStayInPlace) { env_.run(stays_in_place()); }
TEST_P(DiscardNoUnref, WhatIsWrittenAgainIsNotDiscarded) { env_.run(written_before_the_discard()); }
TEST_P(DiscardNoUnref, SnapshotsKeepTheirs) {
  if (GetParam().external) GTEST_SKIP() << "has no snapshots";
  env_.run(snapshots_keep_theirs());
}
TEST_P(DiscardNoUnref, CompressedDataGoes) {
  if (GetParam().external) GTEST_SKIP() << "has no compressed data";
  env_.run(compressed_data_goes());
}
TEST_P(DiscardNoUnref, IsNotTheDefault) { env_.run(without_the_option()); }

INSTANTIATE_TEST_SUITE_P(, DiscardNoUnref,
                         ::testing::Values(Case{Way::kDiscard, false, false, false},
                                           Case{Way::kDiscard, true, false, false},
                                           Case{Way::kDiscard, true, true, false},
                                           Case{Way::kDiscard, true, false, true},
                                           Case{Way::kZeroUnmap, false, true, false},
                                           Case{Way::kZeroUnmap, true, false, false},
                                           Case{Way::kZeroUnmap, true, false, true}));

}  // namespace
}  // namespace blockbed::qcow2::test
