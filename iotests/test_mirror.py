"""blockdev-mirror and drive-mirror: what the target holds, when it takes the place of the disk, and what is refused."""

import pytest

from blockbed_iotests import History, Image

SIZE = 4 << 20


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


def ready(server, job="job"):
    return server.wait_event("BLOCK_JOB_READY", {"device": job})["data"]


def ended_well(server, job="job"):
    ended = server.finish_job(job)
    assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"], ended
    return ended["data"]


@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
def test_full(server, images, chain, flat, source_format, target_format):
    source = chain if source_format == "qcow2" else flat
    target = images.create("target", target_format, SIZE).fill((0, SIZE, 0xFF))
    server.add_image("src", source)
    server.add_image("dst", target)
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    assert ready(server) == {"device": "job", "len": SIZE, "offset": SIZE, "speed": 0, "type": "mirror"}
    server.block_job_complete(device="job")
    ended_well(server)
    assert server.job_states("job") == ["created", "running", "ready", "waiting", "pending", "concluded", "null"]
    server.stop()
    target.compare(flat)
    target.check()


def marks(server, node):
    return [bitmap for bitmap in server.query_node(node).get("dirty-bitmaps", []) if "name" not in bitmap]


@pytest.mark.parametrize("granularity", [None, 4096])
@pytest.mark.parametrize("copy_mode", ["background", "write-blocking"])
def test_what_is_left_to_copy_is_a_bitmap_of_the_source(server, images, chain, copy_mode, granularity):
    """It has no name and is nobody else's; it is gone when the job is."""
    server.add_image("src", chain)
    server.add_image("dst", images.create("target.qcow2", size=SIZE))
    options = {} if granularity is None else {"granularity": granularity}
    with server.export("src", writable=True) as nbd:
        server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", copy_mode=copy_mode, **options)
        ready(server)
        shown = {"recording": copy_mode == "background", "persistent": False, "busy": False, "granularity": granularity or 65536}
        assert marks(server, "src") == [{**shown, "count": 0}]
        server.job_pause(id="job")
        server.wait_job("job", "standby")
        nbd.pwrite(b"x" * 100, 512)
        left = (granularity or 65536) if copy_mode == "background" else 0
        assert marks(server, "src") == [{**shown, "count": left}]
        assert marks(server, "dst") == []
        server.job_resume(id="job")
        server.block_job_cancel(device="job")
        ended_well(server)
        assert marks(server, "src") == []


@pytest.mark.parametrize("copy_mode", ["background", "write-blocking"])
@pytest.mark.parametrize("end", ["complete", "cancel"])
def test_guests_write_all_the_while(server, images, chain, copy_mode, end):
    """The target is the disk at the instant of the end; who pivots goes on there."""
    target = images.create("target.qcow2", size=SIZE)
    server.add_image("src", chain)
    server.add_image("dst", target)
    history = History({"disk": chain.content(force_share=True)})
    with server.export("src", writable=True) as nbd, history.writer({"disk": nbd}, seed=7) as guest:
        guest.wait_writes(5)
        server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", copy_mode=copy_mode)
        ready(server)
        guest.wait_writes(20)
        with history.instant() as instant:
            if end == "complete":
                server.block_job_complete(device="job")
            else:
                server.block_job_cancel(device="job")
            ended_well(server)
        if end == "complete":
            guest.wait_writes(20)
    if end == "complete":
        with server.export("dst") as reader:
            assert reader.pread(SIZE, 0) == history.now()["disk"]
    server.stop()
    target.check()
    if end == "cancel":
        history.check(instant, {"disk": target.content()})


def test_force_cancel_of_a_ready_job(server, images, chain):
    server.add_image("src", chain)
    server.add_image("dst", images.create("target.qcow2", size=SIZE))
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    ready(server)
    server.block_job_cancel(device="job", force=True)
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    assert server.job_states("job") == ["created", "running", "ready", "aborting", "concluded", "null"]
    server.blockdev_del(node_name="dst")


