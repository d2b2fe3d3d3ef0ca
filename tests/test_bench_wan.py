"""The Wan bench on numbers small enough for every commit: it runs the whole engine, and its last line says what happened."""
import json

import pytest
import torch
from tiny_wan import I2V, T2V, TEMPLATE

from bench.bench_wan import main


@pytest.fixture(autouse=True)
def same_threads():
    """An engine sets them for the whole process, and the numbers of later tests are those of its threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_plan(tmp_path, capsys):
    path, out = tmp_path / "tiny.toml", tmp_path / "plans.json"
    path.write_text(TEMPLATE.format(channels=T2V, mean=[0.0] * 16, std=[1.0] * 16, turbo='["a/b/c"]', full='["a/b/c"]', experts=""))
    assert main(["--preset", str(path), "--device", "cpu", "--frames", "5", "--out", str(out), "--plans", "8", "12", "--repeat", "1"]) == 0
    result = json.loads(out.read_text())
    assert [row["vram"] for row in result["rows"]] == [8, 12] and all(row["ran"] and row["peak_gib"] > 0 for row in result["rows"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


@pytest.mark.parametrize("channels, flags", [(T2V, ["--mode", "turbo", "full", "--quant"]), (I2V, ["--mode", "turbo"])])
def test_bench_wan(tmp_path, capsys, channels, flags):
    path = tmp_path / "tiny.toml"
    two = channels == I2V
    names = '["a/b/h", "a/b/l"]' if two else '["a/b/c"]'
    path.write_text(TEMPLATE.format(channels=channels, mean=[0.0] * 16, std=[1.0] * 16, turbo=names, full=names,
                                    experts="[experts]\nboundary = 0.9\n" if two else ""))
    out = tmp_path / "result.json"
    code = main(["--preset", str(path), "--device", "cpu", "--frames", "5", "--size", "96x64", "--repeat", "1", "--out", str(out), *flags])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0 and result["ok"] and json.loads(out.read_text()) == result
    assert [(row["mode"], row["prompt"]) for row in result["rows"]][:2] == [("turbo", "new"), ("turbo", "seen")]
    for row in result["rows"]:
        assert row["nfe"] == (4 if row["mode"] == "turbo" else 12) and row["size"] == "96x64" and row["peak_gib"] > 0
        assert row["denoise_s"] > 0 and row["decode_s"] > 0 and (row["mode"] == "full" or row["full_decode_s"] > 0)
    assert len(result["rows"]) == 2 * len([flag for flag in flags if flag in ("turbo", "full")])
