#!/usr/bin/env python3
"""Lays Blockbed's JSON framer and writer beside QEMU's.

Both get the same bytes: hand-picked damage, every pair of interesting bytes, and seeded random documents with random
damage. Each must send back the same bytes: as many errors, in the same order and in the same words, and every value
printed the same way.

    json_oracle.py DRIVER [--qemu PROGRAM] [--seed N] [--count N] [--all-pairs]

Exit status 77 (skipped) when QEMU is not installed.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import threading

CASES = [
    # Words and numbers, alone and ended by whatever follows.
    b'x', b'nul ', b'null ', b'true ', b'truex ', b'tRue ', b't1 ', b't_ ', b'nan ', b'NaN ', b'Infinity ', b'-Infinity ',
    b'01', b'01}', b'00', b'-', b'-x', b'--1', b'-01 ', b'+1 ', b'1.', b'1.}', b'.5 ', b'1.e5 ', b'1e', b'1e+', b'1e+}',
    b'1e5x ', b'1.5.5 ', b'0x10 ', b'1_000 ', b'1 2 3 ', b'-0 ', b'0 ',
    # Brackets.
    b'{', b'}', b'[', b']', b'}}}}', b']]', b'[}', b'{]', b'[1}', b'{"a":]}', b'{"a":1]', b'[{]}', b'{[}]', b'[[}]]',
    b'{}', b'[]', b'{}{}', b'[][]', b'{{}:1}', b'{{"a":tru}:1}', b'{[]}', b'{{},}', b'[{}:1]', b'{"a":{"b":[}]}',
    # Members and items.
    b'{a:1}', b'{1:1}', b'{true:1}', b'{null:1}', b'{"a" 1}', b'{"a"}', b'{"a":}', b'{"a":1 "b":2}', b'{"a":1,}', b'{,}',
    b'{"a":1,,"b":2}', b'[1,]', b'[,]', b'[,1]', b'[1 2]', b'[1,,2]', b'[1:2]', b',', b':', b'"a":1', b'{"a"::1}',
    b'{"a":1,"a":2}', b'{"a":1,"a":x}', b'{"a":1,"a"}', b'{"a":1,"a":2,x}', b"{'a':1,\"a\":2}", b'{"a":1,"\\u0061":2}',
    # Strings.
    b'"abc', b"'abc", b'"\x01', b'"a\tb"', b'"a\nb"', b'"\\q"', b'"\\', b'"\\"', b'"\xff"', b'"\\\xff"', b'"\\\x01"',
    b'"a" "b"', b'"a""b"', b"'a'\"b\"",
    # Bytes that are nothing anywhere.
    b'\x00', b'"\x00"', b'"a\x00b"', b'\x01\x02', b'\x7f', b'\x80', b'\xc3\xa9', b'\xef\xbb\xbf{}', b'//', b'/* */{}', b'#',
    b'%d ', b'[%d]', b'{"a":%d}', b'%', b'%p', b'%%', b'%lld ', b'\t\r\n ', b'\x0b', b'\x0c', b'$\n{}', b'$\t{}', b'$ {}', b'$\x01{}',
    # Resynchronising.
    b'{"a":[1,2,\xff{}', b'{"a":[1,2,\xfe{}', b'"abc\xff{}', b'x\xff\xff\xfe{}', b'{"a":1,\xff"b":2}', b'[1,$,2]',
    b'{"execute":"a\tb","id":1}', b'{"execute":tru,"id":1}{"execute":"y","id":2}',
    # Depth.
    b'[' * 1024 + b']' * 1024, b'[' * 1025 + b']' * 1025, b'[' * 1026 + b']' * 1026, b'[{' * 512 + b'1', b'[{' * 512 + b'{',
    b'{"a":' * 1024 + b'1' + b'}' * 1024, b'{"a":' * 1025 + b'1' + b'}' * 1025, b'[' * 1024 + b'tru[' + b']' * 1025,
    b'[' * 600 + b'}' + b'{"a":' * 600,
    # A key that needs the parser's index of large objects.
    b'{' + b','.join(b'"k%d":%d' % (i, i) for i in range(600)) + b',"k7":0}',
]

# Sent as the "id" of a command, which comes back.
VALUES = [
    b'1e999', b'-1e999', b'1e400', b'1e-400', b'-1e-400', b'18446744073709551615', b'18446744073709551616', b'9223372036854775807',
    b'9223372036854775808', b'-9223372036854775808', b'-9223372036854775809', b'-0', b'-0.0', b'0.0', b'1.5', b'0.1', b'1e3',
    b'1E+2', b'1e-7', b'1e15', b'1e16', b'1e17', b'1e22', b'12345678901234567890123', b'1.0', b'1.0e0', b'5e-324', b'2e-324', b'3e-324',
    b'1.7976931348623157e308', b'1.7976931348623159e308', b'3.14159265358979', b'123456789012345678', b'4.35', b'2.675',
    b'1' * 400, b'0.' + b'3' * 400, b'1e0000000000000000000001', b'1e-99999999999999999999', b'-' + b'9' * 30,
    b'true', b'false', b'null', b'{}', b'[]', b'[{},[],[[]],{"a":{}}]',
    b'"\\u0000"', b'"\\uffff"', b'"\\ufffe"', b'"\\ufdd0"', b'"\\ufdef"', b'"\\ufdf0"', b'"\\ufffd"', b'"\\u123"', b'"\\u12g4"',
    b'"\\u"', b'"\\u "', b'"\\u+123"', b'"\\u-123"', b'"\\u0x12"', b'"\\uzzzzzz"', b'"\\u12\\""', b'"\\u\xc3\xa9\xc3\xa9"', b'"\\u12\xe2\x82\xac"',
    b'"\\ud800\\u0041"', b'"\\ud800x"', b'"\\ud800"', b'"\\udc00"', b'"\\udc00\\ud800"', b'"\\uD83D\\uDE0"', b'"\\uD83D\\n"',
    b'"\\uD83D\\uD83D"', b'"\\uD83D\\uDE00"', b'"\\uD83F\\uDFFE"', b'"\\uD83F\\uDFFF"', b'"\\uD83F\\uDFFD"', b'"\\uDBFF\\uDFFD"',
    b'"\\b\\f\\n\\r\\t\\\\\\"\\/\\\'"', b"'it\\'s \"q\"'", b"'it\\\"s'", b'"it\'s"', b'"\\u00e9\\u007f\\u0080\\u001f\\u0001"', b'"\x7f"',
    b'"\\x"', b'"\\0"', b'"\\U0041"', b'"\\\xc3\xa9"', b'"a%%b%db"',
    b'"\xc3\xa9"', b'"\xc3"', b'"\xe9x"', b'"\xc0\x80"', b'"\xc0\x81"', b'"\xc1\x81"', b'"\xe0\x80\x80"', b'"\xe0\x9f\xbf"',
    b'"\xe0\xa0\x80"', b'"\xed\x9f\xbf"', b'"\xed\xa0\x80"', b'"\xee\x80\x80"', b'"\xef\xbf\xbd"', b'"\xef\xbf\xbe"', b'"\xef\xb7\x90"',
    b'"\xf0\x80\x80\x80"', b'"\xf0\x8f\xbf\xbf"', b'"\xf0\x90\x80\x80"', b'"\xf0\x9f\x98\x80"', b'"\xf0\x9f\xbf\xbe"', b'"\xf4\x8f\xbf\xbd"',
    b'"\xf4\x90\x80\x80"', b'"\xf5\x80\x80\x80"', b'"\xf8\x88\x80\x80\x80"', b'"\xfc\x84\x80\x80\x80\x80"', b'"\xfd\x81"', b'"\x80"', b'"\xbf\x80"',
    b'{"' + b'","'.join([]) + b'z":1,"y":2,"x":3,"w":4}',
    # 600 keys fill the buckets: places within one bucket show too.
    b'{' + b','.join(b'"k%d":%d' % (i, i) for i in range(600)) + b'}',
    '{"é":1,"ü":2,"日本":3,"":4}'.encode(),
]

# What QEMU prints for broken bytes shows in the text of an error that quotes them.
QUOTED = [
    b'\xe9x', b'\xe9\x81x', b'\xe9\x81', b'\xc3', b'\xc3\xc3', b'\x80\x81', b'\xf0\x9f\x98', b'\xf0\x9f\x98x', b'\xf0\x80\x80\x80', b'\xf8\x88\x80\x80\x80z',
    b'\xfc\x84\x80\x80\x80\x80z', b'\xfd\xfd', b'\xed\xa0\x80', b'\xef\xbf\xbe', b'\xc0\x80', b'\xc1\x81', b'\xe0\x80\x80', b'\xf7\xbf\xbf\xbf', b'\xfb\xbf\xbf\xbf\xbf',
    b'\xe2\x82\xac', b'\xf4\x90\x80\x80', b'\xc3(\xa9', b'\xe2(\x82\xac', b'\xe2\x82(\xac',
]

INTERESTING = b'{}[]:,"\'\\ \t\r\n\x00\x01\x1f/%+-.09aeuxEANZ_$\x7f\x80\xbf\xc0\xc3\xe9\xf0\xf8\xfd\xfe\xff'


def random_value(rng, depth=0):
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([b'true', b'false', b'null', b'nul', b'yes'] if rng.random() < .2 else [b'true', b'false', b'null'])
    if kind == 1:
        return b'%d' % (rng.choice([1, -1]) * rng.getrandbits(rng.choice([3, 8, 31, 32, 53, 62, 63, 64, 65, 90])))
    if kind == 2:
        number = b'%d' % rng.randrange(-1000, 1000)
        if rng.random() < .7:
            number += b'.%d' % rng.getrandbits(rng.choice([4, 40, 80]))
        if rng.random() < .5:
            number += rng.choice([b'e', b'E']) + rng.choice([b'', b'+', b'-']) + b'%d' % rng.randrange(330)
        return number
    if kind in (3, 4, 5):
        return random_string(rng)
    space = rng.choice([b'', b'', b' ', b'\n', b'\t', b' \r\n'])
    count = rng.choice([0, 1, 2, 3, 5, 12])
    if kind == 6:
        return b'[' + space + (b',' + space).join(random_value(rng, depth + 1) for _ in range(count)) + space + b']'
    return b'{' + space + (b',' + space).join(
        random_string(rng) + space + b':' + space + random_value(rng, depth + 1) for _ in range(count)) + space + b'}'


def random_string(rng):
    quote = rng.choice([b'"', b'"', b'"', b"'"])
    out = b''
    for _ in range(rng.choice([1, 1, 2, 4, 8, 30])):
        kind = rng.randrange(14)
        if kind < 8:
            c = bytes([rng.randrange(0x20, 0x7f)])
            out += c if c not in (b'"', b"'", b'\\') else b'q'
        elif kind == 8:
            out += chr(rng.choice([0xe9, 0x20ac, 0x1f600, 0xfffd, 0x7ff, 0x800, 0xffff, 0x10000])).encode('utf-8', 'surrogatepass')
        elif kind == 9:
            out += b'\\u%04x' % rng.choice([0, 0x41, 0xe9, 0x20ac, 0xd83d, 0xde00, 0xfffe, rng.getrandbits(16)])
        elif kind == 10:
            out += b'\\' + rng.choice([b'"', b"'", b'\\', b'/', b'b', b'f', b'n', b'r', b't'])
        elif kind == 11:
            out += b'\\ud83d\\ude00'
        elif kind == 12 and rng.random() < .1:
            out += bytes([rng.randrange(256)])
        elif kind == 13 and rng.random() < .1:
            out += b'\\' + bytes([rng.randrange(256)])
    return quote + out + quote


def damage(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        at = rng.randrange(len(data) + 1)
        action = rng.randrange(4)
        if action == 0:
            data[at:at] = bytes([rng.choice(INTERESTING)])
        elif action == 1:
            del data[at:at + rng.choice([1, 1, 3, 10])]
        elif action == 2 and at < len(data):
            data[at] = rng.choice(INTERESTING)
        elif action == 3:
            end = min(len(data), at + rng.randrange(8))
            data[at:at] = data[at:end]
    return bytes(data)


def command(value):
    return b'{"execute":"x","id":' + value + b'}'


def inputs(args):
    yield from CASES
    yield from (command(v) for v in VALUES)
    yield from (b'"' + q + b'\xff' for q in QUOTED)
    pair_bytes = range(256) if args.all_pairs else INTERESTING
    for a in pair_bytes:
        for b in pair_bytes:
            yield bytes([a, b])
    rng = random.Random(args.seed)
    for _ in range(args.count):
        if rng.random() < .15:
            yield bytes(rng.choice(INTERESTING) for _ in range(rng.randrange(1, 12)))
        else:
            yield damage(rng, command(random_value(rng)))


class Side:
    """One process, its input written by a thread so that neither side can block the other."""

    def __init__(self, argv, greets):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if greets:
            self.process.stdout.readline()

    def feed(self, blobs):
        def write():
            for blob in blobs:
                self.process.stdin.write(blob)
            self.process.stdin.flush()
        self.writer = threading.Thread(target=write, daemon=True)
        self.writer.start()

    def until(self, mark):
        lines = []
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f'{self.process.args[0]} ended')
            if mark in line:
                return lines
            # What the monitor says of an object that is no command is compared by monitor_oracle.py.
            if b'"QMP input member' in line or b'"QMP input lacks' in line:
                line = b'not a command\r\n'
            lines.append(line)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('driver')
    parser.add_argument('--qemu', default='qemu-system-x86_64')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--count', type=int, default=3000)
    parser.add_argument('--all-pairs', action='store_true')
    args = parser.parse_args()
    if not shutil.which(args.qemu):
        print(f'{args.qemu} is not installed')
        return 77

    cases = list(inputs(args))
    # 0xFF ends whatever a case left open; the command after it marks the end of the case's replies.
    blobs = [case + b'\xff{"execute":"z","id":"mark %d"}' % i for i, case in enumerate(cases)]
    sides = {'qemu': Side([args.qemu, '-machine', 'none', '-nodefaults', '-display', 'none', '-qmp', 'stdio'], True)}
    for step in ('65536', '7', '1'):
        sides[f'blockbed, portions of {step}'] = Side([args.driver, step], False)
    for side in sides.values():
        side.feed(blobs)

    different = 0
    for i, case in enumerate(cases):
        answers = {name: side.until(b'"mark %d"' % i) for name, side in sides.items()}
        expected = answers['qemu']
        if all(answer == expected for answer in answers.values()):
            continue
        different += 1
        if different <= 20:
            print(f'input {case[:300]!r}')
            for name, answer in answers.items():
                print(f'  {name}: {b"".join(answer)[:600]!r}')
    print(f'{len(cases)} inputs, {different} answered differently')
    for side in sides.values():
        side.process.kill()
    return 1 if different else 0


if __name__ == '__main__':
    sys.exit(main())
