"""Chains of increments under a guest that writes without a pause: what each restores to, and what each has copied.

The history of the writes is the judge of both: `check` of the bytes, `check_increments` of the places."""

import pytest

from blockbed_iotests import BITMAP_STORES, History, check_increments, find_faults

SIZE = 4 << 20
UNIT = 65536


def add_source(server, images, kind):
    image = images.create_bitmap_store(kind, SIZE)
    server.add_image("src", image, discard="unmap")
    return image


def begin_chain(server, images, history):
    """The full backup, and the bitmap that begins with it: the image and the instant."""
    full = images.create("full.qcow2", size=SIZE)
    server.add_image("full", full)
    with history.instant() as instant:
        server.transaction(actions=[
            {"type": "block-dirty-bitmap-add",
             "data": {"node": "src", "name": "b", "granularity": UNIT, "persistent": True}},
            {"type": "blockdev-backup", "data": {"job-id": "full", "device": "src", "target": "full", "sync": "full"}},
        ])
    return full, instant


def add_increment(server, images, name, base):
    image = images.create(f"{name}.qcow2", size=None, backing=base)
    server.add_image(name, image, backing=None)
    return image


@pytest.mark.parametrize("kind", BITMAP_STORES)
@pytest.mark.parametrize("seed", range(3))
def test_every_increment_is_what_was_written_since(server, images, kind, seed):
    """Each restores to exactly its instant, and has copied exactly what was written since the one before."""
    add_source(server, images, kind)
    history = History({"src": bytes(SIZE)})
    chain, instants = [], []
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed) as guest:
        for number in range(4):
            guest.wait_writes(20)
            image = images.create(f"inc{number}.qcow2", size=SIZE, backing=chain[-1] if chain else None)
            server.add_image(f"inc{number}", image)
            chain.append(image)
            backup = {"job-id": f"job{number}", "device": "src", "target": f"inc{number}", "speed": 1 << 18}
            with history.instant() as instant:
                if number == 0:
                    server.transaction(actions=[
                        {"type": "block-dirty-bitmap-add",
                         "data": {"node": "src", "name": "b", "granularity": UNIT, "persistent": True}},
                        {"type": "blockdev-backup", "data": {**backup, "sync": "full"}},
                    ])
                else:
                    server.execute("blockdev-backup", {**backup, "sync": "incremental", "bitmap": "b"})
            instants.append(instant)
            guest.wait_writes(20)
            server.block_job_set_speed(device=f"job{number}", speed=0)
            assert "error" not in server.finish_job(f"job{number}")["data"]
            server.blockdev_del(node_name=f"inc{number}")
    server.stop()
    for image, instant in zip(chain, instants):
        history.check(instant, {"src": image.content()})
        image.check()
    check_increments(history, instants, [{"src": image.own()} for image in chain[1:]], UNIT)


@pytest.mark.parametrize("seed", range(2))
def test_the_increment_after_a_cancel_has_all(server, images, seed):
    """A backup that came to nothing is made good by the next one, which has no more than both would have."""
    add_source(server, images, "qcow2")
    history = History({"src": bytes(SIZE)})
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed) as guest:
        guest.wait_writes(10)
        full, first = begin_chain(server, images, history)
        server.finish_job("full")
        guest.wait_writes(20)
        add_increment(server, images, "lost", full)
        server.blockdev_backup(job_id="lost", device="src", target="lost", sync="incremental", bitmap="b", speed=1)
        guest.wait_writes(10)
        server.block_job_cancel(device="lost")
        server.finish_job("lost")
        guest.wait_writes(10)
        increment = add_increment(server, images, "inc", full)
        with history.instant() as second:
            server.blockdev_backup(job_id="inc", device="src", target="inc", sync="incremental", bitmap="b")
        server.finish_job("inc")
    server.stop()
    history.check(second, {"src": increment.content()})
    check_increments(history, [first, second], [{"src": increment.own()}], UNIT)


