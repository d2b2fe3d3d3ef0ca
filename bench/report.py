"""Rows and checks of a kernel's bench: printed as they come, one JSON object last."""
import json
import re
import time
import traceback
from pathlib import Path

import torch
from torch import Tensor

from bench import machine

_START = time.monotonic()


def since_start() -> float:
    """Seconds since this module was loaded."""
    return time.monotonic() - _START


def gpu_facts() -> dict:
    """The card and what drives it, JSON-ready."""
    import triton

    card = torch.cuda.get_device_properties(0)
    return dict(device=card.name, capability=f"{card.major}.{card.minor}", triton=triton.__version__, cuda=torch.version.cuda,
                cudnn=torch.backends.cudnn.version())


def relative_error(x: Tensor, truth: Tensor) -> float:
    """|x - truth| / |truth| in float64."""
    return ((x.double() - truth.double()).norm() / truth.double().norm()).item()


class Report:
    """What was measured; a part that raises is noted and passed over, as is one whose name does not match `only`."""

    def __init__(self, bench: str, quick: bool, facts: dict, only: str = ""):
        self.facts = dict(bench=bench, **machine.facts(), **facts, quick=quick)
        self._only = re.compile(only)
        self.rows, self.checks, self.errors, self.quick = [], {}, [], quick
        print(json.dumps(self.facts), flush=True)

    def part(self, name: str, run, *args, **options):
        if not self._only.search(name):
            return None
        try:
            return run(self, *args, **options)
        except Exception as error:          # out of memory, a backend this torch lacks, a kernel that does not compile
            self.errors.append(f"{name}: {type(error).__name__}: {error}"[:600])
            print(f"! {name}: {''.join(traceback.format_exception(error)[-3:])[-1500:]}", flush=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def check(self, name: str, error: float, limit: float) -> None:
        self.checks[name] = dict(error=error, limit=limit, ok=error <= limit)
        print(f"{'ok  ' if error <= limit else 'FAIL'} {name}: relative error {error:.2e}, limit {limit:.2e}", flush=True)

    def time(self, name: str, run, flop: float | None = None, moved: float | None = None, **facts) -> float:
        """Median, p20 and p80 milliseconds of run(), the L2 cache flushed before each; flop and moved (bytes) give rates.

        Returns: the median.
        """
        median, low, high = _quantiles(run, self.quick)
        row = dict(name=name, **facts, median_ms=round(median, 5), p20_ms=round(low, 5), p80_ms=round(high, 5))
        shown = " ".join(f"{k}={v:.2e}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items())
        text = f"{name:<30} {shown:<72} {median:9.4f} ms  ({low:.4f} .. {high:.4f})"
        if flop:
            row["tflops"] = round(flop / median / 1e9, 1)
            text += f"  {row['tflops']:7.1f} TFLOP/s"
        if moved:
            row["tb_per_s"] = round(moved / median / 1e9, 3)
            text += f"  {row['tb_per_s']:6.3f} TB/s"
        self.rows.append(row)
        print(text, flush=True)
        return median

    def finish(self, out: str | None, **more) -> int:
        """Print the JSON, write it to `out` if given. Returns: the exit code, 1 where a check failed or a part raised."""
        wrong = [name for name, check in self.checks.items() if not check["ok"]]
        text = json.dumps(dict(**self.facts, ok=not wrong and not self.errors, wrong=wrong, errors=self.errors, checks=self.checks,
                               rows=self.rows, seconds=round(since_start(), 1), **more))
        if out:
            Path(out).write_text(text + "\n")
        print(text, flush=True)
        return 1 if wrong or self.errors else 0


def _quantiles(run, quick: bool) -> tuple[float, float, float]:
    run()
    if torch.cuda.is_available():
        from triton.testing import do_bench

        torch.cuda.synchronize()
        return tuple(do_bench(run, warmup=20 if quick else 100, rep=60 if quick else 400, quantiles=(0.5, 0.2, 0.8)))
    times, end = [], time.perf_counter() + (0.3 if quick else 2)
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return tuple(torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)).tolist())
