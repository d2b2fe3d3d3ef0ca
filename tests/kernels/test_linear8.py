"""8-bit linear layers: the rounding bit for bit, the products against their torch meaning, the formats' accuracy, the released blocks."""
from machine import distance, fresh_memory_is_nan, right_machine  # noqa: F401, I001  (before anything that imports Triton)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernels
from kernels import choice
from kernels.w8a8 import launch, library, reference
from kernels.w8a8.api import row_bound

LIMITS = {"fp8": 4e-2, "int8": 1.5e-2}                   # relative L2 on Gaussian inputs against float64
SHAPES = [(1, 16, 16), (63, 40, 96), (150, 144, 272)]    # rows, outs, width: ragged in every direction


def draw(rows, outs, width, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(rows)
    tensors = (torch.randn(*shape, generator=generator) for shape in ((rows, width), (outs, width), (outs,)))
    return [x.to(device, dtype) for x in tensors]


def quantized(rows, outs, width, format, device="cpu"):
    x, weight, bias = draw(rows, outs, width, device=device)
    return *kernels.quantize_rows(x, format=format, backend="torch"), *kernels.quantize_rows(weight, format=format, backend="torch"), bias


# --- rounding ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("format, backend", [*((format, "triton") for format in LIMITS), ("int8", "library")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_are_rounded_as_torch_rounds_them(format, backend, dtype):
    """Rows of every size from 1e-6 to 1e4, one of zeros, and views with spaces between the rows."""
    x = torch.randn(3, 21, 100, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 4, 21)[:, None]
    x[1, 4] = 0
    for view in (x.to(dtype), x.to(dtype)[:, ::2], x.to(dtype)[..., 7:60], x.to(dtype).transpose(0, 1)):
        x8, scale = kernels.quantize_rows(view, format=format, backend=backend)
        truth8, truth_scale = kernels.quantize_rows(view, format=format, backend="torch")
        assert torch.equal(x8.float(), truth8.float()) and x8.shape == view.shape and x8.is_contiguous()
        torch.testing.assert_close(scale, truth_scale, rtol=1e-6 if backend == "triton" else 0, atol=0)


@pytest.mark.parametrize("format, largest", [("fp8", 448), ("int8", 127)])
def test_the_largest_of_a_row_becomes_the_formats_largest(format, largest):
    x8, scale = kernels.quantize_rows(torch.tensor([[0.5, -2.0, 1.0], [0, 0, 0]]), format=format)
    assert x8.float()[0, 1] == -largest and not x8.float()[1].any()
    assert scale[0].item() == pytest.approx(2 / largest) and scale[1] > 0


@pytest.mark.parametrize("format", LIMITS)
def test_accuracy_of_the_formats(format):
    x, weight, bias = draw(256, 256, 1024)
    x8, x_scale, w8, w_scale, _ = quantized(256, 256, 1024, format)
    y = kernels.linear8(x8, x_scale, w8, w_scale, bias, dtype=torch.float32, backend="torch")
    assert distance(y, F.linear(*(t.double() for t in (x, weight, bias)))) <= LIMITS[format]


# --- products ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("format", LIMITS)
@pytest.mark.parametrize("rows, outs, width", SHAPES)
def test_products(rows, outs, width, format):
    *arguments, bias = quantized(rows, outs, width, format)
    for some in (bias, None):
        truth = kernels.linear8(*arguments, some, dtype=torch.float64, backend="torch")
        y = kernels.linear8(*arguments, some, dtype=torch.float16, backend="triton")
        assert y.dtype == torch.float16 and distance(y, truth) <= 2e-3
        for tma in (False, True):
            assert distance(launch.linear8(*arguments, some, torch.float32, tma=tma), truth) <= 1e-6


def test_int8_sums_are_exact():
    """Products of 127 x 127 add up to twice what float32 can count one by one, then cancel: what is left must be whole."""
    x8, w8 = torch.full((2, 4000), 127, dtype=torch.int8), torch.full((16, 4000), 127, dtype=torch.int8)
    w8[:, 2000:] = -127
    x8[1, -1] = 126
    ones = torch.ones(16)
    for backend in ("triton", "library", "torch"):
        y = kernels.linear8(x8, ones[:2], w8, ones, dtype=torch.float32, backend=backend)
        assert (y[0] == 0).all() and (y[1] == 127).all(), backend


def test_the_library_on_the_cpu_takes_int8_and_refuses_fp8():
    *arguments, bias = quantized(63, 40, 96, "int8")
    truth = kernels.linear8(*arguments, bias, dtype=torch.float32, backend="torch")
    torch.testing.assert_close(kernels.linear8(*arguments, bias, dtype=torch.float32), truth)
    *arguments, bias = quantized(63, 40, 96, "fp8")
    with pytest.raises(ValueError, match="'library' does not take torch.float8_e4m3fn .* try backend='auto'"):
        kernels.linear8(*arguments, backend="library")


@pytest.mark.parametrize("rows, outs, width", SHAPES)
def test_gelu_of_a_product(rows, outs, width):
    """Against the torch meaning: the same scales, and e4m3 numbers that differ at a half now and then; against float64: the format's accuracy."""
    *arguments, bias = quantized(rows, outs, width, "fp8")
    for some in (bias, None):
        bound = row_bound(*arguments[2:], some)
        truth8, truth_scale = kernels.linear8_gelu(*arguments, some, bound, backend="torch")
        exact = F.gelu(kernels.linear8(*arguments, some, dtype=torch.float64, backend="torch"), approximate="tanh")
        assert distance(truth8.double() * truth_scale[:, None], exact) < 4e-2 and truth8.float().abs().max() <= 448
        for tma in (False, True) if outs % 16 == 0 else (False,):
            y8, y_scale = launch.linear8_gelu(*arguments, some, bound, tma=tma)
            torch.testing.assert_close(y_scale, truth_scale)
            assert (y8.float() != truth8.float()).float().mean() < 2e-3 and distance(y8, truth8) < 5e-3


def test_no_row_outgrows_its_bound():
    """Weights and inputs of one sign and full size: sums reach the bound and do not pass it."""
    x8, w8 = torch.full((3, 64), 448.0).to(torch.float8_e4m3fn), torch.full((5, 64), 448.0).to(torch.float8_e4m3fn)
    x_scale, w_scale, bias = torch.tensor([1e-3, 1.0, 50.0]), torch.full((5,), 0.01), torch.full((5,), 7.0)
    bound = row_bound(w8, w_scale, bias)
    y8, y_scale = kernels.linear8_gelu(x8, x_scale, w8, w_scale, bias, bound, backend="torch")
    assert (y8.float() == 448).all()
    torch.testing.assert_close(y8.double()[:, 0] * y_scale, 448 ** 2 * 64 * 0.01 * x_scale.double() + 7, rtol=1e-3, atol=0, check_dtype=False)


# --- the layer -------------------------------------------------------------------------------------------------------

def test_layers_of_one_input_are_stacked():
    """q, k and v in one product give what they give alone, from one rounding of the input, and from an input that comes rounded."""
    torch.manual_seed(0)
    linears, x = [nn.Linear(64, 48) for _ in range(3)], torch.randn(2, 5, 64)
    together = kernels.QuantizedLinear.from_linear(*linears, format="int8")
    alone = torch.cat([kernels.QuantizedLinear.from_linear(linear, format="int8")(x) for linear in linears], -1)
    assert together(x).shape == (2, 5, 144) and torch.equal(together(x), alone)
    assert torch.equal(together(kernels.quantize_rows(x, format="int8")), alone)
    assert distance(alone, torch.cat([linear(x) for linear in linears], -1)) <= LIMITS["int8"]
    again = kernels.QuantizedLinear.from_linear(*linears, format="int8")
    again.load_state_dict(together.state_dict())
    with pytest.raises(ValueError, match="linears: expected the same in_features"):
        kernels.QuantizedLinear.from_linear(linears[0], nn.Linear(32, 48))


def test_released_blocks_are_read_and_turned_into_rows():
    """128 x 128 blocks with ragged ends, quantised here element by element; one scale a row then loses little more."""
    weight = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    w8, block_scale, meant = torch.zeros(200, 300, dtype=torch.int8), torch.zeros(2, 3), torch.zeros(200, 300)
    for i in range(2):
        for j in range(3):
            block = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            block_scale[i, j] = weight[block].abs().max() / 128
            w8[block] = (weight[block] / block_scale[i, j]).round().clamp(-128, 127).to(torch.int8)
            meant[block] = w8[block].float() * block_scale[i, j]
    assert torch.equal(reference.dequantize_blocks(w8, block_scale), meant)
    layer, error = kernels.QuantizedLinear.from_blocks(w8, block_scale, None, torch.float32, format="int8")
    assert error == pytest.approx(distance(layer.weight8.float() * layer.w_scale[:, None], meant), rel=1e-3) and error < 0.01
    x = torch.randn(4, 300)
    assert distance(layer(x), F.linear(x, weight)) <= 2e-2
    with pytest.raises(ValueError, match=r"block_scale: expected shape \[2, 3\] for int8 weights \[200, 300\], got \[3, 2\]"):
        reference.dequantize_blocks(w8, block_scale.t())


# --- the edge --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, message", [
    (dict(x8=torch.zeros(3, 15, dtype=torch.int8)), r"x8: expected shape \[3, 16\], got \[3, 15\]"),
    (dict(x8=torch.zeros(3, 16)), "x8: expected torch.int8 on cpu, got torch.float32"),
    (dict(x_scale=torch.ones(4)), r"x_scale: expected shape \[3\], got \[4\]"),
    (dict(bias=torch.ones(4)), r"bias: expected shape \[8\], got \[4\]"),
    (dict(backend="cuda"), "backend: expected one of auto, triton, library, torch, got 'cuda'"),
])
def test_what_does_not_fit_is_refused_in_the_callers_words(change, message):
    arguments = dict(x8=torch.zeros(3, 16, dtype=torch.int8), x_scale=torch.ones(3), w8=torch.zeros(8, 16, dtype=torch.int8),
                     w_scale=torch.ones(8))
    with pytest.raises(ValueError, match=message):
        kernels.linear8(**{**arguments, **change})


