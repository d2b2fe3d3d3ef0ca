"""The engine on Wan presets, from files in the published forms: what it makes, what it says, what it refuses."""
import dataclasses
import shutil
import weakref

import numpy as np
import pytest
import torch
from tiny_wan import I2V, a_picture, write_wan_preset

from turbo_engine.accelerate import Techniques
from turbo_engine.engine import Engine
from turbo_engine.errors import RequestError, TurboError, WeightsError
from turbo_engine.families import wan
from turbo_engine.models.dit import DiT
from turbo_engine.models.fused_dit import FusedDiT
from turbo_engine.models.linear8 import Linear8
from turbo_engine.models.umt5 import UMT5
from turbo_engine.parts import take_stock
from turbo_engine.picture import cover, read_picture
from turbo_engine.plan import ALL_STAYS, GIB, choose, plans
from turbo_engine.presets import load_preset
from turbo_engine.types import Preview, Progress, Request
from weights import forms


@pytest.fixture(scope="module")
def t2v(tmp_path_factory):
    return Engine(write_wan_preset(tmp_path_factory.mktemp("wan")), device="cpu", threads=2).load()


@pytest.fixture(scope="module")
def i2v(tmp_path_factory):
    return Engine(write_wan_preset(tmp_path_factory.mktemp("wan"), I2V), device="cpu", threads=2).load()


def last(engine, request):
    *_, result = engine.generate(request)
    return result


@pytest.mark.parametrize("mode, steps", [("turbo", 4), ("full", 6)])
def test_text_to_video(t2v, mode, steps):
    request = Request("a cat", 3, mode)
    events = list(t2v.generate(request))
    result = events[-1]
    assert result.frames.shape == (9, 64, 64, 3) and result.latent.shape == (16, 3, 8, 8)
    assert sum(isinstance(e, Progress) and e.stage == "denoise" for e in events) == steps
    assert next(e for e in events if isinstance(e, Preview)).frames.shape == (5, 64, 64, 3)
    assert np.array_equal(last(t2v, request).frames, result.frames)
    assert not np.array_equal(last(t2v, Request("a dog", 3, mode)).latent, result.latent)
    assert result.recipe["nfe"] == (steps if mode == "turbo" else 2 * steps)
    assert set(result.recipe["weights"]) == {"turbo", "full", "vae", "text encoder", "tiny vae"}
    assert last(t2v, Request("a cat", 3, mode, num_frames=5, width=96)).frames.shape == (5, 64, 96, 3)


def test_turbo_shows_the_tiny_decoders_picture_and_decode_the_full_ones(t2v):
    turbo, full = last(t2v, Request("a cat", 3)), last(t2v, Request("a cat", 3, "full"))
    assert not np.array_equal(t2v.decode(turbo.latent), turbo.frames) and t2v.decode(turbo.latent).shape == turbo.frames.shape
    assert np.abs(t2v.decode(full.latent).astype(int) - full.frames).max() <= 1        # the kept latent is rounded to float32


def test_turbo_runs_sparse_attention_with_its_own_projection(t2v, monkeypatch):
    import kernels
    before, calls = last(t2v, Request("a cat", 3)).latent, []
    original = kernels.sparse_linear_attention
    monkeypatch.setattr(kernels, "sparse_linear_attention", lambda *a, **k: calls.append(k) or original(*a, **k), raising=False)
    assert np.array_equal(last(t2v, Request("a cat", 3)).latent, before)
    assert len(calls) == 4 * 2 and calls[0] == {"density": 0.5, "block_q": 16, "block_k": 16, "pv": None}
    calls.clear()
    last(t2v, Request("a cat", 3, "full"))
    assert not calls
    network = t2v._family._networks["turbo"]
    with torch.no_grad():
        network.blocks[0].self_attn.attn_op.local_attn.proj_l.bias.add_(1)
    assert not np.array_equal(last(t2v, Request("a cat", 3)).latent, before)
    with torch.no_grad():
        network.blocks[0].self_attn.attn_op.local_attn.proj_l.bias.sub_(1)


def test_the_negative_prompt_of_the_preset_is_used_where_a_request_has_none(t2v):
    clip = last(t2v, Request("a cat", 3, "full")).latent
    assert np.array_equal(last(t2v, Request("a cat", 3, "full", negative_prompt="bad")).latent, clip)
    assert not np.array_equal(last(t2v, Request("a cat", 3, "full", negative_prompt="dog")).latent, clip)


def test_image_to_video_by_two_experts(i2v):
    picture = a_picture()
    events = list(i2v.generate(Request("a cat", 3, image=picture)))
    experts = [e.expert for e in events if isinstance(e, Progress) and e.stage == "denoise"]
    assert experts == ["high-noise 1/2", "high-noise 2/2", "low-noise 1/2", "low-noise 2/2"]
    assert np.array_equal(last(i2v, Request("a cat", 3, image=picture)).frames, events[-1].frames)
    assert not np.array_equal(last(i2v, Request("a cat", 3, image=a_picture(channel=0))).latent, events[-1].latent)
    assert len(events[-1].recipe["image_sha256"]) == 64
    full = [e.expert for e in i2v.generate(Request("a cat", 3, "full", image=picture)) if isinstance(e, Progress) and e.stage == "denoise"]
    assert full[0].startswith("high-noise 1/") and full[-1].startswith("low-noise") and len(full) == 6


