"""Dirty bitmaps of an image that is open for reading only: those that it has stay as they are, others are free."""

import pytest

from blockbed_iotests import qemu_img
from test_bitmaps import ABORT, SIZE, UNIT, action, add, bitmap, bitmaps, count, stored

READ_ONLY = "Bitmap '{}' is readonly and cannot be modified"
NO_ACCESS = "Lost persistent bitmaps during inactivation of node 'disk': No write access"
IN_IMAGE = {"old": ["auto"], "off": []}


@pytest.fixture
def image(images):
    """An image with two bitmaps, `off` is disabled; `old` has a mark."""
    image = images.create("disk.qcow2", size=SIZE)
    qemu_img("bitmap", "--add", image.path, "old")
    qemu_img("bitmap", "--add", "--disable", image.path, "off")
    return image.fill(("1M", UNIT, 1))


@pytest.fixture
def disk(server, image):
    server.add_image("disk", image, read_only=True)
    add(server, "new", persistent=True)
    add(server, "temporary")
    return image


def reopen(server, image, read_only):
    return server.try_execute("blockdev-reopen", {"options": [
        {"driver": "qcow2", "node-name": "disk", "read-only": read_only, "file": {"driver": "file", "filename": str(image.path)}}
    ]})


def merge(server, target, *sources):
    return server.try_execute("block-dirty-bitmap-merge", {"node": "disk", "target": target, "bitmaps": list(sources)})


def test_what_the_image_has_stays(server, disk):
    for name in ("old", "off"):
        for verb in ("clear", "remove"):
            assert server.error(f"block-dirty-bitmap-{verb}", {"node": "disk", "name": name}) == READ_ONLY.format(name)
        assert merge(server, name, "new").desc == READ_ONLY.format(name)
        assert merge(server, "temporary", name) == {}
    # Whether they record is a matter of this server only
    server.block_dirty_bitmap_disable(node="disk", name="old")
    server.block_dirty_bitmap_enable(node="disk", name="off")
    assert (bitmap(server, "old")["recording"], bitmap(server, "off")["recording"]) == (False, True)
    server.block_dirty_bitmap_remove(node="disk", name="new")
    server.stop()
    assert server.stderr == ""
    assert stored(disk) == IN_IMAGE


def test_what_it_has_not_is_free(server, disk):
    assert merge(server, "new", "old") == {}
    assert count(server, "new") == UNIT
    for verb in ("disable", "enable", "clear", "remove"):
        server.execute(f"block-dirty-bitmap-{verb}", {"node": "disk", "name": "new"})
    assert bitmap(server, "new") is None
    add(server, "new", persistent=True)
    assert server.error("block-dirty-bitmap-add", {"node": "disk", "name": "new"}) == "Bitmap already exists: new"


def test_transactions(server, disk):
    fill = action("merge", target="new", bitmaps=["old"])
    assert server.error("transaction", {"actions": [fill, action("clear", name="old")]}) == READ_ONLY.format("old")
    assert count(server, "new") == 0
    server.transaction(actions=[fill, action("disable", name="old")])
    assert server.error("transaction", {"actions": [action("remove", name="new"), ABORT]})
    assert count(server, "new") == UNIT and bitmap(server, "new")["persistent"]
    server.transaction(actions=[action("clear", name="new"), action("remove", name="new")])
    assert [b["name"] for b in bitmaps(server)] == ["temporary", "off", "old"]


def test_backups(server, disk):
    """They may clear what the image has not, and only read what it has."""
    server.blockdev_add(driver="null-co", node_name="target", size=SIZE)
    merge(server, "new", "old")
    backup = {"job-id": "job", "device": "disk", "target": "target", "sync": "bitmap"}
    for mode in ("on-success", "always"):
        assert server.error("blockdev-backup", {**backup, "bitmap": "old", "bitmap-mode": mode}) == READ_ONLY.format("old")
    for name, mode in (("old", "never"), ("new", "on-success")):
        server.execute("blockdev-backup", {**backup, "bitmap": name, "bitmap-mode": mode})
        assert server.finish_job("job")["data"]["len"] == UNIT
    assert (count(server, "old"), count(server, "new")) == (UNIT, 0)


def test_lost_when_the_image_is_closed(server, disk):
    server.blockdev_del(node_name="disk")
    assert NO_ACCESS in server.stderr
    assert stored(disk) == IN_IMAGE


def test_kept_when_it_can_be_written_to(server, disk):
    """Reopening cannot store them before it can write; from then on all of them belong to the image."""
    assert reopen(server, disk, read_only=True).desc == "No write access"
    assert bitmap(server, "new")["persistent"]
    assert reopen(server, disk, read_only=False) == {}
    assert stored(disk) == {"old": ["auto", "in-use"], "off": ["in-use"]}
    server.block_dirty_bitmap_disable(node="disk", name="new")
    server.block_dirty_bitmap_clear(node="disk", name="old")
    assert reopen(server, disk, read_only=True) == {}
    assert stored(disk) == {**IN_IMAGE, "new": []}
    for verb in ("clear", "remove"):
        assert server.error(f"block-dirty-bitmap-{verb}", {"node": "disk", "name": "new"}) == READ_ONLY.format("new")
    add(server, "newer", persistent=True)
    server.block_dirty_bitmap_clear(node="disk", name="newer")
    assert reopen(server, disk, read_only=False) == {}
    server.stop()
    assert server.stderr == ""
    assert stored(disk) == {**IN_IMAGE, "new": [], "newer": ["auto"]}
    disk.check()


