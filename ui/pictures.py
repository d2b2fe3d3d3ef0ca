"""Pictures that clips start from: kept by their content as long as a clip of the history names them, shown as the engine crops them."""
from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from turbo_engine.errors import OutputError, TurboError
from turbo_engine.media import encode_jpeg
from turbo_engine.picture import MAX_BYTES, cover, read_picture
from turbo_engine.safe_write import write_whole

UNUSED_S = 24 * 3600         # a picture no clip was made of is kept this long
SHOWN_PX = 640               # the longer side of what the page gets to see
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Picture:
    """A file's SHA-256, as recipes name it, and its bytes; b"" where only its name matters."""

    id: str
    data: bytes = field(default=b"", compare=False, repr=False)


def picture_of(recipe: Mapping) -> Picture | None:
    """What a clip started from, by name alone."""
    return Picture(recipe["image_sha256"]) if recipe.get("image_sha256") else None


class Pictures:
    """The pictures in one folder. Safe from any thread."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._newest: Picture | None = None         # so that each keystroke does not read it again
        self._lock = threading.Lock()

    def add(self, data: bytes) -> Picture:
        """Keep a PNG, JPEG or WebP file. Raises: RequestError for anything else, OutputError when the disk refuses."""
        read_picture(data)
        picture = Picture(hashlib.sha256(data).hexdigest(), data)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._folder / picture.id, data)
        except OSError as error:
            raise OutputError(f"picture: cannot be kept in {self._folder} ({error.strerror}); make room there") from error
        return self._remember(picture)

    def get(self, picture_id: str) -> Picture | None:
        with self._lock:
            if self._newest is not None and self._newest.id == picture_id:
                return self._newest
        if not _ID.fullmatch(picture_id):
            return None
        try:
            return self._remember(Picture(picture_id, (self._folder / picture_id).read_bytes()))
        except OSError:
            return None

    def sweep(self, used: Iterable[str]) -> None:
        """Remove what no clip names, unless it came today."""
        keep = set(used)
        for path in self._folder.glob("*"):
            if path.name not in keep and time.time() - path.stat().st_mtime > UNUSED_S:
                path.unlink(missing_ok=True)

    def _remember(self, picture: Picture) -> Picture:
        with self._lock:
            self._newest = picture
        return picture


def add_picture_routes(app: FastAPI, pictures: Pictures) -> None:

    @app.post("/rt/picture")
    async def add(request: Request) -> dict:
        """Keep a picture; the body is the file. One that cannot be used is a 422 in plain words."""
        data = await request.body()
        if len(data) > MAX_BYTES:
            raise HTTPException(413, f"This picture is larger than {MAX_BYTES >> 20} MB; make it smaller.")
        try:
            return _known(await run_in_threadpool(pictures.add, data))
        except TurboError as error:
            raise HTTPException(422, str(error)) from error

    @app.get("/rt/picture/{picture_id}")
    def find(picture_id: str) -> dict:
        """known: whether it is still here; width and height as it is seen, turned."""
        picture = pictures.get(picture_id)
        return {"id": picture_id, "known": False} if picture is None else _known(picture)

    @app.get("/rt/picture/{picture_id}/shown.jpg")
    def shown(picture_id: str, width: int = 0, height: int = 0) -> Response:
        """The picture, turned as its EXIF says; with a size, the part of it that a clip of that size starts from."""
        picture = pictures.get(picture_id)
        if picture is None:
            raise HTTPException(404, "This picture is no longer here; choose it again.")
        pixels = read_picture(picture.data)
        if width > 0 and height > 0:
            pixels = cover(pixels, width, height)
        return Response(encode_jpeg(_smaller(pixels)[None])[0], media_type="image/jpeg",
                        headers={"Cache-Control": "private, max-age=31536000, immutable"})


def _known(picture: Picture) -> dict:
    height, width = read_picture(picture.data).shape[:2]
    return {"id": picture.id, "known": True, "width": width, "height": height}


def _smaller(pixels):
    import cv2
    share = SHOWN_PX / max(pixels.shape[:2])
    return pixels if share >= 1 else cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
