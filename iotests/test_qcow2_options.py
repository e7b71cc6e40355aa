"""qcow2: changing the size, run-time options, what a corrupt image says, what may be opened, and the tools."""

import itertools
import re
import struct
import subprocess
from pathlib import Path

import pytest

from blockbed_iotests import Image, qemu_img

MIB = 1 << 20
REFCOUNT_TABLE, REFCOUNT_BLOCK, L1_TABLE, L2_TABLE = 0x10000, 0x20000, 0x30000, 0x40000


def poke(image, offset, value):
    with open(image.path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(">Q", value))


def read_back(server, node, offset, length):
    with server.export(node, f"read{offset}") as nbd:
        return nbd.pread(length, offset)


# ---------------------------------------------------------------------- caches


@pytest.mark.parametrize("options, kept", [
    ({"l2-cache-size": 8192}, False),
    ({"l2-cache-size": MIB}, True),
    ({"l2-cache-size": MIB, "l2-cache-entry-size": 512}, True),
    ({"cache-size": 65536, "refcount-cache-size": 49152}, False),
    ({"l2-cache-size": MIB, "cache-clean-interval": 600}, True),
], ids=str)
def test_tables_are_kept_as_the_cache_is_large(server, images, options, kept):
    """Forty L2 tables are read; once more, when no table can be read any more."""
    image = images.create("image.qcow2", size=80 * MIB, cluster_size=4096, preallocation="metadata")
    file = {"driver": "file", "filename": str(image.path)}
    server.blockdev_add(driver="qcow2", node_name="n", **options, file={
        "driver": "blkdebug", "image": file, "set-state": [{"event": "flush_to_disk", "state": 1, "new_state": 2}],
        "inject-error": [{"event": "l2_load", "state": 2}]})
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"x" * 4096, 0)
        for table in range(40):
            nbd.pread(512, table * 2 * MIB)
        nbd.flush()
        failed = 0
        for table in range(40):
            try:
                nbd.pread(512, table * 2 * MIB)
            except OSError:
                failed += 1
    assert failed == 0 if kept else failed > 20


# ---------------------------------------------------------------------- block_resize


@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096}, {"compat": "0.10"}, {"refcount_bits": 1}, {"extended_l2": "on"}], ids=str)
def test_a_disk_grows_and_shrinks(server, images, options):
    image = images.create("image.qcow2", size=8 * MIB, **options).fill((0, "8M", 1))
    server.add_image("n", image)
    server.block_resize(node_name="n", size=16 * MIB)
    assert server.query_node("n")["image"]["virtual-size"] == 16 * MIB
    server.block_resize(node_name="n", size=3 * MIB)
    assert server.query_node("n")["image"]["virtual-size"] == 3 * MIB
    # What was cut off is not there when the disk grows again.
    server.block_resize(node_name="n", size=5 * MIB)
    server.stop()
    image.check()
    assert image.content() == b"\1" * (3 * MIB) + bytes(2 * MIB)


def test_the_file_of_a_disk_that_shrinks_gets_shorter(server, images):
    """Blocks of counts that count nothing any more do not keep it long."""
    image = images.create("image.qcow2", size=256 * MIB, cluster_size=4096).fill((0, "64M", 1), ("200M", "1M", 2))
    server.add_image("n", image)
    server.block_resize(node_name="n", size=3 * MIB)
    assert image.file_size < 4 * MIB
    server.block_resize(node_name="n", size=256 * MIB)
    with server.export("n", writable=True) as nbd:
        for offset in range(100 * MIB, 148 * MIB, 8 * MIB):
            nbd.pwrite(b"\3" * (8 * MIB), offset)
    server.stop()
    image.check()
    image.read(0, "3M", 1)
    image.read("3M", "97M", 0)
    image.read("100M", "48M", 3)


def test_shrinking_leaves_snapshots_alone(server, images):
    image = images.create("image.qcow2", size=8 * MIB).fill((0, "8M", 1))
    qemu_img("snapshot", "-c", "snap", image.path)
    server.add_image("n", image)
    server.block_resize(node_name="n", size=4 * MIB)
    server.stop()
    image.check()
    qemu_img("snapshot", "-a", "snap", image.path)
    image.check()
    assert image.content() == b"\1" * (8 * MIB)


