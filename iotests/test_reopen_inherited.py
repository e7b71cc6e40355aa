"""blockdev-reopen of a node whose child is only named: the child keeps what it has, but for what the node says."""

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
