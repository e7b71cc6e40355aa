// ProductionEnv: the Env of a real process.
//
// Problem: see env.h. This one is made of the system's files, sockets, clocks and threads.
//
// Contract
//  - The thread that makes it is the engine's thread: it calls run() or run_until_complete(), and
//    everything else. Making one is cheap: no thread, no ring. It does not survive a fork(): a
//    process that becomes a daemon makes it afterwards.
//  - run() resumes ready coroutines and waits for events until stop() is called. stop() may be
//    called before run(), which then returns at once. Both may be repeated.
//  - on_signal(): the callback runs on the engine's thread in the loop, as a call and not a
//    coroutine; one callback a signal, a later one replaces it, an empty one gives the signal back
//    to the system's default. SIGPIPE is ignored by the whole process.
//  - It dies last, when no task of it is left.
// Units: nanoseconds of CLOCK_MONOTONIC. Threading: engine thread only. One per process at a time
// may use on_signal().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "block/runtime/env.h"
#include "block/runtime/root.h"

namespace blockbed {

struct ProductionOptions {
  // False: as if the kernel refused io_uring.
  bool allow_ring = true;
  unsigned max_workers = 16;
  // A worker that had nothing to do for so long ends. Milliseconds.
  int worker_idle = 10'000;
  // Makes random() repeatable.
  std::optional<uint64_t> seed;

  ProductionOptions() = default;
};

class ProductionEnv final : public Env {
 public:
  explicit ProductionEnv(ProductionOptions options = {});
  ~ProductionEnv() override;

  void run();
  void stop();
  void on_signal(int signal, std::function<void()> callback);

  // For tools and tests: runs the loop until the task has ended, whatever stop() says.
  template <class T>
  T run_until_complete(Task<T> task) {
    bool done = false;
    if constexpr (std::is_void_v<T>) {
      drive(std::move(task), done);
      run_until(done);
    } else {
      std::optional<T> result;
      drive(std::move(task), result, done);
      run_until(done);
      return std::move(*result);
    }
  }

  Executor& executor() override;
  int64_t now() const override;
  WallTime wall_time() const override;
  std::unique_ptr<Timer> make_timer() override;
  uint64_t random() override;
  Task<void> run_on_worker(std::function<void()> work) override;
  Task<Result<std::unique_ptr<File>>> open_file(std::string path, FileOpenOptions options) override;
  Task<Result<void>> unlink(std::string path) override;
  Task<Result<std::unique_ptr<Listener>>> listen(SocketAddress address) override;
  Task<Result<std::unique_ptr<Stream>>> connect(SocketAddress address) override;
  Result<std::unique_ptr<Listener>> adopt_listener(int descriptor) override;
  Result<std::unique_ptr<Stream>> adopt_stream(int read_descriptor, int write_descriptor) override;

  // For tests and `info`: worker threads alive now, and whether requests go through io_uring.
  unsigned worker_threads() const;
  bool uses_ring();

 private:
  struct Machinery;

  void run_until(const bool& done);

  std::unique_ptr<Machinery> machinery_;
};

}  // namespace blockbed
