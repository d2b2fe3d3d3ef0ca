"""What scenes are made of: layers, sheets of small things in the air, a ground in true perspective, stars, haze."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import cv2
import numpy as np

from ..motion import GROUND, HORIZON
from ..paint import Canvas, linear, noise, smooth


@dataclass(frozen=True)
class Layer:
    """One wide picture of the scene.

    texture: [h, w, 4] premultiplied linear. parallax, zoom_share: the share of the camera's pan and zoom it follows.
    plane: it lies on the ground, and parallax grows from 0 at the horizon to 1 at the subject's feet.
    drift: screen units a second to the left. pulse: depth of a slow breathing of its light.
    """

    texture: np.ndarray
    parallax: float = 1.0
    zoom_share: float = 1.0
    plane: bool = False
    drift: float = 0.0
    pulse: float = 0.0


@dataclass(frozen=True)
class Sheet:
    """Small things in the air before the subject: a tile of 2 x 2 screen units that repeats.

    velocity: units a second (right, down). sway: how far it swings sideways, units."""

    texture: np.ndarray
    parallax: float
    velocity: tuple[float, float]
    sway: float = 0.0


@dataclass(frozen=True)
class Painting:
    """A scene at rest.

    layers: far to near; a string stands for a moving effect of scenery.py drawn at that depth.
    light: colour of the light on the sprites, linear RGB. shadow: colour of shaded ground over lit ground.
    shadow_x: how far the soft shadow falls to the right, cells of the sprite. gloss: strength of the mirror image in the ground.
    """

    layers: tuple[Layer | str, ...]
    sheets: tuple[Sheet, ...] = ()
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shadow: tuple[float, float, float] = (0.25, 0.25, 0.32)
    shadow_x: float = 0.0
    gloss: float = 0.0


def ground_depth(canvas: Canvas) -> np.ndarray:
    """Distance along the ground at each pixel; 1 at a subject's feet, larger towards the horizon."""
    return (GROUND - HORIZON) / np.maximum(canvas.y - HORIZON, 2e-3)


def ground_noise(canvas: Canvas, cells: float, seed: int, squash: float = 1.0) -> np.ndarray:
    """Noise lying on the ground, `cells` per unit at a subject's feet, fading before it would alias."""
    depth = ground_depth(canvas)
    footprint = cells * squash * depth**2 / (GROUND - HORIZON) * canvas.pixel
    return noise(canvas.x * depth * cells, depth * cells * squash, seed) / (1 + (1.6 * footprint) ** 2)


def ground(density: int, near: str, middle: str, far: str, grain: float = 0.12, seed: int = 0) -> Canvas:
    """A textured plane from the horizon to the viewer."""
    canvas = Canvas(density)
    canvas.over(linear(middle), canvas.below(np.float32(HORIZON)))
    reach = smooth(HORIZON, HORIZON + 0.35, canvas.y)[..., None]
    close = smooth(HORIZON + 0.35, 1.1, canvas.y)[..., None]
    colour = linear(far) * (1 - reach) + linear(middle) * reach
    colour = colour * (1 - close) + linear(near) * close
    texture = 0.5 * ground_noise(canvas, 1.3, seed) + 0.6 * ground_noise(canvas, 5, seed + 1)
    texture = texture + 0.5 * ground_noise(canvas, 16, seed + 2)
    canvas.over(colour * np.exp(grain * texture)[..., None], canvas.below(np.float32(HORIZON)))
    return canvas


def haze(density: int, colour: str, strength: float, thick: float = 0.07) -> Layer:
    """Air between the far and the near, thickest at the horizon."""
    canvas = Canvas(density)
    canvas.over(linear(colour), strength * np.exp(-(((canvas.y - HORIZON) / thick) ** 2)))
    return Layer(canvas.texture(), 0.0)


def stars(canvas: Canvas, rng: random.Random, count: int, bottom: float, strength: float = 1.0) -> None:
    height, width = canvas.alpha.shape
    light = np.zeros((height, width, 3), np.float32)
    for _ in range(count):
        x, y = rng.randrange(3, width - 3), rng.randrange(3, height - 3)
        fade = smooth(bottom, bottom - 0.5, canvas.y[y, 0])
        magnitude = rng.random() ** 4
        tint = linear(rng.choice(("fff1d6", "dfe9ff", "ffffff", "ffdcd0")))
        light[y, x] += tint * (0.25 + 2.2 * magnitude) * fade * strength
        if magnitude > 0.55:  # a small cross of light
            for r in range(1, 4):
                for dy, dx in ((r, 0), (-r, 0), (0, r), (0, -r)):
                    light[y + dy if 0 <= y + dy < height else y, (x + dx) % width] += (
                        tint * 0.5 * fade * strength / r**1.5
                    )
    soft = cv2.GaussianBlur(light, (0, 0), 0.75) * 2.2 + cv2.GaussianBlur(light, (0, 0), 2.5) * 1.6
    canvas.rgb = canvas.rgb + soft * canvas.alpha[..., None]


def sheet(
    density: int, kind: str, count: int, radius: float, seed: int, colours=("ffffff",), opacity: float = 0.9
) -> np.ndarray:
    """A repeating tile of 2 x 2 units with `count` flakes, bubbles, leaves or sparks; [2 density, 2 density, 4]."""
    side = 2 * density
    axis = (np.arange(side, dtype=np.float32) + 0.5) / density - 1
    x, y = np.meshgrid(axis, axis)
    rgb, alpha = np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.float32)
    rng = random.Random(seed)
    for i in range(count):
        cx, cy, r, turn = (
            rng.uniform(-1, 1),
            rng.uniform(-1, 1),
            radius * rng.uniform(0.6, 1.3),
            rng.uniform(0, math.tau),
        )
        r = max(r, 0.9 / density)
        dx, dy = (x - cx + 1) % 2 - 1, (y - cy + 1) % 2 - 1
        colour = linear(colours[i % len(colours)])
        d = np.hypot(dx, dy) / r
        if kind == "leaf":
            u, v = dx * math.cos(turn) + dy * math.sin(turn), -dx * math.sin(turn) + dy * math.cos(turn)
            shape = (np.abs(v) / (r * 0.48)) ** 1.5 + (u / r) ** 2
            a, light = smooth(1.15, 0.8, shape), 0.75 + 0.4 * smooth(-r * 0.4, r * 0.4, v)
        elif kind == "bubble":
            a = smooth(1.1, 0.95, d) * (0.10 + 0.75 * smooth(0.55, 0.98, d)) + smooth(
                0.3, 0.12, np.hypot(dx / r + 0.4, dy / r + 0.4)
            )
            light = 1.0
        elif kind == "spark":
            a, light = np.exp(-(d**2) * 1.5) + 0.3 * np.exp(-d * 1.1), 2.2
        else:
            a, light = smooth(1.25, 0.25, d), 1.0
        a = np.clip(a * opacity, 0, 1)
        paint = colour * np.broadcast_to(np.asarray(light, np.float32), a.shape)[..., None]
        rgb, alpha = rgb * (1 - a[..., None]) + paint * a[..., None], alpha * (1 - a) + a
    return np.concatenate([rgb, alpha[..., None]], -1)
