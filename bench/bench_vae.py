"""Wan's decoders on this GPU: the full one and the tiny one, by layout and chunk, against diffusers' in the same run.

    python -m bench.bench_vae [--frames 33 81] [--size 832x480] [--brief] [--out FILE]

Random weights. Ways of the full decoder: how tensors lie in memory, and latent frames at once. Convolutions of its levels are timed alone too,
with the rate they reach; --brief leaves all out but the engine's own way, the plain one and diffusers'. The last line of stdout is one JSON object.
"""
import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.report import Report, gpu_facts, relative_error, since_start
from kernels.pixels import kernel, launch
from turbo_engine.families.wan import TINY_CHUNK
from turbo_engine.models.fast_decoder import channels_last, speed_up_decoder, speed_up_tiny
from turbo_engine.models.tiny_vae import TinyVAE
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.presets import Preset, load_preset
from turbo_engine.resolve import parse_size
from turbo_engine.stats import seconds_of

CUDA = torch.device("cuda")
CALLS = 10


@torch.no_grad()
def random_decoder(kind: type, config, **options) -> nn.Module:
    """Gaussian at fan-in scale, norms at 1."""
    with CUDA:
        model = kind(config, **options)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "gamma" not in name:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    return model.to(torch.bfloat16).eval().requires_grad_(False)


def whole(report: Report, name: str, model: nn.Module, latent: Tensor, chunk: int | None, **facts) -> Tensor:
    def run():
        return [part for part in model.decode_chunks(latent, chunk=chunk)]
    with torch.inference_mode():
        frames = torch.cat(run(), 2)
        torch.cuda.reset_peak_memory_stats()
        times = 1000 * torch.tensor(seconds_of(run, CUDA, CALLS, 0), dtype=torch.float64)
    median, low, high = (round(times.quantile(q).item(), 2) for q in (0.5, 0.2, 0.8))
    report.rows.append(dict(name=name, chunk=chunk or 0, **facts, calls=len(times), median_ms=median, p20_ms=low, p80_ms=high,
                            peak_gib=round(torch.cuda.max_memory_allocated() / 2 ** 30, 2)))
    print(report.rows[-1], flush=True)
    return frames


