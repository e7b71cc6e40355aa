"""Greeting, negotiation, out-of-band commands, several monitors, and every way to reach a monitor."""

import json
import os
import signal
import socket
import subprocess

import pytest

from blockbed_iotests import Disconnected, Qmp, QmpError


def monitor_args(manner, chardev, monitor_options=""):
    """The arguments for one more monitor on this character device."""
    if manner == "system":
        return ["-chardev", f"{chardev},id=extra", "-mon", f"chardev=extra,mode=control{monitor_options}"]
    return ["--chardev", f"{chardev},id=extra", "--monitor", f"chardev=extra{monitor_options}"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# ---------------------------------------------------------------------- negotiation


def test_greeting(start):
    server = start(negotiate=False)
    line = server.recv_line()
    greeting = json.loads(line)
    version = greeting["QMP"]["version"]
    assert line.startswith(b'{"QMP": {"version": {"qemu": {"micro": ')
    assert line.endswith(b'"capabilities": ["oob"]}}\r\n')
    assert {name: type(value) for name, value in version["qemu"].items()} == {"micro": int, "minor": int, "major": int}
    server.execute("qmp_capabilities")
    assert server.execute("query-version") == version


@pytest.mark.parametrize(
    "command, error",
    [
        ("query-version", "CommandNotFound: Expecting capabilities negotiation with 'qmp_capabilities'"),
        ("quit", "CommandNotFound: Expecting capabilities negotiation with 'qmp_capabilities'"),
        ("no-such-command", "CommandNotFound: Expecting capabilities negotiation with 'qmp_capabilities'"),
    ],
)
def test_nothing_before_negotiation(start, command, error):
    server = start(negotiate=False)
    server.greet()
    assert server.error(command) == error
    server.execute("qmp_capabilities")
    assert server.execute("query-jobs") == []


def test_negotiation_happens_once(server):
    expected = "CommandNotFound: Capabilities negotiation is already complete, command ignored"
    assert server.error("qmp_capabilities") == expected
    assert server.error("qmp_capabilities", enable=["oob"]) == expected


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"enable": "oob"}, "Invalid parameter type for 'enable', expected: array"),
        ({"enable": [1]}, "Invalid parameter type for 'enable[0]', expected: string"),
        ({"capabilities": []}, "Parameter 'capabilities' is unexpected"),
    ],
)
def test_bad_negotiation_can_be_repeated(start, arguments, error):
    server = start(negotiate=False)
    server.greet()
    assert server.error("qmp_capabilities", arguments) == error
    server.execute("qmp_capabilities", enable=[])
    assert server.execute("query-jobs") == []


def test_an_error_before_negotiation_does_not_end_the_session(start):
    server = start(negotiate=False)
    server.greet()
    server.send_raw("}")
    assert server.recv()["error"]["desc"] == "JSON parse error, expecting value"
    server.execute("qmp_capabilities")


# ---------------------------------------------------------------------- out of band


@pytest.mark.parametrize(
    "message, error",
    [
        ({"exec-oob": "query-version", "id": 1}, "GenericError: The command query-version does not support OOB"),
        ({"exec-oob": "nope", "id": 1}, "CommandNotFound: The command nope has not been found"),
        ({"exec-oob": 1, "id": 1}, "GenericError: QMP input member 'exec-oob' must be a string"),
        (
            {"execute": "query-jobs", "exec-oob": "query-jobs"},
            "GenericError: QMP input member 'execute' clashes with 'exec-oob'",
        ),
        (
            {"execute": "query-jobs", "control": {"run-oob": True}},
            "GenericError: QMP input member 'control' is unexpected",
        ),
    ],
)
def test_oob_errors(start, message, error):
    server = start(oob=True)
    server.send_raw(json.dumps(message))
    reply = server.recv()
    assert f"{reply['error']['class']}: {reply['error']['desc']}" == error
    assert reply.get("id") == message.get("id")


def test_oob_and_ordinary_replies_carry_their_ids(start):
    """Eight commands may wait in the queue of a session with out-of-band; more are taken as room comes."""
    server = start(oob=True)
    ids = [server.send("query-jobs") for _ in range(50)]
    assert [server.reply(id_) for id_ in ids] == [[]] * 50


@pytest.mark.manners("system")
@pytest.mark.differs("Blockbed has no migration yet, and no other command is out of band", server="blockbed")
def test_oob_command(start):
    server = start(oob=True)
    with pytest.raises(QmpError, match="only supported during postcopy"):
        server.execute_oob("migrate-pause")


# ---------------------------------------------------------------------- several monitors


def test_every_monitor_sees_every_event(start):
    server = start(monitors=3)
    first, second, third = server.monitors
    first.execute("blockdev-create", {"job-id": "c", "options": {"driver": "file", "filename": f"{server.dir}/f", "size": 1}})
    for monitor in (first, second, third):
        monitor.wait_status("c", "concluded")
    second.execute("job-dismiss", id="c")
    for monitor in (third, second, first):
        monitor.wait_status("c", "null")


