"""What the glue means, in plain torch: float32 or wider inside, rounded once at the end."""
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.sla.reference import widen
from kernels.w8a8.reference import quantize_rows_reference


def add_norm_reference(x: Tensor, y: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The new stream like x, and h = LayerNorm(stream) * scale + shift, wide. The norm sees the stream before it is rounded."""
    stream = widen(x)
    if y is not None:
        stream = stream + (widen(y) if gate is None else widen(gate)[:, None] * widen(y))
    h = F.layer_norm(stream, (x.shape[-1],), eps=eps) * widen(scale)[:, None] + widen(shift)[:, None]
    return stream.to(x.dtype), h


def gelu_reference(x: Tensor) -> Tensor:
    return F.gelu(widen(x), approximate="tanh")


def norm_rope_reference(x: Tensor, weight: Tensor, rope: tuple[Tensor, Tensor] | None, num_heads: int, eps: float) -> Tensor:
    """RMSNorm over all channels, then rotation of interleaved pairs in each head. x [B, L, C] -> wide [B, H, L, D]."""
    wide = widen(x)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * widen(weight)
    heads = normed.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    if rope is None:
        return heads
    cos, sin = (t.to(wide.dtype) for t in rope)
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def emit(h: Tensor, dtype: torch.dtype, format: str | None) -> Tensor | tuple[Tensor, Tensor]:
    """h in dtype, or rounded to 8 bits by row."""
    return h.to(dtype) if format is None else quantize_rows_reference(h, format)
