// Codecs: off the engine's thread, several at once, for one request.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>

#include "block/formats/qcow2/check.h"
#include "block/runtime/production_env.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kCluster = 65536;
constexpr uint64_t kClusters = 16;
constexpr int kAtOnce = 4;

// No work of the first kAtOnce ends before that many are under way: with fewer at once it never
// would, however fast or slow the machine is. It is given up in the end, and told.
class Meeting {
 public:
  void attend(std::thread::id engine) {
    std::unique_lock lock(mutex_);
    ++works_;
    if (std::this_thread::get_id() == engine) on_engine_ = true;
    if (works_ >= kAtOnce) all_here_.notify_all();
    if (gave_up_) return;
    gave_up_ = !all_here_.wait_for(lock, std::chrono::seconds(20),
                                   [this] { return works_ >= kAtOnce || gave_up_; });
  }
  // Of the works since the last time.
  void expect_held(uint64_t works) {
    const std::lock_guard lock(mutex_);
    EXPECT_EQ(works_, static_cast<int>(works));
    EXPECT_FALSE(gave_up_) << "fewer than " << kAtOnce << " codecs at once";
    EXPECT_FALSE(on_engine_) << "a codec on the thread of the engine";
    works_ = 0;
    gave_up_ = on_engine_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int works_ = 0;
  bool gave_up_ = false;
  bool on_engine_ = false;
};

// The real thing, whose workers meet before they work.
class MeetingEnv final : public Env {
 public:
  ProductionEnv real;
  Meeting meeting;

  Executor& executor() override { return real.executor(); }
  int64_t now() const override { return real.now(); }
  WallTime wall_time() const override { return real.wall_time(); }
  std::unique_ptr<Timer> make_timer() override { return real.make_timer(); }
  uint64_t random() override { return real.random(); }
  Task<void> run_on_worker(std::function<void()> work) override {
    return real.run_on_worker([this, work = std::move(work), engine = std::this_thread::get_id()] {
      meeting.attend(engine);
      work();
    });
  }
  Task<Result<std::unique_ptr<File>>> open_file(std::string path,
                                                FileOpenOptions options) override {
    return real.open_file(std::move(path), options);
  }
  Task<Result<void>> unlink(std::string path) override { return real.unlink(std::move(path)); }
  Task<Result<std::unique_ptr<Listener>>> listen(SocketAddress address) override {
    return real.listen(std::move(address));
  }
  Task<Result<std::unique_ptr<Stream>>> connect(SocketAddress address) override {
    return real.connect(std::move(address));
  }
  Result<std::unique_ptr<Listener>> adopt_listener(int descriptor) override {
    return real.adopt_listener(descriptor);
  }
  Result<std::unique_ptr<Stream>> adopt_stream(int in, int out) override {
    return real.adopt_stream(in, out);
  }
};

class Codecs : public ::testing::TestWithParam<CompressionType> {
 public:
  Codecs() {
    char name[] = "/tmp/bb-codecs-XXXXXX";
    EXPECT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
  }
  ~Codecs() override { std::filesystem::remove_all(directory_); }

  Task<void> write_and_read() {
    const std::string path = directory_ + "/disk";
    CreateOptions create;
    create.size = kClusters * kCluster;
    create.compression = GetParam();
    EXPECT_TRUE(co_await create_image(env_, path, create));
    auto opened = co_await open_image(env_, path, writable_options());
    EXPECT_TRUE(opened);
    Image& image = *(*opened)->image;

    std::vector<std::byte> disk(kClusters * kCluster);
    for (std::size_t i = 0; i < disk.size(); ++i) {
      disk[i] = static_cast<std::byte>(i / kCluster + i % 7);
    }
    EXPECT_TRUE(co_await image.write_compressed(0, IoVector(disk.data(), disk.size())));
    env_.meeting.expect_held(kClusters);
    std::vector<std::byte> found(disk.size());
    EXPECT_TRUE(co_await image.read(0, IoVector(found.data(), found.size())));
    env_.meeting.expect_held(kClusters);
    EXPECT_TRUE(found == disk);
    EXPECT_TRUE(co_await (*opened)->close());
    co_await expect_sound(env_, path, true);
  }

 protected:
  MeetingEnv env_;
  std::string directory_;
};

TEST_P(Codecs, OfOneRequestWorkInParallel) { env_.real.run_until_complete(write_and_read()); }

INSTANTIATE_TEST_SUITE_P(Types, Codecs,
                         ::testing::Values(CompressionType::kZlib, CompressionType::kZstd),
                         [](const auto& each) {
                           return each.param == CompressionType::kZlib ? "zlib" : "zstd";
                         });

}  // namespace
}  // namespace blockbed::qcow2::test
