"""8-bit attention on this GPU: right first, then how fast, against the best 16-bit attention in the same run.

    python -m bench.bench_sage [--quick] [--out FILE]

Dense, then inside sparse-linear attention ("SageSLA") against the same op in 16 bits, at density 0.10 and the released blocks.
"alone" is the attention of tensors that are 8-bit already; "whole" has the rounding of q, k and v in it, as a model calls it. The last
line of stdout is one JSON object.
"""
import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import kernels
from bench.report import Report, gpu_facts, relative_error, since_start
from kernels.sage import kernel, launch, reference, sparse
from kernels.sage.api import best_pv
from kernels.sla import launch as sla

LENGTHS = (14_040, 32_760, 75_600)          # 480p 33 frames, 480p 81 frames, 720p 81 frames
HEADS, HEAD_DIM = {"1.3B": 12, "14B": 40}, 128
LIMITS = {"fp8": 4.5e-2, "16": 2e-2}        # by the format of the values
SAMPLE = 64                                 # queries that the errors are taken on


def draw(length: int, heads: int, head_dim: int = HEAD_DIM) -> list[Tensor]:
    """Gaussian q, k (with a common offset) and v, [B, H, L, D] views of [B, L, H, D] as a model makes them."""
    generator = torch.Generator("cuda").manual_seed(length)
    q, k, v = (torch.randn(1, length, heads, head_dim, generator=generator, device="cuda") for _ in range(3))
    return [x.transpose(1, 2).bfloat16() for x in (q, k + torch.randn(head_dim, generator=generator, device="cuda"), v)]


def emulate(q: Tensor, k: Tensor, v: Tensor, pv: str, rows: Tensor) -> Tensor:
    """The reference on some queries and all keys, a head at a time."""
    return torch.cat([reference.sage_attention_reference(q[:, h:h + 1, rows], k[:, h:h + 1], v[:, h:h + 1], pv)
                      for h in range(q.shape[1])], 1)


def measure_dense(report: Report, length: int, heads: int, head_dim: int) -> float:
    """16-bit attention by cuDNN and by flash. Returns: the faster one's milliseconds."""
    q, k, v = draw(length, heads, head_dim)
    times = []
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        def timed(_, backend=backend):
            with sdpa_kernel(backend):
                times.append(report.time(f"bf16 {backend.name}", lambda: F.scaled_dot_product_attention(q, k, v),
                                         4 * heads * length ** 2 * head_dim, L=length, heads=heads, D=head_dim))
        report.part(f"{backend.name} {length}", timed)
    return min(times)


def measure(report: Report, length: int, heads: int, head_dim: int, pv: str, permute: bool | None, dense_ms: float) -> None:
    q, k, v = draw(length, heads, head_dim)
    flop, facts = 4 * heads * length ** 2 * head_dim, dict(L=length, heads=heads, D=head_dim)
    name = f"int8 qk, {pv} pv" + (", shuffled" if permute is False and pv == "fp8" else "")
    rows = torch.linspace(0, length - 1, SAMPLE, device="cuda").long()
    o = launch.sage_attention(q, k, v, pv, permute=permute)[:, :, rows]
    logits = q[:, :, rows].double() @ k.double().transpose(-1, -2) * head_dim ** -0.5
    truth = logits.softmax(-1) @ v.double()
    del logits
    error, emulated = relative_error(o, truth), relative_error(o, emulate(q, k, v, pv, rows))
    report.check(f"{name} {facts}: against float64", error, LIMITS[pv])
    report.check(f"{name} {facts}: against the same rounding", emulated, 2e-3)
    permute = pv == "fp8" if permute is None else permute
    rounded = *launch.quantize_queries(q), *launch.quantize_keys_values(k, v, pv, permute)
    tma = torch.cuda.get_device_capability() >= (9, 0)
    for label, run in (("alone", lambda: launch.attend(q, *rounded, v, tma, permute)),
                       ("whole", lambda: launch.sage_attention(q, k, v, pv, permute=permute))):
        ms = report.time(f"{name} {label}", run, flop, **facts, error=error, emulated=emulated)
        report.rows[-1]["times_faster_than_16_bit"] = round(dense_ms / ms, 2)
    report.rows[-1]["config"] = str(getattr(kernel.attention_by_descriptors if tma else kernel.attention_by_pointers, "best_config", None))
    print(f"    {report.rows[-1]['times_faster_than_16_bit']} times the best 16-bit, {report.rows[-1]['config']}", flush=True)


