"""How near a clip comes to the rendered one that its prompt describes.

A prompt with its seed leaves nothing open (`Vocabulary.read`), so there is one right clip. Where the other is off tells what one sees:
the subject itself, its outline, or a ghost of where it was.
"""
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch.nn.functional as F
from torch import Tensor

from turbo_engine.distill.captions import parse_caption
from turbo_engine.distill.vae import psnr
from turbo_engine.distill.world import ClipSpec, World

RIM = 4                # pixels to either side of an outline, at 256 x 256
REACH = 16             # a ghost or halo is within so many pixels of the subject


def settled(world: World, spec: ClipSpec, read: str) -> ClipSpec:
    """The clip that a prompt read with its seed means: what the words left open is taken from it. read: of `Vocabulary.read`."""
    said = parse_caption(world, read)
    return replace(spec, place=said.get("place", spec.place), scene=said.get("scene", spec.scene))


def regions(mask: Tensor) -> dict[str, Tensor]:
    """What a clip is compared over, each [B, 1, T, H, W] in [0, 1]: the subject inside its outline, `rim` around the outline, `beside` it, where
    nothing of the subject is, and all that is `elsewhere`. mask [B, 1, T, H, W]: the subject's coverage."""
    def grown(area: Tensor, by: int) -> Tensor:
        rows = F.max_pool3d(area, (1, 1, 2 * by + 1), 1, (0, 0, by))       # a square's maximum is that of its rows' maxima
        return F.max_pool3d(rows, (1, 2 * by + 1, 1), 1, (0, by, 0))

    inside, around, near = 1 - grown(1 - mask, RIM), grown(mask, RIM), grown(mask, REACH)
    return {"inside": inside, "rim": around - inside, "beside": near - around, "elsewhere": 1 - near}


def nearness(frames: Tensor, rendered: Tensor, areas: dict[str, Tensor]) -> list[dict[str, float]]:
    """Of each clip: PSNR to the rendered one by region, dB, and the energy of its horizontal gradient on the rim as a share of the other's.

    frames, rendered [B, 3, T, H, W] in [0, 1]; areas: `regions` of the rendered ones. A region that a clip does not have is left out.
    """
    rim = areas["rim"][..., 1:]

    def energy(clips: Tensor) -> Tensor:
        return ((clips[..., 1:] - clips[..., :-1]).square() * rim).sum((1, 2, 3, 4))

    rows: list[dict[str, float]] = [{"rim_sharpness": share} for share in (energy(frames) / energy(rendered).clamp(min=1e-9)).tolist()]
    for name, area in areas.items():
        for row, decibels, size in zip(rows, psnr(frames, rendered, area).tolist(), area.sum((1, 2, 3, 4)).tolist()):
            if size >= 1:
                row[name] = decibels
    return rows


def mean_rows(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each number's mean over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: round(fmean(row[name] for row in rows if name in row), 3) for name in names}


def rows_by(kinds: Sequence[str], rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """`mean_rows` of the rows of each kind, and how many there are; the farthest inside the subject first. kinds: of each row."""
    means = {kind: {"clips": kinds.count(kind), **mean_rows([row for of, row in zip(kinds, rows, strict=True) if of == kind])} for kind in dict.fromkeys(kinds)}
    return dict(sorted(means.items(), key=lambda item: item[1].get("inside", float("inf"))))
