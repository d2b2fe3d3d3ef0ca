"""Distil the teacher into a student of one to four steps, on the schedule of rCM (Zheng et al. 2025, arXiv:2510.08431).

    torchrun --standalone --nproc-per-node 2 -m turbo_engine.distill.student --weights WEIGHTS --text-encoder .carry/minilm --out OUT

Two terms, both on the clips of the student's own sampler, each step of which starts from what the step before gave:

* consistency with the teacher's trajectories, discretely: a pool holds noise and the clip where the guided teacher's ODE ends
  from it, and every step of the student must answer that clip. It keeps every mode of the teacher, so that a seed's turbo
  clip is the shot of its full render. With noise and clip so paired, straight lines between them hardly cross (Liu et al.
  2022, arXiv:2209.03003), which is what makes few steps with the first noise again enough.
* score distillation (Yin et al. 2024, arXiv:2405.14867), from SCORE_FROM of the run on: the student's clips are noised, and
  moved from where a fake score network (trained on those clips) pulls them to where the guided teacher does: sharpness.

rCM's own consistency term, continuous in time by a Jacobian-vector product, did not hold at this compute: docs/log.md.
"""
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from turbo_engine.distill.captions import caption
from turbo_engine.distill.flow import add_model_options, compile_blocks, draw_times, flow_loss, open_text_encoder, open_vae
from turbo_engine.distill.latents import channel_weights
from turbo_engine.distill.pocket import load_dit, pocket_preset, save_dit
from turbo_engine.distill.training import EMA, Averages, GradientStep, Optimizers, Run, arguments, open_run, trapezoid
from turbo_engine.distill.turns import Turns
from turbo_engine.distill.world import TAUGHT_MOTIONS, World, load_world, sample_specs
from turbo_engine.models.dit import DiT
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE
from turbo_engine.presets import Preset
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times, rcm_times

TEACHER_STEPS = 16           # UniPC; its clips differ from 50 steps' by 8 % RMS (4 steps: 27 %)
REFRESH_EVERY = 4            # training steps
SCORE_FROM = 0.15            # share of the run after which score distillation joins; the fake network starts a little sooner
FAKE_FROM = 0.1
SCORE_WEIGHT = 1.0
SCORE_SHIFT = 2.5            # of the times it is taken at: looks, rather than what there is to see
HUBER = 0.03                 # of sqrt(mean square + c^2) - c, in latent standard deviations (Song & Dhariwal 2023, arXiv:2310.14189)
MUON_LR, ADAM_LR = 1e-3, 4e-4
FAKE_LR = 0.5                # of the student's rates


