"""block-commit: what the base holds, which images are left in the chain, and what is refused."""

import pytest

from blockbed_iotests import History

SIZE = 4 << 20


@pytest.fixture
def chain(images):
    """Four layers, `layer0` to `layer3`, each with something of its own; the images, from below."""
    layers = [images.create("layer0.qcow2", size=SIZE).fill((0, "2M", 1))]
    for number in (1, 2, 3):
        layer = images.create(f"layer{number}.qcow2", size=None, backing=layers[-1])
        layers.append(layer.fill((f"{number * 64}k", "64k", number + 1), (f"{number}M", "192k", number + 1)))
    layers[2].io("write -z 512k 128k")
    return layers


@pytest.fixture
def content(chain):
    return chain[-1].content()


def open_chain(server, chain, below_layer0=None, faults=None):
    """The nodes have the names of the layers. What is below the lowest may be given, as a node that is there already.

    `faults` has for a layer what is to fail in its file.
    """
    options = None
    for number, layer in enumerate(chain):
        options = {
            "driver": layer.format, "node-name": f"layer{number}",
            "file": {"driver": "file", "filename": str(layer.path)},
            "backing": options,
        }
        if number in (faults or {}):
            options["file"] = {"driver": "blkdebug", "image": options["file"], "inject-error": [faults[number]]}
        if number == 0 and below_layer0 is not None:
            options["file"] = below_layer0
        # As a `backing` of options, QEMU takes only a file that has a name.
        if "filename" not in options["file"] and number + 1 < len(chain):
            server.execute("blockdev-add", options)
            options = options["node-name"]
    server.execute("blockdev-add", options)


def backing_of(server, node):
    entry = server.query_node(node)
    return entry.get("backing_file")


def ended_well(server, job="job"):
    ended = server.finish_job(job)
    assert ended["event"] == "BLOCK_JOB_COMPLETED" and "error" not in ended["data"], ended
    return ended["data"]


@pytest.mark.parametrize("top, base", [(1, 0), (2, 1), (2, 0)])
def test_layers_in_the_middle(server, chain, content, top, base):
    """The base shows what the top showed, and the image above names it."""
    open_chain(server, chain)
    expected = chain[top].content(force_share=True)
    server.block_commit(job_id="job", device="layer3", top_node=f"layer{top}", base_node=f"layer{base}")
    data = ended_well(server)
    assert data == {"device": "job", "len": SIZE, "offset": SIZE, "speed": 0, "type": "commit"}
    assert server.job_states("job") == ["created", "running", "waiting", "pending", "concluded", "null"]
    assert backing_of(server, f"layer{top + 1}") == str(chain[base])
    assert server.query_node(f"layer{base}")["ro"]
    gone = {f"layer{number}" for number in range(base + 1, top + 1)}
    assert not gone & server.node_names()
    server.stop()
    assert chain[base].content() == expected
    assert chain[top + 1].info()["backing-filename"] == str(chain[base])
    assert chain[-1].content() == content
    for image in (chain[-1], chain[base]):
        image.check()


@pytest.mark.manners("system")
@pytest.mark.differs("the base is not flushed", server="qemu")
def test_a_guest_goes_on_while_the_base_is_made_durable(server, chain):
    storage = {"driver": "blkdebug", "image": {"driver": "file", "filename": str(chain[0].path)}}
    open_chain(server, chain, below_layer0=storage)
    server.qemu_io("layer0", "break flush_to_disk A")
    server.block_commit(job_id="job", device="layer3", top_node="layer2", base_node="layer0")
    server.qemu_io("layer0", "wait_break A")
    assert server.qemu_io("layer3", "write -P 9 3M 64k").startswith("wrote 65536/65536")
    server.qemu_io("layer0", "resume A")
    ended_well(server)


def test_the_name_in_the_image_above(server, chain, content):
    open_chain(server, chain)
    server.block_commit(job_id="job", device="layer3", top_node="layer2", base_node="layer1", backing_file="./layer1.qcow2")
    ended_well(server)
    server.stop()
    assert chain[3].info()["backing-filename"] == "./layer1.qcow2"
    assert chain[3].content() == content


