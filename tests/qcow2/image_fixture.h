// Images over the files of an Env, without a graph: what the tests of the format stand on.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "block/formats/qcow2/create.h"
#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/storage.h"
#include "block/runtime/env.h"
#include "block/runtime/file.h"

namespace blockbed::qcow2::test {

// As ==, which takes one byte after the other.
inline bool same_bytes(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

class FileStorage final : public Storage {
 public:
  explicit FileStorage(File& file) : file_(file) {}

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    ++reads;
    return file_.read(offset, std::move(buffers));
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override {
    ++writes;
    return file_.write(offset, std::move(buffers));
  }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override {
    return file_.zero(offset, length, flags.may_unmap);
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override {
    discarded += length;
    return file_.discard(offset, length);
  }
  Task<Result<void>> flush() override {
    ++flushes;
    return file_.flush();
  }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override {
    const FilePreallocation how =
        options.preallocation == Preallocation::kFull     ? FilePreallocation::kFull
        : options.preallocation == Preallocation::kFalloc ? FilePreallocation::kFalloc
                                                          : FilePreallocation::kOff;
    auto done = co_await file_.truncate(length, how);
    if (!done) co_return fail(strerror_text(done.error()));
    co_return Expected<void>();
  }
  Task<Result<void>> copy_from(File& source, uint64_t source_offset, uint64_t offset,
                               uint64_t length) override {
    return file_.copy_from(source, source_offset, offset, length);
  }
  Task<Result<uint64_t>> length() override {
    auto info = co_await file_.info();
    if (!info) co_return io_error(info.error());
    co_return info->size;
  }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length) override {
    auto extent = co_await file_.extent(offset, length);
    if (!extent) co_return io_error(extent.error());
    BlockStatus status;
    status.length = extent->length;
    status.zero = !extent->data;
    co_return status;
  }
  bool new_space_reads_zero() const override { return zero_init; }

  bool zero_init = true;
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t flushes = 0;
  // Bytes.
  uint64_t discarded = 0;

 private:
  File& file_;
};

// A backing file held in memory.
class MemoryBacking final : public Backing {
 public:
  std::vector<std::byte> bytes;
  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    buffers.copy_from(bytes.data() + offset);
    co_return Result<void>();
  }
  uint64_t length() const override { return bytes.size(); }
  Task<bool> reads_zero(uint64_t offset, uint64_t length) override {
    const uint64_t end = std::min<uint64_t>(offset + length, bytes.size());
    co_return offset >= end || all_zero(bytes.data() + offset, end - offset);
  }
};

// One that is a file of the Env.
class FileBacking final : public Backing {
 public:
  FileBacking(File& file, uint64_t length) : file_(file), length_(length) {}
  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    return file_.read(offset, std::move(buffers));
  }
  uint64_t length() const override { return length_; }
  Task<bool> reads_zero(uint64_t offset, uint64_t length) override {
    co_return length == 0 || offset >= length_;
  }

 private:
  File& file_;
  uint64_t length_;
};

// An image and all it stands on. close() before it dies.
struct OpenedImage {
  std::unique_ptr<File> file;
  std::unique_ptr<FileStorage> storage;
  std::unique_ptr<File> data_file;
  std::unique_ptr<FileStorage> data_storage;
  MemoryBacking backing;
  std::unique_ptr<File> backing_file;
  std::unique_ptr<FileBacking> file_backing;
  std::unique_ptr<Image> image;

  Task<Result<void>> close() {
    auto done = co_await image->close();
    image.reset();
    if (done) done = co_await storage->flush();
    if (data_storage && done) done = co_await data_storage->flush();
    co_await close_files();
    co_return done;
  }
  // The process died: nothing more is written.
  Task<void> abandon() {
    image.reset();
    co_await close_files();
  }
  Task<void> close_files() {
    for (File* each : {file.get(), data_file.get(), backing_file.get()}) {
      if (each != nullptr) (void)co_await each->close();
    }
  }
};

// What shows through is `backing`, or the file at `backing_path`.
Task<Expected<std::unique_ptr<OpenedImage>>> open_image(Env& env, std::string path,
                                                        MetadataOptions options,
                                                        std::vector<std::byte> backing = {},
                                                        std::string data_path = {},
                                                        std::string backing_path = {});
// `over`: over what the files hold, which are not cut.
Task<Expected<void>> create_image(Env& env, std::string path, CreateOptions options,
                                  std::string data_path = {}, bool over = false);
MetadataOptions writable_options();

// What is in the file is an image without corruptions, after its counts are made good if it is
// marked dirty; `clean`: it is not, and not even a cluster is lost.
Task<void> expect_sound(Env& env, std::string path, bool clean);

}  // namespace blockbed::qcow2::test
