"""compress, preallocate, quorum, blkverify and blklogwrites: what they write, what they say and how they are named."""

import struct

import pytest

system_only = pytest.mark.manners("system")
MiB = 1 << 20


def file(image, **options):
    return {"driver": "file", "filename": str(image.path), **options}


def edges(server):
    graph = server.x_debug_query_block_graph()
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    return {
        (names[edge["parent"]], edge["name"], names[edge["child"]]): (set(edge["perm"]), set(edge["shared-perm"])) for edge in graph["edges"]
    }


def node(server, name):
    return next(n for n in server.query_named_block_nodes(flat=True) if n["node-name"] == name)


ALL = {"consistent-read", "write", "write-unchanged", "resize"}


@pytest.fixture
def copies(images):
    return [images.create(f"copy{i}.raw", "raw", "1M").fill((0, "1M", 5)) for i in range(3)]


# ---------------------------------------------------------------------- compress


@system_only
def test_compress(server, images):
    disk = images.create("disk.qcow2", "qcow2", "1M")
    server.blockdev_add(driver="qcow2", node_name="d", file=file(disk))
    server.blockdev_add(driver="compress", node_name="c", file="d")
    server.qemu_io("c", "write -P 1 0 128k")
    server.qemu_io("c", "write -P 2 130k 4k")
    server.qemu_io("c", "write -z 64k 64k")
    assert "failed" not in server.qemu_io("c", "read -P 2 130k 4k")
    server.stop()
    disk.read(0, "64k", 1)
    disk.read("64k", "64k", 0)
    disk.read("130k", "4k", 2)
    assert disk.check().get("compressed-clusters") == 2


def test_compress_needs_a_format(server, images):
    raw = images.create("disk.raw", "raw", "1M")
    server.blockdev_add(driver="null-co", node_name="n")
    add = {"driver": "compress", "node-name": "c", "file": "n"}
    assert server.error("blockdev-add", add) == "Compression is not supported for underlying format: null-co"
    add["file"] = {"driver": "raw", "file": file(raw)}
    assert server.error("blockdev-add", add) == "Compression is not supported for underlying format: raw"


@system_only
@pytest.mark.parametrize("passes, filter", [
    (True, {"driver": "throttle", "throttle-group": "g"}), (True, {"driver": "copy-on-read"}),
    *((False, {"driver": name}) for name in ("compress", "preallocate", "raw")),
    (False, {"driver": "blklogwrites", "log": {"driver": "null-co", "size": MiB}}),
    (False, {"driver": "copy-before-write", "target": {"driver": "null-co", "size": MiB}}),
], ids=lambda value: value["driver"] if isinstance(value, dict) else "")  # fmt: skip
def test_compressed_writes_through_a_filter(server, images, passes, filter):
    """From a filter over it, from a job, and by themselves: each to an image of its own."""
    server.execute("object-add", {"qom-type": "throttle-group", "id": "g"})
    server.blockdev_add(driver="raw", node_name="s", file=file(images.create("source.raw", "raw", "1M").fill((0, "1M", 1))))
    disks = [images.create(f"disk{i}.qcow2", "qcow2", "1M") for i in range(3)]
    for i, disk in enumerate(disks):
        server.blockdev_add(node_name=f"f{i}", file={"driver": "qcow2", "file": file(disk)}, **filter)
    over = {"driver": "compress", "node-name": "c", "file": "f0"}
    backup = {"job-id": "job", "device": "s", "target": "f1", "sync": "full", "compress": True}
    if passes:
        server.execute("blockdev-add", over)
        server.qemu_io("c", "write -P 1 0 1M")
        server.execute("blockdev-backup", backup)
        assert "error" not in server.finish_job("job")["data"]
    else:
        assert server.error("blockdev-add", over) == f"Compression is not supported for underlying format: {filter['driver']}"
        assert server.error("blockdev-backup", backup) == "Compression is not supported for this drive "
    said = server.qemu_io("f2", "write -c -P 1 0 1M")
    assert ("Operation not supported" in said) is not passes
    server.stop()
    for disk in disks:
        assert disk.check().get("compressed-clusters", 0) == (16 if passes else 0)
        if passes:
            disk.read(0, "1M", 1)
        else:
            assert disk.own() == []


# ---------------------------------------------------------------------- preallocate


