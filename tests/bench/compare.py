#!/usr/bin/env python3
"""`./dev bench`: our times beside those of the installed QEMU, measured in turn in one run.

Every measurement is taken of both servers alternately, so that a machine whose speed drifts drifts for both; the medians
and their ratio (ours / QEMU's, smaller is better) are printed. Nothing is asserted: numbers are for people.

A virtual machine that gives its free memory back to its host (free page reporting) pays for every page that it takes again:
the same gigabyte is written in 0.9 s or in 2.7 s then, as it comes. Switch that off while you measure, and touch the memory
once: as root, `echo 11 > /sys/module/page_reporting/parameters/page_reporting_order` (a block that is never free).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import bench_backup  # noqa: F401  (each registers its benchmarks)
import bench_bitmaps  # noqa: F401
import bench_fleecing  # noqa: F401
import bench_jobs  # noqa: F401
import bench_monitor  # noqa: F401
import bench_nbd  # noqa: F401
import bench_qcow2  # noqa: F401
import bench_stream  # noqa: F401
import bench_throttle  # noqa: F401
from contest import BENCHMARKS, Contestant, median_of


def compare(name: str, ours: Contestant, theirs: Contestant, directory: Path) -> None:
    rounds, measure = BENCHMARKS[name]
    samples: dict[str, dict[str, list[float]]] = {ours.name: {}, theirs.name: {}}
    # Who goes first alternates too, so that both are as often the one that comes after the other.
    for round in range(rounds + rounds % 2):
        for contestant in (ours, theirs) if round % 2 == 0 else (theirs, ours):
            work = directory / contestant.name
            work.mkdir(exist_ok=True)
            for label, value in measure(contestant, work).items():
                samples[contestant.name].setdefault(label, []).append(value)
    for label, values in samples[ours.name].items():
        mine, other = median_of(values), median_of(samples[theirs.name][label])
        print(f"{label:<66} {mine:10.2f} {other:10.2f} {mine / other if other else float('nan'):7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("names", nargs="*", help=f"some of: {' '.join(BENCHMARKS)}")
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark '{name}'; there are: {' '.join(BENCHMARKS)}")
    server = str(options.server.resolve())
    ours = Contestant("blockbed", (server, "system"), (server, "daemon"), (server, "check"))
    theirs = Contestant("QEMU", ("qemu-system-x86_64",), ("qemu-storage-daemon",), ("qemu-img", "check"))
    directory = Path(tempfile.mkdtemp(prefix="blockbed-bench-"))
    print(f"{'median of each':<66} {'blockbed':>10} {'QEMU':>10} {'ratio':>7}")
    try:
        for name in options.names or BENCHMARKS:
            compare(name, ours, theirs, directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
