"""A clip at another rate or another size: which frame is shown when, and a picture made larger or smaller.

OpenCV comes in when first used.
"""
import math
from fractions import Fraction

import numpy as np

from turbo_engine.errors import OutputError


def exact_rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)                   # 24000/1001 and its kin stay exact


def count_at(num_frames: int, fps: float, out_fps: float) -> int:
    """How many frames at out_fps last as long as num_frames at fps, at least one."""
    return max(1, round(num_frames * exact_rate(out_fps) / exact_rate(fps)))


def by_time(num_frames: int, fps: float, out_fps: float, count: int) -> list[int]:
    """For each of count frames at out_fps: which of num_frames at fps is on screen in its middle. The last one stays."""
    ratio = exact_rate(fps) / exact_rate(out_fps)
    return [min(num_frames - 1, (2 * k + 1) * ratio.numerator // (2 * ratio.denominator)) for k in range(count)]


def check_rate(name: str, fps: float) -> None:
    """Refuse a rate no clip has. Raises: OutputError; name is what it calls the rate."""
    if not (is_number(fps) and 0.1 <= fps <= 240):
        raise OutputError(f"{name}: expected 0.1 to 240 frames per second, got {fps!r}; check the clip")


def is_number(value) -> bool:
    """A finite number; True and False are none."""
    return isinstance(value, (int, float, Fraction)) and not isinstance(value, bool) and math.isfinite(value)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] at size (H, W)."""
    import cv2

    if picture.shape[:2] == tuple(size):
        return picture
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    return cv2.resize(np.ascontiguousarray(picture), (size[1], size[0]),
                      interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
