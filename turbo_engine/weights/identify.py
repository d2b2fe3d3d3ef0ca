"""What a checkpoint is, told by its keys, shapes and dtypes alone."""
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from turbo_engine.models.config import DiTConfig, UMT5Config
from turbo_engine.weights.architecture import (
    MODELS,
    ROLE_NAMES,
    ROLE_OF,
    Numbers,
    Shape,
    TinyNumbers,
)
from turbo_engine.weights.layouts import Layout, layout_of, normal_keys

_FOREIGN = (
    (r"lora_(A|B|down|up|a|b)\b|\.lora\.", "a LoRA, an addition to a model and not one"),
    (r"img_emb\.proj|\.k_img\.|add_k_proj|image_embedder", "Wan2.1 image-to-video, whose image branch is not supported"),
    (r"vace_blocks|vace_patch", "a Wan VACE model"),
    (r"face_adapter|motion_encoder", "Wan2.2-Animate"),
    (r"^(model\.diffusion_model\.)?(input|output)_blocks\.", "a Stable Diffusion checkpoint"),
    (r"double_blocks\.|single_transformer_blocks", "a FLUX or HunyuanVideo model"),
    (r"^(text_model|vision_model|visual)\.|^transformer\.resblocks", "a CLIP encoder"),
    (r"^(bert\.)?encoder\.layer\.\d+\.attention", "a BERT text encoder"),
    (r"^decoder\.block\.\d+\.layer", "a T5 model with its decoder; the encoder alone is needed"),
    (r"^model\.layers\.\d+\.", "a language model"),
    (r"decoder\.upsamples\.0\.upsamples|avg_shortcut", "Wan2.2's 48-channel autoencoder, of the 5B model"),
    (r"model_ema|optimizer|exp_avg", "a training state; export the model from it"),
)


@dataclass(frozen=True)
class Identity:
    """A checkpoint's nature.

    role: "dit", "vae", "text_encoder" or "tiny_decoder". model: a name of `MODELS`, or "" for a size we do not know. size:
    the numbers in words. layout: whose key names. kind: "turbo", "full" or "". expert: "high-noise" or "low-noise" where
    the file or its name tells, else "": nothing in the tensors does. quantised: int8 blocks. tensors, elements, bytes:
    counts over all files. wrapped: under the names of a training export.
    """

    path: Path
    role: str
    model: str
    size: str
    layout: str
    kind: str
    expert: str
    quantised: bool
    wrapped: bool
    tensors: int
    elements: int
    bytes: int

    def __str__(self) -> str:
        parts = (self.kind, self.expert, "int8" if self.quantised else "", f"{self.layout} names")
        return f"{self.model or ROLE_NAMES[self.role] + f' of {self.size}'} ({', '.join(p for p in parts if p)})"

    def to_json(self) -> dict:
        return {**asdict(self), "path": str(self.path)}


def looks_like(keys: list[str]) -> str:
    """A guess at a file that no layout claims, in words."""
    for pattern, words in _FOREIGN:
        if any(re.search(pattern, key) for key in keys):
            return words
    some = ", ".join(repr(key[:60]) for key in sorted(keys)[:2])
    return f"{len(keys)} tensors such as {some}" if keys else "no tensors"


def identify_tensors(path: Path, tensors: Mapping[str, tuple[str, Shape]], metadata: Mapping[str, str]) -> tuple[Identity, Layout] | str:
    """path: for the identity and for what its name hints. tensors: key -> (dtype, shape) over all shards.

    Returns: the identity and its layout, or what the file looks like instead. Raises: ValueError for two keys of one tensor.
    """
    plain = normal_keys(tensors)
    shapes = {name: tensors[key][1] for name, key in plain.items()}
    layout = layout_of(plain, shapes)
    foreign = next((words for pattern, words in _FOREIGN if any(re.search(pattern, key) for key in tensors)), "")
    if layout is None or foreign:
        return foreign or looks_like(list(tensors))
    quantised = layout.role == "dit" and any(dtype == "I8" for dtype, _ in tensors.values())
    kind = expert = ""
    if layout.role == "dit":
        kind = "turbo" if any("proj_l" in name for name in plain) else "full"
        expert = metadata.get("expert") or expert_by_name(path)
    model, size = measure(layout, shapes)
    elements = sum(math.prod(shape) for _, shape in tensors.values())
    return Identity(path, layout.role, model, size, layout.name, kind, expert, quantised,
                    any(name != key and "proj_l" not in name for name, key in plain.items() if name != "shared.weight"),
                    len(tensors), elements, 0), layout


