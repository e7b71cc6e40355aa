// Compressed clusters: the codecs.
//
// Contract
//  - decompress fills `into` exactly from the start of `from`; bytes behind the end of the
//    compressed stream are ignored (the table counts sectors only). False: the data is damaged.
//  - compress gives the number of bytes used in `into`, or 0 when the result does not fit, which
//    means that the cluster is to be stored as it is.
// Both run on worker threads. Threading: any thread; what is kept between two calls is the
// thread's own.
// Source: qcow2 specification (raw deflate with a window of at most 4 KiB; one zstd frame a
// cluster).
#pragma once

#include <cstddef>
#include <span>

#include "block/formats/qcow2/header.h"

namespace blockbed::qcow2 {

bool decompress(CompressionType type, std::span<const std::byte> from, std::span<std::byte> into);
std::size_t compress(CompressionType type, std::span<const std::byte> from,
                     std::span<std::byte> into);

}  // namespace blockbed::qcow2
