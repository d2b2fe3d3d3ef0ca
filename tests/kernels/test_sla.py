"""Sparse-linear attention against its torch meaning in float64: the laws, the edges, every dtype, the gradients."""
from machine import distance, fresh_memory_is_nan, right_machine  # noqa: F401, I001  (before anything that imports Triton)

import pytest
import torch
import torch.nn.functional as F

import kernels
from kernels.sla import launch, reference

DTYPES = [torch.float32, torch.float16]                 # bfloat16 is wrong in the interpreter: on the GPU only
SHAPES = [                                              # length, head_dim, block_q, block_k: ragged and whole ends, every block pair
    (1, 64, 16, 16), (63, 64, 16, 16), (64, 16, 16, 16), (130, 64, 64, 64), (200, 128, 128, 64), (200, 128, 64, 128),
]


def draw(length, head_dim, dtype=torch.float32, device="cpu", heads=2, seed=0):
    """q, k, v, proj_weight, proj_bias as a model makes them: [B, H, L, D] views of [B, L, H, D], keys with a common offset."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    q, k, v = (normal(1, length, heads, head_dim) for _ in range(3))
    k = k + normal(head_dim)
    rest = normal(head_dim, head_dim) * head_dim ** -0.5, 0.1 * normal(head_dim)
    return [x.to(device, dtype) for x in (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), *rest)]


def wide(tensors):
    return [x.double() for x in tensors]


# --- the reference itself ------------------------------------------------------------------------------------------

def test_reference_with_every_block_kept_is_dense_attention():
    q, k, v, *_ = wide(draw(50, 16))
    lut = reference.block_mask_topk_reference(q, k, 1.0, 16, 16)
    o, _ = reference.block_sparse_attention_reference(q, k, v, lut, 16, 16)
    torch.testing.assert_close(o, F.scaled_dot_product_attention(q, k, v))


def test_linear_branch_is_attention_with_feature_products_as_weights():
    """sum over n of <phi(q), phi(k_n)> v_n, over the sum of the weights plus 1e-5, written without the [D, D] summary."""
    q, k, v, *_ = wide(draw(40, 16))
    weights = q.softmax(-1) @ k.softmax(-1).transpose(-1, -2)
    expected = weights @ v / (weights.sum(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(reference.linear_attention_reference(q, k, v), expected)


@pytest.mark.parametrize("density, blocks, kept", [(0.1, 512, 51), (0.1, 1182, 118), (0.15, 512, 76), (0.15, 36, 5), (0.1, 4, 1), (1.0, 7, 7)])
def test_kept_blocks_are_rounded_down_but_never_none(density, blocks, kept):
    """The counts of the released checkpoints at 480p and 720p, pocket's 5 of 36, and a clip too short for one block."""
    assert reference.num_kept(density, blocks) == kept


def test_selection_follows_the_best_mean_product():
    """A key block that points along the queries is kept, whatever all keys share; the ragged last block by its own mean."""
    q = torch.zeros(1, 1, 16, 16)
    q[..., 0] = 1
    k = torch.full((1, 1, 40, 16), -50.0)
    k[:, :, 32:, 0] += 3                                # 8 tokens of the last block: a mean over 16 would fall short
    k[:, :, 16:32, 0] += 2
    for backend in ("torch", "triton"):
        assert kernels.block_mask_topk(q, k, density=0.4, block_q=16, block_k=16, backend=backend).tolist() == [[[[2]]]]


# --- kernels against the reference ---------------------------------------------------------------------------------

@pytest.mark.parametrize("length, head_dim, block_q, block_k", SHAPES)
def test_selection_agrees(length, head_dim, block_q, block_k):
    q, k, *_ = draw(length, head_dim)
    for density in (0.01, 0.5, 1.0):
        options = dict(density=density, block_q=block_q, block_k=block_k)
        lut = kernels.block_mask_topk(q, k, **options, backend="triton")
        assert lut.dtype == torch.int32
        assert torch.equal(lut, kernels.block_mask_topk(*wide((q, k)), **options, backend="torch"))


