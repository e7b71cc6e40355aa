"""Starting and stopping the server under test.

Problem: a test must not care whether it talks to Blockbed or to QEMU, in the manner of the system emulator or of the
storage daemon; it must never wait for a server that has died, and never pass when the server crashed on the way out.

Contract
  - A `Server` lives in a directory of its own (`dir`), is started by `start` or by entering its context, and has
    greeted and negotiated on `qmp` when that returns.
  - It ends by `stop`: `quit` is sent unless the server has gone already; exit status 0 and no report of a sanitizer
    are asserted. Leaving the context after an exception kills the server instead, so the first failure is the one seen.
  - Commands can be called on the server itself: `server.blockdev_add(...)`, `server.execute(...)`, see `Qmp`.
  - Standard output and error are captured in files: `stdout`, `stderr`.
"""

from __future__ import annotations

import dataclasses
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .nbd import Nbd
from .qmp import Qmp, QmpError

START_TIMEOUT = 20.0
STOP_TIMEOUT = 30.0
SANITIZER_MARKS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:", "WARNING: ThreadSanitizer")
MANNERS = ("system", "daemon")


class ServerDied(AssertionError):
    """The server ended when it should not have, or in a way in which it should not have."""


@dataclasses.dataclass(frozen=True)
class Program:
    """Which server: `kind` is what tests may ask for, `system` and `daemon` are how each manner is started."""

    kind: str
    system: tuple[str, ...]
    daemon: tuple[str, ...]

    def command(self, manner: str) -> list[str]:
        return list(self.system if manner == "system" else self.daemon)


def newest_build(root: Path) -> Path | None:
    builds = [path for path in root.glob("build/*/blockbed") if os.access(path, os.X_OK) and path.is_file()]
    return max(builds, key=lambda path: path.stat().st_mtime, default=None)


def find_program(name: str) -> Program:
    """`qemu`, `blockbed` (the newest build in this tree) or `blockbed:PATH`."""
    kind, _, path = name.partition(":")
    if kind == "qemu":
        system, daemon = shutil.which("qemu-system-x86_64"), shutil.which("qemu-storage-daemon")
        if system is None or daemon is None:
            raise FileNotFoundError("qemu-system-x86_64 and qemu-storage-daemon are not installed")
        return Program("qemu", (system,), (daemon,))
    if kind == "blockbed":
        root = Path(__file__).resolve().parent.parent.parent
        binary = Path(path).resolve() if path else newest_build(root)
        if binary is None or not binary.exists():
            raise FileNotFoundError(f"no blockbed in {path or root / 'build'}: build it, or say --server blockbed:PATH")
        return Program("blockbed", (str(binary), "system"), (str(binary), "daemon"))
    raise ValueError(f"'{name}' is no server: qemu, blockbed or blockbed:PATH")


