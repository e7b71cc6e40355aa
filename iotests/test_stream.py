"""block-stream: what is brought up, what stays below, and what is refused."""

import pytest

from blockbed_iotests import qemu_img

MB = 1 << 20
SIZE = 4 * MB


@pytest.fixture
def chain(images):
    """Four layers, each with a MiB of its own: base, one, two, top."""
    layers = [images.create("base.qcow2", size=SIZE).fill((0, MB, 1))]
    for number, name in enumerate(["one", "two", "top"], 1):
        layer = images.create(f"{name}.qcow2", size=None, backing=layers[-1])
        layers.append(layer.fill((number * MB, MB, number + 1)))
    return layers


def add(server, node, image, backing=None, **options):
    options = {"driver": image.format, "node-name": node, "file": {"driver": "file", "filename": str(image.path)}, **options}
    if backing:
        options["backing"] = backing
    server.execute("blockdev-add", options)


@pytest.fixture
def nodes(server, chain):
    """The same, each layer a node of the user's own: n0, n1, n2, top."""
    names = ["n0", "n1", "n2", "top"]
    for number, (name, layer) in enumerate(zip(names, chain)):
        options = {"read-only": True} if name != "top" else {}
        add(server, name, layer, names[number - 1] if number else None, **options)
    return names


def content_of(chain):
    return b"".join(bytes([number]) * MB for number in range(1, 5))


def backing_of(server, node):
    """Nodes of the chain below `node`, by their files' names."""
    graph = server.x_debug_query_block_graph()
    names = {n["id"]: n["name"] for n in graph["nodes"]}
    below = [names[e["child"]] for e in graph["edges"] if names[e["parent"]] == node and e["name"] == "backing"]
    return below[0] if below else None


def edges(server, *, of=None):
    """Edges in a form that can be compared: who, as what, whom, what for."""
    graph = server.x_debug_query_block_graph()
    names = {n["id"]: n["name"] or n["type"] for n in graph["nodes"]}
    result = []
    for edge in graph["edges"]:
        if of is None or names[edge["parent"]] == of:
            result.append((edge["name"], names[edge["child"]], sorted(edge["perm"]), sorted(edge["shared-perm"])))
    return result


def finish(server, job="job"):
    ended = server.finish_job(job)
    assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"], ended
    return ended["data"]


# ---------------------------------------------------------------------- what is brought up


def test_everything(server, chain):
    server.add_image("top", chain[-1])
    server.block_stream(job_id="job", device="top")
    data = finish(server)
    assert (data["len"], data["offset"], data["type"]) == (SIZE, SIZE, "stream")
    assert server.job_states("job") == ["created", "running", "waiting", "pending", "concluded", "null"]
    assert backing_of(server, "top") is None
    assert sum(1 for node in server.query_named_block_nodes() if node["drv"] == "qcow2") == 1, "the other layers are closed"
    server.stop()
    top = chain[-1]
    assert "backing-filename" not in top.info()
    assert top.content() == content_of(chain)
    top.check()


@pytest.mark.parametrize("how", ["base", "base-node", "bottom"])
def test_down_to_a_base(server, nodes, chain, how):
    where = {"base": str(chain[1].path), "base-node": "n1", "bottom": "n2"}[how]
    server.execute("block-stream", {"job-id": "job", "device": "top", how: where})
    finish(server)
    assert backing_of(server, "top") == "n1"
    server.blockdev_del(node_name="n2")
    server.stop()
    top = chain[-1]
    assert top.info()["backing-filename"] == str(chain[1].path)
    assert top.content() == content_of(chain)
    allocated = [extent for extent in top.map() if extent["depth"] == 0 and extent["data"]]
    assert sum(extent["length"] for extent in allocated) == 2 * MB, "nothing of the layers below the base is copied"


def test_into_a_layer_in_the_middle(server, nodes, chain):
    """It is opened for reading; the job writes, and leaves it as it was."""
    server.block_stream(job_id="job", device="n2", base_node="n0", auto_finalize=False)
    server.wait_job("job", "pending")
    assert server.query_node("n2")["ro"] is False
    server.job_finalize(id="job")
    finish(server)
    assert backing_of(server, "n2") == "n0" and server.query_node("n2")["ro"] is True


