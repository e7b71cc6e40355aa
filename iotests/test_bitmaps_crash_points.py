"""Every crash point of what is done with bitmaps, on real files.

A log of the writes below the format (`blklogwrites`) is replayed up to every request, and with requests lost that no flush
had made to last. Whatever the crash leaves is opened by QEMU and by the server under test. Of each bitmap it must hold:
it is believed, and was so at a moment when the disk held what it holds now; or it is in use; or it is not there. Never is
one believed that lacks a mark.
"""

import collections
import contextlib
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from blockbed_iotests import QmpError, Server, qemu_img
from blockbed_iotests.write_log import CrashPoint, count_entries, crash_points, read_log, replay

# Clusters are so small that a bitmap needs several.
CLUSTER = 512
SIZE = 4 << 20
UNIT = 512

PAGE = Path(__file__).resolve().parent.parent / "docs" / "bitmaps.md"


def digest(marks):
    bits = bytearray(SIZE // UNIT // 8)
    for bit in marks:
        bits[bit // 8] |= 1 << bit % 8
    return hashlib.sha256(bits).hexdigest()


class Step(NamedTuple):
    """What there was when it ended: requests in the log, moments of truth, bitmaps that had been removed."""

    name: str
    entries: int
    moments: int
    removed: frozenset[str]


class Life:
    """An image from one opening to its closing, in steps; and what was true of its disk and its bitmaps at each moment.

    Two bitmaps are there from the start: `b` records, `c` does not."""

    def __init__(self, server, images, name):
        self.server, self.images = server, images
        # Blockbed never loses one that it does not remove; QEMU takes them all away for a moment.
        self.keeps = server.kind == "blockbed"
        self.base = images.dir / "base.qcow2"
        self.path = images.dir / f"{name}.qcow2"
        self.path.write_bytes(self.base.read_bytes())
        self.log = images.create(f"{name}.log", "raw", 0).path
        self.content = bytearray(SIZE)
        for unit in (0, 5, 6, SIZE // UNIT - 1):
            self.content[unit * UNIT : (unit + 1) * UNIT] = b"0" * UNIT
        self.marks = {"b": {0, SIZE // UNIT - 1}, "c": {5, 6}}
        self.recording = {"b"}
        self.removed = set()
        self.steps: list[Step] = []
        self.moments = []
        self.tell()

    # ------------------------------------------------------------------ what is true

    def tell(self):
        """This is such a moment."""
        truth = {name: digest(marks) for name, marks in self.marks.items()}
        self.moments.append((hashlib.sha256(self.content).digest(), truth))

    def was_so(self, name, bitmap, content, step):
        """Whether there was such a bitmap at a moment up to the end of the step when the disk held this."""
        return any(content == then and truth.get(name) == bitmap for then, truth in self.moments[: step.moments])

    def write(self, nbd, *units, byte=b"1"):
        for unit in units:
            nbd.pwrite(byte * UNIT, unit * UNIT)
            self.content[unit * UNIT : (unit + 1) * UNIT] = byte * UNIT
            for name in self.recording:
                self.marks[name].add(unit)
            self.tell()

    @contextlib.contextmanager
    def step(self, name):
        yield
        self.tell()
        self.steps.append(Step(name, count_entries(self.log), len(self.moments), frozenset(self.removed)))

    # ------------------------------------------------------------------ steps

    def open(self):
        """The log is a node of its own: it cannot be reopened, and with the image it would have to be."""
        with self.step("open"):
            storage = {"driver": "file", "filename": str(self.path)}
            log = {"driver": "file", "filename": str(self.log)}
            self.server.execute("blockdev-add", {
                "driver": "blklogwrites", "node-name": "logged", "file": storage, "log": log, "log-super-update-interval": 1})
            self.server.blockdev_add(driver="qcow2", node_name="disk", file="logged")

    @contextlib.contextmanager
    def guest(self):
        with self.server.export("disk", writable=True) as nbd:
            yield nbd
        self.server.block_export_del(id=nbd.export_id, mode="hard")
        self.server.wait_event("BLOCK_EXPORT_DELETED", {"id": nbd.export_id})

    def guest_writes(self, *units, flush=False):
        with self.step("write"), self.guest() as nbd:
            self.write(nbd, *units)
        if flush:
            with self.step("flush"), self.guest() as nbd:
                nbd.flush()

    def transaction(self, *actions):
        self.server.transaction(actions=[
            {"type": f"block-dirty-bitmap-{verb}", "data": {"node": "disk", **data}} for verb, data in actions
        ])

    def close(self):
        with self.step("close, which stores them"):
            self.server.blockdev_del(node_name="disk")
            self.server.blockdev_del(node_name="logged")


# ---------------------------------------------------------------------- lives


def only_looked_at(life):
    life.open()
    life.close()


def written(life):
    life.open()
    life.guest_writes(10, 11, 4000, flush=True)
    life.guest_writes(12)
    life.close()


def with_a_new_bitmap(life):
    life.open()
    life.server.block_dirty_bitmap_add(node="disk", name="new", granularity=UNIT, persistent=True)
    life.marks["new"] = set()
    life.recording.add("new")
    life.tell()
    life.guest_writes(20, 5000)
    life.close()


def one_removed(life):
    life.open()
    life.guest_writes(30)
    with life.step("remove"):
        life.removed.add("b")
        life.server.block_dirty_bitmap_remove(node="disk", name="b")
    life.recording.discard("b")
    life.guest_writes(31)
    life.close()


def all_removed(life):
    life.open()
    for name in ("c", "b"):
        with life.step("remove"):
            life.removed.add(name)
            life.server.block_dirty_bitmap_remove(node="disk", name=name)
        life.recording.discard(name)
    life.guest_writes(31)
    life.close()


def cleared(life):
    life.open()
    life.guest_writes(40)
    with life.step("clear in a transaction"):
        life.transaction(("add", {"name": "tmp", "granularity": UNIT, "disabled": True}),
                         ("merge", {"target": "tmp", "bitmaps": ["b"]}), ("clear", {"name": "b"}),
                         ("merge", {"target": "c", "bitmaps": ["tmp"]}), ("remove", {"name": "tmp"}))
        life.marks["c"] |= life.marks["b"]
        life.marks["b"] = set()
    life.guest_writes(41, 6000)
    life.close()


def merged(life):
    life.open()
    life.guest_writes(50)
    with life.step("merge"):
        life.server.block_dirty_bitmap_merge(node="disk", target="b", bitmaps=["c"])
        life.marks["b"] |= life.marks["c"]
    life.guest_writes(51)
    life.close()


def switched(life):
    life.open()
    with life.step("enable, disable"):
        life.transaction(("enable", {"name": "c"}), ("disable", {"name": "b"}))
        life.recording = {"c"}
    life.guest_writes(60)
    life.close()


def backed_up(life, end="success"):
    life.open()
    life.guest_writes(70)
    server = life.server
    server.blockdev_add(driver="null-co", node_name="target", size=SIZE)
    with life.step("backup by a bitmap, and writes"), life.guest() as nbd:
        before = set(life.marks["b"])
        server.blockdev_backup(job_id="job", device="disk", target="target", sync="incremental", bitmap="b",
                               auto_finalize=False)
        life.marks["b"] = set()
        server.wait_job("job", "pending")
        life.write(nbd, 70, 71)
    with life.step("backup completion"):
        server.job_finalize(id="job") if end == "success" else server.job_cancel(id="job")
        server.finish_job("job")
        if end != "success":
            life.marks["b"] |= before
    server.blockdev_del(node_name="target")
    life.guest_writes(72)
    life.close()


def backup_cancelled(life):
    backed_up(life, "cancel")


def covered(life):
    """Bitmaps are stored as the image is left for reading."""
    life.open()
    life.guest_writes(80)
    life.server.add_image("top", life.images.create("top.qcow2", size=SIZE))
    with life.step("an overlay is put over it"):
        life.server.blockdev_snapshot(node="disk", overlay="top")
    life.server.blockdev_del(node_name="top")
    life.close()


def reopened(life):
    def reopen(read_only):
        life.server.blockdev_reopen(options=[
            {"driver": "qcow2", "node-name": "disk", "file": "logged", "read-only": read_only}])

    life.open()
    life.guest_writes(90)
    with life.step("reopened for reading"):
        reopen(True)
    with life.step("and for writing again"):
        reopen(False)
    life.guest_writes(91, flush=True)
    life.close()


LIVES = (only_looked_at, written, with_a_new_bitmap, one_removed, all_removed, cleared, merged, switched, backed_up,
         backup_cancelled, covered, reopened)


# ---------------------------------------------------------------------- judging


class Judge:
    """A server that opens what a crash has left."""

    def __init__(self, server, read_only):
        self.server, self.read_only = server, read_only
        server.nbd_start()

    def look(self, path):
        """For each bitmap its digest, or None when it is in use; and the digest of the disk when one is believed."""
        server = self.server
        server.blockdev_add(driver="qcow2", node_name="state", read_only=self.read_only, cache={"no-flush": True},
                            file={"driver": "file", "filename": str(path)})
        nodes = {node["node-name"]: node for node in server.query_named_block_nodes(flat=True)}
        bitmaps = {
            bitmap["name"]: None if bitmap.get("inconsistent")
            else server.x_debug_block_dirty_bitmap_sha256(node="state", name=bitmap["name"])["sha256"]
            for bitmap in nodes["state"].get("dirty-bitmaps", [])
        }
        content = None
        if any(bitmaps.values()):
            with server.export("state") as nbd:
                content = hashlib.sha256(nbd.read_all()).digest()
            server.block_export_del(id=nbd.export_id, mode="hard")
            server.wait_event("BLOCK_EXPORT_DELETED", {"id": nbd.export_id})
        server.blockdev_del(node_name="state")
        return bitmaps, content


class Judges:
    """QEMU, which only looks, and the server under test, which opens for writing; they must agree."""

    def __init__(self, qemu, server, path):
        self.qemu, self.server, self.path = Judge(qemu, read_only=True), Judge(server, read_only=False), path
        self.seen = {}

    def look(self, state, check):
        if state not in self.seen:
            self.path.write_bytes(state)
            if check:
                assert "corruptions" not in qemu_img("check", "--output=json", self.path, status=None)
            found = self.qemu.look(self.path)
            assert self.server.look(self.path) == found
            self.seen[state] = found
        return self.seen[state]


class Counts(collections.Counter):
    """How often a bitmap was what, after a power cut in which step."""

    OUTCOMES = ("believed", "in use", "absent")

    def table(self):
        lines = ["| power cut during | crash points | " + " | ".join(self.OUTCOMES) + " |", "|---|---|---|---|---|"]
        for step in dict.fromkeys(step for step, _ in self):
            numbers = [self[step, what] for what in ("crash points", *self.OUTCOMES)]
            lines.append(f"| {step} | " + " | ".join(map(str, numbers)) + " |")
        return "\n".join(lines)


def judge_life(life, entries, judges, counts):
    """Visits every crash point of a life."""
    base = life.base.read_bytes()
    for step in life.steps:
        counts[step.name, "crash points"] += 0
    for point in crash_points(entries):
        step = next(step for step in life.steps if point.done <= step.entries)
        where = f"{life.path.stem}, {step.name}, {point}"
        bitmaps, content = judges.look(replay(base, entries, point), check=not point.lost)
        counts[step.name, "crash points"] += 1
        for name in life.marks:
            if name not in bitmaps:
                counts[step.name, "absent"] += 1
                assert name in step.removed or name not in ("b", "c") or not life.keeps, f"{where}: {name} is lost"
            elif bitmaps[name] is None:
                counts[step.name, "in use"] += 1
            else:
                counts[step.name, "believed"] += 1
                assert life.was_so(name, bitmaps[name], content, step), f"{where}: {name} is believed, and never was so"
    # Everything was closed: all that is there is believed.
    closed = replay(base, entries, CrashPoint(len(entries)))
    assert closed == life.path.read_bytes()
    bitmaps, _ = judges.look(closed, check=True)
    assert bitmaps == {name: digest(marks) for name, marks in life.marks.items() if name not in life.removed}


def documented():
    """The table of the page, without its head."""
    return re.findall(r"^\| [^|]+ \| \d+ \| \d+ \| \d+ \| \d+ \|$", PAGE.read_text(), re.MULTILINE)


@pytest.fixture
def base(images):
    """The image that every life begins with."""
    image = images.create("base.qcow2", size=SIZE, cluster_size=CLUSTER)
    for name, units in (("c", (5, 6)), ("b", (0, SIZE // UNIT - 1))):
        qemu_img("bitmap", "--add", "-g", UNIT, image.path, name)
        image.io(*(f"write -P {ord('0')} {unit * UNIT} {UNIT}" for unit in units))
        if name == "c":
            qemu_img("bitmap", "--disable", image.path, name)
    return image


@pytest.fixture
def judges(start, images, qemu):
    with Server(qemu, "daemon") as other:
        yield Judges(other, start(), images.dir / "state.qcow2")


@pytest.mark.manners("daemon")
def test_every_crash_point(server, images, base, judges):
    counts = Counts()
    for live in LIVES:
        life = Life(server, images, live.__name__)
        live(life)
        judge_life(life, read_log(life.log), judges, counts)
    print(counts.table())
    assert counts["open", "believed"] and counts["open", "in use"]
    assert counts["close, which stores them", "believed"] and counts["close, which stores them", "in use"]
    if server.kind == "blockbed":
        assert counts.table().splitlines()[2:] == documented(), f"docs/bitmaps.md:\n{counts.table()}"


@pytest.mark.manners("daemon")
def test_a_storage_that_lies_is_found_out(server, images, base, judges):
    """The judge sees a bitmap that lacks marks: when a flushed request is lost after all, it can be that of a bitmap."""
    life = Life(server, images, "lied_to")
    written(life)
    entries = read_log(life.log)
    wrong = 0
    for number in range(len(entries)):
        state = replay(base.path.read_bytes(), entries, CrashPoint(len(entries), frozenset([number])))
        try:
            bitmaps, content = judges.look(state, check=False)
        except QmpError:
            continue  # an image that cannot be opened harms nobody
        wrong += any(found and not life.was_so(name, found, content, life.steps[-1]) for name, found in bitmaps.items())
    assert wrong
