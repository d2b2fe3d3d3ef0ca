"""Training code on a CPU: losses fall on a fixed tiny batch, derivatives are right, stages write weights that load."""
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from turbo_engine import compare
from turbo_engine.denoiser import Denoiser
from turbo_engine.distill import pocket, report
from turbo_engine.distill import student as distil
from turbo_engine.distill.errors import CLIPS_EACH, Judged, by_motion, errors, of_each_motion
from turbo_engine.distill.flow import MOST_FOR_A_FRAME, SUBJECT_WEIGHT, TOUCHED, draw_times, flow_loss, subject_weight
from turbo_engine.distill.hardness import LEAST, MOST, Hardness
from turbo_engine.distill.latents import LEAST_WEIGHT, channel_weights, latent_share
from turbo_engine.distill.likeness import likeness
from turbo_engine.distill.muon import Muon
from turbo_engine.distill.nearness import mean_rows, nearness, regions, rows_by, settled
from turbo_engine.distill.pocket import pocket_preset
from turbo_engine.distill.prompts import counted_prompts
from turbo_engine.distill.probe import NUM_FRAMES, SIDE, Probe, feature_distance
from turbo_engine.distill.report import flicker, variety
from turbo_engine.distill.sla import sparse_twin
from turbo_engine.distill.training import EMA, Averages, GradientStep, Optimizers, Run, trapezoid
from turbo_engine.distill.turns import Turns
from turbo_engine.distill.vae import energy_loss, finest, psnr, reconstruction_loss
from turbo_engine.distill.world import load_world
from turbo_engine.errors import WeightsError
from turbo_engine.models.config import DiTConfig, VAEConfig
from turbo_engine.models.dit import DiT
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE
from turbo_engine.presets import SparseSettings
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import rcm_times
from turbo_engine.vocabulary import Vocabulary

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
        loss, _ = flow_loss(model, latent, share, text, run)
        for parameter in optimizers.parameters:
            parameter.grad = None
        loss.backward()
        optimizers.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_rim_counts_as_the_inside(run):
    """A velocity off by 1 at one latent pixel costs as much where a quarter of it is the subject as where all is, and less below."""
    latent, _, text = tiny_batch()

    def loss(share_there):
        share = torch.zeros(3, 1, 3, 4, 4)
        share[..., 0], share[..., 1] = 1, share_there

        def off_there(x_t, timestep, text):
            velocity = (x_t - latent) / (timestep / 1000).view(-1, 1, 1, 1, 1)
            velocity[..., 1] += 1
            return velocity
        return float(flow_loss(off_there, latent, share, text, run)[0])

    assert loss(TOUCHED) == pytest.approx(loss(1.0), rel=1e-3) and loss(0.0) < loss(TOUCHED / 2) < loss(TOUCHED)


def test_what_a_clip_is_missed_by_is_its_own_error_under_its_subject(run):
    """x0 off by 0.5 under the first clip's subject, by 2 beside it; the third has none of a subject."""
    latent, _, text = tiny_batch()
    share, off = torch.zeros(3, 1, 3, 4, 4), torch.full((3, 1, 3, 4, 4), 2.0)
    share[:2, ..., 0], off[0, ..., 0], off[1, ..., 0] = 1, 0.5, 0.0

    def answer(x_t, timestep, text):
        return (x_t - (latent + off)) / (timestep / 1000).view(-1, 1, 1, 1, 1)

    assert flow_loss(answer, latent, share, text, run)[1].tolist() == pytest.approx([0.25, 0, 0], abs=1e-4)


