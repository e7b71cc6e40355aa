// Opening nodes: from checked options (blockdev-add) and from file names (-drive, backing files).
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "block/graph/backing_definition.h"
#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/graph/drive_errors.h"
#include "block/graph/filename.h"
#include "block/graph/graph.h"
#include "block/graph/graph_change.h"
#include "block/graph/node_options.h"
#include "block/graph/option_text.h"
#include "block/graph/probe.h"
#include "block/runtime/env.h"
#include "block/runtime/event_sink.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

// Names of nodes share a table of 32 bytes with their terminator in every client's memory.
constexpr std::size_t kMaxNodeName = 31;
// A chain of images that name each other ends here; no sane chain is longer, and each level holds
// open files.
constexpr int kMaxImplicitDepth = 1000;
constexpr std::string_view kTooDeep =
    "The chain of images leads back to itself, or is too long (more than 1000 images)";

bool is_well_formed_id(std::string_view id) {
  if (id.empty() || !std::isalpha(static_cast<unsigned char>(id[0]))) return false;
  return std::ranges::all_of(
      id, [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; });
}

Expected<void> check_node_name(const Graph& graph, const std::string& name) {
  if (!is_well_formed_id(name)) return fail(fmt::format("Invalid node-name: '{}'", name));
  if (graph.find_backend(name) != nullptr) {
    return fail(fmt::format("node-name={} is conflicting with a device id", name));
  }
  if (graph.find_node(name) != nullptr)
    return fail(fmt::format("Duplicate nodes with node-name='{}'", name));
  if (name.size() > kMaxNodeName) return fail("Node name too long");
  return {};
}

// What the user gave beside a name wins over what the name says, option by option.
void merge(json::Object& options, const json::Object& given) {
  for (const auto& [key, value] : given) {
    json::Value* named = options.find(key);
    if (named != nullptr && named->is_object() && value.is_object()) {
      merge(named->as_object(), value.as_object());
    } else {
      options.set(key, value);
    }
  }
}

// What -drive says of a backing file may be a part of it: the image names the file and its format.
bool completes_header(const json::Value* backing) {
  if (backing == nullptr || !backing->is_object()) return false;
  const json::Object& given = backing->as_object();
  return !given.contains("driver") && !given.contains("file") && !given.contains("filename");
}

// `depth` of the image above. What is wrong with the chain is told once, not by each image of it.
Error backing_failure(Error error, int depth) {
  if (depth > 0 && error.description == kTooDeep) return error;
  error.description.insert(0, "Could not open backing file: ");
  return error;
}

}  // namespace

Env& OpenContext::env() const { return graph_.env(); }

const json::Value* OpenContext::child_option(std::string_view name) const {
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos) return options_.find(name);
  // "children.1" is the second of a list.
  const json::Value* list = options_.find(name.substr(0, dot));
  if (list == nullptr || !list->is_array()) return nullptr;
  std::size_t index = 0;
  std::from_chars(name.data() + dot + 1, name.data() + name.size(), index);
  return index < list->as_array().size() ? &list->as_array()[index] : nullptr;
}

Task<Expected<Edge*>> OpenContext::open_child(std::string name, ChildRoles roles,
                                              std::optional<PermissionPair> meanwhile) {
  auto edge = co_await open_optional_child(name, roles, meanwhile);
  if (edge && *edge == nullptr) {
    co_return fail(fmt::format("A block device must be specified for \"{}\"", name));
  }
  co_return edge;
}

Task<Expected<Edge*>> OpenContext::open_optional_child(std::string name, ChildRoles roles,
                                                       std::optional<PermissionPair> meanwhile) {
  const json::Value* option = child_option(name);
  if (option == nullptr || option->is_null()) co_return nullptr;
  if (option->is_string()) {
    auto found = graph_.find_device_or_node(option->as_string(), option->as_string());
    if (!found) co_return fail(found.error());
    co_return attach(std::move(name), roles, NodeRef(**found), meanwhile);
  }
  Graph::OpenRequest request;
  request.options = option->as_object();
  request.inherited = inherited_from(node_.flags(), roles);
  request.implicit = implicit_;
  request.depth = depth_ + 1;
  auto child = co_await graph_.open(std::move(request));
  if (!child) co_return fail(std::move(child).error());
  (*child)->inherits_from_ = &node_;
  co_return attach(std::move(name), roles, std::move(*child), meanwhile);
}

