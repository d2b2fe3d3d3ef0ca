"""python -m turbo_engine "PROMPT" --out clip.mp4: a clip from the command line, progress on stderr, one JSON line on stdout."""
import argparse
import json
import sys
import time
from pathlib import Path

from turbo_engine import Preview, Progress, Request, Result, TurboError, load_preset
from turbo_engine.errors import RequestError
from turbo_engine.media import check_writable, encode_mp4
from turbo_engine.parts import prepare
from turbo_engine.presets import FULL_SAMPLERS, TURBO_SAMPLERS
from turbo_engine.resolve import parse_size, resolve

_STAGES = {"text": "reading the prompt", "denoise": "step", "decode": "decoding"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message}; see python -m turbo_engine --help")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m turbo_engine", description="Make one clip from a prompt.")
    parser.add_argument("prompt", help="what to show, in a few words")
    parser.add_argument("--preset", default="pocket", help="name or .toml file (default: pocket)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=("turbo", "full"), default="turbo")
    parser.add_argument("--steps", type=int, help="sampler steps (default: the preset's)")
    parser.add_argument("--sampler", choices=(*TURBO_SAMPLERS, *FULL_SAMPLERS))
    parser.add_argument("--guidance", type=float, help="guidance scale of a full render")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what a full render steers away from")
    parser.add_argument("--frames", type=int, help="4k + 1")
    parser.add_argument("--size", metavar="WxH", help="width x height in pixels, from the preset's menu")
    parser.add_argument("--image", type=Path, metavar="FILE", help="picture that the clip starts from, for a preset that takes one")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("clip.mp4"), metavar="FILE.mp4")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of a Wan preset's files (default: the app's own)")
    parser.add_argument("--download", action="store_true", help="get what turbo clips need and is missing there, by name from the hub")
    parser.add_argument("--download-full", action="store_true", help="get the full networks as well")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args(argv)


def _picture(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise RequestError(f"image: expected a readable picture, got {path} ({error.strerror}); check the path") from error


def _show(event: Progress | Preview, quiet: bool) -> None:
    if quiet or isinstance(event, Preview):
        return
    step = f" {event.step}/{event.num_steps}" if event.stage == "denoise" else ""
    left = f", {event.eta_s:.1f} s left" if event.eta_s is not None else ""
    print(f"{event.elapsed_s:6.1f} s  {_STAGES[event.stage]}{step}{left}", file=sys.stderr, flush=True)


def run(argv: list[str]) -> dict:
    """Make the clip that the arguments ask for. Returns: what the JSON line says. Raises: TurboError."""
    args = _arguments(argv)
    preset = load_preset(args.preset)
    width, height = parse_size(args.size)
    request = Request(args.prompt, seed=args.seed, mode=args.mode, num_steps=args.steps, sampler=args.sampler,
                      num_frames=args.frames, height=height, width=width, guidance_scale=args.guidance,
                      negative_prompt=args.negative, preview_steps=(), image=_picture(args.image))
    resolve(request, preset)                                       # refuse both before torch is even imported
    check_writable(args.out)
    if args.threads is not None and args.threads < 1:
        raise RequestError(f"threads: expected 1 or more, got {args.threads}; leave it out")
    weights = prepare(preset, args.weights, download=args.download, full=args.download_full,
                      show=lambda line: None if args.quiet else print(line, file=sys.stderr, flush=True))
    from turbo_engine.engine import Engine

    if not args.quiet:
        print(f"loading {preset.name}", file=sys.stderr, flush=True)
    engine = Engine(preset, device=args.device, threads=args.threads, weights=weights).load()
    for event in engine.generate(request):
        if isinstance(event, Result):
            result = event
        else:
            _show(event, args.quiet)
    for note in result.notes:
        print(note, file=sys.stderr)
    start = time.perf_counter()
    encode_mp4(args.out, result.frames, result.fps, result.recipe)
    stage_s = {**result.stage_s, "encode": time.perf_counter() - start}
    return {"out": str(args.out), **result.recipe, "stage_s": {k: round(v, 4) for k, v in stage_s.items()},
            "notes": list(result.notes)}


def main(argv: list[str] | None = None) -> int:
    try:
        print(json.dumps(run(sys.argv[1:] if argv is None else argv)))
    except TurboError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
