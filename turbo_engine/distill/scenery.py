"""Backdrops: a painted scene seen by a moving camera, with everything in it that moves by itself.

Nothing in a backdrop depends on the subject, so there are only scenes x cameras of them: each is made once per frame size,
at twice the resolution and averaged down (in linear light), and kept. Rendering a clip then only adds its sprites.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .motion import CLIP_SECONDS, GROUND, HORIZON, camera_path, progress
from .paint import NOISE_TILES, TALL, WIDE, linear
from .scenes import Layer, Painting, Sheet, paint_scene

SUPERSAMPLE = 2


@dataclass(frozen=True)
class Backdrop:
    """behind: linear RGB [T, 3, H, W]; front: premultiplied linear RGBA [T, 4, H, W], things before the subject."""

    behind: Tensor
    front: Tensor


class Scenery:
    """Paints scenes on first use and renders backdrops from them.

    Args:
        size: frame side, pixels.
        device: where textures live and backdrops are rendered.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.size, self.device = size, torch.device(device)
        self._density = max(24, round(0.75 * size))
        self._paintings: dict[str, Painting] = {}
        self._textures: dict[int, Tensor] = {}
        self._tiles = [torch.from_numpy(tile).to(self.device)[None, None] for tile in NOISE_TILES]

    def painting(self, scene: str) -> Painting:
        if scene not in self._paintings:
            self._paintings[scene] = paint_scene(scene, self._density)
        return self._paintings[scene]

    @torch.no_grad()
    def backdrop(self, scene: str, camera: str, num_frames: int) -> Backdrop:
        """Render every frame of a scene under a named camera; float16 on the scenery's device."""
        path = camera_path(camera, num_frames)
        side = self.size * SUPERSAMPLE
        centres = (torch.arange(side, device=self.device) + 0.5) / side * 2 - 1
        seconds = progress(num_frames) * CLIP_SECONDS
        behind, front = [], []
        for i in range(num_frames):                            # frame by frame: once per backdrop, and small in memory
            view = _View(centres[None, :], centres[:, None], float(path.zoom[i]), float(path.pan[i]), float(path.tilt[i]), float(seconds[i]))
            image = self._behind(scene, view)
            air = self._front(scene, view)
            behind.append(F.avg_pool2d(image, SUPERSAMPLE).half())
            front.append(F.avg_pool2d(air, SUPERSAMPLE).half())
        return Backdrop(torch.cat(behind), torch.cat(front))

    def _behind(self, scene: str, view: _View) -> Tensor:
        image = None
        for layer in self.painting(scene).layers:
            if isinstance(layer, str):
                image = _EFFECTS[layer](self, image, view)
                continue
            sample = self._sample(layer, view)
            image = sample[:, :3] if image is None else image * (1 - sample[:, 3:]) + sample[:, :3]
        return image

    def _front(self, scene: str, view: _View) -> Tensor:
        side = view.x.shape[1]
        air = torch.zeros(1, 4, side, side, device=self.device)
        for sheet in self.painting(scene).sheets:
            sample = self._sample_sheet(sheet, view)
            air = air * (1 - sample[:, 3:]) + sample
        return air

    def _texture(self, array) -> Tensor:
        key = id(array)                                        # arrays live as long as their painting, which is kept
        if key not in self._textures:
            self._textures[key] = torch.from_numpy(array).to(self.device, torch.float32).permute(2, 0, 1)[None].contiguous()
        return self._textures[key]

    def _sample(self, layer: Layer, view: _View) -> Tensor:
        x, y = view.on_plane() if layer.plane else view.on_layer(layer.parallax, layer.zoom_share)
        x = x + layer.drift * view.seconds
        grid = torch.stack(torch.broadcast_tensors(x / WIDE, y / TALL), -1)[None]
        sample = F.grid_sample(self._texture(layer.texture), grid, mode="bilinear", padding_mode="border", align_corners=False)
        if layer.pulse:
            breath = 1 + layer.pulse * math.sin(2 * math.pi * 0.75 * view.seconds)
            sample = torch.cat([sample[:, :3] * breath, sample[:, 3:]], 1)
        return sample

    def _sample_sheet(self, sheet: Sheet, view: _View) -> Tensor:
        x, y = view.on_layer(sheet.parallax, 1.0)
        vx, vy = sheet.velocity
        x = x - vx * view.seconds + sheet.sway * torch.sin(4 * y + 2.5 * view.seconds)
        y = y - vy * view.seconds
        x, y = torch.broadcast_tensors((x + 1) % 2 - 1, (y + 1) % 2 - 1)
        texture = F.pad(self._texture(sheet.texture), (1, 1, 1, 1), mode="circular")
        inset = (texture.shape[-1] - 2) / texture.shape[-1]
        return F.grid_sample(texture, torch.stack([x * inset, y * inset], -1)[None], mode="bilinear", align_corners=False)

    def noise(self, u: Tensor, v: Tensor, seed: int = 0) -> Tensor:
        """The brushes' noise at (u, v) in cells, [h, w]; wraps every 32 cells."""
        u, v = torch.broadcast_tensors((u / 32 + 0.23 * seed) % 1, (v / 32 + 0.1 * seed) % 1)
        grid = torch.stack([u * 2 - 1, v * 2 - 1], -1)[None]
        return F.grid_sample(self._tiles[seed % 2], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]

    def colour(self, hex_colour: str) -> Tensor:
        return torch.from_numpy(linear(hex_colour)).to(self.device).view(1, 3, 1, 1)


