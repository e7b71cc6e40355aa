"""The table of commands and the tables behind query-qmp-schema."""

from __future__ import annotations

from .cpp import NAMESPACE, args_name, banner
from .model import Command, Schema
from .naming import quoted


def commands_table(schema: Schema) -> str:
    commands = schema.commands()
    rows = "".join(f"    {{{quoted(c.name)}, {_flags(c)}}},\n" for c in commands)
    by_name = sorted(range(len(commands)), key=lambda index: commands[index].name)
    order = ", ".join(str(index) for index in by_name)
    events = "".join(f"    {quoted(e.name)},\n" for e in schema.events())
    return (f"{banner('*.schema')}#include \"qmp/schema/commands.h\"\n\n#include <algorithm>\n#include <cstdint>\n\n"
            f"namespace {NAMESPACE} {{\n\nnamespace {{\n\n"
            f"constexpr CommandEntry kCommands[] = {{\n{rows}}};\n\n"
            f"// Indices into kCommands by name.\nconstexpr uint16_t kByName[] = {{{order}}};\n\n"
            f"constexpr std::string_view kEvents[] = {{\n{events}}};\n\n}}  // namespace\n\n"
            "std::span<const CommandEntry> all_commands() { return kCommands; }\n\n"
            "const CommandEntry* find_command(std::string_view name) {\n"
            "  const uint16_t* found = std::lower_bound(\n"
            "      std::begin(kByName), std::end(kByName), name,\n"
            "      [](uint16_t index, std::string_view wanted) { return kCommands[index].name < wanted; });\n"
            "  if (found == std::end(kByName) || kCommands[*found].name != name) return nullptr;\n"
            "  return &kCommands[*found];\n}\n\n"
            "std::span<const std::string_view> all_events() { return kEvents; }\n\n"
            f"}}  // namespace {NAMESPACE}\n")


def _flags(command: Command) -> str:
    names = ("oob", "preconfig", "open")
    flags = [f".{name} = true" for name in names if getattr(command, name)]
    flags += [f".in_{program} = true" for program in command.programs]
    if command.extension:
        flags.append(".extension = true")
    return "{" + ", ".join(flags) + "}"


def arguments_table(schema: Schema) -> str:
    """Every reader of arguments, in the order of the names."""
    commands = sorted(schema.commands(), key=lambda command: command.name)
    rows = "".join(f"    {{{quoted(c.name)}, rewrite<{args_name(c)}>}},\n" for c in commands)
    includes = "".join(f'#include "schema/{m.name}.h"\n' for m in schema.modules if m.commands())
    return (f"{banner('*.schema')}#include \"qmp/schema/arguments.h\"\n\n#include <algorithm>\n\n"
            f"#include \"qmp/schema/reader.h\"\n{includes}\n"
            f"namespace {NAMESPACE} {{\n\nnamespace {{\n\n"
            "template <class Args>\nExpected<json::Value> rewrite(const json::Value& arguments, Mode mode) {\n"
            "  Reader reader(mode);\n  Args args;\n"
            "  if (!read(reader, arguments, args)) return fail(reader.take_error());\n"
            "  return to_json(args);\n}\n\n"
            "struct Row {\n  std::string_view name;\n"
            "  Expected<json::Value> (*rewrite)(const json::Value& arguments, Mode mode);\n};\n\n"
            f"constexpr Row kRows[] = {{\n{rows}}};\n\n}}  // namespace\n\n"
            "Expected<json::Value> read_arguments(std::string_view command, const json::Value& arguments, Mode mode) {\n"
            "  const Row* found = std::ranges::lower_bound(kRows, command, {}, &Row::name);\n"
            "  if (found == std::end(kRows) || found->name != command) {\n"
            "    return fail(ErrorClass::kCommandNotFound,\n"
            "                \"The command \" + std::string(command) + \" has not been found\");\n  }\n"
            "  return found->rewrite(arguments, mode);\n}\n\n"
            f"}}  // namespace {NAMESPACE}\n")
