#include "tests/backup/image_life_fixture.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/drain.h"
#include "block/graph/reopen.h"
#include "block/jobs/mirror.h"
#include "block/runtime/gate.h"
#include "qmp/commands/snapshot_commands.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::test {

namespace {

constexpr uint64_t kSizes[] = {192 * 1024, 256 * 1024, 256 * 1024 + 1536};
constexpr uint64_t kPerGranule = kMarkBytes / kSectorBytes;

MarkBits plain(const Bitmap& bits) {
  MarkBits result(bits.size());
  for (uint64_t i = 0; i < bits.size(); ++i) result[i] = bits.test(i) ? 1 : 0;
  return result;
}

bool is_kept(const Node& node, const DirtyBitmap& bitmap) {
  return bitmap.persistent() && (node.writable() || bitmap.read_only());
}

}  // namespace

bool equal(const KeptBitmaps& a, const KeptBitmaps& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.same(y.second.bits, y.second.enabled);
  });
}

std::string data_file_of(const qcow2::CreateOptions& create, const std::string& image) {
  if (!create.data_file || (create.data_file_raw && image != kDiskImage)) return "";
  return image + ".data";
}

ImageLife::ImageLife(uint64_t seed, qcow2::CreateOptions create)
    : world_(seed),
      chance_(world_.env.chance()),
      create_(std::move(create)),
      commands_(Manner::kSystem),
      monitor_(world_.env, commands_, human_, MonitorOptions()) {
  sim::SimLatency latency;
  latency.min = latency.max = 1;
  world_.env.storage().set_latency(latency);
  create_file(kDiskImage, kSizes[1]);
  data_.resize(kSizes[1] / kSectorBytes);
  for (const uint64_t size : kSizes) world_.file(target_of(size), sim::SparseBytes(size));
}

void ImageLife::create_file(const std::string& image, uint64_t size) {
  qcow2::CreateOptions create = create_;
  create.size = size;
  create.data_file_name = data_file_of(create_, image);
  create.data_file = !create.data_file_name.empty();
  create.data_file_raw = create.data_file && create_.data_file_raw;
  auto made =
      world_.run(qcow2::test::create_image(world_.env, image, create, create.data_file_name));
  EXPECT_TRUE(made) << made.error().description;
}

void ImageLife::go(int sessions, int steps) {
  storage().record();
  base_ = storage().operations();
  Moment created;
  created.operation = base_;
  created.step = "created";
  created.closed = true;
  created.layers[kDiskImage].data = data_;
  moments_.push_back(std::move(created));
  for (int session = 0; session < sessions; ++session) {
    open();
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
    close();
  }
}

// --- what is remembered

std::vector<Node*> ImageLife::nodes() {
  std::vector<Node*> all{node_};
  if (overlay_ != nullptr) all.push_back(overlay_);
  return all;
}

KeptBitmaps ImageLife::kept(Node& node) {
  if (!node.writable() && left_.contains(node.name())) return left_[node.name()];
  KeptBitmaps found;
  for (const auto& bitmap : node.dirty_bitmaps()) {
    if (bitmap->name().empty() || !is_kept(node, *bitmap)) continue;
    EXPECT_FALSE(bitmap->inconsistent());
    found[bitmap->name()] = {plain(bitmap->all_bits()), bitmap->enabled(),
                             changed_[{node.name(), bitmap->name()}]};
  }
  return found;
}

Layer ImageLife::layer(Node& node, const DiskData& data) {
  Layer result{data, kept(node)};
  if (node.writable()) {
    left_.erase(node.name());
  } else {
    left_[node.name()] = result.bitmaps;
  }
  return result;
}

void ImageLife::note(std::string step, bool closed) {
  Moment moment;
  moment.operation = storage().operations();
  moment.step = std::move(step);
  moment.closed = closed;
  if (closed) {
    moment.layers = moments_.back().layers;
  } else {
    moment.layers[kDiskImage] = layer(*node_, overlay_ == nullptr ? data_ : below_);
    if (overlay_ != nullptr) moment.layers[overlay_image_] = layer(*overlay_, data_);
    expect_marked();
  }
  moments_.push_back(std::move(moment));
}

// Sectors.
void ImageLife::written(Node& node, uint64_t begin, uint64_t end) {
  for (const auto& bitmap : node.dirty_bitmaps()) {
    if (bitmap->name().empty() || !bitmap->recording()) continue;
    for (uint64_t g = begin / kPerGranule; g * kPerGranule < end; ++g) {
      must_[{node.name(), bitmap->name()}].insert(g);
      if (&node == job_node_ && bitmap->name() == job_bitmap_) since_job_.insert(g);
    }
  }
}

void ImageLife::expect_marked() {
  for (Node* node : nodes()) {
    for (const auto& bitmap : node->dirty_bitmaps()) {
      if (bitmap->name().empty()) continue;
      const Bitmap bits = bitmap->all_bits();
      for (const uint64_t granule : must_[{node->name(), bitmap->name()}]) {
        EXPECT_TRUE(granule < bits.size() && bits.test(granule))
            << node->name() << ": " << bitmap->name() << " lacks " << granule;
      }
    }
  }
}

