#!/usr/bin/env python3
"""Lays Blockbed's reading of arguments beside QEMU's: the same mistakes must be refused in the same words.

Three sets: the cases that the schema generates for every command, hand-picked ones for what a rule cannot say (places
in arrays, branches, what wins when two things are wrong), and command line options of the form a.b=c.

    compare_arguments.py DRIVER

Exit status 77 (skipped) when QEMU is not installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The module stands alone; its package wants libraries that a comparison does not need.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "iotests/blockbed_iotests"))
import qmp_types  # noqa: E402

SYSTEM = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
DAEMON = "qemu-storage-daemon"

INET = {"type": "inet", "host": "h", "port": "1"}
QUORUM = {"driver": "quorum", "node-name": "n", "vote-threshold": 1}

# Refused by both, in the same words.
PICKED: list[tuple[str, dict]] = [
    ("blockdev-add", {}),
    ("blockdev-add", {"driver": "raw", "file": {}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "file"}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "file", "filename": 5}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "no such driver"}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "file", "filename": "x", "zz": 1}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "raw", "file": {"driver": "raw", "file": 7}}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "raw", "file": {"driver": "raw", "file": {"zz": 1}}}}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 2**64}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n", "latency-ns": 2**64}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n", "latency-ns": 1.0}),
    ("blockdev-add", {"driver": "nbd", "node-name": "n", "server": INET, "reconnect-delay": 2**32}),
    ("blockdev-add", {"driver": "nbd", "node-name": "n", "server": {**INET, "to": 65536}}),
    ("blockdev-add", {"driver": "nbd", "node-name": "n", "server": {**INET, "to": -1}}),
    ("blockdev-add", {"driver": "nbd", "node-name": "n", "server": {**INET, "ipv4": "on"}}),
    ("blockdev-add", {"driver": "nbd", "node-name": "n", "server": {**INET, "path": "p"}}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "x", "backing": 5}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "x", "backing": []}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "x", "overlap-check": 5}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "x", "overlap-check": "zz"}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "x", "overlap-check": {"template": "zz"}}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "x", "encrypt": {"format": "luks", "zz": 5}}),
    ("blockdev-add", {**QUORUM, "children": 5}),
    ("blockdev-add", {**QUORUM, "children": [5]}),
    ("blockdev-add", {**QUORUM, "children": [{"driver": "zz"}]}),
    ("blockdev-add", {**QUORUM, "children": ["a", {"driver": "raw", "file": {"driver": "null-co", "size": "a"}}]}),
    # The first mistake in the schema's order wins, and what is unexpected comes last.
    ("blockdev-add", {"zz": 1, "driver": "raw"}),
    ("blockdev-add", {"zz": 1, "driver": "raw", "file": {"zz": 1}}),
    ("blockdev-add", {"zz": 1, "driver": "raw", "file": {"driver": "null-co", "zz": 1}}),
    ("blockdev-add", {"driver": "raw", "read-only": 5, "node-name": 5, "file": 5}),
    ("blockdev-add", {"driver": "null-co", "node-name": 5, "read-only": 5}),
    ("blockdev-reopen", {"options": {}}),
    ("blockdev-reopen", {"options": [5]}),
    ("blockdev-reopen", {"options": [{"driver": "null-co"}, {"driver": "file", "filename": 7}]}),
    ("transaction", {"actions": [{}]}),
    ("transaction", {"actions": [{"type": "zz"}]}),
    ("transaction", {"actions": [{"type": "abort", "data": 5}]}),
    ("transaction", {"actions": [{"type": "abort", "data": {"a": 1}}]}),
    ("transaction", {"actions": [{"type": "abort"}]}),
    ("transaction", {"actions": [{"type": "abort", "data": {}}, {"type": "blockdev-snapshot", "data": {"node": 4}}]}),
    ("transaction", {"properties": {"completion-mode": "zz"}, "actions": []}),
    ("transaction", {"properties": 5, "actions": []}),
    ("transaction", {"actions": [{"type": "block-dirty-bitmap-merge", "data": {"node": "a", "target": "b",
                                                                              "bitmaps": ["c", {"node": 5}]}}]}),
    ("migrate-set-parameters", {"tls-creds": 5}),
    ("migrate-set-parameters", {"tls-creds": None, "compress-level": 256}),
    ("block-latency-histogram-set", {"id": "x", "boundaries": ["a"]}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {}}}),
    ("nbd-server-start", {"addr": {"type": "unix"}}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "p"}}, "max-connections": -1}),
    ("block-export-add", {"type": "nbd", "id": "a", "node-name": "x", "bitmaps": [5]}),
    ("block-export-add", {"type": "nbd", "id": "a", "node-name": "x", "bitmaps": [{"node": 5}]}),
    ("blockdev-add", {"driver": "blkdebug", "image": "x", "inject-error": [{"event": "zz"}]}),
    ("blockdev-add", {"driver": "blkdebug", "image": "x", "inject-error": [{"event": "none", "errno": "a"}]}),
    ("object-add", {"qom-type": "throttle-group", "id": "a", "limits": {"zz": 1}}),
    ("object-add", {"qom-type": "throttle-group", "id": "a", "limits": {"bps-total": "1k"}}),
    ("send-key", {"keys": [{"type": "number", "data": "a"}]}),
    ("chardev-add", {"id": "a", "backend": {"type": "null", "data": {"zz": 1}}}),
]

# Members of later QEMUs, and our own, which 7.2 does not know.
LATER_MEMBERS = {
    ("blockdev-add", "discard-no-unref"), ("blockdev-add", "internal-snapshot"), ("block-export-add", "x-guest-device"),
}

# What QEMU takes although it looks wrong, so Blockbed does too. (Nothing comes of these: the node does not exist.)
TAKEN: list[tuple[str, dict]] = [
    ("block-latency-histogram-set", {"id": "x", "boundaries": [-1]}),
    ("blockdev-del", {"node-name": ""}),
]

# Option, its text, and the command whose arguments it gives.
KEYVAL: list[tuple[str, str]] = [("--blockdev", text) for text in (
    "driver", "=", "=x", "a", "", "driver=null-co,,", "driver=null-co,size=1k,node-name=a",
    "driver=null-co,size=abc", "driver=null-co,size=1.5", "driver=null-co,size=", "driver=null-co,read-zeroes=1",
    "driver=null-co,read-zeroes=", "driver=null-co,read-zeroes=TRUE", "driver=null-co,latency-ns=abc",
    "driver=null-co,latency-ns=5k", "driver=null-co,latency-ns=18446744073709551616",
    "driver=null-co,latency-ns=-18446744073709551616", "driver=null-co,latency-ns=5 ", "driver=null-co,latency-ns=0x",
    "driver=null-co,latency-ns=08", "driver=null-co,latency-ns=", "driver=null-co,latency-ns=1e3",
    "driver=null-co,zz=1", "driver=null-co,zz.a=1", "driver.x=null-co", "driver=null-co,driver.x=1",
    "driver.x=1,driver=null-co", "driver=null-co,cache=5", "driver=null-co,cache.direct=zz",
    "driver=null-co,cache.zz=on", "driver=raw", "driver=raw,file.driver=null-co,file.zz=1",
    "driver=raw,file.driver=null-co,file.size.x=1", "driver=quorum,children.0=a,children.2=b,vote-threshold=1",
    "driver=quorum,children.0=a,children.x=b,vote-threshold=1", "driver=quorum,children=a,vote-threshold=1",
    "driver=quorum,children.1=a,vote-threshold=1", "driver=quorum,children.99999999999999999999=a,vote-threshold=1",
    "driver=quorum,children.0=a,vote-threshold=1,children.0.x=1", "driver=quorum,children.0=a,children.00=b,children.1=c",
    "driver=quorum,children.0=a,children.00=b,children.3=c", "driver=quorum,children.0.0=a,vote-threshold=1",
    "driver=quorum,children.0.driver=zz,vote-threshold=1", "driver=quorum,children.0=a,vote-threshold=x",
    "driver=quorum,children.1.x=a,children.0.driver=null-co,children.0.size=z,vote-threshold=1",
    "..=1", "a..b=1", "a.=1", ".a=1", "a b=1", "a_b=1", "1=1", "9a=1", "-a=1", "a-=1", "a.-1=1", "a.1-=1", "a._=1", "_a=1",
    "__a=1", "__a.b_=1", "__a.b_c=1", "__a_b=1", "__.a_b=1", "__a.b_c.d=1", "__a.b_c.1=1", "__1.b_c=1", "__a..b_c=1",
    "__a.b_1c=1", "a.__b.c_d=1", "a.1=1", "a.1.=1", "a.1b=1", "a.b.1=1", "a.0=1,a.00=2", "é=1", "a\n=1", "raw,0=1",
    "raw,0.a=1", "driver=null-co,node-name", "null-co,size=5,b", "driver=null-co,a=b=c", "driver=raw,help=1",
    "driver=null-co,=1", "a,=1", "a,,b", "a,,b=1", ",", ",a=1", "driver=null-co,,,a=1", "helpx", "driver=help", "a.help",
    "help,,", "help=", "?=1", "=help", "help,zz..", "driver=null-co,help,zz", "a=1,a.b", "a.b=1,a", "a.b=1,a=2,help",
    "a.b=1,a.b.c=2", "a.b.c=2,a.b=1", "a.0.b=1,a.0=3", "help", "?", "help,", "zz=1,help", "zz..,help",
    "x" * 200 + "=1", "x" * 128, "x" * 128 + "=1", "a." + "x" * 128 + "=1", "a." + "1" * 128 + "=1", "x" * 128 + ".a=1",
    "a." + "1" * 127 + "=1",
    "driver=nbd,server.type=inet,server.host=h,server.port=1,server.to=70000",
    "driver=nbd,server.type=inet,server.host=h,server.port=1,server.to=a",
    "driver=nbd,server.type=inet,server.host=h,server.port=1,reconnect-delay=4294967296", "driver=nbd,server.type=zz",
    "driver=nbd,server=5", "driver=nbd,server.x=1", "driver=qcow2,file=x,cache-size=1.5",
    "driver=raw,file=x,offset=9223372036854775808", "driver=raw,file=x,offset=-9223372036854775809",
    "driver=qcow2,file=x,overlap-check.0=1", "driver=qcow2,file=x,overlap-check.template.x=1", "driver=qcow2,file.0=x",
)] + [("--object", text) for text in (
    "qom-type=secret", "zz", "throttle-group,id=a,x-bps-total=zz", "throttle-group,id=a,limits.bps-total=1k",
    "throttle-group,id=a,limits=7", "secret,id=a,zz=1", "memory-backend-ram,id=a,host-nodes=1-3,size=1M",
    "memory-backend-ram,id=a,host-nodes.0=x,size=1M", "memory-backend-ram,id=a,host-nodes.0=70000,size=1M",
    "memory-backend-ram,id=a,host-nodes.1=1,size=1M",
)] + [("--object", f"memory-backend-ram,id=a,size={size}") for size in (
    "zz", "-1", "1.5G", "1e3", "20E", "1.1", "0x10", "1kk", "", "16E", "1b", "1.k", ".5k", "inf", "1.0", " 1", "+1", "1 ",
    "1.5b", "0.5k", "0x", "0x1.8k", "0x1E", "1E", "15.9E", "18446744073709551615",
    "18446744073709551616", "18446744073709551615B", "1.", "1..", ".", "k", "00010", "1t", "1.5e3", "0.1", "0.0", "1.5.5k",
    "-0", "0X10", "0x10b", "16383P", "16384P", "1.9999999999999999999999E", "nan", "1\t", "0b1", "1e",
)]
COMMAND = {"--blockdev": "blockdev-add", "--object": "object-add"}
IMPLIED = {"--blockdev": "driver", "--object": "qom-type"}

# Errors of what happens after the arguments were understood.
LATER = re.compile(r"Cannot find device=|'node-name' must be specified|invalid object type: memory-backend-ram|"
                   r"Either 'file' or 'data' must|--chardev zz: |Invalid node-name")


class Qemu:
    """QEMU's monitor on its standard streams."""

    def __init__(self):
        self._process = subprocess.Popen(SYSTEM, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True)
        self._process.stdout.readline()
        self.error("qmp_capabilities", {})

    def error(self, command: str, arguments: dict) -> str | None:
        self._process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            reply = json.loads(line)
            if "error" in reply:
                return reply["error"]["desc"]
            if "return" in reply:
                return None
        raise SystemExit(f"QEMU died of {command} {arguments}")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def ask_driver(driver: str, mode: str, requests: list[dict]) -> list[str | None]:
    text = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([driver, mode], input=text, capture_output=True, text=True, check=True, timeout=120)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(replies) == len(requests)
    return ["Help is not available for this option" if reply.get("help") else reply.get("error") for reply in replies]


