"""From a folder, a hub or nothing to a running preset: what is there, what is missing, how it comes, and what is said of it."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_wan import I2V, a_picture, write_wan_preset
from weights import forms
from weights.hub import REPO

from turbo_engine import __main__ as cli
from turbo_engine.errors import WeightsError
from turbo_engine.parts import prepare, take_stock, weights_folder, why_not_ready
from turbo_engine.presets import list_presets, load_preset
from turbo_engine.recipe_files import read_recipe

ROOT = Path(__file__).resolve().parents[1]
CONVERT = "python -m turbo_engine.weights convert"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def same_threads():
    """An engine sets them for the whole process, and the numbers of later tests are those of its threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def published(tmp_path, hub):
    """A preset whose parts are on the hub and nowhere else: pickles of the turbo network and the rest, the full one in shards.

    Returns: the .toml, the folder that has nothing yet."""
    toml = write_wan_preset(tmp_path)
    own = tmp_path / "tiny-wan2.1"
    for name, file in (("turbo", "turbo.pth"), ("vae", "vae.pth"), ("text", "text.pth"), ("tiny", "tiny.pth")):
        torch.save(load_file(own / f"{name}.safetensors"), own / file)
        hub.files[file] = (own / file).read_bytes()
    hub.files["tokenizer.json"] = (own / "tokenizer.json").read_bytes()
    for path in forms.save_shards(tmp_path / "shards", load_file(own / "full.safetensors"), 2).iterdir():
        hub.files[f"full/{path.name}"] = path.read_bytes()
    text = toml.read_text()
    for old, new in (("a/b/c\"]\nfull", "turbo.pth\"]\nfull"), ("a/b/c", "full/diffusion_pytorch_model.safetensors.index.json"), ("a/b/vae.pth", "vae.pth"),
                     ("a/b/text.pth", "text.pth"), ("a/b/tokenizer.json", "tokenizer.json"), ("a/b/tiny.pth", "tiny.pth")):
        assert old in text
        text = text.replace(old, f"{REPO}/{new}")
    toml.write_text(text)
    shutil.rmtree(own)
    return toml, tmp_path / "to"


