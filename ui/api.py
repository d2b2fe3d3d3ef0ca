"""Through code: what a person does on the page, as end points that gradio_client and MCP clients call.

A call is one more page at the desk, without a screen, and comes after all that people ask for: its preview starts when
no page waits for anything, and gives way between two blocks of the network when one does. What it makes is in the
history as everything else. The public methods of `Api` are the end points: their types and docstrings are what callers
see. No `from __future__ import annotations` here: Gradio reads the return types as they stand.
"""

import base64
import functools
import inspect
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from turbo_engine.errors import OutputError, RequestError, TurboError
from turbo_engine.media import encode_mp4_bytes
from turbo_engine.resolve import parse_size, resolve
from turbo_engine.store import StoreError
from turbo_engine.types import Request

from .archive import describe
from .clips import Clip, Edit
from .exports import Exports
from .handlers import MAX_SEED
from .lean_gradio import gr
from .live import Desk
from .models import Models
from .pictures import Pictures
from .session import Caller

END_POINTS = ("preview", "render_full", "export", "history", "details", "cancel")
AT_ONCE, WAITING = 2, 32        # calls of one end point that run; calls of all that wait, beyond which they are refused
FILES_KEPT = 20
SETTLE_S = 3.0
MOST_LISTED = 200


Progress = Callable[..., None]  # called with (done, total), desc=words


def in_silence(share: tuple[int, int], desc: str) -> None:
    pass


class Shelf:
    """Files to fetch: the newest few, in a folder of their own that each start empties."""

    def __init__(self, folder: Path):
        self._folder, self._places, self._lock = folder, deque(), threading.Lock()
        shutil.rmtree(folder, ignore_errors=True)

    def put(self, name: str, data: bytes, mime: str) -> gr.FileData:
        """Raises: OutputError when the disk refuses."""
        place = self._folder / secrets.token_urlsafe(12)
        try:
            place.mkdir(mode=0o700, parents=True)
            (place / name).write_bytes(data)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise OutputError(f"{name}: cannot be written to {self._folder} ({error.strerror}); make room there") from error
        with self._lock:
            self._places.append(place)
            while len(self._places) > FILES_KEPT:
                shutil.rmtree(self._places.popleft(), ignore_errors=True)
        return gr.FileData(path=str(place / name), orig_name=name, size=len(data), mime_type=mime)


