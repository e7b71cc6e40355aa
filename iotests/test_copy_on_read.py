"""copy-on-read: what was read from a backing file is kept in the overlay, by the filter and by -drive copy-on-read=on."""

import pytest

system_only = pytest.mark.manners("system")

PATTERN = [(0, "64k", 1), ("64k", "64k", 2), ("256k", "128k", 3)]


@pytest.fixture
def chain(images):
    """base, mid and top, each backed by the one before; base and mid hold data."""
    base = images.create("base.qcow2", "qcow2", "1M").fill(*PATTERN)
    mid = images.create("mid.qcow2", "qcow2", "1M", backing=base).fill(("512k", "64k", 4))
    top = images.create("top.qcow2", "qcow2", "1M", backing=mid)
    return base, mid, top


def add_chain(server, chain):
    base, mid, top = chain
    for name, image, backing in (("base", base, None), ("mid", mid, "base"), ("top", top, "mid")):
        options = {"backing": backing} if backing else {}
        server.blockdev_add(
            driver="qcow2", node_name=name, read_only=name != "top", file={"driver": "file", "filename": str(image.path)}, **options
        )


def add_filter(server, name="cor", file="top", **options):
    server.blockdev_add(driver="copy-on-read", node_name=name, file=file, **options)


def kept(image):
    """Where the image itself holds something."""
    return [(run["start"], run["length"]) for run in image.map() if run["depth"] == 0 and run["present"]]


def edges(server):
    graph = server.x_debug_query_block_graph()
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    return {
        (names[edge["parent"]], edge["name"], names[edge["child"]]): (set(edge["perm"]), set(edge["shared-perm"])) for edge in graph["edges"]
    }


@system_only
def test_what_is_read_is_kept(server, chain):
    add_chain(server, chain)
    add_filter(server)
    assert "failed" not in server.qemu_io("cor", "read -P 1 1k 1k")
    assert "failed" not in server.qemu_io("cor", "read -P 4 512k 64k")
    assert "failed" not in server.qemu_io("cor", "read -P 0 900k 1k")
    server.stop()
    assert kept(chain[2]) == [(0, 65536), (512 * 1024, 65536), (896 * 1024, 65536)]
    chain[2].check()


@system_only
def test_writes_stay_what_they_are(server, chain):
    add_chain(server, chain)
    add_filter(server)
    server.qemu_io("cor", "write -P 9 4k 4k")
    assert "failed" not in server.qemu_io("cor", "read -P 9 4k 4k")
    assert "failed" not in server.qemu_io("cor", "read -P 1 8k 56k")
    server.stop()
    assert kept(chain[2]) == [(0, 65536)]


@system_only
def test_bottom(server, chain):
    add_chain(server, chain)
    add_filter(server, bottom="mid")
    assert "failed" not in server.qemu_io("cor", "read 0 1M")
    server.stop()
    assert kept(chain[2]) == [(512 * 1024, 65536)]


def test_bottom_is_checked(server, chain):
    add_chain(server, chain)
    add = {"driver": "copy-on-read", "node-name": "c", "file": "top"}
    assert server.error("blockdev-add", add | {"bottom": "nobody"}) == "Bottom node 'nobody' not found"
    # It has its name before it is open.
    assert server.error("blockdev-add", add | {"bottom": "c"}) == "Bottom node 'c' is a filter"
    add_filter(server)
    assert server.error("blockdev-add", add | {"bottom": "cor"}) == "Bottom node 'cor' is a filter"


@pytest.mark.differs("QEMU never answers", server="qemu")
def test_bottom_is_in_the_chain(server, chain, target):
    if target.kind == "qemu":
        pytest.fail("it would have to be killed")
    add_chain(server, chain)
    server.blockdev_add(driver="null-co", node_name="other")
    add = {"driver": "copy-on-read", "node-name": "c", "file": "top", "bottom": "other"}
    assert server.error("blockdev-add", add) == "Bottom node 'other' is not in the chain of 'top'"


def test_permissions(server, chain):
    add_chain(server, chain)
    add_filter(server)
    everything = {"consistent-read", "write", "write-unchanged", "resize"}
    assert edges(server)["cor", "file", "top"] == ({"write-unchanged"}, everything)
    assert server.error("blockdev-add", {"driver": "copy-on-read", "node-name": "c", "file": "mid"}) == "Block node is read-only"
    assert server.error("blockdev-add", {"driver": "copy-on-read", "node-name": "c", "file": "mid", "read-only": True}) == "Block node is read-only"


