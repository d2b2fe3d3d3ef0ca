"""Frames to files and back: H.264 in MP4 with the recipe inside, and JPEG for the page. A file is whole or it is not there.

PyAV and OpenCV come in when first used. Colours are BT.709, limited range, and tagged so: players guess otherwise.
"""
import contextlib
import errno
import functools
import io
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np

from turbo_engine.errors import OutputError
from turbo_engine.safe_write import write_whole

CRF = 14                     # x264's quality, lower is better; at 14 the art's soft gradients do not band
_WAYS_OUT = {
    errno.ENOENT: ("an existing folder", "create the folder or choose another"),
    errno.ENOTDIR: ("a folder", "a file stands in the path, choose another"),
    errno.EISDIR: ("a file name", "a folder has that name, choose another"),
    errno.EACCES: ("a folder you may write to", "choose another folder or change its permissions"),
    errno.EPERM: ("a folder you may write to", "choose another folder or change its permissions"),
    errno.EROFS: ("a folder you may write to", "the disk is read-only, choose another folder"),
    errno.ENOSPC: ("room on the disk", "free some space or choose another disk"),
    errno.EDQUOT: ("room on the disk", "your quota is used up, free some space"),
    errno.EFBIG: ("room for the file", "the file system or a limit refuses files this large"),
    errno.ENAMETOOLONG: ("a shorter name", "choose a shorter name"),
}


def encode_mp4(path: Path | str, frames: np.ndarray, fps: int, recipe: dict | None = None, *, crf: int = CRF) -> Path:
    """Write an MP4: encoded in memory, then temporary file, sync, rename. An older file of that name stays until then.

    libav is kept away from the disk: it lets some failed writes pass (seen with a full one), Python's files do not.
    Args: frames: uint8 [T, H, W, 3] RGB, H and W even. recipe: JSON-ready, kept in the comment tag.
    Returns: path. Raises: OutputError with the way out; nothing of the new file is left then.
    """
    path = Path(path)
    check_writable(path)
    data = encode_mp4_bytes(frames, fps, recipe, crf=crf, preset="medium")
    try:
        write_whole(path, data)
    except OSError as error:
        raise _translated(path, error, f" for {len(data):,} bytes") from error
    return path


def encode_mp4_bytes(frames: np.ndarray, fps: int, recipe: dict | None = None, *, crf: int = 18,
                     preset: str = "ultrafast") -> bytes:
    """An MP4 in memory, its index first so that it starts at once when streamed. The defaults are quick, for a page."""
    _check_frames(frames)
    count, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise OutputError(f"size: expected even numbers for H.264, got {width}x{height}; crop a row or column")
    return encode_video(frames, count, (height, width), fps, recipe, options=h264_options(crf, preset))


def h264_options(crf: int, preset: str) -> dict[str, str]:
    """x264's options. Without mbtree: its vector code gave two different files for the same frames, 21 of 60 times
    (64 x 64, x264 in PyAV 18.1)."""
    return {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}


@contextlib.contextmanager
def _ordinary_priority():
    """What is begun in here runs in turn with all else. As root, SVT-AV1 takes real time for the thread that opens it and its own: nothing
    else on the machine moves then, and what that thread starts later inherits it."""
    ask = getattr(os, "sched_getscheduler", None)              # Linux has it
    before = ask and ask(0)
    try:
        yield
    finally:
        for task in map(int, os.listdir("/proc/self/task")) if ask and before == os.SCHED_OTHER else ():
            with contextlib.suppress(OSError):                  # it has ended
                if ask(task) in (os.SCHED_FIFO, os.SCHED_RR):
                    os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))