@dataclass(frozen=True)
class _View:
    """One frame's camera and the screen coordinates it is evaluated at: x [1, w], y [h, 1]."""

    x: Tensor
    y: Tensor
    zoom: float
    pan: float
    tilt: float
    seconds: float

    def on_layer(self, parallax: float, zoom_share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Where in a layer each pixel looks. The zoom is centred on the horizon; a tilt turns everything alike."""
        zoom = 1 + (self.zoom - 1) * zoom_share
        return self.x / zoom + self.pan * parallax, HORIZON + (self.y - self.tilt - HORIZON) / zoom

    def on_plane(self) -> tuple[Tensor, Tensor]:
        """The same on the ground: a step of the camera moves near rows more, in true perspective."""
        x, y = self.on_layer(0.0)
        nearness = (y - HORIZON) / (GROUND - HORIZON)
        return x + self.pan * nearness.clamp(min=0), y


def _smooth(low, high, x: Tensor) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


# -- what moves by itself; each takes (scenery, image [1, 3, h, w], view) and returns the image ---------------------------------

def _sea(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """Evening sea between the horizon and the sand, with a path of sunlight and a tide of foam."""
    x, y = view.on_plane()
    t = view.seconds
    d = (y - HORIZON).clamp(min=1e-3)
    shore = 0.345 + 0.016 * torch.sin(x * 4 + 1.3 * t) + 0.020 * math.sin(math.pi * t) + 0.010 * s.noise(x * 6, x * 0 + 0.4 * t, 3)
    depth = 0.22 / (d + 0.03)
    waves = s.noise(x * depth * 7 + 0.8 * t, depth * 22 - 3.2 * t, 0) + 0.6 * s.noise(x * depth * 18 - t, depth * 52 - 5 * t, 1)
    far, near = s.colour("f2a284"), s.colour("2f7f9c")
    mix = _smooth(HORIZON, 0.34, y)
    water = (far + (near - far) * mix) * (1 + 0.16 * waves)
    screen_x, _ = view.on_layer(0.06, 0.35)
    path = torch.exp(-(((screen_x - 0.34) / (0.09 + 0.55 * d)) ** 2)) * _smooth(0.1, 1.5, waves)
    water = water + s.colour("ffe2a0") * (1.1 * path)
    wet = _smooth(shore + 0.10, shore + 0.02, y)
    image = image * (1 - 0.35 * wet)
    cover = _smooth(HORIZON - 0.003, HORIZON + 0.003, y) * _smooth(shore + 0.008, shore - 0.008, y)
    image = image * (1 - cover) + water * cover
    lace = 0.6 + 0.4 * s.noise(x * 22, y * 30, 4)
    foam = torch.exp(-(((y - shore) / 0.013) ** 2)) + 0.5 * torch.exp(-(((y - shore + 0.055 - 0.012 * math.sin(4 * t)) / 0.008) ** 2)) * lace
    foam = (foam * 0.85 * _smooth(HORIZON, HORIZON + 0.03, y)).clamp(0, 1)
    return image * (1 - foam) + s.colour("fff4e4") * foam


def _aurora(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """Two curtains of northern light."""
    x, y = view.on_layer(0.05, 0.3)
    for level, colour, seed in ((-0.26, "38ffa0", 1), (-0.46, "58c8ff", 2), (-0.52, "b070ff", 3)):
        fold = level + 0.10 * torch.sin(2.1 * x + seed + 0.5 * view.seconds) + 0.05 * s.noise(x * 3 + 0.35 * view.seconds, x * 0 + seed, seed)
        rays = 0.62 + 0.38 * s.noise(x * 13 + 0.5 * view.seconds, x * 0 + 7 + seed, seed)
        up = (fold - y) / 0.36
        curtain = _smooth(-0.05, 0.10, up) * torch.exp(-2.2 * up.clamp(min=0)) * rays.clamp(min=0.05)
        image = image + s.colour(colour) * (0.30 * curtain)
    return image


def _caustics(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """A net of light on the sea floor."""
    x, y = view.on_plane()
    depth = (GROUND - HORIZON) / (y - HORIZON).clamp(min=0.02)
    u, v = x * depth * 3.2, depth * 6
    one = s.noise(u + 0.9 * view.seconds, v + 0.3 * view.seconds, 0) + s.noise(u * 1.1 - 0.8 * view.seconds, v * 0.9, 1)
    net = torch.exp(-3.2 * one.abs()) * _smooth(HORIZON + 0.06, 0.5, y)
    return image * (1 + 0.75 * net)


def _rays(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """Sunlight slanting through water."""
    return _beams(s, image, view, "c8fff4", 0.42, 0.38)


def _shafts(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """Sunlight slanting through leaves."""
    return _beams(s, image, view, "ffe2a0", 0.30, -0.55)


def _beams(s: Scenery, image: Tensor, view: _View, colour: str, strength: float, slant: float) -> Tensor:
    x, y = view.on_layer(0.25, 0.5)
    across = x * 3.4 + slant * 2.4 * y
    beam = s.noise(across + 0.25 * view.seconds, across * 0 + 0.35 * view.seconds, 5).clamp(min=0)
    fade = _smooth(0.75, -1.0, y)
    return image + s.colour(colour) * (strength * beam * fade)


def _traffic(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """Far headlights and tail lights crossing at the end of the street."""
    x, y = view.on_layer(0.3, 0.8)
    for i in range(14):
        way = 1 if i % 2 else -1
        at = ((i * 0.37 + way * 0.28 * view.seconds + 1.9) % 3.8) - 1.9
        row = HORIZON + 0.012 + 0.018 * (i % 3)
        d2 = ((x - at) / 0.020) ** 2 + ((y - row) / 0.014) ** 2
        streak = torch.exp(-(((x - at) / 0.016) ** 2)) * torch.exp(-(y - row).clamp(min=0) / 0.09) * (y > row)
        image = image + s.colour("ff5040" if way > 0 else "fff0c8") * (1.5 * torch.exp(-d2) + 0.22 * streak)
    return image


def _fountain(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """Lava thrown from the crater of the volcano."""
    x, y = view.on_layer(0.13, 0.5)
    for i in range(20):
        age = (view.seconds * 0.8 + i * 0.381) % 1.0
        angle = 0.9 * math.sin(i * 12.9)
        px = 0.42 + 0.32 * math.sin(angle) * age
        py = -0.43 - (0.85 * math.cos(angle) + 0.2 * math.sin(i * 7.7)) * age + 0.95 * age * age
        radius = 0.014 * (1.25 - age)
        d = torch.sqrt((x - px) ** 2 + (y - py) ** 2)
        image = image + s.colour("ff8a30") * ((1 - age) * (2.2 * _smooth(radius, radius * 0.3, d) + 0.35 * torch.exp(-d / 0.025)))
    return image


def _spotlight(s: Scenery, image: Tensor, view: _View) -> Tensor:
    """A cone of light from above onto the subject's place, gently moving."""
    x, y = view.on_layer(0.9, 1.0)
    swing = 0.03 * math.sin(math.pi * view.seconds)
    for source, aim, strength in ((-0.75, -0.06, 0.30), (0.75, 0.06, 0.30), (0.0, 0.0, 0.22)):
        k = ((y + 1.15) / (GROUND + 1.15)).clamp(0, 1)
        axis = source + (aim + swing - source) * k
        half = 0.05 + 0.40 * k
        cone = torch.exp(-(((x - axis) / half) ** 2) * 2.2) * (0.9 - 0.55 * k) * _smooth(GROUND + 0.1, GROUND - 0.15, y)
        image = image + s.colour("ffedc0") * (strength * cone)
    return image


_EFFECTS = {
    "sea": _sea, "aurora": _aurora, "caustics": _caustics, "rays": _rays, "shafts": _shafts,
    "traffic": _traffic, "fountain": _fountain, "spotlight": _spotlight,
}
