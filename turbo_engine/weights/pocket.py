"""The writer and reader of shipped checkpoints: a safetensors file with a manifest beside it, and nothing half right.

`student.safetensors` holds tensors, `student.json` says what they are: role, format, bytes, SHA-256, every key with shape
and dtype, the training commit, config and metrics. Matrices may be stored as 8-bit rows: int8 `X.weight` and a float32
`X.weight_scale` per row (per output channel of a convolution), real = int8 * scale; all else is float16. Everything is
float32 after loading. A file is refused before a model sees it unless each of these agrees.
"""
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from turbo_engine.errors import WeightsError
from turbo_engine.safe_write import write_whole
from turbo_engine.weights.architecture import OWN_ROLES
from turbo_engine.weights.container import open_regular, parse_header

FORMAT = 1
SCALE_SUFFIX = "_scale"
_MIN_ROW = 64                # elements; a shorter row gains little over float16
_CLIP_STEPS = 24             # candidate clipping points, 0.5 to 1 of a row's largest magnitude
_DTYPES = {torch.int8: "I8", torch.float16: "F16", torch.float32: "F32"}
Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> Shapes:
    """Key -> shape of everything a checkpoint of this model must hold."""
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def manifest_path(path: Path) -> Path:
    return Path(path).with_suffix(".json")


# -- 8-bit rows ------------------------------------------------------------------------------------------------------

