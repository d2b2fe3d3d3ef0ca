"""A video decoder's works on pixels: norm over the channels and SiLU with the sums before it, the convolution, doubling.

Source of the block it serves: Wan Team 2025, arXiv:2503.20314, section 4.1 (RMS norm over channels, causal convolutions).
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.checks import check_like, check_shape, pick_backend
from kernels.pixels import reference


def conv3(x: Tensor, weight: Tensor, *, backend: str = "auto") -> Tensor:
    """3 x 3 x 3 convolution, zeros around each frame and none before the first: two frames fewer come out.

    Args:
        x: [B, C, T + 2, H, W]; weight: [N, C, 3, 3, 3]; channels last in memory for speed.
        backend: "triton", "torch" (cuDNN, oneDNN), or "auto": on CUDA the faster at this size on this card, elsewhere "torch".
    Returns: [B, N, T, H, W] like x, sums in float32. No bias. Raises: ValueError for shapes that do not fit.
    """
    batch, channels, frames, *_ = check_shape("x", x, (None, None, None, None, None))
    check_shape("weight", weight, (None, channels, 3, 3, 3))
    check_like("weight", weight, x)
    if frames < 3:
        raise ValueError(f"x: expected 3 frames or more, two of them the past, got {frames}")
    if backend == "auto" and x.is_cuda:
        from kernels.pixels import launch

        return launch.fastest_conv3(x, weight)
    if pick_backend(backend, x) == "torch":
        return F.conv3d(x, weight, padding=(0, 1, 1))
    from kernels.pixels import launch

    if not launch.can_convolve(x, weight):
        raise ValueError(f"weight: expected 64 n, 80 or 96 channels and 8 m outputs for backend 'triton', got {list(weight.shape)}; "
                         "try backend='torch'")
    return launch.conv3(x, weight)


def double_pixels(x: Tensor, *, backend: str = "auto") -> Tensor:
    """Each pixel as four: [B, C, T, H, W] -> [B, C, T, 2 H, 2 W], channels last in memory. No gradient. torch's own takes ten times a copy."""
    check_shape("x", x, (None, None, None, None, None))
    with torch.no_grad():
        if pick_backend(backend, x) == "torch":
            y = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            return y.contiguous(memory_format=torch.channels_last_3d)
        from kernels.pixels import launch

        return launch.double_pixels(x)


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
