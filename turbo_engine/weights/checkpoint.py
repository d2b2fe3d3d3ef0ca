"""A published checkpoint, checked whole against the model it is for, then read tensor by tensor under our names."""
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from kernels.w8a8.reference import dequantize_blocks
from turbo_engine.errors import WeightsError
from turbo_engine.weights.architecture import ROLE_NAMES, ROLE_OF, Numbers, is_norm
from turbo_engine.weights.container import Entry, Progress, Shard
from turbo_engine.weights.folder import open_identified
from turbo_engine.weights.identify import Identity, size_of, size_text, size_words
from turbo_engine.weights.layouts import Expected, Layout, expected_of, normal_keys
from turbo_engine.weights.shards import ShardSet

_CHUNK = 16 << 20                          # bytes hashed between two reports
_SMALL = 1 << 20                           # bytes; tensors up to this size tell two experts apart
_RELATED = 0.8                             # squared distances of unrelated weights differ by less than this


def open_checkpoint(path: Path | str, numbers: Numbers, *, kind: str = "", expert: str = "") -> "Checkpoint":
    """Open a checkpoint that must be this model's, every key, shape and dtype checked before a tensor is read.

    Args:
        path: a .safetensors file, an index, or a folder of shards; any layout that `identify` knows.
        numbers: of the model, which also say its role: DiTConfig, VAENumbers (or WanVAEConfig), UMT5Config or TinyNumbers.
        kind: "turbo" or "full" for a DiT, "" for either. expert: "high-noise" or "low-noise"; refused if the other is told.
    Returns: the checkpoint, a context manager. Raises: WeightsError with file, expected, found, the way out.
    """
    shards, identity, layout = open_identified(Path(path))
    try:
        _check_nature(identity, numbers, kind, expert)
        return Checkpoint(shards, identity, numbers, layout)
    except BaseException:
        shards.close()
        raise


class Checkpoint:
    """An open checkpoint. Made by `open_checkpoint`."""

    def __init__(self, shards: ShardSet, identity: Identity, numbers: Numbers, layout: Layout):
        self.identity = identity
        self._shards = shards
        plain = normal_keys(shards.places)
        patches = plain.get("patch_embedding.weight")
        expected = expected_of(numbers, layout, sla=identity.kind == "turbo", quantised=identity.quantised, official=not identity.wrapped,
                               convolution=patches is not None and len(shards.places[patches][1].shape) == 5)
        if "encoder.embed_tokens.weight" not in expected:
            self._drop_tied(plain)
        _check_tensors(shards, plain, expected, identity)
        self._items = sorted(((expected[name], *shards.places[key]) for name, key in plain.items()),
                             key=lambda item: (str(item[1].path), item[2].start))
        self._scales = self._read_scales()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_) -> None:
        self._shards.close()

    def tensors(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, *, dequantise: bool = True,
                progress: Progress | None = None) -> Iterator[tuple[str, Tensor]]:
        """Our key and its tensor, one at a time, in the order of the files.

        Args:
            dtype: of everything but a DiT's norms, which are float32 as released; None keeps the file's, and makes float32 of
                quantised weights.
            dequantise: int8 blocks become weights, real = int8 * scale of the 128x128 block, in float32 and then dtype; False
                leaves them `X.int8_weight` (int8) and `X.scale` (float32).
            progress: called with bytes done and in all, after each tensor.
        Host memory: the largest tensor, once as mapped pages and once where the device is the host or the dtype changes.
        """
        done = 0
        for expected, shard, entry in self._items:
            if expected.part == "scale":
                if not dequantise:
                    yield _stem(expected.key) + "scale", self._scales[expected.key].to(device, copy=True)
            elif expected.part == "int8" and dequantise:
                blocks = _moved(shard, entry, device, None)
                yield expected.key, dequantize_blocks(blocks, self._scales[expected.key].to(device), dtype or torch.float32)
            elif expected.part == "int8":
                yield _stem(expected.key) + "int8_weight", _moved(shard, entry, device, None)
            else:
                wide = dtype is not None and self.identity.role == "dit" and is_norm(expected.key)
                yield expected.key, _moved(shard, entry, device, torch.float32 if wide else dtype).view(expected.ours)
            done += entry.end - entry.start
            if progress:
                progress(done, self._data_bytes)

    def load_into(self, model: nn.Module, device: torch.device | str, dtype: torch.dtype | None = None, *,
                  leave_out: tuple[str, ...] = (), progress: Progress | None = None) -> nn.Module:
        """Fill a model, which may lie on the meta device, tensor by tensor; its parameters are replaced.

        leave_out: patterns of keys the model does without, such as "*.proj_l.*" for dense attention. Returns: the model.
        Raises: ValueError if the model is not the one these numbers make.
        """
        return assign(model, self.tensors(device, dtype, progress=progress), leave_out=leave_out)

    def verify(self, sha256: dict[str, str] | None = None, progress: Progress | None = None) -> bool:
        """Hash every byte. The format itself notices no change in its data, only a hash known beforehand does.

        sha256: file name -> digest of the whole file, as the hub lists it; files absent from it are held against the digest
        that `convert` put into them. Returns: whether every file had a digest. Raises: WeightsError for a damaged file.
        """
        done, known = 0, True
        for shard in self._shards.shards:
            whole = (sha256 or {}).get(shard.path.name)
            wanted = whole or shard.metadata.get("data_sha256")
            known &= wanted is not None
            if wanted:
                found = _sha256(shard, whole is not None, lambda n, base=done: progress and progress(base + n, self._shards.bytes))
                if found != wanted:
                    raise WeightsError(f"{shard.path}: expected SHA-256 {wanted[:12]}..., found {found[:12]}...; "
                                       "the file was damaged or replaced, download or convert it again")
            done += shard.size
        return known

    @property
    def _data_bytes(self) -> int:
        return sum(entry.end - entry.start for _, _, entry in self._items)

    def _drop_tied(self, plain: dict[str, str]) -> None:
        """umT5's token table under both of its names: one is enough if they agree."""
        both = [plain.get(name) for name in ("shared.weight", "encoder.embed_tokens.weight")]
        if None in both:
            return
        (first, one), (second, two) = (self._shards.places[key] for key in both)
        a, b = first.read(one), second.read(two)
        if a.dtype != b.dtype or not torch.equal(a, b):
            raise WeightsError(f"{self._shards.path}: expected one token table, found {both[0]!r} and {both[1]!r} with other "
                               "values; this is no umT5 encoder as published")
        del plain["encoder.embed_tokens.weight"]

    def _read_scales(self) -> dict[str, Tensor]:
        """All block scales, a thousandth of the weights. Raises: WeightsError for a scale that is no positive number."""
        scales = {}
        for expected, shard, entry in self._items:
            if expected.part == "scale":
                scale = shard.read(entry).clone()
                if not (torch.isfinite(scale) & (scale >= 0)).all():
                    bad = scale[~(torch.isfinite(scale) & (scale >= 0))][0].item()
                    raise WeightsError(f"{shard.path} {_stem(expected.key)}scale: expected finite scales from 0 up, found {bad}; "
                                       "the file is damaged or its quantisation failed, download it again")
                scales[expected.key] = scale
        return scales


