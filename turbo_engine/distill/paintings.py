"""The ten scenes, painted: one function per scene of world.toml, from far to near.

A painting is a few wide layers with a parallax each, a ground in true perspective, and sheets of small things in the air.
Palette, horizon and light are fixed per scene. Only stills are made here; what moves over them is in scenery.py.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import cv2
import numpy as np

from .motion import GROUND, HORIZON
from .paint import WIDE, Canvas, fractal, linear, noise, smooth


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


def paint_scene(name: str, density: int) -> Painting:
    """Paint a scene of world.toml at density pixels per screen unit. Raises: KeyError for a scene without a painting."""
    return _PAINTERS[name](density)


# -- shared strokes ------------------------------------------------------------------------------------------------------

def _depth(canvas: Canvas) -> np.ndarray:
    """Distance along the ground at each pixel; 1 at a subject's feet, larger towards the horizon."""
    return (GROUND - HORIZON) / np.maximum(canvas.y - HORIZON, 2e-3)


def _ground_noise(canvas: Canvas, cells: float, seed: int, squash: float = 1.0) -> np.ndarray:
    """Noise lying on the ground, `cells` per unit at a subject's feet, fading before it would alias."""
    depth = _depth(canvas)
    footprint = cells * squash * depth**2 / (GROUND - HORIZON) * canvas.pixel
    return noise(canvas.x * depth * cells, depth * cells * squash, seed) / (1 + (1.6 * footprint) ** 2)


def _ground(density: int, near: str, middle: str, far: str, grain: float = 0.12, seed: int = 0) -> Canvas:
    """A textured plane from the horizon to the viewer."""
    canvas = Canvas(density)
    canvas.over(linear(middle), canvas.below(np.float32(HORIZON)))
    reach = smooth(HORIZON, HORIZON + 0.35, canvas.y)[..., None]
    close = smooth(HORIZON + 0.35, 1.1, canvas.y)[..., None]
    colour = linear(far) * (1 - reach) + linear(middle) * reach
    colour = colour * (1 - close) + linear(near) * close
    texture = 0.5 * _ground_noise(canvas, 1.3, seed) + 0.6 * _ground_noise(canvas, 5, seed + 1)
    texture = texture + 0.5 * _ground_noise(canvas, 16, seed + 2)
    canvas.over(colour * np.exp(grain * texture)[..., None], canvas.below(np.float32(HORIZON)))
    return canvas


def _cumulus(canvas: Canvas, rng: random.Random, places, top: str, base: str, light=(-0.4, -0.8, 0.4)):
    """Heaped clouds at (x, y, half width) each, lit from above, flat underneath, soft at the edge."""
    for cx, cy, s in places:
        balls = [(cx + s * rng.uniform(-1, 1), cy - s * 0.06, s * rng.uniform(0.10, 0.26)) for _ in range(10)]
        balls += [(cx + s * rng.uniform(-0.6, 0.6), cy - s * rng.uniform(0.10, 0.40), s * rng.uniform(0.14, 0.38)) for _ in range(9)]
        cover, shade = canvas.blobs(balls, light, rough=0.012, seed=rng.randrange(9))
        cover = cover * smooth(cy + 0.12 * s, cy - 0.06 * s, canvas.y)
        cover = cv2.GaussianBlur(cover, (0, 0), 0.9)
        lift = smooth(cy + 0.1 * s, cy - 0.5 * s, canvas.y)[..., None]
        colour = linear(base) * (1 - lift) + linear(top) * lift
        canvas.over(colour * np.clip(shade, 0.75, 1.1)[..., None], cover * 0.96)


def _stars(canvas: Canvas, rng: random.Random, count: int, bottom: float, strength: float = 1.0) -> None:
    height, width = canvas.alpha.shape
    light = np.zeros((height, width, 3), np.float32)
    for _ in range(count):
        x, y = rng.randrange(3, width - 3), rng.randrange(3, height - 3)
        fade = smooth(bottom, bottom - 0.5, canvas.y[y, 0])
        magnitude = rng.random() ** 4
        tint = linear(rng.choice(("fff1d6", "dfe9ff", "ffffff", "ffdcd0")))
        light[y, x] += tint * (0.25 + 2.2 * magnitude) * fade * strength
        if magnitude > 0.55:                                  # a small cross of light
            for r in range(1, 4):
                for dy, dx in ((r, 0), (-r, 0), (0, r), (0, -r)):
                    light[y + dy if 0 <= y + dy < height else y, (x + dx) % width] += tint * 0.5 * fade * strength / r**1.5
    soft = cv2.GaussianBlur(light, (0, 0), 0.75) * 2.2 + cv2.GaussianBlur(light, (0, 0), 2.5) * 1.6
    canvas.rgb = canvas.rgb + soft * canvas.alpha[..., None]


def _hills(density: int, base: float, height: float, low: str, high: str, seed: int, bumps: float = 1.6, tufts: int = 0) -> Canvas:
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
        cover, shade = canvas.blobs([(x, y - s, s), (x - s * 0.7, y - s * 0.5, s * 0.7), (x + s * 0.7, y - s * 0.5, s * 0.7)])
        canvas.over(linear(low) * (0.75 * shade)[..., None], cover)
    return canvas


