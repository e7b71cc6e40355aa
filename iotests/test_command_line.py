"""Command lines in both manners: what they build, what they refuse, and how a server goes to the background."""

import json
import os
import re
import signal
import socket
import subprocess

import pytest

from blockbed_iotests import Image, Qmp

SIZE = 1 << 20
system = pytest.mark.manners("system")
daemon = pytest.mark.manners("daemon")


def blockdev(manner):
    return "-blockdev" if manner == "system" else "--blockdev"


# ---------------------------------------------------------------------- refusals


REFUSED_SYSTEM = [
    (["-nope"], "-nope: invalid option"),
    (["--nope"], "--nope: invalid option"),
    (["-blockdev"], "-blockdev: requires an argument"),
    (["-blockdev", "driver=nope,node-name=n"], "-blockdev driver=nope,node-name=n: Parameter 'driver' does not accept value 'nope'"),
    (["-blockdev", "driver=null-co"], "-blockdev driver=null-co: 'node-name' must be specified for the root node"),
    (["-blockdev", '{"driver":"null-co"'], '-blockdev {"driver":"null-co": JSON parse error, premature EOI'),
    (
        ["-blockdev", '{"driver":"null-co","node-name":"n","x":1}'],
        '-blockdev {"driver":"null-co","node-name":"n","x":1}: Parameter \'x\' is unexpected',
    ),
    (["-blockdev", "node-name=n"], "-blockdev node-name=n: Parameter 'driver' is missing"),
    (["-drive", "file=/no"], "-drive file=/no: Could not open '/no': No such file or directory"),
    (["-drive", "if=none,driver=nope"], "-drive if=none,driver=nope: Unknown driver 'nope'"),
    (["-drive", "if=bogus,driver=null-co"], "-drive if=bogus,driver=null-co: unsupported bus type 'bogus'"),
    (
        ["-drive", "if=none,bogus=1,driver=null-co"],
        "-drive if=none,bogus=1,driver=null-co: Block protocol 'null-co' doesn't support the option 'bogus'",
    ),
    (["-device", "nope"], "-device nope: 'nope' is not a valid device model name"),
    (["-device", "virtio-blk-pci,drive=x"], "-device virtio-blk-pci,drive=x: No 'PCI' bus found for device 'virtio-blk-pci'"),
    (["-machine", "nope"], "unsupported machine type\nUse -machine help to list supported machines"),
    (["-chardev", "nope,id=x"], "-chardev nope,id=x: 'nope' is not a valid char driver name"),
    (["-mon", "chardev=nope"], '-mon chardev=nope: chardev "nope" not found'),
    (["-object", "nope,id=x"], "-object nope,id=x: Parameter 'qom-type' does not accept value 'nope'"),
    (["-object", "iothread"], "-object iothread: Parameter 'id' is missing"),
    (["-uuid", "nope"], "-uuid nope: failed to parse UUID string: wrong format"),
    (["-pidfile", "/no/x"], "cannot create PID file: Could not create '/no/x': No such file or directory"),
    (["-qmp", "unix:/no/x"], "-qmp unix:/no/x: Failed to connect to '/no/x': No such file or directory"),
    (["-qmp", "none"], "-qmp none: 'none' is not a valid char driver\nPROGRAM: -qmp none: parse error: none"),
    (["-qmp", "tcp:127.0.0.1"], "-qmp tcp:127.0.0.1: parse error: tcp:127.0.0.1"),
    (
        ["-qmp", "tcp:no.host.invalid:1"],
        "-qmp tcp:no.host.invalid:1: address resolution failed for no.host.invalid:1: Name or service not known",
    ),
    (["-mon", "mode=control"], "-mon mode=control: Parameter 'chardev' is missing"),
    (["-chardev", "null,id=c", "-mon", "c,nope=1"], "-mon c,nope=1: Invalid parameter 'nope'"),
    (["-chardev", "null,id=c", "-mon", "c,pretty=on"], "-mon c,pretty=on: 'pretty' is not compatible with HMP monitors"),
    (["-chardev", "null,id=c", "-mon", "c,mode=control", "-mon", "c"], "-mon c: Device 'c' is in use"),
]

