"""blockdev-create: images of every kind made by the server, judged by the tools, and every refusal."""

import re
import struct

import pytest

from blockbed_iotests import Image, QmpError

SIZE = 1 << 20


def create(server, options):
    """Runs the job to its end; the text of its error or of the command's, None when it succeeded."""
    result = server.try_execute("blockdev-create", {"job-id": "create", "options": options})
    if isinstance(result, QmpError):
        assert server.job("create") is None
        return result.desc
    server.wait_status("create", "concluded")
    error = server.job("create").get("error")
    server.job_dismiss(id="create")
    server.wait_null("create")
    return error


@pytest.fixture
def file_node(server, images):
    """An empty file, open as the node `f`."""
    path = images.dir / "image"
    assert create(server, {"driver": "file", "filename": str(path), "size": 0}) is None
    server.blockdev_add(driver="file", node_name="f", filename=str(path))
    return path


# ---------------------------------------------------------------------- file


@pytest.mark.parametrize("preallocation", ["off", "falloc", "full"])
@pytest.mark.parametrize("size", [0, 512, 1000, SIZE])
def test_file(server, images, size, preallocation):
    path = images.dir / "image"
    assert create(server, {"driver": "file", "filename": str(path), "size": size, "preallocation": preallocation}) is None
    assert path.stat().st_size == size
    assert path.read_bytes() == bytes(size)
    # Without preallocation too the first block is there: it shows how direct I/O must be aligned.
    assert path.stat().st_blocks * 512 >= (min(size, 4096) if preallocation == "off" else size)


def test_file_replaces_what_was_there(server, images):
    path = images.dir / "image"
    path.write_bytes(b"x" * 5000)
    assert create(server, {"driver": "file", "filename": str(path), "size": 2000}) is None
    assert path.read_bytes() == bytes(2000)


@pytest.mark.parametrize(
    "change, error",
    [
        ({"size": -1}, "Could not resize file: Invalid argument"),
        ({"size": 1 << 62}, "Could not resize file: File too large"),
        ({"size": 1 << 63}, "Could not resize file: Invalid argument"),
        ({"filename": "DIR/no/x"}, "Could not create 'DIR/no/x': No such file or directory"),
        ({"filename": ""}, "Could not create '': No such file or directory"),
        ({"preallocation": "metadata"}, "Unsupported preallocation mode: metadata"),
        ({"extent-size-hint": 1 << 33}, "Extent size hint is too large"),
        ({"preallocation": "bogus"}, "Parameter 'preallocation' does not accept value 'bogus'"),
        ({"driver": "nope"}, "Parameter 'driver' does not accept value 'nope'"),
        ({"filename": None}, "Parameter 'options.filename' is missing"),
        ({"size": None}, "Parameter 'options.size' is missing"),
        ({"size": "x"}, "Parameter 'options.size' expects uint64"),
        ({"bogus": 1}, "Parameter 'options.bogus' is unexpected"),
    ],
)
def test_file_refused(server, images, change, error):
    options = {"driver": "file", "filename": "DIR/image", "size": SIZE, **change}
    options = {
        name: value.replace("DIR", str(images.dir)) if isinstance(value, str) else value
        for name, value in options.items() if value is not None
    }
    assert create(server, options) == error.replace("DIR", str(images.dir))


def test_a_driver_that_creates_nothing(server):
    assert create(server, {"driver": "null-co"}) == "Driver does not support blockdev-create"


# ---------------------------------------------------------------------- qcow2

QCOW2 = {
    "default": {},
    "v2": {"version": "v2"},
    "v3": {"version": "v3"},
    **{f"cluster {size}": {"cluster-size": size} for size in (512, 1024, 4096, 32768, 65536, 1 << 20, 2 << 20)},
    **{f"refcounts {bits}": {"refcount-bits": bits} for bits in (1, 2, 4, 8, 16, 32, 64)},
    "lazy": {"lazy-refcounts": True},
    "metadata": {"preallocation": "metadata"},
    "falloc": {"preallocation": "falloc"},
    "full": {"preallocation": "full"},
    "metadata 512": {"preallocation": "metadata", "cluster-size": 512},
    "metadata refcounts 1": {"preallocation": "metadata", "refcount-bits": 1},
    "backing": {"backing-file": "base", "backing-fmt": "raw"},
    "backing without format": {"backing-file": "base"},
    "no size": {"size": 0},
    "large": {"size": 1 << 40},
    "large, small clusters": {"size": 1 << 36, "cluster-size": 4096},
}


