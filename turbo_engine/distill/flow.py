"""Train pocket's teacher: rectified flow with caption dropout, so that it can be guided.

    torchrun --standalone --nproc-per-node 2 -m turbo_engine.distill.flow --weights WEIGHTS --text-encoder .carry/minilm --out OUT

With --resume give a --seed that no run before had: its clips are then new ones.

x_t = (1 - t) x0 + t noise and the target is noise - x0 (Liu et al. 2022, arXiv:2209.03003); t is logit-normal, shifted
towards noise (Esser et al. 2024, arXiv:2403.03206). The loss weighs the subject's latent pixels more: it is a tenth of the
picture and most of what a prompt is about; and each latent channel by what is seen of it. Subjects are drawn by how much the
network misses them.
"""
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from turbo_engine.distill.latents import REFRESH_EVERY, LatentRing, channel_weights
from turbo_engine.distill.pocket import load_dit, load_vae, pocket_preset, save_dit
from turbo_engine.distill.training import EMA, Averages, GradientStep, Optimizers, Run, arguments, open_run, trapezoid
from turbo_engine.distill.world import load_world
from turbo_engine.models.dit import DiT
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE, VAEConfig

TIME_SHIFT = 8.0          # from t = 0.85 down the network draws well; what there is to draw, and where, is settled above
UNIFORM_SHARE = 0.35      # of times drawn uniformly, from UNIFORM_FROM on: a full render's last is 0.4 (t_min of pocket.toml)
UNIFORM_FROM = 0.3
SUBJECT_WEIGHT = 12.0
TOUCHED = 0.25            # a latent pixel with this share of subject counts as its inside: rims err most, and their outer half is the halo
MOST_FOR_A_FRAME = 4.0    # a latent frame's subject weighs by up to so much more where it covers less than in the clip's fullest
CAPTION_DROPOUT = 0.1
MUON_LR, ADAM_LR = 2e-3, 1e-3


def draw_times(batch: int, device: torch.device, shift: float = TIME_SHIFT) -> Tensor:
    """Flow times in (0, 1): logit-normal, moved towards noise by t = s u / (1 + (s - 1) u), some uniform. -> [B] float32."""
    u = torch.sigmoid(torch.randn(batch, device=device))
    uniform = torch.rand(2, batch, device=device)
    return torch.where(uniform[0] < UNIFORM_SHARE, UNIFORM_FROM + (1 - UNIFORM_FROM) * uniform[1], shift * u / (1 + (shift - 1) * u))


def subject_weight(share: Tensor) -> Tensor:
    """What a latent pixel counts for, 1 where nothing of the subject is. An edge-on subject covers a third of the pixels that it does face on, and
    errs most: its latent frame's pixels weigh by as much more. share [B, 1, T, H, W], of the subject. -> same shape."""
    touched = (share / TOUCHED).clamp(max=1)
    area = touched.sum((3, 4), keepdim=True)
    return 1 + SUBJECT_WEIGHT * touched * (area.amax(2, keepdim=True) / area.clamp(min=1e-6)).clamp(max=MOST_FOR_A_FRAME)


