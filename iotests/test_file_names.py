"""Names of files with colons, and where `file:` in front is a prefix and where it is part of the name."""

import json

import pytest

from blockbed_iotests import qemu_img, qemu_io

system = pytest.mark.manners("system")
ODD = ["disk-12:30.qcow2", "a:b", "json:x"]


def odd_image(images, name):
    image = images.create("plain.qcow2", size="1M").fill((0, "64k", 5))
    image.path.rename(images.dir / name)


def naming(images, name, backing):
    """An image that has exactly this as the name of its backing file."""
    image = images.create(name, size="1M")
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, str(image.path))
    return image


def node(server, **options):
    server.blockdev_add(driver="qcow2", file={"driver": "file", **options}, node_name="n")


def files(server):
    return {entry["file"] for entry in server.query_named_block_nodes()}


def holds_the_data(images, name):
    qemu_io(images.dir / name, "read -P 5 0 64k", format="qcow2")


@system
@pytest.mark.parametrize("name", ODD)
def test_an_overlay_names_a_path_with_a_colon(start, images, name):
    odd_image(images, name)
    server = start("-drive", f"if=none,id=n,format=qcow2,file=file:{name}")
    assert files(server) == {f"./{name}"}
    server.blockdev_snapshot_sync(device="n", snapshot_file="top.qcow2")
    server.stop()
    holds_the_data(images, "top.qcow2")


BELOW = '{"driver": "qcow2", "file": {"driver": "file", "filename": "DISK"}}'
FILTERS = {
    "throttle": ({"throttle-group": "g"}, 'json:{"throttle-group": "g", "driver": "throttle", "file": ' + BELOW + "}"),
    "compress": ({}, 'json:{"driver": "compress", "file": ' + BELOW + "}"),
    "blkdebug": ({}, "blkdebug::DISK"),
    # Readers of qcow2 take 15 bytes.
    "copy-before-write": ({"target": {"driver": "null-co", "size": 1 << 20}}, "DISK"),
}


@pytest.mark.parametrize("command", ["blockdev-snapshot-sync", "drive-mirror", "block-commit"])
@pytest.mark.parametrize("driver", FILTERS)
def test_an_image_names_the_filter_that_it_stands_on(server, images, driver, command):
    options, name = FILTERS[driver]
    disk, top = images.create("disk.qcow2", "qcow2", "1M"), images.at("top.qcow2", "qcow2")
    server.execute("object-add", {"qom-type": "throttle-group", "id": "g"})
    below = json.loads(BELOW.replace("DISK", str(disk)))
    server.execute("blockdev-add", {"driver": driver, "node-name": "m", "image" if driver == "blkdebug" else "file": below, **options})

    def add_over(image, backing, node):
        server.execute("blockdev-add", {"driver": "qcow2", "node-name": node, "file": {"driver": "file", "filename": str(image)}, "backing": backing})

    if command == "blockdev-snapshot-sync":
        server.execute(command, {"node-name": "m", "snapshot-node-name": "top", "snapshot-file": str(top)})
    elif command == "drive-mirror":
        add_over(images.create("source.qcow2", "qcow2", "1M"), "m", "source")
        server.execute(command, {"job-id": "job", "device": "source", "target": str(top), "sync": "top", "format": "qcow2"})
        server.wait_job("job", "ready")
        server.execute("job-cancel", {"id": "job"})
        server.finish_job("job")
    else:
        add_over(images.create("middle.qcow2", "qcow2", "1M"), "m", "middle")
        add_over(images.create("top.qcow2", "qcow2", "1M", backing=disk), "middle", "top")
        server.execute(command, {"job-id": "job", "device": "top", "top-node": "middle", "base-node": "m"})
        server.finish_job("job")
    server.stop()
    info = top.info()
    assert (info["backing-filename"], info["backing-filename-format"]) == (name.replace("DISK", str(disk)), driver[:15])


@pytest.mark.parametrize("command, options", [
    ("block-commit", {"top": "middle.qcow2"}),
    ("block-stream", {"base": "file:a:b"}),
])
def test_a_job_names_a_path_with_a_colon(server, images, command, options):
    odd_image(images, "a:b")
    naming(images, "middle.qcow2", "file:a:b")
    naming(images, "top.qcow2", "middle.qcow2")
    node(server, filename="top.qcow2")
    server.execute(command, {"job-id": "job", "device": "n", **options})
    server.finish_job("job")
    server.stop()
    holds_the_data(images, "top.qcow2")


@pytest.mark.parametrize("name, path", [("a:b", "a:b"), ("nbd:x:1", "nbd:x:1"), ("file:zz", "zz")])
def test_a_backing_file_whose_format_is_a_protocol(server, images, name, path):
    """`file` reads the name as one of its own, whatever it begins with."""
    top = images.create("top.qcow2", size="1M")
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "file", "-b", name, str(top.path))
    definition = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": "top.qcow2"}}
    told = server.error("blockdev-add", definition)
    assert told == f"Could not open backing file: Could not open '{path}': No such file or directory"
    (images.dir / path).write_bytes(bytes(1024))
    server.execute("blockdev-add", definition)
    assert server.query_node("n")["image"]["backing-image"]["virtual-size"] == 1024


@pytest.mark.parametrize("prefix", ["file:", "host_device:"])
def test_an_option_is_taken_as_it_is(server, images, prefix):
    (images.dir / "zz").write_bytes(bytes(512))
    (images.dir / f"{prefix}zz").write_bytes(bytes(1024))
    server.blockdev_add(driver="file", node_name="n", filename=f"{prefix}zz")
    image = server.query_node("n")["image"]
    assert (image["filename"], image["virtual-size"]) == (f"{prefix}zz", 1024)


def test_what_blockdev_create_made_is_opened_by_the_same_name(server, images):
    server.blockdev_create(job_id="job", options={"driver": "file", "filename": "file:new", "size": 1024})
    server.wait_status("job", "concluded")
    server.blockdev_add(driver="file", node_name="n", filename="file:new")
    assert (images.dir / "file:new").exists()


@pytest.mark.parametrize("driver", ["qcow2", "raw"])
def test_no_backing_file_by_an_empty_name(server, images, driver):
    """`"backing": ""` in a name says that there is none, whatever the driver, and is no option from then on."""
    images.create("base", driver, size="1M")
    top = images.create("top.qcow2", size="1M")
    definition = f'json:{{"driver":"{driver}","file":{{"driver":"file","filename":"base"}},"backing":""}}'
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", driver, "-b", definition, str(top.path))
    node(server, filename="top.qcow2")
    base = next(entry["node-name"] for entry in server.query_named_block_nodes()
                if entry["drv"] == driver and entry["node-name"] != "n" and "base" in entry["file"])
    server.blockdev_reopen(options=[{"driver": "qcow2", "node-name": "n", "read-only": True, "backing": base,
                                     "file": {"driver": "file", "filename": "top.qcow2"}}])
    assert server.query_node("n")["ro"]
