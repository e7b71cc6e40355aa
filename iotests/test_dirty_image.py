"""Images with lazy refcounts that were not closed, open for reading: made good by whoever makes them writable."""

import subprocess

import pytest

MIB = 1 << 20
DIRTY = 1


@pytest.fixture
def dirty(images):
    """Its data is there, its counts are not."""
    image = images.create("dirty.qcow2", size=MIB, lazy_refcounts="on")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 300k", "-c", "sigraise 9", str(image.path)], capture_output=True, check=False)
    assert features(image) & DIRTY
    return image


@pytest.fixture
def holds(target):
    """What is in the image. QEMU goes on with the counts that there are, and may write over what was there."""
    def judge(image, *runs):
        assert not features(image) & DIRTY
        if target.kind == "qemu":
            return
        image.check()
        for run in runs:
            image.read(*run)
    return judge


def features(image):
    return int.from_bytes(image.path.read_bytes()[72:80], "big")


def definition(image, read_only, **file):
    return {"driver": "qcow2", "node-name": "n", "read-only": read_only,
            "file": {"driver": "file", "node-name": "f", "filename": str(image.path), **file}}


def with_faults(image, read_only, **rule):
    node = definition(image, read_only)
    return node | {"file": {"driver": "blkdebug", "node-name": "b", "image": node["file"], "inject-error": [rule]}}


def test_reading_changes_nothing(server, dirty):
    before = dirty.path.read_bytes()
    server.execute("blockdev-add", definition(dirty, True))
    assert server.query_node("n")["image"]["dirty-flag"] is True
    with server.export("n") as nbd:
        assert nbd.pread(MIB, 0) == b"\5" * (300 << 10) + bytes(MIB - (300 << 10))
    server.stop()
    assert dirty.path.read_bytes() == before


@pytest.mark.parametrize("auto_read_only", [False, True])
def test_reopened_for_writing(server, dirty, holds, auto_read_only):
    server.execute("blockdev-add", definition(dirty, True, **{"auto-read-only": auto_read_only}))
    server.blockdev_reopen(options=[definition(dirty, False, **{"auto-read-only": auto_read_only})])
    assert server.query_node("n")["ro"] is False
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\7" * 65536, 65536)
        nbd.pwrite(b"\7" * 65536, 512 << 10)
        nbd.flush()
    server.stop()
    holds(dirty, (0, "64k", 5), ("64k", "64k", 7), ("128k", "172k", 5), ("512k", "64k", 7))


@pytest.mark.parametrize("active", [False, True])
def test_committed_into(server, images, dirty, holds, active):
    over = images.create("over.qcow2", size=None, backing=dirty).fill(("64k", "64k", 7), ("900k", "64k", 8))
    top = images.create("top.qcow2", size=None, backing=over)
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": str(top.path)},
        "backing": {"driver": "qcow2", "node-name": "over", "file": {"driver": "file", "filename": str(over.path)},
                    "backing": definition(dirty, True)}})
    server.block_commit(job_id="j", device="top", top_node="top" if active else "over", base_node="n")
    if active:
        server.wait_event("BLOCK_JOB_READY")
        server.block_job_complete(device="j")
    assert "error" not in server.finish_job("j")["data"]
    server.stop()
    holds(dirty, (0, "64k", 5), ("64k", "64k", 7), ("128k", "172k", 5), ("900k", "64k", 8))


@pytest.mark.differs("it goes on with the counts that there are", server="qemu")
def test_a_repair_that_fails_changes_nothing(server, dirty):
    server.execute("blockdev-add", with_faults(dirty, True, event="none", iotype="write", once=True))
    before = server.query_named_block_nodes()
    again = with_faults(dirty, False, event="none", iotype="write", once=True)
    assert server.error("blockdev-reopen", options=[again]) == "Could not repair dirty image: Input/output error"
    assert server.query_named_block_nodes() == before
    assert features(dirty) & DIRTY
    server.blockdev_reopen(options=[again])
    server.stop()
    assert not features(dirty) & DIRTY
    dirty.check()
    dirty.read(0, "300k", 5)


@pytest.mark.differs("it goes on with the counts that there are", server="qemu")
def test_repaired_although_the_reopen_is_refused(server, images, dirty):
    """What the call changes is all or nothing. The image is sound, and reading goes on."""
    other = images.create("other.qcow2", size=MIB)
    server.add_image("o", other, read_only=True)
    server.execute("blockdev-add", definition(dirty, True))
    other.path.write_bytes(b"none")
    nodes = [definition(dirty, False), {"driver": "qcow2", "node-name": "o", "file": {"driver": "file", "filename": str(other.path)}}]
    assert server.error("blockdev-reopen", options=nodes) == "Image is not in qcow2 format"
    assert server.query_node("n")["ro"] is True
    assert server.query_node("n")["image"]["dirty-flag"] is False
    with server.export("n") as nbd:
        assert nbd.pread(300 << 10, 0) == b"\5" * (300 << 10)
    server.stop()
    dirty.check()
