"""The bottom of the sea: rays, a net of light on the sand, corals, bubbles."""

from __future__ import annotations

import math
import random

import numpy as np

from ..motion import HORIZON
from ..paint import Canvas, linear, smooth
from .parts import Layer, Painting, Sheet, ground, ground_depth, ground_noise, haze, sheet


def paint(density: int) -> Painting:
    rng = random.Random(3)
    sea = Canvas(density)
    sea.sky([(-1.3, "8eeef2"), (-0.85, "3fc3dd"), (-0.3, "1a86bd"), (HORIZON, "0f5a94"), (1.3, "0a3c70")])
    rocks = Canvas(density)
    for x, s in ((-1.9, 0.5), (-1.25, 0.34), (-0.55, 0.16), (0.75, 0.26), (1.35, 0.44), (2.1, 0.5)):
        balls = [
            (x + s * rng.uniform(-0.8, 0.8), HORIZON + 0.05 - s * rng.uniform(0, 0.55), s * rng.uniform(0.25, 0.5))
            for _ in range(9)
        ]
        cover, shade = rocks.blobs(balls, (-0.2, -0.9, 0.3), rough=0.02, seed=4)
        rocks.over(linear("1a5f92") * shade[..., None], cover * smooth(HORIZON + 0.03, HORIZON, rocks.y))
    reef = Canvas(density)
    for x, foot, s, colour, kind in (
        (-1.55, 0.34, 0.42, "e0569a", "fan"),
        (-0.97, 0.30, 0.36, "f08a3c", "branch"),
        (-0.74, 0.25, 0.20, "a64fc8", "ball"),
        (0.70, 0.25, 0.22, "f0b040", "ball"),
        (0.92, 0.31, 0.40, "e8487a", "branch"),
        (1.45, 0.34, 0.42, "8a58d8", "fan"),
        (1.95, 0.3, 0.4, "f08a3c", "branch"),
    ):
        _coral(reef, rng, x, foot, s, colour, kind)
    reef.rgb = reef.rgb * 0.85 + linear("1a86bd") * 0.13 * reef.alpha[..., None]
    sand = ground(density, "b9a878", "d8c894", "4f93a6", 0.07, 3)
    wind = np.sin(ground_depth(sand) * 24 + 2.6 * ground_noise(sand, 1.1, 2))
    sand.shade(1 + 0.08 * wind / (1 + (ground_depth(sand) ** 2 * 52 * sand.pixel / 1.5) ** 2))
    return Painting(
        layers=(
            Layer(sea.texture(), 0.02, 0.4),
            Layer(rocks.texture(), 0.16, 0.6),
            Layer(sand.texture(), plane=True),
            "caustics",
            haze(density, "1c78ac", 0.75, 0.10),
            Layer(reef.texture(), 0.55, 0.95),
            "rays",
        ),
        sheets=(
            Sheet(sheet(density, "bubble", 8, 0.030, 3), 0.5, (0.02, -0.32), 0.03),
            Sheet(sheet(density, "bubble", 5, 0.048, 5), 0.9, (-0.02, -0.5), 0.05),
        ),
        light=(0.84, 1.02, 1.08),
        shadow=(0.30, 0.42, 0.50),
        shadow_x=0.0,
    )


def _coral(canvas: Canvas, rng: random.Random, x: float, foot: float, s: float, colour: str, kind: str) -> None:
    balls = []
    if kind == "ball":
        balls = [
            (x + s * rng.uniform(-0.6, 0.6), foot - s * rng.uniform(0.1, 0.45), s * rng.uniform(0.2, 0.34))
            for _ in range(8)
        ]
    else:
        for k in range(7 if kind == "branch" else 11):
            angle = math.pi * (0.16 + 0.68 * k / (6 if kind == "branch" else 10))
            length = s * rng.uniform(0.75, 1.05)
            thick = s * (0.075 if kind == "branch" else 0.05)
            for j in np.linspace(0.1, 1, 16):
                bend = 0.12 * s * math.sin(j * 3 + k)
                balls.append(
                    (
                        x + math.cos(angle) * length * j + bend * j,
                        foot - math.sin(angle) * length * j,
                        thick * (1.25 - 0.5 * j),
                    )
                )
    cover, shade = canvas.blobs(balls, (-0.3, -0.85, 0.45), rough=0.006, seed=2)
    tip = 0.75 + 0.4 * smooth(foot, foot - s, canvas.y)
    canvas.over(linear(colour) * (shade * tip)[..., None], cover)
