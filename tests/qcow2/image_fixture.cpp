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
                                                        std::string data_path) {
  auto opened = std::make_unique<OpenedImage>();
  FileOpenOptions how;
  how.write = options.writable;
  auto file = co_await env.open_file(path, how);
  if (!file) co_return fail(strerror_text(file.error()));
  opened->file = std::move(*file);
  opened->storage = std::make_unique<FileStorage>(*opened->file);
  if (!data_path.empty()) {
    auto data = co_await env.open_file(data_path, how);
    if (!data) co_return fail(strerror_text(data.error()));
    opened->data_file = std::move(*data);
    opened->data_storage = std::make_unique<FileStorage>(*opened->data_file);
  }
  opened->backing.bytes = std::move(backing);
  auto header = co_await read_header(*opened->storage, options.writable);
  if (header) {
    opened->image = std::make_unique<Image>(env, *opened->storage, opened->data_storage.get(),
                                            opened->backing, std::move(*header), options);
    auto loaded = co_await opened->image->open();
    if (loaded) co_return opened;
    co_await opened->abandon();
    co_return fail(loaded.error());
  }
  (void)co_await opened->file->close();
  co_return fail(header.error());
}

Task<Expected<void>> create_image(Env& env, std::string path, CreateOptions options,
                                  std::string data_path) {
  FileOpenOptions how;
  how.write = true;
  how.create = true;
  how.truncate = true;
  auto file = co_await env.open_file(path, how);
  if (!file) co_return fail(strerror_text(file.error()));
  FileStorage storage(**file);
  std::unique_ptr<File> data_file;
  std::unique_ptr<FileStorage> data;
  if (!data_path.empty()) {
    auto opened = co_await env.open_file(data_path, how);
    if (!opened) co_return fail(strerror_text(opened.error()));
    data_file = std::move(*opened);
    data = std::make_unique<FileStorage>(*data_file);
  }
  auto made = co_await create(env, storage, data.get(), options);
  (void)co_await storage.flush();
  if (data) (void)co_await data->flush();
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
