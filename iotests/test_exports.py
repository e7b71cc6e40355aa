"""Exports: their commands and events, what a client can do through them, and what arrives in the image."""

import contextlib
import errno
import os
import socket

import pytest

from blockbed_iotests import Nbd

SIZE = 1 << 20


@pytest.fixture
def disk(server, images):
    image = images.create("disk.qcow2", size=SIZE)
    server.add_image("n", image, discard="unmap")
    return image


def unix(path):
    return {"type": "unix", "data": {"path": str(path)}}


# ---------------------------------------------------------------------- the server


def test_everything_needs_the_server(server, disk):
    assert server.error("nbd-server-stop") == "NBD server not running"
    assert server.error("nbd-server-add", device="n") == "NBD server not running"
    assert server.error("block-export-add", type="nbd", id="e", node_name="n") == "NBD server not running"
    assert server.error("nbd-server-remove", name="n") == "Export 'n' is not found"
    assert server.error("block-export-del", id="n") == "Export 'n' is not found"
    assert server.query_block_exports() == []


@pytest.mark.parametrize(
    "options, error",
    [
        ({}, "Parameter 'addr' is missing"),
        ({"addr": unix("DIR/no/x")}, "Failed to bind socket to DIR/no/x: No such file or directory"),
        ({"addr": unix("/" + "x" * 200)}, "UNIX socket path '/" + "x" * 200 + "' is too long"),
        ({"addr": unix("DIR/x"), "tls-creds": "nope"}, "No TLS credentials with id 'nope'"),
        ({"addr": unix("DIR/x"), "max-connections": -1}, "Parameter 'max-connections' expects uint32_t"),
        ({"addr": {"type": "inet", "data": {"host": "127.0.0.1"}}}, "Parameter 'addr.data.port' is missing"),
        ({"addr": {"type": "bogus", "data": {}}}, "Parameter 'type' does not accept value 'bogus'"),
        ({"addr": {"type": "unix"}}, "Parameter 'addr.data' is missing"),
        ({"addr": {"type": "unix", "data": {}}}, "Parameter 'addr.data.path' is missing"),
    ],
)
def test_start_refused(server, disk, options, error):
    options = {
        name: unix(value["data"]["path"].replace("DIR", str(server.dir))) if str(value).find("DIR") >= 0 else value
        for name, value in options.items()
    }
    assert server.error("nbd-server-start", options) == error.replace("DIR", str(server.dir))
    server.nbd_start()
    with server.export("n") as nbd:
        assert nbd.size == SIZE