def test_a_reply_goes_to_who_asked(start):
    server = start(monitors=2)
    first, second = server.monitors
    a, b = first.send("query-version"), second.send("query-jobs")
    assert second.reply(b) == []
    assert "qemu" in first.reply(a)
    assert len([m for m in second.received if "return" in m]) == 2  # with the one of the negotiation


def test_a_monitor_without_negotiation_gets_no_events(start):
    server = start(monitors=2, negotiate=False)
    first, second = server.monitors
    for monitor in (first, second):
        monitor.greet()
    first.execute("qmp_capabilities")
    first.execute("blockdev-create", {"job-id": "c", "options": {"driver": "file", "filename": f"{server.dir}/f", "size": 1}})
    first.wait_status("c", "concluded")
    assert "Expecting capabilities" in second.error("query-jobs")
    assert second.events() == []


def test_end_of_input_ends_that_session_only(start):
    server = start(monitors=2)
    first, second = server.monitors
    second.send_raw('{"execute": "query-jo')
    second.close()
    assert first.execute("query-jobs") == []


# ---------------------------------------------------------------------- transports


def test_unix_server_accepts_again(start, workdir):
    path = workdir / "server.sock"
    server = start(*monitor_args(start.manner, f"socket,path={path},server=on,wait=off"))
    for _ in range(3):
        with Qmp.connect(path) as extra:
            assert extra.greeting["QMP"]["capabilities"] == ["oob"]
            assert extra.execute("query-jobs") == []
    assert server.execute("query-jobs") == []


def test_every_session_negotiates_anew(start, workdir):
    path = workdir / "server.sock"
    start(*monitor_args(start.manner, f"socket,path={path},server=on,wait=off"))
    with Qmp.connect(path) as extra:
        extra.execute("query-jobs")
    with Qmp.connect(path, handshake=False) as extra:
        extra.greet()
        assert "Expecting capabilities" in extra.error("query-jobs")


def test_input_may_end_before_the_replies_are_read(start, workdir):
    path = workdir / "server.sock"
    start(*monitor_args(start.manner, f"socket,path={path},server=on,wait=off"))
    with Qmp.connect(path) as extra:
        extra.send("query-jobs", id_="last")
        assert extra.reply("last") == []
        extra.sock.shutdown(socket.SHUT_WR)
        assert extra.at_eof()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp_server(start, host):
    port = free_port()
    start(*monitor_args(start.manner, f"socket,host={host},port={port},server=on,wait=off"))
    with Qmp.connect((host, port)) as extra:
        assert extra.execute("query-jobs") == []


def test_tcp_client(start):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(20)
        start(*monitor_args(start.manner, f"socket,host=127.0.0.1,port={listener.getsockname()[1]}"))
        with Qmp(listener.accept()[0]) as extra:
            assert extra.execute("query-jobs") == []


def test_inherited_connection(start):
    ours, theirs = socket.socketpair()
    with theirs:
        start(*monitor_args(start.manner, f"socket,fd={theirs.fileno()}"), pass_fds=(theirs.fileno(),))
    with Qmp(ours) as extra:
        assert extra.execute("query-jobs") == []


def test_inherited_listening_socket(start, workdir):
    path = workdir / "inherited.sock"
    with Qmp.listen(path) as listener:
        start(*monitor_args(start.manner, f"socket,fd={listener.fileno()},server=on,wait=off"), pass_fds=(listener.fileno(),))
    for _ in range(2):
        with Qmp.connect(path) as extra:
            assert extra.execute("query-jobs") == []