def test_a_layer_in_the_middle_that_may_be_written(server, chain):
    """One that was opened because an image names it: the job makes it writable, and leaves it as it was."""
    server.add_image("top", chain[-1])
    names = {node["file"]: node["node-name"] for node in server.query_named_block_nodes() if node["drv"] == "qcow2"}
    two, base = names[str(chain[2].path)], names[str(chain[0].path)]
    server.block_stream(job_id="job", device=two, base_node=base, auto_finalize=False)
    server.wait_job("job", "pending")
    assert server.query_node(two)["ro"] is False
    server.job_finalize(id="job")
    finish(server)
    assert server.query_node(two)["ro"] is True
    assert backing_of(server, two) == base
    server.stop()
    assert chain[-1].content() == content_of(chain)
    assert chain[2].info()["backing-filename"] == str(chain[0].path)


def test_zeroes_stay_zeroes(server, images, chain):
    """Zeroes that a layer in the middle puts over data below are brought up too."""
    chain[2].io("write -z 0 512k")
    expected = chain[-1].content()
    server.add_image("top", chain[-1])
    server.block_stream(job_id="job", device="top", base=str(chain[0].path))
    finish(server)
    server.stop()
    assert chain[-1].content() == expected
    assert expected[0] == 0 and expected[512 << 10] == 1


@pytest.mark.differs("shows the base where the layer that is dropped had ended: the guest's zeroes are lost", server="qemu")
def test_layers_of_different_length(server, images):
    """What a short layer hides of a longer base below stays hidden."""
    base = images.create("base.qcow2", size=SIZE).fill((0, SIZE, 1))
    short = images.create("short.qcow2", size=2 * MB, backing=base)
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base.path, short.path)
    top = images.create("top.qcow2", size=SIZE, backing=short)
    expected = top.content()
    assert expected == bytes([1]) * (2 * MB) + bytes(2 * MB)
    server.add_image("top", top)
    server.block_stream(job_id="job", device="top", base=str(base.path))
    finish(server)
    server.stop()
    assert top.content() == expected


@pytest.mark.parametrize("streams", ["base", "all"])
def test_nothing_to_do(server, chain, streams):
    """The reply comes after all of it; the header is written all the same."""
    image = chain[-1] if streams == "base" else chain[0]
    server.add_image("top", image)
    arguments = {"base": str(chain[2].path), "backing-file": "another"} if streams == "base" else {}
    before = image.content(force_share=True) if streams == "all" else None
    server.execute("block-stream", {"job-id": "job", "device": "top", **arguments})
    data = finish(server)
    assert (data["len"], data["offset"]) == (0, 0)
    server.stop()
    if streams == "base":
        assert image.info()["backing-filename"] == "another"
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", chain[2].path, image.path)
        assert image.content() == content_of(chain)
    else:
        assert image.content() == before


def test_raw_has_nothing_to_bring_up(server, images):
    server.add_image("raw", images.create("disk.raw", "raw", "1M"))
    server.block_stream(job_id="job", device="raw")
    assert finish(server)["len"] == 0


# ---------------------------------------------------------------------- names in the image


def test_backing_file_is_what_the_client_says(server, nodes, chain):
    server.block_stream(job_id="job", device="top", base_node="n0", backing_file="base.qcow2")
    finish(server)
    server.stop()
    info = chain[-1].info()
    assert info["backing-filename"] == "base.qcow2" and info["backing-filename-format"] == "qcow2"
    assert chain[-1].content() == content_of(chain)


def test_relative_names(server, images, chain):
    """A base is found by the name by which the image above it calls it."""
    for layer, below in zip(chain[1:], chain):
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below.path.name, layer.path)
    server.add_image("top", chain[-1])
    error = server.error("block-stream", {"job-id": "job", "device": "top", "base": "nothing.qcow2"})
    assert error == "Can't find 'nothing.qcow2' in the backing chain"
    server.block_stream(job_id="job", device="top", base="one.qcow2")
    finish(server)
    server.stop()
    assert chain[-1].info()["backing-filename"] == str(chain[1].path)
    assert chain[-1].content() == content_of(chain)