# ---------------------------------------------------------------------- what is copied


@pytest.mark.parametrize("granularity", [512, 4096, 1 << 20, None])
def test_top_copies_what_the_top_layer_holds(server, images, chain, flat, granularity):
    target = images.create("target.qcow2", size=None, backing=images.at("base.qcow2", "qcow2"))
    server.add_image("src", chain)
    server.add_image("dst", target)
    options = {} if granularity is None else {"granularity": granularity}
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="top", **options)
    ready(server)
    server.block_job_complete(device="job")
    ended_well(server)
    server.stop()
    target.compare(flat)


@pytest.mark.parametrize("over", [None, "throttle", "raw"])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("discard", ["ignore", "unmap"])
def test_top_of_a_disk_without_other_layers(server, images, format, discard, over):
    """All that it holds is copied, and only that: the target is not emptied, as for `full`."""
    source = images.create("source.qcow2", size="1M").fill((65536, 65536, 1))
    source.io("write -z 256k 64k")
    target = images.create(f"target.{format}", format, "1M").fill((0, 1 << 20, 9))
    server.add_image("src", source)
    server.add_image("dst", target, discard=discard)
    device = "src"
    if over is not None:
        server.object_add(qom_type="throttle-group", id="tg")
        device = "over"
        group = {"throttle_group": "tg"} if over == "throttle" else {}
        server.blockdev_add(driver=over, node_name="over", file="src", **group)
    server.blockdev_mirror(job_id="job", device=device, target="dst", sync="top")
    data = ready(server)
    assert data["len"] == data["offset"] == 128 << 10
    server.block_job_cancel(device="job")
    ended_well(server)
    server.stop()
    nines = b"\x09" * 65536
    assert target.content() == nines + b"\1" * 65536 + nines * 2 + bytes(65536) + nines * 11


def test_none_copies_what_is_written(server, images, flat):
    """And is ready before the command is answered."""
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.raw", "raw", SIZE))
    with server.export("src", writable=True) as guest:
        server.blockdev_mirror(job_id="job", device="src", target="dst", sync="none")
        assert server.job("job")["status"] == "ready"
        guest.pwrite(b"\x11" * 100, 70000)
        server.block_job_cancel(device="job")
        data = ended_well(server)
    assert data["len"] == data["offset"] == 65536
    server.stop()
    target = images.at("target.raw", "raw")
    target.read(0, "64k", 0)
    target.read(70000, 100, 0x11)
    target.read("1M", "512k", 0)


def test_zeroes_are_not_copied_into_a_target_that_unmaps(server, images, chain, flat):
    """It is emptied first, and counts what the source holds; the content is the same."""
    target = images.create("target.qcow2", size=SIZE).fill((0, SIZE, 0xFF))
    server.add_image("src", chain)
    server.add_image("dst", target, discard="unmap")
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    data = ready(server)
    assert data["len"] == data["offset"] < SIZE
    server.block_job_cancel(device="job")
    ended_well(server)
    server.stop()
    target.compare(flat)


def test_guests_discard_and_zero(server, images, flat):
    """In both modes the target shows what the disk does."""
    for mode in ("background", "write-blocking"):
        source = flat.copy(images.dir / f"{mode}.raw")
        target = images.create(f"{mode}.qcow2", size=SIZE)
        server.add_image(f"src-{mode}", source, discard="unmap")
        server.add_image(f"dst-{mode}", target)
        with server.export(f"src-{mode}", writable=True) as guest:
            server.blockdev_mirror(job_id="job", device=f"src-{mode}", target=f"dst-{mode}", sync="full", copy_mode=mode)
            ready(server)
            guest.zero(65536, 1 << 20)
            guest.trim(65536, 3 << 20)
            guest.pwrite(b"\x12" * 5000, 3000)
            server.block_job_cancel(device="job")
            ended_well(server)
    server.stop()
    for mode in ("background", "write-blocking"):
        images.at(f"{mode}.qcow2", "qcow2").compare(images.at(f"{mode}.raw", "raw"))


