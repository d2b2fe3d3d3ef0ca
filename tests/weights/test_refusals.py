"""What is refused, and in which words: one line with the file, expected, found, and the way out."""
import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from forms import (
    DIT,
    TINY,
    UMT5,
    VAE,
    quantised,
    random_dit,
    raw_file,
    save,
    save_shards,
    tiny_decoder,
    turbo,
    umt5_wan,
    wan,
)
from safetensors.torch import load_file

from turbo_engine.errors import WeightsError
from turbo_engine.models.config import WanVAEConfig
from turbo_engine.weights import identify, open_checkpoint
from turbo_engine.weights.architecture import shapes_of_numbers

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EIGHT = bytes(8)


def refused(path, match, numbers=DIT, **wanted):
    with pytest.raises(WeightsError, match=match) as caught:
        open_checkpoint(path, numbers, **wanted)
    message = str(caught.value)
    assert "\n" not in message and path.name in message and "expected" in message and "found" in message and ";" in message
    assert len(message) < 1000
    return message


@pytest.fixture(scope="module")
def states():
    stored, _ = quantised(random_dit())
    umt5 = {key: torch.zeros(shape) for key, shape in shapes_of_numbers(UMT5).items()}
    vae = {key: torch.zeros(shape) for key, shape in shapes_of_numbers(VAE).items()}
    return {"turbo": turbo(random_dit()), "full": wan(random_dit()), "quant": stored, "vae": vae, "umt5": umt5, "umt5 of wan": umt5_wan(umt5),
            "tiny": tiny_decoder()}


NUMBERS = {"turbo": DIT, "full": DIT, "quant": DIT, "vae": VAE, "umt5": UMT5, "umt5 of wan": UMT5, "tiny": TINY}


@pytest.fixture(scope="module")
def files(tmp_path_factory, states):
    folder = tmp_path_factory.mktemp("forms")
    return {name: save(folder / f"{name.replace(' ', '-')}.safetensors", state) for name, state in states.items()}


# -- not safetensors -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, match", [
    (b"", "an empty file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16284612\n", "a git-lfs pointer; .*git lfs pull"),
    (b"\n <!DOCTYPE html><html><body>404</body></html>", "a web page"), (b'<?xml version="1.0"?><Error>', "a web page"),
    (b'{"error":"Repository not found"}', "a hub's error message"), (b"Entry not found", "a hub's error message"),
    (b"PK\x03\x04" + bytes(64), "a pickled checkpoint, which can run code; convert it once with: python -m turbo_engine.weights convert "),
    (b"\x80\x02}q\x00.", "a pickled checkpoint"), (b"GGUF\x03\0\0\0", "a GGUF file"), (b"\x1f\x8b\x08\0", "a compressed archive"),
    (bytes(4096), "nothing but zeros"), (b"\x10", "1 bytes of something else"), (b"\xff" * 64, "64 bytes of something else")])
def test_foreign(tmp_path, content, match):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = refused(path, match)
    assert "convert" not in match or str(path) in message


@pytest.mark.parametrize("header, data, match", [
    (b"[]", b"", "something else"), (b"{", b"", "unreadable text|header"), (b"{]" + b" " * 100, b"", "found"),
    ({"a": A, "b": {**A, "data_offsets": [4, 12]}}, bytes(12), "overlapping tensors before 'b'"),
    ({"a": A, "b": A}, EIGHT, "overlapping tensors before 'b'"),
    ({"a": A, "b": {**A, "data_offsets": [16, 24]}}, bytes(24), "a hole of 8 bytes before 'b'"),
    ({"a": {**A, "data_offsets": [8, 16]}}, bytes(16), "a hole of 8 bytes"),
    ({"a": {**A, "data_offsets": [-8, 0]}}, EIGHT, "'a' with a negative, fractional or absurd size"),
    ({"a": {**A, "shape": [-2]}}, EIGHT, "negative"), ({"a": {**A, "shape": [2.0]}}, EIGHT, "fractional"),
    ({"a": {**A, "shape": [True, 2]}}, EIGHT, "fractional"), ({"a": {**A, "shape": [1 << 60]}}, EIGHT, "absurd"),
    ({"a": {**A, "shape": [3]}}, EIGHT, r"'a' of F32 \[3\] in 8 bytes"), ({"a": {**A, "data_offsets": [8, 0]}}, EIGHT, "in -8 bytes"),
    ({"a": {**A, "dtype": "F33"}}, EIGHT, "unknown dtype 'F33'"), ({"a": {**A, "dtype": ["F32"]}}, EIGHT, "unknown dtype"),
    ({"a": {**A, "extra": 1}}, EIGHT, "without dtype, shape and data_offsets alone"), ({"a": None}, b"", "without dtype"),
    ({"a": {**A, "shape": "2"}}, EIGHT, "no lists"), ({"a": {**A, "shape": [1] * 9}}, EIGHT, "no lists"),
    (json.dumps({"a": A})[:-1].encode() + b', "a": {}}', EIGHT, "the key 'a' twice"),
    ({"a": A, "__metadata__": {"x": 1}}, EIGHT, "metadata that is not text"), ({"a": A, "__metadata__": "x"}, EIGHT, "metadata"),
    (b'{"a":' + b"[" * 100_000, b"", "unreadable text|header"),
    ({"a": A}, bytes(7), "it is cut short"), ({"a": A}, bytes(9), "something was appended"), ({}, b"", "no tensors")])
