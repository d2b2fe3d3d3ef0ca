"""Which of several ways to run an op is fastest on this card: measured once per shape, kept on disk, told on request.

The file is read once and written whole at every new measurement, through a temporary file: processes may share it.
"""
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

_chosen: dict[str, dict] = {}


def fastest(op: str, shape: tuple, ways: dict[str, Callable[[], object]], device: torch.device) -> str:
    """The name of the fastest of `ways`; the first one, unmeasured, with RUSHES_TUNE=0 or while a CUDA graph is captured.

    Args: shape: what the choice depends on. ways: by name, functions that run the op once on the caller's tensors.
    """
    if len(ways) == 1 or os.environ.get("RUSHES_TUNE") == "0":
        return next(iter(ways))
    key = " ".join(map(str, (op, *shape, torch.cuda.get_device_name(device), torch.__version__)))
    if key not in _stored():
        if torch.cuda.is_current_stream_capturing():
            return next(iter(ways))
        _stored()[key] = {name: round(_median_ms(run), 4) for name, run in ways.items()}
        _save()
    times = {name: ms for name, ms in _stored()[key].items() if name in ways}
    _chosen[key] = {"takes": min(times, key=times.get), "ms": times}
    return _chosen[key]["takes"]


def choices() -> dict[str, dict]:
    """What this process has chosen so far: op, shape and card -> {"takes": name, "ms": {name: median}}."""
    return dict(_chosen)


def choices_path() -> Path:
    """Where measurements are kept: $RUSHES_CACHE, else $XDG_CACHE_HOME/rushes, else ~/.cache/rushes."""
    folder = os.environ.get("RUSHES_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rushes"
    return Path(folder) / "kernel-choices.json"


@cache
def _stored() -> dict[str, dict[str, float]]:
    try:
        stored = json.loads(choices_path().read_text())
    except (OSError, ValueError):               # none yet, or not ours: measured again
        return {}
    return stored if isinstance(stored, dict) else {}


def _save() -> None:
    path = choices_path()
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(_stored(), indent=0))
        temporary.replace(path)
    except OSError:                             # a read-only home: measured again next time
        pass


def _median_ms(run: Callable[[], object]) -> float:
    from triton.testing import do_bench

    run()
    return do_bench(run, warmup=5, rep=30, return_mode="median")
