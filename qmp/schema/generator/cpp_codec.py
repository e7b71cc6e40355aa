"""The bodies: one .cpp a module, with the names of its enums and the way of its types from and to JSON."""

from __future__ import annotations

from .cpp import NAMESPACE, Layout, args_name, banner, field_name
from .cpp_types import variant_types
from .model import Alternate, Branch, Enum, Event, Member, Module, Schema, Struct, Type, Union
from .naming import camel, enumerator, quoted, type_snake


class BodyWriter:
    def __init__(self, schema: Schema, layout: Layout):
        self._schema = schema
        self._layout = layout

    def body(self, module: Module) -> str:
        parts = [
            banner(module.file),
            f'#include "schema/{module.name}.h"\n\n#include "qmp/schema/enum_names.h"\n\n',
            f"namespace {NAMESPACE} {{\n\n",
        ]
        parts += [self._type(definition) for definition in module.types()]
        for command in module.commands():
            if command.args_type is None and args_name(command) != "Nothing":
                parts.append(self._object(args_name(command), command.members, open_=command.open))
        if module.events():
            parts.append("namespace events {\n\n")
            parts += [self._event(event) for event in module.events()]
            parts.append("}  // namespace events\n\n")
        parts.append(f"}}  // namespace {NAMESPACE}\n")
        return "".join(parts)

    def _type(self, definition: Type) -> str:
        match definition:
            case Enum():
                return self._enum(definition)
            case Alternate():
                return self._alternate(definition)
            case Union():
                return self._object(definition.name, definition.all_members, union=definition)
            case Struct():
                return self._object(definition.name, definition.all_members)

    def _enum(self, enum: Enum) -> str:
        table = f"k{enum.name}Names"
        values = "".join(f"    {quoted(value.name)},\n" for value in enum.values)
        name = enum.name
        return (f"namespace {{\nconstexpr std::string_view {table}[] = {{\n{values}}};\n}}  // namespace\n\n"
                f"std::string_view name({name} value) {{ return {table}[static_cast<size_t>(value)]; }}\n"
                f"std::span<const std::string_view> names({name}) {{ return {table}; }}\n"
                f"std::optional<{name}> parse_{type_snake(name)}(std::string_view text) {{\n"
                f"  std::optional<size_t> index = index_of({table}, text);\n"
                f"  if (!index) return std::nullopt;\n"
                f"  return static_cast<{name}>(*index);\n}}\n"
                f"bool read(Reader& reader, const json::Value& value, {name}& out) {{\n"
                f"  size_t index = 0;\n"
                f"  if (!read_enum(reader, value, {table}, index)) return false;\n"
                f"  out = static_cast<{name}>(index);\n  return true;\n}}\n"
                f"json::Value to_json({name} value) {{ return name(value); }}\n\n")

    def _read_member(self, member: Member) -> str:
        how = "required"
        if member.optional:
            how = "optional" if member.default is None else "defaulted"
        if member.type.name == "size" and not member.type.is_array:
            how += "_size"
        return f"object.{how}({quoted(member.name)}, out.{field_name(member)})"

    def _write_member(self, member: Member) -> str:
        field = f"value.{field_name(member)}"
        if member.optional and member.default is None:
            return f"  write_optional(out, {quoted(member.name)}, {field});\n"
        return f"  out.set({quoted(member.name)}, to_json({field}));\n"

    def _object(self, name: str, members: list[Member], union: Union | None = None, open_: bool = False) -> str:
        reads = [self._read_member(member) for member in members]
        if open_:
            reads.append("object.rest(out.rest)")
        writes = "".join(self._write_member(member) for member in members)
        if open_:
            writes += "  for (const auto& [key, item] : value.rest) out.set(key, item);\n"
        if union is None:
            condition = " &&\n         ".join(reads) if reads else "true"
            body = f"  return {condition};\n"
            object_name = "object" if reads else ""
            out_name = "out" if reads else ""
        else:
            condition = " &&\n        ".join(reads)
            body = f"  if (!({condition})) {{\n    return false;\n  }}\n{self._read_branches(union)}"
            writes += self._write_branches(union)
            object_name, out_name = "object", "out"
        equality = f"bool operator==(const {name}&, const {name}&) = default;\n\n"
        life = "" if union is None else self._life(name)
        write_out = "out" if writes else ""
        write_value = "value" if writes else ""
        return (f"bool read_members(ObjectReader& {object_name}, {name}& {out_name}) {{\n{body}}}\n"
                f"bool read(Reader& reader, const json::Value& value, {name}& out) {{\n"
                f"  ObjectReader object(reader, value);\n"
                f"  return object && read_members(object, out) && object.finish();\n}}\n"
                f"void write_members(json::Object& {write_out}, const {name}& {write_value}) {{\n{writes}}}\n"
                f"json::Value to_json(const {name}& value) {{\n"
                f"  json::Object out;\n  write_members(out, value);\n  return out;\n}}\n\n{life}{equality}")

    def _life(self, name: str) -> str:
        return (f"{name}::{name}() = default;\n{name}::{name}(const {name}&) = default;\n"
                f"{name}::{name}({name}&&) noexcept = default;\n{name}& {name}::operator=(const {name}&) = default;\n"
                f"{name}& {name}::operator=({name}&&) noexcept = default;\n{name}::~{name}() = default;\n\n")

    def _by_type(self, union: Union) -> dict[str, list[str]]:
        """Branch type -> the discriminator's values that select it; "Nothing" for those without a branch."""
        groups: dict[str, list[str]] = {name: [] for name in variant_types(union)}
        for value in union.tag.value_names():
            branch = union.branch(value)
            groups[branch.type.name if branch else "Nothing"].append(value)
        return groups

    def _cases(self, union: Union, values: list[str]) -> str:
        return "".join(f"    case {union.tag.name}::{enumerator(value)}:\n" for value in values)

    def _read_branches(self, union: Union) -> str:
        tag = next(m for m in union.all_members if m.name == union.discriminator)
        text = f"  switch (out.{field_name(tag)}) {{\n"
        for name, values in self._by_type(union).items():
            text += self._cases(union, values)
            text += f"      return read_members(object, out.u.emplace<{name}>());\n"
        return text + "  }\n  return false;\n"

    def _write_branches(self, union: Union) -> str:
        tag = next(m for m in union.all_members if m.name == union.discriminator)
        text = f"  switch (value.{field_name(tag)}) {{\n"
        for name, values in self._by_type(union).items():
            text += self._cases(union, values)
            if name == "Nothing":
                text += "      break;\n"
            else:
                text += f"      write_members(out, std::get<{name}>(value.u));\n      break;\n"
        return text + "  }\n"

    def _alternate(self, alternate: Alternate) -> str:
        name = alternate.name
        reads = ""
        for index, branch in enumerate(self._layout.branches_of(alternate)):
            reads += f"  if ({self._kind_test(branch)}) return read(reader, value, out.u.emplace<{index}>());\n"
        return (f"bool read(Reader& reader, const json::Value& value, {name}& out) {{\n{reads}"
                f"  return reader.fail_alternate({quoted(name)});\n}}\n"
                f"json::Value to_json(const {name}& value) {{\n"
                f"  return std::visit([](const auto& branch) -> json::Value {{ return to_json(branch); }}, value.u);\n"
                f"}}\n\nbool operator==(const {name}&, const {name}&) = default;\n\n")

    def _kind_test(self, branch: Branch) -> str:
        if branch.type.is_array:
            return "value.is_array()"
        match self._schema.types.get(branch.type.name):
            case Enum():
                return "value.is_string()"
            case Struct():
                return "value.is_object()"
        return {"str": "value.is_string()", "bool": "value.is_bool()", "null": "value.is_null()",
                "number": "value.is_number()"}.get(branch.type.name, "value.is_integer()")

    def _event(self, event: Event) -> str:
        members = self._schema.members_of(event)
        # Inside namespace events an unqualified to_json is that of events only.
        writes = "".join(self._write_member(member).replace("value.", "event.").replace("to_json(", "schema::to_json(")
                         for member in members)
        parameter = "event" if members else ""
        name = camel(event.name)
        return (f"json::Value to_json(const {name}& {parameter}) {{\n"
                f"  json::Object out;\n{writes}  return out;\n}}\n\n"
                f"bool operator==(const {name}&, const {name}&) = default;\n\n")
