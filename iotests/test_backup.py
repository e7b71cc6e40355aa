"""drive-backup and blockdev-backup: what is copied, into what, and what is refused."""

import re
import subprocess

import pytest

from blockbed_iotests import Image, qemu_img

SIZE = 4 << 20
METHODS = ["drive-backup", "blockdev-backup"]


@pytest.fixture
def chain(images):
    """A disk in two layers: the base all 1 in its first half, the top with pieces of its own, holes between them."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE // 2, 1))
    top = images.create("top.qcow2", size=None, backing=base)
    return top.fill(("64k", "64k", 2), ("1M", "512k", 3), ("3M", "4k", 4)).io("write -z 256k 128k") and top


@pytest.fixture
def flat(images):
    """The same disk as raw."""
    disk = images.create("flat.raw", "raw", SIZE)
    return disk.fill((0, SIZE // 2, 1), ("64k", "64k", 2), ("1M", "512k", 3), ("3M", "4k", 4), ("256k", "128k", 0))


def run_backup(server, method, target: Image, *, device="src", node="dst", **options):
    """Backs up `device` into an image that exists, and waits for the end."""
    if method == "drive-backup":
        server.execute(
            method, {"job-id": "job", "device": device, "target": str(target.path), "format": target.format, "mode": "existing"},
            **options,
        )
    else:
        server.add_image(node, target)
        server.execute(method, {"job-id": "job", "device": device, "target": node}, **options)
    ended = server.finish_job("job")
    assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"], ended
    if method == "blockdev-backup":
        server.blockdev_del(node_name=node)


@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
@pytest.mark.parametrize("method", METHODS)
def test_full(server, images, chain, flat, method, source_format, target_format):
    source = chain if source_format == "qcow2" else flat
    server.add_image("src", source)
    target = images.create("target", target_format, SIZE)
    run_backup(server, method, target, sync="full")
    server.stop()
    target.compare(flat)
    target.check()
    source.check()


@pytest.mark.parametrize("method", METHODS)
def test_full_overwrites_what_the_target_held(server, images, chain, flat, method):
    """Also where the source has holes."""
    server.add_image("src", chain)
    target = images.create("target.qcow2", size=SIZE).fill((0, SIZE, 0xFF))
    run_backup(server, method, target, sync="full")
    server.stop()
    target.compare(flat)
    target.check()


def test_full_keeps_the_target_sparse(server, images, chain):
    server.add_image("src", chain)
    target = images.create("target.qcow2", size=SIZE)
    run_backup(server, "blockdev-backup", target, sync="full")
    server.stop()
    data = sum(extent["length"] for extent in target.map() if extent["data"])
    assert data < SIZE * 5 // 8, "zeroes have been written as data"


@pytest.mark.parametrize("method", METHODS)
def test_top(server, images, chain, flat, method):
    """Only the top layer is copied; over the same backing file that is the whole disk."""
    server.add_image("src", chain)
    target = images.create("target.qcow2", size=None, backing=images.at("base.qcow2", "qcow2"))
    run_backup(server, method, target, sync="top")
    server.stop()
    target.compare(flat)
    target.check()
    assert target.allocated() == chain.allocated()


def test_top_of_a_disk_without_layers_is_all_of_its_data(server, images, flat):
    server.add_image("src", flat)
    target = images.create("target.qcow2", size=SIZE)
    run_backup(server, "blockdev-backup", target, sync="top")
    server.stop()
    target.compare(flat)


@pytest.mark.parametrize("method", METHODS)
def test_none_copies_what_is_about_to_be_overwritten(server, images, flat, method):
    """What the target holds over the source as it was is that again."""
    server.add_image("src", flat, discard="unmap")
    before = flat.copy(images.dir / "before.raw")
    server.nbd_start()
    with server.export("src", writable=True) as guest:
        target = images.create("target.qcow2", size=SIZE)
        if method == "drive-backup":
            server.drive_backup(
                job_id="job", device="src", target=str(target.path), format="qcow2", mode="existing", sync="none"
            )
        else:
            server.add_image("dst", target)
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="none")
        guest.pwrite(b"\x11" * 100, 70000)
        guest.zero(65536, 1 << 20)
        guest.trim(65536, 3 << 20)
        guest.pwrite(b"\x12" * 65536, 2 << 20)
        server.job_cancel(id="job")
        assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    server.stop()
    qemu_img("rebase", "-u", "-b", before.path, "-F", "raw", target.path)
    target.compare(before)
    target.check()
    # Whether a trim reaches the disk while a filter is above it is the server's choice.
    assert target.allocated() in (3 * 65536, 4 * 65536), "more than the clusters that were written"


def test_none_with_the_source_as_backing(server, images, flat):
    """The classic: the target is read through its backing link to the disk that is being written."""
    server.blockdev_add(driver="raw", node_name="src", file={"driver": "file", "filename": str(flat.path), "node-name": "f"})
    before = flat.content()
    target = images.create("target.qcow2", size=SIZE)
    server.blockdev_add(
        driver="qcow2", node_name="dst", backing="src", file={"driver": "file", "filename": str(target.path)}
    )
    with server.export("src", writable=True) as guest:
        server.blockdev_backup(job_id="job", device="src", target="dst", sync="none")
        with server.export("dst", "fleece") as fleece:
            assert fleece.read_all() == before
            guest.pwrite(b"\x33" * 200_000, 100_001)
            assert fleece.read_all() == before
            guest.zero(SIZE, 0)
            assert guest.read_all() == bytes(SIZE)
            assert fleece.read_all() == before
    server.job_cancel(id="job")
    server.finish_job("job")


# ---------------------------------------------------------------------- drive-backup makes its target


@pytest.mark.parametrize(
    "sync, backing", [("full", None), ("top", "base.qcow2"), ("none", "top.qcow2")]
)
def test_drive_backup_creates_its_target(server, images, chain, sync, backing):
    server.add_image("src", chain)
    target = images.at("target", "qcow2")
    server.drive_backup(job_id="job", device="src", target=str(target.path), sync=sync)
    assert f"Formatting '{target.path}', fmt=qcow2 cluster_size=65536 " in server.stdout
    if sync == "none":
        server.job_cancel(id="job")
    server.finish_job("job")
    server.stop()
    info = target.info()
    assert info["virtual-size"] == SIZE
    assert info.get("backing-filename") == (str(images.dir / backing) if backing else None)
    if sync != "none":
        target.compare(chain)
    target.check()


@pytest.mark.parametrize("format", ["raw", "qcow2", "file", None])
def test_drive_backup_format(server, images, chain, flat, format):
    """Without a format the source's is taken."""
    server.add_image("src", chain)
    server.drive_backup(job_id="job", device="src", target=f"{images.dir}/target", sync="full", **({"format": format} if format else {}))
    server.finish_job("job")
    server.stop()
    images.at("target", {"file": "raw", None: "qcow2"}.get(format, format)).compare(flat)


