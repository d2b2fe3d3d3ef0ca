"""One safetensors file: what its first bytes are, its header checked before anything is allocated, its tensors mapped.

Format: 8 bytes of little-endian header length, a JSON header, then the tensors' bytes without hole or overlap.
Source: the safetensors README's format section. torch comes in with the first tensor: the page looks at headers alone.
"""
from __future__ import annotations

import json
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from turbo_engine.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1,
              "F8_E5M2": 1}
MAX_HEADER = 8 << 20                # bytes; the largest we know, A14B quantised, has 0.2 MiB
_SMALL = 64 << 10                   # bytes; below, a read is cheaper than a map
CONVERT = "python -m turbo_engine.weights convert"
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True)
class Entry:
    """One tensor: dtype by safetensors' name, and where its bytes lie in the file, [start, end)."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def refuse_foreign(path: Path, start: bytes, size: int) -> None:
    """Name what a file that is not safetensors most likely is. start: its first 512 bytes or more. Raises: WeightsError."""
    text = start[:512].lstrip().lower()
    found = ""
    if size == 0:
        found = "an empty file; restore it, or download it again"
    elif start.startswith(b"version https://git-lfs"):
        found = "a git-lfs pointer; fetch the real file with: git lfs pull"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        found = "a web page saved under this name; download the file itself"
    elif text.startswith((b'{"error', b"entry not found", b"repository not found", b"invalid username", b"access to model")):
        found = "a hub's error message saved under this name; download the file itself"
    elif start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        found = f"a pickled checkpoint, which can run code; convert it once with: {CONVERT} {path}"
    elif start.startswith(b"GGUF"):
        found = "a GGUF file, whose quantisation is not read here; download the safetensors or .pth file"
    elif start.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ")):
        found = "a compressed archive; unpack it first"
    elif not start[:512].strip(b"\0"):
        found = "nothing but zeros, as an unfinished download leaves them; download it again"
    if found:
        raise WeightsError(f"{path}: expected a safetensors file, found {found}")


def parse_header(path: Path, data: bytes, size: int) -> tuple[dict[str, str], dict[str, Entry]]:
    """Metadata and tensors of a file of `size` bytes, every offset checked. data: the file, or its head at least.

    Raises: WeightsError with file, expected, found and the way out.
    """
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or size < 8 + length:             # a length of 640 begins as a pickle does
        refuse_foreign(path, data[:512], size)
    if size < 8 or data[8:9] not in (b"{", b""):
        raise WeightsError(f"{path}: expected a safetensors file, found {size:,} bytes of something else; restore it")
    if length > MAX_HEADER and size > MAX_HEADER:
        raise WeightsError(f"{path}: expected a header of at most {MAX_HEADER:,} bytes, found one of {length:,}; restore the file")
    if size < 8 + length:
        raise WeightsError(f"{path}: expected a header of {length:,} bytes, found a file of {size:,}; "
                           "it is cut short, restore it")
    try:
        header = json.loads(data[8:8 + length], object_pairs_hook=_no_duplicates)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise ValueError("metadata that is not text")
        entries = {key: _entry(key, value, 8 + length) for key, value in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200] if type(error) is ValueError else "unreadable text"
        raise WeightsError(f"{path}: expected a safetensors header, found {reason}; restore the file") from error
    _check_offsets(path, entries, 8 + length, size)
    return metadata, entries


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        raise ValueError(f"the key {next(k for k, _ in pairs if k in seen or seen.add(k))!r} twice")
    return table


def _entry(key: str, value: dict, base: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{key!r} without dtype, shape and data_offsets alone")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{key!r} of the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 8:
        raise ValueError(f"{key!r} with a shape or offsets that are no lists")
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, *offsets)):
        raise ValueError(f"{key!r} with a negative, fractional or absurd size")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"{key!r} of {dtype} {shape} in {end - start:,} bytes")
    return Entry(dtype, tuple(shape), base + start, base + end)


def _check_offsets(path: Path, entries: dict[str, Entry], base: int, size: int) -> None:
    """Tensors lie end to end and fill the file."""
    at = base
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != at:
            what = "overlapping tensors" if entry.start < at else f"a hole of {entry.start - at:,} bytes"
            raise WeightsError(f"{path}: expected tensors end to end, found {what} before {key!r}; restore the file")
        at = entry.end
    if size != at:
        cause = "it is cut short" if size < at else "something was appended to it"
        raise WeightsError(f"{path}: expected {at:,} bytes, found {size:,}; {cause}, restore it")


class Shard:
    """A checked safetensors file, held open: what was checked is what is read, even if its name is replaced since."""

    def __init__(self, path: Path):
        """Raises: WeightsError for anything but a sound safetensors file."""
        self.path = path
        self._file = open_regular(path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            head = self._file.read(512)
            length = int.from_bytes(head[:8], "little")
            head += self._file.read(max(0, min(8 + length, self.size, 8 + MAX_HEADER) - len(head)))
            self.metadata, self.entries = parse_header(path, head, self.size)
        except BaseException:
            self.close()
            raise

    def read(self, entry: Entry) -> Tensor:
        """One tensor, a large one as mapped pages that go with it. Raises: WeightsError if the file shrank since it was opened."""
        size = os.fstat(self._file.fileno()).st_size
        if size != self.size:                                  # touching a page that is gone would kill the process
            raise WeightsError(f"{self.path}: expected {self.size:,} bytes as when it was opened, found {size:,}; do not write to it "
                               "while it is read, restore it")
        import torch

        from turbo_engine.weights.dtypes import DTYPES

        dtype, length = DTYPES[entry.dtype], entry.end - entry.start
        if length <= _SMALL or entry.start % dtype.itemsize:
            self._file.seek(entry.start)
            data, offset = bytearray(self._file.read(length)), 0
        else:
            # A private map, as torch wants writable memory; one a tensor, as a private map larger than memory is refused.
            offset = entry.start % mmap.ALLOCATIONGRANULARITY
            data = mmap.mmap(self._file.fileno(), offset + length, access=mmap.ACCESS_COPY, offset=entry.start - offset)
        if length == 0:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=length // dtype.itemsize, offset=offset).view(entry.shape)

    def chunks(self, size: int, *, whole: bool) -> Iterator[bytes]:
        """The file's bytes, or only those after the header, `size` at a time."""
        self._file.seek(0 if whole else min((entry.start for entry in self.entries.values()), default=self.size))
        while chunk := self._file.read(size):
            yield chunk

    def close(self) -> None:
        self._file.close()


def open_regular(path: Path):
    """A file open for reading, never a folder, pipe or device. Raises: WeightsError."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise WeightsError(f"{path}: expected a weights file, found a folder; name the file")
        if not stat.S_ISREG(mode):
            raise WeightsError(f"{path}: expected a weights file, found a pipe, socket or device; name a regular file")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: expected a weights file, found none; restore it, or check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: expected a readable file, found: {reason}; check its permissions") from error


def header_bytes(entries: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """Length and header of a file that holds these (dtype, shape) in this order, end to end, padded to 8 bytes."""
    header, at = {"__metadata__": metadata}, 0
    for key, (dtype, shape) in entries.items():
        end = at + math.prod(shape) * ITEM_BYTES[dtype]
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
