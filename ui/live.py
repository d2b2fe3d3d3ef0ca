"""The live desk: edits in, moving pictures out. One engine, one worker thread, any number of open pages.

Each page has a mailbox of one: a newer edit takes the place of a waiting one. A running preview is dropped for a newer
edit only when `Patience` says so. A full render waits until no preview is wanted, then has the engine to itself; edits
made meanwhile wait and the page says so. The worker never touches a socket and the event loop never touches the engine:
between them stands an `Outbox` per page.

On the wire, engine to page: JSON text, and per picture one binary message,
generation u32 | kind u8 (ROUGH, TURBO, FULL, FULL_ROUGH) | index u16 | total u16 | JPEG, big-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from turbo_engine.errors import TurboError
from turbo_engine.media import encode_jpeg
from turbo_engine.types import Preview, Progress, Result

from .clips import Clip, Clips, Edit

log = logging.getLogger("rushes.live")

ROUGH, TURBO, FULL, FULL_ROUGH = range(4)
FRAME_HEADER = struct.Struct(">IBHH")
JPEG_QUALITY = 90


class Patience:
    """When to drop a running preview for a newer edit.

    Always dropping starves the screen while someone types, never dropping lags behind. So: drop while less than half is
    done, and only if a picture came recently enough that the next one still makes `gap_s`. The two times adapt to the
    engine: moving averages of what first pictures and whole clips took.
    """

    gap_s = 1.0             # a new picture about this often while typing, if the engine can
    nearly_done_s = 0.15    # less work left than this is finished whatever the share

    def __init__(self):
        self.first_picture_s: float | None = None
        self.clip_s: float | None = None
        self._picture_at = float("-inf")

    def picture_landed(self, now: float) -> None:
        self._picture_at = now

    def measured(self, first_picture_s: float, clip_s: float) -> None:
        mix = (lambda old, new: new if old is None else 0.7 * old + 0.3 * new)
        self.first_picture_s = mix(self.first_picture_s, first_picture_s)
        self.clip_s = mix(self.clip_s, clip_s)

    @property
    def window_s(self) -> float:
        """How fresh the last picture must be for the running work to be dropped."""
        return max(0.2, self.gap_s - (self.first_picture_s or 0.0))

    def gives_up(self, share_done: float, elapsed_s: float, now: float) -> bool:
        """share_done: by steps, in [0, 1]; used until a whole clip was measured."""
        if self.clip_s is not None:
            if self.clip_s - elapsed_s < self.nearly_done_s:
                return False
            share_done = elapsed_s / self.clip_s
        return share_done < 0.5 and now - self._picture_at < self.window_s


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
    """One open page. Fields below are guarded by the desk's lock."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.outbox = Outbox()
        self._loop = loop
        self.closed = False
        self.waiting: Edit | None = None        # the mailbox of one
        self.wanted: Edit | None = None         # the newest edit that asks for another clip than the one before
        self.final: Edit | None = None          # the full render asked for, until it ends
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
        self._put([text, *frames], "turbo" if kind in (ROUGH, TURBO) else "full")

    def _put(self, payloads, tag) -> None:
        with contextlib.suppress(RuntimeError):     # the loop has closed: the app is going down
            self._loop.call_soon_threadsafe(self.outbox.put, payloads, tag)