def _conifer(canvas: Canvas, x: float, foot: float, tall: float, leaf: str, snow: str | None) -> None:
    """Stacked cones; snow lies on the upper side of each."""
    half = tall * 0.30
    canvas.over(linear("3a2a26"), canvas.polygon([(x - tall * 0.03, foot), (x + tall * 0.03, foot), (x + tall * 0.02, foot - tall * 0.3), (x - tall * 0.02, foot - tall * 0.3)]))
    for k in range(4):
        low, top, w = foot - tall * (0.12 + 0.19 * k), foot - tall * (0.50 + 0.17 * k), half * (1 - 0.21 * k)
        cone = canvas.polygon([(x - w, low), (x - w * 0.5, low + tall * 0.025), (x, low + tall * 0.035), (x + w * 0.5, low + tall * 0.025), (x + w, low), (x, top)])
        side = smooth(x + w * 0.7, x - w * 0.7, canvas.x)
        canvas.over(linear(leaf) * (0.45 + 0.75 * side)[..., None], cone)
        if snow:
            cap = canvas.polygon([(x - w, low), (x - w * 0.62, low - tall * 0.045), (x - w * 0.2, low - tall * 0.02), (x + w * 0.15, low - tall * 0.075), (x + w * 0.45, low - tall * 0.06), (x + w * 0.55, low - tall * 0.09), (x, top)])
            canvas.over(linear(snow) * (0.55 + 0.5 * side)[..., None], cap * 0.92)


def _sheet(density: int, kind: str, count: int, radius: float, seed: int, colours=("ffffff",), opacity: float = 0.9) -> np.ndarray:
    """A repeating tile of 2 x 2 units with `count` flakes, bubbles, leaves or sparks; [2 density, 2 density, 4]."""
    side = 2 * density
    axis = (np.arange(side, dtype=np.float32) + 0.5) / density - 1
    x, y = np.meshgrid(axis, axis)
    rgb, alpha = np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.float32)
    rng = random.Random(seed)
    for i in range(count):
        cx, cy, r, turn = rng.uniform(-1, 1), rng.uniform(-1, 1), radius * rng.uniform(0.6, 1.3), rng.uniform(0, math.tau)
        r = max(r, 0.9 / density)
        dx, dy = (x - cx + 1) % 2 - 1, (y - cy + 1) % 2 - 1
        colour = linear(colours[i % len(colours)])
        d = np.hypot(dx, dy) / r
        if kind == "leaf":
            u, v = dx * math.cos(turn) + dy * math.sin(turn), -dx * math.sin(turn) + dy * math.cos(turn)
            shape = (np.abs(v) / (r * 0.48)) ** 1.5 + (u / r) ** 2
            a, light = smooth(1.15, 0.8, shape), 0.75 + 0.4 * smooth(-r * 0.4, r * 0.4, v)
        elif kind == "bubble":
            a = smooth(1.1, 0.95, d) * (0.10 + 0.75 * smooth(0.55, 0.98, d)) + smooth(0.3, 0.12, np.hypot(dx / r + 0.4, dy / r + 0.4))
            light = 1.0
        elif kind == "spark":
            a, light = np.exp(-(d**2) * 1.5) + 0.3 * np.exp(-d * 1.1), 2.2
        else:
            a, light = smooth(1.25, 0.25, d), 1.0
        a = np.clip(a * opacity, 0, 1)
        paint = colour * np.broadcast_to(np.asarray(light, np.float32), a.shape)[..., None]
        rgb, alpha = rgb * (1 - a[..., None]) + paint * a[..., None], alpha * (1 - a) + a
    return np.concatenate([rgb, alpha[..., None]], -1)


# -- the scenes ------------------------------------------------------------------------------------------------------------

def _haze(density: int, colour: str, strength: float, thick: float = 0.07) -> Layer:
    """Air between the far and the near, thickest at the horizon."""
    canvas = Canvas(density)
    canvas.over(linear(colour), strength * np.exp(-(((canvas.y - HORIZON) / thick) ** 2)))
    return Layer(canvas.texture(), 0.0)


def _beach(density: int) -> Painting:
    sky = Canvas(density)
    sky.sky([(-1.3, "2b3a7e"), (-0.75, "5a4c98"), (-0.35, "b3609f"), (-0.12, "ee7f86"), (0.02, "ffa873"), (HORIZON, "ffd398")])
    sun_x, sun_y = 0.34, 0.0
    sky.add(linear("ffb070"), 0.7 * sky.glow(sun_x, sun_y, 0.30))
    for i in range(15):                                      # long evening clouds, lit from below
        y = -0.80 + 0.056 * i
        streak = smooth(0.4, 1.5, fractal(sky.x * 1.1 + 3 * i, sky.y * 12 + i, i, 4)) * np.exp(-(((sky.y - y) / 0.055) ** 2))
        warm = linear("e8809a") * (1 - i / 15) + linear("ffd79a") * (i / 15)
        sky.over(warm, streak * 0.7)
    sky.over(linear("fff3c4") * 1.35, sky.disc(sun_x, sun_y, 0.125))
    islands = Canvas(density)
    cover, lit, _ = islands.ridge([(-1.3, -0.02, 0.5), (-0.92, 0.02, 0.4), (1.5, 0.0, 0.5)], 0.01, 3)
    islands.over(linear("8c5580") * (0.75 + 0.35 * lit)[..., None], cover)
    sand = _ground(density, "c98d55", "e9bd85", "f0cb98", 0.07, 2)
    ripples = np.sin(_depth(sand) * 34 + 2.5 * _ground_noise(sand, 1.5, 5))
    sand.shade(1 + 0.045 * ripples * smooth(0.32, 0.6, sand.y))
    scatter = random.Random(8)
    for _ in range(90):                                      # shells and pebbles
        depth = scatter.uniform(0.36, 0.85) ** -1.2
        x, y, r = scatter.uniform(-WIDE, WIDE), HORIZON + (GROUND - HORIZON) / depth, scatter.uniform(0.006, 0.013) / depth
        if y < 1.35:
            sand.over(linear("7a4c30"), 0.5 * sand.disc(x - 0.4 * r, y + 0.5 * r, r))
            cover, shade = sand.blobs([(x, y, r)], (0.4, -0.7, 0.4))
            sand.over(linear(scatter.choice(("fff0dc", "ffc8b0", "d8a078", "ffe0e8"))) * shade[..., None], cover)
    palm = Canvas(density)
    _palm(palm, -1.06, 0.54, 1.25)
    return Painting(
        layers=(Layer(sky.texture(), 0.06, 0.35), Layer(islands.texture(), 0.10, 0.5), Layer(sand.texture(), plane=True), "sea",
                _haze(density, "ffc08a", 0.35), Layer(palm.texture(), 0.85)),
        sheets=(Sheet(_sheet(density, "spark", 9, 0.007, 4, ("ffd9a0",), 0.4), 0.8, (-0.03, -0.04), 0.02),),
        light=(1.10, 0.90, 0.76), shadow=(0.36, 0.25, 0.32), shadow_x=-0.10,
    )


