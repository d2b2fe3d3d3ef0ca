"""Outer space: nebula, stars, a ringed planet, the limb of a blue one. No ground."""

from __future__ import annotations

import random

import numpy as np

from ..paint import Canvas, fractal, linear, smooth
from .parts import Layer, Painting, Sheet, sheet, stars


def paint(density: int) -> Painting:
    rng = random.Random(12)
    sky = Canvas(density)
    sky.sky([(-1.3, "04041a"), (0.0, "0d0a30"), (1.3, "1a0d48")])
    warp_x, warp_y = fractal(sky.x * 0.9, sky.y * 0.9, 1, 3), fractal(sky.x * 0.9 + 9, sky.y * 0.9, 2, 3)
    cloud = fractal(sky.x * 1.1 + 0.45 * warp_x, sky.y * 1.1 + 0.45 * warp_y, 3, 6)
    second = fractal(sky.x * 0.9 - 0.4 * warp_y + 5, sky.y * 0.9 + 0.4 * warp_x, 7, 5)
    dust = 1 - 0.65 * smooth(0.2, 1.5, fractal(sky.x * 2 + warp_y, sky.y * 2, 6, 5))
    sky.add(linear("c23cc8"), 0.60 * smooth(-0.1, 2.2, cloud) * dust)
    sky.add(linear("2f7fe8"), 0.60 * smooth(0.0, 2.2, second) * dust)
    sky.add(linear("ff9a70"), 0.50 * smooth(1.1, 2.6, cloud) * dust)
    stars(sky, rng, 420, 9.0, 0.9)
    giant = Canvas(density)
    _ringed_planet(giant, 0.60, -0.52, 0.27)
    small = Canvas(density)
    cover, shade = small.blobs([(-0.74, -0.66, 0.105)], (0.7, -0.4, 0.35))
    craters = 1 - 0.25 * smooth(0.3, 1.2, fractal(small.x * 12, small.y * 12, 5, 3))
    small.over(linear("9fb4d8") * (craters * (shade - 0.25) * 1.3)[..., None], cover)
    limb = Canvas(density)
    _blue_limb(limb)
    return Painting(
        layers=(
            Layer(sky.texture(), 0.25, 0.4, pulse=0.08),
            Layer(small.texture(), 0.40, 0.6),
            Layer(giant.texture(), 0.50, 0.7),
            Layer(limb.texture(), 0.65, 0.8),
        ),
        sheets=(Sheet(sheet(density, "spark", 8, 0.014, 8, ("ffffff", "bfe0ff"), 0.6), 1.0, (-0.10, 0.02)),),
        light=(1.0, 0.97, 1.06),
        shadow=(0.5, 0.5, 0.5),
    )


def _ringed_planet(canvas: Canvas, cx: float, cy: float, radius: float) -> None:
    dx, dy = (canvas.x - cx) / radius, (canvas.y - cy) / radius
    tilt_x, tilt_y = dx * 0.94 - dy * 0.34, dx * 0.34 + dy * 0.94
    d2 = dx**2 + dy**2
    z = np.sqrt(np.maximum(1 - d2, 0))
    sun = np.clip(-0.55 * dx - 0.55 * dy + 0.62 * z, 0, 1)
    bands = np.sin(tilt_y * 11 + 1.2 * fractal(tilt_x * 1.5, tilt_y * 6, 3, 4))
    mix = smooth(-1, 1, bands)[..., None]
    body = (linear("f2b26a") * mix + linear("b8608a") * (1 - mix)) * (0.05 + 1.1 * sun)[..., None]
    canvas.add(linear("ffb070"), 0.16 * np.exp(-np.maximum(np.sqrt(d2) - 1, 0) * 6))
    canvas.over(body, np.clip((1 - np.sqrt(d2)) * radius / canvas.pixel + 0.5, 0, 1))
    ring = np.hypot(tilt_x, tilt_y * 3.9)
    edge = canvas.pixel / radius * 2
    cover = smooth(1.32 - edge, 1.32 + edge, ring) * smooth(2.15 + edge, 2.15 - edge, ring)
    cover = cover * (0.84 + 0.16 * np.sin(ring * 24)) * (1 - 0.8 * smooth(0.02, 0.0, np.abs(ring - 1.8) - 0.03))
    front = np.maximum(tilt_y > 0, d2 > 1).astype(np.float32)
    canvas.over(linear("ffdfb0") * 0.95, 0.85 * cover * front)


def _blue_limb(canvas: Canvas) -> None:
    """The edge of a blue planet, far below."""
    cx, cy, radius = -0.2, 4.02, 3.2
    d = np.hypot(canvas.x - cx, canvas.y - cy) / radius
    inside = np.clip((1 - d) * radius / canvas.pixel + 0.5, 0, 1)
    swirl = smooth(0.1, 1.3, fractal(canvas.x * 2.2, canvas.y * 5 + canvas.x, 9, 5))[..., None]
    depth = np.clip((1 - d) * radius / 0.5, 0, 1)[..., None]
    canvas.over(linear("0f3f9a") * (1.0 - 0.6 * depth) + linear("e8f4ff") * swirl * 0.5 * (1 - 0.7 * depth), inside)
    canvas.add(
        linear("6fc0ff"), 0.75 * np.exp(-np.abs(d - 1) * radius / 0.035) + 0.2 * np.exp(-np.abs(d - 1) * radius / 0.14)
    )
