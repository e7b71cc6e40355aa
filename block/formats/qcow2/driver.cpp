#include "block/formats/qcow2/driver.h"

#include <fmt/format.h>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/options.h"
#include "block/formats/qcow2/repair.h"
#include "block/graph/filename.h"
#include "block/runtime/env.h"
#include "block/runtime/event_sink.h"
#include "schema/block_core.h"

namespace blockbed::qcow2 {

int Qcow2Driver::probe(const ProbeInput& input) {
  constexpr int kCertain = 100;
  if (input.head.size() < 8 || load_be<uint32_t>(input.head.data()) != kMagic) return 0;
  return load_be<uint32_t>(input.head.data() + 4) >= 2 ? kCertain : 0;
}

Task<Expected<std::unique_ptr<Driver>>> Qcow2Driver::open(OpenContext& context,
                                                          const schema::BlockdevOptions& options) {
  auto driver = std::make_unique<Qcow2Driver>(context.node());
  BB_CO_TRY(co_await driver->start(context, options));
  co_return driver;
}

Task<Expected<void>> Qcow2Driver::start(OpenContext& context,
                                        const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsQcow2>(options.u);
  auto file = co_await context.open_child("file", kImageRoles);
  if (!file) co_return fail(std::move(file).error());
  file_ = std::make_unique<EdgeStorage>(**file);

  const bool writable = node().writable();
  auto header = co_await read_header(*file_, writable);
  if (!header) co_return fail(std::move(header).error());
  tell_of_inconsistent_bitmaps(*header);
  if (header->crypt_method == kCryptAes && context.graph().refuses_aes_cbc()) {
    co_return fail(
        "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators");
  }
  auto parsed = parse_options(own, *header, writable, node().flags().unmap);
  if (!parsed) co_return fail(std::move(parsed).error());
  BB_CO_TRY(check_encryption(own, *header));
  BB_CO_TRY(co_await open_data_file(context, *header));
  BB_CO_TRY(co_await repair_if_dirty(*header));
  BB_CO_TRY(co_await read_directory(*header));
  // They are the other side's until the node is activated.
  if (!node().flags().inactive) BB_CO_TRY(co_await load_bitmaps(*header, directory_));
  image_ = std::make_unique<Image>(context.env(), *file_, data_.get(), backing_, std::move(*header),
                                   *parsed);
  image_->metadata().on_corruption = [this](const Corruption& c) { corrupted(c); };
  BB_CO_TRY(co_await image_->open());
  BB_CO_TRY(co_await mark_bitmaps());
  cleaner_.start(*image_, parsed->cache_clean_seconds);
  co_return Expected<void>();
}

Task<Expected<void>> Qcow2Driver::open_data_file(OpenContext& context, const Header& header) {
  const ChildRoles data_role = ChildRole::kData;
  if (!header.external_data()) {
    if (context.child_option("data-file") != nullptr) {
      auto found = co_await context.open_optional_child("data-file", data_role);
      if (!found) co_return fail(std::move(found).error());
      co_return fail("'data-file' can only be set for images with an external data file");
    }
    co_return Expected<void>();
  }
  auto edge = co_await context.open_optional_child("data-file", data_role);
  if (edge && *edge == nullptr && header.data_file_name) {
    const std::string& name = *header.data_file_name;
    // An image may lead to a file, not to a protocol or to options of its choice: as QEMU has it,
    // such a name is nothing but the name of a file, and hardly of one that exists. A relative one
    // starts, as with QEMU, from where the server runs.
    if (protocol_of(name)) {
      co_return fail(fmt::format("Could not open '{}': {}", name, strerror_text(ENOENT)));
    }
    edge = co_await context.open_child_by_filename("data-file", data_role, name, "");
  }
  if (!edge) co_return fail(std::move(edge).error());
  if (*edge == nullptr) co_return fail("'data-file' is required for this image");
  data_ = std::make_unique<EdgeStorage>(**edge);
  co_return Expected<void>();
}

Task<Expected<void>> Qcow2Driver::repair_if_dirty(Header& header) {
  if (!header.has(incompatible::kDirty) || !node().writable()) co_return Expected<void>();
  if (auto repaired = co_await repair_counts(*file_, header); !repaired) {
    co_return fail(
        fmt::format("Could not repair dirty image: {}", strerror_text(repaired.error())));
  }
  co_return Expected<void>();
}

void Qcow2Driver::corrupted(const Corruption& corruption) {
  schema::events::BlockImageCorrupted event;
  event.device = node().device_name();
  event.node_name = node().name();
  event.msg = corruption.message;
  if (corruption.offset) event.offset = static_cast<int64_t>(*corruption.offset);
  if (corruption.size) event.size = static_cast<int64_t>(*corruption.size);
  event.fatal = corruption.fatal;
  EventSink& events = node().graph().events();
  events.tell(corruption.fatal
                  ? fmt::format("qcow2: Marking image as corrupt: {}; further corruption events "
                                "will be suppressed",
                                corruption.message)
                  : fmt::format("qcow2: Image is corrupt: {}; further non-fatal corruption events "
                                "will be suppressed",
                                corruption.message));
  events.emit(event);
}

// --- data path

Task<Result<void>> Qcow2Driver::read(uint64_t offset, IoVector buffers, RequestFlags) {
  return image_->read(offset, std::move(buffers));
}
Task<Result<void>> Qcow2Driver::write(uint64_t offset, IoVector buffers, RequestFlags) {
  return image_->write(offset, std::move(buffers));
}
Task<Result<void>> Qcow2Driver::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  return image_->zero(offset, length, flags);
}
Task<Result<void>> Qcow2Driver::discard(uint64_t offset, uint64_t length) {
  return image_->discard(offset, length);
}
Task<Result<void>> Qcow2Driver::write_compressed(uint64_t offset, IoVector buffers) {
  return image_->write_compressed(offset, std::move(buffers));
}
Task<Result<void>> Qcow2Driver::flush_to_children() { return image_->flush(); }

