"""Commands about one node: write thresholds, and the name of the backing file in an image's header."""

import json

import pytest

from blockbed_iotests import qemu_img


# ---------------------------------------------------------------------- block-set-write-threshold


def threshold(server, node):
    return server.query_node(node)["write_threshold"]


def crossings(server):
    return [(e["data"]["node-name"], e["data"]["amount-exceeded"]) for e in server.events("BLOCK_WRITE_THRESHOLD")]


@pytest.fixture
def disk(server):
    """What writes to the null-co node `n`."""
    server.blockdev_add(driver="null-co", node_name="n", size=1 << 20, discard="unmap")
    server.nbd_start()
    with server.export("n", writable=True) as nbd:
        yield nbd


def test_a_write_beyond_the_threshold_is_told_once(server, disk):
    server.block_set_write_threshold(node_name="n", write_threshold=4096)
    assert threshold(server, "n") == 4096
    disk.pwrite(bytes(4096), 0)
    assert threshold(server, "n") == 4096
    disk.pwrite(bytes(4096), 2048)
    event = server.wait_event("BLOCK_WRITE_THRESHOLD")
    assert event["data"] == {"node-name": "n", "write-threshold": 4096, "amount-exceeded": 2048}
    assert threshold(server, "n") == 0
    disk.pwrite(bytes(4096), 8192)
    assert crossings(server) == []


def test_zeroes_count_as_writes_and_discards_do_not(server, disk):
    server.block_set_write_threshold(node_name="n", write_threshold=1000)
    disk.trim(4096, 102400)
    assert threshold(server, "n") == 1000
    disk.zero(1024, 102400)
    assert server.wait_event("BLOCK_WRITE_THRESHOLD")["data"]["amount-exceeded"] == 102400 + 1024 - 1000


def test_every_node_has_its_own_threshold(server, images):
    image = images.create("x.raw", "raw", "1M")
    server.blockdev_add(driver="raw", node_name="r", file={"driver": "file", "node-name": "f", "filename": str(image.path)})
    server.block_set_write_threshold(node_name="r", write_threshold=700)
    server.block_set_write_threshold(node_name="f", write_threshold=100)
    server.nbd_start()
    with server.export("r", writable=True) as nbd:
        nbd.pwrite(bytes(4096), 0)
    first, second = (server.wait_event("BLOCK_WRITE_THRESHOLD")["data"] for _ in range(2))
    assert (first["node-name"], first["amount-exceeded"]) == ("r", 4096 - 700)
    assert (second["node-name"], second["amount-exceeded"]) == ("f", 4096 - 100)


def test_what_is_kept_of_reads_is_no_write_of_a_guest(server, images):
    """A stream fills the image beyond the threshold; its file takes writes like any other."""
    base = images.create("base.qcow2", size="1M").fill((0, "512k", 1))
    top = images.create("top.qcow2", size=None, backing=base)
    server.blockdev_add(driver="qcow2", node_name="top", file={"driver": "file", "node-name": "f", "filename": str(top.path)})
    server.block_set_write_threshold(node_name="top", write_threshold=4096)
    server.block_set_write_threshold(node_name="f", write_threshold=4096)
    server.block_stream(job_id="job", device="top")
    server.finish_job("job")
    assert threshold(server, "top") == 4096
    assert [node for node, _ in crossings(server)] == ["f"]


def test_zero_takes_the_threshold_away(server, disk):
    server.block_set_write_threshold(node_name="n", write_threshold=5)
    server.block_set_write_threshold(node_name="n", write_threshold=0)
    disk.pwrite(bytes(4096), 0)
    assert threshold(server, "n") == 0 and crossings(server) == []
    assert server.error("block-set-write-threshold", node_name="x", write_threshold=5) == "Device 'x' not found"


# ---------------------------------------------------------------------- change-backing-file


@pytest.fixture
def chain(server, images):
    """base.qcow2 <- mid.qcow2 <- top.qcow2, as nodes `base`, `mid` and `top`."""
    base = images.create("base.qcow2", size="1M")
    mid = images.create("mid.qcow2", size=None, backing=base)
    top = images.create("top.qcow2", size=None, backing=mid)
    options = None
    for name, image in (("base", base), ("mid", mid), ("top", top)):
        node = {"driver": "qcow2", "node-name": name, "file": {"driver": "file", "node-name": f"{name}-file", "filename": str(image.path)}}
        if options:
            node["backing"] = options
        options = node
    server.execute("blockdev-add", options)
    return {"base": base, "mid": mid, "top": top}


def header(image):
    info = json.loads(qemu_img("info", "-U", "--output=json", image.path))
    return info.get("backing-filename"), info.get("backing-filename-format")


def change(server, image, name, device="top"):
    server.change_backing_file(device=device, image_node_name=image, backing_file=str(name))


def test_the_header_changes_and_the_graph_does_not(server, chain):
    before = server.x_debug_query_block_graph()
    change(server, "top", "./other.qcow2")
    assert header(chain["top"]) == ("./other.qcow2", "qcow2")
    change(server, "mid", "base-too.qcow2")
    assert header(chain["mid"]) == ("base-too.qcow2", "qcow2")
    assert server.x_debug_query_block_graph() == before
    # It was opened for reading only, and is so again.
    assert server.query_node("mid")["ro"] and server.query_node("mid-file")["ro"]


