"""The glue against the model's own operations in float64, and its 8-bit rows against torch's rounding."""
from machine import distance, fresh_memory_is_nan, right_machine  # noqa: F401, I001  (before anything that imports Triton)

import pytest
import torch
import torch.nn.functional as F

import kernels
from kernels.glue import reference

DTYPES = [torch.float32, torch.float16]
FORMATS = [None, "int8", "fp8"]
LIMITS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}


def draw(*shape, dtype=torch.float32, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(device, dtype)


def stream(batch, length, channels, dtype=torch.float32, device="cpu"):
    """x, y, gate, scale, shift; a stream whose channels are far from zero, as a deep model's are."""
    x = draw(batch, length, channels) + 5
    rest = draw(batch, length, channels), draw(batch, channels), 1 + draw(batch, channels), draw(batch, channels + 1)[:, 1:]
    return [t.to(device, dtype) for t in (x, *rest)]


def same(rows, truth, format, limit):
    """Rows in a float dtype, or 8-bit rows against the rounding of the same numbers."""
    if format is None:
        assert distance(rows, truth) <= limit
        return
    truth8, truth_scale = kernels.quantize_rows(truth.float(), format=format, backend="torch")
    torch.testing.assert_close(rows[1], truth_scale, rtol=1e-4, atol=0)
    assert (rows[0].float() != truth8.float()).float().mean() < 2e-3       # halves may fall either way
    assert distance(rows[0].float() * rows[1][..., None], truth8.float() * truth_scale[..., None]) < 5e-3


# --- the meaning: what the model computes --------------------------------------------------------------------------

def test_add_norm_is_the_blocks_own_arithmetic():
    x, y, gate, scale, shift = (t.double() for t in stream(2, 5, 48))
    new, h = kernels.add_norm(x, y, gate, scale, shift, dtype=torch.float64)
    expected = x + gate[:, None] * y
    torch.testing.assert_close(new, expected)
    torch.testing.assert_close(h, F.layer_norm(expected, (48,), eps=1e-6) * scale[:, None] + shift[:, None])


def test_norm_rope_is_the_models_own():
    from turbo_engine.models.dit import RMSNorm, rope_angles, rotate

    norm = RMSNorm(96, eps=1e-6).double()
    torch.nn.init.normal_(norm.weight)
    x, rope = draw(2, 12, 96).double(), rope_angles((3, 2, 2), 32, 10_000.0, torch.device("cpu"))
    expected = rotate(norm(x).unflatten(-1, (3, -1)).transpose(1, 2), rope)
    torch.testing.assert_close(kernels.norm_rope(x, norm.weight, rope, num_heads=3), expected)


# --- the kernels -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, length, channels", [(1, 1, 16), (2, 7, 48), (1, 3, 1000)])
def test_add_norm(batch, length, channels, dtype, format):
    x, y, gate, scale, shift = stream(batch, length, channels, dtype)
    for layer, open_gate in ((y, gate), (y, None), (None, None)):
        new, h = kernels.add_norm(x, layer, open_gate, scale, shift, dtype=dtype, format=format, backend="triton")
        truth_new, truth = reference.add_norm_reference(x.double(), None if layer is None else layer.double(), open_gate, scale, shift, 1e-6)
        assert distance(new, truth_new) <= LIMITS[dtype] and (layer is not None or new is x)
        same(h, truth, format, LIMITS[dtype])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_rows(dtype, format):
    x = 3 * draw(2, 9, 200, dtype=dtype)
    for view in (x, x[..., 50:], x[:, ::2], x.transpose(0, 1)):
        same(kernels.gelu_rows(view, format=format, backend="triton"), F.gelu(view.double(), approximate="tanh"), format, LIMITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_rope(dtype):
    """Queries and keys cut from one fused product, heads that do not fill a power of two, with and without rotation."""
    qkv, weight = draw(2, 12, 3 * 96, dtype=dtype), draw(96, dtype=dtype)
    angle = draw(12, 16)
    for rope in ((angle.cos(), angle.sin()), None):
        for x in qkv.chunk(3, -1):
            o = kernels.norm_rope(x, weight, rope, num_heads=3, backend="triton")
            truth = reference.norm_rope_reference(x.double(), weight, rope, 3, 1e-6)
            assert o.dtype == dtype and o.transpose(1, 2).is_contiguous() and distance(o, truth) <= LIMITS[dtype]


@pytest.mark.parametrize("run, message", [
    (lambda x: kernels.add_norm(x, x[:, 1:], None, x[:, 0], x[:, 0]), r"y: expected shape \[2, 4, 8\], got \[2, 3, 8\]"),
    (lambda x: kernels.add_norm(x, x, x[0], x[:, 0], x[:, 0]), r"gate: expected shape \[2, 8\], got \[4, 8\]"),
    (lambda x: kernels.add_norm(x, x, None, x[:, 0], x[:, 0], format="int4"), "format: expected 'fp8' or 'int8', got 'int4'"),
    (lambda x: kernels.norm_rope(x, x[0, 0], None, num_heads=3), "num_heads: expected 8 channels to split .* got 3"),
    (lambda x: kernels.norm_rope(x, x[0, 0], (x[0], x[0]), num_heads=2), r"cos: expected shape \[4, 2\], got \[4, 8\]"),
])
def test_what_does_not_fit_is_refused_in_the_callers_words(run, message):
    with pytest.raises(ValueError, match=message):
        run(torch.zeros(2, 4, 8))


# --- on the GPU --------------------------------------------------------------------------------------------------------

@pytest.mark.gpu
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [320, 1536, 5120])
def test_glue_on_the_gpu(channels, dtype, format):
    if format == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    x, y, gate, scale, shift = stream(2, 77, channels, dtype, "cuda")
    new, h = kernels.add_norm(x, y, gate, scale, shift, dtype=dtype, format=format)
    truth_new, truth = reference.add_norm_reference(x.double(), y.double(), gate, scale, shift, 1e-6)
    assert distance(new, truth_new) <= LIMITS[dtype]
    same(h, truth, format, LIMITS[dtype])
    same(kernels.gelu_rows(y, format=format), F.gelu(y.double(), approximate="tanh"), format, LIMITS[dtype])
    angle = draw(77, 32, device="cuda")
    rope = angle.cos(), angle.sin()
    o = kernels.norm_rope(y, scale[0], rope, num_heads=channels // 64)
    assert distance(o, reference.norm_rope_reference(y.double(), scale[0], rope, channels // 64, 1e-6)) <= LIMITS[dtype]
