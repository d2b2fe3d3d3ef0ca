"""umT5 as an encoder of prompts: cleaning, padding, 8 bits, the cache, what is refused. Its numbers: tests/parity."""
import gc
import html
import os
import random
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_umt5 import CONFIG, random_weights, write_tokenizer

import kernels
from turbo_engine.errors import TurboError, WeightsError
from turbo_engine.models.linear8 import Linear8
from turbo_engine.models.prompt_cache import PromptCache
from turbo_engine.models.umt5 import UMT5, clean_prompt
from turbo_engine.presets import list_presets, load_preset

PROMPTS = ["a cat", "a dog, a cat and a long tail of words beyond the end", ""]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("umt5") / "tokenizer.json")


def build(tokenizer, **options) -> UMT5:
    return UMT5(CONFIG, random_weights().items(), tokenizer, **{"text_len": 16, "device": "cpu", "dtype": torch.float32, **options})


@pytest.mark.parametrize("text, clean", [
    ("  a  cat\n\ton a mat ", "a cat on a mat"), ("rock &amp;amp; roll", "rock & roll"), ("&lt;b&gt;", "<b>"),
    ("schÃ¶n", "schön"), ("a\u00a0cat", "a cat"), ("", "")])
def test_cleaning(text, clean):
    assert clean_prompt(text) == clean


def test_text_that_does_without_ftfy_comes_out_as_with_it():
    ftfy, rng = pytest.importorskip("ftfy"), random.Random(0)
    letters = [*map(chr, (*range(9, 127), *range(0x4e00, 0x9fff, 97), *range(0xff01, 0xff5f))), "&amp;", "＆amp；", "\x1b[1m", "ï¼Œ", "schÃ¶n"]
    for _ in range(3000):
        text = "".join(rng.choices(letters, k=rng.randrange(12)))
        assert clean_prompt(text) == " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()), text
    everything = "".join(map(chr, range(0x4e00, 0xa000)))
    assert ftfy.fix_text(everything) == everything == clean_prompt(everything)


def test_the_presets_prompts_and_english_need_no_ftfy(monkeypatch):
    """The GPU machine had no ftfy, and the engine could not even be imported there."""
    texts = ["a cat, black & white", *(load_preset(name).full.negative_prompt for name in list_presets())]
    expected = [clean_prompt(text) for text in texts]
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert [clean_prompt(text) for text in texts] == expected and any("，" in text for text in texts)
    with pytest.raises(TurboError, match="prompt: expected the package ftfy for letters beyond .* pip install ftfy"):
        clean_prompt("schön")


def test_zero_beyond_the_end(tokenizer):
    encoder = build(tokenizer)
    states = encoder.encode(PROMPTS)
    assert states.shape == (3, 16, CONFIG.dim) and states.dtype == torch.float32
    for row, prompt in zip(states, PROMPTS):
        length = min(encoder.num_tokens(prompt), 16)
        assert row[length:].abs().sum() == 0 and row[:length].abs().amax(1).min() > 0
    assert encoder.num_tokens(PROMPTS[1]) > 16 and encoder.num_tokens("") == 1
    assert encoder._ids(PROMPTS[1])[-1] == 1                   # a prompt cut short still ends


def test_eight_bits_are_near(tokenizer):
    exact, packed = build(tokenizer), build(tokenizer, eight_bit=True)
    layers = [module for module in packed._model.modules() if isinstance(module, Linear8)]
    assert len(layers) == 7 * CONFIG.num_layers and all(layer.int8_weight.dtype == torch.int8 for layer in layers)
    assert not [module for module in packed._model.modules() if type(module) is torch.nn.Linear]
    one, two = exact.encode(PROMPTS), packed.encode(PROMPTS)
    assert 1e-4 < ((one - two).norm() / one.norm()).item() < 0.03


