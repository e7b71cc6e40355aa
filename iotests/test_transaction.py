"""transaction: all or nothing, at one instant, and how the jobs of a group end."""

import random

import pytest

from blockbed_iotests import Image, QmpError, qemu_img

SIZE = 4 << 20


@pytest.fixture
def disks(server, images):
    """Two disks full of data, an empty target for each, and an overlay for each that waits to be put on top."""
    for number, name in enumerate("ab", 1):
        disk = images.create(f"{name}.qcow2", size=SIZE).fill((0, SIZE, number))
        server.add_image(name, disk)
        server.add_image(f"t{name}", images.create(f"t{name}.qcow2", size=SIZE))
        server.add_image(f"o{name}", images.create(f"o{name}.qcow2", size=None, backing=disk), backing=None)
    return images


def backup(disk, **options):
    data = {"job-id": f"job-{disk}", "device": disk, "target": f"t{disk}", "sync": "full", **options}
    return {"type": "blockdev-backup", "data": data}


def drive_backup(disk, directory, **options):
    data = {"job-id": f"job-{disk}", "device": disk, "target": f"{directory}/drive-{disk}.qcow2", "sync": "full", **options}
    return {"type": "drive-backup", "data": data}


def snapshot(disk):
    return {"type": "blockdev-snapshot", "data": {"node": disk, "overlay": f"o{disk}"}}


def snapshot_sync(disk, directory, **options):
    data = {"node-name": disk, "snapshot-file": f"{directory}/s{disk}.qcow2", "snapshot-node-name": f"s{disk}", **options}
    return {"type": "blockdev-snapshot-sync", "data": data}


ABORT = {"type": "abort", "data": {}}
ABORTED = "Transaction aborted using Abort action"


def graph(server):
    """What a failed transaction must leave as it was: nodes, edges with their permissions, jobs."""
    shape = server.execute("x-debug-query-block-graph")
    names = {node["id"]: (node["type"], node["name"]) for node in shape["nodes"]}
    edges = sorted(
        (names[edge["parent"]], names[edge["child"]], edge["name"], sorted(edge["perm"]), sorted(edge["shared-perm"]))
        for edge in shape["edges"]
    )
    return sorted(names.values()), edges, server.query_jobs(), server.query_named_block_nodes()


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({}, "Parameter 'actions' is missing"),
        ({"actions": {}}, "Invalid parameter type for 'actions', expected: array"),
        ({"actions": [1]}, "Invalid parameter type for 'actions[0]', expected: object"),
        ({"actions": [{"type": "nope", "data": {}}]}, "Parameter 'type' does not accept value 'nope'"),
        # A command that QEMU has outside transactions only: it cannot be undone.
        ({"actions": [{"type": "blockdev-snapshot-delete-internal-sync", "data": {"device": "a", "name": "b"}}]},
         "Parameter 'type' does not accept value 'blockdev-snapshot-delete-internal-sync'"),
        ({"actions": [{"data": {}}]}, "Parameter 'actions[0].type' is missing"),
        ({"actions": [{"type": "abort"}]}, "Parameter 'actions[0].data' is missing"),
        ({"actions": [ABORT, {"type": "abort"}]}, "Parameter 'actions[1].data' is missing"),
        ({"actions": [{"type": "abort", "data": {"a": 1}}]}, "Parameter 'actions[0].data.a' is unexpected"),
        ({"actions": [{"type": "abort", "data": {}, "x": 1}]}, "Parameter 'actions[0].x' is unexpected"),
        ({"actions": [ABORT]}, ABORTED),
        ({"actions": [], "properties": {"completion-mode": "bogus"}}, "Parameter 'completion-mode' does not accept value 'bogus'"),
        ({"actions": [], "properties": {"bogus": 1}}, "Parameter 'properties.bogus' is unexpected"),
        ({"actions": [], "bogus": 1}, "Parameter 'bogus' is unexpected"),
        (
            {"actions": [{"type": "blockdev-backup", "data": {"device": "a", "sync": "full"}}]},
            "Parameter 'actions[0].data.target' is missing",
        ),
        ({"actions": [backup("a", speed="x")]}, "Invalid parameter type for 'actions[0].data.speed', expected: integer"),
        ({"actions": [backup("nope")]}, "Cannot find device='nope' nor node-name='nope'"),
        ({"actions": [backup("a"), backup("a")]}, "Node 'ta' is busy: block device is in use by block job: backup"),
        ({"actions": [backup("a"), backup("b", **{"job-id": "job-a"})]}, "Job ID 'job-a' already in use"),
        ({"actions": [snapshot("nope")]}, "Cannot find device='nope' nor node-name='nope'"),
    ],
)
def test_refused(server, disks, arguments, error):
    before = graph(server)
    assert server.error("transaction", arguments) == error
    assert graph(server) == before