def test_broken_headers(tmp_path, header, data, match):
    refused(raw_file(tmp_path / "model.safetensors", header, data), match)


def test_header_larger_than_any(tmp_path):
    path = raw_file(tmp_path / "model.safetensors", b"{" + b" " * (9 << 20))
    refused(path, "expected a header of at most 8,388,608 bytes")
    refused(raw_file(path, {"a": A}, EIGHT, length=2 ** 63), "cut short")


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "absent.safetensors", "expected a weights file, found none")
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "a pipe, socket or device")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "no .safetensors file")
    shutil.copy("/bin/true", tmp_path / "folder" / "model.pth")
    message = refused(tmp_path / "folder", "the pickle model.pth, which can run code")
    assert f"python -m turbo_engine.weights convert {tmp_path / 'folder' / 'model.pth'}" in message


# -- the wrong model -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given", NUMBERS)
@pytest.mark.parametrize("wanted", ["turbo", "vae", "umt5", "tiny"])
def test_every_pair_of_roles(files, wanted, given):
    if type(NUMBERS[wanted]) is type(NUMBERS[given]):
        open_checkpoint(files[given], NUMBERS[wanted]).__exit__()
        return
    message = refused(files[given], "expected the (video transformer|video autoencoder|text encoder|tiny decoder), found the", NUMBERS[wanted])
    assert "it looks like" in message


@pytest.mark.parametrize("change, match", [
    ({"dim": 384}, "width 384, .*found width 192"), ({"num_layers": 3}, "layers 3, .*found .*layers 2"),
    ({"ffn_dim": 640}, "ffn 640, .*ffn 320"), ({"in_channels": 36}, "input channels 36, .*input channels 16"),
    ({"text_dim": 64}, r"text_embedding.0.weight: expected shape \[192, 64\], found \[192, 48\]"),
    ({"freq_dim": 64}, "time_embedding.0.weight: expected shape")])
def test_other_sizes_of_transformer(files, change, match):
    refused(files["turbo"], match, replace(DIT, **change))


def test_other_sizes_of_the_rest(files):
    refused(files["vae"], "width 96.*found width 8", replace(VAE, width=96))
    refused(files["vae"], "latent channels 48", WanVAEConfig(48, 8, (1, 2, 4, 4), (0.0,) * 48, (1.0,) * 48))
    refused(files["umt5"], "vocabulary 65, found .*vocabulary 64", replace(UMT5, vocab_size=65))
    refused(files["umt5 of wan"], "layers 3, .*layers 2", replace(UMT5, num_layers=3))
    refused(files["tiny"], "width 256, .*found width 16", replace(TINY, widths=(256, 128, 64, 64)))


def test_turbo_used_as_full_and_the_reverse(files):
    refused(files["turbo"], "expected the full model, found proj_l in its self-attention: .*name the original Wan weights", kind="full")
    refused(files["quant"], "expected the full model", kind="full")
    refused(files["full"], "expected the turbo model, found no proj_l .*name the TurboWan file", kind="turbo")