def flow_loss(model: DiT, latent: Tensor, share: Tensor, text: Tensor, run: Run, shift: float = TIME_SHIFT,
              channels: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """`flow_errors` at random times with fresh noise."""
    noise = torch.randn_like(latent)
    return flow_errors(model, latent, share, text, noise, draw_times(len(latent), latent.device, shift), run, channels)


def flow_errors(model: DiT, latent: Tensor, share: Tensor, text: Tensor, noise: Tensor, t: Tensor, run: Run,
                channels: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Weighted squared error of the velocity, and that of x0 under each clip's subject, [B], 0 where there is none.
    latent, noise [B, C, T, H, W], share [B, 1, T, H, W], t [B] flow times, channels: as `channel_weights`."""
    at = t.view(-1, 1, 1, 1, 1)
    with run.autocast():
        velocity = model(torch.lerp(latent, noise, at), 1000 * t, text)
    weight, error = subject_weight(share), (velocity - (noise - latent)).square() * channels
    under = (weight - 1).expand_as(error)
    missed = (error.detach() * under).sum((1, 2, 3, 4)) / under.sum((1, 2, 3, 4)).clamp(min=1e-6)
    return (error * weight).mean() / weight.mean(), missed * t.square()


def compile_blocks(model: DiT, run: Run) -> None:
    """Compile each block in place (one graph for all, as their shapes agree)."""
    if run.compile:
        for block in model.blocks:
            block.compile(dynamic=False)


def open_text_encoder(run: Run, args) -> MiniLM:
    """The pruned copy where --text-encoder names one, else the installed one."""
    options = dict(text_len=pocket_preset().text.text_len, device=run.device, dtype=torch.float16 if run.cuda else torch.float32)
    return MiniLM.opened(args.text_encoder, **options)


def open_vae(run: Run, args, *, encoder: bool = False) -> VAE:
    """The autoencoder's decoder, or both halves, from --weights; a small random one with --tiny."""
    preset = pocket_preset()
    if args.tiny:
        vae = VAE(VAEConfig(preset.dit.in_channels, (16, 32, 64), (64, 32, 16), (1, 1, 1)), encoder=encoder).init_weights()
    else:
        vae = load_vae(VAE(preset.vae, encoder=encoder), args.weights)
    return vae.to(run.device, memory_format=torch.channels_last).eval().requires_grad_(False)


def open_ring(run: Run, args, *, capacity: int, fresh: int) -> LatentRing:
    """A ring around the autoencoder's weights and the text encoder, from disk."""
    return LatentRing(run, load_world(), open_vae(run, args, encoder=True), open_text_encoder(run, args), capacity=capacity, fresh=fresh,
                      size=64 if args.tiny else pocket_preset().clip.height)


def train(run: Run, model: DiT, ring: LatentRing, *, batch: int, fill: int, ema_decay: float,
          save: Callable[[DiT, int], None]) -> None:
    """Until the clock runs out; `save` gets the averaged weights and the steps done, three times and at the end."""
    optimizers, ema, averages = Optimizers(model, muon_lr=MUON_LR, adam_lr=ADAM_LR), EMA(model, ema_decay), Averages(0.02)
    compile_blocks(model, run)
    run.start_clock()
    ring.fill(fill)
    run.log(0, ring=ring.count, fill_s=run.elapsed_s)
    channels = channel_weights(ring.vae, ring.latents[:4].float(), run)

    def teacher_flow(latent: Tensor, share: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return flow_loss(model, latent, share, text, run, channels=channels)

    gradient_step = GradientStep(run, teacher_flow, optimizers.parameters)
    for step, progress in run.steps(lambda done: save(ema.module, done)):
        if step % REFRESH_EVERY == 0:
            ring.refresh()
        *clips, subjects = ring.draw(batch, caption_dropout=CAPTION_DROPOUT)
        loss, missed = gradient_step(*clips)
        ring.hardness.note(subjects, missed)
        norm = optimizers.clipped_step(run, trapezoid(progress, decay_from=0.1))
        ema.update()
        averages.note(loss=loss)
        if step % 250 == 249:
            run.log(step + 1, **averages.now, grad_norm=norm, samples=(step + 1) * batch * run.world_size, clips_seen=ring.seen * run.world_size)


def add_model_options(parser, *, batch: int) -> None:
    parser.add_argument("--text-encoder", type=Path, help="folder of a pruned text encoder; default: the installed one")
    parser.add_argument("--batch", type=int, default=batch, help="clips a step on each device")


def main() -> None:
    parser = arguments("flow", 480)
    add_model_options(parser, batch=128)
    parser.add_argument("--resume", action="store_true", help="start from the teacher in --weights")
    args = parser.parse_args()
    run = open_run("flow", args)
    model = load_dit(args.weights, "teacher") if args.resume else DiT(pocket_preset().dit).init_weights()
    model.to(run.device)
    run.same_everywhere(model)
    ring = open_ring(run, args, capacity=64 if args.tiny else 40_960, fresh=4 if args.tiny else 32)

    def save(averaged: DiT, step: int) -> None:
        if run.main:
            metrics = {"steps": step, "samples": step * args.batch * run.world_size, "seconds": run.elapsed_s, "resumed": args.resume}
            save_dit(averaged, args.out, "teacher", metrics)
            hardest = ring.hardness.means().topk(8).indices.tolist()
            run.log(step, saved="teacher", hardest=[ring.world.subjects[i].name for i in hardest], **metrics)

    train(run, model, ring, batch=4 if args.tiny else args.batch, fill=8 if args.tiny else 4_096, ema_decay=0.9995, save=save)
    run.barrier()
    run.close()


if __name__ == "__main__":
    main()
