// Driver: what a format, filter or protocol does behind a node.
//
// Problem: the node knows the rules common to all (bounds, alignment, serialisation, tracking,
// drain, permissions); the driver knows one format. This is the border between the two.
//
// Contract
//  - Data path methods are called by the node only, with requests inside the image's length (reads
//    beyond it never arrive), aligned to limits().request_alignment, no longer than the driver's
//    maxima, while the node is open and not inactive. They may run in parallel; what must not
//    overlap the driver orders itself.
//  - A method that a driver does not have answers ENOTSUP, and the node falls back as its comment
//    says.
//  - Children are reached through the edges that the driver opened (OpenContext::open_child); they
//    never go away without the driver's consent, but the node behind an edge may be replaced at any
//    time inside a drained section.
//  - close() is called once, drained, before destruction; after it the driver's children are
//    released by the node.
// Errors: Result (errno) on the data path, Expected (text for the client) on the control path.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/permissions.h"
#include "block/graph/request.h"
#include "block/runtime/buffers.h"
#include "block/runtime/result.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

namespace schema {
struct BlockdevOptions;
struct ImageInfoSpecific;
}  // namespace schema

class DebugListener;
class Edge;
class File;
class InternalSnapshots;
class Node;
class PersistentBitmaps;
struct ReopenState;

struct DriverInfo {
  // Unit of allocation; 0 when there is none.
  uint64_t cluster_size = 0;
  uint64_t subcluster_size = 0;
  // Offset at which a VM state may be stored.
  uint64_t vm_state_offset = 0;
  bool dirty = false;
  bool corrupt = false;
};

class Driver {
 public:
  explicit Driver(Node& node) : node_(node) {}
  virtual ~Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  Node& node() const { return node_; }

  // The name in `drv` and in BlockdevOptions: "qcow2".
  virtual std::string_view name() const = 0;
  // A filter shows exactly what its filtered child shows.
  virtual bool is_filter() const { return false; }
  // A protocol has no children that hold its data: file, null-co, nbd.
  virtual bool is_protocol() const { return false; }
  virtual bool is_format() const { return !is_filter() && !is_protocol(); }
  virtual bool supports_backing() const { return false; }
  // A part of its child is all of the node.
  virtual bool shows_part_of_child() const { return false; }

  // Who is told what requests of the parents are for; the same for all of the driver's life.
  virtual DebugListener* debug_listener() { return nullptr; }

