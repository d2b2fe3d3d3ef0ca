"""A Wan network step by step up the ladder: what each technique gives, on one card, one after the other, with the engine's own switches.

    python -m bench.bench_engine --preset wan2.1-t2v-1.3b-480p --random-weights [--frames 33] [--size 832x480] [--check] [--out FILE]

DiT only. A rung is what the line says and everything above it; "as the engine runs it" is what `accelerate` fits on this card. Share: of
the limit, the time that the operations and bytes of the last rung take at this card's own rates, measured in the same call. --check
compares every rung with the plain network in float32 on the same weights. diffusers' own network runs beside them where it is
installed. The last line of stdout is one JSON object.
"""
import argparse
import gc
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import kernels
from bench.random_network import random_network
from bench.report import Report, gpu_facts, relative_error, since_start
from kernels.sla.reference import num_blocks, num_kept
from turbo_engine.accelerate import PLAIN, Techniques, accelerate, techniques_for
from turbo_engine.denoiser import Denoiser
from turbo_engine.models.config import DiTConfig
from turbo_engine.models.dit import fused_attention
from turbo_engine.presets import Preset, load_preset
from turbo_engine.resolve import parse_size
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times, rcm_times
from turbo_engine.stats import seconds_of, sync

CHECK_BYTES = 16 << 30      # of float32 weights: --check takes as many blocks as fit
LIMIT_PLAIN, LIMIT_8 = 0.06, 0.35      # --check: relative error of a whole network's output, in 16 and in 8 bits
CALLS = 10                  # least number of clips timed for what the engine runs, at either density


@dataclass(frozen=True)
class Rung:
    """name; what is fitted; sparse or dense attention; full: 50 steps x guidance in place of the few of turbo; density: not the preset's."""

    name: str
    techniques: Techniques
    sparse: bool = True
    full: bool = False
    density: float | None = None


def ladder(device: torch.device) -> list[Rung]:
    best = techniques_for(device, "turbo")
    eight = Techniques(linear=best.linear)
    sage = replace(eight, sage=best.sage)
    fused = replace(sage, fused=best.fused, narrow_stream=best.narrow_stream)
    return [
        Rung("dense bf16, 50 steps x guidance", PLAIN, sparse=False, full=True),
        Rung("the same, as the engine runs it", techniques_for(device, "full"), sparse=False, full=True),
        Rung("rCM: 4 steps, no guidance", PLAIN, sparse=False),
        Rung("SLA", PLAIN),
        Rung("W8A8", eight),
        Rung("Sage", sage),
        Rung("fused glue", fused),
        Rung("CUDA graph: as the engine runs it", best),
        Rung("the same at density 0.15", best, density=0.15),
    ]


@dataclass(frozen=True)
class Work:
    """One preset at one size, and what it asks of a card at least."""

    preset: Preset
    frames: int
    width: int
    height: int

    @property
    def config(self) -> DiTConfig:
        return self.preset.dit

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return 1, *self.preset.latent_shape(self.frames, self.height, self.width)

    @property
    def tokens(self) -> int:
        return self.preset.num_tokens(self.frames, self.height, self.width)

    def at(self, density: float | None) -> "Work":
        """The same with its sparse attention at another density (None: the preset's)."""
        sparse = self.preset.sparse
        if density is None or sparse is None:
            return self
        return replace(self, preset=replace(self.preset, sparse=replace(sparse, density=density)))

    def flop(self) -> dict[str, float]:
        """Of one forward pass, by group; sparse attention over the kept blocks alone."""
        config, sparse, tokens = self.config, self.preset.sparse, self.tokens
        layers, dim = config.num_layers, config.dim
        kept = tokens
        if sparse is not None:
            kept = min(tokens, num_kept(sparse.density, num_blocks(tokens, sparse.block_k)) * sparse.block_k)
        return {"linear": tokens * layers * (12 * dim ** 2 + 4 * dim * config.ffn_dim), "attention": 4.0 * tokens * kept * dim * layers,
                "dense attention": 4.0 * tokens ** 2 * dim * layers, "cross-attention": 4.0 * tokens * config.text_len * dim * layers}

    def glue_bytes(self) -> float:
        """Read and written between the products once all is fused and 8-bit (performance.md), and by sparse attention's passes over q, k, v."""
        return self.tokens * self.config.num_layers * (50.0 * self.config.dim + 3 * self.config.ffn_dim)


