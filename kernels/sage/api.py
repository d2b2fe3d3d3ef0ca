"""8-bit attention: q k^T in int8, softmax in float32, its product with v in e4m3 or in the dtype of v.

Source: Zhang et al. 2024, arXiv:2410.02367, and 2024, arXiv:2411.10958 (smoothed keys, a finer scale for q, e4m3 for the second product).
"""
import torch
from torch import Tensor

from kernels.checks import check_like, check_shape, pick_backend
from kernels.sage import reference

PV = ("fp8", "16")


def sage_attention(q: Tensor, k: Tensor, v: Tensor, *, pv: str | None = None, backend: str = "auto") -> Tensor:
    """Softmax attention in 8 bits, logits scaled by D ** -0.5, no mask.

    q and k are rounded to int8, a scale per query token and per 128 keys; the mean key is taken away first, which softmax does not see.

    Args:
        q: [B, H, L, D]; k, v: [B, H, S, D]; any strides, same dtype and device. D is 64 or 128 for Triton.
        pv: "fp8" (weights and v in e4m3, a scale per channel of v) or "16" (v as it is); None: "fp8" where the device has it.
        backend: "triton", "torch" (the reference), or "auto": triton on CUDA. Triton takes float16, bfloat16 and float32.
    Returns: like q; from Triton it is laid out as [B, L, H, D]. No gradient. Raises: ValueError for what does not fit.
    """
    batch, num_heads, _, head_dim = check_shape("q", q, (None, None, None, None))
    shape = check_shape("k", k, (batch, num_heads, None, head_dim))
    check_shape("v", v, shape)
    for name, x in (("k", k), ("v", v)):
        check_like(name, x, q)
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"q, k: expected no empty dimension, got {list(q.shape)} and {list(k.shape)}")
    pv = pv or best_pv(q.device)
    check_pv(pv)
    with torch.no_grad():
        if pick_backend(backend, q) == "torch":
            return reference.sage_attention_reference(q, k, v, pv)
        from kernels.sage import launch

        return launch.sage_attention(q, k, v, pv)


def check_pv(pv: str) -> None:
    """Raises: ValueError for a name that is no format of the values."""
    if pv not in PV:
        raise ValueError(f"pv: expected 'fp8' or '16', got {pv!r}")


def best_pv(device: torch.device) -> str:
    """The format of the values for a device: e4m3 from Ada on, and on the CPU."""
    return "fp8" if device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9) else "16"
