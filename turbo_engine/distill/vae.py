"""Train pocket's video autoencoder on crops of rendered clips.

    torchrun --standalone --nproc-per-node 2 -m turbo_engine.distill.vae --seconds 420 --out OUT
    ... --decoder-only --weights WEIGHTS       # sharpen the decoder; latents, and so teacher and student, stay as they are

Loss: L1 and squared error, image gradients at three scales and frame differences, all heavier under the subject, the energy of gradients by
neighbourhoods, and a faint KL term.
Latent statistics are measured at the end. PSNR is reported on held-out clips, whole frames and under the subject's mask.
"""
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from turbo_engine.distill.clips import Compositor
from turbo_engine.distill.training import EMA, Run, arguments, open_run, trapezoid
from turbo_engine.distill.turns import Turns
from turbo_engine.distill.world import TAUGHT_MOTIONS, World, load_world, sample_specs
from turbo_engine.models.vae import VAE, VAEConfig

MASK_WEIGHT = 3.0
KL_WEIGHT = 1e-4
MSE_WEIGHT = 2.0          # what PSNR measures; alone it is soft
ENERGY_WEIGHT = 4.0       # edges with nearly all of their strength: docs/log.md
PEAK_LR = 7e-4            # a norm-free net: 2e-3 collapsed to a flat picture in a trial run, 7e-4 did not
CROP, WINDOW = 128, 17


class CropPool:
    """Rendered crops on the device; every step replaces some, so that each is seen a few times."""

    def __init__(self, compositor: Compositor, world: World, rng: random.Random, *, capacity: int, fresh: int, size: int, crop: int):
        self.compositor, self.world, self.rng = compositor, world, rng
        self.turns, self.size, self.crop = Turns(capacity, fresh), size, crop
        capacity = self.turns.capacity
        device = compositor.device
        self.frames = torch.empty(capacity, 3, WINDOW, crop, crop, dtype=torch.uint8, device=device)
        self.mask = torch.empty(capacity, 1, WINDOW, crop, crop, dtype=torch.uint8, device=device)
        while self.turns.count < capacity:
            self.refresh()

    def refresh(self) -> None:
        scene = self.rng.randrange(len(self.world.scenes))
        specs = sample_specs(self.world, self.turns.fresh, self.rng, scene=scene, motion_weights=TAUGHT_MOTIONS)
        frames, mask = self.compositor.render(specs, size=self.size, window=WINDOW, crop=self.crop, rng=self.rng)
        where = self.turns.take()
        self.frames[where] = (frames * 255).round().to(torch.uint8)
        self.mask[where] = (mask * 255).round().to(torch.uint8)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """frames [B, 3, T, H, W] in [-1, 1] and mask [B, 1, T, H, W] in [0, 1]."""
        index = torch.randint(0, self.turns.count, (count,), device=self.frames.device)
        return self.frames[index].float() / 127.5 - 1, self.mask[index].float() / 255


