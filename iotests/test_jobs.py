"""The state machine of jobs: every verb in every state, with its events and its refusals."""

import pytest

JOB_VERBS = ("cancel", "pause", "resume", "complete", "finalize", "dismiss")


@pytest.fixture
def disks(server, images):
    """`src`, full of data, and an empty `dst`."""
    server.add_image("src", images.create("src.qcow2", size="4M").fill((0, "4M", 1)))
    server.add_image("dst", images.create("dst.qcow2", size="4M"))


def verb(server, name, job="job"):
    """Sends a verb, as job-* or block-job-*; the text of its error, or None."""
    if name == "block-job-set-speed":
        arguments = {"device": job, "speed": 1 << 20}
    elif name.startswith("job-") or name in ("block-job-finalize", "block-job-dismiss"):
        arguments = {"id": job}
    else:
        arguments = {"device": job}
    result = server.try_execute(name, arguments)
    return None if result == {} else f"{result.error_class}: {result.desc}"


def bring_to(server, state):
    """A backup in this state: it stays there until a verb comes."""
    options = {"job_id": "job", "device": "src", "target": "dst", "sync": "full"}
    if state in ("running", "paused"):
        server.blockdev_backup(**options, speed=65536)  # one chunk, then a pause of many seconds
    if state == "paused":
        server.job_pause(id="job")
        server.wait_job("job", "paused")
    if state == "pending":
        server.blockdev_backup(**options, auto_finalize=False)
        server.wait_event("BLOCK_JOB_PENDING", {"id": "job"})
    if state == "concluded":
        server.blockdev_backup(**options, auto_dismiss=False)
        server.wait_status("job", "concluded")


def refused(name, state):
    return f"GenericError: Job 'job' in state '{state}' cannot accept command verb '{name}'"


NOT_PAUSED = "GenericError: Can't resume a job that was not paused"

# What each verb answers in each state; None is success.
TABLE = {
    "none": {
        **{f"job-{name}": "GenericError: Job not found" for name in JOB_VERBS},
        **{f"block-job-{name}": "DeviceNotActive: Block job 'job' not found" for name in (*JOB_VERBS, "set-speed")},
    },
    "running": {
        "job-cancel": None,
        "job-pause": None,
        "job-resume": NOT_PAUSED,
        "job-complete": refused("complete", "running"),
        "job-finalize": refused("finalize", "running"),
        "job-dismiss": refused("dismiss", "running"),
        "block-job-cancel": None,
        "block-job-pause": None,
        "block-job-resume": NOT_PAUSED,
        "block-job-complete": refused("complete", "running"),
        "block-job-finalize": refused("finalize", "running"),
        "block-job-dismiss": refused("dismiss", "running"),
        "block-job-set-speed": None,
    },
    "paused": {
        "job-cancel": None,
        "job-pause": "GenericError: Job is already paused",
        "job-resume": None,
        "job-complete": refused("complete", "paused"),
        "job-finalize": refused("finalize", "paused"),
        "job-dismiss": refused("dismiss", "paused"),
        "block-job-cancel": "GenericError: The block job for device 'job' is currently paused",
        "block-job-pause": "GenericError: Job is already paused",
        "block-job-resume": None,
        "block-job-complete": refused("complete", "paused"),
        "block-job-finalize": refused("finalize", "paused"),
        "block-job-dismiss": refused("dismiss", "paused"),
        "block-job-set-speed": None,
    },
    "pending": {
        "job-cancel": None,
        "job-pause": refused("pause", "pending"),
        "job-resume": NOT_PAUSED,
        "job-complete": refused("complete", "pending"),
        "job-finalize": None,
        "job-dismiss": refused("dismiss", "pending"),
        "block-job-cancel": None,
        "block-job-pause": refused("pause", "pending"),
        "block-job-resume": NOT_PAUSED,
        "block-job-complete": refused("complete", "pending"),
        "block-job-finalize": None,
        "block-job-dismiss": refused("dismiss", "pending"),
        "block-job-set-speed": refused("set-speed", "pending"),
    },
    "concluded": {
        "job-cancel": refused("cancel", "concluded"),
        "job-pause": refused("pause", "concluded"),
        "job-resume": NOT_PAUSED,
        "job-complete": refused("complete", "concluded"),
        "job-finalize": refused("finalize", "concluded"),
        "job-dismiss": None,
        "block-job-cancel": refused("cancel", "concluded"),
        "block-job-pause": refused("pause", "concluded"),
        "block-job-resume": NOT_PAUSED,
        "block-job-complete": refused("complete", "concluded"),
        "block-job-finalize": refused("finalize", "concluded"),
        "block-job-dismiss": None,
        "block-job-set-speed": refused("set-speed", "concluded"),
    },
}


