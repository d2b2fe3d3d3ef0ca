"""The command line: a clip and one JSON line, or one line of error, exit code 2 and no file."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from turbo_engine import __main__ as cli
from turbo_engine import engine as engine_module
from turbo_engine.recipe_files import read_recipe


@pytest.fixture
def in_process(monkeypatch, engine):
    """The command with the session's engine, so that each test does not load anew."""
    monkeypatch.setattr(engine_module, "Engine", lambda *args, **options: engine)
    monkeypatch.setattr(engine, "load", lambda: engine)


def command(preset, *arguments) -> list[str]:
    return [*map(str, arguments), "--preset", str(preset)]


def refused(capsys, argv, match: str) -> None:
    assert cli.main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and re.search(match, err), err


@pytest.mark.parametrize("mode, nfe", [("turbo", 4), ("full", 12)])
def test_makes_a_clip(tmp_path, capsys, in_process, tiny_preset_path, mode, nfe):
    out = tmp_path / "clip.mp4"
    assert cli.main(command(tiny_preset_path, "a penguin and a wug", "--seed", 7, "--mode", mode, "--out", out)) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.count("\n") == 1
    line = json.loads(stdout)
    assert line["out"] == str(out) and line["nfe"] == nfe and line["seed"] == 7 and line["mode"] == mode
    assert set(line["stage_s"]) == {"text", "denoise", "decode", "total", "encode"}
    assert line["notes"] == ['Not taught, may be ignored: "wug".'] and line["notes"][0] in stderr
    steps = 4 if mode == "turbo" else 6
    assert f"step {steps}/{steps}" in stderr and "decoding" in stderr
    recipe = read_recipe(out)
    assert {k: line[k] for k in recipe} == recipe


def test_every_flag_arrives(tmp_path, capsys, in_process, tiny_preset_path):
    argv = command(tiny_preset_path, "a cat", "--steps", 2, "--sampler", "sde", "--frames", 17, "--size", "96x64", "--quiet",
                   "--out", tmp_path / "clip.mp4")
    assert cli.main(argv) == 0
    stdout, stderr = capsys.readouterr()
    line = json.loads(stdout)
    assert stderr == ""
    assert (line["num_steps"], line["sampler"], line["num_frames"], line["width"], line["height"]) == (2, "sde", 17, 96, 64)
    argv = command(tiny_preset_path, "a cat", "--mode", "full", "--guidance", 2, "--negative", "fog", "--steps", 1, "--quiet",
                   "--out", tmp_path / "clip.mp4")
    assert cli.main(argv) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["guidance_scale"], line["negative_prompt"], line["nfe"]) == (2.0, "fog", 2)


@pytest.mark.parametrize("arguments, match", [
    ([""], "prompt: expected a few words, got none; try"),
    (["   "], "prompt: expected a few words"),
    (["x" * 10_000], "prompt: expected at most 2,000 characters, got 10,000; shorten it"),
    ([os.fsdecode(b"caf\xe9")], "prompt: expected readable text, got a broken character"),
    (["a cat", "--size", "100x100"], "size: expected one of 64x64, 96x64, got 100x100; try 64x64"),
    (["a cat", "--size", "big"], "size: expected WIDTHxHEIGHT, got 'big'"),
    (["a cat", "--size", "-64x64"], "size: expected WIDTHxHEIGHT|expected one argument"),
    (["a cat", "--frames", "10"], r"num_frames: expected 4k \+ 1, got 10; try 9 or 13"),
    (["a cat", "--frames", "4001"], "num_frames: expected a whole number from 1 to 17"),
    (["a cat", "--steps", "9"], "num_steps: expected a whole number from 1 to 4 in turbo mode"),
    (["a cat", "--sampler", "unipc"], "sampler: expected one of sde, fixed-noise, ode in turbo mode"),
    (["a cat", "--sampler", "euler"], "invalid choice: 'euler'.*--help"),
    (["a cat", "--seed", "-1"], "seed: expected"),
    (["a cat", "--seed", "9" * 30], "seed: expected"),
    (["a cat", "--seed", "x"], "invalid int value: 'x'.*--help"),
    (["a cat", "--mode", "fast"], "invalid choice: 'fast'"),
    (["a cat", "--nonsense"], "unrecognized arguments: --nonsense"),
    (["a cat", "--threads", "0"], "threads: expected 1 or more, got 0"),
    (["a cat", "--device", "tpu"], "device: expected .*; try"),
    ([], "arguments are required: prompt"),
])
def test_one_line_errors(tmp_path, capsys, tiny_preset_path, monkeypatch, arguments, match):
    monkeypatch.chdir(tmp_path)
    refused(capsys, [*arguments, "--preset", tiny_preset_path, "--quiet"], match)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_place(tmp_path, capsys, tiny_preset_path):
    """Found before anything is loaded: no engine is made here."""
    for out, match in ((tmp_path / "no" / "clip.mp4", "expected an existing folder"), (tmp_path / "clip.gif", "ending in .mp4"),
                       (tmp_path, "ending in .mp4|a folder has that name")):
        refused(capsys, command(tiny_preset_path, "a cat", "--out", out), match)
    refused(capsys, ["a cat", "--preset", "pockett", "--out", tmp_path / "clip.mp4"], "preset: expected one of .*pocket")
    assert list(tmp_path.iterdir()) == []


