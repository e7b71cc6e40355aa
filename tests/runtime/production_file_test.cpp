#include "block/runtime/production_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "block/runtime/gate.h"
#include "block/runtime/production_env.h"

namespace blockbed {
namespace {

// The ways in which a request can leave the engine's thread.
enum class Way { kThreads, kRing, kRingRefused };

struct Setting {
  const char* name;
  // "" is the directory for temporary files: a disk's file system on most systems.
  const char* directory;
  Way way;
  bool direct;
};

// Everything is public: the bodies are coroutines that take the fixture as a parameter.
class ProductionFiles : public ::testing::TestWithParam<Setting> {
 public:
  ProductionFiles() : env_(env_options()) {
    const std::string base =
        *GetParam().directory != '\0' ? GetParam().directory : ::testing::TempDir();
    std::string pattern = base + "/blockbed-file-XXXXXX";
    directory_ = ::mkdtemp(pattern.data()) != nullptr ? pattern : "";
  }
  ~ProductionFiles() override { std::filesystem::remove_all(directory_); }

  void SetUp() override {
    ASSERT_NE(directory_, "");
    if (GetParam().way == Way::kRing && !env_.uses_ring()) {
      GTEST_SKIP() << "this kernel refuses io_uring";
    }
    if (GetParam().way == Way::kRingRefused) {
      ASSERT_FALSE(env_.uses_ring());
    }
    struct statfs fs;
    ASSERT_EQ(::statfs(directory_.c_str(), &fs), 0);
    if (std::strcmp(GetParam().directory, "/dev/shm") == 0 && fs.f_type != TMPFS_MAGIC) {
      GTEST_SKIP() << "/dev/shm is no tmpfs here";
    }
  }

  static ProductionOptions env_options() {
    ProductionOptions options;
    options.allow_ring = GetParam().way != Way::kRingRefused;
    return options;
  }
  FileOpenOptions options() const {
    FileOpenOptions result;
    result.write = result.create = true;
    result.direct = GetParam().direct;
    result.aio = GetParam().way == Way::kThreads ? FileAio::kThreads : FileAio::kIoUring;
    return result;
  }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  Task<std::unique_ptr<File>> open(std::string name) {
    auto file = co_await env_.open_file(path(name), options());
    EXPECT_TRUE(file.has_value()) << (file ? "" : strerror_text(file.error()));
    co_return file ? std::move(*file) : nullptr;
  }
  Task<void> write(File& file, uint64_t offset, std::size_t length, unsigned char byte) {
    const Buffer buffer(length);
    buffer.io().fill(byte);
    const auto done = co_await file.write(offset, buffer.io());
    EXPECT_TRUE(done.has_value()) << (done ? "" : strerror_text(done.error()));
  }
  // True when all bytes of the range are `byte`.
  Task<bool> reads(File& file, uint64_t offset, std::size_t length, unsigned char byte) {
    Buffer buffer(length);
    buffer.io().fill(static_cast<unsigned char>(~byte));
    const auto done = co_await file.read(offset, buffer.io());
    EXPECT_TRUE(done.has_value()) << (done ? "" : strerror_text(done.error()));
    for (const std::byte b : buffer.span()) {
      if (static_cast<unsigned char>(b) != byte) co_return false;
    }
    co_return true;
  }
  Task<uint64_t> size(File& file) { co_return (co_await file.info())->size; }

  std::string directory_;
  ProductionEnv env_;
};

#define RUN(...)                               \
  do {                                         \
    const auto coroutine = __VA_ARGS__;        \
    env_.run_until_complete(coroutine(*this)); \
  } while (false)

using T = ProductionFiles;

TEST_P(ProductionFiles, ReadsWhatWasWritten) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    EXPECT_EQ(file->kind(), FileKind::kRegular);
    // Small, at the limit of what is written at once, and above.
    uint64_t at = 0;
    unsigned char byte = 1;
    for (const std::size_t length : {4096UL, 65536UL, 69632UL, 1UL << 20, 5UL << 20}) {
      co_await t.write(*file, at, length, byte);
      EXPECT_TRUE(co_await t.reads(*file, at, length, byte));
      at += length;
      ++byte;
    }
    EXPECT_EQ(co_await t.size(*file), at);
    EXPECT_TRUE(co_await t.reads(*file, 0, 4096, 1));
    EXPECT_TRUE((co_await file->flush()).has_value());
    EXPECT_TRUE((co_await file->close()).has_value());
  });
}

