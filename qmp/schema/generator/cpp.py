"""What the C++ backends share: how types are spelled and which of them need a box."""

from __future__ import annotations

import textwrap

from .model import BUILTINS, Alternate, Branch, Command, Enum, Event, Member, Module, Schema, Struct, Type, TypeRef, Union
from .naming import camel, enumerator, snake

NAMESPACE = "blockbed::schema"


def banner(source: str) -> str:
    return f"// Generated from qmp/schema/{source} by qmp/schema/generate.py; changes are lost.\n"


def comment(item_doc: list[str], indent: str = "") -> str:
    lines: list[str] = []
    for paragraph in " ".join(item_doc).split("\n"):
        lines += textwrap.wrap(paragraph, 98 - len(indent) - 3)
    return "".join(f"{indent}// {line}\n" for line in lines)


def args_name(command: Command) -> str:
    """The C++ type of a command's arguments."""
    if command.args_type is not None:
        return command.args_type
    return camel(command.name) + "Args" if command.members or command.open else "Nothing"


def direct_members(item: Struct | Command | Event) -> list[Member]:
    return item.all_members if isinstance(item, Struct) else item.members


class Layout:
    """Which uses of a type go through Box<T>, and in which order the types of a module can be defined."""

    def __init__(self, schema: Schema):
        self._schema = schema
        self._boxed: set[tuple[str, str]] = set()
        self._component = self._components()
        self._choose_boxes()

    def is_boxed(self, user: str, ref: TypeRef) -> bool:
        return not ref.is_array and (user, ref.name) in self._boxed

    def cpp(self, ref: TypeRef, user: str = "") -> str:
        """The C++ type of a value of `ref` that `user` holds, without std::optional."""
        element = BUILTINS[ref.name][0] if ref.name in BUILTINS else ref.name
        if ref.is_array:
            return f"std::vector<{element}>"
        return f"Box<{element}>" if self.is_boxed(user, ref) else element

    def branches_of(self, alternate: Alternate) -> list[Branch]:
        """As the variant has them. A default-made variant makes its first type, which must not be the type itself."""
        return sorted(alternate.branches, key=lambda branch: self.is_boxed(alternate.name, branch.type))

    def in_order(self, module: Module) -> list[Type]:
        """The module's types, each after those that it holds by value."""
        done: dict[str, Type] = {}

        def visit(definition: Type) -> None:
            if definition.name in done or definition.module is not module:
                return
            for name in self._held_by(definition):
                if (definition.name, name) not in self._boxed:
                    visit(self._schema.types[name])
            done[definition.name] = definition

        for definition in module.types():
            visit(definition)
        return list(done.values())

    def _held_by(self, definition: Type) -> list[str]:
        """The named types that a value of this one holds other than in an array."""
        if isinstance(definition, Enum):
            return []
        if isinstance(definition, Alternate):
            refs = [branch.type for branch in definition.branches]
        else:
            refs = [member.type for member in definition.all_members]
            if isinstance(definition, Union):
                refs += [branch.type for branch in definition.branches]
        return [ref.name for ref in refs if not ref.is_array and ref.name in self._schema.types]

    def _components(self) -> dict[str, int]:
        """Tarjan's algorithm: types with the same number hold each other."""
        index: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        component: dict[str, int] = {}

        def visit(name: str) -> None:
            index[name] = low[name] = len(index)
            stack.append(name)
            for held in self._held_by(self._schema.types[name]):
                if held not in index:
                    visit(held)
                if held not in component:
                    low[name] = min(low[name], low[held])
            if low[name] == index[name]:
                while True:
                    member = stack.pop()
                    component[member] = index[name]
                    if member == name:
                        break

        for name in self._schema.types:
            if name not in index:
                visit(name)
        return component

    def _choose_boxes(self) -> None:
        """An alternate boxes what it forms a cycle with; so does a type that holds itself."""
        for definition in self._schema.types.values():
            for held in self._held_by(definition):
                in_cycle = self._component[held] == self._component[definition.name]
                if in_cycle and (isinstance(definition, Alternate) or held == definition.name):
                    self._boxed.add((definition.name, held))


def default_value(member: Member, schema: Schema) -> str:
    if member.default is None:
        return "{}"
    if isinstance(schema.types.get(member.type.name), Enum):
        return f"{member.type.name}::{enumerator(member.default)}"
    return member.default


def field_name(member: Member) -> str:
    return snake(member.name)
