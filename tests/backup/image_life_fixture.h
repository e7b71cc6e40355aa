// ImageLife: an image with dirty bitmaps in use, step by step.
//
// A guest writes, a client adds, removes, clears, merges, copies by and populates bitmaps,
// transactions are aborted, a snapshot is put over the image and committed back, images are
// resized, left for reading, closed and opened again; jobs go on over several steps.
//
// What is remembered after each step is what whoever opens the images next may find (Moment). While
// it goes on, each bitmap is held against the writes that it had to mark.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "block/formats/qcow2/create.h"
#include "block/jobs/block_job.h"
#include "qmp/commands/transaction.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "tests/jobs/jobs_fixture.h"

namespace blockbed::test {

inline constexpr uint64_t kSectorBytes = 512;
// What a mark stands for.
inline constexpr uint64_t kMarkBytes = 4096;

// The number that each sector holds.
using DiskData = std::vector<uint64_t>;
using MarkBits = std::vector<uint8_t>;

struct KeptBitmap {
  MarkBits bits;
  bool enabled = true;
  // The moment at which a client had last changed it: from then on nothing older is believed.
  std::size_t since = 0;

  bool same(const MarkBits& other, bool records) const {
    return bits == other && enabled == records;
  }
};

using KeptBitmaps = std::map<std::string, KeptBitmap>;
bool equal(const KeptBitmaps& a, const KeptBitmaps& b);

struct Layer {
  DiskData data;
  // Those that are to be kept.
  KeptBitmaps bitmaps;
};

// What was there between two steps.
struct Moment {
  uint64_t operation = 0;
  std::string step;
  // Every image is closed: all that is there must be found, and believed.
  bool closed = false;
  // By the names of their images; an overlay shows what it has not from "disk".
  std::map<std::string, Layer> layers;
};

class AbortAction final : public Action {
 public:
  Task<Expected<void>> prepare(TransactionContext&) override { co_return fail("aborted"); }
};

// The disk; what lies over it is an overlay.
inline constexpr const char* kDiskImage = "disk";

// "" where the image has none: one whose data file is raw has no backing file, so overlays are
// plain then.
std::string data_file_of(const qcow2::CreateOptions& create, const std::string& image);

class ImageLife {
 public:
  // With a data file each image has its own, named by data_file_of().
  ImageLife(uint64_t seed, qcow2::CreateOptions create);

  void go(int sessions, int steps);

  const std::vector<Moment>& moments() const { return moments_; }
  sim::SimStorage& storage() { return world_.env.storage(); }
  // Operations before it all began.
  uint64_t base() const { return base_; }

 private:
  using Granules = std::set<uint64_t>;

  // --- what is remembered
  void note(std::string step, bool closed = false);
  Layer layer(Node& node, const DiskData& data);
  KeptBitmaps kept(Node& node);
  void written(Node& node, uint64_t begin, uint64_t end);
  void expect_marked();
  // A client's command has changed them, in ways that marks do not tell.
  void adopt(Node& node, const KeptBitmaps& before);

  // --- steps
  void open();
  void close();
  void step();
  Task<void> write();
  Task<void> some_writes(int count);
  void resize();
  void snapshot();
  void commit();
  void leave_for_reading();
  void start_job();
  void end_job(bool well);
  void commands(bool alone);

  // Where backups of a disk of that size go.
  static std::string target_of(uint64_t size) { return "target" + std::to_string(size); }
  Node& some_node();
  std::vector<Node*> nodes();
  std::string some_name() { return "b" + std::to_string(chance_.below(3)); }
  std::unique_ptr<Action> random_action(Node& node);
  Task<bool> transaction(Actions actions);
  Task<std::shared_ptr<Job>> start_backup(Node& node, DirtyBitmap& bitmap);
  Task<std::shared_ptr<Job>> start_populate(Node& node, DirtyBitmap& bitmap);
  Task<std::shared_ptr<Job>> start_commit();
  Task<bool> reopen(bool read_only);
  Task<DiskData> read(Node& node);
  void create_file(const std::string& image, uint64_t size);
  json::Object definition(const std::string& image) const;

  World world_;
  sim::SimRandom& chance_;
  qcow2::CreateOptions create_;
  CommandTable commands_;
  HumanTable human_;
  Monitor monitor_;

  Node* node_ = nullptr;
  Node* overlay_ = nullptr;
  // Of the overlay; "" when there is none.
  std::string overlay_image_;
  int overlays_ = 0;
  std::unique_ptr<Backend> guest_;
  // What the guest sees, and what lies below the overlay.
  DiskData data_;
  DiskData below_;
  uint64_t number_ = 0;
  uint64_t base_ = 0;
  std::string last_action_;
  std::vector<Moment> moments_;

  // One that goes on over steps, with a bitmap of a node.
  std::shared_ptr<Job> job_;
  Node* job_node_ = nullptr;
  std::string job_bitmap_;
  BitmapMode job_mode_ = BitmapMode::kNever;
  Granules since_job_;

  // What an image had when it was left for reading.
  std::map<std::string, KeptBitmaps> left_;
  // By image and bitmap.
  std::map<std::pair<std::string, std::string>, Granules> must_;
  std::map<std::pair<std::string, std::string>, std::size_t> changed_;
};

}  // namespace blockbed::test