def test_drive_backup_to_a_name_with_a_protocol(server, images, flat):
    server.add_image("src", flat)
    server.drive_backup(job_id="job", device="src", target=f"file:{images.dir}/target", sync="full")
    assert f"Formatting 'file:{images.dir}/target', fmt=raw size={SIZE}" in server.stdout
    server.finish_job("job")
    server.stop()
    images.at("target", "raw").compare(flat)


def test_drive_backup_existing_takes_the_format_of_the_source(server, images, chain, flat):
    server.add_image("src", chain)
    target = images.create("target", "qcow2", SIZE)
    server.drive_backup(job_id="job", device="src", target=str(target.path), sync="full", mode="existing")
    server.finish_job("job")
    server.stop()
    target.compare(flat)


# ---------------------------------------------------------------------- shapes and options


@pytest.mark.parametrize("size", [512, 65536 - 512, 65536 + 512, (1 << 20) + 1536])
@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
def test_sizes_that_fill_no_cluster(server, images, size, target_format):
    source = images.create("src.raw", "raw", size).fill((0, size, 9))
    server.add_image("src", source)
    target = images.create("target", target_format, size)
    run_backup(server, "blockdev-backup", target, sync="full")
    server.stop()
    target.compare(source)
    target.check()


@pytest.mark.parametrize("target_cluster", [512, 4096, 65536, 262144, 2 << 20])
@pytest.mark.parametrize("source_cluster", [512, 65536, 2 << 20])
def test_cluster_sizes(server, images, source_cluster, target_cluster):
    source = images.create("src.qcow2", size=SIZE, cluster_size=source_cluster)
    source.fill((1000, 5000, 1), ("1M", "100k", 2), (SIZE - 512, 512, 3))
    server.add_image("src", source)
    target = images.create("dst.qcow2", size=SIZE, cluster_size=target_cluster)
    run_backup(server, "blockdev-backup", target, sync="full")
    server.stop()
    target.compare(source)
    target.check()


