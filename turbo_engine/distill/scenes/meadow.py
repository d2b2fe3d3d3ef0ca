"""A green meadow: heaped clouds, rolling hills, flowers in the grass."""

from __future__ import annotations

import random

import cv2
import numpy as np

from ..motion import GROUND, HORIZON
from ..paint import WIDE, Canvas, fractal, linear, noise, smooth
from .parts import Layer, Painting, Sheet, ground, ground_noise, haze, sheet


def paint(density: int) -> Painting:
    rng = random.Random(5)
    sky = Canvas(density)
    sky.sky([(-1.3, "1f6fd8"), (-0.6, "4aa2f2"), (-0.1, "9ad4fb"), (HORIZON, "e4f6ff")])
    sky.add(linear("fff2c0"), 0.55 * sky.glow(-0.55, -0.66, 0.16))
    sky.over(linear("fffbe2") * 1.25, sky.disc(-0.55, -0.66, 0.10))
    clouds = Canvas(density)
    low = (
        (-2.1, -0.20, 0.24),
        (-1.25, -0.12, 0.22),
        (-0.42, -0.17, 0.20),
        (0.20, -0.10, 0.14),
        (0.80, -0.19, 0.24),
        (1.50, -0.12, 0.2),
    )
    high = ((-1.75, -0.52, 0.44), (0.28, -0.54, 0.42), (1.18, -0.44, 0.30), (2.05, -0.62, 0.44))
    _cumulus(clouds, rng, low, "ffffff", "c3daf2")
    _cumulus(clouds, rng, high, "ffffff", "bcd3f0")
    far = _hills(density, 0.04, 0.22, "7fb79a", "9fcdb4", 3, 1.1)
    near = _hills(density, 0.10, 0.12, "4b9c4a", "7cc35c", 8, 1.7, tufts=16)
    grass = ground(density, "3f9a3a", "62b848", "86cc5e", 0.09, 4)
    blades = 0.5 * ground_noise(grass, 9, 7, 0.25) + 0.4 * ground_noise(grass, 22, 8, 0.2)
    grass.shade(1 + 0.13 * blades * smooth(HORIZON, 0.3, grass.y))
    for _ in range(100):  # flowers, in true perspective; none so far off that it would be a speck
        depth = rng.uniform(0.58, 1.0) ** -1.6
        y = HORIZON + (GROUND - HORIZON) / depth
        x, r = rng.uniform(-WIDE, WIDE), 0.026 / depth
        if y < 1.35:
            colour = linear(rng.choice(("ffffff", "ffe066", "ff8fc0", "ffffff", "ffb347")))
            grass.over(colour, grass.disc(x, y, r) * min(1.0, r / grass.pixel))
            grass.over(linear("f0a020"), grass.disc(x, y, r * 0.42) * min(1.0, r / grass.pixel))
    return Painting(
        layers=(
            Layer(sky.texture(), 0.04, 0.35),
            Layer(clouds.texture(), 0.10, 0.5, drift=0.05),
            Layer(far.texture(), 0.16, 0.65),
            Layer(near.texture(), 0.3, 0.85),
            Layer(grass.texture(), plane=True),
            haze(density, "d4f0c8", 0.16, 0.04),
        ),
        sheets=(Sheet(sheet(density, "flake", 7, 0.016, 6, ("ffffff", "fff3b0"), 0.7), 0.9, (0.16, -0.05), 0.05),),
        light=(1.04, 1.02, 0.95),
        shadow=(0.22, 0.34, 0.26),
        shadow_x=0.10,
    )


def _cumulus(canvas: Canvas, rng: random.Random, places, top: str, base: str, light=(-0.4, -0.8, 0.4)):
    """Heaped clouds at (x, y, half width) each, lit from above, flat underneath, soft at the edge."""
    for cx, cy, s in places:
        balls = [(cx + s * rng.uniform(-1, 1), cy - s * 0.06, s * rng.uniform(0.10, 0.26)) for _ in range(10)]
        balls += [
            (cx + s * rng.uniform(-0.6, 0.6), cy - s * rng.uniform(0.10, 0.40), s * rng.uniform(0.14, 0.38))
            for _ in range(9)
        ]
        cover, shade = canvas.blobs(balls, light, rough=0.012, seed=rng.randrange(9))
        cover = cover * smooth(cy + 0.12 * s, cy - 0.06 * s, canvas.y)
        cover = cv2.GaussianBlur(cover, (0, 0), 0.9)
        lift = smooth(cy + 0.1 * s, cy - 0.5 * s, canvas.y)[..., None]
        colour = linear(base) * (1 - lift) + linear(top) * lift
        canvas.over(colour * np.clip(shade, 0.75, 1.1)[..., None], cover * 0.96)


def _hills(
    density: int, base: float, height: float, low: str, high: str, seed: int, bumps: float = 1.6, tufts: int = 0
) -> Canvas:
    """Rolling hills with a lit rim, and small round trees on them."""
    canvas = Canvas(density)
    outline = base - height * (0.5 + 0.42 * noise(canvas.x[0] * bumps, canvas.x[0] * 0 + seed, seed))
    lift = smooth(HORIZON + 0.04, base - height * 1.2, canvas.y)[..., None]
    colour = linear(low) * (1 - lift) + linear(high) * lift
    relief = 0.07 * fractal(canvas.x * 3, canvas.y * 7, seed, 3)
    rim = 0.22 * np.exp(-np.maximum(canvas.y - outline[None], 0) / 0.03)
    canvas.over(colour * (1 + relief + rim)[..., None], canvas.below(outline[None]))
    rng = random.Random(seed)
    for _ in range(tufts):
        x = rng.uniform(-WIDE, WIDE)
        y = float(np.interp(x, canvas.x[0], outline)) + rng.uniform(0, 0.03)
        s = rng.uniform(0.022, 0.045)
        cover, shade = canvas.blobs(
            [(x, y - s, s), (x - s * 0.7, y - s * 0.5, s * 0.7), (x + s * 0.7, y - s * 0.5, s * 0.7)]
        )
        canvas.over(linear(low) * (0.75 * shade)[..., None], cover)
    return canvas