def test_nothing(server):
    assert server.transaction(actions=[]) == {}


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("failure", ["abort", "backup", "snapshot", "snapshot-sync"])
def test_a_failure_at_each_position_leaves_nothing(server, disks, failure, position):
    """Whatever came before it is undone, whatever comes after it is not begun."""
    actions = [backup("a"), snapshot("b"), drive_backup("a", disks.dir, **{"job-id": "third"})]
    failing = {
        "abort": (ABORT, ABORTED),
        "backup": (backup("nope"), "Cannot find device='nope' nor node-name='nope'"),
        "snapshot": (snapshot("nope"), "Cannot find device='nope' nor node-name='nope'"),
        "snapshot-sync": (snapshot_sync("tb", f"{disks.dir}/no"), f"Could not create '{disks.dir}/no/stb.qcow2': No such file or directory"),
    }[failure]
    actions.insert(position, failing[0])
    before = graph(server)
    assert server.error("transaction", actions=actions) == failing[1]
    assert graph(server) == before
    assert server.query_jobs() == []
    with server.export("a", writable=True) as nbd:
        nbd.pwrite(b"\7" * 512, 0)
    server.stop()
    disks.at("b.qcow2", "qcow2").read(0, SIZE, 2)


@pytest.mark.limit(10)
@pytest.mark.differs("QEMU never answers", server="qemu")
def test_a_grouped_transaction_that_fails_is_undone(server, disks):
    error = server.error("transaction", actions=[backup("a"), backup("b"), ABORT], properties={"completion-mode": "grouped"})
    assert error == ABORTED
    for job in ("job-a", "job-b"):
        assert server.job_states(job) == ["created", "aborting", "concluded", "null"]
    assert server.query_jobs() == []


def test_a_job_that_is_undone_is_announced(server, disks):
    server.error("transaction", actions=[backup("a"), ABORT])
    assert server.job_states("job-a") == ["created", "aborting", "concluded", "null"]


def internal_snapshot(disk):
    return {"type": "blockdev-snapshot-internal-sync", "data": {"device": disk, "name": f"inside-{disk}"}}


def without_space(value):
    """An internal snapshot that came and went may have left its clusters to the image, and made its file grow."""
    if isinstance(value, dict):
        space = {"actual-size", *(["image"] if value.get("drv") == "file" else [])}
        return {key: without_space(item) for key, item in value.items() if key not in space}
    return [without_space(item) for item in value] if isinstance(value, (list, tuple)) else value


def any_action(chance, directory):
    disk = chance.choice("ab")
    return chance.choice([backup, snapshot, internal_snapshot,
                          lambda disk: drive_backup(disk, directory, **chance.choice([{}, {"sync": "none"}, {"sync": "top"}])),
                          lambda disk: snapshot_sync(disk, directory)])(disk)


@pytest.mark.parametrize("seed", range(12))
def test_any_mix_that_aborts_leaves_nothing(server, disks, seed):
    """Whatever was prepared before the abort is undone, wherever that stands; and what comes after is never begun."""
    chance = random.Random(seed)
    actions = [any_action(chance, disks.dir) for _ in range(chance.randint(1, 5))]
    before = without_space(graph(server))
    for position in range(len(actions) + 1):
        mixed = [*actions[:position], ABORT, *actions[position:]]
        # An action may not go together with one before it: then it is that one that fails, and the same holds.
        server.error("transaction", {"actions": mixed})
        assert without_space(graph(server)) == before, mixed
    server.stop()
    for name in "ab":
        disks.at(f"{name}.qcow2", "qcow2").check()


@pytest.mark.differs("QEMU leaves them with the disk, and what is written through them is written there", server="qemu")
@pytest.mark.parametrize("user", ["raw", "filter", "backup"])
@pytest.mark.parametrize("last", ["abort", "refused"])
def test_other_users_of_an_overlay_stay_with_it(server, disks, user, last):
    if user == "raw":
        server.blockdev_add(driver="raw", node_name="user", file="oa")
    elif user == "filter":
        server.blockdev_add(driver="copy-before-write", node_name="user", file="oa", target="ta")
    else:
        server.blockdev_backup(job_id="job", device="oa", target="ta", sync="none", filter_node_name="user")
    before = graph(server)
    refused = {"type": "blockdev-snapshot", "data": {"node": "b", "overlay": "b"}}
    taken = server.try_execute("transaction", {"actions": [snapshot("a"), ABORT if last == "abort" else refused]})
    assert isinstance(taken, QmpError)
    assert graph(server) == before


