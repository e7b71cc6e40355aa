#!/usr/bin/env python3
"""Tests of qmp/schema/generate.py: what it makes of a small schema, and what it says to a wrong one."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "qmp/schema"))

import generate  # noqa: E402
from generator import checker, cpp_codec, cpp_types, naming, parser, python_client, reference  # noqa: E402
from generator.cpp import Layout  # noqa: E402
from generator.model import SchemaError, Union  # noqa: E402

SMALL = """
/// A family.
programs system, daemon

// Not a description.
/// Kinds of things.
enum Kind @since(7.2) {
  /// A plain one.
  plain
  /// An old one.
  2nd-hand @feature(deprecated: "Buy new.")
}

/// What things share.
struct Base {
  /// Its name.
  name: str
}

/// A thing.
union Thing : Base on kind {
  /// Its kind.
  kind: Kind
  case 2nd-hand: Price
}

/// What it cost.
struct Price {
  /// Cents.
  cents?: uint32 = 5
  /// A thing given in return.
  swap?: ThingOrName
}

/// A thing or its name.
alternate ThingOrName {
  /// The thing.
  thing: Thing
  /// Its name.
  name: str
}

/// Sells things.
command sell-things -> [Thing] @oob @only(daemon) @extension {
  /// The things.
  things: [Thing]
  /// A word that C++ has, too.
  default?: bool = false
  case?: Kind = plain
}