@pytest.mark.parametrize("key, words", [
    ("blocks.0.self_attn.q.lora_A.weight", "a LoRA"), ("img_emb.proj.0.weight", "image-to-video"), ("vace_blocks.0.x", "VACE"),
    ("model.diffusion_model.input_blocks.0.weight", "Stable Diffusion"), ("double_blocks.0.x", "FLUX"), ("text_model.x", "CLIP"),
    ("model.layers.0.mlp.weight", "a language model"), ("bert.encoder.layer.0.attention.x", "BERT"), ("anything", "1 tensors such as 'anything'")])
def test_other_families(tmp_path, key, words):
    refused(save(tmp_path / "model.safetensors", {key: torch.zeros(2)}), f"expected a checkpoint of the Wan family, found .*{words}")


def test_the_apps_own_weights(tmp_path):
    path = save(tmp_path / "student.safetensors", turbo(random_dit()), {"role": "student"})
    refused(path, "found this app's own student")


# -- nearly right ----------------------------------------------------------------------------------------------------

def edited(tmp_path, files, name, edit):
    state = load_file(files[name])
    edit(state)
    return save(tmp_path / "model.safetensors", state)


@pytest.mark.parametrize("name, edit, match", [
    ("turbo", lambda s: s.pop("blocks.1.norm3.bias"), r"none named 'blocks.1.norm3.bias' \(1 missing\)"),
    ("turbo", lambda s: s.update(stray=torch.zeros(1)), "one more named 'stray'"),
    ("turbo", lambda s: s.update({"blocks.0.norm3.bias": torch.zeros(191)}), r"blocks.0.norm3.bias: expected shape \[192\], found \[191\]"),
    ("turbo", lambda s: s.update({"blocks.0.norm3.bias": torch.zeros(192).bfloat16()}), "blocks.0.norm3.bias: expected F32, found BF16"),
    ("turbo", lambda s: s.update({"blocks.0.ffn.0.bias": torch.zeros(320)}), "blocks.0.ffn.0.bias: expected BF16, found F32"),
    ("full", lambda s: s.update({"blocks.0.ffn.0.bias": torch.zeros(320, dtype=torch.float64)}), "expected BF16 or F32 or F16, found F64"),
    ("full", lambda s: s.update({"blocks.0.ffn.0.bias": torch.zeros(320, dtype=torch.int32)}), "found I32"),
    ("full", lambda s: s.update({"blocks.0.self_attn.q.weight": torch.zeros(192, 192, dtype=torch.int8)}), "none named .*int8_weight|none named"),
    ("full", lambda s: s.update({"head.head.weight": s["head.head.weight"].to(torch.float8_e4m3fn)}), "found F8_E4M3"),
    ("full", lambda s: s.update({"patch_embedding.weight": torch.zeros(192, 16, 2, 1, 2)}), "patch_embedding.weight: expected shape"),
    ("quant", lambda s: s.pop("blocks.0.ffn.2.scale"), "none named 'blocks.0.ffn.2.scale'"),
    ("quant", lambda s: s.update({"blocks.0.ffn.2.scale": torch.ones(2, 2)}), r"expected shape \[2, 3\], found \[2, 2\]"),
    ("quant", lambda s: s.update({"blocks.0.ffn.2.scale": torch.ones(2, 3).half()}), "expected F32, found F16"),
    ("quant", lambda s: s["blocks.0.ffn.2.scale"].__setitem__((0, 1), float("nan")), "blocks.0.ffn.2.scale: expected finite scales from 0 up, found nan"),
    ("quant", lambda s: s["blocks.1.ffn.0.scale"].__setitem__((0, 1), float("inf")), "finite scales from 0 up, found inf"),
    ("quant", lambda s: s["blocks.1.ffn.0.scale"].__setitem__((0, 1), -1.0), "finite scales from 0 up, found -1"),
    ("quant", lambda s: s.update({"blocks.0.ffn.0.int8_weight": torch.zeros(320, 192, dtype=torch.uint8)}), "expected I8, found U8"),
    ("quant", lambda s: s.update({"blocks.0.ffn.0.weight": torch.zeros(320, 192)}), "one more named 'blocks.0.ffn.0.weight'"),
    ("umt5", lambda s: s.update({"encoder.embed_tokens.weight": torch.ones(64, 32)}), "expected one token table"),
    ("umt5", lambda s: s.pop("encoder.final_layer_norm.weight"), "1 missing"),
    ("vae", lambda s: s.update({"decoder.head.0.gamma": torch.zeros(8)}), "decoder.head.0.gamma: expected shape"),
    ("tiny", lambda s: s.pop("encoder.17.bias"), "none named 'encoder.17.bias'"),
    ("turbo", lambda s: s.update({"blocks.0._checkpoint_wrapped_module.norm3.bias": torch.zeros(192)}), "expected each tensor once"),
])
def test_edited(tmp_path, files, name, edit, match):
    refused(edited(tmp_path, files, name, edit), match, NUMBERS[name])