# ---------------------------------------------------------------------- jobs


GROUPED = {"completion-mode": "grouped"}


@pytest.mark.parametrize("properties", [{}, {"completion-mode": "individual"}, GROUPED])
def test_backups_of_two_disks(server, disks, properties):
    server.transaction(actions=[backup("a"), backup("b")], properties=properties)
    for job in ("job-a", "job-b"):
        assert server.finish_job(job)["event"] == "BLOCK_JOB_COMPLETED"
    server.stop()
    for name, byte in (("ta", 1), ("tb", 2)):
        disks.at(f"{name}.qcow2", "qcow2").read(0, SIZE, byte)
        disks.at(f"{name}.qcow2", "qcow2").check()


def test_jobs_of_a_transaction_start_after_all_were_created(server, disks):
    start = len(server.received)
    server.transaction(actions=[backup("a"), backup("b")])
    lines = [line.split() for line in server.transcript()[start:]]
    created = [line for line in lines if line[-1] == "created"]
    assert len(created) == 2
    assert lines.index(["JOB_STATUS_CHANGE", "running"]) == 2
    assert lines[-1] == ["return"]


def test_individual_jobs_go_their_own_ways(server, disks):
    server.transaction(actions=[backup("a", speed=65536), backup("b")])
    assert server.finish_job("job-b")["event"] == "BLOCK_JOB_COMPLETED"
    assert server.job("job-a")["status"] == "running"
    server.job_cancel(id="job-a")
    assert server.finish_job("job-a")["event"] == "BLOCK_JOB_CANCELLED"


def test_a_grouped_job_waits_for_the_others(server, disks):
    server.transaction(actions=[backup("a", speed=65536), backup("b")], properties=GROUPED)
    server.wait_job("job-b", "waiting")
    assert server.job("job-a")["status"] == "running"
    assert server.error("job-finalize", id="job-b") == "Job 'job-b' in state 'waiting' cannot accept command verb 'finalize'"
    assert server.error("job-dismiss", id="job-b") == "Job 'job-b' in state 'waiting' cannot accept command verb 'dismiss'"
    assert server.error("job-pause", id="job-b") == "Job 'job-b' in state 'waiting' cannot accept command verb 'pause'"
    server.block_job_set_speed(device="job-a", speed=0)
    for job in ("job-a", "job-b"):
        assert server.finish_job(job)["event"] == "BLOCK_JOB_COMPLETED"


@pytest.mark.parametrize("cancelled", ["job-a", "job-b"])
def test_cancelling_one_of_a_group_cancels_all(server, disks, cancelled):
    server.transaction(actions=[backup("a", speed=65536), backup("b")], properties=GROUPED)
    server.wait_job("job-b", "waiting")
    server.job_cancel(id=cancelled)
    for job in ("job-a", "job-b"):
        assert server.finish_job(job)["event"] == "BLOCK_JOB_CANCELLED"
    assert server.query_jobs() == []


def ends(server, start):
    """What was told of ends since then: (job, status), and of each the event."""
    told = []
    for event in server.received[start:]:
        if event.get("event") == "JOB_STATUS_CHANGE" and event["data"]["status"] in ("aborting", "concluded", "null"):
            told.append((event["data"]["id"], event["data"]["status"]))
        elif event.get("event") == "BLOCK_JOB_CANCELLED":
            told.append((event["data"]["device"], "cancelled"))
    return told


ENDS = ("aborting", "cancelled", "concluded", "null")


@pytest.mark.parametrize("verb", ["job-cancel", "block-job-cancel"])
@pytest.mark.parametrize("cancelled", ["job-a", "job-b"])
@pytest.mark.parametrize("at", ["pending", "waiting for job-a", "waiting for job-b", "running"])
def test_the_order_in_which_a_group_ends(server, disks, verb, cancelled, at):
    """The newest first. Only a job whose run ends by the cancel says before the others that it has failed."""
    slow = {"running": "ab", "pending": ""}.get(at, at[-1])
    options = {"auto-finalize": False}
    server.transaction(
        actions=[backup(name, **options, **({"speed": 65536} if name in slow else {})) for name in "ab"], properties=GROUPED
    )
    for job in ("job-a", "job-b"):
        if job[-1] in slow:
            assert server.job(job)["status"] == "running"
        else:
            server.wait_job(job, "waiting" if slow else "pending")
    start = len(server.received)
    server.execute(verb, {"id" if verb == "job-cancel" else "device": cancelled})
    for job in ("job-a", "job-b"):
        server.finish_job(job)
    expected = [(job, end) for job in ("job-b", "job-a") for end in ENDS]
    if cancelled == "job-a" and "a" in slow:
        expected.remove(("job-a", "aborting"))
        expected.insert(0, ("job-a", "aborting"))
    assert ends(server, start) == expected


