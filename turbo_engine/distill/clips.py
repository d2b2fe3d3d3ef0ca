"""The compositor: clips of the pocket world, many at a time, with the mask of what the caption is about.

Backdrops come ready from scenery.py; a clip adds a soft shadow, a mirror image on glossy ground, its companion and its
subject, then what floats in front, in linear light, and leaves as sRGB. Everything is batched over clips.

    python -m turbo_engine.distill.clips --sheet out.png        # a contact sheet of varied clips, to look at
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .captions import caption
from .motion import AFLOAT, COMPANION_STEP, GROUND, GROUNDLESS, HORIZON, camera_path, companion_pose, subject_pose
from .paint import GAMMA
from .scenery import Backdrop, Scenery
from .sprites import SpriteAtlas
from .world import ClipSpec, World, load_world, sample_specs

FIRST_WINDOW_SHARE = 0.3    # of short windows start at frame 0
SUBJECT_CROP_SHARE = 0.65   # of crops aim at the subject
GROUP = 32                  # clips composited at once; bounds the memory of temporaries


class Compositor:
    """Renders clips of a world.

    Args:
        world: what the specs' indices mean.
        device: where it renders; backdrops are kept there, 30 MB a scene and camera at 256 px.
    """

    def __init__(self, world: World, device: torch.device | str = "cpu"):
        self.world, self.device = world, torch.device(device)
        self._sprites = SpriteAtlas([subject.art for subject in world.subjects], self.device)
        self._sceneries: dict[int, Scenery] = {}
        self._shelves: dict[tuple[int, int], _BackdropShelf] = {}

    def prepare(self, *, size: int = 256, num_frames: int = 33) -> None:
        """Paint every scene and render every backdrop now rather than on first use (half a minute at 256 px with a GPU)."""
        scenery, shelf = self._scenery(size), self._shelf(size, num_frames)
        with ThreadPoolExecutor(len(self.world.scenes)) as pool:
            list(pool.map(scenery.painting, [scene.name for scene in self.world.scenes]))
        for scene, camera in product(range(len(self.world.scenes)), range(len(self.world.cameras))):
            shelf.backdrop(scene, camera)

    @torch.no_grad()
    def render(
        self,
        specs: Sequence[ClipSpec],
        *,
        size: int = 256,
        num_frames: int = 33,
        window: int | None = None,
        crop: int | None = None,
        rng: random.Random | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Render clips.

        Args:
            specs: what happens in each; any mix of scenes.
            size: frame side, pixels. num_frames: of the whole clip, always 2 seconds.
            window: render only this many consecutive frames from a random start, in 30 % of clips from the first.
            crop: render only a square of this many pixels; 65 % aim at the subject.
            rng: draws windows and crops; needed with either.
        Returns:
            frames: float32 [B, 3, T, H, W], sRGB in 0..1, in the order of specs.
            mask: float32 [B, 1, T, H, W], coverage by subject and companion, 0..1.
        """
        if (window or crop) and rng is None:
            raise ValueError("rng: expected a random.Random to draw windows and crops from, got None")
        length, side = window or num_frames, crop or size
        frames = torch.empty(len(specs), 3, length, side, side, device=self.device)
        mask = torch.empty(len(specs), 1, length, side, side, device=self.device)
        by_scene = defaultdict(list)
        for i, spec in enumerate(specs):
            by_scene[spec.scene].append(i)
        shots = [self._shot(spec, size, num_frames, window, crop, rng) for spec in specs]
        for scene, members in by_scene.items():
            for start in range(0, len(members), GROUP):
                group = members[start : start + GROUP]
                where = torch.tensor(group, device=self.device)
                frames[where], mask[where] = self._composite(scene, [shots[i] for i in group], size, num_frames, length, side)
        return frames, mask

    def _shot(self, spec, size, num_frames, window, crop, rng) -> _Shot:
        """Curves of one clip, cut to its window, and the corner of its crop."""
        camera = camera_path(self.world.cameras[spec.camera].name, num_frames)
        subject = subject_pose(self.world, spec, camera)
        companion = None if spec.companion is None else companion_pose(self.world, spec, camera).stacked()
        start, left, top = 0, 0, 0
        if window and rng.random() >= FIRST_WINDOW_SHARE:
            start = rng.randrange(num_frames - window + 1)
        curves = np.stack([camera.zoom, camera.pan, camera.tilt], -1)
        poses = subject.stacked()
        if crop:
            left, top = _crop_corner(poses, curves, start + (window or num_frames) // 2, size, crop, rng)
        cut = slice(start, start + (window or num_frames))
        return _Shot(spec, curves[cut], poses[cut], None if companion is None else companion[cut], start, left, top)

    def _composite(self, scene, shots, size, num_frames, length, side) -> tuple[Tensor, Tensor]:
        """All of one scene: backdrop, shadows, mirror images, companions, subjects, front, tone."""
        name = self.world.scenes[scene].name
        painting = self._scenery(size).painting(name)
        lens = _Lens(shots, size, side, self.device)
        behind, front = self._shelf(size, num_frames).take(scene, shots, length, side)
        light = torch.tensor(painting.light, device=self.device)
        feet = AFLOAT if name in GROUNDLESS else GROUND

        image = behind.float()
        mask = image.new_zeros(len(shots), 1, length, side, side)
        accompanied = [i for i, shot in enumerate(shots) if shot.companion is not None]
        if accompanied:
            rows = torch.tensor(accompanied, device=self.device)
            poses = torch.from_numpy(np.stack([shots[i].companion for i in accompanied])).to(self.device)
            which = torch.tensor([shots[i].spec.companion for i in accompanied], device=self.device)
            part, part_mask = self._stand(image[rows], which, poses, lens.only(rows), painting, light, feet - COMPANION_STEP, name)
            image[rows], mask[rows] = part, part_mask
        poses = torch.from_numpy(np.stack([shot.subject for shot in shots])).to(self.device)
        which = torch.tensor([shot.spec.subject for shot in shots], device=self.device)
        image, subject_mask = self._stand(image, which, poses, lens, painting, light, feet, name)
        mask = mask + subject_mask - mask * subject_mask
        image = image * (1 - front[:, 3:]) + front[:, :3]
        vignette = 1 - 0.10 * (lens.x**2 + lens.y**2)                 # [B, 1, h, w]
        image = (image * vignette).clamp_(1e-6, 1).pow_(1 / GAMMA)
        return image, mask

    def _stand(self, image, which, poses, lens, painting, light, feet, scene) -> tuple[Tensor, Tensor]:
        """Put one sprite a clip into the picture. image [B, 3, T, H, W], poses [B, T, 6]. Returns image, coverage."""
        if scene not in GROUNDLESS:
            image = image * lens.shadow(poses, feet, painting)
        textures = self._sprites.gather(which, light)
        if painting.gloss:
            mirror = self._sprites.sample(textures, lens.affine(poses, mirror_at=feet), lens.texels(poses), blur=1.0)
            strength = painting.gloss * lens.mirror_fade(poses, feet)
            image = image * (1 - strength * mirror[:, 3:]) + strength * mirror[:, :3]
        sprite = self._sprites.sample(textures, lens.affine(poses), lens.texels(poses))
        return image * (1 - sprite[:, 3:]) + sprite[:, :3], sprite[:, 3:]

    def _scenery(self, size: int) -> Scenery:
        if size not in self._sceneries:
            self._sceneries[size] = Scenery(size, self.device)
        return self._sceneries[size]

    def _shelf(self, size: int, num_frames: int) -> _BackdropShelf:
        key = (size, num_frames)
        if key not in self._shelves:
            self._shelves[key] = _BackdropShelf(self.world, self._scenery(size), num_frames)
        return self._shelves[key]


class _Shot:
    """One clip ready to composite: camera [T, 3] (zoom, pan, tilt), poses [T, 6] as in motion.Pose, corner of the crop."""

    def __init__(self, spec, camera, subject, companion, start, left, top):
        self.spec, self.camera, self.subject, self.companion = spec, camera, subject, companion
        self.start, self.left, self.top = start, left, top


def _crop_corner(poses, camera, frame, size, crop, rng) -> tuple[int, int]:
    """Left and top pixel of a crop, aimed at the subject's middle at that frame or anywhere."""
    if rng.random() >= SUBJECT_CROP_SHARE:
        return rng.randrange(size - crop + 1), rng.randrange(size - crop + 1)
    zoom, pan, tilt = camera[frame]
    x = (poses[frame, 0] - pan) * zoom
    y = HORIZON + (poses[frame, 1] - HORIZON) * zoom + tilt
    corner = []
    for centre in (x, y):
        pixel = (centre + 1) / 2 * size - crop / 2 + rng.uniform(-0.3, 0.3) * crop
        corner.append(int(min(max(pixel, 0), size - crop)))
    return corner[0], corner[1]


class _BackdropShelf:
    """Backdrops of one frame size and length, each made when first asked for."""

    def __init__(self, world: World, scenery: Scenery, num_frames: int):
        self._world, self._scenery, self._num_frames = world, scenery, num_frames
        self._made: dict[tuple[int, int], Backdrop] = {}

    def take(self, scene: int, shots: list[_Shot], length: int, side: int) -> tuple[Tensor, Tensor]:
        """behind [B, 3, T, h, w] and front [B, 4, T, h, w], float32, cut to each shot's window and crop."""
        behind, front = [], []
        for shot in shots:
            made = self.backdrop(scene, shot.spec.camera)
            cut = np.s_[shot.start : shot.start + length, :, shot.top : shot.top + side, shot.left : shot.left + side]
            behind.append(made.behind[cut])
            front.append(made.front[cut])
        return (torch.stack(stack).transpose(1, 2).float() for stack in (behind, front))

    def backdrop(self, scene: int, camera: int) -> Backdrop:
        key = (scene, camera)
        if key not in self._made:
            names = self._world.scenes[scene].name, self._world.cameras[camera].name
            self._made[key] = self._scenery.backdrop(*names, self._num_frames)
        return self._made[key]


class _Lens:
    """Screen coordinates of a batch's pixels and its cameras; turns poses into where sprites and shadows fall.

    x [B, 1, 1, 1, w], y [B, 1, 1, h, 1]: screen units. camera [B, T, 3]."""

    def __init__(self, shots, size, side, device):
        steps = torch.arange(side, device=device) + 0.5
        left = torch.tensor([shot.left for shot in shots], device=device)[:, None]
        top = torch.tensor([shot.top for shot in shots], device=device)[:, None]
        self.size = size
        self.x = ((steps + left) / size * 2 - 1)[:, None, None, None, :]
        self.y = ((steps + top) / size * 2 - 1)[:, None, None, :, None]
        self.camera = torch.from_numpy(np.stack([shot.camera for shot in shots])).to(device)

    def only(self, rows: Tensor) -> _Lens:
        lens = object.__new__(_Lens)
        lens.size, lens.x, lens.y, lens.camera = self.size, self.x[rows], self.y[rows], self.camera[rows]
        return lens

    def _on_screen(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        zoom, pan, tilt = self.camera.unbind(-1)
        return (x - pan) * zoom, HORIZON + (y - HORIZON) * zoom + tilt

    def affine(self, poses: Tensor, mirror_at: float | None = None) -> tuple[Tensor, Tensor]:
        """Sprite coordinates (u, v) in -1..1 of every pixel, [B, T, h, w] each; upside down below mirror_at if given."""
        x, y, angle, width, height, _ = poses.unbind(-1)
        zoom = self.camera[..., 0]
        cx, cy = self._on_screen(x, y if mirror_at is None else 2 * mirror_at - y)
        cos, sin = torch.cos(angle), torch.sin(angle)
        upright = 1.0 if mirror_at is None else -1.0
        half_w, half_h = width * zoom / 2, height * zoom / 2
        column = lambda a: a[..., None, None]
        px, py = self.x[:, 0], self.y[:, 0]                    # [B, 1, 1, w], [B, 1, h, 1]
        ux, uy = column(cos / half_w), column(upright * sin / half_w)
        vx, vy = column(-sin / half_h), column(upright * cos / half_h)
        u0 = column(-(cos * cx + upright * sin * cy) / half_w)
        v0 = column((sin * cx - upright * cos * cy) / half_h)
        return torch.addcmul(ux * px + u0, uy, py), torch.addcmul(vx * px + v0, vy, py)

    def texels(self, poses: Tensor) -> Tensor:
        """Pixels a sprite's cell is high (or wide, if less squeezed) on screen, [B, T]; picks the mip level."""
        return poses[..., 3:5].abs().amax(-1) * self.camera[..., 0] * self.size / 2

    def shadow(self, poses: Tensor, feet: float, painting) -> Tensor:
        """Factor on the ground's light, [B, 3, T, h, w]: a wide soft pool and a dark contact, both separable in x and y.

        It spreads and pales with height but never fades: at the top of a jump it tells how high that is."""
        x, _, _, width, height, lift = poses.unbind(-1)
        width, height = width.abs(), height.abs()
        zoom = self.camera[..., 0]
        column = lambda a: a[:, None, :, None, None]
        ground_x, ground_y = self._on_screen(x + painting.shadow_x * height, torch.full_like(x, feet))
        contact_x, _ = self._on_screen(x, x)
        size = torch.maximum(height, 0.5 * width) * zoom
        spread = 1 + 0.35 * lift
        across = torch.exp(-(((self.x - column(ground_x)) / column(0.50 * width * zoom * spread + 0.03)) ** 2) * 1.6)
        along = torch.exp(-(((self.y - column(ground_y)) / column(0.105 * size * spread)) ** 2) * 1.3)
        near_across = torch.exp(-(((self.x - column(contact_x)) / column(0.36 * width * zoom + 0.01)) ** 2) * 1.8)
        near_along = torch.exp(-(((self.y - column(ground_y)) / column(0.035 * size)) ** 2))
        pool = (across * column(0.95 / (1 + 0.30 * lift))) * along
        dark = (near_across * column(0.30 + 0.40 * torch.exp(-9 * lift))) * near_along
        tint = 1 - torch.tensor(painting.shadow, device=x.device).view(1, 3, 1, 1, 1)
        return (1 - tint * pool) * (1 - dark)

    def mirror_fade(self, poses: Tensor, feet: float) -> Tensor:
        """1 at the line where the ground begins to mirror, fading below it, 0 above; [B, 1, T, h, 1]."""
        _, ground_y = self._on_screen(poses[..., 0], torch.full_like(poses[..., 0], feet))
        down = (self.y - ground_y[:, None, :, None, None]) / 0.55
        return (down > 0) * (1 - down).clamp(min=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", type=Path, required=True, help="PNG or JPEG to write")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from .sheet import contact_sheet

    world, rng = load_world(), random.Random(arguments.seed)
    compositor = Compositor(world)
    specs = []
    for i in range(arguments.count):                         # every scene and every motion in turn
        while True:
            spec = sample_specs(world, 1, rng, scene=i % len(world.scenes))[0]
            if spec.motion == i % len(world.motions):
                break
        specs.append(spec)
    videos = []
    for spec in specs:
        frames, _ = compositor.render([spec])
        videos.append((frames[0].permute(1, 2, 3, 0) * 255 + 0.5).byte().numpy())
    contact_sheet(videos, [caption(world, spec, rng) for spec in specs], arguments.sheet, columns=3)


if __name__ == "__main__":
    main()