def test_what_was_said_while_reading_is_kept_with_the_rest(server, disk):
    """Whether a bitmap records is stored once the image can be written to."""
    server.block_dirty_bitmap_disable(node="disk", name="old")
    server.block_dirty_bitmap_enable(node="disk", name="off")
    server.block_dirty_bitmap_remove(node="disk", name="new")
    assert reopen(server, disk, read_only=True) == {}
    assert stored(disk) == IN_IMAGE
    assert reopen(server, disk, read_only=False) == {}
    assert reopen(server, disk, read_only=True) == {}
    assert stored(disk) == {"old": [], "off": ["auto"]}


@pytest.mark.parametrize("place, error", [
    (384 << 10, "Failed to write bitmap 'b' to file"),   # its bits
    (448 << 10, "Failed to write bitmap 'b' to file"),   # their table
    (512 << 10, "Failed to update bitmap extension"),    # the directory
    (0, "Failed to update bitmap extension"),            # the header
], ids=lambda part: part if isinstance(part, int) else "")
def test_not_left_for_reading_without_them(server, images, place, error):
    """What cannot be stored is told, and the image stays as it was."""
    image = images.create("disk.qcow2", size=SIZE)
    server.blockdev_add(
        driver="blkdebug", node_name="storage", image={"driver": "file", "filename": str(image.path)},
        inject_error=[{"event": "none", "errno": 28, "sector": place // 512, "iotype": "write"}],
    )
    node = {"driver": "qcow2", "node-name": "disk", "file": "storage"}
    server.execute("blockdev-add", node)
    add(server, "b", persistent=True)
    nbd = server.export("disk", writable=True)
    nbd.pwrite(b"x", 0)
    nbd.close()
    server.block_export_del(id=nbd.export_id, mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    error += ": No space left on device"
    assert server.error("blockdev-reopen", {"options": [{**node, "read-only": True}]}) == error
    assert not server.query_node("disk")["ro"] and count(server, "b") == UNIT
    server.blockdev_del(node_name="disk")
    assert NO_ACCESS.replace("No write access", error) in server.stderr
    server.blockdev_del(node_name="storage")
    if place != 0:
        # What a header may name that was half written stays counted
        image.check()


@pytest.mark.differs("QEMU puts the image on a file that is none", server="qemu")
def test_what_changes_after_a_reopen_that_failed(server, image, images):
    """The image has been told that its bitmaps are right; whether they record is kept all the same."""
    server.add_image("disk", image)
    server.blockdev_add(driver="file", node_name="other", filename=str(images.create("other.raw", "raw", SIZE).path))
    options = {"driver": "qcow2", "node-name": "disk", "read-only": True, "file": "other"}
    assert server.error("blockdev-reopen", {"options": [options]})
    server.block_dirty_bitmap_disable(node="disk", name="old")
    server.block_dirty_bitmap_enable(node="disk", name="off")
    server.stop()
    assert stored(image) == {"old": [], "off": ["auto"]}
    image.check()


@pytest.mark.differs("Blockbed's own command", server="qemu")
def test_marks_found_after_a_reopen_that_failed(start, images, image):
    """They are in memory only: after a crash nobody believes what the image had before."""
    server = start()
    server.add_image("disk", image)
    server.blockdev_add(driver="file", node_name="other", filename=str(images.create("other.raw", "raw", SIZE).path))
    server.execute("block-dirty-bitmap-populate", {"job-id": "job", "node": "disk", "name": "off", "pattern": "allocation-top",
                                                   "auto-finalize": False})
    server.wait_job("job", "pending")
    options = {"driver": "qcow2", "node-name": "disk", "read-only": True, "file": "other"}
    assert server.error("blockdev-reopen", {"options": [options]})
    assert stored(image)["off"] == []
    server.job_finalize(id="job")
    server.finish_job("job")
    assert count(server, "off") == UNIT
    server.kill()
    assert stored(image)["off"] == ["in-use"]


@pytest.mark.differs("QEMU refuses writes from then on", server="qemu")
def test_written_after_a_reopen_that_failed(server, image):
    server.blockdev_add(driver="qcow2", node_name="disk", file={"driver": "file", "filename": str(image.path), "locking": "off"})
    assert reopen(server, image, read_only=True).desc == "Option 'locking' cannot be reset to its default value"
    with server.export("disk", writable=True) as nbd:
        nbd.pwrite(b"x" * UNIT, 2 * UNIT)
    assert count(server, "old") == 2 * UNIT
    assert stored(image) == {"old": ["auto", "in-use"], "off": ["in-use"]}
    server.stop()
    assert stored(image) == IN_IMAGE
