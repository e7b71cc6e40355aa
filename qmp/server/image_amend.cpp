#include "qmp/server/image_amend.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "block/formats/qcow2/amend.h"
#include "block/formats/qcow2/driver.h"
#include "qmp/commands/option_text.h"
#include "qmp/schema/scalar_text.h"
#include "qmp/server/image_tool.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

namespace {

constexpr std::array<ToolOption, 9> kOptions = {{
    {'h', "help", false},
    {'f', "format", true},
    {'o', "options", true},
    {'p', "progress", false},
    {'q', "quiet", false},
    {'t', "cache", true},
    {0, "image-opts", false},
    {0, "force", false},
    {0, "object", true},
}};

constexpr std::string_view kUsage =
    "Usage: {} amend [options] -o OPTIONS IMAGE\n"
    "Gives a qcow2 image other options: compat, lazy_refcounts, refcount_bits, size, data_file,\n"
    "data_file_raw.\n"
    "\n"
    "  -o, --options OPTIONS  NAME=VALUE,...\n"
    "  -f, --format FMT       the format of the image; looked for when not given\n"
    "  --image-opts           IMAGE is driver=qcow2,file.filename=... instead of a file name\n"
    "  -p, -q, -t M, --force  taken as qemu-img takes them, and of no effect\n";

// Those that only a new image can have.
constexpr std::array<std::string_view, 12> kOnlyCreation = {
    "cluster_size",           "preallocation",      "encryption",          "encrypt.format",
    "encrypt.key-secret",     "encrypt.cipher-alg", "encrypt.cipher-mode", "encrypt.ivgen-alg",
    "encrypt.ivgen-hash-alg", "encrypt.hash-alg",   "extended_l2",         "compression_type"};

Expected<qcow2::AmendOptions> read_amend_options(const OptionText& text) {
  qcow2::AmendOptions result;
  for (const auto& [name, value] : text.items()) {
    if (name == "compat") {
      if (value == "0.10" || value == "v2") {
        result.version = 2;
      } else if (value == "1.1" || value == "v3") {
        result.version = 3;
      } else {
        return fail(fmt::format("Unknown compatibility level {}", value));
      }
    } else if (name == "lazy_refcounts" || name == "data_file_raw") {
      const std::optional<bool> on = schema::parse_switch(value);
      if (!on) return fail(fmt::format("Parameter '{}' expects 'on' or 'off'", name));
      (name == "data_file_raw" ? result.data_file_raw : result.lazy_refcounts) = *on;
    } else if (name == "refcount_bits") {
      result.refcount_bits = schema::parse_uint64(value);
      if (!result.refcount_bits) return fail(fmt::format("Parameter '{}' expects a number", name));
    } else if (name == "size") {
      result.size = schema::parse_size(value);
      if (!result.size) {
        Error error(fmt::format("Parameter '{}' expects a non-negative number below 2^64", name));
        error.hint =
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
            "and exabytes, respectively.";
        return fail(std::move(error));
      }
    } else if (name == "backing_file") {
      result.backing_file = value;
    } else if (name == "backing_fmt") {
      result.backing_format = value;
    } else if (name == "data_file") {
      result.data_file = value;
    } else {
      Error error(fmt::format("Invalid parameter '{}'", name));
      if (std::ranges::find(kOnlyCreation, name) != kOnlyCreation.end()) {
        error.hint = "This option is only supported for image creation";
      }
      return fail(std::move(error));
    }
  }
  return result;
}

std::string joined_options(const ToolArguments& arguments) {
  std::string joined;
  for (const ToolArguments::Use& use : arguments.options) {
    if (use.name != "options") continue;
    if (!joined.empty()) joined += ',';
    joined += use.value;
  }
  return joined;
}

Task<Expected<void>> amend_node(Node& node, const std::string& text) {
  auto* driver = dynamic_cast<qcow2::Qcow2Driver*>(&node.driver());
  if (driver == nullptr) {
    co_return fail(
        fmt::format("Format driver '{}' does not support option amendment", node.driver().name()));
  }
  auto parsed = OptionText::parse(text);
  if (!parsed) co_return fail(std::move(parsed).error());
  auto options = read_amend_options(*parsed);
  if (!options) co_return fail(std::move(options).error());
  co_return co_await qcow2::amend(driver->image(), std::move(*options));
}

Task<int> amend_image(ToolGraph& tool, const ImageName& name, const std::string& text) {
  auto node = co_await tool.open_image(name, true, false);
  if (!node) {
    report_error("", full_text(node.error()));
    co_return kToolFailed;
  }
  Backend backend(
      tool.graph(), "",
      {Permission::kConsistentRead | Permission::kWrite | Permission::kResize, Permissions::all()});
  if (auto inserted = backend.insert(**node); !inserted) {
    report_error("", full_text(inserted.error()));
    co_return kToolFailed;
  }
  auto done = co_await amend_node(**node, text);
  if (!done) report_error("", full_text(done.error()));
  co_await backend.remove();
  co_return done ? kToolOk : kToolFailed;
}

}  // namespace

int run_amend(const std::vector<std::string>& arguments) {
  auto parsed = parse_tool_arguments(arguments, kOptions, kUsage);
  if (!parsed) return parsed.error();
  ToolGraph tool;
  if (auto made = tool.make_objects(*parsed); !made) return made.error();
  if (!parsed->has("options")) return usage_error("Must specify options (-o)");
  if (parsed->names.size() != 1) return usage_error("Expecting one image file name");
  auto name = read_image_name(*parsed);
  if (!name) return kToolFailed;
  if (const std::string* cache = parsed->value("cache"); cache != nullptr) {
    if (!check_cache_mode("cache", *cache)) return kToolFailed;
  }
  const std::string text = joined_options(*parsed);
  return tool.run([&](ToolGraph& graph) { return amend_image(graph, *name, text); });
}

}  // namespace blockbed::server
