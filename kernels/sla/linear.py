"""The linear branch in one pass over the keys; its other half is the last step of `kernel.forward_kernel`.

The projection is linear, so it is applied to the [D, D] summary of the keys instead of to every token (README.md).
"""
import triton
import triton.language as tl

from kernels.sla.kernel import channel_softmax, load_rows
from kernels.tuning import autotune_configs


@triton.autotune(autotune_configs(num_warps=(4, 8), num_stages=(2, 3)), key=["HEAD_DIM", "BLOCK_N", "RANGE"])
@triton.jit(do_not_specialize=["heads", "length", "blocks", "share"])
def keys_kernel(k, v, means, kv, z, k_sum, v_amax, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, heads, length, blocks, share,
                HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, RANGE: tl.constexpr):
    """Everything the op wants of k and v but the attention: block means, partial sums of k_features^T v and k_features, and with
    RANGE those of k and the largest |v| by channel, k_sum and v_amax like z.

    Grid (parts, B * H); each program walks `share` neighbouring key blocks. means [B, H, blocks, D]; kv [B, H, parts, D, D];
    z [B, H, parts, D]; all float32. Parts are added in order by `fold_kernel`: the same sum at every run, unlike atomics.
    """
    part, pair = tl.program_id(0), tl.program_id(1)
    batch, head = pair // heads, pair % heads
    cols = tl.arange(0, HEAD_DIM)
    means += pair.to(tl.int64) * blocks * HEAD_DIM
    kv_acc = tl.zeros([HEAD_DIM, HEAD_DIM], tl.float32)
    z_acc = tl.zeros([HEAD_DIM], tl.float32)
    k_acc = tl.zeros([HEAD_DIM], tl.float32)
    v_acc = tl.zeros([HEAD_DIM], tl.float32)
    for i in range(0, tl.minimum(share, blocks - part * share)):
        block = part * share + i
        start = block * BLOCK_N
        k_tile = load_rows(k, batch, head, start, length, stride_kb, stride_kh, stride_kl, BLOCK_N, HEAD_DIM, False, True)
        v_tile = load_rows(v, batch, head, start, length, stride_vb, stride_vh, stride_vl, BLOCK_N, HEAD_DIM, False, True)
        count = tl.minimum(BLOCK_N, length - start).to(tl.float32)
        block_sum = tl.sum(k_tile.to(tl.float32), 0)
        tl.store(means + block.to(tl.int64) * HEAD_DIM + cols, block_sum / count)
        features = tl.where((start + tl.arange(0, BLOCK_N) < length)[:, None], channel_softmax(k_tile), 0.0)
        z_acc += tl.sum(features, 0)
        if RANGE:
            k_acc += block_sum
            v_acc = tl.maximum(v_acc, tl.max(tl.abs(v_tile.to(tl.float32)), 0))
        kv_acc = tl.dot(tl.trans(features.to(v_tile.dtype)), v_tile, kv_acc, input_precision="ieee")
    me = pair.to(tl.int64) * tl.num_programs(0) + part
    tl.store(z + me * HEAD_DIM + cols, z_acc)
    if RANGE:
        tl.store(k_sum + me * HEAD_DIM + cols, k_acc)
        tl.store(v_amax + me * HEAD_DIM + cols, v_acc)
    tl.store(kv + me * HEAD_DIM * HEAD_DIM + cols[:, None] * HEAD_DIM + cols[None, :], kv_acc)


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
    for part in range(0, parts):
        kv_acc += tl.load(kv + (first + part) * HEAD_DIM * HEAD_DIM + tile)
        z_acc += tl.load(z + (first + part) * HEAD_DIM + rows)
    means = tl.where((z_acc > 0)[:, None], kv_acc / tl.where(z_acc > 0, z_acc, 1.0)[:, None], 0.0)
    values += pair.to(tl.int64) * HEAD_DIM * HEAD_DIM
    for out in range(0, HEAD_DIM, ROWS):
        outs = out + tl.arange(0, ROWS)
        transposed = tl.load(weight + outs[None, :] * HEAD_DIM + cols[:, None]).to(tl.float32)      # [in, out]
        projected = tl.dot(means, transposed, input_precision="ieee")
        tl.store(values + rows[:, None] * HEAD_DIM + outs[None, :], projected.to(values.dtype.element_ty))
    tl.store(z_sum + pair * HEAD_DIM + rows, z_acc)
