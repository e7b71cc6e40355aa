"""block_resize of a node that something uses: a job, an export, a device, a filter that shows an instant of it."""

import pytest

MIB = 1 << 20
SIZE = 8 * MIB
SIZES = [4 * MIB, SIZE, 16 * MIB]

ANONYMOUS = "an unnamed block device (uses node '{0}' as 'root' child)"
CONFLICT = "Permission conflict on node '{0}': permissions 'resize' are both required by " + ANONYMOUS + " and unshared by {1}."


def add_chain(server, images):
    """base <- mid <- top, and a target; each over a protocol node of its own."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    mid = images.create("mid.qcow2", size=SIZE, backing=base).fill((MIB, MIB, 2))
    top = images.create("top.qcow2", size=SIZE, backing=mid).fill((2 * MIB, MIB, 3))
    target = images.create("target.qcow2", size=SIZE)
    below = None
    for name, image in {"base": base, "mid": mid, "top": top, "target": target}.items():
        options = {"backing": below} if name in ("mid", "top") else {}
        file = {"driver": "file", "node-name": f"{name}-file", "filename": str(image.path)}
        server.blockdev_add(driver="qcow2", node_name=name, file=file, **options)
        below = name
    return [base, mid, top, target]


BACKUP = ("blockdev-backup", {"device": "top", "target": "target", "filter-node-name": "filter"})
MIRROR = ("blockdev-mirror", {"device": "top", "target": "target", "sync": "full", "filter-node-name": "filter"})
COMMIT = ("block-commit", {"device": "top", "filter-node-name": "filter"})
STREAM = ("block-stream", {"device": "top", "filter-node-name": "filter"})
SLOW = {"speed": 65536}
# name: (command, arguments, nodes that are in use)
JOBS = {
    "backup": (*BACKUP, {"sync": "full", **SLOW}, "filter mid base target"),
    "backup none": (*BACKUP, {"sync": "none"}, "filter mid base target"),
    "mirror": (*MIRROR, SLOW, "filter top mid base target"),
    "mirror ready": (*MIRROR, {}, "filter top mid base target"),
    "active commit": (*COMMIT, SLOW, "filter top mid base"),
    "active commit ready": (*COMMIT, {}, "filter top mid base"),
    "commit": (*COMMIT, {"top-node": "mid", "base-node": "base", **SLOW}, "filter top mid base"),
    "stream": (*STREAM, SLOW, "top mid base"),
    "stream to a base": (*STREAM, {"base-node": "base", **SLOW}, "top mid base"),
}


@pytest.mark.parametrize("name", JOBS)
def test_job(server, images, name):
    command, fixed, options, used = JOBS[name]
    layers = add_chain(server, images)
    server.execute(command, {"job-id": "job", **fixed, **options})
    if "ready" in name:
        server.wait_event("BLOCK_JOB_READY")
    for size in SIZES:
        for node in used.split():
            # QEMU says "(null)": what was asked for had no name of a device.
            error = server.error("block_resize", {"node-name": node, "size": size})
            assert error in (f"Device '{node}' is in use", "Device '(null)' is in use"), (node, size)
        for node in ("top-file", "mid-file", "base-file", "target-file"):
            error = server.error("block_resize", {"node-name": node, "size": size})
            assert error.startswith(CONFLICT.format(node, "")[:60]), (node, size)
    if "backup" in name:
        error = server.error("block_resize", {"node-name": "top", "size": 16 * MIB})
        assert error == CONFLICT.format("top", "node 'filter' (uses node 'top' as 'file' child)")
    if "commit" in name or "stream" in name:
        # It has nothing to do with the job.
        server.block_resize(node_name="target", size=16 * MIB)
    server.block_job_cancel(device="job", force=True)
    server.finish_job("job")
    # Now nothing hinders it, but a backing file is in use without a job.
    for node in ("top", "target"):
        server.block_resize(node_name=node, size=4 * MIB)
    for node in ("mid", "base"):
        assert server.error("block_resize", {"node-name": node, "size": 4 * MIB}).endswith("is in use")
    server.stop()
    for image, size in zip(layers, (SIZE, SIZE, 4 * MIB, 4 * MIB)):
        image.check()
        assert image.info()["virtual-size"] == size


@pytest.mark.parametrize("size", [0, *SIZES])
@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_export(server, images, format, writable, size):
    image = images.create("image", format, SIZE).fill((0, SIZE, 1))
    server.add_image("n", image)
    with server.export("n", writable=writable) as guest:
        error = server.error("block_resize", {"node-name": "n", "size": size})
        assert error == CONFLICT.format("n", ANONYMOUS.format("n"))
    server.block_export_del(id=guest.export_id)
    server.wait_event("BLOCK_EXPORT_DELETED")
    server.block_resize(node_name="n", size=size)
    with server.export("n", "again") as guest:
        assert guest.size == size
    server.stop()
    image.check()
    assert image.info()["virtual-size"] == size


CONTROLLERS = {"scsi-hd": "virtio-scsi-pci", "scsi-cd": "virtio-scsi-pci", "virtio-blk-pci": None}
RESIZABLE = ["scsi-hd", "virtio-blk-pci"]


def attach(server, model, drive):
    bus = {}
    if controller := CONTROLLERS[model]:
        server.device_add(driver=controller, id="controller")
        bus = {"bus": "controller.0"}
    server.device_add(driver=model, id="disk", drive=drive, **bus)


@pytest.mark.manners("system")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", RESIZABLE)
def test_device(start, images, model, size):
    """By the name of the node; a device that has no drive of its own is not found by its name."""
    server = start(machine="pc")
    image = images.create("image.qcow2", size=SIZE)
    server.add_image("n", image)
    attach(server, model, "n")
    assert server.error("block_resize", {"device": "disk", "size": size}) == "Cannot find device='disk' nor node-name=''"
    server.block_resize(node_name="n", size=size)
    [device] = server.query_block()
    assert device["inserted"]["image"]["virtual-size"] == size
    server.stop()
    image.check()
    assert image.info()["virtual-size"] == size


@pytest.mark.manners("system")
def test_device_that_does_not_allow_it(start, images):
    server = start(machine="pc")
    server.add_image("n", images.create("image.raw", "raw", SIZE))
    attach(server, "scsi-cd", "n")
    for size in SIZES:
        error = server.error("block_resize", {"node-name": "n", "size": size})
        assert error == CONFLICT.format("n", "block device 'disk' (uses node 'n' as 'root' child)")


@pytest.mark.manners("system")
def test_drive(start, images):
    image = images.create("image.qcow2", size=SIZE)
    server = start("-drive", f"if=none,id=d,file={image},format=qcow2", machine="pc")
    [drive] = server.query_block()
    node = drive["inserted"]["node-name"]
    server.block_resize(device="d", size=4 * MIB)
    server.block_resize(node_name=node, size=5 * MIB)
    for arguments, error in [
        ({"node-name": "d"}, "Cannot find device='' nor node-name='d'"),
        ({"device": node}, f"Cannot find device='{node}' nor node-name=''"),
        ({"node-name": "d", "device": "other"}, "Cannot find device='other' nor node-name='d'"),
        ({}, "Cannot find device='' nor node-name=''"),
    ]:
        assert server.error("block_resize", {"size": MIB, **arguments}) == error
    server.device_add(driver="virtio-blk-pci", id="disk", drive="d")
    server.block_resize(device="d", size=6 * MIB)
    assert server.hmp("block_resize d 9") == ""
    [drive] = server.query_block()
    assert drive["inserted"]["image"]["virtual-size"] == 9 * MIB
    server.drive_backup(job_id="job", device="d", target=str(images.dir / "target.qcow2"), sync="none", format="qcow2")
    assert server.error("block_resize", {"device": "d", "size": MIB}) == "Device 'd' is in use"
    server.block_job_cancel(device="job")
    server.finish_job("job")
    server.block_resize(device="d", size=7 * MIB)
    server.stop()
    image.check()
    assert image.info()["virtual-size"] == 7 * MIB


@pytest.mark.manners("system")
def test_empty_drive(start):
    server = start("-drive", "if=none,id=d", machine="pc")
    assert server.error("block_resize", {"device": "d", "size": MIB}) == "Device 'd' has no medium"


# ---------------------------------------------------------------------- filters


def add_fleecing(server, images):
    source = images.create("source.qcow2", size=SIZE).fill((0, SIZE, 1))
    scratch = images.create("scratch.qcow2", size=SIZE)
    server.add_image("source", source)
    server.add_image("scratch", scratch)
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="source", target="scratch")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    return source, scratch


def refused(reader, offset):
    with pytest.raises(OSError):
        reader.pread(65536, offset)
    return True


@pytest.mark.parametrize("between, size", [(None, 16 * MIB), (4 * MIB, SIZE), (4 * MIB + 512, 16 * MIB), (0, SIZE), (16 * MIB, SIZE)])
def test_copy_before_write(server, images, between, size):
    """The disk is resized; the instant keeps its length, and what was cut off of it cannot be read any more."""
    source, scratch = add_fleecing(server, images)
    with server.export("cbw", writable=True) as guest:
        guest.pwrite(b"\7" * 65536, MIB)
    server.block_export_del(id=guest.export_id)
    server.wait_event("BLOCK_EXPORT_DELETED")
    for wanted in (between, size):
        if wanted is not None:
            server.block_resize(node_name="cbw", size=wanted)
            for node, length in {"cbw": wanted, "source": wanted, "access": SIZE, "scratch": SIZE}.items():
                assert server.query_node(node)["image"]["virtual-size"] == length
    kept = SIZE if between is None else min(between, SIZE)
    with server.export("cbw", "guest", writable=True) as guest, server.export("access") as reader:
        assert (guest.size, reader.size) == (size, SIZE)
        for _ in range(2):
            for offset in (0, MIB, 3 * MIB, 5 * MIB, SIZE - 65536):
                if offset < kept:
                    assert reader.pread(65536, offset) == b"\1" * 65536
                else:
                    assert refused(reader, offset)
            for offset in range(0, size, MIB):
                guest.pwrite(b"\7" * 65536, offset)
    server.stop()
    source.check()
    scratch.check()


def test_copy_before_write_saves_the_cluster_that_gets_shorter(server, images):
    add_fleecing(server, images)
    server.block_resize(node_name="cbw", size=4 * MIB + 512)
    with server.export("cbw", "guest", writable=True) as guest, server.export("access") as reader:
        guest.pwrite(b"\7" * 512, 4 * MIB)
        assert reader.pread(512, 4 * MIB) == b"\1" * 512


@pytest.mark.differs("an assertion when the reader comes to what was cut off", server="qemu")
def test_copy_before_write_that_is_shorter_than_the_instant(server, images):
    add_fleecing(server, images)
    with server.export("access") as reader:
        server.block_resize(node_name="cbw", size=4 * MIB + 512)
        assert reader.pread(MIB, 3 * MIB) == b"\1" * MIB
        assert refused(reader, 4 * MIB) and refused(reader, 6 * MIB)
        for offset in (4 * MIB, 6 * MIB):
            with pytest.raises(OSError):
                reader.extents(offset=offset, length=65536)
        server.block_resize(node_name="cbw", size=SIZE)
        assert refused(reader, 6 * MIB)


def test_blkverify_resizes_the_disk_that_is_not_under_test(server, images):
    for name in ("raw", "test"):
        server.add_image(name, images.create(name, "raw", SIZE))
    server.blockdev_add(driver="blkverify", node_name="v", raw="raw", test="test")
    server.block_resize(node_name="v", size=16 * MIB)
    assert [server.query_node(node)["image"]["virtual-size"] for node in ("v", "raw", "test")] == [SIZE, 16 * MIB, SIZE]


@pytest.mark.differs("a filter keeps its size when the node below it is resized", server="qemu")
@pytest.mark.parametrize("driver", ["throttle", "blkdebug", "blklogwrites", "copy-before-write"])
def test_node_below_a_filter(server, images, driver):
    server.object_add({"qom-type": "throttle-group", "id": "g"})
    server.add_image("n", images.create("n", "raw", SIZE))
    server.add_image("other", images.create("other", "raw", SIZE))
    child = {"image" if driver == "blkdebug" else "file": "n"}
    options = {"throttle": {"throttle-group": "g"}, "blklogwrites": {"log": "other"}, "copy-before-write": {"target": "other"}}
    server.execute("blockdev-add", {"driver": driver, "node-name": "f", **child, **options.get(driver, {})})
    for size in (4 * MIB, 16 * MIB):
        server.block_resize(node_name="n", size=size)
        assert server.query_node("f")["image"]["virtual-size"] == size


FILTERS = {
    "throttle": {"file": "disk", "throttle-group": "g"},
    "copy-before-write": {"file": "disk", "target": "scratch"},
    "copy-on-read": {"file": "disk"},
    "blkdebug": {"image": "disk"},
}


def add_raw_over_filter(server, images, driver):
    """The image of 2 MiB below both."""
    disk = images.create("disk.qcow2", size=2 * MIB).fill((0, 2 * MIB, 1))
    server.object_add({"qom-type": "throttle-group", "id": "g"})
    server.add_image("disk", disk)
    server.add_image("scratch", images.create("scratch.qcow2", size=2 * MIB))
    server.blockdev_add(driver=driver, node_name="filter", **{k.replace("-", "_"): v for k, v in FILTERS[driver].items()})
    server.blockdev_add(driver="raw", node_name="raw", file="filter")
    return disk


@pytest.mark.parametrize("size", [MIB, 4 * MIB])
@pytest.mark.parametrize("driver", FILTERS)
def test_raw_over_a_filter(server, images, driver, size):
    """raw is as long as what is below it, also when that is resized: for readers, writers, copies and bitmaps."""
    disk = add_raw_over_filter(server, images, driver)
    server.block_resize(node_name="filter", size=size)
    assert [server.query_node(node)["image"]["virtual-size"] for node in ("disk", "filter", "raw")] == [size] * 3

    server.block_dirty_bitmap_add(node="raw", name="b")
    server.block_dirty_bitmap_add(node="disk", name="b")
    server.block_dirty_bitmap_merge(node="disk", target="b", bitmaps=[{"node": "raw", "name": "b"}])

    server.blockdev_add(driver="null-co", node_name="before", size=2 * MIB)
    error = server.error("blockdev-backup", {"job-id": "j", "device": "raw", "target": "before", "sync": "full"})
    assert error == "Source and target image have different sizes"
    copy = images.create("copy.qcow2", size=size)
    server.add_image("copy", copy)
    server.blockdev_backup(job_id="j", device="raw", target="copy", sync="full")
    assert server.wait_event("BLOCK_JOB_COMPLETED")["data"] == {"device": "j", "type": "backup", "len": size, "offset": size, "speed": 0}

    with server.export("raw", writable=True) as guest:
        assert guest.size == size
        guest.pwrite(b"\2" * 65536, size - 65536)
    server.stop()
    kept = min(size, 2 * MIB)
    assert copy.content() == (b"\1" * kept).ljust(size, b"\0")
    assert disk.content() == (b"\1" * kept).ljust(size, b"\0")[:-65536] + b"\2" * 65536


@pytest.mark.manners("system")
@pytest.mark.parametrize("driver", FILTERS)
def test_raw_over_a_filter_that_gets_shorter_writes_nothing_behind_its_end(server, images, driver):
    """A user of the node, without permission to resize it, finds its end."""
    disk = add_raw_over_filter(server, images, driver)
    server.block_resize(node_name="filter", size=MIB)
    for command in ("write -P 2 1M 64k", "write -z 1M 64k", "discard 1M 64k", "read 1M 64k", "read 0 2M"):
        assert "failed: Input/output error" in server.qemu_io("raw", command), command
    server.block_resize(node_name="filter", size=2 * MIB)
    assert "verification failed" not in server.qemu_io("raw", "read -P 0 1M 1M")
    server.stop()
    disk.check()
    assert disk.content() == (b"\1" * MIB).ljust(2 * MIB, b"\0")