Task<Result<BlockStatus>> Qcow2Driver::block_status(uint64_t offset, uint64_t length,
                                                    bool want_zero) {
  auto found = co_await image_->status(offset, length);
  if (!found) co_return io_error(found.error());
  BlockStatus status;
  status.length = found->length;
  status.compressed = found->kind == Kind::kCompressed;
  status.zero = found->kind == Kind::kZero;
  status.data = found->kind == Kind::kData || status.compressed;
  status.allocated = status.data || status.zero;
  // Also of what has a place in its cluster and nothing there.
  if (found->host) {
    status.offset = found->host;
    status.file = (data_ ? *data_ : *file_).edge().node();
  }
  // A data cluster may be one that was only preallocated: a file with holes knows.
  if (found->kind == Kind::kData && want_zero) {
    if (!holes_) holes_ = co_await has_holes();
    status.ask_file = *holes_;
  }
  co_return status;
}

Task<bool> Qcow2Driver::has_holes() {
  Node& storage = *(data_ ? *data_ : *file_).edge().node();
  auto taken = co_await storage.driver().allocated_size();
  co_return taken && *taken && **taken < storage.length();
}

// In whole sectors, as QEMU has it.
Task<Result<uint64_t>> Qcow2Driver::length() {
  if (medium_lost()) co_return io_error(ENOMEDIUM);
  co_return align_down(image_->length(), kSectorSize);
}

Task<Expected<void>> Qcow2Driver::truncate(uint64_t length, TruncateOptions options) {
  BB_CO_TRY(bitmaps_can_follow());
  co_return co_await image_->truncate(length, options);
}

// --- facts

void Qcow2Driver::refresh_limits(BlockLimits& limits) const {
  limits.zero_alignment = image_->geometry().subcluster_size();
  limits.discard_alignment = image_->geometry().cluster_size;
}

