"""A limit on the size of files (setrlimit, LimitFSIZE=): what lies behind it fails, and the server goes on."""

import resource

import pytest

LIMIT = 512 << 10


def limit(server, size):
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.manners("system")
def test_a_request_fails(server, images):
    images.create("a.raw", "raw", "1M")
    server.blockdev_add(driver="file", node_name="n", filename="a.raw")
    limit(server, LIMIT)
    assert server.qemu_io("n", "write 768k 64k") == "write failed: File too large\n"
    limit(server, resource.RLIM_INFINITY)
    assert "wrote" in server.qemu_io("n", "write 768k 64k")


@pytest.mark.parametrize("command", ["blockdev-backup", "blockdev-mirror"])
def test_a_job_stops_and_goes_on(server, images, command):
    source = images.create("source.raw", "raw", "4M").fill((0, "4M", 1))
    target = images.create("target.qcow2", size="4M")
    server.blockdev_add(driver="file", node_name="source", filename="source.raw")
    server.add_image("target", target)
    limit(server, LIMIT)
    server.execute(command, {"job-id": "j", "device": "source", "target": "target", "sync": "full", "on-target-error": "stop"})
    event = server.wait_event("BLOCK_JOB_ERROR")["data"]
    assert (event["operation"], event["action"]) == ("write", "stop")
    limit(server, resource.RLIM_INFINITY)
    server.execute("block-job-resume", {"device": "j"})
    if command == "blockdev-mirror":
        server.wait_event("BLOCK_JOB_READY")
        server.execute("block-job-complete", {"device": "j"})
    server.finish_job("j")
    server.stop()
    assert target.content() == source.content()
