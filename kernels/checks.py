"""What every public op asks of its arguments, said in the caller's words."""
from torch import Tensor


def check_shape(name: str, x: Tensor, expected: tuple[int | None, ...]) -> tuple[int, ...]:
    """The shape of x, once it has the expected rank and sizes; None stands for any size. Raises: ValueError."""
    got = tuple(x.shape)
    if len(got) != len(expected) or any(want is not None and want != size for want, size in zip(expected, got)):
        wanted = ", ".join("*" if want is None else str(want) for want in expected)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(got)}")
    return got


def check_like(name: str, x: Tensor, model: Tensor) -> None:
    """x has the dtype and the device of model. Raises: ValueError."""
    if x.dtype != model.dtype or x.device != model.device:
        raise ValueError(f"{name}: expected {model.dtype} on {model.device}, got {x.dtype} on {x.device}")


def pick_backend(backend: str, x: Tensor) -> str:
    """'auto' is triton for a CUDA tensor and torch elsewhere. Raises: ValueError for a name no op has."""
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"backend: expected 'auto', 'triton' or 'torch', got {backend!r}")
    if backend == "auto":
        return "triton" if x.is_cuda else "torch"
    return backend
