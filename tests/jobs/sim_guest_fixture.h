// SimGuest: a guest that goes on using its disk, and the golden model of what the disk may show.
//
// Problem: of a disk under a job, with faults and power cuts, it must be known what it may show,
// from nothing but the requests that were sent and how they ended.
//
// Contract
//  - run() sends requests one after the other until stop(), or for a few hundred; several may run
//    at once. None overlaps another. What is read is checked at once.
//  - A request may fail only when may_fail() was called.
//  - After hold() nothing changes the disk until go_on(); calls nest.
// Threading: one thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tests/jobs/golden_disk.h"
#include "tests/jobs/jobs_fixture.h"

namespace blockbed::test {

class SimGuest {
 public:
  // A request that changed the disk, or did not.
  struct Change {
    uint64_t offset;
    uint64_t length;
    bool done;
    // A discard, which need not have done anything.
    bool optional;
  };

  SimGuest(World& world, uint64_t size)
      : world_(world), chance_(world.env.chance()), golden_(size) {}

  GoldenDisk& golden() { return golden_; }
  void insert(Node& node) { device_ = world_.guest(node); }
  // What it stands on now.
  Node* node() const { return device_->node(); }
  // Told of every change when it has ended.
  void set_listener(std::function<void(const Change&)> listener) {
    listener_ = std::move(listener);
  }
  void may_fail() { may_fail_ = true; }
  // A node that does not hold what was written before: what is read there is not judged.
  void expect_nothing_of(const Node& node) { strange_ = &node; }

  Task<void> run();
  void stop() { stop_ = true; }
  Task<void> hold();
  void go_on() { --holds_; }

  // All of it, read through the device.
  void expect_its_disk();
  void remove();

 private:
  bool powered() const { return world_.env.storage().powered(); }
  Task<void> one_request();
  Task<void> flush();
  Task<void> read(uint64_t offset, uint64_t length);
  Task<void> change(uint64_t offset, uint64_t length);

  World& world_;
  sim::SimRandom& chance_;
  GoldenDisk golden_;
  std::unique_ptr<Backend> device_;
  std::function<void(const Change&)> listener_;
  const Node* strange_ = nullptr;
  bool may_fail_ = false;
  bool stop_ = false;
  int holds_ = 0;
  int under_way_ = 0;
  int requests_ = 0;
};

}  // namespace blockbed::test