def test_missing_weights(tmp_path, capsys, tiny_preset_path):
    alone = tmp_path / "alone.toml"
    alone.write_text(tiny_preset_path.read_text())
    refused(capsys, command(alone, "a cat", "--quiet", "--out", tmp_path / "clip.mp4"),
            "alone/student.safetensors: expected a weights file, found none; restore it")
    assert list(tmp_path.iterdir()) == [alone]


def test_an_older_clip_outlives_a_failure(tmp_path, capsys, in_process, tiny_preset_path, monkeypatch):
    out = tmp_path / "clip.mp4"
    assert cli.main(command(tiny_preset_path, "a cat", "--quiet", "--out", out)) == 0
    before = out.read_bytes()
    capsys.readouterr()

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    refused(capsys, command(tiny_preset_path, "a dog", "--quiet", "--out", out),
            "expected room on the disk for [0-9,]+ bytes, found: no space left on device; free some space")
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_as_a_process_and_in_this_one_the_same_bytes(tmp_path, capsys, in_process, tiny_preset_path):
    """As a user types it, and again in another process: one file, byte for byte; stdout holds nothing but the line."""
    def argv(name):
        return command(tiny_preset_path, "a penguin", "--seed", 3, "--threads", 2, "--quiet", "--out", tmp_path / name)
    done = subprocess.run([sys.executable, "-m", "turbo_engine", *argv("a.mp4")], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert cli.main(argv("b.mp4")) == 0
    lines = [json.loads(text) for text in (done.stdout, capsys.readouterr().out)]
    one, two = ({k: v for k, v in line.items() if k not in ("out", "stage_s")} for line in lines)
    assert one == two
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.clock
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_interrupted(tmp_path, tiny_preset_path):
    """Ctrl-C in the middle of a long render: exit code 130, one line, no file."""
    path = tmp_path / "long.toml"
    path.write_text(tiny_preset_path.read_text().replace("max_steps = 60", "max_steps = 1000"))
    os.symlink(tiny_preset_path.with_suffix(""), tmp_path / "long")
    process = subprocess.Popen([sys.executable, "-m", "turbo_engine", "a penguin", "--preset", str(path), "--mode", "full",
                                "--steps", "1000", "--out", str(tmp_path / "clip.mp4")],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))     # ignored where the tests run behind "&"
    for line in process.stderr:
        if "step 2/" in line:
            process.send_signal(signal.SIGINT)
            break
    sent = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == "" and time.monotonic() - sent < 10
    assert err.rstrip().endswith("stopped") and "Traceback" not in err and "1000/1000" not in err
    assert not list(tmp_path.glob("*.mp4*")) and not list(tmp_path.glob(".*"))
