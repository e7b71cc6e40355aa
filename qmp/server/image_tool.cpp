#include "qmp/server/image_tool.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "block/filters/register.h"
#include "block/formats/qcow2/driver.h"
#include "block/formats/register.h"
#include "block/graph/drive_errors.h"
#include "block/graph/filename.h"
#include "block/graph/option_text.h"
#include "block/protocols/register.h"
#include "block/runtime/event_sink.h"
#include "block/runtime/production_env.h"
#include "qmp/schema/json_write.h"
#include "qmp/schema/scalar_text.h"
#include "qmp/server/image_amend.h"
#include "qmp/server/image_check.h"
#include "qmp/server/image_map.h"
#include "qmp/server/image_measure.h"
#include "qmp/server/listings.h"
#include "qmp/server/messages.h"
#include "qmp/server/startup.h"

namespace blockbed::server {

namespace {

// What a driver is shown of an image of unknown format.
constexpr uint64_t kProbeBytes = 512;

struct NoEvents final : EventSink {
  void emit(std::string_view, json::Value) override {}
  void tell(std::string_view line) override { write_stderr(std::string(line) + "\n"); }
  void tell_error(std::string_view text) override { report_error("", text); }
};

const ToolOption* find_long(std::span<const ToolOption> options, std::string_view name,
                            bool& ambiguous) {
  const ToolOption* found = nullptr;
  for (const ToolOption& option : options) {
    if (option.name == name) {
      ambiguous = false;
      return &option;
    }
    if (!option.name.starts_with(name)) continue;
    ambiguous = found != nullptr;
    found = &option;
  }
  return found;
}

const ToolOption* find_short(std::span<const ToolOption> options, char letter) {
  for (const ToolOption& option : options) {
    if (option.letter != 0 && option.letter == letter) return &option;
  }
  return nullptr;
}

std::optional<ToolArguments> unknown_option(std::string_view text) {
  usage_error(fmt::format("unrecognized option '{}'", text));
  return std::nullopt;
}

std::optional<ToolArguments> missing_value(std::string_view text) {
  usage_error(fmt::format("missing argument for option '{}'", text));
  return std::nullopt;
}

std::optional<ToolArguments> read_arguments(const std::vector<std::string>& arguments,
                                            std::span<const ToolOption> options) {
  ToolArguments parsed;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      parsed.names.insert(parsed.names.end(), arguments.begin() + static_cast<long>(i) + 1,
                          arguments.end());
      break;
    }
    if (argument.starts_with("--")) {
      const std::size_t equals = argument.find('=');
      const std::string name =
          argument.substr(2, equals == std::string::npos ? equals : equals - 2);
      bool ambiguous = false;
      const ToolOption* option = find_long(options, name, ambiguous);
      if (option == nullptr || ambiguous) return unknown_option(argument);
      std::string value;
      if (option->takes_value) {
        if (equals != std::string::npos) {
          value = argument.substr(equals + 1);
        } else if (i + 1 < arguments.size()) {
          value = arguments[++i];
        } else {
          return missing_value(argument);
        }
      } else if (equals != std::string::npos) {
        return unknown_option(argument);
      }
      parsed.options.push_back({option->name, std::move(value)});
      continue;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      parsed.names.push_back(argument);
      continue;
    }
    for (std::size_t at = 1; at < argument.size(); ++at) {
      const ToolOption* option = find_short(options, argument[at]);
      if (option == nullptr) return unknown_option(argument);
      std::string value;
      if (option->takes_value) {
        if (at + 1 < argument.size()) {
          value = argument.substr(at + 1);
        } else if (i + 1 < arguments.size()) {
          value = arguments[++i];
        } else {
          return missing_value(fmt::format("-{}", argument[at]));
        }
      }
      parsed.options.push_back({option->name, std::move(value)});
      if (option->takes_value) break;
    }
  }
  return parsed;
}

}  // namespace

Expected<void> check_option_value(std::string_view name, OptionKind kind,
                                  const std::string& value) {
  switch (kind) {
    case OptionKind::kText:
      return {};
    case OptionKind::kSwitch:
      if (schema::parse_switch(value)) return {};
      return fail(fmt::format("Parameter '{}' expects 'on' or 'off'", name));
    case OptionKind::kNumber:
      if (schema::parse_uint64(value)) return {};
      return fail(fmt::format("Parameter '{}' expects a number", name));
    case OptionKind::kSize:
      if (schema::parse_size(value)) return {};
      return no_size(name);
  }
  return {};
}

