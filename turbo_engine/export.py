"""Everything a person may take away from a clip: videos, a GIF, pictures, two clips side by side.

Every file carries its recipe unless told not to: see `recipe_files`, which also reads it back out. PyAV, OpenCV and
zipfile come in when first used.
"""
import functools
import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from turbo_engine.errors import OutputError, TurboError
from turbo_engine.gif import GIF_MAX_FPS, encode_gif
from turbo_engine.media import CRF, encode_video, h264_options
from turbo_engine.recipe_files import MAX_RECIPE_BYTES, ZIP_NAME, as_text, put_in_gif, put_in_png
from turbo_engine.resample import by_time, check_rate, count_at, exact_rate, is_number, resized

MAX_SIDE = 8192              # pixels; every encoder here takes it, and a picture of that size still fits in memory


class ExportCancelled(TurboError):
    """The caller's `cancelled()` said so; nothing was made."""


@dataclass(frozen=True)
class Format:
    """A kind of file this build can make. name: as in `ExportOptions.format`; extension without its dot."""

    name: str
    label: str
    extension: str
    mime: str


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a clip. Raises: OutputError for what no clip could have; the rest is checked against the clip.

    fps: frames per second, 1 to 120 (GIF: to 50); frames are dropped or repeated, the speed stays. None: the clip's.
    scale: of both sides, 0.25 to 4; videos lose the last row or column where a side comes out odd.
    loops: a video's frames are repeated 1 to 20 times; a GIF plays 1 to 20 times, or for ever with 0. None: once, GIF
        for ever. Pictures ignore it.
    trim_in, trim_out: first and last frame kept, from 0. frame: which one a "png" shows, from 0 in the whole clip.
    """

    format: str = "mp4"
    fps: float | None = None
    scale: float = 1.0
    loops: int | None = None
    trim_in: int = 0
    trim_out: int | None = None
    frame: int = 0
    strip_recipe: bool = False

    def __post_init__(self):
        if self.format not in _FORMATS:
            raise OutputError(f"format: expected one of {', '.join(_FORMATS)}, got {self.format!r}; choose one of them")
        top = GIF_MAX_FPS if self.format == "gif" else 120
        if self.fps is not None and not (is_number(self.fps) and 1 <= self.fps <= top):
            raise OutputError(f"fps: expected 1 to {top} for {self.format}, got {self.fps!r}; choose a rate in between")
        if not (is_number(self.scale) and 0.25 <= self.scale <= 4):
            raise OutputError(f"scale: expected 0.25 to 4, got {self.scale!r}; choose a factor in between")
        least = 0 if self.format == "gif" else 1
        if self.loops is not None and not (_is_count(self.loops) and least <= self.loops <= 20):
            raise OutputError(f"loops: expected {least} to 20 for {self.format}, got {self.loops!r}; "
                              "choose a number in between")
        for name, value in (("trim_in", self.trim_in), ("trim_out", self.trim_out), ("frame", self.frame)):
            if not (_is_count(value) or value is None and name == "trim_out"):
                raise OutputError(f"{name}: expected a frame number from 0, got {value!r}; the first frame is 0")
        if self.trim_out is not None and self.trim_out < self.trim_in:
            raise OutputError(f"trim_out: expected at least trim_in, {self.trim_in}, got {self.trim_out}; move one of them")


def formats() -> tuple[Format, ...]:
    """The formats whose encoder the installed PyAV really has, best known first."""
    return tuple(kind.format for kind in _FORMATS.values() if not kind.encoders or _encoder_of(kind))


def export(frames: np.ndarray, fps: float, recipe: dict | None, options: ExportOptions, *,
           progress: Callable[[int, int], None] | None = None, cancelled: Callable[[], bool] | None = None) -> bytes:
    """The clip as the bytes of one file.

    Args: frames: uint8 [T, H, W, 3] RGB. fps: the clip's own. progress: called often with (done, total) steps of work,
        a frame is about two, and last with done = total. cancelled: asked as often.
    Raises: OutputError if the clip cannot be made so; ExportCancelled.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise OutputError(f"frames: expected uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}; convert them first")
    kind = _FORMATS[options.format]
    encoder = _encoder_of(kind)
    if kind.encoders and encoder is None:
        raise OutputError(f"{kind.format.label}: expected {' or '.join(kind.encoders)} in PyAV, found none; "
                          "choose another format")
    plan = _plan(*frames.shape[:3], fps, options)
    recipe = None if options.strip_recipe else recipe
    text = None if recipe is None else as_text(recipe)
    if text is not None and len(text) > MAX_RECIPE_BYTES:
        raise OutputError(f"recipe: expected at most {MAX_RECIPE_BYTES // 1024} KB, got {len(text):,} bytes; "
                          "export without the recipe")
    work = _Work(progress, cancelled, len(plan.indices) * (1 if options.format.startswith("png") else 2))
    if options.format == "png":
        data = _png(next(_pictures(frames, plan)))
        data = data if text is None else put_in_png(data, text)
    elif options.format == "png-zip":
        data = _png_zip(_pictures(frames, plan), text, work)
    elif options.format == "gif":
        data = encode_gif(lambda: _pictures(frames, plan), len(plan.indices), plan.size, plan.fps, options.loops or 0,
                          tick=work.step, check=work.check)
        data = data if text is None else put_in_gif(data, text)
    else:
        os.environ.setdefault("SVT_LOG", "1")                      # SVT-AV1 tells its life on stderr otherwise
        data = encode_video(_pictures(frames, plan), len(plan.indices), plan.size, plan.fps, recipe,
                            container=kind.format.extension, encoder=encoder, options=_encoder_options(encoder, len(plan.indices)),
                            codec_tag="hvc1" if encoder == "libx265" else None, tick=work.step)   # Apple wants hvc1
    work.finish()
    return data


