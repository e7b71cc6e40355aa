// CacheCleaner: what `cache-clean-interval` asks for: pieces of tables that nobody used for a while
// give their memory back.
//
// Contract: once every interval the caches of the image forget what is clean and was not used
// since the time before. start() and stop() alternate; an interval of 0 starts nothing. `image` may
// be replaced between stop() and start() only. It dies stopped.
// Units: seconds. Threading: engine thread only.
// Source of the rule: QEMU 7.2's option of that name, 600 seconds by default.
#pragma once

#include <cstdint>
#include <memory>

#include "block/formats/qcow2/image.h"
#include "block/runtime/env.h"
#include "block/runtime/gate.h"

namespace blockbed::qcow2 {

inline constexpr uint32_t kDefaultCacheCleanSeconds = 600;

class CacheCleaner {
 public:
  explicit CacheCleaner(Env& env) : env_(env), gate_(env.executor()) {}

  void start(Image& image, uint32_t seconds);
  Task<void> stop();

 private:
  Task<void> run(Image& image, int64_t interval_ns);

  Env& env_;
  Gate gate_;
  std::unique_ptr<Timer> timer_;
  bool stopping_ = false;
};

}  // namespace blockbed::qcow2
