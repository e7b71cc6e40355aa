"""What is qcow2's own: allocation, compression, chains, tables of large disks, snapshots, the check.

The images are in the host's page cache in every case: a disk beneath would be measured instead of the servers. "Cold" is
a server that has just opened the image and has none of its tables.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

from bench_backup import backup
from contest import KIB, MIB, Contestant, Run, add_image, benchmark, run_to_end
from traffic import cost, exported, fio, replay, seconds

CLUSTER = 64 * KIB
TIB = 1 << 40


def create(path: Path, size: str, *options: str) -> Path:
    path.unlink(missing_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True)
    return path


def write_clusters(path: Path, offsets: list[int]) -> None:
    """Fills the clusters at these offsets, in this order."""
    script = "".join(f"write -q -P {1 + number % 250} {offset} {CLUSTER}\n" for number, offset in enumerate(offsets))
    subprocess.run(["qemu-io", "-t", "unsafe", "-f", "qcow2", str(path)], input=script, text=True, check=True,
                   stdout=subprocess.DEVNULL)


def touch(path: Path) -> None:
    """Reads the data of a file, so that the page cache has it."""
    position, end = 0, path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        while position < end:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole remains
                return
            hole = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            os.lseek(file.fileno(), position, os.SEEK_SET)
            while position < hole:
                position += len(file.read(min(16 * MIB, hole - position)))


# ---------------------------------------------------------------------- writes that allocate


@benchmark("allocate", 3)
def allocate(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    image = directory / "new.qcow2"
    for label, mode, block, depth, bounds in (
            ("sequential 64 KiB, depth 8", "write", "64k", 8, ["--size=128m"]),
            ("sequential 4 KiB, depth 1", "write", "4k", 1, ["--size=16m"]),
            ("one 4 KiB in each cluster, depth 1", "write", "4k", 1, None),
            ("one 4 KiB in each cluster, depth 16", "write", "4k", 16, None)):
        create(image, "512M")
        if bounds is None:
            bounds = replay(directory / "requests", "write", range(0, 512 * MIB, CLUSTER), seed=1)
        with exported(contestant, directory, "qcow2", image) as (run, socket):
            result |= cost(run, f"allocating write, {label}", socket, mode, depth, *bounds, block=block)
            result[f"allocating write, {label}: most memory (MiB)"] = run.peak_mib()
    image.unlink()
    return result


def compressible(directory: Path) -> Path:
    """64 MiB that zlib halves: every byte is one of sixteen, without repetitions."""
    path = directory.parent / "compressible.qcow2"
    if not path.exists():
        table = bytes(ord("a") + value % 16 for value in range(256))
        raw = directory.parent / "compressible.raw"
        raw.write_bytes(os.urandom(64 * MIB).translate(table))
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
        raw.unlink()
    touch(path)
    return path


@benchmark("compress", 3)
def compress(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    source = compressible(directory)
    for kind in ("zlib", "zstd"):
        target = create(directory / "compressed.qcow2", "64M", "-o", f"compression_type={kind}")
        with Run(contestant, "daemon", directory) as run:
            run.qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "source", "read-only": True,
                                             "file": {"driver": "file", "filename": str(source), "read-only": True}})
            add_image(run.qmp, "target", target, "qcow2")
            begin = time.perf_counter()
            backup(run.qmp, "source", "target", compress=True)
            label = f"compressed backup of 64 MiB, {kind}"
            result[f"{label} (s)"] = time.perf_counter() - begin
            result[f"{label}: server CPU (s)"] = run.cpu_seconds()
            result[f"{label}: most memory (MiB)"] = run.peak_mib()
        with exported(contestant, directory, "qcow2", target, writable=False) as (run, socket):
            label = f"sequential read of 64k compressed, {kind}, depth 8"
            result |= cost(run, label, socket, "read", 8, "--size=64m", block="64k")
        target.unlink()
    return result


# ---------------------------------------------------------------------- a chain


def chain_of_ten(directory: Path) -> Path:
    """256 MiB whose clusters lie anywhere in ten images."""
    images = [directory.parent / f"chain{number}.qcow2" for number in range(10)]
    if not images[-1].exists():
        clusters = list(range(0, 256 * MIB, CLUSTER))
        random.Random(1).shuffle(clusters)
        share = -(-len(clusters) // len(images))
        for number, image in enumerate(images):
            backing = ["-b", images[number - 1].name, "-F", "qcow2"] if number else []
            create(image, "256M", *backing)
            write_clusters(image, sorted(clusters[number * share : (number + 1) * share]))
    for image in images:
        touch(image)
    return images[-1]


@benchmark("chain", 3)
def chain(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    with exported(contestant, directory, "qcow2", chain_of_ten(directory), writable=False) as (run, socket):
        for label, mode, block, depth in (("4 KiB at random, depth 1", "randread", "4k", 1),
                                          ("4 KiB at random, depth 16", "randread", "4k", 16),
                                          ("1 MiB in sequence, depth 4", "read", "1m", 4)):
            fio(socket, mode, depth, "--size=256m", *seconds(1), block=block)
            label = f"read of a chain of 10, {label}"
            result |= cost(run, label, socket, mode, depth, "--size=256m", *seconds(1), block=block)
        result["reads of a chain of 10: most memory (MiB)"] = run.peak_mib()
    return result


# ---------------------------------------------------------------------- 1 TiB


def spread(directory: Path) -> tuple[Path, range]:
    """1 TiB with 4096 clusters, each of which needs another piece of another L2 table."""
    path, offsets = directory.parent / "spread.qcow2", range(0, TIB, 256 * MIB)
    if not path.exists():
        create(path, "1T")
        write_clusters(path, list(offsets))
    touch(path)
    return path, offsets


@benchmark("tebibyte", 3)
def tebibyte(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    image, offsets = spread(directory)
    for depth in (1, 16):
        with exported(contestant, directory, "qcow2", image, writable=False) as (run, socket):
            before = run.resident_mib()
            for state, passes in (("cold", 1), ("warm", 4)):
                bounds = replay(directory / "requests", "read", offsets, seed=depth)
                label = f"random 4 KiB read of 1 TiB, {state}, depth {depth:2}"
                result |= cost(run, label, socket, "read", depth, *bounds, f"--loops={passes}")
            if depth == 16:
                result["resident memory before the reads of 1 TiB (MiB)"] = before
                result["resident memory after the reads of 1 TiB (MiB)"] = run.resident_mib()
    return result


# ---------------------------------------------------------------------- snapshots and the check


def full(directory: Path, size: str) -> Path:
    """A disk all of whose clusters are allocated; what matters here is only its tables."""
    path = directory.parent / f"full-{size}.qcow2"
    if not path.exists():
        create(path, size, "-o", "preallocation=metadata")
    touch(path)
    return path


@benchmark("snapshot", 5)
def snapshot(contestant: Contestant, directory: Path) -> dict[str, float]:
    size = "64G"
    image = directory / "snapshot.qcow2"
    subprocess.run(["cp", "--sparse=always", str(full(directory, size)), str(image)], check=True)
    os.sync()
    result = {}
    with Run(contestant, "system", directory) as run:
        add_image(run.qmp, "disk", image, "qcow2")
        for name in ("first", "second"):
            begin = time.perf_counter()
            run.qmp.execute("blockdev-snapshot-internal-sync", {"device": "disk", "name": name})
            result[f"{name} snapshot of a full disk of {size} (ms)"] = (time.perf_counter() - begin) * 1e3
        begin = time.perf_counter()
        run.qmp.execute("blockdev-snapshot-delete-internal-sync", {"device": "disk", "name": "first"})
        result["... and its deletion (ms)"] = (time.perf_counter() - begin) * 1e3
        result["... server CPU of the three (ms)"] = run.cpu_seconds() * 1e3
        result["... most memory (MiB)"] = run.peak_mib()
    image.unlink()
    return result


@benchmark("check", 3)
def check(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for label, image in (("1 TiB, all allocated", full(directory, "1T")), ("1 TiB, 4096 clusters", spread(directory)[0])):
        ended = run_to_end([*contestant.check, "-q", "-f", "qcow2", str(image)])
        result[f"check of {label} (ms)"] = ended.seconds * 1e3
        result[f"check of {label}: CPU (ms)"] = ended.cpu_seconds * 1e3
        result[f"check of {label}: most memory (MiB)"] = ended.peak_mib
    return result
