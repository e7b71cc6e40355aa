#include "block/filters/blkdebug_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "schema/blockdev_options.h"

namespace blockbed {

namespace {

constexpr int64_t kSector = 512;

static_assert(static_cast<std::size_t>(schema::BlkdebugEvent::kNone) + 1 == kDebugEvents);
static_assert(static_cast<int>(schema::BlkdebugEvent::kReadAio) ==
              static_cast<int>(DebugEvent::kReadAio));
static_assert(static_cast<int>(schema::BlkdebugEvent::kRefblockAllocSwitchTable) ==
              static_cast<int>(DebugEvent::kRefblockAllocSwitchTable));
static_assert(static_cast<int>(schema::BlkdebugEvent::kPwritevDone) ==
              static_cast<int>(DebugEvent::kPwritevDone));
static_assert(static_cast<int>(schema::BlkdebugEvent::kCorWrite) ==
              static_cast<int>(DebugEvent::kCorWrite));
static_assert(static_cast<int>(schema::BlkdebugIOType::kBlockStatus) ==
              static_cast<int>(DebugIo::kStatus));
static_assert(static_cast<int>(schema::BlkdebugIOType::kWriteZeroes) ==
              static_cast<int>(DebugIo::kZero));

}  // namespace

std::optional<DebugEvent> parse_debug_event(std::string_view name) {
  const auto event = schema::parse_blkdebug_event(name);
  if (!event) return std::nullopt;
  return static_cast<DebugEvent>(*event);
}

std::optional<DebugIo> parse_debug_io(std::string_view name) {
  const auto io = schema::parse_blkdebug_io_type(name);
  if (!io) return std::nullopt;
  return static_cast<DebugIo>(*io);
}

DebugRules::~DebugRules() { BB_ASSERT(suspended_.empty()); }

void DebugRules::add(InjectErrorRule rule) {
  inject_.push_back(rule);
  used_up_.push_back(false);
}

void DebugRules::activate(DebugEvent event) {
  bool first = true;
  for (std::size_t i = 0; i < inject_.size(); ++i) {
    const InjectErrorRule& rule = inject_[i];
    if (rule.event != event || used_up_[i] || (rule.state != 0 && rule.state != state_)) continue;
    if (first) active_.clear();
    first = false;
    active_.push_back(i);
  }
}

std::optional<DebugRules::Fault> DebugRules::check(DebugIo io, uint64_t offset, uint64_t length) {
  for (std::size_t place = 0; place < active_.size(); ++place) {
    const std::size_t number = active_[place];
    const InjectErrorRule& rule = inject_[number];
    if ((rule.io & debug_io_bit(io)) == 0) continue;
    if (rule.sector >= 0) {
      const uint64_t at = static_cast<uint64_t>(rule.sector) * kSector;
      if (at < offset || at - offset >= length) continue;
    }
    if (rule.error <= 0) return std::nullopt;
    if (rule.once) {
      used_up_[number] = true;
      active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(place));
    }
    return Fault{rule.error, rule.immediately};
  }
  return std::nullopt;
}

bool DebugRules::debug_event(DebugEvent event, DebugPoint& point) {
  activate(event);
  for (const SetStateRule& rule : set_state_) {
    if (rule.event != event || (rule.state != 0 && rule.state != state_)) continue;
    state_ = rule.new_state;
    break;
  }
  if (breakpoints_.empty() || passing_()) return false;
  bool stops = false;
  for (auto place = breakpoints_.begin(); place != breakpoints_.end();) {
    if (place->event != event) {
      ++place;
      continue;
    }
    stops = true;
    point.hold();
    if (place->print) place->print(fmt::format("blkdebug: Suspended request '{}'\n", place->tag));
    suspended_.push_front({&point, std::move(place->tag), std::move(place->print)});
    place = breakpoints_.erase(place);
  }
  if (stops) suspensions_.wake_all();
  return stops;
}

Result<void> DebugRules::set_breakpoint(std::string_view event, std::string tag, Print print) {
  const auto parsed = parse_debug_event(event);
  if (!parsed) return io_error(ENOENT);
  if (breakpoints_.size() >= kMaxBreakpoints) return io_error(ENOMEM);
  breakpoints_.push_front({*parsed, std::move(tag), std::move(print)});
  return {};
}

void DebugRules::go_on(std::list<Suspended>::iterator place) {
  if (place->print) place->print(fmt::format("blkdebug: Resuming request '{}'\n", place->tag));
  DebugPoint& point = *place->point;
  suspended_.erase(place);
  if (point.release()) executor_.post(point.coroutine());
}

Result<void> DebugRules::remove_breakpoint(std::string_view tag) {
  const std::size_t removed =
      std::erase_if(breakpoints_, [tag](const Breakpoint& b) { return b.tag == tag; });
  while (resume(tag)) {
  }
  if (removed == 0) return io_error(ENOENT);
  return {};
}

Result<void> DebugRules::resume(std::string_view tag) {
  const auto place =
      std::ranges::find_if(suspended_, [tag](const Suspended& s) { return s.tag == tag; });
  if (place == suspended_.end()) return io_error(ENOENT);
  go_on(place);
  return {};
}

bool DebugRules::is_suspended(std::string_view tag) const {
  return std::ranges::any_of(suspended_, [tag](const Suspended& s) { return s.tag == tag; });
}

void DebugRules::resume_all() {
  while (!suspended_.empty()) go_on(suspended_.begin());
}

}  // namespace blockbed
