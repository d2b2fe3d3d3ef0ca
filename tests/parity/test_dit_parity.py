"""The DiT against diffusers' Wan transformer on the same random weights, narrow and in float32."""
from dataclasses import replace

import pytest
import torch
from peers import dit_peer, randomize, relative_error

from turbo_engine.models import dit
from turbo_engine.models.config import DiTConfig
from turbo_engine.models.dit import DiT

T2V = DiTConfig(dim=96, num_heads=4, num_layers=2, ffn_dim=160, in_channels=4, out_channels=4, prediction="velocity", patch_size=(1, 2, 2),
                text_dim=40, text_len=9, freq_dim=32, time_max_freq=1.0, rope_theta=10_000.0, eps=1e-6)
I2V = replace(T2V, in_channels=9)
TIMESTEPS = (999.0, 852.0, 500.0, 12.0)


def build(config: DiTConfig):
    ours = randomize(DiT(config))
    return ours, dit_peer(ours)


def inputs(config: DiTConfig, timestep: float = 852.0):
    torch.manual_seed(1)
    latent, text = torch.randn(2, config.out_channels, 3, 8, 12), torch.randn(2, config.text_len, config.text_dim)
    text[0, 5:] = 0                                            # a prompt that ended: its zero rows take part
    condition = torch.randn(2, config.condition_channels, 3, 8, 12) if config.condition_channels else None
    return latent, torch.tensor([timestep, timestep / 2]), text, condition


def both(ours, theirs, config, timestep: float = 852.0):
    latent, timestep, text, condition = inputs(config, timestep)
    joined = latent if condition is None else torch.cat((latent, condition), 1)
    expected = theirs(joined, timestep, text, return_dict=False)[0]
    return ours(latent, timestep, text, condition=condition), expected


@pytest.mark.parametrize("config", [T2V, I2V], ids=["t2v", "i2v"])
@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_forward(config, timestep):
    velocity, expected = both(*build(config), config, timestep)
    assert velocity.std() > 0.1
    assert relative_error(velocity, expected) < 1e-5


def test_guidance_steers_both_the_same_way():
    """The same denoised estimate from both networks, two passes and guidance between: what a full render does at a step."""
    from turbo_engine.denoiser import Denoiser

    ours, theirs = build(T2V)
    latent, _, text, _ = inputs(T2V)
    away, t = torch.zeros_like(text), 0.8126
    timestep = torch.full((2,), 812.0)                         # truncated, as Wan's solver hands it on
    with_text, without = (theirs(latent, timestep, states, return_dict=False)[0] for states in (text, away))
    expected = latent - t * (without + 5.0 * (with_text - without))
    denoise = Denoiser(ours, ours.embed_text(text), unconditional=ours.embed_text(away), guidance_scale=5.0, rounding="integer")
    assert relative_error(denoise(latent, t), expected) < 1e-5


def half_split_rope(monkeypatch, ours):
    def rotate(x, rope):
        (cos, sin), (first, second) = rope, x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)
    monkeypatch.setattr(dit, "rotate", rotate)


def rope_of_swapped_sides(monkeypatch, ours):
    right = dit.rope_angles
    monkeypatch.setattr(dit, "rope_angles", lambda grid, *rest: right((grid[0], grid[2], grid[1]), *rest))


def rope_of_another_base(monkeypatch, ours):
    right = dit.rope_angles
    monkeypatch.setattr(dit, "rope_angles", lambda grid, head_dim, theta, device: right(grid, head_dim, theta / 10, device))


def modulation_in_another_order(monkeypatch, ours):
    right, order = dit.Block.forward, [1, 0, 2, 4, 3, 5]       # scale before shift
    for block in ours.blocks:
        block.modulation.data = block.modulation.data[:, order]
    monkeypatch.setattr(dit.Block, "forward", lambda self, x, modulation, *rest: right(self, x, modulation[:, order], *rest))


def norm_by_head(monkeypatch, ours):
    def forward(self, x):
        heads = x.unflatten(-1, (T2V.num_heads, -1))
        return torch.nn.functional.rms_norm(heads, heads.shape[-1:], eps=self.eps).flatten(-2) * self.weight
    monkeypatch.setattr(dit.RMSNorm, "forward", forward)


def norm_without_the_mean(monkeypatch, ours):
    monkeypatch.setattr(dit, "layer_norm", lambda x, eps: torch.nn.functional.rms_norm(x, x.shape[-1:], eps=eps))


def exact_gelu(monkeypatch, ours):
    monkeypatch.setattr(dit.GELU, "forward", lambda self, x: torch.nn.functional.gelu(x))


def output_in_input_order(monkeypatch, ours):
    right = dit.unpatchify
    monkeypatch.setattr(dit, "unpatchify", lambda tokens, grid, patch: right(
        tokens.unflatten(-1, (T2V.out_channels, -1)).transpose(-1, -2).flatten(-2), grid, patch))


def timestep_a_tenth_off(monkeypatch, ours):
    right = dit.DiT.embed_time
    monkeypatch.setattr(dit.DiT, "embed_time", lambda self, timestep: right(self, timestep + 0.1))


WRONG = [half_split_rope, rope_of_swapped_sides, rope_of_another_base, modulation_in_another_order, norm_by_head,
         norm_without_the_mean, exact_gelu, output_in_input_order, timestep_a_tenth_off]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_network_is_found_out(monkeypatch, wrong):
    """Each is a mistake that leaves every shape as it was; exact GELU is the least, 9e-5."""
    ours, theirs = build(T2V)
    latent, timestep, text, _ = inputs(T2V)
    expected = theirs(latent, timestep, text, return_dict=False)[0]
    wrong(monkeypatch, ours)
    assert relative_error(ours(latent, timestep, text), expected) > 5e-5


def test_a_wrong_condition_is_found_out():
    ours, theirs = build(I2V)
    latent, timestep, text, condition = inputs(I2V)
    expected = theirs(torch.cat((latent, condition), 1), timestep, text, return_dict=False)[0]
    assert relative_error(ours(latent, timestep, text, condition=condition.flip(1)), expected) > 1e-2
