"""Options of the command line that are lists, that act before anything runs, or that only answer."""

import json
import os
import re
import signal
import subprocess

import pytest

SIZE = 1 << 20
SIZE_HINT = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
system = pytest.mark.manners("system")


def only_drive(server):
    (entry,) = server.query_block()
    return entry


# ---------------------------------------------------------------------- drives


SIZES = {
    "null": ("driver=null-co,size=1G", 1 << 30, {"driver": "null-co", "size": "1G"}),
    "below a format": (
        "format=raw,file.driver=null-co,file.size=1.5G", 3 << 29,
        {"driver": "raw", "file": {"driver": "null-co", "size": "1.5G"}},
    ),
    "beside a name": ("format=raw,file=null-co://,file.size=64k", 65536, {"driver": "raw", "file": {"driver": "null-co", "size": "64k"}}),
    "window": (
        "format=raw,file=d.raw,size=512k,offset=64k", 512 << 10,
        {"driver": "raw", "size": "512k", "offset": "64k", "file": {"driver": "file", "filename": "d.raw"}},
    ),
    "filter": (
        "driver=preallocate,file.driver=file,file.filename=d.raw,prealloc-size=1M,prealloc-align=64k", SIZE,
        {"driver": "preallocate", "file": {"driver": "file", "filename": "d.raw"}},
    ),
}


@system
@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_drives(start, images, name):
    """-drive takes units, and names of nodes show what was typed."""
    options, size, shown = SIZES[name]
    images.create("d.raw", "raw", SIZE)
    server = start("-drive", f"if=none,id=d,{options}")
    image = only_drive(server)["inserted"]["image"]
    assert image["virtual-size"] == size
    assert image["filename"].startswith("json:")
    assert json.loads(image["filename"][5:]) == shown


@system
@pytest.mark.parametrize("discard", ["on", "off", "unmap", "ignore"])
def test_discard_of_drives(start, images, discard):
    image = images.create("d.raw", "raw", SIZE).fill((0, SIZE, 1))
    server = start("-drive", f"if=none,id=d,format=raw,file={image.path},discard={discard}")
    server.execute("human-monitor-command", command_line='qemu-io d "discard 0 1M"')
    server.stop()
    image.read(0, SIZE, 0 if discard in ("on", "unmap") else 1)


@system
def test_storage_without_a_name_is_probed(start):
    server = start("-drive", "if=none,id=d,file.driver=null-co")
    inserted = only_drive(server)["inserted"]
    assert (inserted["drv"], inserted["file"]) == ("raw", "null-co://")
    assert "WARNING: Image format was not specified for 'null-co://' and probing guessed raw.\n" in server.stderr


@system
@pytest.mark.parametrize("option", ["detect-zeroes=on", "aio=native"])
def test_what_makes_no_medium(start, option):
    server = start("-drive", f"if=none,id=d,{option}")
    assert only_drive(server) == {"device": "d", "locked": False, "removable": True, "type": "unknown"}


# ---------------------------------------------------------------------- refusals


