#include "block/sim/sim_env.h"

#include <cstdio>
#include <cstdlib>

#include "block/runtime/alarm_timer.h"
#include "block/runtime/assert.h"
#include "block/sim/coroutine_names.h"
#include "block/sim/sim_network.h"
#include "block/sim/sim_storage.h"

namespace blockbed::sim {

namespace {

constexpr uint64_t kFnvBasis = 0xCBF29CE484222325;
constexpr uint64_t kFnvPrime = 0x100000001B3;

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * kFnvPrime;
  return hash ^ (hash >> 29);
}

}  // namespace

SimEnv::SimEnv(uint64_t seed, SimOptions options)
    : seed_(seed),
      options_(options),
      schedule_random_(seed, 101),
      engine_random_(seed, 102),
      worker_random_(seed, 103),
      test_random_(seed, 104),
      trace_hash_(kFnvBasis),
      print_trace_(std::getenv("BLOCKBED_TRACE") != nullptr),
      storage_(std::make_unique<SimStorage>(*this, seed)),
      network_(std::make_unique<SimNetwork>(*this, seed)) {}

SimEnv::~SimEnv() { BB_ASSERT(ready_.empty() && alarms_.empty()); }

void SimEnv::SimExecutor::post(std::coroutine_handle<> coroutine) {
  env_.waiting_.erase(coroutine.address());
  env_.ready_.push_back(coroutine);
}

void SimEnv::SimExecutor::waits(std::coroutine_handle<> coroutine) {
  env_.waiting_.insert(coroutine.address());
}

void SimEnv::note(std::string_view what, uint64_t a, uint64_t b, uint64_t c) {
  for (const char letter : what) trace_hash_ = mix(trace_hash_, static_cast<unsigned char>(letter));
  trace_hash_ = mix(mix(mix(mix(trace_hash_, a), b), c), static_cast<uint64_t>(now_));
  if (print_trace_) {
    std::fprintf(stderr, "%12.6f %.*s %llu %llu %llu\n",
                 static_cast<double>(now_ - kBeginning) * 1e-6, static_cast<int>(what.size()),
                 what.data(), static_cast<unsigned long long>(a),
                 static_cast<unsigned long long>(b), static_cast<unsigned long long>(c));
  }
}

void SimEnv::run_until(const bool& done) {
  while (!done) {
    if (ready_.empty()) {
      if (alarms_.empty()) stuck("nothing is ready, nothing has a deadline: a deadlock");
      if (alarms_.earliest() > now_) now_ = alarms_.earliest();
      while (Alarm* alarm = alarms_.pop_due(now_)) ready_.push_back(alarm->waiter);
    }
    if (++steps_ > options_.max_steps) stuck("more turns than max_steps: a livelock");
    const std::size_t choice = ready_.size() == 1 ? 0 : schedule_random_.below(ready_.size());
    trace_hash_ = mix(trace_hash_, choice);
    const std::coroutine_handle<> next = ready_[choice];
    ready_[choice] = ready_.back();
    ready_.pop_back();
    next.resume();
  }
}

void SimEnv::stuck(const char* how) const {
  std::fprintf(stderr, "sim: seed %llu, virtual time %.3f ms, %llu turns: %s\n",
               static_cast<unsigned long long>(seed_),
               static_cast<double>(now_ - kBeginning) * 1e-6,
               static_cast<unsigned long long>(steps_), how);
  std::fprintf(stderr, "sim: %zu wait for somebody, %zu are ready, %zu have a deadline\n",
               waiting_.size(), ready_.size(), alarms_.size());
  for (void* frame : waiting_) {
    std::fprintf(stderr, "sim: waits: %s\n", coroutine_name(frame).c_str());
  }
  std::abort();
}

WallTime SimEnv::wall_time() const {
  const int64_t since = now_ - kBeginning;
  return {kWallBeginning + since / 1'000'000'000, since % 1'000'000'000 / 1000};
}

std::unique_ptr<Timer> SimEnv::make_timer() {
  return std::make_unique<AlarmTimer>(alarms_, executor());
}

Task<void> SimEnv::run_on_worker(std::function<void()> work) {
  const int64_t time = worker_random_.between(options_.worker_min, options_.worker_max);
  // The work is done at either end of its time: nobody may look at its result before.
  const bool early = worker_random_.percent(50);
  if (early) work();
  co_await delay(time);
  if (!early) work();
}

Task<Result<std::unique_ptr<File>>> SimEnv::open_file(std::string path, FileOpenOptions options) {
  return storage_->open(std::move(path), options);
}
Task<Result<void>> SimEnv::unlink(std::string path) { return storage_->unlink(std::move(path)); }
Task<Result<std::unique_ptr<Listener>>> SimEnv::listen(SocketAddress address) {
  return network_->listen(std::move(address));
}
Task<Result<std::unique_ptr<Stream>>> SimEnv::connect(SocketAddress address) {
  return network_->connect(std::move(address));
}
Result<std::unique_ptr<Listener>> SimEnv::adopt_listener(int descriptor) {
  return network_->take_listener(descriptor);
}
Result<std::unique_ptr<Stream>> SimEnv::adopt_stream(int read_descriptor, int write_descriptor) {
  return network_->take_stream(read_descriptor, write_descriptor);
}

}  // namespace blockbed::sim
