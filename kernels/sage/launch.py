"""The host side of 8-bit attention: rounded copies of q, k and v, descriptors and grids."""
import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.formats import LARGEST, SMALLEST_AMAX
from kernels.sage.kernel import attention_by_descriptors, attention_by_pointers, keys_kernel, queries_kernel, stats_kernel
from kernels.sage.reference import KEY_BLOCK, LOG2E
from kernels.sage.sparse import sparse_by_descriptors, sparse_by_pointers
from kernels.sla.launch import can_describe, like_tokens
from kernels.sla.reference import LINEAR_EPS

STATS_PROGRAMS = 512
"""Programs of the pass that takes the mean of k and the range of v: about four for each of an H100's 132 multiprocessors."""


def sage_attention(q: Tensor, k: Tensor, v: Tensor, pv: str, tma: bool | None = None, permute: bool | None = None) -> Tensor:
    """tma: tiles by descriptor; permute: weights stay in their threads (see kernel.py). None: where this device gains by it."""
    check(q, pv)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    tma = by_descriptors(v, pv) if tma is None else tma
    permute = pv == "fp8" if permute is None else permute
    with torch.cuda.device_of(q):
        return attend(q, *quantize_queries(q), *quantize_keys_values(k, v, pv, permute), v, tma, permute)


def check(q: Tensor, pv: str) -> None:
    """The kernels' own limits. Raises: ValueError."""
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"q: expected float16, bfloat16 or float32 for backend 'triton', got {q.dtype}; try backend='torch'")
    if q.shape[-1] not in (32, 64, 128):
        raise ValueError(f"head_dim: expected 32, 64 or 128 for backend 'triton', got {q.shape[-1]}; try backend='torch'")
    if q.is_cuda and pv == "fp8" and torch.cuda.get_device_capability(q.device) < (8, 9):
        raise ValueError("pv: this GPU has no fp8, got 'fp8'; try pv='16'")


def by_descriptors(v: Tensor, pv: str) -> bool:
    """Hopper's copy engine can fetch the tiles: ours always, those of a 16-bit v where its addresses and strides allow."""
    return can_describe(v) if pv != "fp8" else v.is_cuda and torch.cuda.get_device_capability(v.device) >= (9, 0)


def quantize_queries(q: Tensor, mean_block: int = 0) -> tuple[Tensor, ...]:
    """q8 [B, H, padded, D] and q_scale [B, H, padded]; with mean_block also the means [B, H, blocks, D] of that many tokens each."""
    batch, num_heads, length, head_dim = q.shape
    blocks, mean_blocks = triton.cdiv(length, KEY_BLOCK), triton.cdiv(length, mean_block) if mean_block else 0
    q8 = torch.empty(batch, num_heads, blocks * KEY_BLOCK, head_dim, dtype=torch.int8, device=q.device)
    q_scale = torch.empty(q8.shape[:3], dtype=torch.float32, device=q.device)
    means = torch.empty(batch, num_heads, mean_blocks, head_dim, dtype=torch.float32, device=q.device)
    queries_kernel[blocks, batch * num_heads](q, q8, q_scale, means, *q.stride()[:3], num_heads, length, mean_blocks,
                                              LARGEST=LARGEST[torch.int8], SMALLEST_AMAX=SMALLEST_AMAX, HEAD_DIM=head_dim,
                                              BLOCK=KEY_BLOCK, MEAN_BLOCK=mean_block, num_warps=8, enable_fp_fusion=False)
    return (q8, q_scale, means) if mean_block else (q8, q_scale)


