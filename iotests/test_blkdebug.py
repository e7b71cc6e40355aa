"""blkdebug: requests that fail, stand still or obey limits, as rules say; and how such nodes are named."""

import signal

import pytest

from blockbed_iotests import QmpError, qemu_io

# qemu-io needs the human monitor.
pytestmark = pytest.mark.manners("system")
both_manners = pytest.mark.manners("system", "daemon")


@pytest.fixture
def raw(images):
    return images.create("disk.raw", "raw", "1M")


@pytest.fixture
def disk(images):
    return images.create("disk.qcow2", "qcow2", "64M")


def storage(image):
    return {"driver": "file", "filename": str(image.path)}


def add(server, image, format="raw", **options):
    """A format over blkdebug over the image's file."""
    options = {key.replace("_", "-"): value for key, value in options.items()}
    server.blockdev_add(driver=format, node_name="d", file={"driver": "blkdebug", "node-name": "b", "image": storage(image), **options})


class Io:
    """qemu-io commands, each answered by the first line that it printed."""

    def __init__(self, server, node="d"):
        self.server, self.node = server, node

    def __call__(self, command):
        return (self.server.qemu_io(self.node, command).splitlines() or [""])[0]


@pytest.fixture
def io(server):
    return Io(server)


def outcome(line):
    """What became of a request: "ok" or the error's words."""
    return line.split(": ", 1)[1] if " failed: " in line else "ok"


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("rules", "commands", "outcomes"),
    [
        ([{"event": "read_aio"}], ["write 0 512", "read 0 512", "write 0 512"], ["ok", "EIO", "EIO"]),
        ([{"event": "read_aio", "once": True}], ["read 0 512", "read 0 512"], ["EIO", "ok"]),
        ([{"event": "read_aio", "sector": 3}], ["read 0 512", "read 1k 1k", "read 1536 512", "read 2k 512"], ["ok", "EIO", "EIO", "ok"]),
        ([{"event": "none", "errno": 28}], ["read 0 512"], ["ENOSPC"]),
        ([{"event": "none", "errno": 28, "iotype": "read"}], ["write 0 512", "read 0 512"], ["ok", "ENOSPC"]),
        ([{"event": "none", "iotype": "write", "once": True}], ["write 0 512", "write 0 512"], ["EIO", "ok"]),
        ([{"event": "none", "iotype": "write-zeroes"}], ["write 0 4k", "write -z 0 4k"], ["ok", "EIO"]),
        ([{"event": "none", "iotype": "discard"}], ["write 0 4k", "discard 0 4k"], ["ok", "EIO"]),
        ([{"event": "read_aio", "sector": 0, "errno": 28}, {"event": "read_aio", "sector": 1, "errno": 1}],
         ["read 0 512", "read 512 512", "read 0 1k"], ["ENOSPC", "EPERM", "ENOSPC"]),
        ([{"event": "read_aio", "errno": 28, "once": True}, {"event": "read_aio", "errno": 1, "once": True}],
         ["read 0 512", "read 0 512", "read 0 512"], ["ENOSPC", "EPERM", "ok"]),
        ([{"event": "read_aio", "errno": 0, "once": True}, {"event": "read_aio", "errno": 28}], ["read 0 512"] * 3, ["ok"] * 3),
        ([{"event": "write_aio", "errno": 28, "iotype": "read"}], ["read 0 512", "write 0 512", "read 0 512"], ["ok", "ok", "ENOSPC"]),
        ([{"event": "none", "iotype": "read", "errno": 28}, {"event": "write_aio", "errno": 1, "iotype": "write", "once": True}],
         ["read 0 512", "write 0 512", "read 0 512", "write 0 512"], ["ENOSPC", "EPERM", "ok", "ok"]),
        ([{"event": "pwritev"}], ["read 0 512", "write 0 512"], ["ok", "EIO"]),
        ([{"event": "read_aio", "immediately": True}], ["read 0 512"], ["EIO"]),
    ],
)
def test_rules(server, raw, io, rules, commands, outcomes):
    words = {"EIO": "Input/output error", "ENOSPC": "No space left on device", "EPERM": "Operation not permitted", "ok": "ok"}
    server.blockdev_add(driver="raw", node_name="d", discard="unmap", file={
        "driver": "blkdebug", "image": storage(raw), "discard": "unmap", "inject-error": rules})
    assert [outcome(io(command)) for command in commands] == [words[name] for name in outcomes]


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ([(1, 2)], ["ok", 28, 28]),
        ([(1, 2), (2, 3)], ["ok", 28, 1]),
        # The first of two that fit.
        ([(1, 2), (1, 3)], ["ok", 28]),
    ],
)
def test_states(server, raw, io, changes, errors):
    add(server, raw,
        set_state=[{"event": "read_aio", "state": old, "new_state": new} for old, new in changes],
        inject_error=[{"event": "read_aio", "state": 2, "errno": 28}, {"event": "read_aio", "state": 3, "errno": 1}])
    words = {"ok": "ok", 28: "No space left on device", 1: "Operation not permitted"}
    assert [outcome(io("read 0 512")) for _ in errors] == [words[error] for error in errors]


