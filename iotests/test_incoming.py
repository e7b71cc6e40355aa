"""The target of a migration: -incoming, migrate-incoming, and images that still belong to the other side."""

import os
import re
import select
import signal
import socket

import pytest

from blockbed_iotests import Qmp, QmpError
from blockbed_iotests.image import qemu_img, qemu_io

pytestmark = pytest.mark.manners("system")

SIZE = "4M"
READ_ONLY = "Block node is read-only\n"


def blockdev(image, node="d"):
    return "-blockdev", f"driver={image.format},node-name={node},file.driver=file,file.filename={image.path}"


def status(server):
    return server.query_status()["status"]


def can_write(image):
    """Whether another program gets the permission to."""
    return "Failed to get" not in image.io("write 3M 512", status=None)


def add_bitmap(image, name):
    qemu_img("bitmap", "--add", "-f", image.format, image.path, name)


# ---------------------------------------------------------------------- the state


def test_waiting_for_a_guest(start):
    """Nothing but a guest ends this state, and none comes."""
    server = start("-incoming", "defer")
    begin = len(server.received)
    assert server.query_status() == {"status": "inmigrate", "singlestep": False, "running": False}
    server.cont()
    server.qmp.stop()
    server.system_reset()
    server.cont()
    assert status(server) == "inmigrate"
    assert [message["event"] for message in server.received[begin:] if "event" in message] == ["RESET"]
    assert server.hmp("cont") == ""
    assert server.hmp("info status") == "VM status: paused (inmigrate)\n"
    assert server.query_migrate() == {}


def test_the_last_option_counts(start):
    assert status(start("-incoming", "bogus", "-incoming", "defer")) == "inmigrate"


# ---------------------------------------------------------------------- ways in

BAD_URIS = {
    "": "unknown migration protocol: ",
    "bogus": "unknown migration protocol: bogus",
    "bogus:x": "unknown migration protocol: bogus:x",
    "fd:x": "Invalid file descriptor number 'x'",
    "unix:": "invalid Unix socket address",
    "unix:/no/such/place": "Failed to bind socket to /no/such/place: No such file or directory",
    "unix:" + 120 * "x": f"UNIX socket path '{120 * 'x'}' is too long\nPath must be less than 108 bytes",
    "tcp:": "error parsing address ''",
    "tcp:host": "error parsing address 'host'",
    "tcp:1.2.3.4:99": "Failed to bind socket: Cannot assign requested address",
}


@pytest.mark.parametrize("uri", BAD_URIS)
def test_bad_uris(run, uri):
    assert run("-incoming", uri) == (1, "", f"-incoming {uri}: {BAD_URIS[uri]}\n")


def test_preconfig(run):
    assert run("-preconfig", "-incoming", "exec:true") == (1, "", "'preconfig' supports '-incoming defer' only\n")


STREAMS = {
    "other": (b"abcdefgh", "Not a migration stream", "Invalid argument"),
    "short": (b"QEV", "Not a migration stream", "Invalid argument"),
    "no version": (b"QEVM", "Unsupported migration stream version", "Operation not supported"),
    "later": (b"QEVM\0\0\0\x04", "Unsupported migration stream version", "Operation not supported"),
    "old": (b"QEVM\0\0\0\x02", "SaveVM v2 format is obsolete and don't work anymore", "Operation not supported"),
    "nothing follows": (b"QEVM\0\0\0\x03", "Configuration section missing", "Invalid argument"),
    "another section": (b"QEVM\0\0\0\x03\x01", "Configuration section missing", "Invalid argument"),
}


def refusal(target, why, error):
    name = os.path.basename(target.program.command("system")[0])
    return f"{name}: {why}\n{name}: load of migration failed: {error}\n"


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_commands(run, target, workdir, name):
    stream, why, error = STREAMS[name]
    (workdir / "stream").write_bytes(stream)
    result, _, err = run("-incoming", "exec:cat stream")
    assert (result, re.sub("^", os.path.basename(target.program.command("system")[0]) + ": ", err)) == (
        1, refusal(target, why, error))


