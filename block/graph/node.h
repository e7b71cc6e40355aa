// Node: one layer of the graph with a driver behind it.
//
// Problem: formats, filters and protocols differ; bounds, alignment, overlap, tracking, drain,
// permissions and statistics do not. The node holds what is common and is what everybody else talks
// to.
//
// Contract
//  - Requests come in through an edge's methods and end up here: a request is checked, split and
//    aligned once, waits for overlapping serialising requests, is counted while in flight, and goes
//    to the driver.
//  - A node is drained when no request is in flight and none is admitted. Its parents are told to
//    send nothing (EdgeParent::drained_begin), then the node waits. Graph changes happen inside
//    drained sections only.
//  - Nodes are made by Graph::open and die in Graph::close_unreferenced, when neither an edge nor a
//    NodeRef holds them.
// Units: bytes; times in ns. Threading: engine thread only.
// Source of the rules: QEMU 7.2's visible behaviour (docs/conformance.md).
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/operations.h"
#include "block/graph/permissions.h"
#include "block/graph/request.h"
#include "block/runtime/sync.h"

namespace blockbed {

class DirtyBitmapList;
class DrainedSection;
class Env;
class Graph;
class GraphChange;
struct Padding;

enum class DetectZeroes { kOff, kOn, kUnmap };

// The generic options of a node, as they are in force.
struct NodeFlags {
  bool read_only = false;
  bool auto_read_only = false;
  bool force_share = false;
  bool cache_direct = false;
  bool cache_no_flush = false;
  // `discard=unmap`.
  bool unmap = false;
  DetectZeroes detect_zeroes = DetectZeroes::kOff;
  // Opened for a guest that has not arrived (incoming migration): no permissions taken, no writes.
  bool inactive = false;

  friend bool operator==(const NodeFlags&, const NodeFlags&) = default;
};

// One request on its way through a node.
struct TrackedRequest {
  enum class Kind { kRead, kWrite, kZero, kDiscard, kTruncate, kFlush };
  Kind kind;
  uint64_t offset;
  uint64_t length;
  // The range that must not overlap with others, aligned; as wide as the request when it does not
  // serialise.
  uint64_t overlap_offset;
  uint64_t overlap_length;
  bool serialising = false;
  TrackedRequest* waits_for = nullptr;
  TrackedRequest* previous = nullptr;
  TrackedRequest* next = nullptr;
};

// Told of what may have changed in a node's bytes, by whoever it was, when the request has ended;
// also when it failed.
class WriteListener {
 public:
  virtual void node_written(uint64_t offset, uint64_t length) = 0;

 protected:
  ~WriteListener() = default;
};

class Node final : public EdgeParent {
 public:
  Node(Graph& graph, std::string name);
  ~Node();

  Graph& graph() const { return graph_; }
  Env& env() const;
  const std::string& name() const { return name_; }
  Driver& driver() const { return *driver_; }
  NodeOperations& operations() { return operations_; }
  // The name of the device whose root this node is, or "".
  std::string device_name() const;
  bool is_open() const { return driver_ != nullptr; }
  const IoContext& context() const { return context_; }

  const NodeFlags& flags() const { return flags_; }
  bool writable() const { return !flags_.read_only && !flags_.inactive; }
  const BlockLimits& limits() const { return limits_; }
  // Driver limits and permissions again, after the graph or the driver's file changed.
  void refresh_limits();

  // --- children and parents. Children in the order in which they were attached.
  const std::vector<std::unique_ptr<Edge>>& children() const { return children_; }
  const std::vector<Edge*>& parents() const { return parents_; }
  Edge* child(std::string_view name) const;
  // The child that holds the node's own data: `file` of a format. Null for protocols and for
  // filters.
  Edge* storage_edge() const;
  // What a filter stands on.
  Edge* filtered_edge() const;
  // The backing file's edge of a format.
  Edge* cow_edge() const;
  // The next link towards the data: filtered child, or cow child; and its node.
  Edge* filter_or_cow_edge() const;
  Node* filter_or_cow_node() const;
  Node* backing_node() const;
  // This node or the first one below that is no filter.
  Node* skip_filters();
  // A filter that a job put in and that the client gave no name: what is said about devices leaves
  // it out.
  bool hidden() const { return hidden_; }
  // A filter that a job has put in and will take out again.
  bool temporary() const { return temporary_; }
  // This node or the first one below that is not hidden.
  Node* skip_hidden();
  // kPrimary child.
  Node* primary_node() const;