def test_selection_of_equal_scores_takes_the_lower_index():
    """Zero queries score every block alike, below and above zero by sign of zero alone."""
    q, k, *_ = draw(100, 16)
    for backend in ("torch", "triton"):
        lut = kernels.block_mask_topk(q * 0, k, density=0.5, block_q=16, block_k=16, backend=backend)
        assert (lut == torch.arange(3)).all(), backend


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length, head_dim, block_q, block_k", SHAPES)
def test_forward(length, head_dim, block_q, block_k, dtype):
    args = draw(length, head_dim, dtype)
    options = dict(density=0.5, block_q=block_q, block_k=block_k)
    truth = kernels.sparse_linear_attention(*wide(args), **options)
    own = distance(kernels.sparse_linear_attention(*args, **options), truth)
    o = kernels.sparse_linear_attention(*args, **options, backend="triton")
    assert o.dtype == dtype and o.shape == args[0].shape
    assert distance(o, truth) <= 2 * own


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_block_kept_is_dense_attention(dtype):
    q, k, v, *_ = draw(100, 64, dtype)
    lut = kernels.block_mask_topk(q, k, density=1.0, block_q=16, block_k=16)
    o, lse = kernels.block_sparse_attention(q, k, v, lut, block_q=16, block_k=16, backend="triton")
    truth = F.scaled_dot_product_attention(*wide((q, k, v)))
    assert distance(o, truth) <= 2 * distance(F.scaled_dot_product_attention(q, k, v), truth)
    truth = (q.double() @ k.double().transpose(-1, -2) / 8).logsumexp(-1)
    torch.testing.assert_close(lse, truth.float(), rtol=1e-5, atol=1e-5)


def test_one_kept_block_is_attention_on_that_block():
    q, k, v, *_ = draw(90, 32)
    lut = torch.tensor([0, 5, 2, 2, 5, 1], dtype=torch.int32).view(1, 1, 6, 1).expand(1, 2, 6, 1)      # 5: the ragged one
    o, _ = kernels.block_sparse_attention(q, k, v, lut, block_q=16, block_k=16, backend="triton")
    for m, n in enumerate(lut[0, 0, :, 0].tolist()):
        rows, cols = slice(16 * m, 16 * m + 16), slice(16 * n, 16 * n + 16)
        alone = F.scaled_dot_product_attention(q[:, :, rows], k[:, :, cols], v[:, :, cols])
        torch.testing.assert_close(o[:, :, rows], alone)


def test_large_logits_neither_overflow_nor_vanish():
    """Logits of hundreds, all below zero in some rows: the padding of a ragged block, whose logits would be 0, must not win."""
    q, k, v, *args = draw(70, 16)
    q, k = 10 * q, 10 * k.abs() * q.mean(2, keepdim=True).sign().neg()
    lut = kernels.block_mask_topk(q, k, density=0.6, block_q=16, block_k=16)
    o, _ = kernels.block_sparse_attention(q, k, v, lut, block_q=16, block_k=16, backend="triton")
    truth, _ = kernels.block_sparse_attention(*wide((q, k, v)), lut, block_q=16, block_k=16)
    assert (lut == 4).any() and distance(o, truth) < 1e-5


def test_one_hot_features_stay_finite_in_half_precision():
    """Queries sharp on a channel that hardly any key uses: weights and values are normalised before they are rounded."""
    q, k, v, weight, bias = draw(48, 16, torch.float16)
    q, k = q * 0, k * 0
    q[..., 3], k[..., 3] = 30, -9
    truth = kernels.sparse_linear_attention(*wide((q, k, v, weight, bias)), density=0.5, block_q=16, block_k=16)
    o = kernels.sparse_linear_attention(q, k, v, weight, bias, density=0.5, block_q=16, block_k=16, backend="triton")
    assert distance(o, truth) < 2e-3


def test_descriptor_loads_give_the_same_numbers():
    """Hopper's copy engine and plain pointers are two ways to fetch one tile."""
    q, k, v, *_ = draw(75, 64, torch.float16)
    lut = kernels.block_mask_topk(q, k, density=0.7, block_q=16, block_k=16)
    for one, other in zip(launch._forward(q, k, v, lut, 16, 16, tma=False), launch._forward(q, k, v, lut, 16, 16, tma=True)):
        assert torch.equal(one, other)


def test_multiplying_ahead_gives_the_same_numbers(monkeypatch):
    """The next block's logits, begun while this one's weights are computed, are the same logits; ragged ends and single blocks too."""
    import triton

    for length, density in ((75, 0.7), (75, 0.1), (64, 1.0)):
        q, k, v, *_ = draw(length, 64)
        lut = kernels.block_mask_topk(q, k, density=density, block_q=16, block_k=16)
        plain = launch._forward(q, k, v, lut, 16, 16)
        with monkeypatch.context() as patch:
            patch.setattr(launch.forward_kernel, "configs", [triton.Config({"AHEAD": True})])
            for tma in (False, True):
                for one, other in zip(launch._forward(q, k, v, lut, 16, 16, tma=tma), plain):
                    assert torch.equal(one, other)


