"""Time grids against numbers worked out elsewhere."""
import math

import pytest
import torch

from turbo_engine.schedule import flow_times, rcm_times, timestep_of


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("sigma_max", [80.0, 200.0])
def test_rcm_times_are_exact(num_steps, sigma_max):
    """t = sin / (sin + cos) of the TrigFlow angle, to 1e-12."""
    angles = [math.atan(sigma_max), 1.5, 1.4, 1.0][:num_steps] + [0.0]
    expected = torch.tensor([math.sin(a) / (math.sin(a) + math.cos(a)) for a in angles], dtype=torch.float64)
    times = rcm_times(num_steps, sigma_max)
    assert times.dtype == torch.float64 and times.device.type == "cpu"
    torch.testing.assert_close(times, expected, rtol=0, atol=1e-12)


def test_rcm_times_as_published():
    """The table printed for TurboDiffusion's T2V models, six places."""
    published = torch.tensor([0.987654, 0.933781, 0.852895, 0.608979, 0], dtype=torch.float64)
    torch.testing.assert_close(rcm_times(4, 80.0), published, rtol=0, atol=5.1e-7)


@pytest.mark.parametrize("num_steps", [0, 5, -1])
def test_rcm_times_refuse_other_counts(num_steps):
    with pytest.raises(ValueError, match="num_steps: expected 1 to 4, got"):
        rcm_times(num_steps, 80.0)


@pytest.mark.parametrize("num_steps, shift", [(50, 3.0), (50, 5.0), (1, 3.0), (7, 1.0)])
def test_flow_times(num_steps, shift):
    times = flow_times(num_steps, shift)
    assert times.shape == (num_steps + 1,) and times.dtype == torch.float64
    assert times[-1] == 0 and (times.diff() < 0).all()
    for k, t in enumerate(times.tolist()):
        u = 0.999 * (1 - k / num_steps)
        assert t == pytest.approx(shift * u / (1 + (shift - 1) * u), abs=1e-12)
    with pytest.raises(ValueError, match="num_steps"):
        flow_times(0, shift)


@pytest.mark.parametrize("num_steps, shift", [(50, 3.0), (2, 5.0), (7, 1.0)])
def test_flow_times_that_end_early(num_steps, shift):
    """As many steps from the same start, the last of them from t_min."""
    times = flow_times(num_steps, shift, 0.3)
    even = times / (shift - (shift - 1) * times)
    assert times.shape == (num_steps + 1,) and times[0] == flow_times(num_steps, shift)[0] and times[-1] == 0
    assert times[-2].item() == pytest.approx(0.3) and even[:-1].diff().std(correction=0) < 1e-12
    assert flow_times(1, shift, 0.3).tolist() == flow_times(1, shift).tolist()


def test_timesteps():
    assert timestep_of(0.9876543, "exact") == pytest.approx(987.6543)
    assert timestep_of(0.9876543, "integer") == 987.0
    assert timestep_of(0.9876543, "bfloat16") == 988.0


@pytest.mark.parametrize("sigma_max, published", [(80.0, [988, 932, 852, 608]), (200.0, [996, 932, 852, 608])])
def test_timesteps_as_published(sigma_max, published):
    """The whole numbers TurboDiffusion's T2V and I2V networks are shown at 4 steps: bf16 has no room for more."""
    assert [timestep_of(t, "bfloat16") for t in rcm_times(4, sigma_max).tolist()[:-1]] == published
