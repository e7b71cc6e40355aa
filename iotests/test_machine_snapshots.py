"""savevm, loadvm, delvm and `info snapshots`; snapshot-save, -load and -delete: all disks of a machine at once."""

import re
import subprocess

import pytest

from blockbed_iotests import qemu_img, qemu_io

pytestmark = pytest.mark.manners("system")
SIZE = 1 << 20


@pytest.fixture
def disks(server, images):
    for name in "ab":
        server.add_image(name, images.create(f"{name}.qcow2", size=SIZE).fill((0, SIZE, 1)))
    return images


def listed(server):
    """`info snapshots`, without what differs from run to run."""
    text = re.sub(r" +\d+ B \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \d\d:\d\d:\d\d\.\d{3} +", " ...", server.hmp("info snapshots"))
    return text.replace("\r", "")


def run(server, command, tag, *disks, vmstate=None):
    arguments = {"job-id": "job", "tag": tag, "devices": list(disks)}
    if vmstate:
        arguments["vmstate"] = vmstate
    server.execute(command, arguments)
    server.wait_job("job", "concluded")
    error = server.job("job").get("error")
    server.job_dismiss(id="job")
    return error


HEAD = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n"


def test_there_and_back(server, disks):
    server.cont()
    assert server.hmp("savevm one") == ""
    for name in "ab":
        server.qemu_io(name, "write -P 2 0 1M")
    assert server.hmp("savevm two") == ""
    assert server.hmp("loadvm one") == ""
    assert server.query_status()["running"] is True
    assert "Pattern verification failed" not in server.qemu_io("a", "read -P 1 0 1M") + server.qemu_io("b", "read -P 1 0 1M")
    assert server.hmp("loadvm two") == ""
    assert server.hmp("delvm two") == ""
    assert server.hmp("loadvm two").rstrip() == "Error: Snapshot 'two' does not exist in one or more devices"
    server.stop()
    for name in "ab":
        image = disks.at(f"{name}.qcow2", "qcow2")
        image.check()
        assert image.content() == bytes([2]) * SIZE


def test_in_an_image_of_version_2(start, target, images):
    """Amended with a machine's state in it."""
    image = images.create("image.qcow2", size=SIZE, cluster_size=4096)
    image.io("write -P 1 0 256k", "write -z 512k 64k")
    server = start()
    server.add_image("n", image)
    assert server.hmp("savevm one") == ""
    server.qemu_io("n", "write -P 2 0 1M")
    server.stop()
    tool = "qemu-img" if target.kind == "qemu" else target.program.system[0]
    subprocess.run([tool, "amend", "-o", "compat=0.10", image.path], check=True)
    image.check()
    image.read(0, SIZE, 2)
    server = start()
    server.add_image("n", image)
    assert server.hmp("loadvm one") == ""
    server.stop()
    image.check()
    assert image.content() == bytes([1]) * (256 << 10) + bytes(768 << 10)


def test_listed(server, disks):
    assert listed(server) == "There is no snapshot available.\n"
    server.hmp("savevm one")
    assert listed(server) == "List of snapshots present on all disks:\n" + HEAD + "--        one ...\n"
    server.blockdev_snapshot_internal_sync(device="a", name="alone")
    assert listed(server) == (
        "List of snapshots present on all disks:\n" + HEAD + "--        one ...\n"
        "\nList of partial (non-loadable) snapshots on '':\n" + HEAD + "2         alone ...\n")
    server.hmp("delvm one")
    assert listed(server).startswith("List of snapshots present on all disks:\nNone\n")


def test_a_name_is_made_up(server, disks):
    server.hmp("savevm")
    assert re.search(r"^--        vm-\d{14} ", server.hmp("info snapshots"), re.M)


def test_the_same_name_again(server, disks):
    """The human monitor replaces it, the job refuses."""
    server.hmp("savevm one")
    server.hmp("savevm one")
    assert listed(server).count("one") == 1
    assert run(server, "snapshot-save", "one", "a", "b", vmstate="a") == "Snapshot 'one' already exists in one or more devices"


