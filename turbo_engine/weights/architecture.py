"""From the numbers of a model to every tensor it has: our key -> shape, for the Wan family and what goes with it.

Sources: Wan Team 2025, arXiv:2503.20314; TurboDiffusion's released checkpoints; Chung et al. 2023 (umT5), arXiv:2304.09151;
the taehv repository's README. `tests/weights/test_architecture.py` holds the counts of the real files.
"""
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turbo_engine.models.config import DiTConfig, UMT5Config, WanVAEConfig

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
PROJ_L = "self_attn.attn_op.local_attn.proj_l"
"""Turbo only: mixes the linear branch of sparse-linear attention into its output, one [D, D] per block for all heads."""
BLOCK = 128
"""Side of the square blocks that share a scale in quantised files, as `kernels` reads them."""
OWN_ROLES = ("teacher", "student", "decoder", "encoder", "probe")
"""Of this app's own checkpoints, as their metadata say."""


@dataclass(frozen=True)
class VAENumbers:
    """Wan 2.1's causal video autoencoder, as far as its tensors tell: WanVAEConfig without the latents' statistics."""

    latent_channels: int = 16
    width: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)


@dataclass(frozen=True)
class TinyNumbers:
    """taehv's autoencoder for Wan 2.1 latents. widths: of the decoder, coarse to fine; grow: frames made of one at each level."""

    widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    encoder_width: int = 64
    latent_channels: int = 16
    grow: tuple[int, int, int] = (1, 2, 2)
    pool: tuple[int, int, int] = (2, 2, 1)


Numbers = DiTConfig | WanVAEConfig | VAENumbers | UMT5Config | TinyNumbers
ROLE_OF = {DiTConfig: "dit", WanVAEConfig: "vae", VAENumbers: "vae", UMT5Config: "text_encoder", TinyNumbers: "tiny_decoder"}
ROLE_NAMES = {"dit": "the video transformer", "vae": "the video autoencoder", "text_encoder": "the text encoder",
              "tiny_decoder": "the tiny decoder"}


def wan_dit(dim: int, num_heads: int, num_layers: int, ffn_dim: int, in_channels: int = 16) -> DiTConfig:
    """A DiT of the Wan family at any size."""
    return DiTConfig(dim=dim, num_heads=num_heads, num_layers=num_layers, ffn_dim=ffn_dim, in_channels=in_channels, out_channels=16,
                     prediction="velocity", patch_size=(1, 2, 2), text_dim=4096, text_len=512, freq_dim=256, time_max_freq=1.0,
                     rope_theta=10_000.0, eps=1e-6)


MODELS: dict[str, Numbers] = {
    "Wan2.1-T2V-1.3B": wan_dit(1536, 12, 30, 8960),
    "Wan2.1-T2V-14B": wan_dit(5120, 40, 40, 13_824),
    "Wan2.2-I2V-A14B": wan_dit(5120, 40, 40, 13_824, in_channels=36),
    "Wan2.1-VAE": VAENumbers(),
    "UMT5-XXL": UMT5Config(256_384, 4096, 10_240, 24, 64, 64, 32, 128),
    "taew2_1": TinyNumbers(),
}


def shapes_of_numbers(numbers: Numbers, *, sla: bool = False) -> Shapes:
    """Our key -> shape of every tensor. sla: with `proj_l`, which only a DiT has."""
    shapes = dict(_TENSORS[type(numbers)](numbers))
    return shapes | projection_shapes(numbers) if sla else shapes


def projection_shapes(numbers: Numbers) -> Shapes:
    """Of the tensors that a DiT has for sparse-linear attention alone."""
    d, shapes = numbers.head_dim, {}
    for n in range(numbers.num_layers):
        shapes |= {f"blocks.{n}.{PROJ_L}.weight": (d, d), f"blocks.{n}.{PROJ_L}.bias": (d,)}
    return shapes