def test_the_chain_down_to_the_bottom_is_frozen(server, chain):
    add_chain(server, chain)
    add_filter(server, bottom="base")
    again = {"driver": "copy-on-read", "node-name": "c", "file": "cor", "bottom": "base"}
    assert server.error("blockdev-add", again) == "Cannot change 'file' link from 'cor' to 'top'"
    server.blockdev_del(node_name="cor")
    add_filter(server, "again")


@pytest.mark.differs("aborts when the backup ends", server="qemu")
def test_a_filter_that_a_job_takes_out_is_not_frozen(server, images, chain):
    add_chain(server, chain)
    server.add_image("copy", images.create("copy.raw", "raw", "1M"))
    server.blockdev_backup(job_id="job", device="mid", target="copy", sync="full", auto_finalize=False, filter_node_name="filter")
    server.wait_job("job", "pending")
    frozen = {"driver": "copy-on-read", "node-name": "cor", "file": "top", "bottom": "base"}
    assert server.error("blockdev-add", frozen) == "Cannot freeze 'backing' link to 'filter'"
    server.job_finalize(id="job")
    server.finish_job("job")
    server.blockdev_add(frozen)


@system_only
@pytest.mark.differs("aborts", server="qemu")
def test_a_frozen_layer_is_not_committed(start, images, chain):
    server = start("-drive", f"if=none,id=d,node-name=top,driver=qcow2,file.driver=file,file.filename={chain[2]}")
    (mid,) = (node["node-name"] for node in server.query_named_block_nodes(flat=True)
              if node["drv"] == "qcow2" and node["file"] == str(chain[1]))
    add_filter(server, bottom=mid)
    assert server.hmp("commit d") == "'commit' error for 'd': Device or resource busy\n"
    server.blockdev_del(node_name="cor")
    assert server.hmp("commit d") == ""


def test_reports(server, chain):
    add_chain(server, chain)
    add_filter(server, bottom="mid")
    node = next(n for n in server.query_named_block_nodes(flat=True) if n["node-name"] == "cor")
    assert node["drv"] == "copy-on-read" and not node["ro"] and node["backing_file_depth"] == 0
    assert node["image"]["cluster-size"] == 65536 and "format-specific" not in node["image"]
    assert node["file"] == (
        'json:{"driver": "copy-on-read", "file": {"driver": "qcow2", "file": {"driver": "file", "filename": "' + str(chain[2].path) + '"}}}'
    )


@system_only
def test_drive(start, chain):
    server = start("-drive", f"if=none,id=d0,node-name=n,file={chain[2].path},format=qcow2,copy-on-read=on")
    assert [node["drv"] for node in server.query_named_block_nodes(flat=True) if node["node-name"] == "n"] == ["qcow2"]
    server.qemu_io("d0", "read 64k 1k")
    server.stop()
    assert kept(chain[2]) == [(65536, 65536)]


@system_only
def test_drive_without_backing_file(start, images):
    disk = images.create("disk.qcow2", "qcow2", "1M")
    server = start("-drive", f"if=none,id=d0,file={disk.path},format=qcow2,copy-on-read=on")
    server.qemu_io("d0", "read 0 64k")
    server.stop()
    assert [run for run in disk.map() if run["present"]] == [
        {"start": 0, "length": 65536, "depth": 0, "present": True, "zero": True, "data": False}
    ]


@system_only
def test_read_only_drive(start, chain):
    server = start("-drive", f"if=none,id=d0,file={chain[2].path},format=qcow2,copy-on-read=on,read-only=on")
    server.qemu_io("d0", "read 64k 1k")
    server.stop()
    assert "warning: disabling copy-on-read on read-only drive" in server.stderr
    assert kept(chain[2]) == []


def test_nothing_comes_into_a_frozen_chain(server, images):
    """Whoever takes the place of a node below a copy-on-read filter with `bottom` is refused in the same words."""
    base = images.create("base.qcow2", size="1M")
    top = images.create("top.qcow2", size=None, backing=base)
    server.add_image("base", base)
    server.add_image("top", top, backing="base")
    server.blockdev_add(driver="copy-on-read", node_name="cor", file="top", bottom="top")
    server.blockdev_add(driver="null-co", node_name="copy", size=1 << 20)
    server.add_image("overlay", images.create("overlay.qcow2", size="1M"), backing=None)
    before = server.execute("x-debug-query-block-graph")
    assert server.error("blockdev-backup", job_id="j", device="top", target="copy", sync="full") == (
        "Could not replace node: Cannot change 'file' link to 'top'")
    assert server.error("blockdev-snapshot", node="top", overlay="overlay") == "Cannot change 'file' link to 'top'"
    assert server.execute("x-debug-query-block-graph") == before
