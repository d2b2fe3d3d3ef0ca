"""The two 8-bit number formats and their ranges. Importing this needs no Triton."""
import torch
from torch import Tensor

FORMATS = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
"""What the largest magnitude of a row, block or channel becomes."""
SMALLEST_AMAX = 1e-12
"""An all-zero row has this for its largest magnitude, so that its scale stays finite."""


def check_format(format: str) -> torch.dtype:
    """The dtype of a format. Raises: ValueError for a name that is none."""
    if format not in FORMATS:
        raise ValueError(f"format: expected 'fp8' or 'int8', got {format!r}")
    return FORMATS[format]


def narrow_reference(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x rounded to the nearest number that dtype has, ties to even; what lies beyond its range becomes its largest."""
    if dtype == torch.int8:
        x = x.round()
    return x.clamp(-LARGEST[dtype], LARGEST[dtype]).to(dtype)


def quantize_reference(x: Tensor, amax: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x8 = x * (largest / amax), rounded, and the scale amax / largest. amax: the largest magnitudes, of a shape that fits x."""
    amax = amax.clamp(min=SMALLEST_AMAX)
    return narrow_reference(x * (torch.full_like(amax, LARGEST[dtype]) / amax), dtype), amax / LARGEST[dtype]


def int8_products(device: torch.device) -> bool:
    """Whether a CPU multiplies int8 several times as fast as float32: it has VNNI, and this torch has oneDNN to use it."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


def default_format(device: torch.device) -> str:
    """fp8 where its products run at full rate with float32 sums (Hopper, data-centre Blackwell); int8 on every other device."""
    return "fp8" if device.type == "cuda" and torch.cuda.get_device_capability(device) in ((9, 0), (10, 0), (10, 3)) else "int8"