def test_any_strides():
    """Heads cut from one fused projection, channels in steps of two, and a plain contiguous copy: one answer."""
    args = draw(40, 32)
    options = dict(density=0.5, block_q=16, block_k=16, backend="triton")
    plain = kernels.sparse_linear_attention(*(x.contiguous() for x in args), **options)
    fused = torch.cat(args[:3], -1)
    spread = torch.stack(args[:3]).repeat_interleave(2, -1)[..., ::2]
    for views in (args[:3], fused.chunk(3, -1), spread):
        assert torch.equal(kernels.sparse_linear_attention(*views, *args[3:], **options), plain)
    assert plain.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("length, head_dim, block_q, block_k", [(63, 64, 16, 16), (200, 32, 128, 64), (150, 32, 64, 128)])
def test_gradients(length, head_dim, block_q, block_k):
    """All five, with key blocks that no query keeps (their softmax gradient is zero, the linear one is not)."""
    args = draw(length, head_dim)
    seed = torch.randn(args[0].shape, generator=torch.Generator().manual_seed(1))

    def gradients(args, backend):
        args = [x.detach().requires_grad_() for x in args]
        o = kernels.sparse_linear_attention(*args, density=0.4, block_q=block_q, block_k=block_k, backend=backend)
        return torch.autograd.grad(o, args, seed.to(args[0].dtype))

    truths, owns = gradients(wide(args), "torch"), gradients(args, "torch")
    for name, ours, own, truth in zip("qkvwb", gradients(args, "triton"), owns, truths):
        assert distance(ours, truth) <= 2 * distance(own, truth), name


