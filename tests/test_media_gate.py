"""Foreign files behind their wall: what is ours is read as ever; what is not can do nothing but be refused."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from turbo_engine import media_gate
from turbo_engine.errors import OutputError
from turbo_engine.export import ExportOptions, export, formats
from turbo_engine.media_gate import read_foreign_recipe
from turbo_engine.recipe_files import read_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE = {"schema": 1, "prompt": "a fox, café 🐧", "seed": 7}
MUTANTS = 500
pytestmark = pytest.mark.timeout(300)


def clip(name: str) -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), np.uint8)
    return export(frames, 16, RECIPE, ExportOptions(name))


@pytest.mark.parametrize("name", [kind.name for kind in formats()])
def test_every_format_of_ours_is_read_through_it(name):
    assert read_foreign_recipe(clip(name), "mine") == RECIPE


def test_what_is_refused_is_refused_in_the_same_words():
    for data in (b"", b"GIF89a", clip("png")[:40], b"\0" * 2_000_000):
        with pytest.raises(OutputError) as here:
            read_recipe(data, "it")
        with pytest.raises(OutputError) as there:
            read_foreign_recipe(data, "it")
        assert str(here.value) == str(there.value)


def scripts(target: Path) -> list[bytes]:
    """Files that make a demuxer chosen by guess read another file."""
    ftyp = clip("mp4")[:32]
    texts = [f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\nfile://{target}\n", f"#EXTM3U\n#EXTINF:1,\nconcat:file://{target}|file://{target}\n",
             f"#EXTM3U\n#EXTINF:1,\nsubfile,,start,0,end,99,,:{target}\n", f"ffconcat version 1.0\nfile '{target}'\n", f"ffconcat version 1.0\nfile file:{target}\noption safe 0\n",
             f"<?xml version='1.0'?><MPD><Period><BaseURL>file://{target}</BaseURL></Period></MPD>", f"v=0\nm=video 1 RTP/AVP 96\na=control:file://{target}\n", f"[playlist]\nFile1={target}\n"]
    return [text.encode() for text in texts] + [ftyp + text.encode() for text in texts] + [b"\x1a\x45\xdf\xa3" + text.encode() for text in texts]


def test_no_script_opens_another_file(tmp_path, capfd):
    """T14. None of the file's bytes come out, and the access time of the file does not move."""
    target = tmp_path / "secret.mp4"
    target.write_bytes(clip("mp4").replace(b"a fox", b"canary"[:5]))
    for script in scripts(target):
        with pytest.raises(OutputError) as refused:
            read_foreign_recipe(script, "holiday.mp4")
        assert "canar" not in str(refused.value)
    assert "canar" not in capfd.readouterr().err


def behind(wall: bool, code: str) -> str:
    """What code says, with or without the wall before it."""
    script = f"import os, socket, sys\nfrom turbo_engine import media_gate\n{'media_gate._wall_off(0)' if wall else ''}\n" \
             f"try:\n    {code}\nexcept BaseException as error:\n    print('refused', type(error).__name__)\nelse:\n    print('done')"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("code", ["open('/etc/hostname').read()", "socket.socket()", "bytearray(3 << 30)", "os.dup(0)", "os.pipe()", "os.memfd_create('x')"])
def test_the_wall_holds_and_without_it_all_of_that_is_done(code):
    assert behind(True, code).startswith("refused") and behind(False, code) == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() == 0, reason="root may start processes whatever the limit")
def test_no_process_is_started():
    assert behind(True, "os.fork() or os._exit(0)").startswith("refused") and behind(False, "os.fork() or os._exit(0)") == "done\n"


@pytest.mark.clock
@pytest.mark.parametrize("stand_in", ["#!/bin/sh\nsleep 60", "#!/bin/sh\nkill -SEGV $$", "#!/bin/sh\nexit 0", "#!/bin/sh\necho '[\"recipe\"]'", "#!/bin/sh\necho 7",
                                      "#!/bin/sh\nhead -c 5000000 /dev/zero", "#!/bin/sh\necho '[\"recipe\", {}]'; exit 1"])
def test_a_reader_that_hangs_dies_or_talks_nonsense_is_a_refusal(tmp_path, monkeypatch, stand_in):
    fake = tmp_path / "python"
    fake.write_text(stand_in)
    fake.chmod(0o755)
    monkeypatch.setattr(media_gate.sys, "executable", str(fake))
    monkeypatch.setattr(media_gate, "LIMIT_S", 1.0)
    start = time.monotonic()
    with pytest.raises(OutputError, match="cannot be read safely"):
        read_foreign_recipe(clip("gif"), "it")
    assert time.monotonic() - start < 5


MUTATE = """
import json, random, sys, time
import importlib, pkgutil, av
from turbo_engine import media_gate
from turbo_engine.errors import OutputError
from turbo_engine.recipe_files import read_recipe
for module in pkgutil.walk_packages(av.__path__, "av."):
    if not module.name.endswith(("__main__", "datasets")):
        importlib.import_module(module.name)
samples = [open(path, "rb").read() for path in sys.argv[3:]]
media_gate.CPU_S = 3600
media_gate._wall_off(0)
chance, read, slowest = random.Random(int(sys.argv[1])), 0, 0.0
for number in range(int(sys.argv[2])):
    data = bytearray(chance.choice(samples))
    how = number % 5
    if how == 0:
        del data[chance.randrange(len(data)):]
    elif how == 1:
        at = chance.randrange(len(data)); del data[at:at + chance.randrange(1, 200)]
    elif how == 2:
        at = chance.randrange(len(data) - 4); data[at:at + 4] = chance.choice((0, 1, 2**31 - 1, 2**32 - 1)).to_bytes(4, "big")
    elif how == 3:
        a, b = sorted(chance.randrange(len(data)) for _ in range(2)); data[a:a] = data[a:b][:500]
    else:
        for _ in range(chance.randrange(1, 20)):
            data[chance.randrange(min(len(data), 2000))] ^= 1 << chance.randrange(8)
    start = time.perf_counter()
    try:
        read_recipe(bytes(data), "it")
        read += 1
    except OutputError as error:
        assert "\\n" not in str(error)
    slowest = max(slowest, time.perf_counter() - start)
print(json.dumps([read, slowest]))
"""


def mutate(folder: Path, seed: int, count: int) -> tuple[int, float]:
    """count mutants of every format, in one process behind the wall: (read all the same, slowest in seconds)."""
    paths = []
    for kind in formats():
        paths.append(folder / kind.name)
        paths[-1].write_bytes(clip(kind.name))
    done = subprocess.run([sys.executable, "-c", MUTATE, str(seed), str(count), *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_mutants(tmp_path):
    """T14. Any other exception than a refusal, a crash or more than 2 s for one fails it."""
    read, slowest = mutate(tmp_path, 14, MUTANTS)
    assert 0 < read < MUTANTS and slowest < 2
