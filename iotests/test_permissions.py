"""Who may use a node together with whom: users inside one server (permissions), and other processes (locks)."""

import fcntl
import os
import re
import struct

import pytest

from blockbed_iotests import QmpError, Server, qemu_img, qemu_io

# What each permission is called, and its bit in the locks.
CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE = range(4)


@pytest.fixture
def disk(images):
    return images.create("disk.qcow2", "qcow2", "1M")


@pytest.fixture
def raw(images):
    return images.create("disk.raw", "raw", "1M")


# ---------------------------------------------------------------------- inside one server


def test_two_formats_over_one_file(server, disk):
    server.blockdev_add(driver="file", node_name="f", filename=str(disk.path))
    server.blockdev_add(driver="qcow2", node_name="q", file="f")
    assert server.error("blockdev-add", driver="qcow2", node_name="q2", file="f") == (
        "Permission conflict on node 'f': permissions 'write, resize' are both required by node 'q' (uses node 'f' as "
        "'file' child) and unshared by node 'q2' (uses node 'f' as 'file' child)."
    )
    assert server.node_names() == {"f", "q"}
    server.blockdev_add(driver="raw", node_name="r", file="f")


def test_second_reader_of_an_image_that_is_written(server, disk):
    server.blockdev_add(driver="file", node_name="f", filename=str(disk.path))
    server.blockdev_add(driver="qcow2", node_name="q", file="f")
    assert server.error("blockdev-add", driver="qcow2", node_name="ro", file="f", read_only=True) == (
        "Permission conflict on node 'f': permissions 'write, resize' are both required by node 'q' (uses node 'f' as "
        "'file' child) and unshared by node 'ro' (uses node 'f' as 'file' child)."
    )


def test_readers_share(server, disk):
    server.blockdev_add(driver="file", node_name="f", filename=str(disk.path), read_only=True)
    for name in ("a", "b", "c"):
        server.blockdev_add(driver="qcow2", node_name=name, file="f", read_only=True)
    assert server.node_names() == {"f", "a", "b", "c"}


def test_writer_over_a_read_only_file(server, disk):
    server.blockdev_add(driver="file", node_name="f", filename=str(disk.path), read_only=True)
    assert server.error("blockdev-add", driver="qcow2", node_name="q", file="f") == "Block node is read-only"


def test_exports_share_writing(server, raw):
    server.add_image("n", raw)
    server.nbd_start()
    for name in ("a", "b"):
        server.block_export_add(type="nbd", id=name, node_name="n", name=name, writable=True)
    with server.nbd("a") as a, server.nbd("b") as b:
        a.pwrite(b"1" * 512, 0)
        assert b.pread(512, 0) == b"1" * 512


def test_windows_of_one_disk_are_written_side_by_side(server, disk):
    server.add_image("n", disk)
    server.nbd_start()
    for number, name in enumerate(("a", "b")):
        server.blockdev_add(driver="raw", node_name=name, file="n", offset=number << 19, size=1 << 19)
        server.block_export_add(type="nbd", id=name, node_name=name, name=name, writable=True)
    with server.nbd("a") as a, server.nbd("b") as b:
        a.pwrite(b"1" * 512, (1 << 19) - 512)
        b.pwrite(b"2" * 512, 0)
    with server.export("n") as nbd:
        assert nbd.pread(1024, (1 << 19) - 512) == b"1" * 512 + b"2" * 512


@pytest.mark.parametrize("writable, error", [
    (True, "permissions 'write' are both required by an unnamed block device (uses node 'f' as 'root' child) and unshared by "
           "node 'q' (uses node 'f' as 'file' child)."),
    (False, "permissions 'resize' are both required by node 'q' (uses node 'f' as 'file' child) and unshared by an unnamed "
            "block device (uses node 'f' as 'root' child)."),
])
def test_an_export_of_an_image_file(server, disk, writable, error):
    """What an export takes is looked at first, and what it refuses only when nothing else is wrong with it."""
    server.blockdev_add(driver="file", node_name="f", filename=str(disk.path))
    server.blockdev_add(driver="qcow2", node_name="q", file="f")
    export = {"type": "nbd", "id": "e", "node-name": "f", "writable": writable}
    conflict = f"Permission conflict on node 'f': {error}"
    assert server.error("block-export-add", export) == (conflict if writable else "NBD server not running")
    server.nbd_start()
    assert server.error("block-export-add", export) == conflict
    server.blockdev_add(driver="null-co", node_name="n")
    server.block_export_add(type="nbd", id="n", node_name="n", name="taken")
    assert server.error("block-export-add", export | {"name": "taken"}) == (
        conflict if writable else "NBD server already has export named 'taken'")


