// SimulatedDisk: a guest's disk over real images in simulated storage, the image that its backup
// goes to, and the golden model that judges both.
//
// Problem: of a run with faults, cancels and crashes it must be known, from nothing but the
// requests that were sent and how they ended, what the disk and its copy may show.
//
// Contract: make() lays the images down and opens them. take_instant() is called while the source
// is drained, in the moment that the backup is to show. end_guest() and close() take everything
// down again; judge() opens what was left of the files in another world and compares.
// Threading: one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/backup/disk_plan_fixture.h"
#include "tests/jobs/golden_disk.h"
#include "tests/jobs/jobs_fixture.h"
#include "tests/support/coverage.h"

namespace blockbed::test {

class SimulatedDisk {
 public:
  SimulatedDisk(World& world, int number, Coverage& coverage);

  const DiskPlan& plan() const { return plan_; }
  Node& source() const { return *source_; }
  Node& target() const { return *target_; }
  // Of the source, as clients name it.
  std::string source_name() const { return name('s'); }
  std::string target_name() const { return name('t'); }
  std::string job_id() const { return name('j'); }

  void make();

  // Requests one after the other until stop() or for a few hundred.
  Task<void> be_guest();
  // Reads the disk's past through the target while the job lasts.
  Task<void> be_reader();
  void stop() { stop_ = true; }

  void take_instant(std::shared_ptr<BackupJob> job);
  const std::shared_ptr<BackupJob>& job() const { return job_; }
  void add_faults();
  // The target's file system has no room for all of it, until make_room().
  void fill_up();
  void make_room();
  bool was_full() const { return world_.env.storage().refused_for_space(name('t')) > 0; }
  void end_faults();
  bool met_faults() const;
  // What a flush could not write stays unwritten (sim_disk.h).
  bool flush_failed(char kind) const;
  bool source_may_fail() const { return source_may_fail_; }

  // As somebody who may write to it: a raw node hands on no flush of anybody else.
  Task<bool> flush_target();

  void end_guest();
  // The target alone.
  void close_target();
  void close();

  struct Verdict {
    // The power was cut: what was flushed is there.
    bool crashed = false;
    // The copy must be the disk of its instant.
    bool copied = false;
    // Nothing went wrong and everything was closed: not even a cluster is lost.
    bool clean = false;

    Verdict() = default;
  };
  // In a world that has nothing but what was left of the files.
  void judge(World& world, Verdict verdict) const;

 private:
  std::string name(char kind) const { return kind + std::to_string(number_); }
  bool powered() const { return world_.env.storage().powered(); }
  bool filtered() const { return guest_->node() != source_; }

  // Every write has the same number, or one of its own.
  void populate(const std::string& path, const ImagePlan& plan, uint64_t size,
                const std::string& backing, std::optional<uint64_t> number, Note note);
  void make_base();
  void make_source();
  void make_target();

  Task<void> one_request();
  Task<void> read_and_check(uint64_t offset, uint64_t length);
  Task<void> change(uint64_t offset, uint64_t length);

  std::vector<std::byte> content(World& world, Node& node) const;
  void judge_target(const std::vector<std::byte>& copy, bool crashed) const;
  bool copied_right(uint64_t sector, const std::byte* bytes, bool crashed) const;

  World& world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  const int number_;
  const DiskPlan plan_;
  GoldenDisk golden_;
  std::optional<GoldenDisk> instant_;
  // What each sector shows below the source's own layer, and in the target before the backup.
  std::vector<uint64_t> base_content_;
  std::vector<uint64_t> target_content_;
  // Copied for sure, and perhaps, by what guests did.
  std::vector<bool> touched_, tried_;
  uint64_t cluster_ = 0;
  Node* source_ = nullptr;
  Node* target_ = nullptr;
  std::unique_ptr<Backend> guest_;
  std::unique_ptr<Backend> reader_;
  std::shared_ptr<BackupJob> job_;
  std::vector<sim::SimStorage::RuleId> faults_;
  // Those of faults_ that hit flushes, by the kind of file.
  std::vector<std::pair<char, sim::SimStorage::RuleId>> flush_faults_;
  bool source_may_fail_ = false;
  bool source_changes_may_fail_ = false;
  bool target_may_fail_ = false;
  bool full_ = false;
  bool stop_ = false;
  int requests_ = 0;
};

}  // namespace blockbed::test