def under_autocast(device: str, dtype: torch.dtype, backend: str) -> None:
    """Of float32 tensors, what it is of the same ones rounded before it, and gradients in float32."""
    options = dict(density=0.3, block_q=16, block_k=16, backend=backend)
    tensors = [x.requires_grad_() for x in draw(130, 64, device=device)]
    with torch.autocast(device, dtype=dtype):
        o = kernels.sparse_linear_attention(*tensors, **options)
    assert o.dtype == dtype
    o.float().square().sum().backward()
    found = [x.grad for x in tensors]
    rounded = [x.detach().to(dtype).requires_grad_() for x in tensors]
    expected = kernels.sparse_linear_attention(*rounded, **options)
    expected.float().square().sum().backward()
    torch.testing.assert_close(o, expected, rtol=0, atol=0)
    for gradient, twin in zip(found, rounded):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, twin.grad.float(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("backend, dtype", [("torch", torch.bfloat16), ("triton", torch.float16)])
def test_under_autocast_it_works_in_its_dtype(backend, dtype):
    under_autocast("cpu", dtype, backend)


def blocks_under_autocast(device: str, backend: str) -> None:
    """Scores an eight-bit mantissa cannot tell apart, in order all the same."""
    q = torch.ones(1, 1, 16, 16, device=device)
    k = torch.arange(12.0, device=device).mul(1e-3).add(1).repeat_interleave(16).view(1, 1, -1, 1).expand(-1, -1, -1, 16)
    k = torch.cat((k, -100 * torch.ones_like(k[:, :, :64])), 2)      # its smoothed keys are large, and differ by little
    with torch.autocast(device, dtype=torch.bfloat16):
        lut = kernels.block_mask_topk(q, k, density=0.2, block_q=16, block_k=16, backend=backend)
    assert lut.flatten().tolist() == [9, 10, 11]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_autocast_leaves_the_choice_of_blocks_alone(backend):
    blocks_under_autocast("cpu", backend)


@pytest.mark.gpu
def test_autocast_leaves_the_choice_of_blocks_alone_on_the_gpu():
    blocks_under_autocast("cuda", "triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_on_the_gpu(dtype):
    under_autocast("cuda", dtype, "triton")


def test_gradients_of_the_sparse_branch_alone():
    """A key block nobody keeps gets exactly zero, and an expanded upstream gradient (stride 0) is fine."""
    q, k, v, *_ = draw(64, 16)
    lut = torch.tensor([[0, 2], [0, 3], [2, 3], [0, 2]], dtype=torch.int32).expand(1, 2, 4, 2)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    o, _ = kernels.block_sparse_attention(q, k, v, lut, block_q=16, block_k=16, backend="triton")
    ours = torch.autograd.grad(o.sum(), (q, k, v))
    o, _ = kernels.block_sparse_attention(q, k, v, lut, block_q=16, block_k=16, backend="torch")
    for one, other in zip(ours, torch.autograd.grad(o.sum(), (q, k, v))):
        torch.testing.assert_close(one, other)
    assert not ours[1][:, :, 16:32].any() and not ours[2][:, :, 16:32].any()


# --- 8 bits ------------------------------------------------------------------------------------------------------------

SAGE = {"fp8": 4.5e-2, "16": 2e-2}                       # relative L2 against 16 bits, by the format of the values


@pytest.mark.parametrize("pv", SAGE)
@pytest.mark.parametrize("length, head_dim, block_q, block_k, tma", [
    (1, 64, 64, 64, False), (300, 64, 64, 128, True), (200, 128, 128, 64, True), (200, 128, 128, 64, False),
])
def test_sparse_branch_in_8_bits(length, head_dim, block_q, block_k, tma, pv):
    """The kernel against the reference's same roundings, by pointer and by descriptor; ragged blocks kept or not."""
    args = draw(length, head_dim, heads=1)
    options = dict(density=0.7, block_q=block_q, block_k=block_k, pv=pv)
    truth = kernels.sparse_linear_attention(*args, **options, backend="torch")
    assert distance(launch.sage_sparse_linear_attention(*args, *options.values(), tma=tma), truth) <= 2e-3
    plain = kernels.sparse_linear_attention(*wide(args), **{**options, "pv": None})
    assert distance(truth, plain) <= SAGE[pv]


def test_8_bits_keep_the_selection_and_the_linear_branch():
    """With values of zero only the bias is left, exactly; selection by means that the rounding pass takes is the op's own."""
    q, k, v, weight, bias = draw(200, 64)
    options = dict(density=0.4, block_q=64, block_k=64, backend="triton")
    o = kernels.sparse_linear_attention(q, k, v * 0, weight, bias, **options, pv="fp8")
    torch.testing.assert_close(o, bias.expand_as(o))
    from kernels.sage.launch import quantize_queries

    torch.testing.assert_close(quantize_queries(q, 64)[2], reference.block_means(q, 64))


def test_8_bits_refuse_small_blocks():
    with pytest.raises(ValueError, match="block_q: expected 64 or 128 with pv='fp8' for backend 'triton', got 16; try pv=None"):
        kernels.sparse_linear_attention(*draw(32, 16), density=0.5, block_q=16, block_k=16, pv="fp8", backend="triton")


# --- the edge --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, message", [
    (dict(k=torch.zeros(1, 2, 31, 16)), r"k: expected shape \[1, 2, 32, 16\], got \[1, 2, 31, 16\]"),
    (dict(v=torch.zeros(1, 2, 32, 16, dtype=torch.float16)), "v: expected torch.float32 on cpu, got torch.float16"),
    (dict(proj_weight=torch.zeros(16)), r"proj_weight: expected shape \[16, 16\], got \[16\]"),
    (dict(density=0.0), r"density: expected a share in \(0, 1\], got 0.0"),
    (dict(pv="int8"), "pv: expected 'fp8' or '16', got 'int8'"),
    (dict(block_q=0), "block_q: expected at least 1 token, got 0"),
    (dict(block_k=48, backend="triton"), "block_k: expected a power of two from 16 to 256 .* got 48; try backend='torch'"),
    (dict(backend="cuda"), "backend: expected 'auto', 'triton' or 'torch', got 'cuda'"),
])
def test_what_does_not_fit_is_refused_in_the_callers_words(change, message):
    args = dict(zip(("q", "k", "v", "proj_weight", "proj_bias"), draw(32, 16)))
    with pytest.raises(ValueError, match=message):
        kernels.sparse_linear_attention(**{**args, "density": 0.5, "block_q": 16, "block_k": 16, **change})


def test_a_lut_for_other_blocks_is_refused():
    q, k, v, *_ = draw(64, 16)
    lut = kernels.block_mask_topk(q, k, density=0.5, block_q=16, block_k=16)
    with pytest.raises(ValueError, match=r"lut: expected shape \[1, 2, 2, \*\], got \[1, 2, 4, 2\]"):
        kernels.block_sparse_attention(q, k, v, lut, block_q=32, block_k=16)
    with pytest.raises(ValueError, match="lut: expected torch.int32"):
        kernels.block_sparse_attention(q, k, v, lut.long(), block_q=16, block_k=16)


# --- on the GPU --------------------------------------------------------------------------------------------------------

GPU_SHAPES = [(576, 64, 16, 16), (1000, 64, 64, 64), (1000, 128, 128, 64), (1000, 128, 64, 128), (1, 128, 128, 64)]


