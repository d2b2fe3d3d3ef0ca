"""The decoders of `wan_vae` and `tiny_vae` at speed: channels last in memory, and one pass between two convolutions, or none.

Biases and residuals are added by the pass that reads them next, and that pass leaves room for the frames a convolution remembers, so
nothing is padded or concatenated. The weights, the history and the numbers are those of `wan_vae.Decoder`.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from turbo_engine.models.tiny_vae import Grow, MemoryBlock, TinyVAE
from turbo_engine.models.tiny_vae import History as TinyHistory
from turbo_engine.models.wan_vae import CausalConv, Decoder, FrameAttention, History, ResidualBlock, Upsample, WanVAE

LAST = torch.channels_last_3d


class Pending(NamedTuple):
    """x + bias + plus, not added yet. x, plus [B, C, T, H, W]; bias [C]."""

    x: Tensor
    bias: Tensor | None = None
    plus: Tensor | None = None

    def total(self) -> Tensor:
        x = self.x if self.plus is None else self.x + self.plus
        return x if self.bias is None else x + self.bias.view(-1, 1, 1, 1)


class FastDecoder(nn.Module):
    """Takes the place of a `Decoder`. backend: of `kernels.norm_silu`."""

    def __init__(self, decoder: Decoder, backend: str = "auto"):
        super().__init__()
        self.decoder, self.backend = channels_last(decoder), backend

    def forward(self, x: Tensor, history: History) -> Tensor:
        """As `Decoder.forward`."""
        decoder = self.decoder
        now = Pending(_conv(decoder.conv1, _with_room(x, 2), history), decoder.conv1.bias)
        for layer in (*decoder.middle, *decoder.upsamples):
            if isinstance(layer, ResidualBlock):
                now = self._residual(layer, now, history)
            elif isinstance(layer, FrameAttention):
                now = Pending(layer(now.total()).contiguous(memory_format=LAST))
            else:
                now = _upsample(layer, now.total(), history)
        norm, _, conv = decoder.head
        h, _ = self._norm_silu(now, norm.gamma)
        return _conv(conv, h, history) + conv.bias.view(-1, 1, 1, 1)

    def _norm_silu(self, now: Pending, gamma: Tensor, keep: bool = False) -> tuple[Tensor, Tensor | None]:
        return kernels.norm_silu(now.x, gamma.flatten(), bias=now.bias, plus=now.plus, lead=2, keep=keep, backend=self.backend)

    def _residual(self, block: ResidualBlock, now: Pending, history: History) -> Pending:
        norm1, _, conv1, norm2, _, _, conv2 = block.residual
        h, x = self._norm_silu(now, norm1.gamma, keep=True)
        h, _ = self._norm_silu(Pending(_conv(conv1, h, history), conv1.bias), norm2.gamma)
        h = _conv(conv2, h, history)
        if isinstance(block.shortcut, nn.Identity):
            return Pending(h, conv2.bias, x)
        return Pending(h, conv2.bias + block.shortcut.bias, F.conv3d(x, block.shortcut.weight))


def speed_up_decoder(vae: WanVAE, backend: str = "auto") -> None:
    """Decode with fused kernels from now on."""
    vae.decoder = FastDecoder(vae.decoder, backend)


class FastTiny:
    """`TinyVAE._decode` channels last, biases, ReLUs and residuals inside cuDNN's convolutions, its last level before pixels are doubled."""

    def __init__(self, tiny: TinyVAE, backend: str = "auto"):
        self.tiny, self.backend = channels_last(tiny), backend
        *self._layers, grow, _, conv, _, head = tiny.layers
        self._last = LastLevel(grow, conv, head)

    def __call__(self, x: Tensor, history: TinyHistory) -> Tensor:
        """x [B, T, C, H, W]; frames are a batch on the way, [B * T, C, H, W]."""
        batch = len(x)
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for layer in self._layers:
            if isinstance(layer, MemoryBlock):
                x = _remember(layer, x.unflatten(0, (batch, -1)), history)
            elif isinstance(layer, Grow):
                x = layer.conv(x)
                if layer.frames > 1:
                    x = x.unflatten(1, (layer.frames, -1)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            elif isinstance(layer, nn.Upsample):
                x = kernels.double_pixels(x.transpose(0, 1)[None], backend=self.backend)[0].transpose(0, 1)
            else:
                x = layer(x)
        return self._last(x).unflatten(0, (batch, -1))


class LastLevel:
    """Growth, doubling, convolution, ReLU and the last convolution on a quarter of the pixels.

    A 3 x 3 convolution on doubled pixels sees at most 3 x 3 of the pixels that they were, so it is one on those with four outputs, one a
    place among the four that a pixel becomes; the growth before it is a product of weights. The last convolution then reads four places of 3 x 3
    pixels and writes four. What is as large as the frame is its three colours alone.
    """

    def __init__(self, grow: Grow, conv: nn.Conv2d, head: nn.Conv2d):
        taps = conv.weight.float()                             # [N, C, 3, 3]
        places = taps.new_zeros(2, 2, len(taps), *taps.shape[1:])
        reads = head.weight.new_zeros(2, 2, len(head.weight), 2, 2, *head.weight.shape[1:])
        for a in range(2):
            for b in range(2):
                for i in range(3):
                    for j in range(3):
                        (y, up), (x, left) = divmod(a + i - 1, 2), divmod(b + j - 1, 2)       # pixel and place among its four
                        places[a, b, :, :, y + 1, x + 1] += taps[:, :, i, j]
                        reads[a, b, :, up, left, :, y + 1, x + 1] += head.weight[:, :, i, j]
        frames = grow.conv.weight.float()[:, :, 0, 0].unflatten(0, (grow.frames, -1))          # [F, C, C before]
        self._grown = [_conv2d(torch.einsum("abnchw,cd->abndhw", places, one).flatten(0, 2).to(conv.weight.dtype)) for one in frames]
        self._reads = _conv2d(reads.flatten(3, 5).flatten(0, 2), head.bias.repeat(4))

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, C, H, W], its channels side by side -> [N * frames, 3, 2H, 2W]."""
        grown = torch.stack([self._reads(_conv_relu(conv, x)) for conv in self._grown], 1)
        four = grown.flatten(0, 1).unflatten(1, (2, 2, -1))                                    # [N, up, left, 3, H, W]
        return four.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def speed_up_tiny(tiny: TinyVAE, backend: str = "auto") -> None:
    """Decode with fused convolutions from now on."""
    tiny.fast = FastTiny(tiny, backend)


def _remember(block: MemoryBlock, x: Tensor, history: TinyHistory) -> Tensor:
    """`MemoryBlock.forward` of x [B, T, C, H, W], its channels side by side; out come [B * T, C, H, W]."""
    batch, frames, channels, height, width = x.shape
    pairs = torch.empty(batch, frames, height, width, 2 * channels, dtype=x.dtype, device=x.device).permute(0, 1, 4, 2, 3)
    pairs[:, :, :channels] = x
    pairs[:, 1:, channels:] = x[:, :-1]
    if block in history:
        pairs[:, :1, channels:] = history[block]
    else:
        pairs[:, :1, channels:].zero_()
    history[block] = x[:, -1:].clone()
    first, _, second, _, third = block.conv
    h = _conv_relu(second, _conv_relu(first, pairs.flatten(0, 1)))
    return _conv_relu(third, h, x.flatten(0, 1))


def _conv2d(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """3 x 3 with these weights, channels last; without a bias it adds zeros."""
    conv = nn.Conv2d(weight.shape[1], len(weight), 3, padding=1, device="meta")
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    conv.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias, requires_grad=False)
    return conv


def _conv_relu(conv: nn.Conv2d, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """relu(conv(x) + plus)."""
    if not x.is_cuda:
        y = conv(x)
        return F.relu(y if plus is None else y + plus)
    options = conv.stride, conv.padding, conv.dilation, conv.groups
    if plus is None:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *options)
    return torch.cudnn_convolution_add_relu(x, conv.weight, plus, 1, conv.bias, *options)


def channels_last(model: nn.Module) -> nn.Module:
    """The same model with the weights of its convolutions laid out for pixels whose channels lie side by side."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            form = LAST if isinstance(module, nn.Conv3d) else torch.channels_last
            module.weight.data = module.weight.data.contiguous(memory_format=form)
    return model