@pytest.fixture
def with_backup(server, images):
    """A server with a backup that goes on until it is cancelled, and a third image."""
    for name in ("src", "dst", "other"):
        server.add_image(name, images.create(f"{name}.qcow2", size="1M"))
    server.nbd_start()
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="none")
    yield server
    server.job_cancel(id="job")
    server.wait_null("job")
    for name in ("src", "dst", "other"):
        server.blockdev_del(node_name=name)


def backup_error(server, device, target):
    error = server.error("blockdev-backup", job_id="second", device=device, target=target, sync="full")
    return re.sub(r"#block\d+", "#block", error)


def test_the_newest_image_that_stands_on_it_is_named(server, images):
    base = images.create("base.qcow2", size="1M")
    server.add_image("base", base)
    for name in ("older", "newer"):
        server.blockdev_add(driver="qcow2", node_name=name, backing="base",
                            file={"driver": "file", "filename": str(images.create(f"{name}.qcow2", size="1M"))})
    assert server.error("blockdev-del", {"node-name": "base"}) == "Node 'base' is busy: node is used as backing hd of 'newer'"


def test_target_of_a_job_is_busy(with_backup):
    server = with_backup
    busy = "Node 'dst' is busy: block device is in use by block job: backup"
    assert server.error("blockdev-del", node_name="dst") == busy
    assert backup_error(server, "src", "dst") == busy
    assert backup_error(server, "dst", "other") == busy


def test_source_of_a_job(with_backup):
    server = with_backup
    assert server.error("blockdev-del", node_name="src") == "Block device src is in use"
    with server.export("src"):
        assert server.error("blockdev-del", node_name="src") == "Node src is in use"
    server.block_export_del(id="export1", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    assert backup_error(server, "other", "src") == (
        "Could not create node: Permission conflict on node 'src': permissions 'write' are both required by node "
        "'#block' (uses node 'src' as 'target' child) and unshared by node '#block' (uses node 'src' as 'file' child)."
    )
    assert backup_error(server, "other", "other") == "Source and target cannot be the same"


def test_who_may_write_the_disks_of_a_backup(with_backup):
    """The source is written through the filter only: a writer that comes later by the node's name would go past it."""
    server = with_backup
    error = server.error("block-export-add", {"type": "nbd", "id": "w", "node-name": "src", "writable": True})
    assert re.sub(r"#block\d+", "#block", error) == (
        "Permission conflict on node 'src': permissions 'write' are both required by an unnamed block device (uses node "
        "'src' as 'root' child) and unshared by node '#block' (uses node 'src' as 'file' child)."
    )
    for node in ("src", "dst"):
        with server.export(node) as nbd:
            export = nbd.export_id
        server.block_export_del(id=export, mode="hard")
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": export})


def test_a_second_backup_of_the_same_source(with_backup):
    server = with_backup
    server.blockdev_backup(job_id="second", device="src", target="other", sync="full")
    assert server.finish_job("second")["data"]["device"] == "second"


# ---------------------------------------------------------------------- other processes

LOCKED = 'Failed to get "write" lock'


def test_the_server_locks_out_the_tools(server, disk):
    server.add_image("q", disk)
    for command in ("write 0 512", "read 0 512"):
        output = disk.io(command, status=1)
        assert "Failed to get" in output and "lock" in output
        assert f"Is another process using the image [{disk.path}]?" in output
    assert 'Failed to get shared "write" lock' in qemu_img("info", disk.path, status=1)
    assert "virtual size" in qemu_img("info", "-U", disk.path)
    server.blockdev_del(node_name="q")
    disk.io("write 0 512")


def test_a_reader_lets_the_tools_read(server, disk):
    server.add_image("q", disk, read_only=True)
    disk_read = qemu_io(disk.path, "read 0 512", format="qcow2", options=("-r",))
    assert "read 512/512" in disk_read
    assert LOCKED in disk.io("write 0 512", status=1)
    qemu_img("info", disk.path)


def test_a_second_server_is_locked_out(server, start, target, disk, workdir):
    server.add_image("q", disk)
    other = start()
    assert other.error("blockdev-add", {
        "driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": str(disk.path)}
    }) == LOCKED
    assert other.error("blockdev-add", {
        "driver": "qcow2", "node-name": "q", "read-only": True, "file": {"driver": "file", "filename": str(disk.path)}
    }) == 'Failed to get shared "write" lock'
    other.blockdev_add(
        driver="qcow2", node_name="q", read_only=True, force_share=True,
        file={"driver": "file", "filename": str(disk.path)},
    )


