"""The processor this process runs on."""
import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """How many cores this process may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """"2 cores of AMD EPYC": the cores this process may use, and the processor's name."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        name = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), name)
    return f"{usable_cores()} cores of {name}"
