"""Internal snapshots of qcow2 read through snapshot-access while the disk is written. Blockbed's own."""

import struct
import subprocess

import pytest

from blockbed_iotests import Image, Server

CLUSTER = 65536
SIZE = 16 * CLUSTER

pytestmark = pytest.mark.differs("snapshot-access has no option `internal-snapshot`", server="qemu")


def snapshot(server: Server, name: str) -> None:
    server.blockdev_snapshot_internal_sync(device="disk", name=name)


def access(server: Server, node: str, file: str = "disk", **choice: str) -> None:
    server.blockdev_add({"driver": "snapshot-access", "node-name": node, "file": file, "internal-snapshot": choice})


def access_refused(server: Server, file: str = "disk", **choice: str) -> str:
    return server.error("blockdev-add", {"driver": "snapshot-access", "node-name": "x", "file": file, "internal-snapshot": choice})


@pytest.fixture
def disk(images) -> Image:
    return images.create("disk.qcow2", size=SIZE).fill((0, SIZE, 1))


@pytest.fixture
def guest(server, disk):
    server.add_image("disk", disk)
    with server.export("disk", "guest", writable=True) as client:
        yield client


def test_several_at_once_while_the_disk_is_written(server, disk, guest):
    instants = {}
    for number, name in enumerate(("one", "two", "three"), 2):
        instants[name] = guest.read_all()
        snapshot(server, name)
        guest.pwrite(bytes([number]) * (number * CLUSTER), number * CLUSTER - 500)
        guest.zero(CLUSTER, (10 + number) * CLUSTER)
    readers = {}
    for number, name in enumerate(instants, 1):
        access(server, name, **({"id": str(number)} if number % 2 else {"name": name}))
        readers[name] = server.export(name)
    for turn in range(3):
        for name, reader in readers.items():
            assert reader.read_all() == instants[name], name
        guest.pwrite(bytes([20 + turn]) * SIZE, 0)
    server.stop()
    disk.check()
    disk.read(0, SIZE, 22)


def test_made_and_gone_back_to_while_another_is_read(server, disk, guest):
    snapshot(server, "read")
    access(server, "access", name="read")
    with server.export("access") as reader:
        for number in (2, 3):
            guest.pwrite(bytes([number]) * SIZE, 0)
            snapshot(server, f"s{number}")
            assert reader.read_all() == b"\1" * SIZE
        server.blockdev_snapshot_delete_internal_sync(device="disk", name="s2")
        assert reader.read_all() == b"\1" * SIZE
        guest.pwrite(b"\4" * SIZE, 0)
        assert reader.read_all() == b"\1" * SIZE
    server.stop()
    disk.check()


def test_the_size_is_the_snapshots(server, disk):
    server.add_image("disk", disk)
    for size in (2 * SIZE, SIZE // 2):
        snapshot(server, f"before{size}")
        server.block_resize(node_name="disk", size=size)
    access(server, "first", name=f"before{2 * SIZE}")
    access(server, "second", name=f"before{SIZE // 2}")
    assert server.query_node("first")["image"]["virtual-size"] == SIZE
    with server.export("first") as first, server.export("second") as second:
        assert first.size == SIZE and first.read_all() == b"\1" * SIZE
        assert second.size == 2 * SIZE and second.read_all() == b"\1" * SIZE + bytes(SIZE)


def test_what_the_snapshot_has_not_is_the_backing_files(server, images):
    base = images.create("base.qcow2", size=SIZE // 2).fill((0, SIZE // 2, 1))
    top = images.create("top.qcow2", size=SIZE, backing=base)
    top.io(f"write -P 2 {CLUSTER} {CLUSTER}", f"write -z {2 * CLUSTER} {CLUSTER}", f"write -c -P 3 {3 * CLUSTER} {CLUSTER}")
    content = top.content()
    server.add_image("disk", top)
    snapshot(server, "s")
    access(server, "access", name="s")
    with server.export("disk", "guest", writable=True) as guest, server.export("access") as reader:
        guest.pwrite(b"\7" * SIZE, 0)
        assert reader.read_all() == content
        for extent in reader.extents():
            assert bool(extent.flags & 2) == (content[extent.offset:extent.offset + extent.length] == bytes(extent.length))


@pytest.mark.parametrize("options", [{"cluster_size": 4096}, {"extended_l2": "on"}, {"compat": "0.10"}, {"cluster_size": 512}],
                         ids=lambda options: "-".join(map(str, options.values())))
def test_every_kind_of_image(server, images, options):
    """qemu-img reads the snapshot when the server is gone: it must have shown the same."""
    disk = images.create("disk.qcow2", size=SIZE, **options)
    disk.io("write -P 1 100k 300k", "write -c -P 2 512k 64k", "write -z 640k 64k", "write -P 3 900k 3k")
    server.add_image("disk", disk)
    snapshot(server, "s")
    access(server, "access", name="s")
    with server.export("disk", "guest", writable=True) as guest, server.export("access") as reader:
        for offset in range(0, SIZE - 50_000, 100_000):
            guest.pwrite(b"\7" * 50_000, offset)
        shown = reader.read_all()
    server.stop()
    copy = images.dir / "copy.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", "-l", "snapshot.name=s", str(disk), str(copy)], check=True)
    assert copy.read_bytes() == shown
    disk.check()


