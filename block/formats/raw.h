// raw: a disk that is stored as it is, whole or as a window of a larger file.
//
// Problem: nothing to translate, but three rules to keep: the window's bounds, a length that
// follows its file, and that a guest whose image was only guessed to be raw cannot make it look
// like another format.
//
// Contract: options offset and size as QEMU checks them. Without them the node is as long as its
// file, also when that changes. A node that was probed (Node::probed) refuses to write a first
// sector that another format would be recognised by (EPERM). Errors: texts of QEMU. Threading:
// engine thread only.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/graph/driver.h"
#include "block/graph/graph.h"

namespace blockbed {

class RawDriver final : public Driver {
 public:
  static constexpr std::string_view kName = "raw";

  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);
  static int probe(const ProbeInput& input);
  // What QEMU prints on standard error when a writable image was guessed to be raw.
  static std::string probing_warning(const std::string& filename);

  // The part of the file that is the disk.
  struct Window {
    uint64_t offset = 0;
    std::optional<uint64_t> size;
  };

  RawDriver(Node& node, Edge& file, Window window) : Driver(node), file_(file), window_(window) {}

  std::string_view name() const override { return kName; }
  bool shows_part_of_child() const override;

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;
  Task<Result<void>> copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                   uint64_t target_offset, RequestFlags flags) override;
  Task<Result<void>> copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                     uint64_t length, RequestFlags flags) override;
  bool honours_fua_write() const override { return true; }
  bool honours_fua_zero() const override { return true; }
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }

  Task<Result<uint64_t>> length() override;
  bool length_varies() const override;
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override;
  void child_resized(Edge& edge) override;

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  void refresh_limits(BlockLimits& limits) const override;
  DriverInfo info() const override;
  bool has_zero_init() const override;
  bool has_zero_init_truncate() const override;
  bool encrypted() const override;
  void gather_filename_options(json::Object& options) const override;

  std::span<const std::string_view> changeable_options() const override;
  bool can_reopen() const override { return true; }
  Task<Expected<void>> reopen_prepare(const ReopenState& state) override;
  void reopen_commit() override;
  Task<void> reopen_finish() override;
  Task<void> close() override;

 private:
  Task<Result<void>> read_debugged(uint64_t offset, IoVector buffers, RequestFlags flags);
  // ENOSPC beyond the end of a window of fixed size.
  Result<void> check_inside(uint64_t offset, uint64_t length) const;
  // EINVAL or EPERM when the write would change what the image looks like.
  Result<void> check_first_sector(uint64_t offset, const IoVector& buffers) const;

  Edge& file_;
  Window window_;
  std::optional<Window> next_window_;
};

}  // namespace blockbed
