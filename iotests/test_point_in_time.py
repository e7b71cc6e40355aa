"""A backup is the disk of the instant of its command, whatever the guest writes meanwhile. `History` is the judge."""

import contextlib

import pytest

from blockbed_iotests import History, Image, QmpError

SIZE = 4 << 20
SEEDS = range(3)


def pattern(byte):
    """A disk that is full of data but for holes, so that every cluster has something to lose."""
    return b"".join(bytes([byte + number % 7]) * 49152 + bytes(16384) for number in range(SIZE // 65536))


def disk(server, images, name, format="qcow2", byte=1, **options):
    """A disk with a pattern on it, opened under its name."""
    content = pattern(byte)
    image = images.create(f"{name}.{format}", format, SIZE, **options).fill_bytes(content)
    server.add_image(name, image, discard="unmap")
    return content


def target(server, images, name, format="qcow2", **options) -> Image:
    image = images.create(f"{name}.{format}", format, SIZE, **options)
    server.add_image(name, image)
    return image


def hurry_unless_ended(server, job):
    """For few clusters: while the job copies its first one, the guest's writes may save all others, and it has ended."""
    try:
        server.block_job_set_speed(device=job, speed=0)
    except QmpError as error:
        if error.error_class != "DeviceNotActive":
            raise


def wait_all(server, *jobs):
    for job in jobs:
        ended = server.finish_job(job)
        assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"], ended


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
def test_full_backup_of_a_disk_that_is_written(server, images, source_format, target_format, seed):
    history = History({"src": disk(server, images, "src", source_format)})
    copy = target(server, images, "dst", target_format)
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed) as guest:
        guest.wait_writes(20)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=1 << 16)
        guest.wait_writes(50)
        server.block_job_set_speed(device="job", speed=0)
        wait_all(server, "job")
        guest.wait_writes(5)
    server.stop()
    history.check(instant, {"src": copy.content()})
    assert images.at(f"src.{source_format}", source_format).content() == history.now()["src"], "guest data was lost"
    copy.check()
    images.at(f"src.{source_format}", source_format).check()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_instant_is_exact_when_nothing_is_in_flight(server, images, seed):
    history = History({"src": disk(server, images, "src")})
    copy = target(server, images, "dst")
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed) as guest:
        guest.wait_writes(30)
        with guest.paused(), history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full")
        guest.wait_writes(30)
        wait_all(server, "job")
    server.stop()
    assert copy.content() == history.at(instant)["src"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("properties", [{}, {"completion-mode": "grouped"}], ids=["individual", "grouped"])
def test_all_disks_of_a_transaction_have_one_instant(server, images, properties, seed):
    """One guest writes three disks in turn: the copies hold a prefix of its writes over all three."""
    names = ("a", "b", "c")
    formats = dict(zip(names, ("qcow2", "raw", "qcow2")))
    history = History({name: disk(server, images, name, formats[name], byte) for byte, name in enumerate(names, 1)})
    copies = {name: target(server, images, f"t{name}", formats[name]) for name in names}
    with contextlib.ExitStack() as stack:
        nbds = {name: stack.enter_context(server.export(name, writable=True)) for name in names}
        guest = stack.enter_context(history.writer(nbds, seed=seed))
        guest.wait_writes(30)
        with history.instant() as instant:
            server.transaction(
                actions=[
                    {"type": "blockdev-backup", "data": {
                        "job-id": f"job-{name}", "device": name, "target": f"t{name}", "sync": "full"}}
                    for name in names
                ],
                properties=properties,
            )
        guest.wait_writes(60)
        wait_all(server, *(f"job-{name}" for name in names))
    server.stop()
    history.check(instant, {name: copy.content() for name, copy in copies.items()})


@pytest.mark.parametrize("seed", SEEDS)
def test_many_guests_on_one_disk(server, images, seed):
    """Four writers, each with a quarter of the disk and a connection of its own: each is caught at a prefix."""
    history = History({"src": disk(server, images, "src")})
    copy = target(server, images, "dst")
    quarter = SIZE // 4
    server.export("src", writable=True).close()
    with contextlib.ExitStack() as stack:
        guests = [
            stack.enter_context(history.writer(
                {"src": stack.enter_context(server.nbd("src"))}, seed=seed, region=range(number * quarter, (number + 1) * quarter)
            ))
            for number in range(4)
        ]
        for guest in guests:
            guest.wait_writes(10)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=1 << 16)
        for guest in guests:
            guest.wait_writes(20)
        server.block_job_set_speed(device="job", speed=0)
        wait_all(server, "job")
    server.stop()
    counts = history.check(instant, {"src": copy.content()})
    assert set(counts) == {1, 2, 3, 4}


