"""Files to take away: each export is a job on a thread of its own, with progress, cancel and a file to fetch once done."""
from __future__ import annotations

import asyncio
import logging
import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import fields

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from turbo_engine.errors import OutputError
from turbo_engine.export import ExportCancelled, ExportOptions, Format, estimate_bytes, export, formats, side_by_side
from turbo_engine.media_gate import read_foreign_recipe
from turbo_engine.resample import count_at

from .clips import Clip, Clips

log = logging.getLogger("rushes.export")

JOBS_KEPT = 6
MAX_DROPPED_BYTES = 256 << 20     # a dropped file, for its recipe
_RESTORED = ("prompt", "negative_prompt", "seed", "mode", "num_steps", "sampler", "preset", "width", "height", "num_frames", "image_sha256")


class ExportJob:
    """One export. state: running, done, failed or cancelled; message: why, where it failed."""

    def __init__(self, name: str, kind: Format, make):
        """make(progress, cancelled) -> bytes."""
        self.id, self.name, self.kind = secrets.token_urlsafe(12), name, kind
        self.state, self.message, self.share, self.data = "running", "", 0.0, b""
        self._cancelled = threading.Event()
        self._make = make
        threading.Thread(target=self._work, name="export", daemon=True).start()

    def cancel(self) -> None:
        self._cancelled.set()

    def describe(self) -> dict:
        return {"job": self.id, "state": self.state, "message": self.message, "share": self.share, "bytes": len(self.data), "name": self.name}

    def _work(self) -> None:
        try:
            self.data = self._make(self._progress, self._cancelled.is_set)
            self.state = "done"
        except ExportCancelled:
            self.state = "cancelled"
        except OutputError as error:
            self.state, self.message = "failed", str(error)
        except Exception as error:
            log.exception("an export failed")
            self.state, self.message = "failed", f"The export stumbled ({type(error).__name__}); the terminal has the details."

    def _progress(self, done: int, total: int) -> None:
        self.share = min(1.0, done / max(1, total))


class Exports:
    """The exports of this sitting, the newest few with their bytes."""

    def __init__(self, clips: Clips):
        self._clips = clips
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, ExportJob] = OrderedDict()

    def start(self, wish: dict) -> ExportJob:
        """wish: {"a": clip id, "b": clip id or None for one clip, ...options}. Raises: OutputError, KeyError for a clip not kept."""
        a, b, options, kind = self._read(wish)
        name = f"{a.file_name.removesuffix('.mp4')}{'-and-' + b.edit.mode if b else ''}.{kind.extension}"

        def make(progress, cancelled) -> bytes:
            frames, fps = _picture(a, b)
            return export(frames, fps, a.result.recipe, options, progress=progress, cancelled=cancelled)
        job = ExportJob(name, kind, make)
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > JOBS_KEPT:
                self._jobs.popitem(last=False)[1].cancel()
        return job

    def estimate(self, wish: dict) -> int:
        """Bytes, roughly. Raises: as `start`."""
        a, b, options, _ = self._read(wish)
        frames, height, width, _ = a.result.frames.shape
        fps = a.result.fps
        if b is not None:
            fps, width = max(fps, b.result.fps), 2 * width
            frames = max(count_at(len(clip.result.frames), clip.result.fps, fps) for clip in (a, b))
        return estimate_bytes(frames, height, width, options, fps=fps)

    def get(self, job_id: str) -> ExportJob | None:
        with self._lock:
            return self._jobs.get(job_id)

    def _read(self, wish: dict) -> tuple[Clip, Clip | None, ExportOptions, Format]:
        a, b = (self._clips.get(str(wish[name])) if wish.get(name) else None for name in ("a", "b"))
        if a is None or (wish.get("b") and b is None):
            raise KeyError("This clip is no longer kept; make it again.")
        known = {field.name for field in fields(ExportOptions)}
        options = ExportOptions(**{name: value for name, value in wish.items() if name in known})
        kind = next((kind for kind in formats() if kind.name == options.format), None)
        if kind is None:
            raise OutputError(f"format: expected one this machine can make, got {options.format}; choose another")
        return a, b, options, kind


def _picture(a: Clip, b: Clip | None):
    if b is None:
        return a.result.frames, a.result.fps
    return side_by_side(a.result.frames, b.result.frames, fps_a=a.result.fps, fps_b=b.result.fps, labels=(_label(a, b), _label(b, a)))


def _label(clip: Clip, other: Clip) -> str:
    """The model; and the shot too where the other one's is not the same."""
    steps, took = clip.result.recipe["num_steps"], clip.result.stage_s.get("total", 0.0)
    model = f"{clip.edit.mode} · {steps} {'step' if steps == 1 else 'steps'} · {took:.1f} s"
    same = (clip.edit.words, clip.edit.seed) == (other.edit.words, other.edit.seed)
    return model if same else f"{model} · seed {clip.edit.seed} · {clip.edit.words}"


def add_export_routes(app: FastAPI, clips: Clips) -> None:
    exports, dropped = Exports(clips), asyncio.Lock()

    @app.get("/rt/formats")
    def kinds() -> list[dict]:
        return [{"name": kind.name, "label": kind.label, "extension": kind.extension} for kind in formats()]

    @app.post("/rt/export")
    def start(wish: dict) -> dict:
        return _asked(exports.start, wish).describe()

    @app.post("/rt/export/estimate")
    def estimate(wish: dict) -> dict:
        return {"bytes": _asked(exports.estimate, wish)}

    def found(job_id: str) -> ExportJob:
        job = exports.get(job_id)
        if job is None:
            raise HTTPException(404, "This export is no longer kept; start it again.")
        return job

    @app.get("/rt/export/{job_id}")
    def state(job_id: str) -> dict:
        return found(job_id).describe()

    @app.delete("/rt/export/{job_id}")
    def cancel(job_id: str) -> dict:
        job = found(job_id)
        job.cancel()
        return job.describe()

    @app.get("/rt/export/{job_id}/file")
    def file(job_id: str) -> Response:
        job = found(job_id)
        if job.state != "done":
            raise HTTPException(409, "This export is not done.")
        return Response(job.data, media_type=job.kind.mime, headers={
            "Content-Disposition": f'attachment; filename="{job.name}"', "Cache-Control": "no-store"})

    @app.post("/rt/recipe")
    async def recipe(request: Request) -> dict:
        """The settings inside a file of ours, for the page to take over. A foreign or newer one is a 422 in plain words."""
        name = re.sub(r"[^\w .-]", "", request.headers.get("x-file-name", ""))[:80]
        if dropped.locked():
            raise HTTPException(429, "Another file is being read; drop this one again.", {"Retry-After": "1"})
        async with dropped:                         # one in memory at a time
            data = await request.body()
            if len(data) > MAX_DROPPED_BYTES:
                raise HTTPException(413, f"This file is larger than {MAX_DROPPED_BYTES >> 20} MB; clips of this app are smaller.")
            try:
                found = await run_in_threadpool(read_foreign_recipe, data, name or "this file")
            except OutputError as error:
                raise HTTPException(422, str(error)) from error
        return {key: found[key] for key in _RESTORED if key in found}


def _asked(method, wish: dict):
    try:
        return method(wish)
    except KeyError as error:
        raise HTTPException(404, str(error.args[0])) from error
    except OutputError as error:
        raise HTTPException(422, str(error)) from error
    except TypeError as error:
        raise HTTPException(422, "options: expected what the export dialog sends; reload the page") from error
