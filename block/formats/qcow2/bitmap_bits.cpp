#include "block/formats/qcow2/bitmap_bits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kEntryOffsetMask = 0x00fffffffffffe00u;
constexpr uint64_t kAllOnes = 1;
// Clusters that lie side by side are read and written together, up to so many bytes.
constexpr uint64_t kPieceBytes = uint64_t{256} << 10;

bool possible(uint64_t entry, const Header& header, uint64_t file_length) {
  if (entry <= kAllOnes) return true;
  if ((entry & ~kEntryOffsetMask) != 0 || entry % header.cluster_size() != 0) return false;
  return entry < file_length;
}

uint64_t bits_of_disk(const Header& header, uint8_t granularity_bits) {
  const uint64_t granularity = uint64_t{1} << granularity_bits;
  return header.size / granularity + (header.size % granularity != 0 ? 1 : 0);
}

// Clears what `bytes` holds from bit `count` on.
void cut(std::span<std::byte> bytes, uint64_t count) {
  if (count >= bytes.size() * 8) return;
  const std::size_t whole = count / 8;
  bytes[whole] &= static_cast<std::byte>((1u << (count % 8)) - 1);
  std::memset(bytes.data() + whole + 1, 0, bytes.size() - whole - 1);
}

// A buffer for as many clusters as are read or written together.
Buffer piece_for(uint64_t entries, const Header& header) {
  const uint64_t most = std::max<uint64_t>(kPieceBytes >> header.cluster_bits, 1);
  return Buffer(std::min(entries, most) << header.cluster_bits);
}

bool all_ones(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0xff} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace

Task<Result<std::vector<uint64_t>>> read_bitmap_table(Storage& file, const Header& header,
                                                      const StoredBitmap& bitmap) {
  auto length = co_await file.length();
  if (!length) co_return io_error(length.error());
  // Also what bounds the memory, beside kMaxBitmapBytes: a table that is in the file.
  const uint64_t bytes = uint64_t{bitmap.table_entries} * 8;
  if (bitmap.table_offset > kMaxLength - bytes) co_return io_error(EIO);
  if (bitmap.table_offset > *length || bytes > *length - bitmap.table_offset) {
    co_return io_error(EINVAL);
  }
  std::vector<uint64_t> entries(bitmap.table_entries);
  BB_CO_TRY(co_await file.read(bitmap.table_offset, IoVector(entries.data(), bytes)));
  for (uint64_t& entry : entries) {
    entry = load_be64(&entry);
    if (!possible(entry, header, *length)) co_return io_error(EINVAL);
  }
  co_return entries;
}

Task<Expected<void>> load_bits(Storage& file, const Header& header, const StoredBitmap& bitmap,
                               BitmapReceiver& receiver) {
  if (bitmap.in_use()) {
    co_return fail(fmt::format("Bitmap '{}' is inconsistent and cannot be used", bitmap.name));
  }
  if (!bitmap.usable()) co_return fail("Bitmap extra data is not supported");
  auto table = co_await read_bitmap_table(file, header, bitmap);
  if (!table) {
    co_return fail(fmt::format("Could not read bitmap_table table from image for bitmap '{}': {}",
                               bitmap.name, strerror_text(table.error())));
  }
  auto unreadable = [&bitmap](Errno error) {
    return fail(fmt::format("Could not read bitmap '{}' from image: {}", bitmap.name,
                            strerror_text(error)));
  };
  if (table->size() != bitmap_table_entries(header, bitmap.granularity_bits)) {
    co_return unreadable(Errno(EINVAL));
  }
  const uint64_t bits = bits_of_disk(header, bitmap.granularity_bits);
  const uint64_t cluster = header.cluster_size();
  Buffer content = piece_for(table->size(), header);
  for (std::size_t i = 0; i < table->size();) {
    const uint64_t entry = (*table)[i];
    const uint64_t first = i * cluster * 8;
    if (entry <= kAllOnes) {
      if (entry == kAllOnes) receiver.take_ones(first, std::min(cluster * 8, bits - first));
      ++i;
      continue;
    }
    uint64_t run = cluster;
    for (++i; i < table->size() && run < content.size() && (*table)[i] == entry + run; ++i) {
      run += cluster;
    }
    const uint64_t here = std::min(run * 8, bits - first);
    const std::size_t bytes = divide_up(here, 8);
    if (auto read = co_await file.read(entry, content.io(0, bytes)); !read) {
      co_return unreadable(read.error());
    }
    cut(content.span().first(bytes), here);
    receiver.take(first, content.span().first(bytes));
  }
  co_return Expected<void>();
}

