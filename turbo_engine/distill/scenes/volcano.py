"""An erupting volcano: lava down its sides and in the cracks of the ground, embers."""

from __future__ import annotations

import random

import numpy as np

from ..motion import HORIZON
from ..paint import Canvas, fractal, linear, noise, smooth
from .parts import Layer, Painting, Sheet, ground, ground_depth, haze, sheet


def paint(density: int) -> Painting:
    rng = random.Random(17)
    sky = Canvas(density)
    sky.sky([(-1.3, "150a16"), (-0.6, "3c1420"), (-0.15, "8a2a1e"), (HORIZON, "f2702a")])
    smoke = fractal(sky.x * 1.2 + 0.4 * fractal(sky.x, sky.y, 4, 2), sky.y * 2.2, 5, 6)
    sky.over(linear("1c1016"), 0.75 * smooth(-0.2, 1.4, smoke) * smooth(0.05, -0.7, sky.y))
    cone = Canvas(density)
    x0, top = 0.42, -0.42
    plume = []
    for i in range(38):
        k = i / 37
        plume.append(
            (
                x0 + 0.05 + 0.55 * k**1.4 + rng.uniform(-0.14, 0.14) * (0.3 + k),
                top - 0.02 - 0.85 * k + rng.uniform(-0.05, 0.05),
                0.06 + 0.17 * k * rng.uniform(0.6, 1.2),
            )
        )
    cover, shade = cone.blobs(plume, (-0.3, 0.8, 0.35), rough=0.02, seed=3)
    warm = smooth(-1.0, top, cone.y)[..., None]
    cone.over((linear("3a2228") * (1 - warm) + linear("d05a28") * warm) * (shade - 0.2)[..., None], cover * 0.97)
    cone.add(linear("ff7a2a"), 0.9 * cone.glow(x0, top - 0.02, 0.11))
    outline = np.minimum(
        HORIZON + 0.02,
        top
        + np.maximum(np.abs(cone.x[0] - x0) - 0.085, 0) ** 0.86 * 0.80
        + 0.010 * fractal(cone.x[0] * 7, cone.x[0] * 0, 3, 4),
    )
    side = smooth(0.25, -0.25, cone.x - x0 - 0.1 * fractal(cone.x * 4, cone.y * 3, 7, 3))
    cone.over(
        linear("3a2024") * (0.55 + 0.65 * side + 0.12 * fractal(cone.x * 7, cone.y * 7, 2, 4))[..., None],
        cone.below(outline[None]) * smooth(HORIZON + 0.01, HORIZON, cone.y),
    )
    lava = Canvas(density)
    for start, slope, width in ((-0.05, -0.55, 0.022), (0.02, 0.10, 0.028), (0.06, 0.62, 0.018)):
        fall = lava.y - top
        path = x0 + start + slope * fall + 0.035 * np.sin(fall * 17 + start * 50)
        stream = (
            smooth(width * (1 + fall), width * 0.3, np.abs(lava.x - path))
            * smooth(top - 0.015, top + 0.01, lava.y)
            * smooth(HORIZON, HORIZON - 0.03, lava.y)
        )
        lava.over(linear("ff8a28") * 1.5, stream)
        lava.add(
            linear("ff5a18"),
            0.5
            * np.exp(-np.abs(lava.x - path) / 0.03)
            * smooth(top - 0.02, top + 0.02, lava.y)
            * smooth(HORIZON + 0.02, HORIZON - 0.04, lava.y),
        )
    lava.over(
        linear("ffd060") * 1.6, smooth(0.09, 0.07, np.abs(lava.x - x0)) * smooth(0.028, 0.012, np.abs(lava.y - top))
    )
    rock = ground(density, "221820", "38262b", "54302c", 0.22, 6)
    crags = Canvas(density)
    for x, s in ((-1.85, 0.5), (-1.12, 0.40), (1.08, 0.36), (1.72, 0.5)):
        balls = [
            (x + s * rng.uniform(-0.4, 0.4), 0.30 - s * rng.uniform(0, 0.5), s * rng.uniform(0.16, 0.34))
            for _ in range(8)
        ]
        cover, shade = crags.blobs(balls, (0.6, -0.5, 0.35), rough=0.03, seed=5)
        crags.over(linear("4a2c30") * (shade - 0.15)[..., None], cover * smooth(0.34, 0.30, crags.y))
    cracks = Canvas(density)
    glow, core = _cracks(cracks)
    cracks.add(linear("ff4a10"), 0.45 * glow)
    cracks.over(linear("ffa030") * 1.2, core)
    return Painting(
        layers=(
            Layer(sky.texture(), 0.05, 0.35),
            Layer(cone.texture(), 0.13, 0.5),
            Layer(lava.texture(), 0.13, 0.5, pulse=0.25),
            "fountain",
            Layer(rock.texture(), plane=True),
            Layer(cracks.texture(), plane=True, pulse=0.35),
            haze(density, "ff7a30", 0.35, 0.05),
            Layer(crags.texture(), 0.6, 0.95),
        ),
        sheets=(
            Sheet(sheet(density, "spark", 11, 0.014, 11, ("ffa040", "ff6a20"), 0.6), 0.5, (0.06, -0.26), 0.05),
            Sheet(sheet(density, "spark", 6, 0.020, 12, ("ffc060", "ff7a28"), 0.7), 0.9, (0.10, -0.4), 0.07),
        ),
        light=(1.10, 0.88, 0.80),
        shadow=(0.18, 0.15, 0.18),
        shadow_x=-0.08,
    )


def _cracks(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Glowing cracks between cooled plates: borders of a Voronoi pattern on the ground. Returns glow and core, [h, w]."""
    depth = ground_depth(canvas)
    u, v = canvas.x * depth * 0.95, depth * 1.5
    u = u + 0.25 * noise(u * 2, v * 2, 4)
    v = v + 0.25 * noise(u * 2, v * 2, 5)
    first, second = np.full_like(u, 9.0), np.full_like(u, 9.0)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            cell_u, cell_v = np.floor(u) + di, np.floor(v) + dj
            jitter = np.sin(cell_u * 127.1 + cell_v * 311.7) * 43758.5
            jitter_u, jitter_v = jitter % 1.0, (jitter * 7.13) % 1.0
            d = np.hypot(cell_u + jitter_u - u, cell_v + jitter_v - v)
            second = np.minimum(second, np.maximum(first, d))
            first = np.minimum(first, d)
    gap = second - first
    near = smooth(HORIZON + 0.06, HORIZON + 0.34, canvas.y) * canvas.below(np.float32(HORIZON))
    blur = 0.02 + 3.2 * depth**2 * canvas.pixel
    return near * np.exp(-gap / 0.08), near * smooth(0.035 + blur, 0.012, gap) * np.minimum(1, 0.08 / blur)
