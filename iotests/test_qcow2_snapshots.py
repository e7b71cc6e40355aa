"""Internal snapshots: the commands, and images that QEMU's tools and the server share."""

import struct
import subprocess
from pathlib import Path

import pytest

from blockbed_iotests import qemu_img

SIZE = 1 << 20
LIST = "Failed to get a snapshot list: Operation not supported"


def snapshot(server, node, name):
    return server.blockdev_snapshot_internal_sync(device=node, name=name)


def refused(server, **arguments):
    return server.error("blockdev-snapshot-internal-sync", **arguments)


def delete_refused(server, **arguments):
    return server.error("blockdev-snapshot-delete-internal-sync", **arguments)


def listed(server, node):
    return server.query_node(node)["image"].get("snapshots", [])


def names(server, node):
    return [(each["id"], each["name"]) for each in listed(server, node)]


def tool_names(image):
    return [(each["id"], each["name"]) for each in image.info().get("snapshots", [])]


def write(server, node, offset, length, byte):
    with server.export(node, writable=True) as nbd:
        nbd.pwrite(bytes([byte]) * length, offset)
        nbd.flush()
    for export in server.query_block_exports():
        server.block_export_del(id=export["id"], mode="hard")
        server.wait_event("BLOCK_EXPORT_DELETED")


def action(node, name):
    return {"type": "blockdev-snapshot-internal-sync", "data": {"device": node, "name": name}}


ABORT = {"type": "abort", "data": {}}


# ---------------------------------------------------------------------- what is refused


def test_nodes_that_cannot(server, images):
    server.add_image("plain", images.create("plain.raw", "raw"))
    server.blockdev_add({"driver": "null-co", "node-name": "null", "size": 65536})
    server.blockdev_add({"driver": "file", "node-name": "file", "filename": str(images.create("f.raw", "raw"))})
    for node, driver in (("plain", "raw"), ("null", "null-co"), ("file", "file")):
        text = f"Block format '{driver}' used by device '{node}' does not support internal snapshots"
        assert refused(server, device=node, name="s") == text
        assert delete_refused(server, device=node, name="s") == LIST
    missing = "Cannot find device='nope' nor node-name='nope'"
    assert refused(server, device="nope", name="s") == missing
    assert delete_refused(server, device="nope", name="s") == missing
    assert delete_refused(server, device="nope") == missing


@pytest.mark.manners("system")
def test_a_drive_without_medium(start):
    server = start("-drive", "if=none,id=empty")
    assert refused(server, device="empty", name="s") == "Device 'empty' has no medium"
    assert delete_refused(server, device="empty", name="s") == "Device 'empty' has no medium"


def test_a_node_below_another(server, images):
    disk = images.create("d.qcow2")
    server.add_image("disk", disk)
    server.blockdev_add({"driver": "raw", "node-name": "above", "file": "disk"})
    assert refused(server, device="disk", name="s") == "Need a root block node"
    assert delete_refused(server, device="disk", name="s") == "Need a root block node"
    assert delete_refused(server, device="disk") == "Need a root block node"
    snapshot(server, "above", "s")
    assert names(server, "above") == names(server, "disk") == [("1", "s")]
    server.blockdev_snapshot_delete_internal_sync(device="above", name="s")
    assert names(server, "above") == []


def test_names_and_ids(server, images):
    server.add_image("n", images.create("n.qcow2"))
    assert refused(server, device="n", name="") == "Name is empty"
    snapshot(server, "n", "s")
    assert refused(server, device="n", name="s") == "Snapshot with name 's' already exists on device 'n'"
    assert delete_refused(server, device="n") == "Name or id must be provided"
    for arguments, told in (
        ({"name": "x"}, ("null", "x")),
        ({"id": "x"}, ("x", "null")),
        ({"id": "1", "name": "x"}, ("1", "x")),
        ({"id": "2", "name": "s"}, ("2", "s")),
        ({"id": "", "name": ""}, ("", "")),
    ):
        text = "Snapshot with id '{}' and name '{}' does not exist on device 'n'".format(*told)
        assert delete_refused(server, device="n", **arguments) == text
    assert names(server, "n") == [("1", "s")]