def _with_room(x: Tensor, lead: int) -> Tensor:
    """x with `lead` frames in front, not written."""
    room = torch.empty(x.shape[0], lead + x.shape[2], *x.shape[3:], x.shape[1], dtype=x.dtype, device=x.device).permute(0, 4, 1, 2, 3)
    room[:, :, lead:] = x
    return room


def _conv(conv: CausalConv, x: Tensor, history: History) -> Tensor:
    """x with room for the frames before it in front; without the bias."""
    reach = conv.kernel_size[0] - 1
    past = x[:, :, :reach]
    if conv in history:
        past.copy_(history[conv])
    else:
        past.zero_()
    history[conv] = x[:, :, -reach:].clone()
    return kernels.conv3(x, conv.weight) if conv.kernel_size == (3, 3, 3) else F.conv3d(x, conv.weight, padding=conv.padding)


def _upsample(layer: Upsample, x: Tensor, history: History) -> Pending:
    if layer.time_conv is not None:
        x = _double(layer.time_conv, x, history)
    conv, batch = layer.resample[1], x.shape[0]
    frames = kernels.double_pixels(x).transpose(1, 2).flatten(0, 1)          # [B * T, C, H, W], channels last
    frames = F.conv2d(frames, conv.weight, padding=conv.padding)
    return Pending(frames.unflatten(0, (batch, -1)).transpose(1, 2), conv.bias)


def _double(conv: CausalConv, x: Tensor, history: History) -> Tensor:
    """Two frames of each, but of the clip's first, which is not part of what the second looks back on."""
    first = x[:, :, :0]
    start = conv not in history
    if start:
        first, x = x[:, :, :1], x[:, :, 1:]
        history[conv] = x.new_zeros(*x.shape[:2], 2, *x.shape[3:])
    if x.shape[2] == 0:
        return first
    y = _conv(conv, _with_room(x, 2), history) + conv.bias.view(-1, 1, 1, 1)
    batch, channels, frames, height, width = x.shape
    out = torch.empty(batch, first.shape[2] + 2 * frames, height, width, channels, dtype=x.dtype, device=x.device).permute(0, 4, 1, 2, 3)
    if start:
        out[:, :, :1] = first
    out[:, :, first.shape[2]::2], out[:, :, first.shape[2] + 1::2] = y.chunk(2, 1)
    return out
