"""8-bit products by torch's own libraries: cuBLAS and CUTLASS on CUDA, oneDNN on the CPU."""
import torch
from torch import Tensor

from kernels.formats import LARGEST, SMALLEST_AMAX


def runs(x8: Tensor, w8: Tensor, dtype: torch.dtype) -> bool:
    """Whether the library takes this shape on this device."""
    if w8.dtype == torch.int8:
        return not x8.is_cuda or x8.shape[0] > 16 and w8.shape[0] % 8 == 0 and w8.shape[1] % 8 == 0
    return (x8.is_cuda and torch.cuda.get_device_capability(x8.device) >= (8, 9) and dtype == torch.bfloat16
            and w8.shape[0] % 16 == 0 and w8.shape[1] % 16 == 0)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` to int8 on a CPU: the reference's numbers in fewer passes over memory."""
    wide, largest = x.float(), LARGEST[torch.int8]
    amax = torch.maximum(wide.amax(-1, keepdim=True), -wide.amin(-1, keepdim=True)).clamp_(min=SMALLEST_AMAX)
    factor = torch.full_like(amax, largest) / amax                   # a number over a tensor would be rounded twice
    x8 = (wide * factor).round_().to(torch.int8, memory_format=torch.contiguous_format)    # none beyond 127: amax * factor rounds to it
    return x8, amax.div_(largest).squeeze(-1)


def linear8(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`linear8` on [M, K] rows. Raises: ValueError where the library cannot."""
    if not runs(x8, w8, dtype):
        raise ValueError(f"backend: 'library' does not take {w8.dtype} [{x8.shape[0]}, {x8.shape[1]}] x {list(w8.shape)} to {dtype} "
                         f"on {x8.device}; try backend='auto'")
    if w8.dtype == torch.int8:
        y = torch._int_mm(x8, w8.t()).float().mul_(x_scale[:, None]).mul_(w_scale)
        return (y if bias is None else y.add_(bias)).to(dtype)
    return torch._scaled_mm(x8, w8.t(), scale_a=x_scale[:, None], scale_b=w_scale[None], out_dtype=dtype, use_fast_accum=True,
                            bias=None if bias is None else bias.to(dtype))