def test_a_name_is_cut(server, images):
    server.add_image("n", images.create("n.qcow2"))
    snapshot(server, "n", "x" * 300)
    assert names(server, "n") == [("1", "x" * 255)]
    assert refused(server, device="n", name="x" * 255) == f"Snapshot with name '{'x' * 255}' already exists on device 'n'"


def test_an_image_for_reading(server, images):
    disk = images.create("r.qcow2")
    qemu_img("snapshot", "-c", "s", disk)
    server.add_image("r", disk, read_only=True)
    assert names(server, "r") == [("1", "s")]
    assert refused(server, device="r", name="t") == "Device 'r' is read only"
    assert delete_refused(server, device="r", name="s") == "Failed to remove snapshot from snapshot list: Operation not permitted"


def test_an_external_data_file(server, images):
    server.add_image("e", images.create("e.qcow2", data_file=str(images.dir / "e.raw")))
    assert refused(server, device="e", name="s") == LIST
    assert delete_refused(server, device="e", name="s") == LIST


@pytest.mark.differs("QEMU leaks a cluster when a snapshot fails", server="qemu")
def test_counts_of_one_bit(server, images):
    disk = images.create("b.qcow2", refcount_bits=1).fill((0, SIZE, 1))
    server.add_image("b", disk)
    assert refused(server, device="b", name="s") == "Failed to create snapshot 's' on device 'b': Invalid argument"
    server.stop()
    disk.check()


@pytest.mark.differs("QEMU leaks a cluster when a snapshot fails", server="qemu")
def test_a_count_that_is_full(server, images):
    disk = images.create("b.qcow2", refcount_bits=2).fill((0, SIZE, 1))
    server.add_image("b", disk)
    snapshot(server, "b", "one")
    snapshot(server, "b", "two")
    assert refused(server, device="b", name="three") == "Failed to create snapshot 'three' on device 'b': Invalid argument"
    server.blockdev_snapshot_delete_internal_sync(device="b", id="1")
    snapshot(server, "b", "three")
    server.stop()
    disk.check()
    assert tool_names(disk) == [("2", "two"), ("3", "three")]


# ---------------------------------------------------------------------- what it does


def test_reply_of_a_deletion(server, images):
    server.add_image("n", images.create("n.qcow2"))
    snapshot(server, "n", "s")
    told = listed(server, "n")
    assert server.blockdev_snapshot_delete_internal_sync(device="n", name="s") == told[0]
    assert set(told[0]) == {"id", "name", "vm-state-size", "date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec"}
    assert told[0]["vm-state-size"] == 0 and told[0]["date-nsec"] % 1000 == 0
    if server.manner == "system":
        assert told[0]["vm-clock-sec"] < 3600


def test_ids_increase(server, images):
    server.add_image("n", images.create("n.qcow2"))
    for name in "abc":
        snapshot(server, "n", name)
    server.blockdev_snapshot_delete_internal_sync(device="n", id="2")
    snapshot(server, "n", "2")
    assert names(server, "n") == [("1", "a"), ("3", "c"), ("4", "2")]
    server.blockdev_snapshot_delete_internal_sync(device="n", id="4", name="2")
    snapshot(server, "n", "d")
    assert names(server, "n") == [("1", "a"), ("3", "c"), ("4", "d")]


GEOMETRIES = [
    *({"cluster_size": 512 << shift} for shift in range(13)),
    *({"refcount_bits": 1 << shift} for shift in range(2, 7)),
    {"compat": "0.10"},
    {"extended_l2": "on"},
    {"lazy_refcounts": "on"},
    {"compression_type": "zstd"},
]


