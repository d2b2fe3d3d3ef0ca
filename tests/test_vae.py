"""The autoencoder: lengths, shapes, the meaning of its shortcuts and of its time shift."""
import pytest
import torch

from turbo_engine.models.config import VAEConfig, latent_frames
from turbo_engine.models.vae import VAE, Downsample, Upsample, shift_time

CONFIG = VAEConfig(latent_channels=6, encoder_widths=(16, 32, 32), decoder_widths=(32, 24, 16), decoder_depths=(2, 1, 1))


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(CONFIG).init_weights().requires_grad_(False)
    vae.latent_mean.normal_(), vae.latent_std.uniform_(0.5, 2.0)
    return vae


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_length_law(vae, k):
    """4k + 1 frames become k + 1 latent frames and come back as 4k + 1."""
    frames = torch.rand(2, 3, 4 * k + 1, 32, 48)
    latent = vae.encode(frames)
    assert latent.shape == (2, 6, k + 1, 2, 3) and latent.dtype == torch.float32
    assert latent_frames(4 * k + 1) == k + 1
    back = vae.decode(latent)
    assert back.shape == frames.shape and back.min() >= 0 and back.max() <= 1 and back.std() > 0


@pytest.mark.parametrize("length, hint", [(0, "try 1 or 5"), (2, "try 1 or 5"), (80, "try 77 or 81"), (4, "try 1 or 5")])
def test_other_lengths_are_refused(length, hint):
    with pytest.raises(ValueError, match=rf"num_frames: expected 4k \+ 1, got {length}; {hint}"):
        latent_frames(length)


def test_other_lengths_do_not_pass_the_encoder(vae):
    with pytest.raises((ValueError, RuntimeError)):
        vae.encode(torch.rand(1, 3, 4, 32, 32))


def test_statistics_undo_each_other(vae):
    """decode takes what encode gives: normalised by mean and std per channel, undone before the decoder."""
    frames = torch.rand(1, 3, 5, 32, 32)
    raw = vae.encoder(frames * 2 - 1)[0]
    latent = vae.encode(frames)
    shape = (-1, 1, 1, 1)
    torch.testing.assert_close(latent * vae.latent_std.view(shape) + vae.latent_mean.view(shape), raw)
    torch.testing.assert_close(vae.decode(latent), (vae.decoder(raw) * 0.5 + 0.5).clamp(0, 1))


def test_time_shift_by_hand():
    x = torch.arange(2 * 3 * 16, dtype=torch.float32).view(6, 16, 1, 1)          # 2 clips of 3 frames, 16 channels
    out, clips = shift_time(x, 3).view(2, 3, 16), x.view(2, 3, 16)
    assert torch.equal(out[:, 1:, :2], clips[:, :-1, :2]) and torch.equal(out[:, 0, :2], clips[:, 0, :2])
    assert torch.equal(out[:, :-1, 2:4], clips[:, 1:, 2:4]) and torch.equal(out[:, -1, 2:4], clips[:, -1, 2:4])
    assert torch.equal(out[..., 4:], clips[..., 4:])
    assert torch.equal(shift_time(x, 1), x)


def test_shortcuts_carry_the_mean():
    """With the convolutions at zero a constant clip passes both changes of scale unchanged."""
    down, up = Downsample(8, 16), Upsample(16, 8)
    for module in (down.conv, up.conv):
        torch.nn.init.zeros_(module.weight), torch.nn.init.zeros_(module.bias)
    video = torch.full((5, 8, 8, 8), 0.7)
    small = down(video, 5)
    assert small.shape == (3, 16, 4, 4)
    torch.testing.assert_close(small, torch.full_like(small, 0.7))
    big = up(small, 3)
    assert big.shape == video.shape
    torch.testing.assert_close(big, video)


def test_time_reaches_only_as_far_as_shifts_do(vae):
    """A latent frame far away leaves early pixels alone: what makes a preview of the first frames a preview at all."""
    torch.manual_seed(4)
    latent = torch.randn(1, 6, 9, 2, 2)
    other = latent.clone()
    other[:, :, 8] += 3
    one, two = vae.decode(latent), vae.decode(other)
    assert not torch.allclose(one[:, :, -1], two[:, :, -1], atol=1e-3)
    assert torch.equal(one[:, :, :9], two[:, :, :9])


def test_batch_rows_do_not_meet(vae):
    torch.manual_seed(5)
    latent = torch.randn(3, 6, 2, 2, 2)
    together = vae.decode(latent)
    for i in range(3):
        torch.testing.assert_close(vae.decode(latent[i:i + 1]), together[i:i + 1], rtol=1e-4, atol=1e-5)


def test_without_encoder():
    vae = VAE(CONFIG, encoder=False)
    assert not [key for key in vae.state_dict() if key.startswith("encoder.")]
    assert vae.decode(torch.zeros(1, 6, 2, 2, 2)).shape == (1, 3, 5, 32, 32)