def expert_by_name(path: Path) -> str:
    """What a published name says: ...-high-720P.pth, high_noise_model/, or diffusers' transformer/ beside transformer_2/."""
    for folder in (path, path.parent):
        if folder.name in ("high_noise_model", "low_noise_model"):
            return folder.name.partition("_")[0] + "-noise"
        if folder.name == "transformer_2":
            return "low-noise"
        if folder.name == "transformer" and (folder.parent / "transformer_2").is_dir():
            return "high-noise"
    words = set(re.findall(r"(?<![a-z])(high|low)(?![a-z])", path.name.lower()))
    return f"{words.pop()}-noise" if len(words) == 1 else ""


def measure(layout: Layout, shapes: Mapping[str, Shape]) -> tuple[str, str]:
    """(name of `MODELS` or "", the size in words) by the shapes that tell sizes apart, whatever else is broken."""
    measures = _MEASURES[layout.role](layout, shapes)
    names = [name for name, numbers in MODELS.items() if ROLE_OF[type(numbers)] == layout.role and size_of(numbers) == measures]
    return (names[0] if names else "", size_text(measures))


def size_of(numbers: Numbers) -> dict[str, int | None]:
    """The measures of a model that `measure` can read off a file."""
    if isinstance(numbers, DiTConfig):
        return {"width": numbers.dim, "layers": numbers.num_layers, "ffn": numbers.ffn_dim, "input channels": numbers.in_channels}
    if isinstance(numbers, UMT5Config):
        return {"width": numbers.dim, "layers": numbers.num_layers, "ffn": numbers.ffn_dim, "vocabulary": numbers.vocab_size}
    if isinstance(numbers, TinyNumbers):
        return {"width": numbers.widths[0], "latent channels": numbers.latent_channels}
    return {"width": numbers.width, "latent channels": numbers.latent_channels}


def size_text(measures: Mapping[str, int | None]) -> str:
    """`Identity.size` of a file with these measures."""
    return ", ".join(f"{what} {value if value is not None else 'unknown'}" for what, value in measures.items())


def size_words(numbers: Numbers) -> str:
    role = ROLE_OF[type(numbers)]
    name = next((name for name, known in MODELS.items() if ROLE_OF[type(known)] == role and size_of(known) == size_of(numbers)), "")
    words = size_text(size_of(numbers))
    return f"{name} ({words})" if name else f"{ROLE_NAMES[role]} of {words}"


def _dimension(layout: Layout, shapes: Mapping[str, Shape], key: str, axis: int) -> int | None:
    """One axis of the tensor that we call `key`. None if it is missing."""
    shape = shapes.get(layout.rename(key), ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    numbers = [int(match[1]) for key in shapes if (match := re.match(pattern, key)) and len(match[1]) < 6]
    return max(numbers, default=-1) + 1


def _measure_dit(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, int | None]:
    patches = shapes.get(layout.rename("patch_embedding.weight"), ())
    channels = patches[1] if len(patches) == 5 else patches[1] // 4 if len(patches) == 2 else None
    return {"width": _dimension(layout, shapes, "patch_embedding.bias", 0), "layers": _count(shapes, r"blocks\.(\d+)\."),
            "ffn": _dimension(layout, shapes, "blocks.0.ffn.0.bias", 0), "input channels": channels}


def _measure_vae(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, int | None]:
    return {"width": _dimension(layout, shapes, "encoder.conv1.bias", 0), "latent channels": _dimension(layout, shapes, "conv2.bias", 0)}


def _measure_umt5(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, int | None]:
    block = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    return {"width": _dimension(layout, shapes, "shared.weight", 1), "layers": _count(shapes, r"(?:encoder\.block|blocks)\.(\d+)\."),
            "ffn": _dimension(layout, shapes, block, 0), "vocabulary": _dimension(layout, shapes, "shared.weight", 0)}


def _measure_tiny(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, int | None]:
    return {"width": _dimension(layout, shapes, "decoder.1.weight", 0), "latent channels": _dimension(layout, shapes, "decoder.1.weight", 1)}


_MEASURES = {"dit": _measure_dit, "vae": _measure_vae, "text_encoder": _measure_umt5, "tiny_decoder": _measure_tiny}