def test_pictures_are_asked_for_where_they_are_needed_and_refused_elsewhere(t2v, i2v):
    with pytest.raises(RequestError, match="image: expected a picture to start from"):
        i2v.generate(Request("a cat"))
    with pytest.raises(RequestError, match="image: expected none"):
        t2v.generate(Request("a cat", image=a_picture()))
    for data, says in ((b"<svg/>", "another kind of file"), (a_picture()[:40], "cannot be read"), (b"\x89PNG\r\n\x1a\n" + bytes(40 << 20), "at most 32 MiB")):
        with pytest.raises(RequestError, match=says):
            last(i2v, Request("a cat", image=data))
    assert last(i2v, Request("a cat", image=a_picture())).frames.any()


def test_pictures_are_turned_and_cropped_never_stretched():
    import cv2
    picture = read_picture(a_picture(80, 60))
    assert picture.shape == (60, 80, 3) and tuple(picture[0, 0]) == (220, 40, 40)
    assert cover(picture, 64, 64).shape == (60, 60, 3) and cover(picture, 128, 32).shape == (20, 80, 3)
    upright = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"       # one tag: turned by 90 degrees
    turned = upright[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + upright[2:]
    assert read_picture(turned).shape == (80, 60, 3)


def test_what_is_missing_is_named_and_turbo_alone_is_enough_for_turbo(tmp_path):
    path = write_wan_preset(tmp_path)
    folder, preset = tmp_path / "tiny-wan2.1", load_preset(path)
    assert set(take_stock(preset, folder).files.networks) == {"turbo", "full"}
    (folder / "full.safetensors").unlink()
    engine = Engine(path, device="cpu", threads=2).load()
    assert last(engine, Request("a cat")).frames.any()
    assert list(folder.glob("*/*.safetensors")) and take_stock(preset, folder).others == ()       # prompts kept there are no strangers
    with pytest.raises(RequestError, match="expected turbo, as the full network was not found"):
        last(engine, Request("a cat", mode="full"))
    (folder / "vae.safetensors").rename(tmp_path / "elsewhere")
    (folder / "tokenizer.json").unlink()
    (folder / "broken.safetensors").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="expected the video autoencoder, tokenizer.json of") as caught:
        Engine(path, device="cpu").load()
    assert "--weights DIR" in str(caught.value) and "broken.safetensors" in str(caught.value)
    with pytest.raises(WeightsError, match="nowhere: expected the turbo network, video autoencoder, text encoder, tokenizer.json of .*found no checkpoint"):
        Engine(path, device="cpu", weights=tmp_path / "nowhere").load()


def test_one_expert_twice_is_refused(tmp_path):
    path = write_wan_preset(tmp_path, I2V)
    shutil.copy(tmp_path / "tiny-wan2.1" / "turbo-high.safetensors", tmp_path / "tiny-wan2.1" / "turbo-low.safetensors")
    with pytest.raises(WeightsError, match="same weights"):
        Engine(path, device="cpu").load()


@pytest.fixture
def one_at_a_time(monkeypatch):
    """Engines with room for one network alone, and for the text encoder in its place."""
    plan = dataclasses.replace(plans(load_preset("wan2.2-i2v-a14b-720p"))[-1], eight_bit=False, text_8bit=False, tile=None)
    assert plan.make_room and plan.networks == 1 and plan.text == "host"
    monkeypatch.setattr(wan, "_plan", lambda *_: plan)


def test_what_lies_on_the_device_when_one_network_fits(tmp_path, one_at_a_time, i2v, monkeypatch):
    """The text encoder worked beside the network that was to make room for it, and cards of 8 to 12 GiB ran out of memory."""
    made, moments = [], []

    def resident() -> int:
        return sum(network() is not None for network in made)

    original_network, original_encode = wan.Wan._accelerated, UMT5._in_place

    def made_network(self, name, model):
        moments.append((name, resident()))                     # before it takes the place
        network = original_network(self, name, model)
        made.append(weakref.ref(network))
        return network

    def encode(self):
        moments.append(("text", resident()))
        return original_encode(self)

    monkeypatch.setattr(wan.Wan, "_accelerated", made_network)
    monkeypatch.setattr(UMT5, "_in_place", encode)
    engine, told, signs = Engine(write_wan_preset(tmp_path, I2V), device="cpu", threads=2), [], []
    engine.load(lambda state, line: told.append(line))
    assert "Reading the turbo high-noise network" in told and "Warming up" in told
    told.clear()
    engine.alive = lambda: signs.append(0)
    requests = [Request(prompt, 3, mode, image=a_picture()) for prompt in ("a cat", "a dog") for mode in ("turbo", "full")]
    clips = [last(engine, request).frames for request in requests]
    assert told == [] and len(signs) > 100                     # reading a network again shows life to the worker, and no loading to the page
    names = [name for name, _ in moments]
    assert names.count("text") == 4 and names.count("turbo high-noise") >= 2 and names.count("full low-noise") >= 2    # warm-up, cat, bad, dog
    assert [count for _, count in moments] == [0] * len(moments) and resident() == 1
    assert all(np.array_equal(clip, last(i2v, request).frames) for clip, request in zip(clips, requests))
    assert engine.describe()["live_pauses"] and not i2v.describe()["live_pauses"]