REFUSED = [
    ("-drive if=none,format=raw,file=null-co://,discard=x", "OPTION: Invalid discard option"),
    ("-drive if=none,file.driver=null-co,file.discard=x", "OPTION: Invalid discard option"),
    ("-drive if=none,file.driver=null-co,file.foo=1", "OPTION: Block protocol 'null-co' doesn't support the option 'foo'"),
    ("-drive if=none,file.foo=1", "OPTION: Must specify either driver or file"),
    ("-drive if=none,file=json:{}", "OPTION: Must specify either driver or file"),
    ("-drive if=none,detect-zeroes=x", "OPTION: invalid parameter value: x"),
    ("-drive if=none,aio=x", "OPTION: invalid aio option"),
    ("-drive if=none,format=raw,file=null-co://,size=1Mx", f"OPTION: Parameter 'size' expects a non-negative number below 2^64\n{SIZE_HINT}"),
    ("-drive if=none,id=q,node-name=q,driver=null-co", "OPTION: Device name 'q' conflicts with an existing node name"),
    ("-drive file=.", "OPTION: 'file' driver requires '.' to be a regular file"),
    ("-blockdev null-co,node-name=n,size=1M", "OPTION: Parameter 'size' expects integer"),
    ("-blockdev raw,node-name=n,file.driver=null-co,size=-1",
     f"OPTION: Parameter 'size' expects a non-negative number below 2^64\n{SIZE_HINT}"),
    ("-runas no-such-user", 'OPTION: User "no-such-user" doesn\'t exist (and is not <uid>:<gid>)'),
    ("-chroot nope", "chroot failed"),
    ("-sandbox on,foo=1", "OPTION: Invalid parameter 'foo'"),
    ("-sandbox x", "OPTION: Parameter 'enable' expects 'on' or 'off'"),
    ("-set foo", 'OPTION: can\'t parse: "foo"'),
    ("-set foo.bar.baz=1", "OPTION: There is no option group 'foo'"),
    ("-set drive.d.readonly=on", 'OPTION: there is no drive "d" defined'),
    ("-readconfig nope", "OPTION: Could not open 'nope': No such file or directory"),
    ("-D /no/x", "Error opening logfile /no/x: No such file or directory"),
    ("-kernel /no", "The -kernel parameter is not supported (use the generic 'loader' device instead)."),
    ("-initrd x", "-initrd only allowed with -kernel option"),
    ("-append x", "-append only allowed with -kernel option"),
    ("-qmp unix:w,server=on,wait=off,foo=1", "OPTION: Invalid parameter 'foo'\nPROGRAM: OPTION: parse error: unix:w,server=on,wait=off,foo=1"),
    ("-name a=b", "OPTION: Invalid parameter 'a'"),
    ("-name foo,foo=1", "OPTION: Invalid parameter 'foo'"),
    ("-name guest=foo,debug-threads=x", "OPTION: Parameter 'debug-threads' expects 'on' or 'off'"),
    ("-boot x=1", "Parameter 'boot.x' is unexpected"),
    ("-boot foo", "Boot device 'o' was given twice"),
    ("-boot z", "Invalid boot device 'z'"),
    ("-boot strict=x", "Parameter 'boot.strict' expects 'on' or 'off'"),
    ("-m 1x", f"OPTION: Parameter 'size' expects a non-negative number below 2^64\n{SIZE_HINT}"),
    ("-m size=1G,foo=1", "OPTION: Invalid parameter 'foo'"),
    ("-msg foo=1", "OPTION: Invalid parameter 'foo'"),
    ("-msg x", "OPTION: warning: short-form boolean option 'x' deprecated\nPlease use x=on instead\nPROGRAM: OPTION: Invalid parameter 'x'"),
    ("-global x", "OPTION: warning: short-form boolean option 'x' deprecated\nPlease use x=on instead\nPROGRAM: OPTION: Invalid parameter 'x'"),
    ("-watchdog x", "-watchdog: invalid option"),
    ("-icount x", "OPTION: icount: Invalid shift value"),
    ("-rtc foo=1", "OPTION: Invalid parameter 'foo'"),
    ("-action panic=x", "OPTION: Parameter 'panic' does not accept value 'x'"),
    ("-overcommit mem-lock=x", "OPTION: Parameter 'mem-lock' expects 'on' or 'off'"),
    ("-daemonize -monitor stdio", "-monitor stdio: cannot use stdio with -daemonize"),
    ("-serial x", "OPTION: 'x' is not a valid char driver\nPROGRAM: OPTION: could not connect serial device to character backend 'x'"),
    ("-object iothread,id=a,foo=1", "OPTION: Invalid parameter 'foo'"),
    ("-object iothread,id=a,poll-max-ns=x", "OPTION: Parameter 'poll-max-ns' expects an int64 value"),
    ("-object iothread,id=a,poll-max-ns=-1", "poll-max-ns value must be in range [0, 9223372036854775807]"),
    ("-object secret,id=s", "Either 'file' or 'data' must be provided"),
    ("-object secret,id=s,data=x,keyid=z", "No secret with id 'z'"),
    ("-object throttle-group,id=t,limits.foo=1", "OPTION: Invalid parameter 'limits.foo'"),
    ("-object nope,help", "OPTION: Parameter 'qom-type' does not accept value 'nope'"),
]


@system
@pytest.mark.parametrize("option, error", REFUSED, ids=[option for option, _ in REFUSED])
def test_refused(run, target, option, error):
    program = os.path.basename(target.program.command(target.manner)[0])
    assert run(*option.split(" ")) == (1, "", error.replace("OPTION", option).replace("PROGRAM", program) + "\n")


@system
def test_one_user_of_standard_input(run):
    status, _, err = run("-monitor", "stdio", "-serial", "stdio")
    assert status == 1 and "-serial stdio: cannot use stdio by multiple character devices\n" in err


@system
@pytest.mark.differs("what cannot be done here is an error and not silence", server="qemu")
@pytest.mark.parametrize("option", ["-sandbox on", "-add-fd fd=3,set=1"])
def test_not_here(run, option):
    status, _, err = run(*option.split(" "), "-qmp", "null", "-object", "secret,id=s")
    assert status == 1 and err.startswith(f"{option}: ") and err.endswith("is not implemented by Blockbed\n")


# ---------------------------------------------------------------------- what acts


