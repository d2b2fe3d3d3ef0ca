"""Norm and SiLU of pixels against the autoencoder's own modules in float64."""
from machine import distance, fresh_memory_is_nan, right_machine  # noqa: F401, I001  (before anything that imports Triton)

import pytest
import torch
import torch.nn.functional as F

import kernels

LIMITS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}


def draw(shape, dtype=torch.float32, device="cpu"):
    """x, plus channels last; gamma, bias."""
    generator = torch.Generator().manual_seed(sum(shape))
    x, plus = (torch.randn(shape, generator=generator).to(device, dtype).contiguous(memory_format=torch.channels_last_3d) for _ in range(2))
    gamma, bias = (torch.randn(shape[1], generator=generator).to(device, dtype) for _ in range(2))
    return x, plus, gamma, bias


def truth_of(x, plus, gamma, bias):
    from turbo_engine.models.wan_vae import ChannelNorm

    sums = x.double()
    if bias is not None:
        sums = sums + bias.double().view(-1, 1, 1, 1)
    if plus is not None:
        sums = sums + plus.double()
    norm = ChannelNorm(len(gamma), 3).double()
    norm.gamma.data = gamma.double().view(-1, 1, 1, 1)
    return F.silu(norm(sums)).detach(), sums


def check(shape, dtype, device, backend):
    x, plus, gamma, bias = draw(shape, dtype, device)
    for some_plus, some_bias, lead in ((plus, bias, 2), (None, bias, 0), (plus, None, 1), (None, None, 2)):
        out, sums = kernels.norm_silu(x, gamma, bias=some_bias, plus=some_plus, lead=lead, keep=True, backend=backend)
        truth, truth_sums = truth_of(x, some_plus, gamma, some_bias)
        assert out.shape == (*shape[:2], lead + shape[2], *shape[3:]) and out.is_contiguous(memory_format=torch.channels_last_3d)
        assert distance(out[:, :, lead:], truth) <= LIMITS[dtype] and distance(sums, truth_sums) <= LIMITS[dtype]
        assert out.dtype == sums.dtype == dtype
        again, none = kernels.norm_silu(x, gamma, bias=some_bias, plus=some_plus, lead=lead, backend=backend)
        assert none is None and torch.equal(again[:, :, lead:], out[:, :, lead:])
        if backend == "triton":
            assert out[:, :, :lead].isnan().all()                    # left as it was


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1, 1), (2, 96, 3, 5, 7), (1, 384, 2, 4, 3)])
def test_norm_silu(shape, dtype, backend):
    check(shape, dtype, "cpu", backend)


@pytest.mark.parametrize("batch, channels, outs, frames, height, width", [(1, 64, 24, 1, 5, 7), (2, 96, 96, 2, 9, 17), (1, 128, 136, 1, 16, 16)])
def test_conv3(batch, channels, outs, frames, height, width):
    """Ragged frames, a step and a half of channels, outputs that leave a tile part empty."""
    x = draw((batch, channels, frames + 2, height, width))[0]
    weight = draw((outs, channels, 3, 3, 3))[0] * (27 * channels) ** -0.5
    truth = F.conv3d(x.double(), weight.double(), padding=(0, 1, 1))
    for some in (x, x.contiguous()):
        y = kernels.conv3(some, weight.contiguous() if some is not x else weight, backend="triton")
        assert y.shape == truth.shape and y.is_contiguous(memory_format=torch.channels_last_3d) and distance(y, truth) < 1e-5
    assert distance(kernels.conv3(x, weight), truth) < 1e-5


@pytest.mark.parametrize("shape", [(1, 16, 1, 1, 1), (2, 24, 3, 5, 7), (1, 192, 1, 3, 4)])
def test_double_pixels(shape):
    x = draw(shape)[0]
    truth = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest-exact")
    for some in (x, x.contiguous()):
        for backend in ("torch", "triton"):
            y = kernels.double_pixels(some, backend=backend)
            assert torch.equal(y, truth) and y.is_contiguous(memory_format=torch.channels_last_3d)


def test_another_layout_is_taken_too():
    x, plus, gamma, bias = draw((2, 24, 2, 3, 4))
    out, _ = kernels.norm_silu(x.contiguous(), gamma, bias=bias, plus=plus.contiguous(), backend="triton")
    assert torch.equal(out, kernels.norm_silu(x, gamma, bias=bias, plus=plus, backend="triton")[0])


@pytest.mark.parametrize("change, message", [
    (dict(x=torch.zeros(2, 4, 3, 3)), r"x: expected shape \[\*, \*, \*, \*, \*\], got \[2, 4, 3, 3\]"),
    (dict(gamma=torch.zeros(5)), r"gamma: expected shape \[4\], got \[5\]"),
    (dict(plus=torch.zeros(1, 4, 2, 3, 4)), r"plus: expected shape \[1, 4, 2, 3, 3\], got \[1, 4, 2, 3, 4\]"),
    (dict(lead=-1), "lead: expected 0 frames or more, got -1"),
])
def test_what_does_not_fit_is_refused_in_the_callers_words(change, message):
    with pytest.raises(ValueError, match=message):
        kernels.norm_silu(**{**dict(x=torch.zeros(1, 4, 2, 3, 3), gamma=torch.zeros(4)), **change})