def test_rows_in_eight_bits():
    weight = torch.randn(5, 70) * torch.tensor([1.0, 1e-3, 50.0, 0.0, 1.0])[:, None]
    packed, scale = kernels.quantize_rows(weight, format="int8", backend="torch")
    assert packed.dtype == torch.int8 and packed.abs().amax(1).tolist() == [127, 127, 127, 0, 127]
    assert ((packed * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("eight_bit", [False, True])
def test_weights_wait_on_the_cpu(tokenizer, eight_bit):
    """Between prompts nothing of the encoder is left on the device, and the states are those of an encoder that stays."""
    options = {"device": "cuda", "dtype": torch.bfloat16, "eight_bit": eight_bit}
    expected = build(tokenizer, **options).encode(PROMPTS)
    gc.collect()
    waits = build(tokenizer, idle="cpu", **options)
    before = torch.cuda.memory_allocated()
    states = waits.encode(PROMPTS)
    assert torch.equal(states, expected)
    assert torch.cuda.memory_allocated() - before == states.untyped_storage().nbytes()


# -- the cache -------------------------------------------------------------------------------------------------------

def counted(encoder: UMT5) -> list[list[str]]:
    calls, original = [], encoder._encode
    encoder._encode = lambda prompts: calls.append(prompts) or original(prompts)
    return calls


def test_a_prompt_is_read_once(tokenizer, tmp_path):
    """Also by the next process; but not from another precision, and not where it is not to be remembered."""
    first = build(tokenizer, cache=PromptCache(tmp_path), name="w")
    states = first.encode(PROMPTS)
    again = build(tokenizer, cache=PromptCache(tmp_path), name="w")
    calls = counted(again)
    assert torch.equal(again.encode([f"  {PROMPTS[0]} ", *PROMPTS[1:]]), states) and calls == []
    again.encode(["a dog", PROMPTS[0], "a dog"])
    again.encode(["a dog"], remember=False)
    assert calls == [["a dog"], ["a dog"]]
    for options in ({"name": "other"}, {"eight_bit": True}, {"dtype": torch.bfloat16}, {"text_len": 15}):
        stranger = build(tokenizer, cache=PromptCache(tmp_path), **{"name": "w", **options})
        calls = counted(stranger)
        stranger.encode([PROMPTS[0]])
        assert calls == [[PROMPTS[0]]]
    assert not any(b"cat" in path.read_bytes() for path in tmp_path.iterdir())


def test_the_least_used_go_first(tmp_path):
    states = torch.zeros(4, 8)
    cache = PromptCache(tmp_path)
    for age, prompt in enumerate(["old", "older but used", "new"]):
        cache.put("r", prompt, states)
        os.utime(cache._path("r", prompt), (age, age))
    assert cache.get("r", "older but used") is not None and cache.get("r", "unknown") is None
    size = cache._path("r", "new").stat().st_size
    PromptCache(tmp_path, max_bytes=2 * size).put("r", "newest", states)
    assert [cache.get("r", prompt) is not None for prompt in ("old", "older but used", "new", "newest")] == [False, True, False, True]


def test_a_damaged_cache_costs_time_only(tokenizer, tmp_path):
    encoder = build(tokenizer, cache=PromptCache(tmp_path), name="w")
    states = encoder.encode([PROMPTS[0]])
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    assert torch.equal(encoder.encode([PROMPTS[0]]), states)
    (tmp_path / "file").write_text("")
    assert torch.equal(build(tokenizer, cache=PromptCache(tmp_path / "file"), name="w").encode([PROMPTS[0]]), states)


# -- what is refused -------------------------------------------------------------------------------------------------

def test_other_tokenizers_are_refused(tokenizer, tmp_path):
    with pytest.raises(WeightsError, match="text encoder: expected umT5's tokenizer.json in .*, found none"):
        build(tmp_path / "tokenizer.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(WeightsError, match="expected umT5's tokenizer, found an unreadable file"):
        build(tmp_path / "broken.json")
    with pytest.raises(WeightsError, match="expected a tokenizer that ends a prompt with </s>"):
        build(write_tokenizer(tmp_path / "endless.json", end=False))
    small = SimpleNamespace(**{**CONFIG.__dict__, "vocab_size": 20})
    with pytest.raises(WeightsError, match="expected 20 tokens at most, found 39"):
        UMT5(small, random_weights().items(), tokenizer, text_len=16, device="cpu", dtype=torch.float32)


def test_other_weights_are_refused(tokenizer):
    weights = random_weights()
    weights["encoder.final_layer_norm.weight"] = torch.ones(23)
    with pytest.raises(RuntimeError, match="final_layer_norm"):
        UMT5(CONFIG, weights.items(), tokenizer, text_len=16, device="cpu", dtype=torch.float32)