def test_sizes_that_are_refused(server, images):
    server.add_image("n", images.create("image.qcow2", size=8 * MIB))
    raw = images.create("image.raw", "raw", MIB)
    server.add_image("r", raw)
    assert server.error("block_resize", {"node-name": "n", "size": -1}) == "Parameter 'size' expects a >0 size"
    assert server.error("block_resize", {"node-name": "n", "size": 100}) == "The new size must be a multiple of 512"
    assert server.error("block_resize", {"node-name": "r", "size": 1 << 62}) == "Could not resize file: File too large"
    assert server.error("block_resize", {"size": 512}) == "Cannot find device='' nor node-name=''"
    server.block_resize(node_name="r", size=3 * MIB)
    assert raw.file_size == 3 * MIB
    server.block_resize(node_name="r", size=0)
    assert raw.file_size == 0


def test_what_forbids_a_new_size(server, images):
    base = images.create("base.qcow2", size=8 * MIB)
    overlay = images.create("overlay.qcow2", size=None, backing=base)
    server.add_image("n", overlay)
    below = next(node["node-name"] for node in server.execute("query-named-block-nodes") if node["file"] == str(base.path) and node["drv"] == "qcow2")
    assert server.error("block_resize", {"node-name": below, "size": 512}).endswith("is in use")
    server.add_image("ro", images.create("ro.qcow2", size=MIB), read_only=True)
    assert server.error("block_resize", {"node-name": "ro", "size": 2 * MIB}) == "Image is read-only"
    old = images.create("old.qcow2", size=MIB, compat="0.10")
    qemu_img("snapshot", "-c", "snap", old.path)
    server.add_image("old", old)
    assert server.error("block_resize", {"node-name": "old", "size": 2 * MIB}) == "Can't resize a v2 image which has snapshots"


@pytest.mark.manners("system")
def test_growing_with_preallocation(server, images):
    image = images.create("image.qcow2", size=MIB)
    raw = images.create("image.raw", "raw", MIB)
    server.add_image("n", image)
    server.add_image("r", raw)
    for number, mode in enumerate(("metadata", "falloc", "full"), start=2):
        assert server.hmp(f'qemu-io n "truncate -m {mode} {number}M"') == ""
    assert server.hmp('qemu-io n "truncate -m full 1M"') == "Preallocation can't be used for shrinking an image\n"
    assert server.hmp('qemu-io r "truncate -m metadata 2M"') == "Unsupported preallocation mode: metadata\n"
    assert server.hmp('qemu-io r "truncate -m full 2M"') == ""
    assert server.hmp('qemu-io r "truncate -m falloc 1M"') == "Cannot use preallocation for shrinking files\n"
    assert server.hmp('qemu-io r "truncate -m full 4E"') == "Could not resize file: File too large\n"
    assert server.hmp('qemu-io r "truncate -m falloc 4E"') == "Could not preallocate new data: File too large\n"
    server.stop()
    image.check()
    assert image.content() == bytes(4 * MIB)
    assert image.file_size >= 3 * MIB
    assert raw.file_size == 2 * MIB


@pytest.mark.parametrize("raw", ["on", "off"])
def test_a_disk_with_a_data_file_grows_while_nobody_writes(server, images, raw):
    """What its last cluster holds behind the old end is zeroed, in the data file."""
    size = MIB + 512
    image = images.create("image.qcow2", size=size, data_file=images.dir / "data.raw", data_file_raw=raw)
    image.fill((MIB, 512, 1))
    server.add_image("n", image)
    server.block_resize(node_name="n", size=2 * MIB)
    server.stop()
    assert image.content() == bytes(MIB) + b"\x01" * 512 + bytes(MIB - 512)
    image.check()