@pytest.mark.parametrize("seed", range(2))
def test_two_halves_are_the_whole(server, images, seed):
    """With the mode `always` what a cancelled backup has copied counts: the next one has the rest, and nothing twice but what
    was written again."""
    add_source(server, images, "qcow2")
    history = History({"src": bytes(SIZE)})
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed, largest=16384) as guest:
        guest.wait_writes(10)
        full, first = begin_chain(server, images, history)
        server.finish_job("full")
        guest.wait_writes(20)
        half = add_increment(server, images, "half", full)
        how = {"device": "src", "sync": "bitmap", "bitmap": "b", "bitmap-mode": "always"}
        with history.instant() as middle:
            server.execute("blockdev-backup", {"job-id": "half", "target": "half", **how, "speed": 1,
                                               "x-perf": {"max-workers": 1, "max-chunk": UNIT}})
        guest.wait_writes(10)
        server.block_job_cancel(device="half")
        ended = server.finish_job("half")["data"]
        assert 0 < ended["offset"] < ended["len"]
        guest.wait_writes(10)
        rest = add_increment(server, images, "rest", half)
        with history.instant() as last:
            server.execute("blockdev-backup", {"job-id": "rest", "target": "rest", **how})
        server.finish_job("rest")
    server.stop()
    history.check(last, {"src": rest.content()})
    check_increments(history, [first, last], [{"src": half.own() + rest.own()}], UNIT)
    # What the first lacks is no more than that.
    assert {fault.kind for fault in find_faults(history, [first, middle], [{"src": half.own()}], UNIT)} == {"lost"}


def test_no_increment_after_a_crash(start, images):
    """No bitmap says that it could be."""
    server = start()
    image = add_source(server, images, "qcow2")
    history = History({"src": bytes(SIZE)})
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}) as guest:
        full, _ = begin_chain(server, images, history)
        server.finish_job("full")
        guest.wait_writes(20)
        add_increment(server, images, "lost", full)
        server.blockdev_backup(job_id="lost", device="src", target="lost", sync="incremental", bitmap="b", speed=1)
        guest.wait_writes(10)
    server.kill()
    server = start()
    server.add_image("src", image)
    assert all(b["inconsistent"] for b in server.query_node("src").get("dirty-bitmaps", []))


# ---------------------------------------------------------------------- the judge, on real increments


@pytest.fixture
def chain(server, images):
    """A chain of which two instants are to come: a full backup, then the piece 3 is written."""
    add_source(server, images, "qcow2")
    history = History({"src": bytes(SIZE)})
    with server.export("src", writable=True) as nbd:
        def write(piece):
            nbd.pwrite(b"x" * UNIT, piece * UNIT)
            history.wrote("src", piece * UNIT, b"x" * UNIT)

        write(1)
        full, first = begin_chain(server, images, history)
        server.finish_job("full")
        write(3)

        def finish():
            """The increment; what is wrong with it."""
            increment = add_increment(server, images, "inc", full)
            with history.instant() as second:
                server.blockdev_backup(job_id="inc", device="src", target="inc", sync="incremental", bitmap="b")
            server.finish_job("inc")
            for node in ("inc", "full"):
                server.blockdev_del(node_name=node)
            return [str(fault) for fault in find_faults(history, [first, second], [{"src": increment.own()}], UNIT)]

        yield write, finish


def test_nothing_is_wrong(chain):
    write, finish = chain
    write(7)
    assert finish() == []


def test_a_planted_loss_is_named(server, chain):
    """Somebody stopped the bitmap for a while."""
    write, finish = chain
    server.block_dirty_bitmap_disable(node="src", name="b")
    write(7)
    server.block_dirty_bitmap_enable(node="src", name="b")
    write(8)
    assert finish() == [f"increment 1: lost: {UNIT} bytes at {7 * UNIT} of src, last written in epoch 1 by write 2 of writer 0"]


def test_a_planted_superfluous_copy_is_named(server, chain):
    """Somebody merged a coarser bitmap."""
    write, finish = chain
    server.block_dirty_bitmap_add(node="src", name="other", granularity=4 * UNIT)
    write(9)
    server.block_dirty_bitmap_merge(node="src", target="b", bitmaps=["other"])
    assert finish() == [
        f"increment 1: copied for nothing: {UNIT} bytes at {8 * UNIT} of src, never written",
        f"increment 1: copied for nothing: {2 * UNIT} bytes at {10 * UNIT} of src, never written",
    ]