@pytest.mark.parametrize("longer", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("preallocation", ["off", "metadata", "falloc", "full"])
def test_over_a_data_file_that_holds_something(server, images, file_node, preallocation, raw, longer):
    """What it holds is the disk where it is allocated at once; where it is not, the disk is empty and the rest is cut off."""
    held = b"\1" * (2 * SIZE if longer else SIZE // 2)
    data = images.dir / "data"
    data.write_bytes(held)
    server.blockdev_add(driver="file", node_name="d", filename=str(data))
    assert create(server, {"driver": "qcow2", "file": "f", "data-file": "d", "data-file-raw": raw, "size": SIZE,
                           "preallocation": preallocation}) is None
    takes_over = raw or preallocation != "off"
    assert data.stat().st_size == (max(len(held), SIZE) if takes_over else SIZE)
    server.blockdev_add(driver="qcow2", node_name="q", file="f", data_file="d")
    with server.export("q") as nbd:
        assert nbd.pread(SIZE, 0) == (held[:SIZE] if takes_over else b"").ljust(SIZE, b"\0")


@pytest.mark.parametrize("name", QCOW2)
def test_qcow2(server, images, file_node, name):
    """The image is what was asked for, is whole, and can be written. Its backing file is named, not opened."""
    options = QCOW2[name]
    size = options.get("size", SIZE)
    assert create(server, {"driver": "qcow2", "file": "f", "size": SIZE, **options}) is None
    server.blockdev_del(node_name="f")
    image = Image(file_node, "qcow2")
    if "backing-file" in options:
        images.create("base", "raw", SIZE)
    image.check()
    info = image.info()
    specific = info["format-specific"]["data"]
    assert info["virtual-size"] == size
    assert info["cluster-size"] == options.get("cluster-size", 65536)
    assert specific["compat"] == ("0.10" if options.get("version") == "v2" else "1.1")
    assert specific["refcount-bits"] == options.get("refcount-bits", 16)
    assert specific.get("lazy-refcounts", False) == options.get("lazy-refcounts", False)
    assert info.get("backing-filename") == options.get("backing-file")
    assert info.get("backing-filename-format") == options.get("backing-fmt")
    if options.get("preallocation"):
        assert all(extent["present"] for extent in image.map())
    if size and "backing-file" not in options:
        server.add_image("q", image)
        with server.export("q", writable=True) as nbd:
            nbd.pwrite(b"\1" * 3000, size - 3000)
            assert nbd.pread(4096, size - 4096) == bytes(1096) + b"\1" * 3000
        server.stop()
        image.check()
        image.read(size - 3000, 3000, 1)


@pytest.mark.parametrize(
    "change, error",
    [
        ({"version": "v4"}, "Parameter 'version' does not accept value 'v4'"),
        ({"cluster-size": 1000}, "Cluster size must be a power of two between 512 and 2048k"),
        ({"cluster-size": 256}, "Cluster size must be a power of two between 512 and 2048k"),
        ({"cluster-size": 4 << 20}, "Cluster size must be a power of two between 512 and 2048k"),
        ({"cluster-size": -1}, "Cluster size must be a power of two between 512 and 2048k"),
        ({"refcount-bits": 7}, "Refcount width must be a power of two and may not exceed 64 bits"),
        ({"refcount-bits": 128}, "Refcount width must be a power of two and may not exceed 64 bits"),
        (
            {"version": "v2", "refcount-bits": 1},
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
        ),
        (
            {"version": "v2", "lazy-refcounts": True},
            "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)",
        ),
        ({"version": "v2", "extended-l2": True, "cluster-size": 1000}, "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)"),
        ({"version": "v2", "extended-l2": True, "cluster-size": 512}, "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)"),
        (
            {"extended-l2": True, "cluster-size": 512},
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        ),
        ({"backing-fmt": "qcow2"}, "Backing format cannot be used without backing file"),
        (
            {"backing-file": "/no/base", "backing-fmt": "raw", "preallocation": "metadata"},
            "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        ),
        (
            {"backing-file": "", "preallocation": "metadata"},
            "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        ),
        ({"size": 1000}, "Image size must be a multiple of 512 bytes"),
        ({"size": -1}, "Image size must be a multiple of 512 bytes"),
        ({"size": -512}, "Could not resize image: Image size cannot be negative"),
        (
            {"size": (1 << 63) - 512, "cluster-size": 2 << 20},
            "Could not resize image: offset(9223372036854775296) exceeds maximum(9223372035781033984)",
        ),
        ({"size": 1 << 62}, "Could not resize image: Failed to grow the L1 table: File too large"),
        ({"size": 1 << 50, "cluster-size": 512}, "Could not resize image: Failed to grow the L1 table: File too large"),
        ({"compression-type": "bogus"}, "Parameter 'compression-type' does not accept value 'bogus'"),
        ({"data-file-raw": True}, "data-file-raw requires data-file"),
        ({"file": "nope"}, "Cannot find device='nope' nor node-name='nope'"),
        ({"file": None}, "Parameter 'options.file' is missing"),
    ],
)
def test_qcow2_refused(server, file_node, change, error):
    options = {"driver": "qcow2", "file": "f", "size": SIZE, **change}
    assert create(server, {name: value for name, value in options.items() if value is not None}) == error
    assert create(server, {"driver": "qcow2", "file": "f", "size": SIZE}) is None


def test_a_backing_file_without_a_name(server, file_node):
    """Its format is kept for the one that the image may get."""
    options = {"driver": "qcow2", "file": "f", "size": SIZE, "backing-file": "", "backing-fmt": "raw"}
    assert create(server, options) is None
    server.blockdev_del(node_name="f")
    assert "backing-filename" not in Image(file_node, "qcow2").info()
    assert struct.pack(">II", 0xE2792ACA, 3) + b"raw" in file_node.read_bytes()[:512]


def test_a_backing_format_longer_than_readers_take(server, file_node):
    options = {"driver": "qcow2", "file": "f", "size": SIZE, "backing-file": "base", "backing-fmt": "copy-before-write"}
    assert create(server, options) is None
    server.blockdev_del(node_name="f")
    assert Image(file_node, "qcow2").info()["backing-filename-format"] == "copy-before-wri"


# ---------------------------------------------------------------------- qcow2 on what is no empty file

FULL = "No space left on device"
FIXED = "Cannot resize fixed-size raw disks"


@pytest.mark.parametrize("options", [{}, {"version": "v2"}, {"extended-l2": True}], ids=str)
@pytest.mark.parametrize(
    "clusters, preallocation, error",
    [
        (2, "off", f"Could not write refcount table: {FULL}"),
        (3, "off", f"Could not resize image: Failed to grow the L1 table: {FULL}"),
        (4, "off", None),
        (4, "metadata", f"Could not resize image: Allocating clusters failed: {FULL}"),
        (4, "falloc", f"Could not resize image: Failed to resize refcount structures: {FULL}"),
        (5, "metadata", f"Could not resize image: {FIXED}"),
        (5, "falloc", f"Could not resize image: Failed to resize underlying file: {FIXED}"),
        (5, "full", f"Could not resize image: Failed to resize underlying file: {FIXED}"),
        (200, "off", None),
        (300, "metadata", None),
    ],
)
def test_on_a_window_of_a_file(server, images, options, clusters, preallocation, error):
    """It can neither grow nor be cut."""
    path = images.dir / "image"
    path.write_bytes(b"\xaa" * (400 << 16))
    server.blockdev_add(driver="raw", node_name="w", size=clusters << 16, file={"driver": "file", "filename": str(path)})
    wanted = {"driver": "qcow2", "file": "w", "size": 16 << 20, "preallocation": preallocation, **options}
    assert create(server, wanted) == error
    server.blockdev_del(node_name="w")
    assert path.stat().st_size == 400 << 16
    assert path.read_bytes()[clusters << 16:] == b"\xaa" * ((400 - clusters) << 16)
    if error is None:
        Image(path, "qcow2").check()


def over_old_content():
    for options in ({}, {"version": "v2"}, {"extended-l2": True}, {"cluster-size": 2 << 20}):
        for mode in ("off", "metadata", "falloc", "full"):
            marks = []
            if mode in ("falloc", "full"):
                marks.append(pytest.mark.differs("is refused as a preallocation of a shorter file", server="qemu"))
            elif mode == "metadata" and "extended-l2" not in options:
                marks.append(pytest.mark.differs("the new disk shows what the file held", server="qemu"))
            yield pytest.param({"preallocation": mode, **options}, marks=marks, id=f"{mode} {options}")


@pytest.mark.parametrize("options", over_old_content())
def test_over_what_a_file_holds(server, images, options):
    """Nothing of it shows in the new disk, also when parts of clusters are written; the file keeps its length."""
    path = images.dir / "image"
    path.write_bytes(b"\xaa" * (32 << 20))
    server.blockdev_add(driver="file", node_name="f", filename=str(path))
    assert create(server, {"driver": "qcow2", "file": "f", "size": 16 << 20, **options}) is None
    server.blockdev_add(driver="qcow2", node_name="q", file="f")
    with server.export("q", writable=True) as nbd:
        assert nbd.pread(16 << 20, 0) == bytes(16 << 20)
        nbd.pwrite(b"\1" * 1000, 100000)
        assert nbd.pread(16 << 20, 0) == bytes(100000) + b"\1" * 1000 + bytes((16 << 20) - 101000)
    server.stop()
    assert path.stat().st_size == 32 << 20
    Image(path, "qcow2").check()


def test_in_another_image(server, images):
    outer = images.create("outer.qcow2", size="64M").fill((0, "1M", 0xAA))
    server.add_image("outer", outer)
    assert create(server, {"driver": "qcow2", "file": "outer", "size": SIZE}) is None
    server.blockdev_add(driver="qcow2", node_name="inner", file="outer")
    with server.export("inner", writable=True) as nbd:
        assert nbd.pread(SIZE, 0) == bytes(SIZE)
        nbd.pwrite(b"\1" * 1000, 100000)
        assert nbd.pread(65536, 65536) == bytes(34464) + b"\1" * 1000 + bytes(30072)
    server.stop()
    outer.check()


@pytest.mark.differs("the outer disk is longer until it is closed; then its end is lost", server="qemu")
def test_in_another_image_that_is_too_small(server, images):
    """A disk whose size is in a header does not become longer by what is written behind its end."""
    outer = images.create("outer.qcow2", size="512k")
    server.add_image("outer", outer)
    assert create(server, {"driver": "qcow2", "file": "outer", "size": SIZE}) is None
    server.blockdev_add(driver="qcow2", node_name="inner", file="outer")
    with server.export("inner", writable=True) as nbd:
        nbd.pwrite(b"\1" * 65536, 0)
        assert nbd.pread(65536, 0) == b"\1" * 65536
        with pytest.raises(OSError, match="No space left on device"):
            nbd.pwrite(b"\2" * 65536 * 8, 65536)
    server.stop()
    outer.check()


def test_on_what_keeps_nothing(server):
    server.blockdev_add(driver="null-co", node_name="n", size=64 << 20, read_zeroes=True)
    assert create(server, {"driver": "qcow2", "file": "n", "size": SIZE}) == "Image is not in qcow2 format"


def test_file_given_in_place(server, images):
    """The file under the format may be described instead of named."""
    path = images.dir / "image"
    path.touch()
    assert create(server, {"driver": "qcow2", "file": {"driver": "file", "filename": str(path)}, "size": SIZE}) is None
    assert server.node_names() == set()
    Image(path, "qcow2").check()


def test_a_file_in_use(server, file_node):
    assert create(server, {"driver": "qcow2", "file": "f", "size": SIZE}) is None
    server.blockdev_add(driver="qcow2", node_name="q", file="f")
    assert create(server, {"driver": "qcow2", "file": "f", "size": SIZE}) == (
        "Permission conflict on node 'f': permissions 'write, resize' are both required by an unnamed block device (uses "
        "node 'f' as 'root' child) and unshared by node 'q' (uses node 'f' as 'file' child)."
    )


def conflict(permissions, needing, refusing):
    """What is told of two users of `f`, each as the words for it and the name of its child."""
    (needer, need_as), (refuser, refuse_as) = needing, refusing
    return (f"Permission conflict on node 'f': permissions '{permissions}' are both required by {needer} (uses node 'f' as "
            f"'{need_as}' child) and unshared by {refuser} (uses node 'f' as '{refuse_as}' child).")


OTHER = ("node 'other'", "image")
# Nobody gave the image that is being made a name.
NEW_IMAGE = ("node '#block'", "file")
WRITER = ("an unnamed block device", "root")
NEEDS, SHARES = "take-child-perms", "unshare-child-perms"


@pytest.mark.parametrize("other, error", [
    ({NEEDS: ["consistent-read"]}, None),
    ({NEEDS: ["write"]}, conflict("write", OTHER, NEW_IMAGE)),
    ({NEEDS: ["write-unchanged"]}, None),
    ({NEEDS: ["resize"]}, conflict("resize", OTHER, NEW_IMAGE)),
    ({SHARES: ["consistent-read"]}, conflict("consistent read", NEW_IMAGE, OTHER)),
    ({SHARES: ["write"]}, conflict("write", WRITER, OTHER)),
    ({SHARES: ["write-unchanged"]}, None),
    ({SHARES: ["resize"]}, conflict("resize", WRITER, OTHER)),
    # The first that writes to the file does not read it.
    ({SHARES: ["consistent-read", "resize"]}, conflict("resize", WRITER, OTHER)),
])
def test_a_file_with_another_user(server, file_node, other, error):
    server.blockdev_add({"driver": "blkdebug", "node-name": "other", "image": "f", **other})
    told = create(server, {"driver": "qcow2", "file": "f", "size": SIZE})
    assert (told and re.sub("#block[0-9]+", "#block", told)) == error
    assert server.node_names() == {"f", "other"}


@pytest.mark.parametrize("other, permissions", [
    ({NEEDS: ["consistent-read"]}, None),
    ({NEEDS: ["write"]}, None),
    ({NEEDS: ["resize"]}, "needs resize"),
    ({SHARES: ["consistent-read"]}, "consistent read"),
    ({SHARES: ["write"]}, "write"),
    ({SHARES: ["write-unchanged"]}, None),
    ({SHARES: ["resize"]}, "resize"),
    ({SHARES: ["consistent-read", "write", "resize"]}, "consistent read, write, resize"),
])
def test_a_data_file_with_another_user(server, images, file_node, other, permissions):
    """Nobody writes to it before the image is open, which has written its first tables by then."""
    (images.dir / "table").touch()
    server.blockdev_add(driver="file", node_name="t", filename=f"{images.dir}/table")
    server.blockdev_add({"driver": "blkdebug", "node-name": "other", "image": "f", **other})
    told = create(server, {"driver": "qcow2", "file": "t", "data-file": "f", "size": SIZE})
    told = told and re.sub("#block[0-9]+", "#block", told)
    data_file = ("node '#block'", "data-file")
    if permissions == "needs resize":
        assert told == conflict("resize", OTHER, data_file)
    else:
        assert told == (permissions and conflict(permissions, data_file, OTHER))
    assert (images.dir / "table").stat().st_size > 2 * 65536


@pytest.mark.parametrize("options, error", [
    ({"cluster-size": 513}, "Cluster size must be a power of two between 512 and 2048k"),
    ({"cluster-size": 513, "data-file": "missing"}, "Cluster size must be a power of two between 512 and 2048k"),
    ({"cluster-size": 513, "file": "missing"}, "Cannot find device='missing' nor node-name='missing'"),
    ({"data-file": "missing"}, "Cannot find device='missing' nor node-name='missing'"),
])
def test_what_is_told_before_a_conflict(server, file_node, options, error):
    server.blockdev_add({"driver": "blkdebug", "node-name": "other", "image": "f", SHARES: ["write"]})
    assert create(server, {"driver": "qcow2", "file": "f", "size": SIZE, **options}) == error


@pytest.mark.parametrize("preallocation", ["metadata", "falloc", "full"])
def test_preallocated_subclusters_hold_nothing_yet(server, images, file_node, preallocation):
    """Clusters have their place, and their subclusters show what they showed before."""
    options = {"extended-l2": True, "cluster-size": 131072, "preallocation": preallocation}
    assert create(server, {"driver": "qcow2", "file": "f", "size": SIZE, **options}) is None
    server.blockdev_del(node_name="f")
    image = Image(file_node, "qcow2")
    image.check()
    theirs = images.create("theirs", size=SIZE, extended_l2="on", cluster_size=131072, preallocation=preallocation)
    assert [(e["present"], e["zero"], e["length"]) for e in image.map()] == [
        (e["present"], e["zero"], e["length"]) for e in theirs.map()]


def test_an_image_is_not_its_own_data_file(server, file_node):
    error = create(server, {"driver": "qcow2", "file": "f", "data-file": "f", "size": SIZE})
    assert re.sub("#block[0-9]+", "#block", error) == (
        "Permission conflict on node 'f': permissions 'resize' are both required by node '#block' (uses node 'f' as 'file' "
        "child) and unshared by node '#block' (uses node 'f' as 'data-file' child)."
    )


@pytest.mark.parametrize("job_id", ["", "1x", "a b"])
def test_bad_job_id(server, file_node, job_id):
    error = server.error("blockdev-create", {"job-id": job_id, "options": {"driver": "qcow2", "file": "f", "size": SIZE}})
    assert error == f"Invalid job ID '{job_id}'"


def test_states_of_the_job(server, images):
    """No BLOCK_JOB_* events: it is a job, but no block job. It is kept until it is dismissed."""
    server.blockdev_create(job_id="create", options={"driver": "file", "filename": f"{images.dir}/x", "size": 512})
    server.wait_status("create", "concluded")
    assert server.job_states("create") == ["created", "running", "waiting", "pending", "concluded"]
    assert server.query_jobs() == [
        {"current-progress": 1, "status": "concluded", "total-progress": 1, "type": "create", "id": "create"}
    ]
    assert server.query_block_jobs() == []
    assert {event["event"] for event in server.events()} == {"JOB_STATUS_CHANGE"}
    assert "not found" in server.error("block-job-cancel", device="create")
    server.job_dismiss(id="create")
    assert server.query_jobs() == []


def test_a_failed_creation_is_announced(server, images):
    server.blockdev_create(job_id="create", options={"driver": "file", "filename": f"{images.dir}/no/x", "size": 512})
    server.wait_status("create", "concluded")
    assert server.job_states("create") == ["created", "running", "aborting", "concluded"]
    assert server.job("create")["error"] == f"Could not create '{images.dir}/no/x': No such file or directory"


# ---------------------------------------------------------------------- amending


@pytest.mark.parametrize("node, options, error", [
    ("nope", {"driver": "qcow2"}, "Cannot find device='' nor node-name='nope'"),
    ("q", {"driver": "raw"}, "x-blockdev-amend doesn't support changing the block driver"),
    ("q", {"driver": "luks", "state": "active"}, "x-blockdev-amend doesn't support changing the block driver"),
    ("r", {"driver": "qcow2"}, "x-blockdev-amend doesn't support changing the block driver"),
    ("r", {"driver": "raw"}, "Driver does not support x-blockdev-amend"),
    ("q", {"driver": "qcow2", "size": 1}, "Parameter 'options.size' is unexpected"),
])
def test_amend_refused(server, images, node, options, error):
    server.add_image("q", images.create("q.qcow2"))
    server.add_image("r", images.create("r.raw", "raw"))
    assert server.error("x-blockdev-amend", {"job-id": "?", "node-name": node, "options": options}) == error
    assert server.query_jobs() == []


def test_amend(server, images):
    """Of qcow2 the keys of the encryption can be amended; an image that has none has nothing to amend."""
    server.add_image("q", images.create("q.qcow2"))
    assert server.error("x-blockdev-amend", {"job-id": "?", "node-name": "q", "options": {"driver": "qcow2"}}) == (
        "Invalid job ID '?'")
    server.execute("x-blockdev-amend", {"job-id": "job", "node-name": "q", "options": {"driver": "qcow2"}})
    assert server.job_states("job") == ["created", "running", "waiting", "pending", "concluded"]
    assert server.job("job") == {"id": "job", "type": "amend", "status": "concluded", "current-progress": 1, "total-progress": 1}
    server.job_dismiss(id="job")
    keys = {"driver": "qcow2", "encrypt": {"format": "luks", "state": "active", "new-secret": "s"}}
    server.execute("x-blockdev-amend", {"job-id": "job", "node-name": "q", "options": keys, "force": True})
    server.wait_job("job", "concluded")
    assert server.job("job")["error"] == "image is not encrypted, can't amend"
    server.job_dismiss(id="job")
    server.blockdev_del(node_name="q")
