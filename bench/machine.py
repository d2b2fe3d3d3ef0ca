"""Where and on what a number was measured: every result carries this."""
import os
import platform
import subprocess
from importlib.metadata import version

from turbo_engine.machine import processor


def commit() -> str:
    """The code measured: $SOURCE_COMMIT where set (a copy without its history), else what git says; "-dirty" where files
    differ from it, "unknown" outside a checkout."""
    if known := os.environ.get("SOURCE_COMMIT"):
        return known
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def facts() -> dict:
    """Machine, versions and commit, JSON-ready; and the call that `bench.table` made, where it did."""
    call = {"call": os.environ["BENCH_CALL"]} if "BENCH_CALL" in os.environ else {}
    return {"machine": processor(), "python": platform.python_version(), "torch": version("torch"), "commit": commit(), **call}