def test_a_name_that_does_not_fit(server, nodes, chain):
    """The job fails at the end, and the chain stays whole."""
    server.block_stream(job_id="job", device="top", base_node="n0", backing_file="x" * 2000)
    data = server.finish_job("job")["data"]
    assert data["error"] == "Invalid argument" and data["offset"] == data["len"] == SIZE
    server.stop()
    assert chain[-1].info()["backing-filename"] == str(chain[2].path)
    assert chain[-1].content() == content_of(chain)


@pytest.mark.differs("has changed the link", server="qemu")
def test_link_and_name_change_together(server, nodes):
    server.block_stream(job_id="job", device="top", base_node="n0", backing_file="x" * 2000)
    assert server.finish_job("job")["data"]["error"] == "Invalid argument"
    assert backing_of(server, "top") == "n2"


def test_the_base_changes_meanwhile(server, nodes, chain):
    """What stands below at the end is what the image names: here another stream has put a filter over the base."""
    server.block_stream(job_id="job", device="top", base_node="n1", auto_finalize=False)
    server.wait_job("job", "pending")
    server.block_stream(job_id="other", device="n1", base_node="n0", filter_node_name="between", auto_finalize=False)
    server.wait_job("other", "pending")
    server.job_finalize(id="job")
    finish(server)
    assert backing_of(server, "top") == "between"
    server.job_finalize(id="other")
    finish(server, "other")
    assert backing_of(server, "top") == "n1"
    server.stop()
    assert chain[-1].info()["backing-filename"] == str(chain[1].path)


def test_read_only_storage_of_the_users_own(server, chain):
    """The job makes the image writable, not what the user keeps for reading."""
    server.execute("blockdev-add", {"driver": "file", "node-name": "file", "filename": str(chain[-1].path), "read-only": True})
    server.execute("blockdev-add", {"driver": "qcow2", "node-name": "top", "file": "file", "read-only": True})
    before = edges(server)
    assert server.error("block-stream", {"job-id": "job", "device": "top"}) == "Block node is read-only"
    assert edges(server) == before
    assert server.query_node("top")["ro"] is True


# ---------------------------------------------------------------------- filters


def test_over_and_under_filters(server, nodes, chain):
    server.object_add(qom_type="throttle-group", id="group")
    server.blockdev_del(node_name="top")
    server.execute("blockdev-add", {"driver": "throttle", "node-name": "below", "throttle-group": "group", "file": "n2",
                                    "read-only": True})
    add(server, "top", chain[-1], "below")
    server.execute("blockdev-add", {"driver": "throttle", "node-name": "above", "throttle-group": "group", "file": "top"})
    assert server.error("block-stream", {"job-id": "job", "device": "above", "bottom": "below"}) == (
        "Node 'below' is a filter, use a non-filter node as 'bottom'")
    server.block_stream(job_id="job", device="above", bottom="n2", filter_node_name="cor", auto_finalize=False)
    server.wait_job("job", "pending")
    assert edges(server, of="job") == [
        ("main node", "cor", [], ["consistent-read", "resize", "write", "write-unchanged"]),
        ("active node", "above", [], ["consistent-read", "write", "write-unchanged"]),
        ("intermediate node", "top", [], ["consistent-read", "write-unchanged"]),
        ("intermediate node", "below", [], ["consistent-read", "write-unchanged"]),
        ("intermediate node", "n2", [], ["consistent-read", "write-unchanged"]),
    ]
    server.job_finalize(id="job")
    finish(server)
    assert backing_of(server, "top") == "n1"
    server.stop()
    assert chain[-1].content() == content_of(chain)


def test_a_filter_as_base_stays(server, nodes, chain):
    server.object_add(qom_type="throttle-group", id="group")
    server.blockdev_del(node_name="top")
    server.execute("blockdev-add", {"driver": "throttle", "node-name": "below", "throttle-group": "group", "file": "n2",
                                    "read-only": True})
    add(server, "top", chain[-1], "below")
    server.block_stream(job_id="job", device="top", base_node="below")
    assert finish(server)["len"] == 0
    assert backing_of(server, "top") == "below"
    server.block_stream(job_id="job", device="top", base_node="n2")
    assert finish(server)["len"] == 0
    assert backing_of(server, "top") == "n2", "a filter above the base is dropped"


# ---------------------------------------------------------------------- the graph while it runs


