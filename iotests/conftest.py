"""Fixtures and marks of the suite. See README.md for how tests are written."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blockbed_iotests import BITMAP_STORES, Differential, Image, Program, Server, find_program  # noqa: E402
from blockbed_iotests.server import MANNERS  # noqa: E402

DEFAULT_LIMIT = 60


def pytest_addoption(parser):
    group = parser.getgroup("blockbed")
    group.addoption("--server", default="blockbed", help="blockbed[:PATH], qemu or both")
    group.addoption("--manner", default="both", choices=[*MANNERS, "both"])
    group.addoption("--slow", action="store_true", help="run the slow tests too")
    group.addoption("--limit", type=int, default=DEFAULT_LIMIT, help="seconds that one test may take")


def pytest_configure(config):
    for line in (
        "manners(*names): the test exists in these manners of starting only",
        "differs(reason, server, manner=None, sometimes=False): the test holds for every server but this one, on purpose",
        "slow(reason, server=None): with --slow only (on that server)",
        "limit(seconds): this test may take longer than the rest",
    ):
        config.addinivalue_line("markers", line)
    names = ["blockbed", "qemu"] if config.getoption("--server") == "both" else [config.getoption("--server")]
    try:
        config.programs = [find_program(name) for name in names]
    except (FileNotFoundError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config):
    return [f"{program.kind}: {' '.join(program.system)}" for program in config.programs]


# ---------------------------------------------------------------------- which server, which manner


class Target:
    """A program and the manner in which a test starts it."""

    def __init__(self, program: Program, manner: str):
        self.program, self.manner, self.kind = program, manner, program.kind


def pytest_generate_tests(metafunc):
    if "target" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--manner")
    mark = metafunc.definition.get_closest_marker("manners")
    manners = [m for m in MANNERS if chosen in (m, "both") and (mark is None or m in mark.args)]
    targets = [Target(program, manner) for program in metafunc.config.programs for manner in manners]
    metafunc.parametrize("target", targets, ids=[f"{t.kind}-{t.manner}" for t in targets], indirect=True, scope="function")


def pytest_collection_modifyitems(items):
    """A test that differs on purpose must fail on that server: if it does not, the mark is stale and that is an error."""
    for item in items:
        target = getattr(item, "callspec", None) and item.callspec.params.get("target")
        if not isinstance(target, Target):
            # No target is left of those that were asked for: pytest skips the test.
            target = None
        for mark in item.iter_markers("slow"):
            if not item.config.getoption("--slow") and (not target or target.kind == mark.kwargs.get("server", target.kind)):
                item.add_marker(pytest.mark.skip(reason=f"slow: {mark.args[0]}"))
        for mark in item.iter_markers("differs"):
            assert len(mark.args) == 1, f"{item.nodeid}: differs needs a reason"
            if target and target.kind == mark.kwargs["server"] and mark.kwargs.get("manner") in (None, target.manner):
                item.add_marker(pytest.mark.xfail(reason=mark.args[0], strict=not mark.kwargs.get("sometimes")))


@pytest.fixture
def target(request) -> Target:
    return request.param


# ---------------------------------------------------------------------- time


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """No test may hang the suite: after its time it fails where it stands."""
    mark = item.get_closest_marker("limit")
    seconds = mark.args[0] if mark else item.config.getoption("--limit")

    def expired(_signal, _frame):
        raise TimeoutError(f"the test took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------- servers and images


@pytest.fixture
def workdir():
    """A private directory; its name is short because the path of a unix socket may only have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="bb-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed or call.excinfo is not None


@pytest.fixture
def start(request, target, workdir):
    """Starts servers: `start("-drive", ..., monitors=2)`. They are stopped and judged when the test ends."""
    servers: list[Server] = []

    def start_server(*args, **options) -> Server:
        server = Server(target.program, target.manner, args, dir=options.pop("dir", workdir), **options)
        servers.append(server)
        server.start()
        return server

    start_server.program, start_server.manner, start_server.kind = target.program, target.manner, target.kind
    yield start_server
    failed = getattr(request.node, "failed", False)
    try:
        for server in reversed(servers):
            if server.process is None:
                continue
            if failed and server.process.poll() is None:
                server.kill()
            elif server.process.returncode is None:
                server.stop()
    finally:
        for server in servers:
            server.kill()
            if failed:
                sys.stderr.write(f"--- {server.kind} {server.manner}, stderr:\n{server.stderr}--- stdout:\n{server.stdout}")


@pytest.fixture
def server(start) -> Server:
    """A server that has nothing but a monitor."""
    return start()


class Images:
    def __init__(self, directory: Path):
        self.dir = directory

    def create(self, name: str, format: str = "qcow2", size: int | str | None = "1M", **options) -> Image:
        return Image.create(self.dir / name, format, size, **options)

    def create_bitmap_store(self, kind: str, size: int) -> Image:
        """A disk whose bitmaps persist, one of BITMAP_STORES: an image, or a raw disk with an image as its container."""
        if kind != "raw":
            return self.create("src.qcow2", size=size, **BITMAP_STORES[kind])
        raw = self.create("src.raw", "raw", size)
        return self.create("container.qcow2", size=size, data_file=raw.path, **BITMAP_STORES[kind])

    def at(self, name: str, format: str) -> Image:
        """An image that something else makes."""
        return Image(self.dir / name, format)


@pytest.fixture
def images(workdir) -> Images:
    return Images(workdir)


@pytest.fixture(scope="session")
def qemu() -> Program:
    """The real QEMU, for tests that put it beside the server under test."""
    try:
        return find_program("qemu")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def differential(target, qemu) -> Differential:
    """Compares the server under test with the real QEMU (QEMU with itself shows that a script is deterministic)."""
    return Differential((qemu, target.program), target.manner)


@pytest.fixture
def run(target, workdir):
    """Runs the program to its end: (status, standard output, standard error without the program's name)."""

    def run_program(*args, base=("-machine", "none", "-nodefaults", "-display", "none"), timeout=20):
        command = target.program.command(target.manner)
        if target.manner == "system":
            command += base
        result = subprocess.run(
            [*command, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, cwd=workdir
        )
        return result.returncode, result.stdout, re.sub(r"^[\w./-]+: ", "", result.stderr)

    return run_program