class Desk:
    """Owns the engine and its one thread.

    make_engine: returns a loaded engine; called on the worker thread, since loading takes seconds.
    opening: the edit a fresh page shows; made once after loading, so that the first page is met by a picture.
    """

    def __init__(self, make_engine: Callable[[], object], opening: Edit, *, clips: Clips | None = None):
        self.opening = opening
        self.clips = clips or Clips()
        self.state, self.message, self.about = "loading", "Loading the model", {}
        self._make_engine = make_engine
        self._engine = None
        self._sessions: list[Session] = []
        self._rendering: Session | None = None      # whose full render is running
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop at the next step and wait for the worker."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # -- what a page may do; called on the event loop ------------------------------------------------------------------

    def connect(self, session: Session) -> None:
        with self._changed:
            self._sessions.append(session)
            session.post(self._engine_message())

    def disconnect(self, session: Session) -> None:
        with self._changed:
            session.closed = True
            self._sessions.remove(session)

    def edit(self, session: Session, edit: Edit) -> None:
        """A live edit: newest wins. The same words and settings cost nothing, a clip made before no engine time."""
        with self._changed:
            if session.wanted is not None and session.wanted.key == edit.key:
                return session.post({"type": "same", "generation": edit.generation, "as": session.wanted.generation})
            session.wanted, session.waiting = edit, None
            known = self.clips.find(edit)
            if known is not None:
                session.shown_generation = edit.generation
                return self._send_finished(session, edit, known, remembered=True)
            session.waiting = edit
            if self._rendering is not None:
                session.post({"type": "paused", "generation": edit.generation, "own": self._rendering is session})
            self._changed.notify()

    def render(self, session: Session, edit: Edit) -> None:
        """A full render; one a page, a new one takes the place of the old."""
        with self._changed:
            session.final = edit
            known = self.clips.find(edit)
            if known is not None:
                session.final = None
                return self._send_finished(session, edit, known, remembered=True)
            session.post({"type": "queued", "generation": edit.generation})
            self._changed.notify()

    def cancel(self, session: Session) -> None:
        """Drop the page's full render, waiting or running; it stops at the next step."""
        with self._changed:
            if session.final is not None:
                session.post({"type": "cancelled", "generation": session.final.generation})
                session.final = None

    # -- the worker ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._engine = self._make_engine()
            about = self._engine.describe()
        except Exception as error:
            if isinstance(error, TurboError):
                log.error("%s", error)
            else:
                log.exception("the engine could not be loaded")
            return self._turn("failed", f"The model could not be loaded: {error}", {})
        self._turn("ready", "", about)
        job = (None, self.opening)
        while job is not None:
            session, edit = job
            try:
                self._run(session, edit)
            except TurboError as error:
                self._failed(session, edit, str(error))
            except Exception as error:
                log.exception("a job failed")
                kind = type(error).__name__
                self._failed(session, edit, f"The engine stumbled on this one ({kind}); the terminal has the details.")
            job = self._next_job()

    def _next_job(self) -> tuple[Session, Edit] | None:
        """Previews first, then full renders, pages in turn; None when the app is stopping."""
        with self._changed:
            while not self._stopping:
                self._rendering = None
                for session in self._sessions:
                    if session.waiting is not None:
                        edit, session.waiting = session.waiting, None
                        self._sessions.append(self._sessions.pop(self._sessions.index(session)))
                        return session, edit
                for session in self._sessions:
                    if session.final is not None:
                        self._rendering = session
                        return session, session.final
                self._changed.wait()
        return None

    def _run(self, session: Session | None, edit: Edit) -> None:
        started, first_picture_s, result, report = time.monotonic(), None, None, None
        with contextlib.closing(self._engine.generate(edit.request())) as events:
            for event in events:
                if isinstance(event, Result):
                    result = event
                    continue        # a finished clip is shown even to a person who has typed on
                if isinstance(event, Preview) and session is not None:
                    self._show_rough(session, edit, event)
                    first_picture_s = first_picture_s or time.monotonic() - started
                    report = report or self._report(session, edit)      # the picture comes first
                if isinstance(event, Progress) and session is not None:
                    self._show_progress(session, edit, event)
                if self._is_dropped(session, edit, event, started):
                    if session is not None:
                        session.post({"type": "dropped", "generation": edit.generation, "mode": edit.mode})
                    return
        self._finish(session, edit, result, report or self._report(session, edit), started, first_picture_s)

    def _is_dropped(self, session: Session | None, edit: Edit, event, started: float) -> bool:
        with self._changed:
            if self._stopping:
                return True
            if session is None:
                return any(page.waiting is not None for page in self._sessions)
            if session.closed:
                return True
            if edit.mode == "full":
                return session.final is not edit
            if session.wanted is edit:
                return False
            now = time.monotonic()
            share_done = event.step / event.num_steps if getattr(event, "stage", "denoise") == "denoise" else 0.0
            return session.patience.gives_up(share_done, now - started, now)

    def _show_progress(self, session: Session, edit: Edit, event: Progress) -> None:
        session.post({
            "type": "progress", "generation": edit.generation, "mode": edit.mode, "stage": event.stage,
            "step": event.step, "num_steps": event.num_steps, "elapsed_s": event.elapsed_s, "eta_s": event.eta_s,
        }, tag="progress")

    def _show_rough(self, session: Session, edit: Edit, event: Preview) -> None:
        jpegs = encode_jpeg(event.frames, JPEG_QUALITY)
        header = {
            "generation": edit.generation, "mode": edit.mode, "prompt": edit.words, "seed": edit.seed,
            "step": event.step, "num_steps": event.num_steps, "fps": self.about.get("fps", 16),
        }
        if edit.mode == "full":
            return session.post_clip(header, FULL_ROUGH, jpegs)
        with self._changed:
            if edit.generation < session.shown_generation:
                return      # a remembered clip for a newer edit is already on screen
            session.shown_generation = edit.generation
            session.patience.picture_landed(time.monotonic())
        session.post_clip(header, ROUGH, jpegs)

    def _finish(self, session, edit: Edit, result: Result, report, started: float, first_picture_s) -> None:
        encode_from = time.monotonic()
        jpegs = encode_jpeg(result.frames, JPEG_QUALITY)
        now = time.monotonic()
        clip = Clip(edit, result, jpegs, now - encode_from, report)
        self.clips.add(clip)
        if session is None:
            return
        with self._changed:
            if edit.mode == "full":
                if session.final is not edit:
                    return
                session.final = None
            else:
                session.patience.measured(first_picture_s or now - started, now - started)
                if edit.generation < session.shown_generation:
                    return
                session.shown_generation = edit.generation
                session.patience.picture_landed(now)
        self._send_finished(session, edit, clip)

    def _send_finished(self, session: Session, edit: Edit, clip: Clip, *, remembered: bool = False) -> None:
        if remembered and clip.report is not None:
            session.post({"type": "words", "generation": edit.generation, **clip.report})
        session.post_clip({
            "generation": edit.generation, "mode": edit.mode, "prompt": edit.words, "seed": edit.seed, "id": clip.id,
            "fps": clip.result.fps, "stage_s": {**clip.result.stage_s, "encode": clip.encode_s},
            "recipe": clip.result.recipe, "notes": list(clip.result.notes), "remembered": remembered, "file_name": clip.file_name,
        }, FULL if edit.mode == "full" else TURBO, clip.jpegs)

    def _failed(self, session: Session | None, edit: Edit, message: str) -> None:
        if session is None:
            return log.error("opening preview: %s", message)
        with self._changed:
            if session.wanted is edit:
                session.wanted = None       # the same words again are a new try
            if session.final is edit:
                session.final = None
        session.post({"type": "error", "generation": edit.generation, "mode": edit.mode, "message": message})

    def _report(self, session: Session | None, edit: Edit) -> dict | None:
        """Tell the page what the model makes of the words of a live edit. Returns: that, JSON-ready."""
        if edit.mode == "full":
            return None
        found = self._engine.check_prompt(edit.words)
        report = {
            "unknown": list(found.unknown_words), "suggestions": found.suggestions, "truncated": found.truncated,
            "notes": list(found.notes), "foreign": found.foreign,
        }
        if session is not None:
            session.post({"type": "words", "generation": edit.generation, **report})
        return report

    def _turn(self, state: str, message: str, about: dict) -> None:
        with self._changed:
            self.state, self.message, self.about = state, message, about
            for session in self._sessions:
                session.post(self._engine_message())

    def _engine_message(self) -> dict:
        return {"type": "engine", "state": self.state, "message": self.message, "about": self.about}
