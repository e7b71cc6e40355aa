#include "block/runtime/write_out.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

namespace blockbed {

void WriteOut::wrote(uint64_t offset, uint64_t length) {
  if (descriptor_ < 0 || length == 0) return;
  for (uint64_t piece = offset / kPiece; piece <= (offset + length - 1) / kPiece; ++piece) {
    if (written_.size() == kMost) return;
    if (written_.empty() || written_.back() != piece) written_.push_back(piece);
  }
}

std::vector<uint64_t> WriteOut::take(int descriptor) {
  if (descriptor_ < 0) {
    const std::string name = "/proc/self/fd/" + std::to_string(descriptor);
    descriptor_ = ::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  }
  std::ranges::sort(written_);
  const auto again = std::ranges::unique(written_);
  written_.erase(again.begin(), again.end());
  const auto end =
      written_.begin() + static_cast<std::ptrdiff_t>(std::min(written_.size(), kAtOnce));
  std::vector<uint64_t> pieces(written_.begin(), end);
  written_.erase(written_.begin(), end);
  return pieces;
}

void WriteOut::send(const std::vector<uint64_t>& pieces) const {
  for (const uint64_t piece : pieces) {
    (void)::sync_file_range(descriptor_, static_cast<off_t>(piece * kPiece), kPiece,
                            SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  }
}

void WriteOut::stop() {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  written_.clear();
}

}  // namespace blockbed
