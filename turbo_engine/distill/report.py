"""Every number and sheet of the model card, from the weights: `python -m turbo_engine.distill.report --out OUT`.

Counts with the probe on fixed prompts and several seeds (teacher, student by steps and sampler, teacher at the student's steps, student with each
technique), sharpness, flicker, what each technique changes and saves, variety over seeds, prompts in other words, larger clips than it was trained for,
the distance of turbo from full for one seed by sampler, how near clips come to the rendered ones they describe, the autoencoder's PSNR, and contact
sheets of the showcase prompts. `card.py` makes the card's tables of report.json, and is called at the end.
Runs on a CPU too, given a probe and patience (--prompts 8), or a part of it (--only worded).
"""
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from turbo_engine.compare import ssim
from turbo_engine.denoiser import Denoiser
from turbo_engine.distill.card import FULL, blocks
from turbo_engine.distill.clips import Compositor
from turbo_engine.distill.likeness import likeness
from turbo_engine.distill.nearness import mean_rows, nearness, regions, rows_by, settled
from turbo_engine.distill.pocket import load_dit, load_vae, pocket_preset, training_commit
from turbo_engine.distill.probe import Probe, accuracy, answers, feature_distance, labels_of, new_probe, rendered_set, shares_right, view
from turbo_engine.distill.probe import make as make_probe
from turbo_engine.distill.prompts import SHOWCASE, batches, counted_prompts, other_words
from turbo_engine.distill.sheet import contact_sheet
from turbo_engine.distill.techniques import networks
from turbo_engine.distill.training import Run, arguments, open_run
from turbo_engine.distill.vae import evaluate as evaluate_vae
from turbo_engine.distill.world import ClipSpec, load_world
from turbo_engine.machine import processor
from turbo_engine.models.dit import DiT
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE
from turbo_engine.safe_write import write_whole
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times, rcm_times
from turbo_engine.stats import seconds_of
from turbo_engine.vocabulary import Vocabulary
from turbo_engine.weights import fill

BATCH = 25
VARIETY_PROMPTS, VARIETY_SEEDS = 12, 16
STRIP = (0, 10, 21, 32)        # frames of a clip on a sheet
SHEET_SEED = 7
PARTS = ("sheets", "turbo_to_full", "accuracy", "techniques", "worded", "larger", "variety", "rendered", "vae")
COUNTED = {"accuracy", "techniques", "worded", "larger"}       # the parts that ask the probe
ANOTHER_SEED = "another seed"
FEWER_PROMPTS = 100           # for what is told beside the main numbers
TIMED_TURNS, TIMED_S = 5, 1.0  # of timing a maker, one call a turn in any case
LARGER = {"33 x 384 x 384": (33, 384, 384), "65 x 256 x 256": (65, 256, 256)}


class Studio:
    """The shipped models on one device, making clips in batches by the engine's own samplers and denoiser, of prompts read as the app reads them."""

    def __init__(self, folder: Path, run: Run, text_encoder: Path | None):
        self.preset, self.run = pocket_preset(), run
        clip = self.preset.clip
        self.size = clip.num_frames, clip.height, clip.width      # of what is made
        self.networks = {role: self._place(load_dit(folder, role)) for role in ("teacher", "student")}
        self.vae = self._place(load_vae(VAE(self.preset.vae), folder)).to(memory_format=torch.channels_last)
        options = dict(text_len=self.preset.text.text_len, device=run.device, dtype=torch.float32)
        self.encoder = MiniLM.opened(text_encoder, **options)
        self.world = load_world()
        self.vocabulary = Vocabulary(self.world, text_len=self.preset.text.text_len, count_tokens=self.encoder.num_tokens)

    def _place(self, model: torch.nn.Module) -> torch.nn.Module:
        return model.to(self.run.device, torch.bfloat16 if self.run.cuda else torch.float32).eval().requires_grad_(False)

    def noise(self, seeds: list[int]) -> Tensor:
        """The draw each seed has in the app, [B, C, T, H, W] float32."""
        shape = self.preset.latent_shape(*self.size)
        return torch.stack([torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))[0] for seed in seeds])

    @torch.inference_mode()
    def latents(self, role: str, prompts: list[str], seeds: list[int], *, sampler: str, times: Tensor, guidance_scale: float) -> Tensor:
        network: DiT = self.networks[role]
        text = self.encoder.encode([self.vocabulary.read(*each) for each in zip(prompts, seeds, strict=True)])
        context, away = network.embed_text(text), network.embed_text(torch.zeros_like(text))
        denoise = Denoiser(network, context, unconditional=away, guidance_scale=guidance_scale)
        noise = self.noise(seeds).to(self.run.device)
        generator = torch.Generator(self.run.device).manual_seed(seeds[0])

        def draw() -> Tensor:
            return torch.randn(noise.shape, generator=generator, device=noise.device)

        *_, last = SAMPLERS[sampler](denoise, noise, times, draw)
        return last.latent.float()

    @torch.inference_mode()
    def frames(self, latent: Tensor) -> Tensor:
        """[B, 3, T, H, W] in [0, 1] float32."""
        return torch.cat([self.vae.decode(part) for part in latent.split(5)])

    def teacher(self, prompts, seeds, num_steps: int) -> Tensor:
        full = self.preset.full
        return self.latents("teacher", prompts, seeds, sampler=full.sampler, times=flow_times(num_steps, full.shift, full.t_min),
                            guidance_scale=full.guidance_scale)

    def student(self, prompts, seeds, num_steps: int, sampler: str, role: str = "student") -> Tensor:
        return self.latents(role, prompts, seeds, sampler=sampler, times=rcm_times(num_steps, self.preset.turbo.sigma_max),
                            guidance_scale=1.0)


