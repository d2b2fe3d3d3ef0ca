"""Between the desk and the history on disk: finished clips are written when nobody waits for the engine, in order.

Writing a clip takes a tenth of a second of the cores that make the next one, so it waits for a pause in the work; a person
who types on and on still finds all of it kept, at the latest when the app ends.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from turbo_engine.errors import OutputError, TurboError
from turbo_engine.heap import give_back
from turbo_engine.media import read_frames
from turbo_engine.store import Entry, Store, StoreError
from turbo_engine.types import Result

from .clips import Clip, Edit
from .pictures import picture_of

log = logging.getLogger("rushes.history")

PAUSE_S = 0.4            # the engine must have been idle for this long
MOST_WAITING = 40        # clips in memory (6.5 MB each); beyond it they are written at once


class Archive:
    """Keeps finished clips in a store, on a thread of its own.

    on_kept(entry): called from that thread when a clip is safe on disk; on_trouble(line): when it could not be.
    """

    def __init__(self, store: Store):
        self.store = store
        self.on_kept: Callable[[Entry], None] = lambda entry: None
        self.on_trouble: Callable[[str], None] = lambda line: None
        self._waiting: deque[Clip] = deque()
        self._busy_at = 0.0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="history", daemon=True)
        self._thread.start()

    def keep(self, clip: Clip) -> None:
        with self._changed:
            self._waiting.append(clip)
            self._changed.notify()

    def engine_busy(self) -> None:
        """The engine starts on something: what is to be written waits."""
        self._busy_at = time.monotonic()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, and let go of the folder."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        self.store.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                left = self._busy_at + PAUSE_S - time.monotonic()
                if left > 0 and len(self._waiting) <= MOST_WAITING and not self._closing:
                    self._changed.wait(left)
                    continue
                clip = self._waiting.popleft()
            try:
                self.on_kept(self.store.add(clip.result, clip_id=clip.id))
            except TurboError as error:
                log.error("%s", error)
                self.on_trouble(f"This clip could not be kept in the history. {error}")
            del clip
            give_back()

    # -- back again ----------------------------------------------------------------------------------------------------

    def edit_of(self, clip_id: str, generation: int) -> Edit:
        """The edit that asks for a kept clip. Raises: StoreError for one that is not there."""
        entry = self.store.get(clip_id)
        if entry is None:
            raise StoreError("This clip is no longer in the history.")
        return Edit(generation, entry.prompt, entry.seed, entry.mode, entry.recipe.get("num_steps"),
                    entry.recipe.get("sampler") if entry.mode == "turbo" else None, entry.negative_prompt,
                    entry.width, entry.height, entry.num_frames, entry.recipe.get("preset", ""),
                    picture_of(entry.recipe), saved=clip_id)

    def recall(self, clip_id: str, decode: Callable[[np.ndarray], np.ndarray], preset: str) -> Result:
        """A kept clip with lossless frames again, by the decoder of the preset that runs now; another preset's with those of its MP4.

        Raises: StoreError.
        """
        entry, start = self.store.get(clip_id), time.perf_counter()
        if entry is None:
            raise StoreError("This clip is no longer in the history.")
        latent = self.store.latent(clip_id)
        try:
            frames = decode(latent) if entry.recipe.get("preset") == preset else read_frames(entry.mp4)
        except OutputError as error:
            raise StoreError(str(error)) from error
        return Result(frames, latent, entry.fps, {"decode": time.perf_counter() - start, "total": entry.took_s or 0.0}, entry.recipe)


def describe(entry: Entry) -> dict:
    """What the filmstrip shows of a clip, JSON-ready."""
    return {"id": entry.id, "created": entry.created, "prompt": entry.prompt, "seed": entry.seed, "mode": entry.mode,
            "negative_prompt": entry.negative_prompt, "num_steps": entry.recipe.get("num_steps"), "sampler": entry.recipe.get("sampler"),
            "width": entry.width, "height": entry.height, "num_frames": entry.num_frames, "took_s": entry.took_s, "starred": entry.starred,
            "preset": entry.recipe.get("preset", ""), "image_sha256": entry.recipe.get("image_sha256", "")}
