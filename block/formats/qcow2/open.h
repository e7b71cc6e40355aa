// Reading the header of a file: as much as is needed, in one read for most images.
//
// Errors: texts of QEMU. Threading: engine thread only.
#pragma once

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2 {

Task<Expected<Header>> read_header(Storage& file, HeaderUse use);
inline Task<Expected<Header>> read_header(Storage& file, bool writable) {
  return read_header(file, writable ? HeaderUse::kWriting : HeaderUse::kReading);
}

}  // namespace blockbed::qcow2
