"""The host side of the Triton kernels: outputs, strides, grids, descriptors and the autograd function."""
import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.sla.block_mask import SMALLEST_ROW, means_kernel, select_kernel
from kernels.sla.kernel import LOG2E, backward_kv_kernel, backward_q_kernel, forward_kernel
from kernels.sla.linear import fold_kernel, keys_kernel
from kernels.sla.reference import LINEAR_EPS, block_mask_from_lut, num_blocks, num_kept

KEY_PROGRAMS = 256
"""Programs of the pass over the keys, all heads together: about two for each of an H100's 132 multiprocessors. 512 and 1024 are slower there."""


def check_tiles(q: Tensor, block_q: int, block_k: int) -> None:
    """The kernels' own limits. Raises: ValueError."""
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"q: expected float16, bfloat16 or float32 for backend 'triton', got {q.dtype}; try backend='torch'")
    for name, size, limit in (("head_dim", q.shape[-1], 256), ("block_q", block_q, 256), ("block_k", block_k, 256)):
        if size not in (16, 32, 64, 128, 256):
            raise ValueError(f"{name}: expected a power of two from 16 to {limit} for backend 'triton', got {size}; "
                             "try backend='torch'")


def sparse_linear_attention(q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, proj_bias: Tensor, density: float, block_q: int,
                            block_k: int) -> Tensor:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, proj_weight, proj_bias)):
        with torch.no_grad():
            lut = block_mask_topk(q, k, density, block_q, block_k)
        sparse, _ = block_sparse_attention(q, k, v, lut, block_q, block_k)
        return sparse + F.linear(linear_attention(q, k, v), proj_weight, proj_bias)
    q, k, v = _rows(q), _rows(k), _rows(v)
    with torch.cuda.device_of(q):
        k_means, values, z = _summarise_keys(k, v, proj_weight, block_k)
        lut = _select(_block_means(q, block_q), k_means, density)
        return _forward(q, k, v, lut, block_q, block_k, (values, z, proj_bias.contiguous()))[0]


def sage_sparse_linear_attention(q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, proj_bias: Tensor, density: float, block_q: int,
                                 block_k: int, pv: str, tma: bool | None = None) -> Tensor:
    """The op with 8-bit products in its sparse branch; selection and the linear branch as they are. No gradient."""
    from kernels.sage import launch as sage

    sage.check(q, pv)
    q, k, v = _rows(q), _rows(k), _rows(v)
    pv8 = pv == "fp8"
    tma = sage.by_descriptors(v, pv) if tma is None else tma
    with torch.cuda.device_of(q):
        k_means, values, z, k_sum, v_amax = _summarise_keys(k, v, proj_weight, block_k, with_range=True)
        rounded = sage.round_keys_values(k, v, k_sum, v_amax, pv, permute=pv8)
        q8, q_scale, q_means = sage.quantize_queries(q, block_q)
        lut = _select(q_means, k_means, density)
        return sage.attend_sparse(q, q8, q_scale, *rounded, v, lut, (values, z, proj_bias.contiguous()), block_q, block_k, tma, pv8)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The linear branch for training: torch's own gradients, matrix products in the inputs' dtype with float32 features and sums."""
    q_features, k_features = (x.softmax(-1, dtype=torch.float32) for x in (q, k))
    kv = k_features.to(v.dtype).transpose(-1, -2) @ v
    z = k_features.sum(2, keepdim=True)
    norm = LINEAR_EPS + (q_features * z).sum(-1, keepdim=True)
    return ((q_features.to(v.dtype) @ kv) / norm).to(v.dtype)


def block_mask_topk(q: Tensor, k: Tensor, density: float, block_q: int, block_k: int) -> Tensor:
    with torch.cuda.device_of(q):
        return _select(_block_means(_rows(q), block_q), _block_means(_rows(k), block_k), density)


def block_sparse_attention(q: Tensor, k: Tensor, v: Tensor, lut: Tensor, block_q: int, block_k: int) -> tuple[Tensor, Tensor]:
    return BlockSparseAttention.apply(q, k, v, lut.contiguous(), block_q, block_k)


class BlockSparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, lut, block_q, block_k):
        q, k, v = _rows(q), _rows(k), _rows(v)
        with torch.cuda.device_of(q):
            o, lse = _forward(q, k, v, lut, block_q, block_k)
        ctx.save_for_backward(q, k, v, o, lse, lut)
        ctx.blocks = block_q, block_k
        ctx.mark_non_differentiable(lse)
        return o, lse

    @staticmethod
    def backward(ctx, do, _):
        q, k, v, o, lse, lut = ctx.saved_tensors
        with torch.cuda.device_of(q):
            return *_backward(q, k, v, o, lse, lut, _rows(do), *ctx.blocks), None, None, None


def _rows(x: Tensor) -> Tensor:
    """x with each token's channels side by side, all the kernels ask of its strides."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:3]]


def like_tokens(q: Tensor) -> Tensor:
    """Room for [B, H, L, D] with the heads of a token side by side."""
    batch, num_heads, length, head_dim = q.shape
    return torch.empty(batch, length, num_heads, head_dim, dtype=q.dtype, device=q.device).transpose(1, 2)