def test_errors_are_told_by_time_and_by_motion(run):
    """x0 off by 0.1 at t = 0.5 and by 0.2 at 0.95 under the subjects of a jump, by twice that under a flip's."""
    latent, _, text = tiny_batch()
    share, scale = torch.zeros(3, 1, 3, 4, 4), torch.tensor([1.0, 2.0, 1.0]).view(-1, 1, 1, 1, 1)
    share[..., 0] = 1
    clips = Judged(["a", "b", "c"], ["jump", "flip", "jump"], latent, torch.randn_like(latent), share, text, torch.ones(4, 1, 1, 1))

    def answer(x_t, timestep, text):
        off = scale * torch.where(timestep < 700, 0.1, 0.2).view(-1, 1, 1, 1, 1)
        return (x_t - (latent + off)) / (timestep / 1000).view(-1, 1, 1, 1, 1)

    found = errors(answer, clips, run, times=(0.5, 0.95))
    assert found[0.5] == pytest.approx([0.01, 0.04, 0.01], abs=1e-4) and found[0.95] == pytest.approx([0.04, 0.16, 0.04], abs=1e-4)
    means = by_motion(clips.motions, found[0.95])
    assert list(means) == ["flip", "jump"] and list(means.values()) == pytest.approx([0.16, 0.04], abs=1e-4)


def test_every_motion_is_judged_by_the_same_clips_each_time():
    world = load_world()
    specs = of_each_motion(world, CLIPS_EACH)
    assert [spec.motion for spec in specs] == [motion for motion in range(len(world.motions)) for _ in range(CLIPS_EACH)]
    assert specs == of_each_motion(world, CLIPS_EACH)


def test_hard_kinds_are_drawn_more_often():
    hardness = Hardness(4, torch.device("cpu"))
    assert hardness.weights() == [1, 1, 1, 1]
    kinds = torch.tensor([0, 1, 2, 3]).repeat(500)
    hardness.note(kinds, torch.tensor([0.1, 0.1, 0.2, float("nan")]).repeat(500))
    hardness.note(kinds[3::4], torch.full((500,), 0.1))
    before = hardness.weights()
    assert before[2] == pytest.approx((0.2 / 0.125) ** 2, rel=0.1) and before[0] == before[1] == before[3] == pytest.approx(0.64, rel=0.1)
    for _ in range(4):                                                     # the third is learned, the first forgotten
        hardness.note(kinds, torch.tensor([2.0, 0.1, 0.1, 0.1]).repeat(500))
        after = hardness.weights()
    assert after[0] == MOST and after[2] < before[2] and min(after) == pytest.approx(LEAST)


def test_an_edge_on_frame_counts_as_a_full_one():
    """Ten pixels of the subject in one latent frame, five in the next, one in the third, none in the last."""
    share = torch.zeros(1, 1, 4, 4, 4)
    for t, pixels in enumerate((10, 5, 1)):
        share[0, 0, t].view(-1)[:pixels] = 1
    extra = (subject_weight(share) - 1).sum((1, 3, 4))[0]
    assert extra.tolist() == pytest.approx([10 * SUBJECT_WEIGHT, 10 * SUBJECT_WEIGHT, MOST_FOR_A_FRAME * SUBJECT_WEIGHT, 0])


def test_a_channel_counts_for_as_much_as_the_picture_changes_with_it(run):
    """Of a decoder that is a product with each channel's own gain: by its square, the last one's being too small to matter; 1 on average."""
    gains = torch.tensor([3.0, 2.0, 1.0, 0.01]).view(-1, 1, 1, 1)
    vae = SimpleNamespace(decode=lambda latent: latent * gains)
    weights = channel_weights(vae, torch.randn(3, 4, 3, 4, 4), run)
    assert weights.shape == (4, 1, 1, 1) and float(weights.mean()) == pytest.approx(1, abs=1e-5)
    shares = gains.square() / gains.square().mean()
    torch.testing.assert_close(weights, LEAST_WEIGHT + (1 - LEAST_WEIGHT) * shares, rtol=1e-3, atol=1e-3)


def test_losses_weigh_channels(run):
    """An error in one channel counts by that channel's weight."""
    latent, share, text = tiny_batch()
    answer, channels = latent.clone(), torch.tensor([4.0, 0.0, 0.0, 0.0]).view(-1, 1, 1, 1)
    answer[:, 0] += 0.5
    assert float(distil.consistency_loss(answer, latent, channels)) == pytest.approx(2 * float(distil.consistency_loss(answer, latent)), rel=0.1)
    answer[:, 0], answer[:, 1] = latent[:, 0], latent[:, 1] + 0.5
    assert float(distil.consistency_loss(answer, latent, channels)) == pytest.approx(0, abs=1e-6)

    def off_in_the_first(x_t, timestep, text):
        velocity = (x_t - latent) / (timestep / 1000).view(-1, 1, 1, 1, 1)
        velocity[:, 0] += 1
        return velocity

    assert float(flow_loss(off_in_the_first, latent, share, text, run)[0]) == pytest.approx(1 / 4, rel=1e-3)
    assert float(flow_loss(off_in_the_first, latent, share, text, run, channels=channels)[0]) == pytest.approx(1, rel=1e-3)


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


