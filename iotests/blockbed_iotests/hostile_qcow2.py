"""Broken qcow2 images, one rule each, made byte by byte without any tool.

`Layout` is a small image that has everything the format has: data, zeroes, preallocated zeroes, compressed clusters, a
snapshot that shares tables and data, a bitmap. It knows where it put what, and its reference counts are right. A `Rule`
breaks one thing in it and says in one sentence what. Two rules may be applied to the same image.

    for rule in RULES:
        image = Layout(rule.geometry)
        rule.apply(image)
        path.write_bytes(image.bytes())

Seeds play no part here: the same rule makes the same bytes everywhere.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
OFFSET = 0x00FFFFFFFFFFFE00
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 1, 2, 4, 8, 16

# Where the fields of the header are: offset and length.
FIELDS = {
    "magic": (0, 4), "version": (4, 4), "backing_offset": (8, 8), "backing_size": (16, 4), "cluster_bits": (20, 4),
    "size": (24, 8), "crypt": (32, 4), "l1_size": (36, 4), "l1_offset": (40, 8), "refcount_offset": (48, 8),
    "refcount_clusters": (56, 4), "snapshots": (60, 4), "snapshots_offset": (64, 8), "incompatible": (72, 8),
    "compatible": (80, 8), "autoclear": (88, 8), "refcount_order": (96, 4), "header_length": (100, 4), "compression": (104, 1),
}  # fmt: skip

EXTENSION_BITMAPS, EXTENSION_DATA_FILE = 0x23852875, 0x44415441


@dataclass(frozen=True)
class Geometry:
    version: int = 3
    cluster_bits: int = 12
    refcount_order: int = 4
    extended_l2: bool = False
    snapshot: bool = True
    bitmap: bool = False
    # Name of an external data file; the layout's guest data is then not in the image.
    data_file: str = ""
    # Clusters that nothing uses and nothing counts, before the data: room for tables to grow.
    gap: int = 0

    def __str__(self) -> str:
        extra = [word for word, on in (
            ("extended", self.extended_l2), ("no-snapshot", not self.snapshot), ("bitmap", self.bitmap),
            ("data-file", bool(self.data_file)), (f"gap-{self.gap}", bool(self.gap)),
        ) if on]  # fmt: skip
        return "-".join([f"v{self.version}", f"c{1 << self.cluster_bits}", f"w{1 << self.refcount_order}", *extra])


class Layout:
    """An image in memory. Numbers of clusters are in the attributes; `snapshot` shares `l2[1]` with the active disk."""

    # Guest clusters of the first L2 table by what they are.
    DATA = (0, 1, 2, 3, 4, 5)
    ZERO, ZERO_PREALLOCATED, COMPRESSED, SHARED = 6, 7, (8, 9, 10), 12

    def __init__(self, geometry: Geometry = Geometry()):
        self.geometry = g = geometry
        self.cluster_size = 1 << g.cluster_bits
        self.entry_bytes = 16 if g.extended_l2 else 8
        self.l2_entries = self.cluster_size // self.entry_bytes
        self.size = 3 * self.l2_entries * self.cluster_size - 5 * 512
        self.counts: dict[int, int] = {}
        self.data = bytearray(self.cluster_size)
        self.clusters = 1
        self.count(0)
        self._build()

    # ------------------------------------------------------------------ building

    def allocate(self, clusters: int = 1, count: int = 1) -> int:
        first = self.clusters
        self.clusters += clusters
        self.data.extend(bytes(clusters * self.cluster_size))
        for cluster in range(first, first + clusters):
            self.counts[cluster] = count
        return first

    def count(self, cluster: int, by: int = 1) -> None:
        self.counts[cluster] = self.counts.get(cluster, 0) + by

    def fill(self, cluster: int, byte: int) -> None:
        at = cluster * self.cluster_size
        self.data[at : at + self.cluster_size] = bytes([byte]) * self.cluster_size

    def _build(self) -> None:
        g = self.geometry
        self.refcount_table = self.allocate()
        self.refcount_block = self.allocate()
        self.l1 = self.allocate()
        self.l2 = [self.allocate(), self.allocate()]
        self.allocate(g.gap, 0)
        self.inside_data: dict[int, int] = {}
        shared = 2 if g.snapshot and g.refcount_order > 0 else 1
        self.set_l1(0, self.l2[0] * self.cluster_size | COPIED)
        if g.data_file:
            self._build_external()
        else:
            self._build_data(shared)
        if g.snapshot:
            self._build_snapshot(shared)
        if g.bitmap and g.version >= 3:
            self._build_bitmap()
        self._write_header()
        self.write_counts()

    def _build_data(self, shared: int) -> None:
        # The first ones in order, the last two not: fragmentation.
        places = [self.allocate() for _ in self.DATA]
        places[-1], places[-2] = places[-2], places[-1]
        for guest, cluster in zip(self.DATA, places, strict=True):
            self.fill(cluster, 0x10 + guest)
            self.set_l2(0, guest, cluster * self.cluster_size | COPIED, 0xFFFFFFFF)
            self.inside_data[guest] = cluster
        if self.geometry.version >= 3:
            self.preallocated = self.allocate()
            self.set_zero(self.ZERO, 0)
            self.set_zero(self.ZERO_PREALLOCATED, self.preallocated * self.cluster_size | COPIED)
        if self.geometry.refcount_order > 0:
            self._build_compressed()
        self.shared = self.allocate(count=shared)
        self.fill(self.shared, 0x30)
        self.set_l2(0, self.SHARED, self.shared * self.cluster_size | (COPIED if shared == 1 else 0), 0xFFFFFFFF)
        self.last = self.allocate(count=shared)
        self.fill(self.last, 0x31)
        self.set_l2(1, 7, self.last * self.cluster_size | (COPIED if shared == 1 else 0), 0xFFFFFFFF)
        self.counts[self.l2[1]] = shared
        self.set_l1(1, self.l2[1] * self.cluster_size | (COPIED if shared == 1 else 0))

    def _build_external(self) -> None:
        for guest in self.DATA:
            self.set_l2(0, guest, guest * self.cluster_size | COPIED, 0xFFFFFFFF)
        self.set_zero(self.ZERO, 0)
        self.set_l2(1, 7, ((self.l2_entries + 7) * self.cluster_size) | COPIED, 0xFFFFFFFF)
        self.set_l1(1, self.l2[1] * self.cluster_size | COPIED)

    def _build_compressed(self) -> None:
        """Three clusters packed behind each other, each counted where it lies."""
        first = at = self.allocate() * self.cluster_size
        self.compressed = first // self.cluster_size
        self.counts[self.compressed] = 0
        for guest in self.COMPRESSED:
            engine = zlib.compressobj(6, zlib.DEFLATED, -12)
            stream = engine.compress(bytes([0x20 + guest]) * self.cluster_size) + engine.flush()
            assert at + len(stream) <= first + self.cluster_size
            self.data[at : at + len(stream)] = stream
            self.set_l2(0, guest, self.compressed_entry(at, len(stream)), 0)
            self.count(self.compressed)
            at += len(stream)

    def compressed_entry(self, offset: int, length: int) -> int:
        sectors = (offset + length - 1) // 512 - offset // 512
        return COMPRESSED | sectors << self.compressed_shift | offset

    @property
    def compressed_shift(self) -> int:
        return 62 - (self.geometry.cluster_bits - 8)

    def _build_snapshot(self, shared: int) -> None:
        self.snapshot_l1 = self.allocate()
        self.snapshot_l2 = self.allocate()
        self.snapshot_table = self.allocate()
        self.put(self.snapshot_l1, 0, self.snapshot_l2 * self.cluster_size)
        if not self.geometry.data_file and shared > 1:
            self.snapshot_data = self.allocate()
            self.fill(self.snapshot_data, 0x40)
            self.put(self.snapshot_l1, 8, self.l2[1] * self.cluster_size)
            self.put_entry(self.snapshot_l2, 0, self.snapshot_data * self.cluster_size, 0xFFFFFFFF)
            self.put_entry(self.snapshot_l2, self.SHARED, self.shared * self.cluster_size, 0xFFFFFFFF)
        self.snapshots = [Snapshot(self.snapshot_l1 * self.cluster_size, 3, b"1", b"one", self.size)]
        self.write_snapshots()

    def write_snapshots(self) -> None:
        table = b"".join(snapshot.encode() for snapshot in self.snapshots)
        assert len(table) <= self.cluster_size
        at = self.snapshot_table * self.cluster_size
        self.data[at : at + self.cluster_size] = table.ljust(self.cluster_size, b"\0")

    def _build_bitmap(self) -> None:
        self.bitmap_directory = self.allocate()
        self.bitmap_table = self.allocate()
        self.bitmap_data = self.allocate()
        self.fill(self.bitmap_data, 0xFF)
        # One cluster of bits is enough for the disk at this granularity.
        self.put(self.bitmap_table, 0, self.bitmap_data * self.cluster_size)
        name = b"b0"
        entry = struct.pack(">QIIBBHI", self.bitmap_table * self.cluster_size, 1, 0, 1, 16, len(name), 0) + name
        self.bitmap_directory_bytes = len(entry) + -len(entry) % 8
        at = self.bitmap_directory * self.cluster_size
        self.data[at : at + len(entry)] = entry

    def _write_header(self) -> None:
        g = self.geometry
        fixed = struct.pack(
            ">4sIQIIQIIQQIIQ", b"QFI\xfb", g.version, 0, 0, g.cluster_bits, self.size, 0, 3, self.l1 * self.cluster_size,
            self.refcount_table * self.cluster_size, 1, 1 if g.snapshot else 0,
            self.snapshot_table * self.cluster_size if g.snapshot else 0,
        )  # fmt: skip
        bitmap = g.bitmap and g.version >= 3
        if g.version >= 3:
            incompatible = (EXTENDED_L2 if g.extended_l2 else 0) | (DATA_FILE if g.data_file else 0)
            fixed += struct.pack(">QQQII8x", incompatible, 0, int(bitmap), g.refcount_order, 112)
        if g.data_file:
            name = g.data_file.encode()
            fixed += struct.pack(">II", EXTENSION_DATA_FILE, len(name)) + name + bytes(-len(name) % 8)
        if bitmap:
            self.bitmap_extension = len(fixed) + 8
            fixed += struct.pack(
                ">IIIIQQ", EXTENSION_BITMAPS, 24, 1, 0, self.bitmap_directory_bytes, self.bitmap_directory * self.cluster_size
            )
        self.data[: len(fixed)] = fixed
        self.put(self.refcount_table, 0, self.refcount_block * self.cluster_size)

    def write_counts(self) -> None:
        for cluster, count in self.counts.items():
            self.set_refcount(cluster, count)

    # ------------------------------------------------------------------ places

    def offset(self, cluster: int) -> int:
        return cluster * self.cluster_size

    def put(self, cluster: int, at: int, value: int, length: int = 8) -> None:
        where = cluster * self.cluster_size + at
        self.data[where : where + length] = value.to_bytes(length, "big")

    def get(self, cluster: int, at: int, length: int = 8) -> int:
        where = cluster * self.cluster_size + at
        return int.from_bytes(self.data[where : where + length], "big")

    def put_entry(self, table: int, index: int, value: int, bitmap: int | None = None) -> None:
        self.put(table, index * self.entry_bytes, value)
        if self.geometry.extended_l2 and bitmap is not None:
            self.put(table, index * self.entry_bytes + 8, bitmap)

    def set_l1(self, index: int, value: int) -> None:
        self.put(self.l1, index * 8, value)

    def get_l1(self, index: int) -> int:
        return self.get(self.l1, index * 8)

    def set_l2(self, table: int, guest: int, value: int, bitmap: int | None = None) -> None:
        self.put_entry(self.l2[table], guest, value, bitmap)

    def get_l2(self, table: int, guest: int) -> int:
        return self.get(self.l2[table], guest * self.entry_bytes)

    def set_zero(self, guest: int, value: int) -> None:
        if self.geometry.extended_l2:
            self.set_l2(0, guest, value, 0xFFFFFFFF << 32)
        else:
            self.set_l2(0, guest, value | ZERO)

    @property
    def refcounts_in_block(self) -> int:
        return self.cluster_size * 8 >> self.geometry.refcount_order

    @property
    def refcount_max(self) -> int:
        return (1 << (1 << self.geometry.refcount_order)) - 1

    def refcount(self, cluster: int) -> int:
        return self._refcount_at(cluster, None)

    def set_refcount(self, cluster: int, value: int) -> None:
        self._refcount_at(cluster, value & self.refcount_max)

    def _refcount_at(self, cluster: int, value: int | None) -> int:
        width = 1 << self.geometry.refcount_order
        base = self.refcount_block * self.cluster_size
        if width >= 8:
            at = base + cluster * (width // 8)
            if value is not None:
                self.data[at : at + width // 8] = value.to_bytes(width // 8, "big")
            return int.from_bytes(self.data[at : at + width // 8], "big")
        at, shift = base + cluster * width // 8, cluster * width % 8
        mask = ((1 << width) - 1) << shift
        if value is not None:
            self.data[at] = self.data[at] & ~mask | value << shift
        return (self.data[at] & mask) >> shift

    def set_header(self, name: str, value: int) -> None:
        at, length = FIELDS[name]
        self.data[at : at + length] = value.to_bytes(length, "big")

    def get_header(self, name: str) -> int:
        at, length = FIELDS[name]
        return int.from_bytes(self.data[at : at + length], "big")

    def add_flag(self, bit: int) -> None:
        self.set_header("incompatible", self.get_header("incompatible") | bit)

    @property
    def end(self) -> int:
        """The first cluster behind the file."""
        return -(-len(self.data) // self.cluster_size)

    def bytes(self) -> bytes:
        return bytes(self.data)


@dataclass
class Snapshot:
    l1_offset: int
    l1_size: int
    id: bytes
    name: bytes
    disk_size: int | None = None
    vm_state: int = 0
    # What follows in the extra data; None: the three fields that version 3 wants.
    extra: bytes | None = None

    def encode(self) -> bytes:
        extra = self.extra
        if extra is None:
            extra = struct.pack(">QQQ", self.vm_state, self.disk_size or 0, (1 << 64) - 1)
        fixed = struct.pack(
            ">QIHHIIQII", self.l1_offset, self.l1_size, len(self.id), len(self.name), 1_600_000_000, 0, 0,
            min(self.vm_state, 0xFFFFFFFF), len(extra),
        )  # fmt: skip
        entry = fixed + extra + self.id + self.name
        return entry + bytes(-len(entry) % 8)


# ---------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Rule:
    name: str
    breaks: str
    apply: Callable[[Layout], None] = field(compare=False)
    geometry: Geometry = Geometry()
    # The header itself is refused: there is nothing to be checked or repaired.
    refused: bool = False

    def make(self) -> Layout:
        layout = Layout(self.geometry)
        self.apply(layout)
        return layout


RULES: list[Rule] = []

STANDARD = Geometry()
EXTENDED = Geometry(cluster_bits=14, extended_l2=True)
OLD = Geometry(version=2)
WIDTHS = [Geometry(refcount_order=order) for order in range(7)]
SMALL = Geometry(cluster_bits=9)
LARGE = Geometry(cluster_bits=16)
BITMAP = Geometry(snapshot=False, bitmap=True)
BOTH = Geometry(bitmap=True)


def rule(breaks: str, *geometries: Geometry, refused: bool = False) -> Callable:
    def add(function: Callable[[Layout], None]) -> Callable[[Layout], None]:
        for geometry in geometries or (STANDARD,):
            name = function.__name__.replace("_", "-")
            if geometry != STANDARD:
                name += f"-{geometry}"
            RULES.append(Rule(name, breaks, function, geometry, refused))
        return function

    return add


def variants(breaks: str, values: dict[str, object], *geometries: Geometry) -> Callable:
    """One rule for each value, given to the function as its second argument."""

    def add(function: Callable[[Layout, object], None]) -> Callable:
        for geometry in geometries or (STANDARD,):
            for word, value in values.items():
                name = f"{function.__name__.replace('_', '-')}-{word}"
                if geometry != STANDARD:
                    name += f"-{geometry}"
                RULES.append(Rule(name, f"{breaks}: {word}", lambda i, f=function, v=value: f(i, v), geometry))
        return function

    return add


EVERYTHING = [*WIDTHS, EXTENDED, OLD, SMALL, LARGE, replace(STANDARD, snapshot=False), BITMAP]


@rule("nothing", *EVERYTHING)
def whole(_: Layout) -> None:
    pass


# --- counts


@rule("a cluster is counted that nothing refers to", *EVERYTHING)
def leak(i: Layout) -> None:
    i.set_refcount(i.allocate(), 1)


@rule("a run of clusters is counted that nothing refers to")
def leaked_run(i: Layout) -> None:
    for cluster in range(first := i.allocate(5), first + 5):
        i.set_refcount(cluster, 3)


@rule("a cluster behind the end of the file is counted", STANDARD, SMALL)
def leak_behind_the_end(i: Layout) -> None:
    i.set_refcount(i.end + 3, 1)


TARGETS: dict[str, Callable[[Layout], int]] = {
    "header": lambda i: 0, "refcount-table": lambda i: i.refcount_table, "refcount-block": lambda i: i.refcount_block,
    "l1": lambda i: i.l1, "l2": lambda i: i.l2[0], "shared-l2": lambda i: i.l2[1], "data": lambda i: i.inside_data[1],
    "compressed": lambda i: i.compressed, "preallocated": lambda i: i.preallocated, "shared-data": lambda i: i.shared,
    "snapshot-l1": lambda i: i.snapshot_l1, "snapshot-l2": lambda i: i.snapshot_l2, "snapshot-table": lambda i: i.snapshot_table,
    "snapshot-data": lambda i: i.snapshot_data,
}  # fmt: skip
BITMAP_TARGETS: dict[str, Callable[[Layout], int]] = {
    "header": lambda i: 0, "l2": lambda i: i.l2[0], "data": lambda i: i.inside_data[1], "compressed": lambda i: i.compressed,
    "bitmap-directory": lambda i: i.bitmap_directory, "bitmap-table": lambda i: i.bitmap_table,
    "bitmap-data": lambda i: i.bitmap_data, "refcount-block": lambda i: i.refcount_block,
}  # fmt: skip


@variants("a cluster in use is not counted", BITMAP_TARGETS, BITMAP)
@variants("a cluster in use is not counted", TARGETS)
def uncounted(i: Layout, target: Callable) -> None:
    i.set_refcount(target(i), 0)


@variants("a cluster is counted too often", TARGETS)
def counted_too_often(i: Layout, target: Callable) -> None:
    i.set_refcount(target(i), i.refcount(target(i)) + 2)


@variants("a cluster that is used twice is counted once", {w: TARGETS[w] for w in ("shared-l2", "shared-data", "compressed")}, *WIDTHS[1:])
def counted_too_rarely(i: Layout, target: Callable) -> None:
    i.set_refcount(target(i), 1)


@variants("an L2 entry refers to what is something else", BITMAP_TARGETS, BITMAP)
@variants("an L2 entry refers to what is something else", TARGETS)
def data_is_also(i: Layout, target: Callable) -> None:
    i.set_l2(0, 20, i.offset(target(i)) | COPIED, 0xFFFFFFFF)


@variants("an L1 entry refers to what is something else", TARGETS)
def l2_is_also(i: Layout, target: Callable) -> None:
    i.set_l1(2, i.offset(target(i)) | COPIED)


@variants("a snapshot's L1 entry refers to what is something else", TARGETS)
def snapshot_l2_is_also(i: Layout, target: Callable) -> None:
    i.put(i.snapshot_l1, 16, i.offset(target(i)))


@variants("an entry of the refcount table refers to what is something else", TARGETS)
def refcount_block_is_also(i: Layout, target: Callable) -> None:
    i.put(i.refcount_table, 8, i.offset(target(i)))


@variants("an entry of a bitmap's table refers to what is something else", BITMAP_TARGETS, BITMAP)
def bitmap_data_is_also(i: Layout, target: Callable) -> None:
    i.put(i.bitmap_table, 0, i.offset(target(i)))


@variants("a snapshot's L2 entry refers to what is something else", TARGETS)
def snapshot_data_is_also(i: Layout, target: Callable) -> None:
    i.put_entry(i.snapshot_l2, 20, i.offset(target(i)), 0xFFFFFFFF)


@variants("a zero cluster is preallocated in what is something else", TARGETS)
def preallocated_is_also(i: Layout, target: Callable) -> None:
    i.set_zero(20, i.offset(target(i)) | COPIED)


@variants("compressed data lies in what is something else", TARGETS)
def compressed_is_also(i: Layout, target: Callable) -> None:
    i.set_l2(0, 20, i.compressed_entry(i.offset(target(i)) + 100, 700), 0)


@variants("a snapshot's L1 table is something else", TARGETS)
def snapshot_l1_is_also(i: Layout, target: Callable) -> None:
    i.snapshots[0].l1_offset = i.offset(target(i))
    i.write_snapshots()


@variants("the header's L1 table is something else", TARGETS)
def l1_is_also(i: Layout, target: Callable) -> None:
    i.set_header("l1_offset", i.offset(target(i)))


@variants("the header's refcount table is something else", TARGETS)
def refcount_table_is_also(i: Layout, target: Callable) -> None:
    i.set_header("refcount_offset", i.offset(target(i)))


@variants("the header's snapshot table is something else", TARGETS)
def snapshot_table_is_also(i: Layout, target: Callable) -> None:
    i.set_header("snapshots_offset", i.offset(target(i)))


@variants("a bitmap's table is something else", BITMAP_TARGETS, BITMAP)
def bitmap_table_is_also(i: Layout, target: Callable) -> None:
    bitmap_entry(i, 0, 8, i.offset(target(i)))


@variants("the bitmap directory is something else", BITMAP_TARGETS, BITMAP)
def bitmap_directory_is_also(i: Layout, target: Callable) -> None:
    i.data[i.bitmap_extension + 16 : i.bitmap_extension + 24] = i.offset(target(i)).to_bytes(8, "big")


@rule("the counts are all zero", STANDARD, EXTENDED, OLD, SMALL)
def empty_refcount_block(i: Layout) -> None:
    at = i.offset(i.refcount_block)
    i.data[at : at + i.cluster_size] = bytes(i.cluster_size)


@rule("one cluster is used more often than the counts can say", WIDTHS[0], WIDTHS[1])
def more_references_than_a_count_holds(i: Layout) -> None:
    for guest in range(20, 26):
        i.set_l2(0, guest, i.offset(i.inside_data[0]))
    i.set_refcount(i.inside_data[0], i.refcount_max)


# --- COPIED flags


@rule("the L1 entry of a table used once lacks COPIED", STANDARD, EXTENDED, SMALL)
def l1_lacks_copied(i: Layout) -> None:
    i.set_l1(0, i.get_l1(0) & ~COPIED)


@rule("the L1 entry of a shared table has COPIED", STANDARD, EXTENDED)
def l1_has_copied(i: Layout) -> None:
    i.set_l1(1, i.get_l1(1) | COPIED)


@rule("L2 entries of clusters used once lack COPIED", STANDARD, EXTENDED, SMALL)
def l2_lacks_copied(i: Layout) -> None:
    for guest in (0, 2):
        i.set_l2(0, guest, i.get_l2(0, guest) & ~COPIED)


@rule("the L2 entry of a shared cluster has COPIED", STANDARD, EXTENDED)
def l2_has_copied(i: Layout) -> None:
    i.set_l2(0, i.SHARED, i.get_l2(0, i.SHARED) | COPIED)


@rule("a preallocated zero cluster lacks COPIED", STANDARD, EXTENDED)
def zero_lacks_copied(i: Layout) -> None:
    i.set_l2(0, i.ZERO_PREALLOCATED, i.get_l2(0, i.ZERO_PREALLOCATED) & ~COPIED)


@rule("an entry of no cluster has COPIED", STANDARD, EXTENDED)
def unallocated_has_copied(i: Layout) -> None:
    i.set_l2(0, 40, COPIED)


@rule("an entry of a plain zero has COPIED")
def plain_zero_has_copied(i: Layout) -> None:
    i.set_l2(0, 40, COPIED | ZERO)


@rule("a compressed cluster has COPIED", STANDARD, EXTENDED, OLD)
def compressed_has_copied(i: Layout) -> None:
    i.set_l2(0, 8, i.get_l2(0, 8) | COPIED)


@rule("entries of a snapshot have COPIED")
def snapshot_has_copied(i: Layout) -> None:
    i.put(i.snapshot_l1, 0, i.get(i.snapshot_l1, 0) | COPIED)
    i.put_entry(i.snapshot_l2, 0, i.get(i.snapshot_l2, 0) | COPIED)


@rule("an L1 entry is nothing but COPIED")
def l1_nothing_but_copied(i: Layout) -> None:
    i.set_l1(2, COPIED)


# --- refcount structures


BLOCKS: dict[str, Callable[[Layout], int]] = {
    "unaligned": lambda i: i.offset(i.refcount_block) + 512,
    "reserved-bits": lambda i: i.offset(i.refcount_block) + 1,
    "behind-the-end": lambda i: i.offset(i.end + 10),
    "far-behind-the-end": lambda i: 1 << 40,
    "signed-overflow": lambda i: (1 << 63) - i.cluster_size,
    "unsigned-overflow": lambda i: (1 << 64) - i.cluster_size,
    "at-the-end": lambda i: i.offset(i.end),
    "header": lambda i: 0,
}


@variants("the entry of the refcount block in use is wrong", BLOCKS)
def first_block(i: Layout, value: Callable) -> None:
    i.put(i.refcount_table, 0, value(i))


@variants("the entry of a second refcount block is wrong", BLOCKS, STANDARD, SMALL)
def second_block(i: Layout, value: Callable) -> None:
    i.put(i.refcount_table, 8, value(i))


@variants("the entry of the last refcount block is wrong", BLOCKS)
def last_block(i: Layout, value: Callable) -> None:
    i.put(i.refcount_table, i.cluster_size - 8, value(i))


@rule("two entries of the refcount table name one block")
def block_twice(i: Layout) -> None:
    i.put(i.refcount_table, 8, i.offset(i.refcount_block))


# Blocks that count few clusters.
SHORT_BLOCKS = Geometry(cluster_bits=9, refcount_order=6)


def name_again(i: Layout, times: int, block: int) -> None:
    """All entries but the first name one block. All count clusters of the file: the first and the last of them data."""
    table = i.allocate(2)
    i.put(table, 0, i.offset(i.refcount_block))
    for index in range(1, times):
        i.put(table, index * 8, block)
    i.set_refcount(i.refcount_table, 0)
    i.set_refcount(table, 1)
    i.set_refcount(table + 1, 1)
    i.set_header("refcount_offset", i.offset(table))
    i.set_header("refcount_clusters", 2)
    last = (times - 1) * i.refcounts_in_block
    i.data.extend(bytes(i.offset(last + 10) - len(i.data)))
    for guest, first in enumerate((i.refcounts_in_block, last), 20):
        i.set_l2(0, guest, i.offset(first + 5) | COPIED)


AGAIN = {"twice": 2, "three-times": 3, "a-hundred-times": 100}


@variants("the refcount table names the block in use again", AGAIN, SHORT_BLOCKS)
def block_in_use_again(i: Layout, times: int) -> None:
    name_again(i, times, i.offset(i.refcount_block))


@variants("the refcount table names a block again and again", AGAIN, SHORT_BLOCKS)
def block_again(i: Layout, times: int) -> None:
    block = i.allocate()
    i.set_refcount(block, 1)
    for place, count in ((0, 1), (5, 1), (9, 300), (63, 1)):
        i.put(block, place * 8, count)
    name_again(i, times + 1, i.offset(block))


@variants("the refcount table names a place behind the end again and again", AGAIN, SHORT_BLOCKS)
def block_behind_the_end_again(i: Layout, times: int) -> None:
    name_again(i, times + 1, i.offset(times * i.refcounts_in_block + 20))


@variants("the refcount table names an unaligned block again and again", {"twice": 2, "a-dozen-times": 12}, replace(SHORT_BLOCKS, cluster_bits=10))
def unaligned_block_again(i: Layout, times: int) -> None:
    name_again(i, times + 1, i.offset(i.refcount_block) + 512)


@variants("the refcount table names a block again, and counts have one bit", {"twice": 2, "three-times": 3}, Geometry(cluster_bits=9, refcount_order=0))
def block_again_one_bit(i: Layout, times: int) -> None:
    name_again(i, times, i.offset(i.refcount_block))


@rule("a refcount block does not count itself")
def block_not_counted(i: Layout) -> None:
    block = i.allocate()
    i.put(i.refcount_table, 8, i.offset(block))


@rule("a second refcount block counts what is not there")
def second_block_full_of_counts(i: Layout) -> None:
    block = i.allocate()
    i.set_refcount(block, 1)
    i.put(i.refcount_table, 8, i.offset(block))
    at = i.offset(block)
    i.data[at : at + 64] = bytes([0, 1] * 32)


@rule("the refcount table has no clusters")
def no_refcount_table(i: Layout) -> None:
    i.set_header("refcount_clusters", 0)


@rule("the refcount table is empty")
def empty_refcount_table(i: Layout) -> None:
    i.put(i.refcount_table, 0, 0)


@variants("the refcount table is elsewhere", {
    "header": lambda i: 0, "l1": lambda i: i.offset(i.l1), "data": lambda i: i.offset(i.inside_data[0]),
    "behind-the-end": lambda i: i.offset(i.end + 2), "far": lambda i: 1 << 50, "block": lambda i: i.offset(i.refcount_block),
})  # fmt: skip
def refcount_table_at(i: Layout, value: Callable) -> None:
    i.set_header("refcount_offset", value(i))


@rule("the refcount table is longer than the file", STANDARD, SMALL)
def refcount_table_too_long(i: Layout) -> None:
    i.set_header("refcount_clusters", 200)


# --- L1 and L2 tables


ENTRIES: dict[str, Callable[[Layout], int]] = {
    "unaligned": lambda i: i.offset(i.l2[0]) + 512 | COPIED,
    "behind-the-end": lambda i: i.offset(i.end + 5) | COPIED,
    "at-the-end": lambda i: i.offset(i.end) | COPIED,
    "far": lambda i: 1 << 50 | COPIED,
    "largest": lambda i: OFFSET & ~(i.cluster_size - 1) | COPIED,
    "reserved-low": lambda i: i.offset(i.inside_data[0]) | 0x1E | COPIED,
    "reserved-high": lambda i: i.offset(i.inside_data[0]) | 1 << 58 | COPIED,
    "nothing-but-reserved": lambda i: 1 << 57 | 2,
    "all-bits": lambda i: (1 << 64) - 1,
}


@variants("an L1 entry is wrong", ENTRIES, STANDARD, EXTENDED)
def l1_entry(i: Layout, value: Callable) -> None:
    i.set_l1(2, value(i))


@variants("the L1 entry of a table in use is wrong", ENTRIES)
def used_l1_entry(i: Layout, value: Callable) -> None:
    i.set_l1(0, value(i))


@variants("a snapshot's L1 entry is wrong", ENTRIES)
def snapshot_l1_entry(i: Layout, value: Callable) -> None:
    i.put(i.snapshot_l1, 16, value(i))


@variants("an L2 entry is wrong", ENTRIES, STANDARD, EXTENDED, OLD)
def l2_entry(i: Layout, value: Callable) -> None:
    i.set_l2(0, 30, value(i), 0xFFFFFFFF)


@variants("a snapshot's L2 entry is wrong", ENTRIES)
def snapshot_l2_entry(i: Layout, value: Callable) -> None:
    i.put_entry(i.snapshot_l2, 30, value(i), 0xFFFFFFFF)


@variants("the zero cluster's preallocation is wrong", ENTRIES, STANDARD, EXTENDED)
def zero_entry(i: Layout, value: Callable) -> None:
    i.set_zero(30, value(i) & ~COMPRESSED)


@variants("a preallocated zero cluster of a snapshot is wrong", ENTRIES)
def snapshot_zero_entry(i: Layout, value: Callable) -> None:
    i.put_entry(i.snapshot_l2, 30, value(i) & ~COMPRESSED | ZERO)


@rule("reserved bits in entries that are otherwise right", STANDARD, EXTENDED, OLD)
def reserved_bits(i: Layout) -> None:
    i.set_l1(0, i.get_l1(0) | 1 << 60 | 0x80)
    i.set_l2(0, 0, i.get_l2(0, 0) | 1 << 60)
    i.set_l2(0, 1, i.get_l2(0, 1) | 0x10)


@rule("the zero flag in an image that cannot have it", OLD)
def zero_flag(i: Layout) -> None:
    i.set_l2(0, 30, ZERO)
    i.set_l2(0, 0, i.get_l2(0, 0) | ZERO)


@rule("the zero flag where bitmaps of subclusters say it", EXTENDED)
def zero_flag_in_extended(i: Layout) -> None:
    i.set_l2(0, 0, i.get_l2(0, 0) | ZERO)


COMPRESSED_AT: dict[str, Callable[[Layout], int]] = {
    "behind-the-end": lambda i: i.compressed_entry(i.offset(i.end + 2), 600),
    "across-the-end": lambda i: i.compressed_entry(len(i.data) - 300, 3000),
    "far": lambda i: i.compressed_entry(1 << 40, 600),
    "longest": lambda i: i.compressed_entry(i.offset(i.compressed), 1) | ((1 << (62 - i.compressed_shift)) - 1) << i.compressed_shift,
    "header": lambda i: i.compressed_entry(0, 100),
    "l2": lambda i: i.compressed_entry(i.offset(i.l2[0]), 100),
    "offset-0-none": lambda i: COMPRESSED,
    "twice": lambda i: i.get_l2(0, 8),
    "all-bits": lambda i: (1 << 63) - 1,
}  # fmt: skip


@variants("the descriptor of a compressed cluster is wrong", COMPRESSED_AT, STANDARD, EXTENDED, LARGE)
def compressed(i: Layout, value: Callable) -> None:
    i.set_l2(0, 9, value(i))


@rule("a compressed cluster holds no compressed data")
def compressed_data(i: Layout) -> None:
    at = i.offset(i.compressed)
    i.data[at : at + 20] = b"\xff" * 20


def deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(6, zlib.DEFLATED, -12)
    return engine.compress(data) + engine.flush()


STREAMS: dict[str, Callable[[Layout], bytes]] = {
    "shorter": lambda i: deflate(b"s" * (i.cluster_size - 1)),
    "much-shorter": lambda i: deflate(b"s"),
    "longer": lambda i: deflate(b"l" * (i.cluster_size + 1)),
    "much-longer": lambda i: deflate(b"l" * (i.cluster_size * 64)),
    "empty": lambda i: deflate(b""),
    "cut": lambda i: deflate(bytes(range(256)) * (i.cluster_size // 256))[:40],
    "zeroes": lambda i: bytes(100),
    "stored": lambda i: b"\x01\x40\x00\xbf\xff" + b"r" * 64,
    "stored-wrong-length": lambda i: b"\x01\x40\x00\x00\x00" + b"r" * 64,
    "block-of-no-kind": lambda i: b"\x07" + bytes(64),
    "far-back": lambda i: b"\x63\x04\x61\xff\xff" + bytes(20),
    "with-a-zlib-header": lambda i: zlib.compress(b"z" * i.cluster_size),
}


def put_stream(i: Layout, stream: bytes) -> None:
    """In the place of the last compressed cluster, whose data nothing follows."""
    at = i.offset(i.compressed) + i.cluster_size // 2
    i.data[at : at + len(stream)] = stream
    i.set_l2(0, 10, i.compressed_entry(at, max(len(stream), 1)), 0)


@variants("the stream of a compressed cluster is wrong", STREAMS)
def deflated(i: Layout, stream: Callable) -> None:
    put_stream(i, stream(i))


def zstd_frame(i: Layout, length: int | None = None, content: int | None = None, repeat: int | None = None) -> bytes:
    """One byte, repeated. `length` is what the frame says it holds, `content` what it does hold."""
    length = i.cluster_size if length is None else length
    content = i.cluster_size if content is None else content
    block = content << 3 | 1 << 1 | 1 if repeat is None else repeat
    return b"\x28\xb5\x2f\xfd\xa0" + length.to_bytes(4, "little") + block.to_bytes(3, "little") + b"z"


FRAMES: dict[str, Callable[[Layout], bytes]] = {
    "right": lambda i: zstd_frame(i),
    "shorter": lambda i: zstd_frame(i, i.cluster_size - 1, i.cluster_size - 1),
    "longer": lambda i: zstd_frame(i, i.cluster_size + 1, i.cluster_size + 1),
    "says-more": lambda i: zstd_frame(i, i.cluster_size + 1),
    "says-very-much": lambda i: zstd_frame(i, 0xFFFFFFFF),
    "says-less": lambda i: zstd_frame(i, 10),
    "holds-more": lambda i: zstd_frame(i, content=i.cluster_size + 1),
    "block-of-no-kind": lambda i: zstd_frame(i, repeat=i.cluster_size << 3 | 7),
    "no-last-block": lambda i: zstd_frame(i, repeat=i.cluster_size << 3 | 2),
    "large-window": lambda i: b"\x28\xb5\x2f\xfd\x00\xff" + bytes(40),
    "dictionary": lambda i: b"\x28\xb5\x2f\xfd\x23\x01\x02\x03\x04\xff" + bytes(40),
    "skippable": lambda i: b"\x50\x2a\x4d\x18" + (20).to_bytes(4, "little") + bytes(20) + zstd_frame(i),
    "two-halves": lambda i: zstd_frame(i, i.cluster_size // 2, i.cluster_size // 2) * 2,
    "cut": lambda i: zstd_frame(i)[:11],
    "empty": lambda i: b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00",
    "zeroes": lambda i: bytes(100),
}


@variants("the frame of a compressed cluster", FRAMES)
def zstd(i: Layout, frame: Callable) -> None:
    i.add_flag(COMPRESSION)
    i.set_header("compression", 1)
    put_stream(i, frame(i))


@rule("compressed clusters where data is in another file", Geometry(data_file="data", snapshot=False))
def compressed_and_external(i: Layout) -> None:
    i.set_l2(0, 9, i.compressed_entry(i.offset(i.l1), 100))


@rule("data in another file at another place", Geometry(data_file="data", snapshot=False))
def external_elsewhere(i: Layout) -> None:
    i.set_l2(0, 2, i.offset(3) | COPIED)


EXTERNAL = Geometry(data_file="data", snapshot=False)
EXTERNAL_SNAPSHOT = Geometry(data_file="data")


@rule("nothing; it has snapshots and bitmaps", BOTH)
def whole_with_everything(_: Layout) -> None:
    pass


@rule("nothing; data is in another file", EXTERNAL, EXTERNAL_SNAPSHOT)
def whole_external(_: Layout) -> None:
    pass


@rule("data in another file is not aligned", EXTERNAL)
def external_unaligned(i: Layout) -> None:
    i.set_l2(0, 2, i.offset(2) + 512 | COPIED)


@rule("entries lack COPIED where data is in another file", EXTERNAL)
def external_lacks_copied(i: Layout) -> None:
    i.set_l1(0, i.get_l1(0) & ~COPIED)
    i.set_l2(0, 2, i.get_l2(0, 2) & ~COPIED)


@rule("a leak beside data in another file", EXTERNAL)
def external_leak(i: Layout) -> None:
    i.set_refcount(i.allocate(), 1)


BITMAPS: dict[str, Callable[[Layout], tuple[int, int]]] = {
    "zero-and-allocated": lambda i: (i.get_l2(0, 0), 0x00000001_FFFFFFFF),
    "allocated-nowhere": lambda i: (0, 1),
    "zero-and-allocated-nowhere": lambda i: (0, 0x00000001_00000001),
    "all-bits": lambda i: (i.get_l2(0, 0), (1 << 64) - 1),
    "on-compressed": lambda i: (i.get_l2(0, 8), 0x00000001_80000000),
    "none": lambda i: (i.get_l2(0, 0), 0),
    "some": lambda i: (i.get_l2(0, 0), 0x0000FF00_000000FF),
    "unaligned-unused": lambda i: (i.get_l2(0, 0) | 512, 0),
    "unaligned-zero": lambda i: (i.get_l2(0, 0) | 512, 0xFF << 32),
    "unaligned-mixed": lambda i: (i.get_l2(0, 0) | 512, 0xFF00),
}


@variants("the bitmap of a cluster's subclusters is wrong", BITMAPS, EXTENDED)
def subclusters(i: Layout, value: Callable) -> None:
    entry, bitmap = value(i)
    i.set_l2(0, 0, entry, bitmap)


@rule("two disks' tables refer to each other's data without counting")
def same_data_twice(i: Layout) -> None:
    i.set_l2(0, 0, i.offset(i.inside_data[1]) | COPIED)


@variants("the L1 table is elsewhere", {
    "header": lambda i: 0, "refcount-table": lambda i: i.offset(i.refcount_table), "data": lambda i: i.offset(i.inside_data[0]),
    "behind-the-end": lambda i: i.offset(i.end + 2), "at-the-end": lambda i: i.offset(i.end), "far": lambda i: 1 << 50,
    "l2": lambda i: i.offset(i.l2[0]),
})  # fmt: skip
def l1_at(i: Layout, value: Callable) -> None:
    i.set_header("l1_offset", value(i))


@rule("the L1 table is longer than the disk needs")
def l1_longer(i: Layout) -> None:
    i.set_header("l1_size", 300)


OFTEN = Geometry(cluster_bits=16, snapshot=False)
OFTEN_SNAPSHOT = Geometry(cluster_bits=16)


@rule("the L1 table names one table again and again", OFTEN, OFTEN_SNAPSHOT)
def table_again_and_again(i: Layout) -> None:
    i.set_header("l1_size", 700)
    for index in range(3, 700):
        i.set_l1(index, i.get_l1(index % 2))


@rule("snapshots share one L1 table, which names one table again and again", OFTEN_SNAPSHOT)
def snapshots_share_their_table(i: Layout) -> None:
    for index in range(3, 20):
        i.put(i.snapshot_l1, index * 8, i.offset(i.snapshot_l2))
    i.snapshots = [replace(i.snapshots[0], id=b"%d" % n, l1_size=i.cluster_size // 8) for n in range(100)]
    i.write_snapshots()
    i.set_header("snapshots", len(i.snapshots))


EMPTY = 40


def empty_clusters(i: Layout, count: int) -> list[int]:
    """Offsets of clusters that hold nothing: holes, where the image is written with holes."""
    first = i.allocate(EMPTY)
    for cluster in range(first, first + EMPTY):
        i.set_refcount(cluster, count)
    return [i.offset(cluster) for cluster in range(first, first + EMPTY)]


@variants("the L1 table names many tables that hold nothing", {"counted": 1, "not-counted": 0}, LARGE)
def empty_l2_tables(i: Layout, count: int) -> None:
    i.set_header("l1_size", 3 + EMPTY)
    for index, table in enumerate(empty_clusters(i, count), 3):
        i.set_l1(index, table | COPIED)


@variants("the refcount table names many blocks that hold nothing", {"counted": 1, "not-counted": 0}, LARGE)
def empty_blocks(i: Layout, count: int) -> None:
    for index, block in enumerate(empty_clusters(i, count), 1):
        i.put(i.refcount_table, index * 8, block)


@variants("snapshots have L1 tables that hold nothing", {"counted": 1, "not-counted": 0}, LARGE)
def empty_snapshot_l1s(i: Layout, count: int) -> None:
    for table in empty_clusters(i, count):
        i.snapshots.append(replace(i.snapshots[0], l1_offset=table, l1_size=i.cluster_size // 8, id=b"%d" % table))
    i.write_snapshots()
    i.set_header("snapshots", len(i.snapshots))


@rule("the L1 table reaches behind the end of the file")
def l1_much_longer(i: Layout) -> None:
    i.set_header("l1_size", 100_000)


@rule("tables of a disk that has no size", STANDARD)
def size_zero(i: Layout) -> None:
    i.set_header("size", 0)


# --- the end of the file


@variants("the file is cut", {
    "last-cluster": lambda i: i.offset(i.end - 1), "in-data": lambda i: i.offset(i.inside_data[2]) + 100,
    "half-cluster": lambda i: len(i.data) - i.cluster_size // 2, "in-l2": lambda i: i.offset(i.l2[1]) + 1000,
    "before-l1": lambda i: i.offset(i.l1), "header-only": lambda i: i.cluster_size, "in-header": lambda i: 600,
}, STANDARD)  # fmt: skip
def cut(i: Layout, length: Callable) -> None:
    del i.data[length(i) :]


@rule("the file is longer than what is used")
def longer_file(i: Layout) -> None:
    i.data.extend(bytes(7 * i.cluster_size + 100))


# --- snapshots


SNAPSHOT_CHANGES: dict[str, Callable[[Layout, Snapshot], None]] = {
    "l1-unaligned": lambda i, s: setattr(s, "l1_offset", s.l1_offset + 512),
    "l1-behind-the-end": lambda i, s: setattr(s, "l1_offset", i.offset(i.end + 4)),
    "l1-far": lambda i, s: setattr(s, "l1_offset", 1 << 62),
    "l1-overflow": lambda i, s: setattr(s, "l1_offset", (1 << 64) - i.cluster_size),
    "l1-too-large": lambda i, s: setattr(s, "l1_size", (32 << 20) // 8 + 1),
    "l1-largest": lambda i, s: setattr(s, "l1_size", (32 << 20) // 8),
    "l1-all-bits": lambda i, s: setattr(s, "l1_size", 0xFFFFFFFF),
    "l1-too-small": lambda i, s: setattr(s, "l1_size", 1),
    "l1-empty": lambda i, s: setattr(s, "l1_size", 0),
    "l1-of-the-disk": lambda i, s: setattr(s, "l1_offset", i.offset(i.l1)),
    "l1-header": lambda i, s: setattr(s, "l1_offset", 0),
    "disk-size-other": lambda i, s: setattr(s, "disk_size", 1 << 20),
    "disk-size-huge": lambda i, s: setattr(s, "disk_size", (1 << 63) - 512),
    "disk-size-odd": lambda i, s: setattr(s, "disk_size", 1000),
    "no-extra": lambda i, s: setattr(s, "extra", b""),
    "extra-8": lambda i, s: setattr(s, "extra", bytes(8)),
    "extra-16": lambda i, s: setattr(s, "extra", bytes(8) + i.size.to_bytes(8, "big")),
    "extra-odd": lambda i, s: setattr(s, "extra", bytes(11)),
    "extra-most": lambda i, s: setattr(s, "extra", s.encode()[40:64] + b"x" * 1000),
    "extra-too-much": lambda i, s: setattr(s, "extra", s.encode()[40:64] + b"x" * 1001),
    "extra-far-too-much": lambda i, s: setattr(s, "extra", s.encode()[40:64] + b"x" * 3000),
    "no-id": lambda i, s: setattr(s, "id", b""),
    "no-name": lambda i, s: setattr(s, "name", b""),
    "long-name": lambda i, s: setattr(s, "name", b"n" * 3000),
    "bytes-in-name": lambda i, s: setattr(s, "name", b"\xff\x00\x01a"),
    "vm-state-huge": lambda i, s: setattr(s, "vm_state", (1 << 64) - 1),
    "vm-state-behind-the-end": lambda i, s: setattr(s, "vm_state", 1 << 40),
    "disk-size-of-l1": lambda i, s: setattr(s, "disk_size", 3 * i.l2_entries * i.cluster_size),
    "disk-size-more-than-l1": lambda i, s: setattr(s, "disk_size", 3 * i.l2_entries * i.cluster_size + 512),
    "disk-size-zero": lambda i, s: setattr(s, "disk_size", 0),
}


@variants("the entry of a snapshot is wrong", SNAPSHOT_CHANGES)
def snapshot(i: Layout, change: Callable) -> None:
    change(i, i.snapshots[0])
    i.write_snapshots()


@variants("the entry of a snapshot is as old images have it", {w: SNAPSHOT_CHANGES[w] for w in ("no-extra", "extra-8", "extra-odd")}, OLD)
def old_snapshot(i: Layout, change: Callable) -> None:
    change(i, i.snapshots[0])
    i.write_snapshots()


@variants("the id or name of a snapshot is as long as can be", {"id": 12, "name": 14})
def snapshot_longest(i: Layout, at: int) -> None:
    i.put(i.snapshot_table, at, 0xFFFF, 2)


@rule("two snapshots have the same id and name, one table, and are not counted")
def twin_snapshots(i: Layout) -> None:
    i.snapshots.append(i.snapshots[0])
    i.write_snapshots()


@variants("the header counts other snapshots than there are", {"none": 0, "more": 2, "many": 40, "most": 65536, "one-more": 65537, "all-bits": 0xFFFFFFFF})
def snapshot_count(i: Layout, count: int) -> None:
    i.set_header("snapshots", count)


@variants("the snapshot table is elsewhere", {
    "header": lambda i: 0, "unaligned": lambda i: i.offset(i.snapshot_table) + 8, "l1": lambda i: i.offset(i.l1),
    "behind-the-end": lambda i: i.offset(i.end + 1), "far": lambda i: 1 << 50, "largest": lambda i: (1 << 63) - i.cluster_size,
})  # fmt: skip
def snapshot_table_at(i: Layout, value: Callable) -> None:
    i.set_header("snapshots_offset", value(i))


# --- bitmaps


def bitmap_entry(i: Layout, at: int, length: int, value: int) -> None:
    i.put(i.bitmap_directory, at, value, length)


BITMAP_CHANGES: dict[str, Callable[[Layout], None]] = {
    "table-unaligned": lambda i: bitmap_entry(i, 0, 8, i.offset(i.bitmap_table) + 512),
    "table-behind-the-end": lambda i: bitmap_entry(i, 0, 8, i.offset(i.end + 4)),
    "table-nowhere": lambda i: bitmap_entry(i, 0, 8, 0),
    "table-is-data": lambda i: bitmap_entry(i, 0, 8, i.offset(i.inside_data[0])),
    "table-larger": lambda i: bitmap_entry(i, 8, 4, 600),
    "table-much-larger": lambda i: bitmap_entry(i, 8, 4, 1 << 20),
    "table-too-large": lambda i: bitmap_entry(i, 8, 4, (1 << 24) + 1),
    "table-empty": lambda i: bitmap_entry(i, 8, 4, 0),
    "in-use": lambda i: bitmap_entry(i, 12, 4, 1),
    "auto": lambda i: bitmap_entry(i, 12, 4, 2),
    "flags-reserved": lambda i: bitmap_entry(i, 12, 4, 0x80),
    "type": lambda i: bitmap_entry(i, 16, 1, 2),
    "granularity-small": lambda i: bitmap_entry(i, 17, 1, 8),
    "granularity-large": lambda i: bitmap_entry(i, 17, 1, 32),
    "name-empty": lambda i: bitmap_entry(i, 18, 2, 0),
    "name-long": lambda i: bitmap_entry(i, 18, 2, 1024),
    "extra-data": lambda i: bitmap_entry(i, 20, 4, 8),
    "extra-data-huge": lambda i: bitmap_entry(i, 20, 4, 0xFFFFFFFF),
    "entry-reserved": lambda i: i.put(i.bitmap_table, 0, i.get(i.bitmap_table, 0) | 2),
    "entry-unaligned": lambda i: i.put(i.bitmap_table, 0, i.get(i.bitmap_table, 0) | 512),
    "entry-all-ones": lambda i: i.put(i.bitmap_table, 0, 1),
    "entry-offset-and-ones": lambda i: i.put(i.bitmap_table, 0, i.get(i.bitmap_table, 0) | 1),
    "entry-behind-the-end": lambda i: i.put(i.bitmap_table, 0, i.offset(i.end + 4)),
    "entry-zero": lambda i: i.put(i.bitmap_table, 0, 0),
    "entry-high-bits": lambda i: i.put(i.bitmap_table, 0, i.get(i.bitmap_table, 0) | 1 << 60),
    "table-largest": lambda i: bitmap_entry(i, 8, 4, 1 << 24),
    "table-all-bits": lambda i: bitmap_entry(i, 8, 4, 0xFFFFFFFF),
    "table-overflow": lambda i: bitmap_entry(i, 0, 8, (1 << 63) - i.cluster_size),
    "table-is-itself": lambda i: i.put(i.bitmap_table, 0, i.offset(i.bitmap_table)),
    "granularity-smallest": lambda i: bitmap_entry(i, 17, 1, 9),
    "granularity-largest": lambda i: bitmap_entry(i, 17, 1, 31),
    "granularity-all-bits": lambda i: bitmap_entry(i, 17, 1, 255),
    "flags-all": lambda i: bitmap_entry(i, 12, 4, 0xFFFFFFFF),
    "name-all-bits": lambda i: bitmap_entry(i, 18, 2, 0xFFFF),
}


@variants("a persistent bitmap is wrong", BITMAP_CHANGES, BITMAP)
def bitmap(i: Layout, change: Callable) -> None:
    change(i)


@variants("the bitmaps extension is wrong", {
    "count-0": (0, 4, 0), "count-2": (0, 4, 2), "count-too-many": (0, 4, 65536), "reserved": (4, 4, 1), "size-0": (8, 8, 0),
    "size-smaller": (8, 8, 16), "size-larger": (8, 8, 64), "size-huge": (8, 8, 1 << 40), "offset-unaligned": (16, 8, 100),
    "offset-behind-the-end": (16, 8, 1 << 40), "offset-0": (16, 8, 0), "count-most": (0, 4, 65535), "count-all-bits": (0, 4, 0xFFFFFFFF),
    "size-largest": (8, 8, 1024 * 65535), "size-one-more": (8, 8, 1024 * 65535 + 1), "size-all-bits": (8, 8, (1 << 64) - 1),
    "offset-largest": (16, 8, (1 << 63) - 4096), "offset-overflow": (16, 8, (1 << 64) - 4096),
}, BITMAP)  # fmt: skip
def bitmaps_extension(i: Layout, change: tuple[int, int, int]) -> None:
    at, length, value = change
    i.data[i.bitmap_extension + at : i.bitmap_extension + at + length] = value.to_bytes(length, "big")


@rule("bitmaps whose feature bit somebody cleared", BITMAP)
def bitmaps_without_their_bit(i: Layout) -> None:
    i.set_header("autoclear", 0)


@rule("bitmaps in an image of the version that has none", OLD)
def bitmaps_in_an_old_image(i: Layout) -> None:
    i.data[72 : 72 + 32] = struct.pack(">II", EXTENSION_BITMAPS, 24) + bytes(24)


# --- header bits


@rule("the image was not closed and its counts are stale", STANDARD, SMALL)
def dirty_and_stale(i: Layout) -> None:
    i.add_flag(DIRTY)
    i.set_header("compatible", 1)
    i.set_refcount(i.inside_data[0], 0)
    i.set_refcount(i.allocate(), 1)


@rule("the image was not closed")
def dirty(i: Layout) -> None:
    i.add_flag(DIRTY)


@rule("the image is marked corrupt and is whole")
def corrupt(i: Layout) -> None:
    i.add_flag(CORRUPT)


@rule("the image is marked corrupt and is")
def corrupt_and_broken(i: Layout) -> None:
    i.add_flag(CORRUPT)
    i.set_refcount(i.inside_data[0], 0)


@rule("the image is marked corrupt and dirty, and leaks")
def corrupt_dirty_and_leaking(i: Layout) -> None:
    i.add_flag(CORRUPT | DIRTY)
    i.set_refcount(i.allocate(), 1)


HEADERS: dict[str, tuple[str, int]] = {
    "magic": ("magic", 0), "version-1": ("version", 1), "version-4": ("version", 4), "cluster-bits-8": ("cluster_bits", 8),
    "cluster-bits-22": ("cluster_bits", 22), "size-2-63": ("size", 1 << 63), "size-largest": ("size", (1 << 64) - 1),
    "size-needs-more-l1": ("size", 1 << 50), "size-odd": ("size", 1000), "crypt-luks": ("crypt", 2), "crypt-3": ("crypt", 3),
    "l1-size-0": ("l1_size", 0), "l1-size-too-large": ("l1_size", (32 << 20) // 8 + 1), "l1-unaligned": ("l1_offset", 1),
    "l1-overflow": ("l1_offset", (1 << 64) - 4096), "refcount-unaligned": ("refcount_offset", 1),
    "refcount-overflow": ("refcount_offset", 1 << 63), "refcount-too-large": ("refcount_clusters", 0xFFFFFFFF),
    "incompatible-unknown": ("incompatible", 1 << 40), "compatible-unknown": ("compatible", 1 << 40),
    "autoclear-unknown": ("autoclear", 1 << 40 | 1), "refcount-order-7": ("refcount_order", 7),
    "header-length-short": ("header_length", 103), "header-length-long": ("header_length", 1 << 20),
    "compression-unknown": ("compression", 7), "compression-without-bit": ("compression", 1), "backing-offset": ("backing_offset", 1 << 30),
    "cluster-bits-all": ("cluster_bits", 0xFFFFFFFF), "size-of-l1": ("size", 3 << 21), "size-more-than-l1": ("size", (3 << 21) + 1),
    "l1-size-largest": ("l1_size", (32 << 20) // 8), "l1-largest": ("l1_offset", (1 << 63) - 4096), "l1-size-smallest": ("l1_size", 2),
    "refcount-most": ("refcount_clusters", (8 << 20) // 4096), "refcount-one-more": ("refcount_clusters", (8 << 20) // 4096 + 1),
    "refcount-largest": ("refcount_offset", (1 << 63) - 4096), "snapshots-largest": ("snapshots_offset", (1 << 63) - 4096),
    "header-length-cluster": ("header_length", 4096), "header-length-one-more": ("header_length", 4097),
    "header-length-odd": ("header_length", 109), "header-length-all-bits": ("header_length", 0xFFFFFFFF),
    "refcount-order-all-bits": ("refcount_order", 0xFFFFFFFF), "backing-offset-cluster": ("backing_offset", 4096),
    "backing-offset-one-more": ("backing_offset", 4097), "backing-offset-header": ("backing_offset", 1),
}  # fmt: skip


@variants("a field of the header is wrong", HEADERS)
def header(i: Layout, change: tuple[str, int]) -> None:
    i.set_header(*change)


def put_extension(i: Layout, kind: int, data: bytes, length: int | None = None) -> None:
    """The first one behind the header; what was there is gone."""
    at = i.get_header("header_length")
    i.data[at : at + 8] = struct.pack(">II", kind, len(data) if length is None else length)
    i.data[at + 8 : at + 8 + len(data)] = data


EXTENSION_BACKING_FORMAT, EXTENSION_FEATURES, EXTENSION_CRYPTO = 0xE2792ACA, 0x6803F857, 0x0537BE77
EXTENSIONS: dict[str, Callable[[Layout], None]] = {
    "unknown-to-the-end": lambda i: put_extension(i, 0x1234, b"", 4096 - 112 - 8),
    "unknown-one-more": lambda i: put_extension(i, 0x1234, b"", 4096 - 112 - 7),
    "unknown-all-bits": lambda i: put_extension(i, 0x1234, b"", 0xFFFFFFFF),
    "unknown-odd": lambda i: put_extension(i, 0x1234, b"12345"),
    "backing-format-longest": lambda i: put_extension(i, EXTENSION_BACKING_FORMAT, b"f" * 15),
    "backing-format-one-more": lambda i: put_extension(i, EXTENSION_BACKING_FORMAT, b"f" * 16),
    "backing-format-none": lambda i: put_extension(i, EXTENSION_BACKING_FORMAT, b"nosuchformat"),
    "features-odd": lambda i: put_extension(i, EXTENSION_FEATURES, b"\0\0name" + bytes(50)),
    "features-no-end-of-name": lambda i: put_extension(i, EXTENSION_FEATURES, b"\xff" * 48 * 20),
    "crypto": lambda i: put_extension(i, EXTENSION_CRYPTO, bytes(16)),
    "crypto-short": lambda i: put_extension(i, EXTENSION_CRYPTO, bytes(8)),
    "data-file-without-its-bit": lambda i: put_extension(i, EXTENSION_DATA_FILE, b"data"),
    "bitmaps-short": lambda i: put_extension(i, EXTENSION_BITMAPS, bytes(23)),
    "bitmaps-long": lambda i: put_extension(i, EXTENSION_BITMAPS, bytes(25)),
    "bitmaps-empty": lambda i: put_extension(i, EXTENSION_BITMAPS, bytes(24)),
}


@variants("a header extension is wrong", EXTENSIONS)
def extension(i: Layout, change: Callable) -> None:
    change(i)


def by_name(name: str) -> Rule:
    return next(rule for rule in RULES if rule.name == name)


# ---------------------------------------------------------------------- two at once


def pairs(count: int, seed: int) -> Iterator[tuple[Rule, Rule]]:
    """A seeded choice of two rules for the standard image."""
    import random

    choose = random.Random(seed)
    single = [r for r in RULES if r.geometry == STANDARD and not r.name.startswith(("header-", "whole"))]
    for _ in range(count):
        first, second = choose.sample(single, 2)
        yield first, second


def make_pair(first: Rule, second: Rule) -> Layout:
    layout = Layout(first.geometry)
    first.apply(layout)
    second.apply(layout)
    return layout