def reconstruction_loss(output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted L1, gradient and frame-difference errors. output, target [B, 3, T, H, W]; mask [B, 1, T, H, W]."""
    error = output.float() - target
    edge = F.max_pool2d(mask.squeeze(1), 5, 1, 2)[:, None]
    weight = 1 + MASK_WEIGHT * edge
    l1 = (error.abs() * weight).mean() / weight.mean()
    gradient = error.new_zeros(())
    flat, w = error.transpose(1, 2).flatten(0, 1), weight.transpose(1, 2).flatten(0, 1)
    for scale_weight in (1.0, 0.7, 0.5):
        dx, dy = flat[..., 1:] - flat[..., :-1], flat[..., 1:, :] - flat[..., :-1, :]
        gradient = gradient + scale_weight * ((dx.abs() * w[..., 1:]).mean() + (dy.abs() * w[..., 1:, :]).mean()) / w.mean()
        flat, w = F.avg_pool2d(flat, 2), F.avg_pool2d(w, 2)
    return l1, gradient, (error[:, :, 1:] - error[:, :, :-1]).abs().mean()


def energy_loss(output: Tensor, target: Tensor) -> Tensor:
    """How far the clips' gradient energies are apart, by neighbourhoods of 8 x 8 pixels: where an edge cannot be placed to the pixel, the least
    error is a soft one, and this asks for one as strong as it should be. Gradients are over two pixels and smoothed across (Sobel), blind to patterns
    of every other pixel: of plain differences these have the most energy for their error, and a decoder drew dots. output, target [B, 3, T, H, W]."""
    def strength(frames: Tensor) -> Tensor:
        flat = frames.float().transpose(1, 2).flatten(0, 1)
        smooth_y, smooth_x = flat[..., :-2, :] + 2 * flat[..., 1:-1, :] + flat[..., 2:, :], flat[..., :-2] + 2 * flat[..., 1:-1] + flat[..., 2:]
        energy = ((smooth_y[..., 2:] - smooth_y[..., :-2]).square() + (smooth_x[..., 2:, :] - smooth_x[..., :-2, :]).square()) / 64
        return (F.avg_pool2d(energy.mean(1, keepdim=True), 8, 4) + 1e-5).sqrt()

    return (strength(output) - strength(target)).abs().mean()


def finest(frames: Tensor) -> Tensor:
    """Energy of what changes from each pixel to the next and back, across or down, a clip: next to nothing in a rendered one, and much where a decoder
    draws dots. frames [B, 3, T, H, W] -> [B]."""
    def energy(x: Tensor) -> Tensor:
        for _ in range(8):                        # differences of differences: (sin(w / 2)) ** 8, 1 for every other pixel, 1/16 at half of that rate
            x = (x[..., 1:] - x[..., :-1]) / 2
        return x.square().mean((1, 2, 3, 4))

    return energy(frames.float()) + energy(frames.float().transpose(-1, -2))


def psnr(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """PSNR in dB a clip, peak 1. output, target [B, 3, T, H, W]; mask [B, 1, T, H, W] weighs the pixels. -> [B]."""
    error = (output.float() - target.float()).square()
    if mask is None:
        mse = error.mean((1, 2, 3, 4))
    else:
        mse = (error * mask).sum((1, 2, 3, 4)) / (3 * mask.sum((1, 2, 3, 4))).clamp(min=1)
    return -10 * mse.clamp(min=1e-10).log10()


@torch.no_grad()
def evaluate(vae: VAE, compositor: Compositor, world: World, run: Run, *, clips_per_scene: int, size: int) -> tuple[dict, list]:
    """PSNR on held-out clips by scene, the energy of their finest patterns as a share of the rendered ones', and (source, reconstruction) uint8 pairs [T, H, W, 3] to look at."""
    rng = random.Random(777)
    whole, subject, fine, pairs, by_scene = [], [], [], [], {}
    for scene in range(len(world.scenes)):
        specs = sample_specs(world, clips_per_scene, rng, held_out=True, scene=scene)
        scores = []
        for start in range(0, len(specs), 4):
            frames, mask = compositor.render(specs[start:start + 4], size=size)
            with run.autocast():
                output = vae.decode(vae.encode(frames))
            scores.append(psnr(output, frames))
            subject.append(psnr(output, frames, (mask > 0.5).float()))
            fine.append(torch.stack((finest(output), finest(frames))))
        whole += scores
        by_scene[world.scenes[scene].name] = round(float(torch.cat(scores).mean()), 2)
        both = torch.stack((frames[0], output[0])).permute(0, 2, 3, 4, 1)
        pairs.append((both * 255).round().to(torch.uint8).cpu().numpy())
    drawn, there = torch.cat(fine, 1).mean(1).tolist()
    metrics = {"psnr_db": float(torch.cat(whole).mean()), "psnr_subject_db": float(torch.cat(subject).mean()), "clips": len(torch.cat(whole)),
               "finest": round(drawn / there, 3)}
    return metrics | {"psnr_by_scene_db": by_scene}, pairs


@torch.no_grad()
def measure_statistics(vae: VAE, compositor: Compositor, world: World, run: Run, *, count: int, size: int) -> None:
    """Set latent_mean and latent_std from fresh clips; a nearly dead channel is not blown up."""
    rng, latents = random.Random(4242), []
    vae.latent_mean.zero_()
    vae.latent_std.fill_(1)
    for _ in range(0, count, 8):
        frames, _ = compositor.render(sample_specs(world, 8, rng), size=size)
        with run.autocast():
            latents.append(vae.encode(frames).transpose(0, 1).flatten(1))
    latent = torch.cat(latents, 1)
    std = latent.std(1)
    vae.latent_mean.copy_(latent.mean(1))
    vae.latent_std.copy_(torch.maximum(std, 0.35 * std.median()))


def train(run: Run, vae: VAE, pool: CropPool, *, batch: int, ramp_steps: int) -> tuple[EMA, int]:
    """The loop: until the clock runs out. Returns the averaged weights and the steps done.

    ramp_steps: over which latent noise and edge losses grow in; 0 where training goes on from good weights.
    """
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01, fused=run.cuda)
    encoder, decoder = vae.encoder, vae.decoder
    if run.compile:
        encoder, decoder = torch.compile(encoder, dynamic=False), torch.compile(decoder, dynamic=False)
    ema, step = EMA(vae, 0.9985), -1
    run.start_clock()
    for step, progress in run.steps():
        pool.refresh()
        frames, mask = pool.draw(batch)
        # Edges count only once the means are right: a flat picture has small gradient error.
        ramp = min(1.0, max(0, step - ramp_steps // 5) / ramp_steps) if ramp_steps else 1.0
        with run.autocast():
            mean, log_variance = encoder(frames)
            noise = torch.randn_like(mean) * (0.5 * log_variance).exp() * ramp
            output = decoder(mean + noise)
        l1, gradient, flicker = reconstruction_loss(output, frames, mask)
        kl = (0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)).mean()
        looks = 0.6 * gradient + 0.3 * flicker + ENERGY_WEIGHT * energy_loss(output, frames)
        loss = l1 + MSE_WEIGHT * F.mse_loss(output.float(), frames) + ramp * (looks + KL_WEIGHT * kl)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        run.average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.7)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * trapezoid(progress, floor=0.02)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            run.log(step + 1, loss=loss.detach(), l1=l1.detach(), gradient=gradient.detach(), kl=kl.detach(), grad_norm=norm,
                    clips_seen=(step + 1) * batch * run.world_size)
    return ema, step + 1


