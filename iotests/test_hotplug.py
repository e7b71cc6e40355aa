"""Buses of a machine: which one a device goes to, and which let devices come and go."""

import json
import subprocess

import pytest

pytestmark = pytest.mark.manners("system")


def nodes(*names):
    return [word for name in names for word in ("-blockdev", f"null-co,node-name={name}")]


def devices(*texts):
    return [word for text in texts for word in ("-device", text)]


def refused(bus):
    return f"Bus '{bus}' does not support hotplugging"


@pytest.fixture
def pc(start):
    return start(
        *nodes("n", "m"),
        *devices("ide-hd,drive=m,id=disk", "ide-cd,bus=ide.0,id=cd", "floppy,id=f", "isa-serial,id=s", "VGA,id=v"), machine="pc",
    )


def test_what_stays_in_a_pc(pc):
    for device, bus in (("disk", "ide.1"), ("cd", "ide.0"), ("f", "floppy-bus.0"), ("s", "isa.0")):
        assert pc.error("device_del", id=device) == refused(bus)
    assert pc.error("device_del", id="v") == "Device 'VGA' does not support hotplugging"


def test_what_does_not_come_to_a_pc(pc):
    for driver, bus in (("ide-hd", "ide.1"), ("ide-cd", "ide.1"), ("floppy", "floppy-bus.0"), ("isa-fdc", "isa.0"), ("isa-serial", "isa.0")):
        # That is said before anything else is looked at.
        for more in ({}, {"drive": "n"}, {"drive": "nope"}, {"id": "disk"}, {"bogus": 1}):
            assert pc.error("device_add", {"driver": driver, **more}) == refused(bus)
    assert pc.error("device_add", driver="ide-cd", bus="ide.0") == refused("ide.0")
    for driver in ("VGA", "qxl-vga", "ich9-usb-ehci1"):
        assert pc.error("device_add", driver=driver) == "Parameter 'driver' expects a pluggable device type"
    assert pc.execute("human-monitor-command", command_line="device_add ide-cd") == f"Error: {refused('ide.1')}\r\n"
    assert len(pc.query_block()) == 3


def test_what_comes_to_a_pc(pc):
    for driver in ("virtio-scsi", "megasas", "lsi", "ich9-ahci", "virtio-serial"):
        pc.device_add(driver=driver, id=driver)
    pc.device_add(driver="scsi-cd", bus="megasas.0")
    pc.device_add(driver="virtio-blk", drive="n", bus="pci.0")
    # A controller that came later has buses to which nothing comes.
    assert pc.error("device_add", driver="ide-cd") == refused("ich9-ahci.5")
    assert pc.error("device_add", driver="ide-cd", bus="ich9-ahci.0") == refused("ich9-ahci.0")
    assert pc.error("device_add", driver="ide-cd", bus="ich9-ahci.6") == "Bus 'ich9-ahci.6' not found"


def test_q35(start):
    """To the root bus nothing comes, and nothing goes from there; behind a root port it does."""
    server = start(
        *nodes("n", "m", "k"),
        *devices("pcie-root-port,id=rp", "pcie-pci-bridge,id=bridge", "ide-cd,id=cd", "virtio-scsi,id=s", "virtio-blk,drive=n,id=b"),
        machine="q35",
    )
    for device, bus in (("cd", "ide.5"), ("s", "pcie.0"), ("b", "pcie.0"), ("rp", "pcie.0")):
        assert server.error("device_del", id=device) == refused(bus)
    for driver in ("virtio-blk", "virtio-scsi", "pcie-root-port", "ich9-ahci", "megasas", "virtio-net"):
        assert server.error("device_add", driver=driver, drive="m") == refused("pcie.0")
    assert server.error("device_add", driver="ide-cd") == refused("ide.5")
    server.device_add(driver="virtio-blk", drive="m", bus="rp", id="x")
    server.device_add(driver="virtio-scsi", bus="bridge", id="y")
    server.device_add(driver="scsi-hd", drive="k", bus="y.0", id="z")
    server.device_del(id="z")


