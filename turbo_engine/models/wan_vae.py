"""Wan2.1's video autoencoder: 8x in space, 4x in time, 4k + 1 frames <-> k + 1 latent frames; Wan2.2's A14B uses it too.

Causal: a frame never sees a later one, so a clip goes through in chunks of any length, and what each convolution has to
remember between them lies in `History`. Parameter names and shapes are those of Wan2.1_VAE.pth.
Source: Wan Team 2025, arXiv:2503.20314, section 4.1.
"""
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from turbo_engine.models.config import WanVAEConfig, latent_frames
from turbo_engine.models.dit import widen
from turbo_engine.models.tiles import blend_tiles

History = dict[nn.Module, Tensor]
"""By layer, the last input frames of the chunk before; empty at a clip's start."""
_TEMPORAL = (False, True, True)         # which changes of scale halve time, from full size down; doubled in the reverse order
_ENCODER_BLOCKS, _DECODER_BLOCKS = 2, 3


def per_frame(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A 2D module on each frame of x [B, C, T, H, W]."""
    return module(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (x.shape[0], -1)).transpose(1, 2)


class CausalConv(nn.Conv3d):
    """Sees the frame itself and the ones before it, zeros before the clip's first. x [B, C, T, H, W]."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3)):
        super().__init__(channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor, history: History) -> Tensor:
        reach = self.kernel_size[0] - 1
        past = history[self] if self in history else no_frames(x, reach)
        x = torch.cat((past, x), 2)
        history[self] = x[:, :, -reach:].clone()       # a view would keep the whole chunk alive
        return super().forward(x)


def no_frames(x: Tensor, count: int) -> Tensor:
    """Zeros in place of the `count` frames before a clip's start."""
    return x.new_zeros(*x.shape[:2], count, *x.shape[3:])


class ChannelNorm(nn.Module):
    """x / rms(x) * gamma over the channels, in float32. x [B, C, ...]; `dims` dimensions follow the channels."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        return (F.normalize(widen(x), dim=1) * x.shape[1] ** 0.5 * self.gamma).to(x.dtype)


class Chain(nn.Sequential):
    """Layers in a row; those that look back in time are given the history."""

    def forward(self, x: Tensor, history: History) -> Tensor:
        for layer in self:
            x = layer(x, history) if isinstance(layer, (CausalConv, ResidualBlock, Downsample, Upsample)) else layer(x)
        return x


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.residual = Chain(ChannelNorm(channels, 3), nn.SiLU(), CausalConv(channels, out_channels),
                              ChannelNorm(out_channels, 3), nn.SiLU(), nn.Identity(),      # dropout, when it was trained
                              CausalConv(out_channels, out_channels))
        self.shortcut = nn.Conv3d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, history: History) -> Tensor:
        return self.shortcut(x) + self.residual(x, history)


class FrameAttention(nn.Module):
    """Every pixel of a frame looks at that frame, one head as wide as the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + per_frame(self._attend, x)

    def _attend(self, frames: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)      # [B * T, 1, H * W, C]
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return self.proj(mixed.unflatten(2, frames.shape[2:]))


class Downsample(nn.Module):
    """Half in space and, if `temporal`, in time: the clip's first frame stays alone, then pairs become one."""

    def __init__(self, channels: int, *, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        first = x[:, :, :0] if self in history else x[:, :, :1]
        if self in history:
            x = torch.cat((history[self], x), 2)
        history[self] = x[:, :, -1:].clone()
        return torch.cat((first, self.time_conv(x)), 2) if x.shape[2] > 1 else first


class Upsample(nn.Module):
    """Double in space, to half the channels, and, if `temporal`, in time: the clip's first frame stays one."""

    def __init__(self, channels: int, *, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest-exact"),
                                      nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        return per_frame(self.resample, x if self.time_conv is None else self._double(x, history))

    def _double(self, x: Tensor, history: History) -> Tensor:
        first = x[:, :, :0]
        if self.time_conv not in history:                      # the first frame is not part of what the second looks back on
            history[self.time_conv] = no_frames(x, 2)
            first, x = x[:, :, :1], x[:, :, 1:]
        if x.shape[2] == 0:
            return first
        pairs = self.time_conv(x, history).unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5)         # [B, C, T, 2, H, W]
        return torch.cat((first, pairs.flatten(2, 3)), 2)


def _middle(channels: int) -> Chain:
    return Chain(ResidualBlock(channels, channels), FrameAttention(channels), ResidualBlock(channels, channels))


def _head(channels: int, out_channels: int) -> Chain:
    return Chain(ChannelNorm(channels, 3), nn.SiLU(), CausalConv(channels, out_channels))


class Encoder(nn.Module):
    """video [B, 3, 1 + 4k or 4k, 8h, 8w] in [-1, 1] -> [B, 2 * latent_channels, k + 1 or k, h, w]."""

    def __init__(self, config: WanVAEConfig):
        super().__init__()
        channels, layers = config.width, []
        self.conv1 = CausalConv(3, channels)
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(_ENCODER_BLOCKS):
                layers.append(ResidualBlock(channels, config.width * multiplier))
                channels = config.width * multiplier
            if level < len(_TEMPORAL):
                layers.append(Downsample(channels, temporal=_TEMPORAL[level]))
        self.downsamples = Chain(*layers)
        self.middle = _middle(channels)
        self.head = _head(channels, 2 * config.latent_channels)

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = self.downsamples(self.conv1(x, history), history)
        return self.head(self.middle(x, history), history)


class Decoder(nn.Module):
    """[B, latent_channels, T, h, w] -> video [B, 3, 4T, 8h, 8w], about [-1, 1]; 3 frames fewer at a clip's start."""

    def __init__(self, config: WanVAEConfig):
        super().__init__()
        channels, layers = config.width * config.multipliers[-1], []
        self.conv1 = CausalConv(config.latent_channels, channels)
        self.middle = _middle(channels)
        for level, multiplier in enumerate(reversed(config.multipliers)):
            for _ in range(_DECODER_BLOCKS):
                layers.append(ResidualBlock(channels, config.width * multiplier))
                channels = config.width * multiplier
            if level < len(_TEMPORAL):
                layers.append(Upsample(channels, temporal=_TEMPORAL[-1 - level]))
                channels //= 2
        self.upsamples = Chain(*layers)
        self.head = _head(channels, 3)

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = self.middle(self.conv1(x, history), history)
        return self.head(self.upsamples(x, history), history)


class WanVAE(nn.Module):
    """Frames in [0, 1] <-> latents of zero mean and unit variance by channel. `encoder=False` where only decoding is done.

    chunk: latent frames worked on at once; the numbers are the same for any, memory and speed are not.
    tile: side of a square tile in latent pixels where the whole picture does not fit, a quarter of it shared with each
    neighbour; None: untiled. A tile knows nothing of the others, so tiles are near the whole picture, not equal to it.
    """

    def __init__(self, config: WanVAEConfig, *, encoder: bool = True):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config) if encoder else None
        self.conv1 = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1) if encoder else None
        self.conv2 = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def _statistics(self, device: torch.device) -> Iterator[Tensor]:
        """Mean and std [C, 1, 1, 1], float32: as buffers they would be rounded with the weights."""
        return (torch.tensor(values, device=device).view(-1, 1, 1, 1) for values in (self.config.latent_mean, self.config.latent_std))

    def encode(self, frames: Tensor, *, chunk: int = 1, tile: int | None = None) -> Tensor:
        """Frames in [0, 1], [B, 3, 4k + 1, 8h, 8w] -> normalised latent [B, C, k + 1, h, w] float32 (posterior mean).

        Raises: ValueError for any other length.
        """
        latent_frames(frames.shape[2])
        latent = self._tiled(lambda part: self._encode(part, chunk), frames * 2 - 1, tile, 8, 1)
        mean, std = self._statistics(latent.device)
        return (latent - mean) / std

    def decode(self, latent: Tensor, *, chunk: int = 1, tile: int | None = None) -> Tensor:
        """Normalised latent [B, C, k + 1, h, w] -> frames in [0, 1], [B, 3, 4k + 1, 8h, 8w] float32."""
        return torch.cat(list(self.decode_chunks(latent, chunk=chunk, tile=tile)), 2)

    def decode_chunks(self, latent: Tensor, *, chunk: int = 1, tile: int | None = None) -> Iterator[Tensor]:
        """The frames of `decode` as they come: 4 * chunk - 3 of them, then 4 * chunk each time. Tiled, all come at once."""
        mean, std = self._statistics(latent.device)
        raw = widen(latent) * std + mean
        if tile is None:
            parts = self._decode(raw, chunk)
        else:
            parts = iter([self._tiled(lambda part: torch.cat(list(self._decode(part, chunk)), 2), raw, tile, 1, 8)])
        for part in parts:
            yield (part * 0.5 + 0.5).clamp(0, 1)

    def _encode(self, video: Tensor, chunk: int) -> Tensor:
        history: History = {}
        length, first = 4 * chunk, 4 * chunk - 3
        cuts = (video[:, :, :first], *video[:, :, first:].split(length, 2)) if video.shape[2] > first else (video,)
        moments = [self.encoder(cut.to(self.conv1.weight.dtype), history) for cut in cuts]
        return widen(self.conv1(torch.cat(moments, 2)).chunk(2, 1)[0])

    def _decode(self, raw: Tensor, chunk: int) -> Iterator[Tensor]:
        history: History = {}
        for part in raw.to(self.conv2.weight.dtype).split(chunk, 2):
            yield widen(self.decoder(self.conv2(part), history))

    def _tiled(self, run: Callable[[Tensor], Tensor], x: Tensor, tile: int | None, unit_in: int, unit_out: int) -> Tensor:
        if tile is None:
            return run(x)
        return blend_tiles(run, x, tile=tile, overlap=tile // 4, unit_in=unit_in, unit_out=unit_out)
