"""Fleecing: what it costs a guest that its old data is kept, and how fast that is read while the guest writes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from bench_backup import filled
from contest import KIB, Contestant, Qmp, Run, add_image, benchmark
from traffic import cost, fio, replay, writing_guest

CLUSTERS = 8192


def add_fleece(qmp: Qmp, directory: Path) -> None:
    """1 GiB under a filter that keeps what is overwritten; the node "cbw" is the guest's, "access" the instant's."""
    source, disk, scratch = filled(directory, "raw"), directory / "disk.raw", directory / "scratch.qcow2"
    subprocess.run(["cp", str(source), str(disk)], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(scratch), "1G"], check=True)
    os.sync()
    add_image(qmp, "disk", disk, "raw")
    add_image(qmp, "scratch", scratch, "qcow2")
    qmp.execute("blockdev-add", {"driver": "copy-before-write", "node-name": "cbw", "file": "disk", "target": "scratch"})
    qmp.execute("blockdev-add", {"driver": "snapshot-access", "node-name": "access", "file": "cbw"})


@benchmark("copy-before-write", 5)
def guest_write_cost(contestant: Contestant, directory: Path) -> dict[str, float]:
    """4 KiB in clusters that were not written before, then in the same again."""
    result = {}
    socket = directory / "nbd.sock"
    clusters = range(0, CLUSTERS * 128 * KIB, 128 * KIB)
    for depth in (1, 16):
        with Run(contestant, "daemon", directory) as run:
            add_fleece(run.qmp, directory)
            run.qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
            run.qmp.execute("block-export-add",
                            {"type": "nbd", "id": "e", "node-name": "cbw", "name": "disk", "writable": True})
            for title, seed in (("first", 1), ("second", 2)):
                bounds = replay(directory / "log", "write", clusters, seed)
                label = f"copy-before-write: {title} write to a cluster, depth {depth}"
                result |= cost(run, label, socket, "write", depth, *bounds)
    return result


@benchmark("fleece", 3)
def fleece_read_under_a_guest(contestant: Contestant, directory: Path) -> dict[str, float]:
    socket = directory / "guest.sock"
    with Run(contestant, "daemon", directory) as run:
        add_fleece(run.qmp, directory)
        with writing_guest(run.qmp, directory, "cbw", "disk") as latencies:
            run.qmp.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "access", "name": "access"})
            begin = time.perf_counter()
            fio(socket, "read", 8, "--size=1G", block="256k", export="access")
            took = time.perf_counter() - begin
            waits = latencies()
        label = "fleece of 1 GiB read under a guest"
        return {f"{label} (s)": took, **{f"{label}: its write, {p:g} % (us)": us for p, us in waits.items()}}
