"""A synchronous QMP client.

Problem: a test of a monitor must see what the server sent, in the order in which it was sent, and must be able to
send what no well-behaved client would.

Contract
  - One `Qmp` is one connection. Everything received is kept in `received`, in order of arrival and with the keys of
    objects in the order of the wire; events are also queued for `wait_event` and `events`.
  - `execute` sends a command and returns the value of its reply; an error reply is raised as `QmpError`. Events that
    arrive in between are queued, not lost.
  - `qmp.blockdev_add(...)` is `qmp.execute("blockdev-add", ...)`, and so for every command whose name has no `_`.
  - Names: Python keyword arguments use `_` for `-` (`node_name=` is sent as `node-name`), nested dictionaries and
    the optional dictionary of arguments are sent as they are.
  - Every wait has an end: `timeout` seconds (30 by default), then TimeoutError with what had arrived by then.
  - Not thread-safe: a thread that talks has its own connection.
"""

from __future__ import annotations

import functools
import json
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Iterable

DEFAULT_TIMEOUT = 30.0

try:  # Generated from the schema: one method a command, with its arguments spelt out.
    from .qmp_types import Commands as _Commands
except ImportError:

    class _Commands:  # type: ignore[no-redef]
        """Without the generated file every name is taken for a command, see `Qmp.__getattr__`."""


class QmpError(Exception):
    """An error reply: `error_class` for programs, `desc` for people."""

    def __init__(self, error_class: str, desc: str, command: str = ""):
        super().__init__(f"{command}: {error_class}: {desc}" if command else f"{error_class}: {desc}")
        self.error_class = error_class
        self.desc = desc


class Disconnected(Exception):
    """The server closed the connection."""


def _as_argument_name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def matches(value: Any, pattern: Any) -> bool:
    """True when `value` has everything that `pattern` names: dictionaries are compared by the pattern's keys."""
    if isinstance(pattern, dict) and isinstance(value, dict):
        return all(key in value and matches(value[key], part) for key, part in pattern.items())
    return value == pattern