@pytest.mark.parametrize("options", [{"cluster_size": 4096}, {"extended_l2": "on"}], ids=str)
def test_nothing_but_what_the_layer_holds_is_written(server, images, options, at=2048000, length=4096):
    """Its clusters are smaller than those of the base."""
    base = images.create("layer0.qcow2", size=SIZE)
    middle = images.create("layer1.qcow2", size=None, backing=base, **options).fill((at, length, 5))
    open_chain(server, [base, middle, images.create("layer2.qcow2", size=None, backing=middle)])
    server.block_dirty_bitmap_add(node="layer0", name="b", granularity=512)
    server.block_commit(job_id="job", device="layer2", top_node="layer1", base_node="layer0")
    ended_well(server)
    (bitmap,) = server.query_node("layer0")["dirty-bitmaps"]
    assert bitmap["count"] == length
    server.stop()
    base.read(at, length, 5)


def test_active_layer(server, chain, content):
    """The topmost image leaves when the job is completed; who used it uses the base."""
    open_chain(server, chain)
    server.block_commit(job_id="job", device="layer3", base_node="layer0")
    server.wait_event("BLOCK_JOB_READY", {"device": "job"})
    assert not server.query_node("layer0")["ro"]
    (left,) = server.query_node("layer3")["dirty-bitmaps"]
    assert left == {"recording": True, "persistent": False, "busy": False, "granularity": 65536, "count": 0}
    server.block_job_complete(device="job")
    ended_well(server)
    assert server.job_states("job") == ["created", "running", "ready", "waiting", "pending", "concluded", "null"]
    server.stop()
    assert chain[0].content() == content
    chain[0].check()


@pytest.mark.parametrize("base", [0, 2])
def test_active_layer_under_a_guest(server, chain, base):
    open_chain(server, chain)
    history = History({"disk": chain[3].content(force_share=True)})
    with server.export("layer3", writable=True) as nbd, history.writer({"disk": nbd}, seed=3) as guest:
        guest.wait_writes(5)
        server.block_commit(job_id="job", device="layer3", base_node=f"layer{base}")
        server.wait_event("BLOCK_JOB_READY", {"device": "job"})
        guest.wait_writes(20)
        server.block_job_complete(device="job")
        ended_well(server)
        guest.wait_writes(20)
    server.stop()
    assert chain[base].content() == history.now()["disk"]
    chain[base].check()


def test_middle_under_a_guest(server, chain):
    open_chain(server, chain)
    history = History({"disk": chain[3].content(force_share=True)})
    with server.export("layer3", writable=True) as nbd, history.writer({"disk": nbd}, seed=4) as guest:
        guest.wait_writes(5)
        server.block_commit(job_id="job", device="layer3", top_node="layer2", base_node="layer0", speed=1 << 20)
        guest.wait_writes(20)
        server.block_job_set_speed(device="job", speed=0)
        ended_well(server)
        guest.wait_writes(20)
    server.stop()
    assert chain[3].content() == history.now()["disk"]
    chain[3].check()


def test_base_grows(server, images):
    """A base that is shorter than the layers above it is as long as they are afterwards."""
    base = images.create("layer0.qcow2", size="2M").fill((0, "2M", 1))
    mid = images.create("layer1.qcow2", size="4M", backing=base).fill(("3M", "64k", 2))
    top = images.create("layer2.qcow2", size="4M", backing=mid)
    open_chain(server, [base, mid, top])
    server.block_commit(job_id="job", device="layer2", top_node="layer1")
    ended_well(server)
    server.stop()
    assert base.info()["virtual-size"] == SIZE
    top.read(0, "2M", 1)
    top.read("2M", "1M", 0)
    top.read("3M", "64k", 2)


