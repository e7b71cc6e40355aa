"""The schema as data: what the parser builds, the checker completes and the backends read."""

from __future__ import annotations

from dataclasses import dataclass, field

PROGRAMS = ("system", "daemon")

# Name in the schema -> (C++ type, JSON type that query-qmp-schema reports).
BUILTINS: dict[str, tuple[str, str]] = {
    "str": ("std::string", "string"),
    "bool": ("bool", "boolean"),
    "number": ("double", "number"),
    "int": ("int64_t", "int"),
    "int8": ("int8_t", "int"),
    "int16": ("int16_t", "int"),
    "int32": ("int32_t", "int"),
    "int64": ("int64_t", "int"),
    "uint8": ("uint8_t", "int"),
    "uint16": ("uint16_t", "int"),
    "uint32": ("uint32_t", "int"),
    "uint64": ("uint64_t", "int"),
    "size": ("uint64_t", "int"),
    "null": ("json::Null", "null"),
    "any": ("json::Value", "value"),
}


@dataclass(frozen=True)
class Location:
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class SchemaError(Exception):
    """A fault of the schema's author, shown as `file:line: text`."""

    def __init__(self, where: Location, text: str):
        super().__init__(f"{where}: {text}")


@dataclass(frozen=True)
class TypeRef:
    """A use of a type: `name`, or `[name]` for an array of it."""

    name: str
    is_array: bool = False

    @property
    def element(self) -> TypeRef:
        return TypeRef(self.name)

    def __str__(self) -> str:
        return f"[{self.name}]" if self.is_array else self.name


@dataclass(frozen=True)
class Feature:
    name: str
    text: str = ""


@dataclass
class Item:
    """What everything that has a name carries."""

    name: str
    where: Location
    doc: list[str] = field(default_factory=list)
    since: str | None = None
    features: list[Feature] = field(default_factory=list)
    # Not in QEMU: Blockbed's own.
    extension: bool = False

    @property
    def doc_text(self) -> str:
        return " ".join(line for line in self.doc if line)


@dataclass
class Member(Item):
    type: TypeRef = TypeRef("null")
    optional: bool = False
    default: str | None = None


@dataclass
class EnumValue(Item):
    pass


@dataclass
class Branch(Item):
    """`case NAME: TYPE` of a union, or `NAME: TYPE` of an alternate."""

    type: TypeRef = TypeRef("null")


@dataclass
class Definition(Item):
    module: Module | None = None


@dataclass
class Enum(Definition):
    values: list[EnumValue] = field(default_factory=list)

    def value_names(self) -> list[str]:
        return [value.name for value in self.values]


@dataclass
class Struct(Definition):
    base: str | None = None
    members: list[Member] = field(default_factory=list)
    # Filled by the checker: the base's members, outermost base first, and then its own.
    all_members: list[Member] = field(default_factory=list)
    # Takes members that it does not name (`rest` in C++).
    open: bool = False


@dataclass
class Union(Struct):
    discriminator: str = ""
    branches: list[Branch] = field(default_factory=list)
    # Filled by the checker: the enum that the discriminator has.
    tag: Enum | None = None

    def branch(self, value: str) -> Branch | None:
        return next((branch for branch in self.branches if branch.name == value), None)


@dataclass
class Alternate(Definition):
    branches: list[Branch] = field(default_factory=list)


@dataclass
class Command(Definition):
    # Members written inline, or the type that `: TYPE` names; never both.
    members: list[Member] = field(default_factory=list)
    args_type: str | None = None
    result: TypeRef | None = None
    oob: bool = False
    preconfig: bool = False
    open: bool = False
    programs: tuple[str, ...] = ()


@dataclass
class Event(Definition):
    members: list[Member] = field(default_factory=list)
    args_type: str | None = None
    programs: tuple[str, ...] = ()


Type = Enum | Struct | Union | Alternate


@dataclass
class Module:
    name: str
    file: str
    doc: list[str] = field(default_factory=list)
    includes: list[tuple[str, Location]] = field(default_factory=list)
    programs: tuple[str, ...] = PROGRAMS
    definitions: list[Definition] = field(default_factory=list)

    def types(self) -> list[Type]:
        return [d for d in self.definitions if isinstance(d, Type)]

    def commands(self) -> list[Command]:
        return [d for d in self.definitions if isinstance(d, Command)]

    def events(self) -> list[Event]:
        return [d for d in self.definitions if isinstance(d, Event)]


@dataclass
class Schema:
    # In the order that query-qmp-schema reports their commands and events.
    modules: list[Module]
    types: dict[str, Type] = field(default_factory=dict)

    def commands(self) -> list[Command]:
        return [c for module in self.modules for c in module.commands()]

    def events(self) -> list[Event]:
        return [e for module in self.modules for e in module.events()]

    def members_of(self, definition: Command | Event) -> list[Member]:
        """The named arguments of a command or the data of an event, inline or boxed."""
        if definition.args_type is None:
            return definition.members
        boxed = self.types[definition.args_type]
        return boxed.all_members if isinstance(boxed, Struct) else []
