"""Kernel tests: on the CPU under Triton's interpreter, with `-m gpu` on a CUDA device. Skipped where Triton is absent."""
import importlib.util
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"      # before anything imports triton: it is read at decoration

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def device(request) -> str:
    return "cuda" if request.node.get_closest_marker("gpu") else "cpu"
