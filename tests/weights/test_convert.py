"""The one opener of pickles: what it writes, what it refuses, and that nothing hidden in a file ever runs."""
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from forms import DIT, TINY, random_dit, save, tiny_decoder, turbo

from turbo_engine.errors import WeightsError
from turbo_engine.weights import convert, identify, open_checkpoint
from turbo_engine.weights.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A high-noise expert by its name, nested and prefixed as training code saves it."""
    folder = tmp_path_factory.mktemp("converted")
    state = turbo(random_dit())
    path = folder / "TurboWan2.2-I2V-A14B-high-720P.pth"
    torch.save({"state_dict": {f"net.{key}": tensor for key, tensor in state.items()}}, path)
    seen = []
    return path, convert(path, progress=lambda done, total: seen.append((done, total))), state, seen


def test_the_same_tensors_beside_it(converted):
    path, out, state, seen = converted
    assert out == path.with_suffix(".safetensors") and sorted(p.name for p in path.parent.iterdir()) == sorted((path.name, out.name))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == sum(t.numel() * t.element_size() for t in state.values())
    assert identify(out).expert == "high-noise"
    with open_checkpoint(out, DIT, kind="turbo") as checkpoint:
        assert checkpoint.verify()                                              # by the digest that convert put inside
        found = dict(checkpoint.tensors())
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_damage_after_converting_is_found(tmp_path, converted):
    data = bytearray(converted[1].read_bytes())
    data[-7] ^= 2
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with open_checkpoint(path, DIT) as checkpoint, pytest.raises(WeightsError, match="damaged or replaced"):
        checkpoint.verify()
    assert main(["inspect", str(path), "--verify"]) == 0


def test_reader_names_the_command(converted, capsys):
    path = converted[0]
    with pytest.raises(WeightsError, match="convert it once with: (.*)") as caught:
        open_checkpoint(path, DIT)
    command = re.search("with: python -m turbo_engine.weights (.*)", str(caught.value))[1].split()
    assert command == ["convert", str(path)]


def test_command_line(tmp_path, capsys):
    path = tmp_path / "taew2_1.pth"
    torch.save(tiny_decoder(), path)
    out = tmp_path / "other.safetensors"
    assert main(["convert", str(path), "--out", str(out)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["written"] == str(out) and line["role"] == "tiny_decoder" and line["tensors"] == 128
    assert main(["convert", str(tmp_path / "absent.pth")]) == 2
    assert "expected a weights file, found none" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(item["path"]).name for item in line["found"]] == ["other.safetensors"] and line["found"][0]["complete"] is None
    assert "convert it once" in line["refused"][0]["error"]
    assert main(["inspect", str(path)]) == 2 and main(["inspect"]) == 2 and main(["nonsense"]) == 2


def test_inspect_knows_the_apps_own(capsys):
    assert main(["inspect", str(ROOT / "presets" / "pocket" / "decoder.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["own"][0]["role"] == "decoder"


# -- refused before a child is started ---------------------------------------------------------------------------------

def squeeze(path, bad, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bad, "w", method) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


@pytest.mark.parametrize("spoil, match", [
    (lambda path, bad: bad.write_bytes(path.read_bytes()[:-200]), "a broken one"),
    (lambda path, bad: bad.write_bytes(b""), "an empty file"),
    (lambda path, bad: bad.write_bytes(b"<html>"), "a web page"),
    (lambda path, bad: bad.write_bytes(b"version https://git-lfs.github.com"), "a git-lfs pointer"),
    (lambda path, bad: bad.write_bytes(pickle.dumps({"a": 1})), "an old pickle without the zip"),
    (lambda path, bad: torch.save(tiny_decoder(), bad, _use_new_zipfile_serialization=False), "an old pickle without the zip"),
    (lambda path, bad: squeeze(path, bad), "the compressed entry"),
    (lambda path, bad: zipfile.ZipFile(bad, "w").writestr("x/readme", "x"), "0 lists of tensors"),
    (lambda path, bad: bad.mkdir(), "found a folder"),
])
def test_files_that_are_not_opened(tmp_path, converted, spoil, match):
    bad = tmp_path / "bad.pth"
    spoil(converted[0], bad)
    with pytest.raises(WeightsError, match=match) as caught:
        convert(bad)
    assert "bad.pth" in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_output_must_be_sound(tmp_path, converted):
    path = converted[0]
    with pytest.raises(WeightsError, match="an output named .safetensors"):
        convert(path, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="expected a folder"):
        convert(path, tmp_path / "none" / "x.safetensors")


# -- sentinels ---------------------------------------------------------------------------------------------------------

class Call:
    """Pickles as a call of `function`, made by whoever opens it carelessly."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def zip_of(path, value):
    torch.save(value, path)
    return path


def renamed(path, name):
    return path.rename(path.with_name(name))