@pytest.mark.parametrize("top", [1, 3])
def test_a_filter_over_the_base_holds_nothing(server, chain, content, top):
    """What it shows is the base's: reading that would take months here."""
    server.object_add({"qom-type": "throttle-group", "id": "g", "limits": {"bps-read": 1}})
    server.execute("blockdev-add", {
        "driver": "throttle", "node-name": "t", "throttle-group": "g",
        "file": {"driver": "qcow2", "node-name": "layer0", "file": {"driver": "file", "filename": str(chain[0].path)}}})
    below = "t"
    for number in (1, 2, 3):
        server.execute("blockdev-add", {
            "driver": "qcow2", "node-name": f"layer{number}", "backing": below,
            "file": {"driver": "file", "filename": str(chain[number].path)}})
        below = f"layer{number}"
    server.block_commit(job_id="job", device="layer3", top_node=f"layer{top}", base_node="layer0")
    if top == 3:
        server.wait_event("BLOCK_JOB_READY", {"device": "job"})
        server.block_job_complete(device="job")
    ended_well(server)
    server.stop()
    assert chain[0 if top == 3 else 3].content() == content


@pytest.mark.parametrize("top", ["middle", "active"])
def test_what_no_node_between_shows_any_more(server, chain, top):
    """Filters over the base show what it holds; those between layers show what is on its way."""
    server.object_add(qom_type="throttle-group", id="tg")
    node = "base"
    server.add_image("base", chain[0], read_only=True)
    for name, layer in (("over_base", None), ("mid", chain[1]), ("over_mid", None), ("disk", chain[2])):
        if layer is None:
            server.blockdev_add(driver="throttle", node_name=name, throttle_group="tg", file=node)
        else:
            server.blockdev_add(driver="qcow2", node_name=name, backing=node, file={"driver": "file", "filename": str(layer.path)})
        node = name
    arguments = {"top_node": "over_mid"} if top == "middle" else {}
    server.block_commit(job_id="job", device="disk", base_node="base", auto_finalize=False, **arguments)
    server.wait_event(*(("BLOCK_JOB_READY", {"device": "job"}) if top == "active" else ("BLOCK_JOB_PENDING", {"id": "job"})))
    graph = server.execute("x-debug-query-block-graph")
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    shared = {names[edge["child"]]: "consistent-read" in edge["shared-perm"]
              for edge in graph["edges"] if edge["name"] == "intermediate node"}
    between = {"over_mid": False, "mid": False, "over_base": True}
    assert shared == between
    server.nbd_start()
    assert server.error("block-export-add", {"id": "x", "type": "nbd", "node-name": "over_mid"}) == (
        "Permission conflict on node 'over_mid': permissions 'consistent read' are both required by an unnamed block "
        "device (uses node 'over_mid' as 'root' child) and unshared by commit job 'job' (uses node 'over_mid' as "
        "'intermediate node' child).")
    server.block_job_cancel(device="job", force=True)


@pytest.mark.differs("the base stays writable", server="qemu")
def test_the_base_of_a_cancelled_active_commit_is_read_only_again(server, chain):
    open_chain(server, chain)
    server.block_commit(job_id="job", device="layer3", base_node="layer0")
    server.wait_event("BLOCK_JOB_READY", {"device": "job"})
    server.block_job_cancel(device="job", force=True)
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    assert server.query_node("layer0")["ro"]


@pytest.mark.parametrize("side, number, event", [("read", 2, "read_aio"), ("write", 0, "write_aio")], ids=["source", "target"])
@pytest.mark.parametrize("active", [False, True], ids=["middle", "active"])
@pytest.mark.parametrize("policy, errno, action, io_status", [
    ("report", 5, "report", None),
    ("ignore", 5, "ignore", "ok"),
    ("stop", 5, "stop", "failed"),
    ("enospc", 28, "stop", "nospace"),
    ("enospc", 5, "report", None),
])
def test_error(server, chain, content, side, number, event, active, policy, errno, action, io_status):
    """One request fails once. Only `report` ends the job; in all other cases what failed is tried again."""
    open_chain(server, chain, faults={number: {"event": event, "once": True, "errno": errno}})
    below = {} if active else {"top_node": "layer2"}
    expected = chain[3 if active else 2].content(force_share=True)
    server.block_commit(job_id="job", device="layer3", base_node="layer0", on_error=policy, **below)
    error = server.wait_event("BLOCK_JOB_ERROR", {"device": "job"})["data"]
    assert error == {"device": "job", "operation": side, "action": action}
    if action == "report":
        ended = server.finish_job("job")
        assert ended["event"] == "BLOCK_JOB_COMPLETED"
        assert ended["data"]["error"] == ("No space left on device" if errno == 28 else "Input/output error")
        assert {f"layer{layer}" for layer in range(4)} <= server.node_names()
        server.stop()
        assert chain[-1].content() == content
        return
    if action == "stop":
        server.wait_job("job", "paused")
        info = server.query_block_jobs()[0]
        assert (info["io-status"], info["paused"]) == (io_status, True)
        server.block_job_resume(device="job")
    if active:
        server.wait_event("BLOCK_JOB_READY", {"device": "job"})
        assert server.query_block_jobs()[0]["io-status"] == "ok"
        server.block_job_complete(device="job")
    ended_well(server)
    server.stop()
    assert chain[0].content() == expected
    chain[0].check()


