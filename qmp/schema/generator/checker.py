"""Completes a parsed schema (bases, discriminators) and refuses one that contradicts itself."""

from __future__ import annotations

import re

from .model import (BUILTINS, Alternate, Branch, Command, Definition, Enum, Event, Item, Member, Module, Schema,
                    SchemaError, Struct, Type, TypeRef, Union)
from .naming import enumerator, snake

_VERSION = re.compile(r"\d+\.\d+(\.\d+)?$")
_INTEGERS = {name for name, (_, kind) in BUILTINS.items() if kind == "int"}

# The kinds of JSON value, by which the branches of an alternate are told apart.
_JSON_KINDS = {"str": "string", "bool": "boolean", "null": "null", "number": "number", **dict.fromkeys(_INTEGERS, "number")}


class _Checker:
    def __init__(self, modules: list[Module]):
        self._schema = Schema(modules)
        self._reachable: dict[str, set[str]] = {}

    def run(self) -> Schema:
        self._check_includes()
        self._collect()
        for module in self._schema.modules:
            for definition in module.definitions:
                self._check_names(definition)
                self._complete(definition)
        for module in self._schema.modules:
            for definition in module.definitions:
                self._check_documented(definition)
                self._check_definition(definition)
        return self._schema

    # Modules

    def _check_includes(self) -> None:
        by_name = {module.name: module for module in self._schema.modules}

        def reach(module: Module, path: tuple[str, ...]) -> set[str]:
            if module.name in self._reachable:
                return self._reachable[module.name]
            found = {module.name}
            for included, where in module.includes:
                if included not in by_name:
                    raise SchemaError(where, f"there is no module '{included}'")
                if included in path:
                    raise SchemaError(where, f"modules include each other: {' -> '.join((*path, included))}")
                found |= reach(by_name[included], (*path, included))
            self._reachable[module.name] = found
            return found

        for module in self._schema.modules:
            reach(module, (module.name,))

    def _collect(self) -> None:
        seen: dict[str, Item] = {}
        for module in self._schema.modules:
            for definition in module.definitions:
                if definition.name in BUILTINS:
                    raise SchemaError(definition.where, f"'{definition.name}' is a built-in type")
                if other := seen.get(definition.name):
                    raise SchemaError(definition.where, f"'{definition.name}' is defined at {other.where} already")
                seen[definition.name] = definition
                if isinstance(definition, Type):
                    self._schema.types[definition.name] = definition

    # Completion

    def _struct(self, name: str, user: Item) -> Struct:
        found = self._schema.types.get(name)
        if not isinstance(found, Struct) or isinstance(found, Union):
            raise SchemaError(user.where, f"'{name}' is no struct, so it cannot be the base of '{user.name}'")
        return found

    def _all_members(self, struct: Struct, path: tuple[str, ...] = ()) -> list[Member]:
        if struct.name in path:
            raise SchemaError(struct.where, f"'{struct.name}' is its own base")
        inherited: list[Member] = []
        if struct.base is not None:
            inherited = self._all_members(self._struct(struct.base, struct), (*path, struct.name))
        return inherited + struct.members

    def _complete(self, definition: Definition) -> None:
        if isinstance(definition, Struct):
            definition.all_members = self._all_members(definition)
            self._check_unique(definition, definition.all_members)
        if isinstance(definition, Union):
            self._complete_union(definition)
        if isinstance(definition, Command | Event):
            self._check_unique(definition, definition.members)

    def _complete_union(self, union: Union) -> None:
        tag = next((m for m in union.all_members if m.name == union.discriminator), None)
        if tag is None:
            raise SchemaError(union.where, f"'{union.name}' has no member '{union.discriminator}' to discriminate by")
        enum = self._schema.types.get(tag.type.name)
        if not isinstance(enum, Enum) or tag.type.is_array or tag.optional:
            raise SchemaError(tag.where, f"the discriminator '{tag.name}' must be an enum that is always there")
        union.tag = enum
        self._check_unique(union, union.branches)
        for branch in union.branches:
            if branch.name not in enum.value_names():
                raise SchemaError(branch.where, f"'{enum.name}' has no value '{branch.name}'")

    # Rules

    def _check_unique(self, definition: Definition, items: list) -> None:
        names: dict[str, Item] = {}
        for item in items:
            if other := names.get(item.name):
                raise SchemaError(item.where, f"'{definition.name}' has '{item.name}' at {other.where} already")
            names[item.name] = item

    def _check_names(self, definition: Definition) -> None:
        if isinstance(definition, Type) and not re.match(r"[A-Z][A-Za-z0-9]*$", definition.name):
            raise SchemaError(definition.where, f"the type '{definition.name}' should be CamelCase")
        if isinstance(definition, Command) and not re.match(r"[a-z][a-z0-9_-]*$", definition.name):
            raise SchemaError(definition.where, f"the command '{definition.name}' should be in lower case")
        if isinstance(definition, Event) and not re.match(r"[A-Z][A-Z0-9_]*$", definition.name):
            raise SchemaError(definition.where, f"the event '{definition.name}' should be in UPPER_CASE")
        spelled: dict[str, str] = {}
        for item in self._named_in(definition):
            cpp = enumerator(item.name) if isinstance(definition, Enum) else snake(item.name)
            if cpp in spelled and spelled[cpp] != item.name:
                raise SchemaError(item.where, f"'{item.name}' and '{spelled[cpp]}' are both {cpp} in C++")
            spelled[cpp] = item.name

    def _named_in(self, definition: Definition) -> list[Item]:
        match definition:
            case Enum():
                return list(definition.values)
            case Union():
                return [*definition.members]
            case Struct() | Command() | Event():
                return list(definition.members)
            case _:
                return []

    def _check_documented(self, definition: Definition) -> None:
        items: list[Item] = [definition]
        # The values of an enum may say themselves what they are, but then all of them do.
        if not isinstance(definition, Enum) or any(value.doc for value in definition.values):
            items += self._named_in(definition)
        for item in items:
            if not item.doc_text:
                raise SchemaError(item.where, f"'{item.name}' has no description")
            if item.since is not None and not _VERSION.match(item.since):
                raise SchemaError(item.where, f"'{item.since}' is no version")

    def _check_type(self, ref: TypeRef, user: Item, module: Module) -> None:
        if ref.name in BUILTINS:
            return
        found = self._schema.types.get(ref.name)
        if found is None:
            raise SchemaError(user.where, f"'{user.name}' has the type '{ref.name}', which is not defined")
        if found.module.name not in self._reachable[module.name]:
            raise SchemaError(user.where, f"'{ref.name}' is in the module '{found.module.name}', which is not included")

    def _check_member(self, member: Member, module: Module) -> None:
        self._check_type(member.type, member, module)
        if member.default is None:
            return
        if not member.optional:
            raise SchemaError(member.where, f"'{member.name}' has a default but is not optional")
        enum = self._schema.types.get(member.type.name)
        if member.type.is_array:
            fits = False
        elif isinstance(enum, Enum):
            fits = member.default in enum.value_names()
        elif member.type.name == "bool":
            fits = member.default in ("true", "false")
        else:
            fits = member.type.name in _INTEGERS and member.default.isdigit()
        if not fits:
            raise SchemaError(member.where, f"'{member.default}' is no value of '{member.type}'")

    def _check_definition(self, definition: Definition) -> None:
        module = definition.module
        match definition:
            case Union():
                for member in definition.members:
                    self._check_member(member, module)
                for branch in definition.branches:
                    self._check_branch_is_struct(definition, branch, module)
            case Struct():
                for member in definition.members:
                    self._check_member(member, module)
            case Alternate():
                self._check_alternate(definition, module)
            case Command() | Event():
                for member in definition.members:
                    self._check_member(member, module)
                if definition.args_type is not None:
                    self._check_type(TypeRef(definition.args_type), definition, module)
                    if not isinstance(self._schema.types.get(definition.args_type), Struct):
                        raise SchemaError(definition.where, f"'{definition.args_type}' is neither struct nor union")
                if isinstance(definition, Command) and definition.result is not None:
                    self._check_type(definition.result, definition, module)

    def _check_branch_is_struct(self, union: Union, branch: Branch, module: Module) -> None:
        self._check_type(branch.type, branch, module)
        found = self._schema.types.get(branch.type.name)
        if not isinstance(found, Struct) or branch.type.is_array:
            raise SchemaError(branch.where, f"the branch '{branch.name}' of '{union.name}' must be a struct")
        if isinstance(found, Union):
            raise SchemaError(branch.where, f"the branch '{branch.name}' of '{union.name}' is a union itself")
        taken = {member.name for member in union.all_members}
        for member in self._all_members(found):
            if member.name in taken:
                raise SchemaError(branch.where, f"'{found.name}' and '{union.name}' both have '{member.name}'")

    def _check_alternate(self, alternate: Alternate, module: Module) -> None:
        kinds: dict[str, str] = {}
        for branch in alternate.branches:
            self._check_type(branch.type, branch, module)
            found = self._schema.types.get(branch.type.name)
            if branch.type.is_array:
                kind = "array"
            elif isinstance(found, Enum):
                kind = "string"
            elif isinstance(found, Struct):
                kind = "object"
            else:
                kind = _JSON_KINDS.get(branch.type.name, "")
            if not kind:
                raise SchemaError(branch.where, f"'{branch.type}' cannot be a branch of an alternate")
            if kind in kinds:
                raise SchemaError(branch.where, f"'{branch.name}' and '{kinds[kind]}' are both a JSON {kind}")
            kinds[kind] = branch.name


def check(modules: list[Module]) -> Schema:
    return _Checker(modules).run()