def test_write_blocking_needs_no_end(server, images, flat):
    """What was acknowledged is in the target's file."""
    target = images.create("target.raw", "raw", SIZE)
    server.add_image("src", flat)
    server.add_image("dst", target)
    with server.export("src", writable=True) as guest, open(target.path, "rb") as file:
        server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", copy_mode="write-blocking")
        ready(server)
        for number in range(50):
            data = bytes([number + 1]) * 3000
            guest.pwrite(data, number * 5000)
            file.seek(number * 5000)
            assert file.read(3000) == data
        server.block_job_cancel(device="job", force=True)
        server.finish_job("job")


# ---------------------------------------------------------------------- drive-mirror


# What the device stands on afterwards, by what is copied and how the target came about.
BACKING = {
    ("full", "absolute-paths"): None,
    ("top", "absolute-paths"): "base.qcow2",
    ("none", "absolute-paths"): "top.qcow2",
    ("full", "existing"): "other.qcow2",
    ("top", "existing"): "other.qcow2",
    ("none", "existing"): "other.qcow2",
}


@pytest.mark.parametrize("sync, mode", BACKING)
def test_drive_mirror(server, images, chain, sync, mode):
    """A new image stands on what the sync mode leaves out; one that was there, on what it names."""
    target = images.dir / "target.qcow2"
    if mode == "existing":
        Image.create(target, backing=images.create("other.qcow2", size=SIZE))
    server.add_image("src", chain)
    server.export("src")
    server.drive_mirror(
        job_id="job", device="src", target=str(target), format="qcow2", node_name="dst", sync=sync, mode=mode)
    ready(server)
    assert server.query_node("dst").get("backing_file") is None
    server.block_job_complete(device="job")
    ended_well(server)
    below = BACKING[sync, mode]
    assert server.query_node("dst").get("backing_file") == (below and str(images.dir / below))
    server.stop()
    assert Image(target, "qcow2").info().get("backing-filename") == (below and str(images.dir / below))


@pytest.mark.parametrize("sync", ["full", "top", "none"])
def test_drive_mirror_shows_the_disk(server, images, chain, flat, sync):
    target = Image(images.dir / "target.qcow2", "qcow2")
    server.add_image("src", chain)
    server.drive_mirror(job_id="job", device="src", target=str(target), format="qcow2", sync=sync)
    ready(server)
    server.block_job_cancel(device="job")
    ended_well(server)
    server.stop()
    target.compare(flat)
    target.check()


@pytest.mark.parametrize("change, error, made", [
    ({"format": "raw"}, "Backing file not supported for file format 'raw'", False),
    ({"format": "missing"}, "Unknown file format 'missing'", False),
    ({"target": "/missing/file"}, "Could not create '/missing/file': No such file or directory", False),
    ({"node-name": "src"}, "Duplicate nodes with node-name='src'", True),
    ({"granularity": 1000}, "Parameter 'granularity' expects a power of 2", True),
    ({}, "Failed to find node with node-name='none'", True),
])
def test_which_node_is_replaced_is_asked_last(server, images, chain, change, error, made):
    target = images.dir / "target"
    server.add_image("src", chain)
    arguments = {"job-id": "job", "device": "src", "target": str(target), "format": "qcow2", "sync": "top",
                 "node-name": "dst", "replaces": "none"}
    assert server.error("drive-mirror", arguments | change) == error
    assert target.exists() == made
    assert "dst" not in server.node_names()


# ---------------------------------------------------------------------- verbs


@pytest.fixture
def mirrored(server, images, flat):
    """A mirror that is ready."""
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.raw", "raw", SIZE))
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    ready(server)