@pytest.mark.parametrize("name", TABLE["running"])
@pytest.mark.parametrize("state", TABLE)
def test_verb_in_state(server, disks, state, name):
    bring_to(server, state)
    assert verb(server, name) == TABLE[state][name]


@pytest.mark.parametrize("kind", ["job", "block-job"])
def test_pause_and_resume(server, disks, kind):
    bring_to(server, "running")
    assert verb(server, f"{kind}-pause") is None
    server.wait_job("job", "paused")
    (info,) = server.query_block_jobs()
    assert info["paused"] is True and info["busy"] is False
    assert verb(server, f"{kind}-resume") is None
    (info,) = server.query_block_jobs()
    assert info["paused"] is False
    assert verb(server, "job-cancel") is None
    server.wait_null("job")


def test_a_paused_job_makes_no_progress(server, disks):
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=1 << 30)
    if (result := verb(server, "job-pause")) is not None:
        pytest.skip(f"the job was done before it could be paused: {result}")
    server.wait_job("job", "paused")
    before = server.job("job")["current-progress"]
    server.poll()
    assert server.job("job")["current-progress"] == before
    verb(server, "job-resume")
    server.wait_null("job")


def test_states_of_a_backup(server, disks):
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full")
    ended = server.finish_job("job")
    assert ended["event"] == "BLOCK_JOB_COMPLETED"
    assert ended["data"] == {"device": "job", "len": 4 << 20, "offset": 4 << 20, "speed": 0, "type": "backup"}
    assert server.job_states("job") == ["created", "running", "waiting", "pending", "concluded", "null"]


def test_events_around_the_replies(server, disks):
    """Created and running are announced before the reply, the end of the job after it."""
    start = len(server.received)
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", auto_finalize=False, auto_dismiss=False)
    lines = server.transcript()[start:]
    assert lines[:2] == ["JOB_STATUS_CHANGE created", "JOB_STATUS_CHANGE running"]
    assert lines[-1] == "return"
    server.wait_event("BLOCK_JOB_PENDING", {"id": "job", "type": "backup"})
    assert server.transcript()[-3:] == ["JOB_STATUS_CHANGE waiting", "JOB_STATUS_CHANGE pending", "BLOCK_JOB_PENDING job"]
    server.job_finalize(id="job")
    server.wait_status("job", "concluded")
    completed = server.transcript().index("BLOCK_JOB_COMPLETED job")
    assert server.transcript()[completed + 1] == "JOB_STATUS_CHANGE concluded"
    server.job_dismiss(id="job")
    assert server.transcript()[-2:] == ["JOB_STATUS_CHANGE null", "return"]


def test_states_of_a_cancelled_backup(server, disks):
    bring_to(server, "running")
    server.job_cancel(id="job")
    ended = server.finish_job("job")
    assert ended["event"] == "BLOCK_JOB_CANCELLED"
    assert server.job_states("job") == ["created", "running", "aborting", "concluded", "null"]


def test_cancel_of_a_pending_job(server, disks):
    bring_to(server, "pending")
    server.block_job_cancel(device="job")
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    assert server.job_states("job") == ["created", "running", "waiting", "pending", "aborting", "concluded", "null"]


def test_a_concluded_job_keeps_its_error(server, disks):
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=65536, auto_dismiss=False)
    server.job_cancel(id="job")
    server.wait_status("job", "concluded")
    entry = server.job("job")
    assert entry["status"] == "concluded"
    assert entry["error"] == "Operation canceled"
    server.job_dismiss(id="job")
    assert server.query_jobs() == []