def _block_means(x: Tensor, block: int) -> Tensor:
    batch, num_heads, length, head_dim = x.shape
    blocks = num_blocks(length, block)
    means = torch.empty(batch, num_heads, blocks, head_dim, dtype=torch.float32, device=x.device)
    means_kernel[blocks, batch * num_heads](x, means, *_strides(x), num_heads, length, HEAD_DIM=head_dim, BLOCK=block)
    return means


def _select(q_means: Tensor, k_means: Tensor, density: float) -> Tensor:
    """The lut. Subtracting the mean key moves all scores of a row alike, so in float32 it need not be done."""
    scores = q_means @ k_means.transpose(-1, -2)
    *rows, key_blocks = scores.shape
    topk = num_kept(density, key_blocks)
    lut = torch.empty(*rows, topk, dtype=torch.int32, device=scores.device)
    width = max(SMALLEST_ROW, triton.next_power_of_2(key_blocks))
    select_kernel[(lut.numel() // topk,)](scores, lut, key_blocks, topk, ROW=width, num_warps=min(8, width // 512))
    return lut


def _summarise_keys(k: Tensor, v: Tensor, proj_weight: Tensor, block_k: int, with_range: bool = False) -> tuple[Tensor, ...]:
    """Block means of k, projected values per key channel [B * H, D, D] and the channels' sums [B * H, D].

    with_range: and by part, [B, H, parts, D] float32, the sum of k and the largest |v|.
    """
    batch, num_heads, length, head_dim = k.shape
    pairs, blocks = batch * num_heads, num_blocks(length, block_k)
    share = num_blocks(blocks, max(1, KEY_PROGRAMS // pairs))
    parts = num_blocks(blocks, share)

    def room(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device=k.device)

    means, kv, z = room(batch, num_heads, blocks, head_dim), room(pairs, parts, head_dim, head_dim), room(pairs, parts, head_dim)
    k_sum, v_amax = (room(batch, num_heads, parts, head_dim) if with_range else z for _ in range(2))
    keys_kernel[parts, pairs](k, v, means, kv, z, k_sum, v_amax, *_strides(k, v), num_heads, length, blocks, share, HEAD_DIM=head_dim,
                              BLOCK_N=block_k, RANGE=with_range)
    values, z_sum = room(pairs, head_dim, head_dim, dtype=v.dtype), room(pairs, head_dim)
    fold_kernel[head_dim // 16, pairs](kv, z, proj_weight.contiguous(), values, z_sum, parts, HEAD_DIM=head_dim, ROWS=16)
    return (means, values, z_sum, k_sum, v_amax) if with_range else (means, values, z_sum)


def _forward(q: Tensor, k: Tensor, v: Tensor, lut: Tensor, block_q: int, block_k: int,
             linear: tuple[Tensor, Tensor, Tensor] | None = None, tma: bool | None = None) -> tuple[Tensor, Tensor]:
    """o and lse; linear: values, z and the projection's bias. tma: load tiles by descriptor; None means where it can be done."""
    batch, num_heads, length, head_dim = q.shape
    o = like_tokens(q)
    lse = torch.empty(batch, num_heads, length, dtype=torch.float32, device=q.device)
    tma = all(map(can_describe, (q, k, v))) if tma is None else tma
    tiles = q, k, v
    if tma:
        tiles = [TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, head_dim])
                 for x, rows in zip(tiles, (block_q, block_k, block_k))]
    values, z, bias = linear or (q, lse, q)        # never read without LINEAR
    forward_kernel[num_blocks(length, block_q), batch * num_heads](
        *tiles, o, lse, lut, values, z, bias, *_strides(q, k, v, o), num_heads, length, lut.shape[-1],
        head_dim ** -0.5 * LOG2E.value, LINEAR_EPS, HEAD_DIM=head_dim, BLOCK_M=block_q, BLOCK_N=block_k, LINEAR=linear is not None,
        TMA=tma)
    return o, lse


def can_describe(x: Tensor) -> bool:
    """Hopper's copy engine can fetch tiles of x: 16-bit elements, addresses and strides in steps of 16 bytes."""
    return (x.is_cuda and torch.cuda.get_device_capability(x.device) >= (9, 0) and x.element_size() == 2
            and x.data_ptr() % 16 == 0 and all(stride > 0 and stride % 8 == 0 for stride in x.stride()[:3]))


def _backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, lut: Tensor, do: Tensor, block_q: int,
              block_k: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, num_heads, length, head_dim = q.shape
    query_blocks, key_blocks = num_blocks(length, block_q), num_blocks(length, block_k)
    dq, dk, dv = (like_tokens(q) for _ in range(3))
    delta = torch.empty_like(lse)
    shape = {"HEAD_DIM": head_dim, "BLOCK_M": block_q, "BLOCK_N": block_k}
    strides = _strides(q, k, v, o, do)
    backward_q_kernel[query_blocks, batch * num_heads](
        q, k, v, o, do, lse, delta, dq, lut, *strides, num_heads, length, lut.shape[-1], head_dim ** -0.5, **shape)
    kept_by = block_mask_from_lut(lut, key_blocks).transpose(-1, -2).contiguous()               # [B, H, Nk, Mq]
    readers = kept_by.int().sort(dim=-1, descending=True, stable=True).indices.int()
    counts = kept_by.sum(-1, dtype=torch.int32)
    backward_kv_kernel[key_blocks, batch * num_heads](
        q, k, v, do, lse, delta, dk, dv, readers, counts, *strides, num_heads, length, query_blocks, head_dim ** -0.5, **shape)
    return dq, dk, dv