def elements(numbers: Numbers, *, sla: bool = False) -> int:
    """How many numbers a model has. sla: as `shapes_of_numbers`."""
    return sum(math.prod(shape) for shape in shapes_of_numbers(numbers, sla=sla).values())


def is_norm(key: str) -> bool:
    """Whether a DiT key of ours belongs to a norm, which Turbo's files keep in float32."""
    return ".norm" in key


def is_block_linear(key: str) -> bool:
    """Whether a DiT key of ours is a weight that Turbo's quantised files store as int8 blocks."""
    return key.startswith("blocks.") and key.endswith(".weight") and ".norm" not in key and "proj_l" not in key


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _conv(name: str, rows: int, columns: int, *kernel: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns, *kernel)
    if bias:
        yield f"{name}.bias", (rows,)


def _dit(c: DiTConfig) -> Iterator[tuple[str, Shape]]:
    dim, patch = c.dim, math.prod(c.patch_size)
    yield from _linear("patch_embedding", dim, patch * c.in_channels)
    yield from _linear("text_embedding.0", dim, c.text_dim)
    yield from _linear("text_embedding.2", dim, dim)
    yield from _linear("time_embedding.0", dim, c.freq_dim)
    yield from _linear("time_embedding.2", dim, dim)
    yield from _linear("time_projection.1", 6 * dim, dim)
    if c.text_modulation:
        yield from _linear("text_modulation.query", 2, dim)
        yield from _linear("text_modulation.mix", dim, 2 * dim)
        yield from _linear("text_modulation.project", 6 * dim, dim)
    for n in range(c.num_layers):
        block = f"blocks.{n}"
        yield f"{block}.modulation", (1, 6, dim)
        for attention in ("self_attn", "cross_attn"):
            for name in "qkvo":
                yield from _linear(f"{block}.{attention}.{name}", dim, dim)
            for name in ("norm_q", "norm_k"):
                yield f"{block}.{attention}.{name}.weight", (dim,)
        yield from ((f"{block}.norm3.{name}", (dim,)) for name in ("weight", "bias"))
        yield from _linear(f"{block}.ffn.0", c.ffn_dim, dim)
        yield from _linear(f"{block}.ffn.2", dim, c.ffn_dim)
    yield "head.modulation", (1, 2, dim)
    yield from _linear("head.head", patch * c.out_channels, dim)


