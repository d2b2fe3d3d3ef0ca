"""How alike two clips are, frame by frame: PSNR and SSIM of uint8 RGB frames, and two clips brought to one clock and one size."""
import cv2
import numpy as np

from turbo_engine.resample import by_time, count_at, resized

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)      # BT.709
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def aligned(a: np.ndarray, b: np.ndarray, fps_a: float, fps_b: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Two clips as a player shows them beside each other, tick by tick of the faster one's clock.

    Args: a, b: uint8 [T, H, W, 3], lengths and sizes of their own. The shorter keeps its last frame up to the longer one's
        end, the smaller is scaled to the larger.
    Returns: (a, b, ticks per second), of one shape. Raises: ValueError, in plain words, if their aspect ratios differ.
    """
    (height_a, width_a), (height_b, width_b) = sizes = a.shape[1:3], b.shape[1:3]
    if abs(width_a * height_b - width_b * height_a) > max(height_a, height_b):         # by more than a pixel of the smaller
        raise ValueError(f"These two clips cannot be measured against each other: one is {width_a} x {height_a}, the other "
                         f"{width_b} x {height_b}. Choose two of the same shape.")
    fps, size = max(fps_a, fps_b), max(sizes)
    count = max(count_at(len(a), fps_a, fps), count_at(len(b), fps_b, fps))
    return (*(_at(clip, rate, fps, count, size) for clip, rate in ((a, fps_a), (b, fps_b))), fps)


def _at(clip: np.ndarray, rate: float, fps: float, count: int, size: tuple[int, int]) -> np.ndarray:
    if clip.shape[1:3] != size:
        clip = np.stack([resized(frame, size) for frame in clip])
    return clip if (rate, len(clip)) == (fps, count) else clip[by_time(len(clip), rate, fps, count)]


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.ndim != 4 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"frames: expected two uint8 [T, H, W, 3] of one shape, got {a.dtype} {a.shape} and {b.dtype} {b.shape}")


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame pair, dB, inf where equal. a, b uint8 [T, H, W, 3] -> float64 [T]."""
    _check(a, b)
    error = np.array([np.square(x.astype(np.float32) - y).mean(dtype=np.float64) for x, y in zip(a, b)])
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255 ** 2 / error)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame pair on luma, 1 where equal. a, b uint8 [T, H, W, 3] -> float64 [T].

    Gaussian window of 11 pixels, sigma 1.5, constants 0.01 and 0.03. Source: Wang et al. 2004, IEEE TIP 13(4).
    """
    _check(a, b)
    return np.array([_ssim_of(x @ LUMA, y @ LUMA) for x, y in zip(a, b)])


def _ssim_of(x: np.ndarray, y: np.ndarray) -> float:
    def local_mean(image):
        return cv2.GaussianBlur(image, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mean_x ** 2, local_mean(y * y) - mean_y ** 2
    covariance = local_mean(x * y) - mean_x * mean_y
    score = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / ((mean_x ** 2 + mean_y ** 2 + C1) * (var_x + var_y + C2))
    return float(score.mean(dtype=np.float64))
