#include "qmp/server/image_amend.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "block/formats/qcow2/amend.h"
#include "block/formats/qcow2/driver.h"
#include "qmp/commands/option_text.h"
#include "qmp/schema/scalar_text.h"
#include "qmp/server/create_options.h"
#include "qmp/server/image_tool.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

namespace {

constexpr std::array<ToolOption, 10> kOptions = {{
    {'h', "help", false},
    {'f', "format", true},
    {'o', "options", true},
    {'p', "progress", false},
    {'q', "quiet", false},
    {'t', "cache", true},
    {0, "image-opts", false},
    {0, "force", false},
    {0, "object", true},
    kDenyImageReferences,
}};

constexpr std::string_view kUsage =
    "Usage: {} amend [options] -o OPTIONS IMAGE\n"
    "Gives a qcow2 image other options: compat, lazy_refcounts, refcount_bits, size, data_file,\n"
    "data_file_raw. backing_file and backing_fmt are taken when they say what the image has.\n"
    "\n"
    "  -o, --options OPTIONS  NAME=VALUE,...; help lists them\n"
    "  -f, --format FMT       the format of the image; looked for when not given\n"
    "  --image-opts           IMAGE is driver=qcow2,file.filename=... instead of a file name\n"
    "  -p, --progress         says when it begins and when it is done, but for -q\n"
    "  --deny-image-references\n"
    "                         open no file because an image names it\n"
    "  -t M, --force          taken as qemu-img takes them, and of no effect\n";

struct ImageOption {
  std::string_view name;
  OptionKind kind;
  std::string_view about;
};

constexpr std::array kImageOptions = {
    ImageOption{"backing_file", OptionKind::kText, "The backing file; the one that it has"},
    ImageOption{"backing_fmt", OptionKind::kText, "The format of the backing file; the same holds"},
    ImageOption{"compat", OptionKind::kText, "Version of the format: v2 (0.10) or v3 (1.1)"},
    ImageOption{"data_file", OptionKind::kText, "Name of the external data file"},
    ImageOption{"data_file_raw", OptionKind::kSwitch, "The data file alone is the disk; only off"},
    ImageOption{"encrypt.iter-time", OptionKind::kNumber, "Of an encrypted image"},
    ImageOption{"encrypt.keyslot", OptionKind::kNumber, "Of an encrypted image"},
    ImageOption{"encrypt.new-secret", OptionKind::kText, "Of an encrypted image"},
    ImageOption{"encrypt.old-secret", OptionKind::kText, "Of an encrypted image"},
    ImageOption{"encrypt.state", OptionKind::kText, "Of an encrypted image"},
    ImageOption{"lazy_refcounts", OptionKind::kSwitch, "Reference counts are written late"},
    ImageOption{"refcount_bits", OptionKind::kNumber, "Bits of each reference count"},
    ImageOption{"size", OptionKind::kSize, "Size of the disk"},
};

const ImageOption* find_option(std::string_view name) {
  const auto* found = std::ranges::find(kImageOptions, name, &ImageOption::name);
  return found == kImageOptions.end() ? nullptr : found;
}

void print_options() {
  std::string text = "Amend options for 'qcow2':\n";
  for (const ImageOption& option : kImageOptions) {
    const std::string_view kind = option.kind == OptionKind::kText     ? "<str>"
                                  : option.kind == OptionKind::kSwitch ? "<bool (on/off)>"
                                  : option.kind == OptionKind::kNumber ? "<num>"
                                                                       : "<size>";
    text += fmt::format("  {:<22} - {}\n", fmt::format("{}={}", option.name, kind), option.about);
  }
  write_stdout(text);
}

bool amends_or_creates(const OptionText::Item& item) {
  const auto& [name, value] = item;
  if (const ImageOption* option = find_option(name)) {
    return check_option_value(name, option->kind, value).has_value();
  }
  const CreateOption* option = find_qcow2_option(name);
  return option != nullptr && check_option_value(name, option->kind, value).has_value();
}

Expected<void> check_options(const OptionText& text) {
  for (const auto& [name, value] : text.items()) {
    const ImageOption* option = find_option(name);
    if (option == nullptr) {
      Error error(fmt::format("Invalid parameter '{}'", name));
      if (std::ranges::all_of(text.items(), amends_or_creates)) {
        error.hint = "This option is only supported for image creation";
      }
      return fail(std::move(error));
    }
    BB_TRY(check_option_value(option->name, option->kind, value));
  }
  return {};
}

// Of options that were checked.
Expected<qcow2::AmendOptions> read_amend_options(const OptionText& text) {
  qcow2::AmendOptions result;
  for (const auto& [name, value] : text.items()) {
    if (name.starts_with("encrypt.")) {
      return fail("Can't amend encryption options - encryption not present");
    }
  }
  for (const auto& [name, value] : text.items()) {
    if (name == "compat") {
      if (value == "0.10" || value == "v2") {
        result.version = 2;
      } else if (value == "1.1" || value == "v3") {
        result.version = 3;
      } else {
        return fail(fmt::format("Unknown compatibility level {}", value));
      }
    } else if (name == "lazy_refcounts") {
      result.lazy_refcounts = schema::parse_switch(value);
    } else if (name == "data_file_raw") {
      result.data_file_raw = schema::parse_switch(value);
    } else if (name == "refcount_bits") {
      result.refcount_bits = schema::parse_uint64(value);
    } else if (name == "size") {
      result.size = schema::parse_size(value);
    } else if (name == "backing_file") {
      result.backing_file = value;
    } else if (name == "backing_fmt") {
      result.backing_format = value;
    } else if (name == "data_file") {
      result.data_file = value;
    }
  }
  return result;
}

// The line that -p shows: how much is done, in place of what was there. It ends with the program.
class Progress {
 public:
  explicit Progress(bool shown) : shown_(shown) {}
  ~Progress() {
    if (shown_) write_stdout("\n");
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void show(double percent) const {
    if (shown_) write_stdout(fmt::format("    ({:3.2f}/100%)\r", percent));
  }

 private:
  bool shown_;
};

struct Request {
  ImageName image;
  std::string options;
};

Error cannot_be_amended(std::string_view driver) {
  return Error(fmt::format("Format driver '{}' does not support option amendment", driver));
}

Task<Expected<void>> amend_node(Node& node, const std::string& text, const Progress& progress) {
  auto* driver = dynamic_cast<qcow2::Qcow2Driver*>(&node.driver());
  if (driver == nullptr) co_return fail(cannot_be_amended(node.driver().name()));
  auto parsed = OptionText::parse(text);
  if (!parsed) co_return fail(std::move(parsed).error());
  if (parsed->help()) {
    print_options();
    co_return Expected<void>();
  }
  BB_CO_TRY(check_options(*parsed));
  progress.show(0);
  auto options = read_amend_options(*parsed);
  Expected<void> done = options ? co_await qcow2::amend(driver->image(), std::move(*options))
                                : fail(std::move(options).error());
  progress.show(100);
  co_return done;
}

Task<int> amend_image(ToolGraph& tool, const Request& request, const Progress& progress) {
  auto node = co_await tool.open_image(request.image, true, false);
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
  auto done = co_await amend_node(**node, request.options, progress);
  if (!done) report_error("", full_text(done.error()));
  co_await backend.remove();
  co_return done ? kToolOk : kToolFailed;
}

// Help for a format that was given needs no image. Nothing: none was asked for.
std::optional<int> print_help_of(ToolGraph& tool, const ToolArguments& arguments,
                                 const std::string& options) {
  const std::string* format = arguments.value("format");
  const auto parsed = OptionText::parse(options);
  if (format == nullptr || !parsed || !parsed->help()) return std::nullopt;
  if (*format == qcow2::Qcow2Driver::kName) {
    print_options();
    return kToolOk;
  }
  report_error("", tool.graph().drivers().find(*format) == nullptr
                       ? fmt::format("Unknown file format '{}'", *format)
                       : cannot_be_amended(*format).description);
  return kToolFailed;
}

}  // namespace

int run_amend(const std::vector<std::string>& arguments) {
  auto parsed = parse_tool_arguments(arguments, kOptions, kUsage);
  if (!parsed) return parsed.error();
  ToolGraph tool(*parsed);
  if (auto made = tool.make_objects(*parsed); !made) return made.error();
  if (!parsed->has("options")) return usage_error("Must specify options (-o)");
  const Progress progress(parsed->has("progress") && !parsed->has("quiet"));
  Request request;
  request.options = parsed->joined("options");
  if (auto helped = print_help_of(tool, *parsed, request.options)) return *helped;
  if (parsed->names.size() != 1) {
    report_error("", "Expecting one image file name");
    return kToolFailed;
  }
  auto name = read_image_name(*parsed);
  if (!name) return kToolFailed;
  request.image = *std::move(name);
  if (const std::string* cache = parsed->value("cache"); cache != nullptr) {
    if (!check_cache_mode("cache", *cache)) return kToolFailed;
  }
  return tool.run([&](ToolGraph& graph) { return amend_image(graph, request, progress); });
}

}  // namespace blockbed::server
