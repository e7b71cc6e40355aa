#include "tests/qcow2/shadow_fixture.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/repair.h"
#include "block/runtime/gate.h"
#include "tests/qcow2/references_fixture.h"

namespace blockbed::qcow2::test {

namespace {

constexpr uint64_t kSector = 512;
// What one comparison reads at once.
constexpr uint64_t kPiece = 256 << 10;
constexpr std::size_t kNotes = 25;
constexpr std::size_t kMostSnapshots = 4;
constexpr uint64_t kLongestVmState = 9000;

using Bytes = std::vector<std::byte>;

}  // namespace

ShadowRun::ShadowRun(uint64_t seed, blockbed::test::Coverage& coverage)
    : seed_(seed),
      coverage_(coverage),
      env_(seed),
      chance_(seed, 300),
      file_(env_.executor(), seed, seed % 3 == 0 ? 0 : 40),
      data_(env_.executor(), seed + 1, seed % 3 == 0 ? 0 : 40) {
  draw_geometry();
}

ShadowRun::~ShadowRun() = default;

std::string ShadowRun::describe() const {
  return fmt::format(
      "seed {}: version {}, cluster {}, refcount bits {}, extended {}, lazy {}, data file {} (raw "
      "{}), backing {}, disk {}, zstd {}",
      seed_, create_.version, create_.cluster_size, create_.refcount_bits, create_.extended_l2,
      lazy_, create_.data_file, create_.data_file_raw, backing_.bytes.size(), create_.size,
      create_.compression == CompressionType::kZstd);
}

void ShadowRun::draw_geometry() {
  static constexpr uint32_t kBits[] = {9, 9, 9, 9, 10, 11, 12, 12, 14, 14, 16, 16, 18, 21};
  uint32_t bits = kBits[chance_.below(std::size(kBits))];
  create_.version = chance_.percent(15) ? 2 : 3;
  if (create_.version == 3) {
    create_.refcount_bits = 1u << chance_.below(7);
    create_.extended_l2 = chance_.percent(25);
    create_.lazy_refcounts = chance_.percent(25);
    create_.data_file = chance_.percent(15);
    create_.data_file_raw = create_.data_file && chance_.percent(50);
    if (create_.data_file) create_.data_file_name = "data";
    if (chance_.percent(30)) create_.compression = CompressionType::kZstd;
  }
  if (create_.extended_l2) bits = std::max(bits, kMinExtendedClusterBits);
  lazy_ = create_.lazy_refcounts;
  create_.cluster_size = uint64_t{1} << bits;

  const bool small_clusters = bits <= 12;
  const uint64_t clusters = small_clusters ? (chance_.percent(10) ? 4000 : 300)
                            : bits < 18    ? 60
                                           : 6;
  const uint64_t span = (1 + chance_.below(clusters)) * create_.cluster_size;
  create_.size =
      std::max<uint64_t>(kSector, span - chance_.below(create_.cluster_size / kSector) * kSector);
  longest_ = std::max<uint64_t>(3 * create_.cluster_size, std::min<uint64_t>(span, 32 << 10));
  const bool sparse = chance_.percent(20) && !create_.data_file_raw;
  windows_.push_back({0, create_.size});
  if (sparse) {
    // A long disk of which some places are used: a table of the second level's worth apart.
    const uint64_t coverage = (create_.cluster_size / (create_.extended_l2 ? 16 : 8)) << bits;
    const uint64_t tables = 2 + chance_.below(40);
    for (int i = 0; i < 3; ++i) {
      windows_.push_back({chance_.below(tables) * coverage, 8 * create_.cluster_size});
    }
    create_.size = std::max(create_.size, tables * coverage);
    windows_.push_back({create_.size - std::min(create_.size, 8 * create_.cluster_size),
                        8 * create_.cluster_size});
  } else if (!create_.data_file_raw && chance_.percent(45)) {
    const uint64_t length = chance_.below(2 * create_.size / kSector + 1) * kSector;
    backing_.bytes = draw_bytes(length);
    if (length > 0) {
      create_.backing_file = "base";
      create_.backing_format = "raw";
    }
  }
  discards_reach_file_ = chance_.percent(50);
  steps_ = bits >= 18 ? 25 : 90;
  shadow_ = sim::SparseBytes(create_.size);
  show_backing(0, create_.size);
}

std::vector<std::byte> ShadowRun::draw_bytes(uint64_t length) {
  Bytes bytes(length);
  // Some compress well, some not at all.
  const uint64_t kind = chance_.below(4);
  const auto fill = static_cast<std::byte>(1 + chance_.below(255));
  uint64_t state = chance_.next();
  for (uint64_t i = 0; i < length; ++i) {
    if (kind == 0) {
      if (i % 8 == 0) state = state * 6364136223846793005u + 1442695040888963407u;
      bytes[i] = static_cast<std::byte>(state >> (i % 8 * 8));
    } else {
      bytes[i] = i % 512 < 8 ? static_cast<std::byte>(state >> (i % 8 * 8)) : fill;
    }
  }
  return bytes;
}

void ShadowRun::show_backing(uint64_t begin, uint64_t end) {
  end = std::min(end, shadow_.size());
  if (begin >= end) return;
  shadow_.zero(begin, end - begin, sim::SparseBytes::Zeroes::kGiveSpaceBack);
  const uint64_t shown = std::min<uint64_t>(end, backing_.bytes.size());
  if (begin < shown) {
    shadow_.write(begin, std::span(backing_.bytes).subspan(begin, shown - begin));
  }
}

ShadowRun::Range ShadowRun::draw_range(uint64_t longest) {
  const Range& window = windows_[chance_.below(windows_.size())];
  const uint64_t length = shadow_.size();
  if (length == 0) return {};
  // Units of a byte, a sector and a cluster are as likely.
  const uint64_t units[] = {1, kSector, create_.cluster_size};
  const uint64_t unit = units[chance_.below(3)];
  uint64_t begin = window.offset + chance_.below(std::max<uint64_t>(1, window.length));
  begin = align_down(begin, unit);
  if (begin >= length) begin = align_down(chance_.below(length), unit);
  uint64_t size = chance_.percent(70)
                      ? 1 + chance_.below(std::min<uint64_t>(longest, 2 * create_.cluster_size))
                      : 1 + chance_.below(longest);
  size = align_up(size, unit);
  return {begin, std::min(size, length - begin)};
}

MetadataOptions ShadowRun::draw_options() {
  MetadataOptions options = writable_options();
  static constexpr std::size_t kPieces[] = {4, 5, 8, 64};
  options.l2_pieces = kPieces[chance_.below(4)];
  options.refcount_pieces = kPieces[chance_.below(4)];
  options.l2_piece_bytes = 512u << chance_.below(4);
  options.lazy_refcounts = lazy_;
  options.discard_request = discards_reach_file_;
  options.discard_snapshot = chance_.percent(50);
  options.discard_other = chance_.percent(50);
  static constexpr uint32_t kChecks[] = {overlap::kNone, overlap::kConstant, overlap::kCached,
                                         overlap::kAll};
  options.overlap_checks = kChecks[chance_.below(4)];
  options.reuse_bytes = chance_.percent(50) ? 3 * create_.cluster_size : kReuseBytes;
  return options;
}

Task<bool> ShadowRun::open() {
  auto header = co_await read_header(file_, true);
  EXPECT_TRUE(header) << header.error().description;
  if (!header) co_return false;
  if (header->has(incompatible::kDirty)) {
    auto repaired = co_await repair_counts(file_, *header);
    EXPECT_TRUE(repaired) << repaired.error().number();
  }
  image_ = std::make_unique<Image>(env_, file_, create_.data_file ? &data_ : nullptr, backing_,
                                   std::move(*header), draw_options());
  image_->metadata().on_corruption = [](const Corruption& c) {
    ADD_FAILURE() << "corruption reported: " << c.message;
  };
  auto opened = co_await image_->open();
  EXPECT_TRUE(opened) << opened.error().description;
  co_return opened.has_value();
}

Task<void> ShadowRun::close() {
  auto closed = co_await image_->close();
  EXPECT_TRUE(closed) << closed.error().number();
  image_.reset();
  co_await judge(may_leak_, "after a close");
}

Task<void> ShadowRun::die() {
  auto flushed = co_await image_->flush();
  EXPECT_TRUE(flushed) << flushed.error().number();
  image_.reset();
  auto header = co_await read_header(file_, HeaderUse::kChecking);
  EXPECT_TRUE(header);
  if (!header) co_return;
  if (!header->has(incompatible::kDirty) && !create_.data_file) {
    // Counts may be too high, also of clusters that say COPIED: order_of_writes.md, "snapshots".
    const References walked = co_await walk_references(file_, *header, true);
    EXPECT_EQ(walked.fault, "") << "after a death";
  }
  CheckReport report;
  auto repaired = co_await repair_image(file_, *header, RepairOptions(Repair::kAll), report, {});
  EXPECT_TRUE(repaired) << repaired.error().number();
  may_leak_ = false;
  co_await judge(false, "after a repair");
}

Task<void> ShadowRun::judge(bool may_leak, std::string when) {
  auto header = co_await read_header(file_, HeaderUse::kChecking);
  EXPECT_TRUE(header) << when;
  if (!header) co_return;
  auto report = co_await check_image(file_, *header);
  EXPECT_TRUE(report) << when;
  if (report) {
    EXPECT_EQ(report->corruptions, 0u) << when << ": " << report->describe();
    EXPECT_EQ(report->check_errors, 0u) << when << ": " << report->describe();
    if (!may_leak) EXPECT_EQ(report->leaks, 0u) << when << ": " << report->describe();
  }
  if (!create_.data_file) {
    const References walked = co_await walk_references(file_, *header, may_leak);
    EXPECT_EQ(walked.fault, "") << when;
    if (!may_leak) EXPECT_EQ(walked.leaks, 0u) << when;
  }
  if (create_.data_file_raw && image_ == nullptr) {
    sim::SparseBytes disk = data_.bytes;
    disk.resize(shadow_.size());
    const Bytes is = disk.bytes();
    const Bytes should = shadow_.bytes();
    EXPECT_EQ(std::ranges::mismatch(is, should).in1 - is.begin(),
              static_cast<std::ptrdiff_t>(is.size()))
        << when << ": the raw data file is not the disk";
  }
}

void ShadowRun::run() {
  SCOPED_TRACE(describe());
  env_.run(live());
  if (stop()) ADD_FAILURE() << "the last requests:" << recent();
}

void ShadowRun::note(std::string text) {
  recent_.push_back(std::move(text));
  if (recent_.size() > kNotes) recent_.pop_front();
}

std::string ShadowRun::recent() const {
  std::string all;
  for (const std::string& text : recent_) all += "\n  " + text;
  return all;
}

Task<void> ShadowRun::live() {
  auto made = co_await qcow2::create(env_, file_, create_.data_file ? &data_ : nullptr, create_);
  EXPECT_TRUE(made) << made.error().description;
  if (!made || !co_await open()) co_return;
  coverage_.hit(fmt::format("version {}", create_.version));
  coverage_.hit_if(create_.extended_l2, "extended L2");
  coverage_.hit_if(create_.data_file, "external data file");
  coverage_.hit_if(create_.data_file_raw, "raw data file");
  coverage_.hit_if(!backing_.bytes.empty(), "backing file");
  coverage_.hit_if(create_.compression == CompressionType::kZstd, "zstd");
  coverage_.hit_if(create_.lazy_refcounts, "lazy refcounts");
  for (int i = 0; i < steps_ && !stop() && image_ != nullptr; ++i) co_await step();
  if (image_ == nullptr) co_return;
  if (!stop()) co_await compare_all();
  co_await close();
}

Task<void> ShadowRun::reopen(bool dies) {
  note(dies ? "die" : "close");
  co_await (dies ? die() : close());
  if (stop() || !co_await open()) {
    image_.reset();
    co_return;
  }
  co_await compare_all();
  coverage_.hit(dies ? "death" : "reopen");
}

Task<void> ShadowRun::step() {
  const uint64_t what = chance_.below(100);
  if (what < 50) {
    co_await one_request(draw_range(longest_));
  } else if (what < 68) {
    co_await batch();
  } else if (what < 73) {
    co_await reopen(chance_.percent(40));
  } else if (what < 79) {
    co_await resize();
  } else if (what < 85) {
    co_await create_snapshot();
  } else if (what < 89) {
    co_await apply_snapshot();
  } else if (what < 93) {
    co_await delete_snapshot();
  } else if (what < 96) {
    auto flushed = co_await image_->flush();
    EXPECT_TRUE(flushed) << flushed.error().number();
    if (!lazy_) co_await judge(true, "after a flush");
  } else if (what < 97) {
    co_await make_empty();
  } else {
    co_await compare_all();
  }
}

Task<void> ShadowRun::one_request(Range range) {
  if (range.length == 0) co_return;
  switch (chance_.below(10)) {
    case 0:
    case 1:
    case 2:
      co_return co_await write(range);
    case 3:
    case 4:
      co_return co_await write_compressed(range);
    case 5:
      co_return co_await zero(range, RequestFlags());
    case 6:
      co_return co_await zero(range, RequestFlags().with_may_unmap());
    case 7:
      co_return co_await zero(range, RequestFlags().with_no_fallback().with_may_unmap());
    case 8:
      co_return co_await discard(range);
    default:
      if (chance_.percent(30)) co_return co_await compare_status(range);
      co_return co_await compare(range);
  }
}

// Ranges that do not meet, so that the array knows the answer whoever is first.
Task<void> ShadowRun::batch() {
  std::vector<Range> ranges;
  const uint64_t wanted = 2 + chance_.below(6);
  for (uint64_t i = 0; i < 3 * wanted && ranges.size() < wanted; ++i) {
    // Neighbours share clusters and tables more often than strangers do.
    Range range = draw_range(longest_);
    if (!ranges.empty() && chance_.percent(60)) {
      const uint64_t begin = ranges.back().end();
      range = {begin, begin < shadow_.size() ? std::min(range.length, shadow_.size() - begin) : 0};
    }
    const bool meets = std::ranges::any_of(ranges, [&](const Range& other) {
      return range.offset < other.end() && other.offset < range.end();
    });
    if (range.length > 0 && !meets) ranges.push_back(range);
  }
  Gate gate(env_.executor());
  for (const Range& range : ranges) gate.spawn(one_request(range));
  co_await gate.close();
  coverage_.hit("parallel requests");
}

Task<void> ShadowRun::write(Range range) {
  note(fmt::format("write {:#x} +{:#x}", range.offset, range.length));
  Bytes bytes = draw_bytes(range.length);
  IoVector buffers;
  const uint64_t cut = chance_.percent(30) ? chance_.below(range.length) : 0;
  buffers.append(bytes.data(), cut);
  buffers.append(bytes.data() + cut, range.length - cut);
  auto done = co_await image_->write(range.offset, std::move(buffers));
  EXPECT_TRUE(done) << "write: " << done.error().number();
  shadow_.write(range.offset, bytes);
}

Task<void> ShadowRun::write_compressed(Range range) {
  const uint64_t cluster = create_.cluster_size;
  const uint64_t begin = align_up(range.offset, cluster);
  const uint64_t end =
      range.end() == shadow_.size() ? range.end() : align_down(range.end(), cluster);
  if (begin >= end) co_return co_await write(range);
  note(fmt::format("write_compressed {:#x} +{:#x}", begin, end - begin));
  Bytes bytes = draw_bytes(end - begin);
  auto done = co_await image_->write_compressed(begin, IoVector(bytes.data(), bytes.size()));
  if (create_.data_file) {
    EXPECT_FALSE(done);
    co_return;
  }
  EXPECT_TRUE(done) << "write_compressed: " << done.error().number();
  shadow_.write(begin, bytes);
  coverage_.hit("compressed write");
}

Task<void> ShadowRun::zero(Range range, RequestFlags flags) {
  note(fmt::format("zero {:#x} +{:#x}, unmap {}, no fallback {}", range.offset, range.length,
                   flags.may_unmap, flags.no_fallback));
  auto done = co_await image_->zero(range.offset, range.length, flags);
  if (!done && done.error().number() == ENOTSUP) {
    EXPECT_TRUE((create_.version < 3 && create_.backing_file) || flags.no_fallback);
    coverage_.hit("zero not supported");
    // What was asked for may have been done in part; whoever asked writes it.
    const Bytes zeroes(range.length);
    done = co_await image_->write(range.offset, IoVector(std::span<const std::byte>(zeroes)));
  }
  EXPECT_TRUE(done) << "zero: " << done.error().number();
  shadow_.zero(range.offset, range.length, sim::SparseBytes::Zeroes::kGiveSpaceBack);
}

Task<void> ShadowRun::discard(Range range) {
  note(fmt::format("discard {:#x} +{:#x}", range.offset, range.length));
  const uint64_t cluster = create_.cluster_size;
  auto done = co_await image_->discard(range.offset, range.length);
  if (!done) {
    EXPECT_EQ(done.error().number(), ENOTSUP);
    co_return;
  }
  const uint64_t begin = align_up(range.offset, cluster);
  const uint64_t end =
      range.end() == shadow_.size() ? range.end() : align_down(range.end(), cluster);
  if (begin >= end) co_return;
  shadow_.zero(begin, end - begin, sim::SparseBytes::Zeroes::kGiveSpaceBack);
  coverage_.hit("discard");
}

Task<void> ShadowRun::compare(Range range) {
  Bytes is(range.length);
  Bytes should(range.length);
  auto done = co_await image_->read(range.offset, IoVector(is.data(), is.size()));
  EXPECT_TRUE(done) << "read: " << done.error().number();
  if (!done) co_return;
  shadow_.read(range.offset, should);
  const auto [mine, theirs] = std::ranges::mismatch(is, should);
  if (mine != is.end()) {
    ADD_FAILURE() << "byte " << range.offset + static_cast<uint64_t>(mine - is.begin()) << " is "
                  << static_cast<int>(*mine) << " and not " << static_cast<int>(*theirs);
  }
}

Task<void> ShadowRun::compare_status(Range range) {
  auto found = co_await image_->status(range.offset, range.length);
  EXPECT_TRUE(found) << "status: " << found.error().number();
  if (!found) co_return;
  EXPECT_GT(found->length, 0u);
  EXPECT_LE(found->length, range.length);
  Bytes should(std::min(found->length, kPiece));
  shadow_.read(range.offset, should);
  if (found->kind == Kind::kZero) EXPECT_TRUE(all_zero(should.data(), should.size())) << "status";
  if (found->kind == Kind::kData && found->host) {
    Bytes is(should.size());
    (create_.data_file ? data_ : file_).bytes.read(*found->host, is);
    EXPECT_TRUE(is == should) << "status: other bytes at the place it names";
  }
}

Task<void> ShadowRun::compare_all() {
  EXPECT_EQ(image_->length(), shadow_.size());
  for (const Range& window : windows_) {
    const uint64_t end = std::min(window.end() + 2 * create_.cluster_size, shadow_.size());
    for (uint64_t at = window.offset; at < end && !stop(); at += kPiece) {
      co_await compare({at, std::min(kPiece, end - at)});
    }
  }
}

Task<void> ShadowRun::resize() {
  const uint64_t old = shadow_.size();
  const uint64_t cluster = create_.cluster_size;
  uint64_t length = old;
  if (chance_.percent(50)) {
    length += chance_.below(4 * cluster / kSector) * kSector;
    // Sometimes the map must grow too.
    if (chance_.percent(20) && backing_.bytes.empty() && !create_.data_file_raw) {
      length += (cluster / 8) * cluster;
    }
  } else {
    length -= chance_.below(std::min(old, 6 * cluster) / kSector + 1) * kSector;
  }
  TruncateOptions options;
  options.zero_new = length > old && backing_.bytes.size() > old;
  if (length > old && chance_.percent(20) && length - old < 8 * cluster) {
    options.preallocation = Preallocation::kMetadata;
  }
  // A preallocated cluster of a raw data file or over a backing file is no part of this.
  if (!backing_.bytes.empty()) options.preallocation = Preallocation::kOff;
  note(fmt::format("resize {:#x} to {:#x}, zero new {}, preallocation {}", old, length,
                   options.zero_new, preallocation_name(options.preallocation)));
  auto done = co_await image_->truncate(length, options);
  if (!done) {
    const bool allowed = create_.version < 3 && (!taken_.empty() || options.zero_new);
    EXPECT_TRUE(allowed) << "resize: " << done.error().description;
    EXPECT_EQ(image_->length(), old);
    coverage_.hit("resize refused");
    co_return;
  }
  shadow_.resize(length);
  coverage_.hit(length < old ? "shrink" : "grow");
}

Task<void> ShadowRun::make_empty() {
  if (create_.data_file_raw) co_return;
  note("make empty");
  auto done = co_await image_->make_empty();
  EXPECT_TRUE(done) << "make_empty: " << done.error().number();
  show_backing(0, shadow_.size());
}

Task<void> ShadowRun::create_snapshot() {
  if (taken_.size() == kMostSnapshots) co_return;
  Taken taken{shadow_, {}};
  Snapshot snapshot;
  snapshot.name = fmt::format("s{}", taken_.size());
  note(fmt::format("snapshot {}", taken_.size()));
  if (chance_.percent(40) && !create_.data_file) {
    taken.vm_state = draw_bytes(1 + chance_.below(kLongestVmState));
    auto written =
        co_await image_->write_vm_state(0, IoVector(taken.vm_state.data(), taken.vm_state.size()));
    EXPECT_TRUE(written) << "write_vm_state: " << written.error().number();
    snapshot.vm_state_size = taken.vm_state.size();
  }
  auto made = co_await image_->create_snapshot(std::move(snapshot));
  if (create_.data_file) {
    EXPECT_FALSE(made);
    co_return;
  }
  if (!made) {
    // Counts of few bits cannot say how often a cluster is shared.
    EXPECT_EQ(made.error().number(), EINVAL);
    EXPECT_LE(create_.refcount_bits, 4u);
    note("that failed");
    coverage_.hit("counts too narrow for a snapshot");
    co_return;
  }
  taken_.push_back(std::move(taken));
  EXPECT_EQ(image_->snapshots().size(), taken_.size());
  coverage_.hit("snapshot");
}

Task<void> ShadowRun::apply_snapshot() {
  if (taken_.empty()) co_return;
  const std::size_t index = chance_.below(taken_.size());
  note(fmt::format("apply {}", index));
  auto done = co_await image_->apply_snapshot(index);
  if (!done && create_.refcount_bits <= 4) {
    note("that failed");
    coverage_.hit("counts too narrow to apply");
    co_return;
  }
  EXPECT_TRUE(done) << "apply: " << done.error().description;
  shadow_ = taken_[index].disk;
  EXPECT_EQ(image_->length(), shadow_.size());
  const Bytes& vm_state = taken_[index].vm_state;
  if (!vm_state.empty()) {
    Bytes is(vm_state.size());
    auto read = co_await image_->read_vm_state(0, IoVector(is.data(), is.size()));
    EXPECT_TRUE(read);
    EXPECT_TRUE(is == vm_state) << "another VM state than was kept";
    coverage_.hit("VM state");
  }
  coverage_.hit("apply");
}

Task<void> ShadowRun::delete_snapshot() {
  if (taken_.empty()) co_return;
  const std::size_t index = chance_.below(taken_.size());
  note(fmt::format("delete {}", index));
  auto done = co_await image_->delete_snapshot(index);
  EXPECT_TRUE(done) << "delete: " << done.error().description;
  taken_.erase(taken_.begin() + static_cast<std::ptrdiff_t>(index));
  EXPECT_EQ(image_->snapshots().size(), taken_.size());
  coverage_.hit("delete");
}

}  // namespace blockbed::qcow2::test