def test_individual_cancel_leaves_the_other(server, disks):
    server.transaction(actions=[backup("a", speed=65536), backup("b", speed=65536)])
    server.job_cancel(id="job-a")
    assert server.finish_job("job-a")["event"] == "BLOCK_JOB_CANCELLED"
    assert server.job("job-b")["status"] == "running"
    server.block_job_set_speed(device="job-b", speed=0)
    assert server.finish_job("job-b")["event"] == "BLOCK_JOB_COMPLETED"


def test_finalize_of_one_finalizes_the_group(server, disks):
    options = {"auto-finalize": False}
    server.transaction(actions=[backup("a", **options), backup("b", **options)], properties=GROUPED)
    for job in ("job-a", "job-b"):
        server.wait_event("BLOCK_JOB_PENDING", {"id": job})
    server.job_finalize(id="job-a")
    for job in ("job-a", "job-b"):
        assert server.finish_job(job)["event"] == "BLOCK_JOB_COMPLETED"


def test_one_that_is_not_finalized_holds_the_group(server, disks):
    server.transaction(actions=[backup("a", **{"auto-finalize": False}), backup("b")], properties=GROUPED)
    server.wait_event("BLOCK_JOB_PENDING", {"id": "job-a"})
    assert server.job("job-b")["status"] in ("waiting", "pending")
    server.job_finalize(id="job-a")
    for job in ("job-a", "job-b"):
        assert server.finish_job(job)["event"] == "BLOCK_JOB_COMPLETED"


def test_a_failing_job_takes_the_group_along(server, disks):
    """A target that cannot take its data: the good one is given up too, and says that it was cancelled."""
    plain = disks.create("plain.raw", "raw", SIZE).fill((0, SIZE, 1))
    bad = disks.at("bad.qcow2", "qcow2")
    qemu_img("convert", "-c", "-O", "qcow2", plain.path, bad.path)
    data = bytearray(bad.path.read_bytes())
    l1_table = int.from_bytes(data[40:48], "big")
    l2_table = int.from_bytes(data[l1_table : l1_table + 8], "big") & 0x00FFFFFFFFFFFE00
    start = int.from_bytes(data[l2_table : l2_table + 8], "big") & ((1 << 54) - 1)
    data[start : start + 16] = b"\xff" * 16
    bad.path.write_bytes(data)
    server.add_image("bad", bad)
    server.transaction(
        actions=[backup("a", speed=65536, **{"auto-dismiss": False}), backup("bad", target="tb", **{"auto-dismiss": False})],
        properties=GROUPED,
    )
    for job in ("job-a", "job-bad"):
        server.wait_status(job, "concluded")
    assert server.job("job-bad")["error"] == "Input/output error"
    assert server.job("job-a")["error"] == "Operation canceled"


# ---------------------------------------------------------------------- snapshots


def test_snapshots_of_two_disks(server, disks):
    server.transaction(actions=[snapshot("a"), snapshot("b")])
    with server.export("oa", writable=True) as a, server.export("ob", writable=True) as b:
        a.pwrite(b"\x11" * 65536, 0)
        b.pwrite(b"\x12" * 65536, 0)
        assert a.pread(65536, 65536) == b"\1" * 65536
    server.stop()
    for name, byte in (("a", 1), ("b", 2)):
        disks.at(f"{name}.qcow2", "qcow2").read(0, SIZE, byte)
        overlay = disks.at(f"o{name}.qcow2", "qcow2")
        assert overlay.info()["backing-filename"] == f"{disks.dir}/{name}.qcow2"
        overlay.read(0, "64k", 0x10 + byte)
        overlay.check()


