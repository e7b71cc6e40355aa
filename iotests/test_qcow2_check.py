"""`blockbed check` beside `qemu-img check`, on every image of hostile_qcow2.py and on pairs of its faults.

What is compared: status, report, the lines of the faults; after a repair what `qemu-img check` says of both results, and
what a guest reads from them. Where QEMU is not followed, DIFFERS says why; docs/conformance.md has the same list.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blockbed_iotests import QmpError, find_program, hostile_qcow2

BYTES_OF_MEMORY = 3 << 30
SECONDS = 20
# Of a disk, looked at as a whole.
BLOCK = 4096

# QEMU reads bitmaps while it opens an image, and refuses it when a table cannot be right.
BITMAPS_REFUSED = "an image whose bitmap table is wrong is checked, not refused"
# It writes bitmaps again when it closes an image that it repaired.
BITMAPS_REWRITTEN = "a repair leaves bitmaps where they are"
SNAPSHOTS_LOST = "a repair does not lose snapshots (QEMU writes a header that says there are none)"
SECOND_REPAIR = "one repair is enough where QEMU marks the image corrupt half way"
NO_OVERLAP = "a table that lies in the place of another is not written to, but for flags where a snapshot has its L1 table; the rest is repaired"
GROWS_FAR = "the file is not grown to a refcount block that is far behind its end"
NO_MEMORY = "an L1 table at an offset that overflows is a fault, not a lack of memory"
TABLE_OF_OTHERS = "entries are not repaired in a table that lies in the place of data"
REPAIRED_AT_ONCE = "leaks that the repair made itself are given back by it"
BITMAP_EXTRA = "extra data of bitmaps is kept; only more of it than the directory has is refused, as a broken directory"
SNAPSHOT_DROPPED = "an entry with which the snapshot table is too big is dropped (QEMU keeps it, and gives up)"
ONE_BIT = "a refcount block that two entries name is not repaired in place (QEMU clears there what the other entry counts)"
LEAKS_KEPT = "what leaked keeps its bytes where references are wrong: they may be meant (QEMU discards it)"

DIFFERS = {
    "bitmap-entry-high-bits": BITMAPS_REFUSED, "bitmap-entry-offset-and-ones": BITMAPS_REFUSED,
    "bitmap-entry-reserved": BITMAPS_REFUSED, "bitmap-entry-unaligned": BITMAPS_REFUSED,
    "bitmap-extra-data-huge": BITMAP_EXTRA,
    "bitmap-table-is-data": BITMAPS_REFUSED, "bitmap-table-larger": BITMAPS_REFUSED,
    "bitmap-table-is-also-l2": BITMAPS_REFUSED, "bitmap-table-is-also-data": BITMAPS_REFUSED,
    "bitmap-table-is-also-compressed": BITMAPS_REFUSED, "bitmap-table-is-also-bitmap-data": BITMAPS_REFUSED,
    "bitmap-table-is-also-refcount-block": BITMAPS_REFUSED, "bitmap-table-overflow": BITMAPS_REFUSED,
    "bitmap-directory-is-also-compressed": BITMAP_EXTRA, "snapshot-l1-overflow": NO_MEMORY,
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
    "snapshot-l1-is-also-l1": NO_OVERLAP, "snapshot-l1-is-also-l2": NO_OVERLAP, "snapshot-l1-is-also-shared-l2": NO_OVERLAP,
    "snapshot-table-is-also-refcount-block": NO_OVERLAP, "snapshot-table-is-also-l1": NO_OVERLAP,
    "snapshot-table-is-also-l2": NO_OVERLAP, "snapshot-table-is-also-shared-l2": NO_OVERLAP,
    "snapshot-table-is-also-data": SNAPSHOT_DROPPED, "snapshot-table-is-also-compressed": SNAPSHOT_DROPPED,
    "snapshot-table-is-also-shared-data": SNAPSHOT_DROPPED, "snapshot-table-is-also-snapshot-data": SNAPSHOT_DROPPED,
    "snapshot-table-is-also-snapshot-l1": LEAKS_KEPT, "snapshot-longest-id": LEAKS_KEPT, "snapshot-longest-name": LEAKS_KEPT,
    "refcount-table-is-also-l2": GROWS_FAR, "refcount-table-is-also-snapshot-table": GROWS_FAR,
    "header-refcount-most": SECOND_REPAIR, "header-l1-size-largest": NO_OVERLAP, "extension-bitmaps-empty": SNAPSHOTS_LOST,
    "unaligned-block-again-twice-v3-c1024-w64": SECOND_REPAIR, "unaligned-block-again-a-dozen-times-v3-c1024-w64": SECOND_REPAIR,
    "block-again-one-bit-twice-v3-c512-w1": ONE_BIT, "block-again-one-bit-three-times-v3-c512-w1": ONE_BIT,
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
        self.environment = dict(os.environ)
        if Path(command[0]).is_file() and b"__asan_init" in Path(command[0]).read_bytes():
            self.environment["ASAN_OPTIONS"] = f"hard_rss_limit_mb={BYTES_OF_MEMORY >> 20}"
        else:
            self.command = ["prlimit", f"--as={BYTES_OF_MEMORY}", *command]

    def run(self, *arguments: str, cwd: Path) -> tuple[int, str, list[str]]:
        result = subprocess.run(
            [*self.command, *arguments], cwd=cwd, capture_output=True, text=True, errors="replace", timeout=SECONDS,
            env=self.environment,
        )  # fmt: skip
        assert result.returncode >= 0, f"{self.name} died: {result}"
        # This line of QEMU has no end.
        errors = result.stderr.replace("on the image file to fix.", "on the image file to fix.\n")
        return result.returncode, result.stdout, [*filter(None, errors.replace(f"{self.name}: ", "").splitlines())]


QEMU = Tool(["qemu-img", "check"], "qemu-img")


@pytest.fixture(scope="module")
def blockbed(request):
    programs = [program for program in request.config.programs if program.kind == "blockbed"]
    program = programs[0] if programs else find_program("blockbed")
    return Tool([program.system[0], "check"], "blockbed")


def write_with_holes(path: Path, data: bytes) -> None:
    """Blocks of zeroes take no room: a check need not read them."""
    with open(path, "wb") as file:
        for at in range(0, len(data), BLOCK):
            if data.count(0, at, at + BLOCK) < min(BLOCK, len(data) - at):
                file.seek(at)
                file.write(data[at : at + BLOCK])
        file.truncate(len(data))


class Totals:
    """What qemu-img says of an image."""

    def __init__(self, path: Path):
        self.said = QEMU.run("-f", "qcow2", "--output=json", path.name, cwd=path.parent)
        # Nothing when it cannot check it.
        self.counts = json.loads(self.said[1]) | {"filename": ""} if self.said[1] else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Totals) and self.counts == other.counts

    @property
    def leaks(self) -> int:
        return self.counts.get("leaks", 0) if self.counts else 0

    @property
    def corruptions(self) -> int | None:
        return self.counts.get("corruptions", 0) if self.counts else None


def guest_data(path: Path) -> list | None:
    """What a guest reads: its length, and what is not zero. Nothing when it cannot read all of it."""
    raw = path.with_suffix(".raw")
    result = subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path.name, raw.name], cwd=path.parent, capture_output=True,
        timeout=SECONDS,
    )  # fmt: skip
    try:
        return list(contents(raw)) if result.returncode == 0 else None
    finally:
        raw.unlink(missing_ok=True)


def contents(path: Path) -> Iterator:
    with open(path, "rb") as file:
        yield (end := file.seek(0, os.SEEK_END))
        at = 0
        while at < end:
            try:
                at = file.seek(at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                return
            if block := file.read(BLOCK).rstrip(b"\0"):
                yield at, block
            at += BLOCK


@pytest.fixture(scope="module")
def place():
    """A directory with the data file that some images name. A repair waits for the disk, if there is one."""
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="bb-", dir=in_memory if os.access(in_memory, os.W_OK) else None) as name:
        directory = Path(name)
        (directory / "data").write_bytes(b"d" * (8 << 20))
        yield directory


def compare_repairs(blockbed: Tool, path: Path, mode: str) -> None:
    """What people are told ends with the report of a check."""
    said, copies = [], []
    for tool in (QEMU, blockbed):
        copies.append(path.with_name(tool.name))
        write_with_holes(copies[-1], path.read_bytes())
        status, output, errors = tool.run("-f", "qcow2", "-r", mode, copies[-1].name, cwd=path.parent)
        said.append((status, output, [line.replace(f"'{tool.name}'", "'image'") for line in errors]))
    assert said[1] == said[0]
    theirs, ours = copies
    if theirs.read_bytes() != ours.read_bytes():
        assert Totals(ours) == Totals(theirs)
        assert guest_data(ours) == guest_data(theirs)
    if ours.read_bytes() != path.read_bytes() and (data := guest_data(path)) is not None:
        assert guest_data(ours) == data, "a repair changed what a guest reads"


def ends_as_told(blockbed: Tool, path: Path, mode: str) -> int:
    status, _, _ = blockbed.run("-f", "qcow2", "-r", mode, path.name, cwd=path.parent)
    assert status != 0 or Totals(path).said[0] == 0
    return status


def repairs_well(blockbed: Tool, path: Path, mode: str) -> None:
    """Where QEMU is no measure: nothing gets worse, and a second repair finds nothing more to do."""
    before, data = Totals(path).corruptions, guest_data(path)
    copy = path.with_name("image")
    copy.write_bytes(path.read_bytes())
    status = ends_as_told(blockbed, copy, mode)
    after = Totals(copy).corruptions
    if before is not None and after is not None:
        assert after <= before
    if data is not None:
        assert guest_data(copy) == data
    if status != 1:
        again, output, _ = blockbed.run("-f", "qcow2", "-r", mode, "--output=json", copy.name, cwd=path.parent)
        assert again == status and "fixed" not in output, output


def is_judged(names: str) -> bool:
    """Where tables lie in each other's place, or come into the file as it grows, making one right changes another."""
    return not any(word in names for word in ("is-also", "-at-", "largest", "cut-", "of-the-disk", "longer", "too-long", "far-"))


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.name) for rule in hostile_qcow2.RULES])
def test_rule(rule, blockbed, place):
    path = place / "broken"
    path.write_bytes(rule.make().bytes())
    found = Totals(path)
    here = blockbed.run("-f", "qcow2", "--output=json", path.name, cwd=place)
    if reason(rule) is None:
        assert here == found.said
    write_with_holes(path, rule.make().bytes())
    assert blockbed.run("-f", "qcow2", "--output=json", path.name, cwd=place) == here
    for mode in repairs_of(rule, found):
        if reason(rule, repaired=True) is None:
            compare_repairs(blockbed, path, mode)
        elif is_judged(rule.name):
            repairs_well(blockbed, path, mode)
        else:
            ends_as_told(blockbed, path, mode)


