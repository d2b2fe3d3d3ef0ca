"""Samplers: the law each must obey, one draw for turbo and full, and UniPC against an independent implementation."""
import pytest
import torch

from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times, rcm_times

SHAPE = (1, 4, 3, 6, 5)


def draw_from(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=generator)


def run(name: str, denoise, times, seed: int = 0):
    draw = draw_from(seed)
    return list(SAMPLERS[name](denoise, draw(), times, draw))


@pytest.mark.parametrize("name, times", [
    *((name, rcm_times(n, 80.0)) for name in ("sde", "fixed-noise", "ode") for n in range(1, 5)),
    *(("unipc", flow_times(n, shift)) for n in (1, 2, 3, 7, 50) for shift in (1.0, 3.0, 5.0)),
], ids=lambda value: value if isinstance(value, str) else f"{len(value) - 1} steps")
def test_point_mass(name, times):
    """All data at c: the exact velocity is (x - c) / t, and whatever the steps, the end is c."""
    c = torch.linspace(-2, 3, 360, dtype=torch.float64).view(SHAPE)

    def denoise(latent, t):
        assert latent.dtype == torch.float64
        return latent - t * ((latent - c) / t)

    steps = run(name, denoise, times)
    assert [step.index for step in steps] == list(range(1, len(times)))
    torch.testing.assert_close(steps[-1].latent, c, rtol=0, atol=1e-12)


def test_samplers_see_the_times_in_order():
    for name in SAMPLERS:
        seen = []
        times = flow_times(6, 3.0)
        run(name, lambda x, t: seen.append(t) or torch.zeros_like(x), times)
        assert seen == times[:-1].tolist()


def test_first_state_is_the_same_draw():
    """Turbo and full start from one draw, turbo's scaled by its first time, and `sde` goes on in the same stream."""
    first = draw_from(7)()
    seen = {}
    for name, times in (("sde", rcm_times(4, 80.0)), ("fixed-noise", rcm_times(4, 80.0)), ("ode", rcm_times(4, 80.0)),
                        ("unipc", flow_times(50, 3.0))):
        seen[name] = []
        run(name, lambda x, t, name=name: seen[name].append(x) or torch.zeros_like(x), times, seed=7)
    assert torch.equal(seen["unipc"][0], first.double())
    for name in ("sde", "fixed-noise", "ode"):
        assert torch.equal(seen[name][0], first.double() * rcm_times(4, 80.0)[0])
    stream = draw_from(7)
    draws = [stream().double() for _ in range(4)]
    times = rcm_times(4, 80.0)
    for i in (1, 2, 3):                                       # x0 = 0, so a state is noise alone
        torch.testing.assert_close(seen["sde"][i], times[i] * draws[i], rtol=0, atol=1e-15)
        torch.testing.assert_close(seen["fixed-noise"][i], times[i] * draws[0], rtol=0, atol=1e-15)
    assert not torch.allclose(seen["sde"][1], seen["fixed-noise"][1])


def test_stopping_between_steps_stops_the_model():
    calls = []
    draw = draw_from(0)
    steps = SAMPLERS["unipc"](lambda x, t: calls.append(t) or torch.zeros_like(x), draw(), flow_times(50, 3.0), draw)
    next(steps), next(steps)
    steps.close()
    assert len(calls) == 2


def network(latent, t):
    """A velocity with no closed solution, smooth in latent and time."""
    return torch.tanh(1.3 * latent + t) - 0.7 * latent * t + torch.sin(3 * latent).roll(1, -1) * (1 - t)


@pytest.mark.filterwarnings("ignore")                          # the library's own start-up warnings are not ours
@pytest.mark.parametrize("num_steps, shift", [(50, 3.0), (50, 5.0), (20, 8.0), (5, 3.0), (2, 1.0), (1, 3.0)])
def test_unipc_equals_diffusers(num_steps, shift):
    diffusers = pytest.importorskip("diffusers", reason="requirements-dev.txt", exc_type=Exception)
    peer = diffusers.UniPCMultistepScheduler(
        num_train_timesteps=1000, solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift,
        lower_order_final=True, solver_type="bh2")
    base = torch.linspace(0.999, 0, num_steps + 1, dtype=torch.float64)[:-1]     # Wan's; theirs by default starts at 1
    peer.set_timesteps(sigmas=base.numpy())
    times = flow_times(num_steps, shift)
    torch.testing.assert_close(peer.sigmas.double(), times, rtol=0, atol=1e-6)
    peer.sigmas = times                                        # theirs are float32; compare solvers, not rounding

    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    theirs = noise.double()
    for t, timestep in zip(times, peer.timesteps):
        theirs = peer.step(network(theirs, t.item()), timestep, theirs, return_dict=False)[0]
    ours = list(SAMPLERS["unipc"](lambda x, t: x - t * network(x, t), noise, times, draw=lambda: pytest.fail("no draw")))
    assert (ours[-1].latent - theirs).abs().max() < 1e-6
