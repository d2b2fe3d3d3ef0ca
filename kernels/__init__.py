"""The machine room: one op a room, each with its plain torch meaning, its Triton kernel, its test and its bench.

Importing this needs no Triton and no GPU: an op's module is loaded at its first use, its kernels at their first launch.
"""
from importlib import import_module

_HOME = {
    "sparse_linear_attention": "kernels.sla.api",
    "block_mask_topk": "kernels.sla.api",
    "block_sparse_attention": "kernels.sla.api",
    "sage_attention": "kernels.sage.api",
    "quantize_rows": "kernels.w8a8.api",
    "linear8": "kernels.w8a8.api",
    "linear8_gelu": "kernels.w8a8.api",
    "QuantizedLinear": "kernels.w8a8.module",
    "add_norm": "kernels.glue.api",
    "gelu_rows": "kernels.glue.api",
    "norm_rope": "kernels.glue.api",
    "norm_silu": "kernels.pixels.api",
    "conv3": "kernels.pixels.api",
    "double_pixels": "kernels.pixels.api",
    "choices": "kernels.choice",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'kernels' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