@pytest.mark.parametrize("name", ["turbo", "quant", "umt5 of wan", "vae", "tiny"])
def test_any_missing_or_added_key(tmp_path, files, name):
    """Each key taken away in turn (a few of each file), and each doubled under another name."""
    state = load_file(files[name])
    for key in list(state)[::max(1, len(state) // 6)]:
        less = {k: t for k, t in state.items() if k != key}
        with pytest.raises(WeightsError, match="expected"):
            open_checkpoint(save(tmp_path / "less.safetensors", less), NUMBERS[name])
        with pytest.raises(WeightsError, match="expected"):
            open_checkpoint(save(tmp_path / "more.safetensors", {**state, key + "x": state[key].clone()}), NUMBERS[name])


def test_truncated_anywhere(tmp_path, files):
    data = files["tiny"].read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    path = tmp_path / "model.safetensors"
    for cut in {1, 7, 8, 9, header - 1, header, header + 1, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:cut])
        refused(path, "something else" if cut < 8 else "it is cut short", TINY)


# -- shards ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path, states):
    return save_shards(tmp_path / "transformer", states["full"], 3)


def test_missing_shards(folder):
    refused(next(folder.glob("*-00002-*")), "expected a whole checkpoint, found shard 2 of 3; name its folder")
    next(folder.glob("*-00002-*")).unlink()
    refused(folder, "expected 3 shards, found 2, diffusion_pytorch_model-00002-of-00003.safetensors is missing")
    next(folder.glob("*.json")).unlink()
    refused(folder, "expected 3 shards, found 2, .*is missing")


def test_shards_of_two_checkpoints(folder, states):
    index = next(folder.glob("*.json"))
    table = json.loads(index.read_text())
    first = next(folder.glob("*-00001-*"))
    state = load_file(first)
    duplicate = next(key for key, name in table["weight_map"].items() if "-00002-" in name)
    save(first, {**state, duplicate: states["full"][duplicate]})
    refused(folder, "expected each tensor in one shard, found .* shards of two checkpoints are mixed")
    save(first, {**state, "stray": torch.zeros(1)})
    refused(folder, "expected the index's .* found one more, 'stray'")
    dropped = next(iter(state))
    save(first, {key: tensor for key, tensor in state.items() if key != dropped})
    refused(folder, f"expected '{dropped}' in .* found it in no shard")


@pytest.mark.parametrize("text, match", [
    ("", "unreadable text"), ("{}", "unreadable text"), ('{"weight_map": {}}', "no map"), ('{"weight_map": {"a": "../b.safetensors"}}', "no map"),
    ('{"weight_map": {"a": "/etc/b.safetensors"}}', "no map"), ('{"weight_map": {"a": "b.pth"}}', "no map"), ("[" * 9999, "unreadable|index")])
def test_broken_indexes(folder, text, match):
    index = next(folder.glob("*.json"))
    index.write_text(text)
    refused(folder, match)
    refused(index, match)


def test_ambiguous_folders(tmp_path, files, folder):
    shutil.copy(next(folder.glob("*.json")), folder / "model.safetensors.index.json")
    refused(folder, "found the indexes .* name the one to use")
    (tmp_path / "two").mkdir()
    for name in ("turbo", "full"):
        shutil.copy(files[name], tmp_path / "two")
    refused(tmp_path / "two", "expected one checkpoint, found full.safetensors and turbo.safetensors; name the file")
    assert identify(tmp_path / "two" / "turbo.safetensors").kind == "turbo"
