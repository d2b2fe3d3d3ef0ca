"""Independent implementations holding our random weights: the name maps, and how far two outputs are apart.

The maps go from our names (the original checkpoints') to diffusers'. Written for these tests alone, so that an error in the
app's own reader cannot hide behind itself.
"""
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

_DIT = [
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"\.self_attn\.", ".attn1."), (r"\.cross_attn\.", ".attn2."),
    (r"\.([qkv])\.(weight|bias)$", r".to_\1.\2"), (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.norm3\.", ".norm2."), (r"\.ffn\.0\.", ".ffn.net.0.proj."), (r"\.ffn\.2\.", ".ffn.net.2."),
    (r"^head\.head\.", "proj_out."), (r"^head\.modulation$", "scale_shift_table"), (r"\.modulation$", ".scale_shift_table"),
]
_VAE = [
    (r"^conv1\.", "quant_conv."), (r"^conv2\.", "post_quant_conv."), (r"coder\.conv1\.", "coder.conv_in."),
    (r"\.head\.0\.", ".norm_out."), (r"\.head\.2\.", ".conv_out."), (r"\.downsamples\.", ".down_blocks."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."), (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.residual\.0\.", ".norm1."), (r"\.residual\.2\.", ".conv1."), (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."), (r"\.shortcut\.", ".conv_shortcut."),
]


def diffusers():
    """The library, or a skip where it is not installed. Its own start-up warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers", reason="requirements-dev.txt", exc_type=Exception)


def _renamed(state: dict[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    out = {}
    for key, tensor in state.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        out[key] = tensor
    return out


def dit_state(state: dict[str, Tensor], patch_size: tuple[int, int, int]) -> dict[str, Tensor]:
    """Our DiT's state by diffusers' names: the patch embedding becomes the convolution it is."""
    state = _renamed(state, _DIT)
    state["patch_embedding.weight"] = state["patch_embedding.weight"].unflatten(1, (-1, *patch_size))
    return state


def dit_peer(ours: nn.Module) -> nn.Module:
    """diffusers' transformer of our DiT's numbers and weights, on its device."""
    config, device = ours.config, ours.patch_embedding.weight.device
    with device:
        theirs = diffusers().WanTransformer3DModel(
            patch_size=config.patch_size, num_attention_heads=config.num_heads, attention_head_dim=config.head_dim,
            in_channels=config.in_channels, out_channels=config.out_channels, text_dim=config.text_dim, freq_dim=config.freq_dim,
            ffn_dim=config.ffn_dim, num_layers=config.num_layers, eps=config.eps)
    theirs.load_state_dict(dit_state(ours.state_dict(), config.patch_size))
    return theirs.requires_grad_(False).eval()


def vae_peer(ours: nn.Module) -> nn.Module:
    """diffusers' autoencoder of our WanVAE's numbers and weights, on its device."""
    config, device = ours.config, ours.conv2.weight.device
    with device:
        theirs = diffusers().AutoencoderKLWan(
            base_dim=config.width, z_dim=config.latent_channels, dim_mult=list(config.multipliers),
            latents_mean=list(config.latent_mean), latents_std=list(config.latent_std))
    theirs.load_state_dict(vae_state(ours.state_dict()))
    return theirs.requires_grad_(False).eval()


def vae_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our WanVAE's state by diffusers' names: its decoder counts levels and layers where ours counts on."""

    def level(match: re.Match) -> str:
        index = int(match[1])
        return f".up_blocks.{index // 4}." + ("upsamplers.0." if index % 4 == 3 else f"resnets.{index % 4}.")

    return {re.sub(r"\.upsamples\.(\d+)\.", level, key): tensor for key, tensor in _renamed(state, _VAE).items()}


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random and at its working scale, so that nothing hides behind a zero head or a norm of one.

    All are numbers that bf16 holds exactly: what differs after a change of precision is arithmetic.
    """
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if name.endswith("gamma") or "norm" in name and name.endswith("weight"):
            value = 1 + 0.3 * noise
        elif parameter.ndim > 1 and "modulation" not in name:
            value = noise * parameter[0].numel() ** -0.5
        else:
            value = 0.3 * noise
        parameter.copy_(value.bfloat16())
    return model.requires_grad_(False).eval()


def unipc_peer(num_steps: int, shift: float):
    """diffusers' solver on Wan's times; its own would start at 1."""
    peer = diffusers().UniPCMultistepScheduler(
        num_train_timesteps=1000, solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift,
        lower_order_final=True, solver_type="bh2")
    base, set_timesteps = torch.linspace(0.999, 0, num_steps + 1, dtype=torch.float64)[:-1].numpy(), peer.set_timesteps
    peer.set_timesteps = lambda num_steps, device=None: set_timesteps(sigmas=base, device=device)
    peer.set_timesteps(num_steps)
    return peer


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs| over all elements."""
    assert ours.shape == theirs.shape
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()
