"""NBD clients.

`Nbd` is a well-behaved client (libnbd) for reading and writing what a server exports. `RawNbd` is a bare socket with
just enough of the protocol's packing to speak it wrongly on purpose: every field is the caller's.

Both raise OSError with the errno that the server sent when a request fails. The numbers of the wire are those of the
NBD protocol document.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import NamedTuple

import nbd as libnbd

# Negotiation
NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO = 1, 2, 3, 5, 6, 7
OPT_STRUCTURED_REPLY, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT = 8, 9, 10
REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERR = 1 << 31
REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_INVALID = REP_ERR + 1, REP_ERR + 2, REP_ERR + 3
REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_TOO_BIG = REP_ERR + 5, REP_ERR + 6, REP_ERR + 9
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

# Transmission
REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = range(8)
CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_DF, CMD_FLAG_REQ_ONE, CMD_FLAG_FAST_ZERO = 1, 2, 4, 8, 16
CHUNK_DONE = 1
CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE, CHUNK_BLOCK_STATUS = 0, 1, 2, 5
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 32769, 32770

# A request's payload is at most this in QEMU and in Blockbed.
MAX_REQUEST = 32 << 20


class Extent(NamedTuple):
    offset: int
    length: int
    flags: int


class PendingRequest:
    """A request that has been made, and whose end is awaited later."""

    def __init__(self, client: Nbd, cookie: int, buffer: libnbd.Buffer | None = None):
        self._client, self._cookie, self._buffer = client, cookie, buffer
        self._ended = False
        self.error: OSError | None = None

    def _look(self, milliseconds: int) -> None:
        try:
            # It tells so once.
            self._ended = self._ended or self._client._call("aio_command_completed", self._cookie)
            if not self._ended:
                self._client._call("poll", milliseconds)
                self._ended = self._client._call("aio_command_completed", self._cookie)
        except OSError as error:
            self._ended, self.error = True, error

    @property
    def ended(self) -> bool:
        self._look(0)
        return self._ended

    def end(self, timeout: float = 30) -> PendingRequest:
        deadline = time.monotonic() + timeout
        while not self.ended:
            assert time.monotonic() < deadline, "a request has not been answered"
            self._look(1000)
        return self

    @property
    def data(self) -> bytes:
        return bytes(self._buffer.to_bytearray())


class Nbd:
    """One connection to one export. `contexts` are the meta contexts to ask for."""

    def __init__(self, address: Path | str, export: str, contexts: tuple[str, ...] = ("base:allocation",)):
        self._handle = libnbd.NBD()
        self._handle.set_export_name(export)
        self._handle.set_strict_mode(0)
        for context in contexts:
            self._handle.add_meta_context(context)
        try:
            if "://" in str(address) or str(address).startswith("nbd"):
                self._handle.connect_uri(str(address))
            else:
                self._handle.connect_unix(str(address))
        except libnbd.Error as error:
            raise self._os_error(error) from None
        self.export_id: str | None = None

    @staticmethod
    def _os_error(error: libnbd.Error) -> OSError:
        number = error.errnum or 0
        return OSError(number, f"{os.strerror(number)} ({error.string})")

    def _call(self, method: str, *args, **named):
        try:
            return getattr(self._handle, method)(*args, **named)
        except libnbd.Error as error:
            raise self._os_error(error) from None

    @property
    def handle(self) -> libnbd.NBD:
        return self._handle

    @property
    def size(self) -> int:
        return self._call("get_size")

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self._call("pread", length, offset))

    def pwrite(self, data: bytes, offset: int, *, fua: bool = False) -> None:
        self._call("pwrite", data, offset, libnbd.CMD_FLAG_FUA if fua else 0)

    def begin_pread(self, length: int, offset: int) -> PendingRequest:
        buffer = libnbd.Buffer(length)
        return PendingRequest(self, self._call("aio_pread", buffer, offset), buffer)

    def begin_pwrite(self, data: bytes, offset: int) -> PendingRequest:
        buffer = libnbd.Buffer.from_bytearray(bytearray(data))
        return PendingRequest(self, self._call("aio_pwrite", buffer, offset), buffer)

    def begin_zero(self, length: int, offset: int) -> PendingRequest:
        return PendingRequest(self, self._call("aio_zero", length, offset))

    def begin_trim(self, length: int, offset: int) -> PendingRequest:
        return PendingRequest(self, self._call("aio_trim", length, offset))

    def zero(self, length: int, offset: int, *, no_hole: bool = False, fast: bool = False, fua: bool = False) -> None:
        flags = (libnbd.CMD_FLAG_NO_HOLE if no_hole else 0) | (libnbd.CMD_FLAG_FAST_ZERO if fast else 0)
        self._call("zero", length, offset, flags | (libnbd.CMD_FLAG_FUA if fua else 0))

    def trim(self, length: int, offset: int, *, fua: bool = False) -> None:
        self._call("trim", length, offset, libnbd.CMD_FLAG_FUA if fua else 0)

    def flush(self) -> None:
        self._call("flush")

    def cache(self, length: int, offset: int) -> None:
        self._call("cache", length, offset)

    def read_all(self) -> bytes:
        size, step = self.size, 4 << 20
        return b"".join(self.pread(min(step, size - at), at) for at in range(0, size, step))

    def extents(self, context: str = "base:allocation", offset: int = 0, length: int | None = None) -> list[Extent]:
        """The map of the export in this context, neighbours with equal flags joined."""
        end = self.size if length is None else offset + length
        extents: list[Extent] = []
        while offset < end:
            seen: list[tuple[int, int]] = []

            def collect(name, _offset, entries, _error):
                if name == context:
                    seen.extend(zip(entries[::2], entries[1::2]))
                return 0

            self._call("block_status", min(end - offset, 1 << 31), offset, collect)
            assert seen, f"no answer for {context}"
            for size, flags in seen:
                size = min(size, end - offset)
                if size <= 0:
                    break
                if extents and extents[-1].flags == flags:
                    extents[-1] = Extent(extents[-1].offset, extents[-1].length + size, flags)
                else:
                    extents.append(Extent(offset, size, flags))
                offset += size
        return extents

    def close(self) -> None:
        if self._handle is not None:
            try:
                # It would wait for the answers.
                if self._handle.aio_in_flight() == 0:
                    self._handle.shutdown()
            except libnbd.Error:
                pass
            self._handle = None

    def __enter__(self) -> Nbd:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()


class OptionReply(NamedTuple):
    option: int
    type: int
    data: bytes


class Chunk(NamedTuple):
    flags: int
    type: int
    handle: int
    data: bytes


class RawNbd:
    """A socket, and functions that pack and unpack what the protocol has. Nothing is checked for the caller."""

    def __init__(self, path: Path | str, timeout: float = 20.0):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.size = self.flags = 0

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawNbd:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def recv(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            if not part:
                raise EOFError(f"{len(data)} of {length} bytes, then the end")
            data += part
        return data

    def at_eof(self) -> bool:
        """Waits for one more byte or the end of the connection."""
        try:
            return self.sock.recv(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            return True

    # ------------------------------------------------------------------ negotiation

    def hello(self, client_flags: int | None = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) -> int:
        """Reads the server's greeting and answers with our flags; returns the server's flags."""
        magic, option_magic, flags = struct.unpack(">QQH", self.recv(18))
        assert (magic, option_magic) == (NBDMAGIC, IHAVEOPT), (hex(magic), hex(option_magic))
        if client_flags is not None:
            self.send(struct.pack(">I", client_flags))
        return flags

    def option(self, option: int, data: bytes = b"", *, length: int | None = None, magic: int = IHAVEOPT) -> None:
        self.send(struct.pack(">QII", magic, option, len(data) if length is None else length) + data)

    def option_reply(self) -> OptionReply:
        magic, option, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == OPTION_REPLY_MAGIC, hex(magic)
        return OptionReply(option, kind, self.recv(length))

    def option_replies(self) -> list[OptionReply]:
        """All replies up to the acknowledgement or error that ends an option."""
        replies = [self.option_reply()]
        while replies[-1].type not in (REP_ACK,) and replies[-1].type < REP_ERR:
            replies.append(self.option_reply())
        return replies

    @staticmethod
    def go_data(name: str | bytes, infos: tuple[int, ...] = ()) -> bytes:
        raw = name.encode() if isinstance(name, str) else name
        return struct.pack(">I", len(raw)) + raw + struct.pack(f">H{len(infos)}H", len(infos), *infos)

    @staticmethod
    def meta_data(name: str, *queries: str) -> bytes:
        data = struct.pack(">I", len(name.encode())) + name.encode() + struct.pack(">I", len(queries))
        return data + b"".join(struct.pack(">I", len(query.encode())) + query.encode() for query in queries)

    def go(self, name: str, *infos: int) -> list[OptionReply]:
        """Chooses an export; afterwards the connection is in transmission, with `size` and `flags` set."""
        self.option(OPT_GO, self.go_data(name, infos))
        replies = self.option_replies()
        assert replies[-1].type == REP_ACK, hex(replies[-1].type)
        for reply in replies[:-1]:
            if struct.unpack_from(">H", reply.data)[0] == INFO_EXPORT:
                _, self.size, self.flags = struct.unpack(">HQH", reply.data)
        return replies

    def structured(self) -> None:
        self.option(OPT_STRUCTURED_REPLY)
        assert self.option_reply().type == REP_ACK

    @classmethod
    def connected(cls, path: Path | str, name: str, *, structured: bool = False) -> RawNbd:
        """A connection in transmission with this export."""
        client = cls(path)
        client.hello()
        if structured:
            client.structured()
        client.go(name)
        return client

    # ------------------------------------------------------------------ transmission

    def request(
        self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", *, flags: int = 0, handle: int = 1,
        magic: int = REQUEST_MAGIC,
    ) -> None:
        self.send(struct.pack(">IHHQQI", magic, flags, command, handle, offset, length) + data)

    def simple_reply(self, payload: int = 0) -> tuple[int, int, bytes]:
        """(error, handle, payload); the payload only comes when there is no error."""
        magic, error, handle = struct.unpack(">IIQ", self.recv(16))
        assert magic == SIMPLE_REPLY_MAGIC, hex(magic)
        return error, handle, self.recv(payload) if payload and not error else b""

    def chunk(self) -> Chunk:
        magic, flags, kind, handle, length = struct.unpack(">IHHQI", self.recv(20))
        assert magic == STRUCTURED_REPLY_MAGIC, hex(magic)
        return Chunk(flags, kind, handle, self.recv(length))

    def chunks(self) -> list[Chunk]:
        """All chunks of the reply to the one request in flight."""
        chunks = [self.chunk()]
        while not chunks[-1].flags & CHUNK_DONE:
            chunks.append(self.chunk())
        return chunks
