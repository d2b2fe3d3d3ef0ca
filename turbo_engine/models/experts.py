"""Two networks in turn, as Wan2.2 A14B has them: one for the noisy beginning of a clip, one for the rest.

Source: Wan2.2 (Wan Team 2025): the expert is chosen by the time alone, once from high to low noise.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from turbo_engine.models.config import HIGH, LOW


class ExpertStep(NamedTuple):
    """Which expert makes a step, and which of its own steps that is: `high-noise 1/2`."""

    expert: str
    index: int
    num_steps: int

    def __str__(self):
        return f"{self.expert} {self.index}/{self.num_steps}"


class CountingDenoise(Protocol):
    """`denoise(latent, t)` that counts network evaluations, as `Denoiser` does."""

    nfe: int

    def __call__(self, latent: Tensor, t: float) -> Tensor: ...


def expert_at(t: float, boundary: float) -> str:
    """The expert for flow time t: the high-noise one from `boundary` up (0.9 in A14B's I2V)."""
    return HIGH if t >= boundary else LOW


def expert_steps(times: Sequence[float], boundary: float) -> list[ExpertStep]:
    """What each step of a render is, before it starts. times: falling to 0, one more than there are steps."""
    names = [expert_at(t, boundary) for t in times[:-1]]
    return [ExpertStep(name, names[:i].count(name) + 1, names.count(name)) for i, name in enumerate(names)]


class Experts:
    """denoise(latent, t) of both, for one clip.

    Args:
        open_expert: HIGH or LOW -> its denoiser, called when that expert is first needed; here a memory plan brings in the
            weights. The denoiser of the other expert is let go before.
        boundary: flow time at which the low-noise expert takes over.
    `ran` is the expert of the latest step, "" before the first; `nfe` counts the evaluations of both.
    """

    def __init__(self, open_expert: Callable[[str], CountingDenoise], boundary: float):
        if not 0 < boundary < 1:
            raise ValueError(f"boundary: expected a flow time between 0 and 1, got {boundary}")
        self._open, self.boundary = open_expert, boundary
        self._denoise: CountingDenoise | None = None
        self._nfe_before = 0
        self.ran = ""

    @property
    def nfe(self) -> int:
        return self._nfe_before + (self._denoise.nfe if self._denoise else 0)

    def __call__(self, latent: Tensor, t: float) -> Tensor:
        """x0 estimate at x_t, as `Denoiser`."""
        name = expert_at(t, self.boundary)
        if name != self.ran:
            self._nfe_before, self._denoise = self.nfe, None
            self._denoise, self.ran = self._open(name), name
        return self._denoise(latent, t)
