"""An image that was found corrupt in a fatal way is not used any more: commands say that there is no medium."""

import pytest

from blockbed_iotests import QmpError, qemu_img

MIB = 1 << 20
NO_MEDIUM = "Device has no medium"
NO_LENGTH = "Failed to determine the NBD export's length: No medium found"


@pytest.fixture
def corrupt(server, images):
    """Node `n`, found corrupt by a read; it has a bitmap and a snapshot. Node `t` is a raw disk of the same size, `o` an overlay."""
    image = images.create("image.qcow2", size=MIB).fill((0, "64k", 1))
    qemu_img("snapshot", "-c", "snap", image.path)
    qemu_img("bitmap", "--add", image.path, "b")
    with open(image.path, "r+b") as file:
        file.seek(40)
        file.seek(int.from_bytes(file.read(8), "big"))
        file.write((1 << 63 | 0x42A00).to_bytes(8, "big"))
    server.add_image("n", image)
    server.add_image("t", images.create("t.raw", "raw", MIB))
    server.add_image("o", images.create("o.qcow2", size=MIB), backing=None)
    with server.export("n", id="e") as nbd, pytest.raises(OSError):
        nbd.pread(512, 0)
    server.wait_event("BLOCK_IMAGE_CORRUPTED", {"fatal": True})
    server.block_export_del(id="e", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    return server


def action(kind, **data):
    return "transaction", {"actions": [{"type": kind, "data": data}]}


REFUSED = [
    ("block-dirty-bitmap-add", {"node": "n", "name": "p", "persistent": True}, "Can't store persistent bitmaps to n: No medium found"),
    ("block-dirty-bitmap-add", {"node": "n", "name": "p"}, "could not get length of device: No medium found"),
    (*action("block-dirty-bitmap-add", node="n", name="p", persistent=True), "Can't store persistent bitmaps to n: No medium found"),
    ("blockdev-snapshot-internal-sync", {"device": "n", "name": "new"}, NO_MEDIUM),
    ("blockdev-snapshot-internal-sync", {"device": "n", "name": "snap"}, NO_MEDIUM),
    ("blockdev-snapshot-internal-sync", {"device": "n", "name": ""}, NO_MEDIUM),
    (*action("blockdev-snapshot-internal-sync", device="n", name="new"), NO_MEDIUM),
    ("blockdev-snapshot-delete-internal-sync", {"device": "n", "name": "snap"}, NO_MEDIUM),
    ("blockdev-snapshot-delete-internal-sync", {"device": "n"}, NO_MEDIUM),
    ("change-backing-file", {"device": "n", "image-node-name": "n", "backing-file": "x"}, NO_MEDIUM),
    ("block_resize", {"node-name": "n", "size": 2 * MIB}, "No medium inserted"),
    ("block_resize", {"node-name": "n", "size": 100}, "No medium inserted"),
    ("blockdev-snapshot", {"node": "n", "overlay": "o"}, "Device 'n' has no medium"),
    ("blockdev-backup", {"job-id": "j", "device": "n", "target": "t", "sync": "full"}, "Device is not inserted: "),
    ("blockdev-backup", {"job-id": "j", "device": "t", "target": "n", "sync": "full"}, "Device is not inserted: "),
    ("blockdev-mirror", {"job-id": "j", "device": "n", "target": "t", "sync": "full"}, NO_MEDIUM),
    ("block-commit", {"job-id": "j", "device": "n"}, NO_MEDIUM),
    ("block-stream", {"job-id": "j", "device": "n"}, "Could not create node: Bottom node 'n' not opened"),
    ("block-stream", {"job-id": "j", "device": "n", "bottom": "n"}, "Node 'n' is not open"),
    ("block-export-add", {"type": "nbd", "id": "new", "node-name": "n"}, NO_LENGTH),
    ("block-export-add", {"type": "nbd", "id": "new", "node-name": "n", "bitmaps": ["none"]}, NO_LENGTH),
    ("blockdev-add", {"driver": "raw", "node-name": "r", "file": "n"}, "Could not get image size: No medium found"),
    ("blockdev-add", {"driver": "copy-on-read", "node-name": "r", "file": "n"}, "Could not refresh total sector count: No medium found"),
    ("blockdev-add", {"driver": "qcow2", "node-name": "r", "file": "n"}, "Could not read qcow2 header: No medium found"),
    ("x-blockdev-amend", {"job-id": "j", "node-name": "n", "options": {"driver": "qcow2"}}, "x-blockdev-amend doesn't support changing the block driver"),
]


def test_what_is_refused(corrupt):
    for command, arguments, error in REFUSED:
        result = corrupt.try_execute(command, arguments)
        assert isinstance(result, QmpError) and result.desc == error, (command, arguments, result)


def test_a_target_without_a_medium(corrupt):
    corrupt.blockdev_mirror(job_id="j", device="t", target="n", sync="full")
    end = corrupt.finish_job("j")
    assert (end["data"]["len"], end["data"]["error"]) == (0, "No medium found")


def test_who_stands_on_it_has_no_medium_either(corrupt, images):
    overlay = images.create("overlay.qcow2", size=MIB)
    corrupt.add_image("top", overlay, backing="n")
    assert corrupt.error("blockdev-snapshot-internal-sync", {"device": "top", "name": "x"}) == NO_MEDIUM
    assert corrupt.error("blockdev-backup", {"job-id": "j", "device": "top", "target": "t", "sync": "full"}) == "Device is not inserted: "
    corrupt.block_dirty_bitmap_add(node="top", name="p", persistent=True)
    assert corrupt.error("block_resize", {"node-name": "top", "size": 2 * MIB}) == "No medium inserted"
    assert corrupt.error("block-export-add", {"type": "nbd", "id": "new", "node-name": "top"}) == NO_LENGTH
    corrupt.blockdev_mirror(job_id="j", device="t", target="top", sync="full")
    assert corrupt.finish_job("j")["data"]["error"] == "No medium found"


def test_bitmaps_go_on(corrupt):
    """Those that are there are in memory."""
    corrupt.block_dirty_bitmap_disable(node="n", name="b")
    corrupt.block_dirty_bitmap_enable(node="n", name="b")
    corrupt.block_dirty_bitmap_clear(node="n", name="b")
    corrupt.block_dirty_bitmap_remove(node="n", name="b")
    corrupt.blockdev_del(node_name="n")


def test_amending_who_stands_on_it(corrupt, images):
    corrupt.add_image("top", images.create("overlay.qcow2", size=MIB), backing="n")
    corrupt.x_blockdev_amend(job_id="j", node_name="top", options={"driver": "qcow2"})
    assert "error" not in corrupt.wait_job("j", "concluded")


@pytest.mark.manners("system")
def test_the_human_monitor(corrupt):
    assert corrupt.qemu_io("n", "length") == "getlength: No medium found\n"
    assert corrupt.qemu_io("n", "map") == "Failed to query image length: No medium found\n"
    assert corrupt.qemu_io("n", "info") == ""
    assert corrupt.qemu_io("n", "read 0 512") == "read failed: No medium found\n"


@pytest.mark.manners("system")
def test_the_human_monitor_above_it(corrupt, images):
    corrupt.add_image("top", images.create("overlay.qcow2", size=MIB), backing="n")
    assert corrupt.qemu_io("top", "length") == "getlength: No medium found\n"
    assert corrupt.qemu_io("top", "map") == "Failed to query image length: No medium found\n"
    assert corrupt.qemu_io("top", "info").startswith("format name: qcow2\n")


@pytest.mark.manners("system")
def test_names_of_devices(start, images):
    """A device is told apart from its node."""
    image = images.create("image.qcow2", size=MIB).fill((0, "64k", 1))
    with open(image.path, "r+b") as file:
        file.seek(0x30000)
        file.write((1 << 63 | 0x42A00).to_bytes(8, "big"))
    server = start("-drive", f"if=none,id=d,node-name=n,format=qcow2,file={image.path}")
    server.add_image("t", images.create("t.raw", "raw", MIB))
    assert server.qemu_io("n", "read 0 512") == "read failed: Input/output error\n"
    assert server.error("block-dirty-bitmap-add", {"node": "n", "name": "p", "persistent": True}) == "Can't store persistent bitmaps to d: No medium found"
    assert server.error("blockdev-backup", {"device": "d", "target": "t", "sync": "full"}) == "Device is not inserted: d"
    assert server.error("blockdev-snapshot-sync", {"device": "d", "snapshot-file": str(images.dir / "new")}) == "Device 'd' has no medium"
    assert server.error("blockdev-snapshot-internal-sync", {"device": "d", "name": "x"}) == NO_MEDIUM
