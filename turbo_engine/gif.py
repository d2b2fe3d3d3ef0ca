"""GIF: one palette for all frames, and a dither that holds still where the picture does. PyAV comes in when first used."""
import functools
import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

GIF_MAX_FPS = 50             # browsers play delays under 2/100 s as 10/100 s

_CANDIDATES = 16             # palette colours mixed for one; 16 levels of a mask with 4,096 thresholds' arrangement
_MAX_CELLS = 120_000         # colours told apart; at most 4 s of mixing on one core
_CHANNEL_WEIGHTS = np.sqrt(np.float32([2, 4, 3]) / 3)              # how far apart colours look: green counts most


def encode_gif(pictures: Callable[[], Iterator[np.ndarray]], count: int, size: tuple[int, int], fps: Fraction, loops: int, *,
               tick: Callable[[], None] = lambda: None, check: Callable[[], None] = lambda: None) -> bytes:
    """A GIF in memory. The dither depends on a pixel's place and colour only: what stands still, stays still.

    Args: pictures: called twice, gives count of them, uint8 [H, W, 3] RGB. size: (H, W). loops: times it plays, 0 for
        ever. tick: called after each picture taken, 2 count times; check: now and then in between. What either raises
        stops the work and comes out of here.
    """
    import av

    palette, mix, bits = _gif_colours(pictures(), tick, check)
    ends = [round((k + 1) * 100 / fps) for k in range(count)]                    # 1/100 s; rounding errors do not add up
    starts = [0, *ends[:-1]]
    argb = np.zeros((256, 4), np.uint8)                            # 255 stays transparent: "as the frame before"
    argb[:len(palette)] = np.concatenate([np.full((len(palette), 1), 255), palette], 1)
    height, width = size
    rank = np.tile(_blue_noise(), (-(-height // 64), -(-width // 64)))[:height, :width]
    buffer = io.BytesIO()
    options = {"loop": str(loops - 1 if loops > 1 else -loops), "final_delay": str(ends[-1] - starts[-1])}
    with av.open(buffer, "w", format="gif", options=options) as file:
        stream = file.add_stream("gif", rate=100)
        stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
        for start, picture in zip(starts, pictures()):
            frame = av.VideoFrame.from_ndarray((mix[_cells(picture, bits), rank], argb), format="pal8")
            frame.pts, frame.time_base = start, Fraction(1, 100)
            file.mux(stream.encode(frame))
            tick()
        file.mux(stream.encode(None))
    return buffer.getvalue()


def _gif_colours(pictures: Iterator[np.ndarray], tick: Callable[[], None], check: Callable[[], None]
                 ) -> tuple[np.ndarray, np.ndarray, int]:
    """The palette [N <= 255, 3] uint8; for each cell of colour space and threshold the palette's index, [8 ** bits, 16]
    uint8; and bits, the cells' fineness per channel."""
    counts = np.zeros(1 << 21, np.int64)
    for picture in pictures:
        counts += np.bincount(_cells(picture, 7).ravel(), minlength=counts.size)
        tick()
    bits = 7
    while np.count_nonzero(counts) > _MAX_CELLS:
        bits -= 1
        half = 1 << bits
        counts = counts.reshape(half, 2, half, 2, half, 2).sum((1, 3, 5)).ravel()
    used = np.flatnonzero(counts)
    mask = (1 << bits) - 1
    colours = np.stack([used >> 2 * bits, used >> bits & mask, used & mask], 1).astype(np.float32) * (255 / mask)
    check()
    palette = _palette(colours, counts[used].astype(np.float64) ** 0.7, check)   # 0.7: small bright things keep their colour
    mix = np.zeros((counts.size, _CANDIDATES), np.uint8)
    for start in range(0, len(used), 8192):
        check()
        mix[used[start:start + 8192]] = _mixtures(colours[start:start + 8192], palette.astype(np.float32))
    return palette, mix, bits


def _cells(picture: np.ndarray, bits: int) -> np.ndarray:
    """Each pixel's cell of colour space, int32 [H, W]."""
    r, g, b = np.moveaxis(picture.astype(np.int32) >> (8 - bits), -1, 0)
    return r << 2 * bits | g << bits | b


def _palette(colours: np.ndarray, weights: np.ndarray, check: Callable[[], None], size: int = 255) -> np.ndarray:
    """At most `size` colours for colours [N, 3] with weights [N]: median cut, then four rounds of k-means. uint8 [M, 3].

    Source: Heckbert, SIGGRAPH 1982; boxes are split at the mean, the one with most squared error first (Wu 1991).
    """
    def box(members):
        w, c = weights[members], colours[members] * _CHANNEL_WEIGHTS
        mean = np.average(c, axis=0, weights=w)
        error = ((c - mean) ** 2 * w[:, None]).sum(0)
        axis = int(error.argmax())
        return [float(error.sum()) if np.ptp(c[:, axis]) > 0 else 0.0, members, c[:, axis] > mean[axis]]
    boxes = [box(np.arange(len(colours)))]
    while len(boxes) < size:
        worst = max(range(len(boxes)), key=lambda i: boxes[i][0])
        error, members, above = boxes[worst]
        if error <= 0 or above.all() or not above.any():
            break
        boxes[worst:worst + 1] = [box(members[~above]), box(members[above])]
    palette = np.stack([np.average(colours[m], axis=0, weights=weights[m]) for _, m, _ in boxes]).astype(np.float32)
    for _ in range(4):
        check()
        nearest = np.concatenate([_nearest(colours[i:i + 8192], palette) for i in range(0, len(colours), 8192)])
        total = np.bincount(nearest, weights, len(palette))
        sums = np.stack([np.bincount(nearest, weights * colours[:, c], len(palette)) for c in range(3)], 1)
        palette = np.where(total[:, None] > 0, sums / np.maximum(total, 1e-9)[:, None], palette).astype(np.float32)
    return np.unique(palette.round().astype(np.uint8), axis=0)


def _nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    a, b = colours * _CHANNEL_WEIGHTS, palette * _CHANNEL_WEIGHTS
    return (a @ b.T - (b * b).sum(1) / 2).argmax(1)


def _mixtures(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """For each of colours [N, 3] the 16 palette colours whose mean comes nearest, dark to bright: uint8 [N, 16].

    Source: Knoll's pattern dithering (US 6,606,166, expired 2019); the error is held to 40 so that colours outside the
    palette's reach do not call in strangers.
    """
    error = np.zeros_like(colours)
    chosen = np.zeros((len(colours), _CANDIDATES), np.int64)
    for i in range(_CANDIDATES):
        chosen[:, i] = _nearest(colours + error, palette)
        error = np.clip(error + colours - palette[chosen[:, i]], -40, 40)
    luma = palette @ np.float32([0.2126, 0.7152, 0.0722])
    order = np.argsort(luma[chosen], axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1).astype(np.uint8)


@functools.cache
def _blue_noise(side: int = 64) -> np.ndarray:
    """Thresholds 0 to 15 without visible pattern, tiling, int [side, side]. About 0.1 s, once.

    Source: the void-filling phase of Ulichney's void-and-cluster, SPIE 1993, sigma 1.5.
    """
    axis = np.minimum(np.arange(side), side - np.arange(side))
    bump = np.exp(-(axis[:, None] ** 2 + axis ** 2) / (2 * 1.5 ** 2))
    doubled = np.tile(bump, (2, 2))
    energy = np.random.default_rng(0).random((side, side)) * 1e-3
    rank = np.zeros((side, side), np.int64)
    for i in range(side * side):
        y, x = divmod(int(energy.argmin()), side)
        rank[y, x] = i
        energy += doubled[side - y:2 * side - y, side - x:2 * side - x]
        energy[y, x] = np.inf
    return rank * _CANDIDATES // (side * side)