def is_row_matrix(key: str, tensor: Tensor) -> bool:
    """Whether a tensor is worth storing as 8-bit rows: linear and convolution weights with long rows."""
    return key.endswith(".weight") and tensor.ndim in (2, 4) and tensor[0].numel() >= _MIN_ROW


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit rows of least squared error: each row tries clipping points and refits its scale to each rounding.

    Args: weight [rows, ...]. Returns: int8 like weight; float32 scale [rows].
    """
    rows = weight.detach().double().flatten(1)
    largest = rows.abs().amax(1, keepdim=True)
    best_error = torch.full_like(largest, torch.inf)
    best_q, best_scale = torch.zeros_like(rows), torch.zeros_like(largest)
    for share in torch.linspace(0.5, 1, _CLIP_STEPS, dtype=torch.float64):
        step = (largest * share / 127).clamp(min=1e-30)
        q = (rows / step).round().clamp(-127, 127)
        norm = q.square().sum(1, keepdim=True)
        scale = torch.where(norm > 0, (rows * q).sum(1, keepdim=True) / norm.clamp(min=1), 0.0)
        error = (rows - q * scale).square().sum(1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_q, best_scale = torch.where(better, q, best_q), torch.where(better, scale, best_scale)
    return best_q.to(torch.int8).view(weight.shape), best_scale.flatten().float()


def dequantize_rows(q: Tensor, scale: Tensor) -> Tensor:
    return q.float() * scale.view(-1, *[1] * (q.ndim - 1))


def row_quantization_error(state_dict: Mapping[str, Tensor]) -> dict:
    """What 8-bit rows cost, for the model card: |w - stored| / |w| over all row matrices, against float16's.

    Returns: {"rows_8bit", "float16": share over all, "worst": share of the worst matrix, "worst_key", "matrices": count}.
    """
    total = lost = lost_half = 0.0
    worst, worst_key, count = 0.0, "", 0
    for key, tensor in state_dict.items():
        if not is_row_matrix(key, tensor):
            continue
        exact = tensor.detach().double()
        energy, error = exact.square().sum().item(), (exact - dequantize_rows(*quantize_rows(tensor))).square().sum().item()
        total, lost, count = total + energy, lost + error, count + 1
        lost_half += (exact - tensor.detach().half().double()).square().sum().item()
        if energy and (error / energy) ** 0.5 > worst:
            worst, worst_key = (error / energy) ** 0.5, key
    scale = max(total, 1e-300)
    return {"rows_8bit": (lost / scale) ** 0.5, "float16": (lost_half / scale) ** 0.5, "worst": worst,
            "worst_key": worst_key, "matrices": count}


# -- writing ---------------------------------------------------------------------------------------------------------

def save_weights(path: Path | str, state_dict: Mapping[str, Tensor], *, role: str, config: dict, metrics: dict,
                 commit: str, rows_8bit: bool) -> dict:
    """Write `path` (.safetensors) and its manifest; both appear whole or not at all.

    Args:
        state_dict: tensors by the model's own keys, any float dtype and device.
        role: one of OWN_ROLES. config, metrics: JSON-ready. commit: of the training code.
        rows_8bit: store long-rowed weights as int8 with a scale per row, else everything is float16.
    Returns: the manifest. Raises: ValueError for an unknown role, WeightsError for values that do not survive storing.
    """
    path = Path(path)
    if role not in OWN_ROLES:
        raise ValueError(f"role: expected one of {', '.join(OWN_ROLES)}, got {role!r}")
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected a name ending in .safetensors, got {path.name!r}")
    stored: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        tensor = tensor.detach().cpu()
        if rows_8bit and is_row_matrix(key, tensor):
            stored[key], stored[key + SCALE_SUFFIX] = quantize_rows(tensor)
        else:
            stored[key] = tensor.half()
        if not all(torch.isfinite(stored[k].float()).all() for k in (key, key + SCALE_SUFFIX) if k in stored):
            raise WeightsError(f"{path.name} {key}: expected values that fit float16, found NaN, infinity or beyond 65,504; "
                               "the training run diverged")
    data = save({k: v.contiguous() for k, v in stored.items()}, metadata={"role": role})     # one key: several come out in any order
    manifest = {
        "role": role, "format": FORMAT, "file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
        "commit": commit, "config": config, "metrics": metrics,
        "row_quantization_error": row_quantization_error(state_dict) if rows_8bit else None,
        "tensors": {k: {"shape": list(v.shape), "dtype": _DTYPES[v.dtype]} for k, v in sorted(stored.items())},
    }
    text = json.dumps(manifest, indent=1).encode()          # before any file is touched: config must be JSON-ready
    write_whole(path, data)
    write_whole(manifest_path(path), text)
    return manifest


# -- reading ---------------------------------------------------------------------------------------------------------

def read_manifest(path: Path | str) -> dict:
    """The manifest beside a weights file. Raises: WeightsError if it is missing or not of this format."""
    path = manifest_path(Path(path))
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: expected the manifest of {path.stem}.safetensors, found none ({error.strerror}); "
                           "restore both files together") from error
    except ValueError as error:
        raise WeightsError(f"{path}: expected a JSON manifest, found unreadable text; restore both files together") from error
    needed = {"role", "format", "bytes", "sha256", "tensors"}
    if not isinstance(manifest, dict) or needed - manifest.keys():
        raise WeightsError(f"{path}: expected a manifest with {', '.join(sorted(needed))}, found something else; "
                           "restore both files together")
    if manifest["format"] != FORMAT:
        raise WeightsError(f"{path}: expected format {FORMAT}, found {manifest['format']!r}; update the app or the weights")
    return manifest


def load_weights(path: Path | str, role: str, expected_shapes: Mapping[str, tuple[int, ...]], *,
                 left_out: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """Read a checkpoint whole, checked against its manifest and against the model that will hold it.

    Args: expected_shapes: key -> shape, e.g. `shapes_of(model)`; must be met exactly. left_out: of tensors that may be there as well,
        all of them or none, and are not wanted.
    Returns: float32 tensors by the model's keys. Raises: WeightsError with file, expected, found and the way out.
    """
    path = Path(path)
    data = _read(path)
    metadata, entries = parse_header(path, data, len(data))
    found_role = metadata.get("role")
    manifest = read_manifest(path)
    for where, found in ((path, found_role), (manifest_path(path), manifest["role"])):
        if found != role:
            raise WeightsError(f"{where}: expected the {role}'s weights, found the role {found!r}; "
                               "the file was renamed or overwritten, restore it")
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != manifest["bytes"] or digest != manifest["sha256"]:
        raise WeightsError(f"{path}: expected {manifest['bytes']:,} bytes with SHA-256 {manifest['sha256'][:12]}..., found "
                           f"{len(data):,} with {digest[:12]}...; the file was damaged or replaced, restore it with its manifest")
    listed = {key: {"shape": list(entry.shape), "dtype": entry.dtype} for key, entry in entries.items()}
    if listed != manifest["tensors"]:
        raise WeightsError(f"{path}: expected the tensors its manifest lists, found others; restore both files together")
    beside = {} if left_out is None or listed.keys().isdisjoint(left_out) else left_out
    _check_shapes(path, listed, {**expected_shapes, **beside})
    try:
        stored = load(data)
    except SafetensorError as error:
        raise WeightsError(f"{path}: expected a readable safetensors file, found: {error}; restore it") from error
    return {key: dequantize_rows(stored[key], stored[key + SCALE_SUFFIX]) if stored[key].dtype == torch.int8
            else stored[key].float() for key in expected_shapes}


def fill(model: nn.Module, path: Path | str, role: str, *, left_out: Mapping[str, tuple[int, ...]] | None = None) -> nn.Module:
    """Load a checkpoint into a model of exactly its shape. left_out: as `load_weights`. Returns: the model. Raises: WeightsError."""
    model.load_state_dict(load_weights(path, role, shapes_of(model), left_out=left_out))
    return model


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _check_shapes(path: Path, listed: dict, expected: Mapping[str, tuple[int, ...]]) -> None:
    scales = {k + SCALE_SUFFIX: [v["shape"][0]] for k, v in listed.items() if v["dtype"] == "I8"}
    wanted = {key: list(shape) for key, shape in expected.items()} | scales
    if missing := sorted(wanted.keys() - listed.keys()):
        raise WeightsError(f"{path}: expected {len(wanted)} tensors, found none named {missing[0]!r} ({len(missing)} missing); "
                           "these are another model's weights")
    if extra := sorted(listed.keys() - wanted.keys()):
        raise WeightsError(f"{path}: expected {len(wanted)} tensors, found one more named {extra[0]!r} ({len(extra)} unknown); "
                           "these are another model's weights")
    for key, shape in wanted.items():
        if listed[key]["shape"] != shape:
            raise WeightsError(f"{path} {key}: expected shape {shape}, found {listed[key]['shape']}; "
                               "the weights are of another size than the preset says")
        if listed[key]["dtype"] not in _DTYPES.values():
            raise WeightsError(f"{path} {key}: expected one of {', '.join(_DTYPES.values())}, found {listed[key]['dtype']}; "
                               "convert the file with this app's tools")
