"""`blockbed check` beside `qemu-img check`, on every image of hostile_qcow2.py and on pairs of its faults.

What is compared: status, report, the lines of the faults; after a repair what `qemu-img check` says of both results, and
what a guest reads from them. Where QEMU is not followed, DIFFERS says why; docs/conformance.md has the same list.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from blockbed_iotests import find_program, hostile_qcow2

BYTES_OF_MEMORY = 3 << 30
SECONDS = 20

# QEMU reads bitmaps while it opens an image, and refuses it when a table cannot be right.
BITMAPS_REFUSED = "an image whose bitmap table is wrong is checked, not refused"
# It writes bitmaps again when it closes an image that it repaired.
BITMAPS_REWRITTEN = "a repair leaves bitmaps where they are"
SNAPSHOTS_LOST = "a repair does not lose snapshots (QEMU writes a header that says there are none)"
SECOND_REPAIR = "one repair is enough where QEMU marks the image corrupt half way"
NO_OVERLAP = "a table that lies in the place of another is not written to, the rest is repaired"
GROWS_FAR = "the file is not grown to a refcount block that is far behind its end"
NO_MEMORY = "an L1 table at an offset that overflows is a fault, not a lack of memory"
TABLE_OF_OTHERS = "entries are not repaired in a table that lies in the place of data"
REPAIRED_AT_ONCE = "leaks that the repair made itself are given back by it"

DIFFERS = {
    "bitmap-entry-high-bits": BITMAPS_REFUSED, "bitmap-entry-offset-and-ones": BITMAPS_REFUSED,
    "bitmap-entry-reserved": BITMAPS_REFUSED, "bitmap-entry-unaligned": BITMAPS_REFUSED,
    "bitmap-extra-data-huge": BITMAPS_REFUSED, "bitmap-flags-reserved": BITMAPS_REFUSED, "bitmap-name-empty": BITMAPS_REFUSED,
    "bitmap-table-is-data": BITMAPS_REFUSED, "bitmap-table-larger": BITMAPS_REFUSED,
    "bitmap-table-much-larger": BITMAPS_REFUSED, "bitmaps-without-their-bit": "a warning ends with its line",
    "snapshot-l1-overflow": NO_MEMORY,
}  # fmt: skip

DIFFERS_WHEN_REPAIRED = {
    "whole-with-everything": SNAPSHOTS_LOST, "header-autoclear-unknown": SNAPSHOTS_LOST,
    "first-block-reserved-bits": SECOND_REPAIR, "first-block-unaligned": SECOND_REPAIR, "l1-much-longer": NO_OVERLAP,
    "l2-is-also-l1": NO_OVERLAP, "snapshot-l1-of-the-disk": NO_OVERLAP, "snapshot-table-at-l1": NO_OVERLAP,
    "refcount-table-too-long": SECOND_REPAIR, "refcount-table-too-long-v3-c512-w16": SECOND_REPAIR,
    "snapshot-count-all-bits": SECOND_REPAIR, "snapshot-count-most": SECOND_REPAIR, "snapshot-count-one-more": SECOND_REPAIR,
    "first-block-far-behind-the-end": GROWS_FAR, "second-block-far-behind-the-end": GROWS_FAR,
    "second-block-far-behind-the-end-v3-c512-w16": GROWS_FAR, "last-block-far-behind-the-end": GROWS_FAR,
    "cut-before-l1": REPAIRED_AT_ONCE, "cut-in-data": REPAIRED_AT_ONCE, "cut-in-l2": REPAIRED_AT_ONCE,
    "cut-header-only": SECOND_REPAIR, "cut-in-header": SECOND_REPAIR, "snapshot-table-at-far": REPAIRED_AT_ONCE,
    "snapshot-table-at-behind-the-end": REPAIRED_AT_ONCE, "l2-is-also-compressed": TABLE_OF_OTHERS,
    "snapshot-l2-is-also-compressed": TABLE_OF_OTHERS, "data-is-also-l2": TABLE_OF_OTHERS,
}  # fmt: skip


def reason(rule: hostile_qcow2.Rule, repaired: bool = False) -> str | None:
    name = rule.name.removesuffix(f"-{rule.geometry}")
    for table in (DIFFERS, DIFFERS_WHEN_REPAIRED) if repaired else (DIFFERS,):
        if (found := table.get(rule.name) or table.get(name)) and (rule.name in table or rule.geometry in (
            hostile_qcow2.STANDARD, hostile_qcow2.BITMAP, hostile_qcow2.BOTH)):
            return found
    return BITMAPS_REWRITTEN if repaired and rule.geometry.bitmap else None


class Tool:
    """A program whose memory is bounded. AddressSanitizer reserves terabytes of addresses and bounds what is resident."""

    def __init__(self, command: list[str], name: str):
        self.command, self.name = command, name
        sanitized = Path(command[0]).is_file() and b"__asan_init" in Path(command[0]).read_bytes()
        self.environment = dict(os.environ)
        self.bound = None if sanitized else self._bound_addresses
        if sanitized:
            self.environment["ASAN_OPTIONS"] = f"hard_rss_limit_mb={BYTES_OF_MEMORY >> 20}"

    @staticmethod
    def _bound_addresses() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (BYTES_OF_MEMORY, BYTES_OF_MEMORY))

    def run(self, *arguments: str, cwd: Path) -> tuple[int, str, list[str]]:
        result = subprocess.run(
            [*self.command, *arguments], cwd=cwd, capture_output=True, text=True, errors="replace", timeout=SECONDS,
            preexec_fn=self.bound, env=self.environment,
        )  # fmt: skip
        assert result.returncode >= 0, f"{self.name} died: {result}"
        return result.returncode, result.stdout, result.stderr.replace(f"{self.name}: ", "").splitlines()


QEMU = Tool(["qemu-img", "check"], "qemu-img")


@pytest.fixture(scope="module")
def blockbed(request):
    programs = [program for program in request.config.programs if program.kind == "blockbed"]
    program = programs[0] if programs else find_program("blockbed")
    return Tool([program.system[0], "check"], "blockbed")


def totals(path: Path) -> dict | None:
    """What qemu-img says of an image; nothing when it cannot check it."""
    _, output, _ = QEMU.run("-f", "qcow2", "--output=json", path.name, cwd=path.parent)
    return json.loads(output) | {"filename": ""} if output else None


def guest_data(path: Path) -> bytes | None:
    """What a guest reads, or nothing when it cannot read all of it."""
    raw = path.with_suffix(".raw")
    result = subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw)], capture_output=True, timeout=SECONDS
    )
    try:
        return raw.read_bytes() if result.returncode == 0 else None
    finally:
        raw.unlink(missing_ok=True)


@pytest.fixture
def place(workdir):
    """A directory with the data file that some images name."""
    (workdir / "data").write_bytes(b"d" * (8 << 20))
    return workdir


def compare_checks(blockbed: Tool, path: Path) -> None:
    for output in ("human", "json"):
        arguments = ("-f", "qcow2", f"--output={output}", path.name)
        assert blockbed.run(*arguments, cwd=path.parent) == QEMU.run(*arguments, cwd=path.parent)


def compare_repairs(blockbed: Tool, path: Path, mode: str) -> None:
    data = guest_data(path)
    results = []
    for tool in (QEMU, blockbed):
        copy = path.with_name("image")
        copy.write_bytes(path.read_bytes())
        said = tool.run("-f", "qcow2", "-r", mode, copy.name, cwd=path.parent)
        results.append((said, totals(copy), guest_data(copy)))
        if data is not None and tool is blockbed:
            assert results[-1][2] == data, "a repair changed what a guest reads"
    assert results[1] == results[0]


def repairs_well(blockbed: Tool, path: Path, mode: str) -> None:
    """Where QEMU is no measure: nothing gets worse, and a second repair finds nothing more to do."""
    before, data = totals(path), guest_data(path)
    copy = path.with_name("image")
    copy.write_bytes(path.read_bytes())
    status, _, _ = blockbed.run("-f", "qcow2", "-r", mode, copy.name, cwd=path.parent)
    after = totals(copy)
    if before and after:
        assert after.get("corruptions", 0) <= before.get("corruptions", 0)
    if data is not None:
        assert guest_data(copy) == data
    if status != 1:
        again, output, _ = blockbed.run("-f", "qcow2", "-r", mode, "--output=json", copy.name, cwd=path.parent)
        assert again == status and "fixed" not in output, output


def is_judged(names: str) -> bool:
    """Where tables lie in each other's place, or come into the file as it grows, making one right changes another."""
    return not any(word in names for word in ("is-also", "-at-", "largest", "cut-", "of-the-disk", "longer", "too-long", "far-"))


