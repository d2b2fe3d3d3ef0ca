"""taehv's tiny decoder of Wan2.1 latents (taew2_1): 9.8 M parameters of 2D convolutions in place of the autoencoder's 73 M.

A frame looks back by one frame in every memory block and never ahead, so a clip decodes in chunks of any length. Parameter
names and shapes are those of taew2_1's `decoder.*`. Source: Bohan, https://github.com/madebyollin/taehv.
"""
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from turbo_engine.models.config import TinyVAEConfig

History = dict[nn.Module, Tensor]
"""By memory block, the last frame it was given, [B, 1, C, H, W]; empty at a clip's start."""
_GROW = (1, 2, 2)        # frames made of one, coarse to fine
_LEAD = 3                # frames before the clip's first: the first latent stands for one frame, not four


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class MemoryBlock(nn.Module):
    """Residual block on a frame and the one before it, zeros before the first. x [B, T, C, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2 * channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
                                  nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, history: History) -> Tensor:
        before = history[self] if self in history else torch.zeros_like(x[:, :1])
        history[self] = x[:, -1:].clone()
        pairs = torch.cat((x, torch.cat((before, x[:, :-1]), 1)), 2)
        return F.relu(self.conv(pairs.flatten(0, 1)).unflatten(0, x.shape[:2]) + x)


class Grow(nn.Module):
    """`frames` frames of one. x [B, T, C, H, W] -> [B, T * frames, C, H, W]."""

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(channels, frames * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]).unflatten(2, (self.frames, -1)).flatten(1, 2)


class TinyVAE(nn.Module):
    """Decodes the normalised latents of a DiT: the statistics are learned in."""

    def __init__(self, config: TinyVAEConfig):
        super().__init__()
        self.config = config
        layers = [Clamp(), nn.Conv2d(config.latent_channels, config.widths[0], 3, padding=1), nn.ReLU()]
        for frames, width, finer in zip(_GROW, config.widths, config.widths[1:]):
            layers += [MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), Grow(width, frames), nn.Conv2d(width, finer, 3, padding=1, bias=False)]
        layers += [nn.ReLU(), nn.Conv2d(config.widths[-1], 3, 3, padding=1)]
        self.decoder = nn.ModuleList(layers)
        self.fast: Callable[[Tensor, History], Tensor] | None = None          # another way to do `_decode`
        self._order = list(range(len(layers)))
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Upsample):          # pixel by pixel, the layer after it gives the same on a quarter of the pixels
                self._order[i:i + 2] = i + 1, i

    def decode(self, latent: Tensor, *, chunk: int | None = None) -> Tensor:
        """Normalised latent [B, C, k + 1, h, w] -> frames in [0, 1], [B, 3, 4k + 1, 8h, 8w] float32; `chunk` as `decode_chunks`."""
        return torch.cat(list(self.decode_chunks(latent, chunk=chunk)), 2)

    def decode_chunks(self, latent: Tensor, *, chunk: int | None = 1) -> Iterator[Tensor]:
        """The frames of `decode` as they come. chunk: latent frames worked on at once, None: all; the numbers are the same."""
        history: History = {}
        frames = latent.to(self.decoder[1].weight.dtype).transpose(1, 2)
        for index, part in enumerate(frames.split(chunk or frames.shape[1], 1)):
            video = (self.fast or self._decode)(part, history)[:, _LEAD if index == 0 else 0:]
            yield video.float().clamp(0, 1).transpose(1, 2)

    @property
    def layers(self) -> list[nn.Module]:
        """In the order of their work."""
        return [self.decoder[i] for i in self._order]

    def _decode(self, x: Tensor, history: History) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, MemoryBlock):
                x = layer(x, history)
            elif isinstance(layer, Grow):
                x = layer(x)
            else:
                x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return x
