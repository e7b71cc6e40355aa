#!/usr/bin/env python3
"""Lays Blockbed's query-qmp-schema beside that of the installed QEMU, for both programs.

Every command and event that Blockbed's schema has is walked in both replies: types are compared by what they are, not
by the numbers that stand for them. The order of the common commands and events must be QEMU's too. What differs on
purpose is listed below with its reason; an entry that nothing needs any more is an error, as is any other difference.

    compare_introspection.py DRIVER

Exit status 77 (skipped) when QEMU is not installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

# Where a difference is, as the walk names it, and why it is there.
OBJECTS = "objects that only concern a guest's CPU, network or display have nothing to stand on in Blockbed"
INTENDED = {
    "object-add/arg/qom-type/value": OBJECTS,
    "object-add/arg/variant": OBJECTS,
    "block-dirty-bitmap-populate": "an extension",
    "blockdev-add/arg/variant/qcow2": "`discard-no-unref` is of 8.1",
    "blockdev-add/arg/variant/snapshot-access": "`internal-snapshot` is an extension",
    "daemon/order": "the storage daemon has `transaction` last; clients look entities up by name",
}
# Values of enumerations and members of structs that QEMU has, for what is Blockbed's own.
EXTENSIONS = {"bitmap-populate", "x-guest-device"}


def ask_qemu(argv: list[str]) -> list[dict]:
    script = '{"execute": "qmp_capabilities"}\n{"execute": "query-qmp-schema"}\n{"execute": "quit"}\n'
    done = subprocess.run(argv, input=script, capture_output=True, text=True, timeout=60, check=True)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    return next(r["return"] for r in replies if isinstance(r.get("return"), list))


class Comparison:
    def __init__(self, program: str, ours: list[dict], theirs: list[dict]):
        self.program = program
        self.ours = {e["name"]: e for e in ours}
        self.theirs = {e["name"]: e for e in theirs}
        self.differences: list[tuple[str, str]] = []
        self.seen: set[tuple[str, str]] = set()

    def differ(self, where: str, text: str) -> None:
        self.differences.append((where, text))

    def same(self, where: str, what: str, ours: dict, theirs: dict, key: str) -> None:
        if ours.get(key) != theirs.get(key):
            self.differ(f"{where}/{what}", f"ours {ours.get(key)!r}, QEMU's {theirs.get(key)!r}")

    def names(self, where: str, ours: list[str], theirs: list[str]) -> list[str]:
        ours = [name for name in ours if name in theirs or name not in EXTENSIONS]
        for name in ours:
            if name not in theirs:
                self.differ(where, f"only ours: {name}")
        for name in theirs:
            if name not in ours:
                self.differ(where, f"only QEMU's: {name}")
        common = [name for name in ours if name in theirs]
        if common != [name for name in theirs if name in ours]:
            self.differ(f"{where}/order", f"ours {ours}, QEMU's {theirs}")
        return common

    def entities(self) -> None:
        kinds = ("command", "event")
        ours = [e["name"] for e in self.ours.values() if e["meta-type"] in kinds]
        theirs = [e["name"] for e in self.theirs.values() if e["meta-type"] in kinds]
        for name in ours:
            if name not in theirs:
                self.differ(name, "QEMU has no such command or event")
        common = [name for name in ours if name in theirs]
        if common != [name for name in theirs if name in ours]:
            self.differ(f"{self.program}/order", "the commands and events are in another order")
        for name in common:
            mine, real = self.ours[name], self.theirs[name]
            self.same(name, "kind", mine, real, "meta-type")
            self.same(name, "oob", mine, real, "allow-oob")
            self.same(name, "features", mine, real, "features")
            self.types(f"{name}/arg", mine["arg-type"], real["arg-type"])
            if mine["meta-type"] == "command":
                self.types(f"{name}/return", mine["ret-type"], real["ret-type"])

    def types(self, where: str, mine: str, real: str) -> None:
        if (mine, real) in self.seen:
            return
        self.seen.add((mine, real))
        ours, theirs = self.ours[mine], self.theirs[real]
        if set(ours) != set(theirs):
            self.differ(f"{where}/keys", f"ours {sorted(ours)}, QEMU's {sorted(theirs)}")
            return
        self.same(where, "kind", ours, theirs, "meta-type")
        self.same(where, "features", ours, theirs, "features")
        if ours["meta-type"] != theirs["meta-type"]:
            return
        match ours["meta-type"]:
            case "builtin":
                self.same(where, "name", ours, theirs, "name")
                self.same(where, "json", ours, theirs, "json-type")
            case "array":
                self.types(f"{where}/item", ours["element-type"], theirs["element-type"])
            case "enum":
                self.members(f"{where}/value", ours["members"], theirs["members"])
                self.names(f"{where}/value", ours["values"], theirs["values"])
            case "alternate":
                if len(ours["members"]) != len(theirs["members"]):
                    self.differ(where, "another number of alternatives")
                for one, other in zip(ours["members"], theirs["members"]):
                    self.types(f"{where}/alternative", one["type"], other["type"])
            case "object":
                self.members(where, ours["members"], theirs["members"])
                self.same(where, "tag", ours, theirs, "tag")
                self.variants(where, ours.get("variants", []), theirs.get("variants", []))

    def members(self, where: str, ours: list[dict], theirs: list[dict]) -> None:
        mine = {m["name"]: m for m in ours}
        real = {m["name"]: m for m in theirs}
        for name in self.names(where, list(mine), list(real)):
            for key in ("features", "default"):
                self.same(f"{where}/{name}", key, mine[name], real[name], key)
            if ("default" in mine[name]) != ("default" in real[name]):
                self.differ(f"{where}/{name}", "optional in one of them only")
            if "type" in mine[name]:
                self.types(f"{where}/{name}", mine[name]["type"], real[name]["type"])

    def variants(self, where: str, ours: list[dict], theirs: list[dict]) -> None:
        mine = {v["case"]: v["type"] for v in ours}
        real = {v["case"]: v["type"] for v in theirs}
        for name in self.names(f"{where}/variant", list(mine), list(real)):
            self.types(f"{where}/variant/{name}", mine[name], real[name])


def main() -> int:
    driver = sys.argv[1]
    programs = {
        "system": ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"],
        "daemon": ["qemu-storage-daemon", "--chardev", "stdio,id=c", "--monitor", "chardev=c"],
    }
    if any(shutil.which(argv[0]) is None for argv in programs.values()):
        print("QEMU is not installed")
        return 77
    failures = 0
    needed: set[str] = set()
    for program, argv in programs.items():
        ours = json.loads(subprocess.run([driver, "introspect", program], capture_output=True, text=True,
                                         check=True).stdout)
        comparison = Comparison(program, ours, ask_qemu(argv))
        comparison.entities()
        intended = [d for d in comparison.differences if d[0] in INTENDED]
        needed |= {where for where, _ in intended}
        for where, text in comparison.differences:
            if where not in INTENDED:
                print(f"{program}: {where}: {text}")
                failures += 1
        common = sum(1 for name in comparison.ours if name in comparison.theirs and not name[0] in "0123456789[")
        print(f"{program}: {common} names, {len(comparison.seen)} pairs of types alike, "
              f"{len(intended)} intended differences")
    for where in sorted(set(INTENDED) - needed):
        print(f"{where} is listed as a difference and is none")
        failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
