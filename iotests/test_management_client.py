"""What management software does before a guest runs: it probes the program once, starts it paused, looks around, and comes back later."""

import os
import signal
import subprocess
import time

import pytest

from blockbed_iotests import Qmp

pytestmark = pytest.mark.manners("system")

# Devices by whose properties a client decides what it may use. (Asked for all of its types, QEMU aborts at one of them.)
DEVICES = """virtio-blk-pci virtio-net-pci virtio-scsi-pci scsi-hd ide-hd floppy PIIX4_PM usb-storage VGA ICH9-LPC
    virtio-balloon-pci pcie-root-port isa-fdc ide-cd scsi-cd""".split()
EVENTS_ON = [{"capability": "events", "state": True}]


def capability(qmp, name):
    (state,) = [entry["state"] for entry in qmp.query_migrate_capabilities() if entry["capability"] == name]
    return state


@pytest.fixture
def daemon(target, workdir):
    """Started in the background without a machine; standard output and error must be closed when the start is over."""
    socket_path, pidfile = workdir / "probe.sock", workdir / "probe.pid"
    command = target.program.command("system") + [
        "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg",
        "-qmp", f"unix:{socket_path},server=on,wait=off", "-pidfile", str(pidfile), "-daemonize",
    ]  # fmt: skip
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    pid = int(pidfile.read_text())
    yield socket_path
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while pidfile.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not pidfile.exists()


def test_probe(daemon):
    with Qmp.connect(daemon) as qmp:
        assert qmp.query_version()["qemu"] == {"major": 7, "minor": 2, "micro": 22}
        assert qmp.query_target() == {"arch": "x86_64"}
        schema = {entry["name"] for entry in qmp.query_qmp_schema() if entry["meta-type"] in ("command", "event")}
        commands = {entry["name"] for entry in qmp.query_commands()}
        assert commands < schema
        assert set(qmp.query_kvm()) == {"enabled", "present"}
        types = {entry["name"] for entry in qmp.qom_list_types()}
        assert types > {
            "tcg-accel", "virtio-blk-pci", "virtio-blk-pci-non-transitional", "virtio-scsi-pci", "scsi-hd", "ide-hd",
            "pcie-root-port", "qemu-xhci", "iothread", "memory-backend-file", "memory-backend-memfd", "none-machine",
        }  # fmt: skip
        for typename in types.intersection(DEVICES):
            assert all(entry["name"] and entry["type"] for entry in qmp.device_list_properties(typename=typename))
        for typename in ("memory-backend-file", "memory-backend-memfd", "none-machine", "qemu64-x86_64-cpu"):
            assert isinstance(qmp.qom_list_properties(typename=typename), list)
        machines = {entry["name"]: entry for entry in qmp.query_machines()}
        assert machines["pc-i440fx-7.2"] == {
            "name": "pc-i440fx-7.2", "alias": "pc", "is-default": True, "cpu-max": 255, "hotpluggable-cpus": True,
            "numa-mem-supported": False, "deprecated": False, "default-cpu-type": "qemu64-x86_64-cpu", "default-ram-id": "pc.ram",
        }  # fmt: skip
        assert machines["pc-q35-7.2"]["alias"] == "q35" and machines["pc-q35-7.2"]["cpu-max"] == 288
        assert machines["none"] == {
            "name": "none", "cpu-max": 1, "hotpluggable-cpus": False, "numa-mem-supported": False, "deprecated": False,
            "default-ram-id": "ram",
        }  # fmt: skip
        assert "qemu64" in {entry["name"] for entry in qmp.query_cpu_definitions()}
        assert isinstance(qmp.query_command_line_options(), list)
        assert qmp.error("query-command-line-options", {"option": "nope"}) == "invalid option name: nope"
        assert capability(qmp, "events") is False


def test_properties_of_a_device(daemon):
    """Those by which a client decides what it may ask for; their types are QEMU's."""
    with Qmp.connect(daemon) as qmp:
        def types(typename):
            return {entry["name"]: entry["type"] for entry in qmp.device_list_properties(typename=typename)}

        disk = types("scsi-hd")
        assert disk["drive"] == "str" and disk["write-cache"] == "OnOffAuto" and disk["share-rw"] == "bool"
        assert disk["werror"] == "BlockdevOnError" and disk["logical_block_size"] == "size" and disk["lun"] == "uint32"
        assert "werror" not in types("floppy") and types("floppy")["drive-type"] == "FdcDriveType"
        virtio = types("virtio-blk-pci")
        assert {"num-queues", "iothread", "discard", "write-zeroes", "addr", "bootindex"} < set(virtio)
        assert qmp.error("device-list-properties", {"typename": "nope"}) == "DeviceNotFound: Device 'nope' not found"


