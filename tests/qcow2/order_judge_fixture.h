// OrderJudge: block/formats/qcow2/order_of_writes.md as a list that is asserted at every write.
//
// Problem: crash tests look at what a power cut leaves, and see that it is bad; not which step came
// too early, nor the step that nothing needs. Here each write of a recording is looked at when it
// begins, since from then on any of its sectors may be on the disk: the entries that change say
// under which rules it falls, and each rule what must be on the disk by then, in every state that
// a power cut could leave.
//
// Contract: feed() the events of a recording (sim_storage.h) in their order. After the first write
// that breaks a rule nothing more is judged: faults() has all rules that it broke. asked() counts
// how often a rule was to hold. What was wrong at the beginning is not judged, only what changes. A
// flush that failed is taken for one that was not there: that no later one is believed is not the
// format's task (block/protocols/file.h). Other files than the two are let pass. Copying is cheap,
// and the copy judges on by itself. Threading: plain data.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "block/sim/sim_storage.h"
#include "tests/qcow2/order_graph_fixture.h"

namespace blockbed::qcow2::test {

// In the order of kOrderRules, which says what they demand.
enum class OrderRule : uint8_t {
  kNobodys,
  kUnshared,
  kBlockWritten,
  kBlockCounted,
  kCountsLinked,
  kDataWritten,
  kDataCounted,
  kTableWritten,
  kTableCounted,
  kRemovedBeforeUncounted,
  kRemovedBeforeReuse,
  kRemovedBeforeDiscard,
  kCopied,
  kSwitchWritten,
  kSwitchCounted,
  kLength,
  kNoZeroFlags,
  kDirtyBeforeUncounted,
  kCountedBeforeClean,
  kInUseBeforeChange,
  kDirectoryWritten,
  kDirectoryCounted,
  kDirectoryInUse,
  kNoMixture,
  kAllBeforeConsistent,
};

struct OrderRow {
  OrderRule rule;
  std::string_view name;
  // Of order_of_writes.md.
  std::string_view step;
  std::string_view demands;
};
// The list.
std::span<const OrderRow> order_rows();
inline constexpr std::size_t kOrderRules = 25;

struct OrderFault {
  OrderRule rule;
  // Of the recording, from 1: as the points of crash_points.h.
  uint64_t operation;
  std::string what;
};
std::string describe(const OrderFault& fault);

class OrderJudge {
 public:
  // Of a storage that was told to record(). `data`: where guest data lies, if there is such a file.
  OrderJudge(const sim::SimStorage& storage, const std::string& image, const std::string& data);

  // Of these bytes; the image is file 1, the data file 2.
  OrderJudge(sim::SparseBytes image, std::optional<sim::SparseBytes> data);

  void feed(const sim::StorageEvent& event);
  // As if it were not in the recording.
  void skip() { ++operation_; }
  // Of one of the two files, and successful.
  bool is_flush(const sim::StorageEvent& event) const;

  const std::vector<OrderFault>& faults() const { return faults_; }
  using Counts = std::array<uint64_t, kOrderRules>;
  const Counts& asked() const { return asked_; }

 private:
  struct File {
    OrderDisk disk;
    // Which operation began each that is under way.
    std::map<uint64_t, uint64_t> flushes;
  };

  // A sector of an L2 table or refcount block, as reads saw it before a write.
  struct Before {
    uint64_t sector;
    uint64_t cluster;
    OrderGraph::Table table;
    OrderDisk::Sector bytes;
  };

  void start();
  void begin(const sim::StorageEvent& event);
  void refresh();
  std::vector<Before> entries_of(const sim::Change& change) const;
  bool touches_tables(const sim::Change& change) const;
  bool on_disk(const OrderDisk& disk, uint64_t offset, uint64_t bytes, uint64_t since) const;
  bool on_disk_compressed(uint64_t offset) const;

  // Before a change: of what is at its place.
  void judge_place(uint64_t from, uint64_t to, bool cut);
  void judge_discard(const sim::Change& change, bool in_image);
  void judge_guest_write(const sim::Change& change);
  // After it has begun: of the entries that it changes.
  void judge_counts(const Before& before);
  void judge_entries(const Before& before);
  void judge_directory(const OrderGraph& before, const OrderDisk::Sector& old, uint64_t sector);
  // Of what may be on the disk now, and was not before.
  void judge_new_tables(const OrderGraph& before, bool header);
  void judge_references(const OrderGraph& before);
  void judge_content(const OrderGraph& before);
  void judge_copied(const OrderGraph& before);
  void judge_length(const OrderGraph& before);
  void judge_version(const OrderGraph& before);
  void judge_bitmaps(const OrderGraph& before, uint64_t request);
  void hide(const OrderGraph& before, uint64_t request);
  bool bitmaps_believed() const;
  bool may_be_shown(uint64_t cluster) const;
  bool overwrites_compressed(uint64_t cluster, uint64_t from, uint64_t to) const;

  // The rule was asked; it is broken when not `kept`.
  template <typename What>
  void expect(OrderRule rule, bool kept, What what) {
    ++asked_[static_cast<std::size_t>(rule)];
    if (!kept) broken(rule, what());
  }
  void broken(OrderRule rule, const std::string& what);
  File& image() { return files_.at(image_number_); }
  const File& image() const { return files_.at(image_number_); }

  std::unordered_map<uint64_t, File> files_;
  uint64_t image_number_ = 0;
  uint64_t data_number_ = 0;
  Geometry g_;
  OrderGraph graph_;
  bool stale_ = false;
  // A request failed, and since then the header may be either of two: which of them is meant, reads
  // do not tell.
  bool unsure_ = false;
  uint64_t operation_ = 0;
  // What is being judged.
  sim::Change change_;
  // Since when a part of a cluster is not shown by reads, by its number; 0 for always.
  std::unordered_map<uint64_t, uint64_t> hidden_since_;
  // What the header named at some time, as a whole.
  std::set<HeaderFields::Bitmaps> directories_;
  std::vector<OrderFault> faults_;
  Counts asked_{};
};

// Judges all of a recording whose image is "disk" and whose data file, if it has one, is `data`.
struct OrderVerdict {
  std::vector<OrderFault> faults;
  OrderJudge::Counts asked{};
};
OrderVerdict judge_order(const sim::SimStorage& storage, const std::string& data = "data");

// What breaks when a flush and those that follow it, `count` in all, are left out, up to the next
// of the same files that make up for them: for each flush, in the order of their ends.
std::vector<std::vector<OrderFault>> leave_out_flushes(const sim::SimStorage& storage, int count);

}  // namespace blockbed::qcow2::test
