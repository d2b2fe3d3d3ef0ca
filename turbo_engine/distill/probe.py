"""The honest metric: a classifier of subject, scene, motion and camera, trained on rendered clips alone.

    torchrun --standalone --nproc-per-node 2 -m turbo_engine.distill.probe --seconds 120 --out OUT

It never trains anything else. It sees nine frames at 128 px, blurred, shifted in brightness and noisy at random, so that it
judges content and not the texture of the renderer; its accuracy on rendered clips is reported beside every use.
"""
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from turbo_engine.distill.clips import Compositor
from turbo_engine.distill.pocket import training_commit
from turbo_engine.distill.training import EMA, Run, arguments, open_run, trapezoid
from turbo_engine.distill.turns import Turns
from turbo_engine.distill.world import ClipSpec, World, load_world, sample_specs
from turbo_engine.models.vae import ResidualBlock
from turbo_engine.weights import save_weights

HEADS = ("subject", "scene", "motion", "camera")
NUM_FRAMES, SIDE = 9, 128
WIDTH = 256


def view(frames: Tensor) -> Tensor:
    """What the probe looks at: every fourth frame at 128 px. frames [B, 3, 33, H, W] in [0, 1] -> [B, 3, 9, 128, 128]."""
    some = frames[:, :, ::4].float()
    flat = F.interpolate(some.transpose(1, 2).flatten(0, 1), (SIDE, SIDE), mode="area")
    return flat.unflatten(0, (len(frames), NUM_FRAMES)).transpose(1, 2)


class Probe(nn.Module):
    """Shifted-time convolutions to 8x8 cells a frame, then two attention layers whose four learned queries answer."""

    def __init__(self, classes: tuple[int, int, int, int]):
        super().__init__()
        widths = (64, 128, WIDTH)
        self.stem = nn.Conv2d(3, widths[0], 4, stride=4)
        self.stages = nn.ModuleList(nn.ModuleList((ResidualBlock(w), nn.GroupNorm(16, w), ResidualBlock(w), nn.GroupNorm(16, w)))
                                    for w in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:]))
        self.place = nn.Parameter(0.02 * torch.randn(NUM_FRAMES * 64, WIDTH))
        self.queries = nn.Parameter(0.02 * torch.randn(len(HEADS), WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
        self.attention = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, n) for n in classes)

    def pyramid(self, video: Tensor) -> list[Tensor]:
        """What it makes of each frame at three scales, [B * 9, C, h, w]. video [B, 3, 9, 128, 128] in [0, 1]."""
        x, scales = self.stem(video.transpose(1, 2).flatten(0, 1) * 2 - 1), []
        for stage, down in zip(self.stages, (None, *self.downs)):
            x = x if down is None else down(x)
            for block in stage:
                x = block(x, NUM_FRAMES) if isinstance(block, ResidualBlock) else block(x)
            scales.append(x)
        return scales

    def forward(self, video: Tensor) -> list[Tensor]:
        """video [B, 3, 9, 128, 128] in [0, 1] -> logits of subject, scene, motion, camera, each [B, classes]."""
        x = self.pyramid(video)[-1]
        tokens = x.flatten(2).unflatten(0, (len(video), NUM_FRAMES)).transpose(2, 3).flatten(1, 2) + self.place
        answers = self.attention(torch.cat((self.queries.expand(len(video), -1, -1), tokens), 1))
        return [head(answers[:, i]) for i, head in enumerate(self.heads)]


def new_probe(world: World) -> Probe:
    return Probe((len(world.subjects), len(world.scenes), len(world.motions), len(world.cameras)))


def labels_of(specs: list[ClipSpec]) -> Tensor:
    """[B, 4] class indices in the order of HEADS."""
    return torch.tensor([[s.subject, s.scene, s.motion, s.camera] for s in specs])


def disturb(video: Tensor) -> Tensor:
    """Random blur, brightness and noise, each clip its own. video [B, 3, T, H, W] in [0, 1]."""
    batch, device = len(video), video.device
    soft = F.avg_pool2d(video.transpose(1, 2).flatten(0, 1), 3, 1, 1).unflatten(0, (batch, -1)).transpose(1, 2)
    amount = torch.rand(batch, 1, 1, 1, 1, device=device) * (torch.rand(batch, 1, 1, 1, 1, device=device) < 0.6)
    video = torch.lerp(video, soft, amount) * (1 + 0.1 * torch.randn(batch, 1, 1, 1, 1, device=device))
    return (video + 0.04 * torch.rand(batch, 1, 1, 1, 1, device=device) * torch.randn_like(video)).clamp(0, 1)


