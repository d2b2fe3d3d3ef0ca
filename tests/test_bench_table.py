"""bench.table runs its rows as processes of their own, marks them as one call, and says which failed."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import machine, table

ROOT = Path(__file__).resolve().parents[1]
CHILD = "import json, sys, time; from bench.machine import facts; json.dump(facts(), open(sys.argv[sys.argv.index('--out') + 1], 'w')); "


def test_rows_name_benches_and_options_that_exist():
    for name, row in table.ROWS.items():
        module, *options = row.split()
        said = (ROOT / "bench" / f"{module}.py").read_text()
        assert all(f'"{option}"' in said for option in options if option.startswith("--")), row
        for preset in re.findall(r"--preset (\S+)", row):
            assert (ROOT / "presets" / f"{preset}.toml").exists()
        assert re.fullmatch(r"[\w.-]+", name)


def test_a_call_goes_on_past_a_row_that_fails_and_ends_in_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    for name, end in (("good", ""), ("bad", "sys.exit(3)"), ("slow", "time.sleep(60)")):
        (tmp_path / f"{name}.py").write_text(CHILD + end)
    run = subprocess.run

    def child(command, **options):
        return run([sys.executable, str(tmp_path / f"{command[2].removeprefix('bench.')}.py"), *command[3:]], **options)

    monkeypatch.setattr(subprocess, "run", child)
    monkeypatch.setattr(table, "ROWS", {"a": "good --x", "b": "bad", "c": "good", "d": "slow"})
    monkeypatch.setattr(sys, "argv", ["table", "--out", str(tmp_path / "out"), "--limit", "8"])
    assert table.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "failed: b, d (out of time)"
    monkeypatch.setattr(sys, "argv", ["table", "--out", str(tmp_path / "more"), "--only", "a", "--call", "the one before"])
    assert table.main() == 0 and json.loads((tmp_path / "more" / "a.json").read_text())["call"] == "the one before"
    monkeypatch.setattr(subprocess, "run", run)
    calls = {json.loads((tmp_path / "out" / f"{name}.json").read_text())["call"] for name in "abc"}
    assert len(calls) == 1 and "BENCH_CALL" not in os.environ and "call" not in machine.facts()


def test_a_choice_of_no_row_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table", "--out", str(tmp_path), "--only", "no such row"])
    with pytest.raises(SystemExit):
        table.main()
    assert "expected an expression that matches one of engine-1.3b-480p-33f" in capsys.readouterr().err
