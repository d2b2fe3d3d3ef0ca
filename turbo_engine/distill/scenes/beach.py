"""A beach at sunset: low sun over the sea, a leaning palm, shells on the sand."""

from __future__ import annotations

import math
import random

import numpy as np

from ..motion import GROUND, HORIZON
from ..paint import WIDE, Canvas, fractal, linear, smooth
from .parts import Layer, Painting, Sheet, ground, ground_depth, ground_noise, haze, sheet


def paint(density: int) -> Painting:
    sky = Canvas(density)
    sky.sky(
        [
            (-1.3, "2b3a7e"),
            (-0.75, "5a4c98"),
            (-0.35, "b3609f"),
            (-0.12, "ee7f86"),
            (0.02, "ffa873"),
            (HORIZON, "ffd398"),
        ]
    )
    sun_x, sun_y = 0.34, 0.0
    sky.add(linear("ffb070"), 0.7 * sky.glow(sun_x, sun_y, 0.30))
    for i in range(15):  # long evening clouds, lit from below
        y = -0.80 + 0.056 * i
        streak = smooth(0.4, 1.5, fractal(sky.x * 1.1 + 3 * i, sky.y * 12 + i, i, 4)) * np.exp(
            -(((sky.y - y) / 0.055) ** 2)
        )
        warm = linear("e8809a") * (1 - i / 15) + linear("ffd79a") * (i / 15)
        sky.over(warm, streak * 0.7)
    sky.over(linear("fff3c4") * 1.35, sky.disc(sun_x, sun_y, 0.125))
    islands = Canvas(density)
    cover, lit, _ = islands.ridge([(-1.3, -0.02, 0.5), (-0.92, 0.02, 0.4), (1.5, 0.0, 0.5)], 0.01, 3)
    islands.over(linear("8c5580") * (0.75 + 0.35 * lit)[..., None], cover)
    sand = ground(density, "c98d55", "e9bd85", "f0cb98", 0.07, 2)
    ripples = np.sin(ground_depth(sand) * 34 + 2.5 * ground_noise(sand, 1.5, 5))
    sand.shade(1 + 0.045 * ripples * smooth(0.32, 0.6, sand.y))
    scatter = random.Random(8)
    for _ in range(90):  # shells and pebbles
        depth = scatter.uniform(0.36, 0.85) ** -1.2
        x, y, r = (
            scatter.uniform(-WIDE, WIDE),
            HORIZON + (GROUND - HORIZON) / depth,
            scatter.uniform(0.006, 0.013) / depth,
        )
        if y < 1.35:
            sand.over(linear("7a4c30"), 0.5 * sand.disc(x - 0.4 * r, y + 0.5 * r, r))
            cover, shade = sand.blobs([(x, y, r)], (0.4, -0.7, 0.4))
            sand.over(linear(scatter.choice(("fff0dc", "ffc8b0", "d8a078", "ffe0e8"))) * shade[..., None], cover)
    palm = Canvas(density)
    _palm(palm, -1.06, 0.54, 1.25)
    return Painting(
        layers=(
            Layer(sky.texture(), 0.06, 0.35),
            Layer(islands.texture(), 0.10, 0.5),
            Layer(sand.texture(), plane=True),
            "sea",
            haze(density, "ffc08a", 0.35),
            Layer(palm.texture(), 0.85),
        ),
        sheets=(Sheet(sheet(density, "spark", 9, 0.007, 4, ("ffd9a0",), 0.4), 0.8, (-0.03, -0.04), 0.02),),
        light=(1.10, 0.90, 0.76),
        shadow=(0.36, 0.25, 0.32),
        shadow_x=-0.10,
    )


def _palm(canvas: Canvas, x: float, foot: float, tall: float) -> None:
    """A leaning palm in evening light."""
    lean = lambda k: x + 0.30 * tall * k**1.7
    for k in np.linspace(0, 1, 60):
        half = 0.034 * tall * (1.15 - 0.5 * k)
        band = 0.75 + 0.25 * math.sin(k * 60)
        shade = smooth(lean(k) - half, lean(k) + half, canvas.x)
        canvas.over(
            linear("8a5338") * (band * (0.55 + 0.6 * shade))[..., None], canvas.disc(lean(k), foot - tall * k, half)
        )
    cx, cy = lean(1.0), foot - tall
    for i, angle in enumerate((-2.9, -2.35, -1.75, -1.1, -0.5, 0.05, 0.45, 2.75, 3.3)):
        points_up, points_down = [], []
        length = tall * (0.46 if -2.6 < angle < -0.6 else 0.52)
        for k in np.linspace(0, 1, 14):
            px = cx + math.cos(angle) * length * k
            py = cy + math.sin(angle) * length * k * 0.75 + 0.30 * tall * k**2
            width = 0.062 * tall * math.sin(math.pi * min(k * 0.93 + 0.05, 1)) ** 0.7
            points_up.append((px, py - width * 0.55))
            points_down.append((px, py + width * (0.8 + 0.5 * (-1) ** int(k * 26))))
        leaf = canvas.polygon(points_up + points_down[::-1])
        canvas.over(linear(("3f6e46", "5a8a4a", "2f5c48")[i % 3]), leaf)
    for dx, dy in ((-0.03, 0.02), (0.03, 0.03), (0.0, 0.055)):
        cover, shade = canvas.blobs([(cx + dx * tall, cy + dy * tall, 0.03 * tall)])
        canvas.over(linear("7a4a2c") * shade[..., None], cover)
