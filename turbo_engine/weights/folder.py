"""What lies at a path or in a folder: checkpoints told by their headers, without torch and without reading a tensor."""
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from turbo_engine.errors import WeightsError
from turbo_engine.weights.architecture import OWN_ROLES
from turbo_engine.weights.identify import Identity, identify_tensors
from turbo_engine.weights.layouts import Layout
from turbo_engine.weights.shards import NUMBERED, PICKLE_SUFFIXES, ShardSet, open_shards

DEPTH = 4                    # folders below the named one that are looked into
_MOST_FOLDERS = 2000


def identify(path: Path | str) -> Identity:
    """What a file, an index or a folder of shards is, from headers alone.

    Raises: WeightsError for what is not one sound checkpoint of the Wan family, saying what it looks like.
    """
    shards, identity, _ = open_identified(Path(path))
    shards.close()
    return identity


def scan(folder: Path | str, note: Callable[[Path, str], None] | None = None) -> list[Identity]:
    """Every checkpoint in a folder and in its folders, four levels down: where the hub's own cache has them.

    note: called with each .safetensors or pickle that is no checkpoint of ours, and why. Raises: WeightsError for no folder, or one
    with more folders in it than any collection of weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsError(f"{folder}: expected a folder of weights, found none; check the path")
    found = []
    for place in _folders(folder):
        for candidate in _candidates(place):
            try:
                found.append(identify(candidate))
            except WeightsError as error:
                if note:
                    note(candidate, str(error))
    return found


def _folders(folder: Path) -> list[Path]:
    """The folder and those in it, each before its own, hidden ones left out."""
    found, waiting = [], [(folder, DEPTH)]
    while waiting:
        place, depth = waiting.pop()
        try:
            inside = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError as error:
            if place == folder:
                raise WeightsError(f"{folder}: expected a readable folder, found: {error.strerror}; check its permissions") from error
            continue                                           # not ours to read, so not ours to use
        found.append(place)
        if len(found) > _MOST_FOLDERS:
            raise WeightsError(f"{folder}: expected a folder of weights, found one with more than {_MOST_FOLDERS:,} folders in it; "
                               "name the one that has them")
        waiting += [(path, depth - 1) for path in reversed(inside) if depth]
    return found


def _candidates(place: Path) -> list[Path]:
    names = sorted(path for path in place.iterdir() if path.suffix in (".safetensors", *PICKLE_SUFFIXES))
    shards = [path for path in names if NUMBERED.match(path.name)]
    converted = {path.stem for path in names if path.suffix == ".safetensors"}
    rest = [path for path in names if path not in shards and not (path.suffix in PICKLE_SUFFIXES and path.stem in converted)]
    return ([place] if shards else []) + rest


def open_identified(path: Path) -> tuple[ShardSet, Identity, Layout]:
    shards = open_shards(path)
    tensors = {key: (entry.dtype, entry.shape) for key, (_, entry) in shards.places.items()}
    if shards.metadata.get("role") in OWN_ROLES:
        shards.close()
        raise WeightsError(f"{path}: expected a checkpoint of the Wan family, found this app's own {shards.metadata['role']}; "
                           "name another file")
    try:
        found = identify_tensors(shards.path, tensors, shards.metadata)
    except ValueError as error:
        shards.close()
        raise WeightsError(f"{path}: expected each tensor once, found {error}; two exports are mixed, save it again") from error
    if isinstance(found, str):
        shards.close()
        raise WeightsError(f"{path}: expected a checkpoint of the Wan family, found {found}; name another file")
    identity, layout = found
    return shards, replace(identity, bytes=shards.bytes), layout
