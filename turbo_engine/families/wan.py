"""The Wan family with TurboDiffusion's distilled networks, read from the files people have."""
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

import kernels
from turbo_engine.accelerate import accelerate_for, fit_sparse_attention, techniques_for
from turbo_engine.denoiser import ContextCache, Denoiser
from turbo_engine.errors import RequestError, WeightsError
from turbo_engine.families import denoiser_of, prompts_of
from turbo_engine.families.wan_weights import WanWeights
from turbo_engine.models.dit import DiT
from turbo_engine.models.experts import CountingDenoise, Experts
from turbo_engine.models.fast_decoder import speed_up_decoder, speed_up_tiny
from turbo_engine.models.first_frame import first_frame_condition
from turbo_engine.models.fused_dit import forget_graphs
from turbo_engine.models.linear8 import Linear8
from turbo_engine.models.prompt_cache import PromptCache
from turbo_engine.models.tiny_vae import TinyVAE
from turbo_engine.models.umt5 import UMT5
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.parts import network_names
from turbo_engine.picture import cover, read_picture
from turbo_engine.plan import ALL_STAYS, MemoryPlan, check_host, choose, host_free
from turbo_engine.presets import Preset
from turbo_engine.recent import Recent
from turbo_engine.types import Mode, Request
from turbo_engine.vocabulary import Vocabulary
from turbo_engine.weights import assign
from turbo_engine.weights.architecture import is_block_linear

PATIENCE_S = {"cuda": 180.0, "cpu": 1800.0}        # of a step of 14B at 720p on a slow card; of a block of it on a CPU
PROMPTS_KEPT = 64            # token states in host memory, 4 to 8 MB each
TINY_CHUNK = 3               # latent frames; 480p of them take 2.5 GiB, and 15 to 45 % less time than one by one