@pytest.mark.differs("QEMU saves, and loads the older snapshot of that disk afterwards", server="qemu")
def test_a_name_that_one_disk_has(server, disks):
    server.blockdev_snapshot_internal_sync(device="a", name="one")
    assert run(server, "snapshot-save", "one", "a", "b", vmstate="b") == "Snapshot 'one' already exists in one or more devices"


def test_what_is_refused(server, disks, images):
    assert server.hmp("loadvm one").rstrip() == "Error: Snapshot 'one' does not exist in one or more devices"
    assert server.hmp("delvm one") == ""
    assert run(server, "snapshot-save", "one", vmstate="a") == "At least one device is required for snapshot"
    assert run(server, "snapshot-save", "one", "nope", vmstate="a") == "No block device node 'nope'"
    assert run(server, "snapshot-save", "one", "a", vmstate="b") == "vmstate block device 'b' does not exist"
    assert run(server, "snapshot-delete", "one", "a") is None
    server.add_image("raw", images.create("disk.raw", "raw"))
    text = "Device 'raw' is writable but does not support snapshots"
    for command in ["savevm x", "loadvm x", "delvm x"]:
        assert server.hmp(command).rstrip() == f"Error: {text}"
    assert run(server, "snapshot-save", "one", "a", "raw", vmstate="a") == text
    assert run(server, "snapshot-save", "one", "a", vmstate="a") is None


def test_a_writable_node_over_an_image_that_is_not(server, images):
    image = images.create("n.qcow2", size=SIZE)
    options = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}}
    server.execute("blockdev-add", options)
    server.blockdev_add(driver="raw", node_name="over", file="n")
    server.blockdev_reopen(options=[{**options, "read-only": True}])
    assert server.error("blockdev-snapshot-internal-sync", {"device": "over", "name": "x"}) == (
        "Block format 'raw' used by device 'over' does not support internal snapshots")
    text = "Device 'over' is writable but does not support snapshots"
    for command in ["savevm x", "loadvm x", "delvm x"]:
        assert server.hmp(command).rstrip() == f"Error: {text}"
    assert server.hmp("info snapshots").rstrip() == "no block device can store vmstate for snapshot"
    assert run(server, "snapshot-save", "one", "over", vmstate="over") == text


def test_lines_of_snapshots(server, images):
    """Of a disk, and of all that are on every disk; names of any length."""
    server.add_image("n", images.create("n.qcow2", size=SIZE))
    names = ["short", "x" * 16, "y" * 17, "z" * 40]
    for name in names:
        server.blockdev_snapshot_internal_sync(device="n", name=name)

    def without_times(command):
        return re.sub(r"\d{4}(-\d\d){2} (\d\d:){2}\d\d (\d\d:){2}\d\d\.\d{3}", "TIME", server.hmp(command).replace("\r", ""))

    def lines(ids):
        return HEAD + "".join(f"{id:<9} {name:<16}      0 B TIME           \n" for id, name in zip(ids, names, strict=True))

    assert without_times("info snapshots") == "List of snapshots present on all disks:\n" + lines(["--"] * 4)
    assert "cluster_size: 65536\nSnapshot list:\n" + lines("1234") + "Format specific" in without_times("info block -v n")


def test_no_disk_at_all(server):
    text = "no block device can store vmstate for snapshot"
    assert server.hmp("savevm").rstrip() == server.hmp("loadvm x").rstrip() == f"Error: {text}"
    assert server.hmp("info snapshots").rstrip() == text
    assert server.hmp("delvm x") == ""


def test_a_disk_only_snapshot(server, disks):
    """There is no machine to go back to."""
    for name in "ab":
        server.blockdev_snapshot_internal_sync(device=name, name="disks")
    text = "This is a disk-only snapshot. Revert to it  offline using qemu-img"
    assert server.hmp("loadvm disks").rstrip() == f"Error: {text}"
    assert run(server, "snapshot-load", "disks", "a", "b", vmstate="a") == text


