"""The checkpoint gate: what was saved comes back, and nothing else gets in."""
import hashlib
import json
import os
import random
import shutil
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from turbo_engine.distill.pocket import load_vae, save_vae
from turbo_engine.errors import WeightsError
from turbo_engine.models.config import DiTConfig, VAEConfig
from turbo_engine.models.dit import DiT
from turbo_engine.models.vae import VAE
from turbo_engine.weights import (
    fill,
    load_weights,
    manifest_path,
    read_manifest,
    row_quantization_error,
    save_weights,
    shapes_of,
)
from turbo_engine.weights.pocket import dequantize_rows, is_row_matrix, quantize_rows

CONFIG = DiTConfig(dim=72, num_heads=2, num_layers=1, ffn_dim=96, in_channels=4, out_channels=4, prediction="velocity", patch_size=(1, 2, 2),
                   text_dim=64, text_len=8, freq_dim=32, time_max_freq=1.0, rope_theta=100.0, eps=1e-6)


@pytest.fixture(scope="module")
def model() -> DiT:
    torch.manual_seed(0)
    model = DiT(CONFIG).init_weights()
    for parameter in model.parameters():                       # some start at zero, where damage would not show
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def original(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("weights") / "student.safetensors"
    save(path, model)
    return path


@pytest.fixture
def saved(tmp_path, original):
    """A copy that a test may spoil."""
    shutil.copy(manifest_path(original), tmp_path)
    return shutil.copy(original, tmp_path / original.name)


def save(path, model, role="student"):
    return save_weights(path, model.state_dict(), role=role, config=asdict(CONFIG), metrics={"loss": 0.25}, commit="abc123",
                        rows_8bit=True)


def refused(path, match, role="student", shapes=None, model=None):
    with pytest.raises(WeightsError, match=match) as caught:
        load_weights(path, role, shapes or shapes_of(DiT(CONFIG)))
    message = str(caught.value)
    assert "\n" not in message and path.stem in message and "expected" in message and "found" in message and ";" in message
    return message


def test_round_trip(saved, model):
    loaded = load_weights(saved, "student", shapes_of(model))
    assert set(loaded) == set(model.state_dict())
    for key, exact in model.state_dict().items():
        assert loaded[key].dtype == torch.float32 and loaded[key].shape == exact.shape
        if is_row_matrix(key, exact):
            step = exact.abs().amax(1, keepdim=True) / 127
            assert ((loaded[key] - exact).abs() <= 1.3 * step).all(), key
        else:
            assert torch.equal(loaded[key], exact.half().float()), key
    copy = fill(DiT(CONFIG), saved, "student")
    assert all(torch.equal(a, loaded[k]) for k, a in copy.state_dict().items())


def test_manifest_tells_everything(saved, model):
    manifest = read_manifest(saved)
    assert manifest["role"] == "student" and manifest["commit"] == "abc123" and manifest["metrics"] == {"loss": 0.25}
    assert manifest["config"] == {**asdict(CONFIG), "patch_size": [1, 2, 2]}
    assert manifest["row_quantization_error"] == row_quantization_error(model.state_dict())
    data = saved.read_bytes()
    assert manifest["bytes"] == len(data) and manifest["sha256"] == hashlib.sha256(data).hexdigest()
    stored = load_file(saved)
    assert set(manifest["tensors"]) == set(stored)
    assert stored["blocks.0.ffn.0.weight"].dtype == torch.int8
    assert stored["blocks.0.ffn.0.weight_scale"].shape == (CONFIG.ffn_dim,)
    assert stored["blocks.0.ffn.0.bias"].dtype == torch.float16
    assert manifest["tensors"]["blocks.0.ffn.0.weight"] == {"shape": [96, 72], "dtype": "I8"}


def test_saving_twice_gives_the_same_bytes(tmp_path, model):
    first, second = save(tmp_path / "a.safetensors", model), save(tmp_path / "b.safetensors", model)
    assert first["sha256"] == second["sha256"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.safetensors", "b.json", "b.safetensors"]


def test_autoencoder_halves(tmp_path):
    """Each half in its file, convolutions as 8-bit output channels; the latent statistics lie with the decoder, in float16."""
    config = VAEConfig(latent_channels=8, encoder_widths=(16, 32, 32), decoder_widths=(32, 24, 16), decoder_depths=(1, 1, 1))
    torch.manual_seed(1)
    vae = VAE(config).init_weights()
    vae.latent_mean.normal_(), vae.latent_std.uniform_(0.5, 2)
    save_vae(vae, tmp_path, {})
    back = load_vae(VAE(config), tmp_path)
    assert torch.equal(back.latent_mean, vae.latent_mean.half().float())
    for half in ("encoder", "decoder"):
        stored, exact = (getattr(model, half).stem.weight for model in (back, vae))
        assert 0 < (stored - exact).norm() / exact.norm() < 0.01
    assert load_file(tmp_path / "encoder.safetensors")["encoder.stem.weight_scale"].shape == (16,)
    assert torch.equal(load_vae(VAE(config, encoder=False), tmp_path).decoder.out.weight, back.decoder.out.weight)


# -- 8-bit rows ------------------------------------------------------------------------------------------------------

def test_clipping_search_beats_the_largest_value():
    """Against plain rounding by each row's maximum: never worse in any row, better in all together."""
    torch.manual_seed(2)
    weight = torch.randn(64, 256, dtype=torch.float64)
    step = weight.abs().amax(1, keepdim=True) / 127
    plain = ((weight / step).round() * step - weight).square().sum(1)
    ours = (dequantize_rows(*quantize_rows(weight)).double() - weight).square().sum(1)
    assert (ours <= plain * (1 + 1e-9)).all() and ours.sum() < 0.999 * plain.sum()


def test_rows_of_zeros_and_of_one_value():
    weight = torch.zeros(3, 64)
    weight[1] = -0.25
    weight[2, 5] = 1e-6
    back = dequantize_rows(*quantize_rows(weight))
    torch.testing.assert_close(back, weight, rtol=1e-6, atol=0)


def test_reported_loss_is_the_loss(model):
    report = row_quantization_error(model.state_dict())
    matrices = {k: v for k, v in model.state_dict().items() if is_row_matrix(k, v)}
    assert report["matrices"] == len(matrices)
    energy = sum(v.double().square().sum() for v in matrices.values())
    lost = sum((v.double() - dequantize_rows(*quantize_rows(v)).double()).square().sum() for v in matrices.values())
    assert report["rows_8bit"] == pytest.approx((lost / energy).sqrt().item(), rel=1e-3)
    assert 0 < report["float16"] < report["rows_8bit"] < report["worst"] < 0.02 and report["worst_key"] in matrices


# -- what is refused -------------------------------------------------------------------------------------------------

def test_missing_and_folder(tmp_path, saved):
    refused(tmp_path / "absent.safetensors", "expected a weights file, found none")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path / "folder.safetensors", "found a folder")
    manifest_path(saved).unlink()
    refused(saved, "expected the manifest of student.safetensors, found none")


@pytest.mark.parametrize("content, match", [
    (b"", "an empty file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16284612\n", "a git-lfs pointer; .*git lfs pull"),
    (b"\n <!DOCTYPE html><html><body>404</body></html>", "a web page saved under this name"),
    (b"<html><head>", "a web page"),
    (b"PK\x03\x04" + b"\0" * 64, "a pickled checkpoint, which can run code"),
    (b"\x80\x02}q\x00.", "a pickled checkpoint"),
    (b"\x10", "1 bytes of something else"),
    (b"\xff" * 64, "64 bytes of something else"),
    (b"\x08\0\0\0\0\0\0\0not json", "16 bytes of something else"),
    (b"\x08\0\0\0\0\0\0\0{ot json", "found unreadable text"),
    (b"\x02\0\0\0\0\0\0\0[]", "10 bytes of something else"),
    (b"\x0d\0\0\0\0\0\0\0{\"a\": {\"b\":1}}"[:8 + 13], "unreadable text"),
])
def test_foreign_files(saved, content, match):
    saved.write_bytes(content)
    refused(saved, match)


def test_a_header_length_is_no_pickle(saved):
    """A header of 640 bytes begins as a pickle does, 80 02: it was refused as one."""
    data = saved.read_bytes()
    length = int.from_bytes(data[:8], "little")
    longer = (length + 256) // 65536 * 65536 + 65536 + 0x0280
    saved.write_bytes(longer.to_bytes(8, "little") + data[8:8 + length] + b" " * (longer - length) + data[8 + length:])
    refused(saved, "damaged or replaced")                       # the manifest's turn: the container is sound


def test_truncated_anywhere(saved):
    """200 cuts: the class of message is right each time, and none takes long enough to notice."""
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(0)
    cuts = {1, 7, 8, 9, header - 1, header, header + 1, len(data) - 1, *(rng.randrange(1, len(data)) for _ in range(192))}
    for cut in cuts:
        saved.write_bytes(data[:cut])
        match = "something else" if cut < 8 else "it is cut short" if cut != len(data) else None
        message = refused(saved, match)
        assert f"{cut:,}" in message


def test_appended_and_zeroed(saved):
    data = saved.read_bytes()
    saved.write_bytes(data + b"\0" * 16)
    refused(saved, "something was appended to it")
    saved.write_bytes(data[:-4096] + b"\0" * 4096)
    refused(saved, "damaged or replaced")


def test_every_flipped_bit_is_found(saved):
    """The container alone accepts any flip in its data (measured: 500 of 500); the hash does not."""
    data = bytearray(saved.read_bytes())
    rng = random.Random(1)
    for _ in range(300):
        byte, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[byte] ^= bit
        saved.write_bytes(data)
        refused(saved, "expected")
        data[byte] ^= bit
    saved.write_bytes(data)
    load_weights(saved, "student", shapes_of(DiT(CONFIG)))


def test_mutated_headers(saved):
    """Edits inside the header text, digits above all: offsets, shapes, lengths. Refused, never a crash or a big allocation."""
    data = bytearray(saved.read_bytes())
    length = int.from_bytes(data[:8], "little")
    rng = random.Random(2)
    for _ in range(300):
        mutant = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            at = 8 + rng.randrange(length)
            mutant[at] = rng.choice(b'0123456789{}[]":,-eE\x00\xff')
        if mutant == data:
            continue
        saved.write_bytes(mutant)
        refused(saved, "expected")
    for claimed in (0, 1, length - 1, length + 1, 2 ** 31, 2 ** 63, 2 ** 64 - 1):
        saved.write_bytes(claimed.to_bytes(8, "little") + data[8:])
        refused(saved, "expected")


def test_roles_cannot_be_swapped(tmp_path, model):
    """Teacher and student have one shape: only the role tells them apart, renamed with or without the manifest."""
    save(tmp_path / "student.safetensors", model), save(tmp_path / "teacher.safetensors", model, role="teacher")
    assert load_weights(tmp_path / "teacher.safetensors", "teacher", shapes_of(model))
    refused(tmp_path / "teacher.safetensors", "expected the student's weights, found the role 'teacher'")
    refused(tmp_path / "student.safetensors", "expected the teacher's weights, found the role 'student'", role="teacher")
    shutil.copy(tmp_path / "teacher.safetensors", tmp_path / "student.safetensors")
    refused(tmp_path / "student.safetensors", "expected the student's weights, found the role 'teacher'")
    shutil.copy(tmp_path / "teacher.json", tmp_path / "student.json")
    refused(tmp_path / "student.safetensors", "expected the student's weights, found the role 'teacher'")


def test_other_sizes_and_other_models(saved):
    shapes = shapes_of(DiT(CONFIG))
    wide = dict(shapes, **{"blocks.0.ffn.0.weight": (128, 72)})
    refused(saved, r"blocks.0.ffn.0.weight: expected shape \[128, 72\], found \[96, 72\]; .*another size", shapes=wide)
    more = dict(shapes, **{"blocks.1.norm3.weight": (72,)})
    refused(saved, r"found none named 'blocks.1.norm3.weight' \(1 missing\)", shapes=more)
    fewer = {k: v for k, v in shapes.items() if k != "head.modulation"}
    refused(saved, "found one more named 'head.modulation'", shapes=fewer)
    refused(saved, "these are another model's weights", shapes={"weight": (3, 3)})


def test_manifest_must_agree(saved):
    manifest, path = read_manifest(saved), manifest_path(saved)
    for change, match in (
        ({"sha256": "0" * 64}, "damaged or replaced"), ({"bytes": 1}, "damaged or replaced"), ({"format": 2}, "expected format 1"),
        ({"role": "teacher"}, "found the role 'teacher'"), ({"tensors": {}}, "expected the tensors its manifest lists"),
    ):
        path.write_text(json.dumps({**manifest, **change}))
        refused(saved, match)
    for text in ("", "[]", "{}", "{\"role\": \"student\"}", "\x00"):
        path.write_text(text)
        refused(saved, "manifest")


def test_foreign_safetensors(tmp_path, saved):
    """A sound file by another tool: no role inside."""
    save_file({"weight": torch.zeros(3, 3)}, saved)
    refused(saved, "found the role None")


def test_saving_refuses_bad_values(tmp_path):
    for value in (float("nan"), float("inf"), 1e30):
        linear = nn.Linear(64, 2)
        with torch.no_grad():
            linear.bias[1] = value
        with pytest.raises(WeightsError, match="bias: expected values that fit float16, found NaN, infinity"):
            save_weights(tmp_path / "x.safetensors", linear.state_dict(), role="student", config={}, metrics={}, commit="x",
                         rows_8bit=True)
    for kind in ({"role": "pupil"}, {"path": tmp_path / "x.pth"}):
        with pytest.raises(ValueError, match="expected"):
            save_weights(**{"path": tmp_path / "x.safetensors", "role": "student", **kind}, state_dict={}, config={}, metrics={},
                         commit="x", rows_8bit=True)
    with pytest.raises(TypeError):                             # a config that is not JSON-ready, found before a file is touched
        save_weights(tmp_path / "x.safetensors", {}, role="student", config={"a": {1}}, metrics={}, commit="x", rows_8bit=True)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(saved, model, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(saved, model)
    assert saved.read_bytes() == before and sorted(p.suffix for p in saved.parent.iterdir()) == [".json", ".safetensors"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0 and not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_unreadable(tmp_path, model):
    path = tmp_path / "student.safetensors"
    path.write_bytes(b"x")
    path.chmod(0)
    root = os.geteuid() == 0
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    try:
        if root:
            os.seteuid(65534)
        refused(path, "expected a readable file, found: Permission denied")
    finally:
        if root:
            os.seteuid(0)
