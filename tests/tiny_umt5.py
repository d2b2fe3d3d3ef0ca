"""A umT5 narrow enough for every commit: random weights by transformers' names, and a tokenizer of its kind."""
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from turbo_engine.models.config import UMT5Config

CONFIG = UMT5Config(vocab_size=64, dim=24, ffn_dim=40, num_layers=2, num_heads=3, head_dim=8, num_buckets=32, max_distance=128)


def random_weights(config: UMT5Config = CONFIG, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of the encoder, norms included, at a working scale."""
    generator = torch.Generator().manual_seed(seed)
    inner, state = config.num_heads * config.head_dim, {}

    def add(name: str, *shape: int, mean: float = 0.0, std: float):
        state[name] = mean + std * torch.randn(shape, generator=generator)

    add("shared.weight", config.vocab_size, config.dim, std=1.0)
    for n in range(config.num_layers):
        attention, ffn = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        for name in "qkv":
            add(f"{attention}.SelfAttention.{name}.weight", inner, config.dim, std=0.5 * config.dim ** -0.5)
        add(f"{attention}.SelfAttention.o.weight", config.dim, inner, std=inner ** -0.5)
        add(f"{attention}.SelfAttention.relative_attention_bias.weight", config.num_buckets, config.num_heads, std=1.0)
        for name in ("wi_0", "wi_1"):
            add(f"{ffn}.DenseReluDense.{name}.weight", config.ffn_dim, config.dim, std=config.dim ** -0.5)
        add(f"{ffn}.DenseReluDense.wo.weight", config.dim, config.ffn_dim, std=config.ffn_dim ** -0.5)
        for part in (attention, ffn):
            add(f"{part}.layer_norm.weight", config.dim, mean=1.0, std=0.2)
    add("encoder.final_layer_norm.weight", config.dim, mean=1.0, std=0.2)
    return state


def write_tokenizer(path: Path, *, end: bool = True) -> Path:
    """A unigram tokenizer of letters and a few words, padding 0, end mark 1, as umT5's."""
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -1.0), ("▁cat", -1.0), ("▁dog", -1.0)]
    words += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz,.'&<>"]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=2))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))
    return path