def sharpness(frames: Tensor) -> float:
    """Mean gradient energy of a clip's pixels, each of [B, 3, T, H, W]."""
    return float((frames[..., 1:] - frames[..., :-1]).square().mean() + (frames[..., 1:, :] - frames[..., :-1, :]).square().mean())


def to_uint8(frames: Tensor) -> np.ndarray:
    """[B, 3, T, H, W] in [0, 1] -> uint8 [B, T, H, W, 3]."""
    return (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


def flicker(frames: Tensor) -> float:
    """Mean change from frame to frame over the quieter half of each clip's pixels, where little should move. [B, 3, T, H, W]."""
    change = (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean((1, 2)).flatten(1)
    return float(change.sort(1).values[:, :change.shape[1] // 2].mean())


def count(studio: Studio, probe: Probe | None, makers: dict[str, Callable], prompts: list[str], labels: Tensor, held_out: int, *, draws: int,
          still: Tensor, against: dict[str, str] | None = None) -> Iterator[dict[str, dict]]:
    """Of each maker: probe accuracy on all prompts and on the held-out tail, mean sharpness, and flicker where the camera stands still (bool [N]);
    how like its clips are to those of the maker named in `against`, an earlier one, for the same prompts and seeds. Yields: that of the seeds so far,
    once for each of `draws` seeds a prompt. A maker is make(prompts, seeds) -> latents."""
    against, found = against or {}, {name: defaultdict(list) for name in makers}
    for draw in range(draws):
        for (said, seeds), standing in zip(batches(prompts, BATCH, 10_000 * draw), still.split(BATCH)):
            made: dict[str, tuple[Tensor, Tensor]] = {}
            for name, make in makers.items():
                of, frames = found[name], studio.frames(make(said, seeds))
                seen = view(frames)
                of["sharpness"].append(sharpness(frames))
                if (quiet := standing.to(frames.device)).any():
                    of["flicker"].append(flicker(frames[quiet]))
                if probe is not None:
                    of["said"].append(answers(probe, seen))
                if name in against:
                    other, other_seen = made[against[name]]
                    for key, scores in zip(("psnr", "ssim"), likeness(frames, other)):
                        of[key].append(scores.cpu())
                    if probe is not None:
                        of["unlike"].append(feature_distance(probe, seen, other_seen).cpu())
                if name in against.values():
                    made[name] = frames, seen
        tail = (torch.arange((draw + 1) * len(prompts)) % len(prompts)) >= len(prompts) - held_out
        yield {name: _row(of, labels.repeat(draw + 1, 1), tail) for name, of in found.items()}


def _row(of: dict[str, list], labels: Tensor, tail: Tensor) -> dict:
    """What `count` says of one maker. labels [N, 4], tail bool [N]."""
    row: dict = {"clips": len(labels)}
    if of["said"]:
        said = torch.cat(of["said"])
        row["all"] = shares_right(said, labels)
    row["sharpness"] = round(float(np.mean(of["sharpness"])), 6)
    if of["flicker"]:
        row["flicker"] = round(float(np.mean(of["flicker"])), 6)
    if of["said"] and tail.any():
        row["held_out"] = shares_right(said[tail], labels[tail])
    if of["ssim"]:
        alike = torch.cat(of["ssim"])
        row |= {"psnr_db": round(float(torch.cat(of["psnr"]).mean()), 2), **_alike(alike.mean(1)), "worst_ssim": round(float(alike.min()), 4)}
    if of["unlike"]:
        row["feature_distance"] = round(float(torch.cat(of["unlike"]).mean()), 5)
    return row


def _alike(scores: Tensor) -> dict[str, float]:
    """SSIM of clips [N]: mean, median, and what nine in ten reach."""
    return {"ssim_mean": round(float(scores.mean()), 4), "ssim_median": round(float(scores.quantile(0.5)), 4),
            "ssim_tenth": round(float(scores.quantile(0.1)), 4)}


def seconds_a_clip(makers: dict[str, Callable], prompt: str, device: torch.device) -> dict[str, float]:
    """Wall seconds of one clip's steps by each maker, its text encoded before, the device idle before and after: the median. By turns, so that what
    else slows the machine slows all of them."""
    for make in makers.values():
        make([prompt], [0])                                    # encodes, compiles, records
    taken: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(TIMED_TURNS):
        for name, make in makers.items():
            taken[name] += seconds_of(lambda: make([prompt], [0]), device, 1, TIMED_S)
    return {name: round(float(np.median(each)), 4) for name, each in taken.items()}


def variety(make, prompts: list[str]) -> float:
    """How much the clips of one prompt differ: variance of the latents over seeds, averaged over prompts and elements."""
    spread = [make([prompt] * VARIETY_SEEDS, list(range(VARIETY_SEEDS))).var(0).mean() for prompt in prompts[:VARIETY_PROMPTS]]
    return round(float(torch.stack(spread).mean()), 4)


def worded(studio: Studio, probe, specs: list[ClipSpec], labels: Tensor) -> dict:
    """The student's 4 steps from the same clips said otherwise, by the probe."""
    found = {}
    for kind, (which, prompts) in other_words(studio.world, specs).items():
        views = [view(studio.frames(studio.student(*batch, 4, studio.preset.turbo.sampler))) for batch in batches(prompts, BATCH)]
        right = accuracy(probe, torch.cat(views), labels[which])
        if kind == "three words":                             # the scene is the seed's choice
            del right["scene"]
        found[kind] = {"prompts": len(prompts), "example": prompts[0], **right}
    return found


def larger(studio: Studio, probe, prompts: list[str], labels: Tensor) -> dict:
    """The student's 4 steps at sizes and lengths that it was not trained for, by the probe; a long clip in two parts of the usual length."""
    usual, sampler, found = studio.size, studio.preset.turbo.sampler, {}
    for name, studio.size in LARGER.items():
        views: list[list[Tensor]] = [[] for _ in range(0, studio.size[0] - 1, usual[0] - 1)]
        for batch in batches(prompts, BATCH):
            frames = studio.frames(studio.student(*batch, 4, sampler))
            for index, seen in enumerate(views):
                first = index * (usual[0] - 1)
                seen.append(view(frames[:, :, first:first + usual[0]]))
        found[name] = [accuracy(probe, torch.cat(seen), labels) for seen in views]
    studio.size = usual
    return found


def turbo_to_full(studio: Studio, prompts: list[str]) -> dict:
    """SSIM of the student to teacher-50 at the same seed, by sampler and of the usual one by steps too, over one seed a prompt."""
    usual = studio.preset.turbo.sampler
    ways = {name: (4, name) for name in ("sde", "fixed-noise", "ode")} | {f"{usual}, {n} steps": (n, usual) for n in (3, 2, 1)}
    scores: dict[str, list[Tensor]] = {name: [] for name in ways}
    for batch in batches(prompts, BATCH, 1_000):
        full = studio.frames(studio.teacher(*batch, studio.preset.full.num_steps))
        for name, way in ways.items():
            scores[name].append(likeness(studio.frames(studio.student(*batch, *way)), full)[1].mean(1).cpu())
    return {name: _alike(torch.cat(each)) for name, each in scores.items()}


def to_rendered(studio: Studio, compositor: Compositor, makers: dict, specs: list[ClipSpec],
                prompts: list[str]) -> dict[str, list[dict[str, float]]]:
    """`nearness` of each maker's clips, and of what the autoencoder alone leaves of the rendered ones, which no maker can pass; in the prompts' order."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("autoencoder", *makers)}
    for part, (said, seeds) in zip(range(0, len(prompts), BATCH), batches(prompts, BATCH, 1_000)):
        meant = [settled(studio.world, spec, studio.vocabulary.read(*each)) for spec, *each in zip(specs[part:part + BATCH], said, seeds, strict=True)]
        rendered, mask = compositor.render(meant)
        areas = regions(mask)
        with torch.inference_mode(), studio.run.autocast():
            latents = {"autoencoder": torch.cat([studio.vae.encode(few) for few in rendered.split(5)])}
        latents |= {name: make(said, seeds) for name, make in makers.items()}
        for name, latent in latents.items():
            found[name] += nearness(studio.frames(latent).float(), rendered, areas)
    return found


def technique_makers(studio: Studio, folder: Path) -> dict[str, tuple[Callable, Callable | None]]:
    """The usual clip of another seed, and of the same one with each technique: a maker to look at, and one to be timed, where it is."""
    steps, sampler = studio.preset.turbo.num_steps, studio.preset.turbo.sampler
    found: dict[str, tuple[Callable, Callable | None]] = {
        ANOTHER_SEED: (lambda p, s: studio.student(p, [seed + 5_000 for seed in s], steps, sampler), None)}
    seen, timed = networks(folder, studio.networks["student"])
    for name in seen:
        makers = []
        for role, network in ((name, seen[name]), (f"{name}, timed", timed.get(name))):
            if network is not None:
                studio.networks[role] = network
            makers.append(network and (lambda p, s, role=role: studio.student(p, s, steps, sampler, role=role)))
        found[name] = tuple(makers)
    return found


def sheets(studio: Studio, out: Path, prompts: tuple[str, ...]) -> None:
    """Contact sheets of the showcase prompts, one seed: turbo beside full with their SSIM, the student in 1 step,
    the teacher in 4."""
    sampler, full = studio.preset.turbo.sampler, studio.preset.full.num_steps

    def clips(make) -> list[np.ndarray]:
        return [clip for part, _ in batches(prompts, 8) for clip in to_uint8(studio.frames(make(part, [SHEET_SEED] * len(part))))]

    turbo, slow = clips(lambda p, s: studio.student(p, s, 4, sampler)), clips(lambda p, s: studio.teacher(p, s, full))
    labels = [label for prompt, *pair in zip(prompts, turbo, slow)
              for label in (f"turbo: {prompt}", f"full, {full} steps; SSIM {ssim(*pair).mean():.3f}")]
    contact_sheet([clip for pair in zip(turbo, slow) for clip in pair], labels, out / "turbo-beside-full.webp", columns=2, frames=STRIP, thumb=112)
    for name, videos in (("student-1", clips(lambda p, s: studio.student(p, s, 1, sampler))), ("teacher-4", clips(lambda p, s: studio.teacher(p, s, 4)))):
        contact_sheet(videos, list(prompts), out / f"{name}.webp", columns=3, frames=STRIP, thumb=96)


def main() -> None:
    parser = arguments("report", 120)
    parser.add_argument("--text-encoder", type=Path, help="folder of a pruned text encoder; default: the installed one")
    parser.add_argument("--probe", type=Path, help="probe.safetensors; without it one is trained first on a GPU, in --seconds, and on a CPU nothing is counted")
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--draws", type=int, default=3, help="seeds a counted prompt")
    parser.add_argument("--seeds", type=int, default=100, help="pairs for the turbo-to-full distance")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"some of {', '.join(PARTS)}")
    args = parser.parse_args()
    run = open_run("report", args)
    studio = Studio(args.weights, run, args.text_encoder)
    world = studio.world
    compositor = Compositor(world, run.device)
    probe_file = make_probe(run, compositor) if args.probe is None and run.cuda and COUNTED & set(args.only) else args.probe
    held_out = args.prompts // 3
    specs, prompts = counted_prompts(world, args.prompts, held_out)
    report = {"bench": "report", "commit": training_commit(), "device": torch.cuda.get_device_name() if run.cuda else "cpu",
              "machine": processor(), "torch": torch.__version__, "prompts": args.prompts, "draws": args.draws, "held_out": held_out,
              "guidance_scale": studio.preset.full.guidance_scale}

    def keep(part: str, found: dict) -> None:
        """On disk as soon as it is known, so that a run that is cut off loses no more than its last part, or a part's last seed."""
        report.update({part: found, "seconds": round(run.elapsed_s, 1)})
        write_whole(args.out / "report.json", (json.dumps(report, indent=1) + "\n").encode())

    if "sheets" in args.only:
        sheets(studio, args.out, SHOWCASE[:args.prompts])
    if args.seeds and "turbo_to_full" in args.only:
        keep("turbo_to_full", turbo_to_full(studio, prompts[:args.seeds]))
    sampler = studio.preset.turbo.sampler
    makers = {FULL: lambda p, s: studio.teacher(p, s, 50), "teacher-4": lambda p, s: studio.teacher(p, s, 4)}
    makers |= {f"student-4 {name}": lambda p, s, name=name: studio.student(p, s, 4, name) for name in ("fixed-noise", "ode", "sde")}
    makers |= {f"student-{n} {sampler}": lambda p, s, n=n: studio.student(p, s, n, sampler) for n in (2, 1)}
    turbo, few = f"student-4 {sampler}", slice(FEWER_PROMPTS)
    probe, labels = None, labels_of(specs)
    if probe_file:
        probe = fill(new_probe(world), probe_file, "probe").to(run.device).eval()
        if "accuracy" in args.only and run.cuda:
            compositor.prepare()
            keep("probe_on_rendered", {name: accuracy(probe, *rendered_set(compositor, world, 600, 99, held_out=held))
                                       for name, held in (("seen_triples", False), ("held_out_triples", True))})
    counted = makers if "accuracy" in args.only and probe else {}
    under = technique_makers(studio, args.weights) if "techniques" in args.only else {}
    if counted or under:
        still = torch.tensor([world.cameras[spec.camera].name == "still" for spec in specs])
        pair = {FULL: makers[FULL], turbo: makers[turbo]}
        timed = {**pair, **{name: make for name, (_, make) in under.items() if make}} if under else {}
        steps_s = seconds_a_clip(timed, prompts[0], run.device)
        for rows in count(studio, probe, pair | counted | {name: seen for name, (seen, _) in under.items()}, prompts, labels, held_out,
                          draws=args.draws, still=still, against={turbo: FULL, **dict.fromkeys(under, turbo)}):
            if counted:
                keep("accuracy", {name: rows[name] for name in counted})
            if under:
                keep("techniques", {name: {"steps_s": steps_s.get(name), **rows[name]} for name in (*pair, *under)})
    if probe:
        if "worded" in args.only:
            keep("worded", worded(studio, probe, specs[few], labels[few]))
        if "larger" in args.only:
            keep("larger", larger(studio, probe, prompts[few], labels[few]))
    if "variety" in args.only:
        keep("variety", {name: variety(makers[name], prompts) for name in (FULL, "teacher-4", turbo)})
    if "rendered" in args.only:
        told = {name: makers[name] for name in (FULL, turbo, f"student-1 {sampler}")}
        rows = to_rendered(studio, compositor, told, specs[few], prompts[few])
        keep("rendered", {name: mean_rows(each) for name, each in rows.items()})
        motions = [world.motions[spec.motion].name for spec in specs[few]]
        keep("rendered_by_motion", {name: rows_by(motions, rows[name]) for name in ("autoencoder", turbo)})
    if run.cuda and "vae" in args.only:
        studio.vae.float()
        keep("vae", evaluate_vae(studio.vae, compositor, world, run, clips_per_scene=8, size=studio.preset.clip.height)[0])
    write_whole(args.out / "card.md", "\n\n".join(blocks(report).values()).encode() + b"\n")
    print(json.dumps(report))
    run.close()


if __name__ == "__main__":
    main()
