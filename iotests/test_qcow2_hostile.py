"""Truncated, corrupt and malicious qcow2 images: a clear error or the data, and the server lives."""

import contextlib
import random

import pytest

from blockbed_iotests import Image, QmpError, hostile_qcow2, qemu_img

SIZE = 1 << 20

# Fields of the header: (offset, length)
FIELDS = {
    "magic": (0, 4), "version": (4, 4), "backing_offset": (8, 8), "backing_size": (16, 4), "cluster_bits": (20, 4),
    "size": (24, 8), "crypt": (32, 4), "l1_size": (36, 4), "l1_offset": (40, 8), "refcount_offset": (48, 8),
    "refcount_clusters": (56, 4), "snapshots": (60, 4), "snapshots_offset": (64, 8), "incompatible": (72, 8),
    "compatible": (80, 8), "autoclear": (88, 8), "refcount_order": (96, 4), "header_length": (100, 4), "compression": (104, 1),
}  # fmt: skip

# (field, value, error): what is refused when the header holds this; None is opened.
HEADERS = [
    ("magic", 0, "Image is not in qcow2 format"),
    ("version", 0, "Unsupported qcow2 version 0"),
    ("version", 1, "Unsupported qcow2 version 1"),
    ("version", 2, None),
    ("version", 4, "Unsupported qcow2 version 4"),
    ("backing_offset", 1 << 20, "Invalid backing file offset"),
    ("cluster_bits", 0, "Unsupported cluster size: 2^0"),
    ("cluster_bits", 8, "Unsupported cluster size: 2^8"),
    ("cluster_bits", 22, "Unsupported cluster size: 2^22"),
    ("cluster_bits", 0xFFFFFFFF, "Unsupported cluster size: 2^4294967295"),
    ("size", (1 << 64) - 1, "Could not refresh total sector count: File too large"),
    ("size", 1 << 63, "Image is too big"),
    ("size", 1 << 50, "L1 table is too small"),
    ("size", 1000, None),
    ("size", 0, None),
    ("crypt", 3, "Unsupported encryption method 3"),
    ("l1_size", 0, "L1 table is too small"),
    ("l1_size", 0xFFFFFFFF, "Active L1 table too large"),
    ("l1_size", (32 << 20) // 8 + 1, "Active L1 table too large"),
    ("l1_offset", 1, "Active L1 table offset invalid"),
    ("l1_offset", (1 << 64) - 512, "Active L1 table offset invalid"),
    ("l1_offset", 1 << 40, None),
    ("refcount_offset", 1, "Reference count table offset invalid"),
    ("refcount_offset", 1 << 63, "Reference count table offset invalid"),
    ("refcount_offset", 1 << 40, None),
    ("refcount_clusters", 0, "Image does not contain a reference count table"),
    ("refcount_clusters", 129, "Reference count table too large"),
    ("refcount_clusters", 0xFFFFFFFF, "Reference count table too large"),
    ("snapshots", 0xFFFFFFFF, "Snapshot table too large"),
    ("snapshots_offset", 1, "Snapshot table offset invalid"),
    ("incompatible", 4, "'data-file' is required for this image"),
    ("incompatible", 8, "qcow2: Compression type incompatible feature bit must not be set"),
    ("incompatible", 1 << 63, "Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000"),
    ("incompatible", 1 << 40 | 2, "Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000"),
    ("compatible", (1 << 64) - 1, None),
    ("autoclear", 1, None),
    ("refcount_order", 7, "Reference count entry width too large; may not exceed 64 bits"),
    ("header_length", 0, "qcow2 header too short"),
    ("header_length", 103, "qcow2 header too short"),
    ("header_length", 1 << 20, "qcow2 header exceeds cluster size"),
    ("compression", 1, "qcow2: Compression type incompatible feature bit must be set"),
    ("compression", 7, "qcow2: unknown compression type: 7"),
]


@pytest.fixture
def image(images):
    return images.create("image.qcow2", size=SIZE).fill(("64k", "64k", 3))


def patch(image, offset, data):
    with open(image.path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def open_options(image, **options):
    return {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}, **options}


@pytest.mark.parametrize("field, value, error", HEADERS, ids=[f"{field}={value:#x}" for field, value, _ in HEADERS])
@pytest.mark.parametrize("read_only", [True, False], ids=["ro", "rw"])
def test_header(server, image, field, value, error, read_only):
    offset, length = FIELDS[field]
    patch(image, offset, value.to_bytes(length, "big"))
    options = open_options(image, **{"read-only": read_only})
    if error is None:
        server.execute("blockdev-add", options)
        server.blockdev_del(node_name="n")
    else:
        assert server.error("blockdev-add", options) == error
    assert server.node_names() == set()


@pytest.mark.parametrize("rule, error", [
    ("snapshot-table-at-largest", "Failed to read snapshot table: Input/output error"),
    ("header-snapshots-largest", "Failed to read snapshot table: Input/output error"),
    ("snapshot-extra-too-much", "Too much extra metadata in snapshot table entry 0"),
])  # fmt: skip
def test_snapshot_table(server, image, rule, error):
    image.path.write_bytes(hostile_qcow2.by_name(rule).make().bytes())
    assert server.error("blockdev-add", open_options(image)) == error


@pytest.mark.parametrize(
    "length, error",
    [
        (0, "Image is not in qcow2 format"),
        (10, "Unsupported cluster size: 2^0"),
        (72, "qcow2 header too short"),
        (100, "qcow2 header too short"),
    ],
)
def test_truncated_header(server, image, length, error):
    image.path.write_bytes(image.path.read_bytes()[:length])
    assert server.error("blockdev-add", open_options(image)) == error


@pytest.mark.parametrize("length", [104, 512, 65536, 65537, 131072, 196608, 262144, 300_000])
def test_truncated_tables_and_data(server, image, length):
    """What is beyond the end of the file reads as zeroes or is an error; nothing is written to the wrong place."""
    server.nbd_start()
    image.path.write_bytes(image.path.read_bytes()[:length])
    exercise(server, image)


def exercise(server, image):
    """Opens, reads and writes as far as the image lets us; the server must answer every request and live."""
    for read_only in (True, False):
        if isinstance(server.try_execute("blockdev-add", open_options(image, **{"read-only": read_only})), QmpError):
            continue
        server.execute("query-named-block-nodes")
        exercise_export(server, read_only)
        server.blockdev_del(node_name="n")
    assert server.node_names() == set()
    server.poll()


def exercise_export(server, read_only):
    size = server.query_node("n")["image"]["virtual-size"]
    result = server.try_execute(
        "block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "name": "e", "writable": not read_only}
    )
    if isinstance(result, QmpError):
        return
    with server.nbd("e") as nbd:
        for offset in range(0, min(size, 4 * SIZE), 65536):
            length = min(65536, size - offset)
            with contextlib.suppress(OSError):
                nbd.pread(length, offset)
            if not read_only:
                with contextlib.suppress(OSError):
                    nbd.pwrite(b"\x5a" * length, offset)
                with contextlib.suppress(OSError):
                    nbd.zero(length, offset)
                with contextlib.suppress(OSError):
                    nbd.trim(length, offset)
        with contextlib.suppress(OSError, AssertionError):
            nbd.extents(length=min(size, 4 * SIZE))
        if size > 4 * SIZE:
            with contextlib.suppress(OSError):
                nbd.pread(512, size - 512)
        with contextlib.suppress(OSError):
            nbd.flush()
    server.block_export_del(id="e", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED", {"id": "e"})


@pytest.fixture
def rich(images):
    """An image that has everything: data, zeroes, compressed clusters, a backing file, a snapshot, small tables."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    image = images.create("image.qcow2", size=SIZE, backing=base, cluster_size=4096)
    image.io("write -P 2 0 100k", "write -z 200k 64k", "write -z -u 300k 64k", "write -c -P 3 400k 4k", "write -c -P 4 404k 4k")
    qemu_img("snapshot", "-c", "one", image.path)
    image.io("write -P 5 50k 100k")
    return image


INTERESTING = [0, 1, 1 << 62, 1 << 63, (1 << 63) | 0x1000, (1 << 64) - 1, 0xFFFFFFFF, 512, 4096, 1 << 40, (1 << 62) | 4096]


@pytest.mark.parametrize("seed", range(40))
def test_mutated_image(server, rich, seed):
    """Random changes to the header and the tables."""
    server.nbd_start()
    choose = random.Random(seed)
    original = rich.path.read_bytes()
    for _ in range(5):
        data = bytearray(original)
        for _ in range(choose.randint(1, 8)):
            place = choose.choice(["header", "tables", "tables", "anywhere"])
            limit = {"header": 112, "tables": min(len(data), 16 * 4096), "anywhere": len(data)}[place]
            if choose.random() < 0.5:
                at = choose.randrange(0, limit - 8) & ~7
                data[at : at + 8] = choose.choice(INTERESTING).to_bytes(8, "big")
            else:
                data[choose.randrange(limit)] ^= 1 << choose.randrange(8)
        if choose.random() < 0.1:
            del data[choose.randrange(len(data)) :]
        rich.path.write_bytes(data)
        exercise(server, rich)


def l2_entries(image):
    """Where the L2 entries of the first table are, and how long the file is."""
    data = image.path.read_bytes()
    l1_table = int.from_bytes(data[40:48], "big")
    l2_table = int.from_bytes(data[l1_table : l1_table + 8], "big") & 0x00FFFFFFFFFFFE00
    return l1_table, l2_table, len(data)


# Values for an entry of a table. QEMU aborts on an L1 entry whose offset is 0 but which is marked as in use.
ENTRIES = [
    pytest.param(entry, value, id=f"{entry}-{value:#x}", marks=(
        [pytest.mark.differs("QEMU aborts", server="qemu")] if entry == "l1" and value in (1 << 63, 1 << 63 | 1) else []
    ))
    for entry in ("l1", "l2")
    for value in (
        1 << 63, 1 << 63 | 1, 1 << 63 | 512, 1 << 63 | 1 << 55, 1 << 63 | (1 << 56) - 65536, 1 << 63 | 1 << 40, 1 << 62,
        1 << 62 | (1 << 54) - 1, (1 << 64) - 1,
    )
]  # fmt: skip


@pytest.mark.parametrize("entry, value", ENTRIES)
def test_table_entries(server, image, entry, value):
    """Entries that are misaligned, reserved, beyond the end of the file, or point at the tables themselves."""
    server.nbd_start()
    l1_table, l2_table, _ = l2_entries(image)
    patch(image, l1_table if entry == "l1" else l2_table + 8, value.to_bytes(8, "big"))
    exercise(server, image)


# What an L1 entry says of an L2 table that lies where the file never was.
FAR_AWAY = [1 << 63 | (1 << 56) - 4096, (1 << 56) - 4096, 1 << 63 | 1 << 50]


@pytest.fixture
def far_table(images, request):
    image = images.create("image.qcow2", size="6M", cluster_size=4096).fill((0, 4096, 3))
    l1_table, _, _ = l2_entries(image)
    patch(image, l1_table + 16, request.param.to_bytes(8, "big"))
    return image


@pytest.mark.parametrize("far_table", FAR_AWAY, ids=hex, indirect=True)
def test_cutting_off_a_table_behind_the_file(server, far_table):
    server.execute("blockdev-add", open_options(far_table))
    server.block_resize(node_name="n", size=512)
    server.stop()
    assert far_table.file_size < SIZE
    assert far_table.content() == b"\3" * 512


@pytest.mark.parametrize("far_table", FAR_AWAY, ids=hex, indirect=True)
def test_discarding_by_a_table_behind_the_file(server, far_table):
    """It holds nothing to discard, and is not written."""
    server.nbd_start()
    server.execute("blockdev-add", open_options(far_table))
    server.block_export_add(type="nbd", id="e", node_name="n", name="e", writable=True)
    with server.nbd("e") as nbd:
        nbd.trim(SIZE, 4 * SIZE)
    server.stop()
    assert far_table.file_size < SIZE


@pytest.mark.parametrize("place", [(1 << 56) - 4096, 1 << 50], ids=hex)
def test_cutting_off_what_a_block_behind_the_file_counts(server, images, place):
    image = images.create("image.qcow2", size=SIZE, cluster_size=4096).fill((0, 4096, 3))
    _, l2_table, _ = l2_entries(image)
    # The first cluster that the second block counts.
    patch(image, l2_table + 8, (1 << 63 | 2048 * 4096).to_bytes(8, "big"))
    patch(image, 4096 + 8, place.to_bytes(8, "big"))
    server.execute("blockdev-add", open_options(image))
    # QEMU says that the block is counted by none.
    server.try_execute("block_resize", {"node-name": "n", "size": 512})
    server.stop()
    assert image.file_size < SIZE


def test_l2_table_that_is_its_own_data(server, image):
    """Writing the cluster would rewrite the table."""
    server.nbd_start()
    _, l2_table, _ = l2_entries(image)
    patch(image, l2_table + 8, (1 << 63 | l2_table).to_bytes(8, "big"))
    exercise(server, image)


@pytest.mark.parametrize("name", ["json:{", "json:{}", "nbd://127.0.0.1:1/", "/no/such", "", "x" * 1023, "json:" + "[" * 900])
def test_names_of_backing_files(server, image, name):
    """A hostile name is an error, not an end."""
    raw = name.encode()
    patch(image, 600, raw)
    patch(image, 8, (600).to_bytes(8, "big") + len(raw).to_bytes(4, "big"))
    result = server.try_execute("blockdev-add", open_options(image))
    if name:
        assert isinstance(result, QmpError) and result.desc.startswith("Could not open backing file: "), result
        assert server.node_names() == set()
        server.execute("blockdev-add", open_options(image, backing=None))


def test_an_image_that_is_its_own_backing_file(server, images):
    image = images.create("image.qcow2", size=SIZE)
    raw = str(image.path).encode()
    patch(image, 600, raw)
    patch(image, 8, (600).to_bytes(8, "big") + len(raw).to_bytes(4, "big"))
    assert isinstance(server.try_execute("blockdev-add", open_options(image)), QmpError)
    assert server.node_names() == set()
    server.execute("blockdev-add", open_options(image, backing=None))


@pytest.mark.parametrize("name", ["nbd:127.0.0.1:1", "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}"])
def test_names_of_data_files(server, image, name):
    """An external data file that the image names by a protocol is not opened."""
    raw = name.encode()
    patch(image, 72, (4).to_bytes(8, "big"))
    header_length = int.from_bytes(image.path.read_bytes()[100:104], "big")
    extension = (0x44415441).to_bytes(4, "big") + len(raw).to_bytes(4, "big") + raw + bytes(-len(raw) % 8) + bytes(8)
    patch(image, header_length, extension)
    assert isinstance(server.try_execute("blockdev-add", open_options(image)), QmpError)
    assert server.node_names() == set()


@pytest.mark.parametrize("used", [False, True])
def test_a_padded_name_of_a_data_file(server, image, used):
    """It ends at its first NUL, and is shown also where there is no such file."""
    name = image.path.parent / "data"
    name.write_bytes(bytes(SIZE))
    raw = str(name).encode() + b"\0\0\0"
    patch(image, 72, (4 * used).to_bytes(8, "big"))
    header_length = int.from_bytes(image.path.read_bytes()[100:104], "big")
    patch(image, header_length, (0x44415441).to_bytes(4, "big") + len(raw).to_bytes(4, "big") + raw + bytes(-len(raw) % 8) + bytes(8))
    server.blockdev_add(**open_options(image))
    details = next(n["image"] for n in server.query_named_block_nodes() if n["drv"] == "qcow2")["format-specific"]["data"]
    assert details["data-file"] == str(name)


def test_extensions_beyond_the_header(server, image):
    """A header extension that claims to be longer than what there is."""
    header_length = int.from_bytes(image.path.read_bytes()[100:104], "big")
    for length in (0x7FFFFFFF, 0xFFFFFFFF, 65536):
        patch(image, header_length, (0x12345678).to_bytes(4, "big") + length.to_bytes(4, "big"))
        assert server.error("blockdev-add", open_options(image)) == "Header extension too large"


@pytest.mark.parametrize("format", ["raw", "file"])
def test_other_files_are_no_qcow2(server, images, format):
    path = images.dir / "file"
    path.write_bytes(random.Random(1).randbytes(100_000))
    assert server.error("blockdev-add", open_options(Image(path, format))) == "Image is not in qcow2 format"


# ---------------------------------------------------------------------- encrypted images

AES, LUKS = {"format": "aes"}, {"format": "luks"}
KEY_NEEDED = "Parameter 'encrypt.key-secret' is required for cipher"


def create_encrypted(path, name):
    """LUKS is tried again while qemu-img says that its clock of processor time stood still (where ticks drive that clock,
    one of some 50 does on a busy machine); nothing else is."""
    options = f"encrypt.format={name},encrypt.key-secret=key" + (",encrypt.iter-time=10" if name == "luks" else "")
    for _ in range(100):
        said = qemu_img("create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=key", "-o", options, path, "1M", status=None)
        if "Unable to get accurate CPU usage" not in said:
            break
    assert said == ""


@pytest.fixture
def encrypted(images):
    """Each with its format's name, and one that says it has LUKS and has not."""
    for name in ("aes", "luks"):
        create_encrypted(images.at(name, "qcow2").path, name)
    images.create("no-luks", size=SIZE)
    patch(images.at("no-luks", "qcow2"), FIELDS["crypt"][0], (2).to_bytes(4, "big"))
    return images


@pytest.mark.parametrize("name, encrypt, error", [
    ("aes", None, KEY_NEEDED), ("aes", AES, KEY_NEEDED),
    ("aes", LUKS, "Header reported 'aes' encryption format but options specify 'luks'"),
    ("luks", None, KEY_NEEDED), ("luks", LUKS, KEY_NEEDED),
    ("luks", {**AES, "key-secret": "key"}, "Header reported 'luks' encryption format but options specify 'aes'"),
    ("no-luks", None, "Missing CRYPTO header for crypt method 2"),
    ("no-luks", AES, "Header reported 'luks' encryption format but options specify 'aes'"),
])  # fmt: skip
def test_encrypted_image(server, encrypted, name, encrypt, error):
    options = {} if encrypt is None else {"encrypt": encrypt}
    if name == "aes" and server.manner == "system":
        error = "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators"
    assert server.error("blockdev-add", open_options(encrypted.at(name, "qcow2"), **options)) == error


@pytest.mark.differs("opens it", server="qemu")
def test_encrypted_image_with_its_key(server, encrypted):
    server.execute("object-add", {"qom-type": "secret", "id": "key", "data": "key"})
    options = open_options(encrypted.at("luks", "qcow2"), encrypt={**LUKS, "key-secret": "key"})
    assert server.error("blockdev-add", options) == "Encrypted qcow2 images are not supported yet"
