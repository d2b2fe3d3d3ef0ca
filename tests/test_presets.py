"""Presets and requests: what is wrong is refused by name, with the way out, before any work."""
import dataclasses
import subprocess
import sys

import pytest
from conftest import TINY

from turbo_engine.errors import PresetError, RequestError
from turbo_engine.presets import PRESETS_DIR, list_presets, load_preset
from turbo_engine.resolve import MAX_PROMPT, resolve
from turbo_engine.types import Request


@pytest.fixture
def write(tmp_path):
    def write(old: str = "", new: str = ""):
        assert old in TINY
        path = tmp_path / "mine.toml"
        path.write_text(TINY.replace(old, new, 1))
        return path
    return write


def test_shipped_presets_load():
    assert "pocket" in list_presets()
    for name in list_presets():
        assert load_preset(name).name == name and load_preset(load_preset(name).path) == load_preset(name)


def test_pocket_is_what_it_promises():
    pocket = load_preset("pocket")
    assert (pocket.clip.num_frames, pocket.clip.width, pocket.clip.height, pocket.clip.fps) == (33, 256, 256, 16)
    assert pocket.latent_shape(33, 256, 256) == (64, 9, 16, 16)
    assert pocket.weights_path("student").parent.name == "pocket"
    with pytest.raises(dataclasses.FrozenInstanceError):
        pocket.turbo.num_steps = 3


def test_reads_from_a_path(write):
    preset = load_preset(write())
    assert preset.name == "mine" and preset.folder.name == "mine" and preset.dit.patch_size == (1, 2, 2)


@pytest.mark.parametrize("old, new, message", [
    ("num_steps = 4", "num_step = 4", r"mine.toml \[turbo\]: unknown key 'num_step', known keys are num_steps, max_steps"),
    ("sigma_max = 80.0", "", r"mine.toml \[turbo\]: key 'sigma_max' is missing"),
    ("[turbo]", "[turb]", r"mine.toml: unknown section 'turb', known sections are clip, text"),
    ("[weights]", "[weights", "mine.toml: expected TOML"),
    ("sigma_max = 80.0", 'sigma_max = "80"', r"\[turbo\]: sigma_max: expected float, got '80'"),
    ("num_heads = 2", "num_heads = true", r"\[dit\]: num_heads: expected int, got True"),
    ("patch_size = [1, 2, 2]", "patch_size = [1, 2]", r"\[dit\]: patch_size: expected a list of 3 int, got \[1, 2\]"),
    ("num_frames = 9", "num_frames = 10", r"\[clip\]: num_frames: expected 4k \+ 1, got 10"),
    ("num_frames = 9", "num_frames = 21", r"\[clip\]: num_frames: expected 1 to max_num_frames = 17, got 21"),
    ('["64x64", "96x64"]', '["96x64"]', r"\[clip\]: sizes: expected the default 64x64"),
    ('["64x64", "96x64"]', '["64x64", "big"]', r"sizes: expected WIDTHxHEIGHT such as '256x256', got 'big'"),
    ('["64x64", "96x64"]', '["64x64", "80x64"]', r"clip.sizes: expected multiples of 32x32, got 80x64"),
    ('encoder = "minilm"', 'encoder = "t5"', r"\[text\]: encoder: expected one of minilm, umt5, got 't5'"),
    ("num_heads = 2", "num_heads = 5", r"\[dit\]: dim: expected an even multiple of num_heads = 5, got 48"),
    ("num_heads = 2", "num_heads = 0", r"mine.toml \[dit\]"),
    ("[16, 32, 32]", "[16, 24, 32]", r"\[vae\]: encoder_widths: expected each to divide 8 times the one before, got 16 then 24"),
    ("in_channels = 8", "in_channels = 12", r"dit.in_channels: expected 8, got 12"),
    ("in_channels = 8", "in_channels = 4", r"\[dit\]: in_channels: expected out_channels = 8 or more, got 4"),
    ("text_len = 16", "text_len = 20", r"dit.text_len: expected text.text_len = 20, got 16"),
    ('"fixed-noise"', '"unipc"', r"\[turbo\]: sampler: expected one of sde, fixed-noise, ode, got 'unipc'"),
    ("max_steps = 4", "max_steps = 8", r"\[turbo\]: max_steps: expected 1 to 4, got 8"),
    ("num_steps = 6", "num_steps = 61", r"\[full\]: num_steps: expected 1 to max_steps = 60, got 61"),
    ("preview_steps = [1]", "preview_steps = [0]", r"\[turbo\]: preview_steps: expected steps from 1 to 4, got \[0\]"),
    ("guidance_scale = 4.0", "guidance_scale = 0.5", r"\[full\]: guidance_scale: expected 1 or more, got 0.5"),
])
def test_refuses_by_name(write, old, new, message):
    with pytest.raises(PresetError, match=message):
        load_preset(write(old, new))


def test_refuses_unknown_names_and_paths(tmp_path):
    with pytest.raises(PresetError, match="preset: expected one of .*pocket.* or a .toml file, got 'pockett'"):
        load_preset("pockett")
    with pytest.raises(PresetError, match="expected one of"):
        load_preset(tmp_path / "absent.toml")
    with pytest.raises(PresetError, match="readable preset"):
        (tmp_path / "folder.toml").mkdir()
        load_preset(tmp_path / "folder.toml")


# -- requests --------------------------------------------------------------------------------------------------------

