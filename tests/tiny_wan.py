"""A Wan preset narrow enough for every commit: random weights in the published forms, T2V with one network or I2V with two experts."""
from pathlib import Path

import numpy as np
import torch

import tiny_umt5
from turbo_engine.models.dit import DiT
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.presets import Preset, load_preset
from turbo_engine.weights import TinyNumbers
from weights import forms

T2V, I2V = 16, 36            # input channels
TEMPLATE = """
[clip]
num_frames = 9
height = 64
width = 64
fps = 16
sizes = ["64x64", "96x64"]
lengths = [5, 9]
max_num_frames = 17
[text]
encoder = "umt5"
text_len = 12
vocabulary = ""
[dit]
dim = 48
num_heads = 2
num_layers = 2
ffn_dim = 96
in_channels = {channels}
out_channels = 16
prediction = "velocity"
patch_size = [1, 2, 2]
text_dim = 24
text_len = 12
freq_dim = 32
time_max_freq = 1.0
rope_theta = 10000.0
eps = 1e-6
[vae]
latent_channels = 16
width = 8
multipliers = [1, 2, 4, 4]
latent_mean = {mean}
latent_std = {std}
[tiny_vae]
latent_channels = 16
widths = [16, 8, 8, 8]
[umt5]
vocab_size = 64
dim = 24
ffn_dim = 40
num_layers = 2
num_heads = 3
head_dim = 8
num_buckets = 32
max_distance = 128
[sparse]
density = 0.5
block_q = 16
block_k = 16
{experts}
[turbo]
num_steps = 4
max_steps = 4
sampler = "fixed-noise"
sigma_max = 80.0
rounding = "bfloat16"
preview_steps = [1]
[full]
num_steps = 6
max_steps = 60
sampler = "unipc"
shift = 3.0
guidance_scale = 4.0
negative_prompt = "bad"
rounding = "integer"
preview_steps = [3]
[files]
turbo = {turbo}
full = {full}
vae = "a/b/vae.pth"
text_encoder = "a/b/text.pth"
tokenizer = "a/b/tokenizer.json"
tiny_vae = "a/b/tiny.pth"
sha256 = {{}}
"""


def write_wan_preset(folder: Path, channels: int = T2V, name: str = "tiny-wan2.1") -> Path:
    """The .toml, and its folder of weights beside it. Returns: the .toml's path."""
    path, own = folder / f"{name}.toml", folder / name
    two = channels == I2V
    names = '["a/b/h", "a/b/l"]' if two else '["a/b/c"]'
    path.write_text(TEMPLATE.format(channels=channels, mean=[0.1 * c for c in range(16)], std=[1 + 0.1 * c for c in range(16)],
                                    experts="[experts]\nboundary = 0.9\n" if two else "", turbo=names, full=names))
    own.mkdir()
    write_weights(load_preset(path), own)
    return path


def write_weights(preset: Preset, folder: Path) -> None:
    torch.manual_seed(0)
    experts = ("high", "low") if preset.experts else ("",)
    for expert in experts:
        for kind in ("turbo", "full"):
            model = DiT(preset.dit).init_weights()
            for linear in (model.head.head, model.time_projection[1]):
                torch.nn.init.normal_(linear.weight, std=0.1)
            state = model.state_dict()
            state = forms.turbo(state, preset.dit) if kind == "turbo" else forms.wan(state, preset.dit)
            forms.save(folder / f"{kind}-{expert}.safetensors" if expert else folder / f"{kind}.safetensors", state)
    vae = WanVAE(preset.vae)
    forms.save(folder / "vae.safetensors", vae.state_dict())
    forms.save(folder / "text.safetensors", tiny_umt5.random_weights())
    tiny_umt5.write_tokenizer(folder / "tokenizer.json")
    tiny = forms.tiny_decoder(TinyNumbers(widths=preset.tiny_vae.widths))
    tiny["decoder.22.weight"] *= 30
    tiny["decoder.22.bias"][:] = 0.5                                  # else its pictures are black
    forms.save(folder / "tiny.safetensors", tiny)


def a_picture(width: int = 80, height: int = 60, channel: int = 2) -> bytes:
    """A PNG whose left half is red, or of another of BGR."""
    import cv2
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[:, :width // 2, channel] = 220
    return cv2.imencode(".png", picture)[1].tobytes()
