"""Iothreads: which nodes run where, what moves along, and who refuses to move."""

import pytest

system = pytest.mark.manners("system")

REFUSED = "Cannot change iothread of active block backend"
# "qemu_mutex_unlock_impl: Operation not permitted": a node that only x-blockdev-set-iothread had moved follows a new user.
aborts = pytest.mark.differs("QEMU 7.2.22 aborts", server="qemu")


def add_iothreads(server):
    for name in "ab":
        server.object_add({"qom-type": "iothread", "id": name})


@pytest.fixture(autouse=True)
def iothreads(request):
    if "server" in request.fixturenames:
        add_iothreads(request.getfixturevalue("server"))


@pytest.fixture
def machine(start):
    """Two controllers in iothreads, one in the main loop."""
    server = start("-device", "lsi,id=lsi", machine="pc")
    add_iothreads(server)
    for bus, iothread in (("sa", "a"), ("sb", "b"), ("sm", "")):
        server.device_add(driver="virtio-scsi", id=bus, iothread=iothread)
    return server


def add_null(server, *names, **options):
    for name in names:
        server.execute("blockdev-add", {"driver": "null-co", "node-name": name, "size": 1 << 20, "read-zeroes": True, **options})


def add_raw(server, name, file):
    server.execute("blockdev-add", {"driver": "raw", "node-name": name, "file": file})


def moved(server, node, iothread, force=False):
    server.execute("x-blockdev-set-iothread", {"node-name": node, "iothread": iothread, "force": force})


def refused(server, node, iothread):
    assert server.error("x-blockdev-set-iothread", {"node-name": node, "iothread": iothread, "force": True}) == REFUSED


def export_options(node, id="e", **options):
    return {"type": "nbd", "id": id, "node-name": node, "name": id, **options}


def export(server, node, id="e", **options):
    server.execute("block-export-add", export_options(node, id, **options))


def unexport(server, id="e"):
    server.block_export_del(id=id)
    server.wait_event("BLOCK_EXPORT_DELETED", {"id": id})


def bind(server, node, iothread, id="bound"):
    """Somebody who stays where he is."""
    export(server, node, id, iothread=iothread, **{"fixed-iothread": True})


def stays_in(server, node, iothread):
    """Where the node runs: who is bound to that place keeps it there."""
    export(server, node, "witness", **{"fixed-iothread": True})
    for other in ("a", "b", None):
        if other == iothread:
            moved(server, node, other, force=True)
        else:
            refused(server, node, other)
    unexport(server, "witness")


def plug(server, node, bus, id="disk", driver="scsi-hd"):
    server.device_add(driver=driver, id=id, drive=node, bus=f"{bus}.0", **{"share-rw": True})


def plug_error(server, node, bus, driver="scsi-hd"):
    return server.error("device_add", {"driver": driver, "id": "refused", "drive": node, "bus": f"{bus}.0", "share-rw": True})


def unplug(server, id="disk"):
    server.device_del(id=id)
    server.wait_event("DEVICE_DELETED", {"device": id})


# ---------------------------------------------------------------------- x-blockdev-set-iothread


def test_names(server):
    add_null(server, "n")
    assert server.error("x-blockdev-set-iothread", {"node-name": "no", "iothread": "no"}) == "Failed to find node with node-name='no'"
    assert server.error("x-blockdev-set-iothread", {"node-name": "n", "iothread": "no"}) == "Cannot find iothread no"
    assert server.error("x-blockdev-set-iothread", {"node-name": "n", "iothread": ""}) == "Cannot find iothread "
    assert server.error("x-blockdev-set-iothread", {"node-name": "n", "iothread": 1}) == "Invalid parameter type for 'iothread', expected: StrOrNull"
    server.object_add({"qom-type": "throttle-group", "id": "group"})
    assert server.error("x-blockdev-set-iothread", {"node-name": "n", "iothread": "group"}) == "Cannot find iothread group"


