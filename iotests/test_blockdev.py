"""blockdev-add and blockdev-del: drivers, options, references, and the texts of every refusal."""

import json
import os
import subprocess

import pytest

from blockbed_iotests import Image


def file(name, **options):
    """A protocol node for an image in the test's directory (`DIR` is put in by `substitute`)."""
    return {"driver": "file", "filename": f"DIR/{name}", **options}


def substitute(value, directory):
    return json.loads(json.dumps(value).replace("DIR", str(directory)))


@pytest.fixture
def disks(images):
    """One image of each kind that the tables below name."""
    images.create("disk.qcow2", "qcow2", "1M")
    images.create("disk.raw", "raw", "1M")
    images.create("odd.raw", "raw", 1000)
    images.create("top.qcow2", "qcow2", None, backing=images.at("disk.qcow2", "qcow2"))
    (images.dir / "small").write_bytes(b"hello")
    (images.dir / "directory").mkdir()
    return images


# ---------------------------------------------------------------------- what is opened


OPENED = {
    "null-co": {"driver": "null-co", "size": 65536},
    "null-aio": {"driver": "null-aio", "size": 65536, "latency-ns": 1000},
    "null zeroes": {"driver": "null-co", "size": 512, "read-zeroes": True},
    "file": file("disk.raw"),
    "file, threads": file("disk.raw", aio="threads"),
    "file, no lock": file("disk.raw", locking="off"),
    "file, locked": file("disk.raw", locking="on"),
    "file, direct": file("disk.raw", cache={"direct": True, "no-flush": False}),
    "file, read-only": file("disk.raw", **{"read-only": True}),
    "file, auto-read-only": file("disk.raw", **{"auto-read-only": True}),
    "file, discard": file("disk.raw", discard="unmap"),
    "file, x-check": file("disk.raw", **{"drop-cache": True}),
    "raw": {"driver": "raw", "file": file("disk.raw")},
    "raw, odd size": {"driver": "raw", "file": file("odd.raw")},
    "raw, part": {"driver": "raw", "file": file("disk.raw"), "offset": 512, "size": 1024},
    "raw, rest": {"driver": "raw", "file": file("disk.raw"), "offset": 65536},
    "raw on raw": {"driver": "raw", "offset": 512, "file": {"driver": "raw", "offset": 512, "file": file("disk.raw")}},
    "raw, detect-zeroes": {"driver": "raw", "file": file("disk.raw"), "detect-zeroes": "on"},
    "raw, detect and discard": {
        "driver": "raw", "file": file("disk.raw"), "detect-zeroes": "unmap", "discard": "unmap",
    },
    "raw, force-share": {"driver": "raw", "file": file("disk.raw"), "read-only": True, "force-share": True},
    "qcow2": {"driver": "qcow2", "file": file("disk.qcow2")},
    "qcow2, read-only": {"driver": "qcow2", "file": file("disk.qcow2"), "read-only": True},
    "qcow2, no-flush": {"driver": "qcow2", "file": file("disk.qcow2"), "cache": {"no-flush": True}},
    "qcow2, lazy": {"driver": "qcow2", "file": file("disk.qcow2"), "lazy-refcounts": True},
    "qcow2, pass-discard": {
        "driver": "qcow2", "file": file("disk.qcow2"), "pass-discard-request": False, "pass-discard-snapshot": True,
        "pass-discard-other": True,
    },
    "qcow2, overlap flag": {"driver": "qcow2", "file": file("disk.qcow2"), "overlap-check": "all"},
    "qcow2, overlap flags": {
        "driver": "qcow2", "file": file("disk.qcow2"), "overlap-check": {"template": "none", "main-header": True},
    },
    "qcow2, caches": {
        "driver": "qcow2", "file": file("disk.qcow2"), "l2-cache-size": 1 << 20, "refcount-cache-size": 1 << 18,
        "l2-cache-entry-size": 4096, "cache-clean-interval": 0,
    },
    "qcow2, chain": {"driver": "qcow2", "file": file("top.qcow2")},
    "qcow2, chain cut": {"driver": "qcow2", "file": file("top.qcow2"), "backing": None},
    "qcow2, chain replaced": {
        "driver": "qcow2", "file": file("top.qcow2"), "backing": {"driver": "raw", "file": file("disk.raw")},
    },
    "qcow2, names below": {
        "driver": "qcow2", "file": file("top.qcow2", **{"node-name": "file"}),
        "backing": {"driver": "qcow2", "node-name": "base", "file": file("disk.qcow2", **{"node-name": "base-file"})},
    },
}


