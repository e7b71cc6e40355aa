#include "block/formats/qcow2/create.h"

#include <fmt/format.h>

#include <bit>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kMinClusterSize = uint64_t{1} << kMinClusterBits;
constexpr uint64_t kMaxClusterSize = uint64_t{1} << kMaxClusterBits;
// What QEMU lets any disk have: 2^63 - 1 in steps of its largest alignment.
constexpr uint64_t kMaxSize = INT64_MAX - ((uint64_t{1} << 30) - 1);
constexpr uint64_t kFirstHeaderBytes = 512;
constexpr uint64_t kMinExtendedClusterSize = uint64_t{1} << kMinExtendedClusterBits;

Header new_header(const CreateOptions& o) {
  Header h;
  h.version = o.version;
  h.cluster_bits = static_cast<uint32_t>(std::countr_zero(o.cluster_size));
  h.refcount_order = static_cast<uint32_t>(std::countr_zero(o.refcount_bits));
  h.refcount_table_offset = o.cluster_size;
  h.refcount_table_clusters = 1;
  h.compression = o.compression;
  if (o.compression != CompressionType::kZlib)
    h.incompatible_features |= incompatible::kCompression;
  if (o.extended_l2) h.incompatible_features |= incompatible::kExtendedL2;
  if (o.lazy_refcounts) h.compatible_features |= compatible::kLazyRefcounts;
  if (o.data_file) h.incompatible_features |= incompatible::kDataFile;
  if (o.data_file_raw) h.autoclear_features |= autoclear::kRawData;
  return h;
}

// Nobody else stands between a size that a client chose and the image that is made.
Expected<void> check_size(uint64_t size) {
  if (size > static_cast<uint64_t>(INT64_MAX)) return fail("Image size cannot be negative");
  if (size > kMaxSize) return fail(fmt::format("offset({}) exceeds maximum({})", size, kMaxSize));
  return {};
}

}  // namespace

Expected<void> check_create(const CreateOptions& o) {
  if (o.size % 512 != 0) return fail("Image size must be a multiple of 512 bytes");
  if (o.extended_l2 && o.version < 3) {
    return fail(
        "Extended L2 entries are only supported with compatibility level 1.1 and above (use "
        "version=v3 or greater)");
  }
  if (!std::has_single_bit(o.cluster_size) || o.cluster_size < kMinClusterSize ||
      o.cluster_size > kMaxClusterSize) {
    return fail(fmt::format("Cluster size must be a power of two between {} and {}k",
                            kMinClusterSize, kMaxClusterSize / 1024));
  }
  if (o.extended_l2 && o.cluster_size < kMinExtendedClusterSize) {
    return fail(fmt::format(
        "Extended L2 entries are only supported with cluster sizes of at least {} bytes",
        kMinExtendedClusterSize));
  }
  if (o.backing_file && o.preallocation != Preallocation::kOff && !o.extended_l2) {
    return fail(
        "Backing file and preallocation can only be used at the same time if extended_l2 is on");
  }
  if (!o.backing_format.empty() && !o.backing_file) {
    return fail("Backing format cannot be used without backing file");
  }
  if (o.lazy_refcounts && o.version < 3) {
    return fail(
        "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or "
        "greater)");
  }
  if (o.refcount_bits > 64 || !std::has_single_bit(o.refcount_bits)) {
    return fail("Refcount width must be a power of two and may not exceed 64 bits");
  }
  if (o.version < 3 && o.refcount_bits != 16) {
    return fail(
        "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
        "version=v3 or greater)");
  }
  if (o.data_file_raw && !o.data_file) return fail("data-file-raw requires data-file");
  if (o.data_file_raw && o.backing_file) {
    return fail("Backing file and data-file-raw cannot be used at the same time");
  }
  if (o.data_file && o.version < 3) {
    return fail(
        "External data files are only supported with compatibility level 1.1 and above (use "
        "version=v3 or greater)");
  }
  if (o.compression != CompressionType::kZlib && o.version < 3) {
    return fail(
        "Non-zlib compression type is only supported with compatibility level 1.1 and above (use "
        "version=v3 or greater)");
  }
  return {};
}