@pytest.mark.parametrize(
    "perf",
    [
        {"use-copy-range": True},
        {"use-copy-range": False},
        {"max-workers": 1},
        {"max-workers": 100},
        {"max-chunk": 65536},
        {"max-chunk": 1 << 30},
        {"use-copy-range": True, "max-workers": 1, "max-chunk": 131072},
    ],
)
def test_x_perf_changes_no_result(server, images, flat, perf):
    server.add_image("src", flat)
    target = images.create("target.raw", "raw", SIZE)
    run_backup(server, "blockdev-backup", target, sync="full", x_perf=perf)
    server.stop()
    target.compare(flat)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [SIZE, SIZE + 512, 512])
def test_copy_range(server, images, method, size):
    """Files that the host can copy by itself: the bytes and holes are the same, ends that fill no cluster too."""
    source = images.create("src.raw", "raw", size).fill((0, 512, 1))
    if size > 512:
        source.fill(("1M", "192k", 2), (size - 512, 512, 3))
    server.add_image("src", source)
    target = images.create("dst.raw", "raw", size)
    if method == "blockdev-backup":
        target.fill((0, size, 9))
        server.add_image("dst", target)
    server.execute(method, {"job-id": "job", "device": "src", "sync": "full", "x-perf": {"use-copy-range": True},
                            "target": "dst" if method == "blockdev-backup" else str(target.path)})
    server.finish_job("job")
    server.stop()
    target.compare(source)


@pytest.mark.parametrize("clusters", ["512", "64k", "1M"])
@pytest.mark.parametrize("compressed", [False, True])
def test_copy_range_between_images(server, images, chain, flat, compressed, clusters):
    """Clusters of every kind to clusters of another size, that a snapshot shares and that keep their other parts."""
    if compressed:
        chain.io("write -c -P 7 512k 64k", "write -c -P 8 3584k 64k")
        flat.fill(("512k", "64k", 7), ("3584k", "64k", 8))
    server.add_image("src", chain)
    target = images.create("target.qcow2", size=SIZE, cluster_size=clusters).fill((0, SIZE, 9))
    qemu_img("snapshot", "-c", "before", target.path)
    target.fill(("2M", "1M", 10))
    run_backup(server, "blockdev-backup", target, sync="full", x_perf={"use-copy-range": True})
    server.stop()
    target.compare(flat)
    target.check()
    chain.check()
    qemu_img("snapshot", "-a", "before", target.path)
    target.io(f"read -P 9 0 {SIZE}")
    target.check()


@pytest.mark.parametrize("method", METHODS)
def test_compress(server, images, flat, method):
    server.add_image("src", flat)
    target = images.create("target.qcow2", size=SIZE)
    run_backup(server, method, target, sync="full", compress=True)
    server.stop()
    target.compare(flat)
    target.check()
    plain = images.create("plain.qcow2", size=SIZE)
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", flat.path, plain.path)
    assert target.file_size < plain.file_size // 2


