#include "block/formats/qcow2/cache_cleaner.h"

namespace blockbed::qcow2 {

void CacheCleaner::start(Image& image, uint32_t seconds) {
  BB_ASSERT(gate_.inside() == 0);
  if (seconds == 0) return;
  constexpr int64_t kSecondNs = 1'000'000'000;
  if (timer_ == nullptr) timer_ = env_.make_timer();
  stopping_ = false;
  gate_.spawn(run(image, seconds * kSecondNs));
}

Task<void> CacheCleaner::run(Image& image, int64_t interval_ns) {
  while (!stopping_) {
    if (!co_await timer_->wait_until(env_.now() + interval_ns)) continue;
    image.metadata().l2_cache().trim();
    image.metadata().refcount_cache().trim();
  }
}

Task<void> CacheCleaner::stop() {
  stopping_ = true;
  if (timer_ != nullptr) timer_->cancel();
  co_await gate_.wait_idle();
}

}  // namespace blockbed::qcow2
