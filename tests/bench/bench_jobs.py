"""Jobs that move 1 GiB, alone and under a guest that writes: how long they take, and how long the guest waits."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Callable

from bench_backup import filled
from contest import MIB, Contestant, Qmp, Run, benchmark
from traffic import writing_guest

def file(path: Path, **options: bool) -> dict:
    return {"driver": "file", "filename": str(path), **options}


def create(path: Path, *size: str, backing: Path | None = None) -> Path:
    stands_on = [] if backing is None else ["-b", str(backing), "-F", "qcow2"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *stands_on, str(path), *size], check=True)
    return path


def copied(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
    return target


def no_error(qmp: Qmp, event: str) -> None:
    ended = qmp.wait_event(event, timeout=300)
    if "error" in ended["data"]:
        raise RuntimeError(ended["data"]["error"])


# --- the jobs: `open` makes fresh images and opens them, the disk as node "disk"; `run` is what is measured.


@dataclass(frozen=True)
class Job:
    title: str
    open: Callable[[Qmp, Path], None]
    run: Callable[[Qmp], None]


def open_for_mirror(qmp: Qmp, directory: Path) -> None:
    source, target = copied(filled(directory, "qcow2"), directory / "source"), create(directory / "target", "1G")
    for name, path in (("disk", source), ("target", target)):
        qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": name, "file": file(path)})


def mirror(qmp: Qmp, **options: str) -> None:
    qmp.execute("blockdev-mirror", {"job-id": "j", "device": "disk", "target": "target", "sync": "full", **options})
    no_error(qmp, "BLOCK_JOB_READY")


def open_for_commit(qmp: Qmp, directory: Path) -> None:
    """A layer in the middle that is full, over one that is empty."""
    base, full = create(directory / "base", "1G"), filled(directory, "qcow2")
    top = create(directory / "top", backing=full)
    qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "base", "read-only": True,
                                 "file": file(base, **{"auto-read-only": True})})
    qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "full", "read-only": True, "backing": "base",
                                 "file": file(full, **{"read-only": True})})
    qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "disk", "backing": "full", "file": file(top)})


def commit(qmp: Qmp) -> None:
    qmp.execute("block-commit", {"job-id": "j", "device": "disk", "top-node": "full", "base-node": "base"})
    no_error(qmp, "BLOCK_JOB_COMPLETED")


def open_for_active_commit(qmp: Qmp, directory: Path) -> None:
    """A disk that is full, over a layer that is empty."""
    base, top = create(directory / "base", "1G"), copied(filled(directory, "qcow2"), directory / "top")
    qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "base", "read-only": True,
                                 "file": file(base, **{"auto-read-only": True})})
    qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "disk", "backing": "base", "file": file(top)})


def active_commit(qmp: Qmp) -> None:
    qmp.execute("block-commit", {"job-id": "j", "device": "disk", "base-node": "base"})
    no_error(qmp, "BLOCK_JOB_READY")


JOBS = (
    Job("mirror", open_for_mirror, mirror),
    Job("mirror, write-blocking", open_for_mirror, lambda qmp: mirror(qmp, **{"copy-mode": "write-blocking"})),
    Job("commit", open_for_commit, commit),
    Job("commit, active", open_for_active_commit, active_commit),
)


# --- the measurements


def measure(job: Job, contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for busy in (False, True):
        with Run(contestant, "daemon", directory) as run:
            job.open(run.qmp, directory)
            with open(filled(directory, "qcow2"), "rb") as warm:
                while warm.read(16 * MIB):
                    pass
            os.sync()
            if not busy:
                begin = perf_counter()
                job.run(run.qmp)
                result[f"{job.title} of 1 GiB (s)"] = perf_counter() - begin
                continue
            with writing_guest(run.qmp, directory, "disk", "disk") as latencies:
                begin = perf_counter()
                job.run(run.qmp)
                result[f"{job.title} of 1 GiB under a guest (s)"] = perf_counter() - begin
                for percentile, microseconds in latencies().items():
                    result[f"{job.title}: the guest's write, {percentile:g} % (us)"] = microseconds
    return result


for each in JOBS:
    benchmark(each.title.replace(", ", "-"), 3)(lambda contestant, directory, job=each: measure(job, contestant, directory))
