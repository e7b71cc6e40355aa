"""blockdev-mirror and drive-mirror: what the target holds, when it takes the place of the disk, and what is refused."""

import pytest

from blockbed_iotests import History

SIZE = 4 << 20


@pytest.fixture
def chain(images):
    """A disk in two layers: the base all 1 in its first half, the top with pieces of its own, holes between them."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE // 2, 1))
    top = images.create("top.qcow2", size=None, backing=base)
    return top.fill(("64k", "64k", 2), ("1M", "512k", 3), ("3M", "4k", 4)).io("write -z 256k 128k") and top


@pytest.fixture
def flat(images):
    """The same disk as raw."""
    disk = images.create("flat.raw", "raw", SIZE)
    return disk.fill((0, SIZE // 2, 1), ("64k", "64k", 2), ("1M", "512k", 3), ("3M", "4k", 4), ("256k", "128k", 0))


def ready(server, job="job"):
    return server.wait_event("BLOCK_JOB_READY", {"device": job})["data"]


def ended_well(server, job="job"):
    ended = server.finish_job(job)
    assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"], ended
    return ended["data"]


@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
def test_full(server, images, chain, flat, source_format, target_format):
    source = chain if source_format == "qcow2" else flat
    target = images.create("target", target_format, SIZE).fill((0, SIZE, 0xFF))
    server.add_image("src", source)
    server.add_image("dst", target)
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    assert ready(server) == {"device": "job", "len": SIZE, "offset": SIZE, "speed": 0, "type": "mirror"}
    server.block_job_complete(device="job")
    ended_well(server)
    assert server.job_states("job") == ["created", "running", "ready", "waiting", "pending", "concluded", "null"]
    server.stop()
    target.compare(flat)
    target.check()


@pytest.mark.parametrize("copy_mode", ["background", "write-blocking"])
@pytest.mark.parametrize("end", ["complete", "cancel"])
def test_guests_write_all_the_while(server, images, chain, copy_mode, end):
    """The target is the disk at the instant of the end; who pivots goes on there."""
    target = images.create("target.qcow2", size=SIZE)
    server.add_image("src", chain)
    server.add_image("dst", target)
    history = History({"disk": chain.content(force_share=True)})
    with server.export("src", writable=True) as nbd, history.writer({"disk": nbd}, seed=7) as guest:
        guest.wait_writes(5)
        server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full", copy_mode=copy_mode)
        ready(server)
        guest.wait_writes(20)
        with history.instant() as instant:
            if end == "complete":
                server.block_job_complete(device="job")
            else:
                server.block_job_cancel(device="job")
            ended_well(server)
        if end == "complete":
            guest.wait_writes(20)
    if end == "complete":
        with server.export("dst") as reader:
            assert reader.pread(SIZE, 0) == history.now()["disk"]
    server.stop()
    target.check()
    if end == "cancel":
        history.check(instant, {"disk": target.content()})


def test_force_cancel_of_a_ready_job(server, images, chain):
    server.add_image("src", chain)
    server.add_image("dst", images.create("target.qcow2", size=SIZE))
    server.blockdev_mirror(job_id="job", device="src", target="dst", sync="full")
    ready(server)
    server.block_job_cancel(device="job", force=True)
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    assert server.job_states("job") == ["created", "running", "ready", "aborting", "concluded", "null"]
    server.blockdev_del(node_name="dst")