def _res(name: str, into: int, out: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.residual.0.gamma", (into, 1, 1, 1)
    yield from _conv(f"{name}.residual.2", out, into, 3, 3, 3)
    yield f"{name}.residual.3.gamma", (out, 1, 1, 1)
    yield from _conv(f"{name}.residual.6", out, out, 3, 3, 3)
    if into != out:
        yield from _conv(f"{name}.shortcut", out, into, 1, 1, 1)


def _middle(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _res(f"{name}.middle.0", width, width)
    yield f"{name}.middle.1.norm.gamma", (width, 1, 1)
    yield from _conv(f"{name}.middle.1.to_qkv", 3 * width, width, 1, 1)
    yield from _conv(f"{name}.middle.1.proj", width, width, 1, 1)
    yield from _res(f"{name}.middle.2", width, width)


_TEMPORAL_DOWN = (False, True, True)           # which changes of scale halve time, from full size down
_RES_BLOCKS = 2                                # a level, one more in the decoder


def _vae(c: WanVAEConfig | VAENumbers) -> Iterator[tuple[str, Shape]]:
    widths, z = [c.width * m for m in c.multipliers], c.latent_channels
    levels = len(widths)
    yield from _conv("encoder.conv1", widths[0], 3, 3, 3, 3)
    index, width = 0, widths[0]
    for level, out in enumerate(widths):
        for _ in range(_RES_BLOCKS):
            yield from _res(f"encoder.downsamples.{index}", width, out)
            index, width = index + 1, out
        if level < levels - 1:
            yield from _conv(f"encoder.downsamples.{index}.resample.1", width, width, 3, 3)
            if _TEMPORAL_DOWN[level]:
                yield from _conv(f"encoder.downsamples.{index}.time_conv", width, width, 3, 1, 1)
            index += 1
    yield from _middle("encoder", width)
    yield "encoder.head.0.gamma", (width, 1, 1, 1)
    yield from _conv("encoder.head.2", 2 * z, width, 3, 3, 3)
    yield from _conv("conv1", 2 * z, 2 * z, 1, 1, 1)
    yield from _conv("conv2", z, z, 1, 1, 1)
    yield from _conv("decoder.conv1", width, z, 3, 3, 3)
    yield from _middle("decoder", width)
    index = 0
    for level, out in enumerate(reversed(widths)):
        for _ in range(_RES_BLOCKS + 1):
            yield from _res(f"decoder.upsamples.{index}", width, out)
            index, width = index + 1, out
        if level < levels - 1:
            yield from _conv(f"decoder.upsamples.{index}.resample.1", width // 2, width, 3, 3)
            if _TEMPORAL_DOWN[::-1][level]:
                yield from _conv(f"decoder.upsamples.{index}.time_conv", 2 * width, width, 3, 1, 1)
            index, width = index + 1, width // 2
    yield "decoder.head.0.gamma", (width, 1, 1, 1)
    yield from _conv("decoder.head.2", 3, width, 3, 3, 3)


def _umt5(c: UMT5Config) -> Iterator[tuple[str, Shape]]:
    inner = c.num_heads * c.head_dim
    yield "shared.weight", (c.vocab_size, c.dim)
    for n in range(c.num_layers):
        attention, ffn = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        for name in "qkv":
            yield f"{attention}.SelfAttention.{name}.weight", (inner, c.dim)
        yield f"{attention}.SelfAttention.o.weight", (c.dim, inner)
        yield f"{attention}.SelfAttention.relative_attention_bias.weight", (c.num_buckets, c.num_heads)
        yield f"{attention}.layer_norm.weight", (c.dim,)
        for name in ("wi_0", "wi_1"):
            yield f"{ffn}.DenseReluDense.{name}.weight", (c.ffn_dim, c.dim)
        yield f"{ffn}.DenseReluDense.wo.weight", (c.dim, c.ffn_dim)
        yield f"{ffn}.layer_norm.weight", (c.dim,)
    yield "encoder.final_layer_norm.weight", (c.dim,)


def _memory_block(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _conv(f"{name}.conv.0", width, 2 * width, 3, 3)
    yield from _conv(f"{name}.conv.2", width, width, 3, 3)
    yield from _conv(f"{name}.conv.4", width, width, 3, 3)


def _tiny(c: TinyNumbers) -> Iterator[tuple[str, Shape]]:
    width = c.encoder_width
    yield from _conv("encoder.0", width, 3, 3, 3)
    for level, pool in enumerate(c.pool):
        first = 2 + 5 * level
        yield from _conv(f"encoder.{first}.conv", width, width * pool, 1, 1, bias=False)
        yield from _conv(f"encoder.{first + 1}", width, width, 3, 3, bias=False)
        for n in range(first + 2, first + 5):
            yield from _memory_block(f"encoder.{n}", width)
    yield from _conv("encoder.17", c.latent_channels, width, 3, 3)
    yield from _conv("decoder.1", c.widths[0], c.latent_channels, 3, 3)
    for level, (grow, width, finer) in enumerate(zip(c.grow, c.widths, c.widths[1:])):
        first = 3 + 6 * level
        for n in range(first, first + 3):
            yield from _memory_block(f"decoder.{n}", width)
        yield from _conv(f"decoder.{first + 4}.conv", width * grow, width, 1, 1, bias=False)
        yield from _conv(f"decoder.{first + 5}", finer, width, 3, 3, bias=False)
    yield from _conv("decoder.22", 3, c.widths[-1], 3, 3)


_TENSORS: dict[type, Callable[..., Iterator[tuple[str, Shape]]]] = {
    DiTConfig: _dit, WanVAEConfig: _vae, VAENumbers: _vae, UMT5Config: _umt5, TinyNumbers: _tiny}
