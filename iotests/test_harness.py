"""The harness itself: a judge that cannot fail proves nothing."""

import dataclasses
import itertools
import random
import threading

import pytest

from blockbed_iotests import History, QmpError, check_increments, find_faults, normalise
from blockbed_iotests.history import Instant, Write, payload
from blockbed_iotests.write_log import DISCARD, FLUSH, FUA, CrashPoint, Entry, crash_points, replay


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


# ---------------------------------------------------------------------- what increments have


# A chain of three instants: a write of epoch 0, two of epoch 1, one of epoch 2.
CHAIN = [Instant(10, 11), Instant(20, 21), Instant(30, 31)]
WRITES = [(1, 0, 0, 512, 1, 2), (1, 1, 512, 512, 12, 13), (1, 2, 2048, 1024, 14, 15), (1, 3, 0, 100, 22, 23)]


def faults(*increments, writes=WRITES, granularity=512):
    """What is wrong, in short, with increments of these (offset, length)."""
    found = find_faults(history_with(*writes), CHAIN[: len(increments) + 1], [{"d": i} for i in increments], granularity)
    return [(fault.increment, fault.kind, fault.offset, fault.length, fault.epoch) for fault in found]


def test_increments_that_are_right():
    assert faults([(512, 512), (2048, 1024)], [(0, 512)]) == []
    check_increments(history_with(*WRITES), CHAIN[:1], [], 512)


def test_a_lost_range_is_named():
    assert faults([(512, 512), (2048, 512)], [(0, 512)]) == [(1, "lost", 2560, 512, 1)]
    assert faults([(2048, 1024)], []) == [(1, "lost", 512, 512, 1), (2, "lost", 0, 100, 2)]
    with pytest.raises(AssertionError, match=(
        "^increment 1: lost: 512 bytes at 512 of d, last written in epoch 1 by write 1 of writer 1$"
    )):
        check_increments(history_with(*WRITES), CHAIN, [{"d": [(2048, 1024)]}, {"d": [(0, 512)]}], 512)


def test_a_range_that_comes_one_increment_late_is_lost_and_superfluous():
    assert faults([(512, 512)], [(0, 512), (2048, 1024)]) == [
        (1, "lost", 2048, 1024, 1), (2, "copied for nothing", 2048, 1024, 1)
    ]


def test_a_range_that_was_copied_for_nothing_is_named():
    assert faults([(0, 1024), (2048, 1536)], [(0, 512)]) == [
        (1, "copied for nothing", 0, 512, 0), (1, "copied for nothing", 3072, 512, None)
    ]
    with pytest.raises(AssertionError, match="^increment 1: copied for nothing: 512 bytes at 3584 of d, never written$"):
        check_increments(history_with(*WRITES), CHAIN[:2], [{"d": [(512, 512), (2048, 1024), (3584, 512)]}], 512)


def test_increments_have_whole_granules():
    assert faults([(0, 1024), (2048, 1024)], [(0, 1024)], granularity=1024) == []
    assert faults([(0, 1024), (2048, 2048)], [(0, 1024)], granularity=1024) == [(1, "copied for nothing", 3072, 1024, None)]


def test_a_trim_that_did_nothing_may_be_in():
    history = history_with((1, 0, 0, 512, 12, 13))
    history.writes[0].idle = True
    for copied in ([], [(0, 512)]):
        assert find_faults(history, CHAIN[:2], [{"d": copied}], 512) == []


def test_a_write_in_flight_may_be_in_either_increment():
    writes = [(1, 0, 0, 512, 19, 22)]
    for first, second in itertools.product(([], [(0, 512)]), repeat=2):
        assert faults(first, second, writes=writes) == []


# ---------------------------------------------------------------------- what a crash leaves


def test_what_a_flush_came_after_lasts():
    write = [Entry(at, 1, 0, bytes([at + 1])) for at in range(3)]
    entries = [write[0], Entry(0, 0, FLUSH, b""), write[1], dataclasses.replace(write[2], flags=FUA)]
    states = {point: replay(bytes(4), entries, point) for point in crash_points(entries)}
    assert states == {
        CrashPoint(0): bytes(4), CrashPoint(1): b"\1\0\0\0", CrashPoint(1, frozenset([0])): bytes(4),
        CrashPoint(3): b"\1\2\0\0", CrashPoint(4): b"\1\2\3\0", CrashPoint(4, frozenset([2])): b"\1\0\3\0",
    }


def test_any_of_few_writes_is_lost_and_each_of_many():
    def lost(count):
        return {point.lost for point in crash_points([Entry(at, 1, 0, b"x") for at in range(count)]) if point.lost}

    assert lost(3) == {frozenset(s) for s in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])}
    everything = frozenset(range(9))
    assert lost(9) == {everything} | {frozenset([i]) for i in range(9)} | {everything - {i} for i in range(9)}


def test_a_replay_makes_the_file_larger():
    entries = [Entry(2, 2, 0, b"ab"), Entry(0, 3, DISCARD, b"")]
    assert replay(b"x", entries, CrashPoint(1)) == b"x\0ab"
    assert replay(b"x", entries, CrashPoint(2)) == b"\0\0\0b"


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