namespace {

std::unexpected<Error> not_written(Errno error) {
  return fail(fmt::format("Could not write qcow2 header: {}", strerror_text(error)));
}

// Until the new tables are on the disk nothing there may pass for an image: neither the header that
// is to come, nor one that the file may have.
Task<Result<void>> clear_header(Storage& file, uint64_t cluster) {
  std::byte magic[4];
  BB_CO_TRY(co_await file.read(0, IoVector(magic, sizeof(magic))));
  Buffer none = Buffer::zeroed(kFirstHeaderBytes);
  BB_CO_TRY(co_await file.write(0, none.io()));
  if (load_be<uint32_t>(magic) == kMagic) BB_CO_TRY(co_await file.flush());
  // As far as QEMU's first header goes; the rest of the cluster is a hole.
  auto length = co_await file.length();
  if (!length) co_return io_error(length.error());
  if (cluster <= kFirstHeaderBytes || *length <= kFirstHeaderBytes) co_return Result<void>();
  co_return co_await file.zero(kFirstHeaderBytes, std::min(cluster, *length) - kFirstHeaderBytes,
                               {});
}

}  // namespace

Task<Expected<void>> write_empty(Storage& file, const CreateOptions& options) {
  const uint64_t cluster = options.cluster_size;
  Header header = new_header(options);

  auto bytes = serialise_header(header);
  if (!bytes) co_return fail("Could not write qcow2 header: No space left on device");
  if (auto done = co_await clear_header(file, cluster); !done) co_return not_written(done.error());
  // A refcount table of one cluster, and one block that counts the three.
  Buffer tables = Buffer::zeroed(2 * cluster);
  store_be64(tables.data(), 2 * cluster);
  for (uint64_t i = 0; i < 3; ++i) {
    set_refcount(tables.data() + cluster, i, header.refcount_order, 1);
  }
  if (auto done = co_await file.write(cluster, tables.io()); !done) {
    co_return fail(fmt::format("Could not write refcount table: {}", strerror_text(done.error())));
  }
  auto done = co_await file.flush();
  if (done) {
    done = co_await file.write(
        0, IoVector(std::span<const std::byte>(*bytes).first(kFirstHeaderBytes)));
  }
  if (!done) co_return not_written(done.error());
  co_return Expected<void>();
}

namespace {

Task<Expected<void>> grow(Image& image, const CreateOptions& options) {
  TruncateOptions how;
  how.preallocation = options.preallocation;
  Expected<void> result = check_size(options.size);
  if (result) result = co_await image.truncate(options.size, how);
  if (!result) {
    result = fail(fmt::format("Could not resize image: {}", result.error().description));
  }
  co_return result;
}

// The names of other files, and whatever else stands behind the first part of the header.
Task<Expected<void>> complete_header(Image& image, const CreateOptions& options) {
  Header header = image.header();
  const std::string backing_file = options.backing_file.value_or("");
  header.backing_name = backing_file;
  header.set_backing_format(options.backing_format);
  if (options.data_file && !options.data_file_name.empty()) {
    header.data_file_name = options.data_file_name;
  }
  Result<void> done = io_error(EINVAL);
  if (backing_file.size() <= kMaxBackingNameBytes) {
    MutexGuard lock = co_await image.metadata().lock();
    done = co_await image.metadata().rewrite_header(std::move(header));
  }
  if (done) co_return Expected<void>();
  if (backing_file.empty()) {
    co_return fail(fmt::format("Could not update qcow2 header: {}", strerror_text(done.error())));
  }
  co_return fail(fmt::format("Could not assign backing file '{}' with format '{}': {}",
                             backing_file, options.backing_format, strerror_text(done.error())));
}

}  // namespace

Task<Expected<void>> finish(Image& image, const CreateOptions& options) {
  if (auto begun = co_await image.begin_writing(); !begun) co_return not_written(begun.error());
  BB_CO_TRY(co_await grow(image, options));
  BB_CO_TRY(co_await complete_header(image, options));
  if (auto done = co_await image.flush(); !done) co_return not_written(done.error());
  co_return Expected<void>();
}

Task<Expected<void>> create(Env& env, Storage& file, Storage* data, CreateOptions options) {
  BB_CO_TRY(check_create(options));
  BB_CO_TRY(co_await write_empty(file, options));
  // What keeps nothing of what is written to it is found out here.
  auto header = co_await read_header(file, HeaderUse::kWriting);
  if (!header) co_return fail(std::move(header).error());

  NoBacking no_backing;
  MetadataOptions metadata_options;
  metadata_options.writable = true;
  Image image(env, file, data, no_backing, std::move(*header), metadata_options);
  BB_CO_TRY(co_await image.open());
  Expected<void> result = co_await finish(image, options);
  auto closed = co_await image.close();
  if (result && !closed) result = not_written(closed.error());
  co_return result;
}

}  // namespace blockbed::qcow2
