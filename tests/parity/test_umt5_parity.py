"""umT5 against transformers' own use of it, and against its formulas written out in float64."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peers import diffusers, relative_error
from tiny_umt5 import CONFIG, random_weights, write_tokenizer

from turbo_engine.models.umt5 import UMT5

PROMPTS = ["a cat", "  a dog &amp; a cat,\n and a long tail of words beyond the end", "&lt;a&gt; schÃ¶n", ""]
TEXT_LEN = 24


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return UMT5(CONFIG, random_weights().items(), write_tokenizer(tmp_path_factory.mktemp("umt5") / "tokenizer.json"), text_len=TEXT_LEN,
                device="cpu", dtype=torch.float32)


def test_as_wans_pipeline_reads_a_prompt(encoder):
    """diffusers' cleaning, transformers' tokenizer and encoder, padded to the full length and masked."""
    diffusers()
    from diffusers import WanPipeline
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel
    from transformers import UMT5Config as Settings

    model = UMT5EncoderModel(Settings(
        vocab_size=CONFIG.vocab_size, d_model=CONFIG.dim, d_kv=CONFIG.head_dim, d_ff=CONFIG.ffn_dim, num_layers=CONFIG.num_layers,
        num_heads=CONFIG.num_heads)).eval()
    model.load_state_dict(random_weights() | {"encoder.embed_tokens.weight": random_weights()["shared.weight"]})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=encoder.tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    pipeline = SimpleNamespace(tokenizer=tokenizer, text_encoder=model, _execution_device="cpu")
    with torch.no_grad():
        expected = WanPipeline._get_t5_prompt_embeds(pipeline, PROMPTS, max_sequence_length=TEXT_LEN)
    assert relative_error(encoder.encode(PROMPTS), expected) < 1e-5


def formulas(weights: dict, ids: torch.Tensor, *, bias_of=None, scale: float = 1.0, gelu: str = "tanh") -> torch.Tensor:
    """One prompt's token ids [n] -> states [n, dim], float64."""
    w = {key: tensor.double() for key, tensor in weights.items()}

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.layer_norm.weight"]

    def bucket(distance: int) -> int:
        """16 buckets each way: 8 exact, 8 growing as the logarithm up to 128 tokens."""
        near, far = abs(distance), 16 if distance > 0 else 0
        return far + (near if near < 8 else min(15, 8 + int(math.log(near / 8) / math.log(128 / 8) * 8)))

    x = w["shared.weight"][ids]
    buckets = torch.tensor([[bucket(k - q) for k in range(len(ids))] for q in range(len(ids))])
    for n in range(CONFIG.num_layers):
        attention, ffn = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        h = norm(x, attention)
        q, k, v = ((h @ w[f"{attention}.SelfAttention.{name}.weight"].T).unflatten(-1, (CONFIG.num_heads, -1)).transpose(0, 1)
                   for name in "qkv")
        layer = n if bias_of is None else bias_of
        bias = w[f"encoder.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight"][buckets].permute(2, 0, 1)
        mixed = torch.softmax(scale * q @ k.transpose(1, 2) + bias, -1) @ v
        x = x + mixed.transpose(0, 1).flatten(1) @ w[f"{attention}.SelfAttention.o.weight"].T
        h = norm(x, ffn)
        gate, up = (h @ w[f"{ffn}.DenseReluDense.{name}.weight"].T for name in ("wi_0", "wi_1"))
        x = x + (F.gelu(gate, approximate=gelu) * up) @ w[f"{ffn}.DenseReluDense.wo.weight"].T
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w["encoder.final_layer_norm.weight"]


def long_prompt(encoder):
    """Cut at the full length, where distances reach the logarithmic buckets."""
    ids = encoder._ids("a cat and " * 9)
    return encoder.encode(["a cat and " * 9])[0], ids


def test_formulas(encoder):
    states, ids = long_prompt(encoder)
    assert len(ids) == TEXT_LEN and relative_error(states, formulas(random_weights(), ids)) < 1e-5


@pytest.mark.parametrize("wrong", [{"bias_of": 0}, {"scale": 8 ** -0.5}, {"gelu": "none"}], ids=["one bias for all layers", "scaled", "exact gelu"])
def test_a_wrong_encoder_is_found_out(encoder, wrong):
    states, ids = long_prompt(encoder)
    assert relative_error(states, formulas(random_weights(), ids, **wrong)) > 5e-5
