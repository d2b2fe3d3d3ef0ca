"""What each trick costs and saves on trained weights: pocket's clips with it on, against those of the same seeds with it off.

    python -m bench.bench_techniques --prompts 24 [--probe PROBE/probe.safetensors] [--out FILE]

rCM's row is the student in 4 steps against the teacher in 50 with guidance; all below are the student against itself, on the fused
glue, in 8 bits whether or not that is faster on this device. PSNR, SSIM and the probe's feature distance are means over clips;
"another seed" says how far two clips of one prompt lie apart. On a CPU the roundings are the kernels' own by their torch meaning,
which is slow, so only what the app runs there is timed. `steps_s`: a clip's text and denoising steps, the median, as one CUDA graph
a step on a GPU but for the plain networks. The last line is JSON.
"""
import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import kernels
from bench.bench_engine import seconds_of
from bench.report import Report, gpu_facts
from turbo_engine.accelerate import PLAIN, Techniques, accelerate, fit_sparse_attention
from turbo_engine.compare import psnr, ssim
from turbo_engine.distill.pocket import FOLDER, load_dit, sparse_settings
from turbo_engine.distill.probe import Probe, accuracy, feature_distance, labels_of, new_probe, view
from turbo_engine.distill.prompts import batches, counted_prompts
from turbo_engine.distill.report import Studio, to_uint8
from turbo_engine.distill.training import Run
from turbo_engine.distill.world import load_world
from turbo_engine.families.pocket import pocket_techniques
from turbo_engine.models.dit import DiT
from turbo_engine.presets import SparseSettings
from turbo_engine.weights import fill

BATCH = 8
BUDGET_S = 5.0               # of timing a row, three calls in any case


class Sage(nn.Module):
    """Dense self-attention in 8 bits."""

    def __init__(self, pv: str):
        super().__init__()
        self.pv = pv

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernels.sage_attention(q, k, v, pv=self.pv)


@dataclass(frozen=True)
class Variant:
    """techniques: of `accelerate`; sage: dense attention in 8 bits, the format of its values; sparse: as it was trained."""

    techniques: Techniques = PLAIN
    sage: str | None = None
    sparse: bool = False

    def fitted(self, dense: DiT, tokens: int, trained: DiT | None) -> nn.Module:
        """On a copy of the dense network, or of the same one trained to attend sparsely."""
        source = trained if self.sparse else dense
        model = DiT(source.config)
        if self.sparse:
            fit_sparse_attention(model, trained.blocks[0].self_attn.attn_op.settings)
        model.load_state_dict(source.state_dict(), assign=True)
        for block in model.blocks if self.sage else ():
            block.self_attn.attn_op = Sage(self.sage)
        return accelerate(model.eval().requires_grad_(False), self.techniques, tokens)[0]


def variants(sparse: SparseSettings | None = None) -> dict[str, Variant]:
    """By name; those that attend sparsely where the student learned to."""
    glue, int8, fp8 = (Techniques(linear=format, fused=True, measured=False) for format in (None, "int8", "fp8"))
    found = {
        "fused glue": Variant(glue),
        "W8A8 int8": Variant(int8),
        "W8A8 fp8, GELU inside": Variant(fp8),
        "Sage int8, fp8": Variant(glue, "fp8"),
        "fp8 layers, Sage int8": Variant(fp8, "fp8"),
    }
    if sparse is not None:
        found[f"SLA, {sparse.density:.0%} of {sparse.block_q}x{sparse.block_k} blocks"] = Variant(glue, sparse=True)
        found["fp8 layers, SLA"] = Variant(fp8, sparse=True)
    return found


