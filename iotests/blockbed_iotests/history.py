"""A golden model of disks that are being written: what must a copy of one instant hold?

Problem: a backup is of the instant of a command, and a guest writes all the time. A write that is under way while the
command is may be in the copy or not; every other write must be in, or must not. A test that does not know which is
which can only compare when nothing writes, and then it proves nothing.

Contract
  - `History` knows the initial bytes of each disk and every write: by whom, in which order, when it was issued and
    when it was acknowledged. "When" is a tick of one counter that all writers and instants share.
  - An instant is the time between the sending of a command and its reply. A write acknowledged before the sending
    must be in; one issued after the reply must not be; what lies between may be either.
  - A `Writer` is sequential: its next write is issued after the acknowledgement of the one before. So what a copy
    holds of one writer is a prefix of its writes, over all disks that it writes: `check` finds that prefix or fails.
    This is what proves that two disks were copied at the same instant.
  - Writers whose regions overlap have no common order; then `check` accepts for each sector of the disk exactly the
    values that the order of acknowledgements allows.
  - With `writer.paused()` around the command the instant is exact, and `at` gives the bytes.

A trim leaves bytes that the protocol does not define; the writer reads them back and takes that as what it wrote. When
they are what they were before, nobody can tell whether the trim was ignored (`idle`).
Threads: writers are threads; `check` and `at` are called when the writers of interest are stopped or paused, or on
instants that are over, which never change again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import random
import threading
from typing import Iterator, Mapping

from .nbd import Nbd

WAIT_TIMEOUT = 60.0
SECTOR = 512


@dataclasses.dataclass
class Write:
    writer: int
    number: int
    disk: str
    offset: int
    length: int
    data: bytes | None  # None: derived from writer and number, see `payload`
    issued: int
    acked: int | None = None
    idle: bool = False  # may have done nothing at all

    @property
    def end(self) -> int:
        return self.offset + self.length

    def bytes(self) -> bytes:
        return payload(self.writer, self.number, self.length) if self.data is None else self.data


def payload(writer: int, number: int, length: int) -> bytes:
    """Bytes that no other write has, so that what is found on a disk names the write it came from."""
    tag = hashlib.blake2b(f"{writer}/{number}".encode(), digest_size=16).digest()
    return (tag * (length // 16 + 1))[:length]


@dataclasses.dataclass
class Instant:
    sent: int
    replied: int | None = None


class Recorder:
    """The log of writes, and the clock that orders them."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)
        self.writes: list[Write] = []  # append is atomic

    def tick(self) -> int:
        return next(self._ticks)


