"""Our own routes beside Gradio's: the live socket, finished clips by opaque id, how alike two are, the player's files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.staticfiles import StaticFiles

from turbo_engine.errors import OutputError
from turbo_engine.media import encode_mp4
from turbo_engine.store import StoreError

from .clips import Edit
from .exports import add_export_routes
from .history import add_history_routes
from .live import Desk
from .session import Session
from .models import Models, add_model_routes
from .pictures import Picture, Pictures, add_picture_routes
from .roles import GUEST
from .scores import Scores

log = logging.getLogger("rushes.live")

MAX_MESSAGE_CHARS = 40_000
MAX_SEED = 2**32 - 1
PAGE_NAME = re.compile(r"[A-Za-z0-9-]{8,64}")      # made by the page, to be known by after a reload


def add_routes(app: FastAPI, desk: Desk, models: Models, pictures: Pictures, data_dir: Path) -> None:
    scores = Scores()
    if desk.archive is not None:
        pictures.sweep(desk.archive.store.pictures())

    @app.websocket("/rt/ws")
    async def live(websocket: WebSocket):
        await websocket.accept()
        name = websocket.query_params.get("page", "")
        guest = websocket.scope.get("state", {}).get("role") == GUEST
        session = Session(asyncio.get_running_loop(), name if PAGE_NAME.fullmatch(name) else "", guest=guest)
        desk.connect(session, lambda: {**models.hello(), "guest": guest})
        sending = asyncio.create_task(_send(websocket, session))
        try:
            while True:
                _obey(desk, pictures, session, await websocket.receive_text())
        except (WebSocketDisconnect, KeyError):     # KeyError: a binary message, which this socket has no use for
            pass
        finally:
            desk.disconnect(session)
            sending.cancel()

    @app.get("/rt/clip/{clip_id}.mp4")
    def clip(clip_id: str):
        """The clip as MP4, made from its lossless frames, recipe inside. An unknown id of any kind is a 404."""
        found = desk.clips.get(clip_id)
        if found is None:
            raise HTTPException(404, "This clip is no longer kept; render it again.")
        handle, name = tempfile.mkstemp(suffix=".mp4", dir=data_dir)
        os.close(handle)
        forget = BackgroundTask(Path(name).unlink, missing_ok=True)
        try:
            encode_mp4(name, found.result.frames, found.result.fps, found.result.recipe)
        except OutputError as error:
            Path(name).unlink(missing_ok=True)
            raise HTTPException(507, str(error)) from error
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return FileResponse(name, media_type="video/mp4", filename=found.file_name, background=forget,
                            headers={"Cache-Control": "no-store"})

    @app.get("/rt/compare/{id_a}/{id_b}")
    def compare(id_a: str, id_b: str):      # not async: FastAPI runs it on a thread
        """PSNR and SSIM of two kept clips, frame by frame, from their lossless frames."""
        pair = desk.clips.get(id_a), desk.clips.get(id_b)
        if None in pair:
            raise HTTPException(404, "One of the two clips is no longer kept; render it again.")
        try:
            return JSONResponse(scores.of(*pair), headers={"Cache-Control": "no-store"})
        except ValueError as error:
            raise HTTPException(409, str(error)) from error

    @app.get("/manifest.json")
    def manifest():                         # where Gradio's page looks for it
        return FileResponse(Path(__file__).parent / "viewer" / "manifest.json", media_type="application/manifest+json")

    add_export_routes(app, desk.clips)
    add_picture_routes(app, pictures)
    add_model_routes(app, desk, models)
    if desk.archive is not None:
        add_history_routes(app, desk.archive)
    app.mount("/rt/viewer", _Fresh(directory=Path(__file__).parent / "viewer"))


class _Fresh(StaticFiles):
    """Files a browser asks about again at each load (an ETag answers most), so that an update is never half old."""

    def file_response(self, *args, **kwargs):
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def _send(websocket: WebSocket, session: Session) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):     # RuntimeError: closed between two messages
        while True:
            payload = await session.outbox.next()
            if isinstance(payload, bytes):
                await websocket.send_bytes(payload)
            else:
                await websocket.send_text(payload)


def _obey(desk: Desk, pictures: Pictures, session: Session, text: str) -> None:
    """One message of the page. What is not one of ours is answered with an error and changes nothing."""
    try:
        op, edit = read_message(text)
        if edit is not None and edit.picture is not None:
            edit = replace(edit, picture=_kept(pictures, edit.picture.id))
    except ValueError as error:
        return session.post({"type": "error", "generation": 0, "mode": "turbo", "message": str(error)})
    if op in ("open", "pick") and session.guest:
        return session.post({"type": "error", "generation": 0, "mode": "turbo", "message": "The history is not for guests."})
    if op in ("open", "pick") and desk.archive is not None:
        place, generation = edit.place, edit.generation
        try:
            edit = replace(desk.archive.edit_of(edit.saved, generation), place=place)
        except StoreError as error:
            return session.post({"type": "error", "generation": generation if place else 0, "mode": place or "turbo", "message": str(error)})
    if op == "cancel":
        desk.cancel(session)
    elif op == "pick":
        desk.pick(session, edit)
    elif edit.mode == "turbo":
        desk.edit(session, edit)
    else:
        desk.render(session, edit)


def _kept(pictures: Pictures, picture_id: str) -> Picture:
    picture = pictures.get(picture_id)
    if picture is None:
        raise ValueError("image: expected a picture that is kept here, found none of that name; choose it again")
    return picture


def read_message(text: str) -> tuple[str, Edit | None]:
    """JSON of the page -> (op, edit). Raises: ValueError in plain words. What can be rendered is the engine's to say."""
    if len(text) > MAX_MESSAGE_CHARS:
        raise ValueError(f"message: expected {MAX_MESSAGE_CHARS:,} characters at most, got {len(text):,}; shorten the prompt"
                         )
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("message: expected JSON; reload the page") from error
    op = message.get("op") if isinstance(message, dict) else None
    if op == "cancel":
        return op, None
    if op not in ("edit", "final", "open", "pick"):
        raise ValueError("op: expected edit, final, open, pick or cancel; reload the page")
    if op == "pick" and message.get("place") not in ("a", "b"):
        raise ValueError("place: expected a or b; reload the page")
    if op in ("open", "pick"):
        return op, Edit(_whole(message, "generation"), "", 0, saved=str(message.get("id"))[:40], place=message["place"] if op == "pick" else None)
    if not isinstance(message.get("prompt"), str):
        raise ValueError("prompt: expected text; reload the page")
    def whole_or_none(key: str) -> int | None:
        return None if message.get(key) is None else _whole(message, key)

    return op, Edit(
        generation=_whole(message, "generation"),
        prompt=message["prompt"],
        seed=_whole(message, "seed"),
        mode="turbo" if op == "edit" else "full",
        num_steps=whole_or_none("num_steps"),
        sampler=str(message["sampler"])[:40] if op == "edit" and message.get("sampler") else None,
        negative_prompt=str(message.get("negative_prompt") or "") if op == "final" else "",
        preset=str(message.get("preset") or "")[:200],
        width=whole_or_none("width"), height=whole_or_none("height"), num_frames=whole_or_none("num_frames"),
        picture=Picture(str(message["image_sha256"])[:64]) if message.get("image_sha256") else None,
    )


def _whole(message: dict, key: str) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= MAX_SEED:
        got = str(value)[:40]
        raise ValueError(f"{key}: expected a whole number from 0 to {MAX_SEED:,}, got {got!r}; mend it or reload the page")
    return value

