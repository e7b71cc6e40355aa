#!/usr/bin/env python3
"""`./dev bench`: our times beside those of the installed QEMU, measured in turn in one run.

Every measurement is taken of both servers alternately, so that a machine whose speed drifts drifts for both; the medians
and their ratio (ours / QEMU's, smaller is better) are printed. Nothing is asserted: numbers are for people.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "iotests"))

from blockbed_iotests.qmp import Qmp  # noqa: E402

MIB = 1 << 20
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Contestant:
    name: str
    system: tuple[str, ...]
    daemon: tuple[str, ...]


class Run:
    """A server in the manner asked for, with its monitor, in the directory of the benchmark."""

    def __init__(self, contestant: Contestant, manner: str, directory: Path, *extra: str):
        self.directory = directory
        path = directory / "monitor.sock"
        path.unlink(missing_ok=True)
        listener = Qmp.listen(path)
        if manner == "system":
            command = [*contestant.system, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", f"unix:{path}"]
        else:
            command = [*contestant.daemon, "--chardev", f"socket,id=m,path={path}", "--monitor", "chardev=m"]
        started = time.perf_counter()
        self.process = subprocess.Popen([*command, *extra], cwd=directory, stdin=subprocess.DEVNULL)
        connection, _ = listener.accept()
        self.qmp = Qmp(connection, handshake=False)
        self.qmp.greet()
        self.seconds_to_greeting = time.perf_counter() - started
        self.qmp.execute("qmp_capabilities")
        listener.close()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def resident_mib(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no Pss")

    def close(self) -> None:
        self.qmp.execute("quit")
        self.qmp.close()
        self.process.wait(20)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind, *_rest) -> None:
        if kind is None:
            self.close()
        else:
            self.process.kill()
            self.process.wait()


Measure = Callable[[Contestant, Path], dict[str, float]]
BENCHMARKS: dict[str, tuple[int, Measure]] = {}


def benchmark(name: str, rounds: int) -> Callable[[Measure], Measure]:
    def register(measure: Measure) -> Measure:
        BENCHMARKS[name] = (rounds, measure)
        return measure

    return register


def median_of(samples: list[float]) -> float:
    return statistics.median(samples)


# ---------------------------------------------------------------------- the monitor


@benchmark("start", 15)
def start(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for manner in ("system", "daemon"):
        with Run(contestant, manner, directory) as run:
            result[f"start to greeting, {manner} (ms)"] = run.seconds_to_greeting * 1e3
            result[f"resident memory after greeting, {manner} (MiB)"] = run.resident_mib()
    return result


@benchmark("monitor", 5)
def monitor(contestant: Contestant, directory: Path) -> dict[str, float]:
    with Run(contestant, "daemon", directory) as run:
        samples = []
        for _ in range(3000):
            begin = time.perf_counter()
            run.qmp.execute("query-version")
            samples.append(time.perf_counter() - begin)
    return {"monitor round trip (us)": median_of(samples) * 1e6}


@benchmark("nodes", 5)
def nodes(contestant: Contestant, directory: Path) -> dict[str, float]:
    image = directory / "node.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1G"], check=True)
    samples = []
    with Run(contestant, "daemon", directory) as run:
        for _ in range(200):
            begin = time.perf_counter()
            run.qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "n",
                                             "file": {"driver": "file", "filename": str(image)}})
            run.qmp.execute("blockdev-del", {"node-name": "n"})
            samples.append(time.perf_counter() - begin)
    return {"blockdev-add and -del, qcow2 (us)": median_of(samples) * 1e6}


# ---------------------------------------------------------------------- backup


def add_image(qmp: Qmp, name: str, path: Path, format: str) -> None:
    qmp.execute("blockdev-add", {"driver": format, "node-name": name, "file": {"driver": "file", "filename": str(path)}})


def backup(qmp: Qmp, source: str, target: str) -> None:
    qmp.execute("blockdev-backup", {"job-id": "b", "device": source, "target": target, "sync": "full"})
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


@benchmark("backup", 3)
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


# ---------------------------------------------------------------------- NBD


@contextlib.contextmanager
def exported(contestant: Contestant, directory: Path, format: str) -> Iterator[tuple[Run, Path]]:
    image, socket = directory / f"disk.{format}", directory / "nbd.sock"
    if not image.exists():
        raw = directory / "disk.raw"
        with open(raw, "wb") as out:
            out.write(os.urandom(256 * MIB))
        if format != "raw":
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, str(raw), str(image)], check=True)
    with Run(contestant, "daemon", directory) as run:
        add_image(run.qmp, "disk", image, format)
        run.qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
        run.qmp.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", "writable": True})
        yield run, socket


def fio(socket: Path, mode: str, depth: int, seconds: int) -> dict:
    done = subprocess.run(
        ["fio", "--name=n", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={socket}", f"--rw={mode}", "--bs=4k",
         f"--iodepth={depth}", "--size=256m", "--time_based=1", f"--runtime={seconds}", "--randrepeat=1",
         "--output-format=json"],
        check=True, capture_output=True, text=True, cwd=socket.parent)
    return json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read" if "read" in mode else "write"]


@benchmark("nbd", 3)
def nbd(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for format in ("raw", "qcow2"):
        with exported(contestant, directory, format) as (run, socket):
            for mode in ("randread", "randwrite"):
                for depth in (1, 16):
                    fio(socket, mode, depth, 1)
                    cpu = run.cpu_seconds()
                    report = fio(socket, mode, depth, 3)
                    cpu = run.cpu_seconds() - cpu
                    label = f"NBD 4 KiB {mode[4:]}, depth {depth:2}, {format}"
                    result[f"{label} (us a request)"] = 1e6 / report["iops"]
                    result[f"{label}: server CPU (us a request)"] = cpu * 1e6 / report["total_ios"]
    return result


# ---------------------------------------------------------------------- the table


def compare(name: str, ours: Contestant, theirs: Contestant, directory: Path) -> None:
    rounds, measure = BENCHMARKS[name]
    samples: dict[str, dict[str, list[float]]] = {ours.name: {}, theirs.name: {}}
    for round in range(rounds):
        # Who goes first alternates too.
        for contestant in (ours, theirs) if round % 2 == 0 else (theirs, ours):
            work = directory / contestant.name
            work.mkdir(exist_ok=True)
            for label, value in measure(contestant, work).items():
                samples[contestant.name].setdefault(label, []).append(value)
    for label, values in samples[ours.name].items():
        mine, other = median_of(values), median_of(samples[theirs.name][label])
        print(f"{label:<62} {mine:10.2f} {other:10.2f} {mine / other if other else float('nan'):7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("names", nargs="*", help=f"some of: {' '.join(BENCHMARKS)}")
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark '{name}'; there are: {' '.join(BENCHMARKS)}")
    server = str(options.server.resolve())
    ours = Contestant("blockbed", (server, "system"), (server, "daemon"))
    theirs = Contestant("QEMU", ("qemu-system-x86_64",), ("qemu-storage-daemon",))
    directory = Path(tempfile.mkdtemp(prefix="blockbed-bench-"))
    print(f"{'median of each':<62} {'blockbed':>10} {'QEMU':>10} {'ratio':>7}")
    try:
        for name in options.names or BENCHMARKS:
            compare(name, ours, theirs, directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
