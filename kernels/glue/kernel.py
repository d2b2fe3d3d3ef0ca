"""The glue in Triton: one token a program, its channels in registers from the first load to the last store."""
import triton
import triton.language as tl

from kernels.narrow import gelu, store_row


@triton.jit(do_not_specialize=["length"])
def add_norm_kernel(x, y, gate, scale, shift, stream, out, out_scale, stride_gate, stride_scale, stride_shift, length, width, eps, ADD: tl.constexpr, GATE: tl.constexpr,
                    LARGEST: tl.constexpr, SMALLEST_AMAX: tl.constexpr, WIDTH: tl.constexpr):
    """Grid (B * L,). x, y, stream, out [B, L, C] contiguous; gate, scale, shift [B, C] by strides; out_scale [B, L]."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, WIDTH)
    mask = cols < width
    batch = row // length
    tile = tl.load(x + row * width + cols, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        more = tl.load(y + row * width + cols, mask=mask, other=0.0).to(tl.float32)
        if GATE:
            more = more * tl.load(gate + batch * stride_gate + cols, mask=mask, other=0.0).to(tl.float32)
        tile += more
        tl.store(stream + row * width + cols, tile.to(stream.dtype.element_ty), mask=mask)
    centred = tl.where(mask, tile - tl.sum(tile, 0) / width, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    h = normed * tl.load(scale + batch * stride_scale + cols, mask=mask, other=0.0).to(tl.float32)
    h += tl.load(shift + batch * stride_shift + cols, mask=mask, other=0.0).to(tl.float32)
    store_row(h, out, out_scale, row, cols, width, LARGEST, SMALLEST_AMAX)


@triton.jit
def gelu_kernel(x, out, out_scale, stride, width, LARGEST: tl.constexpr, SMALLEST_AMAX: tl.constexpr, WIDTH: tl.constexpr):
    """Grid (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, WIDTH)
    tile = tl.load(x + row * stride + cols, mask=cols < width, other=0.0).to(tl.float32)
    store_row(gelu(tile), out, out_scale, row, cols, width, LARGEST, SMALLEST_AMAX)


@triton.jit(do_not_specialize=["length"])
def norm_rope_kernel(x, weight, cos, sin, out, stride_b, stride_l, length, width, eps, ROPE: tl.constexpr, HALF_DIM: tl.constexpr,
                     WIDTH: tl.constexpr):
    """Grid (B * L,). x [B, L, C] by strides; out [B, L, C] contiguous; cos, sin [L, HALF_DIM]."""
    row = tl.program_id(0).to(tl.int64)
    token = row % length
    cols = tl.arange(0, WIDTH)
    mask = cols < width
    tile = tl.load(x + row // length * stride_b + token * stride_l + cols, mask=mask, other=0.0).to(tl.float32)
    tile = tile * tl.rsqrt(tl.sum(tile * tile, 0) / width + eps) * tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
    if ROPE:
        angle = token * HALF_DIM + tl.arange(0, WIDTH // 2) % HALF_DIM
        c, s = tl.load(cos + angle), tl.load(sin + angle)
        even, odd = tl.split(tile.reshape(WIDTH // 2, 2))
        tile = tl.join(even * c - odd * s, even * s + odd * c).reshape(WIDTH)
    tl.store(out + row * width + cols, tile.to(out.dtype.element_ty), mask=mask)
