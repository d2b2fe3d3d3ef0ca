"""What goes into the engine and what comes out: Request in, events out. numpy only, so that `ui` never meets a tensor."""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

Mode = Literal["turbo", "full"]
MODES: tuple[Mode, ...] = get_args(Mode)
Sampler = Literal["sde", "fixed-noise", "ode", "unipc"]


@dataclass(frozen=True)
class Request:
    """One shot to make. None means "as the preset says".

    num_frames is 4k + 1; height and width in pixels; guidance_scale is the CFG weight of a full render
    (turbo has guidance distilled in); negative_prompt is used by full renders only.
    """

    prompt: str
    seed: int = 0
    mode: Mode = "turbo"
    num_steps: int | None = None
    sampler: Sampler | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    image: bytes = b""
    """A PNG, JPEG or WebP file, the clip's first frame; for presets that take one, and only those."""
    preview_steps: tuple[int, ...] | None = None
    """After which steps (1 = first) to emit a Preview; None: the preset's choice; () for none."""


@dataclass(frozen=True)
class Progress:
    """Work is moving. stage: "text", "denoise" or "decode"; step counts from 1 to num_steps within the stage."""

    stage: Literal["text", "denoise", "decode"]
    step: int
    num_steps: int
    elapsed_s: float
    eta_s: float | None
    """Seconds left, from measured step times; None while nothing was measured."""
    expert: str = ""
    """Of two networks, the one that made the step and which of its own steps it was, "high-noise 1/2"; "" where there is one."""


@dataclass(frozen=True)
class Preview:
    """The denoised estimate after a step, rough by nature. frames: uint8 [T', H, W, 3], the clip's first T' frames."""

    step: int
    num_steps: int
    frames: np.ndarray
    elapsed_s: float


@dataclass(frozen=True)
class Result:
    """A finished clip and everything needed to make it again."""

    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    latent: np.ndarray
    """float32 [C, T', H', W'], what the decoder was given; kept so that a comparison can decode it again."""
    fps: int
    stage_s: dict[str, float]
    """Seconds by stage: text, denoise, decode, total."""
    recipe: dict
    """JSON-ready: prompt, seed, mode, preset, sampler, num_steps, nfe, guidance_scale, size, num_frames, device,
    precision, kernels (what ran, by name), weights (SHA-256 by role), app and schema version."""
    notes: tuple[str, ...] = field(default=())
    """Plain sentences for the user: words the model does not know, a prompt cut short."""


Event = Progress | Preview | Result
OnState = Callable[[Literal["loading", "ready", "failed"], str], None]
"""Told how an engine fares, with one line for the user."""
