"""blockdev-reopen: which options a node keeps when nobody says them, and what its children get from it."""

import itertools

import pytest

from blockbed_iotests import QmpError

TOPS = [
    {},
    {"read-only": True},
    {"read-only": False},
    {"read-only": True, "auto-read-only": True},
    {"auto-read-only": True},
    {"cache.direct": True},
    {"cache.no-flush": True},
    {"read-only": True, "cache.direct": True, "cache.no-flush": True},
]
CHILDREN = [{}, {"read-only": True}, {"read-only": False}, {"auto-read-only": True}, {"cache.direct": False}]
SHOWN = ("read-only", "cache.direct", "cache.no-flush")


def nested(options):
    """`cache.direct` as a member of `cache`."""
    result = {}
    for name, value in options.items():
        group, _, member = name.rpartition(".")
        (result.setdefault(group, {}) if group else result)[member] = value
    return result


def shown(server, node):
    info = server.query_node(node)
    return {"read-only": info["ro"], "cache.direct": info["cache"]["direct"], "cache.no-flush": info["cache"]["no-flush"]}


@pytest.mark.parametrize("child", CHILDREN, ids=str)
def test_file_by_name(server, images, child):
    """Said by itself, else said by the node above in this call, else as it was."""
    path = str(images.create("a.qcow2", size="1M").path)
    for before, after in itertools.product(TOPS, TOPS):
        first = {"n": {name: before.get(name, False) for name in SHOWN}}
        first["f"] = {**first["n"], **{name: value for name, value in child.items() if name in SHOWN}}
        if first["f"]["read-only"] and not first["n"]["read-only"]:
            continue  # no such disk can be added
        storage = {"driver": "file", "node-name": "f", "filename": path, **nested(child)}
        server.execute("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": storage, **nested(before)})
        assert {name: shown(server, name) for name in first} == first, (before, after)

        wanted = {"n": {name: after.get(name, False) for name in SHOWN}}
        wanted["f"] = {name: child.get(name, after.get(name, first["f"][name])) for name in SHOWN}
        result = server.try_execute(
            "blockdev-reopen", {"options": [{"driver": "qcow2", "node-name": "n", "file": "f", **nested(after)}]})
        if wanted["f"]["read-only"] and not wanted["n"]["read-only"]:
            assert isinstance(result, QmpError) and result.desc == "Block node is read-only", (before, after)
            wanted = first
        else:
            assert not isinstance(result, QmpError), (before, after, result)
        assert {name: shown(server, name) for name in wanted} == wanted, (before, after)
        server.blockdev_del(node_name="n")


def test_what_a_named_backing_file_keeps(server, images):
    """Also caching comes from the node above only where that says so; a backing file is read only whatever that says."""
    base = images.create("base.qcow2", size="1M")
    top = images.create("top.qcow2", size=None, backing=base)
    for before, after in itertools.product(TOPS, TOPS):
        server.execute("blockdev-add", {
            "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "node-name": "f", "filename": str(top.path)},
            "backing": {"driver": "qcow2", "node-name": "b", "file": {"driver": "file", "filename": str(base.path)}},
            **nested(before)})
        result = server.try_execute("blockdev-reopen", {
            "options": [{"driver": "qcow2", "node-name": "n", "file": "f", "backing": "b", **nested(after)}]})
        refused = before.get("read-only", False) and "read-only" not in after
        assert isinstance(result, QmpError) == refused, (before, after, result)
        wanted = {name: before.get(name, False) for name in SHOWN}
        if not refused:
            wanted = {name: after.get(name, wanted[name]) for name in SHOWN}
        assert shown(server, "b") == {**wanted, "read-only": True}, (before, after)
        server.blockdev_del(node_name="n")


@pytest.mark.parametrize("end", ["mirror", "commit"])
@pytest.mark.parametrize("child", [{}, {"read-only": False}, {"auto-read-only": True}], ids=str)
def test_who_was_left_for_reading_by_a_job_follows_again(server, images, end, child):
    """A disk that takes the place of one that is read only becomes that too, and is no other than before."""
    path = str(images.create("n.qcow2", size="1M").path)
    storage = {"driver": "file", "node-name": "f", "filename": path, **child}
    server.execute("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": storage})
    server.block_dirty_bitmap_add(node="n", name="b", persistent=True)
    above = images.create("above.qcow2", size="1M")
    server.add_image("above", above, read_only=True, backing="n" if end == "commit" else None)
    if end == "commit":
        server.execute("block-commit", {"job-id": "job", "device": "above"})
    else:
        server.blockdev_mirror(job_id="job", device="above", target="n", sync="full")
    server.wait_event("BLOCK_JOB_READY", {"device": "job"})
    server.job_complete(id="job")
    assert "error" not in server.wait_event("BLOCK_JOB_COMPLETED")["data"]
    # Whoever says itself whether it is for reading is not left for reading by another.
    said = child.get("read-only")
    state = lambda: {name: server.query_node(name)["ro"] for name in "nf"}
    assert state() == {"n": True, "f": True if said is None else said}
    assert server.error("block-dirty-bitmap-clear", {"node": "n", "name": "b"}) == "Bitmap 'b' is readonly and cannot be modified"
    for read_only in (False, True, False):
        server.execute("blockdev-reopen", {"options": [{"driver": "qcow2", "node-name": "n", "file": "f", "read-only": read_only}]})
        assert state() == {"n": read_only, "f": read_only if said is None else said}
    server.block_dirty_bitmap_clear(node="n", name="b")
    with server.export("n", writable=True) as guest:
        guest.pwrite(b"\1" * 65536, 0)


