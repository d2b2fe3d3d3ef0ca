"""The tiny decoder against its rule followed frame by frame, in chunks, at its true size."""
import pytest
import torch
import torch.nn.functional as F

from turbo_engine.models.config import TinyVAEConfig
from turbo_engine.models.tiny_vae import TinyVAE

CONFIG = TinyVAEConfig(latent_channels=3, widths=(12, 10, 8, 6))


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    torch.manual_seed(0)
    vae = TinyVAE(CONFIG).requires_grad_(False)
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, 0, 0.8 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    return vae


def frame_by_frame(state: dict, latent: torch.Tensor) -> torch.Tensor:
    """One clip [C, T, h, w], float64, by the names in the checkpoint: a queue of frames through each layer in turn."""
    state = {key: tensor.double() for key, tensor in state.items()}

    def conv(x, name, padding=1):
        return F.conv2d(x[None], state[f"decoder.{name}.weight"], state.get(f"decoder.{name}.bias"), padding=padding)[0]

    frames = [(3 * torch.tanh(x / 3)) for x in latent.double().unbind(1)]
    frames = [conv(x, "1").relu() for x in frames]
    for start, grow in ((3, 1), (9, 2), (15, 2)):
        for layer in range(start, start + 3):
            past, after = torch.zeros_like(frames[0]), []
            for x in frames:
                h = conv(torch.cat((x, past)), f"{layer}.conv.0").relu()
                h = conv(h, f"{layer}.conv.2").relu()
                after.append((conv(h, f"{layer}.conv.4") + x).relu())
                past = x
            frames = after
        frames = [x.repeat_interleave(2, 1).repeat_interleave(2, 2) for x in frames]
        frames = [part for x in frames for part in conv(x, f"{start + 4}.conv", 0).chunk(grow)]
        frames = [conv(x, str(start + 5)) for x in frames]
    frames = [conv(x.relu(), "22").clamp(0, 1) for x in frames]
    return torch.stack(frames[3:], 1)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_frame_by_frame(vae, k):
    torch.manual_seed(k)
    latent = 2 * torch.randn(2, 3, k + 1, 3, 5)
    frames = vae.decode(latent)
    assert frames.shape == (2, 3, 4 * k + 1, 24, 40) and frames.dtype == torch.float32 and frames.std() > 0.05
    for row, clip in zip(frames, latent):
        torch.testing.assert_close(row, frame_by_frame(vae.state_dict(), clip).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 9])
def test_chunks_of_any_length_are_the_same(vae, chunk):
    torch.manual_seed(1)
    latent = torch.randn(1, 3, 5, 3, 4)
    parts = list(vae.decode_chunks(latent, chunk=chunk))
    assert parts[0].shape[2] == min(4 * chunk - 3, 17)
    torch.testing.assert_close(torch.cat(parts, 2), vae.decode(latent), rtol=0, atol=1e-5)


def test_true_size():
    with torch.device("meta"):
        state = TinyVAE(TinyVAEConfig(16, (256, 128, 64, 64))).state_dict()
    assert len(state) == 64 and sum(t.numel() for t in state.values()) == 9_844_611
    assert state["decoder.13.conv.weight"].shape == (256, 128, 1, 1) and state["decoder.22.weight"].shape == (3, 64, 3, 3)
