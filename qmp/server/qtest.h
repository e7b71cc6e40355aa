// The test socket: the line protocol by which test harnesses drive virtual time.
//
// Contract: the clock is the guest clock (guest_clock.h), by which disks are throttled and
// accounted. `clock_step [NS]` and `clock_set NS` move it and answer `OK TIME` with its time after
// that; without NS it goes to its next alarm, or stays. When a person's clock runs (another
// accelerator than qtest), they say its time and move nothing. `endianness` answers `OK little`;
// every other line answers `FAIL Unknown command 'WORD'`. One client. Threading: engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "block/runtime/gate.h"
#include "block/runtime/guest_clock.h"
#include "block/runtime/stream.h"
#include "qmp/monitor/endpoint.h"

namespace blockbed::server {

class QtestServer {
 public:
  QtestServer(Executor& executor, GuestClock& clock, std::unique_ptr<Endpoint> endpoint);
  void start();
  Task<void> stop();

  std::string answer(std::string_view line);

 private:
  // Longer lines are no command of this protocol that we have.
  static constexpr std::size_t kMaxLine = 4096;

  Task<void> serve();

  GuestClock& clock_;
  std::unique_ptr<Endpoint> endpoint_;
  std::unique_ptr<Stream> stream_;
  Gate gate_;
};

}  // namespace blockbed::server
