"""Weights from the hub, only when asked for by name: sizes first, room checked, resumed where it broke, hashed at the end.

huggingface_hub speaks the protocol; the part file is ours, because the hub's own client throws away what a killed download
had. HF_ENDPOINT and HF_TOKEN are honoured.
"""
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from turbo_engine.errors import WeightsError
from turbo_engine.safe_write import sync_folder
from turbo_engine.weights.container import Progress, Shard
from turbo_engine.weights.convert import convert
from turbo_engine.weights.shards import read_index

_CHUNK = 16 << 20
_MARGIN = 256 << 20                          # bytes left free on the disk
_PICKLES = (".pth", ".pt")


@dataclass(frozen=True)
class HubFile:
    """One file of a hub repository. sha256: where the preset knows it; else the hub's own digest must do. under: a folder for it."""

    repo: str
    file: str
    sha256: str = ""
    under: str = ""

    def __post_init__(self):
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or "\\" in self.file or not path.name:
            raise ValueError(f"file: expected a path inside the repository, got {self.file!r}")


@dataclass(frozen=True)
class Remote:
    """What the hub says of a file. etag: SHA-256 of large files, git's SHA-1 of small ones. here: bytes already on disk."""

    wanted: HubFile
    url: str
    size: int
    etag: str
    here: int
    path: Path

    @property
    def missing(self) -> int:
        return self.size - self.here


def fetch(files: Sequence[HubFile], folder: Path | str, *, announce: Callable[[list[Remote]], None] | None = None,
          progress: Progress | None = None) -> list[Path]:
    """Download what is not here yet, and convert pickles.

    Args:
        folder: made if absent; files keep their paths inside the repository, below `under`.
        announce: called once with all sizes before the first byte. progress: bytes on disk and in all.
    Returns: a safetensors file for each, in order. Raises: WeightsError; what was downloaded stays, to be resumed.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remotes = [_look_up(wanted, folder) for wanted in files]
        if announce:
            announce(remotes)
        _check_space(remotes, folder)
        done, total, paths = 0, sum(remote.size for remote in remotes), []
        for remote in remotes:
            paths.append(_get(remote, lambda n, base=done: progress and progress(base + n, total)))
            done += remote.size
    except OSError as error:
        raise WeightsError(f"{folder}: expected to write the download, found: {error.strerror or error}; check the folder, then run it "
                           "again, it resumes") from error
    return [_converted(path) for path in paths]


def with_shards(index: HubFile, folder: Path | str) -> list[HubFile]:
    """An index of shards, which is downloaded for it, and the shards it names. Raises: WeightsError."""
    names = sorted(set(read_index(fetch([index], folder)[0]).values()))
    place = PurePosixPath(index.file).parent
    return [index, *(replace(index, file=str(place / name), sha256="") for name in names)]


def _look_up(wanted: HubFile, folder: Path) -> Remote:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(wanted.repo, wanted.file)
    with _translated(wanted):
        found = get_hf_file_metadata(url)
    if found.size is None or not found.etag or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found.etag):
        raise WeightsError(f"{wanted.repo}/{wanted.file}: expected a size and a digest from the hub, found {found.size} and "
                           f"{found.etag!r:.80}; check HF_ENDPOINT")
    if wanted.sha256 and len(found.etag) == 64 and found.etag != wanted.sha256:
        raise WeightsError(f"{wanted.repo}/{wanted.file}: expected SHA-256 {wanted.sha256[:12]}..., found {found.etag[:12]}... on the "
                           "hub; the file was replaced there since the preset was written, update the app")
    path = folder / wanted.under / wanted.file
    return Remote(wanted, url, found.size, found.etag, min(_here(path, found.etag), found.size), path)


def _part(path: Path, etag: str) -> Path:
    return path.with_name(f".{path.name}.{etag[:16]}.part")


def _here(path: Path, etag: str) -> int:
    return next((file.stat().st_size for file in (path, _part(path, etag)) if file.is_file()), 0)


def _check_space(remotes: list[Remote], folder: Path) -> None:
    """Room for what is missing, and for each pickle once more as safetensors."""
    needed = sum(remote.missing for remote in remotes)
    needed += sum(remote.size for remote in remotes if remote.path.suffix in _PICKLES and not remote.path.with_suffix(".safetensors").is_file())
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _MARGIN:
        raise WeightsError(f"{folder}: expected {(needed + _MARGIN) / 1e9:.2f} GB free for {len(remotes)} files, found {free / 1e9:.2f} GB; "
                           "free some, or name another folder")


def _get(remote: Remote, progress: Callable[[int], object]) -> Path:
    """The file, whole and hashed."""
    remote.path.parent.mkdir(parents=True, exist_ok=True)
    part = remote.path if remote.path.is_file() else _part(remote.path, remote.etag)
    if part != remote.path and (not part.is_file() or part.stat().st_size < remote.size):
        _download(remote, part, progress)
    if not _sound(remote, part):
        size = part.stat().st_size
        if part != remote.path:
            part.unlink()
        raise WeightsError(f"{remote.path}: expected {remote.size:,} bytes with digest {(remote.wanted.sha256 or remote.etag)[:12]}..., found "
                           f"{size:,} of another digest; " + ("it was removed, run it again" if part != remote.path else
                                                             "move it away, or name another folder"))
    if part != remote.path:
        os.replace(part, remote.path)
        sync_folder(remote.path.parent)
    progress(remote.size)
    return remote.path


def _download(remote: Remote, part: Path, progress: Callable[[int], object]) -> None:
    """Append what is missing; what came before a break stays in the part file."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with open(part, "ab") as file, _translated(remote.wanted):
        here = file.tell()
        http_get(remote.url, _Reported(file, progress), resume_size=here, headers=build_hf_headers(), expected_size=remote.size,
                 tqdm_class=_no_bar())
        file.flush()
        os.fsync(file.fileno())