def _encoder_options(encoder: str, count: int) -> dict[str, str]:
    """x265 4.2 takes the decoding time of B-frames from its third frame on: in a shorter clip it is what lay in memory."""
    options = _ENCODER_OPTIONS[encoder]
    if encoder == "libx265" and count < 3:
        options = {**options, "x265-params": options["x265-params"] + ":bframes=0"}
    return options


def estimate_bytes(num_frames: int, height: int, width: int, options: ExportOptions, *, fps: float | None = None) -> int:
    """About how large the file will be, before any work: within a factor of 5 for smooth and for grainy clips.

    It is the geometric middle of the two (see `_Kind.bits_per_pixel`); AV1 and VP9 blur grain away, so pure noise is
    up to 100 times larger there. fps: the clip's own, needed only where options.fps changes it.
    """
    kind = _FORMATS[options.format]
    plan = _plan(num_frames, height, width, fps or options.fps or 16, options)
    smooth, grainy = kind.bits_per_pixel
    return int(len(plan.indices) * plan.size[0] * plan.size[1] * math.sqrt(smooth * grainy) / 8) + 2048


# -- two clips beside each other -------------------------------------------------------------------------------------

def side_by_side(a: np.ndarray, b: np.ndarray, *, fps_a: float, fps_b: float, labels: tuple[str, str] = ("A", "B")
                 ) -> tuple[np.ndarray, float]:
    """A and B in one clip, each above a dark strip with its label.

    Args: a, b: uint8 [T, H, W, 3] RGB; both are fitted to the taller one's height. The clip runs at the higher rate; each
        side shows what a player would at that time, the shorter one keeps its last frame.
    Returns: (uint8 [T, H, W, 3] with even H and W, frames per second). Raises: OutputError.
    """
    for name, clip, fps in (("a", a, fps_a), ("b", b, fps_b)):
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or not clip.size:
            raise OutputError(f"{name}: expected uint8 [T, H, W, 3], got {clip.dtype} {list(clip.shape)}; convert them first")
        check_rate(f"fps_{name}", fps)
    fps = max(fps_a, fps_b)
    count = max(count_at(len(a), fps_a, fps), count_at(len(b), fps_b, fps))
    height = max(a.shape[1], b.shape[1])
    widths = [max(2, round(clip.shape[2] * height / clip.shape[1] / 2) * 2) for clip in (a, b)]
    strip = max(16, round(height * 0.07)) // 2 * 2 + height % 2    # an even total
    gap = max(2, height // 240 * 2)
    total = (height + strip, widths[0] + gap + widths[1])
    if max(total) > MAX_SIDE:
        raise OutputError(f"size: expected sides up to {MAX_SIDE} pixels, got {total[1]}x{total[0]}; use smaller clips")
    out = np.zeros((count, *total, 3), np.uint8)
    left = 0
    for clip, rate, width, label in zip((a, b), (fps_a, fps_b), widths, labels):
        out[:, height:, left:left + width] = _label_strip(label, strip, width)
        shown = None
        for k, index in enumerate(by_time(len(clip), rate, fps, count)):
            if index != shown:
                picture, shown = resized(clip[index], (height, width)), index
            out[k, :height, left:left + width] = picture
        left += width + gap
    return out, fps


def _label_strip(label: str, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: the label left-aligned on near-black, cut with an ellipsis where it is too long."""
    import cv2

    strip = np.full((height, width, 3), (18, 18, 20), np.uint8)
    label = " ".join(str(label).split())
    pad, light = max(4, height // 3), (232, 232, 228)
    if hasattr(cv2, "FontFace"):                                   # OpenCV 5: a real font, with accents
        font, size = cv2.FontFace("sans"), max(9, round(height * 0.54))
        measure = lambda text: cv2.getTextSize((width, height), text, (0, 0), font, size, 450)[2]
        draw = lambda text: cv2.putText(strip, text, (pad, round(height / 2 + size * 0.36)), light, font, size, 450)
        dots = "…"
    else:                                                          # OpenCV 4: strokes, ASCII only
        scale, weight = height * 0.5 / 22, max(1, height // 28)
        measure = lambda text: cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)[0][0]
        draw = lambda text: cv2.putText(strip, text, (pad, round(height / 2 + scale * 10.5)), cv2.FONT_HERSHEY_SIMPLEX,
                                        scale, light, weight, cv2.LINE_AA)
        dots = "..."
    text = label[:400]
    while text and measure(text) > width - 2 * pad:
        text = text.removesuffix(dots)[:-1].rstrip()
        text += dots if text else ""
    if text:
        draw(text)
    return strip


# -- which frames, how large -----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Plan:
    """Which frames of the clip come out, in order; at which rate; resized to `resize`, then cut to `size`, (H, W) both."""

    indices: list[int]
    fps: Fraction
    resize: tuple[int, int]
    size: tuple[int, int]


def _plan(num_frames: int, height: int, width: int, fps: float, options: ExportOptions) -> _Plan:
    check_rate("fps", fps)
    last = num_frames - 1 if options.trim_out is None else options.trim_out
    for name, index in (("trim_in", options.trim_in), ("trim_out", last), ("frame", options.frame)):
        if index >= num_frames and (name == "frame") == (options.format == "png"):
            raise OutputError(f"{name}: expected 0 to {num_frames - 1} in a clip of {num_frames} frames, got {index}; "
                              "choose a frame in the clip")
    resize = size = max(1, round(height * options.scale)), max(1, round(width * options.scale))
    kind = _FORMATS[options.format]
    if kind.min_side:                                              # a video
        size = size[0] // 2 * 2, size[1] // 2 * 2
    if not kind.min_side <= min(size) <= max(size) <= MAX_SIDE:
        raise OutputError(f"size: expected sides of {max(1, kind.min_side)} to {MAX_SIDE} pixels for {options.format}, "
                          f"got {size[1]}x{size[0]}; choose another scale")
    if options.format == "png":
        return _Plan([options.frame], exact_rate(fps), resize, size)
    out_fps = options.fps or (min(fps, GIF_MAX_FPS) if options.format == "gif" else fps)
    kept = last - options.trim_in + 1
    indices = [options.trim_in + i for i in by_time(kept, fps, out_fps, count_at(kept, fps, out_fps))]
    return _Plan(indices * ((options.loops or 1) if kind.min_side else 1), exact_rate(out_fps), resize, size)


def _pictures(frames: np.ndarray, plan: _Plan) -> Iterator[np.ndarray]:
    for index in plan.indices:
        yield np.ascontiguousarray(resized(frames[index], plan.resize)[:plan.size[0], :plan.size[1]])


class _Work:
    """Counts steps, reports them, and stops the work when asked."""

    def __init__(self, progress, cancelled, total: int):
        self.progress, self.cancelled, self.total, self.done = progress, cancelled, total, 0
        self.check()

    def check(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise ExportCancelled("export: expected to finish, was cancelled; nothing was written")

    def step(self) -> None:
        self.check()
        self.done = min(self.done + 1, self.total)
        if self.progress is not None and self.done < self.total:
            self.progress(self.done, self.total)

    def finish(self) -> None:
        if self.progress is not None:
            self.progress(self.total, self.total)


# -- PNG and ZIP -----------------------------------------------------------------------------------------------------

def _png(picture: np.ndarray) -> bytes:
    import cv2

    ok, data = cv2.imencode(".png", picture[..., ::-1])
    if not ok:
        raise OutputError(f"PNG: expected the encoder to take {list(picture.shape)}, found it would not; try another size")
    return data.tobytes()


def _png_zip(pictures: Iterator[np.ndarray], text: bytes | None, work: _Work) -> bytes:
    """recipe.json, then 0001.png and on. Stored, as PNG is packed already; dated 1980, so that same frames are same bytes."""
    import zipfile

    def put(name: str, data: bytes):
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.create_system, entry.external_attr = 3, 0o644 << 16
        file.writestr(entry, data)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        if text is not None:
            put(ZIP_NAME, text)
        for number, picture in enumerate(pictures, 1):
            put(f"{number:04}.png", _png(picture))
            work.step()
    return buffer.getvalue()


# -- the table of formats --------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Kind:
    format: Format
    encoders: tuple[str, ...]
    """Any of these will do, the first found is used; () for what needs none of PyAV's."""
    bits_per_pixel: tuple[float, float]
    """Measured with the stand-in's gradients, 33 frames of 256 x 256: (as they are, with grain of sigma 4 added)."""
    min_side: int = 0
    """In pixels; 0 for what is not a video. Two encoders of PyAV 18.1 do worse than refuse narrow pictures: x265 4.2 writes
    past its buffers at widths of 34 to 48 and takes the process down, SVT-AV1 4.1 never returns if one side is 18 and the
    other over 64. From 64 up both were sound at every size tried."""


_FORMATS = {kind.format.name: kind for kind in (
    _Kind(Format("mp4", "MP4 (H.264)", "mp4", "video/mp4"), ("libx264",), (0.17, 2.45), 2),
    _Kind(Format("mp4-h265", "MP4 (H.265)", "mp4", "video/mp4"), ("libx265",), (0.06, 0.83), 64),
    _Kind(Format("mp4-av1", "MP4 (AV1)", "mp4", "video/mp4"), ("libsvtav1", "libaom-av1"), (0.054, 0.49), 64),
    _Kind(Format("webm", "WebM", "webm", "video/webm"), ("libvpx-vp9", "libsvtav1", "libaom-av1"), (0.035, 0.7), 64),
    _Kind(Format("gif", "GIF", "gif", "image/gif"), ("gif",), (4.1, 9.1)),
    _Kind(Format("png-zip", "PNG frames (ZIP)", "zip", "application/zip"), (), (10.8, 14.6)),
    _Kind(Format("png", "PNG, one frame", "png", "image/png"), (), (10.8, 14.6)),
)}
_ENCODER_OPTIONS = {         # on those clips within 0.5 dB of x264 at CRF; 4:2:0 chroma is what is left of the error
    "libx264": h264_options(CRF, "medium"),
    "libx265": {"crf": "16", "preset": "medium", "x265-params": "log-level=none"},
    "libsvtav1": {"crf": "14", "preset": "8"},
    "libaom-av1": {"crf": "14", "b": "0", "cpu-used": "6", "row-mt": "1"},
    "libvpx-vp9": {"crf": "14", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
}


@functools.cache
def _encoder_of(kind: _Kind) -> str | None:
    import av

    for name in kind.encoders:
        try:
            av.codec.Codec(name, "w")
        except ValueError:                                         # av.codec.codec.UnknownCodecError
            continue
        return name
    return None


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
