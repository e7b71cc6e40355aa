#include "qmp/server/messages.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace blockbed::server {

namespace {

std::string& name_storage() {
  static std::string name;
  return name;
}

std::string& invocation_storage() {
  static std::string name;
  return name;
}

MessageStyle& style() {
  static MessageStyle style;
  return style;
}

std::string prefix() {
  std::string text;
  if (style().timestamp) {
    timespec now = {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    text = fmt::format("{:%FT%T}.{:06}Z ", fmt::gmtime(now.tv_sec), now.tv_nsec / 1000);
  }
  if (!style().guest.empty()) text += style().guest + " ";
  return text;
}

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t done = ::write(descriptor, text.data(), text.size());
    if (done < 0 && errno == EINTR) continue;
    // Nobody listens any more: there is nobody to tell.
    if (done <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(done));
  }
}

void report(std::string_view location, std::string_view kind, std::string_view text) {
  std::string line = prefix() + program_name();
  if (!location.starts_with(':')) line += location.empty() ? ":" : ": ";
  line.append(location).append(location.empty() ? " " : ": ");
  line.append(kind).append(text).append("\n");
  write_stderr(line);
}

}  // namespace

void set_program_name(std::string_view argv0) {
  const std::size_t slash = argv0.rfind('/');
  invocation_storage() = argv0;
  name_storage() = slash == std::string_view::npos ? argv0 : argv0.substr(slash + 1);
}

const std::string& program_name() { return name_storage(); }
const std::string& invocation_name() { return invocation_storage(); }

void set_message_style(MessageStyle wanted) { style() = std::move(wanted); }

void report_error(std::string_view location, std::string_view text) { report(location, "", text); }
std::string full_text(const Error& error) {
  return error.hint.empty() ? error.description : error.description + "\n" + error.hint;
}

void report_warning(std::string_view location, std::string_view text) {
  report(location, "warning: ", text);
}
void report_info(std::string_view location, std::string_view text) {
  report(location, "info: ", text);
}
void write_stdout(std::string_view text) { write_all(STDOUT_FILENO, text); }
void write_stderr(std::string_view text) { write_all(STDERR_FILENO, text); }

}  // namespace blockbed::server