# Of either program, as an option of -chardev or --chardev.
REFUSED_CHARDEVS = [
    ("null", "chardev: no id specified"),
    ("id=c", 'chardev: "c" missing backend'),
    ("null,id=c,nope=1", "Invalid parameter 'nope'"),
    ("file,id=c", "chardev: file: no filename given"),
    ("file,id=c,path=/no/x", "Could not open '/no/x': No such file or directory"),
    ("pipe,id=c", "chardev: pipe: no device path given"),
    ("pipe,id=c,path=/no/x", "Could not open '/no/x': No such file or directory"),
    ("serial,id=c", "chardev: serial/tty: no device path given"),
    ("socket,id=c", "Unable to parse FD number "),
    ("socket,id=c,fd=99", "File descriptor '99' is not a socket"),
    ("socket,id=c,path=x,host=y,port=1", "None or one of 'path', 'fd' or 'host' option required."),
    ("socket,id=c,host=y", "chardev: socket: no port given"),
    ("socket,id=c,path=/no/x", "Failed to connect to '/no/x': No such file or directory"),
    ("socket,id=c,path=/no/x,server=on", "Failed to bind socket to /no/x: No such file or directory"),
    ("socket,id=c,path=/no/x,wait=off", "'wait' option is incompatible with socket in client connect mode"),
    ("socket,id=c,path=/no/x,server=on,reconnect=1", "'reconnect' option is incompatible with socket in server listen mode"),
    ("socket,id=c,path=" + "x" * 109 + ",server=on", "UNIX socket path '" + "x" * 109 + "' is too long\nPath must be less than 108 bytes"),
    ("socket,id=c,host=no.host.invalid,port=1", "address resolution failed for no.host.invalid:1: Name or service not known"),
    (
        "socket,id=c,host=no.host.invalid,port=1,server=on",
        "address resolution failed for no.host.invalid:1: Name or service not known",
    ),
    (
        "socket,id=c,host=127.0.0.1,port=nope,server=on",
        "address resolution failed for 127.0.0.1:nope: Servname not supported for ai_socktype",
    ),
    (
        "socket,id=c,host=127.0.0.1,port=0,ipv6=on,ipv4=off,server=on",
        "address resolution failed for 127.0.0.1:0: Address family for hostname not supported",
    ),
    ("socket,id=c,host=192.0.2.1,port=7,server=on", "Failed to bind socket: Cannot assign requested address"),
    ("socket,id=c,host=127.0.0.1,port=PORT,server=on", "Failed to find an available port: Address already in use"),
]

REFUSED_DAEMON = [
    (["--nope"], "unrecognized option '--nope'"),
    (["foo"], "foo: Unexpected argument"),
    (["--blockdev"], "option '--blockdev' requires an argument"),
    (
        ["--blockdev", "driver=nope,node-name=n"],
        "--blockdev driver=nope,node-name=n: Parameter 'driver' does not accept value 'nope'",
    ),
    (["--blockdev", "driver=null-co"], "--blockdev driver=null-co: 'node-name' must be specified for the root node"),
    (["--blockdev", '{"driver":"null-co"'], '--blockdev {"driver":"null-co": JSON parse error, premature EOI'),
    (["--chardev", "nope,id=x"], "--chardev nope,id=x: 'nope' is not a valid char driver name"),
    (["--monitor", "chardev=nope"], '--monitor chardev=nope: chardev "nope" not found'),
    (["--object", "nope,id=x"], "--object nope,id=x: Parameter 'qom-type' does not accept value 'nope'"),
    (
        ["--export", "type=nbd,id=x,node-name=n"],
        "--export type=nbd,id=x,node-name=n: Cannot find device='' nor node-name='n'",
    ),
    (
        ["--nbd-server", "addr.type=unix,addr.path=/no/x"],
        "--nbd-server addr.type=unix,addr.path=/no/x: Failed to bind socket to /no/x: No such file or directory",
    ),
    (["--pidfile", "/no/x"], "cannot create PID file: Could not create '/no/x': No such file or directory"),
    (["--chardev", "null,id=c", "--monitor", "c", "--monitor", "c"], "--monitor c: Device 'c' is in use"),
    (["--chardev", "null,id=c", "--monitor", "c,mode=readline"], "--monitor c,mode=readline: Only QMP is supported"),
    (["--object", "iothread,id=1"], "--object iothread,id=1: Parameter 'id' expects an identifier\n"
     "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."),
    (["--object", "iothread,id=a", "--object", "iothread,id=a"],
     "--object iothread,id=a: attempt to add duplicate property 'a' to object (type 'container')"),
    (["--object", "iothread,id=a,poll-max-ns=-1"],
     "--object iothread,id=a,poll-max-ns=-1: poll-max-ns value must be in range [0, 9223372036854775807]"),
    (["--object", "secret,id=s"], "--object secret,id=s: Either 'file' or 'data' must be provided"),
    (["--export", "fuse,id=e,node-name=n,mountpoint=/x"],
     "--export fuse,id=e,node-name=n,mountpoint=/x: Cannot find device='' nor node-name='n'"),
    (["--daemonize", "--chardev", "stdio,id=c"], "--chardev stdio,id=c: cannot use stdio with -daemonize"),
    (["--export", "help"], "--export help: Help is not available for this option"),
    (["--export", "nbd,id=e"], "--export nbd,id=e: Parameter 'node-name' is missing"),
    (["--export", "nope,id=e,node-name=n"], "--export nope,id=e,node-name=n: Parameter 'type' does not accept value 'nope'"),
    (
        ["--blockdev", "null-co,node-name=n", "--export", "nbd,id=e,node-name=n"],
        "--export nbd,id=e,node-name=n: NBD server not running",
    ),
    (["--nbd-server", "nope"], "--nbd-server nope: Expected '=' after parameter 'nope'"),
    (
        ["--nbd-server", "addr.type=unix,addr.path=n,nope=1"],
        "--nbd-server addr.type=unix,addr.path=n,nope=1: Parameter 'nope' is unexpected",
    ),
    (
        ["--nbd-server", "addr.type=unix,addr.path=a", "--nbd-server", "addr.type=unix,addr.path=b"],
        "--nbd-server addr.type=unix,addr.path=b: NBD server already running",
    ),
]


