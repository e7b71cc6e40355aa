"""The headers: one a module, with its types, commands and events."""

from __future__ import annotations

from .cpp import NAMESPACE, Layout, args_name, banner, comment, default_value, field_name
from .model import Alternate, Command, Enum, Event, Item, Member, Module, Schema, Struct, Type, Union
from .naming import camel, enumerator, quoted, type_snake


class HeaderWriter:
    def __init__(self, schema: Schema, layout: Layout):
        self._schema = schema
        self._layout = layout

    def header(self, module: Module) -> str:
        types = self._layout.in_order(module)
        structs = [t for t in types if not isinstance(t, Enum)]
        parts = [
            banner(module.file),
            comment(module.doc),
            "#pragma once\n\n",
            "#include <cstdint>\n#include <optional>\n#include <span>\n#include <string>\n"
            "#include <string_view>\n#include <variant>\n#include <vector>\n\n",
            '#include "qmp/schema/codec.h"\n#include "qmp/schema/commands.h"\n',
            "".join(f'#include "schema/{included}.h"\n' for included, _ in module.includes),
            f"\nnamespace {NAMESPACE} {{\n\n",
            "".join(self._enum(t) for t in types if isinstance(t, Enum)),
            "".join(f"struct {t.name};\n" for t in structs) + "\n" if structs else "",
            "".join(self._type(t) for t in structs),
            "".join(self._arguments(c) for c in module.commands()),
        ]
        if module.commands():
            parts.append("namespace commands {\n\n")
            parts += [self._command(c) for c in module.commands()]
            parts.append("}  // namespace commands\n\n")
        if module.events():
            parts.append("namespace events {\n\n")
            parts += [self._event(e) for e in module.events()]
            parts.append("}  // namespace events\n\n")
        parts.append(f"}}  // namespace {NAMESPACE}\n")
        return "".join(parts)

    def _about(self, item: Item, indent: str = "") -> str:
        lines = comment(item.doc, indent)
        notes = [f"Since {item.since}."] if item.since and not indent else []
        notes += [f"{feature.name.capitalize()}." for feature in item.features]
        if item.extension:
            notes.append("Blockbed's own.")
        return lines + (f"{indent}// {' '.join(notes)}\n" if notes else "")

    def _enum(self, enum: Enum) -> str:
        name = enum.name
        values = "".join(f"{self._about(v, '  ')}  {enumerator(v.name)},\n" for v in enum.values)
        width = "uint8_t" if len(enum.values) <= 256 else "uint16_t"
        return (f"{self._about(enum)}enum class {name} : {width} {{\n{values}}};\n\n"
                f"std::string_view name({name} value);\n"
                f"std::span<const std::string_view> names({name});\n"
                f"std::optional<{name}> parse_{type_snake(name)}(std::string_view text);\n"
                f"bool read(Reader& reader, const json::Value& value, {name}& out);\n"
                f"json::Value to_json({name} value);\n\n")

    def _field(self, member: Member, user: str) -> str:
        cpp = self._layout.cpp(member.type, user)
        about = self._about(member, "  ")
        if member.optional and member.default is None:
            return f"{about}  std::optional<{cpp}> {field_name(member)};\n"
        value = default_value(member, self._schema)
        plain = not member.type.is_array and member.type.name not in ("str", "any", "null") and "Box<" not in cpp
        initial = ""
        if value != "{}":
            initial = f" = {value}"
        elif plain and (member.type.name not in self._schema.types
                        or isinstance(self._schema.types[member.type.name], Enum)):
            initial = "{}"
        return f"{about}  {cpp} {field_name(member)}{initial};\n"

    def _fields(self, members: list[Member], user: str) -> str:
        return "".join(self._field(m, user) for m in members)

    def _equality(self, name: str) -> str:
        # Defaulted in the .cpp: in the class it would cost every includer.
        return f"  friend bool operator==(const {name}&, const {name}&);\n"

    def _life(self, name: str) -> str:
        # Defaulted in the .cpp too: whoever holds one would else compile the same for each branch.
        return (f"  {name}();\n  {name}(const {name}&);\n  {name}({name}&&) noexcept;\n"
                f"  {name}& operator=(const {name}&);\n  {name}& operator=({name}&&) noexcept;\n  ~{name}();\n\n")

    def _codec(self, name: str) -> str:
        return (f"bool read(Reader& reader, const json::Value& value, {name}& out);\n"
                f"bool read_members(ObjectReader& object, {name}& out);\n"
                f"json::Value to_json(const {name}& value);\n"
                f"void write_members(json::Object& out, const {name}& value);\n\n")

    def _type(self, definition: Type) -> str:
        name = definition.name
        about = self._about(definition)
        if isinstance(definition, Alternate):
            branches = "".join(comment([f"{self._layout.cpp(b.type, name)}: {b.doc_text}"], "  ")
                               for b in self._layout.branches_of(definition))
            types = ", ".join(self._layout.cpp(b.type, name) for b in self._layout.branches_of(definition))
            return (f"{about}struct {name} {{\n{branches}  std::variant<{types}> u;\n\n"
                    f"{self._equality(name)}}};\n\n"
                    f"bool read(Reader& reader, const json::Value& value, {name}& out);\n"
                    f"json::Value to_json(const {name}& value);\n\n")
        assert isinstance(definition, Struct)
        body = self._fields(definition.all_members, name)
        if isinstance(definition, Union):
            body = self._life(name) + body + self._variant(definition)
        return f"{about}struct {name} {{\n{body}\n{self._equality(name)}}};\n\n{self._codec(name)}"

    def _variant(self, union: Union) -> str:
        types = variant_types(union)
        line = f"  // What `{union.discriminator}` adds; the two must agree.\n"
        return f"{line}  std::variant<{', '.join(types)}> u;\n"

    def _arguments(self, command: Command) -> str:
        if command.args_type is not None or args_name(command) == "Nothing":
            return ""
        name = args_name(command)
        body = self._fields(command.members, name)
        if command.open:
            body += "  // Members that the schema does not name.\n  json::Object rest;\n"
        return (f"// Arguments of {command.name}.\nstruct {name} {{\n{body}\n{self._equality(name)}}};\n\n"
                f"{self._codec(name)}")

    def _command(self, command: Command) -> str:
        result = "void" if command.result is None else self._qualified(self._layout.cpp(command.result))
        flags = []
        if command.oob:
            flags.append(".oob = true")
        if command.preconfig:
            flags.append(".preconfig = true")
        if command.open:
            flags.append(".open = true")
        flags += [f".in_{program} = true" for program in command.programs]
        if command.extension:
            flags.append(".extension = true")
        return (f"{self._about(command)}struct {camel(command.name)} {{\n"
                f"  static constexpr std::string_view kName = {quoted(command.name)};\n"
                f"  static constexpr CommandFlags kFlags{{{', '.join(flags)}}};\n"
                f"  using Args = schema::{args_name(command)};\n"
                f"  using Result = {result};\n}};\n\n")

    def _qualified(self, cpp: str) -> str:
        """A command may be called as a type is; inside it the type needs its namespace."""
        inner = cpp.removeprefix("std::vector<").removesuffix(">")
        return cpp.replace(inner, f"schema::{inner}") if inner in self._schema.types else cpp

    def _event(self, event: Event) -> str:
        name = camel(event.name)
        members = self._schema.members_of(event)
        body = self._fields(members, name)
        return (f"{self._about(event)}struct {name} {{\n"
                f"  static constexpr std::string_view kName = {quoted(event.name)};\n{body}\n"
                f"{self._equality(name)}}};\n\n"
                f"json::Value to_json(const {name}& event);\n\n")


def variant_types(union: Union) -> list[str]:
    """The alternatives of a union's variant: each branch type once, and Nothing if some value has no branch."""
    types = list(dict.fromkeys(branch.type.name for branch in union.branches))
    if any(union.branch(value) is None for value in union.tag.value_names()):
        types.insert(0, "Nothing")
    return types