// A hint: what was written stays as it is, with a flush after it or without.
TEST_P(ProductionFiles, AFlushMayBeExpected) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    co_await t.write(*file, 0, 5 << 20, 1);
    co_await file->expect_flush();
    co_await t.write(*file, 1 << 20, 1 << 20, 2);
    co_await file->expect_flush();
    EXPECT_TRUE((co_await file->flush()).has_value());
    EXPECT_TRUE(co_await t.reads(*file, 0, 1 << 20, 1));
    EXPECT_TRUE(co_await t.reads(*file, 1 << 20, 1 << 20, 2));
    EXPECT_TRUE(co_await t.reads(*file, 2 << 20, 3 << 20, 1));
    EXPECT_TRUE((co_await file->close()).has_value());
  });
}

TEST_P(ProductionFiles, ReadsZeroesBeyondTheEnd) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    EXPECT_TRUE(co_await t.reads(*file, 0, 8192, 0));
    co_await t.write(*file, 0, 4096, 9);
    Buffer buffer(16384);
    buffer.io().fill(0xEE);
    EXPECT_TRUE((co_await file->read(0, buffer.io())).has_value());
    EXPECT_EQ(buffer.data()[4095], std::byte{9});
    EXPECT_TRUE(all_zero(buffer.data() + 4096, 12288));
    EXPECT_TRUE(co_await t.reads(*file, 1 << 30, 4096, 0));
    EXPECT_EQ(co_await t.size(*file), 4096U);
    co_await file->close();
  });
}

// A file whose length is no multiple of the unit of direct requests.
TEST_P(ProductionFiles, ReadsAnOddTail) {
  std::ofstream(path("odd")) << std::string(5000, '\1');
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("odd");
    Buffer buffer(16384);
    buffer.io().fill(0xEE);
    EXPECT_TRUE((co_await file->read(0, buffer.io())).has_value());
    EXPECT_EQ(buffer.data()[4999], std::byte{1});
    EXPECT_TRUE(all_zero(buffer.data() + 5000, 16384 - 5000));
    co_await file->close();
  });
}

TEST_P(ProductionFiles, MovesManyRangesAtOnce) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    // More ranges than one system call takes.
    constexpr std::size_t kRanges = 1500;
    constexpr std::size_t kLength = 4096;
    Buffer all(kRanges * kLength);
    IoVector ranges;
    for (std::size_t i = 0; i < kRanges; ++i) {
      std::memset(all.data() + i * kLength, static_cast<int>(i * 7), kLength);
      ranges.append(all.data() + i * kLength, kLength);
    }
    EXPECT_TRUE((co_await file->write(0, ranges)).has_value());
    const Buffer copy(all.size());
    copy.io().copy_from(all.data());
    ranges.fill(0xEE);
    EXPECT_TRUE((co_await file->read(0, ranges)).has_value());
    EXPECT_EQ(std::memcmp(copy.data(), all.data(), all.size()), 0);
    co_await file->close();
  });
}

TEST_P(ProductionFiles, ManyRequestsInParallel) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    Gate gate(t.env_.executor());
    // More than the ring's queue holds, twice.
    constexpr int kRequests = 300;
    constexpr std::size_t kLength = 128 << 10;
    const auto one = [](T& self, File& f, int i) -> Task<void> {
      const uint64_t at = static_cast<uint64_t>(i) * kLength;
      co_await self.write(f, at, kLength, static_cast<unsigned char>(i));
      EXPECT_TRUE(co_await self.reads(f, at, kLength, static_cast<unsigned char>(i)));
    };
    for (int i = 0; i < kRequests; ++i) gate.spawn(one(t, *file, i));
    co_await gate.close();
    EXPECT_EQ(co_await t.size(*file), kRequests * kLength);
    co_await file->close();
  });
}

