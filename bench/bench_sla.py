"""Sparse-linear attention on this GPU: right first, then how fast, against the best dense and block-sparse attention in the same run.

    python -m bench.bench_sla [--quick] [--only REGEX] [--out FILE]

Share: TFLOP/s of the sparse kernel on the blocks it keeps, over cuDNN's dense TFLOP/s on the same tensors. Each part is tried on its
own: one that fails prints its error, is listed under "errors" in the JSON, and the rest goes on. The last line of stdout is that JSON.
"""
import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import kernels
from bench.report import Report, gpu_facts, relative_error
from kernels.sla import kernel, launch, reference

LENGTHS = (14_040, 32_760, 75_600)          # 480p 33 frames, 480p 81 frames, 720p 81 frames
HEADS, HEAD_DIM = 12, 128
POCKET = dict(batch=1, heads=5, length=576, head_dim=64, block_q=16, block_k=16, density=0.15)     # keeps 5 of 36


def draw(batch: int, heads: int, length: int, head_dim: int, dtype=torch.bfloat16) -> tuple[Tensor, ...]:
    """Gaussian q, k (with a common offset), v [B, H, L, D] and a projection."""
    generator = torch.Generator("cuda").manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device="cuda")

    q, k, v = (normal(batch, heads, length, head_dim) for _ in range(3))
    k = k + normal(head_dim)
    return tuple(x.to(dtype) for x in (q, k, v, normal(head_dim, head_dim) * head_dim ** -0.5, 0.1 * normal(head_dim)))


def check_small(report: Report, dtype, length: int, head_dim: int, block_q: int, block_k: int) -> None:
    """The whole op, and its gradients, against float64."""
    name = f"{str(dtype)[6:]} L={length} D={head_dim} {block_q}x{block_k}"
    args = draw(1, 2, length, head_dim, dtype)
    options = dict(density=0.3, block_q=block_q, block_k=block_k)
    wide = [x.double() for x in args]
    truth = kernels.sparse_linear_attention(*wide, **options, backend="torch")
    own = kernels.sparse_linear_attention(*args, **options, backend="torch")
    report.check(f"forward {name}", relative_error(kernels.sparse_linear_attention(*args, **options), truth), 2 * relative_error(own, truth))
    lut = kernels.block_mask_topk(*args[:2], **options)
    up = torch.randn_like(args[0])

    def gradients(qkv, backend):
        qkv = [x.detach().requires_grad_() for x in qkv]
        o, _ = kernels.block_sparse_attention(*qkv, lut, block_q=block_q, block_k=block_k, backend=backend)
        return torch.autograd.grad(o, qkv, up.to(o.dtype))

    for which, ours, truth in zip(("dq", "dk", "dv"), gradients(args[:3], "triton"), gradients(wide[:3], "torch")):
        report.check(f"{which} {name}", relative_error(ours, truth), 8e-3 if dtype == torch.bfloat16 else 1e-3)


