"""A video decoder's passes over pixels whose channels lie side by side: norm with what surrounds it, and the 3 x 3 x 3 convolution."""
import triton
import triton.language as tl

from kernels.tuning import autotune_configs, first_or_all


@triton.jit(do_not_specialize=["rows", "frame_rows", "lead_rows"])
def norm_silu_kernel(x, bias, plus, gamma, sums, out, rows, frame_rows, lead_rows, width, root, BIAS: tl.constexpr, PLUS: tl.constexpr,
                     KEEP: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Grid (rows / BLOCK,). x, plus, sums [B * frame_rows, C]; out [B * (lead_rows + frame_rows), C]: `lead_rows` in front of each clip."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, WIDTH)
    mask = (row < rows)[:, None] & (cols < width)[None, :]
    place = row[:, None] * width + cols[None, :]
    tile = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        tile += tl.load(bias + cols, mask=cols < width, other=0.0).to(tl.float32)[None, :]
    if PLUS:
        tile += tl.load(plus + place, mask=mask, other=0.0).to(tl.float32)
    if KEEP:
        tl.store(sums + place, tile.to(sums.dtype.element_ty), mask=mask)
    grow = root / tl.maximum(tl.sqrt(tl.sum(tile * tile, 1)), 1e-12)
    tile = tile * grow[:, None] * tl.load(gamma + cols, mask=cols < width, other=0.0).to(tl.float32)[None, :]
    tile = tile / (1.0 + tl.exp(-tile))
    ahead = (row // frame_rows + 1) * lead_rows
    tl.store(out + place + ahead[:, None] * width, tile.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["pixels", "columns"])
def double_kernel(x, y, pixels, columns, width, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Grid (pixels / BLOCK,). x [pixels, C], rows of `columns` pixels; y twice as many rows of twice as many pixels."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, WIDTH)
    mask = (pixel < pixels)[:, None] & (cols < width)[None, :]
    tile = tl.load(x + pixel[:, None] * width + cols[None, :], mask=mask, other=0.0)
    first = (pixel // columns * 4 * columns + pixel % columns * 2) * width
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            tl.store(y + (first + (2 * i * columns + j) * width)[:, None] + cols[None, :], tile, mask=mask)


def set_tiles(arguments: dict) -> None:
    """Before a launch: descriptors fetch and store the tiles of the chosen config."""
    high, wide, outs, step, tail = (arguments[name] for name in ("HIGH", "WIDE", "BLOCK_N", "STEP", "TAIL"))
    for name, width in (("x", step), ("x_tail", tail or step)):
        arguments[name].block_shape = [1, 1, high, wide, width]
    for name, width in (("weight", step), ("weight_tail", tail or step)):
        arguments[name].block_shape = [outs, 1, width]
    arguments["y"].block_shape = [1, 1, high, wide, outs]


@triton.jit(do_not_specialize=["frames", "height", "width"])
def conv3_kernel(x, x_tail, weight, weight_tail, y, frames, height, width, outs, steps, STEP: tl.constexpr, TAIL: tl.constexpr,
                 HIGH: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr):
    """y [B, T, H, W, N] of x [B, T + 2, H, W, C] and weight [N, 27, C], all by descriptors; zeros around a frame come from the copy engine.

    Grid (B * T * tiles of a frame * tiles of N,), the outputs of one tile of pixels side by side so that these stay in L2. The channels of
    a tap are summed in `steps` steps of STEP and, with TAIL, one of that many more: 96 = 64 + 32.
    """
    program, tiles = tl.program_id(0), tl.cdiv(outs, BLOCK_N)
    out, program = program % tiles * BLOCK_N, program // tiles
    tiles = tl.cdiv(width, WIDE)
    left, program = program % tiles * WIDE, program // tiles
    tiles = tl.cdiv(height, HIGH)
    top, program = program % tiles * HIGH, program // tiles
    frame, batch = program % frames, program // frames
    acc = tl.zeros([HIGH * WIDE, BLOCK_N], tl.float32)
    for i in range(0, 27 * steps):
        tap, k = i // steps, i % steps * STEP
        time, row, col = frame + tap // 9, top + tap // 3 % 3 - 1, left + tap % 3 - 1
        tile = x.load([batch, time, row, col, k]).reshape(HIGH * WIDE, STEP)
        acc = tl.dot(tile, tl.trans(weight.load([out, tap, k]).reshape(BLOCK_N, STEP)), acc)
        if TAIL > 0:
            tile = x_tail.load([batch, time, row, col, STEP]).reshape(HIGH * WIDE, TAIL)
            acc = tl.dot(tile, tl.trans(weight_tail.load([out, tap, STEP]).reshape(BLOCK_N, TAIL)), acc)
    y.store([batch, frame, top, left, out], acc.to(y.dtype).reshape(1, 1, HIGH, WIDE, BLOCK_N))


conv3 = triton.autotune(first_or_all(
    autotune_configs(HIGH=(8,), WIDE=(16,), BLOCK_N=(128,), num_warps=(8,), num_stages=(3,), pre_hook=set_tiles)
    + autotune_configs(HIGH=(8,), WIDE=(16,), BLOCK_N=(128,), num_warps=(4,), num_stages=(2,), pre_hook=set_tiles)
    + autotune_configs(HIGH=(16,), WIDE=(16,), BLOCK_N=(128,), num_warps=(8,), num_stages=(3,), pre_hook=set_tiles)
    + autotune_configs(HIGH=(16,), WIDE=(16,), BLOCK_N=(64,), num_warps=(8,), num_stages=(4,), pre_hook=set_tiles)),
    key=["outs", "steps", "STEP", "TAIL"])(conv3_kernel)