def known_to_qemu(case: qmp_types.Case) -> bool:
    return not (qmp_types.COMMANDS[case.command].extension or
                any((case.command, member) in LATER_MEMBERS for member in case.arguments))


def compare_monitor(driver: str) -> int:
    shared = [case for case in qmp_types.negative_cases() if known_to_qemu(case)]
    generated = [(case.command, case.arguments) for case in shared]
    expected = [case.error for case in shared]
    cases = generated + PICKED + TAKEN
    ours = ask_driver(driver, "arguments", [{"execute": command, "arguments": a} for command, a in cases])
    qemu = Qemu()
    failures = 0
    for index, ((command, arguments), mine) in enumerate(zip(cases, ours)):
        real = qemu.error(command, arguments)
        is_taken = (command, arguments) in TAKEN
        if index < len(generated) and real != expected[index]:
            print(f"{command} {arguments}: the table says {expected[index]!r}, QEMU says {real!r}")
            failures += 1
        elif is_taken and mine is not None:
            print(f"{command} {arguments}: QEMU takes it, Blockbed says {mine!r}")
            failures += 1
        elif not is_taken and mine != real:
            print(f"{command} {arguments}: Blockbed says {mine!r}, QEMU says {real!r}")
            failures += 1
    qemu.close()
    print(f"{len(generated)} generated and {len(PICKED) + len(TAKEN)} picked arguments")
    return failures


def option_error(option: str, text: str) -> str | None:
    # The last option is wrong, so that the program never gets to run.
    done = subprocess.run([DAEMON, option, text, "--chardev", "zz"], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60)
    message = done.stderr
    if LATER.search(message):
        return None
    prefix = f"{DAEMON}: {option} {text}: "
    assert message.startswith(prefix), (option, text, message)
    return message.removeprefix(prefix).removesuffix("\n")


def compare_options(driver: str) -> int:
    ours = ask_driver(driver, "keyval", [{"command": COMMAND[option], "implied": IMPLIED[option], "text": text}
                                         for option, text in KEYVAL])
    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(lambda case: option_error(*case), KEYVAL))
    failures = 0
    for (option, text), mine, real in zip(KEYVAL, ours, theirs):
        if mine != real:
            print(f"{option} {text!r}: Blockbed says {mine!r}, QEMU says {real!r}")
            failures += 1
    print(f"{len(KEYVAL)} options")
    return failures


def main() -> int:
    if shutil.which(SYSTEM[0]) is None or shutil.which(DAEMON) is None:
        print("QEMU is not installed")
        return 77
    failures = compare_monitor(sys.argv[1]) + compare_options(sys.argv[1])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
