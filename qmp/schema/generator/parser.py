"""Reads *.schema files.

    file       = { "include" NAME | "programs" NAME { "," NAME } | definition }
    definition = struct | enum | union | alternate | command | event
    struct     = "struct" NAME [ ":" BASE ] attributes "{" { member } "}"
    enum       = "enum" NAME attributes "{" { NAME attributes } "}"
    union      = "union" NAME [ ":" BASE ] "on" NAME attributes "{" { member } { "case" NAME ":" NAME attributes } "}"
    alternate  = "alternate" NAME attributes "{" { NAME ":" type attributes } "}"
    command    = "command" NAME [ ":" NAME ] [ "->" type ] attributes [ "{" { member } "}" ]
    event      = "event" NAME [ ":" NAME ] attributes [ "{" { member } "}" ]
    member     = NAME [ "?" ] ":" type [ "=" VALUE ] attributes
    type       = NAME | "[" NAME "]"
    attributes = { "@" NAME [ "(" ARGUMENT [ ":" STRING ] ")" ] }

Line ends mean nothing. `//` starts a comment for readers of the file. `///` starts a description: it belongs to what
follows it, and the ones at the head of a file, before a blank line, to the module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .model import (PROGRAMS, Alternate, Branch, Command, Enum, EnumValue, Event, Feature, Item,
                    Location, Member, Module, SchemaError, Struct, TypeRef, Union)

_TOKEN = re.compile(r"""
    (?P<space>[ \t\r]+)
  | (?P<newline>\n)
  | (?P<doc>///[^\n]*)
  | (?P<comment>//[^\n]*)
  | (?P<arrow>->)
  | (?P<string>"[^"\n]*")
  | (?P<name>[A-Za-z0-9_][A-Za-z0-9_.+-]*)
  | (?P<sign>[{}()\[\]:,?=@])
""", re.VERBOSE)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    where: Location


def _tokenize(text: str, file: str) -> list[_Token]:
    tokens: list[_Token] = []
    line = 1
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SchemaError(Location(file, line), f"unexpected character {text[at]!r}")
        at = match.end()
        kind = match.lastgroup or ""
        if kind == "newline":
            line += 1
        elif kind not in ("space", "comment"):
            tokens.append(_Token(kind, match.group(), Location(file, line)))
    tokens.append(_Token("end", "end of file", Location(file, line)))
    return tokens


class _Parser:
    def __init__(self, text: str, file: str, name: str):
        self._tokens = _tokenize(text, file)
        self._at = 0
        self._doc: list[str] = []
        self._module = Module(name=name, file=file)

    # Tokens

    def _peek(self) -> _Token:
        """The next token that is not a description; descriptions on the way are kept for what follows."""
        while self._tokens[self._at].kind == "doc":
            self._doc.append(self._tokens[self._at].text[3:].strip())
            self._at += 1
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._peek()
        if token.kind != "end":
            self._at += 1
        return token

    def _accept(self, text: str) -> bool:
        if self._peek().text == text and self._peek().kind != "string":
            self._next()
            return True
        return False

    def _expect(self, text: str) -> _Token:
        token = self._next()
        if token.text != text:
            raise SchemaError(token.where, f"expected '{text}', found '{token.text}'")
        return token

    def _name(self, what: str) -> _Token:
        token = self._next()
        if token.kind != "name":
            raise SchemaError(token.where, f"expected {what}, found '{token.text}'")
        return token

    def _take_doc(self) -> list[str]:
        doc, self._doc = self._doc, []
        return doc

    # Pieces

    def _type(self) -> TypeRef:
        if self._accept("["):
            name = self._name("a type").text
            self._expect("]")
            return TypeRef(name, is_array=True)
        return TypeRef(self._name("a type").text)

    def _attributes(self, item: Item) -> None:
        while self._peek().text == "@":
            self._next()
            attribute = self._name("an attribute")
            argument, text = None, ""
            if self._accept("("):
                argument = self._name("an argument").text
                if self._accept(":"):
                    token = self._next()
                    if token.kind != "string":
                        raise SchemaError(token.where, f"expected a string, found '{token.text}'")
                    text = token.text[1:-1]
                self._expect(")")
            self._set_attribute(item, attribute, argument, text)

    def _set_attribute(self, item: Item, attribute: _Token, argument: str | None, text: str) -> None:
        name = attribute.text
        flags = {"extension": Item, "oob": Command, "preconfig": Command, "open": Command}
        if name in flags and isinstance(item, flags[name]):
            if argument is not None:
                raise SchemaError(attribute.where, f"@{name} takes no argument")
            setattr(item, name, True)
        elif argument is None:
            raise SchemaError(attribute.where, f"'{item.name}' cannot have @{name}")
        elif name == "since":
            item.since = argument
        elif name == "feature":
            item.features.append(Feature(argument, text))
        elif name == "only" and isinstance(item, Command | Event):
            if argument not in PROGRAMS:
                raise SchemaError(attribute.where, f"there is no program '{argument}'")
            item.programs = (argument,)
        else:
            raise SchemaError(attribute.where, f"'{item.name}' cannot have @{name}({argument})")

    def _member(self) -> Member:
        name = self._name("a member")
        member = Member(name.text, name.where, self._take_doc())
        member.optional = self._accept("?")
        self._expect(":")
        member.type = self._type()
        if self._accept("="):
            member.default = self._name("a default value").text
        self._attributes(member)
        return member

    def _members(self) -> list[Member]:
        members = []
        while self._peek().text != "}" and not self._at_branch():
            members.append(self._member())
        return members

    def _at_branch(self) -> bool:
        """At `case NAME`, which a member called `case` is not."""
        return self._peek().text == "case" and self._tokens[self._at + 1].kind == "name"

    def _branch(self) -> Branch:
        name = self._name("a branch")
        branch = Branch(name.text, name.where, self._take_doc())
        self._expect(":")
        branch.type = self._type()
        self._attributes(branch)
        return branch

    # Definitions

    def _struct(self, name: _Token, doc: list[str]) -> Struct:
        struct = Struct(name.text, name.where, doc, module=self._module)
        if self._accept(":"):
            struct.base = self._name("a base").text
        self._attributes(struct)
        self._expect("{")
        struct.members = self._members()
        self._expect("}")
        return struct

    def _enum(self, name: _Token, doc: list[str]) -> Enum:
        enum = Enum(name.text, name.where, doc, module=self._module)
        self._attributes(enum)
        self._expect("{")
        while not self._accept("}"):
            token = self._name("a value")
            value = EnumValue(token.text, token.where, self._take_doc())
            self._attributes(value)
            enum.values.append(value)
        return enum

    def _union(self, name: _Token, doc: list[str]) -> Union:
        union = Union(name.text, name.where, doc, module=self._module)
        if self._accept(":"):
            union.base = self._name("a base").text
        self._expect("on")
        union.discriminator = self._name("a discriminator").text
        self._attributes(union)
        self._expect("{")
        union.members = self._members()
        while self._accept("case"):
            union.branches.append(self._branch())
        self._expect("}")
        return union

    def _alternate(self, name: _Token, doc: list[str]) -> Alternate:
        alternate = Alternate(name.text, name.where, doc, module=self._module)
        self._attributes(alternate)
        self._expect("{")
        while self._peek().text != "}":
            alternate.branches.append(self._branch())
        self._expect("}")
        return alternate

    def _call(self, item: Command | Event) -> Command | Event:
        if self._accept(":"):
            item.args_type = self._name("a type").text
        if isinstance(item, Command) and self._accept("->"):
            item.result = self._type()
        item.programs = self._module.programs
        self._attributes(item)
        if self._peek().text == "{":
            brace = self._next()
            if item.args_type is not None:
                raise SchemaError(brace.where, f"'{item.name}' has both a type and members")
            item.members = self._members()
            self._expect("}")
        return item

    def _programs(self) -> tuple[str, ...]:
        programs = []
        while True:
            program = self._name("a program")
            if program.text not in PROGRAMS:
                raise SchemaError(program.where, f"there is no program '{program.text}'")
            programs.append(program.text)
            if not self._accept(","):
                return tuple(programs)

    def parse(self) -> Module:
        while self._peek().kind != "end":
            keyword = self._name("a definition")
            if keyword.text in ("include", "programs"):
                if doc := self._take_doc():
                    self._module.doc = doc
                if keyword.text == "include":
                    included = self._name("a module")
                    self._module.includes.append((included.text, included.where))
                else:
                    self._module.programs = self._programs()
                continue
            doc = self._take_doc()
            name = self._name("a name")
            match keyword.text:
                case "struct":
                    definition = self._struct(name, doc)
                case "enum":
                    definition = self._enum(name, doc)
                case "union":
                    definition = self._union(name, doc)
                case "alternate":
                    definition = self._alternate(name, doc)
                case "command":
                    definition = self._call(Command(name.text, name.where, doc, module=self._module))
                case "event":
                    definition = self._call(Event(name.text, name.where, doc, module=self._module))
                case other:
                    raise SchemaError(keyword.where, f"'{other}' starts no definition")
            self._module.definitions.append(definition)
        if self._doc:
            raise SchemaError(self._peek().where, "this description describes nothing")
        return self._module


def parse_text(text: str, file: str, name: str) -> Module:
    return _Parser(text, file, name).parse()


def parse_file(path: Path) -> Module:
    return parse_text(path.read_text(encoding="utf-8"), path.name, path.stem)
