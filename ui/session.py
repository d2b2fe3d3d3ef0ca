"""One page at the desk, or one call through code: what it wants, and what it is still to be told.

On the wire, engine to page: JSON text, and per picture one binary message,
generation u32 | kind u8 (ROUGH, TURBO, FULL, FULL_ROUGH, PICKED_A, PICKED_B) | index u16 | total u16 | JPEG, big-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import secrets
import struct
from collections import deque

from .clips import Edit
from .patience import Patience

ROUGH, TURBO, FULL, FULL_ROUGH, PICKED_A, PICKED_B = range(6)
SIDES = "turbo", "turbo", "full", "full", "a", "b"        # by kind: where on the page it goes
FRAME_HEADER = struct.Struct(">IBHH")


class Outbox:
    """What still has to go to one page, in order. Lives on the event loop.

    Putting something with a tag takes back what is unsent and bears the same tag: an overtaken clip, old progress.
    """

    def __init__(self):
        self._items: deque[tuple[str | None, str | bytes]] = deque()
        self._filled = asyncio.Event()

    def put(self, payloads: list[str | bytes], tag: str | None = None) -> None:
        if tag is not None:
            self._items = deque(item for item in self._items if item[0] != tag)
        self._items.extend((tag, payload) for payload in payloads)
        self._filled.set()

    async def next(self) -> str | bytes:
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        return self._items.popleft()[1]

    def __len__(self) -> int:
        return len(self._items)


class Session:
    """One connection of a page. Fields below are guarded by the desk's lock.

    page: names the page over its reloads and reconnections. guest: of somebody on the local network, who comes after the owner.
    """

    by_code = False         # a person looks at it

    def __init__(self, loop: asyncio.AbstractEventLoop | None, page: str = "", *, guest: bool = False):
        self.page, self.guest = page or secrets.token_urlsafe(12), guest
        self.outbox = Outbox()
        self._loop = loop
        self.closed = False
        self.waiting: Edit | None = None        # the mailbox of one
        self.picked: dict[str, Edit] = {}       # clips of the history wanted for a comparison, by place
        self.wanted: Edit | None = None         # the newest edit that asks for another clip than the one before
        self.shown_generation = 0
        self.patience = Patience()

    def post(self, message: dict, *, tag: str | None = None) -> None:
        """Send JSON; from any thread."""
        self._put([json.dumps(message)], tag)

    def post_clip(self, header: dict, kind: int, jpegs: list[bytes]) -> None:
        """Send a clip: its header, then its frames. It overtakes an unsent one of the same side."""
        generation = header["generation"]
        frames = [FRAME_HEADER.pack(generation, kind, i, len(jpegs)) + jpeg for i, jpeg in enumerate(jpegs)]
        text = json.dumps({"type": "clip", "kind": kind, "total": len(jpegs), **header})
        self._put([text, *frames], SIDES[kind])

    def _put(self, payloads, tag) -> None:
        with contextlib.suppress(RuntimeError):     # the loop has closed: the app is going down
            self._loop.call_soon_threadsafe(self.outbox.put, payloads, tag)


class Caller(Session):
    """A page without a screen, for one call through code: what it is told is waited for on the calling thread."""

    by_code = True

    def __init__(self):
        super().__init__(None)
        self._told: queue.SimpleQueue[dict] = queue.SimpleQueue()

    def post(self, message: dict, *, tag: str | None = None) -> None:
        self._told.put(message)

    def post_clip(self, header: dict, kind: int, jpegs: list[bytes]) -> None:
        if kind in (TURBO, FULL):
            self._told.put({"type": "clip", **header})

    def wait(self) -> dict:
        """The next thing the desk has to say."""
        return self._told.get()
