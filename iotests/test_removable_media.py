"""Trays that open and close, media that come and go; and what of a drive stays meanwhile."""

import pytest

from blockbed_iotests import QmpError

pytestmark = pytest.mark.manners("system")

SIZE = "1440k"


@pytest.fixture
def disks(images):
    """Two images, `old` and `new`."""
    return {name: images.create(f"{name}.qcow2", size=SIZE).fill((0, SIZE, byte)) for name, byte in (("old", 1), ("new", 2))}


@pytest.fixture
def cdrom(start, disks):
    """A CD-ROM drive `dev` with the node `old` in it; there is another node, `new`."""
    server = start("-device", "virtio-scsi", machine="pc")
    for name, image in disks.items():
        server.blockdev_add(driver="qcow2", node_name=name, read_only=True, file={"driver": "file", "filename": str(image)})
    server.device_add({"driver": "scsi-cd", "id": "dev", "drive": "old"})
    return server


@pytest.fixture
def floppy(start, disks):
    """The same as a floppy drive, which has no tray."""
    server = start("-blockdev", f"qcow2,node-name=old,file.driver=file,file.filename={disks['old']}", "-device", "floppy,id=dev,drive=old",
                   machine="pc")
    server.blockdev_add(driver="qcow2", node_name="new", file={"driver": "file", "filename": str(disks["new"])})
    return server


def drive(server):
    [info] = [info for info in server.query_block() if info.get("qdev") == "dev"]
    return info


def medium(server):
    inserted = drive(server).get("inserted")
    return inserted and inserted["node-name"]


def moves(server):
    """Whether it opened, of each move of the tray since the last call."""
    return [event["data"]["tray-open"] for event in server.events("DEVICE_TRAY_MOVED")]


def test_step_by_step(cdrom):
    cdrom.blockdev_open_tray(id="dev")
    assert cdrom.events("DEVICE_TRAY_MOVED")[0]["data"] == {"device": "", "id": "dev", "tray-open": True}
    assert (drive(cdrom)["tray_open"], medium(cdrom)) == (True, "old")
    cdrom.blockdev_remove_medium(id="dev")
    assert medium(cdrom) is None
    cdrom.blockdev_insert_medium(id="dev", node_name="new")
    assert medium(cdrom) == "new"
    cdrom.blockdev_close_tray(id="dev")
    assert (moves(cdrom), drive(cdrom)["tray_open"], medium(cdrom)) == ([False], False, "new")
    cdrom.blockdev_del(node_name="old")
    assert cdrom.error("blockdev-del", {"node-name": "new"}) == "Node new is in use"


def test_what_is_so_already_is_no_error(cdrom):
    cdrom.blockdev_close_tray(id="dev")
    for _ in range(2):
        cdrom.eject(id="dev")
        cdrom.blockdev_open_tray(id="dev")
        cdrom.blockdev_remove_medium(id="dev")
    assert moves(cdrom) == [True]
    assert (medium(cdrom), cdrom.node_names() >= {"old", "new"}) == (None, True)


def test_a_drive_without_tray(floppy):
    assert "tray_open" not in drive(floppy)
    floppy.blockdev_open_tray(id="dev")
    floppy.blockdev_close_tray(id="dev")
    floppy.blockdev_remove_medium(id="dev")
    floppy.blockdev_insert_medium(id="dev", node_name="new")
    assert medium(floppy) == "new"
    floppy.eject(id="dev")
    assert (medium(floppy), moves(floppy)) == (None, [])


@pytest.mark.parametrize("read_only", [True, False])
def test_a_floppy_is_written_if_it_can_be(floppy, disks, read_only):
    floppy.eject(id="dev")
    floppy.blockdev_del(node_name="new")
    floppy.blockdev_add(driver="qcow2", node_name="new", read_only=read_only, file={"driver": "file", "filename": str(disks["new"])})
    floppy.blockdev_insert_medium(id="dev", node_name="new")
    [edge] = [edge for edge in floppy.x_debug_query_block_graph()["edges"] if edge["name"] == "root"]
    assert ("write" in edge["perm"]) is not read_only


