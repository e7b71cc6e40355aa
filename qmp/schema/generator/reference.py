"""docs/qmp-reference.md."""

from __future__ import annotations

from .model import (BUILTINS, Alternate, Command, Definition, Enum, Event, Item, Member, Module, Schema, Struct,
                    TypeRef, Union)

_HEAD = """# QMP reference

What Blockbed's monitor understands and says. Written by `qmp/schema/generate.py` from `qmp/schema/*.schema`; change
those and run `qmp/schema/generate.py --write`.

Names, types and features are those of QEMU 7.2 unless an entry says that it is Blockbed's own. A version is the QEMU
release that has a thing first. `?` marks what may be left out, `[T]` is an array of T, and the number types `int8` to
`uint64` are JSON integers of that range; `size` is a `uint64` that a command line may write with a unit, `64k`. The
server tells by `query-qmp-schema` which of this it implements.
"""


def _anchor(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum() or c in "-_")


class _Writer:
    def __init__(self, schema: Schema):
        self._schema = schema

    def run(self) -> str:
        modules = [module for module in self._schema.modules if module.definitions]
        contents = "".join(f"- [{self._title(module)}](#{_anchor(self._title(module).replace(' ', '-'))}): "
                           f"{self._counts(module)}\n" for module in modules)
        return _HEAD + "\n" + contents + "".join(self._module(module) for module in modules)

    def _title(self, module: Module) -> str:
        return module.name.replace("_", " ").capitalize()

    def _counts(self, module: Module) -> str:
        counts = [(len(module.commands()), "command"), (len(module.events()), "event"), (len(module.types()), "type")]
        return ", ".join(f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count)

    def _module(self, module: Module) -> str:
        order = [*module.commands(), *module.events(), *module.types()]
        return (f"\n## {self._title(module)}\n\n{' '.join(module.doc)}\n"
                + "".join(self._definition(definition) for definition in order))

    def _type(self, ref: TypeRef) -> str:
        if ref.name in BUILTINS:
            return str(ref)
        name = f"[{ref.name}](#{_anchor(ref.name)})"
        return f"\\[{name}\\]" if ref.is_array else name

    def _notes(self, item: Item) -> str:
        notes = [f"since {item.since}"] if item.since else []
        if item.extension:
            notes.append("Blockbed's own")
        return f" *({', '.join(notes)})*" if notes else ""

    def _features(self, item: Item, indent: str = "") -> str:
        return "".join(f"{indent}- **{feature.name}**{': ' + feature.text if feature.text else ''}\n"
                       for feature in item.features)

    def _inline_features(self, item: Item) -> str:
        return "".join(f" **{feature.name}**{': ' + feature.text if feature.text else ''}" for feature in item.features)

    def _member(self, member: Member) -> str:
        default = f" = {member.default}" if member.default is not None else ""
        mark = "?" if member.optional else ""
        text = " ".join(member.doc)
        return (f"- `{member.name}`{mark}: {self._type(member.type)}{default}. {text}{self._notes(member)}"
                f"{self._inline_features(member)}\n")

    def _definition(self, definition: Definition) -> str:
        text = f"\n### {definition.name}\n\n{' '.join(definition.doc)}{self._notes(definition)}\n"
        if features := self._features(definition):
            text += f"\n{features}"
        return text + self._body(definition)

    def _list(self, title: str, lines: str) -> str:
        return f"\n{title}\n\n{lines}" if lines else ""

    def _body(self, definition: Definition) -> str:
        match definition:
            case Command():
                return self._call(definition, "Arguments") + self._command_facts(definition)
            case Event():
                return self._call(definition, "Data")
            case Enum():
                return self._list("Values", "".join(self._value(v) for v in definition.values))
            case Union():
                base = self._base(definition)
                branches = "".join(f"- `{b.name}`: {self._type(b.type)}\n" for b in definition.branches)
                return base + self._list(f"By `{definition.discriminator}`", branches)
            case Struct():
                return self._base(definition)
            case Alternate():
                lines = "".join(f"- {self._type(b.type)}. {' '.join(b.doc)}\n" for b in definition.branches)
                return self._list("One of", lines)
        return ""

    def _value(self, value: Item) -> str:
        text = f": {' '.join(value.doc)}" if value.doc else ""
        return f"- `{value.name}`{text}{self._notes(value)}{self._inline_features(value)}\n"

    def _base(self, struct: Struct) -> str:
        base = f"\nThe members of {self._type(TypeRef(struct.base))} and these.\n" if struct.base else ""
        return base + self._list("Members", "".join(self._member(m) for m in struct.members))

    def _call(self, item: Command | Event, title: str) -> str:
        if item.args_type is not None:
            return f"\n{title}: the members of {self._type(TypeRef(item.args_type))}.\n"
        return self._list(title, "".join(self._member(m) for m in item.members))

    def _command_facts(self, command: Command) -> str:
        facts = []
        if command.result is not None:
            facts.append(f"Returns {self._type(command.result)}.")
        if command.open:
            facts.append("Takes further arguments, which depend on those above.")
        if command.oob:
            facts.append("May be executed out of band.")
        if command.programs != ("system", "daemon"):
            facts.append("Only under the name of qemu-system." if command.programs == ("system",)
                         else "Only under the name of qemu-storage-daemon.")
        return f"\n{' '.join(facts)}\n" if facts else ""


def document(schema: Schema) -> str:
    return _Writer(schema).run()