class History(Recorder):
    def __init__(self, disks: Mapping[str, bytes]):
        super().__init__()
        self.initial = {name: bytes(content) for name, content in disks.items()}
        self.writers: list[Writer] = []

    # ------------------------------------------------------------------ recording

    @contextlib.contextmanager
    def instant(self) -> Iterator[Instant]:
        """Brackets the command that defines an instant."""
        instant = Instant(self.tick())
        yield instant
        instant.replied = self.tick()

    def writer(self, connections: Mapping[str, Nbd], *, seed: int = 0, region: range | None = None,
               kinds: tuple[str, ...] = ("write", "unaligned", "zero", "trim"), largest: int = 65536) -> Writer:
        """A thread that writes to these disks through these connections; start it with `with`."""
        region = region or range(0, min(len(self.initial[name]) for name in connections))
        writer = Writer(self, len(self.writers) + 1, connections, seed, region, kinds, largest)
        self.writers.append(writer)
        return writer

    def wrote(self, disk: str, offset: int, data: bytes) -> None:
        """Records a write that the test made itself and that has been acknowledged."""
        number = sum(write.writer == 0 for write in self.writes)
        self.writes.append(Write(0, number, disk, offset, len(data), data, self.tick(), self.tick()))

    # ------------------------------------------------------------------ judging

    def at(self, instant: Instant) -> dict[str, bytes]:
        """The bytes of each disk at an instant during which nothing was being written."""
        state = {name: bytearray(content) for name, content in self.initial.items()}
        for write in sorted(self.writes, key=lambda write: write.issued):
            if write.issued > instant.replied:
                continue
            if write.acked is None or write.acked > instant.sent:
                raise AssertionError("writes were in flight: the instant is not exact")
            state[write.disk][write.offset : write.end] = write.bytes()
        return {name: bytes(content) for name, content in state.items()}

    def now(self) -> dict[str, bytes]:
        """The bytes of each disk when all writers are paused or stopped."""
        return self.at(Instant(self.tick(), self.tick()))

    def check(self, instant: Instant, copies: Mapping[str, bytes]) -> dict[int, int]:
        """Asserts that the copies are the disks at the instant; returns for each writer how many of its writes
        are in (writers whose regions overlap are judged piecewise and not counted)."""
        assert instant.replied is not None, "the instant is not over"
        for name, copy in copies.items():
            assert len(copy) == len(self.initial[name]), f"{name}: {len(copy)} bytes, not {len(self.initial[name])}"
        past = [write for write in self.writes if write.issued < instant.replied]
        by_writer: dict[int, list[Write]] = {}
        for write in past:
            by_writer.setdefault(write.writer, []).append(write)
        counts: dict[int, int] = {}
        ordered = [number for number in by_writer if not self._overlaps(number, by_writer)]
        for number in ordered:
            counts[number] = self._check_prefix(by_writer[number], instant, copies)
        rest = [write for write in past if write.writer not in ordered]
        for name, copy in copies.items():
            self._check_pieces([write for write in rest if write.disk == name], instant, name, copy)
            self._check_untouched([write for write in past if write.disk == name], name, copy)
        return counts

    def _overlaps(self, number: int, by_writer: dict[int, list[Write]]) -> bool:
        mine = _cover(by_writer[number])
        return any(_intersect(mine, _cover(writes)) for other, writes in by_writer.items() if other != number)

    def _check_prefix(self, writes: list[Write], instant: Instant, copies: Mapping[str, bytes]) -> int:
        writes = [write for write in sorted(writes, key=lambda write: write.number) if write.disk in copies]
        sure = sum(write.acked is not None and write.acked < instant.sent for write in writes)
        touched = _cover(writes)
        state = {name: bytearray(self.initial[name]) for name in copies}
        for write in writes[:sure]:
            state[write.disk][write.offset : write.end] = write.bytes()
        mismatches: list[str] = []
        for count in range(sure, len(writes) + 1):
            wrong = self._first_difference(state, copies, touched)
            if wrong is None:
                return count
            mismatches.append(f"  {count} writes: {wrong}")
            if count < len(writes):
                write = writes[count]
                state[write.disk][write.offset : write.end] = write.bytes()
        raise AssertionError(
            f"the copy is no prefix of writer {writes[0].writer}'s writes; {sure} were acknowledged before the command, "
            f"{len(writes)} issued before its reply:\n" + "\n".join(mismatches[:8])
        )

    def _first_difference(self, state, copies, touched) -> str | None:
        for name, start, end in touched:
            if state[name][start:end] != copies[name][start:end]:
                at = next(i for i in range(start, end) if state[name][i] != copies[name][i])
                return f"{name} differs at byte {at}: {self._who(name, at, copies[name][at:at + 16])}"
        return None

    def _who(self, disk: str, at: int, found: bytes) -> str:
        for write in self.writes:
            if write.disk == disk and write.offset <= at < write.end:
                part = write.bytes()[at - write.offset : at - write.offset + len(found)]
                if part and found.startswith(part):
                    return f"it holds write {write.number} of writer {write.writer}"
        return f"it holds {found.hex()}"

    def _check_pieces(self, writes: list[Write], instant: Instant, name: str, copy: bytes) -> None:
        """For each piece between two edges of writes: the values that some order of the writes can leave there.
        Concurrent writes that overlap may be mixed at the borders of clusters, so no piece is longer than a sector."""
        edges = {edge for write in writes for edge in (write.offset, write.end)}
        for _, start, end in _cover(writes):
            edges.update(range(start - start % SECTOR + SECTOR, end, SECTOR))
        ordered = sorted(edges)
        for start, end in zip(ordered, ordered[1:]):
            covering = [write for write in writes if write.offset <= start and write.end >= end]
            sure = [write for write in covering if write.acked is not None and write.acked < instant.sent]
            allowed = [
                write for write in covering
                if not any(later.issued > write.acked for later in sure if write.acked is not None)
            ]
            if not covering:
                continue
            values = [write.bytes()[start - write.offset : end - write.offset] for write in allowed]
            if not sure:
                values.append(self.initial[name][start:end])
            assert copy[start:end] in values, (
                f"{name} at {start}..{end} holds none of the {len(values)} values that the order of writes allows: "
                + self._who(name, start, copy[start : start + 16])
                + f"\nthe command: {instant.sent}..{instant.replied}; the writes there (writer/number issued..acknowledged): "
                + ", ".join(
                    f"{write.writer}/{write.number} {write.issued}..{write.acked}"
                    for write in sorted(self.writes, key=lambda write: write.issued)
                    if write.disk == name and write.offset <= start and write.end >= end
                )
            )

    def _check_untouched(self, writes: list[Write], name: str, copy: bytes) -> None:
        at = 0
        for _, start, end in _cover(writes) + [(name, len(copy), len(copy))]:
            assert copy[at:start] == self.initial[name][at:start], f"{name}: bytes that nobody wrote differ after {at}"
            at = end


