#!/usr/bin/env python3
"""Lays Blockbed's monitor beside QEMU's: negotiation, faulty messages, out-of-band, events, the human monitor.

Each case is one process of either side that is fed the same bytes and ended by the same `quit`; everything that they
send must be equal, but for times and the package's name.

    monitor_oracle.py DRIVER [--qemu PROGRAM] [--seed N] [--count N]

Exit status 77 (skipped) when QEMU is not installed.
"""

import argparse
import itertools
import random
import re
import shutil
import subprocess
import sys
import threading

NEGOTIATE = '{"execute":"qmp_capabilities"}'
NEGOTIATE_OOB = '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}'
QUIT = '{"execute":"quit"}'

BEFORE = [
    '{}', '[]', '1 ', '"x"', '{"id":1}', '{"execute":1}', '{"execute":null,"id":1}', '{"execute":"x","foo":1,"id":3}',
    '{"foo":1,"bar":1}', '{"execute":"x","exec-oob":"y"}', '{"exec-oob":"y","id":1}', '{"exec-oob":1}',
    '{"execute":"x","arguments":1}', '{"execute":"x","arguments":[]}', '{"execute":"qmp_capabilities","control":1}',
    '{"execute":"query-version"}', '{"execute":"nope","id":4}', '{"execute":"qmp_capabilities","arguments":1,"id":2}',
    '{"execute":"qmp_capabilities","arguments":null}', '{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}',
    '{"execute":"qmp_capabilities","arguments":{"enable":["foo"]}}', '{"execute":"qmp_capabilities","arguments":{"enable":[1]}}',
    '{"execute":"qmp_capabilities","arguments":{"x":["oob"]}}', '{"exec-oob":"qmp_capabilities"}',
    '}', '{"execute":tru}', 'nonsense ', '{"execute":"stop"}',
]
AFTER = BEFORE + [
    NEGOTIATE, NEGOTIATE_OOB, '{"execute":"qmp_capabilities","id":[1,{"a":null}]}', '{"execute":"","id":4}',
    '{"execute":"query-version","arguments":{"a":1},"id":4}', '{"execute":"query-version","arguments":{},"id":{"z":1,"a":2}}',
    '{"execute":"x","execute":"y"}', '{"arguments":{},"id":3}', '{"id":3,"foo":1,"execute":2}',
    '{"execute":"query-version","arguments":5,"exec-oob":2,"id":7}', '{"execute":"query-version","event":"a","id":7}',
    '{"execute":"stop"}{"execute":"cont"}{"execute":"cont"}{"execute":"stop","id":1}',
    '{"execute":"getfd","arguments":{"fdname":"a"}}', '{"execute":"closefd","arguments":{"fdname":"a"}}', '{"execute":"getfd"}',
    '{"execute":"yank","arguments":{"instances":[]},"id":1}', '{"execute":"yank","id":1}', '{"execute":"yank","arguments":{"instances":{}}}',
    '{"execute":"human-monitor-command"}', '{"execute":"human-monitor-command","arguments":{"command-line":1}}',
    '{"execute":"human-monitor-command","arguments":{"command-line":"stop","cpu-index":3}}',
]
OOB = AFTER + [
    '{"exec-oob":"yank","arguments":{"instances":[]},"id":1}', '{"exec-oob":"yank","id":1}', '{"exec-oob":"yank","arguments":1}',
    '{"exec-oob":"query-version","id":1}', '{"exec-oob":"nope","id":1}', '{"exec-oob":"qmp_capabilities","id":1}',
    '{"execute":"x","exec-oob":"y","id":1}', '{"exec-oob":1,"id":1}', '{"exec-oob":"y","execute":1,"id":2}', '{"exec-oob":"yank","foo":1}',
    '{"execute":"yank","arguments":{"instances":[]}}', '{"exec-oob":"yank","execute":"query-version","id":3}',
]
HUMAN = [
    '', ' ', 's', 'stop', '   stop   ', 'stop 1', 'stop/4', 'foo', 'foo bar', '# c', 'stop;stop', 'info foo', 'info name', 'info name x',
    'help stop', 'help s', 'help stop x', '? stop', 'help foo', 'help info name', 'help info foo', 'help help', 'help ?', 'info info',
    'info block -z', 'info block -n -v x y', 'info block -nv', 'info block x -n', 'help drive_add', 'help info block',
    'drive_add', 'drive_add -n', 'drive_add 0', 'drive_add -x', 'drive_add -n 0', 'block_resize', 'block_resize a', 'block_resize a b',
    'block_resize a 1', 'block_resize a 1x', 'block_resize a 1k', 'block_resize a 1.5k', 'block_resize a -1', 'block_resize a 1 2',
    'block_resize a 99999999999999999999', 'block_resize a 16E', 'block_resize a 1.', 'block_resize a .5', 'block_resize a 0', 'block_resize a 1.5B',
    'block_set_io_throttle', 'block_set_io_throttle d', 'block_set_io_throttle d x', 'block_set_io_throttle d 1', 'block_set_io_throttle d 1 2 3 4 5 6',
    'block_set_io_throttle d 1 2 3 4 5 6z', 'block_set_io_throttle d 1 2 3 4 5 0x6', 'block_set_io_throttle d 1+ 2 3 4 5 6',
    'block_set_io_throttle d 1 + 2 3 4 5 6 7', 'block_set_io_throttle d (1 3 4 5 6 7', 'block_set_io_throttle d 1/0 3 4 5 6 7',
    'block_set_io_throttle d 1 2 3 4 5 09', "block_set_io_throttle d 'a' 3 4 5 6 7", 'block_set_io_throttle d -1 2 3 4 5 6',
    'block_set_io_throttle d 1*2%3 3 4 5 6 7', 'block_set_io_throttle d ~1 3 4 5 6 7', 'block_set_io_throttle d 99999999999999999999999 2 3 4 5 6',
    "block_set_io_throttle d 'a 3 4 5 6 7", "block_set_io_throttle d 'ab' 3 4 5 6 7", "block_set_io_throttle d '", 'block_set_io_throttle d 0x 2 3 4 5 6',
    'block_set_io_throttle d 1 2 3 4 5 6 7', 'block_set_io_throttle d 1k 2 3 4 5 6', 'block_set_io_throttle d 18446744073709551615 2 3 4 5 6',
    'block_set_io_throttle "d e" 1 2 3 4 5 6', 'block_resize "a\\"b" 1', 'block_resize a"b 1',
    'info block "a', 'drive_add "a', 'drive_add "a\\q" b', 'drive_add "a\\n\\r\\\\\\\'" "b', 'block_resize "', 'block_resize "a"1',
]
TYPED = [
    'stop\n', '\n', 'abc\x7fd\n', 'a\x01b\x05c\n', 'stop\r\n', 'stop\n\x1b[A\n', 'ab\x1b[D\x1b[D\x1b[Cx\n', 'abc\x1b[D\x1b[3~\x1b[1~x\x1b[4~y\n', 'abc def\x17x\n',
    'abc\x01\x04\n', 'one\ntwo\n\x1b[A\x1b[A\x1b[B\n', 'one\none\n\x1b[A\x1b[A\n', 'x' * 70 + '\n', 'info name\n', 'stop 1\nhelp stop\n', '\x1b[A\n', '\x7f\x04\x1b[D\n',
    'a\x1bOAb\n', 'ab\x1bOHc\x1bOFd\n', 'ab\x1b[Hc\x1b[Fd\n', '\x0c\n', 'stop\x1b[Hx\x0c\n', 'info block "a\n', 'a\x1bxb\n', 'a\x02b\x06\n', 'a\x0bb\n', 'ab\x0cc\n', '\x1b[12~a\n', 'a\xc3\xa9\n',
]