@system_only
def test_preallocate(server, images):
    disk = images.create("disk.qcow2", "qcow2", "10M")
    small = disk.file_size
    server.blockdev_add(
        driver="qcow2", node_name="d", file={"driver": "preallocate", "node-name": "p", "prealloc-size": 20 * MiB, "prealloc-align": 5 * MiB, "file": file(disk)}
    )
    server.qemu_io("d", "write -P 1 0 1M")
    assert disk.file_size == 25 * MiB
    assert node(server, "p")["image"]["virtual-size"] < 3 * MiB
    server.blockdev_del(node_name="d")
    assert small < disk.file_size < 3 * MiB
    server.stop()
    disk.check()
    disk.read(0, "1M", 1)


def test_preallocate_refusals(server, images):
    raw = images.create("disk.raw", "raw", "1M")
    server.blockdev_add(node_name="f", **file(raw))
    add = {"driver": "preallocate", "node-name": "p", "file": "f"}
    assert server.error("blockdev-add", add | {"prealloc-align": 1000}) == "prealloc-align parameter of preallocate filter is not aligned to 512"
    assert server.error("blockdev-add", add | {"prealloc-align": -512}) == "Parameter 'prealloc-align' expects a non-negative number below 2^64"


def test_preallocate_permissions(server, images):
    disk = images.create("disk.qcow2", "qcow2", "1M")
    server.blockdev_add(node_name="f", **file(disk))
    server.blockdev_add(driver="preallocate", node_name="p", file="f")
    assert edges(server)["p", "file", "f"] == (set(), ALL)
    server.blockdev_add(driver="qcow2", node_name="d", file="p")
    assert edges(server)["p", "file", "f"] == ({"consistent-read", "write", "resize"}, {"consistent-read", "write-unchanged"})


# ---------------------------------------------------------------------- quorum


def add_copies(server, copies):
    for i, copy in enumerate(copies):
        server.blockdev_add(node_name=f"c{i}", **file(copy))


def add_quorum(server, count=3, threshold=2, **options):
    options = {key.replace("_", "-"): value for key, value in options.items()}
    server.execute("blockdev-add", {"driver": "quorum", "node-name": "q", "vote-threshold": threshold, "children": [f"c{i}" for i in range(count)], **options})


def test_quorum_is_no_overlay(server, copies):
    add_copies(server, copies)
    add_quorum(server)
    server.blockdev_add(driver="null-co", node_name="disk", size=1 << 20)
    assert server.error("blockdev-snapshot", node="disk", overlay="q") == "The overlay does not support backing images"


@system_only
def test_quorum_outvotes_a_minority(server, copies):
    copies[1].fill(("64k", "64k", 6))
    add_copies(server, copies)
    add_quorum(server)
    assert "failed" not in server.qemu_io("q", "read -P 5 60k 8k")
    event = server.wait_event("QUORUM_REPORT_BAD")["data"]
    assert event == {"node-name": "c1", "type": "read", "sector-num": 120, "sectors-count": 16}
    server.qemu_io("q", "write -P 7 0 4k")
    server.stop()
    for copy in copies:
        copy.read(0, "4k", 7)
    copies[1].read("64k", "64k", 6)


@system_only
@pytest.mark.parametrize("rewrites", [False, True])
def test_quorum_of_equal_halves(server, images, rewrites):
    """The version that was met last counts."""
    copies = [images.create(f"copy{i}.raw", "raw", "1M").fill((0, "64k", value)) for i, value in enumerate([1, 2, 2, 1])]
    add_copies(server, copies)
    add_quorum(server, 4, rewrite_corrupted=rewrites)
    assert "failed" not in server.qemu_io("q", "read -P 2 0 64k")
    assert server.wait_event("QUORUM_REPORT_BAD")["data"]["node-name"] in ("c0", "c3")
    server.stop()
    assert [copy.content()[0] for copy in copies] == ([2] * 4 if rewrites else [1, 2, 2, 1])


@system_only
@pytest.mark.parametrize("first, last, words", [(5, 28, "No space left on device"), (28, 5, "Input/output error")])
def test_quorum_of_equal_errors(server, copies, first, last, words):
    for i, number in enumerate([first, last]):
        rule = {"event": "none", "errno": number, "iotype": "write"}
        server.blockdev_add(driver="blkdebug", node_name=f"c{i}", image=file(copies[i]), inject_error=[rule])
    add_quorum(server, 2, 1)
    assert f"write failed: {words}" in server.qemu_io("q", "write 0 4k")


