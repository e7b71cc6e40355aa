// The operations of ProductionFile that change or tell where space is used.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "block/runtime/assert.h"
#include "block/runtime/file_system.h"
#include "block/runtime/production_file.h"

namespace blockbed {

namespace {

bool is_refusal(int error) { return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY; }

int allocate(int descriptor, int mode, uint64_t offset, uint64_t length) {
  while (::fallocate(descriptor, mode, static_cast<off_t>(offset), static_cast<off_t>(length)) !=
         0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

int punch(int descriptor, uint64_t offset, uint64_t length) {
  return allocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

int device_range(int descriptor, unsigned long request, uint64_t offset, uint64_t length) {
  uint64_t range[2] = {offset, length};
  return ::ioctl(descriptor, request, range) == 0 ? 0 : errno;
}

// Makes the file reach `end` without ever making it shorter: a concurrent write may be extending
// it further, which a look at the size followed by ftruncate() would undo.
int extend_to(int descriptor, uint64_t end) {
  const auto properties = file_system::properties(descriptor);
  if (!properties) return properties.error().number();
  if (properties->size >= end) return 0;
  if (allocate(descriptor, 0, end - 1, 1) == 0) return 0;
  return file_system::write_zeroes(descriptor, end - 1, 1);
}

// Tries `call` unless it was refused before; remembers a refusal. ENOTSUP when refused.
template <class Call>
int unless_refused(bool& refused, const Call& call) {
  if (refused) return ENOTSUP;
  const int error = call();
  if (!is_refusal(error)) return error;
  refused = true;
  return ENOTSUP;
}

Result<void> outcome(int error) {
  if (error != 0) return io_error(error);
  return {};
}

}  // namespace

Task<Result<void>> ProductionFile::zero(uint64_t offset, uint64_t length, bool may_unmap) {
  if (offset > INT64_MAX || length > INT64_MAX - offset) co_return io_error(EFBIG);
  if (length == 0) co_return {};
  const Away away(*this);
  const Emptying emptying(*this, offset, offset + length);
  // Workers see a copy: several may be at work.
  Refused refused = refused_;
  const int fd = descriptor_;
  const int error = co_await services_.pool.run([&refused, fd, offset, length, may_unmap,
                                                 kind = kind_] {
    if (kind == FileKind::kBlockDevice) {
      int result = ENOTSUP;
      if (may_unmap) {
        result = unless_refused(refused.punch_hole, [&] { return punch(fd, offset, length); });
      }
      if (result == ENOTSUP) {
        result = unless_refused(refused.device_zero,
                                [&] { return device_range(fd, BLKZEROOUT, offset, length); });
      }
      // A range that is not made of whole sectors: this one, not every one.
      return result == EINVAL ? ENOTSUP : result;
    }
    if (kind != FileKind::kRegular) return ENOTSUP;
    int result = ENOTSUP;
    if (may_unmap) {
      result = unless_refused(refused.punch_hole, [&] { return punch(fd, offset, length); });
      if (result == 0) return extend_to(fd, offset + length);
    }
    if (result == ENOTSUP) {
      result = unless_refused(refused.zero_range,
                              [&] { return allocate(fd, FALLOC_FL_ZERO_RANGE, offset, length); });
    }
    if (result == ENOTSUP && !may_unmap) {
      result = unless_refused(refused.punch_hole, [&] { return punch(fd, offset, length); });
      if (result == 0) {
        result = unless_refused(refused.allocate, [&] { return allocate(fd, 0, offset, length); });
      }
    }
    return result;
  });
  refused_.punch_hole |= refused.punch_hole;
  refused_.zero_range |= refused.zero_range;
  refused_.allocate |= refused.allocate;
  refused_.device_zero |= refused.device_zero;
  co_return outcome(error);
}

Task<Result<void>> ProductionFile::discard(uint64_t offset, uint64_t length) {
  if (offset > INT64_MAX || length > INT64_MAX - offset) co_return io_error(EINVAL);
  if (length == 0) co_return {};
  const bool device = kind_ == FileKind::kBlockDevice;
  bool& refusal = device ? refused_.device_discard : refused_.punch_hole;
  if (refusal || (!device && kind_ != FileKind::kRegular)) co_return io_error(ENOTSUP);
  const Away away(*this);
  const Emptying emptying(*this, offset, offset + length);
  int error = co_await services_.pool.run([fd = descriptor_, offset, length, device] {
    return device ? device_range(fd, BLKDISCARD, offset, length) : punch(fd, offset, length);
  });
  if (is_refusal(error)) {
    refusal = true;
    error = ENOTSUP;
  }
  if (device && error == EINVAL) error = ENOTSUP;
  co_return outcome(error);
}

Task<Result<void>> ProductionFile::copy_from(File& source, uint64_t source_offset, uint64_t offset,
                                             uint64_t length) {
  auto* const from = dynamic_cast<ProductionFile*>(&source);
  if (from == nullptr || refused_.copy || kind_ != FileKind::kRegular ||
      from->kind_ != FileKind::kRegular) {
    co_return io_error(ENOTSUP);
  }
  if (source_offset > INT64_MAX || offset > INT64_MAX || length > INT64_MAX - source_offset ||
      length > INT64_MAX - offset) {
    co_return io_error(EINVAL);
  }
  const Away away(*this);
  const Away source_away(*from);
  const Emptying emptying(*this, offset, offset + length);
  // copy_file_range() shares blocks by itself where the file system can (btrfs, xfs), so there is
  // no separate FICLONERANGE.
  uint64_t done = 0;
  const int error = co_await services_.pool.run(
      [&done, in = from->descriptor_, out = descriptor_, source_offset, offset, length] {
        while (done < length) {
          auto from_at = static_cast<off_t>(source_offset + done);
          auto to_at = static_cast<off_t>(offset + done);
          // The kernel copies at most 2 GiB a call.
          const uint64_t part = std::min<uint64_t>(length - done, uint64_t{1} << 30);
          const ssize_t count = ::copy_file_range(in, &from_at, out, &to_at, part, 0);
          if (count < 0 && errno == EINTR) continue;
          if (count < 0) return errno;
          // Beyond the source's end there are zeroes.
          if (count == 0) return file_system::write_zeroes(out, offset + done, length - done);
          done += static_cast<uint64_t>(count);
        }
        return 0;
      });
  if (is_refusal(error) && done == 0) refused_.copy = true;
  // EXDEV: two file systems. EINVAL: ranges that overlap. Reading and writing helps there.
  if (is_refusal(error) || error == EXDEV || error == EINVAL) co_return io_error(ENOTSUP);
  co_return outcome(error);
}

Task<Result<void>> ProductionFile::truncate(uint64_t size, FilePreallocation preallocation) {
  const auto properties = file_system::properties(descriptor_);
  if (!properties) co_return io_error(properties.error());
  const uint64_t before = properties->size;
  if (kind_ != FileKind::kRegular) {
    if (preallocation != FilePreallocation::kOff) co_return io_error(ENOTSUP);
    if (size == before) co_return {};
    co_return io_error(size > before ? EINVAL : ENOTSUP);
  }
  if (size > INT64_MAX) co_return io_error(EFBIG);
  if (preallocation != FilePreallocation::kOff && size < before) co_return io_error(ENOTSUP);
  const int fd = descriptor_;
  if (preallocation == FilePreallocation::kOff && size >= before) {
    // Growing by a hole touches the inode only.
    if (size > before && ::ftruncate(fd, static_cast<off_t>(size)) != 0) co_return io_error(errno);
    co_return {};
  }
  if (size == before) co_return {};
  const Away away(*this);
  const Emptying emptying(*this, std::min(size, before), UINT64_MAX);
  const int error = co_await services_.pool.run([fd, size, before, preallocation] {
    int result = 0;
    switch (preallocation) {
      case FilePreallocation::kOff:
        return ::ftruncate(fd, static_cast<off_t>(size)) == 0 ? 0 : errno;
      case FilePreallocation::kFalloc:
        // The C library writes a byte a block where the file system has no fallocate().
        result =
            ::posix_fallocate(fd, static_cast<off_t>(before), static_cast<off_t>(size - before));
        break;
      case FilePreallocation::kFull:
        // A size that is too large is found before anything is written.
        if (::ftruncate(fd, static_cast<off_t>(size)) != 0) return errno;
        result = file_system::write_zeroes(fd, before, size - before);
        if (result == 0 && ::fsync(fd) != 0) result = errno;
        break;
    }
    // What was allocated until the failure is given back. The first error is the one to tell.
    if (result != 0 && ::ftruncate(fd, static_cast<off_t>(before)) != 0) return result;
    return result;
  });
  co_return outcome(error);
}

void ProductionFile::forget_data(uint64_t begin, uint64_t end) {
  if (end <= data_begin_ || data_end_ <= begin) return;
  const uint64_t before = begin > data_begin_ ? begin - data_begin_ : 0;
  const uint64_t behind = data_end_ > end ? data_end_ - end : 0;
  // The longer part is still known.
  if (before >= behind) {
    data_end_ = data_begin_ + before;
  } else {
    data_begin_ = end;
  }
}

Task<Result<FileExtent>> ProductionFile::extent(uint64_t offset, uint64_t length) {
  BB_ASSERT(length > 0);
  if (offset > INT64_MAX) co_return io_error(EINVAL);
  FileExtent result;
  if (data_begin_ <= offset && offset < data_end_) {
    result.length = std::min(length, data_end_ - offset);
    co_return result;
  }
  result.length = length;
  const auto at = static_cast<off_t>(offset);
  const off_t data = ::lseek(descriptor_, at, SEEK_DATA);
  if (data < 0) {
    // No data from here to the end. Anything but ENXIO: it cannot tell, so all of it is data.
    result.data = errno != ENXIO;
    co_return result;
  }
  off_t end = data;
  if (data == at) {
    end = ::lseek(descriptor_, at, SEEK_HOLE);
    if (end <= at) co_return result;
    data_begin_ = offset;
    data_end_ = static_cast<uint64_t>(end);
  } else {
    result.data = false;
  }
  result.length = std::min<uint64_t>(length, static_cast<uint64_t>(end) - offset);
  co_return result;
}

}  // namespace blockbed
