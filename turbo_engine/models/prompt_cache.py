"""Token states of prompts on disk, so that a prompt once read costs no text encoder again."""
import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from turbo_engine.safe_write import write_whole


class PromptCache:
    """Named by a hash of the prompt and of what reads it; the prompt itself is not stored. The least used go first.

    A cache that cannot be read or written costs time, never a clip: such failures are passed over.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 2 ** 30):
        self.folder, self.max_bytes = folder, max_bytes

    def _path(self, reader: str, prompt: str) -> Path:
        digest = hashlib.sha256(f"{reader}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{digest}.safetensors"

    def get(self, reader: str, prompt: str) -> Tensor | None:
        """The states kept under (reader, prompt), on the CPU. reader: names weights, precision and length of the encoder."""
        path = self._path(reader, prompt)
        try:
            states = load(path.read_bytes())["states"]
            os.utime(path)                                     # used now
        except (OSError, SafetensorError, KeyError):
            return None
        return states

    def put(self, reader: str, prompt: str, states: Tensor) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(reader, prompt), save({"states": states.cpu().contiguous()}))
            self._shrink()
        except OSError:
            return

    def _shrink(self) -> None:
        files = sorted((stat.st_mtime_ns, stat.st_size, path) for path in self.folder.glob("*.safetensors") for stat in [path.stat()])
        excess = sum(size for _, size, _ in files) - self.max_bytes
        for _, size, path in files:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size