Task<Expected<Edge*>> OpenContext::open_child_by_filename(std::string name, ChildRoles roles,
                                                          std::string filename,
                                                          std::string format) {
  BB_CO_TRY(graph_.may_open_named_by_image(node_, filename));
  Graph::OpenRequest request;
  request.filename = std::move(filename);
  if (!format.empty()) request.options.set("driver", std::move(format));
  request.inherited = inherited_from(node_.flags(), roles);
  request.implicit = true;
  request.depth = depth_ + 1;
  // A data file is storage: no format of its own is looked for.
  request.protocol_only = !roles.has(ChildRole::kCow);
  auto child = co_await graph_.open(std::move(request));
  if (!child) co_return fail(std::move(child).error());
  (*child)->inherits_from_ = &node_;
  co_return attach(std::move(name), roles, std::move(*child));
}

Expected<Edge*> OpenContext::attach(std::string name, ChildRoles roles, NodeRef child,
                                    std::optional<PermissionPair> meanwhile) {
  GraphChange change(graph_);
  if (reaches(*child, node_)) return would_be_cycle(*child, name, node_);
  Edge* edge = change.attach_child(node_, std::move(name), roles, *child);
  // The driver's own wishes are checked when the node is open.
  if (!meanwhile) {
    meanwhile = default_child_permissions(node_, roles, {Permissions::none(), Permissions::all()},
                                          node_.writable());
  }
  change.set_permissions(*edge, *meanwhile);
  BB_TRY(change.check());
  change.commit();
  return edge;
}

Task<Expected<NodeRef>> Graph::open(const schema::BlockdevOptions& options) {
  OpenRequest request;
  request.options = to_json(options).as_object();
  return open(std::move(request));
}