def test_edges_of_a_running_job(server, nodes):
    before = server.x_debug_query_block_graph()
    server.block_stream(job_id="job", device="top", base_node="n0", filter_node_name="cor", auto_finalize=False)
    server.wait_job("job", "pending")
    everything = ["consistent-read", "resize", "write", "write-unchanged"]
    assert edges(server, of="job") == [
        ("main node", "cor", [], everything),
        ("active node", "top", [], ["consistent-read", "write", "write-unchanged"]),
        ("intermediate node", "n2", [], ["consistent-read", "write-unchanged"]),
        ("intermediate node", "n1", [], ["consistent-read", "write-unchanged"]),
    ]
    assert edges(server, of="cor") == [
        ("file", "top", ["consistent-read", "write-unchanged"], ["consistent-read", "write", "write-unchanged"])]
    reader = [edge for edge in edges(server, of="block-backend") if edge[1] == "cor"]
    assert reader == [("root", "cor", ["consistent-read"], ["consistent-read", "write", "write-unchanged"])]
    server.job_cancel(id="job")
    server.finish_job("job")
    assert server.x_debug_query_block_graph() == before


def test_a_filter_without_a_name_is_hidden(start, images):
    if start.manner == "daemon":
        pytest.skip("devices belong to machines")
    base = images.create("base.qcow2", size=SIZE).fill((0, MB, 1))
    top = images.create("top.qcow2", size=None, backing=base)
    server = start("-drive", f"if=none,id=drive0,file={top.path},format=qcow2")
    server.block_stream(device="drive0", auto_finalize=False)
    server.wait_job("drive0", "pending")
    inserted = server.query_block()[0]["inserted"]
    assert inserted["drv"] == "qcow2" and inserted["file"] == str(top.path)
    assert any(node["drv"] == "copy-on-read" for node in server.query_named_block_nodes())
    server.job_finalize(id="drive0")
    finish(server, "drive0")


# ---------------------------------------------------------------------- refusals


REFUSED = [
    ({"device": "nope", "base": "x", "base-node": "y"}, "'base' and 'base-node' cannot be specified at the same time"),
    ({"device": "nope", "base": "x", "bottom": "y"}, "'base' and 'bottom' cannot be specified at the same time"),
    ({"device": "nope", "base-node": "x", "bottom": "y"}, "'bottom' and 'base-node' cannot be specified at the same time"),
    ({"device": "nope", "base": "x"}, "Cannot find device='nope' nor node-name='nope'"),
    ({"device": "top", "base": "nope", "speed": -1}, "Can't find 'nope' in the backing chain"),
    ({"device": "top", "base-node": "nope"}, "Cannot find device='' nor node-name='nope'"),
    ({"device": "top", "base-node": "top"}, "Node 'top' is not a backing image of 'top'"),
    ({"device": "n1", "base-node": "n2"}, "Node 'n2' is not a backing image of 'n1'"),
    ({"device": "top", "bottom": "nope"}, "Cannot find device='' nor node-name='nope'"),
    ({"device": "n1", "bottom": "n2"}, "Node 'n2' is not in a chain starting from 'n1'"),
    ({"device": "top", "backing-file": "x"}, "backing file specified, but streaming the entire chain"),
    ({"device": "top", "bottom": "n2", "backing-file": "x"}, "backing file specified, but streaming the entire chain"),
    ({"device": "top", "filter-node-name": "n2"}, "Could not create node: Duplicate nodes with node-name='n2'"),
    ({"device": "top", "filter-node-name": "0", "job-id": "?"}, "Could not create node: Invalid node-name: '0'"),
    ({"device": "top", "job-id": "?", "speed": -1}, "Invalid job ID '?'"),
    ({"device": "top", "job-id": ""}, "Invalid job ID ''"),
    ({"device": "top", "speed": -1}, "Parameter 'speed' expects a non-negative value"),
]


@pytest.mark.parametrize("arguments, text", REFUSED, ids=[text for _, text in REFUSED])
def test_refused(server, nodes, arguments, text):
    before = server.x_debug_query_block_graph()
    assert server.error("block-stream", {"job-id": "job", **arguments}) == text
    assert server.x_debug_query_block_graph() == before
    assert server.query_jobs() == []


def test_no_id_and_no_device(server, nodes):
    assert server.error("block-stream", {"device": "top"}) == "Invalid job ID ''"


