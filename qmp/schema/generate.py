#!/usr/bin/env python3
"""Turns qmp/schema/*.schema into C++ types, the reference and the typed Python client.

    generate.py --cpp DIR     write the C++ sources into DIR/schema
    generate.py --outputs     print the names of those sources, one a line, relative to DIR
    generate.py --write       rewrite the outputs that are committed: the reference and the Python client
    generate.py --check       fail when those outputs are not what the schema says now

A file whose text would be the same is left alone, so that nothing is compiled again for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generator import checker, cpp_codec, cpp_tables, cpp_types, introspection, parser, python_client, reference  # noqa: E402
from generator.cpp import Layout  # noqa: E402
from generator.model import Schema, SchemaError  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# The order in which query-qmp-schema reports what the modules define.
MODULES = (
    "common", "sockets", "run_state", "crypto", "block_base", "block", "block_info", "block_graph", "block_job",
    "blockdev_remote", "blockdev_options", "blockdev_create", "block_event", "block_core", "job", "block_export", "char",
    "input", "authz", "migration", "transaction", "control", "introspect", "qom", "device", "machine", "yank", "misc",
)


def load() -> Schema:
    unlisted = {path.stem for path in HERE.glob("*.schema")} - set(MODULES)
    if unlisted:
        raise SystemExit(f"generate.py: MODULES does not list {', '.join(sorted(unlisted))}")
    return checker.check([parser.parse_file(HERE / f"{name}.schema") for name in MODULES])


def cpp_outputs(schema: Schema) -> dict[str, str]:
    layout = Layout(schema)
    headers = cpp_types.HeaderWriter(schema, layout)
    bodies = cpp_codec.BodyWriter(schema, layout)
    outputs: dict[str, str] = {}
    for module in schema.modules:
        outputs[f"schema/{module.name}.h"] = headers.header(module)
        if module.definitions:
            outputs[f"schema/{module.name}.cpp"] = bodies.body(module)
    outputs["schema/commands.cpp"] = cpp_tables.commands_table(schema)
    outputs["schema/arguments.cpp"] = cpp_tables.arguments_table(schema)
    outputs["schema/introspection.cpp"] = introspection.tables(schema)
    return outputs


def committed_outputs(schema: Schema) -> dict[Path, str]:
    return {
        ROOT / "docs/qmp-reference.md": reference.document(schema),
        ROOT / "iotests/blockbed_iotests/qmp_types.py": python_client.module(schema),
    }


def check(outputs: dict[Path, str]) -> int:
    stale = [path for path, text in outputs.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale: run qmp/schema/generate.py --write", file=sys.stderr)
    return 1 if stale else 0


def write(path: Path, text: str) -> bool:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return True


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = arguments.add_mutually_exclusive_group(required=True)
    action.add_argument("--cpp", type=Path, metavar="DIR")
    action.add_argument("--outputs", action="store_true")
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    chosen = arguments.parse_args()
    try:
        schema = load()
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.outputs:
        print("\n".join(cpp_outputs(schema)))
    elif chosen.cpp:
        for name, text in cpp_outputs(schema).items():
            write(chosen.cpp / name, text)
    elif chosen.write:
        for path, text in committed_outputs(schema).items():
            write(path, text)
    elif chosen.check:
        return check(committed_outputs(schema))
    return 0


if __name__ == "__main__":
    sys.exit(main())