def sentinels(folder, mark):
    """12 files, each of which touches `mark` if anything in it is run."""
    import importlib
    import shutil

    touch, state = f"__import__('pathlib').Path({str(mark)!r}).touch()", tiny_decoder()
    script = folder / "script.py"
    script.write_text(touch)
    calls = {"system": Call(os.system, f"touch {mark}"), "eval": Call(eval, touch), "exec": Call(exec, touch), "open": Call(open, str(mark), "w"),
             "popen": Call(subprocess.Popen, ["touch", str(mark)]), "touch": Call(Path.touch, mark), "copy": Call(shutil.copy, script, mark),
             "run": Call(importlib.import_module("runpy").run_path, str(script))}
    made = {name: zip_of(folder / f"{name}.pth", {"weight": call}) for name, call in calls.items()}
    made["hidden"] = zip_of(folder / "hidden.pth", {**state, "encoder.0.bias": calls["system"]})
    made["pt2"] = zip_of(folder / "model.pt2", calls["system"])
    made["plain"] = folder / "plain.pth"
    made["plain"].write_bytes(pickle.dumps(calls["system"], protocol=2))
    made["renamed"] = renamed(zip_of(folder / "renamed.pth", calls["eval"]), "renamed.safetensors")
    return made, calls


CAREFUL = """
import os, sys
from turbo_engine.weights import unpickle
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            unpickle.unpickle(unpickle.Path(name), unpickle.Path(name + ".part"))
            code = 0
        except BaseException as error:
            print(name.rpartition("/")[2], type(error).__name__, error, sep="|", flush=True)
            code = 1
        os._exit(code)
    assert os.waitpid(child, 0)[1] != 0, name
"""


def test_sentinels_never_fire(tmp_path):
    """Opened by the reader, by `convert`, and straight in the child's own function: 12 files, 0 fired."""
    mark = tmp_path / "fired"
    made, calls = sentinels(tmp_path, mark)
    assert len(made) == 12
    for name in ("system", "eval", "touch", "copy", "run"):            # the negative control: they do fire elsewhere
        pickle.loads(pickle.dumps(calls[name]))
        assert mark.exists(), name
        mark.unlink()
    for path in made.values():
        with pytest.raises(WeightsError, match="a pickled checkpoint"):
            identify(path)
    for name in ("plain", "hidden", "pt2"):
        with pytest.raises(WeightsError):
            convert(made[name], tmp_path / "out.safetensors")
    done = subprocess.run([sys.executable, "-c", CAREFUL, *map(str, made.values())], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line.split("|") for line in done.stdout.splitlines()]
    assert len(said) == 12 and {kind for _, kind, _ in said} == {"WeightsError"}, said
    assert all("found what weights_only refuses" in text for _, _, text in said)
    assert not mark.exists() and not (tmp_path / "out.safetensors").exists()


WALL = """
import os, subprocess, socket, sys
from turbo_engine.weights import unpickle
unpickle._limit(1 << 20)
open(os.devnull).close()
for attempt in (lambda: open(sys.argv[1], "w"), lambda: os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), lambda: os.system("true"),
                lambda: subprocess.Popen(["true"]), lambda: socket.socket().connect(("127.0.0.1", 9)), lambda: os.remove("x"),
                lambda: os.mkdir(sys.argv[1]), lambda: os.rename("x", "y"), lambda: bytearray(8 << 30)):
    try:
        attempt()
    except (PermissionError, MemoryError) as error:
        print(type(error).__name__)
"""


def test_the_wall_behind_weights_only(tmp_path):
    """Should torch's check fail: no writing, no programs, no network, no 8 GiB."""
    done = subprocess.run([sys.executable, "-c", WALL, str(tmp_path / "x")], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["PermissionError"] * 8 + ["MemoryError"], done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


FOREIGN = [({"weight": torch.zeros(2)}, "a checkpoint of the Wan family, found 1 tensors"), ({"model": {"a": 1}}, "a plain tensor, found int"),
           ({}, "an empty one"), (torch.zeros(3), "a table of tensors, found Tensor"), ({3: torch.zeros(1)}, "'3': expected a plain tensor"),
           ({"a": torch.zeros(1).expand(1 << 30)}, "found more"), ({"optimizer": {"x": torch.zeros(1)}}, "'optimizer': expected a plain tensor"),
           ({"a": torch.eye(3).to_sparse()}, "expected a plain tensor|weights_only refuses")]


def test_tensors_that_are_not_ours(tmp_path):
    names = [zip_of(tmp_path / f"{n}.pth", value) for n, (value, _) in enumerate(FOREIGN)]
    done = subprocess.run([sys.executable, "-c", CAREFUL, *map(str, names)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = dict(line.split("|", 1) for line in done.stdout.splitlines())
    for n, (_, match) in enumerate(FOREIGN):
        assert re.search(match, said[f"{n}.pth"]), (match, said[f"{n}.pth"])


def test_a_killed_conversion_leaves_nothing_that_counts(tmp_path):
    """The part file of a dead process is swept by the next conversion; the old file stays until the new one is whole."""
    path, out = tmp_path / "taew2_1.pth", save(tmp_path / "taew2_1.safetensors", {"old": torch.zeros(1)})
    torch.save(tiny_decoder(), path)
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = tmp_path / f".{out.name}.{dead.pid}.part"
    stale.write_bytes(b"half")
    before = out.read_bytes()

    def stop(done, total):
        assert out.read_bytes() == before
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        convert(path, progress=stop)
    assert out.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["taew2_1.pth", "taew2_1.safetensors"]
    with open_checkpoint(convert(path), TINY) as checkpoint:
        assert checkpoint.verify()
