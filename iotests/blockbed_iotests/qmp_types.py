"""The commands of the monitor as methods, and the schema as tables for tests that are generated from it.

Written by qmp/schema/generate.py from qmp/schema/*.schema; changes are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple


class Member(NamedTuple):
    """A member of a struct, or an argument of a command. `type` is a name of the tables below, `[name]` an array."""

    name: str
    type: str
    required: bool


class Union(NamedTuple):
    """What a discriminator's value adds to the common members of a union."""

    tag: str
    branches: dict[str, str]


class Command(NamedTuple):
    members: tuple[Member, ...]
    union: Union | None
    programs: tuple[str, ...]
    oob: bool
    # Takes arguments that the schema does not name.
    open: bool
    # Blockbed's own.
    extension: bool


class Case(NamedTuple):
    """Arguments that a command must refuse, and the words in which QEMU 7.2 does."""

    command: str
    arguments: dict[str, Any]
    error: str


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


# An argument that is not sent; None is sent as null.
ABSENT: Any = _Absent()

_INTEGERS = {"int", "int8", "int16", "int32", "int64"}
_UNSIGNED = {"uint8", "uint16", "uint32", "uint64", "size"}
_SCALARS: dict[str, Any] = {"str": "x", "bool": False, "number": 0.5, "null": None, "any": {},
                            **dict.fromkeys(_INTEGERS | _UNSIGNED, 0)}


def _call(arguments: dict[str, Any] | None, named: dict[str, Any]) -> dict[str, Any]:
    """What a method was given by name, over what it was given as a dictionary."""
    return {**(arguments or {}), **{name: value for name, value in named.items() if value is not ABSENT}}


def _branch(named: dict[str, Any]) -> dict[str, Any]:
    return {name.rstrip("_").replace("_", "-"): value for name, value in named.items()}


def _members(type_: str) -> tuple[Member, ...]:
    return STRUCTS[type_]


def minimal(type_: str) -> Any:
    """The smallest value of a type."""
    if type_.startswith("["):
        return []
    if type_ in _SCALARS:
        return _SCALARS[type_]
    if type_ in ENUMS:
        return ENUMS[type_][0]
    if type_ in ALTERNATES:
        # A string ends a recursion that an object would go on with.
        return minimal(sorted(ALTERNATES[type_], key=lambda branch: branch != "str")[0])
    return _minimal_members(_members(type_), UNIONS.get(type_))


def _minimal_members(members: tuple[Member, ...], union: Union | None) -> dict[str, Any]:
    value = {member.name: minimal(member.type) for member in members if member.required}
    if union is not None and value[union.tag] in union.branches:
        value.update(minimal(union.branches[value[union.tag]]))
    return value


def _wrong(type_: str, path: str, name: str) -> Iterator[tuple[Any, str]]:
    """Values that a member of this type must refuse, with the error. `name` is the last part of its path."""
    if type_.startswith("["):
        yield 5, f"Invalid parameter type for '{path}', expected: array"
        item = type_[1:-1]
        if item not in _SCALARS and item not in ALTERNATES and item not in ENUMS:
            yield [5], f"Invalid parameter type for '{path}[0]', expected: object"
    elif type_ == "str":
        yield 5, f"Invalid parameter type for '{path}', expected: string"
        yield None, f"Invalid parameter type for '{path}', expected: string"
    elif type_ == "bool":
        yield "on", f"Invalid parameter type for '{path}', expected: boolean"
    elif type_ == "number":
        yield "1", f"Invalid parameter type for '{path}', expected: number"
    elif type_ == "null":
        yield 5, f"Invalid parameter type for '{path}', expected: null"
    elif type_ in _INTEGERS:
        yield "1", f"Invalid parameter type for '{path}', expected: integer"
        yield 1.5, f"Invalid parameter type for '{path}', expected: integer"
        yield 1 << 63, f"Invalid parameter type for '{path}', expected: integer"
        if type_ in ("int8", "int16", "int32"):
            yield 1 << (int(type_[3:]) - 1), f"Parameter '{name}' expects {type_}_t"
    elif type_ in _UNSIGNED:
        yield "1", f"Parameter '{path}' expects uint64"
        yield True, f"Parameter '{path}' expects uint64"
        if type_ in ("uint8", "uint16", "uint32"):
            yield 1 << int(type_[4:]), f"Parameter '{name}' expects {type_}_t"
            yield -1, f"Parameter '{name}' expects {type_}_t"
    elif type_ in ENUMS:
        yield 5, f"Invalid parameter type for '{path}', expected: string"
        yield "no such value", f"Parameter '{name}' does not accept value 'no such value'"
    elif type_ in ALTERNATES:
        yield 0.5, f"Invalid parameter type for '{name}', expected: {type_}"
    elif type_ != "any":
        yield "x", f"Invalid parameter type for '{path}', expected: object"


def _in_struct(members: tuple[Member, ...], union: Union | None, path: str,
               depth: int) -> Iterator[tuple[dict[str, Any], str]]:
    prefix = f"{path}." if path else ""
    smallest = _minimal_members(members, union)
    if depth == 0 or not path:
        yield {**smallest, "no-such-member": 1}, f"Parameter '{prefix}no-such-member' is unexpected"
    for member in members:
        here = prefix + member.name
        if member.required:
            without = {name: value for name, value in smallest.items() if name != member.name}
            yield without, f"Parameter '{here}' is missing"
        for value, error in _wrong(member.type, here, member.name):
            yield {**smallest, member.name: value}, error
        if depth > 0 and member.type in STRUCTS:
            for value, error in _in_struct(STRUCTS[member.type], UNIONS.get(member.type), here, depth - 1):
                yield {**smallest, member.name: value}, error
    if union is None:
        return
    common = {name: smallest[name] for name in smallest if any(name == member.name for member in members)}
    for tag, branch in union.branches.items():
        for value, error in _in_branch({**common, union.tag: tag}, STRUCTS[branch], path, depth):
            yield value, error


def _in_branch(common: dict[str, Any], members: tuple[Member, ...], path: str,
               depth: int) -> Iterator[tuple[dict[str, Any], str]]:
    for value, error in _in_struct(members, None, path, depth):
        yield {**common, **value}, error


def negative_cases(depth: int = 2) -> Iterator[Case]:
    """For every command: each argument missing, of a wrong type and out of range, nested ones too, and one too many."""
    for name, command in COMMANDS.items():
        for arguments, error in _in_struct(command.members, command.union, "", depth):
            # QEMU leaves the rest to the device that such a command makes.
            if command.open and not error.endswith("is missing"):
                continue
            yield Case(name, arguments, error)


IoOperationType = Literal["read", "write"]
OnOffAuto = Literal["auto", "on", "off"]
HostMemPolicy = Literal["default", "preferred", "bind", "interleave"]
SocketAddressType = Literal["inet", "unix", "vsock", "fd"]
RunState = Literal["debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate", "prelaunch",
    "finish-migrate", "restore-vm", "running", "save-vm", "shutdown", "suspended", "watchdog", "guest-panicked",
    "colo"]
ShutdownCause = Literal["none", "host-error", "host-qmp-quit", "host-qmp-system-reset", "host-signal", "host-ui",
    "guest-shutdown", "guest-reset", "guest-panic", "subsystem-reset", "snapshot-load"]
WatchdogAction = Literal["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"]
RebootAction = Literal["reset", "shutdown"]
ShutdownAction = Literal["poweroff", "pause"]
PanicAction = Literal["pause", "shutdown", "exit-failure", "none"]
QCryptoTLSCredsEndpoint = Literal["client", "server"]
QCryptoSecretFormat = Literal["raw", "base64"]
QCryptoHashAlgorithm = Literal["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"]
QCryptoCipherAlgorithm = Literal["aes-128", "aes-192", "aes-256", "des", "3des", "cast5-128", "serpent-128",
    "serpent-192", "serpent-256", "twofish-128", "twofish-192", "twofish-256"]
QCryptoCipherMode = Literal["ecb", "cbc", "xts", "ctr"]
QCryptoIVGenAlgorithm = Literal["plain", "plain64", "essiv"]
QCryptoBlockFormat = Literal["qcow", "luks"]
QCryptoBlockLUKSKeyslotState = Literal["active", "inactive"]
BlockdevOnError = Literal["report", "ignore", "enospc", "stop", "auto"]
MirrorSyncMode = Literal["top", "full", "none", "incremental", "bitmap"]
BitmapSyncMode = Literal["on-success", "never", "always"]
MirrorCopyMode = Literal["background", "write-blocking"]
NewImageMode = Literal["existing", "absolute-paths"]
BlockPermission = Literal["consistent-read", "write", "write-unchanged", "resize"]
BlockdevDetectZeroesOptions = Literal["off", "on", "unmap"]
BlockdevDriver = Literal["blkdebug", "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress",
    "copy-before-write", "copy-on-read", "dmg", "file", "snapshot-access", "ftp", "ftps", "gluster", "host_cdrom",
    "host_device", "http", "https", "iscsi", "luks", "nbd", "nfs", "null-aio", "null-co", "nvme", "parallels",
    "preallocate", "qcow", "qcow2", "qed", "quorum", "raw", "rbd", "replication", "ssh", "throttle", "vdi", "vhdx",
    "vmdk", "vpc", "vvfat"]
BlockdevQcow2EncryptionFormat = Literal["aes", "luks"]
RbdImageEncryptionFormat = Literal["luks", "luks2"]
Qcow2CompressionType = Literal["zlib", "zstd"]
PreallocMode = Literal["off", "metadata", "falloc", "full"]
BlockdevChangeReadOnlyMode = Literal["retain", "read-only", "read-write"]
ImageInfoSpecificKind = Literal["qcow2", "vmdk", "luks", "rbd"]
BlockDeviceIoStatus = Literal["ok", "failed", "nospace"]
Qcow2BitmapInfoFlags = Literal["in-use", "auto"]
XDbgBlockGraphNodeType = Literal["block-backend", "block-job", "block-driver"]
BitmapPattern = Literal["allocation-top"]
SshHostKeyCheckMode = Literal["none", "hash", "known_hosts"]
SshHostKeyCheckHashType = Literal["md5", "sha1", "sha256"]
IscsiTransport = Literal["tcp", "iser"]
IscsiHeaderDigest = Literal["crc32c", "none", "crc32c-none", "none-crc32c"]
RbdAuthMode = Literal["cephx", "none"]
NFSTransport = Literal["inet"]
BlockdevDiscardOptions = Literal["ignore", "unmap"]
BlockdevAioOptions = Literal["threads", "native", "io_uring"]
Qcow2OverlapCheckMode = Literal["none", "constant", "cached", "all"]
BlockdevQcowEncryptionFormat = Literal["aes"]
BlkdebugEvent = Literal["l1_update", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table",
    "l2_load", "l2_update", "l2_update_compressed", "l2_alloc_cow_read", "l2_alloc_write", "read_aio",
    "read_backing_aio", "read_compressed", "write_aio", "write_compressed", "vmstate_load", "vmstate_save",
    "cow_read", "cow_write", "reftable_load", "reftable_grow", "reftable_update", "refblock_load", "refblock_update",
    "refblock_update_part", "refblock_alloc", "refblock_alloc_hookup", "refblock_alloc_write",
    "refblock_alloc_write_blocks", "refblock_alloc_write_table", "refblock_alloc_switch_table", "cluster_alloc",
    "cluster_alloc_bytes", "cluster_free", "flush_to_os", "flush_to_disk", "pwritev_rmw_head",
    "pwritev_rmw_after_head", "pwritev_rmw_tail", "pwritev_rmw_after_tail", "pwritev", "pwritev_zero", "pwritev_done",
    "empty_image_prepare", "l1_shrink_write_table", "l1_shrink_free_l2_clusters", "cor_write", "cluster_alloc_space",
    "none"]
BlkdebugIOType = Literal["read", "write", "write-zeroes", "discard", "flush", "block-status"]
QuorumReadPattern = Literal["quorum", "fifo"]
ReplicationMode = Literal["primary", "secondary"]
OnCbwError = Literal["break-guest-write", "break-snapshot"]
BlockdevQcow2Version = Literal["v2", "v3"]
BlockdevVmdkSubformat = Literal["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
    "streamOptimized"]
BlockdevVmdkAdapterType = Literal["ide", "buslogic", "lsilogic", "legacyESX"]
BlockdevVhdxSubformat = Literal["dynamic", "fixed"]
BlockdevVpcSubformat = Literal["dynamic", "fixed"]
BlockErrorAction = Literal["ignore", "report", "stop"]
QuorumOpType = Literal["read", "write", "flush"]
JobType = Literal["commit", "stream", "mirror", "backup", "create", "amend", "snapshot-load", "snapshot-save",
    "snapshot-delete", "bitmap-populate"]
JobStatus = Literal["undefined", "created", "running", "paused", "ready", "standby", "waiting", "pending", "aborting",
    "concluded", "null"]
FuseExportAllowOther = Literal["off", "on", "auto"]
BlockExportRemoveMode = Literal["safe", "hard"]
BlockExportType = Literal["nbd", "vhost-user-blk", "fuse", "vduse-blk"]
DataFormat = Literal["utf8", "base64"]
ChardevBackendKind = Literal["file", "serial", "parallel", "pipe", "socket", "udp", "pty", "null", "mux", "msmouse",
    "wctablet", "braille", "testdev", "stdio", "console", "spicevmc", "spiceport", "qemu-vdagent", "dbus", "vc",
    "ringbuf", "memory"]
QKeyCode = Literal["unmapped", "shift", "shift_r", "alt", "alt_r", "ctrl", "ctrl_r", "menu", "esc", "1", "2", "3",
    "4", "5", "6", "7", "8", "9", "0", "minus", "equal", "backspace", "tab", "q", "w", "e", "r", "t", "y", "u", "i",
    "o", "p", "bracket_left", "bracket_right", "ret", "a", "s", "d", "f", "g", "h", "j", "k", "l", "semicolon",
    "apostrophe", "grave_accent", "backslash", "z", "x", "c", "v", "b", "n", "m", "comma", "dot", "slash", "asterisk",
    "spc", "caps_lock", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f10", "num_lock", "scroll_lock",
    "kp_divide", "kp_multiply", "kp_subtract", "kp_add", "kp_enter", "kp_decimal", "sysrq", "kp_0", "kp_1", "kp_2",
    "kp_3", "kp_4", "kp_5", "kp_6", "kp_7", "kp_8", "kp_9", "less", "f11", "f12", "print", "home", "pgup", "pgdn",
    "end", "left", "up", "down", "right", "insert", "delete", "stop", "again", "props", "undo", "front", "copy",
    "open", "paste", "find", "cut", "lf", "help", "meta_l", "meta_r", "compose", "pause", "ro", "hiragana", "henkan",
    "yen", "muhenkan", "katakanahiragana", "kp_comma", "kp_equals", "power", "sleep", "wake", "audionext",
    "audioprev", "audiostop", "audioplay", "audiomute", "volumeup", "volumedown", "mediaselect", "mail", "calculator",
    "computer", "ac_home", "ac_back", "ac_forward", "ac_refresh", "ac_bookmarks", "lang1", "lang2"]
KeyValueKind = Literal["number", "qcode"]
QAuthZListPolicy = Literal["deny", "allow"]
QAuthZListFormat = Literal["exact", "glob"]
MigrationStatus = Literal["none", "setup", "cancelling", "cancelled", "active", "postcopy-active", "postcopy-paused",
    "postcopy-recover", "completed", "failed", "colo", "pre-switchover", "device", "wait-unplug"]
MigrationCapability = Literal["xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "compress", "events",
    "postcopy-ram", "x-colo", "release-ram", "block", "return-path", "pause-before-switchover", "multifd",
    "dirty-bitmaps", "postcopy-blocktime", "late-block-activate", "x-ignore-shared", "validate-uuid",
    "background-snapshot", "zero-copy-send", "postcopy-preempt"]
MultiFDCompression = Literal["none", "zlib", "zstd"]
ActionCompletionMode = Literal["individual", "grouped"]
TransactionActionKind = Literal["abort", "block-dirty-bitmap-add", "block-dirty-bitmap-remove",
    "block-dirty-bitmap-clear", "block-dirty-bitmap-enable", "block-dirty-bitmap-disable", "block-dirty-bitmap-merge",
    "blockdev-backup", "blockdev-snapshot", "blockdev-snapshot-internal-sync", "blockdev-snapshot-sync",
    "drive-backup"]
QMPCapability = Literal["oob"]
SchemaMetaType = Literal["builtin", "enum", "array", "object", "alternate", "command", "event"]
JSONType = Literal["string", "number", "int", "boolean", "null", "object", "array", "value"]
ObjectType = Literal["authz-list", "authz-listfile", "authz-pam", "authz-simple", "iothread", "main-loop",
    "memory-backend-file", "memory-backend-memfd", "memory-backend-ram", "pr-manager-helper", "rng-builtin",
    "rng-egd", "rng-random", "secret", "secret_keyring", "throttle-group", "tls-creds-anon", "tls-creds-psk",
    "tls-creds-x509", "tls-cipher-suites"]
SysEmuTarget = Literal["aarch64", "alpha", "arm", "avr", "cris", "hppa", "i386", "loongarch64", "m68k", "microblaze",
    "microblazeel", "mips", "mips64", "mips64el", "mipsel", "nios2", "or1k", "ppc", "ppc64", "riscv32", "riscv64",
    "rx", "s390x", "sh4", "sh4eb", "sparc", "sparc64", "tricore", "x86_64", "xtensa", "xtensaeb"]
CpuS390State = Literal["uninitialized", "stopped", "check-stop", "operating", "load"]
YankInstanceType = Literal["block-node", "chardev", "migration"]
CommandLineParameterType = Literal["string", "boolean", "number", "size"]