@system_only
def test_quorum_rewrites(server, copies):
    copies[2].fill(("64k", "64k", 6))
    add_copies(server, copies)
    add_quorum(server, rewrite_corrupted=True)
    assert "failed" not in server.qemu_io("q", "read -P 5 64k 32k")
    server.stop()
    copies[2].read("64k", "32k", 5)
    copies[2].read("96k", "32k", 6)


@system_only
def test_quorum_without_a_majority(server, copies):
    copies[1].fill((0, "64k", 6))
    copies[2].fill((0, "64k", 7))
    add_copies(server, copies)
    add_quorum(server)
    assert "read failed: Input/output error" in server.qemu_io("q", "read 0 4k")
    assert server.wait_event("QUORUM_FAILURE")["data"] == {"reference": "q", "sector-num": 0, "sectors-count": 8}


@system_only
def test_quorum_fifo(server, copies):
    copies[0].fill((0, "64k", 6))
    add_copies(server, copies)
    add_quorum(server, read_pattern="fifo")
    assert "failed" not in server.qemu_io("q", "read -P 6 0 64k")


@system_only
@pytest.mark.parametrize(
    ("iotype", "command", "event"),
    [
        ("read", "read 0 4k", {"type": "read", "sector-num": 0, "sectors-count": 8}),
        ("write", "write -P 1 512 512", {"type": "write", "sector-num": 1, "sectors-count": 1}),
    ],
)
def test_quorum_reports_errors(server, copies, iotype, command, event):
    add_copies(server, copies[:2])
    server.blockdev_add(
        driver="blkdebug", node_name="c2", image=file(copies[2]), inject_error=[{"event": "none", "iotype": iotype, "errno": 28}]
    )
    add_quorum(server)
    server.qemu_io("q", command)
    assert server.wait_event("QUORUM_REPORT_BAD")["data"] == event | {"node-name": "c2", "error": "No space left on device"}


def test_quorum_permissions(server, copies):
    add_copies(server, copies)
    add_quorum(server, rewrite_corrupted=True)
    assert edges(server)["q", "children.0", "c0"][1] == {"consistent-read", "write-unchanged"}
    again = {"driver": "quorum", "node-name": "r", "vote-threshold": 1, "children": ["c0"]}
    assert server.error("blockdev-add", again) == (
        "Permission conflict on node 'c0': permissions 'write' are both required by node 'q' (uses node 'c0' as 'children.0' child) "
        "and unshared by node 'r' (uses node 'c0' as 'children.0' child)."
    )


@pytest.mark.parametrize("options", [{}, {"read-only": True}, {"rewrite-corrupted": True}], ids=str)
def test_quorum_over_what_others_write(server, images, options):
    """Each child is taken as the quorum will hold it: what it forbids is told whole, and the first conflict at once."""
    for name in ("a", "b"):
        storage = {"driver": "file", "node-name": f"{name}-file", "filename": str(images.create(name, size="1M").path)}
        server.execute("blockdev-add", {"driver": "qcow2", "node-name": name, "file": storage})
    add = {"driver": "quorum", "node-name": "q", "vote-threshold": 1, **options}
    assert server.error("blockdev-add", {**add, "children": ["a", "b-file"]}) == (
        "Permission conflict on node 'b-file': permissions 'write, resize' are both required by node 'b' (uses node 'b-file' as "
        "'file' child) and unshared by node 'q' (uses node 'b-file' as 'children.1' child)."
    )
    server.execute("blockdev-add", {**add, "children": ["a"]})
    again = server.try_execute("blockdev-add", {**add, "node-name": "r", "children": ["a", "b-file"]})
    assert (f"on node '{'a' if 'rewrite-corrupted' in options else 'b-file'}'") in again.desc