def test_the_state_is_with_one_disk(server, disks):
    server.hmp("savevm one")
    assert run(server, "snapshot-load", "one", "b", vmstate="b").startswith("This is a disk-only snapshot")
    assert run(server, "snapshot-load", "one", "a", vmstate="a") is None


def test_a_job_stops_the_machine_and_lets_it_go_on(server, disks):
    server.cont()
    assert run(server, "snapshot-save", "one", "a", "b", vmstate="b") is None
    assert [event["event"] for event in server.qmp.events("STOP", "RESUME")][-2:] == ["STOP", "RESUME"]
    assert run(server, "snapshot-load", "one", "a", "b", vmstate="b") is None
    assert server.query_status()["status"] == "running"
    assert run(server, "snapshot-load", "nope", "a", "b", vmstate="b").startswith("Snapshot 'nope' does not exist")
    assert server.query_status()["status"] == "restore-vm", "what could not be loaded does not go on"
    server.stop()
    assert "one" in qemu_img("snapshot", "-l", disks.at("a.qcow2", "qcow2").path)


def start_follower(server, images, kind):
    """Somebody who has to know of everything that changes in disk a; answers how it ends."""
    server.add_image("dst", images.create("dst.qcow2", size=SIZE))
    if kind == "bitmap":
        server.block_dirty_bitmap_add(node="a", name="b")
        return lambda: server.block_dirty_bitmap_remove(node="a", name="b")
    if kind == "copy-before-write":
        server.blockdev_add(driver=kind, node_name="filter", file="a", target="dst")
        return lambda: server.blockdev_del(node_name="filter")
    if kind == "mirror":
        server.blockdev_mirror(job_id="f", device="a", target="dst", sync="full")
        server.wait_event("BLOCK_JOB_READY")
    elif kind == "commit":
        server.blockdev_add(driver="qcow2", node_name="over", backing=None,
                            file={"driver": "file", "filename": str(images.create("over.qcow2", size=SIZE).path)})
        server.blockdev_snapshot(node="a", overlay="over")
        assert run(server, "snapshot-save", "two", "over", vmstate="over") is None
        server.block_commit(job_id="f", device="over", base_node="a")
        server.wait_event("BLOCK_JOB_READY")
    else:
        server.blockdev_backup(job_id="f", device="a", target="dst", sync=kind, speed=1, x_perf={"max-workers": 1, "max-chunk": 65536})
    return lambda: (server.block_job_cancel(device="f", force=True), server.wait_event("JOB_STATUS_CHANGE", {"id": "f", "status": "null"}))


@pytest.mark.parametrize("kind", ["bitmap", "copy-before-write", "none", "full", "mirror", "commit"])
def test_not_loaded_under_who_follows_the_disk(server, disks, images, kind):
    """What a snapshot changes is no write: a backup or a copy would miss it."""
    tag = "two" if kind == "commit" else "one"
    assert server.hmp("savevm one") == ""
    server.qemu_io("a", "write -P 2 0 1M")
    end = start_follower(server, images, kind)
    disk = "over" if kind == "commit" else "a"
    text = f"Could not load snapshot '{tag}' on '{disk}': Device has active dirty bitmaps"
    assert run(server, "snapshot-load", tag, disk, vmstate=disk) == text
    assert "Pattern verification failed" not in server.qemu_io(disk, "read -P 2 0 1M")
    end()
    assert run(server, "snapshot-load", tag, disk, vmstate=disk) is None


@pytest.mark.parametrize("job", ["", "0"])
def test_bad_job_id(server, disks, job):
    assert server.error("snapshot-delete", {"job-id": job, "tag": "x", "devices": ["a"]}) == f"Invalid job ID '{job}'"


