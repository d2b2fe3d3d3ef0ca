"""What a bug report needs to know of a machine, and what keeps the app from running on it: `python app.py --doctor`.

Each look catches what goes wrong in it; the one at torch and the GPU runs in a process of its own, which may crash or hang. Nothing
here names the user: the home folder is written ~.
"""
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from turbo_engine.machine import processor

FLOORS = {"torch": "2.10", "gradio": "6.31", "starlette": "0.49.1", "python-multipart": "0.0.27", "safetensors": "0.5", "av": "18", "fastapi": "0.110"}
"""Older ones have known holes, or lack what is used here."""
SHOWN = ("triton", "numpy", "opencv-python-headless", "transformers", "websockets", "uvicorn", "prometheus_client")
ROOM = 1 << 29              # bytes: some hundred clips
LOOK_S = 120
GOOD, NOTE, BAD = "ok", "note", "BAD"


@dataclass(frozen=True)
class Finding:
    """state: GOOD, NOTE or BAD, which keeps the app from running. line: what was found, and the way out if it is bad."""

    state: str
    what: str
    line: str


def outdated() -> list[str]:
    """A line for each package below its floor."""
    from packaging.version import Version

    found = {name: _version(name) for name in FLOORS}
    return [f"{name}: expected {FLOORS[name]} or later, found {found[name] or 'none'}; pip install -r requirements.txt"
            for name in FLOORS if found[name] is None or Version(found[name]) < Version(FLOORS[name])]


def examine(preset_name: str, weights: Path | None, data_dir: Path, free_port: Callable[[], int]) -> Iterator[Finding]:
    """One look after another. free_port: the port the app would listen on; raises OSError for none."""
    looks = (_versions, _machine, _torch, _encoders, lambda: _weights(preset_name, weights), lambda: _disk(data_dir),
             lambda: _history(data_dir), lambda: [Finding(GOOD, "port", f"{free_port()} is free")])
    names = ("versions", "machine", "torch", "encoders", "weights", "disk", "history", "port")
    for name, look in zip(names, looks):
        try:
            found = list(look())
        except Exception as error:
            found = [Finding(BAD, name, f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error))]
        for finding in found:
            yield Finding(finding.state, finding.what, _nameless(finding.line))


def report(findings: Iterator[Finding], show: Callable[[str], None]) -> int:
    """Show each as it comes. Returns: the exit code, 1 where something is BAD."""
    bad = 0
    for finding in findings:
        show(f"{finding.state:4}  {finding.what:9} {finding.line}")
        bad += finding.state == BAD
    show(f"\n{bad} thing{'s' if bad > 1 else ''} above must be mended." if bad else "\nNothing stands in the way.")
    return int(bad > 0)


def _versions() -> Iterator[Finding]:
    commit = _said(["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty"])
    right = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding(GOOD if right else NOTE, "versions", f"Rushes {commit or 'outside a checkout'}, Python {platform.python_version()}"
                                                       f"{'' if right else ' (tried with 3.11 and 3.12)'}, {platform.platform()}")
    yield Finding(GOOD, "packages", ", ".join(f"{name} {_version(name) or '-'}" for name in (*FLOORS, *SHOWN)) + f", SQLite {sqlite3.sqlite_version}")
    for line in outdated():
        yield Finding(BAD, "packages", line)


def _machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    yield Finding(GOOD if memory >= 3 << 30 or not memory else NOTE, "machine", f"{processor()}, {memory / 2**30:.1f} GiB of memory"
                                                                               f"{'' if memory >= 3 << 30 or not memory else '; pocket wants 4'}")


