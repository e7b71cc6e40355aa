"""Fleecing by copy-before-write and snapshot-access: an instant of a running disk as a node of its own."""

import errno
import itertools
import os
import subprocess

import pytest

from blockbed_iotests import History, Nbd

CLUSTER = 65536
SIZE = 16 * CLUSTER


class Fleece:
    """A disk under a raw node `guest`, which an export writes to; the filter comes in below that one."""

    def __init__(self, server, images, format="qcow2"):
        self.server = server
        self.source = images.create(f"src.{format}", format, SIZE)
        self.source.fill((0, SIZE, 1))
        self.scratch = images.create("scratch.raw", "raw", SIZE)
        server.add_image("src", self.source)
        server.blockdev_add(driver="raw", node_name="guest", file="src")
        self.guest = server.export("guest", writable=True)

    def begin(self, **filter_options) -> None:
        self.server.add_image("scratch", self.scratch, discard="unmap")
        self.server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch", **filter_options)
        self.put_under_guest("cbw")
        self.server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw", discard="unmap")

    def read(self, **options) -> Nbd:
        self.reader = self.server.export("access", **options)
        return self.reader

    def put_under_guest(self, node: str) -> None:
        self.server.blockdev_reopen(options=[{"driver": "raw", "node-name": "guest", "file": node}])

    def end(self) -> None:
        self.reader.close()
        self.server.block_export_del(id=self.reader.export_id)
        self.server.wait_event("BLOCK_EXPORT_DELETED", {"id": self.reader.export_id})
        self.server.blockdev_del(node_name="access")
        self.put_under_guest("src")
        self.server.blockdev_del(node_name="cbw")
        self.server.blockdev_del(node_name="scratch")
        assert self.server.node_names() & {"access", "cbw", "scratch"} == set()


@pytest.fixture
def fleece(server, images):
    return Fleece(server, images)


def os_error(call, *args) -> int:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno


def shown(reader: Nbd) -> str:
    """A letter for each cluster: the byte that it is full of, `!` where reading is refused."""
    text = ""
    for offset in range(0, SIZE, CLUSTER):
        try:
            data = reader.pread(CLUSTER, offset)
            assert data == data[:1] * CLUSTER
            text += str(data[0])
        except OSError as error:
            assert error.errno == errno.EINVAL
            text += "!"
    return text


LEAKS = pytest.mark.differs("a reader may see what is written to a raw disk meanwhile", server="qemu", sometimes=True)


@pytest.mark.parametrize("format", ["qcow2", pytest.param("raw", marks=LEAKS)])
def test_session_by_reopen(server, images, format):
    """Guests write before, during and after; the reader sees one instant all the time."""
    fleece = Fleece(server, images, format)
    history = History({"guest": b"\1" * SIZE})
    with history.writer({"guest": fleece.guest}, seed=1) as guest:
        guest.wait_writes(20)
        with history.instant() as instant:
            fleece.begin()
        with fleece.read() as reader:
            for _ in range(3):
                history.check(instant, {"guest": reader.read_all()})
                guest.wait_writes(20)
            history.check(instant, {"guest": reader.read_all()})
        fleece.end()
        guest.wait_writes(5)
    server.stop()
    assert fleece.source.content() == history.now()["guest"]


def test_nbdcopy_reads_the_instant(fleece, images, workdir):
    fleece.begin()
    reader = fleece.read()
    fleece.guest.pwrite(b"\2" * (5 * CLUSTER), 3 * CLUSTER + 100)
    copy = workdir / "copy.raw"
    source = f"nbd+unix:///access?socket={fleece.server.nbd_path}"
    subprocess.run(["nbdcopy", source, str(copy)], check=True, timeout=30)
    fleece.guest.zero(SIZE, 0)
    assert copy.read_bytes() == b"\1" * SIZE
    assert reader.read_all() == b"\1" * SIZE


