"""Fits sparse-linear attention onto a DiT whose weights were trained with it."""
import torch
from torch import Tensor, nn

import kernels
from turbo_engine.models.dit import DiT
from turbo_engine.presets import SparseSettings


class SparseLinearAttention(nn.Module):
    """Self-attention of one block, with the output projection of its linear branch; parameter names of TurboDiffusion's files."""

    def __init__(self, head_dim: int, settings: SparseSettings):
        super().__init__()
        self.settings = settings
        self.local_attn = nn.Module()
        self.local_attn.proj_l = nn.Linear(head_dim, head_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v [B, H, L, D] -> [B, H, L, D]."""
        proj, settings = self.local_attn.proj_l, self.settings
        return kernels.sparse_linear_attention(q, k, v, proj.weight, proj.bias, density=settings.density, block_q=settings.block_q,
                                               block_k=settings.block_k)


def fit_sparse_attention(model: DiT, settings: SparseSettings) -> DiT:
    """Give every block's self-attention its sparse-linear form, before the weights are read into it."""
    device = next(model.parameters()).device
    with torch.device(device):
        for block in model.blocks:
            block.self_attn.attn_op = SparseLinearAttention(model.config.head_dim, settings)
    return model
