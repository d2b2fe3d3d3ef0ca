"""Where the time and the memory went."""
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Stopwatch:
    """Seconds by stage. `sync` waits for an accelerator, so that a stage is charged for the work it started."""

    def __init__(self, sync: Callable[[], None] | None = None, clock: Callable[[], float] = time.perf_counter):
        self._sync, self._wall, self._stopped_s = sync or (lambda: None), clock, 0.0
        self._start = clock()
        self.stages: dict[str, float] = {}

    def _clock(self) -> float:
        return self._wall() - self._stopped_s

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The body's time counts nowhere: not in the stage it interrupts, not in the total."""
        start = self._wall()
        try:
            yield
        finally:
            self._stopped_s += self._wall() - start

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge the body to a stage, even one that raises; a stage may be entered again."""
        start = self._clock()
        try:
            yield
            self._sync()
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + self._clock() - start

    @property
    def elapsed(self) -> float:
        """Seconds since the watch was made, whoever used them; less those it was stopped."""
        return self._clock() - self._start

    def report(self) -> dict[str, float]:
        """Stages and "total", the time from start to now, waiting for whoever consumed the events included."""
        return {**self.stages, "total": self.elapsed}


def sync(device: "torch.device") -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], device: "torch.device", at_least: int, budget_s: float) -> list[float]:
    """Wall seconds of each call, device idle before and after; as many as fit the budget, `at_least` in any case."""
    times: list[float] = []
    while len(times) < at_least or sum(times) < budget_s and len(times) < 50:
        sync(device)
        start = time.perf_counter()
        run()
        sync(device)
        times.append(time.perf_counter() - start)
    return times


def peak_memory_mib() -> float | None:
    """The process's largest resident set so far in MiB; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2 ** 20 if sys.platform == "darwin" else 2 ** 10          # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_bytes() -> int:
    """What this process holds of the machine's memory now; 0 where the system does not tell so."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
