"""Streams with and without a guest that writes, chains of a thousand snapshots, graphs of two thousand nodes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from bench_backup import filled
from contest import KIB, MIB, Contestant, Qmp, Run, benchmark
from traffic import writing_guest

LAYERS = 1000
NODES = 2000


def stream(qmp: Qmp, **options: object) -> None:
    qmp.execute("block-stream", {"job-id": "s", "device": "top", **options})
    event = qmp.wait_event("BLOCK_JOB_COMPLETED", timeout=300)
    if "error" in event["data"]:
        raise RuntimeError(event["data"]["error"])


def overlay(directory: Path, base: Path) -> Path:
    top = directory / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(top)], check=True)
    return top


def warm(path: Path) -> None:
    with open(path, "rb") as file:
        while file.read(16 * MIB):
            pass


def make_durable(path: Path) -> None:
    """QEMU tells that a stream is done before it has reached the disk, and the image no longer names what it came from."""
    descriptor = os.open(path, os.O_RDWR)
    os.fdatasync(descriptor)
    os.close(descriptor)


def add_top(qmp: Qmp, path: Path) -> None:
    qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": str(path)}})


@benchmark("stream", 7)
def stream_gib(contestant: Contestant, directory: Path) -> dict[str, float]:
    base = filled(directory, "qcow2")
    top = overlay(directory, base)
    warm(base)
    os.sync()
    with Run(contestant, "daemon", directory) as run:
        add_top(run.qmp, top)
        begin = time.perf_counter()
        stream(run.qmp)
        result = {"stream of 1 GiB, qcow2 (s)": time.perf_counter() - begin}
        make_durable(top)
        result["stream of 1 GiB, qcow2, and all of it on disk (s)"] = time.perf_counter() - begin
        result["stream of 1 GiB, qcow2: server CPU (s)"] = run.cpu_seconds()
    top.unlink()
    return result


@benchmark("stream-guest", 5)
def stream_under_a_guest(contestant: Contestant, directory: Path) -> dict[str, float]:
    base = filled(directory, "qcow2")
    top = overlay(directory, base)
    warm(base)
    os.sync()
    with Run(contestant, "daemon", directory) as run:
        add_top(run.qmp, top)
        with writing_guest(run.qmp, directory, "top", "top") as latencies:
            begin = time.perf_counter()
            stream(run.qmp)
            told = time.perf_counter() - begin
            waits = latencies()
        begin = time.perf_counter()
        make_durable(top)
        durable = told + time.perf_counter() - begin
    top.unlink()
    return {"stream of 1 GiB under a guest (s)": told,
            "stream of 1 GiB under a guest, and all of it on disk (s)": durable,
            **{f"stream: the guest's write, {p:g} % (us)": us for p, us in waits.items()}}


def deep_chain(directory: Path) -> Path:
    """A thousand layers of 64 MiB, each with one cluster of its own; made once."""
    place = directory.parent / "chain"
    top = place / f"{LAYERS - 1}.qcow2"
    if place.exists():
        return top
    place.mkdir()
    for layer in range(LAYERS):
        backing = ["-b", f"{layer - 1}.qcow2", "-F", "qcow2"] if layer else []
        # The names are relative and the files next to each other: no layer is opened to make the next one.
        subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *backing, f"{layer}.qcow2", "64M"],
                       check=True, cwd=place)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {layer % 255 + 1} {layer * 64 * KIB} 64k",
                        "-c", "quit", f"json:{{\"driver\":\"qcow2\",\"backing\":null,\"file\":{{\"driver\":\"file\","
                        f"\"filename\":\"{layer}.qcow2\"}}}}"] if layer else
                       ["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 64k", f"{layer}.qcow2"],
                       check=True, cwd=place, stdout=subprocess.DEVNULL)
    return top


@benchmark("deep", 3)
def thousand_snapshots(contestant: Contestant, directory: Path) -> dict[str, float]:
    chain = deep_chain(directory)
    copy = directory / "chain"
    subprocess.run(["cp", "-r", str(chain.parent), str(copy)], check=True)
    label = f"chain of {LAYERS} snapshots"
    result = {}
    with Run(contestant, "system", directory) as run:
        begin = time.perf_counter()
        add_top(run.qmp, copy / chain.name)
        result[f"{label}: open (s)"] = time.perf_counter() - begin
        begin = time.perf_counter()
        run.qmp.execute("query-named-block-nodes", {"flat": True})
        result[f"{label}: query-named-block-nodes, flat (s)"] = time.perf_counter() - begin
        begin = time.perf_counter()
        run.qmp.execute("human-monitor-command", {"command-line": 'qemu-io top "read -q 0 64M"'})
        result[f"{label}: read all (s)"] = time.perf_counter() - begin
        begin = time.perf_counter()
        stream(run.qmp)
        result[f"{label}: stream (s)"] = time.perf_counter() - begin
    subprocess.run(["rm", "-r", str(copy)], check=True)
    return result


@benchmark("nodes", 3)
def two_thousand_nodes(contestant: Contestant, directory: Path) -> dict[str, float]:
    """On their own; and fewer that are all linked to one, of which QEMU's time grows with the cube."""
    alone = {"driver": "null-co", "size": MIB}
    linked = {"driver": "raw", "read-only": True, "file": "shared"}
    result = {}
    for count, definition in (NODES, alone), (NODES // 5, linked):
        label = f"{count} linked nodes" if definition is linked else f"{count} nodes"
        with Run(contestant, "daemon", directory) as run:
            if definition is linked:
                run.qmp.execute("blockdev-add", {**alone, "node-name": "shared"})
            begin = time.perf_counter()
            for number in range(count):
                run.qmp.execute("blockdev-add", {**definition, "node-name": f"n{number}"})
            result[f"{label}: blockdev-add (s)"] = time.perf_counter() - begin
            for command, arguments in [("query-named-block-nodes", {"flat": True}), ("x-debug-query-block-graph", {})]:
                begin = time.perf_counter()
                run.qmp.execute(command, arguments)
                result[f"{label}: {command} (ms)"] = (time.perf_counter() - begin) * 1e3
            begin = time.perf_counter()
            for number in range(count):
                run.qmp.execute("blockdev-del", {"node-name": f"n{number}"})
            result[f"{label}: blockdev-del (s)"] = time.perf_counter() - begin
    return result