def _palm(canvas: Canvas, x: float, foot: float, tall: float) -> None:
    """A leaning palm in evening light."""
    lean = lambda k: x + 0.30 * tall * k**1.7
    for k in np.linspace(0, 1, 60):
        half = 0.034 * tall * (1.15 - 0.5 * k)
        band = 0.75 + 0.25 * math.sin(k * 60)
        shade = smooth(lean(k) - half, lean(k) + half, canvas.x)
        canvas.over(linear("8a5338") * (band * (0.55 + 0.6 * shade))[..., None], canvas.disc(lean(k), foot - tall * k, half))
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


def _meadow(density: int) -> Painting:
    rng = random.Random(5)
    sky = Canvas(density)
    sky.sky([(-1.3, "1f6fd8"), (-0.6, "4aa2f2"), (-0.1, "9ad4fb"), (HORIZON, "e4f6ff")])
    sky.add(linear("fff2c0"), 0.55 * sky.glow(-0.55, -0.66, 0.16))
    sky.over(linear("fffbe2") * 1.25, sky.disc(-0.55, -0.66, 0.10))
    clouds = Canvas(density)
    low = ((-2.1, -0.20, 0.24), (-1.25, -0.12, 0.22), (-0.42, -0.17, 0.20), (0.20, -0.10, 0.14), (0.80, -0.19, 0.24), (1.50, -0.12, 0.2))
    high = ((-1.75, -0.52, 0.44), (0.28, -0.54, 0.42), (1.18, -0.44, 0.30), (2.05, -0.62, 0.44))
    _cumulus(clouds, rng, low, "ffffff", "c3daf2")
    _cumulus(clouds, rng, high, "ffffff", "bcd3f0")
    far = _hills(density, 0.04, 0.22, "7fb79a", "9fcdb4", 3, 1.1)
    near = _hills(density, 0.10, 0.12, "4b9c4a", "7cc35c", 8, 1.7, tufts=16)
    grass = _ground(density, "3f9a3a", "62b848", "86cc5e", 0.09, 4)
    blades = 0.5 * _ground_noise(grass, 9, 7, 0.25) + 0.4 * _ground_noise(grass, 22, 8, 0.2)
    grass.shade(1 + 0.13 * blades * smooth(HORIZON, 0.3, grass.y))
    for i in range(260):                                     # flowers, in true perspective
        depth = rng.uniform(0.36, 1.0) ** -1.6
        y = HORIZON + (GROUND - HORIZON) / depth
        x, r = rng.uniform(-WIDE, WIDE), 0.017 / depth
        if y < 1.35:
            colour = linear(rng.choice(("ffffff", "ffe066", "ff8fc0", "ffffff", "ffb347")))
            grass.over(colour, grass.disc(x, y, r) * min(1.0, r / grass.pixel))
            grass.over(linear("f0a020"), grass.disc(x, y, r * 0.42) * min(1.0, r / grass.pixel))
    return Painting(
        layers=(Layer(sky.texture(), 0.04, 0.35), Layer(clouds.texture(), 0.10, 0.5, drift=0.05), Layer(far.texture(), 0.16, 0.65),
                Layer(near.texture(), 0.3, 0.85), Layer(grass.texture(), plane=True), _haze(density, "d4f0c8", 0.16, 0.04)),
        sheets=(Sheet(_sheet(density, "flake", 12, 0.010, 6, ("ffffff", "fff3b0")), 0.9, (0.16, -0.05), 0.05),),
        light=(1.04, 1.02, 0.95), shadow=(0.22, 0.34, 0.26), shadow_x=0.10,
    )


