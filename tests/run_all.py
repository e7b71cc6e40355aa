#!/usr/bin/env python3
"""What `./dev test` runs after the build: every check of this project, each to its end, and a count of them all.

    run_all.py [--build DIR] [--only PART ...] [-- PYTEST ARGS]

Parts: lint, units (GoogleTest programs and comparisons with the installed QEMU, by ctest), suite (iotests/), fuzz (each
target for the seconds that fuzz/CMakeLists.txt gives it, or for --fuzz-seconds). A part that fails does not stop the
others. What failed is named again at the end; the last line is `N passed, N failed, N skipped`; the exit status is 1 when
anything failed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("lint", "units", "suite", "fuzz")


class Tally:
    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self.findings: list[str] = []

    def add(self, passed: int, failed: int, skipped: int = 0, findings: list[str] | None = None) -> None:
        self.findings += findings or []
        self.passed += passed
        self.failed += failed
        self.skipped += skipped


def run(command: list[str], **options) -> tuple[int, str]:
    """Runs a command, shows its output as it comes, and returns its status and that output."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", stdin=subprocess.DEVNULL, **options)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    return process.wait(), "".join(lines)


def lint(tally: Tally, _options: argparse.Namespace) -> None:
    status, output = run([sys.executable, "-B", "tests/lint/lint.py"])
    checks = len(re.findall(r"^lint: ", output, re.MULTILINE))
    failed = len(re.findall(r"^lint: .* findings$", output, re.MULTILINE)) or int(status != 0)
    findings = re.findall(r"^lint: .* findings$", output, re.MULTILINE) or ["lint: ended without a summary"]
    tally.add(checks - failed, failed, 0, findings if failed else None)


def units(tally: Tally, options: argparse.Namespace) -> None:
    # ctest shows nothing of programs that pass; its log has all.
    log = options.build / "Testing/Temporary/LastTest.log"
    log.unlink(missing_ok=True)
    status, output = run(["ctest", "--test-dir", str(options.build), "--output-on-failure", "-j", "2", "--no-tests=error"])
    for line in re.findall(r"^(?:power cuts|order of writes): .*", log.read_text(errors="replace") if log.exists() else "", re.MULTILINE):
        print(f"units: {line}", flush=True)
    summary = re.search(r"(\d+) tests failed out of (\d+)", output)
    skipped = len(re.findall(r"\*\*\*Skipped", output))
    if summary is None:
        tally.add(0, 1, 0, ["units: ctest ended without a summary"])
        return
    failed, total = int(summary[1]), int(summary[2])
    findings = re.findall(r"^\[  FAILED  \] (?:\S+\.\S+)$|^\s*\d+ - .* \((?:Failed|Timeout|SEGFAULT|Subprocess.*)\)$", output, re.MULTILINE)
    tally.add(total - failed - skipped, max(failed, int(status != 0)), skipped, [f"units: {line.strip()}" for line in findings])


def suite(tally: Tally, options: argparse.Namespace) -> None:
    status, output = run(["iotests/check", "--server", f"blockbed:{options.build / 'blockbed'}", *options.pytest])
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|xfailed|errors?)\b", output.splitlines()[-1] if output else "")}
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    findings = re.findall(r"^(?:FAILED|ERROR) \S+.*$", output, re.MULTILINE)
    tally.add(counts.get("passed", 0) + counts.get("xfailed", 0), max(failed, int(status != 0)), counts.get("skipped", 0),
              [f"suite: {line}" for line in findings])


def fuzz(tally: Tally, options: argparse.Namespace) -> None:
    targets = re.findall(r"^blockbed_fuzzer\((\w+) (\d+)", (ROOT / "fuzz/CMakeLists.txt").read_text(), re.MULTILINE)
    for target, listed in targets:
        seconds = str(options.fuzz_seconds or listed)
        print(f"fuzz: {target} for {seconds} s", flush=True)
        status, output = run(["./dev", "fuzz", target, seconds])
        executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
        print(f"fuzz: {target}: {'ok' if status == 0 else 'FAILED'}, {executions[1] if executions else '?'} executions")
        reason = re.search(r"assertion failed: .*|^SUMMARY: .*", output, re.MULTILINE)
        tally.add(int(status == 0), int(status != 0), 0,
                  None if status == 0 else [f"fuzz: {target}: {reason[0] if reason else f'exit status {status}'}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/sanitize")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--fuzz-seconds", type=int, help="for each target, whatever its own time is")
    parser.add_argument("pytest", nargs="*", help="arguments for iotests/check")
    options, rest = parser.parse_known_args()
    options.pytest += rest
    options.build = options.build.resolve()
    tally = Tally()
    for part in options.only:
        begin = time.monotonic()
        print(f"\n==== {part}", flush=True)
        globals()[part](tally, options)
        print(f"==== {part}: {time.monotonic() - begin:.0f} s", flush=True)
    print("", *tally.findings, sep="\n")
    print(f"\n{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
