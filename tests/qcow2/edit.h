// Edit: bytes that a test puts into an image, big-endian as the format has them.
#pragma once

#include <cstdint>
#include <string>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2::test {

struct Edit {
  uint64_t offset;
  std::string bytes;
};

template <class T>
Edit put(uint64_t offset, T value) {
  Edit edit{offset, std::string(sizeof(T), '\0')};
  store_be<T>(edit.bytes.data(), value);
  return edit;
}

}  // namespace blockbed::qcow2::test
