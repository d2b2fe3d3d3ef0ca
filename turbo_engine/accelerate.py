"""What makes a network faster without making it another: each technique a switch, and the ones that win on a card.

Engine and bench fit them by the same call. Where a technique has a plain alternative it is kept only if it measures faster
on this card at this size (`kernels.choice`: measured once, kept on disk).
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import kernels
from kernels.choice import fastest
from kernels.formats import default_format
from kernels.sage.api import best_pv
from turbo_engine.models.dit import DiT
from turbo_engine.models.fused_dit import FusedDiT, GraphedDiT
from turbo_engine.models.linear8 import Linear8
from turbo_engine.presets import Preset, SparseSettings


class SparseLinearAttention(nn.Module):
    """Self-attention of one block, with the output projection of its linear branch; parameter names of TurboDiffusion's files.

    `pv`: its sparse branch in 8 bits, and the format of its values, as in `kernels.sparse_linear_attention`; None for 16 bits.
    """

    def __init__(self, head_dim: int, settings: SparseSettings):
        super().__init__()
        self.settings = settings
        self.pv: str | None = None
        self.local_attn = nn.Module()
        self.local_attn.proj_l = nn.Linear(head_dim, head_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v [B, H, L, D] -> [B, H, L, D]."""
        proj, settings = self.local_attn.proj_l, self.settings
        return kernels.sparse_linear_attention(q, k, v, proj.weight.to(q.dtype), proj.bias.to(q.dtype), density=settings.density,
                                               block_q=settings.block_q, block_k=settings.block_k, pv=self.pv)


def fit_sparse_attention(model: DiT, settings: SparseSettings) -> DiT:
    """Give every block's self-attention its sparse-linear form, before the weights are read into it."""
    device = next(model.parameters()).device
    with torch.device(device):
        for block in model.blocks:
            block.self_attn.attn_op = SparseLinearAttention(model.config.head_dim, settings)
    return model


@dataclass(frozen=True)
class Techniques:
    """What to fit on a network. All off is the plain network.

    linear: "fp8" or "int8" for the blocks' linear layers in 8 bits, q, k and v as one. sage: sparse attention in 8 bits, the format of its
    values ("fp8" or "16"). fused: glue kernels, and a residual stream of the weights' dtype if `narrow_stream`. graph: one CUDA graph a step.
    measured: 8 bits only where they are faster on this card; else wherever they were asked for.
    """

    linear: str | None = None
    sage: str | None = None
    fused: bool = False
    narrow_stream: bool = False
    graph: bool = False
    measured: bool = True


PLAIN = Techniques()


def techniques_for(device: torch.device, mode: str) -> Techniques:
    """What is worth trying on a device. mode "full" is a reference render: no 8 bits, a float32 stream, and it can give way between blocks."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return PLAIN
    if mode == "full":
        return Techniques(fused=True)
    return Techniques(linear=default_format(device), sage=best_pv(device), fused=True, narrow_stream=True, graph=True)


@torch.no_grad()
def accelerate(model: DiT, techniques: Techniques, tokens: int) -> tuple[nn.Module, list[str]]:
    """Fit techniques on a network whose weights are in place; it is used up.

    Args: tokens: L of the clips it will mostly make, at which alternatives are measured.
    Returns: a network with the interface of `DiT`, and what was fitted, a line each.
    """
    fitted = []
    if techniques.linear or techniques.fused:
        stack_qkv(model)
    if techniques.linear:
        fitted.append(quantize_linears(model, techniques.linear, tokens, fed=techniques.fused, measured=techniques.measured))
    if techniques.sage:
        fitted += quantize_attention(model, techniques.sage, tokens, measured=techniques.measured)
    if not techniques.fused:
        return model, fitted
    stream = model.patch_embedding.weight.dtype if techniques.narrow_stream else torch.float32
    network = FusedDiT(model, stream=stream)
    fitted.append(f"between products: fused kernels, stream {str(stream).removeprefix('torch.')}")
    if techniques.graph:
        network = GraphedDiT(network)
        fitted.append("a step: one CUDA graph")
    return network, fitted


def accelerate_for(preset: Preset, model: DiT, techniques: Techniques, between: Callable[..., None]) -> tuple[nn.Module, list[str]]:
    """`accelerate` for a preset's clips. between: a place to stand still, called between blocks, or between the steps of one CUDA graph."""
    clip = preset.clip
    network, fitted = accelerate(model, techniques, preset.num_tokens(clip.num_frames, clip.height, clip.width))
    for part in (network,) if techniques.graph else network.blocks:
        part.register_forward_pre_hook(between)
    return network, fitted


def stack_qkv(model: DiT) -> None:
    """q, k and v of each self-attention as one layer."""
    for block in model.blocks:
        attn = block.self_attn
        if attn.qkv is None:
            attn.qkv = _stacked(attn.q, attn.k, attn.v)
            del attn.q, attn.k, attn.v


