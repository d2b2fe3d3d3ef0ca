"""The files of a history's clips: one MP4, one NPZ and at most one star for each. `store` draws the folder.

The MP4 is written last and removed first: where it stands, the clip is whole, and what is left without one is rubbish.
PyAV and OpenCV come in when first used.
"""
import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from turbo_engine.media import encode_jpeg
from turbo_engine.safe_write import sync_folder, write_whole
from turbo_engine.store_open import StoreError

THUMBNAIL_PX = 160           # its longer side, at most twice that

_ID = re.compile(r"[A-Za-z0-9_-]{16}", re.ASCII)                   # secrets.token_urlsafe(12)
_TEMPORARY = re.compile(r"\.[A-Za-z0-9_-]{16}\.(mp4|npz)\.\d+\.part", re.ASCII)


class ClipFiles:
    """The folder they stand in. Raises: OSError from every method when the disk refuses."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, clip_id: str, kind: str) -> Path:
        assert is_id(clip_id), clip_id
        return self.folder / f"{clip_id}.{kind}"

    def write(self, clip_id: str, mp4: bytes, npz: bytes) -> None:
        """Both survive a power cut when this returns. npz: as `pack` makes it."""
        write_whole(self.path(clip_id, "npz"), npz)
        write_whole(self.path(clip_id, "mp4"), mp4)

    def remove(self, clip_id: str) -> None:
        for kind in ("mp4", "npz", "star"):
            self.path(clip_id, kind).unlink(missing_ok=True)

    def sync(self) -> None:
        """Removals reach the disk before this returns."""
        sync_folder(self.folder)

    def mark_star(self, clip_id: str, starred: bool) -> None:
        if starred:
            self.path(clip_id, "star").touch()
        else:
            self.path(clip_id, "star").unlink(missing_ok=True)

    def whole(self) -> dict[str, bool]:
        """Of each whole clip, whether it is starred. What a killed save left is removed: only while none is under way."""
        found: dict[str, set[str]] = {}
        for file in os.scandir(self.folder):
            stem, _, kind = file.name.partition(".")
            if _TEMPORARY.fullmatch(file.name):
                os.unlink(file.path)
            elif is_id(stem) and kind in ("mp4", "npz", "star"):
                found.setdefault(stem, set()).add(kind)
        for clip_id in [clip_id for clip_id, kinds in found.items() if "mp4" not in kinds]:
            self.remove(clip_id)
            del found[clip_id]
        return {clip_id: "star" in kinds for clip_id, kinds in found.items()}


def is_id(clip_id) -> bool:
    return isinstance(clip_id, str) and _ID.fullmatch(clip_id) is not None


def make_thumbnail(frames: np.ndarray) -> bytes:
    """The middle frame of uint8 [T, H, W, 3] as a small JPEG."""
    frame = frames[len(frames) // 2]
    by = max(1, min(max(frame.shape[:2]) // THUMBNAIL_PX, *frame.shape[:2]))
    height, width = frame.shape[0] // by, frame.shape[1] // by
    blocks = frame[:height * by, :width * by].reshape(height, by, width, by, 3)
    return encode_jpeg(np.rint(blocks.mean((1, 3))).astype(np.uint8)[None], quality=80)[0]


def pack(latent: np.ndarray, jpeg: bytes, created: float, took_s: float | None) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, latent=latent.astype(np.float16), thumbnail=np.frombuffer(jpeg, np.uint8),
             about=np.array(json.dumps({"created": created, "took_s": took_s})))
    return buffer.getvalue()


def unpack(path: Path) -> tuple[np.ndarray, bytes, float, float | None]:
    """What `pack` was given, the latent as float16. Raises: OSError, StoreError for a damaged file."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as packed:
            about = json.loads(str(packed["about"]))
            return packed["latent"], packed["thumbnail"].tobytes(), float(about["created"]), about["took_s"]
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, NotImplementedError) as error:
        raise StoreError(f"{path}: expected a latent of this app, found: {error}; make the clip again") from error
