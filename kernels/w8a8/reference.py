"""What an 8-bit linear layer means, in plain torch, and the block format of the released int8 checkpoints."""
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats import SMALLEST_AMAX, check_format, narrow_reference, quantize_reference

BLOCK = 128
"""Side of the square blocks that share a scale in the released checkpoints."""


def quantize_rows_reference(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """x8 like x and its scales [...]: real = x8 * scale, each row's largest magnitude becomes the format's own."""
    wide = x.float()
    x8, scale = quantize_reference(wide, wide.abs().amax(-1, keepdim=True), check_format(format))
    return x8, scale.squeeze(-1)


def linear8_reference(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The products and sums of the 8-bit numbers, exactly (float64), then the scales, then the bias."""
    y = (x8.double() @ w8.double().t()) * x_scale.double()[..., None] * w_scale.double()
    return (y if bias is None else y + bias.double()).to(dtype)


def linear8_gelu_reference(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None,
                           bound: Tensor) -> tuple[Tensor, Tensor]:
    """`linear8_gelu`: exact sums, one rounding."""
    y = F.gelu(linear8_reference(x8, x_scale, w8, w_scale, bias, torch.float64), approximate="tanh")
    y_scale = x_scale * bound[0] + bound[1]
    return narrow_reference((y / y_scale[..., None]).float(), torch.float8_e4m3fn), y_scale


def dequantize_blocks(w8: Tensor, block_scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of the released checkpoints as they are meant: w8 * scale, a scale for each 128 x 128 block.

    Args: w8 [N, K] int8; block_scale [ceil(N / 128), ceil(K / 128)] float32. Returns: [N, K], float32 rounded to dtype.
    Source: TurboDiffusion's quantiser, scale = amax / 128 over the block, rounded to nearest.
    """
    outs, width = w8.shape
    wanted = (-(-outs // BLOCK), -(-width // BLOCK))
    if w8.dtype != torch.int8 or tuple(block_scale.shape) != wanted:
        raise ValueError(f"block_scale: expected shape {list(wanted)} for int8 weights [{outs}, {width}], got "
                         f"{list(block_scale.shape)} for {w8.dtype}")
    weight = torch.empty(outs, width, dtype=dtype, device=w8.device)
    for i, line in enumerate(block_scale.float()):             # a band of blocks at a time: a large matrix fits in float32 only once
        band = slice(i * BLOCK, (i + 1) * BLOCK)
        weight[band] = w8[band].float() * line.repeat_interleave(BLOCK)[:width]
    return weight


def requantize_blocks(w8: Tensor, block_scale: Tensor, format: str) -> tuple[Tensor, Tensor, float]:
    """Block-scaled weights with one scale per row instead, as the fast products want them.

    Returns: w8 [N, K] in `format`, w_scale [N] float32, and the error this adds: |new - old| / |old| over the matrix.
    """
    old = dequantize_blocks(w8, block_scale)
    new8, w_scale = quantize_rows_reference(old, format)
    error = (new8.float() * w_scale[:, None] - old).norm() / old.norm().clamp(min=SMALLEST_AMAX)
    return new8, w_scale, error.item()
