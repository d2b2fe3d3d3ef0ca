"""8-bit flash attention in Triton: two passes that round q, k and v, and the walk over the keys.

Rounded tensors are padded with zeros to whole blocks of 128 tokens, so no tile load needs a mask; lengths are run-time values.
v is kept transposed, [D, tokens]: 8-bit matrix units want the summed dimension side by side. Within each 16 tokens its order is the
order in which a thread of the matrix unit holds the weights it has just computed (PERMUTE), so no weight changes threads.
"""
import triton
import triton.language as tl

from kernels.narrow import narrow
from kernels.sla.kernel import load_rows, store_rows
from kernels.tuning import autotune_configs, first_or_all

_RUN_TIME = ["heads", "length", "key_length", "query_blocks", "key_blocks", "share", "parts", "mean_blocks", "topk"]
_WEIGHT_BITS = tl.constexpr(8.0)


@triton.jit
def permute16(x, ROWS: tl.constexpr, COLS: tl.constexpr, PERMUTE: tl.constexpr):
    """Columns 8 a + 2 t + b of every 16 to places 4 t + 2 a + b (a < 2, t < 4, b < 2)."""
    if PERMUTE:
        x = x.reshape(ROWS, COLS // 16, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(ROWS, COLS)
    return x


@triton.jit(do_not_specialize=_RUN_TIME)
def stats_kernel(k, v, k_sum, v_amax, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, heads, length, share,
                 HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, PV8: tl.constexpr):
    """Sum of k and largest |v| by channel over `share` neighbouring blocks; grid (parts, B * H). Both [B, H, parts, D] float32."""
    part, pair = tl.program_id(0), tl.program_id(1)
    batch, head = pair // heads, pair % heads
    k_acc = tl.zeros([HEAD_DIM], tl.float32)
    v_acc = tl.zeros([HEAD_DIM], tl.float32)
    for i in range(0, share):
        start = (part * share + i) * BLOCK
        if start < length:
            k_tile = load_rows(k, batch, head, start, length, stride_kb, stride_kh, stride_kl, BLOCK, HEAD_DIM, False, True)
            k_acc += tl.sum(k_tile.to(tl.float32), 0)
            if PV8:
                v_tile = load_rows(v, batch, head, start, length, stride_vb, stride_vh, stride_vl, BLOCK, HEAD_DIM, False, True)
                v_acc = tl.maximum(v_acc, tl.max(tl.abs(v_tile.to(tl.float32)), 0))
    place = (pair.to(tl.int64) * tl.num_programs(0) + part) * HEAD_DIM + tl.arange(0, HEAD_DIM)
    tl.store(k_sum + place, k_acc)
    if PV8:
        tl.store(v_amax + place, v_acc)


@triton.jit(do_not_specialize=_RUN_TIME)
def queries_kernel(q, q8, q_scale, means, stride_b, stride_h, stride_l, heads, length, mean_blocks, LARGEST: tl.constexpr,
                   SMALLEST_AMAX: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, MEAN_BLOCK: tl.constexpr):
    """One block of q to int8, a scale per token; grid (blocks, B * H). q8 [B, H, blocks * BLOCK, D], q_scale its first three.

    With MEAN_BLOCK, also the means [B, H, mean_blocks, D] of that many tokens each, the last by its own count.
    """
    pair, start = tl.program_id(1), tl.program_id(0) * BLOCK
    tile = load_rows(q, pair // heads, pair % heads, start, length, stride_b, stride_h, stride_l, BLOCK, HEAD_DIM, False, True)
    tile = tile.to(tl.float32)
    amax = tl.maximum(tl.max(tl.abs(tile), 1), SMALLEST_AMAX)
    rows = pair.to(tl.int64) * tl.num_programs(0) * BLOCK + start + tl.arange(0, BLOCK)
    tl.store(q_scale + rows, tl.div_rn(amax, LARGEST))
    tile8 = narrow(tile * tl.div_rn(LARGEST, amax)[:, None], tl.int8)
    tl.store(q8 + rows[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :], tile8)
    if MEAN_BLOCK > 0:
        sums = tl.sum(tile.reshape(BLOCK // MEAN_BLOCK, MEAN_BLOCK, HEAD_DIM), 1)
        first = start + tl.arange(0, BLOCK // MEAN_BLOCK) * MEAN_BLOCK
        counts = tl.maximum(tl.minimum(length - first, MEAN_BLOCK), 1).to(tl.float32)
        place = (pair.to(tl.int64) * mean_blocks + first // MEAN_BLOCK)[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
        tl.store(means + place, sums / counts[:, None], mask=(first < length)[:, None])


@triton.jit(do_not_specialize=_RUN_TIME)
def keys_kernel(k, v, k_sum, v_amax, k8, k_scale, v8, v_scale, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, heads,
                length, parts,
                LARGEST: tl.constexpr, LARGEST_V: tl.constexpr, SMALLEST_AMAX: tl.constexpr, HEAD_DIM: tl.constexpr,
                BLOCK: tl.constexpr, PV8: tl.constexpr, PERMUTE: tl.constexpr):
    """One block of k less its mean to int8, and of v to e4m3; grid (blocks, B * H).

    k_sum, v_amax [B, H, parts, D]; k8 [B, H, blocks * BLOCK, D]; k_scale [B, H, blocks]; v8 [B, H, D, blocks * BLOCK]; v_scale
    [B, H, D]. Padding is zero.
    """
    block, pair = tl.program_id(0), tl.program_id(1)
    batch, head, start = pair // heads, pair % heads, block * BLOCK
    rows, cols = tl.arange(0, BLOCK), tl.arange(0, HEAD_DIM)
    padded = tl.num_programs(0) * BLOCK
    tile = load_rows(k, batch, head, start, length, stride_kb, stride_kh, stride_kl, BLOCK, HEAD_DIM, False, True).to(tl.float32)
    k_mean = tl.zeros([HEAD_DIM], tl.float32)
    largest_v = tl.full([HEAD_DIM], SMALLEST_AMAX, tl.float32)
    first = pair.to(tl.int64) * parts * HEAD_DIM + cols
    for part in range(0, parts):
        k_mean += tl.load(k_sum + first + part * HEAD_DIM)
        if PV8:
            largest_v = tl.maximum(largest_v, tl.load(v_amax + first + part * HEAD_DIM))
    k_mean = tl.div_rn(k_mean, length.to(tl.float32))
    tile = tl.where((start + rows < length)[:, None], tile - k_mean[None, :], 0.0)
    amax = tl.maximum(tl.max(tl.max(tl.abs(tile), 1), 0), SMALLEST_AMAX)
    tl.store(k_scale + pair * tl.num_programs(0) + block, tl.div_rn(amax, LARGEST))
    place = (pair.to(tl.int64) * padded + start + rows)[:, None] * HEAD_DIM + cols[None, :]
    tl.store(k8 + place, narrow(tile * tl.div_rn(LARGEST, amax), tl.int8))
    if PV8:
        tile = load_rows(v, batch, head, start, length, stride_vb, stride_vh, stride_vl, BLOCK, HEAD_DIM, False, True).to(tl.float32)
        tl.store(v_scale + pair * HEAD_DIM + cols, tl.div_rn(largest_v, LARGEST_V), mask=cols < tl.where(block == 0, HEAD_DIM, 0))
        tile = narrow(tile * tl.div_rn(LARGEST_V, largest_v)[None, :], tl.float8e4nv)
        tile = permute16(tl.trans(tile), HEAD_DIM, BLOCK, PERMUTE)
        place = (pair.to(tl.int64) * HEAD_DIM + cols)[:, None] * padded + (start + rows)[None, :]
        tl.store(v8 + place, tile)


@triton.jit
def load_tile(x, row, col, stride, ROWS: tl.constexpr, COLS: tl.constexpr, TMA: tl.constexpr):
    """Tile [ROWS, COLS] of a matrix at (row, col), wholly inside it. x: a pointer to rows `stride` apart, or with TMA a descriptor."""
    if TMA:
        tile = x.load([row, col])
    else:
        rows, cols = tl.arange(0, ROWS), tl.arange(0, COLS)
        tile = tl.load(x + row.to(tl.int64) * stride + col + rows[:, None] * stride + cols[None, :])
    return tile


@triton.jit
def products(q, k8, row, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, TMA: tl.constexpr):
    """q8 k8^T of one key block, unscaled. q int8 [M, D] -> int32 [M, N]."""
    k_tile = load_tile(k8, row, 0, HEAD_DIM, BLOCK_N, HEAD_DIM, TMA)
    return tl.dot(q, tl.trans(k_tile), out_dtype=tl.int32)


@triton.jit
def visit(top, total, acc, logits, scale, v, pair, batch, head, start, length, padded, stride_vb, stride_vh, stride_vl,
          HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, PV8: tl.constexpr, PERMUTE: tl.constexpr, TMA: tl.constexpr,
          RAGGED: tl.constexpr):
    """One key block of the online softmax, base 2: logits [M, N] unscaled, scale [M].

    top [M]: a whole number at or above all logits so far; total [M]: sum; acc [M, D]: unnormalised output. 8-bit products with v start
    from zero at each block and join acc outside the matrix unit, whose own sums have some 13 bits; acc is rescaled there anyway.
    """
    logits = logits.to(tl.float32)
    if RAGGED:
        logits = tl.where((start + tl.arange(0, BLOCK_N) < length)[None, :], logits, float("-inf"))
    new_top = tl.maximum(top, tl.ceil(tl.max(logits, 1) * scale))
    weights = tl.exp2(logits * scale[:, None] - (new_top - _WEIGHT_BITS)[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(weights, 1)
    if PV8:
        weights = permute16(narrow(weights, tl.float8e4nv), weights.shape[0], BLOCK_N, PERMUTE)
        v_tile = load_tile(v, pair * HEAD_DIM, start, padded, HEAD_DIM, BLOCK_N, TMA)
        acc = acc * shrink[:, None] + tl.dot(weights, tl.trans(v_tile), max_num_imprecise_acc=BLOCK_N)
    else:
        v_tile = load_rows(v, batch, head, start, length, stride_vb, stride_vh, stride_vl, BLOCK_N, HEAD_DIM, TMA, RAGGED)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")
    return new_top, total, acc


def set_tiles(arguments: dict) -> None:
    """Before a launch: descriptors fetch the tiles of the chosen config."""
    block_m, block_n, head_dim = (arguments[name] for name in ("BLOCK_M", "BLOCK_N", "HEAD_DIM"))
    arguments["q8"].block_shape = [block_m, head_dim]
    arguments["k8"].block_shape = [block_n, head_dim]
    arguments["v"].block_shape = [head_dim, block_n] if arguments["PV8"] else [1, 1, block_n, head_dim]


@triton.jit(do_not_specialize=_RUN_TIME)
def attention_kernel(q8, k8, v, q_scale, k_scale, v_scale, o, stride_vb, stride_vh, stride_vl, stride_ob, stride_oh, stride_ol,
                     heads, length, key_length, query_blocks, key_blocks, logit_scale, HEAD_DIM: tl.constexpr, KEY_BLOCK: tl.constexpr,
                     PV8: tl.constexpr, PERMUTE: tl.constexpr, TMA: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                     AHEAD: tl.constexpr):
    """o of one query block; grid (blocks, B * H), query blocks of a head side by side so that its keys stay in L2.

    AHEAD: the matrix unit multiplies the next keys while this block's weights are computed.
    """
    pair = tl.program_id(1)
    batch, head = pair // heads, pair % heads
    start_m = tl.program_id(0) * BLOCK_M
    padded, key_padded = query_blocks * KEY_BLOCK, key_blocks * KEY_BLOCK
    q = load_tile(q8, pair * padded + start_m, 0, HEAD_DIM, BLOCK_M, HEAD_DIM, TMA)
    row_scale = tl.load(q_scale + pair.to(tl.int64) * padded + start_m + tl.arange(0, BLOCK_M)) * logit_scale
    k_scale += pair * key_blocks
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    first, whole, last = pair * key_padded, key_length // BLOCK_N * BLOCK_N, (key_length - 1) // BLOCK_N * BLOCK_N
    key_scale = tl.load(k_scale)
    if AHEAD:
        logits = products(q, k8, first, HEAD_DIM, BLOCK_N, TMA)
    for start in range(0, whole, BLOCK_N):
        after = tl.minimum(start + BLOCK_N, last)
        scale = row_scale * key_scale
        key_scale = tl.load(k_scale + after // KEY_BLOCK)       # an iteration early: its latency hides behind the products
        if AHEAD:
            ahead = products(q, k8, first + after, HEAD_DIM, BLOCK_N, TMA)
        else:
            logits = products(q, k8, first + start, HEAD_DIM, BLOCK_N, TMA)
        top, total, acc = visit(top, total, acc, logits, scale, v, pair, batch, head, start, key_length, key_padded, stride_vb,
                                stride_vh, stride_vl, HEAD_DIM, BLOCK_N, PV8, PERMUTE, TMA, False)
        if AHEAD:
            logits = ahead
    if whole < key_length:
        if not AHEAD:
            logits = products(q, k8, first + whole, HEAD_DIM, BLOCK_N, TMA)
        top, total, acc = visit(top, total, acc, logits, row_scale * key_scale, v, pair, batch, head, whole, key_length, key_padded,
                                stride_vb, stride_vh, stride_vl, HEAD_DIM, BLOCK_N, PV8, PERMUTE, TMA, True)
    acc = acc / total[:, None]
    if PV8:
        acc = acc * tl.load(v_scale + pair * HEAD_DIM + tl.arange(0, HEAD_DIM))[None, :]
    store_rows(o, acc, batch, head, start_m, length, stride_ob, stride_oh, stride_ol, BLOCK_M, HEAD_DIM)


_KEY = ["HEAD_DIM", "PV8", "PERMUTE"]
attention_by_descriptors = triton.autotune(first_or_all(
    autotune_configs(BLOCK_M=(128,), BLOCK_N=(128,), AHEAD=(True, False), num_warps=(8,), num_stages=(3,), pre_hook=set_tiles)
    + autotune_configs(BLOCK_M=(64,), BLOCK_N=(128,), AHEAD=(True, False), num_warps=(4,), num_stages=(2,), pre_hook=set_tiles)),
    key=_KEY)(attention_kernel)
attention_by_pointers = triton.autotune(
    autotune_configs(BLOCK_M=(128,), BLOCK_N=(64,), AHEAD=(False,), num_warps=(4, 8), num_stages=(2, 3)), key=_KEY)(attention_kernel)
