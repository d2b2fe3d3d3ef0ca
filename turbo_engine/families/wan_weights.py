"""Where a Wan family's tensors come from: files in the published forms. `bench` has another source, random numbers."""
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from turbo_engine.families import Tell
from turbo_engine.parts import network_names, take_stock, tiny_numbers
from turbo_engine.presets import Preset
from turbo_engine.weights import Identity, check_experts, check_twins, open_checkpoint

Pairs = Iterator[tuple[str, Tensor]]
"""Our key and its tensor, one at a time, so that no more than one lies beside what is filled with them."""


class WanWeights(Protocol):
    """A preset's tensors.

    networks: names of those that can be opened, "turbo" and "full", with " high-noise" and " low-noise" where there are two.
    packed: those whose linear layers come as int8 blocks, `X.int8_weight` and `X.scale`. named: by part, what it is, for recipes.
    tokenizer: umT5's. prompts: folder for what was read, None: none is kept. has_tiny: whether there is a preview decoder.
    """

    networks: tuple[str, ...]
    packed: frozenset[str]
    named: dict[str, str]
    tokenizer: Path
    prompts: Path | None
    has_tiny: bool

    def network(self, name: str, device: torch.device, dtype: torch.dtype) -> Pairs: ...
    def vae(self, device: torch.device, dtype: torch.dtype) -> Pairs: ...
    def tiny_vae(self, device: torch.device, dtype: torch.dtype) -> Pairs: ...
    def text_encoder(self, device: torch.device, dtype: torch.dtype) -> Pairs: ...


class FromFiles:
    """See `WanWeights`. Every file is checked whole, by its header, before the first tensor is read.

    Raises: WeightsError for what is missing, wrong or broken.
    """

    has_tiny = False

    def __init__(self, preset: Preset, folder: Path, tell: Tell, alive: Callable[[], None] = lambda: None):
        self._preset, self._tell, self._alive = preset, tell, alive
        self._files = files = take_stock(preset, folder).files
        self.networks = tuple(files.networks)
        self.packed = frozenset(name for name, identity in files.networks.items() if identity.quantised)
        self.tokenizer, self.prompts, self.has_tiny = files.tokenizer, folder / ".prompts", files.tiny_vae is not None
        self.named = {name: f"{identity.path.name}, {identity.bytes} bytes" for name, identity in self._parts()}
        for part in (files.vae, preset.vae), (files.text_encoder, preset.umt5), (files.tiny_vae, tiny_numbers(preset)):
            if part[0] is not None:
                open_checkpoint(part[0].path, part[1]).__exit__()
        self._check_networks()

    def _parts(self) -> Iterable[tuple[str, Identity]]:
        yield from self._files.networks.items()
        yield from (("vae", self._files.vae), ("text encoder", self._files.text_encoder))
        if self.has_tiny:
            yield "tiny vae", self._files.tiny_vae

    def _check_networks(self) -> None:
        with ExitStack() as stack:
            opened = {name: stack.enter_context(self._open(name)) for name in self.networks}
            if self._preset.experts is None:
                return
            pairs = [[opened[name] for name in network_names(self._preset, mode)] for mode in ("turbo", "full")
                     if network_names(self._preset, mode)[0] in opened]
            for high, low in pairs:
                check_experts(high, low)
            if len(pairs) == 2:
                check_twins(*pairs)

    def _open(self, name: str):
        mode, _, expert = name.partition(" ")
        return open_checkpoint(self._files.networks[name].path, self._preset.dit, kind=mode, expert=expert)

    def network(self, name: str, device: torch.device, dtype: torch.dtype) -> Pairs:
        with self._open(name) as checkpoint:
            yield from checkpoint.tensors(device, dtype, dequantise=False, progress=self._bar(f"the {name} network"))

    def vae(self, device: torch.device, dtype: torch.dtype) -> Pairs:
        yield from self._read(self._files.vae, self._preset.vae, "the video autoencoder", device, dtype)

    def tiny_vae(self, device: torch.device, dtype: torch.dtype) -> Pairs:
        yield from self._read(self._files.tiny_vae, tiny_numbers(self._preset), "the preview decoder", device, dtype)

    def text_encoder(self, device: torch.device, dtype: torch.dtype) -> Pairs:
        yield from self._read(self._files.text_encoder, self._preset.umt5, "the text encoder", device, dtype)

    def _read(self, identity: Identity, numbers, what: str, device: torch.device, dtype: torch.dtype) -> Pairs:
        with open_checkpoint(identity.path, numbers) as checkpoint:
            yield from checkpoint.tensors(device, dtype, progress=self._bar(what))

    def _bar(self, what: str):
        """Told every tenth of what is large."""
        told = -1
        self._tell(f"Reading {what}")

        def progress(done: int, total: int) -> None:
            nonlocal told
            self._alive()
            tenth = 10 * done // max(total, 1)
            if total > 1 << 30 and told < tenth < 10:
                told = tenth
                self._tell(f"Reading {what}, {done / 1e9:.1f} of {total / 1e9:.1f} GB")
        return progress
