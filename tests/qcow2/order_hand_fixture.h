// Hand: a small image, and a recording of writes to it that is made by hand and judged meanwhile.
//
// Contract: all that is done has ended when the next begins. What is written need not make sense.
// Threading: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"
#include "tests/qcow2/order_judge_fixture.h"

namespace blockbed::qcow2::test {

// Where things are, by cluster. The disk's table has guest clusters 0 in kData, 1 in kShared, 3 in
// kPlace, which reads as zeroes; the snapshot has 1.
enum Cluster : uint64_t {
  kRefcountTable = 1,
  kBlock,
  kL1,
  kL2,
  kData,
  kShared,
  kSnapshots,
  kSnapshotL1,
  kSnapshotL2,
  kDirectory,
  kBitmapTable,
  kBits,
  kPlace,
  // Old bytes that nothing refers to, counted all the same.
  kOld,
  // Where the file ends.
  kFree,
};
inline constexpr uint64_t kGuestClusters = 100;

struct Fields {
  uint32_t version = 3;
  uint64_t guest_clusters = kGuestClusters;
  uint64_t l1 = kL1;
  bool dirty = false;
  bool data_file = false;
  bool bitmaps = true;
  uint32_t bitmap_count = 1;
  uint64_t directory = kDirectory;
};

// An image, and what is done to it.
class Hand {
 public:
  using Bytes = std::vector<std::byte>;

  // Clusters of 1024 bytes have the header in two sectors, and the bitmaps extension across them.
  explicit Hand(uint32_t cluster_bits = 9, bool data_file = false) : bits_(cluster_bits) {
    fields_.data_file = data_file;
    start_ = sim::SparseBytes(kFree * size());
    put(0, header());
    put_entry(kRefcountTable, 0, at(kBlock));
    for (uint64_t c = 0; c < kFree; ++c) {
      const bool none = data_file && (c == kData || c == kShared || c == kPlace);
      put(at(kBlock) + c * 2, count_bytes(none ? 0 : c == kShared ? 2 : 1));
    }
    put_entry(kL1, 0, at(kL2) | kEntryCopied);
    put_entry(kL2, 0, at(kData) | kEntryCopied);
    put_entry(kL2, 1, at(kShared) | (data_file ? kEntryCopied : 0));
    put_entry(kL2, 3, at(kPlace) | kEntryCopied | kEntryZero);
    put(at(kSnapshots), snapshot());
    put_entry(kSnapshotL1, 0, at(kSnapshotL2));
    put_entry(kSnapshotL2, 1, at(kShared));
    put(at(kDirectory), directory(1, 1));
    put_entry(kBitmapTable, 0, at(kBits));
    for (const uint64_t c : {kData, kShared, kBits, kOld}) put(at(c), Bytes(size(), std::byte{1}));
  }

  uint64_t at(uint64_t cluster) const { return cluster << bits_; }
  Fields& fields() { return fields_; }
  OrderJudge& judge() {
    if (!judge_) {
      std::optional<sim::SparseBytes> data;
      if (fields_.data_file) data = sim::SparseBytes(kGuestClusters * size());
      judge_.emplace(start_, std::move(data));
    }
    return *judge_;
  }

  // --- what is done
  void write(uint64_t offset, const Bytes& bytes, uint64_t file = 1) {
    sim::Change change;
    change.offset = offset;
    change.length = bytes.size();
    change.data = std::make_shared<const Bytes>(bytes);
    make(file, std::move(change));
  }
  void fill(uint64_t cluster, uint64_t file = 1) {
    write(at(cluster), Bytes(size(), std::byte{7}), file);
  }
  void entry(uint64_t table, uint64_t index, uint64_t word) {
    write(at(table) + index * 8, word_bytes(word));
  }
  void count(uint64_t cluster, uint16_t count) {
    write(at(kBlock) + cluster * 2, count_bytes(count));
  }
  void write_header() { write(0, header()); }
  void flags(uint32_t flags) {
    Bytes word(4);
    store_be(word.data(), flags);
    write(at(kDirectory) + 12, word);
  }
  void discard(uint64_t cluster, uint64_t file = 1) {
    sim::Change change;
    change.kind = sim::Change::Kind::kDiscard;
    change.offset = at(cluster);
    change.length = size();
    make(file, std::move(change));
  }
  void cut(uint64_t clusters) {
    sim::Change change;
    change.kind = sim::Change::Kind::kResize;
    change.offset = at(clusters);
    make(1, std::move(change));
  }
  void flush(uint64_t file = 1) {
    sim::StorageEvent event{sim::StorageEvent::Kind::kFlushBegins, file, ++request_};
    judge().feed(event);
    event.kind = sim::StorageEvent::Kind::kFlushEnds;
    judge().feed(event);
  }