def assign(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], *, leave_out: tuple[str, ...] = ()) -> nn.Module:
    """Put tensors in place of a model's own, which may lie on the meta device. leave_out: as `Checkpoint.load_into`.

    Returns: the model. Raises: ValueError where its tensors are not these.
    """
    slots = _slots(model)
    waiting = set(slots)
    for key, tensor in tensors:
        if any(fnmatchcase(key, pattern) for pattern in leave_out):
            continue
        if key not in slots or tuple(slots[key][0].shape) != tuple(tensor.shape):
            raise ValueError(f"model: expected {key} of shape {list(tensor.shape)}, "
                             f"got {list(slots[key][0].shape) if key in slots else 'none'}")
        for owner, name in slots[key][1]:
            if isinstance(slots[key][0], nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=False) if not isinstance(tensor, nn.Parameter) else tensor
            setattr(owner, name, tensor)
        waiting.discard(key)
    if waiting:
        raise ValueError(f"model: expected tensors that the checkpoint has, got also {sorted(waiting)[0]}")
    return model


def check_experts(high: Checkpoint, low: Checkpoint) -> None:
    """Refuse one expert given twice, and experts that say they are swapped. Raises: WeightsError."""
    for checkpoint, wanted in ((high, "high-noise"), (low, "low-noise")):
        _check_expert(checkpoint.identity, wanted)
    others = {(expected.key, expected.part): (shard, entry) for expected, shard, entry in low._items}
    pairs = [((shard, entry), others.get((expected.key, expected.part))) for expected, shard, entry in high._items
             if entry.end - entry.start <= _SMALL]
    if all(theirs and torch.equal(ours[0].read(ours[1]), theirs[0].read(theirs[1])) for ours, theirs in pairs):
        raise WeightsError(f"{low.identity.path}: expected the low-noise expert, found the same weights as in {high.identity.path}; "
                           "name the other expert's file")


