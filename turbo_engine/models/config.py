"""The numbers that make one model, without torch, so that presets can be read and checked where no tensor goes."""
from dataclasses import dataclass


PREDICTIONS = ("velocity", "x0")
TIMESTEP_ROUNDINGS = ("exact", "integer", "bfloat16")       # what `schedule.timestep_of` knows
HIGH, LOW = "high-noise", "low-noise"                       # the experts of a model that has two


@dataclass(frozen=True)
class DiTConfig:
    """The numbers that make one diffusion transformer. Sizes in channels unless said otherwise.

    in_channels: out_channels of the clip itself, and after them those of a condition where the model has one (Wan2.2 I2V: 16 of
    the clip, 4 of a mask and 16 of an image's latent).
    prediction: what the last layer's output means, "velocity" (Wan) or "x0". A narrow network whose patches have nearly as
    many values as it has channels cannot carry their noise to its output, which a velocity needs, but can carry the clip
    (Li & He 2025, arXiv:2511.13720); callers get a velocity either way.
    time_max_freq: highest frequency of the time embedding, rad a timestep. Wan has 1, which turns 159 times from noise to
    clip; a model that is to be distilled by its own time derivative wants a few turns only (Lu & Song 2024,
    arXiv:2410.11081, section 4.1).
    text_modulation: whether the text as a whole moves each block's shifts, scales and gates too, as a class does in DiT (Peebles
    & Xie 2023, arXiv:2212.09748, section 3.2), beside being looked at. Wan has none.
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
    text_modulation: bool = False

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(f"dim: expected an even multiple of num_heads = {self.num_heads}, got {self.dim}")

        if self.in_channels < self.out_channels:
            raise ValueError(f"in_channels: expected out_channels = {self.out_channels} or more, got {self.in_channels}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def condition_channels(self) -> int:
        return self.in_channels - self.out_channels


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


@dataclass(frozen=True)
class WanVAEConfig:
    """Wan2.1's autoencoder, 8x in space and 4x in time (Wan Team 2025, arXiv:2503.20314, section 4.1; 16, 96, (1, 2, 4, 4)).

    width: channels at full size; multipliers: of it, from there to 1/8. latent_mean, latent_std: of the training data's
    latents, by channel.
    """

    latent_channels: int
    width: int
    multipliers: tuple[int, int, int, int]
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]

    spatial_stride = 8
    temporal_stride = 4

    def __post_init__(self):
        for name in ("latent_mean", "latent_std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(f"{name}: expected {self.latent_channels} numbers, got {len(getattr(self, name))}")
        if min(self.latent_std) <= 0:
            raise ValueError(f"latent_std: expected positive numbers, got {min(self.latent_std)}")
        if any(self.width * m % 2 for m in self.multipliers[1:]):
            raise ValueError(f"width: expected an even width below full size, got {self.width} * {self.multipliers}")


@dataclass(frozen=True)
class TinyVAEConfig:
    """taehv's decoder of another autoencoder's latents, 8x in space and 4x in time. widths: coarse to fine; 256, 128, 64, 64."""

    latent_channels: int
    widths: tuple[int, int, int, int]

    spatial_stride = 8
    temporal_stride = 4


@dataclass(frozen=True)
class UMT5Config:
    """The encoder half of umT5 (Chung et al. 2023, arXiv:2304.09151); the numbers given are umT5-XXL's."""

    vocab_size: int          # 256,384
    dim: int                 # 4096
    ffn_dim: int             # 10,240
    num_layers: int          # 24
    num_heads: int           # 64
    head_dim: int            # 64
    num_buckets: int         # 32, of relative positions
    max_distance: int        # 128 tokens, beyond which positions share a bucket


def latent_frames(num_frames: int) -> int:
    """k + 1 for 4k + 1 pixel frames. Raises: ValueError for any other length."""
    if num_frames < 1 or num_frames % 4 != 1:
        below = max(1, (num_frames - 1) // 4 * 4 + 1)
        raise ValueError(f"num_frames: expected 4k + 1, got {num_frames}; try {below} or {below + 4}")
    return (num_frames - 1) // 4 + 1
