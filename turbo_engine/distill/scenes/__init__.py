"""The ten scenes of world.toml, painted: one module each, with a `paint(density) -> Painting`.

A painting is a few wide layers with a parallax each, a ground in true perspective, and sheets of small things in the air.
Palette, horizon and light are fixed per scene. Only stills are made here; what moves over them is in ../scenery.py.
"""

from __future__ import annotations

from . import beach, city, desert, forest, meadow, snow, space, stage, underwater, volcano
from .parts import Layer, Painting, Sheet

_SCENES = {
    "beach": beach, "meadow": meadow, "snow": snow, "desert": desert, "space": space,
    "underwater": underwater, "forest": forest, "city": city, "volcano": volcano, "stage": stage,
}  # fmt: skip


def paint_scene(name: str, density: int) -> Painting:
    """Paint a scene of world.toml at density pixels per screen unit. Raises: KeyError for a scene without a painting."""
    return _SCENES[name].paint(density)


__all__ = ["Layer", "Painting", "Sheet", "paint_scene"]
