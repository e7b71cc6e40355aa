// file and host_device: image files and block devices of the host as leaves of the graph.
//
// Problem: everything that is stored ends here, and other programs may have the same file open.
//
// Contract: `file` wants a regular file, `host_device` a block or character device. The descriptor
// is opened read-write unless the node is read-only; with auto-read-only a file that cannot be
// written is opened read-only. Permissions are told to other programs by image locks
// (image_locks.h) unless locking=off. Options: filename, locking, aio, drop-cache,
// x-check-cache-dropped; cache.direct of the node is O_DIRECT. Errors: `Could not open 'NAME':
// TEXT`.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/graph/driver.h"
#include "block/graph/graph.h"
#include "block/protocols/image_locks.h"
#include "block/runtime/file.h"

namespace blockbed {

class FileDriver final : public Driver {
 public:
  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options,
                                                      bool device);

  FileDriver(Node& node, bool device, std::string filename, std::unique_ptr<File> file,
             FileOpenOptions opened_with, bool locking, std::optional<Errno> write_refused);
  ~FileDriver() override;

  std::string_view name() const override { return device_ ? "host_device" : "file"; }
  bool is_protocol() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<void>> flush_to_disk() override;
  Task<void> expect_flush() override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;
  Task<Result<void>> copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                   uint64_t target_offset, RequestFlags flags) override;
  Task<Result<void>> copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                     uint64_t length, RequestFlags flags) override;
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }

  Task<Result<uint64_t>> length() override;
  bool length_varies() const override { return device_; }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override;
  Task<Result<std::optional<uint64_t>>> allocated_size() override;

  Expected<void> prepare_permissions(Permissions needs, Permissions shares) override;
  void commit_permissions(Permissions needs, Permissions shares) override;
  void abort_permissions() override;

  void refresh_limits(BlockLimits& limits) const override;
  bool has_zero_init() const override { return !device_; }
  bool has_zero_init_truncate() const override { return !device_; }
  std::string exact_filename() const override { return filename_; }
  void gather_filename_options(json::Object& options) const override;

  std::span<const std::string_view> changeable_options() const override;
  // The file is opened a second time when it is to be opened in another way.
  bool can_reopen() const override { return true; }
  Task<Expected<void>> reopen_prepare(const ReopenState& state) override;
  void reopen_commit() override;
  Task<void> reopen_finish() override;
  Task<void> close() override;

  // Discards since opening, as query-blockstats reports them.
  struct DiscardStatistics {
    uint64_t ok = 0;
    uint64_t failed = 0;
    uint64_t bytes_ok = 0;
  };
  const DiscardStatistics& discard_statistics() const { return discards_; }

 private:
  // O_DIRECT wants aligned memory, which the callers' buffers need not be.
  Task<Result<void>> read_by_bounce(uint64_t offset, IoVector buffers);
  Task<Result<void>> write_by_bounce(uint64_t offset, IoVector buffers);
  // The same file, opened again.
  struct Opened {
    std::unique_ptr<File> file;
    FileOpenOptions with;
    std::optional<Errno> write_refused;
    std::optional<ImageLocks> locks;
  };
  static Task<Result<Opened>> open_as(Env& env, const std::string& filename,
                                      FileOpenOptions options, bool auto_read_only);
  // The permissions that others may have as this node sees it.
  Permissions shared(Permissions shares) const;

  bool device_;
  std::string filename_;
  std::unique_ptr<File> file_;
  FileOpenOptions opened_with_;
  // With auto-read-only: why it could only be opened for reading. Told to the first who wants to
  // write.
  std::optional<Errno> write_refused_;
  std::optional<ImageLocks> locks_;
  // A flush through the page cache failed so. The kernel calls those pages clean now, and the next
  // fsync() would succeed without having written them: no later flush may.
  std::optional<Errno> lost_writes_;
  DiscardStatistics discards_;
  // While it is reopened: first what is to come, then what was.
  std::optional<Opened> other_;
};

}  // namespace blockbed