def test_a_node_that_nobody_uses_moves(server):
    server.nbd_start()
    add_null(server, "n")
    for iothread in ("a", "b", None, "a", "a"):
        moved(server, "n", iothread)
    stays_in(server, "n", "a")
    # Who had bound it is gone, and it is back.
    stays_in(server, "n", None)


def test_force(server):
    server.nbd_start()
    add_null(server, "n")
    add_raw(server, "top", "n")
    export(server, "top")
    text = "Node top is associated with a BlockBackend and could be in use (use force=true to override this check)"
    assert server.error("x-blockdev-set-iothread", {"node-name": "top", "iothread": "a"}) == text
    assert server.error("x-blockdev-set-iothread", {"node-name": "top", "iothread": "no"}) == text
    moved(server, "top", "a", force=True)
    # What lies below has no backend of its own.
    moved(server, "n", "b")
    stays_in(server, "top", "b")


def test_what_hangs_together_moves_together(server):
    server.nbd_start()
    add_null(server, "n", "m")
    add_raw(server, "top", "n")
    moved(server, "n", "a")
    stays_in(server, "top", "a")
    moved(server, "top", "b")
    bind(server, "n", "b")
    refused(server, "top", "a")
    refused(server, "top", None)
    moved(server, "m", "a")


# ---------------------------------------------------------------------- exports


def test_an_export_with_an_iothread(server):
    server.nbd_start()
    add_null(server, "n")
    assert server.error("block-export-add", export_options("n", iothread="no")) == 'iothread "no" not found'
    assert server.error("block-export-add", export_options("no", iothread="no")) == "Cannot find device='' nor node-name='no'"
    export(server, "n", iothread="a")
    assert server.error("block-export-add", export_options("n", iothread="no")) == "Block export id 'e' is already in use"
    # It is a wish: others decide.
    moved(server, "n", "b", force=True)
    bind(server, "n", "b")
    export(server, "n", "wish", iothread="a")
    refused(server, "n", "a")
    unexport(server)
    unexport(server, "wish")
    refused(server, "n", "a")
    unexport(server, "bound")
    stays_in(server, "n", None)


def test_a_fixed_iothread(server):
    server.nbd_start()
    add_null(server, "n")
    bind(server, "n", "a")
    refused(server, "n", "b")
    fixed = {"fixed-iothread": True}
    assert server.error("block-export-add", export_options("n", iothread="b", **fixed)) == REFUSED
    bind(server, "n", "a", "second")
    # Without an iothread: where the node is.
    export(server, "n", "third", **fixed)
    unexport(server, "bound")
    unexport(server, "second")
    refused(server, "n", "b")
    refused(server, "n", None)
    unexport(server, "third")
    bind(server, "n", "b")


def test_exports_serve_from_an_iothread(server, images):
    image = images.create("disk.qcow2", size="1M").fill((0, "1M", 7))
    server.add_image("disk", image)
    server.nbd_start()
    export(server, "disk", iothread="a", writable=True)
    with server.nbd("e") as nbd:
        assert nbd.pread(4096, 0) == b"\7" * 4096
        moved(server, "disk", "b", force=True)
        nbd.pwrite(b"\1" * 512, 0)
        moved(server, "disk", None, force=True)
        assert nbd.pread(512, 0) == b"\1" * 512


# ---------------------------------------------------------------------- objects


@system
def test_an_iothread_in_use_can_be_deleted(machine):
    """Who is there stays there; another one of its name is another one."""
    add_null(machine, "n", "m")
    plug(machine, "n", "sa")
    machine.object_del(id="a")
    assert [thread["id"] for thread in machine.query_iothreads()] == ["b"]
    assert machine.error("x-blockdev-set-iothread", {"node-name": "m", "iothread": "a"}) == "Cannot find iothread a"
    assert machine.error("device_add", {"driver": "virtio-scsi", "id": "sc", "iothread": "a"}) == "DeviceNotFound: Device 'a' not found"
    machine.object_add({"qom-type": "iothread", "id": "a"})
    refused(machine, "n", "a")
    refused(machine, "n", None)
    plug(machine, "n", "sa", "second")


