from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple


class Member(NamedTuple):
    """A member of a struct, or an argument of a command. `type` is a name of the tables below, `[name]` an array."""

    name: str
    type: str
    required: bool


class Union(NamedTuple):
    """What a discriminator's value adds to the common members of a union."""

    tag: str
    branches: dict[str, str]


class Command(NamedTuple):
    members: tuple[Member, ...]
    union: Union | None
    programs: tuple[str, ...]
    oob: bool
    # Takes arguments that the schema does not name.
    open: bool
    # Blockbed's own.
    extension: bool


class Case(NamedTuple):
    """Arguments that a command must refuse, and the words in which QEMU 7.2 does."""

    command: str
    arguments: dict[str, Any]
    error: str


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


# An argument that is not sent; None is sent as null.
ABSENT: Any = _Absent()

_INTEGERS = {"int", "int8", "int16", "int32", "int64"}
_UNSIGNED = {"uint8", "uint16", "uint32", "uint64", "size"}
_SCALARS: dict[str, Any] = {"str": "x", "bool": False, "number": 0.5, "null": None, "any": {},
                            **dict.fromkeys(_INTEGERS | _UNSIGNED, 0)}


def _call(arguments: dict[str, Any] | None, named: dict[str, Any]) -> dict[str, Any]:
    """What a method was given by name, over what it was given as a dictionary."""
    return {**(arguments or {}), **{name: value for name, value in named.items() if value is not ABSENT}}


def _branch(named: dict[str, Any]) -> dict[str, Any]:
    return {name.rstrip("_").replace("_", "-"): value for name, value in named.items()}


def _members(type_: str) -> tuple[Member, ...]:
    return STRUCTS[type_]


def minimal(type_: str) -> Any:
    """The smallest value of a type."""
    if type_.startswith("["):
        return []
    if type_ in _SCALARS:
        return _SCALARS[type_]
    if type_ in ENUMS:
        return ENUMS[type_][0]
    if type_ in ALTERNATES:
        # A string ends a recursion that an object would go on with.
        return minimal(sorted(ALTERNATES[type_], key=lambda branch: branch != "str")[0])
    return _minimal_members(_members(type_), UNIONS.get(type_))


def _minimal_members(members: tuple[Member, ...], union: Union | None) -> dict[str, Any]:
    value = {member.name: minimal(member.type) for member in members if member.required}
    if union is not None and value[union.tag] in union.branches:
        value.update(minimal(union.branches[value[union.tag]]))
    return value


def _wrong(type_: str, path: str, name: str) -> Iterator[tuple[Any, str]]:
    """Values that a member of this type must refuse, with the error. `name` is the last part of its path."""
    if type_.startswith("["):
        yield 5, f"Invalid parameter type for '{path}', expected: array"
        item = type_[1:-1]
        if item not in _SCALARS and item not in ALTERNATES and item not in ENUMS:
            yield [5], f"Invalid parameter type for '{path}[0]', expected: object"
    elif type_ == "str":
        yield 5, f"Invalid parameter type for '{path}', expected: string"
        yield None, f"Invalid parameter type for '{path}', expected: string"
    elif type_ == "bool":
        yield "on", f"Invalid parameter type for '{path}', expected: boolean"
    elif type_ == "number":
        yield "1", f"Invalid parameter type for '{path}', expected: number"
    elif type_ == "null":
        yield 5, f"Invalid parameter type for '{path}', expected: null"
    elif type_ in _INTEGERS:
        yield "1", f"Invalid parameter type for '{path}', expected: integer"
        yield 1.5, f"Invalid parameter type for '{path}', expected: integer"
        yield 1 << 63, f"Invalid parameter type for '{path}', expected: integer"
        if type_ in ("int8", "int16", "int32"):
            yield 1 << (int(type_[3:]) - 1), f"Parameter '{name}' expects {type_}_t"
    elif type_ in _UNSIGNED:
        yield "1", f"Parameter '{path}' expects uint64"
        yield True, f"Parameter '{path}' expects uint64"
        if type_ in ("uint8", "uint16", "uint32"):
            yield 1 << int(type_[4:]), f"Parameter '{name}' expects {type_}_t"
            yield -1, f"Parameter '{name}' expects {type_}_t"
    elif type_ in ENUMS:
        yield 5, f"Invalid parameter type for '{path}', expected: string"
        yield "no such value", f"Parameter '{name}' does not accept value 'no such value'"
    elif type_ in ALTERNATES:
        yield 0.5, f"Invalid parameter type for '{name}', expected: {type_}"
    elif type_ != "any":
        yield "x", f"Invalid parameter type for '{path}', expected: object"


def _in_struct(members: tuple[Member, ...], union: Union | None, path: str,
               depth: int) -> Iterator[tuple[dict[str, Any], str]]:
    prefix = f"{path}." if path else ""
    smallest = _minimal_members(members, union)
    if depth == 0 or not path:
        yield {**smallest, "no-such-member": 1}, f"Parameter '{prefix}no-such-member' is unexpected"
    for member in members:
        here = prefix + member.name
        if member.required:
            without = {name: value for name, value in smallest.items() if name != member.name}
            yield without, f"Parameter '{here}' is missing"
        for value, error in _wrong(member.type, here, member.name):
            yield {**smallest, member.name: value}, error
        if depth > 0 and member.type in STRUCTS:
            for value, error in _in_struct(STRUCTS[member.type], UNIONS.get(member.type), here, depth - 1):
                yield {**smallest, member.name: value}, error
    if union is None:
        return
    common = {name: smallest[name] for name in smallest if any(name == member.name for member in members)}
    for tag, branch in union.branches.items():
        for value, error in _in_branch({**common, union.tag: tag}, STRUCTS[branch], path, depth):
            yield value, error


def _in_branch(common: dict[str, Any], members: tuple[Member, ...], path: str,
               depth: int) -> Iterator[tuple[dict[str, Any], str]]:
    for value, error in _in_struct(members, None, path, depth):
        yield {**common, **value}, error


def negative_cases(depth: int = 2) -> Iterator[Case]:
    """For every command: each argument missing, of a wrong type and out of range, nested ones too, and one too many."""
    for name, command in COMMANDS.items():
        for arguments, error in _in_struct(command.members, command.union, "", depth):
            # QEMU leaves the rest to the device that such a command makes.
            if command.open and not error.endswith("is missing"):
                continue
            yield Case(name, arguments, error)
