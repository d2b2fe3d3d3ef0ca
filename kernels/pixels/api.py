"""Norm over the channels of every pixel and SiLU, with the sums before it and the frames in front of it, in one pass.

Source of the block it serves: Wan Team 2025, arXiv:2503.20314, section 4.1 (RMS norm over channels, causal convolutions).
"""
import torch
from torch import Tensor

from kernels.checks import check_like, check_shape, pick_backend
from kernels.pixels import reference


def norm_silu(x: Tensor, gamma: Tensor, *, bias: Tensor | None = None, plus: Tensor | None = None, lead: int = 0, keep: bool = False,
              backend: str = "auto") -> tuple[Tensor, Tensor | None]:
    """silu(s / rms(s) * gamma) over the channels, s = x + bias + plus.

    Args:
        x, plus: [B, C, T, H, W], channels last in memory (`torch.channels_last_3d`) for Triton. gamma, bias: [C].
        lead: frames left free in front of the result, for what a causal convolution has to remember.
        keep: return s too. backend: "triton", "torch", or "auto": triton on CUDA.
    Returns: [B, C, lead + T, H, W] like x, its first `lead` frames not written; and s, or None. float32 inside. No gradient.
    Raises: ValueError for shapes, dtypes and devices that do not fit.
    """
    channels = check_shape("x", x, (None, None, None, None, None))[1]
    for name, t in (("gamma", gamma), ("bias", bias)):
        if t is not None:
            check_shape(name, t, (channels,))
            if t.device != x.device:
                raise ValueError(f"{name}: expected a tensor on {x.device}, got {t.device}")
    if plus is not None:
        check_shape("plus", plus, tuple(x.shape))
        check_like("plus", plus, x)
    if lead < 0:
        raise ValueError(f"lead: expected 0 frames or more, got {lead}")
    with torch.no_grad():
        if pick_backend(backend, x) == "torch":
            return reference.norm_silu_reference(x, gamma, bias, plus, lead, keep)
        from kernels.pixels import launch

        return launch.norm_silu(x, gamma, bias, plus, lead, keep)
