"""8-bit attention: q k^T in int8 or e4m3, softmax in float32, its product with v in e4m3 or in the dtype of v.

Source: Zhang et al. 2024, arXiv:2410.02367, and 2024, arXiv:2411.10958 (smoothed keys, a finer scale for q, e4m3 for the second product).
"""
import torch
from torch import Tensor

from kernels.checks import check_like, check_shape, pick_backend
from kernels.formats import check_format
from kernels.sage import reference

PV = ("fp8", "16")


def sage_attention(q: Tensor, k: Tensor, v: Tensor, *, qk: str | None = None, pv: str | None = None, backend: str = "auto") -> Tensor:
    """Softmax attention in 8 bits, logits scaled by D ** -0.5, no mask.

    Args:
        q: [B, H, L, D]; k, v: [B, H, S, D]; any strides, same dtype and device. D is 64 or 128 for Triton.
        qk: format of q and k, "int8" or "fp8"; None: what this device does best. A scale per query token and per 128 keys; the mean
            key is taken away first, which softmax does not see.
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
    qk, pv = qk or best_formats(q.device)[0], pv or best_formats(q.device)[1]
    check_formats(qk, pv)
    with torch.no_grad():
        if pick_backend(backend, q) == "torch":
            return reference.sage_attention_reference(q, k, v, qk, pv)
        from kernels.sage import launch

        return launch.sage_attention(q, k, v, qk, pv)


def check_formats(qk: str, pv: str) -> None:
    """Raises: ValueError for a name that is no format."""
    check_format(qk)
    if pv not in PV:
        raise ValueError(f"pv: expected 'fp8' or '16', got {pv!r}")


def best_formats(device: torch.device) -> tuple[str, str]:
    """(qk, pv) for a device: int8 logits everywhere; e4m3 for the second product from Ada on."""
    return "int8", "fp8" if device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9) else "16"
