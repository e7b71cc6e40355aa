"""A client that dies in the middle of a fleecing session: what is left is listed, and docs/fleecing.md says how it goes away.

Each session is cut off after every command, and in every command (sent, the reply never read), with a reader still
connected when there is something to read. The recipe knows the names that the session gives and nothing of how far it came.
"""

import hashlib
import socket

import pytest

from blockbed_iotests import Nbd, Qmp, QmpError, Server

SIZE = 1 << 20


class Scene:
    """A guest that writes to a disk, and what must be there before and after a session: no more, no less."""

    # Monitors hear of the sessions before theirs: what has events has another name each time.
    session = 0
    # What a reader asks for.
    CONTEXTS: tuple[str, ...] = ("base:allocation",)

    def __init__(self, start, images, monitors: int):
        self.images = images
        self.source = images.create("src.qcow2", size=SIZE).fill((0, SIZE, 1))
        self.server = self.start(start, monitors=monitors)
        self.server.nbd_start()
        self.byte = 1
        self.content = bytearray(b"\1" * SIZE)
        self.prepare()
        self.before = self.left()

    def start(self, start, **options) -> Server:
        return start(**options)

    def prepare(self) -> None:
        self.server.add_image("src", self.source)
        self.server.blockdev_add(driver="raw", node_name="guest", file="src")
        self.guest = self.server.export("guest", writable=True)

    def guest_writes(self) -> None:
        self.write(0, SIZE)

    def write(self, offset: int, length: int) -> None:
        self.byte = self.byte % 250 + 1
        self.content[offset : offset + length] = bytes([self.byte]) * length
        self.pwrite(offset, length)

    def pwrite(self, offset: int, length: int) -> None:
        self.guest.pwrite(bytes([self.byte]) * length, offset)

    def begin_session(self) -> None:
        self.session += 1

    def steps(self) -> list:
        """Commands of a session from its beginning to its end; `None` stands for the reader."""
        raise NotImplementedError

    def read(self, reader: Nbd) -> None:
        assert reader.read_all() == self.content

    def left(self) -> tuple:
        """All that a session could leave behind, as `query-*` lists it."""
        server = self.server
        nodes = [node for node in server.query_named_block_nodes(flat=True) if not node["node-name"].startswith("#")]
        return (
            {node["node-name"] for node in nodes},
            {export["id"] for export in server.query_block_exports()},
            server.query_jobs(),
            {(node["node-name"], bitmap["name"], bitmap["recording"], bitmap["busy"])
             for node in nodes for bitmap in node.get("dirty-bitmaps", []) if "name" in bitmap},
        )

    def recipe(self, server: Qmp | Server) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        """Called when a session came to its end, before the guest writes again."""

    @property
    def export(self) -> str:
        return f"fleece{self.session}"

    @property
    def read_as(self) -> str:
        return "access"

    @property
    def job(self) -> str:
        return f"job{self.session}"

    # ------------------------------------------------------------------ steps of recipes

    def drop_export(self, server, node: str) -> None:
        for export in server.query_block_exports():
            if export["node-name"] == node:
                server.block_export_del(id=export["id"], mode="hard")
                server.wait_event("BLOCK_EXPORT_DELETED", {"id": export["id"]})

    def drop_node(self, server, node: str) -> None:
        if any(entry["node-name"] == node for entry in server.query_named_block_nodes(flat=True)):
            server.blockdev_del(node_name=node)

    def drop_job(self, server) -> None:
        """Whatever state it is in: one that is not over is cancelled, one that waits to be dismissed is."""
        cancelled = False
        while status := next((job["status"] for job in server.query_jobs() if job["id"] == self.job), None):
            if status == "concluded":
                server.job_dismiss(id=self.job)
            elif status in ("running", "paused", "pending") and not cancelled:
                # It may have come to its end since.
                server.try_execute("job-cancel", {"id": self.job})
                cancelled = True


