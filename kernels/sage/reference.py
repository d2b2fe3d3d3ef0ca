"""What 8-bit attention means, in plain torch: the quantiser, and the attention on what it leaves.

Everything is float32 inside. The kernel visits keys block by block and this does not, yet both round alike: weights are taken relative
to a whole power of two at or above the row's largest, and rounding to e4m3 does not see whole powers of two.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats import narrow_reference, quantize_reference

KEY_BLOCK = 128
"""Tokens of k that share a scale; tokens are padded to a multiple of it."""
LOG2E = 1.4426950408889634
WEIGHT_BITS = 8
"""Weights exp2(logit - top) are in (0, 1]; times 2 ** 8 they use e4m3 from its smallest number to near its largest."""


def quantize_queries(q: Tensor) -> tuple[Tensor, Tensor]:
    """q8 like q, int8, and q_scale [B, H, L], one for each token."""
    q8, q_scale = quantize_reference(q.float(), q.float().abs().amax(-1, keepdim=True), torch.int8)
    return q8, q_scale.squeeze(-1)


def quantize_keys(k: Tensor) -> tuple[Tensor, Tensor]:
    """k8 like k, int8, less its mean over the tokens, and k_scale [B, H, ceil(L / KEY_BLOCK)]. Softmax does not see the mean."""
    wide, length = k.float(), k.shape[2]
    smooth = F.pad(wide - wide.mean(2, keepdim=True), (0, 0, 0, -length % KEY_BLOCK)).unflatten(2, (-1, KEY_BLOCK))
    k8, k_scale = quantize_reference(smooth, smooth.abs().amax((-1, -2), keepdim=True), torch.int8)
    return k8.flatten(2, 3)[:, :, :length], k_scale[..., 0, 0]


def quantize_values(v: Tensor) -> tuple[Tensor, Tensor]:
    """v8 like v, e4m3, and v_scale [B, H, D], one for each channel."""
    v8, v_scale = quantize_reference(v.float(), v.float().abs().amax(2, keepdim=True), torch.float8_e4m3fn)
    return v8, v_scale.squeeze(2)


def sage_attention_reference(q: Tensor, k: Tensor, v: Tensor, pv: str, mask: Tensor | None = None) -> Tensor:
    """`sage_attention` with every rounding of the kernel, all logits at once. mask: which key each query sees. Returns: like q."""
    q8, q_scale = quantize_queries(q)
    k8, k_scale = quantize_keys(k)
    scale = (q_scale * (q.shape[-1] ** -0.5 * LOG2E))[..., None] * k_scale.repeat_interleave(KEY_BLOCK, 2)[:, :, None, :k.shape[2]]
    logits = (q8.float() @ k8.float().transpose(-1, -2)) * scale                      # base 2
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    weights = torch.exp2(logits - logits.amax(-1, keepdim=True).ceil() + WEIGHT_BITS)
    total = weights.sum(-1, keepdim=True)
    if pv == "fp8":
        v8, v_scale = quantize_values(v)
        rounded = narrow_reference(weights, torch.float8_e4m3fn).float()
        return (rounded @ v8.float() / total * v_scale[:, :, None]).to(q.dtype)
    return (weights.to(v.dtype).float() @ v.float() / total).to(q.dtype)