def _snow(density: int) -> Painting:
    rng = random.Random(9)
    sky = Canvas(density)
    sky.sky([(-1.3, "050b2c"), (-0.6, "0e2258"), (-0.1, "27508f"), (HORIZON, "5f8fc4")])
    _stars(sky, rng, 420, 0.05)
    sky.add(linear("cfe0ff"), 0.40 * sky.glow(-0.58, -0.64, 0.15))
    moon = sky.disc(-0.58, -0.64, 0.115)
    sky.over(linear("f6f3e4") * (1 - 0.08 * np.clip(fractal(sky.x * 8, sky.y * 8, 2, 3), -1, 1.5))[..., None], moon)
    peaks = Canvas(density)
    cover, lit, below = peaks.ridge([(-1.7, -0.36, 0.8), (-0.85, -0.26, 0.7), (-0.1, -0.16, 0.6), (0.75, -0.40, 0.85), (1.7, -0.25, 0.7)], 0.022, 4)
    rock = linear("2b4472") * (0.65 + 0.75 * lit)[..., None]
    cap = linear("b9cff2") * (0.45 + 0.75 * lit)[..., None]
    line = smooth(0.02, -0.02, below - 0.17 - 0.05 * fractal(peaks.x * 6, peaks.y * 6, 3, 3))[..., None]
    fog = (0.85 * smooth(-0.15, HORIZON, peaks.y))[..., None]
    peaks.over((rock * (1 - line) + cap * line) * (1 - fog) + linear("6f9bcc") * fog, cover)
    woods = Canvas(density)
    for i in range(58):
        x = -WIDE + 2 * WIDE * (i + rng.random()) / 58
        _conifer(woods, x, HORIZON + rng.uniform(0.0, 0.03), rng.uniform(0.13, 0.24), "1f4464", "8fb0de")
    near = Canvas(density)
    for x, foot, tall in ((-1.75, 0.26, 0.62), (-1.13, 0.22, 0.50), (-0.86, 0.17, 0.32), (0.80, 0.18, 0.36), (1.10, 0.24, 0.58), (1.62, 0.2, 0.44)):
        _conifer(near, x, foot, tall, "1c4a5a", "dbe8ff")
    snow = _ground(density, "b9cdf2", "dbe7fd", "a9c2ec", 0.045, 6)
    drifts = smooth(0.1, 1.3, _ground_noise(snow, 1.6, 3, 1.6))
    snow.shade(1 - 0.12 * drifts)
    snow.add(linear("ffffff"), 0.22 * smooth(1.7, 2.4, _ground_noise(snow, 26, 4)) * snow.alpha)
    return Painting(
        layers=(Layer(sky.texture(), 0.04, 0.3, pulse=0.05), "aurora", Layer(peaks.texture(), 0.12, 0.5), Layer(woods.texture(), 0.24, 0.75),
                Layer(snow.texture(), plane=True), _haze(density, "8db4e0", 0.35, 0.05), Layer(near.texture(), 0.42, 0.95)),
        sheets=(Sheet(_sheet(density, "flake", 46, 0.010, 1), 0.5, (0.03, 0.24), 0.03),
                Sheet(_sheet(density, "flake", 22, 0.019, 2), 0.9, (-0.05, 0.40), 0.04)),
        light=(0.86, 0.94, 1.10), shadow=(0.30, 0.36, 0.50), shadow_x=0.08,
    )


def _desert(density: int) -> Painting:
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
        far.over(linear("a8713d") * brick[..., None], far.polygon([(x, top), (x - half, HORIZON + 0.02), (x + half * 0.4, HORIZON + 0.02)]))
        far.over(linear("efc181") * brick[..., None], lit)
    dunes = Canvas(density)
    for i, (base, height, waves) in enumerate(((0.05, 0.07, 1.2), (0.10, 0.05, 1.9))):
        x = dunes.x[0]
        crest = base - height * (np.abs(np.sin(x * waves + i * 1.3 + 0.35 * np.sin(x * 2))) + 0.18 * noise(x * 2, x * 0 + i, i))
        face = smooth(-0.02, 0.02, np.gradient(crest, dunes.pixel))[None]
        colour = linear(("e5ae6a", "eab56c")[i]) * (1 - 0.36 * (1 - face) * smooth(0.16, 0.0, dunes.y - crest[None]))[..., None]
        dunes.over(colour, dunes.below(crest[None]))
    sand = _ground(density, "d8934c", "eebb76", "f3cd93", 0.06, 8)
    wind = np.sin(_depth(sand) * 26 + sand.x * _depth(sand) * 2.2 + 2.2 * _ground_noise(sand, 0.9, 2))
    footprint = 26 * _depth(sand) ** 2 / (GROUND - HORIZON) * sand.pixel
    sand.shade(1 + 0.15 * wind / (1 + (footprint / 1.5) ** 2))
    return Painting(
        layers=(Layer(sky.texture(), 0.04, 0.35), Layer(far.texture(), 0.13, 0.55), Layer(dunes.texture(), 0.28, 0.8),
                Layer(sand.texture(), plane=True), _haze(density, "fff0d0", 0.35, 0.05)),
        sheets=(Sheet(_sheet(density, "flake", 26, 0.006, 3, ("fff0cc", "f0c080"), 0.75), 0.9, (0.55, 0.03), 0.03),),
        light=(1.08, 1.0, 0.90), shadow=(0.38, 0.28, 0.26), shadow_x=-0.10,
    )