@pytest.mark.parametrize("options", [{}, {"read-only": True}, {"read-only": True, "auto-read-only": True}], ids=str)
def test_an_overlay_is_as_writable_as_its_disk(server, images, options):
    image = images.create("base", size="1M")
    storage = {"driver": "file", "filename": str(image.path)}
    server.execute("blockdev-add", {"driver": "qcow2", "node-name": "base", "file": storage, **options})
    # Without a user the overlay would not stay.
    server.execute("blockdev-add", {"driver": "raw", "node-name": "user", "file": "base", "read-only": True})
    server.blockdev_snapshot_sync(node_name="base", snapshot_file=str(images.dir / "overlay"), snapshot_node_name="overlay")
    read_only = "read-only" in options
    assert server.query_node("overlay")["ro"] == read_only
    assert server.query_node("base")["ro"]
    result = server.try_execute("block_resize", {"node-name": "overlay", "size": 2 << 20})
    assert result == {} if not read_only else result.desc == "Image is read-only"


def test_snapshot_sync_makes_its_overlay(server, disks):
    """The users of a disk move to its overlay, and keep it alive."""
    with server.export("a", writable=True) as nbd, server.export("b"):
        server.transaction(actions=[snapshot_sync("a", disks.dir), snapshot_sync("b", disks.dir, format="qcow2")])
        assert {"sa", "sb"} <= server.node_names()
        nbd.pwrite(b"\x11" * 65536, 0)
    server.stop()
    disks.at("a.qcow2", "qcow2").read(0, SIZE, 1)
    overlay = disks.at("sa.qcow2", "qcow2")
    assert overlay.info()["backing-filename"] == f"{disks.dir}/a.qcow2"
    overlay.read(0, "64k", 0x11)
    overlay.read("64k", SIZE - 65536, 1)


def test_nobody_comes_between_the_actions(start, images):
    """Also while they make images: what another client asks for comes before all of them, or after."""
    server = start(monitors=2)
    first, second = server.monitors
    for name in "ab":
        server.add_image(name, images.create(f"{name}.qcow2", size=SIZE))
    actions = [snapshot_sync("a", images.dir), snapshot_sync("b", images.dir), ABORT]
    for _ in range(20):
        transaction = first.send("transaction", {"actions": actions})
        error = second.error("blockdev-add", {"driver": "copy-on-read", "node-name": "c", "file": "sa", "bottom": "a"})
        assert error == "Cannot find device='sa' nor node-name='sa'"
        with pytest.raises(QmpError, match=ABORTED):
            first.reply(transaction)


def test_a_snapshot_under_a_writing_guest(server, disks):
    """An export stays on its disk: after the snapshot it writes the overlay."""
    with server.export("a", writable=True) as nbd:
        nbd.pwrite(b"\x21" * 65536, 0)
        server.transaction(actions=[snapshot_sync("a", disks.dir)])
        nbd.pwrite(b"\x22" * 65536, 0)
        nbd.pwrite(b"\x22" * 65536, 131072)
    server.stop()
    base, overlay = disks.at("a.qcow2", "qcow2"), disks.at("sa.qcow2", "qcow2")
    base.read(0, "64k", 0x21)
    base.read("64k", SIZE - 65536, 1)
    overlay.read(0, "64k", 0x22)
    overlay.read("64k", "64k", 1)
    overlay.read("128k", "64k", 0x22)


