// The test socket: the line protocol by which test harnesses drive virtual time.
//
// Contract: `clock_step [NS]` and `clock_set NS` answer `OK TIME` with the virtual clock after the
// move (without NS: to where it is); `endianness` answers `OK little`; every other line answers
// `FAIL Unknown command 'WORD'`. One client. The clock is this protocol's own: nothing else reads
// it yet. Threading: engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "block/runtime/gate.h"
#include "block/runtime/stream.h"
#include "qmp/monitor/endpoint.h"

namespace blockbed::server {

class QtestServer {
 public:
  QtestServer(Executor& executor, std::unique_ptr<Endpoint> endpoint);
  void start();
  Task<void> stop();

  std::string answer(std::string_view line);

 private:
  // Longer lines are no command of this protocol that we have.
  static constexpr std::size_t kMaxLine = 4096;

  Task<void> serve();

  std::unique_ptr<Endpoint> endpoint_;
  std::unique_ptr<Stream> stream_;
  Gate gate_;
  int64_t clock_ns_ = 0;
};

}  // namespace blockbed::server
