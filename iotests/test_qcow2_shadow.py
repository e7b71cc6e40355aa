"""A qcow2 image that the server and qemu-io write by turns, beside a raw file that says what must be there.

The same is done without files, for thousands of geometries, in tests/qcow2/shadow_test.cpp; here the judges are others.
"""

import os
import random
from pathlib import Path

import pytest

from blockbed_iotests import qemu_img, qemu_io

SEEDS = range(int(os.environ.get("BLOCKBED_SHADOW_SEEDS", "8")))
ROUNDS = 4
REQUESTS = 25


class Shadow:
    """The image, the raw file beside it, and the disks of its snapshots."""

    def __init__(self, server, images, seed):
        self.server, self.images, self.choose = server, images, random.Random(seed)
        choose = self.choose
        self.cluster = choose.choice([512, 1024, 4096, 65536, 1 << 20])
        options = {"cluster_size": self.cluster, "compat": choose.choice(["0.10", "1.1", "1.1", "1.1"])}
        self.version = 2 if options["compat"] == "0.10" else 3
        if self.version == 3:
            options["refcount_bits"] = choose.choice([2, 8, 16, 64])
            options["lazy_refcounts"] = choose.choice(["on", "off"])
            options["compression_type"] = choose.choice(["zlib", "zstd"])
            if self.cluster >= 65536 and choose.random() < 0.6:
                options["extended_l2"] = "on"
        size = choose.randrange(64, 400) * 4096 + choose.choice([0, 512, 2048])
        self.content = bytearray(size)
        if choose.random() < 0.4:
            base = bytes([7]) * choose.choice([size // 1024 * 512, size, size + 65536])
            options["backing"] = images.create("base.raw", "raw", len(base)).fill_bytes(base)
            self.content[:] = base[:size].ljust(size, b"\0")
        self.description = f"seed {seed}: size {size}, {options}"
        self.image = images.create("image.qcow2", size=size, **options)
        # Version 2 would let the backing file show.
        self.may_discard = self.version == 3 or "backing" not in options
        # Two bits cannot count compressed clusters that are shared once more.
        self.may_snapshot = self.version == 3 and options["refcount_bits"] > 2
        self.snapshots: dict[str, bytes] = {}

    def place(self, grain):
        size = len(self.content)
        offset = self.choose.randrange(0, size) // grain * grain
        return offset, min(self.choose.randrange(1, 1 + 200_000 // grain) * grain, size - offset)

    def put(self, offset, data):
        self.content[offset : offset + len(data)] = data

    def by_server(self):
        """Guest requests of every kind, then a snapshot or another size."""
        server, choose = self.server, self.choose
        server.add_image("n", self.image, discard="unmap")
        with server.export("n", writable=True) as nbd:
            for _ in range(REQUESTS):
                offset, length = self.place(choose.choice([1, 512, 4096]))
                kind = choose.choice(["write", "write", "zero", "unmap", "trim", "read"])
                if kind == "write":
                    data = bytes([choose.randrange(1, 256)]) * length
                    nbd.pwrite(data, offset)
                    self.put(offset, data)
                elif kind in ("zero", "unmap"):
                    nbd.zero(length, offset, no_hole=kind == "zero")
                    self.put(offset, bytes(length))
                elif kind == "trim":
                    # What is given back is for the image to say; what it reads as then stays.
                    nbd.trim(length, offset)
                    self.put(offset, nbd.pread(length, offset))
                else:
                    assert nbd.pread(length, offset) == self.content[offset : offset + length]
            assert nbd.read_all() == self.content
        server.block_export_del(id=nbd.export_id, mode="hard")
        server.wait_event("BLOCK_EXPORT_DELETED")
        if self.version == 3 and choose.random() < 0.5:
            size = max(512, len(self.content) + choose.randrange(-100, 200) * 512)
            server.block_resize(node_name="n", size=size)
            self.content = self.content[:size].ljust(size, b"\0")
        server.blockdev_del(node_name="n")

    def by_tool(self):
        """The same by qemu-io, with compressed writes, and a snapshot by qemu-img."""
        commands = []
        for _ in range(6):
            offset, length = self.place(512)
            if length == 0 or length % 512 != 0:
                continue
            byte = self.choose.randrange(1, 256)
            commands.append(f"write -q -P {byte} {offset} {length}")
            self.put(offset, bytes([byte]) * length)
            start = offset // self.cluster * self.cluster
            if self.may_discard and start + self.cluster <= len(self.content):
                # QEMU writes compressed data only where there is nothing yet.
                commands.append(f"discard -q {start} {self.cluster}")
                commands.append(f"write -q -c -P {byte} {start} {self.cluster}")
                self.put(start, bytes([byte]) * self.cluster)
        qemu_io(self.image.path, *commands, format="qcow2", options=("-d", "unmap"))
        if self.may_snapshot and len(self.snapshots) < 2 and self.choose.random() < 0.5:
            name = f"s{len(self.snapshots)}"
            qemu_img("snapshot", "-c", name, str(self.image))
            self.snapshots[name] = bytes(self.content)

    def judge(self):
        self.image.check()
        raw = self.images.at("shadow.raw", "raw")
        Path(raw.path).write_bytes(self.content)
        self.image.compare(raw)
        reads = []
        for _ in range(4):
            offset = self.choose.randrange(0, len(self.content))
            end = offset
            while end < min(len(self.content), offset + 65536) and self.content[end] == self.content[offset]:
                end += 1
            reads.append(f"read -q -P {self.content[offset]} {offset} {end - offset}")
        qemu_io(self.image.path, *reads, format="qcow2")
        for name, content in self.snapshots.items():
            copy = self.images.at(f"{name}.raw", "raw")
            qemu_img("convert", "-l", name, "-O", "raw", str(self.image), str(copy))
            # The tool reads a snapshot at the length that the disk has now.
            common = min(len(content), len(self.content))
            assert Path(copy.path).read_bytes()[:common] == content[:common], f"snapshot {name}"


@pytest.mark.parametrize("seed", SEEDS)
def test_server_and_tools_by_turns(server, images, seed):
    shadow = Shadow(server, images, seed)
    print(shadow.description)
    for _ in range(ROUNDS):
        shadow.by_server()
        shadow.judge()
        shadow.by_tool()
        shadow.judge()
