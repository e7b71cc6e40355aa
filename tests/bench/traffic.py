"""Requests to an export: the export, fio as its client, and what both say about a request."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
from pathlib import Path
from typing import Callable, Iterator

from contest import Contestant, Qmp, Run, add_image

# What a guest beside a job writes: one request after the other, no more in a second than any disk takes.
GUEST = ("--rw=randwrite", "--bs=4k", "--iodepth=1", "--rate_iops=2000", "--size=1G", "--time_based=1", "--runtime=600")
PERCENTILES = (50.0, 99.0, 99.9)


@contextlib.contextmanager
def exported(contestant: Contestant, directory: Path, format: str, image: Path,
             writable: bool = True) -> Iterator[tuple[Run, Path]]:
    """The image as the node "disk" and the export "disk" of a server that has just started."""
    socket = directory / "nbd.sock"
    with Run(contestant, "daemon", directory) as run:
        add_image(run.qmp, "disk", image, format)
        run.qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
        run.qmp.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", "writable": writable})
        yield run, socket


def fio(socket: Path, mode: str, depth: int, *bounds: str, block: str = "4k", export: str = "disk") -> dict:
    """What fio reports of its one direction; `bounds` say where the requests go and when they end."""
    done = subprocess.run(
        ["fio", "--name=n", "--ioengine=nbd", f"--uri=nbd+unix:///{export}?socket={socket}", f"--rw={mode}", f"--bs={block}",
         f"--iodepth={depth}", "--randrepeat=1", "--output-format=json", *bounds],
        check=True, capture_output=True, text=True, cwd=socket.parent)
    return json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read" if "read" in mode else "write"]


def seconds(count: int) -> tuple[str, ...]:
    return "--time_based=1", f"--runtime={count}"


def cost(run: Run, label: str, socket: Path, mode: str, depth: int, *bounds: str, block: str = "4k") -> dict[str, float]:
    """Elapsed time by requests, as the client counts them, and the server's processor time of a request."""
    cpu = run.cpu_seconds()
    report = fio(socket, mode, depth, *bounds, block=block)
    cpu = run.cpu_seconds() - cpu
    return {f"{label} (us a request)": 1e6 / report["iops"],
            f"{label}: server CPU (us a request)": cpu * 1e6 / report["total_ios"]}


def replay(path: Path, mode: str, offsets: range, seed: int) -> tuple[str, ...]:
    """The bounds for one request of 4 KiB at each of the offsets, in an order that the seed says."""
    order = list(offsets)
    random.Random(seed).shuffle(order)
    lines = ["fio version 2 iolog", "n add", "n open", *(f"n {mode} {offset} 4096" for offset in order), "n close"]
    path.write_text("\n".join(lines) + "\n")
    return f"--read_iolog={path}", "--replay_no_stall=1", "--filename=n", f"--size={offsets.stop}"


@contextlib.contextmanager
def writing_guest(qmp: Qmp, directory: Path, node: str, disk: str) -> Iterator[Callable[[], dict[float, float]]]:
    """fio writes to the node; what is given back ends it, and tells its latencies in us by percentile. `disk` is the node
    below that holds the data."""
    socket = directory / "guest.sock"
    qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
    qmp.execute("block-export-add", {"type": "nbd", "id": "guest", "node-name": node, "name": "disk", "writable": True})
    writer = subprocess.Popen(
        ["fio", "--name=n", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={socket}", *GUEST,
         "--percentile_list=" + ":".join(map(str, PERCENTILES)), "--output-format=json"],
        cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def latencies() -> dict[float, float]:
        writer.send_signal(signal.SIGINT)
        text, _ = writer.communicate(timeout=60)
        found = json.loads(text[text.index("{"):])["jobs"][0]["write"]["clat_ns"]["percentile"]
        return {p: found[f"{p:.6f}"] / 1000 for p in PERCENTILES}

    try:
        # It is under way when the first writes have come.
        while not any(entry.get("node-name") == disk and entry["stats"]["wr_highest_offset"] > 0
                      for entry in qmp.execute("query-blockstats", {"query-nodes": True})):
            if writer.poll() is not None:
                raise RuntimeError("fio has ended")
        yield latencies
    finally:
        if writer.poll() is None:
            writer.kill()
            writer.communicate()