@pytest.mark.parametrize("exported", [False, True])
def test_a_backing_file_that_clients_write_to(server, images, exported):
    base = images.create("base.qcow2", size=SIZE)
    top = images.create("top.qcow2", size=SIZE, backing=base)
    server.add_image("base", base)
    server.add_image("top", top, backing="base")
    if exported:
        server.nbd_start()
        server.nbd_server_add(device="base", writable=True)
    assert server.hmp("savevm one") == ""
    server.stop()
    assert [image.info().get("snapshots", [{}])[0].get("name") for image in (top, base)] == ["one", "one" if exported else None]


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"event": "vmstate_save", "iotype": "write"}, "Error while writing VM state: Input/output error"),
        ({"event": "vmstate_save", "iotype": "write", "errno": 28}, "Error while writing VM state: Input/output error"),
        ({"event": "vmstate_save", "iotype": "flush"}, "Error while writing VM state: Input/output error"),
        ({"event": "write_aio", "iotype": "write"}, "Error while writing VM state: Input/output error"),
        ({"event": "cluster_alloc", "iotype": "write"}, "Error while writing VM state: Input/output error"),
        # Nothing of it is read.
        ({"event": "vmstate_load"}, None),
    ],
)
def test_a_state_that_cannot_be_written(server, images, rule, error):
    image = images.create("image.qcow2", size=SIZE)
    # Once: QEMU does not survive its end otherwise.
    server.add_image("disk", image, faults=[rule | {"once": True}])
    assert run(server, "snapshot-save", "one", "disk", vmstate="disk") == error
    assert listed(server).count("one") == (error is None)
    server.stop()
    image.check(leaks=None)


@pytest.mark.parametrize("event", ["vmstate_load", "read_aio"])
def test_a_state_that_cannot_be_read(server, images, event):
    image = images.create("image.qcow2", size=SIZE)
    server.add_image("disk", image)
    assert run(server, "snapshot-save", "one", "disk", vmstate="disk") is None
    server.blockdev_del(node_name="disk")
    server.add_image("disk", image, faults=[{"event": event, "iotype": "read"}])
    assert run(server, "snapshot-load", "one", "disk", vmstate="disk") == "Error -22 while loading VM state"


@pytest.mark.parametrize("cluster", [512, 4096, 65536])
@pytest.mark.parametrize("through", ["disk", "raw"])
def test_state_of_any_size(server, images, cluster, through):
    """Beside the disk, of which nothing changes; a snapshot takes it along, as the tools say."""
    last = 5 << 30 if cluster > 512 else 40 << 20
    image = images.create("image.qcow2", size=SIZE, cluster_size=cluster).fill((0, SIZE, 1))
    qemu_io(image.path, f"write -b -P 9 {last} 3k", format="qcow2")
    server.add_image("disk", image)
    server.blockdev_add(driver="raw", node_name="raw", file="disk")
    pieces = [(0, 1 << 20, 2), (33 << 20, 65536 + 512, 3), (last + 1024, 512, 4)]
    for offset, length, byte in pieces:
        wrote = server.qemu_io(through, f"write -b -P {byte} {offset} {length}")
        assert f"wrote {length}/{length} bytes at offset {offset}" in wrote
    pieces += [(20 << 20, 4096, 0), (last, 1024, 9), (last + 1536, 1536, 9)]

    def judge(pieces, do):
        for offset, length, byte in pieces:
            read = do(f"read -b -P {byte} {offset} {length}")
            assert f"read {length}/{length} bytes at offset {offset}" in read
            assert "failed" not in read

    judge(pieces, lambda command: server.qemu_io(through, command))
    server.blockdev_del(node_name="raw")
    assert server.hmp("savevm one") == ""
    server.stop()
    image.check()
    qemu_img("snapshot", "-a", "one", image.path)
    # What savevm has written itself lies at the beginning.
    judge(pieces[1:], lambda command: qemu_io(image.path, command, format="qcow2"))
    assert image.content() == bytes([1]) * SIZE
    image.check()


def test_state_where_there_is_no_place_for_it(server, images):
    server.add_image("disk", images.create("image.raw", "raw", size=SIZE))
    for command in "write", "read":
        assert f"{command} failed: Operation not supported" in server.qemu_io("disk", f"{command} -b 0 512")
