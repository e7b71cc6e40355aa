#!/usr/bin/env python3
"""Says the same to our NBD server and to QEMU's, byte for byte, and compares what comes back.

    compare_with_qemu.py NBD_EXAMPLE_SERVER

Every scenario is a list of bytes to send; what a server answers is parsed and written as lines, and the lines of both
servers must be equal. Where ours answers differently on purpose, the scenario stands in DEPARTURES with its reason.
Nothing here waits for time to pass: an option script ends with an abort, a request script with a read whose reply is
awaited, and a lost connection ends either. Exit status 77: no QEMU here.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

OPTION_MAGIC = 0x49484156454F5054
MIB = 1 << 20
SIZE = 4 * MIB
SENTINEL = 77
PATIENCE = 60.0

REPLIES = {1: "ack", 2: "server", 3: "info", 4: "context"}
ERRORS = {1: "unsupported", 2: "policy", 3: "invalid", 6: "unknown", 8: "block size required", 9: "too big"}

TRAILING = "bytes behind the last query are an error; QEMU reads them as the next option and hangs up"
BOUND = "options that are held in memory are bounded at 132 KiB"
DEPARTURES = {
    "meta 9 too few announced": TRAILING,
    "meta 10 too few announced": TRAILING,
    "meta 9 bytes left over": TRAILING,
    "meta 10 bytes left over": TRAILING,
    "option 6, 33554432 zeroes": BOUND,
    "option 7, 33554432 zeroes": BOUND,
    "option 9, 33554432 zeroes": BOUND,
}


def option(number: int, data: bytes = b"", length: int | None = None, magic: int = OPTION_MAGIC) -> bytes:
    return struct.pack(">QII", magic, number, len(data) if length is None else length) + data


def named(name: str | bytes) -> bytes:
    raw = name if isinstance(name, bytes) else name.encode()
    return struct.pack(">I", len(raw)) + raw


def info(name: str | bytes, *infos: int, count: int | None = None) -> bytes:
    return named(name) + struct.pack(f">H{len(infos)}H", len(infos) if count is None else count, *infos)


def meta(name: str, *queries: str, count: int | None = None) -> bytes:
    return named(name) + struct.pack(">I", len(queries) if count is None else count) + b"".join(map(named, queries))


def request(command: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0, handle: int = 1,
            magic: int = 0x25609513) -> bytes:
    return struct.pack(">IHHQQI", magic, flags, command, handle, offset, length) + data


class Connection:
    def __init__(self, path: Path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_exc) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self, length: int) -> bytes | None:
        data = b""
        while len(data) < length:
            try:
                part = self.sock.recv(min(length - len(data), MIB))
            except ConnectionResetError:
                return None
            if not part:
                return None
            data += part
        return data


def option_lines(connection: Connection) -> list[str]:
    """Replies to options until the connection ends."""
    lines = []
    while (head := connection.receive(20)) is not None:
        _, number, kind, length = struct.unpack(">QIII", head)
        data = connection.receive(length) or b""
        word = REPLIES.get(kind) or ERRORS.get(kind & 0x7FFFFFFF, hex(kind))
        lines.append(f"{number} {word} {data!r}")
    return lines + ["end"]


def negotiation(path: Path, flags: int, script: bytes) -> list[str]:
    with Connection(path) as connection:
        greeting = connection.receive(18)
        connection.send(struct.pack(">I", flags) + script + option(2))
        return [str(greeting)] + option_lines(connection)


def export_name(path: Path, flags: int, name: str) -> list[str]:
    with Connection(path) as connection:
        connection.receive(18)
        connection.send(struct.pack(">I", flags) + option(1, name.encode()) + request(2))
        lines = []
        while (byte := connection.receive(1)) is not None:
            lines.append(byte.hex())
        return ["".join(lines)]


def transmission(path: Path, export: str, structured: bool, contexts: tuple[str, ...], script: bytes,
                 reads: dict[int, int], wanted: int) -> list[str]:
    """Lines of the replies, sorted by handle: a server may answer in any order."""
    with Connection(path) as connection:
        connection.receive(18)
        connection.send(struct.pack(">I", 3))
        setup = (option(8) if structured else b"") + (option(10, meta(export, *contexts)) if contexts else b"")
        connection.send(setup + option(7, info(export)))
        while True:
            _, number, kind, length = struct.unpack(">QIII", connection.receive(20))
            connection.receive(length)
            assert kind < 1 << 31, (export, number, hex(kind))
            if number == 7 and kind == 1:
                break
        connection.send(script + request(0, 0, 16, handle=SENTINEL))
        replies: list[tuple[int, str]] = []
        done = 0
        while done < wanted + 1:
            magic = connection.receive(4)
            if magic is None:
                return [line for _, line in sorted(replies, key=lambda r: r[0])] + ["end"]
            if magic == b"\x67\x44\x66\x98":
                error, handle = struct.unpack(">IQ", connection.receive(12))
                length = 16 if handle == SENTINEL else reads.get(handle, 0)
                if error == 0 and length:
                    connection.receive(length)
                replies.append((handle, f"{handle} simple {error}"))
                done += 1
                continue
            assert magic == b"\x66\x8e\x33\xef", magic
            flags, kind, handle, length = struct.unpack(">HHQI", connection.receive(16))
            data = connection.receive(length) or b""
            if kind in (32769, 32770):
                text = f"error {struct.unpack('>I', data[:4])[0]} {data[6:]!r}"
            elif kind == 1:
                text = f"data at {struct.unpack('>Q', data[:8])[0]}, {length - 8} bytes"
            elif kind == 2:
                text = f"hole {struct.unpack('>QI', data)}"
            else:
                text = f"{kind} {struct.unpack(f'>{length // 4}I', data)}"
            replies.append((handle, f"{handle} chunk {flags} {text}"))
            done += flags & 1
        return [line for _, line in sorted(replies, key=lambda r: r[0])]


def option_scenarios():
    """(name, client flags, script)"""
    for flags in (0, 1, 2, 3, 4, 7, 0xFFFFFFFF):
        yield f"client flags {flags:#x}", flags, option(3)
    yield "bad magic", 3, option(3, magic=1)
    for number in (0, *range(2, 14), 255, 0xFFFFFFFF):
        for data in (b"", b"a", b"abcdefgh", b"x" * 300):
            yield f"option {number}, {len(data)} bytes", 3, option(number, data) + option(3)
    for number in (0, 3, 5, 6, 7, 8, 9, 10, 99):
        yield f"option {number}, too long", 3, option(number, length=32 * MIB + 1)
        for length in (5000, 20000, 32 * MIB):
            yield f"option {number}, {length} zeroes", 3, option(number, bytes(length)) + option(3)
    names = ["", "rw", "ro", "nosuch", "a" * 80, "a" * 81, "a" * 256, "a" * 4096, "a" * 4097, "n\0x"]
    for name in names:
        yield f"info {name[:90]!r} {len(name)}", 3, option(6, info(name)) + option(3)
        if name not in ("rw", "ro"):
            yield f"go {name[:90]!r} {len(name)}", 3, option(7, info(name)) + option(3)
    for infos in ((0,), (1,), (2,), (3,), (1, 2, 3), (3, 3), (99,), (0, 1, 2, 3, 99, 3)):
        yield f"info with {infos}", 3, option(6, info("rw", *infos)) + option(6, info("nosuch", *infos))
        yield f"structured info with {infos}", 3, option(8) + option(6, info("ro", *infos))
    for number in (6, 7):
        for word, data in {
            "name too long": named("abc")[:3] + b"\x64abc\0\0",
            "more announced": info("rw", count=1),
            "fewer announced": info("rw", 3, count=0),
            "bytes left over": info("rw") + b"zz",
            "half a count": named("rw") + b"\0",
            "huge name": struct.pack(">I", 0xFFFFFFFF) + b"abcdef",
            "no count": named("rw"),
        }.items():
            yield f"option {number}: {word}", 3, option(number, data) + option(3)
    yield "structured twice", 3, option(8) + option(8)
    for number in (9, 10):
        yield f"meta {number} before structured", 3, option(number, meta("rw", "base:allocation"))
        for name in ("rw", "depth", "nosuch", "", "a" * 4096, "a" * 4097):
            for queries in (
                (), ("base:allocation",), ("base:",), ("base",), ("qemu:",), ("qemu:allocation-depth",),
                ("qemu:allocation-",), ("qemu:dirty-bitmap:",), ("qemu:dirty-bitmap:b",), ("x:",), ("",), (":",),
                ("base:allocationx",), ("base:allocatio",), ("BASE:ALLOCATION",), ("qemu:a",), ("qemu:allocation-depthx",),
                ("base:allocation", "qemu:allocation-depth", "foo:bar"), ("qemu:", "base:"),
                ("base:allocation", "base:allocation"), ("a" * 4096,), ("a" * 4097,),
            ):
                yield (f"meta {number} {name[:9]!r} {len(name)} {[q[:30] for q in queries]}", 3,
                       option(8) + option(number, meta(name, *queries)) + option(3))
        for word, data in {
            "empty": b"", "short": b"\0\0", "name too long": struct.pack(">I", 100) + b"abc", "no count": named("rw"),
            "too many announced": meta("rw", "base:allocation", count=2),
            "too few announced": meta("rw", "base:allocation", "base:allocation", count=1),
            "query too long": meta("rw", count=1) + struct.pack(">I", 50) + b"base:all",
            "bytes left over": meta("rw", "base:allocation") + b"zzz",
            "huge count": meta("rw", count=0xFFFFFFFF),
            "a thousand": meta("rw", *(["base:allocation"] * 1000)),
            "huge query": meta("rw", count=1) + struct.pack(">I", 0xFFFFFFFF),
        }.items():
            yield f"meta {number} {word}", 3, option(8) + option(number, data) + option(3)


def request_scenarios():
    """(name, export, contexts, script, lengths of simple reads, number of replies)"""
    base = ("base:allocation",)

    def one(name, export, command, offset=0, length=0, flags=0, data=None, contexts=base):
        payload = data if data is not None else (b"z" * length if command == 1 else b"")
        return (name, export, contexts, request(command, offset, length, payload, flags),
                {1: length} if command == 0 else {}, 1)

    for export in ("ro", "rw"):
        for command in (0, 1, 4, 5, 6, 7):
            for word, offset, length in (
                ("some", 4096, 512), ("nothing", 0, 0), ("nothing at the end", SIZE, 0), ("nothing beyond", SIZE + 1, 0),
                ("half beyond", SIZE - 256, 512), ("at the end", SIZE, 512), ("far away", 1 << 62, 512),
                ("around the corner", (1 << 64) - 256, 512), ("odd", 513, 7),
            ):
                yield one(f"{export} {command} {word}", export, command, offset, length)
            for flags in (1, 2, 4, 8, 16, 32, 0xFFFF, 3, 17, 18):
                yield one(f"{export} {command} flags {flags:#x}", export, command, 0, 4096, flags)
        for offset, length, flags in ((0, 0, 0), (5, 5, 0), (0, 0, 1), (SIZE + 1, 0, 0), (0, 0, 2)):
            yield one(f"{export} flush {offset} {length} {flags}", export, 3, offset, length, flags)
        for command in (8, 9, 100, 0xFFFF):
            for flags in (0, 1, 2):
                yield one(f"{export} command {command} flags {flags}", export, command, 0, 16, flags)
        yield one(f"{export} status without contexts", export, 7, 0, 4096, contexts=())
        for command in (0, 5):
            for length in (32 * MIB, 32 * MIB + 1, 0xFFFFFFFF):
                yield one(f"{export} {command} of {length}", export, command, 0, length)
        for command in (4, 6, 7):
            for length in (SIZE, 33 * MIB, 0xFFFFFFFF):
                yield one(f"{export} {command} of {length}", export, command, 0, length)
        yield one(f"{export} write beyond, 32 MiB", export, 1, 0, 32 * MIB)
        yield one(f"{export} write of more than 32 MiB", export, 1, 0, 32 * MIB + 1, data=b"")
        yield (f"{export} bad magic", export, (), request(0, 0, 16, magic=7), {1: 16}, 1)
        yield one(f"{export} whole read", export, 0, 0, SIZE)


def start_example(server: str, folder: Path) -> tuple[subprocess.Popen, Path]:
    path = folder / "blockbed.sock"
    steps = []
    for node in ("null0", "null1", "null2"):
        steps.append({"blockdev": {"driver": "null-co", "node-name": node, "size": SIZE, "read-zeroes": True}})
    for node, name, more in (("null0", "ro", {}), ("null1", "rw", {"writable": True, "description": "some text"}),
                             ("null2", "depth", {"writable": True, "allocation-depth": True})):
        steps.append({"export": {"type": "nbd", "id": name, "node-name": node, "name": name} | more})
    process = subprocess.Popen([server, str(path), *map(json.dumps, steps)], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "ready\n"
    return process, path


def start_qemu(program: str, folder: Path) -> tuple[int, Path]:
    path = folder / "qemu.sock"
    pidfile = folder / "qemu.pid"
    arguments = [program, "--nbd-server", f"addr.type=unix,addr.path={path}", "--pidfile", str(pidfile)]
    for node in ("null0", "null1", "null2"):
        arguments += ["--blockdev", f"null-co,node-name={node},size={SIZE},read-zeroes=on"]
    arguments += ["--export", "nbd,id=ro,node-name=null0,name=ro"]
    arguments += ["--export", "nbd,id=rw,node-name=null1,name=rw,writable=on,description=some text"]
    arguments += ["--export", "nbd,id=depth,node-name=null2,name=depth,writable=on,allocation-depth=on"]
    # With --daemonize the first process ends when the server is ready; what is left is known by its pidfile.
    subprocess.run([*arguments, "--daemonize"], check=True, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    return int(pidfile.read_text()), path


def main() -> int:
    program = shutil.which("qemu-storage-daemon")
    if program is None:
        return 77
    differences = compared = 0

    def compare(name: str, ask) -> None:
        nonlocal differences, compared
        mine, theirs = ask(ours), ask(qemus)
        compared += 1
        if (mine == theirs) == (name not in DEPARTURES):
            return
        differences += 1
        print(f"{name}:" + (" equal, although it is a known departure" if mine == theirs else ""))
        for line in theirs:
            print(f"  - {line[:200]}")
        for line in mine:
            print(f"  + {line[:200]}")

    with tempfile.TemporaryDirectory() as folder:
        server, ours = start_example(sys.argv[1], Path(folder))
        qemu, qemus = start_qemu(program, Path(folder))
        try:
            for name, flags, script in option_scenarios():
                compare(name, lambda path: negotiation(path, flags, script))
            for flags in (0, 1, 2, 3):
                for name in ("rw", "nosuch", "", "a" * 4096, "a" * 4097, "r\0w"):
                    compare(f"export name {name[:9]!r} {flags}", lambda path: export_name(path, flags, name))
            for structured in (False, True):
                for name, export, contexts, script, reads, wanted in request_scenarios():
                    compare(f"{'structured' if structured else 'simple'} {name}",
                            lambda path: transmission(path, export, structured, contexts if structured else (), script,
                                                      reads, wanted))
        finally:
            subprocess.run(["kill", str(qemu)], check=False)
            server.terminate()
            server.wait(PATIENCE)
    print(f"{compared} scenarios compared, {differences} differ")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
