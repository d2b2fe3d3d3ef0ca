"""What every training stage shares: processes, the clock, averages over GPUs, EMA, optimisers and the log.

A stage runs as one process a GPU (`torchrun --standalone --nproc-per-node N -m turbo_engine.distill.STAGE`) or plainly as
`python -m ...` on one device. It is boxed by wall-clock time, writes metrics and weights to `--out`, and resumes from weights.
"""
import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from turbo_engine.distill.muon import Muon

TRACED_STEPS = range(40, 48)
CHECKPOINTS = 3              # before the one at the end


class Run:
    """One process of a stage: rank and device, the shared clock, and the log.

    `progress` goes from 0 to 1 over `budget_s` seconds and is rank 0's on every rank, so that all stop at the same step. part: which shares
    of a longer schedule these seconds are, for a run that takes several calls.
    """

    def __init__(self, stage: str, out: Path, budget_s: float, *, seed: int = 0, tiny: bool = False, eager: bool = False,
                 trace: bool = False, part: tuple[float, float] = (0.0, 1.0)):
        self.stage, self.out, self.budget_s, self.tiny, self.part = stage, out, budget_s, tiny, part
        if not 0 <= part[0] < part[1] <= 1:
            raise ValueError(f"part: expected 0 <= FROM < TO <= 1, got {part[0]:g} {part[1]:g}; all of a schedule is 0 1")
        self.rank, self.world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.cuda = torch.cuda.is_available()
        self.compile = self.cuda and not eager
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if self.cuda else "cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        self._clock_group = None
        self._steps_not_finite = torch.zeros((), device=self.device)
        self._tracing, self._profiler = trace and self.main, None
        if self.world_size > 1:
            dist.init_process_group("nccl" if self.cuda else "gloo")
            self._clock_group = dist.new_group(backend="gloo")
        torch.manual_seed(seed * 1_000 + self.rank)
        self.seed = seed * 1_000 + self.rank
        self._start = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self._log = (out / f"{stage}.jsonl").open("a") if self.main else None

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def start_clock(self) -> None:
        """Training begins now: set-up does not count."""
        self.barrier()
        self._start = time.monotonic()

    def progress(self) -> float:
        """Share of the budget used. Call it the same number of times on every rank."""
        share = torch.tensor([min(1.0, self.elapsed_s / self.budget_s)], dtype=torch.float64)
        if self._clock_group is not None:
            dist.broadcast(share, 0, group=self._clock_group)
        return float(share)

    def steps(self, save: Callable[[int], None] | None = None) -> Iterator[tuple[int, float]]:
        """(steps done before this one, progress within `part`) until the budget is used up. save: given the steps done, at even shares of the
        budget, CHECKPOINTS times, and at the end."""
        step, saved = 0, 0
        while (progress := self.progress()) < 1:
            self._trace(step)
            if save is not None and (passed := int(progress * (CHECKPOINTS + 1))) > saved:
                saved = passed
                save(step)
            yield step, self.part[0] + (self.part[1] - self.part[0]) * progress
            step += 1
        if save is not None:
            save(step)

    def _trace(self, step: int) -> None:
        """With --trace: profile TRACED_STEPS and write where their time went to STAGE-profile.txt."""
        if not self._tracing or step not in (TRACED_STEPS.start, TRACED_STEPS.stop):
            return
        if step == TRACED_STEPS.start:
            self._profiler = torch.profiler.profile()
            self._profiler.start()
            return
        self._profiler.stop()
        rows = self._profiler.key_averages()
        order = ("self_device_time_total", "self_cpu_time_total") if self.cuda else ("self_cpu_time_total",)
        (self.out / f"{self.stage}-profile.txt").write_text("\n".join(rows.table(sort_by=key, row_limit=40) for key in order))

    def log(self, step: int, **metrics: float) -> None:
        if not self.main:
            return
        row = {"stage": self.stage, "step": step, "elapsed_s": round(self.elapsed_s, 1)}
        if steps := int(self._steps_not_finite):
            row["steps_not_finite"] = steps
        row |= {k: float(f"{float(v):.5g}") if not isinstance(v, (str, dict, list)) else v for k, v in metrics.items()}
        line = json.dumps(row)
        print(line, flush=True)
        self._log.write(line + "\n")
        self._log.flush()

    def barrier(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        if self.world_size > 1:
            dist.barrier()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one flat all-reduce. Where any number of it is not finite all become zero:
        one bad sample costs a step and not the run. The log counts such steps."""
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        if self.world_size > 1:
            dist.all_reduce(flat)
            flat /= self.world_size
        finite = flat.isfinite().all()
        self._steps_not_finite += ~finite
        flat = torch.where(finite, flat, 0.0)
        torch._foreach_copy_(grads, [piece.view_as(g) for piece, g in zip(flat.split([g.numel() for g in grads]), grads)])

    def same_everywhere(self, module: nn.Module) -> None:
        """Give every process rank 0's parameters and buffers."""
        if self.world_size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)

    def autocast(self) -> torch.autocast:
        """bf16 on CUDA; off on CPUs, where it is emulated and slow."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cuda)

    def close(self) -> None:
        if self.world_size > 1:
            dist.destroy_process_group()
        if self._log is not None:
            self._log.close()


def arguments(stage: str, budget_s: float) -> argparse.ArgumentParser:
    """The options all stages have."""
    parser = argparse.ArgumentParser(prog=f"python -m turbo_engine.distill.{stage}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")), help="folder for weights, log and sheets")
    parser.add_argument("--seconds", type=float, default=budget_s, help="wall-clock budget of the training loop")
    parser.add_argument("--part", type=float, nargs=2, default=(0.0, 1.0), metavar=("FROM", "TO"), help="shares of a longer schedule that this run is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=Path("presets/pocket"), help="folder of the weights to start from")
    parser.add_argument("--eager", action="store_true", help="do not compile: short runs are over before it pays")
    parser.add_argument("--trace", action="store_true", help="profile a few steps into STAGE-profile.txt")
    parser.add_argument("--tiny", action="store_true", help="small model and pictures, for a smoke test on a CPU")
    return parser


def open_run(stage: str, args: argparse.Namespace) -> Run:
    return Run(stage, args.out, args.seconds, seed=args.seed, tiny=args.tiny, eager=args.eager, trace=args.trace, part=tuple(args.part))


class EMA:
    """Exponential moving average of a module's parameters; `module` is the averaged copy.

    The horizon grows with the steps done, min(decay, (1 + n) / (10 + n)), so that early steps are forgotten soon.
    """

    def __init__(self, source: nn.Module, decay: float):
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self.decay, self._steps = decay, 0
        self._pairs = list(self.module.parameters()), list(source.parameters())

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        averaged, live = self._pairs
        torch._foreach_lerp_(averaged, [p.detach() for p in live], 1 - min(self.decay, (1 + self._steps) / (10 + self._steps)))


class Averages:
    """Running means of steps' metrics by name, for the log; after the first, a value that is not finite is left out."""

    def __init__(self, share: float):
        self.share, self.now = share, {}

    def note(self, **metrics: Tensor) -> None:
        """metrics: scalars, on any device. They may be overwritten afterwards."""
        for name, metric in metrics.items():
            before = self.now.get(name)
            self.now[name] = metric.clone() if before is None else torch.where(metric.isfinite(), before.lerp(metric, self.share), before)


