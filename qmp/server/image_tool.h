// Commands that work on one image and end: `blockbed check ...` and its like.
//
// Problem: qemu-img is a program of many commands that name images in the same ways. What they have
// in common is here: options in the manner of getopt, opening an image by name or by options, the
// words of failures.
//
// Contract
//  - run_image_tool answers nothing when the first argument is not the name of a command; else it
//    has run it and gives the status to exit with.
//  - Options may stand before and behind names, short ones may be joined (`-qU`), long ones
//    shortened as far as they stay unambiguous.
//  - ToolGraph owns what a command opens; run() waits for the work and closes everything.
//  - Objects of the command line (--object) are made before anything is opened, and are those that
//    qemu-img knows.
//  - Texts are qemu-img's, under our program's name.
// Threading: the thread of the process.
#pragma once

#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/backend.h"
#include "block/graph/graph.h"
#include "qmp/commands/objects.h"
#include "schema/blockdev_options.h"

namespace blockbed::server {

std::optional<int> run_image_tool(const std::vector<std::string>& arguments);

// Statuses of qemu-img.
inline constexpr int kToolOk = 0;
inline constexpr int kToolFailed = 1;

// --- options

struct ToolOption {
  // 0: long only.
  char letter = 0;
  std::string_view name;
  bool takes_value = false;
};

// Of every command, with the meaning that it has for the servers.
inline constexpr ToolOption kDenyImageReferences = {0, "deny-image-references", false};

struct ToolArguments {
  struct Use {
    std::string_view name;
    std::string value;
  };
  std::vector<Use> options;
  std::vector<std::string> names;

  bool has(std::string_view name) const;
  // The last one given; null when none was.
  const std::string* value(std::string_view name) const;
  // All that were given, with commas between them.
  std::string joined(std::string_view name) const;
};

// Prints what is wrong, or `usage` with our program's name when --help is among them; then there is
// nothing to do but to exit with the status.
std::expected<ToolArguments, int> parse_tool_arguments(const std::vector<std::string>& arguments,
                                                       std::span<const ToolOption> options,
                                                       std::string_view usage);
// "Try 'blockbed --help' for more information" behind the text.
int usage_error(std::string_view text);

// --output: true for json. Prints what is wrong and answers nothing.
std::optional<bool> read_tool_output(const ToolArguments& arguments);
// A number of bytes, with a suffix or without; `what` completes "Invalid ... specified". Prints
// what is wrong and answers nothing.
std::optional<uint64_t> read_tool_size(std::string_view what, const std::string& text);

// What the value of an option of an image may be.
enum class OptionKind : uint8_t { kText, kSwitch, kNumber, kSize };
// "Parameter 'NAME' expects ...".
Expected<void> check_option_value(std::string_view name, OptionKind kind, const std::string& value);

// A cache mode of qemu-img; false: it is none, and `what` completes "Invalid ... option".
bool check_cache_mode(std::string_view what, const std::string& mode);

// --- images

struct ImageName {
  std::string text;
  // driver=qcow2,file.filename=... instead of a file name.
  bool is_options = false;
  // Empty: looked for.
  std::string format;
};

// An image whose storage is open and whose format is known, but is not opened.
struct StorageOfImage {
  std::string format;
  std::unique_ptr<Backend> storage;
  // Of a qcow2 image that was defined by options.
  std::optional<schema::BlockdevOptions> options;
  // Its data file among them: a definition in the forms of a command line, or the name of a node.
  std::optional<json::Value> data_file;
};

// The first name with --image-opts and --format; no name: an empty text. Prints what is wrong and
// answers nothing.
std::optional<ImageName> read_image_name(const ToolArguments& arguments);

class ToolGraph {
 public:
  // Heeds those of the arguments that all commands have.
  explicit ToolGraph(const ToolArguments& arguments);
  ~ToolGraph();
  ToolGraph(const ToolGraph&) = delete;
  ToolGraph& operator=(const ToolGraph&) = delete;

  // Each --object of the arguments. Prints what is wrong, or help that was asked for: then there is
  // nothing to do but to exit with the status.
  std::expected<void, int> make_objects(const ToolArguments& arguments);
  int run(std::function<Task<int>(ToolGraph&)> work);

  Graph& graph();
  ObjectStore& objects();
  // Full texts: "Could not open 'x': ...".
  Task<Expected<StorageOfImage>> open_storage(ImageName name, bool writable, bool force_share);
  Task<Expected<NodeRef>> open_image(ImageName name, bool writable, bool force_share);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace blockbed::server