@pytest.mark.parametrize("seed", SEEDS)
def test_guests_that_overwrite_each_other(server, images, seed):
    """Writes to the same place at the same time: any order that the acknowledgements allow, and no other."""
    history = History({"src": disk(server, images, "src")})
    copy = target(server, images, "dst")
    server.export("src", writable=True).close()
    kinds = ("write", "unaligned", "zero")  # the result of a trim could not be read back undisturbed
    with contextlib.ExitStack() as stack:
        guests = [
            stack.enter_context(history.writer(
                {"src": stack.enter_context(server.nbd("src"))}, seed=seed, region=range(1 << 20, 2 << 20), kinds=kinds,
            ))
            for _ in range(4)
        ]
        for guest in guests:
            guest.wait_writes(10)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full")
        for guest in guests:
            guest.wait_writes(20)
        wait_all(server, "job")
    server.stop()
    history.check(instant, {"src": copy.content()})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "at_once",
    [False, pytest.param(True, marks=pytest.mark.differs(
        "QEMU can abort when both filters are removed at once: Block node is read-only", server="qemu", sometimes=True))],
    ids=["in turn", "at once"],
)
def test_two_backups_of_one_disk_have_two_instants(server, images, seed, at_once):
    """The second begins while the first still runs; each keeps its own instant."""
    history = History({"src": disk(server, images, "src")})
    first, second = target(server, images, "first"), target(server, images, "second", "raw")
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed) as guest:
        guest.wait_writes(20)
        with history.instant() as at_first:
            server.blockdev_backup(job_id="one", device="src", target="first", sync="full", speed=65536)
        guest.wait_writes(30)
        with history.instant() as at_second:
            server.blockdev_backup(job_id="two", device="src", target="second", sync="full", speed=65536)
        guest.wait_writes(30)
        for job in ("one", "two"):
            server.block_job_set_speed(device=job, speed=0)
            if not at_once:
                wait_all(server, job)
        if at_once:
            wait_all(server, "one", "two")
    server.stop()
    history.check(at_first, {"src": first.content()})
    history.check(at_second, {"src": second.content()})


@pytest.mark.parametrize("target_cluster", [512, 4096, 1 << 20])
@pytest.mark.parametrize("source_cluster", [512, 65536, 2 << 20])
def test_cluster_sizes(server, images, source_cluster, target_cluster):
    """A guest write saves whole clusters of the copy, however they lie over those of the disk."""
    history = History({"src": disk(server, images, "src", cluster_size=source_cluster)})
    copy = target(server, images, "dst", cluster_size=target_cluster)
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=source_cluster) as guest:
        guest.wait_writes(10)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=1 << 16)
        guest.wait_writes(30)
        hurry_unless_ended(server, "job")
        wait_all(server, "job")
    server.stop()
    history.check(instant, {"src": copy.content()})
    copy.check()


@pytest.mark.parametrize("perf", [{"use-copy-range": True}, {"max-workers": 1, "max-chunk": 65536}, {"max-workers": 128}])
def test_ways_of_copying(server, images, perf):
    history = History({"src": disk(server, images, "src", "raw")})
    copy = target(server, images, "dst", "raw")
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=1) as guest:
        guest.wait_writes(10)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", x_perf=perf)
        guest.wait_writes(30)
        wait_all(server, "job")
    server.stop()
    history.check(instant, {"src": copy.content()})


def test_compressed(server, images):
    history = History({"src": disk(server, images, "src")})
    copy = target(server, images, "dst")
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=3) as guest:
        guest.wait_writes(10)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", compress=True)
        guest.wait_writes(30)
        wait_all(server, "job")
    server.stop()
    history.check(instant, {"src": copy.content()})
    copy.check()


