"""Where kernel tests run. Import this first: Triton reads TRITON_INTERPRET when it is imported.

Without a CUDA device, or with TRITON_INTERPRET=1, kernels run on the CPU under Triton's interpreter; with one, `-m gpu` runs them on it.
"""
import os
import sys

import pytest
import torch

if os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1") == "1" and "triton" in sys.modules:
    from triton import language

    if type(language.sum).__name__ != "InterpretedFunction":
        pytest.skip("triton was imported before its interpreter was asked for; set TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")
INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"


@pytest.fixture(autouse=True)
def right_machine(request):
    """Skip what this machine cannot run, and say why."""
    if request.node.get_closest_marker("gpu"):
        if not torch.cuda.is_available() or INTERPRETED:
            pytest.skip("needs a CUDA device, and no TRITON_INTERPRET=1")
    elif not INTERPRETED:
        pytest.skip("runs under the interpreter; set TRITON_INTERPRET=1")


@pytest.fixture(autouse=True)
def fresh_memory_is_nan(monkeypatch):
    """What a kernel forgets to write shows up as NaN, or as -1."""
    def spoiled(make):
        def fresh(*args, **options):
            x = make(*args, **options)
            return x.fill_(float("nan") if x.is_floating_point() else -1)
        return fresh

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, spoiled(getattr(torch, name)))


def distance(x, truth):
    """|x - truth| / |truth| in float64."""
    return ((x.double() - truth.double()).norm() / truth.double().norm()).item()