def quantize_keys_values(k: Tensor, v: Tensor, pv: str, permute: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """k8 [B, H, padded, D], k_scale [B, H, blocks], v8 [B, H, D, padded], v_scale [B, H, D]; with pv "16" the last two are empty."""
    batch, num_heads, length, head_dim = k.shape
    pairs, blocks, pv8 = batch * num_heads, triton.cdiv(length, KEY_BLOCK), pv == "fp8"
    share = triton.cdiv(blocks, max(1, STATS_PROGRAMS // pairs))
    parts = triton.cdiv(blocks, share)
    k_sum, v_amax = (torch.empty(batch, num_heads, parts, head_dim, dtype=torch.float32, device=k.device) for _ in range(2))
    stats_kernel[parts, pairs](k, v, k_sum, v_amax, *k.stride()[:3], *v.stride()[:3], num_heads, length, share, HEAD_DIM=head_dim,
                               BLOCK=KEY_BLOCK, PV8=pv8, num_warps=8)
    return round_keys_values(k, v, k_sum, v_amax, pv, permute)


def round_keys_values(k: Tensor, v: Tensor, k_sum: Tensor, v_amax: Tensor, pv: str, permute: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantize_keys_values` with the sum of k and the largest |v| by channel known for parts of the tokens, [B, H, parts, D] float32."""
    batch, num_heads, length, head_dim = k.shape
    blocks, pv8 = triton.cdiv(length, KEY_BLOCK), pv == "fp8"

    def room(*shape, dtype=torch.float32):
        return torch.empty(batch, num_heads, *shape, dtype=dtype, device=k.device)

    v_scale = room(head_dim if pv8 else 0)
    k8, k_scale = room(blocks * KEY_BLOCK, head_dim, dtype=torch.int8), room(blocks)
    v8 = room(head_dim if pv8 else 0, blocks * KEY_BLOCK, dtype=torch.float8_e4m3fn)
    keys_kernel[blocks, batch * num_heads](
        k, v, k_sum, v_amax, k8, k_scale, v8, v_scale, *k.stride()[:3], *v.stride()[:3], num_heads, length, k_sum.shape[2],
        LARGEST=LARGEST[torch.int8], LARGEST_V=LARGEST[torch.float8_e4m3fn], SMALLEST_AMAX=SMALLEST_AMAX, HEAD_DIM=head_dim, BLOCK=KEY_BLOCK,
        PV8=pv8, PERMUTE=permute, num_warps=8, enable_fp_fusion=False)
    return k8, k_scale, v8, v_scale


def attend(q: Tensor, q8: Tensor, q_scale: Tensor, k8: Tensor, k_scale: Tensor, v8: Tensor, v_scale: Tensor, v: Tensor, tma: bool,
           permute: bool) -> Tensor:
    """The attention of tensors that are rounded already; q gives the shape and dtype of the output, v the 16-bit values if v8 is empty."""
    batch, num_heads, length, head_dim = q.shape
    query_blocks, key_blocks, pv8 = q8.shape[2] // KEY_BLOCK, k8.shape[2] // KEY_BLOCK, v8.numel() > 0
    o = like_tokens(q)

    def grid(meta):
        return triton.cdiv(length, meta["BLOCK_M"]), batch * num_heads

    kernel = attention_by_descriptors if tma else attention_by_pointers
    kernel[grid](*_tiles(q8, k8, v8, v, tma), q_scale, k_scale, v_scale, o, *v.stride()[:3], *o.stride()[:3], num_heads, length, v.shape[2], query_blocks,
                 key_blocks, head_dim ** -0.5 * LOG2E, HEAD_DIM=head_dim, KEY_BLOCK=KEY_BLOCK, PV8=pv8, PERMUTE=permute, TMA=tma)
    return o


def attend_sparse(q: Tensor, q8: Tensor, q_scale: Tensor, k8: Tensor, k_scale: Tensor, v8: Tensor, v_scale: Tensor, v: Tensor,
                  lut: Tensor, linear: tuple[Tensor, Tensor, Tensor] | None, block_q: int, block_k: int, tma: bool, permute: bool) -> Tensor:
    """`attend` over the key blocks of lut alone; linear: values, z and the projection's bias of the linear branch, added at the end."""
    batch, num_heads, length, head_dim = q.shape
    pv8 = v8.numel() > 0
    o = like_tokens(q)
    values, z, bias = linear or (q, q_scale, q)         # never read without LINEAR
    kernel = sparse_by_descriptors if tma else sparse_by_pointers
    kernel[triton.cdiv(length, block_q), batch * num_heads](
        *_tiles(q8, k8, v8, v, tma), q, q_scale, k_scale, v_scale, o, lut, values, z, bias, *q.stride()[:3], *v.stride()[:3], *o.stride()[:3], num_heads,
        length, q8.shape[2] // KEY_BLOCK, k8.shape[2] // KEY_BLOCK, lut.shape[-1], head_dim ** -0.5 * LOG2E, LINEAR_EPS,
        HEAD_DIM=head_dim, KEY_BLOCK=KEY_BLOCK, PV8=pv8, PERMUTE=permute, TMA=tma, LINEAR=linear is not None, BLOCK_M=block_q,
        BLOCK_N=block_k)
    return o


def _tiles(q8: Tensor, k8: Tensor, v8: Tensor, v: Tensor, tma: bool) -> list[Tensor | TensorDescriptor]:
    """What the walk loads its tiles from; v in 16 bits where v8 is empty."""
    if not tma:
        return [q8, k8, v8 if v8.numel() else v]
    return [_describe(q8.flatten(0, 2)), _describe(k8.flatten(0, 2)), _describe(v8.flatten(0, 2) if v8.numel() else v)]


def _describe(x: Tensor) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1] * x.ndim)          # the tile's shape comes with the config