def test_cancel_leaves_the_chain(server, chain, content):
    open_chain(server, chain)
    before = {node: backing_of(server, node) for node in ("layer1", "layer2", "layer3")}
    server.block_commit(job_id="job", device="layer3", top_node="layer2", speed=1)
    server.block_job_cancel(device="job")
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"
    assert {node: backing_of(server, node) for node in before} == before
    assert server.query_node("layer0")["ro"]
    server.stop()
    assert chain[3].content() == content


@pytest.mark.parametrize("command", ["block-commit", "block-stream"])
@pytest.mark.parametrize("stored", ["base.qcow2", "./base.qcow2", "x/../base.qcow2", "DIR/base.qcow2", "file:DIR/base.qcow2"])
def test_a_base_by_its_name(server, images, command, stored):
    """Seen from the image that names it, however a path is spelled; a name with a protocol is that name only."""
    directory = str(images.dir)
    stored = stored.replace("DIR", directory)
    (images.dir / "x").mkdir()
    images.create("base.qcow2", size="1M")
    mid = images.create("mid.qcow2", size="1M", backing_file=stored, backing_fmt="qcow2")
    top = images.create("top.qcow2", size=None, backing=mid)
    server.add_image("top", top)
    paths = {"base.qcow2", "./base.qcow2", f"{directory}/base.qcow2", f"{directory}/./base.qcow2", f"{directory}/x/../base.qcow2"}
    expected = {stored} if stored.startswith("file:") else paths
    names = paths | {f"file:{directory}/base.qcow2", "x/base.qcow2", "base"}
    # The speed makes no sense: whoever finds the base complains of that, and nothing begins.
    found = set()
    for name in names:
        arguments = {"job-id": "job", "device": "top", "base": name, "speed": -1} | ({"top": str(mid)} if command == "block-commit" else {})
        text = server.error(command, arguments)
        if text == f"Can't find '{name}' in the backing chain":
            continue
        assert text == "Parameter 'speed' expects a non-negative value"
        found.add(name)
    assert found == expected


REFUSED = {
    "device": ({"device": "none"}, "Device 'none' not found"),
    "not the root": ({"device": "layer2"}, "Need a root block node"),
    "top file": ({"top": "none"}, "Top image file none not found"),
    "top node": ({"top_node": "none"}, "Cannot find device='' nor node-name='none'"),
    "two tops": ({"top": "a", "top_node": "layer1"}, "'top-node' and 'top' are mutually exclusive"),
    "two bases": ({"base": "a", "base_node": "layer1"}, "'base-node' and 'base' are mutually exclusive"),
    "base file": ({"base": "none"}, "Can't find 'none' in the backing chain"),
    "base node": ({"base_node": "none"}, "Cannot find device='' nor node-name='none'"),
    "other top": ({"top_node": "other"}, "'other' is not in this backing file chain"),
    "other base": ({"base_node": "other"}, "'other' is not in this backing file chain"),
    "itself": ({"top_node": "layer1", "base_node": "layer1"}, "cannot commit an image into itself"),
    "no base": ({"top_node": "layer0"}, "cannot commit an image into itself"),
    "upwards": ({"top_node": "layer0", "base_node": "layer1"}, "'layer1' is not in this backing file chain"),
    "backing file": ({"backing_file": "x"}, "'backing-file' specified, but 'top' is the active layer"),
    "speed": ({"speed": -1}, "Parameter 'speed' expects a non-negative value"),
    "speed in the middle": ({"speed": -1, "top_node": "layer1"}, "Parameter 'speed' expects a non-negative value"),
    "filter": ({"filter_node_name": "layer0"}, "Duplicate nodes with node-name='layer0'"),
    "filter in the middle": ({"filter_node_name": "layer0", "top_node": "layer1"}, "Duplicate nodes with node-name='layer0'"),
    "job": ({"job_id": "1"}, "Invalid job ID '1'"),
}


