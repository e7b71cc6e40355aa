"""blockdev-reopen: other options for nodes that are in use, all of them or none."""

import copy
import os

import pytest

from blockbed_iotests import qemu_img, qemu_io

MIB = 1 << 20


def file(image, name=None, **options):
    node = {"driver": "file", "filename": str(image.path), **options}
    return {"node-name": name, **node} if name else node


def qcow2(image, name, **options):
    """The node `name` over `name-file`."""
    more = {key.replace("_", "-"): value for key, value in options.items()}
    return {"driver": "qcow2", "node-name": name, "file": file(image, f"{name}-file"), **more}


@pytest.fixture
def disks(images):
    """Three qcow2 images without a backing file; each holds its own byte in its own third."""
    made = {}
    for index in range(3):
        made[index] = images.create(f"{index}.qcow2", size="3M").fill((f"{index}M", "1M", 0xA0 + index))
    return made


@pytest.fixture
def chain(images):
    """base.qcow2 <- top.qcow2."""
    base = images.create("base.qcow2", size="1M").fill((0, "1M", 0xBA))
    return {"base": base, "top": images.create("top.qcow2", size=None, backing=base)}


def reopen(server, *options):
    server.blockdev_reopen(options=list(options))


def refused(server, *options):
    """The error of a reopen that changes nothing."""
    before = graph(server)
    text = server.error("blockdev-reopen", options=list(options))
    assert graph(server) == before
    return text


def graph(server):
    nodes = {node["node-name"]: {**node, "image": None} for node in server.query_named_block_nodes()}
    return server.x_debug_query_block_graph(), nodes


def edges(server):
    shown = server.x_debug_query_block_graph()
    names = {node["id"]: node["name"] for node in shown["nodes"]}
    return {(names[edge["parent"]], edge["name"], names[edge["child"]]) for edge in shown["edges"]}


