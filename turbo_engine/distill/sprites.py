"""The shipped art as textures: mip levels, light and sampling, batched over clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .paint import GAMMA

ART_FILE = Path(__file__).with_name("art.webp")
ART_INDEX = Path(__file__).with_name("art.json")

MIP_LEVELS = 4
SHARPEN_LOD = 0.35          # mip levels finer than exact: crisper art for a trace of shimmer


class SpriteAtlas:
    """The art, premultiplied and linear, each picture with its mip levels side by side in one texture.

    Args:
        art: names in art.json, in the order they will be asked for by index.
    """

    def __init__(self, art: Sequence[str], device: torch.device):
        index = json.loads(ART_INDEX.read_text())
        self.cell, columns = index["cell"], index["columns"]
        place = {name: i for i, name in enumerate(index["names"])}
        if missing := [name for name in art if name not in place]:
            raise ValueError(f"art.webp has no picture of {missing[0]!r}; rebuild it with turbo_engine.distill.build_art")
        atlas = cv2.imdecode(np.frombuffer(ART_FILE.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        atlas = atlas[..., [2, 1, 0, 3]].astype(np.float32) / 255
        atlas = np.concatenate([atlas[..., :3] ** GAMMA * atlas[..., 3:], atlas[..., 3:]], -1)
        cells = []
        for name in art:
            row, column = divmod(place[name], columns)
            cells.append(atlas[row * self.cell : (row + 1) * self.cell, column * self.cell : (column + 1) * self.cell])
        level = torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2)
        self._gutter = 2
        self._offsets, x, textures = [], 0, []
        for _ in range(MIP_LEVELS):
            padded = F.pad(level, (self._gutter,) * 4)
            self._offsets.append((x, padded.shape[-1]))
            textures.append(F.pad(padded, (0, 0, 0, self.cell + 2 * self._gutter - padded.shape[-2])))
            x += padded.shape[-1]
            level = F.avg_pool2d(level, 2)
        self._textures = torch.cat(textures, -1).contiguous().to(device)           # [N, 4, h, w]
        shade = 1.05 - 0.16 * torch.linspace(0, 1, self.cell)                      # a little darker at the feet
        self._textures[:, :3, self._gutter : self._gutter + self.cell, : self.cell + 4] *= shade.to(device)[:, None]

    def gather(self, which: Tensor, light: Tensor) -> Tensor:
        """Textures of a batch under a coloured light: which [B] -> [B, 4, h, w]."""
        tint = torch.cat([light, light.new_ones(1)]).view(1, 4, 1, 1)
        return self._textures[which] * tint

    def sample(self, textures: Tensor, uv: tuple[Tensor, Tensor], texels: Tensor, blur: float = 0.0) -> Tensor:
        """Sample sprites between their two nearest mip levels.

        Args:
            textures: [B, 4, h, w] of gather.
            uv: sprite coordinates, -1..1 over the cell, [B, T, H, W] each.
            texels: pixels the cell covers on screen, [B, T].
            blur: mip levels coarser than sharp.
        Returns: premultiplied linear RGBA [B, 4, T, H, W].
        """
        level = (torch.log2(self.cell / texels.clamp(min=1)) - SHARPEN_LOD + blur).clamp(0, MIP_LEVELS - 1.001)
        fine = level.floor()
        blend = (level - fine)[:, None, :, None, None]
        first = self._sample_level(textures, uv, fine)
        return torch.lerp(first, self._sample_level(textures, uv, fine + 1), blend)

    def _sample_level(self, textures, uv, level) -> Tensor:
        """level [B, T], whole numbers."""
        height, width = textures.shape[-2:]
        offsets = torch.tensor(self._offsets, device=textures.device, dtype=torch.float32)
        x0, padded = offsets[level.long().clamp(max=MIP_LEVELS - 1)].unbind(-1)    # [B, T]
        side = padded - 2 * self._gutter
        grid = []
        for coordinate, start, extent in ((uv[0], x0, width), (uv[1], torch.zeros_like(x0), height)):
            # pixel = start + gutter + (u + 1) / 2 * side; the gutter is transparent and takes all that is outside
            scale = side / extent
            shift = (2 * (start + self._gutter) + side) / extent - 1
            limit = 1 + self._gutter / side
            bounded = torch.minimum(torch.maximum(coordinate, -limit[..., None, None]), limit[..., None, None])
            grid.append(torch.addcmul(shift[..., None, None], bounded, scale[..., None, None]))
        batch, length, rows, columns = grid[0].shape
        grid = torch.stack(grid, -1).view(batch, length * rows, columns, 2)
        out = F.grid_sample(textures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return out.view(batch, 4, length, rows, columns)
