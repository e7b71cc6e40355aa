// quorum: several copies of one disk, and a vote on what it says.
//
// Problem: of three copies one may be wrong or gone; what the others agree on is right.
//
// Contract
//  - Writes, zeroes and flushes go to all copies and succeed when `vote-threshold` of them did.
//  - Reads, pattern `quorum`: from all copies; those that read the same bytes vote together, and
//    the version with the most votes is what is read if it has `vote-threshold` of them. Pattern
//    `fifo`: from the first copy that can.
//  - Each copy that failed or lost a vote is told by QUORUM_REPORT_BAD, a request that fails for
//    lack of votes by QUORUM_FAILURE.
//  - rewrite-corrupted: what won a vote is written over what lost; so a read and what else happens
//    in its range wait for each other. blkverify (two copies, threshold 2): copies that differ end
//    the program (compare_buffers.h). Both with pattern `quorum` only.
//  - Discards are not passed on: copies may understand them differently, and then differ.
//  - The copies that it is opened with have one length; later ones may be shorter or longer, and
//    the disk stays as long as it was. Nobody else writes to them.
//  - The copies are the node's children, in their order. Children may come and go inside a drained
//    section, as long as `vote-threshold` of them stay.
// Units: events count sectors of 512 bytes, as QEMU's. Errors: texts of QEMU 7.2.
// Threading: engine thread only.
// Source of the rules: QEMU 7.2's schema and events, and the program tried out.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/filters/quorum_vote.h"
#include "block/graph/driver.h"
#include "block/graph/graph.h"

namespace blockbed {

class Quorum final : public Driver {
 public:
  static constexpr const char* kName = "quorum";

  struct Options {
    std::size_t vote_threshold = 1;
    bool fifo = false;
    bool blkverify = false;
    bool rewrite_corrupted = false;
  };

  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  Quorum(Node& node, Options options, std::size_t children)
      : Driver(node), options_(options), next_child_(children) {}

  std::string_view name() const override { return kName; }
  // It has no child that it stands on alone, and no tables of its own.
  bool is_format() const override { return false; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> flush_to_children() override;
  // Flushes are voted on.
  bool flush_reaches(const Edge&) const override { return false; }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }
  bool reads_repair() const override { return options_.rewrite_corrupted; }

  Task<Result<uint64_t>> length() override;
  bool length_varies() const override;

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  void refresh_limits(BlockLimits& limits) const override;
  void gather_filename_options(json::Object& options) const override;
  Task<void> close() override { co_return; }

  bool takes_children() const override { return true; }
  Task<Expected<void>> add_child(Node& child) override;
  Task<Expected<void>> remove_child(Edge& edge) override;

 private:
  using Request = std::function<Task<Result<void>>(Edge& copy, std::size_t index)>;

  const std::vector<std::unique_ptr<Edge>>& copies() const { return node().children(); }
  // The request to all copies at once.
  Task<std::vector<Result<void>>> send(const Request& request);
  // What becomes of a write or flush; `results` are those of all copies.
  Result<void> judge(int type, uint64_t offset, uint64_t length,
                     const std::vector<Result<void>>& results);

  Task<Result<void>> read_first(uint64_t offset, IoVector buffers);
  Task<Result<void>> read_voting(uint64_t offset, IoVector buffers);
  Task<void> rewrite(uint64_t offset, IoVector right, std::vector<Edge*> losers);

  void report_bad(int type, const Edge& copy, uint64_t offset, uint64_t length,
                  std::optional<Errno> error);
  void report_failure(uint64_t offset, uint64_t length);

  const Options options_;
  // How long the copies were when last all were equally long.
  std::optional<uint64_t> agreed_length_;
  // The number in the next one's name: "children.3".
  std::size_t next_child_;
};

}  // namespace blockbed
