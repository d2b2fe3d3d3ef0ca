"""The numbers that make one model, without torch, so that presets can be read and checked where no tensor goes."""
from dataclasses import dataclass


PREDICTIONS = ("velocity", "x0")


@dataclass(frozen=True)
class DiTConfig:
    """The numbers that make one diffusion transformer. Sizes in channels unless said otherwise.

    prediction: what the last layer's output means, "velocity" (Wan) or "x0". A narrow network whose patches have nearly as
    many values as it has channels cannot carry their noise to its output, which a velocity needs, but can carry the clip
    (Li & He 2025, arXiv:2511.13720); callers get a velocity either way.
    time_max_freq: highest frequency of the time embedding, rad a timestep. Wan has 1, which turns 159 times from noise to
    clip; a model that is to be distilled by its own time derivative wants a few turns only (Lu & Song 2024,
    arXiv:2410.11081, section 4.1).
    """

    dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    in_channels: int
    out_channels: int
    prediction: str
    patch_size: tuple[int, int, int]
    text_dim: int
    text_len: int
    freq_dim: int
    time_max_freq: float
    rope_theta: float
    eps: float

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(f"dim: expected an even multiple of num_heads = {self.num_heads}, got {self.dim}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


@dataclass(frozen=True)
class VAEConfig:
    """Channel widths from full to coarse scale (1/4, 1/8, 1/16) and residual blocks of the decoder, coarse to fine."""

    latent_channels: int
    encoder_widths: tuple[int, int, int]
    decoder_widths: tuple[int, int, int]
    decoder_depths: tuple[int, int, int]

    spatial_stride = 16
    temporal_stride = 4

    def __post_init__(self):
        for fine, coarse in zip(self.encoder_widths, self.encoder_widths[1:]):
            if 8 * fine % coarse:
                raise ValueError(f"encoder_widths: expected each to divide 8 times the one before, got {fine} then {coarse}")


def latent_frames(num_frames: int) -> int:
    """k + 1 for 4k + 1 pixel frames. Raises: ValueError for any other length."""
    if num_frames < 1 or num_frames % 4 != 1:
        below = max(1, (num_frames - 1) // 4 * 4 + 1)
        raise ValueError(f"num_frames: expected 4k + 1, got {num_frames}; try {below} or {below + 4}")
    return (num_frames - 1) // 4 + 1