def main() -> None:
    from turbo_engine.distill.pocket import pocket_preset, save_vae, load_vae
    from turbo_engine.distill.sheet import contact_sheet

    parser = arguments("vae", 420)
    parser.add_argument("--resume", action="store_true", help="start from the weights in --weights")
    parser.add_argument("--decoder-only", action="store_true", help="as --resume, and leave the encoder and the latent statistics alone")
    args = parser.parse_args()
    run, world = open_run("vae", args), load_world()
    config = VAEConfig(16, (16, 32, 64), (64, 32, 16), (1, 1, 1)) if args.tiny else pocket_preset().vae
    size = 64 if args.tiny else 256
    vae = VAE(config).init_weights()
    if args.resume or args.decoder_only:
        load_vae(vae, args.weights)
    vae.encoder.requires_grad_(not args.decoder_only)
    vae.to(run.device, memory_format=torch.channels_last)
    run.same_everywhere(vae)
    compositor = Compositor(world, run.device)
    if not args.tiny:
        compositor.prepare(size=size)
    rng = random.Random(1_000 + run.seed)
    pool = CropPool(compositor, world, rng, capacity=32 if args.tiny else 1536, fresh=4 if args.tiny else 16, size=size,
                    crop=32 if args.tiny else CROP)
    ema, step = train(run, vae, pool, batch=4 if args.tiny else 64, ramp_steps=0 if args.resume or args.decoder_only else 500)
    if run.main:
        averaged = ema.module
        if not args.decoder_only:
            measure_statistics(averaged, compositor, world, run, count=8 if args.tiny else 512, size=size)
        metrics, pairs = evaluate(averaged, compositor, world, run, clips_per_scene=1 if args.tiny else 8, size=size)
        run.log(step, **metrics)
        save_vae(averaged, args.out, metrics | {"steps": step, "seconds": args.seconds})
        videos = [video for pair in pairs for video in pair]
        labels = [text for scene in world.scenes for text in (f"{scene.name}: source", f"{scene.name}: reconstruction")]
        contact_sheet(videos, labels, Path(args.out) / "vae.png", columns=2)
    run.barrier()
    run.close()


if __name__ == "__main__":
    main()
