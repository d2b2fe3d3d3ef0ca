"""The history's routes: a list to page and search, thumbnails, star, delete and its undo."""
from __future__ import annotations

from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import Response

from turbo_engine.store import StoreError

from .archive import Archive, describe

PAGE = 60               # entries a request
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}     # an id never means another picture


def add_history_routes(app: FastAPI, archive: Archive) -> None:
    store = archive.store

    @app.get("/rt/history")
    def entries(q: str = "", before: float | None = None, starred: bool = False) -> dict:
        """Newest first; `before` is `created` of the last entry seen. more: whether there are older ones."""
        found = _asked(store.list, q[:400], before=before, limit=PAGE + 1, starred=starred or None)
        return {"entries": [describe(entry) for entry in found[:PAGE]], "more": len(found) > PAGE}

    @app.get("/rt/history/{clip_id}.jpg")
    def thumbnail(clip_id: str) -> Response:
        return Response(_asked(store.thumbnail, clip_id), media_type="image/jpeg", headers=IMMUTABLE)

    @app.post("/rt/history/{clip_id}/star")
    def star(clip_id: str, on: bool = Body(embed=True)) -> dict:
        _asked(store.star, clip_id, on)
        return {"starred": on}

    @app.delete("/rt/history/{clip_id}")
    def delete(clip_id: str) -> dict:
        _asked(store.delete, clip_id)
        return {"deleted": clip_id}

    @app.post("/rt/history/{clip_id}/undelete")
    def undelete(clip_id: str) -> dict:
        return describe(_asked(store.undelete, clip_id))


def _asked(method, *args, **kwargs):
    """An answer of the store; what it refuses is a 404 in its own words."""
    try:
        return method(*args, **kwargs)
    except StoreError as error:
        raise HTTPException(404, str(error)) from error
