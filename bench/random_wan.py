"""A Wan preset's tensors at true size from a generator on the device: honest speed and memory without a file, no quality at all."""
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from turbo_engine.parts import network_names, tiny_numbers
from turbo_engine.presets import Preset
from turbo_engine.types import MODES
from turbo_engine.weights.architecture import BLOCK, Numbers, is_block_linear, is_norm, shapes_of_numbers

Pairs = Iterator[tuple[str, Tensor]]


class RandomWan:
    """See `WanWeights`. quant: linear layers as int8 blocks, as in TurboDiffusion's -quant files. Its tokenizer goes into `folder`."""

    prompts = None

    def __init__(self, preset: Preset, folder: Path, *, quant: bool = False):
        self._preset, self._quant = preset, quant
        self.networks = tuple(name for mode in MODES for name in network_names(preset, mode))
        self.packed = frozenset(name for name in self.networks if quant and name.startswith("turbo"))
        self.has_tiny = preset.tiny_vae is not None
        self.named = dict.fromkeys((*self.networks, "vae", "text encoder", *(["tiny vae"] if self.has_tiny else [])), "random numbers")
        self.tokenizer = _write_tokenizer(folder / "tokenizer.json")

    def network(self, name: str, device: torch.device, dtype: torch.dtype) -> Pairs:
        for key, tensor in self._tensors(self._preset.dit, device, dtype, sla=name.startswith("turbo"), seed=self.networks.index(name)):
            if name in self.packed and is_block_linear(key):
                stem, (rows, columns) = key.removesuffix("weight"), tensor.shape
                yield stem + "int8_weight", torch.randint(-128, 128, (rows, columns), dtype=torch.int8, device=device)
                yield stem + "scale", torch.full((-(-rows // BLOCK), -(-columns // BLOCK)), columns ** -0.5 / 74, device=device)
            else:
                yield key, tensor.float() if is_norm(key) else tensor              # as released

    def vae(self, device: torch.device, dtype: torch.dtype) -> Pairs:
        yield from self._tensors(self._preset.vae, device, dtype, seed=10)

    def tiny_vae(self, device: torch.device, dtype: torch.dtype) -> Pairs:
        for key, tensor in self._tensors(tiny_numbers(self._preset), device, dtype, seed=11):
            yield key, tensor if key != "decoder.22.bias" else torch.full_like(tensor, 0.5)        # else its pictures are black

    def text_encoder(self, device: torch.device, dtype: torch.dtype) -> Pairs:
        place = torch.device("cuda") if torch.cuda.is_available() else device                       # made there, wherever it waits
        yield from self._tensors(self._preset.umt5, place, dtype, seed=12)

    @staticmethod
    def _tensors(numbers: Numbers, device: torch.device, dtype: torch.dtype, *, seed: int, sla: bool = False) -> Pairs:
        generator = torch.Generator(device).manual_seed(seed)
        for key, shape in shapes_of_numbers(numbers, sla=sla).items():
            noise = torch.randn(shape, generator=generator, device=device, dtype=dtype)
            if key.endswith("gamma") or "norm" in key and key.endswith("weight"):
                yield key, noise.mul_(0.3).add_(1)
            elif len(shape) > 1 and "modulation" not in key:
                yield key, noise.mul_(noise[0].numel() ** -0.5)
            else:
                yield key, noise.mul_(0.3)


def _write_tokenizer(path: Path) -> Path:
    """Letters, with umT5's marks: a prompt has a token a letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz,.-'")]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path.write_text(json.dumps(json.loads(tokenizer.to_str())))
    return path
