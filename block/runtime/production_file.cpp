#include "block/runtime/production_file.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "block/runtime/assert.h"
#include "block/runtime/file_system.h"

namespace blockbed {

namespace {

std::span<const iovec> ranges_of_one_call(const IoVector& buffers) {
  const std::span<const iovec> all = buffers.ranges();
  return all.first(std::min<std::size_t>(all.size(), IOV_MAX));
}

ssize_t preadv_all(int descriptor, const IoVector& buffers, uint64_t offset, int flags) {
  const auto ranges = ranges_of_one_call(buffers);
  ssize_t count;
  do {
    count = ::preadv2(descriptor, ranges.data(), static_cast<int>(ranges.size()),
                      static_cast<off_t>(offset), flags);
  } while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : count;
}

ssize_t pwritev_all(int descriptor, const IoVector& buffers, uint64_t offset) {
  const auto ranges = ranges_of_one_call(buffers);
  ssize_t count;
  do {
    count = ::pwritev(descriptor, ranges.data(), static_cast<int>(ranges.size()),
                      static_cast<off_t>(offset));
  } while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : count;
}

// How often this thread gave its processor up to wait for something.
long times_slept() {
  rusage usage;
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

bool range_exists(uint64_t offset, uint64_t length) {
  return offset <= INT64_MAX && length <= INT64_MAX - offset;
}

}  // namespace

ProductionFile::ProductionFile(IoServices& services, std::string path, FileOpenOptions options,
                               int descriptor)
    : services_(services),
      path_(std::move(path)),
      options_(options),
      descriptor_(descriptor),
      buffered_writers_(services.loop, kBufferedWriters) {}

ProductionFile::~ProductionFile() {
  BB_ASSERT(away_ == 0);
  BB_ASSERT(descriptor_ < 0);
}

Task<Result<std::unique_ptr<File>>> ProductionFile::open(IoServices& services, std::string path,
                                                         FileOpenOptions options) {
  Result<int> descriptor = file_system::open_cached(path, options);
  if (!descriptor && descriptor.error().number() == EAGAIN) {
    descriptor = co_await services.pool.run(
        [&path, &options] { return file_system::open_descriptor(path, options); });
  }
  if (!descriptor) co_return io_error(descriptor.error());
  std::unique_ptr<ProductionFile> file(
      new ProductionFile(services, std::move(path), options, *descriptor));
  const Result<file_system::Properties> properties = file_system::properties(*descriptor);
  if (!properties) {
    co_await file->close();
    co_return io_error(properties.error());
  }
  file->kind_ = properties->kind;
  if (options.direct) {
    file->alignment_ = co_await services.pool.run(
        [kind = file->kind_, fd = *descriptor] { return file_system::direct_alignment(fd, kind); });
  }
  co_return file;
}

void ProductionFile::check_range(uint64_t offset, const IoVector& buffers) const {
  if (!options_.direct) return;
  BB_ASSERT(offset % alignment_ == 0 && buffers.aligned_to(alignment_));
}

Task<Result<void>> ProductionFile::read(uint64_t offset, IoVector buffers) {
  check_range(offset, buffers);
  if (!range_exists(offset, buffers.size())) co_return io_error(EINVAL);
  if (buffers.empty()) co_return {};
  std::size_t done = 0;
  if (!options_.direct && !refused_.nowait_read) {
    const ssize_t count = preadv_all(descriptor_, buffers, offset, RWF_NOWAIT);
    if (count == static_cast<ssize_t>(buffers.size())) co_return {};
    if (count == 0) {
      buffers.fill(0);
      co_return {};
    }
    if (count == -EOPNOTSUPP) {
      refused_.nowait_read = true;
    } else if (count < 0 && count != -EAGAIN) {
      co_return io_error(static_cast<int>(-count));
    }
    done = count > 0 ? static_cast<std::size_t>(count) : 0;
  }
  co_return co_await read_away(offset, std::move(buffers), done);
}

Task<Result<void>> ProductionFile::read_away(uint64_t offset, IoVector buffers, std::size_t done) {
  const Away away(*this);
  Ring* const ring = this->ring();
  while (done < buffers.size()) {
    const IoVector rest = buffers.slice(done, buffers.size() - done);
    const uint64_t at = offset + done;
    ssize_t count = -EAGAIN;
    if (ring != nullptr) {
      count = co_await ring->readv(descriptor_, ranges_of_one_call(rest), at);
      if (count == -EINTR) continue;
    }
    if (count == -EAGAIN) {
      count = co_await services_.pool.run(
          [this, &rest, at] { return preadv_all(descriptor_, rest, at, 0); });
    }
    if (count < 0) co_return io_error(static_cast<int>(-count));
    done += static_cast<std::size_t>(count);
    // The end of the file: the only place where a direct read stops between two units.
    if (count == 0 || done % alignment_ != 0) {
      buffers.slice(done, buffers.size() - done).fill(0);
      break;
    }
  }
  co_return {};
}

Task<Result<void>> ProductionFile::write(uint64_t offset, IoVector buffers) {
  check_range(offset, buffers);
  if (!range_exists(offset, buffers.size())) co_return io_error(EFBIG);
  if (buffers.empty()) co_return {};
  std::size_t done = 0;
  if (!options_.direct && buffers.size() <= kInlineWriteLimit) {
    const int64_t begin = EventLoop::now();
    if (guard_.allows(begin)) {
      const bool watched = guard_.watches(begin);
      const long slept_before = watched ? times_slept() : 0;
      const ssize_t count = pwritev_all(descriptor_, buffers, offset);
      if (const int64_t end = EventLoop::now(); end - begin > InlineGuard::kSlow) [[unlikely]] {
        guard_.was_slow(end, watched && times_slept() != slept_before);
      }
      if (count == static_cast<ssize_t>(buffers.size())) co_return {};
      if (count < 0) co_return io_error(static_cast<int>(-count));
      done = static_cast<std::size_t>(count);
    }
  }
  co_return co_await write_away(offset, std::move(buffers), done);
}

Task<Result<void>> ProductionFile::write_away(uint64_t offset, IoVector buffers, std::size_t done) {
  const Away away(*this);
  Ring* const ring = this->ring();
  while (done < buffers.size()) {
    const IoVector rest = buffers.slice(done, buffers.size() - done);
    const uint64_t at = offset + done;
    ssize_t count = -EAGAIN;
    if (ring != nullptr) {
      count = co_await ring->writev(descriptor_, ranges_of_one_call(rest), at);
      if (count == -EINTR) continue;
    }
    if (count == -EAGAIN) {
      const bool in_turn = kind_ == FileKind::kRegular && !options_.direct;
      if (in_turn) co_await buffered_writers_.acquire();
      count = co_await services_.pool.run(
          [this, &rest, at] { return pwritev_all(descriptor_, rest, at); });
      if (in_turn) buffered_writers_.release();
    }
    if (count < 0) co_return io_error(static_cast<int>(-count));
    if (count == 0) co_return io_error(ENOSPC);
    done += static_cast<std::size_t>(count);
  }
  write_out_.wrote(offset, buffers.size());
  co_return {};
}

Task<Result<void>> ProductionFile::flush() {
  const Away away(*this);
  int error;
  if (Ring* const ring = this->ring(); ring != nullptr) {
    do {
      error = -co_await ring->data_sync(descriptor_);
    } while (error == EINTR || error == EAGAIN);
  } else {
    error = co_await services_.pool.run([fd = descriptor_] {
      while (::fdatasync(fd) != 0) {
        if (errno != EINTR) return errno;
      }
      return 0;
    });
  }
  if (error != 0) co_return io_error(error);
  co_return {};
}

Task<void> ProductionFile::expect_flush() {
  if (!options_.write || options_.direct) co_return;
  const Away away(*this);
  const std::vector<uint64_t> pieces = write_out_.take(descriptor_);
  if (pieces.empty()) co_return;
  co_await services_.pool.run([this, &pieces] { write_out_.send(pieces); });
}

Task<Result<FileInfo>> ProductionFile::info() {
  const Result<file_system::Properties> properties = file_system::properties(descriptor_);
  if (!properties) co_return io_error(properties.error());
  FileInfo info;
  info.kind = properties->kind;
  info.size = properties->size;
  info.allocated = properties->allocated;
  co_return info;
}

Result<bool> ProductionFile::try_lock_shared(uint64_t start, uint64_t length) {
  BB_ASSERT(length > 0 && range_exists(start, length));
  struct flock lock = {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  lock.l_len = static_cast<off_t>(length);
  if (::fcntl(descriptor_, F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) return false;
    return io_error(errno);
  }
  locks_.push_back({start, length});
  return true;
}

Result<void> ProductionFile::unlock(uint64_t start, uint64_t length) {
  struct flock lock = {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  lock.l_len = static_cast<off_t>(length);
  if (::fcntl(descriptor_, F_OFD_SETLK, &lock) != 0) return io_error(errno);
  // The kernel cuts the range out of every lock that it meets; so does our list.
  std::vector<Lock> left;
  const uint64_t end = start + length;
  for (const Lock& held : locks_) {
    const uint64_t held_end = held.start + held.length;
    if (held_end <= start || held.start >= end) {
      left.push_back(held);
      continue;
    }
    if (held.start < start) left.push_back({held.start, start - held.start});
    if (held_end > end) left.push_back({end, held_end - end});
  }
  locks_ = std::move(left);
  return {};
}

Result<bool> ProductionFile::is_locked_by_others(uint64_t start, uint64_t length) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  lock.l_len = static_cast<off_t>(length);
  if (::fcntl(descriptor_, F_OFD_GETLK, &lock) != 0) return io_error(errno);
  return lock.l_type != F_UNLCK;
}

Task<Result<void>> ProductionFile::reopen(FileOpenOptions options) {
  BB_ASSERT(away_ == 0);
  BB_ASSERT(!options.create && !options.truncate);
  // Through the descriptor: the name may lead elsewhere by now.
  const std::string same = "/proc/self/fd/" + std::to_string(descriptor_);
  Result<int> opened = co_await services_.pool.run([this, &same, &options] {
    Result<int> result = file_system::open_descriptor(same, options);
    if (!result && result.error().number() == ENOENT && ::access("/proc/self/fd", F_OK) != 0) {
      result = file_system::open_descriptor(path_, options);
    }
    return result;
  });
  if (!opened) co_return io_error(opened.error());
  // Shared locks of both descriptions stand side by side until the old one is closed.
  for (const Lock& held : locks_) {
    struct flock lock = {};
    lock.l_type = F_RDLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(held.start);
    lock.l_len = static_cast<off_t>(held.length);
    if (::fcntl(*opened, F_OFD_SETLK, &lock) != 0) {
      const int error = errno;
      ::close(*opened);
      co_return io_error(error);
    }
  }
  uint32_t alignment = 1;
  if (options.direct) {
    alignment = co_await services_.pool.run(
        [fd = *opened, kind = kind_] { return file_system::direct_alignment(fd, kind); });
  }
  write_out_.stop();
  ::close(std::exchange(descriptor_, *opened));
  options_ = options;
  alignment_ = alignment;
  co_return {};
}

Task<Result<void>> ProductionFile::close() {
  BB_ASSERT(away_ == 0 && descriptor_ >= 0);
  const int descriptor = std::exchange(descriptor_, -1);
  locks_.clear();
  write_out_.stop();
  int error = 0;
  const auto close_it = [descriptor, &error] {
    // Linux has closed it whatever the outcome.
    if (::close(descriptor) != 0 && errno != EINTR) error = errno;
  };
  const Result<file_system::Properties> properties = file_system::properties(descriptor);
  // Closing the last way to a file frees its blocks, and closing one that was truncated starts
  // writing: both take their time.
  if ((properties && properties->unlinked) || options_.truncate) {
    co_await services_.pool.run(close_it);
  } else {
    close_it();
  }
  if (error != 0) co_return io_error(error);
  co_return {};
}

}  // namespace blockbed
