"""File names that are definitions, `json:{...}`: what is taken, and what is said of what is not."""

import pytest

# A number of the header extension that names the format of the backing file.
FORMAT_EXTENSION = b"\xe2\x79\x2a\xca"

NEITHER = "Must specify either driver or file"
NO_FILE = 'A block device must be specified for "file"'
NULL = '{"driver": "null-co", "size": 1048576}'
# (name, error of what is opened by it, or None)
NAMES = [
    (NULL, None),
    ('{"driver": "raw", "file": %s}' % NULL, None),
    ('{"driver": "raw", "file.driver": "null-co", "file": {"size": 1048576}}', None),
    ('{"driver": "quorum", "vote-threshold": 1, "children": [%s]}' % NULL, None),
    ("[]", "Invalid JSON object given"),
    ("5", "Invalid JSON object given"),
    ("{", "Could not parse the JSON options: JSON parse error, premature EOI"),
    ("{}", NEITHER),
    ('{"driver": null}', NEITHER),
    ('{"driver": 5}', NEITHER),
    ('{"driver": true}', NEITHER),
    ('{"driver": []}', NEITHER),
    ('{"driver": {"a": "file"}}', NEITHER),
    ('{"driver": ""}', "Unknown driver ''"),
    ('{"driver": "raw"}', NO_FILE),
    ('{"driver": "raw", "file": null}', NO_FILE),
    ('{"driver": "raw", "file": 5}', NO_FILE),
    ('{"driver": "raw", "file": true}', NO_FILE),
    ('{"driver": "raw", "file": []}', NO_FILE),
    ('{"driver": "raw", "file": "none"}', "Cannot find device='none' nor node-name='none'"),
]


SIZE = "Parameter 'size' expects a non-negative number below 2^64"
SWITCH = "Parameter '{}' expects 'on' or 'off'"
NUMBER = "Parameter '{}' expects a number"
# (definition, with FILE for the definition of a raw file and QCOW2 for that of an image; error or None)
VALUES = [
    *(('{"driver": "null-co", "size": %s}' % size, None) for size in ('"1M"', '"1m"', '"1048576"', '"0x100000"', "1048576")),
    ('{"driver": "null-co", "size": "1M", "read-zeroes": "yes", "latency-ns": "5"}', None),
    ('{"driver": "null-co", "size": "1M", "latency-ns": null, "read-zeroes": []}', None),
    *(('{"driver": "raw", "size": %s, FILE}' % size, SIZE) for size in ('"x"', '""', '"-1"', "-1", "true", "1.5")),
    *(('{"driver": "raw", "size": %s, "offset": "64k", FILE}' % size, None) for size in ("null", "[]", "{}", '"960k"')),
    *(('{"driver": "qcow2", "lazy-refcounts": %s, QCOW2}' % on, None) for on in ('"on"', '"off"', '"true"', '"y"', '"no"', "false", "null")),
    *(('{"driver": "qcow2", "lazy-refcounts": %s, QCOW2}' % on, SWITCH.format("lazy-refcounts")) for on in ('"ON"', '"1"', "1")),
    ('{"driver": "qcow2", "l2-cache-size": "1M", "cache-clean-interval": "10", "overlap-check": "all", QCOW2}', None),
    ('{"driver": "qcow2", "cache-clean-interval": "x", QCOW2}', NUMBER.format("cache-clean-interval")),
    ('{"driver": "qcow2", "overlap-check": {"template": "all", "main-header": "x"}, QCOW2}', SWITCH.format("overlap-check.main-header")),
    ('{"driver": "qcow2", "overlap-check.template": "none", "backing": null, QCOW2}', None),
    ('{"driver": "qcow2", "backing": {"driver": "null-co", "size": "1M"}, QCOW2}', None),
    ('{"driver": "raw", "discard": "on", "read-only": "on", "cache": {"direct": "off"}, FILE}', None),
    ('{"driver": "raw", "cache": {"direct": "x"}, FILE}', SWITCH.format("cache.direct")),
    ('{"driver": "raw", "read-only": "x", FILE}', SWITCH.format("read-only")),
    ('{"driver": "raw", "discard": "x", FILE}', "Invalid discard option"),
    ('{"driver": "raw", "detect-zeroes": "x", FILE}', "invalid parameter value: x"),
    ('{"driver": "raw", "file.locking": "x", FILE}', "invalid parameter value: x"),
    ('{"driver": "raw", "foo": 1, FILE}', "Block format 'raw' does not support the option 'foo'"),
    ('{"driver": "raw", "file.foo": 1, FILE}', "Block protocol 'file' doesn't support the option 'foo'"),
    ('{"driver": "quorum", "vote-threshold": "1", "blkverify": "off", "children": [%s]}' % NULL, None),
    ('{"driver": "quorum", "children": [%s]}' % NULL, "Parameter 'vote-threshold' expects a value >= 1"),
    ('{"driver": "throttle", FILE}', "Please specify a throttle group"),
    ('{"driver": "blkdebug", "align": "1k", "inject-error": [{"event": "read_aio", "errno": "5", "once": "on"}], "image": %s}' % NULL, None),
    ('{"driver": "blkdebug", "inject-error": [{"event": "read_aio", "errno": "x"}], "image": %s}' % NULL, NUMBER.format("errno")),
]


