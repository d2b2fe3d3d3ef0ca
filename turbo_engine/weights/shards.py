"""Which files make one checkpoint: a single file, or a folder of shards with or without its index."""
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from turbo_engine.errors import WeightsError
from turbo_engine.weights.container import CONVERT, Entry, Shard

NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors$")
INDEX_SUFFIX = ".safetensors.index.json"
PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")


@dataclass
class ShardSet:
    """Open shards and where each key lies. Close it."""

    path: Path
    shards: list[Shard] = field(default_factory=list)
    places: dict[str, tuple[Shard, Entry]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def metadata(self) -> dict[str, str]:
        return {key: value for shard in self.shards for key, value in shard.metadata.items()}

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


def open_shards(path: Path) -> ShardSet:
    """Open a file, an index, or a folder holding one checkpoint. Raises: WeightsError if any part is missing or unsound."""
    if path.name.endswith(INDEX_SUFFIX):
        files, index = _by_index(path)
    elif path.is_dir():
        files, index = _in_folder(path)
    else:
        match = NUMBERED.match(path.name)
        if match and int(match[3]) > 1 and path.is_file():
            raise WeightsError(f"{path}: expected a whole checkpoint, found shard {int(match[2])} of {int(match[3])}; name its folder")
        files, index = [path], None
    found = ShardSet(path)
    try:
        for file in files:
            shard = Shard(file)
            found.shards.append(shard)
            for key, entry in shard.entries.items():
                if key in found.places:
                    raise WeightsError(f"{file}: expected each tensor in one shard, found {key!r} also in "
                                       f"{found.places[key][0].path.name}; shards of two checkpoints are mixed, download them again")
                found.places[key] = shard, entry
        if index is not None:
            _check_index(path, found, index)
    except BaseException:
        found.close()
        raise
    return found


def _in_folder(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    indexes, files = sorted(folder.glob("*" + INDEX_SUFFIX)), sorted(folder.glob("*.safetensors"))
    if len(indexes) == 1:
        return _by_index(indexes[0])
    if len(indexes) > 1:
        raise WeightsError(f"{folder}: expected one checkpoint, found the indexes {indexes[0].name} and {indexes[1].name}; "
                           "name the one to use")
    if len(files) == 1 and not NUMBERED.match(files[0].name):
        return files, None
    if numbered := [match for file in files if (match := NUMBERED.match(file.name))]:
        stem, _, count = numbered[0].groups()
        if len(numbered) == len(files) and all(match[1] == stem and match[3] == count for match in numbered):
            wanted = [f"{stem}-{n:05}-of-{count}.safetensors" for n in range(1, min(int(count), 1000) + 1)]
            if missing := [name for name in wanted if not (folder / name).is_file()]:
                raise WeightsError(f"{folder}: expected {int(count)} shards, found {len(files)}, {missing[0]} is missing; "
                                   "download the rest")
            return [folder / name for name in wanted], None
    if files:
        raise WeightsError(f"{folder}: expected one checkpoint, found {files[0].name} and {files[1].name}; name the file to use"
                           if len(files) > 1 else f"{folder}: expected a whole checkpoint, found {files[0].name} alone")
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise WeightsError(f"{folder}: expected safetensors, found the pickle {pickles[0].name}, which can run code; "
                           f"convert it once with: {CONVERT} {pickles[0]}")
    raise WeightsError(f"{folder}: expected a checkpoint, found no .safetensors file; check the path, or download it")


def read_index(path: Path) -> dict[str, str]:
    """Key -> name of the shard beside the index. Raises: WeightsError for what is no index."""
    try:
        if path.stat().st_size > 16 << 20:
            raise ValueError("larger than any index")
        table = json.loads(path.read_bytes())["weight_map"]
        sound = isinstance(table, dict) and table and all(
            isinstance(name, str) and name.endswith(".safetensors") and not re.search(r"[/\\:\0]", name) for name in table.values())
        if not sound:
            raise ValueError("no map from keys to file names beside it")
    except OSError as error:
        raise WeightsError(f"{path}: expected a readable index, found: {error.strerror}; download it again") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "unreadable text"
        raise WeightsError(f"{path}: expected an index of shards, found {reason}; download it again") from error
    return table


def _by_index(path: Path) -> tuple[list[Path], dict[str, str]]:
    table = read_index(path)
    files = sorted(set(table.values()))
    if missing := [name for name in files if not (path.parent / name).is_file()]:
        raise WeightsError(f"{path}: expected {len(files)} shards, found {len(files) - len(missing)}, {missing[0]} is missing; "
                           "download the rest")
    return [path.parent / name for name in files], table


def _check_index(path: Path, found: ShardSet, index: dict[str, str]) -> None:
    for key, name in index.items():
        shard = found.places[key][0] if key in found.places else None
        if shard is None or shard.path.name != name:
            where = shard.path.name if shard else "no shard"
            raise WeightsError(f"{path}: expected {key!r} in {name} by the index, found it in {where}; "
                               "index and shards are of two checkpoints, download both again")
    if extra := sorted(found.places.keys() - index.keys()):
        raise WeightsError(f"{path}: expected the index's {len(index)} tensors, found one more, {extra[0]!r}; "
                           "index and shards are of two checkpoints, download both again")