ENUMS: dict[str, tuple[str, ...]] = {
    "IoOperationType": IoOperationType.__args__,
    "OnOffAuto": OnOffAuto.__args__,
    "HostMemPolicy": HostMemPolicy.__args__,
    "SocketAddressType": SocketAddressType.__args__,
    "RunState": RunState.__args__,
    "ShutdownCause": ShutdownCause.__args__,
    "WatchdogAction": WatchdogAction.__args__,
    "RebootAction": RebootAction.__args__,
    "ShutdownAction": ShutdownAction.__args__,
    "PanicAction": PanicAction.__args__,
    "QCryptoTLSCredsEndpoint": QCryptoTLSCredsEndpoint.__args__,
    "QCryptoSecretFormat": QCryptoSecretFormat.__args__,
    "QCryptoHashAlgorithm": QCryptoHashAlgorithm.__args__,
    "QCryptoCipherAlgorithm": QCryptoCipherAlgorithm.__args__,
    "QCryptoCipherMode": QCryptoCipherMode.__args__,
    "QCryptoIVGenAlgorithm": QCryptoIVGenAlgorithm.__args__,
    "QCryptoBlockFormat": QCryptoBlockFormat.__args__,
    "QCryptoBlockLUKSKeyslotState": QCryptoBlockLUKSKeyslotState.__args__,
    "BlockdevOnError": BlockdevOnError.__args__,
    "MirrorSyncMode": MirrorSyncMode.__args__,
    "BitmapSyncMode": BitmapSyncMode.__args__,
    "MirrorCopyMode": MirrorCopyMode.__args__,
    "NewImageMode": NewImageMode.__args__,
    "BlockPermission": BlockPermission.__args__,
    "BlockdevDetectZeroesOptions": BlockdevDetectZeroesOptions.__args__,
    "BlockdevDriver": BlockdevDriver.__args__,
    "BlockdevQcow2EncryptionFormat": BlockdevQcow2EncryptionFormat.__args__,
    "RbdImageEncryptionFormat": RbdImageEncryptionFormat.__args__,
    "Qcow2CompressionType": Qcow2CompressionType.__args__,
    "PreallocMode": PreallocMode.__args__,
    "BlockdevChangeReadOnlyMode": BlockdevChangeReadOnlyMode.__args__,
    "ImageInfoSpecificKind": ImageInfoSpecificKind.__args__,
    "BlockDeviceIoStatus": BlockDeviceIoStatus.__args__,
    "Qcow2BitmapInfoFlags": Qcow2BitmapInfoFlags.__args__,
    "XDbgBlockGraphNodeType": XDbgBlockGraphNodeType.__args__,
    "BitmapPattern": BitmapPattern.__args__,
    "SshHostKeyCheckMode": SshHostKeyCheckMode.__args__,
    "SshHostKeyCheckHashType": SshHostKeyCheckHashType.__args__,
    "IscsiTransport": IscsiTransport.__args__,
    "IscsiHeaderDigest": IscsiHeaderDigest.__args__,
    "RbdAuthMode": RbdAuthMode.__args__,
    "NFSTransport": NFSTransport.__args__,
    "BlockdevDiscardOptions": BlockdevDiscardOptions.__args__,
    "BlockdevAioOptions": BlockdevAioOptions.__args__,
    "Qcow2OverlapCheckMode": Qcow2OverlapCheckMode.__args__,
    "BlockdevQcowEncryptionFormat": BlockdevQcowEncryptionFormat.__args__,
    "BlkdebugEvent": BlkdebugEvent.__args__,
    "BlkdebugIOType": BlkdebugIOType.__args__,
    "QuorumReadPattern": QuorumReadPattern.__args__,
    "ReplicationMode": ReplicationMode.__args__,
    "OnCbwError": OnCbwError.__args__,
    "BlockdevQcow2Version": BlockdevQcow2Version.__args__,
    "BlockdevVmdkSubformat": BlockdevVmdkSubformat.__args__,
    "BlockdevVmdkAdapterType": BlockdevVmdkAdapterType.__args__,
    "BlockdevVhdxSubformat": BlockdevVhdxSubformat.__args__,
    "BlockdevVpcSubformat": BlockdevVpcSubformat.__args__,
    "BlockErrorAction": BlockErrorAction.__args__,
    "QuorumOpType": QuorumOpType.__args__,
    "JobType": JobType.__args__,
    "JobStatus": JobStatus.__args__,
    "FuseExportAllowOther": FuseExportAllowOther.__args__,
    "BlockExportRemoveMode": BlockExportRemoveMode.__args__,
    "BlockExportType": BlockExportType.__args__,
    "DataFormat": DataFormat.__args__,
    "ChardevBackendKind": ChardevBackendKind.__args__,
    "QKeyCode": QKeyCode.__args__,
    "KeyValueKind": KeyValueKind.__args__,
    "QAuthZListPolicy": QAuthZListPolicy.__args__,
    "QAuthZListFormat": QAuthZListFormat.__args__,
    "MigrationStatus": MigrationStatus.__args__,
    "MigrationCapability": MigrationCapability.__args__,
    "MultiFDCompression": MultiFDCompression.__args__,
    "ActionCompletionMode": ActionCompletionMode.__args__,
    "TransactionActionKind": TransactionActionKind.__args__,
    "QMPCapability": QMPCapability.__args__,
    "SchemaMetaType": SchemaMetaType.__args__,
    "JSONType": JSONType.__args__,
    "ObjectType": ObjectType.__args__,
    "SysEmuTarget": SysEmuTarget.__args__,
    "CpuS390State": CpuS390State.__args__,
    "YankInstanceType": YankInstanceType.__args__,
    "CommandLineParameterType": CommandLineParameterType.__args__,
}

