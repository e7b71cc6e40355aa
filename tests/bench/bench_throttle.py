"""Throttle accuracy: how much of the rate that was asked for a guest gets that always has another request ready."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from contest import KIB, MIB, Contestant, Run, benchmark

import nbd as libnbd

SETTLE, SECONDS = 0.5, 4.0
# Requests under way at each disk: none is late because its guest is.
DEPTH = 8


class Guest(threading.Thread):
    """Reads a block again and again, one at a time, and notes when each has come."""

    def __init__(self, socket: Path, export: str, size: int):
        super().__init__()
        self.size, self.times, self.stop = size, [], False
        self.handle = libnbd.NBD()
        self.handle.set_export_name(export)
        self.handle.connect_unix(str(socket))

    def run(self) -> None:
        while not self.stop:
            self.handle.pread(self.size, 0)
            self.times.append(time.perf_counter())
        self.handle.shutdown()

    def count(self, begin: float, end: float) -> int:
        return sum(begin <= moment < end for moment in self.times)


def got(contestant: Contestant, directory: Path, limits: dict[str, int], size: int, disks: int) -> list[float]:
    """Requests of each disk in SECONDS, all disks in one group."""
    socket = directory / "nbd.sock"
    socket.unlink(missing_ok=True)
    with Run(contestant, "daemon", directory) as run:
        run.qmp.execute("object-add", {"qom-type": "throttle-group", "id": "g", "limits": limits})
        run.qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
        readers = []
        for number in range(disks):
            name = f"t{number}"
            run.qmp.execute("blockdev-add", {
                "driver": "throttle", "node-name": name, "throttle-group": "g",
                "file": {"driver": "null-co", "size": MIB}})
            run.qmp.execute("block-export-add", {"type": "nbd", "id": name, "node-name": name, "name": name})
            # Not of zeroes: those need no read.
            readers += [Guest(socket, name, size) for _ in range(DEPTH)]
        for reader in readers:
            reader.start()
        time.sleep(SETTLE)
        begin = time.perf_counter()
        time.sleep(SECONDS)
        end = time.perf_counter()
        for reader in readers:
            reader.stop = True
        counts = [round(reader.count(begin, end) * SECONDS / (end - begin), 1) for reader in readers]
        # Who still waits shall not wait for its turn.
        run.qmp.execute("qom-set", {"path": "g", "property": "limits", "value": dict.fromkeys(limits, 0)})
        for reader in readers:
            reader.join()
    return [sum(counts[i : i + DEPTH]) for i in range(0, len(counts), DEPTH)]


@benchmark("throttle", 3)
def throttle(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for label, limits, size, asked in (
        ("4 MiB/s in 4 KiB", {"bps-total": 4 * MIB}, 4 * KIB, 4 * MIB / (4 * KIB)),
        ("64 MiB/s in 64 KiB", {"bps-read": 64 * MIB}, 64 * KIB, 64 * MIB / (64 * KIB)),
        ("100 operations/s", {"iops-total": 100}, 512, 100),
        ("2000 operations/s", {"iops-total": 2000}, 512, 2000),
    ):
        [passed] = got(contestant, directory, limits, size, 1)
        result[f"throttle: got of {label} (% of asked)"] = 100 * passed / (asked * SECONDS)
    shares = got(contestant, directory, {"iops-total": 1000}, 512, 4)
    result["throttle: got of 1000 operations/s, 4 disks (% of asked)"] = 100 * sum(shares) / (1000 * SECONDS)
    result["throttle: largest share of 4 disks (% of a fair one)"] = 100 * max(shares) * len(shares) / sum(shares)
    return result
