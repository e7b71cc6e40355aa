"""-deny-image-references: no file is opened because an image names it, whichever command meets the image."""

import subprocess

import pytest

pytestmark = pytest.mark.differs("has no such option", server="qemu")
MIB = 1 << 20
DENIED = "names the file '{}', and opening files that images name is denied"


@pytest.fixture
def denying(start):
    return start("-deny-image-references" if start.manner == "system" else "--deny-image-references")


@pytest.fixture
def chain(images):
    """A base; images over it, and one with a data file."""
    images.base = images.create("base.qcow2", size=MIB).fill((0, "64k", 1))
    images.overlay = images.create("overlay.qcow2", size=None, backing=images.base)
    images.external = images.create("external.qcow2", size=MIB, data_file=images.dir / "data.raw")
    return images


def definition(image, **options):
    return {"driver": "qcow2", "file": {"driver": "file", "filename": str(image.path)}, **options}


def test_what_images_name_is_not_opened(denying, chain):
    for image, named in ((chain.overlay, chain.base.path), (chain.external, chain.dir / "data.raw")):
        error = denying.error("blockdev-add", {**definition(image), "node-name": "n"})
        assert error.endswith(DENIED.format(named)), error
    # What the user names is the user's affair.
    data = {"driver": "file", "filename": str(chain.dir / "data.raw")}
    for image, options in ((chain.overlay, {"backing": None}), (chain.overlay, {"backing": definition(chain.base)}),
                           (chain.external, {"data-file": data})):
        denying.blockdev_add({**definition(image, **options), "node-name": "n"})
        denying.blockdev_del(node_name="n")


def test_what_images_further_below_name_is_not_opened(denying, chain):
    """Whoever names an image has not named what that image names."""
    top = chain.create("top.qcow2", size=None, backing=chain.overlay)

    def refused(named, **options):
        error = denying.error("blockdev-add", {**definition(top), "node-name": "n", **options})
        assert error.endswith(DENIED.format(named)), error

    refused(chain.base.path, backing=definition(chain.overlay))
    refused(chain.dir / "data.raw", backing=definition(chain.external))


# ---------------------------------------------------------------------- commands that open images by name


@pytest.mark.manners("system")
def test_targets_of_drive_backup_that_are_there(denying, chain):
    denying.add_image("n", chain.create("source.qcow2", size=MIB).fill((0, "64k", 5)))

    def arguments(image, sync):
        return {"job-id": "job", "device": "n", "sync": sync, "target": str(image.path), "mode": "existing", "format": "qcow2"}

    before = denying.node_names()
    for image, named in ((chain.overlay, chain.base.path), (chain.external, chain.dir / "data.raw")):
        assert denying.error("drive-backup", arguments(image, "full")).endswith(DENIED.format(named))
    # The source takes the place of the backing file: what the target names is not looked at.
    assert denying.error("drive-backup", arguments(chain.external, "none")).endswith(DENIED.format(chain.dir / "data.raw"))
    assert denying.node_names() == before
    denying.drive_backup(arguments(chain.overlay, "none"))
    denying.block_job_cancel(device="job")
    denying.finish_job("job")
    denying.drive_backup(arguments(chain.create("target.qcow2", size=MIB), "full"))
    assert "error" not in denying.finish_job("job")["data"]


def snapshot_existing(server, arguments):
    """The command is the machine's, the action is everybody's: what went wrong, if anything did."""
    if server.manner == "system":
        answer = server.try_execute("blockdev-snapshot-sync", arguments)
    else:
        answer = server.try_execute("transaction", {"actions": [{"type": "blockdev-snapshot-sync", "data": arguments}]})
    return str(answer) if isinstance(answer, Exception) else None


