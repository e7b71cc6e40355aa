// SourceDisk: the disk that mirrors and backups copy: a raw file, or a layer in memory over one.
//
// Problem: what a layer holds and what shows through it are told apart by sync=top, and zeroes and
// holes are copied as such; a disk must have all of them, and the test must know where.
//
// Contract: make() opens the node `s`, over the node `base` when there are layers; each is over a
// file of its name. The layer has the clusters of LayerImage. Threading: one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/jobs/golden_disk.h"
#include "tests/jobs/jobs_fixture.h"
#include "tests/jobs/layer_driver.h"

namespace blockbed::test {

class SourceDisk {
 public:
  static constexpr uint64_t kCluster = LayerImage::kCluster;
  // What no guest ever wrote.
  static constexpr uint64_t kJunk = 0xEEEEEEEEEEEEEEEE;

  // Some clusters, and often a part of one more.
  static uint64_t draw_size(sim::SimRandom& chance);

  SourceDisk(World& world, uint64_t size, bool layered);

  void make(GoldenDisk& golden);
  Node& node() const { return *node_; }
  // Null without layers.
  Node* base() const { return base_; }
  // The file that is read when the disk is copied.
  const char* lowest_file() const { return layered_ ? "base" : "s"; }
  // By cluster: the layer's own.
  const std::vector<bool>& allocated() const { return image_.allocated; }
  // By sector: what showed in the base when it was made.
  const std::vector<uint64_t>& base_content() const { return base_content_; }

  // A node `t` over a file of that name. It holds junk, or what was in the base when it was made.
  Node& make_target(bool like_the_base);

  // What is in the files after the end. Layers were in memory.
  void judge(const sim::StorageImage& left, const GoldenDisk& golden, bool crashed) const;

 private:
  json::Object draw_options() const;
  void make_layer(GoldenDisk& golden);

  World& world_;
  sim::SimRandom& chance_;
  const uint64_t size_;
  const bool layered_;
  LayerImage image_;
  std::vector<uint64_t> base_content_;
  Node* node_ = nullptr;
  Node* base_ = nullptr;
};

}  // namespace blockbed::test
