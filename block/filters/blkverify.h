// blkverify: two nodes that must always say the same.
//
// Problem: a format under test is right when it reads what a plain file with the same writes reads.
//
// Contract
//  - Reads and writes go to `test` and `raw` at once. When one fails and the other does not, or
//    they read different bytes, the program says where and ends (compare_buffers.h).
//  - The length is that of `test`, the block status that of `raw`.
//  - `test` alone is flushed, as `raw` is a yardstick and not a disk.
//  - Zeroes and discards are writes like others, and nothing.
// Errors: texts of QEMU 7.2. Threading: engine thread only.
#pragma once

#include <memory>
#include <string>

#include "block/graph/driver.h"
#include "block/graph/graph.h"

namespace blockbed {

class Blkverify final : public Driver {
 public:
  static constexpr const char* kName = "blkverify";
  // "blkverify:RAW:IMAGE"
  static Expected<json::Object> parse_filename(std::string_view filename);
  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  Blkverify(Node& node, Edge& test, Edge& raw) : Driver(node), test_(test), raw_(raw) {}

  std::string_view name() const override { return kName; }
  bool is_filter() const override { return true; }
  bool is_protocol() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;
  bool flush_reaches(const Edge& edge) const override { return &edge == &test_; }

  Task<Result<uint64_t>> length() override { return test_.node()->refresh_length(); }
  // Of the disk that is not under test alone, which the other one's size hides.
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override {
    return raw_.truncate(length, options);
  }
  void child_resized(Edge& edge) override;
  Task<Result<std::optional<uint64_t>>> allocated_size() override;

  std::string exact_filename() const override;
  Task<void> close() override { co_return; }

 private:
  void agree(const char* what, uint64_t offset, uint64_t length, const Result<void>& test,
             const Result<void>& raw);

  Edge& test_;
  Edge& raw_;
};

}  // namespace blockbed
