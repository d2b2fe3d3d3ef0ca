"""8-bit linear layers, y = (x8 w8^T) * x_scale * w_scale + bias: a scale per token, a scale per output channel, sums in 32 bits."""
import torch
from torch import Tensor

from kernels.checks import check_shape
from kernels.formats import FORMATS, LARGEST, SMALLEST_AMAX, check_format
from kernels.w8a8 import reference

BACKENDS = ("auto", "triton", "library", "torch")


def quantize_rows(x: Tensor, *, format: str, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Round each row of x to 8 bits, its largest magnitude to the format's largest (448 or 127).

    Args:
        x: [..., K], float16, bfloat16 or float32; activations (a row is a token) or weights [out, in] (a row is a channel).
        format: "fp8" (e4m3) or "int8".
        backend: "triton" (one pass); "library" (int8 on a CPU); "torch" (the reference); or "auto": triton on CUDA, elsewhere
            "library" for int8 and "torch" for fp8.
    Returns: x8 like x, contiguous; scale [...] float32 with real = x8 * scale. Raises: ValueError.
    """
    check_format(format)
    if x.ndim < 1 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"x: expected floating-point rows, got {x.dtype} {list(x.shape)}")
    backend = _pick(backend, x, "library" if format == "int8" else "torch")
    if backend == "torch":
        return reference.quantize_rows_reference(x, format)
    if backend == "library":
        from kernels.w8a8 import library

        if x.is_cuda or format != "int8":
            raise ValueError(f"backend: 'library' rounds to int8 on a CPU, not to {format} on {x.device}; try backend='auto'")
        return library.quantize_rows(x)
    from kernels.w8a8 import launch

    return launch.quantize_rows(x, FORMATS[format])


def linear8(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None = None, *,
            dtype: torch.dtype = torch.bfloat16, backend: str = "auto") -> Tensor:
    """A linear layer on rows that are 8-bit already.

    Args:
        x8, x_scale: [..., K] and [...] from `quantize_rows`; w8, w_scale: [N, K] and [N], the same format; scales float32.
        bias: [N] or None. dtype: of y.
        backend: "triton"; "library" (`torch._scaled_mm` for fp8, `torch._int_mm` for int8); "torch" (the reference); or "auto":
            on CUDA whichever of the first two runs faster at this shape on this card (`kernels.choice`), elsewhere "library", or
            "torch" for fp8, which no library has on a CPU.
    Returns: y [..., N]. int8 sums are exact int32 over all of K. fp8 sums are float32 with "triton", and the matrix unit's own, on
        Hopper of some 13 bits, with "library" and "auto". Raises: ValueError for shapes, dtypes and devices that do not fit.
    """
    outs, width = check_shape("w8", w8, (None, None))
    rows = x8.shape[:-1]
    check_shape("x8", x8, (*rows, width))
    check_shape("x_scale", x_scale, tuple(rows))
    check_shape("w_scale", w_scale, (outs,))
    for name, t, expected in (("x8", x8, w8.dtype), ("x_scale", x_scale, torch.float32), ("w_scale", w_scale, torch.float32)):
        if t.dtype != expected or t.device != w8.device:
            raise ValueError(f"{name}: expected {expected} on {w8.device}, got {t.dtype} on {t.device}")
    if w8.dtype not in FORMATS.values():
        raise ValueError(f"w8: expected float8_e4m3fn or int8, got {w8.dtype}")
    if bias is not None:
        check_shape("bias", bias, (outs,))
    chosen, backend = backend, _pick(backend, x8, "library")
    from kernels.w8a8 import library

    arguments = x8.reshape(-1, width), x_scale.reshape(-1), w8, w_scale, bias, dtype
    if backend == "torch" or chosen == "auto" and backend == "library" and not library.runs(arguments[0], w8, dtype):
        return reference.linear8_reference(x8, x_scale, w8, w_scale, bias, dtype)
    if backend == "library":
        y = library.linear8(*arguments)
    else:
        from kernels.w8a8 import launch

        y = (launch.linear8 if backend == "triton" else launch.fastest_linear8)(*arguments)
    return y.view(*rows, outs)


def linear8_gelu(x8: Tensor, x_scale: Tensor, w8: Tensor, w_scale: Tensor, bias: Tensor | None, bound: Tensor, *,
                 backend: str = "auto") -> tuple[Tensor, Tensor]:
    """GELU (tanh form) of a linear layer, in e4m3 at once: its own pass over the activations falls away.

    A floating-point format needs no tight largest magnitude of a row, a bound will do: |gelu(u)| <= |u| <= x_scale * bound[0] + bound[1]
    of `row_bound`, times 448. On Gaussian rows the bound is some 30 times too large, and e4m3 reaches 2 ** 15 times down from it.

    Args: as `linear8`, e4m3; bound: [2] float32. backend: "triton", "torch", or "auto": triton on CUDA.
    Returns: y8 [..., N] e4m3 and y_scale [...]. Raises: ValueError.
    """
    outs, width = check_shape("w8", w8, (None, None))
    rows = x8.shape[:-1]
    for name, t, shape, dtype in (("x8", x8, (*rows, width), torch.float8_e4m3fn), ("w8", w8, (outs, width), torch.float8_e4m3fn),
                                  ("x_scale", x_scale, tuple(rows), torch.float32), ("w_scale", w_scale, (outs,), torch.float32),
                                  ("bound", bound, (2,), torch.float32)):
        check_shape(name, t, shape)
        if t.dtype != dtype or t.device != w8.device:
            raise ValueError(f"{name}: expected {dtype} on {w8.device}, got {t.dtype} on {t.device}")
    if bias is not None:
        check_shape("bias", bias, (outs,))
    if _pick(backend, x8) == "torch":
        return reference.linear8_gelu_reference(x8, x_scale, w8, w_scale, bias, bound)
    from kernels.w8a8 import launch

    y8, y_scale = launch.linear8_gelu(x8.reshape(-1, width), x_scale.reshape(-1), w8, w_scale, bias, bound)
    return y8.view(*rows, outs), y_scale.view(rows)


def row_bound(w8: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
    """[2] float32, what `linear8_gelu` wants of a layer: no output exceeds 448 * (x_scale * bound[0] + bound[1])."""
    reach = torch.stack([(part.float().abs().sum(1) * scale).amax() for part, scale in zip(w8.split(1024), w_scale.split(1024))]).amax()
    rest = torch.zeros_like(reach) if bias is None else bias.float().abs().amax() / LARGEST[torch.float8_e4m3fn]
    return torch.stack((reach, rest.clamp(min=SMALLEST_AMAX)))


def _pick(backend: str, x: Tensor, elsewhere: str = "torch") -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    return elsewhere if backend == "auto" and not x.is_cuda else backend
