"""qcow2 images whose tables are wrong: what a request that meets it is told, the event, the mark in the header, what comes after."""

import pytest

from blockbed_iotests import QmpError
from blockbed_iotests.hostile_qcow2 import COMPRESSED, COPIED, CORRUPT, OLD, ZERO, Geometry, Layout

NORMAL = Geometry(bitmap=True)
EXTENDED = Geometry(cluster_bits=14, extended_l2=True, bitmap=True)
PREVENTING = "Preventing invalid write on metadata (overlaps with {})"

# What must not be written over: the words of the message, and where a layout has it.
TABLES = {
    "main-header": ("qcow2_header", lambda layout: 0),
    "refcount-table": ("refcount table", lambda layout: layout.refcount_table),
    "refcount-block": ("refcount block", lambda layout: layout.refcount_block),
    "active-l1": ("active L1 table", lambda layout: layout.l1),
    "active-l2": ("active L2 table", lambda layout: layout.l2[0]),
    "inactive-l1": ("inactive L1 table", lambda layout: layout.snapshot_l1),
    "inactive-l2": ("inactive L2 table", lambda layout: layout.snapshot_l2),
    "snapshot-table": ("snapshot table", lambda layout: layout.snapshot_table),
    "bitmap-directory": ("bitmap directory", lambda layout: layout.bitmap_directory),
}
CONSTANT = {"main-header", "active-l1", "refcount-table", "snapshot-table", "bitmap-directory"}
CACHED = CONSTANT | {"active-l2", "refcount-block", "inactive-l1"}
ALL = set(TABLES)

# Guest clusters of a layout that nothing was ever written to.
UNUSED = 20


def place(layout, table):
    return layout.offset(TABLES[table][1](layout))


# How the place of a table comes to be one for guest data, and the guest cluster to write to.
def by_entry(layout, table):
    layout.set_l2(0, 0, place(layout, table) | COPIED, 0xFFFFFFFF)
    return 0


def by_preallocated_zeroes(layout, table):
    layout.set_zero(layout.ZERO_PREALLOCATED, place(layout, table) | COPIED)
    return layout.ZERO_PREALLOCATED