TEST_P(ProductionFiles, ZeroesAndExtends) {
  RUN([](T& t) -> Task<void> {
    for (const bool may_unmap : {false, true}) {
      const auto file = co_await t.open(may_unmap ? "a" : "b");
      co_await t.write(*file, 0, 65536, 5);
      EXPECT_TRUE((co_await file->flush()).has_value());
      EXPECT_TRUE((co_await file->zero(8192, 16384, may_unmap)).has_value());
      EXPECT_TRUE(co_await t.reads(*file, 0, 8192, 5));
      EXPECT_TRUE(co_await t.reads(*file, 8192, 16384, 0));
      EXPECT_TRUE(co_await t.reads(*file, 24576, 40960, 5));
      const uint64_t allocated = (co_await file->info())->allocated;
      if (may_unmap) {
        EXPECT_EQ(allocated, 65536U - 16384U);
      } else {
        EXPECT_GE(allocated, 65536U);
      }
      // Over the end, and wholly beyond it.
      EXPECT_TRUE((co_await file->zero(61440, 8192, may_unmap)).has_value());
      EXPECT_EQ(co_await t.size(*file), 69632U);
      EXPECT_TRUE((co_await file->zero(1 << 20, 4096, may_unmap)).has_value());
      EXPECT_EQ(co_await t.size(*file), (1U << 20) + 4096U);
      EXPECT_TRUE(co_await t.reads(*file, 61440, 8192, 0));
      // Inside: the size stays.
      EXPECT_TRUE((co_await file->zero(0, 4096, may_unmap)).has_value());
      EXPECT_EQ(co_await t.size(*file), (1U << 20) + 4096U);
      co_await file->close();
    }
  });
}

TEST_P(ProductionFiles, DiscardsWithoutExtending) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    co_await t.write(*file, 0, 65536, 5);
    EXPECT_TRUE((co_await file->flush()).has_value());
    EXPECT_TRUE((co_await file->discard(0, 32768)).has_value());
    EXPECT_TRUE(co_await t.reads(*file, 0, 32768, 0));
    EXPECT_EQ((co_await file->info())->allocated, 32768U);
    EXPECT_TRUE((co_await file->discard(61440, 1 << 20)).has_value());
    EXPECT_EQ(co_await t.size(*file), 65536U);
    co_await file->close();
  });
}

TEST_P(ProductionFiles, CopiesInsideTheKernel) {
  RUN([](T& t) -> Task<void> {
    const auto from = co_await t.open("a");
    const auto to = co_await t.open("b");
    co_await t.write(*from, 0, 65536, 3);
    co_await t.write(*from, 65536, 65536, 4);
    EXPECT_TRUE((co_await to->copy_from(*from, 32768, 4096, 65536)).has_value());
    EXPECT_TRUE(co_await t.reads(*to, 0, 4096, 0));
    EXPECT_TRUE(co_await t.reads(*to, 4096, 32768, 3));
    EXPECT_TRUE(co_await t.reads(*to, 36864, 32768, 4));
    // Beyond the end of the source.
    EXPECT_TRUE((co_await to->copy_from(*from, 126976, 0, 8192)).has_value());
    EXPECT_TRUE(co_await t.reads(*to, 0, 4096, 4));
    EXPECT_TRUE(co_await t.reads(*to, 4096, 4096, 0));
    // Inside one file; overlapping is for the caller to do.
    EXPECT_TRUE((co_await from->copy_from(*from, 0, 131072, 4096)).has_value());
    EXPECT_TRUE(co_await t.reads(*from, 131072, 4096, 3));
    EXPECT_EQ((co_await from->copy_from(*from, 0, 4096, 8192)).error().number(), ENOTSUP);
    co_await from->close();
    co_await to->close();
  });
}

TEST_P(ProductionFiles, Truncates) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    EXPECT_TRUE((co_await file->truncate(1 << 20, FilePreallocation::kOff)).has_value());
    EXPECT_EQ(co_await t.size(*file), 1U << 20);
    EXPECT_EQ((co_await file->info())->allocated, 0U);
    EXPECT_TRUE((co_await file->truncate(2 << 20, FilePreallocation::kFalloc)).has_value());
    EXPECT_EQ((co_await file->info())->allocated, 1U << 20);
    EXPECT_TRUE((co_await file->truncate(3 << 20, FilePreallocation::kFull)).has_value());
    EXPECT_EQ((co_await file->info())->allocated, 2U << 20);
    EXPECT_TRUE(co_await t.reads(*file, 0, 3 << 20, 0));
    // To a length and from a length that O_DIRECT cannot write.
    EXPECT_TRUE((co_await file->truncate((3 << 20) + 700, FilePreallocation::kFull)).has_value());
    EXPECT_TRUE((co_await file->truncate((3 << 20) + 900, FilePreallocation::kFull)).has_value());
    EXPECT_EQ(co_await t.size(*file), (3U << 20) + 900);
    EXPECT_EQ((co_await file->truncate(4096, FilePreallocation::kFull)).error().number(), ENOTSUP);
    EXPECT_TRUE((co_await file->truncate(4096, FilePreallocation::kOff)).has_value());
    EXPECT_EQ(co_await t.size(*file), 4096U);
    EXPECT_EQ((co_await file->truncate(UINT64_MAX, FilePreallocation::kOff)).error().number(),
              EFBIG);
    co_await file->close();
  });
}

