"""One clip over the GPUs of a machine against the same clip on one of them, the fused network of the engine, random weights.

    torchrun --nproc-per-node 2 -m bench.bench_split --preset wan2.1-t2v-14b-480p --frames 81 [--sixteen] [--out FILE]

Every process first runs whole passes by itself, then its share of common ones; the results must agree. Rank 0 prints; its last line is JSON.
"""
import argparse
import os
import sys
from dataclasses import replace

import torch
import torch.distributed as dist

from bench.bench_engine import Rung, Work, inputs, make
from bench.report import Report, gpu_facts, relative_error
from turbo_engine.accelerate import techniques_for
from turbo_engine.models.split_sequence import split_sequence
from turbo_engine.presets import load_preset
from turbo_engine.resolve import parse_size
from turbo_engine.stats import seconds_of

LIMITS = {None: 5e-3, "fp8": 4e-2, "int8": 4e-2}
"""Relative error by the layers' format: sums in another order, rounded to bf16; in 8 bits each of the two lies 2.8e-2 from the plain network
by its own rounding, and a number half-way between two 8-bit ones goes either way."""


def measure(report: Report, work: Work, device: torch.device, budget_s: float, sixteen: bool) -> dict:
    """Milliseconds of a pass alone and shared, and how far their results lie apart."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    techniques = replace(techniques_for(device, "turbo"), fused=True, graph=False)
    if sixteen:
        techniques = replace(techniques, linear=None, sage=None)
    network, fitted = make(work, Rung("shared", techniques, sparse=not sixteen), device, dtype)
    noise, text, _, condition = inputs(work, device)
    timestep = torch.tensor([850.0])
    with torch.inference_mode():
        context = network.embed_text(text)

        def run():
            return network(noise, timestep, context, **condition)

        found = {}
        for name in ("alone", "shared"):
            if name == "shared":
                split_sequence(network)
            dist.barrier()
            found[name] = run()
            seconds = torch.tensor(seconds_of(run, device, 5, 0 if name == "shared" else budget_s), dtype=torch.float64)
            report.rows.append(dict(name=name, pass_ms=round(1000 * seconds.median().item(), 2), calls=len(seconds)))
            print(report.rows[-1], flush=True)
    alone, shared = (row["pass_ms"] for row in report.rows[-2:])
    report.check("shared against alone", relative_error(found["shared"], found["alone"]), LIMITS[techniques.linear])
    return dict(fitted=fitted, times_faster=round(alone / shared, 3))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-t2v-14b-480p")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size", help="WIDTHxHEIGHT")
    parser.add_argument("--sixteen", action="store_true", help="layers in 16 bits and dense attention: nothing to round or choose either way, a sharper check")
    parser.add_argument("--budget", type=float, default=4, help="seconds of timing a pass alone")
    parser.add_argument("--out")
    options = parser.parse_args(argv)
    rank, cuda = int(os.environ["LOCAL_RANK"]), torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    if rank:
        sys.stdout = open(os.devnull, "w")
    try:
        preset = load_preset(options.preset)
        width, height = parse_size(options.size) if options.size else (preset.clip.width, preset.clip.height)
        work = Work(preset, options.frames or preset.clip.num_frames, width, height)
        report = Report("split", False, {**(gpu_facts() if cuda else {"device": "cpu"}), "preset": preset.name, "frames": work.frames,
                                         "size": f"{width}x{height}", "tokens": work.tokens, "sixteen": options.sixteen, "processes": dist.get_world_size()})
        more = report.part("split", measure, work, device, options.budget, options.sixteen) or {}
        return report.finish(None if rank else options.out, **more)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
