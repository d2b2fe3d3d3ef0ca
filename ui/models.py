"""The presets of this app: the one that runs, those a person may switch to, and what a page must know of the one that runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from fastapi import FastAPI, HTTPException

from turbo_engine.errors import PresetError, TurboError, WeightsError
from turbo_engine.parts import why_not_ready
from turbo_engine.presets import TURBO_SAMPLERS, Preset, list_presets, load_preset

from .clips import Edit
from .live import Desk

OPENING = Edit(0, "a penguin walking to the right on a beach at sunset", 7)
EXAMPLES = (
    OPENING.prompt,
    "an octopus dancing underwater",
    "a rocket flying to the right in space",
    "a cactus growing in the desert",
    "a T-Rex jumping near an erupting volcano",
    "a robot spinning on a theatre stage",
)


class Models:
    """What the desk runs, and could.

    Args:
        preset: the one that runs.
        make_engine: how the engine of another is made; None: there is no switching.
        others: presets to offer beside it; None: all that this app comes with.
        why_not: "" where a preset's weights are there, else the reason in plain words.
    `preset` is the one that runs now, or is being loaded; `previous` the name of the one before, "" for none.
    """

    def __init__(self, preset: Preset, make_engine: Callable[[Preset], object] | None = None, *, others: Iterable[Preset] | None = None,
                 why_not: Callable[[Preset], str] = why_not_ready):
        self.preset, self.previous = preset, ""
        self._make_engine, self._why_not = make_engine, why_not
        self._presets, self._broken = {preset.name: preset}, {}
        self._switching = threading.Lock()
        if others is None:
            self._read_own()
        for other in others or ():
            self._presets.setdefault(other.name, other)

    def _read_own(self) -> None:
        for name in list_presets():
            try:
                self._presets.setdefault(name, load_preset(name))
            except PresetError as error:
                self._broken[name] = str(error)

    def offers(self) -> list[dict]:
        """By preset: name, what it is in a few words, and why it cannot run, "" where it can."""
        found = [{"name": name, "about": _about(preset), "why_not": "" if preset is self.preset else self._why_not(preset)}
                 for name, preset in self._presets.items()]
        return found + [{"name": name, "about": "", "why_not": why} for name, why in self._broken.items()]

    def switch(self, desk: Desk, name: str) -> None:
        """Have the desk run another preset; returns while it loads. Raises: TurboError where that cannot be."""
        preset = self._presets.get(name)
        if preset is None or self._make_engine is None:
            known = ", ".join(self._presets)
            raise PresetError(self._broken.get(name) or f"preset: expected one of {known}, got {name[:80]!r}; choose one of these")
        if why_not := self._why_not(preset):
            raise WeightsError(why_not)
        with self._switching:
            if preset.name == self.preset.name and desk.state != "failed":
                return
            if preset.name != self.preset.name:
                self.previous = self.preset.name
            self.preset = preset
            desk.switch(lambda: self._make_engine(preset), opening_of(preset), self.hello())

    def hello(self) -> dict:
        """What a page is told first."""
        return {"type": "hello", **describe_page(self.preset), "previous": self.previous}


def add_model_routes(app: FastAPI, desk: Desk, models: Models) -> None:

    @app.get("/rt/presets")
    def presets() -> dict:
        return {"presets": models.offers(), "current": models.preset.name}

    @app.post("/rt/preset")
    def switch(wish: dict) -> dict:
        """{"name": preset}: unload the model that runs and load that one. A 422 in plain words where it cannot be."""
        try:
            models.switch(desk, str(wish.get("name")))
        except TurboError as error:
            raise HTTPException(422, str(error)) from error
        return {"current": models.preset.name}


def opening_of(preset: Preset) -> Edit | None:
    """The edit a page with untouched controls asks for; None where that waits for a picture to start from."""
    clip = preset.clip
    if preset.takes_image:
        return None
    return replace(OPENING, num_steps=preset.turbo.num_steps, sampler=preset.turbo.sampler, width=clip.width, height=clip.height,
                   num_frames=clip.num_frames, preset=preset.name)


def describe_page(preset: Preset) -> dict:
    """What the page needs before the engine is there: menus, the opening shot, the words of the taught world."""
    clip = preset.clip
    return {
        "preset": preset.name,
        "takes_image": preset.takes_image,
        "clip": {
            "fps": clip.fps, "width": clip.width, "height": clip.height, "num_frames": clip.num_frames,
            "sizes": list(clip.menu), "lengths": list(clip.lengths), "max_num_frames": clip.max_num_frames,
        },
        "turbo": {
            "num_steps": preset.turbo.num_steps, "max_steps": preset.turbo.max_steps, "sampler": preset.turbo.sampler,
            "samplers": list(TURBO_SAMPLERS),
        },
        "full": {
            "num_steps": preset.full.num_steps, "max_steps": preset.full.max_steps, "sampler": preset.full.sampler,
        },
        "opening": {"prompt": OPENING.prompt, "seed": OPENING.seed},
        "examples": list(EXAMPLES),
        "world": _world(preset),
    }


def _about(preset: Preset) -> str:
    clip, start = preset.clip, "a picture and words" if preset.takes_image else "words"
    return f"from {start} to {clip.width} × {clip.height}, up to {clip.max_num_frames / clip.fps:.0f} s"


def _world(preset: Preset) -> dict | None:
    """The taught words by group: name, phrase to insert, every phrase of that meaning. None without a vocabulary."""
    if not preset.text.vocabulary:
        return None
    from turbo_engine.distill.world import load_world
    world = load_world(preset.folder / preset.text.vocabulary)
    verbs = sorted({verb for verbs in world.verbs.values() for verb in verbs})

    def with_verbs(phrases):
        return [phrase.format(verb=verb) for phrase in phrases for verb in (verbs if "{verb}" in phrase else [""])]

    return {
        "subjects": [{"name": s.name, "insert": s.name, "phrases": [s.name, *s.also]} for s in world.subjects],
        "scenes": [{"name": s.name, "insert": s.phrases[0], "phrases": list(s.phrases)} for s in world.scenes],
        "motions": [
            {"name": m.name, "insert": m.phrases[0].format(verb="moving"), "phrases": with_verbs(m.phrases)}
            for m in world.motions
        ],
        "places": [{"name": p.name, "insert": p.phrases[0], "phrases": list(p.phrases)} for p in world.places],
        "cameras": [{"name": c.name, "insert": c.phrases[0], "phrases": list(c.phrases)} for c in world.cameras],
    }
