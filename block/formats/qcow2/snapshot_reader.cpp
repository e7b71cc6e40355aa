#include "block/formats/qcow2/snapshot_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/formats/qcow2/driver.h"
#include "block/graph/chain.h"

namespace blockbed::qcow2 {

SnapshotReader::SnapshotReader(Qcow2Driver& driver, const Snapshot& snapshot, std::string user)
    : driver_(driver),
      node_(driver.node()),
      id_(snapshot.id),
      name_(snapshot.name),
      user_(std::move(user)) {
  driver_.readers_.push_back(this);
}

SnapshotReader::~SnapshotReader() { std::erase(driver_.readers_, this); }

Expected<void> SnapshotReader::keep_backing() {
  Edge* const link = node_->cow_edge();
  if (link == nullptr) return {};
  auto kept = FrozenChain::keep_all_below(*link);
  if (!kept) return fail(std::move(kept).error());
  kept_ = std::move(*kept);
  return {};
}

Backing& SnapshotReader::backing() {
  if (reads_backing()) return driver_.backing_;
  return none_;
}

Task<Expected<void>> SnapshotReader::open(std::unique_ptr<Image> image) {
  image_ = std::move(image);
  return image_->open();
}

std::string SnapshotReader::describe() const {
  return fmt::format("Snapshot '{}' is being read by node '{}'", name_.empty() ? id_ : name_,
                     user_);
}

Task<Result<void>> SnapshotReader::read_instant(uint64_t offset, IoVector buffers) {
  return image_->read(offset, std::move(buffers));
}

Task<Result<BlockStatus>> SnapshotReader::instant_status(uint64_t offset, uint64_t length,
                                                         bool want_zero) {
  auto found = co_await image_->status(offset, length);
  if (!found) co_return io_error(found.error());
  BlockStatus status;
  status.length = found->length;
  status.allocated = true;
  if (found->kind == Kind::kUnallocated) {
    Node* const backing = reads_backing() ? node_->backing_node() : nullptr;
    if (backing == nullptr || offset >= backing->length()) {
      status.zero = true;
      co_return status;
    }
    const uint64_t there = std::min(status.length, backing->length() - offset);
    auto below = co_await chain_status(*backing, /*base=*/nullptr, /*include_base=*/true, offset,
                                       there, want_zero);
    if (!below) co_return io_error(below.error());
    status = below->status;
    status.eof = false;
    status.allocated = true;
    if (!status.data) status.zero = true;
    co_return status;
  }
  status.compressed = found->kind == Kind::kCompressed;
  status.zero = found->kind == Kind::kZero;
  status.data = !status.zero;
  if (found->host) {
    status.offset = found->host;
    status.file = driver_.node().storage_edge()->node();
  }
  co_return status;
}

}  // namespace blockbed::qcow2