STRUCTS: dict[str, tuple[Member, ...]] = {
    "String": (
        Member("str", "str", True),
    ),
    "InetSocketAddressBase": (
        Member("host", "str", True),
        Member("port", "str", True),
    ),
    "InetSocketAddress": (
        Member("host", "str", True),
        Member("port", "str", True),
        Member("numeric", "bool", False),
        Member("to", "uint16", False),
        Member("ipv4", "bool", False),
        Member("ipv6", "bool", False),
        Member("keep-alive", "bool", False),
        Member("mptcp", "bool", False),
    ),
    "UnixSocketAddress": (
        Member("path", "str", True),
        Member("abstract", "bool", False),
        Member("tight", "bool", False),
    ),
    "VsockSocketAddress": (
        Member("cid", "str", True),
        Member("port", "str", True),
    ),
    "InetSocketAddressWrapper": (
        Member("data", "InetSocketAddress", True),
    ),
    "UnixSocketAddressWrapper": (
        Member("data", "UnixSocketAddress", True),
    ),
    "VsockSocketAddressWrapper": (
        Member("data", "VsockSocketAddress", True),
    ),
    "StringWrapper": (
        Member("data", "String", True),
    ),
    "SocketAddressLegacy": (
        Member("type", "SocketAddressType", True),
    ),
    "SocketAddress": (
        Member("type", "SocketAddressType", True),
    ),
    "StatusInfo": (
        Member("running", "bool", True),
        Member("singlestep", "bool", True),
        Member("status", "RunState", True),
    ),
    "QCryptoBlockOptionsBase": (
        Member("format", "QCryptoBlockFormat", True),
    ),
    "QCryptoBlockOptionsQCow": (
        Member("key-secret", "str", False),
    ),
    "QCryptoBlockOptionsLUKS": (
        Member("key-secret", "str", False),
    ),
    "QCryptoBlockCreateOptionsLUKS": (
        Member("key-secret", "str", False),
        Member("cipher-alg", "QCryptoCipherAlgorithm", False),
        Member("cipher-mode", "QCryptoCipherMode", False),
        Member("ivgen-alg", "QCryptoIVGenAlgorithm", False),
        Member("ivgen-hash-alg", "QCryptoHashAlgorithm", False),
        Member("hash-alg", "QCryptoHashAlgorithm", False),
        Member("iter-time", "int", False),
    ),
    "QCryptoBlockCreateOptions": (
        Member("format", "QCryptoBlockFormat", True),
    ),
    "QCryptoBlockInfoLUKSSlot": (
        Member("active", "bool", True),
        Member("iters", "int", False),
        Member("stripes", "int", False),
        Member("key-offset", "int", True),
    ),
    "QCryptoBlockInfoLUKS": (
        Member("cipher-alg", "QCryptoCipherAlgorithm", True),
        Member("cipher-mode", "QCryptoCipherMode", True),
        Member("ivgen-alg", "QCryptoIVGenAlgorithm", True),
        Member("ivgen-hash-alg", "QCryptoHashAlgorithm", False),
        Member("hash-alg", "QCryptoHashAlgorithm", True),
        Member("payload-offset", "int", True),
        Member("master-key-iters", "int", True),
        Member("uuid", "str", True),
        Member("slots", "[QCryptoBlockInfoLUKSSlot]", True),
    ),
    "QCryptoBlockAmendOptionsLUKS": (
        Member("state", "QCryptoBlockLUKSKeyslotState", True),
        Member("new-secret", "str", False),
        Member("old-secret", "str", False),
        Member("keyslot", "int", False),
        Member("iter-time", "int", False),
        Member("secret", "str", False),
    ),
    "QCryptoBlockAmendOptions": (
        Member("format", "QCryptoBlockFormat", True),
    ),
    "SecretCommonProperties": (
        Member("loaded", "bool", False),
        Member("format", "QCryptoSecretFormat", False),
        Member("keyid", "str", False),
        Member("iv", "str", False),
    ),
    "SecretProperties": (
        Member("loaded", "bool", False),
        Member("format", "QCryptoSecretFormat", False),
        Member("keyid", "str", False),
        Member("iv", "str", False),
        Member("data", "str", False),
        Member("file", "str", False),
    ),
    "SecretKeyringProperties": (
        Member("loaded", "bool", False),
        Member("format", "QCryptoSecretFormat", False),
        Member("keyid", "str", False),
        Member("iv", "str", False),
        Member("serial", "int32", True),
    ),
    "TlsCredsProperties": (
        Member("verify-peer", "bool", False),
        Member("dir", "str", False),
        Member("endpoint", "QCryptoTLSCredsEndpoint", False),
        Member("priority", "str", False),
    ),
    "TlsCredsAnonProperties": (
        Member("verify-peer", "bool", False),
        Member("dir", "str", False),
        Member("endpoint", "QCryptoTLSCredsEndpoint", False),
        Member("priority", "str", False),
        Member("loaded", "bool", False),
    ),
    "TlsCredsPskProperties": (
        Member("verify-peer", "bool", False),
        Member("dir", "str", False),
        Member("endpoint", "QCryptoTLSCredsEndpoint", False),
        Member("priority", "str", False),
        Member("loaded", "bool", False),
        Member("username", "str", False),
    ),
    "TlsCredsX509Properties": (
        Member("verify-peer", "bool", False),
        Member("dir", "str", False),
        Member("endpoint", "QCryptoTLSCredsEndpoint", False),
        Member("priority", "str", False),
        Member("loaded", "bool", False),
        Member("sanity-check", "bool", False),
        Member("passwordid", "str", False),
    ),
    "SnapshotInfo": (
        Member("id", "str", True),
        Member("name", "str", True),
        Member("vm-state-size", "int", True),
        Member("date-sec", "int", True),
        Member("date-nsec", "int", True),
        Member("vm-clock-sec", "int", True),
        Member("vm-clock-nsec", "int", True),
        Member("icount", "int", False),
    ),
    "BlockDirtyBitmap": (
        Member("node", "str", True),
        Member("name", "str", True),
    ),
    "PRManagerInfo": (
        Member("id", "str", True),
        Member("connected", "bool", True),
    ),
    "ImageInfoSpecificQCow2EncryptionBase": (
        Member("format", "BlockdevQcow2EncryptionFormat", True),
    ),
    "ImageInfoSpecificQCow2Encryption": (
        Member("format", "BlockdevQcow2EncryptionFormat", True),
    ),
    "ImageInfoSpecificQCow2": (
        Member("compat", "str", True),
        Member("data-file", "str", False),
        Member("data-file-raw", "bool", False),
        Member("extended-l2", "bool", False),
        Member("lazy-refcounts", "bool", False),
        Member("corrupt", "bool", False),
        Member("refcount-bits", "int", True),
        Member("encrypt", "ImageInfoSpecificQCow2Encryption", False),
        Member("bitmaps", "[Qcow2BitmapInfo]", False),
        Member("compression-type", "Qcow2CompressionType", True),
    ),
    "ImageInfoSpecificVmdk": (
        Member("create-type", "str", True),
        Member("cid", "int", True),
        Member("parent-cid", "int", True),
        Member("extents", "[ImageInfo]", True),
    ),
    "ImageInfoSpecificRbd": (
        Member("encryption-format", "RbdImageEncryptionFormat", False),
    ),
    "ImageInfoSpecificQCow2Wrapper": (
        Member("data", "ImageInfoSpecificQCow2", True),
    ),
    "ImageInfoSpecificVmdkWrapper": (
        Member("data", "ImageInfoSpecificVmdk", True),
    ),
    "ImageInfoSpecificLUKSWrapper": (
        Member("data", "QCryptoBlockInfoLUKS", True),
    ),
    "ImageInfoSpecificRbdWrapper": (
        Member("data", "ImageInfoSpecificRbd", True),
    ),
    "ImageInfoSpecific": (
        Member("type", "ImageInfoSpecificKind", True),
    ),
    "ImageInfo": (
        Member("filename", "str", True),
        Member("format", "str", True),
        Member("dirty-flag", "bool", False),
        Member("actual-size", "int", False),
        Member("virtual-size", "int", True),
        Member("cluster-size", "int", False),
        Member("encrypted", "bool", False),
        Member("compressed", "bool", False),
        Member("backing-filename", "str", False),
        Member("full-backing-filename", "str", False),
        Member("backing-filename-format", "str", False),
        Member("snapshots", "[SnapshotInfo]", False),
        Member("backing-image", "ImageInfo", False),
        Member("format-specific", "ImageInfoSpecific", False),
    ),
    "BlockdevCacheInfo": (
        Member("writeback", "bool", True),
        Member("direct", "bool", True),
        Member("no-flush", "bool", True),
    ),
    "BlockDeviceInfo": (
        Member("file", "str", True),
        Member("node-name", "str", False),
        Member("ro", "bool", True),
        Member("drv", "str", True),
        Member("backing_file", "str", False),
        Member("backing_file_depth", "int", True),
        Member("encrypted", "bool", True),
        Member("detect_zeroes", "BlockdevDetectZeroesOptions", True),
        Member("bps", "int", True),
        Member("bps_rd", "int", True),
        Member("bps_wr", "int", True),
        Member("iops", "int", True),
        Member("iops_rd", "int", True),
        Member("iops_wr", "int", True),
        Member("image", "ImageInfo", True),
        Member("bps_max", "int", False),
        Member("bps_rd_max", "int", False),
        Member("bps_wr_max", "int", False),
        Member("iops_max", "int", False),
        Member("iops_rd_max", "int", False),
        Member("iops_wr_max", "int", False),
        Member("bps_max_length", "int", False),
        Member("bps_rd_max_length", "int", False),
        Member("bps_wr_max_length", "int", False),
        Member("iops_max_length", "int", False),
        Member("iops_rd_max_length", "int", False),
        Member("iops_wr_max_length", "int", False),
        Member("iops_size", "int", False),
        Member("group", "str", False),
        Member("cache", "BlockdevCacheInfo", True),
        Member("write_threshold", "int", True),
        Member("dirty-bitmaps", "[BlockDirtyInfo]", False),
    ),
    "BlockDirtyInfo": (
        Member("name", "str", False),
        Member("count", "int", True),
        Member("granularity", "uint32", True),
        Member("recording", "bool", True),
        Member("busy", "bool", True),
        Member("persistent", "bool", True),
        Member("inconsistent", "bool", False),
    ),
    "Qcow2BitmapInfo": (
        Member("name", "str", True),
        Member("granularity", "uint32", True),
        Member("flags", "[Qcow2BitmapInfoFlags]", True),
    ),
    "BlockLatencyHistogramInfo": (
        Member("boundaries", "[uint64]", True),
        Member("bins", "[uint64]", True),
    ),
    "BlockInfo": (
        Member("device", "str", True),
        Member("qdev", "str", False),
        Member("type", "str", True),
        Member("removable", "bool", True),
        Member("locked", "bool", True),
        Member("inserted", "BlockDeviceInfo", False),
        Member("tray_open", "bool", False),
        Member("io-status", "BlockDeviceIoStatus", False),
    ),
    "BlockDeviceTimedStats": (
        Member("interval_length", "int", True),
        Member("min_rd_latency_ns", "int", True),
        Member("max_rd_latency_ns", "int", True),
        Member("avg_rd_latency_ns", "int", True),
        Member("min_wr_latency_ns", "int", True),
        Member("max_wr_latency_ns", "int", True),
        Member("avg_wr_latency_ns", "int", True),
        Member("min_flush_latency_ns", "int", True),
        Member("max_flush_latency_ns", "int", True),
        Member("avg_flush_latency_ns", "int", True),
        Member("avg_rd_queue_depth", "number", True),
        Member("avg_wr_queue_depth", "number", True),
    ),
    "BlockDeviceStats": (
        Member("rd_bytes", "int", True),
        Member("wr_bytes", "int", True),
        Member("unmap_bytes", "int", True),
        Member("rd_operations", "int", True),
        Member("wr_operations", "int", True),
        Member("flush_operations", "int", True),
        Member("unmap_operations", "int", True),
        Member("rd_total_time_ns", "int", True),
        Member("wr_total_time_ns", "int", True),
        Member("flush_total_time_ns", "int", True),
        Member("unmap_total_time_ns", "int", True),
        Member("wr_highest_offset", "int", True),
        Member("rd_merged", "int", True),
        Member("wr_merged", "int", True),
        Member("unmap_merged", "int", True),
        Member("idle_time_ns", "int", False),
        Member("failed_rd_operations", "int", True),
        Member("failed_wr_operations", "int", True),
        Member("failed_flush_operations", "int", True),
        Member("failed_unmap_operations", "int", True),
        Member("invalid_rd_operations", "int", True),
        Member("invalid_wr_operations", "int", True),
        Member("invalid_flush_operations", "int", True),
        Member("invalid_unmap_operations", "int", True),
        Member("account_invalid", "bool", True),
        Member("account_failed", "bool", True),
        Member("timed_stats", "[BlockDeviceTimedStats]", True),
        Member("rd_latency_histogram", "BlockLatencyHistogramInfo", False),
        Member("wr_latency_histogram", "BlockLatencyHistogramInfo", False),
        Member("flush_latency_histogram", "BlockLatencyHistogramInfo", False),
    ),
    "BlockStatsSpecificFile": (
        Member("discard-nb-ok", "uint64", True),
        Member("discard-nb-failed", "uint64", True),
        Member("discard-bytes-ok", "uint64", True),
    ),
    "BlockStatsSpecificNvme": (
        Member("completion-errors", "uint64", True),
        Member("aligned-accesses", "uint64", True),
        Member("unaligned-accesses", "uint64", True),
    ),
    "BlockStatsSpecific": (
        Member("driver", "BlockdevDriver", True),
    ),
    "BlockStats": (
        Member("device", "str", False),
        Member("qdev", "str", False),
        Member("node-name", "str", False),
        Member("stats", "BlockDeviceStats", True),
        Member("driver-specific", "BlockStatsSpecific", False),
        Member("parent", "BlockStats", False),
        Member("backing", "BlockStats", False),
    ),
    "BlockJobInfo": (
        Member("type", "str", True),
        Member("device", "str", True),
        Member("len", "int", True),
        Member("offset", "int", True),
        Member("busy", "bool", True),
        Member("paused", "bool", True),
        Member("speed", "int", True),
        Member("io-status", "BlockDeviceIoStatus", True),
        Member("ready", "bool", True),
        Member("status", "JobStatus", True),
        Member("auto-finalize", "bool", True),
        Member("auto-dismiss", "bool", True),
        Member("error", "str", False),
    ),
    "BlockdevSnapshotSync": (
        Member("device", "str", False),
        Member("node-name", "str", False),
        Member("snapshot-file", "str", True),
        Member("snapshot-node-name", "str", False),
        Member("format", "str", False),
        Member("mode", "NewImageMode", False),
    ),
    "BlockdevSnapshot": (
        Member("node", "str", True),
        Member("overlay", "str", True),
    ),
    "BackupPerf": (
        Member("use-copy-range", "bool", False),
        Member("max-workers", "int", False),
        Member("max-chunk", "int64", False),
    ),
    "BackupCommon": (
        Member("job-id", "str", False),
        Member("device", "str", True),
        Member("sync", "MirrorSyncMode", True),
        Member("speed", "int", False),
        Member("bitmap", "str", False),
        Member("bitmap-mode", "BitmapSyncMode", False),
        Member("compress", "bool", False),
        Member("on-source-error", "BlockdevOnError", False),
        Member("on-target-error", "BlockdevOnError", False),
        Member("auto-finalize", "bool", False),
        Member("auto-dismiss", "bool", False),
        Member("filter-node-name", "str", False),
        Member("x-perf", "BackupPerf", False),
    ),
    "DriveBackup": (
        Member("job-id", "str", False),
        Member("device", "str", True),
        Member("sync", "MirrorSyncMode", True),
        Member("speed", "int", False),
        Member("bitmap", "str", False),
        Member("bitmap-mode", "BitmapSyncMode", False),
        Member("compress", "bool", False),
        Member("on-source-error", "BlockdevOnError", False),
        Member("on-target-error", "BlockdevOnError", False),
        Member("auto-finalize", "bool", False),
        Member("auto-dismiss", "bool", False),
        Member("filter-node-name", "str", False),
        Member("x-perf", "BackupPerf", False),
        Member("target", "str", True),
        Member("format", "str", False),
        Member("mode", "NewImageMode", False),
    ),
    "BlockdevBackup": (
        Member("job-id", "str", False),
        Member("device", "str", True),
        Member("sync", "MirrorSyncMode", True),
        Member("speed", "int", False),
        Member("bitmap", "str", False),
        Member("bitmap-mode", "BitmapSyncMode", False),
        Member("compress", "bool", False),
        Member("on-source-error", "BlockdevOnError", False),
        Member("on-target-error", "BlockdevOnError", False),
        Member("auto-finalize", "bool", False),
        Member("auto-dismiss", "bool", False),
        Member("filter-node-name", "str", False),
        Member("x-perf", "BackupPerf", False),
        Member("target", "str", True),
    ),
    "XDbgBlockGraphNode": (
        Member("id", "uint64", True),
        Member("type", "XDbgBlockGraphNodeType", True),
        Member("name", "str", True),
    ),
    "XDbgBlockGraphEdge": (
        Member("parent", "uint64", True),
        Member("child", "uint64", True),
        Member("name", "str", True),
        Member("perm", "[BlockPermission]", True),
        Member("shared-perm", "[BlockPermission]", True),
    ),
    "XDbgBlockGraph": (
        Member("nodes", "[XDbgBlockGraphNode]", True),
        Member("edges", "[XDbgBlockGraphEdge]", True),
    ),
    "DriveMirror": (
        Member("job-id", "str", False),
        Member("device", "str", True),
        Member("target", "str", True),
        Member("format", "str", False),
        Member("node-name", "str", False),
        Member("replaces", "str", False),
        Member("sync", "MirrorSyncMode", True),
        Member("mode", "NewImageMode", False),
        Member("speed", "int", False),
        Member("granularity", "uint32", False),
        Member("buf-size", "int", False),
        Member("on-source-error", "BlockdevOnError", False),
        Member("on-target-error", "BlockdevOnError", False),
        Member("unmap", "bool", False),
        Member("copy-mode", "MirrorCopyMode", False),
        Member("auto-finalize", "bool", False),
        Member("auto-dismiss", "bool", False),
    ),
    "BlockDirtyBitmapAdd": (
        Member("node", "str", True),
        Member("name", "str", True),
        Member("granularity", "uint32", False),
        Member("persistent", "bool", False),
        Member("disabled", "bool", False),
    ),
    "BlockDirtyBitmapMerge": (
        Member("node", "str", True),
        Member("target", "str", True),
        Member("bitmaps", "[BlockDirtyBitmapOrStr]", True),
    ),
    "BlockDirtyBitmapPopulate": (
        Member("job-id", "str", True),
        Member("node", "str", True),
        Member("name", "str", True),
        Member("pattern", "BitmapPattern", True),
        Member("on-error", "BlockdevOnError", False),
        Member("auto-finalize", "bool", False),
        Member("auto-dismiss", "bool", False),
    ),
    "BlockDirtyBitmapSha256": (
        Member("sha256", "str", True),
    ),
    "BlockIOThrottle": (
        Member("device", "str", False),
        Member("id", "str", False),
        Member("bps", "int", True),
        Member("bps_rd", "int", True),
        Member("bps_wr", "int", True),
        Member("iops", "int", True),
        Member("iops_rd", "int", True),
        Member("iops_wr", "int", True),
        Member("bps_max", "int", False),
        Member("bps_rd_max", "int", False),
        Member("bps_wr_max", "int", False),
        Member("iops_max", "int", False),
        Member("iops_rd_max", "int", False),
        Member("iops_wr_max", "int", False),
        Member("bps_max_length", "int", False),
        Member("bps_rd_max_length", "int", False),
        Member("bps_wr_max_length", "int", False),
        Member("iops_max_length", "int", False),
        Member("iops_rd_max_length", "int", False),
        Member("iops_wr_max_length", "int", False),
        Member("iops_size", "int", False),
        Member("group", "str", False),
    ),
    "ThrottleLimits": (
        Member("iops-total", "int", False),
        Member("iops-total-max", "int", False),
        Member("iops-total-max-length", "int", False),
        Member("iops-read", "int", False),
        Member("iops-read-max", "int", False),
        Member("iops-read-max-length", "int", False),
        Member("iops-write", "int", False),
        Member("iops-write-max", "int", False),
        Member("iops-write-max-length", "int", False),
        Member("bps-total", "int", False),
        Member("bps-total-max", "int", False),
        Member("bps-total-max-length", "int", False),
        Member("bps-read", "int", False),
        Member("bps-read-max", "int", False),
        Member("bps-read-max-length", "int", False),
        Member("bps-write", "int", False),
        Member("bps-write-max", "int", False),
        Member("bps-write-max-length", "int", False),
        Member("iops-size", "int", False),
    ),
    "ThrottleGroupProperties": (
        Member("limits", "ThrottleLimits", False),
        Member("x-iops-total", "int", False),
        Member("x-iops-total-max", "int", False),
        Member("x-iops-total-max-length", "int", False),
        Member("x-iops-read", "int", False),
        Member("x-iops-read-max", "int", False),
        Member("x-iops-read-max-length", "int", False),
        Member("x-iops-write", "int", False),
        Member("x-iops-write-max", "int", False),
        Member("x-iops-write-max-length", "int", False),
        Member("x-bps-total", "int", False),
        Member("x-bps-total-max", "int", False),
        Member("x-bps-total-max-length", "int", False),
        Member("x-bps-read", "int", False),
        Member("x-bps-read-max", "int", False),
        Member("x-bps-read-max-length", "int", False),
        Member("x-bps-write", "int", False),
        Member("x-bps-write-max", "int", False),
        Member("x-bps-write-max-length", "int", False),
        Member("x-iops-size", "int", False),
    ),
    "SshHostKeyHash": (
        Member("type", "SshHostKeyCheckHashType", True),
        Member("hash", "str", True),
    ),
    "SshHostKeyCheck": (
        Member("mode", "SshHostKeyCheckMode", True),
    ),
    "BlockdevOptionsSsh": (
        Member("server", "InetSocketAddress", True),
        Member("path", "str", True),
        Member("user", "str", False),
        Member("host-key-check", "SshHostKeyCheck", False),
    ),
    "BlockdevOptionsGluster": (
        Member("volume", "str", True),
        Member("path", "str", True),
        Member("server", "[SocketAddress]", True),
        Member("debug", "int", False),
        Member("logfile", "str", False),
    ),
    "BlockdevOptionsIscsi": (
        Member("transport", "IscsiTransport", True),
        Member("portal", "str", True),
        Member("target", "str", True),
        Member("lun", "int", False),
        Member("user", "str", False),
        Member("password-secret", "str", False),
        Member("initiator-name", "str", False),
        Member("header-digest", "IscsiHeaderDigest", False),
        Member("timeout", "int", False),
    ),
    "RbdEncryptionOptionsLUKSBase": (
        Member("key-secret", "str", True),
    ),
    "RbdEncryptionCreateOptionsLUKSBase": (
        Member("key-secret", "str", True),
        Member("cipher-alg", "QCryptoCipherAlgorithm", False),
    ),
    "RbdEncryptionOptionsLUKS": (
        Member("key-secret", "str", True),
    ),
    "RbdEncryptionOptionsLUKS2": (
        Member("key-secret", "str", True),
    ),
    "RbdEncryptionCreateOptionsLUKS": (
        Member("key-secret", "str", True),
        Member("cipher-alg", "QCryptoCipherAlgorithm", False),
    ),
    "RbdEncryptionCreateOptionsLUKS2": (
        Member("key-secret", "str", True),
        Member("cipher-alg", "QCryptoCipherAlgorithm", False),
    ),
    "RbdEncryptionOptions": (
        Member("format", "RbdImageEncryptionFormat", True),
    ),
    "RbdEncryptionCreateOptions": (
        Member("format", "RbdImageEncryptionFormat", True),
    ),
    "BlockdevOptionsRbd": (
        Member("pool", "str", True),
        Member("namespace", "str", False),
        Member("image", "str", True),
        Member("conf", "str", False),
        Member("snapshot", "str", False),
        Member("encrypt", "RbdEncryptionOptions", False),
        Member("user", "str", False),
        Member("auth-client-required", "[RbdAuthMode]", False),
        Member("key-secret", "str", False),
        Member("server", "[InetSocketAddressBase]", False),
    ),
    "NFSServer": (
        Member("type", "NFSTransport", True),
        Member("host", "str", True),
    ),
    "BlockdevOptionsNfs": (
        Member("server", "NFSServer", True),
        Member("path", "str", True),
        Member("user", "int", False),
        Member("group", "int", False),
        Member("tcp-syn-count", "int", False),
        Member("readahead-size", "int", False),
        Member("page-cache-size", "int", False),
        Member("debug", "int", False),
    ),
    "BlockdevOptionsCurlBase": (
        Member("url", "str", True),
        Member("readahead", "int", False),
        Member("timeout", "int", False),
        Member("username", "str", False),
        Member("password-secret", "str", False),
        Member("proxy-username", "str", False),
        Member("proxy-password-secret", "str", False),
    ),
    "BlockdevOptionsCurlHttp": (
        Member("url", "str", True),
        Member("readahead", "int", False),
        Member("timeout", "int", False),
        Member("username", "str", False),
        Member("password-secret", "str", False),
        Member("proxy-username", "str", False),
        Member("proxy-password-secret", "str", False),
        Member("cookie", "str", False),
        Member("cookie-secret", "str", False),
    ),
    "BlockdevOptionsCurlHttps": (
        Member("url", "str", True),
        Member("readahead", "int", False),
        Member("timeout", "int", False),
        Member("username", "str", False),
        Member("password-secret", "str", False),
        Member("proxy-username", "str", False),
        Member("proxy-password-secret", "str", False),
        Member("cookie", "str", False),
        Member("sslverify", "bool", False),
        Member("cookie-secret", "str", False),
    ),
    "BlockdevOptionsCurlFtp": (
        Member("url", "str", True),
        Member("readahead", "int", False),
        Member("timeout", "int", False),
        Member("username", "str", False),
        Member("password-secret", "str", False),
        Member("proxy-username", "str", False),
        Member("proxy-password-secret", "str", False),
    ),
    "BlockdevOptionsCurlFtps": (
        Member("url", "str", True),
        Member("readahead", "int", False),
        Member("timeout", "int", False),
        Member("username", "str", False),
        Member("password-secret", "str", False),
        Member("proxy-username", "str", False),
        Member("proxy-password-secret", "str", False),
        Member("sslverify", "bool", False),
    ),
    "BlockdevOptionsNbd": (
        Member("server", "SocketAddress", True),
        Member("export", "str", False),
        Member("tls-creds", "str", False),
        Member("tls-hostname", "str", False),
        Member("x-dirty-bitmap", "str", False),
        Member("reconnect-delay", "uint32", False),
        Member("open-timeout", "uint32", False),
    ),
    "BlockdevCacheOptions": (
        Member("direct", "bool", False),
        Member("no-flush", "bool", False),
    ),
    "BlockdevOptionsFile": (
        Member("filename", "str", True),
        Member("pr-manager", "str", False),
        Member("locking", "OnOffAuto", False),
        Member("aio", "BlockdevAioOptions", False),
        Member("aio-max-batch", "int", False),
        Member("drop-cache", "bool", False),
        Member("x-check-cache-dropped", "bool", False),
    ),
    "BlockdevOptionsNull": (
        Member("size", "int", False),
        Member("latency-ns", "uint64", False),
        Member("read-zeroes", "bool", False),
    ),
    "BlockdevOptionsNVMe": (
        Member("device", "str", True),
        Member("namespace", "int", True),
    ),
    "BlockdevOptionsVVFAT": (
        Member("dir", "str", True),
        Member("fat-type", "int", False),
        Member("floppy", "bool", False),
        Member("label", "str", False),
        Member("rw", "bool", False),
    ),
    "BlockdevOptionsGenericFormat": (
        Member("file", "BlockdevRef", True),
    ),
    "InternalSnapshotChoice": (
        Member("id", "str", False),
        Member("name", "str", False),
    ),
    "BlockdevOptionsSnapshotAccess": (
        Member("file", "BlockdevRef", True),
        Member("internal-snapshot", "InternalSnapshotChoice", False),
    ),
    "BlockdevOptionsLUKS": (
        Member("file", "BlockdevRef", True),
        Member("key-secret", "str", False),
    ),
    "BlockdevOptionsGenericCOWFormat": (
        Member("file", "BlockdevRef", True),
        Member("backing", "BlockdevRefOrNull", False),
    ),
    "Qcow2OverlapCheckFlags": (
        Member("template", "Qcow2OverlapCheckMode", False),
        Member("main-header", "bool", False),
        Member("active-l1", "bool", False),
        Member("active-l2", "bool", False),
        Member("refcount-table", "bool", False),
        Member("refcount-block", "bool", False),
        Member("snapshot-table", "bool", False),
        Member("inactive-l1", "bool", False),
        Member("inactive-l2", "bool", False),
        Member("bitmap-directory", "bool", False),
    ),
    "BlockdevQcowEncryption": (
        Member("format", "BlockdevQcowEncryptionFormat", True),
    ),
    "BlockdevOptionsQcow": (
        Member("file", "BlockdevRef", True),
        Member("backing", "BlockdevRefOrNull", False),
        Member("encrypt", "BlockdevQcowEncryption", False),
    ),
    "BlockdevQcow2Encryption": (
        Member("format", "BlockdevQcow2EncryptionFormat", True),
    ),
    "BlockdevOptionsPreallocate": (
        Member("file", "BlockdevRef", True),
        Member("prealloc-align", "int", False),
        Member("prealloc-size", "int", False),
    ),
    "BlockdevOptionsQcow2": (
        Member("file", "BlockdevRef", True),
        Member("backing", "BlockdevRefOrNull", False),
        Member("lazy-refcounts", "bool", False),
        Member("pass-discard-request", "bool", False),
        Member("pass-discard-snapshot", "bool", False),
        Member("pass-discard-other", "bool", False),
        Member("discard-no-unref", "bool", False),
        Member("overlap-check", "Qcow2OverlapChecks", False),
        Member("cache-size", "int", False),
        Member("l2-cache-size", "int", False),
        Member("l2-cache-entry-size", "int", False),
        Member("refcount-cache-size", "int", False),
        Member("cache-clean-interval", "int", False),
        Member("encrypt", "BlockdevQcow2Encryption", False),
        Member("data-file", "BlockdevRef", False),
    ),
    "BlkdebugInjectErrorOptions": (
        Member("event", "BlkdebugEvent", True),
        Member("state", "int", False),
        Member("iotype", "BlkdebugIOType", False),
        Member("errno", "int", False),
        Member("sector", "int", False),
        Member("once", "bool", False),
        Member("immediately", "bool", False),
    ),
    "BlkdebugSetStateOptions": (
        Member("event", "BlkdebugEvent", True),
        Member("state", "int", False),
        Member("new_state", "int", True),
    ),
    "BlockdevOptionsBlkdebug": (
        Member("image", "BlockdevRef", True),
        Member("config", "str", False),
        Member("align", "int", False),
        Member("max-transfer", "int32", False),
        Member("opt-write-zero", "int32", False),
        Member("max-write-zero", "int32", False),
        Member("opt-discard", "int32", False),
        Member("max-discard", "int32", False),
        Member("inject-error", "[BlkdebugInjectErrorOptions]", False),
        Member("set-state", "[BlkdebugSetStateOptions]", False),
        Member("take-child-perms", "[BlockPermission]", False),
        Member("unshare-child-perms", "[BlockPermission]", False),
    ),
    "BlockdevOptionsBlklogwrites": (
        Member("file", "BlockdevRef", True),
        Member("log", "BlockdevRef", True),
        Member("log-sector-size", "uint32", False),
        Member("log-append", "bool", False),
        Member("log-super-update-interval", "uint64", False),
    ),
    "BlockdevOptionsBlkverify": (
        Member("test", "BlockdevRef", True),
        Member("raw", "BlockdevRef", True),
    ),
    "BlockdevOptionsBlkreplay": (
        Member("image", "BlockdevRef", True),
    ),
    "BlockdevOptionsQuorum": (
        Member("blkverify", "bool", False),
        Member("children", "[BlockdevRef]", True),
        Member("vote-threshold", "int", True),
        Member("rewrite-corrupted", "bool", False),
        Member("read-pattern", "QuorumReadPattern", False),
    ),
    "BlockdevOptionsReplication": (
        Member("file", "BlockdevRef", True),
        Member("mode", "ReplicationMode", True),
        Member("top-id", "str", False),
    ),
    "BlockdevOptionsRaw": (
        Member("file", "BlockdevRef", True),
        Member("offset", "int", False),
        Member("size", "int", False),
    ),
    "BlockdevOptionsThrottle": (
        Member("throttle-group", "str", True),
        Member("file", "BlockdevRef", True),
    ),
    "BlockdevOptionsCor": (
        Member("file", "BlockdevRef", True),
        Member("bottom", "str", False),
    ),
    "BlockdevOptionsCbw": (
        Member("file", "BlockdevRef", True),
        Member("target", "BlockdevRef", True),
        Member("bitmap", "BlockDirtyBitmap", False),
        Member("on-cbw-error", "OnCbwError", False),
        Member("cbw-timeout", "uint32", False),
    ),
    "BlockdevOptions": (
        Member("driver", "BlockdevDriver", True),
        Member("node-name", "str", False),
        Member("discard", "BlockdevDiscardOptions", False),
        Member("cache", "BlockdevCacheOptions", False),
        Member("read-only", "bool", False),
        Member("auto-read-only", "bool", False),
        Member("force-share", "bool", False),
        Member("detect-zeroes", "BlockdevDetectZeroesOptions", False),
    ),
    "BlockdevCreateOptionsFile": (
        Member("filename", "str", True),
        Member("size", "size", True),
        Member("preallocation", "PreallocMode", False),
        Member("nocow", "bool", False),
        Member("extent-size-hint", "size", False),
    ),
    "BlockdevCreateOptionsGluster": (
        Member("location", "BlockdevOptionsGluster", True),
        Member("size", "size", True),
        Member("preallocation", "PreallocMode", False),
    ),
    "BlockdevCreateOptionsLUKS": (
        Member("key-secret", "str", False),
        Member("cipher-alg", "QCryptoCipherAlgorithm", False),
        Member("cipher-mode", "QCryptoCipherMode", False),
        Member("ivgen-alg", "QCryptoIVGenAlgorithm", False),
        Member("ivgen-hash-alg", "QCryptoHashAlgorithm", False),
        Member("hash-alg", "QCryptoHashAlgorithm", False),
        Member("iter-time", "int", False),
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("preallocation", "PreallocMode", False),
    ),
    "BlockdevCreateOptionsNfs": (
        Member("location", "BlockdevOptionsNfs", True),
        Member("size", "size", True),
    ),
    "BlockdevCreateOptionsParallels": (
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("cluster-size", "size", False),
    ),
    "BlockdevCreateOptionsQcow": (
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("backing-file", "str", False),
        Member("encrypt", "QCryptoBlockCreateOptions", False),
    ),
    "BlockdevCreateOptionsQcow2": (
        Member("file", "BlockdevRef", True),
        Member("data-file", "BlockdevRef", False),
        Member("data-file-raw", "bool", False),
        Member("extended-l2", "bool", False),
        Member("size", "size", True),
        Member("version", "BlockdevQcow2Version", False),
        Member("backing-file", "str", False),
        Member("backing-fmt", "BlockdevDriver", False),
        Member("encrypt", "QCryptoBlockCreateOptions", False),
        Member("cluster-size", "size", False),
        Member("preallocation", "PreallocMode", False),
        Member("lazy-refcounts", "bool", False),
        Member("refcount-bits", "int", False),
        Member("compression-type", "Qcow2CompressionType", False),
    ),
    "BlockdevCreateOptionsQed": (
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("backing-file", "str", False),
        Member("backing-fmt", "BlockdevDriver", False),
        Member("cluster-size", "size", False),
        Member("table-size", "int", False),
    ),
    "BlockdevCreateOptionsRbd": (
        Member("location", "BlockdevOptionsRbd", True),
        Member("size", "size", True),
        Member("cluster-size", "size", False),
        Member("encrypt", "RbdEncryptionCreateOptions", False),
    ),
    "BlockdevCreateOptionsVmdk": (
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("extents", "[BlockdevRef]", False),
        Member("subformat", "BlockdevVmdkSubformat", False),
        Member("backing-file", "str", False),
        Member("adapter-type", "BlockdevVmdkAdapterType", False),
        Member("hwversion", "str", False),
        Member("toolsversion", "str", False),
        Member("zeroed-grain", "bool", False),
    ),
    "BlockdevCreateOptionsSsh": (
        Member("location", "BlockdevOptionsSsh", True),
        Member("size", "size", True),
    ),
    "BlockdevCreateOptionsVdi": (
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("preallocation", "PreallocMode", False),
    ),
    "BlockdevCreateOptionsVhdx": (
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("log-size", "size", False),
        Member("block-size", "size", False),
        Member("subformat", "BlockdevVhdxSubformat", False),
        Member("block-state-zero", "bool", False),
    ),
    "BlockdevCreateOptionsVpc": (
        Member("file", "BlockdevRef", True),
        Member("size", "size", True),
        Member("subformat", "BlockdevVpcSubformat", False),
        Member("force-size", "bool", False),
    ),
    "BlockdevCreateOptions": (
        Member("driver", "BlockdevDriver", True),
    ),
    "BlockdevAmendOptionsLUKS": (
        Member("state", "QCryptoBlockLUKSKeyslotState", True),
        Member("new-secret", "str", False),
        Member("old-secret", "str", False),
        Member("keyslot", "int", False),
        Member("iter-time", "int", False),
        Member("secret", "str", False),
    ),
    "BlockdevAmendOptionsQcow2": (
        Member("encrypt", "QCryptoBlockAmendOptions", False),
    ),
    "BlockdevAmendOptions": (
        Member("driver", "BlockdevDriver", True),
    ),
    "BlockdevSnapshotInternal": (
        Member("device", "str", True),
        Member("name", "str", True),
    ),
    "JobInfo": (
        Member("id", "str", True),
        Member("type", "JobType", True),
        Member("status", "JobStatus", True),
        Member("current-progress", "int", True),
        Member("total-progress", "int", True),
        Member("error", "str", False),
    ),
    "BlockExportOptionsNbdBase": (
        Member("name", "str", False),
        Member("description", "str", False),
    ),
    "BlockExportOptionsNbd": (
        Member("name", "str", False),
        Member("description", "str", False),
        Member("bitmaps", "[BlockDirtyBitmapOrStr]", False),
        Member("allocation-depth", "bool", False),
    ),
    "BlockExportOptionsVhostUserBlk": (
        Member("addr", "SocketAddress", True),
        Member("logical-block-size", "size", False),
        Member("num-queues", "uint16", False),
    ),
    "BlockExportOptionsFuse": (
        Member("mountpoint", "str", True),
        Member("growable", "bool", False),
        Member("allow-other", "FuseExportAllowOther", False),
    ),
    "BlockExportOptionsVduseBlk": (
        Member("name", "str", True),
        Member("num-queues", "uint16", False),
        Member("queue-size", "uint16", False),
        Member("logical-block-size", "size", False),
        Member("serial", "str", False),
    ),
    "NbdServerAddOptions": (
        Member("name", "str", False),
        Member("description", "str", False),
        Member("device", "str", True),
        Member("writable", "bool", False),
        Member("bitmap", "str", False),
    ),
    "BlockExportOptions": (
        Member("type", "BlockExportType", True),
        Member("id", "str", True),
        Member("fixed-iothread", "bool", False),
        Member("iothread", "str", False),
        Member("node-name", "str", True),
        Member("x-guest-device", "str", False),
        Member("writable", "bool", False),
        Member("writethrough", "bool", False),
    ),
    "BlockExportInfo": (
        Member("id", "str", True),
        Member("type", "BlockExportType", True),
        Member("node-name", "str", True),
        Member("shutting-down", "bool", True),
    ),
    "ChardevInfo": (
        Member("label", "str", True),
        Member("filename", "str", True),
        Member("frontend-open", "bool", True),
    ),
    "ChardevBackendInfo": (
        Member("name", "str", True),
    ),
    "ChardevCommon": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
    ),
    "ChardevFile": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("in", "str", False),
        Member("out", "str", True),
        Member("append", "bool", False),
    ),
    "ChardevHostdev": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("device", "str", True),
    ),
    "ChardevSocket": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("addr", "SocketAddressLegacy", True),
        Member("tls-creds", "str", False),
        Member("tls-authz", "str", False),
        Member("server", "bool", False),
        Member("wait", "bool", False),
        Member("nodelay", "bool", False),
        Member("telnet", "bool", False),
        Member("tn3270", "bool", False),
        Member("websocket", "bool", False),
        Member("reconnect", "int", False),
    ),
    "ChardevUdp": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("remote", "SocketAddressLegacy", True),
        Member("local", "SocketAddressLegacy", False),
    ),
    "ChardevMux": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("chardev", "str", True),
    ),
    "ChardevStdio": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("signal", "bool", False),
    ),
    "ChardevSpiceChannel": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("type", "str", True),
    ),
    "ChardevSpicePort": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("fqdn", "str", True),
    ),
    "ChardevDBus": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("name", "str", True),
    ),
    "ChardevVC": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("width", "int", False),
        Member("height", "int", False),
        Member("cols", "int", False),
        Member("rows", "int", False),
    ),
    "ChardevRingbuf": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("size", "int", False),
    ),
    "ChardevQemuVDAgent": (
        Member("logfile", "str", False),
        Member("logappend", "bool", False),
        Member("mouse", "bool", False),
        Member("clipboard", "bool", False),
    ),
    "ChardevFileWrapper": (
        Member("data", "ChardevFile", True),
    ),
    "ChardevHostdevWrapper": (
        Member("data", "ChardevHostdev", True),
    ),
    "ChardevSocketWrapper": (
        Member("data", "ChardevSocket", True),
    ),
    "ChardevUdpWrapper": (
        Member("data", "ChardevUdp", True),
    ),
    "ChardevCommonWrapper": (
        Member("data", "ChardevCommon", True),
    ),
    "ChardevMuxWrapper": (
        Member("data", "ChardevMux", True),
    ),
    "ChardevStdioWrapper": (
        Member("data", "ChardevStdio", True),
    ),
    "ChardevSpiceChannelWrapper": (
        Member("data", "ChardevSpiceChannel", True),
    ),
    "ChardevSpicePortWrapper": (
        Member("data", "ChardevSpicePort", True),
    ),
    "ChardevQemuVDAgentWrapper": (
        Member("data", "ChardevQemuVDAgent", True),
    ),
    "ChardevDBusWrapper": (
        Member("data", "ChardevDBus", True),
    ),
    "ChardevVCWrapper": (
        Member("data", "ChardevVC", True),
    ),
    "ChardevRingbufWrapper": (
        Member("data", "ChardevRingbuf", True),
    ),
    "ChardevBackend": (
        Member("type", "ChardevBackendKind", True),
    ),
    "ChardevReturn": (
        Member("pty", "str", False),
    ),
    "IntWrapper": (
        Member("data", "int", True),
    ),
    "QKeyCodeWrapper": (
        Member("data", "QKeyCode", True),
    ),
    "KeyValue": (
        Member("type", "KeyValueKind", True),
    ),
    "QAuthZListRule": (
        Member("match", "str", True),
        Member("policy", "QAuthZListPolicy", True),
        Member("format", "QAuthZListFormat", False),
    ),
    "AuthZListProperties": (
        Member("policy", "QAuthZListPolicy", False),
        Member("rules", "[QAuthZListRule]", False),
    ),
    "AuthZListFileProperties": (
        Member("filename", "str", True),
        Member("refresh", "bool", False),
    ),
    "AuthZPAMProperties": (
        Member("service", "str", True),
    ),
    "AuthZSimpleProperties": (
        Member("identity", "str", True),
    ),
    "MigrationStats": (
        Member("transferred", "int", True),
        Member("remaining", "int", True),
        Member("total", "int", True),
        Member("duplicate", "int", True),
        Member("skipped", "int", True),
        Member("normal", "int", True),
        Member("normal-bytes", "int", True),
        Member("dirty-pages-rate", "int", True),
        Member("mbps", "number", True),
        Member("dirty-sync-count", "int", True),
        Member("postcopy-requests", "int", True),
        Member("page-size", "int", True),
        Member("multifd-bytes", "uint64", True),
        Member("pages-per-second", "uint64", True),
        Member("precopy-bytes", "uint64", True),
        Member("downtime-bytes", "uint64", True),
        Member("postcopy-bytes", "uint64", True),
        Member("dirty-sync-missed-zero-copy", "uint64", True),
    ),
    "XBZRLECacheStats": (
        Member("cache-size", "size", True),
        Member("bytes", "int", True),
        Member("pages", "int", True),
        Member("cache-miss", "int", True),
        Member("cache-miss-rate", "number", True),
        Member("encoding-rate", "number", True),
        Member("overflow", "int", True),
    ),
    "CompressionStats": (
        Member("pages", "int", True),
        Member("busy", "int", True),
        Member("busy-rate", "number", True),
        Member("compressed-size", "int", True),
        Member("compression-rate", "number", True),
    ),
    "VfioStats": (
        Member("transferred", "int", True),
    ),
    "MigrationInfo": (
        Member("status", "MigrationStatus", False),
        Member("ram", "MigrationStats", False),
        Member("disk", "MigrationStats", False),
        Member("vfio", "VfioStats", False),
        Member("xbzrle-cache", "XBZRLECacheStats", False),
        Member("total-time", "int", False),
        Member("expected-downtime", "int", False),
        Member("downtime", "int", False),
        Member("setup-time", "int", False),
        Member("cpu-throttle-percentage", "int", False),
        Member("error-desc", "str", False),
        Member("blocked-reasons", "[str]", False),
        Member("postcopy-blocktime", "uint32", False),
        Member("postcopy-vcpu-blocktime", "[uint32]", False),
        Member("compression", "CompressionStats", False),
        Member("socket-address", "[SocketAddress]", False),
    ),
    "MigrationCapabilityStatus": (
        Member("capability", "MigrationCapability", True),
        Member("state", "bool", True),
    ),
    "BitmapMigrationBitmapAliasTransform": (
        Member("persistent", "bool", False),
    ),
    "BitmapMigrationBitmapAlias": (
        Member("name", "str", True),
        Member("alias", "str", True),
        Member("transform", "BitmapMigrationBitmapAliasTransform", False),
    ),
    "BitmapMigrationNodeAlias": (
        Member("node-name", "str", True),
        Member("alias", "str", True),
        Member("bitmaps", "[BitmapMigrationBitmapAlias]", True),
    ),
    "MigrateSetParameters": (
        Member("announce-initial", "size", False),
        Member("announce-max", "size", False),
        Member("announce-rounds", "size", False),
        Member("announce-step", "size", False),
        Member("compress-level", "uint8", False),
        Member("compress-threads", "uint8", False),
        Member("compress-wait-thread", "bool", False),
        Member("decompress-threads", "uint8", False),
        Member("throttle-trigger-threshold", "uint8", False),
        Member("cpu-throttle-initial", "uint8", False),
        Member("cpu-throttle-increment", "uint8", False),
        Member("cpu-throttle-tailslow", "bool", False),
        Member("tls-creds", "StrOrNull", False),
        Member("tls-hostname", "StrOrNull", False),
        Member("tls-authz", "StrOrNull", False),
        Member("max-bandwidth", "size", False),
        Member("downtime-limit", "uint64", False),
        Member("x-checkpoint-delay", "uint32", False),
        Member("block-incremental", "bool", False),
        Member("multifd-channels", "uint8", False),
        Member("xbzrle-cache-size", "size", False),
        Member("max-postcopy-bandwidth", "size", False),
        Member("max-cpu-throttle", "uint8", False),
        Member("multifd-compression", "MultiFDCompression", False),
        Member("multifd-zlib-level", "uint8", False),
        Member("multifd-zstd-level", "uint8", False),
        Member("block-bitmap-mapping", "[BitmapMigrationNodeAlias]", False),
    ),
    "MigrationParameters": (
        Member("announce-initial", "size", False),
        Member("announce-max", "size", False),
        Member("announce-rounds", "size", False),
        Member("announce-step", "size", False),
        Member("compress-level", "uint8", False),
        Member("compress-threads", "uint8", False),
        Member("compress-wait-thread", "bool", False),
        Member("decompress-threads", "uint8", False),
        Member("throttle-trigger-threshold", "uint8", False),
        Member("cpu-throttle-initial", "uint8", False),
        Member("cpu-throttle-increment", "uint8", False),
        Member("cpu-throttle-tailslow", "bool", False),
        Member("tls-creds", "str", False),
        Member("tls-hostname", "str", False),
        Member("tls-authz", "str", False),
        Member("max-bandwidth", "size", False),
        Member("downtime-limit", "uint64", False),
        Member("x-checkpoint-delay", "uint32", False),
        Member("block-incremental", "bool", False),
        Member("multifd-channels", "uint8", False),
        Member("xbzrle-cache-size", "size", False),
        Member("max-postcopy-bandwidth", "size", False),
        Member("max-cpu-throttle", "uint8", False),
        Member("multifd-compression", "MultiFDCompression", False),
        Member("multifd-zlib-level", "uint8", False),
        Member("multifd-zstd-level", "uint8", False),
        Member("block-bitmap-mapping", "[BitmapMigrationNodeAlias]", False),
    ),
    "Abort": (),
    "AbortWrapper": (
        Member("data", "Abort", True),
    ),
    "BlockDirtyBitmapAddWrapper": (
        Member("data", "BlockDirtyBitmapAdd", True),
    ),
    "BlockDirtyBitmapWrapper": (
        Member("data", "BlockDirtyBitmap", True),
    ),
    "BlockDirtyBitmapMergeWrapper": (
        Member("data", "BlockDirtyBitmapMerge", True),
    ),
    "BlockdevBackupWrapper": (
        Member("data", "BlockdevBackup", True),
    ),
    "BlockdevSnapshotWrapper": (
        Member("data", "BlockdevSnapshot", True),
    ),
    "BlockdevSnapshotInternalWrapper": (
        Member("data", "BlockdevSnapshotInternal", True),
    ),
    "BlockdevSnapshotSyncWrapper": (
        Member("data", "BlockdevSnapshotSync", True),
    ),
    "DriveBackupWrapper": (
        Member("data", "DriveBackup", True),
    ),
    "TransactionAction": (
        Member("type", "TransactionActionKind", True),
    ),
    "TransactionProperties": (
        Member("completion-mode", "ActionCompletionMode", False),
    ),
    "VersionTriple": (
        Member("major", "int", True),
        Member("minor", "int", True),
        Member("micro", "int", True),
    ),
    "VersionInfo": (
        Member("qemu", "VersionTriple", True),
        Member("package", "str", True),
    ),
    "CommandInfo": (
        Member("name", "str", True),
    ),
    "SchemaInfo": (
        Member("name", "str", True),
        Member("meta-type", "SchemaMetaType", True),
        Member("features", "[str]", False),
    ),
    "SchemaInfoBuiltin": (
        Member("json-type", "JSONType", True),
    ),
    "SchemaInfoEnum": (
        Member("members", "[SchemaInfoEnumMember]", True),
        Member("values", "[str]", True),
    ),
    "SchemaInfoEnumMember": (
        Member("name", "str", True),
        Member("features", "[str]", False),
    ),
    "SchemaInfoArray": (
        Member("element-type", "str", True),
    ),
    "SchemaInfoObject": (
        Member("members", "[SchemaInfoObjectMember]", True),
        Member("tag", "str", False),
        Member("variants", "[SchemaInfoObjectVariant]", False),
    ),
    "SchemaInfoObjectMember": (
        Member("name", "str", True),
        Member("type", "str", True),
        Member("default", "any", False),
        Member("features", "[str]", False),
    ),
    "SchemaInfoObjectVariant": (
        Member("case", "str", True),
        Member("type", "str", True),
    ),
    "SchemaInfoAlternate": (
        Member("members", "[SchemaInfoAlternateMember]", True),
    ),
    "SchemaInfoAlternateMember": (
        Member("type", "str", True),
    ),
    "SchemaInfoCommand": (
        Member("arg-type", "str", True),
        Member("ret-type", "str", True),
        Member("allow-oob", "bool", False),
    ),
    "SchemaInfoEvent": (
        Member("arg-type", "str", True),
    ),
    "ObjectPropertyInfo": (
        Member("name", "str", True),
        Member("type", "str", True),
        Member("description", "str", False),
        Member("default-value", "any", False),
    ),
    "ObjectTypeInfo": (
        Member("name", "str", True),
        Member("abstract", "bool", False),
        Member("parent", "str", False),
    ),
    "EventLoopBaseProperties": (
        Member("aio-max-batch", "int", False),
        Member("thread-pool-min", "int", False),
        Member("thread-pool-max", "int", False),
    ),
    "IothreadProperties": (
        Member("aio-max-batch", "int", False),
        Member("thread-pool-min", "int", False),
        Member("thread-pool-max", "int", False),
        Member("poll-max-ns", "int", False),
        Member("poll-grow", "int", False),
        Member("poll-shrink", "int", False),
    ),
    "MainLoopProperties": (
        Member("aio-max-batch", "int", False),
        Member("thread-pool-min", "int", False),
        Member("thread-pool-max", "int", False),
    ),
    "MemoryBackendProperties": (
        Member("dump", "bool", False),
        Member("host-nodes", "[uint16]", False),
        Member("merge", "bool", False),
        Member("policy", "HostMemPolicy", False),
        Member("prealloc", "bool", False),
        Member("prealloc-threads", "uint32", False),
        Member("prealloc-context", "str", False),
        Member("share", "bool", False),
        Member("reserve", "bool", False),
        Member("size", "size", True),
        Member("x-use-canonical-path-for-ramblock-id", "bool", False),
    ),
    "MemoryBackendFileProperties": (
        Member("dump", "bool", False),
        Member("host-nodes", "[uint16]", False),
        Member("merge", "bool", False),
        Member("policy", "HostMemPolicy", False),
        Member("prealloc", "bool", False),
        Member("prealloc-threads", "uint32", False),
        Member("prealloc-context", "str", False),
        Member("share", "bool", False),
        Member("reserve", "bool", False),
        Member("size", "size", True),
        Member("x-use-canonical-path-for-ramblock-id", "bool", False),
        Member("align", "size", False),
        Member("discard-data", "bool", False),
        Member("mem-path", "str", True),
        Member("pmem", "bool", False),
        Member("readonly", "bool", False),
    ),
    "MemoryBackendMemfdProperties": (
        Member("dump", "bool", False),
        Member("host-nodes", "[uint16]", False),
        Member("merge", "bool", False),
        Member("policy", "HostMemPolicy", False),
        Member("prealloc", "bool", False),
        Member("prealloc-threads", "uint32", False),
        Member("prealloc-context", "str", False),
        Member("share", "bool", False),
        Member("reserve", "bool", False),
        Member("size", "size", True),
        Member("x-use-canonical-path-for-ramblock-id", "bool", False),
        Member("hugetlb", "bool", False),
        Member("hugetlbsize", "size", False),
        Member("seal", "bool", False),
    ),
    "PrManagerHelperProperties": (
        Member("path", "str", True),
    ),
    "RngProperties": (
        Member("opened", "bool", False),
    ),
    "RngEgdProperties": (
        Member("opened", "bool", False),
        Member("chardev", "str", True),
    ),
    "RngRandomProperties": (
        Member("opened", "bool", False),
        Member("filename", "str", False),
    ),
    "ObjectOptions": (
        Member("qom-type", "ObjectType", True),
        Member("id", "str", True),
    ),
    "CpuInfoS390": (
        Member("cpu-state", "CpuS390State", True),
    ),
    "CpuInfoFast": (
        Member("cpu-index", "int", True),
        Member("qom-path", "str", True),
        Member("thread-id", "int", True),
        Member("props", "CpuInstanceProperties", False),
        Member("target", "SysEmuTarget", True),
    ),
    "MachineInfo": (
        Member("name", "str", True),
        Member("alias", "str", False),
        Member("is-default", "bool", False),
        Member("cpu-max", "int", True),
        Member("hotpluggable-cpus", "bool", True),
        Member("numa-mem-supported", "bool", True),
        Member("deprecated", "bool", True),
        Member("default-cpu-type", "str", False),
        Member("default-ram-id", "str", False),
    ),
    "CurrentMachineParams": (
        Member("wakeup-suspend-support", "bool", True),
    ),
    "TargetInfo": (
        Member("arch", "SysEmuTarget", True),
    ),
    "UuidInfo": (
        Member("UUID", "str", True),
    ),
    "KvmInfo": (
        Member("enabled", "bool", True),
        Member("present", "bool", True),
    ),
    "CpuInstanceProperties": (
        Member("node-id", "int", False),
        Member("socket-id", "int", False),
        Member("die-id", "int", False),
        Member("cluster-id", "int", False),
        Member("core-id", "int", False),
        Member("thread-id", "int", False),
    ),
    "HotpluggableCPU": (
        Member("type", "str", True),
        Member("vcpus-count", "int", True),
        Member("props", "CpuInstanceProperties", True),
        Member("qom-path", "str", False),
    ),
    "BalloonInfo": (
        Member("actual", "int", True),
    ),
    "MemoryInfo": (
        Member("base-memory", "size", True),
        Member("plugged-memory", "size", False),
    ),
    "CpuDefinitionInfo": (
        Member("name", "str", True),
        Member("migration-safe", "bool", False),
        Member("static", "bool", True),
        Member("unavailable-features", "[str]", False),
        Member("typename", "str", True),
        Member("alias-of", "str", False),
        Member("deprecated", "bool", True),
    ),
    "YankInstanceBlockNode": (
        Member("node-name", "str", True),
    ),
    "YankInstanceChardev": (
        Member("id", "str", True),
    ),
    "YankInstance": (
        Member("type", "YankInstanceType", True),
    ),
    "NameInfo": (
        Member("name", "str", False),
    ),
    "IOThreadInfo": (
        Member("id", "str", True),
        Member("thread-id", "int", True),
        Member("poll-max-ns", "int", True),
        Member("poll-grow", "int", True),
        Member("poll-shrink", "int", True),
        Member("aio-max-batch", "int", True),
    ),
    "AddfdInfo": (
        Member("fdset-id", "int", True),
        Member("fd", "int", True),
    ),
    "FdsetFdInfo": (
        Member("fd", "int", True),
        Member("opaque", "str", False),
    ),
    "FdsetInfo": (
        Member("fdset-id", "int", True),
        Member("fds", "[FdsetFdInfo]", True),
    ),
    "CommandLineParameterInfo": (
        Member("name", "str", True),
        Member("type", "CommandLineParameterType", True),
        Member("help", "str", False),
        Member("default", "str", False),
    ),
    "CommandLineOptionInfo": (
        Member("option", "str", True),
        Member("parameters", "[CommandLineParameterInfo]", True),
    ),
}