def test_the_real_qemu_and_the_server_lock_each_other_out(server, qemu, disk):
    """In both directions, and between the manners."""
    for manner in ("system", "daemon"):
        with Server(qemu, manner) as other:
            server.add_image("q", disk)
            with pytest.raises(QmpError, match=LOCKED):
                other.add_image("q", disk)
            server.blockdev_del(node_name="q")
            other.add_image("q", disk)
            with pytest.raises(QmpError, match=LOCKED):
                server.add_image("q", disk)


def test_locking_off(server, disk):
    options = {"driver": "file", "filename": str(disk.path), "locking": "off"}
    server.blockdev_add(driver="qcow2", node_name="a", file=options)
    server.blockdev_add(driver="qcow2", node_name="b", file=options)
    disk.io("read 0 512")


def test_force_share_reads_what_others_write(server, qemu, raw):
    with Server(qemu, "daemon") as other:
        other.add_image("n", raw)
        with other.export("n", writable=True) as writer:
            server.add_image("n", raw, read_only=True, force_share=True)
            with server.export("n") as reader:
                writer.pwrite(b"\3" * 4096, 0)
                assert reader.pread(4096, 0) == b"\3" * 4096


def locked_bytes(path):
    """The bytes of the file that anybody else holds locked, by asking for each of those that may be."""
    held = set()
    with open(path, "r+b") as file:
        for byte in [*range(100, 108), *range(200, 208)]:
            query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            answer = fcntl.fcntl(file, 36, query)  # F_OFD_GETLK
            if struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK:
                held.add(byte)
    return held


@pytest.mark.parametrize("driver", ["file", "raw"])
def test_an_unused_node_locks_nothing(server, raw, driver):
    """A node that nobody uses needs nothing, and shares everything."""
    node = {"driver": "file", "filename": str(raw.path)}
    server.execute("blockdev-add", node if driver == "file" else {"driver": driver, "file": node}, node_name="n")
    assert locked_bytes(raw.path) == set()


def test_lock_bytes(server, raw, disk):
    """Permission n in use locks byte 100+n, permission n not shared locks byte 200+n."""
    server.add_image("q", disk)
    assert locked_bytes(disk.path) == {100 + CONSISTENT_READ, 100 + WRITE, 100 + RESIZE, 200 + WRITE, 200 + RESIZE}
    server.add_image("n", raw)
    with server.export("n"):
        assert locked_bytes(raw.path) == {100 + CONSISTENT_READ, 200 + RESIZE}
    with server.export("n", "w", writable=True):
        assert locked_bytes(raw.path) == {100 + CONSISTENT_READ, 100 + WRITE, 200 + RESIZE}


def test_locks_go_with_the_server(server, disk):
    server.add_image("q", disk)
    assert locked_bytes(disk.path)
    server.kill()
    assert locked_bytes(disk.path) == set()
    disk.io("write 0 512")


def test_backing_files_are_shared(server, start, images, disk):
    """Two servers may stand on one backing file; neither may write it."""
    images.create("a.qcow2", "qcow2", None, backing=disk)
    images.create("b.qcow2", "qcow2", None, backing=disk)
    server.add_image("a", images.at("a.qcow2", "qcow2"))
    other = start()
    other.add_image("b", images.at("b.qcow2", "qcow2"))
    assert LOCKED in disk.io("write 0 512", status=1)
    qemu_io(disk.path, "read 0 512", format="qcow2", options=("-r",))
