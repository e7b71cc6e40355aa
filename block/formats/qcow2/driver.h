// qcow2 as a driver of the graph.
//
// Contract: see Driver. Children: `file` (header, tables, and data unless there is an external data
// file), `data-file`, `backing` (opened by the graph). The engine is Image; this class translates.
// Errors: texts of QEMU. Threading: engine thread only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/cache_cleaner.h"
#include "block/formats/qcow2/graph_storage.h"
#include "block/formats/qcow2/image.h"
#include "block/graph/driver.h"
#include "block/graph/graph.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/medium.h"
#include "block/graph/persistent_bitmaps.h"

namespace blockbed {
class DirtyBitmap;
}  // namespace blockbed

namespace blockbed::qcow2 {

class SnapshotReader;

class Qcow2Driver final : public Driver,
                          public InternalSnapshots,
                          public PersistentBitmaps,
                          public LosableMedium {
 public:
  static constexpr std::string_view kName = "qcow2";

  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);
  static int probe(const ProbeInput& input);

  explicit Qcow2Driver(Node& node) : Driver(node), backing_(node), cleaner_(node.env()) {}

  std::string_view name() const override { return kName; }
  bool supports_backing() const override { return true; }
  bool writes_extend() const override { return false; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<void>> make_empty() override;
  Task<Result<void>> write_compressed(uint64_t offset, IoVector buffers) override;
  Task<Result<void>> flush_to_children() override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;
  Task<Result<void>> copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                   uint64_t target_offset, RequestFlags flags) override;
  Task<Result<void>> copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                     uint64_t length, RequestFlags flags) override;
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }
  bool can_write_compressed() const override { return !image_->geometry().external_data; }
  bool medium_lost() const override { return image_->metadata().failed(); }

  Task<Result<uint64_t>> length() override;
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override;

  void refresh_limits(BlockLimits& limits) const override;
  DriverInfo info() const override;
  std::optional<schema::ImageInfoSpecific> specific_info() const override;
  bool has_zero_init() const override;
  bool has_zero_init_truncate() const override { return true; }
  bool encrypted() const override { return image_->header().crypt_method != 0; }

  std::string backing_file_name() const override { return image_->header().backing_name; }
  std::string backing_format() const override {
    return image_->header().backing_format.value_or("");
  }
  Task<Expected<void>> change_backing_file(std::string name, std::string format,
                                           bool require) override;

  InternalSnapshots* internal_snapshots() override { return this; }
  Result<std::vector<InternalSnapshot>> list() const override;
  Task<Result<void>> create(InternalSnapshot& snapshot) override;
  Task<Expected<void>> apply(std::string id) override;
  Task<Expected<void>> remove(std::string id) override;
  Task<Expected<std::unique_ptr<PointInTime>>> read_snapshot(std::string id,
                                                             std::string reader) override;
  Task<Result<void>> write_vm_state(uint64_t position, IoVector buffers) override;
  Task<Result<void>> read_vm_state(uint64_t position, IoVector buffers) override;
  // The disk reads as it was in the snapshot of this id and this name, where they are given. Only
  // of an image that was opened for reading.
  Task<Expected<void>> show_snapshot(std::optional<std::string> id,
                                     std::optional<std::string> name);

  PersistentBitmaps* persistent_bitmaps() override { return this; }
  Task<Expected<void>> can_store(std::string name, uint64_t granularity) override;
  Task<Expected<void>> remove_stored(std::string name) override;
  Task<Expected<void>> begin_change() override;

  // Nobody writes to what a reader of a snapshot sees from below.
  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;

  std::span<const std::string_view> changeable_options() const override;
  bool can_reopen() const override { return true; }
  Expected<void> check_options(const ReopenState& state) const override;
  Task<Expected<void>> reopen_prepare(const ReopenState& state) override;
  void reopen_commit() override;
  Task<void> reopen_finish() override;
  bool needs_repair() const override;
  Task<Expected<void>> repair() override;
  Task<void> close() override;

  Image& image() { return *image_; }
  // As the image lists them; begun writing makes all of them in-use there.
  const std::vector<StoredBitmap>& bitmaps() const { return directory_; }

 private:
  friend class SnapshotReader;

  Task<Expected<void>> start(OpenContext& context, const schema::BlockdevOptions& options);
  Task<Expected<void>> open_data_file(OpenContext& context, const Header& header);
  Task<Expected<void>> repair_if_dirty(Header& header);
  void corrupted(const Corruption& corruption);
  Task<bool> has_holes();

  // --- persistent bitmaps (driver_bitmaps.cpp)
  void tell_of_inconsistent_bitmaps(const Header& header) const;
  Task<Expected<void>> read_directory(const Header& header);
  // The bitmaps of the directory become dirty bitmaps of the node, all or none.
  Task<Expected<void>> load_bitmaps(const Header& header,
                                    const std::vector<StoredBitmap>& directory);
  Task<Expected<void>> load_bitmap(const Header& header, const StoredBitmap& stored,
                                   DirtyBitmap& bitmap);
  // As QEMU does as soon as the image is open for writing; where it cannot be written to just then,
  // the first write does.
  Task<Expected<void>> mark_bitmaps();
  // The other way round. No request is in flight; a write that follows marks them in-use again.
  Task<Expected<void>> store_bitmaps();
  Task<Expected<void>> store_flags(const std::vector<DirtyBitmap*>& bitmaps);
  Task<Expected<void>> store_bits(const std::vector<DirtyBitmap*>& bitmaps);
  Task<void> store_bitmaps_or_tell();
  Expected<void> bitmaps_can_follow() const;

  NodeBacking backing_;
  std::unique_ptr<EdgeStorage> file_;
  std::unique_ptr<EdgeStorage> data_;
  std::unique_ptr<Image> image_;
  CacheCleaner cleaner_;
  std::vector<StoredBitmap> directory_;
  // Storing them failed: nobody knows which of them the image calls right.
  bool flags_unsure_ = false;
  // While it is reopened: first what is to come, then what was.
  struct Loaded {
    std::unique_ptr<Image> image;
    std::vector<StoredBitmap> directory;
  };
  Task<Expected<Loaded>> load(const MetadataOptions& options, const ReopenState& state);
  std::optional<Loaded> other_;
  // As far as it could be.
  bool repaired_ = false;
  std::vector<SnapshotReader*> readers_;
  // The file takes less space than it is long: asked when it first matters.
  std::optional<bool> holes_;
};

}  // namespace blockbed::qcow2