def test_standby(server, mirrored):
    """A job that is paused takes `complete`, and completes when it is resumed."""
    server.block_job_pause(device="job")
    server.wait_job("job", "standby")
    server.job_complete(id="job")
    assert server.job("job")["status"] == "standby"
    server.job_resume(id="job")
    ended_well(server)
    states = ["created", "running", "ready", "standby", "ready", "waiting", "pending", "concluded", "null"]
    told = [m["data"]["status"] for m in server.qmp.received if m.get("event") == "JOB_STATUS_CHANGE"]
    assert told == states


def test_completed_is_not_cancelled_twice(server, mirrored):
    server.block_job_pause(device="job")
    server.wait_job("job", "standby")
    assert server.error("block-job-cancel", {"device": "job"}) == "The block job for device 'job' is currently paused"
    server.block_job_resume(device="job")
    server.block_job_cancel(device="job", force=True)
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"


def test_finalized_by_hand(server, images, flat):
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.raw", "raw", SIZE))
    server.blockdev_mirror(
        job_id="job", device="src", target="dst", sync="full", auto_finalize=False, auto_dismiss=False)
    ready(server)
    server.block_job_complete(device="job")
    server.wait_event("BLOCK_JOB_PENDING", {"id": "job"})
    assert server.error("blockdev-del", {"node-name": "src"}).startswith("Node 'src' is busy")
    server.block_job_finalize(id="job")
    server.wait_status("job", "concluded")
    server.blockdev_del(node_name="src")
    server.job_dismiss(id="job")


def test_speed_holds_for_the_last_piece(server, images, flat):
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.raw", "raw", SIZE))
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", speed=1)
    assert server.job("job")["status"] == "running"
    server.block_job_set_speed(device="job", speed=0)
    ready(server)
    server.block_job_complete(device="job")
    ended_well(server)


def test_empty_disk(server, images):
    """Nothing to copy: ready at once."""
    server.add_image("src", images.create("src.raw", "raw", 0))
    server.add_image("dst", images.create("dst.raw", "raw", 0))
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    assert server.job("job")["status"] == "ready"
    server.block_job_complete(device="job")
    assert ended_well(server)["len"] == 0


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("policy", ["report", "ignore", "stop", "enospc"])
def test_error(server, images, flat, side, policy):
    """One request fails once."""
    target = images.create("target.raw", "raw", SIZE)
    fault = {"event": "read_aio" if side == "source" else "pwritev", "iotype": "read" if side == "source" else "write",
             "once": True, "errno": 28 if policy == "enospc" else 5}
    for node, image in (("src", flat), ("dst", target)):
        server.add_image(node, image, faults=[fault] if (node == "src") == (side == "source") else None)
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", **{f"on_{side}_error": policy})
    error = server.wait_event("BLOCK_JOB_ERROR", {"device": "job"})["data"]
    action = "stop" if policy == "enospc" else policy
    assert error == {"device": "job", "operation": "read" if side == "source" else "write", "action": action}
    if action == "report":
        ended = server.finish_job("job")["data"]
        assert ended["error"] == "Input/output error"
        return
    if action == "stop":
        server.wait_job("job", "paused")
        info = server.query_block_jobs()[0]
        assert (info["io-status"], info["paused"]) == ("nospace" if policy == "enospc" else "failed", True)
        server.block_job_resume(device="job")
    ready(server)
    assert server.query_block_jobs()[0]["io-status"] == "ok"
    server.block_job_cancel(device="job")
    ended_well(server)
    server.stop()
    target.compare(flat)