@pytest.mark.manners("system")
def test_a_job_that_is_held_does_not_end(start, images):
    """Also when all of its requests were under way, and have come back."""
    base = images.create("base.raw", "raw", "1M").fill((0, "1M", 5))
    top = images.create("top.qcow2", size=None, backing=base)
    server = start("-drive", f"if=none,id=d,driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename={top.path}")
    server.qemu_io("d", "break write_aio A")
    server.block_stream(job_id="s", device="d")
    server.qemu_io("d", "wait_break A")
    server.job_pause(id="s")
    server.qemu_io("d", "resume A")
    server.wait_job("s", "paused")
    (job,) = server.query_jobs()
    assert job["status"] == "paused"
    server.job_resume(id="s")
    server.finish_job("s")
    server.stop()
    assert top.content() == b"\5" * (1 << 20)


def test_a_stream_and_a_commit_that_overlap(server, images):
    """Filters of jobs count as nodes of the chain: that of a stream keeps a commit away, that of a commit a stream."""
    chain = [images.create("0.qcow2", size="4M")]
    for number in range(1, 6):
        chain.append(images.create(f"{number}.qcow2", size=None, backing=chain[-1]))
    # Something to do for both jobs.
    for number in (1, 2):
        chain[number].fill((0, "4M", number))
    options = {}
    for number, image in enumerate(chain):
        backing = {"backing": options} if options else {}
        options = {"driver": "qcow2", "node-name": f"n{number}", "file": {"driver": "file", "filename": str(image.path)}} | backing
    server.execute("blockdev-add", options)
    server.block_stream(job_id="s", device="n3", base_node="n1", filter_node_name="filter", speed=1)
    commit = {"job-id": "c", "device": "n5", "base-node": "n3"}
    assert server.error("block-commit", commit) == "Node 'filter' is busy: block device is in use by block job: stream"
    server.block_job_cancel(device="s")
    server.finish_job("s")

    server.block_commit(job_id="c", device="n5", top_node="n2", base_node="n0", filter_node_name="commit-filter", speed=1)
    stream = {"job-id": "s", "device": "n4", "base-node": "n2"}
    before = server.execute("x-debug-query-block-graph")
    assert server.error("block-stream", stream) == "Cannot freeze 'backing' link to 'commit-filter'"
    assert server.execute("x-debug-query-block-graph") == before
    server.block_job_cancel(device="c")
    server.finish_job("c")


def test_everything_below_the_job_is_busy(server, nodes):
    server.block_stream(job_id="job", device="top", base_node="n0", auto_finalize=False)
    server.wait_job("job", "pending")
    busy = "Node '{}' is busy: block device is in use by block job: stream"
    for node in ["top", "n2", "n1"]:
        assert server.error("block-stream", {"job-id": "other", "device": node}) == busy.format(node)
    assert server.error("blockdev-snapshot-sync", {"node-name": "top", "snapshot-file": "s", "snapshot-node-name": "s"}) == (
        busy.format("top"))
    assert server.error("blockdev-del", {"node-name": "top"}) == busy.format("top")
    server.job_cancel(id="job")
    server.finish_job("job")


def test_a_chain_that_another_filter_holds(server, nodes):
    server.execute("blockdev-add", {"driver": "copy-on-read", "node-name": "cor", "file": "top", "bottom": "n1"})
    assert server.error("block-stream", {"job-id": "job", "device": "top", "base-node": "n0"}) == (
        "Could not create node: Cannot change 'backing' link from 'top' to 'n2'")
    assert server.error("block-stream", {"job-id": "job", "device": "cor", "base-node": "n0"}) == (
        "Could not create node: Cannot change 'file' link from 'cor' to 'top'")
    server.blockdev_del(node_name="cor")
    server.block_stream(job_id="job", device="top", base_node="n0")
    finish(server)


# ---------------------------------------------------------------------- several at once


def test_two_streams_on_one_chain(server, chain):
    """They share no link, so they do not meet."""
    server.add_image("top", chain[-1])
    names = {node["file"]: node["node-name"] for node in server.query_named_block_nodes() if node["drv"] == "qcow2"}
    base, one, two = (names[str(layer.path)] for layer in chain[:3])
    server.block_stream(job_id="a", device="top", base_node=two, auto_finalize=False)
    server.block_stream(job_id="b", device=two, base_node=base, auto_finalize=False)
    server.wait_job("a", "pending")
    server.wait_job("b", "pending")
    server.job_finalize(id="b")
    finish(server, "b")
    server.job_finalize(id="a")
    finish(server, "a")
    assert backing_of(server, "top") == two and backing_of(server, two) == base
    server.stop()
    assert chain[-1].content() == content_of(chain)


