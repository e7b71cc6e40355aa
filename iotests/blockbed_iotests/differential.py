"""The same script of commands to two servers: replies and events must be equal, in the same order.

Problem: "compatible" is a claim about everything that is sent, not about what a test thought of asserting.

Contract
  - A script is a function that takes a `Server` and drives it. It is run against both programs, one after the other,
    each in a directory of its own in which `prepare` may have made the same images.
  - Everything received is normalised (times, directories, generated names, versions, see `normalise`), keeping the
    order of messages and of keys, and compared. A difference is an AssertionError with a readable diff, in which the
    commands appear as `->` lines.
  - A drained section shows as a pair `paused`/`running` (or `standby`/`ready`) of every job that it stops. How many
    sections a server needs is its own affair: such pairs are left out unless a command came in between.
  - A script must be deterministic in what it waits for: where QEMU orders two things by chance, the script collects
    them (`sort_events`) or asks for one of them only.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable

from .qmp import Qmp
from .server import Program, Server

# Values that differ between two runs of one server, by the key that holds them.
VOLATILE = {
    "timestamp", "package", "actual-size", "idle_time_ns", "vm-clock-nsec", "date-sec", "date-nsec", "thread-id",
    "rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns", "unmap_total_time_ns", "disk-size",
}


class _Normaliser:
    def __init__(self, directory: Path):
        self.directory = str(directory)
        self.names: dict[str, str] = {}

    def text(self, text: str) -> str:
        text = text.replace(self.directory, "DIR")
        text = re.sub(r"#block\d+", lambda match: self.names.setdefault(match[0], f"#block{len(self.names)}"), text)
        return re.sub(r"/proc/self/fd/\d+", "/proc/self/fd/N", text)

    def value(self, value: Any, key: str | None = None) -> Any:
        if key in VOLATILE:
            return f"<{key}>"
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            named = {name: self._bitmaps(item) if name == "dirty-bitmaps" else item for name, item in value.items()}
            return {name: self.value(item, name) for name, item in named.items() if item != [] or name != "dirty-bitmaps"}
        return value

    @staticmethod
    def _bitmaps(bitmaps: list[dict]) -> list[dict]:
        """A bitmap without a name belongs to a job or filter; how many those keep is their own affair."""
        return [bitmap for bitmap in bitmaps if "name" in bitmap]


def normalise(value: Any, directory: Path) -> Any:
    """Takes out of a message what differs between two runs: times, the directory, generated names, the version."""
    return _Normaliser(directory).value(value)


def _without_drains(messages: list[dict]) -> list[dict]:
    """Leaves out the pairs of state changes that a drained section makes."""
    kept: list[dict | None] = []
    open_at: dict[str, int] = {}
    for message in messages:
        if "->" in message:
            open_at.clear()
        if message.get("event") == "JOB_STATUS_CHANGE":
            job, status = message["data"]["id"], message["data"]["status"]
            if status in ("paused", "standby"):
                open_at[job] = len(kept)
            else:
                start = open_at.pop(job, None)
                if start is not None and status in ("running", "ready"):
                    kept[start] = None
                    continue
        kept.append(message)
    return [message for message in kept if message is not None]


class _RecordingQmp(Qmp):
    """Notes the commands between what is received."""

    def send(self, command: str, arguments: dict | None = None, **options: Any) -> Any:
        self.received.append({"->": command, "arguments": arguments or {}})
        return super().send(command, arguments, **options)


class Differential:
    def __init__(self, programs: tuple[Program, Program], manner: str):
        self.programs, self.manner = programs, manner

    def run(
        self,
        script: Callable[[Server], None],
        *,
        prepare: Callable[[Path], None] | None = None,
        args: tuple[str, ...] = (),
        ignore: Callable[[dict], bool] | None = None,
        sort_events: bool = False,
        machine: str = "none",
    ) -> None:
        """Runs the script against both; `ignore` drops messages, `sort_events` sorts the events between two replies."""
        first, second = (
            self._record(program, script, prepare, args, ignore, sort_events, machine) for program in self.programs
        )
        if first == second:
            return
        names = [f"{program.kind} ({' '.join(program.command(self.manner))})" for program in self.programs]
        diff = difflib.unified_diff(first, second, *names, n=3, lineterm="")
        raise AssertionError("\n".join(["the servers differ:", *diff]))

    def _record(self, program, script, prepare, args, ignore, sort_events, machine) -> list[str]:
        directory = Path(tempfile.mkdtemp(prefix="bb-"))
        try:
            if prepare is not None:
                prepare(directory)
            with Server(program, self.manner, args, dir=directory, machine=machine) as server:
                server.qmp.__class__ = _RecordingQmp
                start = len(server.qmp.received)
                script(server)
                messages = server.qmp.received[start:]
            return self._lines(messages, directory, ignore, sort_events)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @staticmethod
    def _lines(messages: list[dict], directory: Path, ignore, sort_events: bool) -> list[str]:
        normaliser = _Normaliser(directory)
        lines: list[str] = []
        events: list[str] = []

        def flush() -> None:
            lines.extend(sorted(events) if sort_events else events)
            events.clear()

        for message in _without_drains(messages):
            if ignore is not None and ignore(message):
                continue
            message = normaliser.value(message)
            message.pop("id", None)
            message.pop("timestamp", None)
            if "event" in message:
                events.append(f"<- {json.dumps(message)}")
                continue
            flush()
            if "->" in message:
                lines.append(f"-> {message['->']} {json.dumps(message['arguments'])}")
            elif isinstance(message.get("return"), (list, dict)) and len(json.dumps(message)) > 160:
                # One line an entry, so that a diff shows where the difference is.
                text = json.dumps(message, indent=1).splitlines()
                lines.extend(f"<- {line}" for line in text)
            else:
                lines.append(f"<- {json.dumps(message)}")
        flush()
        return lines
