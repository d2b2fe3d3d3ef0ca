"""A city at night: two rows of lit towers over a wet street that mirrors them."""

from __future__ import annotations

import random

import cv2
import numpy as np

from ..motion import HORIZON
from ..paint import WIDE, Canvas, linear, smooth
from .parts import Layer, Painting, ground, ground_depth, haze, stars


def paint(density: int) -> Painting:
    rng = random.Random(30)
    sky = Canvas(density)
    sky.sky([(-1.3, "0a0b2e"), (-0.6, "1c1850"), (-0.15, "4a2a78"), (HORIZON, "c0589a")])
    stars(sky, rng, 90, -0.1, 0.6)
    sky.add(linear("ffe9c0"), 0.28 * sky.glow(0.60, -0.66, 0.12))
    sky.over(linear("fff0cf"), sky.disc(0.60, -0.66, 0.085))
    back, front = Canvas(density), Canvas(density)
    _skyline(back, rng, 0.17, (0.24, 0.62), "33296a", 0.34)
    _skyline(front, rng, 0.24, (0.12, 0.44), "1d1842", 0.62)
    street = ground(density, "2a2a44", "35344f", "574a78", 0.05, 5)
    mirror = Canvas(density)  # the wet street mirrors the skyline, smeared downwards
    mirror.rgb, mirror.alpha = sky.rgb.copy(), sky.alpha.copy()
    for layer in (back, front):
        mirror.rgb = mirror.rgb * (1 - layer.alpha[..., None]) + layer.rgb
    rows = np.clip(
        ((2 * HORIZON - street.y[:, 0]) + 1.4) / 2.8 * street.y.shape[0] - 0.5, 0, street.y.shape[0] - 1
    ).astype(int)
    smear = cv2.GaussianBlur(mirror.rgb[rows], (0, 0), sigmaX=0.012 * density, sigmaY=0.11 * density)
    strength = 0.9 * smooth(1.0, HORIZON, street.y) * street.below(np.float32(HORIZON))
    street.add(np.ones(3, np.float32), np.zeros_like(strength))
    street.rgb = street.rgb + smear * strength[..., None]
    depth = ground_depth(street)
    for lane in (-1.15, 1.15):  # kerb lines run to the vanishing point
        line = np.abs(street.x * depth - lane) / (depth * street.pixel + 0.018)
        street.over(linear("f3e3b0"), 0.55 * smooth(1.2, 0.6, line) * smooth(0.16, 0.3, street.y))
    lamps = Canvas(density)
    for x in (-1.62, -0.84, 0.90, 1.66):
        _lamp(lamps, x, 0.27, 0.66)
    return Painting(
        layers=(
            Layer(sky.texture(), 0.04, 0.3),
            Layer(back.texture(), 0.14, 0.5),
            haze(density, "a0508f", 0.5, 0.16),
            Layer(front.texture(), 0.30, 0.8),
            Layer(street.texture(), plane=True),
            "traffic",
            Layer(lamps.texture(), 0.48, 0.95, pulse=0.04),
        ),
        light=(1.0, 0.92, 1.06),
        shadow=(0.22, 0.22, 0.30),
        shadow_x=0.04,
        gloss=0.38,
    )


def _skyline(canvas: Canvas, rng: random.Random, pitch: float, tall, wall: str, windows: float) -> None:
    """Buildings side by side; a third of the windows are lit. Windows are some four pixels wide: what an autoencoder can keep in step."""
    x = -WIDE
    while x < WIDE:
        width = pitch * rng.uniform(0.75, 1.25)
        top = HORIZON - rng.uniform(*tall)
        box = canvas.polygon(
            [(x, HORIZON + 0.02), (x, top), (x + width * 0.96, top), (x + width * 0.96, HORIZON + 0.02)]
        )
        if rng.random() < 0.35:
            mast = width * rng.uniform(0.3, 0.6)
            box = np.maximum(
                box,
                canvas.polygon(
                    [(x + mast, top), (x + mast + width * 0.03, top - 0.10), (x + mast + width * 0.06, top)]
                ),
            )
        elif rng.random() < 0.5:
            box = np.maximum(
                box,
                canvas.polygon(
                    [
                        (x + width * 0.2, top),
                        (x + width * 0.2, top - 0.05),
                        (x + width * 0.76, top - 0.05),
                        (x + width * 0.76, top),
                    ]
                ),
            )
        side = smooth(x + width, x, canvas.x)
        rise = smooth(HORIZON, top, canvas.y)
        canvas.over(linear(wall) * (0.55 + 0.5 * side)[..., None] * (1.3 - 0.5 * rise)[..., None], box)
        columns, w, h = max(2, int(width / 0.058)), 0.030, 0.036
        tint = linear(rng.choice(("ffd27a", "ffc860", "ffe3a8", "9fd6ff")))
        rows = int((HORIZON - top) / 0.075)
        for i in range(columns):
            for j in range(rows):
                if rng.random() < 0.36:
                    left, up = x + width * (i + 0.5) / columns * 0.96 - w / 2, top + 0.030 + 0.075 * j
                    pane = canvas.polygon([(left, up), (left + w, up), (left + w, up + h), (left, up + h)])
                    canvas.over(tint * (windows * rng.uniform(0.6, 1.15)), pane)
        x += width


def _lamp(canvas: Canvas, x: float, foot: float, tall: float) -> None:
    pole = canvas.polygon([(x - 0.012, foot), (x - 0.007, foot - tall), (x + 0.007, foot - tall), (x + 0.012, foot)])
    canvas.over(linear("191730"), pole)
    canvas.over(
        linear("191730"), canvas.polygon([(x - 0.045, foot - tall), (x, foot - tall - 0.03), (x + 0.045, foot - tall)])
    )
    canvas.add(linear("ffc878"), 0.55 * canvas.glow(x, foot - tall + 0.03, 0.05))
    canvas.over(linear("fff0c4") * 1.3, canvas.disc(x, foot - tall + 0.025, 0.027))