TEST_P(ProductionFiles, KnowsItsHoles) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    EXPECT_TRUE((co_await file->truncate(4 << 20, FilePreallocation::kOff)).has_value());
    co_await t.write(*file, 1 << 20, 65536, 1);
    auto extent = co_await file->extent(0, 4 << 20);
    EXPECT_FALSE(extent->data);
    EXPECT_EQ(extent->length, 1U << 20);
    extent = co_await file->extent((1 << 20) + 4096, 4 << 20);
    EXPECT_TRUE(extent->data);
    EXPECT_EQ(extent->length, 61440U);
    extent = co_await file->extent((1 << 20) + 4096, 512);
    EXPECT_EQ(extent->length, 512U);
    extent = co_await file->extent((1 << 20) + 65536, 1 << 20);
    EXPECT_FALSE(extent->data);
    EXPECT_EQ(extent->length, 1U << 20);
    co_await file->close();
  });
}

// The end of a run of data is not asked for twice, unless this file made a hole there.
TEST_P(ProductionFiles, RemembersARunOfData) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    const auto other = co_await t.open("a");
    co_await t.write(*file, 0, 4 << 20, 1);
    EXPECT_EQ((co_await file->extent(0, 8 << 20))->length, 4U << 20);
    EXPECT_TRUE((co_await other->discard(3 << 20, 65536)).has_value());
    EXPECT_EQ((co_await file->extent(1 << 20, 8 << 20))->length, 3U << 20);

    EXPECT_TRUE((co_await file->discard(2 << 20, 65536)).has_value());
    EXPECT_FALSE((co_await file->extent(2 << 20, 8 << 20))->data);
    EXPECT_EQ((co_await file->extent(1 << 20, 8 << 20))->length, 1U << 20);
    EXPECT_TRUE((co_await file->zero(0, 65536, true)).has_value());
    EXPECT_FALSE((co_await file->extent(0, 8 << 20))->data);
    EXPECT_EQ((co_await file->extent(65536, 8 << 20))->length, (2U << 20) - 65536);
    EXPECT_TRUE((co_await file->truncate(1 << 20, FilePreallocation::kOff)).has_value());
    EXPECT_TRUE((co_await file->truncate(4 << 20, FilePreallocation::kOff)).has_value());
    EXPECT_EQ((co_await file->extent(65536, 8 << 20))->length, (1U << 20) - 65536);
    EXPECT_FALSE((co_await file->extent(1 << 20, 8 << 20))->data);
    co_await file->close();
    co_await other->close();
  });
}

TEST_P(ProductionFiles, LocksConflictBetweenOpenFiles) {
  RUN([](T& t) -> Task<void> {
    const auto one = co_await t.open("a");
    const auto two = co_await t.open("a");
    EXPECT_FALSE(*one->is_locked_by_others(100, 8));
    EXPECT_TRUE(*one->try_lock_shared(100, 4));
    EXPECT_TRUE(*two->try_lock_shared(101, 1));
    EXPECT_FALSE(*one->is_locked_by_others(100, 1));
    EXPECT_TRUE(*one->is_locked_by_others(101, 1));
    EXPECT_TRUE(*two->is_locked_by_others(100, 1));
    EXPECT_TRUE(one->unlock(101, 1).has_value());
    EXPECT_FALSE(*two->is_locked_by_others(101, 1));
    EXPECT_TRUE(*two->is_locked_by_others(102, 1));

    // An exclusive lock of somebody else, as another program may hold.
    const int foreign = ::open(t.path("a").c_str(), O_RDWR | O_CLOEXEC);
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = 500;
    lock.l_len = 1;
    EXPECT_EQ(::fcntl(foreign, F_OFD_SETLK, &lock), 0);
    EXPECT_FALSE(*one->try_lock_shared(500, 1));
    EXPECT_TRUE(*one->is_locked_by_others(500, 1));
    ::close(foreign);
    EXPECT_TRUE(*one->try_lock_shared(500, 1));
    co_await one->close();
    EXPECT_FALSE(*two->is_locked_by_others(100, 8));
    co_await two->close();
  });
}