# ---------------------------------------------------------------------- states


def test_progress_and_verbs(server, nodes, chain):
    """A slow job shows how far it came, and every verb works at every time."""
    server.block_stream(job_id="job", device="top", speed=1)
    server.wait_job("job", "running")
    info = server.query_block_jobs()[0]
    assert (info["type"], info["len"], info["speed"], info["io-status"]) == ("stream", SIZE, 1, "ok")
    server.job_pause(id="job")
    server.wait_job("job", "paused")
    assert server.error("job-complete", {"id": "job"}) == "Job 'job' in state 'paused' cannot accept command verb 'complete'"
    server.job_resume(id="job")
    server.wait_job("job", "running")
    server.block_job_set_speed(device="job", speed=0)
    assert finish(server)["speed"] == 0
    server.stop()
    assert chain[-1].content() == content_of(chain)


def wait_offset(server, offset):
    while server.query_block_jobs()[0]["offset"] != offset:
        pass


def test_speed_holds_before_the_rest(server, chain):
    """What was brought up is paid off before the job looks whether there is more, and there is not."""
    add(server, "n0", chain[0])
    add(server, "n1", chain[1], "n0")
    add(server, "top", chain[2], "n1")
    server.block_stream(job_id="job", device="top", base_node="n0", speed=1)
    # A MiB of n1 lies from 1 MiB on; a piece is half of one.
    for end, faster in (MB + MB // 2, 2), (2 * MB, 0):
        wait_offset(server, end)
        # A job that does not wait is at its end within a question or two. To ask for no more than it has is not to be let go.
        for _ in range(100):
            server.block_job_set_speed(device="job", speed=1)
            assert server.query_block_jobs()[0]["offset"] == end
        server.block_job_set_speed(device="job", speed=faster)
    finish(server)


@pytest.mark.parametrize("policy", ["stop", "report"])
def test_an_error_is_told_whatever_the_speed(server, chain, policy):
    """And to try again costs nothing."""
    add(server, "n0", chain[0])
    server.add_image("n1", chain[1], faults=[{"event": "read_aio", "once": True}], backing="n0")
    add(server, "top", chain[2], "n1")
    server.block_stream(job_id="job", device="top", base_node="n0", speed=1, on_error=policy)
    assert server.wait_event("BLOCK_JOB_ERROR")["data"] == {"device": "job", "operation": "read", "action": policy}
    if policy == "report":
        assert server.finish_job("job")["data"]["offset"] == MB
        return
    server.wait_job("job", "paused")
    assert server.query_block_jobs()[0]["io-status"] == "failed"
    server.block_job_resume(device="job")
    wait_offset(server, MB + MB // 2)
    server.block_job_set_speed(device="job", speed=0)
    finish(server)


@pytest.mark.parametrize("state", ["running", "paused", "pending"])
def test_cancel(server, nodes, chain, state):
    options = {"running": {"speed": 1}, "paused": {"speed": 1}, "pending": {"auto-finalize": False}}[state]
    server.execute("block-stream", {"job-id": "job", "device": "top", "base-node": "n0", **options})
    server.wait_job("job", "pending" if state == "pending" else "running")
    if state == "paused":
        server.job_pause(id="job")
        server.wait_job("job", "paused")
    server.job_cancel(id="job")
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    assert backing_of(server, "top") == "n2"
    server.stop()
    assert chain[-1].info()["backing-filename"] == str(chain[2].path)
    assert chain[-1].content() == content_of(chain)


@pytest.mark.parametrize("state", ["running", "paused", "pending", "concluded"])
def test_quit(server, nodes, chain, state):
    options = {"running": {"speed": 1}, "paused": {"speed": 1}, "pending": {"auto-finalize": False},
               "concluded": {"auto-dismiss": False}}[state]
    server.execute("block-stream", {"job-id": "job", "device": "top", "base-node": "n0", **options})
    server.wait_job("job", state if state in ("pending", "concluded") else "running")
    if state == "paused":
        server.job_pause(id="job")
    server.stop()
    assert chain[-1].content() == content_of(chain)


@pytest.mark.differs("a query of the nodes kills it", server="qemu")
def test_the_filter_of_a_concluded_job_is_gone(server, nodes):
    server.block_stream(job_id="job", device="top", base_node="n0", auto_dismiss=False, filter_node_name="filter")
    server.wait_job("job", "concluded")
    assert {"n0", "n1", "n2", "top"} <= server.node_names()
    assert "filter" not in server.node_names()
    server.job_dismiss(id="job")


# ---------------------------------------------------------------------- guests


def test_under_a_writing_guest(server, chain):
    server.add_image("top", chain[-1])
    expected = bytearray(content_of(chain))
    with server.export("top", writable=True) as nbd:
        server.block_stream(job_id="job", device="top", speed=4 * MB)
        for number in range(200):
            at = (number * 7919 * 512) % (SIZE - 8192)
            data = bytes([number % 250 + 5]) * (512 + number % 8 * 1024)
            nbd.pwrite(data, at)
            expected[at:at + len(data)] = data
        # The job may have ended before a slow guest.
        server.try_execute("block-job-set-speed", {"device": "job", "speed": 0})
        finish(server)
        assert nbd.pread(SIZE, 0) == expected
    server.stop()
    assert chain[-1].content() == expected
    chain[-1].check()


# ---------------------------------------------------------------------- errors


def broken(server, chain, rules, **options):
    """The top's backing file fails as the rules say."""
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "two", "read-only": True,
        "file": {"driver": "blkdebug", "inject-error": rules, "image": {"driver": "file", "filename": str(chain[2].path)}}})
    add(server, "top", chain[-1], "two")
    server.execute("block-stream", {"job-id": "job", "device": "top", **options})


