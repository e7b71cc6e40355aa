#include "qmp/monitor/event_throttle.h"

#include <algorithm>
#include <utility>

namespace blockbed {
namespace {

struct Limited {
  std::string_view event;
  // The member of the data that tells sources apart; empty when there is one source.
  std::string_view source_member;
};

// The limited events that this server can emit; those of clocks, balloons and serial ports are not
// among them.
constexpr Limited kLimited[] = {
    {"QUORUM_REPORT_BAD", "node-name"},
    {"QUORUM_FAILURE", ""},
};

}  // namespace

EventThrottle::EventThrottle(Env& env, Deliver deliver)
    : env_(env), deliver_(std::move(deliver)), gate_(env.executor()) {}

void EventThrottle::pass(std::string_view name, json::Object event) {
  const auto* limited = std::ranges::find(kLimited, name, &Limited::event);
  if (limited == std::end(kLimited) || stopping_) {
    deliver_(std::move(event));
    return;
  }
  std::string key(name);
  if (!limited->source_member.empty()) {
    const json::Value* data = event.find("data");
    const json::Value* source = data != nullptr && data->is_object()
                                    ? data->as_object().find(limited->source_member)
                                    : nullptr;
    if (source != nullptr && source->is_string()) key += '/' + source->as_string();
  }
  if (const auto it = sources_.find(key); it != sources_.end()) {
    it->second.kept = std::move(event);
    return;
  }
  deliver_(std::move(event));
  sources_[key].timer = env_.make_timer();
  gate_.spawn(hold(std::move(key)));
}

Task<void> EventThrottle::hold(std::string key) {
  Source& source = sources_.at(key);
  while (true) {
    const bool over = co_await source.timer->wait_until(env_.now() + kPeriodNs);
    if (!over || !source.kept) break;
    deliver_(*std::exchange(source.kept, std::nullopt));
  }
  sources_.erase(key);
}

Task<void> EventThrottle::stop() {
  stopping_ = true;
  for (auto& [key, source] : sources_) source.timer->cancel();
  co_await gate_.close();
}

}  // namespace blockbed
