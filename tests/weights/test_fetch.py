"""Downloads against a server on loopback that speaks the hub's protocol: whole, broken, killed and resumed, damaged."""
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forms import TINY, save, tiny_decoder
from hub import REPO

from turbo_engine.weights import HubFile, open_checkpoint

ROOT = Path(__file__).resolve().parents[2]
@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("hub") / "taew2_1.safetensors", {key: tensor.half() for key, tensor in tiny_decoder().items()}).read_bytes()


def start(hub, folder, *names):
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HUB_DOWNLOAD_TIMEOUT": "30",
                   "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(folder.parent / "home"), "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.Popen([sys.executable, "-m", "turbo_engine.weights", "fetch", REPO, *names, "--to", str(folder)], cwd=ROOT,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fetched(hub, folder, *names):
    with start(hub, folder, *names) as client:
        out, err = client.communicate(timeout=120)
    return client.returncode, out, err


def test_broken_transfer_is_resumed_and_the_pickle_converted(tmp_path, hub):
    """The first file loses its connection midway and goes on from there. The .pth comes out as safetensors."""
    path, large = tmp_path / "source.pth", os.urandom(24 << 20)
    torch.save(tiny_decoder(), path)
    hub.files = {"large.safetensors": large, "sub/taew2_1.pth": path.read_bytes()}
    hub.break_at = 15 << 20
    code, out, err = fetched(hub, tmp_path / "to", "large.safetensors", "sub/taew2_1.pth")
    assert code == 0, err
    made = json.loads(out.splitlines()[-1])["fetched"]
    assert made == [str(tmp_path / "to" / "large.safetensors"), str(tmp_path / "to" / "sub" / "taew2_1.safetensors")]
    assert Path(made[0]).read_bytes() == large
    with open_checkpoint(made[1], TINY) as checkpoint:
        assert checkpoint.verify()
    assert err.index(f"{REPO}/large.safetensors: 0.03 GB") < err.index("sub/taew2_1.pth: 0.00 GB")
    assert [method for method, *_ in hub.asked[:2]] == ["HEAD", "HEAD"]                 # all sizes before the first byte
    ranges = [wanted for method, name, wanted in hub.asked if (method, name) == ("GET", "large.safetensors")]
    assert ranges == [None, f"bytes={10 << 20}-"]              # the hub's client hands on pieces of 10 MiB

    before = len(hub.asked)
    code, out, err = fetched(hub, tmp_path / "to", "large.safetensors", "sub/taew2_1.pth")
    assert code == 0 and {method for method, *_ in hub.asked[before:]} == {"HEAD"}      # nothing is fetched twice
    assert "here already" in err and sorted(p.name for p in (tmp_path / "to").iterdir()) == ["large.safetensors", "sub"]


def test_killed_download_goes_on_where_it_was(tmp_path, hub):
    data = os.urandom(30 << 20)                                # the hub's client writes in pieces of 10 MiB
    hub.files = {"model.safetensors": data}
    hub.stall_at = 25 << 20
    folder = tmp_path / "to"
    with start(hub, folder, "model.safetensors") as client:
        deadline = time.monotonic() + 60
        while not sum(p.stat().st_size for p in folder.glob(".*.part")) and time.monotonic() < deadline:
            time.sleep(0.05)
        client.kill()
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] == []       # nothing looks finished
    here = sum(p.stat().st_size for p in folder.glob(".*.part"))
    assert 0 < here < len(data)
    hub.stall_at = None
    code, _, err = fetched(hub, folder, "model.safetensors")
    assert code == 0, err
    assert hub.asked[-1] == ("GET", "model.safetensors", f"bytes={here}-")
    assert (folder / "model.safetensors").read_bytes() == data and len(list(folder.iterdir())) == 1


def test_what_goes_wrong_is_said(tmp_path, hub, weights):
    """Damage on the way, a full disk, a file that is not there or closed: one line each, and no file that looks whole."""
    script = f"""
import shutil
from turbo_engine.errors import WeightsError
from turbo_engine.weights import HubFile, fetch
folder = {str(tmp_path / 'to')!r}
def attempt(file, sha256=""):
    try:
        print("made", fetch([HubFile({REPO!r}, file, sha256)], folder))
    except WeightsError as error:
        print(error)
attempt("damaged.safetensors")
attempt("small.json")
attempt("sound.safetensors", "f" * 64)
attempt("absent.safetensors")
attempt("closed.safetensors")
attempt("broken.safetensors")
attempt("nameless.safetensors")
usage = shutil.disk_usage
shutil.disk_usage = lambda path: usage(path)._replace(free=1000)
attempt("sound.safetensors")
shutil.disk_usage = usage
attempt("sound.safetensors", {hashlib.sha256(weights).hexdigest()!r})
"""
    small = b'{"a": 1}'
    hub.files = {name: weights for name in ("damaged.safetensors", "sound.safetensors", "nameless.safetensors")} | {"small.json": small}
    hub.digests = {"damaged.safetensors": "a" * 64, "small.json": hashlib.sha1(b"blob 8\0" + small).hexdigest(), "nameless.safetensors": "W/x"}
    hub.refuse = {"closed.safetensors": (403, "GatedRepo"), "broken.safetensors": (500, "")}
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 9, done.stdout + done.stderr
    for line, match in zip(lines, (
            "digest aaaaaaaaaaaa..., found .* it was removed, run it again", "made .*small.json", "expected SHA-256 ffffffffffff..., .*update the app",
            "expected this file on the hub, found none", "asks for consent", "expected an answer from http://127.0.0.1:.* it resumes",
            "expected a size and a digest", "GB free for 1 files, found 0.00 GB", "made .*sound.safetensors")):
        assert re.search(match, line), (match, line)
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == ["small.json", "sound.safetensors"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../b", "a\\b", ""])
def test_names_stay_inside_the_folder(name):
    with pytest.raises(ValueError, match="expected a path inside the repository"):
        HubFile(REPO, name)
