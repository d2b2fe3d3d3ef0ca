"""Wan2.1's autoencoder: chunks, tiles, causality, the true size. Equality with an independent one: tests/parity."""
import pytest
import torch

from turbo_engine.models.config import WanVAEConfig
from turbo_engine.models.tiles import blend_tiles, tile_starts
from turbo_engine.models.wan_vae import WanVAE

CONFIG = WanVAEConfig(latent_channels=4, width=8, multipliers=(1, 2, 2, 2), latent_mean=(0.3, -0.7, 0.1, 0.5), latent_std=(1.2, 2.5, 0.8, 1.9))


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    vae = WanVAE(CONFIG).requires_grad_(False)
    for name, parameter in vae.named_parameters():
        matrix = parameter.ndim > 1 and not name.endswith("gamma")
        torch.nn.init.normal_(parameter, float(name.endswith("gamma")), parameter[0].numel() ** -0.5 if matrix else 0.3)
    return vae


def test_true_size():
    """The published file: 194 tensors, 126,892,531 numbers."""
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig(16, 96, (1, 2, 4, 4), (0.0,) * 16, (1.0,) * 16))
    state = vae.state_dict()
    assert len(state) == 194 and sum(t.numel() for t in state.values()) == 126_892_531
    assert state["decoder.upsamples.3.time_conv.weight"].shape == (768, 384, 3, 1, 1)
    assert state["encoder.middle.1.norm.gamma"].shape == (384, 1, 1)


@pytest.mark.parametrize("k", [0, 1, 5])
@pytest.mark.parametrize("chunk", [2, 3, 99])
def test_chunks_of_any_length_are_the_same(vae, k, chunk):
    torch.manual_seed(k)
    frames, latent = torch.rand(1, 3, 4 * k + 1, 16, 24), torch.randn(1, 4, k + 1, 2, 3)
    torch.testing.assert_close(vae.encode(frames, chunk=chunk), vae.encode(frames), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(vae.decode(latent, chunk=chunk), vae.decode(latent), rtol=1e-5, atol=1e-5)


def test_frames_come_as_they_are_made(vae):
    """One frame from the first latent frame, four from each later one; nothing is decoded before it is asked for."""
    torch.manual_seed(3)
    latent, calls = torch.randn(1, 4, 4, 2, 3), []
    hook = vae.decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    chunks = vae.decode_chunks(latent)
    first = next(chunks)
    assert first.shape == (1, 3, 1, 16, 24) and len(calls) == 1
    later = list(chunks)
    hook.remove()
    assert [part.shape[2] for part in later] == [4, 4, 4] and len(calls) == 4
    assert torch.equal(torch.cat([first, *later], 2), vae.decode(latent))


def test_no_frame_sees_a_later_one(vae):
    torch.manual_seed(4)
    latent = torch.randn(1, 4, 4, 2, 3)
    other = latent.clone()
    other[:, :, 3] += 1
    one, two = vae.decode(latent), vae.decode(other)
    assert torch.equal(one[:, :, :9], two[:, :, :9]) and (one[:, :, 9:] - two[:, :, 9:]).abs().amax((0, 1, 3, 4)).min() > 1e-4
    frames = torch.rand(1, 3, 13, 16, 24)
    changed = frames.clone()
    changed[:, :, 9:] = 0.5
    assert torch.equal(vae.encode(frames)[:, :, :3], vae.encode(changed)[:, :, :3])


def test_other_lengths_are_refused(vae):
    with pytest.raises(ValueError, match=r"num_frames: expected 4k \+ 1, got 4; try 1 or 5"):
        vae.encode(torch.rand(1, 3, 4, 16, 16))


# -- tiles -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length, tile, overlap, starts", [
    (5, 8, 2, [0]), (8, 8, 2, [0]), (9, 8, 2, [0, 1]), (14, 8, 2, [0, 6]), (15, 8, 2, [0, 4, 7]), (12, 4, 0, [0, 4, 8])])
def test_tile_starts(length, tile, overlap, starts):
    assert tile_starts(length, tile, overlap) == starts


def test_tiles_add_up():
    """Blending what is left as it was gives it back, at any change of scale."""
    x = torch.randn(2, 3, 40, 56)
    same = blend_tiles(lambda part: part, x, tile=4, overlap=1, unit_in=4, unit_out=4)
    torch.testing.assert_close(same, x)
    small = blend_tiles(lambda part: part[..., ::8, ::8], x, tile=3, overlap=1, unit_in=8, unit_out=1)
    torch.testing.assert_close(small, x[..., ::8, ::8])
    with pytest.raises(ValueError, match="overlap: expected 0 to tile - 1 = 3, got 4"):
        blend_tiles(lambda part: part, x, tile=4, overlap=4, unit_in=1, unit_out=1)


def test_tiled_is_near_the_whole(vae):
    """A tile misses what lies beyond its border, most of all at it: side by side they jump there, blended they do not."""
    torch.manual_seed(6)
    latent = torch.randn(1, 4, 2, 6, 16)
    whole = vae.decode(latent)
    assert torch.equal(vae.decode(latent, tile=16), whole)
    error = vae.decode(latent, tile=8) - whole
    side_by_side = blend_tiles(vae.decode, latent, tile=8, overlap=0, unit_in=1, unit_out=8) - whole
    assert error.square().mean().sqrt() < 0.3 * whole.std()
    jump, hard_jump = ((e[..., 64] - e[..., 63]).abs().mean() for e in (error, side_by_side))
    assert jump < 0.3 * hard_jump
    frames = torch.rand(1, 3, 5, 48, 128)
    near = vae.encode(frames, tile=8) - vae.encode(frames)
    assert near.square().mean().sqrt() < 0.3 * vae.encode(frames).std()