@pytest.mark.differs("there is no guest that could arrive: every stream is refused", server="qemu")
def test_no_guest_arrives(run):
    result, _, err = run("-incoming", r"exec:printf 'QEVM\000\000\000\003\007\000\000\000\004none'")
    assert result == 1
    assert err.startswith("A guest cannot arrive: Blockbed has no machine that would run it\n")


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_sockets(start, target, workdir, name):
    stream, why, error = STREAMS[name]
    server = start("-incoming", "unix:in")
    assert server.query_migrate() == {"socket-address": [{"type": "unix", "path": "in"}]}
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(workdir / "in"))
    client.sendall(stream)
    client.close()
    server.wait(1)
    assert server.stderr == refusal(target, why, error)


def test_tcp(start, target):
    server = start("-incoming", "tcp:127.0.0.1:0")
    ((address,),) = server.query_migrate().values()
    assert (address["type"], address["host"]) == ("inet", "127.0.0.1")
    socket.create_connection(("127.0.0.1", int(address["port"]))).close()
    server.wait(1)
    assert server.stderr == refusal(target, "Not a migration stream", "Invalid argument")


def test_in_the_background(run, workdir):
    options = ("-daemonize", "-pidfile", "pid", "-qmp", "unix:m,server=on,wait=off")
    assert run("-incoming", "unix:in", *options) == (0, "", "")
    pid = int((workdir / "pid").read_text())
    try:
        with Qmp.connect(workdir / "m") as qmp:
            assert qmp.query_status()["status"] == "inmigrate"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(workdir / "in"))
            assert qmp.at_eof()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


@pytest.mark.differs("the command is left alone", server="qemu")
def test_the_command_ends_with_the_server(start, workdir):
    server = start("-incoming", "exec:echo $$ >child; mv child named; exec sleep 100")
    while not (workdir / "named").exists():
        assert status(server) == "inmigrate"
    child = int((workdir / "named").read_text())
    handle = os.pidfd_open(child)
    server.stop()
    ended, _, _ = select.select([handle], [], [], 2)
    os.close(handle)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended


@pytest.mark.parametrize("command", ["cat /dev/null", "exit 3", ""])
def test_a_silent_command(start, command):
    server = start("-incoming", f"exec:{command}")
    for _ in range(3):
        assert status(server) == "inmigrate"


def test_descriptors(start, target):
    reader, writer = os.pipe()
    server = start("-incoming", f"fd:{reader}", pass_fds=(reader,))
    os.close(reader)
    assert status(server) == "inmigrate"
    os.write(writer, b"nonsense")
    os.close(writer)
    server.wait(1)
    assert server.stderr == refusal(target, "Not a migration stream", "Invalid argument")


def test_a_command_says_where(start, target, workdir):
    server = start("-incoming", "defer")
    begin = len(server.received)
    for uri, error in {
        "bogus": BAD_URIS["bogus"],
        "fd:x": "File descriptor named 'x' has not been found",
        "unix:": BAD_URIS["unix:"],
    }.items():
        assert server.error("migrate-incoming", {"uri": uri}) == error
    server.migrate_incoming(uri="unix:in")
    events = [message for message in server.received[begin:] if "event" in message]
    assert [(event["event"], event["data"]) for event in events] == 4 * [("MIGRATION", {"status": "setup"})]
    assert server.query_migrate()["socket-address"] == [{"type": "unix", "path": "in"}]
    for uri in ("unix:other", "bogus"):
        assert server.error("migrate-incoming", {"uri": uri}) == "The incoming migration has already been started"
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(workdir / "in"))
    client.sendall(b"nonsense")
    server.wait(1)
    assert server.stderr == refusal(target, "Not a migration stream", "Invalid argument")


def test_nobody_is_awaited(server):
    assert server.error("migrate-incoming", {"uri": "bogus"}) == "'-incoming' was not specified on the command line"


# ---------------------------------------------------------------------- images


