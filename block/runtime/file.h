// File: a regular file or a device as the Env gives it.
//
// Contract
//  - read and write move exactly buffers.size() bytes or fail. Reading beyond the end gives zeroes;
//    writing beyond the end of a regular file extends it.
//  - Offsets, lengths and memory of a file opened with `direct` are multiples of alignment().
//  - What write completed is not durable until a later flush() has completed: the crash model of
//    the simulator.
//  - Requests may run in parallel and in any order; overlapping ones give either's bytes, sector by
//    sector.
//  - The object is destroyed after close() has ended; no request may be in flight then.
// Units: bytes. Errors: errno; ENOSPC and EFBIG matter to callers, ENOTSUP means "this file cannot
// do that, use another way" and leaves the file as it was.
#pragma once

#include <cstdint>
#include <string>

#include "block/runtime/buffers.h"
#include "block/runtime/result.h"
#include "block/runtime/task.h"

namespace blockbed {

// How asynchronous I/O is done; the names are QEMU's `aio` values.
enum class FileAio { kThreads, kNative, kIoUring };

struct FileOpenOptions {
  bool write = false;
  bool create = false;    // with mode 0644, when it is absent
  bool truncate = false;  // to length 0 at open
  bool direct = false;    // O_DIRECT
  FileAio aio = FileAio::kThreads;

  FileOpenOptions() = default;
};

enum class FileKind { kRegular, kBlockDevice, kCharacterDevice, kOther };

struct FileInfo {
  FileKind kind = FileKind::kRegular;
  uint64_t size = 0;
  // Bytes that take up space: 512 times st_blocks.
  uint64_t allocated = 0;
};

// A run of bytes that the file system knows to be data or a hole.
struct FileExtent {
  uint64_t length = 0;
  bool data = true;
};

// The forms of making room that QEMU's `preallocation` names.
enum class FilePreallocation { kOff, kFalloc, kFull };

class File {
 public:
  virtual ~File() = default;

  virtual Task<Result<void>> read(uint64_t offset, IoVector buffers) = 0;
  virtual Task<Result<void>> write(uint64_t offset, IoVector buffers) = 0;
  // Everything that completed before this call is durable when it returns.
  virtual Task<Result<void>> flush() = 0;
  // A flush will come, but not soon: what was written may begin to go to the disk. Nothing is
  // durable by it, and the flush tells what failed.
  virtual Task<void> expect_flush() = 0;

  // Makes the range read as zeroes. may_unmap allows the space to be given back. ENOTSUP when only
  // writing zeroes can do it.
  virtual Task<Result<void>> zero(uint64_t offset, uint64_t length, bool may_unmap) = 0;
  // Gives space back; the range then reads as zeroes on a regular file, as anything on a device.
  // ENOTSUP when it cannot.
  virtual Task<Result<void>> discard(uint64_t offset, uint64_t length) = 0;
  // Copies inside the kernel (copy_file_range or reflink). ENOTSUP when these two files cannot.
  virtual Task<Result<void>> copy_from(File& source, uint64_t source_offset, uint64_t offset,
                                       uint64_t length) = 0;

  virtual Task<Result<void>> truncate(uint64_t size, FilePreallocation preallocation) = 0;
  virtual Task<Result<FileInfo>> info() = 0;
  // The run that begins at `offset`, which lies inside the file; at most `length` long. Holes that
  // somebody else makes may be seen late: they are told as data, which they are as well.
  virtual Task<Result<FileExtent>> extent(uint64_t offset, uint64_t length) = 0;

  // Smallest unit of offset, length and memory address: 1, or the device's with `direct`.
  virtual uint32_t alignment() const = 0;
  virtual FileKind kind() const = 0;

  // OFD byte locks (fcntl F_OFD_SETLK), shared only. False: somebody else holds a conflicting lock.
  virtual Result<bool> try_lock_shared(uint64_t start, uint64_t length) = 0;
  virtual Result<void> unlock(uint64_t start, uint64_t length) = 0;
  // True when another open file description holds a lock that an exclusive lock on this range would
  // meet.
  virtual Result<bool> is_locked_by_others(uint64_t start, uint64_t length) = 0;

  // Changes writability without losing locks or identity: the object stays, its descriptor is
  // replaced.
  virtual Task<Result<void>> reopen(FileOpenOptions options) = 0;
  virtual Task<Result<void>> close() = 0;
};

}  // namespace blockbed