Task<Expected<NodeRef>> Graph::open(OpenRequest request) {
  if (request.depth > kMaxImplicitDepth) {
    static_assert(kMaxImplicitDepth == 1000, "the text says so");
    co_return fail(std::string(kTooDeep));
  }
  NodeRef storage;
  const bool by_name = request.filename.has_value();
  const bool by_definition = by_name && request.filename->starts_with("json:");
  if (request.filename) {
    auto probed = co_await resolve_filename(request);
    if (!probed) co_return fail(std::move(probed).error());
    storage = std::move(*probed);
  }

  if (const json::Value* option = request.options.find("backing");
      option != nullptr && option->is_string() && option->as_string().empty()) {
    events_.tell("warning: Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
    request.options.take("backing");
    request.no_backing = true;
  }
  std::optional<json::Value> backing;
  if (const json::Value* option = request.options.find("backing");
      request.keyval && option != nullptr && (completes_header(option) || option->is_null())) {
    backing = request.options.take("backing");
  }
  json::Object given;
  if (request.keep_text || by_name) given = request.options;
  auto typed = read_options(request);
  if (!typed) {
    co_return fail(request.keep_text || by_name
                       ? in_drive_words(std::move(typed).error(), given, drivers_)
                       : std::move(typed).error());
  }
  json::Object options = to_json(*typed).as_object();
  if (backing) options.set("backing", std::move(*backing));
  const std::string driver_name = options.find("driver")->as_string();
  const DriverEntry* entry = drivers_.find(driver_name);
  if (entry == nullptr) co_return fail(fmt::format("Unknown driver '{}'", driver_name));

  const NodeFlags flags = flags_from(options, request.inherited);
  BB_CO_TRY(check_force_share(flags));
  // -drive has always let it pass.
  const bool of_drive = request.keep_text && !by_definition;
  if (!of_drive) BB_CO_TRY(check_detect_zeroes(flags, options));
  if (request.keep_text) request.options = std::move(given);
  // What only a name refers to is not this node's own.
  bool own_storage = static_cast<bool>(storage);
  if (!entry->is_protocol) {
    const json::Value* file = options.find("file");
    own_storage |= file != nullptr && file->is_object();
    auto opened = co_await open_storage(options, flags, request);
    if (!opened) co_return fail(std::move(opened).error());
    if (*opened) storage = std::move(*opened);
  }
  auto node = co_await make_node(std::move(options), *entry, *typed, flags, request);
  if (node && own_storage) storage->inherits_from_ = node->get();
  // In QEMU a root holds it while it is looked at. That this goes is seen by others who use the
  // storage, as with any root (Backend::release).
  if (storage && !own_storage) {
    for (int times = 0; times < 2; ++times) (co_await drain(*storage)).end();
  }
  // The storage is now held by its parent, or by nobody.
  storage = NodeRef();
  if (!node) co_await close_unreferenced();
  co_return node;
}

Expected<schema::BlockdevOptions> Graph::read_options(OpenRequest& request) const {
  if (request.keep_text) {
    options_to_text(request.options);
    BB_TRY(read_option_text(drivers_, request.options));
  }
  json::Value options(std::move(request.options));
  return request.keyval ? schema::from_keyval<schema::BlockdevOptions>(options)
                        : schema::from_json<schema::BlockdevOptions>(options);
}

Task<Expected<NodeRef>> Graph::open_storage(json::Object& options, const NodeFlags& flags,
                                            const OpenRequest& request) {
  // Storage is there before what stands on it: generated names and the order of reports show it.
  const json::Value* file = options.find("file");
  if (file != nullptr && file->is_string()) {
    auto found = find_device_or_node(file->as_string(), file->as_string());
    if (!found) co_return fail(std::move(found).error());
    co_return NodeRef(**found);
  }
  if (file == nullptr || !file->is_object()) co_return NodeRef();
  OpenRequest storage;
  const json::Value* text = request.keep_text ? request.options.find("file") : nullptr;
  storage.keep_text = storage.keyval = text != nullptr;
  storage.options = (text != nullptr ? text : file)->as_object();
  storage.inherited = inherited_from(flags, kImageRoles);
  storage.implicit = request.implicit;
  storage.depth = request.depth + 1;
  auto opened = co_await open(std::move(storage));
  if (opened) options.set("file", (*opened)->name());
  co_return opened;
}

Task<Expected<NodeRef>> Graph::make_node(json::Object options, const DriverEntry& entry,
                                         const schema::BlockdevOptions& typed,
                                         const NodeFlags& flags, const OpenRequest& request) {
  std::string name;
  if (const json::Value* given = options.find("node-name")) {
    name = given->as_string();
    BB_CO_TRY(check_node_name(*this, name));
  }

  nodes_.push_back(nullptr);
  auto place = std::prev(nodes_.end());
  const bool named_by_user = !name.empty();
  if (!named_by_user) name = next_auto_name();
  *place = std::make_unique<Node>(*this, name);
  Node& node = **place;
  by_name_.emplace(name, &node);
  node.named_by_user_ = named_by_user;
  node.flags_ = flags;
  node.probed_ = request.probed;
  node.hidden_ = request.hidden;
  node.temporary_ = request.temporary;
  NodeRef reference(node);

  OpenContext context(*this, node, options, request.implicit, request.depth);
  BB_CO_TRY(co_await open_driver(context, entry, typed, request));
  node.given_options_ = without_children(node, request.keep_text ? request.options : options);
  node.given_as_text_ = request.keep_text;
  co_return reference;
}

Task<Expected<NodeRef>> Graph::open_job_filter(
    std::optional<std::string> name, bool read_only, Node& below,
    std::function<std::unique_ptr<Driver>(Node& node, Edge& below)> make) {
  json::Object options;
  if (name) options.set("node-name", *name);
  options.set("backing", below.name());
  DriverEntry entry;
  entry.open = [make = std::move(make)](
                   OpenContext& context,
                   const schema::BlockdevOptions&) -> Task<Expected<std::unique_ptr<Driver>>> {
    auto edge = co_await context.open_child("backing", kFilteredRoles);
    if (!edge) co_return fail(std::move(edge).error());
    co_return make(context.node(), **edge);
  };
  const schema::BlockdevOptions none;
  NodeFlags flags = below.flags();
  flags.read_only = read_only;
  flags.detect_zeroes = DetectZeroes::kOff;
  OpenRequest request;
  request.hidden = !name;
  request.temporary = true;
  auto filter = co_await make_node(std::move(options), entry, none, flags, request);
  if (!filter) co_await close_unreferenced();
  co_return filter;
}

Task<Expected<void>> Graph::open_driver(OpenContext& context, const DriverEntry& entry,
                                        const schema::BlockdevOptions& typed,
                                        const OpenRequest& request) {
  Node& node = context.node();
  auto driver = co_await entry.open(context, typed);
  if (!driver) co_return fail(std::move(driver).error());
  node.driver_ = std::move(*driver);
  // A child that is drained has made the node so, before there was somebody to tell.
  if (node.quiesced()) node.driver_->drained_begin();
  node.debug_listener_ = node.driver_->debug_listener();
  node.refresh_limits();
  auto length = co_await node.refresh_length();
  if (!length) {
    co_return fail(
        fmt::format("Could not refresh total sector count: {}", strerror_text(length.error())));
  }
  node.refresh_limits();

  if (node.driver_->supports_backing()) {
    BB_CO_TRY(co_await open_backing(context, request));
  }

  // Now the driver can say what it needs of its children.
  GraphChange change(*this);
  change.recheck(node);
  BB_CO_TRY(change.check());
  change.commit();
  co_return Expected<void>();
}

Task<Expected<void>> Graph::open_backing(OpenContext& context, const OpenRequest& request) {
  Node& node = context.node();
  const std::string stored = node.driver_->backing_file_name();
  std::string resolved;
  if (!stored.empty()) {
    auto full = resolve_backing_name(node, stored);
    // A name that cannot be resolved matters only when it is needed.
    if (full) {
      resolved = std::move(*full);
    } else if (context.child_option("backing") == nullptr && !request.no_backing) {
      co_return fail(std::move(full).error());
    }
  }
  // As it stands there: only a file that is opened by that name shows what it means.
  node.header_backing_file_ = stored;
  if (request.no_backing) co_return Expected<void>();

  const json::Value* option = context.child_option("backing");
  if (completes_header(option) && !stored.empty()) {
    BB_CO_TRY(may_open_named_by_image(node, resolved));
    OpenRequest below;
    below.filename = resolved;
    below.options = option->as_object();
    if (std::string format = node.driver_->backing_format(); !format.empty()) {
      below.options.set("driver", std::move(format));
    }
    below.inherited = inherited_from(node.flags(), kCowRole);
    below.implicit = true;
    below.depth = context.depth_ + 1;
    below.keyval = below.keep_text = true;
    auto opened = co_await open(std::move(below));
    if (!opened) co_return fail(backing_failure(std::move(opened).error(), context.depth_));
    auto edge = context.attach("backing", kCowRole, std::move(*opened));
    if (!edge) co_return fail(backing_failure(std::move(edge).error(), context.depth_));
    node.header_backing_file_ = (*edge)->node()->filename();
    co_return Expected<void>();
  }
  if (option != nullptr) {
    if (completes_header(option)) {
      co_return fail(
          backing_failure(Error("A block device must be specified for \"file\""), context.depth_));
    }
    if (option->is_object() && !resolved.empty()) {
      auto fits = check_beside_header_name(drivers_, option->as_object(), resolved);
      if (!fits) co_return fail(backing_failure(std::move(fits).error(), context.depth_));
    }
    auto edge = co_await context.open_optional_child("backing", kCowRole);
    if (!edge) co_return fail(backing_failure(edge.error(), context.depth_));
    co_return Expected<void>();
  }
  if (stored.empty()) co_return Expected<void>();
  auto edge = co_await context.open_child_by_filename("backing", kCowRole, resolved,
                                                      node.driver_->backing_format());
  if (!edge) {
    co_return fail(backing_failure(Error(edge.error().description), context.depth_));
  }
  // The same file may be spelled in other ways: what was opened is what the header means.
  node.header_backing_file_ = (*edge)->node()->filename();
  co_return Expected<void>();
}

Task<Expected<NodeRef>> Graph::resolve_filename(OpenRequest& request) {
  const std::string filename = *std::exchange(request.filename, std::nullopt);
  json::Object& options = request.options;

  const json::Value* driver = options.find("driver");
  const DriverEntry* entry = driver == nullptr ? nullptr : drivers_.find(driver->as_string());
  if (driver != nullptr && entry == nullptr) {
    co_return fail(fmt::format("Unknown driver '{}'", driver->as_string()));
  }
  const bool is_storage = request.protocol_only || (entry != nullptr && entry->is_protocol);
  auto storage_options = options_of_filename(drivers_, filename, is_storage ? entry : nullptr);
  if (!storage_options) co_return fail(std::move(storage_options).error());

  if (storage_options->is_complete) {
    // json:{...} is a whole definition, in the forms of -drive; what the user gave besides it wins.
    request.keyval = request.keep_text = true;
    for (const auto& [key, value] : storage_options->options) {
      if (!options.contains(key)) options.set(key, value);
    }
    if (driver = options.find("driver"); driver != nullptr && driver->is_string()) {
      entry = drivers_.find(driver->as_string());
      if (entry == nullptr) {
        co_return fail(fmt::format("Unknown driver '{}'", driver->as_string()));
      }
    }
    // Of its storage it may give no more than a path, or the name of a node that there is.
    json::Value* file = options.find("file");
    const bool defines_storage = file != nullptr && file->is_object();
    const bool names_storage = file != nullptr && file->is_string();
    if (defines_storage) co_await choose_file_driver(file->as_object());
    // What is no text names no driver, and what is neither text nor object no node.
    const bool nothing = !defines_storage && !names_storage;
    if (!options.contains("driver") || (nothing && !options.find("driver")->is_string())) {
      if (nothing) {
        co_return fail("Must specify either driver or file");
      }
      co_return co_await probe_format(request, filename);
    }
    // A quorum has many children, none of which is its file.
    if (entry != nullptr && !entry->is_protocol && nothing && !options.contains("children"))
      co_return fail("A block device must be specified for \"file\"");
    co_return NodeRef();
  }

  if (is_storage) {
    for (const auto& [key, value] : storage_options->options) {
      if (!options.contains(key)) options.set(key, value);
    }
    co_await choose_file_driver(options);
    co_return NodeRef();
  }

  // A format over storage: the storage's options are those of the name and those given as file.*.
  json::Object storage = std::move(storage_options->options);
  if (const json::Value* given = options.find("file"); given != nullptr && given->is_object()) {
    merge(storage, given->as_object());
  }
  co_await choose_file_driver(storage);
  if (entry != nullptr) {
    options.set("file", std::move(storage));
    co_return NodeRef();
  }
  options.set("file", std::move(storage));
  co_return co_await probe_format(request, filename);
}

Task<void> Graph::choose_file_driver(json::Object& options) {
  const json::Value* driver = options.find("driver");
  const DriverEntry* entry =
      driver != nullptr && driver->is_string() ? drivers_.find(driver->as_string()) : nullptr;
  if (entry != nullptr && !entry->named_child.empty()) {
    json::Value* child = options.find(entry->named_child);
    if (child == nullptr || !child->is_object()) co_return;
    json::Object& definition = child->as_object();
    json::Value* file = definition.find("file");
    co_await choose_file_driver(file != nullptr && file->is_object() ? file->as_object()
                                                                     : definition);
    if (file == nullptr || definition.contains("driver")) co_return;
    // An image: its format is found by looking where there is something to look at.
    const json::Value* path = file->as_object().find("filename");
    definition.set("driver", path == nullptr ? std::string("raw")
                                             : co_await probe_file(*this, path->as_string()));
    co_return;
  }
  const json::Value* path = options.find("filename");
  if ((driver != nullptr && driver->is_string()) || path == nullptr || !path->is_string()) {
    co_return;
  }
  std::string chosen = "file";
  if (auto file = co_await env_.open_file(path->as_string(), FileOpenOptions()); file) {
    if ((*file)->kind() == FileKind::kBlockDevice ||
        (*file)->kind() == FileKind::kCharacterDevice) {
      chosen = "host_device";
    }
    (void)co_await (*file)->close();
  }
  options.set("driver", std::move(chosen));
}

Task<Expected<NodeRef>> Graph::open_storage_to_probe(const OpenRequest& request) {
  const json::Value& file = *request.options.find("file");
  if (file.is_string()) {
    auto found = find_device_or_node(file.as_string(), file.as_string());
    if (!found) co_return fail(std::move(found).error());
    co_return NodeRef(**found);
  }
  OpenRequest storage;
  storage.options = file.as_object();
  storage.keyval = request.keyval;
  storage.keep_text = request.keep_text;
  storage.implicit = request.implicit;
  storage.depth = request.depth + 1;
  const NodeFlags flags = flags_from(request.options, request.inherited);
  BB_CO_TRY(check_force_share(flags));
  BB_CO_TRY(check_detect_zeroes(flags, request.options));
  InheritedOptions inherited;
  inherited.flags = flags;
  inherited.flags.detect_zeroes = DetectZeroes::kOff;
  inherited.flags.unmap = true;
  if (const auto read_only = request.options.find("read-only");
      read_only != nullptr && read_only->is_string()) {
    inherited.flags.read_only = read_only->as_string() == "on";
  }
  storage.inherited = inherited;
  co_return co_await open(std::move(storage));
}

Task<Expected<NodeRef>> Graph::probe_format(OpenRequest& request, std::string filename) {
  // A node that has a name of its own stays whose it is.
  const bool is_own = request.options.find("file")->is_object();
  auto storage = co_await open_storage_to_probe(request);
  if (!storage) co_return fail(std::move(storage).error());

  Node& node = **storage;
  Buffer head = Buffer::zeroed(kProbeBytes);
  const uint64_t length = std::min<uint64_t>(node.length(), kProbeBytes);
  if (length > 0) {
    if (auto read = co_await node.read(0, head.io(0, length)); !read) {
      co_return fail(fmt::format("Could not read image for determining its format: {}",
                                 strerror_text(read.error())));
    }
  }
  const ProbeInput input{head.span().first(length), filename};
  const DriverEntry* best = blockbed::probe_format(drivers_, input);
  if (best == nullptr)
    co_return fail("Could not determine image format: No compatible driver found");
  request.options.set("driver", best->name);
  request.options.set("file", node.name());
  request.probed = true;
  co_return is_own ? std::move(*storage) : NodeRef();
}

}  // namespace blockbed
