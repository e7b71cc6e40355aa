#!/usr/bin/env python3
"""What `./dev lint` checks: include arrows, generated files that are committed, formatting, and words.

Each check prints its findings as `file:line: text`; the exit status is 1 when there are any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# Which rooms a room may include, besides itself: the arrows of docs/architecture.md, which point down only.
GROUND = {"qmp/schema", "schema"}
BLOCK_LOW = GROUND | {"block/runtime"}
BLOCK = BLOCK_LOW | {"block/graph"}
ARROWS: dict[str, set[str]] = {
    "qmp/schema": GROUND,
    "block/runtime": GROUND,
    "block/sim": BLOCK_LOW,
    "block/graph": BLOCK_LOW,
    "block/protocols": BLOCK,
    "block/formats": BLOCK,
    "block/filters": BLOCK,
    "block/jobs": BLOCK | {"block/filters", "block/formats", "block/protocols"},
    "block/exports": BLOCK | {"block/filters", "block/formats", "block/protocols"},
    "qmp/monitor": BLOCK_LOW,
    "qmp/commands": BLOCK | {"block/filters", "block/formats", "block/protocols", "block/jobs", "block/exports", "qmp/monitor"},
}
ARROWS["qmp/machine"] = ARROWS["qmp/commands"] | {"qmp/commands"}
ARROWS["qmp/server"] = ARROWS["qmp/machine"] | {"qmp/machine"}

# Engine code reaches the world through Env: these headers belong to its production form alone.
WORLD = re.compile(
    r'#include <(thread|mutex|condition_variable|chrono|random|fstream|filesystem|future|'
    r'unistd\.h|fcntl\.h|sys/(?!uio\.h|types\.h)[a-z_/]+\.h|pthread\.h|poll\.h|time\.h|ctime|liburing\.h|boost/.*)>'
)
INCLUDE = re.compile(r'^\s*#include "([^"]+)"')
HEAVY_IN_HEADERS = re.compile(r"#include <(boost/.*|nlohmann/.*|regex|iostream)>")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, check=True, capture_output=True)
    return [Path(name) for name in listed.stdout.decode().split("\0") if name]


def room_of(path: str) -> str | None:
    parts = path.split("/")
    if parts[0] == "schema":
        return "schema"
    return "/".join(parts[:2]) if parts[0] in ("block", "qmp") and len(parts) > 2 else None


def check_arrows() -> list[str]:
    findings = []
    for path in tracked("block/*.h", "block/*.cpp", "qmp/*.h", "qmp/*.cpp"):
        room = room_of(str(path))
        if room is None or room not in ARROWS:
            findings.append(f"{path}:1: this folder is no room of the architecture")
            continue
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            if match := INCLUDE.match(line):
                target = room_of(match[1])
                if target is None:
                    findings.append(f"{path}:{number}: includes are written from the top of the tree: {match[1]}")
                elif target != room and target not in ARROWS[room]:
                    findings.append(f"{path}:{number}: {room} may not include {target}")
            engine = room.startswith("block/") and room != "block/runtime"
            if engine and WORLD.search(line):
                findings.append(f"{path}:{number}: the engine reaches the world through Env only: {line.strip()}")
            if path.suffix == ".h" and HEAVY_IN_HEADERS.search(line):
                findings.append(f"{path}:{number}: heavy headers stay out of headers: {line.strip()}")
    return findings


def check_generated() -> list[str]:
    checked = subprocess.run(
        [sys.executable, "-B", "qmp/schema/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    return [] if checked.returncode == 0 else [(checked.stdout + checked.stderr).strip()]


def check_format() -> list[str]:
    findings = []
    files = [str(path) for path in tracked("*.h", "*.cpp")]
    for start in range(0, len(files), 40):
        run = subprocess.run(
            ["clang-format-19", "--dry-run", "-Werror", *files[start : start + 40]], cwd=ROOT, capture_output=True, text=True
        )
        findings += [line for line in run.stderr.splitlines() if ": error:" in line]
    return findings


def check_python() -> list[str]:
    findings = []
    for path in tracked("*.py"):
        try:
            compile((ROOT / path).read_text(), str(path), "exec")
        except SyntaxError as error:
            findings.append(f"{path}:{error.lineno}: {error.msg}")
    return findings


def main() -> int:
    failed = False
    for name, check in (
        ("include arrows", check_arrows),
        ("generated files", check_generated),
        ("formatting", check_format),
        ("python", check_python),
    ):
        findings = check()
        print(f"lint: {name}: {'ok' if not findings else f'{len(findings)} findings'}")
        for finding in findings[:200]:
            print("  " + finding)
        failed |= bool(findings)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
