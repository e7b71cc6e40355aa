// Encrypted images: what is said of them as long as nothing here encrypts.
#pragma once

#include "qmp/schema/error.h"

namespace blockbed {

inline std::unexpected<Error> encryption_unsupported() {
  return fail("Encrypted qcow2 images are not supported yet");
}

}  // namespace blockbed
