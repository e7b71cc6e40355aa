"""What of its file a qcow2 image gives back when clusters become free: pass-discard-snapshot and pass-discard-other."""

import os
import random

import pytest

from blockbed_iotests import qemu_img

CLUSTER = 65536
# Clusters that tables may take or leave.
FEW = 3


def clusters_of(image):
    return os.stat(image.path).st_blocks * 512 // CLUSTER


def add(server, image, options):
    file = {"driver": "file", "filename": str(image.path), "discard": "unmap"}
    server.execute("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": file, **options})


@pytest.mark.parametrize(
    ("options", "given_back"),
    [
        ({}, True),
        ({"pass-discard-snapshot": True}, True),
        ({"pass-discard-snapshot": False}, False),
        ({"pass-discard-snapshot": False, "pass-discard-other": True, "pass-discard-request": True}, False),
        ({"pass-discard-snapshot": True, "pass-discard-other": False, "pass-discard-request": False}, True),
    ],
    ids=str,
)
def test_a_snapshot_is_deleted(server, images, options, given_back):
    image = images.create("image.qcow2", size="16M").fill((0, "4M", 1))
    qemu_img("snapshot", "-c", "s", image.path)
    image.io("write -P 2 0 4M")
    before = clusters_of(image)
    add(server, image, options)
    server.execute("blockdev-snapshot-delete-internal-sync", {"device": "n", "name": "s"})
    server.stop()
    after = clusters_of(image)
    assert abs(before - after - (64 if given_back else 0)) <= FEW
    image.check()
    image.read(0, "4M", 2)


@pytest.mark.parametrize("options", [{}, {"pass-discard-other": True}, {"pass-discard-other": False, "pass-discard-snapshot": True}], ids=str)
def test_compressed_data_is_overwritten(server, images, options):
    """The place of what was compressed (half a cluster each) is free, and not given back whatever the options say."""
    bytes_of = random.Random(1).randbytes
    raw = images.dir / "raw"
    raw.write_bytes(b"".join(bytes_of(CLUSTER // 2) + bytes(CLUSTER // 2) for _ in range(64)))
    image = images.at("image.qcow2", "qcow2")
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, image.path)
    before = clusters_of(image)
    add(server, image, options)
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\7" * (64 * CLUSTER), 0)
        nbd.flush()
    server.stop()
    assert abs(clusters_of(image) - before - 64) <= FEW
    image.check()
    image.read(0, 64 * CLUSTER, 7)


def test_a_table_is_moved(server, images):
    """The old L1 table, 128 KiB of it written: given back with pass-discard-other, which is not the default."""
    taken = {}
    for options in ({}, {"pass-discard-other": False}, {"pass-discard-other": True}):
        image = images.create("image.qcow2", size="512M", cluster_size=512)
        image.io(*(f"write {at}M 512" for at in range(0, 512, 16)))
        add(server, image, options)
        server.block_resize(node_name="n", size=1 << 30)
        server.blockdev_del(node_name="n")
        taken[str(options)] = os.stat(image.path).st_blocks * 512
        image.check()
        image.path.unlink()
    default, kept, given_back = taken.values()
    assert default == kept
    assert kept - given_back >= 100 << 10
