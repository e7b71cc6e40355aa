"""Backups, and the life of a backup job that has nothing to copy."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from contest import MIB, Contestant, Qmp, Run, add_image, benchmark, median_of


def backup(qmp: Qmp, source: str, target: str, **options: bool) -> None:
    qmp.execute("blockdev-backup", {"job-id": "b", "device": source, "target": target, "sync": "full", **options})
    event = qmp.wait_event("BLOCK_JOB_COMPLETED", timeout=120)
    if "error" in event["data"]:
        raise RuntimeError(event["data"]["error"])


@benchmark("job", 5)
def job(contestant: Contestant, directory: Path) -> dict[str, float]:
    for name in ("source", "target"):
        with open(directory / f"{name}.raw", "wb") as out:
            out.truncate(MIB)
    samples = []
    with Run(contestant, "daemon", directory) as run:
        for name in ("source", "target"):
            add_image(run.qmp, name, directory / f"{name}.raw", "raw")
        for _ in range(200):
            begin = time.perf_counter()
            backup(run.qmp, "source", "target")
            # The job is gone only when its last state was told.
            run.qmp.wait_event("JOB_STATUS_CHANGE", {"status": "null"})
            samples.append(time.perf_counter() - begin)
            run.qmp.events()
    return {"life of a backup job, empty 1 MiB disk (us)": median_of(samples) * 1e6}


def filled(directory: Path, format: str) -> Path:
    """1 GiB of bytes that do not compress and are not zero, made once."""
    raw, path = directory.parent / "gib.raw", directory.parent / f"gib.{format}"
    if not raw.exists():
        with open("/dev/urandom", "rb") as random, open(raw, "wb") as out:
            block = random.read(64 * MIB)
            for _ in range(1024 // 64):
                out.write(block)
    if not path.exists():
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, str(raw), str(path)], check=True)
    return path


@benchmark("backup", 7)
def backup_gib(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for format in ("raw", "qcow2"):
        source, target = filled(directory, format), directory / f"target.{format}"
        subprocess.run(["qemu-img", "create", "-q", "-f", format, str(target), "1G"], check=True)
        with open(source, "rb") as warm:
            while warm.read(16 * MIB):
                pass
        os.sync()
        with Run(contestant, "daemon", directory) as run:
            run.qmp.execute("blockdev-add", {"driver": format, "node-name": "source", "read-only": True,
                                             "file": {"driver": "file", "filename": str(source), "read-only": True}})
            add_image(run.qmp, "target", target, format)
            begin = time.perf_counter()
            backup(run.qmp, "source", "target")
            result[f"backup of 1 GiB, {format} to {format} (s)"] = time.perf_counter() - begin
        target.unlink()
    return result
