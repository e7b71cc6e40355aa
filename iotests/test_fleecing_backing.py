"""What an internal snapshot shows of its image's backing file stays while it is read. Blockbed's own."""

import pytest

from blockbed_iotests import Image, Nbd, Server

CLUSTER = 65536
SIZE = 8 * CLUSTER
CONTENT = b"\1" * CLUSTER + b"\2" * CLUSTER + b"\3" * CLUSTER + b"\1" * (SIZE - 3 * CLUSTER)

pytestmark = pytest.mark.differs("snapshot-access has no option `internal-snapshot`", server="qemu")


def add(server: Server, image: Image, node: str, backing: str | None = None, *, read_only: bool = False) -> None:
    file = {"driver": "file", "node-name": f"{node}-file", "filename": str(image)}
    layer = {"backing": backing} if image.format == "qcow2" else {}
    server.blockdev_add({"driver": image.format, "node-name": node, "read-only": read_only, "file": file, **layer})


def add_access(server: Server, node: str = "access") -> None:
    server.blockdev_add({"driver": "snapshot-access", "node-name": node, "file": "disk", "internal-snapshot": {"name": "s"}})


def access_refused(server: Server) -> str:
    return server.error("blockdev-add", {
        "driver": "snapshot-access", "node-name": "access", "file": "disk", "internal-snapshot": {"name": "s"}})


@pytest.fixture
def chain(server, images) -> list[Image]:
    """overlay -> disk -> mid -> base, of which each but the overlay holds a cluster of what the snapshot "s" of `disk` shows."""
    base = images.create("base.raw", "raw", SIZE).fill((0, SIZE, 1))
    mid = images.create("mid.qcow2", size=None, backing=base).fill((CLUSTER, CLUSTER, 2))
    disk = images.create("disk.qcow2", size=None, backing=mid).fill((2 * CLUSTER, CLUSTER, 3))
    overlay = images.create("overlay.qcow2", size=SIZE)
    add(server, base, "base", read_only=True)
    add(server, mid, "mid", "base", read_only=True)
    add(server, disk, "disk", "mid")
    server.blockdev_snapshot_internal_sync(device="disk", name="s")
    with server.export("disk", "before", writable=True, id="before") as guest:
        guest.pwrite(b"\7" * CLUSTER, 0)
    server.block_export_del(id="before")
    server.wait_event("BLOCK_EXPORT_DELETED")
    add(server, overlay, "overlay")
    server.blockdev_snapshot(node="disk", overlay="overlay")
    return [base, mid, disk, overlay]


@pytest.fixture
def reader(server, chain) -> Nbd:
    add_access(server)
    with server.export("access") as client:
        yield client


def layer(node: str, backing: str | None) -> dict:
    return {"options": [{"driver": "qcow2", "node-name": node, "file": f"{node}-file", "backing": backing, "read-only": node == "mid"}]}


def frozen(above: str, below: str) -> str:
    return f"Cannot change frozen 'backing' link from '{above}' to '{below}'"


WRITTEN = ("Permission conflict on node 'mid': permissions 'write' are both required by an unnamed block device (uses node 'mid' as "
           "'root' child) and unshared by node 'disk' (uses node 'mid' as 'backing' child).")


WOULD_CHANGE_IT = {
    "another backing file": ("blockdev-reopen", layer("disk", "base"), frozen("disk", "mid")),
    "no backing file": ("blockdev-reopen", layer("disk", None), frozen("disk", "mid")),
    "another one further down": ("blockdev-reopen", layer("mid", None), frozen("mid", "base")),
    "a stream into the image": (
        "block-stream", {"job-id": "j", "device": "disk"},
        "Could not create node: Cannot change 'backing' link from 'disk' to 'mid'"),
    "a stream into its backing file": (
        "block-stream", {"job-id": "j", "device": "mid"},
        "Could not create node: Cannot change 'backing' link from 'mid' to 'base'"),
    "a commit of the image": (
        "block-commit", {"job-id": "j", "device": "overlay", "top-node": "disk", "base-node": "mid"},
        "Cannot change 'backing' link from 'disk' to 'mid'"),
    "a commit below the image": (
        "block-commit", {"job-id": "j", "device": "overlay", "top-node": "mid", "base-node": "base"},
        "Cannot change 'backing' link to 'mid'"),
    "a commit through the image": (
        "block-commit", {"job-id": "j", "device": "overlay", "base-node": "mid"}, WRITTEN),
    "a backup of the backing file": (
        "blockdev-backup", {"job-id": "j", "device": "mid", "target": "copy", "sync": "full"},
        "Could not replace node: Cannot change 'backing' link to 'mid'"),
}


@pytest.mark.parametrize("command, arguments, error", WOULD_CHANGE_IT.values(), ids=WOULD_CHANGE_IT)
def test_what_would_change_it_is_refused(server, images, reader, command, arguments, error):
    add(server, images.create("copy.raw", "raw", SIZE), "copy")
    before = server.execute("x-debug-query-block-graph")
    assert server.error(command, arguments) == error
    assert server.execute("x-debug-query-block-graph") == before
    assert reader.read_all() == CONTENT