@pytest.mark.parametrize("name", OPENED)
def test_open_and_report_as_qemu(differential, name):
    """The reply, and all that query-named-block-nodes says about the new nodes, is QEMU's."""

    def prepare(directory):
        Image.create(directory / "disk.qcow2", "qcow2", "1M")
        Image.create(directory / "disk.raw", "raw", "1M")
        Image.create(directory / "odd.raw", "raw", 1000)
        Image.create(directory / "top.qcow2", backing=Image(directory / "disk.qcow2", "qcow2"))

    def script(server):
        server.execute("blockdev-add", substitute(OPENED[name], server.dir), node_name="node")
        server.execute("query-named-block-nodes")
        server.execute("query-named-block-nodes", flat=True)
        server.execute("query-blockstats", {"query-nodes": True})
        server.execute("blockdev-del", node_name="node")
        assert server.execute("query-named-block-nodes") == []

    differential.run(script, prepare=prepare)


@pytest.mark.parametrize("name", OPENED)
def test_open_and_delete(server, disks, name):
    server.execute("blockdev-add", substitute(OPENED[name], disks.dir), node_name="node")
    assert "node" in server.node_names()
    server.blockdev_del(node_name="node")
    assert server.node_names() == set()


# ---------------------------------------------------------------------- what is refused


