"""Muon for many equal-shaped matrices at once: momentum, orthogonalised by five Newton-Schulz steps.

torch.optim.Muon is the same arithmetic one matrix at a time, some 30 small kernels for each of a DiT's 80; here matrices
of one shape are a stack, and a step is about a hundred kernels in all. tests/test_distill.py holds it to torch's.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; scale to AdamW's update size: Liu et al. 2025, arXiv:2502.16982.
"""
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_STEPS = 5


def orthogonalise(stack: Tensor) -> Tensor:
    """Bring the singular values of each matrix near 1. stack [N, rows, columns]; bf16 inside. -> bf16, same shape."""
    a, b, c = NEWTON_SCHULZ
    x = stack.bfloat16()
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(NUM_STEPS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if x.shape[1] <= x.shape[2] else wide.mT


class Muon:
    """Nesterov momentum and decoupled weight decay around `orthogonalise`; update RMS 0.2 * lr, as AdamW's is.

    Args: parameters: matrices, [rows, columns]. lr: may be changed between steps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        groups = defaultdict(list)
        for parameter in parameters:
            groups[parameter.shape].append(parameter)
        self._groups = [(group, torch.zeros_like(torch.stack([p.detach() for p in group]))) for group in groups.values()]

    @torch.no_grad()
    def step(self) -> None:
        for group, average in self._groups:
            gradient = torch.stack([p.grad for p in group])
            average.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(average, self.momentum)).float() * (0.2 * max(gradient.shape[1:]) ** 0.5)
            torch._foreach_mul_(group, 1 - self.lr * self.weight_decay)
            torch._foreach_add_(group, list(update.unbind(0)), alpha=-self.lr)
