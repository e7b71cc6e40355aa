"""block_resize: which sizes are taken, what stands in the way, what the disk and its bitmaps are afterwards."""

import pytest

from blockbed_iotests import qemu_img

MIB = 1 << 20
SIZE = 8 * MIB
MAXIMUM = (1 << 63) - (1 << 30)

MULTIPLE = "The new size must be a multiple of 512"
IMAGES = {
    "qcow2": ("qcow2", {}),
    "qcow2 version 2": ("qcow2", {"compat": "0.10"}),
    "qcow2 small clusters": ("qcow2", {"cluster_size": 512}),
    "raw": ("raw", {}),
}
# (size, error of qcow2, error of raw); None is taken.
SIZES = [
    (0, None, None),
    (512, None, None),
    (SIZE, None, None),
    (65536 + 512, None, None),
    (2 * SIZE, None, None),
    (-1, "Parameter 'size' expects a >0 size", "Parameter 'size' expects a >0 size"),
    (-512, "Parameter 'size' expects a >0 size", "Parameter 'size' expects a >0 size"),
    (1000, MULTIPLE, None),
    (1 << 56, "Failed to grow the L1 table: File too large", "Could not resize file: File too large"),
    (MAXIMUM - (1 << 30), "Failed to grow the L1 table: File too large", "Could not resize file: File too large"),
    (MAXIMUM, "Failed to grow the L1 table: File too large", "Could not resize file: File too large"),
    (MAXIMUM + 512, f"offset({MAXIMUM + 512}) exceeds maximum({MAXIMUM})", f"offset({MAXIMUM + 512}) exceeds maximum({MAXIMUM})"),
    (1 << 63, "Invalid parameter type for 'size', expected: integer", "Invalid parameter type for 'size', expected: integer"),
]