def test_a_soft_edge_costs_energy_and_one_a_pixel_away_next_to_none():
    step = torch.zeros(1, 3, 2, 32, 32)
    step[..., 20:] = 1                                         # it and its neighbour lie within the same neighbourhoods
    moved, soft = step.roll(-1, -1).clone(), torch.nn.functional.avg_pool3d(step, (1, 1, 5), 1, (0, 0, 2), count_include_pad=False)
    moved[..., -1] = 1
    assert float(energy_loss(step, step)) == 0
    assert float(energy_loss(soft, step)) > 100 * float(energy_loss(moved, step)) and float(energy_loss(soft, step)) > 0.04


def test_dots_on_every_other_pixel_make_up_for_no_edge_and_are_told():
    step = torch.zeros(1, 3, 2, 32, 32)
    step[..., 18:] = 1
    soft = torch.nn.functional.avg_pool3d(step, (1, 1, 5), 1, (0, 0, 2), count_include_pad=False)
    every_other = torch.tensor([0.05, -0.05]).repeat(16)
    for dots in (every_other.expand(32, 32), every_other[:, None].expand(32, 32), every_other[:, None] * every_other * 20):
        assert float(energy_loss(soft + dots, step)) == pytest.approx(float(energy_loss(soft, step)), rel=1e-4)
        assert float(finest(soft + dots)) > 20 * float(finest(soft))


TIMES = rcm_times(4, 80.0).tolist()


class PointMass(torch.nn.Module):
    """The exact network of data that is always `value`: its velocity at x_t leads there from everywhere."""

    def __init__(self, value: float = 0.7):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, x_t, timestep, text):
        return (x_t - self.value) / (timestep / 1000).view(-1, 1, 1, 1, 1)


def test_chain_is_the_fixed_noise_sampler():
    model, (noise, _, text) = tiny_dit(), tiny_batch()
    with torch.no_grad():
        steps = list(distil.chain(model, noise, text, TIMES))
    denoise = Denoiser(model, model.embed_text(text))
    for step, expected in zip(steps, SAMPLERS["fixed-noise"](denoise, noise, torch.tensor(TIMES, dtype=torch.float64), lambda: noise), strict=True):
        torch.testing.assert_close(step.double(), expected.denoised, rtol=1e-3, atol=1e-3)