def denoised_at(model: DiT, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The network's x0 at x_t = (1 - t) x0 + t noise. x [B, C, T, H, W]; t [B]."""
    return x - t.view(-1, 1, 1, 1, 1) * model(x, 1000 * t, text)


def chain(student: DiT, noise: Tensor, text: Tensor, times: list[float]) -> Iterator[Tensor]:
    """The student's x0 after each step of the fixed-noise sampler, each with a gradient of its own step alone.

    noise [B, C, T, H, W]; times as of `rcm_times`. One run covers all step counts: their times are prefixes of one list.
    """
    x = noise * times[0]
    for t, t_next in zip(times, times[1:]):
        denoised = denoised_at(student, x, torch.full((len(noise),), t, device=noise.device), text)
        yield denoised
        x = torch.lerp(denoised.detach(), noise, t_next)


def consistency_loss(denoised: Tensor, clip: Tensor, channels: Tensor | float = 1.0) -> Tensor:
    """Pseudo-Huber distance of each clip, averaged: near a norm, so that steps and clips that are nearly right still count.
    channels: as `channel_weights`."""
    return (((denoised.float() - clip).square() * channels).mean((1, 2, 3, 4)) + HUBER ** 2).sqrt().mean() - HUBER


@torch.no_grad()
def guided_at(teacher: DiT, x: Tensor, t: Tensor, text: Tensor, guidance_scale: float) -> Tensor:
    """The teacher's x0 under classifier-free guidance, both halves in one batch."""
    both = denoised_at(teacher, x.repeat(2, 1, 1, 1, 1), t.repeat(2), torch.cat((torch.zeros_like(text), text)))
    without, with_text = both.chunk(2)
    return torch.lerp(without, with_text, guidance_scale)


def score_loss(generated: Tensor, teacher: DiT, fake: DiT, text: Tensor, guidance_scale: float) -> Tensor:
    """Moves `generated` along (guided teacher's x0 - fake x0) at a random noise level, scaled by the teacher's own error."""
    with torch.no_grad():
        t = draw_times(len(generated), generated.device, SCORE_SHIFT).clamp(0.02, 0.98)
        x = torch.lerp(generated, torch.randn_like(generated), t.view(-1, 1, 1, 1, 1))
        real = guided_at(teacher, x, t, text, guidance_scale)
        false = denoised_at(fake, x, t, text)
        scale = (generated - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
        target = generated + (real - false) / scale
    return 0.5 * (generated - target).square().mean()


class TrajectoryPool:
    """Ends of the guided teacher's trajectories: noise, clip and text, the newest `capacity` on the device."""

    def __init__(self, run: Run, teacher: DiT, preset: Preset, world: World, text_encoder: MiniLM, *, capacity: int, fresh: int):
        self.run, self.teacher, self.full, self.world, self.text_encoder = run, teacher, preset.full, world, text_encoder
        self.rng = random.Random(70_000 + run.seed)
        self.turns = Turns(capacity, fresh)
        clip, kind = preset.clip, dict(device=run.device, dtype=torch.bfloat16 if run.cuda else torch.float32)
        shape = preset.latent_shape(clip.num_frames, clip.height, clip.width)
        self.noise, self.clips = (torch.empty(self.turns.capacity, *shape, **kind) for _ in range(2))
        self.texts = torch.empty(self.turns.capacity, text_encoder.text_len, text_encoder.dim, **kind)
        self._times = flow_times(TEACHER_STEPS, self.full.shift, self.full.t_min)

    @property
    def count(self) -> int:
        return self.turns.count

    @torch.no_grad()
    def refresh(self) -> None:
        """`fresh` new clips by the teacher, of captions as it was trained on."""
        specs = sample_specs(self.world, self.turns.fresh, self.rng, motion_weights=TAUGHT_MOTIONS)
        captions = [caption(self.world, spec, self.rng) for spec in specs]
        text = self.text_encoder.encode(captions, remember=False).float()
        noise = torch.randn(self.turns.fresh, *self.noise.shape[1:], device=self.noise.device).to(self.noise.dtype)    # as stored

        def denoise(x: Tensor, t: float) -> Tensor:
            with self.run.autocast():
                return guided_at(self.teacher, x.float(), torch.full((len(x),), t, device=x.device), text, self.full.guidance_scale)

        *_, last = SAMPLERS[self.full.sampler](denoise, noise, self._times, noise.clone)
        where = self.turns.take()
        self.noise[where], self.clips[where], self.texts[where] = noise, last.latent.to(self.clips.dtype), text.to(self.texts.dtype)

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """noise, clip [B, C, T, H, W] and text [B, S, D], float32."""
        index = torch.randint(0, self.count, (batch,), device=self.noise.device)
        return self.noise[index].float(), self.clips[index].float(), self.texts[index].float()


def train(run: Run, student: DiT, fake: DiT, pool: TrajectoryPool, vae: VAE, *, batch: int, sigma_max: float,
          save: Callable[[DiT, int], None]) -> None:
    """Until the clock runs out; `save` gets the averaged student and the steps done, three times and at the end. vae: what `channel_weights` wants."""
    ema, times = EMA(student, 0.998), rcm_times(4, sigma_max).tolist()
    for model in (pool.teacher, student, fake):
        compile_blocks(model, run)
    optimizers = Optimizers(student, muon_lr=MUON_LR, adam_lr=ADAM_LR)
    fake_optimizers = Optimizers(fake, muon_lr=FAKE_LR * MUON_LR, adam_lr=FAKE_LR * ADAM_LR)

    def answers(noise: Tensor, clip: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        with run.autocast():
            steps = torch.stack(list(chain(student, noise, text, times)))
        return steps, torch.stack([consistency_loss(step, clip, channels) for step in steps])

    def consistency(noise: Tensor, clip: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        steps, losses = answers(noise, clip, text)
        return losses.mean(), losses, steps

    def with_score(noise: Tensor, clip: Tensor, text: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        steps, losses = answers(noise, clip, text)
        with run.autocast():
            score = score_loss(steps.index_select(0, which)[0], pool.teacher, fake, text, pool.full.guidance_scale)
        return losses.mean() + SCORE_WEIGHT * score, losses, steps, score

    def fake_flow(clip: Tensor, text: Tensor) -> tuple[Tensor]:
        return flow_loss(fake, clip, torch.zeros_like(clip[:, :1]), text, run, SCORE_SHIFT)[:1]

    consistency_step = GradientStep(run, consistency, optimizers.parameters)
    score_step = GradientStep(run, with_score, optimizers.parameters)
    fake_step = GradientStep(run, fake_flow, fake_optimizers.parameters)
    averages = Averages(0.05)
    run.start_clock()
    while pool.count < min(2 * batch, len(pool.noise)):
        pool.refresh()
    channels = channel_weights(vae, pool.clips[:4].float(), run)
    for step, progress in run.steps(lambda done: save(ema.module, done)):
        if step % REFRESH_EVERY == 0:
            pool.refresh()
        factor = trapezoid(progress, decay_from=0.5)
        noise, clip, text = pool.draw(batch)
        now: dict[str, Tensor] = {}
        if progress < SCORE_FROM:
            _, losses, steps = consistency_step(noise, clip, text)
        else:
            which = torch.randint(0, len(times) - 1, (1,), device=run.device)
            _, losses, steps, now["score"] = score_step(noise, clip, text, which)
        now |= {f"step_{i}": loss for i, loss in enumerate(losses, 1)} | {"std": steps[-1].std(), "clip_std": clip.std()}
        now["grad_norm"] = optimizers.clipped_step(run, factor)
        ema.update()
        if progress >= FAKE_FROM:
            now["fake_loss"], = fake_step(steps[int(torch.randint(0, len(steps), ()))], text)
            fake_optimizers.clipped_step(run, factor)
        averages.note(**now)
        if step % 100 == 99:
            run.log(step + 1, samples=(step + 1) * batch * run.world_size, **averages.now)


def main() -> None:
    parser = arguments("student", 420)
    add_model_options(parser, batch=64)
    parser.add_argument("--resume", action="store_true", help="start from the student in --weights instead of the teacher")
    args = parser.parse_args()
    run, preset = open_run("student", args), pocket_preset()
    if args.tiny:
        teacher, student, fake = (DiT(preset.dit).init_weights() for _ in range(3))
    else:
        teacher, fake = load_dit(args.weights, "teacher"), load_dit(args.weights, "teacher")
        student = load_dit(args.weights, "student" if args.resume else "teacher")
    for model in (teacher, student, fake):
        model.to(run.device)
        run.same_everywhere(model)
    teacher.eval().requires_grad_(False)
    pool = TrajectoryPool(run, teacher, preset, load_world(), open_text_encoder(run, args), capacity=4 if args.tiny else 8_192,
                          fresh=2 if args.tiny else 64)

    def save(averaged: DiT, step: int) -> None:
        if run.main:
            metrics = {"steps": step, "samples": step * args.batch * run.world_size, "seconds": run.elapsed_s, "resumed": args.resume,
                       "guidance_scale": preset.full.guidance_scale,
                       "method": "discrete consistency on the teacher's trajectories + score distillation, rCM schedule"}
            save_dit(averaged, args.out, "student", metrics)
            run.log(step, saved="student")

    train(run, student, fake, pool, open_vae(run, args), batch=2 if args.tiny else args.batch, sigma_max=preset.turbo.sigma_max, save=save)
    run.barrier()
    run.close()


if __name__ == "__main__":
    main()
