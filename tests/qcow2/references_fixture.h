// A second opinion on what an image refers to: a plain walk, written apart from the checker of the
// format.
//
// It is strict about COPIED: the flag agrees with the references at every instant, also after a
// crash that left counts too high. Changes made on top of such leaks may find a cluster counted
// more often than it is referred to, and leave it without the flag (`on_leaks`).
#pragma once

#include <cstdint>
#include <string>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2::test {

struct References {
  // Empty: nothing but leaks. The first thing that is wrong otherwise.
  std::string fault;
  uint64_t leaks = 0;
};

Task<References> walk_references(Storage& file, const Header& header, bool on_leaks = false);

}  // namespace blockbed::qcow2::test
