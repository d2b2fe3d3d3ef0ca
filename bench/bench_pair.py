"""Turbo clips on one GPU and full renders on another, true size, random weights: what each costs the other.

    python -m bench.bench_pair --preset wan2.1-t2v-14b-480p --devices cuda:0 cuda:1 [--out FILE]

A turbo clip is made again and again with nothing else under way, then while a full render is made on the other device, asked for through
`Pair` as the app does it. The render is made once by itself, too. The last line of stdout is one JSON object.
"""
import argparse
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import numpy as np
import torch

from bench.random_wan import RandomWan
from bench.report import Report, gpu_facts
from turbo_engine.engine import Engine
from turbo_engine.pair import Pair
from turbo_engine.presets import Preset, load_preset
from turbo_engine.types import Request, Result
from turbo_engine.worker import Worker

PROMPT = "a lighthouse in a storm, waves against the rocks"


def random_engine(preset: str, *, folder: str, **options) -> Engine:
    """What each worker's process makes."""
    return Engine(preset, weights=RandomWan(load_preset(preset), Path(folder)), **options)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.bench_pair", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="wan2.1-t2v-14b-480p", help="name or .toml file")
    parser.add_argument("--devices", nargs=2, default=["cuda:0", "cuda:1"], metavar=("TURBO", "FULL"))
    parser.add_argument("--frames", type=int, help="4k + 1 (default: the preset's)")
    parser.add_argument("--steps", type=int, default=8, help="of the full render")
    parser.add_argument("--clips", type=int, default=10, help="turbo clips with nothing else under way")
    parser.add_argument("--out", help="file for the JSON")
    args = parser.parse_args(argv)
    preset = load_preset(args.preset)
    report = Report("pair", False, {**(gpu_facts() if torch.cuda.is_available() else {"device": "cpu"}), "preset": preset.name,
                                    "devices": args.devices, "weights": "random"})
    more = report.part("pair", measure, preset, args) or {}
    return report.finish(args.out, **more)


def measure(report: Report, preset: Preset, args) -> dict:
    """Rows of turbo clips alone and beside a render, of the render alone and beside them."""
    frames, seeds = args.frames or preset.clip.num_frames, count()
    with tempfile.TemporaryDirectory() as turbo, tempfile.TemporaryDirectory() as full:
        workers = [Worker(preset, factory="bench.bench_pair:random_engine", options={"device": device, "modes": [mode], "folder": folder})
                   for mode, device, folder in zip(("turbo", "full"), args.devices, (turbo, full))]
        pair = Pair(*workers)
        try:
            pair.load(lambda state, line: print(f"  {state} {line}", flush=True))

            def turbo_s() -> float:
                seed, start = next(seeds), time.perf_counter()
                _result_of(pair.generate(Request(PROMPT, seed, num_frames=frames, preview_steps=())))
                return time.perf_counter() - start

            def render(give_way=None) -> tuple[Result, float]:
                start = time.perf_counter()
                request = Request(PROMPT, next(seeds), "full", num_frames=frames, num_steps=args.steps, preview_steps=())
                return _result_of(pair.generate(request, give_way=give_way)), time.perf_counter() - start

            turbo_s(), render()                                  # the first of each waits for its networks
            alone = [turbo_s() for _ in range(args.clips)]
            _, render_alone = render()
            beside: list[float] = []
            result, render_beside = render(lambda: beside.append(turbo_s()))
        finally:
            pair.close()
    ran = result.stage_s["denoise"] + result.stage_s["decode"]   # what its own device took; it is heard of only between two clips
    for name, seconds in (("turbo alone", alone), ("turbo beside a render", beside), ("render alone", [render_alone]), ("render beside turbo", [render_beside])):
        report.rows.append(dict(name=name, clips=len(seconds), median_s=round(float(np.median(seconds)), 4) if seconds else None))
        print(report.rows[-1], flush=True)
    return dict(full_steps=args.steps, render_own_s=round(ran, 3), turbo_slower=round(float(np.median(beside) / np.median(alone)), 3))


def _result_of(events) -> Result:
    *_, result = events
    return result


if __name__ == "__main__":
    sys.exit(main())
