// DebugRules: which request fails or stands still, and when.
//
// Problem: a test describes one moment among thousands of requests: "the second write of an L2
// table fails with ENOSPC, once". Rules are bound to events, and a state, which rules change, tells
// moments apart.
//
// Contract
//  - At an event, all error rules of that event whose state fits become the active ones, in place
//    of those before; an event without such a rule leaves the active ones as they are. Then the
//    first matching set-state rule changes the state. Rules of event `none` become active at
//    start().
//  - check() asks for each request: the first active rule whose kind of request and sector fit
//    decides. A rule with error 0 lets the request pass, and hides those after it.
//  - A breakpoint takes one request; one that several breakpoints of an event take goes on when all
//    were resumed.
// Source of the rules: qemu-io 7.2 with blkdebug, tried out. Units: bytes, sectors of 512.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/debug_event.h"
#include "block/runtime/executor.h"
#include "block/runtime/result.h"
#include "block/runtime/sync.h"

namespace blockbed {

enum class DebugIo : uint8_t { kRead, kWrite, kZero, kDiscard, kFlush, kStatus };
constexpr uint32_t debug_io_bit(DebugIo io) { return 1u << static_cast<uint32_t>(io); }
// What a rule without `iotype` concerns: everything but questions for the state of blocks.
inline constexpr uint32_t kDefaultDebugIo = debug_io_bit(DebugIo::kStatus) - 1;

struct InjectErrorRule {
  DebugEvent event = DebugEvent::kNone;
  // 0: any.
  int state = 0;
  uint32_t io = kDefaultDebugIo;
  // 0 and less: no error.
  int error = 0;
  // Negative: any request.
  int64_t sector = -1;
  bool once = false;
  // Fails without giving others a turn.
  bool immediately = false;
};

struct SetStateRule {
  DebugEvent event = DebugEvent::kNone;
  int state = 0;
  int new_state = 0;
};

class DebugRules final : public DebugListener {
 public:
  // More than any test sets; each is memory that a client makes us hold.
  static constexpr std::size_t kMaxBreakpoints = 4096;

  // While `passing` says so, breakpoints take nobody.
  DebugRules(Executor& executor, std::function<bool()> passing)
      : executor_(executor), passing_(std::move(passing)), suspensions_(executor) {}
  DebugRules(const DebugRules&) = delete;
  DebugRules& operator=(const DebugRules&) = delete;
  ~DebugRules();

  void add(InjectErrorRule rule);
  void add(SetStateRule rule) { set_state_.push_back(rule); }
  void start() { activate(DebugEvent::kNone); }

  struct Fault {
    int error = 0;
    bool immediately = false;
  };
  std::optional<Fault> check(DebugIo io, uint64_t offset, uint64_t length);
  int state() const { return state_; }

  bool debug_event(DebugEvent event, DebugPoint& point) override;
  Result<void> set_breakpoint(std::string_view event, std::string tag, Print print) override;
  Result<void> remove_breakpoint(std::string_view tag) override;
  Result<void> resume(std::string_view tag) override;
  bool is_suspended(std::string_view tag) const override;
  void resume_all() override;
  WaitQueue& suspensions() override { return suspensions_; }

 private:
  struct Breakpoint {
    DebugEvent event;
    std::string tag;
    Print print;
  };
  struct Suspended {
    DebugPoint* point;
    std::string tag;
    Print print;
  };

  void activate(DebugEvent event);
  void go_on(std::list<Suspended>::iterator place);

  Executor& executor_;
  std::function<bool()> passing_;
  std::vector<InjectErrorRule> inject_;
  std::vector<SetStateRule> set_state_;
  // Of inject_.
  std::vector<std::size_t> active_;
  std::vector<bool> used_up_;
  int state_ = 1;
  // The one set last is the first to stop a request.
  std::list<Breakpoint> breakpoints_;
  // The last one to stop is the first.
  std::list<Suspended> suspended_;
  WaitQueue suspensions_;
};

// The event of that name: "l2_load".
std::optional<DebugEvent> parse_debug_event(std::string_view name);
std::optional<DebugIo> parse_debug_io(std::string_view name);

}  // namespace blockbed
