"""Throttling: groups, the filter, devices with limits, and what becomes of requests that wait."""

import json
import socket
import time

import pytest

system = pytest.mark.manners("system")

KIB, MIB = 1 << 10, 1 << 20
NO_LIMITS = dict(bps=0, bps_rd=0, bps_wr=0, iops=0, iops_rd=0, iops_wr=0)
OBJECT_DEFAULTS = {
    f"{unit}-{what}{part}": 1 if part == "-max-length" else 0
    for unit in ("bps", "iops") for what in ("total", "read", "write") for part in ("", "-max", "-max-length")
} | {"iops-size": 0}


def null_drive(name="d", *options):
    return "-drive", ",".join([f"if=none,id={name},driver=null-co,read-zeroes=on", *options])


def set_limits(server, device="d", **limits):
    server.block_set_io_throttle({"device": device, **NO_LIMITS, **limits})


def limits_error(server, **arguments):
    return server.error("block_set_io_throttle", {**NO_LIMITS, **arguments})


def reported(server, device="d"):
    """The fields of query-block that speak of throttling."""
    [info] = [info for info in server.query_block() if info["device"] == device]
    return {key: value for key, value in info["inserted"].items() if key.startswith(("bps", "iops", "group")) and value != 0}


def add_group(server, name="g", **limits):
    server.object_add({"qom-type": "throttle-group", "id": name, "limits": {key.replace("_", "-"): value for key, value in limits.items()}})


def add_filter(server, name="t", file="n", group="g", **options):
    server.blockdev_add(driver="throttle", node_name=name, throttle_group=group, file=file, **options)


def add_null(server, name="n"):
    server.execute("blockdev-add", {"driver": "null-co", "node-name": name, "size": 1 << 30, "read-zeroes": True})


def begin(server, device, command):
    """A request that may wait; the command returns at once."""
    server.hmp(f'qemu-io {device} "{command}"')


def done(server, device="d"):
    """Requests that have ended, reads and writes."""
    [stats] = [entry["stats"] for entry in server.query_blockstats() if entry["device"] == device]
    return stats["rd_operations"], stats["wr_operations"]


def wait_done(server, count, device="d", timeout=10):
    end = time.monotonic() + timeout
    while sum(done(server, device)) < count:
        assert time.monotonic() < end, f"{done(server, device)} of {count}"


def seconds(server, device, command):
    begun = time.monotonic()
    assert "failed" not in server.qemu_io(device, command)
    return time.monotonic() - begun


# ---------------------------------------------------------------------- devices


@system
def test_limits_of_a_drive_are_reported(start):
    server = start(*null_drive("a", "throttling.iops-total=100"), *null_drive("b", "throttling.group=g"),
                   *null_drive("c", "bps_rd=5,bps_rd_max=50,throttling.bps-read-max-length=3,iops=7,iops_size=4096,group=g"))
    assert reported(server, "a") == {"iops": 100, "group": "a"}
    assert reported(server, "b") == {}
    assert reported(server, "c") == {
        "bps_rd": 5, "bps_rd_max": 50, "bps_rd_max_length": 3, "iops": 7, "iops_size": 4096, "group": "g"}


@system
def test_the_group_has_the_limits(start):
    server = start(*null_drive("a"), *null_drive("b"), "-object", "throttle-group,id=g,x-iops-total=100")
    set_limits(server, "a", iops=5)
    assert reported(server, "a") == {"iops": 5, "group": "a"}
    set_limits(server, "a", iops_rd=6, group="g")
    set_limits(server, "b", bps=7, bps_max=8, group="g")
    assert reported(server, "a") == reported(server, "b") == {"bps": 7, "bps_max": 8, "bps_max_length": 1, "group": "g"}
    assert server.qom_get(path="g", property="limits") == {**OBJECT_DEFAULTS, "bps-total": 7, "bps-total-max": 8}
    # Without a name: the group that it is in.
    set_limits(server, "a", iops=9)
    assert reported(server, "b") == {"iops": 9, "group": "g"}
    # No limits: it leaves, and the others keep theirs.
    set_limits(server, "a", group="z")
    assert (reported(server, "a"), reported(server, "b")) == ({}, {"iops": 9, "group": "g"})


