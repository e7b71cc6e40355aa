#include "block/formats/qcow2/snapshots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kEntryHeaderBytes = 40;
constexpr uint32_t kKnownExtraBytes = 24;
constexpr uint64_t kNoIcount = UINT64_MAX;

void append(std::vector<std::byte>& out, const void* bytes, std::size_t length) {
  const auto* from = static_cast<const std::byte*>(bytes);
  out.insert(out.end(), from, from + length);
}

template <typename T>
void append_be(std::vector<std::byte>& out, T value) {
  std::byte bytes[sizeof(T)];
  store_be<T>(bytes, value);
  append(out, bytes, sizeof(bytes));
}

// `hint` is for people: the error itself stays as clients know it.
std::unexpected<Error> fail_advising(std::string description, std::string hint) {
  Error error(std::move(description));
  error.hint = std::move(hint);
  return std::unexpected(std::move(error));
}

std::unexpected<Error> unreadable(Errno error) {
  return fail(fmt::format("Failed to read snapshot table: {}", strerror_text(error)));
}

// Names end where C strings end.
std::string text_of(const char* bytes, std::size_t length) {
  return length == 0 ? std::string() : std::string(bytes, ::strnlen(bytes, length));
}

// The file around the entry that is looked at, whole pages of it: entries are small and may be
// many.
class Window {
 public:
  explicit Window(Storage& file) : file_(file) {}

  const std::byte* at(uint64_t offset) const { return bytes_.data() + (offset - begin_); }

  Task<Result<void>> hold(uint64_t offset, uint64_t length) {
    if (begin_ <= offset && offset + length <= begin_ + bytes_.size()) co_return Result<void>();
    begin_ = align_down(offset, kPageBytes);
    bytes_.resize(align_up(offset + length, kPageBytes) - begin_);
    co_return co_await file_.read(begin_, IoVector(bytes_.data(), bytes_.size()));
  }

 private:
  static constexpr uint64_t kPageBytes = 4096;

  Storage& file_;
  uint64_t begin_ = 0;
  std::vector<std::byte> bytes_;
};

}  // namespace

Task<Expected<SnapshotTable>> load_snapshots(Storage& file, const Header& header) {
  SnapshotTable table;
  uint64_t position = header.snapshots_offset;
  // The header's checks bound the count.
  table.snapshots.reserve(header.snapshot_count);
  Window window(file);
  for (uint32_t i = 0; i < header.snapshot_count; ++i) {
    position = align_up(position, 8);
    if (auto read = co_await window.hold(position, kEntryHeaderBytes); !read) {
      co_return unreadable(read.error());
    }
    const std::byte* const entry = window.at(position);
    position += kEntryHeaderBytes;
    Snapshot& snapshot = table.snapshots.emplace_back();
    snapshot.l1_offset = load_be64(entry);
    snapshot.l1_size = load_be<uint32_t>(entry + 8);
    const uint32_t id_bytes = load_be<uint16_t>(entry + 12);
    const uint32_t name_bytes = load_be<uint16_t>(entry + 14);
    snapshot.seconds = load_be<uint32_t>(entry + 16);
    snapshot.nanoseconds = load_be<uint32_t>(entry + 20);
    snapshot.vm_clock_ns = load_be64(entry + 24);
    snapshot.vm_state_size = load_be<uint32_t>(entry + 32);
    const uint32_t extra_bytes = load_be<uint32_t>(entry + 36);
    if (extra_bytes > kMaxSnapshotExtraBytes) {
      co_return fail_advising(
          fmt::format("Too much extra metadata in snapshot table entry {}", i),
          "You can force-remove this extra metadata with qemu-img check -r all");
    }
    const uint64_t rest_bytes = uint64_t{extra_bytes} + id_bytes + name_bytes;
    if (auto read = co_await window.hold(position, rest_bytes); !read) {
      co_return unreadable(read.error());
    }
    const std::byte* const rest = window.at(position);
    position += rest_bytes;
    if (position - header.snapshots_offset > kMaxSnapshotTableBytes) {
      co_return fail_advising(
          "Snapshot table is too big",
          fmt::format("You can force-remove all {} overhanging snapshots with qemu-img "
                      "check -r all",
                      header.snapshot_count - i));
    }
    if (extra_bytes >= 8) snapshot.vm_state_size = load_be64(rest);
    if (extra_bytes >= 16) snapshot.disk_size = load_be64(rest + 8);
    if (extra_bytes >= 24 && load_be64(rest + 16) != kNoIcount) {
      snapshot.icount = load_be64(rest + 16);
    }
    if (extra_bytes > kKnownExtraBytes) {
      snapshot.unknown_extra.assign(rest + kKnownExtraBytes, rest + extra_bytes);
    }
    const char* const text = reinterpret_cast<const char*>(rest) + extra_bytes;
    snapshot.id = text_of(text, id_bytes);
    snapshot.name = text_of(text + id_bytes, name_bytes);
  }
  table.bytes = position - header.snapshots_offset;
  co_return table;
}

std::vector<std::byte> serialise_snapshots(const std::vector<Snapshot>& snapshots,
                                           uint64_t disk_size) {
  std::vector<std::byte> out;
  for (const Snapshot& s : snapshots) {
    out.resize(align_up(out.size(), 8));
    append_be<uint64_t>(out, s.l1_offset);
    append_be<uint32_t>(out, s.l1_size);
    append_be<uint16_t>(out, static_cast<uint16_t>(s.id.size()));
    append_be<uint16_t>(out, static_cast<uint16_t>(s.name.size()));
    append_be<uint32_t>(out, s.seconds);
    append_be<uint32_t>(out, s.nanoseconds);
    append_be<uint64_t>(out, s.vm_clock_ns);
    append_be<uint32_t>(out,
                        s.vm_state_size > UINT32_MAX ? 0 : static_cast<uint32_t>(s.vm_state_size));
    append_be<uint32_t>(out, kKnownExtraBytes + static_cast<uint32_t>(s.unknown_extra.size()));
    append_be<uint64_t>(out, s.vm_state_size);
    append_be<uint64_t>(out, s.disk_size.value_or(disk_size));
    append_be<uint64_t>(out, s.icount.value_or(kNoIcount));
    append(out, s.unknown_extra.data(), s.unknown_extra.size());
    append(out, s.id.data(), s.id.size());
    append(out, s.name.data(), s.name.size());
  }
  return out;
}

Expected<void> check_l1(const Geometry& geometry, const Snapshot& snapshot) {
  if (snapshot.l1_size > kMaxL1Bytes / 8) return fail("Snapshot L1 table too large");
  if (geometry.in_cluster(snapshot.l1_offset) != 0) return fail("Snapshot L1 table offset invalid");
  return {};
}

std::string next_snapshot_id(const std::vector<Snapshot>& snapshots) {
  unsigned long highest = 0;
  for (const Snapshot& s : snapshots) {
    highest = std::max(highest, std::strtoul(s.id.c_str(), nullptr, 10));
  }
  return fmt::format("{}", highest + 1);
}

}  // namespace blockbed::qcow2
