// What the runtime costs, piece by piece. Numbers that justify choices in production_file.h come
// from here.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

#include "block/runtime/gate.h"
#include "block/runtime/io_services.h"
#include "block/runtime/production_env.h"

namespace blockbed {
namespace {

Task<int> immediate() { co_return 1; }

Task<void> await_many(benchmark::State& state) {
  int total = 0;
  for (auto _ : state) total += co_await immediate();
  benchmark::DoNotOptimize(total);
}

void task_await(benchmark::State& state) {
  ProductionEnv env;
  env.run_until_complete(await_many(state));
}
BENCHMARK(task_await);

Task<void> yield_many(benchmark::State& state, Executor& executor) {
  for (auto _ : state) co_await executor.yield();
}

void yield(benchmark::State& state) {
  ProductionEnv env;
  env.run_until_complete(yield_many(state, env.executor()));
}
BENCHMARK(yield);

Task<void> lock_many(benchmark::State& state, Env& env) {
  Mutex mutex(env.executor());
  for (auto _ : state) const MutexGuard guard = co_await mutex.lock();
}

void mutex_free(benchmark::State& state) {
  ProductionEnv env;
  env.run_until_complete(lock_many(state, env));
}
BENCHMARK(mutex_free);

void env_made(benchmark::State& state) {
  for (auto _ : state) {
    ProductionEnv env;
    env.run_until_complete(immediate());
  }
}
BENCHMARK(env_made)->Unit(benchmark::kMicrosecond);

Task<void> work_many(benchmark::State& state, Env& env) {
  for (auto _ : state) co_await env.run_on_worker([] {});
}

void worker_round_trip(benchmark::State& state) {
  ProductionEnv env;
  env.run_until_complete(work_many(state, env));
}
BENCHMARK(worker_round_trip)->UseRealTime();

Task<void> ring_many(benchmark::State& state, Ring& ring, int descriptor) {
  char byte;
  const iovec range = {&byte, 1};
  for (auto _ : state) benchmark::DoNotOptimize(co_await ring.readv(descriptor, {&range, 1}, 0));
}

// A read of /dev/zero: the way to the kernel and back.
void ring_round_trip(benchmark::State& state) {
  IoServices services(16, true);
  Ring* const ring = services.ring();
  if (ring == nullptr) return state.SkipWithError("io_uring is refused");
  const int descriptor = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  bool done = false;
  drive(ring_many(state, *ring, descriptor), done);
  services.loop.run_until(done);
  ::close(descriptor);
}
BENCHMARK(ring_round_trip)->UseRealTime();

enum class Direction { kRead, kWrite };

constexpr uint64_t kFileSize = uint64_t{256} << 20;

Task<void> one_request(File& file, Direction direction, uint64_t offset, Buffer& buffer) {
  const auto done = direction == Direction::kRead ? co_await file.read(offset, buffer.io())
                                                  : co_await file.write(offset, buffer.io());
  if (!done) std::abort();
}

Task<void> file_requests(benchmark::State& state, Env& env, Direction direction, FileAio aio,
                         bool direct, std::size_t length, std::size_t depth, bool sequential) {
  std::string path = std::filesystem::temp_directory_path() / "blockbed-bench-XXXXXX";
  ::close(::mkstemp(path.data()));
  FileOpenOptions options;
  options.write = true;
  options.aio = aio;
  options.direct = direct;
  auto file = co_await env.open_file(path, options);
  if (!file) {
    ::unlink(path.c_str());
    state.SkipWithError(strerror_text(file.error()).c_str());
    co_return;
  }
  std::vector<Buffer> buffers;
  for (std::size_t i = 0; i < depth; ++i) {
    buffers.push_back(Buffer(length));
    std::memset(buffers.back().data(), 0x5A, length);
  }
  {
    Buffer fill(1 << 20);
    std::memset(fill.data(), 1, fill.size());
    for (uint64_t at = 0; at < kFileSize; at += fill.size()) {
      co_await (*file)->write(at, fill.io());
    }
  }
  co_await (*file)->flush();
  const uint64_t places = kFileSize / length;
  uint64_t next = 0;
  for (auto _ : state) {
    Gate gate(env.executor());
    for (std::size_t i = 0; i < depth; ++i) {
      next = sequential ? next + 1 : next * 6364136223846793005 + 1442695040888963407;
      const uint64_t place = sequential ? next % places : (next >> 20) % places;
      gate.spawn(one_request(**file, direction, place * length, buffers[i]));
    }
    co_await gate.close();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * depth * length));
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * depth));
  co_await (*file)->close();
  co_await env.unlink(path);
}

