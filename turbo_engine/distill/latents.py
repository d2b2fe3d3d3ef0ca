"""A ring of encoded clips on the device: what the teacher is trained on.

Rendering and encoding a clip costs several training steps' worth of one sample, so each clip is kept and drawn some
16 times, with fresh noise and one of two captions, before the run ends or a newer one takes its place.
"""
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from turbo_engine.distill.captions import caption
from turbo_engine.distill.clips import Compositor
from turbo_engine.distill.hardness import Hardness
from turbo_engine.distill.training import Run
from turbo_engine.distill.turns import Turns
from turbo_engine.distill.world import TAUGHT_MOTIONS, World, sample_specs
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE

CAPTIONS_EACH = 2
LEAST_WEIGHT = 0.2        # of a latent channel, however little of it is seen
REWEIGH_EVERY = 64        # refreshes, from when on subjects are drawn by how hard they are
REFRESH_EVERY = 4         # training steps. A run's own clips are learned better than others, the more so the fewer they are: docs/log.md


class LatentRing:
    """Latents, the subject's share of each latent pixel, and token states of two captions a clip."""

    def __init__(self, run: Run, world: World, vae: VAE, text_encoder: MiniLM, *, capacity: int, fresh: int, size: int):
        self.run, self.world, self.vae, self.text_encoder = run, world, vae, text_encoder
        self.compositor = Compositor(world, run.device)
        if not run.tiny:
            self.compositor.prepare(size=size)
        self.rng = random.Random(50_000 + run.seed)
        self.hardness = Hardness(len(world.subjects), run.device)
        self._subject_weights: list[float] | None = None
        self.turns, self.seen, self.size = Turns(capacity, fresh), 0, size
        capacity = self.turns.capacity
        side = size // vae.config.spatial_stride
        kind = dict(device=run.device, dtype=torch.bfloat16 if run.cuda else torch.float32)
        self.latents = torch.empty(capacity, vae.config.latent_channels, 9, side, side, **kind)
        self.shares = torch.empty(capacity, 1, 9, side, side, **kind)
        self.texts = torch.empty(capacity, CAPTIONS_EACH, text_encoder.text_len, text_encoder.dim, **kind)
        self.subjects = torch.empty(capacity, device=run.device, dtype=torch.int64)

    @property
    def count(self) -> int:
        return self.turns.count

    @torch.no_grad()
    def refresh(self) -> None:
        """Render, encode and caption `fresh` new clips of one scene."""
        fresh = self.turns.fresh
        if self.seen and self.seen % (REWEIGH_EVERY * fresh) == 0:
            self._subject_weights = self.hardness.weights()
        scene = self.rng.randrange(len(self.world.scenes))
        specs = sample_specs(self.world, fresh, self.rng, scene=scene, motion_weights=TAUGHT_MOTIONS, subject_weights=self._subject_weights)
        frames, mask = self.compositor.render(specs, size=self.size)
        with self.run.autocast():
            latent = self.vae.encode(frames)
        captions = [caption(self.world, spec, self.rng) for spec in specs for _ in range(CAPTIONS_EACH)]
        text = self.text_encoder.encode(captions, remember=False)
        where = self.turns.take()
        self.latents[where] = latent.to(self.latents.dtype)
        self.shares[where] = latent_share(mask, latent.shape[-1]).to(self.shares.dtype)
        self.texts[where] = text.unflatten(0, (fresh, CAPTIONS_EACH)).to(self.texts.dtype)
        self.subjects[where] = torch.tensor([spec.subject for spec in specs], device=self.subjects.device)
        self.seen += fresh

    def fill(self, count: int) -> None:
        """Refresh until the ring holds `count` clips."""
        while self.count < count:
            self.refresh()

    def draw(self, batch: int, *, caption_dropout: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """latent [B, C, T, H, W] float32, share [B, 1, T, H, W] in [0, 1], text [B, S, D], zero where dropped, and which subject it is, [B]."""
        device = self.latents.device
        index = torch.randint(0, self.count, (batch,), device=device)
        which = torch.randint(0, CAPTIONS_EACH, (batch,), device=device)
        keep = (torch.rand(batch, 1, 1, device=device) >= caption_dropout).float()
        return self.latents[index].float(), self.shares[index].float(), self.texts[index, which].float() * keep, self.subjects[index]


def latent_share(mask: Tensor, side: int) -> Tensor:
    """Mean subject alpha under each latent pixel. mask [B, 1, 4k + 1, H, W] -> [B, 1, k + 1, side, side]."""
    padded = torch.cat((mask[:, :, :1].expand(-1, -1, 3, -1, -1), mask), 2)      # the first latent frame sees one frame
    stride = mask.shape[-1] // side
    return F.avg_pool3d(padded, (4, stride, stride))


@torch.no_grad()
def channel_weights(vae: VAE, latent: Tensor, run: Run) -> Tensor:
    """What each latent channel should count for in a loss: as much as the picture changes with it, measured by the same noise in one after
    the other, at least LEAST_WEIGHT, 1 on average.

    All channels have unit variance, but one in eight makes 0.6 of the picture; alike, the rest would have the network to themselves.
    latent [B, C, T, h, w] -> [C, 1, 1, 1].
    """
    with run.autocast():
        before, noise = vae.decode(latent), 0.3 * torch.randn_like(latent[:, 0])
        effects = []
        for channel in range(latent.shape[1]):
            moved = latent.clone()
            moved[:, channel] += noise
            effects.append((vae.decode(moved) - before).square().mean())
    effect = torch.stack(effects)
    return (LEAST_WEIGHT + (1 - LEAST_WEIGHT) * effect / effect.mean()).view(-1, 1, 1, 1)
