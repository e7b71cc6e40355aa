#include "block/runtime/file_system.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/runtime/buffers.h"

// Kernel headers newer than the C library's struct statx.
#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x00002000U
#endif

namespace blockbed::file_system {

namespace {

int flags_of(const FileOpenOptions& options) {
  int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (options.write ? O_RDWR : O_RDONLY);
  if (options.create) flags |= O_CREAT;
  if (options.truncate) flags |= O_TRUNC;
  if (options.direct) flags |= O_DIRECT;
  return flags;
}

// O_NONBLOCK keeps open() from waiting for a FIFO's other end, but makes io_uring answer EAGAIN
// later.
Result<int> opened(int descriptor) {
  if (descriptor < 0) return io_error(errno);
  const int flags = ::fcntl(descriptor, F_GETFL);
  ::fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
  return descriptor;
}

// The kernel's layout of the first 256 bytes; only what is asked for here is named.
struct StatxDirect {
  uint32_t mask;
  uint32_t before[37];
  uint32_t memory_alignment;
  uint32_t offset_alignment;
  uint32_t after[24];
};
static_assert(sizeof(StatxDirect) == 256);

}  // namespace

Result<int> open_descriptor(const std::string& path, const FileOpenOptions& options) {
  return opened(::open(path.c_str(), flags_of(options), 0644));
}

Result<int> open_cached(const std::string& path, const FileOpenOptions& options) {
  if (options.create || options.truncate) return io_error(EAGAIN);
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags_of(options));
  how.resolve = RESOLVE_CACHED;
  const long descriptor = ::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how);
  // Kernels and filters that do not know the call.
  if (descriptor < 0 && (errno == ENOSYS || errno == EPERM || errno == EINVAL)) {
    return io_error(EAGAIN);
  }
  return opened(static_cast<int>(descriptor));
}

Result<Properties> properties(int descriptor) {
  struct stat status;
  if (::fstat(descriptor, &status) != 0) return io_error(errno);
  Properties result;
  result.unlinked = status.st_nlink == 0;
  result.size = static_cast<uint64_t>(status.st_size);
  result.allocated = static_cast<uint64_t>(status.st_blocks) * 512;
  if (S_ISREG(status.st_mode)) {
    result.kind = FileKind::kRegular;
  } else if (S_ISBLK(status.st_mode)) {
    result.kind = FileKind::kBlockDevice;
    uint64_t size = 0;
    if (::ioctl(descriptor, BLKGETSIZE64, &size) != 0) return io_error(errno);
    result.size = size;
  } else if (S_ISCHR(status.st_mode)) {
    result.kind = FileKind::kCharacterDevice;
    const off_t end = ::lseek(descriptor, 0, SEEK_END);
    result.size = end > 0 ? static_cast<uint64_t>(end) : 0;
  }
  return result;
}

uint32_t direct_alignment(int descriptor, FileKind kind) {
  StatxDirect direct = {};
  if (::syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &direct) == 0 &&
      (direct.mask & STATX_DIOALIGN) != 0 && direct.offset_alignment != 0) {
    return std::max(direct.memory_alignment, direct.offset_alignment);
  }
  if (kind == FileKind::kBlockDevice) {
    int sector = 0;
    if (::ioctl(descriptor, BLKSSZGET, &sector) == 0 && sector > 0) {
      return static_cast<uint32_t>(sector);
    }
  }
  // What fails with EINVAL is too small a unit.
  const Buffer probe(kBufferAlignment * 2);
  for (const uint32_t unit : {512U, 1024U, 2048U}) {
    auto* memory = const_cast<std::byte*>(probe.data()) + unit;
    if (::pread(descriptor, memory, unit, unit) >= 0 || errno != EINVAL) return unit;
  }
  return kBufferAlignment;
}

namespace {

int write_zeroes_to(int descriptor, uint64_t offset, uint64_t length) {
  constexpr std::size_t kPart = std::size_t{1} << 20;
  const Buffer zeroes = Buffer::zeroed(std::min<uint64_t>(kPart, length));
  while (length > 0) {
    const ssize_t written =
        ::pwrite(descriptor, zeroes.data(), std::min<uint64_t>(zeroes.size(), length),
                 static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return ENOSPC;
    offset += static_cast<uint64_t>(written);
    length -= static_cast<uint64_t>(written);
  }
  return 0;
}

}  // namespace

int write_zeroes(int descriptor, uint64_t offset, uint64_t length) {
  const bool direct = (::fcntl(descriptor, F_GETFL) & O_DIRECT) != 0;
  if (!direct || (offset % kBufferAlignment == 0 && length % kBufferAlignment == 0)) {
    return write_zeroes_to(descriptor, offset, length);
  }
  // A range that O_DIRECT cannot write: through the page cache.
  const std::string same = "/proc/self/fd/" + std::to_string(descriptor);
  const int buffered = ::open(same.c_str(), O_RDWR | O_CLOEXEC);
  if (buffered < 0) return errno;
  const int error = write_zeroes_to(buffered, offset, length);
  ::close(buffered);
  return error;
}

}  // namespace blockbed::file_system
