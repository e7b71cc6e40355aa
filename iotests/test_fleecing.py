"""Fleecing by the classic steps: a temporary disk over the source, a backup that only saves, an export to read it."""

import pytest

from blockbed_iotests import History, Nbd

SIZE = 4 << 20



@pytest.mark.manners("system")
def test_classic_steps(server, images):
    """drive_add with backing=, blockdev-backup sync=none, nbd-server-add; read; end the job; drive_del."""
    content = b"".join(bytes([number % 251 + 1]) * 16384 for number in range(SIZE // 16384))
    source = images.create("src.qcow2", size=SIZE).fill_bytes(content)
    server.add_image("src", source)
    history = History({"src": content})
    target = images.create("fleece.qcow2", size=SIZE)
    with server.export("src", "guest", writable=True) as nbd, history.writer({"src": nbd}, seed=1) as guest:
        guest.wait_writes(20)
        answer = server.hmp(f"drive_add 0 if=none,id=fleece,node-name=fleece-node,file={target.path},format=qcow2,backing=src")
        assert answer == "OK\n"
        with history.instant() as instant:
            server.blockdev_backup(job_id="job", device="src", target="fleece", sync="none")
        server.nbd_server_add(device="fleece")
        with server.nbd("fleece") as reader:
            for _ in range(3):
                history.check(instant, {"src": reader.read_all()})
                guest.wait_writes(20)
            history.check(instant, {"src": reader.read_all()})
        server.nbd_server_remove(name="fleece", mode="hard")
        server.wait_event("BLOCK_EXPORT_DELETED", {"id": "fleece"})
        server.block_job_cancel(device="job")
        server.finish_job("job")
        assert server.hmp("drive_del fleece") == ""
        guest.wait_writes(5)
    assert server.query_block() == []
    assert "fleece-node" not in server.node_names()
    server.stop()
    assert source.content() == history.now()["src"]
    source.check()


@pytest.mark.manners("system")
@pytest.mark.differs("QEMU refuses block-job-complete for a backup", server="qemu")
def test_classic_end(server, images):
    """As fleecing was first specified: the job is completed, not cancelled."""
    server.add_image("src", images.create("src.qcow2", size=SIZE).fill((0, SIZE, 1)))
    target = images.create("fleece.qcow2", size=SIZE)
    server.hmp(f"drive_add 0 if=none,id=fleece,file={target.path},format=qcow2,backing=src")
    server.blockdev_backup(job_id="job", device="src", target="fleece", sync="none")
    server.block_job_complete(device="job")
    ended = server.finish_job("job")
    assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"]
    assert server.hmp("drive_del fleece") == ""


def test_by_blockdev_add(server, images):
    """The same with named nodes only, which the storage daemon has too."""
    source = images.create("src.raw", "raw", SIZE).fill((0, SIZE, 1))
    server.add_image("src", source)
    target = images.create("fleece.qcow2", size=SIZE)
    server.blockdev_add(driver="qcow2", node_name="fleece", backing="src", file={"driver": "file", "filename": str(target.path)})
    with server.export("src", "guest", writable=True) as guest:
        server.blockdev_backup(job_id="job", device="src", target="fleece", sync="none")
        with server.export("fleece", "copy") as reader:
            guest.pwrite(b"\2" * SIZE, 0)
            assert reader.read_all() == b"\1" * SIZE
            assert guest.read_all() == b"\2" * SIZE
            # What the guest wrote over is now in the temporary disk
            assert reader.extents()[0].flags & 1 == 0
        server.block_export_del(id="export2", mode="hard")
        server.job_cancel(id="job")
        server.finish_job("job")
        server.blockdev_del(node_name="fleece")
    server.stop()
    source.read(0, SIZE, 2)


def test_two_fleeces_of_two_instants(server, images):
    server.add_image("src", images.create("src.qcow2", size=SIZE).fill((0, SIZE, 1)))
    with server.export("src", "guest", writable=True) as guest:
        readers = []
        for number in (1, 2):
            image = images.create(f"fleece{number}.qcow2", size=SIZE)
            server.blockdev_add(
                driver="qcow2", node_name=f"fleece{number}", backing="src", file={"driver": "file", "filename": str(image.path)}
            )
            server.blockdev_backup(job_id=f"job{number}", device="src", target=f"fleece{number}", sync="none")
            readers.append(server.export(f"fleece{number}"))
            guest.pwrite(bytes([number + 1]) * (SIZE // 2), (number - 1) * SIZE // 2)
        assert readers[0].read_all() == b"\1" * SIZE
        assert readers[1].read_all() == b"\2" * (SIZE // 2) + b"\1" * (SIZE // 2)
        for number in (1, 2):
            server.job_cancel(id=f"job{number}")
            server.finish_job(f"job{number}")


def test_full_backup_beside_a_fleece(server, images):
    """A copy of one instant while another is being read."""
    server.add_image("src", images.create("src.qcow2", size=SIZE).fill((0, SIZE, 1)))
    fleece, copy = images.create("fleece.qcow2", size=SIZE), images.create("copy.qcow2", size=SIZE)
    server.blockdev_add(driver="qcow2", node_name="fleece", backing="src", file={"driver": "file", "filename": str(fleece.path)})
    server.add_image("copy", copy)
    with server.export("src", "guest", writable=True) as guest:
        server.blockdev_backup(job_id="none", device="src", target="fleece", sync="none")
        guest.pwrite(b"\2" * 65536, 0)
        server.blockdev_backup(job_id="full", device="src", target="copy", sync="full", speed=65536)
        guest.pwrite(b"\3" * 131072, 0)
        with Nbd(server.nbd_path, "guest") as again:
            assert again.pread(131072, 0) == b"\3" * 131072
        with server.export("fleece", "reader") as reader:
            assert reader.read_all() == b"\1" * SIZE
        server.block_job_set_speed(device="full", speed=0)
        server.finish_job("full")
        server.job_cancel(id="none")
        server.finish_job("none")
    server.stop()
    copy.read(0, 65536, 2)
    copy.read(65536, SIZE - 65536, 1)
