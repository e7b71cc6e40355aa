#include "block/runtime/production_env.h"

#include <sys/random.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>

#include "block/runtime/alarm_timer.h"
#include "block/runtime/io_services.h"
#include "block/runtime/production_file.h"
#include "block/runtime/production_stream.h"
#include "block/runtime/signals.h"

namespace blockbed {

namespace {

// splitmix64: what it is used for is names and jitter, not secrets.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace

struct ProductionEnv::Machinery {
  IoServices services;
  std::unique_ptr<Signals> signals;
  bool stopped = false;
  std::optional<uint64_t> random_state;

  explicit Machinery(const ProductionOptions& options)
      : services(options.max_workers, options.allow_ring,
                 std::chrono::milliseconds(options.worker_idle)),
        random_state(options.seed) {}
};

ProductionEnv::ProductionEnv(ProductionOptions options)
    : machinery_(std::make_unique<Machinery>(options)) {
  std::signal(SIGPIPE, SIG_IGN);
  // A write behind the limit of file sizes fails with EFBIG, as any other.
  std::signal(SIGXFSZ, SIG_IGN);
}

ProductionEnv::~ProductionEnv() = default;

void ProductionEnv::run() {
  machinery_->services.loop.run_until(machinery_->stopped);
  machinery_->stopped = false;
}

void ProductionEnv::stop() { machinery_->stopped = true; }

void ProductionEnv::run_until(const bool& done) { machinery_->services.loop.run_until(done); }

void ProductionEnv::on_signal(int signal, std::function<void()> callback) {
  if (!machinery_->signals) {
    machinery_->signals = std::make_unique<Signals>(machinery_->services.loop);
  }
  machinery_->signals->set(signal, std::move(callback));
}

Executor& ProductionEnv::executor() { return machinery_->services.loop; }
int64_t ProductionEnv::now() const { return EventLoop::now(); }

WallTime ProductionEnv::wall_time() const {
  timeval t;
  ::gettimeofday(&t, nullptr);
  return {t.tv_sec, t.tv_usec};
}

std::unique_ptr<Timer> ProductionEnv::make_timer() {
  return std::make_unique<AlarmTimer>(machinery_->services.loop.alarms(),
                                      machinery_->services.loop);
}

uint64_t ProductionEnv::random() {
  std::optional<uint64_t>& state = machinery_->random_state;
  if (!state) {
    uint64_t seed = 0;
    if (::getrandom(&seed, sizeof seed, 0) != sizeof seed) {
      seed = static_cast<uint64_t>(EventLoop::now());
    }
    state = seed;
  }
  return next_random(*state);
}

Task<void> ProductionEnv::run_on_worker(std::function<void()> work) {
  co_await machinery_->services.pool.run([&work] { work(); });
}

Task<Result<std::unique_ptr<File>>> ProductionEnv::open_file(std::string path,
                                                             FileOpenOptions options) {
  return ProductionFile::open(machinery_->services, std::move(path), options);
}

Task<Result<void>> ProductionEnv::unlink(std::string path) {
  const int error = co_await machinery_->services.pool.run(
      [&path] { return ::unlink(path.c_str()) == 0 ? 0 : errno; });
  if (error != 0) co_return io_error(error);
  co_return {};
}

Task<Result<std::unique_ptr<Listener>>> ProductionEnv::listen(SocketAddress address) {
  return ProductionListener::listen(machinery_->services, std::move(address));
}

Task<Result<std::unique_ptr<Stream>>> ProductionEnv::connect(SocketAddress address) {
  return connect_stream(machinery_->services, std::move(address));
}

Result<std::unique_ptr<Listener>> ProductionEnv::adopt_listener(int descriptor) {
  return ProductionListener::adopt(machinery_->services.loop, descriptor);
}

Result<std::unique_ptr<Stream>> ProductionEnv::adopt_stream(int read_descriptor,
                                                            int write_descriptor) {
  return ProductionStream::adopt(machinery_->services.loop, read_descriptor, write_descriptor,
                                 ProductionStream::Origin::kForeign);
}

unsigned ProductionEnv::worker_threads() const { return machinery_->services.pool.threads(); }
bool ProductionEnv::uses_ring() { return machinery_->services.ring() != nullptr; }

}  // namespace blockbed