def test_compress_under_guest_writes(server, images, flat):
    """A cluster that a guest write forces out is compressed too; a second copy of a cluster there is none."""
    server.add_image("src", flat)
    before = flat.copy(images.dir / "before.raw")
    target = images.create("target.qcow2", size=SIZE)
    server.add_image("dst", target)
    with server.export("src", writable=True) as guest:
        server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", compress=True, speed=65536)
        guest.pwrite(b"\x44" * SIZE, 0)
        server.block_job_set_speed(device="job", speed=0)
        server.finish_job("job")
    server.stop()
    target.compare(before)
    target.check()


def test_speed_limits_the_copy_and_not_the_guest(server, images, flat):
    server.add_image("src", flat.fill((0, SIZE, 5)))
    server.add_image("dst", images.create("target.raw", "raw", SIZE))
    with server.export("src", writable=True) as guest:
        server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=65536)
        guest.pwrite(b"\x44" * SIZE, 0)
        assert server.job("job")["status"] == "running" or server.job("job") is None
    server.block_job_set_speed(device="job", speed=0)
    server.finish_job("job")
    server.stop()
    images.at("target.raw", "raw").read(0, SIZE, 5)


def test_speed_holds_for_zeroes_too(server, images):
    """A disk with nothing in it takes its time: tests hold jobs open that way."""
    server.add_image("src", images.create("empty.qcow2", size=SIZE))
    server.add_image("dst", images.create("target.raw", "raw", SIZE))
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=1)
    # Whoever is told that it was cancelled knows that it had not ended.
    server.job_cancel(id="job")
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"


def test_filter_node_name(server, images, flat):
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.raw", "raw", SIZE))
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="none", filter_node_name="filter")
    node = server.query_node("filter")
    assert node["drv"] == "copy-before-write"
    assert "Node" in server.error("blockdev-del", node_name="filter")
    server.job_cancel(id="job")
    server.finish_job("job")
    assert "filter" not in server.node_names()


def test_a_backup_of_a_backing_image(server, images, chain):
    """Any node can be the source, not only the top of a disk."""
    server.blockdev_add(
        driver="qcow2", node_name="top", file={"driver": "file", "filename": str(chain.path)},
        backing={"driver": "qcow2", "node-name": "src", "file": {"driver": "file", "filename": f"{images.dir}/base.qcow2"}},
    )
    target = images.create("target.raw", "raw", SIZE)
    run_backup(server, "blockdev-backup", target, sync="full")
    server.stop()
    target.compare(images.at("base.qcow2", "qcow2"))


def test_a_read_only_source(server, images, flat):
    server.add_image("src", flat, read_only=True)
    target = images.create("target.raw", "raw", SIZE)
    run_backup(server, "blockdev-backup", target, sync="full")
    server.stop()
    target.compare(flat)


def test_a_cancelled_backup_leaves_good_images(server, images, flat):
    server.add_image("src", flat.fill((0, SIZE, 5)))
    target = images.create("target.qcow2", size=SIZE)
    server.add_image("dst", target)
    with server.export("src", writable=True) as guest:
        server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=65536)
        guest.pwrite(b"\x44" * 65536, SIZE - 65536)
        server.job_cancel(id="job")
        assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
        guest.pwrite(b"\x45" * 65536, 0)
    server.stop()
    flat.read(0, "64k", 0x45)
    flat.read(SIZE - 65536, "64k", 0x44)
    target.check()


def test_one_after_the_other(server, images, flat):
    """Many short jobs on one disk leave nothing behind."""
    server.add_image("src", flat)
    nodes = server.node_names()
    for number in range(10):
        run_backup(server, "blockdev-backup", images.create(f"target{number}.qcow2", size=SIZE), sync="full")
        assert server.node_names() == nodes
    server.stop()
    for number in range(10):
        images.at(f"target{number}.qcow2", "qcow2").compare(flat)


