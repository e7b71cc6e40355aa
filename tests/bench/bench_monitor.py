"""What a monitor costs: starting, a round trip, adding and removing a node."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from contest import Contestant, Run, benchmark, median_of


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


@benchmark("node", 5)
def node(contestant: Contestant, directory: Path) -> dict[str, float]:
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