class Server:
    def __init__(
        self,
        program: Program,
        manner: str = "system",
        args: tuple[str, ...] | list[str] = (),
        *,
        dir: Path | None = None,
        machine: str = "none",
        monitors: int = 1,
        oob: bool = False,
        negotiate: bool = True,
        pass_fds: tuple[int, ...] = (),
    ):
        assert manner in MANNERS
        self.program, self.manner, self.kind = program, manner, program.kind
        self.args = [str(arg) for arg in args]
        self._own_dir = dir is None
        self.dir = Path(tempfile.mkdtemp(prefix="bb-")) if dir is None else dir
        self.machine, self.oob, self.negotiate = machine, oob, negotiate
        self.pass_fds = pass_fds
        self.process: subprocess.Popen | None = None
        self.qmp: Qmp = None  # type: ignore[assignment]
        self.monitors: list[Qmp] = []
        self._monitor_count = monitors
        self._exports = 0
        self._killed = False
        self._taken: set[Path] = set()
        self._nbd_address: dict | None = None
        self._expected_status = 0

    # ------------------------------------------------------------------ life

    def start(self) -> Server:
        paths = [self._unique("monitor", ".sock") for _ in range(self._monitor_count)]
        listeners = [Qmp.listen(path) for path in paths]
        self._stdout_path, self._stderr_path = self._unique("stdout"), self._unique("stderr")
        environment = dict(os.environ)
        environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        # The death of the test process takes the server along, however it died.
        command = ["setpriv", "--pdeathsig", "KILL"]
        with open(self._stdout_path, "wb") as out, open(self._stderr_path, "wb") as err:
            self.process = subprocess.Popen(
                command + self.program.command(self.manner) + self._base_args(paths) + self.args,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=self.pass_fds,
                env=environment,
                cwd=self.dir,
            )
        try:
            for listener in listeners:
                self.monitors.append(Qmp(self._accept(listener), handshake=self.negotiate, oob=self.oob))
        except BaseException:
            self.kill()
            raise
        finally:
            for listener, path in zip(listeners, paths):
                listener.close()
                path.unlink(missing_ok=True)
        if self.monitors:
            self.qmp = self.monitors[0]
        return self

    def _base_args(self, monitor_paths: list[Path]) -> list[str]:
        if self.manner == "system":
            args = ["-nodefaults", "-display", "none", "-machine", self.machine]
            if self.machine != "none":
                args += ["-S", "-m", "16"]
            for path in monitor_paths:
                args += ["-qmp", f"unix:{path}"]
            return args
        args = []
        for number, path in enumerate(monitor_paths):
            args += ["--chardev", f"socket,id=monitor{number},path={path}", "--monitor", f"chardev=monitor{number}"]
        return args

    def _accept(self, listener: socket.socket) -> socket.socket:
        """The server's connection, or its last words when it ends without connecting."""
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        pidfd = os.pidfd_open(self.process.pid)
        poller.register(pidfd, select.POLLIN)
        try:
            ready = {fd for fd, _ in poller.poll(START_TIMEOUT * 1000)}
            if listener.fileno() in ready:
                return listener.accept()[0]
            if pidfd in ready:
                self.process.wait()
                raise ServerDied(f"the server did not start: status {self.process.returncode}\n{self.stderr}")
            raise TimeoutError(f"no connection from the server within {START_TIMEOUT} s\n{self.stderr}")
        finally:
            os.close(pidfd)

    def stop(self) -> None:
        """Ends the server as a client would, and judges how it ended."""
        if self.process is None or self._killed:
            return
        if self.process.poll() is None and self.qmp is not None:
            try:
                self.qmp.send("quit")
            except OSError:
                pass
        elif self.process.poll() is None:
            self.process.terminate()
        self.wait()

    def wait(self, status: int = 0, timeout: float = STOP_TIMEOUT) -> None:
        """Waits for the server's own end."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerDied(f"the server did not end within {timeout} s\n{self.stderr}") from None
        stderr = self.stderr
        if any(mark in stderr for mark in SANITIZER_MARKS):
            raise ServerDied(f"a sanitizer reported:\n{stderr}")
        if self.process.returncode != status:
            code = self.process.returncode
            how = signal.Signals(-code).name if code < 0 else f"status {code}"
            raise ServerDied(f"the server ended with {how}\n{stderr}")

    def kill(self) -> None:
        """Ends it without asking, and closes the connections."""
        if self.process is not None and self.process.poll() is None:
            self._killed = True
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        for monitor in self.monitors:
            monitor.close()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, kind, *_exc) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self.kill()
            if self._own_dir:
                shutil.rmtree(self.dir, ignore_errors=True)

    def _unique(self, stem: str, suffix: str = "") -> Path:
        """Names stay short (a socket's path may have 107 bytes) and differ when servers share a directory."""
        for number in range(1000):
            path = self.dir / f"{stem}{number}{suffix}"
            if path not in self._taken and not path.exists():
                self._taken.add(path)
                return path
        raise RuntimeError(f"too many {stem} files in {self.dir}")

    # ------------------------------------------------------------------ what it said

    @property
    def stdout(self) -> str:
        return self._stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._stderr_path.read_text(errors="replace")

    # ------------------------------------------------------------------ commands

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "qmp" not in self.__dict__ or self.qmp is None:
            raise AttributeError(name)
        return getattr(self.qmp, name)

    def hmp(self, line: str) -> str:
        """A command of the human monitor; its answer with the line ends of text."""
        return self.qmp.execute("human-monitor-command", {"command-line": line}).replace("\r\n", "\n")

    def qemu_io(self, device: str, command: str) -> str:
        """A qemu-io command on a device or node; what it printed, which goes to the server's standard output."""
        before = len(self.stdout)
        answer = self.hmp(f'qemu-io {device} "{command}"')
        return self.stdout[before:] + answer

    def query_node(self, node: str) -> dict:
        """The entry of query-named-block-nodes for this node."""
        for entry in self.qmp.execute("query-named-block-nodes"):
            if entry.get("node-name") == node:
                return entry
        raise KeyError(node)

    def node_names(self) -> set[str]:
        return {entry["node-name"] for entry in self.qmp.execute("query-named-block-nodes", {"flat": True})}

    def add_image(self, node: str, image: Any, *, faults: list[dict] | None = None, **options: Any) -> str:
        """Opens an image as `node`, over a protocol node of its own that has no name, and a blkdebug with `faults` as its
        `inject-error` if there are some."""
        file: dict[str, Any] = {"driver": "file", "filename": str(image.path)}
        if faults is not None:
            file = {"driver": "blkdebug", "image": file, "inject-error": faults}
        self.qmp.execute("blockdev-add", {"driver": image.format, "node-name": node, "file": file}, **options)
        return node

    # ------------------------------------------------------------------ NBD

    def nbd_start(self, **options: Any) -> Path:
        """Starts the NBD server on a unix socket in the server's directory."""
        path = self._unique("nbd", ".sock")
        self.qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(path)}}}, **options)
        self.nbd_path = path
        return path

    def export(self, node: str, name: str | None = None, *, writable: bool = False,
               contexts: tuple[str, ...] = ("base:allocation",), **options: Any) -> Nbd:
        """Exports a node (`block-export-add`) and connects to it, with these metadata contexts. The NBD server is started
        when there is none."""
        if "nbd_path" not in self.__dict__:
            self.nbd_start()
        name = node if name is None else name
        self._exports += 1
        export_id = options.pop("id", f"export{self._exports}")
        self.qmp.execute(
            "block-export-add",
            {"type": "nbd", "id": export_id, "node-name": node, "name": name, "writable": writable},
            **options,
        )
        nbd = Nbd(self.nbd_path, name, contexts)
        nbd.export_id = export_id
        return nbd

    def nbd(self, name: str) -> Nbd:
        """Another client of an export that is there already."""
        return Nbd(self.nbd_path, name)

    # ------------------------------------------------------------------ jobs

    def finish_job(self, job: str, timeout: float | None = None) -> dict | None:
        """Waits for the end of a job that finalizes and dismisses itself; its BLOCK_JOB_COMPLETED or _CANCELLED event."""
        ended = self.qmp.wait_event(("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"), {"device": job}, timeout)
        self.qmp.wait_null(job)
        return ended

    def job(self, job: str) -> dict | None:
        """The entry of query-jobs, or None when there is no such job."""
        return next((entry for entry in self.qmp.execute("query-jobs") if entry["id"] == job), None)

    def wait_job(self, job: str, status: str, timeout: float = 30.0) -> dict:
        """Asks until the job is in this state. A drained section also announces `paused`: only asking tells which."""
        deadline = time.monotonic() + timeout
        while True:
            entry = self.job(job)
            if entry is not None and entry["status"] == status:
                return entry
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} is not {status}, but {entry}")

    def job_states(self, job: str) -> list[str]:
        """The states that this job has been announced in so far, the pauses of drained sections left out."""
        states = [
            message["data"]["status"]
            for message in self.qmp.received
            if message.get("event") == "JOB_STATUS_CHANGE" and message["data"]["id"] == job
        ]
        kept: list[str] = []
        for state in states:
            if len(kept) >= 2 and kept[-1] in ("paused", "standby") and kept[-2] == state:
                kept.pop()
            else:
                kept.append(state)
        return kept