@pytest.mark.differs("QEMU 7.2.22 aborts: the thread is gone, and its context with it", server="qemu", sometimes=True)
def test_nodes_of_an_iothread_that_is_deleted(server):
    server.nbd_start()
    add_null(server, "n")
    moved(server, "n", "a")
    server.object_del(id="a")
    server.object_add({"qom-type": "iothread", "id": "a"})
    moved(server, "n", "a")
    stays_in(server, "n", "a")


# ---------------------------------------------------------------------- the graph


def reopen(server, name, backing):
    server.blockdev_reopen(options=[{"driver": "qcow2", "node-name": name, "file": f"{name}-file", "backing": backing}])


@pytest.fixture
def image(server, images):
    """The node `x`, an image without a backing file."""
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "x", "file": {
            "driver": "file", "filename": str(images.create("x.qcow2", size="1M").path), "node-name": "x-file"}})
    server.nbd_start()
    return server


@pytest.mark.parametrize("above", ["a", None])
def test_a_backing_file_follows_the_image(image, above):
    add_null(image, "n")
    export(image, "x", **{"iothread": above} if above else {}, **{"fixed-iothread": True})
    reopen(image, "x", "n")
    refused(image, "n", "b")
    moved(image, "n", above, force=True)
    reopen(image, "x", None)
    # It is not given back.
    stays_in(image, "n", above)
    refused(image, "x", "b")


@aborts
def test_a_backing_file_follows_from_another_iothread(image):
    add_null(image, "n")
    bind(image, "x", "a")
    moved(image, "n", "b")
    reopen(image, "x", "n")
    refused(image, "n", "b")


def test_an_image_follows_its_backing_file(image):
    add_null(image, "n")
    bind(image, "n", "a")
    reopen(image, "x", "n")
    moved(image, "x", "a")
    refused(image, "x", None)
    reopen(image, "x", None)
    moved(image, "x", "b")


def test_an_image_and_a_backing_file_that_both_stay(image):
    add_null(image, "n")
    bind(image, "x", "a")
    bind(image, "n", "b", "other")
    before = image.x_debug_query_block_graph()
    options = {"driver": "qcow2", "node-name": "x", "file": "x-file", "backing": "n"}
    assert image.error("blockdev-reopen", {"options": [options]}) == REFUSED
    assert image.x_debug_query_block_graph() == before
    refused(image, "x", "b")
    refused(image, "n", "a")


def test_a_new_node_follows_its_children(image):
    add_null(image, "n")
    bind(image, "n", "a")
    add_raw(image, "top", "n")
    refused(image, "top", "b")
    moved(image, "top", "a")


@aborts
def test_a_new_node_of_children_that_both_stay(image):
    add_null(image, "n", "m")
    bind(image, "n", "a")
    bind(image, "m", "b", "other")
    before = image.x_debug_query_block_graph()
    assert image.error("blockdev-add", {
        "driver": "quorum", "node-name": "q", "children": ["n", "m"], "vote-threshold": 1}) == REFUSED
    assert image.x_debug_query_block_graph() == before


