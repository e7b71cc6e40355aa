"""Zeroes written to qcow2 images: which clusters stay, and which are given back."""

import pytest

from blockbed_iotests import qemu_img

K = 1024
SIZE = 1 << 20
CLUSTER = 64 * K


def zero(server, node, *ranges, no_hole=True):
    with server.export(node, writable=True) as nbd:
        for offset, length in ranges:
            nbd.zero(length, offset, no_hole=no_hole)


def places(image):
    """The clusters of the disk that have a place in the file."""
    extents = (each for each in image.map() if "offset" in each)
    return [at // CLUSTER for each in extents for at in range(each["start"], each["start"] + each["length"], CLUSTER)]


# ---------------------------------------------------------------------- version 2, which has no zero flag


@pytest.mark.parametrize("no_hole", [True, False])
@pytest.mark.parametrize(
    "ranges, left",
    [
        ([(0, CLUSTER)], [1, 2, 3]),
        ([(CLUSTER, 2 * CLUSTER)], [0, 3]),
        # Parts of clusters that hold something are written.
        ([(32 * K, CLUSTER)], [0, 1, 2, 3]),
        ([(32 * K, 2 * CLUSTER)], [0, 2, 3]),
        # What is not there already reads as zeroes.
        ([(4 * CLUSTER + 512, CLUSTER)], [0, 1, 2, 3]),
        ([(0, SIZE)], []),
    ],
)
def test_version_2(server, images, ranges, left, no_hole):
    image = images.create("a.qcow2", compat="0.10").fill((0, 4 * CLUSTER, 0x11))
    server.add_image("n", image)
    zero(server, "n", *ranges, no_hole=no_hole)
    server.stop()
    assert places(image) == left
    assert image.check().get("allocated-clusters", 0) == len(left)
    wanted = bytearray(b"\x11" * 4 * CLUSTER + bytes(SIZE - 4 * CLUSTER))
    for offset, length in ranges:
        wanted[offset:offset + length] = bytes(length)
    assert image.content() == wanted


def test_version_2_compressed(server, images):
    image = images.create("a.qcow2", compat="0.10")
    image.io(f"write -c -P 17 0 {CLUSTER}", f"write -c -P 18 {CLUSTER} {CLUSTER}")
    server.add_image("n", image)
    zero(server, "n", (0, CLUSTER))
    server.stop()
    assert image.check()["compressed-clusters"] == 1
    assert image.content() == bytes(CLUSTER) + b"\x12" * CLUSTER + bytes(SIZE - 2 * CLUSTER)


def test_version_2_with_a_snapshot(server, images):
    """The snapshot keeps its data."""
    image = images.create("a.qcow2", compat="0.10").fill((0, 4 * CLUSTER, 0x11))
    server.add_image("n", image)
    server.blockdev_snapshot_internal_sync(device="n", name="s")
    zero(server, "n", (0, 2 * CLUSTER))
    server.stop()
    image.check()
    assert places(image) == [2, 3]
    assert image.content() == bytes(2 * CLUSTER) + b"\x11" * 2 * CLUSTER + bytes(SIZE - 4 * CLUSTER)
    qemu_img("snapshot", "-a", "s", image.path)
    assert image.content() == b"\x11" * 4 * CLUSTER + bytes(SIZE - 4 * CLUSTER)


@pytest.mark.parametrize("length", [4 * CLUSTER, CLUSTER])
def test_version_2_over_a_backing_file(server, images, length):
    """It would show again: zeroes are written."""
    base = images.create("base.qcow2", size=length).fill((0, length, 0x22))
    image = images.create("a.qcow2", size=SIZE, compat="0.10", backing=base).fill((0, CLUSTER, 0x11))
    server.add_image("n", image)
    zero(server, "n", (0, 2 * CLUSTER))
    server.stop()
    image.check()
    assert places(image)[:2] == [0, 1]
    image.read(0, 2 * CLUSTER, 0)


@pytest.mark.parametrize("no_hole", [True, False])
@pytest.mark.parametrize("options", [{"compat": "1.1"}, {"extended_l2": "on"}], ids=["plain", "subclusters"])
def test_a_part_of_a_cluster_that_reads_as_zeroes_already(server, images, options, no_hole):
    """It takes no space: what the backing file shows beside it are zeroes too, by its tables or its holes or its end."""
    base = images.create("base.qcow2", size=3 * CLUSTER + 8 * K).fill((CLUSTER, 4 * K, 0x22), (2 * CLUSTER, 4 * K, 0x33))
    image = images.create("a.qcow2", size=SIZE, backing=base, **options)
    server.add_image("n", image)
    zero(server, "n", (8 * K, 4 * K), (CLUSTER + 8 * K, 512), (2 * CLUSTER, 4 * K), (3 * CLUSTER, 4 * K), (5 * CLUSTER - 512, K), no_hole=no_hole)
    server.stop()
    image.check()
    assert set(places(image)) <= {1, 2}
    image.read(CLUSTER, 4 * K, 0x22)
    for offset, length in (0, CLUSTER), (CLUSTER + 4 * K, CLUSTER - 4 * K), (2 * CLUSTER, SIZE - 2 * CLUSTER):
        image.read(offset, length, 0)


# ---------------------------------------------------------------------- may the space be given back?

NODE = {"driver": "qcow2", "node-name": "q"}
FILTER = {"driver": "copy-on-read", "node-name": "n"}


@pytest.mark.differs("QEMU forgets the zeroes", server="qemu")
def test_version_2_without_the_backing_file_that_it_names(server, images):
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 0x22))
    image = images.create("a.qcow2", size=SIZE, compat="0.10", backing=base).fill((0, 2 * CLUSTER, 0x11))
    server.add_image("a", image, backing=None)
    zero(server, "a", (0, CLUSTER), (5 * CLUSTER, CLUSTER), no_hole=False)
    server.stop()
    image.read(0, CLUSTER, 0)
    image.read(CLUSTER, CLUSTER, 0x11)
    image.read(2 * CLUSTER, 3 * CLUSTER, 0x22)
    image.read(5 * CLUSTER, CLUSTER, 0)