@system
def test_limits_of_a_device_by_its_id(start):
    server = start("-device", "virtio-scsi", "-blockdev", "null-co,node-name=n,read-zeroes=on",
                   "-device", "scsi-hd,drive=n,id=disk", "-device", "scsi-cd,id=cd", machine="pc")
    server.block_set_io_throttle({"id": "disk", **NO_LIMITS, "iops": 3})
    [info] = [info for info in server.query_block() if info.get("qdev") == "disk"]
    assert (info["inserted"]["iops"], info["inserted"]["group"]) == (3, "disk")
    assert limits_error(server, id="cd", iops=3) == "Device has no medium"
    assert limits_error(server, id="n", iops=3) == "DeviceNotFound: Device 'n' not found"
    assert limits_error(server, device="disk", iops=3) == "DeviceNotFound: Device 'disk' not found"
    server.block_set_io_throttle({"id": "disk", **NO_LIMITS, "iops": 3, "group": "shared"})
    server.device_del(id="disk")


@system
@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"iops": 5, "iops_rd": 5}, "bps/iops/max total values and read/write values cannot be used at the same time"),
        ({"bps": 5, "bps_max": 6, "bps_rd_max": 5}, "bps/iops/max total values and read/write values cannot be used at the same time"),
        ({"iops": -5}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"iops": 10**15 + 1}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"iops": 5, "iops_max": 3}, "bps_max/iops_max cannot be lower than bps/iops"),
        ({"iops_max": 3}, "bps_max/iops_max require corresponding bps/iops values"),
        ({"iops": 5, "iops_max_length": 3}, "burst length set without burst rate"),
        ({"iops": 5, "iops_max": 8, "iops_max_length": 0}, "the burst length cannot be 0"),
        ({"iops": 5, "iops_max": 8, "iops_max_length": -1}, "burst length too high for this burst rate"),
        ({"iops_size": 3}, "iops size requires an iops value to be set"),
        ({"id": "x"}, "Need exactly one of 'device' and 'id'"),
    ],
)
def test_limits_that_make_no_sense(start, limits, text):
    server = start(*null_drive())
    assert limits_error(server, device="d", **limits) == text
    assert reported(server) == {}


@system
def test_limits_of_no_device(start):
    server = start("-drive", "if=none,id=empty")
    assert limits_error(server, device="empty", iops=5) == "Device has no medium"
    assert limits_error(server, device="no", iops=5) == "DeviceNotFound: Device 'no' not found"
    assert limits_error(server, iops=5) == "Need exactly one of 'device' and 'id'"


@system
def test_by_hand(start):
    server = start(*null_drive())
    assert server.hmp("block_set_io_throttle d 0 1 2 3 0 0") == ""
    assert reported(server) == {"bps_rd": 1, "bps_wr": 2, "iops": 3, "group": "d"}
    [line] = [line for line in server.hmp("info block d").splitlines() if "throttling" in line]
    assert line == (
        "    I/O throttling:   bps=0 bps_rd=1 bps_wr=2 bps_max=0 bps_rd_max=0 bps_wr_max=0 "
        "iops=3 iops_rd=0 iops_wr=0 iops_max=0 iops_rd_max=0 iops_wr_max=0 iops_size=0 group=d"
    )
    assert server.hmp("block_set_io_throttle no 0 0 0 0 0 0") == "Error: Device 'no' not found\n"
    assert server.hmp("block_set_io_throttle d 1 1 0 0 0 0").startswith("Error: bps/iops/max total values")
    assert server.hmp("block_set_io_throttle d 0 0 0 0 0 0") == ""
    assert "throttling" not in server.hmp("info block d")