def test_each_step_of_the_chain_has_a_gradient_of_its_own_step_alone():
    """A point mass's answer is its value whatever it is given, so each step's mean moves by 1 with it, not by more through earlier steps."""
    model = PointMass()
    noise = torch.randn(3, 4, 3, 4, 4)
    for step in distil.chain(model, noise, None, TIMES):
        gradient, = torch.autograd.grad(step.mean(), model.value)
        torch.testing.assert_close(gradient, torch.tensor(1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_costs_a_step_and_not_the_run(run, tmp_path, bad):
    model, (noise, _, text) = tiny_dit(), tiny_batch()
    optimizers, timestep = Optimizers(model, muon_lr=1e-3, adam_lr=1e-3), torch.full((3,), 400.0)
    step = GradientStep(run, lambda noise, text: (model(noise, timestep, text).square().mean(),), optimizers.parameters)
    step(noise, text)
    assert float(optimizers.clipped_step(run, 1.0)) > 0
    run.log(1)
    noise[1, 0, 0, 0, 0] = bad
    step(noise, text)
    assert float(optimizers.clipped_step(run, 1.0)) == 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    run.log(2)
    assert [row.get("steps_not_finite") for row in map(json.loads, (tmp_path / "test.jsonl").read_text().splitlines())] == [None, 1]


def test_averages_leave_out_what_is_not_finite():
    averages, loss = Averages(0.25), torch.tensor(4.0)
    averages.note(loss=loss)
    loss.fill_(8.0)                                        # as a step that is replayed overwrites its outputs
    averages.note(loss=torch.tensor(float("nan")), score=torch.tensor(1.0))
    averages.note(loss=torch.tensor(8.0))
    assert averages.now == {"loss": 5.0, "score": 1.0}


def test_consistency_loss_counts_each_clip_by_its_distance():
    clip = torch.zeros(2, 4, 3, 4, 4)
    assert distil.consistency_loss(clip, clip) == 0
    answer = torch.stack((torch.full_like(clip[0], 0.4), torch.full_like(clip[0], -0.2)))
    assert float(distil.consistency_loss(answer, clip)) == pytest.approx(0.3, abs=0.03)


def test_student_loss_falls_on_a_fixed_pair(run):
    model, (noise, _, text) = tiny_dit(), tiny_batch()
    clip = 0.3 * noise.roll(1, -1) + 0.5
    optimizers = Optimizers(model, muon_lr=3e-3, adam_lr=3e-3)

    def loss_of(noise, clip, text):
        return (sum(distil.consistency_loss(step, clip) for step in distil.chain(model, noise, text, TIMES)) / 4,)

    step = GradientStep(run, loss_of, optimizers.parameters)
    losses = []
    for _ in range(60):
        losses.append(float(step(noise, clip, text)[0]))
        optimizers.clipped_step(run, 1.0)
    assert losses[-1] < 0.5 * losses[0]


def test_score_distillation_pulls_clips_from_the_fake_networks_to_the_teachers():
    """Teacher and fake agree: no pull. The teacher's clips brighter than the fake's: a pull to brighter, of about unit size."""
    generated = torch.full((2, 4, 3, 4, 4), 0.2, requires_grad=True)
    text = torch.zeros(2, 5, 8)
    torch.manual_seed(0)
    same = distil.score_loss(generated, PointMass(0.2), PointMass(0.2), text, 2.5)
    assert same.item() < 1e-6
    pulled, = torch.autograd.grad(distil.score_loss(generated, PointMass(0.7), PointMass(0.2), text, 2.5), generated)
    assert (pulled < 0).all()
    # target - generated = (0.7 - 0.2) / |0.2 - 0.7| = 1 everywhere, and the loss is half its mean square
    torch.testing.assert_close(pulled, torch.full_like(pulled, -1 / pulled.numel()), rtol=1e-3, atol=0)


def test_guidance_moves_away_from_the_clip_without_text():
    class Reader(torch.nn.Module):
        def forward(self, x_t, timestep, text):
            return (x_t - text.mean((1, 2)).view(-1, 1, 1, 1, 1)) / (timestep / 1000).view(-1, 1, 1, 1, 1)

    x0 = distil.guided_at(Reader(), torch.randn(2, 4, 3, 4, 4), torch.tensor([0.9, 0.5]), torch.full((2, 5, 8), 0.4), 2.5)
    torch.testing.assert_close(x0, torch.full_like(x0, 1.0), rtol=1e-4, atol=1e-4)


def test_trajectory_pool_holds_ends_of_the_teachers_trajectories(run):
    """Of a point mass every trajectory ends at its value; the ring overwrites the oldest."""
    preset = pocket_preset()
    encoder = MiniLM.installed(text_len=preset.text.text_len, device="cpu", dtype=torch.float32)
    pool = distil.TrajectoryPool(run, PointMass(), preset, load_world(), encoder, capacity=5, fresh=2)
    for count in (2, 4, 4):
        pool.refresh()
        assert pool.count == count
    noise, clip, text = pool.draw(3)
    assert noise.shape == clip.shape == (3, *preset.latent_shape(33, 256, 256)) and noise.std() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(clip, torch.full_like(clip, 0.7), rtol=1e-4, atol=1e-4)
    assert text.shape == (3, preset.text.text_len, 384) and text.abs().sum() > 0


def test_sparse_twin_shares_its_parameters_and_starts_as_the_kept_blocks_alone():
    """With every block kept and a silent linear branch it is the dense network; what one learns the other knows."""
    dense, (noise, _, text) = tiny_dit(), tiny_batch()
    twin = sparse_twin(dense, SparseSettings(density=1.0, block_q=4, block_k=4))
    timestep = torch.full((3,), 400.0)
    with torch.no_grad():
        torch.testing.assert_close(twin(noise, timestep, text), dense(noise, timestep, text), rtol=1e-4, atol=1e-5)
    own = dict(twin.named_parameters())
    assert all(own.pop(name) is parameter for name, parameter in dense.named_parameters())
    assert sorted(own) == [f"blocks.{i}.self_attn.attn_op.local_attn.proj_l.{name}" for i in (0, 1) for name in ("bias", "weight")]
    few = sparse_twin(dense, SparseSettings(density=0.34, block_q=4, block_k=4))
    few(noise, timestep, text).square().mean().backward()
    assert few.blocks[0].self_attn.attn_op.local_attn.proj_l.weight.grad.abs().sum() > 0 and dense.blocks[0].self_attn.q.weight.grad is not None


def test_one_file_serves_dense_and_sparse(tmp_path, monkeypatch):
    """The student's file with its projections opens both ways; one without them opens densely alone."""
    dense, (noise, _, text) = tiny_dit(), tiny_batch()
    monkeypatch.setattr(pocket, "pocket_preset", lambda: SimpleNamespace(dit=dense.config))
    settings, timestep = SparseSettings(density=0.5, block_q=4, block_k=4), torch.full((3,), 400.0)
    twin = sparse_twin(dense, settings)
    for block in twin.blocks:
        torch.nn.init.normal_(block.self_attn.attn_op.local_attn.proj_l.weight, std=0.2)
    again = sparse_twin(dense, settings, trained=twin)
    with torch.no_grad():
        wanted = twin(noise, timestep, text), dense(noise, timestep, text)
        assert torch.equal(again(noise, timestep, text), wanted[0])
        pocket.save_dit(twin, tmp_path, "student", {"density": 0.5, "block_q": 4, "block_k": 4})
        assert pocket.sparse_settings(tmp_path) == settings
        for found, expected in zip((pocket.load_dit(tmp_path, "student", sparse=settings), pocket.load_dit(tmp_path, "student")), wanted):
            assert relative(found(noise, timestep, text), expected) < 0.05
        assert relative(*wanted) > 0.1
        pocket.save_dit(dense, tmp_path, "student", {})
        assert pocket.sparse_settings(tmp_path) is None and relative(pocket.load_dit(tmp_path, "student")(noise, timestep, text), wanted[1]) < 0.05
    with pytest.raises(WeightsError, match="none named 'blocks.0.self_attn.attn_op.local_attn.proj_l.bias'"):
        pocket.load_dit(tmp_path, "student", sparse=settings)


def test_feature_distance_grows_with_what_is_done_to_a_clip():
    torch.manual_seed(0)
    probe, clip = Probe((3, 3, 3, 3)).eval(), torch.rand(2, 3, NUM_FRAMES, SIDE, SIDE)
    assert feature_distance(probe, clip, clip).tolist() == [0, 0]
    little, more = (feature_distance(probe, clip, (clip + amount * torch.randn_like(clip)).clamp(0, 1)) for amount in (0.02, 0.2))
    assert (0 < little).all() and (3 * little < more).all() and (more < 2).all()
    assert torch.allclose(feature_distance(probe, clip, clip.flip(0)), feature_distance(probe, clip.flip(0), clip))


def relative(found, expected) -> float:
    return float((found - expected).norm() / expected.norm())


def test_sparse_twin_learns_the_dense_networks_answer(run):
    dense, (noise, _, text) = tiny_dit(), tiny_batch()
    timestep = torch.full((3,), 400.0)
    with torch.no_grad():
        wanted = dense(noise, timestep, text)
    twin = sparse_twin(dense, SparseSettings(density=0.34, block_q=4, block_k=4))
    optimizers = Optimizers(twin, muon_lr=3e-3, adam_lr=3e-3)
    step = GradientStep(run, lambda noise, text: ((twin(noise, timestep, text) - wanted).square().mean(),), optimizers.parameters)
    losses = []
    for _ in range(40):
        losses.append(float(step(noise, text)[0]))
        optimizers.clipped_step(run, 1.0)
    assert losses[-1] < 0.3 * losses[0]


def test_flicker_looks_where_little_moves():
    """A square that blinks on a quarter of a still picture is motion; noise everywhere is flicker."""
    still = torch.full((2, 3, 5, 8, 8), 0.5)
    blinking = still.clone()
    blinking[:, :, ::2, :4, :4] = 1
    assert flicker(still) == flicker(blinking) == 0
    assert flicker(still + 0.1 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))) == pytest.approx(0.1, abs=0.03)


