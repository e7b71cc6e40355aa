// ThrottleGroup: limits that several users of disks share, and who of them goes next.
//
// Problem: ten disks that may do a hundred operations a second between them must each get ten when
// all are busy, and one a hundred when it is alone; and a request must not wait for ever, whatever
// becomes of its disk, its group or its limits meanwhile.
//
// Contract
//  - A user (a backend, a throttle filter) is a ThrottleMember of one group. Its requests pass by
//    `co_await member.admit(...)`.
//  - Requests of one member and direction keep their order. Members take turns, for reads and for
//    writes apart; reads and writes that one limit counts take turns too.
//  - New limits hold at once, also for those that wait.
//  - lift(): the member's requests pass without waiting, those that wait too, until as many
//    restore() have come; they still count. This is what a drained section does.
//  - A member that leaves (dies) lets what waits go. It may die before those whom it woke have run.
//  - Groups are found by name (ThrottleGroups) and live as long as a member or somebody else holds
//    them.
// Units: bytes; nanoseconds of the guest clock. Source of the rules: QEMU 7.2, tried out.
// Threading: engine thread only.
#pragma once

#include <array>
#include <coroutine>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/throttle_state.h"
#include "block/runtime/executor.h"
#include "block/runtime/guest_clock.h"

namespace blockbed {

class ThrottleGroups;
class ThrottleMember;

class ThrottleGroup {
 public:
  ThrottleGroup(ThrottleGroups& groups, std::string name);
  ~ThrottleGroup();
  ThrottleGroup(const ThrottleGroup&) = delete;
  ThrottleGroup& operator=(const ThrottleGroup&) = delete;

  const std::string& name() const { return name_; }
  const ThrottleLimits& limits() const { return state_.limits(); }
  // The caller has checked them.
  void set_limits(const ThrottleLimits& limits);
  bool has_members() const { return !members_.empty(); }

 private:
  friend class ThrottleMember;

  // The requests of one direction.
  struct Lane {
    // Those that wait, of all members.
    std::size_t waiting = 0;
    // Who went last: its followers are asked first. Null: nobody, or the turn is the first one's.
    ThrottleMember* went_last = nullptr;
  };
  static constexpr std::array kDirections = {ThrottleDirection::kRead, ThrottleDirection::kWrite};
  Lane& lane(ThrottleDirection direction) { return lanes_[static_cast<std::size_t>(direction)]; }

  bool admit_now(ThrottleMember& member, ThrottleDirection direction, uint64_t bytes);
  // Whoever may go goes; the alarm is set for the rest.
  void dispatch();
  void let_next_go(ThrottleDirection direction);
  void join(ThrottleMember& member);
  void leave(ThrottleMember& member);

  ThrottleGroups& groups_;
  const std::string name_;
  ThrottleState state_;
  GuestAlarm alarm_;
  std::array<Lane, 2> lanes_;
  // Of reads and writes that may both go, the other one is next.
  ThrottleDirection went_last_ = ThrottleDirection::kWrite;
  std::vector<ThrottleMember*> members_;
};

class ThrottleGroups {
 public:
  ThrottleGroups(GuestClock& clock, Executor& executor) : clock_(clock), executor_(executor) {}
  ThrottleGroups(const ThrottleGroups&) = delete;
  ThrottleGroups& operator=(const ThrottleGroups&) = delete;

  // Null: there is none of that name.
  std::shared_ptr<ThrottleGroup> find(std::string_view name) const;
  std::shared_ptr<ThrottleGroup> find_or_make(std::string_view name);
  // Nothing waits for its turn any more: the program ends.
  void end_limits();

 private:
  friend class ThrottleGroup;
  friend class ThrottleMember;

  GuestClock& clock_;
  Executor& executor_;
  std::map<std::string, std::weak_ptr<ThrottleGroup>, std::less<>> by_name_;
};

class ThrottleMember {
 public:
  explicit ThrottleMember(std::shared_ptr<ThrottleGroup> group);
  ~ThrottleMember();
  ThrottleMember(const ThrottleMember&) = delete;
  ThrottleMember& operator=(const ThrottleMember&) = delete;

  ThrottleGroup& group() const { return *group_; }

  class Admission;
  inline Admission admit(ThrottleDirection direction, uint64_t bytes);

  void lift();
  void restore();

 private:
  friend class ThrottleGroup;

  // Those that wait, first come first.
  struct Queue {
    Admission* first = nullptr;
    Admission* last = nullptr;
  };
  Queue& queue(ThrottleDirection direction) { return queues_[static_cast<std::size_t>(direction)]; }
  void enqueue(Admission& admission);
  void release_first(ThrottleDirection direction);
  void release_all();

  std::shared_ptr<ThrottleGroup> group_;
  std::array<Queue, 2> queues_;
  int lifted_ = 0;
};

// A request at the door.
class [[nodiscard]] ThrottleMember::Admission {
 public:
  Admission(ThrottleMember& member, ThrottleDirection direction, uint64_t bytes)
      : member_(member), direction_(direction), bytes_(bytes) {}
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  bool await_ready() { return member_.group_->admit_now(member_, direction_, bytes_); }
  void await_suspend(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    member_.enqueue(*this);
  }
  void await_resume() const noexcept {}

 private:
  friend class ThrottleMember;

  ThrottleMember& member_;
  const ThrottleDirection direction_;
  const uint64_t bytes_;
  std::coroutine_handle<> waiting_ = {};
  Admission* next_ = nullptr;
};

inline ThrottleMember::Admission ThrottleMember::admit(ThrottleDirection direction,
                                                       uint64_t bytes) {
  return Admission(*this, direction, bytes);
}

}  // namespace blockbed
