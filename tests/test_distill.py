"""Training code on a CPU: losses fall on a fixed tiny batch, derivatives are right, stages write weights that load."""
import math

import pytest
import torch

from turbo_engine.distill import rcm
from turbo_engine.distill.flow import draw_times, flow_loss
from turbo_engine.distill.latents import latent_share
from turbo_engine.distill.muon import Muon
from turbo_engine.distill.training import EMA, Optimizers, Run, trapezoid
from turbo_engine.distill.vae import psnr, reconstruction_loss
from turbo_engine.models.config import DiTConfig, VAEConfig
from turbo_engine.models.dit import DiT, plain_attention
from turbo_engine.models.vae import VAE

TINY = DiTConfig(dim=32, num_heads=2, num_layers=2, ffn_dim=64, in_channels=4, out_channels=4, prediction="velocity", patch_size=(1, 2, 2),
                 text_dim=8, text_len=5, freq_dim=32, time_max_freq=1.0, rope_theta=100.0, eps=1e-6)


@pytest.fixture
def run(tmp_path):
    run = Run("test", tmp_path, budget_s=1.0)
    yield run
    run.close()


def tiny_dit(seed: int = 0) -> DiT:
    torch.manual_seed(seed)
    model = DiT(TINY).init_weights()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def tiny_batch(dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(3, 4, 3, 4, 4, dtype=dtype), torch.rand(3, 1, 3, 4, 4, dtype=dtype), torch.randn(3, 5, 8, dtype=dtype)


def test_flow_loss_falls_on_a_fixed_batch(run):
    model, (latent, share, text) = tiny_dit(), tiny_batch()
    optimizers = Optimizers(model, muon_lr=5e-3, adam_lr=3e-3)
    losses = []
    for _ in range(60):
        torch.manual_seed(2)                               # the same times and noise each step
        loss = flow_loss(model, latent, share, text, run)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_muon_takes_the_same_steps_as_torch():
    """Against torch.optim.Muon, whose bf16 Newton-Schulz differs in the order of its roundings only."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 24), (48, 24), (24, 24), (24, 48))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    muon = Muon(ours, lr=0.02)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        muon.step()
        reference.step()
    for a, b, before in zip(ours, theirs, start):
        assert (a - b).norm() < 0.05 * (b - before).norm()


def test_vae_loss_falls_on_a_fixed_batch():
    torch.manual_seed(0)
    vae = VAE(VAEConfig(16, (16, 32, 32), (32, 16, 16), (1, 1, 1))).init_weights()
    low = torch.rand(1, 3, 2, 4, 4)
    frames = torch.nn.functional.interpolate(low, (5, 32, 32), mode="trilinear") * 2 - 1
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        mean, _ = vae.encoder(frames)
        l1, gradient, flicker = reconstruction_loss(vae.decoder(mean), frames, torch.ones(1, 1, 5, 32, 32))
        optimizer.zero_grad()
        (l1 + 0.1 * gradient + 0.1 * flicker).backward()
        optimizer.step()
        losses.append(l1.item())
    assert losses[-1] < 0.5 * losses[0]


def test_trig_velocity_is_the_same_estimate_as_the_flow_velocity():
    """cos a x_a - sin a F must equal x_t - t v at the matching flow time."""
    model, (latent, _, text) = tiny_dit().double(), tiny_batch(torch.float64)
    angle = torch.tensor([0.2, 0.9, 1.5], dtype=torch.float64)
    t = torch.tan(angle) / (1 + torch.tan(angle))
    x_t = latent / rcm.broadcast(angle.sin() + angle.cos())
    with torch.no_grad():
        flow = x_t - rcm.broadcast(t) * model(x_t, 1000 * t, text)
        trig = rcm.denoised_at(model, latent, angle, text)
    torch.testing.assert_close(trig, flow, rtol=1e-9, atol=1e-9)


def test_consistency_tangent_equals_finite_differences_in_float64():
    model, (x, _, text) = tiny_dit().double(), tiny_batch(torch.float64)
    teacher_velocity = torch.randn_like(x)
    angle, step = torch.tensor([0.3, 0.8, 1.4], dtype=torch.float64), 1e-6
    value, tangent = rcm.consistency_tangent(rcm.twin_of(model), x, angle, text, teacher_velocity, 0.7)
    sin, cos = rcm.broadcast(angle.sin()), rcm.broadcast(angle.cos())
    with torch.no_grad():
        def along(d):
            return rcm.trig_velocity(model, x + d * teacher_velocity, angle + d, text, plain_attention)

        derivative = (along(step) - along(-step)) / (2 * step)
        g = -cos ** 2 * (along(0) - teacher_velocity) - 0.7 * cos * sin * (x + derivative)
        expected = g / (g.square().mean((1, 2, 3, 4), keepdim=True).sqrt() + rcm.TANGENT_FLOOR)
    torch.testing.assert_close(value, along(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-5)


class PointMass(torch.nn.Module):
    """The exact network of data that is always 0.7: its velocity at x_t leads there from everywhere."""

    config = TINY

    def __init__(self, wrong: float = 0.0):
        super().__init__()
        self.wrong = wrong

    def forward(self, x_t, timestep, text, attention=None):
        t = rcm.broadcast(timestep / 1000)
        return (x_t - 0.7) / t + self.wrong * t


def test_a_consistent_student_has_no_tangent():
    """It gives the same x0 all along the trajectory, so nothing is left to learn; one that does not, has a tangent."""
    x = torch.randn(3, 4, 3, 4, 4, dtype=torch.float64)
    angle = torch.tensor([0.3, 0.8, 1.4], dtype=torch.float64)
    velocity = rcm.trig_velocity(PointMass(), x, angle, None)
    _, tangent = rcm.consistency_tangent(PointMass(), x, angle, None, velocity, 1.0)
    assert tangent.abs().max() < 1e-9
    _, tangent = rcm.consistency_tangent(PointMass(wrong=0.5), x, angle, None, velocity, 1.0)
    assert tangent.abs().max() > 0.1


def test_twin_follows_its_model_and_rollout_carries_gradient():
    model, (latent, _, text) = tiny_dit(), tiny_batch()
    twin = rcm.twin_of(model)
    with torch.no_grad():
        model.patch_embedding.weight.add_(1.0)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(model.parameters(), twin.parameters()))
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        clip = rcm.rollout(model, torch.randn_like(latent), text, generator)
        assert clip.shape == latent.shape and clip.requires_grad


def test_angles_of_the_consistency_term_stay_inside_the_samplers_range():
    angles = rcm.draw_angles(4_000, torch.device("cpu"))
    grid = torch.tensor(rcm.sampler_angles(4))
    assert 0 < angles.min() and angles.max() <= math.atan(rcm.SIGMA_MAX) + 1e-6
    on_grid = torch.isin(angles, grid).float().mean()
    assert 0.2 < on_grid < 0.3


def test_times_lie_in_the_unit_interval_and_lean_to_noise():
    t = draw_times(20_000, torch.device("cpu"))
    assert 0 < t.min() and t.max() < 1 and 0.6 < t.mean() < 0.75


def test_psnr_of_a_known_error_and_mask():
    frames = torch.zeros(2, 3, 5, 8, 8)
    output = frames + 0.1
    output[:, :, :, :4] = 0
    mask = torch.zeros(2, 1, 5, 8, 8)
    mask[:, :, :, 4:] = 1
    torch.testing.assert_close(psnr(output, frames), torch.full((2,), 20 + 10 * math.log10(2)))
    torch.testing.assert_close(psnr(output, frames, mask), torch.full((2,), 20.0))


def test_latent_share_counts_the_first_frame_once():
    mask = torch.zeros(1, 1, 9, 32, 32)
    mask[:, :, 0] = 1
    share = latent_share(mask, 2)
    assert share.shape == (1, 1, 3, 2, 2)
    torch.testing.assert_close(share[0, 0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_ema_follows_and_schedule_has_its_shape():
    layer = torch.nn.Linear(2, 2)
    ema = EMA(layer, 0.99)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    for _ in range(2_000):
        ema.update()
    torch.testing.assert_close(ema.module.weight, layer.weight, rtol=1e-3, atol=1e-3)
    assert trapezoid(0.0) < 0.1 and trapezoid(0.2) == 1.0 and trapezoid(1.0) == pytest.approx(0.01)


def test_trace_profiles_a_few_steps(tmp_path):
    run = Run("trace", tmp_path, budget_s=1.0, trace=True)
    for step in range(60):
        run.trace(step)
        torch.randn(4, 4) @ torch.randn(4, 4)
    run.close()
    assert "aten::mm" in (tmp_path / "trace-profile.txt").read_text()
