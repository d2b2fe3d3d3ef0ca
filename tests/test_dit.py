"""The diffusion transformer against slow, plain versions of its parts."""
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from turbo_engine.models.config import DiTConfig
from turbo_engine.models.dit import (
    DiT,
    GELU,
    RMSNorm,
    fused_attention,
    patchify,
    rope_angles,
    rotate,
    unpatchify,
)

CONFIG = DiTConfig(dim=48, num_heads=2, num_layers=2, ffn_dim=96, in_channels=4, out_channels=4, prediction="velocity", patch_size=(1, 2, 2),
                   text_dim=16, text_len=6, freq_dim=32, time_max_freq=1.0, rope_theta=100.0, eps=1e-6)


@pytest.fixture
def model() -> DiT:
    torch.manual_seed(0)
    model = DiT(CONFIG).init_weights()
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def batch(dtype=torch.float32, size=(3, 4, 6)):
    torch.manual_seed(1)
    return torch.randn(2, 4, *size, dtype=dtype), torch.tensor([900.0, 250.0], dtype=dtype), torch.randn(2, 6, 16, dtype=dtype)


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 1, 3), (1, 1, 1)])
def test_patches_by_hand(patch):
    """Inner order (c, kt, kh, kw) on the way in and (kt, kh, kw, c) on the way out; token order t, h, w."""
    kt, kh, kw = patch
    latent = torch.randn(2, 5, 2 * kt, 3 * kh, 2 * kw)
    tokens, grid = patchify(latent, patch)
    assert grid == (2, 3, 2) and tokens.shape == (2, 12, 5 * kt * kh * kw)
    for i, (t, h, w) in enumerate((t, h, w) for t in range(2) for h in range(3) for w in range(2)):
        block = latent[:, :, t * kt:(t + 1) * kt, h * kh:(h + 1) * kh, w * kw:(w + 1) * kw]
        assert torch.equal(tokens[:, i], block.flatten(1))
    outward = tokens.unflatten(-1, (5, -1)).transpose(-1, -2).flatten(-2)
    assert torch.equal(unpatchify(outward, grid, patch), latent)


def test_patches_refuse_ragged_latents():
    with pytest.raises(ValueError, match=r"latent: expected T, H, W divisible by \(1, 2, 2\), got \[1, 4, 3, 5, 6\]"):
        patchify(torch.zeros(1, 4, 3, 5, 6), (1, 2, 2))


@pytest.mark.parametrize("head_dim, shares", [(128, (44, 42, 42)), (64, (24, 20, 20)), (24, (8, 8, 8))])
def test_rope_shares_and_formula(head_dim, shares):
    theta, grid = 10_000.0, (2, 3, 4)
    cos, sin = rope_angles(grid, head_dim, theta, torch.device("cpu"))
    assert cos.shape == (24, head_dim // 2)
    token = (1 * 3 + 2) * 4 + 3                                # t = 1, h = 2, w = 3
    expected = [p * theta ** (-2 * i / share) for p, share in zip((1, 2, 3), shares) for i in range(share // 2)]
    torch.testing.assert_close(cos[token], torch.tensor(expected).cos())
    torch.testing.assert_close(sin[token], torch.tensor(expected).sin())


def test_rope_turns_and_only_differences_matter():
    """Rotation keeps lengths, leaves position 0 alone, and q.k depends on the offset between positions only."""
    rope = rope_angles((4, 5, 6), 24, 100.0, torch.device("cpu"))
    torch.manual_seed(2)
    q, k = torch.randn(24).expand(1, 1, 120, 24), torch.randn(24).expand(1, 1, 120, 24)
    turned_q, turned_k = rotate(q, rope), rotate(k, rope)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(turned_q[0, 0, 0], q[0, 0, 0])
    logits = (turned_q @ turned_k.transpose(-1, -2))[0, 0].view(4, 5, 6, 4, 5, 6)
    torch.testing.assert_close(logits[0, 0, 0, 2, 3, 1], logits[1, 1, 4, 3, 4, 5])
    assert (logits[0, 0, 0, 2, 3, 1] - logits[0, 0, 0, 3, 2, 1]).abs() > 1e-3


@pytest.mark.parametrize("tokens, keys", [(1, 1), (63, 7), (130, 130)])
def test_fused_attention_is_attention(tokens, keys):
    torch.manual_seed(3)
    q, k, v = torch.randn(2, 3, tokens, 16), torch.randn(2, 3, keys, 16), torch.randn(2, 3, keys, 16)
    expected = torch.empty_like(q)
    for b in range(2):
        for h in range(3):
            weights = torch.exp(q[b, h].double() @ k[b, h].double().T / math.sqrt(16))
            expected[b, h] = (weights / weights.sum(1, keepdim=True) @ v[b, h].double()).float()
    torch.testing.assert_close(fused_attention(q, k, v), expected, rtol=1e-5, atol=1e-5)


def test_keys_less_their_mean_train_alike_and_leave_no_row_where_all_logits_are_far_below_zero(monkeypatch):
    """exp(0 - logsumexp) of such a row overflows in the backward of one of torch's kernels, which then gives NaN."""
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, 3, 64, 16, dtype=torch.float64) for _ in range(3))
    q, k = q + 10, k - 10                                                                        # logits about -400
    asked = []

    def watched(q, k, v):
        asked.append((q @ k.mT / 4).logsumexp(-1).min().item())
        return attend(q, k, v)

    attend, inputs = F.scaled_dot_product_attention, [x.clone().requires_grad_() for x in (q, k, v)]
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    target = torch.randn_like(v)
    got = torch.autograd.grad((fused_attention(*inputs) - target).square().mean(), inputs)
    expected = torch.autograd.grad((attend(*inputs) - target).square().mean(), inputs)
    for one, other in zip(got, expected):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)
    assert asked[0] > 0 > -88 > (q @ k.mT / 4).logsumexp(-1).max().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradients_are_finite_at_pockets_length_where_all_logits_are_far_below_zero():
    """576 tokens, heads of 64, bf16, logits about -120: against the same in float64 on the CPU."""
    torch.manual_seed(3)
    q, k, v, toward = (torch.randn(2, 5, 576, 64) for _ in range(4))
    q, k = 0.1 * q, 0.1 * k
    q[..., 0], k[..., 0] = 1.0, -120 * math.sqrt(64)
    grads = {}
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float64)):
        inputs = [x.bfloat16().to(device, dtype).requires_grad_() for x in (q, k, v)]
        fused_attention(*inputs).backward(toward.bfloat16().to(device, dtype))
        grads[device] = [x.grad.double().cpu() for x in inputs]
    for got, expected in zip(grads["cuda"], grads["cpu"]):
        assert got.isfinite().all()
        assert (got - expected).norm() < 0.05 * expected.norm()