void ImageLife::adopt(Node& node, const KeptBitmaps& before) {
  for (const auto& [name, bitmap] : kept(node)) {
    const auto was = before.find(name);
    if (was != before.end() && was->second.same(bitmap.bits, bitmap.enabled)) continue;
    changed_[{node.name(), name}] = moments_.size();
  }
  for (const auto& bitmap : node.dirty_bitmaps()) {
    if (bitmap->name().empty()) continue;
    Granules& must = must_[{node.name(), bitmap->name()}];
    must.clear();
    const Bitmap bits = bitmap->all_bits();
    for (uint64_t i = 0; i < bits.size(); ++i) {
      if (bits.test(i)) must.insert(i);
    }
  }
}

Task<DiskData> ImageLife::read(Node& node) {
  Buffer content(node.length());
  EXPECT_TRUE(co_await node.read(0, content.io()));
  const auto* const words = reinterpret_cast<const uint64_t*>(content.data());
  DiskData data;
  for (uint64_t s = 0; s < node.length() / kSectorBytes; ++s) data.push_back(words[s * 64]);
  co_return data;
}

// --- sessions

json::Object ImageLife::definition(const std::string& image) const {
  return json::Object{{"driver", "qcow2"},
                      {"node-name", image},
                      {"file", json::Object{{"driver", "file"}, {"filename", image}}}};
}

void ImageLife::open() {
  json::Object disk = definition(kDiskImage);
  if (!overlay_image_.empty()) disk.set("read-only", true);
  node_ = &world_.open(std::move(disk));
  if (!overlay_image_.empty()) {
    json::Object top = definition(overlay_image_);
    top.set("backing", kDiskImage);
    overlay_ = &world_.open(std::move(top));
  }
  left_.clear();
  for (Node* node : nodes()) {
    EXPECT_TRUE(equal(kept(*node), moments_.back().layers.at(node->name()).bitmaps))
        << "what was stored in " << node->name() << " is not what is loaded";
  }
  guest_ = world_.guest(overlay_ == nullptr ? *node_ : *overlay_);
  note("open");
}

void ImageLife::close() {
  if (job_) end_job(chance_.percent(50));
  note("work");
  world_.run(guest_->remove());
  guest_.reset();
  if (overlay_ != nullptr) world_.run(world_.drop(*std::exchange(overlay_, nullptr)));
  world_.run(world_.drop(*std::exchange(node_, nullptr)));
  note("close", true);
}

// --- steps

void ImageLife::step() {
  switch (chance_.below(14)) {
    case 0:
    case 1:
      world_.run(write());
      return note("write");
    case 2:
      EXPECT_TRUE(world_.run(guest_->flush()));
      return note("flush");
    case 3:
      return resize();
    case 4:
    case 5:
      return overlay_ == nullptr ? snapshot() : commit();
    case 6:
      return leave_for_reading();
    case 7:
    case 8:
      return job_ ? end_job(chance_.percent(60)) : start_job();
    default:
      return commands(chance_.percent(60));
  }
}

Task<void> ImageLife::write() {
  const uint64_t sectors = data_.size();
  const uint64_t first = chance_.below(sectors);
  const uint64_t count = std::min(1 + chance_.below(24), sectors - first);
  const bool zero = chance_.percent(25);
  const uint64_t number = zero ? 0 : ++number_;
  if (zero) {
    EXPECT_TRUE(co_await guest_->zero(first * kSectorBytes, count * kSectorBytes));
  } else {
    Buffer buffer(count * kSectorBytes);
    auto* const words = reinterpret_cast<uint64_t*>(buffer.data());
    std::fill_n(words, buffer.size() / sizeof(uint64_t), number);
    EXPECT_TRUE(co_await guest_->write(first * kSectorBytes, buffer.io()));
  }
  Node* const node = guest_->node()->skip_filters();
  if (node != node_ && overlay_ == nullptr) {
    // A snapshot was made in the meantime.
    overlay_ = node;
    overlay_image_ = node->name();
    below_ = data_;
  }
  std::fill_n(data_.begin() + static_cast<std::ptrdiff_t>(first), count, number);
  written(*node, first, first + count);
}

Task<void> ImageLife::some_writes(int count) {
  for (int i = 0; i < count; ++i) {
    co_await write();
    note("snapshot");
  }
}

void ImageLife::resize() {
  if (overlay_ != nullptr || job_) return;
  const uint64_t size = kSizes[chance_.below(std::size(kSizes))];
  Backend owner(*world_.graph, "", {Permission::kResize, Permissions::all()});
  ASSERT_TRUE(owner.insert(*node_));
  auto done = world_.run(owner.truncate(size, TruncateOptions()));
  EXPECT_TRUE(done) << done.error().description;
  world_.run(owner.remove());
  data_.resize(size / kSectorBytes);
  for (auto& [key, granules] : must_) {
    std::erase_if(granules, [size](uint64_t g) { return g * kMarkBytes >= size; });
  }
  note("resize");
}

