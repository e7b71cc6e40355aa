"""What a manager asks of the machine: its state, its names, stop, cont, reset and quit with their events in order."""

import pytest

from blockbed_iotests import Disconnected

pytestmark = pytest.mark.manners("system")


def names(server, start=0):
    return [message.get("event", "return" if "return" in message else "error") for message in server.received[start:]]


@pytest.mark.parametrize("machine", ["none", "pc"])
def test_stop_and_cont(start, machine):
    server = start(machine=machine)
    if machine == "pc":
        server.cont()
    begin = len(server.received)
    server.qmp.stop()
    server.qmp.stop()
    assert server.query_status() == {"status": "paused", "singlestep": False, "running": False}
    server.cont()
    server.cont()
    assert server.query_status() == {"status": "running", "singlestep": False, "running": True}
    assert names(server, begin) == ["STOP", "return", "return", "return", "RESUME", "return", "return", "return"]


def test_cont_from_prelaunch(start):
    server = start(machine="pc")
    begin = len(server.received)
    assert server.query_status()["status"] == "prelaunch"
    server.cont()
    assert names(server, begin)[:3] == ["return", "RESUME", "return"]


@pytest.mark.parametrize("machine", ["none", "pc"])
def test_reset(start, machine):
    server = start(machine=machine)
    server.system_reset()
    event = server.wait_event("RESET")
    assert event["data"] == {"guest": False, "reason": "host-qmp-system-reset"}


def test_quit(start):
    """SHUTDOWN comes before the reply, and the end after it."""
    server = start()
    begin = len(server.received)
    server.quit()
    assert names(server, begin) == ["SHUTDOWN", "return"]
    assert server.received[begin]["data"] == {"guest": False, "reason": "host-qmp-quit"}
    with pytest.raises(Disconnected):
        server.recv()
    server.wait()


def test_images_are_closed_before_the_reply_to_quit(server, images):
    """Who has the reply can use the images: their bits are on the disk and nobody holds a lock."""
    image = images.create("d.qcow2", size="64M")
    server.add_image("d", image)
    server.hmp('qemu-io d "write -P 7 0 64k"')
    server.quit()
    assert image.content()[:65536] == b"\7" * 65536
    image.check()


def test_quit_tells_what_cannot_be_written(start, images):
    """On standard error, before the reply; the server ends in order nevertheless."""
    image = images.create("d.qcow2", size="64M")
    server = start()
    rules = {"inject-error": [{"event": "read_aio", "state": 2}], "set-state": [{"event": "read_aio", "new_state": 2}]}
    blkdebug = {"driver": "blkdebug", "image": {"driver": "file", "filename": str(image.path)}, **rules}
    server.blockdev_add(driver="qcow2", node_name="d", file=blkdebug)
    server.hmp('qemu-io d "write 0 512"')
    for _ in range(2):
        server.hmp('qemu-io d "read 0 512"')
    server.quit()
    told = [line.partition(": ")[2] for line in server.stderr.splitlines()]
    assert told == ["Failed to flush the L2 table cache: Input/output error",
                    "Failed to flush the refcount block cache: Input/output error"]
    server.wait()


def test_every_event_has_a_time(server):
    server.qmp.stop()
    (event,) = server.events("STOP")
    assert list(event) == ["timestamp", "event"]
    assert list(event["timestamp"]) == ["seconds", "microseconds"]
    assert 0 <= event["timestamp"]["microseconds"] < 1_000_000


def test_stopping_stops_no_export_and_no_job(server, images):
    """The guest stands still, the block layer does not."""
    server.add_image("n", images.create("n.qcow2").fill((0, "1M", 1)))
    server.add_image("t", images.create("t.qcow2"))
    server.qmp.stop()
    with server.export("n") as nbd:
        assert nbd.pread(512, 0) == b"\1" * 512
    server.blockdev_backup(job_id="job", device="n", target="t", sync="full")
    server.finish_job("job")


def test_stopping_lets_requests_end_and_writes_caches_back(start, images):
    """Also when the guest had stopped before."""
    image = images.create("d.qcow2", size="1M")
    server = start("-drive", f"if=none,id=d,file={image}")
    server.add_image("s", images.create("s.raw", "raw", "4M").fill((0, "4M", 1)))
    server.add_image("t", images.create("t.raw", "raw", "4M"))
    server.blockdev_backup(job_id="job", device="s", target="t", sync="full", speed=1)
    for pattern in (1, 2):
        begin = len(server.received)
        server.hmp(f'qemu-io d "write -P {pattern} 0 64k"')
        server.qmp.stop()
        states = [event["data"]["status"] for event in server.received[begin:] if event.get("event") == "JOB_STATUS_CHANGE"]
        assert states == ["paused", "running"]
        assert image.content(force_share=True)[:65536] == bytes([pattern]) * 65536


@pytest.mark.parametrize(
    "command, expected",
    [
        ("query-name", {}),
        ("query-uuid", {"UUID": "00000000-0000-0000-0000-000000000000"}),
        ("query-status", {"status": "running", "singlestep": False, "running": True}),
        ("query-block", []),
        ("query-blockstats", []),
        ("query-named-block-nodes", []),
        ("query-jobs", []),
        ("query-block-jobs", []),
        ("query-block-exports", []),
    ],
)
def test_queries_of_an_empty_server(server, command, expected):
    assert server.execute(command) == expected


@pytest.mark.parametrize("command", ["query-version", "query-commands", "query-status", "query-name", "query-uuid",
                                     "query-block", "query-blockstats", "query-chardev", "query-iothreads"])
def test_queries_take_no_arguments_that_they_do_not_have(server, command):
    assert server.error(command, {"nope": 1}) == "Parameter 'nope' is unexpected"


def test_query_version(server):
    version = server.query_version()
    assert list(version) == ["qemu", "package"] and list(version["qemu"]) == ["micro", "minor", "major"]
    assert (version["qemu"]["major"], version["qemu"]["minor"]) == (7, 2)


def test_query_commands(server):
    listed = [entry["name"] for entry in server.query_commands()]
    assert len(listed) == len(set(listed))
    assert {"quit", "stop", "cont", "system_reset", "blockdev-add", "transaction", "human-monitor-command"} <= set(listed)


def test_iothreads(server):
    assert server.query_iothreads() == []
    server.object_add(qom_type="iothread", id="io0")
    (thread,) = server.query_iothreads()
    assert thread["id"] == "io0" and thread["thread-id"] > 0 and thread["poll-max-ns"] == 32768
    server.object_del(id="io0")
    assert server.query_iothreads() == []