def test_rules_of_a_file_come_first(server, raw, io, tmp_path):
    config = tmp_path / "rules.conf"
    config.write_text('# a rule\n[inject-error]\nevent = "read_aio"\nerrno = "28"\n\n[set-state "x"]\nevent = "write_aio"\nnew_state = "7"\n')
    add(server, raw, config=str(config), inject_error=[{"event": "read_aio", "errno": 1}, {"event": "write_aio", "errno": 5, "state": 7}])
    assert outcome(io("read 0 512")) == "No space left on device"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('event = "read_aio"\n', "no group defined"),
        ("[foo]\n", "There is no option group 'foo'"),
        ('[inject-error]\nerrno = "5"\n', "Missing event name for rule"),
        ('[inject-error]\nevent = "nosuch"\n', "invalid parameter value: nosuch"),
        ('[inject-error]\nevent = "read_aio"\nbar = "1"\n', "Invalid parameter 'bar'"),
        ('[inject-error]\nevent = "read_aio"\nerrno = "x"\n', "Parameter 'errno' expects a number"),
        ('[inject-error]\nevent = "read_aio"\nonce = "maybe"\n', "Parameter 'once' expects 'on' or 'off'"),
        ('[inject-error "x"]\nevent = "read_aio"\n[inject-error "x"]\nevent = "read_aio"\n', "Duplicate ID 'x' for inject-error"),
        ('[inject-error "a b"]\nevent = "read_aio"\n', "Parameter 'id' expects an identifier"),
        ('[set-state]\nevent = "write_aio"\nerrno = "3"\n', "Invalid parameter 'errno'"),
    ],
)
def test_faults_of_a_file_of_rules(server, raw, tmp_path, text, error):
    config = tmp_path / "rules.conf"
    config.write_text(text)
    assert server.error("blockdev-add", driver="blkdebug", node_name="b", image=storage(raw), config=str(config)) == error
    assert server.node_names() == set()


@both_manners
def test_an_empty_file_of_rules(server, raw):
    add(server, raw, config="/dev/null")


@both_manners
def test_missing_file_of_rules(server, raw, tmp_path):
    assert server.error("blockdev-add", driver="blkdebug", image=storage(raw), node_name="b", config=str(tmp_path / "none")) == (
        "Could not read blkdebug config file: No such file or directory")


@pytest.mark.differs("a file that size would be read whole", server="qemu")
def test_a_file_of_rules_has_a_bound(server, raw, tmp_path):
    config = tmp_path / "rules.conf"
    config.write_bytes(b"#" * (1 << 20) + b"\n")
    assert server.error("blockdev-add", driver="blkdebug", image=storage(raw), node_name="b", config=str(config)) == (
        "Cannot read config file: File too large")
    config.write_bytes(b"#" * ((1 << 20) - 1) + b"\n")
    server.blockdev_add(driver="blkdebug", image=storage(raw), node_name="b", config=str(config))


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"align": 3}, "align 3"),
        ({"align": 1 << 31}, "align 2147483648"),
        ({"align": 512, "max-transfer": 1000}, "max-transfer 1000"),
        ({"align": 512, "opt-write-zero": 7}, "opt-write-zero 7"),
        ({"max-write-zero": 512, "opt-write-zero": 1024}, "max-write-zero 512"),
        ({"max-discard": 512, "opt-discard": 1024}, "max-discard 512"),
        ({"max-transfer": 1000}, None),
        ({"align": 1 << 30}, None),
    ],
)
def test_limits_must_fit(server, raw, options, refused):
    definition = {"driver": "blkdebug", "node-name": "b", "image": storage(raw), **options}
    if refused is None:
        server.execute("blockdev-add", **definition)
        return
    with pytest.raises(QmpError, match="Cannot meet constraints with " + refused):
        server.execute("blockdev-add", **definition)
    assert server.node_names() == set()


