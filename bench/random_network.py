"""A network of a preset's exact architecture with random weights, made on the device: honest for speed, silent on quality."""
import torch

from turbo_engine.accelerate import fit_sparse_attention
from turbo_engine.models.config import DiTConfig
from turbo_engine.models.dit import DiT
from turbo_engine.presets import SparseSettings


@torch.no_grad()
def random_network(config: DiTConfig, sparse: SparseSettings | None, device: torch.device, dtype: torch.dtype, seed: int = 0) -> DiT:
    """Gaussian at fan-in scale, norms around 1, nothing zero (released heads and linear branches are not either); the same for a seed.

    sparse: give each block's self-attention its sparse-linear form. Weights are drawn in bfloat16 whatever `dtype` is.
    """
    with torch.device("meta"):
        model = DiT(config)
        if sparse is not None:
            fit_sparse_attention(model, sparse)
    model.to_empty(device=device)
    model.to(dtype)
    shared, own = (torch.Generator(device).manual_seed(s) for s in (seed, seed + 1))
    for name, parameter in model.named_parameters():
        std = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
        generator = own if "proj_l" in name else shared          # with and without the linear branch, the rest is the same
        noise = torch.randn(parameter.shape, generator=generator, device=device, dtype=torch.bfloat16).mul_(std)
        parameter.copy_(noise)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    return model.eval().requires_grad_(False)