def test_kept_text_is_text(model):
    latent, timestep, text = batch()
    assert torch.equal(model(latent, timestep, model.embed_text(text)), model(latent, timestep, text))


def test_output_follows_every_input(model):
    latent, timestep, text = batch()
    base = model(latent, timestep, text)
    assert base.shape == latent.shape and base.dtype == torch.float32 and base.std() > 0.01
    for changed in (model(latent.roll(1, -1), timestep, text), model(latent, timestep - 100, text), model(latent, timestep, -text)):
        assert not torch.allclose(changed, base, atol=1e-3)


def test_batch_rows_do_not_meet(model):
    latent, timestep, text = batch()
    both = model(latent, timestep, text)
    for i in range(2):
        torch.testing.assert_close(model(latent[i:i + 1], timestep[i:i + 1], text[i:i + 1]), both[i:i + 1], rtol=1e-4, atol=1e-5)


def test_time_embedding_is_cosine_then_sine(model):
    seen = {}
    model.time_embedding.register_forward_pre_hook(lambda _, args: seen.update(wave=args[0]))
    model.embed_time(torch.tensor([750.0]))
    angle = 750.0 * 10_000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    torch.testing.assert_close(seen["wave"][0], torch.cat((angle.cos(), angle.sin())).float(), rtol=0, atol=1e-6)


def test_rms_norm_by_hand():
    norm = RMSNorm(3, 0.0)
    norm.weight.data.copy_(torch.tensor([1.0, 2.0, -1.0]))
    x = torch.tensor([[3.0, 4.0, 0.0]])
    torch.testing.assert_close(norm(x), x / math.sqrt(25 / 3) * torch.tensor([1.0, 2.0, -1.0]))


def test_fresh_model_predicts_zero_velocity():
    torch.manual_seed(0)
    latent, timestep, text = batch()
    assert DiT(CONFIG).init_weights()(latent, timestep, text).abs().max() == 0


def test_a_text_modulates_the_blocks_of_its_own_clip_alone():
    """Fresh, it changes nothing; trained, each clip of a batch is moved by its own text, and that is kept with the text."""
    torch.manual_seed(0)
    latent, timestep, text = batch()
    plain, modulated = DiT(CONFIG), DiT(replace(CONFIG, text_modulation=True)).init_weights()
    torch.nn.init.normal_(modulated.head.head.weight)
    plain.load_state_dict({key: tensor for key, tensor in modulated.state_dict().items() if "text_modulation" not in key})
    assert torch.equal(modulated(latent, timestep, text), plain(latent, timestep, text))
    torch.nn.init.normal_(modulated.text_modulation.project.weight)
    together, context = modulated(latent, timestep, text), modulated.embed_text(text)
    assert len(context) == CONFIG.num_layers + 1 and (together - plain(latent, timestep, text)).abs().mean() > 0.01
    assert torch.equal(modulated(latent, timestep, context), together)
    for i in range(len(latent)):
        alone = modulated(latent[i:i + 1], timestep[i:i + 1], text[i:i + 1])
        torch.testing.assert_close(alone, together[i:i + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim, heads, layers, ffn, channels, tensors, numbers", [
    (1536, 12, 30, 8960, 16, 825, 1_418_996_800), (5120, 40, 40, 13_824, 16, 1095, 14_288_491_584),
    (5120, 40, 40, 13_824, 36, 1095, 14_288_901_184)], ids=["1.3B", "14B", "A14B"])