@pytest.mark.limit(120)
@pytest.mark.parametrize("options", GEOMETRIES, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()))
def test_snapshots_for_the_tools(server, images, options):
    """Made and deleted by the server, applied by qemu-img; then the other way round."""
    unit = max(65536, options.get("cluster_size", 0))
    size = 16 * unit
    base = images.create("base.raw", "raw", size).fill((0, size, 9))
    disk = images.create("d.qcow2", size=None, backing=base, **options)
    disk.io(f"write -P 1 0 {8 * unit}", f"write -c -P 5 {8 * unit} {unit}", f"write -z {10 * unit} {unit}")
    qemu_img("snapshot", "-c", "theirs", disk)
    server.add_image("d", disk)
    snapshot(server, "d", "one")
    write(server, "d", unit + 1000, 3 * unit, 2)
    snapshot(server, "d", "two")
    write(server, "d", 3 * unit, 9 * unit, 3)
    snapshot(server, "d", "three")
    server.blockdev_snapshot_delete_internal_sync(device="d", name="two")
    assert names(server, "d") == [("1", "theirs"), ("2", "one"), ("4", "three")]
    server.blockdev_del(node_name="d")
    disk.check()
    assert tool_names(disk) == [("1", "theirs"), ("2", "one"), ("4", "three")]
    for name in ("one", "theirs"):
        qemu_img("snapshot", "-a", name, disk)
        disk.check()
        disk.read(0, 8 * unit, 1)
        disk.read(8 * unit, unit, 5)
        disk.read(10 * unit, unit, 0)
        disk.read(11 * unit, 5 * unit, 9)
    qemu_img("snapshot", "-a", "three", disk)
    disk.read(unit + 1000, 2 * unit - 1000, 2)
    disk.read(3 * unit, 9 * unit, 3)
    disk.io(f"write -P 4 0 {unit}")
    qemu_img("snapshot", "-d", "three", disk)
    server.add_image("d", disk)
    assert names(server, "d") == [("1", "theirs"), ("2", "one")]
    for name in ("theirs", "one"):
        server.blockdev_snapshot_delete_internal_sync(device="d", name=name)
    server.stop()
    disk.check()
    assert tool_names(disk) == []
    disk.read(0, unit, 4)
    disk.read(3 * unit, 9 * unit, 3)


def entry_of(image):
    """The snapshot table's one entry: offset, and what is in it."""
    raw = image.path.read_bytes()
    (offset,) = struct.unpack_from(">Q", raw, 64)
    id_length, name_length = struct.unpack_from(">HH", raw, offset + 12)
    (extra,) = struct.unpack_from(">I", raw, offset + 36)
    end = offset + 40 + extra + id_length + name_length
    return offset, raw[offset : offset + 40], raw[offset + 40 : offset + 40 + extra], raw[offset + 40 + extra : end]


@pytest.mark.parametrize("length", [0, 8, 16, 24, 32, 40, 1024])
def test_entries_of_every_length(server, images, length):
    """Extra data as every version wrote it, and more than anybody knows: kept when the table is written again."""
    disk = images.create("h.qcow2", compat="0.10").fill((0, SIZE, 1))
    qemu_img("snapshot", "-c", "old", disk)
    offset, head, extra, text = entry_of(disk)
    extra = (extra + bytes(range(1, 256)) * 4)[:length]
    with open(disk.path, "r+b") as file:
        file.seek(offset)
        file.write(head[:36] + struct.pack(">I", length) + extra + text)
    server.add_image("h", disk)
    assert names(server, "h") == [("1", "old")]
    snapshot(server, "h", "new")
    server.stop()
    disk.check()
    assert tool_names(disk) == [("1", "old"), ("2", "new")]
    _, _, kept, text_now = entry_of(disk)
    assert text_now == text
    assert kept[24:] == extra[24:] and len(kept) == max(24, length)
    assert struct.unpack_from(">Q", kept, 8)[0] == SIZE
    qemu_img("snapshot", "-a", "old", disk)
    disk.read(0, SIZE, 1)


def test_an_entry_that_is_too_long(server, images):
    disk = images.create("h.qcow2")
    qemu_img("snapshot", "-c", "old", disk)
    offset, head, extra, text = entry_of(disk)
    with open(disk.path, "r+b") as file:
        file.seek(offset)
        file.write(head[:36] + struct.pack(">I", 1025) + extra + bytes(1025 - len(extra)) + text)
    error = server.error("blockdev-add", **{"driver": "qcow2", "node-name": "h", "file": {"driver": "file", "filename": str(disk)}})
    assert error == "Too much extra metadata in snapshot table entry 0"


def l2_entry(image, l1_offset):
    """The first one of the table that the first entry of an L1 table names."""
    data = image.path.read_bytes()
    (table,) = struct.unpack_from(">Q", data, l1_offset)
    table &= 0x00FF_FFFF_FFFF_FE00
    return table, struct.unpack_from(">Q", data, table)[0]