def check_twins(turbo: Sequence[Checkpoint], full: Sequence[Checkpoint]) -> None:
    """Refuse pairs of experts, high-noise first, of which one is swapped: a distilled expert lies nearer to the one it was made of.

    Only where both pairs are there, and where they are related at all, can this be told. Raises: WeightsError.
    """
    small = [_small_tensors(checkpoint) for checkpoint in (*turbo, *full)]
    keys = set.intersection(*(set(tensors) for tensors in small))
    straight = crossed = 0.0
    for key in keys:
        turbo_high, turbo_low, full_high, full_low = (shard.read(entry).double().flatten() for shard, entry in (s[key] for s in small))
        straight += ((turbo_high - full_high).square().sum() + (turbo_low - full_low).square().sum()).item()
        crossed += ((turbo_high - full_low).square().sum() + (turbo_low - full_high).square().sum()).item()
    if crossed < _RELATED * straight:
        raise WeightsError(f"{turbo[0].identity.path}: expected the high-noise expert, found weights nearer to {full[1].identity.path}, the full "
                           "model's low-noise one; one of the two pairs is swapped, swap its files")


def _small_tensors(checkpoint: Checkpoint) -> dict[str, tuple[Shard, Entry]]:
    """Biases, norms and the like by our key."""
    return {expected.key: (shard, entry) for expected, shard, entry in checkpoint._items if not expected.part and entry.end - entry.start <= _SMALL}


def _check_nature(identity: Identity, numbers: Numbers, kind: str, expert: str) -> None:
    """Role, size, turbo or full, expert: the mistakes that have a name."""
    path, role = identity.path, ROLE_OF[type(numbers)]
    if identity.role != role:
        raise WeightsError(f"{path}: expected {ROLE_NAMES[role]}, found {ROLE_NAMES[identity.role]}: it looks like {identity}; "
                           "name the right file")
    if identity.size != size_text(size_of(numbers)):
        raise WeightsError(f"{path}: expected {size_words(numbers)}, found {identity.size}: it looks like {identity}; "
                           "choose the preset of that size, or name the right file")
    if kind and identity.kind != kind:
        way = ("name the TurboWan file, or use this one as the full model" if kind == "turbo"
               else "name the original Wan weights, or use this one as the turbo model")
        raise WeightsError(f"{path}: expected the {kind} model, found {'proj_l in' if kind == 'full' else 'no proj_l in'} its "
                           f"self-attention: it looks like {identity}; {way}")
    if expert:
        _check_expert(identity, expert)


def _check_expert(identity: Identity, wanted: str) -> None:
    if identity.expert not in ("", wanted):
        raise WeightsError(f"{identity.path}: expected the {wanted} expert, found {identity.expert} in its name or metadata; "
                           "swap the two files")


def _check_tensors(shards: ShardSet, plain: dict[str, str], expected: dict[str, Expected], identity: Identity) -> None:
    """The exact manifest: keys, shapes, dtypes."""
    path = shards.path
    if missing := sorted(expected.keys() - plain.keys()):
        raise WeightsError(f"{path}: expected {len(expected)} tensors, found none named {missing[0]!r} ({len(missing)} missing): "
                           f"it looks like {identity}, incomplete; download it again")
    if extra := sorted(plain.keys() - expected.keys()):
        raise WeightsError(f"{path}: expected {len(expected)} tensors, found one more named {plain[extra[0]][:200]!r} "
                           f"({len(extra)} unknown): it looks like {identity} with additions; name the plain model")
    for name, want in expected.items():
        shard, entry = shards.places[plain[name]]
        if entry.shape != want.shape:
            raise WeightsError(f"{shard.path} {plain[name]}: expected shape {list(want.shape)}, found {list(entry.shape)}; "
                               "the file is damaged, or of another model")
        if entry.dtype not in want.dtypes:
            raise WeightsError(f"{shard.path} {plain[name]}: expected {' or '.join(want.dtypes)}, found {entry.dtype}; "
                               "download the published file, converted copies may have lost precision")


def _moved(shard: Shard, entry: Entry, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    """A copy of a mapped tensor on the device."""
    view = shard.read(entry)
    dtype = dtype if dtype is not None and view.dtype.is_floating_point else view.dtype
    if torch.device(device).type == "cpu":
        return view.to(dtype, copy=True)
    return view.to(device).to(dtype)                                   # cross as stored, convert there


def _slots(model: nn.Module) -> dict[str, tuple[Tensor, list[tuple[nn.Module, str]]]]:
    """Key -> tensor and every (module, attribute) that holds it, tied ones under their first key."""
    slots: dict[str, tuple[Tensor, list[tuple[nn.Module, str]]]] = {}
    first: dict[int, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for key, tensor in model.state_dict(keep_vars=True).items():
        owner, _, name = key.rpartition(".")
        canonical = first.setdefault(id(tensor), key)
        slots.setdefault(canonical, (tensor, []))[1].append((modules[owner], name))
    return slots


def _sha256(shard: Shard, whole: bool, progress: Callable[[int], object]) -> str:
    digest, done = hashlib.sha256(), 0
    for part in shard.chunks(_CHUNK, whole=whole):
        digest.update(part)
        progress(done := done + len(part))
    return digest.hexdigest()


def _stem(key: str) -> str:
    return key.removesuffix("weight")
