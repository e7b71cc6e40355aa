"""Bytes on the wire: what is a value, what is an error, and how the monitor finds its feet again."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockbed_iotests import Server

STRAY_FF = r"JSON parse error, stray '\uFFFD'"


def exchange(server, data) -> list[bytes]:
    """The lines that the server answers to these bytes. A byte FF ends whatever they left open, with one error."""
    server.send_raw(data if isinstance(data, bytes) else data.encode())
    server.send_raw(b'\xff{"execute":"query-jobs","id":"END"}')
    lines = []
    while (line := server.recv_line()) != b'{"return": [], "id": "END"}\r\n':
        assert line.endswith(b"\r\n")
        lines.append(line[:-2])
    return lines


def answers(server, data) -> list[str]:
    """Error texts as they are on the wire (escapes kept), other replies whole; the error of the byte FF left out."""
    texts = []
    for line in exchange(server, data):
        message = json.loads(line)
        if "error" in message and "id" not in message:
            prefix = b'{"error": {"class": "GenericError", "desc": "'
            assert line.startswith(prefix), line
            texts.append(line[len(prefix) : -3].decode())
        else:
            texts.append(line.decode())
    assert texts and "\\uFFFD" in texts[-1], texts
    return texts[:-1] if texts[-1] == STRAY_FF else texts


PARSE = "JSON parse error, "
VALUE = PARSE + "expecting value"
NOT_OBJECT = "QMP input must be a JSON object"
OK = '{"return": []}'

BROKEN = {
    "unclosed": ('{"execute": "query-jobs"', []),
    "brace too many": ('{"execute": "query-jobs"}}', [OK, VALUE]),
    "closing brace": ("}", [VALUE]),
    "closing bracket": ("]", [VALUE]),
    "comma": (",", [VALUE]),
    "colon": (":", [VALUE]),
    "array": ("[]", [NOT_OBJECT]),
    "number": ("1 ", [NOT_OBJECT]),
    "string": ('"x"', [NOT_OBJECT]),
    "null": ("null ", [NOT_OBJECT]),
    "true": ("true ", [NOT_OBJECT]),
    "empty object": ("{}", ["QMP input lacks member 'execute'"]),
    "execute not a string": ('{"execute":1}', ["QMP input member 'execute' must be a string"]),
    "unknown member": ('{"execute":"query-jobs","foo":1}', ["QMP input member 'foo' is unexpected"]),
    "execute and exec-oob": ('{"execute":"query-jobs","exec-oob":"quit"}', ["QMP input member 'exec-oob' is unexpected"]),
    "exec-oob without oob": ('{"exec-oob":"query-jobs"}', ["QMP input member 'exec-oob' is unexpected"]),
    "arguments a list": ('{"execute":"query-jobs","arguments":[]}', ["QMP input member 'arguments' must be an object"]),
    "arguments null": ('{"execute":"query-jobs","arguments":null}', ["QMP input member 'arguments' must be an object"]),
    "arguments unknown": ('{"execute":"query-jobs","arguments":{"a":1}}', ["Parameter 'a' is unexpected"]),
    "duplicate member": ('{"execute":"query-jobs","execute":"quit"}', [PARSE + "duplicate key"]),
    "duplicate in id": ('{"execute":"query-jobs","id":{"a":1,"a":2}}', [PARSE + "duplicate key"]),
    "lone surrogate": ('{"execute":"query-jobs","id":"\\ud83d"}', [PARSE + r"\\ud83d is not a valid Unicode character"]),
    "leading zero": ('{"execute":"query-jobs","id":01}', [PARSE + "stray '01'", VALUE]),
    "plus": ('{"execute":"query-jobs","id":+1}', [PARSE + "stray '+'", VALUE]),
    "fraction only": ('{"execute":"query-jobs","id":.5}', [PARSE + "stray '.'", VALUE]),
    "minus only": ('{"execute":"query-jobs","id":-}', [PARSE + "stray '-}'"]),
    "unknown keyword": ('{"execute":"query-jobs","id":nul}', [PARSE + "invalid keyword 'nul'"]),
    "key without quotes": ('{execute:"query-jobs"}', [PARSE + "invalid keyword 'execute'"]),
    "tab in string": ('{"execute":"query-jobs","id":"a\tb"}', [PARSE + "stray '\\\"a\\t'", VALUE]),
    "newline in string": ('{"execute":"query-jobs","id":"a\nb"}', [PARSE + "stray '\\\"a\\n'", VALUE]),
    "unclosed string": ('{"execute":"query-jobs","id":"a\n{"execute":"query-jobs"}', [PARSE + "stray '\\\"a\\n'", OK]),
    "string then FF": ('"abc', [PARSE + "stray '\\\"abc\\uFFFD'"]),
    "bad UTF-8": (b'{"execute":"query-jobs","id":"\xc3("}', [PARSE + "invalid UTF-8 sequence in string"]),
    "noncharacter": ('{"execute":"query-jobs","id":"\uffff"}', [PARSE + "invalid UTF-8 sequence in string"]),
    "overlong UTF-8": (b'{"execute":"query-jobs","id":"\xc0\xaf"}', [PARSE + "invalid UTF-8 sequence in string"]),
    "surrogate in UTF-8": (b'{"execute":"query-jobs","id":"\xed\xa0\x80"}', [PARSE + "invalid UTF-8 sequence in string"]),
    "bad escape": ('{"execute":"query-jobs","id":"\\x"}', [PARSE + "invalid escape sequence in string"]),
    "trailing comma": ('{"execute":"query-jobs",}', [VALUE]),
    "trailing comma in list": ('{"execute":"query-jobs","id":[1,]}', [VALUE]),
    "only comma": ("{,}", [VALUE]),
    "no colon": ('{"execute" "query-jobs"}', [PARSE + "missing : in object pair"]),
    "no comma in list": ('{"execute":"query-jobs","id":[1 2]}', [PARSE + "expected separator in list"]),
    "no comma in object": ('{"execute":"query-jobs" "id":1}', [PARSE + "expected separator in dict"]),
    "number as key": ("{1:2}", [PARSE + "key is not a string in object"]),
    "control byte": ("\x01", [PARSE + r"stray '\u0001'"]),
    "comment": ("# comment\n", [PARSE + "stray '#'"]),
    "interpolation": ('{"execute":%d}', [PARSE + "stray '%'", VALUE]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_value(server, name):
    data, expected = BROKEN[name]
    assert answers(server, data) == expected
    assert server.execute("query-jobs") == []


def test_errors_name_the_id(server):
    assert exchange(server, '{"id": 7}')[0] == (
        b'{"id": 7, "error": {"class": "GenericError", "desc": "QMP input lacks member \'execute\'"}}'
    )
    assert exchange(server, '{"id": "x", "execute": "nope"}')[0] == (
        b'{"id": "x", "error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}}'
    )


@pytest.mark.parametrize(
    "sent, received",
    [
        ("7", "7"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "1.8446744073709552e+19"),
        ("-9223372036854775809", "-9.2233720368547758e+18"),
        ("1.5", "1.5"),
        ("1e3", "1000"),
        ("-0", "0"),
        ("0.1", "0.10000000000000001"),
        ("true", "true"),
        ("null", "null"),
        ('{"a": [1, {}], "b": []}', '{"a": [1, {}], "b": []}'),
        ("'it\\'s'", '"it\'s"'),
        ("'a\"b'", '"a\\"b"'),
        (r'"\u00e9\ud83d\ude00\u0001 é"', r'"\u00E9\uD83D\uDE00\u0001 \u00E9"'),
        (r'"\/\b\f\n\r\t\"\\"', r'"/\b\f\n\r\t\"\\"'),
        (r'"\u0000"', r'"\u0000"'),
        ('"\x7f"', r'"\u007F"'),
        ('"<&>"', '"<&>"'),
    ],
)
def test_values_survive_a_round_trip(server, sent, received):
    assert exchange(server, f'{{"execute": "query-jobs", "id": {sent}}}')[0].decode() == (
        f'{{"return": [], "id": {received}}}'
    )


def test_values_need_no_separator(server):
    one = '{"execute":"query-jobs","id":%d}'
    lines = exchange(server, one % 1 + one % 2 + "\n\n\t " + one % 3)
    assert [json.loads(line)["id"] for line in lines[:-1]] == [1, 2, 3]


def test_a_value_may_come_byte_by_byte(server):
    for byte in b'{\n"execute"\r\n:\t"query-jobs" , "id" : "slow" }':
        server.send_raw(bytes([byte]))
    assert server.recv() == {"return": [], "id": "slow"}


@pytest.mark.parametrize("byte", [b"\xff", b"\xfe"])
def test_resynchronise(server, byte):
    server.send_raw(b'{"execute": "query-jo' + byte + b'{"execute":"query-jobs"}')
    assert "error" in server.recv()
    assert server.recv() == {"return": []}


# ---------------------------------------------------------------------- bounds: each with one more


def test_nesting_limit(server):
    deepest = "[" * 1023 + "]" * 1023
    assert exchange(server, f'{{"execute":"query-jobs","id":{deepest}}}')[0].startswith(b'{"return": []')
    too_deep = "[" * 1025 + "]" * 1025
    assert answers(server, too_deep)[0] == "JSON nesting depth limit exceeded"
    assert server.execute("query-jobs") == []


def test_nesting_far_beyond_the_limit(server):
    assert answers(server, "[" * 200_000)[0] == "JSON nesting depth limit exceeded"
    assert answers(server, '{"a":' * 100_000)[0] == "JSON nesting depth limit exceeded"
    assert server.execute("query-jobs") == []


@pytest.mark.slow("QEMU reads its monitor byte by byte: minutes", server="qemu")
@pytest.mark.limit(400)
def test_token_size_limit(server):
    """64 MiB of token text in one value."""
    server.qmp.timeout = 300
    piece = "x" * (1 << 20)
    server.send_raw('{"execute":"query-jobs","id":[' + ",".join([f'"{piece}"'] * 63) + "]}")
    assert server.recv_line().startswith(b'{"return": []')
    too_long = '{"execute":"query-jobs","id":[' + ",".join([f'"{piece}"'] * 65) + "]}"
    assert "JSON token size limit exceeded" in answers(server, too_long)
    assert server.execute("query-jobs") == []


@pytest.mark.limit(120)
def test_token_count_limit(server):
    """2 Mi tokens in one value."""
    too_many = '{"execute":"query-jobs","id":[' + "1," * ((2 << 20) // 2) + "1]}"
    assert "JSON token count limit exceeded" in answers(server, too_many)
    assert server.execute("query-jobs") == []


# ---------------------------------------------------------------------- whatever comes


JSON_BITS = st.sampled_from(
    ['{', '}', '[', ']', ',', ':', '"execute"', '"query-jobs"', '"id"', '"arguments"', "1", "-", "true", "null", "nul", "'a'",
     '"', "'", "\\u12", "\\", "1e", "0.", "\xe9", "\x00", " ", "\n", "%s", "{}", "[]", '{"execute":"query-jobs"}']
)


@pytest.mark.limit(120)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(st.one_of(st.lists(JSON_BITS, max_size=12).map("".join).map(str.encode), st.binary(max_size=12)), max_size=40))
def test_garbage_is_answered_as_qemu_answers_it(target, qemu, batch):
    """Every mixture of pieces of JSON and of bytes: the same answers as the real QEMU's, and the server lives."""
    with Server(qemu, target.manner) as reference, Server(target.program, target.manner) as server:
        for data in batch:
            assert exchange(server, data) == exchange(reference, data), data


def test_key_order(server):
    """The order of members is that of QEMU's hash table; see query-version and an object with many members."""
    server.send_raw('{"execute":"query-version"}')
    assert server.recv_line().startswith(b'{"return": {"qemu": {"micro": ')
    server.execute("blockdev-add", {"driver": "null-co", "node-name": "n"})
    (node,) = server.execute("query-named-block-nodes")
    assert list(node) == [
        "iops_rd", "detect_zeroes", "image", "iops_wr", "ro", "node-name", "backing_file_depth", "drv", "iops", "bps_wr",
        "write_threshold", "encrypted", "bps", "bps_rd", "cache", "file",
    ]
    assert list(node["cache"]) == ["no-flush", "direct", "writeback"]


def test_key_order_of_an_id(server, qemu):
    """A client's own object comes back in the server's order, whatever its keys."""
    keys = ["zeta", "alpha", "b", "a", "long-key-with-many-letters", "x1", "x2", "x3", "", "0"]
    value = {key: number for number, key in enumerate(keys)}
    with Server(qemu, server.manner) as reference:
        message = json.dumps({"execute": "query-jobs", "id": value})
        assert exchange(server, message) == exchange(reference, message)
