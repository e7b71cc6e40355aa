"""The two contestants, a server of either, and the list of benchmarks that the files bench_*.py fill.

A benchmark is a function of a contestant and of a directory of its own, which returns its figures by their labels; what
is expensive to make and only read is put into the directory above, where both contestants find it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "iotests"))

from blockbed_iotests.qmp import Qmp  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Contestant:
    name: str
    system: tuple[str, ...]
    daemon: tuple[str, ...]
    check: tuple[str, ...]


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
        # QEMU complains of every client that leaves as fio does, without a word.
        with open(directory / "server.log", "wb") as log:
            self.process = subprocess.Popen([*command, *extra], cwd=directory, stdin=subprocess.DEVNULL, stderr=log)
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

    def peak_mib(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmHWM")

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
            sys.stderr.write((self.directory / "server.log").read_text(errors="replace"))


# Runs a program to its end: its status, the seconds that it took, those of the processor, and its most memory in KiB.
# A process is told its parent's peak as its own, so that this must be a small one.
RUN_TO_END = """
import os, resource, sys, time
begin = time.perf_counter()
_, status = os.waitpid(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
elapsed, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
print(os.waitstatus_to_exitcode(status), elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


@dataclass(frozen=True)
class Ended:
    seconds: float
    cpu_seconds: float
    peak_mib: float


def run_to_end(command: list[str]) -> Ended:
    """A command that is no server, and prints nothing."""
    # An interpreter that has loaded next to nothing: less than any contestant needs.
    answer = subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", RUN_TO_END, *command], check=True, capture_output=True, text=True)
    status, elapsed, cpu, peak = answer.stdout.split()
    if status != "0":
        raise subprocess.CalledProcessError(int(status), command, stderr=answer.stderr)
    return Ended(float(elapsed), float(cpu), float(peak) / 1024)


Measure = Callable[[Contestant, Path], dict[str, float]]
BENCHMARKS: dict[str, tuple[int, Measure]] = {}


def benchmark(name: str, rounds: int) -> Callable[[Measure], Measure]:
    def register(measure: Measure) -> Measure:
        assert name not in BENCHMARKS, name
        BENCHMARKS[name] = (rounds, measure)
        return measure

    return register


def median_of(samples: list[float]) -> float:
    return statistics.median(samples)


def add_image(qmp: Qmp, name: str, path: Path, format: str) -> None:
    qmp.execute("blockdev-add", {"driver": format, "node-name": name, "file": {"driver": "file", "filename": str(path)}})
