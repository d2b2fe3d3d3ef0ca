"""Contact sheets: a few frames of many clips with their captions, to look at what a stage has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

_MARGIN, _LINE = 6, 20
_FONT, _SCALES = cv2.FONT_HERSHEY_SIMPLEX, (0.42, 0.38, 0.34)
_PAPER, _INK = (22, 18, 18), (236, 236, 236)     # BGR


def contact_sheet(
    videos: Sequence[np.ndarray],
    labels: Sequence[str],
    path: Path | str,
    *,
    columns: int = 3,
    frames: Sequence[int] = (0, 8, 16, 24, 32),
    thumb: int = 160,
) -> Path:
    """Write a sheet, clips row by row, each a strip of frames over its label.

    Args:
        videos: [T, H, W, 3] uint8 RGB each.
        labels: one a video; a long one is written smaller, and what does not fit under its strip even so is cut off.
        path: .png, .jpg or .webp.
        frames: which frames of each; beyond the end means the last.
        thumb: height and width of a frame, pixels.
    Returns: path.
    """
    if len(videos) != len(labels):
        raise ValueError(f"labels: expected one for each of {len(videos)} videos, got {len(labels)}")
    strip_width, strip_height = len(frames) * thumb, thumb + _LINE
    rows = -(-len(videos) // columns)
    sheet = np.empty((rows * (strip_height + _MARGIN) + _MARGIN, columns * (strip_width + _MARGIN) + _MARGIN, 3), np.uint8)
    sheet[:] = _PAPER
    for i, (video, label) in enumerate(zip(videos, labels)):
        row, column = divmod(i, columns)
        top, left = _MARGIN + row * (strip_height + _MARGIN), _MARGIN + column * (strip_width + _MARGIN)
        for k, frame in enumerate(frames):
            picture = video[min(frame, len(video) - 1)][..., ::-1]
            shrink = picture.shape[0] > thumb
            picture = cv2.resize(picture, (thumb, thumb), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
            sheet[top : top + thumb, left + k * thumb : left + (k + 1) * thumb] = picture
        text = label.encode("ascii", "replace").decode()
        while not (scale := _fitting(text, strip_width - 4)):
            text = text.removesuffix("...")[:-1] + "..."
        cv2.putText(sheet, text, (left + 2, top + thumb + 14), _FONT, scale, _INK, 1, cv2.LINE_AA)
    if not cv2.imwrite(str(path), sheet, (cv2.IMWRITE_WEBP_QUALITY, 75) if str(path).endswith(".webp") else ()):
        raise OSError(f"{path}: could not write the sheet; expected a folder that exists and a name ending in .png, .jpg or .webp")
    return Path(path)


def _fitting(text: str, width: int) -> float:
    """The largest scale of the font at which a text is no wider than so many pixels; 0 where none is."""
    return next((scale for scale in _SCALES if cv2.getTextSize(text, _FONT, scale, 1)[0][0] <= width), 0)