@pytest.mark.gpu
@pytest.mark.parametrize("length, head_dim, block_q, block_k, dtype", [
    *((*shape, dtype) for shape in GPU_SHAPES for dtype in (torch.bfloat16, torch.float16)),
    (576, 64, 16, 16, torch.float32),                      # larger blocks spill in float32, which no preset runs
])
def test_forward_and_gradients_on_the_gpu(length, head_dim, block_q, block_k, dtype):
    args = draw(length, head_dim, dtype, "cuda")
    options = dict(density=0.3, block_q=block_q, block_k=block_k)
    truth = kernels.sparse_linear_attention(*wide(args), **options, backend="torch")
    own = kernels.sparse_linear_attention(*args, **options, backend="torch")
    assert distance(kernels.sparse_linear_attention(*args, **options), truth) <= 2 * distance(own, truth)

    lut = kernels.block_mask_topk(*args[:2], **options)
    seed = torch.randn_like(args[0])

    def gradients(qkv, backend):
        qkv = [x.detach().requires_grad_() for x in qkv]
        o, _ = kernels.block_sparse_attention(*qkv, lut, block_q=block_q, block_k=block_k, backend=backend)
        return torch.autograd.grad(o, qkv, seed.to(o.dtype))

    limit = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for name, ours, truth in zip("qkv", gradients(args[:3], "triton"), gradients(wide(args[:3]), "torch")):
        if length == 1 and name in "qk":                   # one key: the softmax does not move
            assert ours.abs().max() < limit
        else:
            assert distance(ours, truth) <= limit, name


@pytest.mark.gpu
@pytest.mark.parametrize("block_q, block_k", [(128, 64), (64, 128)])
@pytest.mark.parametrize("length", [14_040, 32_760, 75_600])
def test_true_shapes_on_the_gpu(length, block_q, block_k):
    """12 heads x 128 in bfloat16, beside torch's own bfloat16 operations: the first, a middle and the ragged last query block."""
    q, k, v, weight, bias = draw(length, 128, torch.bfloat16, "cuda", heads=12)
    options = dict(density=0.1, block_q=block_q, block_k=block_k)
    o = kernels.sparse_linear_attention(q, k, v, weight, bias, **options)
    lut = kernels.block_mask_topk(q, k, **options)
    assert lut.shape[-1] == int(0.1 * -(-length // block_k))
    linear = F.linear(reference.linear_attention_reference(q, k, v), weight.float(), bias.float())
    own_linear = F.linear(launch.linear_attention(q, k, v), weight, bias)
    for block in (0, lut.shape[2] // 2, lut.shape[2] - 1):
        rows, kept = slice(block * block_q, (block + 1) * block_q), lut[:, :, block:block + 1]
        some = q[:, :, rows]
        sparse, _ = reference.block_sparse_attention_reference(*wide((some, k, v)), kept, block_q, block_k)
        mask = reference.token_mask_from_lut(kept, some.shape[2], length, block_q, block_k)
        own = F.scaled_dot_product_attention(some, k, v, attn_mask=mask) + own_linear[:, :, rows]
        truth = sparse + linear[:, :, rows]
        assert distance(o[:, :, rows], truth) <= 2 * distance(own, truth)


@pytest.mark.gpu
def test_a_new_length_compiles_nothing():
    from kernels.sla import kernel

    binaries = []
    for length in (1000, 1016, 1600, 2001):                # 16 divides only one of them
        args = draw(length, 64, torch.bfloat16, "cuda")
        kernels.sparse_linear_attention(*args, density=0.3, block_q=64, block_k=64)
        binaries.append(sum(len(cache[0]) for cache in kernel.forward_kernel.fn.device_caches.values()))
    assert len(set(binaries)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("pv", SAGE)
@pytest.mark.parametrize("block_q, block_k", [(64, 128), (128, 64)])
def test_sparse_branch_in_8_bits_on_the_gpu(block_q, block_k, pv):
    if pv == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    for length in (1000, 1):
        args = draw(length, 128, torch.bfloat16, "cuda")
        options = dict(density=0.3, block_q=block_q, block_k=block_k, pv=pv)
        o = kernels.sparse_linear_attention(*args, **options)
        assert distance(o, kernels.sparse_linear_attention(*args, **options, backend="torch")) <= 4e-3     # the linear branch is bfloat16's
        plain = kernels.sparse_linear_attention(*wide(args), **{**options, "pv": None}, backend="torch")
        assert distance(o, plain) <= SAGE[pv]
