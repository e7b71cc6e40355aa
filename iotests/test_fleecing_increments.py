"""Increments that a program pulls over NBD while a guest writes: what the marks say is read from a fleece and put over the
copy that it has. Each time the copy is the disk of that instant, and exactly what was written since the last one was read."""

import pytest

from blockbed_iotests import History, check_increments

SIZE = 4 << 20
UNIT = 65536


class Classic:
    """An overlay, and a backup that only saves; it begins in the transaction that takes the marks."""

    def __init__(self, server, images, guest):
        self.server, self.images = server, images

    def begin(self, history, *actions):
        self.server.add_image("access", self.images.create("fleece.qcow2", size=SIZE), backing="src")
        backup = {"job-id": "job", "device": "src", "target": "access", "sync": "none"}
        with history.instant() as instant:
            self.server.transaction(actions=[*actions, {"type": "blockdev-backup", "data": backup}])
        return instant

    def end(self):
        self.server.job_cancel(id="job")
        self.server.finish_job("job")
        self.server.blockdev_del(node_name="access")


class SnapshotAccess:
    """A copy-before-write filter, limited by the marks; the guest stands still until it is there."""

    def __init__(self, server, images, guest):
        self.server, self.images, self.guest = server, images, guest

    def put(self, node):
        self.server.blockdev_reopen(options=[{"driver": "raw", "node-name": "guest", "file": node, "discard": "unmap"}])

    def begin(self, history, *actions):
        self.server.add_image("scratch", self.images.create("fleece.qcow2", size=SIZE))
        with self.guest.paused(), history.instant() as instant:
            self.server.transaction(actions=list(actions))
            self.server.blockdev_add(driver="copy-before-write", node_name="cbw", file="src", target="scratch",
                                     bitmap={"node": "src", "name": "taken"}, discard="unmap")
            self.put("cbw")
        self.server.blockdev_add(driver="snapshot-access", node_name="access", file="cbw")
        return instant

    def end(self):
        self.server.blockdev_del(node_name="access")
        self.put("src")
        self.server.blockdev_del(node_name="cbw")
        self.server.blockdev_del(node_name="scratch")


def action(verb, **data):
    return {"type": f"block-dirty-bitmap-{verb}", "data": {"node": "src", **data}}


TAKE = (action("add", name="taken", granularity=UNIT, disabled=True), action("merge", target="taken", bitmaps=["b"]),
        action("clear", name="b"))


def pull(server, copy):
    """Reads what is marked; where that was."""
    context = "qemu:dirty-bitmap:taken"
    with server.export("access", bitmaps=[{"node": "src", "name": "taken"}], contexts=(context,)) as reader:
        marked = [(extent.offset, extent.length) for extent in reader.extents(context) if extent.flags & 1]
        for offset, length in marked:
            copy[offset : offset + length] = reader.pread(length, offset)
    server.block_export_del(id=reader.export_id, mode="hard")
    server.wait_event("BLOCK_EXPORT_DELETED", {"id": reader.export_id})
    return marked


@pytest.mark.parametrize("scheme", [Classic, SnapshotAccess])
@pytest.mark.parametrize("seed", range(2))
def test_increments_over_nbd(server, images, scheme, seed):
    server.add_image("src", images.create("src.qcow2", size=SIZE), discard="unmap")
    server.blockdev_add(driver="raw", node_name="guest", file="src", discard="unmap")
    history = History({"src": bytes(SIZE)})
    copy, instants, increments = bytearray(SIZE), [], []
    with server.export("guest", writable=True) as nbd, history.writer({"src": nbd}, seed=seed, largest=32768) as guest:
        guest.wait_writes(10)
        with guest.paused(), history.instant() as instant:
            server.block_dirty_bitmap_add(node="src", name="b", granularity=UNIT)
        instants.append(instant)
        copy[:] = history.at(instant)["src"]
        for _ in range(3):
            guest.wait_writes(20)
            fleece = scheme(server, images, guest)
            instants.append(fleece.begin(history, *TAKE))
            guest.wait_writes(10)
            increments.append({"src": pull(server, copy)})
            fleece.end()
            server.block_dirty_bitmap_remove(node="src", name="taken")
            history.check(instants[-1], {"src": bytes(copy)})
    check_increments(history, instants, increments, UNIT)
    assert all(increment["src"] for increment in increments)
