"""Whole sessions to QEMU and to the server under test: every reply and event equal, in the same order."""

import random

import pytest

from blockbed_iotests import Image

SIZE = 1 << 20


def disks(directory):
    """A disk in two layers, a raw one, and two empty targets."""
    base = Image.create(directory / "base.qcow2", "qcow2", SIZE).fill((0, SIZE // 2, 1))
    Image.create(directory / "top.qcow2", "qcow2", backing=base).fill(("64k", "64k", 2))
    Image.create(directory / "disk.raw", "raw", SIZE).fill((0, SIZE, 3))
    for name in ("t1", "t2"):
        Image.create(directory / f"{name}.qcow2", "qcow2", SIZE)


def file(server, name, **options):
    return {"driver": "file", "filename": f"{server.dir}/{name}", **options}


def add(server, node, name, driver="qcow2", **options):
    return server.try_execute(
        "blockdev-add", {"driver": driver, "node-name": node, "file": file(server, name), **options}
    )


def query_all(server):
    """Everything there is to ask."""
    for command, arguments in (
        ("query-block", {}), ("query-named-block-nodes", {}), ("query-named-block-nodes", {"flat": True}),
        ("query-blockstats", {}), ("query-blockstats", {"query-nodes": True}), ("query-jobs", {}),
        ("query-block-jobs", {}), ("query-block-exports", {}),
    ):
        server.execute(command, arguments)


def test_opening_and_closing(differential):
    def script(server):
        add(server, "top", "top.qcow2")
        query_all(server)
        add(server, "raw", "disk.raw", "raw", offset=65536)
        add(server, "again", "top.qcow2")
        add(server, "ro", "base.qcow2", **{"read-only": True})
        query_all(server)
        for node in ("raw", "nope", "top", "top"):
            server.try_execute("blockdev-del", {"node-name": node})
        query_all(server)

    differential.run(script, prepare=disks)


@pytest.mark.parametrize("sync", ["full", "top"])
@pytest.mark.parametrize("into", ["qcow2", "raw"])
def test_a_backup(differential, sync, into):
    def script(server):
        add(server, "src", "top.qcow2")
        if into == "qcow2":
            add(server, "dst", "t1.qcow2")
        else:
            add(server, "dst", "disk.raw", "raw")
        server.execute("blockdev-backup", {"job-id": "j", "device": "src", "target": "dst", "sync": sync, "auto-finalize": False,
                                           "auto-dismiss": False})
        server.wait_event("BLOCK_JOB_PENDING")
        query_all(server)
        server.execute("job-finalize", {"id": "j"})
        server.wait_status("j", "concluded")
        query_all(server)
        server.execute("job-dismiss", {"id": "j"})
        query_all(server)

    differential.run(script, prepare=disks)


def test_a_backup_to_its_own_end(differential):
    def script(server):
        add(server, "src", "top.qcow2")
        add(server, "dst", "t1.qcow2")
        server.execute("blockdev-backup", {"job-id": "j", "device": "src", "target": "dst", "sync": "full"})
        server.wait_null("j")

    differential.run(script, prepare=disks)


def test_a_running_backup(differential):
    """The graph with the filter in it, the bitmaps, and who may use what."""

    def script(server):
        add(server, "src", "top.qcow2")
        add(server, "dst", "t1.qcow2")
        add(server, "other", "t2.qcow2")
        server.execute("blockdev-backup", {"job-id": "j", "device": "src", "target": "dst", "sync": "none", "filter-node-name": "flt"})
        query_all(server)
        for node in ("src", "dst", "flt", "other"):
            server.try_execute("blockdev-del", {"node-name": node})
        for arguments in (
            {"job-id": "k", "device": "src", "target": "dst", "sync": "full"},
            {"job-id": "k", "device": "dst", "target": "src", "sync": "full"},
            {"job-id": "k", "device": "flt", "target": "dst", "sync": "full"},
            {"job-id": "j", "device": "other", "target": "src", "sync": "full"},
        ):
            server.try_execute("blockdev-backup", arguments)
        server.execute("job-cancel", {"id": "j"})
        server.wait_null("j")
        query_all(server)

    differential.run(script, prepare=disks)


@pytest.mark.parametrize("verb", ["job-cancel", "block-job-cancel"])
def test_cancel(differential, verb):
    def script(server):
        add(server, "src", "top.qcow2")
        add(server, "dst", "t1.qcow2")
        server.execute("blockdev-backup", {"job-id": "j", "device": "src", "target": "dst", "sync": "none", "auto-dismiss": False})
        server.execute(verb, {"id" if verb == "job-cancel" else "device": "j"})
        server.wait_status("j", "concluded")
        query_all(server)
        server.execute("job-dismiss", {"id": "j"})

    differential.run(script, prepare=disks)


def test_drive_backup(differential):
    def script(server):
        add(server, "src", "top.qcow2")
        for sync in ("full", "top"):
            server.execute("drive-backup", {"job-id": "j", "device": "src", "target": f"{server.dir}/new-{sync}", "sync": sync,
                                            "auto-finalize": False})
            server.wait_event("BLOCK_JOB_PENDING")
            query_all(server)
            server.execute("job-finalize", {"id": "j"})
            server.wait_null("j")
        query_all(server)

    differential.run(script, prepare=disks)


def test_a_transaction(differential):
    def script(server):
        for node, name in (("a", "top.qcow2"), ("b", "disk.raw"), ("ta", "t1.qcow2"), ("tb", "t2.qcow2")):
            add(server, node, name, "raw" if name.endswith("raw") else "qcow2")
        backups = [
            {"type": "blockdev-backup", "data": {"job-id": f"j{name}", "device": name, "target": f"t{name}", "sync": "none"}}
            for name in "ab"
        ]
        server.try_execute("transaction", {"actions": [*backups, {"type": "abort", "data": {}}]})
        query_all(server)
        server.execute("transaction", {"actions": backups, "properties": {"completion-mode": "grouped"}})
        query_all(server)
        server.execute("job-cancel", {"id": "ja"})
        server.wait_null("ja")
        server.wait_null("jb")
        query_all(server)

    differential.run(script, prepare=disks, sort_events=True)


def test_exports(differential):
    def script(server):
        add(server, "n", "top.qcow2")
        server.try_execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "n"})
        server.nbd_start()
        server.try_execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": f"{server.dir}/x"}}})
        for arguments in (
            {"type": "nbd", "id": "e", "node-name": "n"}, {"type": "nbd", "id": "e", "node-name": "n"},
            {"type": "nbd", "id": "f", "node-name": "n"}, {"type": "nbd", "id": "g", "node-name": "n", "name": "g", "writable": True},
            {"type": "nbd", "id": "#", "node-name": "n", "name": "h"},
        ):
            server.try_execute("block-export-add", arguments)
        query_all(server)
        for arguments in ({"device": "n"}, {"device": "n", "name": "m"}, {"device": "nope"}):
            server.try_execute("nbd-server-add", arguments)
        server.execute("query-block-exports")
        server.try_execute("nbd-server-remove", {"name": "m"})
        server.try_execute("block-export-del", {"id": "e"})
        server.try_execute("blockdev-del", {"node-name": "n"})
        server.execute("nbd-server-stop")
        server.try_execute("nbd-server-stop")
        server.try_execute("blockdev-del", {"node-name": "n"})
        query_all(server)

    differential.run(script, prepare=disks)


