// The words of qemu-io: numbers in and out, option letters, reports and dumps.
//
// Problem: test suites read what `qemu-io` prints. Everything here is what they compare: sizes as
// "64 KiB", rates, the two lines of a report, the hexadecimal dump, the complaints about arguments.
// Source of the rules: the output of qemu-io 7.2. Units: bytes, ns. Threading: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace blockbed::qemu_io {

// "64 KiB", "1.5 MiB", "512 bytes".
std::string size_text(double value);

struct Report {
  std::string_view verb;  // "read", "wrote", "discard"
  uint64_t offset = 0;
  uint64_t asked = 0;
  uint64_t done = 0;
  int operations = 1;
  int64_t elapsed_ns = 0;
  bool machine_readable = false;
};
std::string report_text(const Report& report);

// Sixteen bytes a line, with the offset in front and the printable characters behind.
std::string dump_text(const std::byte* data, uint64_t offset, std::size_t length);

// A command line cut at spaces, its options taken out from wherever they stand (as GNU getopt
// does).
struct Arguments {
  std::string command;
  // Letter to value; a letter without value has "". The last one given counts.
  std::map<char, std::string> options;
  std::vector<std::string> positional;

  bool has(char letter) const { return options.contains(letter); }
  const std::string& value(char letter) const { return options.at(letter); }
};

std::vector<std::string> words(std::string_view line);
// `letters` as getopt has them: "CP:q"; without any, no word is an option. No value: `complaint`
// says why.
std::optional<Arguments> parse_arguments(const std::vector<std::string>& line,
                                         std::string_view letters, std::string& complaint);

// A number with an optional size suffix; when it is none, the complaint to print.
struct Number {
  std::optional<uint64_t> value;
  std::string complaint;
};
Number parse_number(const std::string& text);
// A byte, 0 to 255.
Number parse_pattern(const std::string& text);

}  // namespace blockbed::qemu_io
