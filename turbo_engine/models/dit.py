"""One diffusion transformer in the Wan shape, for pocket, 1.3B, 14B and A14B alike: only the numbers differ.

Parameter names, shapes and the order of operations are those of Wan 2.1 (Wan Team 2025, arXiv:2503.20314) with the linear
patch embedding of TurboDiffusion's checkpoints, so that a released file loads key for key. The network predicts the
rectified-flow velocity v = noise - x0 and is conditioned on timestep = 1000 t. The residual stream, norms, time and head
are float32 at any weight dtype; the rest runs in the dtype of the patch embedding.
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from turbo_engine.models.config import DiTConfig

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
SMALLEST_TIME = 0.05
"""Below this t a velocity is made from an x0 estimate as if at this t: 1 / t would make training there all that counts."""
TextContext = list[tuple[Tensor, ...]]
"""What a network makes of one prompt, the same at every step: cross-attention's keys and values, a pair [B, H, S, D] per block, and after
them (its modulation [B, 6, C],) where a network has `text_modulation`."""


CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dense softmax attention by torch's best kernel for the device. q, k, v [B, H, L, D] -> [B, H, L, D].

    On Hopper and data-centre Blackwell that is cuDNN's (564 TFLOP/s where flash has 359: bench/results/sage-h100-quick.json). Its backward
    overflows where all of a row's logits are below -88 and L is 64 more than a multiple of 128, as pocket's is (pytorch issue 196678): keys
    less their mean have the same softmax and no such row. The gradient of what changes nothing is zero.
    """
    if q.requires_grad:
        k = k - k.mean(2, keepdim=True).detach()
    if q.is_cuda and not q.requires_grad and torch.cuda.get_device_capability(q.device)[0] in (9, 10):
        with sdpa_kernel(CUDNN_FIRST, set_priority=True):
            return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def widen(x: Tensor) -> Tensor:
    """float32, or wider where x is wider already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class WideLinear(nn.Linear):
    """nn.Linear in float32, whatever the dtype of its weights, as Wan runs its time embedding and its head."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(widen(x), widen(self.weight), widen(self.bias))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in float32. x [..., dim]."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(widen(x), (x.shape[-1],), eps=eps)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm on a float32 stream, whatever the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(widen(x), self.normalized_shape, widen(self.weight), widen(self.bias), self.eps)