@pytest.mark.differs("its assertion about a permission fails when such an image shrinks", server="qemu")
@pytest.mark.parametrize("raw", ["on", "off"])
def test_the_data_file_has_the_size_of_the_disk(server, images, raw):
    data = images.dir / "data.raw"
    image = images.create("image.qcow2", size=8 * MIB, data_file=data, data_file_raw=raw).fill((0, "8M", 1))
    server.add_image("n", image)
    sizes = []
    for size in (16, 4, 6):
        server.block_resize(node_name="n", size=size * MIB)
        sizes.append(data.stat().st_size // MIB)
    assert sizes == [16, 4, 6]
    server.stop()
    image.check()
    assert image.content() == b"\1" * (4 * MIB) + bytes(2 * MIB)
    if raw == "on":
        assert data.read_bytes() == image.content()


# ---------------------------------------------------------------------- options


def test_sizes_of_caches(server, images):
    image = images.create("image.qcow2", size=MIB)
    old = images.create("old.qcow2", size=MIB, compat="0.10")

    def error(image=image, **options):
        return server.error("blockdev-add", {
            "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)},
            **{name.replace("_", "-"): value for name, value in options.items()}})

    assert error(cache_size=MIB, l2_cache_size=MIB, refcount_cache_size=1) == "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
    assert error(cache_size=MIB, l2_cache_size=2 * MIB) == "l2-cache-size may not exceed cache-size"
    assert error(cache_size=MIB, refcount_cache_size=2 * MIB) == "refcount-cache-size may not exceed cache-size"
    assert error(refcount_cache_size=(1 << 63) - 1) == "Refcount cache size too big"
    for size in (0, 511, 513, 128 << 10):
        assert error(l2_cache_entry_size=size) == "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"
    assert error(cache_clean_interval=1 << 32) == "Cache clean interval too big"
    assert error(image=old, lazy_refcounts=True) == "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
    assert error(detect_zeroes="unmap") == "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
    assert error(encrypt={"format": "luks"}) == "No encryption in image header, but options specified format 'luks'"
    assert error(data_file={"driver": "null-co"}) == "'data-file' can only be set for images with an external data file"


@pytest.mark.manners("system")
def test_options_of_a_drive(server, images):
    """They are text: sizes have suffixes, and mistakes their own words."""
    image = images.create("image.qcow2", size=MIB)

    def add(options):
        answer = server.hmp(f"drive_add dummy if=none,id=d,file={image.path},format=qcow2,{options}")
        if answer == "OK\n":
            server.hmp("drive_del d")
        return answer

    suffixes = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.\n"
    assert add("l2-cache-size=1G,cache-clean-interval=1,overlap-check=all") == "OK\n"
    assert add("overlap-check.template=none,overlap-check.main-header=on") == "OK\n"
    assert add("detect-zeroes=unmap") == "OK\n"
    assert add("cache-size=1M,refcount-cache-size=2M") == "refcount-cache-size may not exceed cache-size\n"
    assert add("l2-cache-size=x") == "Parameter 'l2-cache-size' expects a non-negative number below 2^64\n" + suffixes
    assert add("cache-clean-interval=x") == "Parameter 'cache-clean-interval' expects a number\n"
    modes = "Allowed are any of the following: none, constant, cached, all\n"
    assert add("overlap-check=foo") == f"Unsupported value 'foo' for qcow2 option 'overlap-check'. {modes}"
    assert add("overlap-check.template=foo") == f"Unsupported value 'foo' for qcow2 option 'overlap-check'. {modes}"
    assert add("overlap-check.main-header=x") == "Parameter 'overlap-check.main-header' expects 'on' or 'off'\n"
    assert add("l2-cache-entry-size=3k") == "L2 cache entry size must be a power of two between 512 and the cluster size (65536)\n"


@pytest.mark.parametrize("mode,kept", [("off", True), ("on", False), ("unmap", False)])
def test_detect_zeroes(server, images, mode, kept):
    image = images.create("image.qcow2", size=MIB).fill((0, "1M", 1))
    server.add_image("n", image, detect_zeroes=mode, discard="unmap")
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(bytes(MIB), 0)
    server.stop()
    image.check()
    assert image.content() == bytes(MIB)
    maps = qemu_img_map(image)
    assert all(run["zero"] is (not kept) for run in maps)
    assert any("offset" in run for run in maps) is (mode != "unmap")


NEWER = pytest.mark.differs("discard-no-unref is of QEMU 8.1", server="qemu")


@NEWER
@pytest.mark.parametrize("discard", ["ignore", "unmap"])
def test_discarded_clusters_stay_allocated(server, images, discard):
    image = images.create("image.qcow2", size=MIB).fill((0, "1M", 1))
    before = qemu_img_map(image)
    server.add_image("n", image, discard="unmap", discard_no_unref=True, pass_discard_request=discard == "unmap")
    with server.export("n", writable=True) as nbd:
        nbd.trim(MIB // 2, 0)
        nbd.zero(MIB // 2, MIB // 2)
        assert nbd.pread(MIB, 0) == bytes(MIB)
        nbd.pwrite(b"\x02" * 65536, 65536)
        nbd.flush()
    server.stop()
    image.check()
    assert image.content() == bytes(65536) + b"\x02" * 65536 + bytes(MIB - 2 * 65536)
    maps = qemu_img_map(image)
    assert [run["offset"] - run["start"] for run in maps] == [before[0]["offset"]] * len(maps)
    assert image.path.stat().st_blocks * 512 < MIB // 2 if discard == "unmap" else image.path.stat().st_blocks * 512 > MIB


@NEWER
def test_discarded_clusters_stay_allocated_in_version_3_only(server, images):
    image = images.create("image.qcow2", size=MIB, compat="0.10")
    node = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}, "discard-no-unref": True}
    assert server.error("blockdev-add", node) == "discard-no-unref is only supported since qcow2 version 3"


def qemu_img_map(image):
    import json

    return json.loads(subprocess.run(["qemu-img", "map", "--output=json", str(image.path)], check=True, capture_output=True, text=True).stdout)


# ---------------------------------------------------------------------- corruption

PREVENTING = "Preventing invalid write on metadata (overlaps with {})"
CORRUPT = {
    "data on the refcount table": ({L2_TABLE: 1 << 63 | REFCOUNT_TABLE}, "write", True, PREVENTING.format("refcount table"), (REFCOUNT_TABLE, 65536)),
    "data on the L1 table": ({L2_TABLE: 1 << 63 | L1_TABLE}, "write", True, PREVENTING.format("active L1 table"), (L1_TABLE, 65536)),
    "data on the L2 table": ({L2_TABLE: 1 << 63 | L2_TABLE}, "write", True, PREVENTING.format("active L2 table"), (L2_TABLE, 65536)),
    "L1 entry": ({L1_TABLE: 1 << 63 | 0x42A00}, "read", True, "L2 table offset 0x42a00 unaligned (L1 index: 0)", None),
    "L2 entry": ({L2_TABLE: 1 << 63 | 0x52A00}, "read", True, "Cluster allocation offset 0x52a00 unaligned (L2 offset: 0x40000, L2 index: 0)", None),
    "L2 entry, written": ({L2_TABLE: 1 << 63 | 0x52A00}, "write", True, "Data cluster offset 0x52a00 unaligned (guest offset: 0)", None),
    "zero entry, written": ({L2_TABLE: 1 << 63 | 0x52A01}, "write", True, "Preallocated zero cluster offset 0x52a00 unaligned (guest offset: 0)", None),
    "refcount block": ({REFCOUNT_TABLE: 0x22A00}, "write new", True, "Refblock offset 0x22a00 unaligned (reftable index: 0)", None),
    "no refcount block": ({REFCOUNT_TABLE: 0}, "write new", True, PREVENTING.format("refcount table"), (REFCOUNT_TABLE, 65536)),
    "no counts": ({REFCOUNT_BLOCK: 0}, "write new", True, PREVENTING.format("qcow2_header"), (0, 65536)),
    "L1 entry, read-only": ({L1_TABLE: 1 << 63 | 0x42A00}, "read", False, "L2 table offset 0x42a00 unaligned (L1 index: 0)", None),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corruption_is_told_and_marked(server, images, case):
    """By an event, on standard error, and in the header when the image may be written."""
    pokes, request, fatal, message, where = CORRUPT[case]
    image = images.create("image.qcow2", size=8 * MIB).fill((0, "64k", 1))
    for offset, value in pokes.items():
        poke(image, offset, value)
    server.add_image("n", image, read_only=not fatal)
    with server.export("n", writable=fatal) as nbd:
        for _ in range(2):
            with pytest.raises(OSError):
                if request == "read":
                    nbd.pread(65536, 0)
                else:
                    nbd.pwrite(b"\2" * 65536, 0 if request == "write" else MIB)
    event = server.wait_event("BLOCK_IMAGE_CORRUPTED")["data"]
    expected = {"device": "", "node-name": "n", "msg": message, "fatal": fatal}
    if where:
        expected |= {"offset": where[0], "size": where[1]}
    assert event == expected
    server.stop()
    if fatal:
        line = f"qcow2: Marking image as corrupt: {message}; further corruption events will be suppressed\n"
    else:
        line = f"qcow2: Image is corrupt: {message}; further non-fatal corruption events will be suppressed\n"
    assert server.stderr == line
    assert image.path.read_bytes()[79] & 2 == (2 if fatal else 0)


def test_corruption_that_a_snapshot_meets(server, images):
    image = images.create("image.qcow2", size=8 * MIB).fill((0, "64k", 1))
    poke(image, L2_TABLE, 1 << 63 | 0x52A00)
    server.add_image("n", image)
    error = server.error("blockdev-snapshot-internal-sync", {"device": "n", "name": "s"})
    assert error.startswith("Failed to create snapshot 's' on device 'n': ")
    event = server.wait_event("BLOCK_IMAGE_CORRUPTED")["data"]
    assert (event["fatal"], event["msg"]) == (True, "Cluster allocation offset 0x52a00 unaligned (L2 offset: 0x40000, L2 index: 0)")


# ---------------------------------------------------------------------- files that images name


def test_a_data_file_is_not_named_through_a_protocol(server, images):
    image = images.create("image.qcow2", size=MIB, data_file=images.dir / "data.raw")
    raw = image.path.read_bytes()
    name = str(images.dir / "data.raw").encode()
    image.path.write_bytes(raw.replace(name, b"nbd:localhost:1".ljust(len(name), b"x")))
    error = server.error("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}})
    assert error.startswith("Could not open 'nbd:localhost:1") and error.endswith("No such file or directory")


# ---------------------------------------------------------------------- tools


MAP = ["", "--output=json", "-s 1M -l 1536k --output=json", "-s 1M -l 1M", "-s 63M --output=json", "-s 100M", "-s 100M --output=json", "-l 0",
       "--output=foo", "-s x", "-l -1", "-f raw -l 64k --output=json"]
MEASURE = ["--size 1G -O qcow2", "--size 1G -O qcow2 --output=json", "--size 0 -O qcow2", "--size 1023 -O qcow2", "--size 1023 -O raw", "--size 8E -O qcow2",
           "--size 7E -O qcow2", "--size x", "--size 1T -O qcow2 -o extended_l2=on,refcount_bits=1", "--size 1P -O qcow2 -o cluster_size=512",
           "--size 1E -O qcow2 -o cluster_size=2M", "--size 1 -O zz", "--size 1 -O file", "--size 1 -O qcow2 -o foo=1", "--size 1 -O raw -o foo=1",
           "--size 1 -O qcow2 -o cluster_size=3k", "--size 1 -O qcow2 -o cluster_size=x", "--size 1 -O qcow2 -o preallocation=zz",
           "--size 1 -O qcow2 -o compat=v3", "--size 1 -O qcow2 -o refcount_bits=3", "--size 1 -O qcow2 -o refcount_bits=8,compat=0.10",
           "--size 1 -O qcow2 -o preallocation=zz,refcount_bits=3", "--size 1 -O qcow2 -o preallocation=zz,compat=v3",
           "--size 1 -O qcow2 -o preallocation=zz,extended_l2=on,cluster_size=4k", "--size 1 -O qcow2 -o preallocation=zz,cluster_size=3k",
           "--size 1 -O qcow2 -o extended_l2=on,cluster_size=4k", "--size 1 -O qcow2 -o lazy_refcounts=x", "", "-f raw --size 1", "--output=foo --size 1"]
MEASURE_IMAGE = ["-O qcow2", "-O raw", "", "-O qcow2 --output=json", "-O qcow2 -o cluster_size=4k", "-O qcow2 -o cluster_size=2M", "-O qcow2 -o preallocation=full",
                 "-O qcow2 -o preallocation=metadata", "-O qcow2 -o compat=0.10", "-O qcow2 -o backing_file=foo", "-O qcow2 --size 1M"]


def outcomes(target, tool, arguments, directory):
    """Status, output and complaints of the tool of this program and of qemu-img, under one name."""
    ours = ["qemu-img"] if target.kind == "qemu" else [target.program.system[0]]
    for command in (ours, ["qemu-img"]):
        done = subprocess.run([*command, tool, *arguments], cwd=directory, capture_output=True, text=True)
        yield done.returncode, done.stdout, done.stderr.replace(Path(command[0]).name, "qemu-img")


@pytest.fixture
def chain(images):
    """Every kind of cluster, in two layers."""
    base = images.create("base.qcow2", size=64 * MIB)
    base.io("write -P 1 0 3M", "write -z 4M 1M", "write -c -P 3 6M 64k")
    images.create("top.qcow2", size=None, backing=base).io("write -P 1 1M 1M", "write -z 2M 64k")
    qemu_img("bitmap", "--add", base.path, "b")
    return images


def agree(target, tool, arguments, directory):
    ours, theirs = outcomes(target, tool, arguments, directory)
    assert ours == theirs, (tool, arguments)


@pytest.mark.manners("system")
def test_map(target, chain):
    for name in ("base.qcow2", "top.qcow2", "nofile"):
        for arguments in MAP:
            agree(target, "map", [*arguments.split(), name], chain.dir)
    agree(target, "map", ["--image-opts", "driver=qcow2,file.filename=base.qcow2"], chain.dir)
    # Parts of clusters: with a place and nothing there, and what shows through them.
    for name, backing in (("parts.qcow2", None), ("parts-top.qcow2", Image(chain.dir / "base.qcow2", "qcow2"))):
        parts = chain.create(name, size=None if backing else 64 * MIB, backing=backing, extended_l2="on")
        parts.io("write -P 2 66k 4k", "write -P 2 3M 2k", "write -z 300k 8k", "write -P 3 8000k 2k", "write -z 5M 4k")
        for arguments in MAP:
            agree(target, "map", [*arguments.split(), name], chain.dir)
    for options in ("base.qcow2", "file=x", "foo=1", "file.filename=top.qcow2", "driver=qcow2,file.filename=top.qcow2,lazy-refcounts=foo"):
        for tool, arguments in (("map", []), ("measure", ["-O", "qcow2"]), ("amend", ["-o", "compat=1.1"])):
            agree(target, tool, [*arguments, "--image-opts", options], chain.dir)
    agree(target, "map", [], chain.dir)


@pytest.mark.manners("system")
def test_measure(target, chain):
    for arguments in MEASURE:
        agree(target, "measure", arguments.split(), chain.dir)
    for name in ("base.qcow2", "top.qcow2", "nofile"):
        for arguments in MEASURE_IMAGE:
            agree(target, "measure", [*arguments.split(), name], chain.dir)
    agree(target, "measure", ["-f", "raw", "-O", "qcow2", "base.qcow2"], chain.dir)


SNAPSHOT = ["one", "1", "two", "2", "snapshot.name=one", "snapshot.id=1", "snapshot.id=1,snapshot.name=one", "snapshot.id=1,snapshot.name=two",
            "snapshot.name=1", "snapshot.id=7", "none", "", "name=one", "snapshot.foo=1", "snapshot.id=1,foo=2", "snapshot.id"]


@pytest.mark.manners("system")
def test_measure_of_an_internal_snapshot(target, images):
    """The data is the snapshot's, the size of the disk is what it is now."""
    image = images.create("image.qcow2", size=64 * MIB)
    image.io("write 0 2M")
    qemu_img("snapshot", "-c", "one", image.path)
    image.io("write 8M 4M", "discard 0 1M")
    qemu_img("resize", image.path, "1G")
    image.io("write 600M 4M")
    qemu_img("snapshot", "-c", "two", image.path)
    for name in SNAPSHOT:
        agree(target, "measure", ["-O", "qcow2", "-l", name, "image.qcow2"], images.dir)
    qemu_img("resize", "--shrink", image.path, "32M")
    for arguments in ("-O qcow2 -l two", "-O raw -l one --output=json", "-O zz -l none", "-O zz -l one", "-O qcow2 -l two -l snapshot.id=1",
                      "-O qcow2 -l snapshot.id=1 -l two", "-f raw -O qcow2 -l one"):
        agree(target, "measure", [*arguments.split(), "image.qcow2"], images.dir)
    for arguments in ("-l one --size 1M", "-l snapshot.foo=1 --size 1M", "-O qcow2 -l one nofile"):
        agree(target, "measure", arguments.split(), images.dir)


OBJECT = [
    "foo,id=x", "foo", "secret", "secret,id=s", "secret,id=s,data=x,foo=1", "secret,id=1x,data=x", "id=s", "secret,id=s,data", "iothread,id=x",
    "memory-backend-ram,id=x,size=1M", '{"qom-type":"foo","id":"x"}', '{"a":1', "throttle-group,id=x", "secret,id=s,data=x",
]


@pytest.mark.manners("system")
def test_objects_of_the_tools(target, chain):
    """They are made first, whether something asks for them or not."""
    for number, (tool, arguments) in enumerate((("measure", ["--size", "1G"]), ("map", ["base.qcow2"]), ("check", ["base.qcow2"]))):
        for text in OBJECT if number == 0 else OBJECT[:1] + OBJECT[-1:]:
            agree(target, tool, ["--object", text, *arguments], chain.dir)
    agree(target, "amend", ["--object", "foo,id=x", "-o", "compat=1.1", "nofile"], chain.dir)
    agree(target, "amend", ["-t", "foo", "-o", "size=3M", "top.qcow2"], chain.dir)
    agree(target, "measure", ["--object", "secret,id=s,data=x", "--object", "secret,id=s,data=x", "--size", "1G"], chain.dir)
    agree(target, "measure", ["--object", "foo", "--size", "x"], chain.dir)


ENCRYPT = [
    "encrypt.format=luks", "encrypt.format=luks,encrypt.key-secret=t", "encrypt.format=luks,encrypt.key-secret=g", "encrypt.format=luks,encrypt.key-secret=",
    "encrypt.format=luks,encryption=on", "encrypt.format=luks,cluster_size=3k", "encrypt.format=luks,encrypt.foo=1", "encrypt.format=aes", "encryption=on",
    "encrypt.key-secret=s",
]


@pytest.mark.manners("system")
def test_measure_of_an_encrypted_image(target, images):
    objects = ["--object", "secret,id=s,data=x", "--object", "throttle-group,id=g"]
    for options in ENCRYPT:
        agree(target, "measure", [*objects, "--size", "1G", "-O", "qcow2", "-o", options], images.dir)


@pytest.mark.differs("knows how long the header of an encrypted image is", server="qemu")
@pytest.mark.manners("system")
def test_measure_knows_no_encrypted_image(target, images):
    tool = "qemu-img" if target.kind == "qemu" else target.program.system[0]
    done = subprocess.run(
        [tool, "measure", "--object", "secret,id=s,data=x", "--size", "1G", "-O", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s"],
        cwd=images.dir, capture_output=True, text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.endswith(": Encrypted qcow2 images are not supported yet\n")


AMEND = [
    ({}, "compat=0.10"), ({"compat": "0.10"}, "compat=1.1"), ({}, "compat=0.9"), ({}, "lazy_refcounts=on"),
    ({"compat": "0.10"}, "lazy_refcounts=on"), ({"compat": "0.10"}, "compat=1.1,lazy_refcounts=on"),
    ({"lazy_refcounts": "on"}, "compat=0.10"), ({"lazy_refcounts": "on"}, "lazy_refcounts=off"),
    *(({}, f"refcount_bits={bits}") for bits in (1, 2, 4, 8, 16, 32, 64, 3, 0, 128)),
    ({"refcount_bits": 1, "cluster_size": 512}, "refcount_bits=64"), ({"refcount_bits": 64, "cluster_size": 512}, "refcount_bits=1"),
    ({"compat": "0.10"}, "refcount_bits=8"), ({"compat": "0.10"}, "refcount_bits=8,compat=1.1"), ({"refcount_bits": 8}, "compat=0.10"),
    ({"refcount_bits": 8}, "compat=0.10,refcount_bits=16"), ({}, "size=16M"), ({}, "size=4M"), ({}, "size=100"), ({}, "size=0"),
    ({}, "cluster_size=4k"), ({}, "foo=1"), ({}, "backing_file=x"), ({}, "backing_file="), ({}, "backing_fmt=qcow2"), ({}, "data_file=x"),
    ({}, "data_file_raw=on"), ({"extended_l2": "on"}, "compat=0.10"), ({}, "lazy_refcounts=x"),
    ({}, "compat=0.10,refcount_bits=8"), ({"refcount_bits": 8}, "compat=0.10,refcount_bits=4"), ({}, "size=x"),
    ({"compression_type": "zstd"}, "compat=0.10"), ({"compression_type": "zstd", "extended_l2": "on"}, "compat=0.10"),
]


def facts(image):
    info = image.info()
    for name in ("filename", "actual-size", "dirty-flag"):
        info.pop(name, None)
    return info


@pytest.mark.manners("system")
@pytest.mark.parametrize("create,options", AMEND, ids=str)
def test_amend(target, images, create, options):
    """The same images to this program's tool and to qemu-img: the same words, and images of the same kind and content."""
    results = []
    for command in (["qemu-img"] if target.kind == "qemu" else [target.program.system[0]], ["qemu-img"]):
        image = images.create("image.qcow2", size=8 * MIB, **create)
        image.io("write -P 1 0 3M", "write -z 1M 64k", "write -z 5M 1M")
        done = subprocess.run([*command, "amend", "-o", options, "image.qcow2"], cwd=images.dir, capture_output=True, text=True)
        image.check()
        results.append((done.returncode, done.stdout, done.stderr.replace(Path(command[0]).name, "qemu-img"), facts(image), image.content()))
        image.path.unlink()
    assert results[0] == results[1]


AMEND_SAYS = [
    *(f"-o {option} a.qcow2" for option in (
        "encryption=on", "encryption=x", "encrypt.format=luks", "encrypt.state=active", "encrypt.state=x,compat=x", "encrypt.keyslot=1",
        "encrypt.iter-time=x", "encrypt.foo=1", "cluster_size=1M,encrypt.state=x", "cluster_size=x", "cluster_size=4k,foo=1",
        "preallocation=x", "extended_l2=x", "size=x,cluster_size=4k", "compat=x,foo=1", "size", "lazy_refcounts", "help=1", "helpx",
        "backing_fmt=", "backing_fmt=raw", "backing_file=", "backing_file=a.qcow2",
        # Two faults at once: which of them is told.
        *map(",".join, itertools.permutations((
            "data_file=x", "data_file_raw=on", "backing_file=x", "refcount_bits=3", "lazy_refcounts=on", "size=x", "compat=0.10",
        ), 2)),
        "lazy_refcounts=on,compat=0.10,refcount_bits=3", "lazy_refcounts=on,compat=0.10,backing_file=x",
        "refcount_bits=8,compat=0.10,backing_file=x",
    )),
    *(f"-o {option} {image}.qcow2" for image in ("overlay", "no-format") for option in (
        "backing_file=a.qcow2", "backing_file=a.qcow2,backing_fmt=qcow2", "backing_fmt=qcow2", "backing_file=x", "backing_file=",
        "backing_fmt=raw", "backing_file=a.qcow2,backing_fmt=raw", "backing_file=a.qcow2,backing_fmt=",
    )),
    "-p -o size=2M a.qcow2", "-p -o compat=1.1 a.qcow2", "-p -q -o size=2M a.qcow2", "-p -o foo=1 a.qcow2", "-p -o backing_file=x a.qcow2",
    "-p -o compat=x a.qcow2", "-p -o size=1M nofile", "-p -o size=1M", "-o help", "-o help a.qcow2", "-p -o help a.qcow2", "-f qcow2 -o help",
    "-f raw -o help", "-f foo -o help", "-o ? a.qcow2", "-o compat=1.1,help a.qcow2", "-o help nofile", "-o help -t x a.qcow2",
    "-f qcow2 -o help -t x a b", "-o size=2M -o help a.qcow2",
]


@pytest.mark.manners("system")
def test_what_amend_says(target, images):
    """Words and status; what an option is good for each program says in its own words."""
    for arguments in AMEND_SAYS:
        results = []
        for command in ("qemu-img" if target.kind == "qemu" else target.program.system[0], "qemu-img"):
            base = images.create("a.qcow2", size=MIB)
            images.create("overlay.qcow2", size=None, backing=base)
            no_format = images.create("no-format.qcow2", size=None, backing=base)
            data = bytearray(no_format.path.read_bytes())
            data[data.index(b"\xe2\x79\x2a\xca")] ^= 0x80
            no_format.path.write_bytes(data)
            done = subprocess.run([command, "amend", *arguments.split()], cwd=images.dir, capture_output=True)
            words = re.sub(r" +- .*", "", done.stdout.decode())
            results.append((done.returncode, words, done.stderr.decode().replace(Path(command).name, "qemu-img")))
        assert results[0] == results[1], arguments


@pytest.mark.manners("system")
@pytest.mark.differs("version and width have changed when it comes to what it refuses", server="qemu")
@pytest.mark.parametrize("options", ["refcount_bits=32,backing_file=x", "compat=1.1,refcount_bits=32,backing_file=x"])
def test_amend_that_is_refused_changes_nothing(target, images, options):
    tool = "qemu-img" if target.kind == "qemu" else target.program.system[0]
    image = images.create("image.qcow2", size=MIB, compat="0.10" if "compat" in options else "1.1")
    before = image.path.read_bytes()
    assert subprocess.run([tool, "amend", "-o", options, image.path], capture_output=True).returncode == 1
    assert image.path.read_bytes() == before


@pytest.mark.manners("system")
def test_amend_keeps_what_zstd_compressed(target, images):
    tool = "qemu-img" if target.kind == "qemu" else target.program.system[0]
    image = images.create("image.qcow2", size=MIB, compression_type="zstd")
    image.io("write -c -P 1 0 64k")
    refused = subprocess.run([tool, "amend", "-o", "compat=0.10", "image.qcow2"], cwd=images.dir, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.endswith(
        "Cannot downgrade an image with zstd compression type and existing compressed clusters\n"
    )
    image.check()


@pytest.mark.manners("system")
def test_amend_with_snapshots_and_a_backing_file(target, images):
    tool = "qemu-img" if target.kind == "qemu" else target.program.system[0]

    def amend(name, options):
        return subprocess.run([tool, "amend", "-o", options, name], cwd=images.dir, capture_output=True, text=True)

    image = images.create("image.qcow2", size=8 * MIB).fill((0, "8M", 1))
    qemu_img("snapshot", "-c", "one", image.path)
    qemu_img("snapshot", "-c", "two", image.path)
    refused = amend("image.qcow2", "refcount_bits=1")
    assert refused.returncode == 1
    assert "Cannot decrease refcount entry width to 1 bits: Cluster at offset" in refused.stderr and "has a refcount of" in refused.stderr
    assert amend("image.qcow2", "refcount_bits=2").returncode == 0
    image.check()
    base = images.create("base.qcow2", size=MIB).fill((0, "1M", 1))
    overlay = images.create("overlay.qcow2", size=None, backing=base)
    overlay.io("write -z 64k 128k")
    assert amend("overlay.qcow2", "compat=0.10").returncode == 0
    overlay.check()
    assert overlay.content() == b"\1" * 65536 + bytes(131072) + b"\1" * (MIB - 196608)
