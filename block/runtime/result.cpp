#include "block/runtime/result.h"

#include <cstring>

namespace blockbed {

std::string strerror_text(Errno error) {
  char text[128];
  // The GNU form: the text may be elsewhere than in `text`.
  return ::strerror_r(error.number(), text, sizeof text);
}

}  // namespace blockbed
