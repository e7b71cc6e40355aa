// Qcow2Driver: with other options, between reading and writing, repaired for writing, and emptied.
#include "block/formats/qcow2/driver.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/options.h"
#include "block/formats/qcow2/snapshot_reader.h"
#include "block/graph/reopen.h"
#include "block/runtime/env.h"

namespace blockbed::qcow2 {

std::span<const std::string_view> Qcow2Driver::changeable_options() const {
  static constexpr std::string_view kChangeable[] = {
      "lazy-refcounts",      "pass-discard-request", "pass-discard-snapshot", "pass-discard-other",
      "overlap-check",       "cache-size",           "l2-cache-size",         "l2-cache-entry-size",
      "refcount-cache-size", "cache-clean-interval", "discard-no-unref"};
  return kChangeable;
}

Expected<void> Qcow2Driver::check_options(const ReopenState& state) const {
  const auto& own = std::get<schema::BlockdevOptionsQcow2>(state.options.u);
  const Header& header = image_->header();
  auto options = parse_options(own, header, state.writable(), state.flags.unmap);
  if (!options) return fail(std::move(options).error());
  return check_encryption(own, header);
}

Task<Expected<void>> Qcow2Driver::reopen_prepare(const ReopenState& state) {
  const auto& own = std::get<schema::BlockdevOptionsQcow2>(state.options.u);
  auto options = parse_options(own, image_->header(), state.writable(), state.flags.unmap);
  if (!options) co_return fail(std::move(options).error());
  // Those that cannot be stored would be lost.
  const bool left = state.flags.read_only || (node().writable() && state.other_file != nullptr);
  if (left && !state.others_wrote) BB_CO_TRY(co_await store_bitmaps());
  if (*options == image_->metadata().options() && state.other_file == nullptr &&
      !state.others_wrote) {
    co_return Expected<void>();
  }
  // Their tables may not be there any more.
  if ((state.other_file != nullptr || state.others_wrote) && !readers_.empty()) {
    co_return fail(readers_.front()->describe());
  }
  // The other Image begins with what the file says; this one goes on from there if it must.
  if (auto closed = co_await image_->close(); !closed) {
    co_return fail(strerror_text(closed.error()));
  }
  file_->look_ahead(state.other_file);
  auto loaded = co_await load(*options, state);
  file_->look_ahead(nullptr);
  if (!loaded) co_return fail(std::move(loaded).error());
  // Only now is it known what they are.
  if (state.others_wrote) {
    BB_CO_TRY(co_await load_bitmaps(loaded->image->header(), loaded->directory));
  }
  other_ = std::move(*loaded);
  co_return Expected<void>();
}

Task<Expected<Qcow2Driver::Loaded>> Qcow2Driver::load(const MetadataOptions& options,
                                                      const ReopenState& state) {
  auto header = co_await read_header(*file_, options.writable);
  if (!header) co_return fail(std::move(header).error());
  if (state.others_wrote) tell_of_inconsistent_bitmaps(*header);
  if (options.writable && header->has(incompatible::kDirty)) {
    // Its counts are not to be trusted, and cannot be put right before the file is there to write.
    if (state.others_wrote) {
      BB_CO_TRY(co_await repair_if_dirty(*header));
    } else if (state.other_file != nullptr || !repaired_) {
      co_return fail("Could not repair dirty image: it is open for reading only");
    }
  }
  if (header->external_data() != (data_ != nullptr)) {
    co_return fail("'data-file' cannot come or go with another file");
  }
  Loaded loaded;
  auto directory = co_await load_directory(*file_, *header);
  if (!directory) co_return fail(std::move(directory).error());
  loaded.directory = std::move(*directory);
  loaded.image = std::make_unique<Image>(node().env(), *file_, data_.get(), backing_,
                                         std::move(*header), options);
  loaded.image->metadata().on_corruption = [this](const Corruption& c) { corrupted(c); };
  BB_CO_TRY(co_await loaded.image->open());
  co_return loaded;
}

bool Qcow2Driver::needs_repair() const {
  return !node().writable() && image_->header().has(incompatible::kDirty);
}

// What was read before is not what is there afterwards, whether it succeeds or not.
Task<Expected<void>> Qcow2Driver::repair() {
  if (!readers_.empty()) co_return fail(readers_.front()->describe());
  auto header = co_await read_header(*file_, HeaderUse::kWriting);
  if (!header) co_return fail(std::move(header).error());
  Expected<void> repaired = co_await repair_if_dirty(*header);
  auto loaded = co_await load(image_->metadata().options(), ReopenState());
  if (repaired && !loaded) repaired = fail(std::move(loaded).error());
  if (loaded) {
    co_await cleaner_.stop();
    image_ = std::move(loaded->image);
    directory_ = std::move(loaded->directory);
    cleaner_.start(*image_, image_->metadata().options().cache_clean_seconds);
  }
  repaired_ = repaired.has_value();
  co_return repaired;
}

void Qcow2Driver::reopen_commit() {
  if (!other_) return;
  std::swap(image_, other_->image);
  std::swap(directory_, other_->directory);
}

Task<void> Qcow2Driver::reopen_finish() {
  if (!other_) co_return;
  co_await cleaner_.stop();
  cleaner_.start(*image_, image_->metadata().options().cache_clean_seconds);
  other_.reset();
  // If that fails the first write tries again.
  if (node().writable()) (void)co_await mark_bitmaps();
}

Task<Result<void>> Qcow2Driver::make_empty() { return image_->make_empty(); }

}  // namespace blockbed::qcow2
