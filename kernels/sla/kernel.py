"""Block-sparse flash attention in Triton: forward, with the linear branch added at its end, and backward.

One program owns one query block (or, for dk and dv, one key block) of one head and visits the blocks its lut names.
Lengths and the number of kept blocks are run-time values: only head_dim, the two block sizes and the dtype make a new binary.

The 8-bit walk is kernels/sage/sparse.py.
"""
import triton
import triton.language as tl

from kernels.tuning import autotune_configs, row_options

LOG2E = tl.constexpr(1.4426950408889634)
_RUN_TIME = ["heads", "length", "topk", "num_blocks"]      # never specialised on a value: any length, one binary


@triton.jit
def load_rows(x, batch, head, start, length, stride_b, stride_h, stride_l, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr,
              TMA: tl.constexpr, RAGGED: tl.constexpr):
    """Tokens start to start + ROWS of one head of x [B, H, L, D], as [ROWS, D]; rows past the length are zero.

    x is a pointer, or with TMA a descriptor of blocks [1, 1, ROWS, D]. RAGGED: the tile may run past the length.
    """
    if TMA:
        tile = x.load([batch, head, start, 0]).reshape(ROWS, HEAD_DIM)
    else:
        rows = tl.arange(0, ROWS)
        base = x + batch.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h + tl.cast(start, tl.int64) * stride_l
        offsets = rows[:, None] * stride_l + tl.arange(0, HEAD_DIM)[None, :]
        if RAGGED:
            tile = tl.load(base + offsets, mask=(start + rows < length)[:, None], other=0.0)
        else:
            tile = tl.load(base + offsets)
    return tile


