"""What a crash can leave of a file: its writes, recorded and replayed in part.

Problem: to kill a server shows the few instants at which it happened to be killed, and nothing that a storage which
reorders writes could do. A `blklogwrites` node between a format and its file records every request in order, so that
each instant can be made again from a copy of the file, as often as one likes.

Contract
  - The log is that of Linux' dm-log-writes: a superblock, then entries, each a header of one sector and its data. An
    entry is made when its request has been carried out.
  - A crash point is a number of requests that were carried out, and those of them that did not last. What a flush came
    after, or what was written through (FUA), always lasts.
  - `crash_points` visits every number of requests with all of them lasting. At the end and before each flush, where most
    is open, it also takes away any of what is open when that is little, otherwise each one, and all but each one.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from pathlib import Path
from typing import Iterator, NamedTuple

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD = 1, 2, 4

# Of so many open writes every subset is taken.
FEW = 4


@dataclasses.dataclass(frozen=True)
class Entry:
    offset: int
    length: int
    flags: int
    data: bytes  # nothing for a discard

    @property
    def is_flush(self) -> bool:
        return bool(self.flags & FLUSH) and not self.length

    @property
    def bytes(self) -> bytes:
        """A discarded range may read as anything that was there or as zeroes; a file gives zeroes."""
        return bytes(self.length) if self.flags & DISCARD else self.data


class CrashPoint(NamedTuple):
    done: int
    lost: frozenset[int] = frozenset()


def count_entries(log: Path) -> int:
    """How many requests the log vouches for; also while it is being written."""
    with open(log, "rb") as file:
        superblock = file.read(28)
    return struct.unpack("<QQQI", superblock)[2] if len(superblock) == 28 else 0


def read_log(log: Path) -> list[Entry]:
    data = log.read_bytes()
    if not data:
        return []
    magic, version, count, sector = struct.unpack_from("<QQQI", data)
    assert (magic, version) == (MAGIC, VERSION)
    at, entries = sector, []
    for _ in range(count):
        first, sectors, flags, _ = struct.unpack_from("<QQQQ", data, at)
        at += sector
        length = 0 if flags & DISCARD else sectors * sector
        entries.append(Entry(first * sector, sectors * sector, flags, data[at : at + length]))
        at += length
    return entries


def replay(before: bytes, entries: list[Entry], point: CrashPoint) -> bytes:
    """The file after the crash."""
    after = bytearray(before)
    for number, entry in enumerate(entries[: point.done]):
        if number in point.lost or not entry.length:
            continue
        if len(after) < entry.offset:
            after.extend(bytes(entry.offset - len(after)))
        after[entry.offset : entry.offset + entry.length] = entry.bytes
    return bytes(after)


def open_writes(entries: list[Entry], done: int) -> list[int]:
    """The requests that no flush has made to last."""
    since = max((number for number in range(done) if entries[number].flags & FLUSH), default=-1)
    return [number for number in range(since + 1, done) if not entries[number].flags & FUA]


def crash_points(entries: list[Entry]) -> Iterator[CrashPoint]:
    for done in range(len(entries) + 1):
        if done and entries[done - 1].is_flush:
            continue  # as before it
        yield CrashPoint(done)
        if done < len(entries) and not entries[done].is_flush:
            continue
        unsure = open_writes(entries, done)
        if len(unsure) <= FEW:
            sizes = range(1, len(unsure) + 1)
        else:
            sizes = (1, len(unsure) - 1, len(unsure))
        for size in sizes:
            for lost in itertools.combinations(unsure, size):
                yield CrashPoint(done, frozenset(lost))
