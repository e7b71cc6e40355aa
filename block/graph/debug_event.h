// DebugEvent: the places in the block layer at which blkdebug can act.
//
// Problem: a test wants "the write of the L2 table" to fail or to stand still, whichever request it
// is. So whoever sends a request to its child says first what it is for, and a blkdebug node that
// is the child listens.
//
// Contract
//  - `co_await edge.debug_event(DebugEvent::kL2Load)` before the request. Without a listener this
//    is the test of one pointer; with one, rules are looked at, and the caller may stand still
//    until somebody resumes it by the name of a breakpoint.
//  - Only the node right behind the edge is told; filters pass nothing on.
//  - The order of the enumerators is that of BlkdebugEvent in the schema (blkdebug.cpp asserts it).
// Source of the rule: the behaviour of QEMU 7.2 with blkdebug.
// Threading: engine thread only.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "block/runtime/result.h"
#include "block/runtime/sync.h"

namespace blockbed {

enum class DebugEvent : uint8_t {
  kL1Update,
  kL1GrowAllocTable,
  kL1GrowWriteTable,
  kL1GrowActivateTable,
  kL2Load,
  kL2Update,
  kL2UpdateCompressed,
  kL2AllocCowRead,
  kL2AllocWrite,
  kReadAio,
  kReadBackingAio,
  kReadCompressed,
  kWriteAio,
  kWriteCompressed,
  kVmstateLoad,
  kVmstateSave,
  kCowRead,
  kCowWrite,
  kReftableLoad,
  kReftableGrow,
  kReftableUpdate,
  kRefblockLoad,
  kRefblockUpdate,
  kRefblockUpdatePart,
  kRefblockAlloc,
  kRefblockAllocHookup,
  kRefblockAllocWrite,
  kRefblockAllocWriteBlocks,
  kRefblockAllocWriteTable,
  kRefblockAllocSwitchTable,
  kClusterAlloc,
  kClusterAllocBytes,
  kClusterFree,
  kFlushToOs,
  kFlushToDisk,
  kPwritevRmwHead,
  kPwritevRmwAfterHead,
  kPwritevRmwTail,
  kPwritevRmwAfterTail,
  kPwritev,
  kPwritevZero,
  kPwritevDone,
  kEmptyImagePrepare,
  kL1ShrinkWriteTable,
  kL1ShrinkFreeL2Clusters,
  kCorWrite,
  kClusterAllocSpace,
  kNone,
};
inline constexpr std::size_t kDebugEvents = static_cast<std::size_t>(DebugEvent::kNone) + 1;

class DebugPoint;

// Who is told of events, and the breakpoints that a person sets there.
class DebugListener {
 public:
  using Print = std::function<void(std::string_view)>;

  // True: the listener keeps `point` and resumes it later.
  virtual bool debug_event(DebugEvent event, DebugPoint& point) = 0;

  // The next request that comes to the event stands still under the name `tag`. ENOENT: no such
  // event. `print` is told when requests stop and go on.
  virtual Result<void> set_breakpoint(std::string_view event, std::string tag, Print print) = 0;
  // Breakpoints of that name are forgotten and what stands still under it goes on. ENOENT: there
  // was no such breakpoint.
  virtual Result<void> remove_breakpoint(std::string_view tag) = 0;
  // One request goes on, the last one first. ENOENT: none stands still under that name.
  virtual Result<void> resume(std::string_view tag) = 0;
  virtual bool is_suspended(std::string_view tag) const = 0;
  // Everything goes on; a drained section must not wait for a person.
  virtual void resume_all() = 0;
  // Wakes when a request has come to stand still.
  virtual WaitQueue& suspensions() = 0;

 protected:
  ~DebugListener() = default;
};

// What debug_event() of edges and storages returns: awaited at once.
class [[nodiscard]] DebugPoint {
 public:
  DebugPoint(DebugListener* listener, DebugEvent event) : listener_(listener), event_(event) {}
  DebugPoint(const DebugPoint&) = delete;
  DebugPoint& operator=(const DebugPoint&) = delete;

  bool await_ready() {
    if (listener_ == nullptr) [[likely]]
      return true;
    return !listener_->debug_event(event_, *this);
  }
  void await_suspend(std::coroutine_handle<> waiting) { coroutine_ = waiting; }
  void await_resume() const noexcept {}

  // --- for the listener. A request that several breakpoints hit goes on when each was resumed.
  void hold() { ++holds_; }
  // True: it was the last one, and coroutine() is to be posted.
  bool release() { return --holds_ == 0; }
  std::coroutine_handle<> coroutine() const { return coroutine_; }

 private:
  DebugListener* listener_;
  DebugEvent event_;
  int holds_ = 0;
  std::coroutine_handle<> coroutine_;
};

}  // namespace blockbed
