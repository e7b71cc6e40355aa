// WriteOut: what was written to a file goes from the host's cache to the disk before a flush.
//
// Problem: a flush finds all that was written since the last one, and sends it at once. The disk's
// queue is full then, and whoever writes to a page that waits for room in it waits as long: a guest
// meets stalls of a tenth of a second. Pieces that are sent one after the other, each when the one
// before has arrived, keep the queue short.
//
// Contract
//  - wrote() remembers pieces from the first take() on, as many as kMost: nobody else pays for it.
//  - take() hands out kAtOnce at most, the lowest first, and keeps the others: who must wait until
//    they are sent does so for no longer than a slow disk takes for these.
//  - send() may take as long as the disk; any thread. Nothing is durable by it, and no journal is
//    committed. What fails is left for the flush to tell: it is met through a description of its
//    own, since the kernel tells each description of a file an error once.
// Units: bytes. Threading: all but send() on the engine's thread.
#pragma once

#include <cstdint>
#include <vector>

namespace blockbed {

class WriteOut {
 public:
  static constexpr uint64_t kPiece = uint64_t{4} << 20;
  static constexpr std::size_t kMost = 1024;
  static constexpr std::size_t kAtOnce = 8;

  WriteOut() = default;
  ~WriteOut() { stop(); }
  WriteOut(const WriteOut&) = delete;
  WriteOut& operator=(const WriteOut&) = delete;

  void wrote(uint64_t offset, uint64_t length);
  // The numbers of pieces that were written to and not handed out since, in order.
  std::vector<uint64_t> take(int descriptor);
  void send(const std::vector<uint64_t>& pieces) const;
  // Before the descriptor is closed or becomes another file's.
  void stop();

 private:
  int descriptor_ = -1;
  std::vector<uint64_t> written_;
};

}  // namespace blockbed