@pytest.mark.parametrize("with_data", [False, True])
def test_a_compressed_cluster_is_never_copied(server, images, with_data):
    """An entry that wrongly says so is put right instead of doubled: two tables would have it."""
    copied = 1 << 63
    image = images.create("n.qcow2")
    image.io("write -c -P 17 0 64k", *(["write -P 18 64k 64k"] if with_data else []))
    (l1,) = struct.unpack_from(">Q", image.path.read_bytes(), 40)
    table, entry = l2_entry(image, l1)
    assert not entry & copied
    with image.path.open("r+b") as file:
        file.seek(table)
        file.write(struct.pack(">Q", entry | copied))
    image.check(corruptions=1)
    server.add_image("n", image)
    snapshot(server, "n", "s")
    server.stop()
    image.check()
    (l1,) = struct.unpack_from(">Q", image.path.read_bytes(), 40)
    assert l2_entry(image, l1)[1] == entry
    image.read(0, "64k", 17)


# ---------------------------------------------------------------------- transactions


def test_a_transaction_of_two(server, images):
    for name in "ab":
        server.add_image(name, images.create(f"{name}.qcow2"))
    server.transaction(actions=[action("a", "s"), action("b", "s"), action("a", "t")])
    assert names(server, "a") == [("1", "s"), ("2", "t")]
    assert names(server, "b") == [("1", "s")]


def test_a_transaction_that_fails(server, images):
    disk = images.create("a.qcow2").fill((0, SIZE, 1))
    server.add_image("a", disk)
    snapshot(server, "a", "before")
    error = server.error("transaction", actions=[action("a", "s"), ABORT])
    assert error == "Transaction aborted using Abort action"
    error = server.error("transaction", actions=[action("a", "s"), action("a", "before")])
    assert error == "Snapshot with name 'before' already exists on device 'a'"
    assert names(server, "a") == [("1", "before")]
    server.stop()
    disk.check()
    assert tool_names(disk) == [("1", "before")]


def test_a_grouped_transaction(server, images):
    server.add_image("a", images.create("a.qcow2"))
    error = server.error("transaction", actions=[action("a", "s")], properties={"completion-mode": "grouped"})
    assert error == "Action 'blockdev-snapshot-internal-sync' does not support Transaction property completion-mode = grouped"
    assert names(server, "a") == []


# ---------------------------------------------------------------------- amending to version 2


def tool_of(target):
    return "qemu-img" if target.kind == "qemu" else target.program.system[0]


