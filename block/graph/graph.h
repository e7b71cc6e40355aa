// Graph: all nodes, roots and drivers of one server.
//
// Problem: nodes are named, opened from options or from file names, owned by the monitor or by whom
// they serve, and closed in the right order when nobody needs them.
//
// Contract
//  - One GraphLock holder at a time changes the graph (a command, or a job that finishes):
//    `co_await graph.lock()`.
//  - Dropping the last NodeRef or edge does not close a node at once: close_unreferenced() does,
//    with the files' locks gone when it returns. Whoever held the graph lock calls it before
//    answering.
//  - Names: 31 characters at most, letters first, `[a-zA-Z0-9._-]`; a node without one gets
//    `#blockNNN`.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/node.h"
#include "block/graph/throttle_group.h"
#include "block/runtime/gate.h"
#include "block/runtime/guest_clock.h"
#include "block/runtime/sync.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Backend;
class DrainedSection;
class Env;
class EventSink;
class Graph;

// Keeps a node alive.
class NodeRef {
 public:
  NodeRef() = default;
  explicit NodeRef(Node& node);
  NodeRef(const NodeRef& other);
  NodeRef(NodeRef&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  NodeRef& operator=(NodeRef other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~NodeRef();

  explicit operator bool() const { return node_ != nullptr; }
  Node* get() const { return node_; }
  Node& operator*() const { return *node_; }
  Node* operator->() const { return node_; }

 private:
  Node* node_ = nullptr;
};

// How a child's options follow from its parent's when the user did not give them.
struct InheritedOptions {
  NodeFlags flags;
};

// What Graph hands to a driver that opens: its node, and the way to its children.
class OpenContext {
 public:
  OpenContext(Graph& graph, Node& node, const json::Object& options, bool implicit, int depth)
      : graph_(graph), node_(node), options_(options), implicit_(implicit), depth_(depth) {}

  Graph& graph() const { return graph_; }
  Env& env() const;
  Node& node() const { return node_; }
  // The node's flags as asked for.
  const NodeFlags& flags() const { return node_.flags(); }
  // True when the image was named by another image, not by the user: whoever wrote that one may be
  // hostile.
  bool implicit() const { return implicit_; }

  // Opens or finds what the option `name` says (an inline definition or the name of a node) and
  // attaches it as child `name`. Fails when the option is absent ("A block device must be specified
  // for \"file\"").
  // Until the driver is there to be asked, the edge has `meanwhile`, or what its roles need and
  // share by default.
  Task<Expected<Edge*>> open_child(std::string name, ChildRoles roles,
                                   std::optional<PermissionPair> meanwhile = std::nullopt);
  // The same, null when the option is absent or JSON null.
  Task<Expected<Edge*>> open_optional_child(std::string name, ChildRoles roles,
                                            std::optional<PermissionPair> meanwhile = std::nullopt);
  // What the options say of the child: a definition, a name, null; a null pointer when nothing.
  const json::Value* child_option(std::string_view name) const;
  // Attaches another child by a reference that the driver made (external data file named by the
  // image).
  Task<Expected<Edge*>> open_child_by_filename(std::string name, ChildRoles roles,
                                               std::string filename, std::string format);

 private:
  friend class Graph;
  Expected<Edge*> attach(std::string name, ChildRoles roles, NodeRef child,
                         std::optional<PermissionPair> meanwhile = std::nullopt);

  Graph& graph_;
  Node& node_;
  const json::Object& options_;
  bool implicit_;
  int depth_;
};

// Opens a node of one driver: parses nothing (the options are typed and checked), opens children
// through the context, reads its headers, and returns the driver or a text. On failure the graph
// takes back all that was attached.
using DriverOpen = std::function<Task<Expected<std::unique_ptr<Driver>>>(
    OpenContext& context, const schema::BlockdevOptions& options)>;

// How likely a driver is the right one for an image of unknown format.
struct ProbeInput {
  std::span<const std::byte> head;  // the first bytes, up to 512
  std::string_view filename;
};

struct DriverEntry {
  std::string name;
  DriverOpen open;
  // 0..100, 0 is "not mine"; null when the driver cannot be probed. raw says 1.
  int (*probe)(const ProbeInput& input) = nullptr;
  // "nbd" handles "nbd:..."; empty for the rest.
  std::vector<std::string> protocol_names;
  // Splits a file name of that protocol into options; null when the driver takes `filename` as it
  // is.
  Expected<json::Object> (*parse_filename)(std::string_view filename) = nullptr;
  // Turns the driver's own options as -drive takes them, all of them text, into text that the
  // schema reads; null when it reads them as they are.
  Expected<void> (*read_text)(json::Object& options) = nullptr;
  // The child whose file name is the rest of this driver's own names. parse_filename leaves it as
  // {CHILD: {"filename": NAME}}, or {CHILD: {"file": {"filename": NAME}}} when it is an image.
  std::string named_child;
  bool is_protocol = false;
  bool is_filter = false;
  // Listed by `-drive format=help`.
  bool listed = true;
};

class DriverRegistry {
 public:
  void add(DriverEntry entry);
  const DriverEntry* find(std::string_view name) const;
  const std::vector<DriverEntry>& entries() const { return entries_; }

 private:
  std::vector<DriverEntry> entries_;
};

class Graph {
 public:
  Graph(Env& env, EventSink& events, DriverRegistry& drivers);
  ~Graph();

  Env& env() const { return env_; }
  // Began when the graph, and the program around it, was made.
  GuestClock& guest_clock() { return guest_clock_; }
  ThrottleGroups& throttle_groups() { return throttle_groups_; }
  EventSink& events() const { return events_; }
  DriverRegistry& drivers() const { return drivers_; }
  Executor& executor() const;

  // --- opening
  struct OpenRequest {
    // The option tree as blockdev-add has it (already checked against the schema).
    json::Object options;
    // Set for -drive and backing files: the file to open; `driver` may then be absent and is
    // probed.
    std::optional<std::string> filename;
    std::optional<InheritedOptions> inherited;
    bool implicit = false;
    // Leave the backing file closed.
    bool no_backing = false;
    // Values are strings as a command line gives them.
    bool keyval = false;
    // With keyval: in the forms of -drive (option_text.h), which json:{...} has as well; names made
    // of the options show what was given, not what it was read as.
    bool keep_text = false;
    // The name means storage: no format is probed.
    bool protocol_only = false;
    // The driver was found by looking at the image.
    bool probed = false;
    // Reports on devices look through it (Node::hidden).
    bool hidden = false;
    // A job takes it out again (Node::temporary).
    bool temporary = false;
    // How many images named by images lie above.
    int depth = 0;

    OpenRequest() = default;
  };
  // blockdev-add and all other ways end here. The caller holds the graph lock.
  Task<Expected<NodeRef>> open(OpenRequest request);
  // Checked options of a user: to the tree that OpenRequest takes.
  Task<Expected<NodeRef>> open(const schema::BlockdevOptions& options);
  // A filter over `below` whose driver the caller makes (filter_insertion.h). Without a name it is
  // hidden.
  Task<Expected<NodeRef>> open_job_filter(
      std::optional<std::string> name, bool read_only, Node& below,
      std::function<std::unique_ptr<Driver>(Node& node, Edge& below)> make);

  // --- names
  Node* find_node(std::string_view name) const;
  Backend* find_backend(std::string_view name) const;
  // "Cannot find device='x' nor node-name='x'" and its like.
  Expected<Node*> find_device_or_node(std::optional<std::string_view> device,
                                      std::optional<std::string_view> node_name) const;
  // All nodes, newest first.
  std::vector<Node*> nodes() const;
  // All backends in order of creation.
  const std::vector<Backend*>& backends() const { return backends_; }

  // --- the guest. Started to take one in that runs elsewhere still: what users open for it is
  // inactive, and devices hold nothing, until somebody activates it (activation.h).
  bool awaits_guest() const { return awaits_guest_; }
  void await_guest() { awaits_guest_ = true; }

  // --- the monitor's ownership of nodes (blockdev-add / blockdev-del)
  void give_to_monitor(Node& node);
  void take_from_monitor(Node& node);
  // Monitor-owned nodes in order of adding.
  const std::vector<Node*>& monitor_nodes() const { return monitor_nodes_; }

  // --- changing
  auto lock() { return lock_.lock(); }
  // Closes what nobody refers to any more.
  Task<void> close_unreferenced();
  // The monitor's nodes are dropped, all caches flushed, all files closed. What fails there is told
  // to the events' sink.
  Task<void> close_all();
  // Ends everything, clocks too.
  Task<void> shutdown();

  // One decision, in one place, on files that an image names: returns an error when opening is
  // denied.
  Expected<void> may_open_named_by_image(const Node& image, std::string_view filename) const;
  void deny_files_named_by_images(bool deny) { deny_named_by_images_ = deny; }

  // As system emulators do, and other programs do not.
  void refuse_aes_cbc(bool refuse) { refuses_aes_cbc_ = refuse; }
  bool refuses_aes_cbc() const { return refuses_aes_cbc_; }

  std::string next_auto_name();

  // Breakpoints of blkdebug take no request now: a drain waits, and nobody could resume it.
  bool waiting_drains() const { return waiting_drains_ > 0; }
  // What stands still goes on, and nothing stands still any more: the program ends.
  void end_breakpoints();

  // Something that a drain may wait for has ended; whoever implements EdgeParent::drained_poll
  // calls it when the answer may have become false.
  void drain_progress() {
    if (!drain_waiters_.empty()) drain_waiters_.wake_all();
  }

 private:
  friend class Node;
  friend class NodeRef;
  friend class Backend;
  friend class GraphChange;
  friend class OpenContext;
  friend class DrainedSection;
  friend Task<DrainedSection> drain(std::vector<Node*> nodes);

  void resume_suspended_below(const std::vector<Node*>& tops);
  void add_reference(Node& node);
  // The last one makes the node wait for close_unreferenced().
  void drop_reference(Node& node);
  void note_unreferenced(Node& node);
  // The options of the request with their types; takes them.
  Expected<schema::BlockdevOptions> read_options(OpenRequest& request) const;
  Task<Expected<NodeRef>> open_storage(json::Object& options, const NodeFlags& flags,
                                       const OpenRequest& request);
  Task<Expected<NodeRef>> make_node(json::Object options, const DriverEntry& entry,
                                    const schema::BlockdevOptions& typed, const NodeFlags& flags,
                                    const OpenRequest& request);
  Task<Expected<void>> open_driver(OpenContext& context, const DriverEntry& entry,
                                   const schema::BlockdevOptions& typed,
                                   const OpenRequest& request);
  Task<Expected<void>> open_backing(OpenContext& context, const OpenRequest& request);
  Task<Expected<NodeRef>> resolve_filename(OpenRequest& request);
  Task<void> choose_file_driver(json::Object& options);
  Task<Expected<NodeRef>> open_storage_to_probe(const OpenRequest& request);
  Task<Expected<NodeRef>> probe_format(OpenRequest& request, std::string filename);
  Task<void> close(Node& node);

  Env& env_;
  GuestClock guest_clock_;
  ThrottleGroups throttle_groups_;
  EventSink& events_;
  DriverRegistry& drivers_;
  Mutex lock_;
  WaitQueue drain_waiters_;
  int waiting_drains_ = 0;
  std::list<std::unique_ptr<Node>> nodes_;
  std::map<std::string, Node*, std::less<>> by_name_;
  std::vector<Node*> unreferenced_;
  std::vector<Node*> monitor_nodes_;
  std::vector<Backend*> backends_;
  uint64_t auto_names_ = 0;
  bool deny_named_by_images_ = false;
  bool refuses_aes_cbc_ = false;
  bool awaits_guest_ = false;
};

}  // namespace blockbed
