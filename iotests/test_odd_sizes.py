"""Disks whose file is no whole number of sectors: they are copied to images that are."""

import pytest

SIZE = 196616
ROUNDED = 197120
CONTENT = bytes(range(256)) * 768 + b"12345678"


@pytest.fixture
def odd(server, images):
    """The raw disk `odd`."""
    image = images.create("odd", "raw", 0)
    image.path.write_bytes(CONTENT)
    server.blockdev_add(driver="raw", node_name="odd", file={"driver": "file", "filename": str(image.path)})
    assert server.query_node("odd")["image"]["virtual-size"] == ROUNDED
    return image


def finish(server, job):
    if job == "mirror":
        server.wait_status("j", "ready")
        server.block_job_complete(device="j")
    assert "error" not in server.finish_job("j")["data"]


@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("job", ["backup", "mirror"])
def test_to_a_new_image(server, images, odd, job, format):
    target = images.at("target", format)
    server.execute(f"drive-{job}", {"job-id": "j", "device": "odd", "target": str(target.path), "format": format, "sync": "full"})
    finish(server, job)
    server.stop()
    assert target.content() == CONTENT + bytes(ROUNDED - SIZE)


@pytest.mark.parametrize("job", ["backup", "mirror"])
def test_to_a_node(server, images, odd, job):
    """What the target had behind the end of the source is not left there."""
    target = images.create("target", size=ROUNDED).fill((0, ROUNDED, 0xAA))
    server.add_image("t", target)
    server.execute(f"blockdev-{job}", {"job-id": "j", "device": "odd", "target": "t", "sync": "full"})
    finish(server, job)
    server.stop()
    target.check()
    assert target.content() == CONTENT + bytes(ROUNDED - SIZE)


@pytest.mark.parametrize("job", ["backup", "mirror"])
@pytest.mark.parametrize("size", [ROUNDED - 512, ROUNDED + 512])
def test_another_number_of_sectors(server, images, odd, job, size):
    server.add_image("t", images.create("target", size=size))
    result = server.try_execute(f"blockdev-{job}", {"job-id": "j", "device": "odd", "target": "t", "sync": "full"})
    error = result.desc if job == "backup" else server.finish_job("j")["data"]["error"]
    assert error == "Source and target image have different sizes"


def test_a_filter_names_no_format(server, images, odd):
    server.execute("blockdev-add", {"driver": "copy-on-read", "node-name": "filter", "file": "odd"})
    for job in ("drive-backup", "drive-mirror"):
        arguments = {"job-id": "j", "device": "filter", "target": str(images.dir / "target"), "sync": "full"}
        assert server.error(job, arguments) == "Format driver 'copy-on-read' does not support image creation"
    assert not (images.dir / "target").exists()


def pieces(sectors, granularity):
    """All sectors of the disk that are marked when these are."""
    unit = granularity // 512
    return {at for sector in sectors for at in range(sector // unit * unit, (sector // unit + 1) * unit) if at * 512 < ROUNDED}


@pytest.mark.parametrize("granularity", [512, 4096])
@pytest.mark.parametrize("other", [512, 4096])
def test_bitmaps_of_the_rounded_disk(server, images, odd, granularity, other):
    """Both end with the same sector: the marks of one may be those of the other."""
    server.add_image("whole", images.create("whole", size=ROUNDED))
    server.add_image("longer", images.create("longer", size=ROUNDED + 512))
    sizes = {"odd": granularity, "whole": other, "longer": other}
    for node, size in sizes.items():
        server.block_dirty_bitmap_add(node=node, name="b", granularity=size)
    with server.export("odd", writable=True) as guest:
        guest.pwrite(b"\1" * 512, 0)
        guest.pwrite(b"\1" * 512, SIZE // 512 * 512 - 512)
    with server.export("whole", writable=True) as guest:
        guest.pwrite(b"\1" * 512, ROUNDED - 512)
    marked = {"odd": {0, SIZE // 512 - 1}, "whole": {SIZE // 512}}
    for node, source in (("whole", "odd"), ("odd", "whole")):
        server.block_dirty_bitmap_merge(node=node, target="b", bitmaps=[{"node": source, "name": "b"}])
        marked[node] = pieces(marked[node], sizes[node]) | pieces(pieces(marked[source], sizes[source]), sizes[node])
        # The last piece is counted whole.
        assert server.query_node(node)["dirty-bitmaps"][0]["count"] == len({at * 512 // sizes[node] for at in marked[node]}) * sizes[node]
    error = server.error("block-dirty-bitmap-merge", {"node": "longer", "target": "b", "bitmaps": [{"node": "odd", "name": "b"}]})
    assert error == f"Bitmaps are of different sizes (destination size is {ROUNDED + 512}, source size is {ROUNDED}) and can't be merged"
    # What is copied before it is overwritten is chosen by marks of either.
    server.add_image("scratch", images.create("scratch", size=ROUNDED))
    server.blockdev_add(driver="copy-before-write", node_name="filter", file="whole", target="scratch", bitmap={"node": "odd", "name": "b"})