def measure_sparse(report: Report, length: int, density: float, block_q: int, block_k: int, ways: list) -> None:
    """The whole op as a model calls it, and its walk alone, in 16 bits and each 8-bit way."""
    q, k, v = draw(length, HEADS["1.3B"])
    generator = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(HEAD_DIM, HEAD_DIM, generator=generator, device="cuda").mul_(HEAD_DIM ** -0.5).bfloat16()
    bias = torch.randn(HEAD_DIM, generator=generator, device="cuda").bfloat16()
    options = dict(density=density, block_q=block_q, block_k=block_k)
    facts = dict(L=length, density=density, blocks=f"{block_q}x{block_k}")
    k_means, values, z = sla._summarise_keys(k, v, weight, block_k)
    lut = sla._select(sla._block_means(q, block_q), k_means, density)
    flop = 4 * HEADS["1.3B"] * length * lut.shape[-1] * block_k * HEAD_DIM
    plain = kernels.sparse_linear_attention(q, k, v, weight, bias, **options)
    walk_ms = report.time("SLA 16-bit alone", lambda: sla._forward(q, k, v, lut, block_q, block_k, (values, z, bias)), flop, **facts)
    op_ms = report.time("SLA 16-bit whole", lambda: kernels.sparse_linear_attention(q, k, v, weight, bias, **options), flop, **facts)
    for pv, permute in ways:
        def timed(_, pv=pv, permute=bool(permute)):
            o = kernels.sparse_linear_attention(q, k, v, weight, bias, **options, pv=pv)
            error = relative_error(o, plain)
            report.check(f"SageSLA int8 {pv} {facts}: against 16 bits", error, LIMITS[pv])
            rounded = *launch.quantize_queries(q), *launch.quantize_keys_values(k, v, pv, permute)
            tma = launch.by_descriptors(v, pv)
            for label, base, run in (
                ("alone", walk_ms, lambda: launch.attend_sparse(q, *rounded, v, lut, (values, z, bias), block_q, block_k, tma, permute)),
                ("whole", op_ms, lambda: kernels.sparse_linear_attention(q, k, v, weight, bias, **options, pv=pv)),
            ):
                ms = report.time(f"SageSLA int8 qk, {pv} pv {label}", run, flop, **facts, error=error)
                report.rows[-1]["times_faster_than_16_bit"] = round(base / ms, 2)
            report.rows[-1]["config"] = str(getattr(sparse.sparse_by_descriptors if tma else sparse.sparse_by_pointers, "best_config", None))
            print(f"    {report.rows[-1]['times_faster_than_16_bit']} times SLA in 16 bits, {report.rows[-1]['config']}", flush=True)
        report.part(f"SageSLA int8 {pv} {facts}", timed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two lengths, one sparse shape each way, short timings")
    parser.add_argument("--out", help="write the JSON to this file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_sage.py needs a CUDA device", file=sys.stderr)
        return 2
    report = Report("sage", options.quick, gpu_facts())
    has_fp8 = torch.cuda.get_device_capability() >= (8, 9)
    ways = [("fp8", True), ("16", None), ("fp8", False)] if has_fp8 else [("16", None)]
    shapes = [(length, HEADS["1.3B"], HEAD_DIM) for length in LENGTHS]
    if options.quick:
        shapes, ways = shapes[:2], ways[:2]
    else:
        shapes += [(LENGTHS[0], HEADS["14B"], HEAD_DIM), (LENGTHS[0], 12, 64)]
    for length, heads, head_dim in shapes:
        dense_ms = report.part(f"dense {length}", measure_dense, length, heads, head_dim) or float("nan")
        for pv, permute in ways:
            report.part(f"int8 {pv} {permute} L={length}", measure, length, heads, head_dim, pv, permute, dense_ms)
            print(f"    {since_start():.0f} s", flush=True)
    sparse_shapes = [(length, blocks) for length in LENGTHS for blocks in ((128, 64), (64, 128))]
    for length, blocks in sparse_shapes[2:4] if options.quick else sparse_shapes:
        report.part(f"sparse {length} {blocks}", measure_sparse, length, 0.10, *blocks, ways[:1] if options.quick else ways[:2])
        print(f"    {since_start():.0f} s", flush=True)
    return report.finish(options.out, default={"pv": best_pv(torch.device("cuda"))})


if __name__ == "__main__":
    sys.exit(main())