@pytest.fixture
def guest(start, workdir, images):
    """Paused, its monitor on a listening socket that it was given."""
    images.create("disk.qcow2")
    with Qmp.listen(workdir / "guest.sock") as listener:
        start(
            "-S", "-machine", "pc,accel=tcg", "-m", "64", "-smp", "2,sockets=2", "-no-shutdown", "-boot", "strict=on", "-rtc", "base=utc",
            "-overcommit", "mem-lock=off", "-msg", "timestamp=on", "-object", '{"qom-type":"iothread","id":"io"}',
            "-chardev", f"socket,id=charmonitor,fd={listener.fileno()},server=on,wait=off",
            "-mon", "chardev=charmonitor,id=monitor,mode=control",
            "-blockdev", f'{{"driver":"file","filename":"{workdir}/disk.qcow2","node-name":"storage","auto-read-only":true,"discard":"unmap"}}',
            "-blockdev", '{"node-name":"format","read-only":false,"driver":"qcow2","file":"storage","backing":null}',
            "-device", '{"driver":"virtio-blk-pci","bus":"pci.0","addr":"0x2","drive":"format","id":"disk0","bootindex":1}',
            pass_fds=(listener.fileno(),),
        )  # fmt: skip
    return workdir / "guest.sock"


def test_before_a_guest_runs(guest):
    with Qmp.connect(guest) as qmp:
        assert capability(qmp, "events") is False
        assert qmp.migrate_set_capabilities(capabilities=EVENTS_ON) == {}
        assert capability(qmp, "events") is True
        assert [device for device in qmp.query_chardev() if device["label"] == "charmonitor"][0]["frontend-open"]
        places = [{"socket-id": socket, "core-id": 0, "thread-id": 0} for socket in (0, 1)]
        paths = ["/machine/unattached/device[0]", "/machine/unattached/device[2]"]
        assert qmp.query_hotpluggable_cpus() == [
            {"type": "qemu64-x86_64-cpu", "vcpus-count": 1, "props": place, "qom-path": path}
            for place, path in reversed(list(zip(places, paths)))
        ]
        running = qmp.query_cpus_fast()
        for processor in running:
            os.stat(f"/proc/{processor.pop('thread-id')}")
        assert running == [
            {"cpu-index": index, "qom-path": path, "props": place, "target": "x86_64"}
            for index, (place, path) in enumerate(zip(places, paths))
        ]
        assert {"name": "type", "type": "string"} in qmp.qom_list(path=paths[0])
        assert [thread["id"] for thread in qmp.query_iothreads()] == ["io"]
        assert {node["node-name"] for node in qmp.query_named_block_nodes(flat=True)} == {"storage", "format"}
        assert {"name": "disk0", "type": "child<virtio-blk-pci>"} in qmp.qom_list(path="/machine/peripheral")
        (disk,) = [disk for disk in qmp.query_block() if disk["qdev"] == "/machine/peripheral/disk0/virtio-backend"]
        assert disk["inserted"]["node-name"] == "format"
        assert qmp.query_migrate() == {}
        assert qmp.error("query-balloon") == "DeviceNotActive: No balloon device has been activated"
        assert qmp.query_current_machine() == {"wakeup-suspend-support": True}
        qmp.cont()
        assert qmp.wait_event("RESUME")


def test_a_client_that_comes_back(guest):
    """The end of a connection is no reason to end: the next one is greeted anew."""
    with Qmp.connect(guest) as qmp:
        qmp.cont()
    with Qmp.connect(guest) as qmp:
        assert qmp.query_status() == {"running": True, "singlestep": False, "status": "running"}
        assert len(qmp.query_cpus_fast()) == 2 and qmp.query_jobs() == []


def test_no_processors_without_a_machine(daemon):
    with Qmp.connect(daemon) as qmp:
        assert qmp.query_cpus_fast() == []
        assert qmp.error("query-hotpluggable-cpus") == "The feature 'query-hotpluggable-cpus' is not enabled"


@pytest.mark.parametrize("smp, maximum, last", [
    ("3,maxcpus=5", 5, {"socket-id": 0, "core-id": 4, "thread-id": 0}),
    ("4,sockets=2", 4, {"socket-id": 1, "core-id": 1, "thread-id": 0}),
    ("sockets=2,cores=2", 4, {"socket-id": 1, "core-id": 1, "thread-id": 0}),
    ("cpus=8,sockets=2,dies=2,cores=2,threads=1", 8, {"socket-id": 1, "die-id": 1, "core-id": 1, "thread-id": 0}),
])  # fmt: skip
def test_places_of_processors(start, smp, maximum, last):
    server = start("-S", "-machine", "pc,accel=tcg", "-smp", smp)
    processors = server.query_hotpluggable_cpus()
    assert len(processors) == maximum and processors[0]["props"] == last


@pytest.mark.parametrize("smp, error", [
    ("nope", "Parameter 'smp.cpus' expects integer"),
    ("cpus=1,nope=1", "Parameter 'smp.nope' is unexpected"),
    ("256", "Invalid SMP CPUs 256. The max CPUs supported by machine 'pc-i440fx-7.2' is 255"),
    ("-1", "Invalid SMP CPUs -1. The max CPUs supported by machine 'pc-i440fx-7.2' is 255"),
    (
        "4,sockets=3,cores=1,threads=1",
        "Invalid CPU topology: product of the hierarchy must match maxcpus: "
        "sockets (3) * dies (1) * cores (1) * threads (1) != maxcpus (4)",
    ),
    (
        "2,maxcpus=1",
        "Invalid CPU topology: maxcpus must be equal to or greater than smp: "
        "sockets (1) * dies (1) * cores (1) * threads (1) == maxcpus (1) < smp_cpus (2)",
    ),
])  # fmt: skip
def test_impossible_processors(target, smp, error):
    command = target.program.command("system") + ["-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-smp", smp]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stderr) == (1, f"{os.path.basename(command[0])}: {error}\n")