def repairs_of(rule: hostile_qcow2.Rule, found: Totals) -> list[str]:
    if found.leaks:
        return ["leaks", "all"]
    # What is clean stays so, and may lose its marks.
    is_clean = found.said[0] == 0 and not rule.name.startswith(("whole", "corrupt", "dirty"))
    return [] if is_clean else ["all"]


def equal_pairs(count: int, seed: int):
    return [
        pytest.param(first, second, id=f"{first.name}+{second.name}")
        for first, second in hostile_qcow2.pairs(count, seed)
        if reason(first) is None and reason(second) is None
    ]


@pytest.mark.parametrize("first, second", equal_pairs(40, 1))
def test_pairs(first, second, blockbed, place):
    path = place / "broken"
    path.write_bytes(hostile_qcow2.make_pair(first, second).bytes())
    assert blockbed.run("-f", "qcow2", "--output=json", path.name, cwd=place) == Totals(path).said
    if is_judged(f"{first.name} {second.name}"):
        repairs_well(blockbed, path, "all")


@pytest.mark.slow("many pairs")
@pytest.mark.parametrize("first, second", equal_pairs(1000, 2))
def test_many_pairs(first, second, blockbed, place):
    test_pairs(first, second, blockbed, place)


# ---------------------------------------------------------------------- long snapshot tables