@torch.no_grad()
def answers(probe: Probe, views: Tensor, batch: int = 64) -> Tensor:
    """What it takes each clip for, int64 [N, 4] class indices in the order of HEADS, on the CPU. views [N, 3, 9, 128, 128] in [0, 1]."""
    return torch.cat([torch.stack([head.argmax(1) for head in probe(part)], 1).cpu() for part in views.split(batch)])


def shares_right(said: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of clips right by head. said, labels [N, 4]."""
    return {name: round(float(right), 4) for name, right in zip(HEADS, (said == labels.cpu()).double().mean(0))}


def accuracy(probe: Probe, views: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of clips right by head. views [N, 3, 9, 128, 128] in [0, 1]; labels [N, 4]."""
    return shares_right(answers(probe, views), labels)


@torch.no_grad()
def feature_distance(probe: Probe, a: Tensor, b: Tensor) -> Tensor:
    """How unlike two clips look to the probe: as LPIPS (Zhang et al. 2018, arXiv:1801.03924, section 3), with the probe in place of a
    network trained on photographs and all channels of equal weight. a, b [B, 3, 9, 128, 128] in [0, 1] -> [B], 0 where equal, 2 at most."""
    def unlike(x: Tensor, y: Tensor) -> Tensor:
        return (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).unflatten(0, (len(a), -1)).mean((1, 2, 3))
    return torch.stack([unlike(x, y) for x, y in zip(probe.pyramid(a), probe.pyramid(b))]).mean(0)


def train(run: Run, probe: Probe, compositor: Compositor, world: World, *, batch: int, capacity: int, fresh: int) -> tuple[EMA, int]:
    rng = random.Random(9_000 + run.seed)
    views = torch.empty(capacity, 3, NUM_FRAMES, SIDE, SIDE, dtype=torch.uint8, device=run.device)
    labels = torch.empty(capacity, len(HEADS), dtype=torch.long, device=run.device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=0.05, fused=run.cuda)
    ema, step, turns = EMA(probe, 0.998), 0, Turns(capacity, fresh)
    parameters = list(probe.parameters())
    run.start_clock()
    while (progress := run.progress()) < 1:
        specs = sample_specs(world, fresh, rng, scene=rng.randrange(len(world.scenes)))
        frames, _ = compositor.render(specs)
        where = turns.take()
        views[where] = (view(frames) * 255).round().to(torch.uint8)
        labels[where] = labels_of(specs).to(run.device)
        if turns.count < min(4 * batch, turns.capacity):
            continue
        index = torch.randint(0, turns.count, (batch,), device=run.device)
        with run.autocast():
            logits = probe(disturb(views[index].float() / 255))
        loss = sum(F.cross_entropy(head.float(), labels[index, i], label_smoothing=0.02) for i, head in enumerate(logits))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        run.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * trapezoid(progress, warmup=0.05)
        optimizer.step()
        ema.update()
        step += 1
        if step % 100 == 0:
            right = [float((head.argmax(1) == labels[index, i]).float().mean()) for i, head in enumerate(logits)]
            run.log(step, loss=loss.detach(), clips_seen=turns.count * run.world_size, **dict(zip(HEADS, right)))
    return ema, step


@torch.no_grad()
def rendered_set(compositor: Compositor, world: World, count: int, seed: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
    """Views and labels of fresh rendered clips."""
    rng, views, labels = random.Random(seed), [], []
    for _ in range(0, count, 20):
        specs = sample_specs(world, 20, rng, held_out=held_out)
        views.append(view(compositor.render(specs)[0]))
        labels.append(labels_of(specs))
    return torch.cat(views), torch.cat(labels)


def make(run: Run, compositor: Compositor) -> Path:
    """Train a probe for as long as `run` has, and count what it has right on fresh rendered clips. The file it is written to, in `run.out`."""
    world = compositor.world
    probe = new_probe(world).to(run.device, memory_format=torch.channels_last)
    run.same_everywhere(probe)
    if not run.tiny:
        compositor.prepare()
    ema, step = train(run, probe, compositor, world, batch=8 if run.tiny else 64, capacity=64 if run.tiny else 16_384,
                      fresh=4 if run.tiny else 32)
    file = run.out / "probe.safetensors"
    if run.main:
        metrics = {"steps": step, "seconds": run.budget_s}
        for name, held_out in (("seen_triples", False), ("held_out_triples", True)):
            views, labels = rendered_set(compositor, world, 20 if run.tiny else 600, 31_337, held_out=held_out)
            metrics[name] = accuracy(ema.module, views, labels)
        run.log(step, **metrics)
        save_weights(file, ema.module.state_dict(), role="probe", rows_8bit=True, config={"heads": list(HEADS)}, metrics=metrics,
                     commit=training_commit())
    run.barrier()
    return file


def main() -> None:
    run = open_run("probe", arguments("probe", 120).parse_args())
    make(run, Compositor(load_world(), run.device))
    run.close()


if __name__ == "__main__":
    main()