def test_unaligned_requests_are_widened(server, raw, io):
    raw.fill_bytes(b"\1" * (1 << 20))
    add(server, raw, align=4096)
    assert outcome(io("write -P 2 512 512")) == "ok"
    assert outcome(io("write -z 5000 100")) == "ok"
    server.blockdev_del(node_name="d")
    server.stop()
    expected = bytearray(b"\1" * (1 << 20))
    expected[512:1024] = b"\2" * 512
    expected[5000:5100] = bytes(100)
    assert raw.content() == bytes(expected)


@pytest.mark.parametrize(
    ("event", "once", "request_", "fails"),
    [
        *((f"pwritev_rmw_{step}", False, request, True) for step in ("head", "after_head", "tail", "after_tail")
          for request in ("write 6000 5000", "write 6000 15000", "write 6000 100", "write -z 6000 15000", "write -z 6000 100")),
        *((f"pwritev_rmw_{step}", True, "write 6000 5000", True) for step in ("after_head", "after_tail")),
        ("pwritev_rmw_head", False, "write 4096 100", False),
        ("pwritev_rmw_tail", False, "write 6000 2192", False),
        ("read_aio", True, "write 6000 100", False),
    ],
)
def test_events_of_unaligned_writes(server, raw, io, event, once, request_, fails):
    add(server, raw, align=4096, inject_error=[{"event": event, "once": once}])
    assert outcome(io(request_)) == ("Input/output error" if fails else "ok")


@pytest.mark.differs("what its memory holds is written over the disk", server="qemu")
@pytest.mark.parametrize("event", ["pwritev_rmw_head", "pwritev_rmw_tail"])
@pytest.mark.parametrize("command", ["write -P 2 6000 15000", "write -P 2 6000 100"])
def test_what_cannot_be_read_around_is_not_written(server, raw, io, event, command):
    raw.fill_bytes(b"\1" * (1 << 20))
    add(server, raw, align=4096, inject_error=[{"event": event, "once": True}])
    assert outcome(io(command)) == "Input/output error"
    server.stop()
    assert raw.content() == b"\1" * (1 << 20)


def test_small_zeroes_are_written(server, raw, io):
    add(server, raw, opt_write_zero=65536, inject_error=[{"event": "none", "iotype": "write"}])
    outcomes = [outcome(io(c)) == "ok" for c in ("write -z 0 4k", "write -z 0 64k", "write -z 4k 64k", "write -z 0 100k")]
    assert outcomes == [False, True, False, False]


def test_large_writes_are_cut(server, raw, io):
    add(server, raw, align=512, max_transfer=4096, inject_error=[{"event": "none", "iotype": "write", "sector": 9}])
    assert [outcome(io(c)) == "ok" for c in ("write 0 4k", "write 4k 512", "write 0 8k")] == [True, True, False]


# ---------------------------------------------------------------------- breakpoints


def test_breakpoints(start, raw):
    server = start("-drive", f"if=none,id=d,driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={raw.path}")
    io = Io(server)
    assert io("break write_aio A") == ""
    assert io("aio_write 0 4k") == "blkdebug: Suspended request 'A'"
    assert io("wait_break A") == ""
    assert outcome(io("read 8k 512")) == "ok"
    assert "wrote" not in server.stdout
    assert io("resume A") == "blkdebug: Resuming request 'A'"
    io("aio_flush")
    assert server.stdout.count("wrote 4096/4096") == 1
    assert io("resume A") == "Could not resume request: No such file or directory"
    assert io("remove_break A") == "Could not remove breakpoint A: No such file or directory"
    assert io("break foo B") == "Could not set breakpoint: No such file or directory"
    # One request, two breakpoints.
    io("break write_aio A")
    io("break write_aio B")
    assert io("aio_write 0 4k") == "blkdebug: Suspended request 'B'"
    io("resume A")
    io("resume B")
    io("aio_flush")
    assert server.stdout.count("wrote 4096/4096") == 2
    # Removing lets go, and says that there was no breakpoint left.
    io("break write_aio A")
    io("aio_write 0 4k")
    assert io("remove_break A") == "blkdebug: Resuming request 'A'"
    io("aio_flush")
    assert server.stdout.count("wrote 4096/4096") == 3


