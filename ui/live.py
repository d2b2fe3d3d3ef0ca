"""The live desk: edits in, moving pictures out. One engine, one worker thread, any number of open pages.

Each page has a mailbox of one: a newer edit takes the place of a waiting one. A running preview is dropped for a newer
edit only when `Patience` says so. A full render belongs to the desk: it runs while no preview is wanted, gives way to
edits between two blocks of its network, and goes on when its page is closed or reloaded. What code asks for (`Caller`)
comes after all that people ask for. The worker never touches a socket and the event loop never touches the engine:
between them stands a `Session` with its outbox.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from turbo_engine.errors import TurboError
from turbo_engine.media import encode_jpeg
from turbo_engine.types import Preview, Progress, Result

from .archive import Archive, describe
from .clips import Clip, Clips, Edit
from .session import FULL, FULL_ROUGH, PICKED_A, PICKED_B, ROUGH, TURBO, Session

log = logging.getLogger("rushes.live")

JPEG_QUALITY = 90
PROGRESS = "full progress"     # tag of what a full render tells: newer takes back what is unsent
PREVIEW, RENDER, GUEST_PREVIEW, GUEST_RENDER, CODE_PREVIEW, CODE_RENDER = range(6)     # who goes first


class _Dropped(Exception):
    """Raised out of a running job that nobody wants any more."""


class Job:
    """A clip to make. A preview is its session's; a render (session None) is its page's, whoever listens.

    rank: it gives way to every smaller one.
    """

    def __init__(self, edit: Edit, page: str, session: Session | None = None, rank: int = PREVIEW):
        self.edit, self.page, self.session, self.rank = edit, page, session, rank
        self.progress: dict | None = None       # of a render, as last told
        self.first_picture_s: float | None = None       # how it went, once it is done
        self.stage_s: dict[str, float] | None = None

    @property
    def render(self) -> bool:
        return self.rank not in (PREVIEW, GUEST_PREVIEW)


class Desk:
    """Owns the engine and its one thread.

    make_engine: returns an engine; called and loaded on the worker thread, since that takes seconds.
    opening: the edit a fresh page shows; made once after loading, so that the first page is met by a picture. None where a clip
        starts from a picture.
    archive: where finished clips are kept; None keeps them in memory alone.
    """

    pages_kept = 50         # whose last full render is sent again when they come back

    def __init__(self, make_engine: Callable[[], object], opening: Edit | None, *, clips: Clips | None = None, archive: Archive | None = None):
        self.opening = opening
        self.clips = clips or Clips()
        self.archive = archive
        if archive is not None:
            archive.on_kept = lambda entry: self.tell_all({"type": "kept", "entry": describe(entry)}, guests=False)
            archive.on_trouble = lambda line: self.tell_all({"type": "trouble", "message": line}, guests=False)
        self.on_end: Callable[[Job, str, float], None] = lambda job, outcome, took_s: None      # outcome: see `_attempt`
        self.state, self.message, self.about = "loading", "Loading the model", {}
        self.live_paused = False        # previews wait for the end of a full render: both models do not fit together
        self._wish: tuple[Callable[[], object], Edit | None] | None = make_engine, opening      # the model to load
        self._engine = None
        self._sessions: list[Session] = []
        self._renders: OrderedDict[str, Job] = OrderedDict()                    # full renders not done yet, by page
        self._rendered: OrderedDict[str, tuple[Edit, Clip | str]] = OrderedDict()   # the last one of a page: clip or error
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop at the next step, wait for the worker and end the engine."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for wait_s in (0.0 if self.state == "loading" else 0.3 * timeout_s, 0.7 * timeout_s):
            if self._thread.is_alive():
                self._thread.join(wait_s)
            if self._engine is not None:            # ends a step that takes too long, too
                self._engine.close()
        if self.archive is not None:
            self.archive.close()

    @property
    def waiting(self) -> int:
        """Jobs asked for and not begun; a render under way counts until it is done."""
        with self._changed:
            return len(self._renders) + sum((session.waiting is not None) + len(session.picked) for session in self._sessions)

    @property
    def pages(self) -> int:
        """Pages and callers connected."""
        return len(self._sessions)

    @property
    def engine_restarts(self) -> int:
        """Processes started after the first, for the model that runs now."""
        return getattr(self._engine, "restarts", 0)

    def engine_answers(self, timeout_s: float) -> bool:
        """Whether the engine is there and says something in time, or is seen to work."""
        return self._engine is not None and self._engine.answers(timeout_s)

    def engine_memory(self, timeout_s: float) -> dict[str, int]:
        """As `Engine.memory`, {} where it does not say in time."""
        return {} if self._engine is None else self._engine.memory(timeout_s)

    # -- what a page may do; called on the event loop ------------------------------------------------------------------

    def connect(self, session: Session, hello: Callable[[], dict] | None = None) -> None:
        """A page opens or comes back: it hears `hello` of the model, and of the full render it asked for, under way or done."""
        with self._changed:
            if hello is not None:
                session.post(hello())
            self._sessions.append(session)
            session.post(self._engine_message())
            session.post(self._live_message())
            job = self._renders.get(session.page)
            if job is not None:
                session.post(_render_message(job.edit))
                if job.progress is not None:
                    session.post(job.progress, tag=PROGRESS)
            elif session.page in self._rendered:
                edit, outcome = self._rendered[session.page]
                session.post(_render_message(edit))
                self._tell_rendered(session, edit, outcome)
            else:
                session.post({"type": "no render"})

    def disconnect(self, session: Session) -> None:
        with self._changed:
            session.closed = True
            self._sessions.remove(session)
            if session.by_code:                 # never comes back
                self._renders.pop(session.page, None)
                self._rendered.pop(session.page, None)

    def edit(self, session: Session, edit: Edit) -> None:
        """A live edit: newest wins. The same words and settings cost nothing, a clip made before no engine time."""
        with self._changed:
            if session.wanted is not None and session.wanted.key == edit.key:
                return session.post({"type": "same", "generation": edit.generation, "as": session.wanted.generation})
            session.wanted, session.waiting = edit, None
            known = self.clips.find(edit)
            if known is not None:
                return self._show_known(session, edit, known)
            session.waiting = edit
            self._changed.notify()

    def render(self, session: Session, edit: Edit) -> None:
        """A full render, or for code any clip; one a page, a new one takes the place of the old."""
        with self._changed:
            self._renders.pop(session.page, None)
            known = self.clips.find(edit)
            if known is not None:
                return self._rendered_by(session.page, edit, known)
            rank = GUEST_RENDER if session.guest else RENDER
            if session.by_code:
                rank = CODE_RENDER if edit.mode == "full" and edit.saved is None else CODE_PREVIEW
            self._renders[session.page] = Job(edit, session.page, rank=rank)
            session.post({"type": "queued", "generation": edit.generation})
            self._changed.notify()

    def pick(self, session: Session, edit: Edit) -> None:
        """A clip of the history as one of a pair to compare; a newer one for the same place takes its turn."""
        with self._changed:
            known = self.clips.find(edit)
            if known is not None:
                session.picked.pop(edit.place, None)
                return self._send_finished(session, edit, known)
            session.picked[edit.place] = edit
            self._changed.notify()

    def switch(self, make_engine: Callable[[], object], opening: Edit | None, hello: dict | None = None) -> None:
        """Another model: all that is under way stops, the engine ends, the other one is loaded. What pages ask for meanwhile waits.

        hello: told to all pages. The engine of before does nothing after that: it would drop what they ask of the other one.
        """
        with self._changed:
            self._wish = make_engine, opening
            if hello is not None:
                self.tell_all(hello)
            half_loaded = self._engine if self.state == "loading" else None
            for page, job in list(self._renders.items()):
                self._rendered_by(page, job.edit, "Another model was chosen, and this render was stopped.")
            self._renders.clear()
            for page in [page for page, (_, outcome) in self._rendered.items() if isinstance(outcome, Clip)]:
                del self._rendered[page]
            self._turn("loading", "Letting go of the model before", {})
            self._changed.notify_all()
        if half_loaded is not None:             # its loading ends
            threading.Thread(target=half_loaded.close, name="engine end", daemon=True).start()

    def cancel(self, session: Session) -> None:
        """Drop the page's full render, waiting or running; it stops at the next block."""
        with self._changed:
            job = self._renders.pop(session.page, None)
            if job is not None:
                self._tell(job, {"type": "cancelled", "generation": job.edit.generation})

    # -- the worker ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._wish)
                if self._stopping:
                    return
                old, (make_engine, self.opening), self._wish = self._engine, self._wish, None
            if old is not None:
                old.close()
            if not self._load(make_engine):
                continue
            job = Job(self.opening, "") if self.opening is not None else self._next_job()
            while job is not None:
                self._attempt(job)
                job = self._next_job()

    def _load(self, make_engine: Callable[[], object]) -> bool:
        try:
            self._engine = engine = make_engine()
            engine.load(lambda state, line: self._engine_turned(engine, state, line))
            about = engine.describe()
        except Exception as error:
            with self._changed:
                if self._stopping or self._wish is not None:        # it was ended on purpose
                    return False
            if isinstance(error, TurboError):
                log.error("%s", error)
            else:
                log.exception("the engine could not be loaded")
            self._turn("failed", f"The model could not be loaded: {error}", {})
            return False
        with self._changed:
            if self._wish is not None:
                return False
            self._turn("ready", "", about)
        return True

    def _attempt(self, job: Job) -> None:
        """Run a job; a fault costs that job alone. Told to on_end: done, dropped, failed, no memory or engine lost."""
        started, outcome = time.monotonic(), "failed"
        try:
            self._run(job)
            outcome = "done"
        except _Dropped:
            outcome = "dropped"
            self._tell(job, {"type": "dropped", "generation": job.edit.generation, "mode": job.edit.mode})
        except TurboError as error:
            outcome = error.outcome
            if self._wish is None:              # else it was ended for another model
                self._failed(job, str(error))
        except Exception as error:
            log.exception("a job failed")
            self._failed(job, f"The engine stumbled on this one ({type(error).__name__}); the terminal has the details.")
        finally:
            self.on_end(job, outcome, time.monotonic() - started)

    def _next_job(self) -> Job | None:
        """By rank, and in the order asked for; None when the app is stopping, or another model is to be loaded."""
        with self._changed:
            while not self._stopping and self._wish is None:
                job = self._next_above(CODE_RENDER + 1)
                if job is not None:
                    return job
                self._changed.wait()
        return None

    def _next_above(self, rank: int, under_way: Job | None = None) -> Job | None:
        renders = (job for job in self._renders.values() if job.rank < rank and self._fits_beside(job.edit, under_way))
        render = min(renders, key=lambda job: job.rank, default=None)
        return (self._next_preview(under_way) or (render if render is not None and render.rank < GUEST_PREVIEW else None)
                or (self._next_preview(under_way, guests=True) if rank > GUEST_PREVIEW else None) or render)

    def _fits_beside(self, edit: Edit, job: Job | None) -> bool:
        """Whether it can be made while a job stands still: the other model may not fit into memory with this one."""
        return job is None or not self.about.get("live_pauses") or edit.saved is not None or edit.mode == job.edit.mode

    def _next_preview(self, under_way: Job | None, *, guests: bool = False) -> Job | None:
        """Pages in turn."""
        for session in self._sessions:
            if session.guest is not guests:
                continue
            if session.waiting is not None and self._fits_beside(session.waiting, under_way):
                edit, session.waiting = session.waiting, None
            elif session.picked:
                edit = session.picked.pop(next(iter(session.picked)))
            else:
                continue
            self._sessions.append(self._sessions.pop(self._sessions.index(session)))
            return Job(edit, session.page, session, GUEST_PREVIEW if guests else PREVIEW)
        return None

    @contextlib.contextmanager
    def _live_held(self, edit: Edit):
        """Tell the pages that previews wait, while a full render is made that leaves no room for them."""
        if edit.mode != "full" or not self.about.get("live_pauses") or self.live_paused:
            yield
            return
        try:
            self.live_paused = True
            self.tell_all(self._live_message())
            yield
        finally:
            self.live_paused = False
            self.tell_all(self._live_message())

    def _serve_others(self, job: Job) -> None:
        """Between two blocks of a render: all that waits and goes before it."""
        while True:
            with self._changed:
                if self._is_unwanted(job):
                    raise _Dropped
                other = self._next_above(job.rank, job)
            if other is None:
                return
            self._attempt(other)

    def _run(self, job: Job) -> None:
        edit, started, first_picture_s, result, report = job.edit, time.monotonic(), None, None, None
        if self.archive is not None:
            self.archive.engine_busy()
        if edit.saved is None and edit.preset not in ("", self.about.get("preset", edit.preset)):        # asked of the model before
            raise TurboError("Another model runs now; ask again.") if job.render else _Dropped
        known = self.clips.find(edit) if job.session is not None else None
        if known is not None:           # made since it was asked for
            with self._changed:
                return self._show_known(job.session, edit, known)
        if edit.saved is not None:
            result = self.archive.recall(edit.saved, self._engine.decode, self.about.get("preset", ""))
            return self._finish(job, result, self._report(job), started, None)
        give_way = (lambda: self._serve_others(job)) if job.rank > PREVIEW else None
        with self._live_held(edit), contextlib.closing(self._engine.generate(edit.request(), give_way=give_way)) as events:
            for event in events:
                if isinstance(event, Result):
                    result = event
                    continue        # a finished clip is shown even to a person who has typed on
                if isinstance(event, Preview):
                    self._show_rough(job, event)
                    first_picture_s = first_picture_s or time.monotonic() - started
                    report = report or self._report(job)        # the picture comes first
                if isinstance(event, Progress):
                    self._show_progress(job, event)
                with self._changed:
                    if self._is_unwanted(job) or self._is_overtaken(job, event, started):
                        raise _Dropped
        self._finish(job, result, report or self._report(job), started, first_picture_s)

    def _is_unwanted(self, job: Job) -> bool:
        if self._stopping or self._wish is not None:
            return True
        if job.render:
            return self._renders.get(job.page) is not job
        if job.session is None:         # the opening shot
            return any(page.waiting is not None and page.waiting.key != self.opening.key for page in self._sessions)
        return job.session.closed

    def _is_overtaken(self, job: Job, event, started: float) -> bool:
        if job.session is None or job.session.wanted is job.edit:
            return False
        now = time.monotonic()
        share_done = event.step / event.num_steps if getattr(event, "stage", "denoise") == "denoise" else 0.0
        return job.session.patience.gives_up(share_done, now - started, now)

    def _listeners(self, job: Job) -> list[Session]:
        if job.render:
            return [session for session in self._sessions if session.page == job.page]
        return [job.session] if job.session is not None else []

    def _tell(self, job: Job, message: dict, *, tag: str | None = None) -> None:
        with self._changed:
            for session in self._listeners(job):
                session.post(message, tag=tag)

    def _show_progress(self, job: Job, event: Progress) -> None:
        message = {
            "type": "progress", "generation": job.edit.generation, "mode": job.edit.mode, "stage": event.stage,
            "step": event.step, "num_steps": event.num_steps, "elapsed_s": event.elapsed_s, "eta_s": event.eta_s, "expert": event.expert,
        }
        job.progress = message
        self._tell(job, message, tag=PROGRESS if job.render else "turbo progress")

    def _show_rough(self, job: Job, event: Preview) -> None:
        edit, session = job.edit, job.session
        jpegs = encode_jpeg(event.frames, JPEG_QUALITY)
        header = {**_shot(edit, event.frames, edit.num_frames), "step": event.step, "num_steps": event.num_steps, "fps": self.about.get("fps", 16)}
        with self._changed:
            if session is not None:
                if edit.generation < session.shown_generation:
                    return      # a remembered clip for a newer edit is already on screen
                session.shown_generation = edit.generation
                session.patience.picture_landed(time.monotonic())
            for listener in self._listeners(job):
                listener.post_clip(header, FULL_ROUGH if job.render else ROUGH, jpegs)

    def _finish(self, job: Job, result: Result, report, started: float, first_picture_s) -> None:
        edit, session = job.edit, job.session
        encode_from = time.monotonic()
        jpegs = encode_jpeg(result.frames, JPEG_QUALITY)
        now = time.monotonic()
        clip = Clip(edit, result, jpegs, now - encode_from, report)
        self.clips.add(clip)
        job.first_picture_s, job.stage_s = first_picture_s, result.stage_s
        if self.archive is not None:
            self.archive.engine_busy()
            if edit.saved is None and (job.render or session is not None):       # nobody asked for the opening shot
                self.archive.keep(clip)
        with self._changed:
            if job.render:
                if self._renders.get(job.page) is job:
                    del self._renders[job.page]
                    self._rendered_by(job.page, edit, clip)
            elif edit.place is not None:
                self._send_finished(session, edit, clip)
            elif session is not None:
                if edit.saved is None:
                    session.patience.measured(first_picture_s or now - started, now - started)
                if edit.generation >= session.shown_generation:
                    session.shown_generation = edit.generation
                    session.patience.picture_landed(now)
                    self._send_finished(session, edit, clip)

    def _show_known(self, session: Session, edit: Edit, clip: Clip) -> None:
        if edit.place is None:
            session.shown_generation = edit.generation
        self._send_finished(session, edit, clip, remembered=True)

    def _rendered_by(self, page: str, edit: Edit, outcome: Clip | str) -> None:
        """Keep what became of a page's full render, and tell the page if it is there."""
        self._rendered[page] = edit, outcome
        self._rendered.move_to_end(page)
        while len(self._rendered) > self.pages_kept:
            self._rendered.popitem(last=False)
        for session in self._sessions:
            if session.page == page:
                self._tell_rendered(session, edit, outcome)

    def _tell_rendered(self, session: Session, edit: Edit, outcome: Clip | str) -> None:
        if isinstance(outcome, Clip):
            return self._send_finished(session, edit, outcome, remembered=True)
        session.post({"type": "error", "generation": edit.generation, "mode": "full", "message": outcome})

    def _send_finished(self, session: Session, edit: Edit, clip: Clip, *, remembered: bool = False) -> None:
        if remembered and clip.report is not None:
            session.post({"type": "words", "generation": edit.generation, **clip.report})
        session.post_clip({
            **_shot(edit, clip.result.frames, len(clip.result.frames)), "id": clip.id, "fps": clip.result.fps, "stage_s": {**clip.result.stage_s, "encode": clip.encode_s},
            "recipe": clip.result.recipe, "notes": list(clip.result.notes), "remembered": remembered, "file_name": clip.file_name,
        }, {"a": PICKED_A, "b": PICKED_B}.get(edit.place, FULL if edit.mode == "full" else TURBO), clip.jpegs)

    def _failed(self, job: Job, message: str) -> None:
        edit, session = job.edit, job.session
        with self._changed:
            if job.render:
                if self._renders.get(job.page) is job:
                    del self._renders[job.page]
                    self._rendered_by(job.page, edit, message)
            elif session is None:
                log.error("opening preview: %s", message)
            else:
                if session.wanted is edit:
                    session.wanted = None       # the same words again are a new try
                session.post({"type": "error", "generation": edit.generation, "mode": edit.place or edit.mode, "message": message})

    def _report(self, job: Job) -> dict | None:
        """Tell the page what the model makes of the words of a live edit. Returns: that, JSON-ready."""
        if job.edit.mode == "full" or job.edit.place is not None:
            return None
        found = self._engine.check_prompt(job.edit.words, job.edit.seed)
        report = {
            "unknown": list(found.unknown_words), "suggestions": found.suggestions, "truncated": found.truncated,
            "notes": list(found.notes), "foreign": found.foreign, "corrected": found.corrected,
            "settled": found.settled, "read_as": found.read_as,
        }
        self._tell(job, {"type": "words", "generation": job.edit.generation, **report})
        return report

    def tell_all(self, message: dict, *, guests: bool = True) -> None:
        with self._changed:
            for session in self._sessions:
                if guests or not session.guest:
                    session.post(message)

    def _turn(self, state: str, message: str, about: dict) -> None:
        with self._changed:
            self.state, self.message, self.about = state, message, about
            for session in self._sessions:
                session.post(self._engine_message())

    def _engine_turned(self, engine, state: str, line: str) -> None:
        """From a thread of the engine's: what it does while it loads, and when it is lost later on and started again."""
        with self._changed:
            if self._wish is not None or engine is not self._engine:
                return                          # it is being replaced
        if state != "ready" or self.about:          # the first time the worker says so, when it knows what runs
            self._turn(state, line, {} if state == "failed" else self.about)

    def _live_message(self) -> dict:
        return {"type": "live", "paused": self.live_paused}

    def _engine_message(self) -> dict:
        return {"type": "engine", "state": self.state, "message": self.message, "about": self.about}


def _shot(edit: Edit, frames, num_frames: int | None) -> dict:
    """What every clip says of its shot. frames: uint8 [T, H, W, 3], the first few of a rough one."""
    height, width = frames.shape[1:3]
    return {"generation": edit.generation, "mode": edit.mode, "prompt": edit.words, "seed": edit.seed,
            "width": width, "height": height, "num_frames": num_frames, "image_sha256": edit.picture.id if edit.picture else ""}


def _render_message(edit: Edit) -> dict:
    """What a page that comes back must know of its full render before it hears how it goes."""
    return {"type": "render", "generation": edit.generation, "prompt": edit.words, "seed": edit.seed, "num_steps": edit.num_steps}
