"""blockdev-reopen with several things wrong: which of them is told."""

import pytest

DETECT = "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
ENTRY = "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"

# Wrong about the children, or about what cannot change.
ELSEWHERE = {
    "backing is missing": ({}, "backing is missing for 'n'"),
    "no such backing": ({"backing": "nix"}, "Cannot find device='' nor node-name='nix'"),
    "no such file": ({"backing": "b", "file": "nix"}, "Cannot find device='' nor node-name='nix'"),
    "cycle": ({"backing": "b", "file": "n"}, "Making 'n' a file child of 'n' would create a cycle"),
    "generic": ({"backing": "b", "force-share": True}, "Cannot change the option 'force-share'"),
    "data-file": ({"backing": "b", "data-file": "f"}, "Cannot change the option 'data-file'"),
    "driver of the file": (
        {"backing": "b", "file": {"driver": "host_device", "filename": "/dev/null"}}, "Cannot change the option 'driver'"),
    "option of the file": (
        {"backing": "b", "file": {"driver": "file", "filename": "PATH", "discard": "ignore", "detect-zeroes": "unmap"}}, DETECT),
}

# Wrong by themselves, in the order in which they are told.
OWN = [
    ({"detect-zeroes": "unmap"}, DETECT),
    ({"l2-cache-entry-size": 3000}, ENTRY),
    ({"cache-clean-interval": 1 << 40}, "Cache clean interval too big"),
    ({"lazy-refcounts": True}, "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"),
    ({"encrypt": {"format": "aes"}}, "No encryption in image header, but options specified format 'aes'"),
]


@pytest.fixture
def node(server, images):
    """An overlay of version 2, with its options as a reopen names them."""
    base = images.create("base.qcow2", size="1M")
    path = str(images.create("top.qcow2", size=None, backing=base, compat="0.10").path)
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "node-name": "f", "filename": path},
        "backing": {"driver": "qcow2", "node-name": "b", "file": {"driver": "file", "filename": str(base.path)}}})
    return {"driver": "qcow2", "node-name": "n", "file": "f"}, path


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_own_options_first(server, node, elsewhere):
    options, path = node
    change, error = ELSEWHERE[elsewhere]
    options = {**options, **change}
    if isinstance(options["file"], dict) and options["file"]["filename"] == "PATH":
        options["file"] = {**options["file"], "filename": path}
    assert server.error("blockdev-reopen", options=[options]) == error
    for own, told in OWN:
        assert server.error("blockdev-reopen", options=[{**options, **own}]) == told, own


def test_order_of_own_options(server, node):
    options, _ = node
    for change, error in reversed(OWN):
        options.update(change)
        assert server.error("blockdev-reopen", options=[options]) == error


def test_what_cannot_be_reset_is_told_before(server, images):
    path = str(images.create("a.qcow2", size="1M", compat="0.10").path)
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "n", "read-only": True, "force-share": True,
        "file": {"driver": "file", "node-name": "f", "filename": path}})
    options = {"driver": "qcow2", "node-name": "n", "file": "f"}
    for own, told in OWN:
        wanted = told if told == DETECT else "Option 'force-share' cannot be reset to its default value"
        assert server.error("blockdev-reopen", options=[{**options, **own}]) == wanted, own


@pytest.mark.parametrize(
    "driver, wrong, error",
    [
        ({"driver": "throttle", "throttle-group": "g"}, {"throttle-group": "nix"}, "Throttle group 'nix' does not exist"),
        ({"driver": "preallocate"}, {"prealloc-align": 7}, "prealloc-align parameter of preallocate filter is not aligned to 512"),
        ({"driver": "copy-on-read"}, {}, "Block format 'copy-on-read' used by node 'n' does not support reopening files"),
    ],
)
def test_filters(server, images, driver, wrong, error):
    path = str(images.create("a.raw", "raw").path)
    server.object_add(qom_type="throttle-group", id="g")
    below = {"driver": "file", "node-name": "f", "filename": path}
    node = {**driver, "node-name": "n"}
    server.execute("blockdev-add", {**node, "file": below})
    for change in (
        {"file": "nix"},
        {"file": "n"},
        {"file": "f", "force-share": True},
        {"file": {**below, "filename": "/dev/null"}},
        {"file": {**below, "discard": "ignore", "detect-zeroes": "unmap"}},
    ):
        assert server.error("blockdev-reopen", options=[{**node, **wrong, **change}]) == error, change
    assert server.error("blockdev-reopen", options=[{**node, **wrong, "file": "f", "detect-zeroes": "unmap"}]) == DETECT


def test_adding_a_node_that_shares_all_and_is_to_be_written(server, images):
    path = str(images.create("a.qcow2", size="1M").path)
    node = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": path}}
    for change, error in (
        ({"detect-zeroes": "unmap"}, DETECT),
        ({"detect-zeroes": "unmap", "force-share": True}, "force-share=on can only be used with read-only images"),
        ({"detect-zeroes": "unmap", "force-share": True, "read-only": True}, DETECT),
    ):
        assert server.error("blockdev-add", {**node, **change}) == error