def by_count(layout, table):
    layout.set_refcount(place(layout, table) // layout.cluster_size, 0)
    return UNUSED


WAYS = {"entry": by_entry, "preallocated zeroes": by_preallocated_zeroes, "count": by_count}


def put(images, layout, name="image.qcow2"):
    image = images.at(name, "qcow2")
    image.path.write_bytes(layout.bytes())
    return image


def corruption(server, node="n"):
    event = server.wait_event("BLOCK_IMAGE_CORRUPTED", {"node-name": node})["data"]
    assert event.pop("device") == ""
    return event


def prevented(table, offset, size, node="n"):
    return {"node-name": node, "msg": PREVENTING.format(TABLES[table][0]), "fatal": True, "offset": offset, "size": size}


def is_marked(image):
    raw = image.path.read_bytes()
    return raw[7] >= 3 and bool(raw[79] & CORRUPT)


def refused_again(server, image):
    """What the next one is told that opens it to write."""
    return server.error("blockdev-add", {"driver": "qcow2", "node-name": "again", "file": {"driver": "file", "filename": str(image.path)}})


def assert_nothing_goes_on(nbd):
    """After a fatal corruption no request is carried out."""
    for request in (lambda: nbd.pwrite(b"\5" * 512, 0), lambda: nbd.pread(512, 0), lambda: nbd.zero(512, 0)):
        with pytest.raises(OSError):
            request()


@pytest.mark.parametrize("geometry", [NORMAL, EXTENDED, OLD], ids=str)
@pytest.mark.parametrize("way, table", [
    (way, table) for way in WAYS for table in TABLES
    # An entry that refers to the header refers to nothing; inactive L2 tables are not looked at by default.
    if table != "inactive-l2" and (table != "main-header" or way == "count")
])  # fmt: skip
def test_guest_data_does_not_go_where_tables_are(server, images, geometry, way, table):
    if geometry.version < 3 and (way == "preallocated zeroes" or table == "bitmap-directory"):
        pytest.skip("version 2 has none")
    layout = Layout(geometry)
    guest = WAYS[way](layout, table) * layout.cluster_size
    image = put(images, layout)
    server.add_image("n", image)
    with server.export("n", writable=True) as nbd:
        with pytest.raises(OSError):
            nbd.pwrite(b"\4" * 512, guest + 1024)
        assert corruption(server) == prevented(table, place(layout, table) + 1024, 512)
        assert_nothing_goes_on(nbd)
    server.block_export_del(id=nbd.export_id, mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    server.blockdev_del(node_name="n")
    assert is_marked(image) is (geometry.version >= 3)
    if geometry.version >= 3:
        assert refused_again(server, image) == "qcow2: Image is corrupt; cannot be opened read/write"
        server.add_image("again", image, read_only=True)
    at = place(layout, table)
    assert b"\4" * 512 not in image.path.read_bytes()[at : at + layout.cluster_size]


def template(name, **classes):
    return {"template": name, **classes}


# Values of overlap-check, and what they protect when the table in question is `table`.
SETTINGS = {
    "not given": lambda table: (None, CACHED),
    "none": lambda table: ("none", set()),
    "constant": lambda table: ("constant", CONSTANT),
    "cached": lambda table: ("cached", CACHED),
    "all": lambda table: ("all", ALL),
    "no template, on": lambda table: ({table: True}, CACHED | {table}),
    "no template, off": lambda table: ({table: False}, CACHED - {table}),
    "none, on": lambda table: (template("none", **{table: True}), {table}),
    "constant, on": lambda table: (template("constant", **{table: True}), CONSTANT | {table}),
    "cached, off": lambda table: (template("cached", **{table: False}), CACHED - {table}),
    "all, off": lambda table: (template("all", **{table: False}), ALL - {table}),
}


def written(server, images, table, setting, way=by_entry):
    """Whether guest data may go to the table's place."""
    option, _ = setting
    layout = Layout(NORMAL)
    guest = way(layout, table) * layout.cluster_size
    image = put(images, layout)
    server.add_image("n", image, **({} if option is None else {"overlap-check": option}))
    with server.export("n", writable=True) as nbd:
        try:
            nbd.pwrite(b"\4" * layout.cluster_size, guest)
            went = True
        except OSError:
            assert corruption(server) == prevented(table, place(layout, table), layout.cluster_size)
            went = False
    server.block_export_del(id=nbd.export_id, mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    server.blockdev_del(node_name="n")
    assert is_marked(image) is not went
    return went


@pytest.mark.parametrize("table", [table for table in TABLES if table != "main-header"])
def test_overlap_check(server, images, table):
    """Each class on and off, by itself and by template."""
    for name, make in SETTINGS.items():
        setting = make(table)
        assert written(server, images, table, setting) is (table not in setting[1]), name


@pytest.mark.parametrize("setting", [name for name, make in SETTINGS.items() if "main-header" in make("main-header")[1]])
def test_overlap_check_of_the_header(server, images, setting):
    assert not written(server, images, "main-header", SETTINGS[setting]("main-header"), by_count)


@pytest.mark.differs("writes guest data over the header", server="qemu")
def test_the_header_is_never_written_over(server, images):
    layout = Layout(NORMAL)
    layout.set_refcount(0, 0)
    image = put(images, layout)
    server.add_image("n", image, **{"overlap-check": "none"})
    with server.export("n", writable=True) as nbd, pytest.raises(OSError):
        nbd.pwrite(b"\4" * layout.cluster_size, UNUSED * layout.cluster_size)
    assert corruption(server) == {"node-name": "n", "msg": "Preventing invalid allocation of data cluster at offset 0", "fatal": True}
    assert image.path.read_bytes()[:72] == layout.bytes()[:72]


@pytest.mark.parametrize("value, error", [
    ("bogus", "Parameter 'overlap-check' does not accept value 'bogus'"),
    ({"template": "bogus"}, "Parameter 'template' does not accept value 'bogus'"),
    ({"bogus": True}, "Parameter 'overlap-check.bogus' is unexpected"),
    ({"active-l1": 1}, "Invalid parameter type for 'overlap-check.active-l1', expected: boolean"),
])
def test_overlap_check_that_cannot_be(server, images, value, error):
    image = put(images, Layout(NORMAL))
    assert server.error("blockdev-add", {
        "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}, "overlap-check": value,
    }) == error


# Entries of the L2 table that cannot be: (geometry, guest cluster 0's entry and bitmap, request, message).
WHERE = "(L2 offset: 0x{:x}, L2 index: 0)"
ENTRIES = {
    "zero flag in version 2, read": (OLD, ZERO, None, "read", "Zero cluster entry found in pre-v3 image " + WHERE),
    "zero flag with a place in version 2, read": (OLD, COPIED | 0x6000 | ZERO, None, "read", "Zero cluster entry found in pre-v3 image " + WHERE),
    "both bits of a subcluster, read": (EXTENDED, COPIED | 0x18000, 1 << 32 | 1, "read", "Invalid cluster entry found  " + WHERE),
    "data without a place, read": (EXTENDED, 0, 1, "read", "Invalid cluster entry found  " + WHERE),
    "unaligned, read": (EXTENDED, COPIED | 0x18200, 1, "read", "Cluster allocation offset 0x18200 unaligned " + WHERE),
    "unaligned in version 2, read": (OLD, COPIED | 0x6200, None, "read", "Cluster allocation offset 0x6200 unaligned " + WHERE),
    "both bits of a subcluster, written": (EXTENDED, COPIED | 0x18000, 1 << 32 | 1, "write", "Invalid cluster entry found " + WHERE),
    "data without a place, written": (EXTENDED, 0, 1, "write", "Invalid cluster entry found " + WHERE),
    "unaligned, written": (EXTENDED, COPIED | 0x18200, 1, "write", "Data cluster offset 0x18200 unaligned (guest offset: 0)"),
    "unaligned in version 2, written": (OLD, COPIED | 0x6200, None, "write", "Data cluster offset 0x6200 unaligned (guest offset: 0)"),
}


@pytest.mark.parametrize("read_only", [False, True], ids=["rw", "ro"])
@pytest.mark.parametrize("case", ENTRIES)
def test_entries_that_cannot_be(server, images, case, read_only):
    geometry, value, bitmap, request, message = ENTRIES[case]
    if read_only and request == "write":
        pytest.skip("nothing is written")
    layout = Layout(geometry)
    layout.set_l2(0, 0, value, bitmap)
    image = put(images, layout)
    server.add_image("n", image, read_only=read_only)
    with server.export("n", writable=not read_only) as nbd:
        for _ in range(2):
            with pytest.raises(OSError):
                nbd.pread(512, 0) if request == "read" else nbd.pwrite(b"\4" * 512, 0)
        if read_only:
            # The rest of the disk is as good as before.
            assert nbd.pread(512, layout.cluster_size) == b"\x11" * 512
    message = message.format(layout.offset(layout.l2[0]))
    assert corruption(server) == {"node-name": "n", "msg": message, "fatal": not read_only}
    server.stop()
    assert is_marked(image) is (geometry.version >= 3 and not read_only)


@pytest.mark.parametrize("value", [COMPRESSED | 0x3000, COMPRESSED | 1 << 40, COMPRESSED | (1 << 62) - 1], ids=hex)
def test_compressed_data_that_is_none(server, images, value):
    """An I/O error, and no corruption that would end the use of the image."""
    layout = Layout(NORMAL)
    layout.set_l2(0, 0, value)
    image = put(images, layout)
    server.add_image("n", image)
    with server.export("n", writable=True) as nbd:
        with pytest.raises(OSError):
            nbd.pwrite(b"\4" * 512, 0)
        assert nbd.pread(512, layout.cluster_size) == b"\x11" * 512
        # QEMU ends the connection.
        with pytest.raises(OSError):
            nbd.pread(512, 0)
    server.stop()
    assert not is_marked(image)
    assert not server.events("BLOCK_IMAGE_CORRUPTED")


@pytest.mark.parametrize("table", [table for table in TABLES if table not in ("active-l2", "inactive-l2")])
def test_a_snapshot_does_not_go_where_tables_are(server, images, table):
    """What a snapshot writes first is each server's own affair."""
    layout = Layout(NORMAL)
    by_count(layout, table)
    image = put(images, layout)
    server.add_image("n", image)
    error = server.error("blockdev-snapshot-internal-sync", {"device": "n", "name": "new"})
    assert error == "Failed to create snapshot 'new' on device 'n': Input/output error"
    event = corruption(server)
    if table != "main-header":
        assert (event["msg"], event["offset"]) == (PREVENTING.format(TABLES[table][0]), place(layout, table))
    assert event["fatal"] is True
    assert isinstance(server.try_execute("blockdev-snapshot-internal-sync", {"device": "n", "name": "other"}), QmpError)
    assert isinstance(server.try_execute("block_resize", {"node-name": "n", "size": 1 << 20}), QmpError)
    server.stop()
    assert is_marked(image)
    assert image.path.read_bytes()[60:72] == layout.bytes()[60:72]


@pytest.mark.differs("frees the table, and meets the corruption when its place is used again", server="qemu")
@pytest.mark.parametrize("way, table, request_", [
    (way, table, request) for way in ("entry", "preallocated zeroes") for table in TABLES for request in ("trim", "zero", "shrink")
    # A disk of no clusters has no L2 table.
    if table not in ("main-header", "inactive-l2") and (way, table, request) != ("entry", "active-l2", "shrink")
])  # fmt: skip
def test_a_table_is_not_freed(server, images, table, way, request_):
    """An entry that takes a table for guest data goes away, and the image is as it should be."""
    layout = Layout(NORMAL)
    guest = WAYS[way](layout, table)
    at = guest * layout.cluster_size
    image = put(images, layout)
    server.add_image("n", image, discard="unmap")
    with server.export("n", writable=True) as nbd:
        if request_ == "trim":
            nbd.trim(layout.cluster_size, at)
        elif request_ == "zero":
            nbd.zero(layout.cluster_size, at)
        nbd.flush()
    server.block_export_del(id=nbd.export_id, mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    if request_ == "shrink":
        server.block_resize(node_name="n", size=at)
    offset = place(layout, table)
    assert corruption(server) == {
        "node-name": "n", "msg": f"Cannot free cluster {offset:#x} (overlaps with {TABLES[table][0]})", "fatal": False,
        "offset": offset, "size": layout.cluster_size,
    }
    server.stop()
    assert not is_marked(image)
    # What the entry had referred to before has leaked.
    image.check(leaks=1)


@pytest.mark.parametrize("geometry", [NORMAL, EXTENDED, OLD], ids=str)
@pytest.mark.parametrize("read_only", [False, True], ids=["rw", "ro"])
def test_an_l1_entry_that_is_not_aligned(server, images, geometry, read_only):
    layout = Layout(geometry)
    layout.set_l1(0, layout.offset(layout.l2[0]) + 512 | COPIED)
    image = put(images, layout)
    server.add_image("n", image, read_only=read_only)
    with server.export("n", writable=not read_only) as nbd:
        for _ in range(2):
            with pytest.raises(OSError):
                nbd.pread(512, 0)
    message = f"L2 table offset {layout.offset(layout.l2[0]) + 512:#x} unaligned (L1 index: 0)"
    assert corruption(server) == {"node-name": "n", "msg": message, "fatal": not read_only}
    server.stop()
    assert is_marked(image) is (geometry.version >= 3 and not read_only)
