"""human-monitor-command: the human monitor's commands, and qemu-io with its output on standard output."""

import re
import signal
import socket

import pytest

from blockbed_iotests import Disconnected, Nbd

pytestmark = pytest.mark.manners("system")

SIZE = 1 << 20


@pytest.fixture
def disk(server, images):
    image = images.create("disk.qcow2", size=SIZE)
    server.add_image("n", image, discard="unmap")
    return image


def printed(server, command, device="n"):
    """What qemu-io prints for a command, times and rates left out."""
    return re.sub(r"; .* sec \(.*\)\n", "; TIME\n", server.qemu_io(device, command))


# ---------------------------------------------------------------------- qemu-io


def report(verb, size, shown, offset=0, operations=1):
    return f"{verb} {size}/{size} bytes at offset {offset}\n{shown}, {operations} ops; TIME\n"


# (command, what it prints), one after the other on one disk
SESSION = [
    ("write -P 1 0 64k", report("wrote", 65536, "64 KiB")),
    ("read -P 1 0 64k", report("read", 65536, "64 KiB")),
    ("read -P 2 0 64k", "Pattern verification failed at offset 0, 65536 bytes\n" + report("read", 65536, "64 KiB")),
    ("read 0 64k", report("read", 65536, "64 KiB")),
    (
        "read -v 0 32",
        "00000000:  01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01  ................\n"
        "00000010:  01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01  ................\n" + report("read", 32, "32 bytes"),
    ),
    ("write -z 0 64k", report("wrote", 65536, "64 KiB")),
    ("read -P 0 0 64k", report("read", 65536, "64 KiB")),
    ("write -z -u 64k 64k", report("wrote", 65536, "64 KiB", 65536)),
    ("write -c -P 3 128k 64k", report("wrote", 65536, "64 KiB", 131072)),
    ("read -P 3 128k 64k", report("read", 65536, "64 KiB", 131072)),
    ("write -P 9 1 3", report("wrote", 3, "3 bytes", 1)),
    ("read -P 9 1 3", report("read", 3, "3 bytes", 1)),
    ("read -P 0 4 100", report("read", 100, "100 bytes", 4)),
    ("write -f -P 1 0 512", report("wrote", 512, "512 bytes")),
    ("w -P 1 0 1k", report("wrote", 1024, "1 KiB")),
    ("r -P 1 0 1k", report("read", 1024, "1 KiB")),
    ("  read   0   1k  ", report("read", 1024, "1 KiB")),
    ("read -q -P 1 0 512", ""),
    ("read -P 0x1 0x200 512", report("read", 512, "512 bytes", 512)),
    ("discard 0 64k", report("discard", 65536, "64 KiB")),
    ("flush", ""),
    ("f", ""),
    ("aio_write -P 5 0 64k", report("wrote", 65536, "64 KiB")),
    ("aio_flush", ""),
    ("aio_read -P 5 0 64k", report("read", 65536, "64 KiB")),
    ("aio_flush", ""),
    ("map", "192 KiB (0x30000) bytes     allocated at offset 0 bytes (0x0)\n"
            "832 KiB (0xd0000) bytes not allocated at offset 192 KiB (0x30000)\n"),
    ("length", "1 MiB\n"),
    ("truncate 2M", ""),
    ("length", "2 MiB\n"),
    ("truncate 1M", ""),
    ("length", "1 MiB\n"),
]


def test_a_session(server, disk):
    for command, expected in SESSION:
        assert printed(server, command) == expected, command
    server.stop()
    disk.check()
    disk.read("128k", "64k", 3)