bool check_cache_mode(std::string_view what, const std::string& mode) {
  constexpr std::array<std::string_view, 6> kModes = {"none",   "off",          "writeback",
                                                      "unsafe", "writethrough", "directsync"};
  if (std::ranges::find(kModes, mode) != kModes.end()) return true;
  report_error("", fmt::format("Invalid {} option: {}", what, mode));
  return false;
}

int usage_error(std::string_view text) {
  report_error("", fmt::format("{}\nTry '{} --help' for more information", text, program_name()));
  return kToolFailed;
}

bool ToolArguments::has(std::string_view name) const { return value(name) != nullptr; }

std::string ToolArguments::joined(std::string_view name) const {
  std::string values;
  for (const Use& use : options) {
    if (use.name != name) continue;
    if (!values.empty()) values += ',';
    values += use.value;
  }
  return values;
}

const std::string* ToolArguments::value(std::string_view name) const {
  const std::string* found = nullptr;
  for (const Use& use : options) {
    if (use.name == name) found = &use.value;
  }
  return found;
}

std::expected<ToolArguments, int> parse_tool_arguments(const std::vector<std::string>& arguments,
                                                       std::span<const ToolOption> options,
                                                       std::string_view usage) {
  auto parsed = read_arguments(arguments, options);
  if (!parsed) return std::unexpected(kToolFailed);
  if (parsed->has("help")) {
    write_stdout(fmt::format(fmt::runtime(usage), program_name()));
    return std::unexpected(kToolOk);
  }
  return *std::move(parsed);
}

std::optional<bool> read_tool_output(const ToolArguments& arguments) {
  const std::string* output = arguments.value("output");
  if (output == nullptr || *output == "human") return false;
  if (*output == "json") return true;
  report_error("", "--output must be used with human or json as argument.");
  return std::nullopt;
}

