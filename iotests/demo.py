#!/usr/bin/env python3
"""The main job of Blockbed, shown and proven: a live backup from end to end.

Two disks with a real ext4 each, one qcow2 and one raw, are written all the time by two clients: fio overwrites
`load.bin` inside each file system, and a numbered writer appends records to `journal.bin`, on both disks in turn, one
write at a time. Then

  1. one transaction starts a backup of both disks;
  2. a fleecing export of a later instant is read while the disk goes on changing;
  3. programs that are not ours say what the copies are: e2fsck, qemu-img check, qemu-img compare, debugfs.

Because the numbered writer waits for each write before it sends the next, to whichever disk, the copies of one instant
must hold the records 1..k without a gap, k the same for both disks, and k must lie between what was acknowledged when
the command was sent and what had been sent when its reply came.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blockbed_iotests.nbd import Nbd  # noqa: E402
from blockbed_iotests.qmp import Qmp  # noqa: E402

MIB = 1 << 20
DISK_SIZE = 640 * MIB
LOAD_SIZE = 128 * MIB
JOURNAL_SIZE = 64 * MIB
# The journal is then good for half a minute; fio makes the load.
RECORDS_A_SECOND = 1000
RECORD = 4096
RECORD_MAGIC = b"blockbed record\n"


class Screen:
    """Steps with their time and rate; a bar while one is under way, when somebody watches."""

    LABEL = 46
    BAR = 30

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        # A line that a terminal wraps by itself is hard to read, and a bar on it cannot be drawn over.
        self._columns = max(shutil.get_terminal_size().columns, self.LABEL + 24) if self.live else 1000
        self._start = time.monotonic()

    def title(self, text: str) -> None:
        print(f"\n\033[1m{text}\033[0m" if self.live else f"\n{text}", flush=True)

    def bar(self, label: str, done: int, total: int) -> None:
        if not self.live:
            return
        width = min(self.BAR, self._columns - self.LABEL - 12)
        filled = width * done // max(total, 1)
        print(f"\r  {label:<{self.LABEL}} [{'#' * filled}{'.' * (width - filled)}] {100 * done // max(total, 1):3d} %", end="", flush=True)

    def line(self, label: str, seconds: float | None = None, size: int | None = None, detail: str = "") -> None:
        text = f"  {label:<{self.LABEL}}"
        if seconds is not None:
            text += f" {seconds:7.3f} s"
        if size is not None and seconds:
            text += f" {size / MIB / seconds:8.0f} MiB/s"
        if detail and len(text) + 2 + len(detail) <= self._columns:
            text += f"  {detail}"
        elif detail:
            indent = " " * 6
            text += "\n" + textwrap.fill(detail, self._columns, initial_indent=indent, subsequent_indent=indent)
        print(("\r\033[K" if self.live else "") + text.rstrip(), flush=True)

    @contextlib.contextmanager
    def step(self, label: str, size: int | None = None):
        start = time.monotonic()
        if self.live:
            print(f"  {label:<{self.LABEL}} ...", end="", flush=True)
        yield
        self.line(label, time.monotonic() - start, size)

    def elapsed(self) -> float:
        return time.monotonic() - self._start


def run(*command: str | Path, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nexit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


# ---------------------------------------------------------------------- disks


def source_tree() -> Path:
    """A real directory tree that is on every machine this runs on: Python's own library."""
    return Path(os.__file__).parent


def make_disk(directory: Path, name: str) -> Path:
    """An ext4 image made from the tree, with room for the two files that are written to."""
    image = directory / f"{name}.ext4"
    staging = directory / f"{name}.files"
    staging.mkdir()
    for file, size in (("load.bin", LOAD_SIZE), ("journal.bin", JOURNAL_SIZE)):
        with open(staging / file, "wb") as out:
            out.truncate(size)
            # Real blocks, not holes: the writers overwrite them in place, behind the file system's back.
            for at in range(0, size, MIB):
                out.seek(at)
                out.write(b"\xff" * MIB)
    shutil.copytree(source_tree(), staging / "tree", symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*-packages"))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-L", name, "-d", staging, image, f"{DISK_SIZE // 1024}k")
    shutil.rmtree(staging)
    return image


def extents_of(image: Path, file: str) -> list[tuple[int, int]]:
    """Where a file lies in an ext4 image: (offset, length) in bytes, in the order of the file."""
    block_size = int(run("dumpe2fs", "-h", image).split("Block size:")[1].split()[0])
    blocks = [int(b) for b in run("debugfs", "-R", f"blocks /{file}", image).splitlines()[-1].split()]
    extents: list[tuple[int, int]] = []
    for block in blocks:
        offset = block * block_size
        if extents and sum(extents[-1]) == offset:
            extents[-1] = (extents[-1][0], extents[-1][1] + block_size)
        else:
            extents.append((offset, block_size))
    return extents