ALWAYS = [{"event": "read_aio", "errno": 5, "immediately": False}]
ONCE = [{"event": "read_aio", "errno": 5, "immediately": False, "once": True}]


def test_error_is_reported(server, chain):
    broken(server, chain, ALWAYS)
    error = server.wait_event("BLOCK_JOB_ERROR")
    assert error["data"] == {"device": "job", "operation": "read", "action": "report"}
    data = server.finish_job("job")["data"]
    assert data["error"] == "Input/output error" and data["offset"] < SIZE
    assert backing_of(server, "top") == "two"


def test_error_is_ignored(server, chain):
    """The job goes on, and fails in the end: what could not be read is still needed below."""
    broken(server, chain, ONCE, **{"on-error": "ignore"})
    assert server.wait_event("BLOCK_JOB_ERROR")["data"]["action"] == "ignore"
    data = server.finish_job("job")["data"]
    assert data["error"] == "Input/output error" and data["offset"] == SIZE
    assert backing_of(server, "top") == "two"
    server.stop()
    assert chain[-1].content() == content_of(chain)


@pytest.mark.differs("tries again for ever", server="qemu")
def test_what_cannot_be_looked_up_is_left_out(server, chain):
    """In parts, as what cannot be read."""
    broken(server, chain, [{"event": "l2_load", "errno": 5}], **{"on-error": "ignore"})
    data = server.finish_job("job", timeout=5)["data"]
    assert data["error"] == "Input/output error" and data["offset"] == SIZE
    errors = [event["data"] for event in server.qmp.events("BLOCK_JOB_ERROR")]
    assert errors == [{"device": "job", "operation": "read", "action": "ignore"}] * (3 * MB // (512 << 10))
    assert backing_of(server, "top") == "two"
    server.stop()
    assert chain[-1].content() == content_of(chain)


@pytest.mark.parametrize("policy, errno, status", [("stop", 5, "failed"), ("stop", 28, "nospace"), ("enospc", 28, "nospace")])
def test_error_stops(server, chain, policy, errno, status):
    broken(server, chain, [{**ONCE[0], "errno": errno}], **{"on-error": policy})
    assert server.wait_event("BLOCK_JOB_ERROR")["data"]["action"] == "stop"
    server.wait_job("job", "paused")
    info = server.query_block_jobs()[0]
    assert info["io-status"] == status and info["paused"] is True
    server.job_resume(id="job")
    finish(server)
    server.stop()
    assert chain[-1].content() == content_of(chain)


def test_enospc_reports_other_errors(server, chain):
    broken(server, chain, ALWAYS, **{"on-error": "enospc"})
    assert server.wait_event("BLOCK_JOB_ERROR")["data"]["action"] == "report"
    assert server.finish_job("job")["data"]["error"] == "Input/output error"


# ---------------------------------------------------------------------- the human monitor


@pytest.mark.manners("system")
def test_human_commands(server, chain):
    server.add_image("top", chain[-1])

    def says(line):
        return server.hmp(line).replace("\r", "")

    assert says("block_stream nope") == "Error: Cannot find device='nope' nor node-name='nope'\n"
    assert says("block_stream top 1 nope") == "Error: Can't find 'nope' in the backing chain\n"
    assert says("block_stream top x").startswith("invalid size")
    for verb in ["pause", "resume", "complete", "cancel", "cancel -f"]:
        line = "block_job_{} nope".format(verb) if verb != "cancel -f" else "block_job_cancel -f nope"
        assert says(line) == "Error: Block job 'nope' not found\n"
    assert says(f"block_stream top 0.000001 {chain[0].path}") == ""
    server.wait_job("top", "running")
    assert says("info block-jobs").startswith("Streaming device top: Completed ")
    assert says("block_job_pause top") == ""
    assert says("block_job_resume top") == ""
    assert says("block_job_set_speed top 0") == ""
    assert finish(server, "top")["offset"] == SIZE
    assert says("snapshot_blkdev nope") == says("snapshot_blkdev top") == "Error: Parameter 'snapshot-file' is missing\n"
    assert says("snapshot_blkdev top f") == "Error: Cannot find device='top' nor node-name=''\n"
    assert says("snapshot_blkdev_internal top one") == ""
    assert says("snapshot_delete_blkdev_internal top two") == (
        "Error: Snapshot with id 'null' and name 'two' does not exist on device 'top'\n")
    assert says("snapshot_delete_blkdev_internal top one 1") == ""


def test_down_to_a_quorum(server, images):
    """A quorum is a disk of its own, not a filter: a chain may stand on it, and be streamed down to it or from it."""
    for index in range(2):
        server.add_image(f"copy{index}", images.create(f"copy{index}.qcow2", size="1M").fill((0, "1M", 7)))
    server.execute("blockdev-add", {"driver": "quorum", "node-name": "base", "vote-threshold": 1, "children": ["copy0", "copy1"]})
    overlay = images.create("overlay.qcow2", size="1M").fill(("512k", "64k", 8))
    server.add_image("top", overlay, backing="base")
    server.block_stream(job_id="job", device="top", base_node="base")
    server.finish_job("job")
    for arguments in ({"bottom": "base"}, {}):
        assert server.error("block-stream", device="top", job_id="job", speed=-1, **arguments) == (
            "Parameter 'speed' expects a non-negative value")
    server.block_stream(job_id="job", device="top")
    server.finish_job("job")
    server.blockdev_del(node_name="base")
    server.stop()
    overlay.check()
    assert overlay.content() == b"\7" * (512 << 10) + b"\x08" * (64 << 10) + b"\7" * (448 << 10)


@pytest.mark.differs("what lies below a raw node over an image with a backing file is lost", server="qemu")
@pytest.mark.parametrize("between", ["raw", "filter below raw", "two raw", "stream below raw"])
def test_a_raw_node_in_the_chain(server, images, chain, nodes, between):
    """It is the end of its chain, and yet shows what the image in it has from its backing files."""
    below = "top"
    if between == "filter below raw":
        server.blockdev_add(driver="copy-on-read", node_name="filter", file="top")
        below = "filter"
    if between == "two raw":
        server.blockdev_add(driver="raw", node_name="inner", file="top", size=SIZE)
        below = "inner"
    server.blockdev_add(driver="raw", node_name="raw", file=below)
    if between == "stream below raw":
        server.block_stream(job_id="slow", device="top", speed=1)
    overlay = images.create("overlay.qcow2", size=SIZE)
    add(server, "overlay", overlay, "raw")
    server.block_stream(job_id="job", device="overlay")
    ended = server.wait_event("BLOCK_JOB_COMPLETED", {"device": "job"})["data"]
    assert "error" not in ended
    with server.export("overlay") as nbd:
        assert nbd.read_all() == content_of(chain)
