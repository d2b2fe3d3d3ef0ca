"""A theatre stage: red curtains with gold, a plank floor, a spotlight."""

from __future__ import annotations

import cv2
import numpy as np

from ..motion import GROUND, HORIZON
from ..paint import Canvas, linear, noise, smooth
from .parts import Layer, Painting, Sheet, ground, ground_depth, ground_noise, sheet


def paint(density: int) -> Painting:
    back = Canvas(density)
    back.sky([(-1.3, "2a0410"), (1.3, "2a0410")])
    folds = _folds(back.x, 17.0, 2)
    drop = 0.45 + 0.55 * smooth(HORIZON + 0.02, -0.5, back.y)
    light = 0.40 + 1.1 * np.exp(-((back.x / 0.75) ** 2) - ((back.y + 0.05) / 0.75) ** 2)
    back.over(linear("b3122c") * (folds * drop * light)[..., None], np.ones_like(back.x))
    hem = smooth(0.02, 0.012, np.abs(back.y - (HORIZON - 0.035)))
    back.over(linear("e8b040") * (0.5 + 0.7 * folds * light)[..., None], hem)
    floor = ground(density, "6a3a1c", "9a5a2a", "7a4422", 0.05, 7)
    depth = ground_depth(floor)
    plank = floor.x * depth * 4.2
    tone = np.sin(np.floor(plank) * 12.99) * 43758.5 % 1.0
    seam = smooth(0.0, 0.05 + 4.2 * depth * floor.pixel, np.abs((plank + 0.5) % 1.0 - 0.5))
    grain = 0.10 * ground_noise(floor, 18, 3, 0.12)
    pool = 0.40 + 1.15 * np.exp(-((floor.x / 0.85) ** 2) - ((floor.y - GROUND) / 0.42) ** 2)
    floor.shade((0.82 + 0.30 * tone + grain) * (0.55 + 0.45 * seam) * pool)
    wings = Canvas(density)
    for side in (-1, 1):
        edge = 0.80 - 0.17 * smooth(-0.9, 0.3, wings.y) + 0.10 * np.exp(-(((wings.y - 0.05) / 0.25) ** 2))
        cover = np.clip((side * wings.x - edge) / wings.pixel + 0.5, 0, 1) * smooth(0.34, 0.335, wings.y)
        inner = 0.55 + 0.7 * np.exp(-np.abs(side * wings.x - edge) / 0.2)
        wings.over(linear("c4142e") * (_folds(wings.x + 0.1 * wings.y * side, 22.0, 3) * inner)[..., None], cover)
        rope = smooth(0.022, 0.012, np.abs(wings.y - 0.03 - 0.05 * (side * wings.x - edge)))
        wings.over(linear("f0bc48") * inner[..., None], rope * cover)
    valance = Canvas(density)
    scallop = -0.70 + 0.085 * np.abs(np.sin(valance.x * 5.2))
    valance.over(
        linear("c4142e") * (_folds(valance.x, 26.0, 4) * (0.7 + 0.5 * smooth(-1.3, -0.62, valance.y)))[..., None],
        np.clip((scallop - valance.y) / valance.pixel + 0.5, 0, 1),
    )
    fringe = np.abs(valance.y - scallop) < 0.022
    valance.over(
        linear("f2c04c") * (0.8 + 0.3 * np.sin(valance.x * 260))[..., None],
        cv2.GaussianBlur(fringe.astype(np.float32), (0, 0), 0.6),
    )
    lamps = Canvas(density)
    for i in range(-9, 10):
        lamps.over(linear("5a3418"), lamps.disc(i * 0.26, 1.02, 0.07))
        lamps.over(linear("ffe9b0") * 1.2, lamps.disc(i * 0.26, 0.985, 0.045))
        lamps.add(linear("ffc060"), 0.5 * lamps.glow(i * 0.26, 0.96, 0.06))
    return Painting(
        layers=(
            Layer(back.texture(), 0.30, 0.8),
            Layer(floor.texture(), plane=True),
            Layer(wings.texture(), 0.55, 0.95),
            Layer(valance.texture(), 0.75, 1.0),
            "spotlight",
            Layer(lamps.texture(), 1.3, 1.0),
        ),
        sheets=(Sheet(sheet(density, "flake", 22, 0.006, 5, ("fff0c0",), 0.55), 0.9, (0.03, -0.04), 0.03),),
        light=(1.10, 1.02, 0.92),
        shadow=(0.24, 0.20, 0.20),
        gloss=0.20,
    )


def _folds(x: np.ndarray, frequency: float, seed: int) -> np.ndarray:
    """Light over hanging cloth, about 0.25..1.15."""
    phase = x * frequency + 0.8 * noise(x * 1.5, x * 0 + seed, seed)
    return 0.70 + 0.34 * np.sin(phase) + 0.12 * np.sin(2.3 * phase + seed)
