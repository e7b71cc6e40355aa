"""A client that dies in the middle of a fleecing session: what is left is listed, and docs/fleecing.md says how it goes away.

Each session is cut off after every command, and in every command (sent, the reply never read), with a reader still
connected when there is something to read. The recipe knows the names that the session gives and nothing of how far it came.
"""

import socket

import pytest

from blockbed_iotests import Nbd, Qmp, QmpError, Server

SIZE = 1 << 20


class Scene:
    """A guest that writes to a disk, and what must be there before and after a session: no more, no less."""

    # Monitors hear of the sessions before theirs: what has events has another name each time.
    session = 0

    def __init__(self, start, images, monitors: int):
        self.images = images
        self.source = images.create("src.qcow2", size=SIZE).fill((0, SIZE, 1))
        self.server = self.start(start, monitors=monitors)
        self.server.nbd_start()
        self.byte = 1
        self.prepare()
        self.before = self.left()

    def start(self, start, **options) -> Server:
        return start(**options)

    def prepare(self) -> None:
        self.server.add_image("src", self.source)
        self.server.blockdev_add(driver="raw", node_name="guest", file="src")
        self.guest = self.server.export("guest", writable=True)

    def guest_writes(self) -> None:
        self.byte = self.byte % 250 + 1
        self.guest.pwrite(bytes([self.byte]) * SIZE, 0)

    def begin_session(self) -> None:
        self.session += 1

    def steps(self) -> list:
        """Commands of a session from its beginning to its end; `None` stands for the reader."""
        raise NotImplementedError

    def left(self) -> tuple:
        """All that a session could leave behind, as `query-*` lists it."""
        server = self.server
        return (
            {name for name in server.node_names() if not name.startswith("#")},
            {export["id"] for export in server.query_block_exports()},
            server.query_jobs(),
        )

    def recipe(self, server: Qmp | Server) -> None:
        raise NotImplementedError

    @property
    def export(self) -> str:
        return f"fleece{self.session}"

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

    def guest_writes(self) -> None:
        self.byte = self.byte % 250 + 1
        assert self.server.hmp(f'qemu-io -d disk "write -P {self.byte} 0 {SIZE}"') == ""

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
        for job in server.query_jobs():
            if job["id"] == self.job and job["status"] == "running":
                server.job_cancel(id=self.job)
        while server.query_jobs():
            pass
        self.drop_node(server, "access")


def run_until(client: Qmp, scene: Scene, last: int) -> Nbd | None:
    """The session's commands up to and with number `last`; what an export was deleted for waits for that."""
    reader = None
    for step in scene.steps()[: last + 1]:
        if step is None:
            reader = Nbd(scene.server.nbd_path, "access")
            assert reader.read_all() == bytes([scene.byte]) * SIZE
            continue
        client.execute(*step)
        if step[0] == "block-export-del":
            client.wait_event("BLOCK_EXPORT_DELETED", {"id": scene.export})
        elif step[0] == "job-cancel":
            client.wait_null(scene.job)
    return reader


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
    scene.source.read(0, SIZE, scene.byte)


def kill_after_each_command(scene: Scene) -> None:
    for last in range(len(scene.steps())):
        scene.begin_session()
        client = scene.server.monitors[1 + last]
        reader = run_until(client, scene, last)
        client.close()
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


MONITORS = 12
KILLS = pytest.mark.parametrize("kill", [kill_after_each_command, kill_in_each_command])


@KILLS
@pytest.mark.parametrize("kind", [ByReopen, Classic])
def test_killed_in_a_session(start, images, kind, kill):
    kill(kind(start, images, MONITORS))


@KILLS
@pytest.mark.manners("system")
def test_killed_in_a_session_with_a_device(start, images, kill):
    kill(ByQomSet(start, images, MONITORS))


def test_what_is_left_is_listed(start, images):
    """What a session has made is seen by whoever comes next, under the names that it was given."""
    scene = ByReopen(start, images, monitors=2)
    scene.begin_session()
    nodes, exports, _ = scene.before
    run_until(scene.server.monitors[1], scene, 4)
    scene.server.monitors[1].close()
    left = scene.left()
    assert left[0] - nodes == {"scratch", "cbw", "access"} and left[1] - exports == {scene.export}
    with pytest.raises(QmpError, match="in use"):
        scene.server.blockdev_del(node_name="access")
    scene.recipe(scene.server)
    assert scene.left() == scene.before