@pytest.mark.parametrize(
    "command, expected",
    [
        ("write 1M 1", "write failed: Input/output error\n"),
        ("write 0 2M", "write failed: Input/output error\n"),
        ("read 1M 1", "read failed: Input/output error\n"),
        ("discard 0 2M", "discard failed: Input/output error\n"),
        ("write -P 1 -u 64k 64k", "-u requires -z to be specified\n"),
        ("write -z -P 1 0 512", "Only one of -z, -P, and -s can be specified at the same time\n"),
        ("write -c 1 512", "1 is not a sector-aligned value for 'offset'\n"),
        ("write -P 300 0 512", "300 is not a valid pattern byte\n"),
        ("read abc 1", "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- abc\n"),
        ("truncate 100", "The new size must be a multiple of 512\n"),
        ("read -a 0 512", "read [-abCqv] [-P pattern [-s off] [-l len]] off len -- reads a number of bytes at a specified offset\n"),
        ("alloc 0 -x", "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- -x\n"),
        ("sleep -5", "-5 is not a valid number\n"),
        ("resume -x", "Could not resume request: Operation not supported\n"),
        ("aio_write -u 0", "aio_write [-Cfiquz] [-P pattern] off len [len..] -- asynchronously writes a number of bytes\n"),
        ("aio_write -u 0 512 512", "-u requires -z to be specified\n"),
        ("aio_write -z 0 512 512", "-z supports only a single length parameter\n"),
        ("help flush", "flush -- flush all in-core file state to disk\n"),
        ("read 0 3G", "length cannot exceed 2147483136, given 3G\n"),
        ("write -z 0 3G", "length cannot exceed 2147483136 without -n, given 3G\n"),
        ("write -z -n 0 3G", "write failed: Input/output error\n"),
        ("sigraise 66", "signal argument '66' is too large to be a valid signal\n"),
        ("sigraise 0", ""),
    ],
)
def test_refused(server, disk, command, expected):
    assert printed(server, command) == expected
    assert printed(server, "read -P 0 0 512") == report("read", 512, "512 bytes")


@pytest.mark.parametrize("command", ["", "nope", "quit", "q", "open x", "reopen", "read", "read 0", "write -P"])
def test_nothing_happens(server, disk, command):
    """Unknown and incomplete commands, and those that a monitor must not have, do nothing."""
    assert printed(server, command) == ""
    assert server.query_named_block_nodes()


@pytest.mark.parametrize("command, number", [("abort", signal.SIGABRT), ("sigraise 9", signal.SIGKILL)])
def test_the_program_dies(server, disk, command, number):
    with pytest.raises(Disconnected):
        server.qemu_io("n", command)
    server.wait(-number)


def test_the_program_is_told_to_end(server, disk):
    assert server.qemu_io("n", "sigraise 15") == ""
    server.wait()


@pytest.mark.parametrize(
    "line, answer",
    [
        ("qemu-io", 'qemu-io: block device name expected\nTry "help qemu-io" for more information\n'),
        ("qemu-io n", 'qemu-io: string expected\nTry "help qemu-io" for more information\n'),
        ('qemu-io nope "read 0 1"', "Error: Cannot find device='' nor node-name='nope'\n"),
        ('qemu-io -d n "read 0 1"', "Error: Device 'n' not found\n"),
        ('qemu-io n "reopen -o x=1"', "Cannot change the option 'x'\n"),
        ("qemu-io n read 0 512", 'qemu-io: extraneous characters at the end of line\nTry "help qemu-io" for more information\n'),
        ("nope", "unknown command: 'nope'\n"),
        ("info nope", "unknown command: 'info nope'\n"),
        ("", ""),
        ("help quit", "quit|q  -- quit the emulator\n"),
    ],
)
def test_command_lines(server, disk, line, answer):
    assert server.hmp(line) == answer


def test_where_the_status_is_secret(server, disk, images):
    """What `map` meets is its answer, what `alloc` meets is printed."""
    server.add_image("scratch", images.create("scratch.qcow2", size=SIZE))
    server.block_dirty_bitmap_add(node="n", name="b")
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="n", target="scratch",
                        bitmap={"node": "n", "name": "b"})
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    before = server.stdout
    assert server.hmp('qemu-io access "map"') == "Failed to get allocation status: Permission denied\n"
    assert server.stdout == before
    assert server.hmp('qemu-io access "alloc 0 64k"') == ""
    assert server.stdout == before + "is_allocated failed: Permission denied\n"


def test_what_lies_beside_the_disk(server, disk, images):
    """The state of the machine goes by primary children, also where there are no internal snapshots."""
    server.add_image("scratch", images.create("scratch.qcow2", size=SIZE))
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="n", target="scratch")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    assert printed(server, "write -b -P 7 512 1k", device="access") == report("wrote", 1024, "1 KiB", offset=512)
    assert printed(server, "read -b -P 7 512 1k", device="cbw") == report("read", 1024, "1 KiB", offset=512)
    assert printed(server, "read -b -P 7 512 1k") == report("read", 1024, "1 KiB", offset=512)