def test_one_server_at_a_time(server, disk):
    path = server.nbd_start()
    assert server.error("nbd-server-start", addr=unix(server.dir / "other")) == "NBD server already running"
    server.nbd_server_stop()
    assert not path.exists(), "the socket is removed"
    server.nbd_start()
    with server.export("n") as nbd:
        assert nbd.size == SIZE


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_tcp(server, disk, host):
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        pytest.skip(f"'{host}' has no address on this machine (a bare chroot has no /etc/hosts)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server.nbd_server_start(addr={"type": "inet", "data": {"host": host, "port": str(port)}})
    server.block_export_add(type="nbd", id="e", node_name="n", name="n")
    shown = f"[{host}]" if ":" in host else host
    with Nbd(f"nbd://{shown}:{port}/n", "n") as nbd:
        assert nbd.size == SIZE


def test_stop_ends_clients_and_exports(server, disk):
    nbd = server.export("n", writable=True)
    server.export("n", "second").close()
    server.nbd_server_stop()
    # The events come before the reply of the command
    assert {event["data"]["id"] for event in server.events("BLOCK_EXPORT_DELETED")} == {"export1", "export2"}
    assert server.query_block_exports() == []
    with pytest.raises(OSError):
        nbd.pread(512, 0)
    server.blockdev_del(node_name="n")


# ---------------------------------------------------------------------- adding


REFUSED_ADD = [
    ({"type": None}, "Parameter 'type' is missing"),
    ({"id": None}, "Parameter 'id' is missing"),
    ({"node-name": None}, "Parameter 'node-name' is missing"),
    ({"type": "bogus"}, "Parameter 'type' does not accept value 'bogus'"),
    ({"id": "first"}, "Block export id 'first' is already in use"),
    ({"id": "1k"}, "Invalid block export id"),
    ({"id": ""}, "Invalid block export id"),
    ({"name": "first"}, "NBD server already has export named 'first'"),
    ({"node-name": "nope"}, "Cannot find device='' nor node-name='nope'"),
    ({"bitmaps": ["nope"]}, "Bitmap 'nope' is not found"),
    ({"bitmaps": "nope"}, "Invalid parameter type for 'bitmaps', expected: array"),
    ({"iothread": "nope"}, 'iothread "nope" not found'),
    ({"node-name": "ro", "writable": True}, "Cannot export read-only node as writable"),
    ({"name": "x" * 4097}, f"export name '{'x' * 4097}' too long"),
    ({"description": "x" * 4097}, f"description '{'x' * 4097}' too long"),
    ({"writable": 1}, "Invalid parameter type for 'writable', expected: boolean"),
    ({"bogus": 1}, "Parameter 'bogus' is unexpected"),
]


@pytest.mark.parametrize("change, error", REFUSED_ADD, ids=[f"{list(c)[0]}-{number}" for number, (c, _) in enumerate(REFUSED_ADD)])
def test_add_refused(server, disk, images, change, error):
    server.blockdev_add(driver="null-co", node_name="ro", read_only=True)
    server.nbd_start()
    server.block_export_add(type="nbd", id="first", node_name="n", name="first")
    options = {"type": "nbd", "id": "second", "node-name": "n", "name": "second", **change}
    options = {name: value for name, value in options.items() if value is not None}
    assert server.error("block-export-add", options) == error
    assert [export["id"] for export in server.query_block_exports()] == ["first"]


@pytest.mark.parametrize(
    "options, error",
    [
        ({}, "Parameter 'device' is missing"),
        ({"device": "nope"}, "Cannot find device='nope' nor node-name='nope'"),
        ({"device": "n", "bitmap": "b"}, "Bitmap 'b' is not found"),
        ({"device": "n", "name": "x" * 4097}, f"export name '{'x' * 4097}' too long"),
        ({"device": "n", "name": "taken"}, "Block export id 'taken' is already in use"),
        ({"device": "n", "bogus": 1}, "Parameter 'bogus' is unexpected"),
    ],
)
def test_server_add_refused(server, disk, options, error):
    server.nbd_start()
    server.nbd_server_add(device="n", name="taken")
    assert server.error("nbd-server-add", options) == error


def test_server_add(server, disk):
    """By default under the name of the node, and read-only."""
    server.nbd_start()
    server.nbd_server_add(device="n")
    server.nbd_server_add(device="n", name="w", writable=True)
    assert server.query_block_exports() == [
        {"node-name": "n", "shutting-down": False, "type": "nbd", "id": "w"},
        {"node-name": "n", "shutting-down": False, "type": "nbd", "id": "n"},
    ]
    with server.nbd("n") as reader, server.nbd("w") as writer:
        writer.pwrite(b"x" * 512, 0)
        assert reader.pread(512, 0) == b"x" * 512
        with pytest.raises(OSError):
            reader.pwrite(b"y" * 512, 0)


def test_writable_is_lowered_for_a_read_only_node(server, images):
    """nbd-server-add quietly exports read-only what cannot be written; block-export-add refuses."""
    server.blockdev_add(driver="null-co", node_name="ro", size=SIZE, read_only=True)
    server.nbd_start()
    server.nbd_server_add(device="ro", writable=True)
    with server.nbd("ro") as nbd, pytest.raises(OSError):
        nbd.pwrite(b"x" * 512, 0)


def test_default_name(server, disk):
    """An export without a name has that of its node; a client that asks for none gets the export named so."""
    server.nbd_start()
    server.block_export_add(type="nbd", id="a", node_name="n")
    server.block_export_add(type="nbd", id="b", node_name="n", name="")
    with server.nbd("n") as one, server.nbd("") as two:
        assert one.size == two.size == SIZE


@pytest.mark.parametrize("name", ["ä", "with space", "a/b", "%s", "x" * 4096])
def test_names(server, disk, name):
    server.nbd_start()
    server.block_export_add(type="nbd", id="e", node_name="n", name=name)
    with server.nbd(name) as nbd:
        assert nbd.size == SIZE


def test_many_exports(server, disk):
    server.nbd_start()
    for number in range(100):
        server.block_export_add(type="nbd", id=f"e{number}", node_name="n", name=f"name{number}", writable=number % 2 == 0)
    assert len(server.query_block_exports()) == 100
    with server.nbd("name98") as nbd:
        nbd.pwrite(b"x" * 512, 0)
    for number in range(100):
        server.block_export_del(id=f"e{number}")
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": f"e{number}"})
    server.blockdev_del(node_name="n")


# ---------------------------------------------------------------------- removing


def test_safe_removal_needs_an_unused_export(server, disk):
    nbd = server.export("n", writable=True)
    for arguments in ({"id": "export1"}, {"id": "export1", "mode": "safe"}):
        assert server.error("block-export-del", arguments) == "export 'export1' still in use"
    nbd.pwrite(b"x" * 512, 0)
    nbd.close()
    while server.try_execute("block-export-del", id="export1") != {}:
        pass  # the server has not seen our farewell yet; the limit of the test ends this
    server.wait_event("BLOCK_EXPORT_DELETED", {"id": "export1"})
    assert server.query_block_exports() == []


def test_hard_removal_ends_clients(server, disk):
    nbd = server.export("n", writable=True)
    server.block_export_del(id="export1", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED", {"id": "export1"})
    with pytest.raises(OSError):
        nbd.pread(512, 0)
    assert server.error("block-export-del", id="export1", mode="hard") == "Export 'export1' is not found"
    assert server.error("block-export-del", id="export1", mode="bogus") == "Parameter 'mode' does not accept value 'bogus'"


def test_server_remove(server, disk):
    server.nbd_start()
    server.nbd_server_add(device="n", name="a")
    with server.nbd("a"):
        assert server.error("nbd-server-remove", name="a") == "export 'a' still in use"
        assert server.error("nbd-server-remove", name="a", mode="safe") == "export 'a' still in use"
        server.nbd_server_remove(name="a", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED", {"id": "a"})
    assert server.error("nbd-server-remove", name="a") == "Export 'a' is not found"


def test_removal_of_one_leaves_the_others(server, disk):
    first, second = server.export("n", "one", writable=True), server.export("n", "two", writable=True)
    server.block_export_del(id="export1", mode="hard")
    second.pwrite(b"z" * 512, 0)
    assert second.pread(512, 0) == b"z" * 512
    with pytest.raises(OSError):
        first.pread(512, 0)


def test_a_node_under_an_export_is_in_use(server, disk):
    with server.export("n"):
        assert server.error("blockdev-del", node_name="n") == "Node n is in use"


def test_a_resize_is_refused_under_an_export(server, disk):
    with server.export("n") as nbd:
        error = server.error("block_resize", {"node-name": "n", "size": 2 * SIZE})
        assert error == (
            "Permission conflict on node 'n': permissions 'resize' are both required by an unnamed block device (uses "
            "node 'n' as 'root' child) and unshared by an unnamed block device (uses node 'n' as 'root' child)."
        )
        assert nbd.size == SIZE
    assert server.query_node("n")["image"]["virtual-size"] == SIZE


# ---------------------------------------------------------------------- requests, judged in the image


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_what_is_written_is_in_the_image(server, images, format):
    image = images.create("image", format, SIZE)
    server.add_image("n", image, discard="unmap")
    expected = bytearray(SIZE)

    def write(data, offset, **options):
        nbd.pwrite(data, offset, **options)
        expected[offset : offset + len(data)] = data

    with server.export("n", writable=True) as nbd:
        write(b"\1" * 65536, 0)
        write(b"\2" * 3, 65535)
        write(b"\3" * 100_000, 123_457, fua=True)
        write(b"\4", SIZE - 1)
        nbd.zero(65536, 131072)
        expected[131072 : 131072 + 65536] = bytes(65536)
        nbd.zero(10_001, 70_001, no_hole=True)
        expected[70_001 : 70_001 + 10_001] = bytes(10_001)
        nbd.zero(65536, 0, fua=True)
        expected[0:65536] = bytes(65536)
        nbd.flush()
        nbd.cache(65536, 0)
        assert nbd.read_all() == expected
    server.stop()
    assert image.content() == expected
    image.check()


@pytest.mark.parametrize("writable", [True, pytest.param(False, marks=pytest.mark.differs(
    "keeps in an image what a client may not write to", server="qemu"))])  # fmt: skip
def test_cache_keeps_what_comes_from_below(server, images, writable):
    """Where clients may write."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 7))
    overlay = images.create("overlay.qcow2", size=None, backing=base)
    server.add_image("n", overlay)
    with server.export("n", writable=writable) as nbd:
        nbd.pread(65536, 0)
        nbd.cache(3 * 65536, 65536)
        assert nbd.pread(SIZE, 0) == bytes([7]) * SIZE
    server.stop()
    own = [(e["start"], e["length"]) for e in overlay.map() if e["depth"] == 0]
    assert own == ([(65536, 3 * 65536)] if writable else [])
    overlay.check()


def test_cache_reads_nothing_in_vain(server, images):
    """What is here already needs no look."""
    image = images.create("disk.raw", "raw", SIZE)
    server.execute("blockdev-add", {
        "driver": "raw", "node-name": "n", "file": {
            "driver": "blkdebug", "inject-error": [{"event": "none", "iotype": "read", "errno": 5}],
            "image": {"driver": "file", "filename": str(image.path)}}})
    with server.export("n", writable=True) as nbd:
        nbd.cache(SIZE, 0)


def test_trim_gives_back(server, disk):
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\1" * SIZE, 0)
        nbd.trim(SIZE // 2, 0)
        assert [(extent.length, extent.flags) for extent in nbd.extents()][-1] == (SIZE // 2, 0)
        assert nbd.extents()[0].flags & 2, "trimmed clusters read as zeroes"
        assert nbd.pread(SIZE // 2, 0) == bytes(SIZE // 2)
    server.stop()
    disk.check()


def test_zeroes_with_and_without_holes(server, disk):
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\1" * SIZE, 0)
        nbd.zero(SIZE // 2, 0, no_hole=True)
        nbd.zero(SIZE // 2, SIZE // 2)
        assert nbd.read_all() == bytes(SIZE)
    server.stop()
    data = [extent for extent in disk.map() if extent["present"] and "offset" in extent]
    assert data and data[0]["start"] == 0, "no-hole keeps clusters allocated"
    disk.check()


def test_fast_zero(server, disk):
    """Fast or not at all: on qcow2 zeroing whole clusters is fast."""
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\1" * SIZE, 0)
        nbd.zero(65536, 0, fast=True)
        assert nbd.pread(65536, 0) == bytes(65536)
        with contextlib.suppress(OSError):
            nbd.zero(1000, 70_000, fast=True)
        assert nbd.pread(100, 69_900) == b"\1" * 100


def test_allocation_map(server, images):
    base = images.create("base.qcow2", size=SIZE).fill(("0", "64k", 1))
    top = images.create("top.qcow2", size=None, backing=base)
    top.fill(("256k", "64k", 2)).io("write -z 512k 64k")
    server.add_image("n", top)
    with server.export("n") as nbd:
        flags = {}
        for extent in nbd.extents():
            for cluster in range(extent.offset // 65536, (extent.offset + extent.length) // 65536):
                flags[cluster] = extent.flags
        assert flags[0] == flags[4] == 0
        assert all(flags[cluster] & 2 for cluster in range(16) if cluster not in (0, 4))


def test_allocation_depth(server, images):
    base = images.create("base.qcow2", size=SIZE).fill(("0", "128k", 1))
    top = images.create("top.qcow2", size=None, backing=base).fill(("0", "64k", 2))
    server.add_image("n", top)
    server.nbd_start()
    server.block_export_add(type="nbd", id="e", node_name="n", name="n", allocation_depth=True)
    with Nbd(server.nbd_path, "n", ("qemu:allocation-depth",)) as nbd:
        assert nbd.extents("qemu:allocation-depth") == [(0, 65536, 1), (65536, 65536, 2), (131072, SIZE - 131072, 0)]


def test_large_requests(server, images):
    """Up to 32 MiB at a time."""
    image = images.create("big.raw", "raw", 64 << 20)
    server.add_image("n", image)
    with server.export("n", writable=True) as nbd:
        data = os.urandom(1 << 20) * 32
        nbd.pwrite(data, 12345)
        assert nbd.pread(32 << 20, 12345) == data
        nbd.zero(64 << 20, 0)
        assert nbd.pread(32 << 20, 12345) == bytes(32 << 20)
        with pytest.raises(OSError) as error:
            nbd.pread((32 << 20) + 1, 0)
        assert error.value.errno in (errno.EINVAL, errno.ERANGE)
    server.nbd("n").close()


def test_writers_on_several_exports_see_each_other(server, disk):
    first, second = server.export("n", "one", writable=True), server.export("n", "two", writable=True)
    for number in range(20):
        writer, reader = (first, second) if number % 2 else (second, first)
        writer.pwrite(bytes([number]) * 777, number * 1000)
        assert reader.pread(777, number * 1000) == bytes([number]) * 777


def test_a_size_that_is_no_multiple_of_a_sector(server, images):
    """A raw file of 1000 bytes is a disk of 1024, whose end reads as zeroes."""
    path = images.dir / "odd.raw"
    path.write_bytes(b"\x7a" * 1000)
    server.blockdev_add(driver="raw", node_name="n", file={"driver": "file", "filename": str(path)})
    with server.export("n") as nbd:
        assert nbd.size in (1000, 1024)
        assert nbd.pread(nbd.size, 0) == (b"\x7a" * 1000 + bytes(24))[: nbd.size]


@pytest.mark.parametrize("size", [1, 511, 513, 65537])
def test_odd_sizes_of_qcow2(server, images, size):
    """The virtual size of a qcow2 image is in bytes, in sectors for its users."""
    image = images.create("odd.qcow2", size=size)
    server.add_image("n", image)
    with server.export("n", writable=True) as nbd:
        assert nbd.size == (size + 511) // 512 * 512
        nbd.pwrite(b"\1", size - 1)
        assert nbd.pread(1, size - 1) == b"\1"
    server.stop()
    image.check()


def test_quit_with_clients(server, disk):
    """Exports and clients do not hold up the end, and what was acknowledged is in the image."""
    nbd = server.export("n", writable=True)
    nbd.pwrite(b"\5" * 65536, 0)
    server.quit()
    server.wait()
    disk.read(0, 65536, 5)
    disk.check()
    with pytest.raises(OSError):
        nbd.pread(512, 0)


@pytest.mark.manners("daemon")
def test_exports_on_the_command_line(start, images):
    image = images.create("disk.qcow2", size=SIZE)
    path = images.dir / "nbd.sock"
    server = start(
        "--blockdev", f"driver=file,node-name=f,filename={image.path}",
        "--blockdev", "driver=qcow2,node-name=n,file=f",
        "--nbd-server", f"addr.type=unix,addr.path={path}",
        "--export", "type=nbd,id=e,node-name=n,name=disk,writable=on",
    )
    assert server.query_block_exports() == [{"node-name": "n", "shutting-down": False, "type": "nbd", "id": "e"}]
    with Nbd(path, "disk") as nbd:
        nbd.pwrite(b"\5" * 65536, 0)
    server.stop()
    image.read(0, 65536, 5)
