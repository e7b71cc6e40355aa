"""Blockbed beside the installed QEMU: command lines, reports and the human monitor must say the same.

Run: pytest tests/machine/compare_with_qemu.py --blockbed build/dev/blockbed
Each test starts both programs with the same arguments and compares what they print, once what differs by nature
(versions, generated names, times, sizes on the host) is taken out. The order of keys counts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
QEMU = {"system": shutil.which("qemu-system-x86_64"), "daemon": shutil.which("qemu-storage-daemon")}
NAMES = {"system": "qemu-system-x86_64", "daemon": "qemu-storage-daemon"}

pytestmark = pytest.mark.skipif(None in QEMU.values(), reason="the installed QEMU is the yardstick")


def blockbed() -> Path:
    given = os.environ.get("BLOCKBED")
    if given:
        return Path(given).resolve()
    builds = [path for path in ROOT.glob("build/*/blockbed") if path.is_file()]
    if not builds:
        pytest.skip("no blockbed is built; say which one with BLOCKBED=PATH")
    return max(builds, key=lambda path: path.stat().st_mtime)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory with a base, an overlay, a raw image, and a link to Blockbed for each manner of starting."""
    run = lambda *words: subprocess.run(words, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    run("qemu-img", "create", "-f", "qcow2", "base.qcow2", "4M")
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
    run("qemu-img", "create", "-f", "raw", "disk.raw", "1M")
    for name in NAMES.values():
        (tmp_path / name).symlink_to(blockbed())
    return tmp_path


def normalise(text: str, directory: Path) -> str:
    text = text.replace("\r", "").replace(str(directory), "DIR")
    numbers: dict[str, str] = {}
    text = re.sub(r"#block\d+", lambda match: numbers.setdefault(match[0], f"#block{len(numbers)}"), text)
    text = re.sub(r'"(actual-size|seconds|microseconds|thread-id|idle_time_ns)": \d+', r'"\1": 0', text)
    text = re.sub(r'"package": "[^"]*"', '"package": ""', text)
    text = re.sub(r"disk size: .*", "disk size: X", text)
    text = re.sub(r"/machine/unattached/device\[\d+\]", "/machine/unattached/device[N]", text)
    return re.sub(r"\([^()]*/sec and [^()]* ops/sec\)", "(RATE)", re.sub(r"\b00\.\d\d sec", "00.00 sec", text))


def run(program: Path | str, args: list[str], directory: Path, commands: list, manner: str) -> str:
    """All that the program prints, standard error behind standard output, and its exit status."""
    lines = ['{"execute": "qmp_capabilities"}']
    lines += [command if command.startswith("{") else json.dumps({"execute": command}) for command in commands]
    lines += ['{"execute": "quit"}']
    if manner == "system":
        base = ["-nodefaults", "-display", "none", "-qmp", "stdio"]
    else:
        base = ["--chardev", "stdio,id=m", "--monitor", "m"]
    result = subprocess.run(
        [program, *base, *args], cwd=directory, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=30
    )
    return normalise(f"{result.stdout}{result.stderr}exit status {result.returncode}\n", directory)


def compare(images: Path, args: list[str], commands: list, manner: str = "system") -> str:
    theirs = run(QEMU[manner], args, images, commands, manner)
    ours = run(images / NAMES[manner], args, images, commands, manner)
    assert ours.splitlines() == theirs.splitlines()
    return ours


def human(line: str) -> str:
    return json.dumps({"execute": "human-monitor-command", "arguments": {"command-line": line}})


QUERIES = [
    "query-block",
    "query-named-block-nodes",
    '{"execute": "query-named-block-nodes", "arguments": {"flat": true}}',
    "query-blockstats",
    '{"execute": "query-blockstats", "arguments": {"query-nodes": true}}',
]
HUMAN_QUERIES = [human("info block"), human("info block -v"), human("info block -n"), human("info block -n -v")]

CHAINS = {
    "nothing": [],
    "null": ["null-co,node-name=n,read-zeroes=on"],
    "raw": ["driver=raw,node-name=r,file.driver=file,file.filename=disk.raw"],
    "qcow2": ["driver=qcow2,node-name=q,file.driver=file,file.filename=base.qcow2,discard=unmap"],
    "chain": ["driver=qcow2,node-name=q,file.driver=file,file.filename=top.qcow2"],
    "json": ['{"driver": "qcow2", "node-name": "q", "read-only": true, "file": {"driver": "file", "filename": "base.qcow2", "node-name": "f"}}'],
}


@pytest.mark.parametrize("manner", ["system", "daemon"])
@pytest.mark.parametrize("chain", CHAINS)
def test_reports_of_nodes(images: Path, chain: str, manner: str):
    option = "-blockdev" if manner == "system" else "--blockdev"
    args = [word for blockdev in CHAINS[chain] for word in (option, blockdev)]
    compare(images, args, QUERIES + (HUMAN_QUERIES if manner == "system" else []), manner)


@pytest.mark.parametrize(
    "args",
    [
        ["-drive", "if=none,id=d,file=top.qcow2,format=qcow2"],
        ["-drive", "if=none,id=d,file=disk.raw,format=raw,cache=writethrough,read-only=on"],
        ["-drive", "if=none"],
        ["-drive", "if=virtio,file=disk.raw,format=raw"],
        ["-drive", "if=none,driver=null-co,read-zeroes=on,node-name=null"],
        ["-blockdev", "null-co,node-name=n,read-zeroes=on", "-device", "virtio-blk-pci,drive=n,id=v"],
        ["-blockdev", "null-co,node-name=n,read-zeroes=on", "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=n,id=s"],
        ["-blockdev", "null-co,node-name=n,read-zeroes=on", "-device", "ide-hd,drive=n"],
        ["-device", "ide-cd,id=cd", "-device", "floppy"],
        ["-drive", "if=none,id=d,driver=null-co", "-device", "virtio-blk-pci,drive=d,write-cache=off"],
    ],
    ids=lambda args: " ".join(args),
)
def test_reports_of_drives_and_devices(images: Path, args: list[str]):
    compare(images, args, QUERIES + HUMAN_QUERIES)


@pytest.mark.parametrize(
    "args",
    [
        ["-nonsense"],
        ["-drive"],
        ["-drive", "file=top.qcow2,format=foo"],
        ["-drive", "file=top.qcow2,driver=raw,format=qcow2"],
        ["-drive", "file=top.qcow2,format=qcow2,unknown_opt=on"],
        ["-drive", "file=top.qcow2,format=qcow2,file.unknown_opt=on"],
        ["-drive", "file=top.qcow2,cache=sometimes"],
        ["-drive", "driver=file"],
        ["-drive", "foo=bar"],
        ["-drive", "file=top.qcow2,iops=1,throttling.iops-total=2"],
        ["-drive", "file=top.qcow2,bps=-2"],
        ["-drive", "file=top.qcow2,throttling.bps-total=1,throttling.bps-read=1"],
        ["-drive", "file=top.qcow2,iops=1,iops_max=2,throttling.iops-total-max-length=-1"],
        ["-drive", "file=top.qcow2,stats-intervals.0=0"],
        ["-drive", "file=top.qcow2,stats-intervals.0=1,stats-intervals.1=4294967296"],
        ["-drive", "file=top.qcow2,stats-intervals.1=5"],
        ["-drive", "driver=throttle,throttle-group=nope,file.driver=null-co"],
        ["-drive", "file=top.qcow2,if=nothing"],
        ["-drive", "file=top.qcow2,if=none,index=1,unit=1"],
        ["-drive", "if=none,id=a", "-drive", "if=none,id=a"],
        ["-drive", "if=none,werror=sometimes"],
        ["-blockdev", "driver=file"],
        ["-blockdev", "driver=foo,node-name=x"],
        ["-blockdev", "{"],
        ["-chardev", "foo,id=x"],
        ["-chardev", "null"],
        ["-mon", "chardev=zz"],
        ["-object", "foo,id=x"],
        ["-object", "iothread"],
        ["-object", "iothread,id=a", "-object", "iothread,id=a"],
        ["-device", "foo"],
        ["-device", "virtio-blk-pci,drive=nope"],
        ["-device", "virtio-blk-pci,foo=1"],
        ["-device", "scsi-hd"],
        ["-device", "ide-hd"],
        ["-device", "floppy,unit=7"],
        ["-machine", "foo"],
        ["-accel", "foo"],
        ["-uuid", "x"],
    ],
    ids=lambda args: " ".join(args),
)
def test_complaints(images: Path, args: list[str]):
    theirs = run(QEMU["system"], args, images, [], "system")
    ours = run(images / NAMES["system"], args, images, [], "system")
    assert ours.splitlines() == theirs.splitlines()
    assert theirs.endswith("exit status 1\n"), "the test is about a mistake"


IO = [
    "write -P 1 0 64k", "read -P 1 0 64k", "read -v 65530 20", "read -P 2 0 1k", "read -P 1 -s 10 -l 5 0 64k", "write -z 64k 64k",
    "write -z -u 0 64k", "write -u 0 1", "write -z -P 1 0 64k", "write -q 0 512", "writev -P 3 0 512 512 1k", "readv -v 0 8 8",
    "discard 0 64k", "flush", "aio_flush", "map", "alloc 0", "alloc 0 128k", "alloc 0 2M", "length", "truncate 8M", "length",
    "info", "read", "read 0", "read a b", "read -Z 0 1", "read 0 30M", "read 0 1000000000000", "write -P 256 0 1",
    "write -s /nonexist 0 512", "read -s 1 0 10", "read -s 9 -l 9 -P 1 0 10", "write -n 0 1", "truncate -m foo 1M", "nonsense",
    "flush x", "discard", "write -c -P 7 1M 64k", "read -P 7 1M 64k",
]


@pytest.mark.parametrize("image, driver", [("top.qcow2", "qcow2"), ("disk.raw", "raw")])
def test_qemu_io(images: Path, image: str, driver: str):
    for server in ("theirs", "ours"):
        (images / server).mkdir()
        for name in ("base.qcow2", image):
            shutil.copy(images / name, images / server / name)
    commands = [human(f'qemu-io q "{command}"') for command in IO]
    args = ["-blockdev", f"driver={driver},node-name=q,file.driver=file,file.filename={image}"]
    theirs = run(QEMU["system"], args, images / "theirs", commands, "system")
    ours = run(images / NAMES["system"], args, images / "ours", commands, "system")
    assert ours.splitlines() == theirs.splitlines()
