// A disk in memory for tests: alignment, limits and failures as the test says, and requests that
// wait until the test lets them go. It is opened under the name of a real driver ("null-co" by
// default) so that schema options reach it.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "block/graph/driver.h"
#include "block/graph/graph.h"
#include "block/runtime/env.h"
#include "block/runtime/event_sink.h"
#include "schema/blockdev_options.h"

namespace blockbed::test {

struct MemoryDisk {
  std::vector<std::byte> bytes;
  uint32_t alignment = 1;
  uint64_t max_transfer = 0;
  bool zero_supported = true;
  // Non-zero: the next request of that kind fails so.
  int next_read_error = 0;
  int next_write_error = 0;
  // Told of each read and its length.
  std::function<void(uint64_t)> on_read;
  // When set, requests wait here before they touch the bytes.
  Event* hold = nullptr;

  uint64_t reads = 0, writes = 0, zeroes = 0, flushes = 0, discards = 0;
  // Of the zeroes: those that may give space back.
  uint64_t unmapping_zeroes = 0;
  uint64_t compressed_writes = 0;
  uint64_t largest_request = 0;
};

class MemoryDriver final : public Driver {
 public:
  MemoryDriver(Node& node, MemoryDisk& disk) : Driver(node), disk_(disk) {}

  std::string_view name() const override { return "null-co"; }
  bool is_protocol() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags) override {
    check(offset, buffers.size());
    ++disk_.reads;
    if (disk_.on_read) disk_.on_read(buffers.size());
    disk_.largest_request = std::max<uint64_t>(disk_.largest_request, buffers.size());
    if (disk_.hold != nullptr) co_await disk_.hold->wait();
    if (const int error = std::exchange(disk_.next_read_error, 0)) co_return io_error(error);
    buffers.copy_from(disk_.bytes.data() + offset);
    co_return Result<void>();
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags) override {
    check(offset, buffers.size());
    ++disk_.writes;
    disk_.largest_request = std::max<uint64_t>(disk_.largest_request, buffers.size());
    if (disk_.hold != nullptr) co_await disk_.hold->wait();
    if (const int error = std::exchange(disk_.next_write_error, 0)) co_return io_error(error);
    buffers.copy_to(disk_.bytes.data() + offset);
    co_return Result<void>();
  }
  Task<Result<void>> write_compressed(uint64_t offset, IoVector buffers) override {
    ++disk_.compressed_writes;
    return write(offset, std::move(buffers), {});
  }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override {
    if (!disk_.zero_supported) co_return io_error(ENOTSUP);
    check(offset, length);
    ++disk_.zeroes;
    if (flags.may_unmap) ++disk_.unmapping_zeroes;
    std::memset(disk_.bytes.data() + offset, 0, length);
    co_return Result<void>();
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override {
    check(offset, length);
    ++disk_.discards;
    co_return Result<void>();
  }
  Task<Result<void>> flush_to_disk() override {
    ++disk_.flushes;
    co_return Result<void>();
  }
  Task<Result<uint64_t>> length() override { co_return disk_.bytes.size(); }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions) override {
    disk_.bytes.resize(length);
    co_return Expected<void>();
  }
  void refresh_limits(BlockLimits& limits) const override {
    limits.request_alignment = disk_.alignment;
    limits.max_transfer = disk_.max_transfer;
  }
  bool can_reopen() const override { return true; }
  Task<void> close() override { co_return; }

 private:
  void check(uint64_t offset, uint64_t length) {
    BB_ASSERT(offset % disk_.alignment == 0 && length % disk_.alignment == 0);
    BB_ASSERT(offset + length <= disk_.bytes.size());
  }

  MemoryDisk& disk_;
};

inline DriverEntry memory_entry(MemoryDisk& disk, std::string name = "null-co") {
  DriverEntry entry;
  entry.name = std::move(name);
  entry.is_protocol = true;
  entry.open = [&disk](OpenContext& context,
                       const schema::BlockdevOptions&) -> Task<Expected<std::unique_ptr<Driver>>> {
    co_return std::make_unique<MemoryDriver>(context.node(), disk);
  };
  return entry;
}

// A format over its file, which is told the script of the test.
template <class Format, class Script>
DriverEntry scripted_entry(std::string name, Script& script) {
  DriverEntry entry;
  entry.name = std::move(name);
  entry.open = [&script](
                   OpenContext& context,
                   const schema::BlockdevOptions&) -> Task<Expected<std::unique_ptr<Driver>>> {
    auto file = co_await context.open_child("file", kImageRoles);
    if (!file) co_return fail(std::move(file).error());
    co_return std::make_unique<Format>(context.node(), **file, script);
  };
  return entry;
}

struct RecordedEvents final : EventSink {
  using EventSink::emit;
  void emit(std::string_view event, json::Value data) override {
    events.emplace_back(event, std::move(data));
  }
  std::vector<std::pair<std::string, json::Value>> events;
};

}  // namespace blockbed::test
