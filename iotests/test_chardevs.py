"""Character devices of the command line: what they are called, who may use them, and monitors on all of them."""

import json
import os
import re
import socket

import pytest

from blockbed_iotests import Qmp

from test_monitor_sessions import free_port, monitor_args

system = pytest.mark.manners("system")


def chardev_args(manner, *chardevs):
    option = "-chardev" if manner == "system" else "--chardev"
    return [part for chardev in chardevs for part in (option, chardev)]


def described(server, label="extra"):
    """(filename, frontend-open) of a device, as query-chardev has it."""
    (device,) = [device for device in server.query_chardev() if device["label"] == label]
    return device["filename"], device["frontend-open"]


class Terminal:
    """A monitor behind two descriptors."""

    def __init__(self, read_descriptor, write_descriptor):
        self.reader = os.fdopen(read_descriptor, "rb", buffering=0)
        self.writer = write_descriptor

    def execute(self, command):
        os.write(self.writer, json.dumps({"execute": command}).encode() + b"\n")
        return self.message()

    def message(self):
        return json.loads(self.reader.readline())


# ---------------------------------------------------------------------- monitors on files of the system


def test_monitor_on_a_pipe(start, workdir):
    """PATH.in is read and PATH.out is written."""
    for name in ("line.in", "line.out"):
        os.mkfifo(workdir / name)
    server = start(*monitor_args(start.manner, f"pipe,path={workdir}/line"))
    pipe = Terminal(os.open(workdir / "line.out", os.O_RDWR), os.open(workdir / "line.in", os.O_RDWR))
    assert "QMP" in pipe.message()
    assert pipe.execute("qmp_capabilities") == {"return": {}}
    assert pipe.execute("query-jobs") == {"return": []}
    assert described(server) == ("pipe", True)


def test_monitor_on_a_pseudo_terminal(start):
    """Its place is told by query-chardev and on standard output."""
    server = start(*monitor_args(start.manner, "pty"))
    filename, is_open = described(server)
    assert is_open
    name = re.fullmatch(r"pty:(/dev/pts/\d+)", filename)[1]
    terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
    pty = Terminal(terminal, terminal)
    assert "QMP" in pty.message()
    assert pty.execute("qmp_capabilities") == {"return": {}}
    assert pty.execute("query-jobs") == {"return": []}
    pty.reader.close()
    server.stop()
    assert server.stdout == f"char device redirected to {name} (label extra)\n"


def test_monitor_on_a_file(start, workdir):
    """It can only speak."""
    path = workdir / "said"
    server = start(*monitor_args(start.manner, f"file,path={path}"))
    assert described(server) == ("file", True)
    server.stop()
    assert list(json.loads(path.read_text())) == ["QMP"]


def test_a_file_may_be_continued(start, workdir):
    path = workdir / "said"
    path.write_text("before\n")
    start(*monitor_args(start.manner, f"file,path={path},append=on")).stop()
    assert path.read_text().startswith('before\n{"QMP": ')


def test_nobody_behind_a_null_device(start):
    server = start(*monitor_args(start.manner, "null"), *chardev_args(start.manner, "null,id=other"))
    assert described(server) == ("null", True)
    assert described(server, "other") == ("null", False)


# ---------------------------------------------------------------------- sockets


def test_a_client_that_comes_before_its_server(start, workdir):
    """reconnect=N: the first failure is told, and the connection is tried again, also after it was lost."""
    path = workdir / "later.sock"
    server = start(*monitor_args(start.manner, f"socket,path={path},reconnect=1"))
    assert described(server) == (f"disconnected:unix:{path}", True)
    with Qmp.listen(path) as listener:
        for _ in range(2):
            with Qmp(listener.accept()[0]) as extra:
                assert extra.execute("query-jobs") == []
    server.stop()
    assert f"Unable to connect character device extra: Failed to connect to '{path}': No such file or directory\n" in server.stderr


@pytest.mark.parametrize("host, shown, bracketed", [("127.0.0.1", "127.0.0.1", "127.0.0.1"), ("::1", "::1", "[::1]")])
def test_both_ends_of_a_connection_are_shown(start, host, shown, bracketed):
    port = free_port()
    server = start(*monitor_args(start.manner, f"socket,host={host},port={port},server=on,wait=off"))
    assert described(server) == (f"disconnected:tcp:{shown}:{port},server=on", True)
    with Qmp.connect((host, port)) as extra:
        own = extra.sock.getsockname()[1]
        assert described(server) == (f"tcp:{bracketed}:{port},server=on <-> {bracketed}:{own}", True)


def test_abstract_socket(start):
    name = f"blockbed-test-{os.getpid()}"
    server = start(*monitor_args(start.manner, f"socket,path={name},abstract=on,server=on,wait=off"))
    assert described(server) == (f"disconnected:unix:{name},abstract=on,tight=on,server=on", True)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + name)
        assert Qmp(connection).execute("query-jobs") == []
