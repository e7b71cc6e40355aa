#include "qmp/monitor/linger.h"

#include "block/runtime/gate.h"

namespace blockbed {
namespace {

Task<void> give_up_at(Timer& timer, int64_t deadline_ns, OutputQueue& output, Stream& stream) {
  if (co_await timer.wait_until(deadline_ns)) {
    output.abandon();
    stream.shutdown();
  }
}

}  // namespace

Task<void> send_and_shut_down(Env& env, OutputQueue& output, Stream& stream, int64_t limit_ns) {
  if (output.unsent() > 0 && !output.broken()) {
    Gate waiting(env.executor());
    const std::unique_ptr<Timer> timer = env.make_timer();
    waiting.spawn(give_up_at(*timer, env.now() + limit_ns, output, stream));
    co_await output.wait_sent();
    timer->cancel();
    co_await waiting.close();
  }
  stream.shutdown();
}

}  // namespace blockbed
