"""Distil the teacher into a student of one to four steps: score-regularised continuous-time consistency (rCM).

    torchrun --standalone --nproc-per-node 2 -m turbo_engine.distill.rcm --weights WEIGHTS --text-encoder .carry/minilm --out OUT

Two terms, after Zheng et al. 2025 (rCM, arXiv:2510.08431):

* consistency in TrigFlow time (Lu & Song 2024, arXiv:2410.11081): the student's answer must not change along the guided
  teacher's trajectory. Its derivative along that trajectory is a Jacobian-vector product of the student, computed in forward
  mode on the plain-softmax attention path. It keeps every mode of the teacher, and alone is soft.
* score distillation (Yin et al. 2024, arXiv:2405.14867): the student's own few-step clips are noised, and moved from where a
  fake score network (trained on those clips) pulls them to where the guided teacher does. It makes them sharp.

TrigFlow angle a, x_a = cos a x0 + sin a noise. With the flow time t = sin a / (sin a + cos a) and x_t = x_a / (sin a + cos a),
a velocity network v becomes F = ((cos a - sin a) x_a + v) / (sin a + cos a), and its estimate of x0 is cos a x_a - sin a F.
"""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from turbo_engine.distill.flow import add_model_options, compile_blocks, draw_times, flow_loss, open_ring
from turbo_engine.distill.latents import REFRESH_EVERY, LatentRing
from turbo_engine.distill.pocket import load_dit, pocket_preset, save_dit
from turbo_engine.distill.training import EMA, Optimizers, Run, arguments, open_run, trapezoid
from turbo_engine.models.dit import DiT, fused_attention, plain_attention
from turbo_engine.schedule import rcm_times

SIGMA_MAX = 80.0
CONSISTENCY_SHIFT = 4.0      # times of the consistency term lean towards noise: the first steps decide the shot
CONSISTENCY_SHARE = 0.5      # of a batch that the consistency term sees: its derivative is the dearest part of a step
ON_GRID_SHARE = 0.25         # of those times that are exactly the sampler's own
TANGENT_FLOOR = 0.1          # c in g / (rms(g) + c), as in sCM
TANGENT_WARMUP = 0.2         # share of the run over which the tangent's derivative part grows in
SCORE_WEIGHT = 0.5
FAKE_UPDATES = 2
MUON_LR, ADAM_LR = 4e-4, 1e-4


def broadcast(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1, 1)


def trig_velocity(model: DiT, x: Tensor, angle: Tensor, text: Tensor, attention=fused_attention) -> Tensor:
    """F(x_a, a) of a velocity network. x [B, C, T, H, W]; angle [B] rad."""
    sin, cos = broadcast(angle.sin()), broadcast(angle.cos())
    t = angle.sin() / (angle.sin() + angle.cos())
    velocity = model(x / (sin + cos), 1000 * t, text, attention)
    return ((cos - sin) * x + velocity) / (sin + cos)


def denoised_at(model: DiT, x: Tensor, angle: Tensor, text: Tensor) -> Tensor:
    """The network's x0 at x_a: cos a x - sin a F."""
    return broadcast(angle.cos()) * x - broadcast(angle.sin()) * trig_velocity(model, x, angle, text)


@torch.no_grad()
def guided(model: DiT, x: Tensor, angle: Tensor, text: Tensor, guidance_scale: float) -> Tensor:
    """F of the teacher under classifier-free guidance, both halves in one batch."""
    both = trig_velocity(model, x.repeat(2, 1, 1, 1, 1), angle.repeat(2), torch.cat((text, torch.zeros_like(text))))
    with_text, without = both.float().chunk(2)
    return torch.lerp(without, with_text, guidance_scale)


def consistency_tangent(student: DiT, x: Tensor, angle: Tensor, text: Tensor, teacher_velocity: Tensor,
                        warmup: float | Tensor) -> tuple[Tensor, Tensor]:
    """F of the student without gradient, and the direction g that its training moves F in.

    g = -cos^2 a (F - dx/da) - r cos a sin a (x + dF/da), normalised; dF/da is the total derivative along dx/da = the
    teacher's F (arXiv:2410.11081, eq. 8 and section 4.2). float32 throughout.
    """
    sin, cos = broadcast(angle.sin()), broadcast(angle.cos())
    with torch.no_grad():
        def along(x_a: Tensor, a: Tensor) -> Tensor:
            return trig_velocity(student, x_a, a, text, plain_attention)

        # The tangents carry cos a sin a already: the product stays bounded where dF/da does not.
        value, derivative = torch.func.jvp(along, (x, angle), (cos * sin * teacher_velocity, (angle.sin() * angle.cos())))
        g = -cos.square() * (value - teacher_velocity) - warmup * (cos * sin * x + derivative)
        return value, g / (g.square().mean((1, 2, 3, 4), keepdim=True).sqrt() + TANGENT_FLOOR)