  // --- data path; see Edge for the contract. `edge` is who asks, null for the graph's own needs.
  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags = {});
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags = {});
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags = {});
  Task<Result<void>> discard(uint64_t offset, uint64_t length);
  // The two halves of a copy inside the host, see Driver.
  Task<Result<void>> copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                   uint64_t target_offset, RequestFlags flags = {});
  Task<Result<void>> copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                     uint64_t length, RequestFlags flags = {});
  // See Driver::make_empty; the node is drained.
  Task<Result<void>> make_empty();
  Task<Result<void>> flush();
  // See File::expect_flush.
  Task<void> expect_flush();
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero = true);
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options);

  // Current length in bytes; cached unless the driver says that it varies.
  uint64_t length() const { return length_; }
  // Where requests end at the latest that do not go beyond the end: disks are counted in sectors,
  // and requests are widened.
  uint64_t rounded_length() const {
    const uint64_t unit = std::max<uint64_t>(512, limits_.request_alignment);
    return (length_ + unit - 1) / unit * unit;
  }
  Task<Result<uint64_t>> refresh_length();
  // For drivers that know their length without I/O (filters, raw).
  void set_length(uint64_t length);

  // Every read keeps here what it had to get from below (`-drive copy-on-read=on`).
  bool keeps_reads() const { return keeps_reads_; }
  void keep_reads() { keeps_reads_ = true; }

  // blkdebug's ear, or null; drivers ask their edges for it (Edge::debug_event).
  DebugListener* debug_listener() const { return debug_listener_; }

  DirtyBitmapList& dirty_bitmaps() const { return *dirty_bitmaps_; }

  // The listener takes itself out before it goes away.
  void add_write_listener(WriteListener& listener) { write_listeners_.push_back(&listener); }
  void remove_write_listener(WriteListener& listener) { std::erase(write_listeners_, &listener); }

  // --- drain
  bool quiesced() const { return quiesce_count_ > 0; }
  uint64_t in_flight() const { return in_flight_; }

  // --- facts for reports
  uint64_t write_generation() const { return write_generation_; }
  uint64_t highest_written_offset() const { return highest_written_offset_; }
  // The first write beyond this offset is told by an event, and the threshold is gone; 0 is none.
  uint64_t write_threshold() const { return write_threshold_; }
  void set_write_threshold(uint64_t offset) { write_threshold_ = offset; }
  // The name under which this node can be opened again: exact_filename, or json:{...} made of the
  // options.
  std::string filename() const;
  // The plain name, "" when only options can open the node.
  std::string exact_filename() const;
  // What the guest-visible part of the options is, for json: names and full reports.
  json::Object full_options() const;
  // The driver that the user named or that was probed, and options as given (reopen compares with
  // them).
  const json::Object& given_options() const { return given_options_; }
  bool given_as_text() const { return given_as_text_; }
  // The full name of the backing file as the image names it (as opened, when it was opened by that
  // name).
  const std::string& header_backing_file() const { return header_backing_file_; }
  void set_header_backing_file(std::string name) { header_backing_file_ = std::move(name); }
  // The backing file in use is not the one that the image names.
  bool backing_overridden() const;
  // The format was found by looking at the image, not said by the user.
  bool probed() const { return probed_; }
  bool named_by_user() const { return named_by_user_; }
  // The node in whose options this one was defined, or whose image names it: what is not said of
  // this node follows from that one, also when that one is reopened. Null for nodes of their own.
  const Node* inherits_from() const { return inherits_from_; }

  // --- EdgeParent
  std::string describe_user() const override;
  Node* as_node() override { return this; }
  std::optional<IoContext> child_context() const override { return context_; }
  Expected<void> join(ContextMove& move) override { return move.add(*this); }
  void drained_begin(Edge& edge) override;
  void drained_end(Edge& edge) override;
  bool drained_poll(Edge& edge) override;
  void node_resized(Edge& edge) override;

 private:
  friend class ContextMove;
  friend class Graph;
  friend class GraphChange;
  friend class NodeRef;
  friend class OpenContext;
  friend class DrainedSection;
  friend class RequestScope;
  friend Task<DrainedSection> drain(std::vector<Node*> nodes);

  // What is written to this node may lie in that child.
  bool takes_flush(const Edge& child) const;
  Task<Result<void>> read_aligned(uint64_t offset, IoVector buffers, RequestFlags flags);
  // Any offset and length: what lies around them is read too, and thrown away.
  Task<Result<void>> read_widened(uint64_t offset, IoVector buffers, RequestFlags flags);
  // --- requests that are not aligned (padding.cpp). Reads the blocks that are touched in part.
  Task<Result<void>> read_around(Padding& padding);
  // Those blocks are written, what lies between them is zeroed.
  Task<Result<void>> zero_widened(uint64_t offset, uint64_t length, RequestFlags flags);
  // --- copy on read (keep_reads.cpp)
  bool keeps_here() const { return writable() && !driver_->honours_copy_on_read(); }
  uint64_t keeping_unit() const;
  Task<Result<void>> read_keeping(uint64_t offset, IoVector buffers, RequestFlags flags);
  Task<Result<void>> keep(uint64_t offset, IoVector bytes);
  Task<Result<void>> write_aligned(uint64_t offset, IoVector buffers, RequestFlags flags);
  Task<Result<void>> write_compressed(uint64_t offset, IoVector buffers, RequestFlags flags);
  Task<Result<void>> zero_aligned(uint64_t offset, uint64_t length, RequestFlags flags);
  // Before a write or zero: is there somebody to be told that it goes so far?
  // Not for what is kept of a read: nobody wrote it.
  void check_write_threshold(uint64_t end) {
    if (write_threshold_ != 0 && end > write_threshold_) [[unlikely]]
      cross_write_threshold(end);
  }
  void cross_write_threshold(uint64_t end);
  // ENOSPC for a write behind the end of what does not become longer by it.
  Result<void> check_end(uint64_t end) const;
  // After a write, zero or discard: generation, high-water mark, length, dirty bitmaps.
  void written(uint64_t offset, uint64_t length, bool succeeded, RequestFlags flags);
  void tell_changed(uint64_t offset, uint64_t length);
  void notify_resized();
  void add_parent(Edge& edge);
  void remove_parent(Edge& edge);
  void quiesce_begin();
  void quiesce_end();
  bool busy() const;

  Graph& graph_;
  std::string name_;
  bool named_by_user_ = false;
  bool probed_ = false;
  bool hidden_ = false;
  bool temporary_ = false;
  bool keeps_reads_ = false;
  std::string header_backing_file_;
  std::unique_ptr<Driver> driver_;
  DebugListener* debug_listener_ = nullptr;
  NodeFlags flags_;
  json::Object given_options_;
  // As text, as a command line has them.
  bool given_as_text_ = false;
  Node* inherits_from_ = nullptr;

  std::vector<std::unique_ptr<Edge>> children_;
  std::vector<Edge*> parents_;
  int references_ = 0;
  bool monitor_owned_ = false;

  BlockLimits limits_;
  uint64_t length_ = 0;

  uint64_t in_flight_ = 0;
  int quiesce_count_ = 0;
  TrackedRequest* requests_ = nullptr;
  int serialising_in_flight_ = 0;
  WaitQueue request_ended_;
  Mutex flush_lock_;
  NodeOperations operations_{*this};
  IoContext context_;
  std::unique_ptr<DirtyBitmapList> dirty_bitmaps_;
  std::vector<WriteListener*> write_listeners_;

  uint64_t write_generation_ = 0;
  uint64_t flushed_generation_ = 0;
  uint64_t highest_written_offset_ = 0;
  uint64_t write_threshold_ = 0;
};

inline DebugPoint Edge::debug_event(DebugEvent event) const {
  return DebugPoint(node_->debug_listener(), event);
}

}  // namespace blockbed
