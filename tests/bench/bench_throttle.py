"""Throttle accuracy: how much of the rate that was asked for a guest gets that always has another request ready."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from contest import KIB, MIB, Contestant, Run, benchmark

import nbd as libnbd

SETTLE, SECONDS = 0.5, 4.0
# Requests under way at each disk: none is late because its guest is.
DEPTH = 8


@dataclass(frozen=True)
class Load:
    """What guests do that are never done: reads or writes of so many bytes, at so many disks of one group."""

    size: int
    writes: bool = False
    disks: int = 1


class Guest(threading.Thread):
    """Reads or writes a block again and again, one at a time, and notes when each is done."""

    def __init__(self, socket: Path, export: str, load: Load):
        super().__init__()
        self.load, self.times, self.stop = load, [], False
        self.handle = libnbd.NBD()
        self.handle.set_export_name(export)
        self.handle.connect_unix(str(socket))

    def run(self) -> None:
        data = b"\x01" * self.load.size
        while not self.stop:
            if self.load.writes:
                self.handle.pwrite(data, 0)
            else:
                self.handle.pread(self.load.size, 0)
            self.times.append(time.perf_counter())
        self.handle.shutdown()

    def count(self, begin: float, end: float) -> int:
        return sum(begin <= moment < end for moment in self.times)


def got(contestant: Contestant, directory: Path, limits: dict[str, int], load: Load, settle: float = SETTLE) -> list[float]:
    """Requests of each disk in SECONDS, after so many to settle."""
    socket = directory / "nbd.sock"
    socket.unlink(missing_ok=True)
    with Run(contestant, "daemon", directory) as run:
        run.qmp.execute("object-add", {"qom-type": "throttle-group", "id": "g", "limits": limits})
        run.qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
        guests = []
        for number in range(load.disks):
            name = f"t{number}"
            run.qmp.execute("blockdev-add", {
                "driver": "throttle", "node-name": name, "throttle-group": "g",
                "file": {"driver": "null-co", "size": MIB}})
            run.qmp.execute("block-export-add", {"type": "nbd", "id": name, "node-name": name, "name": name, "writable": load.writes})
            # Not of zeroes: those need no read.
            guests += [Guest(socket, name, load) for _ in range(DEPTH)]
        begin = time.perf_counter() + settle
        for guest in guests:
            guest.start()
        time.sleep(settle)
        time.sleep(SECONDS)
        end = time.perf_counter()
        for guest in guests:
            guest.stop = True
        counts = [round(guest.count(begin, end) * SECONDS / (end - begin), 1) for guest in guests]
        # Who still waits shall not wait for its turn. A burst is a second long at least, also one of nothing.
        unlimited = {name: 1 if name.endswith("-length") else 0 for name in limits}
        run.qmp.execute("qom-set", {"path": "g", "property": "limits", "value": unlimited})
        for guest in guests:
            guest.join()
    return [sum(counts[i : i + DEPTH]) for i in range(0, len(counts), DEPTH)]


@benchmark("throttle", 3)
def throttle(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for label, limits, load, asked in (
        ("4 MiB/s in 4 KiB", {"bps-total": 4 * MIB}, Load(4 * KIB), 1024),
        ("64 MiB/s in 64 KiB", {"bps-read": 64 * MIB}, Load(64 * KIB), 1024),
        ("64 MiB/s of writes in 64 KiB", {"bps-write": 64 * MIB}, Load(64 * KIB, writes=True), 1024),
        ("100 operations/s", {"iops-total": 100}, Load(512), 100),
        ("2000 operations/s", {"iops-total": 2000}, Load(512), 2000),
        ("2000 writes/s", {"iops-write": 2000}, Load(512, writes=True), 2000),
        # Each counts as sixteen.
        ("3200/s of 4 KiB in 64 KiB", {"iops-total": 3200, "iops-size": 4 * KIB}, Load(64 * KIB), 200),
    ):
        [passed] = got(contestant, directory, limits, load)
        result[f"throttle: got of {label} (% of asked)"] = 100 * passed / (asked * SECONDS)
    # The bucket holds what a second at the higher rate brings, and loses the lower rate meanwhile.
    burst = {"iops-total": 500, "iops-total-max": 4000, "iops-total-max-length": 1}
    [passed] = got(contestant, directory, burst, Load(512), settle=0)
    result["throttle: got of 4000/s for 1 s, then 500/s (% of asked)"] = 100 * passed / (4000 + 500 * SECONDS)
    shares = got(contestant, directory, {"iops-total": 1000}, Load(512, disks=4))
    result["throttle: got of 1000 operations/s, 4 disks (% of asked)"] = 100 * sum(shares) / (1000 * SECONDS)
    result["throttle: largest share of 4 disks (% of a fair one)"] = 100 * max(shares) * len(shares) / sum(shares)
    return result
