"""Request in, events out: the models stay warm, one job runs at a time, and closing its iterator stops it between steps.

A long job can give way: between two blocks of its network it lets another job run to its end, and then goes on where it was.
"""
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from turbo_engine.errors import OutOfMemory, RequestError, TurboError
from turbo_engine.families import Family, open_family
from turbo_engine.heap import give_back
from turbo_engine.machine import usable_cores
from turbo_engine.models.experts import expert_steps
from turbo_engine.plan import MemoryPlan
from turbo_engine.presets import Preset, load_preset
from turbo_engine.recipe import recipe_of
from turbo_engine.resolve import resolve
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times, rcm_times
from turbo_engine.stats import Stopwatch, peak_memory_mib, resident_bytes, sync
from turbo_engine.types import MODES, Event, Mode, OnState, Preview, Progress, Request, Result
from turbo_engine.vocabulary import PromptReport

PREVIEW_LATENT_FRAMES = 2    # 5 frames, enough to see a motion start; 104 ms where all 33 take 544 (pocket, one core)
TRIM_EVERY = 8               # jobs, after which freed memory goes back to the system
MAX_THREADS = 16             # beyond it a model this narrow waits for its own threads


class Engine:
    """One preset on one device.

    Args:
        preset: a Preset, or the name or path of one.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        threads: CPU threads; None: as many as this process may use, 16 at most. Set for the whole process.
        weights: folder of a Wan preset's files, a Path or text; None: as `parts.weights_folder`. Or its tensors, a `WanWeights`.
        encoder: a loaded text encoder to share between engines (pocket).
        modes: what it will be asked for; no other network is read.
    """

    def __init__(self, preset: Preset | str | Path = "pocket", *, device: str = "auto", threads: int | None = None,
                 weights=None, encoder=None, modes: Iterable[Mode] = MODES):
        self.preset = preset if isinstance(preset, Preset) else load_preset(preset)
        self.device = _device(device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.threads = min(usable_cores(), MAX_THREADS) if threads is None else threads
        self._weights = Path(weights) if isinstance(weights, str) else weights
        self._encoder = encoder
        self.modes = tuple(modes)
        if not self.modes or not set(self.modes) <= set(MODES):
            raise TurboError(f"modes: expected {' or '.join(MODES)} or both, got {', '.join(self.modes) or 'none'}")
        self._family: Family | None = None
        self.alive: Callable[[], None] = lambda: None           # called by what is long and shows nothing, such as reading a network
        self._lock = threading.Lock()
        self._jobs = 0
        self._decode_s: float | None = None
        self._give_way: Callable[[], None] | None = None        # of the job that runs now
        self._started: torch.cuda.Event | None = None           # what the last block put on the device

    # -- loading -----------------------------------------------------------------------------------------------------

    def load(self, on_state: OnState | None = None) -> "Engine":
        """Read every weight, then run each kernel once at the size it will have. Raises: WeightsError, before anything is resident."""
        loading, tell = True, on_state or (lambda state, line: None)

        def say(line: str) -> None:
            if loading:                                        # networks that are read again later belong to their job
                tell("loading", line)

        torch.set_num_threads(self.threads)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)                 # where compiled kernels start
        self._family = open_family(self.preset, self._weights, self.device, self.dtype, between_blocks=self._between_blocks,
                                   tell=say, alive=lambda: self.alive(), encoder=self._encoder, modes=self.modes)
        say("Warming up")
        self._family.warm_up()
        clip = self.preset.clip
        latent = torch.zeros(1, *self.preset.latent_shape(clip.num_frames, clip.height, clip.width), device=self.device)
        for frames in (PREVIEW_LATENT_FRAMES, latent.shape[2]):
            start = time.perf_counter()
            self._to_frames(latent[:, :, :frames], fast=True)
            self._decode_s = time.perf_counter() - start
        loading = False
        return self

    def close(self) -> None:
        """Let go of every weight. The engine may be loaded again."""
        with self._lock:
            self._family = None

    # -- what a page shows -------------------------------------------------------------------------------------------

    def describe(self) -> dict:
        """JSON-ready: what runs here. weights: SHA-256 by role, empty before `load`; student: how it was distilled."""
        cuda, family = self.device.type == "cuda", self._family
        return {"preset": self.preset.name, "fps": self.preset.clip.fps, "device": str(self.device),
                "device_name": torch.cuda.get_device_name(self.device) if cuda else f"{self.threads} CPU threads",
                "precision": str(self.dtype).removeprefix("torch."), "threads": self.threads, "torch": torch.__version__,
                "kernels": family.kernels if family else [],
                "samplers": {"turbo": self.preset.turbo.sampler, "full": self.preset.full.sampler},
                "num_steps": {"turbo": self.preset.turbo.num_steps, "full": self.preset.full.num_steps},
                "weights": dict(family.weights) if family else {}, "student": family.method if family else "",
                "memory_plan": family.plan if family else "", "live_pauses": bool(family and family.live_pauses),
                "patience_s": family.patience_s if family else 0.0, "loaded": family is not None,
                "peak_memory_mib": self._peak_memory_mib()}

    def memory(self) -> dict[str, int]:
        """Bytes held now: resident, and on a GPU gpu_allocated (by tensors), gpu_reserved (by torch for them), gpu_free (for anybody)."""
        found = {"resident": resident_bytes()}
        if self.device.type == "cuda":
            found |= {"gpu_allocated": torch.cuda.memory_allocated(self.device), "gpu_reserved": torch.cuda.memory_reserved(self.device),
                      "gpu_free": torch.cuda.mem_get_info(self.device)[0]}
        return found

    @property
    def memory_plan(self) -> MemoryPlan | None:
        """Of a loaded Wan preset."""
        return getattr(self._family, "memory", None)

    def check_prompt(self, prompt: str, seed: int | None = None) -> PromptReport:
        """Words of a prompt outside the taught world, and what the seed adds; quick enough for every edit, any text is fine."""
        self._require_loaded()
        return self._family.vocabulary.check(prompt, seed)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """Frames uint8 [T, H, W, 3] of a Result's latent, float32 [C, T', H', W'], by the full decoder."""
        self._require_loaded()
        with self._lock:
            return self._to_frames(torch.from_numpy(np.ascontiguousarray(latent, np.float32))[None].to(self.device), fast=False)

    # -- work --------------------------------------------------------------------------------------------------------

    def generate(self, request: Request, *, give_way: Callable[[], None] | None = None) -> Iterator[Event]:
        """Make one clip: Progress and Preview events, a Result last.

        Waits while another job runs: close that one first where the same thread runs both. Closing the iterator stops the
        work at the next step and frees what the request held.

        give_way: called between any two blocks of the networks, some hundred times a second at most; until it returns the
            job stands still and another may run, also from within this very call. Its clip is the same bit for bit, its
            times leave the wait out. What it raises ends the job.
        Raises: RequestError at once; TurboError while running if the numbers go bad.
        """
        self._require_loaded()
        plan = resolve(request, self.preset)
        if plan.mode not in self.modes:
            raise RequestError(f"mode: expected {' or '.join(self.modes)}, as this engine was opened for, got {plan.mode}")
        return self._run(plan, give_way)

    def _run(self, plan: Request, give_way: Callable[[], None] | None) -> Iterator[Event]:
        with self._lock:
            watch = Stopwatch(partial(sync, self.device))
            try:
                self._give_way = give_way and (lambda: self._step_aside(give_way, watch))
                yield from self._work(plan, watch)
                return
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            finally:
                self._give_way = None
                self._jobs += 1
                if self._jobs % TRIM_EVERY == 0:
                    give_back()
            self._family.make_room()                           # out of the handler: the error held the job's tensors
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        raise OutOfMemory(f"memory: expected room for {plan.width}x{plan.height}, {plan.num_frames} frames, found too little on "
                         f"{self.device}; try a smaller or shorter clip, or close other programs that use it")

    def _between_blocks(self, *_) -> None:
        if self._give_way is not None:
            if self.device.type == "cuda":                     # never further ahead of the device than one block
                if self._started is not None:
                    self._started.synchronize()
                self._started = torch.cuda.Event()
                self._started.record()
            self._give_way()

    def _step_aside(self, give_way: Callable[[], None], watch: Stopwatch) -> None:
        resume, self._give_way = self._give_way, None
        self._lock.release()
        try:
            with watch.stopped():
                give_way()
        finally:
            self._lock.acquire()
            self._give_way = resume

    def _work(self, plan: Request, watch: Stopwatch) -> Iterator[Event]:
        with watch.stage("text"):
            denoise = self._family.denoiser(plan)
        yield Progress("text", 1, 1, watch.elapsed, None)

        generator = torch.Generator().manual_seed(plan.seed)
        shape = (1, *self.preset.latent_shape(plan.num_frames, plan.height, plan.width))

        def draw() -> Tensor:                              # on the CPU, so that a seed means one shot on any device
            return torch.randn(shape, generator=generator).to(self.device)

        times = self._times(plan)
        steps = SAMPLERS[plan.sampler](denoise, draw(), times, draw)
        experts = self.preset.experts and expert_steps(times.tolist(), self.preset.experts.boundary)
        for index in range(plan.num_steps):
            with watch.stage("denoise"):
                step = next(steps)
            _require_finite(step.denoised, f"step {step.index}")
            left = plan.num_steps - step.index
            eta = watch.stages["denoise"] / step.index * left + (self._decode_s or 0.0)
            yield Progress("denoise", step.index, plan.num_steps, watch.elapsed, eta, str(experts[index]) if experts else "")
            if step.index in plan.preview_steps:
                with watch.stage("preview"):
                    frames = self._to_frames(step.denoised[:, :, :PREVIEW_LATENT_FRAMES], fast=True)
                yield Preview(step.index, plan.num_steps, frames, watch.elapsed)

        yield Progress("decode", 1, 1, watch.elapsed, self._decode_s)
        with watch.stage("decode"):
            frames = self._to_frames(step.latent, fast=plan.mode == "turbo")
        self._decode_s = watch.stages["decode"]
        _require_picture(frames)
        latent = step.latent[0].float().cpu().numpy()
        notes = self.check_prompt(plan.prompt).notes
        yield Result(frames, latent, self.preset.clip.fps, watch.report(), recipe_of(self.preset, plan, denoise.nfe, self.describe()), notes)

    def _times(self, plan: Request) -> Tensor:
        if plan.mode == "turbo":
            return rcm_times(plan.num_steps, self.preset.turbo.sigma_max)
        return flow_times(plan.num_steps, self.preset.full.shift, self.preset.full.t_min)

    @torch.inference_mode()
    def _to_frames(self, latent: Tensor, *, fast: bool) -> np.ndarray:
        """[1, C, T', H', W'] -> uint8 [T, H, W, 3]."""
        parts, finite = [], []
        for video in self._family.decode(latent, fast=fast):                            # [1, 3, t, H, W] in [0, 1]
            finite.append(torch.isfinite(video).all())
            parts.append((video[0] * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous())
        if not torch.stack(finite).all():                      # asked once: each answer waits for the device
            raise _not_finite("decoding")
        return torch.cat(parts).cpu().numpy()

    def _peak_memory_mib(self) -> float | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2 ** 20
        return peak_memory_mib()

    def _require_loaded(self) -> None:
        if self._family is None:
            raise TurboError("engine: expected a loaded engine, found no weights in memory; call load() first")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TurboError(f"device: expected auto, cpu or cuda, got {name!r}; try auto") from error
    if device.type not in ("cpu", "cuda"):
        raise TurboError(f"device: expected auto, cpu or cuda, got {name!r}; try auto")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise TurboError(f"device: expected a CUDA device named {name!r}, found {torch.cuda.device_count()}; try cpu")
    if device.type == "cuda" and device.index is None:         # some of torch's questions want it
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it is, or came of one: a CUDA graph that cannot be recorded to its end says only that."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):    # the second: on a CPU
            return True
        error = error.__context__
    return False


def _require_finite(tensor: Tensor, where: str) -> None:
    if not torch.isfinite(tensor).all():
        raise _not_finite(where)


def _not_finite(where: str) -> TurboError:
    return TurboError(f"output: expected finite numbers, found NaN or infinity after {where}; try another seed, or restore the weights if it stays")


def _require_picture(frames: np.ndarray) -> None:
    """A clip of one flat colour is a failure, not a dark scene: those still differ by a few levels."""
    rows = frames.reshape(len(frames), -1)                     # over frames first: over three channels alone numpy takes 50 times as long
    highest, lowest = (reduce(0).reshape(-1, 3) for reduce in (rows.max, rows.min))
    if int((highest.max(0).astype(int) - lowest.min(0)).max()) < 2:
        raise TurboError("output: expected a picture, found one flat colour; try another seed, or restore the weights if it stays")