def decoders(report: Report, preset: Preset, frames: int, width: int, height: int, *, brief: bool) -> None:
    latent = torch.randn(1, *preset.latent_shape(frames, height, width), generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    facts = dict(frames=frames, size=f"{width}x{height}")
    plain = random_decoder(WanVAE, preset.vae, encoder=False)
    state = plain.state_dict()
    truth = whole(report, "full", plain, latent, 1, **facts)
    model = channels_last(plain)

    def timed(_, name, chunk):
        found = whole(report, name, model, latent, chunk, **facts)
        report.check(f"{name}, chunk {chunk}, {frames} frames", relative_error(found, truth), 2e-2)

    speed_up_decoder(model)
    for chunk in (1,) if brief else (1, 2, 4):
        report.part(f"full, fused, {chunk}", timed, "full, fused", chunk)
    if preset.tiny_vae is not None:
        tiny = random_decoder(TinyVAE, preset.tiny_vae)
        for chunk in () if brief else (1, None):
            report.part(f"tiny {chunk}", whole, "tiny", tiny, latent, chunk, **facts)
        plain_tiny = tiny.decode(latent, chunk=1)
        speed_up_tiny(tiny)

        def fused(_, chunk):
            found = whole(report, "tiny, fused", tiny, latent, chunk, **facts)
            report.check(f"tiny, fused, chunk {chunk}, {frames} frames", relative_error(found, plain_tiny), 2e-2)

        for chunk in (TINY_CHUNK,) if brief else (1, TINY_CHUNK, None):
            report.part(f"tiny, fused {chunk}", fused, chunk)
    report.part("diffusers", diffusers_decoder, state, preset, latent, **facts)


def diffusers_decoder(report: Report, state: dict, preset: Preset, latent: Tensor, **facts) -> None:
    try:
        from diffusers import AutoencoderKLWan
    except (ImportError, RuntimeError) as error:               # the second: its lazy imports lack something
        print(f"diffusers is not installed: no outside witness ({str(error)[:200]})", flush=True)
        return
    with CUDA:
        model = AutoencoderKLWan().to(torch.bfloat16).eval().requires_grad_(False)
    with torch.inference_mode():
        times = torch.tensor(seconds_of(lambda: model.decode(latent.bfloat16()).sample, CUDA, CALLS, 0), dtype=torch.float64)
    report.rows.append(dict(name="diffusers, full, eager", **facts, calls=len(times), median_ms=round(1000 * times.median().item(), 2)))
    print(report.rows[-1], flush=True)


def trace(report: Report, preset: Preset, frames: int, width: int, height: int, chunk: int) -> list:
    """Where the full decoder's time goes, by kernel."""
    latent = torch.randn(1, *preset.latent_shape(frames, height, width), device="cuda")
    model = random_decoder(WanVAE, preset.vae, encoder=False)
    speed_up_decoder(model)
    with torch.inference_mode():
        model.decode(latent, chunk=chunk)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
            model.decode(latent, chunk=chunk)
            torch.cuda.synchronize()
    kernels = sorted(((round(e.self_device_time_total / 1000, 2), e.count, e.key[:100]) for e in found.key_averages()), reverse=True)[:20]
    for ms, count, name in kernels:
        print(f"    {ms:9.2f} ms {count:5d} x {name}", flush=True)
    return kernels


def convolutions(report: Report, width: int, height: int) -> None:
    """3 x 3 x 3 of the decoder's levels on 4 frames and 2 of the past, and 3 x 3 after doubling."""
    for channels, scale, frames in ((384, 8, 2), (384, 4, 4), (192, 2, 8), (96, 1, 8)):
        h, w = height // scale, width // scale
        x = torch.randn(1, channels, frames + 2, h, w, device="cuda", dtype=torch.bfloat16)
        weight = torch.randn(channels, channels, 3, 3, 3, device="cuda", dtype=torch.bfloat16) * (27 * channels) ** -0.5
        flop, facts = 2 * 27 * channels ** 2 * frames * h * w, dict(channels=channels, frames=frames, at=f"{w}x{h}")
        for name, form in (("conv3d", torch.contiguous_format), ("conv3d, channels last", torch.channels_last_3d)):
            y, k = x.to(memory_format=form), weight.to(memory_format=form)
            report.part(f"{name} {channels}", lambda _: report.time(name, lambda: F.conv3d(y, k, padding=(0, 1, 1)), flop, **facts))
        y, k = (t.to(memory_format=torch.channels_last_3d) for t in (x, weight))
        if launch.can_convolve(y, k):
            def timed(_):
                report.check(f"triton conv3 {channels}", relative_error(launch.conv3(y, k), F.conv3d(y.float(), k.float(), padding=(0, 1, 1))), 3e-3)
                report.time("triton conv3, channels last", lambda: launch.conv3(y, k), flop, **facts)
                print(f"    {kernel.conv3.best_config}", flush=True)
            report.part(f"triton conv3 {channels}", timed)
        flat = x[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)
        k = weight[:, :, 1].contiguous(memory_format=torch.channels_last)
        report.part(f"conv2d {channels}", lambda _: report.time(
            "conv2d, channels last", lambda: F.conv2d(flat[2:], k, padding=1), flop / 3, **facts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-t2v-1.3b-480p")
    parser.add_argument("--frames", type=int, nargs="+", default=[33])
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--benchmark", action="store_true", help="let cuDNN measure its algorithms")
    parser.add_argument("--brief", action="store_true", help="the engine's own way, the plain one and diffusers' alone")
    parser.add_argument("--out", help="write the JSON to this file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_vae.py needs a CUDA device", file=sys.stderr)
        return 2
    torch.backends.cudnn.benchmark = options.benchmark
    width, height = parse_size(options.size)
    preset, report, kernels = load_preset(options.preset), Report("vae", True, {**gpu_facts(), "cudnn_benchmark": options.benchmark}), None
    if not options.brief:
        report.part("convolutions", convolutions, width, height)
    for frames in options.frames:
        report.part(f"{frames} frames", decoders, preset, frames, width, height, brief=options.brief)
        print(f"    {since_start():.0f} s", flush=True)
    kernels = None if options.brief else report.part("trace", trace, preset, options.frames[0], width, height, 2)
    return report.finish(options.out, kernels=kernels)


if __name__ == "__main__":
    sys.exit(main())