def over(driver, child="file", **options):
    return "blockdev-add", {"driver": driver, "node-name": "over", child: "src"} | options


@pytest.mark.parametrize("command, arguments, times", [
    # A format or filter looks at its file through a root, which goes when the node is there, or is not.
    (*over("raw"), 2),
    (*over("copy-on-read"), 2),
    (*over("qcow2"), 2),
    # These are none for QEMU, and nothing is looked at of a backing file.
    (*over("blkdebug", child="image"), 0),
    (*over("qcow2", child="backing", file="other"), 0),
    ("blockdev-add", {"driver": "raw", "node-name": "over", "file": "other"}, 0),
    ("block-export-add", {"type": "nbd", "id": "export", "node-name": "src"}, 0),
    ("block-export-del", {"id": "export"}, 2),
    ("transaction", {"actions": []}, 1),
])
def test_a_job_stops_when_somebody_elses_root_goes(server, images, disks, command, arguments, times):
    other = images.create("other.qcow2", size="4M")
    server.blockdev_add(driver="file", node_name="other", filename=str(other.path))
    server.nbd_start()
    if command == "block-export-del":
        server.block_export_add(type="nbd", id="export", node_name="src")
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="none")
    server.wait_event("BLOCK_JOB_READY")
    begin = len(server.received)
    server.try_execute(command, arguments)
    if command == "block-export-del":
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": "export"})
    server.wait_job("job", "ready")
    told = [m["data"]["status"] for m in server.received[begin:] if m.get("event") == "JOB_STATUS_CHANGE"]
    assert told == ["standby", "ready"] * times


def test_query_jobs_and_query_block_jobs(server, disks):
    """Both lists, key order included."""
    bring_to(server, "pending")
    (job,), (block_job,) = server.query_jobs(), server.query_block_jobs()
    assert list(job.items()) == [
        ("current-progress", 4 << 20), ("status", "pending"), ("total-progress", 4 << 20), ("type", "backup"), ("id", "job"),
    ]
    assert list(block_job.items()) == [
        ("auto-finalize", False), ("io-status", "ok"), ("device", "job"), ("auto-dismiss", True), ("busy", False),
        ("len", 4 << 20), ("offset", 4 << 20), ("status", "pending"), ("paused", False), ("speed", 0), ("ready", False),
        ("type", "backup"),
    ]


