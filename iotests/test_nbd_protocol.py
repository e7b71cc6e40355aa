"""The NBD protocol by raw sockets: what the server offers, how it answers, and what it does with garbage."""

import contextlib
import os
import random
import struct

import pytest

from blockbed_iotests import RawNbd
from blockbed_iotests import nbd as proto

SIZE = 1 << 20


@pytest.fixture
def exported(server, images):
    """A writable export `w`, a read-only one `r`, both of the same raw disk; the path of the server's socket."""
    disk = images.at("disk.raw", "raw")
    disk.path.touch()
    os.truncate(disk.path, SIZE)
    disk.fill(("64k", "64k", 0x55))
    server.add_image("n", disk, discard="unmap")
    server.nbd_start()
    for name in ("w", "r"):
        server.block_export_add(type="nbd", id=name, node_name="n", name=name, writable=name == "w")
    return server.nbd_path


def alive(server):
    """The server answers its monitor and a new client."""
    server.poll()
    with server.nbd("w") as nbd:
        assert nbd.pread(512, 65536) == b"\x55" * 512


# ---------------------------------------------------------------------- negotiation


def test_greeting(exported):
    with RawNbd(exported) as client:
        assert client.hello() == proto.FLAG_FIXED_NEWSTYLE | proto.FLAG_NO_ZEROES


