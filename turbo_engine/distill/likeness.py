"""PSNR and SSIM of `turbo_engine.compare` for batches of clips, on the device that made them."""
import torch
from torch import Tensor

from turbo_engine.compare import C1, C2, LUMA

RADIUS, SIGMA = 5, 1.5
ALIKE_DB = 99.0              # said of equal frames


def likeness(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """How alike two clips are once they are 8-bit, frame by frame. a, b [B, 3, T, H, W] in [0, 1] -> PSNR in dB, at most 99, and SSIM, float32 [B, T] each."""
    scores = [_of_a_clip(*(clip.float().mul(255).round() for clip in pair)) for pair in zip(a, b, strict=True)]
    return tuple(torch.stack(each) for each in zip(*scores))


def _of_a_clip(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x, y [3, T, H, W] in [0, 255] -> [T] each."""
    error = (x - y).square().mean((0, 2, 3))
    weights = torch.from_numpy(LUMA).to(x.device).view(3, 1, 1, 1)
    x, y = ((clip * weights).sum(0) for clip in (x, y))
    mean_x, mean_y, square_x, square_y, product = _blurred(torch.stack((x, y, x * x, y * y, x * y)))
    var_x, var_y, covariance = square_x - mean_x ** 2, square_y - mean_y ** 2, product - mean_x * mean_y
    score = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / ((mean_x ** 2 + mean_y ** 2 + C1) * (var_x + var_y + C2))
    return (10 * (255 ** 2 / error).log10()).clamp(max=ALIKE_DB), score.mean((1, 2))


def _blurred(maps: Tensor) -> Tensor:
    """A Gaussian over the last two dimensions, mirrored at the edges, in sums that no reduced precision touches."""
    away = torch.arange(-RADIUS, RADIUS + 1)
    window = (-away.square() / (2 * SIGMA ** 2)).exp()
    window = (window / window.sum()).tolist()
    for dim in (-1, -2):
        size = maps.shape[dim]
        inside = torch.arange(size, device=maps.device)
        mirrored = torch.cat((inside[:RADIUS].flip(0), inside, inside[-RADIUS:].flip(0)))
        wide = maps.index_select(dim, mirrored)
        maps = sum(weight * wide.narrow(dim, start, size) for start, weight in enumerate(window))
    return maps
