"""Wan2.1's autoencoder against diffusers' on the same random weights, narrow and in float32."""
import pytest
import torch
from peers import randomize, relative_error, vae_peer

from turbo_engine.models import wan_vae
from turbo_engine.models.config import WanVAEConfig
from turbo_engine.models.wan_vae import WanVAE

CONFIG = WanVAEConfig(latent_channels=4, width=8, multipliers=(1, 2, 4, 4), latent_mean=(0.3, -0.7, 0.1, 0.5), latent_std=(1.2, 2.5, 0.8, 1.9))


@pytest.fixture(scope="module")
def pair():
    ours = randomize(WanVAE(CONFIG))
    return ours, vae_peer(ours)


def statistics():
    return (torch.tensor(values).view(-1, 1, 1, 1) for values in (CONFIG.latent_mean, CONFIG.latent_std))


def encoded_by(theirs, frames):
    mean, std = statistics()
    return (theirs.encode(frames * 2 - 1).latent_dist.mean - mean) / std


def decoded_by(theirs, latent):
    mean, std = statistics()
    return (theirs.decode(latent * std + mean).sample * 0.5 + 0.5).clamp(0, 1)


def clip(k: int):
    torch.manual_seed(k)
    return torch.rand(2, 3, 4 * k + 1, 24, 40), torch.randn(2, 4, k + 1, 3, 5)


@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_encode(pair, k):
    ours, theirs = pair
    frames, _ = clip(k)
    latent = ours.encode(frames)
    assert latent.std() > 0.1
    assert relative_error(latent, encoded_by(theirs, frames)) < 1e-5


@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_decode(pair, k):
    ours, theirs = pair
    _, latent = clip(k)
    frames = ours.decode(latent)
    assert frames.std() > 0.1 and frames.shape[2] == 4 * k + 1
    assert relative_error(frames - 0.5, decoded_by(theirs, latent) - 0.5) < 1e-5


def wrong_norm(monkeypatch):
    monkeypatch.setattr(wan_vae.ChannelNorm, "forward", lambda self, x: torch.nn.functional.normalize(x, dim=1) * self.gamma)


def wrong_start(monkeypatch):
    """History before the first frame is that frame again, not zeros."""
    monkeypatch.setattr(wan_vae, "no_frames", lambda x, count: x[:, :, :1].repeat(1, 1, count, 1, 1))


def wrong_doubling(monkeypatch):
    """The first frame is doubled like the others, and one copy dropped at the end."""
    def double(self, x, history):
        start = self.time_conv not in history
        pairs = self.time_conv(x, history).unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return pairs[:, :, 1:] if start else pairs
    monkeypatch.setattr(wan_vae.Upsample, "_double", double)


def wrong_upsampling(monkeypatch):
    monkeypatch.setattr(wan_vae.nn.Upsample, "forward",
                        lambda self, x: torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"))


@pytest.mark.parametrize("wrong", [wrong_norm, wrong_start, wrong_doubling, wrong_upsampling])
def test_a_wrong_decoder_is_found_out(pair, monkeypatch, wrong):
    ours, theirs = pair
    _, latent = clip(2)
    expected = decoded_by(theirs, latent)
    wrong(monkeypatch)
    assert relative_error(ours.decode(latent) - 0.5, expected - 0.5) > 1e-2
