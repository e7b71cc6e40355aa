#include "block/runtime/env.h"

namespace blockbed {

Task<void> Env::sleep(int64_t nanoseconds) {
  const std::unique_ptr<Timer> timer = make_timer();
  co_await timer->wait_until(now() + nanoseconds);
}

}  // namespace blockbed
