"""The glue between a block's products on this GPU: right first, then TB/s, against torch eager and torch.compile in the same run.

    python -m bench.bench_glue [--quick] [--out FILE]

Bytes counted are those the op must read and write once. The last line of stdout is one JSON object.
"""
import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from bench.report import Report, gpu_facts, relative_error, since_start
from kernels.glue import reference

TOKENS = (14_040, 32_760, 75_600)           # 480p 33 frames, 480p 81 frames, 720p 81 frames
MODELS = {"1.3B": (1536, 8960, 12), "14B": (5120, 13824, 40)}      # dim, ffn_dim, heads
LIMIT = 5e-3                                # bf16 outputs


def eager_add_norm(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    stream = x + gate[:, None] * y
    return stream, (F.layer_norm(stream, (x.shape[-1],), eps=1e-6) * scale[:, None] + shift[:, None]).bfloat16()


def eager_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def eager_norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int) -> Tensor:
    return reference.norm_rope_reference(x, weight, (cos, sin), num_heads, 1e-6).bfloat16()


def compare(report: Report, name: str, eager, arguments: tuple, moved: float, fused: dict, compiled: bool, **facts) -> None:
    """Times eager, compiled and fused; `fused` by label: function, bytes it moves, and what of its result the eager one gives."""
    best = report.time(f"{name} eager", lambda: eager(*arguments), moved=moved, **facts)
    if compiled:
        run = torch.compile(eager, dynamic=False)
        best = min(best, report.time(f"{name} torch.compile", lambda: run(*arguments), moved=moved, **facts))
    truth = eager(*arguments)
    for label, (run, bytes_moved, pick) in fused.items():
        if pick is not None:
            report.check(f"{name} {label} {facts}", relative_error(pick(run()), pick(truth)), LIMIT)
        ms = report.time(f"{name} {label}", run, moved=bytes_moved, **facts)
        report.rows[-1]["times_faster"] = round(best / ms, 2)


def measure(report: Report, model: str, rows: int, compiled: bool, format: str) -> None:
    dim, ffn_dim, heads = MODELS[model]
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, generator=generator, device="cuda").to(dtype)

    facts, count = dict(model=model, rows=rows), rows * dim
    for dtype in (torch.float32, torch.bfloat16):                          # of the residual stream
        size = dtype.itemsize
        x, y = normal(1, rows, dim, dtype=dtype), normal(1, rows, dim)
        vectors = [normal(1, dim, dtype=torch.float32) for _ in range(3)]
        compare(report, f"add_norm {str(dtype)[6:]}", eager_add_norm, (x, y, *vectors), count * (2 * size + 4), {
            "fused": (lambda: kernels.add_norm(x, y, *vectors), count * (2 * size + 4), lambda pair: pair[1]),
            f"fused to {format}": (lambda: kernels.add_norm(x, y, *vectors, format=format), count * (2 * size + 3), None),
        }, compiled, **facts)
    hidden = normal(rows, ffn_dim)
    compare(report, "gelu", eager_gelu, (hidden,), 4 * hidden.numel(), {
        "fused": (lambda: kernels.gelu_rows(hidden), 4 * hidden.numel(), lambda h: h),
        f"fused to {format}": (lambda: kernels.gelu_rows(hidden, format=format), 3 * hidden.numel(), None),
    }, compiled, **facts)
    qkv, weight, angle = normal(1, rows, 3 * dim), normal(dim), normal(rows, dim // heads // 2, dtype=torch.float32)
    q, cos, sin = qkv[..., :dim], angle.cos(), angle.sin()
    compare(report, "norm_rope", eager_norm_rope, (q, weight, cos, sin, heads), 4 * count, {
        "fused": (lambda: kernels.norm_rope(q, weight, (cos, sin), num_heads=heads), 4 * count, lambda o: o),
    }, compiled, **facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shape, short timings, no torch.compile")
    parser.add_argument("--out", help="write the JSON to this file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_glue.py needs a CUDA device", file=sys.stderr)
        return 2
    report = Report("glue", options.quick, gpu_facts())
    format = "fp8" if torch.cuda.get_device_capability() >= (8, 9) else "int8"
    shapes = [("1.3B", TOKENS[1])] if options.quick else [(model, rows) for model in MODELS for rows in TOKENS]
    for model, rows in shapes:
        report.part(f"{model} {rows}", measure, model, rows, not options.quick, format)
        print(f"    {since_start():.0f} s", flush=True)
    return report.finish(options.out)


if __name__ == "__main__":
    sys.exit(main())
