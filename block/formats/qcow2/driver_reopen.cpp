// Qcow2Driver: between reading and writing, and emptying.
#include "block/formats/qcow2/driver.h"
#include "block/formats/qcow2/open.h"
#include "block/runtime/env.h"

namespace blockbed::qcow2 {

Task<Expected<void>> Qcow2Driver::load_again(bool writable) {
  auto header = co_await read_header(*file_, writable);
  if (!header) co_return fail(std::move(header).error());
  if (writable && header->has(incompatible::kDirty)) {
    // Its counts are not to be trusted, and cannot be put right while the file is for reading.
    co_return fail("Could not repair dirty image: it is open for reading only");
  }
  std::vector<StoredBitmap> bitmaps;
  if (header->bitmaps) {
    auto loaded = co_await load_directory(*file_, *header);
    if (!loaded) co_return fail(std::move(loaded).error());
    bitmaps = std::move(*loaded);
  }
  MetadataOptions options = image_->metadata().options();
  options.writable = writable;
  auto image = std::make_unique<Image>(node().env(), *file_, data_.get(), backing_,
                                       std::move(*header), options);
  image->metadata().on_corruption = [this](const Corruption& c) { corrupted(c); };
  BB_CO_TRY(co_await image->open());
  co_await cleaner_.stop();
  image_ = std::move(image);
  cleaner_.start(*image_, options.cache_clean_seconds);
  bitmaps_ = std::move(bitmaps);
  co_return Expected<void>();
}

Task<Expected<void>> Qcow2Driver::prepare_writing() { co_return co_await load_again(true); }

Task<Expected<void>> Qcow2Driver::finish_writing() {
  if (auto closed = co_await image_->close(); !closed)
    co_return fail(strerror_text(closed.error()));
  co_return co_await load_again(false);
}

Task<Result<void>> Qcow2Driver::make_empty() { return image_->make_empty(); }

}  // namespace blockbed::qcow2