@pytest.mark.parametrize("policies", [("ignore", "report"), ("report", "stop"), ("report", "ignore")], ids=str)
def test_errors_met_side_by_side(server, images, policies):
    """One of the source and one of the target, each by its policy."""
    for node, iotype, at in (("src", "read", 64), ("dst", "write", 4096 + 64)):
        image = images.create(f"{node}.qcow2", size="4M").fill((0, "4M", 1))
        server.execute("blockdev-add", {
            "driver": "blkdebug", "node-name": node, "image": {"driver": "qcow2", "file": {"driver": "file", "filename": str(image.path)}},
            "inject-error": [{"event": "none", "once": True, "iotype": iotype, "errno": 5 if node == "src" else 28, "sector": at}]})
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", on_source_error=policies[0], on_target_error=policies[1])
    met = {(error["operation"], error["action"]) for error in (server.wait_event("BLOCK_JOB_ERROR")["data"] for _ in range(2))}
    assert met == {("read", policies[0]), ("write", policies[1])}
    ended = server.finish_job("job")["data"]
    assert ended["error"] == ("Input/output error" if policies[0] == "report" else "No space left on device")


def test_target_without_space_gets_more(server, images, flat):
    """A window on a file is full where it ends; taken away, there is room."""
    target = images.create("target.qcow2", size=SIZE).fill((0, SIZE, 9))
    options = {"driver": "qcow2", "node-name": "dst", "file": {
        "driver": "raw", "size": 1 << 20, "file": {"driver": "file", "filename": str(target.path)}}}
    server.add_image("src", flat)
    server.execute("blockdev-add", options)
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", on_target_error="enospc")
    error = server.wait_event("BLOCK_JOB_ERROR", {"device": "job"})["data"]
    assert error == {"device": "job", "operation": "write", "action": "stop"}
    server.wait_job("job", "paused")
    assert server.query_block_jobs()[0]["io-status"] == "nospace"
    del options["file"]["size"]
    server.blockdev_reopen(options=[options])
    server.block_job_resume(device="job")
    ready(server)
    server.block_job_cancel(device="job")
    ended_well(server)
    server.stop()
    target.compare(flat)


def test_sizes_differ(server, images, flat):
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.raw", "raw", "5M"))
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    ended = server.finish_job("job")["data"]
    assert ended["error"] == "Source and target image have different sizes"
    assert server.job_states("job") == ["created", "running", "aborting", "concluded", "null"]


REFUSED = {
    "device": ({"device": "none"}, "Cannot find device='none' nor node-name='none'"),
    "target": ({"target": "none"}, "Cannot find device='none' nor node-name='none'"),
    "itself": ({"target": "src"}, "Can't mirror node into itself"),
    "fine": ({"granularity": 511}, "Parameter 'granularity' expects a value in range [512B, 64MB]"),
    "coarse": ({"granularity": 128 << 20}, "Parameter 'granularity' expects a value in range [512B, 64MB]"),
    "odd": ({"granularity": 1000}, "Parameter 'granularity' expects a power of 2"),
    "buffer": ({"buf-size": -1}, "Invalid parameter 'buf-size'"),
    "incremental": ({"sync": "incremental"}, "Sync mode 'incremental' not supported"),
    "bitmap": ({"sync": "bitmap"}, "Sync mode 'bitmap' not supported"),
    "replaces none": ({"replaces": "none"}, "Failed to find node with node-name='none'"),
    "replaces other": ({"replaces": "other"}, "Cannot replace 'other' by a node mirrored from 'src', because it cannot be "
                       "guaranteed that doing so would not lead to an abrupt change of visible data"),
    "filter": ({"filter-node-name": "1"}, "Invalid node-name: '1'"),
    "filter's name": ({"filter-node-name": "src"}, "Duplicate nodes with node-name='src'"),
    "job": ({"job-id": "1"}, "Invalid job ID '1'"),
    "speed": ({"speed": -1}, "Parameter 'speed' expects a non-negative value"),
    "read-only": ({"target": "fixed"}, "Block node is read-only"),
    "below": ({"device": "base"}, "Need a root block node"),
}


