// SimStorage: the named files of a SimEnv, with latency, faults, crashes and locks.
//
// What a crash leaves is the policy at the top of sim_disk.h. What fails and when is decided by
// rules; how long requests take, and with that their order, by the seed:
//
//  - A request takes effect at the end of its time and not before, so two that overlap in time take
//    effect in either order. Some requests complete at once, without suspending, as those of the
//    production Env do for cached pages. A read that overlaps a write under way sees either's
//    bytes, sector by sector.
//  - A request that a FaultRule hits fails with the rule's errno. A write that fails may have
//    changed any subset of its sectors; a flush that fails, see sim_disk.h; every other request
//    that fails changes nothing.
//  - With a capacity, of all files together or of one, a write that would take more space than
//    there is fails with ENOSPC.
//  - power_off() is the crash: from then on no request takes effect, those under way included, and
//    all of them fail with EIO, so that the engine can end its work and be destroyed. crash_image()
//    is what is on the disks then; power_on() puts it there. To visit every crash point of a
//    workload without running it again for each, use record() and crash_points.h.
//
// Contract: every change of a file and every flush is counted by operations() when it begins and
// again when it ends, which makes these numbers the crash points. Locks are held among the open
// files of this storage. An open file is one open file description.
// Units: bytes, nanoseconds of virtual time. Threading: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/runtime/file.h"
#include "block/runtime/sync.h"
#include "block/sim/sim_disk.h"
#include "block/sim/sim_random.h"
#include "block/sim/sparse_bytes.h"

namespace blockbed::sim {

class SimEnv;
class SimFile;

// Kinds of requests, as bits.
enum SimRequest : unsigned {
  kSimRead = 1,
  kSimWrite = 2,
  kSimFlush = 4,
  kSimZero = 8,
  kSimDiscard = 16,
  kSimCopy = 32,  // by its target
  kSimTruncate = 64,
  kSimInfo = 128,
  kSimExtent = 256,
  kSimOpen = 512,
  kSimUnlink = 1024,
  kSimChanges = kSimWrite | kSimZero | kSimDiscard | kSimCopy | kSimTruncate,
  kSimEverything = 2047,
};

struct FaultRule {
  // Empty: every file.
  std::string path;
  unsigned requests = kSimEverything;
  // Only requests that touch this range; those without a range always do.
  uint64_t offset = 0;
  uint64_t length = UINT64_MAX;
  // So many matching requests go by first; so many are hit then.
  uint64_t skip = 0;
  uint64_t times = 1;
  // Of those, so many of a hundred, by the seed.
  unsigned percent = 100;
  // 0: the request is not failed, only delayed or held.
  int error = 5;  // EIO
  int64_t delay = 0;
  // The request waits for release() (or for power_off()).
  bool hold = false;

  FaultRule() = default;
};

struct SimLatency {
  int64_t min = 2'000;
  int64_t max = 200'000;
  // So many of a hundred requests complete without suspending.
  unsigned at_once = 25;

  SimLatency() = default;
  static SimLatency none() {
    SimLatency latency;
    latency.min = latency.max = 1;
    latency.at_once = 100;
    return latency;
  }
};

// What files of this storage can do; what they cannot answers ENOTSUP.
struct SimAbilities {
  bool zero = true;
  bool discard = true;
  bool copy = true;
  // False: everything is data.
  bool extents = true;

  SimAbilities() = default;
};

using StorageImage = std::map<std::string, SparseBytes>;

// What happened to the storage, for crash_points.h.
struct StorageEvent {
  enum class Kind : uint8_t {
    kChangeBegins,
    kChangeTakesEffect,
    // Ends without effect: it failed.
    kChangeEnds,
    kFlushBegins,
    kFlushEnds,
    kFlushFails,
    kCreated,
    kRemoved,
  };
  Kind kind;
  uint64_t file;
  // Pairs beginnings with ends.
  uint64_t request = 0;
  Change change = {};
  std::string path = {};
  // kFlushFails: what decides its subset.
  uint64_t seed = 0;
};

class SimStorage {
 public:
  SimStorage(SimEnv& env, uint64_t seed);
  ~SimStorage();

  // Files, as if they had been there for long: everything durable. They replace what is there.
  void put(const std::string& path, SparseBytes content);
  void put(const std::string& path, std::span<const std::byte> content);
  // A block device: its size is fixed, writing beyond it is ENOSPC.
  void put_device(const std::string& path, SparseBytes content);
  bool exists(const std::string& path) const;
  // What reads see now.
  const SparseBytes& content(const std::string& path) const;
  // Opening for writing fails with EACCES.
  void set_read_only(const std::string& path, bool read_only);

