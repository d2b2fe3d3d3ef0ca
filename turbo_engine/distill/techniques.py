"""Pocket's student with each technique on, to see what it does to clips and what it saves.

In 8 bits whether or not that is faster on this device, and on the fused glue: so each row of the report is one technique against the plain network.
On a CPU the roundings are the kernels' own by their torch meaning, which is slow.
"""
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

import kernels
from turbo_engine.accelerate import PLAIN, Techniques, accelerate, fit_sparse_attention
from turbo_engine.distill.pocket import load_dit, pocket_preset, sparse_settings
from turbo_engine.families.pocket import pocket_techniques
from turbo_engine.models.dit import DiT
from turbo_engine.presets import SparseSettings


class Sage(nn.Module):
    """Dense self-attention in 8 bits."""

    def __init__(self, pv: str):
        super().__init__()
        self.pv = pv

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernels.sage_attention(q, k, v, pv=self.pv)


@dataclass(frozen=True)
class Variant:
    """techniques: of `accelerate`; sage: dense attention in 8 bits, the format of its values; sparse: as it was trained."""

    techniques: Techniques = PLAIN
    sage: str | None = None
    sparse: bool = False

    def fitted(self, dense: DiT, tokens: int, trained: DiT | None) -> nn.Module:
        """On a copy of the dense network, or of the same one trained to attend sparsely."""
        source = trained if self.sparse else dense
        model = DiT(source.config)
        if self.sparse:
            fit_sparse_attention(model, trained.blocks[0].self_attn.attn_op.settings)
        model.load_state_dict(source.state_dict(), assign=True)
        for block in model.blocks if self.sage else ():
            block.self_attn.attn_op = Sage(self.sage)
        return accelerate(model.eval().requires_grad_(False), self.techniques, tokens)[0]


def variants(sparse: SparseSettings | None = None) -> dict[str, Variant]:
    """By name; those that attend sparsely where the student learned to."""
    glue, int8, fp8 = (Techniques(linear=format, fused=True, measured=False) for format in (None, "int8", "fp8"))
    found = {
        "fused glue": Variant(glue),
        "W8A8 int8": Variant(int8),
        "W8A8 fp8, GELU inside": Variant(fp8),
        "Sage int8, fp8": Variant(glue, "fp8"),
        "fp8 layers, Sage int8": Variant(fp8, "fp8"),
    }
    if sparse is not None:
        found[f"SLA, {sparse.density:.0%} of {sparse.block_q}x{sparse.block_k} blocks"] = Variant(glue, sparse=True)
        found["fp8 layers, SLA"] = Variant(fp8, sparse=True)
    return found


def networks(folder: Path, student: DiT) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The student under each technique, by name: to look at clips of any batch, and to be timed, with a step as one CUDA graph. On a CPU only what the
    app runs there is timed. student: the plain one of `folder`, on its device."""
    preset, sparse = pocket_preset(), sparse_settings(folder)
    tokens = preset.num_tokens(preset.clip.num_frames, preset.clip.height, preset.clip.width)
    weight = student.patch_embedding.weight
    trained = None if sparse is None else load_dit(folder, "student", sparse=sparse).to(weight)
    seen, timed, ours = {}, {}, pocket_techniques(weight.device, "turbo")
    for name, variant in variants(sparse).items():
        seen[name] = variant.fitted(student, tokens, trained)
        if weight.device.type == "cuda":
            timed[name] = replace(variant, techniques=replace(variant.techniques, graph=True)).fitted(student, tokens, trained)
        elif name == f"W8A8 {ours.linear}":
            timed[name] = Variant(ours).fitted(student, tokens, trained)
    return seen, timed