def test_statistics(differential):
    """What guests and jobs did is counted where QEMU counts it."""

    def script(server):
        add(server, "n", "disk.raw", "raw")
        with server.export("n", writable=True) as nbd:
            nbd.pwrite(b"x" * 65536, 0)
            nbd.pread(65536, 0)
            nbd.zero(65536, 65536)
            nbd.flush()
        server.execute("query-blockstats", {"query-nodes": True})

    differential.run(script, prepare=disks)


def create_file(server, name, **more):
    options = {"driver": "file", "filename": f"{server.dir}/{name}", "size": 0, **more}
    server.execute("blockdev-create", {"job-id": "j", "options": options})
    server.wait_status("j", "concluded")
    server.execute("query-jobs")
    server.execute("job-dismiss", {"id": "j"})


@pytest.mark.parametrize("name, options", [
    ("no/new", {}), (".", {}), ("new", {"extent-size-hint": 1 << 33}), ("new", {"size": (1 << 63) - 1}),
    ("new", {"preallocation": "metadata"}),
])
def test_creation_that_fails(differential, name, options):
    """Before the reply or after it: what fails when the file is opened, and what fails afterwards."""
    differential.run(lambda server: create_file(server, name, **options), prepare=disks)


def test_creation(differential):
    def script(server):
        create_file(server, "new")
        server.execute("blockdev-add", file(server, "new", **{"node-name": "f"}))
        server.execute("blockdev-create", {"job-id": "j", "options": {"driver": "qcow2", "file": "f", "size": SIZE}})
        server.wait_status("j", "concluded")
        server.execute("job-dismiss", {"id": "j"})
        server.execute("blockdev-add", {"driver": "qcow2", "node-name": "q", "file": "f"})
        query_all(server)

    differential.run(script, prepare=disks)


