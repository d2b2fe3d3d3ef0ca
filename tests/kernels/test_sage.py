"""8-bit attention: the quantiser bit for bit, the kernel against its torch meaning, the formats' accuracy, the edges."""
from machine import distance, fresh_memory_is_nan, right_machine  # noqa: F401, I001  (before anything that imports Triton)

import pytest
import torch
import torch.nn.functional as F

import kernels
from kernels.sage import launch, reference

LIMITS = {"fp8": 4.5e-2, "16": 2e-2}                     # relative L2 on Gaussian inputs against float64, by the format of the values
SHAPES = [(1, 1, 64), (130, 257, 64), (200, 128, 128)]   # queries, keys, head_dim: ragged and whole ends


def draw(length, key_length, head_dim, dtype=torch.float32, device="cpu", heads=2):
    """q, k, v as a model makes them: [B, H, L, D] views of [B, L, H, D], keys with a common offset."""
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(1, n, heads, head_dim, generator=generator) for n in (length, key_length, key_length))
    k = k + 2 * torch.randn(head_dim, generator=generator)
    return [x.transpose(1, 2).to(device, dtype) for x in (q, k, v)]


def exact(q, k, v):
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double())


# --- the meaning ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pv", LIMITS)
def test_accuracy_of_the_formats(pv):
    q, k, v = draw(256, 1024, 128)
    assert distance(kernels.sage_attention(q, k, v, pv=pv, backend="torch"), exact(q, k, v)) <= LIMITS[pv]


def test_smoothing_takes_what_all_keys_share():
    """A common key ten times the rest would leave int8 some three bits for the rest; softmax does not see it."""
    q, k, v = draw(128, 512, 64)
    far = k + 30
    truth = exact(q, k, v)
    assert distance(exact(q, far, v), truth) < 1e-5
    assert distance(kernels.sage_attention(q, far, v, pv="16", backend="torch"), truth) < 2e-2


def test_values_keep_their_channels_apart():
    """One channel a thousand times another costs the small one nothing."""
    q, k, v = draw(64, 256, 64)
    v = v * torch.logspace(-3, 3, 64)
    o, truth = kernels.sage_attention(q, k, v, pv="fp8", backend="torch"), exact(q, k, v)
    assert max(distance(o[..., c], truth[..., c]) for c in range(64)) < 0.08


# --- the kernel ------------------------------------------------------------------------------------------------------

def test_quantised_tensors():
    """Bit for bit the reference's, zero where padded; v transposed, each 16 tokens in the matrix unit's order."""
    q, k, v = draw(130, 257, 64)
    q8, q_scale = launch.quantize_queries(q)
    truth8, truth_scale = reference.quantize_queries(q)
    assert torch.equal(q8[:, :, :130].float(), truth8.float()) and torch.equal(q_scale[:, :, :130], truth_scale)
    assert q8.shape[2] == 256 and not q8[:, :, 130:].float().any()
    for permute in (False, True):
        k8, k_scale, v8, v_scale = launch.quantize_keys_values(k, v, "fp8", permute)
        truth8, truth_scale = reference.quantize_keys(k)
        assert (k8[:, :, :257].float() != truth8.float()).float().mean() < 1e-3      # the mean is summed in another order
        torch.testing.assert_close(k_scale, truth_scale)
        assert k8.shape[2] == 384 and not k8[:, :, 257:].float().any() and not v8[..., 272:].float().any()
        truth8, truth_scale = reference.quantize_values(v)
        order = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15] if permute else range(16)
        tokens = torch.tensor([16 * group + i for group in range(16) for i in order])
        assert torch.equal(v8[..., :256].float(), truth8[:, :, tokens].transpose(-1, -2).float()) and torch.equal(v_scale, truth_scale)


@pytest.mark.parametrize("pv", LIMITS)
@pytest.mark.parametrize("length, key_length, head_dim", SHAPES)
def test_attention(length, key_length, head_dim, pv):
    q, k, v = draw(length, key_length, head_dim)
    truth = kernels.sage_attention(q, k, v, pv=pv, backend="torch")
    o = kernels.sage_attention(q, k, v, pv=pv, backend="triton")
    assert distance(o, truth) <= 1e-3 and o.transpose(1, 2).is_contiguous()
    half = [x.half() for x in (q, k, v)]
    o = kernels.sage_attention(*half, pv=pv, backend="triton")
    assert o.dtype == torch.float16 and distance(o, kernels.sage_attention(*half, pv=pv, backend="torch")) <= 2e-3


