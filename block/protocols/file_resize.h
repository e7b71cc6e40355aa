// Resizing a regular file so that who opens it next finds out what it is made of.
//
// Problem: how direct I/O on a file must be aligned is found by trying, and reading a hole shows
// nothing.
//
// Contract: as File::truncate; an empty file that grows without preallocation gets its first block,
// as far as there is room. Source of the rule: QEMU 7.2, tried out. Threading: engine thread only.
#pragma once

#include <cstdint>

#include "block/runtime/file.h"

namespace blockbed {

Task<Result<void>> resize_file(File& file, uint64_t length, FilePreallocation preallocation);

}  // namespace blockbed
