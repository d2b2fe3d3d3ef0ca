"""The host side: layouts and the grid."""
import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.choice import fastest
from kernels.pixels.kernel import conv3 as conv3_kernel
from kernels.pixels.kernel import double_kernel, norm_silu_kernel

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


def double_pixels(x: Tensor) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last_3d)
    batch, width, frames, height, columns = x.shape
    y = torch.empty(batch, frames, 2 * height, 2 * columns, width, dtype=x.dtype, device=x.device)
    pixels, padded = batch * frames * height * columns, triton.next_power_of_2(width)
    block = max(1, TILE // padded)
    if pixels:
        with torch.cuda.device_of(x):
            double_kernel[(triton.cdiv(pixels, block),)](x, y, pixels, columns, width, BLOCK=block, WIDTH=padded, num_warps=4)
    return y.permute(0, 4, 1, 2, 3)


def conv3(x: Tensor, weight: Tensor) -> Tensor:
    """`conv3` by Triton; C and N as `can_convolve` has them."""
    x, weight = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, weight))
    batch, channels, frames, height, width = x.shape
    outs, tail = len(weight), channels % 64
    y = torch.empty(batch, frames - 2, height, width, outs, dtype=x.dtype, device=x.device)
    pixels = x.permute(0, 2, 3, 4, 1)
    taps = weight.permute(0, 2, 3, 4, 1).reshape(outs, 27, channels)
    describe = [TensorDescriptor(t, list(t.shape), list(t.stride()), [1] * t.ndim) for t in (pixels, pixels, taps, taps, y)]

    def grid(meta):
        tiles = triton.cdiv(height, meta["HIGH"]) * triton.cdiv(width, meta["WIDE"])
        return (batch * (frames - 2) * tiles * triton.cdiv(outs, meta["BLOCK_N"]),)

    if y.numel():
        with torch.cuda.device_of(x):
            conv3_kernel[grid](*describe, frames - 2, height, width, outs, channels // 64, STEP=64, TAIL=tail)
    return y.permute(0, 4, 1, 2, 3)


def can_convolve(x: Tensor, weight: Tensor) -> bool:
    """Whole steps of 64 channels, or one and 16 or 32 more; rows of outputs in steps of 16 bytes."""
    return (x.shape[1] % 64 == 0 or x.shape[1] in (80, 96)) and len(weight) % 8 == 0


def fastest_conv3(x: Tensor, weight: Tensor) -> Tensor:
    """cuDNN or Triton, whichever ran faster at these channels and this size of frame. The copy engine's part is on Hopper and later."""
    ways = {"library": lambda: F.conv3d(x, weight, padding=(0, 1, 1))}
    if can_convolve(x, weight) and x.element_size() == 2 and torch.cuda.get_device_capability(x.device) >= (9, 0):
        ways["triton"] = lambda: conv3(x, weight)
    shape = str(x.dtype).removeprefix("torch."), *weight.shape[:2], *x.shape[3:]
    return ways[fastest("conv3", shape, ways, x.device)]()