def test_weights_in_eight_bits_make_nearly_the_same_clips(tmp_path, t2v, monkeypatch):
    monkeypatch.setattr(wan, "_plan", lambda *_: dataclasses.replace(ALL_STAYS, eight_bit=True, text_8bit=True))
    engine = Engine(write_wan_preset(tmp_path), device="cpu", threads=2).load()
    network = engine._family._networks["turbo"]
    layers = [module for module in network.modules() if isinstance(module, Linear8)]
    assert len(layers) == 10 * 2 and not any(type(module) is torch.nn.Linear for module in network.blocks[0].ffn)
    for mode in ("turbo", "full"):
        exact, rounded = (last(e, Request("a cat", 3, mode)).latent for e in (t2v, engine))
        error = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
        assert 1e-5 < error < 0.1, error
    assert "linear: weights in int8" in engine.describe()["kernels"]


@pytest.mark.parametrize("eight_bit", [False, True])
def test_fast_networks_make_nearly_the_same_clips(tmp_path, i2v, monkeypatch, eight_bit):
    """What a GPU is given, by the kernels' torch meaning: 8-bit products and fused glue for turbo, glue alone for full, both experts."""
    monkeypatch.setattr(wan, "techniques_for", lambda device, mode: Techniques(linear="int8" if mode == "turbo" else None, fused=True))
    monkeypatch.setattr(wan, "_plan", lambda *_: dataclasses.replace(ALL_STAYS, eight_bit=eight_bit))
    engine = Engine(write_wan_preset(tmp_path, I2V), device="cpu", threads=2).load()
    assert isinstance(engine._family._networks["turbo low-noise"], FusedDiT)
    calls = []
    for mode in ("turbo", "full"):
        request = Request("a cat", 3, mode, image=a_picture())
        plain, *_, fast = last(i2v, request).latent, *engine.generate(request, give_way=lambda: calls.append(mode))
        error = np.linalg.norm(plain - fast.latent) / np.linalg.norm(plain)
        assert (0 if mode == "full" and not eight_bit else 1e-5) <= error < (1e-4 if mode == "full" and not eight_bit else 0.15), (mode, error)
    assert calls.count("turbo") > 4 * 2 and calls.count("full") > 12 * 2                            # it gives way between blocks
    kernels = engine.describe()["kernels"]
    assert any(line.startswith("turbo linear layers: int8") for line in kernels) and any(line.startswith("full between products") for line in kernels)


def test_int8_files_stay_int8_in_memory_and_mean_what_their_blocks_say(tmp_path):
    path = write_wan_preset(tmp_path)
    folder, preset = tmp_path / "tiny-wan2.1", load_preset(path)
    stored, exact = forms.quantised(DiT(preset.dit).init_weights().state_dict(), preset.dit)
    forms.save(folder / "turbo.safetensors", stored)
    quantised = Engine(path, device="cpu", threads=2).load()
    layer = quantised._family._networks["turbo"].blocks[0].ffn[0]
    assert isinstance(layer, Linear8) and layer.blocks and torch.equal(layer.int8_weight, stored["blocks.0.ffn.0.int8_weight"])
    assert torch.equal(layer._weight(torch.float32), exact["blocks.0.ffn.0.weight"])
    clip = last(quantised, Request("a cat", 3)).latent
    forms.save(folder / "turbo.safetensors", {key: t for key, t in stored.items() if not key.endswith(("int8_weight", "scale"))}
               | {key: t.bfloat16() for key, t in exact.items()})
    plain = last(Engine(path, device="cpu", threads=2).load(), Request("a cat", 3)).latent
    assert np.linalg.norm(clip - plain) / np.linalg.norm(plain) < 0.05                    # bf16 rounds what the blocks say


def test_plans_fall_with_the_memory_and_too_little_is_refused_with_numbers():
    for name in ("wan2.1-t2v-1.3b-480p", "wan2.1-t2v-14b-480p", "wan2.2-i2v-a14b-720p"):
        preset = load_preset(name)
        ways = plans(preset)
        assert [w.networks for w in ways] == sorted((w.networks for w in ways), reverse=True)
        for way in ways:
            assert choose(preset, way.needed).needed <= way.needed
        least = min(way.needed for way in ways)
        with pytest.raises(TurboError, match=rf"memory: expected {least / GIB:.1f} GiB for {name}"):
            choose(preset, least - 1)
