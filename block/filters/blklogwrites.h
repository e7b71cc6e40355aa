// blklogwrites: a filter that keeps a log of all that is written.
//
// Problem: whether a file system survives a crash is seen by replaying its writes up to any of
// them. The log has the format of the Linux device-mapper target log-writes, whose tools replay it.
//
// Contract
//  - A request goes to `file` first, and into `log` when it has succeeded there, one after another:
//    the log's order is that in which requests ended. A request that cannot be logged fails.
//  - Writes and zeroes are logged with their bytes, discards and flushes without. A flush entry
//    says that all entries before it are durable.
//  - The superblock, which says how many entries there are, is written at a flush and after every
//    `log-super-update-interval` entries; entries beyond what it says are none.
//  - Requests are aligned to the log's sectors. `log-append` goes on behind the last entry of a log
//    that is there, with the sector size of that one; a log of no length is begun.
// Errors: texts of QEMU 7.2. Threading: engine thread only.
// Source of the format: the kernel's documentation, admin-guide/device-mapper/log-writes.
#pragma once

#include <cstdint>
#include <memory>

#include "block/filters/pass_through.h"
#include "block/graph/graph.h"
#include "block/runtime/sync.h"

namespace blockbed {

class Blklogwrites final : public PassThroughFilter {
 public:
  static constexpr const char* kName = "blklogwrites";
  static constexpr uint32_t kDefaultSectorSize = 512;
  // An entry's header must fit into a sector.
  static constexpr uint32_t kMinSectorSize = 32;
  static constexpr uint32_t kMaxSectorSize = 8u << 20;
  static constexpr uint64_t kDefaultUpdateInterval = 4096;

  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  struct Place {
    uint32_t sector_size = kDefaultSectorSize;
    uint64_t entries = 0;
    // Where the next entry goes; the superblock is sector 0.
    uint64_t next_sector = 1;
  };

  Blklogwrites(Node& node, Edge& file, Edge& log, Place place, uint64_t update_interval);

  std::string_view name() const override { return kName; }

  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<void>> flush_to_disk() override;
  // The log is flushed with its superblock.
  bool flush_reaches(const Edge& edge) const override { return &edge == &file_; }

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  void refresh_limits(BlockLimits& limits) const override;
  void gather_filename_options(json::Object& options) const override;

 private:
  struct Entry {
    uint64_t offset;
    uint64_t length;
    uint64_t flags;
    // What follows the header in the log; nothing of it is `zero_bytes` zeroes.
    IoVector data;
    uint64_t zero_bytes;

    Entry(uint64_t at, uint64_t size, uint64_t bits, IoVector bytes = {}, uint64_t zeroes = 0)
        : offset(at), length(size), flags(bits), data(std::move(bytes)), zero_bytes(zeroes) {}
  };

  Task<Result<void>> append(Entry entry);
  Task<Result<void>> write_superblock();

  Edge& log_;
  Place place_;
  const uint64_t update_interval_;
  Mutex appending_;
};

}  // namespace blockbed