def test_refused(server, images, chain):
    """Nothing is left behind by any of them."""
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "src", "file": {"driver": "file", "filename": str(chain.path)},
        "backing": {"driver": "qcow2", "node-name": "base",
                    "file": {"driver": "file", "filename": str(images.dir / "base.qcow2")}}})
    for node, options in (("dst", {}), ("other", {}), ("fixed", {"read_only": True})):
        server.add_image(node, images.create(f"{node}.raw", "raw", SIZE), **options)
    before = server.execute("x-debug-query-block-graph")["edges"]
    wrong = {}
    for name, (arguments, text) in REFUSED.items():
        found = server.error("blockdev-mirror", {"job-id": "job", "device": "src", "target": "dst", "sync": "full"} | arguments)
        if found != text:
            wrong[name] = found
    assert not wrong
    assert len(server.execute("x-debug-query-block-graph")["edges"]) == len(before)
    assert server.query_jobs() == []


@pytest.mark.parametrize("below_a_filter", [False, True])
def test_a_member_of_a_quorum_is_replaced(server, images, below_a_filter):
    """It may show something else: the others outvote it."""
    members = [images.create(f"m{number}.raw", "raw", "1M").fill((0, "1M", 1 if number < 2 else 7)) for number in range(3)]
    for number, image in enumerate(members):
        server.add_image(f"m{number}", image)
    server.execute("blockdev-add", {"driver": "quorum", "node-name": "q", "vote-threshold": 2, "children": ["m0", "m1", "m2"]})
    source = "q"
    if below_a_filter:
        server.execute("blockdev-add", {"driver": "copy-on-read", "node-name": "c", "file": "q"})
        source = "c"
    target = images.create("new.raw", "raw", "1M")
    server.add_image("new", target)
    server.blockdev_mirror(job_id="job", device=source, target="new", sync="full", replaces="m2")
    ready(server)
    server.block_job_complete(device="job")
    ended_well(server)
    graph = server.x_debug_query_block_graph()
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    assert [names[edge["child"]] for edge in graph["edges"] if names[edge["parent"]] == "q"] == ["m0", "m1", "new"]
    server.blockdev_del(node_name="m2")
    server.stop()
    target.read(0, "1M", 1)


def test_a_member_that_others_read_is_not_replaced(server, images):
    for number in range(2):
        server.add_image(f"m{number}", images.create(f"m{number}.raw", "raw", "1M"))
    server.execute("blockdev-add", {"driver": "quorum", "node-name": "q", "vote-threshold": 1, "children": ["m0", "m1"]})
    server.execute("blockdev-add", {"driver": "raw", "node-name": "reader", "read-only": True, "file": "m1"})
    server.add_image("new", images.create("new.raw", "raw", "1M"))
    arguments = {"job-id": "job", "device": "q", "target": "new", "sync": "full", "replaces": "m1"}
    server.nbd_start()
    server.execute("nbd-server-add", {"device": "reader"})
    assert server.error("blockdev-mirror", arguments).startswith("Cannot replace 'm1' by a node mirrored from 'q', because it cannot be guaranteed")


def test_a_member_that_others_came_to_read_is_not_replaced(server, images):
    for number in range(2):
        server.add_image(f"m{number}", images.create(f"m{number}.raw", "raw", "1M"))
    server.execute("blockdev-add", {"driver": "quorum", "node-name": "q", "vote-threshold": 1, "children": ["m0", "m1"]})
    server.add_image("new", images.create("new.raw", "raw", "1M"))
    server.blockdev_mirror(job_id="job", device="q", target="new", sync="full", replaces="m1")
    ready(server)
    server.nbd_start()
    server.execute("nbd-server-add", {"device": "m1"})
    server.block_job_complete(device="job")
    assert server.finish_job("job")["data"]["error"] == "Operation not permitted"
    server.nbd_server_stop()
    server.blockdev_del(node_name="q")


