"""Teach the student sparse-linear attention, so that one set of weights serves it and dense attention alike.

    python -m turbo_engine.distill.sla --weights WEIGHTS --text-encoder .carry/minilm --out OUT

The student as it is, dense, is what both must answer: half of every batch attends sparsely, half densely, and each step of
the sampler is held to the dense student's answer from the same start. The linear branch's projection starts at zero, where
sparse-linear attention is the softmax over the kept blocks alone (Zhang et al. 2025, arXiv:2509.24006).
"""
import copy
import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from turbo_engine.accelerate import fit_sparse_attention
from turbo_engine.distill.captions import caption
from turbo_engine.distill.flow import add_model_options, compile_blocks, open_text_encoder, open_vae
from turbo_engine.distill.latents import channel_weights
from turbo_engine.distill.pocket import load_dit, pocket_preset, save_dit
from turbo_engine.distill.student import chain, consistency_loss
from turbo_engine.distill.training import EMA, Averages, GradientStep, Optimizers, Run, arguments, open_run, trapezoid
from turbo_engine.distill.turns import Turns
from turbo_engine.distill.world import TAUGHT_MOTIONS, World, load_world, sample_specs
from turbo_engine.models.dit import DiT
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE
from turbo_engine.presets import SparseSettings
from turbo_engine.schedule import rcm_times
from turbo_engine.weights import read_manifest

SPARSE = SparseSettings(density=0.14, block_q=16, block_k=16)      # 5 of 36 blocks of 576 tokens; larger blocks would keep none
REFRESH_EVERY = 4            # training steps
MUON_LR, ADAM_LR = 7e-4, 3e-4
DENSE_WEIGHT = 2.0           # of the dense half's distance: pocket attends densely, so what it loses shows on every clip


def sparse_twin(dense: DiT, settings: SparseSettings = SPARSE, trained: DiT | None = None) -> DiT:
    """A network of the same parameters, not copies of them, that attends sparsely. Its linear branch has the projections of `trained`,
    or starts silent."""
    twin = fit_sparse_attention(DiT(dense.config).to(next(dense.parameters()).device), settings)
    for block in twin.blocks:
        nn.init.zeros_(block.self_attn.attn_op.local_attn.proj_l.weight)
        nn.init.zeros_(block.self_attn.attn_op.local_attn.proj_l.bias)
    if trained is not None:
        twin.load_state_dict(trained.state_dict())
    twin.load_state_dict(dense.state_dict(keep_vars=True), strict=False, assign=True)
    return twin


class Captions:
    """Encoded captions as the student was trained on, the newest `capacity` on the device."""

    def __init__(self, run: Run, world: World, text_encoder: MiniLM, *, capacity: int, fresh: int):
        self._world, self._text_encoder, self._rng = world, text_encoder, random.Random(80_000 + run.seed)
        self._turns = Turns(capacity, fresh)
        self._texts = torch.empty(self._turns.capacity, text_encoder.text_len, text_encoder.dim, device=run.device)

    def refresh(self) -> None:
        specs = sample_specs(self._world, self._turns.fresh, self._rng, motion_weights=TAUGHT_MOTIONS)
        captions = [caption(self._world, spec, self._rng) for spec in specs]
        self._texts[self._turns.take()] = self._text_encoder.encode(captions, remember=False).float()

    def draw(self, batch: int) -> Tensor:
        """[B, S, D] float32."""
        return self._texts[torch.randint(0, self._turns.count, (batch,), device=self._texts.device)]


def train(run: Run, student: DiT, sparse: DiT, captions: Captions, vae: VAE, latent_shape: tuple[int, ...], *, batch: int, sigma_max: float,
          save: Callable[[DiT, int], None]) -> None:
    """Until the clock runs out. sparse: the student's `sparse_twin`; vae: what `channel_weights` wants; `save` gets the averaged weights and
    the steps done."""
    times = rcm_times(4, sigma_max).tolist()
    guide = copy.deepcopy(student).eval().requires_grad_(False)
    captions.refresh()
    with torch.no_grad(), run.autocast():
        *_, clips = chain(guide, torch.randn(4, *latent_shape, device=run.device), captions.draw(4), times)
    channels = channel_weights(vae, clips.float(), run)
    ema, optimizers = EMA(sparse, 0.998), Optimizers(sparse, muon_lr=MUON_LR, adam_lr=ADAM_LR)
    for block in sparse.blocks:                          # compiled around its attention, whose kernels are compiled already
        attention = block.self_attn.attn_op
        attention.forward = torch.compiler.disable(attention.forward)
    for network in (guide, student, sparse):
        compile_blocks(network, run)

    def distance(network: DiT, noise: Tensor, text: Tensor) -> Tensor:
        with run.autocast():
            with torch.no_grad():
                wanted = list(chain(guide, noise, text, times))
            answers = list(chain(network, noise, text, times))
        return torch.stack([consistency_loss(answer, clip.float(), channels) for answer, clip in zip(answers, wanted)]).mean()

    def both(noise: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        half = len(noise) // 2
        losses = distance(sparse, noise[:half], text[:half]), distance(student, noise[half:], text[half:])
        return losses[0] + DENSE_WEIGHT * losses[1], *losses

    gradient_step = GradientStep(run, both, optimizers.parameters)
    averages = Averages(0.05)
    run.start_clock()
    for step, progress in run.steps(lambda done: save(ema.module, done)):
        if step % REFRESH_EVERY == 0:
            captions.refresh()
        _, sparse_loss, dense_loss = gradient_step(torch.randn(batch, *latent_shape, device=run.device), captions.draw(batch))
        norm = optimizers.clipped_step(run, trapezoid(progress))
        ema.update()
        averages.note(sparse=sparse_loss, dense=dense_loss)
        if step % 100 == 99:
            run.log(step + 1, **averages.now, grad_norm=norm)


def main() -> None:
    parser = arguments("sla", 540)
    add_model_options(parser, batch=64)
    parser.add_argument("--resume", action="store_true", help="go on from the projections in --weights")
    args = parser.parse_args()
    run, preset = open_run("sla", args), pocket_preset()
    student = (DiT(preset.dit).init_weights() if args.tiny else load_dit(args.weights, "student")).to(run.device)
    run.same_everywhere(student)
    sparse = sparse_twin(student, trained=load_dit(args.weights, "student", sparse=SPARSE) if args.resume else None)
    captions = Captions(run, load_world(), open_text_encoder(run, args), capacity=8 if args.tiny else 4_096, fresh=4 if args.tiny else 64)
    clip = preset.clip
    before = {} if args.tiny else read_manifest(args.weights / "student.safetensors")["metrics"]

    def save(averaged: DiT, step: int) -> None:
        if run.main:
            metrics = before | {"sparse_steps": step, "sparse_seconds": run.elapsed_s, "density": SPARSE.density, "block_q": SPARSE.block_q,
                                "block_k": SPARSE.block_k}
            save_dit(averaged, args.out, "student", metrics)
            run.log(step, saved="student")

    train(run, student, sparse, captions, open_vae(run, args), preset.latent_shape(clip.num_frames, clip.height, clip.width),
          batch=2 if args.tiny else args.batch, sigma_max=preset.turbo.sigma_max, save=save)
    run.barrier()
    run.close()


if __name__ == "__main__":
    main()