class Disk:
    def __init__(self, name: str, image: Path, path: Path, format: str):
        self.name, self.path, self.format = name, path, format
        self.original = image
        self.journal = [offset + at for offset, length in extents_of(image, "journal.bin") for at in range(0, length, RECORD)]
        self.load = max(extents_of(image, "load.bin"), key=lambda extent: extent[1])


# ---------------------------------------------------------------------- writers


class NumberedWriter(threading.Thread):
    """Writes record 1, 2, 3, ... to the disks in turn, one at a time, until it is stopped or the journals are full; knows
    what was sent and what was acknowledged."""

    def __init__(self, socket: Path, disks: list[Disk]):
        super().__init__(daemon=True)
        self.socket, self.disks = socket, disks
        self.sent = self.acknowledged = 0
        self.failure: Exception | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            clients = [Nbd(self.socket, disk.name) for disk in self.disks]
            room = len(self.disks) * min(len(disk.journal) for disk in self.disks)
            while self.sent < room and not self._ending.wait(1 / RECORDS_A_SECOND):
                number = self.sent + 1
                disk, slot = (number - 1) % len(self.disks), (number - 1) // len(self.disks)
                record = (RECORD_MAGIC + struct.pack("<Q", number)).ljust(RECORD, b"\0")
                self.sent = number
                clients[disk].pwrite(record, self.disks[disk].journal[slot])
                self.acknowledged = number
            for client in clients:
                client.close()
        except Exception as error:  # reported by stop(): a thread has nobody to raise to
            self.failure = error

    def stop(self) -> None:
        self._ending.set()
        self.join()
        if self.failure is not None:
            raise SystemExit(f"the numbered writer failed: {self.failure}")


def start_fio(socket: Path, disk: Disk, directory: Path) -> subprocess.Popen:
    offset, length = disk.load
    return subprocess.Popen(
        ["fio", "--name=load", "--ioengine=nbd", f"--uri=nbd+unix:///{disk.name}?socket={socket}", "--rw=randwrite",
         "--bs=4k", "--iodepth=4", f"--offset={offset}", f"--size={length}", "--time_based=1", "--runtime=600",
         "--rate_iops=4000", "--randrepeat=0", "--thread=1", "--output-format=json", f"--output={directory / (disk.name + '.fio')}"],
        cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )


def stop_fio(process: subprocess.Popen, disk: Disk, directory: Path) -> int:
    """Ends fio; the number of writes that it had acknowledged."""
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1].decode()
    report = (directory / (disk.name + ".fio")).read_text()
    with contextlib.suppress(ValueError):
        return json.loads(report[report.index("{") :])["jobs"][0]["write"]["total_ios"]
    raise SystemExit(f"fio failed: {error or report}")


# ---------------------------------------------------------------------- proofs


def records_in(image: Path, disk: Disk) -> list[int]:
    """The numbers of the records that the journal of a raw image holds, in the order of the file."""
    extracted = image.with_suffix(".journal")
    run("debugfs", "-R", f"dump /journal.bin {extracted}", image)
    data = extracted.read_bytes()
    extracted.unlink()
    numbers = []
    for at in range(0, len(data), RECORD):
        if data[at : at + len(RECORD_MAGIC)] == RECORD_MAGIC:
            numbers.append(struct.unpack_from("<Q", data, at + len(RECORD_MAGIC))[0])
        elif data[at : at + RECORD] != b"\xff" * RECORD:
            raise SystemExit(f"{image}: a torn record at {at}")
    return numbers


def prove_instant(screen: Screen, what: str, images: dict[Disk, Path], disks: list[Disk], low: int, high: int) -> None:
    found = sorted(number for disk, image in images.items() for number in records_in(image, disk))
    last = found[-1] if found else 0
    mine = [n for n in range(1, last + 1) if disks[(n - 1) % len(disks)] in images]
    if found != mine:
        raise SystemExit(f"{what}: the records are not 1..{last} without a gap")
    # With one disk of two the instant is known to within one record of the other.
    if not low - len(disks) + len(images) <= last <= high:
        raise SystemExit(f"{what}: the last record is {last}, but it must lie between {low} and {high}")
    screen.line(f"{what}: journal", detail=f"records 1..{last} without a gap; {low} were acknowledged, {high} sent")