def environment(hub, folder):
    return {**{k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
            "HF_HOME": str(folder / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "30", "OMP_NUM_THREADS": "1"}


def command(hub, toml, folder, *flags):
    argv = [sys.executable, "-m", "turbo_engine", "a cat", "--preset", str(toml), "--weights", str(folder), "--device", "cpu", "--threads", "1",
            "--out", str(toml.parent / "clip.mp4"), *flags]
    return subprocess.run(argv, cwd=ROOT, env=environment(hub, toml.parent), capture_output=True, text=True, timeout=240)


def test_from_an_empty_folder_to_a_clip(published, hub):
    """Listed, refused, fetched with a broken connection, resumed, converted, run; then nothing is asked of the hub again."""
    toml, folder = published
    refused = command(hub, toml, folder)
    assert refused.returncode == 2 and refused.stdout == "" and hub.asked == []
    *listed, line = refused.stderr.splitlines()
    assert [row.split()[0] for row in listed[1:]] == ["turbo", "full", "video", "text", "tokenizer.json", "preview"]
    assert f"missing, on the hub as {REPO}/turbo.pth, about 0.17 MB" in refused.stderr and "only turbo clips without it" in listed[2]
    assert re.search("expected the turbo network, video autoencoder, text encoder, tokenizer.json of tiny-wan2.1, found no checkpoint; .*--download", line)

    hub.break_at = 5000
    done = command(hub, toml, folder, "--download")
    assert done.returncode == 0, done.stderr
    assert {name for _, name, _ in hub.asked} == {"turbo.pth", "vae.pth", "text.pth", "tiny.pth", "tokenizer.json"}
    assert [method for method, *_ in hub.asked[:5]] == ["HEAD"] * 5                              # all sizes before the first byte
    assert done.stderr.index(f"{REPO}/turbo.pth: 0.00 GB") < done.stderr.index("turbo network  ")
    made = folder / "some-model"
    assert sorted(p.name for p in made.iterdir() if p.suffix == ".safetensors") == [f"{n}.safetensors" for n in ("text", "tiny", "turbo", "vae")]
    recipe = json.loads(done.stdout)
    assert recipe["weights"]["turbo"].startswith("turbo.safetensors, ") and read_recipe(toml.parent / "clip.mp4")["preset"] == "tiny-wan2.1"

    before = len(hub.asked)
    assert command(hub, toml, folder, "--mode", "full", "--steps", "2").returncode == 2         # no full network yet
    assert command(hub, toml, folder, "--download").returncode == 0 and len(hub.asked) == before
    done = command(hub, toml, folder, "--download-full", "--mode", "full", "--steps", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    assert {name for _, name, _ in hub.asked[before:]} == {name for name in hub.files if name.startswith("full/")}
    assert json.loads(done.stdout)["mode"] == "full" and command(hub, toml, folder).returncode == 0


def test_a_pickle_is_met_with_its_command_and_download_runs_it(published, hub):
    toml, folder = published
    (folder / "deep").mkdir(parents=True)
    for name in ("vae.pth", "text.pth", "tiny.pth", "turbo.pth", "tokenizer.json"):
        (folder / "deep" / name).write_bytes(hub.files[name])
    refused = command(hub, toml, folder)
    assert refused.returncode == 2 and hub.asked == []
    for name in ("vae", "text", "tiny", "turbo"):
        assert f"convert it once with: {CONVERT} {folder / 'deep' / name}.pth" in refused.stderr
    last = refused.stderr.splitlines()[-1]
    way = f"{CONVERT} {folder / 'deep' / 'turbo.pth'}"
    assert "found the pickle turbo.pth" in last and way in last
    assert subprocess.run([sys.executable, *way.split()[1:]], cwd=ROOT, capture_output=True, timeout=120).returncode == 0     # as it was told
    assert "turbo.safetensors: " in command(hub, toml, folder).stderr
    done = command(hub, toml, folder, "--download")
    assert done.returncode == 0 and hub.asked == [], done.stderr


def test_a_pickle_that_can_run_code_is_refused_where_it_is_converted(published, hub):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {folder / 'was-here'}",)

    toml, folder = published
    folder.mkdir()
    torch.save({"blocks.0.x": Evil()}, folder / "turbo.pth")
    done = command(hub, toml, folder, "--download")
    assert done.returncode == 2 and "weights_only refuses" in done.stderr.splitlines()[-1]
    assert not (folder / "was-here").exists() and not list(folder.glob("*.safetensors"))


@pytest.mark.parametrize("damage, says", [
    (lambda hub: hub.files.pop("vae.pth"), "someone/some-model/vae.pth: expected this file on the hub, found none"),
    (lambda hub: hub.digests.update({"vae.pth": "a" * 64}), "of another digest; it was removed, run it again"),
    (lambda hub: hub.refuse.update({"turbo.pth": (403, "GatedRepo")}), "asks for consent")])
def test_what_goes_wrong_on_the_way_is_one_line(published, hub, damage, says):
    toml, folder = published
    damage(hub)
    done = command(hub, toml, folder, "--download", "--quiet")
    assert done.returncode == 2 and done.stdout == "" and says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_part_that_nobody_publishes_is_said_to_be_missing(published, hub):
    toml, folder = published
    toml.write_text(toml.read_text().replace(f"{REPO}/vae.pth", ""))
    done = command(hub, toml, folder, "--download")
    assert done.returncode == 2 and "video autoencoder  missing, and not published" in done.stderr
    assert "expected the video autoencoder of tiny-wan2.1" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_picture_from_the_command_line(tmp_path, capsys):
    toml, out = write_wan_preset(tmp_path, I2V), tmp_path / "clip.mp4"
    (tmp_path / "start.png").write_bytes(a_picture())
    argv = ["a cat", "--preset", str(toml), "--device", "cpu", "--threads", "1", "--quiet", "--out", str(out)]
    for more, says in (([], "image: expected a picture to start from"), (["--image", str(tmp_path / "no.png")], "image: expected a readable picture, got .*no.png"),
                       (["--image", str(toml)], "another kind of file")):
        assert cli.main([*argv, *more]) == 2
        assert re.search(says, capsys.readouterr().err) and not out.exists()
    assert cli.main([*argv, "--image", str(tmp_path / "start.png")]) == 0
    assert len(json.loads(capsys.readouterr().out)["image_sha256"]) == 64 and out.exists()


def test_a_file_that_is_not_the_one_of_the_preset_is_refused_before_its_first_byte(published, hub):
    toml, folder = published
    toml.write_text(toml.read_text().replace("sha256 = {}", f'sha256 = {{"{REPO}/vae.pth" = "{"b" * 64}"}}'))
    done = command(hub, toml, folder, "--download", "--quiet")
    assert done.returncode == 2 and "expected SHA-256 bbbbbbbbbbbb..., found " in done.stderr and "update the app" in done.stderr
    assert {method for method, *_ in hub.asked} == {"HEAD"}


def test_the_app_lists_refuses_and_starts(published, hub, tmp_path):
    from websockets.sync.client import connect

    toml, folder = published
    flags = ["--preset", str(toml), "--weights", str(folder), "--port", "0", "--no-browser", "--data-dir", str(tmp_path / "data")]
    argv = [sys.executable, "app.py", *flags]
    refused = subprocess.run(argv, cwd=ROOT, env=environment(hub, tmp_path), capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and refused.stderr.startswith("app.py: ") and "--download" in refused.stderr
    assert "turbo network" in refused.stdout and "missing" in refused.stdout
    app = subprocess.Popen([*argv, "--download"], cwd=ROOT, env=environment(hub, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with app.stdout, app.stderr:
        url = next(line for line in app.stdout if line.startswith("Rushes is at")).split()[3]
        token = Path(app.stdout.readline().removeprefix("The token for code is in ").strip()).read_text()
        with connect(url.replace("http", "ws") + "rt/ws", additional_headers={"Authorization": f"Bearer {token}"}) as page:
            while '"ready"' not in (said := page.recv(timeout=120)):
                assert '"failed"' not in said, said
        app.send_signal(signal.SIGINT)
        assert app.wait(60) == 0, app.stderr.read()


# -- what is in a folder ---------------------------------------------------------------------------------------------

def test_parts_are_told_by_content_whatever_their_names(tmp_path):
    preset = load_preset(write_wan_preset(tmp_path, I2V))
    own, other = tmp_path / "tiny-wan2.1", tmp_path / "mine"
    shutil.copytree(own, other / "in" / "depth")
    place = other / "in" / "depth"
    for name in ("vae", "text", "tiny"):
        (place / f"{name}.safetensors").rename(place / f"{name[::-1]}-of-someone.safetensors")
    (place / "page.safetensors").write_bytes(b"<!DOCTYPE html>")
    (place / "lora.safetensors").write_bytes((own / "tokenizer.json").read_bytes())
    stock = take_stock(preset, other)
    assert stock.refusal == "" and len(stock.others) == 2 and any("a web page" in line for line in stock.others)
    assert set(stock.files.networks) == {"turbo high-noise", "turbo low-noise", "full high-noise", "full low-noise"}
    (place / "full-low.safetensors").unlink()
    assert set(take_stock(preset, other).files.networks) == {"turbo high-noise", "turbo low-noise"}
    (place / "turbo-high.safetensors").rename(place / "first.safetensors")
    stock = take_stock(preset, other)
    assert [part.name for part in stock.missing] == ["turbo high-noise network"]
    for index in range(9):
        (place / f"z{index}.safetensors").write_bytes(b"<!DOCTYPE html>")
    stock = take_stock(preset, other)
    assert "; and 9 more; put them there" in stock.refusal and len(stock.lines()) == 1 + len(stock.parts) + len(stock.others)
    assert "first.safetensors: " in stock.refusal and "put 'high' or 'low' into its name" in stock.refusal
    with pytest.raises(WeightsError, match="expected the turbo high-noise network of"):
        prepare(preset, other, show=lambda line: None)


def test_the_hubs_own_cache_is_looked_into_and_a_home_folder_is_not(tmp_path):
    preset = load_preset(write_wan_preset(tmp_path))
    own, cache = tmp_path / "tiny-wan2.1", tmp_path / "hub"
    snapshot = cache / "models--a--b" / "snapshots" / "0123"
    (cache / "models--a--b" / "blobs").mkdir(parents=True)
    for index, path in enumerate(own.iterdir()):
        place = snapshot / ("transformer" if path.stem == "turbo" else "")
        place.mkdir(parents=True, exist_ok=True)
        blob = shutil.copy(path, cache / "models--a--b" / "blobs" / f"{index:064}")
        (place / path.name).symlink_to(blob)
    assert take_stock(preset, cache).refusal == "" and why_not_ready(preset, cache) == ""
    for index in range(2001):
        (tmp_path / "home" / str(index)).mkdir(parents=True)
    with pytest.raises(WeightsError, match="home: expected a folder of weights, found one with more than 2,000 folders"):
        take_stock(preset, tmp_path / "home")
    assert "more than 2,000 folders" in why_not_ready(preset, tmp_path / "home")


def test_the_tokenizer_of_another_model_is_not_taken(tmp_path):
    preset = load_preset(write_wan_preset(tmp_path))
    folder, home = tmp_path / "tiny-wan2.1", tmp_path / "all"
    for place in ("a-model/tokenizer", "wan/text_encoder", "wan/tokenizer", "wan/x/google/umt5-xxl"):
        (home / place).mkdir(parents=True)
    shutil.copy(folder / "text.safetensors", home / "wan" / "text_encoder")
    for place in ("wan/x/google/umt5-xxl", "wan/tokenizer", "a-model/tokenizer"):
        shutil.copy(folder / "tokenizer.json", home / place)
    for place in ("wan/x/google/umt5-xxl", "wan/tokenizer", "a-model/tokenizer"):
        found, = [part.path for part in take_stock(preset, home).parts if part.name == "tokenizer.json"]
        assert found == home / place / "tokenizer.json"
        found.unlink()


def test_an_expert_is_no_model_of_one_network(tmp_path):
    """Wan2.2 T2V's experts have the very shapes of Wan2.1 T2V 14B."""
    preset = load_preset(write_wan_preset(tmp_path))
    folder = tmp_path / "tiny-wan2.1"
    (folder / "turbo.safetensors").rename(folder / "some-high-noise-turbo.safetensors")
    refusal = take_stock(preset, folder).refusal
    assert "expected the turbo network of tiny-wan2.1" in refusal and "by its name one of two experts, and tiny-wan2.1 has no experts" in refusal


def test_the_exact_file_is_taken_before_the_rounded_one(tmp_path):
    preset = load_preset(write_wan_preset(tmp_path))
    folder = tmp_path / "tiny-wan2.1"
    stored, _ = forms.quantised(load_file(folder / "turbo.safetensors"), preset.dit)
    forms.save(folder / "a-quant.safetensors", stored)
    assert take_stock(preset, folder).files.networks["turbo"].path.name == "turbo.safetensors"
    (folder / "turbo.safetensors").unlink()
    assert take_stock(preset, folder).files.networks["turbo"].quantised


def test_why_a_preset_is_not_ready_in_words_and_without_torch(tmp_path):
    toml = write_wan_preset(tmp_path)
    preset = load_preset(toml)
    assert why_not_ready(preset) == why_not_ready(preset, tmp_path / "tiny-wan2.1") == ""
    assert why_not_ready(load_preset("pocket")) == ""
    (tmp_path / "tiny-wan2.1" / "vae.safetensors").unlink()
    assert re.search(r"^Not in .*tiny-wan2.1: video autoencoder \(.*\)\. Start the app with --preset tiny-wan2.1 --download", why_not_ready(preset))
    for name in list_presets():
        if (wan := load_preset(name)).files is not None:
            assert "turbo" in why_not_ready(wan, tmp_path / "nowhere") and weights_folder(wan).name == "weights"
    script = "import sys, turbo_engine.parts as p; from turbo_engine.presets import load_preset\n" \
             f"print(p.why_not_ready(load_preset({str(toml)!r}))[:6], 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split() == ["Not", "in", "False"]
