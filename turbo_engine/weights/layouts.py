"""The names under which others publish the same tensors, each a rule from our key to theirs, and the marks to tell them by.

Ours are TurboDiffusion's for the DiT, `Wan2.1_VAE.pth`'s for the VAE, transformers' for umT5, taehv's for the tiny decoder.
"""
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from turbo_engine.weights.architecture import (
    BLOCK,
    ROLE_OF,
    Numbers,
    Shape,
    is_block_linear,
    is_norm,
    shapes_of_numbers,
)

FLOATS = ("BF16", "F32", "F16")
_PREFIXES = ("net.", "model.diffusion_model.", "module.", "_orig_mod.")
_INFIX = "_checkpoint_wrapped_module."
_RIDERS = ("spiece_model",)                 # a tokenizer's file inside ComfyUI's copies of umT5
_PROJ_L = re.compile(r"\.(self_attn|attn1)\.(?:attn_op\.local_attn|local_attn|attn_impl)\.proj_l\.")


@dataclass(frozen=True)
class Layout:
    """One way to name a role's tensors. mark: a pattern that some key of any such file matches and no other's does."""

    name: str
    role: str
    mark: re.Pattern
    rename: Callable[[str], str]


@dataclass(frozen=True)
class Expected:
    """What a file of some layout must hold under one of its keys. key, ours: our key and shape; part: "", "int8" or "scale"."""

    key: str
    ours: Shape
    shape: Shape
    dtypes: tuple[str, ...]
    part: str = ""