def _space(density: int) -> Painting:
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
    _stars(sky, rng, 900, 9.0, 1.1)
    giant = Canvas(density)
    _ringed_planet(giant, 0.60, -0.52, 0.27)
    small = Canvas(density)
    cover, shade = small.blobs([(-0.74, -0.66, 0.105)], (0.7, -0.4, 0.35))
    craters = 1 - 0.25 * smooth(0.3, 1.2, fractal(small.x * 12, small.y * 12, 5, 3))
    small.over(linear("9fb4d8") * (craters * (shade - 0.25) * 1.3)[..., None], cover)
    limb = Canvas(density)
    _blue_limb(limb)
    return Painting(
        layers=(Layer(sky.texture(), 0.25, 0.4, pulse=0.08), Layer(small.texture(), 0.40, 0.6), Layer(giant.texture(), 0.50, 0.7),
                Layer(limb.texture(), 0.65, 0.8)),
        sheets=(Sheet(_sheet(density, "spark", 16, 0.008, 8, ("ffffff", "bfe0ff")), 1.0, (-0.10, 0.02)),),
        light=(1.0, 0.97, 1.06), shadow=(0.5, 0.5, 0.5),
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
    cover = cover * (0.72 + 0.28 * np.sin(ring * 42)) * (1 - 0.8 * smooth(0.02, 0.0, np.abs(ring - 1.8) - 0.03))
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
    canvas.add(linear("6fc0ff"), 0.75 * np.exp(-np.abs(d - 1) * radius / 0.035) + 0.2 * np.exp(-np.abs(d - 1) * radius / 0.14))


def _underwater(density: int) -> Painting:
    rng = random.Random(3)
    sea = Canvas(density)
    sea.sky([(-1.3, "8eeef2"), (-0.85, "3fc3dd"), (-0.3, "1a86bd"), (HORIZON, "0f5a94"), (1.3, "0a3c70")])
    rocks = Canvas(density)
    for x, s in ((-1.9, 0.5), (-1.25, 0.34), (-0.55, 0.16), (0.75, 0.26), (1.35, 0.44), (2.1, 0.5)):
        balls = [(x + s * rng.uniform(-0.8, 0.8), HORIZON + 0.05 - s * rng.uniform(0, 0.55), s * rng.uniform(0.25, 0.5)) for _ in range(9)]
        cover, shade = rocks.blobs(balls, (-0.2, -0.9, 0.3), rough=0.02, seed=4)
        rocks.over(linear("1a5f92") * shade[..., None], cover * smooth(HORIZON + 0.03, HORIZON, rocks.y))
    reef = Canvas(density)
    for x, foot, s, colour, kind in (
        (-1.55, 0.34, 0.42, "e0569a", "fan"), (-0.97, 0.30, 0.36, "f08a3c", "branch"), (-0.74, 0.25, 0.20, "a64fc8", "ball"),
        (0.70, 0.25, 0.22, "f0b040", "ball"), (0.92, 0.31, 0.40, "e8487a", "branch"), (1.45, 0.34, 0.42, "8a58d8", "fan"), (1.95, 0.3, 0.4, "f08a3c", "branch"),
    ):
        _coral(reef, rng, x, foot, s, colour, kind)
    reef.rgb = reef.rgb * 0.85 + linear("1a86bd") * 0.13 * reef.alpha[..., None]
    sand = _ground(density, "b9a878", "d8c894", "4f93a6", 0.07, 3)
    wind = np.sin(_depth(sand) * 24 + 2.6 * _ground_noise(sand, 1.1, 2))
    sand.shade(1 + 0.08 * wind / (1 + (_depth(sand) ** 2 * 52 * sand.pixel / 1.5) ** 2))
    return Painting(
        layers=(Layer(sea.texture(), 0.02, 0.4), Layer(rocks.texture(), 0.16, 0.6), Layer(sand.texture(), plane=True), "caustics",
                _haze(density, "1c78ac", 0.75, 0.10), Layer(reef.texture(), 0.55, 0.95), "rays"),
        sheets=(Sheet(_sheet(density, "bubble", 8, 0.030, 3), 0.5, (0.02, -0.32), 0.03),
                Sheet(_sheet(density, "bubble", 5, 0.048, 5), 0.9, (-0.02, -0.5), 0.05)),
        light=(0.84, 1.02, 1.08), shadow=(0.30, 0.42, 0.50), shadow_x=0.0,
    )


def _coral(canvas: Canvas, rng: random.Random, x: float, foot: float, s: float, colour: str, kind: str) -> None:
    balls = []
    if kind == "ball":
        balls = [(x + s * rng.uniform(-0.6, 0.6), foot - s * rng.uniform(0.1, 0.45), s * rng.uniform(0.2, 0.34)) for _ in range(8)]
    else:
        for k in range(7 if kind == "branch" else 11):
            angle = math.pi * (0.16 + 0.68 * k / (6 if kind == "branch" else 10))
            length = s * rng.uniform(0.75, 1.05)
            thick = s * (0.075 if kind == "branch" else 0.05)
            for j in np.linspace(0.1, 1, 16):
                bend = 0.12 * s * math.sin(j * 3 + k)
                balls.append((x + math.cos(angle) * length * j + bend * j, foot - math.sin(angle) * length * j, thick * (1.25 - 0.5 * j)))
    cover, shade = canvas.blobs(balls, (-0.3, -0.85, 0.45), rough=0.006, seed=2)
    tip = 0.75 + 0.4 * smooth(foot, foot - s, canvas.y)
    canvas.over(linear(colour) * (shade * tip)[..., None], cover)


def _forest(density: int) -> Painting:
    rng = random.Random(21)
    sky = Canvas(density)
    sky.sky([(-1.3, "f2b45c"), (-0.5, "fbd890"), (HORIZON, "fff4d4")])
    sky.add(linear("fff0b8"), 0.7 * sky.glow(-0.25, -0.35, 0.4))
    far, middle, near = Canvas(density), Canvas(density), Canvas(density)
    for i in range(34):
        _broadleaf(far, rng, -WIDE + 2 * WIDE * (i + rng.random()) / 34, HORIZON + 0.01, rng.uniform(0.34, 0.52), ("f2b860", "eda45a", "f5cc80"), "d8a878")
    for i in range(17):
        _broadleaf(middle, rng, -WIDE + 2 * WIDE * (i + 0.5 * rng.random()) / 17, HORIZON + 0.05, rng.uniform(0.62, 0.85), ("e8842c", "d9601f", "f0a638", "c84a20"), "8a5236")
    for x in (-1.72, -1.02, 1.04, 1.78):
        _broadleaf(near, rng, x, 0.30, 1.45, ("d8541c", "e8842c", "b83a18", "f09a30"), "5a3424")
    soil = _ground(density, "8a4a20", "b8692c", "d89448", 0.12, 9)
    leaves = random.Random(4)
    for _ in range(620):
        depth = leaves.uniform(0.36, 1.0) ** -1.9
        y, x = HORIZON + (GROUND - HORIZON) / depth, leaves.uniform(-WIDE, WIDE)
        r = 0.030 / depth * leaves.uniform(0.7, 1.3)
        if y < 1.35 and r > 0.004:
            turn = leaves.uniform(0, math.pi)
            tips = [(x + r * math.cos(turn + a) * w, y + 0.42 * r * math.sin(turn + a) * w) for a, w in ((0, 1), (0.9, 0.5), (2.2, 0.5), (math.pi, 1), (4.1, 0.5), (5.4, 0.5))]
            soil.over(linear(leaves.choice(("e8862a", "c8481c", "f2b43c", "9c3c18"))), soil.polygon(tips) * 0.9)
    return Painting(
        layers=(Layer(sky.texture(), 0.03, 0.35), Layer(far.texture(), 0.15, 0.6), _haze(density, "fff0c8", 0.5, 0.22), Layer(middle.texture(), 0.32, 0.8),
                Layer(soil.texture(), plane=True), _haze(density, "ffe6b0", 0.35, 0.05), Layer(near.texture(), 0.62, 0.95), "shafts"),
        sheets=(Sheet(_sheet(density, "leaf", 7, 0.032, 5, ("e8862a", "d0441c", "f2b43c")), 0.5, (0.09, 0.24), 0.05),
                Sheet(_sheet(density, "leaf", 4, 0.048, 6, ("d0441c", "f09a30")), 0.9, (0.16, 0.38), 0.07)),
        light=(1.08, 0.97, 0.84), shadow=(0.36, 0.28, 0.26), shadow_x=0.08,
    )


def _broadleaf(canvas: Canvas, rng: random.Random, x: float, foot: float, tall: float, leaves, bark: str) -> None:
    """A trunk and a heap of leaf balls in several colours."""
    half = tall * 0.042
    side = smooth(x + half, x - half, canvas.x)
    trunk = canvas.polygon([(x - half * 1.7, foot), (x - half, foot - tall * 0.12), (x - half * 0.8, foot - tall * 0.8), (x + half * 0.8, foot - tall * 0.8), (x + half, foot - tall * 0.12), (x + half * 1.7, foot)])
    canvas.over(linear(bark) * (0.55 + 0.6 * side + 0.10 * noise(canvas.x * 60, canvas.y * 9, 3))[..., None], trunk)
    for k in range(5):
        colour = leaves[(k + rng.randrange(2)) % len(leaves)]
        balls = []
        for _ in range(5):
            a, r = rng.uniform(0, math.tau), rng.uniform(0, 1) ** 0.5
            balls.append((x + 0.30 * tall * r * math.cos(a), foot - tall * (0.80 - 0.05 * k) + 0.19 * tall * r * math.sin(a), tall * rng.uniform(0.07, 0.13)))
        cover, shade = canvas.blobs(balls, rough=0.011, seed=k)
        canvas.over(linear(colour) * shade[..., None], cover)


def _city(density: int) -> Painting:
    rng = random.Random(30)
    sky = Canvas(density)
    sky.sky([(-1.3, "0a0b2e"), (-0.6, "1c1850"), (-0.15, "4a2a78"), (HORIZON, "c0589a")])
    _stars(sky, rng, 160, -0.1, 0.7)
    sky.add(linear("ffe9c0"), 0.28 * sky.glow(0.60, -0.66, 0.12))
    sky.over(linear("fff0cf"), sky.disc(0.60, -0.66, 0.085))
    back, front = Canvas(density), Canvas(density)
    _skyline(back, rng, 0.13, (0.24, 0.62), "33296a", 0.6)
    _skyline(front, rng, 0.21, (0.12, 0.44), "1d1842", 1.0)
    street = _ground(density, "2a2a44", "35344f", "574a78", 0.05, 5)
    mirror = Canvas(density)                                  # the wet street mirrors the skyline, smeared downwards
    mirror.rgb, mirror.alpha = sky.rgb.copy(), sky.alpha.copy()
    for layer in (back, front):
        mirror.rgb = mirror.rgb * (1 - layer.alpha[..., None]) + layer.rgb
    rows = np.clip(((2 * HORIZON - street.y[:, 0]) + 1.4) / 2.8 * street.y.shape[0] - 0.5, 0, street.y.shape[0] - 1).astype(int)
    smear = cv2.GaussianBlur(mirror.rgb[rows], (0, 0), sigmaX=0.012 * density, sigmaY=0.11 * density)
    strength = 0.9 * smooth(1.0, HORIZON, street.y) * street.below(np.float32(HORIZON))
    street.add(np.ones(3, np.float32), np.zeros_like(strength))
    street.rgb = street.rgb + smear * strength[..., None]
    depth = _depth(street)
    for lane in (-1.15, 1.15):                                # kerb lines run to the vanishing point
        line = np.abs(street.x * depth - lane) / (depth * street.pixel + 0.018)
        street.over(linear("f3e3b0"), 0.55 * smooth(1.2, 0.6, line) * smooth(0.16, 0.3, street.y))
    lamps = Canvas(density)
    for x in (-1.62, -0.84, 0.90, 1.66):
        _lamp(lamps, x, 0.27, 0.66)
    return Painting(
        layers=(Layer(sky.texture(), 0.04, 0.3), Layer(back.texture(), 0.14, 0.5), _haze(density, "a0508f", 0.5, 0.16), Layer(front.texture(), 0.30, 0.8),
                Layer(street.texture(), plane=True), "traffic", Layer(lamps.texture(), 0.48, 0.95, pulse=0.04)),
        light=(1.0, 0.92, 1.06), shadow=(0.22, 0.22, 0.30), shadow_x=0.04, gloss=0.38,
    )


def _skyline(canvas: Canvas, rng: random.Random, pitch: float, tall, wall: str, windows: float) -> None:
    """Buildings side by side; a third of the windows are lit."""
    x = -WIDE
    while x < WIDE:
        width = pitch * rng.uniform(0.75, 1.25)
        top = HORIZON - rng.uniform(*tall)
        box = canvas.polygon([(x, HORIZON + 0.02), (x, top), (x + width * 0.96, top), (x + width * 0.96, HORIZON + 0.02)])
        if rng.random() < 0.35:
            mast = width * rng.uniform(0.3, 0.6)
            box = np.maximum(box, canvas.polygon([(x + mast, top), (x + mast + width * 0.03, top - 0.10), (x + mast + width * 0.06, top)]))
        elif rng.random() < 0.5:
            box = np.maximum(box, canvas.polygon([(x + width * 0.2, top), (x + width * 0.2, top - 0.05), (x + width * 0.76, top - 0.05), (x + width * 0.76, top)]))
        side = smooth(x + width, x, canvas.x)
        rise = smooth(HORIZON, top, canvas.y)
        canvas.over(linear(wall) * (0.55 + 0.5 * side)[..., None] * (1.3 - 0.5 * rise)[..., None], box)
        columns, w, h = max(2, int(width / 0.036)), 0.017, 0.020
        tint = linear(rng.choice(("ffd27a", "ffc860", "ffe3a8", "9fd6ff")))
        glass = np.zeros((columns, int((HORIZON - top) / 0.047)))
        for i in range(columns):
            for j in range(glass.shape[1]):
                if rng.random() < 0.42:
                    left, up = x + width * (i + 0.5) / columns * 0.96 - w / 2, top + 0.026 + 0.047 * j
                    self_light = windows * rng.uniform(0.5, 1.25)
                    x0, y0 = int((left + WIDE) * canvas.density), int((up + 1.4) * canvas.density)
                    x1, y1 = x0 + max(1, round(w * canvas.density)), y0 + max(1, round(h * canvas.density))
                    if x0 >= 0:
                        canvas.rgb[y0:y1, x0:x1] = tint * self_light
        x += width


def _lamp(canvas: Canvas, x: float, foot: float, tall: float) -> None:
    pole = canvas.polygon([(x - 0.012, foot), (x - 0.007, foot - tall), (x + 0.007, foot - tall), (x + 0.012, foot)])
    canvas.over(linear("191730"), pole)
    canvas.over(linear("191730"), canvas.polygon([(x - 0.045, foot - tall), (x, foot - tall - 0.03), (x + 0.045, foot - tall)]))
    canvas.add(linear("ffc878"), 0.55 * canvas.glow(x, foot - tall + 0.03, 0.05))
    canvas.over(linear("fff0c4") * 1.3, canvas.disc(x, foot - tall + 0.025, 0.027))


def _volcano(density: int) -> Painting:
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
        plume.append((x0 + 0.05 + 0.55 * k**1.4 + rng.uniform(-0.14, 0.14) * (0.3 + k), top - 0.02 - 0.85 * k + rng.uniform(-0.05, 0.05), 0.06 + 0.17 * k * rng.uniform(0.6, 1.2)))
    cover, shade = cone.blobs(plume, (-0.3, 0.8, 0.35), rough=0.02, seed=3)
    warm = smooth(-1.0, top, cone.y)[..., None]
    cone.over((linear("3a2228") * (1 - warm) + linear("d05a28") * warm) * (shade - 0.2)[..., None], cover * 0.97)
    cone.add(linear("ff7a2a"), 0.9 * cone.glow(x0, top - 0.02, 0.11) )
    outline = np.minimum(HORIZON + 0.02, top + np.maximum(np.abs(cone.x[0] - x0) - 0.085, 0) ** 0.86 * 0.80 + 0.010 * fractal(cone.x[0] * 7, cone.x[0] * 0, 3, 4))
    side = smooth(0.25, -0.25, cone.x - x0 - 0.1 * fractal(cone.x * 4, cone.y * 3, 7, 3))
    cone.over(linear("3a2024") * (0.55 + 0.65 * side + 0.12 * fractal(cone.x * 7, cone.y * 7, 2, 4))[..., None], cone.below(outline[None]) * smooth(HORIZON + 0.01, HORIZON, cone.y))
    lava = Canvas(density)
    for start, slope, width in ((-0.05, -0.55, 0.022), (0.02, 0.10, 0.028), (0.06, 0.62, 0.018)):
        fall = lava.y - top
        path = x0 + start + slope * fall + 0.035 * np.sin(fall * 17 + start * 50)
        stream = smooth(width * (1 + fall), width * 0.3, np.abs(lava.x - path)) * smooth(top - 0.015, top + 0.01, lava.y) * smooth(HORIZON, HORIZON - 0.03, lava.y)
        lava.over(linear("ff8a28") * 1.5, stream)
        lava.add(linear("ff5a18"), 0.5 * np.exp(-np.abs(lava.x - path) / 0.03) * smooth(top - 0.02, top + 0.02, lava.y) * smooth(HORIZON + 0.02, HORIZON - 0.04, lava.y))
    lava.over(linear("ffd060") * 1.6, smooth(0.09, 0.07, np.abs(lava.x - x0)) * smooth(0.028, 0.012, np.abs(lava.y - top)))
    rock = _ground(density, "221820", "38262b", "54302c", 0.22, 6)
    crags = Canvas(density)
    for x, s in ((-1.85, 0.5), (-1.12, 0.40), (1.08, 0.36), (1.72, 0.5)):
        balls = [(x + s * rng.uniform(-0.4, 0.4), 0.30 - s * rng.uniform(0, 0.5), s * rng.uniform(0.16, 0.34)) for _ in range(8)]
        cover, shade = crags.blobs(balls, (0.6, -0.5, 0.35), rough=0.03, seed=5)
        crags.over(linear("4a2c30") * (shade - 0.15)[..., None], cover * smooth(0.34, 0.30, crags.y))
    cracks = Canvas(density)
    glow, core = _cracks(cracks)
    cracks.add(linear("ff4a10"), 0.45 * glow)
    cracks.over(linear("ffa030") * 1.5, core)
    return Painting(
        layers=(Layer(sky.texture(), 0.05, 0.35), Layer(cone.texture(), 0.13, 0.5), Layer(lava.texture(), 0.13, 0.5, pulse=0.25), "fountain",
                Layer(rock.texture(), plane=True), Layer(cracks.texture(), plane=True, pulse=0.35), _haze(density, "ff7a30", 0.35, 0.05), Layer(crags.texture(), 0.6, 0.95)),
        sheets=(Sheet(_sheet(density, "spark", 18, 0.009, 11, ("ffa040", "ff6a20")), 0.5, (0.06, -0.30), 0.05),
                Sheet(_sheet(density, "spark", 9, 0.014, 12, ("ffc060", "ff7a28")), 0.9, (0.10, -0.5), 0.07)),
        light=(1.10, 0.88, 0.80), shadow=(0.18, 0.15, 0.18), shadow_x=-0.08,
    )


def _cracks(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Glowing cracks between cooled plates: borders of a Voronoi pattern on the ground. Returns glow and core, [h, w]."""
    depth = _depth(canvas)
    u, v = canvas.x * depth * 1.25, depth * 2.1
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
    near = smooth(HORIZON + 0.03, HORIZON + 0.16, canvas.y) * canvas.below(np.float32(HORIZON))
    blur = 0.02 + 3.2 * depth**2 * canvas.pixel
    return near * np.exp(-gap / 0.08), near * smooth(0.035 + blur, 0.012, gap) * np.minimum(1, 0.08 / blur)


def _stage(density: int) -> Painting:
    back = Canvas(density)
    back.sky([(-1.3, "2a0410"), (1.3, "2a0410")])
    folds = _folds(back.x, 17.0, 2)
    drop = 0.45 + 0.55 * smooth(HORIZON + 0.02, -0.5, back.y)
    light = 0.40 + 1.1 * np.exp(-((back.x / 0.75) ** 2) - ((back.y + 0.05) / 0.75) ** 2)
    back.over(linear("b3122c") * (folds * drop * light)[..., None], np.ones_like(back.x))
    hem = smooth(0.02, 0.012, np.abs(back.y - (HORIZON - 0.035)))
    back.over(linear("e8b040") * (0.5 + 0.7 * folds * light)[..., None], hem)
    floor = _ground(density, "6a3a1c", "9a5a2a", "7a4422", 0.05, 7)
    depth = _depth(floor)
    plank = floor.x * depth * 4.2
    tone = np.sin(np.floor(plank) * 12.99) * 43758.5 % 1.0
    seam = smooth(0.0, 0.05 + 4.2 * depth * floor.pixel, np.abs((plank + 0.5) % 1.0 - 0.5))
    grain = 0.10 * _ground_noise(floor, 18, 3, 0.12)
    pool = 0.40 + 1.15 * np.exp(-((floor.x / 0.85) ** 2) - ((floor.y - GROUND) / 0.42) ** 2)
    floor.shade((0.82 + 0.30 * tone + grain) * (0.55 + 0.45 * seam) * pool)
    wings = Canvas(density)
    for side in (-1, 1):
        edge = 0.80 - 0.17 * smooth(-0.9, 0.3, wings.y) + 0.10 * np.exp(-(((wings.y - 0.05) / 0.25) ** 2))
        cover = np.clip((side * wings.x - edge) / wings.pixel + 0.5, 0, 1) * smooth(0.34, 0.335, wings.y)
        inner = 0.55 + 0.7 * np.exp(-np.abs(side * wings.x - edge) / 0.2)
        wings.over(linear("c4142e") * (_folds(wings.x + 0.1 * wings.y * side, 22.0, 3) * inner)[..., None], cover)
        rope = smooth(0.022, 0.012, np.abs(wings.y - 0.03 - 0.05 * (side * wings.x - edge)))
        wings.over(linear("f0bc48") * inner[..., None], rope * cover)
    valance = Canvas(density)
    scallop = -0.70 + 0.085 * np.abs(np.sin(valance.x * 5.2))
    valance.over(linear("c4142e") * (_folds(valance.x, 26.0, 4) * (0.7 + 0.5 * smooth(-1.3, -0.62, valance.y)))[..., None], np.clip((scallop - valance.y) / valance.pixel + 0.5, 0, 1))
    fringe = np.abs(valance.y - scallop) < 0.022
    valance.over(linear("f2c04c") * (0.8 + 0.3 * np.sin(valance.x * 260))[..., None], cv2.GaussianBlur(fringe.astype(np.float32), (0, 0), 0.6))
    lamps = Canvas(density)
    for i in range(-9, 10):
        lamps.over(linear("5a3418"), lamps.disc(i * 0.26, 1.02, 0.07))
        lamps.over(linear("ffe9b0") * 1.2, lamps.disc(i * 0.26, 0.985, 0.045))
        lamps.add(linear("ffc060"), 0.5 * lamps.glow(i * 0.26, 0.96, 0.06))
    return Painting(
        layers=(Layer(back.texture(), 0.30, 0.8), Layer(floor.texture(), plane=True), Layer(wings.texture(), 0.55, 0.95), Layer(valance.texture(), 0.75, 1.0),
                "spotlight", Layer(lamps.texture(), 1.3, 1.0)),
        sheets=(Sheet(_sheet(density, "flake", 22, 0.006, 5, ("fff0c0",), 0.55), 0.9, (0.03, -0.04), 0.03),),
        light=(1.10, 1.02, 0.92), shadow=(0.24, 0.20, 0.20), gloss=0.20,
    )


def _folds(x: np.ndarray, frequency: float, seed: int) -> np.ndarray:
    """Light over hanging cloth, about 0.25..1.15."""
    phase = x * frequency + 0.8 * noise(x * 1.5, x * 0 + seed, seed)
    return 0.70 + 0.34 * np.sin(phase) + 0.12 * np.sin(2.3 * phase + seed)


_PAINTERS = {
    "beach": _beach, "meadow": _meadow, "snow": _snow, "desert": _desert, "space": _space,
    "underwater": _underwater, "forest": _forest, "city": _city, "volcano": _volcano, "stage": _stage,
}