@pytest.mark.differs("QEMU refuses the verb", server="qemu")
def test_complete_concludes_a_backup_without_copy(server, images, flat):
    """block-job-complete of a sync=none backup is its good end, as fleecing was first specified."""
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.qcow2", size=SIZE))
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="none")
    server.block_job_complete(device="job")
    ended = server.finish_job("job")
    assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"]
    assert server.job_states("job") == ["created", "running", "waiting", "pending", "concluded", "null"]


# ---------------------------------------------------------------------- refusals


REFUSED = [
    ({"device": None}, "Parameter 'device' is missing"),
    ({"sync": None}, "Parameter 'sync' is missing"),
    ({"sync": "bogus"}, "Parameter 'sync' does not accept value 'bogus'"),
    ({"job-id": None}, "Invalid job ID ''"),
    ({"job-id": "1"}, "Invalid job ID '1'"),
    ({"device": "nope"}, "Cannot find device='nope' nor node-name='nope'"),
    ({"speed": -1}, "Parameter 'speed' expects a non-negative value"),
    ({"sync": "bitmap"}, "must provide a valid bitmap name for 'bitmap' sync mode"),
    ({"sync": "incremental"}, "must provide a valid bitmap name for 'incremental' sync mode"),
    ({"sync": "full", "bitmap": "b"}, "Bitmap 'b' could not be found"),
    ({"sync": "full", "bitmap-mode": "never"}, "Cannot specify bitmap sync mode without a bitmap"),
    ({"on-source-error": "bogus"}, "Parameter 'on-source-error' does not accept value 'bogus'"),
    ({"on-target-error": "auto", "x-perf": {"max-workers": 0}}, "max-workers must be between 1 and 2147483647"),
    ({"x-perf": {"max-workers": 1 << 31}}, "max-workers must be between 1 and 2147483647"),
    ({"x-perf": {"max-chunk": 1}}, "Required max-chunk (1) is less than backup cluster size (65536)"),
    ({"x-perf": {"max-chunk": -1}}, "max-chunk must be zero (which means no limit) or positive"),
    ({"x-perf": {"bogus": 1}}, "Parameter 'x-perf.bogus' is unexpected"),
    ({"x-perf": 1}, "Invalid parameter type for 'x-perf', expected: object"),
    ({"filter-node-name": "src"}, "Could not create node: Duplicate nodes with node-name='src'"),
    ({"filter-node-name": ""}, "Could not create node: Invalid node-name: ''"),
    ({"sync": "incremental", "bitmap": "b", "bitmap-mode": "always"},
     "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"),
    ({"sync": "bitmap", "bitmap": "b", "bitmap-mode": "never"}, "Bitmap 'b' could not be found"),
    ({"filter-node-name": "1"}, "Could not create node: Invalid node-name: '1'"),
    ({"auto-finalize": "no"}, "Invalid parameter type for 'auto-finalize', expected: boolean"),
    ({"bogus": 1}, "Parameter 'bogus' is unexpected"),
]

REFUSED_DRIVE = REFUSED + [
    ({"target": None}, "Parameter 'target' is missing"),
    ({"target": "DIR/no/such"}, "Could not create 'DIR/no/such': No such file or directory"),
    ({"target": "DIR/nope", "mode": "existing"}, "Could not open 'DIR/nope': No such file or directory"),
    ({"target": "DIR/small.qcow2", "mode": "existing", "format": "raw"}, "Source and target image have different sizes"),
    ({"target": "DIR/src.qcow2", "mode": "existing"}, 'Failed to get "write" lock'),
    ({"target": ""}, "Could not create '': No such file or directory"),
    ({"target": "nope:x"}, "Unknown protocol 'nope'"),
    ({"target": "json:{}"}, "Unknown protocol 'json'"),
    ({"target": "null-co://", "format": "raw"}, "Protocol driver 'null-co' does not support image creation"),
    ({"format": "bogus"}, "Unknown file format 'bogus'"),
    ({"format": "raw", "compress": True}, "Compression is not supported for this drive "),
    ({"mode": "bogus"}, "Parameter 'mode' does not accept value 'bogus'"),
]

