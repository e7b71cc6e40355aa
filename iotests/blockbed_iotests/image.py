"""Disk images: made, filled and judged by the installed tools, never by the server under test.

`Image` is a path and a format. The judges are `check`, `compare` and `map` (qemu-img) and `read` (qemu-io), so that a
server that writes and reads the same mistake is found out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

TOOL_TIMEOUT = 60

# Disks whose bitmaps persist, and the options of the image that keeps them: of the disk, or of a raw disk's container.
BITMAP_STORES = {
    "qcow2": {},
    "extended": {"extended_l2": "on", "cluster_size": 131072},
    "raw": {"data_file_raw": "on"},
}


def _run(command: list[str], *, status: int | None = 0) -> str:
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TOOL_TIMEOUT)
    output = result.stdout + result.stderr
    if status is not None and result.returncode != status:
        raise AssertionError(f"{' '.join(command)}: status {result.returncode}\n{output}")
    return output


def qemu_img(*args: Any, status: int | None = 0) -> str:
    """Runs qemu-img; what it printed on both streams."""
    return _run(["qemu-img", *map(str, args)], status=status)


def qemu_io(path: Path | str, *commands: str, format: str | None = None, options: tuple[str, ...] = (),
            status: int | None = 0) -> str:
    """Runs qemu-io commands on an image; what it printed. A read that does not verify is an AssertionError."""
    args = ["qemu-io", *options]
    if format:
        args += ["-f", format]
    for command in commands:
        args += ["-c", command]
    output = _run([*args, str(path)], status=status)
    if status == 0 and "Pattern verification failed" in output:
        raise AssertionError(output)
    return output


def parse_size(size: int | str) -> int:
    """`64M` and the like in bytes."""
    if isinstance(size, int):
        return size
    number, unit = re.fullmatch(r"(\d+)([kKMGT]?)", size).groups()
    return int(number) << {"": 0, "k": 10, "K": 10, "M": 20, "G": 30, "T": 40}[unit]


class Image:
    def __init__(self, path: Path | str, format: str):
        self.path, self.format = Path(path), format

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create(
        cls, path: Path | str, format: str = "qcow2", size: int | str | None = None,
        *, backing: Image | None = None, **options: Any,
    ) -> Image:
        """Makes an image; options are qemu-img's, with `_` as they have it (`cluster_size=4096`)."""
        args: list[Any] = ["create", "-q", "-f", format]
        if backing is not None:
            args += ["-b", backing.path, "-F", backing.format]
        if options:
            args += ["-o", ",".join(f"{name}={value}" for name, value in options.items())]
        args.append(path)
        if size is not None:
            args.append(parse_size(size))
        qemu_img(*args)
        return cls(path, format)

    # ------------------------------------------------------------------ contents

    def io(self, *commands: str, status: int | None = 0) -> str:
        return qemu_io(self.path, *commands, format=self.format, status=status)

    def fill(self, *runs: tuple[int | str, int | str, int]) -> Image:
        """Writes runs of (offset, length, byte)."""
        self.io(*(f"write -P {byte} {parse_size(offset)} {parse_size(length)}" for offset, length, byte in runs))
        return self

    def fill_bytes(self, data: bytes) -> Image:
        """Writes these bytes from the start of the disk, whatever the format."""
        with tempfile.NamedTemporaryFile(dir=self.path.parent) as source:
            source.write(data)
            source.flush()
            qemu_img("convert", "-n", "-f", "raw", "-O", self.format, source.name, self.path)
        return self

    def content(self, *, force_share: bool = False) -> bytes:
        """The bytes of the whole disk, backing chain included."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as directory:
            copy = Path(directory) / "content"
            share = ["-U"] if force_share else []
            qemu_img("convert", *share, "-f", self.format, "-O", "raw", self.path, copy)
            return copy.read_bytes()

    def read(self, offset: int | str, length: int | str, byte: int) -> None:
        """Asserts that a run holds this byte only."""
        self.io(f"read -P {byte} {parse_size(offset)} {parse_size(length)}")

    # ------------------------------------------------------------------ judges

    def check(self, *, leaks: int | None = 0, corruptions: int = 0) -> dict:
        """Asserts what `qemu-img check` finds, with `None` however much has leaked; formats that have no check are right by
        definition."""
        if self.format == "raw":
            return {}
        result = subprocess.run(
            ["qemu-img", "check", "--output=json", "-f", self.format, str(self.path)],
            capture_output=True, text=True, timeout=TOOL_TIMEOUT,
        )
        assert result.returncode in (0, 2, 3), f"qemu-img check: {result.returncode}\n{result.stdout}{result.stderr}"
        report = json.loads(result.stdout)
        found = (report.get("leaks", 0), report.get("corruptions", 0))
        assert found == (found[0] if leaks is None else leaks, corruptions), f"{self.path}: {report}\n{result.stderr}"
        return report

    def compare(self, other: Image) -> None:
        """Asserts that both hold the same bytes."""
        qemu_img("compare", "-f", self.format, "-F", other.format, self.path, other.path)

    def differs_from(self, other: Image) -> bool:
        output = qemu_img("compare", "-f", self.format, "-F", other.format, self.path, other.path, status=None)
        return "identical" not in output

    def info(self) -> dict:
        return json.loads(qemu_img("info", "--output=json", "-f", self.format, self.path))

    def map(self) -> list[dict]:
        return json.loads(qemu_img("map", "--output=json", "-f", self.format, self.path))

    def own(self) -> list[tuple[int, int]]:
        """Where the top layer holds data or explicit zeroes: (offset, length)."""
        return [(extent["start"], extent["length"]) for extent in self.map() if extent["depth"] == 0 and extent["present"]]

    def allocated(self) -> int:
        """Bytes of the top layer that hold data or explicit zeroes."""
        return sum(length for _, length in self.own())

    def copy(self, path: Path | str) -> Image:
        """A byte-for-byte copy of the file."""
        _run(["cp", "--sparse=always", str(self.path), str(path)])
        return Image(path, self.format)

    @property
    def file_size(self) -> int:
        return os.stat(self.path).st_size