// --- layers

void ImageLife::snapshot() {
  const std::string image = fmt::format("overlay{}", ++overlays_);
  create_file(image, data_.size() * kSectorBytes);
  json::Object top = definition(image);
  top.set("backing", json::Value());
  Node& opened = world_.open(std::move(top));
  const KeptBitmaps before = kept(*node_);
  const bool writes = chance_.percent(60);
  Actions actions;
  if (!writes && chance_.percent(50)) actions.push_back(random_action(*node_));
  actions.push_back(snapshot_action({.node = kDiskImage, .overlay = image}));
  if (!writes && chance_.percent(50)) actions.push_back(random_action(opened));
  if (!writes && chance_.percent(25)) actions.push_back(std::make_unique<AbortAction>());
  const bool done = world_.run([](ImageLife& life, Actions all, int count) -> Task<bool> {
    Gate gate(life.world_.env.executor());
    gate.spawn(life.some_writes(count));
    const bool made = co_await life.transaction(std::move(all));
    co_await gate.close();
    co_return made;
  }(*this, std::move(actions), writes ? 3 : 0));
  if (!done) {
    EXPECT_EQ(overlay_, nullptr);
    world_.run(world_.drop(opened));
    return note("snapshot refused");
  }
  if (overlay_ == nullptr) {
    overlay_ = &opened;
    overlay_image_ = image;
    below_ = data_;
  }
  if (!writes) {
    adopt(*node_, before);
    adopt(*overlay_, {});
  }
  EXPECT_EQ(world_.run(read(*node_)), below_);
  note("snapshot");
}

Task<std::shared_ptr<Job>> ImageLife::start_commit() {
  MirrorOptions options;
  options.job.id = "commit";
  options.job.auto_dismiss = true;
  options.named = options.commit = true;
  options.source = NodeRef(*overlay_);
  options.target = NodeRef(*node_);
  MutexGuard lock = co_await world_.graph->lock();
  auto opened = co_await make_writable(*world_.graph, *node_);
  if (!opened) co_return nullptr;
  const WritableNodes undo = *opened;
  options.opened = std::move(*opened);
  DrainedSection drained = co_await drain(*overlay_);
  auto job = co_await MirrorJob::create(*world_.jobs, std::move(options));
  if (!job) {
    co_await blockbed::leave_for_reading(*world_.graph, undo);
    co_return nullptr;
  }
  world_.jobs->start(**job);
  co_return std::shared_ptr<Job>(*job);
}

void ImageLife::commit() {
  if (job_ && job_node_ == overlay_) return;
  const bool well = chance_.percent(70);
  const bool begun = world_.run([](ImageLife& life, bool to_end) -> Task<bool> {
    auto job = co_await life.start_commit();
    if (!job) co_return false;
    Gate gate(life.world_.env.executor());
    gate.spawn([](ImageLife& guest) -> Task<void> {
      for (int i = 0; i < 3; ++i) co_await guest.write();
    }(life));
    if (to_end) co_await life.world_.wait_for_status(job, JobStatus::kReady);
    if (to_end) {
      EXPECT_TRUE(co_await job->user_complete());
    } else {
      (void)co_await life.world_.jobs->cancel(job, true);
    }
    co_await life.world_.wait_for_end(job);
    co_await gate.close();
    co_return true;
  }(*this, well));
  if (!begun) return note("commit refused");
  // What it was left with is no more: it could be written to meanwhile.
  left_.erase(kDiskImage);
  const DiskData now = world_.run(read(*node_));
  for (uint64_t s = 0; s < now.size(); ++s) {
    if (now[s] != below_[s]) written(*node_, s, s + 1);
  }
  below_ = now;
  if (guest_->node()->skip_filters() == node_) {
    EXPECT_EQ(now, data_);
    world_.run(world_.drop(*std::exchange(overlay_, nullptr)));
    overlay_image_ = "";
  }
  note(overlay_ == nullptr ? "commit" : "commit cancelled");
}

Task<bool> ImageLife::reopen(bool read_only) {
  MutexGuard lock = co_await world_.graph->lock();
  Node& node = overlay_ == nullptr ? *node_ : *overlay_;
  auto done = co_await reopen_read_only(*world_.graph, node, read_only);
  co_return done.has_value();
}

void ImageLife::leave_for_reading() {
  if (chance_.percent(50)) {
    EXPECT_FALSE(world_.run(reopen(true))) << "there is a writer";
    return note("refused for reading");
  }
  // The filter of a job may stand in between.
  Node& place = *guest_->node();
  world_.run(guest_->remove());
  const bool left = world_.run(reopen(true));
  note("left for reading");
  if (left) {
    for (uint64_t i = chance_.below(3); i > 0; --i) commands(true);
    EXPECT_TRUE(world_.run(reopen(false)));
    note("writable again");
  }
  EXPECT_TRUE(guest_->insert(place));
}

}  // namespace blockbed::test
