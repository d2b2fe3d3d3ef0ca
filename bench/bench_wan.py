"""The engine end to end on a Wan preset at true size, random weights made on the device: stage times, peak memory, the memory plan.

    python -m bench.bench_wan --preset wan2.1-t2v-1.3b-480p --mode turbo full --frames 33 --size 832x480 [--out FILE]
    python -m bench.bench_wan --preset wan2.1-t2v-14b-480p --vram 24      # under a limit, as on a smaller card
    python -m bench.bench_wan --mode turbo full --frames 81 --steps 2 --repeat 1 --plans 8 12 16 24 80      # each in a process of its own

Each mode is asked for `--repeat` times with prompts never seen before and once with the prompt before, all warm. `text` reads the prompt (the
encoder's way to the device and the networks' way back included), `denoise` is all steps, `decode` the preview decoder's for turbo and the
full one's for a full render; `bytes_ready` is from the request to every frame as a JPEG; `full_decode` decodes turbo's latent by the full
one. The last line of stdout is one JSON object.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.random_wan import RandomWan
from bench.report import Report, gpu_facts
from turbo_engine.engine import Engine
from turbo_engine.errors import TurboError
from turbo_engine.media import encode_jpeg
from turbo_engine.plan import GIB
from turbo_engine.presets import load_preset
from turbo_engine.resolve import parse_size
from turbo_engine.types import MODES, Progress, Request, Result

PROMPTS = ("a lighthouse in a storm, waves against the rocks", "a fox in the snow, it looks up and runs into the woods",
           "a street at night in the rain, neon signs in the puddles", "a hot-air balloon over hills in the morning haze")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.bench_wan", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="wan2.1-t2v-1.3b-480p", help="name or .toml file")
    parser.add_argument("--mode", nargs="+", choices=("turbo", "full"), default=["turbo"])
    parser.add_argument("--frames", type=int, help="4k + 1 (default: the preset's)")
    parser.add_argument("--size", metavar="WxH", help="from the preset's menu (default: the preset's)")
    parser.add_argument("--steps", type=int, help="sampler steps (default: the preset's)")
    parser.add_argument("--repeat", type=int, default=2, help="new prompts a mode")
    parser.add_argument("--quant", action="store_true", help="turbo's weights as int8 blocks, as in -quant files")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--memory-fraction", type=float, help="share of the card that this process may use")
    limit.add_argument("--vram", type=float, metavar="GIB", help="the same in GiB")
    limit.add_argument("--plans", type=float, nargs="+", metavar="GIB", help="the same for each of these, one after the other")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", help="file for the JSON")
    args = parser.parse_args(argv)
    if args.plans:
        return every_plan(args, sys.argv[1:] if argv is None else argv)

    cuda = torch.cuda.is_available() and args.device != "cpu"
    if cuda and (fraction := args.memory_fraction or args.vram and args.vram * GIB / torch.cuda.mem_get_info()[1]):
        torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))
        print(f"limit {fraction * torch.cuda.mem_get_info()[1] / GIB:.1f} GiB", flush=True)
    preset = load_preset(args.preset)
    limit_gib = round(torch.cuda.get_per_process_memory_fraction() * torch.cuda.mem_get_info()[1] / GIB, 1) if cuda else None
    report = Report("wan", False, {**(gpu_facts() if cuda else {"device": "cpu"}), "preset": preset.name, "weights": "random",
                                   "quant": args.quant, "limit_gib": limit_gib})
    more: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        report.part("engine", measure, preset, args, Path(folder), more)
    return report.finish(args.out, **more)


def every_plan(args, argv: list[str]) -> int:
    """One process for each limit, as a limit cannot be taken back; a row for each: its plan, its peak, whether it held."""
    report, at = Report("wan plans", False, {"preset": args.preset}), argv.index("--plans")
    others = argv[:at] + argv[at + 1 + len(args.plans):]
    if "--out" in others:
        place = others.index("--out")
        del others[place:place + 2]
    for size in args.plans:
        done = subprocess.run([sys.executable, "-m", "bench.bench_wan", *others, "--vram", str(size)], stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="", flush=True)
        result = json.loads(done.stdout.splitlines()[-1])
        peaks = [row.get("peak_reserved_gib", row["peak_gib"]) for row in result["rows"]]
        report.rows.append({"vram": size, "ran": bool(result["rows"]) and result["ok"], "peak_gib": max(peaks, default=None), "errors": result["errors"],
                            **{key: result.get(key) for key in ("plan", "plan_gib", "refused", "load_s", "device")}})
        report.errors += [f"{size:g} GiB: {error}" for error in result["errors"]]
    for row in report.rows:
        print(f"{row['vram']:5g} GiB  peak {row['peak_gib']}  plan {row['plan_gib']}  {row['refused'] or row['plan']}", flush=True)
    return report.finish(args.out)


def measure(report: Report, preset, args, folder: Path, more: dict) -> None:
    """Load, then every request; rows as they come. more: filled with what the JSON says of the engine."""
    start = time.perf_counter()
    weights = RandomWan(preset, folder, quant=args.quant)
    try:
        engine = Engine(preset, device=args.device, weights=weights, modes=MODES if "full" in args.mode else ("turbo",)).load(lambda state, line: print(f"  {line}", flush=True))
    except TurboError as error:                                  # a plan that refuses is a result, too
        more["refused"] = str(error)
        print(f"refused: {error}", flush=True)
        return
    plan = engine.memory_plan
    more |= {"load_s": round(time.perf_counter() - start, 1), "plan": plan.line, "plan_gib": round(plan.needed / GIB, 2),
             **{key: engine.describe()[key] for key in ("kernels", "precision", "live_pauses")}, **memory(engine)}
    print(f"loaded in {more['load_s']} s; plan: {plan.line or 'all stays'}, {more['plan_gib']} GiB; peak {more['peak_gib']} GiB", flush=True)
    width, height = parse_size(args.size) if args.size else (preset.clip.width, preset.clip.height)
    image = picture(width, height) if preset.takes_image else None
    for mode in args.mode:
        for index in range(args.repeat + 1):
            new, seen = min(index, args.repeat - 1), index == args.repeat
            prompt = f"{PROMPTS[new % len(PROMPTS)]}, {mode} {new}"
            request = Request(prompt, seed=index, mode=mode, num_frames=args.frames or preset.clip.num_frames, width=width, height=height,
                              num_steps=args.steps, preview_steps=(), image=image)
            report.rows.append(row := one(engine, request, seen))
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)


def one(engine: Engine, request: Request, seen: bool) -> dict:
    """One clip's stages in seconds, and the device's memory."""
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = last = time.perf_counter()
    steps = []
    for event in engine.generate(request):
        now = time.perf_counter()
        if isinstance(event, Progress) and event.stage == "denoise":
            steps.append(now - last)
        if isinstance(event, Result):
            result = event
            encode_jpeg(event.frames)
            ready_s = time.perf_counter() - start
        last = now
    row = {"mode": request.mode, "prompt": "seen" if seen else "new", "frames": request.num_frames, "size": f"{request.width}x{request.height}",
           "steps": len(steps), "nfe": result.recipe["nfe"], **{f"{k}_s": round(v, 3) for k, v in result.stage_s.items()}, "bytes_ready_s": round(ready_s, 3),
           "first_step_s": round(steps[0], 3), "median_step_s": round(float(np.median(steps)), 3), **memory(engine)}
    if request.mode == "turbo":
        start = time.perf_counter()
        engine.decode(result.latent)
        row["full_decode_s"] = round(time.perf_counter() - start, 3)
        row |= memory(engine)
    return row


def memory(engine: Engine) -> dict:
    if engine.device.type != "cuda":
        return {"peak_gib": round(engine.describe()["peak_memory_mib"] / 1024, 2)}
    return {"peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2), "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2)}


def picture(width: int, height: int) -> bytes:
    """A PNG to start from. Without OpenCV its pixels are put in place of what would be decoded."""
    shade = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.ascontiguousarray(np.broadcast_to(np.stack((shade, shade[::-1], np.full_like(shade, 90)), -1), (height, width, 3)))
    try:
        import cv2
    except ModuleNotFoundError:
        from turbo_engine.families import wan

        wan.read_picture = lambda data: pixels
        print("  no OpenCV here: the picture is not decoded", flush=True)
        return b"\x89PNG\r\n\x1a\n"
    return cv2.imencode(".png", pixels)[1].tobytes()


if __name__ == "__main__":
    sys.exit(main())