# --- what the card can do ---------------------------------------------------------------------------------------------

def ceilings(report: Report, work: Work) -> dict[str, float]:
    """TFLOP/s of large products and of dense attention at this length, and TB/s of a copy, on this card now."""
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    found = {"bf16": 2 * 8192 ** 3 / report.time("bf16 8192^3", lambda: x @ y.t(), 2 * 8192 ** 3) / 1e9}
    format = techniques_for(torch.device("cuda"), "turbo").linear or "int8"
    found["8-bit"] = found["bf16"]
    rows = *kernels.quantize_rows(x, format=format), *kernels.quantize_rows(y, format=format)
    found["8-bit"] = 2 * 8192 ** 3 / report.time(f"{format} 8192^3", lambda: kernels.linear8(*rows), 2 * 8192 ** 3) / 1e9
    heads, head_dim = work.config.num_heads, work.config.head_dim
    q, k, v = (torch.randn(1, work.tokens, heads, head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(3))
    flop = work.flop()["dense attention"] / work.config.num_layers
    found["attention"] = flop / report.time("dense attention", lambda: fused_attention(q, k, v), flop, L=work.tokens) / 1e9
    found["8-bit attention"] = found["attention"] * found["8-bit"] / found["bf16"]
    big = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    found["TB/s"] = 2 * big.numel() / report.time("copy 1 GiB", lambda: big.clone(), moved=2 * big.numel()) / 1e9
    return {name: round(rate, 3) for name, rate in found.items()}


def limit_ms(work: Work, rates: dict[str, float]) -> dict[str, float]:
    """Milliseconds of one forward pass at those rates: 8-bit layers and sparse attention, all glue fused."""
    flop = work.flop()
    parts = {"linear": flop["linear"] / rates["8-bit"] / 1e9, "attention": flop["attention"] / rates["8-bit attention"] / 1e9,
             "cross-attention": flop["cross-attention"] / rates["attention"] / 1e9, "glue": work.glue_bytes() / rates["TB/s"] / 1e9}
    return {**{name: round(ms, 2) for name, ms in parts.items()}, "all": round(sum(parts.values()), 2)}


# --- one rung ---------------------------------------------------------------------------------------------------------

def make(work: Work, rung: Rung, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, list[str]]:
    network = random_network(work.config, work.at(rung.density).preset.sparse if rung.sparse else None, device, dtype)
    return accelerate(network, rung.techniques, work.tokens)


def inputs(work: Work, device: torch.device) -> tuple[Tensor, Tensor, Tensor, dict]:
    """Noise, the states of a prompt and of none, and a condition where the network has one."""
    generator = torch.Generator(device).manual_seed(7)
    noise = torch.randn(work.latent_shape, generator=generator, device=device)
    text = torch.randn(2, work.config.text_len, work.config.text_dim, generator=generator, device=device)
    condition = {}
    if work.config.condition_channels:
        shape = 1, work.config.condition_channels, *work.latent_shape[2:]
        condition = {"condition": torch.randn(shape, generator=generator, device=device)}
    return noise, text[:1], text[1:], condition


def clip_maker(work: Work, rung: Rung, network: nn.Module, device: torch.device) -> tuple[Callable[[], object], int, int]:
    """A function that runs the sampler as the engine does, the steps it runs, and the steps of a clip (the many of a full render are alike)."""
    noise, text, other, condition = inputs(work, device)
    with torch.inference_mode():
        context, away = network.embed_text(text), network.embed_text(other)
    preset = work.preset
    if rung.full:
        denoise = Denoiser(network, context, unconditional=away, guidance_scale=preset.full.guidance_scale, rounding=preset.full.rounding,
                           together=False, **condition)
        t = flow_times(preset.full.num_steps, preset.full.shift).tolist()[0]
        return lambda: denoise(noise, t), 1, preset.full.num_steps
    denoise = Denoiser(network, context, rounding=preset.turbo.rounding, **condition)
    times = rcm_times(preset.turbo.num_steps, preset.turbo.sigma_max)
    return (lambda: list(SAMPLERS[preset.turbo.sampler](denoise, noise, times, lambda: torch.randn_like(noise))),
            preset.turbo.num_steps, preset.turbo.num_steps)


def climb(report: Report, work: Work, rung: Rung, at_least: int, device: torch.device, limit: dict | None, budget_s: float) -> dict:
    """limit: as `limit_ms` gives it, at the rung's density (None: the row says nothing of it). Returns: the row, which `report` has too."""
    start = time.perf_counter()
    network, fitted = make(work, rung, device, _dtype(device))
    run, steps, whole = clip_maker(work, rung, network, device)
    run()                                                        # compiles, measures, records
    sync(device)
    ready_s = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = torch.tensor(seconds_of(run, device, at_least, budget_s), dtype=torch.float64)
    median, low, high = (times.quantile(q).item() for q in (0.5, 0.2, 0.8))
    row = dict(name=rung.name, fitted=fitted, steps=whole, passes_per_step=2 if rung.full else 1, calls=len(times),
               step_ms=round(1000 * median / steps, 2), step_p20_ms=round(1000 * low / steps, 2), step_p80_ms=round(1000 * high / steps, 2),
               clip_s=round(median * whole / steps, 4), ready_s=round(ready_s, 1))
    if rung.density is not None:
        row["density"] = rung.density
    if device.type == "cuda":
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2 ** 30, 2)
    if limit is not None:
        row["share_of_limit"] = round(limit["all"] * row["passes_per_step"] / row["step_ms"], 3)
    report.rows.append(row)
    print(f"{rung.name:<36} {row['step_ms']:10.2f} ms a step  {row['clip_s']:9.3f} s a clip  {row.get('peak_gib', 0):6.2f} GiB"
          f"  {row.get('share_of_limit', 0):6.1%} of the limit   ({len(times)} calls, ready in {row['ready_s']} s)", flush=True)
    for line in fitted:
        print(f"    {line}", flush=True)
    return row


