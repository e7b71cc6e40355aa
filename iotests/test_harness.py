"""The harness itself: a judge that cannot fail proves nothing."""

import random
import threading

import pytest

from blockbed_iotests import History, QmpError, normalise
from blockbed_iotests.history import Instant, Write, payload


def history_with(*writes):
    """A history of one 4 KiB disk and these (writer, number, offset, length, issued, acked)."""
    history = History({"d": bytes(4096)})
    for writer, number, offset, length, issued, acked in writes:
        history.writes.append(Write(writer, number, "d", offset, length, None, issued, acked))
    return history


def disk_with(*writes):
    disk = bytearray(4096)
    for writer, number, offset, length in writes:
        disk[offset : offset + length] = payload(writer, number, length)
    return {"d": bytes(disk)}


def test_history_demands_acknowledged_writes():
    history = history_with((1, 0, 0, 512, 1, 2))
    history.check(Instant(3, 4), disk_with((1, 0, 0, 512)))
    with pytest.raises(AssertionError, match="no prefix"):
        history.check(Instant(3, 4), disk_with())


def test_history_refuses_later_writes():
    history = history_with((1, 0, 0, 512, 5, 6))
    history.check(Instant(3, 4), disk_with())
    with pytest.raises(AssertionError, match="nobody wrote"):
        history.check(Instant(3, 4), disk_with((1, 0, 0, 512)))


def test_history_leaves_writes_in_flight_open():
    history = history_with((1, 0, 0, 512, 1, 5))
    assert history.check(Instant(3, 4), disk_with()) == {1: 0}
    assert history.check(Instant(3, 4), disk_with((1, 0, 0, 512))) == {1: 1}


def test_history_demands_a_prefix():
    history = history_with((1, 0, 0, 512, 4, 5), (1, 1, 1024, 512, 6, 7))
    assert history.check(Instant(3, 8), disk_with((1, 0, 0, 512))) == {1: 1}
    with pytest.raises(AssertionError, match="no prefix"):
        history.check(Instant(3, 8), disk_with((1, 1, 1024, 512)))


def test_history_refuses_half_a_write():
    history = history_with((1, 0, 0, 1024, 1, 5))
    with pytest.raises(AssertionError, match="no prefix"):
        history.check(Instant(3, 4), disk_with((1, 0, 0, 512)))


def test_history_judges_overlapping_writers_by_acknowledgement():
    history = history_with((1, 0, 0, 512, 1, 4), (2, 0, 0, 512, 2, 3))  # concurrent: either may have won
    history.check(Instant(8, 9), disk_with((1, 0, 0, 512)))
    history.check(Instant(8, 9), disk_with((2, 0, 0, 512)))
    with pytest.raises(AssertionError, match="none of the 2 values"):
        history.check(Instant(8, 9), disk_with())
    ordered = history_with((1, 0, 0, 512, 1, 2), (2, 0, 0, 512, 3, 4))
    with pytest.raises(AssertionError, match="none of the 1 values"):
        ordered.check(Instant(8, 9), disk_with((1, 0, 0, 512)))


def test_history_sees_two_instants_of_two_disks():
    history = History({"a": bytes(512), "b": bytes(512)})
    for number, disk in enumerate("abab"):
        history.writes.append(Write(1, number, disk, 0, 512, None, 2 * number + 1, 2 * number + 2))
    at = {n: {"a": payload(1, n - 1 - (n - 1) % 2, 512), "b": payload(1, n - 1 - n % 2, 512) if n > 1 else bytes(512)}
          for n in (1, 2, 3, 4)}
    for count, copies in at.items():
        assert history.check(Instant(0, 99), copies) == {1: count}
    with pytest.raises(AssertionError, match="no prefix"):
        history.check(Instant(0, 99), {"a": at[1]["a"], "b": at[4]["b"]})


def test_qmp_keeps_the_order_of_messages(server):
    server.execute("blockdev-add", {"driver": "null-co", "node-name": "n"})
    server.execute("query-version")
    with pytest.raises(QmpError) as error:
        server.execute("no-such-command")
    assert error.value.error_class == "CommandNotFound"
    assert server.transcript()[-3:] == ["return", "return", "error"]


def test_writers_run_while_the_test_does(server, images):
    """NBD calls release the interpreter; without that a writer and a command could wait for each other."""
    server.add_image("disk", images.create("disk.qcow2", size="1M"))
    history = History({"disk": bytes(1 << 20)})
    with server.export("disk", writable=True) as nbd, history.writer({"disk": nbd}, seed=1) as writer:
        writer.wait_writes(20)
        with writer.paused():
            before = writer.acked
            server.poll()
            assert writer.acked == before
            assert nbd.read_all() == history.now()["disk"]
        writer.wait_writes(20)
    assert threading.active_count() < 10


def test_a_seed_repeats_a_writer(server, images):
    def run(name):
        server.add_image(name, images.create(f"{name}.raw", "raw", "1M"))
        history = History({name: bytes(1 << 20)})
        with server.export(name, writable=True) as nbd, history.writer({name: nbd}, seed=7) as writer:
            writer.wait_writes(20)
        return [(write.offset, write.length) for write in history.writes[:20]]

    assert run("one") == run("two")


def test_normalise(workdir):
    message = {"timestamp": {"seconds": 1}, "a": f"{workdir}/x", "b": ["#block123", "#block045", "#block123"]}
    assert normalise(message, workdir) == {
        "timestamp": "<timestamp>", "a": "DIR/x", "b": ["#block0", "#block1", "#block0"],
    }


def test_a_script_of_commands_is_deterministic(differential):
    """QEMU against itself, blockbed against QEMU."""

    def script(server):
        server.try_execute("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 65536})
        server.try_execute("blockdev-add", {"driver": "null-co", "node-name": "n"})
        server.try_execute("blockdev-del", {"node-name": "n"})
        server.try_execute("blockdev-del", {"node-name": "n"})

    differential.run(script)


def test_the_differential_sees_differences(differential):
    sizes = iter(random.Random(1).sample(range(1, 1000), 2))

    def script(server):
        server.execute("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 512 * next(sizes)})

    with pytest.raises(AssertionError, match="the servers differ"):
        differential.run(script)