@pytest.mark.parametrize("options", ["compat=1.1", "extended_l2=on", "data_file"])
@pytest.mark.parametrize(
    "discard, filtered, no_hole, left",
    [
        # Who stands on top decides by the request.
        (None, False, False, [0, 3]),
        ("ignore", False, False, [0, 3]),
        ("unmap", False, False, [0, 3]),
        (None, False, True, [0, 1, 2, 3]),
        ("unmap", False, True, [0, 1, 2, 3]),
        # Below a node `discard` decides, which a child that is only named has not.
        (None, True, False, [0, 1, 2, 3]),
        ("ignore", True, False, [0, 1, 2, 3]),
        ("unmap", True, False, [0, 3]),
        ("unmap", True, True, [0, 1, 2, 3]),
    ],
)
def test_space_is_given_back(server, images, options, discard, filtered, no_hole, left):
    if options == "data_file":
        more = {"data_file": images.dir / "data"}
    else:
        name, value = options.split("=")
        more = {name: value}
    image = images.create("a.qcow2", **more).fill((0, 4 * CLUSTER, 0x11))
    node = {**NODE, "file": {"driver": "file", "filename": str(image.path)}}
    server.execute("blockdev-add", {**node, "discard": discard} if discard else node)
    if filtered:
        server.execute("blockdev-add", {**FILTER, "file": "q"})
    zero(server, "n" if filtered else "q", (CLUSTER, 2 * CLUSTER), no_hole=no_hole)
    server.stop()
    image.check()
    assert places(image) == left
    assert image.content() == b"\x11" * CLUSTER + bytes(2 * CLUSTER) + b"\x11" * CLUSTER + bytes(SIZE - 4 * CLUSTER)


@pytest.mark.parametrize("discard, given_back", [(None, True), ("ignore", False), ("unmap", True)])
def test_a_raw_file_inside_a_node(server, images, discard, given_back):
    """It unmaps unless it says something else."""
    image = images.create("a.raw", "raw").fill((0, SIZE, 0x11))
    storage = {"driver": "file", "filename": str(image.path)}
    server.execute("blockdev-add", {
        "driver": "raw", "node-name": "n", "file": {**storage, "discard": discard} if discard else storage})
    zero(server, "n", (0, SIZE // 2), no_hole=False)
    server.stop()
    assert (image.path.stat().st_blocks * 512 < SIZE) == given_back
    assert image.content() == bytes(SIZE // 2) + b"\x11" * (SIZE // 2)
