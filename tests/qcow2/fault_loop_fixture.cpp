#include "tests/qcow2/fault_loop_fixture.h"

#include "tests/qcow2/crash_walk_fixture.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "block/formats/qcow2/check.h"
#include "tests/qcow2/references_fixture.h"

namespace blockbed::qcow2::test {

// --- what the disk must hold

void Model::set(uint64_t begin, uint64_t end, std::optional<std::byte> value) {
  for (uint64_t i = begin / kUnit; i < end / kUnit && i < sectors_.size(); ++i) {
    sectors_[i] = value;
  }
}

Model Model::only_where_equal(const Model& other) const {
  Model result = *this;
  for (std::size_t i = 0; i < sectors_.size(); ++i) {
    if (i >= other.sectors_.size() || sectors_[i] != other.sectors_[i]) {
      result.sectors_[i] = std::nullopt;
    }
  }
  return result;
}

void Model::compare(const Bytes& bytes, const std::string& where) const {
  const uint64_t both = std::min<uint64_t>(bytes.size(), size());
  for (uint64_t begin = 0; begin < both; begin += kUnit) {
    const auto& expected = sectors_[begin / kUnit];
    if (!expected) continue;
    const auto unit = std::span(bytes).subspan(begin, std::min(kUnit, both - begin));
    // All are equal, and the first is right.
    if (unit[0] == *expected && std::memcmp(unit.data(), unit.data() + 1, unit.size() - 1) == 0) {
      continue;
    }
    const auto wrong = std::ranges::find_if(unit, [&](std::byte b) { return b != *expected; });
    ADD_FAILURE() << where << ": byte " << begin + static_cast<uint64_t>(wrong - unit.begin())
                  << " is " << static_cast<int>(*wrong) << " and not "
                  << static_cast<int>(*expected);
    return;
  }
}

// --- requests

void Scene::account(uint64_t offset, uint64_t length, const Result<void>& done, std::byte value) {
  if (!done) {
    const int number = done.error().number();
    EXPECT_TRUE(number == EIO || number == ENOSPC) << number;
    failed = true;
  }
  model.set(offset, offset + length, done ? std::optional(value) : std::nullopt);
}

Task<void> Scene::write(uint64_t offset, uint64_t length, int value) {
  Bytes data(length, static_cast<std::byte>(value));
  auto done = co_await image->write(offset, IoVector(data.data(), data.size()));
  account(offset, length, done, static_cast<std::byte>(value));
}

Task<void> Scene::compressed(uint64_t offset, uint64_t length, int value) {
  if (image->geometry().external_data) co_return co_await write(offset, length, value);
  Bytes data(length, static_cast<std::byte>(value));
  auto done = co_await image->write_compressed(offset, IoVector(data.data(), data.size()));
  account(offset, length, done, static_cast<std::byte>(value));
}

Task<void> Scene::copy(uint64_t offset, uint64_t length) {
  auto source = co_await env.open_file("source", FileOpenOptions());
  account(source);
  if (!source) co_return;
  auto done = co_await image->copy_from(**source, 512, offset, length);
  (void)co_await (*source)->close();
  if (!done && done.error().number() == ENOTSUP) {
    co_await write(offset, length, kSourceByte);
  } else {
    account(offset, length, done, static_cast<std::byte>(kSourceByte));
  }
}

Task<void> Scene::zero(uint64_t offset, uint64_t length, bool unmap) {
  RequestFlags flags;
  flags.may_unmap = unmap;
  account(offset, length, co_await image->zero(offset, length, flags), std::byte{0});
}

Task<void> Scene::discard(uint64_t offset, uint64_t length) {
  auto done = co_await image->discard(offset, length);
  // Not possible here: nothing was done.
  if (!done && done.error().number() == ENOTSUP) co_return;
  account(offset, length, done, std::byte{0});
}

Task<void> Scene::flush() {
  auto done = co_await image->flush();
  account(done);
  flushed = done.has_value();
}

Task<void> Scene::read_all(std::string where) {
  Bytes bytes(std::min(model.size(), image->length()));
  auto done = co_await image->read(0, IoVector(bytes.data(), bytes.size()));
  account(done);
  if (done) model.compare(bytes, where);
}

Task<void> Scene::truncate(uint64_t length, Preallocation mode) {
  const uint64_t before = image->length();
  TruncateOptions options;
  options.preallocation = mode;
  auto done = co_await image->truncate(length, options);
  account(done);
  length_known = done.has_value();
  // A shrink that failed halfway has dropped some of what was to go.
  if (!done && length < before) model.set(length, before, std::nullopt);
  if (done) model.resize(length);
}

// --- the loop

namespace {

MetadataOptions options_of(const Operation& operation) {
  MetadataOptions options = writable_options();
  // Few, so that tables come and go.
  options.l2_pieces = 4;
  options.refcount_pieces = 4;
  options.discard_request = true;
  options.lazy_refcounts = operation.lazy;
  return options;
}

Task<Expected<std::unique_ptr<OpenedImage>>> open_for(Scene& scene, const Operation& operation,
                                                      MetadataOptions options) {
  auto opened =
      co_await open_image(scene.env, "disk", options, {}, operation.data_file ? "data" : "",
                          operation.backing > 0 ? "base" : "");
  if (opened) scene.image = (*opened)->image.get();
  co_return opened;
}

Task<void> prepare(Scene& scene, const Operation& operation, sim::SimStorage& storage) {
  CreateOptions create;
  create.size = operation.clusters * operation.cluster;
  create.cluster_size = operation.cluster;
  create.refcount_bits = operation.refcount_bits;
  create.version = operation.version;
  create.extended_l2 = operation.extended_l2;
  create.lazy_refcounts = operation.lazy;
  if (operation.data_file) {
    create.data_file = true;
    create.data_file_name = "data";
    create.data_file_raw = operation.data_file_raw;
  }
  if (operation.backing > 0) {
    create.backing_file = "base";
    create.backing_format = "raw";
    const Bytes base(operation.backing, static_cast<std::byte>(kBackingByte));
    storage.put("base", std::span(base));
    scene.model.set(0, base.size(), base[0]);
  }
  const Bytes source(create.size, static_cast<std::byte>(kSourceByte));
  storage.put("source", std::span(source));
  auto made = co_await create_image(scene.env, "disk", create, create.data_file_name);
  EXPECT_TRUE(made) << (made ? "" : made.error().description);
  auto opened = co_await open_for(scene, operation, options_of(operation));
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  co_await operation.before(scene);
  EXPECT_TRUE(co_await (*opened)->close());
  EXPECT_FALSE(scene.failed);
}

// The image is closed, or left as it is.
Task<void> end_it(Scene& scene, OpenedImage& opened, const Model& before, sim::SimStorage& storage,
                  End end) {
  if (end == End::kPowerCut) {
    co_await scene.flush();
    for (FileStorage* file : {opened.storage.get(), opened.data_storage.get()}) {
      if (file == nullptr) continue;
      auto flushed = co_await file->flush();
      scene.flushed &= flushed.has_value();
      scene.account(flushed);
    }
    storage.power_off();
  }
  if (end == End::kClosed || end == End::kGivenUp) {
    auto closed = co_await opened.close();
    scene.account(closed);
    // What had not been flushed may be lost, as the error says.
    scene.flushed |= closed.has_value();
  } else {
    co_await opened.abandon();
  }
  if (!scene.flushed) scene.model = scene.model.only_where_equal(before);
}

Task<void> attempt(Scene& scene, const Operation& operation, sim::SimStorage& storage,
                   sim::SimStorage::RuleId id, End end) {
  const Model before = scene.model;
  auto opened = co_await open_for(scene, operation, options_of(operation));
  if (!opened) {
    scene.failed = true;
    co_return;
  }
  co_await operation.run(scene);
  const bool again = end == End::kClosed || end == End::kTriedAgainThenKilled;
  if (!again || storage.hits(id) == 0) {
    co_await end_it(scene, **opened, before, storage, end);
    co_return;
  }
  // The fault has gone: the same again succeeds, on the image as the error left it.
  storage.remove_fault(id);
  scene.failed = false;
  if (operation.only_once) {
    EXPECT_TRUE(co_await (*opened)->close());
    opened = co_await open_for(scene, operation, options_of(operation));
    EXPECT_TRUE(opened) << (opened ? "" : opened.error().description);
    if (!opened) co_return;
  }
  co_await operation.run(scene);
  EXPECT_FALSE(scene.failed) << "the operation fails without a fault";
  co_await scene.read_all("after the second try");
  if (end == End::kTriedAgainThenKilled) {
    EXPECT_TRUE(scene.flushed) << "the operation ends with a flush";
  }
  co_await end_it(scene, **opened, before, storage, end);
  EXPECT_FALSE(scene.failed) << "closing fails without a fault";
}

// Beside snapshots COPIED may disagree with a count that is too high, see order_of_writes.md: it is
// right as soon as the leaks are repaired.
Task<void> expect_no_corruption(Env& env, bool snapshots, std::string where) {
  auto file = co_await env.open_file("disk", FileOpenOptions());
  EXPECT_TRUE(file) << where;
  if (!file) co_return;
  FileStorage storage(**file);
  auto header = co_await read_header(storage, HeaderUse::kChecking);
  EXPECT_TRUE(header) << where;
  if (header && !header->has(incompatible::kDirty)) {
    auto report = co_await check_image(storage, *header);
    EXPECT_TRUE(report) << where;
    if (report && !snapshots) {
      EXPECT_EQ(report->corruptions, 0u) << where << ": " << report->describe();
    }
    if (snapshots) {
      const References found = co_await walk_references(storage, *header, true);
      EXPECT_EQ(found.fault, "") << where;
    }
  }
  (void)co_await (*file)->close();
}

// Only leaks, and everything there that was told to be.
Task<void> judge(Scene& scene, const Operation& operation, const sim::SimStorage& storage,
                 std::string where) {
  co_await expect_no_corruption(scene.env, scene.snapshot.has_value(), where);
  auto opened = co_await open_for(scene, operation, MetadataOptions());
  EXPECT_TRUE(opened) << where;
  if (!opened) co_return;
  if (operation.header != nullptr) {
    EXPECT_TRUE(operation.header(scene.image->header(), !scene.failed)) << where;
  }
  if (scene.length_known) EXPECT_EQ(scene.image->length(), scene.model.size()) << where;
  const bool before = scene.failed;
  scene.failed = false;
  co_await scene.read_all(where);
  if (scene.snapshot) {
    scene.account(co_await scene.image->show_snapshot(0));
    Bytes bytes(scene.image->length());
    scene.account(co_await scene.image->read(0, IoVector(bytes.data(), bytes.size())));
    scene.snapshot->compare(bytes, where + ", the snapshot");
  }
  EXPECT_FALSE(scene.failed) << where;
  scene.failed = before;
  if (scene.image->header().raw_external_data()) {
    const Bytes data = storage.content("data").bytes();
    if (scene.length_known) EXPECT_GE(data.size(), scene.model.size()) << where;
    scene.model.compare(data, where + ", the data file alone");
  }
  (void)co_await (*opened)->close();
}

}  // namespace

uint64_t fail_each(const Operation& operation, sim::FaultRule rule, End end, uint64_t seed) {
  // The same for each fault.
  Model prepared(operation.clusters * operation.cluster);
  std::optional<Model> snapshot;
  sim::StorageImage files;
  {
    sim::SimEnv env(seed);
    Scene scene{env, prepared};
    env.run(prepare(scene, operation, env.storage()));
    files = env.storage().image();
    snapshot = scene.snapshot;
  }
  for (;; ++rule.skip) {
    const std::string where =
        fmt::format("{}, request {} of kind {:#x} fails with {}, {} times, seed {}", operation.name,
                    rule.skip, rule.requests, rule.error, rule.times, seed + rule.skip);
    sim::SimEnv env(seed + rule.skip);
    for (const auto& [path, content] : files) env.storage().put(path, content);
    Model model = prepared;
    Scene scene{env, model, snapshot};
    env.storage().record();
    const auto id = env.storage().add_fault(rule);
    env.run(attempt(scene, operation, env.storage(), id, end));
    // Some of them: it takes as long as all else together.
    if (rule.skip % 10 == seed % 10) expect_order(env.storage(), seed);
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    if (!env.storage().powered()) {
      env.storage().power_on(env.storage().crash_image(sim::CrashSubset::seeded(rule.skip)));
    }
    env.run(judge(scene, operation, env.storage(), where));
    if (!hit) EXPECT_FALSE(scene.failed) << where;
    EXPECT_LT(rule.skip, 5000u) << operation.name;
    if (::testing::Test::HasFailure()) ADD_FAILURE() << where;
    if (!hit || ::testing::Test::HasFailure()) return rule.skip;
  }
}

uint64_t fail_each(const Operation& operation, const Way& way) {
  sim::FaultRule rule;
  rule.requests = way.requests;
  rule.error = way.error;
  rule.times = way.times;
  return fail_each(operation, rule, way.end);
}

// --- steps

namespace steps {

Task<void> nothing(Scene&) { co_return; }

Task<void> some_data(Scene& s) {
  co_await s.write(0, 4 * s.cluster(), 1);
  co_await s.write(70 * s.cluster(), 3 * s.cluster(), 2);
  co_await s.compressed(20 * s.cluster(), 4 * s.cluster(), 3);
}

Task<void> shared_data(Scene& s) {
  co_await some_data(s);
  Snapshot snapshot;
  snapshot.name = "before";
  s.account(co_await s.image->create_snapshot(snapshot));
  s.snapshot = s.model;
}

Task<void> read_it(Scene& s) { return s.read_all("during the operation"); }

Task<void> write_allocating(Scene& s) {
  co_await s.write(30 * s.cluster(), 3 * s.cluster(), 10);
  co_await s.write(140 * s.cluster(), 2 * s.cluster(), 11);
  co_await s.flush();
}

Task<void> write_in_place(Scene& s) {
  co_await s.write(s.cluster(), 2 * s.cluster(), 12);
  co_await s.flush();
}

Task<void> write_copying(Scene& s) {
  // Over a compressed cluster, and into a part of a new one.
  co_await s.write(21 * s.cluster() + s.cluster() / 2, s.cluster() / 2, 13);
  co_await s.write(40 * s.cluster() + s.cluster() / 2, s.cluster() / 2, 14);
  co_await s.flush();
}

Task<void> copy_in(Scene& s) {
  const uint64_t half = s.cluster() / 2;
  co_await s.copy(half, 2 * s.cluster());
  // Over compressed clusters, into new ones at both ends.
  co_await s.copy(21 * s.cluster() + half, 6 * s.cluster());
  co_await s.copy(39 * s.cluster() + half, s.cluster());
  co_await s.flush();
}

Task<void> zero_keeping(Scene& s) {
  co_await s.zero(0, 3 * s.cluster(), false);
  co_await s.zero(20 * s.cluster(), 2 * s.cluster(), false);
  co_await s.flush();
}

Task<void> zero_unmapping(Scene& s) {
  co_await s.zero(0, 3 * s.cluster(), true);
  co_await s.zero(20 * s.cluster(), 2 * s.cluster(), true);
  co_await s.flush();
}

Task<void> zero_parts(Scene& s) {
  co_await s.zero(s.cluster() / 2, s.cluster(), false);
  co_await s.zero(20 * s.cluster() + s.cluster() / 2, s.cluster(), true);
  co_await s.flush();
}

Task<void> discard(Scene& s) {
  co_await s.discard(0, 2 * s.cluster());
  co_await s.discard(20 * s.cluster(), 2 * s.cluster());
  co_await s.discard(70 * s.cluster(), s.cluster());
  co_await s.flush();
}

Task<void> discard_and_reuse(Scene& s) {
  co_await s.discard(0, 4 * s.cluster());
  co_await s.flush();
  co_await s.write(80 * s.cluster(), 4 * s.cluster(), 17);
  co_await s.flush();
}

Task<void> resize_up(Scene& s) {
  co_await s.truncate(s.image->length() + 40 * s.cluster());
  co_await s.flush();
}

Task<void> resize_down(Scene& s) {
  co_await s.truncate(71 * s.cluster());
  co_await s.flush();
}

Task<void> empty(Scene& s) {
  auto done = co_await s.image->make_empty();
  s.account(0, s.image->length(), done, std::byte{0});
  co_await s.flush();
}

Task<void> change_and_close(Scene& s) {
  // Nothing is flushed: closing has all to do.
  co_await s.write(100 * s.cluster(), 2 * s.cluster(), 18);
  co_await s.discard(s.cluster(), s.cluster());
}

}  // namespace steps

}  // namespace blockbed::qcow2::test
