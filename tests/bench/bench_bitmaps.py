"""Dirty bitmaps: kept in an image, merged, and followed by a backup."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from pathlib import Path

from blockbed_iotests.nbd import Nbd
from contest import KIB, MIB, Contestant, Qmp, Run, add_image, benchmark

TIB = 1 << 40
BITMAPS = 10
SUMS = 5


def export(qmp: Qmp, node: str, path: Path) -> Nbd:
    path.unlink(missing_ok=True)
    qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(path)}}})
    qmp.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": node, "name": node, "writable": True})
    return Nbd(path, node)


def timed(qmp: Qmp, command: str, arguments: dict) -> float:
    begin = time.perf_counter()
    qmp.execute(command, arguments)
    return time.perf_counter() - begin


@benchmark("bitmaps", 5)
def bitmaps(contestant: Contestant, directory: Path) -> dict[str, float]:
    """Ten bitmaps of 1 TiB in units of 64 KiB, each with a few thousand runs of marks all over it."""
    image = directory / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(TIB)], check=True)
    choose = random.Random(1)
    names = [f"b{number}" for number in range(BITMAPS)]
    with Run(contestant, "daemon", directory) as run:
        # Marks are made where a request costs nothing.
        run.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "null", "size": TIB})
        add_image(run.qmp, "disk", image, "qcow2")
        nbd = export(run.qmp, "null", directory / "nbd.sock")
        for name in names:
            run.qmp.execute("block-dirty-bitmap-add", {"node": "null", "name": name, "granularity": 64 * KIB})
            for _ in range(4000):
                nbd.zero(choose.randrange(1, 64) * 64 * KIB, choose.randrange(TIB // MIB - 4) * MIB)
            run.qmp.execute("block-dirty-bitmap-disable", {"node": "null", "name": name})
            run.qmp.execute("block-dirty-bitmap-add",
                            {"node": "disk", "name": name, "granularity": 64 * KIB, "persistent": True})
            run.qmp.execute("block-dirty-bitmap-merge",
                            {"node": "disk", "target": name, "bitmaps": [{"node": "null", "name": name}]})
        nbd.close()
        # Several times: what a machine takes to find memory for the first is not what is to be measured.
        merges = []
        for number in range(SUMS):
            run.qmp.execute("block-dirty-bitmap-add", {"node": "disk", "name": f"sum{number}", "granularity": 64 * KIB})
            merges.append(timed(run.qmp, "block-dirty-bitmap-merge",
                                {"node": "disk", "target": f"sum{number}", "bitmaps": names}))
        merge = statistics.median(merges)
        store = timed(run.qmp, "blockdev-del", {"node-name": "disk"})
    os.sync()
    with Run(contestant, "daemon", directory) as run:
        load = timed(run.qmp, "blockdev-add", {
            "driver": "qcow2", "node-name": "disk", "read-only": True,
            "file": {"driver": "file", "filename": str(image), "read-only": True}})
    image.unlink()
    return {
        "merge of ten bitmaps of 1 TiB (ms)": merge * 1e3,
        "storing ten bitmaps of 1 TiB (ms)": store * 1e3,
        "loading ten bitmaps of 1 TiB (ms)": load * 1e3,
    }


def marked_disk(directory: Path) -> Path:
    """100 GiB of which one in a hundred is data, and marked; made once."""
    path = directory.parent / "marked.qcow2"
    if path.exists():
        return path
    qemu = Contestant("QEMU", ("qemu-system-x86_64",), ("qemu-storage-daemon",), ())
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "100G"], check=True)
    choose = random.Random(2)
    data = choose.randbytes(64 * KIB)
    with Run(qemu, "daemon", directory) as run:
        add_image(run.qmp, "disk", path, "qcow2")
        run.qmp.execute("block-dirty-bitmap-add", {"node": "disk", "name": "b", "persistent": True})
        nbd = export(run.qmp, "disk", directory / "nbd.sock")
        for cluster in choose.sample(range(100 * 1024 * 16), 16 * 1024):
            nbd.pwrite(data, cluster * 64 * KIB)
        nbd.close()
    return path


@benchmark("incremental", 5)
def incremental(contestant: Contestant, directory: Path) -> dict[str, float]:
    source, target = marked_disk(directory), directory / "increment.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(target), "100G"], check=True)
    with open(source, "rb") as warm:
        while warm.read(16 * MIB):
            pass
    os.sync()
    with Run(contestant, "daemon", directory) as run:
        run.qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "disk", "read-only": True,
                                         "file": {"driver": "file", "filename": str(source), "read-only": True}})
        add_image(run.qmp, "target", target, "qcow2")
        begin = time.perf_counter()
        run.qmp.execute("blockdev-backup", {"job-id": "b", "device": "disk", "target": "target", "sync": "bitmap",
                                            "bitmap": "b", "bitmap-mode": "never"})
        event = run.qmp.wait_event("BLOCK_JOB_COMPLETED", timeout=300)
        if "error" in event["data"]:
            raise RuntimeError(event["data"]["error"])
        seconds = time.perf_counter() - begin
    target.unlink()
    return {"incremental backup of 1 % of 100 GiB, qcow2 (s)": seconds}