@pytest.mark.differs("it waits for ever", server="qemu")
def test_the_end_of_the_program_lets_requests_go(start, raw):
    server = start("-drive", f"if=none,id=d,driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={raw.path}")
    io = Io(server)
    io("break write_aio A")
    assert io("aio_write -P 9 0 4k") == "blkdebug: Suspended request 'A'"
    server.stop()
    assert raw.content()[:4096] == b"\x09" * 4096


def suspended_write(start, images):
    """A write to drive d stands still in blkdebug: below d, beside d's backing file, and nowhere near the node `other`."""
    base = images.create("base.raw", "raw", "1M")
    top = images.create("top.qcow2", "qcow2", "1M")
    server = start(
        "-drive",
        "if=none,id=d,node-name=top,driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.node-name=debug,"
        f"file.image.filename={top.path},backing.driver=raw,backing.node-name=base,backing.file.driver=file,backing.file.filename={base.path}",
        "-blockdev", "null-co,node-name=other,read-zeroes=on",
    )
    io = Io(server)
    io("break write_aio A")
    io("aio_write 0 64k")
    io("wait_break A")
    return server


def end_suspension(server, image):
    Io(server)("resume A")
    Io(server)("aio_flush")
    server.stop()
    image.check()


def test_whom_a_suspended_request_does_not_hold_up(start, images):
    server = suspended_write(start, images)
    for command in ("flush", "read 0 4k", "aio_read 0 4k", "aio_write 0 4k"):
        server.qemu_io("other", command)
    server.qemu_io("d", "flush")
    server.block_dirty_bitmap_add(node="base", name="bitmap")
    server.x_blockdev_set_iothread(node_name="base", iothread=None)
    end_suspension(server, images.at("top.qcow2", "qcow2"))


@pytest.mark.differs("a drain waits for ever, and nobody is heard", server="qemu")
def test_a_drain_lets_go_what_stands_below(start, images):
    server = suspended_write(start, images)
    server.block_resize(node_name="top", size=1 << 20)
    assert "wrote 65536/65536" in server.stdout
    server.stop()


@pytest.mark.differs("the program cannot be ended either", server="qemu")
def test_a_drain_waits_for_what_stands_beside(start, images):
    """What a parent of the drained node began is waited for. Nobody is heard meanwhile, but the program can be ended."""
    server = suspended_write(start, images)
    server.nbd_start()
    server.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "base"})
    waiting = server.qmp.send("block-export-del", {"id": "e"})
    with pytest.raises(TimeoutError):
        server.qmp.reply(waiting, timeout=0.5)
    assert "wrote" not in server.stdout
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert "wrote 65536/65536" in server.stdout
    images.at("top.qcow2", "qcow2").check()


def test_without_blkdebug_there_are_no_breakpoints(server, raw, io):
    server.blockdev_add(driver="raw", node_name="d", file=storage(raw))
    assert io("break write_aio A") == "Could not set breakpoint: Operation not supported"
    assert io("resume A") == "Could not resume request: Operation not supported"
    assert io("remove_break A") == "Could not remove breakpoint A: Operation not supported"


# ---------------------------------------------------------------------- names and permissions


def name_of(server, node):
    return server.query_node(node)["image"]["filename"]


@both_manners
def test_plain_names(server, raw, tmp_path):
    config = tmp_path / "rules.conf"
    config.write_text("")
    add(server, raw)
    assert name_of(server, "b") == name_of(server, "d") == f"blkdebug::{raw.path}"
    server.blockdev_add(driver="blkdebug", node_name="c", image="b", config=str(config), read_only=True)
    assert name_of(server, "c") == f"blkdebug:{config}:blkdebug::{raw.path}"


