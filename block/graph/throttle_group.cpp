#include "block/graph/throttle_group.h"

#include <algorithm>

#include "block/runtime/assert.h"

namespace blockbed {

ThrottleGroup::ThrottleGroup(ThrottleGroups& groups, std::string name)
    : groups_(groups), name_(std::move(name)), alarm_(groups.clock_, [this] { dispatch(); }) {}

ThrottleGroup::~ThrottleGroup() {
  BB_ASSERT(members_.empty());
  groups_.by_name_.erase(name_);
}

void ThrottleGroup::set_limits(const ThrottleLimits& limits) {
  state_.set_limits(limits, groups_.clock_.now());
  dispatch();
}

bool ThrottleGroup::admit_now(ThrottleMember& member, ThrottleDirection direction, uint64_t bytes) {
  if (member.lifted_ == 0) {
    // The clock may be ahead of the alarm: those who wait and may go were here first.
    if (lanes_[0].waiting + lanes_[1].waiting > 0) dispatch();
    if (lane(direction).waiting > 0) return false;
    if (limits().enabled() && state_.wait(direction, groups_.clock_.now()) > 0) return false;
  }
  lane(direction).went_last = &member;
  state_.account(direction, bytes);
  return true;
}

void ThrottleGroup::dispatch() {
  while (true) {
    const int64_t now = groups_.clock_.now();
    int64_t shortest = INT64_MAX;
    ThrottleDirection next = went_last_;
    for (const ThrottleDirection direction : kDirections) {
      if (lane(direction).waiting == 0) continue;
      const int64_t wait = state_.wait(direction, now);
      if (wait > shortest || (wait == shortest && direction == went_last_)) continue;
      shortest = wait;
      next = direction;
    }
    if (shortest > 0) {
      if (shortest == INT64_MAX) {
        alarm_.disarm();
      } else {
        alarm_.arm(now + shortest);
      }
      return;
    }
    let_next_go(next);
    went_last_ = next;
  }
}

void ThrottleGroup::let_next_go(ThrottleDirection direction) {
  Lane& l = lane(direction);
  auto place = std::ranges::find(members_, l.went_last);
  do {
    if (place == members_.end() || ++place == members_.end()) place = members_.begin();
  } while ((*place)->queue(direction).first == nullptr);
  l.went_last = *place;
  (*place)->release_first(direction);
}

void ThrottleGroup::join(ThrottleMember& member) { members_.push_back(&member); }

void ThrottleGroup::leave(ThrottleMember& member) {
  const auto place = std::ranges::find(members_, &member);
  BB_ASSERT(place != members_.end());
  for (Lane& l : lanes_) {
    // The turn is still that of who followed.
    if (l.went_last == &member) {
      l.went_last = place == members_.begin() ? nullptr : *std::prev(place);
    }
  }
  members_.erase(place);
}

std::shared_ptr<ThrottleGroup> ThrottleGroups::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second.lock();
}

std::shared_ptr<ThrottleGroup> ThrottleGroups::find_or_make(std::string_view name) {
  if (auto found = find(name)) return found;
  auto made = std::make_shared<ThrottleGroup>(*this, std::string(name));
  by_name_.insert_or_assign(std::string(name), made);
  return made;
}

void ThrottleGroups::end_limits() {
  for (const auto& [name, group] : by_name_) group.lock()->set_limits(ThrottleLimits());
}

ThrottleMember::ThrottleMember(std::shared_ptr<ThrottleGroup> group) : group_(std::move(group)) {
  group_->join(*this);
}

ThrottleMember::~ThrottleMember() {
  release_all();
  group_->leave(*this);
}

void ThrottleMember::lift() {
  if (lifted_++ == 0) release_all();
}

void ThrottleMember::restore() {
  BB_ASSERT(lifted_ > 0);
  --lifted_;
}

void ThrottleMember::enqueue(Admission& admission) {
  Queue& q = queue(admission.direction_);
  (q.last == nullptr ? q.first : q.last->next_) = &admission;
  q.last = &admission;
  ++group_->lane(admission.direction_).waiting;
  group_->groups_.executor_.waits(admission.waiting_);
  group_->dispatch();
}

void ThrottleMember::release_first(ThrottleDirection direction) {
  Queue& q = queue(direction);
  Admission& admission = *q.first;
  q.first = admission.next_;
  if (q.first == nullptr) q.last = nullptr;
  --group_->lane(direction).waiting;
  group_->state_.account(direction, admission.bytes_);
  group_->groups_.executor_.post(admission.waiting_);
}

void ThrottleMember::release_all() {
  bool any = false;
  for (const ThrottleDirection direction : ThrottleGroup::kDirections) {
    while (queue(direction).first != nullptr) {
      release_first(direction);
      any = true;
    }
  }
  // Nobody may wait any more, and the alarm is not for ever.
  if (any) group_->dispatch();
}

}  // namespace blockbed
