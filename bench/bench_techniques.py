"""What each fast technique does to clips of trained weights: pocket's turbo clips with it on, against the plain network's.

    python -m bench.bench_techniques [--prompts 6] [--out FILE]

The roundings are the kernels' own, by their torch meaning on a CPU: nothing is timed. Sparse attention is not in it, as pocket was not
trained with it. PSNR and SSIM are over all frames; "another seed" is how far two clips of one prompt lie apart. The last line is JSON.
"""
import argparse
import random
import sys

import numpy as np
import torch
from torch import Tensor, nn

import kernels
from bench.report import Report
from turbo_engine import Engine, Request, Result
from turbo_engine.accelerate import Techniques, accelerate
from turbo_engine.compare import psnr, ssim
from turbo_engine.distill.captions import caption
from turbo_engine.distill.world import load_world, sample_specs
from turbo_engine.models.dit import DiT


class Sage(nn.Module):
    """Dense self-attention in 8 bits."""

    def __init__(self, qk: str, pv: str):
        super().__init__()
        self.formats = {"qk": qk, "pv": pv}

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernels.sage_attention(q, k, v, **self.formats)


def with_sage(model: DiT, qk: str, pv: str) -> DiT:
    for block in model.blocks:
        block.self_attn.attn_op = Sage(qk, pv)
    return model


def variants(model: DiT, tokens: int) -> dict[str, nn.Module]:
    """Pocket's student under each technique, by name."""
    def fit(techniques: Techniques, sage: tuple[str, str] | None = None) -> nn.Module:
        mine = DiT(model.config)
        mine.load_state_dict(model.state_dict())
        mine.eval().requires_grad_(False)
        return accelerate(with_sage(mine, *sage) if sage else mine, techniques, tokens)[0]

    return {
        "fused glue": fit(Techniques(fused=True)),
        "W8A8 int8": fit(Techniques(linear="int8", fused=True)),
        "W8A8 fp8, GELU inside": fit(Techniques(linear="fp8", fused=True)),
        "Sage int8, fp8": fit(Techniques(), ("int8", "fp8")),
        "Sage fp8, fp8": fit(Techniques(), ("fp8", "fp8")),
        "all: fp8 layers, Sage int8": fit(Techniques(linear="fp8", fused=True), ("int8", "fp8")),
    }


def clip(engine: Engine, prompt: str, seed: int) -> np.ndarray:
    *_, result = engine.generate(Request(prompt, seed, preview_steps=()))
    assert isinstance(result, Result)
    return result.frames


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--out", help="write the JSON to this file too")
    options = parser.parse_args()
    engine = Engine("pocket", device="cpu").load()
    networks = engine._family._networks
    plain, preset = networks["student"], engine.preset
    _, frames, height, width = preset.latent_shape(preset.clip.num_frames, preset.clip.height, preset.clip.width)
    tokens = frames * height * width // 4
    world, rng = load_world(preset.folder / preset.text.vocabulary), random.Random(11)
    prompts = [caption(world, spec, rng, canonical=True) for spec in sample_specs(world, options.prompts, rng, held_out=True)]
    report = Report("techniques", False, {"device": "cpu", "weights": engine.describe()["weights"]["student"], "prompts": prompts})
    with torch.inference_mode():
        truth = [clip(engine, prompt, seed) for seed, prompt in enumerate(prompts)]
        others = {"another seed": [clip(engine, prompt, 100 + seed) for seed, prompt in enumerate(prompts)]}
        for name, network in variants(plain, tokens).items():
            networks["student"] = network
            others[name] = [clip(engine, prompt, seed) for seed, prompt in enumerate(prompts)]
    for name, clips in others.items():
        pairs = list(zip(truth, clips))
        row = dict(name=name, psnr_db=round(float(np.mean([np.minimum(psnr(*pair), 99).mean() for pair in pairs])), 2),
                   ssim=round(float(np.mean([ssim(*pair).mean() for pair in pairs])), 4),
                   worst_ssim=round(float(min(ssim(*pair).min() for pair in pairs)), 4))
        report.rows.append(row)
        print(row, flush=True)
    return report.finish(options.out)


if __name__ == "__main__":
    sys.exit(main())
