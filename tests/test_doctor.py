"""The doctor finds what is amiss, each of it on its own, and tells no names."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import POCKET_SHIPPED
from turbo_engine import doctor
from turbo_engine.doctor import BAD, FLOORS, GOOD, NOTE, Finding, examine, outdated, report
from turbo_engine.store import Store

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(180)


def run(*flags: str, **environ) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "app.py", "--doctor", *flags], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environ})
    assert done.stderr == ""
    return done.returncode, done.stdout


def look(name: str, *args) -> list[Finding]:
    return list(getattr(doctor, name)(*args))


@pytest.mark.skipif(not POCKET_SHIPPED, reason="the shipped weights are not in this checkout")
def test_a_sound_machine_passes_and_its_report_names_nobody(tmp_path):
    home = tmp_path / "someone"
    home.mkdir()
    code, text = run("--data-dir", str(home / "data"), HOME=str(home))
    assert code == 0 and text.endswith("Nothing stands in the way.\n")
    for what in ("Python 3", "torch", "gradio", "SQLite", "cores of", "kernels", "FFmpeg", "mp4", "pocket: all parts are there", "GiB free in ~/data", "is free"):
        assert what in text, what
    assert str(home) not in text and not (home / "data").exists()           # it looks and leaves nothing
    assert all(re.match(r"(ok|note|BAD ) ", line) for line in text.splitlines()[:-2])


def test_what_is_amiss_is_exit_code_1_with_the_way_out(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, text = run("--data-dir", str(tmp_path), "--preset", "nonsense", "--port", str(other.getsockname()[1]))
    bad = [line for line in text.splitlines() if line.startswith("BAD")]
    assert code == 1 and len(bad) == 2 and "nonsense" in bad[0] and "choose another with --port" in bad[1]
    assert "2 things above must be mended" in text


@pytest.mark.parametrize("name", FLOORS)
def test_an_older_package_is_told_at_the_start_and_here(name, monkeypatch):
    """T18. One by one."""
    assert outdated() == []
    real = doctor._version
    for older in ("0.0.1", None):
        monkeypatch.setattr(doctor, "_version", lambda asked: older if asked == name else real(asked))
        line, = outdated()
        assert line.startswith(f"{name}: expected {FLOORS[name]} or later, found {older or 'none'}")
        assert [finding.what for finding in look("_versions") if finding.state == BAD] == ["packages"]


def test_a_torch_that_crashes_or_hangs_costs_its_own_look(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding, = look("_torch")
    assert finding.state == BAD and "exit code -6" in finding.line
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    finding, = look("_torch")
    assert finding.state == BAD and "libcudart" in finding.line and "pip install" in finding.line
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "LOOK_S", 1)
    assert "said nothing" in look("_torch")[0].line


def test_a_look_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_machine", lambda: 1 / 0)
    monkeypatch.setattr(doctor, "_torch", lambda: [])
    found = list(examine("pocket", None, tmp_path, lambda: 7860))
    assert [finding.what for finding in found if finding.state == BAD and "ZeroDivisionError" in finding.line] == ["machine"]
    assert found[-1] == Finding(GOOD, "port", "7860 is free")


def test_encoders_disk_and_history(monkeypatch, tmp_path):
    assert look("_encoders")[0].state == GOOD
    monkeypatch.setattr("turbo_engine.export._encoder_of", lambda kind: None)
    assert look("_encoders")[0].state == BAD
    assert look("_disk", tmp_path / "not" / "there")[0].state == GOOD
    monkeypatch.setattr(doctor, "ROOM", 1 << 60)
    assert look("_disk", tmp_path)[0].state == BAD and "--data-dir" in look("_disk", tmp_path)[0].line
    assert look("_history", tmp_path) == []
    with Store(tmp_path):
        assert look("_history", tmp_path)[0].state in (GOOD, NOTE)          # it may be looked at while it is in use
    assert look("_history", tmp_path) == [Finding(GOOD, "history", "0 clips listed")]
    (tmp_path / "history.sqlite3").write_bytes(b"x" * 5000)
    assert look("_history", tmp_path)[0].state == NOTE and "anew" in look("_history", tmp_path)[0].line


def test_weights_that_are_missing_or_pointers(tmp_path):
    from tests.conftest import write_preset
    path = write_preset(tmp_path)
    assert look("_weights", str(path), None)[0].state == GOOD
    (tmp_path / "tiny" / "student.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert look("_weights", str(path), None)[0].state == BAD and "git lfs pull" in look("_weights", str(path), None)[0].line
    (tmp_path / "tiny" / "student.safetensors").unlink()
    assert look("_weights", str(path), None)[0].state == BAD and "restore it" in look("_weights", str(path), None)[0].line


def test_the_report():
    lines = []
    assert report(iter([Finding(GOOD, "a", "b"), Finding(NOTE, "c", "d")]), lines.append) == 0 and len(lines) == 3
    assert report(iter([Finding(BAD, "a", "b")]), lines.append) == 1 and "1 thing above" in lines[-1]