def test_images_are_left_to_others(start, images):
    """No permission is taken, nothing is written, whoever opens them."""
    base = images.create("base.qcow2", size=SIZE)
    image = images.create("d.qcow2", size=SIZE, backing=base)
    drive = images.create("e.qcow2", size=SIZE)
    added = images.create("f.raw", "raw", size=SIZE)
    add_bitmap(image, "b")
    server = start("-incoming", "defer", *blockdev(image), "-drive", f"if=none,id=e,format=qcow2,file={drive.path}")
    server.add_image("f", added)
    server.hmp("drive_add 0 if=none,id=g,driver=null-co")
    before = {each: each.path.read_bytes() for each in (base, image, drive, added)}
    for node in ("d", "e", "f", "g"):
        for command in ("write 0 512", "write -z 0 64k", "discard 0 64k"):
            assert server.qemu_io(node, command) == READ_ONLY
        assert "read 512/512" in server.qemu_io(node, "read 0 512")
    assert server.query_block_jobs() == [] and status(server) == "inmigrate"
    assert not any(entry["ro"] for entry in server.query_named_block_nodes() if entry["node-name"] in ("d", "f"))
    for each, content in before.items():
        assert each.path.read_bytes() == content
        assert can_write(each)
    server.stop()


def test_corruption_is_not_written_down(start, images):
    image = images.create("d.qcow2", size=SIZE)
    with open(image.path, "r+b") as file:
        file.seek(40)
        file.seek(int.from_bytes(file.read(8), "big"))
        file.write(b"\0\0\0\0\x2a\x2a\x2a\x2a")
    before = image.path.read_bytes()
    server = start("-incoming", "defer", *blockdev(image))
    server.qemu_io("d", "read 0 512")
    event = server.wait_event("BLOCK_IMAGE_CORRUPTED")
    assert event["data"] == {
        "device": "", "node-name": "d", "fatal": False,
        "msg": "L2 table offset 0x2a2a2a00 unaligned (L1 index: 0)",
    }
    server.stop()
    assert image.path.read_bytes() == before


@pytest.mark.parametrize("command, arguments", {
    "blockdev-mirror": {"device": "d", "target": "e", "sync": "full", "job-id": "j"},
    "block-commit": {"device": "d", "job-id": "j"},
    "block-stream": {"device": "d", "job-id": "j"},
    "blockdev-backup": {"device": "d", "target": "e", "sync": "full", "job-id": "j"},
}.items())
def test_jobs_that_write(start, images, command, arguments):
    image = images.create("d.qcow2", size=SIZE, backing=images.create("base.qcow2", size=SIZE))
    server = start("-incoming", "defer", *blockdev(image), *blockdev(images.create("e.qcow2", size=SIZE), "e"))
    assert server.error(command, arguments).endswith("Block node is read-only")
    assert server.query_jobs() == []


def test_cont_takes_them_over(start, images):
    image = images.create("d.qcow2", size=SIZE)
    raw = images.create("e.raw", "raw", size=SIZE)
    server = start("-incoming", "defer", *blockdev(image), *blockdev(raw, "e"))
    # The other side goes on, and the files grow.
    image.fill((0, "1M", 7))
    qemu_io(raw.path, "truncate 8M", "write -P 8 7M 64k", format="raw")
    server.cont()
    assert status(server) == "inmigrate"
    assert "Pattern verification failed" not in server.qemu_io("d", "read -P 7 0 1M")
    assert "Pattern verification failed" not in server.qemu_io("e", "read -P 8 7M 64k")
    assert not can_write(image)
    assert "wrote 65536/65536" in server.qemu_io("d", "write -P 9 1M 64k")
    server.stop()
    image.check()
    image.read(0, "1M", 7)
    image.read("1M", "64k", 9)


def test_a_dirty_image_is_repaired(start, images):
    """The other side has died while its reference counts were not written."""
    image = images.create("d.qcow2", size=SIZE, lazy_refcounts="on")
    server = start("-incoming", "defer", *blockdev(image))
    qemu_io(image.path, "write -P 1 0 1M", "flush", "sigraise 9", format="qcow2", status=-9)
    assert image.info()["dirty-flag"]
    server.cont()
    assert "Pattern verification failed" not in server.qemu_io("d", "read -P 1 0 1M")
    server.stop()
    image.check()


