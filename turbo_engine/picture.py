"""A picture that a clip starts from: encoded bytes to pixels, cut to the clip's proportions."""
import os

import numpy as np

from turbo_engine.errors import RequestError

MAX_BYTES = 32 << 20
MAX_PIXELS = 1 << 26
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))       # read by OpenCV when it is loaded


def read_picture(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3], RGB, turned as its EXIF says. data: a PNG, JPEG or WebP file. Raises: RequestError for anything else."""
    if len(data) > MAX_BYTES:
        raise RequestError(f"image: expected at most {MAX_BYTES >> 20} MiB, got {len(data) >> 20}; make it smaller")
    if not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        raise RequestError("image: expected a PNG, JPEG or WebP picture, got another kind of file; save it as one of these")
    import cv2
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        picture = None                                       # larger than MAX_PIXELS
    if picture is None:
        raise RequestError(f"image: expected a whole picture of at most {MAX_PIXELS // 10 ** 6} megapixels, got one that cannot be read; "
                           "save it again, or smaller")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def cover(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of a picture in the proportions of width x height, at its own resolution. uint8 [H, W, 3]."""
    rows, columns = picture.shape[:2]
    wide = min(columns, max(1, round(rows * width / height)))
    tall = min(rows, max(1, round(columns * height / width)))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    return picture[top:top + tall, left:left + wide]
