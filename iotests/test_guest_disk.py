"""What a machine does when a request of its guest fails: `rerror` and `werror`, BLOCK_IO_ERROR, and the way on.

A real QEMU has a firmware that reads the disk when the machine starts. Blockbed runs no guest: a client of an export that
was made with `x-guest-device` is one."""

import contextlib
import errno
import json

import pytest

from blockbed_iotests import QmpError

pytestmark = pytest.mark.manners("system")
own = pytest.mark.differs("the client of an export is the guest", server="qemu")

SIZE = 1 << 20
PIECE = 65536


def blkdebug(path, *rules):
    return {"driver": "raw", "node-name": "n",
            "file": {"driver": "blkdebug", "node-name": "bd", "image": {"driver": "file", "filename": str(path)},
                     **({"inject-error": rules} if rules else {})}}


def rule(iotype, error=errno.EIO, once=True, **where):
    return {"event": "none", "iotype": iotype, "errno": error, "once": once, "immediately": False, **where}


@pytest.fixture
def machine(start, images):
    """Starts a machine with the node n, and the device d on it with these policies."""
    disk = images.create("disk.raw", "raw", SIZE)
    disk.fill((0, SIZE, 1))

    def begin(*rules, model="scsi-hd", drive=None, **policies):
        """With `drive` the node belongs to a -drive of that name."""
        # With a geometry QEMU does not look for one on the disk.
        device = f"{model},drive={drive or 'n'},id=d,bootindex=0,cyls=2,heads=16,secs=63"
        device += "".join(f",{name}={value}" for name, value in policies.items())
        node = json.dumps(blkdebug(disk.path, *rules))
        given = ["-blockdev", node] if drive is None else ["-drive", f"if=none,id={drive},file=json:{node.replace(',', ',,')}"]
        server = start("-S", "-device", "virtio-scsi-pci,id=s", *given, "-device", device, machine="pc")
        server.nbd_start()
        return server

    return begin


@contextlib.contextmanager
def guest(server):
    with server.export("n", writable=True, id="guest", **{"x-guest-device": "d"}) as nbd:
        yield nbd


def io_status(server):
    return next(d for d in server.query_block() if d["qdev"].startswith("d") or "/d/" in d["qdev"]).get("io-status")


def io_error(server, timeout=None):
    return server.wait_event("BLOCK_IO_ERROR", timeout=timeout)["data"]


@pytest.mark.parametrize("drive", [None, "drive0"])
def test_a_guest_stops_for_an_error_and_goes_on(machine, drive):
    """Both servers: the firmware's read, or the client's."""
    server = machine(rule("read", sector=0), drive=drive, rerror="stop")
    assert io_status(server) == "ok"
    with contextlib.ExitStack() as stack:
        if server.kind == "blockbed":
            request = stack.enter_context(guest(server)).begin_pread(PIECE, 0)
        server.cont()
        assert io_error(server, 30) == {"device": drive or "", "node-name": "n", "operation": "read", "action": "stop", "nospace": False,
                                        "reason": "Input/output error"}
        server.wait_event("STOP")
        status = server.query_status()
        assert (status["status"], status["running"]) == ("io-error", False)
        assert io_status(server) == "failed"
        server.events("RESUME")
        server.cont()
        server.wait_event("RESUME")
        # What has no name keeps it.
        assert io_status(server) == ("ok" if drive else "failed")
        if server.kind == "blockbed":
            assert request.end().data == b"\1" * PIECE
    assert not server.events("BLOCK_IO_ERROR")


@pytest.mark.parametrize("drive", [None, "drive0"])
def test_cont_forgets_the_errors_of_jobs(machine, images, drive):
    server = machine(rule("read", sector=256), drive=drive)
    server.add_image("t", images.create("t.raw", "raw", SIZE))
    server.blockdev_backup(device=drive or "n", job_id="j", target="t", sync="full", on_source_error="stop")
    server.wait_event("BLOCK_JOB_ERROR")
    server.wait_job("j", "paused")
    assert server.query_block_jobs()[0]["io-status"] == "failed"
    server.cont()
    assert server.query_block_jobs()[0]["io-status"] == "ok"
    assert server.job("j")["status"] == "paused"
    server.job_resume(id="j")
    server.wait_event("BLOCK_JOB_COMPLETED")


