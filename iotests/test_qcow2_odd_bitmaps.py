"""Directories of persistent bitmaps as nobody should write them: what is said of them, and what is used all the same."""

import struct

import pytest

from blockbed_iotests import QmpError, hostile_qcow2, qemu_img

READ_ONLY = pytest.mark.parametrize("read_only", [True, False], ids=["ro", "rw"])
BROKEN = "Broken bitmap directory"
MORE = "More bitmaps found than specified in header extension"
LESS = "Less bitmaps found than specified in header extension"
UNREADABLE = "Could not read bitmap_table table from image for bitmap 'b0': Input/output error"
HINT = "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix."
IN_USE = 1


def entry(image, name=b"b0", *, table=None, flags=0, kind=1, granularity=16, name_size=None, extra=b"", extra_size=None):
    table = image.offset(image.bitmap_table) if table is None else table
    sizes = len(name) if name_size is None else name_size, len(extra) if extra_size is None else extra_size
    whole = struct.pack(">QIIBBHI", table, 1, flags, kind, granularity, *sizes) + extra + name
    return whole + bytes(-len(whole) % 8)


def layout(cluster_bits=12):
    return hostile_qcow2.Layout(hostile_qcow2.Geometry(cluster_bits=cluster_bits, bitmap=True, snapshot=False))


