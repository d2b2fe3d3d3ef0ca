"""From a network to `denoise(latent, t) -> denoised`: time to timestep, velocity to x0, guidance, and the prompt held ready."""
from collections.abc import Callable

import torch
from torch import Tensor

from turbo_engine.models.config import TIMESTEP_ROUNDINGS
from turbo_engine.models.dit import DiT, TextContext
from turbo_engine.recent import Recent
from turbo_engine.schedule import timestep_of


def denoised_from_velocity(latent: Tensor, velocity: Tensor, t: float) -> Tensor:
    """Estimate x0 from a rectified-flow velocity: x0 = x_t - t * v, in latent's dtype.

    Source: Liu et al. 2022, arXiv:2209.03003, section 2; time runs the other way there.
    """
    return latent - t * velocity.to(latent.dtype)


class Denoiser:
    """One network reading one prompt, or one prompt a clip of a batch.

    Args:
        context, unconditional: `embed_text` of the prompts and of what guidance steers away from, of the same batch B.
        guidance_scale: w of x0 = without + w * (with - without); 1 evaluates the network once a step, more twice.
        together: those two as one batch (452 ms where two passes take 482: pocket, one core), or one after the other in half
            the memory.
        rounding: of the timestep, see `timestep_of`.
        condition: what the clip must hold to, [B, condition_channels, T, H, W], for a network that takes one.
    `nfe` counts network evaluations. Calls may come from any thread, one at a time.
    """

    def __init__(self, network: DiT, context: TextContext, *, unconditional: TextContext | None = None,
                 guidance_scale: float = 1.0, rounding: str = "exact", condition: Tensor | None = None,
                 together: bool = True):
        assert rounding in TIMESTEP_ROUNDINGS, rounding
        self.network, self.guidance_scale, self.rounding = network, guidance_scale, rounding
        self.passes = 1 if guidance_scale == 1 else 2
        self.contexts = [context]
        if self.passes == 2:
            assert unconditional is not None, "guidance needs something to steer away from"
            self.contexts = [unconditional, context]
            if together:
                self.contexts = [[tuple(map(torch.cat, zip(*parts))) for parts in zip(unconditional, context)]]
        self._clips = self.passes // len(self.contexts)          # copies of the clip in one pass
        self.options = {} if condition is None else {"condition": condition.repeat(self._clips, 1, 1, 1, 1)}
        self.nfe = 0

    @torch.inference_mode()
    def __call__(self, latent: Tensor, t: float) -> Tensor:
        """x0 estimate at x_t. latent [B, C, T, H, W], any float dtype; the same shape, dtype and device come back."""
        x = latent.float().repeat(self._clips, 1, 1, 1, 1)
        timestep = torch.full((len(x),), timestep_of(t, self.rounding))        # on the CPU: a network may look its step up
        velocity = torch.cat([self.network(x, timestep, context, **self.options) for context in self.contexts])
        self.nfe += self.passes
        if self.passes == 2:
            without, with_text = velocity.chunk(2)
            velocity = without + self.guidance_scale * (with_text - without)
        return denoised_from_velocity(latent, velocity, t)


class ContextCache:
    """Cross-attention keys and values by (role, prompt), the latest few; an edit back and forth costs nothing."""

    def __init__(self, encode: Callable[[str], Tensor], size: int = 16):
        """encode: prompt -> token states [1, S, D]."""
        self._encode = encode
        self._kept: Recent[tuple[str, str], TextContext] = Recent(size)

    @torch.inference_mode()
    def get(self, role: str, network: DiT, prompt: str) -> TextContext:
        """"" stands for no text at all: zero states, as caption dropout trained it."""
        def read() -> TextContext:
            return network.embed_text(self._encode(prompt) if prompt else torch.zeros_like(self._encode("nothing")))

        return self._kept.get((role, prompt), read)