UNIONS: dict[str, Union] = {
    "SocketAddressLegacy": Union("type", {
        "inet": "InetSocketAddressWrapper",
        "unix": "UnixSocketAddressWrapper",
        "vsock": "VsockSocketAddressWrapper",
        "fd": "StringWrapper",
    }),
    "SocketAddress": Union("type", {
        "inet": "InetSocketAddress",
        "unix": "UnixSocketAddress",
        "vsock": "VsockSocketAddress",
        "fd": "String",
    }),
    "QCryptoBlockCreateOptions": Union("format", {
        "qcow": "QCryptoBlockOptionsQCow",
        "luks": "QCryptoBlockCreateOptionsLUKS",
    }),
    "QCryptoBlockAmendOptions": Union("format", {
        "luks": "QCryptoBlockAmendOptionsLUKS",
    }),
    "ImageInfoSpecificQCow2Encryption": Union("format", {
        "luks": "QCryptoBlockInfoLUKS",
    }),
    "ImageInfoSpecific": Union("type", {
        "qcow2": "ImageInfoSpecificQCow2Wrapper",
        "vmdk": "ImageInfoSpecificVmdkWrapper",
        "luks": "ImageInfoSpecificLUKSWrapper",
        "rbd": "ImageInfoSpecificRbdWrapper",
    }),
    "BlockStatsSpecific": Union("driver", {
        "file": "BlockStatsSpecificFile",
        "host_device": "BlockStatsSpecificFile",
        "nvme": "BlockStatsSpecificNvme",
    }),
    "SshHostKeyCheck": Union("mode", {
        "hash": "SshHostKeyHash",
    }),
    "RbdEncryptionOptions": Union("format", {
        "luks": "RbdEncryptionOptionsLUKS",
        "luks2": "RbdEncryptionOptionsLUKS2",
    }),
    "RbdEncryptionCreateOptions": Union("format", {
        "luks": "RbdEncryptionCreateOptionsLUKS",
        "luks2": "RbdEncryptionCreateOptionsLUKS2",
    }),
    "BlockdevQcowEncryption": Union("format", {
        "aes": "QCryptoBlockOptionsQCow",
    }),
    "BlockdevQcow2Encryption": Union("format", {
        "aes": "QCryptoBlockOptionsQCow",
        "luks": "QCryptoBlockOptionsLUKS",
    }),
    "BlockdevOptions": Union("driver", {
        "blkdebug": "BlockdevOptionsBlkdebug",
        "blklogwrites": "BlockdevOptionsBlklogwrites",
        "blkverify": "BlockdevOptionsBlkverify",
        "blkreplay": "BlockdevOptionsBlkreplay",
        "bochs": "BlockdevOptionsGenericFormat",
        "cloop": "BlockdevOptionsGenericFormat",
        "compress": "BlockdevOptionsGenericFormat",
        "copy-before-write": "BlockdevOptionsCbw",
        "copy-on-read": "BlockdevOptionsCor",
        "dmg": "BlockdevOptionsGenericFormat",
        "file": "BlockdevOptionsFile",
        "ftp": "BlockdevOptionsCurlFtp",
        "ftps": "BlockdevOptionsCurlFtps",
        "gluster": "BlockdevOptionsGluster",
        "host_cdrom": "BlockdevOptionsFile",
        "host_device": "BlockdevOptionsFile",
        "http": "BlockdevOptionsCurlHttp",
        "https": "BlockdevOptionsCurlHttps",
        "iscsi": "BlockdevOptionsIscsi",
        "luks": "BlockdevOptionsLUKS",
        "nbd": "BlockdevOptionsNbd",
        "nfs": "BlockdevOptionsNfs",
        "null-aio": "BlockdevOptionsNull",
        "null-co": "BlockdevOptionsNull",
        "nvme": "BlockdevOptionsNVMe",
        "parallels": "BlockdevOptionsGenericFormat",
        "preallocate": "BlockdevOptionsPreallocate",
        "qcow2": "BlockdevOptionsQcow2",
        "qcow": "BlockdevOptionsQcow",
        "qed": "BlockdevOptionsGenericCOWFormat",
        "quorum": "BlockdevOptionsQuorum",
        "raw": "BlockdevOptionsRaw",
        "rbd": "BlockdevOptionsRbd",
        "replication": "BlockdevOptionsReplication",
        "snapshot-access": "BlockdevOptionsSnapshotAccess",
        "ssh": "BlockdevOptionsSsh",
        "throttle": "BlockdevOptionsThrottle",
        "vdi": "BlockdevOptionsGenericFormat",
        "vhdx": "BlockdevOptionsGenericFormat",
        "vmdk": "BlockdevOptionsGenericCOWFormat",
        "vpc": "BlockdevOptionsGenericFormat",
        "vvfat": "BlockdevOptionsVVFAT",
    }),
    "BlockdevCreateOptions": Union("driver", {
        "file": "BlockdevCreateOptionsFile",
        "gluster": "BlockdevCreateOptionsGluster",
        "luks": "BlockdevCreateOptionsLUKS",
        "nfs": "BlockdevCreateOptionsNfs",
        "parallels": "BlockdevCreateOptionsParallels",
        "qcow": "BlockdevCreateOptionsQcow",
        "qcow2": "BlockdevCreateOptionsQcow2",
        "qed": "BlockdevCreateOptionsQed",
        "rbd": "BlockdevCreateOptionsRbd",
        "ssh": "BlockdevCreateOptionsSsh",
        "vdi": "BlockdevCreateOptionsVdi",
        "vhdx": "BlockdevCreateOptionsVhdx",
        "vmdk": "BlockdevCreateOptionsVmdk",
        "vpc": "BlockdevCreateOptionsVpc",
    }),
    "BlockdevAmendOptions": Union("driver", {
        "luks": "BlockdevAmendOptionsLUKS",
        "qcow2": "BlockdevAmendOptionsQcow2",
    }),
    "BlockExportOptions": Union("type", {
        "nbd": "BlockExportOptionsNbd",
        "vhost-user-blk": "BlockExportOptionsVhostUserBlk",
        "fuse": "BlockExportOptionsFuse",
        "vduse-blk": "BlockExportOptionsVduseBlk",
    }),
    "ChardevBackend": Union("type", {
        "file": "ChardevFileWrapper",
        "serial": "ChardevHostdevWrapper",
        "parallel": "ChardevHostdevWrapper",
        "pipe": "ChardevHostdevWrapper",
        "socket": "ChardevSocketWrapper",
        "udp": "ChardevUdpWrapper",
        "pty": "ChardevCommonWrapper",
        "null": "ChardevCommonWrapper",
        "mux": "ChardevMuxWrapper",
        "msmouse": "ChardevCommonWrapper",
        "wctablet": "ChardevCommonWrapper",
        "braille": "ChardevCommonWrapper",
        "testdev": "ChardevCommonWrapper",
        "stdio": "ChardevStdioWrapper",
        "console": "ChardevCommonWrapper",
        "spicevmc": "ChardevSpiceChannelWrapper",
        "spiceport": "ChardevSpicePortWrapper",
        "qemu-vdagent": "ChardevQemuVDAgentWrapper",
        "dbus": "ChardevDBusWrapper",
        "vc": "ChardevVCWrapper",
        "ringbuf": "ChardevRingbufWrapper",
        "memory": "ChardevRingbufWrapper",
    }),
    "KeyValue": Union("type", {
        "number": "IntWrapper",
        "qcode": "QKeyCodeWrapper",
    }),
    "TransactionAction": Union("type", {
        "abort": "AbortWrapper",
        "block-dirty-bitmap-add": "BlockDirtyBitmapAddWrapper",
        "block-dirty-bitmap-remove": "BlockDirtyBitmapWrapper",
        "block-dirty-bitmap-clear": "BlockDirtyBitmapWrapper",
        "block-dirty-bitmap-enable": "BlockDirtyBitmapWrapper",
        "block-dirty-bitmap-disable": "BlockDirtyBitmapWrapper",
        "block-dirty-bitmap-merge": "BlockDirtyBitmapMergeWrapper",
        "blockdev-backup": "BlockdevBackupWrapper",
        "blockdev-snapshot": "BlockdevSnapshotWrapper",
        "blockdev-snapshot-internal-sync": "BlockdevSnapshotInternalWrapper",
        "blockdev-snapshot-sync": "BlockdevSnapshotSyncWrapper",
        "drive-backup": "DriveBackupWrapper",
    }),
    "SchemaInfo": Union("meta-type", {
        "builtin": "SchemaInfoBuiltin",
        "enum": "SchemaInfoEnum",
        "array": "SchemaInfoArray",
        "object": "SchemaInfoObject",
        "alternate": "SchemaInfoAlternate",
        "command": "SchemaInfoCommand",
        "event": "SchemaInfoEvent",
    }),
    "ObjectOptions": Union("qom-type", {
        "authz-list": "AuthZListProperties",
        "authz-listfile": "AuthZListFileProperties",
        "authz-pam": "AuthZPAMProperties",
        "authz-simple": "AuthZSimpleProperties",
        "iothread": "IothreadProperties",
        "main-loop": "MainLoopProperties",
        "memory-backend-file": "MemoryBackendFileProperties",
        "memory-backend-memfd": "MemoryBackendMemfdProperties",
        "memory-backend-ram": "MemoryBackendProperties",
        "pr-manager-helper": "PrManagerHelperProperties",
        "rng-builtin": "RngProperties",
        "rng-egd": "RngEgdProperties",
        "rng-random": "RngRandomProperties",
        "secret": "SecretProperties",
        "secret_keyring": "SecretKeyringProperties",
        "throttle-group": "ThrottleGroupProperties",
        "tls-creds-anon": "TlsCredsAnonProperties",
        "tls-creds-psk": "TlsCredsPskProperties",
        "tls-creds-x509": "TlsCredsX509Properties",
        "tls-cipher-suites": "TlsCredsProperties",
    }),
    "CpuInfoFast": Union("target", {
        "s390x": "CpuInfoS390",
    }),
    "YankInstance": Union("type", {
        "block-node": "YankInstanceBlockNode",
        "chardev": "YankInstanceChardev",
    }),
}

