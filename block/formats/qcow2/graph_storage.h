// Storages and backings of images that live in the graph.
//
// Contract: an edge may point to another node after a drained section; both ask the edge each time.
// NodeStorage writes to a node with the permissions of a Backend, for creating images.
// Threading: engine thread only.
#pragma once

#include "block/formats/qcow2/storage.h"
#include "block/graph/backend.h"
#include "block/graph/chain.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

namespace blockbed::qcow2 {

class EdgeStorage final : public Storage {
 public:
  explicit EdgeStorage(Edge& edge) : edge_(edge) {}

  Edge& edge() const { return edge_; }

  DebugListener* debug_listener() const override { return edge_.node()->debug_listener(); }

  // Reading looks at this node, which the edge will lead to; null: at that of the edge.
  void look_ahead(Node* node) { ahead_ = node; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    if (ahead_ != nullptr) [[unlikely]]
      return ahead_->read(offset, std::move(buffers));
    return edge_.read(offset, std::move(buffers));
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override {
    return edge_.write(offset, std::move(buffers));
  }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override {
    return edge_.zero(offset, length, flags);
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override {
    // What was put off until the image is closed may find an external data file that nobody writes
    // to any more.
    if (!edge_.permissions().needs.has(Permission::kWrite)) co_return io_error(ENOTSUP);
    co_return co_await edge_.discard(offset, length);
  }
  Task<Result<void>> flush() override { return edge_.flush(); }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override {
    return edge_.truncate(length, options);
  }
  Task<Result<uint64_t>> length() override { return looked_at().refresh_length(); }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length) override {
    return looked_at().block_status(offset, length);
  }
  Task<Result<void>> copy_from(File& source, uint64_t source_offset, uint64_t offset,
                               uint64_t length) override {
    return edge_.copy_range_from(source, source_offset, offset, length, RequestFlags());
  }
  bool new_space_reads_zero() const override {
    return edge_.node()->driver().has_zero_init_truncate();
  }

 private:
  Node& looked_at() const { return ahead_ != nullptr ? *ahead_ : *edge_.node(); }

  Edge& edge_;
  Node* ahead_ = nullptr;
};

// The backing file of a node, whichever it is at the moment; none is as good as an empty one.
class NodeBacking final : public Backing {
 public:
  explicit NodeBacking(const Node& node) : node_(node) {}

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    return node_.cow_edge()->read(offset, std::move(buffers));
  }
  uint64_t length() const override {
    const Edge* edge = node_.cow_edge();
    return edge == nullptr ? 0 : edge->node()->length();
  }
  Task<bool> reads_zero(uint64_t offset, uint64_t bytes) override {
    const uint64_t end = std::min(offset + bytes, length());
    while (offset < end) {
      auto found =
          co_await chain_status(*node_.cow_edge()->node(), nullptr, false, offset, end - offset);
      if (!found || !found->status.zero || found->status.length == 0) co_return false;
      offset += found->status.length;
    }
    co_return true;
  }
  bool attached() const override { return node_.cow_edge() != nullptr; }

 private:
  const Node& node_;
};

class NodeStorage final : public Storage {
 public:
  explicit NodeStorage(Backend& backend) : backend_(backend) {
    backend_.set_allow_write_beyond_end(true);
  }

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    return backend_.read(offset, std::move(buffers));
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override {
    return backend_.write(offset, std::move(buffers));
  }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override {
    return backend_.zero(offset, length, flags);
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override {
    return backend_.discard(offset, length);
  }
  Task<Result<void>> flush() override { return backend_.flush(); }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override {
    return backend_.node()->truncate(length, options);
  }
  Task<Result<uint64_t>> length() override { return backend_.node()->refresh_length(); }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length) override {
    return backend_.node()->block_status(offset, length);
  }
  bool new_space_reads_zero() const override {
    return backend_.node()->driver().has_zero_init_truncate();
  }

 private:
  Backend& backend_;
};

}  // namespace blockbed::qcow2
