// amend: another version of the format, other widths of counts, other options of an image there is.
//
// Contract
//  - The image is open for writing and nobody sends it requests. The caller closes it afterwards.
//  - What can be refused is refused before anything is changed. After another failure, and after a
//    crash at any instant, the image is whole: some of what was asked may be done, and clusters may
//    leak. New reference counts are complete and on the disk before the header, in one sector,
//    refers to them.
// Units: bytes. Errors: texts of QEMU. Threading: engine thread only.
// Source: qcow2 specification; the texts of `qemu-img amend` of QEMU 7.2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/formats/qcow2/image.h"

namespace blockbed::qcow2 {

struct AmendOptions {
  std::optional<uint32_t> version;
  std::optional<bool> lazy_refcounts;
  std::optional<uint64_t> refcount_bits;
  std::optional<uint64_t> size;
  // Only to what they are already.
  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  // "" takes the name away.
  std::optional<std::string> data_file;
  std::optional<bool> data_file_raw;
};

Task<Expected<void>> amend(Image& image, AmendOptions options);

}  // namespace blockbed::qcow2
