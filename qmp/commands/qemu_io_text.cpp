#include "qmp/commands/qemu_io_text.h"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <cerrno>
#include <cstdlib>

#include "qmp/schema/scalar_text.h"

namespace blockbed::qemu_io {

namespace {

constexpr double kNanosecond = 1e-9;

std::string time_text(int64_t elapsed_ns, bool fixed) {
  const auto hundredths = static_cast<uint64_t>(elapsed_ns) / 10'000'000;
  const uint64_t seconds = hundredths / 100;
  if (!fixed && seconds < 60) return fmt::format("{:02}.{:02} sec", seconds, hundredths % 100);
  return fmt::format("{}:{:02}:{:02}.{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60,
                     hundredths % 100);
}

}  // namespace

std::string size_text(double value) {
  static constexpr std::array<const char*, 6> kUnits = {" EiB", " PiB", " TiB",
                                                        " GiB", " MiB", " KiB"};
  double unit = static_cast<double>(uint64_t{1} << 60);
  std::string number;
  std::string_view suffix = " bytes";
  for (const char* name : kUnits) {
    if (value >= unit) {
      number = fmt::format("{:.3f}", value / unit);
      suffix = name;
      break;
    }
    unit /= 1024;
  }
  if (number.empty()) number = fmt::format("{:f}", value);
  if (const auto zeroes = number.find(".000"); zeroes != std::string::npos) number.resize(zeroes);
  return number.append(suffix);
}

std::string report_text(const Report& report) {
  const double seconds =
      static_cast<double>(report.elapsed_ns > 0 ? report.elapsed_ns : 1) * kNanosecond;
  const double bytes_rate = static_cast<double>(report.done) / seconds;
  const double operations_rate = report.operations / seconds;
  const std::string time = time_text(report.elapsed_ns, report.machine_readable);
  if (report.machine_readable) {
    return fmt::format("{},{},{},{:.3f},{:.3f}\n", report.done, report.operations, time, bytes_rate,
                       operations_rate);
  }
  return fmt::format("{} {}/{} bytes at offset {}\n{}, {} ops; {} ({}/sec and {:.4f} ops/sec)\n",
                     report.verb, report.done, report.asked, report.offset,
                     size_text(static_cast<double>(report.done)), report.operations, time,
                     size_text(bytes_rate), operations_rate);
}

std::string dump_text(const std::byte* data, uint64_t offset, std::size_t length) {
  std::string text;
  for (std::size_t start = 0; start < length; start += 16) {
    text += fmt::format("{:08x}:  ", offset + start);
    std::string printable;
    for (std::size_t i = start; i < length && i < start + 16; ++i) {
      const auto byte = static_cast<unsigned char>(data[i]);
      text += fmt::format("{:02x} ", byte);
      printable += byte < 0x80 && std::isalnum(byte) ? static_cast<char>(byte) : '.';
    }
    text.append(" ").append(printable).append("\n");
  }
  return text;
}

std::vector<std::string> words(std::string_view line) {
  std::vector<std::string> result;
  std::size_t start = 0;
  while (start < line.size()) {
    const std::size_t end = std::min(line.find(' ', start), line.size());
    if (end > start) result.emplace_back(line.substr(start, end - start));
    start = end + 1;
  }
  return result;
}

std::optional<Arguments> parse_arguments(const std::vector<std::string>& line,
                                         std::string_view letters, std::string& complaint) {
  Arguments result;
  result.command = line.front();
  bool options_ended = letters.empty();
  for (std::size_t i = 1; i < line.size(); ++i) {
    const std::string& word = line[i];
    if (options_ended || word.size() < 2 || word[0] != '-') {
      result.positional.push_back(word);
      continue;
    }
    if (word == "--") {
      options_ended = true;
      continue;
    }
    for (std::size_t at = 1; at < word.size(); ++at) {
      const char letter = word[at];
      const std::size_t place = letter == ':' ? std::string_view::npos : letters.find(letter);
      if (place == std::string_view::npos) {
        complaint = fmt::format("{}: invalid option -- '{}'\n", result.command, letter);
        return std::nullopt;
      }
      const bool takes_value = place + 1 < letters.size() && letters[place + 1] == ':';
      if (!takes_value) {
        result.options[letter] = "";
        continue;
      }
      if (at + 1 < word.size()) {
        result.options[letter] = word.substr(at + 1);
      } else if (i + 1 < line.size()) {
        result.options[letter] = line[++i];
      } else {
        complaint =
            fmt::format("{}: option requires an argument -- '{}'\n", result.command, letter);
        return std::nullopt;
      }
      break;
    }
  }
  return result;
}

Number parse_number(const std::string& text) {
  const auto size = schema::parse_size(text);
  if (size && *size <= INT64_MAX) return {*size, {}};
  const bool too_large =
      !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) &&
      text.find_first_not_of("0123456789.kKmMgGtTpPeEbB") == std::string::npos &&
      std::isdigit(static_cast<unsigned char>(text[text.size() > 1 ? text.size() - 2 : 0]));
  if (size || (too_large && text.size() > 15))
    return {{}, fmt::format("Parsing error: argument too large -- {}\n", text)};
  return {
      {},
      fmt::format("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {}\n",
                  text)};
}

Number parse_pattern(const std::string& text) {
  const auto value = schema::parse_int64(text);
  if (!value || *value < 0 || *value > 255)
    return {{}, fmt::format("{} is not a valid pattern byte\n", text)};
  return {static_cast<uint64_t>(*value), {}};
}

}  // namespace blockbed::qemu_io
