"""A qcow2 image that the server and qemu-img and qemu-io change by turns, beside a raw file that says what must be there.

The same is done without files, for thousands of geometries, in tests/qcow2/shadow_test.cpp; here the judges are others.
Of sixteen seeds in a row every cluster size, refcount width, version and place of the data meets the test; the rest is
drawn. A seed that failed, and only that one, is run again by what it prints.
"""

import os
import random
from pathlib import Path

import pytest

from blockbed_iotests import qemu_img, qemu_io

ONE = os.environ.get("BLOCKBED_SHADOW_SEED")
SEEDS = [int(ONE)] if ONE else range(int(os.environ.get("BLOCKBED_SHADOW_SEEDS", "16")))
ROUNDS = 3
ACTIONS = 14
LARGEST = 200_000

CLUSTERS = [512 << shift for shift in range(13)]
WIDTHS = [1, 2, 4, 8, 16, 32, 64]


class Shadow:
    """The image, what its disk must hold, and the disks of its snapshots."""

    def __init__(self, server, images, seed):
        self.server, self.images, self.choose = server, images, random.Random(seed)
        # QEMU 7.2 loses data when it zeroes or discards beside requests that are under way, loses data or hangs when the
        # node is opened anew beside them, and aborts when an image with a data file gets another size.
        self.all_of_it = server.kind == "blockbed"
        choose = self.choose
        self.cluster = CLUSTERS[seed % len(CLUSTERS)]
        self.version = 2 if seed % 8 == 6 else 3
        self.width = WIDTHS[seed % len(WIDTHS)] if self.version == 3 else 16
        self.data_file = {1: "raw", 5: "plain"}.get(seed % 8)
        options = {"cluster_size": self.cluster, "compat": "1.1" if self.version == 3 else "0.10"}
        size = choose.randrange(64, 400) * 4096 + choose.randrange(8) * 512
        if self.cluster >= 1 << 18:
            size = choose.randrange(1, 4) * max(self.cluster, 1 << 20) + choose.randrange(-100, 100) * 512
        if choose.random() < 0.5:
            size = max(1, size // self.cluster) * self.cluster
        self.content = bytearray(size)
        self.backing = None
        if self.version == 3:
            options |= {"refcount_bits": self.width, "lazy_refcounts": choose.choice(["on", "off"]),
                        "compression_type": choose.choice(["zlib", "zstd"])}
            if self.cluster >= 16384 and choose.random() < 0.6:
                options["extended_l2"] = "on"
        if self.data_file:
            options["data_file"] = images.dir / "data.raw"
            options["data_file_raw"] = "on" if self.data_file == "raw" else "off"
        if self.data_file != "raw" and choose.random() < 0.5:
            base = bytes([7]) * choose.choice([size // 1024 * 512, size // 512 * 512, size + 65536])
            kind = choose.choice(["raw", "qcow2"])
            self.backing = options["backing"] = images.create("base", kind, len(base)).fill_bytes(base)
            self.content[:] = base[:size].ljust(size, b"\0")
        elif choose.random() < 0.3:
            options["preallocation"] = choose.choice(["metadata", "falloc", "full"])
        self.image = images.create("image.qcow2", size=size, **options)
        self.zero_bits = self.version == 3
        # Version 2 would let the backing file show.
        self.may_discard = self.zero_bits or not self.backing
        # Narrow counts serve compressed clusters or snapshots, not clusters that are shared by both.
        self.compresses = not self.data_file and (self.width >= 8 or self.width == 1 or choose.random() < 0.5)
        most = {1: 0, 2: 2, 4: 3}.get(self.width, 3)
        self.most_snapshots = 0 if self.data_file or (self.width < 8 and self.compresses) else most
        self.snapshots: dict[str, bytes] = {}
        # Those that hold the state of a machine too, for `snapshot-load`.
        self.loadable: set[str] = set()
        # Behind the end of the disk lies the state of a machine, since a snapshot that holds one was taken up again.
        self.with_state = False
        self.names = iter(range(1000))
        self.options = {}
        print(f"seed {seed}: disk of {size}, {options}")
        print(f"once more: BLOCKBED_SHADOW_SEED={seed} iotests/check --server {server.kind} --manner {server.manner} test_qcow2_shadow.py")

    # ------------------------------------------------------------------ what is drawn

    def place(self, grain):
        size = len(self.content)
        offset = self.choose.randrange(0, size) // grain * grain
        return offset, min(self.choose.randrange(1, 1 + LARGEST // grain) * grain, size - offset)

    def whole_clusters(self, most):
        """A run of whole clusters, or nothing: the disk may be smaller than one."""
        there = len(self.content) // self.cluster
        if there == 0:
            return None
        first = self.choose.randrange(there)
        count = self.choose.randrange(1, 1 + min(most, there - first))
        return first * self.cluster, count * self.cluster

    def bytes(self, length):
        return bytes([self.choose.randrange(1, 256)]) * length

    def put(self, offset, data):
        self.content[offset : offset + len(data)] = data

    def may_apply(self):
        """What is taken up again is counted once more before the disk of now is let go."""
        return self.snapshots and len(self.snapshots) + 2 < 1 << self.width

    def may_resize(self):
        # Version 2 has no zeroes to hide a backing file with, and no lengths of snapshots.
        return self.zero_bits or not (self.backing or self.snapshots)

    def another_size(self):
        size = max(512, len(self.content) // 512 * 512 + self.choose.randrange(-100, 200) * 512)
        return self.choose.choice([size, max(1, size // self.cluster) * self.cluster])

    def qemu_may_shrink(self, size):
        """Its L1 table gets shorter too, and a machine's state that the entries named leaks."""
        return size >= len(self.content) or not self.with_state

    def rest_of_a_cluster(self, size):
        """How much a disk that grows takes of its last cluster, where QEMU shows again what was there before it shrank."""
        return max(0, min(size - len(self.content), -len(self.content) % self.cluster))

    def resized(self, size):
        self.content = self.content[:size].ljust(size, b"\0")

    # ------------------------------------------------------------------ the server

    def node(self, *, anew):
        """The definition of the node, with options as they are, or others."""
        choose = self.choose
        if anew:
            self.options = {
                "discard": choose.choice(["unmap", "unmap", "ignore"]),
                "detect-zeroes": choose.choice(["off", "off", "on"]),
                "overlap-check": choose.choice(["none", "constant", "cached", "all"]),
                "cache-clean-interval": choose.choice([0, 1, 600]),
                "lazy-refcounts": self.version == 3 and choose.random() < 0.5,
                "pass-discard-request": self.data_file == "raw" or choose.random() < 0.5,
                "pass-discard-snapshot": choose.random() < 0.5,
                "pass-discard-other": choose.random() < 0.5,
            }
            if choose.random() < 0.5:
                entry = 512 << choose.randrange(self.cluster.bit_length() - 9)
                self.options |= {"l2-cache-entry-size": entry, "l2-cache-size": max(self.cluster, 16 * entry)}
            # QEMU has it since 8.1.
            if self.version == 3 and self.server.kind == "blockbed":
                self.options["discard-no-unref"] = choose.random() < 0.4
            print("  options", self.options)
        node = {"driver": "qcow2", "node-name": "n", "file": "file", **self.options}
        if self.backing:
            node["backing"] = "base"
        if self.data_file:
            node["data-file"] = "data"
        return node

    def open(self):
        server = self.server
        server.blockdev_add(driver="file", node_name="file", filename=str(self.image), discard="unmap")
        if self.data_file:
            server.blockdev_add(driver="file", node_name="data", filename=str(self.images.dir / "data.raw"), discard="unmap")
        if self.backing:
            server.add_image("base", self.backing, read_only=True)
        server.blockdev_add(self.node(anew=True))

    def close(self):
        for node in ("n", "base" if self.backing else None, "data" if self.data_file else None, "file"):
            if node:
                self.server.blockdev_del(node_name=node)

    def reopen(self):
        self.server.blockdev_reopen(options=[self.node(anew=True)])

    def trimmed(self, nbd, offset, length):
        """What is given back is for the image to say; what it reads as then stays."""
        data = nbd.pread(length, offset)
        before = self.content[offset : offset + length]
        if self.may_discard and data not in (before, bytes(length)):
            assert all(now in (0, was) for now, was in zip(data, before)), (offset, length)
        self.put(offset, data)

    def request(self, nbd, kind):
        offset, length = self.place(self.choose.choice([1, 512, 4096]))
        print(f"  {kind} {offset} {length}")
        if kind == "write":
            data = self.bytes(length)
            nbd.pwrite(data, offset)
            self.put(offset, data)
        elif kind in ("zero", "unmap"):
            nbd.zero(length, offset, no_hole=kind == "zero")
            self.put(offset, bytes(length))
        elif kind == "trim":
            nbd.trim(length, offset)
            self.trimmed(nbd, offset, length)
        else:
            assert nbd.pread(length, offset) == self.content[offset : offset + length]

    def at_once(self, nbd):
        """Requests that all are under way at once and touch the same clusters, but no byte twice; and another opening
        of the node in their midst."""
        choose, size = self.choose, len(self.content)
        start = choose.randrange(0, size)
        end = min(size, start + choose.choice([1000, 4 * self.cluster, LARGEST]))
        grain = choose.choice([1, 512])
        edges = sorted({at // grain * grain for at in (choose.randrange(start, end) for _ in range(24))})
        pending = []
        print("  at once", edges)
        for offset, after in choose.sample(list(zip(edges, edges[1:])), len(edges) - 1):
            length = after - offset
            kind = choose.choice(["write", "write", "write", "read"] + ["zero", "trim"] * self.all_of_it)
            if kind == "write":
                data = self.bytes(length)
                pending.append((kind, offset, length, nbd.begin_pwrite(data, offset)))
                self.put(offset, data)
            elif kind == "read":
                pending.append((kind, offset, length, nbd.begin_pread(length, offset)))
            elif kind == "zero":
                pending.append((kind, offset, length, nbd.begin_zero(length, offset)))
                self.put(offset, bytes(length))
            else:
                pending.append((kind, offset, length, nbd.begin_trim(length, offset)))
        if self.all_of_it and choose.random() < 0.3:
            self.reopen()
        for kind, offset, length, request in pending:
            request.end()
            assert request.error is None, (kind, offset, length)
            if kind == "read":
                assert request.data == self.content[offset : offset + length], (offset, length)
        for kind, offset, length, _ in pending:
            if kind == "trim":
                self.trimmed(nbd, offset, length)

    def compressed(self, nbd, compressing):
        """QEMU writes compressed data only where there is nothing yet."""
        run = self.whole_clusters(4)
        if run is None or not self.may_discard or self.options["discard"] != "unmap" or self.options.get("discard-no-unref"):
            return
        print("  compressed", run)
        offset, length = run
        nbd.trim(length, offset)
        self.trimmed(nbd, offset, length)
        data = b"".join(self.bytes(1024) for _ in range(length // 1024 + 1))[:length]
        compressing.pwrite(data, offset)
        self.put(offset, data)

    def snapshot(self):
        if len(self.snapshots) >= self.most_snapshots:
            return
        name = f"s{next(self.names)}"
        arguments = {"device": "n", "name": name}
        if self.server.manner == "system":
            self.server.blockdev_snapshot_internal_sync(arguments)
        else:
            self.server.transaction(actions=[{"type": "blockdev-snapshot-internal-sync", "data": arguments}])
        self.snapshots[name] = bytes(self.content)
        print("  snapshot", name)

    def forget(self):
        """Only machines have the command."""
        if self.snapshots and self.server.manner == "system":
            name = self.choose.choice(list(self.snapshots))
            print("  delete snapshot", name)
            self.server.blockdev_snapshot_delete_internal_sync(device="n", name=name)
            del self.snapshots[name]

    def machine_job(self, command, tag, **arguments):
        print(" ", command, tag)
        self.server.execute(command, {"job-id": "job", "tag": tag, "devices": ["n"], **arguments})
        self.server.wait_job("job", "concluded")
        assert "error" not in self.server.job("job"), self.server.job("job")
        self.server.job_dismiss(id="job")

    def taken_up(self, name):
        self.content = bytearray(self.snapshots[name])
        self.with_state = name in self.loadable

    def of_the_machine(self):
        """The state of a machine beside the disk, saved, taken up again, deleted."""
        kind = self.choose.choice(["save", "load", "load", "delete"])
        there = sorted(self.loadable & set(self.snapshots))
        if kind == "save":
            if len(self.snapshots) < self.most_snapshots:
                name = f"s{next(self.names)}"
                self.machine_job("snapshot-save", name, vmstate="n")
                self.snapshots[name] = bytes(self.content)
                self.loadable.add(name)
        elif there:
            name = self.choose.choice(there)
            if kind == "load":
                if not (self.may_apply() and (self.all_of_it or self.qemu_may_shrink(len(self.snapshots[name])))):
                    return
                self.machine_job("snapshot-load", name, vmstate="n")
                self.taken_up(name)
            else:
                self.machine_job("snapshot-delete", name)
                del self.snapshots[name]

    def by_server(self):
        server, choose = self.server, self.choose
        self.open()
        with server.export("n", writable=True) as nbd:
            exports = [nbd.export_id]
            compressing = None
            # A filter has no place for what is left of a cluster, and over it a node takes no snapshots.
            if self.compresses and len(self.content) % self.cluster == 0 and choose.random() < 0.6:
                server.blockdev_add(driver="compress", node_name="c", file="n")
                compressing = server.export("c", writable=True)
                exports.append(compressing.export_id)
            for _ in range(ACTIONS):
                kind = choose.choice(["write", "write", "zero", "unmap", "trim", "read", "at once", "at once", "compressed",
                                      "snapshot", "delete", "reopen"])
                if kind == "at once":
                    self.at_once(nbd)
                elif kind == "compressed":
                    if compressing:
                        self.compressed(nbd, compressing)
                elif kind == "snapshot":
                    if not compressing:
                        self.snapshot()
                elif kind == "delete":
                    if not compressing:
                        self.forget()
                elif kind == "reopen":
                    self.reopen()
                else:
                    self.request(nbd, kind)
            assert nbd.read_all() == self.content
            if compressing:
                compressing.close()
        for export in exports:
            server.block_export_del(id=export, mode="hard")
            server.wait_event("BLOCK_EXPORT_DELETED", {"id": export})
        if compressing:
            server.blockdev_del(node_name="c")
        for _ in range(2):
            if self.may_resize() and choose.random() < 0.5:
                size = self.another_size()
                if self.all_of_it or not (self.data_file or self.rest_of_a_cluster(size) or not self.qemu_may_shrink(size)):
                    print("  resize", size)
                    server.block_resize(node_name="n", size=size)
                    self.resized(size)
            if self.most_snapshots and server.manner == "system" and choose.random() < 0.5:
                self.of_the_machine()
        self.close()

    # ------------------------------------------------------------------ the tools

    def by_tool(self):
        """The same by qemu-io, then something with snapshots or the size by qemu-img."""
        choose, commands = self.choose, []
        # Compressed data goes only where there is nothing yet; and first, because the tool goes on writing it behind
        # what it compressed last, although that was freed since, and is another's now.
        run = self.whole_clusters(4)
        if self.compresses and self.may_discard and run:
            data = self.bytes(run[1])
            commands.append(f"discard -q {run[0]} {run[1]}")
            commands.append(f"write -q -c -P {data[0]} {run[0]} {run[1]}")
            self.put(run[0], data)
        for _ in range(6):
            offset, length = self.place(512)
            if length % 512 == 0:
                data = self.bytes(length)
                # Those of one moment must not overlap.
                commands += [f"{choose.choice(['write', 'aio_write'])} -q -P {data[0]} {offset} {length}", "aio_flush"]
                self.put(offset, data)
        print("  qemu-io", commands)
        qemu_io(self.image.path, *commands, format="qcow2", options=("-d", "unmap"))
        kind = choose.choice(["create", "apply", "apply", "delete", "resize"])
        if kind == "resize" and self.may_resize():
            size = self.another_size()
            if not self.qemu_may_shrink(size):
                return
            print("  qemu-img resize", size)
            qemu_img("resize", "-q", "--shrink", "-f", "qcow2", self.image, size)
            if rest := self.rest_of_a_cluster(size):
                qemu_io(self.image.path, f"write -q -z {len(self.content)} {rest}", format="qcow2")
            self.resized(size)
        elif kind == "create" and len(self.snapshots) < self.most_snapshots:
            name = f"s{next(self.names)}"
            print("  qemu-img snapshot -c", name)
            qemu_img("snapshot", "-c", name, self.image)
            self.snapshots[name] = bytes(self.content)
        elif kind in ("apply", "delete") and self.snapshots:
            name = choose.choice(list(self.snapshots))
            if kind == "delete":
                print("  qemu-img snapshot -d", name)
                qemu_img("snapshot", "-d", name, self.image)
                del self.snapshots[name]
            elif self.may_apply() and self.qemu_may_shrink(len(self.snapshots[name])):
                print("  qemu-img snapshot -a", name)
                qemu_img("snapshot", "-a", name, self.image)
                self.taken_up(name)

    def judge(self):
        self.image.check()
        raw = self.images.at("shadow.raw", "raw")
        Path(raw.path).write_bytes(self.content)
        self.image.compare(raw)
        if self.data_file == "raw":
            data = (self.images.dir / "data.raw").read_bytes()[: len(self.content)]
            assert data.ljust(len(self.content), b"\0") == self.content, "the data file is not the disk"
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
    for _ in range(ROUNDS):
        shadow.by_server()
        shadow.judge()
        shadow.by_tool()
        shadow.judge()