@pytest.mark.parametrize("size, qcow2, raw", SIZES, ids=[str(row[0]) for row in SIZES])
@pytest.mark.parametrize("kind", IMAGES)
def test_sizes(server, images, kind, size, qcow2, raw):
    format, options = IMAGES[kind]
    image = images.create("image", format, SIZE, **options).fill((0, SIZE, 1))
    server.add_image("n", image)
    error = qcow2 if format == "qcow2" else raw
    if error is None:
        server.block_resize(node_name="n", size=size)
        now = -(-size // 512) * 512
    else:
        assert server.error("block_resize", {"node-name": "n", "size": size}) == error
        now = SIZE
    assert server.query_node("n")["image"]["virtual-size"] == now
    server.stop()
    image.check()
    content = image.content()
    assert content[: min(size, SIZE) if error is None else SIZE].strip(b"\1") == b""
    assert content[SIZE:].strip(b"\0") == b""


def test_sizes_behind_an_offset(server, images):
    image = images.create("image.raw", "raw", SIZE)
    server.blockdev_add(driver="raw", node_name="n", offset=4096, file={"driver": "file", "filename": str(image.path)})
    for size, error in [
        (MAXIMUM - 4096, "Could not resize file: File too large"),
        (MAXIMUM - 1024, f"offset({MAXIMUM + 3072}) exceeds maximum({MAXIMUM})"),
        (MAXIMUM, f"offset({MAXIMUM + 4096}) exceeds maximum({MAXIMUM})"),
        (MAXIMUM + 1, f"offset({MAXIMUM + 1}) exceeds maximum({MAXIMUM})"),
    ]:
        assert server.error("block_resize", {"node-name": "n", "size": size}) == error, size
    server.block_resize(node_name="n", size=MIB)
    server.stop()
    assert image.file_size == MIB + 4096


FILTERS = {
    "throttle": {"driver": "throttle", "throttle-group": "g", "file": "n"},
    "copy-on-read": {"driver": "copy-on-read", "file": "n"},
    "compress": {"driver": "compress", "file": "n"},
    "blkdebug": {"driver": "blkdebug", "image": "n"},
    "raw": {"driver": "raw", "file": "n"},
}


@pytest.mark.parametrize("size", [4 * MIB, 16 * MIB])
@pytest.mark.parametrize("name", FILTERS)
def test_through_a_filter(server, images, name, size):
    image = images.create("image.qcow2", size=SIZE).fill((0, SIZE, 1))
    server.object_add({"qom-type": "throttle-group", "id": "g"})
    server.add_image("n", image)
    server.execute("blockdev-add", {**FILTERS[name], "node-name": "f"})
    server.block_resize(node_name="f", size=size)
    assert [server.query_node(node)["image"]["virtual-size"] for node in ("f", "n")] == [size, size]
    assert server.error("block_resize", {"node-name": "f", "size": size + 100}) == MULTIPLE
    server.stop()
    image.check()
    assert image.info()["virtual-size"] == size


@pytest.mark.parametrize("old, backing, new", [(8, 4, 16), (4, 8, 6), (4, 8, 16), (4, 16, 8), (8, 8, 2)])
@pytest.mark.parametrize("options", [{}, {"compat": "0.10"}, {"extended_l2": "on"}], ids=str)
def test_what_a_backing_file_has_behind_the_end_does_not_appear(server, images, options, old, backing, new):
    base = images.create("base.qcow2", size=backing * MIB).fill((0, backing * MIB, 9))
    image = images.create("image.qcow2", size=old * MIB, backing=base, **options).fill((0, "1M", 1))
    server.add_image("n", image)
    if new > old and backing > old and "compat" in options:
        # Without a zero flag there is no way to hide it.
        assert server.error("block_resize", {"node-name": "n", "size": new * MIB}).startswith("Failed to zero out")
        return
    server.block_resize(node_name="n", size=new * MIB)
    server.stop()
    image.check()
    shown = min(old, backing, new) * MIB
    assert image.content() == (b"\1" * MIB).ljust(shown, b"\x09").ljust(new * MIB, b"\0")


@pytest.mark.parametrize("size", [2 * MIB, 16 * MIB])
@pytest.mark.parametrize("options, error", [({}, None), ({"compat": "0.10"}, "Can't resize a v2 image which has snapshots")], ids=str)
def test_with_a_snapshot(server, images, options, error, size):
    image = images.create("image.qcow2", size=SIZE, **options).fill((0, SIZE, 1))
    qemu_img("snapshot", "-c", "s", image.path)
    server.add_image("n", image)
    if error:
        assert server.error("block_resize", {"node-name": "n", "size": size}) == error
    else:
        server.block_resize(node_name="n", size=size)
    server.stop()
    image.check()
    if not error:
        assert image.info()["virtual-size"] == size
        qemu_img("snapshot", "-a", "s", image.path)
        assert image.content() == b"\1" * SIZE


def test_read_only(server, images):
    for format in ("qcow2", "raw"):
        server.add_image(format, images.create(f"image.{format}", format, SIZE), read_only=True)
        for size in (4 * MIB, SIZE, 16 * MIB):
            assert "read-only" in server.error("block_resize", {"node-name": format, "size": size}), format


# ---------------------------------------------------------------------- what an image has beside the disk


@pytest.mark.parametrize("size", [0, 4 * MIB, SIZE, 12 * MIB + 512])
@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
def test_dirty_bitmaps_follow(server, images, persistent, disabled, size):
    image = images.create("image.qcow2", size=SIZE)
    server.add_image("n", image)
    server.block_dirty_bitmap_add(node="n", name="b", granularity=65536, persistent=persistent)
    with server.export("n", writable=True) as guest:
        guest.pwrite(b"\1" * MIB, 0)
        guest.pwrite(b"\1" * MIB, 7 * MIB)
    server.block_export_del(id=guest.export_id)
    server.wait_event("BLOCK_EXPORT_DELETED")
    if disabled:
        server.block_dirty_bitmap_disable(node="n", name="b")

    def count():
        return server.query_node("n")["dirty-bitmaps"][0]["count"]

    # What is new is not marked, and what was cut off is not marked when it comes back.
    server.block_resize(node_name="n", size=size)
    left = (MIB if size > 0 else 0) + (MIB if size >= SIZE else 0)
    assert count() == left
    server.block_resize(node_name="n", size=16 * MIB)
    assert count() == left
    server.stop()
    image.check()
    bitmaps = image.info()["format-specific"]["data"].get("bitmaps", [])
    assert [bitmap["name"] for bitmap in bitmaps] == (["b"] if persistent else [])


@pytest.mark.parametrize("size", [4 * MIB, 16 * MIB])
def test_a_bitmap_that_was_not_closed_stands_in_the_way(server, images, size):
    for name in ("good", "bad"):
        image = images.create(name, size=SIZE)
        qemu_img("bitmap", "--add", image.path, "b")
        if name == "bad":
            with open(image.path, "r+b") as file:
                # The flags stand before the type of the bitmap, its granularity and the length of its name.
                file.seek(file.read().rindex(b"\1\x10\0\1\0\0\0\0b") - 1)
                file.write(b"\3")
        server.add_image(name, image)
    server.block_resize(node_name="good", size=size)
    assert server.error("block_resize", {"node-name": "bad", "size": size}) == "Bitmap 'b' is inconsistent and cannot be used"
    assert server.query_node("bad")["image"]["virtual-size"] == SIZE
    server.stop()
    images.at("good", "qcow2").check()


def add_with_data_file(server, images, raw):
    image = images.create("image.qcow2", size=SIZE, data_file=images.dir / "data", data_file_raw="on" if raw else "off")
    image.fill((0, SIZE, 1))
    data = images.at("data", "raw")
    server.blockdev_add(
        driver="qcow2", node_name="n", file={"driver": "file", "filename": str(image.path)},
        **{"data-file": {"driver": "file", "node-name": "data", "filename": str(data.path)}},
    )
    return image, data


@pytest.mark.parametrize("raw", [False, True])
def test_a_data_file_that_grows(server, images, raw):
    image, data = add_with_data_file(server, images, raw)
    server.block_resize(node_name="n", size=16 * MIB)
    assert server.query_node("data")["image"]["virtual-size"] == 16 * MIB
    assert server.error("block_resize", {"node-name": "n", "size": 1000}) == MULTIPLE
    server.stop()
    image.check()
    expected = (b"\1" * SIZE).ljust(16 * MIB, b"\0")
    assert image.content() == expected
    assert not raw or data.content() == expected


@pytest.mark.differs("an assertion when a data file shrinks, or a raw one gets part of a cluster", server="qemu")
@pytest.mark.parametrize("raw, size", [(False, 0), (False, 4 * MIB), (True, 0), (True, 4 * MIB + 512), (True, 12 * MIB + 512)])
def test_a_data_file_of_any_size(server, images, raw, size):
    image, data = add_with_data_file(server, images, raw)
    server.block_resize(node_name="n", size=size)
    assert server.query_node("data")["image"]["virtual-size"] == size
    server.stop()
    image.check()
    expected = (b"\1" * min(size, SIZE)).ljust(size, b"\0")
    assert image.content() == expected
    assert data.file_size == size
    assert not raw or data.content() == expected


PREALLOCATED = [
    ("raw", {"preallocation": "falloc"}),
    ("raw", {"preallocation": "full"}),
    ("qcow2", {"preallocation": "metadata"}),
    ("qcow2", {"preallocation": "falloc"}),
    ("qcow2", {"preallocation": "full", "cluster_size": 512}),
]


@pytest.mark.parametrize("size", [0, 4 * MIB, SIZE, 16 * MIB])
@pytest.mark.parametrize("format, options", PREALLOCATED, ids=str)
def test_preallocated(server, images, format, options, size):
    image = images.create("image", format, SIZE, **options)
    before = image.path.stat().st_blocks * 512
    server.add_image("n", image)
    server.block_resize(node_name="n", size=size)
    server.stop()
    image.check()
    assert image.info()["virtual-size"] == size
    assert image.content() == bytes(size)
    # What a disk loses the file gives back, wherever in it that was; what is new is not preallocated.
    now = image.path.stat().st_blocks * 512
    assert now <= before + 2 * MIB
    assert now <= size + 2 * MIB


@pytest.mark.parametrize("snapshot", [False, True])
def test_space_in_the_middle_of_the_file_is_given_back(server, images, snapshot):
    image = images.create("image.qcow2", size=SIZE).fill((4 * MIB, 4 * MIB, 1))
    if snapshot:
        qemu_img("snapshot", "-c", "s", image.path)
    # Written last, so that the file cannot become shorter.
    image.fill((0, MIB, 2))
    server.add_image("n", image)
    server.block_resize(node_name="n", size=4 * MIB)
    server.stop()
    image.check()
    assert (image.path.stat().st_blocks * 512 < 3 * MIB) is not snapshot
    image.read(0, MIB, 2)


@pytest.mark.differs("what the last cluster had behind the end appears again when the disk grows", server="qemu")
@pytest.mark.parametrize("size", [1536, 65536 + 512, 4 * MIB + 512])
def test_what_was_cut_off_does_not_come_back(server, images, size):
    image = images.create("image.qcow2", size=SIZE).fill((0, SIZE, 1))
    server.add_image("n", image)
    server.block_resize(node_name="n", size=size)
    server.block_resize(node_name="n", size=16 * MIB)
    server.stop()
    image.check()
    assert image.content() == (b"\1" * size).ljust(16 * MIB, b"\0")


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_growing_is_no_write(server, images, format):
    """`wr_highest_offset` tells of what was written."""
    server.add_image("n", images.create("image", format, SIZE))

    def highest():
        entries = server.query_blockstats(query_nodes=True)
        return next(entry["stats"]["wr_highest_offset"] for entry in entries if entry["node-name"] == "n")

    server.block_resize(node_name="n", size=16 * MIB)
    assert highest() == 0
    with server.export("n", writable=True) as guest:
        guest.pwrite(bytes(65536), MIB)
    server.block_export_del(id=guest.export_id)
    server.wait_event("BLOCK_EXPORT_DELETED")
    for size in (32 * MIB, 512, 64 * MIB):
        server.block_resize(node_name="n", size=size)
        assert highest() == MIB + 65536