class Wan:
    """See `Family`."""

    def __init__(self, preset: Preset, weights: WanWeights, device: torch.device, dtype: torch.dtype, *,
                 modes: tuple[Mode, ...], between_blocks: Callable[..., None], alive: Callable[[], None]):
        self.preset, self.device, self.dtype, self._weights = preset, device, dtype, weights
        self._between = between_blocks
        self._modes = tuple(mode for mode in modes if network_names(preset, mode)[0] in weights.networks)
        if not self._modes:
            raise WeightsError(f"{preset.name}: expected the {modes[0]} network, found none beside the {weights.networks[0]} one; add its weights")
        self.memory = _plan(preset, weights, self._modes, device)
        self.plan, self.weights = self.memory.line, dict(weights.named)
        self.method = "rCM, by TurboDiffusion"
        self.patience_s = PATIENCE_S[device.type]
        self._networks: OrderedDict[str, nn.Module] = OrderedDict()
        self._fitted: dict[str, list[str]] = {}
        self._vae = self._filled(_empty(WanVAE, preset.vae), weights.vae(device, dtype))
        if device.type == "cuda":
            speed_up_decoder(self._vae)
        if self._vae.encoder is not None:
            self._vae.encoder.register_forward_pre_hook(lambda *_: alive())
        self._tiny = None
        if weights.has_tiny:
            self._tiny = self._filled(_empty(TinyVAE, preset.tiny_vae), weights.tiny_vae(device, dtype), leave_out=("encoder.*",))
            if device.type == "cuda":
                speed_up_tiny(self._tiny)
        self._encoder = self._open_encoder()
        self._states: Recent[str, Tensor] = Recent(PROMPTS_KEPT)
        prompt_bytes = 2 * preset.dit.num_layers * preset.text.text_len * preset.dit.dim * dtype.itemsize
        self._contexts = ContextCache(lambda prompt: self._states_of(prompt).to(device), max(2, self.memory.prompts // prompt_bytes))
        self._condition: tuple[tuple, Tensor] | None = None
        self.vocabulary = Vocabulary(None, text_len=preset.text.text_len, count_tokens=self._encoder.num_tokens)

    def _filled(self, model: nn.Module, tensors: Iterable[tuple[str, Tensor]], **options) -> nn.Module:
        return assign(model, tensors, **options).eval().requires_grad_(False)

    def _open_encoder(self) -> UMT5:
        idle = torch.device("cpu") if self.memory.text == "host" else self.device
        weights, preset = self._weights, self.preset
        cache = None if weights.prompts is None else PromptCache(weights.prompts)
        return UMT5(preset.umt5, weights.text_encoder(idle, self.dtype), weights.tokenizer, text_len=preset.text.text_len, device=self.device,
                    dtype=self.dtype, idle=idle, eight_bit=self.memory.text_8bit, cache=cache, name=weights.named["text encoder"],
                    make_room=self._let_go if self.memory.make_room else None)

    # -- networks ------------------------------------------------------------------------------------------------------

    @property
    def live_pauses(self) -> bool:
        """Whether turbo and full do not fit together: no preview can be made while a full render is under way."""
        names = [name for mode in self._modes for name in network_names(self.preset, mode)]
        return len(self._modes) == 2 and self.memory.networks < len(names)

    def _let_go(self) -> None:
        self._networks.clear()
        self._free()

    def _free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _network(self, name: str) -> nn.Module:
        """On the device, in place of the one not used for longest where the plan has no room for it beside the others."""
        if name not in self._networks:
            while len(self._networks) >= self.memory.networks:
                self._networks.popitem(last=False)
                self._free()
            model, sparse = _empty(DiT, self.preset.dit), self.preset.sparse
            if name.startswith("turbo") and sparse is not None:
                fit_sparse_attention(model, sparse)
            tensors, packed = self._weights.network(name, self.device, self.dtype), name in self._weights.packed
            if packed or self.memory.eight_bit:
                fit_linear8(model, blocks=packed)
                tensors = tensors if packed else in_rows(tensors)
            self._networks[name] = self._accelerated(name, self._filled(model, tensors))
        self._networks.move_to_end(name)
        return self._networks[name]

    def _accelerated(self, name: str, model: DiT) -> nn.Module:
        """With what this card does best."""
        mode = name.partition(" ")[0]
        techniques = techniques_for(self.device, mode)
        techniques = replace(techniques, graph=techniques.graph and self.memory.graphs)
        network, self._fitted[mode] = accelerate_for(self.preset, model, techniques, self._between)
        return network

    @property
    def kernels(self) -> list[str]:
        sparse = self.preset.sparse
        backend = "triton" if self.device.type == "cuda" else "torch"
        turbo = f"turbo attention: sparse-linear, {sparse.density:.0%} of {sparse.block_q}x{sparse.block_k} blocks, {backend}" if sparse else ""
        eight = "linear: weights in int8" if self.memory.eight_bit or self._weights.packed else ""
        fitted = [f"{mode} {line}" for mode, lines in self._fitted.items() for line in lines]
        decoder = ["full decoder: channels last, fused kernels"] if self.device.type == "cuda" else []
        return [*filter(None, [turbo, eight]), *fitted, *decoder, "full attention: torch sdpa, dense",
                f"preview decoder: {'taew2_1' if self._tiny else 'the full one'}"]

    # -- work ----------------------------------------------------------------------------------------------------------

    def denoiser(self, request: Request) -> CountingDenoise:
        if request.mode not in self._modes:
            raise RequestError("mode: expected turbo, as the full network was not found beside the turbo one, got full; add its weights")
        self._read_prompts(request)                            # before any network is at hand: it may have to make room
        condition = self._start(request) if self.preset.takes_image else None

        def open_network(name: str) -> Denoiser:
            network = self._network(name)
            return denoiser_of(request, self.preset, network, lambda prompt: self._contexts.get(name, network, prompt), condition,
                               together=False)

        if self.preset.experts is None:
            return open_network(request.mode)
        return Experts(lambda expert: open_network(f"{request.mode} {expert}"), self.preset.experts.boundary)

    def _read_prompts(self, request: Request) -> None:
        for prompt in filter(None, prompts_of(request, self.preset)):
            self._states_of(prompt)

    @torch.inference_mode()
    def _states_of(self, prompt: str) -> Tensor:
        return self._states.get(prompt, lambda: self._encoder.encode([prompt]).cpu())

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
            parts = self._tiny.decode_chunks(latent, chunk=TINY_CHUNK if self.memory.tile is None else 1)
        else:
            parts = self._vae.decode_chunks(latent, tile=self.memory.tile)
        for part in parts:
            self._between()
            yield part

    def warm_up(self) -> None:
        clip, mode = self.preset.clip, self._modes[0]
        rounding = (self.preset.turbo if mode == "turbo" else self.preset.full).rounding
        self._states_of("warm-up")
        shape = self.preset.latent_shape(clip.num_frames, clip.height, clip.width)
        latent = torch.zeros(1, *shape, device=self.device)
        condition = latent.new_zeros(1, self.preset.dit.condition_channels, *shape[1:]) if self.preset.takes_image else None
        for name in network_names(self.preset, mode)[:self.memory.networks]:
            network = self._network(name)
            Denoiser(network, self._contexts.get(name, network, "warm-up"), rounding=rounding, condition=condition)(latent, 0.5)

    def make_room(self) -> None:
        forget_graphs(self._networks.values())


def fit_linear8(model: DiT, *, blocks: bool) -> DiT:
    """Give every linear layer of the blocks that released files quantise its 8-bit form, before the weights are read into it."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and is_block_linear(f"{name}.weight")}
    for name, linear in linears.items():
        model.set_submodule(name, Linear8.like(linear, blocks=blocks))
    return model


def in_rows(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Those weights rounded to int8 with a scale for each output, as they come."""
    for key, tensor in tensors:
        if is_block_linear(key):
            stem = key.removesuffix("weight")
            packed, scale = kernels.quantize_rows(tensor, format="int8")
            yield from ((stem + "int8_weight", packed), (stem + "scale", scale))
        else:
            yield key, tensor


def _empty(kind: type, config) -> nn.Module:
    with torch.device("meta"):
        return kind(config)


def _plan(preset: Preset, weights: WanWeights, modes: tuple[Mode, ...], device: torch.device) -> MemoryPlan:
    """For the networks of these modes. Raises: TurboError where device or host have too little."""
    gpu, plan = device.type == "cuda", ALL_STAYS
    if gpu:
        free, whole = torch.cuda.mem_get_info(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * whole)      # where someone set a limit
        packed = frozenset(mode for mode in modes if weights.packed.issuperset(network_names(preset, mode)))
        plan = choose(preset, min(free, allowed), packed=packed, modes=modes)
    check_host(preset, plan, gpu=gpu, modes=modes, free=host_free())
    return plan
