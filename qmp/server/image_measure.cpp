#include "qmp/server/image_measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "block/formats/qcow2/driver.h"
#include "block/formats/qcow2/measure.h"
#include "block/graph/image_map.h"
#include "qmp/commands/option_text.h"
#include "qmp/schema/scalar_text.h"
#include "qmp/server/create_options.h"
#include "qmp/server/image_tool.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

namespace {

constexpr std::array<ToolOption, 11> kOptions = {{
    {'h', "help", false},
    {'f', "format", true},
    {'O', "target-format", true},
    {'o', "options", true},
    {'U', "force-share", false},
    {0, "size", true},
    {0, "output", true},
    {0, "image-opts", false},
    {0, "object", true},
    kDenyImageReferences,
    {'l', "snapshot", true},
}};

constexpr std::string_view kUsage =
    "Usage: {} measure [options] [--size N | IMAGE]\n"
    "Tells how large the file of a new image will be.\n"
    "\n"
    "  --size N                 of a disk of N bytes\n"
    "  -f, --format FMT         the format of IMAGE; looked for when not given\n"
    "  -l, --snapshot SNAPSHOT  of an internal snapshot: its id or name, or\n"
    "                           snapshot.id=ID,snapshot.name=NAME\n"
    "  --image-opts             IMAGE is driver=qcow2,file.filename=... instead of a file name\n"
    "  -O, --target-format FMT  the format of the new image: qcow2, or raw when not given\n"
    "  -o, --options OPTIONS    its options: cluster_size=..., compat=..., ...\n"
    "  --output human|json\n"
    "  -U, --force-share        IMAGE may be in use\n"
    "  --deny-image-references  open no file because an image names it\n";

constexpr uint64_t kSector = 512;

struct SnapshotName {
  std::optional<std::string> id;
  std::optional<std::string> name;
  // Of one of both, it is not said which.
  std::optional<std::string> either;
};

struct Request {
  std::optional<ImageName> image;
  std::optional<SnapshotName> snapshot;
  uint64_t size = 0;
  std::string format = "raw";
  qcow2::CreateOptions options;
  bool json = false;
  bool force_share = false;
};

struct Answer {
  uint64_t required = 0;
  uint64_t fully_allocated = 0;
  // When the source may have some and the target can hold them.
  std::optional<uint64_t> bitmaps;
};

// Of checked options. An image that would be encrypted begins with a header whose length is not
// known here.
Expected<void> check_encryption(const OptionText& text, ObjectStore& objects) {
  const std::string* format = text.find("encrypt.format");
  // The older way to encrypt takes no space of its own, and no other format is looked at.
  if (format == nullptr || *format != "luks") return {};
  const std::string* id = text.find("encrypt.key-secret");
  if (id == nullptr) return fail("Parameter 'encrypt.key-secret' is required for cipher");
  const UserObject* object = objects.find(*id);
  if (object == nullptr) return fail(fmt::format("No secret with id '{}'", *id));
  if (object->type() != "secret" && object->type() != "secret_keyring") {
    return fail(fmt::format("Object with id '{}' is not a secret", *id));
  }
  return fail("Encrypted qcow2 images are not supported yet");
}

bool refuse(const Error& error) {
  report_error("", full_text(error));
  return false;
}

bool read_create_options(const ToolArguments& arguments, ObjectStore& objects, Request& request) {
  auto text = OptionText::parse(arguments.joined("options"));
  Expected<void> valid =
      text ? check_create_options(*text, request.format == "qcow2") : fail(std::move(text).error());
  if (!valid) {
    (void)refuse(valid.error());
    report_error("", fmt::format("Invalid options for file format '{}'", request.format));
    return false;
  }
  if (request.format != "qcow2") return true;
  auto options = read_qcow2_options(*text);
  if (!options) return refuse(options.error());
  if (auto usable = check_encryption(*text, objects); !usable) return refuse(usable.error());
  request.options = std::move(*options);
  return true;
}

// What is told by keys goes before what is told by a text alone. False: it was said why.
bool read_snapshot_name(const ToolArguments& arguments, Request& request) {
  for (const ToolArguments::Use& use : arguments.options) {
    if (use.name != "snapshot") continue;
    if (!request.snapshot) request.snapshot.emplace();
    if (!use.value.starts_with("snapshot.")) {
      request.snapshot->either = use.value;
      continue;
    }
    auto text = OptionText::parse(use.value);
    if (!text) return refuse(text.error());
    for (const std::string& warning : text->warnings()) report_warning("", warning);
    request.snapshot->id = text->take("snapshot.id");
    request.snapshot->name = text->take("snapshot.name");
    if (!text->empty()) {
      report_error("", fmt::format("Invalid parameter '{}'", text->items().front().first));
      report_error("", fmt::format("Failed in parsing snapshot param '{}'", use.value));
      return false;
    }
  }
  return true;
}

// Nothing: it was said why.
std::optional<Request> read_request(const ToolArguments& arguments) {
  Request request;
  if (!read_snapshot_name(arguments, request)) return std::nullopt;
  auto output = read_tool_output(arguments);
  if (!output) return std::nullopt;
  request.json = *output;
  const std::string* size = arguments.value("size");
  if (size != nullptr) {
    auto number = read_tool_size("image size", *size);
    if (!number) return std::nullopt;
    request.size = *number;
  }
  const auto refused = [](std::string_view text) {
    report_error("", text);
    return std::nullopt;
  };
  if (arguments.names.size() > 1) return refused("At most one filename argument is allowed.");
  const std::string* format = arguments.value("format");
  if (arguments.names.empty()) {
    if (arguments.has("image-opts") || format != nullptr || request.snapshot) {
      return refused("--image-opts, -f, and -l require a filename argument.");
    }
    if (size == nullptr) return refused("Either --size N or one filename must be specified.");
  } else {
    if (size != nullptr) return refused("--size N cannot be used together with a filename.");
    request.image = read_image_name(arguments);
    if (!request.image) return std::nullopt;
  }
  if (const std::string* target = arguments.value("target-format")) request.format = *target;
  request.force_share = arguments.has("force-share");
  return request;
}

// --- measuring

Task<Expected<void>> show_snapshot(Node& node, const SnapshotName& snapshot) {
  auto* driver = dynamic_cast<qcow2::Qcow2Driver*>(&node.driver());
  if (driver == nullptr) {
    co_return fail(
        fmt::format("Block format '{}' used by device '{}' does not support temporarily loading "
                    "internal snapshots",
                    node.driver().name(), node.device_name()));
  }
  if (snapshot.id || snapshot.name) {
    co_return co_await driver->show_snapshot(snapshot.id, snapshot.name);
  }
  const auto& all = driver->image().snapshots();
  const bool is_id = std::ranges::find(all, *snapshot.either, &qcow2::Snapshot::id) != all.end();
  co_return is_id ? co_await driver->show_snapshot(snapshot.either, std::nullopt)
                  : co_await driver->show_snapshot(std::nullopt, snapshot.either);
}

Task<Result<uint64_t>> data_of(Node& node, uint64_t cluster_size) {
  qcow2::DataCounter counter(cluster_size);
  const uint64_t end = node.length();
  for (uint64_t at = 0; at < end;) {
    auto run = co_await next_run(node, at, end);
    if (!run) co_return io_error(run.error());
    if (run->data && !run->zero) counter.add(at, run->length);
    at += run->length;
  }
  co_return counter.bytes();
}

Task<Expected<Answer>> measure_qcow2(Request& request, Node* source) {
  Answer answer;
  uint64_t data = 0;
  if (source != nullptr) {
    request.options.size = source->length();
    const uint64_t cluster = request.options.cluster_size;
    if (!request.options.backing_file.value_or("").empty()) {
      // How much of the chain the new image shares is not known.
      data = (source->length() + cluster - 1) / cluster * cluster;
    } else {
      auto counted = co_await data_of(*source, cluster);
      if (!counted) {
        co_return fail(
            fmt::format("Unable to get block status: {}", strerror_text(counted.error())));
      }
      data = *counted;
    }
    auto* driver = dynamic_cast<qcow2::Qcow2Driver*>(&source->skip_filters()->driver());
    if (driver != nullptr && driver->image().header().version >= 3 &&
        request.options.version >= 3) {
      answer.bitmaps = qcow2::bitmaps_size(driver->bitmaps(), source->length(), cluster);
    }
  } else {
    request.options.size = request.size;
  }
  auto measured = qcow2::measure(request.options, data);
  if (!measured) co_return fail(std::move(measured).error());
  answer.required = measured->required;
  answer.fully_allocated = measured->fully_allocated;
  co_return answer;
}

std::string report(const Answer& answer, bool json) {
  if (json) {
    std::string text = "{\n";
    if (answer.bitmaps) text += fmt::format("    \"bitmaps\": {},\n", *answer.bitmaps);
    return text + fmt::format("    \"required\": {},\n    \"fully-allocated\": {}\n}}\n",
                              answer.required, answer.fully_allocated);
  }
  std::string text = fmt::format("required size: {}\nfully allocated size: {}\n", answer.required,
                                 answer.fully_allocated);
  if (answer.bitmaps) text += fmt::format("bitmaps size: {}\n", *answer.bitmaps);
  return text;
}

// Said what it is when it is not kToolOk.
Task<int> measure_and_tell(ToolGraph& tool, const ToolArguments& arguments, Request& request,
                           Node* source) {
  if (request.snapshot) {
    if (auto shown = co_await show_snapshot(*source, *request.snapshot); !shown) {
      (void)refuse(Error(fmt::format("Failed to load snapshot: {}", shown.error().description)));
      co_return kToolFailed;
    }
  }
  const DriverEntry* entry = tool.graph().drivers().find(request.format);
  if (entry == nullptr) {
    report_error("", fmt::format("Unknown file format '{}'", request.format));
    co_return kToolFailed;
  }
  if (request.format != "qcow2" && request.format != "raw") {
    report_error(
        "", fmt::format("Block driver '{}' does not support size measurement", request.format));
    co_return kToolFailed;
  }
  if (!read_create_options(arguments, tool.objects(), request)) co_return kToolFailed;
  Expected<Answer> answer;
  if (request.format == "qcow2") {
    answer = co_await measure_qcow2(request, source);
  } else {
    const uint64_t size = source != nullptr ? source->length() : request.size;
    answer->required = answer->fully_allocated = (size + kSector - 1) / kSector * kSector;
  }
  if (!answer) {
    (void)refuse(answer.error());
    co_return kToolFailed;
  }
  write_stdout(report(*answer, request.json));
  co_return kToolOk;
}

Task<int> measure(ToolGraph& tool, const ToolArguments& arguments, Request& request) {
  NodeRef node;
  Backend backend(tool.graph(), "", {Permissions(Permission::kConsistentRead), Permissions::all()});
  if (request.image) {
    auto opened = co_await tool.open_image(*request.image, false, request.force_share);
    if (!opened) {
      (void)refuse(opened.error());
      co_return kToolFailed;
    }
    node = std::move(*opened);
    if (auto inserted = backend.insert(*node); !inserted) {
      (void)refuse(inserted.error());
      co_return kToolFailed;
    }
  }
  const int status = co_await measure_and_tell(tool, arguments, request, node.get());
  if (node) co_await backend.remove();
  co_return status;
}

}  // namespace

int run_measure(const std::vector<std::string>& arguments) {
  auto parsed = parse_tool_arguments(arguments, kOptions, kUsage);
  if (!parsed) return parsed.error();
  ToolGraph tool(*parsed);
  if (auto made = tool.make_objects(*parsed); !made) return made.error();
  auto request = read_request(*parsed);
  if (!request) return kToolFailed;
  return tool.run([&](ToolGraph& graph) { return measure(graph, *parsed, *request); });
}

}  // namespace blockbed::server
