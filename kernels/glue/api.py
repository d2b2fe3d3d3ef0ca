"""Residual + norm + modulation, QK norm + rotation, GELU: one pass each, and the result in 8 bits where a product reads it next.

Source of the block they serve: Wan Team 2025, arXiv:2503.20314; adaLN: Peebles & Xie 2022, arXiv:2212.09748.
"""
import torch
from torch import Tensor

from kernels.checks import check_shape, pick_backend
from kernels.formats import check_format
from kernels.glue import reference

Rows = Tensor | tuple[Tensor, Tensor]
"""Rows in 16 or 32 bits, or (x8, scale) as from `quantize_rows`."""


def add_norm(x: Tensor, y: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, *, eps: float = 1e-6,
             dtype: torch.dtype = torch.bfloat16, format: str | None = None, backend: str = "auto") -> tuple[Tensor, Rows]:
    """Add a layer's output to the residual stream, then LayerNorm and modulate: x + gate * y, h = norm(x) * scale + shift.

    Args:
        x: residual stream, [B, L, C]; y: the layer's output like x in shape, or None: x stays as it is.
        gate: [B, C], or None for 1; scale, shift: [B, C]. adaLN's "1 + scale" is the caller's; a norm with weights gives those.
        dtype: of h, unless format ("fp8" or "int8") asks for 8 bits. backend: "triton", "torch", or "auto": triton on CUDA.
    Returns: the new stream like x (x itself where y is None), and h [B, L, C] or (h8, h_scale). float32 inside. No gradient.
    Raises: ValueError for shapes and devices that do not fit.
    """
    batch, _, channels = check_shape("x", x, (None, None, None))
    if y is not None:
        check_shape("y", y, tuple(x.shape))
    for name, t in (("gate", gate), ("scale", scale), ("shift", shift)):
        if t is not None:
            check_shape(name, t, (batch, channels))
    _check_devices(x, y=y, gate=gate, scale=scale, shift=shift)
    if format is not None:
        check_format(format)
    with torch.no_grad():
        if pick_backend(backend, x) == "torch":
            stream, h = reference.add_norm_reference(x, y, gate, scale, shift, eps)
            return (x if y is None else stream), reference.emit(h, dtype, format)
        from kernels.glue import launch

        return launch.add_norm(x, y, gate, scale, shift, eps, dtype, format)


def gelu_rows(x: Tensor, *, format: str | None = None, backend: str = "auto") -> Rows:
    """GELU, tanh form, of rows [..., C]. Returns: like x, or with format (h8, h_scale). No gradient."""
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"x: expected rows, got {list(x.shape)}")
    if format is not None:
        check_format(format)
    with torch.no_grad():
        if pick_backend(backend, x) == "torch":
            return reference.emit(reference.gelu_reference(x), x.dtype, format)
        from kernels.glue import launch

        return launch.gelu_rows(x, format)


def norm_rope(x: Tensor, weight: Tensor, rope: tuple[Tensor, Tensor] | None, *, num_heads: int, eps: float = 1e-6,
              backend: str = "auto") -> Tensor:
    """RMSNorm of queries or keys over all their channels, then their rotation.

    Args:
        x: [B, L, H * D], rows may lie apart (a slice of a fused qkv product); weight: [H * D].
        rope: cos and sin of the angles, [L, D / 2] float32, for interleaved pairs; None: no rotation.
    Returns: [B, H, L, D] in the dtype of x, laid out as [B, L, H, D]. float32 inside. No gradient. Raises: ValueError.
    """
    _, length, channels = check_shape("x", x, (None, None, None))
    check_shape("weight", weight, (channels,))
    if num_heads < 1 or channels % num_heads or channels // num_heads % 2:
        raise ValueError(f"num_heads: expected {channels} channels to split into heads of an even size, got {num_heads}")
    for name, t in zip(("cos", "sin"), rope or ()):
        check_shape(name, t, (length, channels // num_heads // 2))
    _check_devices(x, weight=weight, **dict(zip(("cos", "sin"), rope or ())))
    with torch.no_grad():
        if pick_backend(backend, x) == "torch":
            return reference.norm_rope_reference(x, weight, rope, num_heads, eps).to(x.dtype)
        from kernels.glue import launch

        return launch.norm_rope(x, weight, rope, num_heads, eps)


def _check_devices(x: Tensor, **others: Tensor | None) -> None:
    for name, t in others.items():
        if t is not None and t.device != x.device:
            raise ValueError(f"{name}: expected a tensor on {x.device}, got {t.device}")
