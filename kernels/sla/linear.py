"""The linear branch in one pass over the keys; its other half is the last step of `kernel.forward_kernel`.

The projection is linear, so it is applied to the [D, D] summary of the keys instead of to every token (README.md).
"""
import triton
import triton.language as tl

from kernels.sla.kernel import channel_softmax, load_rows
from kernels.tuning import autotune_configs

SUM_ROWS = tl.constexpr(16)        # the least that a product has: all alike, the first is used


@triton.autotune(autotune_configs(num_warps=(4, 8), num_stages=(2, 3)), key=["HEAD_DIM", "BLOCK_N", "RANGE"])
@triton.jit(do_not_specialize=["heads", "length", "blocks", "share"])
def keys_kernel(k, v, means, kv, z, k_sum, v_amax, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, heads, length, blocks, share,
                HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, RANGE: tl.constexpr):
    """Everything the op wants of k and v but the attention: block means, partial sums of k_features^T v and k_features, and with
    RANGE those of k and the largest |v| by channel, k_sum and v_amax like z.

    Grid (parts, B * H); each program walks `share` neighbouring key blocks. means [B, H, blocks, D]; kv [B, H, parts, D, D];
    z [B, H, parts, D]; all float32. Parts are added in order by `fold_kernel`: the same sum at every run, unlike atomics.

    Sums over tokens are products with ones, and the summary is made transposed: a reduction across warps at each block, and features
    that change their layout to be a product's left side, took a third of the time.
    """
    part, pair = tl.program_id(0), tl.program_id(1)
    batch, head = pair // heads, pair % heads
    cols, first = tl.arange(0, HEAD_DIM), (tl.arange(0, SUM_ROWS) == 0)[:, None]
    means += pair.to(tl.int64) * blocks * HEAD_DIM
    ones = tl.full([SUM_ROWS, BLOCK_N], 1.0, k.dtype.element_ty)
    vk_acc = tl.zeros([HEAD_DIM, HEAD_DIM], tl.float32)
    z_acc = tl.zeros([SUM_ROWS, HEAD_DIM], tl.float32)
    k_acc = tl.zeros([SUM_ROWS, HEAD_DIM], tl.float32)
    v_acc = tl.zeros([HEAD_DIM], tl.float32)
    for i in range(0, tl.minimum(share, blocks - part * share)):
        block = part * share + i
        start = block * BLOCK_N
        k_tile = load_rows(k, batch, head, start, length, stride_kb, stride_kh, stride_kl, BLOCK_N, HEAD_DIM, False, True)
        v_tile = load_rows(v, batch, head, start, length, stride_vb, stride_vh, stride_vl, BLOCK_N, HEAD_DIM, False, True)
        count = tl.minimum(BLOCK_N, length - start).to(tl.float32)
        features = tl.where((start + tl.arange(0, BLOCK_N) < length)[:, None], channel_softmax(k_tile), 0.0).to(v_tile.dtype)
        block_sum = tl.dot(ones, k_tile, input_precision="ieee")
        tl.store(means + block.to(tl.int64) * HEAD_DIM + cols[None, :] + tl.zeros_like(first), block_sum / count, mask=first)
        z_acc = tl.dot(ones.to(features.dtype), features, z_acc, input_precision="ieee")
        if RANGE:
            k_acc += block_sum
            v_acc = tl.maximum(v_acc, tl.max(tl.abs(v_tile.to(tl.float32)), 0))
        vk_acc = tl.dot(tl.trans(v_tile), features, vk_acc, input_precision="ieee")
    me = pair.to(tl.int64) * tl.num_programs(0) + part
    tl.store(z + me * HEAD_DIM + cols, tl.sum(tl.where(first, z_acc, 0.0), 0))
    if RANGE:
        tl.store(k_sum + me * HEAD_DIM + cols, tl.sum(tl.where(first, k_acc, 0.0), 0))
        tl.store(v_amax + me * HEAD_DIM + cols, v_acc)
    tl.store(kv + me * HEAD_DIM * HEAD_DIM + cols[None, :] * HEAD_DIM + cols[:, None], vk_acc)


@triton.jit(do_not_specialize=["parts"])
def fold_kernel(kv, z, weight, values, z_sum, parts, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr):
    """Add the parts, make row c of the summary the mean of v under key channel c, and project it; grid (D / ROWS, B * H).

    weight [D, D] ([out, in]); values [B * H, D, D] in the dtype of v; z_sum [B * H, D] float32. A channel that no key uses is zero.
    """
    pair = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, HEAD_DIM)
    tile = rows[:, None] * HEAD_DIM + cols[None, :]
    first = pair.to(tl.int64) * parts
    kv_acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    z_acc = tl.zeros([ROWS], tl.float32)
    for part in tl.range(0, parts, num_stages=4):
        kv_acc += tl.load(kv + (first + part) * HEAD_DIM * HEAD_DIM + tile)
        z_acc += tl.load(z + (first + part) * HEAD_DIM + rows)
    means = tl.where((z_acc > 0)[:, None], kv_acc / tl.where(z_acc > 0, z_acc, 1.0)[:, None], 0.0)
    values += pair.to(tl.int64) * HEAD_DIM * HEAD_DIM
    for out in range(0, HEAD_DIM, ROWS):
        outs = out + tl.arange(0, ROWS)
        weight_rows = tl.load(weight + outs[:, None] * HEAD_DIM + cols[None, :]).to(tl.float32)
        projected = tl.dot(means, tl.trans(weight_rows), input_precision="tf32x3")                  # float32 but for its last bits
        tl.store(values + rows[:, None] * HEAD_DIM + outs[None, :], projected.to(values.dtype.element_ty))
    tl.store(z_sum + pair * HEAD_DIM + rows, z_acc)
