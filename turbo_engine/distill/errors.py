"""How far a network's answers lie from rendered clips, by time and by motion: the number that training the teacher is to lower.

    python -m turbo_engine.distill.errors --weights presets/pocket --and OTHER ...      # 9 minutes on two CPU cores, 2 for each more

The same clips and the same noise for all, so that two sets of weights can be told apart by a hundredth. Squared error of x0 under
the subject, each latent channel by what is seen of it, as in the teacher's loss.
"""
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from turbo_engine.distill.captions import caption
from turbo_engine.distill.clips import Compositor
from turbo_engine.distill.flow import flow_errors, open_text_encoder, open_vae
from turbo_engine.distill.latents import channel_weights, latent_share
from turbo_engine.distill.nearness import settled
from turbo_engine.distill.pocket import load_dit, pocket_preset
from turbo_engine.distill.training import Run, arguments, open_run
from turbo_engine.distill.world import ClipSpec, World, load_world, sample_specs
from turbo_engine.models.dit import DiT
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE
from turbo_engine.vocabulary import Vocabulary

TIMES = (0.5, 0.7, 0.85, 0.95, 0.99)
CLIPS_EACH = 8               # of each motion
SEED = 20_261_128            # of no training run
BATCH = 8
WORST = 6                    # clips named, by their error where all is to be drawn from the prompt


@dataclass(frozen=True)
class Judged:
    """Encoded clips that networks are compared on. latent, noise [N, C, T, H, W]; share [N, 1, T, H, W]; text [N, S, D]; channels as `channel_weights`."""

    prompts: list[str]
    motions: list[str]
    latent: Tensor
    noise: Tensor
    share: Tensor
    text: Tensor
    channels: Tensor


def of_each_motion(world: World, each: int) -> list[ClipSpec]:
    """`each` clips of every motion, those of one together, always the same."""
    rng = random.Random(SEED)
    return [spec for motion in world.motions
            for spec in sample_specs(world, each, rng, motion_weights={other.name: other == motion for other in world.motions})]


@torch.no_grad()
def judged(run: Run, world: World, vae: VAE, text_encoder: MiniLM, specs: Sequence[ClipSpec], *, size: int) -> Judged:
    """The clips rendered at `size` pixels a side, encoded, and captioned as the app reads their prompts: with a place of the seed's choice, which is the
    clip's then. Left open it would be guessed at, and a wrong guess is an error of 1 at high noise."""
    vocabulary, rng = Vocabulary(world, text_len=text_encoder.text_len, count_tokens=text_encoder.num_tokens), random.Random(SEED)
    read = [vocabulary.read(caption(world, spec, rng, canonical=True), seed) for seed, spec in enumerate(specs)]
    specs = [settled(world, spec, text) for spec, text in zip(specs, read)]
    compositor, latents, shares = Compositor(world, run.device), [], []
    for start in range(0, len(specs), BATCH):
        frames, mask = compositor.render(specs[start:start + BATCH], size=size)
        with run.autocast():
            latents.append(vae.encode(frames).float())
        shares.append(latent_share(mask, latents[-1].shape[-1]))
    latent, text = torch.cat(latents), text_encoder.encode(read, remember=False).float()
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(SEED)).to(run.device)
    motions = [world.motions[spec.motion].name for spec in specs]
    return Judged(read, motions, latent, noise, torch.cat(shares), text, channel_weights(vae, latent[:4], run))


@torch.no_grad()
def errors(model: DiT, clips: Judged, run: Run, times: Sequence[float] = TIMES) -> dict[float, list[float]]:
    """Error under each clip's subject, by time."""
    def at(time: float) -> list[float]:
        parts = zip(*(x.split(BATCH) for x in (clips.latent, clips.share, clips.text, clips.noise)))
        return torch.cat([flow_errors(model, *part, torch.full((len(part[0]),), time, device=run.device), run, clips.channels)[1]
                          for part in parts]).tolist()

    return {time: at(time) for time in times}


def by_motion(motions: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Each motion's mean, the largest first."""
    means = {motion: fmean(value for of, value in zip(motions, values, strict=True) if of == motion) for motion in motions}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = arguments("errors", 0)
    parser.add_argument("--text-encoder", type=Path, help="folder of a pruned text encoder; default: the installed one")
    parser.add_argument("--and", type=Path, nargs="+", default=[], dest="others", metavar="WEIGHTS", help="more folders of weights to compare")
    parser.add_argument("--role", choices=("teacher", "student"), default="teacher")
    args = parser.parse_args()
    run, world = open_run("errors", args), load_world()
    specs = of_each_motion(world, 1 if args.tiny else CLIPS_EACH)
    size = 64 if args.tiny else pocket_preset().clip.height
    clips = judged(run, world, open_vae(run, args, encoder=True), open_text_encoder(run, args), specs, size=size)
    for folder in (args.weights, *args.others):
        network = load_dit(folder, args.role).to(run.device).eval()
        found = errors(network, clips, run)
        farthest = sorted(zip(found[TIMES[-1]], clips.prompts), reverse=True)[:WORST]
        run.log(0, weights=str(folder), **{f"t={time:g}": fmean(each) for time, each in found.items()},
                motions={motion: round(mean, 4) for motion, mean in by_motion(clips.motions, found[0.7]).items()},
                worst={prompt: round(error, 3) for error, prompt in farthest})
    run.close()


if __name__ == "__main__":
    main()
