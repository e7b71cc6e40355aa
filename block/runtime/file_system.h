// What the system says about an open descriptor, and opening one.
//
// Contract: plain system calls in order, errno as the result; each says whether it may wait for a
// disk. Units: bytes. Threading: any thread.
#pragma once

#include <cstdint>
#include <string>

#include "block/runtime/file.h"
#include "block/runtime/result.h"

namespace blockbed::file_system {

// May wait for a disk, but not for a peer: a FIFO is opened without waiting for its other end.
Result<int> open_descriptor(const std::string& path, const FileOpenOptions& options);
// EAGAIN when the kernel would have to look at a disk, or when the options create or truncate.
Result<int> open_cached(const std::string& path, const FileOpenOptions& options);

struct Properties {
  FileKind kind = FileKind::kOther;
  uint64_t size = 0;
  uint64_t allocated = 0;
  // No name leads to it any more: closing it can free what it holds.
  bool unlinked = false;
};
// Does not wait on local file systems.
Result<Properties> properties(int descriptor);

// The unit that O_DIRECT requests must keep to. May read from the device to find out.
uint32_t direct_alignment(int descriptor, FileKind kind);

// 0, or an errno; a range to and beyond the end extends a regular file. On workers only.
int write_zeroes(int descriptor, uint64_t offset, uint64_t length);

}  // namespace blockbed::file_system
