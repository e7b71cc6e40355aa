"""Definitions of a backing file over an image that names one in its header: what says which file is meant, and what is refused."""

import pytest

FILE = {"driver": "file", "filename": "BASE"}
QCOW2 = {"driver": "qcow2", "file": FILE}
QUORUM = {"driver": "quorum", "vote-threshold": 1, "children": ["base-file"]}
THROTTLE = {"driver": "throttle", "throttle-group": "group"}

REFERENCE = "Cannot reference an existing block device with additional options or a new filename"
TWICE = "Can't specify 'file' and 'filename' options at the same time"
NULL = "The only allowed filename for this driver is 'null-co://'"
NO_FILE = "Block format 'quorum' does not support the option 'file'"

# The definition, and why it is refused where the header names a file.
DEFINITIONS = {
    "file": (QCOW2, None),
    "file with a name": ({"driver": "qcow2", "file": {**FILE, "node-name": "below"}}, None),
    "as raw": ({"driver": "raw", "file": FILE}, None),
    "file by reference": ({"driver": "qcow2", "file": "base-file"}, REFERENCE),
    "raw by reference": ({"driver": "raw", "file": "base-file"}, REFERENCE),
    "at any depth": ({"driver": "raw", "file": {"driver": "raw", "file": "base-file"}}, REFERENCE),
    "file two steps down": ({"driver": "raw", "file": {"driver": "raw", "file": FILE}}, TWICE),
    "filter over a definition": ({**THROTTLE, "file": QCOW2}, TWICE),
    "filter over a node": ({**THROTTLE, "file": "base"}, REFERENCE),
    "protocol": (FILE, TWICE),
    "blkdebug": ({"driver": "blkdebug", "image": FILE}, TWICE),
    "blkdebug over a node": ({"driver": "blkdebug", "image": "base-file"}, REFERENCE),
    "blkdebug below": ({"driver": "qcow2", "file": {"driver": "blkdebug", "image": FILE}}, TWICE),
    "blkverify": ({"driver": "blkverify", "raw": FILE, "test": FILE}, TWICE),
    "blkverify over a node": ({"driver": "blkverify", "raw": "base-file", "test": "base-file"}, REFERENCE),
    "no file": ({"driver": "null-co", "size": 1 << 20}, NULL),
    "no file below": ({"driver": "raw", "file": {"driver": "null-co", "size": 1 << 20}}, NULL),
    "quorum": (QUORUM, NO_FILE),
    "quorum below": ({"driver": "raw", "file": QUORUM}, NO_FILE),
    "node": ("base", None),
}


def with_path(value, path):
    if isinstance(value, dict):
        return {name: with_path(member, path) for name, member in value.items()}
    return path if value == "BASE" else value


@pytest.mark.parametrize("named", [True, False], ids=["named by the header", "not named"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_beside_the_name_in_the_header(server, images, name, named):
    base = images.create("base", size="1M").fill((0, "1M", 5))
    top = images.create("top", size=None if named else "1M", backing=base if named else None)
    server.execute("object-add", {"qom-type": "throttle-group", "id": "group"})
    server.execute("blockdev-add", {"node-name": "base-file", "read-only": True, **with_path(FILE, str(base.path))})
    server.execute("blockdev-add", {"node-name": "base", "read-only": True, "driver": "qcow2", "file": "base-file"})
    definition, error = DEFINITIONS[name]
    add = {"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": str(top.path)},
           "backing": with_path(definition, str(base.path))}
    if named and error is not None:
        assert server.error("blockdev-add", **add) == f"Could not open backing file: {error}"
        assert "top" not in server.node_names()
        return
    server.execute("blockdev-add", add)
    if definition in (QCOW2, "base") or name in ("file with a name", "filter over a node", "file by reference"):
        with server.export("top") as nbd:
            assert nbd.pread(1 << 20, 0) == b"\5" * (1 << 20)
