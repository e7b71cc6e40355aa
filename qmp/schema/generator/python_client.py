"""The typed Python client and the tables for generated tests, as one module."""

from __future__ import annotations

import keyword
import textwrap
from pathlib import Path

from .model import BUILTINS, Alternate, Command, Enum, Member, Schema, Struct, TypeRef, Union
from .naming import quoted

_RUNTIME = Path(__file__).with_name("python_runtime.py")

_PYTHON_TYPES = {"str": "str", "bool": "bool", "number": "float", "null": "None", "any": "Any"}


def _identifier(name: str) -> str:
    spelled = name.replace("-", "_").replace(".", "_")
    if keyword.iskeyword(spelled):
        spelled += "_"
    return f"_{spelled}" if spelled[0].isdigit() else spelled


def _member_row(member: Member) -> str:
    return f"Member({quoted(member.name)}, {quoted(str(member.type))}, {not member.optional})"


def _tuple(items: list[str], indent: str) -> str:
    if not items:
        return "()"
    return "(\n" + "".join(f"{indent}    {item},\n" for item in items) + f"{indent})"


class _Writer:
    def __init__(self, schema: Schema):
        self._schema = schema

    def run(self) -> str:
        head = ('"""The commands of the monitor as methods, and the schema as tables for tests that are generated from it.\n\n'
                'Written by qmp/schema/generate.py from qmp/schema/*.schema; changes are lost.\n"""\n\n')
        return "\n".join([head + _RUNTIME.read_text(encoding="utf-8") + "\n", self._literals(), self._enums(),
                          self._structs(), self._unions(), self._alternates(), self._commands(), self._events(),
                          self._client()])

    def _of(self, kind: type) -> list:
        return [t for t in self._schema.types.values() if isinstance(t, kind)]

    def _literals(self) -> str:
        lines = []
        for enum in self._of(Enum):
            values = ", ".join(quoted(value) for value in enum.value_names())
            lines.append(textwrap.fill(f"{enum.name} = Literal[{values}]", 118, subsequent_indent="    ",
                                       break_on_hyphens=False, break_long_words=False))
        return "\n".join(lines) + "\n"

    def _enums(self) -> str:
        rows = "".join(f"    {quoted(e.name)}: {e.name}.__args__,\n" for e in self._of(Enum))
        return f"ENUMS: dict[str, tuple[str, ...]] = {{\n{rows}}}\n"

    def _structs(self) -> str:
        rows = "".join(f"    {quoted(s.name)}: {_tuple([_member_row(m) for m in s.all_members], '    ')},\n"
                       for s in self._of(Struct))
        return f"STRUCTS: dict[str, tuple[Member, ...]] = {{\n{rows}}}\n"

    def _union(self, union: Union, indent: str) -> str:
        branches = "".join(f"{indent}    {quoted(b.name)}: {quoted(b.type.name)},\n" for b in union.branches)
        return f"Union({quoted(union.discriminator)}, {{\n{branches}{indent}}})"

    def _unions(self) -> str:
        rows = "".join(f"    {quoted(u.name)}: {self._union(u, '    ')},\n" for u in self._of(Union))
        return f"UNIONS: dict[str, Union] = {{\n{rows}}}\n"

    def _alternates(self) -> str:
        rows = ""
        for alternate in self._of(Alternate):
            branches = ", ".join(quoted(str(branch.type)) for branch in alternate.branches)
            rows += f"    {quoted(alternate.name)}: ({branches},),\n"
        return f"ALTERNATES: dict[str, tuple[str, ...]] = {{\n{rows}}}\n"

    def _commands(self) -> str:
        rows = ""
        for command in self._schema.commands():
            members = _tuple([_member_row(m) for m in self._schema.members_of(command)], "        ")
            boxed = self._schema.types.get(command.args_type or "")
            union = f"UNIONS[{quoted(boxed.name)}]" if isinstance(boxed, Union) else "None"
            rows += (f"    {quoted(command.name)}: Command(\n        {members},\n        {union},\n"
                     f"        {command.programs!r},\n        oob={command.oob},\n        open={command.open},\n"
                     f"        extension={command.extension},\n    ),\n")
        return f"COMMANDS: dict[str, Command] = {{\n{rows}}}\n"

    def _events(self) -> str:
        rows = ""
        for event in self._schema.events():
            members = _tuple([_member_row(m) for m in self._schema.members_of(event)], "    ")
            rows += f"    {quoted(event.name)}: {members},\n"
        return f"EVENTS: dict[str, tuple[Member, ...]] = {{\n{rows}}}\n"

    def _python_type(self, ref: TypeRef) -> str:
        if ref.is_array:
            return f"list[{self._python_type(ref.element)}]"
        if ref.name in BUILTINS:
            return _PYTHON_TYPES.get(ref.name, "int")
        found = self._schema.types[ref.name]
        if isinstance(found, Enum):
            return found.name
        if isinstance(found, Alternate):
            branches = dict.fromkeys(self._python_type(branch.type) for branch in found.branches)
            return " | ".join(branches)
        return "dict[str, Any]"

    def _client(self) -> str:
        methods = "\n".join(self._method(command) for command in self._schema.commands())
        return ("\nclass Commands:\n"
                '    """One method a command, for whatever has `execute(name, arguments)`.\n\n'
                "    Arguments are given by name, with `_` for `-`, or as a dictionary, or both.\n"
                '    """\n\n'
                "    def execute(self, command: str, arguments: dict[str, Any] | None = None, /, **named: Any) -> Any:\n"
                f"        raise NotImplementedError\n\n{methods}")

    def _method(self, command: Command) -> str:
        members = self._schema.members_of(command)
        boxed = self._schema.types.get(command.args_type or "")
        is_union = isinstance(boxed, Union)
        ordered = [m for m in members if not m.optional] + [m for m in members if m.optional]
        parameters = ["self", "arguments: dict[str, Any] | None = None", "/"]
        if members:
            parameters.append("*")
        parameters += [f"{_identifier(m.name)}: {self._python_type(m.type)} = ABSENT" for m in ordered]
        given = ", ".join(f"{quoted(m.name)}: {_identifier(m.name)}" for m in members)
        named = f"{{{given}}}"
        if is_union or command.open:
            parameters.append("**more: Any")
            named = f"{{{given}, **_branch(more)}}"
        result = "Any" if command.result else "None"
        if command.result is not None:
            result = self._python_type(command.result)
        doc = textwrap.fill(command.doc_text, 110, initial_indent="        ", subsequent_indent="        ").strip()
        doc_end = "\n        " if "\n" in doc else ""
        signature = "".join(f"        {parameter},\n" for parameter in parameters)
        call = f"        return self.execute({quoted(command.name)}, _call(arguments, {named}))\n"
        return (f"    def {_identifier(command.name)}(\n{signature}    ) -> {result}:\n"
                f'        """{doc}{doc_end}"""\n{call}')


def module(schema: Schema) -> str:
    return _Writer(schema).run()
