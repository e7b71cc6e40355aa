#include "block/protocols/image_locks.h"

#include <fmt/format.h>

namespace blockbed {

namespace {

constexpr uint64_t kUsedBase = 100;
constexpr uint64_t kUnsharedBase = 200;

constexpr Permission bit(int n) { return static_cast<Permission>(1u << n); }

}  // namespace

Error ImageLocks::conflict(const char* pattern, Permission permission) const {
  Error error(fmt::format(fmt::runtime(pattern), permission_words(permission)));
  error.hint = fmt::format("Is another process using the image [{}]?", filename_);
  return error;
}

Expected<void> ImageLocks::take(Permissions used, Permissions unshared) {
  for (int n = 0; n < kPermissionCount; ++n) {
    const auto lock = [&](uint64_t base) -> Expected<void> {
      const uint64_t byte = base + static_cast<uint64_t>(n);
      const auto taken = file_.try_lock_shared(byte, 1);
      if (taken && *taken) return {};
      Error error("Failed to lock byte " + std::to_string(byte));
      error.hint = fmt::format("Is another process using the image [{}]?", filename_);
      return fail(std::move(error));
    };
    if (used.has(bit(n)) && !held_used_.has(bit(n))) {
      BB_TRY(lock(kUsedBase));
      held_used_ |= bit(n);
    }
    if (unshared.has(bit(n)) && !held_unshared_.has(bit(n))) {
      BB_TRY(lock(kUnsharedBase));
      held_unshared_ |= bit(n);
    }
  }
  return {};
}

void ImageLocks::give_back(Permissions used, Permissions unshared) {
  for (int n = 0; n < kPermissionCount; ++n) {
    // A lock that cannot be given back stays until the file is closed: safe, if unkind.
    if (used.has(bit(n))) (void)file_.unlock(kUsedBase + static_cast<uint64_t>(n), 1);
    if (unshared.has(bit(n))) (void)file_.unlock(kUnsharedBase + static_cast<uint64_t>(n), 1);
  }
  held_used_ = held_used_ - used;
  held_unshared_ = held_unshared_ - unshared;
}

Expected<void> ImageLocks::prepare(Permissions needs, Permissions shares) {
  const Permissions unshared = Permissions::all() - shares;
  const auto attempt = [&]() -> Expected<void> {
    BB_TRY(take(needs, unshared));
    for (int n = 0; n < kPermissionCount; ++n) {
      if (needs.has(bit(n)) && !used_.has(bit(n))) {
        const auto refused = file_.is_locked_by_others(kUnsharedBase + static_cast<uint64_t>(n), 1);
        if (!refused || *refused) return fail(conflict("Failed to get \"{}\" lock", bit(n)));
      }
      if (unshared.has(bit(n)) && !unshared_.has(bit(n))) {
        const auto in_use = file_.is_locked_by_others(kUsedBase + static_cast<uint64_t>(n), 1);
        if (!in_use || *in_use) return fail(conflict("Failed to get shared \"{}\" lock", bit(n)));
      }
    }
    return {};
  };
  Expected<void> result = attempt();
  if (!result) abort();
  return result;
}

Expected<void> ImageLocks::take_over(Permissions needs, Permissions shares) {
  return take(needs, Permissions::all() - shares);
}

void ImageLocks::commit(Permissions needs, Permissions shares) {
  used_ = needs;
  unshared_ = Permissions::all() - shares;
  give_back(held_used_ - used_, held_unshared_ - unshared_);
}

void ImageLocks::abort() { give_back(held_used_ - used_, held_unshared_ - unshared_); }

}  // namespace blockbed