def rope_angles(grid: tuple[int, int, int], head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the 3D rotary angles, [T*H*W, head_dim / 2] float32.

    head_dim is split over (t, h, w) as (D - 4 * (D // 6), 2 * (D // 6), 2 * (D // 6)): 44/42/42 at 128, 24/20/20 at 64.
    """
    side = 2 * (head_dim // 6)
    shares = (head_dim - 2 * side, side, side)
    positions = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [p.reshape(-1, 1) * theta ** (-torch.arange(0, share, 2, dtype=torch.float64) / share)
              for p, share in zip(positions, shares)]
    angle = torch.cat(angles, -1).to(device)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn interleaved pairs of channels by the rotary angles. x [B, H, L, D]; float32 inside, x.dtype out."""
    cos, sin = rope
    if x.device.type == "cpu":                 # one pass of complex products: a ninth of the time; no compiler takes them
        return torch.view_as_real(torch.view_as_complex(widen(x).unflatten(-1, (-1, 2))) * torch.complex(cos, sin)).flatten(-2).to(x.dtype)
    even, odd = widen(x).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


class GELU(nn.GELU):
    """The tanh form. On a CPU in passes of torch's vectorised tanh: 0.7 ms a block of pocket's where torch's own takes 1.1 to 5.4."""

    def __init__(self):
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or x.requires_grad:
            return super().forward(x)
        root = math.sqrt(2 / math.pi)
        h = torch.addcmul(x.new_tensor(root), x, x, value=0.044715 * root).mul_(x).tanh_()
        return torch.addcmul(x, h, x, out=h).mul_(0.5)


class SelfAttention(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, config.eps), RMSNorm(dim, config.eps)
        self.attn_op: nn.Module | None = None      # an attention with weights of its own, in place of the one passed in
        self.qkv: nn.Module | None = None          # q, k and v as one layer, in place of the three

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)      # [B, L, C] -> [B, H, L, D]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values before their norms, [B, L, C] each."""
        return (self.q(x), self.k(x), self.v(x)) if self.qkv is None else self.qkv(x).chunk(3, -1)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        q, k, v = self.project(x)
        q, k = rotate(self.heads(self.norm_q(q)), rope), rotate(self.heads(self.norm_k(k)), rope)
        return self.o((self.attn_op or attention)(q, k, self.heads(v)).transpose(1, 2).flatten(2))


class CrossAttention(SelfAttention):
    """Video tokens look at the text. No mask: padded rows are zeros before the text embedding and take part, as in Wan."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(self.norm_k(self.k(text))), self.heads(self.v(text))

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        q = self.heads(self.norm_q(self.q(x)))
        return self.o(fused_attention(q, *context).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        dim = config.dim
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = LayerNorm(dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), GELU(), nn.Linear(config.ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x: Tensor, modulation: Tensor, context: tuple[Tensor, Tensor], rope: tuple[Tensor, Tensor],
                attention: Attention) -> Tensor:
        """x [B, L, C] float32 residual stream; modulation [B, 6, C] float32 of this step."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (widen(self.modulation) + modulation).chunk(6, 1)   # [B, 1, C]
        dtype = context[0].dtype               # norm weights may be float32 beside bf16 layers, as in released files
        h = torch.addcmul(shift1, layer_norm(x, self.eps), 1 + scale1).to(dtype)
        x = torch.addcmul(x, gate1, self.self_attn(h, rope, attention))
        x = x + self.cross_attn(self.norm3(x).to(dtype), context)
        h = torch.addcmul(shift2, layer_norm(x, self.eps), 1 + scale2).to(dtype)
        return torch.addcmul(x, gate2, self.ffn(h))


class Head(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        t, h, w = config.patch_size
        self.eps = config.eps
        self.head = WideLinear(config.dim, t * h * w * config.out_channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (widen(self.modulation) + time[:, None]).chunk(2, 1)
        return self.head(layer_norm(x, self.eps) * (1 + scale) + shift)


class TextModulation(nn.Module):
    """What a text as a whole adds to the shifts, scales and gates of all blocks; float32. Two learned queries pick from its tokens."""

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.mix, self.project = WideLinear(dim, 2), WideLinear(2 * dim, dim), WideLinear(dim, 6 * dim)

    def forward(self, embedded: Tensor) -> Tensor:
        """embedded [B, S, C] -> [B, 6, C]."""
        picked = self.query(embedded).softmax(1).mT @ widen(embedded)                          # [B, 2, C]
        return self.project(F.silu(self.mix(picked.flatten(1)))).unflatten(-1, (6, -1))


class DiT(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        dim, (t, h, w) = config.dim, config.patch_size
        self.patch_embedding = nn.Linear(t * h * w * config.in_channels, dim)
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), GELU(), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(WideLinear(config.freq_dim, dim), nn.SiLU(), WideLinear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), WideLinear(dim, 6 * dim))
        self.text_modulation = TextModulation(dim) if config.text_modulation else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        self._rope: dict[tuple, tuple[Tensor, Tensor]] = {}

    def embed_text(self, text: Tensor) -> TextContext:
        """What all blocks read of a text. text [B, S, text_dim], zero rows where the prompt ended."""
        embedded = self.text_embedding(text.to(self.patch_embedding.weight.dtype))
        context: TextContext = [block.cross_attn.keys_values(embedded) for block in self.blocks]
        return context if self.text_modulation is None else [*context, (self.text_modulation(embedded),)]

    def embed_time(self, timestep: Tensor) -> Tensor:
        """Sinusoid, cosine half first, then the time MLP. timestep [B] in [0, 1000] -> [B, C] float32."""
        half = self.config.freq_dim // 2
        freqs = self.config.time_max_freq * 10_000.0 ** (-torch.arange(half, device=timestep.device, dtype=torch.float64) / half)
        angle = timestep.double()[:, None] * freqs
        wave = torch.cat((angle.cos(), angle.sin()), -1)
        return self.time_embedding(wave.to(torch.promote_types(self.patch_embedding.weight.dtype, torch.float32)))

    def rope(self, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        key = (*grid, device)
        if key not in self._rope:
            self._rope[key] = rope_angles(grid, self.config.head_dim, self.config.rope_theta, device)
        return self._rope[key]

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor | TextContext,
                attention: Attention = fused_attention, *, condition: Tensor | None = None) -> Tensor:
        """Velocity at x_t.

        Args:
            latent: x_t, [B, out_channels, T, H, W]; T, H, W divisible by patch_size.
            timestep: 1000 t, [B], on any device.
            text: token states [B, S, text_dim], or `embed_text` of them (kept across steps).
            attention: softmax attention on q, k, v [B, H, L, D], used for self-attention; the text is always read densely.
            condition: what the clip must hold to, [B, condition_channels, T, H, W] (`first_frame_condition`), where the
                model has such channels.
        Returns: v = noise - x0, [B, out_channels, T, H, W] float32. Raises: ValueError if the condition is missing or misfit.
        """
        dtype = self.patch_embedding.weight.dtype
        context = self.embed_text(text) if isinstance(text, Tensor) else text
        tokens, grid = patchify(self.with_condition(latent, condition).to(dtype), self.config.patch_size)
        timestep = timestep.to(latent.device)
        time = self.embed_time(timestep)
        modulation = self.time_projection(time).unflatten(-1, (6, -1))
        if self.text_modulation is not None:
            modulation = modulation + context[-1][0]
        x, rope = widen(self.patch_embedding(tokens)), self.rope(grid, latent.device)
        for block, pair in zip(self.blocks, context):
            x = block(x, modulation, pair, rope, attention)
        return self.velocity(unpatchify(self.head(x, time), grid, self.config.patch_size), latent, timestep)

    def velocity(self, output: Tensor, latent: Tensor, timestep: Tensor) -> Tensor:
        """What the head's output means for x_t."""
        if self.config.prediction == "velocity":
            return output
        t = (widen(timestep) / 1000).clamp(min=SMALLEST_TIME).view(-1, 1, 1, 1, 1)
        return (latent - output) / t

    def with_condition(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        wanted = [len(latent), self.config.condition_channels, *latent.shape[2:]]
        if wanted[1] == 0 and condition is None:
            return latent
        if condition is None or list(condition.shape) != wanted:
            raise ValueError(f"condition: expected shape {wanted}, got {'none' if condition is None else list(condition.shape)}")
        return torch.cat((latent, condition.to(latent)), 1)

    @torch.no_grad()
    def init_weights(self, gate: float = 0.4) -> "DiT":
        """Start of training from scratch: zero output and modulation, open gates. Muon wants the rest at fan-in scale."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features ** -0.5)
                nn.init.zeros_(module.bias)
        silent = [self.head.head, self.time_projection[1]]
        if self.text_modulation is not None:
            silent.append(self.text_modulation.project)
        for linear in silent:
            nn.init.zeros_(linear.weight)
        for block in self.blocks:
            block.modulation.zero_()
            block.modulation[:, [2, 5]] = gate
            block.cross_attn.o.weight.mul_(gate)
        return self


def patchify(latent: Tensor, patch_size: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """[B, C, T, H, W] -> tokens [B, L, C * kt * kh * kw] in (t, h, w) order, inner order (c, kt, kh, kw); and the grid."""
    (kt, kh, kw), (_, _, frames, height, width) = patch_size, latent.shape
    if frames % kt or height % kh or width % kw:
        raise ValueError(f"latent: expected T, H, W divisible by {patch_size}, got {list(latent.shape)}")
    grid = (frames // kt, height // kh, width // kw)
    cut = latent.unflatten(4, (-1, kw)).unflatten(3, (-1, kh)).unflatten(2, (-1, kt))     # [B, C, t, kt, h, kh, w, kw]
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3), grid


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch_size: tuple[int, int, int]) -> Tensor:
    """Tokens [B, L, kt * kh * kw * C], inner order (kt, kh, kw, c), back to [B, C, T, H, W]."""
    cut = tokens.unflatten(2, (*patch_size, -1)).unflatten(1, grid)                        # [B, t, h, w, kt, kh, kw, C]
    return cut.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6).flatten(4, 5).flatten(2, 3)