def test_a_medium_of_the_drive_goes_when_it_is_taken_out(start, disks):
    server = start("-drive", f"if=none,media=cdrom,id=d,file={disks['old']}", "-device", "virtio-scsi", "-device", "scsi-cd,id=dev,drive=d", machine="pc")
    server.eject(device="d")
    assert server.events("DEVICE_TRAY_MOVED")[0]["data"] == {"device": "d", "id": "dev", "tray-open": True}
    assert server.node_names() == set()
    assert drive(server)["device"] == "d"


def test_change(start, disks):
    server = start("-drive", f"if=none,id=d,cache=unsafe,read-only=on,detect-zeroes=on,file={disks['old']}", "-device", "floppy,id=dev,drive=d",
                   machine="pc")
    for name, mode, read_only in (("new", None, True), ("old", "read-write", False), ("new", "retain", False), ("old", "read-only", True)):
        server.execute("blockdev-change-medium", {"id": "dev", "filename": str(disks[name])} | ({"read-only-mode": mode} if mode else {}))
        inserted = drive(server)["inserted"]
        assert (inserted["file"], inserted["drv"], inserted["ro"]) == (str(disks[name]), "qcow2", read_only)
        assert (inserted["cache"]["no-flush"], inserted["detect_zeroes"]) == (True, "on")
    server.eject(id="dev")
    server.blockdev_change_medium(id="dev", filename=str(disks["new"]), format="raw")
    inserted = drive(server)["inserted"]
    assert (inserted["drv"], inserted["ro"], inserted["cache"]["no-flush"]) == ("raw", True, True), "an empty drive remembers"


def test_change_moves_the_tray(cdrom, disks):
    cdrom.eject(id="dev")
    for name in ("old", "new"):
        cdrom.blockdev_del(node_name=name)
        cdrom.blockdev_change_medium(id="dev", filename=str(disks[name]))
    assert moves(cdrom) == [True, False, True, False]
    inserted = drive(cdrom)["inserted"]
    assert (inserted["file"], inserted["ro"]) == (str(disks["new"]), True)


def test_a_medium_that_cannot_be_opened_moves_nothing(cdrom):
    begin = cdrom.x_debug_query_block_graph()
    assert cdrom.error("blockdev-change-medium", id="dev", filename="/no/such") == "Could not open '/no/such': No such file or directory"
    assert cdrom.error("blockdev-change-medium", id="dev", filename="/no/such", format="nope") == "Unknown driver 'nope'"
    assert (moves(cdrom), cdrom.x_debug_query_block_graph()) == ([], begin)


def test_limits_stay_with_the_drive(cdrom):
    limits = dict(id="dev", bps=0, bps_rd=0, bps_wr=0, iops=100, iops_rd=0, iops_wr=0)
    cdrom.block_set_io_throttle(limits)
    cdrom.eject(id="dev")
    assert cdrom.error("block_set_io_throttle", limits) == "Device has no medium"
    cdrom.blockdev_insert_medium(id="dev", node_name="new")
    assert drive(cdrom)["inserted"]["iops"] == 100


def test_a_medium_in_use_by_a_job_stays(cdrom, images, disks):
    cdrom.add_image("target", images.create("target.raw", "raw", SIZE))
    cdrom.blockdev_backup(job_id="job", device="old", target="target", sync="full", speed=1)
    for command in ("eject", "blockdev-remove-medium"):
        text = cdrom.error(command, {"id": "dev"})
        assert text.startswith("Node '") and text.endswith("' is busy: block device is in use by block job: backup"), text
    assert moves(cdrom) == [True]
    cdrom.job_cancel(id="job")
    cdrom.wait_event("BLOCK_JOB_CANCELLED")


def test_an_export_goes_with_the_medium(start, disks):
    server = start("-drive", f"if=none,media=cdrom,id=d,file={disks['old']}", machine="pc")
    server.nbd_start()
    server.nbd_server_add(device="d")
    server.eject(device="d")
    server.wait_event("BLOCK_EXPORT_DELETED")
    assert server.query_block_exports() == []