class Judge:
    """Clips of fixed prompts, and how they differ."""

    def __init__(self, studio: Studio, count: int, probe: Probe | None):
        specs, self.prompts = counted_prompts(load_world(), count, count // 3)
        self.studio, self.probe, self.labels = studio, probe, labels_of(specs)

    def clips(self, make: Callable[[list[str], list[int]], Tensor], seed: int = 0) -> tuple[np.ndarray, Tensor]:
        """uint8 [N, T, H, W, 3] and what the probe looks at, by seeds counted from one."""
        frames, views = [], []
        for batch in batches(self.prompts, BATCH, seed):
            video = self.studio.frames(make(*batch))
            frames.append(to_uint8(video))
            views.append(view(video))
        return np.concatenate(frames), torch.cat(views)

    def row(self, name: str, clips: tuple[np.ndarray, Tensor], truth: tuple[np.ndarray, Tensor] | None, steps_s: float | None) -> dict:
        row: dict = {"name": name, "steps_s": steps_s and round(steps_s, 4)}
        if truth is not None:
            pairs = list(zip(clips[0], truth[0]))
            alike = [ssim(*pair) for pair in pairs]
            row |= {"psnr_db": round(float(np.mean([np.minimum(psnr(*pair), 99).mean() for pair in pairs])), 2),
                    "ssim": round(float(np.mean(alike)), 4), "worst_ssim": round(float(np.min(alike)), 4)}
        if self.probe is not None:
            row |= accuracy(self.probe, clips[1], self.labels)
            if truth is not None:
                row["feature_distance"] = round(float(feature_distance(self.probe, clips[1], truth[1]).mean()), 5)
        return row


def measure(report: Report, studio: Studio, judge: Judge, folder: Path) -> None:
    device, sampler, steps = studio.run.device, studio.preset.turbo.sampler, studio.preset.turbo.num_steps
    clip, plain = studio.preset.clip, studio.networks["student"]
    tokens = studio.preset.num_tokens(clip.num_frames, clip.height, clip.width)
    sparse = sparse_settings(folder)
    trained = None if sparse is None else load_dit(folder, "student", sparse=sparse).to(plain.patch_embedding.weight)

    def turbo(prompts: list[str], seeds: list[int]) -> Tensor:
        return studio.student(prompts, seeds, steps, sampler)

    def full(prompts: list[str], seeds: list[int]) -> Tensor:
        return studio.teacher(prompts, seeds, studio.preset.full.num_steps)

    def add(name: str, clips, truth, make=None) -> None:
        taken = None
        if make is not None:
            make(judge.prompts[:1], [0])                         # compiles, measures, records
            taken = float(np.median(seconds_of(lambda: make(judge.prompts[:1], [0]), device, 3, BUDGET_S)))
        report.rows.append(judge.row(name, clips, truth, taken))
        print(report.rows[-1], flush=True)

    reference, truth = judge.clips(full), judge.clips(turbo)
    add("full, 50 steps, guidance", reference, None, full)
    add(f"rCM: student, {steps} steps", truth, reference, turbo)
    add("another seed", judge.clips(turbo, 10_000), truth)
    ours = Variant(pocket_techniques(device, "turbo"))
    for name, variant in variants(sparse).items():
        studio.networks["student"] = variant.fitted(plain, tokens, trained)
        clips, timed = judge.clips(turbo), None
        if device.type == "cuda":
            timed = replace(variant, techniques=replace(variant.techniques, graph=True))
        elif name == f"W8A8 {ours.techniques.linear}":
            timed = ours
        if timed is not None:
            studio.networks["student"] = timed.fitted(plain, tokens, trained)
        add(name, clips, truth, timed and turbo)
    studio.networks["student"] = plain


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24, help="the last third of triples never trained on")
    parser.add_argument("--weights", type=Path, default=FOLDER)
    parser.add_argument("--text-encoder", type=Path, help="folder of a pruned text encoder; default: the installed one")
    parser.add_argument("--probe", type=Path, help="probe.safetensors; without it nothing is counted")
    parser.add_argument("--out", help="write the JSON to this file too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run("techniques", Path(folder), 0.0)
        studio = Studio(options.weights, run, options.text_encoder)
        probe = fill(new_probe(load_world()), options.probe, "probe").to(run.device).eval() if options.probe else None
        report = Report("techniques", False, {**(gpu_facts() if run.cuda else {"device": "cpu"}), "prompts": options.prompts})
        with torch.inference_mode():
            report.part("pocket", measure, studio, Judge(studio, options.prompts, probe), options.weights)
        run.close()
    return report.finish(options.out)


if __name__ == "__main__":
    sys.exit(main())