@system
@pytest.mark.parametrize("args, error", REFUSED_SYSTEM, ids=[" ".join(args) for args, _ in REFUSED_SYSTEM])
def test_refused_system(run, target, args, error):
    program = os.path.basename(target.program.command(target.manner)[0])
    assert run(*args) == (1, "", error.replace("PROGRAM", program) + "\n")


@pytest.mark.parametrize("chardev, error", REFUSED_CHARDEVS, ids=[chardev[:60] for chardev, _ in REFUSED_CHARDEVS])
def test_refused_chardevs(run, target, chardev, error):
    option = "-chardev" if target.manner == "system" else "--chardev"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chardev = chardev.replace("PORT", str(taken.getsockname()[1]))
        assert run(option, chardev) == (1, "", f"{option} {chardev}: {error}\n")


@daemon
@pytest.mark.parametrize("args, error", REFUSED_DAEMON, ids=[" ".join(args) for args, _ in REFUSED_DAEMON])
def test_refused_daemon(run, args, error):
    assert run(*args) == (1, "", error + "\n")


def test_messages_begin_with_the_name_of_the_program(target, workdir):
    """The base name of argv[0]."""
    command = target.program.command(target.manner)
    result = subprocess.run([*command, "--object", "nope,id=x"], capture_output=True, text=True, timeout=20)
    assert result.stderr.startswith(os.path.basename(command[0]) + ": ")


# ---------------------------------------------------------------------- help


def test_version(run, target):
    status, out, err = run("--version")
    assert (status, err) == (0, "")
    expected = r"QEMU emulator version 7\.2\.\d+" if target.manner == "system" else r"qemu-storage-daemon version 7\.2\.\d+"
    assert re.match(expected, out)


@system
def test_machine_help(run):
    """Clients look for the default and for aliases."""
    status, out, _ = run("-machine", "help", base=())
    assert status == 0 and out.startswith("Supported machines are:\n")
    assert re.search(r"^pc-i440fx-7\.2 +.* \(default\)$", out, re.M)
    assert re.search(r"^pc +.* \(alias of pc-i440fx-7\.2\)$", out, re.M)
    assert re.search(r"^q35 +.* \(alias of pc-q35-7\.2\)$", out, re.M)
    assert re.search(r"^none +empty machine$", out, re.M)


