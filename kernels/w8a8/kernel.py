"""Triton kernels of the 8-bit linear layer: rows to 8 bits in one pass, and the product with its scales and bias in the epilogue.

The number of rows is a run-time value: a new clip length runs the binary that is there.
"""
import triton
import triton.language as tl

from kernels.narrow import narrow, quick_gelu, store_row
from kernels.tuning import autotune_configs, first_or_all


@triton.jit
def rows_kernel(x, x8, scale, stride, width, LARGEST: tl.constexpr, SMALLEST_AMAX: tl.constexpr, WIDTH: tl.constexpr):
    """One row to 8 bits, held in registers between its largest magnitude and its rounding; grid (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, WIDTH)
    tile = tl.load(x + row * stride + cols, mask=cols < width, other=0.0).to(tl.float32)
    store_row(tile, x8, scale, row, cols, width, LARGEST, SMALLEST_AMAX)


def set_tiles(arguments: dict) -> None:
    """Before a launch: descriptors fetch and store the tiles of the chosen config."""
    rows, outs, width = (arguments[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    for name, tile in (("x8", [rows, width]), ("w8", [outs, width]), ("y", [rows, outs])):
        arguments[name].block_shape = tile


@triton.jit
def _load(x, row, col, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr, TMA: tl.constexpr):
    """Tile [ROWS, COLS] of x [rows, width] at (row, col); zero outside. x is a pointer, or with TMA a descriptor."""
    if TMA:
        tile = x.load([row, col])
    else:
        r, c = row + tl.arange(0, ROWS), col + tl.arange(0, COLS)
        tile = tl.load(x + r[:, None].to(tl.int64) * width + c[None, :], mask=(r < rows)[:, None] & (c < width)[None, :], other=0.0)
    return tile


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(x8, w8, y, x_scale, w_scale, bias, bound, y_scale, rows, outs, width, BIAS: tl.constexpr, INT: tl.constexpr,
                  GELU: tl.constexpr, TMA: tl.constexpr, PRECISE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                  BLOCK_K: tl.constexpr, PER_SM: tl.constexpr):
    """y [rows, outs] of x8 [rows, width] and w8 [outs, width]; each program walks every num_programs-th tile of y.

    Neighbouring programs share rows of x8 in groups of 8, so that both operands stay in L2. PRECISE (fp8 on Hopper): sums leave the
    matrix unit, whose own have some 13 bits, every BLOCK_K products. GELU: y is e4m3, of the activation, with the scale
    x_scale * bound[0] + bound[1] of its row, stored to y_scale too. PER_SM: programs on a multiprocessor, for the host.
    """
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(outs, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        group = tile // (8 * tiles_n)
        height = tl.minimum(tiles_m - group * 8, 8)
        start_m = (group * 8 + tile % (8 * tiles_n) % height) * BLOCK_M
        start_n = tile % (8 * tiles_n) // height * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if INT else tl.float32)
        for k in range(0, tl.cdiv(width, BLOCK_K)):
            x_tile = _load(x8, start_m, k * BLOCK_K, rows, width, BLOCK_M, BLOCK_K, TMA)
            w_tile = _load(w8, start_n, k * BLOCK_K, outs, width, BLOCK_N, BLOCK_K, TMA)
            if INT:
                acc = tl.dot(x_tile, tl.trans(w_tile), acc, out_dtype=tl.int32)
            elif PRECISE:
                acc = tl.dot(x_tile, tl.trans(w_tile), acc, max_num_imprecise_acc=BLOCK_K)
            else:
                acc = tl.dot(x_tile, tl.trans(w_tile), acc)
        r, c = start_m + tl.arange(0, BLOCK_M), start_n + tl.arange(0, BLOCK_N)
        out = acc.to(tl.float32) * tl.load(x_scale + r, mask=r < rows, other=0.0)[:, None]
        out = out * tl.load(w_scale + c, mask=c < outs, other=0.0)[None, :]
        if BIAS:
            out += tl.load(bias + c, mask=c < outs, other=0.0).to(tl.float32)[None, :]
        if GELU:
            row_scale = tl.load(x_scale + r, mask=r < rows, other=0.0) * tl.load(bound) + tl.load(bound + 1)
            tl.store(y_scale + r, row_scale, mask=(r < rows) & (start_n == 0))
            out = narrow(quick_gelu(out) * (1.0 / row_scale)[:, None], tl.float8e4nv)
        if TMA:
            y.store([start_m, start_n], out if GELU else out.to(y.dtype))
        else:
            tl.store(y + r[:, None].to(tl.int64) * outs + c[None, :], out if GELU else out.to(y.dtype.element_ty),
                     mask=(r < rows)[:, None] & (c < outs)[None, :])


_KEY = ["outs", "width", "INT", "PRECISE", "GELU"]
linear_by_descriptors = triton.autotune(first_or_all(
    autotune_configs(BLOCK_M=(128,), BLOCK_N=(128,), BLOCK_K=(128,), PER_SM=(1,), num_warps=(8,), num_stages=(4,), pre_hook=set_tiles)
    + autotune_configs(BLOCK_M=(128,), BLOCK_N=(256,), BLOCK_K=(128,), PER_SM=(1,), num_warps=(8,), num_stages=(3,), pre_hook=set_tiles)
    + autotune_configs(BLOCK_M=(128,), BLOCK_N=(128,), BLOCK_K=(64,), PER_SM=(2,), num_warps=(4,), num_stages=(4,), pre_hook=set_tiles)),
    key=_KEY)(linear_kernel)
linear_by_pointers = triton.autotune(
    autotune_configs(BLOCK_M=(128,), BLOCK_N=(128,), BLOCK_K=(128, 64), PER_SM=(1,), num_warps=(8,), num_stages=(3,)), key=_KEY)(linear_kernel)