@pytest.mark.parametrize("definition, error", VALUES)
def test_values_as_text(server, images, definition, error):
    """Options are read as -drive reads them: text with units, on and off; and null is not given."""
    storage = images.create("storage.raw", "raw")
    other = images.create("other.qcow2")
    name = definition.replace("FILE", f'"file.driver": "file", "file.filename": "{storage.path}"')
    name = name.replace("QCOW2", f'"file": {{"driver": "file", "filename": "{other.path}"}}')
    test_backing_file(server, images, name, error, size=(960 if '"offset": "64k"' in name else 1024) << 10)


NAMES_SHOWN = [
    ('{"driver": "raw", "size": "64k", "offset": 512, FILE}', '{"offset": 512, "driver": "raw", "size": "64k", "file": STORAGE}'),
    ('{"driver": "raw", "size": 65536, FILE}', '{"driver": "raw", "size": 65536, "file": STORAGE}'),
    ('{"driver": "raw", "discard": "on", "size": "64k", FILE}', '{"driver": "raw", "size": "64k", "file": STORAGE}'),
    ('{"driver": "null-co", "size": "1M", "read-zeroes": "yes"}', '{"read-zeroes": "yes", "driver": "null-co", "size": "1M"}'),
]


@pytest.mark.parametrize("definition, shown", NAMES_SHOWN)
def test_values_are_shown_as_they_were_given(server, images, definition, shown):
    storage = images.create("storage.raw", "raw")
    test_backing_file(server, images, definition.replace("FILE", f'"file.driver": "file", "file.filename": "{storage.path}"'), None, None)
    wanted = shown.replace("STORAGE", f'{{"driver": "file", "filename": "{storage.path}"}}')
    assert "json:" + wanted in [node["file"] for node in server.execute("query-named-block-nodes")]


@pytest.mark.parametrize("format, error", [
    ("throttle", "Please specify a throttle group"),
    ("quorum", "Number of provided children must be 1 or more"),
    ("blkverify", 'A block device must be specified for "raw"'),
    ("blklogwrites", 'A block device must be specified for "log"'),
])  # fmt: skip
def test_overlays_that_need_more_than_a_file(server, images, format, error):
    server.add_image("n", images.create("base.qcow2"))
    overlay = {"node-name": "n", "snapshot-node-name": "o", "snapshot-file": str(images.create("o.qcow2").path), "mode": "existing"}
    assert server.error("blockdev-snapshot-sync", overlay, format=format) == error


@pytest.mark.parametrize("name, error", NAMES)
def test_backing_file(server, images, name, error, size=1 << 20):
    """The image names its backing file, and no format for it."""
    base = images.create("base.raw", "raw")
    image = images.create("image.qcow2", backing=base)
    stored, wanted = str(base.path).encode(), b"json:" + name.encode()
    data = bytearray(image.path.read_bytes())
    at = data.index(stored)
    data[at : at + len(wanted)] = wanted
    data[16:20] = len(wanted).to_bytes(4, "big")
    data[data.index(FORMAT_EXTENSION)] ^= 0x80
    image.path.write_bytes(data)
    options = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(image.path)}}
    if error is None:
        server.execute("blockdev-add", options)
        shown = server.query_node("n")["image"]["backing-image"]
        assert size is None or shown["virtual-size"] == size
    else:
        assert server.error("blockdev-add", options) == f"Could not open backing file: {error}"