def test_true_sizes(dim, heads, layers, ffn, channels, tensors, numbers):
    """The published networks by numbers alone: as many tensors and elements as their files hold, less Turbo's proj_l."""
    config = DiTConfig(dim=dim, num_heads=heads, num_layers=layers, ffn_dim=ffn, in_channels=channels, out_channels=16, prediction="velocity",
                       patch_size=(1, 2, 2), text_dim=4096, text_len=512, freq_dim=256, time_max_freq=1.0, rope_theta=10_000.0, eps=1e-6)
    with torch.device("meta"):
        state = DiT(config).state_dict()
    assert len(state) == tensors and sum(tensor.numel() for tensor in state.values()) == numbers
    assert state["patch_embedding.weight"].shape == (dim, 4 * channels) and state["head.head.weight"].shape == (64, dim)


def test_condition_follows_the_latent(model):
    """The same network with two channels more, deaf to them, is the same network; hearing them, it is not."""
    config = replace(CONFIG, in_channels=6)
    assert config.condition_channels == 2
    wide, state = DiT(config).requires_grad_(False), model.state_dict()
    deaf = torch.zeros(48, 2 * 4)
    wide.load_state_dict(state | {"patch_embedding.weight": torch.cat((state["patch_embedding.weight"], deaf), 1)})
    latent, timestep, text = batch()
    condition = torch.randn(2, 2, 3, 4, 6)
    torch.testing.assert_close(wide(latent, timestep, text, condition=condition), model(latent, timestep, text))
    wide.patch_embedding.weight[:, 16:].normal_()
    assert not torch.allclose(wide(latent, timestep, text, condition=condition), model(latent, timestep, text), atol=1e-3)
    with pytest.raises(ValueError, match=r"condition: expected shape \[2, 2, 3, 4, 6\], got none"):
        wide(latent, timestep, text)
    with pytest.raises(ValueError, match=r"condition: expected shape \[2, 2, 3, 4, 6\], got \[1, 2, 3, 4, 6\]"):
        wide(latent, timestep, text, condition=condition[:1])
    with pytest.raises(ValueError, match=r"condition: expected shape \[2, 0, 3, 4, 6\], got \[2, 2, 3, 4, 6\]"):
        model(latent, timestep, text, condition=condition)
    with pytest.raises(ValueError, match="in_channels: expected out_channels = 4 or more, got 3"):
        replace(CONFIG, in_channels=3)


def test_only_self_attention_is_exchanged(model):
    latent, timestep, text = batch()
    seen = []

    def attention(q, k, v):
        seen.append((q.shape, k.shape))
        return fused_attention(q, k, v)

    assert torch.equal(model(latent, timestep, text, attention), model(latent, timestep, text))
    assert seen == [((2, 2, 18, 24), (2, 2, 18, 24))] * CONFIG.num_layers


def test_bf16_keeps_time_norms_and_stream_wide(model):
    """Released files hold norms in float32 beside bf16 layers; timesteps bf16 cannot tell apart stay apart."""
    latent, timestep, text = batch()
    exact = model(latent, timestep, text)
    model.bfloat16()
    for name, parameter in model.named_parameters():
        if ".norm" in name:
            parameter.data = parameter.data.float()
    rough = model(latent, timestep, text)
    assert rough.dtype == torch.float32 and ((rough - exact).norm() / exact.norm()).item() < 0.02
    one, two = model.embed_time(torch.tensor([899.0, 901.0]))
    assert one.dtype == torch.float32 and torch.tensor(899.0).bfloat16() == torch.tensor(901.0).bfloat16()
    assert (one - two).abs().max() > 1e-2


def test_impossible_widths():
    with pytest.raises(ValueError, match="dim: expected an even multiple of num_heads = 5, got 48"):
        DiTConfig(**{**CONFIG.__dict__, "num_heads": 5})


@pytest.mark.parametrize("scale", [0.1, 1, 30])
def test_gelu_is_torchs_own(scale):
    x = scale * torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(GELU()(x), torch.nn.functional.gelu(x, approximate="tanh"), rtol=1e-6, atol=1e-6)
    kept = x.clone()
    GELU()(x)
    assert torch.equal(x, kept)
    GELU()(x.requires_grad_()).sum().backward()
    assert x.grad is not None