REFUSED_BLOCKDEV = REFUSED + [
    ({"target": None}, "Parameter 'target' is missing"),
    ({"target": "nope"}, "Cannot find device='nope' nor node-name='nope'"),
    ({"target": "src"}, "Source and target cannot be the same"),
    ({"target": "small"}, "Source and target image have different sizes"),
    ({"target": "ro"}, "Could not create node: Block node is read-only"),
    ({"target": "raw", "compress": True}, "Compression is not supported for this drive "),
]


@pytest.mark.parametrize(
    "method, change, error",
    [("drive-backup", *case) for case in REFUSED_DRIVE] + [("blockdev-backup", *case) for case in REFUSED_BLOCKDEV],
)
def test_refused(server, images, method, change, error):
    """A refused backup starts no job and leaves the graph as it was."""
    for name in ("src", "dst", "ro"):
        server.add_image(name, images.create(f"{name}.qcow2"), read_only=name == "ro")
    server.add_image("small", images.create("small.qcow2", size="512k"))
    server.add_image("raw", images.create("raw.raw", "raw", "1M"))
    nodes = server.node_names()
    options = {"job-id": "job", "device": "src", "sync": "full"}
    options["target"] = f"{images.dir}/target" if method == "drive-backup" else "dst"
    options.update(change)
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(options.get("target"), str):
        options["target"] = options["target"].replace("DIR", str(images.dir))
    assert server.error(method, options) == error.replace("DIR", str(images.dir))
    assert server.query_jobs() == []
    assert server.node_names() == nodes
    with server.export("src", writable=True) as nbd:
        nbd.pwrite(b"x" * 512, 0)


def test_errors_name_generated_nodes(server, images):
    """A conflict with the filter of a backup names the filter."""
    server.add_image("src", images.create("src.qcow2"))
    server.add_image("dst", images.create("dst.qcow2"))
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="none", filter_node_name="flt")
    server.nbd_start()
    error = server.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "src", "writable": True})
    assert re.search("unshared by node 'flt' \\(uses node 'src' as 'file' child\\)", error)


# ---------------------------------------------------------------------- errors while it runs


@pytest.fixture
def bad_source(images):
    """An image of compressed clusters, one of which (number 1) cannot be decompressed: reading it is an I/O error."""
    plain = images.create("plain.raw", "raw", "1M").fill((0, "1M", 1))
    image = images.at("src.qcow2", "qcow2")
    qemu_img("convert", "-c", "-O", "qcow2", plain.path, image.path)
    data = bytearray(image.path.read_bytes())
    l1_table = int.from_bytes(data[40:48], "big")
    l2_table = int.from_bytes(data[l1_table : l1_table + 8], "big") & 0x00FFFFFFFFFFFE00
    descriptor = int.from_bytes(data[l2_table + 8 : l2_table + 16], "big")
    start = descriptor & ((1 << 54) - 1)
    data[start : start + 16] = b"\xff" * 16
    image.path.write_bytes(data)
    return image


@pytest.fixture
def small_directory(images):
    """A file system of 400 KiB that can grow."""
    path = images.dir / "small"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def grow(directory):
    subprocess.run(["mount", "-o", "remount,size=16M", str(directory)], check=True)


@pytest.mark.parametrize("policy, action", [("report", "report"), ("enospc", "report")])
def test_source_error_ends_the_job(server, images, bad_source, policy, action):
    server.add_image("src", bad_source)
    server.add_image("dst", images.create("dst.qcow2"))
    server.blockdev_backup(
        job_id="job", device="src", target="dst", sync="full", on_source_error=policy, auto_dismiss=False
    )
    error = server.wait_event("BLOCK_JOB_ERROR")
    assert error["data"] == {"device": "job", "operation": "read", "action": action}
    ended = server.wait_event("BLOCK_JOB_COMPLETED")
    assert ended["data"]["error"] == "Input/output error"
    server.wait_status("job", "concluded")
    assert server.job_states("job") == ["created", "running", "aborting", "concluded"]
    assert server.job("job")["error"] == "Input/output error"
    server.job_dismiss(id="job")


