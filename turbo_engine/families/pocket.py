"""Our own model, shipped with the app: two networks of one shape, a small decoder, MiniLM."""
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from kernels.formats import int8_products
from turbo_engine.accelerate import Techniques, accelerate_for, techniques_for
from turbo_engine.denoiser import ContextCache, Denoiser
from turbo_engine.distill.world import load_world
from turbo_engine.families import Tell, denoiser_of
from turbo_engine.models.dit import DiT
from turbo_engine.models.fused_dit import forget_graphs
from turbo_engine.models.text_encoder import MiniLM
from turbo_engine.models.vae import VAE
from turbo_engine.presets import Preset
from turbo_engine.resolve import resolve
from turbo_engine.types import Mode, Request
from turbo_engine.vocabulary import Vocabulary
from turbo_engine.weights import fill, read_manifest
from turbo_engine.weights.architecture import projection_shapes

ROLE = {"turbo": "student", "full": "teacher"}


def pocket_techniques(device: torch.device, mode: Mode) -> Techniques:
    """8 bits where 576 tokens gain by them: on no card so far, but for turbo on a CPU with fast int8 products."""
    if mode == "turbo" and int8_products(device):
        return Techniques(linear="int8")
    return replace(techniques_for(device, mode), linear=None, sage=None, narrow_stream=False)


class Pocket:
    """See `Family`."""

    plan, live_pauses, patience_s = "", False, 0.0

    def __init__(self, preset: Preset, device: torch.device, dtype: torch.dtype, *, modes: tuple[Mode, ...],
                 between_blocks: Callable[..., None], tell: Tell, encoder: MiniLM | None):
        self.preset, self.device, self.dtype, self._modes = preset, device, dtype, modes
        tell("Reading the model's weights")
        networks = {role: fill(DiT(preset.dit), preset.weights_path(role), role, left_out=projection_shapes(preset.dit)) for role in map(ROLE.get, modes)}
        vae = fill(VAE(preset.vae, encoder=False), preset.weights_path("decoder"), "decoder")
        manifests = {role: read_manifest(preset.weights_path(role)) for role in (*networks, "decoder")}
        self.weights = {role: manifest["sha256"] for role, manifest in manifests.items()}
        self.method = manifests["student"]["metrics"].get("method", "") if "student" in manifests else ""
        tell("Reading the text encoder")
        text = preset.text
        self._encoder = encoder or MiniLM.installed(text_len=text.text_len, device=device, dtype=torch.float32)
        self._networks, self._fitted = {}, []
        for mode in modes:
            role = ROLE[mode]
            self._networks[role], fitted = accelerate_for(preset, self._place(networks[role]), pocket_techniques(device, mode), between_blocks)
            self._fitted += [f"{mode} {line}" for line in fitted]
        self._vae = self._place(vae).to(memory_format=torch.channels_last)
        for block in self._vae.decoder.children():
            for part in block if isinstance(block, nn.ModuleList) else (block,):
                part.register_forward_pre_hook(between_blocks)
        self._contexts = ContextCache(lambda text: self._encoder.encode([text]))
        world = load_world(preset.folder / text.vocabulary) if text.vocabulary else None
        self.vocabulary = Vocabulary(world, text_len=text.text_len, count_tokens=self._encoder.num_tokens, embed=self._meaning)

    @property
    def kernels(self) -> list[str]:
        library = "cuda" if self.device.type == "cuda" else "mkl" if torch.backends.mkl.is_available() else "native"
        convolution = "cudnn" if self.device.type == "cuda" else "onednn" if torch.backends.mkldnn.is_available() else "native"
        return ["attention: torch sdpa, dense", f"linear: torch {library}", *self._fitted, f"convolution: torch {convolution}, channels last"]

    def denoiser(self, request: Request) -> Denoiser:
        role = ROLE[request.mode]
        network, read = self._networks[role], self.vocabulary.read
        request = replace(request, prompt=read(request.prompt, request.seed), negative_prompt=read(request.negative_prompt))
        return denoiser_of(request, self.preset, network, lambda prompt: self._contexts.get(role, network, prompt))

    def decode(self, latent: Tensor, *, fast: bool) -> Iterator[Tensor]:
        yield self._vae.decode(latent)

    def warm_up(self) -> None:
        clip = self.preset.clip
        latent = torch.zeros(1, *self.preset.latent_shape(clip.num_frames, clip.height, clip.width), device=self.device)
        for mode in self._modes:
            self.denoiser(resolve(Request("warm-up", mode=mode), self.preset))(latent, 0.5)

    def make_room(self) -> None:
        forget_graphs(self._networks.values())

    def _place(self, model: nn.Module) -> nn.Module:
        return model.to(self.device, self.dtype).eval().requires_grad_(False)

    def _meaning(self, texts: list[str]) -> np.ndarray:
        """One vector a text: the mean of its token states, begin and end marks included."""
        states = self._encoder.encode(texts, remember=False)
        return (states.sum(1) / (states != 0).any(-1).sum(1, keepdim=True)).cpu().numpy()