REFUSED = [
    ({"driver": "null-co"}, "'node-name' must be specified for the root node"),
    ({"node-name": "n"}, "Parameter 'driver' is missing"),
    ({"driver": "nope", "node-name": "n"}, "Parameter 'driver' does not accept value 'nope'"),
    ({"driver": 1, "node-name": "n"}, "Invalid parameter type for 'driver', expected: string"),
    ({"driver": "null-co", "node-name": "1n"}, "Invalid node-name: '1n'"),
    ({"driver": "null-co", "node-name": "#block0"}, "Invalid node-name: '#block0'"),
    ({"driver": "null-co", "node-name": "a b"}, "Invalid node-name: 'a b'"),
    ({"driver": "null-co", "node-name": ""}, "Invalid node-name: ''"),
    ({"driver": "null-co", "node-name": "x" * 32}, "Node name too long"),
    ({"driver": "null-co", "node-name": 1}, "Invalid parameter type for 'node-name', expected: string"),
    ({"driver": "file", "node-name": "n", "filename": "DIR/base.qcow2", "pr-manager": "x"},
     "No persistent reservation manager with id 'x'"),
    ({"driver": "null-co", "node-name": "n", "size": "x"}, "Invalid parameter type for 'size', expected: integer"),
    ({"driver": "null-co", "node-name": "n", "size": 1.5}, "Invalid parameter type for 'size', expected: integer"),
    ({"driver": "null-co", "node-name": "n", "bogus": 1}, "Parameter 'bogus' is unexpected"),
    ({"driver": "null-co", "node-name": "n", "latency-ns": -5}, "latency-ns is invalid"),
    ({"driver": "file", "node-name": "n"}, "Parameter 'filename' is missing"),
    (file("no", **{"node-name": "n"}), "Could not open 'DIR/no': No such file or directory"),
    (file("directory", **{"node-name": "n"}), "Could not open 'DIR/directory': Is a directory"),
    ({"driver": "file", "node-name": "n", "filename": ""}, "The 'file' block driver requires a file name"),
    (
        {"driver": "file", "node-name": "n", "filename": "/dev/null"},
        "'file' driver requires '/dev/null' to be a regular file",
    ),
    (
        {"driver": "host_device", "node-name": "n", "filename": "DIR/disk.raw"},
        "'host_device' driver requires 'DIR/disk.raw' to be either a character or block device",
    ),
    (file("disk.raw", **{"node-name": "n"}, aio="bogus"), "Parameter 'aio' does not accept value 'bogus'"),
    (
        file("disk.raw", **{"node-name": "n"}, aio="native"),
        "aio=native was specified, but it requires cache.direct=on, which was not specified.",
    ),
    (
        file("disk.raw", **{"node-name": "n", "read-only": "yes"}),
        "Invalid parameter type for 'read-only', expected: boolean",
    ),
    ({"driver": "qcow2", "node-name": "n"}, "Parameter 'file' is missing"),
    ({"driver": "raw", "node-name": "n", "file": None}, "Invalid parameter type for 'file', expected: BlockdevRef"),
    ({"driver": "raw", "node-name": "n", "file": []}, "Invalid parameter type for 'file', expected: BlockdevRef"),
    ({"driver": "raw", "node-name": "n", "file": {"driver": "raw"}}, "Parameter 'file.file' is missing"),
    ({"driver": "raw", "node-name": "n", "file": {}}, "Parameter 'file.driver' is missing"),
    ({"driver": "raw", "node-name": "n", "file": "n"}, "Cannot find device='n' nor node-name='n'"),
    ({"driver": "raw", "node-name": "n", "file": ""}, "Cannot find device='' nor node-name=''"),
    ({"driver": "qcow2", "node-name": "n", "file": file("disk.raw")}, "Image is not in qcow2 format"),
    ({"driver": "qcow2", "node-name": "n", "file": file("small")}, "Image is not in qcow2 format"),
    (
        {"driver": "qcow2", "node-name": "n", "file": file("disk.qcow2"), "lazy-refcounts": 1},
        "Invalid parameter type for 'lazy-refcounts', expected: boolean",
    ),
    (
        {"driver": "qcow2", "node-name": "n", "file": file("disk.qcow2"), "overlap-check": "bogus"},
        "Parameter 'overlap-check' does not accept value 'bogus'",
    ),
    (
        {"driver": "qcow2", "node-name": "n", "file": file("disk.qcow2"), "overlap-check": {"bogus": True}},
        "Parameter 'overlap-check.bogus' is unexpected",
    ),
    (
        {"driver": "qcow2", "node-name": "n", "file": file("disk.qcow2"), "backing": "nope"},
        "Could not open backing file: Cannot find device='nope' nor node-name='nope'",
    ),
    (  # The name in the image's header is handed to the driver that is asked for instead.
        {"driver": "qcow2", "node-name": "n", "file": file("top.qcow2"), "backing": {"driver": "null-co"}},
        "Could not open backing file: The only allowed filename for this driver is 'null-co://'",
    ),
    (
        {"driver": "qcow2", "node-name": "n", "file": file("disk.qcow2"), "l2-cache-size": 1 << 20,
         "refcount-cache-size": 1 << 20, "cache-size": 1 << 20},
        "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
    ),
    (
        {"driver": "qcow2", "node-name": "n", "file": file("disk.qcow2"), "l2-cache-entry-size": 1000},
        "L2 cache entry size must be a power of two between 512 and the cluster size (65536)",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "offset": 1 << 20, "size": 512},
        "The sum of offset (1048576) and size (512) has to be smaller or equal to the  actual size of the containing "
        "file (1048576)",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "offset": 1 << 21},
        "Offset (2097152) cannot be greater than size of the containing file (1048576)",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "size": 513},
        "Specified size is not multiple of 512",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "offset": -1},
        "Parameter 'offset' expects a non-negative number below 2^64",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "detect-zeroes": "unmap"},
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "cache": {"nope": True}},
        "Parameter 'cache.nope' is unexpected",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "cache": {"direct": "on"}},
        "Invalid parameter type for 'cache.direct', expected: boolean",
    ),
    (
        {"driver": "raw", "node-name": "n", "file": file("disk.raw"), "force-share": True},
        "force-share=on can only be used with read-only images",
    ),
]


@pytest.mark.parametrize("options, error", REFUSED, ids=[error[:60] for _, error in REFUSED])
def test_refused(server, disks, options, error):
    assert server.error("blockdev-add", substitute(options, disks.dir)) == error.replace("DIR", str(disks.dir))
    assert server.node_names() == set(), "a failed blockdev-add left something behind"


@pytest.mark.differs("QEMU aborts", server="qemu")
def test_negative_size_of_null(server):
    server.error("blockdev-add", {"driver": "null-co", "node-name": "n", "size": -1})
    assert server.execute("query-jobs") == []


def test_a_chain_that_cannot_be_opened_leaves_nothing(server, disks):
    (disks.dir / "disk.qcow2").unlink()
    assert server.error("blockdev-add", substitute({"driver": "qcow2", "node-name": "n", "file": file("top.qcow2")}, disks.dir)) == (
        f"Could not open backing file: Could not open '{disks.dir}/disk.qcow2': No such file or directory"
    )
    assert server.node_names() == set()