@both_manners
def test_names_with_rules(server, raw):
    add(server, raw, align=512, inject_error=[{"event": "read_aio", "once": True}], set_state=[{"event": "read_aio", "new_state": 2}])
    assert name_of(server, "b") == (
        'json:{"set-state.0.event": "read_aio", "inject-error.0.once": true, "image": {"driver": "file", "filename": "%s"}, '
        '"driver": "blkdebug", "set-state.0.new_state": 2, "inject-error.0.event": "read_aio", "align": 512}' % raw.path)


@both_manners
def test_permissions(server, raw):
    server.blockdev_add(driver="file", node_name="f", filename=str(raw.path))
    server.execute("blockdev-add", driver="blkdebug", image="f", **{
        "node-name": "a", "take-child-perms": ["write"], "unshare-child-perms": ["write", "resize"]})
    with pytest.raises(QmpError) as refused:
        server.execute("blockdev-add", driver="blkdebug", image="f", **{"node-name": "b", "take-child-perms": ["resize"]})
    assert refused.value.desc == (
        "Permission conflict on node 'f': permissions 'resize' are both required by node 'b' (uses node 'f' as 'image' child) "
        "and unshared by node 'a' (uses node 'f' as 'image' child).")
    server.execute("blockdev-add", driver="blkdebug", image="f", **{"node-name": "c", "unshare-child-perms": ["consistent-read"]})


# ---------------------------------------------------------------------- what formats say


EVENTS_OF = {
    "write 0 64k": ["cluster_alloc", "refblock_alloc", "refblock_load", "refblock_update_part", "l2_alloc_write", "l1_update", "write_aio"],
    "write -c 0 64k": ["cluster_alloc_bytes", "cluster_alloc", "write_compressed", "l1_update"],
}


@pytest.mark.parametrize(("command", "event"), [(c, e) for c, events in EVENTS_OF.items() for e in events])
def test_events_of_qcow2_writes(server, disk, io, command, event):
    add(server, disk, "qcow2", inject_error=[{"event": event, "once": True}])
    assert outcome(io(command)) == "Input/output error"
    assert outcome(io("write 128k 64k")) == "ok"
    assert outcome(io("read -P 0xcd 128k 64k")) == "ok"


@pytest.mark.parametrize(
    ("prepare", "command", "event"),
    [
        ("write 0 64k", "read 0 4k", "l2_load"),
        ("write 0 64k", "read 0 4k", "read_aio"),
        ("write -c 0 64k", "read 0 4k", "read_compressed"),
        ("write -c 0 64k", "write 0 4k", "cow_read"),
        ("write -c 0 64k", "write 0 4k", "cow_write"),
        ("write 0 64k", "write 0 4k", "write_aio"),
    ],
)
def test_events_of_qcow2_with_data(server, disk, io, prepare, command, event):
    qemu_io(disk.path, prepare, format="qcow2")
    add(server, disk, "qcow2", inject_error=[{"event": event, "once": True}])
    assert outcome(io(command)) == "Input/output error"
    assert outcome(io(command)) == "ok"


@pytest.mark.parametrize(
    ("event", "works", "outcomes"),
    [
        # What is overwritten changes no table.
        ("l2_update", ["write 0 4k", "write 64k 128k", "flush"], ["ok", "ok", "ok"]),
        ("refblock_update_part", ["write 64k 4k", "flush"], ["ok", "ok"]),
        ("l2_update_compressed", ["write -c 2M 64k", "flush"], ["EIO", "ok"]),
        ("l2_update_compressed", ["write 2M 64k", "flush"], ["ok", "ok"]),
        # Compressed data is allocated in bytes.
        ("cluster_alloc", ["write -c 2M 64k", "write 3M 64k"], ["ok", "EIO"]),
        ("cluster_alloc_bytes", ["write 3M 64k", "write -c 2M 64k"], ["ok", "EIO"]),
        # Also of zeroes. What no backing file has is not copied.
        ("cow_write", ["write 2M 4k", "write 2M 4k"], ["EIO", "ok"]),
        ("cow_write", ["write 2M 64k"], ["ok"]),
        ("cow_write", ["write 12M 4k"], ["ok"]),
        ("cow_read", ["write 12M 4k", "write 2M 4k"], ["ok", "EIO"]),
    ],
)
def test_which_request_of_qcow2_fails(server, images, io, event, works, outcomes):
    base = images.create("base.raw", "raw", "8M")
    image = images.create("top.qcow2", size="16M", backing=base)
    image.io("write -P 1 0 256k")
    add(server, image, "qcow2", inject_error=[{"event": event, "once": True}])
    words = {"Input/output error": "EIO", "ok": "ok"}
    assert [words[outcome(io(work))] for work in works] == outcomes
    server.stop()
    image.check(leaks=None)