def test_reopened_images_are_left_to_others_still(start, images):
    image = images.create("d.qcow2", size=SIZE)
    server = start("-incoming", "defer", *blockdev(image))
    options = {"driver": "qcow2", "node-name": "d", "file": {"driver": "file", "filename": str(image.path)}}
    for read_only in (True, False):
        server.blockdev_reopen(options=[options | {"read-only": read_only}])
        assert server.qemu_io("d", "write 0 512") == READ_ONLY
        assert can_write(image)
    server.cont()
    assert "wrote 512/512" in server.qemu_io("d", "write 0 512")


@pytest.mark.differs("snapshot-access has no option `internal-snapshot`", server="qemu")
def test_images_of_which_a_snapshot_is_read(start, images):
    image = images.create("d.qcow2", size=SIZE)
    qemu_img("snapshot", "-c", "s", image.path)
    server = start("-incoming", "defer", *blockdev(image))
    server.blockdev_add({"driver": "snapshot-access", "node-name": "s", "file": "d", "internal-snapshot": {"name": "s"}})
    assert server.error("cont") == "Could not reopen qcow2 layer: Snapshot 's' is being read by node 's'"
    server.blockdev_del(node_name="s")
    server.cont()


def test_what_is_opened_later_is_left_to_others_again(start, images):
    image, later = images.create("d.qcow2", size=SIZE), images.create("e.qcow2", size=SIZE)
    server = start("-incoming", "defer", *blockdev(image))
    server.cont()
    server.add_image("e", later)
    assert server.qemu_io("e", "write 0 512") == READ_ONLY
    assert can_write(later)
    server.cont()
    assert "wrote 512/512" in server.qemu_io("e", "write 0 512")


def test_persistent_bitmaps(start, images):
    """They belong to the other side too, and are read when the image is taken over."""
    image = images.create("d.qcow2", size=SIZE)
    server = start("-incoming", "defer", *blockdev(image))
    add_bitmap(image, "b")
    image.fill(("1M", "64k", 1))
    assert "dirty-bitmaps" not in server.query_node("d")
    server.cont()
    (bitmap,) = server.query_node("d")["dirty-bitmaps"]
    assert (bitmap["name"], bitmap["persistent"], bitmap["count"]) == ("b", True, 65536)
    server.stop()
    (stored,) = image.info()["format-specific"]["data"]["bitmaps"]
    assert stored["flags"] == ["auto"]


def test_a_bitmap_made_before_the_image_is_taken_over(start, images):
    """It is nobody else's: free to change at once, and stored with the others in the end."""
    image = images.create("d.qcow2", size=SIZE)
    server = start("-incoming", "defer", *blockdev(image))
    for name in ("b", "gone"):
        server.block_dirty_bitmap_add(node="d", name=name, persistent=True)
        for verb in ("clear", "disable", "enable"):
            server.execute(f"block-dirty-bitmap-{verb}", {"node": "d", "name": name})
    server.block_dirty_bitmap_remove(node="d", name="gone")
    server.cont()
    assert "wrote 512/512" in server.qemu_io("d", "write 0 512")
    server.stop()
    (stored,) = image.info()["format-specific"]["data"]["bitmaps"]
    assert (stored["name"], stored["flags"]) == ("b", ["auto"])


@pytest.mark.differs("the node cannot be used any more", server="qemu")
def test_images_that_cannot_be_taken_over(start, images):
    image = images.create("d.qcow2", size=SIZE)
    add_bitmap(image, "b")
    server = start("-incoming", "defer", *blockdev(image))
    server.block_dirty_bitmap_add(node="d", name="b")
    assert server.error("cont") == "Could not reopen qcow2 layer: Bitmap already exists: b"
    assert can_write(image)
    server.block_dirty_bitmap_remove(node="d", name="b")
    server.cont()
    assert [bitmap["name"] for bitmap in server.query_node("d")["dirty-bitmaps"]] == ["b"]


