// Cutting a line of the human monitor into the arguments of its command.
//
// Contract: words are taken from the line by the kinds of the arguments, in order; complaints are
// QEMU's. A quoted word knows the escapes \n \r \\ \' and \". Integers are sums and products, with
// parentheses, of decimal, octal, hexadecimal numbers and characters; sizes have a suffix (B, K, M,
// G, T, P, E) or are MiB.
// Threading: plain data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "qmp/schema/error.h"

namespace blockbed {

enum class HumanKind {
  kFlag,
  kString,
  // The same with other complaints.
  kBlockDevice,
  kFilename,
  // All that is left of the line.
  kRest,
  kInteger,
  kSize,
  kOnOff,
};

struct HumanArgument {
  // The name under which the handler finds it; of a flag its letter.
  std::string_view name;
  HumanKind kind = HumanKind::kString;
  bool optional = false;
};

// What was typed, by name. A flag that was not given and an optional argument that was left out are
// absent.
class HumanArguments {
 public:
  using Value = std::variant<bool, std::string, int64_t, uint64_t>;

  void set(std::string_view name, Value value) { values_.emplace_back(name, std::move(value)); }

  bool has(std::string_view name) const { return find(name) != nullptr; }
  bool flag(std::string_view letter) const { return has(letter); }
  // Empty when absent.
  std::string text(std::string_view name) const;
  int64_t integer(std::string_view name, int64_t otherwise = 0) const;
  uint64_t size(std::string_view name, uint64_t otherwise = 0) const;
  bool on_off(std::string_view name, bool otherwise = false) const;

 private:
  const Value* find(std::string_view name) const;

  std::vector<std::pair<std::string, Value>> values_;
};

// `command` is the name with its aliases, as complaints show it. A complaint about a quoted word
// has two lines; QEMU prints the first one not at the monitor but on its standard output.
Expected<HumanArguments> parse_human_arguments(std::string_view command,
                                               const std::vector<HumanArgument>& expected,
                                               std::string_view line);

}  // namespace blockbed