def witness(report: Report, work: Work, device: torch.device, budget_s: float) -> dict | None:
    """diffusers' WanTransformer3DModel, dense, as it comes."""
    try:
        from diffusers import WanTransformer3DModel
    except (ImportError, RuntimeError) as error:               # the second: its lazy imports lack something
        print(f"diffusers is not installed: no outside witness ({str(error)[:200]})", flush=True)
        return None
    import diffusers

    config = work.config
    with torch.device("meta"):
        model = WanTransformer3DModel(
            patch_size=config.patch_size, num_attention_heads=config.num_heads, attention_head_dim=config.head_dim,
            in_channels=config.in_channels, out_channels=config.out_channels, text_dim=config.text_dim, freq_dim=config.freq_dim,
            ffn_dim=config.ffn_dim, num_layers=config.num_layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=config.eps,
            rope_max_seq_len=1024)
    angles = WanTransformer3DModel(patch_size=config.patch_size, num_attention_heads=1, attention_head_dim=config.head_dim, num_layers=0,
                                   ffn_dim=8, rope_max_seq_len=1024).rope.to(device)
    model = model.to_empty(device=device).to(_dtype(device)).eval()
    model.rope = angles                                          # its buffers are computed, not loaded
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2)
    noise, text, _, condition = inputs(work, device)
    latent = torch.cat((noise, *condition.values()), 1).to(_dtype(device))
    arguments = dict(hidden_states=latent, timestep=torch.tensor([988], device=device), encoder_hidden_states=text.to(_dtype(device)),
                     return_dict=False)
    with torch.inference_mode():
        def run():
            return model(**arguments)
        run()
        times = torch.tensor(seconds_of(run, device, 3, budget_s), dtype=torch.float64)
    row = dict(name="diffusers, dense bf16, eager", version=diffusers.__version__, step_ms=round(1000 * times.median().item(), 2), calls=len(times))
    print(f"{row['name']:<36} {row['step_ms']:10.2f} ms a pass", flush=True)
    return row