def test_overlays_of_blockdev_snapshot_sync_that_are_there(denying, chain):
    denying.add_image("n", chain.create("source.qcow2", size=MIB).fill((0, "64k", 5)))
    arguments = {"node-name": "n", "snapshot-node-name": "s", "mode": "existing", "format": "qcow2"}
    error = snapshot_existing(denying, {**arguments, "snapshot-file": str(chain.external.path)})
    assert error.endswith(DENIED.format(chain.dir / "data.raw")), error
    # What is snapshot becomes the backing file, whatever the image names.
    with denying.export("n") as nbd:
        assert snapshot_existing(denying, {**arguments, "snapshot-file": str(chain.overlay.path)}) is None
        assert denying.query_node("s")["backing_file_depth"] == 1
        assert nbd.pread(65536, 0) == b"\5" * 65536


def test_reopening_opens_nothing(denying, chain):
    denying.blockdev_add({**definition(chain.overlay), "file": {"driver": "file", "node-name": "f", "filename": str(chain.overlay.path)},
                          "node-name": "n", "backing": None})
    before = denying.node_names()
    for options in ({}, {"backing": None}, {"backing": None, "read-only": True}):
        denying.try_execute("blockdev-reopen", {"options": [{"driver": "qcow2", "node-name": "n", "file": "f", **options}]})
        assert denying.node_names() == before
        assert denying.query_node("n")["backing_file_depth"] == 0
    with denying.export("n") as nbd:
        assert nbd.pread(65536, 0) == bytes(65536)


def test_a_commit_in_a_chain_that_the_user_named(denying, chain):
    """Names that a commit writes are not followed either."""
    top = chain.create("top.qcow2", size=None, backing=chain.overlay)
    chain.overlay.fill(("64k", "64k", 2))
    denying.blockdev_add({**definition(chain.base), "node-name": "base"})
    denying.blockdev_add({**definition(chain.overlay), "node-name": "overlay", "backing": "base"})
    denying.blockdev_add({**definition(top), "node-name": "n", "backing": "overlay"})
    denying.block_commit(job_id="job", device="n", top_node="overlay", base_node="base")
    assert "error" not in denying.finish_job("job")["data"]
    assert denying.query_node("n")["backing_file_depth"] == 1
    with denying.export("n") as nbd:
        assert nbd.pread(131072, 0) == b"\1" * 65536 + b"\2" * 65536
    denying.stop()
    chain.base.read("64k", "64k", 2)


# ---------------------------------------------------------------------- commands that work on one image and end


@pytest.mark.manners("system")
def test_the_tools(target, chain):
    def run(*arguments):
        done = subprocess.run([target.program.system[0], *arguments], cwd=chain.dir, capture_output=True, text=True)
        return done.returncode, done.stderr

    for tool in (["map"], ["measure", "-O", "qcow2"], ["amend", "-o", "lazy_refcounts=on"]):
        for image, named in ((chain.overlay, chain.base.path), (chain.external, chain.dir / "data.raw")):
            kept = image.path.read_bytes()
            status, error = run(*tool, "--deny-image-references", image.path.name)
            assert status == 1 and error.rstrip().endswith(DENIED.format(named)), (tool, error)
            assert image.path.read_bytes() == kept
            assert run(*tool, image.path.name) == (0, "")
        # What nothing is named by, and what the user names.
        assert run(*tool, "--deny-image-references", chain.base.path.name) == (0, "")
        named = "driver=qcow2,file.driver=file,file.filename=overlay.qcow2,backing.driver=qcow2,backing.file.driver=file,backing.file.filename=base.qcow2"
        assert run(*tool, "--deny-image-references", "--image-opts", named) == (0, "")
        assert "--deny-image-references" in subprocess.run([target.program.system[0], tool[0], "--help"], capture_output=True, text=True).stdout


@pytest.mark.manners("system")
def test_a_check_follows_no_names(target, chain):
    """It looks at nothing but the image itself."""
    chain.base.path.unlink()
    (chain.dir / "data.raw").unlink()
    for image in (chain.overlay, chain.external):
        for options in ([], ["-r", "all"]):
            command = [target.program.system[0], "check", *options, "--deny-image-references", str(image.path)]
            assert subprocess.run(command, capture_output=True).returncode == 0