def clean(output):
    output = re.sub(rb'"seconds": \d+', b'"seconds": 0', output)
    output = re.sub(rb'"microseconds": \d+', b'"microseconds": 0', output)
    return re.sub(rb'"package": "[^"]*"', b'"package": ""', output)


def run(argv, data):
    """The input stays open until the process ends by itself: its end could overtake commands that wait."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    stuck = threading.Timer(30, process.kill)
    stuck.start()

    def write():
        process.stdin.write(data)
        process.stdin.flush()
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    output = process.stdout.read()
    status = process.wait()
    writer.join()
    process.stdin.close()
    stuck.cancel()
    return clean(output) + b'\r\nexit status %d' % status


def cases(seed, count):
    rng = random.Random(seed)

    def human(line):
        line = line.replace('\\', '\\\\').replace('"', '\\"')
        return '{"execute":"human-monitor-command","arguments":{"command-line":"%s"}}' % line

    # Everything of a kind in one process: nothing of it ends a session.
    yield 'control', ''.join(m for m in BEFORE) + NEGOTIATE
    yield 'control', NEGOTIATE + ''.join(AFTER)
    yield 'control', NEGOTIATE_OOB + ''.join(m for m in OOB)
    yield 'pretty', ''.join(BEFORE) + NEGOTIATE + ''.join(AFTER)
    for lines in itertools.batched(HUMAN, 20) if hasattr(itertools, 'batched') else [HUMAN[i:i + 20] for i in range(0, len(HUMAN), 20)]:
        yield 'control', NEGOTIATE + ''.join(map(human, lines))
    for keys in TYPED:
        yield 'human', keys
    for _ in range(count):
        oob = rng.random() < .5
        messages = rng.choices(OOB if oob else AFTER, k=rng.randrange(1, 30))
        yield rng.choice(['control', 'control', 'pretty'] if not oob else ['control']), rng.choice(['', NEGOTIATE_OOB if oob else NEGOTIATE]) + ''.join(messages)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('driver')
    parser.add_argument('--qemu', default='qemu-system-x86_64')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--count', type=int, default=20)
    args = parser.parse_args()
    if not shutil.which(args.qemu):
        print(f'{args.qemu} is not installed')
        return 77

    options = {'control': '-qmp', 'pretty': '-qmp-pretty', 'human': '-monitor'}
    different = total = 0
    for mode, text in cases(args.seed, args.count):
        end = 'quit\n' if mode == 'human' else NEGOTIATE + QUIT
        data = (text + end).encode('latin-1')
        qemu = run([args.qemu, '-machine', 'none', '-nodefaults', '-display', 'none', options[mode], 'stdio'], data)
        ours = run([args.driver, mode], data)
        total += 1
        if NEGOTIATE_OOB in text:
            # What overtakes what is a matter of time, on QEMU's side of threads.
            qemu, ours = (b'\r\n'.join(sorted(side.split(b'\r\n'))) for side in (qemu, ours))
        if qemu != ours:
            different += 1
            print(f'{mode}: {text!r}')
            theirs_lines, our_lines = qemu.split(b'\r\n'), ours.split(b'\r\n')
            for a, b in itertools.zip_longest(theirs_lines, our_lines):
                if a != b:
                    print(f'  qemu:     {a!r}\n  blockbed: {b!r}')
    print(f'{total} conversations, {different} different')
    return 1 if different else 0


if __name__ == '__main__':
    sys.exit(main())