@pytest.mark.manners("system")
@pytest.mark.parametrize("device", ["scsi-hd", "virtio-blk"])
def test_session_by_qom_set(start, images, device):
    """The filter comes between a device and its disk, and goes again."""
    source = images.create("src.qcow2", size=SIZE).fill((0, SIZE, 1))
    scratch = images.create("scratch.raw", "raw", SIZE)
    bus = ["-device", "virtio-scsi"] if device == "scsi-hd" else []
    server = start(*bus, "-blockdev", f"driver=qcow2,node-name=src,file.driver=file,file.filename={source}",
                   "-device", f"{device},id=disk,drive=src", machine="q35")
    path = "/machine/peripheral/disk"
    server.add_image("scratch", scratch)
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch")
    server.qom_set(path=path, property="drive", value="cbw")
    assert server.qom_get(path=path, property="drive") == "cbw"
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    server.nbd_start()
    server.nbd_server_add(device="access")
    qdev = path + "/virtio-backend" if device == "virtio-blk" else "disk"
    with server.nbd("access") as reader:
        answer = server.hmp(f'qemu-io -d {qdev} "write -P 2 0 1M"')
        assert answer == ""
        assert reader.read_all() == b"\1" * SIZE
    # As long as the instant is being read nobody writes to the disk but through the filter.
    assert server.error("qom-set", path=path, property="drive", value="src").startswith(
        "Permission conflict on node 'src': permissions 'write' are both required by ")
    server.nbd_server_remove(name="access", mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED", {"id": "access"})
    server.blockdev_del(node_name="access")
    server.qom_set(path=path, property="drive", value="src")
    server.blockdev_del(node_name="cbw")
    server.blockdev_del(node_name="scratch")
    server.stop()
    source.read(0, SIZE, 2)
    scratch.read(0, SIZE, 1)


@pytest.mark.manners("system")
def test_drive_of_a_device(start, images):
    for name in ("a", "b", "c"):
        images.create(f"{name}.raw", "raw", SIZE)
    blockdevs = [f"driver=raw,node-name={name},file.driver=file,file.filename={images.dir}/{name}.raw" for name in "ab"]
    server = start("-device", "virtio-scsi", "-blockdev", blockdevs[0], "-blockdev", blockdevs[1],
                   "-drive", f"if=none,id=drive,format=raw,file={images.dir}/c.raw",
                   "-device", "scsi-hd,id=one,drive=a", "-device", "virtio-blk,id=two,drive=drive", machine="q35")
    one, two = "/machine/peripheral/one", "/machine/peripheral/two"

    def refused(path, value):
        return server.error("qom-set", path=path, property="drive", value=value)

    assert refused(one, "z") == "Cannot find device='' nor node-name='z'"
    assert refused(one, "drive") == "Cannot find device='' nor node-name='drive'"
    assert refused(one, 5) == "Invalid parameter type for 'drive', expected: string"
    assert refused(two, "a") == (
        "Permission conflict on node 'a': permissions 'write' are both required by block device 'one' (uses node 'a' as "
        "'root' child) and unshared by block device 'drive' (uses node 'a' as 'root' child).")
    server.qom_set(path="one", property="drive", value="b")
    assert server.qom_get(path=one, property="drive") == "b"
    server.blockdev_del(node_name="a")
    # A drive keeps its name whatever is in it.
    assert server.qom_get(path=two, property="drive") == "drive"
    assert server.qom_get(path=two + "/virtio-backend", property="drive") == "drive"


@pytest.mark.manners("system")
@pytest.mark.differs("an empty device and a node that stays end QEMU by an assertion", server="qemu")
def test_drive_of_an_empty_device(start, images):
    image = images.create("a.raw", "raw", SIZE)
    server = start("-device", "virtio-scsi", "-device", "scsi-cd,id=cd", machine="q35")
    server.add_image("a", image)
    assert server.qom_get(path="cd", property="drive") == ""
    for _ in range(2):
        server.qom_set(path="cd", property="drive", value="a")
        assert server.qom_get(path="cd", property="drive") == "a"
    assert server.error("blockdev-del", node_name="a").endswith("is in use")


def test_a_bitmap_limits_the_instant(fleece):
    server = fleece.server
    server.block_dirty_bitmap_add(node="src", name="b", granularity=32768)
    fleece.guest.pwrite(b"\1" * (2 * CLUSTER), 2 * CLUSTER)
    fleece.guest.pwrite(b"\1" * 512, 8 * CLUSTER)
    fleece.begin(bitmap={"node": "src", "name": "b"})
    with fleece.read() as reader:
        for _ in range(2):
            assert shown(reader) == "!!11!!!!1!!!!!!!"
            assert os_error(reader.pread, 2 * CLUSTER, CLUSTER) == errno.EINVAL
            assert os_error(reader.extents) == errno.EINVAL
            assert [extent.flags for extent in reader.extents(offset=2 * CLUSTER, length=2 * CLUSTER)] == [0]
            fleece.guest.pwrite(b"\2" * SIZE, 0)
    server.stop()
    # qemu-img gives a new file its first block.
    assert [run["start"] for run in fleece.scratch.map() if run["data"] and run["start"]] == [2 * CLUSTER, 8 * CLUSTER]


def test_a_pull_backup_by_bitmap(fleece):
    """The client asks which ranges changed, reads those at their instant, and gives each up when it has it."""
    server = fleece.server
    server.block_dirty_bitmap_add(node="src", name="b")
    fleece.guest.pwrite(b"\2" * CLUSTER, 3 * CLUSTER)
    fleece.guest.pwrite(b"\3" * CLUSTER, 9 * CLUSTER)
    server.block_dirty_bitmap_disable(node="src", name="b")
    fleece.begin(bitmap={"node": "src", "name": "b"})
    context = "qemu:dirty-bitmap:b"
    with fleece.read(writable=True, contexts=(context,), bitmaps=[{"node": "src", "name": "b"}]) as reader:
        increment = {}
        for extent in reader.extents(context):
            fleece.guest.pwrite(b"\7" * SIZE, 0)
            if extent.flags & 1:
                increment[extent.offset] = reader.pread(extent.length, extent.offset)
                reader.trim(extent.length, extent.offset)
        assert increment == {3 * CLUSTER: b"\2" * CLUSTER, 9 * CLUSTER: b"\3" * CLUSTER}
        assert shown(reader) == "!" * 16
    fleece.end()
    assert all(not run["data"] for run in fleece.scratch.map() if run["start"])


def test_what_is_read_is_given_up(fleece):
    """A discard frees scratch space; that range is neither kept nor read again."""
    fleece.begin()
    with fleece.read(writable=True) as reader:
        fleece.guest.pwrite(b"\2" * (4 * CLUSTER), 0)
        reader.trim(2 * CLUSTER, 0)
        reader.trim(CLUSTER, 8 * CLUSTER)
        assert shown(reader) == "!!111111!1111111"
        fleece.guest.pwrite(b"\3" * SIZE, 0)
        assert shown(reader) == "!!111111!1111111"
        reader.trim(SIZE, 0)
        assert shown(reader) == "!" * 16
    fleece.server.stop()
    assert [run["data"] for run in fleece.scratch.map()] == [False]
    fleece.source.read(0, SIZE, 3)


def test_scratch_space_in_an_image_comes_back_without_a_flush(server, images):
    """Nobody ever flushes the scratch space."""
    size = 32 << 20
    scratch = images.create("scratch.qcow2", size=size)
    server.add_image("src", images.create("src.qcow2", size=size).fill((0, size, 1)))
    server.add_image("scratch", scratch, discard="unmap")
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw", discard="unmap")
    with server.export("cbw", writable=True) as guest, server.export("access", writable=True) as reader:
        guest.pwrite(b"\2" * size, 0)
        assert scratch.path.stat().st_blocks * 512 >= size
        for offset in range(0, size, 1 << 20):
            reader.trim(1 << 20, offset)
        assert scratch.path.stat().st_blocks * 512 < 6 << 20


@pytest.mark.differs("a range that is no whole clusters ends QEMU by an assertion", server="qemu")
def test_parts_of_clusters_are_not_given_up(fleece):
    fleece.begin()
    with fleece.read(writable=True) as reader:
        reader.trim(1000, 0)
        reader.trim(3 * CLUSTER - 1000, 2 * CLUSTER + 500)
        assert shown(reader) == "111!111111111111"


def test_an_instant_is_not_written_to(fleece):
    fleece.begin()
    with fleece.read(writable=True) as reader:
        assert os_error(reader.pwrite, b"\2" * 512, 0) == errno.ENOTSUP
        assert os_error(reader.zero, 512, 0) == errno.ENOTSUP
        reader.flush()
        assert shown(reader) == "1" * 16


@pytest.mark.parametrize("between", ["nothing", "raw", "copy-on-read"])
def test_only_the_filter_itself_has_an_instant(server, images, between):
    server.add_image("src", images.create("src.raw", "raw", SIZE))
    server.add_image("scratch", images.create("scratch.raw", "raw", SIZE))
    below = "src"
    if between != "nothing":
        server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch")
        server.blockdev_add(driver=between, node_name="between", file="cbw")
        below = "between"
    server.blockdev_add(driver="snapshot-access", node_name="access", file=below)
    with server.export("access", writable=True) as reader:
        assert reader.size == SIZE
        assert os_error(reader.pread, 512, 0) == errno.ENOTSUP
        assert os_error(reader.pwrite, b"\2" * 512, 0) == errno.ENOTSUP
        assert os_error(reader.extents) == errno.ENOTSUP


def test_a_broken_snapshot_is_not_read(fleece):
    """The guest goes on, and the reader is told."""
    server = fleece.server
    server.blockdev_add(driver="blkdebug", node_name="broken", image={"driver": "file", "filename": str(fleece.scratch)},
                        inject_error=[{"event": "pwritev", "errno": errno.ENOSPC, "sector": 4 * CLUSTER // 512}])
    server.blockdev_add(driver="raw", node_name="scratch", file="broken")
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch", on_cbw_error="break-snapshot")
    fleece.put_under_guest("cbw")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    with fleece.read() as reader:
        fleece.guest.pwrite(b"\2" * CLUSTER, 0)
        assert shown(reader) == "1" * 16
        fleece.guest.pwrite(b"\2" * CLUSTER, 4 * CLUSTER)
        assert shown(reader) == "!" * 16
        fleece.guest.pwrite(b"\2" * SIZE, 0)
        assert fleece.guest.read_all() == b"\2" * SIZE


def test_scratch_space_of_a_broken_snapshot_is_given_up(fleece):
    """Nobody can read it any more, and a discard frees it all the same."""
    server = fleece.server
    server.blockdev_add(driver="blkdebug", node_name="broken", discard="unmap",
                        image={"driver": "file", "filename": str(fleece.scratch), "discard": "unmap"},
                        inject_error=[{"event": "pwritev", "errno": errno.ENOSPC, "sector": 4 * CLUSTER // 512}])
    server.blockdev_add(driver="raw", node_name="scratch", file="broken", discard="unmap")
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch", on_cbw_error="break-snapshot")
    fleece.put_under_guest("cbw")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw", discard="unmap")
    with fleece.read(writable=True) as reader:
        fleece.guest.pwrite(b"\2" * (2 * CLUSTER), 0)
        fleece.guest.pwrite(b"\2" * CLUSTER, 4 * CLUSTER)
        assert shown(reader) == "!" * 16
        assert [run["data"] for run in fleece.scratch.map()] == [True, False]
        reader.trim(2 * CLUSTER, 0)
        assert [run["data"] for run in fleece.scratch.map()] == [False]
        assert shown(reader) == "!" * 16


def test_a_broken_guest_write_keeps_the_snapshot(fleece):
    server = fleece.server
    server.blockdev_add(driver="blkdebug", node_name="broken", image={"driver": "file", "filename": str(fleece.scratch)},
                        inject_error=[{"event": "pwritev", "errno": errno.ENOSPC, "sector": 4 * CLUSTER // 512}])
    server.blockdev_add(driver="raw", node_name="scratch", file="broken")
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch")
    fleece.put_under_guest("cbw")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    with fleece.read() as reader:
        assert os_error(fleece.guest.pwrite, b"\2" * CLUSTER, 4 * CLUSTER) == errno.ENOSPC
        fleece.guest.pwrite(b"\2" * (4 * CLUSTER), 0)
        assert shown(reader) == "1" * 16
        assert shown(fleece.guest) == "2222" + "1" * 12


@pytest.mark.differs("the reader is disconnected", server="qemu")
def test_scratch_space_that_cannot_be_read(fleece):
    """The reader is told where; all else can be read, and the guest goes on."""
    server = fleece.server
    server.blockdev_add(driver="blkdebug", node_name="scratch", image={"driver": "file", "filename": str(fleece.scratch)},
                        inject_error=[{"event": "none", "iotype": "read", "errno": errno.EIO, "sector": 4 * CLUSTER // 512}])
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch")
    fleece.put_under_guest("cbw")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    with fleece.read() as reader:
        fleece.guest.pwrite(b"\2" * (8 * CLUSTER), 0)
        assert os_error(reader.pread, CLUSTER, 4 * CLUSTER) == errno.EIO
        assert reader.pread(4 * CLUSTER, 0) == b"\1" * (4 * CLUSTER)
        assert reader.pread(11 * CLUSTER, 5 * CLUSTER) == b"\1" * (11 * CLUSTER)
        assert shown(fleece.guest) == "22222222" + "1" * 8


@pytest.mark.parametrize("policy", ["break-guest-write", "break-snapshot"])
def test_scratch_space_that_is_too_slow(fleece, policy):
    """After cbw-timeout a copy counts as failed; then either the guest or the reader is told."""
    server = fleece.server
    server.object_add(qom_type="throttle-group", id="slow", limits={"bps-write": 16384})
    server.add_image("fast", fleece.scratch)
    server.blockdev_add(driver="throttle", node_name="scratch", throttle_group="slow", file="fast")
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch", on_cbw_error=policy, cbw_timeout=1)
    fleece.put_under_guest("cbw")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    with fleece.read() as reader:
        fleece.guest.pwrite(b"\2" * CLUSTER, 0)
        assert shown(reader) == "1" * 16
        if policy == "break-guest-write":
            # NBD has no number for a timeout.
            assert os_error(fleece.guest.pwrite, b"\2" * CLUSTER, CLUSTER) == errno.EINVAL
            assert shown(reader) == "1" * 16
            assert shown(fleece.guest) == "2" + "1" * 15
        else:
            fleece.guest.pwrite(b"\2" * CLUSTER, CLUSTER)
            assert shown(reader) == "!" * 16
            assert shown(fleece.guest) == "22" + "1" * 14
    fleece.end()


def test_status_of_an_instant_is_that_of_the_whole_disk(server, images):
    """Data of a backing file, zeroes and holes, before and after they are written over."""
    base = images.create("base.qcow2", size=SIZE).fill((0, 4 * CLUSTER, 1))
    top = images.create("top.qcow2", size=SIZE, backing=base)
    top.io(f"write -P 2 {2 * CLUSTER} {CLUSTER}", f"write -z {3 * CLUSTER} {CLUSTER}", f"write -P 2 {8 * CLUSTER} {CLUSTER}")
    server.add_image("src", top)
    server.add_image("scratch", images.create("scratch.raw", "raw", SIZE))
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
    with server.export("cbw", "guest", writable=True) as guest, server.export("access") as reader:
        image = reader.read_all()
        for _ in range(2):
            for extent in reader.extents():
                data = image[extent.offset:extent.offset + extent.length]
                assert extent.flags & 2 == 0 or data == bytes(extent.length)
            assert reader.read_all() == image
            guest.pwrite(b"\7" * SIZE, 0)


def test_bitmaps_that_cannot_limit_it(server):
    """One of a disk of another size, and one that is in use."""
    for name, size in (("disk", SIZE), ("scratch", SIZE), ("other", 2 * SIZE)):
        server.blockdev_add(driver="null-co", node_name=name, size=size)
    for node in ("disk", "other"):
        server.block_dirty_bitmap_add(node=node, name="b")

    def refused(node):
        error = server.error("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk", target="scratch",
                             bitmap={"node": node, "name": "b"})
        start, _, reason = error.partition(": Failed to merge bitmap 'b' to internal copy-bitmap: ")
        assert start == "Cannot create block-copy-state"
        return reason

    assert refused("other") == \
        f"Bitmaps are of different sizes (destination size is {SIZE}, source size is {2 * SIZE}) and can't be merged"
    server.blockdev_backup(job_id="job", device="disk", target="scratch", sync="bitmap", bitmap="b", bitmap_mode="never",
                           auto_finalize=False)
    assert refused("disk") == "Bitmap 'b' is currently in use by another operation and cannot be used"


@pytest.mark.differs("QEMU reads what the job does not copy from the target, which has not got it", server="qemu")
@pytest.mark.parametrize("sync", ["incremental", "top"])
def test_the_instant_of_a_backup(server, images, sync):
    """The filter of a job that leaves something out has none that could be read."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    source = images.create("src.qcow2", size=SIZE, backing=base)
    server.add_image("src", source)
    server.block_dirty_bitmap_add(node="src", name="b")
    with server.export("src", "guest", writable=True) as guest:
        for cluster in (3, 8, 15):
            guest.pwrite(b"\1" * CLUSTER, cluster * CLUSTER)
        server.add_image("scratch", images.create("scratch.raw", "raw", SIZE))
        options = {"bitmap": "b"} if sync == "incremental" else {}
        server.blockdev_backup(job_id="job", device="src", target="scratch", sync=sync, filter_node_name="cbw", speed=1, **options)
        server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
        with server.export("access") as reader:
            # Something is left for the job to do: its filter goes with it.
            guest.pwrite(b"\2" * (10 * CLUSTER), 0)
            assert shown(reader) == "!" * 16
        server.block_export_del(id=reader.export_id, mode="hard")
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": reader.export_id})
        server.blockdev_del(node_name="access")
        server.job_cancel(id="job")
        server.finish_job("job")


# ---------------------------------------------------------------------- taking it down

STEPS = ("export", "access", "filter out", "cbw", "scratch")


def expected_of(step: str, done: set[str]) -> str:
    """How QEMU answers when `done` was taken down before: how the text begins, or nothing when it is done."""
    if step == "access" and "export" not in done:
        return "Node access is in use"
    if step == "filter out" and "access" not in done:
        return "Permission conflict on node 'src'"
    if step == "cbw" and not {"access", "filter out"} <= done:
        return "Block device cbw is in use"
    if step == "scratch" and "cbw" not in done:
        return "Block device scratch is in use"
    return ""


def test_taking_it_down_in_every_order(fleece):
    """Each step is possible at once, or refused with a reason and no harm done."""
    server = fleece.server
    for order in itertools.permutations(STEPS):
        fleece.begin()
        fleece.read().close()
        export = fleece.reader.export_id

        def try_step(step: str) -> str:
            if step == "export":
                server.block_export_del(id=export)
                server.wait_event("BLOCK_EXPORT_DELETED", {"id": export})
                return ""
            if step == "filter out":
                answer = server.try_execute("blockdev-reopen", options=[{"driver": "raw", "node-name": "guest", "file": "src"}])
            else:
                answer = server.try_execute("blockdev-del", node_name=step)
            return "" if answer == {} else answer.desc

        done: set[str] = set()
        for step in (*order, *STEPS):
            if step in done:
                continue
            answer, expected = try_step(step), expected_of(step, done)
            assert answer.startswith(expected) and bool(answer) == bool(expected), (order, step, done, answer)
            if not expected:
                done.add(step)
            fleece.guest.pwrite(b"\1" * 512, 0)
        assert done == set(STEPS)
    assert server.node_names() == {"src", "guest"} | {name for name in server.node_names() if name.startswith("#")}


def test_an_instant_of_the_file_below_an_image(server, images):
    """Who has the file to itself is not in the way of a node that only looks at an instant of it."""
    image = images.create("image.qcow2", size=SIZE).fill((0, SIZE, 1))
    server.blockdev_add(driver="file", node_name="file", filename=str(image.path))
    server.blockdev_add(driver="file", node_name="scratch", filename=str(images.create("scratch.raw", "raw", SIZE).path))
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="file", target="scratch")
    server.blockdev_add(driver="qcow2", node_name="image", file="cbw")
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")


@pytest.mark.parametrize("policy", ["break-guest-write", "break-snapshot"])
def test_scratch_space_that_was_given_up_is_used_again(server, images, policy):
    """The scratch space is full, and cannot grow: what the reader is done with makes room, without anybody's flush."""
    cluster = 65536
    disk = images.create("disk.raw", "raw", "2M").fill((0, "2M", 1))
    scratch = images.create("scratch.qcow2", size="2M")
    os.truncate(scratch.path, 12 * cluster)
    server.add_image("disk", disk)
    server.blockdev_add(driver="qcow2", node_name="scratch", discard="unmap", file={
        "driver": "raw", "size": 12 * cluster, "file": {"driver": "file", "filename": str(scratch.path)}})
    server.blockdev_add(driver="copy-before-write", node_name="cbw", file="disk", target="scratch", on_cbw_error=policy)
    server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw", discard="unmap")
    with server.export("cbw", writable=True) as guest, server.export("access", writable=True) as reader:
        for number in range(6):
            guest.pwrite(b"\2" * cluster, number * cluster)
        reader.trim(4 * cluster, 0)
        for number in range(20, 24):
            guest.pwrite(b"\2" * cluster, number * cluster)
        for number in (4, 5, 20, 23, 25):
            assert reader.pread(cluster, number * cluster) == b"\1" * cluster