class Qmp(_Commands):
    def __init__(self, sock: socket.socket, *, handshake: bool = True, oob: bool = False):
        self.sock = sock
        self.received: list[dict] = []
        self.greeting: dict | None = None
        self.timeout = DEFAULT_TIMEOUT
        self._buffer = bytearray()
        self._queue: deque[dict] = deque()
        self._replies: deque[dict] = deque()
        self._next_id = 0
        if handshake:
            self.greet()
            self.execute("qmp_capabilities", {"enable": ["oob"]} if oob else {})

    # ------------------------------------------------------------------ connections

    @classmethod
    def connect(cls, address: str | Path | tuple[str, int], *, timeout: float = DEFAULT_TIMEOUT, **options) -> Qmp:
        """Connects to a unix socket (a path) or a TCP one (host, port); waits for the socket to be there."""
        deadline = time.monotonic() + timeout
        while True:
            if isinstance(address, tuple):
                sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
                target: Any = address
            else:
                sock = socket.socket(socket.AF_UNIX)
                target = str(address)
            try:
                sock.connect(target)
                return cls(sock, **options)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    @classmethod
    def listen(cls, path: str | Path) -> socket.socket:
        """A listening unix socket for a server that connects to us; hand the accepted socket to `Qmp`."""
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(1)
        sock.settimeout(DEFAULT_TIMEOUT)
        return sock

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    # ------------------------------------------------------------------ raw access

    def send_raw(self, data: bytes | str) -> None:
        self.sock.settimeout(self.timeout)
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def recv_line(self, timeout: float | None = None) -> bytes:
        """One line as it came, its end included. Disconnected when there will be no more."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while (end := self._buffer.find(b"\n")) < 0:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"nothing more from the server; it had sent {self._tail()}")
            self.sock.settimeout(remaining)
            try:
                data = self.sock.recv(1 << 20)
            except TimeoutError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                raise Disconnected(f"connection closed by the server; it had sent {self._tail()}")
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def recv(self, timeout: float | None = None) -> dict:
        """The next value, whatever it is. It is recorded, not queued."""
        value = json.loads(self.recv_line(timeout))
        self.received.append(value)
        return value

    def at_eof(self, timeout: float | None = None) -> bool:
        """True when the server closes without sending another line."""
        try:
            self._dispatch(self.recv(timeout))
            return False
        except Disconnected:
            return True

    def _tail(self) -> str:
        return json.dumps(self.received[-5:])

    # ------------------------------------------------------------------ commands

    def greet(self) -> dict:
        self.greeting = self.recv()
        if "QMP" not in self.greeting:
            raise AssertionError(f"no greeting, but {self.greeting}")
        return self.greeting

    def send(self, command: str, arguments: dict | None = None, *, oob: bool = False, id_: Any = None) -> Any:
        """Sends a command without waiting for its reply; returns its id for `reply`."""
        if id_ is None:
            self._next_id += 1
            id_ = self._next_id
        message: dict[str, Any] = {"exec-oob" if oob else "execute": command, "id": id_}
        if arguments:
            message["arguments"] = arguments
        self.send_raw(json.dumps(message) + "\n")
        return id_

    def reply(self, id_: Any, timeout: float | None = None, command: str = "") -> Any:
        """The value of the reply with this id; other replies and events are kept."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            for message in self._replies:
                if message.get("id") == id_:
                    self._replies.remove(message)
                    return self._value(message, command)
            self._dispatch(self.recv(deadline - time.monotonic()))

    def execute(self, command: str, arguments: dict | None = None, /, **named: Any) -> Any:
        merged = dict(arguments or {})
        merged.update((_as_argument_name(name), value) for name, value in named.items())
        return self.reply(self.send(command, merged), command=command)

    def execute_oob(self, command: str, arguments: dict | None = None, /, **named: Any) -> Any:
        merged = dict(arguments or {})
        merged.update((_as_argument_name(name), value) for name, value in named.items())
        return self.reply(self.send(command, merged, oob=True), command=command)

    def try_execute(self, command: str, arguments: dict | None = None, /, **named: Any) -> Any:
        """Like `execute`, but an error reply is returned as a QmpError instead of being raised."""
        try:
            return self.execute(command, arguments, **named)
        except QmpError as error:
            return error

    def error(self, command: str, arguments: dict | None = None, /, **named: Any) -> str:
        """The description of the error that this command must give; `Class: text` unless it is a GenericError."""
        result = self.try_execute(command, arguments, **named)
        assert isinstance(result, QmpError), f"{command} was expected to fail, and returned {result!r}"
        return result.desc if result.error_class == "GenericError" else f"{result.error_class}: {result.desc}"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self.execute, _as_argument_name(name))

    def _value(self, message: dict, command: str) -> Any:
        if "error" in message:
            raise QmpError(message["error"]["class"], message["error"]["desc"], command)
        return message["return"]

    def _dispatch(self, message: dict) -> None:
        if "event" in message:
            self._queue.append(message)
        elif "return" in message or "error" in message:
            self._replies.append(message)
        else:
            raise AssertionError(f"neither event nor reply: {message}")

    # ------------------------------------------------------------------ events

    def poll(self) -> None:
        """Takes in what the server has sent so far: a round trip, so that what it sent earlier has arrived."""
        self.execute("query-version")

    def events(self, *names: str) -> list[dict]:
        """All queued events (of these names), oldest first; they leave the queue."""
        taken = [event for event in self._queue if not names or event["event"] in names]
        self._queue = deque(event for event in self._queue if names and event["event"] not in names)
        return taken

    def wait_event(
        self,
        name: str | Iterable[str],
        match: dict | Callable[[dict], bool] | None = None,
        timeout: float | None = None,
    ) -> dict:
        """The oldest event of this name (or one of these) whose data matches; others stay queued in their order."""
        names = {name} if isinstance(name, str) else set(name)

        def wanted(event: dict) -> bool:
            if event["event"] not in names:
                return False
            if callable(match):
                return match(event)
            return match is None or matches(event.get("data", {}), match)

        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            for event in self._queue:
                if wanted(event):
                    self._queue.remove(event)
                    return event
            try:
                self._dispatch(self.recv(max(0.0, deadline - time.monotonic())))
            except TimeoutError:
                raise TimeoutError(f"no {names} matching {match}; queued: {list(self._queue)}") from None

    def wait_status(self, job: str, status: str, timeout: float | None = None) -> None:
        """Waits until the job has been announced in this state."""
        self.wait_event("JOB_STATUS_CHANGE", {"id": job, "status": status}, timeout)

    def wait_null(self, job: str, timeout: float | None = None) -> None:
        """Waits for the end of a job that dismisses itself."""
        self.wait_status(job, "null", timeout)

    # ------------------------------------------------------------------ transcript

    def transcript(self) -> list[str]:
        """What was received, one short line each: `EVENT name` (with the state of a job), `return`, `error`."""
        lines = []
        for message in self.received:
            if "event" in message:
                data = message.get("data", {})
                detail = data.get("status") or data.get("device") or data.get("id") or ""
                lines.append(f"{message['event']} {detail}".strip())
            else:
                lines.append(next(iter(message)) if "id" not in message else ("error" if "error" in message else "return"))
        return lines