void file(benchmark::State& state, Direction direction, FileAio aio, bool direct, bool sequential) {
  ProductionEnv env;
  env.run_until_complete(file_requests(state, env, direction, aio, direct,
                                       static_cast<std::size_t>(state.range(0)),
                                       static_cast<std::size_t>(state.range(1)), sequential));
}

#define FILE_BENCH(name, ...) BENCHMARK_CAPTURE(file, name, __VA_ARGS__)->UseRealTime()

FILE_BENCH(read_cached_random, Direction::kRead, FileAio::kThreads, false, false)
    ->Args({4096, 1})
    ->Args({4096, 16});
FILE_BENCH(write_cached_random_threads, Direction::kWrite, FileAio::kThreads, false, false)
    ->Args({4096, 1})
    ->Args({4096, 16});
FILE_BENCH(write_cached_random_ring, Direction::kWrite, FileAio::kIoUring, false, false)
    ->Args({4096, 1})
    ->Args({4096, 16});
FILE_BENCH(write_cached_threads, Direction::kWrite, FileAio::kThreads, false, true)
    ->ArgsProduct({{64 << 10, 256 << 10, 1 << 20}, {1, 4, 16}});
FILE_BENCH(write_cached_ring, Direction::kWrite, FileAio::kIoUring, false, true)
    ->ArgsProduct({{64 << 10, 256 << 10, 1 << 20}, {1, 4, 16}});
FILE_BENCH(read_cached, Direction::kRead, FileAio::kThreads, false, true)
    ->ArgsProduct({{64 << 10, 256 << 10, 1 << 20}, {1, 16}});
FILE_BENCH(read_direct_threads, Direction::kRead, FileAio::kThreads, true, false)
    ->Args({4096, 1})
    ->Args({4096, 16});
FILE_BENCH(read_direct_ring, Direction::kRead, FileAio::kIoUring, true, false)
    ->Args({4096, 1})
    ->Args({4096, 16});

// Answers every request of 28 bytes with 16 + 4096, as an NBD server would.
Task<void> serve(Stream& stream) {
  Buffer in(64 << 10);
  Buffer payload(4096);
  std::byte header[16] = {};
  std::size_t have = 0;
  for (;;) {
    const auto got = co_await stream.read_some(in.span());
    if (!got || *got == 0) co_return;
    for (have += *got; have >= 28; have -= 28) {
      IoVector reply(header, sizeof header);
      reply.append(payload.data(), payload.size());
      if (!(co_await stream.write_all(reply))) co_return;
    }
  }
}

// Round trips to a client thread that blocks in its system calls.
void stream_round_trip(benchmark::State& state) {
  const int depth = static_cast<int>(state.range(0));
  ProductionEnv env;
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) std::abort();
  auto stream = env.adopt_stream(sockets[0], sockets[0]);
  std::thread client([&] {
    std::string request(static_cast<std::size_t>(depth) * 28, 'r');
    std::string reply(static_cast<std::size_t>(depth) * 4112, ' ');
    for (auto _ : state) {
      if (::send(sockets[1], request.data(), request.size(), 0) < 0) std::abort();
      if (::recv(sockets[1], reply.data(), reply.size(), MSG_WAITALL) < 0) std::abort();
    }
    ::close(sockets[1]);
  });
  env.run_until_complete(serve(**stream));
  client.join();
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * depth);
}
BENCHMARK(stream_round_trip)->Arg(1)->Arg(16)->UseRealTime();

}  // namespace
}  // namespace blockbed

BENCHMARK_MAIN();
