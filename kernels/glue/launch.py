"""The host side of the glue: outputs, strides and grids."""
import torch
import triton
from torch import Tensor

from kernels.formats import FORMATS, LARGEST, SMALLEST_AMAX
from kernels.glue.kernel import add_norm_kernel, gelu_kernel, norm_rope_kernel
from kernels.tuning import row_warps


def add_norm(x: Tensor, y: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, eps: float, dtype: torch.dtype,
             format: str | None) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
    add = y is not None
    x, y = x.contiguous(), y.contiguous() if add else x
    vectors = [t if t.stride(1) == 1 else t.contiguous() for t in (scale if gate is None else gate, scale, shift)]
    batch, length, width = x.shape
    stream = torch.empty_like(x) if add else x
    out, out_scale, options = _room(x, dtype, format)
    if out.numel():
        with torch.cuda.device_of(x):
            add_norm_kernel[(batch * length,)](x, y, *vectors, stream, out, out_scale, *(t.stride(0) for t in vectors), length, width, eps,
                                               ADD=add, GATE=gate is not None, **options)
    return stream, out if format is None else (out, out_scale)


def gelu_rows(x: Tensor, format: str | None) -> Tensor | tuple[Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    out, out_scale, options = _room(x, x.dtype, format)
    if out.numel():
        with torch.cuda.device_of(x):
            gelu_kernel[(len(rows),)](rows, out, out_scale, rows.stride(0), rows.shape[1], **options)
    return out if format is None else (out, out_scale)


def norm_rope(x: Tensor, weight: Tensor, rope: tuple[Tensor, Tensor] | None, num_heads: int, eps: float) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, length, width = x.shape
    out = torch.empty(batch, length, width, dtype=x.dtype, device=x.device)
    cos, sin = (t.float().contiguous() for t in rope or (weight[:1], weight[:1]))
    padded = triton.next_power_of_2(width)
    if out.numel():
        with torch.cuda.device_of(x):
            norm_rope_kernel[(batch * length,)](x, weight.contiguous(), cos, sin, out, *x.stride()[:2], length, width, eps,
                                                ROPE=rope is not None, HALF_DIM=width // num_heads // 2, WIDTH=padded,
                                                num_warps=row_warps(padded))
    return out.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _room(x: Tensor, dtype: torch.dtype, format: str | None) -> tuple[Tensor, Tensor, dict]:
    """Where the rows of x go, their scales (nothing without format), and the kernels' options."""
    target = dtype if format is None else FORMATS[format]
    out = torch.empty(x.shape, dtype=target, device=x.device)
    out_scale = torch.empty(x.shape[:-1] if format else (1,), dtype=torch.float32, device=x.device)
    padded = triton.next_power_of_2(x.shape[-1])
    return out, out_scale, dict(LARGEST=LARGEST.get(target, 0.0), SMALLEST_AMAX=SMALLEST_AMAX, WIDTH=padded,
                                num_warps=row_warps(padded))
