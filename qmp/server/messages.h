// What the program says to people on standard error, in QEMU's form.
//
// "qemu-system-x86_64: -drive file=x: Could not open 'x': ...": the base name under which the
// program was started, the option as it was typed, the text. `-msg` and `-name` can put more in
// front. Threading: engine thread; set_program_name and set_message_style once at the start.
#pragma once

#include <string>
#include <string_view>

#include "qmp/schema/error.h"

namespace blockbed::server {

void set_program_name(std::string_view argv0);
const std::string& program_name();
// As typed, with its path.
const std::string& invocation_name();

struct MessageStyle {
  // "2026-01-31T12:00:00.123456Z "
  bool timestamp = false;
  // The name of the guest; empty: none.
  std::string guest;
};
void set_message_style(MessageStyle style);

// `location` is the option as typed, ":FILE:LINE" of -readconfig, or empty. Lines after the first
// of `text` are hints and stand alone.
void report_error(std::string_view location, std::string_view text);
// An error with the hint that people get and programs do not.
std::string full_text(const Error& error);
void report_warning(std::string_view location, std::string_view text);
void report_info(std::string_view location, std::string_view text);
// Standard output, unbuffered by us: what commands print there must be in order with everything
// else.
void write_stdout(std::string_view text);
void write_stderr(std::string_view text);

}  // namespace blockbed::server
