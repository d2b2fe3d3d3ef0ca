"""Whole renders against what others publish: rCM's rule written in its own variables, and 50 UniPC steps of diffusers."""
import math

import pytest
import torch
from peers import dit_peer, randomize, relative_error, unipc_peer

from turbo_engine.denoiser import Denoiser, denoised_from_velocity
from turbo_engine.models.config import DiTConfig
from turbo_engine.models.dit import DiT
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times, rcm_times, timestep_of

SHAPE = (1, 4, 3, 4, 6)


def network(latent, t):
    """A velocity with no closed solution, smooth in latent and time."""
    return torch.tanh(1.3 * latent + t) - 0.7 * latent * t + torch.sin(3 * latent).roll(1, -1) * (1 - t)


def draws(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=generator)


def rcm_by_angles(num_steps: int, sigma_max: float, seed: int):
    """The stochastic sampler as Zheng et al. 2025 (arXiv:2510.08431) write it, in TrigFlow: z = cos(a) x0 + sin(a) noise.

    A rectified flow's state is z / (cos a + sin a), at t = sin a / (cos a + sin a). Noise is drawn after every step, the last
    included, where sin(0) = 0 undoes it.
    """
    angles, draw = [math.atan(sigma_max), 1.5, 1.4, 1.0][:num_steps] + [0.0], draws(seed)
    z = draw().double() * math.sin(angles[0])
    for angle, after in zip(angles, angles[1:]):
        total = math.cos(angle) + math.sin(angle)
        flow_state, t = z / total, math.sin(angle) / total
        x0 = flow_state - t * network(flow_state, t)
        z = math.cos(after) * x0 + math.sin(after) * draw().double()
    return z


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("sigma_max", [80.0, 200.0])
def test_rcm_is_the_published_rule(num_steps, sigma_max):
    draw = draws(5)
    steps = list(SAMPLERS["sde"](lambda x, t: denoised_from_velocity(x, network(x, t), t), draw(), rcm_times(num_steps, sigma_max), draw))
    torch.testing.assert_close(steps[-1].latent, rcm_by_angles(num_steps, sigma_max, 5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_rcm_without_fresh_noise_is_eulers_rule(num_steps):
    """I2V's option: x = x - (t - t_next) v."""
    times = rcm_times(num_steps, 200.0)
    x = draws(6)().double() * times[0]
    for t, after in zip(times, times[1:]):
        x = x - (t - after) * network(x, t)
    draw = draws(6)
    steps = list(SAMPLERS["ode"](lambda x, t: x - t * network(x, t), draw(), times, draw))
    torch.testing.assert_close(steps[-1].latent, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_steps, shift", [(50, 3.0), (50, 5.0), (50, 8.0), (40, 5.0)])
def test_flow_schedule(num_steps, shift):
    """Times and the whole timesteps shown to the network."""
    peer, times = unipc_peer(num_steps, shift), flow_times(num_steps, shift)
    torch.testing.assert_close(peer.sigmas.double(), times, rtol=0, atol=1e-6)
    assert [timestep_of(t, "integer") for t in times.tolist()[:-1]] == peer.timesteps.tolist()


def test_full_render():
    """50 steps with guidance, our network, denoiser and solver against theirs, all in float32 weights: one latent."""
    config = DiTConfig(dim=48, num_heads=2, num_layers=1, ffn_dim=64, in_channels=4, out_channels=4, prediction="velocity",
                       patch_size=(1, 2, 2), text_dim=16, text_len=5, freq_dim=16, time_max_freq=1.0, rope_theta=10_000.0, eps=1e-6)
    ours = randomize(DiT(config))
    theirs = dit_peer(ours)
    torch.manual_seed(2)
    text, away, noise = torch.randn(1, 5, 16), torch.randn(1, 5, 16), torch.randn(SHAPE)

    peer, times = unipc_peer(50, 5.0), flow_times(50, 5.0)
    peer.sigmas, expected = times, noise.double()              # theirs are float32; compare solvers, not rounding
    for timestep in peer.timesteps:
        with_text, without = (theirs(expected.float(), timestep.float()[None], states, return_dict=False)[0] for states in (text, away))
        velocity = without + 4.0 * (with_text - without)
        expected = peer.step(velocity.double(), timestep, expected, return_dict=False)[0]
    denoise = Denoiser(ours, ours.embed_text(text), unconditional=ours.embed_text(away), guidance_scale=4.0, rounding="integer")
    steps = list(SAMPLERS["unipc"](denoise, noise, times, draw=lambda: pytest.fail("no draw")))
    assert denoise.nfe == 100 and len(steps) == 50
    assert relative_error(steps[-1].latent, expected) < 1e-6