def encode_video(pictures: Iterable[np.ndarray], count: int, size: tuple[int, int], fps: int | Fraction,
                 recipe: dict | None = None, *, container: str = "mp4", encoder: str = "libx264",
                 options: dict[str, str] | None = None, codec_tag: str | None = None,
                 tick: Callable[[], None] = lambda: None) -> bytes:
    """A video file in memory, its index first: 8 bits, 4:2:0, BT.709, limited range, and tagged so.

    Args: pictures: count of them, uint8 [H, W, 3] RGB, taken one by one. size: (H, W), both even. container: "mp4" or
        "webm". recipe: JSON-ready, kept in the comment tag. tick: called after each picture taken and each packet
        made, about 2 count times; what it raises stops the work and comes out of here.
    Raises: OutputError if this PyAV lacks the encoder or the encoder refuses the clip.
    """
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    comment = "" if recipe is None else json.dumps(recipe, ensure_ascii=False)
    room = 8192 + 64 * count + len(comment.encode())           # for the index, which grows with the frames; the rest is padding
    index_first = ({"moov_size": str(room)} if container == "mp4" else
                   {"reserve_index_space": str(1024 + count), "fflags": "+bitexact"})   # bitexact: no random segment number
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=index_first) as file:
        if comment:
            file.metadata["comment"] = comment
        try:
            stream = file.add_stream(encoder, rate=fps)
        except ValueError as error:                                # av.codec.codec.UnknownCodecError
            name = "H.264" if encoder == "libx264" else encoder
            raise OutputError(f"{name}: expected an encoder in PyAV, found none; reinstall it: "
                              "pip install --force-reinstall av") from error
        stream.height, stream.width = size
        stream.pix_fmt, stream.options = "yuv420p", options or {}
        context = stream.codec_context
        if codec_tag:
            context.codec_tag = codec_tag
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        try:
            with _ordinary_priority():
                context.open(strict=False)
        except av.error.FFmpegError as error:
            raise OutputError(f"size: expected one that {encoder} takes, got {size[1]}x{size[0]}; try another size or format"
                              ) from error

        def pack(frame):
            for packet in stream.encode_lazy(frame):               # one by one: the last call makes up to 40 at once
                file.mux(packet)
                tick()
        for index, picture in enumerate(pictures):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = rgb.reformat(format="yuv420p", src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG,
                                 dst_colorspace=Colorspace.ITU709, dst_color_primaries=ColorPrimaries.BT709,
                                 dst_color_trc=ColorTrc.BT709)
            frame.pts = index
            pack(frame)
            tick()
        pack(None)
    return buffer.getvalue()


def encode_jpeg(frames: np.ndarray, quality: int = 90) -> list[bytes]:
    """One JPEG a frame, several at a time. frames uint8 [T, H, W, 3] RGB; quality 1 to 100."""
    import cv2

    def encode(frame: np.ndarray) -> bytes:
        ok, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not ok:
            raise OutputError(f"JPEG: expected the encoder to take {list(frame.shape)}, found it would not; try another size")
        return data.tobytes()

    _check_frames(frames)
    return list(_encoders().map(encode, frames))


@functools.cache
def _encoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "jpeg")


def read_frames(path: Path | str) -> np.ndarray:
    """uint8 [T, H, W, 3] RGB of an MP4 of ours, as a player shows it. Raises: OutputError for anything else."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    try:
        with av.open(str(path), format="mp4") as container:
            frames = [frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG,
                                       dst_color_range=ColorRange.JPEG) for frame in container.decode(video=0)]
        return np.stack(frames)
    except Exception as error:                                     # PyAV raises many kinds on damaged files
        raise OutputError(f"{path}: expected an MP4 saved by this app, found one that cannot be played; make the clip again"
                          ) from error


def check_writable(path: Path | str) -> None:
    """Refuse a path before any work is done for it. Raises: OutputError."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise OutputError(f"{path}: expected a name ending in .mp4, found {path.suffix or 'no ending'}; try {path.stem}.mp4")
    try:
        if not path.parent.is_dir():
            raise _translated(path, OSError(errno.ENOTDIR if path.parent.exists() else errno.ENOENT, "no such folder"))
        if path.is_dir():
            raise _translated(path, OSError(errno.EISDIR, "a folder"))
    except OSError as error:
        raise _translated(path, error) from error
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise _translated(path, OSError(errno.EACCES, "no permission"))


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise OutputError(f"frames: expected uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}; convert them first")


def _translated(path: Path, error: OSError, size: str = "") -> OutputError:
    reason = error.strerror or str(error)
    expected, way_out = _WAYS_OUT.get(error.errno, ("to write it", "choose another place"))
    expected += size if "room" in expected else ""
    return OutputError(f"{path}: expected {expected}, found: {reason[:1].lower()}{reason[1:]}; {way_out}")