def test_qemu_io_asynchronous_failure(server, disk):
    assert printed(server, "aio_read 1G 4k") + printed(server, "aio_flush") == "readv failed: Input/output error\n"


def test_qemu_io_flushes_that_are_counted(start, images):
    """An aio_flush counts as a flush of the guest, a flush does not."""
    image = images.create("d.qcow2", size=SIZE)
    server = start("-drive", f"if=none,id=d,file={image.path},format=qcow2")
    server.qemu_io("d", "flush")
    server.qemu_io("d", "aio_flush")
    (stats,) = [entry["stats"] for entry in server.query_blockstats() if entry["device"] == "d"]
    assert stats["flush_operations"] == 1


def test_qemu_io_makes_a_writer_for_a_moment(server, disk):
    """On a node without a device it opens its own way in, with its own permissions, and closes it again."""
    assert printed(server, "write -P 1 0 512") == report("wrote", 512, "512 bytes")
    server.blockdev_del(node_name="n")
    server.add_image("n", disk, read_only=True)
    assert "Block node is read-only" in printed(server, "write -P 1 0 512")
    server.blockdev_del(node_name="n")


def test_qemu_io_is_a_guest_for_a_backup(server, disk, images):
    """A write through the human monitor is caught like any other."""
    printed(server, "write -P 1 0 1M")
    server.hmp(f"drive_add 0 if=none,id=d,file={images.create('drive.raw', 'raw', SIZE).fill((0, SIZE, 7))},format=raw")
    target = images.create("target.qcow2", size=SIZE)
    server.add_image("t", target)
    server.blockdev_backup(job_id="job", device="d", target="t", sync="none")
    assert printed(server, "write -P 8 64k 64k", "d") == report("wrote", 65536, "64 KiB", 65536)
    server.job_cancel(id="job")
    server.finish_job("job")
    server.stop()
    target.read("64k", "64k", 7)


# ---------------------------------------------------------------------- drives


def test_drive_add_and_del(server, images):
    image = images.create("drive.qcow2", size=SIZE)
    assert server.hmp(f"drive_add 0 if=none,id=d,file={image.path}") == "OK\n"
    (entry,) = server.query_block()
    assert entry["device"] == "d" and entry["inserted"]["drv"] == "qcow2" and entry["inserted"]["file"] == str(image.path)
    assert printed(server, "write -P 3 0 64k", "d") == report("wrote", 65536, "64 KiB")
    assert server.hmp("drive_del d") == ""
    assert server.query_block() == []
    assert server.query_named_block_nodes() == []
    image.read(0, "64k", 3)


def test_drive_del_under_a_device(start, images):
    """The device stays, without a medium and without a drive's name, which nodes may take; the id is taken until the device goes."""
    image = images.create("d.qcow2", size=SIZE)
    server = start(
        "-machine", "pc,accel=tcg", "-drive", f"if=none,id=d,file={image.path},format=qcow2", "-device", "virtio-blk-pci,drive=d,id=v"
    )
    assert server.hmp("drive_del d") == ""
    (entry,) = [entry for entry in server.query_block() if entry["qdev"] == "/machine/peripheral/v/virtio-backend"]
    assert entry["device"] == "" and "inserted" not in entry
    assert server.query_named_block_nodes() == []
    assert "/machine/peripheral/v/virtio-backend: [not inserted]\n" in server.hmp("info block")
    assert server.hmp("drive_del d") == "Device 'd' not found\n"
    assert server.error("block_resize", {"device": "d", "size": 0}) == "Cannot find device='d' nor node-name=''"
    assert server.hmp(f"drive_add 0 if=none,id=d,file={image.path}") == "Duplicate ID 'd' for drive\n"
    server.blockdev_add(driver="null-co", node_name="d")
    server.device_add(driver="virtio-blk-pci", drive="d", id="w")


