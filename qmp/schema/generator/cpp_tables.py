"""The table of commands and the tables behind query-qmp-schema."""

from __future__ import annotations

from .cpp import NAMESPACE, banner
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