RULES = [pytest.param(rule, id=rule.name) for rule in hostile_qcow2.RULES]


@pytest.mark.parametrize("rule", RULES)
def test_check(rule, blockbed, place):
    path = place / "broken"
    path.write_bytes(rule.make().bytes())
    if reason(rule) is None:
        compare_checks(blockbed, path)
    else:
        blockbed.run("-f", "qcow2", path.name, cwd=place)


@pytest.mark.parametrize("mode", ["leaks", "all"])
@pytest.mark.parametrize("rule", RULES)
def test_repair(rule, mode, blockbed, place):
    path = place / "broken"
    path.write_bytes(rule.make().bytes())
    if reason(rule, repaired=True) is None:
        compare_repairs(blockbed, path, mode)
    elif is_judged(rule.name):
        repairs_well(blockbed, path, mode)
    else:
        blockbed.run("-f", "qcow2", "-r", mode, path.name, cwd=place)


def equal_pairs(count: int, seed: int):
    return [
        pytest.param(first, second, id=f"{first.name}+{second.name}")
        for first, second in hostile_qcow2.pairs(count, seed)
        if reason(first) is None and reason(second) is None
    ]


@pytest.mark.parametrize("first, second", equal_pairs(120, 1))
def test_pairs(first, second, blockbed, place):
    path = place / "broken"
    path.write_bytes(hostile_qcow2.make_pair(first, second).bytes())
    compare_checks(blockbed, path)
    if is_judged(f"{first.name} {second.name}"):
        repairs_well(blockbed, path, "all")