def test_speed(server, disks):
    bring_to(server, "running")
    assert server.query_block_jobs()[0]["speed"] == 65536
    assert server.error("block-job-set-speed", device="job", speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert server.query_block_jobs()[0]["speed"] == 65536
    server.block_job_set_speed(device="job", speed=0)
    assert server.finish_job("job")["data"]["offset"] == 4 << 20


def test_two_jobs_of_one_name(server, disks, images):
    server.add_image("other", images.create("other.qcow2", size="4M"))
    bring_to(server, "running")
    error = server.error("blockdev-backup", job_id="job", device="other", target="dst", sync="full")
    assert error == "Node 'dst' is busy: block device is in use by block job: backup"
    server.add_image("third", images.create("third.qcow2", size="4M"))
    error = server.error("blockdev-backup", job_id="job", device="other", target="third", sync="full")
    assert error == "Job ID 'job' already in use"
    assert [job["id"] for job in server.query_jobs()] == ["job"]


@pytest.mark.parametrize("job_id", ["1", "", "a b", "#x", "/x"])
def test_bad_job_ids(server, disks, job_id):
    error = server.error("blockdev-backup", job_id=job_id, device="src", target="dst", sync="full")
    assert error == f"Invalid job ID '{job_id}'"
    assert server.query_jobs() == []


def test_quit_with_jobs_in_every_state(start, images):
    """The server ends in order, whatever its jobs do."""
    for state in ("running", "paused", "pending", "concluded"):
        server = start()
        server.add_image("src", images.create(f"{state}-src.qcow2", size="4M").fill((0, "4M", 1)))
        server.add_image("dst", images.create(f"{state}-dst.qcow2", size="4M"))
        bring_to(server, state)
        server.stop()
        images.at(f"{state}-src.qcow2", "qcow2").check()
        images.at(f"{state}-dst.qcow2", "qcow2").check()


def test_many_jobs(server, images):
    """Twenty backups at a time."""
    for number in range(20):
        server.add_image(f"src{number}", images.create(f"src{number}.raw", "raw", "64k").fill((0, "64k", number)))
        server.add_image(f"dst{number}", images.create(f"dst{number}.raw", "raw", "64k"))
        server.blockdev_backup(job_id=f"job{number}", device=f"src{number}", target=f"dst{number}", sync="full")
    for number in range(20):
        server.finish_job(f"job{number}")
    server.stop()
    for number in range(20):
        images.at(f"dst{number}.raw", "raw").read(0, "64k", number)


# ---------------------------------------------------------------------- guests meanwhile


@pytest.mark.differs("ignores what is discarded above a filter that a job has put there", server="qemu")
@pytest.mark.parametrize("command, options", [
    ("blockdev-backup", {"target": "dst", "sync": "none"}),
    ("blockdev-mirror", {"target": "dst", "sync": "full"}),
    ("blockdev-mirror", {"target": "dst", "sync": "full", "copy-mode": "write-blocking"}),
    ("block-commit", {}),
])
def test_a_disk_is_discarded_while_a_job_works_on_it(server, images, command, options):
    base = images.create("base.qcow2", size="1M")
    top = images.create("top.qcow2", size=None, backing=base).fill((0, "1M", 1))
    server.add_image("src", top, discard="unmap")
    server.add_image("dst", images.create("dst.qcow2", size="1M"))
    with server.export("src", writable=True) as guest:
        server.execute(command, {"job-id": "job", "device": "src", **options})
        guest.trim(65536, 65536)
        assert guest.pread(3 * 65536, 0) == b"\1" * 65536 + bytes(65536) + b"\1" * 65536
        server.job_cancel(id="job")
        server.finish_job("job")
        assert guest.pread(65536, 65536) == bytes(65536)


@pytest.mark.parametrize("command, options", [
    ("blockdev-backup", {"device": "top", "target": "dst", "sync": "full", "on-target-error": "stop"}),
    ("blockdev-mirror", {"device": "top", "target": "dst", "sync": "full", "on-target-error": "stop"}),
    ("blockdev-mirror", {"device": "top", "target": "dst", "sync": "full", "on-target-error": "stop",
                         "copy-mode": "write-blocking"}),
    ("block-commit", {"device": "top", "base-node": "base", "on-error": "stop"}),
])
def test_a_target_that_never_comes_back(server, images, command, options):
    base = images.create("base.qcow2", size="4M").fill((0, "1M", 1))
    top = images.create("top.qcow2", size=None, backing=base).fill((0, "3M", 2))
    commits = command == "block-commit"
    written = base if commits else images.create("dst.raw", format="raw", size="4M")
    server.blockdev_add(driver="blkdebug", node_name="gone", image={"driver": "file", "filename": str(written.path)},
                        set_state=[{"event": "pwritev", "new_state": 2}],
                        inject_error=[{"event": "pwritev", "iotype": "write", "state": 2}])
    if commits:
        server.blockdev_add(driver="qcow2", node_name="base", read_only=True, file="gone")
    else:
        server.add_image("base", base, read_only=True)
        server.blockdev_add(driver="raw", node_name="dst", file="gone")
    server.add_image("top", top, backing="base")
    server.execute(command, {"job-id": "job", **options})
    for _ in range(3):
        assert server.wait_event("BLOCK_JOB_ERROR", {"device": "job"})["data"]["action"] == "stop"
        server.wait_job("job", "paused")
        server.block_job_resume(device="job")
    server.wait_event("BLOCK_JOB_ERROR", {"device": "job"})
    server.wait_job("job", "paused")
    assert verb(server, "block-job-cancel") == "GenericError: The block job for device 'job' is currently paused"
    server.block_job_cancel(device="job", force=True)
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    for node in ("top", "base", "gone") if commits else ("dst", "gone", "top", "base"):
        server.blockdev_del(node_name=node)
    assert not server.node_names()