  // --- data path
  virtual Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) = 0;
  virtual Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) = 0;
  // ENOTSUP: the node writes zero bytes instead, unless flags.no_fallback.
  virtual Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags);
  // ENOTSUP: nothing happens, which is success.
  virtual Task<Result<void>> discard(uint64_t offset, uint64_t length);
  // Forgets all that this layer holds, so that the backing file shows everywhere. Called drained.
  // ENOTSUP: the format cannot, and nothing happened.
  virtual Task<Result<void>> make_empty();
  // Whole clusters; ENOTSUP: the format cannot compress. length 0 in `buffers` ends a compressed
  // stream.
  virtual Task<Result<void>> write_compressed(uint64_t offset, IoVector buffers);
  // Puts what the driver holds back into its children; the node then flushes the children that hold
  // data.
  virtual Task<Result<void>> flush_to_children();
  // Protocols: make durable.
  virtual Task<Result<void>> flush_to_disk();
  // Protocols: see File::expect_flush.
  virtual Task<void> expect_flush();
  // False: a flush of this node is none of this child's business (the target of a backup).
  virtual bool flush_reaches(const Edge& edge) const { return (void)edge, true; }
  // want_zero: the caller needs `zero` to be right; otherwise `allocated` is enough and cheaper.
  virtual Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero);
  // Copying from file to file inside the host. The source's drivers find the file that holds the
  // range and give it to `target` (copy_range_to); the target's drivers find the file that shall
  // hold it (copy_range_from). ENOTSUP: the caller reads and writes.
  virtual Task<Result<void>> copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                           uint64_t target_offset, RequestFlags flags);
  virtual Task<Result<void>> copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                             uint64_t length, RequestFlags flags);

  // Flags that write()/zero() honour themselves; the node emulates FUA with a flush when it is
  // absent here.
  virtual bool honours_fua_write() const { return false; }
  virtual bool honours_fua_zero() const { return false; }
  virtual bool honours_unmap() const { return false; }
  virtual bool honours_no_fallback() const { return false; }
  // Reads that ask for it are kept further below, where the driver says; else they are kept here.
  virtual bool honours_copy_on_read() const { return false; }
  // A read may have to write what it found: nothing else goes on in its range meanwhile.
  virtual bool reads_repair() const { return false; }

  // --- size
  virtual Task<Result<uint64_t>> length() = 0;
  // The length may change behind our back (a block device, a growing file): ask again before each
  // use.
  virtual bool length_varies() const { return false; }
  // Whether a write behind the end makes the node longer. A format whose disk has its size in its
  // header would lose it.
  virtual bool writes_extend() const { return true; }
  virtual Task<Expected<void>> truncate(uint64_t length, TruncateOptions options);
  // The child's length changed. A driver whose own length follows from it says so with
  // node().set_length(); by default that is a filter, whose length is that of its filtered child.
  virtual void child_resized(Edge& edge);
  // Space taken on the host, without the children that are counted apart; nullopt: ask the
  // children.
  virtual Task<Result<std::optional<uint64_t>>> allocated_size();

  // --- permissions. For each edge, what the driver needs of the child when its own parents need
  // and share `parent`. The default is right for formats and filters by the edge's roles.
  // `writable` is what the node will be when the change is done (a reopen may be under way).
  virtual PermissionPair child_permissions(const Edge* edge, ChildRoles roles,
                                           PermissionPair parent, bool writable) const;
  // Prepare, then commit or abort, of a change of the cumulative permissions (image locks).
  virtual Expected<void> prepare_permissions(Permissions needs, Permissions shares);
  virtual void commit_permissions(Permissions needs, Permissions shares);
  virtual void abort_permissions();

  // --- limits and facts
  virtual void refresh_limits(BlockLimits& limits) const;
  virtual DriverInfo info() const { return {}; }
  virtual std::optional<schema::ImageInfoSpecific> specific_info() const;
  // Zero after creation / after growing.
  virtual bool has_zero_init() const { return false; }
  virtual bool has_zero_init_truncate() const { return has_zero_init(); }
  virtual bool encrypted() const { return false; }
  virtual bool can_write_compressed() const { return false; }
  // A filter that has to see whatever changes in its child (is_followed, chain.h).
  virtual bool follows_changes() const { return false; }

  // Null: a format that keeps no snapshots within the image (internal_snapshots.h).
  virtual InternalSnapshots* internal_snapshots() { return nullptr; }
  // Null: a format that keeps no dirty bitmaps (persistent_bitmaps.h).
  virtual PersistentBitmaps* persistent_bitmaps() { return nullptr; }

  // What the image says about its backing file: name as stored, and format ("" when it says none).
  virtual std::string backing_file_name() const { return {}; }
  virtual std::string backing_format() const { return {}; }
  virtual Task<Expected<void>> change_backing_file(std::string name, std::string format,
                                                   bool require);

  // --- children that come and go one by one, as a quorum's do (x-blockdev-change). The driver
  // attaches and detaches by changes of its own; called with the graph lock held. Refused by who
  // has no such children.
  virtual bool takes_children() const { return false; }
  virtual Task<Expected<void>> add_child(Node& child);
  virtual Task<Expected<void>> remove_child(Edge& edge);

  // --- names. The plain file name that opens this node alone ("" when only options can), and the
  // options that matter to what is read, for `json:{...}` names; children are added by the node.
  virtual std::string exact_filename() const { return {}; }
  virtual void gather_filename_options(json::Object& options) const;
  // The directory that relative backing names start from; error when there is none.
  virtual Expected<std::string> directory() const;

  // --- life
  // Requests in flight have ended, none is admitted until the end: stop or restart background work
  // (timers, caches).
  virtual void drained_begin() {}
  virtual void drained_end() {}
  // Background work still going on inside a drained section.
  virtual bool drained_poll() const { return false; }
  virtual Task<void> close() = 0;

  // --- reopening (reopen.h): other options, and writing where there was reading, while the node
  // stays. From preparing on all of it is called drained.
  virtual bool can_reopen() const { return false; }
  // The options of its own that may change, or go back to their defaults; a name stands for all
  // that lies below it.
  virtual std::span<const std::string_view> changeable_options() const { return {}; }
  // What is wrong with these options by themselves: told before what is wrong with the children.
  virtual Expected<void> check_options(const ReopenState& state) const;
  // Gets ready beside what is in use, which goes on. May do I/O; fails with a text.
  virtual Task<Expected<void>> reopen_prepare(const ReopenState& state);
  // What was prepared is in force: part of a change of the graph, whose permissions the driver has
  // been asked for in between. Left out when the change does not happen.
  virtual void reopen_commit() {}
  // The image was left in a state that it may be read in and not written to, by whoever wrote to it
  // before. A node that is to become writable is repaired before it prepares (reopen_repair.h);
  // meanwhile the node and its storage are writable.
  virtual bool needs_repair() const { return false; }
  virtual Task<Expected<void>> repair();
  // Lets go of what is not used any more: of the old after a commit, else of what was prepared,
  // also when preparing failed half way.
  virtual Task<void> reopen_finish();

 private:
  Node& node_;
};

// What formats and filters need of a child by its roles, when nothing special applies.
PermissionPair default_child_permissions(const Node& node, ChildRoles roles, PermissionPair parent,
                                         bool writable);

}  // namespace blockbed
