"""Pocket's video autoencoder: 16x in space, 4x in time, 4k + 1 frames <-> k + 1 latent frames.

Frames travel as the batch of 2D convolutions (channels last), time is mixed by shifting an eighth of the channels one
frame forward and an eighth one frame back (Lin et al. 2019, arXiv:1811.08383), which costs no arithmetic, and
changes of scale are pixel (un)shuffles with parameter-free shortcuts (Chen et al. 2024, arXiv:2410.10733). Most
depth sits at 1/16 scale, where a CPU is bound by arithmetic rather than memory; timings in bench/results.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from turbo_engine.models.config import VAEConfig, latent_frames


def shift_time(x: Tensor, num_frames: int) -> Tensor:
    """Move an eighth of the channels one frame later and an eighth one earlier. x [B * T, C, H, W]."""
    if num_frames == 1:
        return x
    fold = x.shape[1] // 8
    video, shifted = x.unflatten(0, (-1, num_frames)), x.clone()
    view = shifted.unflatten(0, (-1, num_frames))
    view[:, 1:, :fold] = video[:, :-1, :fold]
    view[:, :-1, fold:2 * fold] = video[:, 1:, fold:2 * fold]
    return shifted


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(shift_time(x, num_frames)))))


class Downsample(nn.Module):
    """Half in space and time: 2k + 1 frames -> k + 1. The first frame is doubled, then pairs become channels."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(8 * channels, out_channels, 1)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        video = F.pixel_unshuffle(x, 2).unflatten(0, (-1, num_frames))
        video = torch.cat((video[:, :1], video), 1)
        pairs = video.unflatten(1, (-1, 2)).flatten(2, 3).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        out = self.conv(pairs)
        return out + pairs.unflatten(1, (out.shape[1], -1)).mean(2)


class Upsample(nn.Module):
    """Double in space and time: k + 1 frames -> 2k + 1, the very first frame of the doubled ones being dropped."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8 * out_channels, 1)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        out = self.conv(x)
        repeats = -(-out.shape[1] // x.shape[1])
        out = F.pixel_shuffle(out + x.repeat_interleave(repeats, 1)[:, :out.shape[1]], 2)     # [B * T, 2C, 2H, 2W]
        video = out.unflatten(1, (2, -1)).unflatten(0, (-1, num_frames)).flatten(1, 2)[:, 1:]
        return video.flatten(0, 1).contiguous(memory_format=torch.channels_last)


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        fine, middle, coarse = config.encoder_widths
        self.stem = nn.Conv2d(48, fine, 3, padding=1)
        self.fine = ResidualBlock(fine)
        self.down1 = Downsample(fine, middle)
        self.middle = ResidualBlock(middle)
        self.down2 = Downsample(middle, coarse)
        self.coarse = nn.ModuleList(ResidualBlock(coarse) for _ in range(2))
        self.out = nn.Conv2d(coarse, 2 * config.latent_channels, 3, padding=1)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video [B, 3, 4k + 1, 16h, 16w] in [-1, 1] -> mean and log-variance [B, C, k + 1, h, w], not normalised."""
        batch, _, frames, _, _ = video.shape
        x = F.pixel_unshuffle(video.transpose(1, 2).flatten(0, 1), 4).contiguous(memory_format=torch.channels_last)
        x = self.fine(self.stem(x), frames)
        x = self.middle(self.down1(x, frames), (frames + 1) // 2)
        x, frames = self.down2(x, (frames + 1) // 2), latent_frames(frames)
        for block in self.coarse:
            x = block(x, frames)
        x = self.out(F.silu(x)).float().unflatten(0, (batch, frames)).transpose(1, 2)
        mean, raw = x.chunk(2, 1)
        return mean, (0.3 * raw - 5).clamp(-12, 4)


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        coarse, middle, fine = config.decoder_widths
        depths = config.decoder_depths
        self.stem = nn.Conv2d(config.latent_channels, coarse, 3, padding=1)
        self.coarse = nn.ModuleList(ResidualBlock(coarse) for _ in range(depths[0]))
        self.up1 = Upsample(coarse, middle)
        self.middle = nn.ModuleList(ResidualBlock(middle) for _ in range(depths[1]))
        self.up2 = Upsample(middle, fine)
        self.fine = nn.ModuleList(ResidualBlock(fine) for _ in range(depths[2]))
        self.out = nn.Conv2d(fine, 48, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """latent [B, C, k + 1, h, w], not normalised -> video [B, 3, 4k + 1, 16h, 16w], about [-1, 1]."""
        batch, _, frames, _, _ = latent.shape
        x = self.stem(latent.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last))
        for stage, up in ((self.coarse, self.up1), (self.middle, self.up2), (self.fine, None)):
            for block in stage:
                x = block(x, frames)
            if up is not None:
                x, frames = up(x, frames), 2 * frames - 1
        return F.pixel_shuffle(self.out(F.silu(x)), 4).unflatten(0, (batch, frames)).transpose(1, 2)


class VAE(nn.Module):
    """Encoder, decoder and the per-channel statistics that bring latents to zero mean and unit variance.

    Either half may be absent (`encoder=False` for the running app, which only decodes).
    """

    def __init__(self, config: VAEConfig, *, encoder: bool = True):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config) if encoder else None
        self.decoder = Decoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))
        self.to(memory_format=torch.channels_last)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.latent_mean.float().view(-1, 1, 1, 1), self.latent_std.float().view(-1, 1, 1, 1)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames in [0, 1], [B, 3, 4k + 1, 16h, 16w] -> normalised latent [B, C, k + 1, h, w] float32 (posterior mean)."""
        mean, std = self._statistics()
        return (self.encoder(frames * 2 - 1)[0] - mean) / std

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent [B, C, k + 1, h, w] -> frames in [0, 1], [B, 3, 4k + 1, 16h, 16w] float32."""
        mean, std = self._statistics()
        raw = (latent.float() * std + mean).to(self.decoder.out.weight.dtype)
        return (self.decoder(raw).float() * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def init_weights(self) -> "VAE":
        """There are no norms, so the scale of the signal is kept by the weights: branches start small."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.conv1.weight.mul_(1.4)
                module.conv2.weight.mul_(0.4)
        return self