def read(server, node, *runs):
    """What the node shows: (megabyte, byte) pairs."""
    server.block_export_add(type="nbd", id="reader", node_name=node, name="reader")
    with server.nbd("reader") as nbd:
        for megabyte, byte in runs:
            assert nbd.pread(MIB, megabyte * MIB) == bytes([byte]) * MIB, f"{node}, megabyte {megabyte}"
    server.block_export_del(id="reader", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")


# ---------------------------------------------------------------------- one node


def test_the_same_options_change_nothing(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    before = graph(server)
    reopen(server, options)
    reopen(server, {**options, "file": "q-file"})
    del options["file"]["node-name"]
    reopen(server, options)
    assert graph(server) == before


def test_generic_options_and_their_defaults(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    before = graph(server)
    reopen(server, {**options, "read-only": True, "detect-zeroes": "on", "cache": {"no-flush": True}})
    node = server.query_node("q")
    assert (node["ro"], node["detect_zeroes"], node["cache"]["no-flush"]) == (True, "on", True)
    # What is said of the node is said of what it brought along.
    assert server.query_node("q-file")["ro"] and server.query_node("q-file")["cache"]["no-flush"]
    reopen(server, options)
    assert graph(server) == before


def test_storage_of_its_own_may_be_named_at_any_depth(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    reopen(server, {**options, "file": {**options["file"], "cache": {"no-flush": True}}})
    assert not server.query_node("q")["cache"]["no-flush"] and server.query_node("q-file")["cache"]["no-flush"]


@pytest.mark.parametrize(
    "change, error",
    [
        ({"node-name": "none"}, "Failed to find node with node-name='none'"),
        ({"driver": "raw"}, "Cannot change the option 'driver'"),
        ({"file": "none"}, "Cannot find device='' nor node-name='none'"),
        ({"file": ""}, "Cannot find device='' nor node-name=''"),
        ({"file": "q"}, "Making 'q' a file child of 'q' would create a cycle"),
        ({"file.node-name": "new"}, "Cannot change the option 'node-name'"),
        ({"file.driver": "host_device"}, "Cannot change the option 'driver'"),
        ({"file.filename": "/dev/null"}, "Cannot change the option 'filename'"),
        ({"file.locking": "off"}, "Cannot change the option 'locking'"),
        ({"force-share": True}, "Cannot change the option 'force-share'"),
        ({"detect-zeroes": "unmap"}, "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"),
        ({"backing": "none"}, "Cannot find device='' nor node-name='none'"),
        ({"backing": "q"}, "Making 'q' a backing child of 'q' would create a cycle"),
        ({"l2-cache-size": 1 << 20, "cache-size": 1 << 19}, "l2-cache-size may not exceed cache-size"),
    ],
)
def test_refused(server, disks, change, error):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    changed = copy.deepcopy(options)
    for key, value in change.items():
        where = changed
        *path, last = key.split(".")
        for step in path:
            where = where[step]
        where[last] = value
    assert refused(server, changed) == error


def test_a_node_must_be_named(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    del options["node-name"]
    assert refused(server, options) == "node-name not specified"


@pytest.mark.differs("QEMU aborts", server="qemu")
def test_no_node_at_all(server):
    reopen(server)


def test_what_cannot_be_reset(server, disks):
    image = disks[0]
    options = {"driver": "qcow2", "node-name": "q", "file": file(image, "f", locking="off")}
    server.execute("blockdev-add", options)
    without = {"driver": "qcow2", "node-name": "q", "file": file(image, "f")}
    assert refused(server, without) == "Option 'locking' cannot be reset to its default value"
    assert refused(server, {**without, "file": file(image, locking="on")}) == "Cannot change the option 'locking'"
    reopen(server, {**without, "file": file(image, locking="off")})


@pytest.mark.parametrize(
    "options",
    [
        {"lazy-refcounts": True},
        {"overlap-check": "none"},
        {"overlap-check": {"template": "all", "main-header": False}},
        {"pass-discard-request": True, "pass-discard-snapshot": False, "pass-discard-other": True},
        {"cache-size": 1 << 21, "l2-cache-size": 1 << 20, "l2-cache-entry-size": 4096},
        {"cache-clean-interval": 7},
    ],
)
def test_options_of_qcow2_while_it_is_written(server, disks, options):
    plain = qcow2(disks[0], "q")
    server.execute("blockdev-add", plain)
    server.nbd_start()
    with server.export("q", writable=True) as nbd:
        for number, now in enumerate(({**plain, **options}, plain, {**plain, **options})):
            nbd.pwrite(bytes([number + 1]) * MIB, MIB)
            reopen(server, now)
            assert nbd.pread(MIB, MIB) == bytes([number + 1]) * MIB
            nbd.pwrite(bytes([number + 0x10]) * 65536, 2 * MIB)
    server.stop()
    disks[0].check()
    disks[0].read(0, "1M", 0xA0)
    disks[0].read("1M", "1M", 3)
    disks[0].read("2M", "64k", 0x12)


def test_window_of_raw(server, images):
    image = images.create("r.raw", "raw", "2M").fill((0, "1M", 1), ("1M", "1M", 2))
    options = {"driver": "raw", "node-name": "r", "file": file(image, "f")}
    server.execute("blockdev-add", options)
    server.nbd_start()
    read(server, "r", (0, 1), (1, 2))
    reopen(server, {**options, "offset": MIB})
    read(server, "r", (0, 2))
    assert server.query_node("r")["file"].startswith("json:")
    assert refused(server, {**options, "offset": 3 * MIB}).startswith(f"Offset ({3 * MIB}) cannot be greater than")
    assert refused(server, {**options, "size": 100}) == "Specified size is not multiple of 512"
    reopen(server, options)
    read(server, "r", (0, 1), (1, 2))
    assert server.query_node("r")["file"] == str(image.path)


@pytest.mark.parametrize(
    "driver, options, change, error",
    [
        ("null-co", {"size": 1024}, {"size": 2048}, "Cannot change the option 'size'"),
        ("null-co", {"size": 1024}, {"latency-ns": 0}, "Cannot change the option 'latency-ns'"),
        ("blkdebug", {"image": "n"}, {"image": "m"}, "Cannot change the option 'image'"),
        ("blkdebug", {"image": "n"}, {"align": 512}, "Cannot change the option 'align'"),
        ("blkdebug", {"image": "n"}, {"inject-error": [{"event": "l2_load"}]}, "Cannot change the option 'inject-error.0.event'"),
    ],
)
def test_drivers_whose_options_stay(server, driver, options, change, error):
    for name in ("n", "m"):
        server.blockdev_add(driver="null-co", node_name=name)
    node = {"driver": driver, "node-name": "x", **options}
    server.execute("blockdev-add", node)
    reopen(server, node)
    reopen(server, {**node, "read-only": True})
    assert server.query_node("x")["ro"]
    assert refused(server, {**node, **change}) == error


def test_list_that_is_left_out(server):
    server.blockdev_add(driver="null-co", node_name="n")
    node = {"driver": "blkdebug", "node-name": "x", "image": "n"}
    server.execute("blockdev-add", {**node, "inject-error": [{"event": "l2_load"}, {"event": "l1_update", "once": True}]})
    assert refused(server, node) == "Option 'inject-error.1.once' cannot be reset to its default value"


def test_another_throttle_group(server):
    for name in ("one", "two"):
        server.object_add({"qom-type": "throttle-group", "id": name, "limits": {"iops-total": 1000}})
    node = {"driver": "throttle", "node-name": "x", "throttle-group": "one", "file": {"driver": "null-co", "node-name": "n"}}
    server.execute("blockdev-add", node)
    assert refused(server, {**node, "throttle-group": "none"}) == "Throttle group 'none' does not exist"
    reopen(server, {**node, "throttle-group": "two", "file": "n"})
    assert server.error("object-del", id="two") == "object 'two' is in use, can not be deleted"
    server.object_del(id="one")


def test_what_cannot_be_flushed(server, images):
    image = images.create("disk.raw", "raw", MIB)
    server.blockdev_add(driver="blkdebug", node_name="storage", image=file(image),
                        inject_error=[{"event": "none", "errno": 28, "iotype": "flush"}])
    node = {"driver": "raw", "node-name": "disk", "file": "storage"}
    server.execute("blockdev-add", node)
    with server.export("disk", writable=True) as nbd:
        nbd.pwrite(b"x", 0)
    assert refused(server, node) == "Error flushing drive: No space left on device"


@pytest.mark.parametrize("node, changes", [
    ({"driver": "copy-before-write", "file": "n", "target": "m", "on-cbw-error": "break-snapshot"},
     [{}, {"on-cbw-error": "break-guest-write"}, {"on-cbw-error": None}, {"cbw-timeout": 3}, {"bitmap": {"node": "n", "name": "b"}},
      {"read-only": True}, {"file": "o"}, {"target": "o"}]),
    ({"driver": "blkverify", "test": "n", "raw": "m"}, [{}, {"raw": "o"}]),
    ({"driver": "blklogwrites", "file": "n", "log": "m"}, [{}, {"log-append": True}]),
    ({"driver": "quorum", "children": ["n", "m"], "vote-threshold": 1}, [{}, {"vote-threshold": 2}, {"children": ["n", "o"]}]),
    ({"driver": "copy-on-read", "file": "n"}, [{}, {"bottom": "n"}]),
], ids=lambda part: part["driver"] if "driver" in part else "")
def test_drivers_that_cannot(server, node, changes):
    """Whatever is asked of them."""
    for name in ("n", "m", "o"):
        server.blockdev_add(driver="null-co", node_name=name)
    server.block_dirty_bitmap_add(node="n", name="b")
    node = {**node, "node-name": "x"}
    server.execute("blockdev-add", node)
    for change in changes:
        options = {name: value for name, value in {**node, **change}.items() if value is not None}
        assert refused(server, options) == f"Block format '{node['driver']}' used by node 'x' does not support reopening files"


# ---------------------------------------------------------------------- reading and writing


def test_writers_keep_it_writable(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    server.nbd_start()
    with server.export("q", writable=True) as nbd:
        assert refused(server, {**options, "read-only": True}) == "Read-only block node 'q' cannot support read-write users"
        assert refused(server, file(disks[0], "q-file", **{"read-only": True})) == (
            "Read-only block node 'q-file' cannot support read-write users"
        )
        nbd.pwrite(b"x" * 65536, 0)
    server.stop()
    disks[0].check()
    disks[0].read(0, "64k", ord("x"))


def test_a_reader_becomes_a_writer(server, disks):
    options = qcow2(disks[0], "q", read_only=True)
    server.execute("blockdev-add", options)
    server.nbd_start()
    assert server.error("block-export-add", type="nbd", id="e", node_name="q", writable=True) == (
        "Cannot export read-only node as writable"
    )
    del options["read-only"]
    reopen(server, options)
    with server.export("q", writable=True) as nbd:
        nbd.pwrite(b"y" * 65536, MIB)
    server.stop()
    disks[0].check()
    disks[0].read("1M", "64k", ord("y"))


def test_storage_of_others_is_not_touched(server, disks):
    storage = file(disks[0], "f", **{"read-only": True})
    server.execute("blockdev-add", storage)
    options = {"driver": "qcow2", "node-name": "q", "file": "f", "read-only": True}
    server.execute("blockdev-add", options)
    del options["read-only"], storage["read-only"]
    assert refused(server, options) == "Block node is read-only"
    reopen(server, options, storage)
    assert not server.query_node("q")["ro"] and not server.query_node("f")["ro"]


def test_other_processes_see_what_is_taken(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    reopen(server, {**options, "read-only": True})
    # Readers share with readers, and with no writer.
    qemu_img("info", disks[0].path)
    with pytest.raises(AssertionError, match='Failed to get "write" lock'):
        qemu_io(disks[0].path, "write 0 4k", format="qcow2")
    reopen(server, options)
    with pytest.raises(AssertionError, match="lock"):
        qemu_img("info", disks[0].path)


def test_a_file_that_cannot_be_written(server, images):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    image = images.create("r.raw", "raw", "1M")
    os.chmod(image.path, 0o444)
    options = file(image, "f", **{"read-only": True})
    server.execute("blockdev-add", options)
    del options["read-only"]
    assert "Permission denied" in refused(server, options)


# ---------------------------------------------------------------------- children


def test_the_backing_file_must_be_said(server, chain):
    options = qcow2(chain["top"], "top")
    server.execute("blockdev-add", options)
    assert refused(server, options) == "backing is missing for 'top'"
    reopen(server, {**options, "backing": None})
    assert "backing-image" not in server.query_node("top")["image"]
    # The image names one.
    assert refused(server, options) == "backing is missing for 'top'"
    server.execute("blockdev-add", qcow2(chain["base"], "base"))
    reopen(server, {**options, "backing": "base"})
    assert server.query_node("top")["image"]["backing-image"]["filename"] == str(chain["base"].path)
    # It is not the node's own any more.
    assert refused(server, {**options, "backing": qcow2(chain["base"], "base")}) == "Cannot change the option 'backing.driver'"
    server.nbd_start()
    read(server, "top", (0, 0xBA))


def test_named_children_keep_what_they_have(server, chain):
    inner = qcow2(chain["base"], "base", detect_zeroes="on")
    options = qcow2(chain["top"], "top", detect_zeroes="on", backing=inner)
    server.execute("blockdev-add", options)
    reopen(server, {"driver": "qcow2", "node-name": "top", "file": "top-file", "backing": "base"})
    assert server.query_node("top")["detect_zeroes"] == "off"
    assert server.query_node("base")["detect_zeroes"] == "on"


def test_data_follows_the_graph(server, disks):
    options = [qcow2(disks[index], f"hd{index}", backing=None) for index in range(3)]
    for node in options:
        server.execute("blockdev-add", node)
    server.nbd_start()
    read(server, "hd0", (0, 0xA0), (1, 0), (2, 0))
    reopen(server, {**options[0], "backing": "hd1"})
    read(server, "hd0", (0, 0xA0), (1, 0xA1), (2, 0))
    reopen(server, {**options[0], "backing": "hd2"}, {**options[2], "backing": "hd1"})
    read(server, "hd0", (0, 0xA0), (1, 0xA1), (2, 0xA2))
    assert refused(server, {**options[1], "backing": "hd0"}) == "Making 'hd0' a backing child of 'hd1' would create a cycle"
    reopen(server, {**options[2], "backing": None})
    read(server, "hd0", (0, 0xA0), (1, 0), (2, 0xA2))
    assert server.error("blockdev-del", node_name="hd2") == "Node 'hd2' is busy: node is used as backing hd of 'hd0'"
    reopen(server, {**options[0], "backing": None})
    server.blockdev_del(node_name="hd2")


def test_files_are_swapped(server, disks):
    zero, two = qcow2(disks[0], "hd0"), qcow2(disks[2], "hd2")
    server.execute("blockdev-add", zero)
    server.execute("blockdev-add", two)
    server.nbd_start()
    conflict = (
        "Permission conflict on node '{0}-file': permissions 'write, resize' are both required by node '{0}' (uses node "
        "'{0}-file' as 'file' child) and unshared by node '{1}' (uses node '{0}-file' as 'file' child)."
    )
    assert refused(server, {**zero, "file": "hd2-file"}) == conflict.format("hd2", "hd0")
    assert refused(server, {**two, "file": "hd0-file"}) == conflict.format("hd0", "hd2")
    reopen(server, {**zero, "file": "hd2-file"}, {**two, "file": "hd0-file"})
    assert edges(server) == {("hd0", "file", "hd2-file"), ("hd2", "file", "hd0-file")}
    read(server, "hd0", (0, 0), (2, 0xA2))
    read(server, "hd2", (0, 0xA0), (2, 0))
    reopen(server, {**zero, "file": "hd0-file"}, {**two, "file": "hd2-file"})
    read(server, "hd0", (0, 0xA0), (2, 0))


def test_a_filter_is_put_in_and_taken_out(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    server.blockdev_add(driver="blkdebug", node_name="filter", image="q-file")
    server.nbd_start()
    with server.export("q", writable=True) as nbd:
        reopen(server, {**options, "file": "filter"})
        nbd.pwrite(b"f" * 65536, MIB)
        assert edges(server) >= {("q", "file", "filter"), ("filter", "image", "q-file")}
        reopen(server, {**options, "file": "q-file"})
        assert nbd.pread(65536, MIB) == b"f" * 65536
    server.blockdev_del(node_name="filter")
    server.stop()
    disks[0].check()


def test_external_data_file(server, images):
    image = images.create("e.qcow2", size="1M", data_file=str(images.at("e.data", "raw").path))
    options = qcow2(image, "q", data_file=file(images.at("e.data", "raw"), "data"))
    server.execute("blockdev-add", options)
    reopen(server, {**options, "data-file": "data", "read-only": True})
    assert server.query_node("data")["ro"]
    assert refused(server, {**options, "data-file": "q-file"}) == "Cannot change the option 'data-file'"
    without = {key: value for key, value in options.items() if key != "data-file"}
    assert refused(server, without) == "Option 'driver' cannot be reset to its default value"
    reopen(server, options)
    assert not server.query_node("data")["ro"]


# ---------------------------------------------------------------------- several nodes


def test_all_or_none(server, disks):
    zero, one = qcow2(disks[0], "hd0"), qcow2(disks[1], "hd1")
    server.execute("blockdev-add", zero)
    server.execute("blockdev-add", one)
    assert refused(server, {**zero, "read-only": True}, {**one, "l2-cache-size": 2, "cache-size": 1}) == (
        "l2-cache-size may not exceed cache-size"
    )
    assert refused(server, {**zero, "backing": "hd1"}, {**one, "backing": "hd0"}) == (
        "Making 'hd0' a backing child of 'hd1' would create a cycle"
    )
    reopen(server, {**zero, "read-only": True}, {**one, "detect-zeroes": "on"})
    assert server.query_node("hd0")["ro"] and server.query_node("hd1")["detect_zeroes"] == "on"


def test_a_cycle_is_looked_for_in_what_the_call_has_made_so_far(server, disks):
    """Links change in the order in which the call has the nodes."""
    hd = [qcow2(disks[index], f"hd{index}", backing=None) for index in range(2)]
    for node in hd:
        server.execute("blockdev-add", node)
    zero_over_one, one_over_zero = {**hd[0], "backing": "hd1"}, {**hd[1], "backing": "hd0"}
    reopen(server, zero_over_one)
    assert refused(server, one_over_zero, hd[0]) == "Making 'hd0' a backing child of 'hd1' would create a cycle"
    reopen(server, hd[0], one_over_zero)
    assert ("hd1", "backing", "hd0") in edges(server)
    # A file, too, which is read before it has its new parent.
    assert refused(server, {**hd[0], "file": "hd1"}, hd[1]) == "Making 'hd1' a file child of 'hd0' would create a cycle"
    assert refused(server, hd[1], {**hd[1], "file": "hd1"}) == "Making 'hd1' a file child of 'hd1' would create a cycle"


@pytest.mark.parametrize("change, error", [
    ({"backing": "top"}, "Making 'top' a backing child of 'top' would create a cycle"),
    ({"backing": "missing"}, "Cannot find device='' nor node-name='missing'"),
    ({"backing": None}, "Cannot change frozen 'backing' link from 'top' to 'base'"),
    ({"backing": None, "file": "missing"}, "Cannot change frozen 'backing' link from 'top' to 'base'"),
    ({"backing": None, "data-file": "base"}, "Cannot change frozen 'backing' link from 'top' to 'base'"),
    ({"backing": "base", "file": "missing"}, "Cannot find device='' nor node-name='missing'"),
])
def test_more_than_one_thing_is_wrong(server, chain, change, error):
    """A commit keeps the link between two layers as it is. Each link is looked at whole before the next."""
    server.blockdev_add(qcow2(chain["base"], "base", backing=None))
    top = {**qcow2(chain["top"], "top", backing="base"), "file": "top-file"}
    server.blockdev_add(driver="file", node_name="top-file", filename=str(chain["top"].path))
    server.blockdev_add(top)
    server.block_commit(job_id="job", device="top", speed=1, auto_dismiss=False)
    assert refused(server, {**top, **change}) == error


def test_what_is_said_twice(server, disks):
    options = qcow2(disks[0], "q")
    server.execute("blockdev-add", options)
    reopen(server, options, {**options, "detect-zeroes": "on"})
    assert server.query_node("q")["detect_zeroes"] == "on"


@pytest.mark.parametrize("child_first", [True, False])
def test_what_a_child_is_told_outlasts_its_parent(server, disks, child_first):
    parent = qcow2(disks[0], "q")
    child = parent["file"]
    server.execute("blockdev-add", parent)
    named = {"driver": "qcow2", "node-name": "q", "file": "q-file"}
    told = [{**child, "detect-zeroes": "on", "cache": {"no-flush": True}}, named]
    reopen(server, *(told if child_first else reversed(told)))
    reopen(server, named)
    node = server.query_node("q-file")
    assert node["detect_zeroes"] == "on" and node["cache"]["no-flush"]


def test_the_filter_of_a_job_is_not_named(server, images):
    base = images.create("base.qcow2", size="4M")
    middle = images.create("middle.qcow2", size=None, backing=base).fill((0, "4M", 1))
    top = images.create("top.qcow2", size=None, backing=middle)
    below = qcow2(middle, "middle", backing=qcow2(base, "base", backing=None))
    server.execute("blockdev-add", qcow2(top, "top", backing=below))
    server.block_commit(job_id="j", device="top", top_node="middle", base_node="base", speed=1)
    before = edges(server)
    named = {"driver": "qcow2", "node-name": "top", "file": "top-file"}
    reopen(server, {**named, "backing": "middle", "detect-zeroes": "on"})
    assert edges(server) == before
    assert server.query_node("top")["detect_zeroes"] == "on"
    for other in ("base", None):
        error = refused(server, {**named, "backing": other})
        assert error == "Cannot replace implicit backing child of top"
    server.job_cancel(id="j")
    server.wait_event("BLOCK_JOB_CANCELLED", {"device": "j"})


# ---------------------------------------------------------------------- the human monitor's qemu-io


@pytest.mark.manners("system")
def test_reopen_by_hand(server, chain):
    server.execute("blockdev-add", qcow2(chain["top"], "top"))
    before = graph(server)
    assert server.hmp('qemu-io top "reopen -r"') == ""
    assert server.query_node("top")["ro"] and server.query_node("top-file")["ro"]
    assert server.hmp('qemu-io top "write 0 4k"') == "Block node is read-only\n"
    assert server.hmp('qemu-io top "reopen -w"') == ""
    server.hmp('qemu-io top "reopen -c unsafe"')
    assert server.query_node("top")["cache"]["no-flush"]
    server.hmp('qemu-io top "reopen -c writeback"')
    server.hmp('qemu-io top "reopen -o detect-zeroes=on,l2-cache-size=64k"')
    assert server.query_node("top")["detect_zeroes"] == "on"
    server.hmp('qemu-io top "reopen -o detect-zeroes=off,l2-cache-size=128k"')
    assert graph(server) == before


@pytest.mark.manners("system")
def test_a_member_of_a_group_by_hand(server, chain):
    """The others stay as they are."""
    server.execute("blockdev-add", {**qcow2(chain["top"], "top"), "cache": {"no-flush": True}})
    server.hmp('qemu-io top "reopen -o cache.direct=on"')
    assert server.query_node("top")["cache"] == {"writeback": True, "direct": True, "no-flush": True}
    server.hmp('qemu-io top "reopen -o cache.no-flush=off"')
    assert server.query_node("top")["cache"] == {"writeback": True, "direct": True, "no-flush": False}


@pytest.mark.manners("system")
@pytest.mark.parametrize(
    "line, answer",
    [
        ("reopen -r -w", "Only one -r/-w option may be given\n"),
        ("reopen -c bad", "Invalid cache option: bad\n"),
        ("reopen -o read-only=on -r", "Cannot set both -r/-w and 'read-only'\n"),
        ("reopen -o cache.direct=on -c none", "Cannot set both -c and the cache options\n"),
        ("reopen -o driver=raw", "Cannot change the option 'driver'\n"),
        ("reopen -o node-name=x", "Cannot change the option 'node-name'\n"),
        ("reopen -o file.filename=x", "Cannot change the option 'filename'\n"),
        ("reopen -o backing=top", "Making 'top' a backing child of 'top' would create a cycle\n"),
    ],
)
def test_refused_by_hand(server, chain, line, answer):
    server.execute("blockdev-add", qcow2(chain["top"], "top"))
    before = graph(server)
    assert server.hmp(f'qemu-io top "{line}"') == answer
    assert graph(server) == before
