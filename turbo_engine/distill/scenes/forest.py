"""A forest in autumn: three depths of trees, leaves on the ground and in the air, shafts of light."""

from __future__ import annotations

import math
import random

from ..motion import GROUND, HORIZON
from ..paint import WIDE, Canvas, linear, noise, smooth
from .parts import Layer, Painting, Sheet, ground, haze, sheet


def paint(density: int) -> Painting:
    rng = random.Random(21)
    sky = Canvas(density)
    sky.sky([(-1.3, "f2b45c"), (-0.5, "fbd890"), (HORIZON, "fff4d4")])
    sky.add(linear("fff0b8"), 0.7 * sky.glow(-0.25, -0.35, 0.4))
    far, middle, near = Canvas(density), Canvas(density), Canvas(density)
    for i in range(34):
        _broadleaf(
            far,
            rng,
            -WIDE + 2 * WIDE * (i + rng.random()) / 34,
            HORIZON + 0.01,
            rng.uniform(0.34, 0.52),
            ("f2b860", "eda45a", "f5cc80"),
            "d8a878",
        )
    for i in range(17):
        _broadleaf(
            middle,
            rng,
            -WIDE + 2 * WIDE * (i + 0.5 * rng.random()) / 17,
            HORIZON + 0.05,
            rng.uniform(0.62, 0.85),
            ("e8842c", "d9601f", "f0a638", "c84a20"),
            "8a5236",
        )
    for x in (-1.72, -1.02, 1.04, 1.78):
        _broadleaf(near, rng, x, 0.30, 1.45, ("d8541c", "e8842c", "b83a18", "f09a30"), "5a3424")
    soil = ground(density, "8a4a20", "b8692c", "d89448", 0.12, 9)
    leaves = random.Random(4)
    for _ in range(360):
        depth = leaves.uniform(0.36, 1.0) ** -1.9
        y, x = HORIZON + (GROUND - HORIZON) / depth, leaves.uniform(-WIDE, WIDE)
        r = 0.042 / depth * leaves.uniform(0.7, 1.3)
        if y < 1.35 and r > 0.012:
            turn = leaves.uniform(0, math.pi)
            tips = [
                (x + r * math.cos(turn + a) * w, y + 0.42 * r * math.sin(turn + a) * w)
                for a, w in ((0, 1), (0.9, 0.5), (2.2, 0.5), (math.pi, 1), (4.1, 0.5), (5.4, 0.5))
            ]
            soil.over(linear(leaves.choice(("e8862a", "c8481c", "f2b43c", "9c3c18"))), soil.polygon(tips) * 0.9)
    return Painting(
        layers=(
            Layer(sky.texture(), 0.03, 0.35),
            Layer(far.texture(), 0.15, 0.6),
            haze(density, "fff0c8", 0.5, 0.22),
            Layer(middle.texture(), 0.32, 0.8),
            Layer(soil.texture(), plane=True),
            haze(density, "ffe6b0", 0.35, 0.05),
            Layer(near.texture(), 0.62, 0.95),
            "shafts",
        ),
        sheets=(
            Sheet(sheet(density, "leaf", 7, 0.032, 5, ("e8862a", "d0441c", "f2b43c")), 0.5, (0.09, 0.24), 0.05),
            Sheet(sheet(density, "leaf", 4, 0.048, 6, ("d0441c", "f09a30")), 0.9, (0.16, 0.38), 0.07),
        ),
        light=(1.08, 0.97, 0.84),
        shadow=(0.36, 0.28, 0.26),
        shadow_x=0.08,
    )


def _broadleaf(canvas: Canvas, rng: random.Random, x: float, foot: float, tall: float, leaves, bark: str) -> None:
    """A trunk and a heap of leaf balls in several colours."""
    half = tall * 0.042
    side = smooth(x + half, x - half, canvas.x)
    trunk = canvas.polygon(
        [
            (x - half * 1.7, foot),
            (x - half, foot - tall * 0.12),
            (x - half * 0.8, foot - tall * 0.8),
            (x + half * 0.8, foot - tall * 0.8),
            (x + half, foot - tall * 0.12),
            (x + half * 1.7, foot),
        ]
    )
    canvas.over(linear(bark) * (0.55 + 0.6 * side + 0.10 * noise(canvas.x * 60, canvas.y * 9, 3))[..., None], trunk)
    for k in range(5):
        colour = leaves[(k + rng.randrange(2)) % len(leaves)]
        balls = []
        for _ in range(5):
            a, r = rng.uniform(0, math.tau), rng.uniform(0, 1) ** 0.5
            balls.append(
                (
                    x + 0.30 * tall * r * math.cos(a),
                    foot - tall * (0.80 - 0.05 * k) + 0.19 * tall * r * math.sin(a),
                    tall * rng.uniform(0.07, 0.13),
                )
            )
        cover, shade = canvas.blobs(balls, rough=0.011, seed=k)
        canvas.over(linear(colour) * shade[..., None], cover)