def prove_file_system(screen: Screen, what: str, image: Path) -> None:
    checked = run("e2fsck", "-fn", image)
    summary = [line for line in checked.splitlines() if " files " in line]
    screen.line(f"{what}: e2fsck -fn", detail=f"clean: {summary[-1].split(': ')[1] if summary else ''}")
    name = "tree/argparse.py"
    content = subprocess.run(
        ["debugfs", "-R", f"cat /{name}", str(image)], capture_output=True, check=True).stdout
    if content != (source_tree() / "argparse.py").read_bytes():
        raise SystemExit(f"{what}: {name} is not the file that was put in")
    screen.line(f"{what}: debugfs cat {name}", detail=f"{len(content)} bytes, as put in")


def golden(disk: Disk, copy: Path, records: int, disks: list[Disk], target: Path) -> Path:
    """The disk of the instant as it must be: the original, the first `records` records, and fio's file as in the copy."""
    run("cp", "--sparse=always", disk.original, target)
    with open(target, "r+b") as out, open(copy, "rb") as source:
        offset, length = disk.load
        source.seek(offset)
        out.seek(offset)
        out.write(source.read(length))
        for number in range(1, records + 1):
            if disks[(number - 1) % len(disks)] is not disk:
                continue
            out.seek(disk.journal[(number - 1) // len(disks)])
            out.write((RECORD_MAGIC + struct.pack("<Q", number)).ljust(RECORD, b"\0"))
    return target


# ---------------------------------------------------------------------- the show


def wait_for_jobs(qmp: Qmp, screen: Screen, jobs: set[str], label: str) -> None:
    """Waits for BLOCK_JOB_COMPLETED of all of them, with a bar meanwhile."""
    left = set(jobs)
    while left:
        running = [job for job in qmp.execute("query-block-jobs") if job["device"] in left]
        screen.bar(label, sum(job["offset"] for job in running), sum(job["len"] for job in running))
        with contextlib.suppress(TimeoutError):
            event = qmp.wait_event("BLOCK_JOB_COMPLETED", timeout=0.1)
            if "error" in event["data"]:
                raise SystemExit(f"job {event['data']['device']} failed: {event['data']['error']}")
            left.discard(event["data"]["device"])


def nbdcopy(screen: Screen, label: str, uri: str, copy: Path) -> None:
    """Its progress comes over a pipe, as lines like `17/100`."""
    reading, writing = os.pipe()
    command = ["nbdcopy", f"--progress={writing}", uri, str(copy)]
    with open(reading) as lines:
        with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.PIPE, text=True) as process:
            os.close(writing)
            for line in lines:
                done, _, total = line.strip().partition("/")
                screen.bar(label, int(done), int(total))
            errors = process.stderr.read()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nexit status {process.returncode}\n{errors}")


def show(server: Path, directory: Path) -> None:
    screen = Screen()
    print("Blockbed: a live backup, from end to end")

    screen.title("Two disks with a real file system each")
    with screen.step("mke2fs -d, twice"):
        images = [make_disk(directory, name) for name in ("alpha", "beta")]
    with screen.step("alpha as qcow2, beta as raw", 2 * DISK_SIZE):
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", images[0], directory / "alpha.qcow2")
        run("cp", "--sparse=always", images[1], directory / "beta.raw")
    disks = [Disk("alpha", images[0], directory / "alpha.qcow2", "qcow2"), Disk("beta", images[1], directory / "beta.raw", "raw")]
    alpha, beta = disks

    screen.title("The server")
    start = time.monotonic()
    monitor, exports = directory / "monitor.sock", directory / "nbd.sock"
    process = subprocess.Popen(
        [str(server), "system", "-machine", "none", "-nodefaults", "-display", "none",
         "-qmp", f"unix:{monitor},server=on,wait=off"], cwd=directory, stdin=subprocess.DEVNULL)
    writers: list[subprocess.Popen] = []
    try:
        qmp = Qmp.connect(monitor)
        screen.line("start to greeting", time.monotonic() - start)
        with screen.step("two disks and a writable export of each"):
            for disk in disks:
                qmp.execute("blockdev-add", {"driver": disk.format, "node-name": disk.name,
                                             "file": {"driver": "file", "filename": str(disk.path)}})
            qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(exports)}}})
            for disk in disks:
                qmp.execute("block-export-add", {"type": "nbd", "id": f"export-{disk.name}", "node-name": disk.name,
                                                 "name": disk.name, "writable": True})

        writers = [start_fio(exports, disk, directory) for disk in disks]
        numbered = NumberedWriter(exports, disks)
        numbered.start()
        while numbered.acknowledged < 500 and numbered.failure is None:
            numbered.join(0.01)
        screen.line("writers", detail="fio on each disk (4 KiB, random), numbered records on both in turn")

        screen.title("One transaction backs up both disks while they are written")
        for disk in disks:
            target = directory / f"{disk.name}-backup.qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", target, str(DISK_SIZE))
            qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": f"{disk.name}-target",
                                         "file": {"driver": "file", "filename": str(target)}})
        low = numbered.acknowledged
        start = time.monotonic()
        qmp.execute("transaction", {"actions": [
            {"type": "blockdev-backup", "data": {"job-id": f"backup-{disk.name}", "device": disk.name,
                                                 "target": f"{disk.name}-target", "sync": "full"}}
            for disk in disks]})
        high = numbered.sent
        screen.line("transaction", time.monotonic() - start, detail="the instant of both disks")
        wait_for_jobs(qmp, screen, {f"backup-{disk.name}" for disk in disks}, "backup of both disks")
        screen.line("backup of both disks", time.monotonic() - start, 2 * DISK_SIZE,
                    detail=f"{numbered.acknowledged - low} records were written meanwhile")
        for disk in disks:
            qmp.execute("blockdev-del", {"node-name": f"{disk.name}-target"})

        screen.title("A fleecing export of a second instant, by the classic steps")
        scratch = directory / "scratch.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", scratch, str(DISK_SIZE))
        answer = qmp.execute("human-monitor-command", {
            "command-line": f"drive_add 0 if=none,id=fleece,file={scratch},format=qcow2,backing=alpha"})
        if answer.strip() != "OK":
            raise SystemExit(f"drive_add: {answer}")
        fleece_low = numbered.acknowledged
        qmp.execute("blockdev-backup", {"job-id": "fleecing", "device": "alpha", "target": "fleece", "sync": "none"})
        fleece_high = numbered.sent
        qmp.execute("nbd-server-add", {"device": "fleece"})
        copies = [directory / "fleece-1.raw", directory / "fleece-2.raw"]
        for index, copy in enumerate(copies):
            before = numbered.acknowledged
            start = time.monotonic()
            label = f"nbdcopy of the fleece, reading {index + 1}"
            nbdcopy(screen, label, f"nbd+unix:///fleece?socket={exports}", copy)
            screen.line(label, time.monotonic() - start, DISK_SIZE,
                        detail=f"{numbered.acknowledged - before} records were written meanwhile")
        qmp.execute("nbd-server-remove", {"name": "fleece"})
        qmp.execute("block-job-complete", {"device": "fleecing"})
        qmp.wait_event("BLOCK_JOB_COMPLETED", {"device": "fleecing"})
        qmp.execute("human-monitor-command", {"command-line": "drive_del fleece"})
        screen.line("block-job-complete, drive_del", detail="the scratch space is gone again")

        numbered.stop()
        counts = [stop_fio(writer, disk, directory) for writer, disk in zip(writers, disks)]
        writers = []
        screen.line("writers ended", detail=f"{numbered.acknowledged} records, {sum(counts)} writes by fio, none failed")
        qmp.execute("quit")
        if process.wait(10) != 0:
            raise SystemExit(f"the server ended with status {process.returncode}")
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
        if process.poll() is None:
            process.kill()
            process.wait()

    screen.title("What programs that are not ours say of the copies")
    for image in (alpha.path, directory / "alpha-backup.qcow2", directory / "beta-backup.qcow2"):
        run("qemu-img", "check", "-q", image)
    screen.line("qemu-img check, three qcow2 images", detail="no errors were found")
    raw = {}
    for disk in disks:
        raw[disk] = directory / f"{disk.name}-backup.raw"
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", directory / f"{disk.name}-backup.qcow2", raw[disk])
        prove_file_system(screen, f"backup of {disk.name}", raw[disk])
    prove_instant(screen, "backup of both disks", raw, disks, low, high)
    records = max(number for disk in disks for number in records_in(raw[disk], disk))
    for disk in disks:
        expected = golden(disk, raw[disk], records, disks, directory / "golden.raw")
        run("qemu-img", "compare", "-q", expected, directory / f"{disk.name}-backup.qcow2")
        screen.line(f"backup of {disk.name}: qemu-img compare", detail="identical to the original plus those records")
    prove_file_system(screen, "fleece of alpha", copies[0])
    prove_instant(screen, "fleece of alpha", {alpha: copies[0]}, disks, fleece_low, fleece_high)
    run("qemu-img", "compare", "-q", *copies)
    screen.line("fleece of alpha: qemu-img compare", detail="both readings are identical, though the disk had changed")
    print(f"\nAll proven in {screen.elapsed():.1f} s.")


def main() -> None:
    parser = argparse.ArgumentParser(description="A live backup, shown and proven.")
    parser.add_argument("--server", type=Path, required=True, help="the blockbed program")
    parser.add_argument("--keep", action="store_true", help="leave the images behind and say where")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="blockbed-demo-"))
    try:
        show(options.server.resolve(), directory)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        if options.keep:
            print(f"The images are in {directory}")
        else:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
