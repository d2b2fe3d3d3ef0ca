"""Snow at night: moon, northern lights, peaks, snowed-in conifers, falling snow."""

from __future__ import annotations

import random

import numpy as np

from ..motion import HORIZON
from ..paint import WIDE, Canvas, fractal, linear, smooth
from .parts import Layer, Painting, Sheet, ground, ground_noise, haze, sheet, stars


def paint(density: int) -> Painting:
    rng = random.Random(9)
    sky = Canvas(density)
    sky.sky([(-1.3, "050b2c"), (-0.6, "0e2258"), (-0.1, "27508f"), (HORIZON, "5f8fc4")])
    stars(sky, rng, 220, 0.05, 0.7)
    sky.add(linear("cfe0ff"), 0.40 * sky.glow(-0.58, -0.64, 0.15))
    moon = sky.disc(-0.58, -0.64, 0.115)
    sky.over(linear("f6f3e4") * (1 - 0.08 * np.clip(fractal(sky.x * 8, sky.y * 8, 2, 3), -1, 1.5))[..., None], moon)
    peaks = Canvas(density)
    cover, lit, below = peaks.ridge(
        [(-1.7, -0.36, 0.8), (-0.85, -0.26, 0.7), (-0.1, -0.16, 0.6), (0.75, -0.40, 0.85), (1.7, -0.25, 0.7)], 0.022, 4
    )
    rock = linear("2b4472") * (0.65 + 0.75 * lit)[..., None]
    cap = linear("b9cff2") * (0.45 + 0.75 * lit)[..., None]
    line = smooth(0.02, -0.02, below - 0.17 - 0.05 * fractal(peaks.x * 6, peaks.y * 6, 3, 3))[..., None]
    fog = (0.85 * smooth(-0.15, HORIZON, peaks.y))[..., None]
    peaks.over((rock * (1 - line) + cap * line) * (1 - fog) + linear("6f9bcc") * fog, cover)
    woods = Canvas(density)
    for i in range(44):                                        # far off: dark shapes in the mist, no snow on them
        x = -WIDE + 2 * WIDE * (i + rng.random()) / 44
        _conifer(woods, x, HORIZON + rng.uniform(0.0, 0.03), rng.uniform(0.15, 0.26), "33597f", None)
    near = Canvas(density)
    for x, foot, tall in (
        (-1.75, 0.26, 0.62),
        (-1.13, 0.22, 0.50),
        (-0.86, 0.17, 0.32),
        (0.80, 0.18, 0.36),
        (1.10, 0.24, 0.58),
        (1.62, 0.2, 0.44),
    ):
        _conifer(near, x, foot, tall, "1c4a5a", "dbe8ff")
    snow = ground(density, "b9cdf2", "dbe7fd", "a9c2ec", 0.045, 6)
    drifts = smooth(0.1, 1.3, ground_noise(snow, 1.6, 3, 1.6))
    snow.shade(1 - 0.12 * drifts)
    snow.add(linear("ffffff"), 0.22 * smooth(1.7, 2.4, ground_noise(snow, 26, 4)) * snow.alpha)
    return Painting(
        layers=(
            Layer(sky.texture(), 0.04, 0.3, pulse=0.05),
            "aurora",
            Layer(peaks.texture(), 0.12, 0.5),
            Layer(woods.texture(), 0.24, 0.75),
            Layer(snow.texture(), plane=True),
            haze(density, "8db4e0", 0.35, 0.05),
            Layer(near.texture(), 0.42, 0.95),
        ),
        sheets=(
            Sheet(sheet(density, "flake", 24, 0.015, 1, opacity=0.6), 0.5, (0.03, 0.20), 0.03),
            Sheet(sheet(density, "flake", 12, 0.026, 2, opacity=0.7), 0.9, (-0.05, 0.32), 0.04),
        ),
        light=(0.86, 0.94, 1.10),
        shadow=(0.30, 0.36, 0.50),
        shadow_x=0.08,
    )


def _conifer(canvas: Canvas, x: float, foot: float, tall: float, leaf: str, snow: str | None) -> None:
    """Stacked cones; snow lies on the upper side of each."""
    half = tall * 0.30
    canvas.over(
        linear("3a2a26"),
        canvas.polygon(
            [
                (x - tall * 0.03, foot),
                (x + tall * 0.03, foot),
                (x + tall * 0.02, foot - tall * 0.3),
                (x - tall * 0.02, foot - tall * 0.3),
            ]
        ),
    )
    for k in range(3):
        low, top, w = foot - tall * (0.12 + 0.25 * k), foot - tall * (0.52 + 0.24 * k), half * (1 - 0.26 * k)
        cone = canvas.polygon(
            [
                (x - w, low),
                (x - w * 0.5, low + tall * 0.025),
                (x, low + tall * 0.035),
                (x + w * 0.5, low + tall * 0.025),
                (x + w, low),
                (x, top),
            ]
        )
        side = smooth(x + w * 0.7, x - w * 0.7, canvas.x)
        canvas.over(linear(leaf) * (0.45 + 0.75 * side)[..., None], cone)
        if snow:
            cap = canvas.polygon(
                [
                    (x - w, low),
                    (x - w * 0.62, low - tall * 0.045),
                    (x - w * 0.2, low - tall * 0.02),
                    (x + w * 0.15, low - tall * 0.075),
                    (x + w * 0.45, low - tall * 0.06),
                    (x + w * 0.55, low - tall * 0.09),
                    (x, top),
                ]
            )
            canvas.over(linear(snow) * (0.55 + 0.5 * side)[..., None], cap * 0.92)