@pytest.mark.parametrize("bound, options, error", [
    ("m", {"driver": "copy-before-write", "file": "n", "target": "m"}, REFUSED),
    ("n", {"driver": "copy-before-write", "file": "n", "target": "m"}, None),
    ("m", {"driver": "blklogwrites", "file": "n", "log": "m"}, REFUSED),
    ("m", {"driver": "quorum", "children": ["n", "m"], "vote-threshold": 1}, None),
    ("m", {"driver": "blkverify", "raw": "n", "test": "m"}, None),
    ("m", {"driver": "qcow2", "file": "data", "data-file": "m"}, REFUSED),
    ("m", {"driver": "qcow2", "file": "plain", "backing": "m"}, None),
])
def test_the_file_of_a_new_node_stays_where_it_is(server, images, bound, options, error):
    server.nbd_start()
    add_null(server, "n", "m")
    plain = images.create("plain.qcow2", size="1M")
    data = images.create("data.qcow2", size="1M", data_file=str(images.dir / "data.raw"))
    for name, image in (("plain", plain), ("data", data)):
        server.blockdev_add(driver="file", node_name=name, filename=str(image.path))
    bind(server, bound, "a")
    result = server.try_execute("blockdev-add", {**options, "node-name": "top"})
    if error is None:
        assert result == {}
        refused(server, "top", "b")
    else:
        assert result.desc == error
        for node in ("n", "plain", "data"):
            stays_in(server, node, None)
    stays_in(server, bound, "a")


@aborts
def test_a_child_follows_a_new_node_to_the_main_loop(server):
    server.nbd_start()
    add_null(server, "n")
    moved(server, "n", "a")
    add_raw(server, "top", "n")
    stays_in(server, "n", None)


def test_a_child_whose_parent_is_deleted_goes_back(server):
    server.nbd_start()
    add_null(server, "n")
    add_raw(server, "top", "n")
    moved(server, "top", "a")
    server.blockdev_del(node_name="top")
    stays_in(server, "n", None)


def test_children_of_a_quorum(server):
    server.nbd_start()
    add_null(server, "n", "m", "k")
    server.blockdev_add(driver="quorum", node_name="q", children=["n", "m"], vote_threshold=1)
    bind(server, "q", "a")
    server.x_blockdev_change(parent="q", node="k")
    moved(server, "k", "a")
    refused(server, "k", "b")


@aborts
def test_a_child_that_a_quorum_loses_goes_back(server):
    server.nbd_start()
    add_null(server, "n", "m", "k")
    server.blockdev_add(driver="quorum", node_name="q", children=["n", "m"], vote_threshold=1)
    bind(server, "q", "a")
    server.x_blockdev_change(parent="q", node="k")
    server.x_blockdev_change(parent="q", child="children.2")
    stays_in(server, "k", None)


# ---------------------------------------------------------------------- snapshots and jobs


def overlay(server, images, name):
    image = images.create(f"{name}.qcow2", size="1M")
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": name, "backing": None, "file": {"driver": "file", "filename": str(image.path), "node-name": f"{name}-file"}})


def test_an_overlay_goes_where_the_image_is(image, images):
    bind(image, "x", "a")
    overlay(image, images, "over")
    moved(image, "over", "b")
    image.blockdev_snapshot(node="x", overlay="over")
    moved(image, "over", "a", force=True)
    refused(image, "over", "b")
    image.blockdev_snapshot_sync({
        "node-name": "over", "snapshot-node-name": "newest", "snapshot-file": str(images.dir / "newest.qcow2"), "format": "qcow2"})
    refused(image, "newest", "b")


@pytest.mark.parametrize(("old", "new"), [("a", None), (None, "a")])
def test_an_image_that_nobody_binds_goes_where_its_overlay_is(image, images, old, new):
    overlay(image, images, "over")
    moved(image, "x", old)
    moved(image, "over", new)
    image.blockdev_snapshot(node="x", overlay="over")
    stays_in(image, "over", new)


def test_overlays_of_images_in_two_iothreads(image, images):
    """All or nothing; afterwards each is where it was."""
    add_null(image, "n")
    bind(image, "x", "a")
    bind(image, "n", "b", "other")
    overlay(image, images, "over")
    actions = [
        {"type": "blockdev-snapshot", "data": {"node": "x", "overlay": "over"}},
        {"type": "blockdev-snapshot-sync", "data": {
            "node-name": "n", "snapshot-node-name": "second", "snapshot-file": str(images.dir / "second.qcow2"), "format": "qcow2"}}]
    assert image.error("transaction", {"actions": [*actions, {"type": "abort", "data": {}}]}) == "Transaction aborted using Abort action"
    refused(image, "x", "b")
    moved(image, "over", "b")
    moved(image, "over", None)
    image.transaction(actions=actions)
    refused(image, "over", "b")
    refused(image, "second", "a")