class Api:
    """The end points. pictures: where those that clips start from are kept. folder: for the files they hand out, inside the one
    that Gradio serves from.

    All raise TurboError, in one line.
    """

    def __init__(self, desk: Desk, models: Models, pictures: Pictures, folder: Path):
        self._desk, self._models, self._pictures, self._shelf = desk, models, pictures, Shelf(folder)
        self._exports = Exports(desk.clips)
        self._lock = threading.Lock()
        self._open: set = set()             # a Caller or an ExportJob for each thing under way
        self._closed = False
        self._newest: dict | None = None    # recipe of the clip made last, until it is seen in the history

    # -- end points ----------------------------------------------------------------------------------------------------

    def preview(self, prompt: str, seed: int = 7, num_steps: int | None = None, size: str | None = None, num_frames: int | None = None,
                image: str | None = None, progress: Progress = in_silence) -> tuple[gr.FileData, dict]:
        """Make a two-second turbo clip of a prompt: seconds on a processor, less on a GPU.

        People at the page go first. The clip is kept in the history.

        Args:
            prompt: a shot in plain English, such as "a penguin walking to the right on a beach at sunset"
            seed: 0 or more; the same seed and prompt make the same clip, and its full render the same shot
            num_steps: 1 to 4, more is crisper; the preset's choice if left out
            size: width x height in pixels such as "832x480", from the preset's menu; its own choice if left out
            num_frames: 4k + 1, up to what the preset can; its own choice if left out
            image: a PNG, JPEG or WebP file in base64, 700 kB at most, for presets whose clips start from a picture
        Returns: the clip as MP4, and what it is: clip_id, prompt, seed, size, notes on words the model does not know
        """
        return self._make(Request(prompt, seed, "turbo", num_steps=num_steps, num_frames=num_frames), size, image, progress)

    def render_full(self, prompt: str, seed: int = 7, negative_prompt: str = "", num_steps: int | None = None, size: str | None = None,
                    num_frames: int | None = None, image: str | None = None, progress: Progress = in_silence) -> tuple[gr.FileData, dict]:
        """Render a prompt by the full model in 50 steps with guidance: ten times the work of a preview.

        It waits for people's work and for previews, gives way to them and goes on. The clip is kept in the history.

        Args:
            prompt: a shot in plain English
            seed: 0 or more; that of a preview renders the same shot
            negative_prompt: what to keep out of the picture
            num_steps: the preset's choice if left out
            size: as in preview
            num_frames: as in preview
            image: as in preview
        Returns: the clip as MP4, and what it is: clip_id, prompt, seed, size, notes on words the model does not know
        """
        return self._make(Request(prompt, seed, "full", num_steps=num_steps, negative_prompt=negative_prompt, num_frames=num_frames),
                          size, image, progress)

    def export(self, clip_id: str, format: str = "mp4", fps: float | None = None, scale: float = 1.0,
               loops: int | None = None, trim_in: int = 0, trim_out: int | None = None, frame: int = 0,
               beside: str | None = None, strip_recipe: bool = False,
               progress: Progress = in_silence) -> tuple[gr.FileData, dict]:
        """Make a file of a kept clip. Its recipe rides inside unless stripped.

        Args:
            clip_id: as preview, render_full and history give it
            format: mp4, mp4-h265, mp4-av1, webm, gif, png (one frame) or png-zip (all frames), as far as the machine can
            fps: frames are dropped or repeated, the speed stays; the clip's own if left out
            scale: of both sides, 0.25 to 4
            loops: how often it plays, 1 to 20; 0 in a GIF is for ever
            trim_in: first frame kept, from 0
            trim_out: last frame kept; the clip's last if left out
            frame: which one a png shows
            beside: clip_id of a second clip, shown to the right of the first with labels
            strip_recipe: leave the settings out of the file
        Returns: the file, and what it is: clip_id, name, format, bytes
        """
        clip = self._clip(clip_id)
        other = None if beside is None else self._clip(beside)
        try:
            job = self._exports.start({
                "a": clip.id, "b": other and other.id, "format": format, "fps": fps, "scale": scale, "loops": loops,
                "trim_in": trim_in, "trim_out": trim_out, "frame": frame, "strip_recipe": strip_recipe is True})
        except KeyError as error:
            raise OutputError(error.args[0]) from error
        with self._under_way(job):
            while job.state == "running":
                progress((round(100 * job.share), 100), desc="Writing the file")
                time.sleep(0.05)
        if job.state != "done":
            raise OutputError(job.message or "The export was cancelled.")
        file = self._shelf.put(job.name, job.data, job.kind.mime)
        return file, {"clip_id": clip_id, "name": job.name, "format": format, "bytes": len(job.data)}

    def history(self, query: str = "", limit: int = 20, starred: bool = False) -> list[dict]:
        """List kept clips, newest first.

        Args:
            query: words that must all be in the prompt
            limit: 1 to 200
            starred: starred ones only
        Returns: for each clip its clip_id, prompt, seed, mode (turbo or full), size and when it was made
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_LISTED:
            raise StoreError(f"limit: expected a whole number from 1 to {MOST_LISTED}, got {limit!r}; try 20")
        if not isinstance(query, str):
            raise StoreError(f"query: expected words, got {query!r}; leave it out for all clips")
        self._settle()
        found = self._store.list(query[:400], limit=limit, starred=True if starred is True else None)
        return [{"clip_id": shown.pop("id"), **shown} for shown in map(describe, found)]

    def details(self, clip_id: str) -> dict:
        """Everything known of a clip: how it was made, by what model and kernels, and how long it took.

        Args:
            clip_id: as preview, render_full and history give it
        Returns: clip_id, recipe (all it takes to make it again), created, took_s, starred
        """
        clip = self._desk.clips.get(str(clip_id))
        entry = self._store.get(clip_id) if clip is None else self._store.find(clip.result.recipe)
        if entry is not None:
            return {"clip_id": entry.id, "recipe": entry.recipe, "created": entry.created, "took_s": entry.took_s, "starred": entry.starred}
        if clip is None:
            raise _unknown(clip_id)
        return {"clip_id": clip.id, "recipe": clip.result.recipe, "created": None, "took_s": clip.result.stage_s.get("total"), "starred": False}

    def cancel(self) -> dict:
        """Stop every preview, render and export that was asked for through code; what people ask for at the page goes on.

        Returns: cancelled, how many there were; each of their calls ends with an error that says so
        """
        with self._lock:
            for work in self._open:
                self._desk.cancel(work) if isinstance(work, Caller) else work.cancel()
            return {"cancelled": len(self._open)}

    # -- below the end points ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every call that waits, and refuse new ones: the app is going down."""
        self._closed = True
        self.cancel()

    def picture(self, clip_id: str) -> bytes | None:
        """The middle frame of a clip that is in memory, as JPEG."""
        clip = self._desk.clips.get(clip_id)
        return clip and clip.jpegs[len(clip.jpegs) // 2]

    @property
    def _store(self):
        return self._desk.archive.store

    def _make(self, request: Request, size: str | None, image: str | None, progress: Progress) -> tuple[gr.FileData, dict]:
        width, height = parse_size(size)
        data = _decoded(image)
        plan = resolve(replace(request, width=width, height=height, image=data), self._models.preset)      # told before it waits
        if plan.seed > MAX_SEED:                        # the page could not show it
            raise RequestError(f"seed: expected a whole number from 0 to {MAX_SEED:,}, got {plan.seed:,}; try 0")
        picture = self._pictures.add(data) if data else None
        edit = Edit(0, plan.prompt, plan.seed, plan.mode, plan.num_steps, plan.sampler if plan.mode == "turbo" else None,
                    plan.negative_prompt, plan.width, plan.height, plan.num_frames, self._models.preset.name, picture)
        clip = self._ask(edit, progress)
        result, recipe = clip.result, clip.result.recipe
        self._newest = recipe
        file = self._shelf.put(clip.file_name, encode_mp4_bytes(result.frames, result.fps, recipe), "video/mp4")
        entry = self._store.find(recipe)                # one that came out of the history goes by its id there
        asked = {name: recipe[name] for name in ("prompt", "seed", "mode", "num_steps", "width", "height", "num_frames", "fps")}
        return file, {"clip_id": entry.id if entry else clip.id, **asked, "took_s": round(result.stage_s["total"], 3), "notes": list(result.notes)}

    def _settle(self) -> None:
        """A clip is written when the engine pauses: let the newest one get there, so that a caller sees what it made."""
        deadline = time.monotonic() + SETTLE_S
        while self._newest is not None and time.monotonic() < deadline and self._store.find(self._newest) is None:
            time.sleep(0.05)
        self._newest = None

    def _clip(self, clip_id: str) -> Clip:
        """A clip with its frames: from memory, or out of the history again. Raises: TurboError."""
        clip = self._desk.clips.get(str(clip_id))
        if clip is None and self._store.get(clip_id) is None:
            raise _unknown(clip_id)
        return clip or self._ask(self._desk.archive.edit_of(clip_id, 0), in_silence)

    def _ask(self, edit: Edit, progress: Progress) -> Clip:
        """Have the desk make a clip, and wait for it. Raises: TurboError."""
        caller = Caller()
        with self._under_way(caller):
            self._desk.connect(caller)
            try:
                self._desk.render(caller, edit)
                if self._closed:
                    raise TurboError("The app is closing; ask again when it runs.")
                return self._wait(caller, progress)
            finally:
                self._desk.disconnect(caller)

    def _wait(self, caller: Caller, progress: Progress) -> Clip:
        while True:
            told = caller.wait()
            kind = told["type"]
            if kind == "progress" and told["stage"] == "denoise":
                left = "" if told["eta_s"] is None else f", {told['eta_s']:.0f} s left"
                progress((told["step"], told["num_steps"]), desc=f"Step {told['step']} of {told['num_steps']}{left}")
            elif kind == "clip":
                clip = self._desk.clips.get(told["id"])
                if clip is not None:
                    return clip
                raise TurboError("clip: expected it in memory, found it gone already; ask again")
            elif kind == "error" or (kind == "engine" and told["state"] == "failed"):
                raise TurboError(told["message"])
            elif kind in ("cancelled", "dropped"):
                raise TurboError("This was cancelled.")

    @contextmanager
    def _under_way(self, work):
        with self._lock:
            self._open.add(work)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(work)


def add_end_points(page: gr.Blocks, api: Api) -> None:
    """The methods of `api` as the only end points of a page, through a queue with an end."""
    with page:
        for name in END_POINTS:
            gr.api(_in_one_line(getattr(api, name)), api_name=name, concurrency_limit=AT_ONCE)
    page.queue(max_size=WAITING, api_open=False)


def _in_one_line(method):
    """The method as Gradio takes it, progress apart. What callers can cause or cure is told; all else stays in the terminal."""
    signature = inspect.signature(method)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "progress"]
    progress = {"progress": gr.Progress()} if "progress" in signature.parameters else {}

    @functools.wraps(method)
    def call(*args):
        try:
            return method(*args, **progress)
        except TurboError as error:
            raise gr.Error(str(error), print_exception=False) from error
    call.__signature__ = signature.replace(parameters=parameters)
    return call


def _decoded(image: str | None) -> bytes:
    """A file's bytes from base64, also from a data URL; b"" of None."""
    if image is None:
        return b""
    text = image.rpartition("base64,")[2] if isinstance(image, str) else ""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RequestError("image: expected a PNG, JPEG or WebP file in base64, got something else; encode the file's bytes") from error


def _unknown(clip_id) -> StoreError:
    return StoreError(f"clip_id: expected one that preview, render_full or history gave, got {str(clip_id)[:40]!r}")
