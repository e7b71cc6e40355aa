#include "tests/qcow2/image_fixture.h"

#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/repair.h"

namespace blockbed::qcow2::test {

MetadataOptions writable_options() {
  MetadataOptions options;
  options.writable = true;
  return options;
}

Task<Expected<std::unique_ptr<OpenedImage>>> open_image(Env& env, std::string path,
                                                        MetadataOptions options,
                                                        std::vector<std::byte> backing,
                                                        std::string data_path,
                                                        std::string backing_path) {
  auto opened = std::make_unique<OpenedImage>();
  const auto failed = [&opened](auto error) -> Task<Expected<std::unique_ptr<OpenedImage>>> {
    co_await opened->close_files();
    co_return fail(std::move(error));
  };
  FileOpenOptions how;
  how.write = options.writable;
  auto file = co_await env.open_file(path, how);
  if (!file) co_return co_await failed(strerror_text(file.error()));
  opened->file = std::move(*file);
  opened->storage = std::make_unique<FileStorage>(*opened->file);
  if (!data_path.empty()) {
    auto data = co_await env.open_file(data_path, how);
    if (!data) co_return co_await failed(strerror_text(data.error()));
    opened->data_file = std::move(*data);
    opened->data_storage = std::make_unique<FileStorage>(*opened->data_file);
  }
  Backing* shown = &opened->backing;
  opened->backing.bytes = std::move(backing);
  if (!backing_path.empty()) {
    auto base = co_await env.open_file(backing_path, FileOpenOptions());
    if (!base) co_return co_await failed(strerror_text(base.error()));
    opened->backing_file = std::move(*base);
    auto info = co_await opened->backing_file->info();
    if (!info) co_return co_await failed(strerror_text(info.error()));
    opened->file_backing = std::make_unique<FileBacking>(*opened->backing_file, info->size);
    shown = opened->file_backing.get();
  }
  auto header = co_await read_header(*opened->storage, options.writable);
  if (!header) co_return co_await failed(header.error());
  opened->image = std::make_unique<Image>(env, *opened->storage, opened->data_storage.get(), *shown,
                                          std::move(*header), options);
  auto loaded = co_await opened->image->open();
  if (loaded) co_return opened;
  opened->image.reset();
  co_return co_await failed(loaded.error());
}

Task<Expected<void>> create_image(Env& env, std::string path, CreateOptions options,
                                  std::string data_path, bool over) {
  FileOpenOptions how;
  how.write = true;
  how.create = true;
  how.truncate = !over;
  auto file = co_await env.open_file(path, how);
  if (!file) co_return fail(strerror_text(file.error()));
  FileStorage storage(**file);
  std::unique_ptr<File> data_file;
  std::unique_ptr<FileStorage> data;
  Expected<void> made;
  if (!data_path.empty()) {
    auto opened = co_await env.open_file(data_path, how);
    if (opened) {
      data_file = std::move(*opened);
      data = std::make_unique<FileStorage>(*data_file);
    } else {
      made = fail(strerror_text(opened.error()));
    }
  }
  if (made) made = co_await create(env, storage, data.get(), options);
  for (FileStorage* each : {&storage, data.get()}) {
    if (each == nullptr) continue;
    auto flushed = co_await each->flush();
    if (made && !flushed) made = fail(strerror_text(flushed.error()));
  }
  (void)co_await (*file)->close();
  if (data_file) (void)co_await data_file->close();
  co_return made;
}

Task<void> expect_sound(Env& env, std::string path, bool clean) {
  FileOpenOptions how;
  how.write = true;
  auto file = co_await env.open_file(path, how);
  EXPECT_TRUE(file.has_value()) << path;
  if (!file) co_return;
  {
    FileStorage storage(**file);
    auto header = co_await read_header(storage, true);
    EXPECT_TRUE(header.has_value()) << path << ": " << header.error().description;
    if (header) {
      const bool dirty = header->has(incompatible::kDirty);
      EXPECT_FALSE(dirty && clean) << path;
      if (dirty) EXPECT_TRUE((co_await repair_counts(storage, *header)).has_value()) << path;
      auto report = co_await check_image(storage, *header);
      EXPECT_TRUE(report.has_value()) << path;
      if (report) {
        EXPECT_EQ(report->corruptions, 0u) << path << ": " << report->describe();
        if (clean) EXPECT_TRUE(report->clean()) << path << ": " << report->describe();
      }
    }
  }
  (void)co_await (*file)->close();
}

}  // namespace blockbed::qcow2::test