@pytest.mark.parametrize("change, message", [
    (dict(weight=torch.zeros(8, 32, 3, 3, 3)), r"weight: expected shape \[\*, 64, 3, 3, 3\], got \[8, 32, 3, 3, 3\]"),
    (dict(x=torch.zeros(1, 64, 2, 3, 3)), "x: expected 3 frames or more, two of them the past, got 2"),
    (dict(x=torch.zeros(1, 48, 3, 3, 3), weight=torch.zeros(8, 48, 3, 3, 3)), "weight: expected 64 n, 80 or 96 channels .* try backend='torch'"),
])
def test_what_cannot_be_convolved_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        kernels.conv3(**{**dict(x=torch.zeros(1, 64, 3, 3, 3), weight=torch.zeros(8, 64, 3, 3, 3), backend="triton"), **change})


@pytest.mark.gpu
@pytest.mark.parametrize("channels, outs, height, width", [(96, 96, 61, 100), (192, 96, 16, 33), (384, 384, 9, 30), (64, 8, 1, 1)])
def test_conv3_on_the_gpu(channels, outs, height, width):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tiles come by the copy engine of Hopper and later")
    x = draw((1, channels, 5, height, width), torch.bfloat16, "cuda")[0]
    weight = draw((outs, channels, 3, 3, 3), torch.float32, "cuda")[0].mul((27 * channels) ** -0.5).bfloat16()
    truth = F.conv3d(x.double(), weight.double(), padding=(0, 1, 1))
    for backend in ("triton", "auto"):
        assert distance(kernels.conv3(x, weight, backend=backend), truth) < 3e-3


# --- the decoder that runs on it ---------------------------------------------------------------------------------------

def build_vae(device="cpu", dtype=torch.float32, width=8, latent_channels=4):
    from turbo_engine.models.config import WanVAEConfig
    from turbo_engine.models.wan_vae import WanVAE

    torch.manual_seed(0)
    vae = WanVAE(WanVAEConfig(latent_channels, width, (1, 2, 2, 2), (0.3,) * latent_channels, (1.2,) * latent_channels)).requires_grad_(False)
    for name, parameter in vae.named_parameters():
        matrix = parameter.ndim > 1 and not name.endswith("gamma")
        torch.nn.init.normal_(parameter, float(name.endswith("gamma")), parameter[0].numel() ** -0.5 if matrix else 0.3)
    return vae.to(device, dtype)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("frames, chunk", [(1, 1), (2, 1), (4, 1), (4, 3), (3, 99)])
def test_the_fast_decoder_is_the_decoder(frames, chunk, backend):
    from turbo_engine.models.fast_decoder import speed_up_decoder

    vae = build_vae()
    latent = torch.randn(2, 4, frames, 2, 3)
    truth, state = vae.decode(latent, chunk=chunk), {key: t.clone() for key, t in vae.decoder.state_dict().items()}
    speed_up_decoder(vae, backend)
    torch.testing.assert_close(vae.decode(latent, chunk=chunk), truth, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(t, state[key]) for key, t in vae.decoder.decoder.state_dict().items())


def build_tiny(device="cpu", dtype=torch.float32):
    from turbo_engine.models.config import TinyVAEConfig
    from turbo_engine.models.tiny_vae import TinyVAE

    torch.manual_seed(0)
    return TinyVAE(TinyVAEConfig(latent_channels=4, widths=(32, 24, 16, 16))).requires_grad_(False).to(device, dtype)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("frames, chunk", [(1, 1), (4, 1), (4, 3), (3, None)])
def test_the_fast_tiny_decoder_is_the_tiny_decoder(frames, chunk, backend):
    from turbo_engine.models.fast_decoder import speed_up_tiny

    tiny = build_tiny()
    latent = 3 * torch.randn(2, 4, frames, 2, 3)
    truth = tiny.decode(latent)
    assert truth.std() > 0.01
    speed_up_tiny(tiny, backend)
    torch.testing.assert_close(tiny.decode(latent, chunk=chunk), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_the_fast_tiny_decoder_on_the_gpu():
    from turbo_engine.models.fast_decoder import speed_up_tiny

    latent = 3 * torch.randn(1, 4, 4, 12, 20, device="cuda")
    truth, tiny = build_tiny("cuda").decode(latent), build_tiny("cuda", torch.bfloat16)
    plain = distance(tiny.decode(latent), truth)
    speed_up_tiny(tiny)
    for chunk in (1, 2, None):
        assert distance(tiny.decode(latent, chunk=chunk), truth) < 1.5 * plain


@pytest.mark.gpu
def test_the_fast_decoder_on_the_gpu():
    """Against float32, bf16 of it is as near as bf16 of the plain one."""
    from turbo_engine.models.fast_decoder import speed_up_decoder

    latent = torch.randn(1, 4, 4, 12, 20, device="cuda")
    truth, vae = build_vae("cuda", width=32).decode(latent), build_vae("cuda", torch.bfloat16, width=32)
    plain = distance(vae.decode(latent), truth)
    for chunk in (1, 2):
        vae = build_vae("cuda", torch.bfloat16, width=32)
        speed_up_decoder(vae)
        assert distance(vae.decode(latent, chunk=chunk), truth) < 1.2 * plain


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm_silu_on_the_gpu(dtype):
    for shape in ((1, 96, 4, 60, 104), (2, 192, 3, 33, 17), (1, 384, 1, 9, 9)):
        check(shape, dtype, "cuda", "triton")
        x = draw(shape, dtype, "cuda")[0]
        assert torch.equal(kernels.double_pixels(x), kernels.double_pixels(x, backend="torch"))
