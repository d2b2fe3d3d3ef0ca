"""A linear layer that keeps its weights in 8 bits: put in place of an `nn.Linear`, or of several that read the same input."""
import torch
from torch import Tensor, nn

from kernels.formats import default_format
from kernels.w8a8.api import linear8, linear8_gelu, quantize_rows, row_bound
from kernels.w8a8.reference import requantize_blocks


class QuantizedLinear(nn.Module):
    """y = x W^T + b with x and W in 8 bits, a scale per token and per output channel.

    x may also come quantised, as the pair (x8, x_scale) that a fused producer emits. Buffers: `weight8` [N, K], `w_scale` [N] float32,
    `bias` [N] or None, `bound` [2] of e4m3 weights (`row_bound`). `dtype`: of y. `fuse_gelu`: for the caller, whether a GELU
    after it is best left to `gelu`.
    """

    def __init__(self, weight8: Tensor, w_scale: Tensor, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("weight8", weight8)
        self.register_buffer("w_scale", w_scale)
        self.register_buffer("bias", bias)
        self.register_buffer("bound", row_bound(weight8, w_scale, bias) if weight8.dtype != torch.int8 else None)
        self.dtype, self.fuse_gelu = dtype, False
        self.format = "int8" if weight8.dtype == torch.int8 else "fp8"

    @classmethod
    def from_linear(cls, *linears: nn.Linear, format: str | None = None) -> "QuantizedLinear":
        """Round one linear layer, or several of the same input stacked by output: q, k and v as one product.

        Args: format: "fp8", "int8", or None: what this device does best (`default_format`). y has the dtype of the weights.
        Raises: ValueError where the layers do not stack.
        """
        first = linears[0]
        if len({(linear.in_features, linear.bias is None, linear.weight.dtype) for linear in linears}) > 1:
            raise ValueError("linears: expected the same in_features, dtype and use of bias, got "
                             + ", ".join(f"{linear} {linear.weight.dtype}" for linear in linears))
        weight = torch.cat([linear.weight.detach() for linear in linears])
        bias = None if first.bias is None else torch.cat([linear.bias.detach() for linear in linears])
        return cls(*quantize_rows(weight, format=format or default_format(weight.device)), bias, weight.dtype)

    @classmethod
    def from_blocks(cls, w8: Tensor, block_scale: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.bfloat16, *,
                    format: str | None = None) -> tuple["QuantizedLinear", float]:
        """From a released int8 checkpoint's 128 x 128 blocks. Returns: the layer, and |new - old| / |old| of its weights."""
        weight8, w_scale, error = requantize_blocks(w8, block_scale, format or default_format(w8.device))
        return cls(weight8, w_scale, bias, dtype), error

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        x8, x_scale = x if isinstance(x, tuple) else quantize_rows(x, format=self.format)
        return linear8(x8, x_scale, self.weight8, self.w_scale, self.bias, dtype=self.dtype)

    def gelu(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """GELU of the layer, in 8 bits at once (`linear8_gelu`); fp8 only."""
        return linear8_gelu(*x, self.weight8, self.w_scale, self.bias, self.bound)

    def extra_repr(self) -> str:
        outs, width = self.weight8.shape
        return f"in_features={width}, out_features={outs}, format={self.format}, dtype={self.dtype}"