NOT_ALLOWED = "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"


def unmaps(server, node, options):
    """Whether discard=unmap is in force: only then may zeroes be turned into discards."""
    for mode in ("unmap", "off"):
        result = server.try_execute("blockdev-reopen", {"options": [{"node-name": node, **options, "detect-zeroes": mode}]})
        if isinstance(result, QmpError):
            assert (result.desc, mode) == (NOT_ALLOWED, "unmap")
            return False
    return True


def test_discard_stays_until_another_is_said(server, images):
    path = str(images.create("a.qcow2", size="1M").path)
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "node-name": "f", "filename": path}})
    same = {"driver": "qcow2", "file": "f"}
    assert not unmaps(server, "n", same)
    for said in ("unmap", "ignore", "unmap"):
        server.blockdev_reopen(options=[{"node-name": "n", **same, "discard": said}])
        for _ in range(2):
            assert unmaps(server, "n", same) == (said == "unmap")
        server.blockdev_reopen(options=[{"node-name": "n", **same, "read-only": True}])
        server.blockdev_reopen(options=[{"node-name": "n", **same, "read-only": False}])
        assert unmaps(server, "n", same) == (said == "unmap")


@pytest.mark.manners("system")
def test_discards_of_a_reopened_disk(server, images):
    path = str(images.create("a.qcow2", size="1M").path)
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "n", "discard": "unmap", "file": {"driver": "file", "node-name": "f", "filename": path}})
    for said, gone in (({}, True), ({"discard": "ignore"}, False), ({}, False), ({"discard": "unmap"}, True), ({}, True)):
        server.blockdev_reopen(options=[{"driver": "qcow2", "node-name": "n", "file": "f", **said}])
        server.qemu_io("n", "write -P 1 0 64k")
        server.qemu_io("n", "discard 0 64k")
        assert ("Pattern verification failed" in server.qemu_io("n", "read -P 0 0 64k")) != gone, said


def test_discard_of_children(server, images):
    """They unmap unless they say something else themselves, whatever the node above says."""
    base = images.create("base.qcow2", size="1M")
    path = str(images.create("top.qcow2", size=None, backing=base).path)
    storage = {"driver": "file", "node-name": "f", "filename": path}
    backing = {"driver": "qcow2", "node-name": "b", "file": {"driver": "file", "node-name": "bf", "filename": str(base.path)}}
    own = {"f": {"driver": "file", "filename": path}, "b": {"driver": "qcow2", "file": "bf", "read-only": True}}
    for child, top in itertools.product(({}, {"discard": "ignore"}, {"discard": "unmap"}), ({}, {"discard": "ignore"})):
        node = {"driver": "qcow2", "node-name": "n", **top}
        said = child.get("discard", "unmap") == "unmap"
        server.execute("blockdev-add", {**node, "file": {**storage, **child}, "backing": {**backing, **child}})
        assert [unmaps(server, name, own[name]) for name in "fb"] == [said, said], (child, top)
        server.blockdev_del(node_name="n")

        # What they say is kept where they are named.
        server.execute("blockdev-add", {**node, "file": {**storage, **child}, "backing": {**backing, **child}})
        server.blockdev_reopen(options=[{**node, "file": "f", "backing": "b"}])
        assert [unmaps(server, name, own[name]) for name in "fb"] == [said, said], (child, top)
        server.blockdev_del(node_name="n")

        # A definition that does not say it any more.
        server.execute("blockdev-add", {**node, "file": {**storage, **child}, "backing": {**backing, **child}})
        server.blockdev_reopen(options=[{**node, "file": storage, "backing": backing}])
        assert [unmaps(server, name, own[name]) for name in "fb"] == [True, True], (child, top)
        server.blockdev_del(node_name="n")


def test_zeroes_may_be_discarded_in_a_backing_file(server, images):
    base = images.create("base.qcow2", size="1M")
    path = str(images.create("top.qcow2", size=None, backing=base).path)
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": path},
        "backing": {"driver": "qcow2", "node-name": "b", "detect-zeroes": "unmap",
                    "file": {"driver": "file", "filename": str(base.path)}}})
    assert server.query_node("b")["detect_zeroes"] == "unmap"