@system
def test_device_help(run):
    status, out, _ = run("-device", "help")
    assert status == 0
    for line in (
        'name "virtio-blk-pci", bus PCI, alias "virtio-blk"',
        'name "virtio-scsi-pci", bus PCI, alias "virtio-scsi"',
        'name "scsi-hd", bus SCSI, desc "virtual SCSI disk"',
        'name "scsi-cd", bus SCSI, desc "virtual SCSI CD-ROM"',
        'name "ide-hd", bus IDE, desc "virtual IDE disk"',
        'name "ide-cd", bus IDE, desc "virtual IDE CD-ROM"',
        'name "floppy", bus floppy-bus, desc "virtual floppy drive"',
    ):
        assert line in out.splitlines(), line


@system
def test_format_help(run):
    status, out, _ = run("-drive", "format=help")
    assert status == 0
    formats = re.match(r"Supported formats: (.*)\n", out)[1].split()
    assert {"file", "host_device", "null-aio", "null-co", "qcow2", "raw"} <= set(formats)
    assert formats == sorted(formats)


@daemon
def test_daemon_help(run):
    status, out, _ = run("--help")
    assert status == 0 and out.startswith("Usage: ")
    for option in ("--blockdev", "--chardev", "--daemonize", "--export", "--monitor", "--nbd-server", "--object", "--pidfile"):
        assert option in out


# ---------------------------------------------------------------------- blockdev


BLOCKDEV_FORMS = {
    "keyval": ["driver=file,node-name=f,filename={path}", "driver=qcow2,node-name=n,file=f"],
    "keyval nested": ["driver=qcow2,node-name=n,file.driver=file,file.filename={path}"],
    "json": ['{{"driver":"qcow2","node-name":"n","file":{{"driver":"file","filename":"{path}"}}}}'],
    "implied driver": ["qcow2,node-name=n,file.driver=file,file.filename={path}"],
    "options": [
        "driver=qcow2,node-name=n,read-only=off,discard=unmap,cache.direct=off,cache.no-flush=on,lazy-refcounts=on,"
        "file.driver=file,file.filename={path}"
    ],
}


@pytest.mark.parametrize("form", BLOCKDEV_FORMS)
def test_blockdev(start, images, form):
    image = images.create("disk.qcow2", size=SIZE)
    args = []
    for text in BLOCKDEV_FORMS[form]:
        args += [blockdev(start.manner), text.format(path=image.path)]
    server = start(*args)
    node = server.query_node("n")
    assert node["drv"] == "qcow2" and node["image"]["filename"] == str(image.path)
    with server.export("n", writable=True) as nbd:
        nbd.pwrite(b"\1" * 512, 0)
    server.stop()
    image.read(0, 512, 1)


def test_commas_in_values_are_doubled(start, images):
    image = images.create("a,b.raw", "raw", SIZE)
    server = start(blockdev(start.manner), f"driver=file,node-name=n,filename={images.dir}/a,,b.raw")
    assert server.query_node("n")["file"] == str(image.path)


def test_the_order_of_the_command_line(run, images):
    """A node can name only those before it."""
    image = images.create("disk.qcow2", size=SIZE)
    option = "--blockdev"
    status, _, err = run(option, "driver=qcow2,node-name=n,file=f", option, f"driver=file,node-name=f,filename={image.path}")
    if status == 0:
        pytest.fail("a later node was found")
    assert err == "--blockdev driver=qcow2,node-name=n,file=f: Cannot find device='f' nor node-name='f'\n"


def test_objects(start, images):
    (images.dir / "key").write_bytes(b"secret")
    server = start(
        "--object", "iothread,id=io0", "--object", f"secret,id=s0,file={images.dir}/key",
        "--object", '{"qom-type":"throttle-group","id":"t0","limits":{"iops-total":100}}',
    )
    for name, kind in (("io0", "iothread"), ("s0", "secret"), ("t0", "throttle-group")):
        assert {"name": name, "type": f"child<{kind}>"} in server.execute("qom-list", path="/objects")
    server.object_add(qom_type="secret", id="s1", data="hush")
    assert server.error("object-add", qom_type="secret", id="s1", data="hush") == (
        "attempt to add duplicate property 's1' to object (type 'container')"
    )
    server.object_del(id="s1")
    assert server.error("object-del", id="s1") == "object 's1' not found"
    assert server.error("object-add", qom_type="nope", id="x") == "Parameter 'qom-type' does not accept value 'nope'"
    assert server.error("object-add", qom_type="iothread") == "Parameter 'id' is missing"
    assert server.error("object-add", qom_type="iothread", id="1 2") == "Parameter 'id' expects an identifier"


# ---------------------------------------------------------------------- drives and devices