@pytest.mark.parametrize(
    "line, answer",
    [
        ("drive_add", 'drive_add: string expected\nTry "help drive_add" for more information\n'),
        ("drive_add 0", 'drive_add: string expected\nTry "help drive_add" for more information\n'),
        ("drive_add 0 if=none,id=x,file=DIR/no", "Could not open 'DIR/no': No such file or directory\n"),
        ("drive_add 0 if=bogus", "unsupported bus type 'bogus'\n"),
        ("drive_add 0 if=none,id=x,driver=bogus", "Unknown driver 'bogus'\n"),
        ("drive_add 0 if=none,id=x,driver=null-co,bogus=1", "Block protocol 'null-co' doesn't support the option 'bogus'\n"),
        ("drive_add 0 if=virtio,id=x,driver=null-co", "Can't hot-add drive to type 7\n"),
        ("drive_add 0 if=none,id=taken,driver=null-co", "Duplicate ID 'taken' for drive\n"),
        ("drive_add -n 0 driver=null-co", "'node-name' needs to be specified\n"),
        ("drive_del", 'drive_del: block device name expected\nTry "help drive_del" for more information\n'),
        ("drive_del nope", "Device 'nope' not found\n"),
        ("commit nope", "Device 'nope' not found\n"),
        ("commit", 'commit: block device name expected\nTry "help commit" for more information\n'),
    ],
)
def test_drive_refused(server, line, answer):
    server.hmp("drive_add 0 if=none,id=taken,driver=null-co")
    assert server.hmp(line.replace("DIR", str(server.dir))).removeprefix("Error: ") == answer.replace("DIR", str(server.dir))
    assert [entry["device"] for entry in server.query_block()] == ["taken"]


def test_drive_add_locked(server, disk):
    assert server.hmp(f"drive_add 0 if=none,id=d,file={disk.path}") == (
        f'Failed to get "write" lock\nIs another process using the image [{disk.path}]?\n'
    )


def test_an_error_with_a_hint(server, disk, images):
    server.hmp(f"drive_add 0 if=none,id=d,file={images.create('d.qcow2', size=SIZE).path}")
    assert server.hmp(f"snapshot_blkdev -n d {disk.path} qcow2") == (
        f'Error: Failed to get "write" lock\nIs another process using the image [{disk.path}]?\n'
    )


def test_drive_add_node(server):
    assert server.hmp("drive_add -n 0 node-name=x,driver=null-co") == ""
    assert server.node_names() == {"x"}
    server.blockdev_del(node_name="x")


