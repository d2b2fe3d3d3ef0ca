"""An engine without weights or torch, for tests of everything that talks to one: same interface, same events, scripted.

Its clips are moving gradients whose hue follows the prompt, whose phase follows the seed and which sharpen with each step.
"""
import hashlib
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from turbo_engine.distill.world import load_world
from turbo_engine.presets import Preset, load_preset
from turbo_engine.recipe import recipe_of
from turbo_engine.resolve import resolve
from turbo_engine.stats import Stopwatch, resident_bytes
from turbo_engine.types import Event, OnState, Preview, Progress, Request, Result
from turbo_engine.vocabulary import PromptReport, Vocabulary

BLOCK_S = 0.03               # what one block of pocket's network takes on two cores


class FakeEngine:
    """Stands in for Engine.

    Args:
        step_s, text_s, decode_s: how long each part sleeps.
        fail_at: stage at which `error` is raised, or None.
    What it was asked is kept: `requests` as they came, `finished` and `stopped` as they ended.
    """

    def __init__(self, preset: Preset | str = "pocket", *, device: str = "fake", threads: int | None = None,
                 text_s: float = 0.0, step_s: float = 0.0, decode_s: float = 0.0,
                 fail_at: str | None = None, error: Exception | None = None):
        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        self.device, self.threads = device, threads
        self.text_s, self.step_s, self.decode_s = text_s, step_s, decode_s
        self.fail_at, self.error = fail_at, error
        self.requests: list[Request] = []
        self.finished: list[Request] = []
        self.stopped: list[Request] = []
        self.loaded = False
        self._lock = threading.Lock()
        world = load_world(self.preset.folder / self.preset.text.vocabulary) if self.preset.text.vocabulary else None
        self._vocabulary = Vocabulary(world, text_len=self.preset.text.text_len, count_tokens=lambda p: len(p.split()) + 2)

    def load(self, on_state: OnState | None = None) -> "FakeEngine":
        self.loaded = True
        return self

    def close(self) -> None:
        self.loaded = False

    def answers(self, timeout_s: float) -> bool:
        return self.loaded

    def memory(self, timeout_s: float = 0.0) -> dict[str, int]:
        return {"resident": resident_bytes()}

    def describe(self) -> dict:
        return {"preset": self.preset.name, "fps": self.preset.clip.fps, "device": self.device, "device_name": "no device", "precision": "none",
                "threads": self.threads or 1, "torch": "none", "kernels": ["gradient"],
                "samplers": {"turbo": self.preset.turbo.sampler, "full": self.preset.full.sampler},
                "num_steps": {"turbo": self.preset.turbo.num_steps, "full": self.preset.full.num_steps},
                "weights": {role: "0" * 64 for role in ("student", "teacher", "decoder")}, "student": "none: a scripted stand-in", "memory_plan": "", "live_pauses": False, "patience_s": 0.0,
                "loaded": self.loaded,
                "peak_memory_mib": None}

    def check_prompt(self, prompt: str, seed: int | None = None) -> PromptReport:
        return self._vocabulary.check(prompt, seed)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """Frames of a latent made by this engine: hue, phase and sharpness lie in its first three channels."""
        hue, phase, sharpness = (float(latent[c, 0, 0, 0]) for c in range(3))
        _, frames, height, width = latent.shape
        stride = self.preset.vae.spatial_stride
        return _gradient(4 * (frames - 1) + 1, height * stride, width * stride, hue, phase, sharpness)

    def generate(self, request: Request, *, give_way: Callable[[], None] | None = None) -> Iterator[Event]:
        """The events of a real engine in the same order; it gives way every BLOCK_S of its sleep. Raises at once: RequestError."""
        self.requests.append(request)
        return self._run(request, resolve(request, self.preset), give_way)

    def _run(self, request: Request, plan: Request, give_way: Callable[[], None] | None) -> Iterator[Event]:
        with self._lock:
            watch = Stopwatch()
            try:
                yield from self._work(plan, watch, give_way)
                self.finished.append(request)
            except BaseException:
                self.stopped.append(request)
                raise

    def _work(self, plan: Request, watch: Stopwatch, give_way: Callable[[], None] | None) -> Iterator[Event]:
        def elapsed() -> float:
            return watch.elapsed

        def between() -> None:
            if give_way is not None:
                self._lock.release()
                try:
                    with watch.stopped():
                        give_way()
                finally:
                    self._lock.acquire()

        self._part("text", self.text_s)
        text_s = elapsed()
        yield Progress("text", 1, 1, text_s, None)
        latent = np.zeros(self.preset.latent_shape(plan.num_frames, plan.height, plan.width), np.float32)
        latent[0] = int.from_bytes(hashlib.blake2s(plan.prompt.encode()).digest()[:2], "little") / 65536
        latent[1] = plan.seed % 64 / 64
        for step in range(1, plan.num_steps + 1):
            self._part("denoise", self.step_s, between)
            latent[2] = step / plan.num_steps
            done = elapsed()
            yield Progress("denoise", step, plan.num_steps, done, (done - text_s) / step * (plan.num_steps - step))
            if step in plan.preview_steps:
                yield Preview(step, plan.num_steps, self.decode(latent[:, :2]), elapsed())
        denoise_s = elapsed() - text_s
        yield Progress("decode", 1, 1, elapsed(), None)
        self._part("decode", self.decode_s)
        frames = self.decode(latent)
        total = elapsed()
        passes = 2 if plan.guidance_scale > 1 else 1
        recipe = recipe_of(self.preset, plan, passes * plan.num_steps, self.describe())
        yield Result(frames, latent, self.preset.clip.fps,
                     {"text": text_s, "denoise": denoise_s, "decode": total - text_s - denoise_s, "total": total},
                     recipe, self.check_prompt(plan.prompt).notes)

    def _part(self, stage: str, seconds: float, between: Callable[[], None] = lambda: None) -> None:
        if self.fail_at == stage and self.error is not None:
            raise self.error
        between()
        while seconds > 0:
            time.sleep(min(seconds, BLOCK_S))
            seconds -= BLOCK_S
            between()


def _gradient(num_frames: int, height: int, width: int, hue: float, phase: float, sharpness: float) -> np.ndarray:
    """A band of one hue drifting to the right, uint8 [T, H, W, 3]."""
    x = np.arange(width, dtype=np.float32) / width
    y = np.arange(height, dtype=np.float32)[:, None] / height
    t = np.arange(num_frames, dtype=np.float32)[:, None, None] / 32
    wave = np.sin(2 * np.pi * (2 * x + 0.5 * y - t + phase)) * (0.3 + 0.7 * sharpness) * 0.5 + 0.5      # [T, H, W]
    third = np.array([0, 1 / 3, 2 / 3], np.float32)
    colour = np.clip(np.abs((hue + third) % 1 * 6 - 3) - 1, 0, 1)
    return (255 * (0.1 + 0.9 * wave[..., None] * (0.25 + 0.75 * colour))).astype(np.uint8)