def test_snapshots_at_the_end_of_a_long_table(blockbed, place):
    """One is too much: it goes, and the others stay where they are."""
    i = hostile_qcow2.Layout(hostile_qcow2.Geometry(cluster_bits=14))
    table = 1025 * replace(i.snapshots[0], l1_size=0, name=bytes(65464)).encode()
    at = i.offset(i.allocate(-(-len(table) // i.cluster_size)))
    i.data[at : at + len(table)] = table
    i.write_counts()
    i.set_header("snapshots", 1025)
    i.set_header("snapshots_offset", at)
    write_with_holes(path := place / "broken", i.bytes())
    compare_repairs(blockbed, path, "all")


# ---------------------------------------------------------------------- tables in holes


def l2_tables_in_holes(path: Path, tables: int) -> int:
    """An image of a few megabytes that names, and counts, so many tables of 2 MiB behind its data. The end of them."""
    i = hostile_qcow2.Layout(hostile_qcow2.Geometry(cluster_bits=21, refcount_order=6, snapshot=False))
    write_entries(i, i.offset(i.l1) + 24, [i.offset(i.end + n) | hostile_qcow2.COPIED for n in range(tables)])
    i.set_header("l1_size", 3 + tables)
    return write_counted(path, i, tables)


def blocks_in_holes(path: Path, tables: int) -> int:
    """The same with refcount blocks, all of which count clusters of the file."""
    i = hostile_qcow2.Layout(hostile_qcow2.Geometry(cluster_bits=21, refcount_order=6, snapshot=False))
    write_entries(i, i.offset(i.refcount_table) + 8, [i.offset(i.end + n) for n in range(tables)])
    end = write_counted(path, i, tables)
    try:
        os.truncate(path, i.offset((1 + tables) * i.refcounts_in_block))
    except OSError as error:
        assert error.errno == errno.EFBIG
        pytest.skip("files of this file system cannot be so long")
    return end


def write_entries(i: hostile_qcow2.Layout, at: int, entries: list[int]) -> None:
    i.data[at : at + 8 * len(entries)] = struct.pack(f">{len(entries)}Q", *entries)


def write_counted(path: Path, i: hostile_qcow2.Layout, tables: int) -> int:
    write_entries(i, i.offset(i.refcount_block) + 8 * i.end, [1] * tables)
    write_with_holes(path, i.bytes())
    os.truncate(path, end := i.offset(i.end + tables))
    return end


@pytest.mark.parametrize("make", [l2_tables_in_holes, blocks_in_holes])
def test_tables_in_holes(make, blockbed, place):
    """As many as QEMU reads in a moment, and as many as take it minutes."""
    path = place / "holes"
    try:
        make(path, 64)
        said = blockbed.run("-f", "qcow2", "--output=json", path.name, cwd=place)
        assert said == Totals(path).said
        end = make(path, 1 << 17)
        status, output, errors = blockbed.run("-f", "qcow2", "--output=json", path.name, cwd=place)
    finally:
        path.unlink(missing_ok=True)
    assert (status, errors) == (0, [])
    assert json.loads(output) == json.loads(said[1]) | {"image-end-offset": end}


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize("options", [
    "leak", "file=leak", "leak,driver=qcow2", "driver=qcow2", "filename=leak", "driver=foo,file.filename=leak", "foo=bar", "", "size=5",
    "file.filename=leak", "file.filename=nofile", "driver=null-co,size=1M", "driver=raw,size=foo,file.filename=leak", *(f"driver=qcow2,file.filename=leak,{option}" for option in (
        "lazy-refcounts=foo", "lazy-refcounts=on", "overlap-check=foo", "overlap-check=all", "overlap-check.template=foo",
        "overlap-check.main-header=foo", "l2-cache-size=foo", "l2-cache-size=1M", "l2-cache-entry-size=7", "cache-clean-interval=foo", "foo=bar",
        "file.foo=bar", "file.locking=foo", "read-only=foo", "cache.direct=foo", "discard=foo", "encrypt.format=luks", "data-file.filename=leak",
    )),
])  # fmt: skip
def test_options_of_the_image(options, blockbed, place):
    (place / "leak").write_bytes(hostile_qcow2.by_name("leak").make().bytes())
    assert blockbed.run("--image-opts", options, cwd=place) == QEMU.run("--image-opts", options, cwd=place)


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


@pytest.mark.parametrize("name", ["data.raw", "missing", "directory", "data:file", ""])
def test_data_file(name, blockbed, place):
    """It is opened, and not looked at."""
    (place / "directory").mkdir(exist_ok=True)
    (place / "other").write_bytes(bytes(1 << 20))
    tools = [["qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "image", "1M"], ["qemu-img", "amend", "-o", f"data_file={name}", "image"]]
    for command in tools:
        subprocess.run(command, cwd=place, check=True)
    defined = "driver=qcow2,file.filename=image"
    for arguments in (["image"], ["-r", "all", "image"], ["-q", "--output=json", "image"], ["-U", "image"], ["--image-opts", defined],
                      *(["--image-opts", f"{defined},data-file{file}"] for file in (".filename=other", ".filename=nofile", "=node"))):
        assert blockbed.run(*arguments, cwd=place) == QEMU.run(*arguments, cwd=place), arguments


@pytest.mark.parametrize("method", [1, 2])
def test_encrypted_images(method, blockbed, place):
    image = hostile_qcow2.Layout(hostile_qcow2.Geometry(snapshot=False))
    image.set_header("crypt", method)
    (place / "image").write_bytes(image.bytes())
    defined = "driver=qcow2,file.filename=image,encrypt.format="
    for arguments in (["image"], ["-r", "all", "image"], *(["--image-opts", defined + of] for of in ("aes", "luks"))):
        assert blockbed.run(*arguments, cwd=place) == QEMU.run(*arguments, cwd=place), arguments


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


@pytest.mark.parametrize("size", [0, 1, 511, 513, 1000, 4095, 4097, 8191])
@pytest.mark.parametrize("cluster_size", [512, 4096])
def test_sizes_that_are_not_whole_sectors(cluster_size, size, blockbed, place):
    image = hostile_qcow2.Layout(hostile_qcow2.Geometry(cluster_bits=cluster_size.bit_length() - 1))
    image.set_header("size", size)
    (place / "image").write_bytes(image.bytes())
    for output in ("human", "json"):
        arguments = [f"--output={output}", "image"]
        assert blockbed.run(*arguments, cwd=place) == QEMU.run(*arguments, cwd=place)


# Of a rule: a fault's class, its place, and who refers there. With clusters of 4096 bytes the active tables are at 0x3000
# (L1), 0x4000 and 0x5000 (L2), a snapshot's at 0x10000 and 0x11000, refcounts at 0x1000 and 0x2000.
ACTIVE, EXTENDED = "active L2 table at 0x4000, entry", "v3-c16384-w16-extended"
DATA_FILE, BITMAP = "v3-c4096-w16-no-snapshot-data-file", "v3-c4096-w16-no-snapshot-bitmap"
EXPLAINED = [
    ("leak", "leak", 0x14000, []),
    ("uncounted-header", "uncounted", 0, ["the header's own cluster"]),
    ("uncounted-data", "uncounted", 0x7000, [f"{ACTIVE} 1 (guest offset 0x1000)"]),
    ("uncounted-shared-l2", "uncounted", 0x5000, ["active L1 table, entry 1", "snapshot's L1 table at 0x10000, entry 1"]),
    ("uncounted-refcount-block", "uncounted", 0x2000, ["refcount table, entry 0"]),
    ("uncounted-snapshot-data", "uncounted", 0x13000, ["snapshot's L2 table at 0x11000, entry 0 (guest offset 0x0)"]),
    (f"uncounted-bitmap-directory-{BITMAP}", "uncounted", 0x10000, ["header extension: bitmap directory"]),
    ("data-is-also-snapshot-table", "count-too-low", 0x12000, [f"{ACTIVE} 20 (guest offset 0x14000)", "header: snapshot table"]),
    ("block-again-one-bit-twice-v3-c512-w1", "count-overflow", 0x400, ["refcount table, entry 0", "refcount table, entry 1"]),
    ("uncounted-l2", "copied-flag", 0x4000, ["active L1 table, entry 0"]),
    ("uncounted-data", "copied-flag", 0x7000, [f"{ACTIVE} 1 (guest offset 0x1000)"]),
    ("l2-entry-behind-the-end", "copied-flag", 0x19000, [f"{ACTIVE} 30 (guest offset 0x1e000)"]),
    (f"external-lacks-copied-{DATA_FILE}", "copied-flag", 0x4010, ["active L1 table, entry 0"]),
    ("compressed-has-copied", "copied-compressed", 0x4040, ["active L1 table, entry 0"]),
    ("l1-entry-reserved-low", "reserved-bits", 0x3010, ["header: active L1 table"]),
    ("l2-entry-reserved-low", "reserved-bits", 0x40F0, ["active L1 table, entry 0"]),
    ("snapshot-l1-entry-reserved-low", "reserved-bits", 0x10010, ["snapshot table, entry 0: L1 table"]),
    ("l1-entry-unaligned", "unaligned", 0x4200, ["active L1 table, entry 0", "active L1 table, entry 2"]),
    ("l2-entry-unaligned", "unaligned", 0x4200, ["active L1 table, entry 0", f"{ACTIVE} 30 (guest offset 0x1e000)"]),
    ("snapshot-l1-unaligned", "unaligned", 0x10200, ["snapshot table, entry 0: L1 table"]),
    ("first-block-unaligned", "unaligned", 0x2200, ["refcount table, entry 0"]),
    (f"external-unaligned-{DATA_FILE}", "unaligned", 0x4010, ["active L1 table, entry 0"]),
    ("l1-at-behind-the-end", "outside-file", 0x16000, ["header: active L1 table"]),
    ("l1-entry-behind-the-end", "outside-file", 0x19000, ["active L1 table, entry 2"]),
    ("l2-entry-behind-the-end", "outside-file", 0x19000, [f"{ACTIVE} 30 (guest offset 0x1e000)"]),
    ("compressed-behind-the-end", "outside-file", 0x16000, [f"{ACTIVE} 9 (guest offset 0x9000)"]),
    ("header-l1-size-largest", "outside-file", 0x3000, ["header: active L1 table"]),
    ("snapshot-table-at-behind-the-end", "outside-file", 0x15000, ["header: snapshot table"]),
    ("snapshot-l1-behind-the-end", "outside-file", 0x18000, ["snapshot table, entry 0: L1 table"]),
    ("snapshot-l1-entry-behind-the-end", "outside-file", 0x19000, ["snapshot's L1 table at 0x10000, entry 2"]),
    ("snapshot-l2-entry-behind-the-end", "outside-file", 0x19000, ["snapshot's L2 table at 0x11000, entry 30 (guest offset 0x1e000)"]),
    (f"bitmap-table-behind-the-end-{BITMAP}", "outside-file", 0x17000, ["bitmap directory, entry 0: table"]),
    (f"bitmap-entry-behind-the-end-{BITMAP}", "outside-file", 0x17000, ["bitmap table at 0x11000, entry 0"]),
    ("refcount-table-at-behind-the-end", "outside-file", 0x16000, ["header: refcount table"]),
    ("first-block-behind-the-end", "outside-file", 0x1E000, ["refcount table, entry 0"]),
    ("second-block-far-behind-the-end", "outside-file", 1 << 40, ["refcount table, entry 1"]),
    ("refcount-block-is-also-data", "refcount-block", 0x7000, [f"{ACTIVE} 1 (guest offset 0x1000)", "refcount table, entry 1"]),
    (f"subclusters-allocated-nowhere-{EXTENDED}", "subclusters", 0x10000, ["active L1 table, entry 0"]),
    (f"subclusters-zero-and-allocated-{EXTENDED}", "subclusters", 0x18000, ["active L2 table at 0x10000, entry 0 (guest offset 0x0)"]),
    (f"compressed-and-external-{DATA_FILE}", "external-data", 0x4048, ["active L1 table, entry 0"]),
    ("whole-external-v3-c4096-w16-data-file", "external-data", 0x8000, ["header: snapshot table"]),
    ("snapshot-l1-too-large", "snapshot-table", 0x12000, ["header: snapshot table"]),
    ("snapshot-table-at-behind-the-end", "snapshot-table", 0x15000, ["header: snapshot table"]),
    ("first-block-unaligned", "unreadable-count", 0x3000, ["header: active L1 table"]),
]  # fmt: skip


@pytest.mark.parametrize("name, fault, offset, referrers", EXPLAINED, ids=[f"{row[1]}-{row[0]}" for row in EXPLAINED])
def test_explained_class(name, fault, offset, referrers, blockbed, place):
    """Of several faults of one class in one cluster the first says who refers to it."""
    image = hostile_qcow2.by_name(name).make().bytes()
    (place / "image").write_bytes(image)
    _, output, _ = blockbed.run("-f", "qcow2", "--explain", "--output=json", "image", cwd=place)
    cluster = 1 << int.from_bytes(image[20:24], "big")
    faults = [each for each in json.loads(output)["faults"] if each["class"] == fault]
    found = [each["referred-to-by"] for each in faults if each["offset"] // cluster == offset // cluster]
    assert any(each["offset"] == offset for each in faults)
    assert found[0] == referrers and not any(found[1:]), faults[:8]


def test_what_is_explained_is_bounded(blockbed, place):
    """Each of its four thousand faults is of one place, to which a thousand entries refer."""
    (place / "image").write_bytes(hostile_qcow2.by_name("header-l1-size-largest").make().bytes())
    _, output, _ = blockbed.run("-f", "qcow2", "--explain", "--output=json", "image", cwd=place)
    assert len(json.loads(output)["faults"]) == 4096
    assert len(output) < 4 << 20


def test_every_class_is_explained():
    listed = (Path(__file__).parents[1] / "docs/check.md").read_text().split("Classes: ")[1].split(".")[0]
    assert {row[1] for row in EXPLAINED} == {name.strip("` \n") for name in listed.split(",")}


def too_long_snapshot_table() -> bytes:
    """Each name as long as it may be: the last five entries lie behind the 64 MiB that a table may take."""
    image = hostile_qcow2.Layout(hostile_qcow2.LARGE)
    table = b"".join(replace(image.snapshots[0], id=b"%d" % n, name=b"n" * 65400).encode() for n in range(1030))
    first = image.allocate(-(-len(table) // image.cluster_size))
    image.data[image.offset(first) : image.offset(first) + len(table)] = table
    image.set_header("snapshots", 1030)
    image.set_header("snapshots_offset", image.offset(first))
    return image.bytes()


@pytest.mark.parametrize("make", [
    pytest.param(too_long_snapshot_table, id="too long"),
    *(pytest.param(lambda rule=rule: rule.make().bytes(), id=rule.name) for rule in hostile_qcow2.RULES
      if rule.name.startswith(("snapshot-", "header-snapshots")) and not rule.geometry.bitmap),
])  # fmt: skip
def test_snapshot_tables_that_cannot_be_opened(make, blockbed, place):
    """What people are told: why, and what they can do about it."""
    path = place / "broken"
    write_with_holes(path, make())
    ours = Tool([blockbed.command[-2], "map"], "blockbed")
    assert ours.run("-f", "qcow2", path.name, cwd=place) == Tool(["qemu-img", "map"], "qemu-img").run(
        "-f", "qcow2", path.name, cwd=place)  # fmt: skip


def test_leaked_space_is_given_back(blockbed, place):
    image = hostile_qcow2.Layout(hostile_qcow2.LARGE)
    for cluster in range(first := image.allocate(16), first + 16):
        image.set_refcount(cluster, 1)
        image.fill(cluster, 0x55)
    blocks = []
    for tool in (QEMU, blockbed):
        path = place / "leaked"
        path.write_bytes(image.bytes())
        before = path.stat().st_blocks
        assert tool.run("-f", "qcow2", "-r", "leaks", path.name, cwd=place)[0] == 0
        blocks.append(before - path.stat().st_blocks)
    assert blocks[0] >= 16 * image.cluster_size // 512
    assert blocks[1] == blocks[0]


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


# What the server may have needed at its peak, AddressSanitizer's share included.
SERVER_BYTES = 1 << 30
# A bitmap that is stored behind the end of the file has no bits: QEMU takes them for zeroes, here the image is refused.
REFUSED = {"bitmap-entry-behind-the-end", "bitmap-table-behind-the-end"}
# Longer disks are not read as a whole.
BYTES_TO_READ = 64 << 20


def peak_bytes(server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) << 10


def served_data(server, image) -> list | None:
    """What a guest of the server reads, as `contents` has it. Nothing when it cannot read all of it."""
    from test_qcow2_hostile import open_options

    if isinstance(server.try_execute("blockdev-add", open_options(image, **{"read-only": True})), QmpError):
        return None
    size = server.query_node("n")["image"]["virtual-size"]
    server.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "name": "e"})
    found: list = [size]
    try:
        with server.nbd("e") as nbd:
            for at in range(0, min(size, BYTES_TO_READ), step := 1 << 20):
                piece = nbd.pread(min(step, size - at), at)
                blocks = ((offset, piece[offset : offset + BLOCK].rstrip(b"\0")) for offset in range(0, len(piece), BLOCK))
                found += ((at + offset, block) for offset, block in blocks if block)
        return found
    except OSError:
        return None
    finally:
        server.block_export_del(id="e", mode="hard")
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": "e"})
        server.blockdev_del(node_name="n")


def describe(found: list | None) -> str:
    return "an error" if found is None else f"{found[0]} bytes with {len(found) - 1} blocks of data"


@pytest.mark.limit(240)
@pytest.mark.manners("daemon")
@pytest.mark.differs("QEMU aborts", server="qemu", sometimes=True)
@pytest.mark.parametrize("rules", GROUPS, ids=[f"{group[0].name}..." for group in GROUPS])
def test_served(rules, start, images):
    """Opened, read, written, zeroed and trimmed: the right data or an error, an answer to everything, and a server that lives."""
    from test_qcow2_hostile import exercise

    server = start()
    server.nbd_start()
    (images.dir / "data").write_bytes(b"d" * (8 << 20))
    wrong = []
    for rule in rules:
        image = images.at("image.qcow2", "qcow2")
        image.path.write_bytes(rule.make().bytes())
        here, expected = served_data(server, image), guest_data(image.path)
        if here is None and server.kind == "blockbed" and rule.name.removesuffix(f"-{rule.geometry}") in REFUSED:
            expected = None
        if here != expected and (here is None or expected is None or here[0] <= BYTES_TO_READ):
            wrong.append(f"{rule.name}: {describe(here)}, not {describe(expected)}")
        exercise(server, image)
        image.path.unlink()
    assert not wrong, "\n".join(wrong)
    assert peak_bytes(server) < SERVER_BYTES


# Of the server too: nothing that a change asks for takes longer.
SECONDS_TO_CHANGE = 15
CHANGED = [rule for rule in hostile_qcow2.RULES if rule.geometry in (
    hostile_qcow2.STANDARD, hostile_qcow2.EXTENDED, hostile_qcow2.SMALL, hostile_qcow2.BITMAP) and not rule.refused]  # fmt: skip
CHANGED_GROUPS = [CHANGED[start : start + 40] for start in range(0, len(CHANGED), 40)]


def change(server, image) -> None:
    """What is not a guest's request, each of which may be refused. The disk is never shorter than it was."""
    from test_qcow2_hostile import open_options

    if isinstance(server.try_execute("blockdev-add", open_options(image)), QmpError):
        return

    def done(command: str, **arguments) -> bool:
        result = server.try_execute(command, arguments)
        assert not isinstance(result, QmpError) or result.desc
        return not isinstance(result, QmpError)

    def node() -> dict | None:
        # QEMU tells of none when it has given up one, whose image turned out to be corrupt.
        nodes = server.try_execute("query-named-block-nodes")
        return None if isinstance(nodes, QmpError) else next(each for each in nodes if each["node-name"] == "n")

    def length() -> int | None:
        return found["image"]["virtual-size"] if (found := node()) else None

    size = length()
    for wanted in (size + (1 << 20), size, size + 512, size):
        before = length()
        resized = done("block_resize", **{"node-name": "n", "size": wanted})
        assert length() in (wanted if resized else before, None)
    if done("blockdev-snapshot-internal-sync", device="n", name="new"):
        done("blockdev-snapshot-delete-internal-sync", device="n", name="new")
    if done("block-dirty-bitmap-add", node="n", name="new", persistent=True):
        assert "new" in {bitmap["name"] for bitmap in node()["dirty-bitmaps"]}
    for read_only in (True, False):
        done("blockdev-reopen", options=[open_options(image, **{"read-only": read_only})])
    server.blockdev_del(node_name="n")


@pytest.mark.limit(240)
@pytest.mark.manners("daemon")
@pytest.mark.differs("QEMU aborts", server="qemu", sometimes=True)
@pytest.mark.parametrize("rules", CHANGED_GROUPS, ids=[f"{group[0].name}..." for group in CHANGED_GROUPS])
def test_changed(rules, start, images):
    """Resized, snapshots made and deleted, bitmaps stored, opened again: done or an error, in time, and by a server that
    lives. An image without faults, leaks apart, stays one and its data is what it was."""
    server = start()
    server.qmp.timeout = SECONDS_TO_CHANGE
    (images.dir / "data").write_bytes(b"d" * (8 << 20))
    wrong = []
    for rule in rules:
        image = images.at("image.qcow2", "qcow2")
        image.path.write_bytes(rule.make().bytes())
        before = Totals(image.path)
        is_whole = before.corruptions == 0 and before.counts["check-errors"] == 0
        data = guest_data(image.path) if is_whole else None
        change(server, image)
        if is_whole and (after := Totals(image.path)).corruptions != 0:
            wrong.append(f"{rule.name}: {after.said}")
        if data is not None and ((after := guest_data(image.path)) is None or after[1:] != data[1:]):
            wrong.append(f"{rule.name}: other data")
        image.path.unlink()
    assert not wrong, "\n".join(wrong)
    assert peak_bytes(server) < SERVER_BYTES