def start_copy(server, command, source="n", target="m"):
    server.execute(command, {"job-id": "job", "device": source, "target": target, "sync": "none"})


def end_copy(server):
    server.block_job_cancel({"device": "job", "force": True})
    server.finish_job("job")


copies = pytest.mark.parametrize("command", ["blockdev-backup", "blockdev-mirror"])


@copies
def test_a_target_goes_where_the_source_is(server, command):
    server.nbd_start()
    add_null(server, "n", "m", "k")
    bind(server, "n", "a")
    moved(server, "m", "b")
    start_copy(server, command)
    moved(server, "m", "a", force=True)
    refused(server, "m", "b")
    end_copy(server)
    # It has lost its user.
    stays_in(server, "m", None)
    refused(server, "n", "b")


@copies
def test_a_target_that_stays(server, command):
    """The source does not follow it."""
    server.nbd_start()
    add_null(server, "n", "m")
    server.blockdev_add(driver="quorum", node_name="q", children=["m"], vote_threshold=1)
    bind(server, "m", "b")
    before = server.x_debug_query_block_graph()
    assert server.error(command, {"job-id": "job", "device": "n", "target": "q", "sync": "none"}) == REFUSED
    assert server.x_debug_query_block_graph() == before
    assert server.query_jobs() == []


@copies
def test_what_a_job_works_on_moves_together(server, command):
    server.nbd_start()
    add_null(server, "n", "m")
    start_copy(server, command)
    moved(server, "n", "a")
    moved(server, "m", "b", force=True)
    export(server, "n", "bound", **{"fixed-iothread": True})
    refused(server, "m", "a")
    refused(server, "m", None)
    moved(server, "m", "b", force=True)
    unexport(server, "bound")
    end_copy(server)
    stays_in(server, "n", None)


@copies
def test_a_job_takes_what_nobody_binds_to_the_main_loop(server, command):
    server.nbd_start()
    add_null(server, "n", "m")
    moved(server, "n", "a")
    start_copy(server, command)
    stays_in(server, "n", None)
    end_copy(server)


leaves_it = pytest.mark.differs("QEMU 7.2.22 leaves the target where it was to go, or in the main loop", server="qemu")

REFUSED_COPIES = [
    ("blockdev-backup", {"x-perf": {"max-workers": 0}}, "early"),
    ("blockdev-backup", {"job-id": "no id"}, "late"),
    ("blockdev-mirror", {"granularity": 1}, "early"),
    ("blockdev-mirror", {"job-id": "no id"}, "early"),
    ("blockdev-mirror", {"speed": -1}, "early"),
]


@pytest.mark.parametrize(
    ("command", "wrong", "before"),
    [
        # A backup that is refused late had taken the target, and gives it back to the main loop.
        pytest.param(command, wrong, before, marks=() if when == "late" and before is None else leaves_it)
        for command, wrong, when in REFUSED_COPIES
        for before in (None, "b")
    ],
)
def test_a_copy_that_is_refused_moves_nothing(server, command, wrong, before):
    server.nbd_start()
    add_null(server, "n", "m")
    bind(server, "n", "a")
    moved(server, "m", before)
    server.error(command, {"job-id": "job", "device": "n", "target": "m", "sync": "full", **wrong})
    stays_in(server, "m", before)
    refused(server, "n", "b")


@leaves_it
@copies
def test_the_source_of_a_refused_copy_stays(server, command):
    server.nbd_start()
    add_null(server, "n", "m")
    moved(server, "n", "a")
    server.error(command, {"job-id": "no id", "device": "n", "target": "m", "sync": "full"})
    stays_in(server, "n", "a")


