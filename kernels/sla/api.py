"""Sparse-linear attention, o = softmax over the kept key blocks + proj(linear attention over all tokens).

Source: Zhang et al. 2025, arXiv:2509.24006, in the form of the released TurboDiffusion checkpoints (see reference.py).
"""
import torch
from torch import Tensor

from kernels.checks import check_like, check_shape, pick_backend
from kernels.sage.api import check_pv
from kernels.sla import reference


def sparse_linear_attention(q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, proj_bias: Tensor, *, density: float,
                            block_q: int = 128, block_k: int = 64, pv: str | None = None, backend: str = "auto") -> Tensor:
    """Attend each block of queries to its best key blocks, and all tokens through the linear branch.

    Args:
        q, k, v: [B, H, L, D], any strides.
        proj_weight, proj_bias: the linear branch's output projection, [D, D] ([out, in]) and [D], shared by the heads.
        density: share of the key blocks kept per query block, in (0, 1]; rounded down, at least one block.
        block_q, block_k: tokens per block; 128 x 64 in the released checkpoints (64 x 128 for 8-bit on Hopper).
        pv: None, or "fp8" / "16": the sparse branch in 8 bits as in `kernels.sage_attention` ("SageSLA"), with this format of the
            values. No gradient then, and for Triton blocks of 64 or 128.
        backend: "triton", "torch" (the reference), or "auto": triton on CUDA. Triton takes float16, bfloat16 and float32.
    Returns: [B, H, L, D] like q; from Triton it is laid out as [B, L, H, D], ready to be flattened for the output linear.
    Raises: ValueError for shapes, dtypes, devices, density or blocks that do not fit. Gradients: q, k, v and the projection.
    Under autocast all five are taken in its dtype, as torch's own attention does.
    """
    if torch.is_autocast_enabled(q.device.type):
        tensors = [x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v, proj_weight, proj_bias)]
        with torch.autocast(q.device.type, enabled=False):
            return sparse_linear_attention(*tensors, density=density, block_q=block_q, block_k=block_k, pv=pv, backend=backend)
    _check_qkv(q, k, v)
    head_dim = q.shape[-1]
    check_shape("proj_weight", proj_weight, (head_dim, head_dim))
    check_shape("proj_bias", proj_bias, (head_dim,))
    for name, x in (("proj_weight", proj_weight), ("proj_bias", proj_bias)):
        check_like(name, x, q)
    _check_selection(density, block_q, block_k)
    if pv is not None:
        check_pv(pv)
    if pick_backend(backend, q) == "torch":
        lut = block_mask_topk(q, k, density=density, block_q=block_q, block_k=block_k, backend="torch")
        if pv is not None:
            return reference.sage_sparse_linear_attention_reference(q, k, v, proj_weight, proj_bias, lut, block_q, block_k, pv)
        return reference.sparse_linear_attention_reference(q, k, v, proj_weight, proj_bias, lut, block_q, block_k)
    from kernels.sla import launch

    launch.check_tiles(q, block_q, block_k)
    if pv is not None:
        for name, block in (("block_q", block_q), ("block_k", block_k)):
            if block not in (64, 128):
                raise ValueError(f"{name}: expected 64 or 128 with pv={pv!r} for backend 'triton', got {block}; try pv=None")
        with torch.no_grad():
            return launch.sage_sparse_linear_attention(q, k, v, proj_weight, proj_bias, density, block_q, block_k, pv)
    return launch.sparse_linear_attention(q, k, v, proj_weight, proj_bias, density, block_q, block_k)


def block_mask_topk(q: Tensor, k: Tensor, *, density: float, block_q: int, block_k: int, backend: str = "auto") -> Tensor:
    """Choose the key blocks of every query block by mean query times mean key, k less its mean over the tokens.

    Args: q, k: [B, H, L, D] (lengths may differ); the others as in `sparse_linear_attention`.
    Returns: lut [B, H, Mq, topk] int32, indices of the kept key blocks, ascending. Ties go to the lower index. No gradient.
    Autocast changes nothing: scores are float32 or wider.
    """
    batch, num_heads, _, head_dim = check_shape("q", q, (None, None, None, None))
    check_shape("k", k, (batch, num_heads, None, head_dim))
    check_like("k", k, q)
    _check_selection(density, block_q, block_k)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        if pick_backend(backend, q) == "torch":
            return reference.block_mask_topk_reference(q, k, density, block_q, block_k)
        from kernels.sla import launch

        launch.check_tiles(q, block_q, block_k)
        return launch.block_mask_topk(q, k, density, block_q, block_k)


def block_sparse_attention(q: Tensor, k: Tensor, v: Tensor, lut: Tensor, *, block_q: int, block_k: int,
                           backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Softmax attention of each query block over its key blocks alone, logits scaled by D ** -0.5.

    Args: q, k, v: [B, H, L, D]; lut: [B, H, ceil(L / block_q), topk] int32, ascending, without repeats, as from `block_mask_topk`.
    Returns: o like q; lse [B, H, L] float32 or wider, the log-sum-exp of the kept logits (no gradient through it).
    """
    batch, num_heads, length, _ = _check_qkv(q, k, v)
    check_shape("lut", lut, (batch, num_heads, reference.num_blocks(length, block_q), None))
    if lut.dtype != torch.int32 or lut.device != q.device:
        raise ValueError(f"lut: expected torch.int32 on {q.device}, got {lut.dtype} on {lut.device}")
    if pick_backend(backend, q) == "torch":
        o, lse = reference.block_sparse_attention_reference(q, k, v, lut, block_q, block_k)
        return o, lse.detach()
    from kernels.sla import launch

    launch.check_tiles(q, block_q, block_k)
    return launch.block_sparse_attention(q, k, v, lut, block_q, block_k)


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    shape = check_shape("q", q, (None, None, None, None))
    if 0 in shape:
        raise ValueError(f"q: expected no empty dimension, got {list(shape)}")
    for name, x in (("k", k), ("v", v)):
        check_shape(name, x, shape)
        check_like(name, x, q)
    return shape


def _check_selection(density: float, block_q: int, block_k: int) -> None:
    if not 0 < density <= 1:
        raise ValueError(f"density: expected a share in (0, 1], got {density}")
    for name, block in (("block_q", block_q), ("block_k", block_k)):
        if block < 1:
            raise ValueError(f"{name}: expected at least 1 token, got {block}")
