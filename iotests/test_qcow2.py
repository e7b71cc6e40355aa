"""qcow2: what the server writes is whole for `qemu-img check` and reads the same for everybody."""

import random
import struct

import pytest

from blockbed_iotests import Image, QmpError, qemu_img, qemu_io

SIZE = 2 << 20


def scribble(nbd, model, seed, count=60, largest=200_000):
    """Seeded guest writes of every kind, into the export and into the model."""
    choose = random.Random(seed)
    for number in range(count):
        kind = choose.choice(["write", "write", "unaligned", "zero", "small"])
        grain = 4096 if kind in ("write", "zero") else 1
        length = choose.randint(1, 600 if kind == "small" else max(1, largest // grain)) * (grain if kind != "small" else 1)
        length = min(length, len(model))
        offset = choose.randint(0, (len(model) - length) // grain) * grain
        if kind == "zero":
            nbd.zero(length, offset, no_hole=choose.random() < 0.5)
            model[offset : offset + length] = bytes(length)
        else:
            data = bytes([choose.randrange(1, 256)]) * length
            nbd.pwrite(data, offset)
            model[offset : offset + length] = data


def write_and_judge(server, image, model, seed, **options):
    """Writes through the server; then the tools and the server itself must find what was written."""
    server.add_image("n", image, discard="unmap", **options)
    with server.export("n", writable=True) as nbd:
        assert nbd.read_all() == model
        scribble(nbd, model, seed)
        assert nbd.read_all() == model
    server.block_export_del(id="export1", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    server.blockdev_del(node_name="n")
    image.check()
    assert image.content() == model
    server.add_image("n", image, read_only=True)
    with server.export("n", "again") as nbd:
        assert nbd.read_all() == model


KINDS = {
    "v2": {"compat": "0.10"},
    "v3": {"compat": "1.1"},
    **{f"cluster {size}": {"cluster_size": size} for size in [512 << shift for shift in range(13)]},
    "v2 cluster 512": {"compat": "0.10", "cluster_size": 512},
    "v2 cluster 2M": {"compat": "0.10", "cluster_size": 2 << 20},
    **{f"refcounts {bits}": {"refcount_bits": bits} for bits in (1, 2, 4, 8, 16, 32, 64)},
    "refcounts 1, cluster 512": {"refcount_bits": 1, "cluster_size": 512},
    "refcounts 64, cluster 512": {"refcount_bits": 64, "cluster_size": 512},
    "extended L2": {"extended_l2": "on"},
    **{f"extended L2, cluster {size}": {"extended_l2": "on", "cluster_size": size} for size in (16384, 1 << 17, 1 << 18, 1 << 19, 2 << 20)},
    "zstd": {"compression_type": "zstd"},
    "data file": {"data_file": "data.raw"},
    "data file, raw": {"data_file": "data.raw", "data_file_raw": "on"},
    "data file, extended L2": {"data_file": "data.raw", "extended_l2": "on"},
    "data file, raw, cluster 4096": {"data_file": "data.raw", "data_file_raw": "on", "cluster_size": 4096},
    "lazy": {"lazy_refcounts": "on"},
    "metadata": {"preallocation": "metadata"},
    "falloc": {"preallocation": "falloc"},
    "full": {"preallocation": "full"},
    "metadata, cluster 4096": {"preallocation": "metadata", "cluster_size": 4096},
}


def create_kind(images, kind):
    """An image of KINDS, and its data file beside it if it has one."""
    options = dict(KINDS[kind])
    if "data_file" in options:
        options["data_file"] = images.dir / options["data_file"]
    return images.create("image.qcow2", size=SIZE, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_image(server, images, kind):
    model = bytearray(SIZE)
    write_and_judge(server, create_kind(images, kind), model, kind)
    if KINDS[kind].get("data_file_raw"):
        assert (images.dir / "data.raw").read_bytes() == model


@pytest.mark.parametrize("kind", [
    "v2", "v3", "cluster 512", "cluster 4096", "cluster 1048576", "refcounts 1", "extended L2", "extended L2, cluster 16384", "zstd", "data file", "data file, raw",
])
def test_image_that_holds_every_kind_of_cluster(server, images, kind):
    """Data, explicit zeroes (v3), compressed clusters, holes: read right, and overwritten right."""
    image = create_kind(images, kind)
    commands = ["write -P 1 0 300k", "write -P 2 1M 64k", "write -P 3 1500k 512"]
    if kind != "v2":
        commands += ["write -z 64k 64k", "write -z -u 128k 64k", "write -z 1200k 64k"]
    image.io(*commands)
    cluster = image.info()["cluster-size"]
    if cluster <= 65536 and "data_file" not in KINDS[kind]:
        for number in range(3):
            image.io(f"write -c -P {10 + number} {SIZE // 8 * 7 + number * cluster} {cluster}")
    image.check()
    write_and_judge(server, image, bytearray(image.content()), kind)


@pytest.mark.manners("system")
@pytest.mark.differs("an I/O error", server="qemu")
def test_compressed_data_over_data(server, images):
    image = images.create("image.qcow2", size=SIZE).fill((0, "128k", 1))
    server.add_image("n", image)
    for byte in (3, 4):
        assert "wrote 65536/65536" in server.qemu_io("n", f"write -c -P {byte} 0 64k")
    server.stop()
    assert image.check()["compressed-clusters"] == 1
    image.read(0, "64k", 4)
    image.read("64k", "64k", 1)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_clusters(server, images, compression):
    """Written by qemu-img, of data that compresses well, badly and not at all."""
    choose = random.Random(compression)
    content = b"".join(
        (bytes([number]) * 65536, choose.randbytes(65536), choose.randbytes(20000) + bytes(45536))[number % 3]
        for number in range(SIZE // 65536)
    )
    plain = images.create("plain.raw", "raw", SIZE).fill_bytes(content)
    image = images.at("image.qcow2", "qcow2")
    qemu_img("convert", "-c", "-O", "qcow2", "-o", f"compression_type={compression}", plain.path, image.path)
    write_and_judge(server, image, bytearray(content), compression)


# ---------------------------------------------------------------------- backing chains


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_chain(server, images, base_format):
    """Three layers; only the top is written."""
    base = images.create("base", base_format, SIZE).fill((0, SIZE, 1))
    middle = images.create("middle.qcow2", size=None, backing=base, cluster_size=4096).fill(("100k", "300k", 2)).io("write -z 1M 100k")
    middle = images.at("middle.qcow2", "qcow2")
    top = images.create("top.qcow2", size=None, backing=middle).fill(("50k", "70k", 3))
    before = [base.content(), middle.content()]
    write_and_judge(server, top, bytearray(top.content()), base_format)
    assert [base.content(), middle.content()] == before


@pytest.mark.parametrize("base_size", [512, 100_352, SIZE // 2, SIZE, SIZE * 2])
@pytest.mark.parametrize("cluster", [512, 65536])
def test_backing_of_another_size(server, images, base_size, cluster):
    """Beyond the end of a short backing file there are zeroes, also in the cluster in which it ends."""
    base = images.create("base.raw", "raw", base_size).fill((0, base_size, 7))
    top = images.create("top.qcow2", size=SIZE, backing=base, cluster_size=cluster)
    model = bytearray((b"\7" * base_size + bytes(SIZE))[:SIZE])
    write_and_judge(server, top, model, base_size)


@pytest.mark.parametrize("extended", [False, True])
def test_zeroes_hold_when_the_backing_file_is_there_again(server, images, extended):
    """Without it a part of a cluster reads as zeroes before it is zeroed."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 7))
    options = {"extended_l2": "on", "cluster_size": 65536} if extended else {}
    top = images.create("top.qcow2", size=SIZE, backing=base, **options)
    server.add_image("top", top, backing=None)
    server.nbd_start()
    with server.export("top", writable=True) as nbd:
        nbd.zero(4096, 0)
        nbd.zero(512, 65536 * 3 + 512, no_hole=True)
        nbd.zero(65536 * 2, 65536 * 5 + 4096)
        nbd.pwrite(b"x" * 512, 65536 * 3)
    server.stop()
    content = top.content()
    assert content[:4096] == bytes(4096)
    assert content[65536 * 3 : 65536 * 3 + 1024] == b"x" * 512 + bytes(512)
    assert content[65536 * 5 + 4096 : 65536 * 7 + 4096] == bytes(65536 * 2)
    assert content[65536 * 8 : 65536 * 9] == b"\x07" * 65536
    top.check()


def test_a_long_chain(server, images):
    image = images.create("0.qcow2", size=SIZE).fill((0, SIZE, 1))
    for number in range(1, 12):
        image = images.create(f"{number}.qcow2", size=None, backing=image).fill((number * 65536, "64k", number + 1))
    write_and_judge(server, image, bytearray(image.content()), "long")


def test_relative_backing_names_are_relative_to_the_overlay(server, images):
    directory = images.dir / "sub"
    directory.mkdir()
    Image.create(directory / "base.qcow2", size=SIZE).fill((0, "64k", 9))
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", directory / "top.qcow2")
    server.add_image("n", Image(directory / "top.qcow2", "qcow2"))
    assert server.query_node("n")["backing_file"] == f"{directory}/base.qcow2" or server.query_node("n")["backing_file"] == "base.qcow2"
    with server.export("n") as nbd:
        assert nbd.pread(65536, 0) == b"\x09" * 65536


BASE = "DIR/base.qcow2"


@pytest.mark.parametrize("name, format, error", [
    (f'json:{{"file.filename": "{BASE}"}}', "qcow2", None),
    (f'json:{{"file.filename": "{BASE}"}}', None, None),
    (f'json:{{"driver": "qcow2", "file": {{"filename": "{BASE}"}}}}', None, None),
    ('json:{"driver": "foo"}', None, "Unknown driver 'foo'"),
    ("json:{}", None, "Must specify either driver or file"),
    ("host_device:/dev/null", "raw", None),
    (":x", "qcow2", "Unknown protocol ''"),
    ("foo:bar", "zzz", "Unknown driver 'zzz'"),
])
def test_what_a_backing_name_means(server, images, name, format, error):
    Image.create(images.dir / "base.qcow2", size=SIZE).fill((0, "64k", 9))
    path = images.dir / "top.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name.replace("DIR", str(images.dir)), "-F", "raw", path, SIZE)
    # No tool leaves the format away, or names one that there is not.
    raw = path.read_bytes()
    if format is None:
        raw = raw.replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78", 1)
    else:
        raw = raw.replace(b"\0\0\0\3raw\0\0\0\0\0", struct.pack(">I", len(format)) + format.encode().ljust(8, b"\0"), 1)
    path.write_bytes(raw)
    definition = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(path)}}
    if error:
        assert server.error("blockdev-add", definition) == f"Could not open backing file: {error}"
        return
    server.blockdev_add(definition)
    assert server.query_node("n")["backing_file_depth"] == 1
    with server.export("n") as nbd:
        assert nbd.pread(65536, 0) == (b"\x09" if "base" in name else b"\0") * 65536


@pytest.mark.parametrize("name, error", [
    ('json:{"file": "o"}', None),
    ('json:{"driver": "qcow2", "file": "o"}', None),
    ('json:{"file": "none"}', "Cannot find device='none' nor node-name='none'"),
    ('json:{"file": ""}', "Cannot find device='' nor node-name=''"),
    ('json:{"file": 3}', "Must specify either driver or file"),
    ('json:{"file": null}', "Must specify either driver or file"),
])
def test_a_backing_name_that_names_a_node(server, images, name, error):
    base = images.create("base.qcow2", size=SIZE).fill((0, "64k", 9))
    top = images.create("top.qcow2", size=SIZE)
    # No tool writes such a name.
    with open(top.path, "r+b") as file:
        file.seek(2048)
        file.write(name.encode())
        file.seek(8)
        file.write(struct.pack(">QI", 2048, len(name)))
    server.blockdev_add({"driver": "file", "node-name": "o", "filename": str(base.path)})
    definition = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(top.path)}}
    if error:
        assert server.error("blockdev-add", definition) == f"Could not open backing file: {error}"
        return
    server.blockdev_add(definition)
    assert server.error("blockdev-del", {"node-name": "o"}) == "Block device o is in use"
    with server.export("n", id="e") as nbd:
        assert nbd.pread(65536, 0) == b"\x09" * 65536
    server.block_export_del(id="e", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED")
    server.blockdev_del(node_name="n")
    server.blockdev_del(node_name="o")


def test_children_without_a_name(server, images):
    """Only `backing` knows an empty name, and complains."""
    base = images.create("base.qcow2", size=SIZE)
    server.blockdev_add(driver="qcow2", node_name="n", file={"driver": "file", "filename": str(images.create("top.qcow2", size=None, backing=base).path)}, backing="")
    assert server.query_node("n")["backing_file_depth"] == 0
    external = images.create("external.qcow2", size=SIZE, data_file=images.dir / "data.raw")
    definition = {"driver": "qcow2", "node-name": "e", "file": {"driver": "file", "filename": str(external.path)}}
    nothing = "Cannot find device='' nor node-name=''"
    assert server.error("blockdev-add", {**definition, "data-file": ""}) == nothing
    assert server.error("blockdev-add", {**definition, "file": ""}) == nothing
    # An image that names nothing.
    raw = external.path.read_bytes()
    name = str(images.dir / "data.raw").encode()
    at = raw.index(b"DATA" + struct.pack(">I", len(name)))
    external.path.write_bytes(raw[:at] + (b"DATA" + bytes(4)).ljust(8 + (len(name) + 7) // 8 * 8, b"\0") + raw[at + 8 + (len(name) + 7) // 8 * 8 :])
    assert server.error("blockdev-add", definition) == "The 'file' block driver requires a file name"
    server.stop()
    assert server.stderr == 'warning: Use of "backing": "" is deprecated; use "backing": null instead\n'


# ---------------------------------------------------------------------- refcounts


@pytest.mark.parametrize("bits", [1, 16, 64])
def test_the_refcount_table_grows(server, images, bits):
    """Small clusters: the first table covers little, and must move to a larger place more than once."""
    size = 24 << 20
    image = images.create("image.qcow2", size=size, cluster_size=512, refcount_bits=bits)
    server.add_image("n", image)
    with server.export("n", writable=True) as nbd:
        for offset in range(0, size, 1 << 20):
            nbd.pwrite(bytes([offset >> 20 & 0xFF or 255]) * (1 << 20), offset)
    server.stop()
    image.check()
    for offset in range(0, size, 1 << 20):
        image.read(offset, 1 << 20, offset >> 20 & 0xFF or 255)


def test_trimmed_clusters_are_used_again(server, images):
    image = images.create("image.qcow2", size=16 << 20)
    server.add_image("n", image, discard="unmap")
    with server.export("n", writable=True) as nbd:
        for number in range(10):
            nbd.pwrite(bytes([number + 1]) * (4 << 20), 0)
            nbd.trim(4 << 20, 0)
        nbd.pwrite(b"\1" * (4 << 20), 8 << 20)
    server.stop()
    image.check()
    assert image.file_size < 12 << 20


def test_internal_snapshots_are_left_alone(server, images):
    """Clusters that a snapshot holds are copied before they are written."""
    image = images.create("image.qcow2", size=SIZE).fill((0, SIZE // 2, 1))
    image.io(f"write -c -P 2 {SIZE // 2} 64k")
    before = image.content()
    qemu_img("snapshot", "-c", "snap", image.path)
    write_and_judge(server, image, bytearray(before), "snapshot")
    server.stop()
    copy = images.at("copy.raw", "raw")
    qemu_img("convert", "-l", "snap", "-O", "raw", image.path, copy.path)
    assert copy.path.read_bytes() == before


# ---------------------------------------------------------------------- dirty and corrupt images


def set_feature(image, bit):
    """Sets a bit of the incompatible features."""
    with open(image.path, "r+b") as file:
        file.seek(72)
        value = int.from_bytes(file.read(8), "big") | bit
        file.seek(72)
        file.write(value.to_bytes(8, "big"))


def features(image):
    with open(image.path, "rb") as file:
        file.seek(72)
        return int.from_bytes(file.read(8), "big")


@pytest.fixture
def dirty(images):
    """An image whose writer was killed with refcounts still to be written."""
    image = images.create("image.qcow2", size=SIZE, lazy_refcounts="on")
    qemu_io(image.path, "write -P 5 0 300k", "sigraise 9", format="qcow2", status=-9)
    assert features(image) & 1
    return image


def test_dirty_image_is_repaired_when_it_is_opened_for_writing(server, dirty):
    server.add_image("n", dirty)
    with server.export("n", writable=True) as nbd:
        assert nbd.pread(300 << 10, 0) == b"\5" * (300 << 10)
        nbd.pwrite(b"\6" * 65536, 1 << 20)
    server.stop()
    assert features(dirty) & 1 == 0
    dirty.check()
    dirty.read(0, "300k", 5)
    dirty.read("1M", "64k", 6)


def test_dirty_image_can_be_read(server, dirty):
    server.add_image("n", dirty, read_only=True)
    with server.export("n") as nbd:
        assert nbd.pread(300 << 10, 0) == b"\5" * (300 << 10)
    server.stop()
    assert features(dirty) & 1 == 1


def test_lazy_refcounts_are_written_at_the_end(server, images):
    image = images.create("image.qcow2", size=SIZE, lazy_refcounts="on")
    server.add_image("n", image)
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\1" * SIZE, 0)
    server.stop()
    assert features(image) & 1 == 0
    image.check()


def test_lazy_refcounts_of_a_server_that_dies(server, images):
    image = images.create("image.qcow2", size=SIZE, lazy_refcounts="on")
    server.add_image("n", image)
    nbd = server.export("n", writable=True)
    nbd.pwrite(b"\1" * SIZE, 0)
    nbd.flush()
    server.kill()
    assert features(image) & 1 == 1
    qemu_img("check", "-q", "-r", "all", image.path, status=None)
    image.check()
    image.read(0, SIZE, 1)


@pytest.mark.parametrize("kind", ["v2", "v3", "cluster 512", "refcounts 1", "extended L2", "data file", "data file, raw"])
def test_flushed_data_survives_the_death_of_the_server(server, images, kind):
    """After a flush, what was acknowledged is there; at worst clusters are leaked."""
    image = create_kind(images, kind)
    server.add_image("n", image)
    model = bytearray(SIZE)
    nbd = server.export("n", writable=True)
    scribble(nbd, model, kind)
    nbd.flush()
    server.kill()
    qemu_img("check", "-q", "-r", "leaks", image.path, status=None)
    image.check()
    assert image.content() == model


def test_corrupt_image_is_not_written(server, images):
    image = images.create("image.qcow2", size=SIZE).fill((0, "64k", 1))
    set_feature(image, 2)
    assert server.error("blockdev-add", {
        "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}
    }) == "qcow2: Image is corrupt; cannot be opened read/write"
    server.add_image("n", image, read_only=True)
    assert server.query_node("n")["image"]["format-specific"]["data"]["corrupt"] is True
    with server.export("n") as nbd:
        assert nbd.pread(65536, 0) == b"\1" * 65536


def test_a_write_that_would_destroy_metadata_is_stopped(server, images):
    """An L2 entry that points at the refcount table: the write fails, the image is marked corrupt and says so."""
    image = images.create("image.qcow2", size=SIZE).fill((0, "64k", 1))
    data = bytearray(image.path.read_bytes())
    l1_table = int.from_bytes(data[40:48], "big")
    l2_table = int.from_bytes(data[l1_table : l1_table + 8], "big") & 0x00FFFFFFFFFFFE00
    data[l2_table : l2_table + 8] = (1 << 63 | 65536).to_bytes(8, "big")
    image.path.write_bytes(data)
    server.add_image("n", image)
    with server.export("n", writable=True) as nbd:
        with pytest.raises(OSError):
            nbd.pwrite(b"\2" * 65536, 0)
        event = server.wait_event("BLOCK_IMAGE_CORRUPTED")
        assert event["data"]["node-name"] == "n" and event["data"]["fatal"] is True
        with pytest.raises(OSError):
            nbd.pread(512, 0)
    server.stop()
    assert features(image) & 2
    assert image.path.read_bytes()[:4] == b"QFI\xfb"


def test_reopened_many_times(server, images):
    """Open, write, close: nothing is leaked and nothing is lost."""
    image = images.create("image.qcow2", size=SIZE)
    for number in range(15):
        server.add_image("n", image)
        with server.export("n", f"round{number}", writable=True) as nbd:
            nbd.pwrite(bytes([number + 1]) * 100_000, number * 100_000)
            export = nbd.export_id
        server.block_export_del(id=export, mode="hard")
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": export})
        server.blockdev_del(node_name="n")
    image.check()
    for number in range(15):
        image.read(number * 100_000, 100_000, number + 1)
    assert not isinstance(server.try_execute("query-jobs"), QmpError)