@pytest.mark.parametrize(
    ("count", "threshold", "options", "text"),
    [
        (0, 1, {}, "Number of provided children must be 1 or more"),
        (3, 0, {}, "Parameter 'vote-threshold' expects a value >= 1"),
        (3, -1, {}, "Parameter 'vote-threshold' expects a value >= 1"),
        (3, 4, {}, "threshold may not exceed children count"),
        (3, 2, {"blkverify": True}, "blkverify=on can only be set if there are exactly two files and vote-threshold is 2"),
        (2, 2, {"blkverify": True, "rewrite-corrupted": True}, "rewrite-corrupted=on cannot be used with blkverify=on"),
    ],
)
def test_quorum_refusals(server, copies, count, threshold, options, text):
    add_copies(server, copies)
    add = {"driver": "quorum", "node-name": "q", "vote-threshold": threshold, "children": [f"c{i}" for i in range(count)], **options}
    assert server.error("blockdev-add", add) == text


def test_quorum_children_come_and_go(server, copies, images):
    add_copies(server, copies)
    server.blockdev_add(node_name="c3", **file(images.create("copy3.raw", "raw", "1M").fill((0, "1M", 5))))
    add_quorum(server)
    server.x_blockdev_change(parent="q", node="c3")
    server.x_blockdev_change(parent="q", child="children.0")
    assert {key[1] for key in edges(server) if key[0] == "q"} == {"children.1", "children.2", "children.3"}
    assert server.error("x-blockdev-change", {"parent": "q", "node": "c1"}) == "The node c1 already has a parent"
    server.x_blockdev_change(parent="q", child="children.3")
    assert server.error("x-blockdev-change", {"parent": "q", "child": "children.1"}) == (
        "The number of children cannot be lower than the vote threshold 2"
    )
    server.x_blockdev_change(parent="q", node="c0")
    assert {key[1] for key in edges(server) if key[0] == "q"} == {"children.1", "children.2", "children.3"}
    assert str(copies[0].path) in node(server, "q")["file"]


@system_only
@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("size", ["512k", "2M"])
def test_quorum_takes_a_child_of_another_size(server, copies, images, format, size):
    """The disk stays as long as it was, for those who look and for those who are put over it."""
    add_copies(server, copies)
    other = images.create("other", format, size).fill((0, "512k", 5))
    server.blockdev_add(driver=format, node_name="c3", file={"driver": "file", "filename": str(other.path)})
    add_quorum(server)
    server.x_blockdev_change(parent="q", node="c3")
    assert node(server, "q")["image"]["virtual-size"] == MiB
    server.blockdev_add(driver="raw", node_name="above", file="q")
    assert node(server, "above")["image"]["virtual-size"] == MiB
    assert "failed" not in server.qemu_io("above", "read -P 5 0 512k")
    assert "failed" not in server.qemu_io("above", "write -P 6 0 64k")
    assert "failed" not in server.qemu_io("above", "read -P 6 0 64k")


@system_only
@pytest.mark.differs("writes behind the end of a copy: an assertion", server="qemu")
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_quorum_writes_behind_the_end_of_a_shorter_child(server, copies, images, format):
    add_copies(server, copies)
    other = images.create("other", format, "512k")
    server.blockdev_add(driver=format, node_name="c3", file={"driver": "file", "filename": str(other.path)})
    add_quorum(server)
    server.x_blockdev_change(parent="q", node="c3")
    assert "failed" not in server.qemu_io("q", "write -P 7 768k 64k")
    assert server.wait_event("QUORUM_REPORT_BAD")["data"]["node-name"] == "c3"
    assert node(server, "c3")["image"]["virtual-size"] == MiB // 2
    assert "failed" not in server.qemu_io("q", "read -P 7 768k 64k")


@system_only
def test_which_node_takes_no_children(start):
    """The name is the drive's where the node is one's root; what is said of the child takes the name that was given."""
    drive = ("-drive", "if=none,id=drive,node-name=root,driver=raw,file.driver=null-co", "-drive", "if=none,id=bare,driver=raw,file.driver=null-co")
    server = start(*drive, "-blockdev", "raw,node-name=r,file.driver=null-co", "-blockdev", "null-co,node-name=n")
    for parent, name in (("drive", "drive"), ("root", "drive"), ("bare", "bare"), ("r", "r")):
        assert server.error("x-blockdev-change", parent=parent, node="n") == f"The node {name} does not support adding a child"
        assert server.error("x-blockdev-change", parent=parent, child="file") == f"The node {name} does not support removing a child"
        assert server.error("x-blockdev-change", parent=parent, child="nope") == f"Node '{parent}' does not have child 'nope'"


