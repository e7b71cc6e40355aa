"""Guest devices on nodes that something else relies on: virtio-scsi takes none, virtio-blk none when it has an iothread."""

import pytest

pytestmark = pytest.mark.manners("system")

# So much that no job ends by itself.
SIZE = 64 << 20
JOBS = {
    "backup": ("blockdev-backup", {"device": "top", "target": "t", "sync": "none"}),
    "mirror": ("blockdev-mirror", {"device": "top", "target": "t", "sync": "full"}),
    "stream": ("block-stream", {"device": "top", "speed": 1}),
    "commit": ("block-commit", {"device": "top", "base-node": "base", "top-node": "mid", "speed": 1}),
}
# A node that the job forbids, where no permission is in the way. The disk of a commit may go on being a disk.
TAKEN = {"backup": "t", "mirror": "top", "stream": "top", "commit": None}


@pytest.fixture
def machine(start, images):
    """base <- mid <- top, and t. The controllers: virtio-scsi, the same in an iothread, and one that knows no iothreads."""
    server = start("-device", "lsi,id=old", machine="pc")
    server.object_add({"qom-type": "iothread", "id": "a"})
    server.device_add(driver="virtio-scsi", id="plain")
    server.device_add(driver="virtio-scsi", id="threaded", iothread="a")
    below = None
    disks = {}
    for name in ("base", "mid", "top", "t"):
        backing = below if name != "t" else None
        disks[name] = images.create(name, size=SIZE if backing is None else None, backing=disks.get(backing))
        below = name
    disks["base"].fill((0, SIZE, 1))
    for name, backing in (("base", None), ("mid", "base"), ("top", "mid"), ("t", None)):
        server.add_image(name, disks[name], **({"backing": backing} if backing else {}))
    return server


def try_disk(server, node, driver="scsi-hd", bus="plain.0", **options):
    """The text of the error, or None."""
    where = {"bus": bus} if bus else {}
    result = server.try_execute("device_add", {"driver": driver, "drive": node, **where, **options})
    return None if result == {} else result.desc


@pytest.mark.parametrize("driver", ["scsi-hd", "scsi-cd"])
def test_a_backing_file_is_no_disk(machine, driver):
    for node, above in (("base", "mid"), ("mid", "top")):
        busy = f"Node '{node}' is busy: node is used as backing hd of '{above}'"
        for bus in ("plain.0", "threaded.0"):
            assert try_disk(machine, node, driver, bus) == busy
    assert not any(node["type"] == "block-backend" for node in machine.x_debug_query_block_graph()["nodes"])
    assert try_disk(machine, "top", driver) is None


@pytest.mark.parametrize("name", JOBS)
def test_during_a_job(machine, name):
    command, arguments = JOBS[name]
    machine.execute(command, {**arguments, "job-id": "j"})
    busy = f"is busy: block device is in use by block job: {name}"
    node = TAKEN[name]
    if node is None:
        assert try_disk(machine, "top") is None
        return
    assert try_disk(machine, node, **{"share-rw": True}) == f"Node '{node}' {busy}"
    dataplane = try_disk(machine, node, "virtio-blk-pci", None, iothread="a", **{"share-rw": True})
    assert dataplane == f"cannot start virtio-blk dataplane: Node '{node}' {busy}"
    # No iothread can get at these.
    assert try_disk(machine, node, bus="old.0", **{"share-rw": True}) is None
    assert try_disk(machine, node, "virtio-blk-pci", None, **{"share-rw": True}) is None
