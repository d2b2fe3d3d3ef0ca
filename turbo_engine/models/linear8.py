"""A linear layer whose weights lie in memory in 8 bits and become the dtype of its input for each product.

Half the memory of bf16 and the full layer's arithmetic; `kernels.QuantizedLinear` is the one that computes in 8 bits too.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.w8a8.reference import BLOCK, dequantize_blocks


class Linear8(nn.Module):
    """y = W x + b, W = int8_weight * scale. Buffers by the names of TurboDiffusion's quantised files.

    blocks: `scale` has one number for each 128 x 128 block, as in those files, and W is exactly what they mean; else one for each
    output, as `kernels.quantize_rows` makes them, and it multiplies the product. bias: None for none. dtype: of the bias.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, blocks: bool = False, dtype: torch.dtype | None = None):
        super().__init__()
        self.in_features, self.out_features, self.blocks = in_features, out_features, blocks
        scales = (-(-out_features // BLOCK), -(-in_features // BLOCK)) if blocks else (out_features,)
        self.register_buffer("int8_weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(scales, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(out_features, dtype=dtype) if bias else None)

    @property
    def weight(self) -> Tensor:
        """Where others look for a layer's weights and their dtype."""
        return self.int8_weight

    @classmethod
    def like(cls, linear: nn.Linear, *, blocks: bool = False) -> "Linear8":
        """An empty one of this layer's shape, on its device."""
        with linear.weight.device:
            return cls(linear.in_features, linear.out_features, bias=linear.bias is not None, blocks=blocks, dtype=linear.weight.dtype)

    @classmethod
    def stacked(cls, *layers: "Linear8") -> "Linear8":
        """Several of the same input as one, by output; of blocks only where they fill whole ones."""
        first = layers[0]
        with first.int8_weight.device:
            one = cls(first.in_features, sum(layer.out_features for layer in layers), bias=first.bias is not None, blocks=first.blocks)
        for name in ("int8_weight", "scale", *(["bias"] if first.bias is not None else [])):
            setattr(one, name, torch.cat([getattr(layer, name) for layer in layers]))
        return one

    def widened(self) -> nn.Linear:
        """A plain layer with these weights, in the dtype of the bias."""
        dtype = self.bias.dtype if self.bias is not None else torch.float32
        with torch.device("meta"):
            linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        weight = self._weight(dtype) if self.blocks else (self.int8_weight * self.scale[:, None]).to(dtype)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias, requires_grad=False)
        return linear

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.blocks:
            return F.linear(x, self._weight(x.dtype), bias)
        y = F.linear(x, self.int8_weight.to(x.dtype)).float() * self.scale
        return (y if bias is None else y + bias).to(x.dtype)

    def _weight(self, dtype: torch.dtype) -> Tensor:
        w, scale = self.int8_weight, self.scale
        if w.shape[0] % BLOCK or w.shape[1] % BLOCK:
            return dequantize_blocks(w, scale, dtype)
        grid = w.view(scale.shape[0], BLOCK, scale.shape[1], BLOCK)
        return (grid * scale[:, None, :, None]).to(dtype).view_as(w)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, blocks={self.blocks}"
