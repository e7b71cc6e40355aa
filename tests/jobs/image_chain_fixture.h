// ImageChain: qcow2 images that stand on each other, and what the disk on top of them shows.
//
// Problem: who moves data between images must leave a chain that shows the disk, also to somebody
// who has nothing but the files, and the names of the files in them.
//
// Contract: make() writes the images l0, l1, ... from the lowest up, each with data, zeroes,
// compressed clusters and places without anything. judge() opens what is left of the files in
// another world, by the names that the images have of each other. Threading: one thread.
#pragma once

#include <string>
#include <vector>

#include "block/formats/qcow2/create.h"
#include "tests/jobs/golden_disk.h"
#include "tests/jobs/jobs_fixture.h"

namespace blockbed::test {

class ImageChain {
 public:
  // From the lowest up; who stands on whom is filled in.
  ImageChain(World& world, std::vector<qcow2::CreateOptions> layers);

  static std::string name(std::size_t layer);
  std::size_t top() const { return layers_.size() - 1; }

  void make(GoldenDisk& golden);
  // As -blockdev has it: each node has the name of its file and is defined in the one above.
  json::Object definition(std::size_t layer) const;

  struct Verdict {
    bool crashed = false;
    // Nothing went wrong: not even a cluster is lost.
    bool clean = false;
  };
  static void judge(const sim::StorageImage& left, std::size_t top, const GoldenDisk& golden,
                    Verdict verdict);

 private:
  void make_layer(std::size_t layer, GoldenDisk& golden);
  Task<void> fill(Backend& disk, const qcow2::CreateOptions& create, GoldenDisk& golden);

  World& world_;
  sim::SimRandom& chance_;
  std::vector<qcow2::CreateOptions> layers_;
};

}  // namespace blockbed::test
