// blkdebug: a filter that makes requests fail, stand still, or obey limits, as rules say.
//
// Problem: what a block layer does when the third write of a table fails can be seen only when that
// write fails. This node stands below a format, is told what each request is for (debug_event.h),
// and answers for its child.
//
// Contract
//  - Rules: from the file `config`, then from `inject-error` and `set-state` (blkdebug_rules.h).
//  - `align`, `max-transfer`, `opt-write-zero`, `max-write-zero`, `opt-discard`, `max-discard` take
//    the place of the child's limits. Zeroes and discards of less than their best size are refused
//    with ENOTSUP, so that whoever sent them must find another way.
//  - `take-child-perms`, `unshare-child-perms`: held on the child beyond what the parents need.
//  - A drained section that must wait for requests below lets those at breakpoints go on (QEMU
//    waits for ever; see DebugListener).
// Errors: texts of QEMU. Source of the rules: BlockdevOptionsBlkdebug and QEMU 7.2, tried out.
// Threading: engine thread only.
#pragma once

#include <memory>
#include <string>

#include "block/filters/blkdebug_rules.h"
#include "block/graph/driver.h"
#include "block/graph/graph.h"

namespace blockbed {

class Blkdebug final : public Driver {
 public:
  static constexpr const char* kName = "blkdebug";
  // "blkdebug:CONFIG:IMAGE", CONFIG may be empty.
  static Expected<json::Object> parse_filename(std::string_view filename);
  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  struct Limits {
    uint64_t align = 0;
    uint64_t max_transfer = 0;
    uint64_t opt_write_zero = 0;
    uint64_t max_write_zero = 0;
    uint64_t opt_discard = 0;
    uint64_t max_discard = 0;
  };

  Blkdebug(Node& node, Edge& image, Limits limits);

  DebugRules& rules() { return rules_; }

  std::string_view name() const override { return kName; }
  bool is_filter() const override { return true; }
  // It stands where storage stands: formats are looked for above it, and it has names of its own.
  bool is_protocol() const override { return true; }
  DebugListener* debug_listener() override { return &rules_; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<void>> flush_to_disk() override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;

  bool honours_fua_write() const override { return true; }
  bool honours_fua_zero() const override { return true; }
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }

  Task<Result<uint64_t>> length() override;
  bool length_varies() const override { return image_.node()->driver().length_varies(); }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override;
  Task<Result<std::optional<uint64_t>>> allocated_size() override;

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  void refresh_limits(BlockLimits& limits) const override;
  DriverInfo info() const override { return image_.node()->driver().info(); }
  bool has_zero_init() const override { return image_.node()->driver().has_zero_init(); }
  bool has_zero_init_truncate() const override {
    return image_.node()->driver().has_zero_init_truncate();
  }

  std::string exact_filename() const override;
  void gather_filename_options(json::Object& options) const override;

  // Its rules stay as they are; the options that every node has are the node's.
  bool can_reopen() const override { return true; }
  Task<void> close() override;

 private:
  // The error that the rules have for this request.
  Task<Result<void>> check(DebugIo io, uint64_t offset, uint64_t length);

  Edge& image_;
  const Limits limits_;
  Permissions taken_;
  Permissions unshared_;
  DebugRules rules_;
};

}  // namespace blockbed