def test_only_preallocate_is_reopened(server, copies):
    add_copies(server, copies)
    server.blockdev_add(driver="preallocate", node_name="p", file="c0")
    options = {"driver": "preallocate", "node-name": "p", "file": "c0", "prealloc-size": MiB, "prealloc-align": 512}
    server.execute("blockdev-reopen", {"options": [options]})
    text = "Option 'prealloc-align' cannot be reset to its default value"
    assert server.error("blockdev-reopen", {"options": [{"driver": "preallocate", "node-name": "p", "file": "c0"}]}) == text
    for driver, children in (("copy-on-read", {"file": "c1"}), ("blkverify", {"raw": "c1", "test": "c2"}),
                             ("quorum", {"children": ["c1", "c2"], "vote-threshold": 2})):
        options = {"driver": driver, "node-name": driver, **children}
        server.execute("blockdev-add", options)
        assert server.error("blockdev-reopen", {"options": [options]}) == (
            f"Block format '{driver}' used by node '{driver}' does not support reopening files"
        )
        server.blockdev_del(node_name=driver)


def test_quorum_reports(server, copies):
    add_copies(server, copies)
    add_quorum(server, read_pattern="fifo")
    quorum = node(server, "q")
    stats = {entry["node-name"]: entry for entry in server.query_blockstats(query_nodes=True) if "node-name" in entry}
    assert "parent" not in stats["q"]
    assert quorum["drv"] == "quorum" and quorum["image"]["virtual-size"] == MiB
    assert quorum["image"]["actual-size"] == sum(node(server, f"c{i}")["image"]["actual-size"] for i in range(3))
    assert "dirty-flag" not in quorum["image"] and "cluster-size" not in quorum["image"]
    children = ", ".join('{"driver": "file", "filename": "%s"}' % copy.path for copy in copies)
    assert quorum["file"] == 'json:{"read-pattern": "fifo", "children": [%s], "driver": "quorum", "vote-threshold": 2}' % children


@system_only
def test_quorum_drive(start, copies):
    options = ",".join(f"children.{i}.driver=raw,children.{i}.file.filename={copy.path}" for i, copy in enumerate(copies))
    server = start("-drive", f"if=none,id=d0,driver=quorum,vote-threshold=2,{options}")
    assert "failed" not in server.qemu_io("d0", "read -P 5 0 64k")
    edge = next(found for key, found in edges(server).items() if key[1] == "children.0")
    assert edge == ({"consistent-read"}, {"consistent-read", "write-unchanged"})


# ---------------------------------------------------------------------- blkverify


@system_only
def test_blkverify(server, copies):
    add_copies(server, copies)
    server.blockdev_add(driver="blkverify", node_name="v", raw="c0", test="c1")
    assert "failed" not in server.qemu_io("v", "read -P 5 0 1M")
    server.qemu_io("v", "write -P 6 1k 4k")
    verify = node(server, "v")
    assert verify["file"] == f"blkverify:{copies[0].path}:{copies[1].path}"
    assert "actual-size" not in verify["image"]
    assert edges(server)["v", "raw", "c0"] == (set(), ALL)
    assert edges(server)["v", "test", "c1"] == (set(), ALL - {"resize"})
    server.stop()
    for copy in copies[:2]:
        copy.read("1k", "4k", 6)


@system_only
def test_formats_are_found_through_filters(start, images):
    disk = images.create("disk.qcow2", "qcow2", "1M")
    raw = images.create("copy.raw", "raw", "1M")
    for storage, driver, name in (
        (f"file.driver=blkdebug,file.image.filename={disk.path}", "qcow2", f"blkdebug::{disk.path}"),
        (f"file.driver=blkverify,file.raw.filename={raw.path},file.test.file.filename={disk.path}", "raw", f"blkverify:{raw.path}:{disk.path}"),
        (f"file=blkverify:{raw.path}:{disk.path}", "raw", f"blkverify:{raw.path}:{disk.path}"),
    ):
        server = start("-drive", f"if=none,id=d0,{storage}")
        inserted = server.query_block()[0]["inserted"]
        assert (inserted["drv"], inserted["file"]) == (driver, name)
        server.stop()


# ---------------------------------------------------------------------- blklogwrites