def test_server_waits_for_the_first_client(start, workdir):
    """wait=on, the default of a server socket: nothing is started before somebody has connected."""
    path = workdir / "server.sock"
    command = start.program.command(start.manner)
    if start.manner == "system":
        command += ["-machine", "none", "-nodefaults", "-display", "none"]
    process = subprocess.Popen(
        command + monitor_args(start.manner, f"socket,path={path},server=on"), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )
    try:
        with Qmp.connect(path) as extra:
            extra.execute("quit")
        assert process.wait(20) == 0
        assert "waiting for connection on" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_stdio(start):
    """A whole session through standard input and output; the end of input ends the session, `quit` the server."""
    command = start.program.command(start.manner)
    if start.manner == "system":
        command += ["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    else:
        command += ["--chardev", "stdio,id=m", "--monitor", "chardev=m"]
    script = '{"execute":"qmp_capabilities"}{"execute":"query-jobs"}\n{"execute":"quit","id":"bye"}'
    result = subprocess.run(command, input=script, capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    assert "QMP" in messages[0]
    assert messages[1:3] == [{"return": {}}, {"return": []}]
    assert messages[-1] == {"return": {}, "id": "bye"}
    if start.manner == "system":
        assert messages[-2]["event"] == "SHUTDOWN"


def test_pretty(start, workdir):
    """Four spaces a level, and nothing between the brackets of what is empty but a new line."""
    listener = Qmp.listen(workdir / "pretty")
    start(*monitor_args(start.manner, f"socket,path={workdir / 'pretty'}", ",pretty=on"))
    pretty = Qmp(listener.accept()[0], handshake=False)
    listener.close()

    def value() -> bytes:
        lines = []
        while not lines or lines[-1] != b"}\r\n":
            lines.append(pretty.recv_line())
        return b"".join(lines)

    greeting = value()
    assert greeting.startswith(b'{\r\n    "QMP": {\r\n        "version": {\r\n            "qemu": {\r\n                "micro": ')
    assert greeting.endswith(b'        "capabilities": [\r\n            "oob"\r\n        ]\r\n    }\r\n}\r\n')
    pretty.send_raw('{"execute": "qmp_capabilities"}')
    assert value() == b'{\r\n    "return": {\r\n    }\r\n}\r\n'
    pretty.send_raw('{"execute": "query-jobs", "id": {"a": [1, [], {}, {"b": true}]}}')
    assert value().decode() == (
        '{\r\n    "return": [\r\n    ],\r\n    "id": {\r\n        "a": [\r\n            1,\r\n            [\r\n            ],\r\n'
        '            {\r\n            },\r\n            {\r\n                "b": true\r\n            }\r\n        ]\r\n'
        "    }\r\n}\r\n"
    )


@pytest.mark.manners("system")
def test_qmp_pretty_option(start, workdir):
    listener = Qmp.listen(workdir / "pretty")
    start("-qmp-pretty", f"unix:{workdir / 'pretty'}")
    pretty = Qmp(listener.accept()[0], handshake=False)
    listener.close()
    assert pretty.recv_line() == b"{\r\n"


@pytest.mark.manners("system")
@pytest.mark.parametrize("form", ["unix:{path},server=on,wait=off", "unix:{path},server,nowait"])
def test_qmp_option(start, workdir, form):
    path = workdir / "server.sock"
    start("-qmp", form.format(path=path))
    with Qmp.connect(path) as extra:
        assert extra.execute("query-jobs") == []


def test_a_client_that_does_not_read(start, workdir):
    """Replies pile up for a client that sends and never reads; the others are served, and nobody dies."""
    path = workdir / "server.sock"
    server = start(*monitor_args(start.manner, f"socket,path={path},server=on,wait=off"))
    extra = Qmp.connect(path)
    extra.sock.setblocking(False)
    sent = 0
    try:
        while sent < 200_000:
            sent += extra.sock.send(b'{"execute":"query-commands"}')
    except BlockingIOError:
        pass
    assert server.execute("query-jobs") == []
    extra.close()
    assert server.execute("query-jobs") == []


def test_a_client_that_vanishes_in_the_middle_of_a_command(start, workdir):
    path = workdir / "server.sock"
    server = start(*monitor_args(start.manner, f"socket,path={path},server=on,wait=off"))
    for _ in range(10):
        extra = Qmp.connect(path)
        extra.send("query-commands")
        extra.send_raw('{"execute": "query-comm')
        extra.close()
    with Qmp.connect(path) as extra:
        assert extra.execute("query-jobs") == []
    assert server.execute("query-jobs") == []


def test_a_thousand_clients_that_vanish(start, workdir):
    """Some say nothing, some leave half a command, some do not wait for a long reply: nothing of them is left behind."""
    path = workdir / "many.sock"
    server = start(*monitor_args(start.manner, f"socket,path={path},server=on,wait=off"))
    server.query_jobs()
    said = [b"", b'{"execute": "qmp_capab', b'{"execute": "qmp_capabilities"}{"execute": "query-qmp-schema"}']

    def open_descriptors():
        return len(os.listdir(f"/proc/{server.process.pid}/fd"))

    before = open_descriptors()
    for number in range(999):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(said[number % 3])
    with Qmp.connect(path) as last:
        assert last.execute("query-jobs") == []
        assert open_descriptors() <= before + 1


def test_quit_closes_every_session(start):
    server = start(monitors=2)
    server.monitors[1].execute("quit")
    with pytest.raises(Disconnected):
        while True:
            server.monitors[0].recv()
    server.wait()


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_end_the_server_in_order(start, signal_name):
    server = start()
    os.kill(server.process.pid, getattr(signal, signal_name))
    server.wait()
    if start.manner == "system":
        with pytest.raises(Disconnected):
            while True:
                server.recv()
        assert server.received[-1]["event"] == "SHUTDOWN"
        assert server.received[-1]["data"] == {"guest": False, "reason": "host-signal"}
