"""block_resize of a node that something uses: a job, an export, a device."""

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
