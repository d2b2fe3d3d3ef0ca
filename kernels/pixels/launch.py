"""The host side: layouts and the grid."""
import torch
import triton
from torch import Tensor

from kernels.pixels.kernel import norm_silu_kernel

TILE = 4096
"""Numbers a program holds: 32 a thread of 4 warps."""


def norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None, plus: Tensor | None, lead: int, keep: bool) -> tuple[Tensor, Tensor | None]:
    x, plus = (t if t is None else t.contiguous(memory_format=torch.channels_last_3d) for t in (x, plus))
    batch, width, frames, height, columns = x.shape
    out = torch.empty(batch, lead + frames, height, columns, width, dtype=x.dtype, device=x.device).permute(0, 4, 1, 2, 3)
    sums = torch.empty_like(x) if keep else None
    frame_rows, padded = frames * height * columns, triton.next_power_of_2(width)
    block = max(1, TILE // padded)
    if x.numel():
        with torch.cuda.device_of(x):
            norm_silu_kernel[(triton.cdiv(batch * frame_rows, block),)](
                x, gamma if bias is None else bias, x if plus is None else plus, gamma, out if sums is None else sums, out, batch * frame_rows,
                frame_rows, lead * height * columns, width, width ** 0.5, BIAS=bias is not None, PLUS=plus is not None, KEEP=keep,
                BLOCK=block, WIDTH=padded, num_warps=4)
    return out, sums