def _cover(writes: list[Write]) -> list[tuple[str, int, int]]:
    """The union of what the writes touch, as sorted runs."""
    runs: list[tuple[str, int, int]] = []
    for disk, start, end in sorted((write.disk, write.offset, write.end) for write in writes):
        if runs and runs[-1][0] == disk and start <= runs[-1][2]:
            runs[-1] = (disk, runs[-1][1], max(end, runs[-1][2]))
        else:
            runs.append((disk, start, end))
    return runs


def _intersect(left: list[tuple[str, int, int]], right: list[tuple[str, int, int]]) -> bool:
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in left for b in right)


class Writer:
    """A guest: one thread, one write at a time, from a seed. Use it as a context manager."""

    def __init__(self, history: History, number: int, connections: Mapping[str, Nbd], seed: int, region: range,
                 kinds: tuple[str, ...], largest: int):
        self.number, self._history, self._connections = number, history, dict(connections)
        self._random = random.Random(f"{seed}/{number}")
        self._region, self._kinds, self._largest = region, kinds, largest
        self._condition = threading.Condition()
        self._stop = False
        self._pauses = 0
        self._idle = False
        self._acked = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer {number}", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind, *_exc) -> None:
        with self._condition:
            self._stop = True
            self._condition.notify_all()
        self._thread.join(WAIT_TIMEOUT)
        if kind is None:
            assert not self._thread.is_alive(), "a write has not been answered"
            if self._error is not None:
                raise self._error

    @property
    def acked(self) -> int:
        return self._acked

    def wait_writes(self, more: int) -> None:
        """Waits until this many more writes have been acknowledged."""
        with self._condition:
            goal = self._acked + more
            done = self._condition.wait_for(lambda: self._acked >= goal or self._error, WAIT_TIMEOUT)
            if self._error is not None:
                raise self._error
            assert done, f"writer {self.number} hangs after {self._acked} writes"

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing of this writer is in flight inside."""
        with self._condition:
            self._pauses += 1
            assert self._condition.wait_for(lambda: self._idle or self._error, WAIT_TIMEOUT), "a write hangs"
        try:
            yield
        finally:
            with self._condition:
                self._pauses -= 1
                self._idle = False
                self._condition.notify_all()

    def _run(self) -> None:
        try:
            for number in itertools.count():
                with self._condition:
                    while self._pauses and not self._stop:
                        self._idle = True
                        self._condition.notify_all()
                        self._condition.wait()
                    if self._stop:
                        return
                self._write(number)
                with self._condition:
                    self._acked += 1
                    self._condition.notify_all()
        except BaseException as error:  # handed to the thread that waits for us
            with self._condition:
                self._error = error
                self._condition.notify_all()

    def _write(self, number: int) -> None:
        history, choose = self._history, self._random
        disk = choose.choice(sorted(self._connections))
        nbd = self._connections[disk]
        kind = choose.choice(self._kinds)
        grain = 1 if kind == "unaligned" else 4096
        room = len(self._region) // grain
        count = choose.randint(1, max(1, min(room, self._largest // grain)))
        offset = self._region.start + choose.randint(0, room - count) * grain
        length = count * grain
        write = Write(self.number, number, disk, offset, length, None, history.tick())
        if kind == "zero":
            write.data = bytes(length)
        history.writes.append(write)
        if kind == "zero":
            nbd.zero(length, offset, no_hole=choose.random() < 0.5)
        elif kind == "trim":
            before = nbd.pread(length, offset)
            nbd.trim(length, offset)
        else:
            nbd.pwrite(write.bytes(), offset, fua=choose.random() < 0.1)
        acked = history.tick()
        if kind == "trim":
            write.data = nbd.pread(length, offset)
            write.idle = write.data == before
        write.acked = acked