@system
def test_drive(start, images):
    image = images.create("disk.qcow2", size=SIZE)
    server = start("-drive", f"file={image.path},if=none,id=d,node-name=n,cache=none,discard=unmap,readonly=off")
    (entry,) = server.query_block()
    assert entry["device"] == "d" and entry["inserted"]["node-name"] == "n"
    assert entry["inserted"]["cache"] == {"no-flush": False, "direct": True, "writeback": True}
    assert entry["removable"] is True and entry["locked"] is False and entry["type"] == "unknown"


@system
@pytest.mark.parametrize(
    "option, error",
    [
        ("bogus.group=1", "Block format 'qcow2' does not support the option 'bogus.group'"),
        ("cache.bogus=1", "Block format 'qcow2' does not support the option 'cache.bogus'"),
        ("file.bogus=1", "Block protocol 'file' doesn't support the option 'bogus'"),
        ("file.cache.writeback=off", "Block protocol 'file' doesn't support the option 'cache.writeback'"),
        ("backing.bogus=1", "Could not open backing file: Block format 'raw' does not support the option 'bogus'"),
        ("backing.cache.writeback=off", "Could not open backing file: Block format 'raw' does not support the option 'cache.writeback'"),
        ("backing.file.bogus.x=2", "Could not open backing file: Block protocol 'file' doesn't support the option 'bogus.x'"),
    ],
)
def test_options_of_a_drive_that_nobody_wants(run, images, option, error):
    base = images.create("base.raw", "raw", "1M").fill((0, "1M", 1))
    top = images.create("top.qcow2", size=None, backing=base)
    drive = f"if=none,file={top},backing.file.filename={base},{option}"
    status, _, err = run("-drive", drive)
    assert (status, err.splitlines()[-1].removeprefix(f"-drive {drive}: ")) == (1, error)


@system
def test_a_name_of_a_drive_has_types(start, images):
    """What is JSON within a name is not text, as the other options are; but how the host caches is not for the name to say."""
    image = images.create("i.qcow2", size="1M")
    name = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": str(image)}, "cache": {"no-flush": True},
                       "l2-cache-size": 65536, "lazy-refcounts": True})
    server = start("-drive", f"if=none,id=d,node-name=n,file=json:{name.replace(',', ',,')}")
    assert not server.query_node("n")["cache"]["no-flush"]


@system
def test_drives_get_names(start, images):
    """A drive without an id is named after its place."""
    for name in ("a", "b"):
        images.create(f"{name}.raw", "raw", SIZE)
    server = start(
        "-drive", f"file={images.dir}/a.raw,format=raw,if=none", "-drive", f"file={images.dir}/b.raw,format=raw,if=none",
    )
    assert [entry["device"] for entry in server.query_block()] == ["none0", "none1"]


@system
def test_guessed_format_warns(start, images):
    image = images.create("disk.raw", "raw", SIZE)
    server = start("-drive", f"file={image.path},if=none,id=d")
    assert server.query_block()[0]["inserted"]["drv"] == "raw"
    assert f"WARNING: Image format was not specified for '{image.path}' and probing guessed raw.\n" in server.stderr


DEVICES = {
    "virtio-blk-pci": ["-device", "virtio-blk-pci,id=dev,drive=n"],
    "virtio-blk": ["-device", "virtio-blk,id=dev,drive=n"],
    "json": ["-device", '{"driver":"virtio-blk-pci","id":"dev","drive":"n"}'],
    "scsi-hd": ["-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-hd,id=dev,drive=n,bus=scsi0.0"],
    "scsi-cd": ["-device", "virtio-scsi-pci", "-device", "scsi-cd,id=dev,drive=n"],
    "ide-hd": ["-device", "ide-hd,id=dev,drive=n"],
    "ide-cd": ["-device", "ide-cd,id=dev,drive=n,bus=ide.1"],
}


@system
@pytest.mark.parametrize("name", DEVICES)
def test_device(differential, name):
    """A device with a node: query-block, the users of the node, and what may not be done to it, as QEMU has it."""
    def prepare(directory):
        Image.create(directory / "disk.qcow2", "qcow2", SIZE)

    def script(server):
        server.execute("query-block")
        server.execute("query-blockstats")
        server.try_execute("blockdev-del", {"node-name": "n"})
        server.try_execute("blockdev-add", {"driver": "raw", "node-name": "r", "file": "n"})
        server.try_execute("block_resize", {"node-name": "n", "size": 2 * SIZE})
        server.execute("query-block")

    read_only = "on" if name.endswith("-cd") else "off"
    args = ("-blockdev", f"driver=qcow2,node-name=n,read-only={read_only},file.driver=file,file.filename=disk.qcow2")
    differential.run(script, prepare=prepare, args=args + tuple(DEVICES[name]), machine="pc")


