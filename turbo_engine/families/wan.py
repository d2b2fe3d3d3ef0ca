"""The Wan family with TurboDiffusion's distilled networks, read from the files people have."""
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from turbo_engine.accelerate import fit_sparse_attention
from turbo_engine.denoiser import ContextCache, Denoiser
from turbo_engine.errors import RequestError
from turbo_engine.families import Tell, denoiser_of
from turbo_engine.models.dit import DiT
from turbo_engine.models.experts import CountingDenoise, Experts
from turbo_engine.models.first_frame import first_frame_condition
from turbo_engine.models.prompt_cache import PromptCache
from turbo_engine.models.tiny_vae import TinyVAE
from turbo_engine.models.umt5 import UMT5
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.parts import WanFiles, network_names, take_stock, tiny_numbers
from turbo_engine.picture import cover, read_picture
from turbo_engine.plan import ALL_STAYS, MemoryPlan, choose
from turbo_engine.presets import Preset
from turbo_engine.types import Request
from turbo_engine.vocabulary import Vocabulary
from turbo_engine.weights import Identity, check_experts, open_checkpoint

CONTEXT_BYTES = 2 << 30      # of keys and values of prompts kept on the device


class Wan:
    """See `Family`."""

    def __init__(self, preset: Preset, folder: Path, device: torch.device, dtype: torch.dtype, *, between_blocks: Callable[..., None],
                 tell: Tell):
        self.preset, self.device, self.dtype = preset, device, dtype
        self._between, self._tell = between_blocks, tell
        self.files = take_stock(preset, folder).files
        self._check_experts()
        self.memory = _plan(preset, device)
        self.plan = self.memory.line
        self.weights = {name: _named(identity) for name, identity in self._parts(self.files)}
        self.method = "rCM, by TurboDiffusion"
        self._networks: OrderedDict[str, DiT] = OrderedDict()
        tell("Reading the video autoencoder")
        with open_checkpoint(self.files.vae.path, preset.vae) as checkpoint:
            self._vae = self._filled(checkpoint, WanVAE, preset.vae)
        self._tiny = None
        if self.files.tiny_vae is not None:
            with open_checkpoint(self.files.tiny_vae.path, tiny_numbers(preset)) as checkpoint:
                self._tiny = self._filled(checkpoint, TinyVAE, preset.tiny_vae, leave_out=("encoder.*",))
        tell("Reading the text encoder")
        self._encoder = self._open_encoder(folder)
        prompt_bytes = 2 * preset.dit.num_layers * preset.text.text_len * preset.dit.dim * dtype.itemsize
        self._contexts = ContextCache(lambda prompt: self._encoder.encode([prompt]), max(4, CONTEXT_BYTES // prompt_bytes))
        self._condition: tuple[tuple, Tensor] | None = None
        self.vocabulary = Vocabulary(None, text_len=preset.text.text_len, count_tokens=self._encoder.num_tokens)
        for name in network_names(preset, "turbo"):
            self._network(name)

    def _parts(self, files: WanFiles) -> Iterator[tuple[str, Identity]]:
        yield from files.networks.items()
        yield from (("vae", files.vae), ("text encoder", files.text_encoder))
        if files.tiny_vae is not None:
            yield "tiny vae", files.tiny_vae

    def _check_experts(self) -> None:
        for mode in ("turbo", "full") if self.preset.experts is not None else ():
            names = [name for name in network_names(self.preset, mode) if name in self.files.networks]
            if len(names) == 2:
                with self._opened(names[0]) as high, self._opened(names[1]) as low:
                    check_experts(high, low)

    def _opened(self, name: str):
        mode, _, expert = name.partition(" ")
        return open_checkpoint(self.files.networks[name].path, self.preset.dit, kind=mode, expert=expert)

    def _filled(self, checkpoint, kind: type, config, **options) -> torch.nn.Module:
        with torch.device("meta"):
            model = kind(config)
        return checkpoint.load_into(model, self.device, self.dtype, **options).eval().requires_grad_(False)

    def _open_encoder(self, folder: Path) -> UMT5:
        with open_checkpoint(self.files.text_encoder.path, self.preset.umt5) as checkpoint:
            weights = dict(checkpoint.tensors("cpu", self.dtype))
        idle = torch.device("cpu") if self.memory.text == "host" else None
        return UMT5(self.preset.umt5, weights, self.files.tokenizer, text_len=self.preset.text.text_len, device=self.device, dtype=self.dtype,
                    idle=idle, eight_bit=self.memory.text_8bit, cache=PromptCache(folder / "prompts"),
                    name=_named(self.files.text_encoder))

    def _network(self, name: str) -> DiT:
        """On the device, in place of the one not used for longest where the plan has no room for it beside the others."""
        if name not in self._networks:
            while len(self._networks) >= self.memory.networks:
                self._networks.popitem(last=False)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            self._tell(f"Reading the {name} network")
            with torch.device("meta"):
                model = DiT(self.preset.dit)
            sparse = self.preset.sparse if name.startswith("turbo") else None
            if self.files.networks[name].kind == "turbo" and sparse is not None:
                fit_sparse_attention(model, sparse)
            with self._opened(name) as checkpoint:
                checkpoint.load_into(model, self.device, self.dtype)
            for block in model.blocks:
                block.register_forward_pre_hook(self._between)
            self._networks[name] = model.eval().requires_grad_(False)
        self._networks.move_to_end(name)
        return self._networks[name]

    @property
    def kernels(self) -> list[str]:
        sparse = self.preset.sparse
        backend = "triton" if self.device.type == "cuda" else "torch"
        turbo = f"turbo attention: sparse-linear, {sparse.density:.0%} of {sparse.block_q}x{sparse.block_k} blocks, {backend}" if sparse else ""
        return [*filter(None, [turbo]), "full attention: torch sdpa, dense", f"preview decoder: {'taew2_1' if self._tiny else 'the full one'}"]

    def denoiser(self, request: Request) -> CountingDenoise:
        if request.mode == "full" and network_names(self.preset, "full")[0] not in self.files.networks:
            raise RequestError("mode: expected turbo, as the full network was not found beside the turbo one, got full; add its weights")
        condition = self._start(request) if self.preset.takes_image else None

        def open_network(name: str) -> Denoiser:
            network = self._network(name)
            return denoiser_of(request, self.preset, network, lambda prompt: self._contexts.get(name, network, prompt), condition)

        if self.preset.experts is None:
            return open_network(request.mode)
        return Experts(lambda expert: open_network(f"{request.mode} {expert}"), self.preset.experts.boundary)

    @torch.inference_mode()
    def _start(self, request: Request) -> Tensor:
        """What the first frame tells the network; kept until another picture or size comes."""
        size = request.num_frames, request.height, request.width
        key = request.image, *size
        if self._condition is None or self._condition[0] != key:
            picture = cover(read_picture(request.image), request.width, request.height)
            image = torch.from_numpy(picture.copy()).to(self.device).permute(2, 0, 1)[None] / 255
            self._condition = key, first_frame_condition(self._vae, image, *size, tile=self.memory.tile)
        return self._condition[1]

    @torch.inference_mode()
    def decode(self, latent: Tensor, *, fast: bool) -> Iterator[Tensor]:
        if fast and self._tiny is not None:
            parts = self._tiny.decode_chunks(latent)
        else:
            parts = self._vae.decode_chunks(latent, tile=self.memory.tile)
        for part in parts:
            self._between()
            yield part

    def warm_up(self) -> None:
        clip = self.preset.clip
        network = self._network(network_names(self.preset, "turbo")[-1])
        context = self._contexts.get("warm-up", network, "warm-up")
        shape = self.preset.latent_shape(clip.num_frames, clip.height, clip.width)
        latent = torch.zeros(1, *shape, device=self.device)
        condition = latent.new_zeros(1, self.preset.dit.condition_channels, *shape[1:]) if self.preset.takes_image else None
        Denoiser(network, context, rounding=self.preset.turbo.rounding, condition=condition)(latent, 0.5)


def _plan(preset: Preset, device: torch.device) -> MemoryPlan:
    return choose(preset, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else ALL_STAYS


def _named(identity: Identity) -> str:
    return f"{identity.path.name}, {identity.bytes} bytes"
