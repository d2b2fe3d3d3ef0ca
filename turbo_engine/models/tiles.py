"""A picture too large for the memory at hand, worked on in overlapping tiles whose seams are blended."""
from collections.abc import Callable

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of the fewest equal tiles that cover `length`, evenly spread, neighbours sharing `overlap` or more."""
    if length <= tile:
        return [0]
    count = -((overlap - length) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def blend_tiles(run: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, overlap: int, unit_in: int, unit_out: int) -> Tensor:
    """`run` on tiles of x, added up with weights that fall linearly towards each neighbour.

    Args:
        run: [..., h * unit_in, w * unit_in] -> [..., h * unit_out, w * unit_out], one tile, any other dimensions.
        tile, overlap: sides in units, 0 <= overlap < tile.
    Returns: as `run` on all of x, but for what lies beyond a tile's border.
    Raises: ValueError for an overlap that leaves no progress.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap: expected 0 to tile - 1 = {tile - 1}, got {overlap}")
    height, width = (side // unit_in for side in x.shape[-2:])
    rows, columns = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    tall, wide = min(tile, height), min(tile, width)
    out = total = None
    for top in rows:
        for left in columns:
            part = run(x[..., top * unit_in:(top + tall) * unit_in, left * unit_in:(left + wide) * unit_in])
            if out is None:
                out = part.new_zeros(*part.shape[:-2], height * unit_out, width * unit_out)
                total = part.new_zeros(height * unit_out, width * unit_out)
            weight = (_ramp(top, tall, height, overlap, unit_out, part)[:, None] * _ramp(left, wide, width, overlap, unit_out, part))
            place = (..., slice(top * unit_out, (top + tall) * unit_out), slice(left * unit_out, (left + wide) * unit_out))
            out[place] += part * weight
            total[place] += weight
    return out.div_(total)


def _ramp(start: int, size: int, length: int, overlap: int, unit: int, like: Tensor) -> Tensor:
    """Weights along one side of a tile, [size * unit]: 1, but falling over the overlap where another tile goes on."""
    steps = torch.arange(size * unit, device=like.device, dtype=like.dtype) + 0.5
    reach = max(overlap * unit, 1)
    up = (steps / reach).clamp(max=1) if start > 0 else 1
    down = (steps.flip(0) / reach).clamp(max=1) if start + size < length else 1
    return torch.ones_like(steps) * up * down
