// null-co and null-aio: a disk of any size with nothing behind it, for tests and measurements.
//
// Contract: writes succeed and are forgotten; reads succeed after `latency-ns` and leave the memory
// as it is, or zero it with read-zeroes. The two differ in name only. Options: size (default 1
// GiB), latency-ns, read-zeroes.
#pragma once

#include <string>

#include "block/graph/driver.h"
#include "block/graph/graph.h"

namespace blockbed {

class NullDriver final : public Driver {
 public:
  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options,
                                                      std::string name);

  NullDriver(Node& node, std::string name, uint64_t size, int64_t latency_ns, bool read_zeroes);

  std::string_view name() const override { return name_; }
  bool is_protocol() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> flush_to_disk() override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;
  Task<Result<uint64_t>> length() override;
  Task<Result<std::optional<uint64_t>>> allocated_size() override;
  void gather_filename_options(json::Object& options) const override;
  std::string exact_filename() const override;
  // Nothing of it changes.
  bool can_reopen() const override { return true; }
  Task<void> close() override;

 private:
  Task<void> delay();

  std::string name_;
  uint64_t size_;
  int64_t latency_ns_;
  bool read_zeroes_;
};

}  // namespace blockbed