def test_refused(server, images, chain):
    """Nothing is left behind by any of them."""
    open_chain(server, chain)
    server.add_image("other", images.create("other.qcow2", size=SIZE))
    before = server.execute("x-debug-query-block-graph")["edges"]
    wrong = {}
    for name, (arguments, text) in REFUSED.items():
        found = server.error("block-commit", {"job-id": "job", "device": "layer3"} | {
            key.replace("_", "-"): value for key, value in arguments.items()})
        if not found.endswith(text):
            wrong[name] = found
    assert not wrong
    after = server.execute("x-debug-query-block-graph")["edges"]
    assert len(after) == len(before)
    assert server.query_jobs() == []


FILTERED = {
    "over the disk": (["layer0", "layer1", "filter", "above"], "filter", "layer1", "Can't mirror node into itself"),
    "two filters": (["layer0", "layer1", "filter", "above"], "above", "filter", "Can't mirror node into itself"),
    "in the middle": (["layer0", "filter", "above", "layer1"], "above", "layer0",
                      "Invalid files for merge: top and base are the same"),
    "the filter itself": (["layer0", "filter", "above", "layer1"], "filter", "filter",
                          "cannot commit an image into itself"),
}


@pytest.mark.parametrize("chain_of, top, base, text", FILTERED.values(), ids=FILTERED)
def test_a_filter_is_no_layer(server, chain, chain_of, top, base, text):
    below = None
    for name in chain_of:
        if name.startswith("layer"):
            path = str(chain[int(name.removeprefix("layer"))].path)
            server.blockdev_add({
                "driver": "qcow2", "node-name": name, "file": {"driver": "file", "filename": path}, "backing": below})
        else:
            server.blockdev_add(driver="copy-on-read", node_name=name, file=below)
        below = name
    assert server.error("block-commit", job_id="job", device=below, top_node=top, base_node=base) == text
    assert server.query_node("layer0")["ro"] is False


@pytest.mark.manners("system")
def test_a_disk_that_goes_with_its_device(start, chain):
    """Its job is cancelled."""
    server = start(
        "-machine", "q35", "-device", "virtio-scsi-pci,id=scsi",
        "-drive", f"if=none,id=drive,node-name=layer3,format=qcow2,file={chain[3]},backing.node-name=layer2",
        "-device", "scsi-hd,id=disk,drive=drive,bus=scsi.0")
    server.block_commit(job_id="job", device="drive", top_node="layer2", speed=1)
    server.device_del(id="disk")
    assert server.finish_job("job")["event"] == "BLOCK_JOB_CANCELLED"


def test_two_images_above(server, images, chain, content):
    """Both stand on the base afterwards, and say so."""
    other = images.create("other.qcow2", size=None, backing=chain[2]).fill((0, "64k", 9))
    before = other.content()
    open_chain(server, chain)
    server.execute("blockdev-add", {
        "driver": "qcow2", "node-name": "other", "backing": "layer2", "file": {"driver": "file", "filename": str(other.path)}})
    server.block_commit(job_id="job", device="layer3", top_node="layer2", base_node="layer1")
    ended_well(server)
    server.stop()
    for image, shown in ((chain[3], content), (other, before)):
        assert image.info()["backing-filename"] == str(chain[1])
        assert image.content() == shown
