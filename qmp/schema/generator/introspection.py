"""The constant tables behind query-qmp-schema (qmp/schema/introspection_tables.h)."""

from __future__ import annotations

from .cpp import banner
from .model import BUILTINS, Alternate, Command, Enum, Event, Feature, Member, Schema, Struct, Type, TypeRef, Union
from .naming import quoted

_EMPTY = "the empty object"


def _range(first: int, count: int) -> str:
    return f"{{{first}, {count}}}" if count else "{}"


class _Tables:
    def __init__(self, schema: Schema):
        self._schema = schema
        self._types: dict[str, int] = {}
        self._type_rows: list[str] = []
        self._members: list[str] = []
        self._variants: list[str] = []
        self._features: list[str] = []
        self._entities: list[str] = []

    def run(self) -> str:
        for module in self._schema.modules:
            for definition in module.definitions:
                if isinstance(definition, Command | Event):
                    self._entity(definition)
        tables = (("EntityRow", "Entities", self._entities), ("TypeRow", "Types", self._type_rows),
                  ("MemberRow", "Members", self._members), ("VariantRow", "Variants", self._variants),
                  ("std::string_view", "Features", self._features))
        arrays = "".join(f"constexpr {row} k{name}[] = {{\n{''.join(f'    {r},{chr(10)}' for r in rows)}}};\n\n"
                         for row, name, rows in tables)
        return (f"{banner('*.schema')}#include \"qmp/schema/introspection_tables.h\"\n\n"
                f"namespace blockbed::schema::introspection {{\n\nnamespace {{\n\n{arrays}}}  // namespace\n\n"
                "constexpr Tables kTables{kEntities, kTypes, kMembers, kVariants, kFeatures};\n\n"
                "}  // namespace blockbed::schema::introspection\n")

    def _feature_range(self, features: list[Feature]) -> str:
        first = len(self._features)
        self._features += [quoted(feature.name) for feature in features]
        return _range(first, len(features))

    def _member_row(self, member: Member) -> str:
        return (f"{{{quoted(member.name)}, {self._type(member.type)}, {'true' if member.optional else 'false'}, "
                f"{self._feature_range(member.features)}}}")

    def _append_members(self, rows: list[str]) -> str:
        first = len(self._members)
        self._members += rows
        return _range(first, len(rows))

    def _reserve(self, key: str) -> int:
        """A type may use itself, so its index is known before its row."""
        self._types[key] = len(self._type_rows)
        self._type_rows.append("")
        return self._types[key]

    def _type(self, ref: TypeRef) -> int:
        name = ref.name
        if name in BUILTINS and BUILTINS[name][1] == "int":
            name = "int"
        key = str(TypeRef(name, ref.is_array))
        if key in self._types:
            return self._types[key]
        index = self._reserve(key)
        if ref.is_array:
            row = f".kind = Kind::kArray, .element = {self._type(TypeRef(name))}"
        elif name in BUILTINS:
            row = f".name = {quoted(name)}, .json_type = {quoted(BUILTINS[name][1])}"
        else:
            row = self._named(self._schema.types[name])
        self._type_rows[index] = f"{{{row}}}"
        return index

    def _named(self, definition: Type) -> str:
        features = f".features = {self._feature_range(definition.features)}"
        match definition:
            case Enum():
                rows = [f"{{{quoted(v.name)}, 0, false, {self._feature_range(v.features)}}}" for v in definition.values]
                return f".kind = Kind::kEnum, .members = {self._append_members(rows)}, {features}"
            case Alternate():
                rows = [f"{{{{}}, {self._type(branch.type)}, false, {{}}}}" for branch in definition.branches]
                return f".kind = Kind::kAlternate, .members = {self._append_members(rows)}, {features}"
            case Struct():
                members = self._append_members([self._member_row(m) for m in definition.all_members])
                row = f".kind = Kind::kObject, .members = {members}"
                if isinstance(definition, Union):
                    row += self._union(definition)
                return f"{row}, {features}"

    def _union(self, union: Union) -> str:
        rows = [f"{{{quoted(b.name)}, {self._type(b.type)}}}" for b in union.branches]
        rows += [f"{{{quoted(value)}, {self._empty()}}}"
                 for value in union.tag.value_names() if union.branch(value) is None]
        first = len(self._variants)
        self._variants += rows
        return f", .tag = {quoted(union.discriminator)}, .variants = {_range(first, len(rows))}"

    def _empty(self) -> int:
        if _EMPTY not in self._types:
            self._type_rows[self._reserve(_EMPTY)] = "{.kind = Kind::kObject}"
        return self._types[_EMPTY]

    def _arguments(self, item: Command | Event) -> int:
        if item.args_type is not None:
            return self._type(TypeRef(item.args_type))
        if not item.members:
            return self._empty()
        index = self._reserve(f"arguments of {item.name}")
        members = self._append_members([self._member_row(member) for member in item.members])
        self._type_rows[index] = f"{{.kind = Kind::kObject, .members = {members}}}"
        return index

    def _entity(self, item: Command | Event) -> None:
        row = [f".name = {quoted(item.name)}"]
        if isinstance(item, Event):
            row.append(".is_event = true")
        elif item.oob:
            row.append(".oob = true")
        row += [f".in_{program} = true" for program in item.programs]
        row.append(f".argument = {self._arguments(item)}")
        if isinstance(item, Command):
            row.append(f".result = {self._type(item.result) if item.result else self._empty()}")
        row.append(f".features = {self._feature_range(item.features)}")
        self._entities.append(f"{{{', '.join(row)}}}")


def tables(schema: Schema) -> str:
    return _Tables(schema).run()
