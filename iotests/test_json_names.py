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


@pytest.mark.parametrize("name, error", NAMES)
def test_backing_file(server, images, name, error):
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
        assert server.query_node("n")["image"]["backing-image"]["virtual-size"] == 1 << 20
    else:
        assert server.error("blockdev-add", options) == f"Could not open backing file: {error}"