@system
@pytest.mark.parametrize(
    "args, error",
    [
        (["-device", "virtio-blk-pci,drive=nope"], "Property 'virtio-blk-device.drive' can't find value 'nope'"),
        (["-device", "virtio-blk-pci"], "virtio-blk-pci: drive property not set"),
        (["-device", "scsi-hd,drive=n"], "No 'SCSI' bus found for device 'scsi-hd'"),
        (["-device", "virtio-blk-pci,drive=n,bogus=1"], "Property 'virtio-blk-pci.bogus' not found"),
        (
            ["-device", "virtio-blk-pci,drive=n,id=a", "-device", "virtio-blk-pci,drive=n,id=b"],
            "Permission conflict on node 'n': permissions 'write' are both required by block device "
            "'/machine/peripheral/a/virtio-backend' (uses node 'n' as 'root' child) and unshared by block device "
            "'/machine/peripheral/b/virtio-backend' (uses node 'n' as 'root' child).",
        ),
    ],
)
def test_device_refused(run, args, error):
    status, _, err = run(
        "-blockdev", "driver=null-co,node-name=n", *args, base=("-machine", "pc", "-nodefaults", "-display", "none", "-S")
    )
    assert status == 1 and error in err


@system
@pytest.mark.parametrize("model", ["ide-hd", "scsi-hd", "scsi-cd", "virtio-blk"])
@pytest.mark.parametrize("policies, watched", [("", True), (",werror=report", False), (",werror=ignore", False)])
def test_a_device_stops_for_space_when_it_reads(start, run, model, policies, watched):
    """Only -drive refuses `enospc` for reads; whether there is an I/O status depends on writes then."""
    server = start("-blockdev", "null-co,node-name=n", "-blockdev", "null-co,node-name=m", "-device", "virtio-scsi",
                   "-device", f"{model},drive=n,rerror=enospc{policies}", machine="pc")
    (entry,) = server.query_block()
    assert entry.get("io-status") == ("ok" if watched else None)
    if model != "ide-hd":
        server.device_add(driver=model, drive="m", rerror="enospc")
        assert len(server.query_block()) == 2
    status, _, err = run("-drive", f"if=none,driver=null-co,rerror=enospc{policies}")
    assert status == 1 and "'enospc' invalid read error action" in err


@system
def test_a_drive_that_a_job_uses(start):
    server = start("-drive", "if=none,id=fl,driver=null-co", "-blockdev", "null-co,node-name=t", machine="pc")
    server.blockdev_backup(job_id="j", device="fl", target="t", sync="full", speed=1)
    answer = server.execute("human-monitor-command", command_line="drive_del fl")
    assert answer == "Node 'fl' is busy: block device is in use by block job: backup\r\n"
    server.block_job_cancel(device="j", force=True)
    server.wait_event("BLOCK_JOB_CANCELLED")


def test_types_that_implement(start):
    server = start()
    assert server.execute("qom-list-types", implements="nope") == []
    assert {entry["name"] for entry in server.execute("qom-list-types", implements="iothread")} == {"iothread"}


@system
def test_a_drive_that_is_no_node(start):
    server = start()
    answer = server.execute("human-monitor-command", command_line="drive_add -n 0 node-name=mm,file=r.raw")
    assert answer == "Cannot find device='r.raw' nor node-name='r.raw'\r\n"


@system
def test_guest_visible_names(start, images):
    """Clients find disks by the id of the device, the path of the object and the name of the node."""
    image = images.create("disk.qcow2", size=SIZE)
    server = start(
        "-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={image.path}",
        "-device", "virtio-blk-pci,id=disk0,drive=n", machine="pc",
    )
    (entry,) = server.query_block()
    assert entry["device"] == "" and entry["qdev"] == "/machine/peripheral/disk0/virtio-backend"
    assert entry["inserted"]["node-name"] == "n"
    assert server.execute("qom-list", path="/machine/peripheral")[-1] == {"name": "disk0", "type": "child<virtio-blk-pci>"}


