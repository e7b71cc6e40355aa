// An internal snapshot read while its image goes on.
//
// Problem: the tables of a snapshot and the clusters that they refer to do not change as long as
// there is the snapshot, whatever is written to the disk, so they need no part in what the image
// does with its own tables.
//
// Contract
//  - An Image of its own, open for reading only, over the same file: its active tables are the
//    snapshot's, its length is that of the snapshot's disk. What the snapshot has not is read from
//    the image's backing file; if it had none when the reader came, these are zeroes for good.
//  - As long as a reader is there it stands in the driver's list: the snapshot is not deleted, the
//    file not replaced by another one, nothing below the image written to. The links to the backing
//    file and all below it are frozen. It keeps the node.
//  - Requests come from parents of the node only, so that none is under way inside a drained
//    section.
// Errors: errno. Threading: engine thread only.
#pragma once

#include <memory>
#include <string>

#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/storage.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/graph.h"
#include "block/graph/point_in_time.h"

namespace blockbed::qcow2 {

class Qcow2Driver;

class SnapshotReader final : public PointInTime {
 public:
  SnapshotReader(Qcow2Driver& driver, const Snapshot& snapshot, std::string user);
  ~SnapshotReader() override;

  // Before the image is made, which is to read from backing().
  Expected<void> keep_backing();
  Backing& backing();
  Task<Expected<void>> open(std::unique_ptr<Image> image);

  const std::string& id() const { return id_; }
  bool reads_backing() const { return static_cast<bool>(kept_); }
  // "Snapshot 'x' is being read by node 'y'"
  std::string describe() const;

  uint64_t instant_length() const override { return image_->length(); }
  Task<Result<void>> read_instant(uint64_t offset, IoVector buffers) override;
  Task<Result<BlockStatus>> instant_status(uint64_t offset, uint64_t length,
                                           bool want_zero) override;

 private:
  Qcow2Driver& driver_;
  NodeRef node_;
  std::string id_;
  std::string name_;
  std::string user_;
  FrozenChain kept_;
  NoBacking none_;
  std::unique_ptr<Image> image_;
};

}  // namespace blockbed::qcow2
