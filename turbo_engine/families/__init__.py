"""What stands behind a preset: its text encoder, networks and decoders, under one interface for the engine."""
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from turbo_engine.denoiser import Denoiser
from turbo_engine.models.dit import DiT, TextContext
from turbo_engine.models.experts import CountingDenoise
from turbo_engine.parts import weights_folder
from turbo_engine.presets import Preset
from turbo_engine.types import MODES, Mode, Request
from turbo_engine.vocabulary import Vocabulary

Tell = Callable[[str], None]
"""Told what is being loaded, in a few words for the user."""


class Family(Protocol):
    """Loaded models of one preset on one device.

    vocabulary: what the text encoder makes of a prompt. weights: by role, a SHA-256, or file and size where hashing takes minutes.
    method: how the student was distilled. kernels: what runs, by name. plan: how the memory is used, "" where all fits easily.
    patience_s: how long one step may last without a sign of life before something is wrong; 0 where 10 s are plenty.
    live_pauses: whether previews have to wait for the end of a full render, as both networks do not fit together.
    """

    vocabulary: Vocabulary
    weights: dict[str, str]
    method: str
    kernels: list[str]
    plan: str
    live_pauses: bool
    patience_s: float

    def denoiser(self, request: Request) -> CountingDenoise:
        """For one resolved request: its prompt read, its networks at hand, what it starts from encoded. Raises: RequestError."""

    def decode(self, latent: Tensor, *, fast: bool) -> Iterator[Tensor]:
        """Frames [1, 3, T, H, W] in [0, 1] of a latent [1, C, T', H', W'] as they come. fast: by the preview's decoder, if there is one."""

    def warm_up(self) -> None:
        """Run the network of the first mode once at the size it will have."""

    def make_room(self) -> None:
        """A job found too little memory: give back what is quickly made again."""


def open_family(preset: Preset, weights, device: torch.device, dtype: torch.dtype, *, between_blocks: Callable[..., None],
                tell: Tell, alive: Callable[[], None] = lambda: None, encoder=None, modes: tuple[Mode, ...] = MODES) -> Family:
    """Read a preset's weights.

    Args:
        weights: folder of the Wan family's files, None: as `weights_folder`; or its tensors, a `WanWeights`. encoder: a loaded text encoder to share (pocket).
        between_blocks: called before each block of every network and decoder; here a job may stand still. alive: called while something
            goes on that must not. modes: whose networks are wanted.
    Raises: WeightsError, before anything is resident.
    """
    if preset.weights is not None:
        from turbo_engine.families.pocket import Pocket
        return Pocket(preset, device, dtype, modes=modes, between_blocks=between_blocks, tell=tell, encoder=encoder)
    from turbo_engine.families.wan import Wan
    from turbo_engine.families.wan_weights import FromFiles
    if weights is None or isinstance(weights, Path):
        weights = FromFiles(preset, weights_folder(preset, weights), tell, alive)
    return Wan(preset, weights, device, dtype, modes=modes, between_blocks=between_blocks, alive=alive)


def prompts_of(request: Request, preset: Preset) -> list[str]:
    """What a resolved request has read: its prompt, and with guidance what that steers away from, the preset's where it says nothing."""
    prompts = [request.prompt.strip()]
    if request.guidance_scale != 1:
        prompts.append(request.negative_prompt.strip() or preset.full.negative_prompt)
    return prompts


def denoiser_of(request: Request, preset: Preset, network: DiT, read: Callable[[str], TextContext],
                condition: Tensor | None = None, together: bool = True) -> Denoiser:
    """One network as a resolved request wants it: guided away from the negative prompt, or the preset's, in a full render.

    read: prompt -> what the network's cross-attention sees of it, kept by the caller. condition, together: as `Denoiser`.
    """
    settings = preset.turbo if request.mode == "turbo" else preset.full
    context, *away = map(read, prompts_of(request, preset))
    return Denoiser(network, context, unconditional=away[0] if away else None, guidance_scale=request.guidance_scale, rounding=settings.rounding,
                    condition=condition, together=together)
