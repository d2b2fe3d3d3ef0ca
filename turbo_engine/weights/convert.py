"""`.pth` to safetensors, once. The zip is checked here and never opened; `unpickle.py` reads it in a child process.

What comes out is a checkpoint of the Wan family and appears whole beside the pickle, or not at all.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from turbo_engine.errors import WeightsError
from turbo_engine.safe_write import sync_folder
from turbo_engine.weights.container import Progress, open_regular, refuse_foreign

MAX_BYTES = 80 << 30                        # more than any file of the family in float32
_MAX_PICKLE = 32 << 20                      # bytes of names and shapes; the largest we know has under 1 MiB


def convert(path: Path | str, out: Path | str | None = None, progress: Progress | None = None) -> Path:
    """Write a pickled checkpoint's tensors as safetensors, in a child process.

    Args: out: default the same name with .safetensors. progress: bytes written and in all.
    Returns: the new file. Raises: WeightsError; nothing is left behind then, and an older file of that name stays.
    """
    path = Path(path)
    out = Path(out) if out is not None else path.with_suffix(".safetensors")
    size = check_zip(path)
    if out.suffix != ".safetensors" or out.resolve() == path.resolve():
        raise WeightsError(f"{out}: expected an output named .safetensors, found {out.name!r}; leave --out away to put it beside")
    _check_space(out, size)
    _sweep(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _run_child(path, temporary, progress)
        os.replace(temporary, out)
        sync_folder(out.parent)
    except OSError as error:
        raise WeightsError(f"{out}: expected to write {size:,} bytes, found: {error.strerror}; check the folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    return out


def check_zip(path: Path) -> int:
    """Refuse what is no torch zip of plain size before anything opens it. Returns: bytes. Raises: WeightsError."""
    with open_regular(path) as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(512)
        if size > MAX_BYTES:
            raise WeightsError(f"{path}: expected a checkpoint of at most {MAX_BYTES:,} bytes, found {size:,}; name another file")
        if not start.startswith(b"PK\x03\x04"):
            if not start.startswith(b"\x80"):
                refuse_foreign(path, start, size)
            found = "an old pickle without the zip around it" if start.startswith(b"\x80") else f"{size:,} bytes of something else"
            raise WeightsError(f"{path}: expected torch's zip of tensors, found {found}; download the published file, or save "
                               "it again with today's torch")
        try:
            entries = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, EOFError) as error:
            raise WeightsError(f"{path}: expected torch's zip of tensors, found a broken one ({error}); it is cut short, "
                               "download it again") from error
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size]
    if len(pickles) != 1 or packed or pickles[0].file_size > _MAX_PICKLE or sum(entry.file_size for entry in entries) > size:
        found = (f"the compressed entry {packed[0].filename!r}" if packed else
                 f"{len(pickles)} lists of tensors" if len(pickles) != 1 else "entries larger than the file")
        raise WeightsError(f"{path}: expected torch's zip of stored tensors, found {found}; this is no checkpoint, "
                           "download the published file")
    return size


def _check_space(out: Path, size: int) -> None:
    try:
        room = os.statvfs(out.parent) if hasattr(os, "statvfs") else None
    except OSError as error:
        raise WeightsError(f"{out.parent}: expected a folder for the new file, found: {error.strerror}; check the path") from error
    if room and room.f_bavail * room.f_frsize < size:
        raise WeightsError(f"{out.parent}: expected {size:,} bytes free, found {room.f_bavail * room.f_frsize:,}; free some, or name "
                           "another folder with --out")


def _sweep(out: Path) -> None:
    """Remove what conversions that were killed left of this file."""
    for part in out.parent.glob(f".{out.name}.*.part"):
        pid = re.fullmatch(r".*\.(\d+)\.part", part.name)
        if pid and os.path.isdir("/proc/self") and not os.path.isdir(f"/proc/{pid[1]}"):
            part.unlink(missing_ok=True)


def _run_child(path: Path, temporary: Path, progress: Progress | None) -> None:
    command = [sys.executable, "-m", "turbo_engine.weights.unpickle", str(path.absolute()), str(temporary.absolute())]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    root, last = Path(__file__).resolve().parents[2], ""
    with tempfile.TemporaryFile() as errors, \
            subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as child:
        try:
            for line in child.stdout:
                if line.startswith("progress "):
                    if progress:
                        progress(*map(int, line.split()[1:3]))
                else:
                    last = line.strip()
            child.wait()
        except BaseException:
            child.kill()
            raise
        errors.seek(0)
        said = errors.read()[-2000:].decode(errors="replace").strip().splitlines()
    if child.returncode == 0 and last == "done":
        return
    if child.returncode == 2 and last.startswith("{"):
        raise WeightsError(json.loads(last)["error"])
    reason = (said or [f"exit code {child.returncode}"])[-1][:200]
    raise WeightsError(f"{path}: expected tensors alone, found a file that ended its reader ({reason}); nothing was written, "
                       "download the published file")