class GradientStep:
    """A loss and its gradients for inputs of one shape, replayed as one CUDA graph where the run compiles.

    A small network's step is two thousand short kernels, which Python starts more slowly than the device runs them: 79 ms a
    step of 128 clips against 40. Gradients lie in `parameter.grad` after each call, overwritten by the next: never clear them.

    Args: loss_of: tensors -> (loss, more tensors); draws randomness on the device alone and decides nothing by values.
    """

    def __init__(self, run: Run, loss_of: Callable[..., tuple[Tensor, ...]], parameters: Sequence[nn.Parameter]):
        self._run, self._loss_of, self._parameters = run, loss_of, parameters
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] = ()
        self._gradients: list[Tensor | None] = []

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What loss_of returns, detached; valid until the next call."""
        if not self._run.compile:
            return self._compute(*inputs)
        if self._graph is None:
            self._capture(inputs)
        for held, new in zip(self._inputs, inputs):
            held.copy_(new)
        for parameter, gradient in zip(self._parameters, self._gradients):
            parameter.grad = gradient                        # another step's may lie there
        self._graph.replay()
        return self._outputs

    def _compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for parameter in self._parameters:
            parameter.grad = None
        outputs = self._loss_of(*inputs)
        outputs[0].backward()
        return tuple(output.detach() for output in outputs)

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        start = time.monotonic()
        self._inputs = [x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):                               # compiles, and lets libraries choose their kernels
                self._compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        for parameter in self._parameters:
            parameter.grad = None
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):     # the collectives' own thread may go on
            self._outputs = self._compute(*self._inputs)
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._run.log(0, captured=self._loss_of.__name__, capture_s=time.monotonic() - start)


def trapezoid(progress: float, warmup: float = 0.02, decay_from: float = 0.4, floor: float = 0.01) -> float:
    """Learning-rate factor over the wall-clock: linear warm-up, flat, linear decay to `floor`."""
    rise = min(1.0, (progress + 1e-3) / warmup)
    fall = 1.0 if progress < decay_from else max(floor, 1 - (progress - decay_from) / (1 - decay_from))
    return rise * fall


class Optimizers:
    """Muon for the blocks' matrices, AdamW for everything else; one learning-rate factor for both."""

    def __init__(self, model: nn.Module, *, muon_lr: float, adam_lr: float):
        matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.parameters = matrices + others
        self._rates = muon_lr, adam_lr
        self._muon = Muon(matrices, lr=muon_lr)
        self._adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=others[0].is_cuda)

    def step(self, factor: float) -> None:
        self._muon.lr = self._rates[0] * factor
        for group in self._adam.param_groups:
            group["lr"] = self._rates[1] * factor
        self._muon.step()
        self._adam.step()

    def clipped_step(self, run: Run, factor: float) -> Tensor:
        """Average gradients over the run's processes, clip their norm to 1, and step. Returns the norm before clipping."""
        run.average_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.step(factor)
        return norm