def test_names_are_taken_once(server):
    server.blockdev_add(driver="null-co", node_name="n")
    assert server.error("blockdev-add", driver="null-co", node_name="n") == "Duplicate nodes with node-name='n'"
    assert server.error("blockdev-add", {
        "driver": "raw", "node-name": "r", "file": {"driver": "null-co", "node-name": "r"}
    }) == "Duplicate nodes with node-name='r'"
    assert server.node_names() == {"n"}
    server.blockdev_add(driver="null-co", node_name="x" * 31)


# ---------------------------------------------------------------------- references and deletion


def test_delete(server, disks):
    assert server.error("blockdev-del", node_name="n") == "Failed to find node with node-name='n'"
    assert server.error("blockdev-del") == "Parameter 'node-name' is missing"
    server.execute("blockdev-add", substitute(file("disk.qcow2"), disks.dir), node_name="f")
    server.blockdev_add(driver="qcow2", node_name="q", file="f")
    assert server.error("blockdev-del", node_name="f") == "Block device f is in use"
    server.blockdev_del(node_name="q")
    server.blockdev_del(node_name="f")
    assert server.node_names() == set()


def test_a_node_inside_is_not_the_clients_to_delete(server, disks):
    """What was made along with its parent goes with it; even with a name it was never handed to the client."""
    server.execute("blockdev-add", substitute({
        "driver": "qcow2", "node-name": "q", "file": file("disk.qcow2", **{"node-name": "f"})
    }, disks.dir))
    assert server.error("blockdev-del", node_name="f") == "Node f is not owned by the monitor"
    server.blockdev_del(node_name="q")
    assert server.node_names() == set()


def test_a_file_is_released_by_delete(server, disks):
    """The lock, and the file: a deleted node holds nothing."""
    disk = disks.at("disk.qcow2", "qcow2")
    for _ in range(3):
        server.add_image("q", disk)
        assert 'Failed to get' in disk.io("write 0 512", status=1)
        server.blockdev_del(node_name="q")
        disk.io("write 0 512")


def test_generated_names(server, disks):
    server.execute("blockdev-add", substitute({"driver": "qcow2", "node-name": "top", "file": file("top.qcow2")}, disks.dir))
    names = [node["node-name"] for node in server.execute("query-named-block-nodes")]
    generated = [name for name in names if name != "top"]
    assert len(generated) == len(set(generated)) == 3
    for name in generated:
        assert name.startswith("#block") and name[6:].isdigit() and len(name) >= 9
        assert server.error("blockdev-del", node_name=name) in (
            f"Node {name} is not owned by the monitor", f"Node '{name}' is busy: node is used as backing hd of 'top'"
        )


def test_newest_node_first(server):
    for name in ("a", "b", "c"):
        server.blockdev_add(driver="null-co", node_name=name)
    assert [node["node-name"] for node in server.execute("query-named-block-nodes")] == ["c", "b", "a"]


def test_flat_leaves_out_backing_images(server, disks):
    server.execute("blockdev-add", substitute({"driver": "qcow2", "node-name": "top", "file": file("top.qcow2")}, disks.dir))
    assert "backing-image" in server.query_node("top")["image"]
    (flat,) = [n for n in server.execute("query-named-block-nodes", flat=True) if n["node-name"] == "top"]
    assert "backing-image" not in flat["image"]
    assert flat["image"]["backing-filename"] == f"{disks.dir}/disk.qcow2"


# ---------------------------------------------------------------------- read-only, and what is readable through it