def test_snapshots(start, images):
    """An overlay over an image that is left to others is so too."""
    image = images.create("d.qcow2", size=SIZE)
    server = start("-incoming", "defer", "-drive", f"if=none,id=d,format=qcow2,file={image.path}")
    overlay = images.at("o.qcow2", "qcow2")
    server.blockdev_snapshot_sync(device="d", snapshot_file=str(overlay.path), snapshot_node_name="o")
    assert server.qemu_io("d", "write 0 512") == READ_ONLY
    assert can_write(overlay) and can_write(image)
    assert server.hmp("savevm x") == "Error: Device 'd' is writable but does not support snapshots\n"
    server.cont()
    assert "wrote 512/512" in server.qemu_io("d", "write 0 512")
    assert not can_write(overlay)


# ---------------------------------------------------------------------- exports and devices


@pytest.mark.parametrize("writable", [True, False])
def test_exports_take_over(start, images, writable):
    """A disk is copied through an export before its guest arrives."""
    image, other = images.create("d.qcow2", size=SIZE), images.create("e.qcow2", size=SIZE)
    server = start("-incoming", "defer", *blockdev(image), *blockdev(other, "e"))
    image.fill((0, "64k", 1))
    nbd = server.export("d", writable=writable)
    assert nbd.pread(4, 0) == b"\1\1\1\1"
    if writable:
        nbd.pwrite(512 * b"x", 65536)
    assert not can_write(image)
    assert can_write(other)
    nbd.close()
    server.stop()
    image.check()


def test_export_by_the_older_command(start, images):
    image = images.create("d.qcow2", size=SIZE)
    server = start("-incoming", "defer", *blockdev(image))
    server.nbd_start()
    server.nbd_server_add(device="d", writable=True)
    nbd = server.nbd("d")
    nbd.pwrite(512 * b"x", 0)
    nbd.close()


def test_devices(start, images):
    """They have no permissions before, and afterwards share their disks as long as a guest is awaited."""
    image, drive = images.create("d.qcow2", size=SIZE), images.create("e.qcow2", size=SIZE)
    server = start(
        "-device", "virtio-scsi-pci", "-incoming", "defer", *blockdev(image),
        "-drive", f"if=none,id=e,format=qcow2,file={drive.path}",
        "-device", "scsi-hd,drive=d,id=first", "-device", "scsi-hd,drive=e", machine="pc",
    )
    server.device_add(driver="scsi-hd", id="second", drive="d")
    assert can_write(image) and can_write(drive)
    nbd = server.export("d", writable=True)
    nbd.pwrite(512 * b"x", 0)
    assert not can_write(image)
    assert can_write(drive)
    server.cont()
    assert not can_write(drive)
    nbd.pwrite(512 * b"x", 512)
    assert "wrote 512/512" in server.qemu_io("e", "write 0 512")
    nbd.close()


@pytest.mark.differs("an assertion fails", server="qemu")
def test_a_device_that_writes_too_early(start, images):
    image = images.create("d.qcow2", size=SIZE)
    server = start(
        "-device", "virtio-scsi-pci", "-incoming", "defer",
        "-drive", f"if=none,id=d,format=qcow2,file={image.path}", "-device", "scsi-hd,drive=d", machine="pc",
    )
    assert server.qemu_io("d", "write 0 512").endswith("write failed: Operation not permitted\n")
    assert server.qemu_io("d", "discard 0 64k").endswith("discard failed: Operation not permitted\n")


@pytest.mark.differs("an assertion fails", server="qemu")
def test_resize_and_rename_too_early(start, images):
    image = images.create("d.qcow2", size=SIZE, backing=images.create("base.qcow2", size=SIZE))
    server = start("-incoming", "defer", *blockdev(image))
    with pytest.raises(QmpError, match="Block node is read-only"):
        server.block_resize(node_name="d", size=8 << 20)
    with pytest.raises(QmpError, match="Block node is read-only"):
        server.change_backing_file(device="d", image_node_name="d", backing_file="base.qcow2")
