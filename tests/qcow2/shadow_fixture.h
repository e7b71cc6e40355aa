// A random life of an image beside a plain array of the bytes that its disk must hold.
//
// Problem: the rules of clusters, subclusters, snapshots and sizes meet in more ways than tests
// written by hand have. Chance finds them when it draws the geometry as well as the requests, and
// when something simple knows the right answer.
//
// Contract: ShadowRun(seed) draws a geometry; run() makes the image, sends requests (alone and in
// parallel), closes and opens it again and again, and compares. After a close the check of the
// format finds nothing, and a walk written apart from it (references_fixture.h) neither. Failures
// are GoogleTest failures. The same seed is the same life.
// Threading: one thread.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "block/formats/qcow2/create.h"
#include "block/formats/qcow2/image.h"
#include "block/sim/sim_env.h"
#include "block/sim/sparse_bytes.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/memory_storage.h"
#include "tests/support/coverage.h"

namespace blockbed::qcow2::test {

class ShadowRun {
 public:
  ShadowRun(uint64_t seed, blockbed::test::Coverage& coverage);
  ~ShadowRun();

  void run();
  // What was drawn, for people.
  std::string describe() const;

 private:
  struct Taken {
    sim::SparseBytes disk;
    std::vector<std::byte> vm_state;
  };
  struct Range {
    uint64_t offset = 0;
    uint64_t length = 0;
    uint64_t end() const { return offset + length; }
  };

  void draw_geometry();
  Task<void> live();
  Task<bool> open();
  Task<void> close();
  // Process death after a flush: what was flushed is there.
  Task<void> die();
  Task<void> reopen(bool dies);
  Task<void> judge(bool may_leak, std::string when);
  Task<void> step();
  Task<void> batch();
  Task<void> one_request(Range range);

  Task<void> write(Range range);
  Task<void> write_compressed(Range range);
  Task<void> zero(Range range, RequestFlags flags);
  Task<void> discard(Range range);
  Task<void> compare(Range range);
  Task<void> compare_status(Range range);
  Task<void> compare_all();
  Task<void> resize();
  Task<void> make_empty();
  Task<void> create_snapshot();
  Task<void> apply_snapshot();
  Task<void> delete_snapshot();

  Range draw_range(uint64_t longest);
  MetadataOptions draw_options();
  std::vector<std::byte> draw_bytes(uint64_t length);
  void show_backing(uint64_t begin, uint64_t end);
  bool stop() const { return ::testing::Test::HasFailure(); }
  // What was done last, told when a seed fails.
  void note(std::string text);
  std::string recent() const;

  const uint64_t seed_;
  blockbed::test::Coverage& coverage_;
  sim::SimEnv env_;
  sim::SimRandom chance_;
  CreateOptions create_;
  int steps_ = 0;
  // Where requests go: all of a small disk, some places of a large one.
  std::vector<Range> windows_;
  uint64_t longest_ = 0;
  bool lazy_ = false;
  bool discards_reach_file_ = false;
  bool may_leak_ = false;

  MemoryStorage file_;
  MemoryStorage data_;
  MemoryBacking backing_;
  std::unique_ptr<Image> image_;
  sim::SparseBytes shadow_;
  std::vector<Taken> taken_;
  std::deque<std::string> recent_;
};

}  // namespace blockbed::qcow2::test