@pytest.mark.parametrize(
    "machine, device, error",
    [
        ("pc", {"driver": "virtio-blk", "bus": "nope"}, "Bus 'nope' not found"),
        ("pc", {"driver": "virtio-blk", "bus": "ide.0"}, "Device 'virtio-blk-pci' can't go on IDE bus"),
        ("pc", {"driver": "scsi-cd", "bus": "pci.0"}, "Device 'scsi-cd' can't go on PCI bus"),
        ("q35", {"driver": "scsi-cd", "bus": "pcie.0"}, "Device 'scsi-cd' can't go on PCIE bus"),
        ("q35", {"driver": "virtio-scsi", "bus": "pci.0"}, "Bus 'pci.0' not found"),
        ("pc", {"driver": "floppy", "bus": "isa.0"}, "Device 'floppy' can't go on ISA bus"),
        ("q35", {"driver": "floppy"}, "No 'floppy-bus' bus found for device 'floppy'"),
        ("pc", {"driver": "virtconsole"}, "No 'virtio-serial-bus' bus found for device 'virtconsole'"),
        ("pc", {"driver": "virtio-blk-device", "drive": "n"}, "No 'virtio-bus' bus found for device 'virtio-blk-device'"),
        ("none", {"driver": "isa-fdc"}, "No 'ISA' bus found for device 'isa-fdc'"),
        ("none", {"driver": "VGA"}, "Parameter 'driver' expects a pluggable device type"),
        ("pc", {"driver": "virtio-blk", "id": "1x"}, "Parameter 'id' expects an identifier"),
        ("pc", {"driver": "nope", "id": "a b"}, "Parameter 'id' expects an identifier"),
    ],
)
def test_no_such_place(start, machine, device, error):
    assert start(*nodes("n"), machine=machine).error("device_add", device) == error


@pytest.mark.parametrize(
    "machine, texts, disk, bus",
    [
        # The newest controller, and on it the last bus.
        ("pc", ["ide-cd,id=d"], "d", "ide.1"),
        ("pc", ["ich9-ahci,id=ahci", "ide-cd,id=d"], "d", "ahci.5"),
        ("pc", ["ich9-ahci", "ich9-ahci", "ide-cd,id=d"], "d", "ide.13"),
        ("q35", ["ide-cd,id=d"], "d", "ide.5"),
        ("q35", ["ich9-ahci", "ide-cd,id=d"], "d", "ide.11"),
        ("pc", ["isa-fdc,id=fdc", "floppy,id=d"], "d", "fdc.0"),
        ("pc", ["isa-fdc", "floppy,id=d"], "d", "floppy-bus.1"),
        ("pc", ["isa-fdc", "floppy,id=d,bus=floppy-bus.0"], "d", "floppy-bus.0"),
        ("q35", ["isa-fdc", "floppy,id=d"], "d", "floppy-bus.0"),
        # Without a name the second place of a bus.
        ("pc", ["ide-cd", "ide-cd,id=d"], "d", "ide.1"),
        ("pc", ["ide-cd,unit=1", "ide-cd,id=d"], "d", "ide.1"),
    ],
)
def test_the_bus_of_a_disk(start, machine, texts, disk, bus):
    assert start(*devices(*texts), machine=machine).error("device_del", id=disk) == refused(bus)


@pytest.mark.parametrize(
    "texts, owner",
    [
        (["virtio-scsi,id=a", "virtio-scsi,id=b"], "b"),
        (["pci-bridge,chassis_nr=1,id=bridge", "virtio-scsi,id=a", "virtio-scsi,id=b,bus=bridge"], "a"),
        (["virtio-scsi,id=a", "pci-bridge,chassis_nr=1,id=bridge", "virtio-scsi,id=b,bus=bridge"], "b"),
    ],
)
def test_the_controller_of_a_disk(start, texts, owner):
    """One in an iothread takes its disk there, which another user of the node does not bear."""
    texts = [text + ",iothread=t" if f"virtio-scsi,id={owner}" in text else text for text in texts]
    server = start("-object", "iothread,id=t", *nodes("n"), *devices(*texts, "scsi-hd,drive=n,id=d"), machine="pc")
    other = server.try_execute("device_add", {"driver": "virtio-blk", "drive": "n", "share-rw": True})
    assert "Cannot change iothread of active block backend" in str(other)