def _torch() -> list[Finding]:
    """In a process of its own: an import of torch or a broken driver may end it."""
    try:
        done = subprocess.run([sys.executable, "-m", "turbo_engine.doctor"], capture_output=True, text=True, timeout=LOOK_S, cwd=Path(__file__).parents[1])
    except subprocess.TimeoutExpired:
        return [Finding(BAD, "torch", f"said nothing for {LOOK_S} s; the driver may hang: restart the machine")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [Finding(BAD, "torch", f"cannot be used: {last}; pip install -r requirements.txt")]
    card = _said(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    found = [Finding(*finding) for finding in json.loads(done.stdout.splitlines()[-1])]
    if card:
        found.append(Finding(GOOD if any("cuda" in finding.line for finding in found) else NOTE, "driver", card.replace("\n", "; ")))
    return found


def _look_at_torch() -> list[tuple[str, str, str]]:
    import torch

    from kernels.formats import int8_products
    from turbo_engine.accelerate import techniques_for
    (torch.ones(8, 8) @ torch.ones(8, 8)).sum().item()
    if not torch.cuda.is_available():
        built = "built for CUDA, but finds no card" if torch.version.cuda else "built without CUDA"
        return [(GOOD, "torch", f"{torch.__version__} works, {built}: on the processor, {torch.get_num_threads()} threads"),
                (GOOD, "kernels", "plain torch in float32" + (", pocket's turbo layers in int8" if int8_products(torch.device("cpu")) else ""))]
    found = []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
        free, total = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        found.append((GOOD, "torch", f"{torch.__version__} works on cuda:{index}, {torch.cuda.get_device_name(device)}, compute {major}.{minor}, CUDA {torch.version.cuda}, "
                                     f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"))
        for mode in ("turbo", "full"):
            ways = techniques_for(device, mode)
            words = [f"{ways.linear} linear layers" if ways.linear else "", f"sparse attention in int8 and {ways.sage}" if ways.sage else "",
                     "fused kernels" if ways.fused else "", "one CUDA graph a step" if ways.graph else ""]
            found.append((GOOD, "kernels", f"{mode} of a Wan preset: {', '.join(filter(None, words)) or 'plain torch'}, each where it measures faster"))
    return found


def _encoders() -> Iterator[Finding]:
    import av

    from turbo_engine.export import formats
    have = [kind.name for kind in formats()]
    yield Finding(GOOD if "mp4" in have else BAD, "encoders", f"{', '.join(have)} by FFmpeg {av.ffmpeg_version_info}"
                                                              f"{'' if 'mp4' in have else '; H.264 is missing: pip install --force-reinstall av'}")


def _weights(preset_name: str, folder: Path | None) -> Iterator[Finding]:
    from turbo_engine.parts import why_not_ready
    from turbo_engine.presets import list_presets, load_preset
    for name in dict.fromkeys((preset_name, *list_presets())):
        preset, chosen = load_preset(name), name == preset_name
        why = why_not_ready(preset, folder)
        if not why and preset.weights is not None:
            sizes = [preset.weights_path(role).stat().st_size for role in ("student", "teacher", "decoder")]
            why = "a file of it is a pointer and not the file itself: git lfs pull" if min(sizes) < 1000 else ""
        yield Finding((BAD if chosen else NOTE) if why else GOOD, "weights", f"{name}: {why or 'all parts are there'}")


def _disk(data_dir: Path) -> Iterator[Finding]:
    place = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(b"1")
    free = shutil.disk_usage(place).free
    clips = list((data_dir / "clips").glob("*.mp4"))
    used = sum(path.stat().st_size for path in clips)
    yield Finding(GOOD if free >= ROOM else BAD, "disk", f"{free / 2**30:.1f} GiB free in {data_dir}, which holds {len(clips)} clips in {used / 2**20:.0f} MiB"
                                                         f"{'' if free >= ROOM else '; make room, or choose another disk with --data-dir'}")


def _history(data_dir: Path) -> Iterator[Finding]:
    database, crashes = data_dir / "history.sqlite3", len(list((data_dir / "crashes").glob("*.txt")))
    if database.exists():
        db = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=2)
        try:
            sound = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            rows = db.execute("SELECT count(*) FROM clips WHERE deleted IS NULL").fetchone()[0]
        except sqlite3.Error as error:
            sound, rows = str(error), 0
        finally:
            db.close()
        locked = "locked" in sound
        yield Finding(GOOD if sound == "ok" else NOTE, "history", f"{rows} clips listed" if sound == "ok" else
                      "in use by a Rushes that runs" if locked else f"damaged ({sound}); the next start makes it anew from the clips")
    if crashes:
        yield Finding(NOTE, "crashes", f"{crashes} reports of lost engines in {data_dir / 'crashes'}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _nameless(line: str) -> str:
    home = str(Path.home())
    return " ".join((line.replace(home, "~") if len(home) > 1 else line).split())


if __name__ == "__main__":
    print(json.dumps(_look_at_torch()))