std::optional<uint64_t> read_tool_size(std::string_view what, const std::string& text) {
  const std::optional<uint64_t> size = schema::parse_size(text);
  if (!size) {
    report_error(
        "", fmt::format("Invalid {} specified. You may use k, M, G, T, P or E suffixes for", what));
    report_error("", "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    return std::nullopt;
  }
  if (*size > INT64_MAX) {
    report_error("",
                 fmt::format("Invalid {} specified. Must be between 0 and {}.", what, INT64_MAX));
    return std::nullopt;
  }
  return size;
}

// --- images

std::optional<ImageName> read_image_name(const ToolArguments& arguments) {
  ImageName image;
  image.is_options = arguments.has("image-opts");
  if (const std::string* format = arguments.value("format")) {
    if (image.is_options) {
      report_error("", "--image-opts and --format are mutually exclusive");
      return std::nullopt;
    }
    image.format = *format;
  }
  if (!arguments.names.empty()) image.text = arguments.names.front();
  return image;
}

struct ToolGraph::Parts {
  ProductionEnv env;
  NoEvents events;
  DriverRegistry drivers;
  Graph graph{env, events, drivers};
  ObjectStore objects{env, graph.throttle_groups()};
};

ToolGraph::ToolGraph(const ToolArguments& arguments) : parts_(std::make_unique<Parts>()) {
  graph().deny_files_named_by_images(arguments.has(kDenyImageReferences.name));
  register_protocols(parts_->drivers);
  register_formats(parts_->drivers);
  register_filters(parts_->drivers);
}

ToolGraph::~ToolGraph() = default;

Graph& ToolGraph::graph() { return parts_->graph; }

ObjectStore& ToolGraph::objects() { return parts_->objects; }

namespace {

// A program that runs no guest and no server has no use for others.
constexpr std::array<std::string_view, 13> kObjectTypes = {
    "authz-list",     "authz-list-file", "authz-simple",   "main-loop",      "pr-manager-helper",
    "secret",         "secret_keyring",  "thread-context", "throttle-group", "tls-cipher-suites",
    "tls-creds-anon", "tls-creds-psk",   "tls-creds-x509"};

Expected<schema::ObjectOptions> read_object(std::string_view text) {
  auto parsed = parse_tree_option(text, "qom-type");
  if (!parsed) return std::unexpected(std::move(parsed).error());
  auto options = typed_option<schema::ObjectOptions>(std::move(*parsed));
  if (!options) return options;
  const std::string_view type = schema::name(options->qom_type);
  if (std::ranges::find(kObjectTypes, type) == kObjectTypes.end()) {
    return fail(fmt::format("invalid object type: {}", type));
  }
  return options;
}

}  // namespace

std::expected<void, int> ToolGraph::make_objects(const ToolArguments& arguments) {
  for (const ToolArguments::Use& use : arguments.options) {
    if (use.name != "object") continue;
    if (print_object_help(use.value, kObjectTypes)) return std::unexpected(kToolOk);
    auto options = read_object(use.value);
    Expected<void> made = options
                              ? parts_->env.run_until_complete(objects().add(std::move(*options)))
                              : fail(std::move(options).error());
    if (made) continue;
    report_error("", full_text(made.error()));
    return std::unexpected(kToolFailed);
  }
  return {};
}

namespace {

Task<int> run_and_close(ToolGraph& tool, std::function<Task<int>(ToolGraph&)> work) {
  const int status = co_await work(tool);
  {
    auto lock = co_await tool.graph().lock();
    co_await tool.graph().close_unreferenced();
  }
  co_await tool.graph().shutdown();
  co_return status;
}

// The definition of an image as a tree of options, in the forms of -drive. None: it is a file name.
Expected<std::optional<json::Object>> definition_of(const DriverRegistry& drivers,
                                                    const ImageName& name) {
  if (name.is_options) {
    auto parsed = parse_tree_option(name.text, "file");
    if (!parsed) return std::unexpected(std::move(parsed).error());
    return std::move(parsed->tree);
  }
  if (!name.text.starts_with("json:")) return std::optional<json::Object>();
  auto options = options_of_filename(drivers, name.text);
  if (!options) return std::unexpected(std::move(options).error());
  return std::move(options->options);
}

// Storage that is told by nothing but a file name is a file, as with -drive.
void name_storage_driver(json::Object& storage) {
  const json::Value* filename = storage.find("filename");
  if (filename != nullptr && filename->is_string() && !storage.contains("driver")) {
    storage.set("driver", "file");
  }
}

// What an image is opened with, but for what it stands on.
Expected<schema::BlockdevOptions> own_options(const DriverRegistry& drivers, json::Object tree) {
  if (tree.contains("backing")) tree.take("backing");
  for (const char* child : {"file", "data-file"}) {
    // Only that there is one.
    if (const json::Value* node = tree.find(child); node != nullptr && node->is_object()) {
      tree.set(child, "node");
    }
  }
  const json::Object given = tree;
  options_to_text(tree);
  auto typed = [&]() -> Expected<schema::BlockdevOptions> {
    BB_TRY(read_option_text(drivers, tree));
    return schema::from_keyval<schema::BlockdevOptions>(json::Value(std::move(tree)));
  }();
  if (!typed) return fail(in_drive_words(std::move(typed).error(), given, drivers));
  return typed;
}

InheritedOptions flags_of(bool writable, bool force_share) {
  InheritedOptions inherited;
  inherited.flags.read_only = !writable;
  inherited.flags.force_share = force_share;
  return inherited;
}

std::string probe(const DriverRegistry& drivers, std::span<const std::byte> head,
                  std::string_view filename) {
  std::string best = "raw";
  int score = 0;
  for (const DriverEntry& entry : drivers.entries()) {
    if (entry.probe == nullptr) continue;
    const int own = entry.probe(ProbeInput{head, filename});
    if (own > score) {
      score = own;
      best = entry.name;
    }
  }
  return best;
}

Error could_not_open(const ImageName& name, Error error) {
  error.description.insert(0, fmt::format("Could not open '{}': ", name.text));
  return error;
}

}  // namespace

int ToolGraph::run(std::function<Task<int>(ToolGraph&)> work) {
  return parts_->env.run_until_complete(run_and_close(*this, std::move(work)));
}

Task<Expected<StorageOfImage>> ToolGraph::open_storage(ImageName name, bool writable,
                                                       bool force_share) {
  auto definition = definition_of(parts_->drivers, name);
  if (!definition) co_return fail(could_not_open(name, std::move(definition).error()));
  StorageOfImage image;
  image.format = name.format;
  Graph::OpenRequest request;
  request.inherited = flags_of(writable, force_share);
  // As the file of an image.
  request.inherited->flags.unmap = true;
  if (*definition) {
    json::Object& tree = **definition;
    request.keyval = request.keep_text = true;
    if (const json::Value* driver = tree.find("driver"); driver != nullptr && driver->is_string()) {
      image.format = driver->as_string();
    }
    const json::Value* file = tree.find("file");
    if (file != nullptr && file->is_string()) {
      // No node is there that it could mean.
      auto found = graph().find_device_or_node(file->as_string(), file->as_string());
      co_return fail(could_not_open(name, std::move(found).error()));
    }
    if (file != nullptr && file->is_object()) {
      request.options = file->as_object();
      if (image.format == qcow2::Qcow2Driver::kName) {
        auto own = own_options(parts_->drivers, tree);
        if (!own) co_return fail(could_not_open(name, std::move(own).error()));
        image.options = std::move(*own);
        if (const json::Value* data = tree.find("data-file")) {
          image.data_file = *data;
          if (data->is_object()) name_storage_driver(image.data_file->as_object());
        }
      }
      name_storage_driver(request.options);
    } else if (image.format.empty()) {
      co_return fail(could_not_open(name, Error("Must specify either driver or file")));
    } else {
      // A definition of storage alone.
      request.options = std::move(tree);
      if (const DriverEntry* entry = parts_->drivers.find(image.format);
          entry != nullptr && entry->is_protocol) {
        image.format.clear();
      }
    }
  } else {
    request.filename = name.text;
    request.protocol_only = true;
  }
  if (!image.format.empty() && parts_->drivers.find(image.format) == nullptr) {
    co_return fail(could_not_open(name, Error(fmt::format("Unknown driver '{}'", image.format))));
  }
  auto lock = co_await graph().lock();
  auto node = co_await graph().open(std::move(request));
  if (!node) co_return fail(could_not_open(name, std::move(node).error()));
  // As the file of an image that is open.
  PermissionPair permissions;
  permissions.needs = Permission::kConsistentRead;
  if (writable) permissions.needs |= Permission::kWrite | Permissions(Permission::kResize);
  if (!force_share) {
    permissions.shares =
        Permissions::all() - (Permission::kWrite | Permissions(Permission::kResize));
  }
  image.storage = std::make_unique<Backend>(graph(), "", permissions);
  if (auto inserted = image.storage->insert(**node); !inserted) {
    co_return fail(could_not_open(name, std::move(inserted).error()));
  }
  if (image.format.empty()) {
    Buffer head = Buffer::zeroed(kProbeBytes);
    const uint64_t bytes = std::min<uint64_t>(kProbeBytes, (*node)->length());
    if (auto read = co_await image.storage->read(0, head.io(0, bytes)); !read) {
      co_await image.storage->remove();
      co_return fail(could_not_open(
          name, Error(fmt::format("Could not read image for determining its format: {}",
                                  strerror_text(read.error())))));
    }
    image.format = probe(parts_->drivers, head.span().first(bytes), name.text);
  }
  co_return image;
}

Task<Expected<NodeRef>> ToolGraph::open_image(ImageName name, bool writable, bool force_share) {
  Graph::OpenRequest request;
  request.inherited = flags_of(writable, force_share);
  request.filename = name.text;
  if (!name.format.empty()) request.options.set("driver", name.format);
  if (name.is_options) {
    auto definition = definition_of(parts_->drivers, name);
    if (!definition) co_return fail(could_not_open(name, std::move(definition).error()));
    // The same as a name that is a definition.
    request.filename = "json:" + json::to_string(json::Value(std::move(**definition)));
  }
  auto lock = co_await graph().lock();
  auto node = co_await graph().open(std::move(request));
  if (!node) co_return fail(could_not_open(name, std::move(node).error()));
  co_return node;
}

std::optional<int> run_image_tool(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return std::nullopt;
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  if (arguments.front() == "check") return run_check(rest);
  if (arguments.front() == "amend") return run_amend(rest);
  if (arguments.front() == "map") return run_map(rest);
  if (arguments.front() == "measure") return run_measure(rest);
  return std::nullopt;
}

}  // namespace blockbed::server