def test_go(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.go("w")
        assert client.size == SIZE
        # has flags, flush, FUA, trim, write zeroes, DF not (no structured replies), multi-conn, cache, fast zero
        assert client.flags & 1
        for bit in (2, 3, 5, 6, 10, 11):
            assert client.flags & (1 << bit), bit
        assert not client.flags & 2, "writable"


def test_flags_of_a_read_only_export(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.go("r")
        assert client.flags & 2
        assert client.flags & (1 << 8), "many clients may read"


def test_info_does_not_enter_transmission(exported):
    with RawNbd(exported) as client:
        client.hello()
        for _ in range(3):
            client.option(proto.OPT_INFO, client.go_data("w"))
            assert client.option_replies()[-1].type == proto.REP_ACK
        client.go("w")


def test_block_sizes(exported):
    """Minimum 1, preferred 4096, at most 32 MiB, when the client asks for it."""
    with RawNbd(exported) as client:
        client.hello()
        replies = client.go("w", proto.INFO_BLOCK_SIZE, proto.INFO_NAME)
        infos = {struct.unpack_from(">H", reply.data)[0]: reply.data[2:] for reply in replies[:-1]}
        assert struct.unpack(">III", infos[proto.INFO_BLOCK_SIZE]) == (1, 4096, 32 << 20)
        assert infos[proto.INFO_NAME] == b"w"


def test_description(server, exported):
    server.block_export_add(type="nbd", id="d", node_name="n", name="d", description="what it is")
    with RawNbd(exported) as client:
        client.hello()
        replies = client.go("d", proto.INFO_DESCRIPTION)
        infos = {struct.unpack_from(">H", reply.data)[0]: reply.data[2:] for reply in replies[:-1]}
        assert infos[proto.INFO_DESCRIPTION] == b"what it is"


def test_list(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.option(proto.OPT_LIST)
        replies = client.option_replies()
        assert replies[-1].type == proto.REP_ACK
        names = set()
        for reply in replies[:-1]:
            assert reply.type == proto.REP_SERVER
            (length,) = struct.unpack_from(">I", reply.data)
            names.add(reply.data[4 : 4 + length])
        assert names == {b"r", b"w"}


@pytest.mark.parametrize("no_zeroes", [True, False])
def test_export_name(exported, no_zeroes):
    """The oldest way in: no reply but the size, and 124 zeroes unless both agreed on none."""
    with RawNbd(exported) as client:
        client.hello(proto.FLAG_FIXED_NEWSTYLE | (proto.FLAG_NO_ZEROES if no_zeroes else 0))
        client.option(proto.OPT_EXPORT_NAME, b"w")
        size, flags = struct.unpack(">QH", client.recv(10))
        assert size == SIZE and flags & 1
        if not no_zeroes:
            assert client.recv(124) == bytes(124)
        client.request(proto.CMD_READ, 65536, 512)
        assert client.simple_reply(512) == (0, 1, b"\x55" * 512)


def test_unknown_export(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.option(proto.OPT_GO, client.go_data("nope"))
        assert client.option_replies()[-1].type == proto.REP_ERR_UNKNOWN
        client.go("w")


def test_unknown_export_name_ends_the_connection(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.option(proto.OPT_EXPORT_NAME, b"nope")
        assert client.at_eof()


@pytest.mark.parametrize("option", [4, 11, 99, 0xFFFFFFFF])
def test_unknown_option(exported, option):
    with RawNbd(exported) as client:
        client.hello()
        client.option(option, b"some data")
        assert client.option_reply().type == proto.REP_ERR_UNSUP
        client.go("w")


def test_starttls_without_tls(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.option(proto.OPT_STARTTLS)
        assert client.option_reply().type == proto.REP_ERR_POLICY
        client.go("w")


def test_abort(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.option(proto.OPT_ABORT)
        assert client.option_reply().type == proto.REP_ACK
        assert client.at_eof()


@pytest.mark.parametrize(
    "option, data, reply",
    [
        (proto.OPT_LIST, b"x", proto.REP_ERR_INVALID),
        (proto.OPT_STRUCTURED_REPLY, b"x", proto.REP_ERR_INVALID),
        (proto.OPT_GO, b"", proto.REP_ERR_INVALID),
        (proto.OPT_GO, struct.pack(">I", 100) + b"w", proto.REP_ERR_INVALID),
        (proto.OPT_GO, struct.pack(">I", 0xFFFFFFFF) + b"w", proto.REP_ERR_INVALID),
        (proto.OPT_GO, struct.pack(">I", 1) + b"w", proto.REP_ERR_INVALID),
        (proto.OPT_GO, struct.pack(">I", 1) + b"w" + struct.pack(">H", 5), proto.REP_ERR_INVALID),
        (proto.OPT_GO, struct.pack(">I", 1) + b"w" + struct.pack(">H", 0) + b"more", proto.REP_ERR_INVALID),
        (proto.OPT_INFO, b"\0\0\0", proto.REP_ERR_INVALID),
        (proto.OPT_SET_META_CONTEXT, RawNbd.meta_data("w", "base:allocation"), proto.REP_ERR_INVALID),
    ],
)
def test_malformed_options(exported, option, data, reply):
    """An answer, and the negotiation goes on."""
    with RawNbd(exported) as client:
        client.hello()
        client.option(option, data)
        assert client.option_replies()[-1].type == reply
        client.go("w")


def test_too_long_names(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.option(proto.OPT_GO, client.go_data("x" * 4097))
        assert client.option_replies()[-1].type in (proto.REP_ERR_INVALID, proto.REP_ERR_TOO_BIG)
        client.go("w")


def abusive_openings():
    """What no client sends: each must end the connection or be answered, and hurt nobody else."""
    option = struct.pack(">QII", proto.IHAVEOPT, proto.OPT_GO, 0)
    return {
        "nothing": b"",
        "client flags only": struct.pack(">I", 3),
        "unknown client flags": struct.pack(">I", 0xFFFFFFFF),
        "not fixed newstyle": struct.pack(">I", 0) + struct.pack(">QII", proto.IHAVEOPT, proto.OPT_LIST, 0),
        "wrong magic": struct.pack(">I", 3) + b"\0" * 16,
        "half an option": struct.pack(">I", 3) + option[:7],
        "option of 4 GiB": struct.pack(">I", 3) + struct.pack(">QII", proto.IHAVEOPT, proto.OPT_GO, 0xFFFFFFFF) + b"x" * 1000,
        "option of 33 MiB": struct.pack(">I", 3) + struct.pack(">QII", proto.IHAVEOPT, proto.OPT_LIST, 33 << 20) + b"x" * 1000,
        "announced and missing": struct.pack(">I", 3) + struct.pack(">QII", proto.IHAVEOPT, proto.OPT_GO, 100) + b"x" * 50,
        "text": b"GET / HTTP/1.0\r\n\r\n" * 10,
        "all ones": b"\xff" * 4096,
    }


@pytest.mark.parametrize("name", abusive_openings())
def test_abusive_opening(server, exported, name):
    data = abusive_openings()[name]
    with RawNbd(exported) as client:
        client.hello(None)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(data)
        alive(server)
    alive(server)


def test_a_client_that_says_nothing_holds_up_nobody(server, exported):
    with RawNbd(exported), RawNbd(exported):
        alive(server)


def test_many_clients(server, exported):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.nbd("r")) for _ in range(50)]
        for client in clients:
            assert client.pread(512, 65536) == b"\x55" * 512


def test_max_connections(server, images):
    """Clients beyond the limit wait until one leaves."""
    server.add_image("n", images.create("disk.raw", "raw", SIZE))
    server.nbd_start(max_connections=1)
    server.block_export_add(type="nbd", id="e", node_name="n", name="e")
    first = RawNbd(server.nbd_path)
    first.hello()
    second = RawNbd(server.nbd_path, timeout=0.2)
    with pytest.raises(TimeoutError):
        second.hello()
    first.close()
    second.sock.settimeout(20)
    second.hello()
    second.go("e")
    second.close()


# ---------------------------------------------------------------------- simple replies


def test_read_and_write(exported):
    with RawNbd.connected(exported, "w") as client:
        client.request(proto.CMD_WRITE, 100, 5, b"hello", handle=7)
        assert client.simple_reply() == (0, 7, b"")
        client.request(proto.CMD_READ, 99, 7, handle=8)
        assert client.simple_reply(7) == (0, 8, b"\0hello\0")


def test_any_handle_comes_back(exported):
    with RawNbd.connected(exported, "w") as client:
        for handle in (0, 1, 0xFFFFFFFFFFFFFFFF, 0x0102030405060708):
            client.request(proto.CMD_FLUSH, handle=handle)
            assert client.simple_reply() == (0, handle, b"")


def test_requests_in_flight_are_all_answered(exported):
    with RawNbd.connected(exported, "w") as client:
        for handle in range(100):
            client.request(proto.CMD_WRITE, handle * 512, 512, bytes([handle]) * 512, handle=handle)
        assert sorted(client.simple_reply()[1] for _ in range(100)) == list(range(100))
        for handle in range(100):
            client.request(proto.CMD_READ, handle * 512, 512, handle=handle)
        seen = {}
        for _ in range(100):
            error, handle, data = client.simple_reply(512)
            assert error == 0
            seen[handle] = data
        assert seen == {handle: bytes([handle]) * 512 for handle in range(100)}


EINVAL, EPERM, ENOSPC = 22, 1, 28

REFUSED = [
    ("read past the end", proto.CMD_READ, SIZE, 1, b"", 0, EINVAL),
    ("read over the end", proto.CMD_READ, SIZE - 1, 2, b"", 0, EINVAL),
    ("read at the end of numbers", proto.CMD_READ, (1 << 64) - 1, 2, b"", 0, EINVAL),
    ("read more than is allowed", proto.CMD_READ, 0, (32 << 20) + 1, b"", 0, EINVAL),
    ("write past the end", proto.CMD_WRITE, SIZE, 1, b"x", 0, ENOSPC),
    ("write over the end", proto.CMD_WRITE, SIZE - 1, 2, b"xx", 0, ENOSPC),
    ("zeroes past the end", proto.CMD_WRITE_ZEROES, SIZE, 1, b"", 0, ENOSPC),
    ("trim past the end", proto.CMD_TRIM, SIZE, 1, b"", 0, EINVAL),
    ("cache past the end", proto.CMD_CACHE, SIZE, 1, b"", 0, EINVAL),
    ("unknown command", 99, 0, 0, b"", 0, EINVAL),
    ("unknown flag on read", proto.CMD_READ, 0, 512, b"", 1 << 9, EINVAL),
    ("no-hole on write", proto.CMD_WRITE, 0, 1, b"x", proto.CMD_FLAG_NO_HOLE, EINVAL),
    ("fast-zero on trim", proto.CMD_TRIM, 0, 512, b"", proto.CMD_FLAG_FAST_ZERO, EINVAL),
    ("DF without structured replies", proto.CMD_READ, 0, 512, b"", proto.CMD_FLAG_DF, EINVAL),
    ("block status without contexts", proto.CMD_BLOCK_STATUS, 0, 512, b"", 0, EINVAL),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_refused_requests(exported, case):
    """An error in the reply; the connection and its order of bytes live on. The protocol would have ENOSPC for writes
    beyond the end and EPERM for changes of what is read-only; QEMU says EINVAL for every request that it does not try."""
    _, command, offset, length, data, flags, error = case
    with RawNbd.connected(exported, "w") as client:
        client.request(command, offset, length, data, flags=flags, handle=3)
        assert client.simple_reply()[:2] in ((error, 3), (EINVAL, 3))
        client.request(proto.CMD_READ, 65536, 4)
        assert client.simple_reply(4) == (0, 1, b"\x55" * 4)


@pytest.mark.parametrize("command", [proto.CMD_WRITE, proto.CMD_TRIM, proto.CMD_WRITE_ZEROES])
def test_read_only_export_refuses_changes(exported, command):
    with RawNbd.connected(exported, "r") as client:
        data = b"x" * 512 if command == proto.CMD_WRITE else b""
        client.request(command, 0, 512, data, handle=3)
        assert client.simple_reply()[:2] in ((EPERM, 3), (EINVAL, 3))
        client.request(proto.CMD_READ, 65536, 4)
        assert client.simple_reply(4) == (0, 1, b"\x55" * 4)


@pytest.mark.parametrize("command", [proto.CMD_READ, proto.CMD_WRITE_ZEROES, proto.CMD_TRIM, proto.CMD_CACHE])
def test_requests_of_no_length(exported, command):
    """The protocol leaves them open; QEMU takes them."""
    with RawNbd.connected(exported, "w") as client:
        client.request(command, 0, 0, handle=3)
        assert client.simple_reply()[:2] == (0, 3)
        client.request(proto.CMD_READ, 65536, 4)
        assert client.simple_reply(4) == (0, 1, b"\x55" * 4)


def test_write_larger_than_allowed_ends_the_connection(server, exported):
    """Nobody can skip a payload that may be anything: 32 MiB and one byte."""
    with RawNbd.connected(exported, "w") as client:
        client.request(proto.CMD_WRITE, 0, (32 << 20) + 1)
        with contextlib.suppress(ConnectionResetError, EOFError):
            assert client.simple_reply()[0] == EINVAL
        assert client.at_eof()
    alive(server)


@pytest.mark.parametrize("magic", [0, proto.SIMPLE_REPLY_MAGIC, 0xFFFFFFFF])
def test_wrong_magic_ends_the_connection(server, exported, magic):
    with RawNbd.connected(exported, "w") as client:
        client.request(proto.CMD_READ, 0, 512, magic=magic)
        with contextlib.suppress(EOFError, ConnectionResetError):
            assert client.simple_reply()[0] == EINVAL
        assert client.at_eof()
    alive(server)


@pytest.mark.parametrize("cut", [0, 1, 4, 27])
def test_vanishing_within_a_request(server, exported, cut):
    with RawNbd.connected(exported, "w") as client:
        client.send(struct.pack(">IHHQQI", proto.REQUEST_MAGIC, 0, proto.CMD_READ, 1, 0, 512)[:cut])
    alive(server)


@pytest.mark.parametrize("sent", [0, 1, 4095, 65535])
def test_vanishing_within_a_payload(server, exported, sent):
    """What has not come whole is not written at all."""
    with RawNbd.connected(exported, "w") as client:
        client.request(proto.CMD_WRITE, 65536, 65536, b"\x66" * sent)
    alive(server)
    with server.nbd("r") as nbd:
        assert nbd.pread(65536, 65536) == b"\x55" * 65536


def test_vanishing_with_replies_under_way(server, exported):
    for _ in range(20):
        with RawNbd.connected(exported, "w") as client:
            for handle in range(32):
                client.request(proto.CMD_READ, 0, SIZE, handle=handle)
    alive(server)


def test_disconnect(exported):
    with RawNbd.connected(exported, "w") as client:
        client.request(proto.CMD_DISC)
        assert client.at_eof()


def test_a_write_before_the_farewell_is_written(server, exported):
    """Whether its reply still comes is the server's choice."""
    with RawNbd.connected(exported, "w") as client:
        client.request(proto.CMD_WRITE, 0, 65536, b"\x77" * 65536)
        client.request(proto.CMD_DISC)
        with contextlib.suppress(EOFError):
            assert client.simple_reply() == (0, 1, b"")
    with server.nbd("r") as nbd:
        while nbd.pread(65536, 0) != b"\x77" * 65536:
            pass  # the limit of the test ends this


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_in_transmission(server, exported, seed):
    source = random.Random(seed)
    with RawNbd.connected(exported, "r") as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(50):
                magic = source.choice([proto.REQUEST_MAGIC] * 5 + [source.getrandbits(32)])
                client.send(struct.pack(
                    ">IHHQQI", magic, source.choice([0, source.getrandbits(16)]), source.choice([0, 2, 3, 4, 5, 6, 7, source.getrandbits(16)]),
                    source.getrandbits(64), source.choice([0, SIZE - 1, source.getrandbits(64)]), source.getrandbits(20),
                ))
    alive(server)


# ---------------------------------------------------------------------- structured replies


def test_structured_read(exported):
    with RawNbd.connected(exported, "w", structured=True) as client:
        assert client.flags & (1 << 7), "DF"
        client.request(proto.CMD_READ, 65536, 512, handle=9)
        chunks = client.chunks()
        data = [chunk for chunk in chunks if chunk.type == proto.CHUNK_OFFSET_DATA]
        assert chunks[-1].flags & proto.CHUNK_DONE and {chunk.handle for chunk in chunks} == {9}
        assert b"".join(chunk.data[8:] for chunk in data) == b"\x55" * 512
        assert struct.unpack_from(">Q", data[0].data)[0] == 65536


def test_holes_are_not_sent(server, exported):
    with RawNbd.connected(exported, "w", structured=True) as client:
        client.request(proto.CMD_READ, 0, SIZE)
        content = bytearray(b"?" * SIZE)
        kinds = []
        for chunk in client.chunks():
            if chunk.type == proto.CHUNK_OFFSET_DATA:
                (offset,) = struct.unpack_from(">Q", chunk.data)
                content[offset : offset + len(chunk.data) - 8] = chunk.data[8:]
            elif chunk.type == proto.CHUNK_OFFSET_HOLE:
                offset, length = struct.unpack(">QI", chunk.data)
                content[offset : offset + length] = bytes(length)
            kinds.append(chunk.type)
        assert content == bytes(65536) + b"\x55" * 65536 + bytes(SIZE - 131072)
        assert proto.CHUNK_OFFSET_HOLE in kinds and proto.CHUNK_OFFSET_DATA in kinds


def test_dont_fragment(exported):
    with RawNbd.connected(exported, "w", structured=True) as client:
        client.request(proto.CMD_READ, 0, SIZE, flags=proto.CMD_FLAG_DF)
        chunks = [chunk for chunk in client.chunks() if chunk.type != proto.CHUNK_NONE]
        assert len(chunks) == 1 and chunks[0].type == proto.CHUNK_OFFSET_DATA
        assert chunks[0].data[8:] == bytes(65536) + b"\x55" * 65536 + bytes(SIZE - 131072)


def test_structured_errors_have_a_text(exported):
    with RawNbd.connected(exported, "w", structured=True) as client:
        client.request(proto.CMD_READ, SIZE, 1, handle=4)
        (chunk,) = client.chunks()
        error, length = struct.unpack_from(">IH", chunk.data)
        assert chunk.type == proto.CHUNK_ERROR and chunk.handle == 4 and error == EINVAL
        assert len(chunk.data) == 6 + length and length > 0


def test_structured_write_is_acknowledged(exported):
    """A write is answered by a simple reply or by an empty chunk; QEMU sends the simple one."""
    with RawNbd.connected(exported, "w", structured=True) as client:
        client.request(proto.CMD_WRITE, 0, 4, b"abcd", handle=5)
        assert client.simple_reply() == (0, 5, b"")


def test_structured_replies_twice(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        client.option(proto.OPT_STRUCTURED_REPLY)
        assert client.option_reply().type == proto.REP_ERR_INVALID
        client.go("w")


# ---------------------------------------------------------------------- meta contexts


def contexts(client, option, name, *queries):
    client.option(option, client.meta_data(name, *queries))
    replies = client.option_replies()
    assert replies[-1].type == proto.REP_ACK, hex(replies[-1].type)
    return [reply.data[4:].decode() for reply in replies[:-1]]


@pytest.mark.parametrize(
    "queries, expected",
    [
        ([], ["base:allocation"]),
        (["base:allocation"], ["base:allocation"]),
        (["base:"], ["base:allocation"]),
        (["base:nope"], []),
        (["nope:allocation"], []),
        (["base"], []),
        ([""], []),
        (["base:allocation", "base:allocation"], ["base:allocation"]),
        (["qemu:"], []),
        (["qemu:allocation-depth"], []),
        (["qemu:dirty-bitmap:nope"], []),
        (["x" * 4096], []),
    ],
)
def test_list_meta_contexts(exported, queries, expected):
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        assert contexts(client, proto.OPT_LIST_META_CONTEXT, "w", *queries) == expected
        client.go("w")


def test_set_meta_contexts(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        assert contexts(client, proto.OPT_SET_META_CONTEXT, "w", "base:allocation") == ["base:allocation"]
        client.go("w")
        client.request(proto.CMD_BLOCK_STATUS, 0, SIZE)
        (chunk,) = client.chunks()
        assert chunk.type == proto.CHUNK_BLOCK_STATUS
        fields = struct.unpack(f">I{(len(chunk.data) - 4) // 4}I", chunk.data)
        assert list(zip(fields[1::2], fields[2::2])) == [(65536, 3), (65536, 0), (SIZE - 131072, 3)]


def test_one_extent(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        contexts(client, proto.OPT_SET_META_CONTEXT, "w", "base:allocation")
        client.go("w")
        client.request(proto.CMD_BLOCK_STATUS, 512, SIZE - 512, flags=proto.CMD_FLAG_REQ_ONE)
        (chunk,) = client.chunks()
        assert struct.unpack(">III", chunk.data)[1:] == (65536 - 512, 3)


def test_set_without_contexts_selects_none(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        assert contexts(client, proto.OPT_SET_META_CONTEXT, "w") == []
        client.go("w")
        client.request(proto.CMD_BLOCK_STATUS, 0, SIZE)
        (chunk,) = client.chunks()
        assert chunk.type == proto.CHUNK_ERROR


def test_contexts_of_an_unknown_export(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        client.option(proto.OPT_LIST_META_CONTEXT, client.meta_data("nope", "base:allocation"))
        assert client.option_replies()[-1].type == proto.REP_ERR_UNKNOWN
        client.go("w")


def test_contexts_of_another_export_do_not_count(exported):
    """Set for one export, gone to another: as if none had been set."""
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        assert contexts(client, proto.OPT_SET_META_CONTEXT, "r", "base:allocation") == ["base:allocation"]
        client.go("w")
        client.request(proto.CMD_BLOCK_STATUS, 0, SIZE)
        assert client.chunks()[-1].type == proto.CHUNK_ERROR


def test_block_status_of_no_length(exported):
    with RawNbd(exported) as client:
        client.hello()
        client.structured()
        contexts(client, proto.OPT_SET_META_CONTEXT, "w", "base:allocation")
        client.go("w")
        client.request(proto.CMD_BLOCK_STATUS, 0, 0)
        (chunk,) = client.chunks()
        assert chunk.type == proto.CHUNK_ERROR and struct.unpack_from(">I", chunk.data)[0] == EINVAL
        client.request(proto.CMD_READ, 65536, 4)
        assert client.chunks()[0].data[8:] == b"\x55" * 4