def entries(log):
    """(first sector, sectors, flags, data) of what the log's superblock vouches for."""
    data = log.path.read_bytes()
    magic, version, count, sector = struct.unpack_from("<QQQI", data)
    assert (magic, version) == (0x6A736677736872, 1)
    at, result = sector, []
    for _ in range(count):
        first, sectors, flags, _ = struct.unpack_from("<QQQQ", data, at)
        at += sector
        length = 0 if flags & 4 else sectors * sector
        result.append((first, sectors, flags, data[at : at + length]))
        at += length
    return result


@system_only
def test_blklogwrites(server, copies, images):
    log = images.create("log.raw", "raw", 0)
    server.blockdev_add(node_name="d", discard="unmap", **file(copies[0]))
    server.blockdev_add(node_name="l", **file(log))
    server.blockdev_add(driver="blklogwrites", node_name="b", file="d", log="l", discard="unmap")
    assert edges(server)["b", "file", "d"] == (set(), ALL)
    assert edges(server)["b", "log", "l"] == ({"consistent-read", "write", "resize"}, {"consistent-read", "write-unchanged"})
    server.qemu_io("b", "write -P 7 4k 1k")
    server.qemu_io("b", "write -z 8k 512")
    server.qemu_io("b", "discard 16k 4k")
    server.qemu_io("b", "flush")
    server.stop()
    found = entries(log)
    assert found[:3] == [(8, 2, 0, b"\7" * 1024), (16, 1, 0, bytes(512)), (32, 8, 4, b"")]
    assert found[3:] and all(entry == (0, 0, 1, b"") for entry in found[3:])


def test_blklogwrites_shares_its_log_as_its_parents_share_it(server, copies, images):
    log = images.create("log.raw", "raw", 0)
    server.blockdev_add(node_name="d", **file(copies[0]))
    server.blockdev_add(node_name="l", **file(log))
    server.blockdev_add(driver="blklogwrites", node_name="b", file="d", log="l")
    server.blockdev_add(driver="null-co", node_name="source", size=MiB)
    server.execute("blockdev-mirror", {"job-id": "j", "device": "source", "target": "b", "sync": "none"})
    assert edges(server)["b", "log", "l"] == ({"consistent-read", "write", "resize"}, {"write-unchanged"})


@system_only
def test_zeroes_pass_a_filter_in_one_piece(server, images):
    """Discards come in pieces that fit the clusters below it."""
    log = images.create("log.raw", "raw", 0)
    server.blockdev_add(driver="qcow2", node_name="d", discard="unmap", file=file(images.create("disk.qcow2", size="1M")))
    server.blockdev_add(node_name="l", **file(log))
    server.blockdev_add(driver="blklogwrites", node_name="b", file="d", log="l", discard="unmap")
    server.qemu_io("b", "write -z 1k 200k")
    server.qemu_io("b", "discard 301k 200k")
    server.stop()
    assert [entry[:3] for entry in entries(log)][:4] == [(2, 400, 0), (602, 38, 4), (640, 256, 4), (896, 106, 4)]


@system_only
def test_blklogwrites_goes_on(start, copies, images):
    log = images.create("log.raw", "raw", 0)
    for options in ({"log-sector-size": 4096}, {"log-append": True}):
        server = start()
        server.execute("blockdev-add", {"driver": "blklogwrites", "node-name": "b", "file": file(copies[0]), "log": file(log), **options})
        server.qemu_io("b", "write -P 7 8k 4k")
        server.qemu_io("b", "flush")
        server.stop()
    assert [entry for entry in entries(log) if entry[2] == 0] == [(2, 1, 0, b"\7" * 4096)] * 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"log-sector-size": 1000}, "Invalid log sector size 1000"),
        ({"log-sector-size": 16}, "Invalid log sector size 16"),
        ({"log-sector-size": 16777216}, "Invalid log sector size 16777216"),
        ({"log-super-update-interval": 0}, "Invalid log superblock update interval 0"),
        ({"log-append": True, "log-sector-size": 512}, "log-append and log-sector-size are mutually exclusive"),
    ],
)
def test_blklogwrites_refusals(server, copies, images, options, text):
    log = images.create("log.raw", "raw", 0)
    add = {"driver": "blklogwrites", "node-name": "b", "file": file(copies[0]), "log": file(log), **options}
    assert server.error("blockdev-add", add) == text
