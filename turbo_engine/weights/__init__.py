"""The one reader of checkpoints: what a file is, whether it is whole and the right one, and its tensors under our names.

Published weights, by content and not by name: safetensors of TurboDiffusion (bf16 and int8 blocks), Wan, diffusers and
transformers folders, taehv.

    identify(path)                       -> Identity: role, size, layout, turbo or full, quantised
    scan(folder)                         -> every Identity in a folder
    open_checkpoint(path, numbers, ...)  -> Checkpoint, checked whole; .tensors(device, dtype), .load_into(model), .verify()
    check_experts(high, low), check_twins(turbo, full) -> refuse one expert given twice, or two swapped
    assign(model, tensors)               -> puts tensors in place of a model's own
    convert(path)                        -> a .pth's tensors as safetensors beside it, read in a limited child process
    fetch(files, folder)                 -> named files of the hub: sizes told, resumed, hashed, converted
    MODELS                               -> the numbers of every model we know

The app's own weights, `presets/pocket/`, are 8-bit rows with a manifest: `save_weights`, `load_weights`, `fill`,
`read_manifest`. Every refusal is a WeightsError of one line: file, expected, found, the way out.

    python -m turbo_engine.weights inspect FILE_OR_FOLDER
    python -m turbo_engine.weights convert FILE.pth [--out FILE.safetensors]
    python -m turbo_engine.weights fetch OWNER/NAME FILE... [--to FOLDER]
"""
from importlib import import_module

from turbo_engine.weights.architecture import MODELS, TinyNumbers, VAENumbers
from turbo_engine.weights.convert import convert
from turbo_engine.weights.fetch import HubFile, fetch
from turbo_engine.weights.folder import identify, scan
from turbo_engine.weights.identify import Identity

_WITH_TORCH = {
    "checkpoint": ("Checkpoint", "assign", "check_experts", "check_twins", "open_checkpoint"),
    "pocket": ("fill", "load_weights", "manifest_path", "read_manifest", "row_quantization_error", "save_weights", "shapes_of"),
}
_HOME = {name: module for module, names in _WITH_TORCH.items() for name in names}
__all__ = ["MODELS", "Checkpoint", "HubFile", "Identity", "TinyNumbers", "VAENumbers", "assign", "check_experts", "check_twins", "convert",
           "fetch", "fill", "identify", "load_weights", "manifest_path", "open_checkpoint", "read_manifest", "row_quantization_error", "save_weights",
           "scan", "shapes_of"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
