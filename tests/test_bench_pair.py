"""The bench of two devices, whole, on a preset small enough for this machine."""
import json

from bench.bench_pair import main
from tiny_wan import write_wan_preset


def test_both_are_measured_alone_and_together(tmp_path, capsys):
    path, out = write_wan_preset(tmp_path), tmp_path / "pair.json"
    assert main(["--preset", str(path), "--devices", "cpu", "cpu", "--steps", "6", "--clips", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found == json.loads(capsys.readouterr().out.splitlines()[-1]) and found["ok"]
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["turbo alone", "turbo beside a render", "render alone", "render beside turbo"] and rows["turbo alone"]["clips"] == 2
    assert rows["turbo beside a render"]["clips"] > 0 and all(row["median_s"] > 0 for row in rows.values()) and found["turbo_slower"] > 0
