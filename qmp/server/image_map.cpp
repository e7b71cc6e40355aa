#include "qmp/server/image_map.h"

#include <fmt/format.h>

#include <array>

#include "block/graph/image_map.h"
#include "qmp/server/image_tool.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

namespace {

constexpr std::array<ToolOption, 9> kOptions = {{
    {'h', "help", false},
    {'f', "format", true},
    {'s', "start-offset", true},
    {'l', "max-length", true},
    {'U', "force-share", false},
    {0, "output", true},
    {0, "image-opts", false},
    {0, "object", true},
    kDenyImageReferences,
}};

constexpr std::string_view kUsage =
    "Usage: {} map [options] IMAGE\n"
    "Tells which file of an image's chain holds which part of the disk.\n"
    "\n"
    "  -f, --format FMT         the format of the image; looked for when not given\n"
    "  --image-opts             IMAGE is driver=qcow2,file.filename=... instead of a file name\n"
    "  -s, --start-offset N     from there on\n"
    "  -l, --max-length N       so many bytes\n"
    "  --output human|json\n"
    "  -U, --force-share        the image may be in use\n"
    "  --deny-image-references  open no file because an image names it\n";

struct Request {
  ImageName image;
  bool json = false;
  bool force_share = false;
  uint64_t start = 0;
  uint64_t max_length = INT64_MAX;
};

// Nothing: it was said why.
std::optional<Request> read_request(const ToolArguments& arguments) {
  Request request;
  auto output = read_tool_output(arguments);
  if (!output) return std::nullopt;
  request.json = *output;
  if (const std::string* start = arguments.value("start-offset")) {
    auto number = read_tool_size("start offset", *start);
    if (!number) return std::nullopt;
    request.start = *number;
  }
  if (const std::string* length = arguments.value("max-length")) {
    auto number = read_tool_size("max length", *length);
    if (!number) return std::nullopt;
    request.max_length = *number;
  }
  if (arguments.names.size() != 1) {
    usage_error("Expecting one image file name");
    return std::nullopt;
  }
  auto image = read_image_name(arguments);
  if (!image) return std::nullopt;
  request.image = *std::move(image);
  request.force_share = arguments.has("force-share");
  return request;
}

std::string_view word(bool value) { return value ? "true" : "false"; }

std::string json_line(const MapRun& run) {
  std::string text = fmt::format(
      "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, "
      "\"data\": {}",
      run.start, run.length, run.depth, word(run.present), word(run.zero), word(run.data));
  if (run.offset) text += fmt::format(", \"offset\": {}", *run.offset);
  return text + "}";
}

// As printf's %#-16x has it: no prefix for 0.
std::string column(uint64_t value) {
  return fmt::format("{:<16}", value == 0 ? "0" : fmt::format("{:#x}", value));
}

// Nothing: a run that has no place in a file.
std::optional<std::string> human_line(const MapRun& run) {
  if (!run.data || run.zero) return "";
  if (!run.offset) return std::nullopt;
  return column(run.start) + column(run.length) + column(*run.offset) + run.file + "\n";
}

Task<int> map(ToolGraph& tool, const Request& request) {
  auto node = co_await tool.open_image(request.image, false, request.force_share);
  if (!node) {
    report_error("", full_text(node.error()));
    co_return kToolFailed;
  }
  Backend backend(tool.graph(), "", {Permissions(Permission::kConsistentRead), Permissions::all()});
  if (auto inserted = backend.insert(**node); !inserted) {
    report_error("", full_text(inserted.error()));
    co_return kToolFailed;
  }
  const uint64_t length = (*node)->length();
  const uint64_t end = request.max_length < length && request.start < length - request.max_length
                           ? request.start + request.max_length
                           : length;
  write_stdout(request.json ? "["
                            : fmt::format("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to",
                                          "File"));
  int status = kToolOk;
  bool first = true;
  for (uint64_t at = request.start; at < end && status == kToolOk;) {
    auto run = co_await next_run(**node, at, end);
    if (!run) {
      report_error("",
                   fmt::format("Failed to read image metadata: {}", strerror_text(run.error())));
      status = kToolFailed;
      break;
    }
    at += run->length;
    if (request.json) {
      write_stdout((first ? "" : ",\n") + json_line(*run));
      first = false;
      continue;
    }
    auto line = human_line(*run);
    if (line) {
      write_stdout(*line);
    } else {
      report_error("", "File contains external, encrypted or compressed clusters.");
      status = kToolFailed;
    }
  }
  if (request.json && status == kToolOk) {
    // Nothing to tell is told as a run of no length.
    MapRun nothing;
    nothing.start = request.start;
    write_stdout((first ? json_line(nothing) : "") + "]\n");
  }
  co_await backend.remove();
  co_return status;
}

}  // namespace

int run_map(const std::vector<std::string>& arguments) {
  auto parsed = parse_tool_arguments(arguments, kOptions, kUsage);
  if (!parsed) return parsed.error();
  ToolGraph tool(*parsed);
  if (auto made = tool.make_objects(*parsed); !made) return made.error();
  auto request = read_request(*parsed);
  if (!request) return kToolFailed;
  return tool.run([&request](ToolGraph& graph) { return map(graph, *request); });
}

}  // namespace blockbed::server