TEST_P(ProductionFiles, ReopensWithItsLocks) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    const auto other = co_await t.open("a");
    co_await t.write(*file, 0, 4096, 6);
    EXPECT_TRUE(*file->try_lock_shared(100, 8));
    EXPECT_TRUE(file->unlock(103, 1).has_value());
    // The name goes away: the file is still the same one.
    EXPECT_TRUE((co_await t.env_.unlink(t.path("a"))).has_value());
    FileOpenOptions options = t.options();
    options.create = options.write = false;
    EXPECT_TRUE((co_await file->reopen(options)).has_value());
    EXPECT_TRUE(*other->is_locked_by_others(100, 3));
    EXPECT_FALSE(*other->is_locked_by_others(103, 1));
    EXPECT_TRUE(*other->is_locked_by_others(107, 1));
    EXPECT_TRUE(co_await t.reads(*file, 0, 4096, 6));
    const Buffer buffer = Buffer::zeroed(4096);
    EXPECT_EQ((co_await file->write(0, buffer.io())).error().number(), EBADF);
    options.write = true;
    options.direct = false;
    options.aio = FileAio::kThreads;
    EXPECT_TRUE((co_await file->reopen(options)).has_value());
    EXPECT_EQ(file->alignment(), 1U);
    co_await t.write(*file, 100, 300, 7);
    EXPECT_TRUE(*other->is_locked_by_others(100, 3));
    co_await file->close();
    EXPECT_FALSE(*other->is_locked_by_others(100, 8));
    co_await other->close();
  });
}

TEST_P(ProductionFiles, OpensWhatIsThere) {
  RUN([](T& t) -> Task<void> {
    FileOpenOptions read;
    EXPECT_EQ((co_await t.env_.open_file(t.path("none"), read)).error().number(), ENOENT);
    FileOpenOptions write;
    write.write = true;
    EXPECT_EQ((co_await t.env_.open_file(t.path("none"), write)).error().number(), ENOENT);
    EXPECT_EQ((co_await t.env_.open_file(t.directory_, write)).error().number(), EISDIR);
    EXPECT_EQ((co_await t.env_.open_file(t.path("none/x"), t.options())).error().number(), ENOENT);
    EXPECT_EQ((co_await t.env_.unlink(t.path("none"))).error().number(), ENOENT);

    auto directory = co_await t.env_.open_file(t.directory_, read);
    EXPECT_EQ((*directory)->kind(), FileKind::kOther);
    co_await (*directory)->close();
    auto zero = co_await t.env_.open_file("/dev/zero", write);
    EXPECT_EQ((*zero)->kind(), FileKind::kCharacterDevice);
    co_await (*zero)->close();

    // Opening a FIFO must not wait for its other end.
    EXPECT_EQ(::mkfifo(t.path("fifo").c_str(), 0600), 0);
    auto fifo = co_await t.env_.open_file(t.path("fifo"), read);
    EXPECT_EQ((*fifo)->kind(), FileKind::kOther);
    co_await (*fifo)->close();

    const auto file = co_await t.open("a");
    co_await t.write(*file, 0, 4096, 1);
    FileOpenOptions again = t.options();
    again.truncate = true;
    const auto emptied = co_await t.env_.open_file(t.path("a"), again);
    EXPECT_EQ(co_await t.size(**emptied), 0U);
    co_await (*emptied)->close();
    co_await file->close();
    struct stat status;
    EXPECT_EQ(::stat(t.path("a").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777 & ~0644U, 0U);
  });
}

TEST_P(ProductionFiles, OpensADescriptorByName) {
  std::ofstream(path("a")) << std::string(4096, '\2');
  const int descriptor = ::open(path("a").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  ::unlink(path("a").c_str());
  const std::string name = "/dev/fd/" + std::to_string(descriptor);
  const auto body = [](T& t, std::string dev_name) -> Task<void> {
    FileOpenOptions options = t.options();
    options.create = false;
    const auto file = co_await t.env_.open_file(dev_name, options);
    EXPECT_TRUE(file.has_value());
    EXPECT_TRUE(co_await t.reads(**file, 0, 4096, 2));
    co_await t.write(**file, 4096, 4096, 3);
    co_await (*file)->close();
  };
  env_.run_until_complete(body(*this, name));
  EXPECT_EQ(::lseek(descriptor, 0, SEEK_END), 8192);
  ::close(descriptor);
}

TEST_P(ProductionFiles, RefusesRangesThatNoFileHas) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    const Buffer buffer = Buffer::zeroed(4096);
    const uint64_t last = (uint64_t{1} << 63) - 4096;
    EXPECT_EQ((co_await file->read(last + 4096, buffer.io())).error().number(), EINVAL);
    EXPECT_EQ((co_await file->write(last + 4096, buffer.io())).error().number(), EFBIG);
    EXPECT_EQ((co_await file->zero(UINT64_MAX - 4095, 4096, true)).error().number(), EFBIG);
    EXPECT_EQ((co_await file->discard(UINT64_MAX - 4095, 4096)).error().number(), EINVAL);
    EXPECT_EQ((co_await file->copy_from(*file, UINT64_MAX - 4095, 0, 4096)).error().number(),
              EINVAL);
    EXPECT_TRUE((co_await file->read(0, IoVector())).has_value());
    EXPECT_TRUE((co_await file->write(0, IoVector())).has_value());
    co_await file->close();
  });
}