@triton.jit
def store_rows(x, tile, batch, head, start, length, stride_b, stride_h, stride_l, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Write [ROWS, D] over tokens start to start + ROWS of one head of x, as far as the length goes."""
    rows = tl.arange(0, ROWS)
    base = x + batch.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h + start.to(tl.int64) * stride_l
    offsets = rows[:, None] * stride_l + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(base + offsets, tile.to(x.dtype.element_ty), mask=(start + rows < length)[:, None])


@triton.jit
def channel_softmax(x):
    """Feature map of the linear branch: softmax over the channels of each row, float32."""
    x = x.to(tl.float32)
    e = tl.exp2((x - tl.max(x, 1)[:, None]) * LOG2E)
    return e / tl.sum(e, 1)[:, None]


@triton.jit
def _logits(q, k):
    """Unscaled q k^T in float32. q [M, D], k [N, D] -> [M, N]."""
    return tl.dot(q, tl.trans(k), input_precision="ieee")


@triton.jit
def _visit(top, total, acc, logits, v, batch, head, block, length, stride_vb, stride_vh, stride_vl, logit_scale,
           HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, TMA: tl.constexpr, RAGGED: tl.constexpr):
    """One key block of the online softmax. top, total [M]: running maximum (base 2) and sum; acc [M, D]: unnormalised output."""
    start = block * BLOCK_N
    if RAGGED:
        logits = tl.where((start + tl.arange(0, BLOCK_N) < length)[None, :], logits, float("-inf"))
    new_top = tl.maximum(top, tl.max(logits, 1) * logit_scale)
    p = tl.exp2(logits * logit_scale - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(p, 1)
    v_tile = load_rows(v, batch, head, start, length, stride_vb, stride_vh, stride_vl, BLOCK_N, HEAD_DIM, TMA, RAGGED)
    acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")
    return new_top, total, acc


@triton.autotune(key=["HEAD_DIM", "BLOCK_M", "BLOCK_N", "LINEAR", "TMA"], **row_options(num_stages={False: (2, 3, 4), True: (3,)}))
@triton.jit(do_not_specialize=_RUN_TIME)
def forward_kernel(q, k, v, o, lse, lut, values, z, bias,
                   stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
                   stride_ob, stride_oh, stride_ol, heads, length, topk, logit_scale, linear_eps,
                   HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LINEAR: tl.constexpr, TMA: tl.constexpr,
                   AHEAD: tl.constexpr):
    """o and lse of one query block; grid (Mq, B * H), query blocks of a head side by side so that its keys stay in L2.

    lut [B, H, Mq, topk] ascending: only its last entry can be the ragged key block. With LINEAR, values [B * H, D, D], z [B * H, D]
    and bias [D] from linear.py are added in place of a second pass; without it they are not read. AHEAD: the matrix unit multiplies the
    next block's keys while this block's weights are computed.
    """
    pair = tl.program_id(1)
    batch, head = pair // heads, pair % heads
    start_m = tl.program_id(0) * BLOCK_M
    lut += (pair.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * topk
    q_tile = load_rows(q, batch, head, start_m, length, stride_qb, stride_qh, stride_ql, BLOCK_M, HEAD_DIM, TMA, True)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)

    last = tl.load(lut + topk - 1)
    whole = topk - ((last + 1) * BLOCK_N > length).to(tl.int32)
    block, after = tl.load(lut), tl.load(lut + tl.minimum(1, topk - 1))
    if AHEAD:
        k_tile = load_rows(k, batch, head, block * BLOCK_N, length, stride_kb, stride_kh, stride_kl, BLOCK_N, HEAD_DIM, TMA, True)
        logits = _logits(q_tile, k_tile)
    for i in range(0, whole):
        # a visit early, so that their latency hides behind the products; each its own load: one handed on twice stops the pipelining
        next_block, beyond = tl.load(lut + tl.minimum(i + 1, topk - 1)), tl.load(lut + tl.minimum(i + 2, topk - 1))
        key_block = after if AHEAD else block
        k_tile = load_rows(k, batch, head, key_block * BLOCK_N, length, stride_kb, stride_kh, stride_kl, BLOCK_N, HEAD_DIM, TMA, AHEAD)
        if AHEAD:
            ahead = _logits(q_tile, k_tile)
        else:
            logits = _logits(q_tile, k_tile)
        top, total, acc = _visit(top, total, acc, logits, v, batch, head, block, length, stride_vb, stride_vh, stride_vl, logit_scale,
                                 HEAD_DIM, BLOCK_N, TMA, False)
        if AHEAD:
            logits = ahead
        block, after = next_block, beyond
    if whole < topk:
        if not AHEAD:
            k_tile = load_rows(k, batch, head, last * BLOCK_N, length, stride_kb, stride_kh, stride_kl, BLOCK_N, HEAD_DIM, TMA, True)
            logits = _logits(q_tile, k_tile)
        top, total, acc = _visit(top, total, acc, logits, v, batch, head, last, length, stride_vb, stride_vh, stride_vl, logit_scale,
                                 HEAD_DIM, BLOCK_N, TMA, True)
    acc = acc / total[:, None]
    rows = start_m + tl.arange(0, BLOCK_M)
    tl.store(lse + pair.to(tl.int64) * length + rows, (top + tl.log2(total)) / LOG2E, mask=rows < length)

    if LINEAR:
        cols = tl.arange(0, HEAD_DIM)
        weights = channel_softmax(q_tile) * tl.load(z + pair * HEAD_DIM + cols)[None, :]
        weights = weights / (tl.sum(weights, 1) + linear_eps)[:, None]
        values_tile = tl.load(values + pair.to(tl.int64) * HEAD_DIM * HEAD_DIM + cols[:, None] * HEAD_DIM + cols[None, :])
        acc = tl.dot(weights.to(values_tile.dtype), values_tile, acc, input_precision="ieee")
        acc += tl.load(bias + cols).to(tl.float32)[None, :]
    store_rows(o, acc, batch, head, start_m, length, stride_ob, stride_oh, stride_ol, BLOCK_M, HEAD_DIM)


@triton.autotune(autotune_configs(num_warps=(4, 8), num_stages=(2, 3)), key=["HEAD_DIM", "BLOCK_M", "BLOCK_N"])
@triton.jit(do_not_specialize=_RUN_TIME)
def backward_q_kernel(q, k, v, o, do, lse, delta, dq, lut,
                      stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
                      stride_ob, stride_oh, stride_ol, stride_db, stride_dh, stride_dl, heads, length, topk, softmax_scale,
                      HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """dq of one query block, and delta = sum over channels of o do for the other kernel; grid (Mq, B * H). dq is laid out like o."""
    pair = tl.program_id(1)
    batch, head = pair // heads, pair % heads
    start_m = tl.program_id(0) * BLOCK_M
    rows = start_m + tl.arange(0, BLOCK_M)
    per_row = pair.to(tl.int64) * length + rows
    lut += (pair.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * topk
    q_tile = load_rows(q, batch, head, start_m, length, stride_qb, stride_qh, stride_ql, BLOCK_M, HEAD_DIM, False, True)
    o_tile = load_rows(o, batch, head, start_m, length, stride_ob, stride_oh, stride_ol, BLOCK_M, HEAD_DIM, False, True)
    do_tile = load_rows(do, batch, head, start_m, length, stride_db, stride_dh, stride_dl, BLOCK_M, HEAD_DIM, False, True)
    row_delta = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    tl.store(delta + per_row, row_delta, mask=rows < length)
    row_lse = tl.load(lse + per_row, mask=rows < length, other=0.0) * LOG2E
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for i in range(0, topk):
        start_n = tl.load(lut + i) * BLOCK_N
        k_tile = load_rows(k, batch, head, start_n, length, stride_kb, stride_kh, stride_kl, BLOCK_N, HEAD_DIM, False, True)
        v_tile = load_rows(v, batch, head, start_n, length, stride_vb, stride_vh, stride_vl, BLOCK_N, HEAD_DIM, False, True)
        p = tl.exp2(_logits(q_tile, k_tile) * (softmax_scale * LOG2E) - row_lse[:, None])
        p = tl.where((start_n + tl.arange(0, BLOCK_N) < length)[None, :], p, 0.0)
        dlogits = p * (_logits(do_tile, v_tile) - row_delta[:, None])
        acc = tl.dot(dlogits.to(k_tile.dtype), k_tile, acc, input_precision="ieee")
    store_rows(dq, acc * softmax_scale, batch, head, start_m, length, stride_ob, stride_oh, stride_ol, BLOCK_M, HEAD_DIM)


@triton.autotune(autotune_configs(num_warps=(4, 8), num_stages=(2, 3)), key=["HEAD_DIM", "BLOCK_M", "BLOCK_N"])
@triton.jit(do_not_specialize=_RUN_TIME)
def backward_kv_kernel(q, k, v, do, lse, delta, dk, dv, readers, counts,
                       stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
                       stride_ob, stride_oh, stride_ol, stride_db, stride_dh, stride_dl, heads, length, num_blocks, softmax_scale,
                       HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """dk and dv of one key block; grid (Nk, B * H). dk and dv are laid out like o.

    readers [B, H, Nk, num_blocks] int32: the query blocks that keep this key block come first; counts [B, H, Nk]: how many.
    A key block that no query keeps gets zeros.
    """
    pair = tl.program_id(1)
    batch, head = pair // heads, pair % heads
    start_n = tl.program_id(0) * BLOCK_N
    me = pair.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    readers += me * num_blocks
    per_row = pair.to(tl.int64) * length
    k_tile = load_rows(k, batch, head, start_n, length, stride_kb, stride_kh, stride_kl, BLOCK_N, HEAD_DIM, False, True)
    v_tile = load_rows(v, batch, head, start_n, length, stride_vb, stride_vh, stride_vl, BLOCK_N, HEAD_DIM, False, True)
    dk_acc = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    dv_acc = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    for i in range(0, tl.load(counts + me)):
        start_m = tl.load(readers + i) * BLOCK_M
        rows = start_m + tl.arange(0, BLOCK_M)
        q_tile = load_rows(q, batch, head, start_m, length, stride_qb, stride_qh, stride_ql, BLOCK_M, HEAD_DIM, False, True)
        do_tile = load_rows(do, batch, head, start_m, length, stride_db, stride_dh, stride_dl, BLOCK_M, HEAD_DIM, False, True)
        row_lse = tl.load(lse + per_row + rows, mask=rows < length, other=float("inf")) * LOG2E     # inf: no weight past the end
        row_delta = tl.load(delta + per_row + rows, mask=rows < length, other=0.0)
        p = tl.exp2(_logits(k_tile, q_tile) * (softmax_scale * LOG2E) - row_lse[None, :])           # [N, M]
        dv_acc = tl.dot(p.to(do_tile.dtype), do_tile, dv_acc, input_precision="ieee")
        dlogits = p * (_logits(v_tile, do_tile) - row_delta[None, :])
        dk_acc = tl.dot(dlogits.to(q_tile.dtype), q_tile, dk_acc, input_precision="ieee")
    store_rows(dk, dk_acc * softmax_scale, batch, head, start_n, length, stride_ob, stride_oh, stride_ol, BLOCK_N, HEAD_DIM)
    store_rows(dv, dv_acc, batch, head, start_n, length, stride_ob, stride_oh, stride_ol, BLOCK_N, HEAD_DIM)
