// throttle: a filter whose requests wait for their turn in a throttle group.
//
// Problem: limits belong anywhere in a graph, not only where a device is: below a cache, over two
// disks together, several of them in a row.
//
// Contract
//  - Reads and writes are charged to the group `throttle-group`, which must exist; zeroes and
//    discards count as writes of their length. The limits are the group's (throttle_group.h).
//  - A drained section lets what waits go, and what comes during it.
//  - All else is the child's.
// Errors: texts of QEMU 7.2. Source of the rules: BlockdevOptionsThrottle and QEMU 7.2, tried out.
// Threading: engine thread only.
#pragma once

#include <memory>
#include <string>

#include "block/filters/pass_through.h"
#include "block/graph/throttle_group.h"

namespace blockbed {

class OpenContext;

class Throttle final : public PassThroughFilter {
 public:
  static constexpr const char* kName = "throttle";
  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  Throttle(Node& node, Edge& disk, std::shared_ptr<ThrottleGroup> group);

  std::string_view name() const override { return kName; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write_compressed(uint64_t offset, IoVector buffers) override;
  bool can_write_compressed() const override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;

  void gather_filename_options(json::Object& options) const override;

  void drained_begin() override { member_->lift(); }
  void drained_end() override { member_->restore(); }
  std::span<const std::string_view> changeable_options() const override;
  bool can_reopen() const override { return true; }
  Expected<void> check_options(const ReopenState& state) const override;
  Task<Expected<void>> reopen_prepare(const ReopenState& state) override;
  void reopen_commit() override;
  Task<void> reopen_finish() override;
  Task<void> close() override;

 private:
  std::unique_ptr<ThrottleMember> member_;
  // While it is reopened: first that of the group to come, then that of the one before.
  std::unique_ptr<ThrottleMember> other_;
};

}  // namespace blockbed
