"""The host side of the 8-bit linear layer: outputs, descriptors, grids, and the choice between Triton and the library."""
import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.choice import fastest
from kernels.formats import LARGEST, SMALLEST_AMAX
from kernels.tuning import row_warps
from kernels.w8a8 import library
from kernels.w8a8.kernel import linear_by_descriptors, linear_by_pointers, rows_kernel


def quantize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    x8 = torch.empty(x.shape, dtype=dtype, device=x.device)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    padded = triton.next_power_of_2(width)
    if len(rows):
        with torch.cuda.device_of(x):
            rows_kernel[(len(rows),)](rows, x8, scale, rows.stride(0), width, LARGEST=LARGEST[dtype], SMALLEST_AMAX=SMALLEST_AMAX,
                                      WIDTH=padded, num_warps=row_warps(padded), enable_fp_fusion=False)
    return x8, scale


def linear8(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None, dtype: torch.dtype, precise: bool = True,
            tma: bool | None = None) -> Tensor:
    """`linear8` on [M, K] rows by Triton; precise: see `linear_kernel`; tma: tiles by descriptor, None means where it can be done."""
    y = torch.empty(len(x8), len(w8), dtype=dtype, device=x8.device)
    _launch(x8, x_scale, w8, w_scale, bias, None, y, x_scale, precise, tma)
    return y


def linear8_gelu(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None, bound: Tensor,
                 tma: bool | None = None) -> tuple[Tensor, Tensor]:
    """`linear8_gelu` on [M, K] rows."""
    y = torch.empty(len(x8), len(w8), dtype=torch.float8_e4m3fn, device=x8.device)
    y_scale = torch.empty_like(x_scale)
    _launch(x8, x_scale, w8, w_scale, bias, bound, y, y_scale, False, tma)
    return y, y_scale


def _launch(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None, bound: Tensor | None, y: Tensor,
            y_scale: Tensor, precise: bool, tma: bool | None) -> None:
    x8, w8 = x8.contiguous(), w8.contiguous()
    (rows, width), outs = x8.shape, w8.shape[0]
    if not rows:
        return
    tma = all(map(_can_describe, (x8, w8, y))) if tma is None else tma
    tensors = [TensorDescriptor(t, list(t.shape), list(t.stride()), [1, 1]) for t in (x8, w8, y)] if tma else (x8, w8, y)

    programs = torch.cuda.get_device_properties(x8.device).multi_processor_count if x8.is_cuda else 4

    def grid(meta):
        return (min(programs * meta["PER_SM"], triton.cdiv(rows, meta["BLOCK_M"]) * triton.cdiv(outs, meta["BLOCK_N"])),)

    with torch.cuda.device_of(x8):
        kernel = linear_by_descriptors if tma else linear_by_pointers
        kernel[grid](*tensors, x_scale, w_scale, w_scale if bias is None else bias, w_scale if bound is None else bound, y_scale, rows, outs,
                     width, BIAS=bias is not None, INT=x8.dtype == torch.int8, GELU=bound is not None, TMA=tma,
                     PRECISE=precise and x8.dtype != torch.int8)


def fastest_linear8(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Triton or the library, whichever ran faster at this many outputs, this width and about this many rows.

    fp8 sums may be the matrix unit's own, as the library's are; the first way is taken where nothing is measured.
    """
    arguments = x8, x_scale, w8, w_scale, bias, dtype
    ways = {"triton": lambda: linear8(*arguments, precise=False)}
    if library.runs(x8, w8, dtype):
        ways["library"] = lambda: library.linear8(*arguments)
        if x8.dtype != torch.int8:
            ways = dict(reversed(ways.items()))
    shape = (str(w8.dtype).removeprefix("torch."), triton.next_power_of_2(max(1, len(x8))), *w8.shape)
    return ways[fastest("linear8", shape, ways, x8.device)]()


def _can_describe(x: Tensor) -> bool:
    """Hopper's copy engine can fetch tiles of x: its address and its rows lie in steps of 16 bytes."""
    return (x.is_cuda and torch.cuda.get_device_capability(x.device) >= (9, 0) and x.data_ptr() % 16 == 0
            and x.stride(0) * x.element_size() % 16 == 0)