@pytest.fixture
def read_only_dir(images):
    """A directory in which nothing may be written, not even by root."""
    path = images.dir / "ro"
    path.mkdir()
    Image.create(path / "disk.raw", "raw", "1M")
    Image.create(path / "disk.qcow2", "qcow2", "1M")
    mounts = [["mount", "--bind", str(path), str(path)], ["mount", "-o", "remount,bind,ro", str(path)]]
    for command in mounts:
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_auto_read_only(start, read_only_dir):
    """A file that may not be written is opened for reading, and says so when somebody wants to write."""
    server = start()
    path = read_only_dir / "disk.raw"
    assert server.error("blockdev-add", driver="file", node_name="f", filename=str(path)) == (
        f"Could not open '{path}': Read-only file system"
    )
    server.blockdev_add(driver="file", node_name="f", filename=str(path), auto_read_only=True)
    assert server.query_node("f")["ro"] is False, "it is not decided before somebody wants to write"
    server.nbd_start()
    assert server.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "f", "writable": True}) == (
        f"Could not open '{path}': Read-only file system"
    )
    with server.export("f") as nbd:
        assert nbd.pread(512, 0) == bytes(512)
    image = {"driver": "file", "filename": str(read_only_dir / "disk.qcow2")}
    assert server.error("blockdev-add", driver="qcow2", node_name="q", auto_read_only=True, file=image) == (
        f"Could not open '{read_only_dir}/disk.qcow2': Read-only file system"
    )
    image["auto-read-only"] = True
    server.blockdev_add(driver="qcow2", node_name="q", read_only=True, file=image)
    assert server.query_node("q")["ro"] is True


def test_read_only_has_no_writers(server, disks):
    server.add_image("q", disks.at("disk.qcow2", "qcow2"), read_only=True)
    assert server.query_node("q")["ro"] is True
    server.nbd_start()
    error = server.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "q", "writable": True})
    assert error == "Cannot export read-only node as writable"


def test_raw_shows_a_part(server, images):
    disk = images.create("disk.raw", "raw", "1M").fill((0, "1M", 1), ("64k", "64k", 2))
    server.add_image("part", disk, offset=65536, size=65536)
    with server.export("part", writable=True) as nbd:
        assert nbd.size == 65536
        assert nbd.read_all() == b"\2" * 65536
        nbd.pwrite(b"\3" * 512, 65536 - 512)
        with pytest.raises(OSError):
            nbd.pwrite(b"\3" * 512, 65536)
    server.stop()
    disk.read("0", "64k", 1)
    disk.read(131072 - 512, 512, 3)
    disk.read("128k", "64k", 1)


def test_null_reads(server):
    server.blockdev_add(driver="null-co", node_name="n", size=1 << 20, read_zeroes=True)
    with server.export("n", writable=True) as nbd:
        assert nbd.size == 1 << 20
        assert nbd.read_all() == bytes(1 << 20)
        nbd.pwrite(b"x" * 512, 0)
        assert nbd.pread(512, 0) == bytes(512)


def test_null_default_size(server):
    server.blockdev_add(driver="null-co", node_name="n")
    assert server.query_node("n")["image"]["virtual-size"] == 1 << 30


@pytest.fixture
def loop_device(images):
    disk = images.create("loop.raw", "raw", "1M")
    result = subprocess.run(["losetup", "-f", "--show", str(disk.path)], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"no loop device can be made here: {result.stderr}")
    yield result.stdout.strip()
    subprocess.run(["losetup", "-d", result.stdout.strip()], check=True)


def test_host_device(server, images, loop_device):
    server.blockdev_add(driver="host_device", node_name="n", filename=loop_device)
    assert server.query_node("n")["image"]["virtual-size"] == 1 << 20
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\7" * 4096, 4096)
        nbd.zero(4096, 65536)
        nbd.trim(65536, 131072)
        nbd.flush()
        assert nbd.pread(8192, 0) == bytes(4096) + b"\7" * 4096
    server.stop()
    with open(loop_device, "rb") as device:
        assert device.read(8192) == bytes(4096) + b"\7" * 4096


def test_file_driver_refuses_a_device(server, loop_device):
    assert server.error("blockdev-add", driver="file", node_name="n", filename=loop_device) == (
        f"'file' driver requires '{loop_device}' to be a regular file"
    )


def test_qcow2_on_a_device(server, images, loop_device):
    Image.create(loop_device, "qcow2", "512k")
    server.blockdev_add(driver="qcow2", node_name="n", file={"driver": "host_device", "filename": loop_device})
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\5" * 65536, 65536)
    server.stop()
    Image(loop_device, "qcow2").check()
    Image(loop_device, "qcow2").read("64k", "64k", 5)


def test_unix_and_descriptor_paths_are_files_like_others(server, disks):
    """A filename in `file` is a path, whatever it looks like: no protocol prefix is parsed out of it."""
    assert "No such file or directory" in server.error("blockdev-add", driver="file", node_name="n", filename="nbd:localhost:1")
    os.symlink("disk.raw", disks.dir / "link")
    server.blockdev_add(driver="file", node_name="n", filename=str(disks.dir / "link"))
