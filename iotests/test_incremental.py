"""Incremental backup: what is copied by a bitmap, and what the bitmap holds after each outcome.

`Model` is the judge: the bytes of the disk, and for each bitmap the set of its marks, by the rules of the documentation."""

import itertools
import random

import pytest

from blockbed_iotests import BITMAP_STORES

SIZE = 4 << 20
UNIT = 65536
PIECES = SIZE // UNIT


def bitmap(server, name="b", node="src"):
    return next(b for b in server.query_node(node)["dirty-bitmaps"] if b.get("name") == name)


class Guest:
    """Writes through an export, and knows what each piece of the disk holds."""

    def __init__(self, nbd, seed=1):
        self.nbd, self.choose = nbd, random.Random(seed)
        self.content = bytearray(SIZE)
        self.stamp = 0

    def write(self, *pieces):
        for piece in pieces:
            self.stamp = self.stamp % 255 + 1
            data = bytes([self.stamp]) * UNIT
            self.nbd.pwrite(data, piece * UNIT)
            self.content[piece * UNIT : (piece + 1) * UNIT] = data
        return set(pieces)


def marks(nbd_or_server, name="b"):
    """The pieces that a bitmap marks, as an export of it shows them."""
    server = nbd_or_server
    recording = bitmap(server, name)["recording"]
    server.block_dirty_bitmap_disable(node="src", name=name)
    with server.export("src", "marks", id="marks", bitmaps=[name], contexts=(f"qemu:dirty-bitmap:{name}",)) as nbd:
        found, at = set(), 0
        for extent in nbd.extents(f"qemu:dirty-bitmap:{name}"):
            if extent.flags & 1:
                found.update(range(at // UNIT, -(-(at + extent.length) // UNIT)))
            at += extent.length
    server.block_export_del(id="marks", mode="hard")
    if recording:
        server.block_dirty_bitmap_enable(node="src", name=name)
    return found


def add_source(server, images, kind):
    image = images.create_bitmap_store(kind, SIZE)
    server.add_image("src", image)
    return image


@pytest.fixture
def source(server, images):
    add_source(server, images, "qcow2")
    server.block_dirty_bitmap_add(node="src", name="b", granularity=UNIT)
    with server.export("src", writable=True) as nbd:
        yield Guest(nbd)


# ---------------------------------------------------------------------- what is refused

MODES = [None, "never", "on-success", "always"]
SYNCS = ["incremental", "bitmap", "full", "top", "none"]


def refusal(sync, mode, name):
    """The text of QEMU, or None."""
    if sync in ("incremental", "bitmap") and name is None:
        return f"must provide a valid bitmap name for '{sync}' sync mode"
    if sync == "incremental" and mode not in (None, "on-success"):
        return "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"
    if name is None:
        return "Cannot specify bitmap sync mode without a bitmap" if mode else None
    if name != "b":
        return f"Bitmap '{name}' could not be found"
    if mode is None and sync != "incremental":
        return "Bitmap sync mode must be given when providing a bitmap"
    if sync == "none":
        return "sync mode 'none' does not produce meaningful bitmap outputs"
    if mode == "never" and sync != "bitmap":
        return f"Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{sync}'"
    return None


def test_every_combination(server, images, source, workdir):
    server.add_image("dst", images.create("dst.raw", "raw", SIZE))
    for number, (sync, mode, name) in enumerate(itertools.product(SYNCS, MODES, [None, "b", "no", ""])):
        text = refusal(sync, mode, name)
        options = {"sync": sync, "job-id": f"job{number}"}
        if mode:
            options["bitmap-mode"] = mode
        if name is not None:
            options["bitmap"] = name
        if text:
            assert server.error("blockdev-backup", {"device": "src", "target": "dst", **options}) == text
            image = {"target": str(workdir / f"drive{number}.qcow2")}
            # Nothing lies below the disk.
            text = text.replace("sync mode 'top'", "sync mode 'full'")
            assert server.error("drive-backup", {"device": "src", **image, **options}) == text
        else:
            server.execute("blockdev-backup", {"device": "src", "target": "dst", **options})
            server.execute("job-cancel", {"id": f"job{number}"}) if sync == "none" else None
            server.finish_job(f"job{number}")
        assert not bitmap(server)["busy"]


def test_a_bitmap_in_use(server, images, source):
    """It can be copied by once at a time, and nothing else is done to it meanwhile."""
    for name in ("dst", "dst2"):
        server.add_image(name, images.create(f"{name}.raw", "raw", SIZE))
    source.write(0, 20, 40)
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="bitmap", bitmap="b", bitmap_mode="never", speed=1)
    server.wait_job("job", "running")
    assert bitmap(server)["busy"] and bitmap(server)["recording"]
    text = "Bitmap 'b' is currently in use by another operation and cannot be used"
    for verb in ("clear", "enable", "disable", "remove"):
        assert server.error(f"block-dirty-bitmap-{verb}", {"node": "src", "name": "b"}) == text
    again = {"job-id": "again", "device": "src", "target": "dst2", "sync": "incremental", "bitmap": "b"}
    assert server.error("blockdev-backup", again) == text
    server.block_dirty_bitmap_add(node="src", name="other")
    assert server.error("block-dirty-bitmap-merge", {"node": "src", "target": "other", "bitmaps": ["b"]}) == text
    server.block_job_cancel(device="job")
    server.finish_job("job")
    assert marks(server) == {0, 20, 40}


# ---------------------------------------------------------------------- what is copied, what is left marked


def start_backup(server, guest, sync, mode):
    """A backup that waits before its end; what was written before it and while it runs."""
    before = guest.write(1, 2, 3, 9, 40, PIECES - 1)
    options = {"bitmap": "b", "bitmap_mode": mode} if sync != "incremental" else {"bitmap": "b"}
    server.blockdev_backup(job_id="job", device="src", target="dst", sync=sync, auto_finalize=False, **options)
    return before


def check_copied(target, content, pieces):
    """The target holds these pieces of the disk as it was, and nothing else."""
    found = target.content()
    for piece in range(PIECES):
        place = slice(piece * UNIT, (piece + 1) * UNIT)
        assert found[place] == (content[place] if piece in pieces else bytes(UNIT)), piece


WORKING = [(s, m) for s, m in itertools.product(SYNCS[:4], MODES[1:])
           if refusal(s, m, "b") is None]


@pytest.mark.parametrize("kind", BITMAP_STORES)
@pytest.mark.parametrize("sync, mode", WORKING)
@pytest.mark.parametrize("outcome", ["success", "cancel"])
def test_marks_after_the_end(server, images, kind, sync, mode, outcome):
    image = add_source(server, images, kind)
    server.block_dirty_bitmap_add(node="src", name="b", granularity=UNIT, persistent=True)
    target = images.create("dst.raw", "raw", SIZE)
    server.add_image("dst", target)
    with server.export("src", writable=True) as nbd:
        guest = Guest(nbd)
        guest.write(50)
        server.block_dirty_bitmap_clear(node="src", name="b")
        before = start_backup(server, guest, sync, mode)
        copied = bytes(guest.content)
        server.wait_job("job", "pending")
        during = guest.write(2, 20, 21)
        if outcome == "success":
            server.job_finalize(id="job")
        else:
            server.job_cancel(id="job")
        server.finish_job("job")
    expected = during if mode == "always" or (outcome == "success" and mode == "on-success") else before | during
    assert marks(server) == expected
    server.stop()
    check_copied(target, copied, set(range(PIECES)) if sync in ("full", "top") else before)
    image.check()


def stop_in_the_middle(server, guest, sync, mode):
    """A backup that has copied one piece, and no more than one. After that and before its end the guest writes: some of what
    it writes over is to be copied, some is not. What the bitmap marked, what was written since."""
    before = guest.write(1, 2, 3, 9, 40, PIECES - 1)
    content = bytes(guest.content)
    options = {"bitmap-mode": mode} if sync != "incremental" else {}
    server.execute("blockdev-backup", {
        "job-id": "job", "device": "src", "target": "dst", "sync": sync, "bitmap": "b", "speed": 1,
        "x-perf": {"max-workers": 1, "max-chunk": UNIT}, **options,
    })
    while server.job("job")["current-progress"] < UNIT:
        pass
    return before, content, guest.write(2, 20, 21)


@pytest.mark.parametrize("kind", BITMAP_STORES)
@pytest.mark.parametrize("sync, mode", WORKING)
def test_marks_after_a_cancel_in_the_middle(server, images, kind, sync, mode):
    image = add_source(server, images, kind)
    server.block_dirty_bitmap_add(node="src", name="b", granularity=UNIT, persistent=True)
    target = images.create("dst.raw", "raw", SIZE)
    server.add_image("dst", target)
    with server.export("src", writable=True) as nbd:
        guest = Guest(nbd)
        guest.write(50)
        server.block_dirty_bitmap_clear(node="src", name="b")
        before, content, during = stop_in_the_middle(server, guest, sync, mode)
        # A full backup has everything to copy, the top of a chain what it holds (a raw disk holds everything), the others
        # what is marked.
        everything = set(range(PIECES))
        wanted = {"full": everything, "top": everything if kind == "raw" else before | {50}}.get(sync, before)
        copied = {min(wanted)} | during & wanted
        assert server.job("job")["current-progress"] == len(copied) * UNIT
        server.block_job_cancel(device="job")
        ended = server.finish_job("job")
        assert (ended["event"], ended["data"]["offset"]) == ("BLOCK_JOB_CANCELLED", len(copied) * UNIT)
    assert marks(server) == (during | wanted - copied if mode == "always" else before | during)
    server.stop()
    check_copied(target, content, copied)
    assert image.content() == guest.content
    image.check()


@pytest.mark.parametrize("kind", BITMAP_STORES)
@pytest.mark.parametrize("sync, mode", WORKING)
@pytest.mark.parametrize("when", ["in the middle", "pending"])
def test_marks_after_a_crash(start, images, kind, sync, mode, when):
    """A server that ends in a backup leaves no bitmap that could be believed; the disk is as it was written. In the middle
    the bitmap is one that the image has kept before, in the end one that was never stored."""
    server = start()
    image = add_source(server, images, kind)
    server.block_dirty_bitmap_add(node="src", name="b", granularity=UNIT, persistent=True)
    if when == "in the middle":
        server.stop()
        server = start()
        server.add_image("src", image)
    server.add_image("dst", images.create("dst.raw", "raw", SIZE))
    with server.export("src", writable=True) as nbd:
        guest = Guest(nbd)
        if when == "pending":
            start_backup(server, guest, sync, mode)
            server.wait_job("job", "pending")
            guest.write(2, 20, 21)
        else:
            stop_in_the_middle(server, guest, sync, mode)
        nbd.flush()
        server.kill()
    assert image.content() == guest.content
    server = start()
    server.add_image("src", image)
    bitmaps = server.query_node("src").get("dirty-bitmaps", [])
    assert [b["name"] for b in bitmaps] == (["b"] if when == "in the middle" else [])
    assert all(b["inconsistent"] for b in bitmaps)
    for found in server.query_node("src").get("dirty-bitmaps", []):
        server.block_dirty_bitmap_remove(node="src", name=found["name"])
    server.stop()
    image.check()


def place_of(image, piece):
    """The file that holds a piece of the disk, and where."""
    for extent in image.map():
        if extent["start"] <= piece * UNIT < extent["start"] + extent["length"]:
            return extent["offset"] + piece * UNIT - extent["start"]
    raise AssertionError(f"piece {piece} is nowhere")


def add_broken(server, node, image, rule):
    """Opens an image whose data meets the rule of blkdebug."""
    broken = {"driver": "blkdebug", "inject-error": [rule]}
    file = {"driver": "file", "filename": str(image.path)}
    options = {"driver": image.format, "node-name": node}
    if image.format == "qcow2" and (data_file := image.info()["format-specific"]["data"].get("data-file")):
        data = {**broken, "image": {"driver": "file", "filename": data_file}}
        server.execute("blockdev-add", {**options, "file": file, "data-file": data})
    else:
        server.execute("blockdev-add", {**options, "file": {**broken, "image": file}})


def check_after_an_error(server, kind, guest, before, target, sync, mode):
    """The piece 9 could not be copied; workers came in the order of the disk, one after the other."""
    options = {"bitmap-mode": mode} if sync != "incremental" else {}
    server.execute("blockdev-backup", {
        "job-id": "job", "device": "src", "target": "dst", "sync": sync, "bitmap": "b",
        "x-perf": {"max-workers": 1, "max-chunk": UNIT}, **options,
    })
    assert server.finish_job("job")["data"]["error"] == "Input/output error"
    found = marks(server)
    if mode == "always":
        # What was not copied stays marked; what was copied is not. Where the piece 8 is in one cluster with it, so is that.
        everything = sync == "full" or (sync == "top" and kind == "raw")
        wanted = set(range(PIECES)) if everything else before
        assert found - {8} == {piece for piece in wanted if piece >= 9}
    else:
        assert found == before
    server.stop()
    content = target.content()
    for piece in range(8):
        place = slice(piece * UNIT, (piece + 1) * UNIT)
        assert content[place] == guest.content[place]
    assert content[9 * UNIT:] == bytes(SIZE - 9 * UNIT)


# Whole clusters of each format, so that a piece and its neighbour are copied together or not at all.
BEFORE = (2, 3, 4, 5, 8, 9, 40, 41, PIECES - 2, PIECES - 1)


@pytest.mark.parametrize("kind", BITMAP_STORES)
@pytest.mark.parametrize("sync, mode", WORKING)
def test_marks_after_an_error_of_the_source(server, images, kind, sync, mode):
    image = add_source(server, images, kind)
    server.block_dirty_bitmap_add(node="src", name="b", granularity=UNIT, persistent=True)
    with server.export("src", writable=True, id="source") as nbd:
        guest = Guest(nbd)
        before = guest.write(*BEFORE)
    server.block_export_del(id="source")
    server.wait_event("BLOCK_EXPORT_DELETED")
    server.blockdev_del(node_name="src")
    add_broken(server, "src", image, {"event": "none", "iotype": "read", "sector": place_of(image, 9) // 512, "errno": 5})
    target = images.create("dst.raw", "raw", SIZE)
    server.add_image("dst", target)
    check_after_an_error(server, kind, guest, before, target, sync, mode)


@pytest.mark.parametrize("kind", BITMAP_STORES)
@pytest.mark.parametrize("sync, mode", WORKING)
def test_marks_after_an_error_of_the_target(server, images, kind, sync, mode):
    add_source(server, images, kind)
    server.block_dirty_bitmap_add(node="src", name="b", granularity=UNIT, persistent=True)
    rule = {"event": "none", "iotype": "write", "sector": 9 * UNIT // 512, "errno": 5}
    target = images.create("dst.raw", "raw", SIZE)
    add_broken(server, "dst", target, rule)
    with server.export("src", writable=True) as nbd:
        guest = Guest(nbd)
        before = guest.write(*BEFORE)
        check_after_an_error(server, kind, guest, before, target, sync, mode)


@pytest.mark.parametrize("grouped", [False, True])
def test_one_of_a_group_fails(server, images, grouped):
    """The bitmap of the backup that succeeded stays as it was when the group fails."""
    rule = {"event": "write_aio", "errno": 28}
    for name in ("a", "c"):
        server.add_image(name, images.create(f"{name}.qcow2", size=SIZE))
        server.block_dirty_bitmap_add(node=name, name="b", granularity=UNIT)
        with server.export(name, writable=True) as nbd:
            nbd.pwrite(b"x" * UNIT, 5 * UNIT)
    server.add_image("ta", images.create("ta.raw", "raw", SIZE))
    file = {"driver": "file", "filename": str(images.create("tc.raw", "raw", SIZE).path)}
    server.execute("blockdev-add", {"driver": "raw", "node-name": "tc",
                                    "file": {"driver": "blkdebug", "inject-error": [rule], "image": file}})
    actions = [
        {"type": "blockdev-backup",
         "data": {"job-id": f"j{name}", "device": name, "target": f"t{name}", "sync": "incremental", "bitmap": "b"}}
        for name in ("a", "c")
    ]
    properties = {"completion-mode": "grouped"} if grouped else {}
    server.execute("transaction", {"actions": actions, "properties": properties})
    ends = {name: server.finish_job(f"j{name}") for name in ("a", "c")}
    assert ends["c"]["data"]["error"] == "No space left on device"
    assert ends["a"]["event"] == ("BLOCK_JOB_CANCELLED" if grouped else "BLOCK_JOB_COMPLETED")
    assert bitmap(server, node="c")["count"] == UNIT
    assert bitmap(server, node="a")["count"] == (UNIT if grouped else 0)


@pytest.mark.parametrize("mode", [
    "never", "on-success",
    pytest.param("always", marks=pytest.mark.differs("QEMU marks the whole disk", server="qemu")),
])
def test_a_transaction_that_fails_leaves_the_marks(server, images, source, mode):
    server.add_image("dst", images.create("dst.raw", "raw", SIZE))
    before = source.write(3, 4)
    backup = {"job-id": "job", "device": "src", "target": "dst", "sync": "bitmap", "bitmap": "b", "bitmap-mode": mode}
    assert server.error("transaction", {"actions": [{"type": "blockdev-backup", "data": backup},
                                                    {"type": "abort", "data": {}}]})
    assert marks(server) == before


def test_the_marks_widen_to_the_clusters_of_the_target(server, images):
    server.add_image("src", images.create("src.qcow2", size=SIZE))
    server.block_dirty_bitmap_add(node="src", name="b", granularity=512)
    target = images.create("dst.qcow2", size=SIZE, cluster_size=2 << 20)
    server.add_image("dst", target)
    with server.export("src", writable=True) as nbd:
        nbd.pwrite(b"x" * 512, 0)
        nbd.pwrite(b"y" * 512, (2 << 20) + 1024)
        server.blockdev_backup(job_id="job", device="src", target="dst", sync="incremental", bitmap="b")
        server.finish_job("job")
        assert bitmap(server)["count"] == 0
    server.stop()
    target.read(0, 512, ord("x"))
    target.read((2 << 20) + 1024, 512, ord("y"))
    target.check()


def test_an_empty_bitmap_copies_nothing(server, images, source):
    target = images.create("dst.qcow2", size=SIZE)
    server.add_image("dst", target)
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="incremental", bitmap="b")
    ended = server.finish_job("job")
    assert ended["data"]["len"] == ended["data"]["offset"] == 0
    server.stop()
    assert target.allocated() == 0


def test_progress_counts_what_is_marked(server, images, source):
    server.add_image("dst", images.create("dst.qcow2", size=SIZE))
    source.write(1, 2, 3, 50)
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="incremental", bitmap="b")
    ended = server.finish_job("job")
    assert ended["data"]["len"] == ended["data"]["offset"] == 4 * UNIT


@pytest.mark.parametrize("cluster", [4096, 128 << 10])
@pytest.mark.parametrize("sync", ["full", "top", "incremental", "bitmap", "none"])
def test_progress_counts_whole_clusters(server, images, sync, cluster):
    """Also the last one, of which the disk has a part; one cluster of it is marked and in the top layer, and the last is."""
    size, unit = (1 << 20) + 12288, max(UNIT, cluster)
    base = images.create("base.qcow2", size=size).fill((0, size, 1))
    server.add_image("src", images.create("src.qcow2", size=size, backing=base))
    server.add_image("dst", images.create("dst.qcow2", size=size, cluster_size=cluster))
    server.block_dirty_bitmap_add(node="src", name="b")
    backup = {"job-id": "job", "device": "src", "target": "dst", "sync": sync, "auto-finalize": False}
    if sync in ("incremental", "bitmap"):
        backup.update({"bitmap": "b", "bitmap-mode": "on-success"})
    total = (-(-size // unit) if sync in ("full", "none") else 2) * unit
    done = unit if sync == "none" else total
    with server.export("src", writable=True) as nbd:
        for offset in (300 << 10, size - 512):
            nbd.pwrite(b"x" * 512, offset)
        server.execute("blockdev-backup", backup)
        if sync == "none":
            nbd.pwrite(b"y" * 512, size - 512)
        else:
            server.wait_job("job", "pending")
        job, (block_job,) = server.job("job"), server.query_block_jobs()
        assert (job["current-progress"], job["total-progress"]) == (block_job["offset"], block_job["len"]) == (done, total)
        if sync == "none":
            server.block_job_cancel(device="job")
        else:
            server.job_finalize(id="job")
        ended = server.finish_job("job")
        assert (ended["data"]["offset"], ended["data"]["len"]) == (done, total)


@pytest.mark.parametrize("sync, mode", WORKING)
@pytest.mark.parametrize("outcome", ["success", "cancel"])
@pytest.mark.parametrize("creates", [True, False])
def test_drive_backup_by_a_bitmap(server, source, images, sync, mode, outcome, creates):
    """As blockdev-backup, with a target that the command makes or that is there."""
    before = source.write(1, 2, PIECES - 1)
    path = images.dir / "inc.raw"
    if not creates:
        images.create("inc.raw", "raw", SIZE)
    options = {"bitmap_mode": mode} if sync != "incremental" else {}
    server.drive_backup(job_id="job", device="src", target=str(path), sync=sync, bitmap="b", format="raw", auto_finalize=False,
                        mode="absolute-paths" if creates else "existing", **options)
    copied = bytes(source.content)
    server.wait_job("job", "pending")
    during = source.write(2, 20)
    getattr(server, "job_finalize" if outcome == "success" else "job_cancel")(id="job")
    server.finish_job("job")
    assert marks(server) == (during if mode == "always" or (outcome, mode) == ("success", "on-success") else before | during)
    server.stop()
    check_copied(images.at("inc.raw", "raw"), copied, set(range(PIECES)) if sync in ("full", "top") else before)
