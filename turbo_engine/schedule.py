"""The times at which a sampler stops, as flow times t in [0, 1], 1 is noise; float64 on the CPU, from noise to 0."""
import math

import torch
from torch import Tensor

RCM_ANGLES = (1.5, 1.4, 1.0)
"""TrigFlow angles of the 2nd, 3rd and 4th step (TurboDiffusion's choice; Zheng et al. 2025, arXiv:2510.08431)."""
FLOW_SIGMA_MAX = 0.999       # where Wan's solver starts before the shift


def rcm_times(num_steps: int, sigma_max: float) -> Tensor:
    """Times of the distilled student: atan(sigma_max), then RCM_ANGLES, then 0, as t = tan(angle) / (1 + tan(angle)).

    Args: num_steps: 1 to 4. sigma_max: noise std over data std at the start.
    Returns: [num_steps + 1] float64, falling, last 0. Raises: ValueError outside of that range.
    """
    if not 1 <= num_steps <= 1 + len(RCM_ANGLES):
        raise ValueError(f"num_steps: expected 1 to {1 + len(RCM_ANGLES)}, got {num_steps}")
    sigmas = [sigma_max] + [math.tan(angle) for angle in RCM_ANGLES[:num_steps - 1]] + [0.0]
    return torch.tensor([sigma / (1 + sigma) for sigma in sigmas], dtype=torch.float64)


def flow_times(num_steps: int, shift: float, t_min: float = 0.0) -> Tensor:
    """Times of a full render: evenly spaced, then shifted towards noise, t = s * u / (1 + (s - 1) * u).

    t_min: where the last step starts, which goes to 0; 0 spaces it like the others.
    Returns: [num_steps + 1] float64, falling, last 0. Source: Esser et al. 2024, arXiv:2403.03206, section 5.3.2.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: expected 1 or more, got {num_steps}")
    if t_min:
        even = torch.linspace(FLOW_SIGMA_MAX, t_min / (shift - (shift - 1) * t_min), num_steps, dtype=torch.float64)
        even = torch.cat((even, even.new_zeros(1)))
    else:
        even = torch.linspace(FLOW_SIGMA_MAX, 0, num_steps + 1, dtype=torch.float64)
    return shift * even / (1 + (shift - 1) * even)


def timestep_of(t: float, rounding: str) -> float:
    """What a network is conditioned on, 1000 t, rounded as the model was trained or is run.

    rounding: "exact"; "integer", truncated, as Wan's solver does; "bfloat16", to 8 significant bits, as TurboDiffusion does.
    """
    if rounding == "bfloat16":
        return torch.tensor(1000 * t, dtype=torch.bfloat16).item()
    return float(int(1000 * t)) if rounding == "integer" else 1000 * t
