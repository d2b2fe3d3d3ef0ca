"""Brushes: procedural paint in linear light, for the layers of a scene. NumPy and OpenCV on the CPU, once per scene.

A Canvas holds premultiplied linear RGBA over a part of the plane wider than the screen, in screen units (x right, y down,
the screen is -1..1). Solids are lit as soft clay, to sit beside the 3D art: `blobs` turns a heap of balls into one lit body.
"""

from __future__ import annotations

import cv2
import numpy as np

WIDE, TALL = 2.4, 1.4          # a canvas spans x in [-WIDE, WIDE], y in [-TALL, TALL]
GAMMA = 2.2
_LATTICE = 32                  # noise cells per period
_NOISE_SIZE = 512


def linear(hex_colour: str) -> np.ndarray:
    """"ff8800" -> linear RGB, [3] float32."""
    return np.array([int(hex_colour[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32) ** GAMMA


def smooth(low, high, x):
    """Smoothstep; low > high runs the other way."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def noise_tile(seed: int) -> np.ndarray:
    """Tileable smooth noise of unit deviation, [512, 512] float32; one period is 32 cells."""
    grid = np.random.default_rng(seed).standard_normal((_LATTICE, _LATTICE)).astype(np.float32)
    padded = np.pad(grid, 4, mode="wrap")
    big = cv2.resize(padded, None, fx=_NOISE_SIZE / _LATTICE, fy=_NOISE_SIZE / _LATTICE, interpolation=cv2.INTER_CUBIC)
    edge = 4 * _NOISE_SIZE // _LATTICE
    tile = cv2.GaussianBlur(big, (0, 0), 5)[edge:-edge, edge:-edge]
    return (tile - tile.mean()) / tile.std()


NOISE_TILES = [noise_tile(seed) for seed in (11, 12)]


def noise(u: np.ndarray, v: np.ndarray, seed: int = 0) -> np.ndarray:
    """Smooth noise at (u, v) in cells, wrapped every 32; u and v broadcast."""
    u, v = np.broadcast_arrays(np.asarray(u, np.float32), np.asarray(v, np.float32))
    scale = _NOISE_SIZE / _LATTICE
    u = ((u + 7.31 * seed) * scale) % _NOISE_SIZE
    v = ((v + 3.17 * seed) * scale) % _NOISE_SIZE
    tile = np.pad(NOISE_TILES[seed % 2], ((0, 1), (0, 1)), mode="wrap")
    flat = (np.atleast_2d(a).astype(np.float32) for a in (u, v))
    return cv2.remap(tile, *flat, cv2.INTER_LINEAR).reshape(u.shape)


def fractal(u, v, seed: int = 0, octaves: int = 4) -> np.ndarray:
    """Sum of octaves of noise, each half as strong, of about unit deviation."""
    total, weight = 0.0, 1.0
    for octave in range(octaves):
        total = total + weight * noise(u * 2**octave, v * 2**octave, seed + octave)
        weight *= 0.5
    return total / 1.15


def _box(alpha: np.ndarray):
    """Slices of the smallest box holding every pixel above zero; None if there is none."""
    rows, columns = np.flatnonzero(alpha.max(1) > 0), np.flatnonzero(alpha.max(0) > 0)
    if not len(rows):
        return None
    return np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


class Canvas:
    """Premultiplied linear RGBA, [h, w] pixels at `density` pixels per screen unit."""

    def __init__(self, density: int):
        self.density = density
        height, width = round(2 * TALL * density), round(2 * WIDE * density)
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1)[None, :] * WIDE
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1)[:, None] * TALL
        self.x, self.y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(self.x, self.y))
        self.rgb = np.zeros((height, width, 3), np.float32)
        self.alpha = np.zeros((height, width), np.float32)
        self.pixel = 1 / density                                   # screen units; the width of an antialiased edge

    def over(self, colour: np.ndarray, alpha: np.ndarray) -> None:
        """Paint over: colour [3] or [h, w, 3], alpha [h, w]. Only the box where alpha is not zero is touched."""
        box = _box(alpha)
        if box is None:
            return
        alpha = np.clip(alpha[box], 0, 1)
        colour = np.broadcast_to(colour, self.rgb.shape)[box]
        self.rgb[box] = self.rgb[box] * (1 - alpha[..., None]) + colour * alpha[..., None]
        self.alpha[box] = self.alpha[box] * (1 - alpha) + alpha

    def add(self, colour: np.ndarray, amount: np.ndarray) -> None:
        """Add light: it shines through, so alpha stays."""
        self.rgb = self.rgb + colour * amount[..., None]

    def shade(self, factor: np.ndarray) -> None:
        self.rgb = self.rgb * factor[..., None]

    def texture(self) -> np.ndarray:
        return np.concatenate([self.rgb, self.alpha[..., None]], -1)

    def disc(self, cx: float, cy: float, radius: float) -> np.ndarray:
        """Coverage of a disc, [h, w]."""
        d = np.hypot(self.x - cx, self.y - cy)
        return np.clip((radius - d) / self.pixel + 0.5, 0, 1)

    def glow(self, cx: float, cy: float, reach: float) -> np.ndarray:
        d2 = (self.x - cx) ** 2 + (self.y - cy) ** 2
        return np.exp(-np.sqrt(d2 + 1e-4) / reach)

    def polygon(self, points) -> np.ndarray:
        """Antialiased coverage of a polygon, [h, w]; points are screen units."""
        height, width = self.alpha.shape
        pixels = [((px + WIDE) * self.density * 16 - 8, (py + TALL) * self.density * 16 - 8) for px, py in points]
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.array(pixels, np.float64).round().astype(np.int32)], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / 255

    def below(self, top: np.ndarray) -> np.ndarray:
        """Coverage of everything under a skyline, top [h, w] or [w]: screen y."""
        return np.clip((self.y - top) / self.pixel + 0.5, 0, 1)

    def sky(self, stops) -> None:
        """Fill with a vertical gradient; stops are (y, hex). Mixed in gamma space, as an eye would."""
        ys, colours = [s[0] for s in stops], np.stack([linear(s[1]) ** (1 / GAMMA) for s in stops])
        rgb = np.stack([np.interp(self.y, ys, colours[:, i]) for i in range(3)], -1).astype(np.float32)
        self.over(rgb**GAMMA, np.ones_like(self.alpha))

    def blobs(self, balls, light=(-0.5, -0.75, 0.45), rough: float = 0.0, seed: int = 0):
        """A heap of balls as one clay body.

        Args:
            balls: (x, y, radius) each, screen units.
            light: direction to the light, x right, y down, z to the viewer.
            rough: how far noise displaces the outline, screen units.
        Returns: coverage [h, w], and shade [h, w] in about 0.3..1.2, to multiply the colour by.
        """
        cover, shade = np.zeros_like(self.x), np.ones_like(self.x)
        box = self._window(balls, 3 * rough)
        x, y = self.x[box], self.y[box]
        if min(x.shape) < 2:
            return cover, shade                                # off the canvas
        if rough:
            x, y = x + rough * noise(x * 14, y * 14, seed), y + rough * noise(x * 14, y * 14, seed + 1)
        height, edge = np.zeros_like(x), np.zeros_like(x)
        for cx, cy, radius in balls:
            d = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
            height = np.maximum(height, np.sqrt(np.maximum(radius**2 - d**2, 0)))
            edge = np.maximum(edge, (radius - d) / self.pixel + 0.5)
        surface = cv2.GaussianBlur(height, (0, 0), 1.2)
        slope_y, slope_x = np.gradient(surface, self.pixel)
        lx, ly, lz = np.array(light, np.float32) / np.linalg.norm(light)
        lambert = (-slope_x * lx - slope_y * ly + lz) / np.sqrt(1 + slope_x**2 + slope_y**2)
        cover[box], shade[box] = np.clip(edge, 0, 1), 0.62 + 0.5 * np.clip(lambert, -0.5, 1)
        return cover, shade

    def _window(self, balls, margin: float):
        """Slices of the box around the balls."""
        left, right = min(b[0] - b[2] for b in balls) - margin, max(b[0] + b[2] for b in balls) + margin
        top, bottom = min(b[1] - b[2] for b in balls) - margin, max(b[1] + b[2] for b in balls) + margin
        height, width = self.alpha.shape
        columns = np.clip([int((left + WIDE) * self.density) - 3, int((right + WIDE) * self.density) + 4], 0, width)
        rows = np.clip([int((top + TALL) * self.density) - 3, int((bottom + TALL) * self.density) + 4], 0, height)
        return np.s_[rows[0] : rows[1], columns[0] : columns[1]]

    def ridge(self, peaks, jag: float = 0.02, seed: int = 0):
        """A mountain range. peaks: (x, y, half width) each. Returns coverage, and light 0..1 that falls from the left."""
        top = np.full(self.x.shape[1], TALL, np.float32)
        lit = np.zeros_like(self.x)
        wobble = jag * fractal(self.x[0] * 5, np.full_like(self.x[0], seed * 1.7), seed, 4)
        for px, py, half in peaks:
            slope = (0.12 - py) / half
            outline = py + np.abs(self.x[0] - px) * slope + wobble
            crest = px + 0.25 * half * fractal(self.y * 4, self.y * 0 + px * 3, seed, 3) * np.clip(self.y - py, 0, 1) * 2
            nearer = outline < top
            lit = np.where(nearer[None], smooth(crest + 0.02, crest - 0.02, self.x), lit)
            top = np.minimum(top, outline)
        return self.below(top[None]), lit, self.y - top[None]
