"""The only place that opens a pickle: run by `convert` in a child process that can do little else.

    python -m turbo_engine.weights.unpickle FILE.pth TEMPORARY

torch reads it with `weights_only=True`, under limits on memory, file size and time, while an audit hook refuses programs,
network and any file opened for writing. Progress and the last word go to stdout: "done", or a JSON object with the error.
"""
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from turbo_engine.errors import WeightsError
from turbo_engine.weights.container import header_bytes
from turbo_engine.weights.dtypes import DTYPE_NAMES
from turbo_engine.weights.identify import identify_tensors

_SAFE_TORCH = (2, 10)                       # weights_only was bypassed before: CVE-2025-32434, CVE-2026-24747
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_CPU_SECONDS = 3600
_CHUNK = 16 << 20


def unpickle(path: Path, temporary: Path) -> None:
    """Write the tensors of `path` to the new file `temporary`. Raises: WeightsError; OSError if it cannot be written."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_TORCH:
        raise WeightsError(f"torch: expected {'.'.join(map(str, _SAFE_TORCH))} or later to open pickles, found {torch.__version__}; "
                           "update it")
    size = path.stat().st_size
    file = open(temporary, "xb")                   # before the walls go up; named by the parent
    _limit(size)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:                     # whatever a hostile file raises is the file's fault
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
        raise WeightsError(f"{path}: expected tensors alone, found what weights_only refuses ({reason}); do not open it by other "
                           "means, download the published file") from error
    tensors = _tensors(path, loaded, size)
    listed = {key: (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for key, tensor in tensors.items()}
    try:
        found = identify_tensors(path, listed, {})
    except ValueError as error:
        raise WeightsError(f"{path}: expected each tensor once, found {error}; save it again") from error
    if isinstance(found, str):
        raise WeightsError(f"{path}: expected a checkpoint of the Wan family, found {found}; nothing was written")
    metadata = {"converted_from": path.name, "data_sha256": "0" * 64}
    if expert := found[0].expert:
        metadata["expert"] = expert
    _write(file, tensors, listed, metadata)


def _tensors(path: Path, loaded: object, size: int) -> dict[str, Tensor]:
    """The flat table of tensors, out of its wrapper; views that would be larger than the file are refused."""
    for name in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict) or len(loaded) == 0:
        raise WeightsError(f"{path}: expected a table of tensors, found {'an empty one' if isinstance(loaded, dict) else type(loaded).__name__}; "
                           "this is no checkpoint")
    total = 0
    for key, tensor in loaded.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided \
                or tensor.dtype not in DTYPE_NAMES or tensor.device.type != "cpu":
            raise WeightsError(f"{path} {str(key)[:100]!r}: expected a plain tensor, found {type(tensor).__name__}; "
                               "export the weights alone from this training state")
        total += math.prod(tensor.shape) * tensor.dtype.itemsize
        if total > size:
            raise WeightsError(f"{path} {key[:100]!r}: expected tensors of {size:,} bytes in all, found more; views of one piece "
                               "of memory are not written out")
    return dict(sorted(loaded.items(), key=lambda item: -item[1].element_size()))       # wide ones first: all lie aligned


def _write(file, tensors: dict[str, Tensor], listed: dict, metadata: dict[str, str]) -> None:
    """Header with a blank digest, data as it is hashed, then the digest; synced."""
    digest = hashlib.sha256()
    file.write(header_bytes(listed, metadata))
    total, done = sum(t.numel() * t.element_size() for t in tensors.values()), 0
    for tensor in tensors.values():
        for chunk in _chunks(tensor):
            digest.update(chunk)
            file.write(chunk)
            done += len(chunk)
            print(f"progress {done} {total}", flush=True)
    file.seek(0)
    file.write(header_bytes(listed, {**metadata, "data_sha256": digest.hexdigest()}))
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    if tensor.numel():
        data = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        for at in range(0, len(data), _CHUNK):
            yield data[at:at + _CHUNK]


def _limit(size: int) -> None:
    """No core dump, no more memory than the mapped file and a tensor of it, nothing but reading from here on."""
    if os.name != "nt":
        import resource

        used = 0
        if os.path.exists("/proc/self/status"):
            with open("/proc/self/status") as status:
                used = next((int(line.split()[1]) << 10 for line in status if line.startswith("VmSize:")), 0)
        if used:
            resource.setrlimit(resource.RLIMIT_AS, (used + 2 * size + (1 << 30),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + (16 << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS,) * 2)
    sys.addaudithook(_wall)


def _wall(event: str, arguments: tuple) -> None:
    refused = event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.spawn", "os.posix_spawn", "os.system", "os.remove",
                                "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.",
                                "ctypes.dlopen", "webbrowser.", "urllib.", "ftplib.", "smtplib."))
    if event == "open":
        _, mode, flags = arguments
        refused = (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or \
            (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    if refused:
        raise PermissionError(f"a checkpoint asked for {event}")


if __name__ == "__main__":
    try:
        unpickle(Path(sys.argv[1]), Path(sys.argv[2]))
    except WeightsError as error:
        print(json.dumps({"error": str(error)}))
        sys.exit(2)
    except OSError as error:
        print(json.dumps({"error": f"{sys.argv[2]}: expected to write the new file, found: {error.strerror or error}; check the folder"}))
        sys.exit(2)
    print("done")
