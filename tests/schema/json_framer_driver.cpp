// Says on standard output what the framer makes of standard input, in the monitor's own form, so
// that json_oracle.py can lay it beside what QEMU answers to the same bytes. `json_framer_driver
// STEP` feeds portions of STEP bytes.
//
// Before negotiation a monitor answers every command with an error that carries the command's "id":
// thus a value goes through the parser and the writer of both sides.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "qmp/schema/json_parse.h"
#include "qmp/schema/json_write.h"

namespace {

using blockbed::Expected;
namespace json = blockbed::json;

json::Object error_reply(std::string_view error_class, std::string description) {
  return json::Object{{"error", json::Object{{"class", std::string(error_class)},
                                             {"desc", std::move(description)}}}};
}

bool is_command(const json::Object& object) {
  const json::Value* execute = object.find("execute");
  return execute != nullptr && execute->is_string() &&
         object.size() == (object.contains("id") ? 2U : 1U);
}

void answer(std::string& out, const Expected<json::Value>& item) {
  if (!item) {
    json::write(out,
                error_reply(error_class_name(item.error().error_class), item.error().description));
  } else if (!item->is_object()) {
    json::write(out, error_reply("GenericError", "QMP input must be a JSON object"));
  } else if (!is_command(item->as_object())) {
    // What is wrong with it is the monitor's business.
    out += "not a command";
  } else {
    json::Object reply = error_reply("CommandNotFound",
                                     "Expecting capabilities negotiation with 'qmp_capabilities'");
    if (const json::Value* id = item->as_object().find("id")) reply.set("id", *id);
    json::write(out, reply);
  }
  out += "\r\n";
}

}  // namespace

int main(int argc, char** argv) {
  const size_t step = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 65536;
  json::Framer framer;
  std::string portion(step, '\0');
  std::string out;
  while (true) {
    const ssize_t got = read(STDIN_FILENO, portion.data(), step);
    if (got <= 0) break;
    std::string_view rest(portion.data(), static_cast<size_t>(got));
    while (auto item = framer.next(rest)) answer(out, *item);
    std::fwrite(out.data(), 1, out.size(), stdout);
    std::fflush(stdout);
    out.clear();
  }
  return 0;
}