@pytest.mark.parametrize("command, options, bound", [
    ("block-commit", {"top-node": "mid", "base-node": "base"}, True),
    ("block-commit", {"base-node": "base"}, False),
    ("block-stream", {"base-node": "base"}, False),
])
def test_which_jobs_keep_nodes_where_they_are(server, images, command, options, bound):
    base = images.create("base.qcow2", size="32M")
    mid = images.create("mid.qcow2", size=None, backing=base).fill((0, "32M", 1))
    made = {"base": base, "mid": mid, "top": images.create("top.qcow2", size=None, backing=mid)}
    below = None
    for name, image in made.items():
        server.blockdev_add(
            {"driver": "qcow2", "node-name": name, "file": {"driver": "file", "filename": str(image.path)}, "backing": below})
        below = name
    server.execute(command, {"job-id": "job", "device": "top", "speed": 1, **options})
    if bound:
        refused(server, "top", "a")
    else:
        moved(server, "top", "a", force=True)
    server.block_job_cancel({"device": "job", "force": True})
    server.finish_job("job")
    moved(server, "top", "b", force=True)


@pytest.mark.parametrize("before", [None, pytest.param("b", marks=leaves_it)])
def test_a_backup_that_is_undone_moves_nothing(server, before):
    server.nbd_start()
    add_null(server, "n", "m")
    bind(server, "n", "a")
    moved(server, "m", before)
    backup = {"job-id": "job", "device": "n", "target": "m", "sync": "none"}
    actions = [{"type": "blockdev-backup", "data": backup}, {"type": "abort", "data": {}}]
    assert server.error("transaction", {"actions": actions}) == "Transaction aborted using Abort action"
    stays_in(server, "m", before)


def test_the_target_of_a_failed_backup_goes_back(server):
    server.nbd_start()
    add_null(server, "n", "m")
    server.blockdev_add({
        "driver": "blkdebug", "node-name": "bad", "image": "m", "inject-error": [
            {"event": "none", "iotype": kind, "errno": 5} for kind in ("write", "write-zeroes")]})
    bind(server, "n", "a")
    moved(server, "bad", "b")
    server.blockdev_backup(job_id="job", device="n", target="bad", sync="full")
    assert "error" in server.wait_event("BLOCK_JOB_COMPLETED")["data"]
    server.wait_null("job")
    stays_in(server, "bad", None)


def test_backups_of_nodes_in_two_iothreads(server):
    server.nbd_start()
    add_null(server, "n", "m", "k", "l")
    bind(server, "n", "a")
    bind(server, "m", "b", "other")

    def action(number, source, target):
        return {"type": "blockdev-backup", "data": {"job-id": f"job{number}", "device": source, "target": target, "sync": "none"}}

    server.transaction(actions=[action(1, "n", "k"), action(2, "m", "l")])
    refused(server, "k", "b")
    refused(server, "l", "a")
    for job in ("job1", "job2"):
        server.block_job_cancel(device=job)
        server.finish_job(job)


@system
def test_users_that_come_and_go_take_it_back(server):
    server.nbd_start()
    add_null(server, "n")
    moved(server, "n", "a")
    server.qemu_io("n", "read 0 512")
    stays_in(server, "n", None)


# ---------------------------------------------------------------------- devices


@system
def test_disks_of_a_controller_run_in_its_iothread(machine):
    add_null(machine, "n")
    plug(machine, "n", "sa")
    refused(machine, "n", "b")
    refused(machine, "n", None)
    moved(machine, "n", "a", force=True)
    assert plug_error(machine, "n", "sb") == REFUSED
    assert plug_error(machine, "n", "sm") == REFUSED
    assert plug_error(machine, "n", "lsi") == "HBA does not support iothreads"
    plug(machine, "n", "sa", "second")
    add_raw(machine, "top", "n")
    assert plug_error(machine, "top", "sb") == REFUSED
    unplug(machine)
    refused(machine, "n", "b")
    unplug(machine, "second")
    plug(machine, "n", "sb")