def check_true(report: Report, length: int, block_q: int, block_k: int, tma: bool | None) -> None:
    """12 heads x 128 in bfloat16 against float64, beside torch's own bfloat16 operations: first, middle, ragged last query block."""
    q, k, v, weight, bias = draw(1, HEADS, length, HEAD_DIM)
    k_means, values, z = launch._summarise_keys(k, v, weight, block_k)
    lut = launch._select(launch._block_means(q, block_q), k_means, 0.1)
    o, _ = launch._forward(q, k, v, lut, block_q, block_k, (values, z, bias), tma=tma)
    linear = F.linear(reference.linear_attention_reference(q, k, v), weight.float(), bias.float())
    own_linear = F.linear(launch.linear_attention(q, k, v), weight, bias)
    for block in (0, lut.shape[2] // 2, lut.shape[2] - 1):
        rows, kept = slice(block * block_q, (block + 1) * block_q), lut[:, :, block:block + 1]
        some = q[:, :, rows]
        sparse, _ = reference.block_sparse_attention_reference(some.double(), k.double(), v.double(), kept, block_q, block_k)
        truth = sparse + linear[:, :, rows]
        mask = reference.token_mask_from_lut(kept, some.shape[2], length, block_q, block_k)
        own = F.scaled_dot_product_attention(some, k, v, attn_mask=mask) + own_linear[:, :, rows]
        report.check(f"true shape L={length} {block_q}x{block_k} tma={tma} block {block}", relative_error(o[:, :, rows], truth),
                     2 * relative_error(own, truth))


def flex(q: Tensor, k: Tensor, v: Tensor, lut: Tensor, block_q: int, block_k: int, **kernel_options):
    """torch's own block-sparse attention on the same blocks, compiled. Returns: a function of nothing."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    length, topk = q.shape[2], lut.shape[-1]
    indices = torch.zeros(*lut.shape[:3], reference.num_blocks(length, block_k), dtype=torch.int32, device=q.device)
    indices[..., :topk] = lut
    counts = torch.full(lut.shape[:3], topk, dtype=torch.int32, device=q.device)
    mask = BlockMask.from_kv_blocks(torch.zeros_like(counts), torch.zeros_like(indices), counts, indices,
                                    BLOCK_SIZE=(block_q, block_k), seq_lengths=(length, length))
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask, kernel_options=kernel_options or None)


def dense(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor):
    def run():
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)
    return run


def time_dense(report: Report, length: int, backend: SDPBackend) -> float:
    q, k, v, *_ = draw(1, HEADS, length, HEAD_DIM)
    return report.time(f"dense {backend.name}", dense(backend, q, k, v), 4 * HEADS * length ** 2 * HEAD_DIM, L=length)


def time_sparse(report: Report, length: int, density: float, block_q: int, block_k: int, cudnn_ms: float | None, ways) -> None:
    """The kernel alone by each way of loading, then each pass, then the op as a model calls it."""
    q, k, v, weight, bias = draw(1, HEADS, length, HEAD_DIM)
    facts = dict(L=length, density=density, blocks=f"{block_q}x{block_k}")
    k_means, values, z = launch._summarise_keys(k, v, weight, block_k)
    q_means = launch._block_means(q, block_q)
    lut = launch._select(q_means, k_means, density)
    kept = min(length, lut.shape[-1] * block_k)
    flop = 4 * HEADS * length * kept * HEAD_DIM

    def run(linear, tma):
        return launch._forward(q, k, v, lut, block_q, block_k, linear, tma=tma)

    for tma in ways:
        for label, linear in (("sparse", None), ("sparse + linear", (values, z, bias))):
            def timed(_, label=label, linear=linear, tma=tma):
                ms = report.time(f"{label} {'descriptors' if tma else 'pointers'}", lambda: run(linear, tma), flop, **facts)
                best = getattr(kernel.forward_kernel, "best_config", None)
                row = report.rows[-1]
                row.update(topk=lut.shape[-1], config=str(best))
                if cudnn_ms:
                    row["share_of_cudnn"] = round(flop / ms / (4 * HEADS * length ** 2 * HEAD_DIM / cudnn_ms), 3)
                    row["times_faster_than_cudnn"] = round(cudnn_ms / ms, 2)
                print(f"    share of cuDNN's rate {row.get('share_of_cudnn')}, {best}", flush=True)
            report.part(f"sparse {length} {density} {block_q}x{block_k}: {label}, tma={tma}", timed)
    one = q.numel() * q.element_size()
    report.time("pass over q: means", lambda: launch._block_means(q, block_q), moved=one, **facts)
    report.time("pass over k, v: means and summary", lambda: launch._summarise_keys(k, v, weight, block_k), moved=2 * one, **facts)
    report.time("scores and selection", lambda: launch._select(q_means, k_means, density), **facts)
    options = dict(density=density, block_q=block_q, block_k=block_k)
    ms = report.time("whole op", lambda: kernels.sparse_linear_attention(q, k, v, weight, bias, **options), flop, **facts)
    if cudnn_ms:
        report.rows[-1]["times_faster_than_cudnn"] = round(cudnn_ms / ms, 2)


def time_flex(report: Report, length: int, density: float, block_q: int, block_k: int, **kernel_options) -> None:
    q, k, v, *_ = draw(1, HEADS, length, HEAD_DIM)
    lut = kernels.block_mask_topk(q, k, density=density, block_q=block_q, block_k=block_k)
    run = flex(q, k, v, lut, block_q, block_k, **kernel_options)
    ours, _ = kernels.block_sparse_attention(q, k, v, lut, block_q=block_q, block_k=block_k)
    report.check(f"flex_attention agrees L={length} {block_q}x{block_k}", relative_error(run(), ours.double()), 1e-2)
    flop = 4 * HEADS * length * min(length, lut.shape[-1] * block_k) * HEAD_DIM
    report.time("flex_attention (sparse alone)", run, flop, L=length, density=density, blocks=f"{block_q}x{block_k}")


def time_all_kept(report: Report, length: int, block_q: int, block_k: int) -> None:
    """Our kernel asked for dense attention: what the walk over the lut costs, apart from sparsity."""
    q, k, v, *_ = draw(1, HEADS, length, HEAD_DIM)
    lut = kernels.block_mask_topk(q, k, density=1.0, block_q=block_q, block_k=block_k)
    run = lambda: kernels.block_sparse_attention(q, k, v, lut, block_q=block_q, block_k=block_k)
    report.time("ours, every block kept", run, 4 * HEADS * length ** 2 * HEAD_DIM, L=length, blocks=f"{block_q}x{block_k}")


def time_training(report: Report, length: int, block_q: int, block_k: int) -> None:
    """Backward of the sparse branch, and of dense attention by flash and cuDNN."""
    q, k, v, *_ = draw(1, HEADS, length, HEAD_DIM)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    up = torch.randn_like(q)
    lut = kernels.block_mask_topk(q, k, density=0.1, block_q=block_q, block_k=block_k)
    o, _ = kernels.block_sparse_attention(q, k, v, lut, block_q=block_q, block_k=block_k)
    kept = min(length, lut.shape[-1] * block_k)
    report.time("sparse backward", lambda: torch.autograd.grad(o, (q, k, v), up, retain_graph=True),
                10 * HEADS * length * kept * HEAD_DIM, L=length, density=0.1, blocks=f"{block_q}x{block_k}")
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        def timed(_, backend=backend):
            o = dense(backend, q, k, v)()
            report.time(f"dense backward {backend.name}", lambda: torch.autograd.grad(o, (q, k, v), up, retain_graph=True),
                        10 * HEADS * length ** 2 * HEAD_DIM, L=length)
        report.part(f"dense backward {backend.name}", timed)


def time_pocket(report: Report) -> None:
    """The shipped model's shape: launches count more than products, so one CUDA graph of the op is timed too."""
    shape = [POCKET[name] for name in ("batch", "heads", "length", "head_dim")]
    args = draw(*shape)
    options = {name: POCKET[name] for name in ("density", "block_q", "block_k")}
    facts = dict(L=POCKET["length"], density="5 of 36", blocks="16x16")
    run = lambda: kernels.sparse_linear_attention(*args, **options)
    report.time("pocket whole op", run, **facts)
    report.time("pocket dense, torch's choice", lambda: F.scaled_dot_product_attention(*args[:3]), **facts)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    torch.cuda.synchronize()
    report.check("pocket, CUDA graph gives the same output", relative_error(captured, run().double()), 0.0)
    report.time("pocket whole op, CUDA graph", graph.replay, **facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one length, one density, fewer checks, short timings")
    parser.add_argument("--only", default="", help="parts whose name matches this expression")
    parser.add_argument("--out", help="write the JSON to this file too")
    args = parser.parse_args()
    quick = args.quick
    if not torch.cuda.is_available():
        print("bench_sla.py needs a CUDA device", file=sys.stderr)
        return 2
    report = Report("sla", quick, dict(**gpu_facts(), dtype="bfloat16", heads=HEADS, head_dim=HEAD_DIM), args.only)
    ways = (True, False) if torch.cuda.get_device_capability() >= (9, 0) else (False,)
    lengths, densities = (LENGTHS[1:2], (0.10,)) if quick else (LENGTHS, (0.10, 0.15))

    shapes = ((576, 64, 16, 16), (1000, 128, 128, 64), (1000, 64, 64, 64), (1000, 128, 64, 128))
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16):
        for length, head_dim, block_q, block_k in shapes[:2] if quick else shapes:
            report.part(f"check {dtype} {length} {block_q}x{block_k}", check_small, dtype, length, head_dim, block_q, block_k)
    for tma in ways:
        for block_q, block_k in ((128, 64), (64, 128)):
            report.part(f"check true {block_q}x{block_k} tma={tma}", check_true, LENGTHS[0], block_q, block_k, tma)
    for length in lengths:
        cudnn_ms = report.part(f"cuDNN {length}", time_dense, length, SDPBackend.CUDNN_ATTENTION)
        report.part(f"flash {length}", time_dense, length, SDPBackend.FLASH_ATTENTION)
        for density in densities:
            for block_q, block_k in ((128, 64), (64, 128)) if quick else ((128, 64), (64, 128), (64, 64)):
                report.part(f"sparse {length} {density} {block_q}x{block_k}", time_sparse, length, density, block_q, block_k,
                            cudnn_ms, ways)
    report.part("pocket", time_pocket)
    report.part("all kept", time_all_kept, LENGTHS[0], 128, 64)
    for length in lengths[:2]:
        report.part(f"flex 128x128 {length}", time_flex, length, 0.1, 128, 128)
        report.part(f"flex 128x64 {length}", time_flex, length, 0.1, 128, 64, BLOCK_M=128, BLOCK_N=64)
    report.part("training", time_training, LENGTHS[0], 64, 64)
    report.part("training", time_training, LENGTHS[0], 128, 64)
    return report.finish(args.out)


if __name__ == "__main__":
    sys.exit(main())
