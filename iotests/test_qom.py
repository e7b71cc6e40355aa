"""The object tree as clients walk it: devices, objects, their properties."""

import pytest

pytestmark = pytest.mark.manners("system")

FIXED = "Attempt to set property '{}' on {} after it was realized"
DISKS = {
    "scsi-hd": "device 'd' (type 'scsi-hd')",
    "scsi-cd": "device 'd' (type 'scsi-cd')",
    "ide-hd": "device 'd' (type 'ide-hd')",
    "virtio-blk": "anonymous device (type 'virtio-blk-device')",
}


def disk(start, model, *properties):
    return start(
        "-device", "virtio-scsi", "-blockdev", "null-co,node-name=n", "-device", ",".join([model, "drive=n", *properties]),
        machine="pc",
    )


def get(server, path, name):
    return server.qom_get(path=path, property=name)


def set_error(server, path, name, value="x"):
    return server.error("qom-set", path=path, property=name, value=value)


@pytest.mark.parametrize("model", DISKS)
@pytest.mark.parametrize("given", [{}, {"rerror": "stop", "werror": "ignore"}, {"werror": "enospc"}, {"rerror": "enospc"}])
def test_error_policies(start, model, given):
    """What a device answers is what it was given: what it makes of `auto` is not told."""
    server = disk(start, model, "id=d", *(f"{name}={policy}" for name, policy in given.items()))
    paths = ["d", "/machine/peripheral/d"] + (["d/virtio-backend"] if model == "virtio-blk" else [])
    for path in paths:
        types = {entry["name"]: entry["type"] for entry in server.qom_list(path=path)}
        for name in ("rerror", "werror"):
            assert types[name] == "BlockdevOnError"
            assert get(server, path, name) == given.get(name, "auto")
            assert set_error(server, path, name, "stop") == FIXED.format(name, DISKS[model])
            assert get(server, path, name) == given.get(name, "auto")


def test_the_policies_of_a_drive_are_not_those_of_its_device(start):
    server = start("-drive", "if=none,id=dd,driver=null-co,werror=stop,rerror=stop", "-device", "virtio-blk,drive=dd,id=d", machine="pc")
    assert get(server, "d", "rerror") == get(server, "d", "werror") == "auto"


def test_a_device_without_a_name(start):
    server = disk(start, "ide-hd")
    path = "/machine/peripheral-anon/device[1]"
    assert set_error(server, path, "werror") == FIXED.format("werror", "anonymous device (type 'ide-hd')")


def test_a_floppy_has_no_policies(start):
    server = start("-device", "floppy,id=d", machine="pc")
    assert server.error("qom-get", path="d", property="werror") == "Property 'floppy.werror' not found"


def test_types_and_children_cannot_be_set(start):
    server = disk(start, "virtio-blk", "id=d")
    server.object_add({"qom-type": "throttle-group", "id": "g"})
    server.object_add({"qom-type": "secret", "id": "s", "data": "x"})
    for path, kind in (
        ("d", "virtio-blk-pci"), ("d/virtio-backend", "virtio-blk-device"), ("g", "throttle-group"), ("s", "secret"),
        ("/machine", "pc-i440fx-7.2-machine"), ("/machine/peripheral", "container"), ("/", "container"),
    ):
        assert get(server, path, "type") == kind
        for value in ("x", 3, None):
            assert set_error(server, path, "type", value) == f"Property '{kind}.type' is not writable"
        assert set_error(server, path, "nope") == f"Property '{kind}.nope' not found"
    for path, kind, child in (("/objects", "container", "g"), ("/", "container", "machine"), ("d", "virtio-blk-pci", "virtio-backend")):
        assert set_error(server, path, child) == f"Property '{kind}.{child}' is not writable"


def test_a_child_is_its_path(start):
    server = disk(start, "virtio-blk", "id=d")
    server.object_add({"qom-type": "throttle-group", "id": "g"})
    assert get(server, "/", "machine") == "/machine"
    assert get(server, "/objects", "g") == "/objects/g"
    assert get(server, "/machine/peripheral", "d") == "/machine/peripheral/d"
    assert get(server, "d", "virtio-backend") == "/machine/peripheral/d/virtio-backend"


def test_a_name_that_means_two_things(start):
    server = disk(start, "virtio-blk", "id=d")
    server.object_add({"qom-type": "throttle-group", "id": "d"})
    # Whoever looks is told why, whoever wants a property is not.
    assert server.error("qom-list", path="d") == "Path 'd' is ambiguous"
    assert server.error("qom-get", path="d", property="type") == "DeviceNotFound: Device 'd' not found"
    assert server.error("qom-set", path="d", property="type", value="x") == "DeviceNotFound: Device 'd' not found"
    assert get(server, "objects/d", "type") == "throttle-group"
    assert get(server, "peripheral/d", "type") == "virtio-blk-pci"
    assert get(server, "d/virtio-backend", "type") == "virtio-blk-device"
    server.object_del(id="d")
    assert get(server, "d", "type") == "virtio-blk-pci"