# --- where a step goes -------------------------------------------------------------------------------------------------

GROUPS = (
    ("attention", r"^(forward_kernel|sparse_kernel|attention_kernel|means_kernel|select_kernel|keys_kernel|fold_kernel|queries_kernel|stats_kernel)"),
    ("glue", r"^(add_norm_kernel|gelu_kernel|norm_rope_kernel|rows_kernel)"),
    ("cross-attention", r"(fmha|flash|sdpa|cudnn.*attention|cutlass.*attention)"),
    ("linear", r"(linear_kernel|gemm|nvjet|xmma|cutlass|scaled_mm)"),
)


def profile(work: Work, rung: Rung, device: torch.device, limit: dict) -> dict:
    """Kernel milliseconds of one forward pass of a rung without its graph, by group and by name, against the limit of each group."""
    network, _ = make(work, replace(rung, techniques=replace(rung.techniques, graph=False)), device, _dtype(device))
    noise, text, _, condition = inputs(work, device)
    timestep = torch.tensor([850.0])
    with torch.inference_mode():
        context = network.embed_text(text)
        for _ in range(2):
            network(noise, timestep, context, **condition)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
            network(noise, timestep, context, **condition)
            torch.cuda.synchronize()
    groups, names = {name: 0.0 for name, _ in GROUPS} | {"other": 0.0}, []
    for event in trace.key_averages():
        ms = event.self_device_time_total / 1000
        if ms <= 0:
            continue
        group = next((name for name, pattern in GROUPS if re.search(pattern, event.key)), "other")
        groups[group] += ms
        names.append((round(ms, 3), event.count, group, event.key[:90]))
    print("one pass by kernel group, ms against the limit:", flush=True)
    for group, ms in groups.items():
        print(f"    {group:<16} {ms:9.2f}  {limit.get(group, 0):9.2f}", flush=True)
    names.sort(reverse=True)
    for ms, count, group, name in names[:16]:
        print(f"      {ms:9.3f} ms {count:5d} x {group:<16} {name}", flush=True)
    return dict(groups={name: round(ms, 2) for name, ms in groups.items()}, kernels=names[:24])


def tuned() -> dict[str, dict[str, str]]:
    """What `triton.autotune` took in this process, by kernel and key."""
    from kernels.sage import kernel as sage_kernel
    from kernels.sage import sparse
    from kernels.sla import kernel, linear
    from kernels.w8a8 import kernel as w8a8_kernel

    found = {}
    for module in (kernel, linear, sage_kernel, sparse, w8a8_kernel):
        for name, tuner in vars(module).items():
            if getattr(tuner, "cache", None) and hasattr(tuner, "configs"):
                found[name] = {" ".join(map(str, key)): str(config) for key, config in tuner.cache.items()}
    return found


# --- is it the same function ---------------------------------------------------------------------------------------------