@system
@pytest.mark.parametrize("machine", ["pc", "q35", "none"])
def test_run_state(start, machine):
    server = start(machine=machine)
    state = server.query_status()
    if machine == "none":
        assert state == {"status": "running", "singlestep": False, "running": True}
    else:
        assert state == {"status": "prelaunch", "singlestep": False, "running": False}


@system
def test_name_and_uuid(start):
    server = start("-name", "guest=alpha,debug-threads=on", "-uuid", "12345678-9ABC-def0-1234-56789abcdef0")
    assert server.query_name() == {"name": "alpha"}
    assert server.query_uuid() == {"UUID": "12345678-9abc-def0-1234-56789abcdef0"}


@system
def test_what_concerns_a_screen_or_a_processor_is_taken(start):
    start(
        "-S", "-no-user-config", "-nographic", "-m", "256", "-smp", "2", "-boot", "strict=on", "-rtc", "base=utc",
        "-no-shutdown", "-msg", "timestamp=on", "-monitor", "none", "-serial", "none", "-parallel", "none", "-vga", "none",
        machine="pc",
    )


@system
def test_qtest_option(start, workdir):
    start("-qtest", f"unix:{workdir}/qtest,server=on,wait=off")


# ---------------------------------------------------------------------- to the background


def read_pid(path):
    return int(path.read_text())


def test_pidfile(start, workdir):
    server = start("--pidfile", workdir / "pid")
    assert read_pid(workdir / "pid") == server.process.pid
    server.stop()
    assert not (workdir / "pid").exists()


def test_a_pidfile_is_held(start, run, workdir):
    server = start("--pidfile", workdir / "pid")
    status, _, err = run("--pidfile", workdir / "pid")
    assert status == 1
    assert err == "cannot create PID file: Cannot lock pid file: Resource temporarily unavailable\n"
    assert read_pid(workdir / "pid") == server.process.pid


def test_daemonize(target, workdir):
    """The parent ends when the sockets listen and the pidfile is there; the child keeps no stream of its parent."""
    command = target.program.command(target.manner)
    if target.manner == "system":
        command += ["-machine", "none", "-nodefaults", "-display", "none", "-qmp", f"unix:{workdir}/m,server=on,wait=off"]
    else:
        command += ["--chardev", f"socket,id=m,path={workdir}/m,server=on,wait=off", "--monitor", "chardev=m"]
    command += ["--daemonize", "--pidfile", str(workdir / "pid")]
    # With pipes: `run` returns at their end, so it would hang on a child that holds them open
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    pid = read_pid(workdir / "pid")
    try:
        with Qmp.connect(workdir / "m") as qmp:
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            qmp.execute("quit")
            assert qmp.at_eof()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


def test_daemonize_reports_failures(target, workdir):
    """An error after the fork reaches the caller all the same."""
    command = target.program.command(target.manner)
    if target.manner == "system":
        command += ["-machine", "none", "-nodefaults", "-display", "none"]
    result = subprocess.run(
        [*command, "--daemonize", "--pidfile", "/no/such/place"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
    )
    assert result.returncode == 1
    assert "cannot create PID file: Could not create '/no/such/place'" in result.stderr


@daemon
def test_sigterm_with_a_job_and_a_client(start, images):
    """Ends in order: the pidfile is gone, the images are whole."""
    source, target_image = images.create("src.qcow2", size="4M").fill((0, "4M", 1)), images.create("dst.qcow2", size="4M")
    server = start("--pidfile", images.dir / "pid")
    server.add_image("src", source)
    server.add_image("dst", target_image)
    nbd = server.export("src", writable=True)
    server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=65536)
    nbd.pwrite(b"\2" * 65536, 0)
    server.process.send_signal(signal.SIGTERM)
    server.wait()
    assert not (images.dir / "pid").exists()
    source.read(0, 65536, 2)
    source.check()
    target_image.check()


def test_names_of_the_program(target, workdir):
    """The manner is chosen by the name that the program is started under."""
    name = "qemu-system-x86_64" if target.manner == "system" else "qemu-storage-daemon"
    link = workdir / name
    link.symlink_to(target.program.command(target.manner)[0])
    result = subprocess.run([link, "--version"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0
    assert result.stdout.startswith("QEMU emulator version" if target.manner == "system" else "qemu-storage-daemon version")
