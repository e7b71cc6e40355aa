"""Jobs that have ended and are not dismissed: what they still hold, and what nobody may do meanwhile."""

import pytest

SIZE = 4 << 20


@pytest.fixture
def chain(server, images):
    """base <- mid <- top and the empty target t, all as nodes of their names; each layer holds a part of the disk."""
    disks = {}
    for index, name in enumerate(("base", "mid", "top")):
        below = ("base", "mid")[index - 1] if index else None
        disks[name] = images.create(name, size=SIZE if below is None else None, backing=disks.get(below)).fill(
            (f"{index}M", "1M", index + 1))
    for name, below in (("base", None), ("mid", "base"), ("top", "mid")):
        server.add_image(name, disks[name], **({"backing": below} if below else {}))
    server.add_image("t", images.create("t", size=SIZE))
    return disks


def uses(server):
    """The edges of the job, which is told also when it has none."""
    shown = server.x_debug_query_block_graph()
    names = {node["id"]: node["name"] for node in shown["nodes"]}
    job, = (node["id"] for node in shown["nodes"] if node["type"] == "block-job")
    assert names[job] == "j"
    assert not any(node["type"] == "block-backend" for node in shown["nodes"])
    return {(edge["name"], names[edge["child"]]) for edge in shown["edges"] if edge["parent"] == job}


JOBS = {
    "commit": ("block-commit", {"device": "top", "top-node": "mid", "base-node": "base"}),
    "active commit": ("block-commit", {"device": "top", "base-node": "mid"}),
    "stream": ("block-stream", {"device": "top"}),
    "stream to base": ("block-stream", {"device": "top", "base-node": "base"}),
    "stream below": ("block-stream", {"device": "mid"}),
    "mirror": ("blockdev-mirror", {"device": "top", "target": "t", "sync": "full"}),
    "backup": ("blockdev-backup", {"device": "top", "target": "t", "sync": "full"}),
}
HELD = {
    "commit": {("main node", "top"), ("intermediate node", "mid"), ("base", "base")},
    "stream": {("active node", "top"), ("intermediate node", "mid"), ("intermediate node", "base")},
    "stream to base": {("active node", "top"), ("intermediate node", "mid")},
    "stream below": {("active node", "mid"), ("intermediate node", "base")},
}


@pytest.mark.parametrize("cancelled", [False, True], ids=["success", "cancelled"])
@pytest.mark.parametrize("name", JOBS)
def test_what_a_concluded_job_holds(server, chain, name, cancelled):
    command, arguments = JOBS[name]
    server.execute(command, {**arguments, "job-id": "j", "auto-dismiss": False, **({"speed": 1} if cancelled else {})})
    if cancelled:
        server.block_job_cancel(device="j", force=True)
    elif name in ("active commit", "mirror"):
        server.wait_status("j", "ready")
        server.block_job_complete(device="j")
    server.wait_status("j", "concluded")

    held = HELD.get(name, set())
    if name == "commit" and cancelled:
        held = set()
    # QEMU's stream still has its filter, which is in no chain any more.
    found = uses(server)
    assert {use for use in found if not use[1].startswith("#")} == held
    kind = command.removeprefix("block-")
    reason = f"block device is in use by block job: {kind}"
    # What another node stands on is busy for two reasons; which is told is a matter of when a link was made.
    standing = {"base"} | ({"mid"} if name == "stream below" else set())
    for node in standing & {node for _, node in held}:
        assert server.error("blockdev-del", node_name=node).startswith(f"Node '{node}' is busy: ")
    for node in {node for _, node in held} - standing:
        busy = f"Node '{node}' is busy: {reason}"
        assert server.error("blockdev-del", node_name=node) == busy
        assert server.error("blockdev-backup", device=node, target="t", sync="full", job_id="x") == busy
        assert server.error("block-stream", device=node, job_id="x") == busy
        assert server.error("block_resize", node_name=node, size=SIZE).endswith("is in use")
        assert server.error("blockdev-snapshot-delete-internal-sync", device=node, name="x") == "Need a root block node"

    server.job_dismiss(id="j")
    for node in ("top", "mid", "base", "t"):
        server.blockdev_del(node_name=node)
    assert server.node_names() == set()


@pytest.mark.parametrize("name", ["commit", "active commit", "mirror", "backup"])
@pytest.mark.parametrize("read_only", [False, True], ids=["written", "read-only"])
def test_a_filter_and_writing(server, chain, name, read_only):
    """Only where a guest may have been writing the filter of a job says that it can be written, whatever lies below it."""
    server.blockdev_del(node_name="top")
    server.add_image("top", chain["top"], backing="mid", read_only=read_only)
    command, arguments = JOBS[name]
    server.execute(command, {**arguments, "job-id": "j", "filter-node-name": "filter", "speed": 1})
    assert server.query_node("filter")["ro"] == (name == "commit")


def test_the_end_of_the_server_ends_them(server, chain):
    server.block_commit(device="top", top_node="mid", base_node="base", job_id="j", auto_dismiss=False)
    server.wait_status("j", "concluded")
    server.stop()
    chain["top"].check()


def test_a_layer_that_was_committed_is_kept_for_its_job(server, chain):
    """Nobody else has it: it goes with the job."""
    server.block_commit(device="top", top_node="mid", base_node="base", job_id="j", auto_dismiss=False)
    server.wait_status("j", "concluded")
    with server.export("top") as nbd:
        assert nbd.pread(3 << 20, 0) == b"\1" * (1 << 20) + b"\2" * (1 << 20) + b"\3" * (1 << 20)
    server.job_dismiss(id="j")
    assert {"top", "mid", "base"} <= server.node_names()