def test_nearness_tells_the_subject_from_its_rim_and_its_ghost():
    """A square a little off inside; a ghost of it beside; a blurred rim; each is found where it is and nowhere else."""
    mask = torch.zeros(1, 1, 2, 96, 96)
    mask[..., 32:64, 32:64] = 1
    rendered = 0.25 + 0.5 * mask.expand(1, 3, 2, 96, 96)

    def near(frames):
        row, = nearness(frames, rendered, regions(mask))
        return row

    assert near(rendered) == pytest.approx(dict(rim_sharpness=1, inside=100, rim=100, beside=100, elsewhere=100))
    core, ghost, far = rendered.clone(), rendered.clone(), rendered.clone()
    core[..., 44:52, 44:52] += 0.1
    ghost[..., 40:56, 70:76] += 0.1
    far[..., :8, :8] += 0.1
    for changed, where in ((core, "inside"), (ghost, "beside"), (far, "elsewhere")):
        row = near(changed)
        assert row.pop(where) < 40 and sorted(row.values()) == pytest.approx([1, 100, 100, 100])
    soft = near(torch.nn.functional.avg_pool3d(rendered, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False))
    assert soft["rim"] < 30 and soft["inside"] == 100 and 0.1 < soft["rim_sharpness"] < 0.3


def test_a_clip_without_its_subject_is_judged_by_its_scene():
    row, = nearness(torch.full((1, 3, 1, 64, 64), 0.6), torch.full((1, 3, 1, 64, 64), 0.5), regions(torch.zeros(1, 1, 1, 64, 64)))
    assert set(row) == {"elsewhere", "rim_sharpness"} and row["elsewhere"] == pytest.approx(20)
    assert mean_rows([row, {"elsewhere": 30.0, "rim": 10.0}]) == pytest.approx({"rim_sharpness": row["rim_sharpness"], "elsewhere": 25, "rim": 10})


