"""The conversations in docs/*.md are run as they stand.

A fence marked `qmp` holds lines `-> VALUE` to send and `<- VALUE` that must come back. What comes back must have all
members that the page shows (it may have more: ids, timestamps); the string "..." stands for any value. Replies are
matched in order; events may be preceded by other events. All fences of one page are one conversation.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from blockbed_iotests.qmp import Qmp

DOCS = Path(__file__).resolve().parent.parent / "docs"
FENCE = re.compile(r"^```qmp\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def conversation(page: Path) -> list[tuple[str, object]]:
    lines = [line for fence in FENCE.findall(page.read_text()) for line in fence.splitlines() if line.strip()]
    return [(line[:2], json.loads(line[3:])) for line in lines]


def agrees(value: object, shown: object) -> bool:
    if shown == "...":
        return True
    if isinstance(shown, dict):
        return isinstance(value, dict) and all(key in value and agrees(value[key], part) for key, part in shown.items())
    if isinstance(shown, list):
        return isinstance(value, list) and len(value) == len(shown) and all(map(agrees, value, shown))
    return value == shown


def next_message(qmp: Qmp, shown: dict) -> dict:
    """The next message of the kind that the page shows, passing over events that it leaves out."""
    while True:
        message = qmp.recv()
        if "event" not in message or ("event" in shown and agrees(message, shown)):
            return message


PAGES = [page for page in sorted(DOCS.glob("*.md")) if FENCE.search(page.read_text())]


@pytest.mark.differs("the pages show Blockbed: block-job-complete ends a sync=none backup", server="qemu")
@pytest.mark.manners("daemon")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_conversations_of_a_page(page, start):
    server = start(negotiate=False)
    for direction, value in conversation(page):
        if direction == "->":
            server.qmp.send_raw(json.dumps(value) + "\n")
            continue
        if "QMP" in value:
            message = server.qmp.greeting or server.qmp.recv()
        else:
            message = next_message(server.qmp, value)
        assert agrees(message, value), f"{page.name} shows {value}, but there came {message}"