class ByReopen(Scene):
    def prepare(self) -> None:
        super().prepare()
        self.scratch = self.images.create("scratch.raw", "raw", SIZE)

    def steps(self) -> list:
        return [
            ("blockdev-add", {"driver": "raw", "node-name": "scratch", "file": {"driver": "file", "filename": str(self.scratch)}}),
            ("blockdev-add", {"driver": "copy-before-write", "node-name": "cbw", "file": "src", "target": "scratch"}),
            self.put("cbw"),
            ("blockdev-add", {"driver": "snapshot-access", "node-name": "access", "file": "cbw"}),
            ("block-export-add", {"type": "nbd", "id": self.export, "node-name": "access"}),
            None,
            ("block-export-del", {"id": self.export, "mode": "hard"}),
            ("blockdev-del", {"node-name": "access"}),
            self.put("src"),
            ("blockdev-del", {"node-name": "cbw"}),
            ("blockdev-del", {"node-name": "scratch"}),
        ]

    def put(self, node: str) -> tuple:
        return ("blockdev-reopen", {"options": [{"driver": "raw", "node-name": "guest", "file": node}]})

    def recipe(self, server) -> None:
        self.drop_export(server, "access")
        self.drop_node(server, "access")
        server.execute(*self.put("src"))
        self.drop_node(server, "cbw")
        self.drop_node(server, "scratch")


class ByQomSet(ByReopen):
    def start(self, start, **options) -> Server:
        return start("-device", "virtio-scsi", "-blockdev", f"driver=qcow2,node-name=src,file.driver=file,file.filename={self.source}",
                     "-device", "scsi-hd,id=disk,drive=src", machine="q35", **options)

    def prepare(self) -> None:
        self.scratch = self.images.create("scratch.raw", "raw", SIZE)

    def put(self, node: str) -> tuple:
        return ("qom-set", {"path": "/machine/peripheral/disk", "property": "drive", "value": node})

    def pwrite(self, offset: int, length: int) -> None:
        assert self.server.hmp(f'qemu-io -d disk "write -P {self.byte} {offset} {length}"') == ""

    def recipe(self, server) -> None:
        self.drop_export(server, "access")
        self.drop_node(server, "access")
        # Setting what it is already ends QEMU.
        if server.qom_get(path="/machine/peripheral/disk", property="drive") != "src":
            server.execute(*self.put("src"))
        self.drop_node(server, "cbw")
        self.drop_node(server, "scratch")


class Classic(Scene):
    """A temporary overlay, and a backup that only saves what is about to be overwritten."""

    def prepare(self) -> None:
        super().prepare()
        self.scratch = self.images.create("fleece.qcow2", size=SIZE)

    def begin_session(self) -> None:
        super().begin_session()
        self.images.create("fleece.qcow2", size=SIZE)

    def steps(self) -> list:
        return [
            ("blockdev-add", {"driver": "qcow2", "node-name": "access", "backing": "src",
                              "file": {"driver": "file", "filename": str(self.scratch)}}),
            ("blockdev-backup", {"job-id": self.job, "device": "src", "target": "access", "sync": "none"}),
            ("block-export-add", {"type": "nbd", "id": self.export, "node-name": "access"}),
            None,
            ("block-export-del", {"id": self.export, "mode": "hard"}),
            ("job-cancel", {"id": self.job}),
            ("blockdev-del", {"node-name": "access"}),
        ]

    def recipe(self, server) -> None:
        self.drop_export(server, "access")
        self.drop_job(server)
        self.drop_node(server, "access")


class ClassicByDrive(Classic):
    """The same with the commands that there were first."""

    def steps(self) -> list:
        drive = f"drive_add 0 if=none,id=drive,node-name=access,file={self.scratch},format=qcow2,backing=src"
        return [
            ("human-monitor-command", {"command-line": drive}),
            ("blockdev-backup", {"job-id": self.job, "device": "src", "target": "access", "sync": "none"}),
            ("nbd-server-add", {"device": "access", "name": self.export}),
            None,
            ("nbd-server-remove", {"name": self.export, "mode": "hard"}),
            ("block-job-complete", {"device": self.job}),
            ("human-monitor-command", {"command-line": "drive_del drive"}),
        ]

    @property
    def read_as(self) -> str:
        return self.export

    def drop_node(self, server, node: str) -> None:
        if any(entry["node-name"] == node for entry in server.query_named_block_nodes(flat=True)):
            server.execute("human-monitor-command", {"command-line": "drive_del drive"})