RUNNING = {
    "a stream into the image": (
        "block-stream", {"device": "disk"}, "Cannot change 'backing' link from 'disk' to 'mid'"),
    "a commit of the image": (
        "block-commit", {"device": "overlay", "top-node": "disk", "base-node": "mid"},
        "Cannot change 'backing' link from 'disk' to 'mid'"),
    "a commit below the image": (
        "block-commit", {"device": "overlay", "top-node": "mid", "base-node": "base", "filter-node-name": "filter"},
        "Cannot freeze 'backing' link to 'filter'"),
    "a commit through the image": (
        "block-commit", {"device": "overlay", "base-node": "mid"}, WRITTEN),
    "a backup of the backing file": (
        "blockdev-backup", {"device": "mid", "target": "copy", "sync": "full", "filter-node-name": "filter"},
        "Cannot freeze 'backing' link to 'filter'"),
}


@pytest.mark.parametrize("command, arguments, error", RUNNING.values(), ids=RUNNING)
def test_a_job_that_changes_it_keeps_readers_away(server, images, chain, command, arguments, error):
    add(server, images.create("copy.raw", "raw", SIZE), "copy")
    server.execute(command, {"job-id": "j", "speed": 1, **arguments})
    before = server.execute("x-debug-query-block-graph")
    assert access_refused(server) == error
    assert server.execute("x-debug-query-block-graph") == before
    server.block_job_cancel(device="j", force=True)
    server.finish_job("j")
    add_access(server)
    # What that is now: the job had begun.
    with server.export("access") as client:
        assert client.pread(CLUSTER, 2 * CLUSTER) == CONTENT[2 * CLUSTER:3 * CLUSTER]


def test_jobs_above_go_on(server, chain, reader):
    """Into the image, and up from it and from all that lies below."""
    with server.export("overlay", writable=True) as guest:
        guest.pwrite(b"\5" * CLUSTER, 5 * CLUSTER)
        shown = guest.read_all()
        server.block_commit(job_id="j", device="overlay", base_node="disk")
        server.wait_event("BLOCK_JOB_READY")
        server.job_cancel(id="j")
        server.finish_job("j")
        assert reader.read_all() == CONTENT
        server.block_stream(job_id="j", device="overlay", speed=CLUSTER)
        add_access(server, "late")
        server.block_job_set_speed(device="j", speed=0)
        assert "error" not in server.finish_job("j")["data"]
        assert guest.read_all() == shown
    assert server.query_node("overlay")["image"].get("backing-image") is None
    with server.export("late") as late:
        assert reader.read_all() == late.read_all() == CONTENT
    assert server.error("blockdev-reopen", layer("disk", "base")) == frozen("disk", "mid")


def test_the_links_are_free_when_the_last_reader_has_gone(server, chain):
    for name in ("a", "b"):
        add_access(server, name)
    for name in ("a", "b"):
        assert server.error("blockdev-reopen", layer("disk", "base")) == frozen("disk", "mid")
        server.blockdev_del(node_name=name)
    server.block_stream(job_id="j", device="disk")
    assert "error" not in server.finish_job("j")["data"]
    add_access(server)
    with server.export("access") as client:
        # The stream has left what the snapshot shows where it was; the image has no backing file any more.
        assert client.read_all() == bytes(2 * CLUSTER) + b"\3" * CLUSTER + bytes(SIZE - 3 * CLUSTER)


def test_the_name_of_the_backing_file_may_change(server, chain, reader):
    server.change_backing_file(device="overlay", image_node_name="disk", backing_file="elsewhere.qcow2")
    assert reader.read_all() == CONTENT
    server.stop()
    assert chain[2].info()["backing-filename"] == "elsewhere.qcow2"


@pytest.mark.manners("system")
def test_human_commands(start, images):
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    mid = images.create("mid.qcow2", size=None, backing=base).fill((CLUSTER, CLUSTER, 2))
    disk = images.create("disk.qcow2", size=None, backing=mid).fill((2 * CLUSTER, CLUSTER, 3))
    server = start("-drive", f"if=none,id=m,node-name=mid,driver=qcow2,file.driver=file,file.filename={mid}",
                   "-drive", f"if=none,id=d,node-name=disk,driver=qcow2,file.driver=file,file.filename={disk},backing=mid")
    server.blockdev_snapshot_internal_sync(device="d", name="s")
    server.qemu_io("d", f"write -P 7 0 {CLUSTER}")
    add_access(server)
    with server.export("access") as client:
        for device in ("d", "m", "all"):
            assert server.hmp(f"commit {device}") == f"'commit' error for '{device}': Device or resource busy\n"
            assert client.read_all() == CONTENT
        server.hmp("drive_del d")
        server.hmp("drive_del m")
        assert client.read_all() == CONTENT
    server.stop()
    disk.check()
    disk.read(0, CLUSTER, 7)
    mid.read(0, CLUSTER, 1)