# ---------------------------------------------------------------------- groups as objects


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"limits": {"iops-total": 5, "iops-read": 5}}, "bps/iops/max total values and read/write values cannot be used at the same time"),
        ({"x-iops-total": 5, "limits": {"iops-read": 5}}, "bps/iops/max total values and read/write values cannot be used at the same time"),
        ({"limits": {"bps-total": -5}}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"x-bps-total": 10**17}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"limits": {"iops-total-max-length": 0}}, "the burst length cannot be 0"),
        ({"limits": {"iops-total-max-length": -1}}, "burst length set without burst rate"),
        ({"limits": {"iops-read-max-length": 1 << 32}}, "iops-read-max-length value must be in the range [0, 4294967295]"),
        ({"x-iops-read-max-length": 1 << 32}, "x-iops-read-max-length value must be in therange [0, 4294967295]"),
        ({"x-iops-total": -1}, "Property values cannot be negative"),
        ({"x-iops-size": -1}, "Property values cannot be negative"),
        ({"limits": {"iops-size": 5}}, "iops size requires an iops value to be set"),
        ({"x-iops-total-max": 5}, "bps_max/iops_max require corresponding bps/iops values"),
    ],
)
def test_groups_that_make_no_sense(server, properties, text):
    assert server.error("object-add", {"qom-type": "throttle-group", "id": "g", **properties}) == text
    add_group(server, "g")


def test_limits_of_a_group_change(server):
    add_group(server, iops_total=100, iops_total_max=200)
    now = {**OBJECT_DEFAULTS, "iops-total": 100, "iops-total-max": 200}
    assert server.qom_get(path="g", property="limits") == now
    # What is given replaces what was; the rest stays.
    server.qom_set(path="/objects/g", property="limits", value={"iops-total": 50, "bps-read": 7})
    now |= {"iops-total": 50, "bps-read": 7}
    assert server.qom_get(path="g", property="limits") == now
    for value, text in (
        ({"iops-total": 300}, "bps_max/iops_max cannot be lower than bps/iops"),
        ({"iops-read": 1}, "bps/iops/max total values and read/write values cannot be used at the same time"),
        ({"nonsense": 1}, "Parameter 'limits.nonsense' is unexpected"),
        (5, "Invalid parameter type for 'limits', expected: object"),
    ):
        assert server.error("qom-set", {"path": "g", "property": "limits", "value": value}) == text
    assert server.error("qom-set", {"path": "g", "property": "x-iops-total", "value": 1}) == "Property cannot be set after initialization"
    assert server.qom_get(path="g", property="limits") == now
    assert server.qom_get(path="g", property="x-bps-read") == 7


@system
def test_names_of_groups_are_shared_with_drives(start):
    server = start(*null_drive("a", "iops=5"), *null_drive("b"), "-object", "throttle-group,id=g,x-iops-total=1")
    assert server.error("object-add", {"qom-type": "throttle-group", "id": "a"}) == "A group with this name already exists"
    set_limits(server, "b", iops=2, group="g")
    assert server.error("object-del", {"id": "g"}) == "object 'g' is in use, can not be deleted"
    set_limits(server, "b")
    server.object_del(id="g")
    set_limits(server, "a")
    add_group(server, "a")


# ---------------------------------------------------------------------- the filter