/// A thing was sold.
event THING_SOLD : Price
"""


def load(text: str, name: str = "small"):
    return checker.check([parser.parse_text(text, f"{name}.schema", name)])


class Reading(unittest.TestCase):
    def test_descriptions_belong_to_what_follows(self):
        text = SMALL.replace("  case?: Kind", "  /// How.\n  case?: Kind")
        schema = load(text)
        self.assertEqual(schema.modules[0].doc, ["A family."])
        self.assertEqual(schema.types["Kind"].doc_text, "Kinds of things.")
        sell = schema.commands()[0]
        self.assertEqual([m.name for m in sell.members], ["things", "default", "case"])
        self.assertEqual(sell.members[2].doc_text, "How.")
        self.assertTrue(sell.oob and sell.extension)
        self.assertEqual(sell.programs, ("daemon",))

    def test_bases_come_first(self):
        thing = load(SMALL.replace("  case?: Kind", "  /// How.\n  case?: Kind")).types["Thing"]
        self.assertIsInstance(thing, Union)
        self.assertEqual([m.name for m in thing.all_members], ["name", "kind"])


class Faults(unittest.TestCase):
    """Each with the line where it is."""

    CASES = [
        ("struct lower { a: str }", "1: the type 'lower' should be CamelCase"),
        ("///d\nstruct A { a: str }", "2: 'a' has no description"),
        ("struct A { }", "1: 'A' has no description"),
        ("///d\nstruct A {\n///d\na: Nix }", "4: 'a' has the type 'Nix', which is not defined"),
        ("///d\nstruct A {\n///d\na: str\n///d\na: str }", "6: 'A' has 'a' at x.schema:4 already"),
        ("///d\nstruct A {\n///d\na-b: str\n///d\na_b: str }", "6: 'a_b' and 'a-b' are both a_b in C++"),
        ("///d\nstruct A : A { }", "2: 'A' is its own base"),
        ("///d\nstruct A : B { }", "2: 'B' is no struct, so it cannot be the base of 'A'"),
        ("///d\nstruct A { }\n///d\nstruct A { }", "4: 'A' is defined at x.schema:2 already"),
        ("///d\nstruct A {\n///d\na: bool = true }", "4: 'a' has a default but is not optional"),
        ("///d\nstruct A {\n///d\na?: bool = 5 }", "4: '5' is no value of 'bool'"),
        ("///d\nenum E { a b }\n///d\nstruct A {\n///d\na?: E = c }", "6: 'c' is no value of 'E'"),
        ("///d\nenum E { a\n///d\nb }", "2: 'a' has no description"),
        ("///d\nunion U on t { }", "2: 'U' has no member 't' to discriminate by"),
        ("///d\nunion U on t {\n///d\nt: str }", "4: the discriminator 't' must be an enum that is always there"),
        ("///d\nenum E { a }\n///d\nstruct S { }\n///d\nunion U on t {\n///d\nt: E\ncase b: S }",
         "9: 'E' has no value 'b'"),
        ("///d\nenum E { a }\n///d\nstruct S {\n///d\nt: str }\n///d\nunion U on t {\n///d\nt: E\ncase a: S }",
         "11: 'S' and 'U' both have 't'"),
        ("///d\nenum E { a }\n///d\nalternate A {\n///d\na: str\n///d\nb: E }", "8: 'b' and 'a' are both a JSON string"),
        ("///d\nalternate A {\n///d\na: any }", "4: 'any' cannot be a branch of an alternate"),
        ("///d\ncommand Big", "2: the command 'Big' should be in lower case"),
        ("///d\nevent small", "2: the event 'small' should be in UPPER_CASE"),
        ("///d\ncommand a : str", "2: 'str' is neither struct nor union"),
        ("///d\ncommand a @since(new)", "2: 'new' is no version"),
        ("///d\ncommand a @nix(b)", "2: 'a' cannot have @nix(b)"),
        ("///d\nstruct A @oob { }", "2: 'A' cannot have @oob"),
        ("///d\ncommand a @only(client)", "2: there is no program 'client'"),
        ("programs system\n///d\ncommand a { ", "3: expected a member, found 'end of file'"),
        ("thing A", "1: 'thing' starts no definition"),
        ("///d\nstruct A $", "2: unexpected character '$'"),
        ("///d", "1: this description describes nothing"),
        ("include nix", "1: there is no module 'nix'"),
    ]

    def test_are_told_with_their_place(self):
        for text, error in self.CASES:
            with self.subTest(text), self.assertRaises(SchemaError) as caught:
                load(text, "x")
            self.assertEqual(str(caught.exception), f"x.schema:{error}", text)

    def test_modules_must_include_what_they_use(self):
        one = parser.parse_text("///d\nstruct A { }", "one.schema", "one")
        two = parser.parse_text("///d\ncommand two : A", "two.schema", "two")
        with self.assertRaises(SchemaError) as caught:
            checker.check([one, two])
        self.assertEqual(str(caught.exception), "two.schema:2: 'A' is in the module 'one', which is not included")

    def test_modules_must_not_include_each_other(self):
        one = parser.parse_text("include two", "one.schema", "one")
        two = parser.parse_text("include one", "two.schema", "two")
        with self.assertRaises(SchemaError) as caught:
            checker.check([one, two])
        self.assertEqual(str(caught.exception), "two.schema:1: modules include each other: one -> two -> one")


class Outputs(unittest.TestCase):
    def setUp(self):
        self.schema = load(SMALL.replace("  case?: Kind", "  /// How.\n  case?: Kind"))
        self.layout = Layout(self.schema)
        self.module = self.schema.modules[0]

    def test_header(self):
        header = cpp_types.HeaderWriter(self.schema, self.layout).header(self.module)
        self.assertIn("enum class Kind : uint8_t {\n  // A plain one.\n  kPlain,\n", header)
        self.assertIn("  k2ndHand,\n", header)
        self.assertIn("  uint32_t cents = 5;\n", header)
        self.assertIn("  bool default_ = false;\n", header)
        self.assertIn("  Kind case_ = Kind::kPlain;\n", header)
        self.assertIn("  std::variant<std::string, Box<Thing>> u;\n", header)
        self.assertIn("  std::variant<Nothing, Price> u;\n", header)
        self.assertIn("  using Result = std::vector<schema::Thing>;\n", header)
        self.assertIn("kFlags{.oob = true, .in_daemon = true, .extension = true}", header)
        self.assertLess(header.index("struct ThingOrName {"), header.index("struct Price {"))
        self.assertLess(header.index("struct Price {"), header.index("struct Thing {"))

    def test_body(self):
        body = cpp_codec.BodyWriter(self.schema, self.layout).body(self.module)
        self.assertIn('object.defaulted("default", out.default_)', body)
        self.assertIn('object.optional("swap", out.swap)', body)
        self.assertIn('object.required("things", out.things)', body)
        self.assertIn("    case Kind::k2ndHand:\n      return read_members(object, out.u.emplace<Price>());\n", body)
        self.assertIn("if (value.is_string()) return read(reader, value, out.u.emplace<0>());", body)

    def test_reference(self):
        document = reference.document(self.schema)
        self.assertIn("- `2nd-hand`: An old one. **deprecated**: Buy new.\n", document)
        self.assertIn("- `cents`?: uint32 = 5. Cents.\n", document)
        self.assertIn("Sells things. *(Blockbed's own)*\n", document)

    def test_python(self):
        text = python_client.module(self.schema)
        compile(text, "qmp_types.py", "exec")
        self.assertIn('Kind = Literal["plain", "2nd-hand"]', text)
        self.assertIn("    def sell_things(\n", text)

    def test_names(self):
        self.assertEqual(naming.enumerator("2_5"), "k2_5")
        self.assertEqual(naming.snake("read-only"), "read_only")
        self.assertEqual(naming.camel("BLOCK_IO_ERROR"), "BlockIoError")
        self.assertEqual(naming.camel("block_resize"), "BlockResize")


class Repository(unittest.TestCase):
    def test_committed_outputs_are_fresh(self):
        self.assertEqual(generate.check(generate.committed_outputs(generate.load())), 0)

    def test_a_stale_output_is_told(self):
        path = ROOT / "docs/qmp-reference.md"
        self.assertEqual(generate.check({path: path.read_text(encoding="utf-8") + "x"}), 1)


if __name__ == "__main__":
    unittest.main()