def test_what_a_mirror_forbids(server, images, mirrored):
    busy = "busy: block device is in use by block job: mirror"
    assert server.error("blockdev-del", {"node-name": "src"}) == f"Node 'src' is {busy}"
    assert server.error("blockdev-del", {"node-name": "dst"}) == "Node dst is in use"
    assert server.error("blockdev-mirror", {"job-id": "other", "device": "src", "target": "dst", "sync": "full"}) == (
        "Need a root block node")
    server.add_image("third", images.create("third.raw", "raw", SIZE))
    assert server.error("blockdev-mirror", {"job-id": "other", "device": "third", "target": "dst", "sync": "full"}) == (
        f"Node 'dst' is {busy}")
    assert server.job("job")["status"] == "ready"


def test_quit_under_a_mirror(server, images, flat):
    """The server ends in order; whatever the job had copied is there."""
    server.add_image("src", flat)
    server.add_image("dst", images.create("target.qcow2", size=SIZE))
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", speed=1)
    server.stop()
    images.at("target.qcow2", "qcow2").check()


# ---------------------------------------------------------------------- below the filter


@pytest.mark.manners("system")
@pytest.mark.parametrize("late", [False, True], ids=["while it copies", "when it is ready"])
@pytest.mark.parametrize("how", ["mirror", "commit"])
def test_what_is_written_below_the_filter(server, images, how, late):
    """Whoever writes to the source, by its name or through an export that came later: it is copied like all else."""
    base = images.create("base.qcow2", size="4M")
    source = images.create("source.qcow2", size=None, backing=base).fill((0, "4M", 1))
    target = images.create("target.qcow2", size="4M")
    server.add_image("base", base)
    server.add_image("source", source, backing="base", discard="unmap")
    server.add_image("target", target)
    held = {} if late else {"speed": 1}
    if how == "mirror":
        server.blockdev_mirror(job_id="job", device="source", target="target", sync="full", **held)
    else:
        server.block_commit(job_id="job", device="source", base_node="base", **held)
    if late:
        server.wait_status("job", "ready")
    with server.export("source", writable=True) as nbd:
        nbd.pwrite(b"\2" * 65536, 65536)
        nbd.zero(65536, 1 << 20)
    assert server.qemu_io("source", "write -P 3 3M 64k").startswith("wrote")
    server.block_job_set_speed(device="job", speed=0)
    server.wait_status("job", "ready")
    server.block_job_complete(device="job")
    assert "error" not in server.finish_job("job")["data"]
    server.stop()
    expected = bytearray(b"\1" * (4 << 20))
    expected[65536:131072] = b"\2" * 65536
    expected[1 << 20:(1 << 20) + 65536] = bytes(65536)
    expected[3 << 20:(3 << 20) + 65536] = b"\3" * 65536
    copy = target if how == "mirror" else base
    copy.check()
    assert copy.content() == expected


@pytest.mark.differs("what lies below a raw node over an image with a backing file is not copied", server="qemu")
@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
def test_a_raw_node_in_the_chain(server, images, chain, flat, target_format):
    server.add_image("image", chain)
    server.blockdev_add(driver="raw", node_name="raw", file="image")
    overlay = images.create("overlay.qcow2", size=SIZE)
    server.add_image("src", overlay, backing="raw")
    target = images.create("target", target_format, SIZE)
    server.add_image("target", target)
    server.blockdev_mirror(job_id="job", device="src", target="target", sync="full")
    ready(server)
    server.block_job_complete(device="job")
    ended_well(server)
    server.stop()
    assert not target.differs_from(flat)


def test_what_was_to_be_replaced_is_gone(server, images):
    for name in ("c0", "c1", "target"):
        server.add_image(name, images.create(name, size=SIZE))
    server.execute("blockdev-add", {"driver": "quorum", "node-name": "q", "vote-threshold": 1, "children": ["c0", "c1"]})
    server.blockdev_mirror(job_id="job", device="q", target="target", sync="full", replaces="c0")
    ready(server)
    server.x_blockdev_change(parent="q", child="children.0")
    server.blockdev_del(node_name="c0")
    assert server.error("job-complete", id="job") == "Node name 'c0' not found"
    assert server.job("job")["status"] == "ready"
    server.job_cancel(id="job")
    server.wait_null("job")