def test_snapshots(differential):
    def script(server):
        add(server, "n", "top.qcow2")
        server.nbd_start()
        server.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "writable": True})
        server.execute("blockdev-snapshot-sync", {"node-name": "n", "snapshot-file": f"{server.dir}/s", "snapshot-node-name": "s"})
        query_all(server)
        server.try_execute("blockdev-snapshot-sync", {"node-name": "n", "snapshot-file": f"{server.dir}/s2", "snapshot-node-name": "s2"})
        server.try_execute("blockdev-snapshot-sync", {"node-name": "s", "snapshot-file": f"{server.dir}/s3", "snapshot-node-name": "n"})
        add(server, "o", "t1.qcow2", backing=None)
        server.try_execute("blockdev-snapshot", {"node": "s", "overlay": "o"})
        query_all(server)
        server.try_execute("blockdev-snapshot", {"node": "o", "overlay": "s"})

    differential.run(script, prepare=disks)


@pytest.mark.manners("system")
def test_human_monitor(differential):
    def script(server):
        add(server, "n", "disk.raw", "raw")
        for line in (
            "info block", "info block -n", "info block -v", "info block-jobs", "info status", "info name",
            "drive_add 0 if=none,id=d,driver=null-co,node-name=dn", "info block", "info block d", "drive_del d", "info block",
            "commit d", "commit all", "qemu-io n", "qemu-io x \"read 0 1\"", "stop", "info status", "cont", "nope", "info nope",
        ):
            server.execute("human-monitor-command", {"command-line": line})
        query_all(server)

    differential.run(script, prepare=disks)


@pytest.mark.manners("system")
@pytest.mark.parametrize("options", [
    "if=none,id=d,file=top.qcow2", "if=none,id=d,file=disk.raw,format=raw,cache=none,discard=unmap",
    "if=none,id=d,file=disk.raw,format=raw,readonly=on", "if=none,id=d,driver=null-co,size=65536,node-name=n",
    "if=none,id=d,file=disk.raw,format=raw,cache=unsafe",
    "if=none,id=d,file=disk.raw,format=raw,werror=stop,rerror=ignore", "if=none,id=d,file=json:{\"driver\":\"null-co\"}",
    "if=none,id=d,media=cdrom",
])  # fmt: skip
def test_drive_options(differential, options):
    def script(server):
        query_all(server)
        server.try_execute("blockdev-del", {"node-name": "n"})

    differential.run(script, prepare=disks, args=("-drive", options))


@pytest.mark.parametrize("seed", range(10))
def test_random_sessions(differential, seed):
    """A few dozen commands chosen by a seed over a handful of names, most of them refused."""

    def script(server):
        choose = random.Random(seed)
        nodes, images = ["a", "b", "c", "d"], ["top.qcow2", "base.qcow2", "disk.raw", "t1.qcow2", "nope"]
        server.nbd_start()
        for _ in range(40):
            node, other, image = choose.choice(nodes), choose.choice(nodes), choose.choice(images)
            kind = choose.choice(["add", "add", "over", "del", "del", "export", "unexport", "backup", "cancel", "query"])
            if kind == "add":
                add(server, node, image, choose.choice(["qcow2", "raw"]), **choose.choice([{}, {"read-only": True}, {"backing": None}]))
            elif kind == "over":
                server.try_execute("blockdev-add", {"driver": "raw", "node-name": node, "file": other})
            elif kind == "del":
                server.try_execute("blockdev-del", {"node-name": node})
            elif kind == "export":
                server.try_execute("block-export-add", {"type": "nbd", "id": node, "node-name": other, "name": node,
                                                        "writable": choose.random() < 0.5})
            elif kind == "unexport":
                result = server.try_execute("block-export-del", {"id": node})
                if result == {}:
                    server.wait_event("BLOCK_EXPORT_DELETED", {"id": node})
            elif kind == "backup":
                server.try_execute("blockdev-backup", {"job-id": "job", "device": node, "target": other, "sync": "none"})
            elif kind == "cancel":
                if server.try_execute("job-cancel", {"id": "job"}) == {}:
                    server.wait_null("job")
            else:
                query_all(server)
        query_all(server)

    differential.run(script, prepare=disks)
