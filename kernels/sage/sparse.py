"""8-bit attention over the key blocks of a lut, with SLA's linear branch as its last step ("SageSLA").

The walk is that of kernels/sla/kernel.py, the arithmetic of a block that of kernel.py beside this.
"""
import triton
import triton.language as tl

from kernels.sage.kernel import load_tile, products, set_tiles, visit
from kernels.sla.kernel import channel_softmax, load_rows, store_rows
from kernels.tuning import autotune_configs, row_options


@triton.jit(do_not_specialize=["heads", "length", "query_blocks", "key_blocks", "topk"])
def sparse_kernel(q8, k8, v, q, q_scale, k_scale, v_scale, o, lut, values, z, bias, stride_qb, stride_qh, stride_ql, stride_vb,
                  stride_vh, stride_vl, stride_ob, stride_oh, stride_ol, heads, length, query_blocks, key_blocks, topk, logit_scale,
                  linear_eps, HEAD_DIM: tl.constexpr, KEY_BLOCK: tl.constexpr, PV8: tl.constexpr, PERMUTE: tl.constexpr,
                  TMA: tl.constexpr, LINEAR: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, AHEAD: tl.constexpr):
    """o of one query block; grid (Mq, B * H). lut [B, H, Mq, topk] ascending: only its last entry can be the ragged key block.

    AHEAD: the matrix unit multiplies the next block's keys while this block's weights are computed. With LINEAR, values [B * H, D, D],
    z [B * H, D] and bias [D] are added as in SLA; the 16-bit q is loaded for it after the walk.
    """
    pair = tl.program_id(1)
    batch, head = pair // heads, pair % heads
    start_m = tl.program_id(0) * BLOCK_M
    padded, key_padded = query_blocks * KEY_BLOCK, key_blocks * KEY_BLOCK
    lut += (pair.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * topk
    k_scale += pair * key_blocks
    first = pair * key_padded
    q_tile = load_tile(q8, pair * padded + start_m, 0, HEAD_DIM, BLOCK_M, HEAD_DIM, TMA)
    row_scale = tl.load(q_scale + pair.to(tl.int64) * padded + start_m + tl.arange(0, BLOCK_M)) * logit_scale
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)

    whole = topk - ((tl.load(lut + topk - 1) + 1) * BLOCK_N > length).to(tl.int32)
    block = tl.load(lut)
    after = tl.load(lut + tl.minimum(1, topk - 1))
    key_scale = tl.load(k_scale + block * BLOCK_N // KEY_BLOCK)
    if AHEAD:
        logits = products(q_tile, k8, first + block * BLOCK_N, HEAD_DIM, BLOCK_N, TMA)
    for i in range(0, whole):
        # a visit early, both by a load of their own: a number handed on twice would keep the loop from being pipelined
        next_block, beyond = tl.load(lut + tl.minimum(i + 1, topk - 1)), tl.load(lut + tl.minimum(i + 2, topk - 1))
        scale = row_scale * key_scale
        key_scale = tl.load(k_scale + after * BLOCK_N // KEY_BLOCK)
        if AHEAD:
            ahead = products(q_tile, k8, first + after * BLOCK_N, HEAD_DIM, BLOCK_N, TMA)
        else:
            logits = products(q_tile, k8, first + block * BLOCK_N, HEAD_DIM, BLOCK_N, TMA)
        top, total, acc = visit(top, total, acc, logits, scale, v, pair, batch, head, block * BLOCK_N, length, key_padded, stride_vb,
                                stride_vh, stride_vl, HEAD_DIM, BLOCK_N, PV8, PERMUTE, TMA, False)
        if AHEAD:
            logits = ahead
        block = next_block
        after = beyond
    if whole < topk:
        if not AHEAD:
            logits = products(q_tile, k8, first + block * BLOCK_N, HEAD_DIM, BLOCK_N, TMA)
        top, total, acc = visit(top, total, acc, logits, row_scale * key_scale, v, pair, batch, head, block * BLOCK_N, length, key_padded,
                                stride_vb, stride_vh, stride_vl, HEAD_DIM, BLOCK_N, PV8, PERMUTE, TMA, True)
    acc = acc / total[:, None]
    cols = tl.arange(0, HEAD_DIM)
    if PV8:
        acc = acc * tl.load(v_scale + pair * HEAD_DIM + cols)[None, :]
    if LINEAR:
        q_tile16 = load_rows(q, batch, head, start_m, length, stride_qb, stride_qh, stride_ql, BLOCK_M, HEAD_DIM, False, True)
        weights = channel_softmax(q_tile16) * tl.load(z + pair * HEAD_DIM + cols)[None, :]
        weights = weights / (tl.sum(weights, 1) + linear_eps)[:, None]
        values_tile = tl.load(values + pair.to(tl.int64) * HEAD_DIM * HEAD_DIM + cols[:, None] * HEAD_DIM + cols[None, :])
        acc = tl.dot(weights.to(values_tile.dtype), values_tile, acc, input_precision="ieee")
        acc += tl.load(bias + cols).to(tl.float32)[None, :]
    store_rows(o, acc, batch, head, start_m, length, stride_ob, stride_oh, stride_ol, BLOCK_M, HEAD_DIM)


_KEY = ["HEAD_DIM", "BLOCK_M", "BLOCK_N", "PV8", "PERMUTE", "LINEAR"]
sparse_by_descriptors = triton.autotune(key=_KEY, **row_options(num_stages={True: (3,), False: (3,)}, pre_hook=set_tiles))(sparse_kernel)
sparse_by_pointers = triton.autotune(autotune_configs(AHEAD=(False,), num_warps=(8, 4), num_stages=(2, 3)), key=_KEY)(sparse_kernel)
