"""Files that are whole or absent: the one way this project writes what must not be lost."""
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Temporary file beside it, sync, rename, sync of the folder. An older file of that name stays until the rename.

    Raises: OSError; nothing of the new file is left then. A crash at any instant leaves the old file, or the new one whole.
    Source: Pillai et al., OSDI 2014, on what file systems promise.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    if os.name == "nt":                                            # folders cannot be opened there, nor need they be
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
