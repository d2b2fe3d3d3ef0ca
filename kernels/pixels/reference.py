"""What the op means, in plain torch."""
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.sla.reference import widen


def norm_silu_reference(x: Tensor, gamma: Tensor, bias: Tensor | None, plus: Tensor | None, lead: int,
                        keep: bool) -> tuple[Tensor, Tensor | None]:
    sums = widen(x)
    if bias is not None:
        sums = sums + widen(bias).view(-1, 1, 1, 1)
    if plus is not None:
        sums = sums + widen(plus)
    normed = F.silu(F.normalize(sums, dim=1) * x.shape[1] ** 0.5 * widen(gamma).view(-1, 1, 1, 1)).to(x.dtype)
    out = torch.empty(*x.shape[:2], lead + x.shape[2], *x.shape[3:], dtype=x.dtype, device=x.device)
    out = out.contiguous(memory_format=torch.channels_last_3d)
    out[:, :, lead:] = normed
    return out, sums.to(x.dtype) if keep else None
