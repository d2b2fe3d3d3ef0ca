"""What sparse-linear attention means, in plain torch: no kernel, any device, differentiable.

Everything is float32 or wider inside and the inputs' dtype outside. These are the maths of the released TurboDiffusion
checkpoints; the paper (Zhang et al. 2025, arXiv:2509.24006) keeps the linear branch off the selected blocks, they do not.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR_EPS = 1e-5


def widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def num_blocks(length: int, block: int) -> int:
    return -(-length // block)


def num_kept(density: float, blocks: int) -> int:
    """Key blocks kept of this many: density times them, rounded down, at least one."""
    return min(blocks, max(1, int(density * blocks)))


def block_means(x: Tensor, block: int) -> Tensor:
    """Mean of each block of tokens; the last block has its own count. x [B, H, L, D] -> [B, H, ceil(L / block), D]."""
    length = x.shape[2]
    blocks = num_blocks(length, block)
    padded = F.pad(widen(x), (0, 0, 0, blocks * block - length))
    counts = torch.full((blocks, 1), block, device=x.device)
    counts[-1] = length - (blocks - 1) * block
    return padded.unflatten(2, (blocks, block)).sum(3) / counts


def block_mask_topk_reference(q: Tensor, k: Tensor, density: float, block_q: int, block_k: int) -> Tensor:
    """The lut of `block_mask_topk`: the largest products of mean query and mean smoothed key. Ties: lower index first."""
    smooth = widen(k) - widen(k).mean(2, keepdim=True)
    scores = block_means(q, block_q) @ block_means(smooth, block_k).transpose(-1, -2)      # [B, H, Mq, Nk]
    best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :num_kept(density, scores.shape[-1])]
    return best.sort(-1).values.int()


def block_mask_from_lut(lut: Tensor, key_blocks: int) -> Tensor:
    """Kept blocks as booleans. lut [B, H, Mq, topk] -> [B, H, Mq, key_blocks]."""
    mask = torch.zeros(*lut.shape[:3], key_blocks, dtype=torch.bool, device=lut.device)
    return mask.scatter_(-1, lut.long(), True)


def token_mask_from_lut(lut: Tensor, query_len: int, key_len: int, block_q: int, block_k: int) -> Tensor:
    """Which key each query sees, as booleans. lut [B, H, Mq, topk] -> [B, H, query_len, key_len]."""
    mask = block_mask_from_lut(lut, num_blocks(key_len, block_k))
    return mask.repeat_interleave(block_q, 2)[:, :, :query_len].repeat_interleave(block_k, 3)[..., :key_len]


def block_sparse_attention_reference(q: Tensor, k: Tensor, v: Tensor, lut: Tensor, block_q: int,
                                     block_k: int) -> tuple[Tensor, Tensor]:
    """`block_sparse_attention`: dense attention with the other blocks masked away. Returns: o like q, lse [B, H, Lq]."""
    mask = token_mask_from_lut(lut, q.shape[2], k.shape[2], block_q, block_k)
    logits = (widen(q) @ widen(k).transpose(-1, -2)) * q.shape[-1] ** -0.5
    logits = logits.masked_fill(~mask, -torch.inf)
    return (logits.softmax(-1) @ widen(v)).to(q.dtype), logits.logsumexp(-1)


def linear_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose weights are products of channel softmaxes, over all tokens. q, k, v [B, H, L, D] -> wide, like q."""
    q_features, k_features = widen(q).softmax(-1), widen(k).softmax(-1)
    kv = k_features.transpose(-1, -2) @ widen(v)                                            # [B, H, D, D]
    z = k_features.sum(2, keepdim=True)                                                     # [B, H, 1, D]
    return (q_features @ kv) / (LINEAR_EPS + (q_features * z).sum(-1, keepdim=True))


def sparse_linear_attention_reference(q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, proj_bias: Tensor, lut: Tensor,
                                      block_q: int, block_k: int) -> Tensor:
    """The sparse branch plus the projected linear one, for the blocks of lut."""
    sparse, _ = block_sparse_attention_reference(widen(q), widen(k), widen(v), lut, block_q, block_k)
    return (sparse + F.linear(linear_attention_reference(q, k, v), widen(proj_weight), widen(proj_bias))).to(q.dtype)


def sage_sparse_linear_attention_reference(q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, proj_bias: Tensor, lut: Tensor,
                                           block_q: int, block_k: int, pv: str) -> Tensor:
    """The same with the sparse branch rounded as `kernels.sage` rounds: keys smoothed by the mean over all tokens, kept or not."""
    from kernels.sage.reference import sage_attention_reference

    mask = token_mask_from_lut(lut, q.shape[2], k.shape[2], block_q, block_k)
    sparse = sage_attention_reference(q.float(), k.float(), v if pv == "16" else v.float(), pv, mask)
    return (sparse + F.linear(linear_attention_reference(q, k, v).float(), proj_weight.float(), proj_bias.float())).to(q.dtype)
