// Env: the one seam between the engine and the world.
//
// Problem: a test that must visit every crash point and every order of events needs to own time,
// chance and storage. So the engine reaches files, sockets, clocks, random numbers and worker
// threads through this interface only, and the same engine code runs on the production Env
// (production_env.h) and on the simulated one (block/sim/sim_env.h).
//
// Contract: every method is called on the engine's thread, and every Task resumes there. Objects
// made by an Env die before it. Failures of I/O are errno values; a method that can fail says which
// values matter to callers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/runtime/executor.h"
#include "block/runtime/file.h"
#include "block/runtime/result.h"
#include "block/runtime/stream.h"
#include "block/runtime/task.h"

namespace blockbed {

// One pending wait for a point in time. At most one coroutine waits at a time.
class Timer {
 public:
  virtual ~Timer() = default;
  // True when the deadline (ns of Env::now) passed, false when cancel() came first.
  virtual Task<bool> wait_until(int64_t deadline_ns) = 0;
  // Wakes the waiter, if there is one.
  virtual void cancel() = 0;
};

struct WallTime {
  int64_t seconds = 0;
  int64_t microseconds = 0;
};

class Env {
 public:
  virtual ~Env() = default;

  virtual Executor& executor() = 0;

  // Monotonic time in nanoseconds from an arbitrary start.
  virtual int64_t now() const = 0;
  virtual WallTime wall_time() const = 0;
  virtual std::unique_ptr<Timer> make_timer() = 0;
  // Waits without a way to cancel: for short delays only; whoever may be asked to stop uses a
  // Timer.
  Task<void> sleep(int64_t nanoseconds);

  virtual uint64_t random() = 0;

  // Runs `work` on a worker thread (the simulator: here, after a seeded delay) and resumes when it
  // is done. `work` must touch nothing that the engine's thread touches meanwhile.
  virtual Task<void> run_on_worker(std::function<void()> work) = 0;

  // Opens a regular file or a device. ENOENT, EACCES, EROFS, EINVAL (O_DIRECT that the file system
  // lacks) reach clients.
  virtual Task<Result<std::unique_ptr<File>>> open_file(std::string path,
                                                        FileOpenOptions options) = 0;
  // Removes a directory entry.
  virtual Task<Result<void>> unlink(std::string path) = 0;

  virtual Task<Result<std::unique_ptr<Listener>>> listen(SocketAddress address) = 0;
  virtual Task<Result<std::unique_ptr<Stream>>> connect(SocketAddress address) = 0;
  // Descriptors that this process was given: a socket that listens, a connected one, or a pair for
  // stdio.
  virtual Result<std::unique_ptr<Listener>> adopt_listener(int descriptor) = 0;
  virtual Result<std::unique_ptr<Stream>> adopt_stream(int read_descriptor,
                                                       int write_descriptor) = 0;
};

}  // namespace blockbed