def test_blanks_are_filled_from_the_preset(write):
    preset = load_preset(write())
    turbo = resolve(Request("a cat"), preset)
    assert (turbo.num_steps, turbo.sampler, turbo.guidance_scale, turbo.preview_steps) == (4, "fixed-noise", 1.0, (1,))
    assert (turbo.num_frames, turbo.width, turbo.height) == (9, 64, 64)
    full = resolve(Request("a cat", mode="full"), preset)
    assert (full.num_steps, full.sampler, full.guidance_scale, full.preview_steps) == (6, "unipc", 4.0, (3,))
    assert None not in dataclasses.asdict(full).values()
    assert resolve(Request("a cat", num_steps=1), preset).preview_steps == ()       # the last step is the clip itself
    wide = resolve(Request("a cat", width=96, num_frames=17, seed=2 ** 63 - 1, guidance_scale=9), preset)
    assert (wide.width, wide.height, wide.num_frames) == (96, 64, 17) and wide.guidance_scale == 1.0


@pytest.mark.parametrize("blanks, message", [
    ({"prompt": ""}, "prompt: expected a few words, got none; try"),
    ({"prompt": " \t\n\u3000"}, "prompt: expected a few words, got none"),
    ({"prompt": "x" * (MAX_PROMPT + 1)}, "prompt: expected at most 2,000 characters, got 2,001; shorten it"),
    ({"prompt": "bad \udce9"}, "prompt: expected readable text, got a broken character at position 5"),
    ({"prompt": None}, "prompt: expected text, got NoneType"),
    ({"negative_prompt": "x" * 2_001}, "negative_prompt: expected at most"),
    ({"mode": "draft"}, "mode: expected turbo or full, got 'draft'"),
    ({"seed": -1}, "seed: expected a whole number from 0 to 9223372036854775807, got -1; try 0"),
    ({"seed": 2 ** 63}, "seed: expected"),
    ({"seed": 1.5}, "seed: expected"),
    ({"seed": True}, "seed: expected"),
    ({"num_frames": 8}, r"num_frames: expected 4k \+ 1, got 8; try 5 or 9"),
    ({"num_frames": 21}, "num_frames: expected a whole number from 1 to 17, got 21; try 9"),
    ({"num_frames": 0}, "num_frames: expected"),
    ({"width": 64, "height": 96}, "size: expected one of 64x64, 96x64, got 64x96; try 64x64"),
    ({"width": 0}, "size: expected"),
    ({"num_steps": 5}, "num_steps: expected a whole number from 1 to 4 in turbo mode, got 5; try 4"),
    ({"num_steps": 0}, "num_steps: expected"),
    ({"num_steps": 61, "mode": "full"}, "num_steps: expected a whole number from 1 to 60 in full mode"),
    ({"sampler": "unipc"}, "sampler: expected one of sde, fixed-noise, ode in turbo mode, got 'unipc'; try fixed-noise"),
    ({"sampler": "ode", "mode": "full"}, "sampler: expected one of unipc in full mode"),
    ({"guidance_scale": 0.0, "mode": "full"}, "guidance_scale: expected 1 to 20, got 0.0; try 4"),
    ({"guidance_scale": float("nan"), "mode": "full"}, "guidance_scale: expected 1 to 20, got nan"),
    ({"preview_steps": (5,)}, "preview_steps: expected a whole number from 1 to 4, got 5"),
])
def test_impossible_requests(write, blanks, message):
    with pytest.raises(RequestError, match=message) as caught:
        resolve(Request(**{"prompt": "a cat", **blanks}), load_preset(write()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["a cat", "🐧🐧", "пингвин", "鸟在飞", "x" * MAX_PROMPT, "a\x00b", "e\u0301"])
def test_any_text_is_a_prompt(write, prompt):
    assert resolve(Request(prompt), load_preset(write())).prompt == prompt


# -- the shop window -------------------------------------------------------------------------------------------------

def test_every_public_name_is_there():
    import turbo_engine

    assert turbo_engine.__all__ == sorted(turbo_engine.__all__) and set(turbo_engine.__all__) == set(turbo_engine._HOME)
    for name in turbo_engine.__all__:
        assert getattr(getattr(turbo_engine, name), "__name__", "Event") == name
        assert name in dir(turbo_engine)
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        turbo_engine.Engin  # noqa: B018


def test_looking_around_needs_no_torch():
    """The page, presets, vocabulary and the stand-in engine import without torch, transformers, OpenCV or PyAV."""
    code = ("import sys, turbo_engine as t; e = t.FakeEngine().load(); list(e.generate(t.Request('a cat'))); "
            "import turbo_engine.media; "
            "print([m for m in ('torch', 'transformers', 'cv2', 'av', 'gradio') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digests_of_published_files_are_of_files_that_a_preset_names(tmp_path):
    for name in list_presets():
        preset = load_preset(name)
        if preset.files is not None:
            files = preset.files
            assert set(files.sha256) <= {*files.turbo, *files.full, files.vae, files.text_encoder, files.tokenizer, files.tiny_vae}
            assert len(files.sha256) >= 3 and hash(preset)
    text = (PRESETS_DIR / "wan2.1-t2v-1.3b-480p.toml").read_text()
    for broken, says in ((text.replace("38071ab", "xyz"), "sha256: expected 64 hexadecimal digits for .*Wan2.1_VAE.pth"),
                         (text.replace("TurboDiffusion/TurboWan2.1-T2V-1.3B-480P/", ""), "files: expected OWNER/REPO/PATH or nothing, got 'TurboWan"),
                         (text.replace("Wan-AI/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth\"\ntext", "a/b/../x\"\ntext"), "expected OWNER/REPO/PATH or nothing"),
                         (text.replace('= "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981"', "= 5"), "sha256: expected a table of text")):
        (tmp_path / "x.toml").write_text(broken)
        with pytest.raises(PresetError, match=says):
            load_preset(tmp_path / "x.toml")
