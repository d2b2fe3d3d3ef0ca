"""One function per sampler. All it knows of a model is `denoise(latent, t) -> denoised`; noise is handed in.

Each is a generator with one Step per model evaluation, so that its caller may show an estimate or stop between steps.
State is float64: it is small next to the network's, and 50 steps then add no rounding of their own to a render.
"""
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
Draw = Callable[[], Tensor]
"""Fresh noise from N(0, I), shaped like the latent."""


class Step(NamedTuple):
    """State after step `index` (1 = first): latent at the next time, and the estimate of x0 it was made from."""

    index: int
    latent: Tensor
    denoised: Tensor


def sde(denoise: Denoise, noise: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """Denoise, then noise again with a fresh draw: x = (1 - t) * x0 + t * draw. The published few-step rule.

    Args: noise: N(0, I), any shape. times: [N + 1] falling to 0. draw: called once a step but the last, whose t is 0.
    Source: Song et al. 2023, arXiv:2303.01469, algorithm 1; flow time.
    """
    return _renoise(denoise, noise, times, draw)


def fixed_noise(denoise: Denoise, noise: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """As `sde`, but noised with the first draw each time, so that a clip keeps the layout of its seed. `draw` is not called."""
    return _renoise(denoise, noise, times, lambda: noise)


def _renoise(denoise: Denoise, noise: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    t, *later = times.tolist()
    latent = noise.double() * t
    for index, t_next in enumerate(later, 1):
        denoised = denoise(latent, t).double()
        latent = denoised if t_next == 0 else (1 - t_next) * denoised + t_next * draw().double()
        yield Step(index, latent, denoised)
        t = t_next


def ode(denoise: Denoise, noise: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """Euler's step along the flow: x = x - (t - t_next) * v, v = (x - x0) / t. `draw` is not called."""
    t, *later = times.tolist()
    latent = noise.double() * t
    for index, t_next in enumerate(later, 1):
        denoised = denoise(latent, t).double()
        latent = denoised + t_next / t * (latent - denoised)
        yield Step(index, latent, denoised)
        t = t_next


def unipc(denoise: Denoise, noise: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """UniPC of order 2 (B2(h), data prediction) over the rectified flow, alpha = 1 - t, sigma = t. `draw` is not called.

    Each estimate first corrects the state it was made at, from the 2nd step on, and then predicts the next state; the first
    and the last prediction are of order 1. Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 6.
    """
    t, *later = times.tolist()
    latent = noise.double()
    before: tuple[float, Tensor, Tensor, Tensor | None, float] | None = None      # what the last prediction was made from
    previous: Tensor | None = None
    previous_t = 0.0
    for index, t_next in enumerate(later, 1):
        denoised = denoise(latent, t).double()
        if before is not None:
            latent = _correct(*before, denoised, t)
        order_2 = previous is not None and index < len(later)
        before = (t, latent, denoised, previous if order_2 else None, previous_t)
        latent = _predict(*before, t_next)
        yield Step(index, latent, denoised)
        previous, previous_t, t = denoised, t, t_next


def _log_snr(t: float) -> float:
    """Half the log signal-to-noise ratio, log(alpha / sigma)."""
    return math.inf if t == 0 else math.log1p(-t) - math.log(t)


def _predict(t: float, latent: Tensor, x0: Tensor, earlier: Tensor | None, earlier_t: float, t_next: float) -> Tensor:
    """The state at t_next from the one at t, its estimate x0 and, for order 2, the estimate before that."""
    h = _log_snr(t_next) - _log_snr(t)
    weight = (1 - t_next) * -math.expm1(-h)                                # alpha_next * (1 - e^-h)
    out = t_next / t * latent + weight * x0
    if earlier is not None:
        ratio = (_log_snr(earlier_t) - _log_snr(t)) / h
        out = out + 0.5 * weight / ratio * (earlier - x0)
    return out


def _correct(t: float, latent: Tensor, x0: Tensor, earlier: Tensor | None, earlier_t: float,
             new_x0: Tensor, t_next: float) -> Tensor:
    """`_predict` again, now that the estimate at t_next is known; latent is the state at t."""
    h = _log_snr(t_next) - _log_snr(t)
    weight = (1 - t_next) * -math.expm1(-h)
    out = t_next / t * latent + weight * x0
    if earlier is None:
        return out + 0.5 * weight * (new_x0 - x0)
    ratio = (_log_snr(earlier_t) - _log_snr(t)) / h                        # R rho = b of the paper, solved by hand
    first = (math.expm1(-h) / -h - 1) / math.expm1(-h)
    second = 2 * ((math.expm1(-h) / -h - 1) / -h - 0.5) / math.expm1(-h)
    rho_earlier = (first - second) / (1 - ratio)
    rho_new = first - rho_earlier
    return out + weight * (rho_earlier / ratio * (earlier - x0) + rho_new * (new_x0 - x0))


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Tensor, Draw], Iterator[Step]]] = {
    "sde": sde, "fixed-noise": fixed_noise, "ode": ode, "unipc": unipc,
}