class JobOfAccess(ByReopen):
    """What `access` shows is not read from outside, but copied by a job that is told when to end and when to go."""

    def prepare(self) -> None:
        super().prepare()
        self.copy = self.images.create("copy.raw", "raw", SIZE)

    def steps(self) -> list:
        begin, end = super().steps()[:4], super().steps()[7:]
        return [*begin, *self.backup(sync="full"), *end]

    def backup(self, **how) -> list:
        return [
            ("blockdev-add", {"driver": "raw", "node-name": "copy", "file": {"driver": "file", "filename": str(self.copy)}}),
            ("blockdev-backup", {"job-id": self.job, "device": "access", "target": "copy", "speed": 1,
                                 "x-perf": {"max-workers": 1, "max-chunk": 65536},
                                 "auto-finalize": False, "auto-dismiss": False, **how}),
            ("block-job-set-speed", {"device": self.job, "speed": 0}),
            ("job-finalize", {"id": self.job}),
            ("job-dismiss", {"id": self.job}),
            ("blockdev-del", {"node-name": "copy"}),
        ]

    def recipe(self, server) -> None:
        self.drop_job(server)
        self.drop_node(server, "copy")
        super().recipe(server)

    def ended(self) -> None:
        assert self.copy.content() == self.content


class Marked(Scene):
    """Mixed into a scene: its session takes what the bitmap `b` marks, and `b` begins anew at that instant.

    Whoever takes the marks is to blame when they are lost: as long as there is `taken`, nobody has said that the backup was
    a success, and what it marks belongs to `b`."""

    UNIT = 65536
    BEFORE, MEANWHILE = (1, 2, 9), (2, 5)

    def prepare(self) -> None:
        super().prepare()
        self.server.block_dirty_bitmap_add(node="src", name="b", granularity=self.UNIT)

    def begin_session(self) -> None:
        super().begin_session()
        self.server.block_dirty_bitmap_clear(node="src", name="b")
        for piece in self.BEFORE:
            self.write(piece * self.UNIT, self.UNIT)

    def guest_writes(self) -> None:
        for piece in self.MEANWHILE:
            self.write(piece * self.UNIT, self.UNIT)

    def take(self, *others) -> tuple:
        return ("transaction", {"actions": [
            {"type": "block-dirty-bitmap-add",
             "data": {"node": "src", "name": "taken", "granularity": self.UNIT, "disabled": True}},
            {"type": "block-dirty-bitmap-merge", "data": {"node": "src", "target": "taken", "bitmaps": ["b"]}},
            {"type": "block-dirty-bitmap-clear", "data": {"node": "src", "name": "b"}},
            *others,
        ]})  # fmt: skip

    SUCCESS = ("block-dirty-bitmap-remove", {"node": "src", "name": "taken"})

    def give_back(self, server) -> None:
        """Nothing is lost when this is done although the backup was a success: the next one copies more than it must."""
        if ("src", "taken") in self.bitmaps(server):
            server.transaction(actions=[
                {"type": "block-dirty-bitmap-merge", "data": {"node": "src", "target": "b", "bitmaps": ["taken"]}},
                {"type": "block-dirty-bitmap-remove", "data": {"node": "src", "name": "taken"}},
            ])

    def recipe(self, server) -> None:
        was_taken = ("src", "taken") in self.bitmaps(server)
        super().recipe(server)
        self.give_back(server)
        if was_taken:
            assert self.digest() == self.digest_of(*self.BEFORE, *self.MEANWHILE)

    @staticmethod
    def bitmaps(server) -> set:
        nodes = server.query_named_block_nodes(flat=True)
        return {(node["node-name"], bitmap["name"]) for node in nodes for bitmap in node.get("dirty-bitmaps", [])
                if "name" in bitmap}

    def digest(self) -> str:
        return self.server.x_debug_block_dirty_bitmap_sha256(node="src", name="b")["sha256"]

    def digest_of(self, *pieces: int) -> str:
        return hashlib.sha256(sum(1 << piece for piece in set(pieces)).to_bytes(8, "little")).hexdigest()

    def ended(self) -> None:
        """The session came to its end: what was taken is done with."""
        assert self.digest() == self.digest_of()

    def read(self, reader: Nbd) -> None:
        extents = reader.extents("qemu:dirty-bitmap:taken")
        marked = [piece for piece in range(SIZE // self.UNIT)
                  if any(e.flags & 1 and e.offset <= piece * self.UNIT < e.offset + e.length for e in extents)]
        assert marked == list(self.BEFORE)
        for piece in marked:
            start = piece * self.UNIT
            assert reader.pread(self.UNIT, start) == self.content[start : start + self.UNIT]

    CONTEXTS = ("qemu:dirty-bitmap:taken",)

    def exported(self) -> tuple:
        return ("block-export-add", {"type": "nbd", "id": self.export, "node-name": "access",
                                     "bitmaps": [{"node": "src", "name": "taken"}]})


class MarkedByReopen(Marked, ByReopen):
    """Only what is marked can be read; the marks are shown to the reader."""

    def steps(self) -> list:
        steps = super().steps()
        steps[1][1]["bitmap"] = {"node": "src", "name": "taken"}
        steps[4] = self.exported()
        return [self.take(), *steps, self.SUCCESS]

    def read(self, reader: Nbd) -> None:
        super().read(reader)
        with pytest.raises(OSError, match="Invalid argument"):
            reader.pread(self.UNIT, 0)


class MarkedByQomSet(MarkedByReopen, ByQomSet):
    """The same for a device."""


class MarkedClassic(Marked, Classic):
    """The marks are taken in the instant in which the backup begins."""

    def steps(self) -> list:
        steps = super().steps()
        steps[1] = self.take({"type": "blockdev-backup", "data": steps[1][1]})
        steps[2] = self.exported()
        return [*steps, self.SUCCESS]


class MarkedJobOfAccess(Marked, JobOfAccess):
    """The job copies what a bitmap of `access` marks, which goes with that node."""

    def steps(self) -> list:
        begin, end = ByReopen.steps(self)[:4], ByReopen.steps(self)[7:]
        begin[1][1]["bitmap"] = {"node": "src", "name": "taken"}
        marks = ("transaction", {"actions": [
            {"type": "block-dirty-bitmap-add", "data": {"node": "access", "name": "todo", "granularity": self.UNIT}},
            {"type": "block-dirty-bitmap-merge",
             "data": {"node": "access", "target": "todo", "bitmaps": [{"node": "src", "name": "taken"}]}},
        ]})  # fmt: skip
        backup = self.backup(sync="bitmap", **{"bitmap": "todo", "bitmap-mode": "never"})
        return [self.take(), *begin, marks, *backup, *end, self.SUCCESS]

    def ended(self) -> None:
        super().ended()
        copied = self.copy.content()
        for piece in range(SIZE // self.UNIT):
            place = slice(piece * self.UNIT, (piece + 1) * self.UNIT)
            assert copied[place] == (self.content[place] if piece in self.BEFORE else bytes(self.UNIT)), piece


def run_until(client: Qmp, scene: Scene, last: int) -> Nbd | None:
    """The session's commands up to and with number `last`; what an export was deleted for waits for that."""
    reader = None
    for step in scene.steps()[: last + 1]:
        if step is None:
            reader = Nbd(scene.server.nbd_path, scene.read_as, scene.CONTEXTS)
            scene.read(reader)
            continue
        client.execute(*step)
        if step[0] in WAITS:
            WAITS[step[0]](client, scene)
    return reader


# What a client waits for after a command, before its next one.
WAITS = {
    "block-export-del": lambda client, scene: client.wait_event("BLOCK_EXPORT_DELETED", {"id": scene.export}),
    "nbd-server-remove": lambda client, scene: client.wait_event("BLOCK_EXPORT_DELETED", {"id": scene.export}),
    "job-cancel": lambda client, scene: client.wait_null(scene.job),
    "block-job-complete": lambda client, scene: client.wait_null(scene.job),
    "block-job-set-speed": lambda client, scene: client.wait_status(scene.job, "pending"),
    "job-finalize": lambda client, scene: client.wait_status(scene.job, "concluded"),
    "job-dismiss": lambda client, scene: client.wait_null(scene.job),
}


def hang_up(client: Qmp) -> None:
    """The server has seen all that was sent, and that nobody is there any more, when it hangs up as well."""
    client.sock.shutdown(socket.SHUT_WR)
    client.sock.settimeout(20)
    while client.sock.recv(1 << 16):
        pass
    client.close()


def check_recovery(scene: Scene, reader: Nbd | None) -> None:
    scene.guest_writes()
    scene.recipe(scene.server)
    assert scene.left() == scene.before
    # Twice does no harm.
    scene.recipe(scene.server)
    assert scene.left() == scene.before
    scene.guest_writes()
    if reader is not None:
        reader.close()


def end(scene: Scene) -> None:
    scene.server.stop()
    scene.source.check()
    assert scene.source.content() == scene.content


def kill_after_each_command(scene: Scene) -> None:
    for last in range(len(scene.steps())):
        scene.begin_session()
        client = scene.server.monitors[1 + last]
        reader = run_until(client, scene, last)
        client.close()
        if last == len(scene.steps()) - 1:
            scene.ended()
        check_recovery(scene, reader)
    end(scene)


def kill_in_each_command(scene: Scene) -> None:
    for number in range(len(scene.steps())):
        scene.begin_session()
        step = scene.steps()[number]
        if step is None:
            continue
        client = scene.server.monitors[1 + number]
        reader = run_until(client, scene, number - 1)
        client.send(*step)
        hang_up(client)
        check_recovery(scene, reader)
    end(scene)


MONITORS = 20
KILLS = pytest.mark.parametrize("kill", [kill_after_each_command, kill_in_each_command])


@KILLS
@pytest.mark.parametrize("kind", [ByReopen, Classic])
def test_killed_in_a_session(start, images, kind, kill):
    kill(kind(start, images, MONITORS))


@KILLS
@pytest.mark.manners("daemon")
@pytest.mark.parametrize("kind", [JobOfAccess, MarkedByReopen, MarkedClassic, MarkedJobOfAccess])
def test_killed_in_a_session_with_a_job_or_marks(start, images, kind, kill):
    kill(kind(start, images, MONITORS))


@KILLS
@pytest.mark.manners("system")
@pytest.mark.parametrize("kind", [ByQomSet, MarkedByQomSet, pytest.param(
    ClassicByDrive, marks=pytest.mark.differs("QEMU refuses block-job-complete of a backup", server="qemu"))])
def test_killed_in_a_session_with_a_device_or_drive(start, images, kind, kill):
    kill(kind(start, images, MONITORS))


def test_what_is_left_is_listed(start, images):
    """What a session has made is seen by whoever comes next, under the names that it was given."""
    scene = ByReopen(start, images, monitors=2)
    scene.begin_session()
    nodes, exports, *_ = scene.before
    run_until(scene.server.monitors[1], scene, 4)
    scene.server.monitors[1].close()
    left = scene.left()
    assert left[0] - nodes == {"scratch", "cbw", "access"} and left[1] - exports == {scene.export}
    with pytest.raises(QmpError, match="in use"):
        scene.server.blockdev_del(node_name="access")
    scene.recipe(scene.server)
    assert scene.left() == scene.before


def test_marks_and_jobs_that_are_left_are_listed(start, images):
    scene = MarkedJobOfAccess(start, images, monitors=2)
    scene.begin_session()
    run_until(scene.server.monitors[1], scene, 7)
    scene.server.monitors[1].close()
    nodes, exports, jobs, bitmaps = scene.left()
    assert nodes - scene.before[0] == {"scratch", "cbw", "access", "copy"} and exports == scene.before[1]
    assert [(job["id"], job["type"], job["status"]) for job in jobs] == [(scene.job, "backup", "running")]
    assert bitmaps == {("src", "b", True, False), ("src", "taken", False, False), ("access", "todo", True, True)}
    with pytest.raises(QmpError, match="in use"):
        scene.server.blockdev_del(node_name="access")
    check_recovery(scene, None)