def test_what_is_read_is_not_deleted(server, disk, guest):
    snapshot(server, "s")
    access(server, "access", name="s")
    text = "Snapshot 's' is being read by node 'access'"
    assert server.error("blockdev-snapshot-delete-internal-sync", device="disk", name="s") == text
    assert server.error("blockdev-del", node_name="disk").endswith("is in use")
    server.blockdev_del(node_name="access")
    server.blockdev_snapshot_delete_internal_sync(device="disk", name="s")
    guest.pwrite(b"\2" * SIZE, 0)
    server.stop()
    disk.check()
    disk.read(0, SIZE, 2)


def test_the_file_of_the_image_stays(server, images, disk, guest):
    snapshot(server, "s")
    access(server, "access", name="s")
    server.blockdev_add(driver="file", node_name="other", filename=str(disk.copy(images.dir / "other.qcow2")))
    reopened = [{"driver": "qcow2", "node-name": "disk", "file": "other"}]
    assert server.error("blockdev-reopen", options=reopened) == "Snapshot 's' is being read by node 'access'"
    # Everything else of the image may change meanwhile.
    file = {"driver": "file", "filename": str(disk)}
    server.blockdev_reopen(options=[{"driver": "qcow2", "node-name": "disk", "lazy-refcounts": True, "file": file}])
    guest.pwrite(b"\2" * SIZE, 0)
    with server.export("access") as reader:
        assert reader.read_all() == b"\1" * SIZE


def test_an_overlay_comes_and_goes(server, images, disk, guest):
    """An overlay takes the node's place below the reader, and the snapshot is read on."""
    snapshot(server, "s")
    access(server, "access", name="s")
    overlay = images.create("overlay.qcow2", size=SIZE)
    server.blockdev_add(driver="qcow2", node_name="overlay", backing=None, file={"driver": "file", "filename": str(overlay)})
    with server.export("access") as reader:
        server.blockdev_snapshot(node="disk", overlay="overlay")
        guest.pwrite(b"\2" * SIZE, 0)
        assert reader.read_all() == b"\1" * SIZE
        server.block_commit(job_id="job", device="overlay", base_node="disk")
        server.wait_event("BLOCK_JOB_READY")
        server.block_job_complete(device="job")
        server.finish_job("job")
        assert guest.read_all() == b"\2" * SIZE
        assert reader.read_all() == b"\1" * SIZE
    server.blockdev_del(node_name="overlay")
    text = "Snapshot 's' is being read by node 'access'"
    assert server.error("blockdev-snapshot-delete-internal-sync", device="disk", name="s") == text


def test_it_is_a_node_like_others(server, images, disk, guest):
    """The source of a backup, the backing file of an overlay, found through a filter; opened again by its name."""
    snapshot(server, "s")
    guest.pwrite(b"\2" * SIZE, 0)
    server.blockdev_add(driver="copy-on-read", node_name="filter", file="disk")
    access(server, "access", file="filter", name="s")
    copy, overlay = images.create("copy.raw", "raw", SIZE), images.create("overlay.qcow2", size=SIZE)
    server.add_image("copy", copy)
    server.blockdev_backup(job_id="job", device="access", target="copy", sync="full")
    server.finish_job("job")
    server.blockdev_add(driver="qcow2", node_name="overlay", backing="access", file={"driver": "file", "filename": str(overlay)})
    with server.export("overlay", writable=True) as client:
        client.pwrite(b"\3" * 512, 512)
        assert client.read_all() == b"\1" * 512 + b"\3" * 512 + b"\1" * (SIZE - 1024)
    name = server.query_node("access")["file"]
    assert '"driver": "snapshot-access"' in name and '"internal-snapshot": {"name": "s"}' in name
    server.stop()
    copy.read(0, SIZE, 1)