def test_unknown_formats_and_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="format: expected 'fp8' or 'int8', got 'fp4'"):
        kernels.quantize_rows(torch.ones(2, 2), format="fp4")
    with pytest.raises(ValueError, match="x: expected floating-point rows, got torch.int32"):
        kernels.quantize_rows(torch.ones(2, 2, dtype=torch.int32), format="int8")
    with pytest.raises(ValueError, match="library"):
        kernels.quantize_rows(torch.ones(2, 2), format="fp8", backend="library")


def test_without_tuning_the_first_way_is_taken(monkeypatch):
    monkeypatch.setenv("RUSHES_TUNE", "0")
    assert choice.fastest("op", (1, 2), {"one": lambda: 1 / 0, "two": lambda: 1 / 0}, torch.device("cuda")) == "one"


# --- on the GPU --------------------------------------------------------------------------------------------------------

GPU_FORMATS = ["int8", "fp8"]


@pytest.fixture
def hopper(request):
    if "fp8" in request.node.name and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")


@pytest.mark.gpu
@pytest.mark.parametrize("format", GPU_FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_on_the_gpu(format, dtype, hopper):
    """Equal but for the odd half-way case: the GPU may keep a product exact where torch rounds it."""
    for shape in ((1, 63), (3, 1000, 1536), (70, 13824)):
        x = torch.randn(shape, device="cuda").to(dtype)
        x8, scale = kernels.quantize_rows(x, format=format)
        truth8, truth_scale = kernels.quantize_rows(x, format=format, backend="torch")
        torch.testing.assert_close(scale, truth_scale, rtol=1e-6, atol=0)
        assert (x8.float() != truth8.float()).float().mean() < 1e-3 and distance(x8, truth8) < 2e-3


@pytest.mark.gpu
@pytest.mark.parametrize("format", GPU_FORMATS)
@pytest.mark.parametrize("rows, outs, width", [(1, 16, 64), (1000, 1000, 1000), (1000, 1536, 8960), (1003, 15360, 5120)])
def test_products_on_the_gpu(rows, outs, width, format, hopper):
    *arguments, bias = quantized(rows, outs, width, format, "cuda")
    truth = kernels.linear8(*arguments, bias, dtype=torch.float64, backend="torch")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        limit = 1.1 * distance(truth.to(dtype), truth) + 2e-4
        assert distance(kernels.linear8(*arguments, bias, dtype=dtype, backend="triton"), truth) <= limit
        assert distance(launch.linear8(*arguments, bias, dtype, tma=False), truth) <= limit
    if library.runs(arguments[0], arguments[2], torch.bfloat16):
        assert distance(kernels.linear8(*arguments, bias, backend="library"), truth) <= 2e-2      # short sums inside the matrix unit
        assert distance(kernels.linear8(*arguments, bias), truth) <= 2e-2


@pytest.mark.gpu
@pytest.mark.parametrize("rows, outs, width", [(1, 16, 64), (1000, 1000, 1000), (1003, 8960, 1536)])
def test_gelu_of_a_product_on_the_gpu(rows, outs, width):
    """Sums of some 13 bits and a quick tanh move a number of some ten to its neighbour, the smallest ones most."""
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    *arguments, bias = quantized(rows, outs, width, "fp8", "cuda")
    bound = row_bound(*arguments[2:], bias)
    truth8, truth_scale = kernels.linear8_gelu(*arguments, bias, bound, backend="torch")
    for tma in (None, False):
        y8, y_scale = launch.linear8_gelu(*arguments, bias, bound, tma=tma)
        torch.testing.assert_close(y_scale, truth_scale)
        assert (y8.float() != truth8.float()).float().mean() < 0.15 and distance(y8, truth8) < 1.5e-2


@pytest.mark.gpu
def test_the_choice_is_measured_once_kept_and_told(monkeypatch, tmp_path):
    monkeypatch.setenv("RUSHES_CACHE", str(tmp_path))
    monkeypatch.delenv("RUSHES_TUNE", raising=False)
    choice._stored.cache_clear()
    *arguments, bias = quantized(2048, 1536, 1536, "int8", "cuda")
    kernels.linear8(*arguments, bias)
    stored = choice.choices_path().read_text()
    kernels.linear8(*arguments, bias)
    told = [facts for key, facts in kernels.choices().items() if key.startswith("linear8 int8 2048 1536 1536")]
    assert told and told[0]["takes"] in told[0]["ms"] and choice.choices_path().read_text() == stored
    choice._stored.cache_clear()


@pytest.mark.gpu
def test_a_new_number_of_rows_compiles_nothing():
    from kernels.w8a8.kernel import linear_kernel

    binaries = []
    for rows in (1000, 1001, 4096):
        *arguments, bias = quantized(rows, 256, 256, "int8", "cuda")
        launch.linear8(*arguments, bias, torch.bfloat16)
        binaries.append(sum(len(cache[0]) for cache in linear_kernel.device_caches.values()))
    assert len(set(binaries)) == 1