@system
def test_messages_with_a_time_and_a_guest(run, target, workdir):
    program = os.path.basename(target.program.command(target.manner)[0])
    _, _, err = run("-msg", "timestamp=on,guest-name=on", "-name", "guest=alpha", "-drive", "file=/no")
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{6}}Z alpha {re.escape(program)}: -drive file=/no: "
        r"Could not open '/no': No such file or directory\n", err,
    )


@system
def test_set(start, images):
    image = images.create("a,b.raw", "raw", SIZE)
    server = start("-drive", "if=none,id=d,format=raw", "-set", f"drive.d.file={image.path}", "-set", "drive.d.read-only=on")
    inserted = only_drive(server)["inserted"]
    assert (inserted["file"], inserted["ro"]) == (str(image.path), True)


@system
def test_configuration_from_a_file(start, images):
    image = images.create("a,b.raw", "raw", SIZE)
    (images.dir / "vm.cfg").write_text(
        f'# a comment\n\n[drive "d"]\n  file = "{image.path}"\n  format = "raw"\n  if = "none"\n\n[name]\n  guest = "alpha"\n'
    )
    server = start("-readconfig", images.dir / "vm.cfg")
    assert only_drive(server)["inserted"]["file"] == str(image.path)
    assert server.query_name() == {"name": "alpha"}


@system
@pytest.mark.parametrize(
    "text, error",
    [
        ("hello\n", "1: no group defined"),
        ('[nope]\n  a = "b"\n', "2: There is no option group 'nope'"),
        ('[device "d"]\n  driver = "nope"\n', "2: 'nope' is not a valid device model name"),
    ],
)
def test_configuration_refused(run, workdir, text, error):
    (workdir / "vm.cfg").write_text(text)
    status, _, err = run("-readconfig", "vm.cfg")
    assert status == 1 and err.endswith(f":vm.cfg:{error}\n")


@system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_user_and_root(start, workdir):
    server = start("-runas", "65534:65534", "-chroot", workdir)
    assert server.query_status()["running"]
    status = dict(line.split(":", 1) for line in open(f"/proc/{server.process.pid}/status"))
    assert status["Uid"].split() == ["65534"] * 4 and status["Gid"].split() == ["65534"] * 4
    assert os.readlink(f"/proc/{server.process.pid}/root") == os.path.realpath(workdir)
    # A sanitizer looks into /proc when the program ends, and there is none.
    server.kill()


@system
def test_log_file(start, workdir):
    start("-D", workdir / "log")
    assert (workdir / "log").exists()


# ---------------------------------------------------------------------- questions


@system
def test_members_of_an_object(run):
    for question in ("iothread,help", "iothread,id=a,help"):
        status, out, _ = run("-object", question)
        assert status == 0 and out.startswith("iothread options:\n") and "  poll-max-ns=<int>\n" in out


@pytest.mark.manners("daemon")
def test_members_of_an_object_of_the_daemon(run):
    status, out, _ = run("--object", "throttle-group,id=t,help")
    assert status == 0 and out.startswith("throttle-group options:\n") and "  x-iops-total-max=<int>\n" in out


@system
def test_members_of_a_device(run):
    status, out, _ = run("-device", "virtio-blk-pci,help")
    lines = {line.split(" - ")[0].rstrip() for line in out.splitlines()}
    assert status == 0 and out.startswith("virtio-blk-pci options:\n")
    assert {"  drive=<str>", "  write-cache=<OnOffAuto>", "  logical_block_size=<size>"} <= lines


@system
@pytest.mark.parametrize(
    "args, status, first",
    [
        ("-machine none -machine help", 0, "none-machine options:"),
        ("-drive format=?", 0, "Supported formats: "),
        ("-netdev help", 0, "Available netdev backend types:"),
        ("-d help", 1, "Log items (comma separated):"),
        ("-trace help", 0, ""),
    ],
)
def test_questions(run, args, status, first):
    answer = run(*args.split(" "), base=("-nodefaults", "-display", "none"))
    assert answer[0] == status and answer[1].startswith(first) and answer[2] == ""


# ---------------------------------------------------------------------- signals


def test_a_signal_that_ends_nothing(start):
    server = start()
    server.process.send_signal(signal.SIGUSR1)
    assert server.execute("query-version")


@system
def test_who_ended_it(start):
    server = start()
    server.process.send_signal(signal.SIGTERM)
    server.wait()
    assert re.search(rf": terminating on signal 15 from pid {os.getpid()} \(.+\)\n", server.stderr)


@system
def test_events_after_the_end_of_standard_input(target):
    command = [*target.program.command("system"), "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdin.write(b'{"execute": "qmp_capabilities"}\n')
    process.stdin.close()
    assert process.stdout.readline().startswith(b'{"return": {}}')
    process.terminate()
    assert b'"reason": "host-signal"' in process.stdout.read()
    assert process.wait(20) == 0