def test_rows_by_kind_are_means_of_their_own_with_the_farthest_first():
    rows = [{"inside": 30.0, "rim": 20.0}, {"inside": 25.0}, {"inside": 20.0, "rim": 10.0}, {"rim": 5.0}]
    found = rows_by(["still", "flip", "still", "jump"], rows)
    assert list(found.items()) == [("still", {"clips": 2, "inside": 25.0, "rim": 15.0}), ("flip", {"clips": 1, "inside": 25.0}),
                                   ("jump", {"clips": 1, "rim": 5.0})]
    assert list(rows_by(["a", "b"], rows[1:3])) == ["b", "a"]
    with pytest.raises(ValueError):
        rows_by(["flip"], rows)


def test_the_rendered_clip_is_the_one_the_read_prompt_means():
    world = load_world()
    vocabulary = Vocabulary(world, text_len=32, count_tokens=lambda text: 1)
    specs, prompts = counted_prompts(world, 30, 10)
    places = set()
    for seed, (spec, prompt) in enumerate(zip(specs, prompts)):
        meant = settled(world, spec, read := vocabulary.read(prompt, seed))
        assert replace(meant, place=spec.place) == spec
        places.add(meant.place)
        assert world.crosses(meant) or any(phrase in read for phrase in world.places[meant.place].phrases)
    assert places == {0, 1, 2}