class _Reported:
    """A file that tells how long it is after each write."""

    def __init__(self, file, progress: Callable[[int], object]):
        self._file, self._progress = file, progress

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._progress(self._file.tell())
        return written


def _no_bar() -> type:
    from tqdm.auto import tqdm

    class Silent(tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **{**{k: v for k, v in options.items() if k != "name"}, "disable": True})
    return Silent


def _sound(remote: Remote, path: Path) -> bool:
    if path.stat().st_size != remote.size:
        return False
    digests = {64: hashlib.sha256()}
    if len(remote.etag) == 40:                          # git's name of a small file
        digests[40] = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    wanted = [value for value in (remote.etag, remote.wanted.sha256) if value]
    return all(digests[len(value)].hexdigest() == value for value in wanted)


def _converted(path: Path) -> Path:
    if path.suffix not in _PICKLES:
        return path
    out = path.with_suffix(".safetensors")
    if out.is_file() and out.stat().st_mtime >= path.stat().st_mtime:
        try:
            shard = Shard(out)
            shard.close()
            if shard.metadata.get("converted_from") == path.name:
                return out
        except WeightsError:
            pass
    return convert(path)


@contextmanager
def _translated(wanted: HubFile) -> Iterator[None]:
    """The hub's and the network's errors in our words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HTTPError, RepositoryNotFoundError

    name = f"{wanted.repo}/{wanted.file}"
    try:
        yield
    except GatedRepoError as error:
        raise WeightsError(f"{name}: expected an open repository, found one that asks for consent; accept its terms on the hub and set "
                           "HF_TOKEN") from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise WeightsError(f"{name}: expected this file on the hub, found none; it was moved or is private, check the name and "
                           "HF_TOKEN") from error
    except (HTTPError, ConnectionError) as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise WeightsError(f"{name}: expected an answer from {constants.ENDPOINT}, found: {reason}; check the network, then run it "
                           "again, it resumes") from error
    except OSError as error:
        if "Consistency check" not in str(error):
            raise
        raise WeightsError(f"{name}: expected the whole file, found a transfer that ended early; run it again, it resumes") from error
