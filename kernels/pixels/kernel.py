"""One program some pixels, their channels side by side in registers from the first load to the last store."""
import triton
import triton.language as tl


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