TEST_P(ProductionFiles, TellsItsAlignment) {
  RUN([](T& t) -> Task<void> {
    const auto file = co_await t.open("a");
    if (t.options().direct) {
      EXPECT_GE(file->alignment(), 1U);
      EXPECT_LE(file->alignment(), 4096U);
      EXPECT_EQ(file->alignment() & (file->alignment() - 1), 0U);
    } else {
      EXPECT_EQ(file->alignment(), 1U);
    }
    co_await file->close();
  });
}

constexpr Setting kSettings[] = {
    {"DiskThreads", "", Way::kThreads, false},
    {"DiskRing", "", Way::kRing, false},
    {"DiskRingRefused", "", Way::kRingRefused, false},
    {"DiskThreadsDirect", "", Way::kThreads, true},
    {"DiskRingDirect", "", Way::kRing, true},
    {"MemoryThreads", "/dev/shm", Way::kThreads, false},
    {"MemoryRing", "/dev/shm", Way::kRing, false},
};

INSTANTIATE_TEST_SUITE_P(Everywhere, ProductionFiles, ::testing::ValuesIn(kSettings),
                         [](const auto& setting) { return setting.param.name; });

TEST(InlineGuard, PausesAfterWatchedSleeps) {
  InlineGuard guard;
  int64_t now = 1'000'000'000'000;
  EXPECT_TRUE(guard.allows(now));
  EXPECT_FALSE(guard.watches(now));
  // Slow, and nobody knows why: only watched from then on.
  guard.was_slow(now, false);
  EXPECT_TRUE(guard.allows(now));
  EXPECT_TRUE(guard.watches(now));
  EXPECT_FALSE(guard.watches(now + InlineGuard::kWatch));
  // It slept: others do the waiting, longer each time.
  int64_t pause = InlineGuard::kFirstPause;
  for (int i = 0; i < 10; ++i) {
    guard.was_slow(now, true);
    EXPECT_FALSE(guard.allows(now + pause - 1));
    now += pause;
    EXPECT_TRUE(guard.allows(now));
    EXPECT_TRUE(guard.watches(now));
    pause = std::min(pause * 2, InlineGuard::kLongestPause);
  }
  // After a quiet time it begins anew.
  now += InlineGuard::kForget;
  EXPECT_FALSE(guard.watches(now));
  guard.was_slow(now, true);
  EXPECT_FALSE(guard.allows(now));
  EXPECT_TRUE(guard.allows(now + InlineGuard::kFirstPause));
}

}  // namespace
}  // namespace blockbed