REFUSED = [
    ("blockdev-remove-medium", {"id": "dev"}, "Tray of device 'dev' is not open"),
    ("blockdev-insert-medium", {"id": "dev", "node-name": "new"}, "Tray of the device is not open"),
    ("blockdev-insert-medium", {"id": "dev", "node-name": "nope"}, "Node 'nope' not found"),
    ("blockdev-insert-medium", {"id": "dev", "node-name": "old"}, "Node 'old' is already in use"),
    ("blockdev-insert-medium", {"id": "nope", "node-name": "new"}, "Device 'nope' not found"),
    ("eject", {}, "Need exactly one of 'device' and 'id'"),
    ("eject", {"id": "dev", "device": "dev"}, "Need exactly one of 'device' and 'id'"),
    ("eject", {"device": "dev"}, "Device 'dev' not found"),
    ("blockdev-open-tray", {"id": "nope"}, "Device 'nope' not found"),
    ("blockdev-close-tray", {}, "Need exactly one of 'device' and 'id'"),
    ("blockdev-change-medium", {"filename": "x"}, "Need exactly one of 'device' and 'id'"),
    ("blockdev-change-medium", {"id": "nope", "filename": "x"}, "Device 'nope' not found"),
]


@pytest.mark.parametrize("command, arguments, text", REFUSED)
def test_refused(cdrom, command, arguments, text):
    with pytest.raises(QmpError) as refused:
        cdrom.execute(command, arguments)
    assert refused.value.desc == text
    assert (moves(cdrom), medium(cdrom)) == ([], "old")


def test_there_is_one_medium(cdrom):
    cdrom.blockdev_open_tray(id="dev")
    assert cdrom.error("blockdev-insert-medium", {"id": "dev", "node-name": "new"}) == "There already is a medium in the device"


@pytest.mark.parametrize("command", ["eject", "blockdev-open-tray", "blockdev-close-tray", "blockdev-remove-medium"])
@pytest.mark.parametrize("device, name, text", [
    ("scsi-hd", "dev", "Device 'dev' is not removable"),
    ("virtio-blk-pci", "dev", "Device does not have a block device backend"),
    ("virtio-blk-pci", "/machine/peripheral/dev/virtio-backend", "Device '/machine/peripheral/dev/virtio-backend' is not removable"),
])
def test_disks_are_not_removable(start, device, name, text, command):
    server = start("-device", "virtio-scsi", "-blockdev", "null-co,node-name=n", "-device", f"{device},id=dev,drive=n", machine="pc")
    assert server.error(command, {"id": name}) == text


def test_a_drive_without_device(start, disks):
    server = start("-drive", f"if=none,id=d,file={disks['old']}", "-drive", "if=none,id=empty", machine="pc")
    for command in (server.blockdev_open_tray, server.blockdev_close_tray, server.eject):
        command(device="d")
        command(device="empty")
    server.blockdev_change_medium(device="empty", filename=str(disks["new"]))
    infos = {info["device"]: info for info in server.query_block()}
    assert "inserted" not in infos["d"]
    assert infos["empty"]["inserted"]["file"] == str(disks["new"]) and not infos["empty"]["inserted"]["ro"]
    assert not server.events("DEVICE_TRAY_MOVED")


def test_by_hand(start, disks):
    server = start("-drive", f"if=none,media=cdrom,id=d,file={disks['old']}", "-device", "virtio-scsi", "-device", "scsi-cd,id=dev,drive=d", machine="pc")
    assert server.hmp("eject d") == ""
    assert "d: [not inserted]" in server.hmp("info block") and "tray open" in server.hmp("info block")
    assert server.hmp(f"change d {disks['new']}") == ""
    assert f"{disks['new']} (qcow2, read-only)" in server.hmp("info block")
    assert server.hmp(f"change d {disks['old']} raw read-only") == ""
    assert f"{disks['old']} (raw, read-only)" in server.hmp("info block")
    assert server.hmp("eject -f d") == ""
    for line, text in (("eject nope", "Error: Device 'nope' not found"), ("change nope x", "Error: Device 'nope' not found"),
                       ("change d /no/such", "Error: Could not open '/no/such': No such file or directory"),
                       (f"change d {disks['old']} raw foo", "Error: invalid parameter value: foo"),
                       ("eject", "eject: block device name expected"), ("change d", "change: filename expected")):
        assert server.hmp(line).splitlines()[0] == text
