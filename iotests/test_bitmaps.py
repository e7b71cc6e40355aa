"""Dirty bitmaps: what they mark, what commands and transactions do to them, what an image keeps of them."""

import hashlib
import json
import random

import pytest

from blockbed_iotests import qemu_img

SIZE = 8 << 20
UNIT = 65536


def bitmaps(server, node="disk"):
    """The bitmaps that have a name, newest first."""
    return [b for b in server.query_node(node).get("dirty-bitmaps", []) if "name" in b]


def bitmap(server, name, node="disk"):
    return next((b for b in bitmaps(server, node) if b["name"] == name), None)


def add(server, name, node="disk", **options):
    server.block_dirty_bitmap_add(node=node, name=name, **options)


def count(server, name, node="disk"):
    return bitmap(server, name, node)["count"]


def stored(image):
    """What the image has, as qemu-img sees it: name -> flags."""
    data = json.loads(qemu_img("info", "-U", "--output=json", image.path))["format-specific"]["data"]
    return {b["name"]: sorted(b["flags"]) for b in data.get("bitmaps", [])}


@pytest.fixture
def disk(server, images):
    image = images.create("disk.qcow2", size=SIZE)
    server.add_image("disk", image, discard="unmap")
    return image


@pytest.fixture
def guest(server, disk):
    with server.export("disk", writable=True) as nbd:
        yield nbd


# ---------------------------------------------------------------------- making and marking


def test_a_new_bitmap(server, disk):
    add(server, "b")
    assert bitmaps(server) == [
        {"name": "b", "count": 0, "granularity": UNIT, "recording": True, "busy": False, "persistent": False}
    ]
    add(server, "later", disabled=True, granularity=512)
    assert [b["name"] for b in bitmaps(server)] == ["later", "b"]
    assert not bitmap(server, "later")["recording"]
    server.block_dirty_bitmap_remove(node="disk", name="b")
    server.block_dirty_bitmap_remove(node="disk", name="later")
    assert "dirty-bitmaps" not in server.query_node("disk")


@pytest.mark.parametrize("cluster, granularity", [(512, 4096), (4096, 4096), (65536, 65536), (2 << 20, 65536)])
def test_the_granularity_follows_the_clusters(server, images, cluster, granularity):
    server.add_image("disk", images.create("disk.qcow2", size=SIZE, cluster_size=cluster))
    add(server, "b")
    assert bitmap(server, "b")["granularity"] == granularity


ADD = "block-dirty-bitmap-add"


@pytest.mark.parametrize(
    "command, arguments, error",
    [
        (ADD, {"name": "b"}, "Bitmap already exists: b"),
        (ADD, {"name": ""}, "Bitmap name cannot be empty"),
        (ADD, {"name": "x" * 1024}, "Bitmap name too long: " + "x" * 1024),
        (ADD, {"name": "x", "granularity": 0}, "Granularity must be power of 2 and at least 512"),
        (ADD, {"name": "x", "granularity": 256}, "Granularity must be power of 2 and at least 512"),
        (ADD, {"name": "x", "granularity": 513}, "Granularity must be power of 2 and at least 512"),
        (ADD, {"node": "no", "name": "x"}, "Cannot find device='no' nor node-name='no'"),
        (ADD, {"node": "raw", "name": "x", "persistent": True},
         "Can't store persistent bitmaps to raw: Operation not supported"),
        (ADD, {"node": "v2", "name": "x", "persistent": True},
         "Can't make bitmap 'x' persistent in 'v2': Cannot store dirty bitmaps in qcow2 v2 files"),
        (ADD, {"name": "x" * 1024, "persistent": True},
         f"Can't make bitmap '{'x' * 1024}' persistent in 'disk': Name length exceeds maximum (1023 characters)"),
        *((f"block-dirty-bitmap-{verb}", {"name": "no"}, "Dirty bitmap 'no' not found")
          for verb in ("remove", "clear", "enable", "disable")),
        *((f"block-dirty-bitmap-{verb}", {"node": "no", "name": "b"}, "Node 'no' not found")
          for verb in ("remove", "clear", "enable", "disable")),
        ("x-debug-block-dirty-bitmap-sha256", {"name": "no"}, "Dirty bitmap 'no' not found"),
        ("block-dirty-bitmap-merge", {"target": "no", "bitmaps": ["b"]}, "Dirty bitmap 'no' not found"),
        ("block-dirty-bitmap-merge", {"target": "b", "bitmaps": ["no"]}, "Dirty bitmap 'no' not found"),
        ("block-dirty-bitmap-merge", {"target": "b", "bitmaps": [{"node": "no", "name": "b"}]}, "Node 'no' not found"),
        ("block-dirty-bitmap-merge", {"target": "b", "bitmaps": [{"node": "raw", "name": "small"}]},
         f"Bitmaps are of different sizes (destination size is {SIZE}, source size is {1 << 20}) and can't be merged"),
    ],
)
def test_refused(server, images, disk, command, arguments, error):
    server.add_image("raw", images.create("disk.raw", "raw", 1 << 20))
    server.add_image("v2", images.create("v2.qcow2", size=SIZE, compat="0.10"))
    add(server, "b")
    add(server, "small", node="raw")
    before = bitmaps(server)
    assert server.error(command, {"node": "disk", **arguments}) == error
    assert bitmaps(server) == before


