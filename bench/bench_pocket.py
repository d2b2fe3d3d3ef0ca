"""How long pocket takes from a prompt to bytes a browser can show, on this machine.

    python -m bench.bench_pocket [--prompts 20] [--full 1] [--out bench/results/pocket-cpu.json]

Warm, new prompts, one at a time: text, DiT, decode, JPEG encode; the first picture (the estimate after step 1) and its SSIM
to the finished clip. The last line of stdout is one JSON object. What the socket and the browser add is in tests/browser.
"""
import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch

from bench.machine import facts
from turbo_engine import Engine, Preview, Request, Result
from turbo_engine.compare import ssim
from turbo_engine.distill.captions import caption
from turbo_engine.distill.world import load_world, sample_specs
from turbo_engine.media import encode_jpeg
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.presets import load_preset


def one(engine: Engine, request: Request) -> dict:
    """Seconds of one request by stage, counted by the clock around the events as a page sees them."""
    start, first, rough = time.perf_counter(), None, None
    for event in engine.generate(request):
        if isinstance(event, Preview) and first is None:
            encode_jpeg(event.frames)
            first, rough = time.perf_counter() - start, event.frames
        if isinstance(event, Result):
            before = time.perf_counter()
            encode_jpeg(event.frames)
            done = time.perf_counter()
    row = {"first_picture": first, "whole_clip": done - start, "encode": done - before}
    row |= {"text": event.stage_s["text"], "dit": event.stage_s["denoise"], "decode": event.stage_s["decode"]}
    if rough is not None:
        row["preview_ssim"] = float(ssim(rough, event.frames[:len(rough)]).mean())
    return row


def summary(rows: list[dict]) -> dict:
    """Best, median and 95th percentile of each column; SSIM: median alone."""
    table: dict = {}
    for key in rows[0] if rows else ():
        values = np.array([row[key] for row in rows if row[key] is not None])
        if key == "preview_ssim":
            table[key] = round(float(np.median(values)), 4)
        elif len(values):
            table[key + "_s"] = {"best": round(float(values.min()), 3), "p50": round(float(np.median(values)), 3),
                                 "p95": round(float(np.percentile(values, 95)), 3)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--full", type=int, default=1, help="full renders to time")
    parser.add_argument("--text-encoder", type=Path, help="folder of a pruned text encoder; default: the installed one")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start = time.perf_counter()
    preset, device = load_preset("pocket"), "cuda" if torch.cuda.is_available() else "cpu"
    encoder = MiniLM.opened(args.text_encoder, text_len=preset.text.text_len, device=device, dtype=torch.float32)
    engine = Engine(preset, device=device, encoder=encoder).load()
    load_s = time.perf_counter() - start
    world, rng = load_world(), random.Random(5)
    prompts = [caption(world, spec, rng, canonical=True) for spec in sample_specs(world, args.prompts + args.full, rng)]
    turbo = summary([one(engine, Request(prompt, seed=7)) for prompt in prompts[:args.prompts]])
    full = summary([one(engine, Request(prompt, seed=7, mode="full", preview_steps=())) for prompt in prompts[args.prompts:]])
    about = engine.describe()
    result = {"bench": "pocket", **facts(), "device": about["device_name"], "precision": about["precision"], "load_s": round(load_s, 2),
              "turbo": turbo, "full": full}
    for mode in ("turbo", "full"):
        print(f"{mode}: " + ", ".join(f"{k} {v['p50'] if isinstance(v, dict) else v}" for k, v in result[mode].items()))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