@system
def test_a_disk_of_the_main_loop(machine):
    add_null(machine, "n")
    plug(machine, "n", "sm")
    assert plug_error(machine, "n", "sa") == REFUSED
    refused(machine, "n", "a")
    moved(machine, "n", None, force=True)
    machine.nbd_start()
    export(machine, "n", iothread="a")
    assert machine.error("block-export-add", export_options("n", "fixed", iothread="a", **{"fixed-iothread": True})) == REFUSED
    unplug(machine)
    # The export goes along.
    plug(machine, "n", "sa")


@system
def test_a_controller_without_iothreads(machine):
    add_null(machine, "n")
    moved(machine, "n", "a")
    assert plug_error(machine, "n", "lsi") == "HBA does not support iothreads"
    moved(machine, "n", None)
    plug(machine, "n", "lsi")
    assert plug_error(machine, "n", "sa") == REFUSED


@system
def test_virtio_blk_waits_for_its_guest(machine):
    """Its iothread takes the disk when the guest's driver starts it: here that is never."""
    add_null(machine, "n", "m")
    machine.device_add({"driver": "virtio-blk-pci", "id": "v", "drive": "n", "iothread": "a", "share-rw": True})
    refused(machine, "n", "a")
    assert plug_error(machine, "n", "sa") == REFUSED
    plug(machine, "n", "sm")
    plug(machine, "m", "sa", "other")
    for options in ({}, {"iothread": "a"}, {"iothread": "b"}):
        assert machine.error("device_add", {"driver": "virtio-blk-pci", "id": "w", "drive": "m", "share-rw": True, **options}) == REFUSED


@system
@aborts
def test_virtio_blk_takes_a_node_to_the_main_loop(machine):
    add_null(machine, "n")
    moved(machine, "n", "a")
    machine.device_add(driver="virtio-blk-pci", id="v", drive="n")
    refused(machine, "n", "a")


@system
def test_a_cdrom_takes_its_media_along(machine):
    machine.nbd_start()
    add_null(machine, "n", **{"read-only": True})
    machine.device_add(driver="scsi-cd", id="cd", bus="sa.0")
    machine.blockdev_open_tray(id="cd")
    machine.blockdev_insert_medium(id="cd", node_name="n")
    refused(machine, "n", "b")
    moved(machine, "n", "a", force=True)
    machine.blockdev_remove_medium(id="cd")
    stays_in(machine, "n", None)


@system
def test_another_node_for_a_device(machine):
    add_null(machine, "n", "m")
    plug(machine, "n", "sa")
    change = {"path": "/machine/peripheral/disk", "property": "drive", "value": "m"}
    different = "Different aio context is not supported for new node"
    assert machine.error("qom-set", change) == different
    moved(machine, "m", "b")
    assert machine.error("qom-set", change) == different
    moved(machine, "m", "a")
    machine.qom_set(change)
    refused(machine, "m", "b")
    moved(machine, "n", "b")


@system
def test_a_drive_is_bound_by_its_device(start):
    server = start("-drive", "if=none,id=drive,driver=null-co,read-zeroes=on,node-name=n", machine="pc")
    add_iothreads(server)
    server.device_add(driver="virtio-scsi", id="sa", iothread="a")
    moved(server, "n", "b", force=True)
    plug(server, "drive", "sa")
    refused(server, "n", "b")


@system
@copies
def test_jobs_go_along_with_a_device(machine, command):
    add_null(machine, "n", "m")
    plug(machine, "n", "sa")
    start_copy(machine, command)
    refused(machine, "m", "b")
    end_copy(machine)
    refused(machine, "n", "b")
    moved(machine, "m", "b")
    unplug(machine)
    moved(machine, "n", "b")


@system
@copies
def test_a_device_that_leaves_its_job(machine, command):
    add_null(machine, "n", "m")
    plug(machine, "n", "sa")
    start_copy(machine, command)
    unplug(machine)
    moved(machine, "m", "b", force=True)
    end_copy(machine)