  // --- what is written
  Bytes header() const {
    Bytes bytes(size());
    std::byte* const p = bytes.data();
    store_be<uint32_t>(p, 0x514649fb);
    store_be(p + 4, fields_.version);
    store_be<uint32_t>(p + 20, bits_);
    store_be64(p + 24, fields_.guest_clusters << bits_);
    store_be<uint32_t>(p + 36, 2);
    store_be64(p + 40, at(fields_.l1));
    store_be64(p + 48, at(kRefcountTable));
    store_be<uint32_t>(p + 56, 1);
    store_be<uint32_t>(p + 60, 1);
    store_be64(p + 64, at(kSnapshots));
    store_be64(p + 72, (fields_.dirty ? 1 : 0) | (fields_.data_file ? 4 : 0));
    store_be64(p + 88, fields_.bitmaps ? 1 : 0);
    store_be<uint32_t>(p + 96, 4);
    store_be<uint32_t>(p + 100, 104);
    uint64_t extension = 104;
    if (bits_ > 9) {
      // Of a kind that nobody knows, so long that the next is half in the second sector.
      const uint32_t length = 512 - 24 - 8 - 104;
      store_be<uint32_t>(p + extension, 0x12345678);
      store_be<uint32_t>(p + extension + 4, length);
      extension += 8 + length;
    }
    store_be<uint32_t>(p + extension, 0x23852875);
    store_be<uint32_t>(p + extension + 4, 24);
    store_be<uint32_t>(p + extension + 8, fields_.bitmap_count);
    store_be64(p + extension + 16, fields_.bitmap_count * 32);
    store_be64(p + extension + 24, at(fields_.directory));
    return bytes;
  }
  Bytes directory(uint32_t flags, uint32_t bitmaps, uint64_t table = kBitmapTable) const {
    Bytes bytes(bitmaps * 32);
    for (uint32_t b = 0; b < bitmaps; ++b) {
      std::byte* const p = bytes.data() + b * 32;
      store_be64(p, at(table));
      store_be<uint32_t>(p + 8, b == 0 ? 1 : 0);
      store_be(p + 12, flags);
      store_be<uint16_t>(p + 18, 1);
      p[24] = std::byte{'b'};
    }
    return bytes;
  }
  Bytes table_with(uint64_t index, uint64_t word) const {
    Bytes bytes(size());
    store_be64(bytes.data() + index * 8, word);
    return bytes;
  }
  Bytes block_counting(uint64_t index) const {
    Bytes bytes(size());
    set_refcount(bytes.data(), index, 4, 1);
    return bytes;
  }

 private:
  uint64_t size() const { return uint64_t{1} << bits_; }
  static Bytes word_bytes(uint64_t word) {
    Bytes bytes(8);
    store_be64(bytes.data(), word);
    return bytes;
  }
  static Bytes count_bytes(uint16_t count) {
    Bytes bytes(2);
    store_be(bytes.data(), count);
    return bytes;
  }
  Bytes snapshot() const {
    Bytes bytes(48);
    store_be64(bytes.data(), at(kSnapshotL1));
    store_be<uint32_t>(bytes.data() + 8, 1);
    store_be<uint16_t>(bytes.data() + 12, 1);
    store_be<uint16_t>(bytes.data() + 14, 1);
    return bytes;
  }
  void put(uint64_t offset, const Bytes& bytes) { start_.write(offset, bytes); }
  void put_entry(uint64_t table, uint64_t index, uint64_t word) {
    put(at(table) + index * 8, word_bytes(word));
  }
  void make(uint64_t file, sim::Change change) {
    sim::StorageEvent event{sim::StorageEvent::Kind::kChangeBegins, file, ++request_};
    event.change = std::move(change);
    judge().feed(event);
    event.kind = sim::StorageEvent::Kind::kChangeTakesEffect;
    judge().feed(event);
  }

  uint32_t bits_;
  Fields fields_;
  sim::SparseBytes start_;
  std::optional<OrderJudge> judge_;
  uint64_t request_ = 0;
};

}  // namespace blockbed::qcow2::test