def test_pauses_do_not_move_the_instant(server, images):
    """A paused backup still saves what the guest overwrites."""
    history = History({"src": disk(server, images, "src")})
    copy = target(server, images, "dst")
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=5) as guest:
        guest.wait_writes(10)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=65536)
        for _ in range(3):
            server.job_pause(id="job")
            server.wait_job("job", "paused")
            guest.wait_writes(20)
            server.job_resume(id="job")
            guest.wait_writes(5)
        server.block_job_set_speed(device="job", speed=0)
        wait_all(server, "job")
    server.stop()
    history.check(instant, {"src": copy.content()})


@pytest.mark.parametrize("seed", SEEDS)
def test_top_of_a_chain(server, images, seed):
    base = images.create("base.qcow2", size=SIZE).fill_bytes(pattern(1))
    top = images.create("src.qcow2", size=None, backing=base).fill(("1M", "300k", 0x77), ("3M", "10k", 0x78))
    history = History({"src": top.content()})
    server.add_image("src", top)
    copy = images.create("dst.qcow2", size=None, backing=base)
    server.add_image("dst", copy)
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed) as guest:
        guest.wait_writes(5)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="top", speed=1 << 20)
        guest.wait_writes(30)
        server.block_job_set_speed(device="job", speed=0)
        wait_all(server, "job")
    server.stop()
    history.check(instant, {"src": copy.content()})


@pytest.mark.parametrize("seed", SEEDS)
def test_fleecing_shows_one_instant(server, images, seed):
    """A sync=none target over its source, read while the guest writes: every reading is the same, and is right."""
    history = History({"src": disk(server, images, "src")})
    server.blockdev_add(
        driver="qcow2", node_name="dst", backing="src",
        file={"driver": "file", "filename": str(images.create("dst.qcow2", size=SIZE).path)},
    )
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=seed) as guest:
        guest.wait_writes(20)
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="none")
        with server.export("dst", "fleece") as fleece:
            readings = []
            for _ in range(4):
                readings.append(fleece.read_all())
                guest.wait_writes(10)
            # Piece by piece, as a backup program reads
            readings.append(b"".join(fleece.pread(16384, at) for at in range(0, SIZE, 16384)))
        server.job_cancel(id="job")
        server.finish_job("job")
        guest.wait_writes(10)
    for reading in readings:
        history.check(instant, {"src": reading})
    assert len(set(readings)) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_snapshot_is_of_one_instant(server, images, seed):
    """An external snapshot of two disks under a guest: both bases hold one prefix of its writes."""
    names = ("a", "b")
    history = History({name: disk(server, images, name, byte=byte) for byte, name in enumerate(names, 1)})
    with contextlib.ExitStack() as stack:
        nbds = {name: stack.enter_context(server.export(name, writable=True)) for name in names}
        guest = stack.enter_context(history.writer(nbds, seed=seed))
        guest.wait_writes(20)
        with history.instant() as instant:
            server.transaction(actions=[
                {"type": "blockdev-snapshot-sync", "data": {
                    "node-name": name, "snapshot-file": f"{images.dir}/s{name}", "snapshot-node-name": f"s{name}"}}
                for name in names
            ])
        guest.wait_writes(40)
    server.stop()
    history.check(instant, {name: images.at(f"{name}.qcow2", "qcow2").content() for name in names})
    for name in names:
        overlay = images.at(f"s{name}", "qcow2")
        assert overlay.content() == history.now()[name]
        overlay.check()


def test_a_cancelled_backup_costs_no_guest_write(server, images):
    """Start and cancel again and again under a guest: no write is lost or doubled."""
    history = History({"src": disk(server, images, "src")})
    target(server, images, "dst")
    with server.export("src", writable=True) as nbd, history.writer({"src": nbd}, seed=9) as guest:
        for _ in range(10):
            server.blockdev_backup(job_id="job", device="src", target="dst", sync="full", speed=65536)
            guest.wait_writes(5)
            server.job_cancel(id="job")
            server.finish_job("job")
            guest.wait_writes(2)
    server.stop()
    assert images.at("src.qcow2", "qcow2").content() == history.now()["src"]
    images.at("src.qcow2", "qcow2").check()