# ---------------------------------------------------------------------- a client as the guest

READ, WRITE = "read", "write"


@own
@pytest.mark.parametrize("iotype, error, policies, action", [
    (READ, errno.EIO, {}, "report"),
    (READ, errno.ENOSPC, {}, "report"),
    (READ, errno.EIO, {"rerror": "report", "werror": "stop"}, "report"),
    (READ, errno.EIO, {"rerror": "ignore"}, "ignore"),
    (READ, errno.EIO, {"rerror": "stop", "werror": "report"}, "stop"),
    (WRITE, errno.EIO, {}, "report"),
    (WRITE, errno.ENOSPC, {}, "stop"),
    (WRITE, errno.ENOSPC, {"werror": "enospc"}, "stop"),
    (WRITE, errno.EIO, {"werror": "enospc"}, "report"),
    (WRITE, errno.EIO, {"werror": "report", "rerror": "stop"}, "report"),
    (WRITE, errno.EIO, {"werror": "ignore"}, "ignore"),
    (WRITE, errno.EIO, {"werror": "stop"}, "stop"),
], ids=str)
@pytest.mark.parametrize("model", ["scsi-hd", "virtio-blk-pci"])
def test_policies(machine, model, iotype, error, policies, action):
    server = machine(rule(iotype, error, sector=0), model=model, **policies)
    server.cont()
    with guest(server) as nbd:
        request = nbd.begin_pread(PIECE, 0) if iotype == READ else nbd.begin_pwrite(b"\2" * PIECE, 0)
        told = io_error(server)
        assert (told["operation"], told["action"]) == (iotype, action)
        keeps_status = policies.get("werror", "auto") in ("auto", "enospc", "stop") or policies.get("rerror") == "stop"
        assert told.get("nospace") == (error == errno.ENOSPC if keeps_status else None)
        if action == "stop":
            server.wait_event("STOP")
            assert server.query_status()["status"] == "io-error"
            assert not request.ended
            assert io_status(server) == ("nospace" if error == errno.ENOSPC else "failed")
            server.cont()
            request.end()
            assert request.error is None
        else:
            request.end()
            # The protocol has a number for it.
            assert request.error is None if action == "ignore" else request.error.errno == error
            assert server.query_status()["running"]
        if iotype == READ and request.error is None:
            assert request.data == (b"\0" if action == "ignore" else b"\1") * PIECE
        if iotype == WRITE:
            assert nbd.pread(PIECE, 0) == (b"\2" if action == "stop" else b"\1") * PIECE
    assert not server.events("BLOCK_IO_ERROR")


@own
def test_an_error_that_stays_stops_again(machine):
    server = machine(rule("write", errno.ENOSPC, once=False))
    server.cont()
    with guest(server) as nbd, server.export("n", "second", id="second", writable=True, **{"x-guest-device": "d"}) as other:
        requests = [nbd.begin_pwrite(b"\2" * PIECE, 0), other.begin_pwrite(b"\3" * PIECE, PIECE)]
        for _ in range(3):
            server.wait_event("STOP")
            server.cont()
        server.wait_event("STOP")
        assert all(not request.ended for request in requests)
        server.block_export_del(id="guest", mode="hard")
        server.block_export_del(id="second", mode="hard")
        assert all(request.end().error for request in requests)


@own
def test_requests_wait_while_the_machine_stands(machine):
    server = machine()
    with guest(server) as nbd:
        request = nbd.begin_pwrite(b"\2" * PIECE, 0)
        with server.export("n", "look") as look:
            assert look.pread(PIECE, 0) == b"\1" * PIECE
            server.cont()
            request.end()
            assert look.pread(PIECE, 0) == b"\2" * PIECE
            server.execute("stop")
            request = nbd.begin_pread(PIECE, 0)
            assert look.pread(PIECE, 0) == b"\2" * PIECE
            assert not request.ended
            server.cont()
            assert request.end().data == b"\2" * PIECE


