// Lets the comparison scripts in this folder ask the schema's code what it makes of an input.
//
//   schema_driver introspect system|daemon    the reply of query-qmp-schema with every command
//   implemented schema_driver arguments                   for each line {"execute": C, "arguments":
//   A} the arguments as they were
//                                             understood, or {"error": TEXT}
//   schema_driver keyval                      for each line {"command": C, "implied": KEY or null,
//   "text": T} the same
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "qmp/schema/arguments.h"
#include "qmp/schema/commands.h"
#include "qmp/schema/introspect.h"
#include "qmp/schema/json_parse.h"
#include "qmp/schema/json_write.h"
#include "qmp/schema/keyval.h"

namespace blockbed {
namespace {

json::Value outcome(const Expected<json::Value>& result) {
  if (result) return *result;
  return json::Object{{"error", result.error().description}};
}

const json::Object& request_of(const Expected<json::Value>& line) {
  if (!line || !line->is_object()) {
    std::fputs("schema_driver: a line is no JSON object\n", stderr);
    std::exit(2);
  }
  return line->as_object();
}

json::Value check_arguments(const json::Object& request) {
  return outcome(schema::read_arguments(request.find("execute")->as_string(),
                                        *request.find("arguments"), schema::Mode::kStrict));
}

json::Value check_keyval(const json::Object& request) {
  const json::Value* implied = request.find("implied");
  Expected<schema::Keyval> parsed =
      schema::parse_keyval(request.find("text")->as_string(),
                           implied->is_null() ? std::string_view() : implied->as_string());
  if (!parsed) return json::Object{{"error", parsed.error().description}};
  if (parsed->help) return json::Object{{"help", true}};
  return outcome(schema::read_arguments(request.find("command")->as_string(), parsed->tree,
                                        schema::Mode::kKeyval));
}

int introspect(std::string_view program) {
  std::vector<std::string_view> names;
  for (const schema::CommandEntry& command : schema::all_commands()) names.push_back(command.name);
  json::Array reply = schema::introspect(
      program == "daemon" ? schema::Program::kDaemon : schema::Program::kSystem, names);
  std::cout << json::to_string(reply) << "\n";
  return 0;
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 2 && arguments[0] == "introspect") return introspect(arguments[1]);
  if (arguments.size() != 1 || (arguments[0] != "arguments" && arguments[0] != "keyval")) return 2;
  for (std::string line; std::getline(std::cin, line);) {
    Expected<json::Value> parsed = json::parse(line);
    const json::Object& request = request_of(parsed);
    std::cout << json::to_string(arguments[0] == "keyval" ? check_keyval(request)
                                                          : check_arguments(request))
              << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace blockbed

int main(int argc, char** argv) {
  return blockbed::run(std::vector<std::string>(argv + 1, argv + argc));
}