def test_what_is_refused(server, images, disk, guest):
    snapshot(server, "s")
    server.add_image("plain", images.create("plain.raw", "raw", SIZE))
    assert access_refused(server) == "Name or id must be provided"
    assert access_refused(server, name="t") == "Snapshot with id 'null' and name 't' does not exist on device 'disk'"
    assert access_refused(server, id="7") == "Snapshot with id '7' and name 'null' does not exist on device 'disk'"
    assert access_refused(server, id="7", name="s") == "Snapshot with id '7' and name 's' does not exist on device 'disk'"
    assert access_refused(server, file="plain", name="s") == (
        "Block format 'raw' used by device 'plain' does not support internal snapshots")
    for name, window in {"offset": {"offset": 65536}, "size": {"size": 65536}, "both": {"offset": 65536, "size": 65536}}.items():
        server.blockdev_add(driver="raw", node_name=name, file="disk", read_only=True, **window)
        server.blockdev_add(driver="raw", node_name=f"over-{name}", file=name, read_only=True)
        for node in (name, f"over-{name}"):
            assert access_refused(server, file=node, name="s") == (
                f"Node '{name}' shows a part of its file only, and snapshots of 'disk' cannot be read through it")
        server.blockdev_del(node_name=f"over-{name}")
        server.blockdev_del(node_name=name)
    access(server, "access", id="1", name="s")
    with server.export("access", writable=True) as reader:
        for call in (lambda: reader.pwrite(b"\2" * 512, 0), lambda: reader.zero(512, 0)):
            with pytest.raises(OSError, match="not supported"):
                call()
        reader.trim(SIZE, 0)
        assert reader.read_all() == b"\1" * SIZE


@pytest.mark.manners("system")
def test_the_machine_keeps_its_state_on_the_disk_only(server, disk, guest):
    snapshot(server, "s")
    access(server, "access", name="s")
    assert server.error("blockdev-snapshot-internal-sync", device="access", name="t") == (
        "Block format 'snapshot-access' used by device 'access' does not support internal snapshots")
    assert server.hmp("savevm t") == ""
    guest.pwrite(b"\2" * SIZE, 0)
    assert server.hmp("loadvm t") == ""
    assert guest.read_all() == b"\1" * SIZE
    assert [each["name"] for each in server.query_node("disk")["image"]["snapshots"]] == ["s", "t"]
    assert "snapshots" not in server.query_node("access")["image"]
    assert "Snapshot 's' is being read by node 'access'" in server.hmp("delvm s")


def patch(image: Image, offset: int, format: str, value: int) -> None:
    with open(image.path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(format, value))


def field(image: Image, offset: int, format: str) -> int:
    return struct.unpack_from(format, image.path.read_bytes(), offset)[0]


def test_a_hostile_snapshot(server, disk):
    """Its tables are where no table can be: reading fails, and nothing else does."""
    for name in ("one", "two", "three"):
        subprocess.run(["qemu-img", "snapshot", "-c", name, str(disk)], check=True)
    disk.fill((0, SIZE, 2))
    # Entries of the table, in their order: L1 offset, L1 size, lengths of id and name, ..., extra data.
    table = field(disk, 64, ">Q")
    length = 40 + 24 + 1 + len("one") + 7 & ~7
    patch(disk, table, ">Q", field(disk, table, ">Q") + 512)
    patch(disk, table + length + 8, ">I", (32 << 20) // 8 + 1)
    patch(disk, field(disk, table + 2 * length, ">Q"), ">Q", 1 << 63 | 512)
    server.add_image("disk", disk)
    assert access_refused(server, name="one") == "Snapshot L1 table offset invalid"
    assert access_refused(server, name="two") == "Snapshot L1 table too large"
    access(server, "access", name="three")
    with server.export("access") as reader, server.export("disk", "guest", writable=True) as guest:
        with pytest.raises(OSError, match="Input/output error"):
            reader.pread(512, 0)
        event = server.wait_event("BLOCK_IMAGE_CORRUPTED")
        assert event["data"]["node-name"] == "disk" and event["data"]["fatal"] is False
        guest.pwrite(b"\3" * SIZE, 0)
        assert guest.read_all() == b"\3" * SIZE


@pytest.mark.manners("system")
def test_from_the_command_line(start, images, disk):
    subprocess.run(["qemu-img", "snapshot", "-c", "s", str(disk)], check=True)
    disk.fill((0, SIZE, 2))
    server = start("-blockdev", f"driver=qcow2,node-name=disk,read-only=on,file.driver=file,file.filename={disk}",
                   "-blockdev", "driver=snapshot-access,node-name=access,file=disk,internal-snapshot.name=s,read-only=on")
    with server.export("access") as reader:
        assert reader.read_all() == b"\1" * SIZE