class In16(nn.Module):
    """Sparse attention of a float32 network in the 16 bits that its kernel is made for."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention.bfloat16()

    def forward(self, *qkv: Tensor) -> Tensor:
        return self.attention(*(x.bfloat16() for x in qkv)).float()


@torch.inference_mode()
def check(report: Report, work: Work, rungs: list[Rung], device: torch.device) -> None:
    """Each rung's velocity against the plain network's in float32 (sparse attention in 16 bits); as many blocks as float32 has room for."""
    per_block = 4 * (12 * work.config.dim ** 2 // 2 * 2 + 2 * work.config.dim * work.config.ffn_dim)
    layers = max(1, min(work.config.num_layers, CHECK_BYTES // per_block))
    small = replace(work, preset=replace(work.preset, dit=replace(work.config, num_layers=layers)))
    noise, text, _, condition = inputs(small, device)
    timestep = torch.tensor([932.0])

    def velocity(rung: Rung, dtype: torch.dtype) -> Tensor:
        network, _ = make(small, rung, device, dtype)
        if dtype != _dtype(device):
            for block in network.blocks:
                block.self_attn.attn_op = block.self_attn.attn_op and In16(block.self_attn.attn_op)
        return network(noise, timestep, network.embed_text(text), **condition).float()

    for sparse, density in dict.fromkeys((rung.sparse, rung.density) for rung in rungs):
        truth = None
        for rung in rungs:
            if (rung.sparse, rung.density) != (sparse, density) or rung.full and rung.techniques == PLAIN:
                continue
            if truth is None:
                truth = velocity(Rung("reference", PLAIN, sparse=sparse, density=density), torch.float32)
                _free(device)
            eight = rung.techniques.linear is not None or rung.techniques.sage is not None
            report.check(f"{rung.name} ({layers} blocks)", relative_error(velocity(rung, _dtype(device)), truth), LIMIT_8 if eight else LIMIT_PLAIN)
            _free(device)


# --- the command ----------------------------------------------------------------------------------------------------------

def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def bench(work: Work, report: Report, device: torch.device, *, checked: bool, budget_s: float, only: str,
          alone: bool = False) -> dict:
    """Every rung whose name matches `only`, and diffusers' network unless `alone`. Returns: what goes into the JSON beside the rows."""
    rungs = [rung for rung in ladder(device) if re.search(only, rung.name)]
    facts = dict(preset=work.preset.name, frames=work.frames, size=f"{work.width}x{work.height}", tokens=work.tokens,
                 density=work.preset.sparse.density if work.preset.sparse else 1.0, pass_tflop={k: round(v / 1e12, 2) for k, v in work.flop().items()})
    print(facts, flush=True)
    rates = limit = None
    if device.type == "cuda":
        rates = report.part("ceilings", ceilings, work)
        _free(device)
        limit = limit_ms(work, rates)
        facts.update(ceilings=rates, limit_ms=limit)
        print(f"limit of a pass, ms: {limit}", flush=True)
    last = next((rung for rung in reversed(rungs) if rung.density is None), None)
    for rung in rungs:
        at_least = CALLS if rung is last or rung.density is not None else 3
        report.part(rung.name, climb, work, rung, at_least, device, rates and limit_ms(work.at(rung.density), rates), budget_s)
        _free(device)
    if not alone:
        facts["witness"] = report.part("diffusers", witness, work, device, budget_s)
        _free(device)
    if device.type == "cuda" and last is not None:
        facts["profile"] = report.part("profile", lambda _: profile(work, last, device, limit))
        _free(device)
    if checked:
        report.part("check", check, work, rungs, device)
    if device.type == "cuda":
        facts["tuned"] = tuned()
        for name, taken in facts["tuned"].items():
            for key, config in taken.items():
                print(f"tuned {name} [{key}]: {config}", flush=True)
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-t2v-1.3b-480p", help="a Wan preset")
    parser.add_argument("--random-weights", action="store_true", required=True, help="the weights this bench has")
    parser.add_argument("--frames", type=int, help="pixel frames, 4k + 1 (default: the preset's)")
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels (default: the preset's)")
    parser.add_argument("--only", default="", help="rungs whose name matches this expression")
    parser.add_argument("--alone", action="store_true", help="without diffusers' network")
    parser.add_argument("--check", action="store_true", help="compare every rung with the plain network in float32")
    parser.add_argument("--budget", type=float, default=4, help="seconds of timing a rung")
    parser.add_argument("--out", help="write the JSON to this file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_engine.py needs a CUDA device", file=sys.stderr)
        return 2
    preset = load_preset(options.preset)
    width, height = parse_size(options.size) if options.size else (preset.clip.width, preset.clip.height)
    work = Work(preset, options.frames or preset.clip.num_frames, width, height)
    report = Report("engine", False, gpu_facts())
    facts = bench(work, report, torch.device("cuda"), checked=options.check, budget_s=options.budget, only=options.only,
                  alone=options.alone)
    print(f"    {since_start():.0f} s", flush=True)
    return report.finish(options.out, **facts, choices=kernels.choices())


if __name__ == "__main__":
    sys.exit(main())
