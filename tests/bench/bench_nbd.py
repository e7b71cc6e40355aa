"""Requests to the export of an allocated disk, raw and qcow2: small random ones, larger ones in sequence."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from contest import MIB, Contestant, benchmark
from traffic import cost, exported, fio, seconds

ALL_OF_IT = "--size=256m"


def allocated(directory: Path, format: str) -> Path:
    image = directory / f"disk.{format}"
    if not image.exists():
        raw = directory / "disk.raw"
        with open(raw, "wb") as out:
            out.write(os.urandom(256 * MIB))
        if format != "raw":
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, str(raw), str(image)], check=True)
    return image


@benchmark("nbd", 3)
def nbd(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    for format in ("raw", "qcow2"):
        with exported(contestant, directory, format, allocated(directory, format)) as (run, socket):
            for mode in ("randread", "randwrite"):
                for depth in (1, 16):
                    fio(socket, mode, depth, ALL_OF_IT, *seconds(1))
                    label = f"NBD 4 KiB {mode[4:]}, depth {depth:2}, {format}"
                    result |= cost(run, label, socket, mode, depth, ALL_OF_IT, *seconds(3))
            result[f"NBD 4 KiB requests, {format}: most memory (MiB)"] = run.peak_mib()
    return result


@benchmark("sequential", 3)
def sequential(contestant: Contestant, directory: Path) -> dict[str, float]:
    result = {}
    with exported(contestant, directory, "qcow2", allocated(directory, "qcow2")) as (run, socket):
        fio(socket, "read", 8, ALL_OF_IT, block="1m")
        for mode in ("read", "write"):
            for block, depth in (("64k", 1), ("64k", 8), ("1m", 4)):
                label = f"sequential {mode} of {block}, depth {depth}, qcow2"
                result |= cost(run, label, socket, mode, depth, ALL_OF_IT, *seconds(1), block=block)
        result["sequential requests, qcow2: most memory (MiB)"] = run.peak_mib()
    return result
