"""The clips of this sitting, in memory: what was asked, lossless frames, JPEGs, and an opaque id to save them by."""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from turbo_engine.types import Request, Result

from .pictures import Picture


@dataclass(frozen=True)
class Edit:
    """What a person asked for. Two edits with the same `key` ask for the same clip: spaces do not make a new one.

    width, height, num_frames: None is as the preset says. preset: the one it is for, "" for whichever runs. picture: the clip's first
    frame, where the preset takes one. saved: id of a clip in the history, which is to be shown and not made.
    place: "a" or "b" of a pair to compare, where it is for that; such a clip always comes from its kept latent.
    """

    generation: int
    prompt: str
    seed: int
    mode: str = "turbo"
    num_steps: int | None = None
    sampler: str | None = None
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    preset: str = ""
    picture: Picture | None = None
    saved: str | None = None
    place: str | None = None

    @property
    def words(self) -> str:
        return " ".join(self.prompt.split())

    @property
    def key(self) -> tuple:
        if self.place is not None:
            return "kept", self.saved
        return (self.mode, self.words, self.seed, self.num_steps, self.sampler, " ".join(self.negative_prompt.split()),
                self.width, self.height, self.num_frames, self.preset, self.picture)

    def request(self) -> Request:
        return Request(self.words, self.seed, self.mode, num_steps=self.num_steps, sampler=self.sampler,
                       negative_prompt=self.negative_prompt, width=self.width, height=self.height, num_frames=self.num_frames,
                       image=self.picture.data if self.picture else b"")


@dataclass(frozen=True)
class Clip:
    """A finished clip. jpegs: what the player shows; result.frames: what a file is made from; report: on its words."""

    edit: Edit
    result: Result
    jpegs: list[bytes]
    encode_s: float
    report: dict | None = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @property
    def nbytes(self) -> int:
        return self.result.frames.nbytes + self.result.latent.nbytes + sum(map(len, self.jpegs))

    @property
    def file_name(self) -> str:
        """Made by us from letters and digits only, whatever the prompt holds."""
        words = re.sub(r"[^a-z0-9]+", "-", self.edit.words.lower()).strip("-")[:48].strip("-")
        return f"rushes-{words or 'clip'}-seed{self.edit.seed}-{self.edit.mode}.mp4"


class Clips:
    """The clips used last, as many as fit in `keep_mib`; a pocket clip takes 6.5. Safe from any thread."""

    def __init__(self, keep_mib: float = 400.0):
        self._room = int(keep_mib * 2**20)
        self._lock = threading.Lock()
        self._by_key: OrderedDict[tuple, Clip] = OrderedDict()
        self._by_id: dict[str, Clip] = {}

    def add(self, clip: Clip) -> None:
        """Keep a clip; whatever its size, the newest is kept."""
        with self._lock:
            if old := self._by_key.pop(clip.edit.key, None):
                self._forget(old)
            self._by_key[clip.edit.key] = clip
            self._by_id[clip.id] = clip
            self._room -= clip.nbytes
            while self._room < 0 and len(self._by_key) > 1:
                self._forget(self._by_key.popitem(last=False)[1])

    def _forget(self, clip: Clip) -> None:
        del self._by_id[clip.id]
        self._room += clip.nbytes

    def find(self, edit: Edit) -> Clip | None:
        """The clip of an edit made before, which then counts as used."""
        with self._lock:
            if edit.key in self._by_key:
                self._by_key.move_to_end(edit.key)
            return self._by_key.get(edit.key)

    def get(self, clip_id: str) -> Clip | None:
        """A clip by its id; it counts as used, so that what is on screen outlives what is typed beside it."""
        with self._lock:
            found = self._by_id.get(clip_id)
            if found is not None:
                self._by_key.move_to_end(found.edit.key)
            return found