def quantize_linears(model: DiT, format: str, tokens: int, fed: bool, measured: bool) -> str:
    """The large linear layers of all blocks in 8 bits, if `measured` where that is faster; layers that read the text and small ones stay.

    fed: whether the kernel before most layers hands them 8-bit rows; the two that follow an attention always round their own.
    """
    eight, sixteen = [], []
    places = {"self_attn.qkv": fed, "self_attn.o": False, "cross_attn.q": fed, "cross_attn.o": False, "ffn.0": fed, "ffn.2": fed}
    for name, is_fed in places.items():
        first = _plain(model.blocks[0].get_submodule(name))
        if measured and not _wins(first, format, tokens, is_fed):
            sixteen.append(name)
            continue
        eight.append(name)
        parent, _, child = name.partition(".")
        for block in model.blocks:
            layer = _plain(block.get_submodule(name))
            setattr(block.get_submodule(parent), child, kernels.QuantizedLinear.from_linear(layer, format=format))
    line = f"linear layers: {format} {', '.join(eight) or 'none'}" + (f"; 16-bit {', '.join(sixteen)}" if sixteen else "")
    if fed and format == "fp8" and {"ffn.0", "ffn.2"} <= set(eight) and (not measured or _gelu_wins(model.blocks[0].ffn[0], tokens)):
        for block in model.blocks:
            block.ffn[0].fuse_gelu = True
        line += "; GELU inside ffn.0"
    return line


def quantize_attention(model: DiT, pv: str, tokens: int, measured: bool) -> list[str]:
    """Sparse attention in 8 bits, its values in format pv, where the model has it and, if `measured`, it is faster."""
    ops = [block.self_attn.attn_op for block in model.blocks if isinstance(block.self_attn.attn_op, SparseLinearAttention)]
    if not ops:
        return []
    settings, weight = ops[0].settings, ops[0].local_attn.proj_l.weight
    if weight.is_cuda and not {settings.block_q, settings.block_k} <= {64, 128}:
        return ["sparse attention: 16-bit, its blocks are too small for 8"]
    taken = "8-bit"
    if measured and weight.is_cuda:
        heads, head_dim = model.config.num_heads, model.config.head_dim
        q, k, v = (torch.randn(1, tokens, heads, head_dim, dtype=weight.dtype, device=weight.device).transpose(1, 2) for _ in range(3))
        trial = SparseLinearAttention(head_dim, settings).to(weight)
        trial8 = SparseLinearAttention(head_dim, settings).to(weight)
        trial8.pv = pv
        shape = (pv, heads, head_dim, tokens, settings.density, settings.block_q, settings.block_k)
        taken = fastest("sparse attention", shape, {"8-bit": lambda: trial8(q, k, v), "16-bit": lambda: trial(q, k, v)}, weight.device)
    if taken == "8-bit":
        for op in ops:
            op.pv = pv
        return [f"sparse attention: int8 logits, {pv.replace('16', '16-bit')} values"]
    return ["sparse attention: 16-bit, faster here than 8"]


def _wins(layer: nn.Linear, format: str, tokens: int, fed: bool) -> bool:
    """Whether 8 bits are faster for a layer, the rounding of its input counted unless it is fed 8-bit rows."""
    weight = layer.weight
    if not weight.is_cuda:
        return True
    x = torch.randn(tokens, layer.in_features, dtype=weight.dtype, device=weight.device)
    layer8 = kernels.QuantizedLinear.from_linear(layer, format=format)
    rows = kernels.quantize_rows(x, format=format)
    shape = (format, "fed" if fed else "rounds", tokens, *weight.shape)
    return fastest("layer", shape, {"8-bit": lambda: layer8(rows if fed else x), "16-bit": lambda: layer(x)}, weight.device) == "8-bit"


def _gelu_wins(layer: kernels.QuantizedLinear, tokens: int) -> bool:
    """Whether GELU and its rounding are faster inside the product than after it."""
    if not layer.weight8.is_cuda:
        return True
    rows = kernels.quantize_rows(torch.randn(tokens, layer.weight8.shape[1], dtype=layer.dtype, device=layer.weight8.device), format="fp8")
    ways = {"inside": lambda: layer.gelu(rows), "after": lambda: kernels.gelu_rows(layer(rows), format="fp8")}
    return fastest("gelu", (tokens, *layer.weight8.shape), ways, layer.weight8.device) == "inside"


def _plain(layer: nn.Linear | Linear8) -> nn.Linear:
    return layer.widened() if isinstance(layer, Linear8) else layer


def _stacked(*layers: nn.Linear | Linear8) -> nn.Linear | Linear8:
    first = layers[0]
    if isinstance(first, Linear8):
        return Linear8.stacked(*layers)
    with torch.device("meta"):
        stacked = nn.Linear(first.in_features, sum(layer.out_features for layer in layers))
    stacked.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=first.weight.requires_grad)
    stacked.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=first.bias.requires_grad)
    return stacked