DriverInfo Qcow2Driver::info() const {
  const Geometry& g = image_->geometry();
  DriverInfo info;
  info.cluster_size = g.cluster_size;
  info.subcluster_size = g.subcluster_size();
  info.vm_state_offset = g.l1_entries(image_->length()) * g.l2_coverage();
  info.dirty = image_->header().has(incompatible::kDirty);
  info.corrupt = image_->header().has(incompatible::kCorrupt);
  return info;
}

std::optional<schema::ImageInfoSpecific> Qcow2Driver::specific_info() const {
  const Header& h = image_->header();
  schema::ImageInfoSpecificQCow2 info;
  info.compat = h.version < 3 ? "0.10" : "1.1";
  info.refcount_bits = 1 << h.refcount_order;
  info.compression_type = h.compression == CompressionType::kZstd
                              ? schema::Qcow2CompressionType::kZstd
                              : schema::Qcow2CompressionType::kZlib;
  if (h.version >= 3) {
    info.lazy_refcounts = (h.compatible_features & compatible::kLazyRefcounts) != 0;
    info.corrupt = h.has(incompatible::kCorrupt);
    info.extended_l2 = h.extended_l2();
    if (h.data_file_name) info.data_file = *h.data_file_name;
    if (h.external_data()) {
      info.data_file_raw = h.raw_external_data();
    }
    if (!directory_.empty()) {
      std::vector<schema::Qcow2BitmapInfo> list;
      for (const StoredBitmap& bitmap : directory_) {
        schema::Qcow2BitmapInfo item;
        item.name = bitmap.name;
        item.granularity = uint32_t{1} << bitmap.granularity_bits;
        if (bitmap.in_use() || image_->writing()) {
          item.flags.push_back(schema::Qcow2BitmapInfoFlags::kInUse);
        }
        if ((bitmap.flags & bitmap_flag::kAuto) != 0) {
          item.flags.push_back(schema::Qcow2BitmapInfoFlags::kAuto);
        }
        list.push_back(std::move(item));
      }
      info.bitmaps = std::move(list);
    }
  }
  schema::ImageInfoSpecific result;
  result.type = schema::ImageInfoSpecificKind::kQcow2;
  result.u = schema::ImageInfoSpecificQCow2Wrapper{std::move(info)};
  return result;
}

bool Qcow2Driver::has_zero_init() const {
  // Clusters that were preallocated are as zero as what the file is made of; a table is a sign of
  // them.
  const ResidentTable& l1 = image_->metadata().l1();
  if (l1.size() == 0 || l1[0] == 0) return true;
  return (data_ ? *data_ : *file_).edge().node()->driver().has_zero_init();
}

Task<Expected<void>> Qcow2Driver::change_backing_file(std::string name, std::string format, bool) {
  Metadata& metadata = image_->metadata();
  if (image_->geometry().raw_external_data && !name.empty()) {
    co_return fail("Cannot set a backing file on images with data-file-raw");
  }
  if (name.size() > kMaxBackingNameBytes) co_return fail(strerror_text(EINVAL));
  if (auto begun = co_await image_->begin_writing(); !begun) {
    co_return fail(strerror_text(begun.error()));
  }
  MutexGuard lock = co_await metadata.lock();
  Header header = metadata.header();
  header.backing_name = std::move(name);
  header.set_backing_format(format);
  if (auto done = co_await metadata.rewrite_header(std::move(header)); !done) {
    co_return fail(strerror_text(done.error()));
  }
  co_return Expected<void>();
}

Task<void> Qcow2Driver::close() {
  co_await cleaner_.stop();
  if (image_ == nullptr) co_return;
  co_await store_bitmaps_or_tell();
  auto closed = co_await image_->close();
  if (closed) co_return;
  // The file is as the order of writes left it: at worst leaks. Which table is on the disk is not
  // known of any; clients know these two lines.
  for (const std::string_view what : {"L2 table cache", "refcount block cache"}) {
    node().graph().events().tell_error(
        fmt::format("Failed to flush the {}: {}", what, strerror_text(closed.error())));
  }
}

}  // namespace blockbed::qcow2
