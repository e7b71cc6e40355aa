#include "block/graph/drive_errors.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/graph.h"

namespace blockbed {

namespace {

// The options that are nodes of their own.
constexpr std::string_view kChildren[] = {"file", "backing", "data-file", "image",
                                          "raw",  "test",    "log",       "target"};

// Where an option belongs, by its path through the tree.
struct OptionPlace {
  std::string driver;
  // Its name for that driver: "cache.writeback".
  std::string option;
  // How many backing files lie on the way.
  int backings = 0;
};

OptionPlace find_place(const json::Object& options, std::string_view path) {
  OptionPlace place;
  const json::Object* node = &options;
  bool is_top = true;
  const auto take_step = [&path] {
    const std::string_view step = path.substr(0, path.find('.'));
    path.remove_prefix(std::min(step.size() + 1, path.size()));
    return step;
  };
  while (true) {
    const std::string_view step = path.substr(0, path.find('.'));
    const json::Value* child = node->find(step);
    if (step == path || child == nullptr || !child->is_object() ||
        std::ranges::find(kChildren, step) == std::end(kChildren)) {
      break;
    }
    place.backings += step == "backing" ? 1 : 0;
    node = &child->as_object();
    is_top = false;
    take_step();
  }
  const json::Value* driver = node->find("driver");
  place.driver = driver != nullptr && driver->is_string() ? driver->as_string()
                 : is_top                                 ? "raw"
                                                          : "file";
  // A whole group is wrong by the first of its members.
  place.option = path;
  const json::Object* group = node;
  while (!path.empty()) {
    const json::Value* value = group->find(take_step());
    if (value == nullptr || !value->is_object()) return place;
    group = &value->as_object();
  }
  while (!group->empty()) {
    const auto& [name, value] = *group->begin();
    place.option.append(1, '.').append(name);
    if (!value.is_object()) break;
    group = &value.as_object();
  }
  return place;
}

}  // namespace

Error in_drive_words(Error error, const json::Object& options, const DriverRegistry& drivers) {
  std::string& text = error.description;
  static constexpr std::string_view kBegin = "Parameter '";
  static constexpr std::string_view kNoSuchValue = " does not accept value '";
  if (!text.starts_with(kBegin)) return error;
  const std::size_t end = text.find('\'', kBegin.size());
  if (end == std::string::npos) return error;
  const std::string path = text.substr(kBegin.size(), end - kBegin.size());
  const std::string rest = text.substr(end + 1);
  const std::string last = path.substr(path.rfind('.') + 1);
  const OptionPlace place = find_place(options, path);
  if (rest == " is unexpected") {
    const DriverEntry* entry = drivers.find(place.driver);
    text = entry == nullptr || !entry->is_protocol
               ? fmt::format("Block format '{}' does not support the option '{}'", place.driver,
                             place.option)
               : fmt::format("Block protocol '{}' doesn't support the option '{}'", place.driver,
                             place.option);
    for (int i = 0; i < place.backings; ++i) text.insert(0, "Could not open backing file: ");
  } else if (rest == " is missing" && last == "filename") {
    text = fmt::format("The '{}' block driver requires a file name", place.driver);
  } else if (rest == " is missing" && last == "file") {
    text = "A block device must be specified for \"file\"";
  } else if (rest == " is missing" && last == "server") {
    text = "NBD server address missing";
  } else if (rest == " is missing" && (last == "raw" || last == "test" || last == "log")) {
    // The verified file is looked for before the one that it is compared with.
    const bool no_raw = place.driver == "blkverify" && path == last && !options.contains("raw");
    text = fmt::format("A block device must be specified for \"{}\"", no_raw ? "raw" : last);
  } else if (rest == " is missing" && last == "children") {
    text = "Number of provided children must be 1 or more";
  } else if (rest == " is missing" && last == "throttle-group") {
    text = "Please specify a throttle group";
  } else if (rest == " is missing" && last == "vote-threshold") {
    text = "Parameter 'vote-threshold' expects a value >= 1";
  } else if (rest.starts_with(kNoSuchValue) && last == "driver") {
    text = fmt::format("Unknown driver {}", rest.substr(rest.find('\'')));
  } else if (rest.starts_with(kNoSuchValue) &&
             (last == "aio" || last == "locking" || last == "detect-zeroes")) {
    text = fmt::format("invalid parameter value: {}",
                       rest.substr(kNoSuchValue.size(), rest.size() - kNoSuchValue.size() - 1));
  } else if (rest == " expects integer") {
    text = fmt::format("Parameter '{}' expects a number", last);
  } else if (rest.starts_with(" expects ")) {
    // Groups of options keep their name, children do not.
    const std::size_t group = std::min(path.rfind("overlap-check."), path.rfind("cache."));
    text = fmt::format(
        "Parameter '{}'{}",
        group == std::string::npos ? std::string_view(last) : std::string_view(path).substr(group),
        rest);
  }
  return error;
}

}  // namespace blockbed