@pytest.mark.slow("many pairs")
@pytest.mark.parametrize("first, second", equal_pairs(1000, 2))
def test_many_pairs(first, second, blockbed, place):
    test_pairs(first, second, blockbed, place)


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize("arguments", [
    [], ["a", "b"], ["/nonexist"], ["-f", "foo", "leak"], ["-r", "x", "leak"], ["--output=x", "leak"], ["-T", "x", "leak"],
    ["-z", "leak"], ["--image-opts", "driver=qcow2,file.filename=leak"], ["--image-opts", "-f", "qcow2", "driver=qcow2"],
    ["--image-opts", "--output=json", "driver=qcow2,file.driver=file,file.filename=leak"], ["--zzz"], ["-r"], ["-q", "leak"],
    ["-q", "--output=json", "leak"], ["leak"], ["-U", "leak"], ["-f", "raw", "leak"], ["-f", "raw", "-r", "all", "leak"],
    ["-Uq", "--", "leak"], ["leak", "-fqcow2"], ["--format=qcow2", "--output", "json", "leak"],
    ['json:{"driver": "qcow2", "file": {"driver": "file", "filename": "leak"}}'], ["empty"], ["-f", "qcow2", "empty"],
])  # fmt: skip
def test_command_line(arguments, blockbed, place):
    (place / "leak").write_bytes(hostile_qcow2.by_name("leak").make().bytes())
    (place / "empty").write_bytes(b"")
    status, output, errors = blockbed.run(*arguments, cwd=place)
    errors = [line.replace("blockbed --help", "qemu-img --help") for line in errors]
    assert (status, output, errors) == QEMU.run(*arguments, cwd=place)


def test_explain(blockbed, place):
    image = hostile_qcow2.by_name("same-data-twice").make()
    (place / "image").write_bytes(image.bytes())
    status, output, _ = blockbed.run("--explain", "--output=json", "image", cwd=place)
    assert status == 2
    faults = {(fault["class"], fault.get("offset")): fault for fault in json.loads(output)["faults"]}
    twice = faults["count-too-low", image.offset(image.inside_data[1])]
    assert twice["referred-to-by"] == [
        f"active L2 table at {image.offset(image.l2[0]):#x}, entry 0 (guest offset 0x0)",
        f"active L2 table at {image.offset(image.l2[0]):#x}, entry 1 (guest offset 0x1000)",
    ]
    assert faults["leak", image.offset(image.inside_data[0])]["referred-to-by"] == []
    _, human, _ = blockbed.run("--explain", "image", cwd=place)
    assert "    referred to by nothing\n" in human


def test_an_image_in_use_is_not_repaired(blockbed, place):
    path = place / "leak"
    path.write_bytes(hostile_qcow2.by_name("leak").make().bytes())
    holder = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        holder.stdin.write("read 0 512\n")
        holder.stdin.flush()
        holder.stdout.readline()
        status, _, errors = blockbed.run("-r", "all", "leak", cwd=place)
        assert status == 1 and 'Failed to get "write" lock' in errors[0]
        assert blockbed.run("-U", "leak", cwd=place)[0] == 3
    finally:
        holder.communicate("quit\n", timeout=SECONDS)


# ---------------------------------------------------------------------- in the server

GROUPS = [hostile_qcow2.RULES[start : start + 40] for start in range(0, len(hostile_qcow2.RULES), 40)]


@pytest.mark.limit(240)
@pytest.mark.differs("QEMU aborts", server="qemu", sometimes=True)
@pytest.mark.parametrize("rules", GROUPS, ids=[f"{group[0].name}..." for group in GROUPS])
def test_served(rules, start, images):
    """Opened, read, written, zeroed and trimmed: an answer to everything, and a server that lives."""
    from test_qcow2_hostile import exercise

    server = start()
    server.nbd_start()
    (images.dir / "data").write_bytes(b"d" * (8 << 20))
    for rule in rules:
        image = images.at("image.qcow2", "qcow2")
        image.path.write_bytes(rule.make().bytes())
        exercise(server, image)
        image.path.unlink()