def test_backup_and_snapshot_of_one_instant(server, disks):
    """The snapshot's base and the backup hold the same bytes."""
    with server.export("a", writable=True) as nbd:
        nbd.pwrite(b"\x31" * 65536, 65536)
        server.transaction(actions=[backup("a"), snapshot("b"), ])
        nbd.pwrite(b"\x32" * 65536, 65536)
    server.finish_job("job-a")
    server.stop()
    target = disks.at("ta.qcow2", "qcow2")
    target.read("64k", "64k", 0x31)
    target.read("128k", SIZE - 131072, 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_snapshot_and_backup_of_the_same_disk(server, disks, order):
    """In either order of the actions the backup is of the disk as it was."""
    actions = [backup("a"), snapshot_sync("a", disks.dir)]
    with server.export("a", writable=True) as nbd:
        result = server.try_execute("transaction", actions=[actions[number] for number in order])
        if result == {}:
            nbd.pwrite(b"\x42" * 65536, 0)
            server.finish_job("job-a")
    server.stop()
    if result == {}:
        disks.at("ta.qcow2", "qcow2").read(0, SIZE, 1)
    disks.at("a.qcow2", "qcow2").read(0, SIZE, 1)


SNAPSHOT_REFUSED = [
    ("blockdev-snapshot", {"node": "a", "overlay": "nope"}, "Cannot find device='nope' nor node-name='nope'"),
    ("blockdev-snapshot", {"node": "nope", "overlay": "oa"}, "Cannot find device='nope' nor node-name='nope'"),
    ("blockdev-snapshot", {"node": "a"}, "Parameter 'overlay' is missing"),
    ("blockdev-snapshot", {"overlay": "oa"}, "Parameter 'node' is missing"),
    ("blockdev-snapshot", {"node": "a", "overlay": "raw"}, "The overlay does not support backing images"),
    ("blockdev-snapshot", {"node": "a", "overlay": "filter"}, "Filters cannot be used as overlays"),
    ("blockdev-snapshot", {"node": "a", "overlay": "b-over-a"}, "The overlay already has a backing image"),
    ("blockdev-snapshot-sync", {"node-name": "nope", "snapshot-file": "DIR/x"}, "Cannot find device='' nor node-name='nope'"),
    ("blockdev-snapshot-sync", {"node-name": "a"}, "Parameter 'snapshot-file' is missing"),
    ("blockdev-snapshot-sync", {"node-name": "a", "snapshot-file": "DIR/x"}, "New overlay node-name missing"),
    (
        "blockdev-snapshot-sync", {"node-name": "a", "snapshot-file": "DIR/x", "snapshot-node-name": "b"},
        "New overlay node-name already in use",
    ),
    (
        "blockdev-snapshot-sync",
        {"node-name": "a", "snapshot-file": "DIR/x", "snapshot-node-name": "x", "format": "bogus"},
        "Unknown file format 'bogus'",
    ),
    (
        "blockdev-snapshot-sync",
        {"node-name": "a", "snapshot-file": "DIR/x", "snapshot-node-name": "x", "format": "raw"},
        "Backing file not supported for file format 'raw'",
    ),
    (
        "blockdev-snapshot-sync",
        {"node-name": "a", "snapshot-file": "DIR/x", "snapshot-node-name": "x", "mode": "existing"},
        "Could not open 'DIR/x': No such file or directory",
    ),
]


@pytest.mark.parametrize("command, data, error", SNAPSHOT_REFUSED)
def test_snapshot_refused(server, disks, command, data, error):
    """Alone and in a transaction: the same words."""
    server.add_image("raw", disks.create("raw.raw", "raw", SIZE))
    server.add_image("filtered", disks.create("filtered.qcow2", size=SIZE))
    server.blockdev_add(driver="copy-on-read", node_name="filter", file="filtered")
    server.add_image("b-over-a", Image.create(disks.dir / "ba.qcow2", backing=disks.create("other.qcow2", size=SIZE)))
    data = {name: value.replace("DIR", str(disks.dir)) for name, value in data.items()}
    error = error.replace("DIR", str(disks.dir))
    before = graph(server)
    assert server.error(command, data) == error
    if "is missing" not in error:
        assert server.error("transaction", actions=[{"type": command, "data": data}]) == error
    assert graph(server) == before


# What no overlay is made of: (format, error when it is to be made, error when it is there).
OTHER_OVERLAYS = [
    ("copy-on-read", "Format driver 'copy-on-read' does not support image creation", "Filters cannot be used as overlays"),
    ("preallocate", "Format driver 'preallocate' does not support image creation", "Filters cannot be used as overlays"),
    ("compress", "Format driver 'compress' does not support image creation", None),
    ("file", "Backing file not supported for file format 'file'", "The overlay does not support backing images"),
    ("raw", "Backing file not supported for file format 'raw'", "The overlay does not support backing images"),
    ("host_device", "Backing file not supported for file format 'host_device'", None),
    ("null-co", "Format driver 'null-co' does not support image creation", "The only allowed filename for this driver is 'null-co://'"),
    ("null-aio", "Format driver 'null-aio' does not support image creation", "The only allowed filename for this driver is 'null-aio://'"),
    ("snapshot-access", "Format driver 'snapshot-access' does not support image creation", None),
]


@pytest.mark.parametrize("format, made, existing", OTHER_OVERLAYS)
def test_overlays_of_other_drivers(server, disks, format, made, existing):
    path = str(disks.create("overlay.raw", "raw", SIZE).path)
    data = {"node-name": "a", "snapshot-file": path, "snapshot-node-name": "x", "format": format}
    before = graph(server)
    assert server.error("blockdev-snapshot-sync", data) == made
    if existing is not None:
        assert server.error("blockdev-snapshot-sync", {**data, "mode": "existing"}) == existing
    assert graph(server) == before
