// Making new qcow2 images.
//
// Problem: images are made by blockdev-create (typed options, a node to write on) and by the older
// "create by option string" of drive-backup, drive-mirror and snapshots. Both end here.
//
// Contract
//  - check_create() says in QEMU's words what is wrong with the options, before anything is
//    touched.
//  - write_empty() overwrites the start of `file`, and leaves an image with a disk of no size; a
//    crash before its end leaves no image. finish(), on that image opened, makes of it the one that
//    was wanted, in the order of order_of_writes.md. So it is as an image that
//    the new one takes and refuses what it needs of its files, while it grows.
//  - create() does both on files that nobody else uses.
//  - The layout is QEMU's own (header, refcount table, one refcount block, L1 table), byte for byte
//    where nothing was preallocated. `file` keeps its length if it is longer: some cannot be cut.
//    Nothing of what it held shows in the new disk.
// Units: bytes. Errors: texts of QEMU. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"
#include "block/graph/request.h"
#include "block/runtime/env.h"

namespace blockbed::qcow2 {

class Image;

struct CreateOptions {
  uint64_t size = 0;
  uint32_t version = 3;
  uint64_t cluster_size = 65536;
  uint32_t refcount_bits = 16;
  bool extended_l2 = false;
  bool lazy_refcounts = false;
  CompressionType compression = CompressionType::kZlib;
  // Empty is not the same as none: nothing that a backing file forbids can be had with it.
  std::optional<std::string> backing_file;
  std::string backing_format;
  Preallocation preallocation = Preallocation::kOff;
  bool data_file = false;
  // As the header is to name it; may be empty.
  std::string data_file_name;
  bool data_file_raw = false;

  CreateOptions() = default;
};

Expected<void> check_create(const CreateOptions& options);
Task<Expected<void>> write_empty(Storage& file, const CreateOptions& options);
// All but what the closing of the image writes is in the file afterwards.
Task<Expected<void>> finish(Image& image, const CreateOptions& options);
// `data`: the external data file, when options.data_file says so.
Task<Expected<void>> create(Env& env, Storage& file, Storage* data, CreateOptions options);

}  // namespace blockbed::qcow2