def put(image, *entries, count=None, longer=0):
    """Bitmaps that share what the first one had: its table and bits are counted for each."""
    directory = b"".join(entries)
    image.counts[image.bitmap_directory] = 0
    image.bitmap_directory = image.allocate(-(-len(directory) // image.cluster_size))
    image.counts[image.bitmap_table] = image.counts[image.bitmap_data] = len(entries)
    image.write_counts()
    at = image.offset(image.bitmap_directory)
    image.data[at : at + len(directory)] = directory
    count = len(entries) if count is None else count
    fields = struct.pack(">IIQQ", count, 0, len(directory) + longer, at)
    image.data[image.bitmap_extension : image.bitmap_extension + len(fields)] = fields
    return image


def open_options(path, read_only):
    return {"driver": "qcow2", "node-name": "n", "read-only": read_only, "file": {"driver": "file", "filename": str(path)}}


def shown(server):
    return [(b["name"], b["count"], b["recording"], b.get("inconsistent", False)) for b in server.query_node("n")["dirty-bitmaps"]]


@pytest.fixture
def path(images):
    return images.dir / "image.qcow2"


REFUSED = {
    "a piece of another": (lambda i: put(i, entry(i), longer=8), BROKEN),
    "a name too long": (lambda i: put(i, entry(i, name_size=9)), BROKEN),
    "an empty name, and a piece": (lambda i: put(i, entry(i, b""), longer=8), BROKEN),
    "extra data too long": (lambda i: put(i, entry(i, extra_size=80)), BROKEN),
    "another that is not counted": (lambda i: put(i, entry(i), entry(i, b"b1"), count=1), MORE),
    "a broken one that is not counted": (lambda i: put(i, entry(i), entry(i, b"b1", name_size=100), count=1), MORE),
    "one less": (lambda i: put(i, entry(i), count=2), LESS),
    "a name twice": (lambda i: put(i, entry(i), entry(i)), "Bitmap already exists: b0"),
    "an empty name twice": (lambda i: put(i, entry(i, b""), entry(i, b"")), "Bitmap already exists: "),
    "flags": (lambda i: put(i, entry(i), entry(i, b"b1", flags=8)), "Bitmap 'b1' doesn't satisfy the constraints"),
    "flags, and a piece": (lambda i: put(i, entry(i, flags=8), longer=8), "Bitmap 'b0' doesn't satisfy the constraints"),
    "a type": (lambda i: put(i, entry(i, kind=2)), "Bitmap 'b0' doesn't satisfy the constraints"),
    "a table where files end": (lambda i: put(i, entry(i, table=(1 << 63) - 4096)), UNREADABLE),
    "a table where no file is": (lambda i: put(i, entry(i, table=1 << 63)), UNREADABLE),
}


@READ_ONLY
@pytest.mark.parametrize("name", REFUSED)
def test_refused(server, path, name, read_only):
    make, error = REFUSED[name]
    path.write_bytes(make(layout()).bytes())
    assert server.error("blockdev-add", open_options(path, read_only)) == error
    assert server.node_names() == set()


@READ_ONLY
@pytest.mark.parametrize("rule, error", [("bitmap-name-empty", BROKEN), ("bitmap-table-overflow", UNREADABLE)])
def test_rules(server, path, rule, error, read_only):
    path.write_bytes(hostile_qcow2.by_name(f"{rule}-{hostile_qcow2.BITMAP}").make().bytes())
    assert server.error("blockdev-add", open_options(path, read_only)) == error


def test_a_table_where_no_file_is_of_one_in_use(server, path):
    """Nobody reads it."""
    path.write_bytes(put(i := layout(), entry(i, table=1 << 63, flags=IN_USE)).bytes())
    server.execute("blockdev-add", open_options(path, True))
    assert shown(server) == [("b0", 0, False, True)]


def test_an_empty_name(start, path):
    """No command gives one; whoever has it can use it and be rid of it."""
    path.write_bytes(put(i := layout(), entry(i, b"", flags=2)).bytes())
    server = start()
    server.execute("blockdev-add", open_options(path, False))
    assert shown(server) == [("", 6 << 20, True, False)]
    assert server.query_node("n")["image"]["format-specific"]["data"]["bitmaps"] == [
        {"name": "", "granularity": 65536, "flags": ["in-use", "auto"]}
    ]
    for persistent in (False, True):
        assert server.error("block-dirty-bitmap-add", {"node": "n", "name": "", "persistent": persistent}) == \
            "Bitmap name cannot be empty"
    server.execute("block-dirty-bitmap-disable", {"node": "n", "name": ""})
    server.execute("block-dirty-bitmap-clear", {"node": "n", "name": ""})
    server.stop()
    qemu_img("check", path)
    server = start()
    server.execute("blockdev-add", open_options(path, False))
    assert shown(server) == [("", 0, False, False)]
    server.execute("block-dirty-bitmap-remove", {"node": "n", "name": ""})
    assert "dirty-bitmaps" not in server.query_node("n")
    server.stop()
    qemu_img("check", path)
    assert b"bitmaps" not in qemu_img("info", "--output=json", path).encode()


@READ_ONLY
@pytest.mark.parametrize("rule, warning", [
    (f"bitmaps-without-their-bit-{hostile_qcow2.BITMAP}",
     "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent"),
    (f"bitmaps-in-an-old-image-{hostile_qcow2.OLD}",
     "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent bitmap support; "
     "so now they must all be considered inconsistent"),
], ids=["without the bit", "old"])  # fmt: skip
def test_bitmaps_that_do_not_count(server, path, rule, warning, read_only):
    path.write_bytes(hostile_qcow2.by_name(rule).make().bytes())
    server.execute("blockdev-add", open_options(path, read_only))
    assert "dirty-bitmaps" not in server.query_node("n")
    assert server.stderr.count(f": warning: {warning}\n{HINT}") == 1
    if not read_only:
        server.execute("blockdev-reopen", {"options": [open_options(path, True)]})
    server.blockdev_del(node_name="n")
    assert server.stderr.count("warning: ") == 1


@READ_ONLY
@pytest.mark.manners("system")
def test_told_of_again_when_the_image_is_taken_over(start, path, read_only):
    """The other side may have written to it."""
    path.write_bytes(hostile_qcow2.by_name(f"bitmaps-without-their-bit-{hostile_qcow2.BITMAP}").make().bytes())
    server = start("-incoming", "defer")
    server.execute("blockdev-add", open_options(path, read_only))
    assert server.stderr.count("warning: a program lacking bitmap support") == 1
    server.cont()
    assert server.stderr.count("warning: a program lacking bitmap support") == 2


def test_many(start, path):
    """Whoever looks for each of them among all takes the square of their number: 65535 there may be."""
    many = 2000
    image = put(i := layout(16), *(entry(i, b"b%d" % n) for n in range(many)))
    path.write_bytes(image.bytes())
    server = start()
    server.execute("blockdev-add", open_options(path, True))
    assert shown(server)[::-1] == [(f"b{n}", image.size // 65536 * 65536 + 65536, False, False) for n in range(many)]
    server.blockdev_del(node_name="n")
    assert path.read_bytes() == image.bytes()
    server.execute("blockdev-add", open_options(path, False))
    for n in (0, 700, many - 1):
        server.execute("block-dirty-bitmap-enable", {"node": "n", "name": f"b{n}"})
    server.execute("block-dirty-bitmap-remove", {"node": "n", "name": "b1000"})
    assert isinstance(server.try_execute("block-dirty-bitmap-remove", {"node": "n", "name": "b1000"}), QmpError)
    server.stop()
    qemu_img("check", path)
    server = start()
    server.execute("blockdev-add", open_options(path, True))
    found = {name: (recording, inconsistent) for name, _, recording, inconsistent in shown(server)}
    assert set(found) == {f"b{n}" for n in range(many)} - {"b1000"}
    assert {name for name, (recording, _) in found.items() if recording} == {"b0", "b700", f"b{many - 1}"}
    assert not any(inconsistent for _, inconsistent in found.values())
