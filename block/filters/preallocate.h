// preallocate: a filter that lets its child grow ahead of what is written.
//
// Problem: a format that grows a file cluster by cluster makes the file system allocate piece by
// piece. This filter stands between format and file, and where a write goes beyond the end it takes
// much more space at once.
//
// Contract
//  - When a write or zeroing ends behind the child's end, the child is first zeroed up to there
//    plus `prealloc-size`, aligned to `prealloc-align`; if the child cannot do that fast, nothing
//    is preallocated and the request goes on.
//  - The length that parents see is what was written, never what was preallocated.
//  - What was preallocated is given back (the child is cut) when the node is closed, resized or
//    left for reading, and when nobody who may write and resize uses it any more. The permissions
//    that this takes are held until then.
//  - It happens only while a parent may write and resize: then nobody else may.
// Errors: texts of QEMU 7.2. Threading: engine thread only.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "block/filters/pass_through.h"
#include "block/graph/graph.h"
#include "block/runtime/gate.h"
#include "block/runtime/sync.h"

namespace blockbed {

class Preallocate final : public PassThroughFilter {
 public:
  static constexpr const char* kName = "preallocate";

  struct Options {
    uint64_t align = uint64_t{1} << 20;
    uint64_t size = uint64_t{128} << 20;
  };

  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  Preallocate(Node& node, Edge& file, Options options);

  std::string_view name() const override { return kName; }

  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;

  Task<Result<uint64_t>> length() override;
  bool length_varies() const override { return !ahead_ && PassThroughFilter::length_varies(); }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override;
  void child_resized(Edge& edge) override;

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  void commit_permissions(Permissions needs, Permissions shares) override;
  bool drained_poll() const override { return giving_back_.inside() > 0; }

  std::span<const std::string_view> changeable_options() const override;
  bool can_reopen() const override { return true; }
  Expected<void> check_options(const ReopenState& state) const override;
  Task<Expected<void>> reopen_prepare(const ReopenState& state) override;
  void reopen_commit() override { options_ = *std::exchange(reopened_, std::nullopt); }
  Task<void> reopen_finish() override;
  Task<void> close() override;

 private:
  Task<void> reach(uint64_t end);
  Task<Expected<void>> give_back();
  Task<void> give_back_unused();

  Options options_;
  std::optional<Options> reopened_;
  // The child is longer than this node, by what was preallocated.
  bool ahead_ = false;
  // Parents may write and resize.
  bool may_grow_ = false;
  bool closing_ = false;
  Mutex growing_;
  Gate giving_back_;
};

}  // namespace blockbed