@own
@pytest.mark.parametrize("way", ["block-export-del", "nbd-server-stop", "device_del", "quit"])
def test_the_end_while_a_request_waits(machine, way):
    server = machine(rule("read", sector=0), rerror="stop")
    server.cont()
    with contextlib.suppress(OSError), guest(server) as nbd:
        request = nbd.begin_pread(PIECE, 0)
        server.wait_event("STOP")
        if way == "quit":
            server.execute("quit")
            server.wait()
            assert request.end().error
            return
        if way == "block-export-del":
            assert "still in use" in server.error("block-export-del", {"id": "guest"})
            server.block_export_del(id="guest", mode="hard")
        else:
            server.execute(way, {"id": "d"} if way == "device_del" else {})
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": "guest"})
        assert request.end().error
    server.cont()
    assert server.query_status()["running"]
    if way == "device_del":
        server.blockdev_del(node_name="n")


@own
def test_the_device_counts_what_the_guest_does(machine):
    server = machine(rule("read", sector=0), rerror="report")
    server.cont()
    with guest(server) as nbd:
        with pytest.raises(OSError):
            nbd.pread(PIECE, 0)
        nbd.pread(PIECE, 0)
        nbd.pwrite(b"\2" * PIECE, PIECE)
        nbd.flush()
    stats = next(s for s in server.query_blockstats() if "/d/" in s.get("qdev", "") or s.get("qdev") == "d")["stats"]
    counted = {name: stats[name] for name in ("rd_operations", "failed_rd_operations", "wr_operations", "flush_operations")}
    assert counted == {"rd_operations": 1, "failed_rd_operations": 1, "wr_operations": 1, "flush_operations": 1}
    assert (stats["rd_bytes"], stats["wr_bytes"]) == (PIECE, PIECE)


@own
def test_what_is_inserted_over_the_disk_sees_the_guest(machine, images):
    server = machine()
    server.cont()
    server.add_image("scratch", images.create("scratch.qcow2", size=SIZE))
    overlay = images.create("overlay.qcow2", size=SIZE)
    server.add_image("overlay", overlay, backing=None)
    with guest(server) as nbd:
        server.blockdev_add({"driver": "copy-before-write", "node-name": "cbw", "file": "n", "target": "scratch"})
        server.qom_set(path="d", property="drive", value="cbw")
        server.blockdev_add({"driver": "snapshot-access", "node-name": "access", "file": "cbw"})
        with server.export("access", id="access") as fleece:
            nbd.pwrite(b"\2" * PIECE, 0)
            assert fleece.pread(PIECE, 0) == b"\1" * PIECE
        server.block_export_del(id="access", mode="hard")
        server.blockdev_del(node_name="access")
        server.qom_set(path="d", property="drive", value="n")
        server.blockdev_del(node_name="cbw")
        server.blockdev_snapshot(node="n", overlay="overlay")
        nbd.pwrite(b"\3" * PIECE, 0)
        assert nbd.pread(PIECE, 0) == b"\3" * PIECE
    server.execute("quit")
    server.wait()
    overlay.read(0, PIECE, 3)


@own
def test_who_is_refused(machine, images):
    server = machine()
    server.add_image("other", images.create("other.qcow2", size=SIZE))
    server.add_image("ro", images.create("ro.qcow2", size=SIZE), read_only=True)
    server.device_add(driver="scsi-cd", id="cd", drive="ro", bus="s.0")

    def refused(**arguments):
        with pytest.raises(QmpError) as error:
            server.block_export_add({"type": "nbd", "id": "e", "node-name": "n", **arguments})
        return error.value.error_class, error.value.desc

    assert refused(**{"x-guest-device": "nobody"}) == ("DeviceNotFound", "Device 'nobody' not found")
    assert refused(**{"x-guest-device": "d", "node-name": "other"}) == ("GenericError", "Device 'd' does not use node 'other'")
    assert refused(**{"x-guest-device": "cd", "node-name": "ro", "writable": True}) == (
        "GenericError", "Cannot export read-only node as writable")
    with server.export("ro", "cdrom", id="cdrom", **{"x-guest-device": "cd"}) as nbd:
        server.cont()
        assert nbd.pread(PIECE, 0) == b"\0" * PIECE
    assert [e["id"] for e in server.query_block_exports()] == ["cdrom"]
