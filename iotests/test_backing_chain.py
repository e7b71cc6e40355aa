"""Chains of backing files as long as they may be, and chains that do not end: refused at once, in few words."""

import resource
from pathlib import Path

import pytest

TOO_LONG = "Could not open backing file: The chain of images leads back to itself, or is too long (more than 1000 images)"
# As many as can be named; each has open files.
MOST = 1000
MIB = 1 << 20


@pytest.fixture
def start_with_files(start):
    """A server that may open enough files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * MOST:
        pytest.skip("too few files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * MOST), hard))
    yield start
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_chain(images, length, *, cycle=False):
    """Images 0000, 0001, ...: each names the next one; the last names the first, or nothing."""
    images.create("base", size=MIB)
    template = images.create("9999", size=MIB, backing=images.at("base", "qcow2"), cluster_size=4096)
    data = template.path.read_bytes()
    name = str(images.dir / "base").encode() if str(images.dir / "base").encode() in data else b"base"
    start, size = data.index(name), len(name)

    def naming(other):
        header = bytearray(data)
        header[8:20] = start.to_bytes(8, "big") + (4).to_bytes(4, "big") if other else bytes(12)
        header[start : start + size] = other.encode().ljust(size, b"\0")
        return bytes(header)

    for number in range(length):
        following = f"{number + 1:04}" if number + 1 < length else "0000" if cycle else ""
        (images.dir / f"{number:04}").write_bytes(naming(following))
    return images.at("0000", "qcow2")


def peak_bytes(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) << 10


@pytest.mark.limit(60)
@pytest.mark.differs("it opens images until it ends, or any number of them", server="qemu")
@pytest.mark.manners("daemon")
@pytest.mark.parametrize(("length", "cycle"), [(1, True), (2, True), (7, True), (MOST + 1, False)])
def test_chains_that_are_too_long(start_with_files, target, images, length, cycle):
    if target.kind == "qemu":
        pytest.xfail("it never answers")
    image = make_chain(images, length, cycle=cycle)
    server = start_with_files()
    options = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}, "read-only": True}
    assert server.error("blockdev-add", options) == TOO_LONG
    assert server.query_named_block_nodes() == []
    assert peak_bytes(server) < 1 << 30
    server.execute("blockdev-add", options | {"backing": None})


@pytest.mark.limit(120)
@pytest.mark.manners("daemon")
@pytest.mark.parametrize("length", [50, pytest.param(MOST, marks=pytest.mark.differs("minutes for what grows with the square of it", server="qemu"))])
def test_long_chains(start_with_files, target, images, length):
    if target.kind == "qemu" and length == MOST:
        pytest.xfail("it takes minutes")
    image = make_chain(images, length)
    last = images.at(f"{length - 1:04}", "qcow2")
    last.io("write -P 7 64k 64k")
    server = start_with_files()
    server.add_image("n", image)
    server.nbd_start()
    with server.export("n") as nbd:
        assert nbd.pread(192 << 10, 0) == bytes(65536) + b"\7" * 65536 + bytes(65536)
    assert peak_bytes(server) < 1 << 30
