"""The conversations in docs/*.md are run as they stand.

A fence marked `qmp` holds lines `-> VALUE` to send and `<- VALUE` that must come back. What comes back must have all
members that the page shows (it may have more: ids, timestamps); the string "..." stands for any value. Replies are
matched in order, and so are events, which may be preceded by others. All fences of one page are one conversation.
"""

from __future__ import annotations

import json
import re
from collections import deque
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


class Conversation:
    """Replies and events apart: an event that a command causes may come before or after its reply."""

    def __init__(self, qmp: Qmp):
        self.qmp = qmp
        self.replies: deque[dict] = deque()
        self.events: deque[dict] = deque()

    def expect(self, shown: dict) -> None:
        queue = self.events if "event" in shown else self.replies
        while True:
            while not queue:
                message = self.qmp.recv()
                (self.events if "event" in message else self.replies).append(message)
            message = queue.popleft()
            # Events that the page leaves out are passed over; every reply is shown.
            if agrees(message, shown):
                return
            assert queue is self.events, f"the page shows {shown}, but there came {message}"


PAGES = [page for page in sorted(DOCS.glob("*.md")) if FENCE.search(page.read_text())]


@pytest.mark.differs("the pages show Blockbed: block-job-complete ends a sync=none backup", server="qemu")
@pytest.mark.manners("daemon")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_conversations_of_a_page(page, start):
    server = start(negotiate=False)
    talk = Conversation(server.qmp)
    for direction, value in conversation(page):
        if direction == "->":
            server.qmp.send_raw(json.dumps(value) + "\n")
        elif "QMP" in value:
            assert agrees(server.qmp.greeting or server.qmp.recv(), value)
        else:
            talk.expect(value)
