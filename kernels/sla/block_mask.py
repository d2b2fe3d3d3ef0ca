"""Choosing the key blocks: block means in one pass, and a top-k that writes the lut itself, in order, with no serial scan."""
import triton
import triton.language as tl

from kernels.sla.kernel import load_rows

SMALLEST_ROW = 1024
"""Narrowest select kernel: scores of up to this many key blocks (65,536 tokens of 64) share one binary."""


@triton.jit(do_not_specialize=["heads", "length"])
def means_kernel(x, means, stride_b, stride_h, stride_l, heads, length, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Mean of one block of tokens, the last block by its own count; grid (blocks, B * H). means [B, H, blocks, D] float32."""
    pair, block = tl.program_id(1), tl.program_id(0)
    start = block * BLOCK
    tile = load_rows(x, pair // heads, pair % heads, start, length, stride_b, stride_h, stride_l, BLOCK, HEAD_DIM, False, True)
    count = tl.minimum(BLOCK, length - start).to(tl.float32)
    row = (pair.to(tl.int64) * tl.num_programs(0) + block) * HEAD_DIM
    tl.store(means + row + tl.arange(0, HEAD_DIM), tl.sum(tile.to(tl.float32), 0) / count)


@triton.jit(do_not_specialize=["key_blocks", "topk"])
def select_kernel(scores, lut, key_blocks, topk, ROW: tl.constexpr):
    """Indices of the topk largest of one row of scores, ascending, ties to the lower index; one program a row.

    Scores become integers of the same order. Their topk-th largest is found bit by bit: a bit stays set while at least topk scores
    reach that high (32 counts, no sort). What is above it is kept, what equals it fills the rest from the left.
    """
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, ROW)
    bits = tl.load(scores + row * key_blocks + cols, mask=cols < key_blocks, other=0.0).to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)                      # signed integers in the order of the floats
    order = order.to(tl.int64) + 2147483648                         # from 0, so that bits can be tried from the top
    order = tl.where(cols < key_blocks, order, -1)
    floor = tl.zeros([1], tl.int64)
    for i in range(0, 32):
        higher = floor + (tl.full([1], 1, tl.int64) << (31 - i))
        reached = tl.sum((order >= higher).to(tl.int32), 0)
        floor = tl.where(reached >= topk, higher, floor)
    above = (order > floor).to(tl.int32)
    level = (order == floor).to(tl.int32)
    kept = above + level * (tl.cumsum(level, 0) <= topk - tl.sum(above, 0)).to(tl.int32)
    place = tl.cumsum(kept, 0) - 1
    tl.store(lut + row * topk + place, cols, mask=kept > 0)
