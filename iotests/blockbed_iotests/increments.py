"""Judges a chain of increments by what was written: which range was lost, which was copied for nothing?

Problem: that a chain restores to the right bytes does not prove its bitmaps. An increment that copies the whole disk
restores as well as one that copies what has changed; and what one increment missed does not show when the next happens
to have it.

Contract
  - The instants of a chain cut time into epochs: 0 before the first instant (that of the full backup), n between the
    instants n-1 and n. Increment n has what was copied by the backup of instant n: exactly the writes of epoch n.
  - A write that was issued after the reply to the one command and acknowledged before the sending of the other must be
    in. One that was under way during a command may be in the increment before it, after it, or in both.
  - Nothing else may be: what is copied must be touched by a write that must or may be in. A bitmap marks whole granules
    and a backup copies whole clusters, so the larger of the two is what a write touches.
  - A trim that left all bytes as they were may have been ignored on its way: it may be in.
  - `find_faults` names every range that breaks this, with the epoch in which it was last written; `check_increments`
    asserts that there is none. It judges places only: `History.check` judges what they hold.
"""

from __future__ import annotations

import dataclasses
from typing import Iterable, Mapping, Sequence

from .history import History, Instant, Write

# Sorted, apart from each other: (start, end).
Runs = list[tuple[int, int]]

LOST, FOR_NOTHING = "lost", "copied for nothing"


@dataclasses.dataclass(frozen=True)
class Fault:
    kind: str
    increment: int
    disk: str
    offset: int
    length: int
    epoch: int | None  # of the last write there that counts; None: nobody has written there
    writes: tuple[str, ...] = ()  # those that are lost

    def __str__(self) -> str:
        written = "never written" if self.epoch is None else f"last written in epoch {self.epoch}"
        who = f" by {', '.join(self.writes)}" if self.writes else ""
        return f"increment {self.increment}: {self.kind}: {self.length} bytes at {self.offset} of {self.disk}, {written}{who}"


def epoch(write: Write, instants: Sequence[Instant]) -> int:
    """The epoch in which a write was issued; while a command is under way it is still the one before."""
    return sum(instant.replied < write.issued for instant in instants)


def find_faults(history: History, instants: Sequence[Instant], increments: Sequence[Mapping[str, Iterable[tuple[int, int]]]],
                granularity: int) -> list[Fault]:
    """What is wrong with the increments of a chain; each is given as the (offset, length) that it has of each disk."""
    assert len(instants) == len(increments) + 1, "a chain begins with the instant of its full backup"
    faults = []
    for number, copied in enumerate(increments, 1):
        begin, end = instants[number - 1], instants[number]
        for disk, extents in copied.items():
            writes = [write for write in history.writes if write.disk == disk and write.issued < end.replied]
            must = [write for write in writes
                    if write.issued > begin.replied and write.acked is not None and write.acked < end.sent and not write.idle]
            may = [write for write in writes if write.acked is None or write.acked > begin.sent]
            has = union((offset, offset + length) for offset, length in extents)
            for start, stop in subtract(union((write.offset, write.end) for write in must), has):
                lost = [write for write in must if write.offset < stop and start < write.end]
                faults.append(Fault(LOST, number, disk, start, stop - start, max(epoch(write, instants) for write in lost),
                                    tuple(f"write {write.number} of writer {write.writer}" for write in lost)))
            for start, stop in subtract(has, union(rounded(write, granularity) for write in may)):
                earlier = [epoch(write, instants) for write in writes if write.offset < stop and start < write.end]
                faults.append(Fault(FOR_NOTHING, number, disk, start, stop - start, max(earlier, default=None)))
    return faults


def check_increments(history: History, instants: Sequence[Instant],
                     increments: Sequence[Mapping[str, Iterable[tuple[int, int]]]], granularity: int) -> None:
    """Asserts that each increment is exactly what was written between its instants."""
    faults = find_faults(history, instants, increments, granularity)
    assert not faults, "\n".join(map(str, faults))


def rounded(write: Write, granularity: int) -> tuple[int, int]:
    return write.offset // granularity * granularity, -(-write.end // granularity) * granularity


def union(pieces: Iterable[tuple[int, int]]) -> Runs:
    runs: Runs = []
    for start, end in sorted(pieces):
        if runs and start <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(end, runs[-1][1]))
        else:
            runs.append((start, end))
    return runs


def subtract(runs: Runs, holes: Runs) -> Runs:
    left: Runs = []
    for start, end in runs:
        for hole_start, hole_end in holes:
            if hole_end <= start or hole_start >= end:
                continue
            if start < hole_start:
                left.append((start, hole_start))
            start = max(start, hole_end)
        if start < end:
            left.append((start, end))
    return left