namespace {

Task<Result<uint64_t>> place(Metadata& metadata, const Buffer& content, uint64_t bytes,
                             const char* what, AddedReferences& added,
                             std::vector<HostRange>& placed) {
  const Geometry& g = metadata.geometry();
  auto room = co_await metadata.allocate(g.clusters(bytes), what);
  if (!room) co_return io_error(room.error());
  const uint64_t whole = align_up(bytes, g.cluster_size);
  added.add(room->host, whole);
  placed.push_back(HostRange{room->host, whole});
  BB_CO_TRY(co_await metadata.file().write(room->host, content.io(0, whole)));
  co_return room->host;
}

// Clusters of bits that wait to be written together, and the entries that are to name them.
class PendingClusters {
 public:
  PendingClusters(uint64_t entries, const Header& header)
      : content_(piece_for(entries, header)), cluster_(header.cluster_size()) {}

  // Where the next one is to be put together.
  std::span<std::byte> next() {
    return content_.span().subspan(entries_.size() * cluster_, cluster_);
  }
  void keep(uint64_t& entry) { entries_.push_back(&entry); }
  bool full() const { return entries_.size() * cluster_ == content_.size(); }

  Task<Result<void>> write(Metadata& metadata, AddedReferences& added,
                           std::vector<HostRange>& placed) {
    if (entries_.empty()) co_return Result<void>();
    auto host =
        co_await place(metadata, content_, entries_.size() * cluster_, "bitmap", added, placed);
    if (!host) co_return io_error(host.error());
    for (uint64_t* entry : entries_) *entry = std::exchange(*host, *host + cluster_);
    entries_.clear();
    co_return Result<void>();
  }

 private:
  Buffer content_;
  const uint64_t cluster_;
  std::vector<uint64_t*> entries_;
};

}  // namespace

Task<Result<BitmapTable>> write_bits(Metadata& metadata, const BitmapSource& source,
                                     uint8_t granularity_bits, AddedReferences& added,
                                     std::vector<HostRange>& placed) {
  const Header& header = metadata.header();
  const uint64_t bits = bits_of_disk(header, granularity_bits);
  const uint64_t per_cluster = header.cluster_size() * 8;
  BitmapTable table;
  const uint64_t entries = bitmap_table_entries(header, granularity_bits);
  if (entries > kMaxBitmapBytes >> header.cluster_bits) co_return io_error(EFBIG);
  // A disk of no length has no table, and a directory has no place for that.
  if (entries == 0) co_return io_error(EINVAL);
  table.entries.assign(entries, 0);
  PendingClusters pending(entries, header);
  for (uint64_t next = source.next_set(0); next < bits;) {
    const uint64_t index = next / per_cluster;
    const uint64_t first = index * per_cluster;
    const uint64_t here = std::min(per_cluster, bits - first);
    source.give(first, pending.next());
    cut(pending.next(), here);
    if (all_ones(pending.next())) {
      table.entries[index] = kAllOnes;
    } else {
      pending.keep(table.entries[index]);
      if (pending.full()) BB_CO_TRY(co_await pending.write(metadata, added, placed));
    }
    next = source.next_set(first + here);
  }
  BB_CO_TRY(co_await pending.write(metadata, added, placed));
  const uint64_t bytes = table.entries.size() * 8;
  const Buffer words =
      ResidentTable::to_file(table.entries, align_up(bytes, header.cluster_size()));
  auto host = co_await place(metadata, words, bytes, "bitmap table", added, placed);
  if (!host) co_return io_error(host.error());
  table.offset = *host;
  co_return table;
}

}  // namespace blockbed::qcow2