def test_source_error_stops_the_job(server, images, bad_source):
    """It pauses at each attempt, until somebody gives up."""
    server.add_image("src", bad_source)
    server.add_image("dst", images.create("dst.qcow2"))
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", on_source_error="stop")
    for resume in ("job-resume", "block-job-resume"):
        error = server.wait_event("BLOCK_JOB_ERROR")
        assert error["data"] == {"device": "job", "operation": "read", "action": "stop"}
        server.wait_job("job", "paused")
        (info,) = server.query_block_jobs()
        assert info["io-status"] == "failed" and info["paused"] is True
        server.execute(resume, {"id" if resume == "job-resume" else "device": "job"})
    server.wait_event("BLOCK_JOB_ERROR")
    server.job_cancel(id="job")
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"


def test_source_error_ignored(server, images, bad_source):
    """It tries again and again; the server stays answerable and the job can be cancelled."""
    server.add_image("src", bad_source)
    server.add_image("dst", images.create("dst.qcow2"))
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", on_source_error="ignore")
    assert server.wait_event("BLOCK_JOB_ERROR")["data"] == {"device": "job", "operation": "read", "action": "ignore"}
    server.job_cancel(id="job")
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"


def backup_to_small(server, images, small_directory, **options):
    source = images.create("src.qcow2").fill((0, "1M", 1))
    server.add_image("src", source)
    server.add_image("dst", Image.create(small_directory / "dst.qcow2", "qcow2", "1M"))
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", auto_dismiss=False, **options)


def test_full_target_ends_the_job(server, images, small_directory):
    backup_to_small(server, images, small_directory)
    error = server.wait_event("BLOCK_JOB_ERROR")
    assert error["data"] == {"device": "job", "operation": "write", "action": "report"}
    server.wait_status("job", "concluded")
    assert server.job("job")["error"] == "No space left on device"


@pytest.mark.parametrize("policy", ["stop", "enospc"])
def test_full_target_waits_for_space(server, images, small_directory, policy):
    """The job pauses, somebody makes room, and it goes on where it was."""
    backup_to_small(server, images, small_directory, on_target_error=policy)
    error = server.wait_event("BLOCK_JOB_ERROR")
    assert error["data"] == {"device": "job", "operation": "write", "action": "stop"}
    server.wait_job("job", "paused")
    assert server.query_block_jobs()[0]["io-status"] == "nospace"
    grow(small_directory)
    server.block_job_resume(device="job")
    server.wait_status("job", "concluded")
    assert "error" not in server.job("job")
    server.stop()
    target = Image(small_directory / "dst.qcow2", "qcow2")
    target.compare(images.at("src.qcow2", "qcow2"))
    target.check()


def test_full_target_under_guest_writes(server, images, small_directory):
    """A guest write that cannot be saved first: it fails or the copy does, but no copy is called good that is not."""
    source = images.create("src.raw", "raw", "1M").fill((0, "1M", 1))
    server.add_image("src", source)
    server.add_image("dst", Image.create(small_directory / "dst.qcow2", "qcow2", "1M"))
    with server.export("src", writable=True) as guest:
        server.blockdev_backup(job_id="job", device="src", target="dst", sync="none", auto_dismiss=False)
        failed = None
        for cluster in range(16):
            try:
                guest.pwrite(b"\2" * 65536, cluster * 65536)
            except OSError:
                failed = failed if failed is not None else cluster
                assert guest.pread(65536, cluster * 65536) == b"\1" * 65536
        assert failed is not None and failed > 0
        server.job_cancel(id="job")
        server.wait_status("job", "concluded")
    server.stop()
    Image(small_directory / "dst.qcow2", "qcow2").read(0, 65536 * failed, 1)