def test_a_filter_in_between_hears_and_says_nothing(server, raw, io):
    server.blockdev_add(driver="raw", node_name="d", file={"driver": "blkdebug", "image": {
        "driver": "blkdebug", "image": storage(raw), "inject-error": [{"event": "read_aio"}]}})
    assert outcome(io("read 0 512")) == "ok"


# Counts of 64 bits in clusters of 512 bytes: the refcount table is full when 4096 clusters are counted.
SMALL = {"size": "8M", "cluster_size": 512, "refcount_bits": 64}


@pytest.mark.parametrize("event", [
    "refblock_alloc", "refblock_load", "refblock_update_part", "refblock_alloc_hookup", "refblock_alloc_write", "reftable_grow",
    "refblock_alloc_write_blocks", "refblock_alloc_write_table", "refblock_alloc_switch_table",
])  # fmt: skip
def test_events_of_growing_refcounts(server, images, io, event):
    image = images.create("small.qcow2", **SMALL)
    image.io("write -P 1 0 1900k")
    add(server, image, "qcow2", inject_error=[{"event": event, "once": True}])
    assert outcome(io("write -P 2 1900k 400k")) == "Input/output error"
    assert outcome(io("write -P 2 1900k 400k")) == "ok"
    assert outcome(io("write -P 3 2600k 64k")) == "ok"
    server.stop()
    image.check(leaks=None)
    for run in ((0, "1900k", 1), ("1900k", "400k", 2), ("2600k", "64k", 3)):
        image.read(*run)


@pytest.mark.parametrize(
    ("event", "size", "error"),
    [
        *((f"l1_grow_{step}", 64, "Failed to grow the L1 table: Input/output error") for step in ("alloc_table", "write_table", "activate_table")),
        ("l1_shrink_write_table", 1, "Failed to reduce the number of L2 tables: Input/output error"),
        # What cannot be freed is lost.
        ("cluster_free", 64, None),
    ],
)
def test_events_of_resizing(server, images, io, event, size, error):
    image = images.create("small.qcow2", **SMALL | {"size": "8M", "refcount_bits": 16})
    image.io("write -P 1 0 1M", "write -P 1 7M 64k")
    add(server, image, "qcow2", inject_error=[{"event": event, "once": True}])
    resize = {"node-name": "d", "size": size << 20}
    if error:
        assert server.error("block_resize", resize) == error
    server.execute("block_resize", resize)
    assert outcome(io(f"write -P 2 {size - 1}M 64k")) == "ok"
    server.stop()
    image.check(leaks=None)
    image.read(f"{size - 1}M", "64k", 2)
    assert image.info()["virtual-size"] == size << 20


@pytest.mark.differs("QEMU ends", server="qemu")
def test_an_error_of_emptying(start, images):
    base = images.create("base.raw", "raw", "8M")
    image = images.create("top.qcow2", size=None, backing=base)
    image.io("write -P 1 0 1M")
    server = start("-drive", f"if=none,id=d,node-name=n,driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename={image.path},"
                             "file.inject-error.0.event=empty_image_prepare,file.inject-error.0.once=on")
    assert server.hmp("commit d").strip() == "'commit' error for 'd': Input/output error"
    # The base has it, and the disk still shows it.
    assert outcome(Io(server)("read -P 1 0 1M")) == "ok"
    assert server.hmp("commit d") == ""
    server.stop()
    image.check(leaks=None)
    base.read(0, "1M", 1)