def _rules(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Applies the first rule that matches of each alternative, by one pattern, so that no rule sees another's output."""
    pattern = re.compile("|".join(f"({old})" for old, _ in pairs))
    groups, at = [], 1
    for old, new in pairs:
        inner = re.compile(old).groups
        groups.append((at, inner, new))
        at += 1 + inner

    def replace(match: re.Match) -> str:
        for index, inner, new in groups:
            if match.group(index) is not None:
                return new.format(*(match.group(index + 1 + i) for i in range(inner)))
        raise AssertionError(match)
    return lambda key: pattern.sub(replace, key)


_dit_diffusers = _rules(
    (r"^time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"^time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"^time_projection\.1", "condition_embedder.time_proj"),
    (r"^text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"^text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"\.self_attn\.([qkv])\.", ".attn1.to_{}."), (r"\.self_attn\.o\.", ".attn1.to_out.0."), (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.([qkv])\.", ".attn2.to_{}."), (r"\.cross_attn\.o\.", ".attn2.to_out.0."), (r"\.cross_attn\.", ".attn2."),
    (r"\.norm3\.", ".norm2."), (r"\.ffn\.0\.", ".ffn.net.0.proj."), (r"\.ffn\.2\.", ".ffn.net.2."),
    (r"^head\.head", "proj_out"), (r"^head\.modulation", "scale_shift_table"), (r"\.modulation$", ".scale_shift_table"))

_RES_PARTS = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2", "shortcut": "conv_shortcut"}


def _vae_diffusers(key: str) -> str:
    """Decoder levels are folders of three residual blocks and an upsampler there, one flat list here."""
    if match := re.match(r"decoder\.upsamples\.(\d+)\.(.*)", key):
        level, place = divmod(int(match[1]), 4)
        key = f"decoder.up_blocks.{level}.{f'resnets.{place}' if place < 3 else 'upsamplers.0'}.{match[2]}"
    return _vae_parts(key)


_vae_parts = _rules(
    (r"^(encoder|decoder)\.conv1", "{}.conv_in"), (r"^conv1", "quant_conv"), (r"^conv2", "post_quant_conv"),
    (r"^encoder\.downsamples", "encoder.down_blocks"),
    (r"\.head\.0\.", ".norm_out."), (r"\.head\.2\.", ".conv_out."),
    (r"\.middle\.0", ".mid_block.resnets.0"), (r"\.middle\.2", ".mid_block.resnets.1"), (r"\.middle\.1", ".mid_block.attentions.0"),
    *((rf"\.{re.escape(old)}\.", f".{new}.") for old, new in _RES_PARTS.items()))

_umt5_wan = _rules(
    (r"^shared\.", "token_embedding."), (r"^encoder\.final_layer_norm\.", "norm."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.", "blocks.{}.pos_embedding.embedding."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.", "blocks.{}.attn."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", "blocks.{}.norm1."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", "blocks.{}.norm2."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.", "blocks.{}.ffn.gate.0."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.", "blocks.{}.ffn.fc1."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", "blocks.{}.ffn.fc2."))


def _same(key: str) -> str:
    return key


LAYOUTS = (
    Layout("turbodiffusion", "dit", re.compile(r"self_attn\.attn_op\.local_attn\.proj_l\.|\.(self|cross)_attn\.[qkvo]\.int8_weight$"), _same),
    Layout("wan", "dit", re.compile(r"^blocks\.\d+\.(self|cross)_attn\.[qkvo]\.weight$"), _same),
    Layout("diffusers", "dit", re.compile(r"^blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)\.weight$"), _dit_diffusers),
    Layout("wan", "vae", re.compile(r"^(decoder\.upsamples|encoder\.downsamples)\.\d+\.residual\."), _same),
    Layout("diffusers", "vae", re.compile(r"^decoder\.up_blocks\.\d+\.resnets\.\d+\.conv1\.weight$"), _vae_diffusers),
    Layout("wan", "text_encoder", re.compile(r"^blocks\.\d+\.ffn\.gate\.0\.weight$"), _umt5_wan),
    Layout("transformers", "text_encoder", re.compile(r"^encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight$"), _same),
    Layout("taehv", "tiny_decoder", re.compile(r"^decoder\.\d+\.conv\.4\.weight$"), _same),
)


def layout_of(keys: Iterable[str], shapes: dict[str, Shape]) -> Layout | None:
    """The layout that a file's normal keys bear the mark of, None for foreign files."""
    for layout in LAYOUTS:
        if any(layout.mark.search(key) for key in keys):
            if layout.name == "wan" and layout.role == "dit" and len(shapes.get("patch_embedding.weight", ())) == 2:
                return LAYOUTS[0]                          # TurboDiffusion's linear patch embedding, proj_l left out
            return layout
    return None


def normal_keys(keys: Iterable[str]) -> dict[str, str]:
    """A file's keys by their plain names: without wrappers of training exports, with one spelling of `proj_l`, without what only rides along.

    Returns: plain name -> key in the file. Raises: ValueError where two keys come out alike.
    """
    keys = [key for key in keys if key not in _RIDERS]
    prefix = next((p for p in _PREFIXES if keys and all(key.startswith(p) for key in keys)), "")
    plain: dict[str, str] = {}
    for key in keys:
        name = _PROJ_L.sub(r".\1.attn_op.local_attn.proj_l.", key[len(prefix):].replace(_INFIX, ""))
        if name in plain:
            raise ValueError(f"{plain[name]!r} and {key!r} for one tensor")
        plain[name] = key
    if "shared.weight" not in plain and "encoder.embed_tokens.weight" in plain:      # tied: transformers writes either name
        plain["shared.weight"] = plain.pop("encoder.embed_tokens.weight")
    return plain


def scale_shape(shape: Shape) -> Shape:
    return tuple(math.ceil(n / BLOCK) for n in shape)


def expected_of(numbers: Numbers, layout: Layout, *, sla: bool, quantised: bool, official: bool,
                convolution: bool = False) -> dict[str, Expected]:
    """Key in the file -> what it must be.

    sla: Turbo, with `proj_l`. quantised: int8 blocks. official: TurboDiffusion's released dtypes exactly; training exports have
    any float, and their patch embedding may still be a convolution.
    """
    assert layout.role == ROLE_OF[type(numbers)]
    exact = official and layout.name == "turbodiffusion"
    table: dict[str, Expected] = {}
    for key, shape in shapes_of_numbers(numbers, sla=sla).items():
        name = layout.rename(key)
        dtypes = (("F32",) if is_norm(key) else ("BF16",)) if exact else FLOATS
        if quantised and is_block_linear(key):
            flat = layout.name == "diffusers"
            stem = name.removesuffix("weight")
            table[name if flat else stem + "int8_weight"] = Expected(key, shape, shape, ("I8",), "int8")
            table[stem + ("weight_scale_inv" if flat else "scale")] = Expected(key, scale_shape(shape), scale_shape(shape), ("F32",), "scale")
            continue
        theirs = shape
        if key == "patch_embedding.weight" and (layout.name != "turbodiffusion" or convolution and not official):
            theirs = (shape[0], numbers.in_channels, *numbers.patch_size)         # a Conv3d, flattened (c, t, h, w) to ours
        table[name] = Expected(key, shape, theirs, dtypes)
    return table
