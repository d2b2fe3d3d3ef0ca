"""Two experts as one denoiser: who makes which step, and that only one is held."""
import gc
import weakref

import pytest
import torch

from turbo_engine.models.experts import HIGH, LOW, Experts, expert_steps
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times, rcm_times


class Constant:
    """A denoiser that always sees the same clip, in two evaluations."""

    def __init__(self, value: float):
        self.value, self.nfe = value, 0

    def __call__(self, latent, t):
        self.nfe += 2
        return torch.full_like(latent, self.value)


def test_the_published_grid_gives_two_steps_each():
    steps = expert_steps(rcm_times(4, 200.0).tolist(), 0.9)
    assert [str(step) for step in steps] == ["high-noise 1/2", "high-noise 2/2", "low-noise 1/2", "low-noise 2/2"]
    assert [step.expert for step in expert_steps(rcm_times(2, 200.0).tolist(), 0.9)] == [HIGH, HIGH]


@pytest.mark.parametrize("num_steps", [40, 50])
def test_a_full_render_switches_where_wan_does(num_steps):
    """Wan compares the truncated timestep with 900."""
    times = flow_times(num_steps, 5.0).tolist()
    assert [step.expert for step in expert_steps(times, 0.9)] == [HIGH if int(1000 * t) >= 900 else LOW for t in times[:-1]]


def test_each_step_is_made_by_its_expert():
    opened, values = [], {HIGH: 1.0, LOW: -2.0}
    experts = Experts(lambda name: opened.append(name) or Constant(values[name]), 0.9)
    assert experts.ran == "" and experts.nfe == 0
    times, ran = rcm_times(4, 200.0), []
    for step in SAMPLERS["ode"](experts, torch.randn(1, 2, 1, 2, 2), times, None):
        ran.append((experts.ran, step.denoised[0, 0, 0, 0, 0].item(), experts.nfe))
    assert ran == [(HIGH, 1.0, 2), (HIGH, 1.0, 4), (LOW, -2.0, 6), (LOW, -2.0, 8)]
    assert opened == [HIGH, LOW]


def test_the_first_is_gone_before_the_second_comes():
    """Where one expert fits and two do not, the order decides."""
    held = {}

    def open_expert(name):
        gc.collect()
        assert all(reference() is None for reference in held.values())
        expert = Constant(0.0)
        held[name] = weakref.ref(expert)
        return expert

    experts = Experts(open_expert, 0.9)
    experts(torch.zeros(1), 0.95), experts(torch.zeros(1), 0.5)
    assert held[HIGH]() is None and held[LOW]() is not None


def test_impossible_boundaries():
    with pytest.raises(ValueError, match="boundary: expected a flow time between 0 and 1, got 900"):
        Experts(Constant, 900)