def test_ways_to_fetch_and_to_order_change_nothing():
    """Blocks of 128 keys by descriptor, the next ones multiplied ahead, or of 64 by pointer: rounding does not see the difference."""
    q, k, v = draw(70, 200, 64, torch.float16)
    for pv in LIMITS:
        plain = launch.sage_attention(q, k, v, pv, tma=False, permute=False)
        for tma, permute in ((True, False), (False, True), (True, True)):
            assert distance(launch.sage_attention(q, k, v, pv, tma=tma, permute=permute), plain) < 1e-3


def test_any_strides():
    """Heads cut from one fused projection, channels in steps of two, and a plain contiguous copy: one answer."""
    q, k, v = draw(40, 40, 32)
    plain = kernels.sage_attention(*(x.contiguous() for x in (q, k, v)), backend="triton")
    for views in ((q, k, v), torch.cat((q, k, v), -1).chunk(3, -1), torch.stack((q, k, v)).repeat_interleave(2, -1)[..., ::2]):
        assert torch.equal(kernels.sage_attention(*views, backend="triton"), plain)


def test_large_logits_neither_overflow_nor_vanish():
    """Logits of hundreds, all below zero in some rows: padding, whose logits would be 0, must not win."""
    q, k, v = draw(70, 150, 64)
    q, k = 10 * q, 10 * (k - k.mean(2, keepdim=True))
    for pv in LIMITS:
        o = kernels.sage_attention(q, k, v, pv=pv, backend="triton")
        assert distance(o, kernels.sage_attention(q, k, v, pv=pv, backend="torch")) < 2e-3


@pytest.mark.parametrize("change, message", [
    (dict(v=torch.zeros(1, 2, 31, 64)), r"v: expected shape \[1, 2, 32, 64\], got \[1, 2, 31, 64\]"),
    (dict(k=torch.zeros(1, 2, 32, 64, dtype=torch.float16)), "k: expected torch.float32 on cpu, got torch.float16"),
    (dict(pv="int8"), "pv: expected 'fp8' or '16', got 'int8'"),
    (dict(backend="cuda"), "backend: expected 'auto', 'triton' or 'torch', got 'cuda'"),
])
def test_what_does_not_fit_is_refused_in_the_callers_words(change, message):
    with pytest.raises(ValueError, match=message):
        kernels.sage_attention(**{**dict(zip("qkv", draw(32, 32, 64))), **change})


def test_a_head_the_kernel_does_not_take_is_refused():
    with pytest.raises(ValueError, match="head_dim: expected 32, 64 or 128 for backend 'triton', got 48; try backend='torch'"):
        kernels.sage_attention(*draw(32, 32, 48), backend="triton")


# --- on the GPU --------------------------------------------------------------------------------------------------------

@pytest.mark.gpu
@pytest.mark.parametrize("pv", LIMITS)
@pytest.mark.parametrize("length, key_length, head_dim, dtype", [
    *((*shape, torch.bfloat16) for shape in (*SHAPES, (1000, 512, 128), (576, 576, 64))), (1000, 512, 128, torch.float16),
])
def test_attention_on_the_gpu(length, key_length, head_dim, dtype, pv):
    if pv == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    q, k, v = draw(length, key_length, head_dim, dtype, "cuda")
    truth = kernels.sage_attention(q, k, v, pv=pv, backend="torch")
    for permute in (True, False) if pv == "fp8" else (None,):
        assert distance(launch.sage_attention(q, k, v, pv, permute=permute), truth) <= 2e-3
    assert distance(launch.sage_attention(q, k, v, pv, tma=False), truth) <= 2e-3
    if key_length > 1:
        assert distance(kernels.sage_attention(q, k, v, pv=pv), exact(q, k, v)) <= LIMITS[pv]


@pytest.mark.gpu
def test_a_new_length_compiles_nothing():
    from kernels.sage import kernel

    binaries = []
    for length in (1000, 1024, 1601):
        kernels.sage_attention(*draw(length, length, 64, torch.bfloat16, "cuda"))
        binaries.append(sum(len(cache[0]) for cache in kernel.attention_kernel.device_caches.values()))
    assert len(set(binaries)) == 1