def test_commit(server, images):
    """What the top layer holds goes into its backing file."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    top = images.create("top.qcow2", size=None, backing=base).fill(("64k", "64k", 2))
    server.hmp(f"drive_add 0 if=none,id=d,file={top.path}")
    printed(server, "write -P 3 512k 64k", "d")
    assert server.hmp("commit d") == ""
    assert printed(server, "read -P 3 512k 64k", "d") == report("read", 65536, "64 KiB", 524288)
    server.stop()
    base.read("64k", "64k", 2)
    base.read("512k", "64k", 3)
    base.read("128k", "64k", 1)
    base.check()
    assert top.allocated() == 0
    top.check()


def test_commit_all(server, images):
    pairs = []
    for name in ("a", "b"):
        base = images.create(f"{name}-base.qcow2", size=SIZE)
        top = images.create(f"{name}.qcow2", size=None, backing=base).fill((0, "64k", 5))
        server.hmp(f"drive_add 0 if=none,id={name},file={top.path}")
        pairs.append((base, top))
    assert server.hmp("commit all") == ""
    server.stop()
    for base, top in pairs:
        base.read(0, "64k", 5)
        assert top.allocated() == 0


def test_commit_twice(server, images):
    """A shorter backing file grows; it is writable again for the next time, and for reading only in between."""
    base = images.create("base.raw", "raw", SIZE)
    top = images.create("top.qcow2", size=2 * SIZE, backing=base).fill((0, 2 * SIZE, 1))
    server.hmp(f"drive_add 0 if=none,id=d,file={top.path}")
    for pattern in (2, 3):
        printed(server, f"write -P {pattern} 1M 64k", "d")
        assert server.hmp("commit d") == ""
        assert printed(server, f"read -P {pattern} 1M 64k", "d") == report("read", 65536, "64 KiB", SIZE)
        (inserted,) = (entry["inserted"] for entry in server.query_block())
        assert inserted["image"]["backing-image"]["virtual-size"] == 2 * SIZE
        assert {node["file"]: node["ro"] for node in server.query_named_block_nodes(flat=True)}[str(base.path)] is True
    server.stop()
    base.read(0, "1M", 1)
    base.read("1M", "64k", 3)
    top.check()


def test_commit_of_a_layer_for_reading(server, images):
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    top = images.create("top.qcow2", size=None, backing=base).fill((0, "64k", 2))
    server.hmp(f"drive_add 0 if=none,id=d,file={top.path},readonly=on")
    assert server.hmp("commit d") == "Block node is read-only\n'commit' error for 'd': Operation not permitted\n"
    server.hmp("drive_add 0 if=none,id=empty")
    assert server.hmp("commit empty") == "Device 'empty' has no medium\n"
    server.stop()
    base.read(0, "64k", 1)


def test_commit_without_backing(server, images):
    server.hmp(f"drive_add 0 if=none,id=d,file={images.create('x.qcow2').path}")
    assert server.hmp("commit d") == "'commit' error for 'd': Operation not supported\n"


# ---------------------------------------------------------------------- info


def test_info_block(server, disk, images):
    assert server.hmp("info block") == ""
    drive = images.create("drive.raw", "raw", SIZE)
    server.hmp(f"drive_add 0 if=none,id=d,file={drive.path},format=raw,node-name=dn")
    text = f"d (dn): {drive.path} (raw)\n    Removable device: not locked, tray closed\n    Cache mode:       writeback\n"
    assert server.hmp("info block") == text
    assert server.hmp("info block d") == text
    assert server.hmp("info block nope") == ""
    assert server.hmp("info block -v d").startswith(text + "\nImages:\nimage: ")
    assert "n: " + str(disk.path) + " (qcow2)\n    Cache mode:       writeback\n" in server.hmp("info block -n n")


def test_info_block_jobs(server, disk, images):
    assert server.hmp("info block-jobs") == "No active jobs\n"
    server.add_image("t", images.create("t.qcow2", size=SIZE))
    server.blockdev_backup(job_id="job", device="n", target="t", sync="none")
    assert server.hmp("info block-jobs") == (
        "Type backup, device job: Completed 0 of 1048576 bytes, speed limit 0 bytes/s\n"
    )
    server.job_cancel(id="job")
    server.finish_job("job")


@pytest.mark.parametrize("verb", ["drive_backup", "drive_mirror"])
@pytest.mark.parametrize("flags, whole", [("", False), ("-f", True), ("-n -f", True)])
def test_copy_of_a_drive(server, images, verb, flags, whole):
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    top = images.create("top.qcow2", size=None, backing=base).fill(("64k", "64k", 2))
    server.hmp(f"drive_add 0 if=none,id=d,file={top.path}")
    target = images.at("target.qcow2", "qcow2")
    if "-n" in flags:
        images.create("target.qcow2", size=SIZE)
    assert server.hmp(f"{verb} {flags} d {target.path} qcow2") == ""
    if verb == "drive_mirror":
        server.wait_event("BLOCK_JOB_READY")
        assert server.hmp("block_job_complete d") == ""
    assert "error" not in server.finish_job("d")["data"]
    server.stop()
    assert target.info().get("backing-filename") == (None if whole else str(base.path))
    target.compare(top)


@pytest.mark.parametrize("verb", ["drive_backup", "drive_mirror"])
def test_copy_refused(server, images, verb):
    server.hmp(f"drive_add 0 if=none,id=d,file={images.create('d.qcow2', size=SIZE).path}")
    assert server.hmp(f"{verb} d") == f'{verb}: string expected\nTry "help {verb}" for more information\n'
    assert server.hmp(f"{verb} nope {images.dir}/t qcow2") == "Error: Cannot find device='nope' nor node-name='nope'\n"
    assert server.hmp(f"{verb} -n d {images.dir}/t qcow2").startswith(f"Error: Could not open '{images.dir}/t'")
    assert server.hmp(f"{verb} d {images.dir}/t nope").startswith("Error: ")
    assert server.query_block_jobs() == []


@pytest.mark.differs("QEMU's human monitor has no 'info jobs'", server="qemu")
def test_info_jobs(server, disk, images):
    server.add_image("t", images.create("t.qcow2", size=SIZE))
    server.blockdev_backup(job_id="job", device="n", target="t", sync="none")
    assert "backup" in server.hmp("info jobs")
    server.job_cancel(id="job")
    server.finish_job("job")


def test_info_status(server):
    assert server.hmp("info status") == "VM status: running\n"
    assert server.hmp("stop") == ""
    assert server.hmp("info status") == "VM status: paused\n"
    assert [event["event"] for event in server.events()] == ["STOP"]
    assert server.hmp("cont") == ""
    assert [event["event"] for event in server.events()] == ["RESUME"]


def test_quit(server):
    server.send("human-monitor-command", {"command-line": "quit"})
    server.wait()


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({}, "Parameter 'command-line' is missing"),
        ({"command-line": 1}, "Invalid parameter type for 'command-line', expected: string"),
        ({"command-line": "info status", "cpu-index": 5}, "Parameter 'cpu-index' expects a CPU number"),
        ({"command-line": "info status", "bogus": 1}, "Parameter 'bogus' is unexpected"),
    ],
)
def test_bad_arguments(server, arguments, error):
    assert server.error("human-monitor-command", arguments) == error


# ---------------------------------------------------------------------- the NBD server


def test_nbd_server(start, images, workdir):
    disk = images.create("disk.raw", "raw", SIZE).fill((0, SIZE, 1))
    server = start("-drive", f"if=none,id=d,format=raw,file={disk.path}", "-drive", "if=none,id=empty")
    address = f"unix:{workdir / 'nbd.sock'}"
    for line, error in [
        ("nbd_server_stop", "NBD server not running"), ("nbd_server_add d", "NBD server not running"),
        (f"nbd_server_start -w {address}", "-w only valid together with -a"),
        ("nbd_server_start foo", "error parsing address 'foo'"), (f"nbd_server_start -a {address}", None),
        (f"nbd_server_start {address}", "NBD server already running"),
        ("nbd_server_add d", "Block export id 'd' is already in use"), ("nbd_server_add -w d e", None),
        ("nbd_server_add nosuch", "Cannot find device='nosuch' nor node-name='nosuch'"),
        ("nbd_server_remove x", "Export 'x' is not found"),
    ]:  # fmt: skip
        assert server.hmp(line) == (f"Error: {error}\n" if error else ""), line
    assert {export["id"] for export in server.query_block_exports()} == {"d", "e"}
    with Nbd(workdir / "nbd.sock", "e") as nbd:
        assert nbd.pread(512, 0) == b"\1" * 512
        nbd.pwrite(b"\2" * 512, 0)
    with Nbd(workdir / "nbd.sock", "d") as nbd:
        assert nbd.pread(512, 0) == b"\2" * 512
        assert server.hmp("nbd_server_remove d").startswith("Error: export 'd' still in use\n")
        assert server.hmp("nbd_server_remove -f d") == ""
    assert server.hmp("nbd_server_stop") == ""
    assert server.hmp(f"nbd_server_start -a -w {address}") == server.hmp("nbd_server_stop") == ""
    assert "block device name expected" in server.hmp("nbd_server_add")


# ---------------------------------------------------------------------- a monitor of its own


class Terminal:
    """A human monitor on a socket, as a person at a terminal has it."""

    def __init__(self, sock):
        self.sock, self.text = sock, ""
        sock.settimeout(20)

    def until(self, end):
        while not self.text.endswith(end):
            data = self.sock.recv(4096)
            assert data, f"the monitor ended after {self.text!r}"
            self.text += data.decode(errors="replace")
        text, self.text = self.text, ""
        return text

    def command(self, line):
        self.sock.sendall(line.encode() + b"\n")
        return self.until("(qemu) ")


def test_a_human_monitor(start, workdir):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(workdir / "human"))
    listener.listen()
    start("-monitor", f"unix:{workdir / 'human'}")
    terminal = Terminal(listener.accept()[0])
    assert re.fullmatch(r"QEMU 7\.2\.\d+ monitor - type 'help' for more information\r\n\(qemu\) ", terminal.until("(qemu) "))
    text = terminal.command("info status")
    assert text.endswith("VM status: running\r\n(qemu) ")
    assert "unknown command: 'nope'" in terminal.command("nope")
    assert "OK" in terminal.command("drive_add 0 if=none,id=d,driver=null-co")
    assert "d (#block" in terminal.command("info block")
    listener.close()
