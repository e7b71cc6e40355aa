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
