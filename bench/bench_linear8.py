"""8-bit linear layers on this machine: right first, then how fast, against bf16 and torch's own 8-bit products in the same run.

    python -m bench.bench_linear8 [--quick] [--cpu] [--out FILE]

Each way is timed on rows that are 8-bit already, then with the rounding of its input, as a model calls it. Errors: "exact" against
float64, "emulated" against exact products of the same 8-bit numbers. The last line of stdout is one JSON object.
"""
import argparse
import sys

import torch
import torch.nn.functional as F

import kernels
from bench.report import Report, gpu_facts, relative_error, since_start
from kernels.formats import FORMATS
from kernels.w8a8 import launch, library, reference
from kernels.w8a8.kernel import linear_by_descriptors, linear_by_pointers

TOKENS = (14_040, 32_760, 75_600)           # 480p 33 frames, 480p 81 frames, 720p 81 frames
LAYERS = {                                  # outputs, width
    "1.3B qkv": (4608, 1536), "1.3B o": (1536, 1536), "1.3B ffn up": (8960, 1536), "1.3B ffn down": (1536, 8960),
    "14B qkv": (15360, 5120), "14B o": (5120, 5120), "14B ffn up": (13824, 5120), "14B ffn down": (5120, 13824),
}
QUICK = (("1.3B qkv", 32_760), ("1.3B ffn down", 32_760), ("14B ffn up", 14_040))
LIMITS = {"fp8": 4e-2, "int8": 1.5e-2}
SAMPLE = 256                                # rows that the errors are taken on


def ways(format: str, x8, x_scale, w8, w_scale, bias) -> dict:
    """Every way to run the product, by name."""
    arguments = x8, x_scale, w8, w_scale, bias, torch.bfloat16
    found = {"triton": lambda: launch.linear8(*arguments)}
    if format == "fp8":
        found["triton, short sums"] = lambda: launch.linear8(*arguments, precise=False)
    if library.runs(x8, w8, torch.bfloat16):
        found["library"] = lambda: library.linear8(*arguments)
    if format == "fp8":
        one = torch.ones((), device=x8.device)
        found["library, one scale"] = lambda: torch._scaled_mm(x8, w8.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16,
                                                               use_fast_accum=True)
    return found


def measure(report: Report, layer: str, rows: int, formats: tuple[str, ...]) -> None:
    outs, width = LAYERS[layer]
    generator = torch.Generator("cuda").manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator, device="cuda") for shape in ((rows, width), (outs, width), (outs,)))
    x, weight, bias = x.bfloat16(), (weight * width ** -0.5).bfloat16(), bias.bfloat16()
    flop, facts = 2 * rows * outs * width, dict(layer=layer, rows=rows, outs=outs, width=width)
    some = torch.linspace(0, rows - 1, SAMPLE, device="cuda").long()
    truth = F.linear(x[some].double(), weight.double(), bias.double())
    bf16_ms = report.time("bf16", lambda: F.linear(x, weight, bias), flop, **facts,
                          error=relative_error(F.linear(x, weight, bias)[some], truth))
    for format in formats:
        x8, x_scale = kernels.quantize_rows(x, format=format)
        w8, w_scale = kernels.quantize_rows(weight, format=format)
        emulated = reference.linear8_reference(x8[some], x_scale[some], w8, w_scale, bias, torch.bfloat16)
        report.time(f"{format} rounding", lambda: kernels.quantize_rows(x, format=format), moved=3 * x.numel(), **facts)
        for name, run in ways(format, x8, x_scale, w8, w_scale, bias).items():
            def timed(_, name=name, run=run):
                y = run()[some].double()
                if "one scale" in name:     # the raw product: its scales and bias are left to whoever reads it
                    y = y * x_scale[some].double()[:, None] * w_scale.double() + bias.double()
                ms = report.time(f"{format} {name}", run, flop, **facts, error=relative_error(y, truth),
                                 emulated=relative_error(y, emulated))
                report.rows[-1]["times_faster_than_bf16"] = round(bf16_ms / ms, 2)
                if "triton" in name:
                    report.rows[-1]["config"] = str(getattr(linear_by_descriptors, "best_config", None)
                                                    or getattr(linear_by_pointers, "best_config", None))
                if name == "triton":
                    report.check(f"{format} {layer} {rows}: against float64", relative_error(y, truth), LIMITS[format])
                    report.check(f"{format} {layer} {rows}: against the same rounding", relative_error(y, emulated), 2e-3)
            report.part(f"{format} {name} {layer} {rows}", timed)

        def whole():
            return kernels.linear8(*kernels.quantize_rows(x, format=format), w8, w_scale, bias)

        ms = report.time(f"{format} as called", whole, flop, **facts)
        report.rows[-1]["times_faster_than_bf16"] = round(bf16_ms / ms, 2)


def measure_cpu(report: Report, dim: int, outs: int, rows: int) -> None:
    """The library's int8 products on the CPU, rounding included, against float32 and bfloat16."""
    x, linear = torch.randn(rows, dim), torch.nn.Linear(dim, outs)
    flop, facts = 2 * rows * dim * outs, dict(rows=rows, outs=outs, width=dim)
    layer = kernels.QuantizedLinear.from_linear(linear, format="int8")
    half, x_half = torch.nn.Linear(dim, outs, dtype=torch.bfloat16), x.bfloat16()
    with torch.inference_mode():
        report.time("cpu float32", lambda: linear(x), flop, **facts)
        report.time("cpu bfloat16", lambda: half(x_half), flop, **facts)
        report.time("cpu int8 as called", lambda: layer(x), flop, **facts, error=relative_error(layer(x), linear(x).double()))
        x8, x_scale = kernels.quantize_rows(x, format="int8")
        report.time("cpu int8", lambda: layer((x8, x_scale)), flop, **facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three shapes, short timings")
    parser.add_argument("--cpu", action="store_true", help="measure the CPU instead")
    parser.add_argument("--out", help="write the JSON to this file too")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        print("bench_linear8.py needs a CUDA device; try --cpu", file=sys.stderr)
        return 2
    report = Report("linear8", options.quick, {} if options.cpu else gpu_facts())
    if options.cpu:
        for dim, outs in ((320, 320), (320, 960), (320, 1280), (1280, 320)):
            report.part(f"cpu {dim} {outs}", measure_cpu, dim, outs, 576)
        return report.finish(options.out)
    formats = tuple(FORMATS) if torch.cuda.get_device_capability() >= (8, 9) else ("int8",)
    shapes = QUICK if options.quick else [(layer, rows) for rows in TOKENS for layer in LAYERS]
    for layer, rows in shapes:
        report.part(f"{layer} {rows}", measure, layer, rows, formats)
        print(f"    {since_start():.0f} s", flush=True)
    return report.finish(options.out, choices=kernels.choices())


if __name__ == "__main__":
    sys.exit(main())