ALTERNATES: dict[str, tuple[str, ...]] = {
    "StrOrNull": ("str", "null",),
    "BlockDirtyBitmapOrStr": ("str", "BlockDirtyBitmap",),
    "Qcow2OverlapChecks": ("Qcow2OverlapCheckFlags", "Qcow2OverlapCheckMode",),
    "BlockdevRef": ("BlockdevOptions", "str",),
    "BlockdevRefOrNull": ("BlockdevOptions", "str", "null",),
}

COMMANDS: dict[str, Command] = {
    "query-status": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "watchdog-set-action": Command(
        (
            Member("action", "WatchdogAction", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "set-action": Command(
        (
            Member("reboot", "RebootAction", False),
            Member("shutdown", "ShutdownAction", False),
            Member("panic", "PanicAction", False),
            Member("watchdog", "WatchdogAction", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-pr-managers": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "eject": Command(
        (
            Member("device", "str", False),
            Member("id", "str", False),
            Member("force", "bool", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-open-tray": Command(
        (
            Member("device", "str", False),
            Member("id", "str", False),
            Member("force", "bool", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-close-tray": Command(
        (
            Member("device", "str", False),
            Member("id", "str", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-remove-medium": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-insert-medium": Command(
        (
            Member("id", "str", True),
            Member("node-name", "str", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-change-medium": Command(
        (
            Member("device", "str", False),
            Member("id", "str", False),
            Member("filename", "str", True),
            Member("format", "str", False),
            Member("force", "bool", False),
            Member("read-only-mode", "BlockdevChangeReadOnlyMode", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "block_set_io_throttle": Command(
        (
            Member("device", "str", False),
            Member("id", "str", False),
            Member("bps", "int", True),
            Member("bps_rd", "int", True),
            Member("bps_wr", "int", True),
            Member("iops", "int", True),
            Member("iops_rd", "int", True),
            Member("iops_wr", "int", True),
            Member("bps_max", "int", False),
            Member("bps_rd_max", "int", False),
            Member("bps_wr_max", "int", False),
            Member("iops_max", "int", False),
            Member("iops_rd_max", "int", False),
            Member("iops_wr_max", "int", False),
            Member("bps_max_length", "int", False),
            Member("bps_rd_max_length", "int", False),
            Member("bps_wr_max_length", "int", False),
            Member("iops_max_length", "int", False),
            Member("iops_rd_max_length", "int", False),
            Member("iops_wr_max_length", "int", False),
            Member("iops_size", "int", False),
            Member("group", "str", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-latency-histogram-set": Command(
        (
            Member("id", "str", True),
            Member("boundaries", "[uint64]", False),
            Member("boundaries-read", "[uint64]", False),
            Member("boundaries-write", "[uint64]", False),
            Member("boundaries-flush", "[uint64]", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-block": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-blockstats": Command(
        (
            Member("query-nodes", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-block-jobs": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block_resize": Command(
        (
            Member("device", "str", False),
            Member("node-name", "str", False),
            Member("size", "int", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-snapshot-sync": Command(
        (
            Member("device", "str", False),
            Member("node-name", "str", False),
            Member("snapshot-file", "str", True),
            Member("snapshot-node-name", "str", False),
            Member("format", "str", False),
            Member("mode", "NewImageMode", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-snapshot": Command(
        (
            Member("node", "str", True),
            Member("overlay", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "change-backing-file": Command(
        (
            Member("device", "str", True),
            Member("image-node-name", "str", True),
            Member("backing-file", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-commit": Command(
        (
            Member("job-id", "str", False),
            Member("device", "str", True),
            Member("base-node", "str", False),
            Member("base", "str", False),
            Member("top-node", "str", False),
            Member("top", "str", False),
            Member("backing-file", "str", False),
            Member("speed", "int", False),
            Member("on-error", "BlockdevOnError", False),
            Member("filter-node-name", "str", False),
            Member("auto-finalize", "bool", False),
            Member("auto-dismiss", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "drive-backup": Command(
        (
            Member("job-id", "str", False),
            Member("device", "str", True),
            Member("sync", "MirrorSyncMode", True),
            Member("speed", "int", False),
            Member("bitmap", "str", False),
            Member("bitmap-mode", "BitmapSyncMode", False),
            Member("compress", "bool", False),
            Member("on-source-error", "BlockdevOnError", False),
            Member("on-target-error", "BlockdevOnError", False),
            Member("auto-finalize", "bool", False),
            Member("auto-dismiss", "bool", False),
            Member("filter-node-name", "str", False),
            Member("x-perf", "BackupPerf", False),
            Member("target", "str", True),
            Member("format", "str", False),
            Member("mode", "NewImageMode", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-backup": Command(
        (
            Member("job-id", "str", False),
            Member("device", "str", True),
            Member("sync", "MirrorSyncMode", True),
            Member("speed", "int", False),
            Member("bitmap", "str", False),
            Member("bitmap-mode", "BitmapSyncMode", False),
            Member("compress", "bool", False),
            Member("on-source-error", "BlockdevOnError", False),
            Member("on-target-error", "BlockdevOnError", False),
            Member("auto-finalize", "bool", False),
            Member("auto-dismiss", "bool", False),
            Member("filter-node-name", "str", False),
            Member("x-perf", "BackupPerf", False),
            Member("target", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-named-block-nodes": Command(
        (
            Member("flat", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "x-debug-query-block-graph": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "drive-mirror": Command(
        (
            Member("job-id", "str", False),
            Member("device", "str", True),
            Member("target", "str", True),
            Member("format", "str", False),
            Member("node-name", "str", False),
            Member("replaces", "str", False),
            Member("sync", "MirrorSyncMode", True),
            Member("mode", "NewImageMode", False),
            Member("speed", "int", False),
            Member("granularity", "uint32", False),
            Member("buf-size", "int", False),
            Member("on-source-error", "BlockdevOnError", False),
            Member("on-target-error", "BlockdevOnError", False),
            Member("unmap", "bool", False),
            Member("copy-mode", "MirrorCopyMode", False),
            Member("auto-finalize", "bool", False),
            Member("auto-dismiss", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-dirty-bitmap-add": Command(
        (
            Member("node", "str", True),
            Member("name", "str", True),
            Member("granularity", "uint32", False),
            Member("persistent", "bool", False),
            Member("disabled", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-dirty-bitmap-remove": Command(
        (
            Member("node", "str", True),
            Member("name", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-dirty-bitmap-clear": Command(
        (
            Member("node", "str", True),
            Member("name", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-dirty-bitmap-enable": Command(
        (
            Member("node", "str", True),
            Member("name", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-dirty-bitmap-disable": Command(
        (
            Member("node", "str", True),
            Member("name", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-dirty-bitmap-merge": Command(
        (
            Member("node", "str", True),
            Member("target", "str", True),
            Member("bitmaps", "[BlockDirtyBitmapOrStr]", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-dirty-bitmap-populate": Command(
        (
            Member("job-id", "str", True),
            Member("node", "str", True),
            Member("name", "str", True),
            Member("pattern", "BitmapPattern", True),
            Member("on-error", "BlockdevOnError", False),
            Member("auto-finalize", "bool", False),
            Member("auto-dismiss", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=True,
    ),
    "x-debug-block-dirty-bitmap-sha256": Command(
        (
            Member("node", "str", True),
            Member("name", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-mirror": Command(
        (
            Member("job-id", "str", False),
            Member("device", "str", True),
            Member("target", "str", True),
            Member("replaces", "str", False),
            Member("sync", "MirrorSyncMode", True),
            Member("speed", "int", False),
            Member("granularity", "uint32", False),
            Member("buf-size", "int", False),
            Member("on-source-error", "BlockdevOnError", False),
            Member("on-target-error", "BlockdevOnError", False),
            Member("filter-node-name", "str", False),
            Member("copy-mode", "MirrorCopyMode", False),
            Member("auto-finalize", "bool", False),
            Member("auto-dismiss", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-stream": Command(
        (
            Member("job-id", "str", False),
            Member("device", "str", True),
            Member("base", "str", False),
            Member("base-node", "str", False),
            Member("backing-file", "str", False),
            Member("bottom", "str", False),
            Member("speed", "int", False),
            Member("on-error", "BlockdevOnError", False),
            Member("filter-node-name", "str", False),
            Member("auto-finalize", "bool", False),
            Member("auto-dismiss", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-job-set-speed": Command(
        (
            Member("device", "str", True),
            Member("speed", "int", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-job-cancel": Command(
        (
            Member("device", "str", True),
            Member("force", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-job-pause": Command(
        (
            Member("device", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-job-resume": Command(
        (
            Member("device", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-job-complete": Command(
        (
            Member("device", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-job-dismiss": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-job-finalize": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-add": Command(
        (
            Member("driver", "BlockdevDriver", True),
            Member("node-name", "str", False),
            Member("discard", "BlockdevDiscardOptions", False),
            Member("cache", "BlockdevCacheOptions", False),
            Member("read-only", "bool", False),
            Member("auto-read-only", "bool", False),
            Member("force-share", "bool", False),
            Member("detect-zeroes", "BlockdevDetectZeroesOptions", False),
        ),
        UNIONS["BlockdevOptions"],
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-reopen": Command(
        (
            Member("options", "[BlockdevOptions]", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-del": Command(
        (
            Member("node-name", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-create": Command(
        (
            Member("job-id", "str", True),
            Member("options", "BlockdevCreateOptions", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "x-blockdev-amend": Command(
        (
            Member("job-id", "str", True),
            Member("node-name", "str", True),
            Member("options", "BlockdevAmendOptions", True),
            Member("force", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-set-write-threshold": Command(
        (
            Member("node-name", "str", True),
            Member("write-threshold", "uint64", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "x-blockdev-change": Command(
        (
            Member("parent", "str", True),
            Member("child", "str", False),
            Member("node", "str", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "x-blockdev-set-iothread": Command(
        (
            Member("node-name", "str", True),
            Member("iothread", "StrOrNull", True),
            Member("force", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-snapshot-internal-sync": Command(
        (
            Member("device", "str", True),
            Member("name", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "blockdev-snapshot-delete-internal-sync": Command(
        (
            Member("device", "str", True),
            Member("id", "str", False),
            Member("name", "str", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "job-pause": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "job-resume": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "job-cancel": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "job-complete": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "job-dismiss": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "job-finalize": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-jobs": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "nbd-server-start": Command(
        (
            Member("addr", "SocketAddressLegacy", True),
            Member("tls-creds", "str", False),
            Member("tls-authz", "str", False),
            Member("max-connections", "uint32", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "nbd-server-add": Command(
        (
            Member("name", "str", False),
            Member("description", "str", False),
            Member("device", "str", True),
            Member("writable", "bool", False),
            Member("bitmap", "str", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "nbd-server-remove": Command(
        (
            Member("name", "str", True),
            Member("mode", "BlockExportRemoveMode", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "nbd-server-stop": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-export-add": Command(
        (
            Member("type", "BlockExportType", True),
            Member("id", "str", True),
            Member("fixed-iothread", "bool", False),
            Member("iothread", "str", False),
            Member("node-name", "str", True),
            Member("x-guest-device", "str", False),
            Member("writable", "bool", False),
            Member("writethrough", "bool", False),
        ),
        UNIONS["BlockExportOptions"],
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "block-export-del": Command(
        (
            Member("id", "str", True),
            Member("mode", "BlockExportRemoveMode", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-block-exports": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-chardev": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-chardev-backends": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "ringbuf-write": Command(
        (
            Member("device", "str", True),
            Member("data", "str", True),
            Member("format", "DataFormat", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "ringbuf-read": Command(
        (
            Member("device", "str", True),
            Member("size", "int", True),
            Member("format", "DataFormat", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "chardev-add": Command(
        (
            Member("id", "str", True),
            Member("backend", "ChardevBackend", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "chardev-change": Command(
        (
            Member("id", "str", True),
            Member("backend", "ChardevBackend", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "chardev-remove": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "chardev-send-break": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "send-key": Command(
        (
            Member("keys", "[KeyValue]", True),
            Member("hold-time", "int", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-migrate": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate-set-capabilities": Command(
        (
            Member("capabilities", "[MigrationCapabilityStatus]", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-migrate-capabilities": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate-set-parameters": Command(
        (
            Member("announce-initial", "size", False),
            Member("announce-max", "size", False),
            Member("announce-rounds", "size", False),
            Member("announce-step", "size", False),
            Member("compress-level", "uint8", False),
            Member("compress-threads", "uint8", False),
            Member("compress-wait-thread", "bool", False),
            Member("decompress-threads", "uint8", False),
            Member("throttle-trigger-threshold", "uint8", False),
            Member("cpu-throttle-initial", "uint8", False),
            Member("cpu-throttle-increment", "uint8", False),
            Member("cpu-throttle-tailslow", "bool", False),
            Member("tls-creds", "StrOrNull", False),
            Member("tls-hostname", "StrOrNull", False),
            Member("tls-authz", "StrOrNull", False),
            Member("max-bandwidth", "size", False),
            Member("downtime-limit", "uint64", False),
            Member("x-checkpoint-delay", "uint32", False),
            Member("block-incremental", "bool", False),
            Member("multifd-channels", "uint8", False),
            Member("xbzrle-cache-size", "size", False),
            Member("max-postcopy-bandwidth", "size", False),
            Member("max-cpu-throttle", "uint8", False),
            Member("multifd-compression", "MultiFDCompression", False),
            Member("multifd-zlib-level", "uint8", False),
            Member("multifd-zstd-level", "uint8", False),
            Member("block-bitmap-mapping", "[BitmapMigrationNodeAlias]", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-migrate-parameters": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate-start-postcopy": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate_cancel": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate-continue": Command(
        (
            Member("state", "MigrationStatus", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate": Command(
        (
            Member("uri", "str", True),
            Member("blk", "bool", False),
            Member("inc", "bool", False),
            Member("detach", "bool", False),
            Member("resume", "bool", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate-incoming": Command(
        (
            Member("uri", "str", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "migrate-recover": Command(
        (
            Member("uri", "str", True),
        ),
        None,
        ('system',),
        oob=True,
        open=False,
        extension=False,
    ),
    "migrate-pause": Command(
        (),
        None,
        ('system',),
        oob=True,
        open=False,
        extension=False,
    ),
    "snapshot-save": Command(
        (
            Member("job-id", "str", True),
            Member("tag", "str", True),
            Member("vmstate", "str", True),
            Member("devices", "[str]", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "snapshot-load": Command(
        (
            Member("job-id", "str", True),
            Member("tag", "str", True),
            Member("vmstate", "str", True),
            Member("devices", "[str]", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "snapshot-delete": Command(
        (
            Member("job-id", "str", True),
            Member("tag", "str", True),
            Member("devices", "[str]", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "transaction": Command(
        (
            Member("actions", "[TransactionAction]", True),
            Member("properties", "TransactionProperties", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "qmp_capabilities": Command(
        (
            Member("enable", "[QMPCapability]", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-version": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-commands": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "quit": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-qmp-schema": Command(
        (),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "qom-list": Command(
        (
            Member("path", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "qom-get": Command(
        (
            Member("path", "str", True),
            Member("property", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "qom-set": Command(
        (
            Member("path", "str", True),
            Member("property", "str", True),
            Member("value", "any", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "qom-list-types": Command(
        (
            Member("implements", "str", False),
            Member("abstract", "bool", False),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "qom-list-properties": Command(
        (
            Member("typename", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "object-add": Command(
        (
            Member("qom-type", "ObjectType", True),
            Member("id", "str", True),
        ),
        UNIONS["ObjectOptions"],
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "object-del": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system', 'daemon'),
        oob=False,
        open=False,
        extension=False,
    ),
    "device-list-properties": Command(
        (
            Member("typename", "str", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "device_add": Command(
        (
            Member("driver", "str", True),
            Member("bus", "str", False),
            Member("id", "str", False),
        ),
        None,
        ('system',),
        oob=False,
        open=True,
        extension=False,
    ),
    "device_del": Command(
        (
            Member("id", "str", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-cpus-fast": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-machines": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-current-machine": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-target": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-uuid": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "system_reset": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "system_powerdown": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "system_wakeup": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "inject-nmi": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-kvm": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-hotpluggable-cpus": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "balloon": Command(
        (
            Member("value", "int", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-balloon": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-memory-size-summary": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-cpu-definitions": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "yank": Command(
        (
            Member("instances", "[YankInstance]", True),
        ),
        None,
        ('system',),
        oob=True,
        open=False,
        extension=False,
    ),
    "query-yank": Command(
        (),
        None,
        ('system',),
        oob=True,
        open=False,
        extension=False,
    ),
    "query-name": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-iothreads": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "stop": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "cont": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "human-monitor-command": Command(
        (
            Member("command-line", "str", True),
            Member("cpu-index", "int", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "getfd": Command(
        (
            Member("fdname", "str", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "closefd": Command(
        (
            Member("fdname", "str", True),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "add-fd": Command(
        (
            Member("fdset-id", "int", False),
            Member("opaque", "str", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "remove-fd": Command(
        (
            Member("fdset-id", "int", True),
            Member("fd", "int", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-fdsets": Command(
        (),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
    "query-command-line-options": Command(
        (
            Member("option", "str", False),
        ),
        None,
        ('system',),
        oob=False,
        open=False,
        extension=False,
    ),
}

EVENTS: dict[str, tuple[Member, ...]] = {
    "SHUTDOWN": (
        Member("guest", "bool", True),
        Member("reason", "ShutdownCause", True),
    ),
    "POWERDOWN": (),
    "RESET": (
        Member("guest", "bool", True),
        Member("reason", "ShutdownCause", True),
    ),
    "STOP": (),
    "RESUME": (),
    "SUSPEND": (),
    "SUSPEND_DISK": (),
    "WAKEUP": (),
    "DEVICE_TRAY_MOVED": (
        Member("device", "str", True),
        Member("id", "str", True),
        Member("tray-open", "bool", True),
    ),
    "PR_MANAGER_STATUS_CHANGED": (
        Member("id", "str", True),
        Member("connected", "bool", True),
    ),
    "BLOCK_IMAGE_CORRUPTED": (
        Member("device", "str", True),
        Member("node-name", "str", False),
        Member("msg", "str", True),
        Member("offset", "int", False),
        Member("size", "int", False),
        Member("fatal", "bool", True),
    ),
    "BLOCK_IO_ERROR": (
        Member("device", "str", True),
        Member("node-name", "str", False),
        Member("operation", "IoOperationType", True),
        Member("action", "BlockErrorAction", True),
        Member("nospace", "bool", False),
        Member("reason", "str", True),
    ),
    "BLOCK_JOB_COMPLETED": (
        Member("type", "JobType", True),
        Member("device", "str", True),
        Member("len", "int", True),
        Member("offset", "int", True),
        Member("speed", "int", True),
        Member("error", "str", False),
    ),
    "BLOCK_JOB_CANCELLED": (
        Member("type", "JobType", True),
        Member("device", "str", True),
        Member("len", "int", True),
        Member("offset", "int", True),
        Member("speed", "int", True),
    ),
    "BLOCK_JOB_ERROR": (
        Member("device", "str", True),
        Member("operation", "IoOperationType", True),
        Member("action", "BlockErrorAction", True),
    ),
    "BLOCK_JOB_READY": (
        Member("type", "JobType", True),
        Member("device", "str", True),
        Member("len", "int", True),
        Member("offset", "int", True),
        Member("speed", "int", True),
    ),
    "BLOCK_JOB_PENDING": (
        Member("type", "JobType", True),
        Member("id", "str", True),
    ),
    "BLOCK_WRITE_THRESHOLD": (
        Member("node-name", "str", True),
        Member("amount-exceeded", "uint64", True),
        Member("write-threshold", "uint64", True),
    ),
    "QUORUM_FAILURE": (
        Member("reference", "str", True),
        Member("sector-num", "int", True),
        Member("sectors-count", "int", True),
    ),
    "QUORUM_REPORT_BAD": (
        Member("type", "QuorumOpType", True),
        Member("error", "str", False),
        Member("node-name", "str", True),
        Member("sector-num", "int", True),
        Member("sectors-count", "int", True),
    ),
    "JOB_STATUS_CHANGE": (
        Member("id", "str", True),
        Member("status", "JobStatus", True),
    ),
    "BLOCK_EXPORT_DELETED": (
        Member("id", "str", True),
    ),
    "VSERPORT_CHANGE": (
        Member("id", "str", True),
        Member("open", "bool", True),
    ),
    "MIGRATION": (
        Member("status", "MigrationStatus", True),
    ),
    "MIGRATION_PASS": (
        Member("pass", "int", True),
    ),
    "DEVICE_DELETED": (
        Member("device", "str", False),
        Member("path", "str", True),
    ),
    "DEVICE_UNPLUG_GUEST_ERROR": (
        Member("device", "str", False),
        Member("path", "str", True),
    ),
    "BALLOON_CHANGE": (
        Member("actual", "int", True),
    ),
    "RTC_CHANGE": (
        Member("offset", "int", True),
        Member("qom-path", "str", True),
    ),
}


class Commands:
    """One method a command, for whatever has `execute(name, arguments)`.

    Arguments are given by name, with `_` for `-`, or as a dictionary, or both.
    """

    def execute(self, command: str, arguments: dict[str, Any] | None = None, /, **named: Any) -> Any:
        raise NotImplementedError

    def query_status(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells what the machine is doing."""
        return self.execute("query-status", _call(arguments, {}))

    def watchdog_set_action(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        action: WatchdogAction = ABSENT,
    ) -> None:
        """Sets what the watchdog does."""
        return self.execute("watchdog-set-action", _call(arguments, {"action": action}))

    def set_action(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        reboot: RebootAction = ABSENT,
        shutdown: ShutdownAction = ABSENT,
        panic: PanicAction = ABSENT,
        watchdog: WatchdogAction = ABSENT,
    ) -> None:
        """Sets what is done when the guest reboots, shuts down, panics or hangs."""
        return self.execute("set-action", _call(arguments, {"reboot": reboot, "shutdown": shutdown, "panic": panic, "watchdog": watchdog}))

    def query_pr_managers(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the helpers for persistent reservations."""
        return self.execute("query-pr-managers", _call(arguments, {}))

    def eject(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        id: str = ABSENT,
        force: bool = ABSENT,
    ) -> None:
        """Opens a drive's tray and takes the medium out."""
        return self.execute("eject", _call(arguments, {"device": device, "id": id, "force": force}))

    def blockdev_open_tray(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        id: str = ABSENT,
        force: bool = ABSENT,
    ) -> None:
        """Opens the tray of a drive; the guest is asked first if it has locked it."""
        return self.execute("blockdev-open-tray", _call(arguments, {"device": device, "id": id, "force": force}))

    def blockdev_close_tray(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        id: str = ABSENT,
    ) -> None:
        """Closes the tray of a drive."""
        return self.execute("blockdev-close-tray", _call(arguments, {"device": device, "id": id}))

    def blockdev_remove_medium(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Takes the medium out of a drive whose tray is open."""
        return self.execute("blockdev-remove-medium", _call(arguments, {"id": id}))

    def blockdev_insert_medium(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
        node_name: str = ABSENT,
    ) -> None:
        """Puts a node as medium into a drive whose tray is open."""
        return self.execute("blockdev-insert-medium", _call(arguments, {"id": id, "node-name": node_name}))

    def blockdev_change_medium(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        filename: str = ABSENT,
        device: str = ABSENT,
        id: str = ABSENT,
        format: str = ABSENT,
        force: bool = ABSENT,
        read_only_mode: BlockdevChangeReadOnlyMode = ABSENT,
    ) -> None:
        """Opens an image and puts it into a drive in place of what is there."""
        return self.execute("blockdev-change-medium", _call(arguments, {"device": device, "id": id, "filename": filename, "format": format, "force": force, "read-only-mode": read_only_mode}))

    def block_set_io_throttle(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        bps: int = ABSENT,
        bps_rd: int = ABSENT,
        bps_wr: int = ABSENT,
        iops: int = ABSENT,
        iops_rd: int = ABSENT,
        iops_wr: int = ABSENT,
        device: str = ABSENT,
        id: str = ABSENT,
        bps_max: int = ABSENT,
        bps_rd_max: int = ABSENT,
        bps_wr_max: int = ABSENT,
        iops_max: int = ABSENT,
        iops_rd_max: int = ABSENT,
        iops_wr_max: int = ABSENT,
        bps_max_length: int = ABSENT,
        bps_rd_max_length: int = ABSENT,
        bps_wr_max_length: int = ABSENT,
        iops_max_length: int = ABSENT,
        iops_rd_max_length: int = ABSENT,
        iops_wr_max_length: int = ABSENT,
        iops_size: int = ABSENT,
        group: str = ABSENT,
    ) -> None:
        """Limits the transfers of a device; six zeroes lift the limits."""
        return self.execute("block_set_io_throttle", _call(arguments, {"device": device, "id": id, "bps": bps, "bps_rd": bps_rd, "bps_wr": bps_wr, "iops": iops, "iops_rd": iops_rd, "iops_wr": iops_wr, "bps_max": bps_max, "bps_rd_max": bps_rd_max, "bps_wr_max": bps_wr_max, "iops_max": iops_max, "iops_rd_max": iops_rd_max, "iops_wr_max": iops_wr_max, "bps_max_length": bps_max_length, "bps_rd_max_length": bps_rd_max_length, "bps_wr_max_length": bps_wr_max_length, "iops_max_length": iops_max_length, "iops_rd_max_length": iops_rd_max_length, "iops_wr_max_length": iops_wr_max_length, "iops_size": iops_size, "group": group}))

    def block_latency_histogram_set(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
        boundaries: list[int] = ABSENT,
        boundaries_read: list[int] = ABSENT,
        boundaries_write: list[int] = ABSENT,
        boundaries_flush: list[int] = ABSENT,
    ) -> None:
        """Starts, changes or ends the counting of request times of a device."""
        return self.execute("block-latency-histogram-set", _call(arguments, {"id": id, "boundaries": boundaries, "boundaries-read": boundaries_read, "boundaries-write": boundaries_write, "boundaries-flush": boundaries_flush}))

    def query_block(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the devices."""
        return self.execute("query-block", _call(arguments, {}))

    def query_blockstats(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        query_nodes: bool = ABSENT,
    ) -> list[dict[str, Any]]:
        """Tells the statistics of devices or nodes."""
        return self.execute("query-blockstats", _call(arguments, {"query-nodes": query_nodes}))

    def query_block_jobs(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the block jobs."""
        return self.execute("query-block-jobs", _call(arguments, {}))

    def block_resize(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        size: int = ABSENT,
        device: str = ABSENT,
        node_name: str = ABSENT,
    ) -> None:
        """Changes the size of an image."""
        return self.execute("block_resize", _call(arguments, {"device": device, "node-name": node_name, "size": size}))

    def blockdev_snapshot_sync(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        snapshot_file: str = ABSENT,
        device: str = ABSENT,
        node_name: str = ABSENT,
        snapshot_node_name: str = ABSENT,
        format: str = ABSENT,
        mode: NewImageMode = ABSENT,
    ) -> None:
        """Puts a new overlay on top of a node, so that what is below stays as it is."""
        return self.execute("blockdev-snapshot-sync", _call(arguments, {"device": device, "node-name": node_name, "snapshot-file": snapshot_file, "snapshot-node-name": snapshot_node_name, "format": format, "mode": mode}))

    def blockdev_snapshot(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        overlay: str = ABSENT,
    ) -> None:
        """Puts a node as overlay on top of another, so that what is below stays as it is."""
        return self.execute("blockdev-snapshot", _call(arguments, {"node": node, "overlay": overlay}))

    def change_backing_file(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        image_node_name: str = ABSENT,
        backing_file: str = ABSENT,
    ) -> None:
        """Rewrites the name of the backing file in an image's header; the graph stays as it is."""
        return self.execute("change-backing-file", _call(arguments, {"device": device, "image-node-name": image_node_name, "backing-file": backing_file}))

    def block_commit(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        job_id: str = ABSENT,
        base_node: str = ABSENT,
        base: str = ABSENT,
        top_node: str = ABSENT,
        top: str = ABSENT,
        backing_file: str = ABSENT,
        speed: int = ABSENT,
        on_error: BlockdevOnError = ABSENT,
        filter_node_name: str = ABSENT,
        auto_finalize: bool = ABSENT,
        auto_dismiss: bool = ABSENT,
    ) -> None:
        """Writes what is in some images of a chain into the image below them, and takes them out of the chain."""
        return self.execute("block-commit", _call(arguments, {"job-id": job_id, "device": device, "base-node": base_node, "base": base, "top-node": top_node, "top": top, "backing-file": backing_file, "speed": speed, "on-error": on_error, "filter-node-name": filter_node_name, "auto-finalize": auto_finalize, "auto-dismiss": auto_dismiss}))

    def drive_backup(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        sync: MirrorSyncMode = ABSENT,
        target: str = ABSENT,
        job_id: str = ABSENT,
        speed: int = ABSENT,
        bitmap: str = ABSENT,
        bitmap_mode: BitmapSyncMode = ABSENT,
        compress: bool = ABSENT,
        on_source_error: BlockdevOnError = ABSENT,
        on_target_error: BlockdevOnError = ABSENT,
        auto_finalize: bool = ABSENT,
        auto_dismiss: bool = ABSENT,
        filter_node_name: str = ABSENT,
        x_perf: dict[str, Any] = ABSENT,
        format: str = ABSENT,
        mode: NewImageMode = ABSENT,
    ) -> None:
        """Copies a disk as it is at this instant into an image."""
        return self.execute("drive-backup", _call(arguments, {"job-id": job_id, "device": device, "sync": sync, "speed": speed, "bitmap": bitmap, "bitmap-mode": bitmap_mode, "compress": compress, "on-source-error": on_source_error, "on-target-error": on_target_error, "auto-finalize": auto_finalize, "auto-dismiss": auto_dismiss, "filter-node-name": filter_node_name, "x-perf": x_perf, "target": target, "format": format, "mode": mode}))

    def blockdev_backup(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        sync: MirrorSyncMode = ABSENT,
        target: str = ABSENT,
        job_id: str = ABSENT,
        speed: int = ABSENT,
        bitmap: str = ABSENT,
        bitmap_mode: BitmapSyncMode = ABSENT,
        compress: bool = ABSENT,
        on_source_error: BlockdevOnError = ABSENT,
        on_target_error: BlockdevOnError = ABSENT,
        auto_finalize: bool = ABSENT,
        auto_dismiss: bool = ABSENT,
        filter_node_name: str = ABSENT,
        x_perf: dict[str, Any] = ABSENT,
    ) -> None:
        """Copies a disk as it is at this instant into a node."""
        return self.execute("blockdev-backup", _call(arguments, {"job-id": job_id, "device": device, "sync": sync, "speed": speed, "bitmap": bitmap, "bitmap-mode": bitmap_mode, "compress": compress, "on-source-error": on_source_error, "on-target-error": on_target_error, "auto-finalize": auto_finalize, "auto-dismiss": auto_dismiss, "filter-node-name": filter_node_name, "x-perf": x_perf, "target": target}))

    def query_named_block_nodes(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        flat: bool = ABSENT,
    ) -> list[dict[str, Any]]:
        """Lists the nodes that have a name, the newest first."""
        return self.execute("query-named-block-nodes", _call(arguments, {"flat": flat}))

    def x_debug_query_block_graph(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the block graph with its permissions."""
        return self.execute("x-debug-query-block-graph", _call(arguments, {}))

    def drive_mirror(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        target: str = ABSENT,
        sync: MirrorSyncMode = ABSENT,
        job_id: str = ABSENT,
        format: str = ABSENT,
        node_name: str = ABSENT,
        replaces: str = ABSENT,
        mode: NewImageMode = ABSENT,
        speed: int = ABSENT,
        granularity: int = ABSENT,
        buf_size: int = ABSENT,
        on_source_error: BlockdevOnError = ABSENT,
        on_target_error: BlockdevOnError = ABSENT,
        unmap: bool = ABSENT,
        copy_mode: MirrorCopyMode = ABSENT,
        auto_finalize: bool = ABSENT,
        auto_dismiss: bool = ABSENT,
    ) -> None:
        """Starts a mirror of a disk into an image."""
        return self.execute("drive-mirror", _call(arguments, {"job-id": job_id, "device": device, "target": target, "format": format, "node-name": node_name, "replaces": replaces, "sync": sync, "mode": mode, "speed": speed, "granularity": granularity, "buf-size": buf_size, "on-source-error": on_source_error, "on-target-error": on_target_error, "unmap": unmap, "copy-mode": copy_mode, "auto-finalize": auto_finalize, "auto-dismiss": auto_dismiss}))

    def block_dirty_bitmap_add(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        name: str = ABSENT,
        granularity: int = ABSENT,
        persistent: bool = ABSENT,
        disabled: bool = ABSENT,
    ) -> None:
        """Makes a dirty bitmap that marks what is written from now on."""
        return self.execute("block-dirty-bitmap-add", _call(arguments, {"node": node, "name": name, "granularity": granularity, "persistent": persistent, "disabled": disabled}))

    def block_dirty_bitmap_remove(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        name: str = ABSENT,
    ) -> None:
        """Removes a dirty bitmap, from the image too if it is stored there."""
        return self.execute("block-dirty-bitmap-remove", _call(arguments, {"node": node, "name": name}))

    def block_dirty_bitmap_clear(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        name: str = ABSENT,
    ) -> None:
        """Takes all marks off a dirty bitmap."""
        return self.execute("block-dirty-bitmap-clear", _call(arguments, {"node": node, "name": name}))

    def block_dirty_bitmap_enable(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        name: str = ABSENT,
    ) -> None:
        """Lets a dirty bitmap record writes."""
        return self.execute("block-dirty-bitmap-enable", _call(arguments, {"node": node, "name": name}))

    def block_dirty_bitmap_disable(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        name: str = ABSENT,
    ) -> None:
        """Lets a dirty bitmap record no more writes."""
        return self.execute("block-dirty-bitmap-disable", _call(arguments, {"node": node, "name": name}))

    def block_dirty_bitmap_merge(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        target: str = ABSENT,
        bitmaps: list[str | dict[str, Any]] = ABSENT,
    ) -> None:
        """Adds the marks of dirty bitmaps to another one."""
        return self.execute("block-dirty-bitmap-merge", _call(arguments, {"node": node, "target": target, "bitmaps": bitmaps}))

    def block_dirty_bitmap_populate(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        job_id: str = ABSENT,
        node: str = ABSENT,
        name: str = ABSENT,
        pattern: BitmapPattern = ABSENT,
        on_error: BlockdevOnError = ABSENT,
        auto_finalize: bool = ABSENT,
        auto_dismiss: bool = ABSENT,
    ) -> None:
        """Begins a job that marks in a dirty bitmap what the node's image has: an incremental backup by it
        copies all of that. The marks are made when the job is finalised; what is written meanwhile is marked
        as ever.
        """
        return self.execute("block-dirty-bitmap-populate", _call(arguments, {"job-id": job_id, "node": node, "name": name, "pattern": pattern, "on-error": on_error, "auto-finalize": auto_finalize, "auto-dismiss": auto_dismiss}))

    def x_debug_block_dirty_bitmap_sha256(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node: str = ABSENT,
        name: str = ABSENT,
    ) -> dict[str, Any]:
        """Tells a digest of a dirty bitmap."""
        return self.execute("x-debug-block-dirty-bitmap-sha256", _call(arguments, {"node": node, "name": name}))

    def blockdev_mirror(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        target: str = ABSENT,
        sync: MirrorSyncMode = ABSENT,
        job_id: str = ABSENT,
        replaces: str = ABSENT,
        speed: int = ABSENT,
        granularity: int = ABSENT,
        buf_size: int = ABSENT,
        on_source_error: BlockdevOnError = ABSENT,
        on_target_error: BlockdevOnError = ABSENT,
        filter_node_name: str = ABSENT,
        copy_mode: MirrorCopyMode = ABSENT,
        auto_finalize: bool = ABSENT,
        auto_dismiss: bool = ABSENT,
    ) -> None:
        """Starts a mirror of a disk into a node."""
        return self.execute("blockdev-mirror", _call(arguments, {"job-id": job_id, "device": device, "target": target, "replaces": replaces, "sync": sync, "speed": speed, "granularity": granularity, "buf-size": buf_size, "on-source-error": on_source_error, "on-target-error": on_target_error, "filter-node-name": filter_node_name, "copy-mode": copy_mode, "auto-finalize": auto_finalize, "auto-dismiss": auto_dismiss}))

    def block_stream(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        job_id: str = ABSENT,
        base: str = ABSENT,
        base_node: str = ABSENT,
        backing_file: str = ABSENT,
        bottom: str = ABSENT,
        speed: int = ABSENT,
        on_error: BlockdevOnError = ABSENT,
        filter_node_name: str = ABSENT,
        auto_finalize: bool = ABSENT,
        auto_dismiss: bool = ABSENT,
    ) -> None:
        """Copies data from the lower images of a chain into the image at the top, and takes them out of the
        chain.
        """
        return self.execute("block-stream", _call(arguments, {"job-id": job_id, "device": device, "base": base, "base-node": base_node, "backing-file": backing_file, "bottom": bottom, "speed": speed, "on-error": on_error, "filter-node-name": filter_node_name, "auto-finalize": auto_finalize, "auto-dismiss": auto_dismiss}))

    def block_job_set_speed(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        speed: int = ABSENT,
    ) -> None:
        """Limits the speed of a block job."""
        return self.execute("block-job-set-speed", _call(arguments, {"device": device, "speed": speed}))

    def block_job_cancel(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        force: bool = ABSENT,
    ) -> None:
        """Cancels a block job; a mirror or active commit that is ready ends well, with the copy as it is now."""
        return self.execute("block-job-cancel", _call(arguments, {"device": device, "force": force}))

    def block_job_pause(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
    ) -> None:
        """Pauses a block job."""
        return self.execute("block-job-pause", _call(arguments, {"device": device}))

    def block_job_resume(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
    ) -> None:
        """Lets a block job go on that was paused by a user."""
        return self.execute("block-job-resume", _call(arguments, {"device": device}))

    def block_job_complete(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
    ) -> None:
        """Completes a block job that is ready. Blockbed also concludes a backup with `sync` none so."""
        return self.execute("block-job-complete", _call(arguments, {"device": device}))

    def block_job_dismiss(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Removes a concluded block job from the list."""
        return self.execute("block-job-dismiss", _call(arguments, {"id": id}))

    def block_job_finalize(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Finalises a block job that is pending, and those of its transaction."""
        return self.execute("block-job-finalize", _call(arguments, {"id": id}))

    def blockdev_add(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        driver: BlockdevDriver = ABSENT,
        node_name: str = ABSENT,
        discard: BlockdevDiscardOptions = ABSENT,
        cache: dict[str, Any] = ABSENT,
        read_only: bool = ABSENT,
        auto_read_only: bool = ABSENT,
        force_share: bool = ABSENT,
        detect_zeroes: BlockdevDetectZeroesOptions = ABSENT,
        **more: Any,
    ) -> None:
        """Makes a node, with the nodes below it that its options define."""
        return self.execute("blockdev-add", _call(arguments, {"driver": driver, "node-name": node_name, "discard": discard, "cache": cache, "read-only": read_only, "auto-read-only": auto_read_only, "force-share": force_share, "detect-zeroes": detect_zeroes, **_branch(more)}))

    def blockdev_reopen(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        options: list[dict[str, Any]] = ABSENT,
    ) -> None:
        """Changes options of nodes that are there, all of them or none. What is not given goes back to its
        default.
        """
        return self.execute("blockdev-reopen", _call(arguments, {"options": options}))

    def blockdev_del(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node_name: str = ABSENT,
    ) -> None:
        """Removes a node that nobody uses, and those below it that this leaves unused and unnamed."""
        return self.execute("blockdev-del", _call(arguments, {"node-name": node_name}))

    def blockdev_create(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        job_id: str = ABSENT,
        options: dict[str, Any] = ABSENT,
    ) -> None:
        """Makes an image, as a job."""
        return self.execute("blockdev-create", _call(arguments, {"job-id": job_id, "options": options}))

    def x_blockdev_amend(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        job_id: str = ABSENT,
        node_name: str = ABSENT,
        options: dict[str, Any] = ABSENT,
        force: bool = ABSENT,
    ) -> None:
        """Amends the format options of an image, as a job."""
        return self.execute("x-blockdev-amend", _call(arguments, {"job-id": job_id, "node-name": node_name, "options": options, "force": force}))

    def block_set_write_threshold(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node_name: str = ABSENT,
        write_threshold: int = ABSENT,
    ) -> None:
        """Sets an offset beyond which a write is reported once."""
        return self.execute("block-set-write-threshold", _call(arguments, {"node-name": node_name, "write-threshold": write_threshold}))

    def x_blockdev_change(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        parent: str = ABSENT,
        child: str = ABSENT,
        node: str = ABSENT,
    ) -> None:
        """Adds a child to a node or removes one; only a quorum has such."""
        return self.execute("x-blockdev-change", _call(arguments, {"parent": parent, "child": child, "node": node}))

    def x_blockdev_set_iothread(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        node_name: str = ABSENT,
        iothread: str | None = ABSENT,
        force: bool = ABSENT,
    ) -> None:
        """Moves a node to another I/O thread."""
        return self.execute("x-blockdev-set-iothread", _call(arguments, {"node-name": node_name, "iothread": iothread, "force": force}))

    def blockdev_snapshot_internal_sync(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        name: str = ABSENT,
    ) -> None:
        """Makes an internal snapshot of a disk."""
        return self.execute("blockdev-snapshot-internal-sync", _call(arguments, {"device": device, "name": name}))

    def blockdev_snapshot_delete_internal_sync(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        id: str = ABSENT,
        name: str = ABSENT,
    ) -> dict[str, Any]:
        """Deletes an internal snapshot, and tells what it was."""
        return self.execute("blockdev-snapshot-delete-internal-sync", _call(arguments, {"device": device, "id": id, "name": name}))

    def job_pause(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Pauses a job."""
        return self.execute("job-pause", _call(arguments, {"id": id}))

    def job_resume(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Lets a job go on that was paused by a user."""
        return self.execute("job-resume", _call(arguments, {"id": id}))

    def job_cancel(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Cancels a job at once."""
        return self.execute("job-cancel", _call(arguments, {"id": id}))

    def job_complete(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Completes a job that is ready. Blockbed also concludes a backup with `sync` none so."""
        return self.execute("job-complete", _call(arguments, {"id": id}))

    def job_dismiss(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Removes a concluded job from the list."""
        return self.execute("job-dismiss", _call(arguments, {"id": id}))

    def job_finalize(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Finalises a job that is pending, and those of its transaction."""
        return self.execute("job-finalize", _call(arguments, {"id": id}))

    def query_jobs(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the jobs."""
        return self.execute("query-jobs", _call(arguments, {}))

    def nbd_server_start(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        addr: dict[str, Any] = ABSENT,
        tls_creds: str = ABSENT,
        tls_authz: str = ABSENT,
        max_connections: int = ABSENT,
    ) -> None:
        """Starts the NBD server, of which there is one."""
        return self.execute("nbd-server-start", _call(arguments, {"addr": addr, "tls-creds": tls_creds, "tls-authz": tls_authz, "max-connections": max_connections}))

    def nbd_server_add(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        name: str = ABSENT,
        description: str = ABSENT,
        writable: bool = ABSENT,
        bitmap: str = ABSENT,
    ) -> None:
        """Exports a node or device over NBD."""
        return self.execute("nbd-server-add", _call(arguments, {"name": name, "description": description, "device": device, "writable": writable, "bitmap": bitmap}))

    def nbd_server_remove(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        name: str = ABSENT,
        mode: BlockExportRemoveMode = ABSENT,
    ) -> None:
        """Removes an NBD export."""
        return self.execute("nbd-server-remove", _call(arguments, {"name": name, "mode": mode}))

    def nbd_server_stop(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Stops the NBD server and removes its exports."""
        return self.execute("nbd-server-stop", _call(arguments, {}))

    def block_export_add(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        type: BlockExportType = ABSENT,
        id: str = ABSENT,
        node_name: str = ABSENT,
        fixed_iothread: bool = ABSENT,
        iothread: str = ABSENT,
        x_guest_device: str = ABSENT,
        writable: bool = ABSENT,
        writethrough: bool = ABSENT,
        **more: Any,
    ) -> None:
        """Exports a node."""
        return self.execute("block-export-add", _call(arguments, {"type": type, "id": id, "fixed-iothread": fixed_iothread, "iothread": iothread, "node-name": node_name, "x-guest-device": x_guest_device, "writable": writable, "writethrough": writethrough, **_branch(more)}))

    def block_export_del(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
        mode: BlockExportRemoveMode = ABSENT,
    ) -> None:
        """Asks for the removal of an export; BLOCK_EXPORT_DELETED tells when it is gone."""
        return self.execute("block-export-del", _call(arguments, {"id": id, "mode": mode}))

    def query_block_exports(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the exports."""
        return self.execute("query-block-exports", _call(arguments, {}))

    def query_chardev(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the character devices."""
        return self.execute("query-chardev", _call(arguments, {}))

    def query_chardev_backends(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the kinds of character devices."""
        return self.execute("query-chardev-backends", _call(arguments, {}))

    def ringbuf_write(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        data: str = ABSENT,
        format: DataFormat = ABSENT,
    ) -> None:
        """Writes to a ring buffer."""
        return self.execute("ringbuf-write", _call(arguments, {"device": device, "data": data, "format": format}))

    def ringbuf_read(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        device: str = ABSENT,
        size: int = ABSENT,
        format: DataFormat = ABSENT,
    ) -> str:
        """Reads from a ring buffer."""
        return self.execute("ringbuf-read", _call(arguments, {"device": device, "size": size, "format": format}))

    def chardev_add(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
        backend: dict[str, Any] = ABSENT,
    ) -> dict[str, Any]:
        """Makes a character device."""
        return self.execute("chardev-add", _call(arguments, {"id": id, "backend": backend}))

    def chardev_change(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
        backend: dict[str, Any] = ABSENT,
    ) -> dict[str, Any]:
        """Puts another character device in the place of one."""
        return self.execute("chardev-change", _call(arguments, {"id": id, "backend": backend}))

    def chardev_remove(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Removes a character device."""
        return self.execute("chardev-remove", _call(arguments, {"id": id}))

    def chardev_send_break(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Sends a break to a character device."""
        return self.execute("chardev-send-break", _call(arguments, {"id": id}))

    def send_key(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        keys: list[dict[str, Any]] = ABSENT,
        hold_time: int = ABSENT,
    ) -> None:
        """Presses keys together and lets them go."""
        return self.execute("send-key", _call(arguments, {"keys": keys, "hold-time": hold_time}))

    def query_migrate(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the state of the migration."""
        return self.execute("query-migrate", _call(arguments, {}))

    def migrate_set_capabilities(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        capabilities: list[dict[str, Any]] = ABSENT,
    ) -> None:
        """Turns capabilities of migrations on and off."""
        return self.execute("migrate-set-capabilities", _call(arguments, {"capabilities": capabilities}))

    def query_migrate_capabilities(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the capabilities of migrations."""
        return self.execute("query-migrate-capabilities", _call(arguments, {}))

    def migrate_set_parameters(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        announce_initial: int = ABSENT,
        announce_max: int = ABSENT,
        announce_rounds: int = ABSENT,
        announce_step: int = ABSENT,
        compress_level: int = ABSENT,
        compress_threads: int = ABSENT,
        compress_wait_thread: bool = ABSENT,
        decompress_threads: int = ABSENT,
        throttle_trigger_threshold: int = ABSENT,
        cpu_throttle_initial: int = ABSENT,
        cpu_throttle_increment: int = ABSENT,
        cpu_throttle_tailslow: bool = ABSENT,
        tls_creds: str | None = ABSENT,
        tls_hostname: str | None = ABSENT,
        tls_authz: str | None = ABSENT,
        max_bandwidth: int = ABSENT,
        downtime_limit: int = ABSENT,
        x_checkpoint_delay: int = ABSENT,
        block_incremental: bool = ABSENT,
        multifd_channels: int = ABSENT,
        xbzrle_cache_size: int = ABSENT,
        max_postcopy_bandwidth: int = ABSENT,
        max_cpu_throttle: int = ABSENT,
        multifd_compression: MultiFDCompression = ABSENT,
        multifd_zlib_level: int = ABSENT,
        multifd_zstd_level: int = ABSENT,
        block_bitmap_mapping: list[dict[str, Any]] = ABSENT,
    ) -> None:
        """Sets parameters of migrations."""
        return self.execute("migrate-set-parameters", _call(arguments, {"announce-initial": announce_initial, "announce-max": announce_max, "announce-rounds": announce_rounds, "announce-step": announce_step, "compress-level": compress_level, "compress-threads": compress_threads, "compress-wait-thread": compress_wait_thread, "decompress-threads": decompress_threads, "throttle-trigger-threshold": throttle_trigger_threshold, "cpu-throttle-initial": cpu_throttle_initial, "cpu-throttle-increment": cpu_throttle_increment, "cpu-throttle-tailslow": cpu_throttle_tailslow, "tls-creds": tls_creds, "tls-hostname": tls_hostname, "tls-authz": tls_authz, "max-bandwidth": max_bandwidth, "downtime-limit": downtime_limit, "x-checkpoint-delay": x_checkpoint_delay, "block-incremental": block_incremental, "multifd-channels": multifd_channels, "xbzrle-cache-size": xbzrle_cache_size, "max-postcopy-bandwidth": max_postcopy_bandwidth, "max-cpu-throttle": max_cpu_throttle, "multifd-compression": multifd_compression, "multifd-zlib-level": multifd_zlib_level, "multifd-zstd-level": multifd_zstd_level, "block-bitmap-mapping": block_bitmap_mapping}))

    def query_migrate_parameters(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the parameters of migrations."""
        return self.execute("query-migrate-parameters", _call(arguments, {}))

    def migrate_start_postcopy(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Lets the guest go on there as soon as possible."""
        return self.execute("migrate-start-postcopy", _call(arguments, {}))

    def migrate_cancel(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Cancels the migration."""
        return self.execute("migrate_cancel", _call(arguments, {}))

    def migrate_continue(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        state: MigrationStatus = ABSENT,
    ) -> None:
        """Lets a migration go on that waits."""
        return self.execute("migrate-continue", _call(arguments, {"state": state}))

    def migrate(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        uri: str = ABSENT,
        blk: bool = ABSENT,
        inc: bool = ABSENT,
        detach: bool = ABSENT,
        resume: bool = ABSENT,
    ) -> None:
        """Moves the machine elsewhere."""
        return self.execute("migrate", _call(arguments, {"uri": uri, "blk": blk, "inc": inc, "detach": detach, "resume": resume}))

    def migrate_incoming(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        uri: str = ABSENT,
    ) -> None:
        """Waits for a machine, if the server was started with `-incoming defer`."""
        return self.execute("migrate-incoming", _call(arguments, {"uri": uri}))

    def migrate_recover(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        uri: str = ABSENT,
    ) -> None:
        """Waits again for a stream that was interrupted."""
        return self.execute("migrate-recover", _call(arguments, {"uri": uri}))

    def migrate_pause(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Pauses a migration while the guest runs there already."""
        return self.execute("migrate-pause", _call(arguments, {}))

    def snapshot_save(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        job_id: str = ABSENT,
        tag: str = ABSENT,
        vmstate: str = ABSENT,
        devices: list[str] = ABSENT,
    ) -> None:
        """Saves the whole machine as an internal snapshot."""
        return self.execute("snapshot-save", _call(arguments, {"job-id": job_id, "tag": tag, "vmstate": vmstate, "devices": devices}))

    def snapshot_load(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        job_id: str = ABSENT,
        tag: str = ABSENT,
        vmstate: str = ABSENT,
        devices: list[str] = ABSENT,
    ) -> None:
        """Loads the whole machine from an internal snapshot."""
        return self.execute("snapshot-load", _call(arguments, {"job-id": job_id, "tag": tag, "vmstate": vmstate, "devices": devices}))

    def snapshot_delete(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        job_id: str = ABSENT,
        tag: str = ABSENT,
        devices: list[str] = ABSENT,
    ) -> None:
        """Deletes an internal snapshot of the whole machine."""
        return self.execute("snapshot-delete", _call(arguments, {"job-id": job_id, "tag": tag, "devices": devices}))

    def transaction(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        actions: list[dict[str, Any]] = ABSENT,
        properties: dict[str, Any] = ABSENT,
    ) -> None:
        """Carries out several actions at one instant; if one fails, none has happened."""
        return self.execute("transaction", _call(arguments, {"actions": actions, "properties": properties}))

    def qmp_capabilities(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        enable: list[QMPCapability] = ABSENT,
    ) -> None:
        """Ends the negotiation: from now on commands are taken."""
        return self.execute("qmp_capabilities", _call(arguments, {"enable": enable}))

    def query_version(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the server's version."""
        return self.execute("query-version", _call(arguments, {}))

    def query_commands(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the commands."""
        return self.execute("query-commands", _call(arguments, {}))

    def quit(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Ends the server."""
        return self.execute("quit", _call(arguments, {}))

    def query_qmp_schema(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Describes commands and events with the types that they use."""
        return self.execute("query-qmp-schema", _call(arguments, {}))

    def qom_list(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        path: str = ABSENT,
    ) -> list[dict[str, Any]]:
        """Lists the properties of an object."""
        return self.execute("qom-list", _call(arguments, {"path": path}))

    def qom_get(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        path: str = ABSENT,
        property: str = ABSENT,
    ) -> Any:
        """Tells a property of an object."""
        return self.execute("qom-get", _call(arguments, {"path": path, "property": property}))

    def qom_set(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        path: str = ABSENT,
        property: str = ABSENT,
        value: Any = ABSENT,
    ) -> None:
        """Sets a property of an object."""
        return self.execute("qom-set", _call(arguments, {"path": path, "property": property, "value": value}))

    def qom_list_types(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        implements: str = ABSENT,
        abstract: bool = ABSENT,
    ) -> list[dict[str, Any]]:
        """Lists the types of objects."""
        return self.execute("qom-list-types", _call(arguments, {"implements": implements, "abstract": abstract}))

    def qom_list_properties(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        typename: str = ABSENT,
    ) -> list[dict[str, Any]]:
        """Lists the properties of a type of objects."""
        return self.execute("qom-list-properties", _call(arguments, {"typename": typename}))

    def object_add(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        qom_type: ObjectType = ABSENT,
        id: str = ABSENT,
        **more: Any,
    ) -> None:
        """Makes an object."""
        return self.execute("object-add", _call(arguments, {"qom-type": qom_type, "id": id, **_branch(more)}))

    def object_del(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Removes an object that a user made and that nothing uses."""
        return self.execute("object-del", _call(arguments, {"id": id}))

    def device_list_properties(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        typename: str = ABSENT,
    ) -> list[dict[str, Any]]:
        """Lists the properties of a type of devices."""
        return self.execute("device-list-properties", _call(arguments, {"typename": typename}))

    def device_add(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        driver: str = ABSENT,
        bus: str = ABSENT,
        id: str = ABSENT,
        **more: Any,
    ) -> None:
        """Adds a device."""
        return self.execute("device_add", _call(arguments, {"driver": driver, "bus": bus, "id": id, **_branch(more)}))

    def device_del(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        id: str = ABSENT,
    ) -> None:
        """Asks a device to go; DEVICE_DELETED tells when it is gone."""
        return self.execute("device_del", _call(arguments, {"id": id}))

    def query_cpus_fast(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the virtual processors."""
        return self.execute("query-cpus-fast", _call(arguments, {}))

    def query_machines(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the types of machines."""
        return self.execute("query-machines", _call(arguments, {}))

    def query_current_machine(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells what this machine can do."""
        return self.execute("query-current-machine", _call(arguments, {}))

    def query_target(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the guest's architecture."""
        return self.execute("query-target", _call(arguments, {}))

    def query_uuid(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the guest's UUID."""
        return self.execute("query-uuid", _call(arguments, {}))

    def system_reset(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Resets the machine."""
        return self.execute("system_reset", _call(arguments, {}))

    def system_powerdown(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Presses the power button."""
        return self.execute("system_powerdown", _call(arguments, {}))

    def system_wakeup(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Wakes the guest up."""
        return self.execute("system_wakeup", _call(arguments, {}))

    def inject_nmi(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Sends a non-maskable interrupt to the guest."""
        return self.execute("inject-nmi", _call(arguments, {}))

    def query_kvm(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells whether KVM is used."""
        return self.execute("query-kvm", _call(arguments, {}))

    def query_hotpluggable_cpus(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the processors that are there and that could be added."""
        return self.execute("query-hotpluggable-cpus", _call(arguments, {}))

    def balloon(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        value: int = ABSENT,
    ) -> None:
        """Asks the guest to take so much memory."""
        return self.execute("balloon", _call(arguments, {"value": value}))

    def query_balloon(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells how much memory the guest has."""
        return self.execute("query-balloon", _call(arguments, {}))

    def query_memory_size_summary(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the sizes of memory."""
        return self.execute("query-memory-size-summary", _call(arguments, {}))

    def query_cpu_definitions(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the models of processors."""
        return self.execute("query-cpu-definitions", _call(arguments, {}))

    def yank(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        instances: list[dict[str, Any]] = ABSENT,
    ) -> None:
        """Cuts connections that hang."""
        return self.execute("yank", _call(arguments, {"instances": instances}))

    def query_yank(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the connections that can be cut."""
        return self.execute("query-yank", _call(arguments, {}))

    def query_name(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> dict[str, Any]:
        """Tells the guest's name."""
        return self.execute("query-name", _call(arguments, {}))

    def query_iothreads(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the I/O threads."""
        return self.execute("query-iothreads", _call(arguments, {}))

    def stop(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Stops the machine."""
        return self.execute("stop", _call(arguments, {}))

    def cont(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> None:
        """Lets the machine run."""
        return self.execute("cont", _call(arguments, {}))

    def human_monitor_command(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        command_line: str = ABSENT,
        cpu_index: int = ABSENT,
    ) -> str:
        """Executes a command of the human monitor; the reply is what it prints."""
        return self.execute("human-monitor-command", _call(arguments, {"command-line": command_line, "cpu-index": cpu_index}))

    def getfd(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        fdname: str = ABSENT,
    ) -> None:
        """Takes over a file descriptor that came with this command, under a name."""
        return self.execute("getfd", _call(arguments, {"fdname": fdname}))

    def closefd(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        fdname: str = ABSENT,
    ) -> None:
        """Closes a descriptor taken over by `getfd`."""
        return self.execute("closefd", _call(arguments, {"fdname": fdname}))

    def add_fd(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        fdset_id: int = ABSENT,
        opaque: str = ABSENT,
    ) -> dict[str, Any]:
        """Puts a file descriptor that came with this command into a set, to be opened as `/dev/fdset/N`."""
        return self.execute("add-fd", _call(arguments, {"fdset-id": fdset_id, "opaque": opaque}))

    def remove_fd(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        fdset_id: int = ABSENT,
        fd: int = ABSENT,
    ) -> None:
        """Takes descriptors out of a set."""
        return self.execute("remove-fd", _call(arguments, {"fdset-id": fdset_id, "fd": fd}))

    def query_fdsets(
        self,
        arguments: dict[str, Any] | None = None,
        /,
    ) -> list[dict[str, Any]]:
        """Lists the sets of descriptors."""
        return self.execute("query-fdsets", _call(arguments, {}))

    def query_command_line_options(
        self,
        arguments: dict[str, Any] | None = None,
        /,
        *,
        option: str = ABSENT,
    ) -> list[dict[str, Any]]:
        """Lists options of the command line."""
        return self.execute("query-command-line-options", _call(arguments, {"option": option}))