def test_filter(server):
    add_null(server)
    assert server.error("blockdev-add", {"driver": "throttle", "node-name": "t", "file": "n"}) == "Parameter 'throttle-group' is missing"
    options = {"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "g"}
    assert server.error("blockdev-add", options) == "Throttle group 'g' does not exist"
    server.object_add({"qom-type": "iothread", "id": "io"})
    assert server.error("blockdev-add", {**options, "throttle-group": "io"}) == "Throttle group 'io' does not exist"
    add_group(server)
    assert server.error("blockdev-add", {**options, "file": "no"}) == "Cannot find device='no' nor node-name='no'"
    add_filter(server, "t1")
    add_filter(server, "t2", {"driver": "null-co", "size": 65536})
    node = server.query_node("t2")
    assert (node["drv"], node["image"]["virtual-size"], node["iops"]) == ("throttle", 65536, 0)
    assert node["file"] == 'json:{"throttle-group": "g", "driver": "throttle", "file": {"driver": "null-co", "size": 65536}}'
    assert server.error("object-del", {"id": "g"}) == "object 'g' is in use, can not be deleted"
    server.blockdev_del(node_name="t1")
    server.blockdev_del(node_name="t2")
    server.object_del(id="g")


def test_permissions_of_the_filter(server, images):
    server.add_image("disk", images.create("disk.qcow2"))
    add_group(server)
    add_filter(server, "t", "disk")
    server.export("t", writable=True)

    def edge(parent, child):
        graph = server.x_debug_query_block_graph()
        ids = {node["name"]: node["id"] for node in graph["nodes"]}
        [found] = [e for e in graph["edges"] if (e["parent"], e["child"]) == (ids[parent], ids[child])]
        return sorted(found["perm"]), sorted(found["shared-perm"])

    needs, shares = edge("t", "disk")
    assert needs == ["consistent-read", "write"]
    # The export is against resizing; the filter passes that on.
    assert shares == ["consistent-read", "write", "write-unchanged"]


def test_the_filter_shows_what_is_below(server, images):
    image = images.create("disk.qcow2", size="1M").fill((0, "64k", 7))
    server.add_image("disk", image)
    add_group(server, bps_total=MIB << 10)
    add_filter(server, "t", "disk")
    server.block_resize(node_name="t", size=2 * MIB)
    assert server.query_node("disk")["image"]["virtual-size"] == server.query_node("t")["image"]["virtual-size"] == 2 * MIB
    with server.export("t", writable=True) as nbd:
        assert nbd.size == 2 * MIB
        assert nbd.pread(512, 0) == b"\7" * 512
        nbd.pwrite(b"\5" * 4096, 8192)
        nbd.zero(4096, 16384)
        nbd.trim(65536, 65536)
        nbd.flush()
    server.stop()
    for offset, byte in ((0, 7), (8192, 5), (16384, 0)):
        image.read(offset, 4096, byte)
    image.check()


# ---------------------------------------------------------------------- who waits, and for how long


@system
@pytest.mark.parametrize("where", ["device", "filter"])
@pytest.mark.parametrize(
    ("command", "waits", "counts"),
    [
        ("read 0 64k", True, True),
        ("write 0 64k", True, True),
        ("write -z 0 64k", True, True),
        ("discard 0 64k", "filter", "filter"),
        ("flush", False, False),
        ("alloc 0 64k", False, False),
        ("truncate 1G", False, False),
    ],
)
def test_what_is_throttled(start, where, command, waits, counts):
    rate = 256 * KIB
    if where == "device":
        server = start(*null_drive("d", "discard=unmap"))
        set_limits(server, bps=rate)
    else:
        server = start("-object", f"throttle-group,id=g,x-bps-total={rate}",
                       "-drive", "if=none,id=d,driver=throttle,throttle-group=g,discard=unmap,"
                                 "file.driver=null-co,file.read-zeroes=on,file.discard=unmap")
    waits, counts = waits in (True, where), counts in (True, where)
    # The bucket holds a tenth of a second; half a second of it is in there now.
    assert seconds(server, "d", "read 0 128k") < 0.3
    took = seconds(server, "d", command)
    # What that was pays for is the next one's wait: 0.4 s, or 0.25 s more for the 64 KiB.
    after = seconds(server, "d", "read 0 512")
    assert (took > 0.38) == waits, took
    assert took + after > (0.64 if counts else 0.38)
    if not counts:
        assert took + after < 0.62


@system
def test_a_group_shares_its_limits(start):
    server = start("-object", "throttle-group,id=g,x-iops-total=20", *(
        argument for name in "ab" for argument in
        ("-drive", f"if=none,id={name},driver=throttle,throttle-group=g,file.driver=null-co,file.read-zeroes=on")))
    for _ in range(10):
        for name in "aaab":
            begin(server, name, "aio_read 0 512")
    # Three of a's for each of b's are there; they take turns all the same.
    while sum(done(server, "b")) < 9:
        a, b = sum(done(server, "a")), sum(done(server, "b"))
        assert abs(a - b) <= 4, (a, b)


@system
def test_large_operations_count_as_several(start):
    server = start(*null_drive())
    set_limits(server, iops=40, iops_size=4096)
    # 16 of 40 a second; 4 are in the bucket.
    assert seconds(server, "d", "read 0 64k") < 0.2
    assert seconds(server, "d", "read 0 512") > 0.29


@system
def test_a_burst_goes_at_once(start):
    server = start(*null_drive())
    set_limits(server, iops=1, iops_max=50)
    for _ in range(60):
        begin(server, "d", "aio_read 0 512")
    assert 50 <= sum(done(server)) <= 52


# ---------------------------------------------------------------------- those that wait


@pytest.fixture
def waiting(start):
    """A drive of which one read has ended and three wait for a minute each, as a third does of its neighbour."""
    server = start(*null_drive("d"), *null_drive("neighbour"), "-object", "throttle-group,id=g")
    for device in ("d", "neighbour"):
        set_limits(server, device, bps=64, group="g")
    for _ in range(4):
        begin(server, "d", "aio_read 0 4k")
    begin(server, "neighbour", "aio_write 0 4k")
    assert (done(server), done(server, "neighbour")) == ((1, 0), (0, 0))
    return server


@system
def test_no_more_limits(waiting):
    set_limits(waiting, "d")
    assert (done(waiting), done(waiting, "neighbour")) == ((4, 0), (0, 0))


@system
def test_another_group(waiting):
    set_limits(waiting, "d", bps=64, group="other")
    assert (done(waiting), done(waiting, "neighbour")) == ((4, 0), (0, 0))


@system
def test_other_limits(waiting):
    # The buckets are empty again: one goes.
    set_limits(waiting, "d", bps=32)
    assert done(waiting) == (2, 0)
    set_limits(waiting, "d", iops=1000)
    wait_done(waiting, 4)


@system
@pytest.mark.differs("whoever waits keeps waiting for what was the limit then", server="qemu")
def test_other_limits_of_the_object(waiting):
    waiting.qom_set(path="g", property="limits", value={"bps-total": 0})
    wait_done(waiting, 4)
    wait_done(waiting, 1, "neighbour")


@system
def test_a_drained_section_ends_the_wait(waiting, images):
    waiting.blockdev_snapshot_sync(device="d", snapshot_file=str(images.dir / "overlay.qcow2"))
    assert done(waiting) == (4, 0)
    # The limits are still there, and what went through has counted.
    assert reported(waiting)["bps"] == 64
    begin(waiting, "d", "aio_read 0 4k")
    assert done(waiting) == (4, 0)


@system
def test_the_filter_is_drained(start):
    server = start("-object", "throttle-group,id=g,x-bps-total=64",
                   "-drive", "if=none,id=d,driver=throttle,throttle-group=g,file.driver=null-co,file.read-zeroes=on")
    for _ in range(3):
        begin(server, "d", "aio_read 0 4k")
    assert done(server) == (1, 0)
    begin(server, "d", "aio_flush")
    assert done(server) == (3, 0)


@system
def test_limits_below_a_drained_node_are_lifted(start):
    storage = {"driver": "throttle", "throttle-group": "g", "node-name": "t", "file": {"driver": "null-co", "node-name": "n", "read-zeroes": True}}
    server = start("-object", "throttle-group,id=g,x-bps-read=64", "-blockdev", json.dumps(storage),
                   "-drive", "if=none,id=d,file=json:{'driver':'raw',,'node-name':'r',,'file':'t'}")
    for _ in range(3):
        begin(server, "d", "aio_read 0 4k")
    assert done(server) == (1, 0)
    server.blockdev_reopen(options=[{"driver": "raw", "node-name": "r", "file": "t"}])
    assert done(server) == (3, 0)
    begin(server, "d", "aio_read 0 4k")
    assert done(server) == (3, 0), "afterwards they hold again"


@system
@pytest.mark.parametrize("command", ["stop", "system_reset"])
def test_a_machine_that_stops_waits_for_no_limit(start, command):
    server = start("-device", "virtio-blk-pci,drive=d", *null_drive("d"), machine="pc")
    set_limits(server, "d", bps=64)
    for _ in range(3):
        begin(server, "d", "aio_read 0 4k")
    assert done(server) == (1, 0)
    server.execute(command)
    if command == "system_reset":
        server.wait_event("RESET")
    assert done(server) == (3, 0)


@system
def test_the_drive_is_deleted(waiting):
    assert waiting.hmp("drive_del d") == ""
    assert not [entry for entry in waiting.query_blockstats() if entry["device"] == "d"]
    assert done(waiting, "neighbour") == (0, 0)
    # All four have been reported.
    assert waiting.stdout.count("read 4096/4096") == 4


@system
def test_the_server_ends(waiting):
    waiting.stop()
    assert waiting.stdout.count("read 4096/4096") == 4


# ---------------------------------------------------------------------- the clock of tests


class Clock:
    """The socket of -qtest."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def __call__(self, command):
        self.socket.sendall(command.encode() + b"\n")
        return self.lines.readline().decode().rstrip("\n")


@pytest.fixture
def clocked(start, workdir):
    def start_clocked(*args):
        server = start("-accel", "qtest", "-qtest", f"unix:{workdir}/q,server=on,wait=off", *args)
        return server, Clock(f"{workdir}/q")

    return start_clocked


needs_qtest = pytest.mark.differs("Debian builds QEMU without the qtest accelerator", server="qemu")
SECOND = 1_000_000_000


@system
@needs_qtest
def test_throttling_goes_by_the_clock(clocked):
    server, clock = clocked(*null_drive("d", "throttling.iops-total=10"))
    assert clock("clock_step") == "OK 0"
    for _ in range(100):
        begin(server, "d", "aio_read 0 512")
    # A tenth of a second is one operation, and the one that fills it may go.
    assert done(server) == (2, 0)
    assert clock(f"clock_step {SECOND // 10 - 1}") == "OK 99999999"
    assert done(server) == (2, 0)
    assert clock("clock_step") == "OK 100000000"
    assert done(server) == (3, 0)
    assert clock(f"clock_set {SECOND}") == f"OK {SECOND}"
    assert done(server) == (12, 0)
    assert clock(f"clock_step {3600 * SECOND}") == f"OK {3601 * SECOND}"
    assert done(server) == (100, 0)
    assert clock("clock_step nonsense").startswith("FAIL")


@system
@needs_qtest
def test_accounting_goes_by_the_clock(clocked):
    server, clock = clocked(*null_drive("d", "stats-intervals.0=10"))

    def stats():
        [entry] = server.query_blockstats()
        return entry["stats"]

    assert "idle_time_ns" not in stats()
    clock(f"clock_step {SECOND}")
    for _ in range(5):
        begin(server, "d", "aio_read 0 512")
    begin(server, "d", "aio_write -i 0 512")
    clock(f"clock_step {SECOND}")
    assert (stats()["idle_time_ns"], stats()["rd_total_time_ns"], stats()["invalid_wr_operations"]) == (SECOND, 5_000_000, 1)
    [timed] = stats()["timed_stats"]
    assert (timed["interval_length"], timed["min_rd_latency_ns"], timed["avg_rd_latency_ns"]) == (10, 1_000_000, 1_000_000)
    # Five times a millisecond; the window that is told of began two thirds of an interval before all did.
    assert timed["avg_rd_queue_depth"] == pytest.approx(0.005 / (2 + 20 / 3))
    assert timed["max_wr_latency_ns"] == 0
    # An interval and a half later nothing of it is known any more.
    clock(f"clock_step {15 * SECOND}")
    [timed] = stats()["timed_stats"]
    assert (timed["max_rd_latency_ns"], timed["avg_rd_queue_depth"]) == (0, 0)
    assert stats()["rd_total_time_ns"] == 5_000_000


@system
def test_intervals(start):
    server = start(*null_drive("d", "stats-intervals.0=10,stats-intervals.1=60"))
    begin(server, "d", "aio_read 0 512")
    [entry] = server.query_blockstats()
    ten, sixty = entry["stats"]["timed_stats"]
    assert (ten["interval_length"], sixty["interval_length"]) == (10, 60)
    assert 0 < ten["min_rd_latency_ns"] == ten["max_rd_latency_ns"] == ten["avg_rd_latency_ns"]
    assert ten["avg_rd_queue_depth"] > 0 and ten["max_wr_latency_ns"] == 0


@system
def test_a_write_that_failed_may_have_come_that_far(start):
    server = start("-drive", "if=none,id=d,driver=raw,file.driver=blkdebug,file.image.driver=null-co,"
                             "file.inject-error.0.event=write_aio,file.inject-error.0.sector=100")
    assert "failed" in server.qemu_io("d", "write 0 64k")
    [entry] = server.query_blockstats()
    assert entry["stats"]["wr_highest_offset"] == 65536