def amend(tool, image, options):
    done = subprocess.run([tool, "amend", "-o", options, image.path.name], cwd=image.path.parent, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.replace(Path(tool).name, "qemu-img")


def disks(image):
    """The disk and what each snapshot has of it, as qemu-img reads them."""
    found = {"": image.content()}
    for _, name in tool_names(image):
        copy = image.path.with_suffix(".snapshot")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", "-l", f"snapshot.name={name}", image.path, copy)
        found[name] = copy.read_bytes()
    return found


def with_zeroes(image, cluster):
    """Zeroes in tables that the disk, a snapshot or several have."""

    def io(*commands):
        image.io(*(f"{words} {first * cluster} {count * cluster}" for words, first, count in commands))

    io(("write -P 1", 0, 20), ("write -z", 40, 3), ("write -z", 150, 1))
    qemu_img("snapshot", "-c", "one", image.path)
    io(("write -P 3", 100, 2), ("write -z -u", 10, 1))
    qemu_img("snapshot", "-c", "two", image.path)
    io(("write -P 4", 0, 1), ("write -z", 50, 5), ("write -z -u", 100, 1), ("write -z", 195, 5))
    return image


@pytest.mark.manners("system")
@pytest.mark.parametrize("cluster", [512, 65536])
@pytest.mark.parametrize("backing", [False, True], ids=["alone", "backing"])
def test_amend_to_version_2(target, images, backing, cluster):
    """The same image to this program's tool and to qemu-img."""
    base = images.create("base.qcow2", size=180 * cluster).fill((0, 180 * cluster, 9)) if backing else None
    results = []
    for tool in (tool_of(target), "qemu-img"):
        image = with_zeroes(images.create("image.qcow2", size=200 * cluster, backing=base, cluster_size=cluster), cluster)
        before = disks(image)
        assert amend(tool, image, "compat=0.10") == (0, "", "")
        image.check()
        assert disks(image) == before
        facts = [image.info()["format-specific"], [(extent["start"], extent["zero"]) for extent in image.map()]]
        for _, name in tool_names(image):
            qemu_img("snapshot", "-a", name, image.path)
            image.check()
            assert image.content() == before[name]
            image.io(f"write -P 6 0 {200 * cluster}")
            image.check()
            facts.append(disks(image))
        assert amend(tool, image, "compat=1.1") == (0, "", "")
        image.check()
        results.append(facts)
    assert results[0] == results[1]


@pytest.mark.manners("system")
@pytest.mark.differs("QEMU writes over the data of snapshots, and leaves wrong flags", server="qemu")
def test_amend_leaves_the_data_of_a_snapshot(target, images):
    """Zeroes in a place that snapshots have too: as data, and as zeroes."""
    image = images.create("image.qcow2", size=SIZE).fill((0, SIZE, 1))
    image.io("write -z 512k 128k")
    qemu_img("snapshot", "-c", "one", image.path)
    image.io("write -z 0 128k")
    qemu_img("snapshot", "-c", "two", image.path)
    image.io("write -P 2 768k 64k")
    before = disks(image)
    assert amend(tool_of(target), image, "compat=0.10") == (0, "", "")
    image.check()
    assert disks(image) == before


@pytest.mark.manners("system")
@pytest.mark.differs("QEMU does not look for them", server="qemu")
def test_amend_keeps_what_zstd_compressed_in_a_snapshot(target, images):
    image = images.create("image.qcow2", size=SIZE, compression_type="zstd")
    image.io("write -c -P 1 0 64k")
    qemu_img("snapshot", "-c", "one", image.path)
    image.io("write -P 2 0 64k")
    before = disks(image)
    status, _, text = amend(tool_of(target), image, "compat=0.10")
    assert status == 1
    assert text.endswith("Cannot downgrade an image with zstd compression type and existing compressed clusters\n")
    assert disks(image) == before


@pytest.mark.manners("system")
@pytest.mark.differs("QEMU loses the bitmaps and leaks what they are made of", server="qemu")
def test_amend_keeps_bitmaps(target, images):
    image = images.create("image.qcow2", size=SIZE)
    qemu_img("bitmap", "--add", image.path, "b")
    status, _, text = amend(tool_of(target), image, "compat=0.10")
    assert status == 1
    assert text.endswith("Cannot downgrade an image with persistent bitmaps\n")
    image.check()
    assert [each["name"] for each in image.info()["format-specific"]["data"]["bitmaps"]] == ["b"]


REFUSED = "Internal snapshots prevent downgrade of image"


@pytest.mark.manners("system")
def test_snapshots_that_prevent_version_2(target, images):
    tool = tool_of(target)
    image = images.create("image.qcow2", size=SIZE)
    qemu_img("snapshot", "-c", "one", image.path)
    qemu_img("resize", image.path, 2 * SIZE)
    assert amend(tool, image, "compat=0.10") == (1, "", f"qemu-img: {REFUSED}\n")
    image.check()
    # The size that is asked for counts.
    qemu_img("snapshot", "-d", "one", image.path)
    qemu_img("snapshot", "-c", "two", image.path)
    assert amend(tool, image, "compat=0.10,size=4M") == (1, "", f"qemu-img: {REFUSED}\n")
    image.check()


@pytest.mark.manners("system")
def test_a_large_machine_state_prevents_version_2(target, images):
    image = images.create("image.qcow2", size=SIZE)
    qemu_img("snapshot", "-c", "one", image.path)
    offset, _, extra, _ = entry_of(image)
    with open(image.path, "r+b") as file:
        file.seek(offset + 40)
        file.write(struct.pack(">Q", 1 << 32) + extra[8:])
    assert amend(tool_of(target), image, "compat=0.10") == (1, "", f"qemu-img: {REFUSED}\n")
