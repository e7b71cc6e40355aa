"""Every command of the schema with every wrong argument, and what the server says about its own schema."""

import collections
import functools

import pytest

from blockbed_iotests import QmpError, Server
from blockbed_iotests.qmp_types import COMMANDS, negative_cases

CASES = collections.defaultdict(list)
for case in negative_cases():
    CASES[case.command].append(case)

# Commands that the schema describes and Blockbed does not have yet: they say so, and are listed nowhere. A name goes
# from here when the command comes, or its test fails.
UNIMPLEMENTED = set("""
    add-fd block-latency-histogram-set
    chardev-add chardev-change chardev-remove
    chardev-send-break inject-nmi migrate migrate-continue migrate-pause migrate-recover
    migrate-set-parameters migrate-start-postcopy migrate_cancel query-chardev-backends query-fdsets
    query-memory-size-summary query-migrate-parameters query-pr-managers query-yank remove-fd ringbuf-read
    ringbuf-write send-key set-action system_wakeup
    watchdog-set-action yank
""".split())


# Values of enumerations that QEMU has, for what is Blockbed's own.
EXTENSIONS = {"bitmap-populate"}
# Members that QEMU has since a later version, or not at all.
LATER_MEMBERS = {"discard-no-unref", "internal-snapshot", "x-guest-device"}


def is_missing(kind, command):
    if COMMANDS[command].extension:
        return kind == "qemu"
    return kind == "blockbed" and command in UNIMPLEMENTED


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_wrong_arguments(server, command):
    """Each argument missing, ill-typed, out of range or unknown: the words of QEMU, and nothing happens."""
    extension = COMMANDS[command].extension and server.kind == "qemu"
    if server.manner not in COMMANDS[command].programs or extension:
        assert server.error(command) == f"CommandNotFound: The command {command} has not been found"
        return
    if is_missing(server.kind, command):
        assert server.error(command) == f"The command {command} is not implemented by Blockbed"
        return
    wrong = []
    for case in CASES[command]:
        if server.kind == "qemu" and LATER_MEMBERS & set(case.arguments):
            continue
        result = server.try_execute(command, case.arguments)
        text = result.desc if isinstance(result, QmpError) else f"no error, but {result}"
        if text != case.error:
            wrong.append(f"{case.arguments}\n    expected: {case.error}\n    got:      {text}")
    assert not wrong, f"{len(wrong)} of {len(CASES[command])} cases:\n" + "\n".join(wrong[:10])
    assert server.query_jobs() == [] and server.query_named_block_nodes() == []


def test_every_argument_is_covered():
    """The generated cases name every member that a command has."""
    missing = {
        (name, member.name)
        for name, command in COMMANDS.items()
        for member in command.members
        if not command.open and member.type != "any" and not any(member.name in case.error for case in CASES[name])
    }
    assert not missing


def entities(server):
    return {entity["name"]: entity for entity in server.execute("query-qmp-schema")}


def shape(schema, name, seen=()):
    """A type as a tree without its generated names, so that two schemas can be compared."""
    entity = schema[name]
    kind = entity["meta-type"]
    if name in seen:
        return f"<{kind} again>"
    seen = (*seen, name)
    if kind == "builtin":
        return entity["json-type"]
    if kind == "enum":
        return sorted(set(entity["values"]) - EXTENSIONS)
    if kind == "array":
        return [shape(schema, entity["element-type"], seen)]
    if kind == "alternate":
        return {"alternate": sorted((str(shape(schema, member["type"], seen)) for member in entity["members"]))}
    members = {
        member["name"]: (shape(schema, member["type"], seen), "default" in member)
        for member in entity.get("members", [])
        if member["name"] not in LATER_MEMBERS
    }
    variants = {variant["case"]: shape(schema, variant["type"], seen) for variant in entity.get("variants", [])}
    return {"members": members, **({"tag": entity["tag"], "variants": variants} if variants else {})}


@functools.cache
def schema_of(program, manner):
    with Server(program, manner) as server:
        return entities(server)


@pytest.fixture
def schemas(target, qemu):
    """The schema of the server under test and QEMU's."""
    return schema_of(target.program, target.manner), schema_of(qemu, target.manner)


@pytest.mark.parametrize("name", sorted(name for name in COMMANDS if "block" in name or "job" in name or "nbd" in name))
def test_schema_of_a_command(schemas, target, name):
    """query-qmp-schema describes the block commands as QEMU's does: members, optional or not, enums, variants."""
    ours, theirs = schemas
    if is_missing(target.kind, name):
        assert name not in ours
        return
    if name not in theirs:
        pytest.skip("QEMU has no such command, or not in this manner")
    assert shape(ours, ours[name]["arg-type"]) == shape(theirs, theirs[name]["arg-type"])
    assert shape(ours, ours[name]["ret-type"]) == shape(theirs, theirs[name]["ret-type"])
    assert ours[name].get("allow-oob") == theirs[name].get("allow-oob")
    assert ours[name].get("features") == theirs[name].get("features")


def test_commands_are_those_of_the_schema(server):
    listed = {entry["name"] for entry in server.execute("query-commands")}
    described = {name for name, entity in entities(server).items() if entity["meta-type"] == "command"}
    assert listed == described
    expected = {
        name for name, command in COMMANDS.items()
        if server.manner in command.programs and not is_missing(server.kind, name)
    }  # fmt: skip
    assert expected <= listed


def test_schema_is_closed(server):
    """Every type that is named is there, and every name but those of commands and events is a number or a builtin."""
    schema = entities(server)
    for entity in schema.values():
        names = [entity[key] for key in ("arg-type", "ret-type", "element-type") if key in entity]
        names += [member["type"] for member in entity.get("members", []) if "type" in member]
        names += [variant["type"] for variant in entity.get("variants", [])]
        for name in names:
            assert name in schema, (entity["name"], name)


def test_key_order_of_the_schema(server):
    """Clients that print it compare it as text."""
    for entity in server.execute("query-qmp-schema"):
        if entity["meta-type"] == "command" and "features" not in entity and "allow-oob" not in entity:
            assert list(entity) == ["name", "ret-type", "meta-type", "arg-type"]
            return
    pytest.fail("no command in the schema")


def test_arguments_are_checked_before_anything_is_done(server, images):
    """A good beginning and a wrong end: no node, no file."""
    target = images.dir / "never"
    server.error("blockdev-add", {"driver": "raw", "node-name": "n", "file": {"driver": "null-co", "node-name": "m"}, "size": "x"})
    assert server.node_names() == set()
    server.error("blockdev-create", {"job-id": "j", "options": {"driver": "file", "filename": str(target), "size": "x"}})
    assert not target.exists()