def sampler_angles(num_steps: int) -> list[float]:
    """TrigFlow angles at which the sampler of that many steps evaluates the student, from noise on, rad."""
    times = rcm_times(num_steps, SIGMA_MAX)[:-1]
    return torch.atan2(times, 1 - times).tolist()


def draw_angles(batch: int, device: torch.device) -> Tensor:
    """Angles for the consistency term: flow times leaning to noise, a quarter of them the sampler's own. -> [B] rad."""
    t = draw_times(batch, device, CONSISTENCY_SHIFT).clamp(1e-3, SIGMA_MAX / (1 + SIGMA_MAX))
    grid = torch.tensor(sampler_angles(4), device=device)
    own = grid[torch.randint(0, len(grid), (batch,), device=device)]
    return torch.where(torch.rand(batch, device=device) < ON_GRID_SHARE, own, torch.atan(t / (1 - t)))


def rollout(student: DiT, noise: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
    """The student's clip after one to four steps of its own sampler; only the last step carries gradient.

    The number of steps is drawn anew, and each step re-noises with fresh noise or with the first noise again, so that both
    the stochastic and the fixed-noise sampler are trained for. noise [B, C, T, H, W] -> x0 estimate, like noise.
    """
    steps, fixed, last = (int(torch.randint(0, n, (1,), generator=generator)) for n in (4, 2, 4))
    angles = sampler_angles(steps + 1)
    last = last % (steps + 1)                                # gradient may enter at any of the steps
    denoised, x = noise, noise
    for i, angle in enumerate(angles[:last + 1]):
        if i:
            fresh = noise if fixed else torch.randn_like(noise)
            x = math.cos(angle) * denoised + math.sin(angle) * fresh
        at = torch.full((len(noise),), angle, device=noise.device, dtype=torch.float32)
        with torch.set_grad_enabled(i == last):
            denoised = denoised_at(student, x, at, text)
    return denoised


def score_loss(generated: Tensor, teacher: DiT, fake: DiT, text: Tensor, guidance_scale: float) -> Tensor:
    """Moves `generated` along (teacher x0 - fake x0) at a random noise level, scaled by the teacher's own error."""
    with torch.no_grad():
        t = draw_times(len(generated), generated.device, 2.0).clamp(0.02, 0.98)
        angle = torch.atan(t / (1 - t))
        sin, cos = broadcast(angle.sin()), broadcast(angle.cos())
        x = cos * generated + sin * torch.randn_like(generated)
        real = cos * x - sin * guided(teacher, x, angle, text, guidance_scale)
        false = denoised_at(fake, x, angle, text).float()
        scale = (generated - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
        target = generated + (real - false) / scale
    return 0.5 * (generated - target).square().mean()


def twin_of(model: DiT) -> DiT:
    """A second module over the same storage, without gradients, for the path that takes forward-mode derivatives."""
    twin = DiT(model.config)
    twin.load_state_dict({key: p.detach() for key, p in model.named_parameters()}, assign=True)
    return twin.requires_grad_(False)


def train(run: Run, teacher: DiT, student: DiT, fake: DiT, ring: LatentRing, *, batch: int, fill: int, guidance_scale: float,
          save: Callable[[DiT, int], None]) -> None:
    """Until the clock runs out; `save` gets the averaged student and the steps done, three times and at the end."""
    ema, plain = EMA(student, 0.998), twin_of(student)
    tangent_of = run.compiled(consistency_tangent)
    for model in (teacher, student, fake):
        compile_blocks(model, run)
    optimizers = Optimizers(student, muon_lr=MUON_LR, adam_lr=ADAM_LR)
    fake_optimizers = Optimizers(fake, muon_lr=1.5 * MUON_LR, adam_lr=1.5 * ADAM_LR)
    generator = torch.Generator().manual_seed(run.seed // 1_000)      # the same draws of step counts on every process
    averages: dict[str, Tensor] = {}
    step = skipped = 0
    run.start_clock()
    ring.fill(fill)
    while (progress := run.progress()) < 1:
        run.trace(step)
        if run.due(progress, 3):
            save(ema.module, step)
        if step % REFRESH_EVERY == 0:
            ring.refresh()
        factor = trapezoid(progress, decay_from=0.5)
        latent, share, text = ring.draw(batch)
        part = latent[:max(1, int(CONSISTENCY_SHARE * batch))]
        words = text[:len(part)]

        angle = draw_angles(len(part), run.device)
        x = broadcast(angle.cos()) * part + broadcast(angle.sin()) * torch.randn_like(part)
        with run.autocast():
            teacher_velocity = guided(teacher, x, angle, words, guidance_scale)
        warmup = torch.tensor(min(1.0, progress / TANGENT_WARMUP), device=run.device)
        _, tangent = tangent_of(plain, x, angle, words, teacher_velocity, warmup)
        with run.autocast():
            value = trig_velocity(student, x, angle, words)
        # |F - sg(F) - g|^2 in units of x0, whose derivative by F is -sin a: near the clip F magnifies what is left of noise.
        consistency = 0.5 * (broadcast(angle.sin()) * (value - (value.detach() + tangent))).square().mean()

        with run.autocast():
            generated = rollout(student, torch.randn_like(latent), text, generator).float()
            score = score_loss(generated, teacher, fake, text, guidance_scale)
        loss = consistency + SCORE_WEIGHT * score
        optimizers.zero_grad()
        loss.backward()
        run.average_gradients(optimizers.parameters)
        norm = torch.nn.utils.clip_grad_norm_(optimizers.parameters, 1.0)
        if torch.isfinite(norm):
            optimizers.step(factor)
            ema.update()
        else:
            skipped += 1

        for _ in range(FAKE_UPDATES):
            fake_loss = flow_loss(fake, generated.detach(), torch.zeros_like(share), text, run, shift=2.0)
            fake_optimizers.zero_grad()
            fake_loss.backward()
            run.average_gradients(fake_optimizers.parameters)
            torch.nn.utils.clip_grad_norm_(fake_optimizers.parameters, 1.0)
            fake_optimizers.step(factor)
        step += 1
        now = {"fake_loss": fake_loss, "grad_norm": norm, "score": score, "generated_std": generated.std(),
               "drift": (value - teacher_velocity).square().mean()}
        for name, metric in now.items():
            averages[name] = averages[name].lerp(metric.detach(), 0.05) if name in averages else metric.detach()
        if step % 50 == 0:
            run.log(step, skipped=skipped, samples=step * batch * run.world_size, **averages)
    save(ema.module, step)


def main() -> None:
    parser = arguments("rcm", 420)
    add_model_options(parser)
    parser.add_argument("--resume", action="store_true", help="start from the student in --weights instead of the teacher")
    args = parser.parse_args()
    run, preset = open_run("rcm", args), pocket_preset()
    if args.tiny:
        teacher, student, fake = (DiT(preset.dit).init_weights() for _ in range(3))
    else:
        teacher, fake = load_dit(args.weights, "teacher"), load_dit(args.weights, "teacher")
        student = load_dit(args.weights, "student" if args.resume else "teacher")
    for model in (teacher, student, fake):
        model.to(run.device)
        run.same_everywhere(model)
    teacher.eval().requires_grad_(False)
    ring = open_ring(run, args, capacity=16 if args.tiny else 20_480, fresh=4 if args.tiny else 16)

    def save(averaged: DiT, step: int) -> None:
        if run.main:
            metrics = {"steps": step, "samples": step * args.batch * run.world_size, "seconds": run.elapsed_s, "resumed": args.resume,
                       "guidance_scale": preset.full.guidance_scale,
                       "method": "rCM: continuous-time consistency (JVP) + score distillation"}
            save_dit(averaged, args.out, "student", metrics)
            run.log(step, saved="student")

    train(run, teacher, student, fake, ring, batch=2 if args.tiny else args.batch, fill=8 if args.tiny else 2_048,
          guidance_scale=preset.full.guidance_scale, save=save)
    run.barrier()
    run.close()


if __name__ == "__main__":
    main()