def test_writes_zeroes_and_trims_are_marked(server, guest):
    """Against an array of bits, by the digest and by what an export shows."""
    choose = random.Random(5)
    granularities = [512, 4096, 65536, 1 << 20]
    for granularity in granularities:
        add(server, f"g{granularity}", granularity=granularity)
    dirty = set()
    for _ in range(120):
        offset = choose.randrange(SIZE // 512) * 512
        length = min(choose.choice([512, 4096, 70000 // 512 * 512]), SIZE - offset)
        kind = choose.choice(["write", "zero", "trim"])
        if kind == "write":
            guest.pwrite(b"x" * length, offset)
        elif kind == "zero":
            guest.zero(length, offset)
        else:
            guest.trim(length, offset)
        dirty.update(range(offset // 512, (offset + length) // 512))
    for granularity in granularities:
        bits = {sector * 512 // granularity for sector in dirty}
        data = bytearray(max(8, SIZE // granularity // 8))
        for bit in bits:
            data[bit // 8] |= 1 << bit % 8
        name = f"g{granularity}"
        assert count(server, name) == len(bits) * granularity
        digest = server.x_debug_block_dirty_bitmap_sha256(node="disk", name=name)
        assert digest == {"sha256": hashlib.sha256(data).hexdigest()}, name


def test_a_disabled_bitmap_records_nothing(server, guest):
    add(server, "b")
    server.block_dirty_bitmap_disable(node="disk", name="b")
    guest.pwrite(b"x" * 512, 0)
    assert count(server, "b") == 0
    server.block_dirty_bitmap_enable(node="disk", name="b")
    guest.pwrite(b"x" * 512, 1 << 20)
    assert count(server, "b") == UNIT
    server.block_dirty_bitmap_clear(node="disk", name="b")
    assert count(server, "b") == 0


def test_reads_are_not_marked(server, guest):
    add(server, "b")
    guest.pread(SIZE, 0)
    guest.flush()
    assert count(server, "b") == 0


@pytest.mark.parametrize("theirs", [4096, 65536, 1 << 20])
@pytest.mark.parametrize("ours", [4096, 65536, 1 << 20])
def test_merging_keeps_every_mark(server, guest, ours, theirs):
    add(server, "source", granularity=ours)
    guest.pwrite(b"x" * 512, 0)
    guest.pwrite(b"x" * 512, SIZE - 512)
    server.block_dirty_bitmap_disable(node="disk", name="source")
    add(server, "target", granularity=theirs)
    guest.pwrite(b"x" * 512, 4 << 20)
    server.block_dirty_bitmap_merge(node="disk", target="target", bitmaps=["source"])
    assert count(server, "target") == 2 * max(ours, theirs) + theirs
    assert count(server, "source") == 2 * ours


def test_merging_from_other_nodes_and_several_at_once(server, images, guest):
    server.add_image("other", images.create("other.qcow2", size=SIZE))
    add(server, "b")
    guest.pwrite(b"x", 0)
    add(server, "c")
    guest.pwrite(b"x", 1 << 20)
    add(server, "sum", node="other")
    sources = [{"node": "disk", "name": name} for name in "bc"]
    server.block_dirty_bitmap_merge(node="other", target="sum", bitmaps=sources)
    assert count(server, "sum", "other") == 2 * UNIT
    server.block_dirty_bitmap_merge(node="other", target="sum", bitmaps=["sum"])
    assert count(server, "sum", "other") == 2 * UNIT


@pytest.mark.differs("QEMU asserts that there are sources", server="qemu")
def test_merging_nothing(server, disk):
    add(server, "b")
    server.block_dirty_bitmap_merge(node="disk", target="b", bitmaps=[])


def test_the_largest_bitmap(server):
    server.blockdev_add(driver="null-co", node_name="huge", size=1 << 43)
    add(server, "b", node="huge", granularity=1024)
    assert bitmap(server, "b", node="huge")["recording"]


@pytest.mark.differs("QEMU asserts a limit that it does not check", server="qemu")
def test_a_bitmap_that_would_take_too_much_memory(server):
    server.blockdev_add(driver="null-co", node_name="huge", size=1 << 62)
    assert server.error(ADD, {"node": "huge", "name": "b"}) == (
        "Too much memory would be taken by the bitmap 'b'. Use larger granularity"
    )
    add(server, "b", node="huge", granularity=1 << 31)


def test_a_bitmap_follows_the_size(server, disk):
    """Marks behind the end are gone, and do not come back."""
    with server.export("disk", writable=True) as nbd:
        add(server, "b")
        nbd.pwrite(b"x", SIZE - 1)
        nbd.pwrite(b"x", 0)
    server.block_export_del(id=server.query_block_exports()[0]["id"])
    server.block_resize(node_name="disk", size=SIZE // 2)
    assert count(server, "b") == UNIT
    server.block_resize(node_name="disk", size=2 * SIZE)
    assert count(server, "b") == UNIT


@pytest.mark.differs("QEMU keeps the length that it had, and aborts at the write behind it", server="qemu")
@pytest.mark.parametrize("driver", ["raw", "copy-on-read"])
def test_a_bitmap_over_a_node_follows_the_size_of_that_node(server, disk, driver):
    server.blockdev_add(driver=driver, node_name="window", file="disk")
    add(server, "old", node="window")
    server.block_resize(node_name="disk", size=2 * SIZE)
    with server.export("window", writable=True) as nbd:
        nbd.pwrite(b"x", 2 * SIZE - 1)
    assert count(server, "old", node="window") == UNIT
    add(server, "new", node="window")
    server.block_dirty_bitmap_merge(node="window", target="new", bitmaps=["old"])
    assert count(server, "new", node="window") == UNIT


TB = 1 << 40


def test_a_bitmap_too_large_for_the_memory_can_be_removed(server, images):
    """One in use needs none: who has the disk can open it."""
    image = images.create("large.qcow2", size=TB)
    qemu_img("bitmap", "--add", "-g", "512", image.path, "b")
    qemu_img("resize", image.path, "5T")
    server.add_image("disk", image)
    shown = bitmap(server, "b")
    assert shown["inconsistent"] and not shown["recording"]
    server.block_dirty_bitmap_remove(node="disk", name="b")
    server.stop()
    assert stored(image) == {}
    image.check()


def test_bitmaps_that_cannot_be_stored_any_more(server, images):
    image = images.create("large.qcow2", size=TB)
    server.add_image("disk", image)
    add(server, "b", granularity=512, persistent=True)
    server.block_resize(node_name="disk", size=3 * TB)
    reopen = {"driver": "qcow2", "node-name": "disk", "read-only": True,
              "file": {"driver": "file", "filename": str(image.path)}}
    assert server.error("blockdev-reopen", {"options": [reopen]}) == (
        "Bitmap 'b' doesn't satisfy the constraints: Too much space will be occupied by the bitmap. Use larger granularity"
    )
    assert bitmap(server, "b")["recording"]


@pytest.mark.differs("QEMU goes on, and loses the bitmap when the image is closed", server="qemu")
def test_a_bitmap_that_the_disk_outgrows_is_inconsistent(start, images):
    image = images.create("large.qcow2", size=TB)
    qemu_img("bitmap", "--add", "-g", "512", image.path, "b")
    for grows in (True, False):
        server = start()
        server.add_image("disk", image)
        if grows:
            server.block_resize(node_name="disk", size=5 * TB)
        assert bitmap(server, "b")["inconsistent"]
        if not grows:
            server.block_dirty_bitmap_remove(node="disk", name="b")
        server.stop()
        assert stored(image) == ({"b": ["auto", "in-use"]} if grows else {})
    image.check()


def test_one_that_was_never_stored_is_not_lost_without_a_word(server, images):
    image = images.create("large.qcow2", size=TB)
    server.add_image("disk", image)
    add(server, "b", granularity=512, persistent=True)
    server.block_resize(node_name="disk", size=5 * TB)
    server.stop()
    assert "Lost persistent bitmaps during inactivation of node 'disk': Bitmap 'b' " in server.stderr
    assert stored(image) == {}


# ---------------------------------------------------------------------- transactions


def action(verb, **data):
    return {"type": f"block-dirty-bitmap-{verb}", "data": {"node": "disk", **data}}


ABORT = {"type": "abort", "data": {}}
ACTIONS = {
    "add": action("add", name="new"),
    "add persistent": action("add", name="new", persistent=True),
    "remove": action("remove", name="b"),
    "remove persistent": action("remove", name="p"),
    "clear": action("clear", name="b"),
    "clear persistent": action("clear", name="p"),
    "enable": action("enable", name="off"),
    "disable": action("disable", name="b"),
    "merge": action("merge", target="off", bitmaps=["b"]),
}


@pytest.fixture
def marked(server, guest):
    add(server, "b")
    add(server, "p", persistent=True)
    guest.pwrite(b"x", 0)
    add(server, "off", disabled=True)
    return guest


@pytest.mark.parametrize("name", ACTIONS)
def test_a_failed_transaction_leaves_nothing(server, marked, name):
    before = bitmaps(server)
    assert server.error("transaction", {"actions": [ACTIONS[name], ABORT]}) == "Transaction aborted using Abort action"
    assert bitmaps(server) == before
    server.transaction(actions=[ACTIONS[name]])
    assert bitmaps(server) != before


def test_all_of_them_undone(server, marked):
    actions = [ACTIONS[name] for name in ("merge", "enable", "clear", "disable", "remove persistent", "add")]
    before = bitmaps(server)
    for length in range(len(actions) + 1):
        assert server.error("transaction", {"actions": [*actions[:length], ABORT]}).startswith("Transaction aborted")
        assert bitmaps(server) == before
    server.transaction(actions=actions)
    after = {b["name"]: (b["count"], b["recording"]) for b in bitmaps(server)}
    assert after == {"new": (0, True), "off": (UNIT, True), "b": (0, False)}


def test_later_actions_see_what_earlier_ones_did(server, marked):
    server.transaction(actions=[
        action("add", name="tmp", disabled=True),
        action("merge", target="tmp", bitmaps=["b", "p"]),
        action("clear", name="b"),
        action("merge", target="b", bitmaps=["tmp"]),
        action("remove", name="tmp"),
    ])
    assert count(server, "b") == UNIT and bitmap(server, "tmp") is None


@pytest.mark.parametrize("second", ["clear", "remove", "enable", "disable"])
def test_what_is_being_removed_is_busy(server, marked, second):
    error = server.error("transaction", {"actions": [action("remove", name="b"), action(second, name="b")]})
    assert error == "Bitmap 'b' is currently in use by another operation and cannot be used"
    error = server.error("transaction", {"actions": [action("remove", name="b"), action("add", name="b")]})
    assert error == "Bitmap already exists: b"
    assert count(server, "b") == UNIT


@pytest.mark.parametrize("verb", ["add", "clear", "merge", "remove", "disable",
                                  pytest.param("enable", marks=pytest.mark.differs("QEMU crashes", server="qemu"))])
def test_bitmap_actions_wait_for_nobody(server, marked, verb):
    one = {"type": f"block-dirty-bitmap-{verb}", "data": ACTIONS[verb]["data"]}
    error = server.error("transaction", {"actions": [one], "properties": {"completion-mode": "grouped"}})
    assert error == (
        f"Action 'block-dirty-bitmap-{verb}' does not support Transaction property completion-mode = grouped"
    )


# ---------------------------------------------------------------------- kept in the image


def run(start, image, *writes, read_only=False):
    """A server with the image open that has written these places."""
    server = start()
    server.add_image("disk", image, read_only=read_only)
    if writes:
        with server.export("disk", writable=True) as nbd:
            for offset in writes:
                nbd.pwrite(b"x", offset)
        server.nbd_server_stop()
    return server


@pytest.fixture
def kept(start, images):
    """An image with three bitmaps: `b` records, `off` does not, both have marks; `empty` has none."""
    image = images.create("disk.qcow2", size=SIZE)
    server = run(start, image)
    add(server, "b", persistent=True)
    add(server, "off", persistent=True, granularity=4096)
    add(server, "temporary")
    with server.export("disk", writable=True) as nbd:
        nbd.pwrite(b"x", 0)
        nbd.pwrite(b"x", SIZE - 1)
    server.nbd_server_stop()
    server.block_dirty_bitmap_disable(node="disk", name="off")
    add(server, "empty", persistent=True, disabled=True)
    assert stored(image) == {}
    server.stop()
    return image


def test_bitmaps_are_kept(start, kept):
    assert stored(kept) == {"b": ["auto"], "off": [], "empty": []}
    kept.check()
    server = run(start, kept, 1 << 20)
    assert [(b["name"], b["count"], b["granularity"], b["recording"], b["persistent"]) for b in bitmaps(server)] == [
        ("b", 3 * UNIT, UNIT, True, True), ("off", 8192, 4096, False, True), ("empty", 0, UNIT, False, True),
    ]
    digests = {b["name"]: server.x_debug_block_dirty_bitmap_sha256(node="disk", name=b["name"]) for b in bitmaps(server)}
    server.stop()
    assert stored(kept) == {"b": ["auto"], "off": [], "empty": []}
    kept.check()
    server = run(start, kept)
    for name, digest in digests.items():
        assert server.x_debug_block_dirty_bitmap_sha256(node="disk", name=name) == digest


def test_the_last_one_removed(start, kept):
    server = run(start, kept)
    for name in ("b", "off", "empty"):
        server.block_dirty_bitmap_remove(node="disk", name=name)
        assert name not in stored(kept)
    server.stop()
    assert stored(kept) == {}
    kept.check()


def test_a_crash_leaves_them_inconsistent(start, kept):
    """Whoever was writing when it died has lost what it knew: only removal is left."""
    server = run(start, kept, 0)
    assert stored(kept) == {"b": ["auto", "in-use"], "off": ["in-use"], "empty": ["in-use"]}
    server.kill()
    server = run(start, kept)
    assert bitmap(server, "b") == {"name": "b", "count": 0, "granularity": UNIT, "recording": False, "busy": False,
                                   "persistent": True, "inconsistent": True}
    text = "Bitmap 'b' is inconsistent and cannot be used"
    for verb in ("clear", "enable", "disable"):
        assert server.error(f"block-dirty-bitmap-{verb}", {"node": "disk", "name": "b"}) == text
    add(server, "new")
    assert server.error("block-dirty-bitmap-merge", {"node": "disk", "target": "new", "bitmaps": ["b"]}) == text
    assert server.error("block-dirty-bitmap-merge", {"node": "disk", "target": "b", "bitmaps": ["new"]}) == text
    assert server.error("block_resize", {"node-name": "disk", "size": 2 * SIZE}) in (
        f"Bitmap '{name}' is inconsistent and cannot be used" for name in ("b", "off", "empty")
    )
    add(server, "other")
    server.execute("block-dirty-bitmap-disable", {"node": "disk", "name": "other"})
    with server.export("disk", writable=True) as nbd:
        nbd.pwrite(b"x", 0)
    for target, sources, error in (
        ("b", ["new", "no"], text),
        ("b", ["no", "new"], "Dirty bitmap 'no' not found"),
        ("other", ["new", "b", "no"], text),
        ("other", ["new", "no", "b"], "Dirty bitmap 'no' not found"),
    ):
        merge = {"node": "disk", "target": target, "bitmaps": sources}
        assert server.error("block-dirty-bitmap-merge", merge) == error
        assert server.error("transaction", {"actions": [{"type": "block-dirty-bitmap-merge", "data": merge}]}) == error
    assert (count(server, "new"), count(server, "other")) == (UNIT, 0), "nothing is merged when it fails"
    for named in ("b", {"node": "disk", "name": "b"}):
        assert server.error("block-export-add", {"id": "e", "type": "nbd", "node-name": "disk", "name": "x", "bitmaps": [named]}) == text
    server.stop()
    assert stored(kept)["b"] == ["auto", "in-use"], "it does not become right by closing the image"
    server = run(start, kept)
    for name in ("b", "off", "empty"):
        server.block_dirty_bitmap_remove(node="disk", name=name)
    server.stop()
    assert stored(kept) == {}
    kept.check()


def test_who_only_looks_changes_nothing(start, kept):
    """But while the image is open for writing, it says that they are in use."""
    server = run(start, kept)
    assert count(server, "b") == 2 * UNIT
    assert stored(kept) == {"b": ["auto", "in-use"], "off": ["in-use"], "empty": ["in-use"]}
    server.stop()
    assert stored(kept) == {"b": ["auto"], "off": [], "empty": []}
    kept.check()


def test_a_read_only_image(start, kept):
    server = run(start, kept, read_only=True)
    add(server, "new")
    text = "Bitmap 'b' is readonly and cannot be modified"
    for verb in ("clear", "remove"):
        assert server.error(f"block-dirty-bitmap-{verb}", {"node": "disk", "name": "b"}) == text
    assert server.error("block-dirty-bitmap-merge", {"node": "disk", "target": "b", "bitmaps": ["new"]}) == text
    server.block_dirty_bitmap_merge(node="disk", target="new", bitmaps=["b"])
    assert count(server, "new") == 2 * UNIT
    server.block_dirty_bitmap_disable(node="disk", name="b")
    server.stop()
    assert stored(kept) == {"b": ["auto"], "off": [], "empty": []}


def test_removed_in_the_transaction_that_covers_it(start, images, kept):
    """The layer below does not keep what was moved to the one above."""
    server = run(start, kept)
    top = images.create("top.qcow2", size=SIZE)
    server.add_image("top", top, backing=None)
    server.transaction(actions=[
        {"type": "blockdev-snapshot", "data": {"node": "disk", "overlay": "top"}},
        {"type": "block-dirty-bitmap-add", "data": {"node": "top", "name": "b", "persistent": True}},
        {"type": "block-dirty-bitmap-merge",
         "data": {"node": "top", "target": "b", "bitmaps": [{"node": "disk", "name": "b"}]}},
        action("remove", name="b"),
    ])
    assert count(server, "b", "top") == 2 * UNIT and bitmap(server, "b") is None
    assert "b" not in stored(kept)
    server.stop()
    assert stored(kept) == {"off": [], "empty": []} and stored(top) == {"b": ["auto"]}


def test_changes_by_commands_are_kept(start, kept):
    server = run(start, kept)
    server.block_dirty_bitmap_merge(node="disk", target="empty", bitmaps=["b"])
    server.block_dirty_bitmap_clear(node="disk", name="b")
    server.block_dirty_bitmap_enable(node="disk", name="off")
    server.stop()
    server = run(start, kept)
    assert {b["name"]: (b["count"], b["recording"]) for b in bitmaps(server)} == {
        "b": (0, True), "off": (8192, True), "empty": (2 * UNIT, False)
    }


def test_the_image_is_resized(start, kept):
    server = run(start, kept)
    server.block_resize(node_name="disk", size=4 * SIZE)
    server.stop()
    kept.check()
    server = run(start, kept, 2 * SIZE)
    assert count(server, "b") == 3 * UNIT
    server.block_resize(node_name="disk", size=SIZE // 2)
    assert count(server, "b") == UNIT
    server.stop()
    kept.check()
    assert count(run(start, kept), "b") == UNIT


def test_a_failed_transaction_does_not_lose_the_stored_one(start, kept):
    server = run(start, kept)
    assert server.error("transaction", {"actions": [action("remove", name="b"), ABORT]})
    assert count(server, "b") == 2 * UNIT
    server.stop()
    assert stored(kept)["b"] == ["auto"]
    assert count(run(start, kept), "b") == 2 * UNIT


def test_a_snapshot_stores_what_it_covers(start, images, kept):
    """The old layer is left for reading, its bitmaps with it; the new one has none."""
    server = run(start, kept, 1 << 20)
    server.add_image("top", images.create("top.qcow2", size=None, backing=kept), backing=None)
    server.blockdev_snapshot(node="disk", overlay="top")
    assert stored(kept) == {"b": ["auto"], "off": [], "empty": []}
    assert count(server, "b") == 3 * UNIT and bitmaps(server, "top") == []
    error = server.error("block-dirty-bitmap-clear", {"node": "disk", "name": "b"})
    assert error == "Bitmap 'b' is readonly and cannot be modified"
    server.nbd_start()
    with server.export("top", writable=True) as nbd:
        nbd.pwrite(b"x", 4 << 20)
    server.stop()
    assert stored(kept) == {"b": ["auto"], "off": [], "empty": []}
    kept.check()


def stored_marks(start, image, name):
    """The pieces that the image says are marked, to who opens it again."""
    server = run(start, image)
    server.nbd_start()
    with server.export("disk", "show", bitmaps=[{"node": "disk", "name": name}],
                       contexts=(f"qemu:dirty-bitmap:{name}",)) as nbd:
        marks = {at // UNIT for begin, end in dirty(nbd, name) for at in range(begin, end, UNIT)}
    server.stop()
    return marks


@pytest.mark.differs("stores it without what was written since the backup began, and no longer recording", server="qemu")
@pytest.mark.parametrize("end", ["success", "cancel", "kill"])
@pytest.mark.parametrize("mode", ["on-success", "never", "always"])
def test_a_snapshot_while_a_backup_uses_the_bitmap(start, images, mode, end):
    """The image is left for reading with a bitmap that must not miss what was written in the meantime."""
    image = images.create("disk.qcow2", size=SIZE)
    server = run(start, image)
    server.add_image("top", images.create("top.qcow2", size=None, backing=image), backing=None)
    server.blockdev_add(driver="null-co", node_name="target", size=SIZE)
    add(server, "b", persistent=True)
    with server.export("disk", writable=True) as nbd:
        nbd.pwrite(b"x", 0)
        nbd.pwrite(b"x", 2 * UNIT)
        server.blockdev_backup(job_id="job", device="disk", target="target", sync="bitmap", bitmap="b", bitmap_mode=mode,
                               speed=1)
        server.wait_job("job", "running")
        nbd.pwrite(b"x", 7 * UNIT)
    server.nbd_server_stop()
    server.blockdev_snapshot(node="disk", overlay="top")
    assert stored(image) == {"b": ["auto"]}
    if end == "success":
        server.block_job_set_speed(device="job", speed=0)
        server.finish_job("job")
    elif end == "cancel":
        server.block_job_cancel(device="job", force=True)
        server.finish_job("job")
    server.kill() if end == "kill" else server.stop()
    assert stored_marks(start, image, "b") == {0, 2, 7}
    image.check()


def test_a_raw_disk_keeps_its_bitmaps_in_a_container(start, images):
    raw = images.create("disk.raw", "raw", SIZE)
    container = images.create("container.qcow2", size=SIZE, data_file=raw.path, data_file_raw="on")
    server = run(start, container)
    add(server, "b", persistent=True)
    with server.export("disk", writable=True) as nbd:
        nbd.pwrite(b"x" * UNIT, 1 << 20)
    server.stop()
    raw.read(1 << 20, UNIT, ord("x"))
    assert stored(container) == {"b": ["auto"]}
    assert count(run(start, container), "b") == UNIT


def test_qemu_reads_what_was_stored_and_the_other_way_round(start, kept, images, workdir):
    qemu_img("bitmap", "--merge", "off", kept.path, "empty")
    assert count(run(start, kept, read_only=True), "empty") == 2 * UNIT
    copy = workdir / "copy.qcow2"
    qemu_img("convert", "--bitmaps", "-O", "qcow2", kept.path, copy)
    assert stored(images.at("copy.qcow2", "qcow2")) == {"b": ["auto"], "off": [], "empty": []}


# ---------------------------------------------------------------------- exported


def dirty(nbd, name):
    context = f"qemu:dirty-bitmap:{name}"
    at, runs = 0, []
    for extent in nbd.extents(context):
        if extent.flags & 1:
            runs.append((at, at + extent.length))
        at += extent.length
    assert at == nbd.size
    return runs


def test_an_exported_bitmap(server, marked):
    marked.pwrite(b"x", 2 << 20)
    marked.pwrite(b"x", SIZE - 1)
    server.block_dirty_bitmap_disable(node="disk", name="b")
    with server.export("disk", "show", id="show", bitmaps=["b", "off"],
                       contexts=("qemu:dirty-bitmap:b", "qemu:dirty-bitmap:off", "base:allocation")) as nbd:
        assert dirty(nbd, "b") == [(0, UNIT), (2 << 20, (2 << 20) + UNIT), (SIZE - UNIT, SIZE)]
        assert dirty(nbd, "off") == []
        assert bitmap(server, "b")["busy"] and bitmap(server, "off")["busy"]
        text = "Bitmap 'b' is currently in use by another operation and cannot be used"
        for verb in ("clear", "enable", "disable", "remove"):
            assert server.error(f"block-dirty-bitmap-{verb}", {"node": "disk", "name": "b"}) == text
        assert server.error("block-export-add", {
            "id": "again", "type": "nbd", "node-name": "disk", "name": "again", "bitmaps": ["b"]}) == text
    server.block_export_del(id="show")
    assert not bitmap(server, "b")["busy"]
    server.block_dirty_bitmap_clear(node="disk", name="b")


def test_a_writable_export_shows_its_own_writes(server, disk):
    add(server, "b")
    with server.export("disk", writable=True, bitmaps=["b"], contexts=("qemu:dirty-bitmap:b",)) as nbd:
        assert dirty(nbd, "b") == []
        nbd.pwrite(b"x" * 100, UNIT)
        assert dirty(nbd, "b") == [(UNIT, 2 * UNIT)]


def test_bitmaps_of_the_chain(server, images, disk):
    add(server, "base", disabled=True)
    server.add_image("top", images.create("top.qcow2", size=SIZE, backing=disk), backing="disk")
    add(server, "both", disabled=True)
    add(server, "both", node="top", disabled=True)
    with server.export("top", "show", bitmaps=["base", "both"], contexts=("qemu:dirty-bitmap:base",)) as nbd:
        assert dirty(nbd, "base") == []
        assert bitmap(server, "both", "top")["busy"] and not bitmap(server, "both")["busy"]


def test_a_bitmap_that_records_is_shown_when_it_is_named_with_its_node(server, disk):
    add(server, "b")
    server.nbd_start()
    with server.export("disk", writable=True) as guest:
        guest.pwrite(b"x", UNIT)
        with server.export("disk", "show", id="show", bitmaps=[{"node": "disk", "name": "b"}],
                           contexts=("qemu:dirty-bitmap:b",)) as nbd:
            assert dirty(nbd, "b") == [(UNIT, 2 * UNIT)]


@pytest.mark.parametrize("options, error", [
    ({"bitmaps": ["b"]}, "Enabled bitmap 'b' incompatible with readonly export"),
    ({"bitmaps": ["no"]}, "Bitmap 'no' is not found"),
    ({"bitmaps": [{"node": "disk", "name": "no"}]}, "Dirty bitmap 'no' not found"),
    ({"bitmaps": [{"node": "no", "name": "b"}]}, "Node 'no' not found"),
])
def test_exports_refused(server, disk, options, error):
    server.nbd_start()
    add(server, "b")
    assert server.error("block-export-add", {"id": "e", "type": "nbd", "node-name": "disk", **options}) == error
    assert not bitmap(server, "b")["busy"]


@pytest.mark.parametrize("user", ["export", "backup", "increment"])
def test_exports_of_a_bitmap_in_use(server, images, disk, user):
    """That it records is said first; one that a job has frozen does not."""
    add(server, "b")
    server.nbd_start()
    busy = "Bitmap 'b' is currently in use by another operation and cannot be used"
    if user == "export":
        server.block_export_add(id="first", type="nbd", node_name="disk", writable=True, bitmaps=["b"])
    else:
        server.add_image("target", images.create("target.qcow2", size=SIZE))
        options = {"sync": "incremental"} if user == "increment" else {"sync": "bitmap", "bitmap-mode": "never"}
        server.execute("blockdev-backup", {"job-id": "j", "device": "disk", "target": "target", "bitmap": "b", "auto-finalize": False, **options})
    assert bitmap(server, "b")["busy"]
    refusal = lambda **options: server.error("block-export-add", {"id": "e", "type": "nbd", "node-name": "disk", "name": "other", **options})
    assert refusal(bitmaps=["b"]) == (busy if user != "export" else "Enabled bitmap 'b' incompatible with readonly export")
    assert refusal(bitmaps=[{"node": "disk", "name": "b"}]) == busy
    if user == "export":
        assert refusal(bitmaps=["b"], writable=True) == busy


@pytest.mark.manners("system")
def test_query_block_shows_what_a_disk_has(server, images):
    path = images.create("drive.qcow2", size=SIZE).path
    assert server.hmp(f"drive_add 0 if=none,id=drive,node-name=disk,file={path},format=qcow2") == "OK\n"
    add(server, "kept", persistent=True)
    add(server, "off", disabled=True, granularity=4096)
    server.hmp(f'qemu-io drive "write 0 {UNIT}"')
    shown = next(disk["inserted"]["dirty-bitmaps"] for disk in server.query_block() if disk["device"] == "drive")
    assert [(b["name"], b["count"], b["persistent"], b["recording"]) for b in shown] == [
        ("off", 0, False, False), ("kept", UNIT, True, True)]
    assert shown == server.query_node("disk")["dirty-bitmaps"]


# ---------------------------------------------------------------------- what there is


EXTENSION = pytest.mark.differs("block-dirty-bitmap-populate is Blockbed's own", server="qemu")


@EXTENSION
def test_what_the_image_has_is_marked(server, images):
    """Data and zeroes of the top layer, and what was marked before; not what a backing file has."""
    base = images.create("base.qcow2", size=SIZE).fill((60 * UNIT, UNIT, 1))
    top = images.create("top.qcow2", size=SIZE, backing=base)
    top.fill((0, UNIT, 1), (4 * UNIT, 2 * UNIT, 2))
    top.io(f"write -z {8 * UNIT} {UNIT}")
    server.add_image("top", top)
    add(server, "b", node="top")
    with server.export("top", writable=True) as nbd:
        nbd.pwrite(b"x", 20 * UNIT)
        server.block_dirty_bitmap_clear(node="top", name="b")
        nbd.pwrite(b"x", 30 * UNIT)
        server.block_dirty_bitmap_populate(job_id="job", node="top", name="b", pattern="allocation-top")
        ended = server.finish_job("job")
        assert ended["data"] == {"type": "bitmap-populate", "device": "job", "len": SIZE, "offset": SIZE, "speed": 0}
        assert count(server, "b", "top") == 6 * UNIT
        nbd.pwrite(b"x", 40 * UNIT)
        assert count(server, "b", "top") == 7 * UNIT


@EXTENSION
def test_marks_come_when_the_job_is_finalised(server, images, disk):
    with server.export("disk", writable=True) as nbd:
        nbd.pwrite(b"x", 0)
        add(server, "b")
        for end, marks in (("job_cancel", 0), ("job_finalize", UNIT)):
            server.block_dirty_bitmap_populate(job_id="job", node="disk", name="b", pattern="allocation-top",
                                               auto_finalize=False)
            server.wait_job("job", "pending")
            assert bitmap(server, "b")["busy"] and count(server, "b") == 0
            text = "Bitmap 'b' is currently in use by another operation and cannot be used"
            assert server.error("block-dirty-bitmap-populate", {
                "job-id": "again", "node": "disk", "name": "b", "pattern": "allocation-top"}) == text
            getattr(server, end)(id="job")
            server.qmp.wait_null("job")
            assert not bitmap(server, "b")["busy"] and count(server, "b") == marks


@EXTENSION
def test_marks_that_the_image_cannot_keep(server, images, disk):
    """The image is left for reading before the job ends: the marks would be in memory only."""
    add(server, "b", persistent=True)
    server.add_image("top", images.create("top.qcow2", size=SIZE))
    server.block_dirty_bitmap_populate(job_id="job", node="disk", name="b", pattern="allocation-top", auto_finalize=False)
    server.wait_job("job", "pending")
    server.blockdev_snapshot(node="disk", overlay="top")
    server.job_finalize(id="job")
    assert server.finish_job("job")["data"]["error"] == "Bitmap 'b' is readonly and cannot be modified"
    assert not bitmap(server, "b")["busy"]


def add_chain_that_fails_once(server, images):
    """d over base, and other, which has marks elsewhere; the first look at d's tables fails."""
    for name, at in ("base", 10), ("other", 50):
        server.add_image(name, images.create(f"{name}.qcow2", size=SIZE).fill((at * UNIT, UNIT, 1)), read_only=True)
    top = images.create("d.qcow2", size=SIZE, backing=images.at("base.qcow2", "qcow2")).fill((0, UNIT, 1))
    server.blockdev_add(driver="blkdebug", node_name="file", image={"driver": "file", "filename": str(top.path)},
                        inject_error=[{"event": "l2_load", "errno": 28, "once": True}])
    server.blockdev_add(driver="qcow2", node_name="d", file="file", backing="base")
    add(server, "b", node="d")


@EXTENSION
@pytest.mark.parametrize("between", ["nothing", "another backing file", "no backing file", "a filter"])
def test_populating_while_the_chain_changes(server, images, between):
    """What the image has of its own, whatever lies below it then."""
    add_chain_that_fails_once(server, images)
    server.block_dirty_bitmap_populate(job_id="job", node="d", name="b", pattern="allocation-top", on_error="stop")
    server.wait_job("job", "paused")
    if between == "a filter":
        server.add_image("scratch", images.create("scratch.qcow2", size=SIZE))
        server.blockdev_backup(job_id="backup", device="base", target="scratch", sync="none", filter_node_name="filter")
    elif between != "nothing":
        server.blockdev_reopen(options=[{"driver": "qcow2", "node-name": "d", "file": "file",
                                         "backing": "other" if "another" in between else None}])
        server.blockdev_del(node_name="base")
    server.block_job_resume(device="job")
    assert "error" not in server.finish_job("job")["data"]
    assert count(server, "b", "d") == UNIT


@EXTENSION
@pytest.mark.parametrize("policy, outcome", [("report", "error"), ("ignore", "success"), ("enospc", "nospace"), ("stop", "nospace")])
def test_populating_when_a_table_cannot_be_read(server, images, policy, outcome):
    add_chain_that_fails_once(server, images)
    server.block_dirty_bitmap_populate(job_id="job", node="d", name="b", pattern="allocation-top", on_error=policy)
    if outcome == "nospace":
        server.wait_job("job", "paused")
        assert server.query_block_jobs()[0]["io-status"] == "nospace"
        server.block_job_resume(device="job")
    ended = server.finish_job("job")["data"]
    assert ended.get("error") == ("No space left on device" if outcome == "error" else None)
    assert count(server, "b", "d") == (0 if outcome == "error" else UNIT)
    assert not bitmap(server, "b", "d")["busy"]


@EXTENSION
@pytest.mark.parametrize("arguments, error", [
    ({"node": "no"}, "Node 'no' not found"),
    ({"name": "no"}, "Dirty bitmap 'no' not found"),
    ({"job-id": "1"}, "Invalid job ID '1'"),
    ({"pattern": "all"}, "Parameter 'pattern' does not accept value 'all'"),
])
def test_populating_refused(server, disk, arguments, error):
    add(server, "b")
    given = {"job-id": "job", "node": "disk", "name": "b", "pattern": "allocation-top", **arguments}
    assert server.error("block-dirty-bitmap-populate", given) == error
    assert not bitmap(server, "b")["busy"] and server.query_jobs() == []
