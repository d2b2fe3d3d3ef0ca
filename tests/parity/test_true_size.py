"""True sizes in bf16 on a GPU, random weights: how far from float32, ours or, where it is installed, diffusers'."""
import importlib.util
from dataclasses import replace

import pytest
import torch
from peers import dit_peer, randomize, relative_error, vae_peer

from turbo_engine.families.wan import fit_linear8, in_rows
from turbo_engine.models.config import DiTConfig, TinyVAEConfig, WanVAEConfig
from turbo_engine.models.dit import DiT
from turbo_engine.models.tiny_vae import TinyVAE
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.weights import MODELS, assign

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
PEER = importlib.util.find_spec("diffusers") is not None
WAN_1_3B = DiTConfig(dim=1536, num_heads=12, num_layers=30, ffn_dim=8960, in_channels=16, out_channels=16, prediction="velocity",
                     patch_size=(1, 2, 2), text_dim=4096, text_len=512, freq_dim=256, time_max_freq=1.0, rope_theta=10_000.0, eps=1e-6)


@pytest.fixture(autouse=True)
def exact_float32():
    """The reference is no reference in TF32."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def built(make) -> torch.nn.Module:
    with torch.device("cuda"):
        return randomize(make())


def test_dit():
    """Wan2.1 1.3B at 832x480, 9 frames; norms in float32, as released."""
    ours = built(lambda: DiT(WAN_1_3B))
    torch.manual_seed(1)
    latent, text = torch.randn(1, 16, 3, 60, 104, device="cuda"), torch.randn(1, 512, 4096, device="cuda")
    text[:, 40:] = 0
    timestep = torch.tensor([852.0], device="cuda")
    with torch.inference_mode():
        if PEER:
            expected = dit_peer(ours)(latent, timestep, text, return_dict=False)[0]
            assert relative_error(ours(latent, timestep, text), expected) < 1e-4
        else:
            expected = ours(latent, timestep, text)
        ours.to(torch.bfloat16)
        for name, parameter in ours.named_parameters():
            if ".norm" in name:
                parameter.data = parameter.data.float()
        velocity = ours(latent, timestep, text)
    error = relative_error(velocity, expected)
    print(f"1.3B bf16 against float32 ({'diffusers' if PEER else 'our own'}): {error:.1e}")
    assert velocity.dtype == torch.float32 and error < 2e-2


def test_two_blocks_of_an_expert():
    """Wan2.2 A14B's width and channels, 720p, 5 frames: bf16, and bf16 with its weights in int8 rows, against float32."""
    ours = built(lambda: DiT(replace(MODELS["Wan2.2-I2V-A14B"], num_layers=2)))
    torch.manual_seed(4)
    latent, condition = torch.randn(1, 16, 2, 90, 160, device="cuda"), torch.randn(1, 20, 2, 90, 160, device="cuda")
    text, timestep = torch.randn(1, 512, 4096, device="cuda"), torch.tensor([932.0], device="cuda")
    with torch.inference_mode():
        expected = ours(latent, timestep, text, condition=condition)
    ours.to(torch.bfloat16)
    with torch.device("meta"):
        packed = fit_linear8(DiT(ours.config), blocks=False)
    assign(packed, in_rows(ours.state_dict().items()))
    with torch.inference_mode():
        errors = [relative_error(network(latent, timestep, text, condition=condition), expected) for network in (ours, packed)]
    print("A14B, 2 blocks: bf16 and int8 weights against float32: {:.1e} {:.1e}".format(*errors))
    assert errors[0] < 2e-2 and errors[1] < 4e-2


def test_vae():
    """480p, 9 frames: bf16 decoding and encoding, and float32 against diffusers'."""
    config = WanVAEConfig(16, 96, (1, 2, 4, 4), (0.1,) * 16, (1.5,) * 16)
    ours = built(lambda: WanVAE(config))
    torch.manual_seed(2)
    latent, frames = torch.randn(1, 16, 3, 60, 104, device="cuda"), torch.rand(1, 3, 9, 480, 832, device="cuda")
    with torch.inference_mode():
        decoded, encoded = ours.decode(latent), ours.encode(frames)
        if PEER:
            theirs = vae_peer(ours)
            picture = (theirs.decode(latent * 1.5 + 0.1).sample * 0.5 + 0.5).clamp(0, 1)
            assert relative_error(decoded - 0.5, picture - 0.5) < 1e-4
            assert relative_error(encoded, (theirs.encode(frames * 2 - 1).latent_dist.mean - 0.1) / 1.5) < 1e-4
            del theirs
        torch.testing.assert_close(ours.decode(latent, chunk=2), decoded, rtol=0, atol=1e-4)
        ours.to(torch.bfloat16)
        errors = relative_error(ours.decode(latent) - 0.5, decoded - 0.5), relative_error(ours.encode(frames), encoded)
    print("VAE bf16 against float32, decode and encode: {:.1e} {:.1e}".format(*errors))
    assert max(errors) < 3e-2


def test_tiny_vae():
    ours = built(lambda: TinyVAE(TinyVAEConfig(16, (256, 128, 64, 64))))
    torch.manual_seed(3)
    latent = torch.randn(1, 16, 3, 60, 104, device="cuda")
    with torch.inference_mode():
        expected = ours.decode(latent)
        frames = ours.to(torch.bfloat16).decode(latent)
    assert frames.shape == (1, 3, 9, 480, 832) and relative_error(frames, expected) < 3e-2