def test_no_name_is_no_backing_file(server, chain):
    change(server, "top", "")
    assert header(chain["top"]) == (None, None)


def test_names_follow_the_header(server, chain):
    assert server.query_node("top")["file"] == str(chain["top"].path)
    change(server, "top", "other.qcow2")
    assert server.query_node("top")["file"].startswith("json:")
    assert server.query_node("top")["image"]["full-backing-filename"] == str(chain["top"].path.parent / "other.qcow2")
    change(server, "top", chain["mid"].path)
    assert server.query_node("top")["file"] == str(chain["top"].path)
    change(server, "top", chain["mid"].path.name)
    assert server.query_node("top")["file"].startswith("json:"), "nobody has opened it by that name"


@pytest.mark.parametrize("stored, given, plain", [
    ("base.qcow2", False, True), ("base.qcow2", True, False), ("DIR/base.qcow2", True, True)])
def test_a_backing_file_that_was_given_must_be_called_the_same(server, images, stored, given, plain):
    """What a relative name means is seen only when the file is opened by it."""
    base = images.create("base.qcow2", size="1M")
    top = images.create("top.qcow2", size="1M", backing_file=stored.replace("DIR", str(images.dir)), backing_fmt="qcow2")
    if given:
        server.add_image("base", base)
    server.blockdev_add({"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": str(top)}} | ({"backing": "base"} if given else {}))
    assert (server.query_node("top")["file"] == str(top)) is plain
    assert server.query_node("top")["image"]["full-backing-filename"] == str(base)


def test_the_full_name_is_as_the_header_has_it(server, images):
    base = images.create("base.qcow2", size="1M")
    top = images.create("top.qcow2", size=None, backing_file=f"file:{base}", backing_fmt="qcow2")
    server.add_image("top", top)
    image = server.query_node("top")["image"]
    assert image["full-backing-filename"] == f"file:{base}"
    assert image["backing-image"]["filename"] == str(base)
    assert image["filename"] == str(top), "it stands on the file that it names"


@pytest.mark.parametrize("name", [None, "filter"])
def test_names_look_through_a_filter_without_a_name(server, images, name):
    base = images.create("base.qcow2", size="1M")
    mid = images.create("mid.qcow2", size=None, backing=base).fill((0, "1M", 1))
    top = images.create("top.qcow2", size=None, backing=mid)
    options = {"driver": "null-co", "size": 1 << 20}
    for number, image in enumerate((base, mid, top)):
        options = {"driver": "qcow2", "node-name": f"n{number}", "backing": options, "file": {"driver": "file", "filename": str(image.path)}}
    server.execute("blockdev-add", options)
    arguments = {"filter-node-name": name} if name else {}
    server.execute("block-commit", {"job-id": "job", "device": "n2", "top-node": "n1", "base-node": "n0", "speed": 1, **arguments})
    options = json.loads(server.query_node("n2")["image"]["filename"].removeprefix("json:"))
    below = options["backing"]
    if name:
        assert below["driver"] == "commit_top"
        below = below["backing"]
    assert (below["driver"], below["file"]["filename"]) == ("qcow2", str(mid))
    server.execute("job-cancel", {"id": "job"})
    server.wait_event("BLOCK_JOB_CANCELLED")


def test_names_of_a_deep_chain(server, images):
    """Every image stands on another one than it names: each name holds all that is below."""
    server.execute("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": 1 << 20})
    for number in range(1, 31):
        image = images.create(f"{number}.qcow2", size="1M")
        server.execute("blockdev-add", {
            "driver": "qcow2", "node-name": f"n{number}", "backing": f"n{number - 1}", "file": {"driver": "file", "filename": str(image.path)}})
    options = json.loads(server.query_node("n30")["file"].removeprefix("json:"))
    depth = 0
    while options := options.get("backing"):
        depth += 1
    assert depth == 30


@pytest.mark.parametrize(
    "device, image, error",
    [
        ("nope", "top", "Cannot find device='nope' nor node-name='nope'"),
        ("top", "nope", "Cannot find device='' nor node-name='nope'"),
        ("mid", "mid", "Need a root block node"),
        ("top", "base", "not allowing backing file change on an image without a backing file"),
        ("top", "top-file", "not allowing backing file change on an image without a backing file"),
        ("other", "top", "'other' and image file are not in the same chain"),
    ],
)
def test_refused(server, chain, device, image, error):
    server.blockdev_add(driver="null-co", node_name="other")
    assert server.error("change-backing-file", device=device, image_node_name=image, backing_file="x") == error


def test_a_name_that_does_not_fit(server, chain):
    name = "a" * 1100
    assert (
        server.error("change-backing-file", device="top", image_node_name="top", backing_file=name)
        == f"Could not change backing file to '{name}': Invalid argument"
    )


@pytest.mark.differs("QEMU writes the format of the image itself, which names the wrong driver", server="qemu")
def test_the_format_is_that_of_what_the_image_stands_on(server, images):
    base = images.create("base.raw", "raw", "1M")
    top = images.create("top.qcow2", size=None, backing=base)
    server.blockdev_add(driver="qcow2", node_name="top", file={"driver": "file", "filename": str(top.path)})
    server.change_backing_file(device="top", image_node_name="top", backing_file=str(base.path))
    server.stop()
    assert header(top) == (str(base.path), "raw")
    qemu_img("check", top.path)