def test_variety_is_the_variance_over_seeds():
    def make(prompts, seeds):
        return torch.stack([torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    assert variety(make, ["a", "b"]) == pytest.approx(1, abs=0.1)
    assert variety(lambda prompts, seeds: torch.ones(len(seeds), 4, 3, 4, 4), ["a"]) == 0


def test_a_count_takes_every_prompt_with_every_draw_and_the_tail_apart():
    """A maker that gives each prompt's own picture on even draws only, judged by a probe that reads it."""
    class Studio:
        @staticmethod
        def frames(latents):
            return latents

    def make(prompts, seeds):
        shown = torch.tensor([float(prompt) for prompt in prompts]) if seeds[0] < 10_000 else torch.full((len(prompts),), 0.25)
        return shown.view(-1, 1, 1, 1, 1).expand(-1, 3, 33, 128, 128)

    labels = torch.tensor([[0] * 4, [1] * 4, [3] * 4])

    def probe(views):
        return [torch.nn.functional.one_hot((views.mean((1, 2, 3, 4)) * 4).round().long(), 5).float() for _ in range(4)]

    first, rows = report.count(Studio, probe, {"one": make}, ["0", "0.25", "0.75"], labels, 1, draws=2, still=torch.tensor([True, False, True]))
    row = rows["one"]
    assert row["all"]["subject"] == pytest.approx(4 / 6, abs=1e-3) and row["held_out"]["camera"] == 0.5
    assert row["sharpness"] == row["flicker"] == 0 and row["clips"] == 6 and "ssim_mean" not in row
    assert first["one"]["clips"] == 3 and first["one"]["all"]["subject"] == 1


def test_a_count_says_how_like_clips_are_to_those_they_are_held_against():
    class Studio:
        @staticmethod
        def frames(latents):
            return latents

    def make(shift):
        return lambda prompts, seeds: torch.rand(len(prompts), 3, 33, 32, 32, generator=torch.Generator().manual_seed(seeds[0])) * 0.8 + shift

    makers = {"one": make(0.0), "same": make(0.0), "brighter": make(0.1)}
    rows, = report.count(Studio, None, makers, ["a", "b"], torch.zeros(2, 4), 0, draws=1, still=torch.tensor([False, False]),
                         against={"same": "one", "brighter": "one"})
    assert "ssim_mean" not in rows["one"] and "all" not in rows["one"] and "flicker" not in rows["one"]
    assert (rows["same"]["psnr_db"], rows["same"]["worst_ssim"]) == (99, 1)
    assert rows["brighter"]["psnr_db"] == pytest.approx(20, abs=0.2) and 0.5 < rows["brighter"]["worst_ssim"] <= rows["brighter"]["ssim_tenth"] < 1


def test_likeness_is_that_of_the_page():
    generator = torch.Generator().manual_seed(0)
    a = torch.nn.functional.interpolate(torch.rand(2, 3, 3, 10, 14, generator=generator), scale_factor=(1, 4, 4), mode="trilinear")
    b = (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    b[1, :, 2] = a[1, :, 2]
    found = likeness(a, b)
    for clip, pair in enumerate(zip(report.to_uint8(a), report.to_uint8(b))):
        for measure, scores in zip((compare.psnr, compare.ssim), found):
            assert scores[clip].numpy() == pytest.approx(np.minimum(measure(*pair), 99), abs=1e-4)
    assert found[0][1, 2] == 99


def test_larger_clips_are_made_at_their_size_and_judged_in_parts_of_the_usual_length():
    """A studio whose clips brighten from part to part: the probe reads 1 in the first 33 frames, 2 in the next."""
    class Studio:
        preset, size, made = pocket.pocket_preset(), (33, 256, 256), []

        def student(self, prompts, seeds, num_steps, sampler):
            self.made.append((self.size, len(prompts), num_steps))
            return torch.zeros(len(prompts), *self.size)

        @staticmethod
        def frames(latents):
            part = 1 + (torch.arange(latents.shape[1]) > 32)
            return (part / 4).view(1, 1, -1, 1, 1).expand(len(latents), 3, -1, 128, 128)

    def probe(views):
        return [torch.nn.functional.one_hot((views.mean((1, 2, 3, 4)) * 4).round().long(), 5).float() for _ in range(4)]

    studio = Studio()
    found = report.larger(studio, probe, ["a", "b"], torch.ones(2, 4, dtype=torch.long))
    assert [[part["subject"] for part in found[name]] for name in report.LARGER] == [[1.0], [1.0, 0.0]]
    assert studio.made == [((33, 384, 384), 2, 4), ((65, 256, 256), 2, 4)] and studio.size == (33, 256, 256)
    assert studio.preset.latent_shape(*report.LARGER["65 x 256 x 256"]) == (64, 17, 16, 16)


def test_gradient_steps_that_share_parameters_keep_their_gradients_apart(run):
    weight = torch.nn.Parameter(torch.tensor(2.0))
    once = GradientStep(run, lambda x: (weight * x, x + 1), [weight])
    twice = GradientStep(run, lambda x: (2 * weight * x,), [weight])
    for _ in range(2):
        loss, other = once(torch.tensor(3.0))
        assert (float(loss), float(other), float(weight.grad)) == (6.0, 4.0, 3.0) and not loss.requires_grad
        twice(torch.tensor(3.0))
        assert float(weight.grad) == 6.0


def test_times_lie_in_the_unit_interval_and_lean_to_noise():
    t = draw_times(20_000, torch.device("cpu"))
    assert 0 < t.min() and t.max() < 1 and 0.74 < t.mean() < 0.82 and 0.09 < (t < 0.5).float().mean() < 0.14
    assert (t < 0.3).float().mean() < 0.005                     # no full render asks there


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


def test_turns_fill_whole_slots_and_begin_again_at_the_oldest():
    turns = Turns(11, 4)
    assert turns.capacity == 8
    taken = [(turns.take(), turns.count) for _ in range(3)]
    assert taken == [(slice(0, 4), 4), (slice(4, 8), 8), (slice(0, 4), 8)]


def test_ema_follows_and_schedule_has_its_shape():
    layer = torch.nn.Linear(2, 2)
    ema = EMA(layer, 0.99)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    for _ in range(2_000):
        ema.update()
    torch.testing.assert_close(ema.module.weight, layer.weight, rtol=1e-3, atol=1e-3)
    assert trapezoid(0.0) < 0.1 and trapezoid(0.2) == 1.0 and trapezoid(1.0) == pytest.approx(0.01)


def test_steps_end_with_the_budget_and_save_on_the_way(tmp_path, monkeypatch):
    """Three checkpoints at even shares and one at the end; a step longer than a share makes one checkpoint, not two."""
    run, now, saved = Run("steps", tmp_path, budget_s=8.0), [0.0], []
    monkeypatch.setattr(Run, "elapsed_s", property(lambda self: now[0]))
    seen = []
    for step, progress in run.steps(saved.append):
        seen.append((step, progress))
        now[0] += 1 if step < 4 else 3
    run.close()
    assert seen == [(0, 0), (1, 1 / 8), (2, 2 / 8), (3, 3 / 8), (4, 4 / 8), (5, 7 / 8)] and saved == [2, 4, 5, 6]


def test_a_long_schedule_takes_several_runs(tmp_path, monkeypatch):
    """The second run's progress goes on where the first one's ended; its checkpoints lie at even shares of its own seconds."""
    seen, now = [], [0.0]
    monkeypatch.setattr(Run, "elapsed_s", property(lambda self: now[0]))
    for part in ((0.0, 0.75), (0.75, 1.0)):
        run, saved, now[0] = Run("part", tmp_path, budget_s=4.0, part=part), [], 0.0
        for _, progress in run.steps(saved.append):
            seen.append(progress)
            now[0] += 1.0
        run.close()
        assert saved == [1, 2, 3, 4]
    assert seen == pytest.approx([0, 0.1875, 0.375, 0.5625, 0.75, 0.8125, 0.875, 0.9375])
    with pytest.raises(ValueError, match="FROM < TO <= 1, got 0.5 0.5"):
        Run("part", tmp_path, budget_s=4.0, part=(0.5, 0.5))


def test_trace_profiles_a_few_steps(tmp_path):
    run = Run("trace", tmp_path, budget_s=60, trace=True)
    for step, _ in run.steps():
        torch.randn(4, 4) @ torch.randn(4, 4)
        if step == 60:
            break
    run.close()
    assert "aten::mm" in (tmp_path / "trace-profile.txt").read_text()