  void set_latency(SimLatency latency) { latency_ = latency; }
  void set_abilities(SimAbilities abilities) { abilities_ = abilities; }
  const SimAbilities& abilities() const { return abilities_; }
  void set_capacity(std::optional<uint64_t> bytes) { capacity_ = bytes; }
  // Of one file, as if it had a file system to itself. It exists.
  void set_capacity(const std::string& path, std::optional<uint64_t> bytes);
  // How many of its writes found no room.
  uint64_t refused_for_space(const std::string& path) const;
  // Of files opened with `direct`.
  void set_direct_alignment(uint32_t alignment) { direct_alignment_ = alignment; }

  // Rules are asked in order of adding; the first that hits decides.
  using RuleId = uint64_t;
  RuleId add_fault(FaultRule rule);
  void remove_fault(RuleId id);
  // How many requests it has hit.
  uint64_t hits(RuleId id) const;
  // Waits until the rule has hit so many requests.
  Task<void> wait_for_hits(RuleId id, uint64_t count);
  // Lets the requests that a rule holds go on, and removes the rule.
  void release(RuleId id);

  uint64_t operations() const { return operations_; }
  uint64_t requests(SimRequest kind) const;

  void power_off();
  // Power goes off when operations() reaches this number.
  void power_off_at(uint64_t operation) { power_off_at_ = operation; }
  bool powered() const { return powered_; }
  StorageImage crash_image(CrashSubset subset) const;
  // All files must be closed. The image becomes the durable content; rules are removed.
  void power_on(StorageImage image);
  // What reads see now, of all files.
  StorageImage image() const;

  // From now on; the files' content at this moment must be clean (nothing unflushed).
  void record();
  const StorageImage& recorded_start() const { return recorded_start_; }
  const std::map<uint64_t, std::string>& recorded_names() const { return recorded_names_; }
  const std::vector<StorageEvent>& recording() const { return recording_; }

  Task<Result<std::unique_ptr<File>>> open(std::string path, FileOpenOptions options);
  Task<Result<void>> unlink(std::string path);

 private:
  friend class SimFile;

  struct Lock {
    const SimFile* owner;
    uint64_t start, length;
  };
  struct InFlight {
    uint64_t request;
    Change change;
  };
  // A file apart from its name.
  struct Inode {
    uint64_t number;
    std::string path;
    SimDisk disk;
    FileKind kind = FileKind::kRegular;
    bool read_only = false;
    bool removed = false;
    std::optional<uint64_t> capacity;
    uint64_t refused_for_space = 0;
    std::vector<Lock> locks;
    std::vector<InFlight> in_flight;
  };
  struct Rule {
    RuleId id;
    FaultRule rule;
    uint64_t seen = 0;
    uint64_t hits = 0;
    bool removed = false;
    std::unique_ptr<WaitQueue> held;
    std::unique_ptr<WaitQueue> watchers;
  };
  struct Verdict {
    int error = 0;
    int64_t delay = 0;
    Rule* holder = nullptr;
  };

  Verdict judge(const std::string& path, SimRequest kind, uint64_t offset, uint64_t length);
  // Takes the request's time and says how it ends: 0 or an errno.
  Task<int> pass(const std::string& path, SimRequest kind, uint64_t offset, uint64_t length);
  // One change from its beginning to its end.
  Task<int> change(std::shared_ptr<Inode> inode, SimRequest kind, Change what);
  Task<int> flush(std::shared_ptr<Inode> inode);
  Task<int> read(std::shared_ptr<Inode> inode, uint64_t offset, IoVector buffers);

  void take_effect(Inode& inode, const Change& what);
  void fail_partly(Inode& inode, const Change& what, uint64_t request);
  bool has_room(const Inode& inode, const Change& what) const;
  void happened(StorageEvent event);
  void count_operation();
  std::shared_ptr<Inode> make_inode(const std::string& path, SimDisk disk);
  std::shared_ptr<Inode> find(const std::string& path) const;

  SimEnv& env_;
  SimRandom latency_random_;
  SimRandom fault_random_;
  SimLatency latency_;
  SimAbilities abilities_;
  std::optional<uint64_t> capacity_;
  uint32_t direct_alignment_ = 512;

  std::map<std::string, std::shared_ptr<Inode>> names_;
  uint64_t next_inode_ = 1;
  uint64_t next_request_ = 1;
  uint64_t open_files_ = 0;

  std::vector<std::unique_ptr<Rule>> rules_;
  RuleId next_rule_ = 1;

  uint64_t operations_ = 0;
  std::map<unsigned, uint64_t> request_counts_;
  uint64_t power_off_at_ = UINT64_MAX;
  bool powered_ = true;
  // As power_off() found them.
  struct Frozen {
    std::string path;
    SimDisk disk;
    std::vector<Change> in_flight;
  };
  std::vector<Frozen> frozen_;

  bool recording_on_ = false;
  StorageImage recorded_start_;
  std::map<uint64_t, std::string> recorded_names_;
  std::vector<StorageEvent> recording_;
};

}  // namespace blockbed::sim
