"""The desert at noon: pyramids behind dunes, ripples on the sand, blowing dust."""

from __future__ import annotations

import numpy as np

from ..motion import GROUND, HORIZON
from ..paint import Canvas, fractal, linear, noise, smooth
from .parts import Layer, Painting, Sheet, ground, ground_depth, ground_noise, haze, sheet


def paint(density: int) -> Painting:
    sky = Canvas(density)
    sky.sky([(-1.3, "1a63c8"), (-0.6, "4b9fe8"), (-0.15, "a6d8f6"), (HORIZON, "fff0d0")])
    sky.add(linear("fff6d8"), 0.75 * sky.glow(0.52, -0.70, 0.18))
    sky.over(linear("fffdf2") * 1.3, sky.disc(0.52, -0.70, 0.095))
    wisps = smooth(0.3, 1.9, fractal(sky.x * 1.3, sky.y * 6 + sky.x, 5, 5)) * smooth(0.0, -0.35, sky.y)
    sky.over(linear("ffffff"), 0.4 * wisps)
    far = Canvas(density)
    for x, top, half in ((-0.62, -0.27, 0.44), (-1.12, -0.09, 0.28), (1.55, -0.2, 0.38), (0.98, -0.04, 0.2)):
        brick = 1 + 0.05 * np.sin(far.y * 190) * smooth(0.0, 0.05, far.y - top)
        lit = far.polygon([(x, top), (x + half * 0.36, HORIZON + 0.02), (x + half, HORIZON + 0.02)])
        far.over(
            linear("a8713d") * brick[..., None],
            far.polygon([(x, top), (x - half, HORIZON + 0.02), (x + half * 0.4, HORIZON + 0.02)]),
        )
        far.over(linear("efc181") * brick[..., None], lit)
    dunes = Canvas(density)
    for i, (base, height, waves) in enumerate(((0.05, 0.07, 1.2), (0.10, 0.05, 1.9))):
        x = dunes.x[0]
        crest = base - height * (
            np.abs(np.sin(x * waves + i * 1.3 + 0.35 * np.sin(x * 2))) + 0.18 * noise(x * 2, x * 0 + i, i)
        )
        face = smooth(-0.02, 0.02, np.gradient(crest, dunes.pixel))[None]
        colour = (
            linear(("e5ae6a", "eab56c")[i])
            * (1 - 0.36 * (1 - face) * smooth(0.16, 0.0, dunes.y - crest[None]))[..., None]
        )
        dunes.over(colour, dunes.below(crest[None]))
    sand = ground(density, "d8934c", "eebb76", "f3cd93", 0.06, 8)
    wind = np.sin(ground_depth(sand) * 26 + sand.x * ground_depth(sand) * 2.2 + 2.2 * ground_noise(sand, 0.9, 2))
    footprint = 26 * ground_depth(sand) ** 2 / (GROUND - HORIZON) * sand.pixel
    sand.shade(1 + 0.15 * wind / (1 + (footprint / 1.5) ** 2))
    return Painting(
        layers=(
            Layer(sky.texture(), 0.04, 0.35),
            Layer(far.texture(), 0.13, 0.55),
            Layer(dunes.texture(), 0.28, 0.8),
            Layer(sand.texture(), plane=True),
            haze(density, "fff0d0", 0.35, 0.05),
        ),
        sheets=(Sheet(sheet(density, "flake", 26, 0.006, 3, ("fff0cc", "f0c080"), 0.75), 0.9, (0.55, 0.03), 0.03),),
        light=(1.08, 1.0, 0.90),
        shadow=(0.38, 0.28, 0.26),
        shadow_x=-0.10,
    )