@pytest.mark.parametrize(
    "machine, texts, error",
    [
        ("pc", ["ide-cd", "ide-cd", "ide-cd"], "IDE unit 1 is in use"),
        ("pc", ["ide-cd,unit=1", "ide-cd", "ide-cd,unit=0"], "IDE unit 0 is in use"),
        ("pc", ["ide-cd,unit=2"], "Can't create IDE unit 2, bus supports only 2 units"),
        ("pc", ["floppy", "floppy", "floppy"], "Can't create floppy unit 2, bus supports only 2 units"),
        ("q35", ["ide-cd", "ide-cd"], "Can't create IDE unit 1, bus supports only 1 units"),
        ("q35", ["ide-cd,bus=ide.2,unit=1"], "Can't create IDE unit 1, bus supports only 1 units"),
        ("q35", ["ide-cd,bus=ide.6"], "Bus 'ide.6' not found"),
        ("q35", ["ich9-ahci,id=a", "ide-cd", "ide-cd,bus=a.5"], "Can't create IDE unit 1, bus supports only 1 units"),
        ("pc", ["virtio-rng,bus=pcie.0"], "Bus 'pcie.0' not found"),
        ("q35", ["isa-fdc,id=fdc", "floppy,bus=floppy-bus.0"], "Bus 'floppy-bus.0' not found"),
    ],
)
def test_no_room(run, machine, texts, error):
    status, _, err = run(*devices(*texts), base=("-machine", machine, "-nodefaults", "-display", "none", "-S"))
    assert status == 1 and err.endswith(f"-device {texts[-1]}: {error}\n")


def test_six_buses_of_q35(start):
    server = start(*devices(*(f"ide-cd,bus=ide.{i},id=c{i}" for i in range(6))), machine="q35")
    assert [entry["qdev"] for entry in server.query_block()] == [f"c{i}" for i in range(6)]
    for i in range(6):
        assert server.error("device_del", id=f"c{i}") == refused(f"ide.{i}")


def drive(*texts):
    return [word for text in texts for word in ("-drive", f"driver=null-co,{text}")]


@pytest.mark.parametrize(
    "machine, args, names",
    [
        ("pc", [], ["ide1-cd0", "floppy0", "sd0"]),
        ("q35", [], ["ide2-cd0", "sd0"]),
        ("pc", drive("index=1"), ["ide0-hd1", "ide1-cd0", "floppy0", "sd0"]),
        ("q35", drive("index=1"), ["ide1-hd0", "ide2-cd0", "sd0"]),
        ("pc", drive("index=2"), ["ide1-hd0", "floppy0", "sd0"]),
        ("q35", drive("index=2"), ["ide2-hd0", "sd0"]),
        ("q35", drive("if=ide", "media=cdrom", "if=ide"), ["ide0-hd0", "ide1-cd0", "ide2-hd0", "sd0"]),
        ("q35", drive("if=floppy"), ["floppy0", "ide2-cd0", "sd0"]),
        ("q35", drive("index=5"), ["ide5-hd0", "ide2-cd0", "sd0"]),
    ],
)
def test_where_drives_go(target, workdir, machine, args, names):
    """A bus of q35 has one place, those of a PC two: with that go the names, and where the empty CD-ROM drive is."""
    queries = workdir / "queries"
    queries.write_text('{"execute": "qmp_capabilities"}\n{"execute": "query-block"}\n{"execute": "quit"}\n')
    base = ["-machine", machine, "-display", "none", "-S", "-qmp", "stdio", *args]
    with queries.open() as commands:
        result = subprocess.run([*target.program.command("system"), *base], stdin=commands, capture_output=True, text=True, timeout=20)
    (entries,) = (reply for reply in map(json.loads, result.stdout.splitlines()) if isinstance(reply.get("return"), list))
    assert [entry["device"] for entry in entries["return"]] == names
    assert all(("qdev" in entry) == (entry["device"] != "sd0") for entry in entries["return"])


@pytest.mark.parametrize(
    "machine, text, error",
    [
        ("pc", "bus=0,unit=2", "unit 2 too big (max is 1)"),
        ("q35", "bus=0,unit=1", "unit 1 too big (max is 0)"),
        ("pc", "index=7", "machine type does not support if=ide,bus=3,unit=1"),
        ("q35", "index=6", "machine type does not support if=ide,bus=6,unit=0"),
        ("none", "if=ide,index=3", "machine type does not support if=ide,bus=1,unit=1"),
    ],
)
def test_no_place_for_a_drive(run, machine, text, error):
    status, _, err = run(*drive(text), base=("-machine", machine, "-nodefaults", "-display", "none", "-S"))
    assert status == 1 and err.endswith(f"-drive driver=null-co,{text}: {error}\n")
